//! Recovery: from the bytes of a directory to the state of all groups, or a typed refusal.
//!
//! The newest checkpoint that is whole says what was in force at a place of the log, and which
//! segments hold the entries. From there on the log is read once, in order. At the first place where
//! no valid frame follows there are two explanations, and confusing them loses acknowledged data:
//! - *torn tail*: a crash interrupted writes that were never synced. They are cut, and made
//!   unreadable, so that they can never be taken for new ones later;
//! - *damage*: bytes that were durable have changed. Proof is any promise that reaches beyond the
//!   place: the `synced_lsn` of a later valid frame, the header of a later segment, the checkpoint,
//!   or the end of the log noted at the last open. Then nothing is cut and the open is refused.
//!
//! Which segments are alive is what the checkpoint lists and what follows it without a gap. Any
//! other file is a spare, whatever it holds. Of a listed segment that is sealed only the header is
//! looked at here; its entries vouch for themselves when they are read.
//!
//! Invariant: every candidate segment is synced before it is judged, and the newest is read from
//! the disk and not from memory, header included, so that what recovery sees is what a further
//! crash leaves. A sync that failed marks pages clean that never reached the disk; whoever built
//! on them would lose what it acknowledges later.
//!
//! A block that the disk cannot read is taken for zeros ([`Readings`]), and so is judged like one that
//! was changed: damage below a promise, no matter behind the end. At the end itself it is damage as well:
//! a torn write leaves old bytes or new ones, and of a frame that cannot be read nothing says that it was
//! never acknowledged.
//!
//! Few files are open at a time, however many segments there are, and nothing is changed before all of
//! them were judged.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use raft_core::{
    Base, GroupId, GroupIncarnation, HardState, Incarnation, LogIndex, LogTime, Membership,
    PromiseRecord, Term, Tombstone,
};

use crate::append::cursor::Cursor;
use crate::append::spares::{Preparation, Ready};
use crate::checkpoint::files::{self as checkpoint, Kept};
use crate::checkpoint::outline::{Listed, Outline};
use crate::disk::readings::Readings;
use crate::disk::{Disk, DiskFile, fill_with_zeros};
use crate::error::{Damage, FrameFault, OpenError, Unsupported};
use crate::format::field::is_zero;
use crate::format::frame::{FRAME_HEADER_BYTES, FRAME_VERSION};
use crate::format::identity::{Identity, Life};
use crate::format::lsn::Lsn;
use crate::format::record::{RECORD_HEADER_BYTES, RecordHeader, RecordType};
use crate::format::segment::{BLOCK_BYTES, HeaderFault, SegmentHeader, file_name, slot_of};
use crate::read::index::{DOUBT_NAME, Index};
use crate::read::location::SLOTS_MAX;
use crate::read::open_files::OpenFiles;
use crate::recover::ahead::{Ahead, Part};
use crate::recover::damage::Hole;
use crate::recover::frames::{Segment, find_frame, frame_at, frame_header, read_header};
use crate::recover::replay::{ApplyFault, Items, Replay, split_record};
use crate::recover::window::{Content, Window};

/// What the log holds of one group.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct RecoveredGroup {
    /// The description given when the group was created.
    pub spec: Bytes,
    /// Which life of the group id this is.
    pub incarnation: GroupIncarnation,
    /// The last term and vote written.
    pub hard_state: HardState,
    /// What is known of lost promises.
    pub promise: PromiseRecord,
    /// Where the log begins, with what was in force there; a log that is whole knows nothing of
    /// that.
    pub base: Base,
    /// The index of the first entry: the one after the base.
    pub first_index: LogIndex,
    /// The index of the last entry, or the one before the first.
    pub last_index: LogIndex,
    /// Where each term begins, in order.
    pub term_runs: Vec<(LogIndex, Term)>,
    /// The memberships among the entries, in order.
    pub configs: Vec<(LogIndex, Arc<Membership>)>,
    /// The leader's clock in the last entry, or at the base; zero if there was none. Of an earlier entry
    /// where nothing is left behind one that cannot be read ([`OnDamage::Repair`](crate::OnDamage)); the
    /// snapshot that covers it knows better.
    pub log_time: LogTime,
    /// Whether entries lie beside the log that were fetched for a snapshot.
    pub has_fetched: bool,
}

/// The groups that are there, and what is remembered of those that were.
#[derive(Debug, Default)]
pub(crate) struct RecoveredGroups {
    pub(crate) here: BTreeMap<GroupId, RecoveredGroup>,
    pub(crate) tombstones: BTreeMap<GroupId, (GroupIncarnation, Tombstone)>,
}

/// What an open does where bytes are lost that were durable.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum OnDamage {
    /// It refuses, and nothing is changed.
    #[default]
    Refuse,
    /// It goes on without them, and marks the groups that may have lost something
    /// ([`Promise`](raft_core::Promise)), durably, before anything else. For replicas, which can learn from
    /// others what they have forgotten. It still refuses where nothing says what is lost: all checkpoints
    /// are damaged, or the descriptions of groups are gone.
    Repair,
}

