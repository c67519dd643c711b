//! Damage: always seen, never taken for a torn tail where something was promised.

mod common;

use common::*;
use raft_core::GroupId;
use raft_storage::{
    CrashPolicy, Damage, FrameFault, GroupWrite, MemDisk, OpenError, ReadError, StoreId,
    Unsupported, crc32c_append,
};

const FIRST: &str = "log-00000000.seg";

/// A synced log of a few frames whose last batch is covered by a sync marker.
fn promised_log() -> (MemDisk, Model, usize) {
    let disk = new_disk();
    let mut opened = open_with(&disk, &tiny()).unwrap();
    let mut model = Model::default();
    for batch in [vec![create(1), create(2)], vec![append(1, 1, 3, 1), append(2, 1, 1, 1)]] {
        opened.writer.append(&batch).unwrap();
        opened.writer.sync().unwrap();
        model.apply(&batch);
    }
    let end = opened.writer.end_lsn().get() as usize;
    opened.writer.idle().unwrap();
    drop(opened);
    (disk.crash(CrashPolicy::KeepAll), model, end)
}

#[test]
fn a_flipped_bit_anywhere_is_seen_and_cuts_nothing_that_was_promised() {
    let (disk, model, end) = promised_log();
    // The open itself notes how far the log reached; that note is left out here, so that the
    // frames have to prove it by themselves.
    let sound = disk.read(FIRST).unwrap();
    for at in 0..sound.len() {
        let copy = disk.crash(CrashPolicy::KeepAll);
        let mut bytes = sound.clone();
        bytes[at] ^= 1 << (at % 8);
        copy.overwrite(FIRST, &bytes);
        match open_with(&copy, &tiny()) {
            Err(OpenError::Corrupt { segment: 0, offset, why, .. }) => {
                assert!(at < end, "byte {at}");
                assert!(offset as usize <= at, "byte {at}");
                let expected = match at {
                    0..4096 => matches!(why, Damage::SegmentHeader),
                    _ => matches!(why, Damage::FrameLost { .. }),
                };
                assert!(expected, "byte {at}: {why:?}");
                // A refused open leaves everything as it was, so it is refused again.
                assert_eq!(copy.read(FIRST).unwrap(), bytes);
            }
            Err(other) => panic!("byte {at}: {other:?}"),
            Ok(opened) => {
                // The marker itself, or the blank space behind it: nothing was promised there.
                assert!(at >= end, "byte {at} was cut silently");
                assert_eq!(Model::of(&opened), model, "byte {at}");
                assert!(opened.report.torn_tail.is_some(), "byte {at}");
            }
        }
    }
}

#[test]
fn every_bit_of_the_frames_counts() {
    let (disk, _, end) = promised_log();
    let sound = disk.read(FIRST).unwrap();
    // All bits of both frames up to where their records end; the bytes in between are above.
    for range in [4096..4096 + 224, 8192..8192 + 400] {
        for bit in range.start * 8..range.end * 8 {
            let copy = disk.crash(CrashPolicy::KeepAll);
            let mut bytes = sound.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            copy.overwrite(FIRST, &bytes);
            assert!(bit / 8 < end);
            let outcome = open_with(&copy, &tiny());
            assert!(matches!(outcome, Err(OpenError::Corrupt { .. })), "bit {bit}");
        }
    }
}

#[test]
fn a_damaged_payload_names_its_group_and_no_other() {
    let (disk, model, _) = promised_log();
    let mut bytes = disk.read(FIRST).unwrap();
    // Group 2 was written last.
    let payload = &model.groups[&group(2)].entries[0].payload;
    let at = bytes.windows(payload.len()).rposition(|window| window == payload).unwrap();
    bytes[at] ^= 1;
    disk.overwrite(FIRST, &bytes);
    let Err(OpenError::Corrupt { groups, why, lsn, .. }) = open_with(&disk, &tiny()) else {
        panic!("damage was not seen")
    };
    assert_eq!(groups, Some(vec![group(2)]));
    assert!(matches!(why, Damage::FrameLost { fault: FrameFault::BodyChecksum, .. }));
    assert_eq!(lsn.map(|lsn| lsn.get()), Some(8192));
}

