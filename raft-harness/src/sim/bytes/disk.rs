//! A disk as a power cut and a lying controller leave it.
//!
//! Readers see what was written last, as from a page cache. Beneath lies what is durable: for
//! each sector written since the last sync of its file, the content it had before. A power cut
//! decides every such sector by itself: old, new, or torn somewhere in the middle; and every name
//! changed since the last sync of the directory: old or new. The death of the process alone
//! changes nothing.
//!
//! A sync that fails leaves some of the sectors behind it on the disk and the others not, and
//! marks all of them clean: no later sync brings them back, yet readers go on seeing them, until
//! the cache is dropped or the power goes. That is what file systems do.
//!
//! What is at rest may rot: a bit flips, or a block cannot be read any more, and no part of it written,
//! until all of it is.
//!
//! Time is not here: an operation is done when it is called, and the driver lets time pass before
//! it calls a sync, so a crash before that moment finds the writes pending.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSlice};
use std::ops::Range;
use std::sync::Arc;

use parking_lot::Mutex;
use raft_storage::{Disk, DiskFile};

use super::fuse::Fuse;
use super::snapshots::WHOLE;
use crate::sim::rng::Rng;

const SECTOR: usize = 512;

/// "Too many open files".
const EMFILE: i32 = 24;
/// "Input/output error".
const EIO: i32 = 5;
/// What a disk cannot read any more it cannot read as a whole.
const BLOCK: usize = 4 << 10;
/// Of so many who ask for a descriptor when there is none left one gets it.
const REFUSALS: u32 = 4;

/// The last batches of a log that did not fall idle lie within so many bytes of its end.
const FLIP_MARGIN: usize = 40 << 10;

/// Frames of a log begin at multiples of this.
const FRAME_ALIGNMENT: usize = 4 << 10;

/// How long the header of a frame is.
const FRAME_HEADER: usize = 64;

/// What becomes of bytes at rest.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Harm {
    /// A bit of one flips.
    Flip,
    /// The block around one cannot be read any more.
    Unreadable,
}

/// What was harmed.
#[derive(Clone, Debug)]
pub(super) struct Harmed {
    pub(super) name: String,
    /// Where in the file.
    pub(super) at: usize,
    pub(super) harm: Harm,
    /// It is in the last block before the seal of the log.
    pub(super) is_last: bool,
}

/// Where harm is done.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Aim {
    /// In a file whose name begins so. The last batches of the log are spared: where it was not
    /// sealed, damage to them cannot be told from a torn tail.
    Open(&'static str),
    /// The same, and the log was sealed.
    Sealed(&'static str),
    /// In what was written last to a log that was sealed then.
    LastBatch,
    /// In a segment that is not the newest.
    Old,
    /// In a whole snapshot.
    Snapshot,
}

/// How the names of segments end.
pub(super) const SEGMENTS: &str = ".seg";

/// How they begin.
pub(super) const SEGMENT: &str = "log-";

/// A sector's content; `None` is zeros, as in most sectors that a log writes to.
type Sector = Option<Box<[u8; SECTOR]>>;

/// One node's disk. Clones share it.
#[derive(Clone)]
pub(super) struct SimDisk {
    state: Arc<Mutex<State>>,
}

struct State {
    files: Vec<FileState>,
    /// As readers see them.
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    locked: bool,
    /// Bytes that all files together may take.
    capacity: u64,
    used: u64,
    /// Files open at the moment, and how many may be.
    open: usize,
    open_max: usize,
    refused: u32,
    /// The next sync fails.
    sync_fails: bool,
    syncs: u64,
    fuse: Arc<Fuse>,
    rng: Rng,
}

#[derive(Clone, Default)]
struct FileState {
    seen: Vec<u8>,
    durable_len: usize,
    /// Sectors written since the last sync, with what is durable there.
    pending: BTreeMap<usize, Sector>,
    /// Sectors that a failed sync left behind: never written, and no longer dirty.
    lost: BTreeMap<usize, Sector>,
    /// Blocks that cannot be read.
    unreadable: BTreeSet<usize>,
}

/// How a power cut or a damage turned out, for marks and statistics.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Resolved {
    pub(super) old: u64,
    pub(super) new: u64,
    pub(super) torn: u64,
    /// Sectors that made it although one before them in their file did not.
    pub(super) overtook: u64,
    pub(super) names_lost: u64,
}

