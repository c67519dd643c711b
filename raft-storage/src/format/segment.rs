//! Segments: the files of the log, and the header each begins with.
//!
//! A segment has its length and its room, reads as zeros, and is durable as such before it is used;
//! as a rule the zeros were written, so that a sync of the log does not wait for the file system.
//! Until its header is written it is a *spare*. The header is durable before the first frame is
//! written behind it.
//!
//! A segment that nothing alive is left in is a spare again, with all its old content: frames of
//! another use of the file are refused by position, sequence number, checksum seed and chain.

use std::io;

use crate::disk::{Disk, DiskFile};
use crate::format::checksum::{crc32c, crc32c_append};
use crate::format::field::{is_zero, put, u16_at, u32_at, u64_at, u128_at};
use crate::format::identity::StoreId;
use crate::format::lsn::Lsn;

/// Frames begin at multiples of this, and are padded to it. A durable block is never rewritten.
pub(crate) const BLOCK_BYTES: u64 = 1 << BLOCK_SHIFT;
const BLOCK_SHIFT: u8 = 12;

/// The first block of a segment. See `docs/FORMATS.md` for the layout.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct SegmentHeader {
    pub(crate) store: StoreId,
    /// Counts the segments of this store from 1; never reused.
    pub(crate) seq: u64,
    /// The position of the first byte of this file.
    pub(crate) base: Lsn,
    /// Where the segment before it ends. All of it was durable when this header was written.
    pub(crate) prev_end: Lsn,
    /// The header checksum of the last frame before, or zero.
    pub(crate) prev_crc: u32,
    /// Seeds the header checksum of every frame here.
    pub(crate) salt: u64,
    /// The life of the node that wrote the header.
    pub(crate) incarnation: u64,
    /// The length of the file.
    pub(crate) bytes: u64,
    /// The file was a segment before: what lies behind the last frame is old and not blank.
    pub(crate) recycled: bool,
}

impl SegmentHeader {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut block = vec![0; BLOCK_BYTES as usize];
        put(&mut block, 0, &SEGMENT_MAGIC.to_le_bytes());
        put(&mut block, 8, &SEGMENT_FORMAT.to_le_bytes());
        put(&mut block, 10, &[BLOCK_SHIFT, SEGMENT_KIND_LOG]);
        put(&mut block, 16, &self.store.get().to_le_bytes());
        put(&mut block, 32, &self.seq.to_le_bytes());
        put(&mut block, 40, &self.base.get().to_le_bytes());
        put(&mut block, 48, &self.prev_end.get().to_le_bytes());
        put(&mut block, 56, &self.prev_crc.to_le_bytes());
        put(&mut block, 60, &self.salt.to_le_bytes());
        put(&mut block, 68, &self.incarnation.to_le_bytes());
        put(&mut block, 76, &self.bytes.to_le_bytes());
        put(&mut block, 84, &[u8::from(self.recycled)]);
        let sum = crc32c(&block[..HEADER_CRC_AT]);
        put(&mut block, HEADER_CRC_AT, &sum.to_le_bytes());
        block
    }

    pub(crate) fn decode(block: &[u8]) -> Result<Self, HeaderFault> {
        if is_zero(block) {
            return Err(HeaderFault::Blank);
        }
        let sound = u64_at(block, 0) == SEGMENT_MAGIC
            && u32_at(block, HEADER_CRC_AT) == crc32c(&block[..HEADER_CRC_AT])
            && is_zero(&block[HEADER_CRC_AT + 4..]);
        if !sound {
            return Err(HeaderFault::Damaged);
        }
        let format = u16_at(block, 8);
        // Only zero is written so far in what is reserved.
        let known = format == SEGMENT_FORMAT
            && block[10..12] == [BLOCK_SHIFT, SEGMENT_KIND_LOG]
            && u32_at(block, 12) == 0
            && u32_at(block, 84) <= 1;
        if !known {
            return Err(HeaderFault::Unsupported { format });
        }
        Ok(Self {
            store: StoreId::new(u128_at(block, 16)),
            seq: u64_at(block, 32),
            base: Lsn::new(u64_at(block, 40)),
            prev_end: Lsn::new(u64_at(block, 48)),
            prev_crc: u32_at(block, 56),
            salt: u64_at(block, 60),
            incarnation: u64_at(block, 68),
            bytes: u64_at(block, 76),
            recycled: block[84] == 1,
        })
    }

    /// What the header checksums of the frames in this segment start from.
    pub(crate) fn frame_seed(&self) -> u32 {
        if raft_core::planted!(StaleFrameAccepted) {
            return 0;
        }
        crc32c_append(crc32c(&self.salt.to_le_bytes()), &self.store.get().to_le_bytes())
    }
}

