//! Group commit: how many entries one fsync makes durable when many groups share a log.
//!
//! Run: `cargo run --release -p raft-storage --example group_commit`

use std::error::Error;
use std::time::Instant;

use bytes::Bytes;
use raft_core::{Entry, EntryKind, GroupId, GroupIncarnation, LogIndex, LogTime, NodeId, Term};
use raft_storage::{Expected, GroupCreate, GroupWrite, InitOptions, Log, LogOptions, init};

const GROUPS: u32 = 500;
const ROUNDS: u64 = 20;

fn main() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    // A data directory is made once, and never by opening it.
    init(dir.path(), "example", NodeId::new(1), &InitOptions::default())?;
    let mut opened = Log::open(dir.path(), &Expected::default(), &LogOptions::default())?;
    let creates: Vec<GroupWrite> = (0..GROUPS).map(create).collect();
    opened.writer.append(&creates)?;
    opened.writer.sync()?;

    for per_sync in [1, 10, GROUPS] {
        let base = opened.reader.last_index(GroupId::new(0)).map_or(0, LogIndex::get);
        let (mut fsyncs, begin) = (0_u64, Instant::now());
        for round in 1..=ROUNDS {
            let writes: Vec<GroupWrite> = (0..GROUPS).map(|id| write(id, base + round)).collect();
            for batch in writes.chunks(per_sync as usize) {
                opened.writer.append(batch)?; // In the page cache: readable.
                opened.writer.sync()?; // On disk: may be acknowledged.
                fsyncs += 1;
            }
        }
        let entries = u64::from(GROUPS) * ROUNDS;
        println!(
            "{entries} entries of {GROUPS} groups, {fsyncs:>5} fsyncs: {:>3} entries per fsync, {:>7.0} entries/s",
            entries / fsyncs,
            entries as f64 / begin.elapsed().as_secs_f64(),
        );
    }
    opened.writer.close()?;

    let again = Log::open(dir.path(), &Expected::default(), &LogOptions::default())?;
    println!("reopened as incarnation {}: {:?}", again.incarnation, again.report);
    Ok(())
}

fn create(id: u32) -> GroupWrite {
    let mut write = GroupWrite::new(GroupId::new(id));
    let incarnation = GroupIncarnation::new(1);
    write.create = Some(GroupCreate { incarnation, spec: Bytes::from_static(b"example") });
    write
}

fn write(id: u32, index: u64) -> GroupWrite {
    let mut write = GroupWrite::new(GroupId::new(id));
    write.entries.push(Entry {
        index: LogIndex::new(index),
        term: Term::new(1),
        kind: EntryKind::Command,
        time: LogTime::new(index),
        payload: Bytes::from(format!("command {index} of group {id}")),
    });
    write
}
