//! Marks of elections and of office: who stood, who was refused and why, who led and how it ended.

use raft_core::{Campaign, Promise, ReplicaId, RoleKind, Verdict, VoteRequest};

use super::super::world::World;
use super::Step;
use super::before::Cause;
use super::memory::{Election, Memory};
use crate::sim::marks::Mark;

impl World {
    pub(super) fn note_election(&mut self, step: &Step<'_>, memory: &mut Memory) {
        let (before, now) = (&step.before, &step.now);
        if let Cause::PreVote(from, request) = before.cause {
            self.note_pre_vote(step, memory, from, request);
        } else if let Cause::Vote(from, request) = before.cause {
            self.note_vote(step, memory, from, request);
        } else if let Cause::VoteReply(reply) = before.cause
            && reply.verdict == Verdict::Granted
            && reply.term < before.term
        {
            self.marks.hit(Mark::LateVoteIgnored);
        }
        if let Some((leader, _)) = before.cause.leader().filter(|(_, term)| *term == now.term) {
            memory.leader_heard = Some((leader, step.local));
        }
        if (before.role, before.term) == (now.role, now.term) {
            return;
        }
        if now.role == RoleKind::Candidate {
            self.notes.elections.entry((step.group, now.term)).or_default().candidates += 1;
        }
        if before.role == RoleKind::Candidate && now.role == RoleKind::Follower {
            self.marks.hit(if now.term > before.term {
                Mark::CandidateSawHigherTerm
            } else {
                Mark::ElectionLost
            });
        }
        if step.takes_over() {
            memory.leader_heard = None;
            self.note_winner(step);
        }
    }

    fn note_pre_vote(
        &mut self,
        step: &Step<'_>,
        memory: &Memory,
        from: ReplicaId,
        request: VoteRequest,
    ) {
        let before = &step.before;
        if request.cause == Campaign::Barred && before.asleep && step.was_leader() {
            self.marks.hit(Mark::QuiescedAskedFor);
        }
        let would_vote = request.cause != Campaign::Barred
            && request.term > before.term
            && before.promise == Promise::Kept
            && !is_early(step, memory)
            && is_current(step, request);
        if would_vote && self.sticks(step, memory, from) {
            self.marks.hit(Mark::PreVoteRefusedByStickiness);
        }
    }

    fn note_vote(
        &mut self,
        step: &Step<'_>,
        memory: &Memory,
        from: ReplicaId,
        request: VoteRequest,
    ) {
        let (before, now) = (&step.before, &step.now);
        let is_same_term = request.term == before.term;
        if now.vote == Some(from) && now.term == request.term {
            let is_news = before.vote != now.vote || before.term != now.term;
            if is_news && memory.refused_while_full && self.nodes[step.at].disk_weather.full {
                self.marks.hit(Mark::DiskFullSeen);
            }
        } else if is_same_term && before.vote.is_some_and(|vote| vote != from) {
            self.marks.hit(Mark::VoteRefusedByVote);
            let election = self.notes.elections.entry((step.group, request.term)).or_default();
            election.is_divided = true;
        } else if request.term > before.term || is_same_term && before.leader.is_none() {
            if request.cause == Campaign::Timeout && self.sticks(step, memory, from) {
                return;
            }
            if before.promise != Promise::Kept {
                self.marks.hit(Mark::PromiseLostAbstained);
            } else if !is_current(step, request) {
                self.marks.hit(Mark::VoteRefusedByLog);
            } else if is_early(step, memory) {
                self.marks.hit(Mark::VoteWithheldForLease);
            }
        }
    }

    /// Whether the replica leads, or has heard a leader within the shortest election timeout.
    fn sticks(&self, step: &Step<'_>, memory: &Memory, candidate: ReplicaId) -> bool {
        let patience = self.settings.election_timeout_min;
        step.was_leader()
            || (step.before.asleep && step.before.leader != Some(candidate))
            || memory.leader_heard.is_some_and(|(leader, heard)| {
                leader != candidate && step.local < heard.after(patience)
            })
    }

    fn note_winner(&mut self, step: &Step<'_>) {
        let (group, term) = (step.group, step.now.term);
        self.marks.hit(Mark::LeaderElected);
        if step.core.membership().is_joint() {
            self.marks.hit(Mark::ElectionUnderJoint);
        }
        let winner = &mut self.notes.elections.entry((group, term)).or_default().winner;
        *winner = Some(step.now.replica);
        let up = self.nodes.iter().filter(|node| node.is_up());
        let others = up.filter_map(|node| node.replicas.get(&group));
        let (mut is_second, mut is_late) = (false, false);
        for other in others {
            is_second |= other.core.is_leader() && other.core.term() != term;
            is_late |= other.core.term() > term;
        }
        if is_second {
            self.marks.hit(Mark::StaleLeaderServed);
        }
        if is_late {
            self.marks.hit(Mark::LateWinner);
        }
        if self.is_bridge(step.at) {
            self.marks.hit(Mark::BridgeLed);
        }
    }

    /// How a leader's time in office ends, and its lease before that.
    pub(super) fn note_office(&mut self, step: &Step<'_>) {
        if !step.was_leader() {
            return;
        }
        let (before, now) = (&step.before, &step.now);
        if step.is_leader() && now.term == before.term {
            let Some(until) = before.lease_until else { return };
            if until <= step.local {
                self.marks.hit(Mark::LeaseExpired);
            } else if matches!(before.cause, Cause::Transfer | Cause::Disk)
                && step.core.lease_until().is_none()
            {
                self.marks.hit(Mark::LeaseEndedByTransfer);
            }
            return;
        }
        let weather = self.nodes[step.at].disk_weather;
        let is_stalled =
            (weather.stalled || weather.slow_us > 0) && now.durable_index < now.last_index;
        if now.term > before.term {
            self.marks.hit(Mark::LeaderDeposedByTerm);
            if is_stalled {
                self.marks.hit(Mark::DiskStallSeen);
            }
        } else if now.standing.is_none() {
            self.marks.hit(Mark::LeaderRemoved);
        } else if before.cause == Cause::Deadline {
            self.marks.hit(if is_stalled {
                Mark::DiskStallSeen
            } else {
                Mark::LeaderWithoutQuorum
            });
        }
    }

    /// When the run is over: the terms that nobody won.
    pub(crate) fn note_lost_terms(&mut self) {
        let is_split = |election: &&Election| {
            election.candidates > 1 && election.is_divided && election.winner.is_none()
        };
        for _ in self.notes.elections.values().filter(is_split) {
            self.marks.hit(Mark::VoteSplit);
        }
    }
}

/// Whether an earlier life may still be part of a lease.
fn is_early(step: &Step<'_>, memory: &Memory) -> bool {
    memory.votes_from.is_some_and(|from| step.local < from)
}

/// Whether the candidate's log is at least as current as the voter's.
fn is_current(step: &Step<'_>, request: VoteRequest) -> bool {
    (request.last_term, request.last_index) >= (step.before.last_term, step.before.last)
}