impl SimDisk {
    /// An empty disk of so many bytes.
    pub(super) fn new(capacity: u64, fuse: Arc<Fuse>, rng: Rng) -> Self {
        let state = State {
            files: Vec::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            locked: false,
            capacity,
            used: 0,
            open: 0,
            open_max: usize::MAX,
            refused: 0,
            sync_fails: false,
            syncs: 0,
            fuse,
            rng,
        };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// A copy of everything as readers see it, on a disk of its own.
    pub(super) fn copy(&self, fuse: Arc<Fuse>, rng: Rng) -> Self {
        let copy = Self::new(u64::MAX, fuse, rng);
        {
            let (state, mut to) = (self.state.lock(), copy.state.lock());
            to.files.clone_from(&state.files);
            to.names.clone_from(&state.names);
            to.durable_names.clone_from(&state.names);
            to.used = state.used;
        }
        copy
    }

    /// Syncs of files so far.
    pub(super) fn syncs(&self) -> u64 {
        self.state.lock().syncs
    }

    /// Lets the next sync fail.
    pub(super) fn fail_next_sync(&self) {
        self.state.lock().sync_fails = true;
    }

    /// Whether the next sync will.
    pub(super) fn is_to_fail(&self) -> bool {
        self.state.lock().sync_fails
    }

    /// No room for more than `spare` bytes beyond what is used; `None` gives it back.
    pub(super) fn limit(&self, spare: Option<u64>) {
        let mut state = self.state.lock();
        state.capacity = spare.map_or(u64::MAX, |spare| state.used + spare);
    }

    /// Whether there is no room for a segment, however small.
    pub(super) fn is_full(&self) -> bool {
        let state = self.state.lock();
        state.capacity - state.used.min(state.capacity) < 16 << 10
    }

    /// Whether there is room for so many bytes more.
    pub(super) fn has_room(&self, bytes: u64) -> bool {
        let state = self.state.lock();
        state.capacity - state.used.min(state.capacity) >= bytes
    }

    /// The process has no file descriptor left for another file, or has again.
    pub(super) fn limit_open(&self, none_left: bool) {
        let mut state = self.state.lock();
        state.open_max = if none_left { state.open } else { usize::MAX };
    }

    /// Whether any sector of a file with this suffix waits for a sync.
    pub(super) fn has_pending(&self, suffix: &str) -> bool {
        let state = self.state.lock();
        let mut named = state.names.iter().filter(|(name, _)| name.ends_with(suffix));
        named.any(|(_, file)| !state.files[*file].pending.is_empty())
    }

    /// The process is gone, the machine is not: nothing is lost.
    pub(super) fn process_died(&self) {
        let mut state = self.state.lock();
        state.locked = false;
        state.sync_fails = false;
        // What others held is free again.
        state.open_max = usize::MAX;
    }

    /// Everything works again.
    pub(super) fn heal(&self) {
        let mut state = self.state.lock();
        state.sync_fails = false;
        state.open_max = usize::MAX;
        state.capacity = u64::MAX;
    }

    /// The power went: every pending sector and name is decided.
    pub(super) fn power_cut(&self) -> Resolved {
        self.process_died();
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let mut resolved = Resolved::default();
        for file in &mut state.files {
            file.power_cut(&mut state.rng, &mut resolved);
        }
        let mut names = state.durable_names.clone();
        for name in state.names.keys().chain(state.durable_names.keys()) {
            let (seen, durable) = (state.names.get(name), state.durable_names.get(name));
            if seen == durable || state.rng.chance(1, 2) {
                resolved.names_lost += u64::from(seen != durable);
                continue;
            }
            match seen {
                Some(file) => names.insert(name.clone(), *file),
                None => names.remove(name),
            };
        }
        state.names.clone_from(&names);
        state.durable_names = names;
        state.used = 0;
        for at in 0..state.files.len() {
            if state.names.values().any(|file| *file == at) {
                state.used += state.files[at].seen.len() as u64;
            } else {
                state.files[at] = FileState::default();
            }
        }
        resolved
    }

    /// Harms one place of a file that is at rest; which one is said, for the record, and whether it
    /// is within the last batch of a log. Only what was written is hit: what lies behind the log
    /// holds nothing.
    pub(super) fn harm(&self, aim: Aim, harm: Harm) -> Option<Harmed> {
        let (start, sealed) = match aim {
            Aim::Open(start) => (start, false),
            Aim::Sealed(start) => (start, true),
            Aim::LastBatch => (SEGMENT, true),
            Aim::Old => (SEGMENT, false),
            Aim::Snapshot => ("", false),
        };
        let end = if aim == Aim::Snapshot { WHOLE } else { "" };
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let is_written = |file: &usize| state.files[*file].seen.iter().any(|byte| *byte != 0);
        let named = state.names.iter();
        let named = named.filter(|(name, _)| name.starts_with(start) && name.ends_with(end));
        let names: Vec<String> =
            named.filter(|(_, file)| is_written(file)).map(|(name, _)| name.clone()).collect();
        // Of the segments the newest is the one whose damage is hardest to judge; what lies before the
        // checkpoint is not read at a start.
        let is_newest = start == SEGMENT && aim != Aim::Old;
        let name = match is_newest {
            false if aim == Aim::Old => {
                let age = |name: &&String| sequence(&state.files[state.names[*name]].seen);
                let newest = names.iter().max_by_key(age);
                let older: Vec<&String> =
                    names.iter().filter(|name| Some(*name) != newest).collect();
                state.rng.pick(&older).copied()
            }
            true => names.iter().max_by_key(|name| sequence(&state.files[state.names[*name]].seen)),
            false => state.rng.pick(&names),
        };
        let name = name?.clone();
        let file = &mut state.files[state.names[&name]];
        let mut written = match is_newest {
            true => end_of_frames(&file.seen),
            false => file.seen.iter().rposition(|byte| *byte != 0)? + 1,
        };
        let end = written.next_multiple_of(FRAME_ALIGNMENT);
        if is_newest && !sealed {
            written = written.checked_sub(FLIP_MARGIN).filter(|written| *written > 0)?;
        }
        let aims_at_end = is_newest && sealed && state.rng.chance(1, 2);
        let at = if aim == Aim::LastBatch {
            // A byte that says something: of what comes before the seal as a rule.
            let blocks = if state.rng.chance(2, 3) { 2 } else { 1 };
            let block = end.saturating_sub(FRAME_ALIGNMENT * blocks);
            let bytes = file.seen[block..end.min(file.seen.len())].iter().take(FRAME_ALIGNMENT);
            let told: Vec<usize> = bytes
                .enumerate()
                .filter(|(_, byte)| **byte != 0)
                .map(|(at, _)| block + at)
                .collect();
            state.rng.pick(&told).copied().unwrap_or(written - 1)
        } else if aims_at_end {
            // The seal, and the last block or two before it.
            let depth = state.rng.below(written.min(3 * FRAME_ALIGNMENT) as u64) as usize;
            written - 1 - depth
        } else {
            state.rng.below(written as u64) as usize
        };
        match harm {
            Harm::Flip => file.seen[at] ^= 1 << state.rng.below(8),
            Harm::Unreadable => drop(file.unreadable.insert(at / BLOCK)),
        }
        let is_last = is_newest && at < end - FRAME_ALIGNMENT && at + 2 * FRAME_ALIGNMENT >= end;
        Some(Harmed { name, at, harm, is_last })
    }
}

/// The number of a segment in the order of the log; zero if the file is none.
fn sequence(bytes: &[u8]) -> u64 {
    let is_segment = bytes.starts_with(b"RAFTSEGM");
    let number = bytes.get(32..40).and_then(|number| number.first_chunk());
    number.filter(|_| is_segment).map_or(0, |number| u64::from_le_bytes(*number))
}

/// Where the frames of a segment end; what another use of the file has left lies behind.
fn end_of_frames(bytes: &[u8]) -> usize {
    let u64_at = |at: usize| {
        let number = bytes.get(at..at + 8).and_then(|number| number.first_chunk());
        number.map_or(0, |number| u64::from_le_bytes(*number))
    };
    let base = u64_at(40);
    let mut end = FRAME_ALIGNMENT;
    while bytes.get(end..end + 4) == Some(b"RFRM") && u64_at(end + 8) == base + end as u64 {
        let body = u64_at(end + 32) as u32 as usize;
        end += (FRAME_HEADER + body).next_multiple_of(FRAME_ALIGNMENT);
    }
    end.min(bytes.len())
}

impl FileState {
    fn old(&self, sector: usize) -> Sector {
        let begin = sector * SECTOR;
        let end = (begin + SECTOR).min(self.seen.len());
        let bytes = self.seen.get(begin..end).unwrap_or_default();
        if bytes.iter().all(|byte| *byte == 0) {
            return None;
        }
        let mut content = Box::new([0; SECTOR]);
        content[..bytes.len()].copy_from_slice(bytes);
        Some(content)
    }

