//! Looking at a log: nothing of it is missed, nothing is changed, and whoever works in it is left alone.

mod common;

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use common::*;
use raft_core::{HardState, LogIndex, ReplicaId, Term};
use raft_storage::{
    CrashPolicy, Damage, Dumped, Flaw, FrameFault, GroupWrite, Log, LogOptions, MemDisk, OpenError,
    RecordFilter, RecordView, Tending, Verified,
};

fn verify(disk: &MemDisk) -> Verified {
    Log::inspect_on(disk.clone()).unwrap().verify().unwrap()
}

fn vote(id: u32, term: u64, vote: u64) -> GroupWrite {
    let mut write = GroupWrite::new(group(id));
    write.hard_state = Some(HardState { term: Term::new(term), vote: Some(ReplicaId::new(vote)) });
    write
}

/// So long entries that nothing is worth moving out of a segment.
const BYTES: usize = 900;

fn fat(id: u32, first: u64, count: u64) -> GroupWrite {
    let mut write = GroupWrite::new(group(id));
    write.entries = (first..first + count).map(|index| entry(index, 1, BYTES)).collect();
    write
}

/// A log of several segments, most of which no open reads any more: a checkpoint holds what they say.
fn long_log() -> MemDisk {
    let disk = new_disk();
    let options = LogOptions { checkpoint_bytes: 128 << 10, ..tiny() };
    let mut opened = open_with(&disk, &options).unwrap();
    opened.writer.append(&[create(1), create(2), vote(1, 1, 1)]).unwrap();
    opened.writer.sync().unwrap();
    for at in 0..40 {
        let mut batch = vec![fat(1, at * 4 + 1, 4)];
        if at % 4 == 0 {
            batch.push(append(2, at / 4 + 1, 1, 1));
        }
        opened.writer.append(&batch).unwrap();
        opened.writer.sync().unwrap();
        while opened.writer.tend(false).unwrap() != Tending::Done {}
    }
    opened.writer.close().unwrap();
    disk.crash(CrashPolicy::KeepAll)
}

#[test]
fn a_sound_log_is_read_whole_and_not_changed() {
    let disk = long_log();
    let names = raft_storage::Disk::list(&disk).unwrap();
    let before: Vec<_> = names.iter().map(|name| disk.read(name)).collect();
    let verified = verify(&disk);
    assert!(verified.is_sound(), "{verified:?}");
    assert_eq!((verified.groups, verified.entries), (2, 170));
    assert!(verified.segments > 3, "{verified:?}");
    let report = verified.opens.unwrap();
    assert!(report.frames < verified.frames, "an open reads less");
    assert_eq!(names.iter().map(|name| disk.read(name)).collect::<Vec<_>>(), before);
}

#[test]
fn every_flipped_byte_that_is_needed_is_found_with_its_place_and_its_groups() {
    let disk = long_log();
    let names = raft_storage::Disk::list(&disk).unwrap();
    let mut told = [0_u32; 3];
    for name in names.iter().filter(|name| name.ends_with(".seg")) {
        let sound = disk.read(name).unwrap();
        for at in (0..sound.len()).step_by(1021) {
            let copy = disk.crash(CrashPolicy::KeepAll);
            let mut bytes = sound.clone();
            bytes[at] ^= 1 << (at % 8);
            copy.overwrite(name, &bytes);
            let verified = verify(&copy);
            let opens = open_with(&copy, &tiny());
            if verified.findings.is_empty() {
                // Whatever it was, it is no part of the log: an open comes to the same.
                let opened = opens.unwrap_or_else(|error| panic!("{name} {at}: {error}"));
                assert_eq!(Model::of(&opened), Model::of(&open(&disk.crash(CrashPolicy::KeepAll))));
                told[0] += 1;
                continue;
            }
            for finding in &verified.findings {
                // Of a segment without its header only the one behind it tells.
                let missed = |why| {
                    matches!(why, Damage::SegmentSequence { .. } | Damage::LogEndsEarly { .. })
                };
                if at < 4096 && matches!(finding.flaw, Flaw::Opening(why) if missed(why)) {
                    continue;
                }
                assert!(
                    name.contains(&format!("{:08}", finding.segment)),
                    "{name} {at}: {finding:?}"
                );
                assert!(finding.offset as usize <= at, "{name} {at}: {finding:?}");
            }
            if verified.is_sound() {
                told[1] += 1;
            } else {
                told[2] += 1;
            }
            assert_eq!(verified.opens.is_some(), opens.is_ok(), "{name} {at}");
        }
    }
    assert!(told[2] > 0, "{told:?}");
}

