//! A cluster of whole nodes in this process, for tests.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part of it")]

pub mod queue;
pub mod relay;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use bytes::Bytes;
use raft_core::{Entry, EntryKind, GroupId, LogIndex, NodeId};
use raft_harness::{
    GroupSpec, Heartbeats, LogKind, NodeHost, NodeOptions, PeerOptions, RequestError, RestoreError,
    SnapshotPieces, StartError, StateMachine,
};
use raft_transport::LaneLayout;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Counts commands and hashes them in order.
#[derive(Default)]
pub struct Hasher {
    count: u64,
    hash: u64,
}

impl StateMachine for Hasher {
    fn apply(&mut self, entries: &[Entry], outputs: &mut Vec<Bytes>) {
        for entry in entries {
            if entry.kind == EntryKind::Command {
                self.count += 1;
                for byte in &entry.payload {
                    self.hash = (self.hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
                }
            }
            outputs.push(Bytes::new());
        }
    }

    fn read(&self, _query: &[u8]) -> Bytes {
        Bytes::copy_from_slice(&self.count.to_le_bytes())
    }

    fn digest(&self) -> u64 {
        self.hash ^ self.count.rotate_left(48)
    }

    /// Its two numbers, and as much padding as makes several frames.
    fn snapshot(&self) -> Option<SnapshotPieces> {
        let mut bytes = [self.count.to_le_bytes(), self.hash.to_le_bytes()].concat();
        bytes.resize(1 << 20, 7);
        Some(Box::new(std::iter::once(Bytes::from(bytes))))
    }

    fn restore(&mut self, pieces: &mut dyn Iterator<Item = Bytes>) -> Result<(), RestoreError> {
        let piece = pieces.next().unwrap_or_default();
        let number = |at: usize| piece.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
        let (Some(count), Some(hash)) = (number(0), number(8)) else {
            return Err(RestoreError::Refused("it is too short".to_owned()));
        };
        (self.count, self.hash) = (u64::from_le_bytes(count), u64::from_le_bytes(hash));
        Ok(())
    }
}

pub fn command(number: u64) -> Bytes {
    Bytes::copy_from_slice(&number.to_le_bytes())
}

pub struct Cluster {
    root: Option<tempfile::TempDir>,
    nodes: Vec<NodeId>,
    hosts: BTreeMap<NodeId, NodeHost>,
    addresses: BTreeMap<NodeId, String>,
    machine: fn() -> Box<dyn StateMachine>,
    snapshot_bytes: Option<u64>,
    /// Of those that are not the default.
    layouts: BTreeMap<NodeId, LaneLayout>,
    /// Of nodes that start from now on.
    pub heartbeats: Heartbeats,
    /// Where nodes keep the word that tells a kill from lost power.
    certificates: Option<tempfile::TempDir>,
}

const PATIENCE: Duration = Duration::from_secs(20);

/// Asks until it is so.
pub fn until(mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < end, "it never came to be so");
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

impl Cluster {
    pub fn durable(nodes: u64) -> anyhow::Result<Self> {
        let root = tempfile::tempdir()?;
        Self::new(nodes, Some(root), || Box::new(Hasher::default()), Some(64 << 20))
    }

    /// With machines of another kind, and snapshots after 4 MiB.
    pub fn durable_of(nodes: u64, machine: fn() -> Box<dyn StateMachine>) -> anyhow::Result<Self> {
        let root = tempfile::tempdir()?;
        Self::new(nodes, Some(root), machine, Some(4 << 20))
    }

    /// With certificates, where there is a tmpfs.
    pub fn vouched(nodes: u64) -> anyhow::Result<Self> {
        let (root, words) = (tempfile::tempdir()?, tempfile::tempdir_in("/dev/shm")?);
        let machine = || -> Box<dyn StateMachine> { Box::new(Hasher::default()) };
        Self::with(nodes, Some(root), Some(words), machine, Some(64 << 20))
    }

    pub fn memory(nodes: u64) -> anyhow::Result<Self> {
        Self::new(nodes, None, || Box::new(Hasher::default()), Some(64 << 20))
    }

