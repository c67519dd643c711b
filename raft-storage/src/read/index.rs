//! The index: for every group, where its entries lie, which term each has, and what else is in force.
//!
//! The writer publishes a batch under one write lock, after its bytes are in the page cache;
//! readers copy places under a read lock, pin their segments, and read files without any lock. What
//! a place points at is not written again while its segment is pinned, so a place copied before a
//! truncation still reads the entry it named.
//!
//! Cost: 8 bytes per entry, 16 per change of term, about 300 per group (a row of each table and its
//! share of the map) beside its description. An idle group holds no buffer.
//!
//! Invariants:
//! - `locations[i]` belongs to index `first + i`; what is kept beside the log lies before `first`;
//! - the places of a segment in all groups together are what the table of segments counts;
//! - places do not grow with the index, as entries are moved: what is durable is noted apart.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::RwLock;
use raft_core::{
    Entry, GroupId, GroupIncarnation, HardState, LogIndex, LogTime, Membership, PromiseRecord,
    Term, Tombstone,
};

use crate::append::write::Compaction;
use crate::disk::{Disk, replace_file};
use crate::format::live::LiveEntries;
use crate::format::lsn::Lsn;
use crate::format::pieces::Piece;
use crate::read::facts::Facts;
use crate::read::kept::Kept;
use crate::read::location::Location;
use crate::read::open_files::OpenFiles;
use crate::reclaim::segments::Segments;

/// What writer, readers and housekeeping share.
pub(crate) struct Shared<D: Disk> {
    pub(crate) index: RwLock<Index>,
    pub(crate) files: OpenFiles<D>,
    durable: AtomicU64,
    /// That an entry could not be read is noted beside the log, or is not to be.
    doubted: AtomicBool,
}

impl<D: Disk> Shared<D> {
    /// All of a log that was just opened is durable.
    pub(crate) fn new(index: Index, files: OpenFiles<D>, durable: Lsn) -> Self {
        let durable = AtomicU64::new(durable.get());
        Self { index: RwLock::new(index), files, durable, doubted: AtomicBool::new(false) }
    }

    /// The same for whoever only looks.
    pub(crate) fn to_look_at(index: Index, files: OpenFiles<D>, durable: Lsn) -> Self {
        Self { doubted: AtomicBool::new(true), ..Self::new(index, files, durable) }
    }

    /// An entry is damaged, or refused for good: the next open is to look at all of them before it trusts any.
    /// Once a life.
    pub(crate) fn note_doubt(&self) {
        if !self.doubted.swap(true, Ordering::Relaxed) {
            // Without the note the next open finds the entry damaged again when it is read.
            let _ = replace_file(self.files.disk(), DOUBT_NAME, DOUBT_CONTENT);
        }
    }

    pub(crate) fn durable(&self) -> Lsn {
        Lsn::new(self.durable.load(Ordering::Acquire))
    }

    /// `index` is the one of the log, which its writer holds.
    pub(crate) fn set_durable(&self, index: &mut Index, durable: Lsn) {
        index.synced(durable);
        self.durable.store(durable.get(), Ordering::Release);
    }
}

/// A file beside the log: some entry could not be read.
pub(crate) const DOUBT_NAME: &str = "doubt";
const DOUBT_CONTENT: &[u8] = b"an entry of the log could not be read\n";

/// All groups of the log. Slots number them in the order of their creation.
#[derive(Default)]
pub(crate) struct Index {
    pub(crate) slots: GroupSlots,
    pub(crate) groups: Vec<GroupIndex>,
    pub(crate) segments: Segments,
    /// Everything below is taken in here.
    pub(crate) end: Lsn,
    /// Where the payloads lie that are in pieces, by slot of the group and index of the entry.
    pub(crate) pieces: BTreeMap<(u32, LogIndex), Vec<Piece>>,
    /// Pieces whose entry did not come yet.
    pending: HashSet<Location>,
    /// Where each append ended that is not known to be durable: its group, and its last entry.
    appended: VecDeque<Appended>,
}

struct Appended {
    end: Lsn,
    slot: u32,
    last: LogIndex,
}

/// Where entries lie that are appended together, and what the log keeps of them beside that.
pub(crate) struct Run<'a> {
    pub(crate) term: Term,
    pub(crate) locations: &'a [Location],
    /// The memberships among them.
    pub(crate) configs: Vec<(LogIndex, Arc<Membership>)>,
    /// Where the payloads of those lie that are in pieces.
    pub(crate) pieces: Vec<(LogIndex, Vec<Piece>)>,
    /// The clock in the last one.
    pub(crate) last_time: LogTime,
}

