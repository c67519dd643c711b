//! The log without Raft: streams that keep what was committed, and nothing else.

mod common;

use std::collections::BTreeMap;

use bytes::Bytes;
use common::{Random, new_disk, options, tiny};
use raft_storage::journal::{
    Batch, Journal, JournalError, JournalOpenError, JournalReadError, Position, StreamId,
};
use raft_storage::{
    CrashPolicy, ENTRY_BYTES_MAX, Fault, InitOptions, LogOptions, MemDisk, OpenError,
    SPEC_BYTES_MAX, StoreId,
};

/// What a journal should hold: of each stream its description, its first position and its records.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct Model(BTreeMap<StreamId, (Bytes, u64, Vec<Bytes>)>);

impl Model {
    fn of(journal: &Journal) -> Self {
        let reader = journal.reader();
        let streams = journal.streams().map(|(id, info)| {
            assert_eq!(reader.bounds(id).unwrap(), (info.first, info.next));
            let mut records = Vec::new();
            let mut from = info.first;
            while from < info.next {
                // A few at a time, so that a read goes on where the last one ended.
                let read = reader.read(id, from, 300).unwrap();
                assert!(!read.is_empty() && read[0].position == from);
                records.extend(read.iter().map(|record| record.payload.clone()));
                from = read.last().unwrap().position.next();
            }
            (id, (info.description.clone(), info.first.get(), records))
        });
        Self(streams.collect())
    }
}

fn journal_disk() -> MemDisk {
    let disk = MemDisk::new();
    let options = InitOptions { store: Some(StoreId::new(0x5eed)) };
    Journal::create_on(&disk, "test", &options).unwrap();
    disk
}

fn open(disk: &MemDisk) -> Journal {
    Journal::open_on(disk.clone(), "test", &tiny()).unwrap()
}

const A: StreamId = StreamId::new(0);
const B: StreamId = StreamId::new(u32::MAX);

#[test]
fn a_batch_takes_effect_in_order_and_is_there_after_a_power_cut() {
    let disk = journal_disk();
    let mut journal = open(&disk);
    let mut batch = Batch::new();
    batch.create(A, "a").append(A, "1").create(B, "").append(A, "2").append(B, "").append(A, "3");
    batch.trim_before(A, Position::new(3)).append(A, "4");
    let positions = journal.commit(batch).unwrap();
    assert_eq!(positions.iter().map(|at| at.get()).collect::<Vec<_>>(), [1, 2, 1, 3, 4]);
    let mut batch = Batch::new();
    batch.append(B, "lost");
    journal.write(batch).unwrap();
    assert_eq!(journal.reader().durable_before(B).unwrap(), Position::new(2));
    assert_eq!(journal.reader().bounds(B).unwrap().1, Position::new(3));

    let journal = open(&disk.crash(CrashPolicy::DropUnsynced));
    let found = Model::of(&journal);
    let expected =
        [(A, ("a".into(), 3, vec!["3".into(), "4".into()])), (B, ("".into(), 1, vec!["".into()]))];
    assert_eq!(found, Model(expected.into()));
}

#[test]
fn what_is_refused_changes_nothing_and_says_why() {
    let disk = journal_disk();
    let mut journal = open(&disk);
    let mut batch = Batch::new();
    batch.create(A, "a").append(A, "1");
    journal.commit(batch).unwrap();
    let before = Model::of(&journal);
    // Each begins with something that would be fine.
    let refused = |journal: &mut Journal, ask: &dyn Fn(&mut Batch)| {
        let mut batch = Batch::new();
        batch.append(A, "2").create(B, "b");
        ask(&mut batch);
        let refused = journal.commit(batch).unwrap_err();
        assert_eq!(Model::of(journal), before, "{refused}");
        refused
    };
    let no = StreamId::new(9);
    let unknown = refused(&mut journal, &|batch| {
        batch.append(no, "x");
    });
    assert!(matches!(unknown, JournalError::UnknownStream { stream } if stream == no));
    let removed = refused(&mut journal, &|batch| {
        batch.remove(A).trim_before(A, Position::FIRST);
    });
    assert!(matches!(removed, JournalError::UnknownStream { stream: A }));
    let exists = refused(&mut journal, &|batch| {
        batch.create(B, "again");
    });
    assert!(matches!(exists, JournalError::StreamExists { stream: B }));
    let beyond = refused(&mut journal, &|batch| {
        batch.trim_before(A, Position::new(4));
    });
    let next = Position::new(3);
    assert!(matches!(beyond, JournalError::TrimBeyondEnd { next: found, .. } if found == next));
    let long = Bytes::from(vec![0; ENTRY_BYTES_MAX as usize + 1]);
    let too_large = refused(&mut journal, &|batch| {
        batch.append(B, long.clone());
    });
    assert!(matches!(too_large, JournalError::RecordTooLarge { stream: B, .. }));
    let too_large = refused(&mut journal, &|batch| {
        batch.remove(A).create(A, long.slice(..=SPEC_BYTES_MAX as usize));
    });
    assert!(matches!(too_large, JournalError::DescriptionTooLarge { stream: A, .. }));

    let reader = journal.reader();
    let read = |from| reader.read(A, Position::new(from), 1000);
    assert!(matches!(read(0), Err(JournalReadError::Trimmed { first: Position::FIRST, .. })));
    assert!(read(2).unwrap().is_empty(), "there may be more some time");
    assert!(matches!(read(3), Err(JournalReadError::BeyondEnd { .. })));
    assert!(matches!(reader.bounds(B), Err(JournalReadError::UnknownStream { stream: B })));
}

