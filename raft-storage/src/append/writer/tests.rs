//! What others see of the writer's work while it goes on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use bytes::Bytes;
use raft_core::{Entry, EntryKind, GroupId, GroupIncarnation, LogIndex, LogTime, NodeId, Term};

use crate::format::lsn::Lsn;
use crate::{
    Ending, Expected, GroupCreate, GroupWrite, InitOptions, Log, LogOptions, MemDisk, init_on,
};

const GROUPS: u32 = 8;
const BATCHES: u64 = 2_000;

fn batch(index: u64) -> Vec<GroupWrite> {
    let write = |group| {
        let mut write = GroupWrite::new(GroupId::new(group));
        write.entries.push(Entry {
            index: LogIndex::new(index),
            term: Term::new(1),
            kind: EntryKind::Command,
            time: LogTime::new(index),
            payload: Bytes::from_static(&[7; 600]),
        });
        write
    };
    (0..GROUPS).map(write).collect()
}

/// A checkpoint copies the groups one after the other, and says of each that it holds the log up to
/// where that ends. So whoever looks at the index must find batches whole, with the end behind them.
#[test]
fn a_batch_and_the_end_of_the_log_behind_it_are_seen_together() {
    let disk = MemDisk::new();
    init_on(&disk, "c", NodeId::new(1), &InitOptions::default()).expect("an empty directory");
    let options = LogOptions {
        // A batch spans frames, and now and then segments.
        segment_bytes: 64 << 10,
        frame_bytes_max: 4096,
        ..LogOptions::default()
    };
    let opened = Log::open_on(disk, &Expected::default(), &options).expect("a new log");
    let mut writer = opened.writer;
    let creates = (0..GROUPS).map(|group| {
        let mut write = GroupWrite::new(GroupId::new(group));
        let incarnation = GroupIncarnation::new(1);
        write.create = Some(GroupCreate { incarnation, spec: Bytes::new() });
        write
    });
    writer.commit(&creates.collect::<Vec<_>>()).expect("a sound disk");

    let shared = Arc::clone(&writer.shared);
    let over = Arc::new(AtomicBool::new(false));
    let looker = thread::spawn({
        let over = Arc::clone(&over);
        move || {
            let mut seen = BTreeMap::<u64, Lsn>::new();
            while !over.load(Ordering::Relaxed) {
                let index = shared.index.read();
                let lasts: Vec<_> = index.groups.iter().map(|group| group.last()).collect();
                assert!(lasts.iter().all(|last| *last == lasts[0]), "half a batch: {lasts:?}");
                let end = index.end;
                drop(index);
                let first = seen.entry(lasts[0].get()).or_insert(end);
                assert_eq!(*first, end, "the end of the log behind batch {}", lasts[0]);
            }
            seen
        }
    });
    let mut ends = BTreeMap::new();
    for index in 1..=BATCHES {
        let writes = batch(index);
        let info = match index % 3 {
            0 => writer.append(&writes).expect("a sound disk"),
            1 => writer.commit(&writes).expect("a sound disk").0,
            _ => {
                writer.stage(&Arc::new(writes)).expect("a sound disk");
                let flight = writer.depart(Ending::AtOnce).expect("a sound log");
                let info = flight.info();
                writer.land(flight.land()).expect("a sound disk");
                info
            }
        };
        ends.insert(index, info.end_lsn);
    }
    over.store(true, Ordering::Relaxed);
    let mut seen = looker.join().expect("it saw nothing odd");
    seen.remove(&0);
    for (index, end) in &seen {
        assert_eq!(ends.get(index), Some(end), "batch {index}");
    }
    assert!(!seen.is_empty(), "the looker came to look");
}
