//! One replica with its driver: the group, the log's payloads, the state machine, the disk.

use std::collections::BTreeMap;
use std::sync::Arc;

use raft_core::{
    Base, Durable, Effects, Gated, Group, GroupId, HardState, Incarnation, Input, LogChange,
    LogIndex, LogTime, Membership, Micros, Outcome, Outgoing, PersistSeq, Promise, PromiseRecord,
    ReplicaId, Settings, SnapshotEffect, SnapshotMeta, Start, StartError, Term, Token,
};

use crate::describe;
use crate::disk::{Disk, Image, Log, Pace, Record, State};

/// What the leader's own entry is about, while it is being appended.
#[derive(Clone, Debug, Default)]
pub(crate) struct Proposal {
    pub(crate) name: String,
    pub(crate) cost: u64,
}

pub(crate) struct Replica {
    pub(crate) group: GroupId,
    pub(crate) id: ReplicaId,
    pub(crate) incarnation: Incarnation,
    pub(crate) disk: Disk,
    pub(crate) settings: Arc<Settings>,
    /// The membership it is created with; `None` for one that joins.
    first: Option<Membership>,
    pub(crate) live: Option<Live>,
}

/// What a crash takes.
pub(crate) struct Live {
    pub(crate) group: Group,
    pub(crate) log: Log,
    pub(crate) state: State,
    applied: LogIndex,
    effects: Effects,
    gated: Vec<Gated>,
    /// The snapshot it wants, and who has it.
    pub(crate) fetching: Option<(ReplicaId, SnapshotMeta)>,
    /// The bytes of a snapshot that arrived.
    received: Option<State>,
}

/// What a step brought about.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// Lines for the script.
    pub(crate) lines: Vec<String>,
    pub(crate) outcomes: Vec<(Token, Outcome)>,
    /// Entries that became committed here.
    pub(crate) committed: Vec<(LogIndex, Record)>,
}

/// What is compared before and after a step.
#[derive(Clone, Debug, Eq, PartialEq)]
struct View {
    role: String,
    vote: Option<(Term, ReplicaId)>,
    commit: LogIndex,
    appliable: LogIndex,
    promise: PromiseRecord,
    asleep: bool,
}

impl View {
    fn of(group: &Group) -> Self {
        let status = group.status();
        Self {
            role: describe::role(group),
            vote: status.vote.map(|vote| (status.term, vote)),
            commit: status.commit_index,
            appliable: status.appliable_index,
            promise: status.promise,
            asleep: status.asleep,
        }
    }
}

impl Replica {
    pub(crate) fn new(
        group: GroupId,
        id: ReplicaId,
        first: Option<Membership>,
        settings: Arc<Settings>,
    ) -> Self {
        let mut replica = Self {
            group,
            id,
            incarnation: Incarnation::new(0),
            disk: Disk::default(),
            settings,
            first,
            live: None,
        };
        replica.wipe();
        replica
    }

    /// The disk holds only what a new replica's does.
    pub(crate) fn wipe(&mut self) {
        let base = self.first.clone().map(Base::first).unwrap_or_default();
        self.disk.image = Image { base, ..Image::default() };
    }

    /// Fills the disk of a replica that is not running: one command per entry, of these terms.
    pub(crate) fn prepare(&mut self, terms: &[u64], hard_state: HardState) {
        let image = &mut self.disk.image;
        for term in terms {
            let index = image.log.last().next();
            let record = Record {
                term: Term::new(*term),
                kind: raft_core::EntryKind::Command,
                name: format!("e{index}t{term}"),
                cost: 100,
                time: LogTime::default(),
                membership: None,
            };
            image.log.push(index, record);
        }
        image.hard_state = hard_state;
    }

    /// Starts from the disk.
    pub(crate) fn boot(&mut self, now: Micros, seed: u64) -> Result<(), StartError> {
        self.incarnation = Incarnation::new(self.incarnation.get() + 1);
        let image = &self.disk.image;
        let snapshot = image.snapshot();
        let times = image.log.records.iter().map(|record| record.time);
        let start = Start {
            group: self.group,
            replica: self.id,
            incarnation: self.incarnation,
            base: Base { snapshot, ..image.base.clone() },
            configs: image.configs(),
            seed,
            hard_state: image.hard_state,
            term_runs: image.term_runs(),
            last_index: image.log.last(),
            log_time: times.max().unwrap_or_default(),
            applied: snapshot,
            promise: image.promise,
            settings: Arc::clone(&self.settings),
        };
        self.live = Some(Live {
            group: Group::new(now, start)?,
            log: image.log.clone(),
            state: image.snapshots.get(&snapshot).cloned().unwrap_or_default(),
            applied: snapshot,
            effects: Effects::default(),
            gated: Vec::new(),
            fetching: None,
            received: None,
        });
        Ok(())
    }

