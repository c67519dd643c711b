//! A log without a disk (class C): it forgets everything when the process ends.
//!
//! For tests, benches and groups whose state may be lost. Admission is the very code of the real
//! log, so that what is refused there is refused here.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use parking_lot::RwLock;
use raft_core::{Entry, GroupId, LogIndex, Term};

use crate::append::flight::Flight;
use crate::append::tails::{Holdings, Tails};
use crate::append::write::{AppendInfo, GroupWrite, SyncInfo};
use crate::error::{LogError, ReadError};
use crate::format::live::LiveEntries;
use crate::format::lsn::Lsn;
use crate::read::reader::{Bounds, EntrySource, Holding, LogReader, Scrub, Scrubbed};
use crate::store::{Ending, LogStore};

/// A [`LogStore`] in memory. Its positions count the cost of entries.
pub struct MemoryLog {
    tails: Tails,
    shared: Arc<RwLock<Groups>>,
    reader: LogReader,
    end: Lsn,
    durable: Lsn,
    /// Groups appended to since the last sync.
    touched: Vec<GroupId>,
    /// What goes with the next flight.
    staged: AppendInfo,
}

impl MemoryLog {
    /// An empty log.
    pub fn new() -> Self {
        let shared = Arc::new(RwLock::new(Groups::default()));
        Self {
            tails: Tails::default(),
            reader: LogReader::new(Arc::clone(&shared)),
            shared,
            end: Lsn::ZERO,
            durable: Lsn::ZERO,
            touched: Vec::new(),
            staged: AppendInfo::default(),
        }
    }
}

impl Default for MemoryLog {
    fn default() -> Self {
        Self::new()
    }
}

impl LogStore for MemoryLog {
    fn append(&mut self, writes: &[GroupWrite]) -> Result<AppendInfo, LogError> {
        let mut groups = self.shared.write();
        self.tails.admit(writes, |_| Vec::new(), &*groups)?;
        let mut bytes = 0;
        for write in writes {
            if write.create.is_some() {
                groups.insert(write.group, MemoryGroup::default());
            }
            let Some(group) = groups.get_mut(&write.group) else {
                continue;
            };
            if write.drop_fetched {
                group.fetched.clear();
            }
            for entry in &write.fetched {
                bytes += entry.cost();
                group.fetched.insert(entry.index, entry.clone());
            }
            if let Some(meta) = &write.install {
                let kept = group.keep(&write.live_upto(meta.index));
                *group = MemoryGroup { base: meta.index, kept, ..MemoryGroup::default() };
            }
            if let Some(from) = write.truncate_from {
                group.truncate(from);
            }
            for entry in &write.entries {
                bytes += entry.cost();
                group.entries.push(entry.clone());
            }
            if let Some(compaction) = &write.compact {
                group.kept = group.keep(&write.live_upto(compaction.base.index));
                group.compact(compaction.base.index);
            }
            if write.destroy.is_some() {
                groups.remove(&write.group);
            }
            self.touched.push(write.group);
        }
        self.end = self.end.plus(bytes);
        let frames = u64::from(!writes.is_empty());
        Ok(AppendInfo { end_lsn: self.end, bytes, frames, unprepared_bytes: 0 })
    }

    fn stage(&mut self, writes: &Arc<Vec<GroupWrite>>) -> Result<(), LogError> {
        let info = self.append(writes)?;
        self.staged.bytes += info.bytes;
        self.staged.frames += info.frames;
        Ok(())
    }

    fn depart(&mut self, _: Ending) -> Result<Flight, LogError> {
        let info = AppendInfo { end_lsn: self.end, ..std::mem::take(&mut self.staged) };
        Ok(Flight::over(info, self.sync()?))
    }

    fn close(self: Box<Self>) -> Result<(), LogError> {
        Ok(())
    }

    fn sync(&mut self) -> Result<SyncInfo, LogError> {
        let mut groups = self.shared.write();
        for group in self.touched.drain(..) {
            if let Some(group) = groups.get_mut(&group) {
                group.durable = group.entries.len();
            }
        }
        self.durable = self.end;
        Ok(SyncInfo { durable_lsn: self.durable })
    }

    fn idle(&mut self) -> Result<(), LogError> {
        Ok(())
    }

    fn is_poisoned(&self) -> bool {
        false
    }

    fn reader(&self) -> LogReader {
        self.reader.clone()
    }
}

type Groups = HashMap<GroupId, MemoryGroup>;

/// The log of one group.
#[derive(Default)]
struct MemoryGroup {
    /// The index before the first entry.
    base: LogIndex,
    entries: Vec<Entry>,
    /// How many of them were there at the last sync and are unchanged since.
    durable: usize,
    /// Entries of before the log that stay.
    kept: BTreeMap<LogIndex, Entry>,
    /// Those of a snapshot that is on its way here.
    fetched: BTreeMap<LogIndex, Entry>,
}

impl MemoryGroup {
    fn in_log(&self, index: LogIndex) -> Option<&Entry> {
        let at = index.get().checked_sub(self.base.next().get())?;
        self.entries.get(usize::try_from(at).ok()?)
    }

