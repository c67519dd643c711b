//! Entries that outlive the beginning of their group's log: they are written once, stay readable
//! whatever becomes of the log around them, survive every open and every crash, and give their space
//! back when nothing names them any more.

mod common;

use std::sync::Arc;

use common::*;
use raft_core::LogIndex;
use raft_storage::{
    CrashPolicy, Fault, GroupWrite, Large, LiveEntries, LogOptions, MemDisk, Opened, ReadError,
    Scrub, Tending,
};

fn write(opened: &mut Opened<MemDisk>, model: &mut Model, batch: &[GroupWrite]) {
    opened.writer.append(batch).unwrap();
    model.apply(batch);
    opened.writer.sync().unwrap();
    opened.writer.tend(false).unwrap();
}

/// Until there is nothing left to do.
fn rest(opened: &mut Opened<MemDisk>) {
    for _ in 0..20_000 {
        if opened.writer.tend(true).unwrap() == Tending::Done {
            return;
        }
    }
    panic!("housekeeping does not end");
}

fn segments(disk: &raft_storage::MemDisk) -> usize {
    use raft_storage::Disk;
    disk.list().unwrap().iter().filter(|name| name.ends_with(".seg")).count()
}

/// A list of names may be longer than a frame and than a segment: it costs what it takes, and is there
/// after a power cut.
#[test]
fn a_list_longer_than_a_segment_is_written_and_found_again() {
    let disk = new_disk();
    let mut opened = open_with(&disk, &tiny()).unwrap();
    let mut model = Model::default();
    write(&mut opened, &mut model, &[create(1)]);
    for round in 0..30 {
        write(&mut opened, &mut model, &[append(1, round * 100 + 1, 100, 1)]);
    }
    let list = compact(&model, 3_000, |index| index % 2 == 0);
    assert!(list.cost() > 16 << 10, "{}", list.cost());
    write(&mut opened, &mut model, &[list]);
    drop(opened);
    let again = open_with(&disk.crash(CrashPolicy::DropUnsynced), &tiny()).unwrap();
    assert_eq!(Model::of(&again), model);
}

/// The log of group 1 begins behind `upto`; of what is held, what `stays` stays.
fn compact(model: &Model, upto: u64, stays: impl Fn(u64) -> bool) -> GroupWrite {
    let held = model.groups[&group(1)].held(LogIndex::new(upto));
    let mut write = GroupWrite::new(group(1));
    write.compact = Some(compaction(upto, 1, 3));
    write.live = Some(names(held.into_iter().filter(|entry| stays(entry.index.get()))));
    write
}

#[test]
fn what_stays_is_moved_out_of_segments_that_are_nearly_empty_and_is_found_after_every_open() {
    let disk = new_disk();
    let mut opened = open_with(&disk, &tiny()).unwrap();
    let mut model = Model::default();
    write(&mut opened, &mut model, &[create(1), create(2)]);
    let mut most = 0;
    for round in 0..1_500_u64 {
        let mut batch = vec![append(1, round * 4 + 1, 4, 1 + round / 300)];
        if round % 8 == 7 {
            let mut after = model.clone();
            after.apply(&batch);
            // One in forty stays, for a thousand indexes.
            let upto = round * 4 - 3;
            let stays = |index: u64| index.is_multiple_of(40) && index + 1_000 > upto;
            batch.push(compact(&after, upto, stays));
        }
        write(&mut opened, &mut model, &batch);
        most = most.max(segments(&disk));
        if round % 500 == 250 {
            model.is_read_by(&opened.reader);
            drop(opened);
            opened = open_with(&disk, &tiny()).unwrap();
            assert_eq!(Model::of(&opened), model);
        }
    }
    assert_eq!(model.groups[&group(1)].kept.len(), 25);
    assert!(opened.writer.stats().bytes_moved > 0);
    rest(&mut opened);
    model.is_read_by(&opened.reader);
    assert!(segments(&disk) <= 10, "{} segments, {most} at most", segments(&disk));
    for policy in [CrashPolicy::DropUnsynced, CrashPolicy::KeepAll] {
        let mut opened = open_with(&disk.crash(policy), &tiny()).unwrap();
        assert_eq!(Model::of(&opened), model);
        // And once nothing is named any more, nothing is held.
        let mut model = model.clone();
        let nothing = compact(&model, 5_990, |_| false);
        write(&mut opened, &mut model, &[nothing]);
        rest(&mut opened);
        assert!(model.groups[&group(1)].kept.is_empty());
        assert!(opened.writer.stats().live_bytes < 2_000);
        model.is_read_by(&opened.reader);
    }
}

