//! The frames of a segment: what is one, where it lies, and what follows it.
//!
//! Whoever reads a log asks here: recovery, which stops where no frame follows, and those who look at
//! a log without opening it, who go on behind.

use std::io;

use raft_core::GroupId;

use crate::disk::DiskFile;
use crate::disk::readings::Readings;
use crate::error::{Damage, FrameFault, OpenError, Unsupported};
use crate::format::frame::{FRAME_HEADER_BYTES, FrameHeader};
use crate::format::identity::Life;
use crate::format::segment::{BLOCK_BYTES, HeaderFault, SegmentHeader, file_name};
use crate::recover::window::Window;

/// A segment with a valid header.
pub(crate) struct Segment {
    pub(crate) slot: u32,
    pub(crate) header: SegmentHeader,
}

impl Segment {
    pub(crate) fn corrupt(
        &self,
        offset: u64,
        groups: Option<Vec<GroupId>>,
        why: Damage,
    ) -> OpenError {
        let lsn = Some(self.header.base.plus(offset));
        OpenError::Corrupt { segment: self.slot, offset, lsn, groups, why }
    }

    pub(crate) fn ahead(&self, offset: u64, found: u64, life: Life) -> OpenError {
        let stored = life.incarnation.get();
        self.corrupt(offset, None, Damage::IncarnationAhead { found, stored })
    }

    pub(crate) fn unsupported(&self, offset: u64, what: Unsupported, value: u64) -> OpenError {
        OpenError::Unsupported { segment: self.slot, offset, what, value }
    }
}

/// Reads the header of the segment in `slot`, a file of so many bytes.
pub(crate) fn read_header<F: DiskFile>(
    (slot, file): (u32, &F),
    bytes: u64,
    readings: &Readings,
) -> io::Result<Result<SegmentHeader, HeaderFault>> {
    let mut block = vec![0; BLOCK_BYTES as usize];
    let there = bytes.min(BLOCK_BYTES) as usize;
    let lost = readings.read((&file_name(slot), file), &mut block[..there], 0)?;
    Ok(if lost.is_empty() { SegmentHeader::decode(&block) } else { Err(HeaderFault::Unreadable) })
}

/// The frame at `offset`, or why there is none.
fn next_frame<F: DiskFile>(
    segment: &Segment,
    window: &mut Window<'_, F>,
    offset: u64,
    chain: u32,
    limit: u64,
) -> io::Result<Result<(FrameHeader, u32), FrameFault>> {
    let header = &segment.header;
    let (frame, crc) = match frame_header(header, window.get(offset, BLOCK_BYTES)?, offset) {
        Ok(valid) => valid,
        Err(fault) => return Ok(Err(unless_unreadable(window, (offset, BLOCK_BYTES), fault))),
    };
    if frame.prev_crc != chain && !raft_core::planted!(StaleFrameAccepted) {
        return Ok(Err(FrameFault::Chain));
    }
    if frame.bytes() > limit - offset {
        return Ok(Err(FrameFault::Length));
    }
    let bytes = window.get(offset, frame.bytes())?;
    let sound = frame.check_body(&bytes[FRAME_HEADER_BYTES..]);
    let sound = if raft_core::planted!(TornTailAccepted) { Ok(()) } else { sound };
    let why = |fault| unless_unreadable(window, (offset, frame.bytes()), fault);
    Ok(sound.map(|()| (frame, crc)).map_err(why))
}

/// Why there is no frame in these bytes, which are in memory.
fn unless_unreadable<F: DiskFile>(
    window: &Window<'_, F>,
    (offset, bytes): (u64, u64),
    fault: FrameFault,
) -> FrameFault {
    if window.has_hole(offset, bytes) { FrameFault::Unreadable } else { fault }
}

/// The frame at `offset`. Behind a hole nothing says which one it follows.
pub(crate) fn frame_at<F: DiskFile>(
    segment: &Segment,
    window: &mut Window<'_, F>,
    chain: Option<u32>,
    offset: u64,
    limit: u64,
) -> io::Result<Result<(FrameHeader, u32), FrameFault>> {
    let chain = match chain {
        Some(chain) => chain,
        None => match frame_header(&segment.header, window.get(offset, BLOCK_BYTES)?, offset) {
            Ok((frame, _)) => frame.prev_crc,
            Err(fault) => return Ok(Err(unless_unreadable(window, (offset, BLOCK_BYTES), fault))),
        },
    };
    next_frame(segment, window, offset, chain, limit)
}

/// Where the first frame at or behind `offset` begins.
pub(crate) fn find_frame<F: DiskFile>(
    segment: &Segment,
    window: &mut Window<'_, F>,
    offset: u64,
    limit: u64,
) -> io::Result<Option<u64>> {
    let mut at = offset;
    while at < limit {
        if frame_at(segment, window, None, at, limit)?.is_ok() {
            return Ok(Some(at));
        }
        at += BLOCK_BYTES;
    }
    Ok(None)
}

/// A header that is valid in itself and lies where it says.
pub(crate) fn frame_header(
    segment: &SegmentHeader,
    block: &[u8],
    offset: u64,
) -> Result<(FrameHeader, u32), FrameFault> {
    let (frame, crc) = FrameHeader::decode(block, segment.frame_seed())?;
    let is_here = frame.lsn == segment.base.plus(offset) && frame.seg_seq == segment.seq as u32;
    if !is_here && !raft_core::planted!(StaleFrameAccepted) {
        return Err(FrameFault::Position);
    }
    Ok((frame, crc))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::frame::FRAME_VERSION;
    use crate::format::identity::StoreId;
    use crate::format::lsn::Lsn;

    #[test]
    fn a_frame_is_only_valid_where_and_in_the_segment_it_was_written_for() {
        let segment = SegmentHeader {
            store: StoreId::new(1),
            seq: 2,
            base: Lsn::new(0x10_0000),
            prev_end: Lsn::new(0x10_0000),
            prev_crc: 0,
            salt: 9,
            incarnation: 1,
            bytes: 0x4000,
            recycled: false,
        };
        let header = FrameHeader {
            version: FRAME_VERSION,
            flags: 0,
            lsn: Lsn::new(0x10_1000),
            synced: Lsn::new(0x10_0000),
            seg_seq: 2,
            records: 0,
            body_bytes: 0,
            prev_crc: 0,
            body_crc: 0,
            incarnation: 1,
            stance_back: 0,
        };
        let (block, _) = header.encode(segment.frame_seed());
        let judge = |segment: &SegmentHeader, offset| {
            frame_header(segment, &block, offset).map(|(header, _)| header)
        };
        assert_eq!(judge(&segment, 0x1000), Ok(header));
        assert_eq!(judge(&segment, 0x2000), Err(FrameFault::Position));
        let moved = SegmentHeader { base: Lsn::new(0x20_0000), ..segment };
        assert_eq!(judge(&moved, 0x1000), Err(FrameFault::Position));
        let reused = SegmentHeader { seq: 3, ..segment };
        assert_eq!(judge(&reused, 0x1000), Err(FrameFault::Position));
        let salted = SegmentHeader { salt: 10, ..segment };
        assert_eq!(judge(&salted, 0x1000), Err(FrameFault::HeaderChecksum));
    }
}
