//! Space comes back: whatever the mix of groups, the log is about as long as what is alive in it, and
//! no crash and no damage on the way loses anything.

mod common;

use std::io::{self, IoSlice};
use std::sync::{Arc, Mutex};

use common::*;
use raft_core::{LogIndex, ReplicaId, Tombstone};
use raft_storage::{
    CrashPolicy, Damage, Disk, DiskFile, Fault, GroupWrite, LogError, LogOptions, MemDisk, MemFile,
    MemLock, OpenError, Opened, Tending,
};

/// One append of `count` entries, durable; then housekeeping as a driver does it.
fn write(opened: &mut Opened<MemDisk>, model: &mut Model, batch: &[GroupWrite]) {
    opened.writer.append(batch).unwrap();
    model.apply(batch);
    opened.writer.sync().unwrap();
    opened.writer.tend(false).unwrap();
}

/// Until there is nothing left to do.
fn rest(opened: &mut Opened<MemDisk>) {
    for _ in 0..10_000 {
        if opened.writer.tend(true).unwrap() == Tending::Done {
            return;
        }
    }
    panic!("housekeeping does not end");
}

fn compact(id: u32, upto: u64) -> GroupWrite {
    let mut write = GroupWrite::new(group(id));
    write.compact = Some(compaction(upto, 1, 3));
    write
}

fn segments(disk: &MemDisk) -> usize {
    disk.list().unwrap().iter().filter(|name| name.ends_with(".seg")).count()
}

/// How many of them hold something; the others are spares.
fn in_use(opened: &Opened<MemDisk>) -> u64 {
    opened.writer.stats().segment_bytes / tiny().segment_bytes
}

/// A busy group that keeps its newest entries, after so many rounds.
fn busy(rounds: u64, options: &LogOptions) -> (MemDisk, Model, usize) {
    let disk = new_disk();
    let mut opened = open_with(&disk, options).unwrap();
    let mut model = Model::default();
    let mut most = 0;
    write(&mut opened, &mut model, &[create(1)]);
    for round in 0..rounds {
        let mut batch = vec![append(1, round * 4 + 1, 4, 1)];
        if round % 8 == 7 {
            batch.push(compact(1, round * 4 - 3));
        }
        write(&mut opened, &mut model, &batch);
        most = most.max(segments(&disk));
    }
    model.is_read_by(&opened.reader);
    (disk, model, most)
}

#[test]
fn a_log_whose_groups_compact_stays_short_for_ever_and_opens_by_its_end() {
    let (disk, model, most) = busy(3_000, &tiny());
    // About 3,000 blocks were written, three to a segment.
    assert!(most <= 10, "{most} segments");
    let opened = open_with(&disk, &tiny()).unwrap();
    assert_eq!(Model::of(&opened), model);
    assert!(opened.report.frames < 40 && opened.report.checkpoint > raft_storage::Lsn::ZERO);
}

#[test]
fn entries_of_slow_groups_are_moved_and_their_segments_come_back() {
    let disk = new_disk();
    let mut opened = open_with(&disk, &tiny()).unwrap();
    let mut model = Model::default();
    write(&mut opened, &mut model, &(1..=40).map(create).collect::<Vec<_>>());
    let mut most = 0;
    for round in 0..2_000_u64 {
        let mut batch = vec![append(1, round * 4 + 1, 4, 1)];
        if round % 8 == 7 {
            batch.push(compact(1, round * 4 - 3));
        }
        // One of the slow ones writes a little and compacts never.
        if round % 50 == 0 {
            let id = 2 + (round / 50) as u32 % 39;
            batch.push(append(id, round / 50 / 39 + 1, 1, 1));
        }
        write(&mut opened, &mut model, &batch);
        most = most.max(segments(&disk));
    }
    // Rows of 40 groups against segments of four blocks: a checkpoint is made every six of them.
    assert!(most <= 30, "{most} segments");
    rest(&mut opened);
    model.is_read_by(&opened.reader);
    assert!(in_use(&opened) <= 10, "{} segments", in_use(&opened));
    assert!(segments(&disk) <= most, "spares take no more than what they held");
    for policy in [CrashPolicy::DropUnsynced, CrashPolicy::KeepAll] {
        assert_eq!(Model::of(&open_with(&disk.crash(policy), &tiny()).unwrap()), model);
    }
}

