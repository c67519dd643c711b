//! What is replicated: the application's side of the engine.

use bytes::Bytes;
use raft_core::{Entry, GroupId};

use crate::group_spec::GroupSpec;

/// Where a state machine's work is done.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ApplyMode {
    /// On an apply worker: a slow command of one group delays no other group's consensus.
    Worker,
    /// On the shard's own thread, saving two hand-overs per command. Only for machines whose
    /// every command takes microseconds.
    Inline,
}

/// A deterministic state machine, one per group.
///
/// Every replica applies the same entries in the same order, so the outcome may depend on the
/// entries alone: not on the clock, not on randomness, not on the node. [`Entry::time`] is the
/// one clock all replicas agree on.
///
/// A panic in a state machine ends the node: everything waiting is answered as unknown, and
/// [`NodeHost::failure`](crate::NodeHost::failure) names the thread. A command that cannot be
/// carried out is an output that says so.
pub trait StateMachine: Send + 'static {
    /// Applies committed entries in order and pushes exactly one output per entry; the output
    /// goes to whoever proposed the command. No-ops and memberships come
    /// too: they carry log time, and their payloads are the engine's own business.
    fn apply(&mut self, entries: &[Entry], outputs: &mut Vec<Bytes>);

    /// Answers a query from the applied state, changing nothing.
    fn read(&self, query: &[u8]) -> Bytes;

    /// A digest of the whole state: equal on all replicas that applied the same index.
    fn digest(&self) -> u64;

    /// Where to run. Asked once, at creation.
    fn mode(&self) -> ApplyMode {
        ApplyMode::Worker
    }
}

/// Makes the state machine of a group, empty: the log is replayed into it.
pub trait StateMachineFactory: Send + Sync + 'static {
    /// Called once for each group, at creation and at every restart, on the thread that will own
    /// the group; it should not take long.
    fn create(&self, group: GroupId, spec: &GroupSpec) -> Box<dyn StateMachine>;
}

impl<F> StateMachineFactory for F
where
    F: Fn(GroupId, &GroupSpec) -> Box<dyn StateMachine> + Send + Sync + 'static,
{
    fn create(&self, group: GroupId, spec: &GroupSpec) -> Box<dyn StateMachine> {
        self(group, spec)
    }
}
