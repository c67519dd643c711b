//! One replica of one group: its state, and the step that dispatches each input to its role.
//!
//! Roles and concerns live in files of their own. What they share is here: terms, persistence,
//! commit, and the rule that nothing which promises something leaves before it is durable.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;

use crate::configs::Configs;
use crate::durability::Durability;
use crate::election::Tally;
use crate::entry::HardState;
use crate::id::{
    GroupId, Incarnation, LogIndex, LogTime, Micros, PersistSeq, ReplicaId, Term, Token,
};
use crate::io::{
    Candidacy, Disbelief, DiskSpace, Effects, Fault, Input, LogChange, Outcome, Persist, Refusal,
    StepResult,
};
use crate::leader::Leader;
use crate::membership::Membership;
use crate::message::{Campaign, Message, Promise, Session};
use crate::reads::Forwarded;
use crate::rng::{Rng, mix};
use crate::settings::{Acknowledge, Lease, PromiseRecord, Settings, Start, StartError};
use crate::snapshots::Receiving;
use crate::sparse::Sparse;
use crate::term_log::TermLog;

/// One replica of one Raft group, as a pure function of its inputs.
///
/// Feed it with [`step`](Self::step), carry out the [`Effects`], call it again at
/// [`next_deadline`](Self::next_deadline), and fetch appends with
/// [`make_append`](Self::make_append) when a lane to a peer has room. No input can make it panic;
/// one that no correct peer could cause makes it mute, with a [`Fault`] as evidence.
///
/// Invariants, checked after every step in debug builds: `base <= snapshot <= appliable <= commit
/// <= last index`; `durable <= written <= last index`; term, commit and appliable never fall; a
/// leader never truncates; what is computed incrementally equals what a recount says.
#[derive(Debug)]
pub struct Group {
    pub(crate) id: GroupId,
    pub(crate) me: ReplicaId,
    pub(crate) incarnation: Incarnation,
    pub(crate) settings: Arc<Settings>,
    pub(crate) rng: Rng,
    pub(crate) now: Micros,

    pub(crate) hard_state: HardState,
    pub(crate) log: TermLog,
    pub(crate) configs: Configs,
    /// The newest stamp seen in any entry: a leader never stamps below it.
    pub(crate) log_time: LogTime,
    pub(crate) durability: Durability,
    pub(crate) commit: LogIndex,
    pub(crate) appliable: LogIndex,
    /// Up to where a quorum was said to have the log on disk; where commits count on disk only,
    /// the commit index says it.
    pub(crate) quorum_durable: LogIndex,
    /// Up to where a durable snapshot reaches.
    pub(crate) snapshot: LogIndex,
    pub(crate) promise: PromiseRecord,
    /// Where this replica must catch up in the current term to be trusted again.
    pub(crate) fence: Option<LogIndex>,
    /// No fence of this term is before this: one that was asked for earlier in this life would not
    /// cover what was acknowledged since.
    pub(crate) fence_min: LogIndex,
    /// The log was found damaged in this term, and no fence was asked for since: whoever gives one
    /// without having heard of that goes on counting on what is not there any more.
    pub(crate) damage_untold: bool,
    pub(crate) disk: DiskSpace,
    /// Whether it takes office. `None`: it was removed, and learned it from others than its leader.
    pub(crate) candidacy: Option<Candidacy>,
    /// In which term it learned that it was removed.
    pub(crate) removed_in: Option<Term>,

    pub(crate) role: Role,
    /// Who leads this term, as far as known.
    pub(crate) leader: Option<ReplicaId>,
    /// Which leader was last heard, and when. Outlives its term: whoever answered a leader owes it
    /// patience, whatever else it hears of.
    pub(crate) leader_contact: Option<(ReplicaId, Micros)>,
    /// The leader's session with us, echoed in replies.
    pub(crate) leader_session: Session,
    /// Up to here our log is known to equal this term's leader's.
    pub(crate) verified: LogIndex,
    /// An append is accepted and its answer waits for the disk.
    pub(crate) ack_owed: bool,
    pub(crate) election_deadline: Micros,
    /// How often it has asked for a leader since it heard one, up to [`ASKS_MAX`]; only if it may
    /// not stand itself.
    pub(crate) asks: u8,
    /// Before this no vote is given: a lease that an earlier life supported may still run.
    pub(crate) votes_from: Micros,
    /// The group sleeps: it wants no deadline.
    pub(crate) asleep: bool,
    pub(crate) attempt: u64,
    pub(crate) sessions: Session,
    /// The snapshot that is on its way here.
    pub(crate) receiving: Option<Box<Receiving>>,
    /// Reads that the leader was asked about.
    pub(crate) forwarded: Sparse<Forwarded>,
    pub(crate) forwards: u64,

    /// Proposals of this replica whose fate is open, by index. They outlive leadership.
    pub(crate) proposals: VecDeque<Proposal>,
    /// Those among them that were cut from our log. That decides nothing: while no other entry
    /// is committed in its place, another replica may hold one and bring it back (paper, figure
    /// 8). In no order.
    pub(crate) orphans: Sparse<Proposal>,
    /// The newest known life of each peer.
    pub(crate) peer_incarnations: Box<[(ReplicaId, Incarnation)]>,
    fault: Option<Box<Fault>>,
    #[cfg(debug_assertions)]
    seen: Seen,
}

