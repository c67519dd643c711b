//! The state of a node and its groups as values: for status pages, metrics and tests.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use raft_core::{
    GroupId, Incarnation, LogIndex, LogTime, Member, NodeId, Promise, RoleKind, Standing, Term,
};
use serde::{Deserialize, Serialize, Serializer};

use crate::counters::CountersSnapshot;
use crate::persistence::Strategy;

/// What a replica is at the moment.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// It follows.
    Follower,
    /// It asks whether it would be elected.
    PreCandidate,
    /// It stands for election.
    Candidate,
    /// It leads.
    Leader,
}

impl From<RoleKind> for Role {
    fn from(role: RoleKind) -> Self {
        match role {
            RoleKind::Follower => Self::Follower,
            RoleKind::PreCandidate => Self::PreCandidate,
            RoleKind::Candidate => Self::Candidate,
            RoleKind::Leader => Self::Leader,
        }
    }
}

/// One group on one node.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct GroupStatus {
    /// Which group.
    #[serde(rename = "id", serialize_with = "group")]
    pub group: GroupId,
    /// What this node's replica is.
    pub role: Role,
    /// The node that leads, as far as known.
    #[serde(serialize_with = "maybe_node")]
    pub leader: Option<NodeId>,
    /// The replica's term.
    #[serde(serialize_with = "term")]
    pub term: Term,
    /// Where its log ends.
    #[serde(serialize_with = "index")]
    pub last_index: LogIndex,
    /// Up to here the log is on disk.
    #[serde(serialize_with = "index")]
    pub durable_index: LogIndex,
    /// About how many bytes of applied entries are not on disk yet; what is not applied is not
    /// counted.
    pub flush_lag_bytes: u64,
    /// For how long the oldest operation that is not on disk has waited for it, in milliseconds.
    pub flush_lag_ms: u64,
    /// Up to here it is committed.
    #[serde(serialize_with = "index")]
    pub commit_index: LogIndex,
    /// Up to here it is applied.
    #[serde(serialize_with = "index")]
    pub applied_index: LogIndex,
    /// The leader's clock at the applied index, in milliseconds since the Unix epoch.
    #[serde(serialize_with = "time")]
    pub log_time: LogTime,
    /// Commands applied since the start of the process, replay included.
    #[serde(rename = "applied_commands_total")]
    pub applied_commands: u64,
    /// When its entries count, as its log says.
    pub strategy: Strategy,
    /// How often somebody accepted that entries may be lost.
    pub loss_epoch: u32,
    /// Of what is committed, what a quorum is known to have on disk: no power cut takes it.
    #[serde(serialize_with = "index")]
    pub quorum_durable_index: LogIndex,
    /// The application's label.
    #[serde(serialize_with = "label")]
    pub label: Bytes,
    /// Up to here a snapshot of this replica's own reaches.
    #[serde(serialize_with = "index")]
    pub snapshot_index: LogIndex,
    /// Up to here its log is compacted away.
    #[serde(serialize_with = "index")]
    pub base_index: LogIndex,
    /// Who belongs to the group, by the newest membership in this replica's log.
    #[serde(serialize_with = "members")]
    pub members: Vec<Member>,
    /// Whether the replica knows for certain that it was removed.
    pub removed: bool,
    /// Whether entries that its log held when this life of the node began are still to be applied:
    /// its replay is under way, or waits for a leader to say what is committed.
    pub is_replaying: bool,
    /// Whether it remembers all that it promised. One that does not neither votes nor counts: until it
    /// has learned again what it forgot, or, where it may have forgotten a vote, until it is replaced.
    #[serde(serialize_with = "promise")]
    pub promise: Promise,
    /// Why the replica is mute, if it is; or what it lacks, so that it is to be replaced: a state, or an entry
    /// that its snapshot leaves in the log.
    pub fault: Option<String>,
}

