//! Chunks: a long frame in pieces, so that short ones pass between them.
//!
//! Under the chunks of a stream lies one ordinary frame, header, body and payloads. Each chunk is
//! a frame of its own and has its own checksum; what it carries has those of the frame beneath.

use bytes::{Bytes, BytesMut};

use crate::wire::frame::{FRAME_VERSION, FrameKind, HEADER_LEN};
use crate::wire::transmit::Transmit;
use crate::wire::varint::{put_varint, take_varint};

/// Most bytes of a frame in one chunk: at 1 Gbit/s they hold a lane for a quarter of a
/// millisecond.
pub const CHUNK_DATA_MAX: usize = 32 << 10;

/// Streams of one direction of a connection; each carries one frame at a time.
pub const STREAMS_MAX: u8 = 64;

/// The chunk begins a frame and says how long that is.
pub(crate) const FLAG_FIRST: u16 = 1;
/// The chunk ends its frame.
pub(crate) const FLAG_LAST: u16 = 2;
/// There will be no more of the frame.
pub(crate) const FLAG_ABANDONED: u16 = 4;

/// Most bytes of a body before the data: three varints.
const HEAD_MAX: usize = 32;

/// Largest body of a chunk.
pub(crate) const CHUNK_BODY_MAX: u32 = (CHUNK_DATA_MAX + HEAD_MAX) as u32;

/// A piece of a frame.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Chunk {
    /// Which of the frames under way; below [`STREAMS_MAX`].
    pub stream: u8,
    /// Bytes of the frame that came before.
    pub offset: u64,
    /// In the first chunk of a frame: how long it is.
    pub total: Option<u64>,
    /// Whether more follows.
    pub end: ChunkEnd,
    /// At most [`CHUNK_DATA_MAX`].
    pub data: Bytes,
}

/// What follows a chunk on its stream.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ChunkEnd {
    /// Another chunk of the frame.
    More,
    /// The frame is complete.
    Last,
    /// Nothing: the sender has given the frame up. Such a chunk carries no data, and no credit is
    /// used for it.
    Abandoned,
}

impl Chunk {
    /// Reads what stands before the data and cuts it off `body`, of which the data is left.
    pub(crate) fn take_head(flags: u16, body: &mut &[u8]) -> Option<Self> {
        let stream =
            u8::try_from(take_varint(body)?).ok().filter(|stream| *stream < STREAMS_MAX)?;
        let offset = take_varint(body)?;
        let is_first = flags & FLAG_FIRST != 0;
        let total = if is_first { Some(take_varint(body)?) } else { None };
        let end = match (flags & FLAG_LAST != 0, flags & FLAG_ABANDONED != 0) {
            (false, false) => ChunkEnd::More,
            (true, false) => ChunkEnd::Last,
            (false, true) if body.is_empty() && !is_first => ChunkEnd::Abandoned,
            (_, true) => return None,
        };
        if body.len() > CHUNK_DATA_MAX || (is_first && offset != 0) {
            return None;
        }
        Some(Self { stream, offset, total, end, data: Bytes::new() })
    }

    fn flags(&self) -> u16 {
        let first = if self.total.is_some() { FLAG_FIRST } else { 0 };
        first
            | match self.end {
                ChunkEnd::More => 0,
                ChunkEnd::Last => FLAG_LAST,
                ChunkEnd::Abandoned => FLAG_ABANDONED,
            }
    }
}

/// Queues a chunk whose data are the first `count` bytes of `data`, which are cut off there. What
/// `head` holds of data is ignored.
pub(crate) fn put_chunk(head: &Chunk, data: &mut Transmit, count: usize, out: &mut Transmit) {
    let mut bytes = BytesMut::with_capacity(HEADER_LEN + HEAD_MAX);
    bytes.extend_from_slice(&[FRAME_VERSION, FrameKind::Chunk.code()]);
    bytes.extend_from_slice(&head.flags().to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    // Lengths and checksums come last.
    bytes.extend_from_slice(&[0; 16]);
    put_varint(&mut bytes, u64::from(head.stream));
    put_varint(&mut bytes, head.offset);
    if let Some(total) = head.total {
        put_varint(&mut bytes, total);
    }
    let body = (bytes.len() - HEADER_LEN + count) as u32;
    bytes[8..12].copy_from_slice(&body.to_le_bytes());
    let crc = crc32c::crc32c(&bytes[..16]);
    bytes[16..20].copy_from_slice(&crc.to_le_bytes());
    let crc = crc32c::crc32c_append(crc, &bytes[HEADER_LEN..]);
    let crc = data.sum_front(count, crc);
    bytes[20..24].copy_from_slice(&crc.to_le_bytes());
    out.put_slice(&bytes);
    data.move_front(count, out);
}