/// What must not fall from one step to the next.
#[cfg(debug_assertions)]
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    term: Term,
    vote: Option<ReplicaId>,
    commit: LogIndex,
    appliable: LogIndex,
    snapshot: LogIndex,
    last: LogIndex,
    led: bool,
}

#[derive(Debug)]
pub(crate) enum Role {
    Follower,
    PreCandidate(Box<Tally>),
    Candidate(Box<Tally>),
    Leader(Box<Leader>),
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Proposal {
    pub(crate) index: LogIndex,
    pub(crate) term: Term,
    pub(crate) token: Token,
    /// What the proposals of its term cost up to and with this one.
    pub(crate) total: u64,
}

impl Proposal {
    fn committed(&self) -> Outcome {
        Outcome::Committed { index: self.index, term: self.term }
    }
}

impl Group {
    /// Creates the replica, fresh or as recovered. It starts as a follower.
    ///
    /// The first campaign is ranked: a hash of group and replica orders the voters, and each waits
    /// half an election timeout longer than the one before it. So the leaders of many groups
    /// spread over the nodes without anyone deciding it. In a group that nobody has led yet the first
    /// does not wait at all.
    ///
    /// # Errors
    /// [`StartError`] when the parts contradict each other.
    pub fn new(now: Micros, start: Start) -> Result<Self, StartError> {
        start.settings.validate()?;
        let base = start.base;
        let log = TermLog::recover((base.index, base.term), start.term_runs, start.last_index)
            .ok_or(StartError::TermRuns { last: start.last_index })?;
        if base.snapshot < base.index || base.snapshot > log.last_index() {
            let (base, snapshot) = (base.index, base.snapshot);
            return Err(StartError::SnapshotBeforeLog { base, snapshot });
        }
        if start.applied > log.last_index() {
            return Err(StartError::AppliedBeyondLog {
                applied: start.applied,
                last: log.last_index(),
            });
        }
        if start.applied < base.index {
            return Err(StartError::AppliedBeforeLog { applied: start.applied, base: base.index });
        }
        let membership = match base.membership {
            Some(membership) => membership,
            // A joining replica gets the log from its first entry on, and meets a membership
            // somewhere on the way.
            None if base.index == LogIndex::ZERO => Arc::new(Membership::unknown()),
            None => return Err(StartError::NoMembership),
        };
        let mut configs = Configs::new(base.config_index, membership);
        for (index, membership) in start.configs {
            if index <= base.index || index > log.last_index() || !configs.push(index, membership) {
                return Err(StartError::Configs { index });
            }
        }
        if start.hard_state.term > Term::LIMIT {
            return Err(StartError::TermOverflow { term: start.hard_state.term });
        }
        if log.last_term() > start.hard_state.term {
            return Err(StartError::TermBehindLog {
                log: log.last_term(),
                recorded: start.hard_state.term,
            });
        }
        let settings = start.settings;
        // Whoever never heard of a term supported no lease in it.
        let leases = settings.lease != Lease::Never && start.hard_state.term > Term::ZERO;
        let votes_from = if leases && !crate::planted!(VoteAfterRestartWithinLease) {
            now.after(settings.election_timeout_min)
        } else {
            now
        };
        // A node may well give all its groups one seed, or all nodes may share it.
        let identity = mix(u64::from(start.group.get())) ^ start.replica.get();
        let commit = start.applied.max(base.snapshot);
        let mut group = Self {
            id: start.group,
            me: start.replica,
            incarnation: start.incarnation,
            settings,
            rng: Rng::new(start.seed ^ mix(start.incarnation.get()) ^ mix(identity)),
            now,
            hard_state: start.hard_state,
            durability: Durability::recovered(log.last_index()),
            log,
            configs,
            log_time: start.log_time,
            commit,
            appliable: commit,
            // A snapshot never reaches further.
            quorum_durable: base.snapshot,
            snapshot: base.snapshot,
            promise: start.promise,
            fence: None,
            fence_min: LogIndex::ZERO,
            damage_untold: false,
            disk: DiskSpace::Ample,
            candidacy: Some(Candidacy::Ready),
            removed_in: None,
            role: Role::Follower,
            leader: None,
            leader_contact: None,
            leader_session: Session::default(),
            verified: LogIndex::ZERO,
            ack_owed: false,
            election_deadline: now,
            asks: 0,
            votes_from,
            asleep: false,
            attempt: 0,
            sessions: Session::default(),
            receiving: None,
            forwarded: Sparse::new(),
            // A late answer to a former life must not be taken for one to this.
            forwards: start.incarnation.get().wrapping_shl(32),
            proposals: VecDeque::new(),
            orphans: Sparse::new(),
            peer_incarnations: Box::default(),
            fault: None,
            #[cfg(debug_assertions)]
            seen: Seen::default(),
        };
        group.election_deadline = now.after(group.first_campaign_delay()).max(group.votes_from);
        group.note_removal(group.hard_state.term);
        Ok(group)
    }

