//! A replica before a step, and what the step was given, as far as notes need it.

use raft_core::{
    AppendReply, Input, LogIndex, Message, Micros, Promise, ReadPath, ReplicaId, RoleKind, Term,
    TimeoutNow, Token, VoteReply, VoteRequest,
};

use super::super::replica::Replica;

/// A replica before a step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Before {
    pub(super) role: RoleKind,
    pub(super) term: Term,
    pub(super) vote: Option<ReplicaId>,
    pub(super) leader: Option<ReplicaId>,
    pub(super) commit: LogIndex,
    pub(super) last: LogIndex,
    pub(super) last_term: Term,
    pub(super) membership_index: LogIndex,
    pub(super) is_joint: bool,
    pub(super) asleep: bool,
    pub(super) promise: Promise,
    /// Until when it leads by its lease, as of its last step.
    pub(super) lease_until: Option<Micros>,
    /// How many requests had ended and were not told.
    pub(super) ended: usize,
    /// The next entry for the peer whose answer this is.
    pub(super) next_index: Option<LogIndex>,
    pub(super) cause: Cause,
}

/// What a step was given.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Cause {
    Deadline,
    Propose,
    Read(Token, ReadPath),
    Transfer,
    Disk,
    Persisted,
    SnapshotReceived(LogIndex),
    PreVote(ReplicaId, VoteRequest),
    Vote(ReplicaId, VoteRequest),
    VoteReply(VoteReply),
    Append(ReplicaId, Extent),
    AppendReply(ReplicaId, AppendReply),
    Heartbeat(ReplicaId, Term),
    TimeoutNow(TimeoutNow),
    TransferRefused,
    Snapshot(ReplicaId, Offer),
    /// Anything that no mark depends on; a message to or from an earlier life among it, which the
    /// core does not listen to.
    Other,
}

/// Which entries an append is about.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Extent {
    pub(super) term: Term,
    pub(super) prev: LogIndex,
    pub(super) last: LogIndex,
}

/// Which snapshot is offered.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Offer {
    pub(super) term: Term,
    pub(super) index: LogIndex,
    pub(super) index_term: Term,
}

impl Before {
    pub(crate) fn of(replica: &mut Replica, input: &Input) -> Self {
        let cause = Cause::of(replica, input);
        let core = &replica.core;
        let status = core.status();
        Self {
            role: status.role,
            term: status.term,
            vote: status.vote,
            leader: status.leader,
            commit: status.commit_index,
            last: status.last_index,
            last_term: status.last_term,
            membership_index: core.membership_index(),
            is_joint: core.membership().is_joint(),
            asleep: status.asleep,
            promise: status.promise.promise,
            lease_until: core.lease_until(),
            ended: replica.effects.outcomes.len(),
            next_index: match cause {
                Cause::AppendReply(from, _) => core.next_index(from),
                _ => None,
            },
            cause,
        }
    }
}

impl Cause {
    fn of(replica: &mut Replica, input: &Input) -> Self {
        match input {
            Input::Message { from, from_incarnation, to_incarnation, message } => {
                let is_ours = *to_incarnation == replica.core.incarnation();
                if is_ours && replica.memory.meets(*from, *from_incarnation) {
                    Self::of_message(*from, message)
                } else {
                    Self::Other
                }
            }
            Input::Deadline => Self::Deadline,
            Input::Propose { .. } => Self::Propose,
            Input::Read { token, path } => Self::Read(*token, *path),
            Input::Transfer { .. } | Input::Yield { .. } => Self::Transfer,
            Input::Disk(_) => Self::Disk,
            Input::Persisted(_) => Self::Persisted,
            Input::SnapshotReceived { index, .. } => Self::SnapshotReceived(*index),
            Input::ChangeMembership { .. }
            | Input::Written(_)
            | Input::PersistFailed(_)
            | Input::PeerUnreachable(_)
            | Input::LogUnreadable(_)
            | Input::LogDamaged(_)
            | Input::ApplyFailed(_)
            | Input::Campaign
            | Input::Candidacy(_)
            | Input::PeerCandidacy(..)
            | Input::Wake
            | Input::SnapshotTaken(_)
            | Input::Compact(_)
            | Input::SnapshotFailed { .. }
            | Input::AcceptLoss => Self::Other,
        }
    }

    fn of_message(from: ReplicaId, message: &Message) -> Self {
        match message {
            Message::PreVote(request) => Self::PreVote(from, *request),
            Message::Vote(request) => Self::Vote(from, *request),
            Message::VoteReply(reply) => Self::VoteReply(*reply),
            Message::Append(append) => {
                let (term, prev) = (append.term, append.prev_index);
                Self::Append(from, Extent { term, prev, last: append.last_index() })
            }
            Message::AppendReply(reply) => Self::AppendReply(from, *reply),
            Message::Heartbeat(heartbeat) | Message::ReadConfirm(heartbeat) => {
                Self::Heartbeat(from, heartbeat.term)
            }
            Message::TimeoutNow(request) => Self::TimeoutNow(*request),
            Message::TransferRefused(_) => Self::TransferRefused,
            Message::Snapshot(offer) => {
                let (index, index_term) = (offer.meta.index, offer.meta.term);
                Self::Snapshot(from, Offer { term: offer.term, index, index_term })
            }
            Message::PreVoteReply(_)
            | Message::HeartbeatReply(_)
            | Message::ReadIndex(_)
            | Message::ReadIndexReply(_)
            | Message::Recover(_)
            | Message::Fence(_) => Self::Other,
        }
    }

    /// A leader speaks: who, and in which term.
    pub(super) const fn leader(self) -> Option<(ReplicaId, Term)> {
        match self {
            Self::Append(from, Extent { term, .. })
            | Self::Heartbeat(from, term)
            | Self::Snapshot(from, Offer { term, .. }) => Some((from, term)),
            Self::Deadline
            | Self::Propose
            | Self::Read(..)
            | Self::Transfer
            | Self::Disk
            | Self::Persisted
            | Self::SnapshotReceived(_)
            | Self::PreVote(..)
            | Self::Vote(..)
            | Self::VoteReply(_)
            | Self::AppendReply(..)
            | Self::TimeoutNow(_)
            | Self::TransferRefused
            | Self::Other => None,
        }
    }
}
