//! A node's disk as the cores see it: one queue of operations for all groups, of which a part is
//! in the page cache and a part is durable.
//!
//! What a crash leaves is drawn: the operations that were durable, those written if only the
//! process died, and after a power cut any prefix of the rest, as a shared log leaves it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use raft_core::{
    Base, GroupId, HardState, LogIndex, LogTime, Membership, Persist, PersistSeq, Promise,
    PromiseRecord, ReplicaId, SnapshotMeta, Term, Tombstone,
};

use super::machine::Machine;
use super::record::{Payload, Record};
use crate::sim::rng::Rng;
pub(crate) use crate::sim::schedule::Stop;

/// What a disk holds of one replica.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    pub(crate) replica: ReplicaId,
    pub(crate) hard_state: HardState,
    pub(crate) base: Base,
    /// The entries after the base.
    pub(crate) log: Vec<Record>,
    pub(crate) promise: PromiseRecord,
    pub(crate) log_time: LogTime,
}

/// A snapshot file.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    pub(crate) meta: SnapshotMeta,
    pub(crate) state: Arc<Machine>,
}

impl Image {
    pub(crate) fn new(replica: ReplicaId, base: Base) -> Self {
        Self {
            replica,
            hard_state: HardState::default(),
            base,
            log: Vec::new(),
            promise: PromiseRecord::default(),
            log_time: LogTime::default(),
        }
    }

    pub(crate) fn last_index(&self) -> LogIndex {
        self.base.index.plus(self.log.len() as u64)
    }

    pub(crate) fn term(&self, index: LogIndex) -> Option<Term> {
        if index == self.base.index {
            return Some(self.base.term);
        }
        let at = index.since(self.base.index).checked_sub(1)?;
        self.log.get(at as usize).map(|record| record.term)
    }

    pub(crate) fn term_runs(&self) -> Vec<(LogIndex, Term)> {
        let mut runs: Vec<(LogIndex, Term)> = Vec::new();
        for (at, record) in self.log.iter().enumerate() {
            if runs.last().is_none_or(|(_, term)| *term != record.term) {
                runs.push((self.base.index.plus(at as u64 + 1), record.term));
            }
        }
        runs
    }

    pub(crate) fn configs(&self) -> Vec<(LogIndex, Arc<Membership>)> {
        let indexed = self.log.iter().enumerate();
        let configs = indexed.filter_map(|(at, record)| match &record.payload {
            Payload::Config(membership) => {
                Some((self.base.index.plus(at as u64 + 1), Arc::clone(membership)))
            }
            Payload::Noop | Payload::Command(_) => None,
        });
        configs.collect()
    }

    /// Carries an operation out, in the order its documentation promises.
    fn apply(&mut self, op: &Op) {
        let persist = &op.persist;
        if let Some(promise) = persist.promise {
            self.promise = promise;
        }
        if let Some(hard_state) = persist.hard_state {
            self.hard_state = hard_state;
        }
        if let Some(meta) = &persist.install {
            self.base = Base::of_snapshot(meta);
            self.log.clear();
            self.log_time = self.log_time.max(meta.time);
        }
        if let Some(from) = persist.truncate_from {
            self.log.truncate(from.prev().since(self.base.index) as usize);
        }
        if let Some((first, _)) = persist.append {
            // New entries take the places of old ones. What lies beyond them stays: only a logged
            // truncation takes that away.
            let at = first.prev().since(self.base.index) as usize;
            for (at, record) in (at..).zip(&op.records) {
                self.log_time = self.log_time.max(record.time);
                match self.log.get_mut(at) {
                    Some(old) => *old = record.clone(),
                    None => self.log.push(record.clone()),
                }
            }
        }
        if let Some(base) = &persist.compact {
            let gone = base.index.since(self.base.index) as usize;
            self.log.drain(..gone.min(self.log.len()));
            let snapshot = self.base.snapshot.max(base.snapshot);
            self.base = Base { snapshot, ..Base::clone(base) };
        }
    }
}

/// One operation on its way to the platter.
#[derive(Clone, Debug)]
pub(crate) struct Op {
    pub(crate) group: GroupId,
    pub(crate) replica: ReplicaId,
    pub(crate) persist: Persist,
    /// The entries it appends.
    pub(crate) records: Vec<Record>,
}

/// What an operation's arrival is worth telling.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Completion {
    pub(crate) group: GroupId,
    pub(crate) replica: ReplicaId,
    pub(crate) seq: PersistSeq,
}

/// What did not survive a crash.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Lost {
    /// Something that was in the page cache.
    pub(crate) is_written: bool,
    /// Truncations, by their groups.
    pub(crate) truncations: Vec<GroupId>,
}

/// One node's disk.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    pub(crate) images: BTreeMap<GroupId, Image>,
    pub(crate) tombstones: BTreeMap<GroupId, Tombstone>,
    /// Snapshot files, by the index they reach.
    files: BTreeMap<GroupId, BTreeMap<LogIndex, Snapshot>>,
    /// What replicas held before they forgot it. An entry that was acknowledged from there is as
    /// safe as ever: who forgot does not vote until it holds it again, or never.
    ghosts: Vec<(GroupId, Image)>,
    queue: VecDeque<Op>,
    /// So many operations at the front are in the page cache.
    written: usize,
}

