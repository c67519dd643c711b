//! Operations with large entries, on their way into the log in pieces.
//!
//! An entry of many MiB written at once makes every other group wait for it. So the log thread writes
//! a piece of it, makes that durable, and sees to the others before the next piece. What a group asks
//! for after a large entry waits behind it; groups with large entries take turns.
//!
//! Bound: holds what was handed in, which [`LogLoad`](crate::engine::LogLoad) bounds.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use raft_core::{EntryKind, GroupId, LogIndex};
use raft_storage::{GroupWrite, Large, Piece};

use super::log_thread::Waiting;

/// The operations of groups that have a large entry in them, and those behind.
pub(super) struct LargeEntries {
    /// What the log calls large; `None`: it writes entries whole.
    limits: Option<Large>,
    /// Whose turn it is.
    turns: VecDeque<GroupId>,
    queues: HashMap<GroupId, Queue>,
}

#[derive(Default)]
struct Queue {
    operations: VecDeque<Waiting>,
    /// Of the large entry that is being written: what of it is in the log.
    written: Vec<Piece>,
    bytes: usize,
}

/// The next piece to be written.
pub(super) struct NextPiece {
    pub(super) group: GroupId,
    pub(super) payload: Bytes,
}

impl LargeEntries {
    pub(super) fn new(limits: Option<Large>) -> Self {
        Self { limits, turns: VecDeque::new(), queues: HashMap::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queues.is_empty()
    }

    /// Takes an operation that is large, or whose group has a large one before it; gives back others.
    pub(super) fn take(&mut self, waiting: Waiting) -> Option<Waiting> {
        let group = waiting.write.group;
        if let Some(queue) = self.queues.get_mut(&group) {
            queue.operations.push_back(waiting);
            return None;
        }
        if self.large_entry(&waiting.write).is_none() {
            return Some(waiting);
        }
        self.queues.entry(group).or_default().operations.push_back(waiting);
        self.turns.push_back(group);
        None
    }

    /// What is to be written next, no more than `bytes_max` of it. `held`: groups for which something
    /// older waits elsewhere.
    pub(super) fn next(
        &mut self,
        bytes_max: u64,
        held: impl Fn(GroupId) -> bool,
    ) -> Option<NextPiece> {
        let at = self.turns.iter().position(|group| !held(*group))?;
        let group = self.turns[at];
        let limits = self.limits?;
        let queue = self.queues.get(&group)?;
        let write = &queue.operations.front()?.write;
        let payload = &write.entries[self.large_entry(write)?.0].payload;
        let end = payload.len().min(queue.bytes + limits.piece_bytes_max.min(bytes_max) as usize);
        Some(NextPiece { group, payload: payload.slice(queue.bytes..end) })
    }

    /// The piece is written. Returns what may go on the ordinary way now: operations whose large
    /// entries are all in the log, and those behind them.
    pub(super) fn wrote(&mut self, next: &NextPiece, piece: Piece) -> Vec<Waiting> {
        self.turns.retain(|other| *other != next.group);
        let Some(mut queue) = self.queues.remove(&next.group) else { return Vec::new() };
        queue.written.push(piece);
        queue.bytes += next.payload.len();
        if let Some(front) = queue.operations.front_mut()
            && let Some((at, index)) = self.large_entry(&front.write)
            && queue.bytes == front.write.entries[at].payload.len()
        {
            let mut written = std::mem::take(&mut queue.written);
            if raft_core::planted!(LastPieceForgotten) {
                written.pop();
            }
            queue.bytes = 0;
            front.write.put_in_pieces(index, &written);
            front.cost = front.write.cost();
        }
        let is_large = |waiting: &Waiting| self.large_entry(&waiting.write).is_some();
        let ready = queue.operations.iter().position(is_large);
        let ready = ready.unwrap_or(queue.operations.len());
        let released = queue.operations.drain(..ready).collect();
        if !queue.operations.is_empty() {
            // Others come before its next piece.
            self.turns.push_back(next.group);
            self.queues.insert(next.group, queue);
        }
        released
    }

    /// The first entry of an operation that is large and not in pieces yet.
    fn large_entry(&self, write: &GroupWrite) -> Option<(usize, LogIndex)> {
        let limits = self.limits?;
        // A group that begins with this very operation is not there for a piece.
        if write.create.is_some() {
            return None;
        }
        let is_large = |entry: &raft_core::Entry| {
            entry.kind == EntryKind::Command
                && entry.payload.len() as u64 >= limits.entry_bytes_min
                && !write.is_in_pieces(entry.index)
        };
        let at = write.entries.iter().position(is_large)?;
        Some((at, write.entries[at].index))
    }
}

#[cfg(test)]
mod tests {
    use raft_core::{Entry, GroupIncarnation, LogTime, NodeId, Term};
    use raft_storage::{
        Expected, GroupCreate, InitOptions, Log, LogOptions, LogWriter, MemDisk, Preparation,
        StoreId, init_on,
    };

