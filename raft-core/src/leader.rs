//! Leading: office, proposals, commit, heartbeats (paper 5.3, 5.4.2; thesis 3.10, 6.2, 10.2.1).
//!
//! Invariants: commit moves only to an index of the leader's own term; only what a quorum of the
//! membership in force, of both its halves, says it holds counts; a leader that reaches no quorum
//! for an election timeout, or whose disk hangs, steps down and is silent.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::audit::Discrepancy;
use crate::entry::{Entry, EntryKind};
use crate::group::{Group, Proposal, Role};
use crate::id::{LogIndex, LogTime, Micros, ReplicaId, Term, Token};
use crate::io::{DiskSpace, Effects, LogChange, Outcome, Refusal};
use crate::membership::Standing;
use crate::message::{Heartbeat, HeartbeatReply, Message, ReadIndexReply, Rest};
use crate::progress::{Progress, State};
use crate::quorum::{Half, majority_reached};
use crate::reads::{Asker, PendingRead};
use crate::settings::Acknowledge;
use crate::sparse::Sparse;
use crate::transfer::Transfer;

#[derive(Debug)]
pub(crate) struct Leader {
    pub(crate) term: Term,
    /// The no-op of this term. Nothing counts as committed by us, and no read is answered, before
    /// it is committed.
    pub(crate) term_start: LogIndex,
    /// What this replica itself may do: a leader that was removed does not count itself.
    pub(crate) standing: Option<Standing>,
    pub(crate) is_joint: bool,
    /// No change is under way, and this replica and all its peers are voters. Three of them are
    /// the usual case, in which nobody has to be looked up.
    all_vote: bool,
    pub(crate) peers: Vec<Progress>,
    pub(crate) heartbeat_due: Option<Micros>,
    pub(crate) quorum_due: Option<Micros>,
    /// Running totals of what this term's proposals cost: of those appended, and of those
    /// committed. The bytes uncommitted are their difference, so they cannot drift; the totals
    /// wrap around, the difference does not. Each [`Proposal`] remembers the total at its place;
    /// an entry without a proposal costs nothing.
    pub(crate) appended_total: u64,
    committed_total: u64,
    /// Entries that count only when durable, whatever the strategy: the first of the term, and
    /// memberships. Ascending, uncommitted ones only.
    durable_only: Sparse<LogIndex>,
    /// Made by the first read, and given back when there are none for a while.
    #[allow(clippy::box_collection, reason = "hardly any leader has reads to confirm")]
    pub(crate) reads: Option<Box<VecDeque<PendingRead>>>,
    pub(crate) read_seq: u64,
    pub(crate) transfer: Option<Box<Transfer>>,
    pub(crate) transfers: u64,
    /// No lease before this is committed: the no-op of the term, or what ended a transfer.
    pub(crate) lease_from: LogIndex,
    /// When something was last asked of this group.
    pub(crate) busy: Micros,
}

/// What a quorum is computed of.
#[derive(Clone, Copy)]
enum Mark {
    Durable,
    Written,
}

impl Leader {
    pub(crate) fn next_deadline(&self) -> Option<Micros> {
        let transfer = self.transfer.as_ref().map(|transfer| transfer.deadline);
        [self.heartbeat_due, self.quorum_due, transfer].into_iter().flatten().min()
    }

    pub(crate) fn has_peers(&self) -> bool {
        !self.peers.is_empty()
    }

    /// Ends everything that waits for this leadership. Proposals are not here: whether they
    /// happen is decided by the logs, not by the loss of office.
    pub(crate) fn fail_waiting(self, newer_term: bool, effects: &mut Effects) {
        for read in self.reads.into_iter().flat_map(|reads| *reads) {
            match read.asker {
                Asker::Driver(token) => {
                    effects.outcomes.push((token, Outcome::Refused(Refusal::LeadershipLost)));
                }
                Asker::Peer { replica, id } => {
                    let reply = ReadIndexReply { term: self.term, id, index: None };
                    effects.messages.send(replica, Message::ReadIndexReply(reply), None);
                }
            }
        }
        if let Some(transfer) = self.transfer
            && let Some(token) = transfer.token
        {
            let outcome = if newer_term && transfer.asked {
                Outcome::Transferred
            } else {
                Outcome::Refused(Refusal::LeadershipLost)
            };
            effects.outcomes.push((token, outcome));
        }
    }

