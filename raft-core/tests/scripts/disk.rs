//! A model disk: operations become durable in order and whole, when the script says so.
//!
//! Invariant: what a restart finds is exactly the operations that were made durable.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use raft_core::{
    Base, EntryKind, HardState, LogIndex, LogTime, Membership, Persist, PersistSeq, PromiseRecord,
    SnapshotMeta, Term,
};

/// An entry as a driver sees it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Record {
    pub(crate) term: Term,
    pub(crate) kind: EntryKind,
    /// What scripts call it.
    pub(crate) name: String,
    pub(crate) cost: u64,
    pub(crate) time: LogTime,
    /// What a configuration entry says.
    pub(crate) membership: Option<Arc<Membership>>,
}

/// A log from a base on, as a driver keeps it in memory or on disk.
#[derive(Clone, Debug, Default)]
pub(crate) struct Log {
    pub(crate) base: LogIndex,
    pub(crate) records: VecDeque<Record>,
}

impl Log {
    pub(crate) fn last(&self) -> LogIndex {
        self.base.plus(self.records.len() as u64)
    }

    pub(crate) fn get(&self, index: LogIndex) -> Option<&Record> {
        let at = index.get().checked_sub(self.base.get() + 1)?;
        self.records.get(usize::try_from(at).ok()?)
    }

    /// The records of `first..=last`, with their positions.
    pub(crate) fn range(
        &self,
        first: LogIndex,
        last: LogIndex,
    ) -> impl Iterator<Item = (LogIndex, &Record)> {
        let first = first.max(self.base.next());
        let (from, count) = (first.since(self.base.next()), last.next().since(first));
        let records = self.records.iter().skip(from as usize).take(count as usize);
        records.zip(0..).map(move |(record, at)| (first.plus(at), record))
    }

    pub(crate) fn push(&mut self, index: LogIndex, record: Record) {
        assert_eq!(index, self.last().next(), "a hole in the log");
        self.records.push_back(record);
    }

    pub(crate) fn truncate(&mut self, from: LogIndex) {
        self.records.truncate(from.prev().since(self.base) as usize);
    }

    pub(crate) fn compact(&mut self, upto: LogIndex) {
        let gone = (upto.since(self.base) as usize).min(self.records.len());
        self.records.drain(..gone);
        self.base = upto.max(self.base);
    }

    pub(crate) fn reset(&mut self, base: LogIndex) {
        *self = Self { base, records: VecDeque::new() };
    }
}

/// What a state machine holds: the commands it applied.
pub(crate) type State = Vec<(LogIndex, String)>;

/// One operation with what it carries.
#[derive(Clone, Debug)]
struct Operation {
    persist: Persist,
    records: Vec<Record>,
    /// The state of the snapshot it installs.
    state: Option<State>,
}

/// What a restart finds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Image {
    pub(crate) hard_state: HardState,
    pub(crate) promise: PromiseRecord,
    pub(crate) base: Base,
    pub(crate) log: Log,
    /// Durable snapshots by their last index.
    pub(crate) snapshots: BTreeMap<LogIndex, State>,
}

impl Image {
    /// The newest snapshot.
    pub(crate) fn snapshot(&self) -> LogIndex {
        self.snapshots.keys().next_back().copied().unwrap_or_default()
    }

    /// The log as runs of (first index, term), as a recovery reports it.
    pub(crate) fn term_runs(&self) -> Vec<(LogIndex, Term)> {
        let mut runs: Vec<(LogIndex, Term)> = Vec::new();
        for (index, record) in self.log.range(self.log.base.next(), self.log.last()) {
            if runs.last().is_none_or(|(_, term)| *term != record.term) {
                runs.push((index, record.term));
            }
        }
        runs
    }

    pub(crate) fn configs(&self) -> Vec<(LogIndex, Arc<Membership>)> {
        let all = self.log.range(self.log.base.next(), self.log.last());
        all.filter_map(|(index, record)| Some((index, record.membership.clone()?))).collect()
    }

    /// Entries that were durable are gone; what a snapshot covers is not.
    pub(crate) fn damage(&mut self, last: LogIndex) {
        self.log.truncate(last.max(self.snapshot()).next());
    }

    fn apply(&mut self, operation: Operation) {
        let persist = operation.persist;
        if let Some(promise) = persist.promise {
            self.promise = promise;
        }
        if let Some(hard_state) = persist.hard_state {
            let old = self.hard_state;
            assert!(
                hard_state.term > old.term || (hard_state.term == old.term && old.vote.is_none()),
                "term and vote went from {old:?} to {hard_state:?}"
            );
            self.hard_state = hard_state;
        }
        if let Some(meta) = persist.install {
            self.install(&meta, operation.state.expect("the state came with the snapshot"));
        }
        if let Some(from) = persist.truncate_from {
            self.log.truncate(from);
        }
        if let Some((first, _)) = persist.append {
            for (index, record) in (0..).map(|at| first.plus(at)).zip(operation.records) {
                self.log.push(index, record);
            }
        }
        if let Some(base) = persist.compact {
            self.log.compact(base.index);
            self.base = *base;
        }
    }

    fn install(&mut self, meta: &SnapshotMeta, state: State) {
        self.log.reset(meta.index);
        self.base = Base::of_snapshot(meta);
        self.snapshots.insert(meta.index, state);
    }
}

/// Whether operations become durable by themselves.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum Pace {
    #[default]
    AtOnce,
    WhenTold,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Disk {
    pub(crate) image: Image,
    pub(crate) pace: Pace,
    pending: VecDeque<Operation>,
}

impl Disk {
    /// Takes an operation with the payloads it has now.
    pub(crate) fn submit(&mut self, persist: Persist, log: &Log, state: Option<State>) {
        let records = match persist.append {
            Some((first, last)) => {
                log.range(first, last).map(|(_, record)| record.clone()).collect()
            }
            None => Vec::new(),
        };
        self.pending.push_back(Operation { persist, records, state });
    }

    /// Makes the oldest operation durable.
    pub(crate) fn sync_one(&mut self) -> Option<PersistSeq> {
        let operation = self.pending.pop_front()?;
        let seq = operation.persist.seq;
        self.image.apply(operation);
        Some(seq)
    }

    /// The newest operation on its way.
    pub(crate) fn newest(&self) -> Option<PersistSeq> {
        self.pending.back().map(|operation| operation.persist.seq)
    }

    /// The power fails: what was on its way is gone.
    pub(crate) fn crash(&mut self) {
        self.pending.clear();
    }
}
