//! A raw socket beside the nodes, from where the first one lives to where the second does.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::Result;

use super::delays::{Samples, Shared};
use super::link::Link;

const PACE: Duration = Duration::from_millis(20);
/// About what a batch of a hundred heartbeats takes.
const BYTES: usize = 400;

/// Dropped, it ends.
pub(crate) struct Probe {
    stops: Arc<AtomicBool>,
    samples: Shared,
}

impl Probe {
    pub(crate) fn start(link: &Link) -> Result<Self> {
        let (stops, samples) = (Arc::<AtomicBool>::default(), Shared::default());
        let epoch = Instant::now();
        let listener =
            link.at(2, || Ok(TcpListener::bind(SocketAddr::new(link.address(2), 0))?))?;
        let address = listener.local_addr()?;
        let mut out = link.at(1, || Ok(TcpStream::connect(address)?))?;
        out.set_nodelay(true)?;
        let (mut heard, _) = listener.accept()?;
        let mine = samples.clone();
        std::thread::spawn(move || {
            let mut message = [0; BYTES];
            while heard.read_exact(&mut message).is_ok() {
                let sent = message[..8].try_into().map(u64::from_le_bytes).unwrap_or_default();
                mine.add(epoch.elapsed().saturating_sub(Duration::from_nanos(sent)));
            }
        });
        let stopped = Arc::clone(&stops);
        std::thread::spawn(move || {
            while !stopped.load(Relaxed) {
                let mut message = [0; BYTES];
                message[..8].copy_from_slice(&(epoch.elapsed().as_nanos() as u64).to_le_bytes());
                if out.write_all(&message).is_err() {
                    break;
                }
                std::thread::sleep(PACE);
            }
        });
        Ok(Self { stops, samples })
    }

    pub(crate) fn reset(&self) {
        drop(self.take());
    }

    pub(crate) fn take(&self) -> Samples {
        self.samples.take()
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.stops.store(true, Relaxed);
    }
}
