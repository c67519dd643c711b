//! The core alone, ours beside raft-rs in one run: three replicas on one thread, payloads by
//! reference in logs in memory, state machines that count; no disk, no sockets.
//!
//! ```sh
//! cargo build --release -p peer-core
//! $CARGO_TARGET_DIR/release/peer-core core --reps 5 --secs 1     # commits, and ratios at the end
//! $CARGO_TARGET_DIR/release/peer-core idle --groups 100000       # bytes of an idle replica
//! ```
//!
//! Repetitions alternate between the two, so that noise falls on both. `cpu_per_commit` is
//! processor time of the one thread and hardly depends on neighbours; compare it first. Both
//! drivers keep `--keep` entries behind the newest, and both go round alike: propose up to the
//! window, then deliver until nothing is left to say. `--raft-rs` chooses raft-rs's settings:
//! `best` (the default, as measured), `told` (a message tells followers of each commit) or
//! `singly` (each command is proposed by itself).

mod raft_rs;

#[path = "../../../../../raft-core/benches/core/counting.rs"]
mod counting;
#[path = "../../../../../raft-core/benches/core/idle.rs"]
mod idle;
#[path = "../../../../../raft-core/benches/core/trio.rs"]
mod trio;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use peerbench::sys::Probe;
use peerbench::{Args, Pool, Reporter};
use serde_json::json;

use crate::idle::Idle;
use crate::raft_rs::Tuning;

#[global_allocator]
static ALLOCATOR: counting::Counting = counting::Counting;

/// What both have in common: enough to keep a window full.
trait Cluster {
    fn propose(&mut self, payload: Bytes);
    fn round(&mut self);
    fn compact(&mut self, keep: u64);
    fn committed(&self) -> u64;
    fn applied_bytes(&self) -> u64;
}

macro_rules! cluster {
    ($name:ty) => {
        impl Cluster for $name {
            fn propose(&mut self, payload: Bytes) {
                self.propose(payload);
            }
            fn round(&mut self) {
                self.round();
            }
            fn compact(&mut self, keep: u64) {
                self.compact(keep);
            }
            fn committed(&self) -> u64 {
                self.committed()
            }
            fn applied_bytes(&self) -> u64 {
                self.applied_bytes()
            }
        }
    };
}

cluster!(trio::Trio);
cluster!(raft_rs::Trio);

/// One measurement.
struct Figures {
    commits_per_s: f64,
    cpu_ns: f64,
    allocations: f64,
}

fn main() {
    let args = Args::from_env();
    let ours = Reporter::new("raft-core", env!("CARGO_PKG_VERSION"));
    let theirs = Reporter::new("raft-rs", raft_rs::VERSION);
    let mut tuning = Tuning { skip_bcast_commit: true, propose_at_once: true };
    match args.str("raft-rs", "best").as_str() {
        "best" => {}
        "told" => tuning.skip_bcast_commit = false,
        "singly" => tuning.propose_at_once = false,
        other => panic!("unknown --raft-rs {other}: best, told or singly"),
    }
    match args.workload.as_str() {
        "core" => run_core(&args, &ours, &theirs, tuning),
        "idle" => run_idle(&args, &ours, &theirs, tuning),
        other => panic!("unknown workload {other:?}: core or idle"),
    }
}

fn run_core(args: &Args, ours: &Reporter, theirs: &Reporter, tuning: Tuning) {
    let span = Duration::from_secs_f64(args.num("secs", 1.0));
    let keep = args.num("keep", 4096);
    // Figures of all repetitions, by condition: ours, then theirs.
    let mut all: BTreeMap<(usize, u64), [Vec<Figures>; 2]> = BTreeMap::new();
    for rep in 0..args.num("reps", 3) {
        for payload in args.list::<usize>("payloads", "16,1024") {
            for window in args.list::<u64>("windows", "1,64,1024") {
                let pair = all.entry((payload, window)).or_default();
                let measure = |cluster: &mut dyn Cluster, reporter| {
                    measure(cluster, reporter, rep, payload, window, keep, span)
                };
                pair[0].push(measure(&mut trio::Trio::new(), ours));
                pair[1].push(measure(&mut raft_rs::Trio::new(tuning), theirs));
            }
        }
    }
    println!("\nMedians, ours / raft-rs:");
    println!(
        "| payload | window | commits/s | ratio | CPU ns per commit | ratio | allocations per commit |"
    );
    println!("|--:|--:|--:|--:|--:|--:|--:|");
    for ((payload, window), [ours, theirs]) in all {
        let both = |figure: fn(&Figures) -> f64| {
            (median(ours.iter().map(figure)), median(theirs.iter().map(figure)))
        };
        let (rate, rate_rs) = both(|figures| figures.commits_per_s);
        let (cpu, cpu_rs) = both(|figures| figures.cpu_ns);
        let (allocations, allocations_rs) = both(|figures| figures.allocations);
        println!(
            "| {payload} | {window} | {:.2} M / {:.2} M | {:.1} | {cpu:.0} / {cpu_rs:.0} | {:.1} \
             | {allocations:.3} / {allocations_rs:.3} |",
            rate / 1e6,
            rate_rs / 1e6,
            rate / rate_rs,
            cpu_rs / cpu,
        );
    }
}

