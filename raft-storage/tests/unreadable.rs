//! Sectors that cannot be read: damage where something was promised, no matter elsewhere, and never taken
//! for the end of a log. A disk of which nothing can be read is no damage.

mod common;

use common::*;
use raft_core::{HardState, LogIndex, Promise, ReplicaId, Term};
use raft_storage::{
    CrashPolicy, Damage, Disk, FrameFault, GroupWrite, LogOptions, MemDisk, OnDamage, OpenError,
    Opened, ReadError, Scrub, Tending,
};

const BLOCK: usize = 4096;
const FIRST: &str = "log-00000000.seg";

/// Segments, checkpoints and spares, closed in order; what its groups hold.
fn history() -> (MemDisk, Model) {
    let disk = new_disk();
    let mut opened = open_with(&disk, &tiny()).unwrap();
    let mut model = Model::default();
    let mut batches = vec![vec![create(1), create(2)]];
    for at in 0..14 {
        let mut long = append(1, 2 * at + 1, 1, 1);
        long.entries.push(entry(2 * at + 2, 1, 5_000));
        batches.push(vec![long, append(2, at + 1, 1, 1)]);
    }
    for batch in batches {
        opened.writer.commit(&batch).unwrap();
        model.apply(&batch);
        while opened.writer.tend(false).unwrap() != Tending::Done {}
    }
    opened.writer.close().unwrap();
    (disk.crash(CrashPolicy::KeepAll), model)
}

fn repairing(options: &LogOptions) -> LogOptions {
    LogOptions { on_damage: OnDamage::Repair, ..options.clone() }
}

/// A log of one segment, of entries of 5,000 bytes, sealed; where it ends.
fn sealed(disk: &MemDisk, options: &LogOptions, entries: u64) -> usize {
    let mut opened = open_with(disk, options).unwrap();
    opened.writer.commit(&[create(1), create(2)]).unwrap();
    for index in 1..=entries {
        let mut write = append(1, index, 0, 1);
        write.entries.push(entry(index, 1, 5_000));
        opened.writer.commit(&[write, append(2, index, 1, 1)]).unwrap();
    }
    let end = opened.writer.end_lsn().get() as usize;
    opened.writer.idle().unwrap();
    end
}

#[test]
fn a_block_that_cannot_be_read_is_judged_like_one_that_was_wiped() {
    let (disk, model) = history();
    let (mut refused, mut opens) = (0, 0);
    for name in disk.list().unwrap() {
        if name == "identity" || name == "lock" {
            continue;
        }
        let whole = disk.read(&name).unwrap();
        for begin in (0..whole.len()).step_by(BLOCK) {
            let lost = || {
                let copy = disk.crash(CrashPolicy::KeepAll);
                copy.lose_block(&name, begin as u64 + 100);
                copy
            };
            let wiped = disk.crash(CrashPolicy::KeepAll);
            let mut bytes = whole.clone();
            let end = (begin + BLOCK).min(bytes.len());
            bytes[begin..end].fill(0);
            wiped.overwrite(&name, &bytes);
            let told = format!("{name}, {begin}");
            match (open_with(&lost(), &tiny()), open_with(&wiped, &tiny())) {
                (Ok(one), Ok(other)) => {
                    opens += 1;
                    assert_eq!(one.report.damage, other.report.damage, "{told}");
                    assert_eq!(one.report.end_lsn, other.report.end_lsn, "{told}");
                    let bounds = |opened: &Opened<MemDisk>| -> Vec<_> {
                        let groups = opened.groups.iter();
                        groups
                            .map(|(id, group)| (*id, group.first_index, group.last_index))
                            .collect()
                    };
                    assert_eq!(bounds(&one), bounds(&other), "{told}");
                    for (id, group) in &model.groups {
                        let last = group.base.index.plus(group.entries.len() as u64);
                        assert_eq!(one.groups[id].last_index, last, "{told}: cut silently");
                    }
                }
                (Err(OpenError::Corrupt { .. }), Err(OpenError::Corrupt { .. })) => refused += 1,
                // The clock in the last entry of a group, which nobody checks otherwise.
                (Err(OpenError::Corrupt { why: Damage::Entry { .. }, .. }), Ok(_)) => refused += 1,
                (one, other) => panic!("{told}: {:?} {:?}", one.err(), other.err()),
            }
            // A replica opens what can be repaired, and what it forgot it says.
            match open_with(&lost(), &repairing(&tiny())) {
                Ok(opened) => {
                    for (id, group) in &model.groups {
                        let found = &opened.groups[id];
                        let last = group.base.index.plus(group.entries.len() as u64);
                        let whole = found.last_index == last;
                        assert!(whole || found.promise.promise != Promise::Kept, "{told}: {id:?}");
                    }
                }
                Err(OpenError::Corrupt { .. }) => {}
                Err(other) => panic!("{told}: {other:?}"),
            }
        }
    }
    assert!(refused > 5 && opens > 10, "{refused} refused, {opens} open");
}

