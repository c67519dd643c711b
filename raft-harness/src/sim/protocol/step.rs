//! One input for one replica: the core steps, the checks look, and only then the driver follows.
//!
//! No effect of a step is carried out before every check has seen what the step has made of the
//! replica.

use std::sync::Arc;

use raft_core::{GroupId, Input, LogIndex, Message, Micros};

use super::machine::Command;
use super::network::NodeAt;
use super::node::Running;
use super::notes::Before;
use super::platters::Platters;
use super::reception::{Reception, trusts_itself_rightly};
use super::record::Record;
use super::replica::{MembershipLists, Replica};
use super::stops::takes_no_office;
use super::timeline::Event;
use super::world::World;
use crate::sim::invariants::audited;
use crate::sim::violation::{Check, Violation};

impl World {
    pub(crate) fn touch(&mut self, at: NodeAt, group: GroupId) {
        let node = &mut self.nodes[at];
        let Some(replica) = node.replicas.get_mut(&group) else { return };
        if !replica.touched {
            replica.touched = true;
            node.touched.push(group);
        }
        if !node.turn_due && node.running == Running::Up {
            node.turn_due = true;
            let life = node.incarnation;
            let after = 5 + self.rng_turn.below(60);
            self.queue.push(self.now + after, Event::Turn { node: at, life });
        }
    }

    /// Whoever believes that it was removed stands for nothing any more, and its data are deleted;
    /// so some committed membership from after its time must be without it. Ids are never used
    /// again: the newest will do.
    fn left_rightly(&mut self, group: GroupId, replica: &Replica) -> Result<(), Violation> {
        let core = &replica.core;
        let at = core.membership_index();
        if at <= core.commit_index() && !core.membership().members().is_empty() {
            let newest = || (at, Arc::clone(core.membership()));
            let known = self.memberships.entry(group).or_insert_with(newest);
            if known.0 < at {
                *known = newest();
            }
        }
        if !core.is_removed() {
            return Ok(());
        }
        let known = self.memberships.get(&group);
        let gone = known.is_some_and(|(_, membership)| {
            membership.last_replica() >= replica.id() && membership.member(replica.id()).is_none()
        });
        if gone {
            return Ok(());
        }
        let evidence =
            format!("{:?} believes that it was removed; committed is {known:?}", replica.id());
        Err(Violation::of_group(Check::Left, group, evidence))
    }

    /// One input for one replica: the core steps, the checks look, the driver follows.
    pub(crate) fn step(&mut self, at: NodeAt, group: GroupId, input: Input, records: &[Record]) {
        self.step_with(at, group, input, records, None);
    }

    pub(crate) fn step_with(
        &mut self,
        at: NodeAt,
        group: GroupId,
        input: Input,
        records: &[Record],
        proposed: Option<Command>,
    ) {
        if self.violation.is_some() || self.nodes[at].running != Running::Up {
            return;
        }
        if let Input::Message { message: Message::TimeoutNow(request), .. } = &input {
            self.judge_candidacy(at, group, request.commit);
        }
        let local = self.nodes[at].local(self.now);
        let Some(mut replica) = self.nodes[at].replicas.remove(&group) else { return };
        self.counts.steps += 1;
        let prev = match &input {
            Input::Message { message: Message::Append(append), .. } => append.prev_index,
            _ => LogIndex::ZERO,
        };
        match &input {
            Input::Propose { token, .. }
            | Input::Read { token, .. }
            | Input::Transfer { token, .. }
            | Input::ChangeMembership { token, .. } => {
                replica.open.insert(*token);
            }
            _ => {}
        }
        let question = match &input {
            Input::Message { from, message: Message::PreVote(request), .. } => {
                Some((*from, *request, replica.core.next_deadline()))
            }
            _ => None,
        };
        let reception = Reception::of(&replica, local, &input, &self.settings);
        let promise = replica.core.status().promise.promise;
        if let Input::Message { message: Message::Fence(fence), .. } = &input
            && fence.incarnation == replica.core.incarnation()
        {
            replica.memory.fences.push((fence.term, fence.index));
        }
        if let Input::Message {
            to_incarnation,
            message: Message::Heartbeat(asked) | Message::ReadConfirm(asked),
            ..
        } = &input
            && *to_incarnation == replica.core.incarnation()
            && asked.term >= replica.core.term()
        {
            replica.memory.is_asked(asked.term, asked.read_seq);
        }
        let damaged = matches!(input, Input::LogDamaged(_));
        let applied = replica.machine.applied;
        let applied_term = replica.core.entry_term(applied);
        let before = Before::of(&mut replica, &input);
        let role = replica.core.role_kind();
        if let Input::Candidacy(candidacy) = &input {
            replica.candidacy = *candidacy;
        }
        replica.core.step(local, input, &mut replica.effects);
        let judged = reception.map_or(Ok(()), |reception| reception.judge(group, &replica));
        self.check(judged);
        if let Some(disbelief) = replica.effects.disbelieved.take() {
            let evidence = format!("{:?} is not believed: {disbelief}", replica.id());
            self.check(Err(Violation::of_group(Check::UnexpectedFault, group, evidence)));
        }
        self.check(takes_no_office(role, &replica));
        let left = self.left_rightly(group, &replica);
        self.check(left);
        self.check(trusts_itself_rightly(promise, &replica, &self.settings));
        self.check(audited(&replica.core));
        let log = replica.follow_log(proposed, prev, records);
        replica.appliable = replica.appliable.min(replica.core.status().appliable_index);
        self.note_step(at, &mut replica, before, log);
        // A lease ends by the leader's own clock; the checks know only the common one.
        let lease =
            replica.core.lease_until().map(|until| Micros::new(self.nodes[at].clock.common(until)));
        let lists = MembershipLists::of(&replica.core);
        let view = replica.view(self.nodes[at].id, lease, &lists);
        if let Some((candidate, request, deadline)) = question {
            let seen = self.checker.pre_vote_asked(&view, candidate, request, deadline);
            self.check(seen);
        }
        let platters = Platters { nodes: &self.nodes, counts_written: self.counts_written() };
        if damaged {
            self.checker.forgets(group, replica.id());
        }
        let seen = self.checker.observe(Micros::new(self.now), &view, &platters);
        self.check(seen);
        if damaged && applied > LogIndex::ZERO {
            // Its machine goes on from where it is, which the log may have lost the last time.
            let seen = match applied_term {
                Some(term) => self.checker.installed(group, replica.id(), applied, term),
                None => self.checker.goes_on(group, replica.id(), applied),
            };
            self.check(seen);
        }
        self.nodes[at].replicas.insert(group, replica);
        self.touch(at, group);
    }
}