#[test]
fn a_stream_that_is_made_again_begins_anew_and_its_former_records_stay_gone() {
    let disk = journal_disk();
    let mut journal = open(&disk);
    for round in 0..3 {
        let mut batch = Batch::new();
        batch.create(A, format!("life {round}")).append(A, "old").append(A, "old");
        batch.remove(A).create(A, "twice in a batch").append(A, format!("new {round}"));
        let positions = journal.commit(batch).unwrap();
        assert_eq!(positions.last(), Some(&Position::FIRST));
        let record = Bytes::from(format!("new {round}"));
        let expected = Model([(A, ("twice in a batch".into(), 1, vec![record]))].into());
        assert_eq!(Model::of(&journal), expected);
        drop(journal);
        journal = open(&disk.crash(CrashPolicy::DropUnsynced));
        assert_eq!(Model::of(&journal), expected);
        // The crashed image is a disk of its own; this one goes on.
        drop(journal);
        journal = open(&disk);
        let mut batch = Batch::new();
        batch.remove(A);
        journal.commit(batch).unwrap();
        assert_eq!(journal.streams().count(), 0);
        assert!(journal.stream(A).is_none());
    }
}

#[test]
fn a_directory_says_whose_it_is() {
    let disk = journal_disk();
    let other = Journal::open_on(disk.clone(), "other", &tiny());
    let Err(JournalOpenError::ForeignJournal { expected, found, .. }) = other else {
        panic!("opened")
    };
    assert_eq!((expected.as_str(), found.as_str()), ("other", "test"));
    let node = Journal::open_on(new_disk(), "test", &tiny());
    assert!(
        matches!(node, Err(JournalOpenError::NotAJournal { cluster, .. }) if cluster == "test")
    );
    let none = Journal::open_on(MemDisk::new(), "test", &tiny());
    let uninitialised = OpenError::NotInitialised { dir: String::new() };
    assert!(matches!(none, Err(JournalOpenError::Open(error))
        if std::mem::discriminant(&error) == std::mem::discriminant(&uninitialised)));
    let options = InitOptions::default();
    for name in [String::new(), "x".repeat(248)] {
        let unnamed = Journal::create_on(&MemDisk::new(), &name, &options);
        assert!(matches!(unnamed, Err(JournalOpenError::Name { .. })));
    }
    let long = "x".repeat(247);
    let disk = MemDisk::new();
    Journal::create_on(&disk, &long, &options).unwrap();
    Journal::open_on(disk, &long, &tiny()).unwrap();
}

/// What a history may do next, with what it makes of the model.
fn next_batch(random: &mut Random, model: &mut Model) -> Batch {
    let mut batch = Batch::new();
    for _ in 0..=random.below(5) {
        let id = StreamId::new(random.below(5) as u32);
        let Some((_, first, records)) = model.0.get_mut(&id) else {
            let description = random.bytes(9);
            batch.create(id, description.clone());
            model.0.insert(id, (description, 1, Vec::new()));
            continue;
        };
        match random.below(12) {
            0 => {
                batch.remove(id);
                model.0.remove(&id);
            }
            1..=3 => {
                let gone = random.below(records.len() as u64 + 1);
                records.drain(..gone as usize);
                *first += gone;
                batch.trim_before(id, Position::new(*first));
            }
            _ => {
                let length = [0, 1, 200, 1_500][random.below(4) as usize];
                let payload = random.bytes(length);
                records.push(payload.clone());
                batch.append(id, payload);
            }
        }
    }
    batch
}

