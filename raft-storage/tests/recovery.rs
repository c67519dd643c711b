//! What was written comes back, and nothing else does.

mod common;

use common::*;
use raft_core::{
    GroupIncarnation, HardState, LogIndex, Promise, PromiseRecord, ReplicaId, Term, Tombstone,
};
use raft_storage::{CrashPolicy, Disk, DiskFile, GroupWrite, LogError, MemDisk, ReadError};

#[test]
fn everything_synced_is_found_again_with_a_larger_incarnation() {
    let disk = new_disk();
    let mut model = Model::default();
    let mut batches = vec![vec![create(1), create(2), append(1, 1, 3, 1)]];
    let mut vote = GroupWrite::new(group(2));
    vote.hard_state = Some(HardState { term: Term::new(4), vote: Some(ReplicaId::new(u64::MAX)) });
    batches.push(vec![vote, append(2, 1, 2, 4), append(1, 4, 1, 2)]);
    let mut first = open(&disk);
    assert_eq!(first.incarnation.get(), 1);
    for batch in &batches {
        first.writer.append(batch).unwrap();
        model.apply(batch);
    }
    first.writer.sync().unwrap();
    drop(first);
    let second = open(&disk.crash(CrashPolicy::DropUnsynced));
    assert_eq!(second.incarnation.get(), 2);
    assert_eq!(Model::of(&second), model);
    assert_eq!((second.report.frames, second.report.segments), (2, 1));
    assert_eq!(second.report.torn_tail, None);
    assert!(!second.report.clean);
}

/// A life that wrote and lost everything leaves the log as the one before ended it: in order.
#[test]
fn the_last_word_of_a_life_says_nothing_of_the_next() {
    let disk = new_disk();
    let mut opened = open(&disk);
    opened.writer.append(&[create(1), append(1, 1, 3, 1)]).unwrap();
    opened.writer.close().unwrap();
    drop(opened.reader);
    let mut opened = open(&disk);
    assert!(opened.report.clean);
    opened.writer.append(&[append(1, 4, 3, 1)]).unwrap();
    drop(opened);
    let disk = disk.crash(CrashPolicy::DropUnsynced);
    let found = open(&disk);
    assert_eq!(found.groups[&group(1)].last_index, LogIndex::new(3));
    assert!(!found.report.clean, "what the second life wrote is gone");
    found.writer.close().unwrap();
    drop(found.reader);
    assert!(open(&disk.crash(CrashPolicy::DropUnsynced)).report.clean);
}

/// A process that is killed while it makes a spare leaves a file that only the page cache knows.
#[test]
fn a_spare_that_was_only_begun_is_durable_before_a_segment_is_made_of_it() {
    let mut segments_most = 0;
    for appends in 1..30 {
        let disk = new_disk();
        let mut model = Model::default();
        let mut opened = open(&disk);
        let mut batch = vec![create(1), append(1, 1, 3, 1)];
        opened.writer.append(&batch).unwrap();
        model.apply(&batch);
        opened.writer.close().unwrap();
        drop(opened.reader);
        let begun = disk.create("log-00000002.seg").unwrap();
        begun.write_zeros(options().segment_bytes).unwrap();

        let mut opened = open(&disk);
        for at in 0..appends {
            batch = vec![append(1, 4 + at, 1, 1)];
            opened.writer.append(&batch).unwrap();
            opened.writer.sync().unwrap();
            model.apply(&batch);
        }
        drop(opened);
        let found = open(&disk.crash(CrashPolicy::DropUnsynced));
        segments_most = segments_most.max(found.report.segments);
        assert_eq!(Model::of(&found), model, "{appends} appends");
    }
    assert!(segments_most > 1, "the log went on in the file that was only begun");
}

#[test]
fn truncated_entries_are_replaced_and_stay_so() {
    let disk = new_disk();
    let mut opened = open(&disk);
    opened.writer.append(&[create(1), append(1, 1, 10, 1)]).unwrap();
    let mut replace = append(1, 4, 3, 2);
    replace.truncate_from = Some(LogIndex::new(4));
    let mut only_truncate = GroupWrite::new(group(1));
    only_truncate.truncate_from = Some(LogIndex::new(6));
    let batches = [vec![replace], vec![only_truncate]];
    let mut model = Model::default();
    model.apply(&[create(1), append(1, 1, 10, 1)]);
    for batch in &batches {
        opened.writer.append(batch).unwrap();
        model.apply(batch);
    }
    opened.writer.close().unwrap();
    drop(opened.reader);
    let again = open(&disk);
    assert!(again.report.clean);
    assert_eq!(Model::of(&again), model);
    assert_eq!(again.groups[&group(1)].last_index, LogIndex::new(5));
}

