//! This project's engine on the same work as its peers: three `NodeHost`s in one process, over
//! loopback TCP through the mux, each with a log of its own.
//!
//! `cluster` keeps the log in memory (class C), `durable` on disk (class A: acknowledged once a
//! quorum has synced it). `--groups` spreads the clients over so many groups, `--op` chooses
//! `write`, `read` (linearizable) or `mix` (90 reads to 10 writes). `--pace` is that of each log:
//! `off`, `learned`, or a number of syncs per second. `--dir` may name three, one for each node.
//! `--class b` makes all groups MemFirst: acknowledged once a quorum has it in its page cache.
//!
//! `large` and `mixed` ask what one kind of writes costs another (`beside.rs`).

mod beside;
mod cluster;
mod resp;

use std::time::Duration;

use peerbench::load::sweep;
use peerbench::{Args, Reporter, front};
use raft_harness::NodeHost;
use serde_json::json;

use crate::cluster::{Class, Cluster, Keeps, Op};

fn run(args: &Args, rep: &Reporter, durable: bool) {
    let groups: u32 = args.num("groups", 1);
    let class = match args.str("class", "a").as_str() {
        _ if !durable => Class::C,
        "a" => Class::A,
        "b" => Class::B,
        other => panic!("unknown --class {other}: a or b"),
    };
    let hosts = cluster::start(args, &vec![class; groups as usize], Keeps::Log);
    let op = match args.str("op", "write").as_str() {
        "write" => Op::Write,
        "read" => Op::Read,
        "mix" => Op::Mix,
        other => panic!("unknown --op {other}: write, read or mix"),
    };

    let runtime = cluster::runtime(args);
    runtime.block_on(async {
        let mut cluster = Cluster::of(&hosts, 1..=groups).await;
        cluster.op = op;
        let clients = args.list("clients", "1,64,256,1024");
        let payload = args.num("payload", 256);
        let span = Duration::from_secs_f64(args.num("secs", 4.0));
        let name = if durable { "W3-durable" } else { "W2-cluster" };
        let mode = args.str("client", "embedded");
        let mut extra = json!({"client": mode, "nodes": "3 in one process"});
        if groups != 1 {
            extra["groups"] = json!(groups);
        }
        if class == Class::B {
            extra["class"] = json!("B");
        }
        if !args.str("pace", "").is_empty() {
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
        "large" => beside::large(&args, &rep),
        "mixed" => beside::mixed(&args, &rep),
        "resp" => resp::run(&args, &rep),
        other => panic!("unknown workload {other:?}: cluster, durable, large, mixed or resp"),
    }
}
