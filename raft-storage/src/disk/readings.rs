//! What a disk cannot read: a sector that is lost, told from a disk that is.
//!
//! A sector that has gone bad is damage like a flipped bit, so whoever looks at a log takes it for zeros,
//! which no checksum holds for, and goes on. That must not make of a cable that came off the loss of all
//! groups. So it is counted: beyond [`UNREADABLE_BLOCKS_MAX`] blocks, or where not one block of the log
//! could be read, it is the disk that fails, and nothing is judged.
//!
//! Where that line is drawn: sectors fail in ones and dozens, by a scratch or a worn page, and what a
//! log is opened by is a small part of a disk. A device that answers for the rest of it and has lost a
//! whole MiB of that is not one to go on with. And each refusal may take seconds, so their number is
//! also how long an open can take.
//!
//! A block is asked for with its neighbours, and then alone ([`DiskFile::read_alone_at`]); what is refused
//! then stays refused for as long as this lives. Whoever would lose something by it waits first, and asks
//! for exactly these blocks again ([`Readings::is_any_back`]); if one of them is back, everything is read anew.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::disk::{Disk, DiskFile};
use crate::error::OpenError;
use crate::format::segment::BLOCK_BYTES;

/// So many blocks of 4 KiB may be lost: 1 MiB.
pub(crate) const UNREADABLE_BLOCKS_MAX: u64 = 256;

/// Whether a disk says that it cannot read a place (`EIO`, and what Linux says of a medium that failed or
/// of a checksum below the file).
///
/// It says nothing of other places, nor whether the same one can be read later.
pub fn is_unreadable(error: &io::Error) -> bool {
    const EIO: i32 = 5;
    /// `ENODATA`, `EILSEQ`, `EBADMSG`, `EUCLEAN`: media error, protection information, checksum,
    /// file system structure.
    const OF_LINUX: [i32; 4] = [61, 84, 74, 117];
    let number = error.raw_os_error();
    let of_linux = number.is_some_and(|number| OF_LINUX.contains(&number));
    cfg!(unix) && number == Some(EIO) || cfg!(target_os = "linux") && of_linux
}

/// What was read of the files of one log, and what could not be.
#[derive(Debug, Default)]
pub(crate) struct Readings {
    /// Something was read.
    any: AtomicBool,
    /// Blocks that cannot be read.
    unreadable: AtomicU64,
    lost: Mutex<Lost>,
}

#[derive(Debug, Default)]
struct Lost {
    /// Where blocks begin that cannot be read, by file.
    blocks: BTreeMap<String, BTreeSet<u64>>,
    /// What the disk said of the first.
    error: Option<io::Error>,
}

impl Readings {
    /// Fills `buffer` with what the file `name` holds from `offset` on; what the disk cannot read is
    /// zeros. Returns where the blocks begin of which that is so.
    ///
    /// # Errors
    /// Any other error of the disk; one without meaning once it is the disk that fails, which
    /// [`Self::judge`] then says.
    pub(crate) fn read<F: DiskFile>(
        &self,
        (name, file): (&str, &F),
        buffer: &mut [u8],
        offset: u64,
    ) -> io::Result<Vec<u64>> {
        if !self.loses(name, offset, buffer.len() as u64) {
            match file.read_exact_at(buffer, offset) {
                Ok(()) => {
                    self.any.fetch_or(!buffer.is_empty(), Ordering::Relaxed);
                    return Ok(Vec::new());
                }
                Err(error) if is_unreadable(&error) => {}
                Err(error) => return Err(error),
            }
        }
        let mut lost = Vec::new();
        let mut rest = buffer;
        let mut at = offset;
        while !rest.is_empty() {
            let block = at - at % BLOCK_BYTES;
            let bytes = (block + BLOCK_BYTES - at).min(rest.len() as u64);
            let (part, after) = rest.split_at_mut(bytes as usize);
            let mut is_lost = self.loses(name, block, BLOCK_BYTES);
            if !is_lost {
                match file.read_alone_at(part, at) {
                    Ok(()) => self.any.store(true, Ordering::Relaxed),
                    Err(error) if is_unreadable(&error) => {
                        self.lose(name, block, error)?;
                        is_lost = true;
                    }
                    Err(error) => return Err(error),
                }
            }
            if is_lost {
                part.fill(0);
                lost.push(block);
            }
            (rest, at) = (after, at + bytes);
        }
        Ok(lost)
    }