/// What recovery found and did.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct RecoveryReport {
    /// Segments of the log, spares not counted.
    pub segments: u64,
    /// Where the checkpoint ends from which the log was read; zero if there was none.
    pub checkpoint: Lsn,
    /// Files of checkpoints that hold no whole one: torn by a crash, or damaged.
    pub checkpoints_unreadable: u64,
    /// Valid frames that were read.
    pub frames: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Where a torn tail was cut, if there was one.
    pub torn_tail: Option<TornTail>,
    /// What was durable and is lost, if the log was opened all the same.
    pub damage: Vec<Hole>,
    /// Groups may have begun here that the log does not know any more.
    pub creations_lost: bool,
    /// Whether the last life of the log closed it in order: then everything it ever wrote is here.
    pub clean: bool,
    /// The newest life of the node that wrote anything of what is here; zero if none did.
    pub newest_incarnation: Incarnation,
    /// Where what the lives before had written ends. What an open adds lies behind.
    pub end_lsn: Lsn,
}

impl RecoveryReport {
    fn saw_life(&mut self, incarnation: u64) {
        self.newest_incarnation = self.newest_incarnation.max(Incarnation::new(incarnation));
    }
}

/// Unsynced writes that a crash interrupted; nothing in them was ever acknowledged.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TornTail {
    /// Where the log was cut.
    pub lsn: Lsn,
    /// How many blocks behind the cut were made unreadable: all that were not blank, or, in a segment
    /// that was used before, those with the header of a frame.
    pub blocks: u64,
    /// Why no frame follows.
    pub fault: FrameFault,
}

/// A recovered log, ready to be continued.
pub(crate) struct Recovered<D: Disk> {
    pub(crate) groups: RecoveredGroups,
    pub(crate) index: Index,
    pub(crate) files: OpenFiles<D>,
    /// The end of the log; `None` if there is no segment yet. Its incarnation is the noted one.
    pub(crate) cursor: Option<Cursor>,
    /// Spares of today's length.
    pub(crate) spares: Vec<Ready>,
    pub(crate) next_slot: u32,
    pub(crate) kept: Kept,
    pub(crate) report: RecoveryReport,
}

/// What a directory holds, judged; nothing was changed.
pub(crate) struct Judged {
    pub(crate) found: Found,
    pub(crate) replay: Replay,
    pub(crate) cursor: Option<Cursor>,
    pub(crate) kept: Kept,
}

/// Reads the log in `disk`, and makes it ready to be continued. Spares are kept if they have
/// `segment_bytes`.
pub(crate) fn recover<D: Disk>(
    disk: &D,
    identity: &Identity,
    life: Life,
    segment_bytes: u64,
    on_damage: OnDamage,
    preparation: Preparation,
) -> Result<Recovered<D>, OpenError> {
    let ways = (on_damage, preparation);
    let mut tries = 0;
    loop {
        let readings = Readings::default();
        let mut is_back = || {
            while !readings.is_disk() && disk.wait_to_read(tries) {
                tries = tries.saturating_add(1);
                if readings.is_any_back(disk) {
                    return true;
                }
            }
            false
        };
        let recovered =
            recover_by(disk, identity, life, segment_bytes, ways, (&readings, &mut is_back));
        let recovered = recovered.map_err(|error| readings.judge(disk.describe(), error))?;
        if let Some(recovered) = recovered {
            return Ok(recovered);
        }
    }
}

/// `None`: something of what could not be read can be read by now, so all of it is to be read anew.
fn recover_by<D: Disk>(
    disk: &D,
    identity: &Identity,
    life: Life,
    segment_bytes: u64,
    ways: (OnDamage, Preparation),
    (readings, is_back): (&Readings, &mut dyn FnMut() -> bool),
) -> Result<Option<Recovered<D>>, OpenError> {
    let io = |source| OpenError::Io { dir: disk.describe(), source };
    let (on_damage, _) = ways;
    let judged = judge(disk, identity, life, segment_bytes, ways, readings);
    let loses = match &judged {
        Ok(judged) => judged.replay.losses.any(),
        Err(error) => matches!(error, OpenError::Corrupt { .. }),
    };
    // What is judged lost is forgotten for good, and a path to a disk that is gone comes back.
    if loses && readings.lost() > 0 && is_back() {
        return Ok(None);
    }
    let Judged { mut found, mut replay, cursor, kept } = judged?;
    if replay.losses.any() {
        // What has no header may be all that is left of a segment that is missed. It stays as it is.
        found.spares.retain(|spare| !found.doubtful.contains(&spare.slot));
        found.useless.retain(|slot| !found.doubtful.contains(slot));
    }
    // Only now is it certain that what follows was never promised to anybody.
    if let Some(segment) = found.segments.last()
        && let Some(torn) = &mut replay.report.torn_tail
    {
        let from = torn.lsn.get() - segment.header.base.get();
        let file = disk.open(&file_name(segment.slot)).map_err(io)?;
        torn.blocks = cut_tail(segment, &file, from, readings).map_err(io)?;
    }
    found.tidy_up(disk).map_err(io)?;

    let files = OpenFiles::new(disk.clone());
    replay.losses.doubts = on_damage == OnDamage::Repair && is_doubted(disk).map_err(io)?;
    let asked = readings.lost();
    let groups = replay.finish((&files, readings)).map_err(io)?;
    if readings.lost() > asked && (loses || replay.losses.doubts) && is_back() {
        return Ok(None);
    }
    replay.report.damage = std::mem::take(&mut replay.losses.holes);
    replay.report.clean &= replay.report.damage.is_empty();
    Ok(Some(Recovered {
        groups,
        files,
        index: replay.index,
        cursor,
        spares: found.spares,
        next_slot: found.next_slot,
        kept,
        report: replay.report,
    }))
}

