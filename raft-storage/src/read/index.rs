//! The index: for every group, where its entries lie and which term each has.
//!
//! The writer publishes a batch under one write lock, after its bytes are in the page cache;
//! readers copy places under a read lock and read files without any. What a place points at is
//! never overwritten, so a place copied before a truncation still reads the entry it named.
//!
//! Cost: 8 bytes per entry, 16 per change of term, about 100 per group (a table row, its share
//! of the map). An idle group holds no buffer.
//!
//! Invariant: `locations[i]` belongs to index `first + i`; places of one group grow with it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;
use raft_core::{GroupId, GroupIncarnation, LogIndex, Term};

use crate::disk::Disk;
use crate::format::lsn::Lsn;
use crate::read::location::Location;
use crate::read::open_files::OpenFiles;

/// What writer and readers share.
pub(crate) struct Shared<D: Disk> {
    pub(crate) index: RwLock<Index>,
    /// The position of the first byte of each segment, by slot.
    pub(crate) bases: RwLock<BTreeMap<u32, Lsn>>,
    pub(crate) files: OpenFiles<D>,
    durable: AtomicU64,
}

impl<D: Disk> Shared<D> {
    pub(crate) fn new(
        index: Index,
        bases: BTreeMap<u32, Lsn>,
        files: OpenFiles<D>,
        durable: Lsn,
    ) -> Self {
        Self {
            index: RwLock::new(index),
            bases: RwLock::new(bases),
            files,
            durable: AtomicU64::new(durable.get()),
        }
    }

    pub(crate) fn durable(&self) -> Lsn {
        Lsn::new(self.durable.load(Ordering::Acquire))
    }

    pub(crate) fn set_durable(&self, durable: Lsn) {
        self.durable.store(durable.get(), Ordering::Release);
    }
}

/// All groups of the log. Slots number them in the order of their creation.
#[derive(Default)]
pub(crate) struct Index {
    pub(crate) slots: GroupSlots,
    pub(crate) groups: Vec<GroupIndex>,
}

impl Index {
    pub(crate) fn group(&self, group: GroupId) -> Option<&GroupIndex> {
        let slot = self.slots.get(&group)?;
        Some(&self.groups[*slot as usize]).filter(|group| group.presence == Presence::Here)
    }

    /// Begins a group, or its next life; returns its slot.
    pub(crate) fn create(&mut self, group: GroupId, incarnation: GroupIncarnation) -> u32 {
        let fresh = GroupIndex::new(incarnation);
        if let Some(slot) = self.slots.get(&group) {
            self.groups[*slot as usize] = fresh;
            return *slot;
        }
        let slot = self.groups.len() as u32;
        self.slots.insert(group, slot);
        self.groups.push(fresh);
        slot
    }
}

/// Whether the log holds a group, or only remembers that it did.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Presence {
    Here,
    Destroyed,
}

/// The entries of one group.
pub(crate) struct GroupIndex {
    pub(crate) presence: Presence,
    pub(crate) incarnation: GroupIncarnation,
    pub(crate) first: LogIndex,
    pub(crate) locations: VecDeque<Location>,
    /// Where each term begins, in order.
    pub(crate) runs: Vec<(LogIndex, Term)>,
}

impl GroupIndex {
    fn new(incarnation: GroupIncarnation) -> Self {
        Self {
            presence: Presence::Here,
            incarnation,
            first: LogIndex::new(1),
            locations: VecDeque::new(),
            runs: Vec::new(),
        }
    }

    pub(crate) fn last(&self) -> LogIndex {
        LogIndex::new(self.first.get() - 1 + self.locations.len() as u64)
    }

    pub(crate) fn location(&self, index: LogIndex) -> Option<Location> {
        let at = index.get().checked_sub(self.first.get())?;
        self.locations.get(usize::try_from(at).ok()?).copied()
    }

    pub(crate) fn term(&self, index: LogIndex) -> Option<Term> {
        if index < self.first || index > self.last() {
            return None;
        }
        let after = self.runs.partition_point(|(start, _)| *start <= index);
        Some(self.runs[after.checked_sub(1)?].1)
    }

    /// Appends entries of one term, right after the last one.
    pub(crate) fn append(&mut self, term: Term, locations: &[Location]) {
        if self.runs.last().is_none_or(|(_, last)| *last != term) {
            self.runs.push((self.last().next(), term));
        }
        self.locations.extend(locations);
    }

    /// Forgets all but the life of the group.
    pub(crate) fn destroy(&mut self) {
        *self = Self { presence: Presence::Destroyed, ..Self::new(self.incarnation) };
    }