    /// Takes one input and adds to `effects` what follows from it. Total: no input panics.
    ///
    /// `now` should not run backwards; if it does, the latest time seen is used. It must not lie
    /// before the moment at which a message came, as patience with a leader counts from it: a
    /// driver takes its messages in first and then reads its clock, since it may have been paused
    /// in between. What a lease vouches for is good only if another look finds that it still lasts.
    #[inline]
    pub fn step(&mut self, now: Micros, input: Input, effects: &mut Effects) {
        // By reference from here on, because every move of an input would copy a whole message;
        // inlined, because callers know which inputs have nothing to drop.
        self.take(now, &input, effects);
    }

    fn take(&mut self, now: Micros, input: &Input, effects: &mut Effects) {
        self.now = self.now.max(now);
        self.durability.set_time(self.now);
        if self.fault.is_some() {
            self.refuse_when_mute(input, effects);
            return;
        }
        let commit = self.commit;
        let result = self.dispatch(input, effects);
        if let Err(fault) = result {
            self.go_mute(fault, effects);
        } else {
            self.leave_recovery(effects);
            self.settle_after_removal(effects);
            if self.commit != commit {
                self.note_removal(self.hard_state.term);
            }
        }
        self.note_quorum_durable();
        self.advance_appliable(effects);
        #[cfg(debug_assertions)]
        self.check_invariants();
    }

    fn dispatch(&mut self, input: &Input, effects: &mut Effects) -> StepResult {
        match *input {
            Input::Message { from, from_incarnation, to_incarnation, ref message } => {
                return self.on_message(from, from_incarnation, to_incarnation, message, effects);
            }
            Input::Deadline => self.on_deadline(effects),
            Input::Propose { token, bytes, time } => {
                self.wake();
                self.on_propose(token, bytes, time, effects);
            }
            Input::Read { token, path } => {
                self.wake();
                self.on_read(token, path, effects);
            }
            Input::Transfer { token, to } => {
                self.wake();
                self.on_transfer(token, to, effects);
            }
            Input::Yield { token, to } => {
                self.wake();
                self.on_yield(token, to, effects);
            }
            Input::Candidacy(candidacy) => self.on_candidacy(candidacy, effects),
            Input::PeerCandidacy(peer, candidacy) => {
                self.on_peer_candidacy(peer, candidacy, effects);
            }
            Input::ChangeMembership { token, ref changes } => {
                self.wake();
                self.on_change_membership(token, changes, effects);
            }
            Input::Written(seq) => return self.on_written(seq, effects),
            Input::Persisted(seq) => return self.on_persisted(seq, effects),
            Input::PersistFailed(seq) => return Err(Box::new(Fault::PersistFailed { seq })),
            Input::LogUnreadable(index) => return Err(Box::new(Fault::LogUnreadable { index })),
            Input::LogDamaged(index) => return self.on_log_damaged(index, effects),
            Input::ApplyFailed(index) => return Err(Box::new(Fault::ApplyFailed { index })),
            Input::PeerUnreachable(peer) => self.on_peer_unreachable(peer, effects),
            Input::Disk(space) => self.on_disk(space, effects),
            Input::Campaign => self.on_campaign(effects),
            Input::Wake => self.wake(),
            Input::SnapshotTaken(index) => return self.on_snapshot_taken(index),
            Input::Compact(upto) => self.on_compact(upto, effects),
            Input::SnapshotReceived { index, term } => {
                self.on_snapshot_received(index, term, effects);
            }
            Input::SnapshotFailed { index } => self.on_snapshot_failed(index, effects),
            Input::AcceptLoss => self.accept_loss(effects),
        }
        Ok(())
    }

    /// When [`Input::Deadline`] is due; `None` means never, until something else happens.
    pub fn next_deadline(&self) -> Option<Micros> {
        if self.fault.is_some() {
            return None;
        }
        let role = match &self.role {
            // Nothing that matters is on its way.
            _ if self.asleep => None,
            Role::Leader(leader) => {
                let stalls = self.gives_up_at(leader);
                [leader.next_deadline(), stalls].into_iter().flatten().min()
            }
            Role::Follower | Role::PreCandidate(_) | Role::Candidate(_) => {
                (self.may_campaign() || self.may_ask()).then_some(self.election_deadline)
            }
        };
        let forwarded = self.forwarded.first().map(|read| read.deadline);
        [role, forwarded].into_iter().flatten().min()
    }

    /// Which group this is.
    pub const fn id(&self) -> GroupId {
        self.id
    }

    /// Which replica of it this is.
    pub const fn replica(&self) -> ReplicaId {
        self.me
    }

    /// This life of the replica's node.
    pub const fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// The term of the last entry.
    pub fn last_term(&self) -> Term {
        self.log.last_term()
    }

    /// Who belongs to the group: the newest membership in the log, committed or not.
    pub fn membership(&self) -> &Arc<Membership> {
        self.configs.active().1
    }

    /// Where that membership stands in the log; zero for the first one.
    pub fn membership_index(&self) -> LogIndex {
        self.configs.active().0
    }

    /// The membership in force at an index that is not compacted away.
    pub fn membership_at(&self, index: LogIndex) -> &Arc<Membership> {
        self.configs.at(index).1
    }