/// Whether an entry was found damaged since this log was opened last.
fn is_doubted<D: Disk>(disk: &D) -> io::Result<bool> {
    match disk.open(DOUBT_NAME) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// All of the log was looked at, and what was found is settled.
pub(crate) fn doubt_no_more<D: Disk>(disk: &D) -> io::Result<()> {
    if is_doubted(disk)? {
        disk.remove(DOUBT_NAME)?;
        disk.sync_dir()?;
    }
    Ok(())
}

/// Reads the log in `disk` and changes nothing. What cannot be read is noted in `readings`, by which the
/// caller is to judge an error.
pub(crate) fn judge<D: Disk>(
    disk: &D,
    identity: &Identity,
    life: Life,
    segment_bytes: u64,
    (on_damage, preparation): (OnDamage, Preparation),
    readings: &Readings,
) -> Result<Judged, OpenError> {
    let io = |source| OpenError::Io { dir: disk.describe(), source };
    let checkpoint = checkpoint::load(disk, identity.store, readings)?;
    let kept = checkpoint.kept;
    let newest = kept.newest.as_ref().map(|newest| &newest.outline);
    let found = find_segments(disk, identity, segment_bytes, &kept, readings)?;
    let repairs = on_damage == OnDamage::Repair;
    let (begin, missing) = check_sequence(&found.segments, newest, repairs)?;

    // Whatever a checkpoint holds was durable when it was ended.
    let life = Life { durable: life.durable.max(checkpoint.durable), ..life };
    let mut replay = Replay::new(life);
    replay.report.checkpoints_unreadable = checkpoint.unreadable;
    for segment in &found.segments {
        let header = &segment.header;
        replay.index.segments.add(segment.slot, header.seq, header.base, header.bytes);
        replay.report.saw_life(header.incarnation);
    }
    for row in checkpoint.rows {
        replay.restore(row);
    }
    for listed in missing {
        let why = Damage::SegmentMissing { seq: listed.seq };
        let to =
            newest.map_or(listed.base, |newest| newest.replay).min(listed.base.plus(listed.bytes));
        let (segment, from) = (listed.slot, listed.base);
        replay.losses.segment(Hole { segment, offset: 0, from, to, groups: None, why });
    }
    if let Some(newest) = newest {
        // No later than the last frame before.
        replay.stance = Some(Lsn::new(newest.replay.get().saturating_sub(BLOCK_BYTES)));
        replay.losses.creations = newest.creations_lost;
    }
    let mut cursor = std::thread::scope(|scope| {
        let parts = parts(&found.segments[begin..]);
        let mut ahead = match preparation {
            Preparation::Background => Ahead::begin(scope, disk, parts),
            Preparation::OnDemand => None,
        };
        let ways = (repairs, readings);
        replay_all(disk, &found.segments[begin..], newest, ways, &mut replay, &mut ahead)
    })?;
    let end = cursor.map_or(Lsn::ZERO, |cursor| cursor.end());
    if end < life.durable
        && repairs
        && let Some(last) = &mut cursor
    {
        let why = Damage::LogEndsEarly { end, promised: life.durable };
        let (segment, offset) = (last.slot, last.offset);
        let to = life.durable;
        replay.hole(Hole { segment, offset, from: end, to, groups: None, why });
        replay.report.torn_tail = None;
    } else if end < life.durable {
        let slot = cursor.map_or(0, |cursor| cursor.slot);
        return Err(OpenError::Corrupt {
            segment: slot,
            offset: cursor.map_or(0, |cursor| cursor.offset),
            lsn: Some(end),
            groups: None,
            why: Damage::LogEndsEarly { end, promised: life.durable },
        });
    }
    let ends_in_hole = replay.losses.end_is_lost();
    replay.end();
    let files = OpenFiles::new(disk.clone());
    for hole in replay.unreadable_clocks((&files, readings)).map_err(io)? {
        let Hole { segment, offset, from, groups, why, .. } = hole.clone();
        if !repairs {
            return Err(OpenError::Corrupt { segment, offset, lsn: Some(from), groups, why });
        }
        replay.losses.old(hole);
    }
    if let Some(hole) = replay.losses.holes.first()
        && !replay.losses.strangers.is_empty()
    {
        // Of these not even the description is known: they cannot be here, nor be gone.
        let Hole { segment, offset, from, why, .. } = *hole;
        let groups = Some(replay.losses.strangers.iter().copied().collect());
        return Err(OpenError::Corrupt { segment, offset, lsn: Some(from), groups, why });
    }
    if let Some(last) = &mut cursor
        && replay.losses.any()
    {
        // It goes on in a fresh segment, behind all that was ever promised; what is there stays as it is.
        if ends_in_hole {
            let behind = last.base.plus(last.bytes).max(life.durable).get();
            last.offset = behind.next_multiple_of(BLOCK_BYTES) - last.base.get();
            last.stance = None;
        }
        last.synced = last.end();
    }
    let reached = end.max(life.durable);
    let end = cursor.map_or(Lsn::ZERO, |cursor| cursor.end());
    replay.report.creations_lost = replay.losses.creations;
    replay.report.segments = found.segments.len() as u64;
    replay.report.end_lsn = reached;
    replay.index.end = end;
    Ok(Judged { found, replay, cursor, kept })
}

/// Where a segment ends, as the one behind it says.
fn sealed_at(segment: &Segment, next: Option<&Segment>) -> Option<Lsn> {
    let next = next.filter(|next| next.header.seq == segment.header.seq + 1);
    next.map(|next| next.header.prev_end)
}

/// What is to be read of each segment.
fn parts(segments: &[Segment]) -> Vec<Part<'_>> {
    let mut parts = Vec::with_capacity(segments.len());
    for (at, segment) in segments.iter().enumerate() {
        let header = &segment.header;
        let end = sealed_at(segment, segments.get(at + 1));
        let limit = end.map_or(header.bytes, |end| end.get().saturating_sub(header.base.get()));
        parts.push((segment, limit));
    }
    parts
}

