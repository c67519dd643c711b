//! Reads RESP2 replies off a connection to another node of ours.
//!
//! Invariant: whatever the bytes, nesting and sizes are bounded and nothing panics; a reply is
//! built only once all its bytes are there. It has memory of its own: one that waits for its
//! client holds nothing of what came with it.

use std::borrow::Cow;

use bytes::Bytes;

use super::reply::Reply;

/// Deepest nesting of arrays; the replies we forward have one level.
const DEPTH_MAX: usize = 4;
/// Longest bulk string: a value, and some.
const BULK_BYTES_MAX: usize = 512 << 20;
/// Longest line: an error message.
const LINE_BYTES_MAX: usize = 64 << 10;

/// What the peer sent is no reply; the connection to it closes.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the peer's reply is not RESP2")]
pub(super) struct BadReply;

/// What the bytes that came begin with.
#[derive(Debug)]
pub(super) enum Parsed {
    /// A reply of so many bytes.
    Reply { reply: Reply, length: usize },
    /// A part of one. So much at least is known to be missing, zero if nothing is known.
    Incomplete { missing: usize },
}

/// Reads the reply at the front of `bytes`.
pub(super) fn next(bytes: &[u8]) -> Result<Parsed, BadReply> {
    let mut rest = bytes;
    let mut missing = 0;
    if !skip(&mut rest, &mut missing, 0)? {
        return Ok(Parsed::Incomplete { missing });
    }
    let length = bytes.len() - rest.len();
    let frame = Bytes::copy_from_slice(&bytes[..length]);
    let reply = build(&frame, &mut 0)?;
    Ok(Parsed::Reply { reply, length })
}

/// Steps over one reply; `false` if it is not complete.
fn skip(rest: &mut &[u8], missing: &mut usize, depth: usize) -> Result<bool, BadReply> {
    let Some(line) = line(rest)? else {
        return Ok(false);
    };
    match line.first() {
        Some(b'+' | b'-' | b':') => Ok(true),
        Some(b'$') => {
            let Some(length) = length(line)? else {
                return Ok(true);
            };
            if length > BULK_BYTES_MAX {
                return Err(BadReply);
            }
            match rest.split_at_checked(length + 2) {
                None => {
                    *missing = length + 2 - rest.len();
                    Ok(false)
                }
                Some((_, after)) => {
                    *rest = after;
                    Ok(true)
                }
            }
        }
        Some(b'*') if depth < DEPTH_MAX => {
            for _ in 0..length(line)?.unwrap_or(0) {
                if !skip(rest, missing, depth + 1)? {
                    return Ok(false);
                }
            }
            Ok(true)
        }
        Some(_) | None => Err(BadReply),
    }
}

/// Builds the reply at `position` of a frame that `skip` has measured.
fn build(frame: &Bytes, position: &mut usize) -> Result<Reply, BadReply> {
    let mut rest = &frame[*position..];
    let line = line(&mut rest)?.ok_or(BadReply)?;
    *position = frame.len() - rest.len();
    let text = || core::str::from_utf8(&line[1..]).map_err(|_| BadReply);
    Ok(match line.first() {
        Some(b'+') => match &line[1..] {
            b"OK" => Reply::OK,
            b"string" => Reply::Simple("string"),
            b"none" => Reply::Simple("none"),
            other => Reply::Bulk(frame.slice_ref(other)),
        },
        Some(b'-') => Reply::Error(Cow::Owned(String::from_utf8_lossy(&line[1..]).into_owned())),
        Some(b':') => Reply::Integer(text()?.parse().map_err(|_| BadReply)?),
        Some(b'$') => match length(line)? {
            None => Reply::Null,
            Some(length) => {
                let start = *position;
                *position = start + length + 2;
                Reply::Bulk(frame.slice(start..start + length))
            }
        },
        Some(b'*') => match length(line)? {
            None => Reply::Null,
            Some(count) => {
                let items = (0..count).map(|_| build(frame, position)).collect::<Result<_, _>>();
                Reply::Array(items?)
            }
        },
        Some(_) | None => return Err(BadReply),
    })
}

/// Takes a line without its CR LF.
fn line<'a>(rest: &mut &'a [u8]) -> Result<Option<&'a [u8]>, BadReply> {
    let Some(end) = rest.iter().take(LINE_BYTES_MAX).position(|&byte| byte == b'\n') else {
        return if rest.len() >= LINE_BYTES_MAX { Err(BadReply) } else { Ok(None) };
    };
    let line = rest[..end].strip_suffix(b"\r").ok_or(BadReply)?;
    *rest = &rest[end + 1..];
    Ok(Some(line))
}

/// The length in a bulk or array header; `None` for -1.
fn length(line: &[u8]) -> Result<Option<usize>, BadReply> {
    let text = core::str::from_utf8(&line[1..]).map_err(|_| BadReply)?;
    if text == "-1" {
        return Ok(None);
    }
    let length: u32 = text.parse().map_err(|_| BadReply)?;
    Ok(Some(length as usize))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::reply::Protocol;
    use super::*;

    fn any_reply() -> impl Strategy<Value = Reply> {
        let leaf = prop_oneof![
            Just(Reply::OK),
            Just(Reply::Null),
            any::<i64>().prop_map(Reply::Integer),
            "[A-Z]{1,9} [a-z ]{0,9}".prop_map(Reply::error),
            proptest::collection::vec(any::<u8>(), 0..20).prop_map(|b| Reply::Bulk(b.into())),
        ];
        leaf.prop_recursive(2, 16, 4, |inner| {
            proptest::collection::vec(inner, 0..4).prop_map(Reply::Array)
        })
    }

    proptest! {
        #[test]
        fn what_we_write_we_read_however_it_arrives(
            replies in proptest::collection::vec(any_reply(), 1..5),
        ) {
            let mut stream = Vec::new();
            for reply in &replies {
                reply.encode(Protocol::Resp2, &mut stream);
            }
            let mut buffer = Vec::new();
            let mut read = Vec::new();
            for byte in stream {
                buffer.push(byte);
                match next(&buffer).expect("well formed") {
                    Parsed::Reply { reply, length } => {
                        prop_assert_eq!(length, buffer.len());
                        read.push(reply);
                        buffer.clear();
                    }
                    Parsed::Incomplete { .. } => {}
                }
            }
            prop_assert_eq!(read, replies);
        }

        #[test]
        fn random_bytes_never_panic(
            bytes in proptest::collection::vec(
                proptest::sample::select(b"*$+-:\r\n0123OK\xff".to_vec()),
                0..60,
            ),
        ) {
            let mut rest = &bytes[..];
            while let Ok(Parsed::Reply { length, .. }) = next(rest) {
                rest = &rest[length..];
            }
        }
    }
}
