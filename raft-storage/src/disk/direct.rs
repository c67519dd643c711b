//! Writes around the page cache, and reads of single blocks that the page cache refuses.
//!
//! The log is written once and hardly ever read back, in whole blocks of 4 KiB. Through the page
//! cache each of those bytes is copied into memory fresh from the system, and that took more
//! processor time than the disk did (measured: half of the log thread's, on a virtual machine).
//! So writes go to the device directly, from blocks that are used again and again. Reads still use
//! the page cache; the kernel keeps the two in step.
//!
//! Where the file system does not take direct writes, or a write is not made of whole blocks, the
//! ordinary way is used.
//!
//! A direct write as such makes nothing durable: that is for `fdatasync`, or for the flag
//! `RWF_DSYNC` on the write itself, which asks the kernel for the same before the call returns.
//! The two differ in one thing: where the device can write through its cache, the flag covers the
//! bytes of this call and nothing that was written before.

use crate::disk::PARTS_MAX;

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use rustix::io::ReadWriteFlags;

/// Address, length and offset of a direct write are multiples of this on every common device.
const BLOCK: usize = crate::format::segment::BLOCK_BYTES as usize;

/// Blocks written by one system call, and kept for reuse: 4 MiB.
const BLOCKS_MAX: usize = 1024;

#[derive(Clone)]
#[repr(align(4096))]
struct Block([u8; BLOCK]);

static ZEROS: Block = Block([0; BLOCK]);

/// When the bytes of a write are to be durable.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Durable {
    /// With the next sync of the file.
    Later,
    /// When the call returns.
    AtOnce,
}