    /// Whether this replica leads.
    pub const fn is_leader(&self) -> bool {
        matches!(self.role, Role::Leader(_))
    }

    /// Who leads, as far as this replica knows.
    pub const fn leader(&self) -> Option<ReplicaId> {
        self.leader
    }

    /// The current term.
    pub const fn term(&self) -> Term {
        self.hard_state.term
    }

    /// Where the log ends.
    pub fn last_index(&self) -> LogIndex {
        self.log.last_index()
    }

    /// The position before the first entry that is still in the log.
    pub fn base_index(&self) -> LogIndex {
        self.log.base()
    }

    /// Up to here the log is known to be in the page cache: a driver may read it back.
    pub fn written_index(&self) -> LogIndex {
        self.durability.written()
    }

    /// Since when the oldest operation that is not on disk waits for it; `None`: all is on disk.
    pub fn waits_for_disk_since(&self) -> Option<Micros> {
        self.durability.waits_since()
    }

    /// The term of an entry or of the log's base; `None` below and beyond.
    pub fn entry_term(&self, index: LogIndex) -> Option<Term> {
        self.log.term(index)
    }

    /// The commit index.
    pub const fn commit_index(&self) -> LogIndex {
        self.commit
    }

    /// The newest stamp of any entry this replica has held.
    pub const fn log_time(&self) -> LogTime {
        self.log_time
    }

    fn on_message(
        &mut self,
        from: ReplicaId,
        from_incarnation: Incarnation,
        to_incarnation: Incarnation,
        message: &Message,
        effects: &mut Effects,
    ) -> StepResult {
        // Late words of an earlier life, theirs or ours, answer promises that are no longer held.
        let late_fence =
            crate::planted!(FenceOfOlderLifeCounts) && matches!(message, Message::Fence(_));
        let to_us = to_incarnation == self.incarnation
            || late_fence
            || crate::planted!(OldIncarnationAccepted);
        if !to_us || from == self.me {
            return Ok(());
        }
        if !self.meet(from, from_incarnation) {
            return Ok(());
        }
        if let Some(disbelief) = self.disbelieves(from, message) {
            effects.disbelieved = Some(disbelief);
            return Ok(());
        }
        if self.asleep {
            self.wake_for(message);
        }
        match *message {
            Message::PreVote(request) => self.on_pre_vote(from, request, effects),
            Message::PreVoteReply(reply) => self.on_pre_vote_reply(from, reply, effects),
            Message::Vote(request) => self.on_vote(from, request, effects),
            Message::VoteReply(reply) => self.on_vote_reply(from, reply, effects),
            Message::Append(ref append) => return self.on_append(from, append, effects),
            Message::AppendReply(reply) => return self.on_append_reply(from, reply, effects),
            Message::Heartbeat(heartbeat) | Message::ReadConfirm(heartbeat) => {
                return self.on_heartbeat(from, heartbeat, effects);
            }
            Message::HeartbeatReply(reply) => self.on_heartbeat_reply(from, reply, effects),
            Message::TimeoutNow(request) => self.on_timeout_now(from, request, effects),
            Message::TransferRefused(refused) => self.on_transfer_refused(from, refused, effects),
            Message::ReadIndex(request) => self.on_read_index(from, request, effects),
            Message::ReadIndexReply(reply) => self.on_read_index_reply(reply, effects),
            Message::Snapshot(ref offer) => return self.on_snapshot_offer(from, offer, effects),
            Message::Recover(request) => self.on_recover(from, request, effects),
            Message::Fence(fence) => self.on_fence(from, fence, effects),
        }
        Ok(())
    }

    /// Why a word is not taken, if its numbers are none that a correct peer could count to. Nobody
    /// but its sender is wrong, so the group goes on as if it had been lost. Where it is about
    /// what this replica did or the log holds, it may be us, and that is a [`Fault`].
    fn disbelieves(&self, from: ReplicaId, message: &Message) -> Option<Disbelief> {
        let (term, ours) = (message.term(), self.hard_state.term);
        // Who has heard of no term yet has promised nothing in any, and may be joining a group that
        // has come far.
        let reach = if crate::planted!(HonestTermDisbelieved) {
            ours.next().next().next()
        } else {
            ours.reach()
        };
        let believed = if ours == Term::ZERO { Term::LIMIT } else { reach };
        if term > believed {
            return Some(Disbelief::FarTerm { from, term, ours });
        }
        let index = message.index_max();
        (index > LogIndex::LIMIT).then_some(Disbelief::FarIndex { from, index })
    }

    /// Notes the life a peer speaks from. `false`: an earlier one than already met.
    fn meet(&mut self, peer: ReplicaId, incarnation: Incarnation) -> bool {
        match self.peer_incarnations.iter_mut().find(|(known, _)| *known == peer) {
            Some((_, known)) if *known == incarnation => true,
            Some((_, known)) if *known > incarnation => crate::planted!(OldIncarnationAccepted),
            Some((_, known)) => {
                *known = incarnation;
                self.on_peer_restarted(peer);
                true
            }
            None if self.configs.active().1.member(peer).is_some() => {
                let known = core::mem::take(&mut self.peer_incarnations);
                self.peer_incarnations = known.into_iter().chain([(peer, incarnation)]).collect();
                true
            }
            // A stranger is answered, but costs no memory.
            None => true,
        }
    }