#[test]
fn random_histories_keep_what_was_committed_through_power_cuts_at_any_operation() {
    for seed in 0..100 {
        let mut random = Random(seed);
        let mut disk = journal_disk();
        let mut model = Model::default();
        for _ in 0..4 {
            let mut journal = open(&disk);
            assert_eq!(Model::of(&journal), model, "seed {seed}");
            disk.fail_at(disk.operations() + random.below(120), Fault::PowerCut);
            // What was committed, and what may be there beside it.
            let (mut states, mut committed) = (vec![model.clone()], 0);
            while states.len() < 60 {
                let mut next = states[states.len() - 1].clone();
                let batch = next_batch(&mut random, &mut next);
                states.push(next);
                let is_commit = random.below(3) > 0;
                let done = match is_commit {
                    true => journal.commit(batch),
                    false => journal.write(batch),
                };
                match done {
                    Ok(_) if is_commit => committed = states.len() - 1,
                    Ok(_) => {}
                    Err(JournalError::Failed(_) | JournalError::Full { .. }) => break,
                    Err(refused) => panic!("seed {seed}: {refused}"),
                }
                if random.below(4) == 0 && journal.rest().is_err() {
                    break;
                }
            }
            drop(journal);
            disk = disk.crash(CrashPolicy::RandomSectors { seed: random.next() });
            model = Model::of(&open(&disk));
            let at = states.iter().rposition(|state| *state == model);
            assert!(at >= Some(committed), "seed {seed}: {at:?}, committed {committed}");
        }
    }
}

#[test]
fn a_full_disk_refuses_records_whole_takes_trims_and_goes_on_by_itself() {
    let disk = journal_disk();
    // The reserve is an eighth of a segment.
    let options = options();
    let mut journal = Journal::open_on(disk.clone(), "test", &options).unwrap();
    let mut batch = Batch::new();
    batch.create(A, "a");
    journal.commit(batch).unwrap();
    disk.limit_bytes(Some(disk.bytes() + (256 << 10)));
    let mut written = 0;
    let append = |journal: &mut Journal| {
        let mut batch = Batch::new();
        batch.append(A, vec![7; 1_000]);
        journal.commit(batch)
    };
    let full = loop {
        match append(&mut journal) {
            Ok(_) => written += 1,
            Err(full) => break full,
        }
    };
    assert!(matches!(full, JournalError::Full { .. }) && written > 30, "{written}: {full}");
    let end = Position::new(written + 1);
    assert_eq!(journal.stream(A).unwrap().next, end, "nothing of it was taken");
    let mut trim = Batch::new();
    trim.trim_before(A, end);
    journal.commit(trim).unwrap();
    // Room comes back by tidying up, without an open.
    let mut rests = 0;
    while append(&mut journal).is_err() {
        rests += 1;
        assert!(rests < 1_000, "room never came back");
        journal.rest().unwrap();
    }
    drop(journal);
    let crashed = disk.crash(CrashPolicy::DropUnsynced);
    let journal = Journal::open_on(crashed, "test", &options).unwrap();
    let info = journal.stream(A).unwrap();
    assert_eq!((info.first, info.next), (end, end.next()));
}

#[test]
fn a_journal_that_is_trimmed_stays_short_though_one_stream_is_never_touched() {
    let disk = journal_disk();
    let mut journal = open(&disk);
    let mut batch = Batch::new();
    batch.create(A, "idle").append(A, "stays").create(B, "busy");
    journal.commit(batch).unwrap();
    let mut longest = 0;
    for round in 0..4_000_u64 {
        let mut batch = Batch::new();
        batch.append(B, vec![round as u8; 500]);
        batch.trim_before(B, Position::new((round + 2).saturating_sub(20).max(1)));
        journal.commit(batch).unwrap();
        longest = longest.max(disk.bytes());
    }
    // 20 records are alive. Written were 16 MiB, in blocks of 4 KiB.
    assert!(longest < 512 << 10, "{longest} bytes");
    assert_eq!(&journal.reader().read(A, Position::FIRST, 1).unwrap()[0].payload[..], b"stays");
    assert!(journal.stats().segments_reused > 100);
}

#[cfg(unix)]
#[test]
fn the_same_on_real_files_with_readers_on_other_threads() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("journal");
    Journal::create(&dir, "files").unwrap();
    let mut journal = Journal::open(&dir, "files", &LogOptions::default()).unwrap();
    let second = Journal::open(&dir, "files", &LogOptions::default());
    assert!(matches!(second, Err(JournalOpenError::Open(OpenError::Locked { .. }))));
    let mut batch = Batch::new();
    batch.create(A, "a");
    journal.commit(batch).unwrap();
    let reader = journal.reader();
    std::thread::scope(|scope| {
        let tailing = scope.spawn(move || {
            let mut next = Position::FIRST;
            while next < Position::new(501) {
                for record in reader.read(A, next, 4096).unwrap() {
                    assert_eq!(record.payload, format!("record {next}"));
                    next = next.next();
                }
                std::thread::yield_now();
            }
        });
        for round in 0..100_u64 {
            let mut batch = Batch::new();
            for at in 1..=5 {
                batch.append(A, format!("record {}", 5 * round + at));
            }
            journal.commit(batch).unwrap();
        }
        tailing.join().unwrap();
    });
    journal.close().unwrap();
    let journal = Journal::open(&dir, "files", &LogOptions::default()).unwrap();
    assert_eq!(journal.stream(A).unwrap().next, Position::new(501));
}