    /// Reads and hand-overs the driver waits for.
    pub(crate) fn open_requests(&self) -> usize {
        let reads = self
            .reads
            .iter()
            .flat_map(|reads| reads.iter())
            .filter(|read| matches!(read.asker, Asker::Driver(_)));
        let transfer = self.transfer.as_ref().and_then(|transfer| transfer.token);
        reads.count() + usize::from(transfer.is_some())
    }

    /// Gives back the room that queues keep, as far as nothing is in it.
    pub(crate) fn release_spare(&mut self) {
        self.reads.take_if(|reads| reads.is_empty());
        self.durable_only.release_spare();
        for peer in &mut self.peers {
            peer.release_spare();
        }
    }

    /// How many reads wait for their confirmation.
    pub(crate) fn reads_pending(&self) -> usize {
        self.reads.as_ref().map_or(0, |reads| reads.len())
    }

    fn uncommitted_bytes(&self) -> u64 {
        self.appended_total.wrapping_sub(self.committed_total)
    }

    pub(crate) fn peer(&self, replica: ReplicaId) -> Option<&Progress> {
        self.peers.iter().find(|peer| peer.replica == replica)
    }

    pub(crate) fn peer_mut(&mut self, replica: ReplicaId) -> Option<&mut Progress> {
        self.peers.iter_mut().find(|peer| peer.replica == replica)
    }

    /// The largest value that a quorum has reached: a majority, or one of each half. A leader that
    /// is no voter does not count itself.
    pub(crate) fn quorum<T: Copy + Ord + Default>(
        &self,
        group: &Group,
        own: T,
        of: impl Fn(&Progress) -> T + Copy,
    ) -> T {
        let membership = group.membership();
        let peers = self.peers.iter().map(move |peer| (peer.replica, of(peer)));
        let known = core::iter::once((group.me, own)).chain(peers);
        if crate::planted!(JointByUnion) {
            let union: Vec<ReplicaId> = membership.voters().collect();
            return Half::new(&union).reached(known).unwrap_or_default();
        }
        if crate::planted!(RemovedLeaderCountsItself) && self.standing.is_none() {
            let mut with_self = membership.incoming().to_vec();
            with_self.push(group.me);
            return Half::new(&with_self).reached(known).unwrap_or_default();
        }
        if crate::planted!(LearnerCounts) {
            let all: Vec<ReplicaId> = membership.members().iter().map(|m| m.replica).collect();
            return Half::new(&all).reached(known).unwrap_or_default();
        }
        if self.all_vote
            && let [a, b] = &self.peers[..]
        {
            return majority_reached(&mut [own, of(a), of(b)]);
        }
        membership.joint().reached(known).unwrap_or_default()
    }

    /// Compares what is kept up to date step by step with what a recount finds.
    pub(crate) fn audit(&self, group: &Group) -> Result<(), Discrepancy> {
        let membership = group.membership();
        for peer in &self.peers {
            let (replica, known) = (peer.replica, membership.standing(peer.replica));
            if !peer.is_sound() || peer.match_index > group.last_index() {
                return Err(Discrepancy::Progress(replica));
            }
            if peer.standing != known {
                return Err(Discrepancy::Standing(replica));
            }
        }
        let is_joint = membership.is_joint();
        if self.standing != membership.standing(group.me) || self.is_joint != is_joint {
            return Err(Discrepancy::Standing(group.me));
        }
        // Only proposals have a cost.
        let newest = group.proposals.back().filter(|proposal| proposal.term == self.term);
        let counted = newest.map_or(self.committed_total, |proposal| proposal.total);
        if counted != self.appended_total {
            return Err(Discrepancy::Uncommitted { kept: self.appended_total, counted });
        }
        let own = group.durability.durable();
        let held = |replica: ReplicaId| {
            let peer = || self.peer(replica).map(Progress::counted_durable).unwrap_or_default();
            if replica == group.me { own } else { peer() }
        };
        let half = |voters: &[ReplicaId]| {
            let held: Vec<LogIndex> = voters.iter().copied().map(held).collect();
            let reached = |at: &&LogIndex| held.iter().filter(|h| h >= at).count() * 2 > held.len();
            held.iter().filter(reached).max().copied().unwrap_or_default()
        };
        let mut counted = half(membership.incoming());
        if is_joint {
            counted = counted.min(half(membership.outgoing()));
        }
        let kept = self.quorum(group, own, Progress::counted_durable);
        if kept != counted {
            return Err(Discrepancy::Quorum { kept, counted });
        }
        let due = group.committable(self);
        if due > group.commit && due >= self.term_start {
            return Err(Discrepancy::Uncounted(due));
        }
        Ok(())
    }
}

