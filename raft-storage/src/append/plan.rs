//! The plan of a batch: which records it becomes, and how they divide into frames.
//!
//! Sizes come before bytes, because a frame must know its place before it is encoded (its
//! position is part of every checksum), and only its size tells whether it still fits into the
//! segment.
//!
//! A frame is atomic on disk. An operation is split over frames only if it is larger than a
//! frame may be; then a crash may leave a prefix of it, in the order of the
//! fields of [`GroupWrite`], and each such prefix is a state the group could have asked for.

use std::ops::Range;

use bytes::Bytes;
use raft_core::Entry;

use crate::append::write::{GroupCreate, GroupWrite};
use crate::format::base;
use crate::format::frame::frame_bytes;
use crate::format::record::{ALIGNMENT, RECORD_HEADER_BYTES, item_bytes};

/// One record to be: a part of the operation `write`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Piece {
    pub(crate) write: usize,
    pub(crate) part: Part,
    /// With header and padding.
    pub(crate) bytes: u64,
}

/// Which part of an operation.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Part {
    Create,
    Promise,
    HardState,
    DropFetched,
    /// These of the entries that were fetched; all of one term, with consecutive indexes.
    Fetched(Range<usize>),
    /// The payload of the record.
    Install(Bytes),
    Truncate,
    /// These of its entries; all of one term.
    Run(Range<usize>),
    /// The payload of the record.
    Compact(Bytes),
    Destroy,
}

/// The records of a batch, in order, and where the frames divide them. Reused from batch to
/// batch, so that its memory is allocated once.
#[derive(Default)]
pub(crate) struct Plan {
    pub(crate) pieces: Vec<Piece>,
    pub(crate) frames: Vec<FramePlan>,
    /// How large the first frame may become, if it was begun before.
    open_bytes_max: Option<u64>,
}

/// A frame that was begun and is not written yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OpenFrame {
    /// What it holds.
    pub(crate) body_bytes: u64,
    /// What it may hold.
    pub(crate) body_bytes_max: u64,
}

/// One frame to be.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct FramePlan {
    pub(crate) pieces: Range<usize>,
    pub(crate) body_bytes: u64,
}

impl FramePlan {
    /// Bytes on disk.
    pub(crate) fn bytes(&self) -> u64 {
        frame_bytes(self.body_bytes)
    }
}

impl Plan {
    /// Plans a batch. A frame takes at most `body_bytes_max`, except for a single record that
    /// is larger: it has a frame of its own. `open`: what the batch may continue, as the first of its
    /// frames; that may get nothing, where nothing fits.
    pub(crate) fn build(
        &mut self,
        writes: &[GroupWrite],
        open: Option<OpenFrame>,
        body_bytes_max: u64,
    ) {
        self.pieces.clear();
        self.frames.clear();
        self.open_bytes_max = open.map(|open| open.body_bytes_max);
        self.frames
            .extend(open.map(|open| FramePlan { pieces: 0..0, body_bytes: open.body_bytes }));
        for (at, write) in writes.iter().enumerate() {
            if let Some(create) = &write.create {
                self.push(at, Part::Create, create_bytes(create), body_bytes_max);
            }
            if write.promise.is_some() {
                self.push(at, Part::Promise, HEADER, body_bytes_max);
            }
            if write.hard_state.is_some() {
                self.push(at, Part::HardState, HEADER, body_bytes_max);
            }
            if write.drop_fetched {
                self.push(at, Part::DropFetched, HEADER, body_bytes_max);
            }
            self.push_runs(at, &write.fetched, Part::Fetched, body_bytes_max);
            if let Some(meta) = &write.install {
                let live = write.live_upto(meta.index);
                let payload = base::encode(&base::of_snapshot(meta), &live);
                self.push_base(at, Part::Install, payload, body_bytes_max);
            }
            if write.truncate_from.is_some() {
                self.push(at, Part::Truncate, HEADER, body_bytes_max);
            }
            self.push_runs(at, &write.entries, Part::Run, body_bytes_max);
            if let Some(compaction) = &write.compact {
                let live = write.live_upto(compaction.base.index);
                let payload = base::encode(compaction, &live);
                self.push_base(at, Part::Compact, payload, body_bytes_max);
            }
            if write.destroy.is_some() {
                // Where the next replica begins right behind, a crash must not come between them.
                let next = writes.get(at + 1).filter(|next| next.group == write.group);
                let create = next.and_then(|next| next.create.as_ref());
                let behind = create.map_or(0, create_bytes);
                let bytes = HEADER + REPLICA_BYTES;
                self.push_before(at, Part::Destroy, bytes, behind, body_bytes_max);
            }
        }
    }

