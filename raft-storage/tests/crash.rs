//! Crashes: what was synced survives every one of them, what was not is gone as a suffix.

mod common;

use std::sync::Arc;

use common::*;
use raft_core::{EntryKind, HardState, LogIndex, NodeId, Promise, PromiseRecord, ReplicaId, Term};
use raft_storage::{
    CrashPolicy, DiskOp, Fault, GroupWrite, InitError, InitOptions, LiveEntries, LogError,
    LogOptions, MemDisk, OpenError, Opened, StoreId, TornTail, init_on,
};

/// A log with one synced batch and one that is only written, and the two states.
fn half_synced() -> (MemDisk, Model, Model, u64) {
    let disk = new_disk();
    let mut opened = open(&disk);
    let first = [create(1), create(2), append(1, 1, 3, 1)];
    opened.writer.append(&first).unwrap();
    opened.writer.sync().unwrap();
    let mut before = Model::default();
    before.apply(&first);
    let mut vote = append(1, 4, 2, 2);
    vote.hard_state = Some(HardState { term: Term::new(2), vote: Some(ReplicaId::new(3)) });
    let mut begins_anew = append(2, 8, 1, 2);
    begins_anew.install = Some(snapshot(7, 2, 3));
    let mut shorter = GroupWrite::new(group(1));
    shorter.compact = Some(compaction(2, 1, 3));
    shorter.promise = Some(PromiseRecord { promise: Promise::Lost, loss_epoch: 4 });
    let second = [vote, begins_anew, shorter];
    let info = opened.writer.append(&second).unwrap();
    let mut after = before.clone();
    after.apply(&second);
    (disk, before, after, info.bytes)
}

#[test]
fn a_batch_cut_at_every_byte_is_there_whole_or_not_at_all() {
    let (disk, before, after, bytes) = half_synced();
    let mut whole = 0;
    for cut in 0..=bytes {
        let crashed = disk.crash(CrashPolicy::Prefix { bytes: cut });
        let mut opened = open(&crashed);
        let found = Model::of(&opened);
        if found == after {
            whole += 1;
        } else {
            assert_eq!(found, before, "cut at {cut}");
            let torn = opened.report.torn_tail;
            // What was written may happen to be zeros only at its very beginning.
            assert!(cut == 0 || matches!(torn, Some(TornTail { blocks: 1, .. })), "cut at {cut}");
        }
        // The log goes on behind the cut, and a further crash does not bring the rest back.
        let held = &found.groups[&group(2)];
        let next = [append(2, held.base.index.get() + held.entries.len() as u64 + 1, 1, 7)];
        opened.writer.append(&next).unwrap();
        opened.writer.sync().unwrap();
        let mut expected = found;
        expected.apply(&next);
        let again = open(&crashed.crash(CrashPolicy::DropUnsynced));
        assert_eq!(Model::of(&again), expected, "cut at {cut}");
        assert_eq!(again.report.torn_tail, None);
    }
    // Only the zeros of the padding may be missing without harm.
    assert!(whole > 1 && whole < bytes);
}

#[test]
fn a_power_cut_at_every_operation_of_many_rotations_loses_nothing_synced() {
    let policies = [
        CrashPolicy::DropUnsynced,
        CrashPolicy::KeepAll,
        CrashPolicy::RandomSectors { seed: 1 },
        CrashPolicy::RandomSectors { seed: 2 },
        CrashPolicy::RandomSectors { seed: 3 },
    ];
    for operation in 0.. {
        let disk = new_disk();
        disk.fail_at(operation, Fault::PowerCut);
        let (states, synced, finished) = run_until_failure(&disk, &tiny());
        for policy in policies {
            let crashed = disk.crash(policy);
            let mut opened = open_with(&crashed, &tiny())
                .unwrap_or_else(|error| panic!("operation {operation}, {policy:?}: {error:?}"));
            let found = Model::of(&opened);
            let at = states.iter().rposition(|state| *state == found);
            assert!(at >= Some(synced), "operation {operation}, {policy:?}: {at:?} {synced}");
            opened.writer.append(&[create(77)]).unwrap();
            opened.writer.sync().unwrap();
            let again = open_with(&crashed.crash(CrashPolicy::DropUnsynced), &tiny()).unwrap();
            assert_eq!(again.groups.len(), found.groups.len() + 1);
        }
        if finished {
            println!("{operation} operations");
            assert!(operation > 60);
            return;
        }
    }
}

