//! The write path: one frame, one vectored write, one sync for a batch of all groups.
//!
//! Each step comes in three parts, so that a driver which completes I/O later (a simulator, an
//! io_uring loop) can take the place of the blocking calls without touching a rule:
//! - *prepare*: admission ([`Tails`]), plan ([`Plan`]) and bytes ([`FrameBuffer`]) are pure
//!   functions of the batch and the [`Cursor`];
//! - *submit*: [`LogWriter::submit_frame`] and [`LogWriter::submit_sync`] are the only calls
//!   that reach the disk on the append path, and all they know is a file, parts, an offset and
//!   whether the bytes are to be durable at once;
//! - *complete*: [`Cursor::wrote`], [`Cursor::synced`] and `publish` take in the outcome.
//!
//! Invariants:
//! - a frame is only written behind everything the log holds, into blocks that hold nothing of it;
//! - a segment is durable to its end before the next one gets its header, and that header is
//!   durable before a frame follows it;
//! - a batch has all the segments it needs before its first frame is written, so a disk that is
//!   full leaves all of it in the log or nothing;
//! - after one failed write or sync nothing is written or acknowledged again: retrying a sync
//!   could report lost data as safe.

mod housekeeping;

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use raft_core::{Entry, EntryKind, GroupId, Incarnation, LogIndex, Membership};

use crate::append::cursor::Cursor;
use crate::append::encode::FrameBuffer;
use crate::append::plan::{Part, Plan};
use crate::append::spares::{Spare, Spares};
use crate::append::tails::{Admitted, Tails};
use crate::append::write::{AppendInfo, GroupWrite, Large, SyncInfo};
use crate::disk::{Disk, DiskFile, is_out_of_descriptors, is_out_of_room};
use crate::error::{DiskOp, LogError};
use crate::format::base;
use crate::format::frame::{FRAME_HEADER_BYTES, frame_bytes};
use crate::format::identity::{Life, LifeFile, StoreId};
use crate::format::lsn::Lsn;
use crate::format::pieces::{self, Piece};
use crate::format::record::{ALIGNMENT, FLAG_CLEAN, RECORD_HEADER_BYTES};
use crate::format::segment::{BLOCK_BYTES, SegmentHeader, salt};
use crate::read::index::{Relocation, Run, Shared};
use crate::read::reader::LogReader;
use crate::reclaim::tender::Tender;
use crate::store::{LogStats, LogStore, Tending};

/// The one writer of a log. Made by opening the log.
pub struct LogWriter<D: Disk> {
    // Fields drop in order: the helper thread of `spares` ends before the lock is given up.
    spares: Spares<D>,
    /// Taken for the frames that are being written.
    reserved: VecDeque<Spare<D::File>>,
    shared: Arc<Shared<D>>,
    /// The newest segment; `None` as long as there is none.
    file: Option<D::File>,
    /// So much of it was written before it was used.
    prepared: u64,
    cursor: Cursor,
    tails: Tails,
    plan: Plan,
    frame: FrameBuffer,
    body_bytes_max: u64,
    large: Large,
    /// At the end of the last segment, for what has no entries.
    kept_bytes: u64,
    store: StoreId,
    life: LifeFile<D::File>,
    poison: Option<(DiskOp, io::ErrorKind)>,
    reader: LogReader,
    /// Like `spares`, its thread ends before the lock is given up.
    tender: Tender<D>,
    /// Entries that were copied, with the end of the frame: they are moved once that is durable.
    copied: VecDeque<(Lsn, Vec<Relocation>)>,
    /// What was done so far; what changes with the log is looked up.
    done: LogStats,
    _lock: D::Lock,
}

/// What opening a log hands to its writer.
pub(crate) struct WriterParts<D: Disk> {
    pub(crate) spares: Spares<D>,
    pub(crate) shared: Arc<Shared<D>>,
    pub(crate) file: Option<D::File>,
    pub(crate) cursor: Cursor,
    pub(crate) tails: Tails,
    pub(crate) frame_bytes_max: u64,
    pub(crate) large: Large,
    pub(crate) kept_bytes: u64,
    pub(crate) store: StoreId,
    pub(crate) life: LifeFile<D::File>,
    pub(crate) lock: D::Lock,
    pub(crate) tender: Tender<D>,
}

