//! Where the log is being written: the position of the next frame, and what is promised so far.
//!
//! Pure: it changes when the writer says that a write or sync has completed, never by itself.

use crate::format::lsn::Lsn;
use crate::format::segment::{BLOCK_BYTES, SegmentHeader};

/// The end of the log, in its newest segment.
/// The default is that of a log without a segment, in which no frame has room.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cursor {
    pub(crate) slot: u32,
    pub(crate) seq: u64,
    pub(crate) base: Lsn,
    /// What the header checksums of this segment start from.
    pub(crate) seed: u32,
    /// The length of the segment.
    pub(crate) bytes: u64,
    /// Where the next frame goes, in the file.
    pub(crate) offset: u64,
    /// The header checksum of the last frame.
    pub(crate) chain: u32,
    /// The life of the node.
    pub(crate) incarnation: u64,
    /// Everything below is durable.
    pub(crate) synced: Lsn,
    /// The highest promise in a frame so far.
    pub(crate) promised: Lsn,
    /// Where the last frame with content ends; sync markers do not count.
    pub(crate) content_end: Lsn,
    /// The newest frame that changes what a replica stands by: no later one does. `None`: not known. Zero:
    /// none ever did.
    pub(crate) stance: Option<Lsn>,
}

impl Default for Cursor {
    fn default() -> Self {
        Self {
            slot: 0,
            seq: 0,
            base: Lsn::ZERO,
            seed: 0,
            bytes: 0,
            offset: 0,
            chain: 0,
            incarnation: 0,
            synced: Lsn::ZERO,
            promised: Lsn::ZERO,
            content_end: Lsn::ZERO,
            stance: Some(Lsn::ZERO),
        }
    }
}

/// What a frame holds.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum Holds {
    /// Its promise that what came before is durable.
    #[default]
    Nothing,
    /// Records, none of which changes what a replica stands by.
    Content,
    /// Some of which do.
    Stance,
}

impl Cursor {
    /// The beginning of a new segment, behind everything `self` has written.
    pub(crate) fn rotated(self, slot: u32, header: &SegmentHeader) -> Self {
        Self {
            slot,
            seq: header.seq,
            base: header.base,
            seed: header.frame_seed(),
            bytes: header.bytes,
            offset: BLOCK_BYTES,
            ..self
        }
    }

    /// The position of the next frame: everything below is written.
    pub(crate) fn end(&self) -> Lsn {
        self.base.plus(self.offset)
    }

    /// How large the next frame may be.
    pub(crate) fn room(&self) -> u64 {
        self.bytes.saturating_sub(self.offset)
    }

    /// A frame was written.
    pub(crate) fn wrote(&mut self, bytes: u64, crc: u32, holds: Holds) {
        if holds == Holds::Stance {
            self.stance = Some(self.end());
        }
        self.offset += bytes;
        self.chain = crc;
        // Every frame carries the promise of its time.
        self.promised = self.synced;
        if holds != Holds::Nothing {
            self.content_end = self.end();
        }
    }

    /// Everything below `synced` is durable.
    pub(crate) fn synced(&mut self, synced: Lsn) {
        self.synced = self.synced.max(synced);
    }

    /// Whether durable content exists that no frame promises yet.
    pub(crate) fn owes_promise(&self) -> bool {
        self.promised < self.content_end.min(self.synced)
    }
}
