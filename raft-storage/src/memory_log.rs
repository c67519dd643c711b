//! A log without a disk (class C): it forgets everything when the process ends.
//!
//! For tests, benches and groups whose state may be lost. Admission is the very code of the real
//! log, so that what is refused there is refused here.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;
use raft_core::{Entry, GroupId, LogIndex, Term};

use crate::append::tails::Tails;
use crate::append::write::{AppendInfo, GroupWrite, SyncInfo};
use crate::error::{LogError, ReadError};
use crate::format::lsn::Lsn;
use crate::read::reader::{Bounds, EntrySource, LogReader};
use crate::store::LogStore;

/// A [`LogStore`] in memory. Its positions count the cost of entries.
pub struct MemoryLog {
    tails: Tails,
    shared: Arc<RwLock<Groups>>,
    reader: LogReader,
    end: Lsn,
    durable: Lsn,
    /// Groups appended to since the last sync.
    touched: Vec<GroupId>,
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
        self.tails.admit(writes)?;
        let mut groups = self.shared.write();
        let mut bytes = 0;
        for write in writes {
            if write.create.is_some() {
                groups.insert(write.group, MemoryGroup::default());
            }
            let Some(group) = groups.get_mut(&write.group) else {
                continue;
            };
            if let Some(meta) = &write.install {
                *group = MemoryGroup { base: meta.index, ..MemoryGroup::default() };
            }
            if let Some(from) = write.truncate_from {
                group.truncate(from);
            }
            for entry in &write.entries {
                bytes += entry.cost();
                group.entries.push(entry.clone());
            }
            if let Some(compaction) = &write.compact {
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
}

impl MemoryGroup {
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

    fn bounds(&self, group: GroupId) -> Option<Bounds> {
        let groups = self.read();
        let known = groups.get(&group)?;
        let durable = known.base.plus(known.durable as u64);
        Some(Bounds { first: known.base.next(), last: known.last(), durable })
    }

    fn term(&self, group: GroupId, index: LogIndex) -> Option<Term> {
        let groups = self.read();
        let known = groups.get(&group)?;
        let at = index.get().checked_sub(known.base.next().get())?;
        known.entries.get(usize::try_from(at).ok()?).map(|entry| entry.term)
    }
}
