//! The status of a node as JSON: an interface, so it has types of its own.
//!
//! Written by the admin port, read by `raftd status`, the demo and scripts. Fields are only ever
//! added. Every number is one that means something alone; lags are told, not left to subtract.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::node_status::{GroupStatus, NodeStatus, Role};
use crate::persistence::Strategy;

/// One node.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct StatusView {
    /// Which node.
    pub node: u64,
    /// The cluster it belongs to.
    pub cluster: String,
    /// Which life of the node this is; it grows with every start.
    pub incarnation: u64,
    /// Its Raft port.
    pub listen: Option<String>,
    /// Whether it keeps a log on disk. What an acknowledged write has behind it is said by each group's
    /// strategy.
    pub durable: bool,
    /// Bytes that were taken for the log and are not on disk yet.
    #[serde(default)]
    pub log_pending_bytes: u64,
    /// Beyond so many of them no more entries are taken.
    #[serde(default)]
    pub log_pending_bytes_max: u64,
    /// Threads that own groups.
    pub shards: u64,
    /// What is wrong with the node itself, in words; empty if it is well.
    pub ailments: Vec<String>,
    /// Why it is not ready to serve all its groups, in words; empty if it is.
    pub unready: Vec<String>,
    /// Its threads that do not say how they are; the groups of a shard among them are missing.
    pub missing: Vec<String>,
    /// Groups that are not told of for that reason.
    pub groups_missing: u64,
    /// Why it acknowledges nothing any more, if so.
    pub failure: Option<String>,
    /// For how long its log has been stuck in one call, if it is.
    pub log_stalled_ms: Option<u64>,
    /// How many syncs in a row still have to be quick after it was, before this node leads again.
    #[serde(default)]
    pub log_convalescent: Option<u32>,
    /// For how long its log has waited for room on the disk, if it does.
    #[serde(default)]
    pub log_without_room_ms: Option<u64>,
    /// How many groups it leads.
    pub groups_led: u64,
    /// The groups for which it knows no leader: the bad news first.
    pub leaderless: Vec<u32>,
    /// The groups whose replica here is mute.
    pub faulted: Vec<u32>,
    /// Commands applied in all groups since the start of the process, replay included.
    pub applied_commands_total: u64,
    /// For how long peers will still take its certificate, in seconds; `None` if it has none.
    #[serde(default)]
    pub tls_expires_seconds: Option<u64>,
    /// What the node counted since its start.
    pub counters: BTreeMap<String, u64>,
    /// What its lanes counted since its start.
    pub lanes: Vec<LaneView>,
    /// The other nodes.
    pub peers: Vec<PeerView>,
    /// Its groups, by id.
    pub groups: Vec<GroupView>,
}

/// One group on one node.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct GroupView {
    /// Which group.
    pub id: u32,
    /// What the replica is.
    pub role: Role,
    /// The node that leads, as far as known.
    pub leader: Option<u64>,
    /// The replica's term.
    pub term: u64,
    /// Where its log ends.
    pub last_index: u64,
    /// Up to here the log is on disk.
    pub durable_index: u64,
    /// Up to here it is committed.
    pub commit_index: u64,
    /// Up to here it is applied.
    pub applied_index: u64,
    /// Entries that are not on disk yet.
    pub flush_lag: u64,
    /// About how many bytes of applied entries are not.
    #[serde(default)]
    pub flush_lag_bytes: u64,
    /// For how long the oldest of what is not has waited, in milliseconds.
    #[serde(default)]
    pub flush_lag_ms: u64,
    /// Of what is committed, what a quorum is known to have on disk.
    #[serde(default)]
    pub quorum_durable_index: u64,
    /// When entries count, as the group's log says.
    #[serde(default)]
    pub strategy: Strategy,
    /// Whether this replica may have forgotten what it acknowledged: it does not count then.
    #[serde(default)]
    pub may_have_forgotten: bool,
    /// Entries that are committed and not applied yet.
    pub apply_lag: u64,
    /// Commands applied since the start of the process, replay included.
    pub applied_commands_total: u64,
    /// What the group is for.
    pub label: String,
    /// Whether entries that its log held at the start are still to be applied.
    #[serde(default)]
    pub is_replaying: bool,
    /// Whether it remembers all that it promised: kept, lost, damaged or unproven.
    #[serde(default = "kept")]
    pub promise: String,
    /// Why the replica is mute, if it is.
    pub fault: Option<String>,
}

fn kept() -> String {
    "kept".to_owned()
}

/// One other node.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct PeerView {
    /// Which node.
    pub node: u64,
    /// Where it is dialed.
    pub address: String,
    /// Whether it is reached now. A peer that died or stands still is noticed within seconds.
    #[serde(default)]
    pub connected: bool,
    /// Why it is not reached though it answers, if that is so.
    #[serde(default)]
    pub refusal: Option<String>,
    /// How long ago its last word came, in milliseconds; none if there was none in this life of
    /// the node.
    #[serde(default)]
    pub silent_ms: Option<u64>,
}

