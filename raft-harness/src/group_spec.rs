//! What a group is: who replicates it, and a label that is the application's own.
//!
//! The spec is written into the log when the group is created, so a restart needs nobody to
//! repeat it, and creating it again can be compared with what it was.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use raft_core::{GroupId, GroupIncarnation, Member, NodeId, ReplicaId, Standing};
use serde::{Deserialize, Serialize};

use crate::persistence::{FlushPolicy, Persistence, Strategy};

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
    /// When its entries count: fixed for the life of the group, and the same on all nodes; a node
    /// with another one is given nothing to acknowledge. `None`: as the node's default
    /// ([`NodeOptions::persistence`](crate::NodeOptions::persistence)) says when the group is made.
    pub strategy: Option<Strategy>,
    /// How long entries may wait for their sync, where the strategy lets them. `None`: as the node's
    /// default says at each start.
    pub flush: Option<FlushPolicy>,
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
            strategy: None,
            flush: None,
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
            strategy: None,
            flush: None,
            label: Bytes::new(),
        }
    }

    /// With whom the group began, by id, all of them voters. Nobody is known of a spec that only joins.
    pub(crate) fn founders(&self) -> impl Iterator<Item = Member> {
        let replicas = match self.origin {
            Origin::Founding => &self.replicas[..],
            Origin::Joining => &[],
        };
        let voter = |&(replica, node)| Member { replica, node, standing: Standing::Voter };
        replicas.iter().map(voter)
    }

    /// The same spec with a label.
    #[must_use]
    pub fn with_label(mut self, label: impl Into<Bytes>) -> Self {
        self.label = label.into();
        self
    }

    /// The same spec with a strategy and a flush policy of its own.
    #[must_use]
    pub fn with_persistence(mut self, persistence: Persistence) -> Self {
        self.strategy = Some(persistence.strategy);
        self.flush = Some(persistence.flush);
        self
    }

    /// Whether a group that is on `node` with `self` is what a creator wants, who may leave to it what
    /// it is not particular about. Whoever founds a group may find that a later replica of it has
    /// taken the place of the one it names here.
    pub(crate) fn is_wanted(&self, wanted: &Self, node: NodeId) -> bool {
        let is_successor = self.origin == Origin::Joining
            && wanted.origin == Origin::Founding
            && wanted.replica_on(node).is_some_and(|older| Some(older) < self.replica_on(node));
        let (origin, replicas) = match is_successor {
            true => (self.origin, self.replicas.clone()),
            false => (wanted.origin, wanted.replicas.clone()),
        };
        let wanted = Self {
            origin,
            replicas,
            strategy: wanted.strategy.or(self.strategy),
            flush: wanted.flush.or(self.flush),
            ..wanted.clone()
        };
        *self == wanted
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
            strategy: self.strategy.unwrap_or_default().code(),
            flush: self.flush.map(FlushRecord::from),
            label: self.label.to_vec(),
        };
        postcard::to_allocvec(&record).expect("a plain struct always encodes").into()
    }

    /// Whether the group counts what is written. What decides is what the spec has recorded, not what a
    /// configuration says by now.
    pub(crate) fn counts_written(&self) -> bool {
        self.strategy == Some(Strategy::MemFirst)
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
            strategy: Some(Strategy::from_code(record.strategy)?),
            flush: record.flush.map(FlushPolicy::from),
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
        if let Some(strategy) = self.strategy {
            write!(f, ", {strategy}")?;
        }
        match self.flush {
            Some(FlushPolicy::Immediate) => f.write_str(", flushed at once")?,
            Some(FlushPolicy::Batch { threshold, interval }) => {
                write!(f, ", flushed after {threshold} entries or {interval:?}")?;
            }
            None => {}
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
    /// A [`Strategy`], by its number.
    strategy: u8,
    flush: Option<FlushRecord>,
    label: Vec<u8>,
}

/// A flush policy of a group's own.
#[derive(Deserialize, Serialize)]
enum FlushRecord {
    Immediate,
    Batch { threshold: u64, interval_us: u64 },
}

impl From<FlushPolicy> for FlushRecord {
    fn from(flush: FlushPolicy) -> Self {
        match flush {
            FlushPolicy::Immediate => Self::Immediate,
            FlushPolicy::Batch { threshold, interval } => {
                Self::Batch { threshold, interval_us: interval.as_micros() as u64 }
            }
        }
    }
}

impl From<FlushRecord> for FlushPolicy {
    fn from(flush: FlushRecord) -> Self {
        match flush {
            FlushRecord::Immediate => Self::Immediate,
            FlushRecord::Batch { threshold, interval_us } => {
                Self::Batch { threshold, interval: Duration::from_micros(interval_us) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As it comes back: what was left to the default is said.
    fn kept(spec: GroupSpec) -> GroupSpec {
        GroupSpec { strategy: Some(spec.strategy.unwrap_or_default()), ..spec }
    }

    #[test]
    fn the_order_of_replicas_means_nothing() {
        let spec =
            |nodes: [u64; 3]| kept(GroupSpec::on_nodes(GroupId::new(9), nodes.map(NodeId::new)));
        assert_eq!(spec([3, 1, 2]).in_order(), spec([1, 2, 3]));
        // A log may hold a spec from when its order was the creator's.
        assert_eq!(GroupSpec::decode(&spec([3, 1, 2]).encode()), Some(spec([1, 2, 3])));
    }

    #[test]
    fn a_spec_survives_the_log() {
        let spec = GroupSpec::on_nodes(GroupId::new(9), [1, 2, 3].map(NodeId::new))
            .with_label("slots 0-99");
        let spec = kept(spec);
        assert_eq!(GroupSpec::decode(&spec.encode()), Some(spec.clone()));
        // The bytes are on disks: they may not change.
        assert_eq!(
            &spec.encode()[..],
            [&[1, 9, 1, 3, 1, 1, 2, 2, 3, 3, 0, 0, 10][..], b"slots 0-99"].concat()
        );
        assert_eq!(
            spec.to_string(),
            "life 1, founded with replica 1 on node 1, replica 2 on node 2, replica 3 on node 3, \
             DiskFirst, label \"slots 0-99\""
        );
        let joining = kept(GroupSpec::joining(GroupId::new(9), ReplicaId::new(4), NodeId::new(7)));
        assert_eq!(GroupSpec::decode(&joining.encode()), Some(joining.clone()));
        assert_eq!(&joining.encode()[..], [2, 9, 1, 1, 4, 7, 0, 0, 0]);
        assert_eq!(GroupSpec::decode(&[3, 9, 1, 1, 4, 7, 0, 0, 0]), None);
        assert_eq!(GroupSpec::decode(&[2, 9, 1, 1, 4, 7, 2, 0, 0]), None, "no such strategy");
    }

    #[test]
    fn a_strategy_survives_the_log_and_who_names_none_wants_the_one_there_is() {
        let (threshold, interval) = (300, Duration::from_millis(20));
        let flush = FlushPolicy::Batch { threshold, interval };
        let plain = GroupSpec::joining(GroupId::new(9), ReplicaId::new(4), NodeId::new(7));
        let fast =
            plain.clone().with_persistence(Persistence { strategy: Strategy::MemFirst, flush });
        let bytes = fast.encode();
        // The bytes are on disks: they may not change.
        assert_eq!(&bytes[..], [2, 9, 1, 1, 4, 7, 1, 1, 1, 172, 2, 160, 156, 1, 0]);
        assert_eq!(GroupSpec::decode(&bytes), Some(fast.clone()));
        assert!(fast.to_string().ends_with(", MemFirst, flushed after 300 entries or 20ms"));
        let node = NodeId::new(7);
        assert!(fast.is_wanted(&plain, node) && fast.is_wanted(&fast, node));
        let durable = GroupSpec { strategy: Some(Strategy::DiskFirst), ..plain.clone() };
        assert!(!fast.is_wanted(&durable, node) && !durable.is_wanted(&fast, node));
    }

    #[test]
    fn whoever_founds_a_group_finds_the_successor_of_the_replica_it_names() {
        let [one, seven] = [1, 7].map(NodeId::new);
        let founding = GroupSpec::on_nodes(GroupId::new(9), [one, seven]);
        let joined = |replica| GroupSpec::joining(GroupId::new(9), ReplicaId::new(replica), seven);
        assert!(joined(8).is_wanted(&founding, seven));
        assert!(!joined(7).is_wanted(&founding, seven), "that one cannot have joined");
        assert!(!joined(8).with_label("another").is_wanted(&founding, seven));
        assert!(!founding.is_wanted(&joined(8), seven));
        let elsewhere = GroupSpec::on_nodes(GroupId::new(9), [one]);
        assert!(!joined(8).is_wanted(&elsewhere, seven));
    }
}