#[test]
fn bodies_are_written_once_and_their_names_take_next_to_nothing() {
    let disk = new_disk();
    let mut opened = open(&disk);
    let mut model = Model::default();
    write(&mut opened, &mut model, &[create(1)]);
    let (mut written, mut bodies) = (0, 0);
    for round in 0..200_u64 {
        let mut batch = GroupWrite::new(group(1));
        batch.entries = (0..8).map(|at| entry(round * 8 + at + 1, 1, 2_000)).collect();
        bodies += 8 * 2_000;
        let mut batch = vec![batch];
        if round % 20 == 19 {
            let mut after = model.clone();
            after.apply(&batch);
            batch.push(compact(&after, round * 8, |_| true));
        }
        written += opened.writer.append(&batch).unwrap().bytes;
        model.apply(&batch);
        opened.writer.sync().unwrap();
        while opened.writer.tend(true).unwrap() == Tending::Now {}
    }
    model.is_read_by(&opened.reader);
    let moved = opened.writer.stats().bytes_moved;
    assert_eq!(moved, 0, "all of it lives: no segment is worth emptying");
    assert!(written < bodies * 11 / 10, "{written} bytes for {bodies}");
}

#[test]
fn a_large_entry_stays_with_all_its_pieces() {
    let large = Large { entry_bytes_min: 1 << 10, piece_bytes_max: 3_000 };
    let options = LogOptions { large, ..tiny() };
    let disk = new_disk();
    let mut opened = open_with(&disk, &options).unwrap();
    let mut model = Model::default();
    write(&mut opened, &mut model, &[create(1)]);
    for round in 0..60_u64 {
        let body = entry(round * 2 + 1, 1, 9_000);
        let chunks = body.payload.chunks(3_000).map(|chunk| body.payload.slice_ref(chunk));
        let pieces: Vec<_> =
            chunks.map(|piece| opened.writer.append_piece(group(1), &piece).unwrap().1).collect();
        let mut batch = GroupWrite::new(group(1));
        batch.entries = vec![body, entry(round * 2 + 2, 1, 40)];
        model.apply(std::slice::from_ref(&batch));
        batch.put_in_pieces(LogIndex::new(round * 2 + 1), &pieces);
        opened.writer.append(&[batch]).unwrap();
        opened.writer.sync().unwrap();
        if round % 4 == 3 {
            let stays = |index: u64| index.is_multiple_of(13) || index + 6 > round * 2;
            let batch = compact(&model, round * 2, stays);
            write(&mut opened, &mut model, &[batch]);
        }
        for _ in 0..4 {
            opened.writer.tend(true).unwrap();
        }
    }
    rest(&mut opened);
    model.is_read_by(&opened.reader);
    assert!(opened.writer.stats().bytes_moved > 0);
    let opened = open_with(&disk.crash(CrashPolicy::DropUnsynced), &options).unwrap();
    assert_eq!(Model::of(&opened), model);
    let kept = &model.groups[&group(1)].kept;
    let held = opened.reader.holding(group(1), &names(kept.values())).unwrap();
    assert!(held.missing.is_empty() && held.bytes > 9_000);
}

