//! What a node is told at its start.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use raft_core::{NodeId, Settings};
use raft_mux::{MuxConfig, PortLayout};
use raft_storage::ENTRY_BYTES_MAX;
use raft_transport::{GrantPool, Lane, LaneConfig, LaneLayout, LanePolicy, LaneWatch, Network};

use super::error::{StartError, TlsProblem};
use super::log_pace::LogPace;
use crate::persistence::{Persistence, Strategy};
use crate::snapshot::{Compression, SnapshotStore};

/// Everything a node is told at its start. Change what differs from the default.
pub struct NodeOptions {
    /// Which node this is. Default 1.
    pub node: NodeId,
    /// The cluster; nodes of different clusters refuse each other. Default `"cluster"`.
    pub cluster: String,
    /// How peers are reached. Default: TCP on a free loopback port.
    pub network: NetworkOptions,
    /// The certificates by which nodes know each other, and that what they say is encrypted. Only over
    /// TCP, and in builds with the feature `tls`. Default none: whoever reaches the port can pretend to be a
    /// node.
    pub tls: Option<TlsOptions>,
    /// The other nodes. Groups can live only on nodes named here and on this one.
    pub peers: Vec<PeerOptions>,
    /// Where entries become durable. There is no default that could surprise: memory.
    pub log: LogKind,
    /// Shard threads. Each owns a fixed part of the groups, so the number must stay the same
    /// only within one start. Default: half the cores, at least 1, at most 8.
    pub shards: usize,
    /// Threads that run state machines of [`ApplyMode::Worker`](crate::ApplyMode). Default 1.
    pub apply_workers: usize,
    /// Timing and limits of each group.
    pub settings: Settings,
    /// Which lanes this node dials. Default: control, a data lane per shard, and bulk. Peers may have
    /// other layouts: every node accepts every lane, so a cluster changes it node by node.
    pub layout: LaneLayout,
    /// How heartbeats travel. Default: batched.
    pub heartbeats: Heartbeats,
    /// Who is told what leaves and what comes on the lanes, on the threads that carry it: for benches
    /// and tests. Default: nobody.
    pub lane_watch: Option<Arc<dyn LaneWatch>>,
    /// Which appends travel on the bulk lane.
    pub lane_policy: LanePolicy,
    /// The lanes' own settings.
    pub lanes: LaneConfigs,
    /// Room for messages on their way here that are above a quarter of their lane's window, in
    /// bytes, over all lanes and peers: each is announced and waits until there is room for all of
    /// it. One that is longer than this has it alone. Default 128 MiB: two of the longest frames.
    pub grant_bytes_max: u64,
    /// The largest command taken, in bytes. Default 64 MiB.
    pub command_bytes_max: u64,
    /// Applied entries that a shard keeps in memory for peers that lag, in bytes, shared by its
    /// groups (each keeps at least 64 KiB); older ones are read back from the log.
    /// Default 8 MiB.
    pub window_bytes: u64,
    /// A snapshot of a group is taken when so many entries were applied since the last one, and
    /// the log before it, less `snapshot_tail`, is forgotten; `None`: not by their number. It costs
    /// the machine's whole state once. At least 1. Default 1,048,576.
    pub snapshot_every: Option<u64>,
    /// Entries before a snapshot that stay in the log: a peer that lags by less needs no snapshot.
    /// Default 16,384.
    pub snapshot_tail: u64,
    /// A snapshot is taken as well when so many bytes were applied since the last one, or as many
    /// as that one is long if it is longer: so a group's log stays near the size of its state, and
    /// writing snapshots never costs more than writing the log. What stays of the log before it
    /// is at most a quarter of that. `None`: not by bytes; without both, a snapshot is only taken
    /// when asked for. Default 64 MiB: a second of replay, and little beside a segment of the log.
    pub snapshot_bytes: Option<u64>,
    /// The log that a peer needs is kept while the peer is heard of: from the snapshot on that it
    /// is fetching, or from where it lags behind, up to so many bytes per group, or as many as the
    /// newest snapshot is long if it is longer. Without that a peer would never catch up where
    /// snapshots are taken faster than they move. Beyond it the log is compacted all the same, and
    /// `compactions_forced` counts it. Default 256 MiB: some seconds of writing at full speed.
    pub snapshot_hold_bytes: u64,
    /// How snapshots are written. Default: LZ4.
    pub snapshot_compression: Compression,
    /// Where snapshots are kept. `None`, the default: files beside the log, memory beside none.
    pub snapshots: Option<Arc<dyn SnapshotStore>>,
    /// All of the log, and all snapshots, are read once in so long, to find damage while others still have
    /// what it took; `None`: only what is needed is read. Default: a day.
    pub log_scrub: Option<Duration>,
    /// What groups get whose spec does not ask for another. Default: nothing is acknowledged before
    /// a quorum has it on disk.
    pub persistence: Persistence,
    /// Where the word is kept that tells a process that was killed from a machine that lost power: a
    /// directory on a `tmpfs`, which may be shared with other nodes. With it nothing is lost when
    /// all nodes of a [`MemFirst`](crate::Strategy::MemFirst) group are killed; where it cannot be
    /// kept, such groups wait for the disk here. `None`: no word is kept, and after any end that is
    /// not orderly this node's replicas of such groups take their promises for lost.
    /// Default: `/dev/shm`. Of no account to other groups.
    pub certificate_dir: Option<PathBuf>,
    /// How often the log may sync. Default: as learned from the disk's stalls.
    pub log_pace: LogPace,
    /// Entries that wait for the disk, in bytes, over all groups and shards of the node. Beyond it
    /// leaders here refuse proposals as overloaded and followers decline entries for a while, so
    /// that a disk that is slow or hangs costs no more memory than this and one command per shard.
    /// Votes and heartbeats go on. Default 64 MiB: a disk that writes 200 MB/s is busy with it for
    /// a third of a second.
    pub log_pending_bytes_max: u64,
    /// Requests under way in one shard; beyond it they are refused as overloaded.
    /// Default 131,072.
    pub requests_max: usize,
}

