//! Snapshots as files of one directory.
//!
//! A snapshot is written under a temporary name, synced, renamed, and the directory synced: after
//! a crash it is there whole or not at all. What a crash left half-written is removed at the start.
//!
//! What was fetched of another node's snapshot is kept instead, so that the next life goes on with it.
//! It is made durable every 8 MiB, before the next byte is written; so of a file that is longer than
//! that, everything up to the last such place is certain, whatever the crash was.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;
use parking_lot::Mutex;

use super::store::{SnapshotBytes, SnapshotName, SnapshotPart, SnapshotStore};

/// Keeps snapshots in a directory of their own.
#[derive(Clone, Debug)]
pub struct FileStore {
    dir: PathBuf,
    /// The directory exists, and its own name is durable.
    is_named: Arc<AtomicBool>,
    /// What is being fetched, or was.
    fetched: Arc<Mutex<BTreeMap<SnapshotName, SnapshotBytes>>>,
}

struct Part {
    file: Option<BufWriter<File>>,
    temporary: PathBuf,
    path: PathBuf,
    dir: PathBuf,
}

impl FileStore {
    /// Opens the directory and removes what was never finished here. It is made with the first
    /// snapshot: a node must not need room to start.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn open(dir: &Path) -> io::Result<Self> {
        // A process that was killed may have left names that a power cut would still take, and who
        // finds one here builds on it.
        let exists = dir.exists();
        if exists {
            sync_names(dir)?;
        }
        let mut fetched = BTreeMap::new();
        for path in files(dir)? {
            let is = |wanted| path.extension().is_some_and(|extension| extension == wanted);
            if is(FETCHED) {
                let stem = path.file_stem().and_then(|stem| stem.to_str());
                if let Some((name, bytes)) = stem.and_then(parse_fetched) {
                    fetched.insert(name, bytes);
                    continue;
                }
            }
            if is(TEMPORARY) || is(FETCHED) {
                fs::remove_file(path)?;
            }
        }
        let fetched = Arc::new(Mutex::new(fetched));
        Ok(Self { dir: dir.to_owned(), is_named: Arc::new(AtomicBool::new(exists)), fetched })
    }

    fn path(&self, name: SnapshotName) -> PathBuf {
        self.dir.join(format!("{name}.{WHOLE}"))
    }

    fn fetched_path(&self, name: SnapshotName, bytes: SnapshotBytes) -> PathBuf {
        self.dir.join(format!("{name}.{}-{}.{FETCHED}", bytes.total, bytes.sum))
    }

    fn make_dir(&self) -> io::Result<()> {
        // If a step fails all of them are made again.
        if !self.is_named.load(Relaxed) {
            fs::create_dir_all(&self.dir)?;
            sync_names(&self.dir)?;
            self.is_named.store(true, Relaxed);
        }
        Ok(())
    }
}

