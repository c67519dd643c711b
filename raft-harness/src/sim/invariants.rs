//! The checks that run after every step: nothing a group does may contradict its own history.
//!
//! A profile tells the [`Checker`] what it sees and does; the checker keeps a history of each
//! group and answers with the first [`Violation`]. It never asks the core for an opinion: logs are
//! compared entry by entry, quorums are counted on the disks, leaders are looked up in history.
//! Only [`audited`] compares the core with itself.
//!
//! How a profile uses it:
//!
//! 1. After each step of a replica and *before* any of its effects is carried out: [`observe`].
//!    If the step was a pre-vote, [`pre_vote_asked`] before that, and [`pre_vote_answered`] when its
//!    answer leaves. A core also counts again what it keeps up to date: [`audited`].
//! 2. When a message leaves the node: [`promised`], once for each thing it promises.
//! 3. When entries reach the state machine: [`applied`]; when a snapshot replaces its state:
//!    [`installed`].
//! 4. [`crashed`], [`restarted`], [`wiped`], [`destroyed`] as fate has it.
//! 5. When a client is told that its write is committed: [`acknowledged`].
//! 6. Every virtual second or so, and at the end: [`sweep`]; at the very end, healed: [`settled`].
//!
//! Most steps change nothing that is looked at; they cost a comparison of a few words. Work is
//! done for what a step changed: its new entries, the commit index, the role.
//!
//! Logs are followed from index 1 (an initial snapshot would need a history to check against).
//!
//! [`observe`]: Checker::observe
//! [`pre_vote_asked`]: Checker::pre_vote_asked
//! [`pre_vote_answered`]: Checker::pre_vote_answered
//! [`promised`]: Checker::promised
//! [`applied`]: Checker::applied
//! [`installed`]: Checker::installed
//! [`crashed`]: Checker::crashed
//! [`restarted`]: Checker::restarted
//! [`wiped`]: Checker::wiped
//! [`destroyed`]: Checker::destroyed
//! [`acknowledged`]: Checker::acknowledged
//! [`sweep`]: Checker::sweep
//! [`settled`]: Checker::settled

mod audit;
mod commits;
mod entries;
mod membership;
mod pre_vote;
mod record;
mod replica;
mod step;
mod sweep;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use raft_core::{GroupId, HardState, LogIndex, Micros, NodeId, ReplicaId, RoleKind, Term};

pub use self::audit::audited;
use self::pre_vote::PreVotes;
use self::record::Record;
use self::replica::{
    DiskHistory, FaultPolicy, Life, Marks, Promised, Replica, ShadowLog, Standing,
};
use self::step::Step;
use crate::sim::observe::{Disks, Promise, Promises, ReplicaView};
use crate::sim::violation::{Check, Violation};

/// The history of a run's groups, and its judge.
///
/// After a violation its state is that of a failed run and means nothing more.
#[derive(Debug, Default)]
pub struct Checker {
    groups: BTreeMap<GroupId, Group>,
    pre_votes: PreVotes,
    steps: u64,
}

#[derive(Debug)]
struct Group {
    record: Record,
    /// A handful, so a list.
    replicas: Vec<(ReplicaId, Replica)>,
}

impl Group {
    fn replica(&mut self, replica: ReplicaId) -> Option<&mut Replica> {
        self.replicas.iter_mut().find(|(id, _)| *id == replica).map(|(_, state)| state)
    }
}

impl Checker {
    /// Knows nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many views it was shown.
    pub const fn steps(&self) -> u64 {
        self.steps
    }

    /// The last index of the group that anybody has reported committed.
    pub fn committed(&self, group: GroupId) -> LogIndex {
        self.groups.get(&group).map_or(LogIndex::ZERO, |group| group.record.commits.last())
    }