#[test]
fn a_read_of_a_damaged_entry_is_an_error_and_the_neighbours_are_not() {
    let disk = new_disk();
    let mut opened = open(&disk);
    let mut long = append(1, 1, 2, 1);
    long.entries.push(entry(3, 1, 3_000_000));
    opened.writer.append(&[create(1), create(2), long, append(2, 1, 1, 1)]).unwrap();
    let flip = |name: &str, payload: &[u8]| {
        let mut bytes = disk.read(name).unwrap();
        let at = bytes.windows(8).position(|window| window == &payload[..8]).unwrap();
        bytes[at + 5] ^= 4;
        disk.overwrite(name, &bytes);
    };
    let read = |id: u32, index: u64| {
        let index = raft_core::LogIndex::new(index);
        opened.reader.entries(group(id), index, index, u64::MAX)
    };
    flip(FIRST, &entry(2, 1, 40).payload);
    flip("log-00000001.seg", &entry(3, 1, 3_000_000).payload);
    for index in [2, 3] {
        assert!(matches!(read(1, index), Err(ReadError::Corrupt { .. })), "{index}");
    }
    assert_eq!(read(1, 1).unwrap(), [entry(1, 1, 40)]);
    assert_eq!(read(2, 1).unwrap(), [entry(1, 1, 40)]);
}

#[test]
fn old_frames_behind_the_end_are_never_taken_for_new() {
    let disk = new_disk();
    let mut opened = open(&disk);
    opened.writer.append(&[create(1)]).unwrap();
    opened.writer.sync().unwrap();
    let tail = opened.writer.end_lsn().get() as usize;
    for index in 1..=4 {
        opened.writer.append(&[append(1, index, 1, 1)]).unwrap();
    }
    let old = disk.read(FIRST).unwrap();
    drop(opened);
    let disk = disk.crash(CrashPolicy::DropUnsynced);
    let mut opened = open(&disk);
    // The new frame has the size and the place of an old one.
    opened.writer.append(&[append(1, 1, 1, 2)]).unwrap();
    opened.writer.sync().unwrap();
    let expected = Model::of(&open(&disk.crash(CrashPolicy::KeepAll)));
    drop(opened);
    for stale in [tail + 4096, tail + 8192, tail + 12288] {
        let copy = disk.crash(CrashPolicy::KeepAll);
        let mut bytes = copy.read(FIRST).unwrap();
        // At its own place, and at the place where the next frame is expected.
        bytes[stale..stale + 4096].copy_from_slice(&old[stale..stale + 4096]);
        bytes[tail + 4096..tail + 8192].copy_from_slice(&old[stale..stale + 4096]);
        copy.overwrite(FIRST, &bytes);
        let opened = open(&copy);
        assert_eq!(Model::of(&opened), expected);
        assert!(opened.report.torn_tail.is_some());
        drop(opened);
        // And they are gone for good, not only skipped.
        assert!(copy.read(FIRST).unwrap()[tail + 4096..].iter().all(|byte| *byte == 0));
        assert_eq!(open(&copy).report.torn_tail, None);
    }
}

#[test]
fn a_hole_in_an_unsynced_tail_is_a_torn_tail_however_much_follows() {
    let disk = new_disk();
    let mut opened = open(&disk);
    opened.writer.append(&[create(1)]).unwrap();
    opened.writer.sync().unwrap();
    let tail = opened.writer.end_lsn().get() as usize;
    for index in 1..=3 {
        opened.writer.append(&[append(1, index, 1, 1)]).unwrap();
    }
    drop(opened);
    let disk = disk.crash(CrashPolicy::KeepAll);
    let mut bytes = disk.read(FIRST).unwrap();
    bytes[tail + 4096..tail + 8192].fill(0);
    disk.overwrite(FIRST, &bytes);
    let opened = open(&disk);
    assert_eq!(opened.groups[&group(1)].last_index.get(), 1);
    let torn = opened.report.torn_tail.unwrap();
    assert_eq!((torn.lsn.get() as usize, torn.blocks), (tail + 4096, 1));
    assert_eq!(torn.fault, FrameFault::Blank);
}

