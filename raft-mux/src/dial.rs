//! The dialer's side: connect, name the group, hand the stream over.

use std::future::{Future, ready};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use raft_core::GroupId;
use tokio::io::AsyncWrite;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::error::MuxError;
use crate::prefix::write_prefix;

/// Opens a connection to `group` on the node at `addr`. Bytes written to it reach whoever
/// registered the group there; a closed connection is the only sign that nobody did.
///
/// `timeout` covers connecting and writing the prefix. The stream has `TCP_NODELAY` set.
///
/// # Errors
/// [`MuxError::Dial`] or [`MuxError::DialTimeout`]; either way, as when the call is cancelled, no
/// socket is left behind.
pub async fn dial(
    addr: SocketAddr,
    group: GroupId,
    timeout: Duration,
) -> Result<TcpStream, MuxError> {
    dial_with(addr, group, DialTimeouts::without_handshake(timeout), |tcp| ready(Ok(tcp))).await
}

/// How long a dial with a handshake may take.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct DialTimeouts {
    /// Connecting and writing the prefix, together: one round trip to a live peer.
    pub connect: Duration,
    /// The handshake between the two, which has its own: it takes more round trips, and CPU on
    /// both sides. As [`handshake_timeout`](crate::MuxConfig::handshake_timeout) of the acceptor,
    /// since whoever gives up first wastes what the other does.
    pub handshake: Duration,
}

/// As [`dial`], with a handshake before the prefix: the counterpart of
/// [`MuxAcceptor::bind_with`](crate::MuxAcceptor::bind_with).
///
/// # Errors
/// As for [`dial`]; an error of the handshake is a [`MuxError::Dial`].
pub async fn dial_with<S, H, F>(
    addr: SocketAddr,
    group: GroupId,
    timeouts: DialTimeouts,
    handshake: H,
) -> Result<S, MuxError>
where
    S: AsyncWrite + Unpin,
    H: FnOnce(TcpStream) -> F,
    F: Future<Output = io::Result<S>>,
{
    open(addr, group, timeouts, handshake, Opening::Prefix).await
}

/// What a dialer says before the group's own bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Opening {
    /// The group's id, for a port that many share.
    Prefix,
    /// Nothing, for a port that is the group's own.
    Nothing,
}

/// Connects to exactly `addr`, shakes hands, opens.
pub(crate) async fn open<S, H, F>(
    addr: SocketAddr,
    group: GroupId,
    timeouts: DialTimeouts,
    handshake: H,
    opening: Opening,
) -> Result<S, MuxError>
where
    S: AsyncWrite + Unpin,
    H: FnOnce(TcpStream) -> F,
    F: Future<Output = io::Result<S>>,
{
    let failed = |source| MuxError::Dial { addr, group, source };
    let within = |timeout| move |_| MuxError::DialTimeout { addr, group, timeout };
    let started = Instant::now();
    let connecting = async {
        let tcp = TcpStream::connect(addr).await?;
        refuse_own_echo(&tcp)?;
        tcp.set_nodelay(true)?;
        Ok(tcp)
    };
    let connected = timeout(timeouts.connect, connecting).await;
    let tcp = connected.map_err(within(timeouts.connect))?.map_err(failed)?;
    let rest = timeouts.connect.saturating_sub(started.elapsed());
    let shaken = timeout(timeouts.handshake, handshake(tcp)).await;
    let mut stream = shaken.map_err(within(timeouts.handshake))?.map_err(failed)?;
    match opening {
        Opening::Prefix => {
            let written = timeout(rest, write_prefix(&mut stream, group)).await;
            written.map_err(within(timeouts.connect))?.map_err(failed)?;
        }
        Opening::Nothing => {}
    }
    Ok(stream)
}

impl DialTimeouts {
    /// For a handshake that is over at once.
    pub(crate) const fn without_handshake(connect: Duration) -> Self {
        Self { connect, handshake: connect }
    }
}

/// Refuses a connection to ourselves through the same port.
///
/// Dialing a port of this host where nobody listens can, rarely, be given that very port as its
/// own; TCP then connects the socket to itself. It would look like a peer that echoes, and would
/// keep the real node from listening again.
fn refuse_own_echo(tcp: &TcpStream) -> io::Result<()> {
    if tcp.local_addr()? == tcp.peer_addr()? {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    Ok(())
}

#[cfg(all(test, not(loom_model)))]
mod tests {
    use tokio::net::TcpSocket;

    use super::*;

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn socket_connected_to_itself_is_refused() {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let own_addr = socket.local_addr().unwrap();
        let tcp = socket.connect(own_addr).await.unwrap();
        let error = refuse_own_echo(&tcp).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }
}
