//! Linearizable reads: confirmed by a quorum, from the leader's lease, or through the leader at a
//! follower (thesis 6.4).
//!
//! A read is named by a number the core draws itself, one sequence per leadership. Confirming a
//! number confirms every read up to it, and nothing a client or peer chooses can be mistaken for
//! it.
//!
//! Invariants: no read is answered before an entry of the leader's own term is committed, in a
//! group of one voter either; every token is answered once.

use crate::group::{Group, Role};
use crate::id::{LogIndex, Micros, ReplicaId, Token};
use crate::io::{Effects, Outcome, ReadPath, Refusal};
use crate::message::{Message, ReadIndex, ReadIndexReply, Rest};

/// A read that waits for its confirmation.
#[derive(Debug)]
pub(crate) struct PendingRead {
    pub(crate) seq: u64,
    pub(crate) asker: Asker,
    /// Where commit stood when the read came; unknown before our no-op is committed.
    pub(crate) index: Option<LogIndex>,
}

/// Who wants to read.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Asker {
    Driver(Token),
    Peer { replica: ReplicaId, id: u64 },
}

/// A read that the leader was asked about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Forwarded {
    pub(crate) id: u64,
    pub(crate) token: Token,
    pub(crate) deadline: Micros,
}

impl Group {
    pub(crate) fn on_read(&mut self, token: Token, path: ReadPath, effects: &mut Effects) {
        if !self.is_leader() {
            match (path, self.leader) {
                (ReadPath::Follower, Some(leader)) => self.forward_read(token, leader, effects),
                (ReadPath::Follower | ReadPath::Quorum | ReadPath::Lease, leader) => {
                    let refusal = Refusal::NotLeader { leader };
                    effects.outcomes.push((token, Outcome::Refused(refusal)));
                }
            }
            return;
        }
        if path == ReadPath::Lease && self.lease_until().is_some() {
            effects.outcomes.push((token, Outcome::ReadReady { index: self.commit }));
            return;
        }
        self.ask_quorum(Asker::Driver(token), effects);
    }

    fn forward_read(&mut self, token: Token, leader: ReplicaId, effects: &mut Effects) {
        if self.forwarded.len() >= self.settings.reads_pending_max {
            effects.outcomes.push((token, Outcome::Refused(Refusal::TooManyReads)));
            return;
        }
        self.forwards += 1;
        let id = self.forwards;
        let deadline = self.now.after(self.settings.election_timeout_max);
        self.forwarded.push(Forwarded { id, token, deadline });
        let request = ReadIndex { term: self.hard_state.term, id };
        self.send_promise(leader, Message::ReadIndex(request), effects);
    }

    pub(crate) fn on_read_index(
        &mut self,
        from: ReplicaId,
        request: ReadIndex,
        effects: &mut Effects,
    ) {
        let id = request.id;
        // Who asks in a newer term will hear of it from its leader, which is not us.
        if request.term <= self.hard_state.term
            && self.membership().member(from).is_some()
            && self.is_leader()
        {
            self.ask_quorum(Asker::Peer { replica: from, id }, effects);
        } else {
            let refusal = Refusal::NotLeader { leader: self.leader };
            self.answer_asker(Asker::Peer { replica: from, id }, Err(refusal), effects);
        }
    }

    pub(crate) fn on_read_index_reply(&mut self, reply: ReadIndexReply, effects: &mut Effects) {
        if let Some(at) = self.forwarded.iter().position(|read| read.id == reply.id) {
            let read = self.forwarded.vec().remove(at);
            let outcome = match reply.index {
                Some(index) => Outcome::ReadReady { index },
                None => Outcome::Refused(Refusal::LeadershipLost),
            };
            effects.outcomes.push((read.token, outcome));
        }
    }

    /// Gives up on what the leader did not answer in time.
    pub(crate) fn expire_forwarded(&mut self, effects: &mut Effects) {
        let due = self.forwarded.iter().take_while(|read| read.deadline <= self.now).count();
        if due == 0 {
            return;
        }
        for read in self.forwarded.vec().drain(..due) {
            effects.outcomes.push((read.token, Outcome::Refused(Refusal::LeadershipLost)));
        }
    }

    /// The leader that was asked is none any more, as far as we know.
    pub(crate) fn fail_forwarded(&mut self, effects: &mut Effects) {
        for read in self.forwarded.take() {
            effects.outcomes.push((read.token, Outcome::Refused(Refusal::LeadershipLost)));
        }
    }

    fn ask_quorum(&mut self, asker: Asker, effects: &mut Effects) {
        let commit = self.commit;
        let now = self.now;
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        if leader.reads_pending() >= self.settings.reads_pending_max {
            self.answer_asker(asker, Err(Refusal::TooManyReads), effects);
            return;
        }
        leader.busy = now;
        leader.read_seq += 1;
        let known = commit >= leader.term_start || crate::planted!(ReadBeforeOwnTermCommit);
        let index = known.then_some(commit);
        let read = PendingRead { seq: leader.read_seq, asker, index };
        leader.reads.get_or_insert_default().push_back(read);
        let Role::Leader(leader) = &self.role else {
            return;
        };
        for peer in leader.peers.iter().filter(|p| p.votes_incoming() || p.votes_outgoing()) {
            let confirm = self.heartbeat_for(leader, peer, Rest::Awake);
            effects.messages.send(peer.replica, Message::ReadConfirm(confirm), None);
        }
        self.settle_reads(effects);
    }

    /// Answers the reads a quorum has confirmed, oldest first. Alone or not, a leader answers
    /// none before its own no-op is committed.
    pub(crate) fn settle_reads(&mut self, effects: &mut Effects) {
        let commit = self.commit;
        let Role::Leader(leader) = &self.role else {
            return;
        };
        if leader.reads_pending() == 0
            || (commit < leader.term_start && !crate::planted!(ReadBeforeOwnTermCommit))
        {
            return;
        }
        let mut confirmed = leader.quorum(self, leader.read_seq, |peer| peer.read_acked);
        if crate::planted!(ReadWithoutConfirmation) {
            confirmed = leader.read_seq;
        }
        if crate::planted!(ReadQuorumOffByOne) {
            confirmed = leader.peers.iter().map(|p| p.read_acked).max().unwrap_or(confirmed);
        }
        loop {
            let Role::Leader(leader) = &mut self.role else {
                return;
            };
            let due = |read: &mut PendingRead| read.seq <= confirmed;
            let Some(read) = leader.reads.as_mut().and_then(|reads| reads.pop_front_if(due)) else {
                return;
            };
            // A read that came before our no-op was committed takes today's commit index: it may
            // only be newer.
            let index = read.index.unwrap_or(commit);
            self.answer_asker(read.asker, Ok(index), effects);
        }
    }

    /// Ends a read. A peer does not learn why it was refused: it asks again, or somebody else.
    fn answer_asker(&self, asker: Asker, answer: Result<LogIndex, Refusal>, effects: &mut Effects) {
        match asker {
            Asker::Driver(token) => {
                let outcome = match answer {
                    Ok(index) => Outcome::ReadReady { index },
                    Err(refusal) => Outcome::Refused(refusal),
                };
                effects.outcomes.push((token, outcome));
            }
            Asker::Peer { replica, id } => {
                let index = answer.ok();
                let reply = ReadIndexReply { term: self.hard_state.term, id, index };
                self.send_promise(replica, Message::ReadIndexReply(reply), effects);
            }
        }
    }
}
