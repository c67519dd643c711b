//! The pieces of a snapshot in blocks: small pieces together, each block compressed by itself.
//!
//! A block is compressed only if that makes it shorter. Reading one never takes more memory than its
//! header says, which is checked before: no more than the longest piece, nor than its bytes can
//! possibly become.

use std::borrow::Cow;

use bytes::{Buf, Bytes};
use raft_storage::{crc32c, crc32c_append};

use crate::state_machine::RestoreError;

/// How the bytes of snapshots are written. Each block says how it was, so it may change from one
/// snapshot to the next, and nodes need not agree; but a node must be able to read what it is sent.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub enum Compression {
    /// As they are.
    None,
    /// LZ4 blocks: hardly slower than not at all. The default.
    #[default]
    Lz4,
    /// Zstandard, level 3: shorter, and several times slower. Every node of the cluster must be built
    /// with the feature before one of them writes this.
    #[cfg(feature = "zstd")]
    Zstd,
}

/// The longest piece of a snapshot: more would be somebody else's number.
pub(super) const PIECE_BYTES_MAX: u32 = 256 << 20;

/// Small pieces are put together until they have so many bytes: long enough to compress well.
pub(super) const BLOCK_BYTES: usize = 256 << 10;

pub(super) const HEADER_BYTES: usize = 16;

/// What a block begins with.
pub(super) struct Header {
    /// Bytes that follow; 0: none, and no further block.
    pub(super) stored: u32,
    /// Bytes they are when they are not compressed; after the last block, pieces of the snapshot.
    pub(super) raw: u32,
    codec: u8,
    layout: u8,
    crc: u32,
}

const CODEC_NONE: u8 = 0;
const CODEC_LZ4: u8 = 1;
#[cfg(feature = "zstd")]
const CODEC_ZSTD: u8 = 2;

/// Pieces one after the other, each behind its length.
const LAYOUT_PIECES: u8 = 0;
/// One piece and nothing else.
const LAYOUT_ONE: u8 = 1;

/// The header and the bytes of a block of pieces, each behind its length.
pub(super) fn of_pieces(
    pieces: &[u8],
    compression: Compression,
) -> ([u8; HEADER_BYTES], Cow<'_, [u8]>) {
    block(pieces, LAYOUT_PIECES, compression)
}

/// The header and the bytes of a block of one piece.
pub(super) fn of_one(
    piece: &[u8],
    compression: Compression,
) -> ([u8; HEADER_BYTES], Cow<'_, [u8]>) {
    block(piece, LAYOUT_ONE, compression)
}

/// What comes after the last block.
pub(super) fn end(pieces: u32) -> [u8; HEADER_BYTES] {
    header((0, pieces), CODEC_NONE, LAYOUT_PIECES, &[])
}

fn block(raw: &[u8], layout: u8, compression: Compression) -> ([u8; HEADER_BYTES], Cow<'_, [u8]>) {
    let (codec, compressed) = match compression {
        Compression::None => (CODEC_NONE, None),
        Compression::Lz4 => (CODEC_LZ4, Some(lz4_flex::block::compress(raw))),
        // What cannot be compressed is written as it is.
        #[cfg(feature = "zstd")]
        Compression::Zstd => (CODEC_ZSTD, zstd::bulk::compress(raw, ZSTD_LEVEL).ok()),
    };
    let (codec, stored) = match compressed.filter(|bytes| bytes.len() < raw.len()) {
        Some(bytes) => (codec, Cow::Owned(bytes)),
        None => (CODEC_NONE, Cow::Borrowed(raw)),
    };
    (header((stored.len() as u32, raw.len() as u32), codec, layout, &stored), stored)
}

fn header((stored, raw): (u32, u32), codec: u8, layout: u8, bytes: &[u8]) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..4].copy_from_slice(&stored.to_le_bytes());
    header[4..8].copy_from_slice(&raw.to_le_bytes());
    header[8] = codec;
    header[9] = layout;
    let crc = crc32c_append(crc32c(&header[..SUMMED_BYTES]), bytes);
    header[SUMMED_BYTES..].copy_from_slice(&crc.to_le_bytes());
    header
}

impl Header {
    /// Reads it; its sum is checked together with the bytes that follow.
    pub(super) fn decode(bytes: &Bytes) -> Result<Self, RestoreError> {
        let mut fields = bytes.clone();
        if fields.len() != HEADER_BYTES {
            return Err(RestoreError::Damaged("it is cut short"));
        }
        let (stored, raw) = (fields.get_u32_le(), fields.get_u32_le());
        let (codec, layout) = (fields.get_u8(), fields.get_u8());
        let (spare, crc) = (fields.get_u16_le(), fields.get_u32_le());
        if spare != 0 || layout > LAYOUT_ONE {
            return Err(RestoreError::Damaged("the header of a block makes no sense"));
        }
        if stored > 0 && raw > PIECE_BYTES_MAX {
            return Err(RestoreError::Damaged("a piece is too long"));
        }
        Ok(Self { stored, raw, codec, layout, crc })
    }

