//! A disk without room and a process without descriptors: never a failure, at any moment.

mod common;

use std::sync::Arc;

use common::*;
use raft_core::{HardState, LogIndex, NodeId, Term};
use raft_storage::journal::{Batch, Journal, StreamId};
use raft_storage::{
    CrashPolicy, Damage, Disk, Ending, Expected, Fault, GroupWrite, InitOptions, Log, LogError,
    LogOptions, LogWriter, MemDisk, OnDamage, OpenError, ReadError, Tending, init_on,
    is_out_of_room,
};

/// Segments of 16 KiB and frames of 8 KiB.
fn split() -> LogOptions {
    LogOptions { frame_bytes_max: 8 << 10, ..tiny() }
}

/// Entries of two groups that take so many frames of 8 KiB.
fn frames(first: u64, count: u64) -> Vec<GroupWrite> {
    [1, 2]
        .map(|id| {
            let mut write = GroupWrite::new(group(id));
            write.entries = (first..first + count).map(|at| entry(at, 1, 3_500)).collect();
            write
        })
        .into()
}

fn no_room(outcome: Result<raft_storage::AppendInfo, LogError>) -> bool {
    matches!(outcome, Err(LogError::NoSegment { .. }))
}

#[test]
fn a_batch_of_many_frames_finds_room_for_all_of_them_or_leaves_the_log_as_it_was() {
    let batch = frames(1, 10);
    let mut outcomes = Vec::new();
    // Room for none, one, two, ... of the segments that the batch needs.
    for segments in 0..14 {
        let disk = new_disk();
        let mut opened = open_with(&disk, &split()).unwrap();
        let mut model = Model::default();
        let creations = [create(1), create(2)];
        opened.writer.append(&creations).unwrap();
        opened.writer.sync().unwrap();
        model.apply(&creations);
        disk.limit_bytes(Some(disk.bytes() + segments * (16 << 10)));
        let end = opened.writer.end_lsn();
        let full = no_room(opened.writer.append(&batch));
        outcomes.push(full);
        if full {
            assert!(!opened.writer.is_poisoned());
            assert_eq!(opened.writer.end_lsn(), end, "nothing was written");
            assert_eq!(opened.reader.last_index(group(1)), Some(LogIndex::ZERO));
            let crashed = open_with(&disk.crash(CrashPolicy::KeepAll), &split()).unwrap();
            assert_eq!(Model::of(&crashed), model);
            disk.limit_bytes(None);
            opened.writer.append(&batch).unwrap();
        }
        opened.writer.sync().unwrap();
        model.apply(&batch);
        drop(opened);
        assert_eq!(Model::of(&open_with(&disk, &split()).unwrap()), model);
    }
    assert!(outcomes[0] && outcomes[5] && !outcomes[13], "{outcomes:?}");
    assert!(outcomes.windows(2).all(|pair| pair[0] || !pair[1]), "{outcomes:?}");
}

#[test]
fn trying_for_ever_takes_neither_room_nor_numbers() {
    let disk = new_disk();
    let mut opened = open_with(&disk, &split()).unwrap();
    opened.writer.append(&[create(1), create(2)]).unwrap();
    // Half a segment more, so that making one fails in the middle.
    disk.limit_bytes(Some(disk.bytes() + (8 << 10)));
    let names = disk.list().unwrap();
    for _ in 0..1_000 {
        assert!(no_room(opened.writer.append(&frames(1, 10))));
    }
    assert_eq!(disk.list().unwrap(), names);
    disk.limit_bytes(None);
    opened.writer.append(&frames(1, 10)).unwrap();
    let mut made: Vec<_> = disk.list().unwrap();
    made.retain(|name| name.ends_with(".seg"));
    let expected = (0..made.len()).map(|slot| format!("log-{slot:08}.seg"));
    assert_eq!(made, expected.collect::<Vec<_>>());
}

/// A full disk that hangs is to be told from one that answers.
#[test]
fn a_probe_asks_a_disk_without_room_as_well() {
    let disk = new_disk();
    let mut opened = open_with(&disk, &split()).unwrap();
    opened.writer.append(&[create(1), create(2)]).unwrap();
    disk.limit_bytes(Some(disk.bytes()));
    // Until not even a marker finds room, and beyond.
    for _ in 0..40 {
        let syncs = disk.syncs();
        opened.writer.probe().unwrap();
        assert!(disk.syncs() > syncs);
    }
    disk.fail_at(0, Fault::PowerCut);
    assert!(opened.writer.probe().is_err());
}

