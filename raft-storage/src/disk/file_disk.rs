//! The real disk: a directory of ordinary files.
//!
//! Durability is `File::sync_data` and `File::sync_all`: `fdatasync` and `fsync`, and on Apple
//! systems `F_FULLFSYNC`, because their plain `fsync` stops at the drive's volatile cache.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
#[cfg(target_os = "linux")]
use std::sync::OnceLock;
use std::time::Duration;

#[cfg(target_os = "linux")]
use crate::disk::direct::{self, DirectFile};
#[cfg(target_os = "linux")]
use crate::disk::fill_with_zeros;
use crate::disk::{Disk, DiskFile, LOCK_NAME, PARTS_MAX};

/// A [`Disk`] in a directory of the file system.
#[derive(Clone, Debug)]
pub struct FileDisk {
    dir: Arc<Path>,
    access: Access,
}

/// What may be done to the files.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Access {
    Write,
    Read,
}

impl FileDisk {
    /// The existing directory `dir`.
    ///
    /// # Errors
    /// Whatever the file system says; `NotADirectory` if `dir` is something else.
    pub fn open(dir: &Path) -> io::Result<Self> {
        if !fs::metadata(dir)?.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        Ok(Self { dir: dir.into(), access: Access::Write })
    }

    /// The existing directory `dir`, of which nothing can be changed. Its lock is shared with others
    /// who read.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_to_read(dir: &Path) -> io::Result<Self> {
        Ok(Self { access: Access::Read, ..Self::open(dir)? })
    }

    /// The directory `dir`, made with its parents if missing, and durable in all of them.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn create(dir: &Path) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let dir = fs::canonicalize(dir)?;
        // Every level is synced: which of them are new is not known, and a directory whose
        // name is lost takes its content along.
        for parent in dir.ancestors().skip(1) {
            match File::open(parent).and_then(|file| file.sync_all()) {
                Ok(()) => {}
                // A parent we may pass but not read was not made by us.
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => break,
                // Some file systems, mostly read-only roots, refuse to sync a directory.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => break,
                Err(error) => return Err(error),
            }
        }
        Ok(Self { dir: dir.into(), access: Access::Write })
    }

    /// Where the directory is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    fn check_writable(&self) -> io::Result<()> {
        match self.access {
            Access::Write => Ok(()),
            Access::Read => Err(io::ErrorKind::ReadOnlyFilesystem.into()),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

impl Disk for FileDisk {
    type File = LogFile;
    type Lock = File;

    fn describe(&self) -> String {
        self.dir.display().to_string()
    }

    fn try_lock(&self) -> io::Result<Option<File>> {
        if self.access == Access::Read {
            let file = match File::open(self.path(LOCK_NAME)) {
                // A copy that was made without it: nobody works in there.
                Err(error) if error.kind() == io::ErrorKind::NotFound => File::open(&self.dir)?,
                opened => opened?,
            };
            return match file.try_lock_shared() {
                Ok(()) => Ok(Some(file)),
                Err(TryLockError::WouldBlock) => Ok(None),
                Err(TryLockError::Error(error)) => Err(error),
            };
        }
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(self.path(LOCK_NAME))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            // A name that is not UTF-8 is not ours; it is listed in its readable form.
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        Ok(names)
    }

    fn create(&self, name: &str) -> io::Result<LogFile> {
        self.check_writable()?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true);
        let path = self.path(name);
        Ok(LogFile::new(options.open(&path)?, path))
    }

    fn open(&self, name: &str) -> io::Result<LogFile> {
        let path = self.path(name);
        let writes = self.access == Access::Write;
        Ok(LogFile::new(OpenOptions::new().read(true).write(writes).open(&path)?, path))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.check_writable()?;
        fs::rename(self.path(from), self.path(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.check_writable()?;
        fs::remove_file(self.path(name))
    }

    fn sync_dir(&self) -> io::Result<()> {
        File::open(&self.dir)?.sync_all()
    }

    fn wait_for_room(&self, tries: u32) -> bool {
        std::thread::sleep(pause(tries));
        true
    }

    fn wait_to_read(&self, tries: u32) -> bool {
        let pause = PAUSES_TO_READ.get(tries as usize).copied();
        pause.into_iter().for_each(std::thread::sleep);
        pause.is_some()
    }
}

/// How long to wait before a write is made for so many times: long enough to ask the disk rarely.
fn pause(tries: u32) -> Duration {
    PAUSE_MAX.min(PAUSE_FIRST * 2_u32.saturating_pow(tries.min(16)))
}

/// 30 s in all, as a log that runs waits: for so long a bus may be reset, or a path to a disk be gone.
const PAUSES_TO_READ: [Duration; 5] = [
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
    Duration::from_secs(8),
    Duration::from_secs(15),
];

const PAUSE_FIRST: Duration = Duration::from_millis(20);
/// Whoever makes room sees the log go on within that time.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// An open file of a [`FileDisk`]. One descriptor, and on Linux a second one from the first
/// write of whole blocks on.
#[derive(Debug)]
pub struct LogFile {
    file: File,
    #[cfg(target_os = "linux")]
    path: PathBuf,
    /// `None` where the file system has no direct writes, or no descriptor was left.
    #[cfg(target_os = "linux")]
    direct: OnceLock<Option<DirectFile>>,
}

impl LogFile {
    #[cfg(target_os = "linux")]
    fn new(file: File, path: PathBuf) -> Self {
        Self { file, path, direct: OnceLock::new() }
    }

    #[cfg(not(target_os = "linux"))]
    fn new(file: File, _: PathBuf) -> Self {
        Self { file }
    }

    #[cfg(target_os = "linux")]
    fn direct(&self) -> Option<&DirectFile> {
        self.direct.get_or_init(|| DirectFile::open(&self.path)).as_ref()
    }
}

impl LogFile {
    /// Writes all of `parts` through the page cache.
    fn write_cached(&self, parts: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        let mut parts = parts;
        let mut offset = offset;
        // The kernel may take less than it is given; what is left is offered again.
        while !parts.is_empty() {
            let few = &parts[..parts.len().min(PARTS_MAX)];
            let taken = match rustix::io::pwritev(&self.file, few, offset) {
                Ok(0) if few.iter().all(|part| part.is_empty()) => {
                    let skipped = few.len();
                    parts = &mut parts[skipped..];
                    continue;
                }
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(taken) => taken,
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            offset += taken as u64;
            IoSlice::advance_slices(&mut parts, taken);
        }
        Ok(())
    }
}

impl DiskFile for LogFile {
    fn bytes(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }

    #[cfg(target_os = "linux")]
    fn read_alone_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        if let Some(read) = direct::read_within_block(&self.path, buffer, offset) {
            return read;
        }
        // Next best: what memory holds in one piece goes, and comes back page by page.
        self.drop_cache()?;
        rustix::fs::fadvise(&self.file, 0, None, rustix::fs::Advice::Random)?;
        let read = self.read_exact_at(buffer, offset);
        rustix::fs::fadvise(&self.file, 0, None, rustix::fs::Advice::Normal)?;
        read
    }

    fn write_vectored_at(&self, parts: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        #[cfg(target_os = "linux")]
        let mut parts = parts;
        #[cfg(target_os = "linux")]
        let mut offset = offset;
        #[cfg(target_os = "linux")]
        if DirectFile::takes(parts, offset)
            && let Some(direct) = self.direct()
        {
            offset += direct.write(&self.file, &mut parts, offset)?;
        }
        self.write_cached(parts, offset)
    }

    fn write_cached_at(&self, parts: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.write_cached(parts, offset)
    }

    #[cfg(target_os = "linux")]
    fn write_durable_at(&self, parts: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        if DirectFile::takes(parts, offset)
            && let Some(direct) = self.direct()
            && direct.write_durable(parts, offset)?
        {
            return Ok(());
        }
        self.write_vectored_at(parts, offset)?;
        self.sync_data()
    }

    #[cfg(target_os = "linux")]
    fn reserve(&self, bytes: u64) -> io::Result<()> {
        // Where there is no room, this says so before anything is written.
        match rustix::fs::fallocate(&self.file, rustix::fs::FallocateFlags::empty(), 0, bytes) {
            Ok(()) => Ok(()),
            Err(rustix::io::Errno::NOSPC) => Err(io::ErrorKind::StorageFull.into()),
            Err(rustix::io::Errno::DQUOT) => Err(io::ErrorKind::QuotaExceeded.into()),
            // File systems that cannot answer it are asked by writing.
            Err(_) => fill_with_zeros(self, 0, bytes),
        }
    }

    #[cfg(target_os = "linux")]
    fn write_zeros_at(&self, from: u64, to: u64) -> io::Result<()> {
        match self.direct() {
            Some(direct) if direct.write_zeros(from, to)? => Ok(()),
            _ => fill_with_zeros(self, from, to),
        }
    }

    #[cfg(target_os = "linux")]
    fn written(&self, bytes: u64) -> u64 {
        // Room that was never written to counts as a hole. Offsets are always named, so it does not
        // matter that this moves the file's own.
        let hole = rustix::fs::seek(&self.file, rustix::fs::SeekFrom::Hole(0));
        hole.map_or(bytes, |hole| hole.min(bytes))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    fn drop_cache(&self) -> io::Result<()> {
        drop_cache(&self.file)
    }
}

/// Lets the operating system forget what it holds of a file in memory, so that what is read next comes from
/// the disk. Without effect where it cannot be told so.
///
/// # Errors
/// Whatever it says.
pub fn drop_cache(file: &File) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed)?;
    #[cfg(not(target_os = "linux"))]
    let _ = file;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectored_write_of_more_parts_than_one_call_takes_is_complete() {
        let dir = tempfile::tempdir().unwrap();
        let disk = FileDisk::create(dir.path()).unwrap();
        let file = disk.create("f").unwrap();
        let bytes: Vec<u8> = (0..5000_u32).map(|i| i as u8).collect();
        let mut parts: Vec<IoSlice<'_>> = bytes.chunks(2).map(IoSlice::new).collect();
        parts.insert(7, IoSlice::new(&[]));
        file.write_vectored_at(&mut parts, 3).unwrap();
        let mut back = vec![0; bytes.len()];
        file.read_exact_at(&mut back, 3).unwrap();
        assert_eq!(back, bytes);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_reserved_file_reads_as_zeros_and_tells_how_far_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let disk = FileDisk::create(dir.path()).unwrap();
        let file = disk.create("f").unwrap();
        file.reserve(1 << 20).unwrap();
        assert_eq!(file.bytes().unwrap(), 1 << 20);
        file.write_zeros_at(0, 256 << 10).unwrap();
        file.sync_data().unwrap();
        let written = file.written(1 << 20);
        // A file system that cannot tell says all of it.
        assert!(written == 256 << 10 || written == 1 << 20, "{written}");
        let mut back = vec![1; 1 << 20];
        file.read_exact_at(&mut back, 0).unwrap();
        assert!(back.iter().all(|byte| *byte == 0));
    }

    #[test]
    fn a_durable_write_is_there_whatever_its_shape() {
        let dir = tempfile::tempdir().unwrap();
        let disk = FileDisk::create(dir.path()).unwrap();
        let file = disk.create("f").unwrap();
        let bytes: Vec<u8> = (0..5 << 20).map(|at| (at / 5) as u8).collect();
        // Whole blocks in parts that are none, a few bytes, and more than one call takes.
        for (offset, length) in [(4096, 8192), (3, 10), (0, 5 << 20)] {
            let content = &bytes[..length];
            let mut parts: Vec<IoSlice<'_>> = content.chunks(5_000).map(IoSlice::new).collect();
            file.write_durable_at(&mut parts, offset).unwrap();
            let mut back = vec![0; length];
            file.read_exact_at(&mut back, offset).unwrap();
            assert!(back == content, "{length} bytes at {offset}");
        }
    }

    #[test]
    fn what_is_read_alone_is_what_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let disk = FileDisk::create(dir.path()).unwrap();
        let file = disk.create("f").unwrap();
        let bytes: Vec<u8> = (0..3 * 4096 + 100_u32).map(|at| (at / 7) as u8).collect();
        file.write_cached_at(&mut [IoSlice::new(&bytes)], 0).unwrap();
        for (offset, length) in [(0, 4096), (4096, 4096), (5000, 17), (3 * 4096, 100)] {
            let mut back = vec![0; length];
            file.read_alone_at(&mut back, offset as u64).unwrap();
            assert!(back == bytes[offset..offset + length], "{length} bytes at {offset}");
        }
        let beyond = file.read_alone_at(&mut [0; 101], 3 * 4096).map_err(|error| error.kind());
        assert_eq!(beyond, Err(io::ErrorKind::UnexpectedEof));
    }

    #[test]
    fn a_disk_without_room_is_asked_less_and_less_often() {
        let pauses: Vec<Duration> = (0..40).map(pause).collect();
        assert_eq!(pauses[..3].iter().map(Duration::as_millis).sum::<u128>(), 20 + 40 + 80);
        assert!(pauses.is_sorted() && pauses[39] == PAUSE_MAX);
    }

    #[test]
    fn lock_is_held_by_one_and_freed_by_drop() {
        let dir = tempfile::tempdir().unwrap();
        let disk = FileDisk::create(dir.path()).unwrap();
        let lock = disk.try_lock().unwrap();
        assert!(lock.is_some());
        assert!(disk.try_lock().unwrap().is_none());
        drop(lock);
        assert!(disk.try_lock().unwrap().is_some());
    }
}
