//! This project's engine on the same work as its peers: three `NodeHost`s in one process, over
//! loopback TCP through the mux, each with a log of its own.
//!
//! `cluster` keeps the log in memory (class C), `durable` on disk (class A: acknowledged once a
//! quorum has synced it). `--groups` spreads the clients over so many groups, `--op` chooses
//! `write`, `read` (linearizable) or `mix` (90 reads to 10 writes). `--pace` is that of each log:
//! `off`, `learned`, or a number of syncs per second. `--dir` may name three, one for each node.

mod resp;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use peerbench::load::{Proposer, sweep};
use peerbench::{Args, Reporter, front};
use raft_core::{Entry, GroupId, NodeId};
use raft_harness::{
    ApplyMode, GroupSpec, LogKind, LogPace, NodeHost, NodeOptions, PeerOptions, StateMachine,
};
use serde_json::json;

/// Counts what it applies, as every peer's state machine does.
struct Counter(u64);

impl StateMachine for Counter {
    fn apply(&mut self, entries: &[Entry], outputs: &mut Vec<Bytes>) {
        self.0 += entries.len() as u64;
        outputs.extend(entries.iter().map(|_| Bytes::new()));
    }

    fn read(&self, _query: &[u8]) -> Bytes {
        Bytes::copy_from_slice(&self.0.to_le_bytes())
    }

    fn digest(&self) -> u64 {
        self.0
    }

    fn mode(&self) -> ApplyMode {
        ApplyMode::Inline
    }
}

#[derive(Clone, Copy)]
enum Op {
    Write,
    Read,
    Mix,
}

#[derive(Clone)]
struct Cluster {
    /// For each group, the node that leads it.
    leaders: Arc<Vec<NodeHost>>,
    op: Op,
    turn: Arc<AtomicU64>,
}

impl Proposer for Cluster {
    async fn propose(&self, client: usize, payload: Bytes) -> Result<(), String> {
        let at = client % self.leaders.len();
        let group = GroupId::new(at as u32 + 1);
        let host = &self.leaders[at];
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

fn start(node: u64, dir: Option<&Path>, pace: Option<LogPace>) -> NodeHost {
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
    let factory = |_: GroupId, _: &GroupSpec| -> Box<dyn StateMachine> { Box::new(Counter(0)) };
    NodeHost::start(options, Arc::new(factory)).expect("start")
}

fn run(args: &Args, rep: &Reporter, durable: bool) {
    let dir = args.str("dir", "");
    assert!(!durable || !dir.is_empty(), "durable needs --dir");
    let groups: u32 = args.num("groups", 1);
    let dirs: Vec<&Path> = dir.split(',').map(Path::new).collect();
    let dir_of = |node: u64| dirs[(node as usize - 1) % dirs.len()];
    let pace = pace_of(args);
    let hosts: Vec<NodeHost> =
        (1..=3).map(|node| start(node, durable.then(|| dir_of(node)), pace)).collect();
    for host in &hosts {
        for peer in &hosts {
            let addr = peer.listen_addr().expect("a TCP node listens").to_string();
            host.set_peer_address(peer.node(), &addr);
        }
    }
    for group in (1..=groups).map(GroupId::new) {
        for host in &hosts {
            let spec = GroupSpec::on_nodes(group, (1..=3).map(NodeId::new));
            host.create_group(spec).expect("create");
        }
    }
    let op = match args.str("op", "write").as_str() {
        "write" => Op::Write,
        "read" => Op::Read,
        "mix" => Op::Mix,
        other => panic!("unknown --op {other}: write, read or mix"),
    };

    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(args.num("workers", 2))
        .enable_all()
        .build()
        .expect("runtime");
    runtime.block_on(async {
        let mut leaders = Vec::new();
        for group in (1..=groups).map(GroupId::new) {
            let leader = loop {
                let led = hosts.iter().find(|host| host.leader_of(group) == Some(host.node()));
                match led {
                    Some(host) => break host.clone(),
                    None => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            };
            leaders.push(leader);
        }
        let cluster = Cluster { leaders: Arc::new(leaders), op, turn: Arc::default() };
        let clients = args.list("clients", "1,64,256,1024");
        let payload = args.num("payload", 256);
        let span = Duration::from_secs_f64(args.num("secs", 4.0));
        let name = if durable { "W3-durable" } else { "W2-cluster" };
        let mode = args.str("client", "embedded");
        let mut extra = json!({"client": mode, "nodes": "3 in one process"});
        if groups != 1 {
            extra["groups"] = json!(groups);
        }
        if pace.is_some() {
            extra["pace"] = json!(args.str("pace", ""));
        }
        if !matches!(op, Op::Write) {
            extra["op"] = json!(args.str("op", "write"));
        }
        let before = counters(&hosts);
        let reps = args.num("reps", 3);
        if mode == "remote" {
            let remote = front::Remote::connect(front::serve(cluster).await, 4).await;
            sweep(&remote, rep, name, extra.clone(), &clients, payload, span, reps, &[]).await;
        } else {
            sweep(&cluster, rep, name, extra.clone(), &clients, payload, span, reps, &[]).await;
        }
        // Over the whole sweep, warm-up included: what one committed entry cost all three nodes.
        if !matches!(op, Op::Write) {
            return;
        }
        let after = counters(&hosts);
        let entries = (after.entries - before.entries).max(1) as f64 / 3.0;
        for (metric, count) in [
            ("fsyncs_per_write", after.fsyncs - before.fsyncs),
            ("paced_per_write", after.paced - before.paced),
            ("unprepared_bytes_per_write", after.unprepared - before.unprepared),
            ("socket_writes_per_write", after.writes - before.writes),
            ("socket_reads_per_write", after.reads - before.reads),
        ] {
            let per = count as f64 / entries;
            rep.emit(name, extra.clone(), 0, metric, per, "count", None);
        }
    });
    for host in &hosts {
        host.stop();
    }
    runtime.shutdown_background();
}

struct Totals {
    entries: u64,
    fsyncs: u64,
    paced: u64,
    unprepared: u64,
    writes: u64,
    reads: u64,
}

fn counters(hosts: &[NodeHost]) -> Totals {
    let statuses: Vec<_> = hosts.iter().map(NodeHost::status).collect();
    Totals {
        entries: statuses.iter().map(|status| status.applied_commands_total).sum(),
        fsyncs: statuses.iter().map(|status| status.counters.fsyncs).sum(),
        paced: statuses.iter().map(|status| status.counters.log_paced).sum(),
        unprepared: statuses.iter().map(|status| status.counters.log_unprepared_bytes).sum(),
        writes: statuses.iter().map(|status| status.lane_total("writes")).sum(),
        reads: statuses.iter().map(|status| status.lane_total("reads")).sum(),
    }
}

fn main() {
    let args = Args::from_env();
    let rep = Reporter::new("raft-harness", env!("CARGO_PKG_VERSION"));
    match args.workload.as_str() {
        "cluster" => run(&args, &rep, false),
        "durable" => run(&args, &rep, true),
        "resp" => resp::run(&args, &rep),
        other => panic!("unknown workload {other:?}: cluster, durable or resp"),
    }
}
