//! The write path: one frame, one vectored write, one sync for a batch of all groups.
//!
//! Each batch goes three ways, so that the disk may be busy with one while the next is prepared, and a
//! driver which completes I/O later (a simulator, an io_uring loop) can take the place of the
//! blocking calls without touching a rule:
//! - *stage*: admission ([`Tails`]), plan ([`Plan`]) and bytes ([`FrameBuffer`]) are pure functions of
//!   the batch and the [`Cursor`]; a frame stays open, and takes further batches, until it departs;
//! - *fly*: the calls of the disk are [`Step`]s, which know a file, parts, an offset and whether the
//!   bytes are to be durable at once. They are made in order, by [`Flight`] or, in a blocking call,
//!   here;
//! - *land*: [`Effect`]s take in the outcome, in the same order. Only now readers see anything of it.
//!
//! So there are two ends of the log: where the next frame goes ([`Cursor`], ahead of the disk), and
//! what has landed, from which readers, checkpoints and housekeeping go.
//!
//! Invariants:
//! - a frame is only written behind everything the log holds, into blocks that hold nothing of it;
//! - a frame says of those before it only what is true when it is written: it is written when all that
//!   departed before it has landed, and promises no more of that than what was made durable;
//! - a segment is durable to its end before the next one gets its header, and that header is
//!   durable before a frame follows it;
//! - a batch has all the segments it needs before its first frame is written, so a disk that is
//!   full leaves all of it in the log or nothing;
//! - after one failed write or sync nothing is written or acknowledged again: retrying a sync
//!   could report lost data as safe. A write that found no room is made again, as a whole, before
//!   anything else ([`RoomWait`]).

mod beside;
mod housekeeping;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use raft_core::{Entry, EntryKind, GroupId, Incarnation, LogIndex, Membership};

use crate::append::cursor::Cursor;
use crate::append::encode::FrameBuffer;
use crate::append::flight::{Failure, Flight, Flying, Landing, Means, Step, Turn, Until, error_of};
use crate::append::plan::{self, OpenFrame, Part, Plan};
use crate::append::room_wait::RoomWait;
use crate::append::spares::{Spare, Spares};
use crate::append::tails::{Admitted, Tails};
use crate::append::write::{AppendInfo, GroupWrite, Large, SyncInfo};
use crate::disk::{Disk, is_out_of_descriptors, is_out_of_room};
use crate::error::{DiskOp, LogError};
use crate::format::base;
use crate::format::frame::{FRAME_HEADER_BYTES, frame_bytes};
use crate::format::identity::{Life, LifeFile, StoreId};
use crate::format::lsn::Lsn;
use crate::format::pieces::{self, Piece};
use crate::format::record::{ALIGNMENT, FLAG_CLEAN, RECORD_HEADER_BYTES};
use crate::format::segment::{BLOCK_BYTES, SegmentHeader, salt};
use crate::read::index::{Index, Relocation, Run, Shared};
use crate::read::location::Location;
use crate::read::reader::LogReader;
use crate::reclaim::tender::Tender;
use crate::store::{Ending, LogStats, LogStore, Tending};