#[test]
fn a_node_starts_on_a_full_disk_and_goes_on_when_there_is_room() {
    let disk = new_disk();
    let mut model = Model::default();
    for life in 1..=4 {
        disk.limit_bytes(Some(disk.bytes()));
        let mut opened = open_with(&disk, &split()).unwrap();
        assert_eq!(opened.incarnation.get(), life);
        assert_eq!(Model::of(&opened), model);
        let mut batch = frames(life * 10 - 9, 10);
        if life == 1 {
            batch = vec![create(1), create(2)];
        }
        assert!(no_room(opened.writer.append(&batch)), "life {life}");
        opened.writer.idle().unwrap();
        disk.limit_bytes(None);
        if life == 1 {
            opened.writer.append(&batch).unwrap();
            model.apply(&batch);
            batch = frames(1, 10);
        }
        opened.writer.append(&batch).unwrap();
        model.apply(&batch);
        opened.writer.sync().unwrap();
        disk.limit_bytes(Some(disk.bytes()));
        if life % 2 == 0 {
            opened.writer.close().unwrap();
        }
    }
    let disk = disk.crash(CrashPolicy::DropUnsynced);
    assert_eq!(Model::of(&open_with(&disk, &split()).unwrap()), model);
}

#[test]
fn a_log_that_is_full_to_the_last_block_is_sealed_and_closed_all_the_same() {
    for close in [false, true] {
        let disk = new_disk();
        let mut opened = open_with(&disk, &tiny()).unwrap();
        disk.limit_bytes(Some(disk.bytes()));
        opened.writer.append(&[create(1)]).unwrap();
        opened.writer.append(&[append(1, 1, 1, 1)]).unwrap();
        opened.writer.append(&[append(1, 2, 1, 1)]).unwrap();
        opened.writer.sync().unwrap();
        assert!(no_room(opened.writer.append(&[append(1, 3, 1, 1)])), "three frames fill it");
        if close {
            opened.writer.close().unwrap();
        } else {
            opened.writer.idle().unwrap();
        }
        // What the last block promises is promised beside the log.
        let crashed = disk.crash(CrashPolicy::DropUnsynced);
        let name = "log-00000000.seg";
        let mut content = crashed.read(name).unwrap();
        content[12 << 10] ^= 1;
        crashed.overwrite(name, &content);
        let refused = open_with(&crashed, &tiny());
        assert!(matches!(refused, Err(OpenError::Corrupt { .. })));
        let again = open_with(&disk.crash(CrashPolicy::DropUnsynced), &tiny()).unwrap();
        assert_eq!(again.groups[&group(1)].last_index.get(), 2);
    }
}

#[test]
fn votes_find_room_where_entries_find_none_and_entries_take_it_once_there_is_a_segment() {
    let disk = new_disk();
    // Segments of 64 KiB keep two blocks.
    let mut opened = open(&disk);
    opened.writer.append(&[create(1)]).unwrap();
    disk.limit_bytes(Some(disk.bytes()));
    let mut last = 0;
    while !no_room(opened.writer.append(&[append(1, last + 1, 1, 1)])) {
        last += 1;
    }
    assert_eq!(last, 12, "fifteen frames follow the header, one of them is the creation");
    let vote = |term| {
        let mut write = GroupWrite::new(group(1));
        write.hard_state = Some(HardState { term: Term::new(term), vote: None });
        [write]
    };
    opened.writer.append(&vote(2)).unwrap();
    opened.writer.append(&vote(3)).unwrap();
    assert!(no_room(opened.writer.append(&vote(4))), "what was kept is used up");
    opened.writer.sync().unwrap();
    opened.writer.idle().unwrap();
    let crashed = open(&disk.crash(CrashPolicy::DropUnsynced));
    assert_eq!(crashed.groups[&group(1)].hard_state.term, Term::new(3));
    assert_eq!(crashed.groups[&group(1)].last_index.get(), last);
    disk.limit_bytes(None);
    opened.writer.append(&[append(1, last + 1, 1, 3)]).unwrap();
}