/// Reads the segments, the oldest first, into `replay`; returns where the log goes on.
fn replay_all<D: Disk>(
    disk: &D,
    segments: &[Segment],
    newest: Option<&Outline>,
    (repairs, readings): (bool, &Readings),
    replay: &mut Replay,
    ahead: &mut Option<Ahead>,
) -> Result<Option<Cursor>, OpenError> {
    let io = |source| OpenError::Io { dir: disk.describe(), source };
    let life = replay.life;
    let mut cursor: Option<Cursor> = None;
    // What the next frame must follow, where that is known.
    let mut chain = Some(0);
    for (at, segment) in segments.iter().enumerate() {
        let header = &segment.header;
        let sealed_at = sealed_at(segment, segments.get(at + 1));
        let is_first = newest.filter(|_| at == 0);
        if let Some(newest) = is_first {
            replay.report.checkpoint = newest.replay;
        }
        let from = match is_first {
            Some(newest) if header.seq == newest.replay_seq => {
                // What it continues may be gone long since.
                chain = Some(header.prev_crc);
                Some((newest.replay, newest.chain))
            }
            Some(_) | None => None,
        };
        let (expected, begins) = match (&cursor, is_first) {
            (Some(before), _) => (before.seq + 1, before.end()),
            (None, Some(newest)) => (newest.replay_seq, newest.replay),
            (None, None) => (header.seq, header.base),
        };
        if repairs && from.is_none() && header.base > begins {
            // The segments between are gone, or the end of the one before.
            let why = Damage::SegmentSequence { expected, found: header.seq };
            let (segment, to) = (segment.slot, header.base);
            replay.hole(Hole { segment, offset: 0, from: begins, to, groups: None, why });
            chain = None;
        }
        if chain.is_some_and(|chain| chain != header.prev_crc) {
            return Err(segment.corrupt(0, None, Damage::SegmentChain));
        }
        if header.incarnation > life.incarnation.get() {
            return Err(segment.ahead(0, header.incarnation, life));
        }
        let file = disk.open(&file_name(segment.slot)).map_err(io)?;
        let way = Way { sealed_at, from, repairs, readings };
        let scanned =
            scan(segment, &file, Some(header.prev_crc), &way, replay, ahead).map_err(|fault| {
                match fault {
                    ScanFault::Io(source) => io(source),
                    ScanFault::Open(error) => *error,
                }
            })?;
        chain = scanned.chain;
        cursor = Some(Cursor {
            slot: segment.slot,
            seq: header.seq,
            base: header.base,
            seed: header.frame_seed(),
            bytes: header.bytes,
            offset: scanned.end,
            chain: chain.unwrap_or_default(),
            incarnation: life.incarnation.get(),
            synced: header.base.plus(scanned.end),
            promised: scanned.promised,
            content_end: scanned.content_end,
            stance: replay.stance,
        });
    }
    Ok(cursor)
}

/// The segment files of a directory.
#[derive(Default)]
pub(crate) struct Found {
    /// In the order of the log: those that a kept checkpoint needs, and what follows.
    pub(crate) segments: Vec<Segment>,
    pub(crate) spares: Vec<Ready>,
    /// Files without a valid header that are not blank.
    doubtful: Vec<u32>,
    /// Spares whose header a crash has torn.
    torn: Vec<u32>,
    /// Files that are neither segments nor spares of today's length.
    useless: Vec<u32>,
    next_slot: u32,
}

