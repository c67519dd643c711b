//! The cluster as clients see it: who answers for which slots, in Redis Cluster's own words.
//!
//! Addresses and replicas come from the configuration, leaders and who is reached from the engine.
//! A node's name is made from its id, so it is the same on every node and after every restart.
//!
//! A description is made once and given to all who ask, until a leader or a node's health changes:
//! it has an entry per group, and all clients ask at once after an election. While changes come
//! one after the other, it may be `DESCRIPTION_AGE_MAX` old; a client that was led astray by it
//! is told `MOVED`, which is never old.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use raft_core::{GroupId, NodeId};

use super::backend::Backend;
use super::parser::Request;
use super::reply::Reply;
use super::request::{ArgumentError, integer};
use crate::group_spec::GroupSpec;
use crate::kv::slots::{SLOT_COUNT, SlotMap, key_slot};

/// Where clients reach one node.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FrontNode {
    /// The node.
    pub node: NodeId,
    /// A host name or address that clients can connect to.
    pub host: String,
    /// Its cluster port.
    pub port: u16,
}

/// Who could answer for what: all nodes, and the groups with their replicas. Clones share what was
/// learned of it since.
#[derive(Clone, Debug)]
pub struct Topology {
    node: NodeId,
    nodes: Vec<FrontNode>,
    slots: SlotMap,
    /// By group id less one.
    replicas: Vec<Vec<NodeId>>,
    /// Whether there is a log on disk; what `CONFIG GET appendonly` says.
    durable: bool,
    /// Whether some writes are acknowledged before they are there; what `CONFIG GET appendfsync` says.
    syncs_later: Arc<AtomicBool>,
}

/// A topology that contradicts itself.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum TopologyError {
    /// A node, this one or one with a replica, has no address.
    #[error("node {node} has no client address")]
    NodeWithoutAddress {
        /// The node.
        node: NodeId,
    },
    /// A group that owns slots is missing, or has no replica.
    #[error("group {group} has no replica")]
    GroupWithoutReplica {
        /// The group.
        group: GroupId,
    },
}

/// Who answers for a group, as seen from this node.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Leader<'a> {
    /// This node leads it.
    Here,
    /// Ask that node: it leads the group, or knows better than we do.
    At(&'a FrontNode),
    /// Nobody, for now.
    Nobody,
}

impl Topology {
    /// Checks and builds the topology as seen from `node`. `durable`: there is a log on disk.
    ///
    /// # Errors
    /// [`TopologyError`] if a node has no address or a group of the slot map no replica.
    pub fn new(
        node: NodeId,
        nodes: Vec<FrontNode>,
        slots: SlotMap,
        specs: &[GroupSpec],
        durable: bool,
    ) -> Result<Self, TopologyError> {
        let mut replicas = vec![Vec::new(); slots.group_count() as usize];
        for spec in specs {
            let index = spec.group.get().checked_sub(1).map(|index| index as usize);
            if let Some(replicas) = index.and_then(|index| replicas.get_mut(index)) {
                replicas.extend(spec.replicas.iter().map(|&(_, node)| node));
            }
        }
        for (group, replicas) in slots.groups().zip(&replicas) {
            if replicas.is_empty() {
                return Err(TopologyError::GroupWithoutReplica { group });
            }
        }
        for &node in replicas.iter().flatten().chain([&node]) {
            if !nodes.iter().any(|front| front.node == node) {
                return Err(TopologyError::NodeWithoutAddress { node });
            }
        }
        Ok(Self { node, nodes, slots, replicas, durable, syncs_later: Arc::default() })
    }

    /// Some groups acknowledge what is in memory and sync it later
    /// ([`MemFirst`](crate::Strategy::MemFirst)): clients that ask are to know it.
    pub fn syncing_later(self) -> Self {
        self.set_syncing_later(true);
        self
    }

    /// Whether some do, as it is known by now; all clones say so from then on.
    pub fn set_syncing_later(&self, some_do: bool) {
        self.syncs_later.store(some_do, Relaxed);
    }

    /// This node.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// The division of slots into groups.
    pub fn slots(&self) -> SlotMap {
        self.slots
    }

    /// Whether writes go to a log on disk.
    pub fn is_durable(&self) -> bool {
        self.durable
    }

