//! Leading: proposals, replication, commit, heartbeats, reads, hand-over
//! (paper 5.3, 5.4.2; thesis 3.10, 6.2, 6.4, 10.2.1).
//!
//! Invariants: commit moves only to an index of the leader's own term; only what a peer says is
//! durable counts; a leader that reaches no quorum for an election timeout steps down and is
//! silent; reads are answered only after a quorum confirmed the leader later than they were asked.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;

use crate::entry::{Entry, EntryKind};
use crate::group::{Group, Proposal, Role};
use crate::id::{LogIndex, Micros, ReplicaId, Term, Token};
use crate::io::{Effects, Fault, LogChange, Outcome, Refusal};
use crate::message::{
    Append, AppendReply, AppendResult, Heartbeat, HeartbeatReply, Message, TimeoutNow,
};
use crate::progress::{Progress, State};
use crate::quorum::{majority, majority_reached};

/// The most entries in one append, whatever their size: a transport may rely on it.
const APPEND_ENTRIES_MAX: u64 = 1 << 16;

#[derive(Debug)]
pub(crate) struct Leader {
    pub(crate) term: Term,
    /// The no-op of this term. Nothing counts as committed by us, and no read is answered, before
    /// it is committed.
    term_start: LogIndex,
    peers: Vec<Progress>,
    heartbeat_due: Option<Micros>,
    quorum_due: Option<Micros>,
    /// Running totals of entry costs, by index, for the entries of this term that are not
    /// committed yet. The bytes uncommitted are a difference of two totals, so they cannot drift;
    /// the totals wrap around, the difference does not.
    totals: VecDeque<(LogIndex, u64)>,
    committed_total: u64,
    reads: VecDeque<PendingRead>,
    read_seq: u64,
    transfer: Option<Transfer>,
    transfers: u64,
}

#[derive(Debug)]
struct PendingRead {
    seq: u64,
    token: Token,
    /// Where commit stood when the read came; unknown before our no-op is committed.
    index: Option<LogIndex>,
}

#[derive(Debug)]
struct Transfer {
    id: u64,
    token: Token,
    to: ReplicaId,
    deadline: Micros,
    asked: bool,
}

impl Leader {
    pub(crate) fn next_deadline(&self) -> Option<Micros> {
        let transfer = self.transfer.as_ref().map(|transfer| transfer.deadline);
        [self.heartbeat_due, self.quorum_due, transfer].into_iter().flatten().min()
    }

    /// Ends everything that waits for this leadership. Proposals are not here: whether they
    /// happen is decided by the logs, not by the loss of office.
    pub(crate) fn fail_waiting(self, newer_term: bool, effects: &mut Effects) {
        for read in self.reads {
            effects.outcomes.push((read.token, Outcome::Refused(Refusal::LeadershipLost)));
        }
        if let Some(transfer) = self.transfer {
            let outcome = if newer_term && transfer.asked {
                Outcome::Transferred
            } else {
                Outcome::Refused(Refusal::LeadershipLost)
            };
            effects.outcomes.push((transfer.token, outcome));
        }
    }

    fn uncommitted_bytes(&self) -> u64 {
        self.totals.back().map_or(0, |(_, total)| total.wrapping_sub(self.committed_total))
    }

    fn peer(&mut self, replica: ReplicaId) -> Option<&mut Progress> {
        self.peers.iter_mut().find(|peer| peer.replica == replica)
    }

    #[cfg(debug_assertions)]
    pub(crate) fn check(&self, group: &Group) {
        for peer in &self.peers {
            peer.check();
            debug_assert!(peer.match_index <= group.log.last_index());
        }
        let uncommitted = group.log.last_index().since(group.commit);
        debug_assert!(self.totals.len() as u64 <= uncommitted);
        debug_assert!(
            self.totals
                .iter()
                .rev()
                .zip(0..)
                .all(|((index, _), back)| index.plus(back) == group.log.last_index())
        );
    }
}

