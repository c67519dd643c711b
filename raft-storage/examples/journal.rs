//! The log without Raft: a thousand streams, one sync per batch, trimmed as it goes.
//!
//! Run: `cargo run --release -p raft-storage --example journal`

use std::error::Error;
use std::time::Instant;

use raft_storage::LogOptions;
use raft_storage::journal::{Batch, Journal, Position, StreamId};

const STREAMS: u32 = 1_000;
const BATCHES: u64 = 200;
/// Records of a stream that are kept.
const KEPT: u64 = 50;

fn main() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    Journal::create(dir.path(), "example")?;
    let mut journal = Journal::open(dir.path(), "example", &LogOptions::default())?;
    let mut batch = Batch::new();
    for id in 0..STREAMS {
        batch.create(StreamId::new(id), "one of a thousand");
    }
    journal.commit(batch)?;

    let begin = Instant::now();
    for round in 1..=BATCHES {
        let mut batch = Batch::new();
        for id in 0..STREAMS {
            let stream = StreamId::new(id);
            batch.append(stream, vec![round as u8; 256]);
            if round % KEPT == 0 {
                batch.trim_before(stream, Position::new((round + 1).saturating_sub(KEPT)));
            }
        }
        journal.commit(batch)?;
    }
    let records = u64::from(STREAMS) * BATCHES;
    let rate = records as f64 / begin.elapsed().as_secs_f64();
    println!("{records} records of {STREAMS} streams, {BATCHES} syncs: {rate:.0} records/s");

    let stream = StreamId::new(7);
    let (first, next) = journal.reader().bounds(stream)?;
    let records = journal.reader().read(stream, first, 1 << 20)?;
    println!(
        "stream {stream} holds {} records, from {first} on; the next is {next}",
        records.len()
    );
    journal.close()?;

    let journal = Journal::open(dir.path(), "example", &LogOptions::default())?;
    println!("after a restart there are {} streams", journal.streams().count());
    Ok(())
}