/// How peers are reached.
pub enum NetworkOptions {
    /// One TCP port for everything.
    Tcp {
        /// The address to listen on; port 0 picks a free one.
        listen: SocketAddr,
        /// The port's own limits and its advertised address.
        mux: MuxConfig,
    },
    /// Streams of the embedder's making.
    Custom(Arc<dyn Network>),
}

/// The certificates of a node. The files are looked at every few seconds: what has changed is used for new
/// connections, and those there are go on. Files that cannot be used are told, and those before stay in use.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TlsOptions {
    /// PEM: this node's certificate, for client and server, whose one name `raft://<cluster>/<node>` is this
    /// node's; then those between it and its CA, if there are any.
    pub certificate: PathBuf,
    /// PEM: the key of that certificate. It should be readable by this process alone.
    pub key: PathBuf,
    /// PEM: the CAs whose nodes are let in.
    pub ca: PathBuf,
    /// How long a handshake may take at either end, beside the time for connecting; the same at all
    /// nodes. Default 3 s: several round trips, and some processor time at both ends.
    pub handshake_timeout: Duration,
}

impl TlsOptions {
    /// The default of [`handshake_timeout`](Self::handshake_timeout).
    pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(3);
}

/// Another node.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PeerOptions {
    /// Which node.
    pub node: NodeId,
    /// Where its Raft port is: `host:port`.
    pub address: String,
}