impl<D: Disk> LogWriter<D> {
    pub(crate) fn new(parts: WriterParts<D>) -> Self {
        let reader = LogReader::new(Arc::clone(&parts.shared));
        Self {
            spares: parts.spares,
            reserved: VecDeque::new(),
            shared: parts.shared,
            file: parts.file,
            // What an open finds half prepared is not told from the rest.
            prepared: u64::MAX,
            cursor: parts.cursor,
            tails: parts.tails,
            plan: Plan::default(),
            frame: FrameBuffer::default(),
            body_bytes_max: parts.frame_bytes_max - FRAME_HEADER_BYTES as u64,
            large: parts.large,
            kept_bytes: parts.kept_bytes,
            store: parts.store,
            life: parts.life,
            poison: None,
            reader,
            tender: parts.tender,
            copied: VecDeque::new(),
            done: LogStats::default(),
            _lock: parts.lock,
        }
    }

    /// Appends operations of many groups with one vectored write per frame, and one frame per
    /// batch unless the batch is larger than `frame_bytes_max`.
    ///
    /// On return everything is in the page cache and readable: *written*, not yet durable. A
    /// batch without content writes nothing.
    ///
    /// Cost: no allocation per entry beyond amortised growth; payloads of 64 KiB and more are
    /// copied once at most. A change of segment (every 64 MiB) adds four syncs: of the old segment, of the
    /// new header, and of both copies of the note beside the log.
    ///
    /// # Errors
    /// A refused operation or [`LogError::NoSegment`] leaves the log unchanged.
    /// [`LogError::Io`] and [`LogError::Poisoned`] are final.
    pub fn append(&mut self, writes: &[GroupWrite]) -> Result<AppendInfo, LogError> {
        self.append_frames(writes, Until::Written)
    }

    /// [`append`](Self::append) and [`sync`](Self::sync) in one: on return all of it is durable,
    /// with whatever was appended before. A batch of one frame, behind a log that is durable to
    /// its end, takes one call of the disk.
    ///
    /// # Errors
    /// As [`append`](Self::append) and [`sync`](Self::sync).
    pub fn commit(&mut self, writes: &[GroupWrite]) -> Result<(AppendInfo, SyncInfo), LogError> {
        let info = self.append_frames(writes, Until::Durable)?;
        Ok((info, self.sync()?))
    }

    fn append_frames(
        &mut self,
        writes: &[GroupWrite],
        until: Until,
    ) -> Result<AppendInfo, LogError> {
        self.check_poison()?;
        self.tails.admit(writes, &*self.shared.index.read())?;
        self.plan.build(writes, self.body_bytes_max);
        self.frame.locations.clear();
        let has_entries =
            writes.iter().any(|write| !write.entries.is_empty() || !write.fetched.is_empty());
        self.reserve(has_entries)?;
        let mut info = AppendInfo { end_lsn: self.cursor.end(), ..AppendInfo::default() };
        let mut durable = self.cursor.synced;
        for at in 0..self.plan.frames.len() {
            if self.plan.frames[at].bytes() > self.cursor.room()
                && let Some(spare) = self.reserved.pop_front()
            {
                self.rotate(spare)?;
            }
            let pieces = &self.plan.pieces[self.plan.frames[at].pieces.clone()];
            self.frame.encode(&self.cursor, pieces, writes, &self.tails.admitted);
            // Such a call covers its own bytes only. Whatever lies before them and is not durable
            // needs a sync, which then does for all.
            let last = at + 1 == self.plan.frames.len();
            let covers = self.cursor.synced == self.cursor.end()
                || raft_core::planted!(DurableWriteCoversAll);
            let at_once = until == Until::Durable && last && covers;
            self.submit_frame(if at_once { Until::Durable } else { Until::Written })?;
            self.cursor.wrote(self.frame.bytes(), self.frame.crc, true);
            info.bytes += self.frame.bytes();
            info.frames += 1;
            let unprepared = self.cursor.offset.saturating_sub(self.prepared);
            info.unprepared_bytes += unprepared.min(self.frame.bytes());
            if at_once {
                durable = self.cursor.end();
            }
        }
        self.publish(writes);
        self.frame.release();
        if durable > self.cursor.synced {
            self.cursor.synced(durable);
            self.shared.set_durable(durable);
            self.moved();
        }
        self.tender.moves.earn(info.bytes);
        info.end_lsn = self.cursor.end();
        Ok(info)
    }

