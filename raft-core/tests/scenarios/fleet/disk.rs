//! Logs with their entries' identities, and disks that do what they are told when they are told.
//!
//! Invariant: operations become durable in the order they were submitted, each as a whole; a crash
//! forgets all that have not.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use raft_core::{
    Base, HardState, Incarnation, LogIndex, LogTime, Membership, PersistSeq, PromiseRecord,
    ReplicaId, SnapshotMeta, Start, Term,
};

use super::Node;
use crate::bench::*;

/// An entry as its driver sees it. The identity stands for the payload: no two entries that
/// leaders created share one.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Record {
    pub(crate) term: Term,
    pub(crate) identity: u64,
    pub(crate) membership: Option<Arc<Membership>>,
}

/// A log, in memory or on a disk.
#[derive(Clone, Debug, Default)]
pub(crate) struct Log {
    pub(crate) base: Base,
    records: BTreeMap<LogIndex, Record>,
}

impl Log {
    pub(crate) fn of(base: Base) -> Self {
        Self { base, records: BTreeMap::new() }
    }

    pub(crate) fn record(&self, at: LogIndex) -> Option<&Record> {
        self.records.get(&at)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (LogIndex, &Record)> {
        self.records.iter().map(|(at, record)| (*at, record))
    }

    pub(crate) fn last(&self) -> LogIndex {
        self.records.keys().next_back().copied().unwrap_or(self.base.index)
    }

    pub(crate) fn term(&self, at: LogIndex) -> Option<Term> {
        if at == self.base.index {
            return Some(self.base.term);
        }
        self.record(at).map(|record| record.term)
    }

    pub(crate) fn push(&mut self, at: LogIndex, record: Record) {
        assert_eq!(at, self.last().next(), "a hole in the log");
        self.records.insert(at, record);
    }

    pub(crate) fn truncate(&mut self, from: LogIndex) {
        self.records.split_off(&from);
    }

    pub(crate) fn range(&self, first: LogIndex, last: LogIndex) -> Vec<Record> {
        let records = self.records.range(first..).take_while(|(at, _)| **at <= last);
        records.map(|(_, record)| record.clone()).collect()
    }

    pub(crate) fn reset(&mut self, meta: &SnapshotMeta) {
        self.records.clear();
        self.base = Base::of_snapshot(meta);
    }

    pub(crate) fn compact(&mut self, upto: LogIndex) {
        let (config_index, membership) = self.membership_at(upto);
        let membership = membership.cloned();
        let term = self.term(upto).expect("compacted within the log");
        self.records = self.records.split_off(&upto.next());
        self.base = Base { index: upto, term, config_index, membership, ..self.base };
    }

    /// The membership in force at an index: the last one in the log up to there.
    pub(crate) fn membership_at(&self, at: LogIndex) -> (LogIndex, Option<&Arc<Membership>>) {
        let mut upto = self.records.range(..=at).rev();
        match upto.find_map(|(at, record)| Some((*at, record.membership.as_ref()?))) {
            Some((at, membership)) => (at, Some(membership)),
            None => (self.base.config_index, self.base.membership.as_ref()),
        }
    }
}

/// One persist operation, with the entries it had when it was taken.
#[derive(Clone, Debug)]
pub(crate) struct Operation {
    pub(crate) persist: raft_core::Persist,
    pub(crate) records: Vec<Record>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Disk {
    pub(crate) hard_state: HardState,
    pub(crate) log: Log,
    pub(crate) promise: PromiseRecord,
    pub(crate) snapshot: Option<SnapshotMeta>,
    pub(crate) pending: VecDeque<Operation>,
    pub(crate) synced: PersistSeq,
    /// Nothing becomes durable by itself.
    pub(crate) held: bool,
}

impl Disk {
    pub(crate) fn submit(&mut self, operation: Operation) {
        self.pending.push_back(operation);
    }

    /// The oldest operation becomes durable.
    pub(crate) fn step(&mut self) -> Option<PersistSeq> {
        let Operation { persist, records } = self.pending.pop_front()?;
        if let Some(promise) = persist.promise {
            self.promise = promise;
        }
        if let Some(new) = persist.hard_state {
            let old = self.hard_state;
            let fits = new.term > old.term
                || (new.term == old.term && (old.vote.is_none() || new.vote == old.vote));
            assert!(fits, "term and vote went from {old:?} to {new:?}");
            self.hard_state = new;
        }
        if let Some(meta) = &persist.install {
            self.log.reset(meta);
            self.snapshot = Some((**meta).clone());
        }
        if let Some(from) = persist.truncate_from {
            self.log.truncate(from);
        }
        if let Some((first, _)) = persist.append {
            for (at, record) in (first.get()..).zip(records) {
                self.log.push(index(at), record);
            }
        }
        if let Some(base) = &persist.compact {
            assert!(base.snapshot >= base.index, "compacted past the snapshot");
            self.log.compact(base.index);
            assert_eq!(self.log.base.term, base.term, "the base has another term");
        }
        self.synced = persist.seq;
        Some(persist.seq)
    }

    /// The power fails.
    pub(crate) fn crash(&mut self) {
        self.pending.clear();
        self.synced = PersistSeq::default();
    }

    /// What a restart recovers.
    pub(crate) fn recover(&self, node: &Node) -> Start {
        let mut term_runs: Vec<(LogIndex, Term)> = Vec::new();
        let mut configs = Vec::new();
        for (at, record) in self.log.iter() {
            if term_runs.last().is_none_or(|(_, last)| *last != record.term) {
                term_runs.push((at, record.term));
            }
            configs.extend(record.membership.clone().map(|membership| (at, membership)));
        }
        let snapshot = self.snapshot.as_ref().map_or(LogIndex::ZERO, |meta| meta.index);
        let snapshot = snapshot.max(self.log.base.index);
        Start {
            group: super::GROUP,
            replica: node.id,
            incarnation: Incarnation::new(node.life.get()),
            base: Base { snapshot, ..self.log.base.clone() },
            configs,
            seed: node.id.get(),
            hard_state: self.hard_state,
            term_runs,
            last_index: self.log.last(),
            log_time: LogTime::default(),
            applied: snapshot,
            promise: self.promise,
            settings: Arc::clone(&node.settings),
        }
    }

    /// Whether the log here has what a leader committed at `at`, in a snapshot or as an entry.
    pub(crate) fn holds(&self, at: LogIndex, record: &Record) -> bool {
        at <= self.log.base.index || self.log.record(at) == Some(record)
    }

    /// Whom this replica voted for, as far as the disk knows.
    pub(crate) fn vote(&self) -> Option<(Term, ReplicaId)> {
        self.hard_state.vote.map(|vote| (self.hard_state.term, vote))
    }
}
