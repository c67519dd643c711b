//! The configuration file as it is written: plain values, units in the names, nothing checked.
//!
//! What is not in the file keeps its default; what has none is `None` and reported by the check.
//! The defaults come from the types of the crates below, so they are stated once.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use raft_transport::{GrantPool, LaneLayout, LanePolicy};
use serde::{Deserialize, Serialize};

use super::lanes::LaneSection;
use crate::node::{CERTIFICATE_DIR, Deployment, Heartbeats, LogPace, NodeOptions, TlsOptions};
use crate::persistence::{FlushPolicy, Strategy};

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct FileConfig {
    pub(super) preset: PresetSection,
    pub(super) node: NodeSection,
    pub(super) listen: ListenSection,
    pub(super) peers: Vec<PeerSection>,
    pub(super) groups: GroupsSection,
    pub(super) raft: RaftSection,
    pub(super) log: LogSection,
    pub(super) snapshots: SnapshotsSection,
    pub(super) mux: MuxSection,
    pub(super) tls: TlsSection,
    pub(super) network: NetworkSection,
    pub(super) shutdown: ShutdownSection,
    pub(super) trace: TraceSection,
}

impl FileConfig {
    /// Says what a node was told, of all that a preset may set. Without the longest stall of a
    /// disk, which follows from the election timeouts unless it is set.
    pub(super) fn tell(&mut self, options: &NodeOptions) {
        let NodeOptions { settings, persistence, lanes, lane_policy, grant_bytes_max, .. } =
            options;
        let (layout, heartbeats) = (options.layout.into(), options.heartbeats.into());
        self.raft = RaftSection {
            heartbeat_interval_ms: milliseconds(settings.heartbeat_interval),
            election_timeout_min_ms: milliseconds(settings.election_timeout_min),
            election_timeout_max_ms: milliseconds(settings.election_timeout_max),
            append_bytes_max: settings.append_bytes_max,
            inflight_appends_max: settings.inflight_appends_max as u64,
            inflight_bytes_max: settings.inflight_bytes_max,
            uncommitted_bytes_max: settings.uncommitted_bytes_max,
            reads_pending_max: settings.reads_pending_max as u64,
            disk_stall_max_ms: None,
            persistence: PersistenceSection {
                strategy: persistence.strategy,
                power_loss_may_lose_acknowledged_writes: persistence.strategy == Strategy::MemFirst,
                flush_policy: Some(persistence.flush.into()),
                certificate_dir: options.certificate_dir.clone().unwrap_or_default(),
            },
        };
        self.network = NetworkSection {
            grant_bytes_max: *grant_bytes_max,
            bulk_append_bytes: lane_policy.bulk_append_min.unwrap_or(0),
            layout,
            heartbeats,
            control: LaneSection::from(&lanes.control),
            data: LaneSection::from(&lanes.data),
            bulk: LaneSection::from(&lanes.bulk),
        };
    }
}

