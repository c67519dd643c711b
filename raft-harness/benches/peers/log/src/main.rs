//! How close does the shared log come to the bare disk, in steady state, and to raft-engine?
//!
//! Three logs of one process take turns in short slices, case by case, so that whatever else the
//! machine does falls on all alike:
//! - ours, `LogWriter::commit`; with several writers, threads that hand in and wait, in front of
//!   two threads as a node has them: one prepares all there is, the other writes;
//! - raft-engine with recycled and prefilled files and without compression;
//! - the raw probe: one thread, a file as long as our log's footprint and fully written before,
//!   direct writes at advancing offsets of exactly the bytes of our frame rounded up to 4 KiB, then
//!   `fdatasync`; and the same with `RWF_DSYNC` instead, and through the page cache.
//!
//! Before the first slice ours and raft-engine are written over twice; groups are compacted all the
//! time, so that what is live stays half the footprint. Rates are medians of the slices, ratios
//! medians of pairs, percentiles those of all slices together.
//!
//! `peer-log append --dir DIR [--groups 1,100,1000] [--batch 1,64,1024] [--writers 1,4] [--pairs 5]
//! [--secs 0.25] [--payload 256] [--footprint-mib 128] [--segment-mib 16] [--engine 1]`: about two
//! minutes. A table on standard error, JSON lines on standard output. Other workloads: `recover`, `index`
//! (`recover.rs`) and `amplify` (`amplify.rs`).

mod amplify;
mod engine;
mod ours;
mod raw;
mod recover;

use std::path::Path;
use std::time::Duration;

use peerbench::sys::{Probe, cpu_seconds};
use peerbench::{Args, Reporter};
use serde_json::{Value, json};

use crate::engine::Engine;
use crate::ours::Ours;
use crate::raw::{Raw, Way};

const W: &str = "W5-steady";

/// What a case asks of every log.
#[derive(Clone, Copy)]
pub(crate) struct Case {
    pub(crate) groups: usize,
    pub(crate) batch: usize,
    pub(crate) writers: usize,
}

/// What one slice has done.
#[derive(Default)]
pub(crate) struct Slice {
    pub(crate) entries: u64,
    /// Times something was made durable.
    pub(crate) syncs: u64,
    /// Bytes handed to the disk for it.
    pub(crate) bytes: u64,
    /// Of each batch that was handed in, in nanoseconds.
    pub(crate) latencies: Vec<u64>,
    pub(crate) seconds: f64,
    pub(crate) cpu_seconds: f64,
    /// Calls that write.
    pub(crate) writes: u64,
}

impl Slice {
    fn rate(&self) -> f64 {
        self.entries as f64 / self.seconds
    }

    fn sync_rate(&self) -> f64 {
        self.syncs as f64 / self.seconds
    }
}

/// All slices of one log in one case.
#[derive(Default)]
struct Slices(Vec<Slice>);

impl Slices {
    fn median(&self, of: impl Fn(&Slice) -> f64) -> f64 {
        median(self.0.iter().map(of).collect())
    }

    /// In microseconds.
    fn percentile(&self, permille: usize) -> f64 {
        let mut all: Vec<u64> = self.0.iter().flat_map(|slice| slice.latencies.clone()).collect();
        all.sort_unstable();
        let at = (all.len() * permille / 1000).min(all.len().saturating_sub(1));
        all.get(at).map_or(0.0, |nanos| *nanos as f64 / 1e3)
    }