impl Group {
    pub(crate) fn become_leader(&mut self, effects: &mut Effects) {
        let term = self.hard_state.term;
        let next = self.log.last_index().next();
        let voters = core::mem::take(&mut self.voters);
        let peers: Vec<Progress> = voters
            .iter()
            .filter(|voter| **voter != self.me)
            .map(|peer| Progress::new(*peer, self.sessions.bump(), next, self.now))
            .collect();
        self.voters = voters;
        let alone = peers.is_empty();
        self.role = Role::Leader(Box::new(Leader {
            term,
            term_start: next,
            peers,
            heartbeat_due: (!alone).then_some(self.now),
            quorum_due: (!alone).then(|| self.now.after(self.settings.election_timeout_min)),
            // Uncommitted entries of earlier terms cost nothing here: their sizes are the
            // driver's knowledge.
            totals: VecDeque::new(),
            committed_total: 0,
            reads: VecDeque::new(),
            read_seq: 0,
            transfer: None,
            transfers: 0,
        }));
        self.leader = Some(self.me);
        self.leader_contact = None;
        self.ack_owed = false;
        effects.role_changed = true;
        self.append_own(EntryKind::Noop, 0, effects);
        // The probes announce the new leader; heartbeats keep to the node's grid.
        self.schedule_heartbeat();
        self.advance_commit(effects);
    }

    fn append_own(&mut self, kind: EntryKind, bytes: u64, effects: &mut Effects) -> LogIndex {
        let term = self.hard_state.term;
        self.append_entries(term, 1, effects);
        let index = self.log.last_index();
        if let Role::Leader(leader) = &mut self.role {
            let total = leader.totals.back().map_or(leader.committed_total, |(_, total)| *total);
            leader.totals.push_back((index, total.wrapping_add(bytes)));
        }
        effects.log_changes.push(LogChange::Appended { index, term, kind });
        index
    }

    pub(crate) fn on_propose(&mut self, token: Token, bytes: u64, effects: &mut Effects) {
        let cap = self.settings.uncommitted_bytes_max;
        // Whatever the driver says, a proposal of no cost would find no limit.
        let bytes = bytes.max(Entry::OVERHEAD);
        let refusal = match &self.role {
            Role::Leader(leader) if leader.transfer.is_some() => Refusal::Transferring,
            Role::Leader(leader) => {
                let uncommitted_bytes = leader.uncommitted_bytes();
                if uncommitted_bytes == 0 || uncommitted_bytes.saturating_add(bytes) <= cap {
                    let index = self.append_own(EntryKind::Command, bytes, effects);
                    let term = self.hard_state.term;
                    self.proposals.push_back(Proposal { index, term, token });
                    return;
                }
                Refusal::Overloaded { uncommitted_bytes }
            }
            Role::Follower | Role::PreCandidate(_) | Role::Candidate(_) => {
                Refusal::NotLeader { leader: self.leader }
            }
        };
        effects.outcomes.push((token, Outcome::Refused(refusal)));
    }

    /// Whether [`make_append`](Self::make_append) has something for this peer.
    pub fn wants_append(&self, peer: ReplicaId) -> bool {
        let Role::Leader(leader) = &self.role else {
            return false;
        };
        leader
            .peers
            .iter()
            .find(|progress| progress.replica == peer)
            .is_some_and(|progress| progress.may_send(self.log.last_index(), &self.settings))
    }

    /// Builds the next append for a peer, when a lane has room for it: at most `budget` bytes
    /// and [`append_bytes_max`](crate::Settings::append_bytes_max), but always at least one entry if one is due.
    ///
    /// `cost_of` tells an entry's [`cost`](crate::Entry::cost); it is a lookup in the driver's
    /// index and must not block. `None` from it ends the append before that entry: the driver
    /// does not have it at hand. Returns `None` when nothing is due, or the very first entry is
    /// not at hand; nothing changes then.
    pub fn make_append(
        &mut self,
        now: Micros,
        peer: ReplicaId,
        budget: u64,
        mut cost_of: impl FnMut(LogIndex) -> Option<u64>,
    ) -> Option<Append> {
        self.now = self.now.max(now);
        let last = self.log.last_index();
        let commit = self.commit;
        let Role::Leader(leader) = &mut self.role else {
            return None;
        };
        let term = leader.term;
        let progress = leader.peers.iter_mut().find(|progress| progress.replica == peer)?;
        if !progress.may_send(last, &self.settings) {
            return None;
        }
        let prev_index = progress.next_index.prev();
        let prev_term = self.log.term(prev_index)?;
        let limit = budget.min(self.settings.append_bytes_max);
        let mut bytes = 0u64;
        let mut end = prev_index;
        // A probe asks where the logs agree; entries would likely be sent in vain.
        let streams = matches!(progress.state, State::Replicate(_));
        while streams && end < last && end.since(prev_index) < APPEND_ENTRIES_MAX {
            let Some(cost) = cost_of(end.next()) else {
                break;
            };
            if end > prev_index && bytes.saturating_add(cost) > limit {
                break;
            }
            bytes = bytes.saturating_add(cost);
            end = end.next();
        }
        if streams && end == prev_index {
            return None;
        }
        progress.sent(self.now, end, bytes);
        let mut append = Append {
            term,
            session: progress.session,
            prev_index,
            prev_term,
            runs: Vec::new(),
            commit,
        };
        if end > prev_index {
            self.log.runs(prev_index.next(), end, &mut append.runs);
        }
        Some(append)
    }

