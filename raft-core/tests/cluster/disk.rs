//! A disk that does what it is told late and in order, and forgets the rest in a crash.
//!
//! Invariant: operations become durable in the order they were submitted, each as a whole.

use std::collections::VecDeque;

use raft_core::{HardState, LogIndex, PersistSeq, Term};

use crate::rng::Rng;

/// An entry as the driver sees it. The identity stands for the payload: no two entries that any
/// leader ever created share one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Record {
    pub(crate) term: Term,
    pub(crate) identity: u64,
}

/// What a restart finds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Image {
    pub(crate) hard_state: HardState,
    pub(crate) log: Vec<Record>,
}

impl Image {
    pub(crate) fn record(&self, index: LogIndex) -> Option<Record> {
        let at = usize::try_from(index.get()).ok()?.checked_sub(1)?;
        self.log.get(at).copied()
    }

    /// The log as runs of (first index, term), as a recovery reports it.
    pub(crate) fn term_runs(&self) -> Vec<(LogIndex, Term)> {
        let mut runs: Vec<(LogIndex, Term)> = Vec::new();
        for (at, record) in self.log.iter().enumerate() {
            if runs.last().is_none_or(|(_, term)| *term != record.term) {
                runs.push((LogIndex::new(at as u64 + 1), record.term));
            }
        }
        runs
    }
}

/// One persist operation with the payloads it had when it was taken.
#[derive(Clone, Debug)]
pub(crate) struct Operation {
    pub(crate) seq: PersistSeq,
    pub(crate) hard_state: Option<HardState>,
    pub(crate) truncate_from: Option<LogIndex>,
    pub(crate) append: Option<(LogIndex, Vec<Record>)>,
}

#[derive(Debug, Default)]
pub(crate) struct Disk {
    pub(crate) durable: Image,
    pending: VecDeque<Operation>,
    /// Everything up to here is durable, in this life.
    pub(crate) synced: PersistSeq,
    /// When the running sync ends, and when the one that waits for it does.
    running_until: u64,
    waiting_until: u64,
}

impl Disk {
    /// Takes an operation and tells when it will be durable. What arrives while a sync runs
    /// shares the next one, which takes `latency`.
    pub(crate) fn submit(&mut self, operation: Operation, now: u64, latency: u64) -> u64 {
        self.pending.push_back(operation);
        if now >= self.waiting_until {
            self.running_until = now + latency;
            self.waiting_until = self.running_until;
        } else {
            if now >= self.running_until {
                self.running_until = self.waiting_until;
            }
            if self.waiting_until == self.running_until {
                self.waiting_until += latency;
            }
        }
        self.waiting_until
    }

    pub(crate) fn is_last(&self, seq: PersistSeq) -> bool {
        self.pending.back().is_none_or(|last| last.seq <= seq)
    }

    /// Everything up to `seq` is now durable.
    pub(crate) fn sync(&mut self, seq: PersistSeq) {
        self.synced = self.synced.max(seq);
        while let Some(operation) = self.pending.front().filter(|op| op.seq <= seq).cloned() {
            self.pending.pop_front();
            self.apply(operation);
        }
    }

    /// The power fails: some of what was on its way arrived, as a prefix.
    pub(crate) fn crash(&mut self, rng: &mut Rng) {
        let arrived = rng.pick(self.pending.len() + 1);
        for _ in 0..arrived {
            if let Some(operation) = self.pending.pop_front() {
                self.apply(operation);
            }
        }
        self.pending.clear();
        self.running_until = 0;
        self.waiting_until = 0;
        self.synced = PersistSeq::default();
    }

    fn apply(&mut self, operation: Operation) {
        if let Some(hard_state) = operation.hard_state {
            let old = self.durable.hard_state;
            assert!(
                hard_state.term > old.term
                    || (hard_state.term == old.term
                        && (old.vote.is_none() || hard_state.vote == old.vote)),
                "term and vote went from {old:?} to {hard_state:?}"
            );
            self.durable.hard_state = hard_state;
        }
        let log = &mut self.durable.log;
        if let Some(from) = operation.truncate_from {
            log.truncate(from.prev().get() as usize);
        }
        if let Some((first, records)) = operation.append {
            assert_eq!(first.prev().get(), log.len() as u64, "a hole in the log");
            log.extend(records);
        }
    }
}
