//! A message with what the core leaves to its driver: the group, both replicas, the payloads.

use raft_core::{Entry, GroupId, GroupIncarnation, Message, ReplicaId};

/// One message of one group, on its way from replica to replica.
///
/// Invariant: `entries` are exactly those the runs of an [`Append`](raft_core::Append) name,
/// in order; empty for every other message. The encoder refuses anything else.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Envelope {
    /// The group.
    pub group: GroupId,
    /// Which life of the group.
    pub group_incarnation: GroupIncarnation,
    /// The sending replica.
    pub from: ReplicaId,
    /// The receiving replica.
    pub to: ReplicaId,
    /// What is said.
    pub message: Message,
    /// The entries an append carries.
    pub entries: Vec<Entry>,
}