#[test]
fn an_init_on_a_full_disk_says_so_and_can_be_repeated() {
    let disk = MemDisk::new();
    disk.limit_bytes(Some(100));
    let init = || init_on(&disk, "test", NodeId::new(1), &InitOptions::default());
    let error = init().unwrap_err();
    let raft_storage::InitError::Io { source, .. } = error else { panic!("{error}") };
    assert_eq!(source.kind(), std::io::ErrorKind::StorageFull);
    disk.limit_bytes(None);
    init().unwrap();
    open(&disk);
}

#[test]
fn a_log_of_a_thousand_segments_needs_few_descriptors_to_write_to_open_and_to_read() {
    let disk = new_disk();
    disk.limit_open(Some(48));
    let mut opened = open_with(&disk, &tiny()).unwrap();
    opened.writer.append(&[create(1)]).unwrap();
    let mut model = Model::default();
    model.apply(&[create(1)]);
    for index in 1..=1_000 {
        let mut write = GroupWrite::new(group(1));
        write.entries.push(entry(index, 1, 9_000));
        opened.writer.append(std::slice::from_ref(&write)).unwrap();
        model.apply(&[write]);
    }
    opened.writer.sync().unwrap();
    drop(opened);
    let again = open_with(&disk, &tiny()).unwrap();
    assert!(again.report.segments >= 1_000);
    assert!(Model::of(&again) == model);
    assert!(disk.open_peak() <= 40, "{} open at once", disk.open_peak());
    // With next to none it goes on as well: what is open for reading gives way.
    drop(again);
    disk.limit_open(Some(5));
    let mut again = open_with(&disk, &tiny()).unwrap();
    assert!(Model::of(&again) == model);
    let mut write = GroupWrite::new(group(1));
    write.entries = (1_001..1_010).map(|index| entry(index, 1, 9_000)).collect();
    for entry in write.entries {
        let mut one = GroupWrite::new(group(1));
        one.entries.push(entry);
        again.writer.append(&[one]).unwrap();
    }
    again.writer.sync().unwrap();
}

#[test]
fn a_process_without_descriptors_waits_for_one_and_loses_nothing() {
    let disk = new_disk();
    let mut opened = open_with(&disk, &tiny()).unwrap();
    opened.writer.append(&[create(1), create(2)]).unwrap();
    opened.writer.append(&frames(1, 10)).unwrap();
    opened.writer.sync().unwrap();
    disk.limit_open(Some(0));
    for _ in 0..100 {
        assert!(no_room(opened.writer.append(&frames(11, 10))));
        opened.writer.sync().unwrap();
        opened.writer.idle().unwrap();
        let read = opened.reader.entries(group(1), LogIndex::new(1), LogIndex::new(1), 1);
        let error = read.expect_err("nothing can be opened");
        assert!(error.is_passing() && matches!(error, ReadError::Io { .. }), "{error}");
    }
    disk.limit_open(None);
    opened.writer.append(&frames(11, 10)).unwrap();
    opened.writer.sync().unwrap();
    assert_eq!(Model::of(&opened_again(opened, &disk)).groups[&group(2)].entries.len(), 20);
}

fn opened_again(
    opened: raft_storage::Opened<MemDisk>,
    disk: &MemDisk,
) -> raft_storage::Opened<MemDisk> {
    opened.writer.close().unwrap();
    Log::open_on(disk.clone(), &Expected::default(), &tiny()).unwrap()
}

#[test]
fn damage_to_the_last_batch_of_a_log_that_fell_idle_is_refused_and_to_its_seal_is_nothing() {
    let disk = new_disk();
    let mut opened = open(&disk);
    opened.writer.append(&[create(1)]).unwrap();
    opened.writer.sync().unwrap();
    opened.writer.append(&[append(1, 1, 3, 1)]).unwrap();
    opened.writer.sync().unwrap();
    opened.writer.idle().unwrap();
    let syncs = disk.syncs();
    opened.writer.idle().unwrap();
    assert_eq!(disk.syncs(), syncs, "once is enough");
    drop(opened);
    let name = "log-00000000.seg";
    let (last, seal, end) = (8 << 10, 12 << 10, 16 << 10);
    for at in (last..end).step_by(7).chain([last, seal - 1, seal, end - 1]) {
        // What was not synced is lost: the seal was.
        let damaged = disk.crash(CrashPolicy::DropUnsynced);
        let mut content = damaged.read(name).unwrap();
        content[at] ^= 4;
        damaged.overwrite(name, &content);
        let outcome = open_with(&damaged, &options());
        if at < seal {
            let why = Damage::FrameLost {
                fault: match &outcome {
                    Err(OpenError::Corrupt { why: Damage::FrameLost { fault, .. }, .. }) => *fault,
                    _ => panic!("byte {at} was not missed"),
                },
                promised: raft_storage::Lsn::new(seal as u64),
            };
            assert!(matches!(outcome, Err(OpenError::Corrupt { why: w, .. }) if w == why));
        } else {
            let opened = outcome.unwrap();
            assert_eq!(opened.groups[&group(1)].last_index.get(), 3, "byte {at}");
        }
    }
}

