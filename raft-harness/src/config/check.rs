//! Ranges and contradictions: everything that types cannot say.
//!
//! Every rule is tried, whatever the others found, so that all problems are told at once. A rule
//! that needs a value which is missing or wrong stays silent: one mistake, one message.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use raft_core::{NodeId, Settings};

use super::document::Document;
use super::file::{
    CompressionName, FileConfig, Flush, LogSection, Pace, PersistenceSection, RaftSection,
};
use super::filter;
use super::node_config::{ListenConfig, NodeConfig, PeerConfig};
use super::problem::{Level, Problem, Rule};
use crate::Compression;
use crate::node::LogPace;
use crate::persistence::{FlushPolicy, Persistence, Strategy};

/// One group per hash slot is the finest division.
const GROUPS_MAX: u64 = 16_384;
const THREADS_MAX: u64 = 64;
/// The longest name of a cluster.
pub(crate) const CLUSTER_BYTES_MAX: usize = 255;
/// The longest time any setting may have: an hour.
/// A year.
const SCRUB_HOURS_MAX: u64 = 24 * 366;
const TIME_MAX_MS: u64 = 3_600_000;
const SEGMENT_STEP: u64 = 4096;
/// So many of the smallest entries are 4 MiB in the log, which is flushed in any case.
const THRESHOLD_REACHED_MAX: u64 = (4 << 20) / 16;

/// Checks a file that could be read. `None` if a node cannot be described by it; whatever else
/// is wrong is among `problems`.
pub(super) fn check(
    file: &FileConfig,
    document: &Document<'_>,
    problems: &mut Vec<Problem>,
) -> Option<NodeConfig> {
    let mut check = Check { document, problems };
    let node = check.id("node.id", file.node.id);
    let cluster = check.cluster(file.node.cluster.as_deref());
    let data_dir = check.required("node.data_dir", file.node.data_dir.clone());
    if data_dir.as_ref().is_some_and(|path| path.as_os_str().is_empty()) {
        let help = "name the directory that `raftd init` makes".to_owned();
        check.report(Rule::OutOfRange, "node.data_dir", "`node.data_dir` is empty", help);
    }
    let shards = check.number("node.shards", file.node.shards, 1..=THREADS_MAX);
    let apply_workers =
        check.number("node.apply_workers", file.node.apply_workers, 1..=THREADS_MAX);
    let listen = check.listen(file);
    let peers = check.peers(file, node, listen);
    check.preset(file, peers.as_deref());
    let groups = check.number("groups.count", file.groups.count, 1..=GROUPS_MAX);
    let settings = check.settings(&file.raft);
    let persistence = check.persistence(&file.raft.persistence, settings.disk_stall_max);
    check.segment_bytes(file.log.segment_bytes);
    let log_pace = check.log_pace(&file.log);
    let checkpoint_bytes = check.bytes("log.checkpoint_bytes", file.log.checkpoint_bytes);
    let scrub_hours = check.number("log.scrub_hours", file.log.scrub_hours, 0..=SCRUB_HOURS_MAX);
    let compression = check.compression(file.snapshots.compression);
    let every_entries = check.count("snapshots.every_entries", file.snapshots.every_entries);
    let every_bytes = check.bytes("snapshots.every_bytes", file.snapshots.every_bytes);
    let prefix_timeout = check.time("mux.prefix_timeout_ms", file.mux.prefix_timeout_ms);
    let half_open_max = check.number("mux.half_open_max", file.mux.half_open_max, 1..=1_000_000);
    let tls = check.tls(&file.tls, cluster.as_deref(), node);
    check.exposure(&file.tls, file.listen.raft);
    let lanes = check.lanes(&file.network, &file.raft);
    let layout = check.layout(&file.network);
    let lane_policy = check.lane_policy(&file.network);
    let grant_bytes_max = check.grants(&file.network);
    let drain = check.number("shutdown.drain_ms", file.shutdown.drain_ms, 0..=TIME_MAX_MS);
    check.trace_filter(&file.trace.filter);
    let config = NodeConfig {
        node: node?,
        cluster: cluster?,
        data_dir: data_dir?,
        shards: shards as usize,
        apply_workers: apply_workers as usize,
        listen: listen?,
        peers: peers?,
        groups: u32::try_from(groups).ok()?,
        settings,
        persistence,
        certificate_dir: Some(file.raft.persistence.certificate_dir.clone())
            .filter(|dir| !dir.as_os_str().is_empty()),
        segment_bytes: file.log.segment_bytes,
        log_pace,
        checkpoint_bytes,
        log_scrub: (scrub_hours > 0).then(|| Duration::from_secs(scrub_hours * 60 * 60)),
        snapshot_every: every_entries,
        snapshot_bytes: every_bytes,
        snapshot_compression: compression,
        prefix_timeout,
        half_open_max: half_open_max as usize,
        tls,
        lanes,
        layout,
        heartbeats: file.network.heartbeats.into(),
        lane_policy,
        grant_bytes_max,
        drain: Duration::from_millis(drain),
        trace_filter: file.trace.filter.clone(),
    };
    // What a start would refuse is refused here. The rules above say it better, so this speaks
    // only where they found nothing.
    let is_sound = !problems.iter().any(|problem| problem.rule.level() == Level::Error);
    if is_sound && let Err(error) = config.node_options().validate() {
        problems.push(Problem {
            rule: Rule::Start,
            place: document.place_of(""),
            message: error.to_string(),
            help: None,
        });
    }
    Some(config)
}

