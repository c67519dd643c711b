//! Reads that a disk refuses, and what lies beside them: a place that is refused for a moment is not lost,
//! and one bad sector costs one block, whatever memory refuses together with it.

mod common;

use std::collections::BTreeSet;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use common::*;
use parking_lot::Mutex;
use raft_core::{LogIndex, Promise};
use raft_storage::{
    CrashPolicy, Disk, DiskFile, LogOptions, MemDisk, OnDamage, ReadError, is_unreadable,
};

const BLOCK: u64 = 4096;
const FIRST: &str = "log-00000000.seg";

fn repairing() -> LogOptions {
    LogOptions { on_damage: OnDamage::Repair, ..options() }
}

/// A log of one segment: frames of three blocks from `begin` on, sealed.
fn written(entries: u64) -> (MemDisk, u64) {
    let disk = new_disk();
    let mut opened = open(&disk);
    opened.writer.commit(&[create(1), create(2)]).unwrap();
    let begin = opened.writer.end_lsn().get();
    for index in 1..=entries {
        let mut write = append(1, index, 0, 1);
        write.entries.push(entry(index, 1, 9_000));
        opened.writer.commit(&[write, append(2, index, 1, 1)]).unwrap();
    }
    opened.writer.idle().unwrap();
    drop(opened);
    (disk.crash(CrashPolicy::KeepAll), begin)
}

/// A bus is reset while a log is opened.
#[test]
fn an_open_asks_again_before_it_calls_anything_lost() {
    let (disk, begin) = written(4);
    for options in [options(), repairing()] {
        // With its neighbours, alone, and five times after a while.
        for times in 1..=6 {
            let disk = disk.crash(CrashPolicy::KeepAll);
            for block in 2..5 {
                disk.refuse_block(FIRST, begin + block * BLOCK, times);
            }
            let opened = open_with(&disk, &options).unwrap();
            assert!(opened.report.damage.is_empty(), "{times}");
            for id in [1, 2] {
                let found = &opened.groups[&group(id)];
                assert_eq!((found.promise.promise, found.last_index.get()), (Promise::Kept, 4));
            }
            assert_eq!(opened.report.torn_tail, None);
        }
    }
    // And then it has an end.
    disk.refuse_block(FIRST, begin + 2 * BLOCK, u32::MAX);
    let before = disk.reads_refused();
    let opened = open_with(&disk, &repairing()).unwrap();
    assert_eq!(opened.groups[&group(1)].promise.promise, Promise::Damaged);
    assert!(disk.reads_refused() - before < 16, "{}", disk.reads_refused() - before);
}

/// The end of the log comes back as well: nothing was written over it.
#[test]
fn an_end_that_is_refused_for_a_moment_is_kept() {
    let disk = new_disk();
    let mut opened = open(&disk);
    opened.writer.commit(&[create(1)]).unwrap();
    let end = opened.writer.end_lsn().get();
    opened.writer.commit(&[append(1, 1, 1, 1)]).unwrap();
    drop(opened);
    let disk = disk.crash(CrashPolicy::KeepAll);
    disk.refuse_block(FIRST, end, 5);
    let opened = open_with(&disk, &repairing()).unwrap();
    assert!(opened.report.damage.is_empty());
    assert_eq!(opened.groups[&group(1)].last_index.get(), 1);
}

/// The disk of these tests: a bad sector is none any more once what was written there is durable.
#[test]
fn a_lost_block_that_was_written_and_not_synced_is_lost_after_a_power_cut() {
    let (disk, begin) = written(2);
    let at = begin + BLOCK;
    disk.lose_block(FIRST, at);
    let file = disk.open(FIRST).unwrap();
    let block = vec![9; BLOCK as usize];
    file.write_vectored_at(&mut [IoSlice::new(&block)], at).unwrap();
    let read = |disk: &MemDisk| {
        let mut back = vec![0; BLOCK as usize];
        disk.open(FIRST).unwrap().read_exact_at(&mut back, at).map(|()| back == block)
    };
    assert!(read(&disk).unwrap());
    assert!(read(&disk.crash(CrashPolicy::KeepAll)).unwrap());
    let cut = disk.crash(CrashPolicy::DropUnsynced);
    assert!(is_unreadable(&read(&cut).unwrap_err()));
    for seed in 0..8 {
        let cut = disk.crash(CrashPolicy::RandomSectors { seed });
        assert!(read(&cut).is_err(), "a part of it arrived");
    }
    file.sync_data().unwrap();
    assert!(read(&disk.crash(CrashPolicy::DropUnsynced)).unwrap());
}