#[test]
fn after_any_failed_operation_a_new_process_on_the_same_machine_builds_on_what_is_on_the_disk() {
    for operation in 0.. {
        let disk = new_disk();
        disk.fail_at(operation, Fault::Error);
        let (states, synced, finished) = run_until_failure(&disk, &tiny());
        if finished {
            assert!(operation > 60);
            return;
        }
        // The page cache outlives the process, and shows what the failed sync has lost.
        let mut opened = open_with(&disk, &tiny())
            .unwrap_or_else(|error| panic!("operation {operation}: {error:?}"));
        let found = Model::of(&opened);
        let at = states.iter().rposition(|state| *state == found);
        assert!(at >= Some(synced), "operation {operation}: {at:?} {synced}");
        opened.writer.append(&[create(77)]).unwrap();
        opened.writer.sync().unwrap();
        let again = open_with(&disk.crash(CrashPolicy::DropUnsynced), &tiny())
            .unwrap_or_else(|error| panic!("operation {operation}, power cut: {error:?}"));
        assert_eq!(again.groups.len(), found.groups.len() + 1, "operation {operation}");
    }
}

/// Appends, syncs and commits until the disk fails. Returns the state after each batch, how many of them
/// were synced for sure, and whether nothing failed.
fn run_until_failure(disk: &MemDisk, options: &LogOptions) -> (Vec<Model>, usize, bool) {
    let mut states = vec![Model::default()];
    let mut synced = 0;
    let Ok(mut opened) = open_with(disk, options) else {
        return (states, synced, false);
    };
    for round in 0..14_u64 {
        let mut batch = vec![append(1, round + 1, 1, 1)];
        if round == 0 {
            batch.insert(0, create(1));
        }
        if round % 5 == 4 {
            // A segment of its own.
            batch[0].entries[0] = entry(round + 1, 1, 30_000);
        }
        let mut state = states[states.len() - 1].clone();
        state.apply(&batch);
        // A batch that failed half-way may still be found.
        states.push(state);
        // A commit behind what is not synced, and one behind what is.
        let done = match round % 4 {
            0 => opened.writer.append(&batch).map(drop),
            1 | 2 => opened.writer.commit(&batch).map(drop),
            _ => opened.writer.append(&batch).and_then(|_| opened.writer.sync()).map(drop),
        };
        if done.is_err() {
            return (states, synced, false);
        }
        if round % 4 != 0 {
            synced = states.len() - 1;
        }
    }
    (states, synced, true)
}

#[test]
fn a_failed_sync_poisons_the_writer_for_good() {
    let (disk, _, _, _) = half_synced();
    let crashed = disk.crash(CrashPolicy::DropUnsynced);
    let mut opened = open(&crashed);
    opened.writer.append(&[append(1, 4, 1, 1)]).unwrap();
    crashed.fail_at(0, Fault::Error);
    let failed = opened.writer.sync();
    assert!(matches!(failed, Err(LogError::Io { op: DiskOp::Sync, .. })));
    assert!(opened.writer.is_poisoned());
    let operations = crashed.operations();
    let poisoned = |outcome: Result<(), LogError>| {
        assert!(matches!(outcome, Err(LogError::Poisoned { op: DiskOp::Sync, .. })));
    };
    poisoned(opened.writer.sync().map(drop));
    poisoned(opened.writer.append(&[append(1, 5, 1, 1)]).map(drop));
    poisoned(opened.writer.idle());
    assert_eq!(opened.reader.durable_index(group(1)).map(|index| index.get()), Some(3));
    poisoned(opened.writer.close());
    assert_eq!(crashed.operations(), operations, "a poisoned writer leaves the disk alone");
}