#[test]
fn a_damaged_entry_that_no_open_reads_is_named_and_its_neighbours_are_read() {
    let disk = long_log();
    // The first entries of the log are long since below the checkpoint.
    let first = entry(1, 1, BYTES).payload;
    let bytes = disk.read("log-00000000.seg").unwrap();
    let at = bytes.windows(first.len()).position(|window| window == first).unwrap();
    let mut torn = bytes;
    torn[at] ^= 1;
    disk.overwrite("log-00000000.seg", &torn);
    let verified = verify(&disk);
    assert!(verified.opens.is_some() && !verified.is_sound());
    let flaws: Vec<_> = verified.findings.iter().map(|finding| finding.flaw.clone()).collect();
    let entry = Flaw::Entry { group: group(1), index: LogIndex::new(1) };
    assert!(flaws.contains(&entry), "{flaws:?}");
    assert_eq!(verified.entries, 169);
    let hole = |flaw: &Flaw| matches!(flaw, Flaw::Frame { fault: FrameFault::BodyChecksum, .. });
    let hole = verified.findings.iter().find(|finding| hole(&finding.flaw)).unwrap();
    assert!(hole.groups.as_ref().is_some_and(|groups| groups.contains(&group(1))), "{hole:?}");
}

#[test]
fn an_entry_that_the_disk_refuses_is_named_where_it_lies_and_is_needed() {
    let disk = long_log();
    let payload = entry(41, 1, BYTES).payload;
    let names = raft_storage::Disk::list(&disk).unwrap();
    let (name, at) = names
        .into_iter()
        .filter(|name| name.ends_with(".seg") && name != "log-00000000.seg")
        .find_map(|name| {
            let bytes = disk.read(&name)?;
            let at = bytes.windows(payload.len()).position(|window| window == payload)?;
            Some((name, at))
        })
        .unwrap();
    let segment: u32 = name[4..12].parse().unwrap();
    disk.lose_block(&name, at as u64 + 450);
    let verified = verify(&disk);
    assert!(verified.opens.is_some() && !verified.is_sound());
    let found = |index: u64| {
        let is_it =
            |flaw: &Flaw| matches!(flaw, Flaw::Unreadable { index: at, .. } if at.get() == index);
        verified.findings.iter().find(|finding| is_it(&finding.flaw))
    };
    let entry = found(41).unwrap();
    assert_eq!(entry.segment, segment, "{entry:?}");
    assert!((at as u64 - 100..=at as u64).contains(&entry.offset), "{entry:?}, {at}");
    let is_hole = |flaw: &Flaw| matches!(flaw, Flaw::Frame { fault: FrameFault::Unreadable, .. });
    let hole = verified.findings.iter().find(|finding| is_hole(&finding.flaw)).unwrap();
    assert_eq!(hole.segment, segment);
    assert!(hole.groups.as_ref().is_some_and(|groups| groups.contains(&group(1))), "{hole:?}");
    assert!(!hole.is_harmless());
}

#[test]
fn what_nobody_needs_is_told_apart() {
    let disk = long_log();
    let mut opened = open_with(&disk, &tiny()).unwrap();
    // All of group 1 is dead, and lies where group 2 lives.
    let mut write = GroupWrite::new(group(1));
    write.compact = Some(compaction(160, 1, 3));
    opened.writer.append(&[write]).unwrap();
    opened.writer.close().unwrap();
    let disk = disk.crash(CrashPolicy::KeepAll);
    for index in 1..=8 {
        let copy = disk.crash(CrashPolicy::KeepAll);
        let payload = entry(index, 1, BYTES).payload;
        let mut torn = disk.read("log-00000000.seg").unwrap();
        let at = torn.windows(payload.len()).position(|window| window == payload).unwrap();
        torn[at] ^= 1;
        copy.overwrite("log-00000000.seg", &torn);
        let verified = verify(&copy);
        // Every fourth frame holds an entry of group 2 as well, which can be read.
        assert!(verified.is_sound() && !verified.findings.is_empty(), "{verified:?}");
        assert_eq!(verified.entries, 10);
    }
}