    use super::*;

    const LIMITS: Large = Large { entry_bytes_min: 100, piece_bytes_max: 60 };

    fn operation(group: u32, sizes: &[usize]) -> Waiting {
        let mut write = GroupWrite::new(GroupId::new(group));
        write.entries = (1..)
            .zip(sizes)
            .map(|(index, bytes)| Entry {
                index: LogIndex::new(index),
                term: Term::new(1),
                kind: EntryKind::Command,
                time: LogTime::new(0),
                payload: vec![group as u8; *bytes].into(),
            })
            .collect();
        Waiting { cost: write.cost(), write, done: None }
    }

    /// A log in which the groups of these tests are known.
    fn log() -> LogWriter<MemDisk> {
        let disk = MemDisk::new();
        let store = Some(StoreId::new(1));
        init_on(&disk, "test", NodeId::new(1), &InitOptions { store }).unwrap();
        let options = LogOptions { preparation: Preparation::OnDemand, ..LogOptions::default() };
        let mut log = Log::open_on(disk, &Expected::default(), &options).unwrap().writer;
        for group in 1..=3 {
            let mut write = GroupWrite::new(GroupId::new(group));
            let incarnation = GroupIncarnation::new(1);
            write.create = Some(GroupCreate { incarnation, spec: Bytes::new() });
            log.append(&[write]).unwrap();
        }
        log
    }

    /// Takes turns until nothing is left: whose piece it was, its length, and who was released.
    fn turns(large: &mut LargeEntries) -> Vec<(u32, usize, Vec<u32>)> {
        let (mut log, mut seen) = (log(), Vec::new());
        while let Some(next) = large.next(u64::MAX, |_| false) {
            let (_, piece) = log.append_piece(next.group, &next.payload).unwrap();
            let released = large.wrote(&next, piece);
            let released = released.iter().map(|waiting| waiting.write.group.get()).collect();
            seen.push((next.group.get(), next.payload.len(), released));
        }
        seen
    }

    #[test]
    fn groups_take_turns_and_what_is_behind_a_large_entry_follows_it() {
        let mut large = LargeEntries::new(Some(LIMITS));
        assert!(large.take(operation(1, &[150, 10])).is_none());
        assert!(large.take(operation(2, &[10])).is_some(), "small and nothing before it");
        assert!(large.take(operation(1, &[10])).is_none(), "behind the large one of its group");
        assert!(large.take(operation(3, &[100])).is_none());
        assert!(large.take(operation(1, &[10, 120])).is_none());
        let expected = [
            (1, 60, vec![]),
            (3, 60, vec![]),
            (1, 60, vec![]),
            (3, 40, vec![3]),
            (1, 30, vec![1, 1]),
            (1, 60, vec![]),
            (1, 60, vec![1]),
        ];
        assert_eq!(turns(&mut large), expected);
        assert!(large.is_empty() && large.take(operation(1, &[10])).is_some());
    }

    #[test]
    fn a_log_that_writes_entries_whole_has_no_large_ones() {
        let mut large = LargeEntries::new(None);
        assert!(large.take(operation(1, &[1 << 20])).is_some());
    }

    #[test]
    fn whoever_has_something_older_waiting_is_passed_over() {
        let mut large = LargeEntries::new(Some(LIMITS));
        assert!(large.take(operation(1, &[100])).is_none());
        assert!(large.take(operation(2, &[100])).is_none());
        let next = large.next(u64::MAX, |group| group == GroupId::new(1));
        assert_eq!(next.map(|next| next.group), Some(GroupId::new(2)));
        assert!(large.next(u64::MAX, |_| true).is_none());
    }
}
