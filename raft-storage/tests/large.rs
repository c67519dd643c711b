//! Large entries: in pieces ahead of the entry, so that nobody waits for all of them at once.

mod common;

use bytes::Bytes;
use common::*;
use raft_core::{Entry, LogIndex};
use raft_storage::{
    CrashPolicy, Fault, GroupWrite, LogError, LogOptions, MemDisk, Opened, Piece, Tending,
};

const PIECE: usize = 6_000;

/// Writes the payload ahead of its entry, one piece per sync, with something of another group between.
fn pieces_of(
    opened: &mut Opened<MemDisk>,
    id: u32,
    payload: &Bytes,
) -> Result<Vec<Piece>, LogError> {
    let mut pieces = Vec::new();
    for at in (0..payload.len()).step_by(PIECE) {
        let piece = payload.slice(at..(at + PIECE).min(payload.len()));
        pieces.push(opened.writer.append_piece(group(id), &piece)?.1);
        opened.writer.sync()?;
        opened.writer.tend(false)?;
    }
    Ok(pieces)
}

/// The entry as the log is given it.
fn large(id: u32, entry: &Entry, pieces: &[Piece]) -> GroupWrite {
    let mut write = GroupWrite::new(group(id));
    write.entries.push(entry.clone());
    write.put_in_pieces(entry.index, pieces);
    write
}

/// And as it is.
fn whole(id: u32, entry: &Entry) -> GroupWrite {
    let mut write = GroupWrite::new(group(id));
    write.entries.push(entry.clone());
    write
}

fn rest(opened: &mut Opened<MemDisk>) {
    while opened.writer.tend(true).unwrap() != Tending::Done {}
}

fn segments(disk: &MemDisk) -> usize {
    use raft_storage::Disk;
    disk.list().unwrap().iter().filter(|name| name.ends_with(".seg")).count()
}

#[test]
fn an_entry_in_pieces_is_longer_than_a_segment_and_comes_back_whole() {
    let disk = new_disk();
    let mut opened = open_with(&disk, &tiny()).unwrap();
    let mut model = Model::default();
    opened.writer.append(&[create(1), create(2)]).unwrap();
    model.apply(&[create(1), create(2)]);
    let big = entry(1, 1, 100_000);
    let pieces = pieces_of(&mut opened, 1, &big.payload).unwrap();
    assert_eq!(opened.reader.last_index(group(1)), Some(LogIndex::ZERO), "not before it is there");
    let writes = [large(1, &big, &pieces), append(2, 1, 1, 1)];
    opened.writer.commit(&writes).unwrap();
    model.apply(&[whole(1, &big), append(2, 1, 1, 1)]);
    model.is_read_by(&opened.reader);
    // Neighbours are read together, and what a read may cost counts the whole payload.
    opened.writer.append(&[append(1, 2, 3, 1)]).unwrap();
    model.apply(&[append(1, 2, 3, 1)]);
    opened.writer.sync().unwrap();
    let read = |max| opened.reader.entries(group(1), LogIndex::new(1), LogIndex::new(4), max);
    assert_eq!(read(90_000).unwrap().len(), 1);
    assert_eq!(read(200_000).unwrap().len(), 4);
    rest(&mut opened);
    drop(opened);
    for policy in [CrashPolicy::DropUnsynced, CrashPolicy::KeepAll] {
        assert_eq!(Model::of(&open_with(&disk.crash(policy), &tiny()).unwrap()), model);
    }
}

#[test]
fn a_piece_has_a_limit_and_a_group() {
    let disk = new_disk();
    let mut opened = open_with(&disk, &tiny()).unwrap();
    let piece = Bytes::from(vec![1; 20_000]);
    let refused = opened.writer.append_piece(group(1), &piece);
    assert!(matches!(refused, Err(LogError::UnknownGroup { .. })));
    opened.writer.append(&[create(1)]).unwrap();
    let bytes_max = opened.writer.large().piece_bytes_max;
    assert!(bytes_max < 16 << 10);
    let refused = opened.writer.append_piece(group(1), &piece);
    assert!(matches!(refused, Err(LogError::EntryTooLarge { .. })), "{refused:?}");
    let fitting = Bytes::from(vec![1; bytes_max as usize]);
    opened.writer.append_piece(group(1), &fitting).unwrap();
}