#[test]
fn a_failed_write_poisons_the_writer_for_good() {
    let disk = new_disk();
    let mut opened = open(&disk);
    opened.writer.append(&[create(1)]).unwrap();
    disk.fail_at(0, Fault::Error);
    let failed = opened.writer.append(&[append(1, 1, 1, 1)]);
    assert!(matches!(failed, Err(LogError::Io { op: DiskOp::Write, .. })));
    assert!(matches!(opened.writer.sync(), Err(LogError::Poisoned { op: DiskOp::Write, .. })));
    assert_eq!(opened.reader.last_index(group(1)).map(|index| index.get()), Some(0));
}

#[test]
fn a_segment_that_cannot_be_made_leaves_the_log_unchanged_and_may_be_tried_again() {
    let disk = new_disk();
    let mut opened = open_with(&disk, &tiny()).unwrap();
    opened.writer.append(&[create(1), append(1, 1, 1, 1)]).unwrap();
    let mut large = GroupWrite::new(group(1));
    large.entries.push(entry(2, 1, 50_000));
    disk.fail_at(0, Fault::Error);
    assert!(matches!(opened.writer.append(&[large.clone()]), Err(LogError::NoSegment { .. })));
    assert!(!opened.writer.is_poisoned());
    opened.writer.append(&[large]).unwrap();
    opened.writer.sync().unwrap();
    drop(opened);
    assert_eq!(open_with(&disk, &tiny()).unwrap().groups[&group(1)].last_index.get(), 2);
}

#[test]
fn random_histories_of_crashes_keep_what_was_synced_and_lose_only_a_suffix() {
    // More of them, from another seed on: `cargo xtask crashes`.
    let number = |name, default| match std::env::var(name) {
        Ok(number) => number.parse().expect("a number"),
        Err(_) => default,
    };
    let base: u64 = number("RAFT_CRASH_FIRST", 0xC0FF_EE00);
    let rounds = number("RAFT_CRASH_HISTORIES", if cfg!(debug_assertions) { 150 } else { 1500 });
    for seed in base..base + rounds {
        println!("seed {seed:#x}");
        random_history(seed);
    }
}

/// So much fits into a frame of the smallest segments, with all that is beside it.
const ONE_FRAME: u64 = 10 << 10;

fn random_history(seed: u64) {
    let mut random = Random(seed);
    let mut disk = new_disk();
    // The state after every batch that may be found, the oldest one being durable.
    let mut states = vec![Model::default()];
    for life in 1..=6 {
        let options = if random.below(2) == 0 { tiny() } else { options() };
        let mut opened = open_with(&disk, &options).unwrap();
        assert_eq!(opened.incarnation.get(), life);
        let found = Model::of(&opened);
        assert!(states.contains(&found), "seed {seed:#x}, life {life}");
        states = vec![found];
        if random.below(4) == 0 {
            let fault = if random.below(2) == 0 { Fault::Error } else { Fault::PowerCut };
            disk.fail_at(random.below(30), fault);
        }
        let batches = if random.below(4) == 0 { 60 } else { 12 };
        for _ in 0..random.below(batches) {
            let (batch, state) = random_batch(&mut random, &states[states.len() - 1]);
            let (written, sound) = in_pieces(&mut random, &mut opened, &batch);
            if !sound {
                break;
            }
            // Of what takes more than one frame a crash may leave a part; not looked at here. A list of
            // tiny pieces is longer than what is in them.
            if written.iter().map(GroupWrite::cost).sum::<u64>() > ONE_FRAME {
                continue;
            }
            match opened.writer.append(&written) {
                Ok(info) => {
                    assert!(info.frames <= 1);
                    states.push(state);
                }
                Err(LogError::NoSegment { .. }) => {}
                Err(_) => {
                    states.push(state);
                    break;
                }
            }
            match random.below(5) {
                0 | 1 => match opened.writer.sync() {
                    Ok(info) => {
                        assert_eq!(info.durable_lsn, opened.writer.durable_lsn());
                        states.drain(..states.len() - 1);
                    }
                    Err(_) => break,
                },
                2 if opened.writer.idle().is_err() => break,
                _ => {}
            }
            // Housekeeping comes at any moment, and changes nothing of what is held.
            let idle = random.below(3) == 0;
            if (0..random.below(6)).any(|_| opened.writer.tend(idle).is_err()) {
                break;
            }
            states[states.len() - 1].is_read_by(&opened.reader);
        }
        if random.below(5) == 0 && opened.writer.close().is_ok() {
            states.drain(..states.len() - 1);
        }
        let policy = match random.below(4) {
            0 => CrashPolicy::DropUnsynced,
            1 => CrashPolicy::KeepAll,
            2 => CrashPolicy::RandomSectors { seed: random.next() },
            _ => CrashPolicy::Prefix { bytes: random.below(20_000) },
        };
        disk = disk.crash(policy);
    }
}

