//! Frames: one batch on disk, the unit that a crash leaves whole or not at all.
//!
//! Every field of the header refuses one way of being deceived:
//! - `lsn` equals the place where the frame lies: misdirected writes, leftovers of recycled files;
//! - `synced_lsn`, "everything below was durable when I was built": tells a torn tail (nothing
//!   later promises it) from damage (something later does);
//! - `prev_frame_crc`: a valid frame that follows another one than it was built after;
//! - `stance_back`, how far back the newest frame lies that holds a term, a vote or the like: proves, behind
//!   damage, that none was in it;
//! - the header checksum starts from the salt of its segment: old uses of the file.

use crate::error::FrameFault;
use crate::format::checksum::{crc32c, crc32c_append};
use crate::format::field::{is_zero, put, u16_at, u32_at, u64_at};
use crate::format::lsn::Lsn;
use crate::format::segment::BLOCK_BYTES;

/// The header of a frame. See `docs/FORMATS.md` for the layout.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct FrameHeader {
    pub(crate) version: u8,
    pub(crate) flags: u8,
    pub(crate) lsn: Lsn,
    pub(crate) synced: Lsn,
    /// The low half of the sequence number of the segment.
    pub(crate) seg_seq: u32,
    pub(crate) records: u32,
    pub(crate) body_bytes: u32,
    pub(crate) prev_crc: u32,
    pub(crate) body_crc: u32,
    pub(crate) incarnation: u64,
    /// How many blocks before this frame the newest one lies that changes what a replica stands by; zero
    /// if there is none, [`STANCE_UNKNOWN`] if it is further away than can be told.
    pub(crate) stance_back: u32,
}

impl FrameHeader {
    /// The header as bytes; its checksum, by which the next frame refers to it, comes along.
    pub(crate) fn encode(&self, seed: u32) -> ([u8; FRAME_HEADER_BYTES], u32) {
        let mut block = [0; FRAME_HEADER_BYTES];
        put(&mut block, 0, &FRAME_MAGIC.to_le_bytes());
        put(&mut block, 4, &[self.version, self.flags]);
        put(&mut block, 6, &(FRAME_HEADER_BYTES as u16).to_le_bytes());
        put(&mut block, 8, &self.lsn.get().to_le_bytes());
        put(&mut block, 16, &self.synced.get().to_le_bytes());
        put(&mut block, 24, &self.seg_seq.to_le_bytes());
        put(&mut block, 28, &self.records.to_le_bytes());
        put(&mut block, 32, &self.body_bytes.to_le_bytes());
        // Bytes 36 to 39 are for the length before compression; zero means not compressed.
        put(&mut block, 40, &self.prev_crc.to_le_bytes());
        put(&mut block, 44, &self.body_crc.to_le_bytes());
        put(&mut block, 48, &self.incarnation.to_le_bytes());
        put(&mut block, 56, &self.stance_back.to_le_bytes());
        let sum = crc32c_append(seed, &block[..FRAME_CRC_AT]);
        put(&mut block, FRAME_CRC_AT, &sum.to_le_bytes());
        (block, sum)
    }

    /// Reads a header and checks it against itself only; the caller checks place and chain.
    pub(crate) fn decode(block: &[u8], seed: u32) -> Result<(Self, u32), FrameFault> {
        if is_zero(&block[..FRAME_HEADER_BYTES]) {
            return Err(FrameFault::Blank);
        }
        if u32_at(block, 0) != FRAME_MAGIC {
            return Err(FrameFault::Magic);
        }
        let sum = crc32c_append(seed, &block[..FRAME_CRC_AT]);
        if u32_at(block, FRAME_CRC_AT) != sum {
            return Err(FrameFault::HeaderChecksum);
        }
        // A header of another size, or with bits in reserved places, is another version's: the
        // caller sees it by these two fields, which then differ from what we know.
        let foreign = u16_at(block, 6) != FRAME_HEADER_BYTES as u16 || u32_at(block, 36) != 0;
        let header = Self {
            version: if foreign { block[4].max(FRAME_VERSION + 1) } else { block[4] },
            flags: block[5],
            lsn: Lsn::new(u64_at(block, 8)),
            synced: Lsn::new(u64_at(block, 16)),
            seg_seq: u32_at(block, 24),
            records: u32_at(block, 28),
            body_bytes: u32_at(block, 32),
            prev_crc: u32_at(block, 40),
            body_crc: u32_at(block, 44),
            incarnation: u64_at(block, 48),
            stance_back: u32_at(block, 56),
        };
        Ok((header, sum))
    }

