//! Large writes beside small ones, on a disk in memory.

use super::*;

/// Work on a log of the groups 1 and 2.
fn begun() -> (LogWork, MemDisk, Vec<Arc<Inbox<ShardInput>>>) {
    let disk = MemDisk::new();
    let (store, node) = (Some(StoreId::new(1)), raft_core::NodeId::new(1));
    init_on(&disk, "test", node, &InitOptions { store }).expect("an empty disk");
    let shards: Vec<Arc<Inbox<ShardInput>>> = vec![Arc::default()];
    let mut work = work(on_disk(&disk));
    let (_send, receive) = unbounded();
    work.take(batch(vec![create(1), create(2)]), &receive);
    stage(&mut work, &shards);
    fly(&mut work, &shards);
    heard_by(&shards[0]);
    (work, disk, shards)
}

/// One entry of so many bytes.
fn large(id: u32, index: u64, bytes: usize) -> GroupWrite {
    let mut write = entries(id, index, 1);
    write.entries[0].payload = vec![9; bytes].into();
    write
}

/// Lets the next flight depart and land: what it carried, in KiB, and whether it made that durable.
fn flight(work: &mut LogWork, shards: &[Arc<Inbox<ShardInput>>]) -> Option<(u64, bool)> {
    stage(work, shards);
    let departure = work.depart(Ending::AtOnce).unwrap()?;
    let seen = (departure.bytes >> 10, departure.syncs);
    work.land(departure.flight.land(), &Counters::default()).unwrap();
    work.acknowledge(shards);
    Some(seen)
}

#[test]
fn beside_small_writes_a_large_one_takes_short_turns_and_no_sync_of_its_own() {
    let (mut work, disk, shards) = begun();
    let (_send, receive) = unbounded();
    work.take(batch(vec![large(1, 1, 640 << 10)]), &receive);
    let (mut seen, syncs) = (Vec::new(), disk.syncs());
    for index in 1.. {
        work.take(batch(vec![entries(2, index, 1)]), &receive);
        let Some(first) = flight(&mut work, &shards) else { break };
        let second = flight(&mut work, &shards);
        seen.push((first, second));
        if second.is_none() {
            break;
        }
    }
    // What the frame of a piece has beside it takes a block.
    let turns = vec![((4, true), Some((132, false))); 5];
    assert_eq!(seen[..5], turns);
    // Then the entry itself goes, with whatever came then.
    assert_eq!(seen[5..], [((4, true), None)]);
    let heard = heard_by(&shards[0]);
    assert_eq!(heard, ["[2]", "[2]", "[2]", "[2]", "[2]", "[1, 2]"]);
    assert_eq!(disk.syncs() - syncs, 6);
    let (from, to) = (raft_core::LogIndex::new(1), raft_core::LogIndex::new(1));
    for policy in [CrashPolicy::DropUnsynced, CrashPolicy::KeepAll] {
        let disk = disk.crash(policy);
        let opened = Log::open_on(disk, &Expected::default(), &LogOptions::default()).unwrap();
        let found = opened.reader.entries(group(1), from, to, u64::MAX).unwrap();
        assert_eq!(found, large(1, 1, 640 << 10).entries, "{policy:?}");
    }
}

#[test]
fn alone_a_large_write_takes_longer_turns_and_leaves_little_for_the_sync_of_another() {
    let (mut work, _disk, shards) = begun();
    let (_send, receive) = unbounded();
    work.take(batch(vec![large(1, 1, 24 << 20)]), &receive);
    let mut seen = Vec::new();
    while let Some(flight) = flight(&mut work, &shards) {
        seen.push(flight);
    }
    let (entry, pieces) = seen.split_last().unwrap();
    assert_eq!(*entry, (4, true));
    // The last one is what is left.
    assert!(pieces[..pieces.len() - 1].is_sorted_by_key(|(kib, _)| *kib), "{pieces:?}");
    assert_eq!(pieces[0], (132, false));
    assert!(pieces.contains(&(1028, true)) && !pieces.iter().any(|(kib, _)| *kib > 1028));
    let mut unsynced = 0;
    for (kib, syncs) in pieces {
        unsynced = if *syncs { 0 } else { unsynced + kib };
        assert!(unsynced <= 1024 + 8 * 4, "{pieces:?}");
    }
    assert_eq!(heard_by(&shards[0]), ["[1]"]);
    // And short ones as soon as somebody else comes.
    work.take(batch(vec![large(1, 2, 1 << 20)]), &receive);
    work.take(batch(vec![entries(2, 1, 1)]), &receive);
    assert_eq!(flight(&mut work, &shards), Some((4, true)));
    assert_eq!(flight(&mut work, &shards), Some((132, false)));
}

#[test]
fn pieces_that_are_only_written_make_nothing_durable_that_waits_for_its_sync() {
    let (mut work, disk, shards) = begun();
    let (_send, receive) = unbounded();
    work.set_time(Micros::new(1_000));
    work.take(early(vec![entries(2, 1, 1)], 50), &receive);
    stage(&mut work, &shards);
    work.take(batch(vec![large(1, 1, 300 << 10)]), &receive);
    let syncs = disk.syncs();
    assert_eq!(flight(&mut work, &shards), Some((132, false)));
    assert_eq!(heard_by(&shards[0]), ["written [2]"]);
    assert_eq!((disk.syncs(), work.sync_due()), (syncs, Some(Micros::new(51_000))));
    // Its time comes, and it takes along what else is to be written.
    work.set_time(Micros::new(51_000));
    assert_eq!(flight(&mut work, &shards), Some((136, true)));
    assert_eq!(heard_by(&shards[0]), ["[2]"]);
    assert_eq!(work.sync_due(), None);
}
