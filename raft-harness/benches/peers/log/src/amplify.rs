//! How many bytes go to the disk for each byte of payload?
//!
//! `peer-log amplify --dir DIR [--payload 1024] [--run 16] [--groups 1000] [--slow 0,100] [--mib 4096]`: runs
//! of entries of one group each, four runs in a batch, while groups are compacted all the time and
//! segments written again. `slow`: of a thousand groups so many are written a fiftieth as often, so that what they
//! hold lies in segments that are otherwise empty, and has to be moved.
//!
//! Counted by the log itself: frames without what fills their last blocks, with what was moved, and
//! checkpoints; what fills blocks is listed apart.

use std::path::Path;

use bytes::Bytes;
use peerbench::{Args, Pool, Reporter};
use raft_core::{
    Base, Entry, EntryKind, GroupId, GroupIncarnation, LogIndex, LogTime, NodeId, Term,
};
use raft_storage::{
    Compaction, Expected, GroupCreate, GroupWrite, InitOptions, Log, LogOptions, LogStats, init,
};
use serde_json::json;

const W: &str = "W5-amplification";

pub(crate) fn amplify(args: &Args, dir: &Path, report: &Reporter) {
    let payload: usize = args.num("payload", 1024);
    let run: u64 = args.num("run", 16);
    let groups: u64 = args.num("groups", 1000);
    let bytes = args.num("mib", 4096_u64) << 20;
    let dir = dir.join("ours");
    for slow in args.list::<u64>("slow", "0,100") {
        let (stats, written) = measure(&dir, payload, run, (groups, slow * groups / 1000), bytes);
        let per = |bytes: u64| bytes as f64 / written as f64;
        let total = per(stats.bytes_written + stats.checkpoint_bytes);
        eprintln!(
            "{payload} B in runs of {run}, {groups} groups, {slow} of 1000 slow: {total:.3} bytes per byte ({:.3} moved, \
             {:.3} checkpoints), {:.3} more of padding; {} MiB of segments hold {} MiB",
            per(stats.bytes_moved),
            per(stats.checkpoint_bytes),
            per(stats.bytes_padded),
            stats.segment_bytes >> 20,
            stats.live_bytes >> 20,
        );
        let params = json!({"payload": payload, "run": run, "groups": groups, "slow": slow});
        report.emit(W, params.clone(), 0, "amplification", total, "ratio", None);
        report.emit(W, params, 0, "padding", per(stats.bytes_padded), "ratio", None);
    }
    let _ = std::fs::remove_dir_all(dir);
}

/// What was done for how many bytes of payload, after the log was written over once.
fn measure(
    dir: &Path,
    payload: usize,
    run: u64,
    (groups, slow): (u64, u64),
    bytes: u64,
) -> (LogStats, u64) {
    let _ = std::fs::remove_dir_all(dir);
    init(dir, "bench", NodeId::new(1), &InitOptions::default()).expect("an empty directory");
    let segment_bytes = 16 << 20;
    let options =
        LogOptions { segment_bytes, checkpoint_bytes: 2 * segment_bytes, ..LogOptions::default() };
    let mut writer = Log::open(dir, &Expected::default(), &options).expect("a new log").writer;
    let mut pool = Pool::new(payload);
    let mut next = vec![1_u64; groups as usize];
    let mut written = 0;
    let mut before = None;
    // Half of 128 MiB is alive.
    let keep = ((64 << 20) / groups / payload as u64).max(2 * run);
    let mut turn = 0_u64;
    while written < bytes {
        let mut writes = Vec::new();
        for _ in 0..4 {
            let is_slow = slow > 0 && turn % (50 * (groups - slow) / slow).max(1) == 0;
            let group = if is_slow {
                (turn / (50 * (groups - slow) / slow).max(1)) % slow
            } else {
                slow + turn % (groups - slow)
            };
            turn += 1;
            let next = &mut next[group as usize];
            let mut write = GroupWrite::new(GroupId::new(group as u32));
            if *next == 1 {
                let incarnation = GroupIncarnation::new(1);
                write.create = Some(GroupCreate { incarnation, spec: Bytes::new() });
            }
            for _ in 0..run {
                write.entries.push(Entry {
                    index: LogIndex::new(*next),
                    term: Term::new(1),
                    kind: EntryKind::Command,
                    time: LogTime::new(*next),
                    payload: pool.next(),
                });
                *next += 1;
            }
            if *next > keep && (*next / run).is_multiple_of(4) {
                let index = LogIndex::new(*next - keep);
                let base = Base { index, term: Term::new(1), snapshot: index, ..Base::default() };
                write.compact = Some(Compaction { base, time: LogTime::new(index.get()) });
            }
            written += run * payload as u64;
            writes.push(write);
        }
        writer.commit(&writes).expect("a sound disk");
        writer.tend(false).expect("a sound disk");
        if before.is_none() && written >= bytes / 4 {
            before = Some((writer.stats(), written));
        }
    }
    let (first, begun) = before.unwrap_or_default();
    let mut stats = writer.stats();
    stats.bytes_written -= first.bytes_written;
    stats.bytes_padded -= first.bytes_padded;
    stats.bytes_moved -= first.bytes_moved;
    stats.checkpoint_bytes -= first.checkpoint_bytes;
    (stats, written - begun)
}
