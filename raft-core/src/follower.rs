//! Following: appends, heartbeats, and the acknowledgements that wait for the disk
//! (paper, section 5.3).
//!
//! Invariants: entries are removed only at a genuine conflict; commit never passes the prefix
//! verified against this leader; an acknowledgement names only what is durable.

use crate::group::{Group, Role};
use crate::id::{LogIndex, ReplicaId, Term};
use crate::io::{Effects, Fault, LogChange};
use crate::message::{Append, AppendReply, AppendResult, Heartbeat, HeartbeatReply, Message};

impl Group {
    pub(crate) fn on_append(
        &mut self,
        from: ReplicaId,
        append: Append,
        effects: &mut Effects,
    ) -> Result<(), Fault> {
        if append.term < self.hard_state.term {
            let reply = AppendReply {
                term: self.hard_state.term,
                session: append.session,
                result: AppendResult::StaleTerm,
            };
            self.send_promise(from, Message::AppendReply(reply), effects);
            return Ok(());
        }
        append.check()?;
        self.follow(from, append.term, effects)?;
        // A late append of an earlier session is still true, but the leader listens to the newest.
        self.leader_session = self.leader_session.max(append.session);

        if self.log.term(append.prev_index) != Some(append.prev_term) {
            self.may_differ(append.prev_index, append.prev_term)?;
            let hint_index = self.log.last_at_most(append.prev_index, append.prev_term);
            let reply = AppendReply {
                term: self.hard_state.term,
                session: append.session,
                result: AppendResult::Rejected {
                    prev_index: append.prev_index,
                    hint_index,
                    hint_term: self.log.term(hint_index).unwrap_or(Term::ZERO),
                },
            };
            self.send_promise(from, Message::AppendReply(reply), effects);
            return Ok(());
        }

        self.take_entries(&append, effects)?;
        let last_new = append.last_index();
        self.verified = self.verified.max(last_new);
        self.commit_to(append.commit.min(self.verified), effects);

        // New entries are acknowledged when they are durable, and one fsync acknowledges all that
        // came before it; what is durable already is acknowledged now. A probe is always
        // answered at once: the leader waits for it.
        if append.runs.is_empty() || self.durability.durable() >= last_new {
            self.send_ack(effects);
        } else {
            self.ack_owed = true;
        }
        Ok(())
    }

    /// Adopts the entries we lack, cutting ours where they differ.
    fn take_entries(&mut self, append: &Append, effects: &mut Effects) -> Result<(), Fault> {
        let mut at = append.prev_index.next();
        let mut received: Option<LogIndex> = None;
        for run in &append.runs {
            let mut left = run.count;
            // What we hold already is passed over; the first difference cuts our tail.
            while left > 0 {
                match self.log.term(at) {
                    Some(term) if term == run.term => {
                        // Skip to the end of this run of ours, or of theirs.
                        let run_end = self.log.last_at_most(self.log.last_index(), run.term);
                        let ours = run_end.since(at.prev());
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
            effects.log_changes.push(LogChange::Received { first, last: at.prev() });
        }
        Ok(())
    }

    pub(crate) fn on_heartbeat(
        &mut self,
        from: ReplicaId,
        heartbeat: Heartbeat,
        effects: &mut Effects,
    ) -> Result<(), Fault> {
        if heartbeat.term >= self.hard_state.term {
            self.follow(from, heartbeat.term, effects)?;
            self.commit_to(heartbeat.commit.min(self.verified), effects);
            // The disk may have finished while no leader was known.
            if self.durability.durable() >= self.verified {
                self.send_owed_ack(effects);
            }
        }
        // To a stale leader the same reply says: this term is over.
        let reply = HeartbeatReply { term: self.hard_state.term, read_seq: heartbeat.read_seq };
        self.send_promise(from, Message::HeartbeatReply(reply), effects);
        Ok(())
    }

    /// Recognises the leader of a term at least as new as ours.
    fn follow(&mut self, from: ReplicaId, term: Term, effects: &mut Effects) -> Result<(), Fault> {
        if term == self.hard_state.term
            && let Some(first) = self.leader.filter(|leader| *leader != from)
        {
            return Err(Fault::TwoLeaders { term, first, second: from });
        }
        if term > self.hard_state.term
            || self.leader != Some(from)
            || !matches!(self.role, Role::Follower)
        {
            self.become_follower(term, Some(from), effects);
        }
        self.leader_contact = Some(self.now);
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

    fn send_ack(&self, effects: &mut Effects) {
        let Some(leader) = self.leader else { return };
        let reply = AppendReply {
            term: self.hard_state.term,
            session: self.leader_session,
            result: AppendResult::Accepted {
                durable: self.verified.min(self.durability.durable()),
                written: self.verified.min(self.durability.written()),
                verified: self.verified,
            },
        };
        self.send_promise(leader, Message::AppendReply(reply), effects);
    }

    /// Whether the leader's log may differ from ours at `index`: not where entries are committed,
    /// and not where this same leader has shown us otherwise.
    fn may_differ(&self, index: LogIndex, theirs: Term) -> Result<(), Fault> {
        let ours = self.log.term(index).unwrap_or(Term::ZERO);
        let leader_term = self.hard_state.term;
        if index <= self.commit {
            Err(Fault::CommittedConflict { index, ours, theirs, leader_term })
        } else if index <= self.verified {
            Err(Fault::LeaderRewrote { index, ours, theirs, leader_term })
        } else {
            Ok(())
        }
    }
}