    /// Which entries are better written in pieces.
    pub fn large(&self) -> Large {
        self.large
    }

    /// Writes a piece of the payload of an entry that is appended later, with
    /// [`GroupWrite::put_in_pieces`].
    ///
    /// # Errors
    /// As [`Self::append`].
    pub fn append_piece(
        &mut self,
        group: GroupId,
        payload: &Bytes,
    ) -> Result<(AppendInfo, Piece), LogError> {
        self.check_poison()?;
        let incarnation = self.tails.incarnation(group).ok_or(LogError::UnknownGroup { group })?;
        let bytes = self.large.piece_bytes_max;
        if payload.len() as u64 > bytes {
            let (index, bytes) = (LogIndex::ZERO, payload.len() as u64);
            let bytes_max = self.large.piece_bytes_max;
            return Err(LogError::EntryTooLarge { group, index, bytes, bytes_max });
        }
        let frame_bytes = frame_bytes(piece_record_bytes(payload.len() as u64));
        self.need_room(frame_bytes).map_err(|error| match error {
            NoRoom::Segment(source) => LogError::NoSegment { source },
            NoRoom::Failed(error) => error,
        })?;
        let piece = self.frame.encode_piece(&self.cursor, (group, incarnation), payload);
        self.submit_frame(Until::Written)?;
        self.cursor.wrote(self.frame.bytes(), self.frame.crc, true);
        self.frame.release();
        {
            let mut index = self.shared.index.write();
            index.add_pending(piece.location);
            index.end = self.cursor.end();
        }
        self.tender.moves.earn(frame_bytes);
        let end_lsn = self.cursor.end();
        let unprepared = self.cursor.offset.saturating_sub(self.prepared).min(frame_bytes);
        let info =
            AppendInfo { end_lsn, bytes: frame_bytes, frames: 1, unprepared_bytes: unprepared };
        Ok((info, piece))
    }

    /// Makes everything appended so far durable, with one `fdatasync`, or none if it is already.
    ///
    /// # Errors
    /// [`LogError::Io`] and [`LogError::Poisoned`] are final: whatever was appended since the
    /// last successful sync may be lost.
    pub fn sync(&mut self) -> Result<SyncInfo, LogError> {
        self.check_poison()?;
        if self.cursor.content_end > self.cursor.synced {
            self.submit_sync()?;
        }
        Ok(SyncInfo { durable_lsn: self.cursor.synced })
    }

    /// Call this when nothing was appended for about 100 ms after a sync. If the last synced
    /// batch is not yet covered by the promise of a later frame, writes an empty frame that
    /// covers it and makes that durable: the log is *sealed*. Otherwise does nothing.
    ///
    /// Without it, damage to the very last batch before a crash would look like a torn tail and
    /// be cut. Where there is no room for the frame, the promise is noted beside the log.
    ///
    /// # Errors
    /// [`LogError::Io`] and [`LogError::Poisoned`], both final. A full disk is none.
    pub fn idle(&mut self) -> Result<(), LogError> {
        self.check_poison()?;
        if !self.cursor.owes_promise() {
            return Ok(());
        }
        if self.write_marker(0)? {
            if raft_core::planted!(SealNotSynced) { Ok(()) } else { self.submit_sync() }
        } else {
            self.cursor.promised = self.cursor.synced;
            self.note_durable()
        }
    }

    /// Ends the log in order: syncs it and notes that, durably, in the log and beside it, so that
    /// whatever is missing at the next open is known to be missing. Dropping the writer instead
    /// is safe as well; the next open then finds whatever was written. Without room for the last
    /// word in the log, the one beside it has to do.
    ///
    /// # Errors
    /// As [`Self::sync`].
    pub fn close(mut self) -> Result<(), LogError> {
        self.sync()?;
        if self.write_marker(FLAG_CLEAN)? {
            self.submit_sync()?;
        }
        self.note_durable()
    }

