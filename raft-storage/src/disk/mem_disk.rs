//! A disk in memory that keeps only what it must: for crash tests and the simulator.
//!
//! It holds two images, what readers see and what is durable, and the list of writes between
//! them. [`MemDisk::crash`] makes the disk a machine would find after a power cut: the durable
//! image and whatever of the pending writes a [`CrashPolicy`] lets survive, torn at sectors of
//! 512 bytes. Names follow the same rule until `sync_dir`. Blocks can be lost that were durable
//! ([`MemDisk::lose_block`]), and all reads fail ([`MemDisk::fail_reads`]).

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSlice};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::disk::{Disk, DiskFile};

/// A disk in memory. Clones share it; [`MemDisk::crash`] makes an independent one.
#[derive(Clone, Debug, Default)]
pub struct MemDisk {
    state: Arc<Mutex<State>>,
}

/// Which unsynced writes a power cut leaves. Deterministic for a seed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum CrashPolicy {
    /// None of them.
    DropUnsynced,
    /// All of them, as after a mere crash of the process.
    KeepAll,
    /// Each sector and each change of a name by its own coin, so in any order and torn.
    RandomSectors {
        /// Decides all coins.
        seed: u64,
    },
    /// The first so many bytes, in the order of writing; then nothing.
    Prefix {
        /// Counted over all files.
        bytes: u64,
    },
}

/// What goes wrong at a chosen operation.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fault {
    /// It fails once. A failed sync forgets the writes it should have made durable: readers go
    /// on seeing them and no later sync brings them back, as on ext4.
    Error,
    /// It fails, and so does everything after it: the machine is gone. A write leaves nothing; of one
    /// that was to be durable at once [`MemDisk::crash`] decides.
    PowerCut,
}

#[derive(Debug, Default)]
struct State {
    files: Vec<FileState>,
    /// Names as readers see them.
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    locked: bool,
    /// Counts operations that change something.
    operations: u64,
    syncs: u64,
    fault: Option<(u64, Fault)>,
    dead: bool,
    /// Bytes that all named files together may have.
    bytes_max: Option<u64>,
    /// What was reserved is gone: so many bytes can still be written, anywhere.
    reserve: Option<u64>,
    /// Room comes back when it was waited for so often.
    waits_max: Option<u32>,
    /// Files open at the moment, the most there ever were, and how many there may be.
    open: usize,
    open_peak: usize,
    open_max: Option<usize>,
    /// No read succeeds.
    reads_fail: bool,
    /// Reads that were refused.
    refused: u64,
}

#[derive(Clone, Debug, Default)]
struct FileState {
    seen: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<PendingWrite>,
    /// Blocks that cannot be read, by number.
    lost: BTreeSet<u64>,
    /// Those that could not be after a power cut: all of them, and those whose new content is not durable.
    lost_durably: BTreeSet<u64>,
    /// Blocks that cannot be read for so many attempts.
    refused: BTreeMap<u64, u32>,
}

#[derive(Clone, Debug)]
struct PendingWrite {
    offset: u64,
    bytes: Vec<u8>,
    /// Blocks that could not be read before it and can be once it is durable.
    heals: Vec<u64>,
}

impl FileState {
    /// A write reaches the medium.
    fn store(&mut self, write: &PendingWrite) {
        patch(&mut self.durable, write.offset, &write.bytes);
        self.lost_durably.retain(|block| !write.heals.contains(block));
    }
}

impl MemDisk {
    /// An empty disk.
    pub fn new() -> Self {
        Self::default()
    }