impl Group {
    pub(crate) fn become_leader(&mut self, effects: &mut Effects) {
        let term = self.hard_state.term;
        let next = self.log.last_index().next();
        self.role = Role::Leader(Box::new(Leader {
            term,
            term_start: next,
            standing: None,
            is_joint: false,
            all_vote: false,
            peers: Vec::new(),
            heartbeat_due: None,
            quorum_due: None,
            // Uncommitted entries of earlier terms cost nothing here: their sizes are the
            // driver's knowledge.
            appended_total: 0,
            committed_total: 0,
            durable_only: Sparse::new(),
            reads: None,
            read_seq: 0,
            transfer: None,
            transfers: 0,
            lease_from: next,
            busy: self.now,
        }));
        self.leader = Some(self.me);
        self.leader_contact = None;
        self.ack_owed = false;
        effects.role_changed = true;
        self.abort_receiving(effects);
        self.follow_membership();
        // Uncommitted memberships of earlier terms are decided by disks alone, too.
        let open = self.configs.within(self.commit.next(), self.log.last_index());
        let open = open.iter().map(|(index, _)| *index).collect();
        if let Role::Leader(leader) = &mut self.role {
            leader.durable_only = open;
        }
        self.append_own(EntryKind::Noop, LogTime::default(), effects);
        // The probes announce the new leader; heartbeats keep to the node's grid.
        self.schedule_heartbeat();
        self.advance_commit(self.log.last_index(), effects);
    }

    /// Takes the membership in force into what is known of the peers: newcomers are probed, those
    /// who left are told for a while.
    pub(crate) fn follow_membership(&mut self) {
        let membership = Arc::clone(self.membership());
        let next = self.log.last_index().next();
        let (me, now) = (self.me, self.now);
        let farewell = now.after(self.settings.election_timeout_max);
        let timeout = self.settings.election_timeout_min;
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        leader.standing = membership.standing(me);
        leader.is_joint = membership.is_joint();
        for peer in &mut leader.peers {
            peer.standing = membership.standing(peer.replica);
            if peer.standing.is_none() && peer.leaves.is_none() {
                peer.leaves = Some(farewell);
            }
        }
        let members = membership.members();
        leader.peers.reserve_exact(members.len().saturating_sub(leader.peers.len() + 1));
        for member in members.iter().filter(|member| member.replica != me) {
            if leader.peer(member.replica).is_none() {
                let session = self.sessions.bump();
                leader.peers.push(Progress::new(
                    member.replica,
                    member.standing,
                    session,
                    next,
                    now,
                ));
            }
        }
        let votes = |standing: Option<Standing>| standing == Some(Standing::Voter);
        leader.all_vote =
            votes(leader.standing) && leader.peers.iter().all(|peer| votes(peer.standing));
        let alone = leader.peers.is_empty();
        if alone {
            leader.heartbeat_due = None;
            leader.quorum_due = None;
        } else {
            leader.heartbeat_due.get_or_insert(now);
            leader.quorum_due.get_or_insert_with(|| now.after(timeout));
        }
    }

    pub(crate) fn append_own(
        &mut self,
        kind: EntryKind,
        time: LogTime,
        effects: &mut Effects,
    ) -> LogIndex {
        let term = self.hard_state.term;
        self.append_entries(term, 1, effects);
        let index = self.log.last_index();
        self.log_time = if crate::planted!(StampMayFall) && kind == EntryKind::Command {
            time
        } else {
            self.log_time.max(time)
        };
        let now = self.now;
        if let Role::Leader(leader) = &mut self.role {
            if kind != EntryKind::Command {
                leader.durable_only.push(index);
            }
            leader.busy = now;
        }
        effects.log_changes.push(LogChange::Appended { index, term, kind, time: self.log_time });
        index
    }

