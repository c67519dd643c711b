//! The seam between the log and files: everything the log asks of a disk.
//!
//! A [`Disk`] is one directory. The log uses no other way to the outside, so a disk that drops
//! unsynced writes, tears sectors, fills up or fails a sync ([`crate::MemDisk`]) runs under the
//! very code that production runs.
//!
//! What a disk promises, and what the log relies on:
//! - bytes are durable once `sync_data` or `sync_all` of their file has returned `Ok`;
//! - names (created, renamed, removed) are durable once `sync_dir` has returned `Ok`;
//! - before that, any subset of the written sectors may survive a power cut, in any order;
//! - after a failed sync nothing is known, and a second sync proves nothing.

use std::io::{self, IoSlice};

/// One directory on which a log lives. Clones name the same directory.
pub trait Disk: Clone + Send + Sync + 'static {
    /// An open file. Reads and writes name their offset, so one handle serves all threads.
    type File: DiskFile;
    /// Held while a log is open; dropping it lets another open the directory.
    type Lock: Send + 'static;

    /// Names the directory in errors.
    fn describe(&self) -> String;
    /// Claims the directory, or `None` if another log holds it, in this process or another.
    fn try_lock(&self) -> io::Result<Option<Self::Lock>>;
    /// The names of all files, in any order.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Makes a new empty file; an existing one is an error.
    fn create(&self, name: &str) -> io::Result<Self::File>;
    /// Opens an existing file for reading and writing.
    fn open(&self, name: &str) -> io::Result<Self::File>;
    /// Gives a file another name, replacing what had it. Atomic, durable after `sync_dir`.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a name. Durable after `sync_dir`.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes all name changes so far durable.
    fn sync_dir(&self) -> io::Result<()>;
}

/// One open file of a [`Disk`].
pub trait DiskFile: Send + Sync + 'static {
    /// The length in bytes.
    fn bytes(&self) -> io::Result<u64>;
    /// Fills `buffer` from `offset`; `UnexpectedEof` if the file ends before.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
    /// Writes all of `parts`, one after another, from `offset` on, growing the file if needed.
    ///
    /// An error leaves it unknown how much was written.
    fn write_vectored_at(&self, parts: &mut [IoSlice<'_>], offset: u64) -> io::Result<()>;
    /// Writes `bytes` zeros at the start of a new file, by the cheapest way there is.
    fn write_zeros(&self, bytes: u64) -> io::Result<()> {
        fill_with_zeros(self, 0, bytes)
    }
    /// Makes the content durable, with as much metadata as reading it back needs.
    fn sync_data(&self) -> io::Result<()>;
    /// Makes content and all metadata durable.
    fn sync_all(&self) -> io::Result<()>;
    /// Asks that later reads come from the disk and not from memory. A hint: `Ok` if ignored.
    fn drop_cache(&self) -> io::Result<()>;
}

/// Overwrites `[from, to)` with zeros.
pub(crate) fn fill_with_zeros<F: DiskFile + ?Sized>(
    file: &F,
    from: u64,
    to: u64,
) -> io::Result<()> {
    static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
    let mut offset = from;
    while offset < to {
        let mut parts = Vec::with_capacity(16);
        let begin = offset;
        while offset < to && parts.len() < 16 {
            let bytes = (to - offset).min(ZEROS.len() as u64);
            parts.push(IoSlice::new(&ZEROS[..bytes as usize]));
            offset += bytes;
        }
        file.write_vectored_at(&mut parts, begin)?;
    }
    Ok(())
}

/// Replaces the small file `name` by `content`, so that a crash leaves the old or the new one.
///
/// # Errors
/// The disk's own; then either content may be there.
pub fn replace_file<D: Disk>(disk: &D, name: &str, content: &[u8]) -> io::Result<()> {
    let temporary = format!("{name}{TEMPORARY_SUFFIX}");
    match disk.remove(&temporary) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let file = disk.create(&temporary)?;
    file.write_vectored_at(&mut [IoSlice::new(content)], 0)?;
    file.sync_all()?;
    disk.rename(&temporary, name)?;
    disk.sync_dir()
}

/// The content of the small file `name`, or `None` if there is no such file.
///
/// More than `bytes_max` bytes are not read: the answer is then one byte too long, which no
/// decoder of a small file accepts.
///
/// # Errors
/// The disk's own.
pub fn read_file<D: Disk>(disk: &D, name: &str, bytes_max: usize) -> io::Result<Option<Vec<u8>>> {
    let file = match disk.open(name) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let bytes = file.bytes()?.min(bytes_max as u64 + 1);
    let mut content = vec![0; bytes as usize];
    file.read_exact_at(&mut content, 0)?;
    Ok(Some(content))
}

/// What the unfinished replacement of a file is called.
pub(crate) const TEMPORARY_SUFFIX: &str = ".tmp";
/// The file whose lock means "this directory is in use".
pub(crate) const LOCK_NAME: &str = "lock";