/// Segments of 64 KiB and frames of 8 KiB.
fn long() -> LogOptions {
    LogOptions { segment_bytes: 64 << 10, ..split() }
}

/// One segment is enough.
fn huge() -> LogOptions {
    LogOptions { segment_bytes: 256 << 10, ..split() }
}

/// How a batch is written: each of these may end in the middle of a frame.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum By {
    Append,
    Cached,
    Commit,
    Flight,
}

const WAYS: [By; 4] = [By::Append, By::Cached, By::Commit, By::Flight];

fn write_by(writer: &mut LogWriter<MemDisk>, by: By, batch: &[GroupWrite]) -> Result<(), LogError> {
    match by {
        By::Append => writer.append(batch).map(drop),
        By::Cached => writer.append_cached(batch).map(drop),
        By::Commit => writer.commit(batch).map(drop),
        By::Flight => {
            writer.stage(&Arc::new(batch.to_vec()))?;
            let landing = writer.depart(Ending::AtOnce)?.land();
            writer.land(landing).map(drop)
        }
    }
}

/// File systems that copy on write take room for an overwrite.
#[test]
fn a_write_into_reserved_room_that_finds_none_is_made_again() {
    let batches = [frames(1, 6), frames(7, 6)];
    let mut waited = 0;
    for by in WAYS {
        // From nothing at all to more than both take, segments' headers included.
        for found in (0..140 << 10).step_by(3_500) {
            let disk = new_disk();
            let mut opened = open_with(&disk, &long()).unwrap();
            let mut model = Model::default();
            opened.writer.commit(&[create(1), create(2)]).unwrap();
            model.apply(&[create(1), create(2)]);
            disk.take_reserve(found, Some(3));
            opened.writer.room_wait().allow();
            for batch in &batches {
                let mut written = write_by(&mut opened.writer, by, batch);
                if let Err(LogError::NoSegment { .. }) = written {
                    // That is for the caller to try again.
                    disk.take_reserve(u64::MAX, None);
                    written = write_by(&mut opened.writer, by, batch);
                }
                written.unwrap();
                opened.writer.sync().unwrap();
                model.apply(batch);
            }
            assert!(!opened.writer.room_wait().waits());
            waited += usize::from(!disk.is_reserve_taken());
            model.is_read_by(&opened.reader);
            for policy in [CrashPolicy::DropUnsynced, CrashPolicy::KeepAll] {
                let again = open_with(&disk.crash(policy), &long()).unwrap();
                assert!(again.report.damage.is_empty(), "{found}");
                assert_eq!(Model::of(&again), model, "{by:?} {policy:?}");
            }
        }
    }
    assert!(waited > 40, "{waited}");
}

#[test]
fn a_crash_while_a_write_waits_for_room_leaves_what_was_durable() {
    for by in WAYS {
        for found in (0..40 << 10).step_by(1_500) {
            let disk = new_disk();
            let mut opened = open_with(&disk, &huge()).unwrap();
            let mut model = Model::default();
            opened.writer.commit(&[create(1), create(2)]).unwrap();
            opened.writer.commit(&frames(1, 2)).unwrap();
            [vec![create(1), create(2)], frames(1, 2)].iter().for_each(|batch| model.apply(batch));
            opened.writer.idle().unwrap();
            // Whoever stops it does not wait.
            disk.take_reserve(found, Some(u32::MAX));
            opened.writer.room_wait().allow();
            opened.writer.room_wait().give_up();
            let failed = write_by(&mut opened.writer, by, &frames(3, 6));
            let Err(LogError::Io { source, .. }) = failed else {
                panic!("{by:?} {found}: {failed:?}")
            };
            assert!(is_out_of_room(&source));
            assert!(!opened.writer.room_wait().waits());
            for seed in 0..4 {
                let crashed = disk.crash(CrashPolicy::RandomSectors { seed });
                let opened = open_with(&crashed, &huge()).unwrap();
                for (id, group) in &model.groups {
                    let last = opened.groups[id].last_index;
                    assert!(last >= group.base.index.plus(group.entries.len() as u64));
                    let entries = opened.reader.entries(*id, LogIndex::new(1), last, u64::MAX);
                    assert!(entries.unwrap().starts_with(&group.entries));
                }
            }
        }
    }
}

