//! The stream that a handshake leaves.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::name::CertifiedName;

/// Bytes read from the socket at a time: two records. TLS itself asks for 4 KiB, four system calls
/// per record.
const READ_BYTES: usize = 32 << 10;

/// An encrypted connection to a node whose certificate was looked at.
///
/// Every byte is copied once in each direction to be encrypted or decrypted, whatever its lane does to
/// avoid copies.
#[derive(Debug)]
pub struct TlsStream {
    inner: tokio_rustls::TlsStream<Socket>,
    peer: CertifiedName,
    /// Moved to another runtime, which has not said yet that the socket can be written to.
    is_settling: bool,
}

impl TlsStream {
    pub(super) fn new(inner: tokio_rustls::TlsStream<Socket>, peer: CertifiedName) -> Self {
        Self { inner, peer, is_settling: false }
    }

    /// Who is at the other end, as its certificate says.
    pub fn peer(&self) -> &CertifiedName {
        &self.peer
    }

    /// The socket, for its options.
    pub(crate) fn socket(&self) -> io::Result<&TcpStream> {
        self.inner.get_ref().0.tcp()
    }

    /// Moves the socket to the runtime that this is called on.
    pub(crate) fn rehome(mut self) -> io::Result<Self> {
        self.inner.get_mut().0.rehome()?;
        self.is_settling = true;
        Ok(self)
    }
}

impl AsyncRead for TlsStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.is_settling {
            // The first words may have come with the handshake. Whoever hears them must be able to
            // answer, be it with a refusal and then no more.
            ready!(self.socket()?.poll_write_ready(cx))?;
            self.is_settling = false;
        }
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl AsyncWrite for TlsStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// A socket that is read in large pieces, and can move to another runtime.
#[derive(Debug)]
pub(super) struct Socket {
    /// `None` once a move has failed.
    tcp: Option<TcpStream>,
    /// Empty until the first read, then of one length: nothing is cleared for a read that finds
    /// nothing.
    read: Box<[u8]>,
    /// What of `read` is still to be taken.
    from: usize,
    to: usize,
}

impl Socket {
    pub(super) fn new(tcp: TcpStream) -> Self {
        Self { tcp: Some(tcp), read: Box::default(), from: 0, to: 0 }
    }

    fn tcp(&self) -> io::Result<&TcpStream> {
        self.tcp.as_ref().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    fn tcp_mut(&mut self) -> io::Result<Pin<&mut TcpStream>> {
        self.tcp.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    fn rehome(&mut self) -> io::Result<()> {
        if let Some(tcp) = self.tcp.take() {
            self.tcp = Some(TcpStream::from_std(tcp.into_std()?)?);
        }
        Ok(())
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.from == this.to {
            if this.read.is_empty() {
                this.read = vec![0; READ_BYTES].into_boxed_slice();
            }
            let tcp = this.tcp.as_mut().ok_or(io::ErrorKind::NotConnected)?;
            let mut filling = ReadBuf::new(&mut this.read);
            ready!(Pin::new(tcp).poll_read(cx, &mut filling))?;
            (this.from, this.to) = (0, filling.filled().len());
        }
        let rest = &this.read[this.from..this.to];
        let count = rest.len().min(buffer.remaining());
        buffer.put_slice(&rest[..count]);
        this.from += count;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.tcp_mut()?.poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.tcp_mut()?.poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.tcp_mut()?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.tcp_mut()?.poll_shutdown(cx)
    }
}