impl Disk {
    pub(crate) fn submit(&mut self, op: Op) {
        self.queue.push_back(op);
    }

    pub(crate) fn pending(&self) -> usize {
        self.queue.len()
    }

    /// The first `count` operations reach the page cache.
    pub(crate) fn write(&mut self, count: usize, out: &mut Vec<Completion>) {
        let upto = count.min(self.queue.len());
        for op in self.queue.range(self.written.min(upto)..upto) {
            out.push(Completion { group: op.group, replica: op.replica, seq: op.persist.seq });
        }
        self.written = self.written.max(upto);
    }

    /// The first `count` operations become durable.
    pub(crate) fn sync(&mut self, count: usize, out: &mut Vec<Completion>) {
        for op in self.queue.drain(..count.min(self.queue.len())) {
            self.written = self.written.saturating_sub(1);
            out.push(Completion { group: op.group, replica: op.replica, seq: op.persist.seq });
            // What was meant for a replica that is deleted meanwhile is not its successor's.
            let image = self.images.get_mut(&op.group);
            if let Some(image) = image.filter(|image| image.replica == op.replica) {
                image.apply(&op);
            }
        }
    }

    /// The first `count` operations are told as durable and are nowhere: a planted bug.
    pub(crate) fn forget(&mut self, count: usize, out: &mut Vec<Completion>) {
        for op in self.queue.drain(..count.min(self.queue.len())) {
            self.written = self.written.saturating_sub(1);
            out.push(Completion { group: op.group, replica: op.replica, seq: op.persist.seq });
        }
    }

    /// The files of a snapshot are durable.
    pub(crate) fn keep(&mut self, group: GroupId, snapshot: Snapshot) {
        self.files.entry(group).or_default().insert(snapshot.meta.index, snapshot);
    }

    /// The snapshot of this name, if it is here.
    pub(crate) fn file(&self, group: GroupId, meta: &SnapshotMeta) -> Option<Snapshot> {
        let file = self.files.get(&group)?.get(&meta.index)?;
        (file.meta.term == meta.term).then(|| file.clone())
    }

    /// Forgets a group's snapshots.
    pub(crate) fn clean(&mut self, group: GroupId) {
        self.files.remove(&group);
    }

    /// What a replica starts from: the newest snapshot that its log goes on from. A snapshot
    /// beyond the end of a damaged log takes the log's place.
    pub(crate) fn recover(&mut self, group: GroupId) -> Option<Arc<Machine>> {
        let image = self.images.get_mut(&group)?;
        let files = self.files.get(&group)?;
        // One that was received and not installed is nothing yet.
        let damaged = matches!(image.promise.promise, Promise::Damaged | Promise::Unproven);
        let unproven = image.promise.promise == Promise::Unproven;
        let fits = |snapshot: &&Snapshot| {
            let meta = &snapshot.meta;
            image.term(meta.index) == Some(meta.term)
                || (damaged
                    && meta.index > image.last_index()
                    && (unproven || meta.term <= image.hard_state.term))
        };
        let newest = files.values().rev().find(fits)?;
        let meta = &newest.meta;
        if meta.term > image.hard_state.term {
            // What it covers was committed in a term that the log forgot.
            image.hard_state = HardState { term: meta.term, vote: None };
        }
        if meta.index > image.last_index() {
            image.log.clear();
            image.base = Base::of_snapshot(meta);
        }
        image.base.snapshot = meta.index;
        Some(Arc::clone(&newest.state))
    }

    /// The node stops.
    pub(crate) fn crash(&mut self, stop: Stop, rng: &mut Rng) -> Lost {
        let pending = self.queue.len();
        let kept = match stop {
            // What was handed to the kernel survives the process; what was not may have been on
            // its way.
            Stop::Process => self.written + rng.below((pending - self.written) as u64 + 1) as usize,
            Stop::Power => rng.below(pending as u64 + 1) as usize,
        };
        let gone = self.queue.range(kept..);
        let lost = Lost {
            is_written: kept < self.written,
            truncations: gone
                .filter(|op| op.persist.truncate_from.is_some())
                .map(|op| op.group)
                .collect(),
        };
        self.sync(kept, &mut Vec::new());
        self.queue.clear();
        self.written = 0;
        lost
    }

    /// Remembers what the page cache holds, where that counts, before a power cut takes it.
    pub(crate) fn remember_written(&mut self) {
        for (group, image) in &self.images {
            let mut ops = self.queue.iter().take(self.written).filter(|op| op.group == *group);
            if let Some(first) = ops.next() {
                let mut ghost = image.clone();
                for op in std::iter::once(first).chain(ops).filter(|op| op.replica == image.replica)
                {
                    ghost.apply(op);
                }
                self.ghosts.push((*group, ghost));
            }
        }
    }

