//! The seam between the log and files: everything the log asks of a disk.
//!
//! A [`Disk`] is one directory. The log uses no other way to the outside, so a disk that drops
//! unsynced writes, tears sectors, fills up or fails a sync ([`crate::MemDisk`]) runs under the
//! very code that production runs.
//!
//! What a disk promises, and what the log relies on:
//! - bytes are durable once `sync_data` or `sync_all` of their file has returned `Ok`, and those of
//!   a `write_durable_at` once that has;
//! - names (created, renamed, removed) are durable once `sync_dir` has returned `Ok`;
//! - before that, any subset of the written sectors may survive a power cut, in any order;
//! - after a failed sync nothing is known, and a second sync proves nothing;
//! - a write that finds no room may have written a part, and takes nothing back that was there before
//!   outside of where it writes;
//! - a place that cannot be read ([`is_unreadable`](readings::is_unreadable)) can be again once whole
//!   blocks were written there, or the device is worn out.

#[cfg(target_os = "linux")]
mod direct;
#[cfg(unix)]
pub(crate) mod file_disk;
pub(crate) mod mem_disk;
pub(crate) mod readings;

use std::io::{self, IoSlice};

use crate::disk::readings::Readings;

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
    /// A write into room that was reserved found none ([`is_out_of_room`]), and so did those that
    /// repeated it `tries` times; asked only where somebody can end the waiting
    /// ([`RoomWait::allow`](crate::RoomWait::allow)). Lets some time pass, and says whether to try again; if not, the log
    /// fails.
    fn wait_for_room(&self, tries: u32) -> bool {
        let _ = tries;
        false
    }
    /// An open has found places that cannot be read ([`is_unreadable`](readings::is_unreadable)), by which
    /// something would be lost, and so it did `tries` times before. Lets some time pass, and says whether
    /// to ask for them again; if not, they are lost for good.
    fn wait_to_read(&self, tries: u32) -> bool {
        let _ = tries;
        false
    }
}

