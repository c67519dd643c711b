//! As much of the Redis protocol as a judge needs: requests in pipelines, replies in order.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Longest a reply may take before its outcome counts as unknown.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Longer values are not written here, so nobody may claim one.
const BULK_BYTES_MAX: usize = 16 << 20;

/// A connection to a server.
pub(crate) struct Client {
    stream: BufReader<TcpStream>,
    out: Vec<u8>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Reply {
    Ok,
    Null,
    Bulk(Vec<u8>),
    /// Any other reply, which nothing here asks for; mostly an error.
    Other(String),
}

impl Client {
    pub(crate) fn connect(address: SocketAddr) -> io::Result<Self> {
        Self::connect_patiently(address, TIMEOUT)
    }

    /// As [`connect`](Self::connect), for replies that may take so long.
    pub(crate) fn connect_patiently(address: SocketAddr, patience: Duration) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        Ok(Self { stream: BufReader::new(stream), out: Vec::new() })
    }

    pub(crate) fn local_address(&self) -> io::Result<SocketAddr> {
        self.stream.get_ref().local_addr()
    }

    /// Adds a request to those the next [`Self::flush`] sends.
    pub(crate) fn push(&mut self, parts: &[&[u8]]) {
        encode(&mut self.out, parts);
    }

    /// Sends what was pushed, in one write.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        let sent = self.stream.get_mut().write_all(&self.out);
        self.out.clear();
        sent
    }

    pub(crate) fn reply(&mut self) -> io::Result<Reply> {
        decode(&mut self.stream)
    }
}

fn encode(out: &mut Vec<u8>, parts: &[&[u8]]) {
    out.extend_from_slice(format!("*{}\r\n", parts.len()).as_bytes());
    for part in parts {
        out.extend_from_slice(format!("${}\r\n", part.len()).as_bytes());
        out.extend_from_slice(part);
        out.extend_from_slice(b"\r\n");
    }
}

fn decode(stream: &mut impl BufRead) -> io::Result<Reply> {
    let mut line = Vec::new();
    stream.by_ref().take(4096).read_until(b'\n', &mut line)?;
    let Some(line) = line.strip_suffix(b"\r\n") else {
        return Err(io::ErrorKind::UnexpectedEof.into());
    };
    let text = String::from_utf8_lossy(line).into_owned();
    let Some(length) = text.strip_prefix('$') else {
        return Ok(if text == "+OK" { Reply::Ok } else { Reply::Other(text) });
    };
    if length == "-1" {
        return Ok(Reply::Null);
    }
    let length = length.parse().ok().filter(|length: &usize| *length <= BULK_BYTES_MAX);
    let length = length.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, text))?;
    let mut value = vec![0; length + 2];
    stream.read_exact(&mut value)?;
    value.truncate(length);
    Ok(Reply::Bulk(value))
}

#[cfg(test)]
mod tests {
    use super::{Reply, decode, encode};

    #[test]
    fn replies_are_told_apart_and_a_broken_one_is_an_error() {
        let mut bytes = &b"+OK\r\n$-1\r\n$3\r\na\r\n\r\n-ERR x\r\n+O"[..];
        assert_eq!(decode(&mut bytes).unwrap(), Reply::Ok);
        assert_eq!(decode(&mut bytes).unwrap(), Reply::Null);
        assert_eq!(decode(&mut bytes).unwrap(), Reply::Bulk(b"a\r\n".to_vec()));
        assert_eq!(decode(&mut bytes).unwrap(), Reply::Other("-ERR x".into()));
        assert!(decode(&mut bytes).is_err());
        assert!(decode(&mut &b"$99999999999\r\n"[..]).is_err());
    }

    #[test]
    fn a_request_is_an_array_of_bulk_strings() {
        let mut out = Vec::new();
        encode(&mut out, &[b"GET", b"key-1"]);
        assert_eq!(out, b"*2\r\n$3\r\nGET\r\n$5\r\nkey-1\r\n");
    }
}