#[test]
fn an_unreadable_payload_names_its_group_and_what_else_is_there_stays() {
    let disk = new_disk();
    let end = sealed(&disk, &options(), 3);
    // Each frame takes two blocks; the second one is all of the long entry of group 1.
    let at = end - BLOCK;
    disk.lose_block(FIRST, at as u64);
    let disk = disk.crash(CrashPolicy::KeepAll);
    let Err(OpenError::Corrupt { groups, why, .. }) = open_with(&disk, &options()) else {
        panic!("taken for a torn tail")
    };
    assert!(matches!(why, Damage::FrameLost { fault: FrameFault::Unreadable, .. }), "{why:?}");
    assert!(groups.is_none_or(|groups| groups.contains(&group(1))));
    let opened = open_with(&disk, &repairing(&options())).unwrap();
    assert_eq!(opened.groups[&group(1)].promise.promise, Promise::Damaged);
    assert_eq!(opened.groups[&group(1)].last_index.get(), 2);
}

#[test]
fn what_lies_behind_the_end_is_no_matter_and_is_written_again() {
    for closes in [false, true] {
        let disk = new_disk();
        let end = sealed(&disk, &options(), 2) as u64;
        if closes {
            open(&disk).writer.close().unwrap();
        }
        let disk = disk.crash(CrashPolicy::KeepAll);
        let behind = end + 5 * BLOCK as u64;
        disk.lose_block(FIRST, behind);
        let refused = disk.reads_refused();
        let mut opened = open(&disk);
        assert!(disk.reads_refused() > refused);
        assert_eq!(opened.groups[&group(1)].last_index.get(), 2);
        assert!(opened.report.damage.is_empty());
        opened.writer.commit(&[append(2, 3, 1, 1)]).unwrap();
        opened.writer.close().unwrap();
        let refused = disk.reads_refused();
        assert_eq!(open(&disk).groups[&group(2)].last_index.get(), 3);
        assert_eq!(disk.reads_refused(), refused, "the block was written, and can be read");
    }
}

#[test]
fn one_copy_of_the_note_beside_the_log_is_enough() {
    for copy in [0, 4096] {
        let disk = new_disk();
        sealed(&disk, &options(), 2);
        let disk = disk.crash(CrashPolicy::KeepAll);
        disk.lose_block("incarnation", copy);
        let life = open(&disk).incarnation;
        assert_eq!(open(&disk).incarnation.get(), life.get() + 1);
        let disk = disk.crash(CrashPolicy::KeepAll);
        disk.lose_block("incarnation", 0);
        disk.lose_block("incarnation", 4096);
        let refused = open_with(&disk, &options()).err();
        assert!(matches!(refused, Some(OpenError::Io { .. })), "{refused:?}");
    }
}