/// One peer as this node sees it.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct PeerStatus {
    /// Which node.
    #[serde(rename = "id", serialize_with = "node")]
    pub node: NodeId,
    /// Where it is dialed.
    pub address: String,
    /// Whether it is reached now: our control lane to it is open. A peer that died or stands
    /// still is noticed by the lane's keepalive.
    pub connected: bool,
    /// Why it is not reached though it answers: it refuses this node, or this node it.
    pub refusal: Option<String>,
    /// How long ago its last word came over the control plane, in milliseconds; `None` if there
    /// was none in this life of the node. Grows while neither has anything to say.
    pub silent_ms: Option<u64>,
}

/// A node in few words, see [`NodeHost::summary`](crate::NodeHost::summary).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct NodeSummary {
    /// Groups that were begun here.
    pub groups: u64,
    /// Groups led here, as far as it has got round.
    pub groups_led: u64,
    /// Commands applied in all groups since the start of the process, replay included.
    pub applied_commands: u64,
}

/// One node.
#[derive(Clone, Debug, Serialize)]
pub struct NodeStatus {
    /// Which node.
    #[serde(serialize_with = "node")]
    pub node: NodeId,
    /// The cluster it belongs to.
    pub cluster: String,
    /// Which life of the node this is.
    #[serde(serialize_with = "incarnation")]
    pub incarnation: Incarnation,
    /// Its Raft port.
    pub listen: Option<SocketAddr>,
    /// Shard threads.
    pub shards: usize,
    /// Whether the log is on disk or in memory (class C). When what is acknowledged is there is said by
    /// each group's strategy.
    pub durable: bool,
    /// Threads of the node that did not say within a second how they are: dead, or stuck. Of a
    /// shard that is missing, the groups are missing as well.
    pub missing: Vec<String>,
    /// Groups that are not told of because their shard is missing.
    pub groups_missing: usize,
    /// Why the node acknowledges nothing any more, see
    /// [`NodeHost::failure`](crate::NodeHost::failure).
    pub failure: Option<String>,
    /// For how long the log has been stuck in one call, if for longer than
    /// [`Settings::disk_stall_max`](raft_core::Settings::disk_stall_max). Others then lead what
    /// they can.
    pub log_stalled: Option<Duration>,
    /// After a stall: how many syncs in a row still have to be quick before this node leads again.
    pub log_convalescent: Option<u32>,
    /// For how long the log has waited for room on the disk, if it does. It goes on by itself once
    /// there is some; until then the node takes no entries and leads no group that another can.
    pub log_without_room: Option<Duration>,
    /// Bytes that were taken for the log and are not on disk yet.
    pub log_pending_bytes: u64,
    /// Beyond so many of them no more entries are taken.
    pub log_pending_bytes_max: u64,
    /// Commands applied in all groups since the start of the process, replay included.
    pub applied_commands_total: u64,
    /// Its groups, by id; those of shards that are [missing](Self::missing) are not among them.
    pub groups: Vec<GroupStatus>,
    /// The other nodes.
    pub peers: Vec<PeerStatus>,
    /// What the node counted.
    pub counters: CountersSnapshot,
    /// What its lanes counted.
    pub lanes: Vec<LaneStatus>,
    /// Its certificates; `None` if it has none.
    pub tls: Option<TlsStatus>,
}

/// The certificates of a node, and what became of its handshakes.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct TlsStatus {
    /// For how long peers will still take its certificate, in seconds.
    pub expires_seconds: u64,
    /// Handshakes by how they ended, since the start.
    pub counters: std::collections::BTreeMap<&'static str, u64>,
}

/// All connections of one kind of lane.
#[derive(Clone, Debug, Serialize)]
pub struct LaneStatus {
    /// Which lane.
    pub lane: String,
    /// Its counters by name, since the start; gauges say how many are open now.
    pub counters: std::collections::BTreeMap<&'static str, u64>,
}

impl NodeStatus {
    /// Groups without a known leader.
    pub fn leaderless(&self) -> impl Iterator<Item = &GroupStatus> {
        self.groups.iter().filter(|group| group.leader.is_none())
    }