#[test]
fn records_are_shown_in_order_and_by_group_place_and_index() {
    let disk = long_log();
    let shown = |filter: &RecordFilter| {
        let mut views: Vec<RecordView> = Vec::new();
        let inspection = Log::inspect_on(disk.clone()).unwrap();
        let mut visit = |found: Dumped| {
            let Dumped::Record(view) = found else { panic!("{found:?}") };
            views.push(view);
            ControlFlow::Continue(())
        };
        inspection.records(filter, &mut visit).unwrap();
        views
    };
    let all = shown(&RecordFilter::default());
    assert!(all.iter().all(|view| view.is_sound));
    assert!(all.is_sorted_by_key(|view| (view.frame, view.offset)));
    let kinds: BTreeSet<_> = all.iter().map(|view| view.kind).collect();
    assert_eq!(kinds, ["EntryRun", "GroupCreate", "HardState", "SyncMarker"].into());
    let vote = all.iter().find(|view| view.kind == "HardState").unwrap();
    assert_eq!((vote.term, vote.vote), (Term::new(1), Some(ReplicaId::new(1))));
    let second = shown(&RecordFilter { group: Some(group(2)), ..RecordFilter::default() });
    assert_eq!(second.len(), 11);
    let some = LogIndex::new(6)..=LogIndex::new(9);
    let some =
        RecordFilter { group: Some(group(1)), entries: Some(some), ..RecordFilter::default() };
    let firsts: Vec<u64> = shown(&some).iter().map(|view| view.index.get()).collect();
    assert_eq!(firsts, [5, 9]);
    let middle = all[all.len() / 2].frame;
    let upper = shown(&RecordFilter { from: Some(middle), ..RecordFilter::default() });
    let lower = shown(&RecordFilter { to: Some(middle), ..RecordFilter::default() });
    assert_eq!([lower, upper].concat(), all);
}

#[test]
fn what_is_readable_behind_damage_is_shown() {
    let disk = long_log();
    let mut torn = disk.read("log-00000000.seg").unwrap();
    torn[8192] ^= 1;
    disk.overwrite("log-00000000.seg", &torn);
    let inspection = Log::inspect_on(disk).unwrap();
    let (mut before, mut hole, mut after) = (0, None, 0);
    let mut visit = |found: Dumped| {
        match found {
            Dumped::Hole { offset, bytes, .. } => hole = Some((offset, bytes)),
            Dumped::Record(_) if hole.is_none() => before += 1,
            Dumped::Record(_) => after += 1,
        }
        ControlFlow::Continue(())
    };
    inspection.records(&RecordFilter::default(), &mut visit).unwrap();
    assert_eq!(hole, Some((8192, 4096)));
    assert!(before == 3 && after > 30, "{before} {after}");
}

#[test]
fn a_log_in_use_is_refused_and_one_that_is_looked_at_is_not_opened() {
    let disk = long_log();
    let opened = open_with(&disk, &tiny()).unwrap();
    let refused = Log::inspect_on(disk.clone()).err();
    assert!(matches!(refused, Some(OpenError::Locked { .. })), "{refused:?}");
    drop(opened);
    let looked_at = Log::inspect_on(disk.clone()).unwrap();
    assert!(matches!(open_with(&disk, &tiny()).err(), Some(OpenError::Locked { .. })));
    drop(looked_at);
    open_with(&disk, &tiny()).unwrap();
}

#[test]
fn a_directory_that_cannot_be_written_is_looked_at_and_shared() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let options = raft_storage::InitOptions::default();
    raft_storage::init(dir.path(), "test", raft_core::NodeId::new(1), &options).unwrap();
    let expected = raft_storage::Expected::default();
    let mut opened = Log::open(dir.path(), &expected, &tiny()).unwrap();
    assert!(matches!(Log::inspect(dir.path()).err(), Some(OpenError::Locked { .. })));
    opened.writer.append(&[create(1), append(1, 1, 3, 1)]).unwrap();
    opened.writer.close().unwrap();
    let mode =
        |mode| std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(mode)).unwrap();
    std::fs::remove_file(dir.path().join("lock")).unwrap();
    mode(0o555);
    let first = Log::inspect(dir.path()).unwrap();
    let second = Log::inspect(dir.path()).unwrap();
    for inspection in [first, second] {
        let verified = inspection.verify().unwrap();
        assert!(verified.is_sound() && verified.entries == 3, "{verified:?}");
    }
    mode(0o755);
    assert!(!dir.path().join("lock").exists());
    let none = dir.path().join("none");
    assert!(matches!(Log::inspect(&none).err(), Some(OpenError::NotInitialised { .. })));
}