/// A path to the disk is gone for a while: what could not be moved then is moved later.
#[test]
fn reads_that_are_refused_for_a_while_keep_no_segment_for_ever() {
    let disk = new_disk();
    let mut opened = open_with(&disk, &tiny()).unwrap();
    let mut model = Model::default();
    write(&mut opened, &mut model, &(1..=40).map(create).collect::<Vec<_>>());
    for round in 0..1_000_u64 {
        let mut batch = vec![append(1, round * 4 + 1, 4, 1)];
        if round % 8 == 7 {
            batch.push(compact(1, round * 4 - 3));
        }
        if round % 10 == 0 && round < 400 {
            batch.push(append(2 + (round / 10) as u32 % 39, round / 10 / 39 + 1, 1, 1));
        }
        disk.fail_reads((100..400).contains(&round));
        write(&mut opened, &mut model, &batch);
    }
    assert!(disk.reads_refused() > 0, "nothing was to be moved");
    assert_eq!(opened.writer.stats().segments_unreadable, 0);
    rest(&mut opened);
    model.is_read_by(&opened.reader);
    assert!(in_use(&opened) <= 12, "{} segments", in_use(&opened));
    assert!(segments(&disk) <= 30, "{} with spares", segments(&disk));
}

/// Entries that lie whole, fetched ones and those of the log, each with a segment of its own.
#[test]
fn an_idle_log_of_long_entries_comes_to_rest() {
    const BYTES: usize = 8 << 20;
    let options = LogOptions { segment_bytes: 1 << 20, checkpoint_bytes: 1 << 20, ..options() };
    let disk = new_disk();
    let mut opened = open_with(&disk, &options).unwrap();
    let mut model = Model::default();
    write(&mut opened, &mut model, &[create(1)]);
    for index in 1..=3 {
        let mut batch = GroupWrite::new(group(1));
        batch.entries.push(entry(index, 1, BYTES + 1_000 * index as usize));
        write(&mut opened, &mut model, &[batch]);
    }
    for index in [20, 30] {
        let mut batch = GroupWrite::new(group(1));
        batch.fetched.push(entry(index, 1, BYTES));
        write(&mut opened, &mut model, &[batch]);
    }
    let is_at_rest = (0..300).any(|_| opened.writer.tend(true).unwrap() == Tending::Done);
    assert!(is_at_rest, "{:?}", opened.writer.stats());
    let stats = opened.writer.stats();
    assert_eq!(stats.bytes_moved, 0, "nothing is gained");
    let bytes = 5 * BYTES as u64 + 6_000;
    assert!(stats.live_bytes <= stats.segment_bytes, "{stats:?}");
    assert!(stats.live_bytes > bytes - 5 * 4096 && stats.live_bytes <= bytes + 5 * 32, "{stats:?}");
    let operations = disk.operations();
    for _ in 0..20 {
        assert_eq!(opened.writer.tend(true).unwrap(), Tending::Done);
    }
    assert_eq!(disk.operations(), operations, "nothing is written");
    model.is_read_by(&opened.reader);
}

#[test]
fn what_is_removed_leaves_its_tombstone_and_no_space() {
    let disk = new_disk();
    let mut opened = open_with(&disk, &tiny()).unwrap();
    let mut model = Model::default();
    for id in 1..=300 {
        write(&mut opened, &mut model, &[create(id), append(id, 1, 20, 1)]);
        let mut destroy = GroupWrite::new(group(id));
        destroy.destroy = Some(Tombstone {
            group: group(id),
            replica: ReplicaId::new(u64::from(id)),
            hard_state: Default::default(),
        });
        opened.writer.append(&[destroy]).unwrap();
        opened.writer.sync().unwrap();
        opened.writer.tend(false).unwrap();
    }
    rest(&mut opened);
    assert!(in_use(&opened) <= 10, "{} segments", in_use(&opened));
    assert!(segments(&disk) <= 30, "{} with spares", segments(&disk));
    drop(opened);
    let opened = open_with(&disk, &tiny()).unwrap();
    assert_eq!((opened.groups.len(), opened.tombstones.len()), (0, 300));
}