    /// Whether something of `[offset, offset + bytes)` was asked for and cannot be read.
    fn loses(&self, name: &str, offset: u64, bytes: u64) -> bool {
        if self.unreadable.load(Ordering::Relaxed) == 0 {
            return false;
        }
        let lost = self.lost.lock();
        let begin = offset - offset % BLOCK_BYTES;
        let blocks = lost.blocks.get(name);
        blocks.is_some_and(|blocks| {
            blocks.range(begin..offset.saturating_add(bytes)).next().is_some()
        })
    }

    fn lose(&self, name: &str, block: u64, error: io::Error) -> io::Result<()> {
        let mut lost = self.lost.lock();
        if lost.blocks.entry(name.to_owned()).or_default().insert(block) {
            self.unreadable.fetch_add(1, Ordering::Relaxed);
        }
        let kind = error.kind();
        lost.error.get_or_insert(error);
        if self.unreadable.load(Ordering::Relaxed) > UNREADABLE_BLOCKS_MAX {
            return Err(kind.into());
        }
        Ok(())
    }

    /// How many blocks cannot be read.
    pub(crate) fn lost(&self) -> u64 {
        self.unreadable.load(Ordering::Relaxed)
    }

    /// Whether one of them can be read by now. Asks for each once.
    pub(crate) fn is_any_back<D: Disk>(&self, disk: &D) -> bool {
        let lost = self.lost.lock();
        lost.blocks.iter().any(|(name, blocks)| {
            let Ok(file) = disk.open(name) else { return false };
            let Ok(bytes) = file.bytes() else { return false };
            let mut buffer = [0; BLOCK_BYTES as usize];
            blocks.iter().any(|block| {
                let there = bytes.saturating_sub(*block).min(BLOCK_BYTES) as usize;
                file.read_alone_at(&mut buffer[..there], *block).is_ok()
            })
        })
    }

    /// Whether it is the disk that fails, and not a sector.
    pub(crate) fn is_disk(&self) -> bool {
        let blocks = self.unreadable.load(Ordering::Relaxed);
        blocks > UNREADABLE_BLOCKS_MAX || blocks > 0 && !self.any.load(Ordering::Relaxed)
    }

    /// What an attempt to look at a log ends with: its own error, or that the disk fails.
    pub(crate) fn judge(&self, dir: String, error: OpenError) -> OpenError {
        let blocks = self.unreadable.load(Ordering::Relaxed);
        match self.refusal() {
            Some(source) => OpenError::DiskUnreadable { dir, blocks, source },
            None => error,
        }
    }

    /// What the disk said, if it fails.
    pub(crate) fn refusal(&self) -> Option<io::Error> {
        if self.is_disk() { self.lost.lock().error.take() } else { None }
    }
}

/// Fills `buffer` block by block, each asked for alone: for what was refused together with its neighbours.
///
/// # Errors
/// Of the first block that the disk refuses.
pub(crate) fn read_alone<F: DiskFile + ?Sized>(
    file: &F,
    buffer: &mut [u8],
    offset: u64,
) -> io::Result<()> {
    let (mut rest, mut at) = (buffer, offset);
    while !rest.is_empty() {
        let bytes = (BLOCK_BYTES - at % BLOCK_BYTES).min(rest.len() as u64);
        let (part, after) = rest.split_at_mut(bytes as usize);
        file.read_alone_at(part, at)?;
        (rest, at) = (after, at + bytes);
    }
    Ok(())
}