    /// Removes all entries; the next one comes right after `base`.
    pub(crate) fn install(&mut self, base: LogIndex) {
        self.first = base.next();
        self.locations = VecDeque::new();
        self.runs = Vec::new();
    }

    /// Removes all entries up to `base`, which the log holds or begins after.
    pub(crate) fn compact(&mut self, base: LogIndex) {
        let first = base.next();
        let gone = first.since(self.first).min(self.locations.len() as u64);
        self.locations.drain(..gone as usize);
        // A log that shrank much gives its memory back.
        if self.locations.capacity() > 64 && self.locations.len() < self.locations.capacity() / 4 {
            self.locations.shrink_to_fit();
        }
        let passed = self.runs.partition_point(|(start, _)| *start <= first);
        self.runs.drain(..passed.saturating_sub(1));
        match self.runs.first_mut() {
            Some((start, _)) if !self.locations.is_empty() => *start = (*start).max(first),
            Some(_) | None => self.runs.clear(),
        }
        self.first = self.first.max(first);
    }

    /// Removes all entries from `from` on.
    pub(crate) fn truncate(&mut self, from: LogIndex) {
        let keep = from.since(self.first).min(self.locations.len() as u64);
        self.locations.truncate(keep as usize);
        while self.runs.last().is_some_and(|(start, _)| *start >= from) {
            self.runs.pop();
        }
    }
}

/// From group to slot.
pub(crate) type GroupSlots = HashMap<GroupId, u32, BuildHasherDefault<GroupHasher>>;

/// Hashes a group id by one multiplication: ids are given by the operator, not by an attacker,
/// and the append path looks up every group of every batch.
#[derive(Default)]
pub(crate) struct GroupHasher(u64);

impl Hasher for GroupHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte));
        }
    }

    fn write_u32(&mut self, value: u32) {
        let mixed = (self.0 ^ u64::from(value)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        // The table takes bits from both ends; the low ones of a product are poor.
        self.0 = mixed ^ (mixed >> 32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(count: u64) -> Vec<Location> {
        (0..count).map(|i| Location::new(0, 4096 + i * 16, 0)).collect()
    }

    #[test]
    fn a_compacted_log_keeps_the_terms_of_what_is_left() {
        let mut group = GroupIndex::new(GroupIncarnation::new(1));
        group.append(Term::new(2), &places(3));
        group.append(Term::new(5), &places(3));
        let seen = |group: &GroupIndex| {
            let first = (group.first.get(), group.last().get());
            (first, group.runs.iter().map(|(start, term)| (start.get(), term.get())).collect())
        };
        group.compact(LogIndex::new(2));
        assert_eq!(seen(&group), ((3, 6), vec![(3, 2), (4, 5)]));
        assert_eq!(group.term(LogIndex::new(2)), None);
        group.compact(LogIndex::new(3));
        assert_eq!(seen(&group), ((4, 6), vec![(4, 5)]));
        group.compact(LogIndex::new(5));
        assert_eq!(seen(&group), ((6, 6), vec![(6, 5)]));
        group.compact(LogIndex::new(6));
        assert_eq!(seen(&group), ((7, 6), vec![]));
        group.append(Term::new(5), &places(2));
        assert_eq!(seen(&group), ((7, 8), vec![(7, 5)]));
        group.install(LogIndex::new(100));
        assert_eq!(seen(&group), ((101, 100), vec![]));
        group.append(Term::new(9), &places(1));
        assert_eq!(group.term(LogIndex::new(101)), Some(Term::new(9)));
    }

    #[test]
    fn terms_follow_appends_and_truncations() {
        let mut group = GroupIndex::new(GroupIncarnation::new(1));
        assert_eq!((group.last(), group.term(LogIndex::new(1))), (LogIndex::ZERO, None));
        group.append(Term::new(2), &places(3));
        group.append(Term::new(2), &places(1));
        group.append(Term::new(5), &places(2));
        let terms = |group: &GroupIndex| -> Vec<u64> {
            (1..=group.last().get()).map(|i| group.term(LogIndex::new(i)).unwrap().get()).collect()
        };
        assert_eq!(terms(&group), [2, 2, 2, 2, 5, 5]);
        assert_eq!(group.runs.len(), 2);
        group.truncate(LogIndex::new(6));
        assert_eq!(terms(&group), [2, 2, 2, 2, 5]);
        group.truncate(LogIndex::new(3));
        group.append(Term::new(7), &places(1));
        assert_eq!(terms(&group), [2, 2, 7]);
        group.truncate(LogIndex::new(1));
        assert!(group.runs.is_empty() && group.locations.is_empty());
        assert_eq!(group.term(LogIndex::ZERO), None);
    }
}