    /// Sees to it that a frame has room that is no batch, and leaves what votes need.
    fn need_room(&mut self, frame_bytes: u64) -> Result<(), NoRoom> {
        if frame_bytes > self.cursor.room() {
            let spare = self.take_spare(frame_bytes).map_err(NoRoom::Segment)?;
            self.rotate(spare).map_err(NoRoom::Failed)?;
        }
        let left = self.cursor.room() - frame_bytes;
        if left < self.kept_bytes {
            self.spares.ensure().map_err(NoRoom::Segment)?;
        }
        Ok(())
    }

    /// Where the log ends: everything below is written.
    pub fn end_lsn(&self) -> Lsn {
        self.cursor.end()
    }

    /// Everything below is durable.
    pub fn durable_lsn(&self) -> Lsn {
        self.cursor.synced
    }

    /// Whether an earlier write or sync failed, so that the writer accepts nothing more.
    pub fn is_poisoned(&self) -> bool {
        self.poison.is_some()
    }

    /// Reads what this writer has written.
    pub fn reader(&self) -> LogReader {
        self.reader.clone()
    }

    /// Makes the first segment of a log that has none. `Ok(false)`: there is no room for it yet.
    pub(crate) fn begin(&mut self) -> Result<bool, io::Error> {
        self.spares.finish();
        let begun = match self.take_spare(BLOCK_BYTES) {
            Ok(spare) => self.rotate(spare),
            Err(source) if is_out_of_room(&source) || is_out_of_descriptors(&source) => {
                return Ok(false);
            }
            Err(source) => return Err(source),
        };
        begun.map(|()| true).map_err(|error| match error {
            LogError::Io { source, .. } => source,
            error => io::Error::other(error),
        })
    }

    /// Takes the segments that the planned frames need beyond the current one. Without all of
    /// them nothing has happened yet, and the batch is taken back.
    ///
    /// Entries leave the last blocks of the last segment to votes and truncations, which a node
    /// without room still owes its peers: they may not go there before another segment exists.
    fn reserve(&mut self, has_entries: bool) -> Result<(), LogError> {
        let mut room = self.cursor.room();
        let mut without = None;
        for at in 0..self.plan.frames.len() {
            let bytes = self.plan.frames[at].bytes();
            if bytes > room {
                match self.take_spare(bytes) {
                    Ok(spare) => {
                        room = spare.bytes - BLOCK_BYTES;
                        self.reserved.push_back(spare);
                    }
                    Err(source) => {
                        without = Some(source);
                        break;
                    }
                }
            }
            room -= bytes;
        }
        if without.is_none() && has_entries && room < self.kept_bytes {
            without = self.spares.ensure().err();
        }
        let Some(source) = without else { return Ok(()) };
        self.spares.give_back(self.reserved.drain(..));
        self.tails.undo();
        Err(LogError::NoSegment { source })
    }

    /// A spare in which a frame of `frame_bytes` fits.
    fn take_spare(&mut self, frame_bytes: u64) -> io::Result<Spare<D::File>> {
        self.spares.take(BLOCK_BYTES + frame_bytes).or_else(|error| {
            if !is_out_of_descriptors(&error) {
                return Err(error);
            }
            // Readers can do without theirs for a moment.
            self.shared.files.close_all();
            self.spares.take(BLOCK_BYTES + frame_bytes)
        })
    }

    /// Changes to a fresh segment.
    fn rotate(&mut self, spare: Spare<D::File>) -> Result<(), LogError> {
        if self.cursor.end() > self.cursor.synced {
            self.submit_sync()?;
        }
        let seq = self.cursor.seq + 1;
        let recycled = spare.recycled;
        self.done.segments_reused += u64::from(recycled);
        let header = SegmentHeader {
            store: self.store,
            seq,
            base: self.cursor.end(),
            prev_end: self.cursor.end(),
            prev_crc: self.cursor.chain,
            salt: salt(self.store, seq, self.cursor.incarnation),
            incarnation: self.cursor.incarnation,
            bytes: spare.bytes,
            recycled,
        };
        let written = write_segment_header(&spare.file, &header);
        self.poison_on_error(DiskOp::Write, written)?;
        let synced = spare.file.sync_data();
        self.poison_on_error(DiskOp::Sync, synced)?;
        self.file = Some(spare.file);
        self.prepared = spare.prepared;
        self.cursor = self.cursor.rotated(spare.slot, &header);
        {
            let mut index = self.shared.index.write();
            index.segments.add(spare.slot, seq, header.base, header.bytes);
            index.end = self.cursor.end();
        }
        // The header belongs to what is durable, so that "all is synced" compares equal again.
        self.cursor.synced(self.cursor.end());
        self.shared.set_durable(self.cursor.synced);
        // From here on a log that ends before this segment is known to lack it.
        self.note_durable()
    }

