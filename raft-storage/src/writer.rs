//! The write path: one frame, one vectored write, one sync for a batch of all groups.
//!
//! Each step comes in three parts, so that a driver which completes I/O later (a simulator, an
//! io_uring loop) can take the place of the blocking calls without touching a rule:
//! - *prepare*: admission ([`Tails`]), plan ([`Plan`]) and bytes ([`FrameBuffer`]) are pure
//!   functions of the batch and the [`Cursor`];
//! - *submit*: [`LogWriter::submit_frame`] and [`LogWriter::submit_sync`] are the only calls
//!   that reach the disk on the append path, and all they know is a file, parts and an offset;
//! - *complete*: [`Cursor::wrote`], [`Cursor::synced`] and `publish` take in the outcome.
//!
//! Invariants:
//! - a frame is only written behind everything the log holds, into blocks never written before;
//! - a segment is durable to its end before the next one gets its header, and that header is
//!   durable before a frame follows it;
//! - after one failed write or sync nothing is written or acknowledged again: retrying a sync
//!   could report lost data as safe.

use std::io;
use std::sync::Arc;

use raft_core::Incarnation;

use crate::cursor::Cursor;
use crate::disk::{Disk, DiskFile};
use crate::encode::FrameBuffer;
use crate::error::{DiskOp, LogError};
use crate::frame::FRAME_HEADER_BYTES;
use crate::identity::{Life, StoreId};
use crate::index::{SegmentFile, Shared};
use crate::lsn::Lsn;
use crate::plan::{Part, Plan};
use crate::reader::LogReader;
use crate::record::FLAG_CLEAN;
use crate::segment::{BLOCK_BYTES, SegmentHeader, salt};
use crate::spares::Spares;
use crate::store::LogStore;
use crate::tails::Tails;
use crate::write::{AppendInfo, GroupWrite, SyncInfo};

/// The one writer of a log. Made by opening the log.
pub struct LogWriter<D: Disk> {
    // Fields drop in order: the helper thread of `spares` ends before the lock is given up.
    spares: Spares<D>,
    shared: Arc<Shared<D::File>>,
    file: Arc<D::File>,
    cursor: Cursor,
    tails: Tails,
    plan: Plan,
    frame: FrameBuffer,
    body_bytes_max: u64,
    store: StoreId,
    disk: D,
    poison: Option<(DiskOp, io::ErrorKind)>,
    reader: LogReader,
    _lock: D::Lock,
}

/// What opening a log hands to its writer.
pub(crate) struct WriterParts<D: Disk> {
    pub(crate) spares: Spares<D>,
    pub(crate) shared: Arc<Shared<D::File>>,
    pub(crate) file: Arc<D::File>,
    pub(crate) cursor: Cursor,
    pub(crate) tails: Tails,
    pub(crate) frame_bytes_max: u64,
    pub(crate) store: StoreId,
    pub(crate) disk: D,
    pub(crate) lock: D::Lock,
}

impl<D: Disk> LogWriter<D> {
    pub(crate) fn new(parts: WriterParts<D>) -> Self {
        let reader = LogReader::new(Arc::clone(&parts.shared));
        Self {
            spares: parts.spares,
            shared: parts.shared,
            file: parts.file,
            cursor: parts.cursor,
            tails: parts.tails,
            plan: Plan::default(),
            frame: FrameBuffer::default(),
            body_bytes_max: parts.frame_bytes_max - FRAME_HEADER_BYTES as u64,
            store: parts.store,
            disk: parts.disk,
            poison: None,
            reader,
            _lock: parts.lock,
        }
    }