    /// The state of a replica after a step and before its effects. The first view of a replica,
    /// and of a new life, counts as [`restarted`](Self::restarted).
    ///
    /// # Errors
    /// The first check that fails.
    pub fn observe(
        &mut self,
        now: Micros,
        view: &ReplicaView<'_>,
        disks: &dyn Disks,
    ) -> Result<(), Violation> {
        self.steps += 1;
        let group = self
            .groups
            .entry(view.group)
            .or_insert_with(|| Group { record: Record::new(view.group), replicas: Vec::new() });
        let marks = Marks::of(view);
        let Some(replica) = group.replica(view.replica) else {
            group.replicas.push((view.replica, first_seen(marks)));
            return self.restarted(now, view, disks);
        };
        match replica.life {
            Life::Up if replica.marks == marks => Ok(()),
            Life::Up if replica.marks.incarnation == marks.incarnation => {
                let prev = Some(replica.marks);
                group.step(&Step { now, view, marks, prev, disks })
            }
            Life::Up | Life::Down | Life::Gone => self.restarted(now, view, disks),
        }
    }

    /// A replica has recovered from its disk, or exists for the first time: it must remember what
    /// it promised, or say that it may not.
    ///
    /// # Errors
    /// The first check that fails.
    pub fn restarted(
        &mut self,
        now: Micros,
        view: &ReplicaView<'_>,
        disks: &dyn Disks,
    ) -> Result<(), Violation> {
        let group = self
            .groups
            .entry(view.group)
            .or_insert_with(|| Group { record: Record::new(view.group), replicas: Vec::new() });
        let marks = Marks::of(view);
        if group.replica(view.replica).is_none() {
            group.replicas.push((view.replica, first_seen(marks)));
        }
        group.recovered(&Step { now, view, marks, prev: None, disks })
    }

    /// The node's processes are gone; its disk may have lost what was not durable.
    pub fn crashed(&mut self, node: NodeId) {
        for group in self.groups.values_mut() {
            for (id, replica) in &mut group.replicas {
                if replica.marks.node == node && replica.life == Life::Up {
                    replica.life = Life::Down;
                    replica.cast = None;
                    group.record.drop_lease(*id);
                }
            }
        }
    }

    /// A replica goes on as one that may have forgotten what it held: its next view is that of a new
    /// life in all but name.
    pub fn forgets(&mut self, group: GroupId, id: ReplicaId) {
        let Some(group) = self.groups.get_mut(&group) else { return };
        if let Some(replica) = group.replica(id) {
            replica.life = Life::Down;
            if replica.marks.promises == Promises::Kept {
                replica.cast = Some((replica.marks.term, replica.marks.vote));
            }
            group.record.drop_lease(id);
        }
    }

    /// The node's disk is empty now. A replica that promised anything may come back under its
    /// name only as one that may have forgotten.
    pub fn wiped(&mut self, node: NodeId) {
        self.crashed(node);
        for replica in self.groups.values_mut().flat_map(|group| &mut group.replicas) {
            if replica.1.marks.node == node {
                replica.1.disk = DiskHistory::Wiped;
            }
        }
    }

    /// This replica was removed from its node for good.
    pub fn destroyed(&mut self, group: GroupId, replica: ReplicaId) {
        if let Some(group) = self.groups.get_mut(&group) {
            group.record.drop_lease(replica);
            if let Some(state) = group.replica(replica) {
                state.life = Life::Gone;
            }
        }
    }

    /// Something was done to this replica that excuses a fault: its disk was damaged beyond what
    /// it promises to survive.
    pub fn excuse_fault(&mut self, group: GroupId, replica: ReplicaId) {
        if let Some(state) = self.groups.get_mut(&group).and_then(|g| g.replica(replica)) {
            state.fault = FaultPolicy::Excused;
        }
    }

    /// A message that promises this leaves the node (G10). Pre-votes and their answers promise
    /// nothing.
    ///
    /// # Errors
    /// If it contradicts an earlier promise, or promises what is not on disk.
    pub fn promised(
        &mut self,
        group: GroupId,
        replica: ReplicaId,
        promise: Promise,
        disks: &dyn Disks,
    ) -> Result<(), Violation> {
        let Some(known) = self.groups.get_mut(&group) else {
            return Err(unknown_replica(group, replica));
        };
        known.promised(replica, promise, disks)
    }