#[test]
fn a_group_created_again_forgets_its_former_life_and_no_other() {
    let disk = new_disk();
    let mut opened = open(&disk);
    let batches = [
        vec![create(1), create(2), append(1, 1, 5, 1), append(2, 1, 5, 1)],
        vec![create_again(1, 2), append(1, 1, 1, 9)],
    ];
    let mut model = Model::default();
    for batch in &batches {
        opened.writer.append(batch).unwrap();
        model.apply(batch);
    }
    assert!(matches!(
        opened.writer.append(&[create_again(1, 2)]),
        Err(LogError::GroupExists { .. })
    ));
    opened.writer.sync().unwrap();
    drop(opened);
    assert_eq!(Model::of(&open(&disk)), model);
}

#[test]
fn a_log_goes_on_after_an_installed_snapshot_and_says_what_was_in_force_there() {
    let disk = new_disk();
    let mut opened = open(&disk);
    let mut install = append(1, 21, 2, 4);
    install.entries.push(config(23, 4, 5));
    install.install = Some(snapshot(20, 3, 3));
    // Within one operation the snapshot comes before what is appended to it.
    let batches = [vec![create(1), append(1, 1, 9, 1)], vec![install]];
    let mut model = Model::default();
    for batch in &batches {
        opened.writer.append(batch).unwrap();
        model.apply(batch);
    }
    let gone = opened.reader.entries(group(1), LogIndex::new(9), LogIndex::new(21), u64::MAX);
    assert!(matches!(gone, Err(ReadError::OutOfRange { .. })));
    opened.writer.sync().unwrap();
    drop(opened);
    let again = open(&disk);
    assert_eq!(Model::of(&again), model);
    let found = &again.groups[&group(1)];
    assert_eq!((found.base.index, found.base.term), (LogIndex::new(20), Term::new(3)));
    assert_eq!(found.base.membership, Some(members(3)));
    assert_eq!(found.configs, [(LogIndex::new(23), members(5))]);
}

#[test]
fn a_compacted_log_remembers_time_and_membership_although_no_entry_is_left_to_say_it() {
    let disk = new_disk();
    let mut opened = open(&disk);
    let mut first = append(1, 1, 5, 1);
    first.entries.push(config(6, 1, 2));
    first.entries.extend(append(1, 7, 2, 1).entries);
    let mut tail = GroupWrite::new(group(1));
    tail.compact = Some(compaction(6, 1, 2));
    let mut all = GroupWrite::new(group(1));
    all.compact = Some(compaction(8, 1, 2));
    let batches = [vec![create(1), first], vec![tail], vec![all]];
    let mut model = Model::default();
    for batch in &batches {
        opened.writer.append(batch).unwrap();
        model.apply(batch);
        opened.writer.sync().unwrap();
        let found = open(&disk.crash(CrashPolicy::DropUnsynced));
        assert_eq!(Model::of(&found), model);
    }
    let found = &open(&disk.crash(CrashPolicy::DropUnsynced)).groups[&group(1)];
    assert_eq!((found.last_index, found.log_time), (LogIndex::new(8), time_at(LogIndex::new(8))));
    assert!(found.configs.is_empty() && found.term_runs.is_empty());
    opened.writer.append(&[append(1, 9, 1, 1)]).unwrap();
    assert_eq!(opened.reader.first_index(group(1)), Some(LogIndex::new(9)));
}

