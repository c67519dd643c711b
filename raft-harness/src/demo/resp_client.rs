//! A small pipelined client of the Redis protocol that is honest about outcomes.
//!
//! Many callers share a connection; their commands leave in one write and the replies come back
//! in order. What matters here is what a caller may conclude when a connection breaks: a command
//! that was never handed to the socket did not happen; any other may have.
//!
//! Invariant: every call gets exactly one answer.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

/// Loopback connects at once or not at all.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);
/// Callers wait while so many calls of one connection are not written yet.
const QUEUE_MAX: usize = 1024;
const READ_CHUNK: usize = 64 << 10;
const LINE_BYTES_MAX: usize = 64 << 10;
const BULK_BYTES_MAX: usize = 64 << 20;
const ITEMS_MAX: usize = 1 << 20;
const DEPTH_MAX: usize = 8;

/// What a server answered.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Reply {
    Simple(String),
    Error(String),
    Integer(i64),
    Bulk(Bytes),
    Null,
    Array(Vec<Self>),
}

/// Bytes that are not of the protocol, or beyond what this client takes.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
#[error("not a reply of the Redis protocol: {0}")]
pub(super) struct ProtocolError(&'static str);

/// Why there is no answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum CallError {
    /// The command never left: it did not happen.
    NotSent,
    /// The command left and the connection broke: it may have happened.
    Lost,
}

/// One connection; clones share it, and the last one to go closes it.
#[derive(Clone, Debug)]
pub(super) struct Connection {
    calls: mpsc::Sender<Call>,
}

#[derive(Debug)]
struct Call {
    command: Bytes,
    waiter: Waiter,
}

type Waiter = oneshot::Sender<Result<Reply, CallError>>;

/// Those who wait for replies, in order; `None` once the connection is broken.
type Waiters = Arc<Mutex<Option<VecDeque<Waiter>>>>;

impl Connection {
    pub(super) async fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await??;
        stream.set_nodelay(true)?;
        let (reader, writer) = stream.into_split();
        let (calls, queue) = mpsc::channel(QUEUE_MAX);
        let waiters: Waiters = Arc::new(Mutex::new(Some(VecDeque::new())));
        tokio::spawn(write(writer, queue, Arc::clone(&waiters)));
        tokio::spawn(read(reader, waiters));
        Ok(Self { calls })
    }

    /// Whether it broke. One that breaks a moment later is still honest about its calls.
    pub(super) fn is_closed(&self) -> bool {
        self.calls.is_closed()
    }

    /// Sends an encoded command and waits for its reply.
    pub(super) async fn call(&self, command: Bytes) -> Result<Reply, CallError> {
        let (waiter, reply) = oneshot::channel();
        if self.calls.send(Call { command, waiter }).await.is_err() {
            return Err(CallError::NotSent);
        }
        // A call that is dropped with the queue was never written.
        reply.await.unwrap_or(Err(CallError::NotSent))
    }
}

/// Encodes a command.
pub(super) fn command(arguments: &[&[u8]]) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.extend_from_slice(format!("*{}\r\n", arguments.len()).as_bytes());
    for argument in arguments {
        bytes.extend_from_slice(format!("${}\r\n", argument.len()).as_bytes());
        bytes.extend_from_slice(argument);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.freeze()
}

async fn write(mut socket: OwnedWriteHalf, mut queue: mpsc::Receiver<Call>, waiters: Waiters) {
    let mut batch = Vec::new();
    let mut bytes = BytesMut::new();
    while queue.recv_many(&mut batch, QUEUE_MAX).await > 0 {
        {
            let mut waiting = waiters.lock();
            // Broken meanwhile: what is dropped here was not sent.
            let Some(waiting) = waiting.as_mut() else {
                return;
            };
            for Call { command, waiter } in batch.drain(..) {
                bytes.extend_from_slice(&command);
                waiting.push_back(waiter);
            }
        }
        if socket.write_all(&bytes).await.is_err() {
            break;
        }
        bytes.clear();
    }
    lose(&waiters);
}