    /// The first entry the next append for this peer needs, if it streams entries.
    pub fn next_index(&self, peer: ReplicaId) -> Option<LogIndex> {
        let Role::Leader(leader) = &self.role else {
            return None;
        };
        leader.peers.iter().find(|progress| progress.replica == peer).map(|p| p.next_index)
    }

    /// Whether an append to this peer waits for its answer. A driver with several lanes changes
    /// lanes only when nothing is in flight, so that no append overtakes another.
    pub fn has_in_flight(&self, peer: ReplicaId) -> bool {
        let Role::Leader(leader) = &self.role else {
            return false;
        };
        leader.peers.iter().any(|progress| progress.replica == peer && progress.in_flight())
    }

    /// Whether appends to this peer carry entries: where the logs agree has been found.
    pub fn streams_to(&self, peer: ReplicaId) -> bool {
        let Role::Leader(leader) = &self.role else {
            return false;
        };
        leader.peers.iter().any(|progress| {
            progress.replica == peer && matches!(progress.state, State::Replicate(_))
        })
    }

    /// Up to where every voter has said its log is durable; everything below is never sent
    /// again, except to a peer that starts over. `None` unless leading.
    pub fn match_of_all(&self) -> Option<LogIndex> {
        let Role::Leader(leader) = &self.role else {
            return None;
        };
        let own = self.durability.durable();
        Some(leader.peers.iter().map(|peer| peer.match_index).fold(own, LogIndex::min))
    }

    pub(crate) fn on_append_reply(
        &mut self,
        from: ReplicaId,
        reply: AppendReply,
        effects: &mut Effects,
    ) -> Result<(), Fault> {
        if reply.term > self.hard_state.term {
            self.become_follower(reply.term, None, effects);
            return Ok(());
        }
        let last = self.log.last_index();
        let (now, log) = (self.now, &self.log);
        let Role::Leader(leader) = &mut self.role else {
            return Ok(());
        };
        let term = leader.term;
        let Some(progress) = leader.peer(from) else {
            return Ok(());
        };
        if reply.term != term || reply.session != progress.session {
            return Ok(());
        }
        progress.contact = now;
        match reply.result {
            AppendResult::Accepted { durable, verified, .. } => {
                if durable > last || verified > last {
                    return Err(Fault::AckBeyondLog {
                        peer: from,
                        acknowledged: durable.max(verified),
                        last,
                    });
                }
                if progress.accepted(now, durable, verified) {
                    self.advance_commit(effects);
                    self.continue_transfer(effects);
                }
            }
            AppendResult::Rejected { prev_index, hint_index, hint_term } => {
                // Only an answer about entries beyond `match` can be news.
                let news = match &progress.state {
                    State::Probe { sent } => {
                        sent.is_some() && prev_index == progress.next_index.prev()
                    }
                    State::Replicate(_) => prev_index > progress.match_index,
                };
                if news {
                    let agreed = log.last_at_most(hint_index.min(prev_index.prev()), hint_term);
                    let next = agreed.max(progress.match_index).next();
                    let session = progress.session;
                    progress.probe_again(session);
                    progress.next_index = next;
                }
            }
            AppendResult::StaleTerm => {}
        }
        Ok(())
    }

