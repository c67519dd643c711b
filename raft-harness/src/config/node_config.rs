//! A configuration that passed every check: typed, complete, free of contradictions.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use raft_core::{NodeId, Settings};
use raft_mux::MuxConfig;
use raft_storage::LogOptions;
use raft_transport::{LaneLayout, LanePolicy};

use crate::Compression;
use crate::node::{
    Heartbeats, LaneConfigs, LogKind, LogPace, NetworkOptions, NodeOptions, PeerOptions, TlsOptions,
};
use crate::persistence::Persistence;

/// Everything a node needs to know before it starts.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// This node; one of [`peers`](Self::peers).
    pub node: NodeId,
    /// The cluster, 1 to 255 bytes.
    pub cluster: String,
    /// Where the log is.
    pub data_dir: PathBuf,
    /// Threads that own groups, 1 to 64.
    pub shards: usize,
    /// Threads that run state machines, 1 to 64.
    pub apply_workers: usize,
    /// Where this node listens.
    pub listen: ListenConfig,
    /// All nodes of the cluster in the order of the file; ids and addresses are distinct.
    pub peers: Vec<PeerConfig>,
    /// How many groups there are, 1 to 16,384; their ids are 1 to this.
    pub groups: u32,
    /// Timing and limits of every group; [`Settings::validate`] accepts them.
    pub settings: Settings,
    /// What the groups get when they are made; accepted by
    /// [`FlushPolicy::check`](crate::FlushPolicy::check).
    pub persistence: Persistence,
    /// Where the word is kept that tells a killed process from lost power, if any is.
    pub certificate_dir: Option<PathBuf>,
    /// The size of one file of the log, in bytes.
    pub segment_bytes: u64,
    /// How often the log may sync.
    pub log_pace: LogPace,
    /// After how many bytes of log a checkpoint of it is made.
    pub checkpoint_bytes: u64,
    /// All of the log is read once in so long.
    pub log_scrub: Option<std::time::Duration>,
    /// After how many commands of a group a snapshot of it is taken.
    pub snapshot_every: u64,
    /// After how many bytes of them.
    pub snapshot_bytes: u64,
    /// How snapshots are written.
    pub snapshot_compression: Compression,
    /// How long a new connection may take to name its group.
    pub prefix_timeout: Duration,
    /// Most connections that have not named it yet.
    pub half_open_max: usize,
    /// The certificates by which nodes know each other, if they do.
    pub tls: Option<TlsOptions>,
    /// The settings of the lanes.
    pub lanes: LaneConfigs,
    /// Which lanes the node dials.
    pub layout: LaneLayout,
    /// How heartbeats travel.
    pub heartbeats: Heartbeats,
    /// Which appends travel on the bulk lane.
    pub lane_policy: LanePolicy,
    /// Room for messages that no window holds, in bytes.
    pub grant_bytes_max: u64,
    /// Longest a stopping node hands over its leaderships.
    pub drain: Duration,
    /// What is traced, unless `RUST_LOG` says otherwise.
    pub trace_filter: String,
}

impl NodeConfig {
    /// This node's entry among the peers.
    pub fn own_peer(&self) -> &PeerConfig {
        self.peers
            .iter()
            .find(|peer| peer.id == self.node)
            .expect("the check refuses a configuration whose own id is not among the peers")
    }

    /// What a node is told at its start. [`NodeOptions::validate`] accepts it.
    pub fn node_options(&self) -> NodeOptions {
        let options = NodeOptions::default();
        NodeOptions {
            node: self.node,
            cluster: self.cluster.clone(),
            network: NetworkOptions::Tcp {
                listen: self.listen.raft,
                mux: MuxConfig {
                    prefix_timeout: self.prefix_timeout,
                    half_open_max: self.half_open_max,
                    // A wildcard is never told to peers; our own entry says how they reach us.
                    advertise: self.own_peer().raft.parse::<SocketAddr>().ok(),
                    ..MuxConfig::default()
                },
            },
            tls: self.tls.clone(),
            peers: self
                .peers
                .iter()
                .filter(|peer| peer.id != self.node)
                .map(|peer| PeerOptions { node: peer.id, address: peer.raft.clone() })
                .collect(),
            log: LogKind::Directory {
                path: self.data_dir.clone(),
                options: LogOptions {
                    segment_bytes: self.segment_bytes,
                    checkpoint_bytes: self.checkpoint_bytes,
                    ..LogOptions::default()
                },
            },
            log_scrub: self.log_scrub,
            persistence: self.persistence,
            certificate_dir: self.certificate_dir.clone(),
            log_pace: self.log_pace,
            snapshot_every: Some(self.snapshot_every),
            snapshot_bytes: Some(self.snapshot_bytes),
            snapshot_compression: self.snapshot_compression,
            shards: self.shards,
            apply_workers: self.apply_workers,
            settings: self.settings.clone(),
            // Smaller frames carry smaller commands.
            command_bytes_max: options.command_bytes_max.min(self.lanes.command_bytes_max()),
            lanes: self.lanes.clone(),
            layout: self.layout,
            heartbeats: self.heartbeats,
            lane_policy: self.lane_policy,
            grant_bytes_max: self.grant_bytes_max,
            ..options
        }
    }
}

/// The addresses of this node's listeners; no two share a port.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ListenConfig {
    /// For peers.
    pub raft: SocketAddr,
    /// For clients that know Redis Cluster.
    pub resp: SocketAddr,
    /// For plain Redis clients.
    pub resp_proxy: SocketAddr,
    /// For operators; a loopback address.
    pub admin: SocketAddr,
}

/// One node as the others reach it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PeerConfig {
    /// The node.
    pub id: NodeId,
    /// Its address for peers, `host:port`.
    pub raft: String,
    /// Its address for clients that know Redis Cluster, `host:port`.
    pub resp: String,
}