    /// Makes the pieces of a block of its bytes. `header` is what this was read from.
    pub(super) fn pieces(&self, header: &[u8], stored: Bytes) -> Result<Pieces, RestoreError> {
        let sum = crc32c_append(crc32c(&header[..SUMMED_BYTES]), &stored);
        if sum != self.crc {
            return Err(RestoreError::Damaged("a piece does not match its checksum"));
        }
        let raw = self.raw as usize;
        let bytes = match self.codec {
            CODEC_NONE => stored,
            CODEC_LZ4 if raw <= stored.len().saturating_mul(LZ4_GROWTH_MAX) => {
                let raw = lz4_flex::block::decompress(&stored, raw);
                raw.map_err(|_| NOT_COMPRESSED)?.into()
            }
            CODEC_LZ4 => return Err(NOT_COMPRESSED),
            #[cfg(feature = "zstd")]
            CODEC_ZSTD => {
                let raw = zstd::bulk::decompress(&stored, raw);
                raw.map_err(|_| NOT_COMPRESSED)?.into()
            }
            codec => return Err(RestoreError::UnknownCodec { codec }),
        };
        if bytes.len() != raw {
            return Err(NOT_COMPRESSED);
        }
        Ok(Pieces { bytes, is_one: self.layout == LAYOUT_ONE })
    }
}

/// The pieces of a block that are still to be handed out.
#[derive(Default)]
pub(super) struct Pieces {
    bytes: Bytes,
    is_one: bool,
}

impl Pieces {
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The next one; `None` after the last.
    pub(super) fn next(&mut self) -> Result<Option<Bytes>, RestoreError> {
        if self.bytes.is_empty() {
            return Ok(None);
        }
        if self.is_one {
            return Ok(Some(std::mem::take(&mut self.bytes)));
        }
        let length = self.bytes.try_get_u32_le().map_err(|_| NO_PIECES)? as usize;
        if length == 0 || length > self.bytes.len() {
            return Err(NO_PIECES);
        }
        Ok(Some(self.bytes.split_to(length)))
    }
}

const NOT_COMPRESSED: RestoreError =
    RestoreError::Damaged("a block is not what its header says when it is not compressed");
const NO_PIECES: RestoreError = RestoreError::Damaged("a block does not consist of pieces");

/// Of a header, what its sum covers, together with the bytes of the block.
const SUMMED_BYTES: usize = HEADER_BYTES - 4;

/// No byte of LZ4 stands for more than so many.
const LZ4_GROWTH_MAX: usize = 255;

#[cfg(feature = "zstd")]
const ZSTD_LEVEL: i32 = 3;

/// All that this build can write.
#[cfg(test)]
pub(super) fn every() -> Vec<Compression> {
    vec![
        Compression::None,
        Compression::Lz4,
        #[cfg(feature = "zstd")]
        Compression::Zstd,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(header: &[u8], stored: &[u8]) -> Result<Bytes, RestoreError> {
        let header = Bytes::copy_from_slice(header);
        let block = Header::decode(&header)?;
        let mut pieces = block.pieces(&header, Bytes::copy_from_slice(stored))?;
        let one = pieces.next()?.unwrap_or_default();
        assert!(pieces.next()?.is_none());
        Ok(one)
    }

    /// Made by hand: no writer makes such a block.
    fn forged(raw: u32, codec: u8, layout: u8, stored: &[u8]) -> Result<Bytes, RestoreError> {
        read(&header((stored.len() as u32, raw), codec, layout, stored), stored)
    }

    #[test]
    fn a_block_is_as_short_as_its_compression_makes_it_and_never_longer_than_it_was() {
        let even = vec![7; 100_000];
        // Sums are as good as noise.
        let noise: Vec<u8> =
            (0..25_000_u32).flat_map(|at| crc32c(&at.to_le_bytes()).to_le_bytes()).collect();
        for compression in every() {
            let (header, stored) = of_one(&even, compression);
            assert_eq!(stored.len() < 1_000, compression != Compression::None, "{compression:?}");
            assert_eq!(read(&header, &stored).unwrap(), even);
            let (header, stored) = of_one(&noise, compression);
            assert_eq!(stored.len(), noise.len(), "{compression:?}");
            assert_eq!(read(&header, &stored).unwrap(), noise);
        }
    }

    #[test]
    fn what_a_stranger_made_is_refused_and_takes_no_more_memory_than_its_header_may_ask_for() {
        assert_eq!(forged(3, CODEC_NONE, LAYOUT_ONE, b"abc").unwrap(), "abc");
        let refused = |raw, codec, layout, stored: &[u8]| {
            forged(raw, codec, layout, stored).unwrap_err().to_string()
        };
        assert!(refused(4, CODEC_NONE, LAYOUT_ONE, b"abc").contains("not what its header says"));
        assert!(refused(3, 9, LAYOUT_ONE, b"abc").contains("codec 9"));
        assert!(refused(3, CODEC_NONE, 2, b"abc").contains("makes no sense"));
        assert!(refused(3, CODEC_NONE, LAYOUT_PIECES, b"abc").contains("consist of pieces"));
        let long = [200, 0, 0, 0, 1, 2, 3];
        assert!(refused(7, CODEC_NONE, LAYOUT_PIECES, &long).contains("consist of pieces"));
        assert!(refused(8, CODEC_NONE, LAYOUT_PIECES, &[0; 8]).contains("consist of pieces"));
        let too_long = PIECE_BYTES_MAX + 1;
        assert!(refused(too_long, CODEC_LZ4, LAYOUT_ONE, b"abc").contains("too long"));
        // 256 MiB out of three bytes: not even tried.
        let (most, longer) = (PIECE_BYTES_MAX, 3 * LZ4_GROWTH_MAX as u32 + 1);
        for raw in [most, longer, 3 * LZ4_GROWTH_MAX as u32, 1] {
            assert!(refused(raw, CODEC_LZ4, LAYOUT_ONE, b"abc").contains("not what its header"));
        }
        #[cfg(feature = "zstd")]
        assert!(refused(1, CODEC_ZSTD, LAYOUT_ONE, b"abc").contains("not what its header"));
    }
}