/// Three segments, closed in order.
fn three_segments() -> MemDisk {
    let disk = new_disk();
    let mut opened = open_with(&disk, &tiny()).unwrap();
    opened.writer.append(&[create(1)]).unwrap();
    for index in 1..=7 {
        opened.writer.append(&[append(1, index, 1, 1)]).unwrap();
    }
    opened.writer.close().unwrap();
    disk
}

#[test]
fn a_lost_segment_is_never_taken_for_the_end() {
    let disk = three_segments();
    drop(open_with(&disk, &tiny()).unwrap());
    for slot in 0..3 {
        let copy = disk.crash(CrashPolicy::KeepAll);
        raft_storage::Disk::remove(&copy, &format!("log-{slot:08}.seg")).unwrap();
        let outcome = open_with(&copy, &tiny());
        let Err(OpenError::Corrupt { why, .. }) = outcome else { panic!("slot {slot}") };
        match slot {
            2 => assert!(matches!(why, Damage::FrameLost { .. } | Damage::LogEndsEarly { .. })),
            _ => assert!(matches!(why, Damage::SegmentSequence { .. }), "{why:?}"),
        }
    }
}

#[test]
fn a_newest_segment_lost_after_a_crash_is_noticed() {
    let disk = new_disk();
    let mut opened = open_with(&disk, &tiny()).unwrap();
    opened.writer.append(&[create(1)]).unwrap();
    for index in 1..=7 {
        opened.writer.append(&[append(1, index, 1, 1)]).unwrap();
        opened.writer.sync().unwrap();
    }
    // Not closed: the process is killed.
    drop(opened);
    let copy = disk.crash(CrashPolicy::KeepAll);
    raft_storage::Disk::remove(&copy, "log-00000002.seg").unwrap();
    let outcome = open_with(&copy, &tiny());
    assert!(matches!(
        outcome,
        Err(OpenError::Corrupt { why: Damage::FrameLost { .. } | Damage::LogEndsEarly { .. }, .. })
    ));
}

#[test]
fn a_sealed_segment_is_judged_by_the_next_one() {
    let disk = three_segments();
    for (slot, zeroed) in [(0, 4096..8192), (0, 12288..16384), (1, 4096..16384)] {
        let name = format!("log-{slot:08}.seg");
        let copy = disk.crash(CrashPolicy::KeepAll);
        let mut bytes = copy.read(&name).unwrap();
        bytes[zeroed].fill(0);
        copy.overwrite(&name, &bytes);
        let outcome = open_with(&copy, &tiny());
        assert!(matches!(
            outcome,
            Err(OpenError::Corrupt {
                segment,
                why: Damage::FrameLost { fault: FrameFault::Blank, .. },
                ..
            }) if segment == slot
        ));
    }
    let copy = disk.crash(CrashPolicy::KeepAll);
    let short = copy.read(FIRST).unwrap()[..8192].to_vec();
    copy.overwrite(FIRST, &short);
    let outcome = open_with(&copy, &tiny());
    assert!(matches!(outcome, Err(OpenError::Corrupt { why: Damage::SegmentShort { .. }, .. })));
}

#[test]
fn a_segment_of_another_store_is_refused() {
    let disk = three_segments();
    let other = MemDisk::new();
    let options = raft_storage::InitOptions { store: Some(StoreId::new(0x0bad)) };
    raft_storage::init_on(&other, "test", raft_core::NodeId::new(1), &options).unwrap();
    other.overwrite(FIRST, &disk.read(FIRST).unwrap());
    let outcome = open_with(&other, &tiny());
    assert!(matches!(outcome, Err(OpenError::ForeignSegment { segment: 0, .. })));
}

/// Rewrites the record at the beginning of the first frame, with all checksums made good.
fn forge(disk: &MemDisk, change: impl FnOnce(&mut [u8])) {
    let mut bytes = disk.read(FIRST).unwrap();
    let (header, frame) = bytes.split_at_mut(4096);
    let lsn = u32::from_le_bytes(frame[8..12].try_into().unwrap());
    change(&mut frame[64..]);
    let payload = u32::from_le_bytes(frame[96..100].try_into().unwrap()) as usize;
    let sum = crc32c_append(lsn, &frame[64..100]);
    let sum = crc32c_append(sum, &frame[104..104 + payload]);
    frame[100..104].copy_from_slice(&sum.to_le_bytes());
    let body = u32::from_le_bytes(frame[32..36].try_into().unwrap()) as usize;
    let sum = raft_storage::crc32c(&frame[64..64 + body]);
    frame[44..48].copy_from_slice(&sum.to_le_bytes());
    let seed = crc32c_append(raft_storage::crc32c(&header[60..68]), &header[16..32]);
    let sum = crc32c_append(seed, &frame[..60]);
    frame[60..64].copy_from_slice(&sum.to_le_bytes());
    disk.overwrite(FIRST, &bytes);
}