#[test]
fn a_destroyed_group_is_remembered_by_its_vote_and_another_replica_may_come() {
    let disk = new_disk();
    let mut opened = open(&disk);
    let tombstone = Tombstone {
        group: group(1),
        replica: ReplicaId::new(3),
        hard_state: HardState { term: Term::new(5), vote: Some(ReplicaId::new(2)) },
    };
    let mut destroy = GroupWrite::new(group(1));
    destroy.destroy = Some(tombstone);
    opened.writer.append(&[create(1), create(2), append(1, 1, 5, 5)]).unwrap();
    opened.writer.append(&[destroy]).unwrap();
    let gone = opened.writer.append(&[append(1, 6, 1, 5)]);
    assert!(matches!(gone, Err(LogError::UnknownGroup { .. })));
    assert_eq!(opened.reader.last_index(group(1)), None);
    opened.writer.sync().unwrap();

    let crashed = disk.crash(CrashPolicy::DropUnsynced);
    let mut again = open(&crashed);
    let remembered = Some(&(GroupIncarnation::new(1), tombstone));
    assert!(!again.groups.contains_key(&group(1)) && again.groups.contains_key(&group(2)));
    assert_eq!(again.tombstones.get(&group(1)), remembered);
    let gone = again.writer.append(&[append(1, 6, 1, 5)]);
    assert!(matches!(gone, Err(LogError::UnknownGroup { .. })));

    // The same life of the group, but another replica, whose log begins anew.
    again.writer.append(&[create(1), append(1, 1, 2, 6)]).unwrap();
    again.writer.sync().unwrap();
    let third = open(&crashed.crash(CrashPolicy::DropUnsynced));
    assert_eq!(third.groups[&group(1)].last_index, LogIndex::new(2));
    assert_eq!(third.tombstones.get(&group(1)), remembered);
}

#[test]
fn lost_promises_are_remembered_until_they_are_kept_again() {
    let disk = new_disk();
    let mut opened = open(&disk);
    opened.writer.append(&[create(1)]).unwrap();
    for (promise, loss_epoch) in
        [(Promise::Lost, 0), (Promise::Damaged, 7), (Promise::Kept, u32::MAX)]
    {
        let mut write = GroupWrite::new(group(1));
        write.promise = Some(PromiseRecord { promise, loss_epoch });
        opened.writer.append(&[write]).unwrap();
        opened.writer.sync().unwrap();
        let found = open(&disk.crash(CrashPolicy::DropUnsynced));
        assert_eq!(found.groups[&group(1)].promise, PromiseRecord { promise, loss_epoch });
    }
}

#[test]
fn a_thousand_groups_over_many_segments_come_back() {
    let disk = new_disk();
    let mut opened = open(&disk);
    let mut model = Model::default();
    let mut batches: Vec<Vec<GroupWrite>> =
        (0..10).map(|part| (0..100).map(|i| create(part * 100 + i)).collect()).collect();
    for round in 0..10 {
        batches.push((0..1000).step_by(2).map(|id| append(id, round + 1, 1, 1)).collect());
    }
    for batch in &batches {
        opened.writer.append(batch).unwrap();
        model.apply(batch);
    }
    opened.writer.sync().unwrap();
    drop(opened);
    let again = open(&disk);
    assert_eq!(again.groups.len(), 1000);
    assert!(again.report.segments > 5, "{:?}", again.report);
    assert_eq!(Model::of(&again), model);
}

#[test]
fn a_batch_larger_than_a_frame_or_a_segment_is_split_and_an_entry_is_not() {
    let disk = new_disk();
    let mut opened = open_with(&disk, &tiny()).unwrap();
    let mut write = GroupWrite::new(group(1));
    for (at, bytes) in [10, 5_000, 12_000, 100_000, 0, 3_000_000, 30].into_iter().enumerate() {
        write.entries.push(entry(at as u64 + 1, 1, bytes));
    }
    let batch = [create(1), write];
    let info = opened.writer.append(&batch).unwrap();
    assert!(info.frames >= 5);
    let mut model = Model::default();
    model.apply(&batch);
    let all = |reader: &raft_storage::LogReader| {
        reader.entries(group(1), LogIndex::new(1), LogIndex::new(7), u64::MAX).unwrap()
    };
    assert_eq!(all(&opened.reader), model.groups[&group(1)].entries);
    opened.writer.append(&[append(1, 8, 3, 1)]).unwrap();
    model.apply(&[append(1, 8, 3, 1)]);
    opened.writer.sync().unwrap();
    drop(opened);
    // The sizes of segments may change between opens.
    let again = open_with(&disk, &options()).unwrap();
    assert_eq!(Model::of(&again), model);
}