/// Looks at every segment file and tells segments from spares.
fn find_segments<D: Disk>(
    disk: &D,
    identity: &Identity,
    segment_bytes: u64,
    kept: &Kept,
    readings: &Readings,
) -> Result<Found, OpenError> {
    let io = |source| OpenError::Io { dir: disk.describe(), source };
    let mut slots: Vec<u32> = disk.list().map_err(io)?.iter().filter_map(|n| slot_of(n)).collect();
    slots.sort_unstable();
    let mut found = Found::default();
    for slot in slots {
        if slot >= SLOTS_MAX {
            // The index cannot name it, so this software has never written it.
            continue;
        }
        found.next_slot = slot + 1;
        let file = disk.open(&file_name(slot)).map_err(io)?;
        file.sync_data().map_err(io)?;
        found.classify(disk, identity, (slot, &file), segment_bytes, (kept, readings))?;
    }
    // The older ones were followed by a segment, and so were durable before.
    loop {
        found.segments.sort_by_key(|segment| segment.header.seq);
        let Some(newest) = found.segments.pop() else { break };
        let file = disk.open(&file_name(newest.slot)).map_err(io)?;
        file.drop_cache().map_err(io)?;
        found.classify(disk, identity, (newest.slot, &file), segment_bytes, (kept, readings))?;
        if found.segments.last().is_some_and(|last| last.header == newest.header) {
            break;
        }
    }
    Ok(found)
}

impl Found {
    /// Takes a file for what it is: a segment that is needed, or a spare.
    fn classify<D: Disk>(
        &mut self,
        disk: &D,
        identity: &Identity,
        (slot, file): (u32, &D::File),
        segment_bytes: u64,
        (kept, readings): (&Kept, &Readings),
    ) -> Result<(), OpenError> {
        let io = |source| OpenError::Io { dir: disk.describe(), source };
        let bytes = file.bytes().map_err(io)?;
        let header = match read_header((slot, file), bytes, readings).map_err(io)? {
            Ok(header) => header,
            Err(fault) => {
                let name = file_name(slot);
                let mut window = Window::over_holes(file, name, bytes, readings);
                let content = window.content(BLOCK_BYTES.min(bytes), bytes).map_err(io)?;
                return self.set_aside((slot, bytes), fault, content, segment_bytes, kept);
            }
        };
        let segment = Segment { slot, header };
        let header = &segment.header;
        if header.store != identity.store {
            let (expected, found) = (identity.store, header.store);
            return Err(OpenError::ForeignSegment { segment: slot, expected, found });
        }
        if !kept.needs(slot, header.seq) {
            self.keep_spare(slot, bytes == segment_bytes, true);
            return Ok(());
        }
        if bytes < header.bytes {
            let expected = header.bytes;
            let why = Damage::SegmentShort { bytes, expected };
            return Err(segment.corrupt(bytes, None, why));
        }
        self.segments.push(segment);
        Ok(())
    }

    fn keep_spare(&mut self, slot: u32, fits: bool, recycled: bool) {
        if fits {
            self.spares.push(Ready { slot, recycled });
        } else {
            self.useless.push(slot);
        }
    }

    /// A file without a valid header: a spare, or a segment whose header a crash has torn before
    /// anything followed.
    ///
    /// Once segments are used again that is all there is to say: whatever needs the file as it was
    /// finds that it is missing. Before, a spare is blank, and anything else is damage. What cannot be
    /// read is nothing where the header says that it is a spare, and else may have been something.
    fn set_aside(
        &mut self,
        (slot, bytes): (u32, u64),
        fault: HeaderFault,
        content: Content,
        segment_bytes: u64,
        kept: &Kept,
    ) -> Result<(), OpenError> {
        if let HeaderFault::Unsupported { format } = fault {
            return Err(OpenError::Unsupported {
                segment: slot,
                offset: 0,
                what: Unsupported::SegmentFormat,
                value: u64::from(format),
            });
        }
        let fits = bytes == segment_bytes;
        let is_blank = match content {
            Content::Blank => true,
            Content::Unreadable => fault == HeaderFault::Blank,
            Content::Some => false,
        };
        if !is_blank {
            if kept.newest.is_some() {
                self.doubtful.push(slot);
                self.keep_spare(slot, fits, true);
                return Ok(());
            }
            return Err(OpenError::Corrupt {
                segment: slot,
                offset: 0,
                lsn: None,
                groups: None,
                why: Damage::SegmentHeader,
            });
        }
        if fits && matches!(fault, HeaderFault::Damaged | HeaderFault::Unreadable) {
            self.torn.push(slot);
        }
        self.keep_spare(slot, fits, false);
        Ok(())
    }

