//! Requests to a node and how they end.
//!
//! Invariant: every request is answered exactly once; dropping a reply counts as
//! [`RequestError::Unknown`], so not even a bug can leave a client waiting.

use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use raft_core::{GroupId, LogIndex, LogTime, MembershipError, NodeId, ReadPath, ReplicaId};
use tokio::sync::oneshot;

/// Why a request did not succeed: who leads, whether to retry, whether it may have happened.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// Another node leads, or none is known. Nothing happened; ask the leader.
    #[error("not the leader; {}", leader_hint(.leader))]
    NotLeader {
        /// Who leads, if known.
        leader: Option<NodeId>,
    },
    /// Leadership is being handed over. Nothing happened; ask again in a moment.
    #[error("leadership is being handed over; nothing happened, retry")]
    Transferring,
    /// Too much is under way in this group or this shard. Nothing happened; slow down.
    #[error("overloaded with {pending_bytes} bytes pending; nothing happened, retry later")]
    Overloaded {
        /// Bytes under way and not yet committed.
        pending_bytes: u64,
    },
    /// This node has no replica of that group.
    #[error("group {0} is not on this node")]
    UnknownGroup(GroupId),
    /// A read was not confirmed before leadership was lost. A read has no effect: retry.
    #[error("leadership was lost before the read was confirmed; retry")]
    LeadershipLost,
    /// Another leader's entry took the place: the command never happened. Retry.
    #[error("another leader's entry took its place; it never happened, retry")]
    Superseded,
    /// The answer was lost. The command may or may not have been applied: a blind retry may
    /// apply it twice.
    #[error("the outcome is unknown: it may or may not have been applied")]
    Unknown,
    /// The command is larger than the engine takes.
    #[error("a command of {bytes} bytes exceeds the limit of {max}")]
    TooLarge {
        /// Its size.
        bytes: u64,
        /// The most that is taken.
        max: u64,
    },
    /// The disk of the leader's node is full. Nothing happened; make room, or ask again when the
    /// leader has handed over.
    #[error("the disk is full; nothing happened")]
    DiskFull,
    /// An earlier change of membership is under way, or the leader is too new to know that none
    /// is. Nothing happened; ask again in a moment.
    #[error("an earlier change of membership may be under way; nothing happened, retry")]
    ChangePending,
    /// The learner lacks too much of the log to become a voter. Nothing happened; ask again when
    /// it has caught up.
    #[error("{replica} has not caught up; nothing happened, retry later")]
    NotCaughtUp {
        /// Which learner.
        replica: ReplicaId,
    },
    /// After the change too few of the voters would be at hand to go on. Nothing happened; bring
    /// voters back first.
    #[error("too few voters would be at hand after the change; nothing happened")]
    QuorumAtRisk,
    /// The change of membership makes no sense. Nothing happened.
    #[error("the change of membership makes no sense: {0}")]
    InvalidChange(MembershipError),
    /// The node has a replica of the group already, and takes one only. Nothing happened; remove
    /// that one first.
    #[error("{replica} lives on node {node} already; nothing happened")]
    NodeTaken {
        /// Where the new replica should live.
        node: NodeId,
        /// Who lives there.
        replica: ReplicaId,
    },
    /// The node is no peer of this one. Nothing happened; make its address known first.
    #[error("node {0} is not known here; nothing happened")]
    UnknownNode(NodeId),
    /// No snapshot was taken: the state machine gives none, or it could not be written.
    #[error("no snapshot of group {0} was taken")]
    NoSnapshot(GroupId),
    /// The replica on this node belongs to the group, as far as it knows. Nothing happened.
    #[error("the replica on this node belongs to group {0}; nothing happened")]
    StillMember(GroupId),
    /// The group met something impossible and is mute; see the log of this node.
    #[error("group {0} is faulted on this node")]
    Faulted(GroupId),
    /// The node is stopping. Nothing happened; ask another node.
    #[error("the node is stopping; nothing happened")]
    Stopping,
    /// The node's log failed; it acknowledges nothing any more.
    #[error("the node's log failed; it acknowledges nothing any more")]
    LogFailed,
}

fn leader_hint(leader: &Option<NodeId>) -> String {
    match leader {
        Some(node) => format!("node {node} leads"),
        None => "no leader is known".to_owned(),
    }
}

impl RequestError {
    /// Whether the command may have taken effect all the same.
    pub fn may_have_been_applied(&self) -> bool {
        matches!(self, Self::Unknown)
    }