/// The one writer of a log. Made by opening the log.
pub struct LogWriter<D: Disk> {
    // Fields drop in order: the helper thread of `spares` ends before the lock is given up.
    spares: Spares<D>,
    /// Taken for the frames that are being staged.
    reserved: VecDeque<Spare<D::File>>,
    shared: Arc<Shared<D>>,
    /// The newest segment; `None` as long as there is none.
    file: Option<Arc<D::File>>,
    /// So much of it was written before it was used.
    prepared: u64,
    /// Where the log will end when all that is prepared is written, without the open frame.
    cursor: Cursor,
    /// Where it ends as far as the index goes.
    landed: Cursor,
    tails: Tails,
    plan: Plan,
    /// Begun at `cursor`; takes further batches.
    open: Option<FrameBuffer>,
    /// What the disk is to do next, and what comes of it.
    steps: VecDeque<Step<D::File>>,
    effects: Vec<Effect>,
    /// How frames are written that nothing makes durable at once.
    writes: Until,
    /// What `steps` write.
    info: AppendInfo,
    /// Departed and not landed, in order. As many as the caller lets depart.
    air: VecDeque<Airborne>,
    /// The number of the next flight.
    next_flight: u64,
    turn: Turn,
    /// Until this flight has landed, housekeeping has something under way.
    housekeeping: Option<u64>,
    /// Memory to be used again.
    frames: Vec<FrameBuffer>,
    publications: Vec<Publication>,
    body_bytes_max: u64,
    large: Large,
    /// At the end of the last segment, for what has no entries.
    kept_bytes: u64,
    store: StoreId,
    means: Means<D::File>,
    poison: Option<(DiskOp, io::ErrorKind)>,
    reader: LogReader,
    /// Like `spares`, its thread ends before the lock is given up.
    tender: Tender<D>,
    /// Entries that were copied, with the end of the frame: they are moved once that is durable.
    copied: VecDeque<(Lsn, Vec<Relocation>)>,
    /// What was done so far; what changes with the log is looked up.
    done: LogStats,
    lock: Arc<Mutex<D::Lock>>,
}

/// What changes when the steps before it were made.
enum Effect {
    /// A batch is in the log.
    Published(Publication, Arc<Vec<GroupWrite>>),
    /// A piece of a large entry is.
    Piece(Location),
    /// A segment begins.
    Segment {
        slot: u32,
        seq: u64,
        base: Lsn,
        bytes: u64,
    },
    /// Entries were copied, up to here.
    Copied(Lsn, Vec<Relocation>),
    /// The log goes so far.
    Reached(Cursor),
    Durable(Lsn),
}

/// A batch that its caller keeps: it is in the log before the effect at this place.
struct Borrowed<'a> {
    at: usize,
    publication: Publication,
    writes: &'a [GroupWrite],
}

/// A batch that was staged: what the index has to know of it.
#[derive(Default)]
struct Publication {
    pieces: Vec<plan::Piece>,
    admitted: Vec<Admitted>,
    /// Where its entries lie, in the order of the plan.
    locations: Vec<Location>,
}

/// A flight under way.
struct Airborne {
    number: u64,
    effects: Vec<Effect>,
    /// It is a sync and nothing else: of what lies below.
    covers: Option<Lsn>,
}

impl Airborne {
    fn is_sync(&self) -> bool {
        self.covers.is_some()
    }
}

