//! The four bytes that open every connection: the group's id, unsigned, big-endian.
//!
//! Written once by the dialer and never answered. There is no version and no length: whatever
//! follows belongs to the protocol of that group, so its own first bytes must say more.
//!
//! The decoder does no I/O, so a simulator runs the same code over byte buffers as the acceptor
//! runs over sockets. Invariant: exactly [`PREFIX_LEN`] bytes are consumed, however they arrive;
//! the fifth byte is still in the stream afterwards.

use std::io;

use raft_core::GroupId;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Length of the prefix in bytes.
pub const PREFIX_LEN: usize = 4;

/// The prefix that leads to `group`.
///
/// ```
/// use raft_core::GroupId;
///
/// assert_eq!(raft_mux::encode_prefix(GroupId::new(99)), [0x00, 0x00, 0x00, 0x63]);
/// ```
#[must_use]
pub const fn encode_prefix(group: GroupId) -> [u8; PREFIX_LEN] {
    group.get().to_be_bytes()
}

/// The group a prefix leads to. Every value is a valid id; whether it is served is another matter.
#[must_use]
pub const fn decode_prefix(prefix: [u8; PREFIX_LEN]) -> GroupId {
    GroupId::new(u32::from_be_bytes(prefix))
}

/// Collects a prefix from pieces of any size, without I/O.
///
/// ```
/// use raft_core::GroupId;
/// use raft_mux::PrefixDecoder;
///
/// let mut decoder = PrefixDecoder::new();
/// assert_eq!(decoder.feed(&mut &[0, 0, 0][..]), None);
///
/// let mut rest = &[99, b'h', b'i'][..];
/// assert_eq!(decoder.feed(&mut rest), Some(GroupId::new(99)));
/// assert_eq!(rest, b"hi"); // The group's own bytes are left alone.
/// ```
#[derive(Clone, Debug, Default)]
pub struct PrefixDecoder {
    bytes: [u8; PREFIX_LEN],
    filled: usize,
}

impl PrefixDecoder {
    /// A decoder that has seen nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self { bytes: [0; PREFIX_LEN], filled: 0 }
    }

    /// How many bytes are still to come, 0 to [`PREFIX_LEN`]. Reading more than this from a socket
    /// would swallow bytes of the group.
    #[must_use]
    pub const fn missing(&self) -> usize {
        PREFIX_LEN - self.filled
    }

    /// Takes what is still missing from the front of `input` and leaves the rest there.
    ///
    /// Once it has returned a group it returns the same one again and takes nothing more.
    pub fn feed(&mut self, input: &mut &[u8]) -> Option<GroupId> {
        let (taken, rest) = input.split_at(self.missing().min(input.len()));
        self.bytes[self.filled..][..taken.len()].copy_from_slice(taken);
        self.filled += taken.len();
        *input = rest;
        (self.missing() == 0).then_some(decode_prefix(self.bytes))
    }
}

/// Reads the prefix from any stream, for instance one that TLS has wrapped.
///
/// There is no deadline in here: the caller sets one, or a silent peer waits forever. Cancelling
/// loses the bytes read so far, so the stream is useless afterwards.
///
/// # Errors
/// `UnexpectedEof` if the stream ends early; otherwise the stream's own error.
pub async fn read_prefix<R>(stream: &mut R) -> io::Result<GroupId>
where
    R: AsyncRead + Unpin + ?Sized,
{
    let mut decoder = PrefixDecoder::new();
    let mut buffer = [0; PREFIX_LEN];
    loop {
        let wanted = &mut buffer[..decoder.missing()];
        let count = stream.read(wanted).await?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if let Some(group) = decoder.feed(&mut &buffer[..count]) {
            return Ok(group);
        }
    }
}

/// Writes the prefix for `group` and flushes it, so that it leaves even a buffering stream.
///
/// # Errors
/// The stream's own error; the stream is then useless, since part of the prefix may have left.
pub async fn write_prefix<W>(stream: &mut W, group: GroupId) -> io::Result<()>
where
    W: AsyncWrite + Unpin + ?Sized,
{
    stream.write_all(&encode_prefix(group)).await?;
    stream.flush().await
}

#[cfg(all(test, not(loom_model)))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn prefix_is_the_group_id_in_network_order() {
        let table = [
            (0, [0, 0, 0, 0]),
            (1, [0, 0, 0, 1]),
            (99, [0x00, 0x00, 0x00, 0x63]),
            (0x0102_0304, [1, 2, 3, 4]),
            (u32::MAX, [0xff; 4]),
        ];
        for (id, bytes) in table {
            assert_eq!(encode_prefix(GroupId::new(id)), bytes);
            assert_eq!(decode_prefix(bytes), GroupId::new(id));
        }
    }

    #[test]
    fn finished_decoder_takes_nothing_more() {
        let mut decoder = PrefixDecoder::new();
        let mut input = &[0, 0, 0, 7, 8, 9][..];
        assert_eq!(decoder.feed(&mut input), Some(GroupId::new(7)));
        assert_eq!(decoder.feed(&mut input), Some(GroupId::new(7)));
        assert_eq!(input, [8, 9]);
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_pieces_yield_four_and_leave_the_rest(
            bytes in prop::collection::vec(any::<u8>(), 0..40),
            cuts in prop::collection::vec(0_usize..5, 0..40),
        ) {
            let mut decoder = PrefixDecoder::new();
            let mut stream = &bytes[..];
            let mut found = None;
            for cut in cuts.into_iter().chain([usize::MAX]) {
                let (mut piece, later) = stream.split_at(cut.min(stream.len()));
                let before = piece.len();
                found = decoder.feed(&mut piece);
                let taken = before - piece.len();
                if found.is_some() {
                    stream = &stream[taken..];
                    break;
                }
                prop_assert_eq!(taken, before);
                stream = later;
            }
            match bytes.first_chunk::<4>() {
                Some(prefix) => {
                    prop_assert_eq!(found, Some(decode_prefix(*prefix)));
                    prop_assert_eq!(stream, &bytes[4..]);
                }
                None => prop_assert_eq!(found, None),
            }
        }
    }
}
