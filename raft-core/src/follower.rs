//! Following: appends, heartbeats, and the acknowledgements that wait for the disk
//! (paper, section 5.3).
//!
//! Invariants: entries are removed only at a genuine conflict; commit never passes the prefix
//! verified against this leader; an acknowledgement names only what is durable.

use alloc::boxed::Box;
use alloc::sync::Arc;

use crate::group::{Group, Role};
use crate::id::{LogIndex, Micros, ReplicaId, Term};
use crate::io::{Disbelief, DiskSpace, Effects, Fault, LogChange, StepResult};
use crate::message::{
    Append, AppendReply, AppendResult, Declined, Heartbeat, HeartbeatReply, Message, Promise,
    Session,
};
use crate::settings::Acknowledge;

impl Group {
    pub(crate) fn on_append(
        &mut self,
        from: ReplicaId,
        append: &Append,
        effects: &mut Effects,
    ) -> StepResult {
        if append.term < self.hard_state.term {
            self.answer_append(from, append.session, AppendResult::StaleTerm, effects);
            return Ok(());
        }
        let Some(last_new) = append.sound_end() else {
            effects.disbelieved =
                Some(Disbelief::Unsound { from, term: append.term, index: append.prev_index });
            return Ok(());
        };
        // Its heartbeats are followed: that it leads is true however it counts.
        if append.acknowledge != self.settings.acknowledge {
            let (theirs, ours) = (append.acknowledge, self.settings.acknowledge);
            effects.disbelieved = Some(Disbelief::OtherStrategy { from, theirs, ours });
            let result = AppendResult::Declined(Declined::OtherStrategy);
            self.answer_append(from, append.session, result, effects);
            return Ok(());
        }
        self.follow(from, append.term, effects)?;
        // A late append of an earlier session is still true, but the leader listens to the newest.
        self.leader_session = self.leader_session.max(append.session);
        self.learn_quorum_durable(append.quorum_durable.min(append.commit));

        // What lies below the base is committed, so the leader has it too; only what follows can
        // be compared.
        let below_base = append.prev_index < self.log.base();
        if !below_base && self.log.term(append.prev_index) != Some(append.prev_term) {
            self.may_differ(append.prev_index, append.prev_term)?;
            let hint_index = self.log.last_at_most(append.prev_index, append.prev_term);
            let result = AppendResult::Rejected {
                prev_index: append.prev_index,
                hint_index,
                hint_term: self.log.term(hint_index).unwrap_or(Term::ZERO),
            };
            self.answer_append(from, append.session, result, effects);
            return Ok(());
        }
        if self.disk == DiskSpace::Full && self.lacks(append, last_new) {
            let result = AppendResult::Declined(Declined::DiskFull);
            self.answer_append(from, append.session, result, effects);
            return Ok(());
        }

        self.take_entries(append, effects)?;
        self.log_time = self.log_time.max(append.time);
        self.verified = self.verified.max(last_new.max(self.log.base()).min(self.log.last_index()));
        self.commit_to(append.commit.min(self.commit_limit()), effects);

        // New entries are acknowledged when they are durable, and one fsync acknowledges all that
        // came before it; what is durable already is acknowledged now. A probe is always
        // answered at once: the leader waits for it.
        if append.runs.is_empty() || self.acknowledgeable() >= last_new {
            self.send_ack(effects);
        } else {
            self.ack_owed = true;
        }
        Ok(())
    }

    /// Whether there is an entry in an append that is not in the log.
    fn lacks(&self, append: &Append, last_new: LogIndex) -> bool {
        last_new > self.log.base()
            && append.runs.last().is_some_and(|run| self.log.term(last_new) != Some(run.term))
    }

    /// Up to here this term's leader may let us commit.
    fn commit_limit(&self) -> LogIndex {
        if crate::planted!(CommitBeyondVerified) { self.log.last_index() } else { self.verified }
    }

    /// Up to here the log may be acknowledged.
    fn acknowledgeable(&self) -> LogIndex {
        match self.settings.acknowledge {
            Acknowledge::Durable => self.durability.durable(),
            Acknowledge::Written => self.durability.written(),
        }
    }

    /// Answers the leader about an append or a snapshot of its session.
    pub(crate) fn answer_append(
        &self,
        to: ReplicaId,
        session: Session,
        result: AppendResult,
        effects: &mut Effects,
    ) {
        if result == AppendResult::StaleTerm && crate::planted!(StaleTermUnanswered) {
            return;
        }
        let reply = AppendReply { term: self.hard_state.term, session, result };
        self.send_promise(to, Message::AppendReply(reply), effects);
    }