    fn on_deadline(&mut self, effects: &mut Effects) {
        self.expire_forwarded(effects);
        match &self.role {
            Role::Leader(_) => self.on_leader_deadline(effects),
            Role::Follower | Role::PreCandidate(_) | Role::Candidate(_) => {
                if self.asleep || self.now < self.election_deadline {
                    return;
                }
                if self.may_campaign() && self.awaits_own_vote() {
                    // It has asked nobody yet.
                    self.reset_election_deadline();
                } else if self.may_campaign() && self.disk == DiskSpace::Ample {
                    self.pre_campaign(effects);
                } else if self.may_ask() {
                    // Without room it could not even write its no-op.
                    self.ask_for_leader(effects);
                } else if self.may_campaign() {
                    self.reset_election_deadline();
                }
            }
        }
    }

    fn on_campaign(&mut self, effects: &mut Effects) {
        let free =
            !self.is_leader() && !self.hears_a_leader(self.me) && self.now >= self.votes_from;
        let able = self.may_vote() && self.takes_office() && self.disk == DiskSpace::Ample;
        if free && able && !self.awaits_own_vote() {
            self.wake();
            self.pre_campaign(effects);
        }
    }

    fn on_candidacy(&mut self, candidacy: Candidacy, effects: &mut Effects) {
        let Some(before) = self.candidacy else {
            return;
        };
        self.candidacy = Some(candidacy);
        match &self.role {
            // Its requests may be under way; the answers find nobody.
            Role::PreCandidate(_) | Role::Candidate(_) if !self.takes_office() => {
                let term = self.hard_state.term;
                self.become_follower(term, None, effects);
            }
            Role::Follower if before == Candidacy::Withheld => self.reset_election_deadline(),
            Role::Follower | Role::PreCandidate(_) | Role::Candidate(_) | Role::Leader(_) => {}
        }
    }

    fn on_disk(&mut self, space: DiskSpace, effects: &mut Effects) {
        self.disk = space;
        if space == DiskSpace::Full && self.is_leader() {
            self.hand_over(effects);
        }
    }

    fn on_written(&mut self, seq: PersistSeq, effects: &mut Effects) -> StepResult {
        if !is_taken(seq, effects) || !self.durability.on_written(seq) {
            return Err(Box::new(Fault::UnknownPersist { seq, last: self.durability.issued() }));
        }
        if self.settings.acknowledge == Acknowledge::Written {
            if self.is_leader() {
                self.advance_commit(self.durability.written(), effects);
            }
            self.send_owed_ack(effects);
        }
        Ok(())
    }

    fn on_persisted(&mut self, seq: PersistSeq, effects: &mut Effects) -> StepResult {
        if !is_taken(seq, effects) || !self.durability.on_persisted(seq) {
            return Err(Box::new(Fault::UnknownPersist { seq, last: self.durability.issued() }));
        }
        match &self.role {
            Role::Candidate(_) => self.count_own_vote(effects),
            Role::Leader(_) => self.advance_commit(self.durability.written(), effects),
            Role::Follower | Role::PreCandidate(_) => {}
        }
        self.send_owed_ack(effects);
        Ok(())
    }

    /// Follows `term`, and its leader if known. The only place where a term rises except a
    /// campaign; the vote is cleared only together with the term (paper, figure 2).
    pub(crate) fn become_follower(
        &mut self,
        term: Term,
        leader: Option<ReplicaId>,
        effects: &mut Effects,
    ) {
        let old = core::mem::replace(&mut self.role, Role::Follower);
        let was_follower = matches!(old, Role::Follower);
        self.asleep = false;
        if term > self.hard_state.term {
            self.enter_term(HardState { term, vote: None }, effects);
        } else if crate::planted!(VoteClearedInSameTerm) && !was_follower {
            self.hard_state.vote = None;
        }
        if let Role::Leader(leader_state) = old {
            self.verified = LogIndex::ZERO;
            let newer_term = term > leader_state.term;
            leader_state.fail_waiting(newer_term, effects);
        }
        if !was_follower || self.leader != leader {
            effects.role_changed = true;
            self.fail_forwarded(effects);
        }
        self.leader = leader;
        if !was_follower {
            self.reset_election_deadline();
        }
    }

    /// Raises the term and forgets all that was known of the leader of the last one, except that
    /// it was heard.
    pub(crate) fn enter_term(&mut self, hard_state: HardState, effects: &mut Effects) {
        if crate::planted!(PatienceEndsWithTerm) {
            self.leader_contact = None;
        }
        self.verified = LogIndex::ZERO;
        self.leader_session = Session::default();
        self.ack_owed = false;
        self.fence = None;
        self.fence_min = LogIndex::ZERO;
        self.damage_untold = false;
        self.asleep = false;
        self.abort_receiving(effects);
        self.set_hard_state(hard_state, effects);
    }

