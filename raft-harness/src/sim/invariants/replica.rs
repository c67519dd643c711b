//! What the checker remembers of one replica: its last view, the terms of its log, its promises.

use std::collections::BTreeMap;

use raft_core::{HardState, Incarnation, LogIndex, Micros, NodeId, ReplicaId, RoleKind, Term};

use super::commits::Commits;
use super::membership::ConfigKey;
use crate::sim::observe::{Activity, Promise, Promises, ReplicaView};

/// Everything a view says that fits in a register or two. Two equal ones mean that nothing the
/// checks look at has changed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Marks {
    pub(super) node: NodeId,
    pub(super) incarnation: Incarnation,
    pub(super) term: Term,
    pub(super) vote: Option<ReplicaId>,
    pub(super) role: RoleKind,
    pub(super) leader: Option<ReplicaId>,
    pub(super) commit: LogIndex,
    pub(super) appliable: LogIndex,
    pub(super) written: LogIndex,
    pub(super) durable: LogIndex,
    pub(super) last: LogIndex,
    pub(super) last_term: Term,
    pub(super) base: LogIndex,
    pub(super) base_term: Term,
    pub(super) verified: LogIndex,
    pub(super) config_index: LogIndex,
    pub(super) lease_until: Option<Micros>,
    pub(super) activity: Activity,
    pub(super) deadline: Deadline,
    pub(super) waits: Waits,
    pub(super) promises: Promises,
    pub(super) standing: Standing,
}

/// Whether the replica asked to be woken. When is of no concern here.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Deadline {
    Set,
    None,
}

/// Whether the replica waits for anything.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Waits {
    ForNothing,
    ForSomething,
}

/// Whether the replica takes part.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Standing {
    TakesPart,
    Mute,
}

impl Marks {
    pub(super) fn of(view: &ReplicaView<'_>) -> Self {
        let last_term = if view.last == view.base {
            view.base_term
        } else {
            view.log.term(view.last).unwrap_or(Term::ZERO)
        };
        Self {
            node: view.node,
            incarnation: view.incarnation,
            term: view.term,
            vote: view.vote,
            role: view.role,
            leader: view.leader,
            commit: view.commit,
            appliable: view.appliable,
            written: view.written,
            durable: view.durable,
            last: view.last,
            last_term,
            base: view.base,
            base_term: view.base_term,
            verified: view.verified,
            config_index: view.membership.index,
            lease_until: view.lease_until,
            activity: view.activity,
            deadline: if view.next_deadline.is_some() { Deadline::Set } else { Deadline::None },
            waits: if view.in_flight > 0 { Waits::ForSomething } else { Waits::ForNothing },
            promises: view.promises,
            standing: if view.fault.is_some() { Standing::Mute } else { Standing::TakesPart },
        }
    }
}

/// Whether a replica's process runs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Life {
    Up,
    /// Its node crashed; the marks are its last ones.
    Down,
    /// It is destroyed and does not come back.
    Gone,
}

/// The terms of a log as runs, and its configuration entries.
#[derive(Clone, Debug, Default)]
pub(super) struct ShadowLog {
    pub(super) base: LogIndex,
    pub(super) base_term: Term,
    /// (first index, term), ascending, all above `base`.
    runs: Vec<(LogIndex, Term)>,
    pub(super) last: LogIndex,
    /// Configuration entries above `base`, ascending.
    pub(super) configs: Vec<ConfigKey>,
}

impl ShadowLog {
    /// The term at `index`, for `base ..= last`.
    pub(super) fn term(&self, index: LogIndex) -> Option<Term> {
        if index == self.base {
            return Some(self.base_term);
        }
        if index < self.base || index > self.last {
            return None;
        }
        let after = self.runs.partition_point(|(first, _)| *first <= index);
        after.checked_sub(1).map(|run| self.runs[run].1)
    }

    pub(super) fn last_term(&self) -> Term {
        self.runs.last().map_or(self.base_term, |(_, term)| *term)
    }

    pub(super) fn push(&mut self, term: Term) -> LogIndex {
        let index = self.last.next();
        if self.runs.last().is_none_or(|(_, last)| *last != term) {
            self.runs.push((index, term));
        }
        self.last = index;
        index
    }

    /// Drops everything above `keep`.
    pub(super) fn truncate_after(&mut self, keep: LogIndex) {
        while self.runs.last().is_some_and(|(first, _)| *first > keep) {
            self.runs.pop();
        }
        while self.configs.last().is_some_and(|config| config.index > keep) {
            self.configs.pop();
        }
        self.last = self.last.min(keep).max(self.base);
    }