#[test]
fn a_disk_that_cannot_be_read_is_told_from_a_log_that_is_damaged() {
    for on_damage in [OnDamage::Refuse, OnDamage::Repair] {
        let (disk, model) = history();
        let options = LogOptions { on_damage, ..tiny() };
        let failing = disk.crash(CrashPolicy::KeepAll);
        failing.fail_reads(true);
        let refused = open_with(&failing, &options).err();
        assert!(matches!(refused, Some(OpenError::Io { .. })), "{refused:?}");
        failing.fail_reads(false);
        // Only what says whose the directory is comes from memory.
        for name in failing.list().unwrap() {
            if name.starts_with("log-") || name.starts_with("checkpoint-") {
                let bytes = failing.read(&name).unwrap().len();
                (0..bytes).step_by(BLOCK).for_each(|at| failing.lose_block(&name, at as u64));
            }
        }
        let before: Vec<_> =
            failing.list().unwrap().iter().map(|name| failing.read(name)).collect();
        let refused = open_with(&failing, &options).err();
        assert!(matches!(refused, Some(OpenError::DiskUnreadable { .. })), "{refused:?}");
        let verified = raft_storage::Log::inspect_on(failing.clone()).unwrap().verify().err();
        assert!(matches!(verified, Some(OpenError::DiskUnreadable { .. })), "{verified:?}");
        let after: Vec<_> = failing.list().unwrap().iter().map(|name| failing.read(name)).collect();
        assert_eq!(before, after, "nothing was changed");
        assert_eq!(Model::of(&open_with(&disk, &options).unwrap()), model);
    }
}

/// The cable comes off while a log is read.
#[test]
fn a_mebibyte_may_be_lost_and_no_more_is_asked_for() {
    let large = LogOptions { segment_bytes: 4 << 20, checkpoint_bytes: 64 << 20, ..options() };
    for (blocks, is_disk) in [(200, false), (300, true)] {
        let disk = new_disk();
        let end = sealed(&disk, &large, 400);
        assert!(end > 3 << 20, "{end}");
        let disk = disk.crash(CrashPolicy::KeepAll);
        for block in 100..100 + blocks {
            disk.lose_block(FIRST, block * BLOCK as u64);
        }
        let refused = open_with(&disk, &large).err();
        match is_disk {
            true => {
                let is_told =
                    matches!(refused, Some(OpenError::DiskUnreadable { blocks: 257, .. }));
                assert!(is_told, "{refused:?}");
            }
            false => assert!(matches!(refused, Some(OpenError::Corrupt { .. })), "{refused:?}"),
        }
        // Each block once, and each step once.
        assert!(disk.reads_refused() < 257 + 16, "{}", disk.reads_refused());
        let repaired = open_with(&disk, &repairing(&large));
        assert_eq!(repaired.is_ok(), !is_disk);
    }
}

#[test]
fn a_look_at_every_entry_does_not_forget_them_all_where_the_disk_fails() {
    let large = LogOptions { segment_bytes: 4 << 20, checkpoint_bytes: 4 << 20, ..options() };
    let disk = new_disk();
    sealed(&disk, &large, 400);
    open_with(&disk, &large).unwrap().writer.close().unwrap();
    let disk = disk.crash(CrashPolicy::KeepAll);
    let mut opened = open_with(&disk, &large).unwrap();
    let middle = 200 * 2 * BLOCK as u64;
    disk.lose_block(FIRST, middle);
    let read = opened.reader.entries(group(1), LogIndex::new(1), LogIndex::new(400), u64::MAX);
    assert!(matches!(read, Err(ReadError::Io { .. })), "{read:?}");
    opened.writer.idle().unwrap();
    let is_doubted = || disk.list().unwrap().iter().any(|name| name == "doubt");
    assert!(!is_doubted(), "it may pass");
    // Whoever read it in vain for long enough.
    opened.reader.doubt();
    drop(opened);
    assert!(is_doubted(), "the next open is to look");
    let copy = disk.crash(CrashPolicy::KeepAll);
    for at in (middle..3 << 20).step_by(BLOCK) {
        copy.lose_block(FIRST, at);
    }
    let refused = open_with(&copy, &repairing(&large)).err();
    assert!(matches!(refused, Some(OpenError::DiskUnreadable { .. })), "{refused:?}");
    // One sector costs the group what lies behind it, and no other anything.
    let opened = open_with(&disk, &repairing(&large)).unwrap();
    assert_eq!(opened.groups[&group(1)].promise.promise, Promise::Damaged);
    let last = opened.groups[&group(1)].last_index.get();
    assert!((190..=200).contains(&last), "{last}");
    assert!(opened.groups[&group(2)].last_index.get() >= 190);
}