    pub(crate) fn set_hard_state(&mut self, hard_state: HardState, effects: &mut Effects) {
        debug_assert!(
            hard_state.term > self.hard_state.term
                || (hard_state.term == self.hard_state.term && self.hard_state.vote.is_none())
                || crate::planted!(VoteTwice),
            "a vote changes only with its term"
        );
        self.hard_state = hard_state;
        let seq = self.durability.hard_state(open_seq(effects));
        open(effects, seq).hard_state = Some(hard_state);
    }

    /// Remembers what is known about lost promises.
    pub(crate) fn set_promise(&mut self, promise: PromiseRecord, effects: &mut Effects) {
        self.promise = promise;
        let seq = self.durability.record(open_seq(effects));
        open(effects, seq).promise = Some(promise);
    }

    /// Appends `count` entries of `term` to the log and to the open persist operation.
    pub(crate) fn append_entries(&mut self, term: Term, count: u64, effects: &mut Effects) {
        let first = self.log.last_index().next();
        self.log.append(term, count);
        let last = self.log.last_index();
        let seq = self.durability.append(open_seq(effects), last);
        let persist = open(effects, seq);
        persist.append = Some(match persist.append {
            Some((earlier, _)) => (earlier, last),
            None => (first, last),
        });
    }

    /// Removes a conflicting tail (paper, section 5.3). Never called by a leader, never at or
    /// below the commit index.
    pub(crate) fn truncate(&mut self, from: LogIndex, effects: &mut Effects) {
        debug_assert!(
            (from > self.commit || crate::planted!(TruncatesMatchingEntries)) && !self.is_leader()
        );
        self.log.truncate(from);
        if !crate::planted!(ConfigNotRolledBack) && self.configs.truncate(from) {
            effects.membership_changed = true;
        }
        let seq = self.durability.truncate(open_seq(effects), from);
        let persist = open(effects, seq);
        if !crate::planted!(TruncationNotLogged) {
            persist.truncate_from =
                Some(persist.truncate_from.map_or(from, |earlier| earlier.min(from)));
        }
        persist.append = persist
            .append
            .and_then(|(first, last)| (first < from).then(|| (first, last.min(from.prev()))));
        effects.log_changes.push(LogChange::Truncated { from });
        let kept = self.proposals.partition_point(|p| p.index < from);
        if kept < self.proposals.len() {
            self.orphans.vec().extend(self.proposals.drain(kept..));
        }
    }

    /// What is known to be committed and applied is no more than what is still there.
    pub(crate) fn fall_back(&mut self, last: LogIndex) {
        self.commit = self.commit.min(last);
        self.appliable = self.appliable.min(last);
        self.verified = self.verified.min(last);
        #[cfg(debug_assertions)]
        {
            self.seen = Seen { commit: self.commit, appliable: self.appliable, ..self.seen };
        }
    }

    /// The whole log gives way to a durable snapshot.
    pub(crate) fn install(&mut self, meta: crate::SnapshotMeta, effects: &mut Effects) {
        let (index, term) = (meta.index, meta.term);
        let kept = self.commit;
        if crate::planted!(SnapshotKeepsConflictingSuffix) && self.log.last_index() > index {
            let (last, last_term) = (self.log.last_index(), self.log.last_term());
            self.log.reset(index, term);
            self.log.append(last_term.max(term), last.since(index));
        } else {
            self.log.reset(index, term);
        }
        if !crate::planted!(SnapshotKeepsOldMembership) {
            self.configs = Configs::new(meta.config_index, Arc::clone(&meta.membership));
        }
        effects.membership_changed = true;
        self.log_time = self.log_time.max(meta.time);
        self.commit = self.commit.max(index);
        self.snapshot = index;
        // No leader has one of what may still be lost.
        self.learn_quorum_durable(index);
        let seq = self.durability.reset(open_seq(effects), index, kept);
        let persist = open(effects, seq);
        persist.truncate_from = None;
        persist.append = None;
        persist.compact = None;
        persist.install = Some(Box::new(meta.clone()));
        effects.log_changes.push(LogChange::Reset { meta });
        // What lay in the covered part cannot be looked up any more, unless its term says enough.
        for proposal in self.proposals.drain(..).chain(self.orphans.take()) {
            if proposal.term > term && proposal.index <= index {
                effects.outcomes.push((proposal.token, Outcome::Superseded));
            } else if proposal.index <= index {
                effects.outcomes.push((proposal.token, Outcome::Unknown));
            } else if term > proposal.term {
                effects.outcomes.push((proposal.token, Outcome::Superseded));
            } else {
                self.orphans.push(proposal);
            }
        }
    }

    /// Forgets the log up to `base`, which the durable snapshot covers.
    pub(crate) fn compact(&mut self, base: LogIndex, effects: &mut Effects) {
        self.log.compact(base);
        self.configs.compact(base);
        let (config_index, membership) = self.configs.at(base);
        let record = crate::Base {
            index: base,
            term: self.log.term(base).unwrap_or_default(),
            config_index,
            membership: Some(Arc::clone(membership)),
            snapshot: self.snapshot,
        };
        let seq = self.durability.record(open_seq(effects));
        open(effects, seq).compact = Some(Box::new(record));
        effects.log_changes.push(LogChange::Compacted { upto: base });
    }