impl Index {
    pub(crate) fn group(&self, group: GroupId) -> Option<&GroupIndex> {
        let slot = self.slots.get(&group)?;
        Some(&self.groups[*slot as usize]).filter(|group| group.presence == Presence::Here)
    }

    /// Begins a group, or its next life; returns its slot.
    pub(crate) fn create(
        &mut self,
        id: GroupId,
        incarnation: GroupIncarnation,
        spec: Bytes,
    ) -> u32 {
        let slot = match self.slots.get(&id) {
            Some(slot) => *slot,
            None => {
                let slot = self.groups.len() as u32;
                self.slots.insert(id, slot);
                self.groups.push(GroupIndex::new(id, incarnation));
                slot
            }
        };
        self.forget_entries(slot);
        let group = &mut self.groups[slot as usize];
        let tombstone = group.facts.tombstone;
        *group = GroupIndex::new(id, incarnation);
        group.facts = Facts { spec, tombstone, ..Facts::default() };
        slot
    }

    pub(crate) fn set_hard_state(&mut self, slot: u32, state: HardState) {
        self.groups[slot as usize].facts.hard_state = state;
    }

    pub(crate) fn set_promise(&mut self, slot: u32, promise: PromiseRecord) {
        self.groups[slot as usize].facts.promise = promise;
    }

    /// Appends entries of one term, right after the last one.
    pub(crate) fn append(&mut self, slot: u32, run: Run<'_>) {
        self.segments.born(run.locations.iter().copied());
        let group = &mut self.groups[slot as usize];
        group.append(run.term, run.locations);
        group.facts.configs.extend(run.configs);
        group.facts.last_time = Some(run.last_time);
        for (index, pieces) in run.pieces {
            self.put_pieces(slot, index, pieces);
        }
    }

    /// A piece was written whose entry comes later.
    pub(crate) fn add_pending(&mut self, place: Location) {
        self.segments.born([place]);
        self.pending.insert(place);
    }

    /// The payload of an entry lies here.
    pub(crate) fn put_pieces(&mut self, slot: u32, index: LogIndex, pieces: Vec<Piece>) {
        let places = pieces.iter().map(|piece| piece.location);
        self.segments.born(places.filter(|place| !self.pending.remove(place)));
        if let Some(before) = self.pieces.insert((slot, index), pieces) {
            self.segments.died(before.iter().map(|piece| piece.location));
        }
    }

    /// Pieces whose entry will not come.
    pub(crate) fn drop_pending(&mut self, pieces: &[Piece]) {
        let places = pieces.iter().map(|piece| piece.location);
        self.segments.died(places.filter(|place| self.pending.remove(place)));
    }

    /// The payloads of these entries are gone.
    fn forget_pieces(&mut self, slot: u32, first: LogIndex, last: LogIndex) {
        if first > last {
            return;
        }
        let range = (slot, first)..=(slot, last);
        let gone: Vec<_> = self.pieces.range(range).map(|(key, _)| *key).collect();
        for key in gone {
            let pieces = self.pieces.remove(&key).unwrap_or_default();
            self.segments.died(pieces.iter().map(|piece| piece.location));
        }
    }

    /// Removes all entries from `from` on.
    pub(crate) fn truncate(&mut self, slot: u32, from: LogIndex) {
        let group = &mut self.groups[slot as usize];
        let keep = from.since(group.first).min(group.locations.len() as u64) as usize;
        self.segments.died(group.locations.range(keep..).copied());
        group.truncate(from);
        self.forget_pieces(slot, from, LogIndex::new(u64::MAX));
        let group = &mut self.groups[slot as usize];
        let configs = &mut group.facts.configs;
        configs.truncate(configs.partition_point(|(at, _)| *at < from));
        group.facts.last_time = None;
        for appended in self.appended.iter_mut().filter(|appended| appended.slot == slot) {
            appended.last = appended.last.min(from.prev());
        }
    }

    /// Removes all entries but those that are named; the next one comes right after the base.
    pub(crate) fn install(&mut self, slot: u32, begins: Compaction, live: &LiveEntries) {
        let kept = self.collect(slot, live);
        self.forget_pieces_but(slot, LogIndex::new(u64::MAX), live);
        self.forget_places(slot);
        let group = &mut self.groups[slot as usize];
        group.install(begins.base.index);
        group.set_kept(kept);
        group.facts.configs.clear();
        group.facts.base_time = begins.time;
        group.facts.base = begins.base;
    }

