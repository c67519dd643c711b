//! A group's state as a value, for status pages, tests and simulators.

use crate::group::{Group, Role};
use crate::id::{GroupId, LogIndex, ReplicaId, Term};
use crate::io::Fault;
use crate::membership::Standing;
use crate::settings::PromiseRecord;

/// What a replica is at the moment (paper, figure 4; thesis 9.6 for the pre-candidate).
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum RoleKind {
    /// It follows, or waits for somebody to follow.
    Follower,
    /// It asks whether it would be elected.
    PreCandidate,
    /// It stands for election.
    Candidate,
    /// It leads.
    Leader,
}

/// One replica's state.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Status {
    /// Which group.
    pub group: GroupId,
    /// Which replica.
    pub replica: ReplicaId,
    /// What it is.
    pub role: RoleKind,
    /// Its term.
    pub term: Term,
    /// Whom it voted for in this term.
    pub vote: Option<ReplicaId>,
    /// Who leads, as far as it knows.
    pub leader: Option<ReplicaId>,
    /// Where its log ends.
    pub last_index: LogIndex,
    /// The term of its last entry.
    pub last_term: Term,
    /// Up to here the log is in the page cache.
    pub written_index: LogIndex,
    /// Up to here the log is on disk.
    pub durable_index: LogIndex,
    /// Up to here the log is committed.
    pub commit_index: LogIndex,
    /// Of that, what a quorum has on disk, as far as known: see
    /// [`Group::quorum_durable_index`].
    pub quorum_durable_index: LogIndex,
    /// Up to here it may be applied: committed, and durable here.
    pub appliable_index: LogIndex,
    /// Up to here the log equals that of the leader of this term, as far as this replica knows.
    pub verified_index: LogIndex,
    /// Up to here a durable snapshot of its own reaches.
    pub snapshot_index: LogIndex,
    /// Up to here the log is compacted away.
    pub base_index: LogIndex,
    /// What it may do in the membership in force; `None` if it is no member.
    pub standing: Option<Standing>,
    /// Whether it was removed, for certain: a committed membership from after its time does not
    /// name it, or a voter that knows one said so.
    pub removed: bool,
    /// What it remembers of its promises.
    pub promise: PromiseRecord,
    /// Whether the group sleeps.
    pub asleep: bool,
    /// Whether it may come to lead, as far as its node wants it to.
    pub takes_office: bool,
    /// Requests of this replica that have not ended: proposals, reads, changes, hand-overs.
    pub open_requests: usize,
    /// Why it is mute, if it is.
    pub fault: Option<Fault>,
}

impl Group {
    /// A view for status pages, tests and simulators.
    pub fn status(&self) -> Status {
        let standing = self.membership().standing(self.me);
        Status {
            group: self.id,
            replica: self.me,
            role: self.role_kind(),
            term: self.hard_state.term,
            vote: self.hard_state.vote,
            leader: self.leader,
            last_index: self.log.last_index(),
            last_term: self.log.last_term(),
            written_index: self.durability.written(),
            durable_index: self.durability.durable(),
            commit_index: self.commit,
            quorum_durable_index: self.quorum_durable_index(),
            appliable_index: self.appliable,
            verified_index: self.verified,
            snapshot_index: self.snapshot,
            base_index: self.log.base(),
            standing,
            removed: self.is_removed(),
            promise: self.promise,
            asleep: self.asleep,
            takes_office: self.takes_office(),
            open_requests: self.open_requests(),
            fault: self.fault().cloned(),
        }
    }

    /// The first entry of its own term, if this replica leads.
    pub const fn leads_since(&self) -> Option<LogIndex> {
        match &self.role {
            Role::Leader(leader) => Some(leader.term_start),
            Role::Follower | Role::PreCandidate(_) | Role::Candidate(_) => None,
        }
    }

    /// What this replica is at the moment.
    pub const fn role_kind(&self) -> RoleKind {
        match &self.role {
            Role::Follower => RoleKind::Follower,
            Role::PreCandidate(_) => RoleKind::PreCandidate,
            Role::Candidate(_) => RoleKind::Candidate,
            Role::Leader(_) => RoleKind::Leader,
        }
    }
}
