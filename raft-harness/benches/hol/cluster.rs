//! Three nodes and their groups, all led by the first node.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bytes::Bytes;
use raft_core::{Entry, GroupId, NodeId, Settings};
use raft_harness::{
    GroupSpec, LaneConfigs, LogKind, NetworkOptions, NodeHost, NodeOptions, PeerOptions,
    RestoreError, SnapshotPieces, StateMachine,
};
use raft_transport::LaneConfig;

use super::delays::Delays;
use super::link::Link;
use super::plan::{Lanes, Row};

/// Takes the large messages.
pub(crate) const GREEDY: GroupId = GroupId::new(1);
/// The quiet groups.
pub(crate) const QUIET: std::ops::RangeInclusive<u32> = 2..=101;

/// More often than by default, for more samples; election timeouts are the default ones.
const HEARTBEATS: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(30);

/// Remembers nothing, so nothing but the way there is measured.
struct Nothing;

impl StateMachine for Nothing {
    fn apply(&mut self, entries: &[Entry], outputs: &mut Vec<Bytes>) {
        outputs.resize(outputs.len() + entries.len(), Bytes::new());
    }

    fn read(&self, _: &[u8]) -> Bytes {
        Bytes::new()
    }

    fn digest(&self) -> u64 {
        0
    }

    fn snapshot(&self) -> Option<SnapshotPieces> {
        Some(Box::new(std::iter::once(Bytes::from_static(b"nothing"))))
    }

    fn restore(&mut self, _: &mut dyn Iterator<Item = Bytes>) -> Result<(), RestoreError> {
        Ok(())
    }
}

pub(crate) struct Cluster {
    pub(crate) hosts: Vec<NodeHost>,
    pub(crate) delays: Arc<Delays>,
    /// Kept until the nodes are gone.
    _directory: Option<tempfile::TempDir>,
}

impl Cluster {
    pub(crate) fn start(row: &Row, link: &Link, directory: &Path) -> Result<Self> {
        let directory = row.on_disk.then(|| tempfile::tempdir_in(directory)).transpose()?;
        let delays = Arc::new(Delays::default());
        let mut hosts: Vec<NodeHost> = Vec::new();
        for node in 1..=3 {
            let id = NodeId::new(u64::from(node));
            let log = match &directory {
                None => LogKind::Memory { keep_bytes: Some(256 << 20) },
                Some(directory) => {
                    let path = directory.path().join(format!("n{node}"));
                    raft_storage::init(&path, "hol", id, &raft_storage::InitOptions::default())?;
                    LogKind::Directory { path, options: raft_storage::LogOptions::default() }
                }
            };
            let options = NodeOptions {
                node: id,
                cluster: "hol".to_owned(),
                network: NetworkOptions::Tcp {
                    listen: SocketAddr::new(link.address(node), 0),
                    mux: raft_mux::MuxConfig::default(),
                },
                // Each is told where the others are once they are.
                peers: (1..=3)
                    .filter(|peer| *peer != node)
                    .map(|peer| PeerOptions {
                        node: NodeId::new(u64::from(peer)),
                        address: String::new(),
                    })
                    .collect(),
                log,
                settings: Settings {
                    heartbeat_interval: HEARTBEATS,
                    // Two messages of the largest size under way.
                    uncommitted_bytes_max: 160 << 20,
                    // The first is the one to lead.
                    priority: if node == 1 { Settings::default().priority } else { 1 },
                    ..Settings::default()
                },
                layout: row.lanes.layout(),
                lanes: lanes(row.lanes),
                lane_watch: Some(Arc::<Delays>::clone(&delays)),
                certificate_dir: None,
                ..NodeOptions::default()
            };
            let factory =
                |_: GroupId, _: &GroupSpec| -> Box<dyn StateMachine> { Box::new(Nothing) };
            hosts.push(link.at(node, || Ok(NodeHost::start(options, Arc::new(factory))?))?);
        }
        for host in &hosts {
            for peer in &hosts {
                if let Some(address) = peer.listen_addr().filter(|_| peer.node() != host.node()) {
                    host.set_peer_address(peer.node(), &address.to_string());
                }
            }
        }
        let nodes = (1..=3).map(NodeId::new);
        for group in std::iter::once(GREEDY).chain(QUIET.map(GroupId::new)) {
            let spec = GroupSpec::on_nodes(group, nodes.clone());
            hosts.iter().try_for_each(|host| host.create_group(spec.clone()).map(drop))?;
        }
        let cluster = Self { hosts, delays, _directory: directory };
        cluster.settle()?;
        Ok(cluster)
    }

    /// Waits until the first node leads everything.
    fn settle(&self) -> Result<()> {
        let (first, end) = (&self.hosts[0], Instant::now() + PATIENCE);
        for group in std::iter::once(GREEDY).chain(QUIET.map(GroupId::new)) {
            while first.leader_of(group) != Some(first.node()) {
                ensure!(Instant::now() < end, "{group} is not led by the first node");
                if let Some(leader) = self.leader(group) {
                    let _ = leader.transfer_leadership(group, Some(first.node())).wait();
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        Ok(())
    }

    /// Who leads a group by its own word.
    pub(crate) fn leader(&self, group: GroupId) -> Option<&NodeHost> {
        self.hosts.iter().find(|host| host.leader_of(group) == Some(host.node()))
    }

    /// The terms of all groups together: each election begins one at the least.
    pub(crate) fn terms(&self) -> u64 {
        let newest = |group: GroupId| {
            let terms = self.hosts.iter().filter_map(|host| host.group_status(group));
            terms.map(|status| status.term.get()).max().unwrap_or(0)
        };
        std::iter::once(GREEDY).chain(QUIET.map(GroupId::new)).map(newest).sum()
    }

    pub(crate) fn stop(self) {
        for host in &self.hosts {
            host.stop();
        }
    }
}

/// The defaults; without chunks a window that all heartbeats fit into behind a large frame, as if
/// there were none.
fn lanes(lanes: Lanes) -> LaneConfigs {
    let defaults = LaneConfigs::default();
    match lanes {
        Lanes::Whole => {
            let data = LaneConfig { chunk_bytes: 0, window_bytes: 256 << 20, ..defaults.data };
            LaneConfigs { data, ..defaults }
        }
        Lanes::Layout(_) | Lanes::Alone => defaults,
    }
}
