//! Strangers who hold on to a port with TLS: silence, and first words without an end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use raft_transport::TlsPeer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::certificates::Ca;
use super::{GROUP, ask, bind, dial, echo_once, tls};

/// More than the places there are for one address, so that they crowd out each other all the time.
const STRANGERS: usize = 300;

/// The beginning of every handshake: a record that promises 512 bytes of a ClientHello.
const FIRST_WORDS: [u8; 9] = [0x16, 3, 1, 2, 0, 1, 0, 1, 0xFC];

/// From the address of the honest ones, which is the hardest for them: places are counted by address.
#[tokio::test]
async fn honest_dialers_are_served_while_strangers_are_silent_or_never_finish() {
    let ca = Ca::new();
    let (one, two) = (tls(1, ca.node(1)), tls(2, ca.node(2)));
    let acceptor = bind(&two).await;
    let addr = acceptor.local_addr();
    let listener = acceptor.register(GROUP).unwrap();
    let over = Arc::new(AtomicBool::new(false));
    let strangers: Vec<_> = (0..STRANGERS)
        .map(|stranger| {
            let over = over.clone();
            tokio::spawn(async move {
                while !over.load(Relaxed) {
                    let Ok(mut stream) = TcpStream::connect(addr).await else { continue };
                    if stranger % 2 == 0 {
                        let _ = stream.write_all(&FIRST_WORDS).await;
                    }
                    // Until it is closed to make room.
                    let _ = stream.read(&mut [0]).await;
                }
            })
        })
        .collect();
    let mut served = 0;
    let mut tries = 0;
    while served < 20 {
        tries += 1;
        assert!(tries < 2_000, "{served} of {tries} dials were served");
        let dialed = async {
            // As lanes do: a dial that was crowded out is repeated.
            let mut stream = dial(&one, addr, TlsPeer::AnyNode).await.ok()?;
            ask(&mut stream).await;
            Some(())
        };
        tokio::select! {
            done = dialed => served += usize::from(done.is_some()),
            _ = async { loop { echo_once(&listener).await; } } => unreachable!(),
        }
    }
    assert!(acceptor.stats().handshakes_evicted > 0, "{:?}", acceptor.stats());
    over.store(true, Relaxed);
    acceptor.close();
    for stranger in strangers {
        stranger.abort();
    }
}