/// The batch with some payloads written in pieces ahead of it; `false`: the disk failed at one.
fn in_pieces(
    random: &mut Random,
    opened: &mut Opened<MemDisk>,
    batch: &[GroupWrite],
) -> (Vec<GroupWrite>, bool) {
    let mut batch = batch.to_vec();
    for write in &mut batch {
        let commands = write.entries.iter().filter(|entry| entry.kind == EntryKind::Command);
        let chosen: Vec<_> = commands.filter(|_| random.below(4) == 0).cloned().collect();
        for entry in chosen {
            let mut pieces = Vec::new();
            let step = 1 + random.below(entry.payload.len() as u64) as usize;
            for at in (0..entry.payload.len()).step_by(step) {
                let piece = entry.payload.slice(at..(at + step).min(entry.payload.len()));
                match opened.writer.append_piece(write.group, &piece) {
                    Ok((_, piece)) => pieces.push(piece),
                    // The group begins with this very batch, or there is no room: it goes whole.
                    Err(LogError::UnknownGroup { .. } | LogError::NoSegment { .. }) => {
                        pieces.clear();
                        break;
                    }
                    Err(_) => return (batch, false),
                }
            }
            if !pieces.is_empty() {
                write.put_in_pieces(entry.index, &pieces);
            }
        }
    }
    (batch, true)
}

/// Some of what is held up to an index once an operation has been done.
fn some_names(
    random: &mut Random,
    state: &Model,
    write: &GroupWrite,
    upto: u64,
) -> Arc<LiveEntries> {
    let mut state = state.clone();
    // What an install leaves is asked for before it is done.
    let mut before = write.clone();
    if before.live.is_none() {
        before.install = None;
    }
    state.apply(std::slice::from_ref(&before));
    let held = state.groups[&write.group].held(LogIndex::new(upto));
    let mut live = LiveEntries::default();
    for entry in held {
        if random.below(3) > 0 {
            // Terms of these histories may fall, which those of names never do.
            let _ = live.push(entry.index, entry.term);
        }
    }
    Arc::new(live)
}