#[test]
fn a_read_is_bounded_by_bytes_yet_returns_at_least_one_entry() {
    let disk = new_disk();
    let mut opened = open(&disk);
    opened.writer.append(&[create(1), append(1, 1, 100, 1)]).unwrap();
    let read = |first, last, bytes_max| {
        opened.reader.entries(group(1), LogIndex::new(first), LogIndex::new(last), bytes_max)
    };
    assert_eq!(read(5, 50, 0).unwrap().len(), 1);
    assert_eq!(read(5, 50, 72 * 3).unwrap().len(), 3);
    assert_eq!(read(5, 50, 72 * 4 - 1).unwrap().len(), 3);
    assert_eq!(read(5, 50, u64::MAX).unwrap().len(), 46);
    assert_eq!(read(50, 5, u64::MAX).unwrap().len(), 0);
    for (first, last) in [(0, 1), (100, 101), (101, 101), (1, u64::MAX)] {
        let outcome = read(first, last, 1);
        assert!(matches!(outcome, Err(ReadError::OutOfRange { .. })), "{first} {last}");
    }
    let unknown = opened.reader.entries(group(9), LogIndex::new(1), LogIndex::new(1), 1);
    assert!(matches!(unknown, Err(ReadError::UnknownGroup { .. })));
}

#[test]
fn a_refused_batch_changes_nothing() {
    let disk = new_disk();
    let mut opened = open(&disk);
    opened.writer.append(&[create(1), append(1, 1, 3, 1)]).unwrap();
    opened.writer.sync().unwrap();
    let end = opened.writer.end_lsn();
    let operations = disk.operations();
    let good = || append(1, 4, 2, 1);
    let mut below = GroupWrite::new(group(1));
    below.truncate_from = Some(LogIndex::ZERO);
    let mut late = append(1, 6, 1, 1);
    late.entries[0].time = raft_core::LogTime::new(1 << 56);
    let mut long = create(3);
    if let Some(create) = &mut long.create {
        create.spec = vec![0; (1 << 20) + 1].into();
    }
    let mut nobody = append(1, 6, 1, 1);
    nobody.entries[0].kind = raft_core::EntryKind::Config;
    let bad = [
        append(1, 7, 1, 1),
        append(1, 4, 1, 1),
        append(7, 1, 1, 1),
        create(1),
        below,
        late,
        long,
        nobody,
    ];
    for write in bad {
        let batch = [create(2), append(2, 1, 1, 1), good(), write];
        assert!(opened.writer.append(&batch).is_err());
        assert_eq!((opened.writer.end_lsn(), disk.operations()), (end, operations));
        assert_eq!(opened.reader.last_index(group(2)), None);
        assert_eq!(opened.reader.last_index(group(1)), Some(LogIndex::new(3)));
    }
    // And the log goes on as if they had never been asked.
    opened.writer.append(&[create(2), append(2, 1, 1, 1), good()]).unwrap();
}

#[test]
fn durable_index_follows_the_sync_and_never_counts_replaced_entries() {
    let disk = new_disk();
    let mut opened = open_with(&disk, &tiny()).unwrap();
    let durable = |opened: &raft_storage::Opened<MemDisk>| {
        opened.reader.durable_index(group(1)).map(LogIndex::get)
    };
    assert_eq!(durable(&opened), None);
    opened.writer.append(&[create(1), append(1, 1, 5, 1)]).unwrap();
    assert_eq!(durable(&opened), Some(0));
    opened.writer.sync().unwrap();
    assert_eq!(durable(&opened), Some(5));
    let mut replace = append(1, 3, 4, 2);
    replace.truncate_from = Some(LogIndex::new(3));
    opened.writer.append(&[replace]).unwrap();
    assert_eq!(durable(&opened), Some(2));
    assert_eq!(opened.reader.last_index(group(1)), Some(LogIndex::new(6)));
    opened.writer.sync().unwrap();
    assert_eq!(durable(&opened), Some(6));
}

#[test]
fn sync_without_news_costs_nothing_and_idle_writes_one_marker() {
    let disk = new_disk();
    let mut opened = open(&disk);
    opened.writer.append(&[create(1)]).unwrap();
    opened.writer.sync().unwrap();
    let syncs = disk.syncs();
    opened.writer.sync().unwrap();
    opened.writer.append(&[]).unwrap();
    opened.writer.sync().unwrap();
    assert_eq!(disk.syncs(), syncs);
    let end = opened.writer.end_lsn();
    for _ in 0..5 {
        opened.writer.idle().unwrap();
        opened.writer.sync().unwrap();
    }
    assert_eq!(opened.writer.end_lsn(), end.plus(4096));
    assert_eq!(disk.syncs(), syncs + 1, "the marker is durable, and written once");
}