/// Fetches, installs, names and compacts until the disk fails.
fn until_failure(disk: &MemDisk) -> (Vec<Model>, usize, bool) {
    let mut states = vec![Model::default()];
    let mut synced = 0;
    let Ok(mut opened) = open_with(disk, &tiny()) else { return (states, synced, false) };
    for round in 0..16_u64 {
        let before = states[states.len() - 1].clone();
        let last = before
            .groups
            .get(&group(1))
            .map_or(0, |known| known.base.index.get() + known.entries.len() as u64);
        let mut write = append(1, last + 1, 3, 1 + round / 4);
        if round == 0 {
            write.create = create(1).create;
        }
        match round % 4 {
            1 => {
                write.fetched = vec![entry(last + 6, 1 + round / 4, 900)];
                write.fetched.push(entry(last + 9, 1 + round / 4, 40));
            }
            2 => {
                let held = before.groups[&group(1)].held(LogIndex::new(last + 10));
                let (index, term) = (last + 10, 1 + round / 4);
                write.install = Some(snapshot(index, term, 3));
                write.live =
                    Some(names(held.into_iter().filter(|entry| entry.index.get() % 3 > 0)));
                write.entries.clear();
            }
            3 => {
                let after = {
                    let mut after = before.clone();
                    after.apply(std::slice::from_ref(&write));
                    after
                };
                let compaction = compact(&after, last + 2, |index| index % 2 == 0);
                (write.compact, write.live) = (compaction.compact, compaction.live);
            }
            _ => {}
        }
        let mut state = before;
        state.apply(std::slice::from_ref(&write));
        states.push(state);
        if opened.writer.append(&[write]).is_err() || opened.writer.sync().is_err() {
            return (states, synced, false);
        }
        synced = states.len() - 1;
        for _ in 0..8 {
            match opened.writer.tend(true) {
                Ok(Tending::Done) => break,
                Ok(_) => {}
                Err(_) => return (states, synced, false),
            }
        }
    }
    (states, synced, true)
}

#[test]
fn a_power_cut_at_every_operation_loses_no_entry_that_a_synced_snapshot_names() {
    let policies = [
        CrashPolicy::DropUnsynced,
        CrashPolicy::KeepAll,
        CrashPolicy::RandomSectors { seed: 1 },
        CrashPolicy::RandomSectors { seed: 2 },
    ];
    for operation in 0.. {
        let disk = new_disk();
        disk.fail_at(operation, Fault::PowerCut);
        let (states, synced, finished) = until_failure(&disk);
        for policy in policies {
            let crashed = disk.crash(policy);
            let opened = open_with(&crashed, &tiny())
                .unwrap_or_else(|error| panic!("operation {operation}, {policy:?}: {error:?}"));
            let found = Model::of(&opened);
            let at = states.iter().rposition(|state| *state == found);
            assert!(at >= Some(synced), "operation {operation}, {policy:?}: {at:?} {synced}");
        }
        if finished {
            assert!(states.iter().any(|state| {
                state.groups.get(&group(1)).is_some_and(|known| known.kept.len() > 2)
            }));
            assert!(operation > 60, "{operation}");
            return;
        }
    }
}

#[test]
fn what_was_fetched_is_moved_and_survives_an_open_until_it_is_dropped() {
    let disk = new_disk();
    let mut opened = open_with(&disk, &tiny()).unwrap();
    let mut model = Model::default();
    write(&mut opened, &mut model, &[create(1), create(2)]);
    let mut fetch = GroupWrite::new(group(1));
    // The log holds entries of the same names, which are not the ones that were fetched.
    fetch.entries = (1..=4).map(|index| entry(index, 1, 40)).collect();
    write(&mut opened, &mut model, &[fetch]);
    for round in 0..400_u64 {
        if round % 20 == 0 {
            let first = 3 + round / 10;
            let mut fetch = GroupWrite::new(group(1));
            fetch.fetched = (first..first + 2).map(|index| entry(index, 1, 40)).collect();
            write(&mut opened, &mut model, &[fetch]);
        }
        let mut batch = vec![append(2, round * 4 + 1, 4, 1)];
        if round % 8 == 7 {
            let mut write = GroupWrite::new(group(2));
            write.compact = Some(compaction(round * 4 - 3, 1, 3));
            batch.push(write);
        }
        write(&mut opened, &mut model, &batch);
    }
    rest(&mut opened);
    model.is_read_by(&opened.reader);
    assert!(opened.writer.stats().bytes_moved > 0 && segments(&disk) <= 10);
    drop(opened);
    let mut opened = open_with(&disk, &tiny()).unwrap();
    assert_eq!(Model::of(&opened), model);
    assert_eq!(model.groups[&group(1)].fetched.len(), 40);
    let mut unwanted = GroupWrite::new(group(1));
    unwanted.drop_fetched = true;
    write(&mut opened, &mut model, &[unwanted]);
    model.is_read_by(&opened.reader);
    drop(opened);
    assert_eq!(Model::of(&open_with(&disk, &tiny()).unwrap()), model);
}

