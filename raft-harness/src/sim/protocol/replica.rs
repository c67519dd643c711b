//! A replica as its driver holds it: the core, and beside it everything the core does not.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use raft_core::{
    Candidacy, Effects, EntryKind, Gated, Group, GroupId, LogChange, LogIndex, Micros, NodeId,
    ReplicaId, SnapshotMeta, Term, Token,
};

use super::machine::{Command, Machine};
use super::notes::Memory;
use super::record::{Payload, Record};
use crate::sim::observe::{
    Activity, EntryClass, EntryIdentity, LogView, MembershipView, Promises, ReplicaView,
};
use crate::sim::rng::mix;

/// A read that waits for its index to be applied.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WaitingRead {
    pub(crate) index: LogIndex,
    pub(crate) token: Token,
}

/// One replica, alive.
#[derive(Debug)]
pub(crate) struct Replica {
    pub(crate) core: Group,
    pub(crate) effects: Effects,
    /// The position before the first of `log`.
    pub(crate) base: LogIndex,
    pub(crate) log: VecDeque<Record>,
    pub(crate) machine: Machine,
    pub(crate) gated: Vec<Gated>,
    pub(crate) appliable: LogIndex,
    /// The snapshot its machine must start over from.
    pub(crate) restore: Option<SnapshotMeta>,
    /// Proposals of this replica that are committed and wait to be applied.
    pub(crate) waiting: BTreeMap<LogIndex, (Term, Token)>,
    pub(crate) reads: Vec<WaitingRead>,
    /// Tokens the core has not answered.
    pub(crate) open: BTreeSet<Token>,
    /// The core's wish to be woken that an event stands for, on the common clock.
    pub(crate) armed: Option<u64>,
    pub(crate) touched: bool,
    /// What its core was told last.
    pub(crate) candidacy: Candidacy,
    pub(crate) memory: Memory,
}

impl Replica {
    /// A proposal on its way into the core, so that its entry gets its payload.
    pub(crate) fn follow_log(
        &mut self,
        proposed: Option<Command>,
        prev: LogIndex,
        incoming: &[Record],
    ) -> LogEvents {
        let mut events = LogEvents::default();
        for change in self.effects.log_changes.drain(..) {
            match change {
                LogChange::Truncated { from } => {
                    let kept = from.prev().since(self.base) as usize;
                    let mut terms: Vec<Term> =
                        self.log.iter().skip(kept).map(|record| record.term).collect();
                    // Terms never fall along a log.
                    terms.dedup();
                    events.truncated_terms = terms.len();
                    self.log.truncate(kept);
                }
                LogChange::Appended { index, term, kind, time } => {
                    let payload = match kind {
                        EntryKind::Noop => Payload::Noop,
                        EntryKind::Config => {
                            Payload::Config(Arc::clone(self.core.membership_at(index)))
                        }
                        EntryKind::Command => match proposed {
                            Some(command) => Payload::Command(command),
                            None => Payload::Noop,
                        },
                    };
                    let hash = match &payload {
                        Payload::Noop => mix(term.get() << 32 | index.get()),
                        Payload::Command(command) => mix(command.serial ^ 0xc0ff_ee00_0000_0000),
                        Payload::Config(members) => {
                            let bytes = members.encode();
                            let start = mix(term.get() ^ index.get() << 20);
                            bytes.iter().fold(start, |hash, byte| mix(hash ^ u64::from(*byte)))
                        }
                    };
                    self.log.push_back(Record { term, time, payload, hash });
                }
                LogChange::Received { first, last } => {
                    let skip = first.since(prev.next()) as usize;
                    let count = last.since(first.prev()) as usize;
                    self.log.extend(incoming.iter().skip(skip).take(count).cloned());
                }
                LogChange::Reset { meta } => {
                    self.log.clear();
                    // A planted bug may keep entries that do not exist; they are made up here.
                    for index in meta.index.get() + 1..=self.core.last_index().get() {
                        let term = self.core.last_term();
                        let hash = mix(index);
                        let time = meta.time;
                        self.log.push_back(Record { term, time, payload: Payload::Noop, hash });
                    }
                    self.base = meta.index;
                    self.restore = Some(meta);
                    events.installed = true;
                }
                LogChange::Compacted { upto } => {
                    let gone = upto.since(self.base) as usize;
                    self.log.drain(..gone.min(self.log.len()));
                    self.base = upto;
                }
            }
        }
        events
    }

