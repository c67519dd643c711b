//! How long does it take to open a log, and what does its index take?
//!
//! `peer-log recover --dir DIR [--mib 1024] [--groups 1000] [--opens 5] [--engine 1]`: so many MiB of
//! payload written since the last checkpoint, over so many groups; opened by a fresh process each time,
//! every checksum verified, until every group is handed over. Warm, and once cold beside a raw read of
//! the same files. raft-engine beside it, turn about.
//!
//! `peer-log index --dir DIR [--groups 100000] [--entries 10000000]`: many groups and live entries, with
//! checkpoints as by default, and the same groups without entries: what the second log takes is a matter
//! of groups, what the first takes beyond it one of entries.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use bytes::Bytes;
use peerbench::sys::cpu_seconds;
use peerbench::{Args, Pool, Reporter};
use raft_core::{Entry, EntryKind, GroupId, GroupIncarnation, LogIndex, LogTime, NodeId, Term};
use raft_storage::{
    Expected, FileDisk, GroupCreate, GroupWrite, InitOptions, Log, LogOptions, LogWriter, init,
};
use serde_json::{Value, json};

use crate::engine;

const W: &str = "W5-recover";
const PAYLOAD: usize = 256;

/// Writes a log: so many entries over so many groups, in batches of 1024.
fn write(dir: &Path, groups: u64, entries: u64, checkpoint_bytes: u64) {
    let _ = std::fs::remove_dir_all(dir);
    init(dir, "bench", NodeId::new(1), &InitOptions::default()).expect("an empty directory");
    let options = LogOptions { checkpoint_bytes, ..LogOptions::default() };
    let mut writer = Log::open(dir, &Expected::default(), &options).expect("a new log").writer;
    let tend = |writer: &mut LogWriter<FileDisk>| writer.tend(false).expect("a sound disk");
    let creates: Vec<GroupWrite> = (0..groups)
        .map(|group| {
            let mut write = GroupWrite::new(GroupId::new(group as u32));
            let incarnation = GroupIncarnation::new(1);
            write.create = Some(GroupCreate { incarnation, spec: Bytes::new() });
            write
        })
        .collect();
    for creates in creates.chunks(10_000) {
        writer.commit(creates).expect("new groups");
    }
    let mut pool = Pool::new(PAYLOAD);
    let mut written = 0;
    while written < entries {
        let mut writes = Vec::new();
        while writes.len() < 1024 && written < entries {
            let mut write = GroupWrite::new(GroupId::new((written % groups) as u32));
            let index = written / groups + 1;
            write.entries.push(Entry {
                index: LogIndex::new(index),
                term: Term::new(1),
                kind: EntryKind::Command,
                time: LogTime::new(index),
                payload: pool.next(),
            });
            writes.push(write);
            written += 1;
        }
        writer.commit(&writes).expect("a sound disk");
        tend(&mut writer);
    }
    writer.close().expect("a sound disk");
}

/// Opens a log in this process and says how that went.
pub(crate) fn open_here(args: &Args) {
    let dir = PathBuf::from(args.str("dir", ""));
    let before = resident();
    let (begin, cpu) = (Instant::now(), cpu_seconds());
    let told = if args.num("engine", 0) != 0 {
        let engine = engine::open(&dir, 128 << 20, None);
        json!({"groups": engine.raft_groups().len()})
    } else {
        let options = LogOptions::default();
        let opened = Log::open(&dir, &Expected::default(), &options).expect("a sound log");
        let seconds = begin.elapsed().as_secs_f64();
        let told = json!({"groups": opened.groups.len(), "bytes": opened.report.bytes, "opened_in": seconds});
        drop(opened.groups);
        // SAFETY: gives free memory back; any moment will do.
        unsafe { libc::malloc_trim(0) };
        let index = resident() - before;
        let told = json!({"index": index, "log": told});
        drop(opened.writer);
        told
    };
    let (seconds, cpu) = (begin.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    let seconds = told["log"]["opened_in"].as_f64().unwrap_or(seconds);
    println!("{}", json!({"seconds": seconds, "cpu": cpu, "told": told}));
}

/// The same in a process of its own.
fn open(dir: &Path, engine: bool) -> Value {
    let exe = std::env::current_exe().expect("our own path");
    let mut command = Command::new(exe);
    command.arg("open").arg("--dir").arg(dir).arg("--engine").arg(u8::from(engine).to_string());
    let output = command.output().expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("what it says")
}

fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok());
    pages.unwrap_or(0) * 4096
}