/// What the rules share: where values are, and where problems go.
pub(super) struct Check<'a> {
    document: &'a Document<'a>,
    problems: &'a mut Vec<Problem>,
}

impl Check<'_> {
    pub(super) fn report(
        &mut self,
        rule: Rule,
        path: &str,
        message: impl Into<String>,
        help: impl Into<Option<String>>,
    ) {
        self.problems.push(Problem {
            rule,
            place: self.document.place_of(path),
            message: message.into(),
            help: help.into(),
        });
    }

    fn required<T>(&mut self, path: &str, value: Option<T>) -> Option<T> {
        // A value that was there and could not be read has been reported.
        if value.is_none() && !self.document.was_removed(path) {
            let message = format!("`{path}` is missing");
            self.report(
                Rule::MissingKey,
                path,
                message,
                "`raftd config example` shows every key".to_owned(),
            );
        }
        value
    }

    pub(super) fn number(&mut self, path: &str, value: u64, allowed: RangeInclusive<u64>) -> u64 {
        if !allowed.contains(&value) {
            let message = format!("`{path}` is {value}");
            let help = format!("allowed: {} to {}", allowed.start(), allowed.end());
            self.report(Rule::OutOfRange, path, message, help);
        }
        value
    }

    pub(super) fn time(&mut self, path: &str, milliseconds: u64) -> Duration {
        Duration::from_millis(self.number(path, milliseconds, 1..=TIME_MAX_MS))
    }

    fn id(&mut self, path: &str, value: Option<u64>) -> Option<NodeId> {
        let value = self.required(path, value)?;
        Some(NodeId::new(self.number(path, value, 1..=u64::MAX)))
    }

    fn cluster(&mut self, name: Option<&str>) -> Option<String> {
        let name = self.required("node.cluster", name)?;
        if name.is_empty() || name.len() > CLUSTER_BYTES_MAX {
            let message = format!("the name of the cluster has {} bytes", name.len());
            let help = format!("allowed: 1 to {CLUSTER_BYTES_MAX}");
            self.report(Rule::OutOfRange, "node.cluster", message, help);
        }
        Some(name.to_owned())
    }

    fn listen(&mut self, file: &FileConfig) -> Option<ListenConfig> {
        let raft = self.required("listen.raft", file.listen.raft);
        let resp = self.required("listen.resp", file.listen.resp);
        let resp_proxy = self.required("listen.resp_proxy", file.listen.resp_proxy);
        let admin = self.required("listen.admin", file.listen.admin);
        if let Some(address) = admin
            && !address.ip().to_canonical().is_loopback()
        {
            let message = format!("the admin port has no password, so {address} would expose it");
            let help = format!("use a loopback address: \"127.0.0.1:{}\"", address.port());
            self.report(Rule::AdminExposed, "listen.admin", message, help);
        }
        let listeners = [
            ("listen.raft", raft),
            ("listen.resp", resp),
            ("listen.resp_proxy", resp_proxy),
            ("listen.admin", admin),
        ];
        for (later, (path, address)) in listeners.iter().enumerate() {
            let Some(address) = address else { continue };
            let earlier = listeners[..later]
                .iter()
                .find(|(_, other)| other.is_some_and(|other| collide(*address, other)));
            if let Some((other, _)) = earlier {
                let message = format!("{address} is already `{other}`");
                self.report(Rule::PortsCollide, path, message, "give each its own port".to_owned());
            }
        }
        Some(ListenConfig { raft: raft?, resp: resp?, resp_proxy: resp_proxy?, admin: admin? })
    }

    fn peers(
        &mut self,
        file: &FileConfig,
        node: Option<NodeId>,
        listen: Option<ListenConfig>,
    ) -> Option<Vec<PeerConfig>> {
        if self.document.was_removed("peers") {
            return None;
        }
        if file.peers.is_empty() {
            let help = "list every node of the cluster, this one included".to_owned();
            self.report(Rule::MissingKey, "peers", "there is no [[peers]] section", help);
            return None;
        }
        let mut peers: Vec<PeerConfig> = Vec::new();
        let mut complete = true;
        for (index, peer) in file.peers.iter().enumerate() {
            let path = |key: &str| format!("peers.{index}.{key}");
            let id = self.id(&path("id"), peer.id);
            let raft = self.peer_address(&path("raft"), peer.raft.as_deref());
            let resp = self.peer_address(&path("resp"), peer.resp.as_deref());
            let (Some(id), Some(raft), Some(resp)) = (id, raft, resp) else {
                complete = false;
                continue;
            };
            if peers.iter().any(|other| other.id == id) {
                let message = format!("peer {id} is listed twice");
                self.report(Rule::Peers, &path("id"), message, None);
            }
            for (key, address) in [("raft", &raft), ("resp", &resp)] {
                let taken =
                    peers.iter().find(|other| [&other.raft, &other.resp].contains(&address));
                if let Some(other) = taken {
                    let message = format!("{address} is an address of peer {} already", other.id);
                    self.report(Rule::Peers, &path(key), message, None);
                }
            }
            if raft == resp {
                let message = format!("{resp} is this peer's `raft` address already");
                self.report(Rule::Peers, &path("resp"), message, None);
            }
            if let (Some(node), Some(listen)) = (node, listen)
                && id != node
                && raft.parse() == Ok(listen.raft)
            {
                let message = format!("{raft} is where this node, {node}, listens, not peer {id}");
                let help = "correct `node.id`, `listen.raft` or this peer".to_owned();
                self.report(Rule::Peers, &path("raft"), message, help);
            }
            peers.push(PeerConfig { id, raft, resp });
        }
        if !complete {
            return None;
        }
        if let Some(node) = node
            && !peers.iter().any(|peer| peer.id == node)
        {
            let ids: Vec<String> = peers.iter().map(|peer| peer.id.to_string()).collect();
            let message = format!("node {node} is not among the peers {}", ids.join(", "));
            let help = "add a [[peers]] section for it, or correct the id".to_owned();
            self.report(Rule::Peers, "node.id", message, help);
        }
        if peers.len().is_multiple_of(2) {
            let message = format!(
                "{} voters survive no more failures than {} do",
                peers.len(),
                peers.len() - 1
            );
            self.report(Rule::EvenVoters, "peers", message, "prefer an odd number".to_owned());
        }
        Some(peers)
    }

    /// A preset for a cluster of another size is no mistake, but seldom meant.
    fn preset(&mut self, file: &FileConfig, peers: Option<&[PeerConfig]>) {
        let (Some(preset), Some(peers)) = (file.preset.deployment.preset(), peers) else {
            return;
        };
        let (meant, found) = (preset.voters(), peers.len());
        if meant != found {
            let message = format!("`{preset}` is meant for {meant} nodes, and there are {found}");
            self.report(Rule::Preset, "preset.deployment", message, None);
        }
    }

    /// `host:port`; a name is allowed, it is looked up at every dial.
    fn peer_address(&mut self, path: &str, text: Option<&str>) -> Option<String> {
        let text = self.required(path, text)?;
        let parts = text.rsplit_once(':');
        let port = parts.and_then(|(_, port)| port.parse::<u16>().ok());
        let host = parts.map_or("", |(host, _)| host);
        let bare_ipv6 = host.contains(':') && text.parse::<SocketAddr>().is_err();
        let wildcard = text.parse::<SocketAddr>().is_ok_and(|at| at.ip().is_unspecified());
        match port {
            Some(0) => {
                let help = "peers need a port they can dial".to_owned();
                self.report(Rule::OutOfRange, path, format!("{text} has port 0"), help);
            }
            Some(_) if wildcard => {
                let help = "peers need an address they can dial".to_owned();
                self.report(Rule::OutOfRange, path, format!("{text} is every address"), help);
            }
            Some(_) if !host.is_empty() && !bare_ipv6 => return Some(text.to_owned()),
            Some(_) | None => {
                let help = "write \"host:port\" or \"[ipv6]:port\"".to_owned();
                self.report(Rule::OutOfRange, path, format!("`{text}` is no address"), help);
            }
        }
        None
    }

    fn settings(&mut self, raft: &RaftSection) -> Settings {
        let heartbeat = raft.heartbeat_interval_ms;
        let (min, max) = (raft.election_timeout_min_ms, raft.election_timeout_max_ms);
        let settings = Settings {
            heartbeat_interval: self.time("raft.heartbeat_interval_ms", heartbeat),
            election_timeout_min: self.time("raft.election_timeout_min_ms", min),
            election_timeout_max: self.time("raft.election_timeout_max_ms", max),
            append_bytes_max: self.bytes("raft.append_bytes_max", raft.append_bytes_max),
            inflight_appends_max: self.number(
                "raft.inflight_appends_max",
                raft.inflight_appends_max,
                1..=65_536,
            ) as usize,
            inflight_bytes_max: self.bytes("raft.inflight_bytes_max", raft.inflight_bytes_max),
            uncommitted_bytes_max: self
                .bytes("raft.uncommitted_bytes_max", raft.uncommitted_bytes_max),
            reads_pending_max: self.number(
                "raft.reads_pending_max",
                raft.reads_pending_max,
                1..=16_777_216,
            ) as usize,
            disk_stall_max: self.disk_stall_max(raft),
            ..Settings::default()
        };
        if heartbeat.saturating_mul(3) > min {
            let message = format!(
                "three heartbeats of {heartbeat} ms do not fit into the election timeout \
                 of {min} ms"
            );
            let help = format!("at most {} ms, or raise `raft.election_timeout_min_ms`", min / 3);
            self.report(Rule::Timing, "raft.heartbeat_interval_ms", message, help);
        }
        if min >= max {
            let message = format!("elections could not spread between {min} ms and {max} ms");
            let help = format!("for instance {} ms: twice the minimum", min.saturating_mul(2));
            self.report(Rule::Timing, "raft.election_timeout_max_ms", message, help);
        }
        settings
    }

    /// The strategy and its flush policy, and what is odd about them.
    fn persistence(
        &mut self,
        section: &PersistenceSection,
        disk_stall_max: Duration,
    ) -> Persistence {
        const STRATEGY: &str = "raft.persistence.strategy";
        const POLICY: &str = "raft.persistence.flush_policy";
        const KNOWN: &str = "raft.persistence.power_loss_may_lose_acknowledged_writes";
        let strategy = section.strategy;
        let may_lose = section.power_loss_may_lose_acknowledged_writes;
        match strategy {
            Strategy::MemFirst if !may_lose => {
                let message = "under MemFirst a power cut can take writes that were acknowledged";
                let help = format!("set `{KNOWN} = true` if that is meant, or use \"DiskFirst\"");
                self.report(Rule::MayLose, STRATEGY, message, help);
            }
            Strategy::DiskFirst if may_lose => {
                let message = "under DiskFirst nothing that was acknowledged is ever lost";
                let help = "leave it out, or set the strategy to \"MemFirst\"".to_owned();
                self.report(Rule::Persistence, KNOWN, message, help);
            }
            Strategy::MemFirst | Strategy::DiskFirst => {}
        }
        let Some(policy) = section.flush_policy else {
            let flush = match strategy {
                Strategy::DiskFirst => FlushPolicy::Immediate,
                Strategy::MemFirst => FlushPolicy::default(),
            };
            return Persistence { strategy, flush };
        };
        let flush = match policy {
            Flush::Immediate => FlushPolicy::Immediate,
            Flush::Batch { threshold, interval_ms } => {
                let interval = Duration::from_millis(interval_ms);
                FlushPolicy::Batch { threshold, interval }
            }
        };
        if let Err(why) = flush.check(disk_stall_max) {
            let help = "for instance { Batch = { threshold = 1000, interval_ms = 100 } }";
            self.report(Rule::Timing, POLICY, why, help.to_owned());
            return Persistence { strategy, flush: FlushPolicy::default() };
        }
        match (strategy, flush) {
            (Strategy::MemFirst, FlushPolicy::Immediate) => {
                let message = "MemFirst that flushes at once keeps the disk as busy as DiskFirst";
                let help = "use a Batch, or \"DiskFirst\", which loses nothing".to_owned();
                self.report(Rule::Persistence, POLICY, message, help);
            }
            (Strategy::MemFirst, FlushPolicy::Batch { threshold: 1, .. }) => {
                let message = "a batch of one entry is flushed at once; its interval means nothing";
                let help = "raise `threshold`, or say \"Immediate\"".to_owned();
                self.report(Rule::Persistence, POLICY, message, help);
            }
            (Strategy::MemFirst, FlushPolicy::Batch { threshold, .. })
                if threshold > THRESHOLD_REACHED_MAX =>
            {
                let message = format!(
                    "{threshold} entries are never waited for: 4 MiB are flushed in any case"
                );
                let help = format!("at most {THRESHOLD_REACHED_MAX}");
                self.report(Rule::Persistence, POLICY, message, help);
            }
            (Strategy::DiskFirst, FlushPolicy::Batch { .. }) => {
                let message =
                    "a Batch has no effect under DiskFirst, which syncs as soon as it can";
                let help = "leave it out".to_owned();
                self.report(Rule::Persistence, POLICY, message, help);
            }
            (Strategy::MemFirst, FlushPolicy::Batch { .. })
            | (Strategy::DiskFirst, FlushPolicy::Immediate) => {}
        }
        Persistence { strategy, flush }
    }

    /// How long the disk may take for one call: no less than it may take to elect another leader.
    fn disk_stall_max(&mut self, raft: &RaftSection) -> Duration {
        let path = "raft.disk_stall_max_ms";
        let (min, max) = (raft.election_timeout_min_ms, raft.election_timeout_max_ms);
        let Some(stall) = raft.disk_stall_max_ms else {
            return Settings::default().disk_stall_max.max(Duration::from_millis(max));
        };
        if stall < min {
            let message = format!("a disk would be given up after {stall} ms, before an election");
            let help = format!("at least `raft.election_timeout_min_ms`, which is {min}");
            self.report(Rule::Timing, path, message, help);
        }
        self.time(path, stall)
    }

    pub(super) fn bytes(&mut self, path: &str, value: u64) -> u64 {
        self.number(path, value, 1..=1 << 40)
    }

    fn count(&mut self, path: &str, value: u64) -> u64 {
        self.number(path, value, 1..=1 << 40)
    }

    fn compression(&mut self, name: CompressionName) -> Compression {
        match name {
            CompressionName::None => Compression::None,
            CompressionName::Lz4 => Compression::Lz4,
            #[cfg(feature = "zstd")]
            CompressionName::Zstd => Compression::Zstd,
            #[cfg(not(feature = "zstd"))]
            CompressionName::Zstd => {
                let path = "snapshots.compression";
                let message = format!("`{path}` is \"Zstd\", which this build cannot write");
                let help = "build with the feature `zstd`, or say \"Lz4\"".to_owned();
                self.report(Rule::OutOfRange, path, message, help);
                Compression::Lz4
            }
        }
    }

    fn segment_bytes(&mut self, bytes: u64) {
        let path = "log.segment_bytes";
        if !(16 << 10..=64 << 20).contains(&bytes) || !bytes.is_multiple_of(SEGMENT_STEP) {
            let help = "allowed: multiples of 4096 from 16384 to 67108864".to_owned();
            self.report(Rule::OutOfRange, path, format!("`{path}` is {bytes}"), help);
        }
    }

    fn log_pace(&mut self, log: &LogSection) -> LogPace {
        let (slowest, fastest) = (*LogPace::FIXED.start(), *LogPace::FIXED.end());
        let allowed = u64::from(slowest)..=u64::from(fastest);
        let syncs = self.number("log.syncs_per_second", log.syncs_per_second, allowed);
        match log.pace {
            Pace::Off => LogPace::Off,
            // In range, or it was reported.
            Pace::Fixed => LogPace::Fixed(u32::try_from(syncs).unwrap_or(fastest)),
            Pace::Learned => LogPace::Learned,
        }
    }

    fn trace_filter(&mut self, filter: &str) {
        if let Err(error) = filter::parse(filter) {
            let help = "for instance \"info\" or \"warn,raft_harness=debug\"".to_owned();
            self.report(Rule::OutOfRange, "trace.filter", error, help);
        }
    }
}

/// Whether two listeners cannot both be bound. Port 0 never collides.
fn collide(a: SocketAddr, b: SocketAddr) -> bool {
    a.port() == b.port()
        && a.port() != 0
        && (a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified())
}