#[test]
fn a_scrub_tells_what_cannot_be_read_entry_by_entry_and_reads_the_rest() {
    let disk = new_disk();
    let end = sealed(&disk, &options(), 4);
    let opened = open(&disk);
    // The last block of the last frame, and of the one before it.
    for frames in [0, 2] {
        disk.lose_block(FIRST, (end - (frames + 1) * BLOCK) as u64);
    }
    let (mut at, mut bytes, mut damaged) = (Scrub::default(), 0, Vec::new());
    loop {
        let scrubbed = opened.reader.scrub(at, 4 << 10);
        bytes += scrubbed.bytes;
        damaged.extend(scrubbed.damage);
        let Some(next) = scrubbed.next else { break };
        at = next;
    }
    let told = damaged.iter().map(|damage| match damage {
        ReadError::Io { group, index, .. } => (*group, index.get()),
        other => panic!("{other:?}"),
    });
    let told: Vec<_> = told.collect();
    assert!(told.starts_with(&[(group(1), 3), (group(1), 4)]), "{told:?}");
    assert!(bytes > 10_000, "the rest was read: {bytes}");
    // Its neighbours in memory are given out, and it is named itself.
    let read = opened.reader.entries(group(1), LogIndex::new(1), LogIndex::new(4), u64::MAX);
    assert!(matches!(read, Err(ReadError::Io { index, .. }) if index.get() == 3), "{read:?}");
}

fn vote(id: u32, term: u64, candidate: u64) -> GroupWrite {
    let mut write = GroupWrite::new(group(id));
    write.hard_state =
        Some(HardState { term: Term::new(term), vote: Some(ReplicaId::new(candidate)) });
    write
}

/// The process dies with the fault, before another frame says what was durable.
#[test]
fn the_newest_frame_that_cannot_be_read_is_no_torn_tail() {
    let mut long = append(1, 2, 1, 1);
    long.entries.push(entry(3, 1, 9_000));
    let mut voted = vote(2, 7, 3);
    voted.entries = vec![entry(2, 1, 9_000)];
    let (mut holes, mut entries_only) = (0, 0);
    for last in [vec![vote(1, 7, 3)], vec![append(1, 2, 1, 1)], vec![long, voted]] {
        let disk = new_disk();
        let mut opened = open(&disk);
        let before = [create(1), create(2), vote(1, 1, 1), vote(2, 1, 1)];
        opened.writer.commit(&before).unwrap();
        opened.writer.commit(&[append(1, 1, 1, 1), append(2, 1, 1, 1)]).unwrap();
        let begin = opened.writer.end_lsn().get();
        opened.writer.commit(&last).unwrap();
        let end = opened.writer.end_lsn().get();
        let disk = disk.crash(CrashPolicy::KeepAll);
        let whole = open(&disk.crash(CrashPolicy::KeepAll)).groups;
        for block in (begin..end).step_by(BLOCK) {
            let told = format!("{} writes, {block}", last.len());
            let disk = disk.crash(CrashPolicy::KeepAll);
            disk.lose_block(FIRST, block);
            let before = disk.read(FIRST).unwrap();
            let refused = open_with(&disk, &options()).err();
            assert!(
                matches!(refused, Some(OpenError::Corrupt { why: Damage::EndUnreadable, .. })),
                "{told}: {refused:?}"
            );
            for _ in 0..2 {
                let opened = open_with(&disk, &repairing(&options())).unwrap();
                for (id, group) in &whole {
                    let found = &opened.groups[id];
                    let stance = found.hard_state == group.hard_state;
                    let is_whole = stance && found.last_index == group.last_index;
                    let promise = found.promise.promise;
                    assert!(is_whole || promise != Promise::Kept, "{told}: {id:?}");
                    assert!(stance || promise == Promise::Unproven, "{told}: {id:?} may vote");
                    holes += u32::from(promise == Promise::Unproven);
                    entries_only += u32::from(promise == Promise::Damaged);
                }
                let (from, to) = (begin as usize, end as usize);
                let after = disk.read(FIRST).unwrap();
                assert_eq!(after[from..to], before[from..to], "{told}: it may come back");
            }
        }
    }
    assert!(holes > 0 && entries_only > 0, "{holes} {entries_only}");
}