#[test]
fn a_crash_at_any_operation_leaves_an_entry_in_pieces_whole_or_not_at_all() {
    let big = entry(1, 1, 40_000);
    for operation in 0.. {
        let disk = new_disk();
        disk.fail_at(operation, Fault::PowerCut);
        let mut states = vec![Model::default()];
        let mut synced = 0;
        let mut finished = false;
        if let Ok(mut opened) = open_with(&disk, &tiny()) {
            let mut run = || -> Result<(), LogError> {
                let mut put =
                    |opened: &mut Opened<MemDisk>, given: &[GroupWrite], is: &[GroupWrite]| {
                        let mut state = states[states.len() - 1].clone();
                        state.apply(is);
                        states.push(state);
                        opened.writer.append(given)?;
                        opened.writer.sync()?;
                        synced = states.len() - 1;
                        Ok::<_, LogError>(())
                    };
                put(&mut opened, &[create(1), create(2)], &[create(1), create(2)])?;
                let pieces = pieces_of(&mut opened, 1, &big.payload)?;
                put(&mut opened, &[append(2, 1, 1, 1)], &[append(2, 1, 1, 1)])?;
                put(&mut opened, &[large(1, &big, &pieces)], &[whole(1, &big)])?;
                while opened.writer.tend(true)? != Tending::Done {}
                put(&mut opened, &[append(1, 2, 1, 1)], &[append(1, 2, 1, 1)])
            };
            finished = run().is_ok();
        }
        for policy in [
            CrashPolicy::DropUnsynced,
            CrashPolicy::KeepAll,
            CrashPolicy::RandomSectors { seed: operation },
        ] {
            let opened = open_with(&disk.crash(policy), &tiny())
                .unwrap_or_else(|error| panic!("operation {operation}, {policy:?}: {error:?}"));
            let found = Model::of(&opened);
            let at = states.iter().rposition(|state| *state == found);
            assert!(at >= Some(synced), "operation {operation}, {policy:?}: {at:?} {synced}");
        }
        if finished {
            assert!(operation > 40, "{operation}");
            return;
        }
    }
}

/// Segments of 64 KiB that a busy group turns over, with entries in pieces of a slow one.
#[test]
fn entries_in_pieces_are_moved_and_what_they_leave_comes_back() {
    let options = LogOptions { checkpoint_bytes: 64 << 10, ..options() };
    let disk = new_disk();
    let mut opened = open_with(&disk, &options).unwrap();
    let mut model = Model::default();
    opened.writer.append(&[create(1), create(2)]).unwrap();
    model.apply(&[create(1), create(2)]);
    let mut most = 0;
    for round in 0..1_500_u64 {
        let mut batch = vec![append(1, round * 4 + 1, 4, 1)];
        if round % 8 == 7 {
            let mut compact = GroupWrite::new(group(1));
            compact.compact = Some(compaction(round * 4 - 3, 1, 3));
            batch.push(compact);
        }
        opened.writer.append(&batch).unwrap();
        model.apply(&batch);
        if round % 100 == 50 {
            let big = entry(round / 100 + 1, 1, 11_000);
            let pieces = pieces_of(&mut opened, 2, &big.payload).unwrap();
            opened.writer.append(&[large(2, &big, &pieces)]).unwrap();
            model.apply(&[whole(2, &big)]);
        }
        opened.writer.sync().unwrap();
        opened.writer.tend(false).unwrap();
        most = most.max(segments(&disk));
    }
    rest(&mut opened);
    model.is_read_by(&opened.reader);
    // 165 KB are alive: six segments at most, four, and what waits for checkpoints.
    assert!(most <= 20 && segments(&disk) <= 16, "{most} {}", segments(&disk));
    assert!(opened.writer.stats().bytes_moved > 0);
    drop(opened);
    let opened = open_with(&disk.crash(CrashPolicy::DropUnsynced), &options).unwrap();
    assert_eq!(Model::of(&opened), model);
}