    pub(crate) fn on_propose(
        &mut self,
        token: Token,
        bytes: u64,
        time: LogTime,
        effects: &mut Effects,
    ) {
        let cap = self.settings.uncommitted_bytes_max;
        // Whatever the driver says, a proposal of no cost would find no limit.
        let bytes = bytes.max(Entry::OVERHEAD);
        let refusal = match &mut self.role {
            Role::Leader(leader) if leader.transfer.is_some() => Refusal::Transferring,
            Role::Leader(leader) if self.disk == DiskSpace::Ample => {
                let uncommitted_bytes = leader.uncommitted_bytes();
                if uncommitted_bytes == 0 || uncommitted_bytes.saturating_add(bytes) <= cap {
                    leader.appended_total = leader.appended_total.wrapping_add(bytes);
                    let (term, total) = (leader.term, leader.appended_total);
                    let index = self.append_own(EntryKind::Command, time, effects);
                    self.proposals.push_back(Proposal { index, term, token, total });
                    return;
                }
                Refusal::Overloaded { uncommitted_bytes }
            }
            Role::Leader(_) => Refusal::DiskFull,
            Role::Follower | Role::PreCandidate(_) | Role::Candidate(_) => {
                Refusal::NotLeader { leader: self.leader }
            }
        };
        effects.outcomes.push((token, Outcome::Refused(refusal)));
    }

    /// Commits what a quorum holds (paper, 5.3 and 5.4.2; thesis 10.2.1 for the leader's own
    /// part), after some replica's marks moved: to `moved`, or less far. Up to the commit index
    /// such a move decides nothing, and the last acknowledgement of an entry moves no further.
    /// Whatever changes who counts passes the log's end.
    pub(crate) fn advance_commit(&mut self, moved: LogIndex, effects: &mut Effects) {
        if moved <= self.commit {
            return;
        }
        let Role::Leader(leader) = &self.role else {
            return;
        };
        let index = self.committable(leader);
        let is_own = index >= leader.term_start || crate::planted!(CommitsOlderTerms);
        if index <= self.commit || !is_own {
            return;
        }
        let settled = self.commit_to(index, effects);
        if let Role::Leader(leader) = &mut self.role {
            let settled = settled.filter(|newest| newest.term == leader.term);
            if let Some(newest) = settled.filter(|_| !crate::planted!(UncommittedBytesDrift)) {
                leader.committed_total = newest.total;
            }
            if leader.durable_only.first().is_some_and(|at| *at <= index) {
                leader.durable_only.vec().retain(|at| *at > index);
                leader.durable_only.release_spare();
            }
        }
        self.settle_reads(effects);
        self.tend_membership(effects);
    }

    /// Up to where a quorum holds the log as the strategy demands.
    fn committable(&self, leader: &Leader) -> LogIndex {
        match self.settings.acknowledge {
            Acknowledge::Durable => self.quorum_index(leader, Mark::Durable),
            Acknowledge::Written => {
                let written = self.quorum_index(leader, Mark::Written);
                // Term starts and memberships wait for the disks, and hold back what follows.
                match leader.durable_only.first() {
                    Some(first)
                        if *first <= written && !crate::planted!(TermStartCountsWritten) =>
                    {
                        let durable = self.quorum_index(leader, Mark::Durable);
                        let open = leader.durable_only.iter().find(|at| **at > durable);
                        open.map_or(written, |at| written.min(at.prev()))
                    }
                    _ => written,
                }
            }
        }
    }

    /// What a quorum has on disk, as far as this replica knows, and committed: nothing of it can be
    /// lost any more. No snapshot may become durable beyond, nor anything that a state machine
    /// keeps on disk: a quorum that forgot what one replica still stands for would go another way.
    pub fn quorum_durable_index(&self) -> LogIndex {
        match &self.role {
            Role::Leader(leader) => self.quorum_durable_of(leader),
            Role::Follower | Role::PreCandidate(_) | Role::Candidate(_) => {
                match self.settings.acknowledge {
                    Acknowledge::Durable => self.commit,
                    Acknowledge::Written => self.quorum_durable.min(self.commit),
                }
            }
        }
    }