    /// A replica's state machine has taken this entry (G4).
    ///
    /// # Errors
    /// If it is not the committed one, not the next one, or not appliable yet.
    pub fn applied(
        &mut self,
        group: GroupId,
        replica: ReplicaId,
        index: LogIndex,
        term: Term,
        hash: u64,
    ) -> Result<(), Violation> {
        let Some(Group { record, replicas }) = self.groups.get_mut(&group) else {
            return Err(unknown_replica(group, replica));
        };
        let Some((_, state)) = replicas.iter_mut().find(|(id, _)| *id == replica) else {
            return Err(unknown_replica(group, replica));
        };
        if index > state.marks.appliable {
            return Err(record.fail(
                Check::MarksOrdered,
                format!("{replica:?} applied {index:?}, appliable is {:?}", state.marks.appliable),
            ));
        }
        if let Some(last) = state.applied.filter(|last| index != last.next()) {
            return Err(record.fail(
                Check::StateMachineSafety,
                format!("{replica:?} applied {index:?} after {last:?}"),
            ));
        }
        record.is_committed(Check::StateMachineSafety, replica, index, term)?;
        match record.entries.find(index, term) {
            Some(known) if known.identity.hash != hash => Err(record.fail(
                Check::StateMachineSafety,
                format!("{replica:?} applied {hash:#x} at {index:?}, the log has {known:?}"),
            )),
            Some(_) | None => {
                state.applied = Some(index);
                Ok(())
            }
        }
    }

    /// A replica's state machine still has the state after `index`, which was judged when it got there.
    ///
    /// # Errors
    /// If nobody knows the replica.
    pub fn goes_on(
        &mut self,
        group: GroupId,
        replica: ReplicaId,
        index: LogIndex,
    ) -> Result<(), Violation> {
        let known = self.groups.get_mut(&group).and_then(|known| known.replica(replica));
        let state = known.ok_or_else(|| unknown_replica(group, replica))?;
        state.applied = Some(index);
        Ok(())
    }

    /// A replica's state machine now has the state after `index`, from a snapshot or its disk.
    ///
    /// # Errors
    /// If the snapshot is of something that was not committed.
    pub fn installed(
        &mut self,
        group: GroupId,
        replica: ReplicaId,
        index: LogIndex,
        term: Term,
    ) -> Result<(), Violation> {
        let Some(known) = self.groups.get_mut(&group) else {
            return Err(unknown_replica(group, replica));
        };
        known.record.is_committed(Check::StateMachineSafety, replica, index, term)?;
        match known.replica(replica) {
            Some(state) => {
                state.applied = Some(index);
                Ok(())
            }
            None => Err(unknown_replica(group, replica)),
        }
    }

    /// A digest of a replica's state after `index`: equal on all replicas (G4).
    ///
    /// # Errors
    /// If another replica had another one there.
    pub fn digest(
        &mut self,
        group: GroupId,
        replica: ReplicaId,
        index: LogIndex,
        digest: u64,
    ) -> Result<(), Violation> {
        match self.groups.get_mut(&group) {
            Some(known) => known.record.digest(replica, index, digest),
            None => Err(unknown_replica(group, replica)),
        }
    }

    /// Somebody has accepted that a group goes on with what the log of `best` has on disk, and with
    /// nothing else. All its replicas are down. Says up to where that is what was committed, and how many
    /// entries beyond it were.
    ///
    /// # Errors
    /// If any replica has more of it on disk.
    pub fn accepted_loss(
        &mut self,
        group: GroupId,
        best: ReplicaId,
        disks: &dyn Disks,
    ) -> Result<(LogIndex, u64), Violation> {
        let Some(Group { record, replicas }) = self.groups.get_mut(&group) else {
            return Err(unknown_replica(group, best));
        };
        let committed = record.commits.last();
        let kept = record.kept_by(|index, term| disks.is_on_disk(group, best, index, term));
        let has_more = |id: ReplicaId| {
            let next = kept.next();
            let term = record.commits.term(next);
            term.is_some_and(|term| disks.is_on_disk(group, id, next, term))
        };
        if let Some((id, _)) = replicas.iter().find(|(id, _)| has_more(*id)) {
            return Err(record.fail(
                Check::AcknowledgedLost,
                format!(
                    "{:?} is given up although it was committed and {id:?} has it on disk",
                    kept.next()
                ),
            ));
        }
        record.give_up(kept);
        for (_, replica) in replicas {
            replica.promised.let_go();
            replica.applied = None;
        }
        Ok((kept, committed.since(kept)))
    }