    /// Raises the commit index and settles the proposals it covers. Returns the newest of them.
    #[inline]
    pub(crate) fn commit_to(&mut self, index: LogIndex, effects: &mut Effects) -> Option<Proposal> {
        if index > self.commit { self.raise_commit(index, effects) } else { None }
    }

    fn raise_commit(&mut self, index: LogIndex, effects: &mut Effects) -> Option<Proposal> {
        self.commit = index;
        let mut newest = None;
        while let Some(proposal) = self.proposals.front().filter(|p| p.index <= index) {
            effects.outcomes.push((proposal.token, proposal.committed()));
            newest = self.proposals.pop_front();
        }
        if self.orphans.is_empty() {
            return newest;
        }
        let log = &self.log;
        self.orphans.vec().retain(|orphan| {
            let outcome = if orphan.index <= index && log.term(orphan.index) == Some(orphan.term) {
                orphan.committed()
            } else if orphan.index <= index || log.term(index) > Some(orphan.term) {
                // Terms never fall along a log: past a committed entry of a newer term there is
                // no place left for this one.
                Outcome::Superseded
            } else {
                return true;
            };
            effects.outcomes.push((orphan.token, outcome));
            false
        });
        newest
    }

    /// Entries may be applied once committed and durable here, so that a state machine never
    /// gets ahead of its own log.
    fn advance_appliable(&mut self, effects: &mut Effects) {
        let held = match self.settings.acknowledge {
            Acknowledge::Durable => self.durability.durable(),
            Acknowledge::Written => self.durability.written(),
        };
        let appliable =
            if crate::planted!(AppliesBeforeDurable) { self.commit } else { self.commit.min(held) };
        if appliable > self.appliable {
            self.appliable = appliable;
            effects.appliable = Some(appliable);
        }
    }

    /// Sends what rests on term and vote: at once if they are durable, else gated.
    pub(crate) fn send_promise(&self, to: ReplicaId, message: Message, effects: &mut Effects) {
        effects.messages.send(to, message, self.durability.hard_state_gate());
    }

    /// Whether this replica's membership lets it stand. A voter whose removal is in its log and
    /// not committed stands as well, without counting itself: if its log is the longest, nobody
    /// else can be elected to commit that entry (thesis 4.2.2).
    fn stands(&self) -> bool {
        let (index, membership) = self.configs.active();
        membership.is_voter(self.me)
            || (index > self.commit && self.configs.at(index.prev()).1.is_voter(self.me))
    }

    /// Whether this replica may be elected at all. One that may have forgotten what it promised
    /// may not, unless nobody else could know.
    pub(crate) fn may_vote(&self) -> bool {
        self.stands()
            && self.hard_state.term < Term::LIMIT
            && !self.is_expelled()
            && match self.promise.promise {
                Promise::Kept => true,
                Promise::Lost => {
                    crate::planted!(LostReplicaVotes) || self.membership().is_sole_voter(self.me)
                }
                Promise::Damaged | Promise::Unproven => crate::planted!(LostReplicaVotes),
            }
    }

    /// Whether it stands by itself when it hears no leader.
    fn may_campaign(&self) -> bool {
        self.may_vote() && self.settings.priority > 0 && self.takes_office()
    }

    /// Whether there is anybody to ask for a leader.
    pub(crate) fn may_ask(&self) -> bool {
        self.hard_state.term < Term::LIMIT
            && self.others().next().is_some()
            && !self.is_removed()
            && !crate::planted!(BarredNeverAsks)
    }

    /// Whether it may come to lead at all, by itself or because it is asked to.
    pub(crate) fn takes_office(&self) -> bool {
        self.candidacy != Some(Candidacy::Withheld) || crate::planted!(StoppingNodeCampaigns)
    }

    /// Whether it was told, by others than its leader, that it was removed.
    pub(crate) const fn is_expelled(&self) -> bool {
        self.candidacy.is_none()
    }

    /// The other voters.
    pub(crate) fn peers(&self) -> impl Iterator<Item = ReplicaId> + '_ {
        let me = self.me;
        self.membership().voters().filter(move |voter| *voter != me)
    }