    fn touch(&mut self, sector: usize) {
        if !self.pending.contains_key(&sector) {
            let old = self.lost.remove(&sector);
            let old = old.unwrap_or_else(|| self.old(sector));
            self.pending.insert(sector, old);
        }
    }

    fn put(&mut self, sector: usize, content: &Sector, range: Range<usize>) {
        let begin = sector * SECTOR;
        let end = (begin + range.end).min(self.seen.len());
        let Some(target) = self.seen.get_mut(begin + range.start..end) else { return };
        match content {
            Some(content) => {
                target.copy_from_slice(&content[range.start..range.start + target.len()]);
            }
            None => target.fill(0),
        }
    }

    fn power_cut(&mut self, rng: &mut Rng, resolved: &mut Resolved) {
        for (sector, old) in std::mem::take(&mut self.lost) {
            self.put(sector, &old, 0..SECTOR);
        }
        let mut missing = 0;
        for (sector, old) in std::mem::take(&mut self.pending) {
            match rng.below(8) {
                0..=2 => {
                    resolved.old += 1;
                    missing += 1;
                    self.put(sector, &old, 0..SECTOR);
                }
                3..=5 => {
                    resolved.new += 1;
                    resolved.overtook += missing.min(1);
                }
                // Torn: the first or the last bytes made it.
                torn => {
                    resolved.torn += 1;
                    let at = rng.range(1..=SECTOR as u64 - 1) as usize;
                    let range = if torn == 6 { 0..at } else { at..SECTOR };
                    self.put(sector, &old, range);
                }
            }
        }
        if self.seen.len() > self.durable_len {
            let grown = (self.seen.len() - self.durable_len) as u64;
            let kept = match rng.below(3) {
                0 => 0,
                1 => grown,
                _ => rng.below(grown + 1),
            };
            self.seen.truncate(self.durable_len + kept as usize);
        }
        self.durable_len = self.seen.len();
    }

