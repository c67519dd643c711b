//! What a checkpoint says of the log itself: where replay begins, and which segments it needs.

use std::io;

use crate::checkpoint::chunks::{ChunkReader, Name};
use crate::disk::DiskFile;
use crate::format::field::{put, u32_at, u64_at};
use crate::format::lsn::Lsn;

/// The beginning of a checkpoint.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Outline {
    pub(crate) name: Name,
    /// Replay begins here, in the segment with this sequence number.
    pub(crate) replay: Lsn,
    pub(crate) replay_seq: u64,
    /// The header checksum of the last frame before.
    pub(crate) chain: u32,
    /// Groups may have begun here that the log does not know any more.
    pub(crate) creations_lost: bool,
    /// Every segment that an entry lies in, and the one in which replay begins, by slot. What is
    /// younger than that is found in the directory, without a gap.
    pub(crate) segments: Vec<Listed>,
}

/// A segment that a checkpoint needs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Listed {
    pub(crate) slot: u32,
    pub(crate) seq: u64,
    pub(crate) base: Lsn,
    pub(crate) bytes: u64,
}

impl Outline {
    /// Whether a segment must stay as it is as long as this checkpoint is kept.
    pub(crate) fn needs(&self, slot: u32, seq: u64) -> bool {
        seq >= self.replay_seq || self.lists(slot, seq)
    }

    /// Whether it names a segment. Cost: a binary search.
    fn lists(&self, slot: u32, seq: u64) -> bool {
        let at = self.segments.binary_search_by_key(&slot, |listed| listed.slot);
        at.is_ok_and(|at| self.segments[at].seq == seq)
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; FIXED_BYTES];
        put(&mut bytes, 0, &FORMAT.to_le_bytes());
        put(&mut bytes, 4, &self.chain.to_le_bytes());
        put(&mut bytes, 8, &self.replay.get().to_le_bytes());
        put(&mut bytes, 16, &self.replay_seq.to_le_bytes());
        put(&mut bytes, 24, &(self.segments.len() as u32).to_le_bytes());
        put(&mut bytes, 28, &u32::from(self.creations_lost).to_le_bytes());
        for listed in &self.segments {
            let mut row = [0; LISTED_BYTES];
            put(&mut row, 0, &listed.slot.to_le_bytes());
            put(&mut row, 8, &listed.seq.to_le_bytes());
            put(&mut row, 16, &listed.base.get().to_le_bytes());
            put(&mut row, 24, &listed.bytes.to_le_bytes());
            bytes.extend_from_slice(&row);
        }
        bytes
    }

    /// Reads the beginning of a stream; `None` if it is none.
    ///
    /// # Errors
    /// [`CheckpointFault::Format`] if another version wrote it: the sum of its first chunk holds.
    pub(crate) fn read<F: DiskFile>(
        stream: &mut ChunkReader<'_, F>,
    ) -> Result<Option<Self>, CheckpointFault> {
        let name = stream.name();
        let Some(fixed) = stream.take(FIXED_BYTES)? else { return Ok(None) };
        let format = u32_at(fixed, 0);
        if format != FORMAT {
            return Err(CheckpointFault::Format(format));
        }
        let mut outline = Self {
            name,
            replay: Lsn::new(u64_at(fixed, 8)),
            replay_seq: u64_at(fixed, 16),
            chain: u32_at(fixed, 4),
            creations_lost: u32_at(fixed, 28) != 0,
            segments: Vec::new(),
        };
        for _ in 0..u32_at(fixed, 24) {
            let Some(row) = stream.take(LISTED_BYTES)? else { return Ok(None) };
            outline.segments.push(Listed {
                slot: u32_at(row, 0),
                seq: u64_at(row, 8),
                base: Lsn::new(u64_at(row, 16)),
                bytes: u64_at(row, 24),
            });
        }
        Ok(Some(outline))
    }
}

/// Why nothing can be said of a checkpoint.
#[derive(Debug)]
pub(crate) enum CheckpointFault {
    Io(io::Error),
    /// It has this one, which is another.
    Format(u32),
}

impl From<io::Error> for CheckpointFault {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

const FORMAT: u32 = 2;
const FIXED_BYTES: usize = 32;
const LISTED_BYTES: usize = 32;