/// Appends, compacts and rests until the disk fails; returns the states, how many were synced, and
/// whether nothing failed.
fn until_failure(disk: &MemDisk) -> (Vec<Model>, usize, bool) {
    let mut states = vec![Model::default()];
    let mut synced = 0;
    let Ok(mut opened) = open_with(disk, &tiny()) else { return (states, synced, false) };
    for round in 0..24_u64 {
        let mut batch = vec![append(1, round * 3 + 1, 3, 1)];
        if round == 0 {
            batch.insert(0, create(1));
            batch.push(create(2));
            batch.push(append(2, 1, 2, 1));
        }
        if round % 3 == 2 {
            batch.push(compact(1, round * 3));
        }
        let mut state = states[states.len() - 1].clone();
        state.apply(&batch);
        states.push(state);
        match opened.writer.append(&batch) {
            Ok(_) => {}
            // Nothing of it was written, and nothing more is tried.
            Err(LogError::NoSegment { .. }) => {
                states.pop();
                return (states, synced, false);
            }
            Err(_) => return (states, synced, false),
        }
        if opened.writer.sync().is_err() {
            return (states, synced, false);
        }
        synced = states.len() - 1;
        let idle = round % 6 == 5;
        for _ in 0..if idle { 40 } else { 2 } {
            match opened.writer.tend(idle) {
                Ok(Tending::Done) => break,
                Ok(_) => {}
                Err(_) => return (states, synced, false),
            }
        }
    }
    (states, synced, true)
}

#[test]
fn a_power_cut_at_every_operation_while_segments_are_used_again_loses_nothing_synced() {
    let policies = [
        CrashPolicy::DropUnsynced,
        CrashPolicy::KeepAll,
        CrashPolicy::RandomSectors { seed: 1 },
        CrashPolicy::RandomSectors { seed: 2 },
        CrashPolicy::RandomSectors { seed: 3 },
    ];
    for (fault, both) in [(Fault::PowerCut, true), (Fault::Error, false)] {
        for operation in 0.. {
            let disk = new_disk();
            disk.fail_at(operation, fault);
            let (states, synced, finished) = until_failure(&disk);
            for policy in policies.iter().take(if both { 5 } else { 1 }) {
                let crashed = if both { disk.crash(*policy) } else { disk.clone() };
                let mut opened = open_with(&crashed, &tiny())
                    .unwrap_or_else(|error| panic!("operation {operation}, {policy:?}: {error:?}"));
                let found = Model::of(&opened);
                let at = states.iter().rposition(|state| *state == found);
                assert!(at >= Some(synced), "operation {operation}, {policy:?}: {at:?} {synced}");
                // It goes on, in what was used before as well, and once more after a power cut.
                opened.writer.append(&[create(77)]).unwrap();
                opened.writer.sync().unwrap();
                rest(&mut opened);
                drop(opened);
                let again = open_with(&crashed.crash(CrashPolicy::DropUnsynced), &tiny())
                    .unwrap_or_else(|error| panic!("operation {operation}, again: {error:?}"));
                assert_eq!(again.groups.len(), found.groups.len() + 1);
            }
            // A checkpoint that fails is made again later.
            if finished && (both || operation > 140) {
                println!("{operation} operations");
                assert!(operation > 130, "{operation}");
                break;
            }
        }
    }
}

/// The checkpoints of a disk, the newest last.
fn checkpoints(disk: &MemDisk) -> Vec<String> {
    let mut names: Vec<_> =
        disk.list().unwrap().into_iter().filter(|name| name.starts_with("checkpoint-")).collect();
    let number = |name: &String| {
        let bytes = disk.read(name).unwrap();
        (u64::from_le_bytes(bytes[8..16].try_into().unwrap()), bytes[16])
    };
    names.sort_by_key(number);
    names
}

fn damage(disk: &MemDisk, name: &str, at: usize) {
    let mut bytes = disk.read(name).unwrap();
    bytes[at] ^= 0x20;
    disk.overwrite(name, &bytes);
}

#[test]
fn a_damaged_checkpoint_is_replaced_by_the_one_before_and_the_loss_of_both_is_damage() {
    let mut missed = 0;
    for (rounds, at) in (400..430).zip([100, 50, 12, 8].into_iter().cycle()) {
        let (disk, model, _) = busy(rounds, &tiny());
        let names = checkpoints(&disk);
        assert_eq!(names.len(), 3);
        damage(&disk, &names[2], at);
        let opened = open_with(&disk, &tiny()).unwrap();
        assert_eq!(Model::of(&opened), model, "byte {at}");
        assert_eq!(opened.report.checkpoints_unreadable, 1);
        drop(opened);
        damage(&disk, &names[1], at);
        // The oldest will do if what it needs was not used again since.
        match open_with(&disk, &tiny()) {
            Ok(opened) => assert_eq!(Model::of(&opened), model, "byte {at}"),
            Err(OpenError::Corrupt {
                why: Damage::SegmentMissing { .. } | Damage::SegmentSequence { .. },
                ..
            }) => missed += 1,
            Err(error) => panic!("{error}"),
        }
        damage(&disk, &names[0], at);
        let refused = open_with(&disk, &tiny()).err();
        assert!(matches!(refused, Some(OpenError::Corrupt { .. })), "{refused:?}");
    }
    assert!(missed > 0);
}