    fn new(
        nodes: u64,
        root: Option<tempfile::TempDir>,
        machine: fn() -> Box<dyn StateMachine>,
        snapshot_bytes: Option<u64>,
    ) -> anyhow::Result<Self> {
        Self::with(nodes, root, None, machine, snapshot_bytes)
    }

    fn with(
        nodes: u64,
        root: Option<tempfile::TempDir>,
        certificates: Option<tempfile::TempDir>,
        machine: fn() -> Box<dyn StateMachine>,
        snapshot_bytes: Option<u64>,
    ) -> anyhow::Result<Self> {
        // `RUST_LOG=debug` shows what the nodes say.
        let asked = std::env::var("RUST_LOG").unwrap_or_default();
        let filter = asked.parse::<tracing_subscriber::filter::Targets>().unwrap_or_default();
        let lines = tracing_subscriber::fmt::layer().with_test_writer();
        let _ = tracing_subscriber::registry().with(lines).with(filter).try_init();
        let nodes: Vec<NodeId> = (1..=nodes).map(NodeId::new).collect();
        let mut cluster = Self {
            root,
            nodes: nodes.clone(),
            hosts: BTreeMap::new(),
            addresses: BTreeMap::new(),
            machine,
            snapshot_bytes,
            layouts: BTreeMap::new(),
            heartbeats: Heartbeats::default(),
            certificates,
        };
        for node in nodes {
            if cluster.root.is_some() {
                raft_storage::init(
                    &cluster.dir(node),
                    "test",
                    node,
                    &raft_storage::InitOptions::default(),
                )?;
            }
            cluster.start(node)?;
        }
        Ok(cluster)
    }

    pub fn dir(&self, node: NodeId) -> PathBuf {
        let root = self.root.as_ref().expect("a durable cluster has a directory");
        root.path().join(format!("n{node}"))
    }

    pub fn try_start(&self, node: NodeId) -> Result<NodeHost, StartError> {
        let mut options = NodeOptions {
            node,
            cluster: "test".to_owned(),
            peers: self
                .nodes
                .iter()
                .filter(|peer| **peer != node)
                .map(|peer| PeerOptions {
                    node: *peer,
                    address: self.addresses.get(peer).cloned().unwrap_or_default(),
                })
                .collect(),
            layout: self.layouts.get(&node).copied().unwrap_or_default(),
            heartbeats: self.heartbeats,
            snapshot_tail: 10,
            snapshot_bytes: self.snapshot_bytes,
            certificate_dir: self.certificates.as_ref().map(|dir| dir.path().to_owned()),
            ..NodeOptions::default()
        };
        if self.root.is_some() {
            options.log = LogKind::Directory {
                path: self.dir(node),
                options: raft_storage::LogOptions {
                    segment_bytes: 1 << 20,
                    ..raft_storage::LogOptions::default()
                },
            };
        }
        let machine = self.machine;
        let factory = move |_: GroupId, _: &GroupSpec| machine();
        NodeHost::start(options, Arc::new(factory))
    }

    pub fn start(&mut self, node: NodeId) -> anyhow::Result<()> {
        let host = self.try_start(node)?;
        let address = host.listen_addr().context("a TCP node listens")?.to_string();
        for other in self.hosts.values() {
            other.set_peer_address(node, &address);
        }
        self.addresses.insert(node, address);
        self.hosts.insert(node, host);
        Ok(())
    }

    pub fn stop(&mut self, node: NodeId) {
        if let Some(host) = self.hosts.remove(&node) {
            host.stop();
        }
    }

    /// Starts a node again with another layout.
    pub fn restart_as(&mut self, node: NodeId, layout: LaneLayout) -> anyhow::Result<()> {
        self.stop(node);
        self.layouts.insert(node, layout);
        self.start(node)
    }

    pub fn restart_all(&mut self) -> anyhow::Result<()> {
        for node in self.nodes.clone() {
            self.stop(node);
        }
        for node in self.nodes.clone() {
            self.start(node)?;
        }
        Ok(())
    }