    /// No frame between this place and this one changes what a replica stands by; `None` if that is not
    /// known.
    pub(crate) fn stance(&self) -> Option<Lsn> {
        match self.stance_back {
            0 => Some(Lsn::ZERO),
            STANCE_UNKNOWN => None,
            back => Some(Lsn::new(self.lsn.get().saturating_sub(u64::from(back) * BLOCK_BYTES))),
        }
    }

    /// Bytes on disk: header, body, and padding to whole blocks.
    pub(crate) fn bytes(&self) -> u64 {
        frame_bytes(u64::from(self.body_bytes))
    }

    /// Checks what follows the header: `rest` is body and padding.
    pub(crate) fn check_body(&self, rest: &[u8]) -> Result<(), FrameFault> {
        let (body, padding) = rest.split_at(self.body_bytes as usize);
        if crc32c(body) != self.body_crc {
            return Err(FrameFault::BodyChecksum);
        }
        if !is_zero(padding) {
            return Err(FrameFault::Padding);
        }
        Ok(())
    }
}

/// What a frame with so long a body takes on disk.
pub(crate) const fn frame_bytes(body_bytes: u64) -> u64 {
    (FRAME_HEADER_BYTES as u64 + body_bytes).next_multiple_of(BLOCK_BYTES)
}

/// How far `stance` lies before `lsn`, as a frame says it.
pub(crate) fn stance_back(lsn: Lsn, stance: Option<Lsn>) -> u32 {
    match stance {
        None => STANCE_UNKNOWN,
        Some(Lsn::ZERO) => 0,
        Some(stance) => {
            let blocks = lsn.get().saturating_sub(stance.get()).div_ceil(BLOCK_BYTES);
            u32::try_from(blocks).unwrap_or(STANCE_UNKNOWN)
        }
    }
}

pub(crate) const STANCE_UNKNOWN: u32 = u32::MAX;
pub(crate) const FRAME_HEADER_BYTES: usize = 64;
pub(crate) const FRAME_VERSION: u8 = 1;
const FRAME_MAGIC: u32 = u32::from_le_bytes(*b"RFRM");
const FRAME_CRC_AT: usize = 60;

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> FrameHeader {
        FrameHeader {
            version: FRAME_VERSION,
            flags: 0,
            lsn: Lsn::new(0x3000),
            synced: Lsn::new(0x2000),
            seg_seq: 3,
            records: 2,
            body_bytes: 80,
            prev_crc: 0x0102_0304,
            body_crc: 0x0506_0708,
            incarnation: 9,
            stance_back: 2,
        }
    }

    #[test]
    fn frame_header_has_its_golden_bytes() {
        let (block, sum) = header().encode(0x1234_5678);
        let hex: String = block.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            hex,
            concat!(
                "5246524d01004000003000000000000000200000000000000300000002000000",
                "500000000000000004030201080706050900000000000000020000007b5e3c16",
            )
        );
        assert_eq!(FrameHeader::decode(&block, 0x1234_5678), Ok((header(), sum)));
    }

    #[test]
    fn every_flipped_bit_of_a_frame_header_is_seen() {
        let (block, _) = header().encode(7);
        for bit in 0..block.len() * 8 {
            let mut block = block;
            block[bit / 8] ^= 1 << (bit % 8);
            assert!(FrameHeader::decode(&block, 7).is_err(), "bit {bit}");
        }
        assert_eq!(FrameHeader::decode(&block, 8), Err(FrameFault::HeaderChecksum));
    }
}