/// In whole milliseconds, as the keys have them.
pub(super) fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Names of settings that go together, for what the file does not say.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct PresetSection {
    pub(super) deployment: DeploymentName,
    pub(super) network: NetworkName,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum DeploymentName {
    #[default]
    None,
    DevSingle,
    #[serde(rename = "cloud-3")]
    Cloud3,
    #[serde(rename = "durable-5")]
    Durable5,
}

impl DeploymentName {
    pub(super) const fn preset(self) -> Option<Deployment> {
        match self {
            Self::None => None,
            Self::DevSingle => Some(Deployment::DevSingle),
            Self::Cloud3 => Some(Deployment::Cloud3),
            Self::Durable5 => Some(Deployment::Durable5),
        }
    }
}

#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum NetworkName {
    #[default]
    None,
    Lan,
    WanStable,
    CloudLossy,
    WanUnstable,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct NodeSection {
    pub(super) id: Option<u64>,
    pub(super) cluster: Option<String>,
    pub(super) data_dir: Option<PathBuf>,
    pub(super) shards: u64,
    pub(super) apply_workers: u64,
}

impl Default for NodeSection {
    fn default() -> Self {
        Self { id: None, cluster: None, data_dir: None, shards: 1, apply_workers: 1 }
    }
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ListenSection {
    pub(super) raft: Option<SocketAddr>,
    pub(super) resp: Option<SocketAddr>,
    pub(super) resp_proxy: Option<SocketAddr>,
    pub(super) admin: Option<SocketAddr>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct PeerSection {
    pub(super) id: Option<u64>,
    pub(super) raft: Option<String>,
    pub(super) resp: Option<String>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct GroupsSection {
    pub(super) count: u64,
}

impl Default for GroupsSection {
    fn default() -> Self {
        Self { count: 16 }
    }
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RaftSection {
    pub(super) heartbeat_interval_ms: u64,
    pub(super) election_timeout_min_ms: u64,
    pub(super) election_timeout_max_ms: u64,
    pub(super) append_bytes_max: u64,
    pub(super) inflight_appends_max: u64,
    pub(super) inflight_bytes_max: u64,
    pub(super) uncommitted_bytes_max: u64,
    pub(super) reads_pending_max: u64,
    /// Unless set, as long as the longest election timeout needs.
    pub(super) disk_stall_max_ms: Option<u64>,
    pub(super) persistence: PersistenceSection,
}

impl Default for RaftSection {
    fn default() -> Self {
        let settings = raft_core::Settings::default();
        Self {
            heartbeat_interval_ms: settings.heartbeat_interval.as_millis() as u64,
            election_timeout_min_ms: settings.election_timeout_min.as_millis() as u64,
            election_timeout_max_ms: settings.election_timeout_max.as_millis() as u64,
            append_bytes_max: settings.append_bytes_max,
            inflight_appends_max: settings.inflight_appends_max as u64,
            inflight_bytes_max: settings.inflight_bytes_max,
            uncommitted_bytes_max: settings.uncommitted_bytes_max,
            reads_pending_max: settings.reads_pending_max as u64,
            disk_stall_max_ms: None,
            persistence: PersistenceSection::default(),
        }
    }
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct PersistenceSection {
    pub(super) strategy: Strategy,
    /// That somebody knows what `MemFirst` means, who has to say it in these words.
    pub(super) power_loss_may_lose_acknowledged_writes: bool,
    /// Unless set, that of the strategy.
    pub(super) flush_policy: Option<Flush>,
    /// Empty: none.
    pub(super) certificate_dir: PathBuf,
}

impl Default for PersistenceSection {
    fn default() -> Self {
        Self {
            strategy: Strategy::default(),
            power_loss_may_lose_acknowledged_writes: false,
            flush_policy: None,
            certificate_dir: PathBuf::from(CERTIFICATE_DIR),
        }
    }
}

/// How long written entries may wait for their sync.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) enum Flush {
    Immediate,
    Batch { threshold: u64, interval_ms: u64 },
}

impl From<FlushPolicy> for Flush {
    fn from(policy: FlushPolicy) -> Self {
        match policy {
            FlushPolicy::Immediate => Self::Immediate,
            FlushPolicy::Batch { threshold, interval } => {
                Self::Batch { threshold, interval_ms: milliseconds(interval) }
            }
        }
    }
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct LogSection {
    pub(super) segment_bytes: u64,
    pub(super) checkpoint_bytes: u64,
    /// All of it is read once in so many hours; 0: never.
    pub(super) scrub_hours: u64,
    pub(super) pace: Pace,
    /// Of a fixed pace.
    pub(super) syncs_per_second: u64,
}

/// How often the log may sync.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(super) enum Pace {
    Off,
    Fixed,
    Learned,
}

impl From<LogPace> for Pace {
    fn from(pace: LogPace) -> Self {
        match pace {
            LogPace::Off => Self::Off,
            LogPace::Fixed(_) => Self::Fixed,
            LogPace::Learned => Self::Learned,
        }
    }
}

impl Default for LogSection {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            checkpoint_bytes: 128 << 20,
            scrub_hours: 24,
            pace: LogPace::default().into(),
            syncs_per_second: 1000,
        }
    }
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct SnapshotsSection {
    pub(super) every_entries: u64,
    pub(super) every_bytes: u64,
    pub(super) compression: CompressionName,
}

/// How snapshots are written.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(super) enum CompressionName {
    None,
    Lz4,
    /// The check refuses it where the build cannot do it.
    Zstd,
}

impl Default for SnapshotsSection {
    fn default() -> Self {
        Self { every_entries: 1 << 20, every_bytes: 64 << 20, compression: CompressionName::Lz4 }
    }
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct MuxSection {
    pub(super) prefix_timeout_ms: u64,
    pub(super) half_open_max: u64,
}

impl Default for MuxSection {
    fn default() -> Self {
        Self { prefix_timeout_ms: 1000, half_open_max: 1024 }
    }
}

/// Empty paths: no TLS.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct TlsSection {
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
    pub(super) ca: PathBuf,
    pub(super) handshake_timeout_ms: u64,
}

impl TlsSection {
    /// Whether it names no file: there is to be no TLS.
    pub(super) fn is_empty(&self) -> bool {
        let Self { certificate, key, ca, handshake_timeout_ms: _ } = self;
        [certificate, key, ca].iter().all(|path| path.as_os_str().is_empty())
    }
}

impl Default for TlsSection {
    fn default() -> Self {
        Self {
            certificate: PathBuf::new(),
            key: PathBuf::new(),
            ca: PathBuf::new(),
            handshake_timeout_ms: milliseconds(TlsOptions::HANDSHAKE_TIMEOUT),
        }
    }
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct NetworkSection {
    pub(super) grant_bytes_max: u64,
    /// Zero: never.
    pub(super) bulk_append_bytes: u64,
    pub(super) layout: LayoutName,
    pub(super) heartbeats: HeartbeatsName,
    pub(super) control: LaneSection,
    pub(super) data: LaneSection,
    pub(super) bulk: LaneSection,
}

/// Which lanes a node dials.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum LayoutName {
    Single,
    ControlBulk,
    ControlDataBulk,
}

impl From<LayoutName> for LaneLayout {
    fn from(name: LayoutName) -> Self {
        match name {
            LayoutName::Single => Self::Single,
            LayoutName::ControlBulk => Self::ControlBulk,
            LayoutName::ControlDataBulk => Self::ControlDataBulk,
        }
    }
}

impl From<LaneLayout> for LayoutName {
    fn from(layout: LaneLayout) -> Self {
        match layout {
            LaneLayout::Single => Self::Single,
            LaneLayout::ControlBulk => Self::ControlBulk,
            LaneLayout::ControlDataBulk => Self::ControlDataBulk,
        }
    }
}

/// How heartbeats travel.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum HeartbeatsName {
    Batched,
    PerGroup,
}

impl From<HeartbeatsName> for Heartbeats {
    fn from(name: HeartbeatsName) -> Self {
        match name {
            HeartbeatsName::Batched => Self::Batched,
            HeartbeatsName::PerGroup => Self::PerGroup,
        }
    }
}

impl From<Heartbeats> for HeartbeatsName {
    fn from(heartbeats: Heartbeats) -> Self {
        match heartbeats {
            Heartbeats::Batched => Self::Batched,
            Heartbeats::PerGroup => Self::PerGroup,
        }
    }
}

impl Default for NetworkSection {
    fn default() -> Self {
        Self {
            grant_bytes_max: GrantPool::BYTES_MAX,
            bulk_append_bytes: LanePolicy::default().bulk_append_min.unwrap_or(0),
            layout: LayoutName::ControlDataBulk,
            heartbeats: HeartbeatsName::Batched,
            control: LaneSection::default(),
            data: LaneSection::default(),
            bulk: LaneSection::default(),
        }
    }
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ShutdownSection {
    pub(super) drain_ms: u64,
}

impl Default for ShutdownSection {
    fn default() -> Self {
        Self { drain_ms: 3000 }
    }
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct TraceSection {
    pub(super) filter: String,
}

impl Default for TraceSection {
    fn default() -> Self {
        Self { filter: "info".to_owned() }
    }
}