    /// Notes beside the log how far it is durable, durably.
    fn note_durable(&mut self) -> Result<(), LogError> {
        let incarnation = Incarnation::new(self.cursor.incarnation);
        let noted = self.life.store(Life { incarnation, durable: self.cursor.synced });
        match noted {
            // Some file systems need room even to overwrite. The note is evidence against damage
            // and nothing that was promised, and one of its copies is whole.
            Err(error) if is_out_of_room(&error) => Ok(()),
            noted => self.poison_on_error(DiskOp::Write, noted),
        }
    }

    /// `false`: there is no room for it.
    fn write_marker(&mut self, flags: u8) -> Result<bool, LogError> {
        if self.cursor.room() < BLOCK_BYTES {
            // A new segment header is a promise for all before it, and as good as a marker.
            match self.take_spare(BLOCK_BYTES) {
                Ok(spare) => self.rotate(spare)?,
                Err(_) => return Ok(false),
            }
        }
        self.frame.encode_marker(&self.cursor, flags);
        self.submit_frame(Until::Written)?;
        self.cursor.wrote(self.frame.bytes(), self.frame.crc, false);
        self.shared.index.write().end = self.cursor.end();
        Ok(true)
    }

    fn submit_frame(&mut self, until: Until) -> Result<(), LogError> {
        let mut parts = self.frame.parts();
        self.spares.demand.begin(self.frame.bytes());
        let written = match (&self.file, until) {
            (Some(file), Until::Written) => file.write_vectored_at(&mut parts, self.cursor.offset),
            (Some(file), Until::Durable) => file.write_durable_at(&mut parts, self.cursor.offset),
            (None, _) => Err(io::ErrorKind::NotFound.into()),
        };
        let written = match (until, written) {
            (Until::Durable, Err(_)) if raft_core::planted!(SyncErrorIgnored) => Ok(()),
            (_, written) => written,
        };
        self.spares.demand.end();
        let op = match until {
            Until::Written => DiskOp::Write,
            Until::Durable => DiskOp::Commit,
        };
        self.poison_on_error(op, written)
    }

    fn submit_sync(&mut self) -> Result<(), LogError> {
        let end = self.cursor.end();
        let synced = self.file.as_ref().map_or(Ok(()), |file| file.sync_data());
        let synced = if raft_core::planted!(SyncErrorIgnored) { Ok(()) } else { synced };
        self.poison_on_error(DiskOp::Sync, synced)?;
        self.cursor.synced(end);
        self.shared.set_durable(end);
        self.moved();
        Ok(())
    }

    /// Makes a written batch visible to readers, under one lock.
    fn publish(&mut self, writes: &[GroupWrite]) {
        if self.plan.pieces.is_empty() {
            return;
        }
        let mut index = self.shared.index.write();
        let mut locations = self.frame.locations.as_slice();
        let end = self.cursor.end();
        for piece in &self.plan.pieces {
            let write = &writes[piece.write];
            let Admitted { slot, incarnation } = self.tails.admitted[piece.write];
            match &piece.part {
                Part::Create => {
                    if let Some(create) = &write.create {
                        let made = index.create(write.group, incarnation, create.spec.clone());
                        debug_assert_eq!(made, slot, "both tables number groups alike");
                    }
                }
                Part::Promise => index.set_promise(slot, write.promise.unwrap_or_default()),
                Part::HardState => index.set_hard_state(slot, write.hard_state.unwrap_or_default()),
                Part::DropFetched => index.drop_fetched(slot),
                Part::Fetched(range) => {
                    let (run, rest) = locations.split_at(range.len());
                    locations = rest;
                    let first = &write.fetched[range.start];
                    index.fetch(slot, first.index, first.term, run);
                }
                Part::Install(_) => {
                    if let Some(meta) = &write.install {
                        let live = write.live_upto(meta.index);
                        index.install(slot, base::of_snapshot(meta), &live);
                    }
                }
                Part::Truncate => {
                    if let Some(from) = write.truncate_from {
                        index.truncate(slot, from);
                    }
                }
                Part::Destroy => {
                    if let Some(tombstone) = write.destroy {
                        index.destroy(slot, tombstone);
                    }
                }
                Part::Run(range) => {
                    let (run, rest) = locations.split_at(range.len());
                    locations = rest;
                    let entries = &write.entries[range.clone()];
                    index.append(
                        slot,
                        Run {
                            term: entries[0].term,
                            locations: run,
                            configs: memberships(entries),
                            pieces: directories(write, entries),
                            last_time: entries[entries.len() - 1].time,
                        },
                    );
                    index.appended(slot, end);
                }
                Part::Compact(_) => {
                    if let Some(compaction) = &write.compact {
                        let live = write.live_upto(compaction.base.index);
                        index.compact(slot, compaction.clone(), &live);
                    }
                }
            }
        }
        index.end = end;
    }

