//! What the kernel is told about the socket of a lane.

use std::io;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

/// How the socket of a lane behaves, at both ends: whoever opened or accepted it sets its own.
/// Streams that are no TCP sockets have none of this.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SocketOptions {
    /// Send what there is at once (`TCP_NODELAY`). Off, small writes wait for acknowledgements,
    /// heartbeats among them. Default yes.
    pub nodelay: bool,
    /// Most bytes the kernel takes that it has not put on the wire (`TCP_NOTSENT_LOWAT`; Linux and
    /// macOS). What is in there nothing can overtake, so it bounds what a short frame waits for;
    /// too little leaves the link idle between two turns of the thread. `None`: as many as the send
    /// buffer holds, which grows to megabytes. Default 128 KiB.
    pub unsent_bytes_max: Option<u32>,
    /// The send buffer (`SO_SNDBUF`), in bytes; the kernel may double it. It also bounds what is on
    /// its way, so it needs bandwidth times delay. `None`, the default: grows with the connection.
    pub send_buffer_bytes: Option<usize>,
    /// The receive buffer (`SO_RCVBUF`), likewise. `None`, the default: grows with the connection.
    pub receive_buffer_bytes: Option<usize>,
    /// Close the socket if bytes that were sent are not acknowledged for so long
    /// (`TCP_USER_TIMEOUT`; Linux), also while the peer's buffer is full. The lane's own keepalive
    /// finds a dead peer earlier. `None`, the default: the kernel's, some fifteen minutes.
    pub user_timeout: Option<Duration>,
    /// Have the kernel probe a silent connection after so long (`SO_KEEPALIVE`), for middle boxes
    /// that forget those; whole seconds. The lane's pings do the same. `None`, the default: never.
    pub keepalive: Option<Duration>,
}

impl Default for SocketOptions {
    fn default() -> Self {
        Self {
            nodelay: true,
            unsent_bytes_max: Some(128 << 10),
            send_buffer_bytes: None,
            receive_buffer_bytes: None,
            user_timeout: None,
            keepalive: None,
        }
    }
}

impl SocketOptions {
    /// Sets all of it.
    ///
    /// # Errors
    /// What the system says. A socket that its peer has closed already may refuse.
    pub fn apply(&self, stream: &TcpStream) -> io::Result<()> {
        stream.set_nodelay(self.nodelay)?;
        let socket = SockRef::from(stream);
        #[cfg(any(target_os = "linux", target_os = "macos"))]
        if let Some(bytes) = self.unsent_bytes_max {
            socket.set_tcp_notsent_lowat(bytes)?;
        }
        if let Some(bytes) = self.send_buffer_bytes {
            socket.set_send_buffer_size(bytes)?;
        }
        if let Some(bytes) = self.receive_buffer_bytes {
            socket.set_recv_buffer_size(bytes)?;
        }
        #[cfg(target_os = "linux")]
        if self.user_timeout.is_some() {
            socket.set_tcp_user_timeout(self.user_timeout)?;
        }
        if let Some(after) = self.keepalive {
            socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(after))?;
        }
        Ok(())
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    async fn socket() -> TcpStream {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        TcpStream::connect(listener.local_addr().unwrap()).await.unwrap()
    }

    #[tokio::test]
    async fn each_option_is_what_the_socket_has() {
        let stream = socket().await;
        let own = SockRef::from(&stream);
        let before = (own.send_buffer_size().unwrap(), own.recv_buffer_size().unwrap());
        let all = SocketOptions {
            nodelay: true,
            unsent_bytes_max: Some(70_000),
            send_buffer_bytes: Some(100_000),
            receive_buffer_bytes: Some(50_000),
            user_timeout: Some(Duration::from_millis(12_345)),
            keepalive: Some(Duration::from_secs(77)),
        };
        all.apply(&stream).unwrap();
        assert!(stream.nodelay().unwrap());
        assert_eq!(own.tcp_notsent_lowat().unwrap(), 70_000);
        // Linux keeps as much again for its own books.
        assert_eq!(own.send_buffer_size().unwrap(), 200_000);
        assert_eq!(own.recv_buffer_size().unwrap(), 100_000);
        assert_ne!(before, (200_000, 100_000));
        assert_eq!(own.tcp_user_timeout().unwrap(), all.user_timeout);
        assert!(own.keepalive().unwrap());
        assert_eq!(own.tcp_keepalive_time().unwrap(), Duration::from_secs(77));
    }

    #[tokio::test]
    async fn what_is_not_said_is_left_to_the_kernel() {
        let (stream, other) = (socket().await, socket().await);
        let (own, other) = (SockRef::from(&stream), SockRef::from(&other));
        let none =
            SocketOptions { nodelay: false, unsent_bytes_max: None, ..SocketOptions::default() };
        none.apply(&stream).unwrap();
        assert!(!stream.nodelay().unwrap());
        assert!(!own.keepalive().unwrap());
        assert_eq!(own.tcp_user_timeout().unwrap(), None);
        assert_eq!(own.tcp_notsent_lowat().unwrap(), other.tcp_notsent_lowat().unwrap());
        assert_eq!(own.send_buffer_size().unwrap(), other.send_buffer_size().unwrap());
        assert_eq!(own.recv_buffer_size().unwrap(), other.recv_buffer_size().unwrap());
    }
}