    /// Makes the spares blank and durable, and removes what nobody needs. Not before everything was
    /// judged: a torn header may be all that is left of a segment that is missed.
    ///
    /// A process that died while it made a spare has left a file whose name and length are not on
    /// the disk yet. A segment in it would be gone after the next power cut, with all that was
    /// acknowledged from there on.
    fn tidy_up<D: Disk>(&self, disk: &D) -> io::Result<()> {
        for slot in &self.torn {
            let file = disk.open(&file_name(*slot))?;
            fill_with_zeros(&file, 0, BLOCK_BYTES)?;
            file.sync_data()?;
        }
        for slot in &self.useless {
            disk.remove(&file_name(*slot))?;
        }
        for spare in &self.spares {
            disk.open(&file_name(spare.slot))?.sync_all()?;
        }
        let is_settled = self.spares.is_empty() && self.useless.is_empty();
        if is_settled { Ok(()) } else { disk.sync_dir() }
    }
}

/// Checks that headers and checkpoint tell one story: every segment that is needed is there, once,
/// in one piece, and what is younger than the checkpoint follows without a gap. Returns where replay
/// begins.
///
/// Where damage is repaired, segments may be missing: those that are listed are returned.
fn check_sequence(
    segments: &[Segment],
    newest: Option<&Outline>,
    repairs: bool,
) -> Result<(usize, Vec<Listed>), OpenError> {
    // Without a checkpoint all of them must be there: nothing else says what there was before, or that
    // there was a checkpoint which is damaged.
    let repairs = repairs && newest.is_some();
    let mut missing = Vec::new();
    let there: BTreeMap<u32, &SegmentHeader> =
        segments.iter().map(|segment| (segment.slot, &segment.header)).collect();
    for listed in newest.iter().flat_map(|newest| &newest.segments) {
        let is_there = there.get(&listed.slot).is_some_and(|header| {
            (header.seq, header.base, header.bytes) == (listed.seq, listed.base, listed.bytes)
        });
        if !is_there && repairs {
            missing.push(*listed);
        } else if !is_there {
            let (segment, lsn) = (listed.slot, Some(listed.base));
            let why = Damage::SegmentMissing { seq: listed.seq };
            return Err(OpenError::Corrupt { segment, offset: 0, lsn, groups: None, why });
        }
    }
    let first = newest.map_or(1, |newest| newest.replay_seq);
    let begin = segments.partition_point(|segment| segment.header.seq < first);
    let run = &segments[begin..];
    let mut expected = first;
    for segment in run {
        let found = segment.header.seq;
        if found != expected && !(repairs && found > expected) {
            return Err(segment.corrupt(0, None, Damage::SegmentSequence { expected, found }));
        }
        expected = found + 1;
    }
    // The first of them begins where the checkpoint says, or the log does.
    let mut expected_base =
        run.first().map(|first| newest.map_or(Lsn::ZERO, |_| first.header.base));
    for (at, segment) in run.iter().enumerate() {
        let header = &segment.header;
        // Where this one ends, as the next one says; the newest ends wherever its frames do.
        let end = run.get(at + 1).map(|next| next.header.prev_end);
        let fits = end.is_none_or(|end| {
            let within = end <= header.base.plus(header.bytes) || repairs;
            end >= header.base.plus(BLOCK_BYTES) && within
        });
        let sound = Some(header.base) == expected_base
            && header.prev_end == header.base
            && header.bytes >= BLOCK_BYTES
            && header.base.get().checked_add(header.bytes).is_some()
            && fits;
        if !sound {
            return Err(segment.corrupt(0, None, Damage::SegmentChain));
        }
        expected_base = end;
    }
    Ok((begin, missing))
}

enum ScanFault {
    Io(io::Error),
    Open(Box<OpenError>),
}

struct Scanned {
    /// Behind the last valid frame, in the file.
    end: u64,
    chain: Option<u32>,
    promised: Lsn,
    content_end: Lsn,
}

/// How a segment is read.
struct Way<'a> {
    /// Where it ends, as the next one says.
    sealed_at: Option<Lsn>,
    /// What lies before this place is known; the frames up to there end with this checksum.
    from: Option<(Lsn, u32)>,
    repairs: bool,
    readings: &'a Readings,
}

