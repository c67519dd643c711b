//! A group's state as a value, for status pages, tests and simulators.

use crate::id::{GroupId, LogIndex, ReplicaId, Term};
use crate::io::Fault;

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
    /// Up to here it may be applied: committed, and durable here.
    pub appliable_index: LogIndex,
    /// Up to here the log equals that of the leader of this term, as far as this replica knows.
    pub verified_index: LogIndex,
    /// Why it is mute, if it is.
    pub fault: Option<Fault>,
}