/// The two system calls of a direct write. Both may take less than they are given.
pub(crate) trait Device: Send + Sync {
    fn write(&self, parts: &[IoSlice<'_>], offset: u64) -> rustix::io::Result<usize>;
    fn write_durable(&self, parts: &[IoSlice<'_>], offset: u64) -> rustix::io::Result<usize>;
}

impl Device for File {
    fn write(&self, parts: &[IoSlice<'_>], offset: u64) -> rustix::io::Result<usize> {
        rustix::io::pwritev(self, parts, offset)
    }

    fn write_durable(&self, parts: &[IoSlice<'_>], offset: u64) -> rustix::io::Result<usize> {
        rustix::io::pwritev2(self, parts, offset, ReadWriteFlags::DSYNC)
    }
}

/// A file opened a second time, for direct writes.
pub(crate) struct DirectFile<D = File> {
    file: D,
    /// False once the file system has refused.
    usable: AtomicBool,
    /// False once the kernel has refused to write and sync in one call.
    syncs: AtomicBool,
    blocks: Mutex<Vec<Block>>,
}

impl<D> std::fmt::Debug for DirectFile<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DirectFile").field("usable", &self.usable).finish_non_exhaustive()
    }
}

impl DirectFile {
    /// `None` where the file system has no direct writes.
    pub(crate) fn open(path: &Path) -> Option<Self> {
        let flags = i32::try_from(rustix::fs::OFlags::DIRECT.bits()).ok()?;
        OpenOptions::new().write(true).custom_flags(flags).open(path).ok().map(Self::new)
    }

    /// Whether these are whole blocks at the place of one: others are not written directly.
    pub(crate) fn takes(parts: &[IoSlice<'_>], offset: u64) -> bool {
        let total: usize = parts.iter().map(|part| part.len()).sum();
        total.is_multiple_of(BLOCK) && offset.is_multiple_of(BLOCK as u64)
    }
}

/// Reads what lies within one block from the device, and nothing else. `None` where that is not possible, or
/// not all of it came.
///
/// Opens the file anew, for each block: it is for stretches in which something was refused, which are rare and
/// cost the disk more than that.
pub(crate) fn read_within_block(
    path: &Path,
    buffer: &mut [u8],
    offset: u64,
) -> Option<io::Result<()>> {
    let flags = i32::try_from(rustix::fs::OFlags::DIRECT.bits()).ok()?;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).ok()?;
    let from = (offset % BLOCK as u64) as usize;
    let to = from.checked_add(buffer.len()).filter(|to| *to <= BLOCK)?;
    let mut block = ZEROS.clone();
    let read = loop {
        match rustix::io::pread(&file, &mut block.0, offset - from as u64) {
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::OPNOTSUPP) => return None,
            Err(error) => return Some(Err(error.into())),
            Ok(read) => break read,
        }
    };
    (read >= to).then(|| {
        buffer.copy_from_slice(&block.0[from..to]);
        Ok(())
    })
}

impl<D: Device> DirectFile<D> {
    fn new(file: D) -> Self {
        Self {
            file,
            usable: AtomicBool::new(true),
            syncs: AtomicBool::new(true),
            blocks: Mutex::default(),
        }
    }

    /// Writes what it can of `parts` and moves them on; returns how many bytes that was. What is
    /// left, which may be all, has to be written the ordinary way. `ordinary` is the same file,
    /// for what has been gathered when the file system refuses.
    ///
    /// # Errors
    /// Whatever the device says, except that it does not take direct writes.
    pub(crate) fn write(
        &self,
        ordinary: &File,
        parts: &mut &mut [IoSlice<'_>],
        offset: u64,
    ) -> io::Result<u64> {
        let total: usize = parts.iter().map(|part| part.len()).sum();
        if !DirectFile::takes(parts, offset) || !self.usable.load(Ordering::Relaxed) {
            return Ok(0);
        }
        if parts.len() <= PARTS_MAX && parts.iter().all(is_aligned) {
            // What comes back short has moved on its own slices; the caller's move on here.
            let mut own = parts.to_vec();
            let written = self.write_blocks(&mut own, offset, Durable::Later)?;
            self.usable.fetch_and(written == total, Ordering::Relaxed);
            IoSlice::advance_slices(parts, written);
            return Ok(written as u64);
        }
        let mut blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        let mut done = 0;
        while done < total && self.usable.load(Ordering::Relaxed) {
            let count = ((total - done) / BLOCK).min(BLOCKS_MAX);
            let mut slices = gather(parts, &mut blocks, count);
            let written = self.write_blocks(&mut slices, offset + done as u64, Durable::Later)?;
            if written < count * BLOCK {
                self.usable.store(false, Ordering::Relaxed);
                for (at, block) in blocks[..count].iter().enumerate() {
                    ordinary.write_all_at(&block.0, offset + (done + at * BLOCK) as u64)?;
                }
            }
            done += count * BLOCK;
        }
        Ok(done as u64)
    }

    /// Writes all of `parts` and makes them durable by one call, if one can do it; otherwise
    /// returns false, with `parts` as they were, and it has to be done by two.
    ///
    /// # Errors
    /// Whatever the device says, except that it does not do this.
    pub(crate) fn write_durable(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<bool> {
        let total: usize = parts.iter().map(|part| part.len()).sum();
        let able = DirectFile::takes(parts, offset)
            && total <= BLOCKS_MAX * BLOCK
            && self.usable.load(Ordering::Relaxed)
            && self.syncs.load(Ordering::Relaxed);
        if !able {
            return Ok(false);
        }
        let mut parts = parts.to_vec();
        let written = if parts.len() <= PARTS_MAX && parts.iter().all(is_aligned) {
            self.write_blocks(&mut parts, offset, Durable::AtOnce)?
        } else {
            let mut blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
            let mut slices = gather(&mut &mut parts[..], &mut blocks, total / BLOCK);
            self.write_blocks(&mut slices, offset, Durable::AtOnce)?
        };
        Ok(written == total)
    }

    /// Writes zeros from `from` up to `to`; false if that is not possible here.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub(crate) fn write_zeros(&self, from: u64, to: u64) -> io::Result<bool> {
        if !from.is_multiple_of(BLOCK as u64) || !to.is_multiple_of(BLOCK as u64) {
            return Ok(false);
        }
        let mut offset = from;
        while offset < to {
            let count = ((to - offset) / BLOCK as u64).min(BLOCKS_MAX as u64) as usize;
            let mut slices = vec![IoSlice::new(&ZEROS.0); count];
            let written = self.write_blocks(&mut slices, offset, Durable::Later)?;
            if written < count * BLOCK {
                return Ok(false);
            }
            offset += written as u64;
        }
        Ok(true)
    }

    /// Returns less than asked for only if the file system refuses direct writes, or the kernel
    /// to sync by the same call.
    fn write_blocks(
        &self,
        slices: &mut [IoSlice<'_>],
        offset: u64,
        durable: Durable,
    ) -> io::Result<usize> {
        let mut left = slices;
        let mut done = 0;
        while !left.is_empty() {
            let at = offset + done as u64;
            let taken = match durable {
                Durable::Later => self.file.write(left, at),
                Durable::AtOnce => self.file.write_durable(left, at),
            };
            match taken {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(taken) => {
                    done += taken;
                    IoSlice::advance_slices(&mut left, taken);
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS)
                    if durable == Durable::AtOnce =>
                {
                    self.syncs.store(false, Ordering::Relaxed);
                    return Ok(done);
                }
                Err(rustix::io::Errno::INVAL) => return Ok(done),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(done)
    }
}

/// Whether a part can go to the device from where it lies.
fn is_aligned(part: &IoSlice<'_>) -> bool {
    part.as_ptr().addr().is_multiple_of(BLOCK) && part.len().is_multiple_of(BLOCK)
}

/// Fills `count` blocks from the front of `parts`, moves those on, and returns the blocks.
fn gather<'b>(
    parts: &mut &mut [IoSlice<'_>],
    blocks: &'b mut Vec<Block>,
    count: usize,
) -> Vec<IoSlice<'b>> {
    if blocks.len() < count {
        blocks.resize(count, ZEROS.clone());
    }
    for block in &mut blocks[..count] {
        let mut room = &mut block.0[..];
        while !room.is_empty()
            && let Some(part) = parts.first()
        {
            let count = part.len().min(room.len());
            let (now, later) = room.split_at_mut(count);
            now.copy_from_slice(&part[..count]);
            room = later;
            IoSlice::advance_slices(parts, count);
        }
    }
    blocks[..count].iter().map(|block| IoSlice::new(&block.0)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_blocks_arrive_however_they_are_cut() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("file");
        let ordinary = OpenOptions::new().write(true).create_new(true).open(&path)?;
        // More than one call takes, in parts that match no block.
        let content: Vec<u8> = (0..BLOCK * (BLOCKS_MAX + 3)).map(|at| (at / 7) as u8).collect();
        let mut parts: Vec<IoSlice<'_>> = content.chunks(10_007).map(IoSlice::new).collect();
        let mut left = &mut parts[..];
        let Some(direct) = DirectFile::open(&path) else { return Ok(()) };
        let written = direct.write(&ordinary, &mut left, BLOCK as u64)?;
        assert_eq!(written, content.len() as u64);
        assert!(left.is_empty());
        assert_eq!(std::fs::read(&path)?[BLOCK..], content);
        Ok(())
    }

    const SECTOR: usize = 512;

    /// A device that takes no more than so many bytes at a time, and refuses what is not aligned then.
    struct Short {
        file: File,
        bytes_max: usize,
    }

    impl Device for Short {
        fn write(&self, parts: &[IoSlice<'_>], offset: u64) -> rustix::io::Result<usize> {
            if !offset.is_multiple_of(SECTOR as u64) {
                return Err(rustix::io::Errno::INVAL);
            }
            let bytes: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
            let taken = bytes.len().min(self.bytes_max);
            self.file.write_all_at(&bytes[..taken], offset).expect("an ordinary file");
            Ok(taken)
        }

        fn write_durable(&self, parts: &[IoSlice<'_>], offset: u64) -> rustix::io::Result<usize> {
            self.write(parts, offset)
        }
    }

    #[test]
    fn a_write_that_comes_back_short_is_whole_in_the_end() -> io::Result<()> {
        const COUNT: usize = 7;
        let content: Vec<u8> = (0..COUNT * BLOCK).map(|at| (at / 3) as u8 | 1).collect();
        let aligned: Vec<Block> =
            content.as_chunks::<BLOCK>().0.iter().map(|bytes| Block(*bytes)).collect();
        let shifted: Vec<u8> = [0].into_iter().chain(content.iter().copied()).collect();
        // Within a sector and at its end, within a block and at its end, and all of it.
        for bytes_max in [1, 511, 512, 3 * 512 + 100, BLOCK, 2 * BLOCK + 512, COUNT * BLOCK] {
            for (is_aligned, is_durable) in [(true, false), (false, false), (true, true)] {
                let dir = tempfile::tempdir()?;
                let path = dir.path().join("file");
                let ordinary = OpenOptions::new().write(true).create_new(true).open(&path)?;
                let direct = DirectFile::new(Short { file: ordinary.try_clone()?, bytes_max });
                let mut parts: Vec<IoSlice<'_>> = match is_aligned {
                    true => aligned.iter().map(|block| IoSlice::new(&block.0)).collect(),
                    false => shifted[1..].chunks(3 * BLOCK).map(IoSlice::new).collect(),
                };
                let told = format!("{bytes_max}, aligned {is_aligned}, durable {is_durable}");
                if is_durable {
                    let done = direct.write_durable(&parts, BLOCK as u64)?;
                    assert_eq!(done, bytes_max.is_multiple_of(SECTOR), "{told}");
                    let before: usize = parts.iter().map(|part| part.len()).sum();
                    assert_eq!(before, COUNT * BLOCK, "{told}: it is to be written as it was");
                    if !done {
                        continue;
                    }
                } else {
                    let mut left = &mut parts[..];
                    let mut at = BLOCK as u64;
                    at += direct.write(&ordinary, &mut left, at)?;
                    for part in left.iter() {
                        ordinary.write_all_at(part, at)?;
                        at += part.len() as u64;
                    }
                    assert_eq!(at, (BLOCK * (COUNT + 1)) as u64, "{told}");
                }
                assert!(std::fs::read(&path)?[BLOCK..] == content, "{told}");
            }
        }
        Ok(())
    }

    #[test]
    fn what_is_not_whole_is_left_to_the_ordinary_way() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("file");
        let ordinary = OpenOptions::new().write(true).create_new(true).open(&path)?;
        let Some(direct) = DirectFile::open(&path) else { return Ok(()) };
        for (bytes, offset) in [(BLOCK + 1, 0), (BLOCK, 512)] {
            let content = vec![1; bytes];
            let mut parts = [IoSlice::new(&content)];
            assert_eq!(direct.write(&ordinary, &mut &mut parts[..], offset)?, 0);
            assert_eq!(parts[0].len(), bytes);
        }
        Ok(())
    }
}