    /// What is wrong with the node itself, in words; empty if it is well. An election is no illness.
    pub fn ailments(&self) -> Vec<String> {
        let mut ailments = Vec::new();
        if let Some(failure) = &self.failure {
            ailments.push(format!("failed: {failure}"));
        }
        if let Some(lasts) = self.log_stalled {
            ailments.push(format!("log stalled for {:.1} s", lasts.as_secs_f64()));
        }
        if let Some(lasts) = self.log_without_room {
            ailments.push(format!(
                "log waits for room for {:.1} s; {} bytes asked for",
                lasts.as_secs_f64(),
                self.log_pending_bytes
            ));
        }
        for thread in &self.missing {
            ailments.push(format!("{thread} does not answer"));
        }
        if self.groups_missing > 0 {
            ailments.push(format!("nothing is known of {} groups", self.groups_missing));
        }
        let faulted = self.groups.iter().filter(|group| group.fault.is_some()).count();
        if faulted > 0 {
            ailments.push(format!("{faulted} of {} groups faulted", self.groups.len()));
        }
        ailments
    }

    /// Why the node is not ready, in words; empty if it is. Ready means that it is
    /// [well](Self::ailments), knows a leader of every group here, and has applied what its log
    /// held when it started.
    pub fn unready(&self) -> Vec<String> {
        let mut unready = self.ailments();
        let all = self.groups.len();
        let leaderless = self.leaderless().count();
        if leaderless > 0 {
            unready.push(format!("{leaderless} of {all} groups without a leader"));
        }
        let forgetful = self.groups.iter().filter(|group| group.promise != Promise::Kept).count();
        if forgetful > 0 {
            unready.push(format!("{forgetful} of {all} groups may have forgotten entries here"));
        }
        let is_replaying = |group: &&GroupStatus| group.is_replaying && group.fault.is_none();
        let replaying = self.groups.iter().filter(is_replaying).count();
        if replaying > 0 {
            unready.push(format!("{replaying} of {all} groups replay their log"));
        }
        unready
    }

    /// How many groups are led here.
    pub fn led(&self) -> usize {
        self.groups.iter().filter(|group| group.role == Role::Leader).count()
    }

    /// The sum of a lane counter over all lanes.
    pub fn lane_total(&self, name: &str) -> u64 {
        self.lanes.iter().filter_map(|lane| lane.counters.get(name)).sum()
    }
}

fn group<S: Serializer>(id: &GroupId, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_u32(id.get())
}

fn promise<S: Serializer>(promise: &Promise, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_str(promise_name(*promise))
}

/// As status and metrics call it.
pub(crate) const fn promise_name(promise: Promise) -> &'static str {
    match promise {
        Promise::Kept => "kept",
        Promise::Lost => "lost",
        Promise::Damaged => "damaged",
        Promise::Unproven => "unproven",
    }
}

fn node<S: Serializer>(id: &NodeId, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_u64(id.get())
}

fn members<S: Serializer>(members: &[Member], s: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Line {
        replica: u64,
        node: u64,
        standing: &'static str,
    }
    s.collect_seq(members.iter().map(|member| Line {
        replica: member.replica.get(),
        node: member.node.get(),
        standing: match member.standing {
            Standing::Voter => "voter",
            Standing::Learner => "learner",
            Standing::Incoming => "incoming",
            Standing::Outgoing => "outgoing",
            Standing::Demoting => "demoting",
            Standing::Successor => "successor",
        },
    }))
}

fn maybe_node<S: Serializer>(id: &Option<NodeId>, s: S) -> Result<S::Ok, S::Error> {
    id.map(NodeId::get).serialize(s)
}

fn term<S: Serializer>(term: &Term, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_u64(term.get())
}

fn index<S: Serializer>(index: &LogIndex, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_u64(index.get())
}

fn time<S: Serializer>(time: &LogTime, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_u64(time.get())
}

fn incarnation<S: Serializer>(incarnation: &Incarnation, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_u64(incarnation.get())
}

fn label<S: Serializer>(label: &Bytes, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_str(&String::from_utf8_lossy(label))
}
