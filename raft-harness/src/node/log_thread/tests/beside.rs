//! What is written while a sync is under way, on a disk in memory.

use raft_core::LogIndex;

use super::*;
use crate::node::flush::WAIT_BYTES_MAX;

/// Work on a log of the groups 1, which counts what is written, and 2; its segments are so long.
fn begun(segment_bytes: u64) -> (LogWork, MemDisk, Vec<Arc<Inbox<ShardInput>>>) {
    let disk = MemDisk::new();
    let (store, node) = (Some(StoreId::new(1)), raft_core::NodeId::new(1));
    init_on(&disk, "test", node, &InitOptions { store }).expect("an empty disk");
    let options =
        LogOptions { preparation: Preparation::OnDemand, segment_bytes, ..LogOptions::default() };
    let opened = Log::open_on(disk.clone(), &Expected::default(), &options).expect("a sound log");
    let shards: Vec<Arc<Inbox<ShardInput>>> = vec![Arc::default()];
    let mut work = work(opened.writer);
    take(&mut work, batch(vec![create(1), create(2)]), &shards);
    fly(&mut work, &shards);
    heard_by(&shards[0]);
    (work, disk, shards)
}

/// Takes a batch and stages or writes it.
fn take(work: &mut LogWork, batch: LogBatch, shards: &[Arc<Inbox<ShardInput>>]) {
    let (_send, receive) = unbounded();
    work.take(batch, &receive);
    stage(work, shards);
}

/// Lets a sync depart that asks the disk at once, and hangs then.
fn hang(work: &mut LogWork) -> Flight {
    let mut departure = work.depart(Ending::AtOnce).unwrap().expect("something is due");
    assert!(departure.flight.is_sync() && departure.syncs);
    departure.flight.step();
    departure.flight
}

fn land(work: &mut LogWork, flight: Flight, shards: &[Arc<Inbox<ShardInput>>]) {
    work.land(flight.land(), &Counters::default()).unwrap();
    work.acknowledge(shards);
}

/// The last entry of a group that a power cut leaves.
fn left(disk: &MemDisk, id: u32) -> u64 {
    let reader = on_disk(&disk.crash(CrashPolicy::DropUnsynced)).reader();
    reader.last_index(group(id)).map_or(0, LogIndex::get)
}

#[test]
fn while_a_sync_hangs_what_counts_once_written_is_told_of_and_what_counts_on_disk_is_not() {
    let (mut work, disk, shards) = begun(64 << 20);
    take(&mut work, early(vec![entries(1, 1, 1)], 50), &shards);
    take(&mut work, batch(vec![entries(2, 1, 1)]), &shards);
    assert_eq!(heard_by(&shards[0]), ["written [1]"]);
    let sync = hang(&mut work);

    for index in 2..=4 {
        take(&mut work, early(vec![entries(1, index, 1)], 50), &shards);
        assert_eq!(heard_by(&shards[0]), ["written [1]"]);
        take(&mut work, batch(vec![entries(2, index, 1)]), &shards);
        assert!(heard_by(&shards[0]).is_empty(), "it waits for a sync");
    }
    assert!(!work.has_waiting() && !work.has_staged());
    let read = work.reader().last_index(group(2));
    assert_eq!(read, Some(LogIndex::new(4)), "it is written all the same");

    // What it covers is what was written before.
    land(&mut work, sync, &shards);
    assert_eq!(heard_by(&shards[0]), ["[1, 2]"]);
    assert_eq!((left(&disk, 1), left(&disk, 2)), (1, 1));
    let durable = work.reader().durable_index(group(1));
    assert_eq!(durable, Some(LogIndex::new(1)));

    // The next one covers the rest, and then nothing waits.
    assert!(work.has_departing(), "somebody waits for it");
    let sync = hang(&mut work);
    land(&mut work, sync, &shards);
    assert_eq!(heard_by(&shards[0]), ["[1, 2, 1, 2, 1, 2]"]);
    assert_eq!((left(&disk, 1), left(&disk, 2)), (4, 4));
    assert_eq!(work.sync_due(), None);
}

#[test]
fn a_deadline_counts_from_the_oldest_entry_that_the_sync_under_way_does_not_cover() {
    let (mut work, _, shards) = begun(64 << 20);
    work.set_time(Micros::new(1_000));
    take(&mut work, early(vec![entries(1, 1, 1)], 50), &shards);
    work.set_time(Micros::new(51_000));
    let sync = hang(&mut work);
    assert_eq!(work.sync_due(), None, "nothing else is written");
    for (index, at) in [(2, 60_000), (3, 70_000)] {
        work.set_time(Micros::new(at));
        take(&mut work, early(vec![entries(1, index, 1)], 50), &shards);
    }
    assert_eq!(work.sync_due(), Some(Micros::new(110_000)));
    work.set_time(Micros::new(90_000));
    land(&mut work, sync, &shards);
    assert_eq!(work.sync_due(), Some(Micros::new(110_000)));
    assert!(!work.has_departing());
    work.set_time(Micros::new(110_000));
    let sync = hang(&mut work);
    land(&mut work, sync, &shards);
    let heard = heard_by(&shards[0]);
    assert_eq!(heard, ["written [1]", "written [1]", "written [1]", "[1]", "[1, 1]"]);
    assert_eq!(work.sync_due(), None);
}