    /// Removes all entries up to the base but those that are named. The log holds the base or begins
    /// after it.
    pub(crate) fn compact(&mut self, slot: u32, begins: Compaction, live: &LiveEntries) {
        let base = begins.base.index;
        let kept = self.collect(slot, live);
        self.forget_pieces_but(slot, base, live);
        let group = &mut self.groups[slot as usize];
        let gone = base.next().since(group.first).min(group.locations.len() as u64) as usize;
        self.segments.died(group.locations.range(..gone).copied());
        self.segments.died(group.kept().map(|(_, place)| place));
        group.compact(base);
        group.set_kept(kept);
        group.facts.configs.retain(|(at, _)| *at > base);
        group.facts.base_time = begins.time;
        group.facts.base = begins.base;
    }

    /// Forgets all but the life of the group and who it was.
    pub(crate) fn destroy(&mut self, slot: u32, tombstone: Tombstone) {
        self.forget_entries(slot);
        let group = &mut self.groups[slot as usize];
        let tombstone = Some((group.incarnation, tombstone));
        *group = GroupIndex::new(group.id, group.incarnation);
        group.presence = Presence::Destroyed;
        group.facts = Facts { tombstone, ..Facts::default() };
    }

    /// What is named, where it lies now. It is counted as alive once more.
    fn collect(&mut self, slot: u32, live: &LiveEntries) -> Kept {
        let group = &self.groups[slot as usize];
        let kept = Kept::collect(live, |index, term| group.named(index, term));
        self.segments.born(kept.iter().map(|(_, place)| place));
        kept
    }

    /// The payloads of entries up to `last` are gone, but for those that are named and held as entries
    /// of the log.
    fn forget_pieces_but(&mut self, slot: u32, last: LogIndex, live: &LiveEntries) {
        let group = &self.groups[slot as usize];
        let stays = |index: LogIndex| {
            live.term(index).is_some_and(|term| group.held_term(index) == Some(term))
        };
        let range = self.pieces.range((slot, LogIndex::ZERO)..=(slot, last));
        let gone: Vec<_> = range.map(|(key, _)| *key).filter(|(_, index)| !stays(*index)).collect();
        for key in gone {
            let pieces = self.pieces.remove(&key).unwrap_or_default();
            self.segments.died(pieces.iter().map(|piece| piece.location));
        }
    }

    /// Entries of a snapshot that is on its way here lie beside the log.
    pub(crate) fn fetch(&mut self, slot: u32, first: LogIndex, term: Term, places: &[Location]) {
        self.segments.born(places.iter().copied());
        let fetched = &mut self.groups[slot as usize].aside.get_or_insert_default().fetched;
        for (index, place) in (first.get()..).map(LogIndex::new).zip(places) {
            if let Some((_, before)) = fetched.insert(index, (term, *place)) {
                self.segments.died([before]);
            }
        }
    }

    /// What was fetched is not wanted any more.
    pub(crate) fn drop_fetched(&mut self, slot: u32) {
        let group = &mut self.groups[slot as usize];
        if let Some(aside) = &mut group.aside {
            let places = std::mem::take(&mut aside.fetched).into_values();
            self.segments.died(places.map(|(_, place)| place));
            group.tidy();
        }
    }

    /// An entry has another place; `false` if it is not where it was when it was copied.
    pub(crate) fn relocate(&mut self, moved: &Relocation) -> bool {
        let group = &mut self.groups[moved.slot as usize];
        let loses = raft_core::planted!(MovedLiveLost) && moved.index < group.first;
        let Some(place) = group.place_at(moved.index, moved.from) else { return false };
        if !loses {
            *place = moved.to;
        }
        self.segments.died([moved.from]);
        self.segments.born([moved.to]);
        true
    }

    /// Adds a group as a checkpoint holds it.
    pub(crate) fn restore(&mut self, group: GroupIndex, pieces: Vec<(LogIndex, Vec<Piece>)>) {
        self.segments.born(group.locations.iter().copied());
        self.segments.born(group.kept().map(|(_, place)| place));
        self.segments.born(group.fetched().map(|(_, _, place)| place));
        let slot = self.groups.len() as u32;
        self.slots.insert(group.id, slot);
        self.groups.push(group);
        for (index, pieces) in pieces {
            self.put_pieces(slot, index, pieces);
        }
    }

