//! Three nodes in one process, and clients of some of their groups.

use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use peerbench::Args;
use peerbench::load::Proposer;
use raft_core::{Entry, GroupId, NodeId};
use raft_harness::{
    ApplyMode, FlushPolicy, GroupSpec, LogKind, LogPace, NodeHost, NodeOptions, PeerOptions,
    Persistence, RestoreError, SnapshotPieces, StateMachine, Strategy,
};

/// Counts what it applies, as every peer's state machine does.
struct Counter {
    applied: u64,
    keeps: Keeps,
}

/// What becomes of the log behind what is applied.
#[derive(Clone, Copy, Eq, PartialEq)]
pub(crate) enum Keeps {
    /// It stays: the machine has no snapshots.
    Log,
    /// It goes, and its segments are written again.
    Snapshots,
}

impl StateMachine for Counter {
    fn apply(&mut self, entries: &[Entry], outputs: &mut Vec<Bytes>) {
        self.applied += entries.len() as u64;
        outputs.extend(entries.iter().map(|_| Bytes::new()));
    }

    fn read(&self, _query: &[u8]) -> Bytes {
        Bytes::copy_from_slice(&self.applied.to_le_bytes())
    }

    fn digest(&self) -> u64 {
        self.applied
    }

    fn snapshot(&self) -> Option<SnapshotPieces> {
        let state = Bytes::copy_from_slice(&self.applied.to_le_bytes());
        (self.keeps == Keeps::Snapshots).then(|| Box::new(std::iter::once(state)) as SnapshotPieces)
    }

    fn restore(&mut self, pieces: &mut dyn Iterator<Item = Bytes>) -> Result<(), RestoreError> {
        let state = pieces.next().and_then(|piece| piece.as_ref().try_into().ok());
        let state = state.ok_or_else(|| RestoreError::Refused("not eight bytes".to_owned()))?;
        self.applied = u64::from_le_bytes(state);
        Ok(())
    }

    fn mode(&self) -> ApplyMode {
        ApplyMode::Inline
    }
}

#[derive(Clone, Copy)]
pub(crate) enum Op {
    Write,
    Read,
    Mix,
}

/// What an acknowledged write has behind it: disks, page caches, memory.
#[derive(Clone, Copy, Eq, PartialEq)]
pub(crate) enum Class {
    A,
    B,
    C,
}

/// Some groups of a cluster, over which clients are spread.
#[derive(Clone)]
pub(crate) struct Cluster {
    /// The id of each group, and the node that leads it.
    leaders: Arc<Vec<(GroupId, NodeHost)>>,
    pub(crate) op: Op,
    turn: Arc<AtomicU64>,
}

impl Cluster {
    /// These groups, once each has a leader; writes.
    pub(crate) async fn of(hosts: &[NodeHost], groups: RangeInclusive<u32>) -> Self {
        let mut leaders = Vec::new();
        for group in groups.map(GroupId::new) {
            let leader = loop {
                let led = hosts.iter().find(|host| host.leader_of(group) == Some(host.node()));
                match led {
                    Some(host) => break host.clone(),
                    None => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            };
            leaders.push((group, leader));
        }
        Self { leaders: Arc::new(leaders), op: Op::Write, turn: Arc::default() }
    }
}

impl Proposer for Cluster {
    async fn propose(&self, client: usize, payload: Bytes) -> Result<(), String> {
        let (group, host) = &self.leaders[client % self.leaders.len()];
        let group = *group;
        let reads = match self.op {
            Op::Write => false,
            Op::Read => true,
            Op::Mix => self.turn.fetch_add(1, Relaxed) % 10 != 0,
        };
        if reads {
            host.read(group, Bytes::new()).await.map(drop).map_err(|e| e.to_string())
        } else {
            host.propose(group, payload).await.map(drop).map_err(|e| e.to_string())
        }
    }
}

fn pace_of(args: &Args) -> Option<LogPace> {
    match args.str("pace", "").as_str() {
        "" => None,
        "off" => Some(LogPace::Off),
        "learned" => Some(LogPace::Learned),
        number => Some(LogPace::Fixed(number.parse().expect("off, learned or a number"))),
    }
}

/// Three nodes with a log each, and a group of each class.
pub(crate) fn start(args: &Args, groups: &[Class], keeps: Keeps) -> Vec<NodeHost> {
    let durable = groups.iter().any(|class| *class != Class::C);
    let dir = args.str("dir", "");
    assert!(!durable || !dir.is_empty(), "a log on disk needs --dir");
    let dirs: Vec<&Path> = dir.split(',').map(Path::new).collect();
    let dir_of = |node: u64| dirs[(node as usize - 1) % dirs.len()];
    let pace = pace_of(args);
    let hosts: Vec<NodeHost> =
        (1..=3).map(|node| start_one(node, durable.then(|| dir_of(node)), pace, keeps)).collect();
    for host in &hosts {
        for peer in &hosts {
            let addr = peer.listen_addr().expect("a TCP node listens").to_string();
            host.set_peer_address(peer.node(), &addr);
        }
    }
    for (group, class) in (1..).map(GroupId::new).zip(groups) {
        for host in &hosts {
            let spec = GroupSpec::on_nodes(group, (1..=3).map(NodeId::new));
            let spec = match class {
                Class::A | Class::C => spec,
                Class::B => spec.with_persistence(Persistence {
                    strategy: Strategy::MemFirst,
                    flush: FlushPolicy::default(),
                }),
            };
            host.create_group(spec).expect("create");
        }
    }
    hosts
}

pub(crate) fn runtime(args: &Args) -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(args.num("workers", 2))
        .enable_all()
        .build()
        .expect("runtime")
}

fn start_one(node: u64, dir: Option<&Path>, pace: Option<LogPace>, keeps: Keeps) -> NodeHost {
    let log = match dir {
        // As much as raft-rs keeps: about 16 Ki entries.
        None => LogKind::Memory { keep_bytes: Some(4 << 20) },
        Some(dir) => {
            let path = dir.join(format!("n{node}"));
            raft_storage::init(
                &path,
                "bench",
                NodeId::new(node),
                &raft_storage::InitOptions::default(),
            )
            .expect("init");
            LogKind::Directory { path, options: raft_storage::LogOptions::default() }
        }
    };
    let defaults = NodeOptions::default();
    let options = NodeOptions {
        log_pace: pace.unwrap_or(defaults.log_pace),
        node: NodeId::new(node),
        cluster: "bench".to_owned(),
        peers: (1..=3)
            .filter(|peer| *peer != node)
            .map(|peer| PeerOptions { node: NodeId::new(peer), address: String::new() })
            .collect(),
        log,
        ..defaults
    };
    let factory = move |_: GroupId, _: &GroupSpec| -> Box<dyn StateMachine> {
        Box::new(Counter { applied: 0, keeps })
    };
    NodeHost::start(options, Arc::new(factory)).expect("start")
}
