//! How close does the shared log come to the bare disk, and what does an entry cost in CPU?
//!
//! A new log, and no other beside it; in steady state and next to raft-engine it is measured by
//! `raft-harness/benches/peers/log`. Every batch is committed. Beside each row stands the raw probe of the same minute:
//! one write of as many bytes and one `fdatasync`, on a file full of zeros, nothing else. Without
//! it the figures mean little, since the speed of a shared disk changes by the minute.
//!
//! Run: `cargo bench -p raft-storage --bench append [-- SECONDS_PER_CASE]`. CPU, user and
//! kernel, is given twice: of the writing thread, and of the whole process, which adds the helper
//! thread that prepares the next segment.

use std::io::IoSlice;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use raft_core::{Entry, EntryKind, GroupId, GroupIncarnation, LogIndex, LogTime, NodeId, Term};
use raft_storage::{
    Disk, DiskFile, Expected, FileDisk, GroupCreate, GroupWrite, InitOptions, Log, LogOptions, init,
};
use rustix::time::{ClockId, clock_gettime};

const PAYLOAD_BYTES: usize = 256;

fn main() {
    // Cargo passes `--bench`; a number is the time per case.
    let seconds = std::env::args().find_map(|argument| argument.parse().ok()).unwrap_or(1.0);
    let time = Duration::from_secs_f64(seconds);
    let dir = tempfile::tempdir().expect("a temporary directory");
    println!("{PAYLOAD_BYTES} B incompressible, one writer, every batch synced");
    println!(
        "{:>6} {:>6} | {:>11} {:>9} {:>8} {:>9} {:>8} {:>8} | {:>9} {:>6}",
        "groups",
        "batch",
        "entries/s",
        "fsyncs/s",
        "p50 us",
        "p99 us",
        "us/e",
        "all us/e",
        "raw/s",
        "ratio"
    );
    for groups in [1, 100, 1000] {
        for batch in [1, 64, 1024] {
            let place = dir.path().join(format!("{groups}-{batch}"));
            let run = log(&place, groups, batch, time);
            let raw = raw(&place, run.bytes_per_sync, time / 2);
            let syncs = run.syncs as f64 / run.elapsed.as_secs_f64();
            println!(
                "{groups:>6} {batch:>6} | {:>11.0} {syncs:>9.0} {:>8.0} {:>9.0} {:>8.3} {:>8.3} | {raw:>9.0} {:>6.2}",
                syncs * batch as f64,
                run.p50.as_secs_f64() * 1e6,
                run.p99.as_secs_f64() * 1e6,
                run.cpu.as_secs_f64() * 1e6 / (run.syncs * batch as u64) as f64,
                run.cpu_all.as_secs_f64() * 1e6 / (run.syncs * batch as u64) as f64,
                syncs / raw,
            );
            std::fs::remove_dir_all(&place).expect("our own directory");
        }
    }
    recovery(&dir.path().join("recovery"));
}

struct Run {
    syncs: u64,
    elapsed: Duration,
    /// Of the writing thread.
    cpu: Duration,
    /// Of the process.
    cpu_all: Duration,
    p50: Duration,
    p99: Duration,
    bytes_per_sync: u64,
}

fn log(place: &Path, groups: usize, batch: usize, time: Duration) -> Run {
    let mut load = Load::new(groups);
    init(place, "bench", NodeId::new(1), &InitOptions::default()).expect("an empty directory");
    let opened = Log::open(place, &Expected::default(), &LogOptions::default());
    let mut writer = opened.expect("a new log").writer;
    writer.append(&load.creates()).expect("new groups");
    writer.sync().expect("a sound disk");

    let mut latencies = Vec::with_capacity(1 << 20);
    let cpu = cpu_time(ClockId::ThreadCPUTime);
    let cpu_all = cpu_time(ClockId::ProcessCPUTime);
    let (mut bytes, begin) = (0, Instant::now());
    while begin.elapsed() < time {
        let writes = load.next_batch(batch);
        let started = Instant::now();
        bytes += writer.commit(writes).expect("a sound disk").0.bytes;
        latencies.push(started.elapsed());
    }
    let elapsed = begin.elapsed();
    let cpu = cpu_time(ClockId::ThreadCPUTime) - cpu;
    let cpu_all = cpu_time(ClockId::ProcessCPUTime) - cpu_all;
    latencies.sort_unstable();
    let syncs = latencies.len() as u64;
    Run {
        syncs,
        elapsed,
        cpu,
        cpu_all,
        p50: latencies[latencies.len() / 2],
        p99: latencies[latencies.len() * 99 / 100],
        bytes_per_sync: bytes / syncs,
    }
}