/// Who makes the steps of an operation.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Hand {
    /// The call itself, before it returns.
    Here,
    /// The same, while a sync is in the air.
    Beside,
    /// The next flight.
    Over,
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
        let demand = Arc::clone(&parts.spares.demand);
        let disk = parts.shared.files.disk().clone();
        let wait = Arc::new(move |tries| disk.wait_for_room(tries));
        Self {
            spares: parts.spares,
            reserved: VecDeque::new(),
            shared: parts.shared,
            file: parts.file.map(Arc::new),
            // What an open finds half prepared is not told from the rest.
            prepared: u64::MAX,
            cursor: parts.cursor,
            landed: parts.cursor,
            tails: parts.tails,
            plan: Plan::default(),
            open: None,
            steps: VecDeque::new(),
            effects: Vec::new(),
            writes: Until::Written,
            info: AppendInfo::default(),
            air: VecDeque::new(),
            next_flight: 1,
            turn: Arc::new(1.into()),
            housekeeping: None,
            frames: Vec::new(),
            publications: Vec::new(),
            body_bytes_max: parts.frame_bytes_max - FRAME_HEADER_BYTES as u64,
            large: parts.large,
            kept_bytes: parts.kept_bytes,
            store: parts.store,
            means: Means { life: Arc::new(parts.life), demand, room: RoomWait::default(), wait },
            poison: None,
            reader,
            tender: parts.tender,
            copied: VecDeque::new(),
            done: LogStats::default(),
            lock: Arc::new(Mutex::new(parts.lock)),
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
    /// A refused operation, [`LogError::NoSegment`] or [`LogError::UnderWay`] leaves nothing of this batch
    /// in the log; what was staged before may have been written. [`LogError::Io`] and
    /// [`LogError::Poisoned`] are final.
    pub fn append(&mut self, writes: &[GroupWrite]) -> Result<AppendInfo, LogError> {
        self.append_here(writes, None)
    }

    /// [`append`](Self::append) and [`sync`](Self::sync) in one: on return all of it is durable,
    /// with whatever was appended before. A batch of one frame, behind a log that is durable to
    /// its end, takes one call of the disk.
    ///
    /// # Errors
    /// As [`append`](Self::append) and [`sync`](Self::sync).
    pub fn commit(&mut self, writes: &[GroupWrite]) -> Result<(AppendInfo, SyncInfo), LogError> {
        let info = self.append_here(writes, Some(Ending::AtOnce))?;
        Ok((info, SyncInfo { durable_lsn: self.durable_lsn() }))
    }

    fn append_here(
        &mut self,
        writes: &[GroupWrite],
        ending: Option<Ending>,
    ) -> Result<AppendInfo, LogError> {
        self.begin_here()?;
        self.append_begun(writes, ending, Hand::Here)
    }

    fn append_begun(
        &mut self,
        writes: &[GroupWrite],
        ending: Option<Ending>,
        hand: Hand,
    ) -> Result<AppendInfo, LogError> {
        let publication = self.prepare(writes, hand)?;
        self.seal();
        let at = self.effects.len();
        if let Some(ending) = ending {
            self.make_durable(ending);
        }
        self.make_steps()?;
        self.reached();
        let info = self.take_info();
        self.settle(Some(Borrowed { at, publication, writes }));
        Ok(info)
    }

    /// Admits, plans and encodes a batch; what it asks of the index comes back. Its last frame stays
    /// open.
    fn prepare(&mut self, writes: &[GroupWrite], hand: Hand) -> Result<Publication, LogError> {
        let unlanded = |group| unlanded(&self.air, &self.effects, group);
        self.tails.admit(writes, unlanded, &*self.shared.index.read())?;
        let mut goes_on = self.open.as_ref().map(|frame| OpenFrame {
            body_bytes: frame.body_bytes(),
            body_bytes_max: self
                .body_bytes_max
                .min(self.cursor.room().saturating_sub(FRAME_HEADER_BYTES as u64)),
        });
        self.plan.build(writes, goes_on, self.body_bytes_max);
        let bytes: u64 = self.plan.frames.iter().map(plan::FramePlan::bytes).sum();
        if hand == Hand::Beside && bytes > self.cursor.room() {
            self.tails.undo();
            return Err(LogError::UnderWay { flights: self.air.len() });
        }
        let has_entries =
            writes.iter().any(|write| !write.entries.is_empty() || !write.fetched.is_empty());
        self.reserve(has_entries)?;
        let mut publication = self.publications.pop().unwrap_or_default();
        for at in 0..self.plan.frames.len() {
            if goes_on.take().is_none() {
                self.seal();
                if hand != Hand::Over {
                    // One frame in memory at a time.
                    self.make_steps()?;
                }
                if self.plan.frames[at].bytes() > self.cursor.room()
                    && let Some(spare) = self.reserved.pop_front()
                {
                    self.rotate(spare);
                }
                let mut frame = self.frames.pop().unwrap_or_default();
                frame.begin(self.plan.frames[at].body_bytes);
                self.open = Some(frame);
            }
            let pieces = &self.plan.pieces[self.plan.frames[at].pieces.clone()];
            if let Some(frame) = &mut self.open {
                let batch = (writes, self.tails.admitted.as_slice());
                frame.add(&self.cursor, pieces, batch, &mut publication.locations);
            }
        }
        std::mem::swap(&mut publication.pieces, &mut self.plan.pieces);
        std::mem::swap(&mut publication.admitted, &mut self.tails.admitted);
        Ok(publication)
    }

    /// Prepares a batch for the next flight: nothing of it is written, and nobody reads it before that
    /// has landed. Within the log it follows whatever was staged and departed before.
    ///
    /// Bound: what is staged is in memory, so a caller lets it depart before it is more than a few
    /// frames.
    ///
    /// # Errors
    /// A refused operation or [`LogError::NoSegment`] leaves the log and what was staged unchanged.
    /// [`LogError::Poisoned`] is final.
    pub fn stage(&mut self, writes: &Arc<Vec<GroupWrite>>) -> Result<(), LogError> {
        self.check_poison()?;
        let publication = self.prepare(writes, Hand::Over)?;
        self.effects.push(Effect::Published(publication, Arc::clone(writes)));
        Ok(())
    }

    /// Prepares a piece of the payload of an entry that is staged or appended later, with
    /// [`GroupWrite::put_in_pieces`].
    ///
    /// # Errors
    /// As [`Self::stage`].
    pub fn stage_piece(&mut self, group: GroupId, payload: &Bytes) -> Result<Piece, LogError> {
        self.check_poison()?;
        let incarnation = self.tails.incarnation(group).ok_or(LogError::UnknownGroup { group })?;
        let bytes = self.large.piece_bytes_max;
        if payload.len() as u64 > bytes {
            let (index, bytes) = (LogIndex::ZERO, payload.len() as u64);
            let bytes_max = self.large.piece_bytes_max;
            return Err(LogError::EntryTooLarge { group, index, bytes, bytes_max });
        }
        let frame_bytes = frame_bytes(piece_record_bytes(payload.len() as u64));
        self.need_room(frame_bytes).map_err(|source| LogError::NoSegment { source })?;
        let mut frame = self.frames.pop().unwrap_or_default();
        let piece = frame.encode_piece(&self.cursor, (group, incarnation), payload);
        self.count(&frame);
        self.write(frame);
        self.effects.push(Effect::Piece(piece.location));
        Ok(piece)
    }

    /// Lets everything that was staged depart: it is durable, with all before it, when the flight has
    /// landed, or with [`Ending::Written`] written. What is staged from now on goes with the next one.
    ///
    /// # Errors
    /// [`LogError::Poisoned`], which is final.
    pub fn depart(&mut self, ending: Ending) -> Result<Flight, LogError> {
        self.check_poison()?;
        self.seal();
        self.make_durable(ending);
        self.reached();
        let effects = std::mem::take(&mut self.effects);
        Ok(self.take_off(Airborne { number: self.next_flight, effects, covers: None }))
    }

    /// The steps that are there become a flight.
    fn take_off(&mut self, flight: Airborne) -> Flight {
        let number = flight.number;
        self.next_flight = number + 1;
        self.air.push_back(flight);
        let steps = Flying {
            number,
            turn: Arc::clone(&self.turn),
            steps: std::mem::take(&mut self.steps),
            means: self.means.clone(),
            frames: Vec::new(),
            failure: None,
            is_over: false,
            _lock: Arc::clone(&self.lock),
        };
        Flight::new(self.take_info(), steps)
    }

    /// Takes in what came of a flight: readers see what it wrote, and it is durable unless it was only to
    /// be written.
    ///
    /// # Errors
    /// [`LogError::Io`] is final: whatever departed since the last flight that arrived may be lost. A
    /// flight that is not the next one to land is the caller's fault, and final as well.
    pub fn land(&mut self, landing: Landing) -> Result<SyncInfo, LogError> {
        self.check_poison()?;
        self.frames.extend(landing.frames);
        self.frames.truncate(FRAMES_KEPT_MAX);
        if let Some(failure) = landing.failure {
            return Err(self.failed(failure));
        }
        let next = self.air.pop_front_if(|next| next.number == landing.number);
        let Some(flight) = next else {
            let stray = io::Error::other("what departed before it has not landed");
            return Err(self.failed((DiskOp::Write, stray)));
        };
        if self.housekeeping == Some(flight.number) {
            self.housekeeping = None;
        }
        self.take_in(flight.effects, None);
        if let Some(covers) = flight.covers {
            self.cursor.synced(covers);
            self.landed.synced(covers);
        }
        Ok(SyncInfo { durable_lsn: self.durable_lsn() })
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
        self.begin_here()?;
        let piece = self.stage_piece(group, payload)?;
        self.make_steps()?;
        self.reached();
        let info = self.take_info();
        self.settle(None);
        Ok((info, piece))
    }

    /// Makes everything appended so far durable, with one `fdatasync`, or none if it is already.
    ///
    /// # Errors
    /// [`LogError::Io`] and [`LogError::Poisoned`] are final: whatever was appended since the
    /// last successful sync may be lost.
    pub fn sync(&mut self) -> Result<SyncInfo, LogError> {
        self.begin_here()?;
        if self.cursor.content_end > self.cursor.synced {
            self.sync_here()?;
        }
        Ok(SyncInfo { durable_lsn: self.durable_lsn() })
    }

    /// Call this when nothing was appended for about 100 ms after a sync. If the last synced
    /// batch is not yet covered by the promise of a later frame, writes an empty frame that
    /// covers it and makes that durable: the log is *sealed*. Otherwise does nothing.
    ///
    /// Without it, damage to the very last batch before a crash would look like a torn tail and
    /// be cut. Where there is no room for the frame, the promise is noted beside the log.
    ///
    /// # Errors
    /// [`LogError::UnderWay`]; [`LogError::Io`] and [`LogError::Poisoned`], both final. A full disk is
    /// none.
    pub fn idle(&mut self) -> Result<(), LogError> {
        self.begin_here()?;
        if !self.cursor.owes_promise() {
            return Ok(());
        }
        if self.write_marker(0)? {
            if raft_core::planted!(SealNotSynced) { Ok(()) } else { self.sync_here() }
        } else {
            self.cursor.promised = self.cursor.synced;
            self.note_durable();
            self.finish_here()
        }
    }

    /// Writes a frame that says nothing new, and syncs it: whether the disk answers. Without room for
    /// that it syncs what is there.
    ///
    /// # Errors
    /// As [`Self::sync`].
    pub fn probe(&mut self) -> Result<(), LogError> {
        self.begin_here()?;
        if self.write_marker(0)? {
            return self.sync_here();
        }
        self.steps.extend(self.file.clone().map(|file| Step::Sync { file }));
        self.finish_here()
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
            self.sync_here()?;
        }
        self.note_durable();
        self.finish_here()
    }

    /// Sees to it that a frame has room that is no batch, and leaves what votes need.
    fn need_room(&mut self, frame_bytes: u64) -> io::Result<()> {
        self.seal();
        if frame_bytes > self.cursor.room() {
            let spare = self.take_spare(frame_bytes)?;
            self.rotate(spare);
        }
        let left = self.cursor.room() - frame_bytes;
        if left < self.kept_bytes {
            self.spares.ensure()?;
        }
        Ok(())
    }

    /// Where the log ends: everything below is written.
    pub fn end_lsn(&self) -> Lsn {
        self.landed.end()
    }

    /// Everything below is durable.
    pub fn durable_lsn(&self) -> Lsn {
        self.shared.durable()
    }

    /// Whether an earlier write or sync failed, so that the writer accepts nothing more.
    pub fn is_poisoned(&self) -> bool {
        self.poison.is_some()
    }

    /// Whether it waits for room in the middle of a write, for other threads to look at. It does not before
    /// [`RoomWait::allow`].
    pub fn room_wait(&self) -> RoomWait {
        self.means.room.clone()
    }

    /// Reads what this writer has written.
    pub fn reader(&self) -> LogReader {
        self.reader.clone()
    }

    /// Makes the first segment of a log that has none. `Ok(false)`: there is no room for it yet.
    pub(crate) fn begin(&mut self) -> Result<bool, io::Error> {
        self.spares.finish();
        match self.take_spare(BLOCK_BYTES) {
            Ok(spare) => self.rotate(spare),
            Err(source) if is_out_of_room(&source) || is_out_of_descriptors(&source) => {
                return Ok(false);
            }
            Err(source) => return Err(source),
        }
        self.finish_here().map(|()| true).map_err(|error| match error {
            LogError::Io { source, .. } => source,
            error => io::Error::other(error),
        })
    }

    /// Goes on in a fresh segment behind a log that has lost something, and makes what was judged of it
    /// durable: `promises` in the log, and everything in both checkpoints that are kept.
    pub(crate) fn go_on_behind_damage(&mut self, promises: &[GroupWrite]) -> io::Result<()> {
        let told = |error| match error {
            LogError::Io { source, .. } | LogError::NoSegment { source } => source,
            error => io::Error::other(error),
        };
        self.spares.finish();
        let spare = self.take_spare(BLOCK_BYTES)?;
        self.rotate(spare);
        self.finish_here().map_err(told)?;
        self.append(promises).map_err(told)?;
        self.sync().map_err(told)?;
        for _ in 0..2 {
            self.tender.make_now(&self.landed)?;
        }
        Ok(())
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
    fn rotate(&mut self, spare: Spare<D::File>) {
        if self.cursor.end() > self.cursor.synced
            && let Some(file) = &self.file
        {
            self.steps.push_back(Step::Sync { file: Arc::clone(file) });
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
        let (slot, base, bytes) = (spare.slot, header.base, header.bytes);
        self.cursor = self.cursor.rotated(slot, &header);
        let file = Arc::new(spare.file);
        self.steps.push_back(Step::Segment { file: Arc::clone(&file), header });
        self.file = Some(file);
        self.prepared = spare.prepared;
        self.effects.push(Effect::Segment { slot, seq, base, bytes });
        // The header belongs to what is durable, so that "all is synced" compares equal again.
        self.cursor.synced(self.cursor.end());
        self.reached();
        self.effects.push(Effect::Durable(self.cursor.synced));
        // From here on a log that ends before this segment is known to lack it.
        self.note_durable();
    }

    /// Notes beside the log how far it is durable, durably.
    fn note_durable(&mut self) {
        let incarnation = Incarnation::new(self.cursor.incarnation);
        self.steps.push_back(Step::Note(Life { incarnation, durable: self.cursor.synced }));
    }

    /// `false`: there is no room for it.
    fn write_marker(&mut self, flags: u8) -> Result<bool, LogError> {
        if self.cursor.room() < BLOCK_BYTES {
            // A new segment header is a promise for all before it, and as good as a marker.
            match self.take_spare(BLOCK_BYTES) {
                Ok(spare) => self.rotate(spare),
                Err(_) => return Ok(false),
            }
        }
        let mut frame = self.frames.pop().unwrap_or_default();
        frame.encode_marker(&self.cursor, flags);
        self.write(frame);
        self.finish_here().map(|()| true)
    }

    /// The open frame takes nothing more: it is to be written.
    fn seal(&mut self) {
        if let Some(mut frame) = self.open.take() {
            frame.finish(&self.cursor);
            self.count(&frame);
            self.write(frame);
        }
    }

    /// A frame is what was asked for, and no housekeeping.
    fn count(&mut self, frame: &FrameBuffer) {
        let bytes = frame.bytes();
        let unprepared = (self.cursor.offset + bytes).saturating_sub(self.prepared).min(bytes);
        self.info.bytes += bytes;
        self.info.frames += 1;
        self.info.unprepared_bytes += unprepared;
    }

    /// A finished frame is to be written.
    fn write(&mut self, frame: FrameBuffer) {
        let (lsn, offset, bytes) = (self.cursor.end(), self.cursor.offset, frame.bytes());
        self.cursor.wrote(bytes, frame.crc, frame.holds);
        let content_bytes = FRAME_HEADER_BYTES as u64 + frame.content_bytes();
        self.done.bytes_written += content_bytes;
        self.done.bytes_padded += bytes - content_bytes;
        // Without a segment no frame has room.
        if let Some(file) = &self.file {
            let file = Arc::clone(file);
            self.steps.push_back(Step::Frame { file, frame, offset, lsn, until: self.writes });
        }
    }

    /// All that is to be written is to be durable then.
    fn make_durable(&mut self, ending: Ending) {
        let end = self.cursor.end();
        let is_asked = ending != Ending::Written;
        if !is_asked || self.cursor.synced >= end || raft_core::planted!(CompletionBeforeSync) {
            return;
        }
        let synced = self.cursor.synced;
        match (self.steps.back_mut(), &self.file) {
            // Such a call covers its own bytes only. Whatever lies before them and is not durable
            // needs a sync, which then does for all.
            (Some(Step::Frame { lsn, until, .. }), _)
                if ending == Ending::AtOnce
                    && (*lsn == synced || raft_core::planted!(DurableWriteCoversAll)) =>
            {
                *until = Until::Durable;
            }
            (_, Some(file)) => self.steps.push_back(Step::Sync { file: Arc::clone(file) }),
            (_, None) => {}
        }
        self.cursor.synced(end);
        self.effects.push(Effect::Durable(end));
    }

    /// The index has everything up to here once this is in it.
    fn reached(&mut self) {
        self.effects.push(Effect::Reached(self.cursor));
    }

    /// What the steps since the last call write.
    fn take_info(&mut self) -> AppendInfo {
        let info = std::mem::take(&mut self.info);
        self.tender.moves.earn(info.bytes);
        AppendInfo { end_lsn: self.cursor.end(), ..info }
    }

    /// A call that writes by itself begins: what was staged goes first.
    ///
    /// # Errors
    /// [`LogError::UnderWay`] while something has departed and not landed.
    fn begin_here(&mut self) -> Result<(), LogError> {
        self.check_poison()?;
        if !self.air.is_empty() {
            return Err(LogError::UnderWay { flights: self.air.len() });
        }
        if self.open.is_some() || !self.steps.is_empty() {
            self.finish_here()?;
        }
        Ok(())
    }

    /// Makes all steps here, and takes in what comes of them.
    fn finish_here(&mut self) -> Result<(), LogError> {
        self.seal();
        self.make_steps()?;
        self.reached();
        self.settle(None);
        Ok(())
    }

    fn sync_here(&mut self) -> Result<(), LogError> {
        self.make_durable(Ending::Sync);
        self.finish_here()
    }

    fn make_steps(&mut self) -> Result<(), LogError> {
        while let Some(step) = self.steps.pop_front() {
            match self.means.make(step) {
                Ok(frame) => self.frames.extend(frame),
                Err(failure) => return Err(self.failed(failure)),
            }
        }
        self.frames.truncate(FRAMES_KEPT_MAX);
        Ok(())
    }

    /// The steps that were left were made here.
    fn settle(&mut self, batch: Option<Borrowed<'_>>) {
        let effects = std::mem::take(&mut self.effects);
        self.effects = self.take_in(effects, batch);
        self.housekeeping = None;
    }

    /// Takes in what came of steps, and of a batch that is not among them; gives the memory of the list
    /// back.
    ///
    /// All of it under one lock: whoever looks at the index between two looks, and a checkpoint copies
    /// it group by group, finds a batch and the end of the log behind it together, or neither.
    fn take_in(&mut self, mut effects: Vec<Effect>, batch: Option<Borrowed<'_>>) -> Vec<Effect> {
        // A batch that goes on in an open frame ends where that does.
        let reached = effects.iter().rev().find_map(|effect| match effect {
            Effect::Reached(cursor) => Some(cursor.end()),
            _ => None,
        });
        let end = reached.unwrap_or_else(|| self.cursor.end());
        let shared = Arc::clone(&self.shared);
        let mut index = shared.index.write();
        let mut batch = batch;
        for (at, effect) in effects.drain(..).enumerate() {
            if let Some(batch) = batch.take_if(|batch| batch.at == at) {
                publish(&mut index, &batch.publication, batch.writes, end);
                self.keep_publication(batch.publication);
            }
            match effect {
                Effect::Published(publication, writes) => {
                    publish(&mut index, &publication, &writes, end);
                    self.keep_publication(publication);
                }
                Effect::Piece(location) => index.add_pending(location),
                Effect::Segment { slot, seq, base, bytes } => {
                    index.segments.add(slot, seq, base, bytes);
                }
                Effect::Copied(end, relocations) => self.copied.push_back((end, relocations)),
                Effect::Reached(cursor) => {
                    self.landed = cursor;
                    index.end = cursor.end();
                }
                Effect::Durable(durable) => {
                    shared.set_durable(&mut index, durable);
                    self.moved(&mut index);
                }
            }
        }
        debug_assert!(batch.is_none(), "a batch is followed by how far the log goes");
        effects
    }

    fn keep_publication(&mut self, mut publication: Publication) {
        let Publication { pieces, admitted, locations } = &mut publication;
        // One huge batch must not keep its memory for the life of the log.
        let is_small = locations.capacity() <= LOCATIONS_KEPT_MAX;
        if is_small && self.publications.len() < PUBLICATIONS_KEPT_MAX {
            pieces.clear();
            admitted.clear();
            locations.clear();
            self.publications.push(publication);
        }
    }

    fn check_poison(&self) -> Result<(), LogError> {
        match self.poison {
            Some((op, kind)) => Err(LogError::Poisoned { op, kind }),
            None => Ok(()),
        }
    }

    /// Nothing is accepted any more.
    fn failed(&mut self, failure: Failure) -> LogError {
        let (op, source) = &failure;
        self.poison = Some((*op, source.kind()));
        error_of(failure)
    }
}

/// Makes a written batch, which is durable with all up to `end`, visible to readers.
fn publish(index: &mut Index, publication: &Publication, writes: &[GroupWrite], end: Lsn) {
    let mut locations = publication.locations.as_slice();
    for piece in &publication.pieces {
        let write = &writes[piece.write];
        let Admitted { slot, incarnation } = publication.admitted[piece.write];
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
}

impl<D: Disk> LogStore for LogWriter<D> {
    fn append(&mut self, writes: &[GroupWrite]) -> Result<AppendInfo, LogError> {
        self.append(writes)
    }

    fn append_cached(&mut self, writes: &[GroupWrite]) -> Result<AppendInfo, LogError> {
        self.append_cached(writes)
    }

    fn commit(&mut self, writes: &[GroupWrite]) -> Result<(AppendInfo, SyncInfo), LogError> {
        self.commit(writes)
    }

    fn stage(&mut self, writes: &Arc<Vec<GroupWrite>>) -> Result<(), LogError> {
        self.stage(writes)
    }

    fn stage_piece(&mut self, group: GroupId, payload: &Bytes) -> Result<Piece, LogError> {
        self.stage_piece(group, payload)
    }

    fn depart(&mut self, ending: Ending) -> Result<Flight, LogError> {
        self.depart(ending)
    }

    fn depart_sync(&mut self) -> Result<Flight, LogError> {
        self.depart_sync()
    }

    fn land(&mut self, landing: Landing) -> Result<SyncInfo, LogError> {
        self.land(landing)
    }

    fn sync(&mut self) -> Result<SyncInfo, LogError> {
        self.sync()
    }

    fn idle(&mut self) -> Result<(), LogError> {
        self.idle()
    }

    fn probe(&mut self) -> Result<(), LogError> {
        self.probe()
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

    fn room_wait(&self) -> RoomWait {
        self.room_wait()
    }
}

/// What was asked for a group that the index does not have yet, the oldest first.
fn unlanded<'a>(
    air: &'a VecDeque<Airborne>,
    staged: &'a [Effect],
    group: GroupId,
) -> Vec<&'a GroupWrite> {
    let effects = air.iter().flat_map(|flight| &flight.effects).chain(staged);
    let batches = effects.filter_map(|effect| match effect {
        Effect::Published(_, writes) => Some(writes),
        _ => None,
    });
    batches.flat_map(|writes| writes.iter()).filter(|write| write.group == group).collect()
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

/// Frames kept to be used again: one open, one in the air, and one more for what comes between.
const FRAMES_KEPT_MAX: usize = 3;
const PUBLICATIONS_KEPT_MAX: usize = 64;
const LOCATIONS_KEPT_MAX: usize = 1 << 16;
