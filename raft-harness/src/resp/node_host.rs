//! The engine behind the front: [`Backend`] for [`NodeHost`].

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use raft_core::{GroupId, NodeId, ReadPath};

use super::backend::{Answered, Backend, BackendStats, Operation, OperationKind, Refusal};
use crate::node::NodeHost;
use crate::node_status::NodeSummary;
use crate::request::{Proposed, Request, RequestError, RequestKind, Ticket};
use crate::state_machine::StateMachineFactory;

/// A running node whose groups hold [`KvMachine`](crate::kv::KvMachine)s.
#[derive(Clone)]
pub struct NodeHostBackend {
    host: NodeHost,
}

impl NodeHostBackend {
    /// Wraps a node that was started with [`KvFactory`](crate::kv::KvFactory).
    pub fn new(host: NodeHost) -> Self {
        Self { host }
    }

    /// The factory such a node needs.
    pub fn factory() -> impl StateMachineFactory {
        crate::kv::KvFactory
    }
}

impl Backend for NodeHostBackend {
    type Pending = PendingAnswer;

    fn submit(&self, operations: &mut Vec<Operation>, pending: &mut Vec<PendingAnswer>) {
        let mut requests = Vec::with_capacity(operations.len());
        for Operation { group, kind, payload } in operations.drain(..) {
            let kind = match kind {
                OperationKind::Write => RequestKind::Propose(payload),
                OperationKind::Read => RequestKind::Read(ReadPath::Quorum, payload),
            };
            let (request, ticket) = Request::new(group, kind);
            requests.push(request);
            pending.push(PendingAnswer(ticket));
        }
        self.host.submit(requests);
    }

    fn leader_of(&self, group: GroupId) -> Option<NodeId> {
        self.host.leader_of(group)
    }

    fn leaders_version(&self) -> Option<u64> {
        Some(self.host.leaders_version())
    }

    fn is_reached(&self, node: NodeId) -> bool {
        self.host.is_connected(node)
    }

    fn stats(&self) -> BackendStats {
        let NodeSummary { groups, groups_led, applied_commands } = self.host.summary();
        BackendStats { applied_commands, groups, groups_led }
    }
}

/// The answer of a [`NodeHost`] to one operation.
#[derive(Debug)]
pub struct PendingAnswer(Ticket<Proposed>);

impl Future for PendingAnswer {
    type Output = Result<Answered, Refusal>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let answered = |Proposed { output, time, .. }| Answered { output, time: time.get() };
        Pin::new(&mut self.0).poll(cx).map_ok(answered).map_err(refusal)
    }
}

fn refusal(error: RequestError) -> Refusal {
    match error {
        RequestError::NotLeader { leader } => Refusal::NotLeader { leader },
        RequestError::Transferring => Refusal::Transferring,
        RequestError::Overloaded { pending_bytes } => {
            Refusal::Overloaded { uncommitted_bytes: pending_bytes }
        }
        RequestError::TooLarge { bytes, max } => Refusal::TooLarge { bytes, max },
        RequestError::LeadershipLost
        | RequestError::Superseded
        | RequestError::ChangePending
        | RequestError::NotCaughtUp { .. }
        | RequestError::QuorumAtRisk
        | RequestError::InvalidChange(_)
        | RequestError::NodeTaken { .. }
        | RequestError::StillMember(_)
        | RequestError::NoSnapshot(_)
        | RequestError::UnknownNode(_) => Refusal::NotExecuted,
        RequestError::DiskFull
        | RequestError::UnknownGroup(_)
        | RequestError::Faulted(_)
        | RequestError::Stopping
        | RequestError::LogFailed => Refusal::Unavailable,
        RequestError::Unknown => Refusal::Unknown,
    }
}
