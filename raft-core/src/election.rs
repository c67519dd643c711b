//! Elections: pre-vote, vote, stickiness (paper 5.2 and 5.4.1; thesis 4.2.3 and 9.6).
//!
//! Invariants: a replica asks for votes only once its own term and vote are durable, and grants
//! only once the grant is; an answer counts only for the attempt it answers; a vote request is
//! never taken for a sign of life from a leader.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::time::Duration;

use crate::entry::HardState;
use crate::group::{Group, Role};
use crate::id::{LogIndex, Micros, ReplicaId, Term};
use crate::io::Effects;
use crate::membership::Membership;
use crate::message::{Campaign, Message, Promise, Verdict, VoteReply, VoteRequest};
use crate::quorum::{Half, VoteResult};
use crate::rng::mix;
use crate::settings::PRIORITY_MAX;

/// After so many questions for a leader in vain, the time between two of them grows no more: it is
/// eight election timeouts.
const ASKS_MAX: u8 = 3;
/// So often somebody asks to lead a newborn group within half an election timeout.
const NEWBORN_ASKS: u64 = 4;

/// The answers to one attempt.
#[derive(Clone, Debug)]
pub(crate) struct Tally {
    attempt: u64,
    answers: Vec<(ReplicaId, Verdict)>,
}

impl Tally {
    fn new(attempt: u64) -> Self {
        Self { attempt, answers: Vec::new() }
    }

    /// Notes an answer. `false`: this voter had answered already.
    fn record(&mut self, from: ReplicaId, verdict: Verdict) -> bool {
        let news = self.answers.iter().all(|(voter, _)| *voter != from);
        if news {
            self.answers.push((from, verdict));
        }
        news
    }

    /// Both halves of a membership must grant (thesis 4.3).
    fn result(&self, membership: &Membership) -> VoteResult {
        if membership.is_unknown() {
            // An empty half objects to nothing, but nobody is elected by nobody.
            return VoteResult::Lost;
        }
        let answers = self.answers.iter().copied();
        if crate::planted!(JointByUnion) {
            let union: Vec<ReplicaId> = membership.voters().collect();
            return Half::new(&union).vote_result(answers);
        }
        membership.joint().vote_result(answers)
    }
}

impl Group {
    /// How long this replica waits before its first campaign: by rank, so that leaders spread. The first
    /// of a group that nobody has led yet does not wait: there is no leader whose word could be on its way.
    pub(crate) fn first_campaign_delay(&mut self) -> Duration {
        let own = self.rank(self.me);
        let rank = self.membership().voters().filter(|voter| self.rank(*voter) < own).count();
        let slice = self.settings.election_timeout_min / 2;
        let newborn = self.is_newborn();
        let jitter = slice.as_micros() as u64 / if newborn && rank == 0 { 256 } else { 4 };
        slice * (rank as u32 + u32::from(!newborn))
            + Duration::from_micros(self.rng.below(jitter.max(1)))
            + Duration::from_micros(self.priority_delay())
    }

    /// Whether this replica knows of no term and no entry: its group begins, as far as it knows.
    fn is_newborn(&self) -> bool {
        self.hard_state.term == Term::ZERO && self.log.last_index() == LogIndex::ZERO
    }

    /// A newborn group is made on one node after the other, and who asks first may be asking before there
    /// is anybody. It asks again soon, each time after twice as long, until the next by rank would.
    fn ask_newborns_again(&mut self) {
        if self.is_newborn() && self.attempt <= NEWBORN_ASKS {
            let first = self.settings.election_timeout_min / 2 / (1 << NEWBORN_ASKS);
            let soon = self.now.after(first * (1 << (self.attempt - 1)));
            self.election_deadline = self.election_deadline.min(soon);
        }
    }

    /// Where a replica stands among those that might lead this group, the smallest first: a hash of
    /// both, so that of many groups each node leads its share with nobody deciding it.
    pub(crate) fn rank(&self, replica: ReplicaId) -> u64 {
        mix(mix(u64::from(self.id.get())) ^ mix(replica.get().wrapping_add(0x5bd1_e995)))
    }

    /// The voter whose first campaign would come first: where all are alike, it is to lead. Nobody
    /// while a membership is joint.
    pub fn first_by_rank(&self) -> Option<ReplicaId> {
        let membership = self.membership();
        let settled = !membership.is_joint();
        let voters = membership.incoming().iter().copied().filter(|_| settled);
        voters.min_by_key(|voter| self.rank(*voter))
    }

