//! A link between two nodes that carries so many bytes a second, or nothing for a while.
//!
//! All connections of a link share its rate, piece by piece, as they would share a wire.
//!
//! Invariant: a relay that is dropped takes no connection any more; those it has end when one of
//! their ends does.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

/// What a link carries at a time before another connection has its turn.
const PIECE_BYTES: usize = 4 << 10;
const DIAL_LIMIT: Duration = Duration::from_secs(2);
/// Between two looks for a connection, or at a link that carries nothing.
const POLL: Duration = Duration::from_millis(5);

pub(crate) struct Relay {
    address: SocketAddr,
    link: Arc<Link>,
}

struct Link {
    target: SocketAddr,
    /// Bytes per second in each direction.
    rate: u64,
    /// When each direction is free again: to the target, and back.
    free: [Mutex<Instant>; 2],
    accepted: AtomicU64,
    ended: AtomicBool,
}

impl Relay {
    /// A link to `target` of `rate` bytes a second in each direction.
    pub(crate) fn start(target: SocketAddr, rate: u64) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let now = Instant::now();
        let link = Arc::new(Link {
            target,
            rate,
            free: [Mutex::new(now), Mutex::new(now)],
            accepted: AtomicU64::new(0),
            ended: AtomicBool::new(false),
        });
        let accepting = Arc::clone(&link);
        thread::spawn(move || accept(&listener, &accepting));
        Ok(Self { address, link })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connections were made over this link so far.
    pub(crate) fn accepted(&self) -> u64 {
        self.link.accepted.load(Relaxed)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.link.ended.store(true, Relaxed);
    }
}

fn accept(listener: &TcpListener, link: &Arc<Link>) {
    while !link.ended.load(Relaxed) {
        let Ok((near, _)) = listener.accept() else {
            thread::sleep(POLL);
            continue;
        };
        link.accepted.fetch_add(1, Relaxed);
        let link = Arc::clone(link);
        thread::spawn(move || {
            let Ok(far) = TcpStream::connect_timeout(&link.target, DIAL_LIMIT) else { return };
            let blocking = near.set_nonblocking(false).and_then(|()| near.set_nodelay(true));
            let copies = (near.try_clone(), far.try_clone());
            let (Ok(()), Ok(()), (Ok(near_out), Ok(far_out))) =
                (blocking, far.set_nodelay(true), copies)
            else {
                return;
            };
            let back = Arc::clone(&link);
            thread::spawn(move || carry(far, near_out, &back, 1));
            carry(near, far_out, &link, 0);
        });
    }
}

/// Carries bytes until an end is gone, and passes the end on.
fn carry(mut from: TcpStream, mut to: TcpStream, link: &Link, direction: usize) {
    let mut piece = [0; PIECE_BYTES];
    while let Ok(count) = from.read(&mut piece) {
        if count == 0 || link.ended.load(Relaxed) {
            break;
        }
        link.pass(count, direction);
        if to.write_all(&piece[..count]).is_err() {
            break;
        }
    }
    // One of them may be gone already.
    let _ = to.shutdown(Shutdown::Write);
    let _ = from.shutdown(Shutdown::Read);
}

impl Link {
    /// Waits until so many bytes have passed.
    fn pass(&self, bytes: usize, direction: usize) {
        let takes = Duration::from_secs_f64(bytes as f64 / self.rate as f64);
        let passed = {
            let mut free = self.free[direction].lock().unwrap_or_else(PoisonError::into_inner);
            *free = (*free).max(Instant::now()) + takes;
            *free
        };
        thread::sleep(passed.saturating_duration_since(Instant::now()));
    }
}