/// Reads the frames of one segment into `replay`: those from a place on, if one is given, with the
/// checksum that the frames before it end with; they are checked all the same.
fn scan<F: DiskFile>(
    segment: &Segment,
    file: &F,
    chain: Option<u32>,
    &Way { sealed_at, from, repairs, readings }: &Way<'_>,
    replay: &mut Replay,
    ahead: &mut Option<Ahead>,
) -> Result<Scanned, ScanFault> {
    let header = &segment.header;
    let limit = sealed_at.map_or(header.bytes, |end| end.get() - header.base.get());
    let mut window = Window::over_holes(file, file_name(segment.slot), limit, readings);
    let mut scanned = Scanned {
        end: BLOCK_BYTES,
        chain,
        promised: header.prev_end,
        content_end: header.prev_end,
    };
    while scanned.end < limit {
        let ready = ahead.as_mut().and_then(|ahead| ahead.next(segment.slot, scanned.end));
        let frame = match ready {
            Some(valid) => Ok(valid),
            None => frame_at(segment, &mut window, scanned.chain, scanned.end, limit)
                .map_err(ScanFault::Io)?,
        };
        let mut torn = None;
        let (frame, crc) = match frame {
            Ok(valid) => valid,
            Err(fault) => {
                let promised = match sealed_at {
                    _ if raft_core::planted!(DamageCutAsTornTail) => None,
                    _ if fault == FrameFault::Unreadable
                        && raft_core::planted!(UnreadableCutAsTornTail) =>
                    {
                        None
                    }
                    Some(end) => Some(end),
                    None => later_promise(segment, &mut window, scanned.end, limit, replay.life)
                        .map_err(ScanFault::Io)?,
                };
                // After the last word of a life there is nothing. Elsewhere a frame that cannot be read
                // looks the same whether it was acknowledged or torn.
                let may_be_lost = fault == FrameFault::Unreadable
                    && !replay.report.clean
                    && !raft_core::planted!(DamageCutAsTornTail)
                    && !raft_core::planted!(UnreadableCutAsTornTail);
                let why = match promised {
                    Some(promised) => Some(Damage::FrameLost { fault, promised }),
                    None => may_be_lost.then_some(Damage::EndUnreadable),
                };
                let offset = scanned.end;
                let lsn = header.base.plus(offset);
                let is_old = from.is_some_and(|(from, _)| lsn < from);
                let whole = match fault {
                    FrameFault::BodyChecksum | FrameFault::Padding | FrameFault::Unreadable
                        if repairs && !is_old =>
                    {
                        let groups = damaged_groups(segment, &mut window, offset, limit);
                        let block = window.get(offset, BLOCK_BYTES).map_err(ScanFault::Io)?;
                        groups.zip(frame_header(header, block, offset).ok())
                    }
                    _ => None,
                };
                if let Some(why) = why
                    && let Some((groups, whole)) = whole
                {
                    torn = Some((groups, why));
                    whole
                } else if let Some(why) = why
                    && repairs
                {
                    let next = find_frame(segment, &mut window, offset + BLOCK_BYTES, limit);
                    let next = next.map_err(ScanFault::Io)?;
                    scanned.chain = None;
                    scanned.end = next.unwrap_or(limit);
                    if let Some((from, chain)) = from.filter(|_| is_old) {
                        let known = from.get() - header.base.get();
                        if scanned.end >= known {
                            (scanned.end, scanned.chain) = (known, Some(chain));
                        }
                    }
                    let (segment, to) = (segment.slot, header.base.plus(scanned.end));
                    let hole = Hole { segment, offset, from: lsn, to, groups: None, why };
                    match is_old {
                        true => replay.losses.old(hole),
                        false => replay.hole(hole),
                    }
                    continue;
                } else if let Some(why) = why {
                    let groups = damaged_groups(segment, &mut window, scanned.end, limit);
                    let groups = groups.filter(|groups| !groups.is_empty());
                    return Err(ScanFault::Open(Box::new(segment.corrupt(
                        scanned.end,
                        groups,
                        why,
                    ))));
                } else {
                    let is_torn = has_tail(segment, &mut window, scanned.end, limit);
                    if is_torn.map_err(ScanFault::Io)? {
                        replay.report.torn_tail = Some(TornTail { lsn, blocks: 0, fault });
                    }
                    return Ok(scanned);
                }
            }
        };
        if frame.version != FRAME_VERSION {
            let (what, value) = (Unsupported::FrameVersion, u64::from(frame.version));
            return Err(ScanFault::Open(Box::new(segment.unsupported(scanned.end, what, value))));
        }
        if frame.flags != 0 {
            let (what, value) = (Unsupported::FrameFlags, u64::from(frame.flags));
            return Err(ScanFault::Open(Box::new(segment.unsupported(scanned.end, what, value))));
        }
        if frame.incarnation > replay.life.incarnation.get() {
            let ahead = segment.ahead(scanned.end, frame.incarnation, replay.life);
            return Err(ScanFault::Open(Box::new(ahead)));
        }
        let is_old = from.is_some_and(|(from, _)| frame.lsn < from);
        if !is_old {
            replay.meet(&frame);
        }
        if let Some((groups, why)) = torn.take() {
            let (segment, offset, from) = (segment.slot, scanned.end, frame.lsn);
            let to = from.plus(frame.bytes());
            replay.begin_damaged(groups.clone());
            let groups = Some(groups);
            replay.lose_entries(Hole { segment, offset, from, to, groups, why });
        }
        let bytes = match ahead {
            Some(ahead) if ready.is_some() => ahead.bytes(),
            Some(_) | None => window.get(scanned.end, frame.bytes()).map_err(ScanFault::Io)?,
        };
        let body = &bytes[FRAME_HEADER_BYTES..][..frame.body_bytes as usize];
        let content = match is_old {
            true => frame.body_bytes as usize > RECORD_HEADER_BYTES,
            false => replay.apply_frame(segment.slot, scanned.end, &frame, body).map_err(
                |(offset, groups, fault)| {
                    ScanFault::Open(Box::new(match fault {
                        ApplyFault::Record(fault) => {
                            segment.corrupt(offset, groups, Damage::Record { fault })
                        }
                        ApplyFault::Unsupported(what, value) => {
                            segment.unsupported(offset, what, value)
                        }
                    }))
                },
            )?,
        };
        if let Some((from, chain)) = from
            && frame.lsn.plus(frame.bytes()) == from
            && crc != chain
        {
            let why = Damage::CheckpointChain;
            return Err(ScanFault::Open(Box::new(segment.corrupt(scanned.end, None, why))));
        }
        replay.report.saw_life(frame.incarnation);
        replay.report.frames += 1;
        replay.report.bytes += frame.bytes();
        scanned.end += frame.bytes();
        scanned.chain = Some(crc);
        scanned.promised = scanned.promised.max(frame.synced);
        if content {
            scanned.content_end = header.base.plus(scanned.end);
        }
    }
    Ok(scanned)
}