/// One open file of a [`Disk`].
pub trait DiskFile: Send + Sync + 'static {
    /// The length in bytes.
    fn bytes(&self) -> io::Result<u64>;
    /// Fills `buffer` from `offset`; `UnexpectedEof` if the file ends before.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
    /// Reads as [`read_exact_at`](Self::read_exact_at) does what lies within one block of 4096 bytes, and
    /// nothing with it: what was refused is often refused for all that memory holds in one piece with it
    /// (a folio of 16 KiB and more), though a single sector is bad. Slow.
    fn read_alone_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.drop_cache()?;
        self.read_exact_at(buffer, offset)
    }
    /// Writes all of `parts`, one after another, from `offset` on, growing the file if needed.
    ///
    /// An error leaves it unknown how much was written.
    fn write_vectored_at(&self, parts: &mut [IoSlice<'_>], offset: u64) -> io::Result<()>;
    /// Writes as [`write_vectored_at`](Self::write_vectored_at) does, into memory: nothing of it
    /// waits for the device.
    fn write_cached_at(&self, parts: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.write_vectored_at(parts, offset)
    }
    /// Writes as [`write_vectored_at`](Self::write_vectored_at) does and makes it durable, in one
    /// call where there is one. It says nothing of what was written before and not synced: that
    /// may be durable as well, or not.
    ///
    /// An error is that of a failed sync: it leaves everything unknown.
    fn write_durable_at(&self, parts: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.write_vectored_at(parts, offset)?;
        self.sync_data()
    }
    /// Writes `bytes` zeros at the start of a new file, by the cheapest way there is.
    fn write_zeros(&self, bytes: u64) -> io::Result<()> {
        self.reserve(bytes)?;
        self.write_zeros_at(0, bytes)
    }
    /// Makes a new file so long, with room for all of it: it reads as zeros, and no write within
    /// that length fails for want of room. Where the file system cannot promise that otherwise,
    /// the zeros are written.
    fn reserve(&self, bytes: u64) -> io::Result<()> {
        fill_with_zeros(self, 0, bytes)
    }
    /// Writes zeros from `from` up to `to`, both multiples of 4096.
    fn write_zeros_at(&self, from: u64, to: u64) -> io::Result<()> {
        fill_with_zeros(self, from, to)
    }
    /// How far from its beginning a file of `bytes` bytes was written, and not only
    /// [reserved](Self::reserve). A hint: all of it where that is not known.
    fn written(&self, bytes: u64) -> u64 {
        bytes
    }
    /// Makes the content durable, with as much metadata as reading it back needs.
    fn sync_data(&self) -> io::Result<()>;
    /// Makes content and all metadata durable.
    fn sync_all(&self) -> io::Result<()>;
    /// Asks that later reads come from the disk and not from memory. A hint: `Ok` if ignored.
    fn drop_cache(&self) -> io::Result<()>;
}

/// Whether a disk refused for lack of room: full, or a quota is used up.
///
/// Such a refusal says nothing against the disk, and may end at any moment.
pub fn is_out_of_room(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Whether the process, or the system, has no file descriptor left (`EMFILE`, `ENFILE`).
///
/// That passes when something is closed.
pub fn is_out_of_descriptors(error: &io::Error) -> bool {
    // The numbers are the same on every Unix; the standard library has no kind for them.
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    cfg!(unix) && matches!(error.raw_os_error(), Some(ENFILE | EMFILE))
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

/// How long each copy of a file of [`write_twins`] is, and its content at most. Far enough apart that no
/// device writes both at once.
pub const TWIN_BYTES: usize = 4096;

/// Makes `content` that of the small file `name`, which holds it twice, each copy filled up with
/// zeros. A file that is there is overwritten in place, one copy after the other: that needs no
/// room, and a crash leaves one of the copies whole, the old one or the new one.
///
/// # Errors
/// The disk's own; then one copy at least is whole. `InvalidInput` if the content is longer than
/// [`TWIN_BYTES`].
pub fn write_twins<D: Disk>(disk: &D, name: &str, content: &[u8]) -> io::Result<()> {
    match disk.open(name) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            replace_file(disk, name, &twin(content)?.repeat(2))
        }
        opened => write_both(&opened?, content),
    }
}

/// A copy of it, a whole block: a part of one that cannot be read could not be written.
pub(crate) fn twin(content: &[u8]) -> io::Result<Vec<u8>> {
    if content.len() > TWIN_BYTES {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut copy = content.to_vec();
    copy.resize(TWIN_BYTES, 0);
    Ok(copy)
}

/// [`write_twins`] into a file that is there. Not worth a descriptor for direct writes.
pub(crate) fn write_both<F: DiskFile>(file: &F, content: &[u8]) -> io::Result<()> {
    let copy = twin(content)?;
    for at in [0, TWIN_BYTES as u64] {
        file.write_cached_at(&mut [IoSlice::new(&copy)], at)?;
        file.sync_data()?;
    }
    Ok(())
}

/// Both copies of a file that [`write_twins`] has made, without the zeros at their ends, or `None`
/// if there is no such file. Either may be torn, and one that the disk cannot read is empty; a file of
/// another length has no copy.
///
/// # Errors
/// The disk's own, if it cannot read either.
pub fn read_twins<D: Disk>(disk: &D, name: &str) -> io::Result<Option<Vec<Vec<u8>>>> {
    let Some(bytes) = read_doubled(disk, name, 2 * TWIN_BYTES)? else { return Ok(None) };
    if bytes.len() != 2 * TWIN_BYTES {
        return Ok(Some(Vec::new()));
    }
    let content = |copy: &[u8]| {
        let end = copy.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        copy[..end].to_vec()
    };
    Ok(Some(bytes.chunks(TWIN_BYTES).map(content).collect()))
}

/// The content of the small file `name`, or `None` if there is no such file.
///
/// More than `bytes_max` bytes are not read: the answer is then one byte too long, which no
/// decoder of a small file accepts.
///
/// # Errors
/// The disk's own.
pub fn read_file<D: Disk>(disk: &D, name: &str, bytes_max: usize) -> io::Result<Option<Vec<u8>>> {
    read_small(disk, name, bytes_max, |file, content| file.read_exact_at(content, 0))
}

/// [`read_file`] by `read`, which fills what the content takes.
fn read_small<D: Disk>(
    disk: &D,
    name: &str,
    bytes_max: usize,
    read: impl FnOnce(&D::File, &mut [u8]) -> io::Result<()>,
) -> io::Result<Option<Vec<u8>>> {
    let file = match disk.open(name) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let bytes = file.bytes()?.min(bytes_max as u64 + 1);
    let mut content = vec![0; bytes as usize];
    read(&file, &mut content)?;
    Ok(Some(content))
}

/// [`read_file`] for a file that says everything twice: a block that the disk cannot read is zeros,
/// unless that is so of all of them.
pub(crate) fn read_doubled<D: Disk>(
    disk: &D,
    name: &str,
    bytes_max: usize,
) -> io::Result<Option<Vec<u8>>> {
    read_small(disk, name, bytes_max, |file, content| {
        let readings = Readings::default();
        readings.read((name, file), content, 0)?;
        readings.refusal().map_or(Ok(()), Err)
    })
}

/// Parts per system call; Linux and the BSDs take 1024 (`IOV_MAX`).
#[cfg(unix)]
const PARTS_MAX: usize = 1024;
/// What the unfinished replacement of a file is called.
pub(crate) const TEMPORARY_SUFFIX: &str = ".tmp";
/// The file whose lock means "this directory is in use".
pub(crate) const LOCK_NAME: &str = "lock";