    /// Whether an entry would be found after a power cut at this moment.
    pub(crate) fn holds(
        &self,
        group: GroupId,
        replica: ReplicaId,
        index: LogIndex,
        term: Term,
    ) -> bool {
        let ghosts = self.ghosts.iter().filter(|(of, _)| *of == group).map(|(_, image)| image);
        self.images.get(&group).into_iter().chain(ghosts).any(|image| {
            image.replica == replica
                && (index <= image.base.index || image.term(index) == Some(term))
        })
    }

    /// The same for a process crash: what is in the page cache counts as well.
    pub(crate) fn holds_written(
        &self,
        group: GroupId,
        replica: ReplicaId,
        index: LogIndex,
        term: Term,
    ) -> bool {
        // Of a disk that was replaced this is all that is known.
        let mut holds = self.holds(group, replica, index, term);
        if self.images.get(&group).is_none_or(|image| image.replica != replica) {
            return holds;
        }
        for op in self.queue.iter().take(self.written).filter(|op| op.group == group) {
            let persist = &op.persist;
            if persist.truncate_from.is_some_and(|from| from <= index) {
                holds = false;
            }
            if persist.install.as_ref().is_some_and(|meta| index <= meta.index) {
                holds = true;
            }
            if let Some((first, last)) = persist.append
                && (first..=last).contains(&index)
            {
                let at = index.since(first) as usize;
                holds = op.records.get(at).is_some_and(|record| record.term == term);
            }
        }
        holds
    }

    /// The disk is replaced by an empty one.
    pub(crate) fn wipe(&mut self) -> BTreeMap<GroupId, ReplicaId> {
        let old = std::mem::take(self);
        let mut lost: BTreeMap<GroupId, ReplicaId> =
            old.tombstones.iter().map(|(group, stone)| (*group, stone.replica)).collect();
        lost.extend(old.images.iter().map(|(group, image)| (*group, image.replica)));
        self.ghosts = old.ghosts;
        self.ghosts.extend(old.images);
        lost
    }

    /// What the log of a group holds was counted on, and goes on counting: who forgets it says so.
    pub(crate) fn haunt(&mut self, group: GroupId) {
        self.ghosts.extend(self.images.get(&group).map(|image| (group, image.clone())));
    }

    /// The log of one group is found damaged: entries from a random place on are gone, and now and
    /// then its newest term and vote.
    pub(crate) fn damage(&mut self, group: GroupId, rng: &mut Rng) -> bool {
        let Some(image) = self.images.get_mut(&group) else { return false };
        // What a snapshot covers is restored from it; damage to a snapshot file is another matter.
        let low = image.base.snapshot.since(image.base.index) as usize;
        if image.log.len() <= low {
            return false;
        }
        self.ghosts.push((group, image.clone()));
        let kept = low + rng.below((image.log.len() - low) as u64) as usize;
        image.log.truncate(kept);
        // The mark is made durable before anything is cut (rule R4).
        if rng.below(3) > 0 {
            // Nothing that is lost later proves a vote that is forgotten.
            if image.promise.promise != Promise::Unproven {
                image.promise.promise = Promise::Damaged;
            }
            return true;
        }
        let known = image.log.last().map_or(image.base.term, |record| record.term);
        let forgotten = image.hard_state.term.get().saturating_sub(known.get());
        let term = Term::new(known.get() + rng.below(forgotten + 1));
        image.hard_state = HardState { term, vote: None };
        image.promise.promise = Promise::Unproven;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::rng::Streams;

    /// Two entries, of which the second is to be cut off.
    fn disk() -> Disk {
        let (group, replica) = (GroupId::new(1), ReplicaId::new(1));
        let mut image = Image::new(replica, Base::default());
        let record = Record {
            term: Term::new(1),
            time: LogTime::default(),
            payload: Payload::Noop,
            hash: 1,
        };
        image.log = vec![record; 2];
        let mut disk = Disk::default();
        disk.images.insert(group, image);
        let truncate_from = Some(LogIndex::new(2));
        let persist = Persist { seq: PersistSeq::new(1), truncate_from, ..Persist::default() };
        disk.submit(Op { group, replica, persist, records: Vec::new() });
        disk
    }

    #[test]
    fn a_truncation_that_a_crash_took_back_is_told() {
        let group = GroupId::new(1);
        let mut lost = 0;
        for seed in 0..20 {
            let (mut disk, mut rng) = (disk(), Streams::new(seed).stream("crash", &[]));
            disk.write(1, &mut Vec::new());
            let told = disk.crash(Stop::Power, &mut rng);
            let is_back = disk.images[&group].log.len() == 2;
            assert_eq!(told.truncations, if is_back { vec![group] } else { vec![] });
            assert_eq!(told.is_written, is_back);
            lost += u64::from(is_back);
        }
        assert!((1..20).contains(&lost), "{lost} of 20");
    }

    #[test]
    fn what_was_written_survives_the_process() {
        let mut disk = disk();
        disk.write(1, &mut Vec::new());
        let lost = disk.crash(Stop::Process, &mut Streams::new(1).stream("crash", &[]));
        assert_eq!(lost, Lost { is_written: false, truncations: vec![] });
        assert_eq!(disk.images[&GroupId::new(1)].log.len(), 1);
    }
}