/// The highest promise beyond `offset` made by a later frame or noted at the last open.
fn later_promise<F: DiskFile>(
    segment: &Segment,
    window: &mut Window<'_, F>,
    offset: u64,
    limit: u64,
    life: Life,
) -> io::Result<Option<Lsn>> {
    let mut promised = life.durable;
    let mut at = offset + BLOCK_BYTES;
    while at < limit {
        if let Ok((frame, _)) = frame_header(&segment.header, window.get(at, BLOCK_BYTES)?, at) {
            let is_seal = frame.body_bytes as usize == RECORD_HEADER_BYTES;
            if !(is_seal && raft_core::planted!(SealIgnored)) {
                promised = promised.max(frame.synced);
            }
        }
        at += BLOCK_BYTES;
    }
    Ok((promised > segment.header.base.plus(offset)).then_some(promised))
}

/// The groups whose records a damaged frame has lost, if its other records prove which.
fn damaged_groups<F: DiskFile>(
    segment: &Segment,
    window: &mut Window<'_, F>,
    offset: u64,
    limit: u64,
) -> Option<Vec<GroupId>> {
    let block = window.get(offset, BLOCK_BYTES).ok()?;
    let (frame, _) = frame_header(&segment.header, block, offset).ok()?;
    if frame.bytes() > limit - offset {
        return None;
    }
    let bytes = window.get(offset, frame.bytes()).ok()?;
    let mut rest = &bytes[FRAME_HEADER_BYTES..][..frame.body_bytes as usize];
    let mut groups = Vec::new();
    for _ in 0..frame.records {
        // A record header that fails its own checksum hides where the next one begins.
        let (record, payload, after) = split_record(rest).ok()?;
        let block = &rest[..RECORD_HEADER_BYTES];
        let run = RecordType::from_code(record.code).is_some_and(RecordType::holds_entries);
        let sound = RecordHeader::matches(block, frame.lsn, if run { &[] } else { payload });
        let sound = if run {
            if !sound {
                return None;
            }
            Items::new(&record, payload).all(|item| item.is_ok_and(|item| item.is_sound()))
        } else {
            sound
        };
        if !sound {
            // The name itself is only known if the header is covered by a checksum that holds.
            if !run {
                return None;
            }
            groups.push(record.group);
        }
        rest = after;
    }
    groups.sort_unstable();
    groups.dedup();
    rest.is_empty().then_some(groups)
}

/// Whether something stands behind the last frame of the log that is no part of it, or cannot be read.
/// What another use of the file has left counts for nothing.
fn has_tail<F: DiskFile>(
    segment: &Segment,
    window: &mut Window<'_, F>,
    offset: u64,
    limit: u64,
) -> io::Result<bool> {
    if !segment.header.recycled {
        return Ok(window.content(offset, limit)? != Content::Blank);
    }
    let mut at = offset;
    while at < limit {
        let is_frame = frame_header(&segment.header, window.get(at, BLOCK_BYTES)?, at).is_ok();
        if is_frame || window.has_hole(at, BLOCK_BYTES) {
            return Ok(true);
        }
        at += BLOCK_BYTES;
    }
    Ok(false)
}

/// Makes what a crash has left behind `from` unreadable, durably; returns how many blocks that took.
///
/// In a segment that was used before, the old content stays, and only headers of frames of this use
/// go. That needs neither room nor another segment, as an open on a full disk has none. Nothing is
/// left that could be taken for a frame: those of this use had a header each, and the others are
/// refused by position.
///
/// What cannot be read is overwritten as well: it may be read again later, and the device has other
/// sectors for it.
fn cut_tail<F: DiskFile>(
    segment: &Segment,
    file: &F,
    from: u64,
    readings: &Readings,
) -> io::Result<u64> {
    let limit = segment.header.bytes;
    let mut window = Window::over_holes(file, file_name(segment.slot), limit, readings);
    let mut blocks = 0;
    let mut at = from;
    while at < limit {
        let end = (at + BLOCK_BYTES).min(limit);
        let block = window.get(at, end - at)?;
        let goes = match segment.header.recycled {
            true => end - at == BLOCK_BYTES && frame_header(&segment.header, block, at).is_ok(),
            false => !is_zero(block),
        };
        if goes || window.has_hole(at, end - at) {
            fill_with_zeros(file, at, end)?;
            blocks += 1;
        }
        at = end;
    }
    file.sync_data()?;
    Ok(blocks)
}