#[test]
fn beside_a_sync_no_more_is_written_than_what_the_next_one_may_carry() {
    let (mut work, disk, shards) = begun(64 << 20);
    let (_send, receive) = unbounded();
    take(&mut work, early(vec![entries(1, 1, 1)], 50), &shards);
    take(&mut work, batch(vec![vote(2)]), &shards);
    let sync = hang(&mut work);
    for round in 0..1_000 {
        work.take(early(vec![entries(1, 8 * round + 2, 8)], 50), &receive);
        // Of those that may not wait either.
        work.take(batch(vec![entries(2, round + 1, 1)]), &receive);
    }
    stage(&mut work, &shards);
    assert!(work.has_waiting() && !work.has_staged());
    let written = work.flush.bytes();
    assert!((WAIT_BYTES_MAX..WAIT_BYTES_MAX + 20_000).contains(&written), "{written}");
    let told = heard_by(&shards[0]).len();
    stage(&mut work, &shards);
    assert!(heard_by(&shards[0]).is_empty() && told < 1_001);
    land(&mut work, sync, &shards);
    assert!(work.has_departing());
    // As soon as the next one is on its way, others follow.
    let sync = hang(&mut work);
    stage(&mut work, &shards);
    assert!(!heard_by(&shards[0]).is_empty());
    let before = left(&disk, 1);
    land(&mut work, sync, &shards);
    while work.has_waiting() || work.has_departing() {
        stage(&mut work, &shards);
        fly(&mut work, &shards);
    }
    assert!(before < 8_001 && left(&disk, 1) == 8_001 && left(&disk, 2) == 1_000);
}

/// A segment begins only when nothing is in the air, and then with a flight.
#[test]
fn where_a_segment_ends_beside_a_sync_what_comes_goes_with_the_next_flight() {
    let (mut work, disk, shards) = begun(64 << 10);
    let mut flights = Vec::new();
    let (mut sync, mut index) = (None, 0);
    for _ in 0..200 {
        index += 1;
        take(&mut work, early(vec![entries(1, index, 1)], 50), &shards);
        take(&mut work, batch(vec![entries(2, index, 1)]), &shards);
        if let Some(sync) = sync.take() {
            land(&mut work, sync, &shards);
        }
        if let Some(departure) = work.depart(Ending::AtOnce).unwrap() {
            flights.push(departure.flight.is_sync());
            sync = Some(departure.flight);
        }
    }
    if let Some(sync) = sync.take() {
        land(&mut work, sync, &shards);
    }
    while work.has_waiting() || work.has_departing() {
        stage(&mut work, &shards);
        fly(&mut work, &shards);
    }
    let syncs = flights.iter().filter(|is_sync| **is_sync).count();
    assert!(syncs > 100 && flights.len() > syncs + 5, "{syncs} of {}", flights.len());
    assert_eq!((left(&disk, 1), left(&disk, 2)), (200, 200));
    let told = heard_by(&shards[0]).join(" ");
    let durable = told.matches("1]").count() + told.matches("1,").count();
    assert!(durable >= 200, "{told}");
}

#[test]
fn when_no_more_of_its_kind_comes_the_log_writes_directly_again() {
    let (mut work, _, shards) = begun(64 << 20);
    take(&mut work, early(vec![entries(1, 1, 1)], 50), &shards);
    work.set_time(Micros::new(9_999));
    take(&mut work, batch(vec![entries(2, 1, 1)]), &shards);
    assert!(!work.has_staged() && work.is_paced());
    let sync = hang(&mut work);
    land(&mut work, sync, &shards);
    work.set_time(Micros::new(0).after(FOLLOWS));
    take(&mut work, batch(vec![entries(2, 2, 1)]), &shards);
    assert!(work.has_staged());
    fly(&mut work, &shards);
    assert_eq!(heard_by(&shards[0]), ["written [1]", "[1, 2]", "[2]"]);
}

#[test]
fn a_sync_that_only_a_deadline_asks_for_keeps_no_pace() {
    let (mut work, _, shards) = begun(64 << 20);
    take(&mut work, early(vec![entries(1, 1, 1)], 50), &shards);
    work.set_time(Micros::new(50_000));
    assert!(work.has_departing() && !work.is_paced());
    take(&mut work, early(vec![entries(1, 2, 1)], 50), &shards);
    take(&mut work, batch(vec![entries(2, 1, 1)]), &shards);
    assert!(work.is_paced(), "somebody waits, and others may come");
}