    fn check_poison(&self) -> Result<(), LogError> {
        match self.poison {
            Some((op, kind)) => Err(LogError::Poisoned { op, kind }),
            None => Ok(()),
        }
    }

    fn poison_on_error(&mut self, op: DiskOp, result: io::Result<()>) -> Result<(), LogError> {
        result.map_err(|source| {
            self.poison = Some((op, source.kind()));
            LogError::Io { op, source }
        })
    }
}

/// How far a write of frames goes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Until {
    Written,
    Durable,
}

impl<D: Disk> LogStore for LogWriter<D> {
    fn append(&mut self, writes: &[GroupWrite]) -> Result<AppendInfo, LogError> {
        self.append(writes)
    }

    fn commit(&mut self, writes: &[GroupWrite]) -> Result<(AppendInfo, SyncInfo), LogError> {
        self.commit(writes)
    }

    fn sync(&mut self) -> Result<SyncInfo, LogError> {
        self.sync()
    }

    fn idle(&mut self) -> Result<(), LogError> {
        self.idle()
    }

    fn large(&self) -> Option<Large> {
        Some(self.large())
    }

    fn append_piece(
        &mut self,
        group: GroupId,
        payload: &Bytes,
    ) -> Result<(AppendInfo, Piece), LogError> {
        self.append_piece(group, payload)
    }

    fn tend(&mut self, idle: bool) -> Result<Tending, LogError> {
        self.tend(idle)
    }

    fn stats(&self) -> LogStats {
        self.stats()
    }

    fn close(self: Box<Self>) -> Result<(), LogError> {
        Self::close(*self)
    }

    fn is_poisoned(&self) -> bool {
        self.is_poisoned()
    }

    fn reader(&self) -> LogReader {
        self.reader()
    }
}

/// The memberships among entries; admission has read them once.
fn memberships(entries: &[Entry]) -> Vec<(LogIndex, Arc<Membership>)> {
    let configs = entries.iter().filter(|entry| entry.kind == EntryKind::Config);
    configs
        .filter_map(|entry| Some((entry.index, Arc::new(Membership::decode(&entry.payload).ok()?))))
        .collect()
}

/// Where the payloads of those entries lie that are in pieces.
fn directories(write: &GroupWrite, entries: &[Entry]) -> Vec<(LogIndex, Vec<Piece>)> {
    if write.in_pieces.is_empty() {
        return Vec::new();
    }
    let in_pieces = entries.iter().filter(|entry| write.is_in_pieces(entry.index));
    in_pieces.filter_map(|entry| Some((entry.index, pieces::decode(&entry.payload)?))).collect()
}

/// What the record of a piece takes.
fn piece_record_bytes(payload_bytes: u64) -> u64 {
    RECORD_HEADER_BYTES as u64 + payload_bytes.next_multiple_of(ALIGNMENT)
}

/// Why a frame cannot be written.
enum NoRoom {
    /// There is no segment for it.
    Segment(io::Error),
    Failed(LogError),
}

/// Writes the header of a segment; not yet durable.
pub(crate) fn write_segment_header<F: DiskFile>(
    file: &F,
    header: &SegmentHeader,
) -> io::Result<()> {
    file.write_vectored_at(&mut [io::IoSlice::new(&header.encode())], 0)
}