    pub(crate) fn crash(&mut self) {
        self.live = None;
        self.disk.crash();
    }

    /// One step, and what the driver does at once: payloads, payload-free bookkeeping, apply.
    pub(crate) fn step(
        &mut self,
        now: Micros,
        input: Input,
        proposal: &Proposal,
        records: &[Record],
    ) -> Told {
        let Some(live) = &mut self.live else {
            return Told::default();
        };
        let held = self.disk.pace == Pace::WhenTold;
        let before = View::of(&live.group);
        let received_after = match &input {
            Input::Message { message: raft_core::Message::Append(append), .. } => append.prev_index,
            _ => LogIndex::ZERO,
        };
        live.group.step(now, input, &mut live.effects);
        let after = View::of(&live.group);
        let mut told = Told::default();
        live.tell_office(&before, &after, self.id, &mut told);
        live.follow_log(proposal, records, received_after, &mut told);
        live.tell_progress(&before, &after, held, &mut told);
        live.follow_snapshots(&mut told);
        told.outcomes.append(&mut live.effects.outcomes);
        if let Some(fault) = live.effects.fault.take() {
            told.lines.push(format!("is mute: {fault}"));
        }
        live.effects.role_changed = false;
        told
    }

    /// Hands an operation to the disk; false if there is none.
    pub(crate) fn submit(&mut self) -> bool {
        let Some(live) = &mut self.live else {
            return false;
        };
        let Some(persist) = live.effects.persist.take() else {
            return false;
        };
        let state = persist.install.as_ref().map(|_| live.state.clone());
        self.disk.submit(persist, &live.log, state);
        true
    }

    /// Makes one operation durable: what it lets leave, and its number.
    pub(crate) fn sync_one(&mut self) -> Option<(PersistSeq, Vec<Outgoing>)> {
        let seq = self.disk.sync_one()?;
        let mut open = Vec::new();
        if let Some(live) = &mut self.live {
            for gate in std::mem::take(&mut live.gated) {
                match gate.open(Durable::attest(seq)) {
                    Ok(outgoing) => open.push(outgoing),
                    Err(gate) => live.gated.push(gate),
                }
            }
        }
        Some((seq, open))
    }

    /// Messages that leave now; those that wait for the disk are kept.
    pub(crate) fn take_messages(&mut self) -> Vec<Outgoing> {
        let Some(live) = &mut self.live else {
            return Vec::new();
        };
        live.effects.messages.hold_gated(&mut live.gated);
        live.effects.messages.drain_ready().collect()
    }

    /// How many messages wait for the disk.
    pub(crate) fn gated(&self) -> usize {
        self.live.as_ref().map_or(0, |live| live.gated.len())
    }

    /// The bytes of the wanted snapshot are here.
    pub(crate) fn receive(
        &mut self,
        snapshots: &BTreeMap<LogIndex, State>,
    ) -> Result<Input, String> {
        let live = self.live.as_mut().ok_or("it is down")?;
        let (from, meta) = live.fetching.take().ok_or("it wants no snapshot")?;
        let (index, term) = (meta.index, meta.term);
        let state =
            snapshots.get(&index).ok_or_else(|| format!("n{from} has no snapshot {index}"))?;
        live.received = Some(state.clone());
        Ok(Input::SnapshotReceived { index, term })
    }

    /// Clones the state up to an index into a durable snapshot.
    pub(crate) fn take_snapshot(&mut self, at: Option<LogIndex>) -> Result<Input, String> {
        let live = self.live.as_ref().ok_or("it is down")?;
        let index = at.unwrap_or(live.applied);
        // An installed snapshot may be applied once the disk has the log that begins after it.
        let status = live.group.status();
        let appliable = status.appliable_index.min(status.quorum_durable_index);
        if index > live.applied.min(appliable) || live.group.snapshot_meta(index).is_none() {
            return Err(format!("there is no state at {index}"));
        }
        let state = live.state.iter().filter(|(at, _)| *at <= index).cloned().collect();
        self.disk.image.snapshots.insert(index, state);
        Ok(Input::SnapshotTaken(index))
    }

    /// What its log says about its promises at the next start.
    pub(crate) fn judge(&mut self, promise: Promise) {
        self.disk.image.promise.promise = promise;
    }

    pub(crate) fn is_held(&self) -> bool {
        self.disk.pace == Pace::WhenTold
    }
}