#[test]
fn an_empty_list_is_the_same_as_none() {
    let disk = new_disk();
    let mut opened = open(&disk);
    let mut model = Model::default();
    write(&mut opened, &mut model, &[create(1), append(1, 1, 9, 1)]);
    let mut batch = compact(&model, 5, |_| false);
    batch.live = Some(Arc::new(LiveEntries::default()));
    write(&mut opened, &mut model, &[batch.clone()]);
    batch.live = None;
    write(&mut opened, &mut model, &[batch]);
    assert!(opened.reader.live(group(1)).is_empty());
    drop(opened);
    assert_eq!(Model::of(&open(&disk)), model);
}

/// What a snapshot leaves in the log may be read by nobody for years, and its peers rot as well.
#[test]
fn a_scrub_reads_what_stays_from_before_the_beginning_of_a_log() {
    for step in [1, 3] {
        let disk = new_disk();
        let mut opened = open_with(&disk, &tiny()).unwrap();
        let mut model = Model::default();
        write(&mut opened, &mut model, &[create(1), create(2)]);
        for round in 0..10 {
            write(&mut opened, &mut model, &[append(1, round * 4 + 1, 4, 1 + round / 4)]);
        }
        let list = compact(&model, 38, |index| index % step == 0);
        write(&mut opened, &mut model, &[list]);
        let walk = |bytes_max: u64| {
            let (mut at, mut bytes, mut damaged) = (Scrub::default(), 0, Vec::new());
            loop {
                let scrubbed = opened.reader.scrub(at, bytes_max);
                bytes += scrubbed.bytes;
                damaged.extend(scrubbed.damage.map(|damage| match damage {
                    ReadError::Corrupt { index, .. } => index.get(),
                    other => panic!("{other:?}"),
                }));
                match scrubbed.next {
                    Some(next) => at = next,
                    None => return (bytes, damaged),
                }
            }
        };
        let all = model.groups[&group(1)].held(LogIndex::new(40));
        let all: u64 = all.into_iter().map(raft_core::Entry::cost).sum();
        for bytes_max in [1, 300, 1 << 20] {
            assert_eq!(walk(bytes_max), (all, vec![]), "each once, {bytes_max} at a time");
        }
        // The payloads of two of them rot; one that was let go of is nobody's loss.
        for index in [12, 13, 30] {
            let wanted = opened.reader.entry(group(1), LogIndex::new(index), term_of(index));
            let Ok(entry) = wanted else { continue };
            rot(&disk, &entry.payload);
        }
        let rotten: Vec<u64> = [12, 13, 30].into_iter().filter(|index| index % step == 0).collect();
        let (bytes, damaged) = walk(300);
        assert_eq!(damaged, rotten);
        assert!(bytes < all);
    }
}

/// Four entries of each round, four rounds of each term.
fn term_of(index: u64) -> raft_core::Term {
    raft_core::Term::new(1 + (index - 1) / 16)
}

/// A bit flips in what is written so.
fn rot(disk: &MemDisk, payload: &[u8]) {
    use raft_storage::Disk;
    for name in disk.list().unwrap().iter().filter(|name| name.ends_with(".seg")) {
        let mut bytes = disk.read(name).unwrap();
        if let Some(at) = bytes.windows(payload.len()).position(|all| all == payload) {
            bytes[at] ^= 1;
            disk.overwrite(name, &bytes);
            return;
        }
    }
    panic!("it is written nowhere");
}
