//! How many bytes of a group's log lie behind an index, nearly: what snapshots are due by, and how
//! much of the log is kept for peers.
//!
//! Every entry is counted when it is applied, and every so many bytes its place is noted; the
//! further back the count reaches, the coarser it gets. It begins anew with every life of a node,
//! so what lies before that is not in it.
//!
//! Bound: some hundred notes per group, however long its log is.

use std::collections::VecDeque;

use raft_core::LogIndex;

/// Places are never nearer to each other than that.
const SPACING_MIN: u64 = 1 << 10;
/// A note is due when so many parts of what is counted came since the last.
const PARTS: u64 = 64;

#[derive(Debug, Default)]
pub(super) struct LogSizes {
    /// Bytes ever applied.
    total: u64,
    /// Bytes applied before what is counted.
    origin: u64,
    /// Up to which index, how many bytes; both ascending.
    notes: VecDeque<(LogIndex, u64)>,
}

impl LogSizes {
    /// An entry was applied.
    pub(super) fn note(&mut self, index: LogIndex, bytes: u64) {
        self.total += bytes;
        let last = self.notes.back().map_or(self.origin, |(_, bytes)| *bytes);
        let spacing = SPACING_MIN.max((self.total - self.origin) / PARTS);
        if self.total - last >= spacing {
            self.notes.push_back((index, self.total));
        }
    }

    /// Bytes ever applied.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// At most so many bytes lie behind an index; some more than there are.
    pub(super) fn behind(&self, index: LogIndex) -> u64 {
        let before = self.notes.partition_point(|(noted, _)| *noted <= index);
        let bytes = before.checked_sub(1).map_or(self.origin, |at| self.notes[at].1);
        self.total - bytes
    }

    /// The first noted index behind which no more than so many bytes lie.
    pub(super) fn first_within(&self, bytes: u64) -> Option<LogIndex> {
        let before = self.notes.partition_point(|(_, noted)| self.total - noted > bytes);
        self.notes.get(before).map(|(index, _)| *index)
    }

    /// The log was compacted up to an index.
    pub(super) fn forget(&mut self, upto: LogIndex) {
        while let Some((_, bytes)) = self.notes.pop_front_if(|(index, _)| *index <= upto) {
            self.origin = bytes;
        }
    }

    /// Whatever was counted is gone.
    pub(super) fn reset(&mut self) {
        self.notes.clear();
        self.origin = self.total;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(index: u64) -> LogIndex {
        LogIndex::new(index)
    }

    #[test]
    fn what_lies_behind_an_index_is_never_underrated_and_never_by_much() {
        let mut sizes = LogSizes::default();
        for at in 1..=100_000 {
            sizes.note(index(at), 700);
        }
        assert!(sizes.notes.len() < 1000, "{}", sizes.notes.len());
        for at in [0, 1, 50_000, 99_000, 99_990] {
            let behind = (100_000 - at) * 700;
            let told = sizes.behind(index(at));
            assert!(told >= behind && told <= behind + 100_000 * 700 / PARTS, "{at}: {told}");
        }
        let within = sizes.first_within(7_000_000).unwrap();
        assert!(sizes.behind(within) <= 7_000_000);
        assert!((90_000..92_000).contains(&within.get()), "{within}");
        sizes.forget(index(99_000));
        assert!(sizes.behind(index(0)) <= 1000 * 700 + 100_000 * 700 / PARTS);
        sizes.reset();
        assert_eq!((sizes.behind(index(0)), sizes.first_within(0)), (0, None));
        assert_eq!(sizes.total(), 70_000_000);
    }
}