    /// The payloads of a group that are in pieces.
    pub(crate) fn pieces_of(&self, slot: u32) -> impl Iterator<Item = (LogIndex, &Vec<Piece>)> {
        let all = (slot, LogIndex::ZERO)..=(slot, LogIndex::new(u64::MAX));
        self.pieces.range(all).map(|((_, index), pieces)| (*index, pieces))
    }

    /// An append to a group has ended at `end`; the log is taken in up to there.
    pub(crate) fn appended(&mut self, slot: u32, end: Lsn) {
        let last = self.groups[slot as usize].last();
        self.appended.push_back(Appended { end, slot, last });
    }

    /// Everything below `durable` is.
    fn synced(&mut self, durable: Lsn) {
        while let Some(appended) = self.appended.pop_front_if(|appended| appended.end <= durable) {
            let group = &mut self.groups[appended.slot as usize];
            group.durable = group.durable.max(appended.last);
        }
    }

    /// Everything that was taken in is durable.
    pub(crate) fn all_durable(&mut self) {
        self.appended.clear();
        for group in &mut self.groups {
            group.durable = group.last();
        }
    }

    /// The entries of a group are gone, and so is what is known of their durability.
    fn forget_entries(&mut self, slot: u32) {
        self.forget_places(slot);
        self.forget_pieces(slot, LogIndex::ZERO, LogIndex::new(u64::MAX));
    }

    fn forget_places(&mut self, slot: u32) {
        let group = &mut self.groups[slot as usize];
        self.segments.died(group.locations.drain(..));
        if let Some(aside) = group.aside.take() {
            self.segments.died(aside.kept.iter().map(|(_, place)| place));
            self.segments.died(aside.fetched.into_values().map(|(_, place)| place));
        }
        self.appended.retain(|appended| appended.slot != slot);
    }
}

/// An entry was copied elsewhere.
#[derive(Clone, Debug)]
pub(crate) struct Relocation {
    pub(crate) slot: u32,
    pub(crate) index: LogIndex,
    pub(crate) from: Location,
    pub(crate) to: Location,
    /// Where the payload was copied, if it is in pieces.
    pub(crate) pieces: Option<Vec<Piece>>,
}

/// Whether the log holds a group, or only remembers that it did.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Presence {
    Here,
    Destroyed,
}

/// The log of one group.
#[derive(Clone, Debug)]
pub(crate) struct GroupIndex {
    pub(crate) id: GroupId,
    pub(crate) presence: Presence,
    pub(crate) incarnation: GroupIncarnation,
    pub(crate) first: LogIndex,
    pub(crate) locations: VecDeque<Location>,
    /// Where each term begins, in order.
    pub(crate) runs: Vec<(LogIndex, Term)>,
    /// The last entry that is durable together with all before it.
    pub(crate) durable: LogIndex,
    /// Entries that are not part of the log; most groups have none.
    pub(crate) aside: Option<Box<Aside>>,
    pub(crate) facts: Facts,
}

/// Entries of a group beside its log.
#[derive(Clone, Debug, Default)]
pub(crate) struct Aside {
    /// Those that outlive the beginning of the log.
    pub(crate) kept: Kept,
    /// Those of a snapshot that is on its way here.
    pub(crate) fetched: BTreeMap<LogIndex, (Term, Location)>,
}

impl GroupIndex {
    pub(crate) fn new(id: GroupId, incarnation: GroupIncarnation) -> Self {
        Self {
            id,
            presence: Presence::Here,
            incarnation,
            first: LogIndex::new(1),
            locations: VecDeque::new(),
            runs: Vec::new(),
            durable: LogIndex::ZERO,
            aside: None,
            facts: Facts::default(),
        }
    }

    /// Room for so many places more when a group has none left: an eighth, as the places of millions of
    /// entries are most of what the index takes; a quarter where they are many, as they are copied then.
    pub(crate) fn spare(places: usize) -> usize {
        match places {
            0..256 => (places / 8).max(4),
            256.. => places / 4,
        }
    }