    /// The only voter of a group goes on with what its log holds, and says that entries may be lost:
    /// `base` is in its snapshot, and `holds` says the terms behind. Says up to where that is what was
    /// committed, and how many entries beyond it were.
    ///
    /// # Errors
    /// If others vote as well.
    pub fn gone_on_alone(
        &mut self,
        group: GroupId,
        replica: ReplicaId,
        base: LogIndex,
        holds: impl Fn(LogIndex) -> Option<Term>,
    ) -> Result<(LogIndex, u64), Violation> {
        let Some(Group { record, replicas }) = self.groups.get_mut(&group) else {
            return Err(unknown_replica(group, replica));
        };
        if !record.configs.is_alone(replica) {
            let evidence = format!("{replica:?} goes on by itself although others vote");
            return Err(record.fail(Check::PromiseLost, evidence));
        }
        let committed = record.commits.last();
        let kept = record.kept_by(|index, term| index < base || holds(index) == Some(term));
        record.give_up(kept);
        for (_, replica) in replicas {
            replica.promised.let_go();
        }
        Ok((kept, committed.since(kept)))
    }

    /// A client was told that its write is committed at this index in this term (G11).
    ///
    /// # Errors
    /// If nobody has reported that.
    pub fn acknowledged(
        &mut self,
        group: GroupId,
        index: LogIndex,
        term: Term,
    ) -> Result<(), Violation> {
        let record = match self.groups.get_mut(&group) {
            Some(known) => &mut known.record,
            None => &mut Record::new(group),
        };
        record.acknowledged = record.acknowledged.max(index);
        match record.commits.term(index) {
            Some(known) if known == term => Ok(()),
            other => Err(record.fail(
                Check::AcknowledgedLost,
                format!("{index:?} of {term:?} was acknowledged, committed there is {other:?}"),
            )),
        }
    }
}

impl Group {
    fn step(&mut self, step: &Step<'_>) -> Result<(), Violation> {
        let Self { record, replicas } = self;
        let Some((id, replica)) = replicas.iter_mut().find(|(id, _)| *id == step.view.replica)
        else {
            return Err(unknown_replica(step.view.group, step.view.replica));
        };
        if let Some(vote) = step.marks.vote {
            record.votes.insert((step.marks.term, *id), vote);
        }
        match step.marks.standing {
            Standing::TakesPart => step.check(record, replica)?,
            Standing::Mute => {
                record.drop_lease(*id);
                match replica.fault {
                    FaultPolicy::Excused => {}
                    FaultPolicy::Unexpected => {
                        let fault = step.view.fault.map_or_else(String::new, ToString::to_string);
                        return Err(
                            record.fail(Check::UnexpectedFault, format!("{id:?} is mute: {fault}"))
                        );
                    }
                }
            }
        }
        if step.prev.is_some_and(|prev| prev.promises == Promises::Lost)
            && step.marks.promises == Promises::Kept
        {
            // What it learnt from the fence must cover what it forgot.
            let state = HardState { term: step.view.term, vote: step.view.vote };
            if let Some(missing) = replica.promised.missing_from(state) {
                return Err(record.fail(
                    Check::PromiseLost,
                    format!("{id:?} takes part again although it {missing}"),
                ));
            }
            replica.disk = DiskHistory::Own;
            if let Some((index, term)) = replica.promised.forget(&record.commits)
                && !step.disks.finds(step.view.group, *id, index, term)
            {
                return Err(record.fail(
                    Check::PromiseLost,
                    format!(
                        "{id:?} takes part again without {index:?} of {term:?}, which it once held \
                         and is committed"
                    ),
                ));
            }
        }
        replica.marks = step.marks;
        Ok(())
    }