    /// Who is less eager to lead waits so many microseconds longer, so that others come first.
    fn priority_delay(&self) -> u64 {
        let below = PRIORITY_MAX.saturating_sub(self.settings.priority);
        self.settings.election_timeout_min.as_micros() as u64 / 2 * u64::from(below)
    }

    /// Waits a fresh random time before the next campaign (paper, section 5.2).
    pub(crate) fn reset_election_deadline(&mut self) {
        // Every append comes through here, so this counts in plain microseconds.
        let min = self.settings.election_timeout_min.as_micros() as u64;
        let max = self.settings.election_timeout_max.as_micros() as u64;
        let patience = min + self.rng.below((max - min).max(1)) + self.priority_delay();
        self.election_deadline = Micros::new(self.now.get().saturating_add(patience));
    }

    /// Asks whether a campaign would succeed, without disturbing anyone.
    pub(crate) fn pre_campaign(&mut self, effects: &mut Effects) {
        if self.is_lost() && !crate::planted!(LostReplicaVotes) {
            // The only voter: there is nobody to learn from.
            self.accept_loss(effects);
        }
        self.leader = None;
        effects.role_changed = true;
        self.reset_election_deadline();
        self.attempt += 1;
        self.ask_newborns_again();
        let mut tally = Tally::new(self.attempt);
        tally.record(self.me, Verdict::Granted);
        if tally.result(self.membership()) == VoteResult::Won {
            self.campaign(Campaign::Timeout, effects);
            return;
        }
        self.role = Role::PreCandidate(Box::new(tally));
        let request = self.vote_request(self.hard_state.term.next(), Campaign::Timeout);
        self.fail_forwarded(effects);
        for peer in self.peers() {
            // No gate: a pre-vote promises nothing, at either end.
            effects.messages.send(peer, Message::PreVote(request), None);
        }
    }

    /// Asks the others for a leader, at the moment at which a replica that may stand would stand. An
    /// awake leader would have spoken by itself; one that sleeps believes that all know what it
    /// knows, and this wakes it. Whoever it wakes instead asks that leader in turn. Each question in
    /// vain doubles the time to the next, since the leader that is elected one day speaks up.
    pub(crate) fn ask_for_leader(&mut self, effects: &mut Effects) {
        if self.leader.take().is_some() {
            effects.role_changed = true;
            self.fail_forwarded(effects);
        }
        self.attempt += 1;
        let request = self.vote_request(self.hard_state.term.next(), Campaign::Barred);
        for member in self.others() {
            effects.messages.send(member, Message::PreVote(request), None);
        }
        self.reset_election_deadline();
        self.asks = (self.asks + 1).min(ASKS_MAX);
        let patience = self.election_deadline.since(self.now) * (1 << self.asks);
        self.election_deadline = self.now.after(patience);
    }

    /// Starts a new term and asks for votes in it. The requests wait for the disk: a candidate
    /// that forgot it had asked could ask again in the same term with a shorter log.
    pub(crate) fn campaign(&mut self, cause: Campaign, effects: &mut Effects) {
        let term = self.hard_state.term.next();
        self.leader = None;
        let own_vote = HardState { term, vote: Some(self.me) };
        self.enter_term(own_vote, effects);
        self.reset_election_deadline();
        self.attempt += 1;
        self.role = Role::Candidate(Box::new(Tally::new(self.attempt)));
        effects.role_changed = true;
        let request = self.vote_request(term, cause);
        self.fail_forwarded(effects);
        for peer in self.peers() {
            if crate::planted!(VoteRequestBeforeDurable) {
                effects.messages.send(peer, Message::Vote(request), None);
                continue;
            }
            self.send_promise(peer, Message::Vote(request), effects);
        }
    }

    /// Whether this candidate's own vote is still on its way to the disk. It has asked nobody
    /// yet, and another attempt would only queue behind this one: with a disk slower than the
    /// election timeout, for ever.
    pub(crate) fn awaits_own_vote(&self) -> bool {
        matches!(self.role, Role::Candidate(_)) && self.durability.hard_state_gate().is_some()
    }

    /// Our own vote counts once it is durable. Only now the requests leave, so the others have a
    /// full timeout from here to answer them.
    pub(crate) fn count_own_vote(&mut self, effects: &mut Effects) {
        if self.durability.hard_state_gate().is_some() {
            return;
        }
        let me = self.me;
        let Role::Candidate(tally) = &mut self.role else {
            return;
        };
        if tally.record(me, Verdict::Granted) {
            self.reset_election_deadline();
        }
        self.judge_vote(effects);
    }