fn random_batch(random: &mut Random, state: &Model) -> (Vec<GroupWrite>, Model) {
    let mut state = state.clone();
    let mut batch = Vec::new();
    for _ in 0..1 + random.below(4) {
        let id = random.below(5) as u32;
        let known = state.groups.get(&group(id));
        let life = known.map_or(0, |group| group.incarnation.get());
        let mut write = GroupWrite::new(group(id));
        let mut base = known.map_or(0, |group| group.base.index.get());
        let mut last = known.map_or(0, |group| base + group.entries.len() as u64);
        if known.is_none() || random.below(30) == 0 {
            write = create_again(id, life + 1);
            (base, last) = (0, 0);
        }
        let term = 1 + random.below(4);
        if random.below(12) == 0 {
            write.drop_fetched = true;
        }
        if random.below(8) == 0 {
            let first = 1 + random.below(last + 10);
            let count = 1 + random.below(3);
            // An entry of one index and term is the same everywhere.
            let term = term + 4;
            write.fetched = (first..first + count).map(|index| entry(index, term, 30)).collect();
        }
        if random.below(3) == 0 {
            let vote = (random.below(2) == 0).then(|| ReplicaId::new(random.next()));
            write.hard_state = Some(HardState { term: Term::new(term), vote });
        }
        if random.below(10) == 0 {
            let promise = if random.below(2) == 0 { Promise::Lost } else { Promise::Kept };
            write.promise = Some(PromiseRecord { promise, loss_epoch: random.next() as u32 });
        }
        if random.below(8) == 0 {
            base = last.max(1) + random.below(5);
            last = base;
            write.install = Some(snapshot(base, term, 1 + random.below(3)));
            write.live = Some(some_names(random, &state, &write, base));
        }
        if last > base && random.below(4) == 0 {
            last = base + random.below(last - base);
            write.truncate_from = Some(raft_core::LogIndex::new(last + 1));
        }
        for index in last + 1..last + 1 + random.below(4) {
            let bytes = [0, 7, 40, 500][random.below(4) as usize];
            write.entries.push(match random.below(6) {
                0 => config(index, term, 1 + random.below(5)),
                _ => entry(index, term, bytes),
            });
            last = index;
        }
        if last > 0 && random.below(5) == 0 {
            let upto = base + random.below(last - base + 1);
            if upto > 0 {
                write.live = Some(some_names(random, &state, &write, upto));
                write.compact = Some(compaction(upto, term, 1 + random.below(3)));
            }
        }
        state.apply(std::slice::from_ref(&write));
        batch.push(write);
    }
    (batch, state)
}

#[test]
fn what_a_process_crash_left_in_memory_is_durable_before_it_is_believed() {
    let (disk, _, after, _) = half_synced();
    // Only the process dies: the machine still holds the unsynced batch, and open finds it.
    let opened = open(&disk);
    assert_eq!(Model::of(&opened), after);
    drop(opened);
    // Then the machine dies as well.
    let again = open(&disk.crash(CrashPolicy::DropUnsynced));
    assert_eq!(Model::of(&again), after);
}

#[test]
fn every_open_begins_a_new_life_that_no_crash_takes_back() {
    let mut disk = new_disk();
    for life in 1..6 {
        let opened = open(&disk);
        assert_eq!(opened.incarnation.get(), life);
        // Power is lost before anything was written.
        disk = disk.crash(CrashPolicy::DropUnsynced);
    }
}

#[test]
fn a_power_cut_at_every_operation_of_init_leaves_nothing_or_a_whole_directory() {
    let policies = [
        CrashPolicy::DropUnsynced,
        CrashPolicy::KeepAll,
        CrashPolicy::RandomSectors { seed: 1 },
        CrashPolicy::RandomSectors { seed: 2 },
    ];
    let init = |disk: &MemDisk| {
        init_on(disk, "test", NodeId::new(1), &InitOptions { store: Some(StoreId::new(7)) })
    };
    for operation in 0.. {
        let disk = MemDisk::new();
        disk.fail_at(operation, Fault::PowerCut);
        let finished = init(&disk).is_ok();
        for policy in policies {
            let crashed = disk.crash(policy);
            match init(&crashed) {
                Ok(_) => assert!(!finished, "what init has reported is durable"),
                Err(InitError::AlreadyInitialised { .. }) => {}
                Err(other) => panic!("operation {operation}, {policy:?}: {other:?}"),
            }
            assert_eq!(open(&crashed).incarnation.get(), 1);
        }
        if finished {
            return;
        }
    }
}