    /// The other members, learners too.
    pub(crate) fn others(&self) -> impl Iterator<Item = ReplicaId> + '_ {
        let me = self.me;
        self.membership().members().iter().map(|member| member.replica).filter(move |id| *id != me)
    }

    /// Requests that have not ended.
    pub(crate) fn open_requests(&self) -> usize {
        let leading = match &self.role {
            Role::Leader(leader) => leader.open_requests(),
            Role::Follower | Role::PreCandidate(_) | Role::Candidate(_) => 0,
        };
        self.proposals.len() + self.orphans.len() + self.forwarded.len() + leading
    }

    /// Stands for election without asking first: only for a transfer.
    pub(crate) fn campaign_now(&mut self, effects: &mut Effects) {
        self.campaign(Campaign::Transfer, effects);
    }

    /// What is wrong with this replica, if it is mute.
    pub fn fault(&self) -> Option<&Fault> {
        self.fault.as_deref()
    }

    fn go_mute(&mut self, fault: Box<Fault>, effects: &mut Effects) {
        let old = core::mem::replace(&mut self.role, Role::Follower);
        if let Role::Leader(leader) = old {
            leader.fail_waiting(false, effects);
        }
        self.fail_forwarded(effects);
        self.abort_receiving(effects);
        self.give_up_proposals(effects);
        // A mute replica says nothing any more, least of all what it had not promised yet.
        effects.messages.clear();
        self.leader = None;
        effects.role_changed = true;
        effects.fault = Some(Fault::clone(&fault));
        self.fault = Some(fault);
    }

    /// Nobody will say here what becomes of these.
    pub(crate) fn give_up_proposals(&mut self, effects: &mut Effects) {
        for proposal in self.proposals.drain(..).chain(self.orphans.take()) {
            effects.outcomes.push((proposal.token, Outcome::Unknown));
        }
    }

    fn refuse_when_mute(&mut self, input: &Input, effects: &mut Effects) {
        match input {
            Input::Propose { token, .. }
            | Input::Read { token, .. }
            | Input::ChangeMembership { token, .. }
            | Input::Transfer { token, .. }
            | Input::Yield { token, .. } => {
                effects.outcomes.push((*token, Outcome::Refused(Refusal::Faulted)));
            }
            Input::Message { .. }
            | Input::Deadline
            | Input::Written(_)
            | Input::Persisted(_)
            | Input::PersistFailed(_)
            | Input::PeerUnreachable(_)
            | Input::LogUnreadable(_)
            | Input::LogDamaged(_)
            | Input::ApplyFailed(_)
            | Input::Disk(_)
            | Input::Campaign
            | Input::Candidacy(_)
            | Input::PeerCandidacy(..)
            | Input::Wake
            | Input::SnapshotTaken(_)
            | Input::Compact(_)
            | Input::SnapshotReceived { .. }
            | Input::SnapshotFailed { .. }
            | Input::AcceptLoss => {}
        }
    }

    /// The cheap ones of the invariants in the type's docs.
    #[cfg(debug_assertions)]
    fn check_invariants(&mut self) {
        let last = self.log.last_index();
        let seen = self.seen;
        let planted = cfg!(planted);
        if planted {
            // A build with planted bugs lets the simulator find them.
            return;
        }
        debug_assert!(self.log.base() <= self.snapshot, "{:?}", self.status());
        debug_assert!(self.snapshot <= self.commit, "{:?}", self.status());
        debug_assert!(self.appliable <= self.commit && self.commit <= last, "{:?}", self.status());
        debug_assert!(self.durability.durable() <= self.durability.written());
        debug_assert!(self.durability.written() <= last, "{:?}", self.status());
        debug_assert!(self.log.last_term() <= self.hard_state.term);
        debug_assert!(self.verified <= last);
        debug_assert!(self.membership_index() <= last);
        debug_assert!(
            self.proposals
                .iter()
                .zip(self.proposals.iter().skip(1))
                .all(|(a, b)| a.index < b.index)
        );
        debug_assert!(self.proposals.front().is_none_or(|p| p.index > self.commit));
        debug_assert!(
            self.proposals.iter().all(|p| self.log.term(p.index) == Some(p.term)),
            "{:?} {:?}",
            self.proposals,
            self.log
        );
        debug_assert!(self.orphans.iter().all(|p| p.index > self.commit));
        let hard = self.hard_state;
        debug_assert!(hard.term >= seen.term, "the term fell");
        debug_assert!(
            hard.term > seen.term || seen.vote.is_none() || hard.vote == seen.vote,
            "the vote changed within its term"
        );
        debug_assert!(self.commit >= seen.commit && self.appliable >= seen.appliable);
        debug_assert!(self.snapshot >= seen.snapshot);
        if self.is_leader() {
            debug_assert_eq!(self.leader, Some(self.me));
            debug_assert_eq!(self.hard_state.vote, Some(self.me));
            debug_assert!(!seen.led || last >= seen.last, "a leader truncated");
        }
        debug_assert_eq!(self.audit(), Ok(()));
        debug_assert!(
            self.fault.is_some()
                || self.asleep
                || !(self.may_campaign() || self.may_ask())
                || self.is_leader()
                || self.next_deadline().is_some()
        );
        self.seen = Seen {
            term: hard.term,
            vote: hard.vote,
            commit: self.commit,
            appliable: self.appliable,
            snapshot: self.snapshot,
            last,
            led: self.is_leader(),
        };
    }
}

/// The operation the driver has not taken yet.
fn open_seq(effects: &Effects) -> Option<PersistSeq> {
    effects.persist.as_ref().map(|persist| persist.seq)
}

/// Whether the driver can know anything of this operation: not while it still lies here.
fn is_taken(seq: PersistSeq, effects: &Effects) -> bool {
    open_seq(effects).is_none_or(|open| seq < open)
}

/// The operation with this number, opened if it is new.
fn open(effects: &mut Effects, seq: PersistSeq) -> &mut Persist {
    let persist = effects.persist.get_or_insert_with(|| Persist { seq, ..Persist::default() });
    debug_assert_eq!(persist.seq, seq, "an effects buffer belongs to one group");
    persist
}