fn one_record(write: GroupWrite) -> MemDisk {
    let disk = new_disk();
    let mut opened = open_with(&disk, &tiny()).unwrap();
    opened.writer.append(&[write]).unwrap();
    opened.writer.sync().unwrap();
    drop(opened);
    disk
}

#[test]
fn an_unknown_or_reserved_record_type_is_named_and_not_skipped() {
    for code in [0, 1, 7, 11, 17, 255] {
        let disk = one_record(create(1));
        forge(&disk, |record| record[4] = code);
        let outcome = open_with(&disk, &tiny());
        let Err(OpenError::Unsupported { what, value, segment: 0, offset }) = outcome else {
            panic!("type {code} was taken")
        };
        assert_eq!((what, value, offset), (Unsupported::RecordType, code.into(), 4096 + 64));
    }
}

#[test]
fn records_that_make_no_sense_are_errors_although_their_checksums_hold() {
    type Change = fn(&mut [u8]);
    let change: [(&str, Change); 6] = [
        ("length beyond the body", |record| record[0..4].copy_from_slice(&4000_u32.to_le_bytes())),
        ("length below its header", |record| record[0..4].copy_from_slice(&8_u32.to_le_bytes())),
        ("length not aligned", |record| record[0..4].copy_from_slice(&63_u32.to_le_bytes())),
        ("hard state of an unknown group", |record| record[4] = 3),
        ("entries of an unknown group", |record| record[4] = 2),
        ("base of an unknown group", |record| record[4] = 5),
    ];
    for (what, change) in change {
        let disk = one_record(create(1));
        forge(&disk, change);
        let outcome = open_with(&disk, &tiny());
        let record = matches!(outcome, Err(OpenError::Corrupt { why: Damage::Record { .. }, .. }));
        assert!(record, "{what}");
    }
    // The forger itself is sound: unchanged, the log opens.
    let disk = one_record(create(1));
    forge(&disk, |_| {});
    assert_eq!(open_with(&disk, &tiny()).unwrap().groups.len(), 1);
}

#[test]
fn arbitrary_bytes_never_panic() {
    let disk = three_segments();
    let names: Vec<String> = (0..3).map(|slot| format!("log-{slot:08}.seg")).collect();
    for seed in 0..400 {
        println!("seed {seed}");
        let mut random = Random(seed);
        let copy = disk.crash(CrashPolicy::KeepAll);
        for _ in 0..1 + random.below(4) {
            let name = &names[random.below(3) as usize];
            let mut bytes = copy.read(name).unwrap();
            let at = random.below(bytes.len() as u64) as usize;
            match random.below(4) {
                0 => {
                    let noise = random.bytes(600);
                    let length = noise.len().min(bytes.len() - at);
                    bytes[at..at + length].copy_from_slice(&noise[..length]);
                }
                1 => bytes.truncate(at),
                2 => bytes[at] = random.next() as u8,
                _ => {
                    // A sector of another file, as a misdirected write leaves it.
                    let other = copy.read(&names[random.below(3) as usize]).unwrap();
                    let sector = at / 512 * 512;
                    let end = (sector + 512).min(bytes.len()).min(other.len());
                    if sector < end {
                        bytes[sector..end].copy_from_slice(&other[sector..end]);
                    }
                }
            }
            copy.overwrite(name, &bytes);
        }
        if let Ok(opened) = open_with(&copy, &tiny()) {
            // All was promised by the clean close, so nothing may be missing.
            let groups: Vec<GroupId> = opened.groups.keys().copied().collect();
            assert_eq!(groups, [group(1)]);
            assert_eq!(opened.groups[&group(1)].last_index.get(), 7);
        }
    }
}