    pub(crate) fn on_pre_vote(
        &mut self,
        from: ReplicaId,
        request: VoteRequest,
        effects: &mut Effects,
    ) {
        let would = request.term > self.hard_state.term
            && request.cause != Campaign::Barred
            && self.counts_like(request)
            && self.gives_votes()
            && !self.hears_a_leader(from)
            && (self.is_current(request.last_index, request.last_term)
                || crate::planted!(PreVoteIgnoresLog));
        if would {
            if crate::planted!(PreVoteGrantResetsTimer) {
                self.reset_election_deadline();
            }
            let reply = VoteReply {
                term: request.term,
                attempt: request.attempt,
                verdict: Verdict::Granted,
            };
            effects.messages.send(from, Message::PreVoteReply(reply), None);
        } else {
            // Our term goes along: a candidate behind it must learn it, or two replicas, one with
            // the longer log and one with the higher term, refuse each other forever.
            let mut refusal = self.refusal(from, request);
            if crate::planted!(PreVoteRefusalHidesTerm) {
                refusal.term = Term::ZERO;
            }
            self.send_promise(from, Message::PreVoteReply(refusal), effects);
        }
    }

    pub(crate) fn on_vote(&mut self, from: ReplicaId, request: VoteRequest, effects: &mut Effects) {
        if request.cause == Campaign::Barred {
            // It is no candidate: only a pre-vote asks so.
            self.send_promise(from, Message::VoteReply(self.refusal(from, request)), effects);
            return;
        }
        let early = self.now < self.votes_from;
        let sticks = request.cause == Campaign::Timeout && (early || self.hears_a_leader(from));
        if request.term > self.hard_state.term {
            if sticks {
                // A replica that was away must not depose a leader that works, and a lease that
                // our last life supported may still run.
                return;
            }
            self.become_follower(request.term, None, effects);
        }
        let term_fits = request.term == self.hard_state.term
            || (request.term < self.hard_state.term && crate::planted!(VoteForOlderTerm));
        let grants = term_fits
            && !sticks
            && self.counts_like(request)
            && self.gives_votes()
            && self.leader.is_none()
            && self.hard_state.vote.is_none_or(|vote| vote == from || crate::planted!(VoteTwice))
            && (self.is_current(request.last_index, request.last_term)
                || crate::planted!(VoteIgnoresLog));
        if !grants {
            self.send_promise(from, Message::VoteReply(self.refusal(from, request)), effects);
            return;
        }
        if self.hard_state.vote.is_none() || crate::planted!(VoteTwice) {
            let vote = HardState { term: self.hard_state.term, vote: Some(from) };
            self.set_hard_state(vote, effects);
        }
        self.reset_election_deadline();
        let reply =
            VoteReply { term: request.term, attempt: request.attempt, verdict: Verdict::Granted };
        if crate::planted!(VoteBeforeDurable) {
            effects.messages.send(from, Message::VoteReply(reply), None);
            return;
        }
        self.send_promise(from, Message::VoteReply(reply), effects);
    }

    pub(crate) fn on_pre_vote_reply(
        &mut self,
        from: ReplicaId,
        reply: VoteReply,
        effects: &mut Effects,
    ) {
        match reply.verdict {
            Verdict::Refused | Verdict::Removed if reply.term > self.hard_state.term => {
                self.learn_removal(reply, effects);
                self.become_follower(reply.term, None, effects);
                return;
            }
            Verdict::Granted if reply.term != self.hard_state.term.next() => return,
            Verdict::Granted | Verdict::Refused => {}
            Verdict::Removed => {
                self.learn_removal(reply, effects);
                return;
            }
        }
        if !self.membership().is_voter(from) {
            return;
        }
        let Role::PreCandidate(tally) = &mut self.role else {
            return;
        };
        if tally.attempt != reply.attempt {
            return;
        }
        tally.record(from, reply.verdict);
        match tally.result(self.configs.active().1) {
            VoteResult::Won => self.campaign(Campaign::Timeout, effects),
            VoteResult::Lost => {
                let term = self.hard_state.term;
                self.become_follower(term, None, effects);
            }
            VoteResult::Pending => {}
        }
    }

    pub(crate) fn on_vote_reply(
        &mut self,
        from: ReplicaId,
        reply: VoteReply,
        effects: &mut Effects,
    ) {
        self.learn_removal(reply, effects);
        if reply.term > self.hard_state.term {
            self.become_follower(reply.term, None, effects);
            return;
        }
        let late = crate::planted!(VoteReplyOfOlderTermCounts);
        if (reply.term < self.hard_state.term && !late) || !self.membership().is_voter(from) {
            return;
        }
        if let Role::Candidate(tally) = &mut self.role
            && (tally.attempt == reply.attempt || late)
        {
            let taken_for_vote = crate::planted!(RefusalTakenForVote);
            tally.record(from, if taken_for_vote { Verdict::Granted } else { reply.verdict });
            self.judge_vote(effects);
        }
    }