    /// The entries that outlive the beginning of the log.
    pub(crate) fn kept(&self) -> impl Iterator<Item = (LogIndex, Location)> + '_ {
        self.aside.iter().flat_map(|aside| aside.kept.iter())
    }

    /// What is kept from an index on, about so many bytes of it, one entry at least: with its term and its
    /// segment.
    pub(crate) fn kept_from(&self, from: LogIndex, bytes: u64) -> Vec<(LogIndex, Term, u32)> {
        let Some(aside) = &self.aside else { return Vec::new() };
        let mut left = bytes;
        let named = aside.kept.from(from).map_while(|(index, place)| {
            let is_over = left == 0;
            left = left.saturating_sub(place.payload_bytes_min() + Entry::OVERHEAD);
            let term = aside.kept.term(index)?;
            (!is_over).then(|| (index, term, place.slot()))
        });
        named.collect()
    }

    /// The entries of a snapshot that is on its way here.
    pub(crate) fn fetched(&self) -> impl Iterator<Item = (LogIndex, Term, Location)> + '_ {
        let all = self.aside.iter().flat_map(|aside| &aside.fetched);
        all.map(|(index, (term, place))| (*index, *term, *place))
    }

    /// Where an entry lies that the log holds, or that is kept from before it.
    pub(crate) fn held(&self, index: LogIndex) -> Option<Location> {
        self.location(index).or_else(|| self.aside.as_ref()?.kept.place(index))
    }

    /// Its term.
    pub(crate) fn held_term(&self, index: LogIndex) -> Option<Term> {
        self.term(index).or_else(|| self.aside.as_ref()?.kept.term(index))
    }

    /// Where an entry lies of which index and term are known, wherever it is held.
    pub(crate) fn named(&self, index: LogIndex, term: Term) -> Option<Location> {
        match self.held_term(index) == Some(term) {
            true => self.held(index),
            false => self.fetched_at(index, term),
        }
    }

    /// The same, among those of a snapshot that is on its way here.
    pub(crate) fn fetched_at(&self, index: LogIndex, term: Term) -> Option<Location> {
        let fetched = self.aside.as_ref()?.fetched.get(&index);
        fetched.filter(|(of, _)| *of == term).map(|(_, place)| *place)
    }

    /// Term and place of an entry of a snapshot that is on its way here.
    pub(crate) fn fetched_of(&self, index: LogIndex) -> Option<(Term, Location)> {
        self.aside.as_ref()?.fetched.get(&index).copied()
    }

    fn set_kept(&mut self, kept: Kept) {
        if self.aside.is_some() || !kept.is_empty() {
            self.aside.get_or_insert_default().kept = kept;
            self.tidy();
        }
    }

    fn tidy(&mut self) {
        let is_bare = |aside: &mut Box<Aside>| aside.kept.is_empty() && aside.fetched.is_empty();
        self.aside.take_if(is_bare);
    }

    /// Where the index says that this entry lies at `from`.
    fn place_at(&mut self, index: LogIndex, from: Location) -> Option<&mut Location> {
        let at = index.get().checked_sub(self.first.get());
        let in_log = at.and_then(|at| self.locations.get_mut(usize::try_from(at).ok()?));
        if let Some(place) = in_log.filter(|place| **place == from) {
            return Some(place);
        }
        let Aside { kept, fetched } = self.aside.as_deref_mut()?;
        if let Some(place) = kept.place_mut(index).filter(|place| **place == from) {
            return Some(place);
        }
        fetched.get_mut(&index).map(|(_, place)| place).filter(|place| **place == from)
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

    fn append(&mut self, term: Term, locations: &[Location]) {
        if self.runs.last().is_none_or(|(_, last)| *last != term) {
            self.runs.push((self.last().next(), term));
        }
        let needed = self.locations.len() + locations.len();
        if needed > self.locations.capacity() {
            self.locations.reserve_exact(locations.len() + Self::spare(self.locations.len()));
        }
        self.locations.extend(locations);
    }

    fn install(&mut self, base: LogIndex) {
        self.first = base.next();
        self.locations = VecDeque::new();
        self.runs = Vec::new();
        self.durable = base;
    }

    fn compact(&mut self, base: LogIndex) {
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
        self.durable = self.durable.max(base);
    }

    fn truncate(&mut self, from: LogIndex) {
        let keep = from.since(self.first).min(self.locations.len() as u64);
        self.locations.truncate(keep as usize);
        while self.runs.last().is_some_and(|(start, _)| *start >= from) {
            self.runs.pop();
        }
        self.durable = self.durable.min(from.prev());
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
        let mut group = GroupIndex::new(GroupId::new(1), GroupIncarnation::new(1));
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
        let mut group = GroupIndex::new(GroupId::new(1), GroupIncarnation::new(1));
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
