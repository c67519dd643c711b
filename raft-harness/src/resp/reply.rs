//! Replies, and how RESP2 and RESP3 write them.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::{BufMut, Bytes};

/// The version a connection speaks; `HELLO 3` switches it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Protocol {
    /// What every client speaks at connect.
    #[default]
    Resp2,
    /// Has maps and a null of its own.
    Resp3,
}

/// One reply.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Reply {
    /// A short status such as `OK`, without line breaks.
    Simple(&'static str),
    /// An error: a code in capitals, then prose. Line breaks are written as blanks.
    Error(Cow<'static, str>),
    /// A number.
    Integer(i64),
    /// Bytes.
    Bulk(Bytes),
    /// Nothing.
    Null,
    /// A list.
    Array(Vec<Self>),
    /// Pairs; in RESP2 a list of twice the length.
    Map(Vec<(Self, Self)>),
    /// One that others are given as well: made once, written many times.
    Shared(Arc<Self>),
}

impl Reply {
    /// `+OK`.
    pub const OK: Self = Self::Simple("OK");

    /// A bulk string of text.
    pub fn text(text: impl Into<String>) -> Self {
        Self::Bulk(Bytes::from(text.into()))
    }

    /// An error.
    pub fn error(message: impl Into<Cow<'static, str>>) -> Self {
        Self::Error(message.into())
    }

    /// How much memory it holds, about: what it is made of and what that points to.
    pub(super) fn held_bytes(&self) -> usize {
        size_of::<Self>()
            + match self {
                // What is shared is not ours alone, and is there whether we wait or not.
                Self::Simple(_) | Self::Integer(_) | Self::Null | Self::Shared(_) => 0,
                Self::Error(message) => message.len(),
                Self::Bulk(bytes) => bytes.len(),
                Self::Array(items) => items.iter().map(Self::held_bytes).sum(),
                Self::Map(pairs) => {
                    pairs.iter().map(|(key, value)| key.held_bytes() + value.held_bytes()).sum()
                }
            }
    }

    /// Appends the reply as the protocol writes it.
    pub fn encode(&self, protocol: Protocol, out: &mut Vec<u8>) {
        match self {
            Self::Simple(status) => {
                out.put_u8(b'+');
                out.put_slice(status.as_bytes());
                out.put_slice(b"\r\n");
            }
            Self::Error(message) => {
                out.put_u8(b'-');
                out.extend(message.bytes().map(|byte| if byte < b' ' { b' ' } else { byte }));
                out.put_slice(b"\r\n");
            }
            Self::Integer(value) => {
                out.put_u8(b':');
                put_decimal(out, *value);
            }
            Self::Bulk(bytes) => {
                out.reserve(bytes.len() + 32);
                out.put_u8(b'$');
                put_decimal(out, bytes.len() as i64);
                out.put_slice(bytes);
                out.put_slice(b"\r\n");
            }
            Self::Shared(reply) => reply.encode(protocol, out),
            Self::Null => out.put_slice(match protocol {
                Protocol::Resp2 => b"$-1\r\n",
                Protocol::Resp3 => b"_\r\n",
            }),
            Self::Array(items) => {
                out.put_u8(b'*');
                put_decimal(out, items.len() as i64);
                for item in items {
                    item.encode(protocol, out);
                }
            }
            Self::Map(pairs) => {
                let (mark, count) = match protocol {
                    Protocol::Resp2 => (b'*', pairs.len() * 2),
                    Protocol::Resp3 => (b'%', pairs.len()),
                };
                out.put_u8(mark);
                put_decimal(out, count as i64);
                for (key, value) in pairs {
                    key.encode(protocol, out);
                    value.encode(protocol, out);
                }
            }
        }
    }
}

/// Writes a number and CR LF without allocating.
fn put_decimal(out: &mut Vec<u8>, value: i64) {
    // A sign and 19 digits.
    let mut digits = [0u8; 20];
    let mut start = digits.len();
    let mut rest = value.unsigned_abs();
    loop {
        start -= 1;
        digits[start] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if value < 0 {
        start -= 1;
        digits[start] = b'-';
    }
    out.put_slice(&digits[start..]);
    out.put_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(reply: &Reply, protocol: Protocol) -> String {
        let mut out = Vec::new();
        reply.encode(protocol, &mut out);
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn the_two_protocols_differ_in_nulls_and_maps_only() {
        let reply = Reply::Array(vec![
            Reply::OK,
            Reply::Null,
            Reply::Integer(-7),
            Reply::Map(vec![(Reply::text("k"), Reply::Null)]),
        ]);
        assert_eq!(
            encoded(&reply, Protocol::Resp2),
            "*4\r\n+OK\r\n$-1\r\n:-7\r\n*2\r\n$1\r\nk\r\n$-1\r\n"
        );
        assert_eq!(
            encoded(&reply, Protocol::Resp3),
            "*4\r\n+OK\r\n_\r\n:-7\r\n%1\r\n$1\r\nk\r\n_\r\n"
        );
    }

    #[test]
    fn numbers_are_written_to_their_last_digit() {
        for value in [0, 9, 10, -1, i64::MAX, i64::MIN] {
            assert_eq!(encoded(&Reply::Integer(value), Protocol::Resp2), format!(":{value}\r\n"));
        }
    }

    #[test]
    fn an_error_cannot_smuggle_a_second_reply() {
        let reply = Reply::error("ERR unknown command 'x\r\n+OK'");
        assert_eq!(encoded(&reply, Protocol::Resp2), "-ERR unknown command 'x  +OK'\r\n");
    }
}