/// Nor does housekeeping fail, or what a log says when it falls idle and when it ends.
#[test]
fn a_log_that_has_lost_its_reserve_rests_and_ends_in_order() {
    for found in (0..64 << 10).step_by(2_000) {
        let disk = new_disk();
        let mut opened = open_with(&disk, &tiny()).unwrap();
        let mut model = Model::default();
        for batch in [vec![create(1), create(2)], frames(1, 4), frames(5, 4)] {
            opened.writer.commit(&batch).unwrap();
            model.apply(&batch);
        }
        disk.take_reserve(found, Some(2));
        opened.writer.room_wait().allow();
        opened.writer.idle().unwrap();
        for _ in 0..200 {
            if opened.writer.tend(true).unwrap() == Tending::Done {
                break;
            }
        }
        opened.writer.close().unwrap();
        // An open has a note to write.
        disk.take_reserve(u64::MAX, None);
        assert_eq!(Model::of(&open_with(&disk, &tiny()).unwrap()), model);
    }
}

/// A disk that is not worth waiting for, though it may be waited for.
#[test]
fn a_log_that_failed_for_want_of_room_does_not_seem_to_wait() {
    for by in WAYS {
        let disk = new_disk();
        let mut opened = open_with(&disk, &huge()).unwrap();
        opened.writer.commit(&[create(1), create(2)]).unwrap();
        opened.writer.room_wait().allow();
        disk.take_reserve(0, None);
        let failed = write_by(&mut opened.writer, by, &frames(1, 2));
        assert!(matches!(failed, Err(LogError::Io { .. })), "{by:?}: {failed:?}");
        assert!(!opened.writer.room_wait().waits(), "{by:?}");
    }
}

/// Nobody could end that.
#[test]
fn neither_an_open_nor_a_journal_waits_for_room() {
    let (ended, ends) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        // A new log begins with a segment.
        let disk = new_disk();
        disk.take_reserve(0, Some(u32::MAX));
        ended.send(open_with(&disk, &options()).err().map(|error| error.to_string())).unwrap();
        // One that has lost something goes on in a fresh one.
        let disk = new_disk();
        let mut opened = open(&disk);
        opened.writer.commit(&[create(1), append(1, 1, 3, 1)]).unwrap();
        drop(opened);
        let disk = disk.crash(CrashPolicy::KeepAll);
        disk.lose_block("log-00000000.seg", 4096);
        let options = LogOptions { on_damage: OnDamage::Repair, ..options() };
        for found in (0..32 << 10).step_by(4096) {
            let disk = disk.crash(CrashPolicy::KeepAll);
            disk.take_reserve(found, Some(u32::MAX));
            ended.send(open_with(&disk, &options).err().map(|error| error.to_string())).unwrap();
        }
        let disk = MemDisk::new();
        Journal::create_on(&disk, "test", &InitOptions::default()).unwrap();
        let mut journal = Journal::open_on(disk.clone(), "test", &options).unwrap();
        disk.take_reserve(0, Some(u32::MAX));
        let mut batch = Batch::new();
        batch.create(StreamId::new(1), "a");
        let made = journal.commit(batch);
        ended.send(made.err().map(|error| error.to_string())).unwrap();
    });
    let told = || ends.recv_timeout(std::time::Duration::from_secs(60)).expect("it waits");
    let told: Vec<_> = (0..10).map(|_| told()).collect();
    assert!(told[0].is_some() && told[1].is_some() && told[9].is_some(), "{told:?}");
    assert!(told.iter().flatten().count() > 4, "{told:?}");
}