    /// Divides entries into runs.
    fn push_runs(
        &mut self,
        write: usize,
        entries: &[Entry],
        part: fn(Range<usize>) -> Part,
        body_bytes_max: u64,
    ) {
        let mut from = 0;
        while let Some(first) = entries.get(from) {
            let mut bytes = HEADER + item_bytes(first.payload.len() as u64);
            let room = self.room(bytes, body_bytes_max);
            let mut to = from + 1;
            while let Some(entry) = entries.get(to) {
                let item = item_bytes(entry.payload.len() as u64);
                let ends = entry.term != first.term
                    || entry.index != entries[to - 1].index.next()
                    || to - from == RUN_ENTRIES_MAX
                    || bytes + item > room;
                if ends {
                    break;
                }
                bytes += item;
                to += 1;
            }
            self.push(write, part(from..to), bytes, body_bytes_max);
            from = to;
        }
    }

    /// How many bytes the next record may have, if it has at least `bytes`.
    fn room(&self, bytes: u64, body_bytes_max: u64) -> u64 {
        let last_max = self.last_bytes_max(body_bytes_max);
        match self.frames.last() {
            Some(frame) if frame.body_bytes + bytes <= last_max => last_max - frame.body_bytes,
            _ => body_bytes_max,
        }
    }

    /// How large the last frame may become.
    fn last_bytes_max(&self, body_bytes_max: u64) -> u64 {
        self.open_bytes_max.filter(|_| self.frames.len() == 1).unwrap_or(body_bytes_max)
    }

    fn push_base(
        &mut self,
        write: usize,
        part: fn(Bytes) -> Part,
        payload: Vec<u8>,
        body_bytes_max: u64,
    ) {
        let bytes = HEADER + (payload.len() as u64).next_multiple_of(ALIGNMENT);
        self.push(write, part(payload.into()), bytes, body_bytes_max);
    }

    fn push(&mut self, write: usize, part: Part, bytes: u64, body_bytes_max: u64) {
        self.push_before(write, part, bytes, 0, body_bytes_max);
    }

    /// Adds a record to a frame that has room for so many bytes behind it.
    fn push_before(
        &mut self,
        write: usize,
        part: Part,
        bytes: u64,
        behind: u64,
        body_bytes_max: u64,
    ) {
        let at = self.pieces.len();
        self.pieces.push(Piece { write, part, bytes });
        let last_max = self.last_bytes_max(body_bytes_max);
        match self.frames.last_mut() {
            Some(frame) if frame.body_bytes + bytes + behind <= last_max => {
                frame.body_bytes += bytes;
                frame.pieces.end = at + 1;
            }
            _ => self.frames.push(FramePlan { pieces: at..at + 1, body_bytes: bytes }),
        }
    }
}

/// What the record of a creation takes.
fn create_bytes(create: &GroupCreate) -> u64 {
    HEADER + (create.spec.len() as u64).next_multiple_of(ALIGNMENT)
}

const HEADER: u64 = RECORD_HEADER_BYTES as u64;
const REPLICA_BYTES: u64 = 8;
/// A run counts its entries in 16 bits.
const RUN_ENTRIES_MAX: usize = u16::MAX as usize;

#[cfg(test)]
mod tests {
    use raft_core::{
        Entry, EntryKind, GroupId, GroupIncarnation, HardState, LogIndex, LogTime, ReplicaId, Term,
        Tombstone,
    };

    use super::*;

    fn write(entries: &[(u64, usize)]) -> GroupWrite {
        let mut write = GroupWrite::new(GroupId::new(1));
        for (at, (term, bytes)) in entries.iter().enumerate() {
            write.entries.push(Entry {
                index: LogIndex::new(at as u64 + 1),
                term: Term::new(*term),
                kind: EntryKind::Command,
                time: LogTime::new(0),
                payload: Bytes::from(vec![0; *bytes]),
            });
        }
        write
    }