    /// Adopts the entries we lack, cutting ours where they differ.
    fn take_entries(&mut self, append: &Append, effects: &mut Effects) -> StepResult {
        let base = self.log.base();
        let mut at = append.prev_index.next();
        let mut received: Option<LogIndex> = None;
        if crate::planted!(TruncatesMatchingEntries) && at > base && at <= self.log.last_index() {
            self.truncate(at, effects);
        }
        for run in &append.runs {
            let mut left = run.count;
            if at <= base {
                let below = base.since(at.prev()).min(left);
                at = at.plus(below);
                left -= below;
                if at == base.next() && self.log.term(base) != Some(run.term) {
                    self.may_differ(base, run.term)?;
                }
            }
            // What we hold already is passed over; the first difference cuts our tail.
            while left > 0 {
                match self.log.term(at) {
                    Some(term) if term == run.term => {
                        // Skip to the end of this run of ours, or of theirs.
                        let ours = self.log.run_end(at).since(at.prev());
                        let skip = ours.min(left).max(1);
                        at = at.plus(skip);
                        left -= skip;
                    }
                    Some(_) => {
                        self.may_differ(at, run.term)?;
                        self.truncate(at, effects);
                    }
                    None => {
                        if received.is_none() {
                            received = Some(at);
                        }
                        self.append_entries(run.term, left, effects);
                        at = at.plus(left);
                        left = 0;
                    }
                }
            }
        }
        if let Some(first) = received {
            for (index, membership) in append.configs.iter().filter(|(index, _)| *index >= first) {
                if self.configs.push(*index, Arc::clone(membership)) {
                    effects.membership_changed = true;
                }
            }
            effects.log_changes.push(LogChange::Received { first, last: at.prev() });
        }
        Ok(())
    }

    pub(crate) fn on_heartbeat(
        &mut self,
        from: ReplicaId,
        heartbeat: Heartbeat,
        effects: &mut Effects,
    ) -> StepResult {
        if heartbeat.term >= self.hard_state.term {
            self.follow(from, heartbeat.term, effects)?;
            self.learn_quorum_durable(heartbeat.quorum_durable.min(heartbeat.commit));
            self.commit_to(heartbeat.commit.min(self.commit_limit()), effects);
            // The disk may have finished while no leader was known.
            if self.acknowledgeable() >= self.verified {
                self.send_owed_ack(effects);
            }
            self.ask_for_fence(from, effects);
            self.release_spare();
            self.rest(&heartbeat);
        } else if crate::planted!(StaleTermUnanswered) {
            return Ok(());
        }
        // To a stale leader the same reply says: this term is over. It echoes nothing then: who asked
        // in an earlier term may lead this one as well, and have numbered other questions so.
        // Nor does one that may have elected another leader meanwhile and forgot it.
        let is_asked = heartbeat.term == self.hard_state.term && self.may_confirm();
        let (read_seq, sent) = if is_asked || crate::planted!(StaleHeartbeatConfirms) {
            (heartbeat.read_seq, heartbeat.sent)
        } else {
            (0, Micros::ZERO)
        };
        let reply = HeartbeatReply { term: self.hard_state.term, read_seq, sent };
        self.send_promise(from, Message::HeartbeatReply(reply), effects);
        Ok(())
    }

    /// Recognises the leader of a term at least as new as ours.
    pub(crate) fn follow(
        &mut self,
        from: ReplicaId,
        term: Term,
        effects: &mut Effects,
    ) -> StepResult {
        if term == self.hard_state.term
            && let Some(first) = self.leader.filter(|leader| *leader != from)
        {
            return Err(Box::new(Fault::TwoLeaders { term, first, second: from }));
        }
        if term > self.hard_state.term
            || self.leader != Some(from)
            || !matches!(self.role, Role::Follower)
        {
            self.become_follower(term, Some(from), effects);
        }
        self.leader_contact = Some((from, self.now));
        self.asks = 0;
        self.reset_election_deadline();
        Ok(())
    }

    /// Sends the acknowledgement that waited for the disk, if the disk has caught up with
    /// anything it can name.
    pub(crate) fn send_owed_ack(&mut self, effects: &mut Effects) {
        if self.ack_owed && self.leader.is_some() && matches!(self.role, Role::Follower) {
            self.ack_owed = self.durability.durable() < self.verified;
            self.send_ack(effects);
        }
    }

    pub(crate) fn send_ack(&self, effects: &mut Effects) {
        let Some(leader) = self.leader else { return };
        let mut verified = self.verified;
        if crate::planted!(AckOwnLastIndex) {
            verified = self.log.last_index();
        }
        let mut result = AppendResult::Accepted {
            durable: verified.min(self.durability.durable()),
            written: verified.min(self.durability.written()),
            verified,
            promise: self.promise.promise,
        };
        if crate::planted!(AckBeforeDurable)
            && let AppendResult::Accepted { durable, written, .. } = &mut result
        {
            (*durable, *written) = (verified, verified);
        }
        self.answer_append(leader, self.leader_session, result, effects);
    }

    /// Whether this replica may have forgotten promises.
    pub(crate) fn is_lost(&self) -> bool {
        self.promise.promise != Promise::Kept
    }

    /// Whether it can tell that nobody else leads in a newer term.
    fn may_confirm(&self) -> bool {
        self.promise.promise != Promise::Unproven || crate::planted!(FenceWithUnprovenVote)
    }

    /// Whether the leader's log may differ from ours at `index`: not where entries are committed,
    /// and not where this same leader has shown us otherwise.
    fn may_differ(&self, index: LogIndex, theirs: Term) -> StepResult {
        let ours = self.log.term(index).unwrap_or(Term::ZERO);
        let leader_term = self.hard_state.term;
        if index <= self.commit && !crate::planted!(TruncatesMatchingEntries) {
            Err(Box::new(Fault::CommittedConflict { index, ours, theirs, leader_term }))
        } else if index <= self.verified {
            Err(Box::new(Fault::LeaderRewrote { index, ours, theirs, leader_term }))
        } else {
            Ok(())
        }
    }
}
