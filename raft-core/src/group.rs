//! One replica of one group: its state, and the step that dispatches each input to its role.
//!
//! Roles live in files of their own: `election`, `follower`, `leader`, `reads`. What they share
//! is here: terms, persistence, commit, and the rule that nothing which promises something
//! leaves before it is durable.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::durability::Durability;
use crate::election::Tally;
use crate::entry::HardState;
use crate::id::{GroupId, Incarnation, LogIndex, Micros, PersistSeq, ReplicaId, Term, Token};
use crate::io::{Effects, Fault, Input, LogChange, Outcome, Persist, Refusal};
use crate::leader::Leader;
use crate::message::{Campaign, Message, Session};
use crate::rng::{Rng, mix};
use crate::settings::{Settings, Start, StartError};
use crate::status::{RoleKind, Status};
use crate::term_log::TermLog;

/// One replica of one Raft group, as a pure function of its inputs.
///
/// Feed it with [`step`](Self::step), carry out the [`Effects`], call it again at
/// [`next_deadline`](Self::next_deadline), and fetch appends with
/// [`make_append`](Self::make_append) when a lane to a peer has room. No input can make it panic;
/// one that no correct peer could cause makes it mute, with a [`Fault`] as evidence.
///
/// Invariants, checked after every step in debug builds: `appliable <= commit <= last index`;
/// `durable <= last index`; term, commit and appliable never fall; a leader never truncates.
#[derive(Debug)]
pub struct Group {
    pub(crate) id: GroupId,
    pub(crate) me: ReplicaId,
    pub(crate) incarnation: Incarnation,
    /// Everyone who votes, in ascending order.
    pub(crate) voters: Box<[ReplicaId]>,
    pub(crate) settings: Arc<Settings>,
    pub(crate) rng: Rng,
    pub(crate) now: Micros,

    pub(crate) hard_state: HardState,
    pub(crate) log: TermLog,
    pub(crate) durability: Durability,
    pub(crate) commit: LogIndex,
    pub(crate) appliable: LogIndex,

    pub(crate) role: Role,
    /// Who leads this term, as far as known.
    pub(crate) leader: Option<ReplicaId>,
    /// When that leader was last heard.
    pub(crate) leader_contact: Option<Micros>,
    /// The leader's session with us, echoed in replies.
    pub(crate) leader_session: Session,
    /// Up to here our log is known to equal this term's leader's.
    pub(crate) verified: LogIndex,
    /// An append is accepted and its answer waits for the disk.
    pub(crate) ack_owed: bool,
    pub(crate) election_deadline: Micros,
    pub(crate) attempt: u64,
    pub(crate) sessions: Session,

    /// Proposals of this replica whose fate is open, by index. They outlive leadership.
    pub(crate) proposals: VecDeque<Proposal>,
    /// Those among them that were cut from our log. That decides nothing: while no other entry
    /// is committed in its place, another replica may hold one and bring it back (paper, figure
    /// 8). In no order.
    orphans: Vec<Proposal>,
    /// The newest known life of each peer.
    pub(crate) peer_incarnations: Vec<(ReplicaId, Incarnation)>,
    fault: Option<Fault>,
}