    /// The disk as a restarted machine finds it, if power is lost now. `self` is unchanged.
    #[must_use]
    pub fn crash(&self, policy: CrashPolicy) -> Self {
        let state = self.state.lock();
        let mut coins = match policy {
            CrashPolicy::RandomSectors { seed } => Coins(seed),
            CrashPolicy::DropUnsynced | CrashPolicy::KeepAll | CrashPolicy::Prefix { .. } => {
                Coins(0)
            }
        };
        let mut budget = match policy {
            CrashPolicy::Prefix { bytes } => bytes,
            CrashPolicy::KeepAll | CrashPolicy::RandomSectors { .. } => u64::MAX,
            CrashPolicy::DropUnsynced => 0,
        };
        let mut files = state.files.clone();
        for file in &mut files {
            for write in std::mem::take(&mut file.pending) {
                let mut arrived: BTreeMap<u64, u64> = BTreeMap::new();
                for (offset, sector) in sectors(&write) {
                    let keep = match policy {
                        CrashPolicy::RandomSectors { .. } => coins.toss(),
                        CrashPolicy::DropUnsynced
                        | CrashPolicy::KeepAll
                        | CrashPolicy::Prefix { .. } => true,
                    };
                    let length = budget.min(sector.len() as u64) as usize;
                    if keep && length > 0 {
                        patch(&mut file.durable, offset, &sector[..length]);
                        budget -= length as u64;
                        *arrived.entry(offset / BLOCK_BYTES).or_default() += length as u64;
                    }
                }
                for block in &write.heals {
                    if arrived.get(block) == Some(&BLOCK_BYTES) {
                        file.lost_durably.remove(block);
                    }
                }
            }
            file.lost.clone_from(&file.lost_durably);
            file.seen.clone_from(&file.durable);
        }
        let mut names = state.durable_names.clone();
        let changed: Vec<&String> = state.names.keys().chain(state.durable_names.keys()).collect();
        for name in changed {
            let keep = match policy {
                CrashPolicy::DropUnsynced => false,
                CrashPolicy::KeepAll | CrashPolicy::Prefix { .. } => true,
                CrashPolicy::RandomSectors { .. } => coins.toss(),
            };
            if keep {
                match state.names.get(name) {
                    Some(file) => names.insert(name.clone(), *file),
                    None => names.remove(name),
                };
            }
        }
        let durable_names = names.clone();
        let state = State { files, names, durable_names, ..State::default() };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// Lets the `operation`th change from now on fail; the next one has number 0.
    pub fn fail_at(&self, operation: u64, fault: Fault) {
        let mut state = self.state.lock();
        state.fault = Some((state.operations + operation, fault));
    }

    /// How many operations have changed something: create, write, sync, rename, remove.
    pub fn operations(&self) -> u64 {
        self.state.lock().operations
    }

    /// How many syncs of files have succeeded.
    pub fn syncs(&self) -> u64 {
        self.state.lock().syncs
    }

    /// From now on no file grows beyond so many bytes in all named files; `None`: there is room.
    pub fn limit_bytes(&self, bytes_max: Option<u64>) {
        self.state.lock().bytes_max = bytes_max;
    }

    /// From now on writes find no room after so many bytes, also where files have their length already:
    /// as on file systems that copy on write, and on thin volumes. One that ends there is torn. The
    /// log waits, and has room again after so many `waits`; with `None` it is not to wait.
    pub fn take_reserve(&self, bytes: u64, waits: Option<u32>) {
        let mut state = self.state.lock();
        (state.reserve, state.waits_max) = (Some(bytes), waits);
    }

    /// Whether there is no more than was taken by [`Self::take_reserve`].
    pub fn is_reserve_taken(&self) -> bool {
        self.state.lock().reserve.is_some()
    }

    /// Bytes of all named files.
    pub fn bytes(&self) -> u64 {
        self.state.lock().bytes()
    }

    /// From now on no more than so many files are open at once, as under `ulimit -n`.
    pub fn limit_open(&self, open_max: Option<usize>) {
        self.state.lock().open_max = open_max;
    }

    /// The most files that were open at once.
    pub fn open_peak(&self) -> usize {
        self.state.lock().open_peak
    }

    /// The content of a file as readers see it.
    pub fn read(&self, name: &str) -> Option<Vec<u8>> {
        let state = self.state.lock();
        state.names.get(name).map(|file| state.files[*file].seen.clone())
    }

    /// From now on the block of 4 KiB that holds this byte cannot be read (`EIO`), and no part of it
    /// written, until all of it is; after a power cut again, unless that was durable.
    pub fn lose_block(&self, name: &str, offset: u64) {
        let mut state = self.state.lock();
        if let Some(file) = state.names.get(name).copied() {
            state.files[file].lost.insert(offset / BLOCK_BYTES);
            state.files[file].lost_durably.insert(offset / BLOCK_BYTES);
        }
    }

    /// The next so many reads of the block of 4 KiB that holds this byte are refused (`EIO`), as while a bus is
    /// reset. An open then waits up to five times for what it would lose, without letting time pass.
    pub fn refuse_block(&self, name: &str, offset: u64, times: u32) {
        let mut state = self.state.lock();
        if let Some(file) = state.names.get(name).copied() {
            state.files[file].refused.insert(offset / BLOCK_BYTES, times);
        }
    }

    /// From now on no read succeeds (`EIO`), or all of them do again that are not of a lost block.
    pub fn fail_reads(&self, fail: bool) {
        self.state.lock().reads_fail = fail;
    }

    /// How many reads were refused.
    pub fn reads_refused(&self) -> u64 {
        self.state.lock().refused
    }

    /// Replaces the content of a file, durably: for tests that damage what is at rest.
    pub fn overwrite(&self, name: &str, content: &[u8]) {
        let mut state = self.state.lock();
        let file = match state.names.get(name) {
            Some(file) => *file,
            None => {
                let file = state.files.len();
                state.files.push(FileState::default());
                state.names.insert(name.to_owned(), file);
                state.durable_names.insert(name.to_owned(), file);
                file
            }
        };
        let file = &mut state.files[file];
        let (seen, durable) = (content.into(), content.into());
        *file = FileState { seen, durable, ..FileState::default() };
    }
}

impl State {
    /// Counts a change and lets it fail if it is its turn.
    fn change(&mut self) -> io::Result<()> {
        let operation = self.operations;
        self.operations += 1;
        if self.dead {
            return Err(io::Error::other("the power is off"));
        }
        match self.fault {
            Some((at, fault)) if at == operation => {
                self.dead = fault == Fault::PowerCut;
                Err(io::Error::other("injected fault"))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Shows readers what is written; what becomes of it is for the caller to say.
    fn write(
        &mut self,
        file: usize,
        parts: &[IoSlice<'_>],
        offset: u64,
    ) -> io::Result<PendingWrite> {
        let mut bytes = Vec::new();
        for part in parts {
            bytes.extend_from_slice(part);
        }
        let length = self.files[file].seen.len() as u64;
        let grows = (offset + bytes.len() as u64).saturating_sub(length);
        if grows > 0 && self.bytes_max.is_some_and(|max| self.bytes() + grows > max) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        if let Some(left) = self.reserve.as_mut() {
            let found = (*left).min(bytes.len() as u64) as usize;
            *left -= found as u64;
            if found < bytes.len() {
                let bytes = bytes[..found].to_vec();
                let file = &mut self.files[file];
                patch(&mut file.seen, offset, &bytes);
                file.pending.push(PendingWrite { offset, bytes, heals: Vec::new() });
                return Err(io::ErrorKind::StorageFull.into());
            }
        }
        let end = offset + bytes.len() as u64;
        let lost = &mut self.files[file].lost;
        let is_partly =
            |block: u64| block * BLOCK_BYTES < offset || (block + 1) * BLOCK_BYTES > end;
        let written = offset / BLOCK_BYTES..end.div_ceil(BLOCK_BYTES);
        if lost.range(written.clone()).any(|block| is_partly(*block)) {
            return Err(io::Error::from_raw_os_error(EIO));
        }
        lost.retain(|block| !written.contains(block));
        let heals = self.files[file].lost_durably.range(written).copied().collect();
        patch(&mut self.files[file].seen, offset, &bytes);
        Ok(PendingWrite { offset, bytes, heals })
    }

    fn bytes(&self) -> u64 {
        self.names.values().map(|file| self.files[*file].seen.len() as u64).sum()
    }

    /// Counts a file that is being opened.
    fn open(&mut self) -> io::Result<()> {
        if self.open_max.is_some_and(|max| self.open >= max) {
            return Err(io::Error::from_raw_os_error(EMFILE));
        }
        self.open += 1;
        self.open_peak = self.open_peak.max(self.open);
        Ok(())
    }

    fn file(&self, name: &str) -> io::Result<usize> {
        self.names.get(name).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Disk for MemDisk {
    type File = MemFile;
    type Lock = MemLock;

    fn describe(&self) -> String {
        "memory".into()
    }

    fn try_lock(&self) -> io::Result<Option<MemLock>> {
        let mut state = self.state.lock();
        if state.locked {
            return Ok(None);
        }
        state.locked = true;
        Ok(Some(MemLock { state: Arc::clone(&self.state) }))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.state.lock().names.keys().cloned().collect())
    }

    fn create(&self, name: &str) -> io::Result<MemFile> {
        let mut state = self.state.lock();
        state.change()?;
        if state.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        state.open()?;
        let file = state.files.len();
        state.files.push(FileState::default());
        state.names.insert(name.to_owned(), file);
        Ok(MemFile { state: Arc::clone(&self.state), file })
    }

    fn open(&self, name: &str) -> io::Result<MemFile> {
        let mut state = self.state.lock();
        let file = state.file(name)?;
        state.open()?;
        Ok(MemFile { state: Arc::clone(&self.state), file })
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state.lock();
        state.change()?;
        let file = state.file(from)?;
        state.names.remove(from);
        state.names.insert(to.to_owned(), file);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.state.lock();
        state.file(name)?;
        state.change()?;
        state.names.remove(name);
        Ok(())
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        state.change()?;
        state.durable_names = state.names.clone();
        Ok(())
    }

    fn wait_for_room(&self, tries: u32) -> bool {
        let mut state = self.state.lock();
        let Some(waits) = state.waits_max else { return false };
        if tries + 1 >= waits {
            (state.reserve, state.waits_max) = (None, None);
        }
        true
    }

    fn wait_to_read(&self, tries: u32) -> bool {
        let state = self.state.lock();
        tries < 5 && state.files.iter().any(|file| !file.refused.is_empty())
    }
}

/// An open file of a [`MemDisk`].
#[derive(Debug)]
pub struct MemFile {
    state: Arc<Mutex<State>>,
    file: usize,
}

impl Drop for MemFile {
    fn drop(&mut self) {
        self.state.lock().open -= 1;
    }
}

impl DiskFile for MemFile {
    fn bytes(&self) -> io::Result<u64> {
        Ok(self.state.lock().files[self.file].seen.len() as u64)
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let mut state = self.state.lock();
        let blocks = offset / BLOCK_BYTES..(offset + buffer.len() as u64).div_ceil(BLOCK_BYTES);
        let file = &mut state.files[self.file];
        let mut is_refused = file.lost.range(blocks.clone()).next().is_some();
        for times in file.refused.range_mut(blocks).map(|(_, times)| times) {
            is_refused |= *times > 0;
            *times = times.saturating_sub(1);
        }
        if state.reads_fail || is_refused {
            state.refused += 1;
            return Err(io::Error::from_raw_os_error(EIO));
        }
        let seen = &state.files[self.file].seen;
        let begin = usize::try_from(offset).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        let bytes = begin.checked_add(buffer.len()).and_then(|end| seen.get(begin..end));
        buffer.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn read_alone_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_exact_at(buffer, offset)
    }

    fn write_vectored_at(&self, parts: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        let mut state = self.state.lock();
        state.change()?;
        let write = state.write(self.file, parts, offset)?;
        state.files[self.file].pending.push(write);
        Ok(())
    }

    /// One operation that makes its own bytes durable and no others.
    fn write_durable_at(&self, parts: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        let mut state = self.state.lock();
        let was_dead = state.dead;
        let outcome = state.change();
        if was_dead {
            return outcome;
        }
        if outcome.is_err() && !state.dead {
            // As after a failed sync: seen, and never written.
            let _ = state.write(self.file, parts, offset);
            return outcome;
        }
        let write = state.write(self.file, parts, offset)?;
        if state.dead {
            // `crash` decides how much of it arrived.
            state.files[self.file].pending.push(write);
            return outcome;
        }
        state.files[self.file].store(&write);
        state.syncs += 1;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        let outcome = state.change();
        let dead = state.dead;
        let file = &mut state.files[self.file];
        if dead {
            // What was pending when the power went is decided by `crash`.
            return outcome;
        }
        let pending = std::mem::take(&mut file.pending);
        outcome?;
        for write in pending {
            file.store(&write);
        }
        state.syncs += 1;
        Ok(())
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync_data()
    }

    /// What a failed sync forgot is gone; what still waits for one stays.
    fn drop_cache(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        let file = &mut state.files[self.file];
        let length = file.seen.len();
        file.seen.clone_from(&file.durable);
        file.seen.resize(length, 0);
        file.lost.clone_from(&file.lost_durably);
        for write in &file.pending {
            patch(&mut file.seen, write.offset, &write.bytes);
            file.lost.retain(|block| !write.heals.contains(block));
        }
        Ok(())
    }
}

/// Held while a log is open on a [`MemDisk`].
#[derive(Debug)]
pub struct MemLock {
    state: Arc<Mutex<State>>,
}

impl Drop for MemLock {
    fn drop(&mut self) {
        self.state.lock().locked = false;
    }
}

fn patch(content: &mut Vec<u8>, offset: u64, bytes: &[u8]) {
    let begin = offset as usize;
    let end = begin + bytes.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    content[begin..end].copy_from_slice(bytes);
}

/// Cuts a write where sectors end.
fn sectors(write: &PendingWrite) -> impl Iterator<Item = (u64, &[u8])> {
    let mut offset = write.offset;
    let mut rest = write.bytes.as_slice();
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let room = SECTOR_BYTES - offset % SECTOR_BYTES;
        let (sector, after) = rest.split_at((room as usize).min(rest.len()));
        let at = offset;
        offset += sector.len() as u64;
        rest = after;
        Some((at, sector))
    })
}

/// A stream of coin tosses from a seed (splitmix64).
struct Coins(u64);

impl Coins {
    fn toss(&mut self) -> bool {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut value = self.0;
        value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (value ^ (value >> 31)) & 1 == 1
    }
}

const SECTOR_BYTES: u64 = 512;
/// What a file system reads and writes at once.
const BLOCK_BYTES: u64 = 4096;
/// "Input/output error", the same on every Unix.
const EIO: i32 = 5;
/// "Too many open files", the same on every Unix.
const EMFILE: i32 = 24;
