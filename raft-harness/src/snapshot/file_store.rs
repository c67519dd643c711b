//! Snapshots as files of one directory.
//!
//! A snapshot is written under a temporary name, synced, renamed, and the directory synced: after
//! a crash it is there whole or not at all. What a crash left half-written is removed at the start.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::store::{SnapshotName, SnapshotPart, SnapshotStore};

/// Keeps snapshots in a directory of their own.
#[derive(Clone, Debug)]
pub struct FileStore {
    dir: PathBuf,
}

struct Part {
    file: Option<BufWriter<File>>,
    temporary: PathBuf,
    path: PathBuf,
    dir: PathBuf,
}

impl FileStore {
    /// Opens the directory and removes what was never finished. It is made with the first
    /// snapshot: a node must not need room to start.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn open(dir: &Path) -> io::Result<Self> {
        for path in files(dir)? {
            if path.extension().is_some_and(|extension| extension == TEMPORARY) {
                fs::remove_file(path)?;
            }
        }
        Ok(Self { dir: dir.to_owned() })
    }

    fn path(&self, name: SnapshotName) -> PathBuf {
        self.dir.join(format!("{name}.{WHOLE}"))
    }
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
        if !self.dir.exists() {
            fs::create_dir_all(&self.dir)?;
            if let Some(parent) = self.dir.parent() {
                File::open(parent)?.sync_all()?;
            }
        }
        let file = BufWriter::with_capacity(256 << 10, File::create(&temporary)?);
        let (path, dir) = (self.path(name), self.dir.clone());
        Ok(Box::new(Part { file: Some(file), temporary, path, dir }))
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

    fn remove(&self, name: SnapshotName) -> io::Result<()> {
        match fs::remove_file(self.path(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            // If a crash brings it back, it is removed once more.
            Ok(()) | Err(_) => Ok(()),
        }
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

/// The files of a directory; none if it is not there.
fn files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        entries => entries?.map(|entry| Ok(entry?.path())).collect(),
    }
}

const WHOLE: &str = "snap";
const TEMPORARY: &str = "part";

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
}