    /// An entry, wherever it is held.
    fn named(&self, index: LogIndex, term: Term) -> Option<&Entry> {
        let held = [self.in_log(index), self.kept.get(&index), self.fetched.get(&index)];
        held.into_iter().flatten().find(|entry| entry.term == term)
    }

    fn keep(&self, live: &LiveEntries) -> BTreeMap<LogIndex, Entry> {
        let named = live.iter().filter_map(|(index, term)| self.named(index, term));
        named.map(|entry| (entry.index, entry.clone())).collect()
    }

    fn truncate(&mut self, from: LogIndex) {
        self.entries.truncate(from.prev().since(self.base) as usize);
        self.durable = self.durable.min(self.entries.len());
    }

    fn compact(&mut self, base: LogIndex) {
        let gone = (base.since(self.base) as usize).min(self.entries.len());
        self.entries.drain(..gone);
        self.durable = self.durable.saturating_sub(gone);
        self.base = self.base.max(base);
    }

    fn last(&self) -> LogIndex {
        self.base.plus(self.entries.len() as u64)
    }
}

impl Holdings for Groups {
    fn term(&self, group: GroupId, index: LogIndex) -> Option<Term> {
        self.get(&group)?.in_log(index).map(|entry| entry.term)
    }

    fn keeps(&self, group: GroupId, index: LogIndex, term: Term) -> bool {
        let kept = self.get(&group).and_then(|known| known.kept.get(&index));
        kept.is_some_and(|entry| entry.term == term)
    }

    fn fetched(&self, group: GroupId, index: LogIndex, term: Term) -> bool {
        let fetched = self.get(&group).and_then(|known| known.fetched.get(&index));
        fetched.is_some_and(|entry| entry.term == term)
    }
}

impl EntrySource for RwLock<Groups> {
    fn entries(
        &self,
        group: GroupId,
        first: LogIndex,
        last: LogIndex,
        bytes_max: u64,
    ) -> Result<Vec<Entry>, ReadError> {
        let groups = self.read();
        let known = groups.get(&group).ok_or(ReadError::UnknownGroup { group })?;
        if first > last {
            return Ok(Vec::new());
        }
        if first <= known.base || last > known.last() {
            return Err(ReadError::OutOfRange {
                group,
                asked_first: first,
                asked_last: last,
                first: known.base.next(),
                last: known.last(),
            });
        }
        let mut entries = Vec::new();
        let mut cost = 0;
        let range = first.prev().since(known.base) as usize..last.since(known.base) as usize;
        for entry in &known.entries[range] {
            cost += entry.cost();
            if cost > bytes_max && !entries.is_empty() {
                break;
            }
            entries.push(entry.clone());
        }
        Ok(entries)
    }

    /// Memory is not doubted.
    fn doubt(&self) {}

    /// Memory is what it is.
    fn scrub(&self, _: Scrub, _: u64) -> Scrubbed {
        Scrubbed { next: None, bytes: 0, damage: None }
    }

    fn bounds(&self, group: GroupId) -> Option<Bounds> {
        let groups = self.read();
        let known = groups.get(&group)?;
        let durable = known.base.plus(known.durable as u64);
        Some(Bounds { first: known.base.next(), last: known.last(), durable })
    }

    fn term(&self, group: GroupId, index: LogIndex) -> Option<Term> {
        let groups = self.read();
        groups.get(&group)?.in_log(index).map(|entry| entry.term)
    }

    fn entry(&self, group: GroupId, index: LogIndex, term: Term) -> Result<Entry, ReadError> {
        let groups = self.read();
        let known = groups.get(&group).ok_or(ReadError::UnknownGroup { group })?;
        let missing = ReadError::NotHeld { group, index, term };
        known.named(index, term).cloned().ok_or(missing)
    }

    fn held_term(&self, group: GroupId, index: LogIndex) -> Option<Term> {
        let groups = self.read();
        let known = groups.get(&group)?;
        known.in_log(index).or_else(|| known.kept.get(&index)).map(|entry| entry.term)
    }

    fn live(&self, group: GroupId) -> LiveEntries {
        let mut live = LiveEntries::default();
        let groups = self.read();
        for entry in groups.get(&group).iter().flat_map(|known| known.kept.values()) {
            let is_named = live.push(entry.index, entry.term);
            debug_assert!(is_named, "they are in order");
        }
        live
    }

    fn fetched(&self, group: GroupId) -> Vec<(LogIndex, Term)> {
        let groups = self.read();
        let fetched = groups.get(&group).into_iter().flat_map(|known| known.fetched.values());
        fetched.map(|entry| (entry.index, entry.term)).collect()
    }

    fn holding(&self, group: GroupId, live: &LiveEntries) -> Option<Holding> {
        let groups = self.read();
        let known = groups.get(&group)?;
        let mut holding = Holding::default();
        for (index, term) in live.iter() {
            let entry = known.named(index, term);
            holding.note((index, term), entry.map(|entry| entry.payload.len() as u64));
        }
        Some(holding)
    }
}