/// Where entries become durable.
#[derive(Clone, Debug)]
pub enum LogKind {
    /// In a directory made by [`raft_storage::init`]: class A, every acknowledged write is on the
    /// disks of a quorum.
    Directory {
        /// The directory.
        path: PathBuf,
        /// Segment sizes and other settings of the log.
        options: raft_storage::LogOptions,
    },
    /// Nowhere: class C, a restart forgets everything. For tests and benches. A node that
    /// restarts with an empty memory must not come back under its old id.
    Memory {
        /// Applied entries that a shard keeps for peers, in bytes over its groups. `None` keeps
        /// everything. With a limit a replica that falls further behind cannot catch up any more.
        keep_bytes: Option<u64>,
    },
}

/// The settings of each kind of lane.
#[derive(Clone, Debug)]
pub struct LaneConfigs {
    /// Votes and heartbeats.
    pub control: LaneConfig,
    /// Appends.
    pub data: LaneConfig,
    /// Large appends.
    pub bulk: LaneConfig,
}

/// How heartbeats of many groups travel to one peer.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum Heartbeats {
    /// Those of all groups in one frame per peer and interval, and their answers likewise.
    #[default]
    Batched,
    /// Each in a frame of its own, when its shard hands it in: what batches are compared with.
    PerGroup,
}

/// A tmpfs on nearly every Linux.
pub(crate) const CERTIFICATE_DIR: &str = "/dev/shm";

/// What a frame of a single entry holds beside the payload, at most.
const FRAME_OVERHEAD: u64 = 64 << 10;

impl LaneConfigs {
    /// Those of a lane.
    pub const fn of(&self, lane: Lane) -> &LaneConfig {
        match lane {
            Lane::Control => &self.control,
            Lane::Data { .. } => &self.data,
            Lane::Bulk => &self.bulk,
        }
    }

    /// Those of a lane of a node that has this layout. Where there is one lane, it has the window
    /// and the buffers of a data lane; the control lane's own settings say how it is kept alive.
    pub fn in_layout(&self, lane: Lane, layout: LaneLayout) -> LaneConfig {
        let config = self.of(lane).clone();
        match (lane, layout) {
            (Lane::Control, LaneLayout::Single) => LaneConfig {
                window_bytes: self.data.window_bytes,
                frame_bytes_max: self.data.frame_bytes_max,
                write_buffer_max: self.data.write_buffer_max,
                chunk_bytes: self.data.chunk_bytes,
                long_messages_max: self.data.long_messages_max,
                ..config
            },
            (Lane::Control | Lane::Data { .. } | Lane::Bulk, _) => config,
        }
    }

    /// The largest command that an append can carry over these lanes, in bytes.
    pub fn command_bytes_max(&self) -> u64 {
        self.data.frame_bytes_max.min(self.bulk.frame_bytes_max).saturating_sub(FRAME_OVERHEAD)
    }
}