    fn frames(writes: &[GroupWrite], body_bytes_max: u64) -> Vec<Vec<(usize, Part)>> {
        frames_after(None, writes, body_bytes_max)
    }

    fn frames_after(
        open: Option<OpenFrame>,
        writes: &[GroupWrite],
        body_bytes_max: u64,
    ) -> Vec<Vec<(usize, Part)>> {
        let mut plan = Plan::default();
        plan.build(writes, open, body_bytes_max);
        if let (Some(open), Some(first)) = (open, plan.frames.first_mut()) {
            first.body_bytes -= open.body_bytes;
        }
        let pieces = |frame: &FramePlan| {
            assert_eq!(
                frame.body_bytes,
                plan.pieces[frame.pieces.clone()].iter().map(|piece| piece.bytes).sum::<u64>()
            );
            plan.pieces[frame.pieces.clone()]
                .iter()
                .map(|piece| (piece.write, piece.part.clone()))
                .collect()
        };
        plan.frames.iter().map(pieces).collect()
    }

    #[test]
    fn a_run_ends_with_its_term_and_a_batch_is_one_frame() {
        let mut first = write(&[(1, 8), (1, 8), (2, 8)]);
        first.hard_state = Some(HardState::default());
        let expected = vec![vec![
            (0, Part::HardState),
            (0, Part::Run(0..2)),
            (0, Part::Run(2..3)),
            (1, Part::Run(0..1)),
        ]];
        assert_eq!(frames(&[first, write(&[(1, 0)])], 4096), expected);
    }

    #[test]
    fn frames_are_filled_to_the_cap_and_a_larger_entry_travels_alone() {
        // 40 + 2 * (16 + 8) = 88 bytes fit, a third entry does not.
        let small = [(1, 8); 5];
        let runs: Vec<_> =
            [0..2, 2..4, 4..5].map(|run| vec![(0, Part::Run(run))]).into_iter().collect();
        assert_eq!(frames(&[write(&small)], 90), runs);
        let runs: Vec<_> =
            [0..1, 1..2, 2..3].map(|run| vec![(0, Part::Run(run))]).into_iter().collect();
        assert_eq!(frames(&[write(&[(1, 8), (1, 5000), (1, 8)])], 90), runs);
    }

    #[test]
    fn no_crash_comes_between_the_end_of_a_replica_and_the_beginning_of_the_next() {
        let group = GroupId::new(1);
        let mut destroy = GroupWrite::new(group);
        let (replica, hard_state) = (ReplicaId::new(3), HardState::default());
        destroy.destroy = Some(Tombstone { group, replica, hard_state });
        let mut create = GroupWrite::new(group);
        let (incarnation, spec) = (GroupIncarnation::new(1), Bytes::from(vec![0; 100]));
        create.create = Some(GroupCreate { incarnation, spec });
        let together = vec![(1, Part::Destroy), (2, Part::Create)];
        for entry_bytes in 0..200 {
            let writes = [write(&[(1, entry_bytes)]), destroy.clone(), create.clone()];
            let frames = frames(&writes, 300);
            assert!(frames.iter().any(|frame| frame.ends_with(&together)), "{frames:?}");
        }
    }

    #[test]
    fn a_batch_goes_on_in_the_frame_that_was_begun_as_far_as_that_may_grow() {
        let small = [(1, 8); 3];
        let runs = |runs: &[&[(usize, usize)]]| -> Vec<Vec<(usize, Part)>> {
            let run = |(from, to): &(usize, usize)| (0, Part::Run(*from..*to));
            runs.iter().map(|frame| frame.iter().map(run).collect()).collect()
        };
        let open = |body_bytes| Some(OpenFrame { body_bytes, body_bytes_max: 200 });
        let write = write(&small);
        let writes = [write];
        assert_eq!(frames_after(open(88), &writes, 300), runs(&[&[(0, 3)]]));
        // One entry takes 64 bytes, each further one 24.
        assert_eq!(frames_after(open(100), &writes, 300), runs(&[&[(0, 2)], &[(2, 3)]]));
        assert_eq!(frames_after(open(150), &writes, 300), runs(&[&[], &[(0, 3)]]));
    }
}