/// Makes the names in a directory durable, and its own.
fn sync_names(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()?;
    match dir.parent() {
        Some(parent) if parent.as_os_str().is_empty() => File::open(".")?.sync_all(),
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

/// Reads what [`FileStore::fetched_path`] wrote before the extension.
fn parse_fetched(stem: &str) -> Option<(SnapshotName, SnapshotBytes)> {
    let (name, bytes) = stem.split_once('.')?;
    let (total, sum) = bytes.split_once('-')?;
    let bytes = SnapshotBytes { total: total.parse().ok()?, sum: sum.parse().ok()? };
    Some((SnapshotName::parse(name)?, bytes))
}

impl SnapshotStore for FileStore {
    fn names(&self) -> io::Result<Vec<SnapshotName>> {
        let mut names = Vec::new();
        for path in files(&self.dir)? {
            let is_whole = path.extension().is_some_and(|extension| extension == WHOLE);
            let stem = path.file_stem().and_then(|stem| stem.to_str());
            names.extend(stem.filter(|_| is_whole).and_then(SnapshotName::parse));
        }
        names.sort_unstable();
        Ok(names)
    }

    fn begin(&self, name: SnapshotName) -> io::Result<Box<dyn SnapshotPart>> {
        let temporary = self.dir.join(format!("{name}.{TEMPORARY}"));
        self.make_dir()?;
        let file = BufWriter::with_capacity(256 << 10, File::create(&temporary)?);
        let (path, dir) = (self.path(name), self.dir.clone());
        Ok(Box::new(Part { file: Some(file), temporary, path, dir }))
    }

    fn fetch(
        &self,
        name: SnapshotName,
        bytes: SnapshotBytes,
    ) -> io::Result<(Box<dyn SnapshotPart>, u64)> {
        let mut fetched = self.fetched.lock();
        if let Some(other) = fetched.get(&name).filter(|other| **other != bytes) {
            remove(&self.fetched_path(name, *other))?;
            fetched.remove(&name);
        }
        self.make_dir()?;
        let path = self.fetched_path(name, bytes);
        let file = File::options().write(true).create(true).truncate(false).open(&path)?;
        let long = file.metadata()?.len();
        // One that is longer is nothing that was written here.
        let at = if long > bytes.total { 0 } else { certain(long) };
        file.set_len(at)?;
        fetched.insert(name, bytes);
        let (whole, dir) = (self.path(name), self.dir.clone());
        let fetched = Arc::clone(&self.fetched);
        Ok((Box::new(FetchedPart { file, at, name, path, whole, dir, fetched }), at))
    }

    fn unfinished(&self) -> io::Result<Vec<SnapshotName>> {
        Ok(self.fetched.lock().keys().copied().collect())
    }

    fn discard(&self, name: SnapshotName) -> io::Result<()> {
        let mut fetched = self.fetched.lock();
        if let Some(bytes) = fetched.get(&name) {
            remove(&self.fetched_path(name, *bytes))?;
            fetched.remove(&name);
        }
        Ok(())
    }

    fn bytes(&self, name: SnapshotName) -> io::Result<Option<u64>> {
        match fs::metadata(self.path(name)) {
            Ok(metadata) => Ok(Some(metadata.len())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn read(&self, name: SnapshotName, offset: u64, bytes: usize) -> io::Result<Bytes> {
        let file = File::open(self.path(name))?;
        let left = file.metadata()?.len().saturating_sub(offset);
        let mut buffer = vec![0; bytes.min(usize::try_from(left).unwrap_or(usize::MAX))];
        file.read_exact_at(&mut buffer, offset)?;
        Ok(buffer.into())
    }

    fn drop_cache(&self, name: SnapshotName) -> io::Result<()> {
        raft_storage::drop_cache(&File::open(self.path(name))?)
    }

    fn remove(&self, name: SnapshotName) -> io::Result<()> {
        // If a crash brings it back, it is removed once more.
        remove(&self.path(name))
    }
}

/// Removes a file; it need not be there.
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

impl SnapshotPart for Part {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.as_mut().ok_or(io::ErrorKind::BrokenPipe)?.write_all(bytes)
    }

    fn finish(mut self: Box<Self>) -> io::Result<()> {
        let writer = self.file.take().ok_or(io::ErrorKind::BrokenPipe)?;
        let file = writer.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.sync_all()?;
        fs::rename(&self.temporary, &self.path)?;
        File::open(&self.dir)?.sync_all()
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // After a rename there is nothing of that name.
        let _ = fs::remove_file(&self.temporary);
    }
}

/// Of another node's snapshot, what came so far.
struct FetchedPart {
    file: File,
    /// Where the next byte goes.
    at: u64,
    name: SnapshotName,
    path: PathBuf,
    whole: PathBuf,
    dir: PathBuf,
    fetched: Arc<Mutex<BTreeMap<SnapshotName, SnapshotBytes>>>,
}

impl SnapshotPart for FetchedPart {
    fn append(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let step = self.at % STEP_BYTES;
            if step == 0 && self.at > 0 {
                self.file.sync_data()?;
                if self.at == STEP_BYTES {
                    File::open(&self.dir)?.sync_all()?;
                }
            }
            let fits = usize::try_from(STEP_BYTES - step).unwrap_or(usize::MAX);
            let (now, later) = bytes.split_at(fits.min(bytes.len()));
            self.file.write_all_at(now, self.at)?;
            self.at += now.len() as u64;
            bytes = later;
        }
        Ok(())
    }

    fn finish(self: Box<Self>) -> io::Result<()> {
        self.file.sync_all()?;
        fs::rename(&self.path, &self.whole)?;
        self.fetched.lock().remove(&self.name);
        File::open(&self.dir)?.sync_all()
    }
}

/// Of a file of fetched bytes that is so long, what is certain after any crash: a byte behind a step
/// is only written when everything up to there is durable.
fn certain(long: u64) -> u64 {
    long.saturating_sub(1) / STEP_BYTES * STEP_BYTES
}

/// Fetched bytes are made durable in such steps.
const STEP_BYTES: u64 = 8 << 20;

/// The files of a directory; none if it is not there.
fn files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        entries => entries?.map(|entry| Ok(entry?.path())).collect(),
    }
}

const WHOLE: &str = "snap";
const TEMPORARY: &str = "part";
const FETCHED: &str = "fetch";

#[cfg(test)]
mod tests {
    use super::*;
    use raft_core::{GroupId, GroupIncarnation, LogIndex, Term};

    fn name(index: u64) -> SnapshotName {
        SnapshotName {
            group: GroupId::new(7),
            incarnation: GroupIncarnation::new(1),
            index: LogIndex::new(index),
            term: Term::new(3),
        }
    }

    #[test]
    fn a_snapshot_is_there_when_it_is_finished_and_not_before() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("snapshots");
        let store = FileStore::open(&place).unwrap();
        let mut part = store.begin(name(5)).unwrap();
        part.append(b"hello ").unwrap();
        part.append(b"there").unwrap();
        assert_eq!(store.names().unwrap(), []);
        part.finish().unwrap();
        drop(store.begin(name(6)).unwrap());
        std::mem::forget(store.begin(name(7)).unwrap());
        let again = FileStore::open(&place).unwrap();
        assert_eq!(again.names().unwrap(), [name(5)]);
        assert_eq!(fs::read_dir(&place).unwrap().count(), 1, "what was half-written is gone");
        assert_eq!(again.bytes(name(5)).unwrap(), Some(11));
        assert_eq!(&again.read(name(5), 6, 100).unwrap()[..], b"there");
        assert_eq!(again.read(name(5), 11, 100).unwrap().len(), 0);
        assert!(again.read(name(6), 0, 1).is_err());
        again.remove(name(5)).unwrap();
        again.remove(name(5)).unwrap();
        assert_eq!((again.names().unwrap().len(), again.bytes(name(5)).unwrap()), (0, None));
    }

    #[test]
    fn what_was_fetched_is_there_for_the_next_life_as_far_as_it_is_certain() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("snapshots");
        let open = || FileStore::open(&place).unwrap();
        let whole = SnapshotBytes { total: 3 * STEP_BYTES, sum: 7 };
        let content = |from: u64, to: u64| -> Vec<u8> {
            (from..to).map(|at| (at / 4096 * 31 + at) as u8).collect()
        };
        // Each life gets so far; a byte more makes a step certain.
        let ends = [0, 1, STEP_BYTES, STEP_BYTES + 1, 2 * STEP_BYTES, 2 * STEP_BYTES + 1];
        for end in ends {
            let store = open();
            let (mut part, at) = store.fetch(name(5), whole).unwrap();
            let before = ends.iter().rev().find(|before| **before < end).copied();
            assert_eq!(at, certain(before.unwrap_or(0)), "after {before:?}");
            part.append(&content(at, end)).unwrap();
            assert_eq!(store.names().unwrap(), []);
            assert_eq!(open().unfinished().unwrap(), [name(5)]);
        }
        let store = open();
        let (mut part, at) = store.fetch(name(5), whole).unwrap();
        assert_eq!(at, 2 * STEP_BYTES);
        part.append(&content(at, whole.total)).unwrap();
        part.finish().unwrap();
        for store in [store, open()] {
            assert_eq!(store.names().unwrap(), [name(5)]);
            assert_eq!(store.unfinished().unwrap(), []);
        }
        let read = open().read(name(5), 0, whole.total as usize).unwrap();
        assert!(read == content(0, whole.total));
        assert_eq!(fs::read_dir(&place).unwrap().count(), 1);
    }

    #[test]
    fn other_bytes_of_the_same_name_begin_anew_and_what_is_discarded_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("snapshots");
        let store = FileStore::open(&place).unwrap();
        let whole = SnapshotBytes { total: 2 * STEP_BYTES, sum: 7 };
        let get = |store: &FileStore, bytes| {
            let (mut part, at) = store.fetch(name(5), bytes).unwrap();
            part.append(&vec![1; STEP_BYTES as usize + 1]).unwrap();
            at
        };
        assert_eq!(get(&store, whole), 0);
        let again = FileStore::open(&place).unwrap();
        assert_eq!(get(&again, SnapshotBytes { sum: 8, ..whole }), 0);
        assert_eq!(get(&again, SnapshotBytes { sum: 8, total: whole.total - 1 }), 0);
        assert_eq!(fs::read_dir(&place).unwrap().count(), 1);
        again.discard(name(5)).unwrap();
        again.discard(name(5)).unwrap();
        assert_eq!(fs::read_dir(&place).unwrap().count(), 0);
        // Longer than it can be, and a name that is none.
        fs::write(again.fetched_path(name(5), whole), vec![0; 3 * STEP_BYTES as usize]).unwrap();
        fs::write(place.join("7-1-5-3.x-1.fetch"), b"?").unwrap();
        let again = FileStore::open(&place).unwrap();
        assert_eq!(fs::read_dir(&place).unwrap().count(), 1);
        assert_eq!(get(&again, whole), 0);
    }
}