    /// The same in the words of Redis: what a loss of power may take of a log that syncs `everysec` it may
    /// take here, if a quorum loses power.
    pub(super) fn appendfsync(&self) -> &'static str {
        match (self.durable, self.syncs_later.load(Relaxed)) {
            (false, _) => "no",
            (true, false) => "always",
            (true, true) => "everysec",
        }
    }

    pub(super) fn front(&self, node: NodeId) -> Option<&FrontNode> {
        self.nodes.iter().find(|front| front.node == node)
    }

    /// All nodes but this one.
    pub(super) fn others(&self) -> impl Iterator<Item = &FrontNode> {
        self.nodes.iter().filter(|front| front.node != self.node)
    }

    /// The node at an address of the form `host:port`.
    pub(super) fn node_at(&self, address: &str) -> Option<NodeId> {
        let (host, port) = address.rsplit_once(':')?;
        let port: u16 = port.parse().ok()?;
        let found = self.nodes.iter().find(|front| front.port == port && front.host == host);
        found.map(|front| front.node)
    }

    pub(super) fn leader(&self, backend: &impl Backend, group: GroupId) -> Leader<'_> {
        match backend.leader_of(group) {
            Some(node) if node == self.node => Leader::Here,
            Some(node) => self.front(node).map_or(Leader::Nobody, Leader::At),
            None => {
                // We know the leaders of our own groups only. Of another group any replica
                // knows more than we do.
                let replicas = self.replicas_of(group);
                if replicas.contains(&self.node) {
                    return Leader::Nobody;
                }
                let first = replicas.first().and_then(|&node| self.front(node));
                first.map_or(Leader::Nobody, Leader::At)
            }
        }
    }

    /// This node always reaches itself.
    fn is_reached(&self, backend: &impl Backend, node: NodeId) -> bool {
        node == self.node || backend.is_reached(node)
    }

    fn replicas_of(&self, group: GroupId) -> &[NodeId] {
        let index = group.get().checked_sub(1).map(|index| index as usize);
        index.and_then(|index| self.replicas.get(index)).map_or(&[], Vec::as_slice)
    }

    /// Neighbouring groups with the same leader and replicas, as one range of slots each.
    fn ranges(&self, backend: &impl Backend) -> Vec<SlotRange<'_>> {
        let mut ranges: Vec<SlotRange<'_>> = Vec::new();
        for group in self.slots.groups() {
            let Some(slots) = self.slots.range_of(group) else {
                continue;
            };
            let leader = match self.leader(backend, group) {
                Leader::Here => self.front(self.node),
                Leader::At(front) => Some(front),
                Leader::Nobody => None,
            };
            let Some(leader) = leader else { continue };
            let replicas = self.replicas_of(group);
            match ranges.last_mut() {
                Some(last)
                    if last.end + 1 == *slots.start()
                        && last.leader == leader
                        && last.replicas == replicas =>
                {
                    last.end = *slots.end();
                }
                Some(_) | None => ranges.push(SlotRange {
                    start: *slots.start(),
                    end: *slots.end(),
                    leader,
                    replicas,
                }),
            }
        }
        ranges
    }
}

/// Slots with one leader. Slots of groups without a leader are in no range.
struct SlotRange<'a> {
    start: u16,
    end: u16,
    leader: &'a FrontNode,
    replicas: &'a [NodeId],
}

/// How old a description may be while leaders change faster than it can be made.
const DESCRIPTION_AGE_MAX: Duration = Duration::from_millis(50);

/// The cluster in the words of several commands, as it was at one moment.
#[derive(Debug)]
struct Description {
    /// What it rests on: another number of the engine's, or other nodes reached, and it is out of
    /// date. Without a number it always is.
    version: Option<u64>,
    reached: Vec<bool>,
    made: Instant,
    slots: Arc<Reply>,
    shards: Arc<Reply>,
    nodes: Arc<Reply>,
    info: Arc<Reply>,
}

/// The newest description; empty until somebody asks.
#[derive(Debug, Default)]
pub(super) struct Descriptions {
    newest: Mutex<Option<Description>>,
}

impl Descriptions {
    /// One of the descriptions, made anew if need be. Others who ask meanwhile wait for it.
    fn get(
        &self,
        topology: &Topology,
        backend: &impl Backend,
        which: fn(&Description) -> &Arc<Reply>,
    ) -> Reply {
        let mut newest = self.newest.lock();
        let version = backend.leaders_version();
        let reached: Vec<bool> =
            topology.nodes.iter().map(|front| topology.is_reached(backend, front.node)).collect();
        let stands = newest.as_ref().is_some_and(|description| {
            version.is_some()
                && (description.made.elapsed() < DESCRIPTION_AGE_MAX
                    || (description.version == version && description.reached == reached))
        });
        if !stands {
            *newest = None;
        }
        let description =
            newest.get_or_insert_with(|| Description::new(topology, backend, version, reached));
        Reply::Shared(Arc::clone(which(description)))
    }
}