    /// Starts a node again with other addresses for its peers, as long as it hosts no group.
    pub fn restarted_via(mut self, node: NodeId, via: &[(u64, String)]) -> anyhow::Result<Self> {
        self.stop(node);
        let direct = self.addresses.clone();
        for (peer, address) in via {
            self.addresses.insert(NodeId::new(*peer), address.clone());
        }
        self.start(node)?;
        let own = self.addresses.get(&node).cloned();
        self.addresses = direct;
        self.addresses.extend(own.map(|own| (node, own)));
        Ok(self)
    }

    pub fn remove_dir(&self, node: NodeId) -> anyhow::Result<()> {
        Ok(std::fs::remove_dir_all(self.dir(node))?)
    }

    pub fn wipe(&self, node: NodeId) -> anyhow::Result<()> {
        self.remove_dir(node)?;
        raft_storage::init(&self.dir(node), "test", node, &raft_storage::InitOptions::default())?;
        Ok(())
    }

    /// Copies the directory of a node that is stopped.
    pub fn copy_dir(&self, node: NodeId, copy: &str) -> anyhow::Result<()> {
        copy_tree(&self.dir(node), &self.dir(node).with_extension(copy))
    }

    /// Stops nodes and puts back what a kill would have left of them: their files as they were while
    /// they ran, those in memory included.
    pub fn kill(&mut self, nodes: &[NodeId]) -> anyhow::Result<()> {
        let words = self.certificates.as_ref().map(|dir| dir.path().to_owned());
        let kept = tempfile::tempdir()?;
        // The words first: a process that is killed leaves a log that goes at least as far as its word.
        if let Some(words) = &words {
            copy_tree(words, &kept.path().join("words"))?;
        }
        for node in nodes {
            self.copy_dir(*node, "killed")?;
        }
        for node in nodes {
            self.stop(*node);
            self.put_back(*node, "killed")?;
        }
        if let Some(words) = &words {
            for word in std::fs::read_dir(kept.path().join("words"))? {
                let word = word?;
                std::fs::copy(word.path(), words.join(word.file_name()))?;
            }
        }
        Ok(())
    }

    /// The memory of a machine is gone: power was lost.
    pub fn forget_certificates(&self) -> anyhow::Result<()> {
        for dir in self.certificates.iter() {
            for word in std::fs::read_dir(dir.path())? {
                std::fs::remove_file(word?.path())?;
            }
        }
        Ok(())
    }

    /// Puts the directory of a node that is stopped back to a copy.
    pub fn put_back(&self, node: NodeId, copy: &str) -> anyhow::Result<()> {
        self.remove_dir(node)?;
        copy_tree(&self.dir(node).with_extension(copy), &self.dir(node))
    }

    pub fn host(&self, node: u64) -> &NodeHost {
        &self.hosts[&NodeId::new(node)]
    }

    pub fn spec(&self, group: GroupId) -> GroupSpec {
        GroupSpec::on_nodes(group, self.nodes.iter().copied())
    }

    pub fn create_groups(&self, ids: impl IntoIterator<Item = u32>) -> anyhow::Result<()> {
        for id in ids {
            for host in self.hosts.values() {
                host.create_group(self.spec(GroupId::new(id)))?;
            }
        }
        Ok(())
    }

    /// Creates a group on some of the nodes only.
    pub fn create_on(&self, on: &[u64], group: GroupId) -> anyhow::Result<()> {
        let spec = GroupSpec::on_nodes(group, on.iter().copied().map(NodeId::new));
        for node in on {
            self.host(*node).create_group(spec.clone())?;
        }
        Ok(())
    }

    /// Asks the leader of a group, again and again, until it agrees.
    pub fn at_leader(
        &self,
        group: GroupId,
        ask: impl Fn(&NodeHost) -> Result<(), RequestError>,
    ) -> anyhow::Result<()> {
        let nodes: Vec<u64> = self.hosts.keys().map(|node| node.get()).collect();
        let led = |host: &NodeHost| match ask(host) {
            Err(RequestError::UnknownGroup(_)) => Err(RequestError::NotLeader { leader: None }),
            answer => answer,
        };
        self.ask(&nodes, group, led)
    }