#[test]
fn what_an_open_has_found_durable_needs_no_later_frame_to_be_missed() {
    let (disk, ..) = half_synced();
    // The last batch is followed by nothing; the open itself notes how far the log reached.
    drop(open(&disk));
    let name = "log-00000000.seg";
    let mut bytes = disk.read(name).unwrap();
    bytes[8192..].fill(0);
    disk.overwrite(name, &bytes);
    assert!(matches!(open_with(&disk, &options()), Err(OpenError::Corrupt { offset: 8192, .. })));
}

/// A log with two entries, synced.
fn whole() -> (MemDisk, Opened<MemDisk>) {
    let disk = new_disk();
    let mut opened = open(&disk);
    opened.writer.append(&[create(1), append(1, 1, 2, 1)]).unwrap();
    opened.writer.sync().unwrap();
    (disk, opened)
}

#[test]
fn a_commit_is_durable_when_it_returns_with_all_that_was_appended_before() {
    for before in 0..3 {
        let (disk, mut opened) = whole();
        for index in 0..before {
            opened.writer.append(&[append(1, 3 + index, 1, 1)]).unwrap();
        }
        let operations = disk.operations();
        let (info, sync) = opened.writer.commit(&[append(1, 3 + before, 1, 1)]).unwrap();
        // One call of the disk, where nothing else waits for a sync.
        assert_eq!(disk.operations() - operations, if before == 0 { 1 } else { 2 });
        assert_eq!((sync.durable_lsn, opened.writer.durable_lsn()), (info.end_lsn, info.end_lsn));
        assert_eq!(
            opened.reader.durable_index(group(1)).map(|index| index.get()),
            Some(3 + before)
        );
        let crashed = disk.crash(CrashPolicy::DropUnsynced);
        let last = open(&crashed).groups[&group(1)].last_index;
        assert_eq!(last.get(), 3 + before);
    }
}

#[test]
fn a_commit_of_several_frames_and_segments_is_durable_as_a_whole() {
    let disk = new_disk();
    let mut opened = open_with(&disk, &tiny()).unwrap();
    opened.writer.commit(&[create(1)]).unwrap();
    let mut write = GroupWrite::new(group(1));
    write.entries = (1..=12).map(|index| entry(index, 1, 3_000)).collect();
    let (info, _) = opened.writer.commit(&[write]).unwrap();
    assert!(info.frames > 2, "{} frames", info.frames);
    let crashed = disk.crash(CrashPolicy::DropUnsynced);
    let opened = open_with(&crashed, &tiny()).unwrap();
    assert_eq!(opened.groups[&group(1)].last_index.get(), 12);
}

#[test]
fn power_that_goes_during_a_commit_leaves_all_of_it_or_nothing() {
    let mut outcomes = [0; 2];
    for seed in 0..64 {
        let (disk, mut opened) = whole();
        disk.fail_at(0, Fault::PowerCut);
        assert!(opened.writer.commit(&[append(1, 3, 40, 1)]).is_err());
        let crashed = disk.crash(CrashPolicy::RandomSectors { seed });
        let last = open(&crashed).groups[&group(1)].last_index.get();
        assert!(last == 2 || last == 42, "seed {seed}: {last}");
        outcomes[usize::from(last == 42)] += 1;
    }
    assert!(outcomes[0] > 0, "{outcomes:?}");
}

#[test]
fn a_failed_commit_poisons_the_writer_for_good() {
    let (disk, mut opened) = whole();
    disk.fail_at(0, Fault::Error);
    let failed = opened.writer.commit(&[append(1, 3, 1, 1)]);
    assert!(matches!(failed, Err(LogError::Io { op: DiskOp::Commit, .. })), "{failed:?}");
    let operations = disk.operations();
    let again = opened.writer.sync();
    assert!(matches!(again, Err(LogError::Poisoned { op: DiskOp::Commit, .. })));
    assert!(opened.writer.commit(&[append(1, 3, 1, 1)]).is_err());
    assert_eq!(opened.reader.durable_index(group(1)).map(|index| index.get()), Some(2));
    assert_eq!(disk.operations(), operations, "a poisoned writer leaves the disk alone");
}