    /// Commits what a majority holds durably, if it is of our own term (paper, section 5.4.2).
    pub(crate) fn advance_commit(&mut self, effects: &mut Effects) {
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        let mut held = [LogIndex::ZERO; 16];
        let mut spill = Vec::new();
        let count = leader.peers.len() + 1;
        let held: &mut [LogIndex] = if count <= held.len() {
            &mut held[..count]
        } else {
            spill.resize(count, LogIndex::ZERO);
            &mut spill
        };
        held[0] = self.durability.durable();
        for (slot, peer) in held[1..].iter_mut().zip(&leader.peers) {
            *slot = peer.match_index;
        }
        let index = majority_reached(held);
        if index <= self.commit || index < leader.term_start {
            return;
        }
        while let Some((_, total)) = leader.totals.front().filter(|(at, _)| *at <= index) {
            leader.committed_total = *total;
            leader.totals.pop_front();
        }
        self.commit_to(index, effects);
        self.settle_reads(effects);
    }

    pub(crate) fn on_leader_deadline(&mut self, effects: &mut Effects) {
        let now = self.now;
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        if leader.quorum_due.is_some_and(|due| now >= due) {
            let timeout = self.settings.election_timeout_min;
            let heard = leader.peers.iter().filter(|p| now.since(p.contact) < timeout).count();
            if heard + 1 < majority(self.voters.len()) {
                let term = leader.term;
                self.become_follower(term, None, effects);
                return;
            }
            leader.quorum_due = Some(now.after(timeout / 2));
        }
        if leader.transfer.as_ref().is_some_and(|transfer| now >= transfer.deadline)
            && let Some(transfer) = leader.transfer.take()
        {
            effects.outcomes.push((transfer.token, Outcome::Refused(Refusal::TransferFailed)));
            if transfer.asked {
                // The target may still act on our request; a new entry makes it worthless.
                self.append_own(EntryKind::Noop, 0, effects);
            }
        }
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        if leader.heartbeat_due.is_some_and(|due| now >= due) {
            let settings = &self.settings;
            for peer in &mut leader.peers {
                if peer.is_stuck(now, settings) {
                    let session = self.sessions.bump();
                    peer.probe_again(session);
                }
            }
            self.send_heartbeats(effects);
            self.schedule_heartbeat();
        }
    }

    /// Heartbeats fall on multiples of the interval on the node's clock, the same for all
    /// groups, so that they share frames.
    fn schedule_heartbeat(&mut self) {
        let interval = self.settings.heartbeat_interval.as_micros() as u64;
        let next = (self.now.get() / interval + 1).saturating_mul(interval);
        if let Role::Leader(leader) = &mut self.role {
            leader.heartbeat_due = leader.heartbeat_due.map(|_| Micros::new(next));
        }
    }

    fn send_heartbeats(&self, effects: &mut Effects) {
        let Role::Leader(leader) = &self.role else {
            return;
        };
        for peer in &leader.peers {
            let heartbeat = self.heartbeat_for(leader, peer);
            effects.messages.send(peer.replica, Message::Heartbeat(heartbeat), None);
        }
    }

    fn heartbeat_for(&self, leader: &Leader, peer: &Progress) -> Heartbeat {
        Heartbeat {
            term: leader.term,
            commit: self.commit.min(peer.match_index),
            read_seq: leader.read_seq,
        }
    }

    pub(crate) fn on_heartbeat_reply(
        &mut self,
        from: ReplicaId,
        reply: HeartbeatReply,
        effects: &mut Effects,
    ) {
        if reply.term > self.hard_state.term {
            self.become_follower(reply.term, None, effects);
            return;
        }
        let now = self.now;
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        if reply.term != leader.term {
            return;
        }
        let read_seq = leader.read_seq;
        let Some(progress) = leader.peer(from) else {
            return;
        };
        progress.contact = now;
        progress.read_acked = progress.read_acked.max(reply.read_seq.min(read_seq));
        self.settle_reads(effects);
    }