    /// The host that leads a group, by its own word.
    pub fn leader(&self, group: GroupId) -> anyhow::Result<NodeHost> {
        let end = Instant::now() + PATIENCE;
        loop {
            let led = self.hosts.values().find(|h| h.leader_of(group) == Some(h.node()));
            match led {
                Some(host) => return Ok(host.clone()),
                None if Instant::now() > end => bail!("group {group} has no leader"),
                None => self.wait(Duration::from_millis(5)),
            }
        }
    }

    pub fn make_leader(&self, group: GroupId, node: NodeId) -> anyhow::Result<()> {
        let end = Instant::now() + PATIENCE;
        while self.leader(group)?.node() != node {
            let _ = self.leader(group)?.transfer_leadership(group, Some(node)).wait();
            if Instant::now() > end {
                bail!("group {group} cannot be led by {node}");
            }
        }
        Ok(())
    }

    pub fn propose(&self, group: GroupId, command: Bytes) -> anyhow::Result<()> {
        let nodes: Vec<u64> = self.hosts.keys().map(|node| node.get()).collect();
        self.propose_on(&nodes, group, command)
    }

    pub fn propose_on(&self, on: &[u64], group: GroupId, command: Bytes) -> anyhow::Result<()> {
        self.ask(on, group, |host| host.propose(group, command.clone()).wait().map(drop))
    }

    pub fn read_count(&self, group: GroupId) -> anyhow::Result<u64> {
        let nodes: Vec<u64> = self.hosts.keys().map(|node| node.get()).collect();
        let count = self.ask(&nodes, group, |host| host.read(group, Bytes::new()).wait())?;
        Ok(u64::from_le_bytes(count[..].try_into()?))
    }

    fn ask<T>(
        &self,
        on: &[u64],
        group: GroupId,
        ask: impl Fn(&NodeHost) -> Result<T, RequestError>,
    ) -> anyhow::Result<T> {
        let end = Instant::now() + PATIENCE;
        let mut turn = 0;
        loop {
            let host = self.host(on[turn % on.len()]);
            match ask(host) {
                Ok(answer) => return Ok(answer),
                Err(error) if !error.is_safe_to_retry() => bail!("group {group}: {error}"),
                Err(error) if Instant::now() > end => bail!("group {group}: {error}"),
                Err(RequestError::NotLeader { leader: Some(leader) })
                    if on.contains(&leader.get()) && leader != host.node() =>
                {
                    turn = on.iter().position(|node| *node == leader.get()).unwrap_or(turn);
                }
                Err(_) => {
                    turn += 1;
                    self.wait(Duration::from_millis(10));
                }
            }
        }
    }

    /// Waits until the log of a node's replica begins after this index or later.
    pub fn compacted(&self, node: u64, group: GroupId, least: LogIndex) -> anyhow::Result<()> {
        let end = Instant::now() + PATIENCE;
        loop {
            let status = self.host(node).group_status(group).context("it is not here")?;
            if status.base_index >= least {
                return Ok(());
            }
            if Instant::now() > end {
                bail!("the log of {group} on node {node} was not compacted: {status:?}");
            }
            self.wait(Duration::from_millis(10));
        }
    }

    /// Waits until all running replicas applied the same index, and compares their digests.
    pub fn agree(&self, group: GroupId) -> anyhow::Result<()> {
        let end = Instant::now() + PATIENCE;
        loop {
            let digests: Vec<(LogIndex, u64)> = self
                .hosts
                .values()
                .map(|host| host.digest(group).wait())
                .collect::<Result<_, _>>()?;
            if digests.iter().all(|(index, _)| *index == digests[0].0) {
                if digests.iter().any(|digest| *digest != digests[0]) {
                    bail!("group {group}: digests differ: {digests:?}");
                }
                return Ok(());
            }
            if Instant::now() > end {
                bail!("group {group}: replicas did not catch up: {digests:?}");
            }
            self.wait(Duration::from_millis(10));
        }
    }

    /// Lets real time pass: these tests run real threads, sockets and files.
    pub fn wait(&self, time: Duration) {
        std::thread::park_timeout(time);
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for host in self.hosts.values() {
            host.stop();
        }
    }
}

fn copy_tree(from: &std::path::Path, to: &std::path::Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &to)?;
        } else {
            std::fs::copy(entry.path(), to)?;
        }
    }
    Ok(())
}