    /// G10: the first view of a life.
    fn recovered(&mut self, step: &Step<'_>) -> Result<(), Violation> {
        let view = step.view;
        let Self { record, replicas } = self;
        let Some((id, replica)) = replicas.iter_mut().find(|(id, _)| *id == view.replica) else {
            return Err(unknown_replica(view.group, view.replica));
        };
        if view.role != RoleKind::Follower {
            return Err(record.fail(
                Check::Externalisation,
                format!("{id:?} begins a life as {:?} of {:?}", view.role, view.term),
            ));
        }
        let missing = missing(&replica.promised, view);
        match (missing, view.promises, step.marks.standing) {
            (None, _, _) => {}
            (Some(missing), Promises::Kept, Standing::TakesPart) => {
                let check = match replica.disk {
                    DiskHistory::Own => Check::Externalisation,
                    DiskHistory::Wiped => Check::PromiseLost,
                };
                return Err(record.fail(check, format!("{id:?} {missing}")));
            }
            // It says so itself, and what it held is not counted any more.
            (Some(_), Promises::Lost, _) | (Some(_), _, Standing::Mute) => {
                replica.promised.lose();
            }
        }
        replica.life = Life::Up;
        replica.applied = None;
        replica.config = None;
        replica.log = ShadowLog::default();
        replica.log.reset_to(view.base, view.base_term);
        record.drop_lease(*id);
        self.step(step)
    }

    fn promised(
        &mut self,
        replica: ReplicaId,
        promise: Promise,
        disks: &dyn Disks,
    ) -> Result<(), Violation> {
        let Self { record, replicas } = self;
        let Some((_, state)) = replicas.iter_mut().find(|(id, _)| *id == replica) else {
            return Err(unknown_replica(record.group, replica));
        };
        let group = record.group;
        if let Promise::Vote { term, candidate } = promise
            && state.marks.promises == Promises::Lost
            && !state.had_cast(term, candidate)
        {
            return Err(record.fail(
                Check::PromiseLost,
                format!("{replica:?} may have forgotten and votes for {candidate:?} in {term:?}"),
            ));
        }
        // Only what is news needs a look at the disk.
        let known = match promise {
            Promise::Term(term) => term <= state.promised.term,
            Promise::Vote { term, candidate } => state.promised.vote(term) == Some(candidate),
            Promise::Held { index, term } => state.promised.held == Some((index, term)),
        };
        if known {
            return Ok(());
        }
        if let Err(given) = state.promised.add(promise) {
            return Err(record.fail(
                Check::VoteOnce,
                format!("{replica:?} gave its vote to {given:?}, and now {promise:?}"),
            ));
        }
        // Whoever is past a term has no vote in it to give, and its disk would not tell.
        if let Promise::Vote { term, candidate } = promise
            && record.votes.get(&(term, replica)) != Some(&candidate)
        {
            return Err(record.fail(
                Check::VoteOnce,
                format!("{replica:?} says {promise:?} and never had given it"),
            ));
        }
        let early = match promise {
            Promise::Term(_) | Promise::Vote { .. } => disks
                .hard_state(group, replica)
                .and_then(|state_on_disk| state.promised.missing_from(state_on_disk)),
            Promise::Held { index, term } => (index > LogIndex::ZERO
                && !disks.holds(group, replica, index, term))
            .then(|| "does not have it on disk".to_owned()),
        };
        match early {
            None => Ok(()),
            Some(early) => Err(record.fail(
                Check::Externalisation,
                format!("{replica:?} says {promise:?} on the wire and {early}"),
            )),
        }
    }
}

/// What a recovered replica lacks of its promises.
fn missing(promised: &Promised, view: &ReplicaView<'_>) -> Option<String> {
    let state = HardState { term: view.term, vote: view.vote };
    promised.missing_from(state).or_else(|| {
        let (index, term) = promised.held?;
        let there = if index > view.base { view.log.term(index) } else { Some(term) };
        (there != Some(term)).then(|| {
            format!(
                "acknowledged {index:?} of {term:?}, has {there:?} there and ends at {:?}",
                view.last
            )
        })
    })
}

fn first_seen(marks: Marks) -> Replica {
    Replica {
        life: Life::Down,
        marks,
        config: None,
        log: ShadowLog::default(),
        promised: Promised::default(),
        applied: None,
        fault: FaultPolicy::Unexpected,
        disk: DiskHistory::Own,
        cast: None,
    }
}

fn unknown_replica(group: GroupId, replica: ReplicaId) -> Violation {
    Violation::of_group(
        Check::Externalisation,
        group,
        format!("{replica:?} acts before it was ever observed"),
    )
}