    pub(crate) fn record(&self, index: LogIndex) -> Option<&Record> {
        let at = index.since(self.base).checked_sub(1)?;
        self.log.get(at as usize)
    }

    /// Entries `first..=last`, to be sent or written.
    pub(crate) fn records(&self, first: LogIndex, last: LogIndex) -> Vec<Record> {
        let from = first.since(self.base.next()) as usize;
        let count = last.since(first.prev()) as usize;
        self.log.iter().skip(from).take(count).cloned().collect()
    }

    /// What the checks see, with the clock of its node undone.
    pub(crate) fn view<'a>(
        &'a self,
        node: NodeId,
        lease_until: Option<Micros>,
        lists: &'a MembershipLists,
    ) -> ReplicaView<'a> {
        let status = self.core.status();
        ReplicaView {
            node,
            group: status.group,
            replica: status.replica,
            incarnation: self.core.incarnation(),
            term: status.term,
            vote: status.vote,
            role: status.role,
            leader: status.leader,
            commit: status.commit_index,
            appliable: status.appliable_index,
            written: status.written_index,
            durable: status.durable_index,
            last: status.last_index,
            base: status.base_index,
            base_term: self.core.entry_term(status.base_index).unwrap_or_default(),
            verified: if self.core.is_leader() { status.last_index } else { status.verified_index },
            membership: MembershipView {
                index: self.core.membership_index(),
                voters: self.core.membership().incoming(),
                outgoing: self.core.membership().outgoing(),
                learners: &lists.learners,
            },
            lease_until,
            activity: match (status.asleep, status.takes_office) {
                (true, _) => Activity::Quiesced,
                (false, true) => Activity::Awake,
                (false, false) => Activity::Withheld,
            },
            // Who was told of its removal by others waits for nothing but its deletion.
            next_deadline: self
                .core
                .next_deadline()
                .or_else(|| (status.removed && !status.asleep).then_some(Micros::ZERO)),
            in_flight: 0,
            promises: match status.promise.promise {
                raft_core::Promise::Kept => Promises::Kept,
                raft_core::Promise::Lost
                | raft_core::Promise::Damaged
                | raft_core::Promise::Unproven => Promises::Lost,
            },
            fault: self.core.fault(),
            log: self,
        }
    }

    pub(crate) fn group(&self) -> GroupId {
        self.core.id()
    }

    pub(crate) fn id(&self) -> ReplicaId {
        self.core.replica()
    }
}

/// What a step did to the log, for marks.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LogEvents {
    /// How many terms the entries that were cut are of.
    pub(crate) truncated_terms: usize,
    pub(crate) installed: bool,
}

/// Lists a view borrows that the core does not keep as such.
#[derive(Debug, Default)]
pub(crate) struct MembershipLists {
    learners: Vec<ReplicaId>,
}

impl MembershipLists {
    pub(crate) fn of(core: &Group) -> Self {
        let members = core.membership().members().iter();
        let learners = members.filter(|m| m.standing == raft_core::Standing::Learner);
        Self { learners: learners.map(|m| m.replica).collect() }
    }
}

impl LogView for Replica {
    fn entry(&self, index: LogIndex) -> Option<EntryIdentity> {
        self.record(index).map(|record| EntryIdentity {
            term: record.term,
            hash: record.hash,
            class: match record.payload {
                Payload::Config(_) => EntryClass::Config,
                Payload::Noop | Payload::Command(_) => EntryClass::Plain,
            },
        })
    }

    fn term(&self, index: LogIndex) -> Option<Term> {
        self.record(index).map(|record| record.term)
    }
}