/// Syncs per second of the disk alone, with so many bytes each.
fn raw(place: &Path, bytes: u64, time: Duration) -> f64 {
    let disk = FileDisk::open(place).expect("made by the log before");
    let file = disk.create("raw").expect("a new file");
    let zeros = vec![0; 64 << 20];
    file.write_vectored_at(&mut [IoSlice::new(&zeros)], 0).expect("a sound disk");
    file.sync_all().expect("a sound disk");
    let block = vec![7; bytes as usize];
    let (mut count, mut offset, begin) = (0_u64, 0, Instant::now());
    while begin.elapsed() < time {
        if offset + bytes > zeros.len() as u64 {
            offset = 0;
        }
        file.write_vectored_at(&mut [IoSlice::new(&block)], offset).expect("a sound disk");
        file.sync_data().expect("a sound disk");
        offset += bytes.next_multiple_of(4096);
        count += 1;
    }
    count as f64 / begin.elapsed().as_secs_f64()
}

/// How long does it take to open a log with 1 GiB of payload over 1,000 groups?
fn recovery(place: &Path) {
    let mut load = Load::new(1000);
    init(place, "bench", NodeId::new(1), &InitOptions::default()).expect("an empty directory");
    let options = LogOptions::default();
    let opened = Log::open(place, &Expected::default(), &options);
    let mut writer = opened.expect("a new log").writer;
    writer.append(&load.creates()).expect("new groups");
    let entries = (1 << 30) / PAYLOAD_BYTES;
    let cpu = cpu_time(ClockId::ThreadCPUTime);
    for _ in 0..entries / 1024 {
        writer.append(load.next_batch(1024)).expect("a sound disk");
    }
    println!(
        "append without sync, batch 1024 over 1000 groups: {:.3} us CPU per entry",
        (cpu_time(ClockId::ThreadCPUTime) - cpu).as_secs_f64() * 1e6 / entries as f64
    );
    writer.close().expect("a sound disk");
    for _ in 0..3 {
        let (cpu, begin) = (cpu_time(ClockId::ProcessCPUTime), Instant::now());
        let opened = Log::open(place, &Expected::default(), &options).expect("a sound log");
        let (elapsed, cpu) =
            (begin.elapsed().as_secs_f64(), cpu_time(ClockId::ProcessCPUTime) - cpu);
        println!(
            "recovery of {entries} entries, 1 GiB of payload: {elapsed:.2} s, {:.2} s CPU, {:.0} MB/s",
            cpu.as_secs_f64(),
            opened.report.bytes as f64 / elapsed / 1e6
        );
    }
}

/// Batches over all groups in turn. The batch is reused, so that what is measured is the log.
struct Load {
    payloads: Vec<Bytes>,
    next: Vec<u64>,
    at: usize,
    writes: Vec<GroupWrite>,
}

impl Load {
    fn new(groups: usize) -> Self {
        let mut state = 1_u64;
        let mut random = || {
            // xorshift64: enough to be incompressible.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        };
        let payloads = (0..1024).map(|_| (0..PAYLOAD_BYTES).map(|_| random()).collect());
        Self { payloads: payloads.collect(), next: vec![1; groups], at: 0, writes: Vec::new() }
    }

    fn creates(&self) -> Vec<GroupWrite> {
        let create = |id| {
            let mut write = GroupWrite::new(GroupId::new(id));
            let incarnation = GroupIncarnation::new(1);
            write.create = Some(GroupCreate { incarnation, spec: Bytes::new() });
            write
        };
        (0..self.next.len() as u32).map(create).collect()
    }

    fn next_batch(&mut self, entries: usize) -> &[GroupWrite] {
        let groups = self.next.len().min(entries);
        self.writes.resize(groups, GroupWrite::new(GroupId::new(0)));
        for (at, write) in self.writes.iter_mut().enumerate() {
            let group = self.at % self.next.len();
            self.at += 1;
            write.group = GroupId::new(group as u32);
            write.entries.clear();
            // The first operations take what does not divide evenly.
            let count = entries / groups + usize::from(at < entries % groups);
            for _ in 0..count {
                let index = self.next[group];
                self.next[group] += 1;
                write.entries.push(Entry {
                    index: LogIndex::new(index),
                    term: Term::new(1),
                    kind: EntryKind::Command,
                    time: LogTime::new(index),
                    payload: self.payloads[(index as usize * 7 + group) % 1024].clone(),
                });
            }
        }
        &self.writes
    }
}

fn cpu_time(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