#[derive(Debug)]
pub(crate) enum Role {
    Follower,
    PreCandidate(Tally),
    Candidate(Tally),
    Leader(Box<Leader>),
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Proposal {
    pub(crate) index: LogIndex,
    pub(crate) term: Term,
    pub(crate) token: Token,
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
    /// spread over the nodes without anyone deciding it.
    ///
    /// # Errors
    /// [`StartError`] when the parts contradict each other.
    pub fn new(now: Micros, start: Start) -> Result<Self, StartError> {
        start.settings.validate()?;
        let mut voters = start.voters;
        voters.sort_unstable();
        if voters.is_empty() || voters.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(StartError::Voters);
        }
        let log = TermLog::recover(start.term_runs, start.last_index)
            .ok_or(StartError::TermRuns { last: start.last_index })?;
        if start.applied > log.last_index() {
            return Err(StartError::AppliedBeyondLog {
                applied: start.applied,
                last: log.last_index(),
            });
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
        // A node may well give all its groups one seed, or all nodes may share it.
        let identity = mix(u64::from(start.group.get())) ^ start.replica.get();
        let mut group = Self {
            id: start.group,
            me: start.replica,
            incarnation: start.incarnation,
            voters: voters.into_boxed_slice(),
            settings: start.settings,
            rng: Rng::new(start.seed ^ mix(start.incarnation.get()) ^ mix(identity)),
            now,
            hard_state: start.hard_state,
            durability: Durability::recovered(log.last_index()),
            log,
            commit: start.applied,
            appliable: start.applied,
            role: Role::Follower,
            leader: None,
            leader_contact: None,
            leader_session: Session::default(),
            verified: LogIndex::ZERO,
            ack_owed: false,
            election_deadline: now,
            attempt: 0,
            sessions: Session::default(),
            proposals: VecDeque::new(),
            orphans: Vec::new(),
            peer_incarnations: Vec::new(),
            fault: None,
        };
        group.election_deadline = now.after(group.first_campaign_delay());
        Ok(group)
    }

    /// Takes one input and adds to `effects` what follows from it. Total: no input panics.
    ///
    /// `now` should not run backwards; if it does, the latest time seen is used.
    pub fn step(&mut self, now: Micros, input: Input, effects: &mut Effects) {
        self.now = self.now.max(now);
        if self.fault.is_some() {
            self.refuse_when_mute(&input, effects);
            return;
        }
        let result = match input {
            Input::Message { from, from_incarnation, to_incarnation, message } => {
                self.on_message(from, from_incarnation, to_incarnation, message, effects)
            }
            Input::Deadline => {
                self.on_deadline(effects);
                Ok(())
            }
            Input::Propose { token, bytes } => {
                self.on_propose(token, bytes, effects);
                Ok(())
            }
            Input::Read { token } => {
                self.on_read(token, effects);
                Ok(())
            }
            Input::Transfer { token, to } => {
                self.on_transfer(token, to, effects);
                Ok(())
            }
            Input::Written(seq) => self.on_written(seq, effects),
            Input::Persisted(seq) => self.on_persisted(seq, effects),
            Input::LogUnreadable(index) => Err(Fault::LogUnreadable { index }),
            Input::PeerUnreachable(peer) => {
                self.on_peer_unreachable(peer);
                Ok(())
            }
            Input::Campaign => {
                if self.is_voter() && !self.is_leader() && !self.awaits_own_vote() {
                    self.pre_campaign(effects);
                }
                Ok(())
            }
        };
        if let Err(fault) = result {
            self.go_mute(fault, effects);
        }
        self.advance_appliable(effects);
        #[cfg(debug_assertions)]
        self.check_invariants();
    }

    /// When [`Input::Deadline`] is due; `None` means never, until something else happens.
    pub fn next_deadline(&self) -> Option<Micros> {
        if self.fault.is_some() {
            return None;
        }
        match &self.role {
            Role::Leader(leader) => leader.next_deadline(),
            Role::Follower | Role::PreCandidate(_) | Role::Candidate(_) => {
                self.is_voter().then_some(self.election_deadline)
            }
        }
    }

    /// A view for status pages, tests and simulators.
    pub fn status(&self) -> Status {
        Status {
            group: self.id,
            replica: self.me,
            role: match &self.role {
                Role::Follower => RoleKind::Follower,
                Role::PreCandidate(_) => RoleKind::PreCandidate,
                Role::Candidate(_) => RoleKind::Candidate,
                Role::Leader(_) => RoleKind::Leader,
            },
            term: self.hard_state.term,
            vote: self.hard_state.vote,
            leader: self.leader,
            last_index: self.log.last_index(),
            last_term: self.log.last_term(),
            written_index: self.durability.written(),
            durable_index: self.durability.durable(),
            commit_index: self.commit,
            appliable_index: self.appliable,
            verified_index: self.verified,
            fault: self.fault.clone(),
        }
    }

    /// Which group this is.
    pub const fn id(&self) -> GroupId {
        self.id
    }

    /// Which replica of it this is.
    pub const fn replica(&self) -> ReplicaId {
        self.me
    }

    /// This life of the node.
    pub const fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// Everyone who votes, in ascending order.
    pub fn voters(&self) -> &[ReplicaId] {
        &self.voters
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

    /// Up to here the log is known to be in the page cache: a driver may read it back.
    pub fn written_index(&self) -> LogIndex {
        self.durability.written()
    }

    /// The term of an entry; `None` beyond the end of the log.
    pub fn entry_term(&self, index: LogIndex) -> Option<Term> {
        self.log.term(index)
    }

    /// The commit index.
    pub const fn commit_index(&self) -> LogIndex {
        self.commit
    }

    fn on_message(
        &mut self,
        from: ReplicaId,
        from_incarnation: Incarnation,
        to_incarnation: Incarnation,
        message: Message,
        effects: &mut Effects,
    ) -> Result<(), Fault> {
        // Late words of an earlier life, theirs or ours, answer promises that are no longer held.
        if to_incarnation != self.incarnation || from == self.me {
            return Ok(());
        }
        if !self.meet(from, from_incarnation) {
            return Ok(());
        }
        if message.term() > Term::LIMIT {
            return Err(Fault::TermOverflow { from, term: message.term() });
        }
        match message {
            Message::PreVote(request) => self.on_pre_vote(from, request, effects),
            Message::PreVoteReply(reply) => self.on_pre_vote_reply(from, reply, effects),
            Message::Vote(request) => self.on_vote(from, request, effects),
            Message::VoteReply(reply) => self.on_vote_reply(from, reply, effects),
            Message::Append(append) => return self.on_append(from, append, effects),
            Message::AppendReply(reply) => return self.on_append_reply(from, reply, effects),
            Message::Heartbeat(heartbeat) | Message::ReadConfirm(heartbeat) => {
                return self.on_heartbeat(from, heartbeat, effects);
            }
            Message::HeartbeatReply(reply) => self.on_heartbeat_reply(from, reply, effects),
            Message::TimeoutNow(request) => self.on_timeout_now(from, request, effects),
        }
        Ok(())
    }

    /// Notes the life a peer speaks from. `false`: an earlier one than already met.
    fn meet(&mut self, peer: ReplicaId, incarnation: Incarnation) -> bool {
        match self.peer_incarnations.iter_mut().find(|(known, _)| *known == peer) {
            Some((_, known)) if *known == incarnation => true,
            Some((_, known)) if *known > incarnation => false,
            Some((_, known)) => {
                *known = incarnation;
                self.on_peer_restarted(peer);
                true
            }
            None if self.voters.contains(&peer) => {
                self.peer_incarnations.push((peer, incarnation));
                true
            }
            // A stranger is answered, but costs no memory.
            None => true,
        }
    }

    fn on_deadline(&mut self, effects: &mut Effects) {
        match &self.role {
            Role::Leader(_) => self.on_leader_deadline(effects),
            Role::Follower | Role::PreCandidate(_) | Role::Candidate(_) => {
                if !self.is_voter() || self.now < self.election_deadline {
                    return;
                }
                if self.awaits_own_vote() {
                    self.reset_election_deadline();
                } else {
                    self.pre_campaign(effects);
                }
            }
        }
    }

    fn on_written(&mut self, seq: PersistSeq, effects: &Effects) -> Result<(), Fault> {
        if is_taken(seq, effects) && self.durability.on_written(seq) {
            Ok(())
        } else {
            Err(Fault::UnknownPersist { seq, last: self.durability.issued() })
        }
    }

    fn on_persisted(&mut self, seq: PersistSeq, effects: &mut Effects) -> Result<(), Fault> {
        if !is_taken(seq, effects) || !self.durability.on_persisted(seq) {
            return Err(Fault::UnknownPersist { seq, last: self.durability.issued() });
        }
        match &self.role {
            Role::Candidate(_) => self.count_own_vote(effects),
            Role::Leader(_) => self.advance_commit(effects),
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
        if term > self.hard_state.term {
            self.enter_term(HardState { term, vote: None }, effects);
        }
        if let Role::Leader(leader_state) = old {
            self.verified = LogIndex::ZERO;
            let newer_term = term > leader_state.term;
            leader_state.fail_waiting(newer_term, effects);
        }
        if !was_follower || self.leader != leader {
            effects.role_changed = true;
        }
        self.leader = leader;
        if !was_follower {
            self.reset_election_deadline();
        }
    }

    /// Raises the term and forgets all that was known of the leader of the last one.
    pub(crate) fn enter_term(&mut self, hard_state: HardState, effects: &mut Effects) {
        self.verified = LogIndex::ZERO;
        self.leader_contact = None;
        self.leader_session = Session::default();
        self.ack_owed = false;
        self.set_hard_state(hard_state, effects);
    }

    pub(crate) fn set_hard_state(&mut self, hard_state: HardState, effects: &mut Effects) {
        debug_assert!(
            hard_state.term > self.hard_state.term
                || (hard_state.term == self.hard_state.term && self.hard_state.vote.is_none()),
            "a vote changes only with its term"
        );
        self.hard_state = hard_state;
        let seq = self.durability.hard_state(open_seq(effects));
        open(effects, seq).hard_state = Some(hard_state);
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
        debug_assert!(from > self.commit && !self.is_leader());
        self.log.truncate(from);
        let seq = self.durability.truncate(open_seq(effects), from);
        let persist = open(effects, seq);
        persist.truncate_from =
            Some(persist.truncate_from.map_or(from, |earlier| earlier.min(from)));
        persist.append = persist
            .append
            .and_then(|(first, last)| (first < from).then(|| (first, last.min(from.prev()))));
        effects.log_changes.push(LogChange::Truncated { from });
        let kept = self.proposals.partition_point(|p| p.index < from);
        self.orphans.extend(self.proposals.drain(kept..));
    }

    /// Raises the commit index and settles the proposals it covers.
    pub(crate) fn commit_to(&mut self, index: LogIndex, effects: &mut Effects) {
        if index <= self.commit {
            return;
        }
        self.commit = index;
        while let Some(proposal) = self.proposals.front().filter(|p| p.index <= index) {
            effects.outcomes.push((proposal.token, proposal.committed()));
            self.proposals.pop_front();
        }
        let log = &self.log;
        self.orphans.retain(|orphan| {
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
    }

    /// Entries may be applied once committed and durable here, so that a state machine never
    /// gets ahead of its own log.
    fn advance_appliable(&mut self, effects: &mut Effects) {
        let appliable = self.commit.min(self.durability.durable());
        if appliable > self.appliable {
            self.appliable = appliable;
            effects.appliable = Some(appliable);
        }
    }

    /// Sends what rests on term and vote: at once if they are durable, else gated.
    pub(crate) fn send_promise(&self, to: ReplicaId, message: Message, effects: &mut Effects) {
        effects.messages.send(to, message, self.durability.hard_state_gate());
    }

    pub(crate) fn is_voter(&self) -> bool {
        self.voters.binary_search(&self.me).is_ok()
    }

    /// The other voters.
    pub(crate) fn peers(&self) -> impl Iterator<Item = ReplicaId> + '_ {
        let me = self.me;
        self.voters.iter().copied().filter(move |voter| *voter != me)
    }

    /// Stands for election without asking first: only for a transfer.
    pub(crate) fn campaign_now(&mut self, effects: &mut Effects) {
        self.campaign(Campaign::Transfer, effects);
    }

    fn go_mute(&mut self, fault: Fault, effects: &mut Effects) {
        let old = core::mem::replace(&mut self.role, Role::Follower);
        if let Role::Leader(leader) = old {
            leader.fail_waiting(false, effects);
        }
        for proposal in self.proposals.drain(..).chain(self.orphans.drain(..)) {
            effects.outcomes.push((proposal.token, Outcome::Unknown));
        }
        self.leader = None;
        effects.role_changed = true;
        effects.fault = Some(fault.clone());
        self.fault = Some(fault);
    }

    fn refuse_when_mute(&mut self, input: &Input, effects: &mut Effects) {
        match input {
            Input::Propose { token, .. }
            | Input::Read { token }
            | Input::Transfer { token, .. } => {
                effects.outcomes.push((*token, Outcome::Refused(Refusal::Faulted)));
            }
            Input::Message { .. }
            | Input::Deadline
            | Input::Written(_)
            | Input::Persisted(_)
            | Input::PeerUnreachable(_)
            | Input::LogUnreadable(_)
            | Input::Campaign => {}
        }
    }

    /// The cheap ones of the invariants in the type's docs.
    #[cfg(debug_assertions)]
    fn check_invariants(&self) {
        let last = self.log.last_index();
        debug_assert!(self.appliable <= self.commit && self.commit <= last, "{:?}", self.status());
        debug_assert!(self.durability.durable() <= self.durability.written());
        debug_assert!(self.durability.written() <= last);
        debug_assert!(self.log.last_term() <= self.hard_state.term);
        debug_assert!(self.verified <= last);
        debug_assert!(
            self.proposals
                .iter()
                .zip(self.proposals.iter().skip(1))
                .all(|(a, b)| a.index < b.index)
        );
        debug_assert!(self.proposals.front().is_none_or(|p| p.index > self.commit));
        debug_assert!(self.proposals.iter().all(|p| self.log.term(p.index) == Some(p.term)));
        debug_assert!(self.orphans.iter().all(|p| p.index > self.commit));
        if let Role::Leader(leader) = &self.role {
            debug_assert_eq!(self.leader, Some(self.me));
            debug_assert_eq!(self.hard_state.vote, Some(self.me));
            leader.check(self);
        }
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