    pub(crate) fn quorum_durable_of(&self, leader: &Leader) -> LogIndex {
        match self.settings.acknowledge {
            Acknowledge::Durable => self.commit,
            Acknowledge::Written if self.quorum_durable >= self.commit => self.commit,
            Acknowledge::Written => {
                let now = self.quorum_index(leader, Mark::Durable);
                now.max(self.quorum_durable).min(self.commit)
            }
        }
    }

    /// Where what is written counts, a leader stands by what it could say after any step: a snapshot may
    /// be on its way by then, whoever counts less or more later.
    pub(crate) fn note_quorum_durable(&mut self) {
        if self.settings.acknowledge == Acknowledge::Written && self.is_leader() {
            self.learn_quorum_durable(self.quorum_durable_index());
        }
    }

    pub(crate) fn learn_quorum_durable(&mut self, index: LogIndex) {
        self.quorum_durable = self.quorum_durable.max(index);
    }

    fn quorum_index(&self, leader: &Leader, mark: Mark) -> LogIndex {
        if crate::planted!(ProgressOutOfOrder) {
            let peers = leader
                .peers
                .iter()
                .filter(|peer| peer.standing.is_some_and(Standing::votes_incoming));
            let of_peers = peers.map(Progress::counted_durable);
            let held: Vec<LogIndex> =
                core::iter::once(self.durability.durable()).chain(of_peers).collect();
            return held[held.len() / 2];
        }
        match mark {
            Mark::Durable => {
                let mut own = self.durability.durable();
                if crate::planted!(CommitsOwnUnsyncedAppend) {
                    own = self.log.last_index();
                }
                leader.quorum(self, own, Progress::counted_durable)
            }
            Mark::Written => {
                let own = self.durability.written();
                leader.quorum(self, own, Progress::counted_written)
            }
        }
    }

    pub(crate) fn on_leader_deadline(&mut self, effects: &mut Effects) {
        let now = self.now;
        if self.disk_hangs() {
            // Heartbeats would keep everybody loyal to a leader that can promise nothing.
            let term = self.hard_state.term;
            self.become_follower(term, None, effects);
            return;
        }
        let Role::Leader(leader) = &self.role else {
            return;
        };
        if leader.quorum_due.is_some_and(|due| now >= due) {
            let timeout = self.settings.election_timeout_min;
            let heard = leader.quorum(self, Some(now), |peer| Some(peer.contact));
            let silent = heard.is_none_or(|heard| now.since(heard) >= timeout);
            if silent && !crate::planted!(NoCheckQuorum) {
                let term = leader.term;
                self.become_follower(term, None, effects);
                return;
            }
            if let Role::Leader(leader) = &mut self.role {
                leader.quorum_due = Some(now.after(timeout / 2));
            }
        }
        self.expire_transfer(effects);
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        if leader.heartbeat_due.is_none_or(|due| now < due) {
            return;
        }
        let base = self.log.base();
        for peer in &mut leader.peers {
            if peer.is_mistrusted() {
                let session = self.sessions.bump();
                peer.probe_again(session, base);
            }
        }
        leader
            .peers
            .retain(|peer| peer.standing.is_some() || peer.leaves.is_some_and(|until| now < until));
        self.offer_snapshots(effects);
        self.repeat_timeout_now(effects);
        self.tend_membership(effects);
        if self.disk == DiskSpace::Full {
            self.hand_over(effects);
        }
        self.release_spare();
        let rest = self.may_rest();
        self.send_heartbeats(rest, effects);
        match rest {
            Rest::Awake => self.schedule_heartbeat(),
            Rest::Quiesce => self.fall_asleep(),
        }
    }

    /// Whether the oldest write has waited for the disk for too long.
    pub(crate) fn disk_hangs(&self) -> bool {
        let Role::Leader(leader) = &self.role else { return false };
        self.gives_up_at(leader).is_some_and(|at| at <= self.now)
    }