#[test]
fn a_lost_segment_is_missed_whether_a_checkpoint_lists_it_or_not() {
    let (disk, ..) = busy(400, &tiny());
    drop(open_with(&disk, &tiny()).unwrap());
    let mut missed = 0;
    for name in disk.list().unwrap().iter().filter(|name| name.ends_with(".seg")) {
        let disk = disk.crash(CrashPolicy::KeepAll);
        let bytes = disk.read(name).unwrap();
        disk.remove(name).unwrap();
        let refused = open_with(&disk, &tiny()).is_err();
        // The same with a header that is not readable any more.
        let other = disk.crash(CrashPolicy::KeepAll);
        let file = other.create(name).unwrap();
        file.write_zeros(bytes.len() as u64).unwrap();
        other.overwrite(name, &[&[7; 512], &bytes[512..]].concat());
        assert_eq!(open_with(&other, &tiny()).is_err(), refused, "{name}");
        missed += usize::from(refused);
    }
    assert!(missed >= 2, "{missed} segments");
}

#[test]
fn a_reader_is_never_shown_what_a_segment_held_after_it_was_used_again() {
    let disk = new_disk();
    let mut opened = open_with(&disk, &tiny()).unwrap();
    opened.writer.append(&[create(1), create(2), append(2, 1, 40, 1)]).unwrap();
    opened.writer.sync().unwrap();
    let reader = opened.writer.reader();
    let ends = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (ends, reader) = (&ends, &reader);
        let reading = scope.spawn(move || {
            let mut reads = 0_u64;
            while !ends.load(std::sync::atomic::Ordering::Acquire) {
                let slow = reader.entries(group(2), LogIndex::new(1), LogIndex::new(40), u64::MAX);
                assert_eq!(slow.unwrap().len(), 40);
                let (first, last) = (reader.first_index(group(1)), reader.last_index(group(1)));
                let (Some(first), Some(last)) = (first, last) else { continue };
                match reader.entries(group(1), first, last, u64::MAX) {
                    Ok(_) | Err(raft_storage::ReadError::OutOfRange { .. }) => reads += 1,
                    Err(error) => panic!("{error}"),
                }
            }
            reads
        });
        for round in 0..3_000_u64 {
            let mut batch = vec![append(1, round * 4 + 1, 4, 1)];
            if round % 8 == 7 {
                batch.push(compact(1, round * 4 - 3));
            }
            opened.writer.append(&batch).unwrap();
            opened.writer.sync().unwrap();
            opened.writer.tend(round % 16 == 0).unwrap();
        }
        ends.store(true, std::sync::atomic::Ordering::Release);
        assert!(reading.join().unwrap() > 0);
    });
}

#[test]
fn rows_that_were_copied_while_the_log_went_on_hold_what_it_said_by_then() {
    // So many groups that a checkpoint takes many steps, with appends between them.
    let groups = 1..=60_u32;
    let disk = new_disk();
    let mut opened = open_with(&disk, &tiny()).unwrap();
    let mut model = Model::default();
    write(&mut opened, &mut model, &groups.clone().map(create).collect::<Vec<_>>());
    let mut fuzzy = 0;
    for round in 0..400_u64 {
        let id = 1 + (round * 7 % 60) as u32;
        let last = model.groups[&group(id)].entries.len() as u64
            + model.groups[&group(id)].base.index.get();
        let mut batch = vec![append(id, last + 1, 3, 1)];
        if round % 3 == 0 {
            batch.push(compact(id, last + 2));
        }
        opened.writer.append(&batch).unwrap();
        model.apply(&batch);
        opened.writer.sync().unwrap();
        fuzzy += u64::from(opened.writer.tend(false).unwrap() == Tending::Soon);
        if round % 5 == 0 {
            let found = open_with(&disk.crash(CrashPolicy::DropUnsynced), &tiny()).unwrap();
            assert_eq!(Model::of(&found), model, "round {round}");
        }
    }
    assert!(fuzzy > 100, "{fuzzy} steps");
}

#[test]
fn a_full_disk_stops_no_housekeeping_that_gives_space_back() {
    let (disk, mut model, _) = busy(300, &tiny());
    let mut opened = open_with(&disk, &tiny()).unwrap();
    disk.limit_bytes(Some(disk.bytes()));
    let mut last = 1_200;
    // Without a byte more, the log goes on in what it gives back.
    for round in 0..200_u64 {
        let batch = [append(1, last + 1, 4, 1), compact(1, last - 4)];
        match opened.writer.append(&batch) {
            Ok(_) => {
                model.apply(&batch);
                last += 4;
                opened.writer.sync().unwrap();
            }
            Err(LogError::NoSegment { .. }) => {}
            Err(error) => panic!("round {round}: {error}"),
        }
        for _ in 0..20 {
            if opened.writer.tend(true).unwrap() == Tending::Done {
                break;
            }
        }
    }
    assert!(last > 1_900, "{last}");
    model.is_read_by(&opened.reader);
    drop(opened);
    assert_eq!(Model::of(&open_with(&disk, &tiny()).unwrap()), model);
}