fn measure(
    cluster: &mut dyn Cluster,
    reporter: &Reporter,
    rep: usize,
    payload: usize,
    window: u64,
    keep: u64,
    span: Duration,
) -> Figures {
    let mut payloads = Payloads::new(payload);
    keep_full(cluster, &mut payloads, window, keep, span / 4);
    let probe = Probe::start();
    let (allocations, cpu, start) = (counting::allocations(), thread_cpu(), Instant::now());
    let from = cluster.committed();
    keep_full(cluster, &mut payloads, window, keep, span);
    let done = (cluster.committed() - from) as f64;
    let figures = Figures {
        commits_per_s: done / start.elapsed().as_secs_f64(),
        cpu_ns: (thread_cpu() - cpu).as_nanos() as f64 / done,
        allocations: (counting::allocations() - allocations) as f64 / done,
    };
    let usage = probe.stop();
    assert_eq!(cluster.applied_bytes(), cluster.committed() * payload as u64);
    let params = json!({"payload": payload, "window": window, "threads": 1});
    for (metric, value, unit) in [
        ("committed_per_s", figures.commits_per_s, "1/s"),
        ("cpu_per_commit", figures.cpu_ns, "ns"),
        ("allocations_per_commit", figures.allocations, "count"),
    ] {
        reporter.emit("W1-core", params.clone(), rep, metric, value, unit, Some(usage));
    }
    figures
}

/// Payloads made before measuring: making one takes as long as committing some.
struct Payloads {
    made: Vec<Bytes>,
    next: usize,
}

impl Payloads {
    fn new(len: usize) -> Self {
        let mut pool = Pool::new(len);
        Self { made: (0..256).map(|_| pool.next()).collect(), next: 0 }
    }

    fn next(&mut self) -> Bytes {
        self.next = (self.next + 1) % self.made.len();
        self.made[self.next].clone()
    }
}

fn keep_full(
    cluster: &mut dyn Cluster,
    payloads: &mut Payloads,
    window: u64,
    keep: u64,
    span: Duration,
) {
    let start = Instant::now();
    let mut proposed = cluster.committed();
    let mut compacted = proposed;
    let mut rounds = 0;
    loop {
        while proposed - cluster.committed() < window {
            cluster.propose(payloads.next());
            proposed += 1;
        }
        cluster.round();
        if proposed - compacted >= keep {
            cluster.compact(keep);
            compacted = proposed;
        }
        rounds += 1;
        // A clock costs some 20 ns, so it is looked at now and then.
        if rounds % 32 == 0 && start.elapsed() >= span {
            break;
        }
    }
    assert_eq!(cluster.committed(), proposed, "a round commits all that was proposed");
}

fn run_idle(args: &Args, ours: &Reporter, theirs: &Reporter, tuning: Tuning) {
    let groups: u32 = args.num("groups", 100_000);
    let commands = args.num("commands", 4);
    let params = json!({"groups": groups, "replicas": 3, "commands": commands});
    for heartbeats in [0, 20] {
        let Idle { leader, follower } = idle::measure(groups, commands, heartbeats);
        let mut params = params.clone();
        params["heartbeats"] = json!(heartbeats);
        ours.emit("W1-idle", params.clone(), 0, "bytes_per_leader", leader, "B", None);
        ours.emit("W1-idle", params, 0, "bytes_per_follower", follower, "B", None);
    }
    let (leaders, followers) = raft_rs::idle_nodes(groups, commands, tuning);
    for (metric, mut nodes) in [("bytes_per_leader", leaders), ("bytes_per_follower", followers)] {
        let before = counting::live_bytes();
        let count = nodes.len() as f64;
        nodes.clear();
        let bytes = (before - counting::live_bytes()) as f64 / count
            + size_of::<raft::RawNode<raft_rs::Store>>() as f64;
        theirs.emit("W1-idle", params.clone(), 0, metric, bytes, "B", None);
    }
}

fn thread_cpu() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid timespec for the call to fill.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let (low, high) = ((values.len() - 1) / 2, values.len() / 2);
    f64::midpoint(values[low], values[high])
}