impl Description {
    fn new(
        topology: &Topology,
        backend: &impl Backend,
        version: Option<u64>,
        reached: Vec<bool>,
    ) -> Self {
        let ranges = topology.ranges(backend);
        let view = View { topology, ranges: &ranges, reached: &reached };
        let slots = Arc::new(view.slots());
        let shards = Arc::new(view.shards());
        let nodes = Arc::new(Reply::text(view.nodes()));
        let info = Arc::new(Reply::text(view.info()));
        drop(ranges);
        Self { version, reached, made: Instant::now(), slots, shards, nodes, info }
    }
}

/// What a `CLUSTER` subcommand needs.
pub(super) enum ClusterAnswer {
    /// The reply.
    Reply(Reply),
    /// `COUNTKEYSINSLOT`: a question to the group of this slot.
    CountKeys {
        /// The slot.
        slot: u16,
    },
}

/// Answers `CLUSTER` and its subcommands.
pub(super) fn answer(
    topology: &Topology,
    descriptions: &Descriptions,
    backend: &impl Backend,
    request: &Request<'_>,
) -> Result<ClusterAnswer, ArgumentError> {
    let subcommand = request.argument(1).unwrap_or_default();
    let argument = || request.argument(2).ok_or(ArgumentError::Arity("cluster"));
    Ok(ClusterAnswer::Reply(match super::request::upper(subcommand).as_slice() {
        b"SLOTS" => descriptions.get(topology, backend, |description| &description.slots),
        b"SHARDS" => descriptions.get(topology, backend, |description| &description.shards),
        b"NODES" => descriptions.get(topology, backend, |description| &description.nodes),
        b"INFO" => descriptions.get(topology, backend, |description| &description.info),
        b"MYID" => Reply::text(node_name(topology.node)),
        b"KEYSLOT" => Reply::Integer(i64::from(key_slot(argument()?))),
        b"COUNTKEYSINSLOT" => {
            let slot = integer(argument()?)?;
            return match u16::try_from(slot) {
                Ok(slot) if slot < SLOT_COUNT => Ok(ClusterAnswer::CountKeys { slot }),
                Ok(_) | Err(_) => Err(ArgumentError::Other("ERR Invalid slot")),
            };
        }
        _ => return Err(ArgumentError::unknown_subcommand("CLUSTER", subcommand)),
    }))
}

/// The name of a node: 40 hexadecimal digits, as Redis Cluster's are.
pub fn node_name(node: NodeId) -> String {
    // The first digits spell "raft", so that no node's name is all zeros.
    format!("72616674{:032x}", node.get())
}

/// The `MOVED` error that sends a client to the leader of a slot.
pub(super) fn moved(slot: u16, leader: &FrontNode) -> Reply {
    Reply::error(format!("MOVED {slot} {}:{}", leader.host, leader.port))
}

/// The cluster at one moment, to be told in several ways.
struct View<'a> {
    topology: &'a Topology,
    ranges: &'a [SlotRange<'a>],
    /// By the position of a node in the topology.
    reached: &'a [bool],
}