    /// Whether the same request may simply be made again, here or at the leader.
    pub fn is_safe_to_retry(&self) -> bool {
        match self {
            Self::NotLeader { .. }
            | Self::Transferring
            | Self::Overloaded { .. }
            | Self::LeadershipLost
            | Self::Superseded
            | Self::DiskFull
            | Self::ChangePending
            | Self::NotCaughtUp { .. }
            | Self::QuorumAtRisk
            | Self::Stopping => true,
            Self::InvalidChange(_)
            | Self::NodeTaken { .. }
            | Self::StillMember(_)
            | Self::NoSnapshot(_)
            | Self::UnknownNode(_)
            | Self::UnknownGroup(_)
            | Self::Unknown
            | Self::TooLarge { .. }
            | Self::Faulted(_)
            | Self::LogFailed => false,
        }
    }
}

/// A command that was committed and applied on the leader.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Proposed {
    /// Its place in the group's log.
    pub index: LogIndex,
    /// What the state machine said to it.
    pub output: Bytes,
    /// When it was, in log time: the stamp of its entry.
    pub time: LogTime,
}

/// The answer to a request of either kind. For a read, with the applied index it was answered at,
/// and the time with which the leader would have stamped an entry then; a follower knows only
/// the newest stamp it has applied.
pub type Answer = Result<Proposed, RequestError>;

impl Proposed {
    /// Says that it is done, of what has no place in a log and no output.
    pub(crate) fn nothing() -> Self {
        Self { index: LogIndex::ZERO, output: Bytes::new(), time: LogTime::default() }
    }
}

/// Which replica may leave its node.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Removal {
    /// One that knows for certain that its group removed it.
    OfFormerMember,
    /// Any. For the group it is as if the replica's node had been lost for good: a member should
    /// be removed from the group as well. For replicas that were removed and never heard of it.
    OfAnyone,
}

/// What is asked of a group.
#[derive(Debug)]
pub enum RequestKind {
    /// Replicate and apply a command.
    Propose(Bytes),
    /// Answer a query, linearizably, from an applied state: the leader's, or by
    /// [`ReadPath::Follower`] that of any replica.
    Read(ReadPath, Bytes),
    /// Answer a query from what this node has applied, once that is at least so far.
    ReadLocal(LogIndex, Bytes),
    /// Say so once this node has applied so far.
    WaitApplied(LogIndex),
}

/// One request on its way to the shard that owns its group.
#[derive(Debug)]
pub struct Request {
    /// Which group.
    pub group: GroupId,
    /// What.
    pub kind: RequestKind,
    /// Where the answer goes.
    pub reply: Reply,
}

impl Request {
    /// A request and the ticket to wait for its answer with.
    pub fn new<T>(group: GroupId, kind: RequestKind) -> (Self, Ticket<T>) {
        let (reply, receiver) = oneshot::channel();
        let request = Self { group, kind, reply: Reply(Some(reply)) };
        (request, Ticket { receiver, answer: PhantomData })
    }
}

/// Takes one answer. Dropped without one, it answers [`RequestError::Unknown`].
#[derive(Debug)]
pub struct Reply(Option<oneshot::Sender<Answer>>);

impl Reply {
    /// Whether nobody waits for it any more.
    pub(crate) fn is_unwanted(&self) -> bool {
        self.0.as_ref().is_none_or(oneshot::Sender::is_closed)
    }

    /// Gives the answer; a client that went away is no error.
    pub fn send(mut self, answer: Answer) {
        if let Some(sender) = self.0.take() {
            let _ = sender.send(answer);
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if let Some(sender) = self.0.take() {
            let _ = sender.send(Err(RequestError::Unknown));
        }
    }
}

/// Waits for the answer to a request. Dropping it does not take the request back.
#[derive(Debug)]
pub struct Ticket<T> {
    receiver: oneshot::Receiver<Answer>,
    answer: PhantomData<fn() -> T>,
}

impl<T: From<Proposed>> Ticket<T> {
    /// Waits on a thread that runs no async code.
    ///
    /// # Errors
    /// As the request ended.
    ///
    /// # Panics
    /// If called from within an async runtime.
    pub fn wait(self) -> Result<T, RequestError> {
        self.receiver.blocking_recv().unwrap_or(Err(RequestError::Unknown)).map(T::from)
    }
}

impl<T: From<Proposed>> Future for Ticket<T> {
    type Output = Result<T, RequestError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.receiver)
            .poll(cx)
            .map(|answer| answer.unwrap_or(Err(RequestError::Unknown)).map(T::from))
    }
}

impl From<Proposed> for Bytes {
    fn from(answer: Proposed) -> Self {
        answer.output
    }
}

/// Where an answer stands.
impl From<Proposed> for LogIndex {
    fn from(answer: Proposed) -> Self {
        answer.index
    }
}

impl From<Proposed> for () {
    fn from(_: Proposed) {}
}