/// So much comes into memory in one piece.
const FOLIO: u64 = 64 << 10;

/// A disk read through memory: what was refused is refused with all around it, until it is dropped.
#[derive(Clone)]
struct Folios {
    disk: MemDisk,
    /// Whether files can be read around it.
    is_direct: bool,
    alone: Arc<AtomicU32>,
}

struct FolioFile {
    file: <MemDisk as Disk>::File,
    poisoned: Mutex<BTreeSet<u64>>,
    of: Folios,
}

impl Folios {
    fn file(&self, file: <MemDisk as Disk>::File) -> FolioFile {
        FolioFile { file, poisoned: Mutex::default(), of: self.clone() }
    }
}

impl Disk for Folios {
    type File = FolioFile;
    type Lock = <MemDisk as Disk>::Lock;

    fn describe(&self) -> String {
        self.disk.describe()
    }
    fn try_lock(&self) -> io::Result<Option<Self::Lock>> {
        self.disk.try_lock()
    }
    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }
    fn create(&self, name: &str) -> io::Result<FolioFile> {
        self.disk.create(name).map(|file| self.file(file))
    }
    fn open(&self, name: &str) -> io::Result<FolioFile> {
        self.disk.open(name).map(|file| self.file(file))
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

impl DiskFile for FolioFile {
    fn bytes(&self) -> io::Result<u64> {
        self.file.bytes()
    }
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let folios = offset / FOLIO..(offset + buffer.len() as u64).div_ceil(FOLIO);
        let mut poisoned = self.poisoned.lock();
        if folios.clone().any(|folio| poisoned.contains(&folio)) {
            return Err(io::Error::from_raw_os_error(5));
        }
        self.file.read_exact_at(buffer, offset).inspect_err(|error| {
            if is_unreadable(error) {
                poisoned.extend(folios);
            }
        })
    }
    fn read_alone_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.of.alone.fetch_add(1, Ordering::Relaxed);
        if self.of.is_direct {
            return self.file.read_exact_at(buffer, offset);
        }
        self.drop_cache()?;
        self.read_exact_at(buffer, offset)
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
        self.poisoned.lock().clear();
        self.file.drop_cache()
    }
}

#[test]
fn one_bad_sector_costs_one_block_and_not_all_that_memory_holds_with_it() {
    let (disk, begin) = written(4);
    for is_direct in [true, false] {
        // The second block of the third frame: payload, and nothing else.
        let bad = begin + 7 * BLOCK;
        let disk = disk.crash(CrashPolicy::KeepAll);
        let folios = Folios { disk: disk.clone(), is_direct, alone: Arc::default() };
        let opened = open_with(&folios, &options()).unwrap();
        // A log that runs reads all neighbours, at once and one by one.
        disk.lose_block(FIRST, bad);
        let (first, last) = (LogIndex::new(1), LogIndex::new(4));
        let read = opened.reader.entries(group(1), first, last, u64::MAX);
        assert!(matches!(read, Err(ReadError::Io { index, .. }) if index.get() == 3), "{read:?}");
        for index in [1, 2, 4].map(LogIndex::new) {
            let read = opened.reader.entries(group(1), index, index, u64::MAX);
            assert!(read.is_ok(), "{index}: {read:?}");
        }
        assert_eq!(opened.reader.entries(group(2), first, last, u64::MAX).unwrap().len(), 4);
        drop(opened);
        let opened = open_with(&folios, &repairing()).unwrap();
        assert_eq!(opened.report.damage.len(), 1, "{:?}", opened.report.damage);
        assert_eq!(opened.groups[&group(1)].last_index.get(), 2);
        assert_eq!(opened.groups[&group(2)].last_index.get(), 4);
        assert_eq!(opened.groups[&group(2)].promise.promise, Promise::Kept);
        assert!(folios.alone.load(Ordering::Relaxed) > 0);
    }
}