    fn per_entry(&self, of: impl Fn(&Slice) -> f64) -> f64 {
        let entries: u64 = self.0.iter().map(|slice| slice.entries).sum();
        self.0.iter().map(of).sum::<f64>() / entries.max(1) as f64
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

/// Measures what `work` costs the process.
pub(crate) fn measured(work: impl FnOnce() -> Slice) -> Slice {
    let (cpu, writes) = (cpu_seconds(), write_calls());
    let begin = std::time::Instant::now();
    let slice = work();
    Slice {
        seconds: begin.elapsed().as_secs_f64(),
        cpu_seconds: cpu_seconds() - cpu,
        writes: write_calls() - writes,
        ..slice
    }
}

/// Calls of this process that write, as the kernel counts them (syncs are none).
fn write_calls() -> u64 {
    let io = std::fs::read_to_string("/proc/self/io").unwrap_or_default();
    let line = io.lines().find_map(|line| line.strip_prefix("syscw: "));
    line.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
}

fn main() {
    let args = Args::from_env();
    let dir = args.str("dir", "");
    assert!(!dir.is_empty(), "needs --dir");
    let dir = Path::new(&dir);
    let report = Reporter::new("raft-storage", env!("CARGO_PKG_VERSION"));
    match args.workload.as_str() {
        "append" => append(&args, dir, &report),
        "recover" => recover::recover(&args, dir, &report),
        "index" => recover::index(&args, dir, &report),
        "amplify" => amplify::amplify(&args, dir, &report),
        // For `recover` and `index`, which open in a process of its own.
        "open" => recover::open_here(&args),
        other => panic!("unknown workload {other:?}: append, recover, index or amplify"),
    }
}

fn append(args: &Args, dir: &Path, report: &Reporter) {
    let span = Duration::from_secs_f64(args.num("secs", 0.25));
    let pairs: usize = args.num("pairs", 5);
    let payload: usize = args.num("payload", 256);
    let footprint = args.num("footprint-mib", 128_u64) << 20;
    let segment = args.num("segment-mib", 16_u64) << 20;
    let with_engine = args.num("engine", 1) != 0;

    let mut ours = Ours::open(&dir.join("ours"), segment, payload, footprint / 2);
    let mut engine =
        with_engine.then(|| Engine::open(&dir.join("engine"), segment, payload, footprint / 2));
    let mut raw = Raw::open(&dir.join("raw"), footprint);
    let warm = Case { groups: 100, batch: 1024, writers: 1 };
    let written = ours.turn_over(warm, 2 * footprint);
    if let Some(engine) = &mut engine {
        engine.turn_over(warm, 2 * footprint);
    }
    eprintln!(
        "{payload} B of noise, every batch durable; {} MiB written before, {} MiB of ours on disk; load {}",
        written >> 20,
        ours.on_disk() >> 20,
        std::fs::read_to_string("/proc/loadavg").unwrap_or_default().trim()
    );
    eprintln!(
        "{:>6} {:>6} {:>2} | {:>9} {:>7} {:>7} {:>7} {:>6} {:>6} {:>6} | {:>7} {:>7} {:>7} {:>5} | {:>7} {:>7} {:>7} {:>5} | {:>7} {:>5} | {:>9} {:>7} {:>7} {:>6} {:>5} | noise",
        "groups",
        "batch",
        "wr",
        "ours e/s",
        "sync/s",
        "p50",
        "p99",
        "B/e",
        "us/e",
        "wr/sy",
        "raw/s",
        "p50",
        "p99",
        "ratio",
        "dsync/s",
        "p50",
        "p99",
        "ratio",
        "cached",
        "ratio",
        "engine/s",
        "p50",
        "p99",
        "us/e",
        "ratio"
    );
    for writers in args.list::<usize>("writers", "1,4") {
        for groups in args.list::<usize>("groups", "1,100,1000") {
            for batch in args.list::<usize>("batch", "1,64,1024") {
                let case = Case { groups, batch, writers };
                run(case, pairs, span, &mut ours, engine.as_mut(), &mut raw, report);
            }
        }
    }
    for name in ["ours", "engine", "raw"] {
        let path = dir.join(name);
        let _ = std::fs::remove_dir_all(&path).or_else(|_| std::fs::remove_file(&path));
    }
}

fn run(
    case: Case,
    pairs: usize,
    span: Duration,
    ours: &mut Ours,
    mut engine: Option<&mut Engine>,
    raw: &mut Raw,
    report: &Reporter,
) {
    let probe = Probe::start();
    let mut of = [(); 5].map(|()| Slices::default());
    for _ in 0..pairs {
        let slice = ours.slice(case, span);
        let bytes = slice.bytes / slice.syncs.max(1);
        of[0].0.push(slice);
        for (at, way) in [(1, Way::Fdatasync), (2, Way::Dsync), (3, Way::Cached)] {
            of[at].0.push(raw.slice(way, bytes, span));
        }
        if let Some(engine) = &mut engine {
            of[4].0.push(engine.slice(case, span));
        }
    }
    let usage = probe.stop();
    let pair = |other: usize, rate: fn(&Slice) -> f64| {
        median(of[0].0.iter().zip(&of[other].0).map(|(a, b)| rate(a) / rate(b)).collect())
    };
    let [mine, fdatasync, dsync, cached, peer] = &of;
    let micros = |slices: &Slices| slices.per_entry(|slice| slice.cpu_seconds * 1e6);
    let writes_per_sync = mine.per_entry(|slice| slice.writes as f64)
        / mine.per_entry(|slice| slice.syncs as f64).max(f64::MIN_POSITIVE);
    eprintln!(
        "{:>6} {:>6} {:>2} | {:>9.0} {:>7.0} {:>7.0} {:>7.0} {:>6.0} {:>6.2} {:>6.2} | {:>7.0} {:>7.0} {:>7.0} {:>5.2} | {:>7.0} {:>7.0} {:>7.0} {:>5.2} | {:>7.0} {:>5.2} | {:>9.0} {:>7.0} {:>7.0} {:>6.2} {:>5.2} | {:.2}",
        case.groups,
        case.batch,
        case.writers,
        mine.median(Slice::rate),
        mine.median(Slice::sync_rate),
        mine.percentile(500),
        mine.percentile(990),
        mine.per_entry(|slice| slice.bytes as f64),
        micros(mine),
        writes_per_sync,
        fdatasync.median(Slice::sync_rate),
        fdatasync.percentile(500),
        fdatasync.percentile(990),
        pair(1, Slice::sync_rate),
        dsync.median(Slice::sync_rate),
        dsync.percentile(500),
        dsync.percentile(990),
        pair(2, Slice::sync_rate),
        cached.median(Slice::sync_rate),
        pair(3, Slice::sync_rate),
        peer.median(Slice::rate),
        peer.percentile(500),
        peer.percentile(990),
        micros(peer),
        pair(4, Slice::rate),
        usage.other_cores,
    );
    let params = json!({"groups": case.groups, "batch": case.batch, "writers": case.writers});
    let emit = |metric: &str, value: f64, unit: &str| {
        let params: Value = params.clone();
        report.emit(W, params, 0, metric, value, unit, Some(usage));
    };
    emit("entries_per_s", mine.median(Slice::rate), "1/s");
    emit("p50", mine.percentile(500), "us");
    emit("p99", mine.percentile(990), "us");
    emit("bytes_per_entry", mine.per_entry(|slice| slice.bytes as f64), "B");
    emit("cpu_per_entry", micros(mine), "us");
    emit("writes_per_sync", writes_per_sync, "count");
    emit("of_raw", pair(1, Slice::sync_rate), "ratio");
    emit("of_raw_dsync", pair(2, Slice::sync_rate), "ratio");
    emit("raw_p50", fdatasync.percentile(500), "us");
    emit("raw_p99", fdatasync.percentile(990), "us");
    if engine.is_some() {
        emit("engine_entries_per_s", peer.median(Slice::rate), "1/s");
        emit("of_engine", pair(4, Slice::rate), "ratio");
    }
}