    fn sync(&mut self) {
        self.pending.clear();
        self.durable_len = self.seen.len();
    }

    /// Of these sectors writes back what it can, and forgets that the rest was dirty.
    fn fail_sync(&mut self, sectors: Range<usize>, rng: &mut Rng) {
        for (sector, old) in std::mem::take(&mut self.pending) {
            if !sectors.contains(&sector) {
                self.pending.insert(sector, old);
            } else if rng.chance(1, 2) {
                self.lost.insert(sector, old);
            }
        }
        self.durable_len = self.seen.len();
    }
}

impl State {
    /// Every change of the disk is an effect of the node, after which it may be gone.
    fn change(&self) -> io::Result<()> {
        if self.fuse.burn() { Ok(()) } else { Err(io::Error::other("the node is gone")) }
    }

    /// Returns the sectors that were written; they wait for a sync.
    fn write(
        &mut self,
        file: usize,
        parts: &[IoSlice<'_>],
        offset: u64,
    ) -> io::Result<Range<usize>> {
        self.change()?;
        let begin = usize::try_from(offset).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let bytes: usize = parts.iter().map(|part| part.len()).sum();
        let file_at = file;
        let blocks = begin / BLOCK..(begin + bytes).div_ceil(BLOCK);
        let is_whole =
            |block: &usize| block * BLOCK >= begin && (block + 1) * BLOCK <= begin + bytes;
        if !self.files[file_at].unreadable.range(blocks.clone()).all(is_whole) {
            return Err(io::Error::from_raw_os_error(EIO));
        }
        self.grow(file_at, begin + bytes)?;
        let file = &mut self.files[file_at];
        file.unreadable.retain(|block| !blocks.contains(block));
        let sectors = begin / SECTOR..(begin + bytes).div_ceil(SECTOR);
        for sector in sectors.clone() {
            file.touch(sector);
        }
        let mut at = begin;
        for part in parts {
            file.seen[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
        Ok(sectors)
    }

    fn grow(&mut self, file: usize, len: usize) -> io::Result<()> {
        let file = &mut self.files[file];
        let more = len.saturating_sub(file.seen.len()) as u64;
        if self.used + more > self.capacity && more > 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.used += more;
        if more > 0 {
            file.seen.resize(len, 0);
        }
        Ok(())
    }

    /// Counts a file that is being opened.
    fn open(&mut self) -> io::Result<()> {
        if self.open >= self.open_max {
            // Now and then somebody closes something, and who tries again gets it.
            self.refused += 1;
            if !self.refused.is_multiple_of(REFUSALS) {
                return Err(io::Error::from_raw_os_error(EMFILE));
            }
        }
        self.open += 1;
        Ok(())
    }

    fn named(&self, name: &str) -> io::Result<usize> {
        self.names.get(name).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// A name is given up: its file's space comes free.
    fn unlink(&mut self, name: &str) {
        if let Some(file) = self.names.remove(name) {
            self.used -= self.files[file].seen.len() as u64;
        }
    }
}

impl Disk for SimDisk {
    type File = SimFile;
    type Lock = SimLock;

    fn describe(&self) -> String {
        "simulated disk".into()
    }

    fn try_lock(&self) -> io::Result<Option<SimLock>> {
        let mut state = self.state.lock();
        if state.locked {
            return Ok(None);
        }
        state.locked = true;
        Ok(Some(SimLock))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.state.lock().names.keys().cloned().collect())
    }

    fn create(&self, name: &str) -> io::Result<SimFile> {
        let mut state = self.state.lock();
        state.change()?;
        if state.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        state.open()?;
        let file = state.files.len();
        state.files.push(FileState::default());
        state.names.insert(name.to_owned(), file);
        Ok(SimFile { disk: self.clone(), file })
    }

    fn open(&self, name: &str) -> io::Result<SimFile> {
        let mut state = self.state.lock();
        let file = state.named(name)?;
        state.open()?;
        Ok(SimFile { disk: self.clone(), file })
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state.lock();
        state.change()?;
        let file = state.named(from)?;
        state.unlink(to);
        state.names.remove(from);
        state.names.insert(to.to_owned(), file);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.state.lock();
        state.named(name)?;
        state.change()?;
        state.unlink(name);
        Ok(())
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        state.change()?;
        state.durable_names = state.names.clone();
        Ok(())
    }
}

/// An open file of a [`SimDisk`].
pub(super) struct SimFile {
    disk: SimDisk,
    file: usize,
}

impl Drop for SimFile {
    fn drop(&mut self) {
        self.disk.state.lock().open -= 1;
    }
}

impl DiskFile for SimFile {
    fn bytes(&self) -> io::Result<u64> {
        Ok(self.disk.state.lock().files[self.file].seen.len() as u64)
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let state = self.disk.state.lock();
        let FileState { seen, unreadable, .. } = &state.files[self.file];
        let begin = usize::try_from(offset).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        let bytes = begin.checked_add(buffer.len()).and_then(|end| seen.get(begin..end));
        let bytes = bytes.ok_or(io::ErrorKind::UnexpectedEof)?;
        let blocks = begin / BLOCK..(begin + buffer.len()).div_ceil(BLOCK);
        if unreadable.range(blocks).next().is_some() {
            return Err(io::Error::from_raw_os_error(EIO));
        }
        buffer.copy_from_slice(bytes);
        Ok(())
    }

    fn write_vectored_at(&self, parts: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.disk.state.lock().write(self.file, parts, offset).map(drop)
    }

    /// As on a device that can write through its cache: what was written before is not covered.
    fn write_durable_at(&self, parts: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        let mut guard = self.disk.state.lock();
        let state = &mut *guard;
        let sectors = state.write(self.file, parts, offset)?;
        // The power may go while it is on its way.
        state.change()?;
        let file = &mut state.files[self.file];
        if std::mem::take(&mut state.sync_fails) {
            file.fail_sync(sectors, &mut state.rng);
            return Err(io::Error::other("the device reported an error"));
        }
        file.pending.retain(|sector, _| !sectors.contains(sector));
        file.durable_len = file.durable_len.max((sectors.end * SECTOR).min(file.seen.len()));
        state.syncs += 1;
        Ok(())
    }

    /// The file system allocates and reads zeros until something is written.
    fn write_zeros(&self, bytes: u64) -> io::Result<()> {
        let mut state = self.disk.state.lock();
        state.change()?;
        let len = usize::try_from(bytes).map_err(|_| io::ErrorKind::FileTooLarge)?;
        state.grow(self.file, len)
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut guard = self.disk.state.lock();
        let state = &mut *guard;
        state.change()?;
        let file = &mut state.files[self.file];
        if std::mem::take(&mut state.sync_fails) {
            file.fail_sync(0..usize::MAX, &mut state.rng);
            return Err(io::Error::other("the device reported an error"));
        }
        file.sync();
        state.syncs += 1;
        Ok(())
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn drop_cache(&self) -> io::Result<()> {
        let mut state = self.disk.state.lock();
        let file = &mut state.files[self.file];
        for (sector, old) in std::mem::take(&mut file.lost) {
            file.put(sector, &old, 0..SECTOR);
        }
        Ok(())
    }
}

/// Held while a log is open. A node's death gives it up, whatever still holds the value.
pub(super) struct SimLock;

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(seed: u64) -> SimDisk {
        SimDisk::new(u64::MAX, Arc::default(), Rng::new(seed))
    }

    fn write(file: &SimFile, offset: u64, bytes: &[u8]) {
        file.write_vectored_at(&mut [IoSlice::new(bytes)], offset).expect("a write");
    }

    fn content(disk: &SimDisk, name: &str) -> Option<Vec<u8>> {
        let file = disk.open(name).ok()?;
        let mut bytes = vec![0; file.bytes().expect("a length") as usize];
        file.read_exact_at(&mut bytes, 0).expect("its bytes");
        Some(bytes)
    }

    #[test]
    fn what_was_synced_survives_and_what_was_not_is_decided_by_sectors() {
        let (mut old, mut new, mut torn) = (0, 0, 0);
        for seed in 0..100 {
            let disk = disk(seed);
            let file = disk.create("a").expect("a file");
            write(&file, 0, &[1; 1024]);
            file.sync_all().expect("a sync");
            disk.sync_dir().expect("a sync");
            write(&file, 512, &[2; 512]);
            disk.power_cut();
            let bytes = content(&disk, "a").expect("its name was synced");
            assert_eq!(bytes[..512], [1; 512]);
            match &bytes[512..] {
                all if all.iter().all(|byte| *byte == 1) => old += 1,
                all if all.iter().all(|byte| *byte == 2) => new += 1,
                _ => torn += 1,
            }
        }
        assert!(old > 10 && new > 10 && torn > 5, "{old} {new} {torn}");
    }

    #[test]
    fn names_need_a_sync_of_the_directory() {
        let lost = (0..100).filter(|seed| {
            let disk = disk(*seed);
            disk.create("a").expect("a file").sync_all().expect("a sync");
            disk.power_cut();
            content(&disk, "a").is_none()
        });
        assert!((20..80).contains(&lost.count()));
    }

    #[test]
    fn a_failed_sync_loses_writes_that_a_later_sync_does_not_bring_back() {
        let lost = (0..100).filter(|seed| {
            let disk = disk(*seed);
            let file = disk.create("a").expect("a file");
            disk.sync_dir().expect("a sync");
            write(&file, 0, &[1; 512]);
            disk.fail_next_sync();
            file.sync_data().expect_err("it was told to fail");
            assert_eq!(content(&disk, "a").expect("a file")[..], [1; 512], "readers still see it");
            file.sync_data().expect("a sync");
            disk.power_cut();
            content(&disk, "a").expect("a file").iter().all(|byte| *byte == 0)
        });
        assert!((20..80).contains(&lost.count()));
    }

    #[test]
    fn a_block_that_cannot_be_read_can_be_again_once_all_of_it_was_written() {
        let disk = disk(1);
        let file = disk.create("log-1.seg").expect("a file");
        write(&file, 0, &[1; 3 * BLOCK]);
        let harmed = disk.harm(Aim::Sealed(SEGMENT), Harm::Unreadable).expect("it was written");
        let begin = harmed.at / BLOCK * BLOCK;
        let read = |at: usize| file.read_exact_at(&mut [0; 10], at as u64);
        for at in (0..3).map(|block| block * BLOCK) {
            assert_eq!(read(at).is_err(), at == begin);
        }
        assert_eq!(read(begin + BLOCK - 10).map_err(|error| error.raw_os_error()), Err(Some(EIO)));
        let half = file.write_vectored_at(&mut [IoSlice::new(&[2; 512])], begin as u64);
        assert!(half.is_err(), "what is beside it would have to be read");
        disk.power_cut();
        assert!(read(begin).is_err());
        write(&file, begin as u64, &[2; BLOCK]);
        read(begin).expect("it was written whole");
    }

    #[test]
    fn a_full_disk_refuses_to_grow_and_not_to_overwrite() {
        let disk = disk(1);
        let file = disk.create("a").expect("a file");
        file.write_zeros(4096).expect("room");
        disk.limit(Some(1000));
        write(&file, 0, &[1; 4096]);
        let full = disk.create("b").and_then(|file| file.write_zeros(1001));
        assert_eq!(full.expect_err("no room").kind(), io::ErrorKind::StorageFull);
        disk.limit(None);
        disk.open("b").and_then(|file| file.write_zeros(1001)).expect("room");
    }
}
