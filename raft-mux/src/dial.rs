//! The dialer's side: connect, name the group, hand the stream over.

use std::future::{Future, ready};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use raft_core::GroupId;
use tokio::io::AsyncWrite;
use tokio::net::TcpStream;

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
    dial_with(addr, group, timeout, |tcp| ready(Ok(tcp))).await
}

/// As [`dial`], with a handshake before the prefix: the counterpart of
/// [`MuxAcceptor::bind_with`](crate::MuxAcceptor::bind_with). `timeout` covers it too.
///
/// # Errors
/// As for [`dial`]; an error of the handshake is a [`MuxError::Dial`].
pub async fn dial_with<S, H, F>(
    addr: SocketAddr,
    group: GroupId,
    timeout: Duration,
    handshake: H,
) -> Result<S, MuxError>
where
    S: AsyncWrite + Unpin,
    H: FnOnce(TcpStream) -> F,
    F: Future<Output = io::Result<S>>,
{
    open(addr, group, timeout, handshake, Opening::Prefix).await
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
    timeout: Duration,
    handshake: H,
    opening: Opening,
) -> Result<S, MuxError>
where
    S: AsyncWrite + Unpin,
    H: FnOnce(TcpStream) -> F,
    F: Future<Output = io::Result<S>>,
{
    let dialing = async {
        let tcp = TcpStream::connect(addr).await?;
        refuse_own_echo(&tcp)?;
        tcp.set_nodelay(true)?;
        let mut stream = handshake(tcp).await?;
        match opening {
            Opening::Prefix => write_prefix(&mut stream, group).await?,
            Opening::Nothing => {}
        }
        Ok(stream)
    };
    match tokio::time::timeout(timeout, dialing).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(source)) => Err(MuxError::Dial { addr, group, source }),
        Err(_) => Err(MuxError::DialTimeout { addr, group, timeout }),
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