impl Live {
    fn tell_office(&self, before: &View, after: &View, me: ReplicaId, told: &mut Told) {
        if after.role != before.role {
            told.lines.push(format!("{} -> {}", before.role, after.role));
        }
        match after.vote {
            Some((term, vote)) if after.vote != before.vote && vote != me => {
                told.lines.push(format!("votes for n{vote} in term {term}"));
            }
            _ => {}
        }
    }

    fn follow_log(
        &mut self,
        proposal: &Proposal,
        records: &[Record],
        received_after: LogIndex,
        told: &mut Told,
    ) {
        for change in std::mem::take(&mut self.effects.log_changes) {
            told.lines.push(match change {
                LogChange::Truncated { from } => {
                    let gone = describe::entries(&self.log, from, self.log.last());
                    self.log.truncate(from);
                    format!("cuts {gone}")
                }
                LogChange::Appended { index, term, kind, time } => {
                    let (name, cost) = match kind {
                        raft_core::EntryKind::Command => (proposal.name.clone(), proposal.cost),
                        raft_core::EntryKind::Noop | raft_core::EntryKind::Config => {
                            (describe::entry_name(kind).to_string(), 32)
                        }
                    };
                    let membership = (kind == raft_core::EntryKind::Config)
                        .then(|| Arc::clone(self.group.membership_at(index)));
                    let line = format!("appends {index}: {name}");
                    self.log.push(index, Record { term, kind, name, cost, time, membership });
                    line
                }
                LogChange::Received { first, last } => {
                    let skip = first.prev().since(received_after) as usize;
                    for (record, at) in records.iter().skip(skip).zip(0..) {
                        self.log.push(first.plus(at), record.clone());
                    }
                    assert_eq!(self.log.last(), last);
                    format!("takes {}", describe::entries(&self.log, first, last))
                }
                LogChange::Reset { meta } => {
                    self.log.reset(meta.index);
                    self.state = self.received.take().expect("a snapshot was received");
                    self.applied = meta.index;
                    format!("starts over from snapshot {}", describe::snapshot(&meta))
                }
                LogChange::Compacted { upto } => {
                    self.log.compact(upto);
                    format!("forgets its log up to {upto}")
                }
            });
        }
        if std::mem::take(&mut self.effects.membership_changed) {
            let membership = self.group.membership();
            told.lines.push(format!("has {}", describe::membership(membership)));
        }
    }

    /// What may be applied is told of a held disk: else it follows the commit at once.
    fn tell_progress(&mut self, before: &View, after: &View, held: bool, told: &mut Told) {
        if after.commit > before.commit {
            let first = before.commit.next().max(self.log.base.next());
            if first <= after.commit {
                let span = describe::entries(&self.log, first, after.commit);
                told.lines.push(format!("commits {span}"));
            }
            let committed = self.log.range(first, after.commit);
            told.committed = committed.map(|(index, record)| (index, record.clone())).collect();
        }
        if let Some(upto) = self.effects.appliable.take() {
            for (index, record) in self.log.range(self.applied.next(), upto) {
                if record.kind == raft_core::EntryKind::Command {
                    self.state.push((index, record.name.clone()));
                }
            }
            self.applied = upto;
        }
        let together = after.appliable == after.commit && after.commit > before.commit;
        if held && after.appliable > before.appliable && !together {
            told.lines.push(format!("may apply up to {}", after.appliable));
        } else if held && after.commit > before.commit && !together {
            told.lines.push(format!("may apply up to {} only", after.appliable));
        }
        if after.promise != before.promise {
            let told_as = |record: PromiseRecord| {
                format!("{}, loss epoch {}", describe::promise(record.promise), record.loss_epoch)
            };
            let (old, new) = (told_as(before.promise), told_as(after.promise));
            told.lines.push(format!("promise {old} -> {new}"));
        }
        match (before.asleep, after.asleep) {
            (false, true) => told.lines.push(String::from("falls asleep")),
            (true, false) => told.lines.push(String::from("wakes up")),
            (false, false) | (true, true) => {}
        }
    }

    fn follow_snapshots(&mut self, told: &mut Told) {
        match self.effects.snapshot.take() {
            Some(SnapshotEffect::Fetch { from, meta }) => {
                let snapshot = describe::snapshot(&meta);
                told.lines.push(format!("wants snapshot {snapshot} from n{from}"));
                self.fetching = Some((from, meta));
            }
            Some(SnapshotEffect::Abort { index }) => {
                told.lines.push(format!("wants snapshot {index} no more"));
                self.fetching = None;
            }
            Some(SnapshotEffect::Doubted { index }) => {
                told.lines.push(format!("doubts its snapshot {index}"));
            }
            None => {}
        }
    }
}