/// A disk whose next read does something first.
#[derive(Clone)]
struct HookedDisk {
    disk: MemDisk,
    hook: Hook,
}

type Hook = Arc<Mutex<Option<Box<dyn FnOnce() + Send>>>>;

struct HookedFile {
    file: MemFile,
    hook: Hook,
}

impl Disk for HookedDisk {
    type File = HookedFile;
    type Lock = MemLock;

    fn describe(&self) -> String {
        self.disk.describe()
    }

    fn try_lock(&self) -> io::Result<Option<MemLock>> {
        self.disk.try_lock()
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }

    fn create(&self, name: &str) -> io::Result<HookedFile> {
        Ok(HookedFile { file: self.disk.create(name)?, hook: Arc::clone(&self.hook) })
    }

    fn open(&self, name: &str) -> io::Result<HookedFile> {
        Ok(HookedFile { file: self.disk.open(name)?, hook: Arc::clone(&self.hook) })
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.disk.sync_dir()
    }
}

impl DiskFile for HookedFile {
    fn bytes(&self) -> io::Result<u64> {
        self.file.bytes()
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let hook = self.hook.lock().unwrap().take();
        if let Some(hook) = hook {
            hook();
        }
        self.file.read_exact_at(buffer, offset)
    }

    fn write_vectored_at(&self, parts: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.file.write_vectored_at(parts, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    fn drop_cache(&self) -> io::Result<()> {
        self.file.drop_cache()
    }
}

#[test]
fn a_segment_is_not_written_again_before_who_reads_from_it_is_done() {
    let disk = HookedDisk { disk: new_disk(), hook: Hook::default() };
    let mut opened = open_with(&disk, &tiny()).unwrap();
    opened.writer.append(&[create(1), append(1, 1, 8, 1)]).unwrap();
    opened.writer.sync().unwrap();
    let reader = opened.reader.clone();
    let writer = Arc::new(Mutex::new(opened.writer));
    // Between the look at the index and the read: what is read dies, and its segment with all
    // others comes back as often as it can.
    let churns = Arc::clone(&writer);
    *disk.hook.lock().unwrap() = Some(Box::new(move || {
        let mut writer = churns.lock().unwrap();
        for round in 2..200 {
            writer.append(&[append(1, round * 8 - 7, 8, 1), compact(1, round * 8 - 8)]).unwrap();
            writer.sync().unwrap();
            while writer.tend(true).unwrap() != Tending::Done {}
        }
    }));
    let read = reader.entries(group(1), LogIndex::new(1), LogIndex::new(8), u64::MAX).unwrap();
    assert_eq!(read, append(1, 1, 8, 1).entries);
    let mut writer = writer.lock().unwrap();
    assert!(writer.stats().segments_reused > 50, "all but the one that was read came back");
    while writer.tend(true).unwrap() != Tending::Done {}
}

#[test]
fn a_checkpoint_that_fails_is_told_of_until_one_succeeds() {
    let disk = new_disk();
    let mut opened = open_with(&disk, &tiny()).unwrap();
    let mut model = Model::default();
    write(&mut opened, &mut model, &[create(1)]);
    for round in 0..20 {
        let batch = [append(1, round * 4 + 1, 4, 1)];
        opened.writer.commit(&batch).unwrap();
        model.apply(&batch);
    }
    disk.limit_bytes(Some(disk.bytes()));
    let failed = || {
        opened.writer.tend(true).unwrap();
        opened.writer.stats()
    };
    let stats = std::iter::repeat_with(failed).take(100).find(|stats| stats.checkpoints_failed > 0);
    let stats = stats.expect("a checkpoint has no room");
    assert_eq!(stats.checkpoint_failure, Some(std::io::ErrorKind::StorageFull));
    disk.limit_bytes(None);
    for round in 20..200 {
        write(&mut opened, &mut model, &[append(1, round * 4 + 1, 4, 1)]);
    }
    let stats = opened.writer.stats();
    assert!(stats.checkpoints > 0 && stats.checkpoint_failure.is_none(), "{stats:?}");
}