    /// Appends operations of many groups with one vectored write per frame, and one frame per
    /// batch unless the batch is larger than `frame_bytes_max`.
    ///
    /// On return everything is in the page cache and readable: *written*, not yet durable. A
    /// batch without content writes nothing.
    ///
    /// Cost: no allocation per entry beyond amortised growth; payloads of 4 KiB and more are not
    /// copied. A change of segment (every 64 MiB) adds two syncs.
    ///
    /// # Errors
    /// A refused operation or [`LogError::NoSegment`] leaves the log unchanged.
    /// [`LogError::Io`] and [`LogError::Poisoned`] are final.
    pub fn append(&mut self, writes: &[GroupWrite]) -> Result<AppendInfo, LogError> {
        self.check_poison()?;
        self.tails.admit(writes)?;
        self.plan.build(writes, self.body_bytes_max);
        self.frame.locations.clear();
        let mut info = AppendInfo { end_lsn: self.cursor.end(), bytes: 0, frames: 0 };
        for at in 0..self.plan.frames.len() {
            let bytes = self.plan.frames[at].bytes();
            if bytes > self.cursor.room()
                && let Err(error) = self.rotate(bytes)
            {
                return Err(self.refuse(error, at));
            }
            let pieces = &self.plan.pieces[self.plan.frames[at].pieces.clone()];
            self.frame.encode(&self.cursor, pieces, writes, &self.tails.admitted);
            self.submit_frame()?;
            self.cursor.wrote(self.frame.bytes(), self.frame.crc, true);
            info.bytes += self.frame.bytes();
            info.frames += 1;
        }
        self.publish(writes);
        self.frame.release();
        info.end_lsn = self.cursor.end();
        Ok(info)
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
    /// covers it; its own durability does not matter. Otherwise does nothing.
    ///
    /// Without it, damage to the very last batch before a crash would look like a torn tail.
    ///
    /// # Errors
    /// As [`Self::append`].
    pub fn idle(&mut self) -> Result<(), LogError> {
        self.check_poison()?;
        if self.cursor.owes_promise() {
            self.write_marker(0)?;
        }
        Ok(())
    }

    /// Ends the log in order: syncs it and notes that, durably, in the log and beside it, so that
    /// whatever is missing at the next open is known to be missing. Dropping the writer instead
    /// is safe as well; the next open then finds whatever was written.
    ///
    /// # Errors
    /// As [`Self::sync`].
    pub fn close(mut self) -> Result<(), LogError> {
        self.sync()?;
        self.write_marker(FLAG_CLEAN)?;
        self.submit_sync()?;
        self.note_durable()
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

    /// Changes to a fresh segment in which a frame of `frame_bytes` fits.
    fn rotate(&mut self, frame_bytes: u64) -> Result<(), LogError> {
        // The spare comes first: without one, nothing has happened yet.
        let spare = self
            .spares
            .take(BLOCK_BYTES + frame_bytes)
            .map_err(|source| LogError::NoSegment { source })?;
        if self.cursor.end() > self.cursor.synced {
            self.submit_sync()?;
        }
        let seq = self.cursor.seq + 1;
        let header = SegmentHeader {
            store: self.store,
            seq,
            base: self.cursor.end(),
            prev_end: self.cursor.end(),
            prev_crc: self.cursor.chain,
            salt: salt(self.store, seq, self.cursor.incarnation),
            incarnation: self.cursor.incarnation,
            bytes: spare.bytes,
        };
        let written = write_segment_header(&spare.file, &header);
        self.poison_on_error(DiskOp::Write, written)?;
        let synced = spare.file.sync_data();
        self.poison_on_error(DiskOp::Sync, synced)?;
        self.file = Arc::new(spare.file);
        let segment = SegmentFile { file: Arc::clone(&self.file), base: header.base };
        self.shared.files.write().insert(spare.slot, segment);
        self.cursor = self.cursor.rotated(spare.slot, &header);
        // The header belongs to what is durable, so that "all is synced" compares equal again.
        self.cursor.synced(self.cursor.end());
        self.shared.set_durable(self.cursor.synced);
        // From here on a log that ends before this segment is known to lack it.
        self.note_durable()
    }

    /// Notes beside the log how far it is durable, durably.
    fn note_durable(&mut self) -> Result<(), LogError> {
        let incarnation = Incarnation::new(self.cursor.incarnation);
        let noted = Life { incarnation, durable: self.cursor.synced }.store(&self.disk);
        self.poison_on_error(DiskOp::Write, noted)
    }

    /// What a failed rotation means: before the first frame of the batch was written nothing has
    /// happened, afterwards half a batch is in the log.
    fn refuse(&mut self, error: LogError, frames_written: usize) -> LogError {
        match error {
            LogError::NoSegment { source } if frames_written > 0 => {
                let op = DiskOp::Prepare;
                self.poison = Some((op, source.kind()));
                LogError::Io { op, source }
            }
            LogError::NoSegment { source } => {
                self.tails.undo();
                LogError::NoSegment { source }
            }
            error => error,
        }
    }

    fn write_marker(&mut self, flags: u8) -> Result<(), LogError> {
        if self.cursor.room() < BLOCK_BYTES {
            // A new segment header is a promise for all before it, and as good as a marker.
            self.rotate(BLOCK_BYTES)?;
        }
        self.frame.encode_marker(&self.cursor, flags);
        self.submit_frame()?;
        self.cursor.wrote(self.frame.bytes(), self.frame.crc, false);
        Ok(())
    }

    fn submit_frame(&mut self) -> Result<(), LogError> {
        let mut parts = self.frame.parts();
        let written = self.file.write_vectored_at(&mut parts, self.cursor.offset);
        self.poison_on_error(DiskOp::Write, written)
    }

    fn submit_sync(&mut self) -> Result<(), LogError> {
        let end = self.cursor.end();
        let synced = self.file.sync_data();
        let synced = if raft_core::planted!(SyncErrorIgnored) { Ok(()) } else { synced };
        self.poison_on_error(DiskOp::Sync, synced)?;
        self.cursor.synced(end);
        self.shared.set_durable(end);
        Ok(())
    }

    /// Makes a written batch visible to readers, under one lock.
    fn publish(&mut self, writes: &[GroupWrite]) {
        if self.plan.pieces.is_empty() {
            return;
        }
        let mut index = self.shared.index.write();
        let mut locations = self.frame.locations.as_slice();
        for piece in &self.plan.pieces {
            let write = &writes[piece.write];
            let admitted = self.tails.admitted[piece.write];
            match &piece.part {
                Part::Create => {
                    let slot = index.create(write.group, admitted.incarnation);
                    debug_assert_eq!(slot, admitted.slot, "both tables number groups alike");
                }
                Part::Promise | Part::HardState => {}
                Part::Install(_) => {
                    if let Some(meta) = &write.install {
                        index.groups[admitted.slot as usize].install(meta.index);
                    }
                }
                Part::Truncate => {
                    if let Some(from) = write.truncate_from {
                        index.groups[admitted.slot as usize].truncate(from);
                    }
                }
                Part::Destroy => index.groups[admitted.slot as usize].destroy(),
                Part::Run(range) => {
                    let (run, rest) = locations.split_at(range.len());
                    locations = rest;
                    let term = write.entries[range.start].term;
                    index.groups[admitted.slot as usize].append(term, run);
                }
                Part::Compact(_) => {
                    if let Some(compaction) = &write.compact {
                        index.groups[admitted.slot as usize].compact(compaction.base.index);
                    }
                }
            }
        }
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

impl<D: Disk> LogStore for LogWriter<D> {
    fn append(&mut self, writes: &[GroupWrite]) -> Result<AppendInfo, LogError> {
        self.append(writes)
    }

    fn sync(&mut self) -> Result<SyncInfo, LogError> {
        self.sync()
    }

    fn idle(&mut self) -> Result<(), LogError> {
        self.idle()
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

/// Writes the header of a segment; not yet durable.
pub(crate) fn write_segment_header<F: DiskFile>(
    file: &F,
    header: &SegmentHeader,
) -> io::Result<()> {
    file.write_vectored_at(&mut [io::IoSlice::new(&header.encode())], 0)
}