impl View<'_> {
    fn is_reached(&self, node: NodeId) -> bool {
        let mut nodes = self.topology.nodes.iter().zip(self.reached);
        nodes.any(|(front, &reached)| front.node == node && reached)
    }

    /// Replicas that are not reached are left out, as in Redis: clients would try them.
    fn slots(&self) -> Reply {
        let node = |front: &FrontNode| {
            Reply::Array(vec![
                Reply::text(front.host.clone()),
                Reply::Integer(i64::from(front.port)),
                Reply::text(node_name(front.node)),
                Reply::Array(Vec::new()),
            ])
        };
        let range = |range: &SlotRange<'_>| {
            let mut items = vec![
                Reply::Integer(i64::from(range.start)),
                Reply::Integer(i64::from(range.end)),
                node(range.leader),
            ];
            let followers = range.replicas.iter().filter(|&&node| node != range.leader.node);
            let reached = followers.filter(|&&node| self.is_reached(node));
            items.extend(reached.filter_map(|&node| self.topology.front(node)).map(node));
            Reply::Array(items)
        };
        Reply::Array(self.ranges.iter().map(range).collect())
    }

    /// One shard per node that leads: its slots, and who holds them. A node that neither leads nor
    /// follows anybody has one without slots, so that all are told of.
    fn shards(&self) -> Reply {
        let nodes = &self.topology.nodes;
        let follows = |node: NodeId, leader: &FrontNode| {
            node != leader.node
                && self
                    .ranges
                    .iter()
                    .any(|range| range.leader == leader && range.replicas.contains(&node))
        };
        let leads = |front: &FrontNode| self.ranges.iter().any(|range| range.leader == front);
        let told = |front: &&FrontNode| {
            leads(front) || !nodes.iter().any(|leader| follows(front.node, leader))
        };
        let shard = |leader: &FrontNode| {
            let own = self.ranges.iter().filter(|range| range.leader == leader);
            let slots = own.flat_map(|range| [range.start, range.end]);
            let followers = nodes.iter().filter(|front| follows(front.node, leader));
            let members = [self.member(leader, "master")]
                .into_iter()
                .chain(followers.map(|front| self.member(front, "replica")));
            Reply::Map(vec![
                (
                    Reply::text("slots"),
                    Reply::Array(slots.map(|slot| Reply::Integer(i64::from(slot))).collect()),
                ),
                (Reply::text("nodes"), Reply::Array(members.collect())),
            ])
        };
        Reply::Array(nodes.iter().filter(told).map(shard).collect())
    }

    fn member(&self, front: &FrontNode, role: &'static str) -> Reply {
        let health = if self.is_reached(front.node) { "online" } else { "fail" };
        Reply::Map(vec![
            (Reply::text("id"), Reply::text(node_name(front.node))),
            (Reply::text("port"), Reply::Integer(i64::from(front.port))),
            (Reply::text("ip"), Reply::text(front.host.clone())),
            (Reply::text("endpoint"), Reply::text(front.host.clone())),
            (Reply::text("role"), Reply::text(role)),
            (Reply::text("replication-offset"), Reply::Integer(0)),
            (Reply::text("health"), Reply::text(health)),
        ])
    }

    /// One line per node. All are masters: each leads some groups, or may at any moment.
    fn nodes(&self) -> String {
        let mut text = String::new();
        for front in &self.topology.nodes {
            let reached = self.is_reached(front.node);
            let flags = match (front.node == self.topology.node, reached) {
                (true, _) => "myself,master",
                (false, true) => "master",
                (false, false) => "master,fail",
            };
            let link = if reached { "connected" } else { "disconnected" };
            // Clients insist on a bus port, though we have no bus.
            let bus_port = front.port.checked_add(10_000).unwrap_or(front.port);
            let _ = write!(
                text,
                "{} {}:{}@{bus_port} {flags} - 0 0 {} {link}",
                node_name(front.node),
                front.host,
                front.port,
                front.node,
            );
            for range in self.ranges.iter().filter(|range| range.leader == front) {
                let _ = match range.end - range.start {
                    0 => write!(text, " {}", range.start),
                    _ => write!(text, " {}-{}", range.start, range.end),
                };
            }
            text.push('\n');
        }
        text
    }

    fn info(&self) -> String {
        let served: u32 =
            self.ranges.iter().map(|range| u32::from(range.end - range.start) + 1).sum();
        let mut masters: Vec<NodeId> = self.ranges.iter().map(|range| range.leader.node).collect();
        masters.sort_unstable();
        masters.dedup();
        let total = u32::from(SLOT_COUNT);
        let state = if served == total { "ok" } else { "fail" };
        format!(
            "cluster_state:{state}\r\ncluster_slots_assigned:{total}\r\n\
             cluster_slots_ok:{served}\r\ncluster_slots_pfail:0\r\ncluster_slots_fail:{}\r\n\
             cluster_known_nodes:{}\r\ncluster_size:{}\r\ncluster_current_epoch:1\r\n\
             cluster_my_epoch:1\r\n",
            total - served,
            self.topology.nodes.len(),
            masters.len(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_learn_when_a_write_is_on_disk() {
        let front = FrontNode { node: NodeId::new(1), host: "127.0.0.1".to_owned(), port: 1 };
        let slots = SlotMap::new(1).expect("a legal number of groups");
        let specs = [GroupSpec::on_nodes(GroupId::new(1), [NodeId::new(1)])];
        let topology = |durable| {
            Topology::new(NodeId::new(1), vec![front.clone()], slots, &specs, durable)
                .expect("complete")
        };
        assert_eq!(topology(true).appendfsync(), "always");
        let later = topology(true).syncing_later();
        let clone = later.clone();
        assert_eq!((later.appendfsync(), clone.appendfsync()), ("everysec", "everysec"));
        later.set_syncing_later(false);
        assert_eq!(clone.appendfsync(), "always", "it is known better by now");
        assert_eq!(topology(false).appendfsync(), "no");
    }
}
