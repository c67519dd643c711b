//! The payloads of one group's newest entries: what the core's metadata refers to.
//!
//! A contiguous window that ends at the end of the log. Appends, persist operations and applies
//! take their entries from here; what has been applied and written is dropped from the front
//! once the window outgrows its limit, and is read back from the log if a peer falls behind.
//!
//! Invariant: the window is contiguous, and holds exactly the entries of the core's log.

use std::collections::VecDeque;

use raft_core::{Entry, LogIndex};

#[derive(Debug, Default)]
pub(crate) struct Payloads {
    /// The index of the first entry in the window; one past the end if it is empty.
    first: LogIndex,
    entries: VecDeque<Entry>,
    bytes: u64,
}

impl Payloads {
    /// An empty window at the end of a recovered log.
    pub(crate) fn after(last: LogIndex) -> Self {
        Self { first: last.next(), entries: VecDeque::new(), bytes: 0 }
    }

    pub(crate) fn push(&mut self, entry: Entry) {
        debug_assert_eq!(entry.index, self.end());
        self.bytes += entry.cost();
        self.entries.push_back(entry);
    }

    /// One past the last entry.
    fn end(&self) -> LogIndex {
        self.first.plus(self.entries.len() as u64)
    }

    pub(crate) fn truncate(&mut self, from: LogIndex) {
        while self.entries.back().is_some_and(|last| last.index >= from) {
            if let Some(gone) = self.entries.pop_back() {
                self.bytes -= gone.cost();
            }
        }
        if from < self.first {
            self.first = from;
        }
    }

    pub(crate) fn get(&self, index: LogIndex) -> Option<&Entry> {
        if index < self.first {
            return None;
        }
        self.entries.get(index.since(self.first) as usize)
    }

    /// The entries `first..=last`, or `None` if some lie before the window.
    pub(crate) fn range(
        &self,
        first: LogIndex,
        last: LogIndex,
    ) -> Option<impl ExactSizeIterator<Item = &Entry> + Clone> {
        if first < self.first || last >= self.end() || last < first {
            return None;
        }
        let from = first.since(self.first) as usize;
        let to = last.since(self.first) as usize;
        Some(self.entries.range(from..=to))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Drops entries from the front, up to and including `upto`, while the window is larger than
    /// `limit` bytes. They must be in the log.
    pub(crate) fn evict(&mut self, upto: LogIndex, limit: u64) {
        while self.bytes > limit
            && let Some(gone) = self.entries.front().filter(|front| front.index <= upto)
        {
            self.bytes -= gone.cost();
            self.first = gone.index.next();
            self.entries.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use raft_core::{EntryKind, LogTime, Term};

    fn entry(index: u64) -> Entry {
        Entry {
            index: LogIndex::new(index),
            term: Term::new(1),
            kind: EntryKind::Command,
            time: LogTime::new(index),
            payload: Bytes::from(vec![0; 100]),
        }
    }

    fn window(count: u64) -> Payloads {
        let mut payloads = Payloads::after(LogIndex::ZERO);
        (1..=count).for_each(|index| payloads.push(entry(index)));
        payloads
    }

    #[test]
    fn eviction_drops_only_what_is_allowed_and_only_above_the_limit() {
        let mut payloads = window(10);
        payloads.evict(LogIndex::new(4), 0);
        assert!(payloads.get(LogIndex::new(4)).is_none());
        assert_eq!(payloads.get(LogIndex::new(5)).map(|e| e.index), Some(LogIndex::new(5)));
        payloads.evict(LogIndex::new(10), u64::MAX);
        assert!(payloads.get(LogIndex::new(5)).is_some());
        assert!(payloads.range(LogIndex::new(4), LogIndex::new(6)).is_none());
        let range = payloads.range(LogIndex::new(5), LogIndex::new(6));
        assert_eq!(range.map(|entries| entries.len()), Some(2));
    }

    #[test]
    fn truncation_below_the_window_leaves_it_empty_at_the_cut() {
        let mut payloads = window(10);
        payloads.evict(LogIndex::new(8), 0);
        payloads.truncate(LogIndex::new(3));
        assert_eq!(payloads.bytes, 0);
        payloads.push(entry(3));
        assert!(payloads.get(LogIndex::new(3)).is_some());
    }
}