/// All connections of one kind of lane.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct LaneView {
    /// Which lane.
    pub lane: String,
    /// Its counters by name.
    pub counters: BTreeMap<String, u64>,
}

/// A digest of a group's state machine.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct DigestView {
    /// Which group.
    pub group: u32,
    /// The state after this entry.
    pub applied_index: u64,
    /// Equal on all replicas at the same applied index; hexadecimal, as JSON numbers lose digits.
    pub digest: String,
}

impl StatusView {
    /// A counter of the node; zero if it has none of that name.
    pub fn counter(&self, name: &str) -> u64 {
        self.counters.get(name).copied().unwrap_or(0)
    }

    /// What of the writes it acknowledges can be lost, in words.
    pub fn loss_window(&self) -> String {
        let counts_written = |group: &&GroupView| group.strategy == Strategy::MemFirst;
        match self.groups.iter().filter(counts_written).count() {
            _ if !self.durable => "everything (memory log)".to_owned(),
            0 if self.groups_missing > 0 => "none (DiskFirst) in the groups that answer".to_owned(),
            0 => "none (DiskFirst)".to_owned(),
            groups => format!(
                "up to the flush policy, if a quorum loses power (MemFirst: {groups} groups)"
            ),
        }
    }

    /// The sum of a lane counter over all lanes.
    pub fn lane_total(&self, name: &str) -> u64 {
        self.lanes.iter().filter_map(|lane| lane.counters.get(name)).sum()
    }
}

impl From<&NodeStatus> for StatusView {
    fn from(status: &NodeStatus) -> Self {
        let groups: Vec<GroupView> = status.groups.iter().map(GroupView::from).collect();
        let ids = |chosen: fn(&GroupView) -> bool| {
            groups.iter().filter(|group| chosen(group)).map(|group| group.id).collect()
        };
        Self {
            node: status.node.get(),
            cluster: status.cluster.clone(),
            incarnation: status.incarnation.get(),
            listen: status.listen.map(|address| address.to_string()),
            durable: status.durable,
            log_pending_bytes: status.log_pending_bytes,
            log_pending_bytes_max: status.log_pending_bytes_max,
            shards: status.shards as u64,
            ailments: status.ailments(),
            unready: status.unready(),
            missing: status.missing.clone(),
            groups_missing: status.groups_missing as u64,
            failure: status.failure.clone(),
            log_stalled_ms: status.log_stalled.map(|lasts| lasts.as_millis() as u64),
            log_convalescent: status.log_convalescent,
            log_without_room_ms: status.log_without_room.map(|lasts| lasts.as_millis() as u64),
            groups_led: status.led() as u64,
            leaderless: ids(|group| group.leader.is_none()),
            faulted: ids(|group| group.fault.is_some()),
            applied_commands_total: status.applied_commands_total,
            counters: status
                .counters
                .iter()
                .chain(
                    status
                        .tls
                        .iter()
                        .flat_map(|tls| tls.counters.iter().map(|(name, value)| (*name, *value))),
                )
                .map(|(name, value)| (name.to_owned(), value))
                .collect(),
            tls_expires_seconds: status.tls.as_ref().map(|tls| tls.expires_seconds),
            lanes: status
                .lanes
                .iter()
                .map(|lane| LaneView {
                    lane: lane.lane.clone(),
                    counters: lane
                        .counters
                        .iter()
                        .map(|(name, value)| ((*name).to_owned(), *value))
                        .collect(),
                })
                .collect(),
            peers: status
                .peers
                .iter()
                .map(|peer| PeerView {
                    node: peer.node.get(),
                    address: peer.address.clone(),
                    connected: peer.connected,
                    refusal: peer.refusal.clone(),
                    silent_ms: peer.silent_ms,
                })
                .collect(),
            groups,
        }
    }
}

impl From<&GroupStatus> for GroupView {
    fn from(group: &GroupStatus) -> Self {
        Self {
            id: group.group.get(),
            role: group.role,
            leader: group.leader.map(raft_core::NodeId::get),
            term: group.term.get(),
            last_index: group.last_index.get(),
            durable_index: group.durable_index.get(),
            commit_index: group.commit_index.get(),
            applied_index: group.applied_index.get(),
            flush_lag: group.last_index.since(group.durable_index),
            flush_lag_bytes: group.flush_lag_bytes,
            flush_lag_ms: group.flush_lag_ms,
            quorum_durable_index: group.quorum_durable_index.get(),
            strategy: group.strategy,
            may_have_forgotten: group.promise != raft_core::Promise::Kept,
            apply_lag: group.commit_index.since(group.applied_index),
            applied_commands_total: group.applied_commands,
            label: String::from_utf8_lossy(&group.label).into_owned(),
            is_replaying: group.is_replaying,
            promise: crate::node_status::promise_name(group.promise).to_owned(),
            fault: group.fault.clone(),
        }
    }
}