    fn judge_vote(&mut self, effects: &mut Effects) {
        // Without its own durable vote a candidate has not even asked: the requests are gated.
        let own_vote_durable = self.durability.hard_state_gate().is_none();
        let Role::Candidate(tally) = &self.role else {
            return;
        };
        match tally.result(self.membership()) {
            VoteResult::Won if own_vote_durable => self.become_leader(effects),
            VoteResult::Lost => {
                let term = self.hard_state.term;
                self.become_follower(term, None, effects);
            }
            VoteResult::Won | VoteResult::Pending => {}
        }
    }

    /// Stickiness: we lead, or heard a leader within the shortest election timeout. That its term
    /// is over, by a message that came late, makes no difference: it need not know, and a lease
    /// counts on our patience. A leader that stands for election itself, say after a restart,
    /// leads no more.
    pub(crate) fn hears_a_leader(&self, candidate: ReplicaId) -> bool {
        if crate::planted!(StickinessForgotten) {
            return false;
        }
        self.is_leader()
            || (self.asleep && self.leader != Some(candidate))
            || self.leader_contact.is_some_and(|(leader, heard)| {
                leader != candidate && self.now.since(heard) < self.settings.election_timeout_min
            })
    }

    /// Whether this replica gives its vote to anybody. One that may have forgotten what it
    /// acknowledged cannot judge whose log is current.
    fn gives_votes(&self) -> bool {
        (self.promise.promise == Promise::Kept || crate::planted!(LostReplicaVotes))
            && self.now >= self.votes_from
    }

    /// Whether a log that ends so is at least as current as ours (paper, section 5.4.1).
    fn is_current(&self, last_index: LogIndex, last_term: Term) -> bool {
        if crate::planted!(VoteComparesIndexFirst) {
            return (last_index, last_term) >= (self.log.last_index(), self.log.last_term());
        }
        (last_term, last_index) >= (self.log.last_term(), self.log.last_index())
    }

    /// Whether a candidate counts by our strategy. We would decline all that it sends, so while it led
    /// nothing would come of it.
    fn counts_like(&self, request: VoteRequest) -> bool {
        request.acknowledge == self.settings.acknowledge
    }

    fn vote_request(&self, term: Term, cause: Campaign) -> VoteRequest {
        VoteRequest {
            term,
            last_index: self.log.last_index(),
            last_term: self.log.last_term(),
            attempt: self.attempt,
            cause,
            acknowledge: self.settings.acknowledge,
        }
    }

    fn refusal(&self, from: ReplicaId, request: VoteRequest) -> VoteReply {
        // Ids are never used again, so a committed membership from after its time without it is the
        // end, whatever change has come since.
        let membership = if crate::planted!(ExpelledByUncommitted) {
            self.membership()
        } else {
            self.membership_at(self.commit)
        };
        let removed = membership.last_replica() >= from && membership.member(from).is_none();
        VoteReply {
            term: self.hard_state.term,
            attempt: request.attempt,
            verdict: if removed { Verdict::Removed } else { Verdict::Refused },
        }
    }

    /// A voter says that we were removed. Nobody will tell us more: what we were asked for stays
    /// undecided here.
    fn learn_removal(&mut self, reply: VoteReply, effects: &mut Effects) {
        let ours = match &self.role {
            Role::PreCandidate(tally) | Role::Candidate(tally) => tally.attempt == reply.attempt,
            Role::Follower => self.asks > 0 && self.attempt == reply.attempt,
            Role::Leader(_) => false,
        };
        if reply.verdict == Verdict::Removed && ours {
            self.candidacy = None;
            // Ours may be further: what the voter knows was committed by its own.
            self.note_removal(reply.term);
            effects.membership_changed = true;
            self.give_up_proposals(effects);
            let term = self.hard_state.term;
            self.become_follower(term, None, effects);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_elected_by_nobody() {
        let me = ReplicaId::new(1);
        let mut tally = Tally::new(1);
        assert!(tally.record(me, Verdict::Granted));
        assert_eq!(tally.result(&Membership::unknown()), VoteResult::Lost);
        let alone = Membership::of_voters([me]).unwrap();
        assert_eq!(tally.result(&alone), VoteResult::Won);
    }
}