/// Behind the last word of a life nothing was written.
#[test]
fn a_block_behind_a_log_that_ended_in_order_is_no_matter() {
    let disk = new_disk();
    let mut opened = open(&disk);
    opened.writer.commit(&[create(1), append(1, 1, 1, 1)]).unwrap();
    opened.writer.close().unwrap();
    let disk = disk.crash(CrashPolicy::KeepAll);
    let end = open(&disk.crash(CrashPolicy::KeepAll)).report.end_lsn.get();
    disk.lose_block(FIRST, end);
    let opened = open(&disk);
    assert!(opened.report.damage.is_empty());
    assert_eq!(opened.groups[&group(1)].last_index.get(), 1);
}

/// A group that begins, or begins anew, in the frame that has lost entries of it.
#[test]
fn lost_entries_behind_a_beginning_in_the_same_frame_cost_nothing_else() {
    let mut again = create_again(1, 2);
    again.entries = (1..=200).map(|index| entry(index, 1, 40)).collect();
    let mut install = GroupWrite::new(group(1));
    install.install = Some(snapshot(10, 1, 3));
    install.entries = (11..=210).map(|index| entry(index, 1, 40)).collect();
    let mut first = create(3);
    first.entries = (1..=200).map(|index| entry(index, 1, 40)).collect();
    let mut lost = 0;
    for (id, batch) in [(1, vec![again]), (1, vec![install]), (3, vec![first])] {
        let disk = new_disk();
        let mut opened = open(&disk);
        opened.writer.commit(&[create(1), create(2), append(1, 1, 2, 1)]).unwrap();
        opened.writer.commit(&[append(2, 1, 2, 1)]).unwrap();
        let begin = opened.writer.end_lsn().get();
        opened.writer.commit(&batch).unwrap();
        let end = opened.writer.end_lsn().get();
        // Its log goes on behind, and nothing is known of what that follows.
        let last = batch[0].entries.last().unwrap().index.get();
        opened.writer.commit(&[append(id, last + 1, 1, 1), append(2, 3, 1, 1)]).unwrap();
        opened.writer.idle().unwrap();
        let disk = disk.crash(CrashPolicy::KeepAll);
        for block in (begin..end).step_by(BLOCK).skip(1) {
            let disk = disk.crash(CrashPolicy::KeepAll);
            disk.lose_block(FIRST, block);
            let opened = open_with(&disk, &repairing(&options())).unwrap();
            let found = &opened.groups[&group(id)];
            assert!(found.last_index.get() < last);
            assert_eq!(
                found.incarnation.get(),
                1 + u32::from(batch[0].create.is_some() && id == 1)
            );
            assert_eq!(found.promise.promise, Promise::Damaged, "{block}");
            assert_eq!(opened.groups[&group(2)].promise.promise, Promise::Kept);
            assert_eq!(opened.groups[&group(2)].last_index.get(), 3);
            lost += 1;
            drop(opened);
            assert_eq!(open(&disk).groups[&group(id)].promise.promise, Promise::Damaged);
        }
    }
    assert!(lost >= 6, "{lost}");
}
