//! What the front asks of the engine: a seam as narrow as the front's needs.
//!
//! It keeps the front free of the engine's internals, and lets tests put a scripted engine in
//! its place. The engine's implementation is in [`super::node_host`].

use std::future::Future;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use raft_core::{GroupId, NodeId};

/// The engine, as the front sees it.
pub trait Backend: Send + Sync + 'static {
    /// The answer to one operation, or why there is none. It makes progress whether polled or not.
    type Pending: Future<Output = Result<Answered, Refusal>> + Send + Unpin + 'static;

    /// Starts all operations in order and pushes one answer for each onto `pending`.
    ///
    /// Writes of one group, within this batch and from one call to the next, enter its log in
    /// this order. Reads are linearizable: they see every write that was answered before.
    fn submit(&self, operations: &mut Vec<Operation>, pending: &mut Vec<Self::Pending>);

    /// Who leads the group, to this node's knowledge, which may be out of date. Called for every
    /// command, so it must not block.
    fn leader_of(&self, group: GroupId) -> Option<NodeId>;

    /// A number that grows whenever [`leader_of`](Self::leader_of) might say something else than
    /// before; `None` if nobody can tell. Must not block.
    fn leaders_version(&self) -> Option<u64>;

    /// Whether another node is reached, to this node's knowledge. Must not block.
    fn is_reached(&self, node: NodeId) -> bool;

    /// Numbers for `INFO`. Must cost the same for any number of groups, and not block.
    fn stats(&self) -> BackendStats;

    /// This node's wall clock, in milliseconds since the Unix epoch. No deadline is judged by it:
    /// it may be wrong, and what counts is the time that leaders stamp.
    fn wall_time(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as u64)
    }
}

/// What became of an operation.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Answered {
    /// The state machine's output.
    pub output: Bytes,
    /// In log time, milliseconds since the Unix epoch: of a write its stamp, of a read the one the
    /// leader would have given at that moment.
    pub time: u64,
}

/// One command or query for one group.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Operation {
    /// The group.
    pub group: GroupId,
    /// Whether it goes through the log.
    pub kind: OperationKind,
    /// The encoded [`Command`](crate::kv::Command) or [`Query`](crate::kv::Query).
    pub payload: Bytes,
}

/// Whether an operation changes state.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum OperationKind {
    /// It goes through the log.
    Write,
    /// It is answered from applied state by the leader.
    Read,
}

/// Why an operation has no answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// Another node leads, or none. The operation had no effect.
    #[error("this node does not lead the group")]
    NotLeader {
        /// Who leads, if known.
        leader: Option<NodeId>,
    },
    /// Leadership is being handed over. The operation had no effect.
    #[error("leadership is being handed over")]
    Transferring,
    /// The group's queue is full. The operation had no effect.
    #[error("{uncommitted_bytes} bytes wait to be committed")]
    Overloaded {
        /// How much waits.
        uncommitted_bytes: u64,
    },
    /// The command is longer than the engine takes. The operation had no effect.
    #[error("a command of {bytes} bytes, at most {max} are taken")]
    TooLarge {
        /// Its length.
        bytes: u64,
        /// The limit.
        max: u64,
    },
    /// The operation was taken, then given up without effect; trying again is safe.
    #[error("not executed")]
    NotExecuted,
    /// The group is not served here (stopped, faulted, not there). The operation had no effect.
    #[error("the group is not served by this node")]
    Unavailable,
    /// The operation may have happened, now or later, or never.
    #[error("outcome unknown")]
    Unknown,
}

/// Numbers for `INFO`, of this node alone.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct BackendStats {
    /// Commands applied since start, over all groups of this node, as leader or not.
    pub applied_commands: u64,
    /// Groups with a replica here.
    pub groups: u64,
    /// Groups led from here.
    pub groups_led: u64,
}
