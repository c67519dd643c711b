//! A log whose completions come late: what is written can be read back, what is synced survives
//! a crash. It refuses, by panic, what the real log refuses.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use raft_core::{
    Base, Entry, EntryKind, GroupId, GroupIncarnation, HardState, LogIndex, LogTime, Membership,
    PromiseRecord, Tombstone,
};
use raft_storage::{GroupWrite, RecoveredGroup};

use super::rng::Rng;
use crate::engine::{Fetch, PersistTicket};
use crate::group_spec::GroupSpec;

type Tickets = Vec<(GroupId, PersistTicket)>;

#[derive(Default)]
pub(super) struct Disk {
    written: Groups,
    durable: Groups,
    /// What is remembered of replicas that are gone, as far as it is durable.
    buried: BTreeMap<GroupId, (GroupIncarnation, Tombstone)>,
    waiting: VecDeque<(Vec<GroupWrite>, Tickets)>,
    syncing: Vec<(Vec<GroupWrite>, Tickets)>,
}

type Groups = BTreeMap<GroupId, Stored>;

#[derive(Clone)]
struct Stored {
    spec: Bytes,
    incarnation: GroupIncarnation,
    promise: PromiseRecord,
    hard_state: HardState,
    /// Where the log begins, and the newest time then.
    base: Base,
    base_time: LogTime,
    entries: Vec<Entry>,
}

impl Stored {
    fn last_index(&self) -> LogIndex {
        self.base.index.plus(self.entries.len() as u64)
    }
}

impl Disk {
    pub(super) fn submit(&mut self, writes: Vec<GroupWrite>, tickets: Tickets) {
        assert_eq!(writes.len(), tickets.len(), "each write has its ticket");
        self.waiting.push_back((writes, tickets));
    }

    /// Writes what waits, if nothing is being synced. Returns whether a sync is under way now
    /// that was not before.
    pub(super) fn start(&mut self) -> bool {
        if !self.syncing.is_empty() || self.waiting.is_empty() {
            return false;
        }
        self.syncing = self.waiting.drain(..).collect();
        for (writes, _) in &self.syncing {
            apply(&mut self.written, writes);
        }
        true
    }

    /// The sync returned: what may be acknowledged, batch by batch.
    pub(super) fn finish(&mut self) -> Vec<Tickets> {
        let synced = self.syncing.drain(..);
        let tickets = synced.map(|(writes, tickets)| {
            apply(&mut self.durable, &writes);
            bury(&mut self.buried, &writes);
            tickets
        });
        tickets.collect()
    }

    /// Forgets what was not synced; of what was being synced, a part may have made it.
    pub(super) fn crash(&mut self, rng: &mut Rng) {
        let survive = rng.below(self.syncing.len() as u64 + 1) as usize;
        for (writes, _) in &self.syncing[..survive] {
            apply(&mut self.durable, writes);
            bury(&mut self.buried, writes);
        }
        self.syncing.clear();
        self.waiting.clear();
        self.written = self.durable.clone();
    }

    /// What the log thread's reader would find: an error if the range is not there.
    pub(super) fn read(&self, fetch: Fetch, bytes_max: u64) -> Option<Vec<Entry>> {
        let stored = self.written.get(&fetch.group)?;
        let base = stored.base.index;
        if fetch.first <= base || fetch.last > stored.last_index() {
            return None;
        }
        let mut cost = 0;
        let range = fetch.first.prev().since(base) as usize..fetch.last.since(base) as usize;
        let range = stored.entries.get(range)?;
        let read = range.iter().take_while(|entry| {
            let first = cost == 0;
            cost += entry.cost();
            first || cost <= bytes_max
        });
        Some(read.cloned().collect())
    }

    pub(super) fn holds(&self, group: GroupId) -> bool {
        self.durable.contains_key(&group)
    }

    pub(super) fn buried(&self) -> &BTreeMap<GroupId, (GroupIncarnation, Tombstone)> {
        &self.buried
    }

    pub(super) fn recovered(&self) -> Vec<(GroupSpec, RecoveredGroup)> {
        let groups = self.durable.values().map(|stored| {
            let mut term_runs = Vec::new();
            for entry in &stored.entries {
                if term_runs.last().is_none_or(|(_, term)| *term != entry.term) {
                    term_runs.push((entry.index, entry.term));
                }
            }
            let configs = stored.entries.iter().filter(|entry| entry.kind == EntryKind::Config);
            let configs = configs
                .map(|entry| {
                    let membership = Membership::decode(&entry.payload);
                    (entry.index, Arc::new(membership.expect("the engine checked it")))
                })
                .collect();
            let last = stored.entries.last();
            let recovered = RecoveredGroup {
                spec: stored.spec.clone(),
                incarnation: stored.incarnation,
                hard_state: stored.hard_state,
                promise: stored.promise,
                base: stored.base.clone(),
                first_index: stored.base.index.next(),
                last_index: stored.last_index(),
                term_runs,
                configs,
                log_time: last.map(|entry| entry.time).unwrap_or_default().max(stored.base_time),
                has_fetched: false,
            };
            (GroupSpec::decode(&stored.spec).expect("it was encoded by us"), recovered)
        });
        groups.collect()
    }
}

fn bury(buried: &mut BTreeMap<GroupId, (GroupIncarnation, Tombstone)>, writes: &[GroupWrite]) {
    for write in writes {
        if let Some(tombstone) = write.destroy {
            // No test has a second life of a group.
            buried.insert(write.group, (GroupIncarnation::new(1), tombstone));
        }
    }
}

fn apply(groups: &mut Groups, writes: &[GroupWrite]) {
    for write in writes {
        if let Some(create) = &write.create {
            let fresh = Stored {
                spec: create.spec.clone(),
                incarnation: create.incarnation,
                promise: PromiseRecord::default(),
                hard_state: HardState::default(),
                base: Base::default(),
                base_time: LogTime::default(),
                entries: Vec::new(),
            };
            let existing = groups.insert(write.group, fresh);
            assert!(existing.is_none(), "group {} is created over its own log", write.group);
        }
        let stored = groups.get_mut(&write.group).expect("created before anything is written");
        if let Some(hard_state) = write.hard_state {
            assert!(hard_state.term >= stored.hard_state.term, "terms do not fall");
            stored.hard_state = hard_state;
        }
        stored.promise = write.promise.unwrap_or(stored.promise);
        if let Some(meta) = &write.install {
            assert!(meta.index >= stored.base.index, "a log never begins earlier");
            stored.base = Base::of_snapshot(meta);
            stored.base_time = meta.time;
            stored.entries.clear();
        }
        if let Some(from) = write.truncate_from {
            assert!(from > stored.base.index, "what is compacted is not truncated");
            stored.entries.truncate(from.prev().since(stored.base.index) as usize);
        }
        for entry in &write.entries {
            assert_eq!(entry.index, stored.last_index().next(), "no gap in the log");
            assert!(
                stored
                    .entries
                    .last()
                    .is_none_or(|last| { last.term <= entry.term && last.time <= entry.time }),
                "terms and log time do not fall"
            );
            stored.entries.push(entry.clone());
        }
        if let Some(compaction) = &write.compact {
            let base = compaction.base.index;
            assert!(base >= stored.base.index && base <= stored.last_index(), "within the log");
            stored.entries.drain(..base.since(stored.base.index) as usize);
            stored.base = compaction.base.clone();
            stored.base_time = compaction.time;
        }
        if write.destroy.is_some() {
            groups.remove(&write.group);
        }
    }
}