impl NodeOptions {
    /// Refuses contradictions, as a start does before it touches anything.
    ///
    /// # Errors
    /// [`StartError::Settings`] or [`StartError::Options`], with the values that do not fit;
    /// [`StartError::SleepNotBuilt`].
    pub fn validate(&self) -> Result<(), StartError> {
        self.settings.validate()?;
        if self.settings.quiesce_after.is_some() {
            return Err(StartError::SleepNotBuilt);
        }
        if self.shards == 0 || self.shards > usize::from(Lane::SHARD_MAX) {
            return Err(StartError::Options(format!(
                "{} shards: 1 to {} are possible",
                self.shards,
                Lane::SHARD_MAX
            )));
        }
        if let NetworkOptions::Tcp { mux, .. } = &self.network
            && mux.layout == PortLayout::PortPerGroup
        {
            let why =
                "a port per group: the lanes of a node are groups without a port of their own";
            return Err(StartError::Options(why.to_owned()));
        }
        if self.tls.is_some() {
            if !cfg!(feature = "tls") {
                return Err(StartError::Tls(TlsProblem::NotBuilt));
            }
            if matches!(self.network, NetworkOptions::Custom(_)) {
                let why = "certificates for streams of the embedder's making: they are for TCP";
                return Err(StartError::Options(why.to_owned()));
            }
        }
        if self.apply_workers == 0 {
            return Err(StartError::Options("at least one apply worker is needed".to_owned()));
        }
        if self.snapshot_every == Some(0) {
            // One that fails would be due again at once.
            return Err(StartError::Options("a snapshot after every 0 entries".to_owned()));
        }
        if !self.log_pace.is_valid() {
            let (pace, allowed) = (self.log_pace, LogPace::FIXED);
            return Err(StartError::Options(format!(
                "{pace:?} syncs a second: {} to {} are possible",
                allowed.start(),
                allowed.end()
            )));
        }
        if self.settings.acknowledge != Strategy::DiskFirst.acknowledge() {
            let why = "what counts is said by `persistence` and by each group's spec";
            return Err(StartError::Options(why.to_owned()));
        }
        let flush = self.persistence.flush.check(self.settings.disk_stall_max);
        flush.map_err(StartError::Options)?;
        if self.log_pending_bytes_max == 0 {
            return Err(StartError::Options("a log that may be given nothing".to_owned()));
        }
        // Or a message could never be sent, and a group would wait for it without end.
        let LaneConfigs { control, data, bulk } = &self.lanes;
        let least = [control, data, bulk].map(|lane| lane.frame_bytes_max).into_iter().min();
        if let Some(least) = least.filter(|least| *least < FRAME_OVERHEAD) {
            return Err(StartError::Options(format!(
                "frames of {least} bytes: not every message fits, {FRAME_OVERHEAD} are needed"
            )));
        }
        // A command that is taken must fit into the log, and into a frame of the lanes.
        let (max, carried) = (self.command_bytes_max, self.lanes.command_bytes_max());
        if max > ENTRY_BYTES_MAX || max > carried {
            return Err(StartError::Options(format!(
                "commands of {max} bytes: the log takes {ENTRY_BYTES_MAX}, frames of the data and \
                 bulk lanes take {carried}"
            )));
        }
        Ok(())
    }
}

impl Default for LaneConfigs {
    fn default() -> Self {
        Self { control: LaneConfig::control(), data: LaneConfig::data(), bulk: LaneConfig::bulk() }
    }
}

impl Default for NodeOptions {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            node: NodeId::new(1),
            cluster: "cluster".to_owned(),
            network: NetworkOptions::Tcp {
                listen: SocketAddr::from(([127, 0, 0, 1], 0)),
                mux: MuxConfig::default(),
            },
            tls: None,
            peers: Vec::new(),
            log: LogKind::Memory { keep_bytes: None },
            shards: (cores / 2).clamp(1, 8),
            apply_workers: 1,
            settings: Settings::default(),
            layout: LaneLayout::default(),
            heartbeats: Heartbeats::default(),
            lane_watch: None,
            lane_policy: LanePolicy::default(),
            lanes: LaneConfigs::default(),
            grant_bytes_max: GrantPool::BYTES_MAX,
            command_bytes_max: 64 << 20,
            window_bytes: 8 << 20,
            snapshot_every: Some(1 << 20),
            snapshot_bytes: Some(64 << 20),
            snapshot_tail: 16 << 10,
            snapshot_hold_bytes: 256 << 20,
            snapshot_compression: Compression::default(),
            snapshots: None,
            log_scrub: Some(Duration::from_secs(24 * 60 * 60)),
            persistence: Persistence::default(),
            certificate_dir: Some(PathBuf::from(CERTIFICATE_DIR)),
            log_pace: LogPace::default(),
            log_pending_bytes_max: 64 << 20,
            requests_max: 128 << 10,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_after_no_entries_is_refused() {
        for (every, is_valid) in [(None, true), (Some(0), false), (Some(1), true)] {
            let options = NodeOptions { snapshot_every: every, ..NodeOptions::default() };
            assert_eq!(options.validate().is_ok(), is_valid, "{every:?}");
        }
    }
}