    pub(crate) fn on_read(&mut self, token: Token, effects: &mut Effects) {
        let Role::Leader(leader) = &mut self.role else {
            let refusal = Refusal::NotLeader { leader: self.leader };
            effects.outcomes.push((token, Outcome::Refused(refusal)));
            return;
        };
        if leader.reads.len() >= self.settings.reads_pending_max {
            effects.outcomes.push((token, Outcome::Refused(Refusal::TooManyReads)));
            return;
        }
        leader.read_seq += 1;
        let index = (self.commit >= leader.term_start).then_some(self.commit);
        leader.reads.push_back(PendingRead { seq: leader.read_seq, token, index });
        let Role::Leader(leader) = &self.role else {
            return;
        };
        for peer in &leader.peers {
            let confirm = self.heartbeat_for(leader, peer);
            effects.messages.send(peer.replica, Message::ReadConfirm(confirm), None);
        }
        self.settle_reads(effects);
    }

    /// Answers the reads a quorum has confirmed, oldest first. Alone or not, a leader answers
    /// none before its own no-op is committed (thesis 6.4).
    fn settle_reads(&mut self, effects: &mut Effects) {
        let commit = self.commit;
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        if leader.reads.is_empty() || commit < leader.term_start {
            return;
        }
        let mut acked: Vec<u64> = leader.peers.iter().map(|peer| peer.read_acked).collect();
        acked.push(leader.read_seq);
        let confirmed = majority_reached(&mut acked);
        while let Some(read) = leader.reads.front().filter(|read| read.seq <= confirmed) {
            // A read that came before our no-op was committed takes today's commit index: it may
            // only be newer.
            let index = read.index.unwrap_or(commit);
            effects.outcomes.push((read.token, Outcome::ReadReady { index }));
            leader.reads.pop_front();
        }
    }

    pub(crate) fn on_transfer(
        &mut self,
        token: Token,
        to: Option<ReplicaId>,
        effects: &mut Effects,
    ) {
        let deadline = self.now.after(self.settings.election_timeout_min);
        let refusal = match &mut self.role {
            Role::Leader(leader) if leader.transfer.is_some() => Some(Refusal::Transferring),
            Role::Leader(leader) => {
                let longest = leader.peers.iter().max_by_key(|p| (p.match_index, p.contact));
                let to = to.or_else(|| longest.map(|peer| peer.replica));
                match to.filter(|to| leader.peers.iter().any(|peer| peer.replica == *to)) {
                    None => Some(Refusal::TransferFailed),
                    Some(to) => {
                        leader.transfers += 1;
                        let id = leader.transfers;
                        leader.transfer = Some(Transfer { id, token, to, deadline, asked: false });
                        None
                    }
                }
            }
            Role::Follower | Role::PreCandidate(_) | Role::Candidate(_) => {
                Some(Refusal::NotLeader { leader: self.leader })
            }
        };
        match refusal {
            Some(refusal) => effects.outcomes.push((token, Outcome::Refused(refusal))),
            None => self.continue_transfer(effects),
        }
    }

    /// Asks the target to campaign once it holds everything we have.
    fn continue_transfer(&mut self, effects: &mut Effects) {
        let last_index = self.log.last_index();
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        let term = leader.term;
        let Some(transfer) = leader.transfer.as_mut().filter(|transfer| !transfer.asked) else {
            return;
        };
        let caught_up = leader
            .peers
            .iter()
            .any(|peer| peer.replica == transfer.to && peer.match_index == last_index);
        if caught_up {
            transfer.asked = true;
            let request = TimeoutNow { term, transfer: transfer.id, last_index };
            effects.messages.send(transfer.to, Message::TimeoutNow(request), None);
        }
    }

    pub(crate) fn on_peer_unreachable(&mut self, peer: ReplicaId) {
        let session = self.sessions.bump();
        if let Role::Leader(leader) = &mut self.role
            && let Some(progress) = leader.peer(peer)
        {
            progress.probe_again(session);
        }
    }

    /// A peer speaks from a new life: what it acknowledged in the old one may be on its disk, but
    /// is asked for again. A shorter log is legal (rule R8).
    pub(crate) fn on_peer_restarted(&mut self, peer: ReplicaId) {
        let session = self.sessions.bump();
        let next = self.log.last_index().next();
        if let Role::Leader(leader) = &mut self.role
            && let Some(progress) = leader.peer(peer)
        {
            progress.restart(session, next);
        }
    }
}