    /// When this leader steps down if its disk does not answer until then: whoever drives it has as
    /// long to hand over as it had to notice.
    pub(crate) fn gives_up_at(&self, leader: &Leader) -> Option<Micros> {
        // Alone, there is nobody to hand over to.
        let since = self.durability.waits_since().filter(|_| leader.has_peers())?;
        Some(since.after(self.settings.disk_stall_max * 2))
    }

    /// Heartbeats fall on multiples of the interval on the node's clock, the same for all
    /// groups, so that they share frames.
    pub(crate) fn schedule_heartbeat(&mut self) {
        let interval = self.settings.heartbeat_interval.as_micros() as u64;
        let next = (self.now.get() / interval + 1).saturating_mul(interval);
        if let Role::Leader(leader) = &mut self.role {
            leader.heartbeat_due = leader.heartbeat_due.map(|_| Micros::new(next));
        }
    }

    fn send_heartbeats(&self, rest: Rest, effects: &mut Effects) {
        let Role::Leader(leader) = &self.role else {
            return;
        };
        for peer in &leader.peers {
            let heartbeat = self.heartbeat_for(leader, peer, rest);
            effects.messages.send(peer.replica, Message::Heartbeat(heartbeat), None);
        }
    }

    pub(crate) fn heartbeat_for(&self, leader: &Leader, peer: &Progress, rest: Rest) -> Heartbeat {
        let mut commit = self.commit.min(peer.match_index);
        if crate::planted!(CommitToldWithAppends) {
            commit = LogIndex::ZERO;
        }
        Heartbeat {
            term: leader.term,
            commit,
            quorum_durable: self.quorum_durable_of(leader).min(commit),
            read_seq: leader.read_seq,
            sent: self.now,
            rest,
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
        if reply.term != leader.term && !crate::planted!(ReadAckOfOlderTermCounts) {
            return;
        }
        let read_seq = leader.read_seq;
        let Some(progress) = leader.peer_mut(from) else {
            return;
        };
        progress.heard(now);
        progress.read_acked = progress.read_acked.max(reply.read_seq.min(read_seq));
        // What it echoes left here; whatever it says, not later than now.
        let mut sent = reply.sent.min(now);
        if crate::planted!(LeaseFromReplyTime) {
            sent = now;
        }
        progress.sent_acked = progress.sent_acked.max(Some(sent));
        self.settle_reads(effects);
    }

    pub(crate) fn on_peer_unreachable(&mut self, peer: ReplicaId, effects: &mut Effects) {
        let sleeps_on = crate::planted!(SleepsThroughLoss);
        if self.asleep && self.leader == Some(peer) && !sleeps_on {
            // What is gone is not given the time to speak up, but the lease it may still hold is
            // respected.
            let heard = self.leader_contact;
            self.wake();
            self.leader_contact = heard;
            if crate::planted!(PatienceEndsWithConnection) {
                self.leader_contact = None;
            }
        }
        let is_member = self.membership().member(peer).is_some();
        if self.asleep && self.is_leader() && is_member && !sleeps_on {
            // When it is back it may have to learn what it forgot, and cannot wake anybody.
            self.wake();
        }
        let session = self.sessions.bump();
        let base = self.log.base();
        if let Role::Leader(leader) = &mut self.role
            && let Some(progress) = leader.peer_mut(peer)
        {
            progress.is_reached = false;
            match &mut progress.state {
                // The offer may be lost; the next heartbeat makes it again.
                State::Snapshot { offered } => *offered = None,
                State::Probe { .. } | State::Replicate(_) => progress.probe_again(session, base),
            }
        }
        self.give_up_heir(peer, effects);
    }

    /// A peer speaks from a new life: what it acknowledged in the old one may be on its disk, but
    /// is asked for again. A shorter log is legal (rule R8).
    pub(crate) fn on_peer_restarted(&mut self, peer: ReplicaId) {
        let session = self.sessions.bump();
        let next = self.log.last_index().next();
        if !crate::planted!(SleepsThroughLoss) {
            self.wake();
        }
        if let Role::Leader(leader) = &mut self.role
            && let Some(progress) = leader.peer_mut(peer)
        {
            progress.restart(session, next);
        }
    }
}
