//! What a group is: who replicates it, and a label that is the application's own.
//!
//! The spec is written into the log when the group is created, so a restart needs nobody to
//! repeat it, and creating it again can be compared with what it was.

use std::fmt;

use bytes::Bytes;
use raft_core::{GroupId, GroupIncarnation, NodeId, ReplicaId};
use serde::{Deserialize, Serialize};

/// One group as its creator wants it: the same on every node it begins on.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct GroupSpec {
    /// Its id; ids from [`raft_transport::RESERVED_FIRST`] on are refused.
    pub group: GroupId,
    /// Which life of this id it is; 1 unless the id was in use before.
    pub incarnation: GroupIncarnation,
    /// Whether it begins here, or exists elsewhere.
    pub origin: Origin,
    /// The first voters and the nodes they live on, at most one replica per node; who belongs to
    /// the group later is for its log to say. Of a group that is joined, this node's replica alone.
    /// A set: their order means nothing, and the engine keeps them by replica.
    pub replicas: Vec<(ReplicaId, NodeId)>,
    /// Opaque to the engine, handed to the state machine's factory. At most 64 KiB.
    pub label: Bytes,
}

/// How a node comes to a group.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Origin {
    /// The group begins, with the replicas of its spec as voters.
    Founding,
    /// The group exists elsewhere; this replica learns who belongs to it from its leader, once
    /// that has been asked to add it ([`change_members`](crate::NodeHost::change_members)).
    Joining,
}

impl GroupSpec {
    /// A first-life group with one replica on each of `nodes`, replica ids equal to node ids.
    pub fn on_nodes(group: GroupId, nodes: impl IntoIterator<Item = NodeId>) -> Self {
        Self {
            group,
            incarnation: GroupIncarnation::new(1),
            origin: Origin::Founding,
            replicas: nodes.into_iter().map(|node| (ReplicaId::new(node.get()), node)).collect(),
            label: Bytes::new(),
        }
    }

    /// A replica on `node` that joins a first-life group. Its id must be larger than any the group
    /// ever used.
    pub fn joining(group: GroupId, replica: ReplicaId, node: NodeId) -> Self {
        Self {
            group,
            incarnation: GroupIncarnation::new(1),
            origin: Origin::Joining,
            replicas: vec![(replica, node)],
            label: Bytes::new(),
        }
    }

    /// The same spec with a label.
    #[must_use]
    pub fn with_label(mut self, label: impl Into<Bytes>) -> Self {
        self.label = label.into();
        self
    }

    /// The same spec in the one order in which specs are kept and compared.
    pub(crate) fn in_order(mut self) -> Self {
        self.replicas.sort_unstable();
        self
    }

    /// The replica on a node.
    pub fn replica_on(&self, node: NodeId) -> Option<ReplicaId> {
        self.replicas.iter().find(|(_, on)| *on == node).map(|(replica, _)| *replica)
    }

    /// The node a replica lives on.
    pub fn node_of(&self, replica: ReplicaId) -> Option<NodeId> {
        self.replicas.iter().find(|(id, _)| *id == replica).map(|(_, node)| *node)
    }

    /// The longest label taken.
    pub const LABEL_BYTES_MAX: usize = 64 << 10;

    pub(crate) fn encode(&self) -> Bytes {
        let record = SpecRecordV1 {
            version: match self.origin {
                Origin::Founding => 1,
                Origin::Joining => 2,
            },
            group: self.group.get(),
            incarnation: self.incarnation.get(),
            replicas: self.replicas.iter().map(|(r, n)| (r.get(), n.get())).collect(),
            label: self.label.to_vec(),
        };
        postcard::to_allocvec(&record).expect("a plain struct always encodes").into()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let record: SpecRecordV1 = postcard::from_bytes(bytes).ok()?;
        let origin = match record.version {
            1 => Origin::Founding,
            2 => Origin::Joining,
            _ => return None,
        };
        let spec = Self {
            group: GroupId::new(record.group),
            incarnation: GroupIncarnation::new(record.incarnation),
            origin,
            replicas: record
                .replicas
                .into_iter()
                .map(|(replica, node)| (ReplicaId::new(replica), NodeId::new(node)))
                .collect(),
            label: record.label.into(),
        };
        Some(spec.in_order())
    }
}

impl fmt::Display for GroupSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let origin = match self.origin {
            Origin::Founding => "founded with",
            Origin::Joining => "joined by",
        };
        write!(f, "life {}, {origin} ", self.incarnation.get())?;
        for (at, (replica, node)) in self.replicas.iter().enumerate() {
            let comma = if at == 0 { "" } else { ", " };
            write!(f, "{comma}replica {} on node {}", replica.get(), node.get())?;
        }
        if !self.label.is_empty() {
            write!(f, ", label \"{}\"", self.label.escape_ascii())?;
        }
        Ok(())
    }
}

/// The spec as it lies in the log. Version 2 is that of a group that is joined; another change
/// makes a new version with its own struct.
#[derive(Deserialize, Serialize)]
struct SpecRecordV1 {
    version: u8,
    group: u32,
    incarnation: u32,
    replicas: Vec<(u64, u64)>,
    label: Vec<u8>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_replicas_means_nothing() {
        let spec = |nodes: [u64; 3]| GroupSpec::on_nodes(GroupId::new(9), nodes.map(NodeId::new));
        assert_eq!(spec([3, 1, 2]).in_order(), spec([1, 2, 3]));
        // A log may hold a spec from when its order was the creator's.
        assert_eq!(GroupSpec::decode(&spec([3, 1, 2]).encode()), Some(spec([1, 2, 3])));
    }

    #[test]
    fn a_spec_survives_the_log() {
        let spec = GroupSpec::on_nodes(GroupId::new(9), [1, 2, 3].map(NodeId::new))
            .with_label("slots 0-99");
        assert_eq!(GroupSpec::decode(&spec.encode()), Some(spec.clone()));
        // The bytes are on disks: they may not change.
        assert_eq!(
            &spec.encode()[..],
            [&[1, 9, 1, 3, 1, 1, 2, 2, 3, 3, 10][..], b"slots 0-99"].concat()
        );
        assert_eq!(
            spec.to_string(),
            "life 1, founded with replica 1 on node 1, replica 2 on node 2, replica 3 on node 3, \
             label \"slots 0-99\""
        );
        let joining = GroupSpec::joining(GroupId::new(9), ReplicaId::new(4), NodeId::new(7));
        assert_eq!(GroupSpec::decode(&joining.encode()), Some(joining.clone()));
        assert_eq!(&joining.encode()[..], [2, 9, 1, 1, 4, 7, 0]);
        assert_eq!(GroupSpec::decode(&[3, 9, 1, 1, 4, 7, 0]), None);
    }
}
