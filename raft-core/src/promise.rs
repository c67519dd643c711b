//! Replicas that may have forgotten what they promised.
//!
//! After a power cut under a strategy that acknowledges before the disk has it, or when a log is
//! found damaged below what it had promised, a replica does not know which entries it once
//! acknowledged. It then neither votes nor counts, and asks the leader for a *fence*: the end of
//! the leader's log at that moment, which lies beyond everything it can have acknowledged in that
//! term. Once it holds the leader's log up to the fence, durably, it is as good as before. Term
//! and vote are not forgotten in this way: they are always durable before they are answered.
//!
//! Damage can take them all the same. Say B won term T with C's vote, C's disk loses the record of
//! that, and C hears A, which leads T-1: behind A's fence C would count for A, and A and C would
//! commit what the leader B does not have. So where the newest term and vote are not proven
//! ([`Promise::Unproven`]) there is no fence: such a replica never counts again.
//! Where they are proven, so is the vote of the term in which it recovers: it gives no second one.
//!
//! A log may also be found damaged while the replica runs. It is then as after a start, but that the life
//! goes on: the leader is told to trust nothing that was acknowledged before, and a fence that was
//! asked for earlier is not taken for one that covers what was acknowledged since.
//!
//! Invariants: a fence counts only for the life that asked and in the term it was given; the
//! record that promises are kept again is written after everything below the fence is durable.

use alloc::boxed::Box;

use crate::group::{Group, Role};
use crate::id::{LogIndex, ReplicaId};
use crate::io::{Effects, Fault, StepResult};
use crate::message::{Fence, Message, Promise, Recover};
use crate::settings::{Acknowledge, PromiseRecord};

impl Group {
    /// The leader spoke: ask it how far we must catch up, until it has answered.
    pub(crate) fn ask_for_fence(&mut self, leader: ReplicaId, effects: &mut Effects) {
        if self.may_recover() && self.fence.is_none() {
            self.damage_untold = false;
            let request = Recover { term: self.hard_state.term, incarnation: self.incarnation };
            self.send_promise(leader, Message::Recover(request), effects);
        }
    }

    pub(crate) fn on_recover(&mut self, from: ReplicaId, request: Recover, effects: &mut Effects) {
        let index = self.log.last_index();
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        let term = leader.term;
        if request.term != term {
            return;
        }
        let next = index.next();
        if let Some(progress) = leader.peer_mut(from) {
            if !progress.is_fresh() && !crate::planted!(MatchOutlivesDamage) {
                // It may have acknowledged something in this same life, trusted or not: that is not
                // there any more, and what it says of it on its way here is no answer.
                progress.restart(self.sessions.bump(), next);
            }
            progress.promise = Promise::Lost;
            let fence = Fence { term, incarnation: request.incarnation, index };
            effects.messages.send(from, Message::Fence(fence), None);
        }
    }

    pub(crate) fn on_fence(&mut self, from: ReplicaId, fence: Fence, effects: &mut Effects) {
        if !self.is_lost() && fence.term == self.hard_state.term && self.leader == Some(from) {
            // It was asked for a second time before we had it: the leader takes us for lost again.
            self.send_ack(effects);
            return;
        }
        let ours = fence.incarnation == self.incarnation || crate::planted!(FenceOfOlderLifeCounts);
        if ours
            && self.may_recover()
            && fence.term == self.hard_state.term
            && self.leader == Some(from)
            && self.fence.is_none()
            && !self.damage_untold
            && fence.index >= self.fence_min
        {
            self.fence = Some(fence.index);
        }
    }

    /// Trusts itself again once everything below the fence is where it was promised to be.
    pub(crate) fn leave_recovery(&mut self, effects: &mut Effects) {
        if !self.may_recover() {
            return;
        }
        if crate::planted!(LostEndsOnFirstContact) && self.leader.is_some() {
            let loss_epoch = self.promise.loss_epoch;
            self.set_promise(PromiseRecord { promise: Promise::Kept, loss_epoch }, effects);
            return;
        }
        let Some(fence) = self.fence else { return };
        let mut held = match self.settings.acknowledge {
            Acknowledge::Durable => self.durability.durable(),
            Acknowledge::Written => self.durability.written(),
        };
        if crate::planted!(FenceOnlyInMemory) {
            held = self.log.last_index();
        }
        if self.verified >= fence && held >= fence && self.durability.hard_state_gate().is_none() {
            self.fence = None;
            let loss_epoch = self.promise.loss_epoch;
            self.set_promise(PromiseRecord { promise: Promise::Kept, loss_epoch }, effects);
            // The leader learns that we count again.
            self.send_ack(effects);
            self.reset_election_deadline();
        }
    }

    /// The log cannot be read back from here on: what it holds is forgotten, as a start would find it
    /// damaged. Term and vote are known.
    pub(crate) fn on_log_damaged(&mut self, index: LogIndex, effects: &mut Effects) -> StepResult {
        if index > self.log.last_index() {
            // It was cut meanwhile.
            return Ok(());
        }
        // Nobody could fill it anew, or what is missing is below where logs are compared.
        if index <= self.snapshot || self.membership().is_sole_voter(self.me) {
            return Err(Box::new(Fault::LogUnreadable { index }));
        }
        self.wake();
        // Of this term no more was acknowledged than this.
        let acknowledged = if self.is_leader() { LogIndex::ZERO } else { self.verified };
        self.fence_min = self.fence_min.max(acknowledged);
        (self.fence, self.damage_untold) = (None, true);
        let term = self.hard_state.term;
        self.become_follower(term, None, effects);
        self.fail_forwarded(effects);
        self.ack_owed = false;
        if !crate::planted!(DamageKeepsPromise) {
            // One that never counts again stays so. It is written down even then: a driver may have
            // started one so for a reason of which its log says nothing.
            let promise = match self.promise.promise {
                Promise::Unproven => Promise::Unproven,
                Promise::Kept | Promise::Lost | Promise::Damaged => Promise::Damaged,
            };
            self.set_promise(PromiseRecord { promise, ..self.promise }, effects);
        }
        self.fall_back(index.prev());
        self.truncate(index, effects);
        self.reset_election_deadline();
        Ok(())
    }

    /// Whether a fence makes it as good as before.
    fn may_recover(&self) -> bool {
        match self.promise.promise {
            Promise::Kept => false,
            Promise::Lost | Promise::Damaged => true,
            Promise::Unproven => crate::planted!(FenceWithUnprovenVote),
        }
    }

    /// Somebody who may decide it says that entries may be lost. That says nothing of votes.
    pub(crate) fn accept_loss(&mut self, effects: &mut Effects) {
        if self.may_recover() {
            self.fence = None;
            let loss_epoch = self.promise.loss_epoch.saturating_add(1);
            self.set_promise(PromiseRecord { promise: Promise::Kept, loss_epoch }, effects);
            // A leader that took us for lost learns that we count again.
            if matches!(self.role, Role::Follower) {
                self.send_ack(effects);
            }
            self.reset_election_deadline();
        }
    }
}