/// Reads all files, from the disk if `cold`; seconds.
fn read_all(dir: &Path, cold: bool) -> f64 {
    let files = std::fs::read_dir(dir).expect("a directory").flatten();
    let files: Vec<File> = files.filter_map(|file| File::open(file.path()).ok()).collect();
    for file in files.iter().filter(|_| cold) {
        // SAFETY: a hint about a file that is open.
        unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
    }
    let begin = Instant::now();
    let mut buffer = vec![0; 1 << 20];
    for mut file in files {
        while file.read(&mut buffer).expect("a sound disk") > 0 {}
    }
    begin.elapsed().as_secs_f64()
}

fn drop_cache(dir: &Path) {
    for file in std::fs::read_dir(dir).expect("a directory").flatten() {
        if let Ok(file) = File::open(file.path()) {
            // SAFETY: as above.
            unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
        }
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}

pub(crate) fn recover(args: &Args, dir: &Path, report: &Reporter) {
    let mib = args.num("mib", 1024_u64);
    let groups = args.num("groups", 1000_u64);
    let opens: usize = args.num("opens", 5);
    let entries = (mib << 20) / PAYLOAD as u64;
    let (ours, theirs) = (dir.join("ours"), dir.join("engine"));
    write(&ours, groups, entries, 1 << 40);
    let with_engine = args.num("engine", 1) != 0;
    if with_engine {
        engine::fill(&theirs, groups, entries, PAYLOAD);
    }
    let raw = read_all(&ours, true);
    drop_cache(&ours);
    let cold = open(&ours, false);
    read_all(&ours, false);
    if with_engine {
        read_all(&theirs, false);
    }
    let mut of = [Vec::new(), Vec::new(), Vec::new()];
    for _ in 0..opens {
        let ours = open(&ours, false);
        of[0].push(ours["seconds"].as_f64().unwrap_or(0.0));
        of[1].push(ours["cpu"].as_f64().unwrap_or(0.0));
        if with_engine {
            of[2].push(open(&theirs, true)["seconds"].as_f64().unwrap_or(0.0));
        }
    }
    let [ours_s, cpu, theirs_s] = of;
    let (ours_s, cpu) = (median(ours_s), median(cpu));
    eprintln!(
        "{mib} MiB of payload in {groups} groups since the last checkpoint: warm {ours_s:.2} s ({cpu:.2} s of the \
         processor), cold {:.2} s beside {raw:.2} s for a raw read",
        cold["seconds"].as_f64().unwrap_or(0.0),
    );
    let emit = |metric: &str, value: f64| {
        let params = json!({"groups": groups, "mib": mib});
        report.emit(W, params, 0, metric, value, "s", None);
    };
    emit("warm", ours_s);
    emit("cold", cold["seconds"].as_f64().unwrap_or(0.0));
    emit("raw_read_cold", raw);
    if with_engine {
        let theirs = median(theirs_s);
        eprintln!("raft-engine: {theirs:.2} s warm");
        emit("engine_warm", theirs);
    }
    for dir in [ours, theirs] {
        let _ = std::fs::remove_dir_all(dir);
    }
}

pub(crate) fn index(args: &Args, dir: &Path, report: &Reporter) {
    let groups = args.num("groups", 100_000_u64);
    let entries = args.num("entries", 10_000_000_u64);
    let dir = dir.join("ours");
    let by_default = LogOptions::default().checkpoint_bytes;
    write(&dir, groups, 0, by_default);
    let empty = open(&dir, false);
    write(&dir, groups, entries, by_default);
    read_all(&dir, false);
    let full = open(&dir, false);
    let taken = |open: &Value| open["told"]["index"].as_f64().unwrap_or(0.0);
    let per_group = taken(&empty) / groups as f64;
    let per_entry = (taken(&full) - taken(&empty)) / entries as f64;
    let seconds = full["seconds"].as_f64().unwrap_or(0.0);
    eprintln!(
        "{groups} groups, {entries} live entries of {PAYLOAD} B: opened in {seconds:.2} s warm; {per_group:.0} B per group, \
         {per_entry:.1} B per entry ({} bytes replayed)",
        full["told"]["log"]["bytes"]
    );
    let params = json!({"groups": groups, "entries": entries});
    report.emit(W, params.clone(), 0, "many_groups", seconds, "s", None);
    report.emit(W, params.clone(), 0, "bytes_per_group", per_group, "B", None);
    report.emit(W, params, 0, "bytes_per_entry", per_entry, "B", None);
    let _ = std::fs::remove_dir_all(dir);
}