/// Why a block is no segment header of ours.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum HeaderFault {
    Blank,
    Damaged,
    /// The disk cannot read it.
    Unreadable,
    Unsupported {
        format: u16,
    },
}

/// The salt of a segment: different for every (store, sequence, incarnation), so that a frame
/// left over from another use of the file fails its checksum. Derived rather than drawn, so that
/// a simulated log repeats bit by bit; what makes it unpredictable is the random store id.
pub(crate) fn salt(store: StoreId, seq: u64, incarnation: u64) -> u64 {
    let store = store.get();
    let mut value = (store as u64) ^ ((store >> 64) as u64).rotate_left(32);
    for part in [seq, incarnation] {
        // The finaliser of splitmix64.
        value = value.wrapping_add(part).wrapping_add(0x9E37_79B9_7F4A_7C15);
        value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        value ^= value >> 31;
    }
    value
}

/// The name of the file in `slot`.
pub(crate) fn file_name(slot: u32) -> String {
    format!("log-{slot:08}.seg")
}

/// The slot of the file with this name, or `None` if it is no segment.
pub(crate) fn slot_of(name: &str) -> Option<u32> {
    let slot = name.strip_prefix("log-")?.strip_suffix(".seg")?.parse().ok()?;
    (file_name(slot) == name).then_some(slot)
}

/// Makes a spare of `bytes` bytes: zeros, durable, and so is its name.
///
/// Costs about 50 ms for 64 MiB. A spare that could not be finished is removed again.
pub(crate) fn make_spare<D: Disk>(disk: &D, slot: u32, bytes: u64) -> io::Result<D::File> {
    create(disk, slot, |file| file.write_zeros(bytes))
}

/// Makes a spare that reads as zeros and has room, and was not written: length and name are
/// durable. A sync of what is written into it waits for the file system as well.
///
/// Costs a few milliseconds. A spare that could not be finished is removed again.
pub(crate) fn reserve_spare<D: Disk>(disk: &D, slot: u32, bytes: u64) -> io::Result<D::File> {
    create(disk, slot, |file| file.reserve(bytes))
}

fn create<D: Disk>(
    disk: &D,
    slot: u32,
    fill: impl FnOnce(&D::File) -> io::Result<()>,
) -> io::Result<D::File> {
    let name = file_name(slot);
    let file = disk.create(&name)?;
    let filled = fill(&file).and_then(|()| file.sync_all()).and_then(|()| disk.sync_dir());
    if let Err(error) = filled {
        // If even this fails, the next open finds a short blank file and removes it.
        let _ = disk.remove(&name);
        return Err(error);
    }
    Ok(file)
}

const SEGMENT_MAGIC: u64 = u64::from_le_bytes(*b"RAFTSEGM");
const SEGMENT_FORMAT: u16 = 1;
const SEGMENT_KIND_LOG: u8 = 1;
const HEADER_CRC_AT: usize = 88;

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> SegmentHeader {
        SegmentHeader {
            store: StoreId::new(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10),
            seq: 3,
            base: Lsn::new(0x2000),
            prev_end: Lsn::new(0x2000),
            prev_crc: 0xaabb_ccdd,
            salt: 0x1122_3344_5566_7788,
            incarnation: 5,
            bytes: 0x10000,
            recycled: false,
        }
    }

    #[test]
    fn segment_header_has_its_golden_bytes() {
        let block = header().encode();
        let hex: String = block[..92].iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            hex,
            concat!(
                "524146545345474d01000c0100000000100f0e0d0c0b0a090807060504030201",
                "030000000000000000200000000000000020000000000000ddccbbaa88776655",
                "4433221105000000000000000000010000000000000000003c46a1dd",
            )
        );
        assert!(is_zero(&block[92..]));
        assert_eq!(SegmentHeader::decode(&block), Ok(header()));
    }

    #[test]
    fn every_flipped_bit_of_a_segment_header_is_seen() {
        let block = header().encode();
        for bit in 0..block.len() * 8 {
            let mut block = block.clone();
            block[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(SegmentHeader::decode(&block), Err(HeaderFault::Damaged), "bit {bit}");
        }
    }

    #[test]
    fn names_of_segments_are_read_back_and_others_are_not() {
        for slot in [0, 7, 1 << 20, u32::MAX] {
            assert_eq!(slot_of(&file_name(slot)), Some(slot));
        }
        for name in
            ["log-1.seg", "log-0000000x.seg", "lock", "log-00000001.seg.tmp", "log--0000001.seg"]
        {
            assert_eq!(slot_of(name), None, "{name}");
        }
    }
}