    /// Everything up to `base` is under the snapshot now.
    pub(super) fn compact_to(&mut self, base: LogIndex, base_term: Term) {
        let next_term = self.term(base.next());
        self.runs.retain(|(first, _)| *first > base.next());
        if let Some(term) = next_term {
            self.runs.insert(0, (base.next(), term));
        }
        self.configs.retain(|config| config.index > base);
        self.base = base;
        self.base_term = base_term;
        self.last = self.last.max(base);
    }

    /// An empty log above a snapshot.
    pub(super) fn reset_to(&mut self, base: LogIndex, base_term: Term) {
        *self = Self { base, base_term, last: base, ..Self::default() };
    }
}

/// What a replica's messages have promised, over all its lives.
#[derive(Clone, Debug, Default)]
pub(super) struct Promised {
    pub(super) term: Term,
    /// Grows with the elections it took part in.
    votes: BTreeMap<Term, ReplicaId>,
    /// The last acknowledged entry that no later leader has truncated.
    pub(super) held: Option<(LogIndex, Term)>,
    /// What it had acknowledged when it was found to have forgotten.
    lost: Option<(LogIndex, Term)>,
}

impl Promised {
    /// Adds a promise; whom the vote of this term went to before, if to another.
    pub(super) fn add(&mut self, promise: Promise) -> Result<(), ReplicaId> {
        match promise {
            Promise::Term(term) => self.term = self.term.max(term),
            Promise::Vote { term, candidate } => {
                self.term = self.term.max(term);
                let given = *self.votes.entry(term).or_insert(candidate);
                if given != candidate {
                    return Err(given);
                }
            }
            Promise::Held { index, term } => {
                self.held = self.held.max(Some((index, term)));
            }
        }
        Ok(())
    }

    /// It may have forgotten what it acknowledged, which was counted all the same.
    pub(super) fn lose(&mut self) {
        self.lost = self.lost.max(self.held.take());
    }

    /// Nobody counts on what it acknowledged any more.
    pub(super) fn let_go(&mut self) {
        (self.held, self.lost) = (None, None);
    }

    /// It counts again: the last committed entry that may have been counted on it before.
    pub(super) fn forget(&mut self, commits: &Commits) -> Option<(LogIndex, Term)> {
        let (held, held_term) = self.lost.take()?;
        let index = commits.up_to(held_term).min(held);
        commits.term(index).filter(|_| index > LogIndex::ZERO).map(|term| (index, term))
    }

    pub(super) fn vote(&self, term: Term) -> Option<ReplicaId> {
        self.votes.get(&term).copied()
    }

    /// A later leader replaced everything above `keep`.
    pub(super) fn truncated_after(&mut self, keep: LogIndex, keep_term: Term) {
        if self.held.is_some_and(|(index, _)| index > keep) {
            self.held = Some((keep, keep_term));
        }
    }

    /// What of the promised term and vote is missing from `state`.
    pub(super) fn missing_from(&self, state: HardState) -> Option<String> {
        if state.term < self.term {
            return Some(format!("promised {:?}, has {:?}", self.term, state.term));
        }
        match self.vote(state.term) {
            Some(given) if state.vote != Some(given) => Some(format!(
                "gave its vote of {:?} to {given:?}, has {:?}",
                state.term, state.vote
            )),
            Some(_) | None => None,
        }
    }
}

/// One replica over all its lives.
#[derive(Clone, Debug)]
pub(super) struct Replica {
    pub(super) life: Life,
    pub(super) marks: Marks,
    pub(super) config: Option<ConfigKey>,
    pub(super) log: ShadowLog,
    pub(super) promised: Promised,
    /// The last index its state machine has; `None` until it says so in this life.
    pub(super) applied: Option<LogIndex>,
    /// A fault was to be expected: something was done to it that no disk or peer does.
    pub(super) fault: FaultPolicy,
    /// Its disk was replaced by an empty one.
    pub(super) disk: DiskHistory,
    /// Its term and vote when its log was found damaged in this life: what it had voted may be on its
    /// way still, and was as good as what it held then.
    pub(super) cast: Option<(Term, Option<ReplicaId>)>,
}

impl Replica {
    /// Whether it had voted so, or may have in an earlier term, before it was found damaged.
    pub(super) fn had_cast(&self, term: Term, candidate: ReplicaId) -> bool {
        self.cast.is_some_and(|(then, vote)| term < then || term == then && vote == Some(candidate))
    }
}

/// Whether a fault of the replica is a finding.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum FaultPolicy {
    Unexpected,
    Excused,
}

/// Whether a replica's disk is the one it wrote to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum DiskHistory {
    Own,
    Wiped,
}