async fn read(mut socket: OwnedReadHalf, waiters: Waiters) {
    let mut buffer = BytesMut::with_capacity(READ_CHUNK);
    'socket: loop {
        loop {
            match decode(&mut buffer) {
                Ok(Some(reply)) => {
                    let waiter = waiters.lock().as_mut().and_then(VecDeque::pop_front);
                    // A reply that nobody waits for means that the order is lost.
                    let Some(waiter) = waiter else { break 'socket };
                    let _ = waiter.send(Ok(reply));
                }
                Ok(None) => break,
                Err(_) => break 'socket,
            }
        }
        buffer.reserve(READ_CHUNK);
        match socket.read_buf(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
    }
    lose(&waiters);
}

/// Ends the connection for everybody who waits for a reply.
fn lose(waiters: &Waiters) {
    for waiter in waiters.lock().take().into_iter().flatten() {
        let _ = waiter.send(Err(CallError::Lost));
    }
}

/// Takes the first reply out of the buffer, if it is complete.
pub(super) fn decode(buffer: &mut BytesMut) -> Result<Option<Reply>, ProtocolError> {
    let mut cursor = Cursor { bytes: buffer, at: 0 };
    let reply = cursor.reply(0)?;
    let used = cursor.at;
    if reply.is_some() {
        let _ = buffer.split_to(used);
    }
    Ok(reply)
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn reply(&mut self, depth: usize) -> Result<Option<Reply>, ProtocolError> {
        if depth > DEPTH_MAX {
            return Err(ProtocolError("nested too deep"));
        }
        let Some(line) = self.line()? else {
            return Ok(None);
        };
        let Some((kind, rest)) = line.split_first() else {
            return Err(ProtocolError("empty line"));
        };
        let text = || String::from_utf8_lossy(rest).into_owned();
        match kind {
            b'+' => Ok(Some(Reply::Simple(text()))),
            b'-' => Ok(Some(Reply::Error(text()))),
            b':' => Ok(Some(Reply::Integer(number(rest)?))),
            b'_' => Ok(Some(Reply::Null)),
            b'$' => match length(rest, BULK_BYTES_MAX)? {
                None => Ok(Some(Reply::Null)),
                Some(length) => Ok(self.bulk(length)?.map(Reply::Bulk)),
            },
            b'*' => match length(rest, ITEMS_MAX)? {
                None => Ok(Some(Reply::Null)),
                Some(length) => {
                    // Room is made as items come, not as they are announced.
                    let mut items = Vec::new();
                    for _ in 0..length {
                        match self.reply(depth + 1)? {
                            Some(item) => items.push(item),
                            None => return Ok(None),
                        }
                    }
                    Ok(Some(Reply::Array(items)))
                }
            },
            _ => Err(ProtocolError("unknown type")),
        }
    }

    fn line(&mut self) -> Result<Option<&'a [u8]>, ProtocolError> {
        let rest = &self.bytes[self.at..];
        let Some(end) = rest.iter().position(|byte| *byte == b'\n') else {
            let endless = rest.len() > LINE_BYTES_MAX;
            return if endless { Err(ProtocolError("endless line")) } else { Ok(None) };
        };
        let Some(line) = rest[..end].strip_suffix(b"\r") else {
            return Err(ProtocolError("line ends without CR"));
        };
        self.at += end + 1;
        Ok(Some(line))
    }

    fn bulk(&mut self, length: usize) -> Result<Option<Bytes>, ProtocolError> {
        let rest = &self.bytes[self.at..];
        if rest.len() < length + 2 {
            return Ok(None);
        }
        if &rest[length..length + 2] != b"\r\n" {
            return Err(ProtocolError("string ends without CRLF"));
        }
        self.at += length + 2;
        Ok(Some(Bytes::copy_from_slice(&rest[..length])))
    }
}

fn number(digits: &[u8]) -> Result<i64, ProtocolError> {
    std::str::from_utf8(digits)
        .ok()
        .and_then(|digits| digits.parse().ok())
        .ok_or(ProtocolError("not a number"))
}

/// A length; `None` for -1, which stands for nothing.
fn length(digits: &[u8], max: usize) -> Result<Option<usize>, ProtocolError> {
    match number(digits)? {
        -1 => Ok(None),
        length => match usize::try_from(length) {
            Ok(length) if length <= max => Ok(Some(length)),
            Ok(_) | Err(_) => Err(ProtocolError("impossible length")),
        },
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    fn all(bytes: &[u8]) -> Vec<Result<Option<Reply>, ProtocolError>> {
        let mut buffer = BytesMut::from(bytes);
        let mut replies = Vec::new();
        loop {
            let reply = decode(&mut buffer);
            let more = matches!(reply, Ok(Some(_)));
            replies.push(reply);
            if !more {
                return replies;
            }
        }
    }

    #[test]
    fn every_kind_of_reply_is_understood_however_it_arrives() {
        let bytes =
            b"+OK\r\n-MOVED 5 h:1\r\n:-7\r\n$3\r\na\r\n\r\n$-1\r\n*2\r\n:1\r\n$0\r\n\r\n_\r\n";
        let expected = [
            Reply::Simple("OK".to_owned()),
            Reply::Error("MOVED 5 h:1".to_owned()),
            Reply::Integer(-7),
            Reply::Bulk(Bytes::from_static(b"a\r\n")),
            Reply::Null,
            Reply::Array(vec![Reply::Integer(1), Reply::Bulk(Bytes::new())]),
            Reply::Null,
        ];
        let whole: Vec<_> =
            all(bytes).into_iter().filter_map(|reply| reply.ok().flatten()).collect();
        assert_eq!(whole, expected);
        let mut buffer = BytesMut::new();
        let mut trickled = Vec::new();
        for byte in bytes {
            buffer.extend_from_slice(&[*byte]);
            trickled.extend(decode(&mut buffer).expect("valid so far"));
        }
        assert_eq!(trickled, expected);
        assert!(buffer.is_empty());
    }

    #[test]
    fn bytes_of_another_protocol_are_errors() {
        for wrong in [
            &b"HTTP/1.1 400\r\n"[..],
            b"\r\n",
            b"+OK\n",
            b":x\r\n",
            b"$-2\r\n",
            b"$99999999999\r\n",
            b"*99999999\r\n",
            b"$1\r\nabc",
            b"*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n:1\r\n",
        ] {
            assert!(matches!(all(wrong).last(), Some(Err(_))), "{wrong:?}");
        }
    }

    #[tokio::test]
    async fn a_broken_connection_says_what_was_sent() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let connection = Connection::open(address).await.expect("connected");
        let (mut server, _) = listener.accept().await.expect("accepted");
        let ping = command(&[b"PING"]);
        let (first, second, ()) =
            tokio::join!(connection.call(ping.clone()), connection.call(ping.clone()), async {
                let mut heard = [0; 28];
                server.read_exact(&mut heard).await.expect("both commands");
                assert_eq!(&heard[..14], &ping[..]);
                server.write_all(b"+PONG\r\n").await.expect("written");
                drop(server);
            });
        assert_eq!(first, Ok(Reply::Simple("PONG".to_owned())));
        assert_eq!(second, Err(CallError::Lost));
        assert_ne!(connection.call(ping).await, Ok(Reply::Null));
        drop(listener);
        assert!(Connection::open(address).await.is_err());
    }
}
