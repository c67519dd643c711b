//! Recovery: from the bytes of a directory to the state of all groups, or a typed refusal.
//!
//! The log is read once, in order. At the first place where no valid frame follows there are two
//! explanations, and confusing them loses acknowledged data:
//! - *torn tail*: a crash interrupted writes that were never synced. The rest is cut and zeroed,
//!   so that its bytes can never be taken for new ones later;
//! - *damage*: bytes that were durable have changed. Proof is any promise that reaches beyond the
//!   place: the `synced_lsn` of a later valid frame, the header of a later segment, or the end of
//!   the log noted at the last open. Then nothing is cut and the open is refused.
//!
//! Invariant: every candidate segment is synced before it is judged, so that what recovery sees
//! is what a further crash leaves.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use raft_core::{EntryKind, GroupId, GroupIncarnation, HardState, LogIndex, LogTime, ReplicaId, Term};

use crate::cursor::Cursor;
use crate::disk::{Disk, DiskFile};
use crate::error::{Damage, FrameFault, OpenError, RecordFault, Unsupported};
use crate::field::is_zero;
use crate::frame::{FRAME_HEADER_BYTES, FRAME_VERSION, FrameHeader};
use crate::identity::{Identity, Life};
use crate::index::{Index, SegmentFile};
use crate::location::{Location, SEGMENT_BYTES_MAX, SLOTS_MAX};
use crate::lsn::Lsn;
use crate::record::{
    EntryName, FLAG_CLEAN, FLAG_VOTE, ITEM_HEADER_BYTES, ItemHeader, RECORD_HEADER_BYTES,
    RecordHeader, RecordType, entry_kind, item_bytes,
};
use crate::segment::{
    BLOCK_BYTES, HeaderFault, SegmentHeader, fill_with_zeros, file_name, slot_of,
};
use crate::spares::Spare;
use crate::window::Window;

/// What the log holds of one group.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RecoveredGroup {
    /// The description given when the group was created.
    pub spec: Bytes,
    /// Which life of the group id this is.
    pub incarnation: GroupIncarnation,
    /// The last term and vote written.
    pub hard_state: HardState,
    /// The index of the first entry; 1 as long as nothing was compacted.
    pub first_index: LogIndex,
    /// The index of the last entry, or the one before the first.
    pub last_index: LogIndex,
    /// Where each term begins, in order.
    pub term_runs: Vec<(LogIndex, Term)>,
    /// The leader's clock in the last entry; zero if there is none.
    pub last_time: LogTime,
}

/// What recovery found and did.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct RecoveryReport {
    /// Segments of the log, spares not counted.
    pub segments: u64,
    /// Valid frames.
    pub frames: u64,
    /// Bytes of valid frames.
    pub bytes: u64,
    /// Where a torn tail was cut, if there was one.
    pub torn_tail: Option<TornTail>,
    /// Whether the log was closed in order.
    pub clean: bool,
    /// Where the log ends now.
    pub end_lsn: Lsn,
}

/// Unsynced writes that a crash interrupted; nothing in them was ever acknowledged.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TornTail {
    /// Where the log was cut.
    pub lsn: Lsn,
    /// How many blocks behind the cut were not blank; they are now.
    pub blocks: u64,
    /// Why no frame follows.
    pub fault: FrameFault,
}

/// A recovered log, ready to be continued.
pub(crate) struct Recovered<D: Disk> {
    pub(crate) groups: BTreeMap<GroupId, RecoveredGroup>,
    pub(crate) index: Index,
    pub(crate) files: BTreeMap<u32, SegmentFile<D::File>>,
    /// The end of the log; `None` if there is no segment yet. Its incarnation is the noted one.
    pub(crate) cursor: Option<Cursor>,
    pub(crate) spares: VecDeque<Spare<D::File>>,
    pub(crate) next_slot: u32,
    pub(crate) report: RecoveryReport,
}

/// Reads the log in `disk`. Spares are kept if they have `segment_bytes`.
pub(crate) fn recover<D: Disk>(
    disk: &D,
    identity: &Identity,
    life: Life,
    segment_bytes: u64,
) -> Result<Recovered<D>, OpenError> {
    let io = |source| OpenError::Io { dir: disk.describe(), source };
    let mut found = find_segments(disk, identity, segment_bytes)?;
    check_sequence(&found.segments)?;

    let mut state = State { life, ..State::default() };
    let mut cursor = None;
    let mut chain = 0;
    for at in 0..found.segments.len() {
        let segment = &found.segments[at];
        let sealed_at = found.segments.get(at + 1).map(|next| next.header.prev_end);
        if segment.header.prev_crc != chain {
            return Err(segment.corrupt(0, None, Damage::SegmentChain));
        }
        if segment.header.incarnation > life.incarnation.get() {
            return Err(segment.ahead(0, segment.header.incarnation, life));
        }
        if sealed_at.is_none() {
            // A page whose write-back failed may be clean in memory and stale on the disk.
            segment.file.drop_cache().map_err(io)?;
        }
        let scanned = scan(segment, chain, sealed_at, &mut state).map_err(|fault| match fault {
            ScanFault::Io(source) => io(source),
            ScanFault::Open(error) => error,
        })?;
        chain = scanned.chain;
        cursor = Some(Cursor {
            slot: segment.slot,
            seq: segment.header.seq,
            base: segment.header.base,
            seed: segment.header.frame_seed(),
            bytes: segment.header.bytes,
            offset: scanned.end,
            chain,
            incarnation: life.incarnation.get(),
            synced: segment.header.base.plus(scanned.end),
            promised: scanned.promised,
            content_end: scanned.content_end,
        });
    }

    let end = cursor.map_or(Lsn::ZERO, |cursor| cursor.end());
    if end < life.durable {
        let slot = cursor.map_or(0, |cursor| cursor.slot);
        return Err(OpenError::Corrupt {
            segment: slot,
            offset: cursor.map_or(0, |cursor| cursor.offset),
            lsn: Some(end),
            groups: None,
            why: Damage::LogEndsEarly { end, promised: life.durable },
        });
    }
    // Only now is it certain that what follows was never promised to anybody.
    if let Some(segment) = found.segments.last()
        && let Some(torn) = &mut state.report.torn_tail
    {
        let from = torn.lsn.get() - segment.header.base.get();
        torn.blocks = zero_tail(segment, from).map_err(io)?;
    }
    state.report.segments = found.segments.len() as u64;
    state.report.end_lsn = end;

    let files = found.segments.drain(..).map(|segment| {
        (segment.slot, SegmentFile { file: Arc::new(segment.file), base: segment.header.base })
    });
    let files = files.collect();
    Ok(Recovered {
        groups: state.finish(&files).map_err(io)?,
        files,
        index: state.index,
        cursor,
        spares: found.spares,
        next_slot: found.next_slot,
        report: state.report,
    })
}

/// A segment with a valid header.
struct Segment<F> {
    slot: u32,
    file: F,
    header: SegmentHeader,
}

impl<F> Segment<F> {
    fn corrupt(&self, offset: u64, groups: Option<Vec<GroupId>>, why: Damage) -> OpenError {
        let lsn = Some(self.header.base.plus(offset));
        OpenError::Corrupt { segment: self.slot, offset, lsn, groups, why }
    }

    fn ahead(&self, offset: u64, found: u64, life: Life) -> OpenError {
        let stored = life.incarnation.get();
        self.corrupt(offset, None, Damage::IncarnationAhead { found, stored })
    }

    fn unsupported(&self, offset: u64, what: Unsupported, value: u64) -> OpenError {
        OpenError::Unsupported { segment: self.slot, offset, what, value }
    }
}

struct Found<F> {
    /// In the order of the log.
    segments: Vec<Segment<F>>,
    spares: VecDeque<Spare<F>>,
    next_slot: u32,
}

/// Opens every segment file and tells segments from spares; useless spares are removed.
fn find_segments<D: Disk>(
    disk: &D,
    identity: &Identity,
    segment_bytes: u64,
) -> Result<Found<D::File>, OpenError> {
    let io = |source| OpenError::Io { dir: disk.describe(), source };
    let mut slots: Vec<u32> = disk.list().map_err(io)?.iter().filter_map(|n| slot_of(n)).collect();
    slots.sort_unstable();
    let mut found = Found { segments: Vec::new(), spares: VecDeque::new(), next_slot: 0 };
    for slot in slots {
        if slot >= SLOTS_MAX {
            // The index cannot name it, so this software has never written it.
            continue;
        }
        found.next_slot = slot + 1;
        let file = disk.open(&file_name(slot)).map_err(io)?;
        file.sync_data().map_err(io)?;
        let bytes = file.bytes().map_err(io)?;
        let mut block = vec![0; BLOCK_BYTES as usize];
        let readable = bytes.min(BLOCK_BYTES) as usize;
        file.read_exact_at(&mut block[..readable], 0).map_err(io)?;
        match SegmentHeader::decode(&block) {
            Ok(header) => {
                let segment = Segment { slot, file, header };
                let header = &segment.header;
                if header.store != identity.store {
                    let (expected, found) = (identity.store, header.store);
                    return Err(OpenError::ForeignSegment { segment: slot, expected, found });
                }
                if bytes < header.bytes {
                    let expected = header.bytes;
                    let why = Damage::SegmentShort { bytes, expected };
                    return Err(segment.corrupt(bytes, None, why));
                }
                found.segments.push(segment);
            }
            Err(HeaderFault::Unsupported { format }) => {
                return Err(OpenError::Unsupported {
                    segment: slot,
                    offset: 0,
                    what: Unsupported::SegmentFormat,
                    value: u64::from(format),
                });
            }
            Err(fault @ (HeaderFault::Blank | HeaderFault::Damaged)) => {
                if !is_blank(&file, BLOCK_BYTES.min(bytes), bytes).map_err(io)? {
                    return Err(OpenError::Corrupt {
                        segment: slot,
                        offset: 0,
                        lsn: None,
                        groups: None,
                        why: Damage::SegmentHeader,
                    });
                }
                // A spare, or a segment whose header a crash has torn before anything followed.
                if bytes == segment_bytes {
                    if fault == HeaderFault::Damaged {
                        fill_with_zeros(&file, 0, BLOCK_BYTES).map_err(io)?;
                        file.sync_data().map_err(io)?;
                    }
                    found.spares.push_back(Spare { slot, file, bytes });
                } else {
                    disk.remove(&file_name(slot)).map_err(io)?;
                    disk.sync_dir().map_err(io)?;
                }
            }
        }
    }
    found.segments.sort_by_key(|segment| segment.header.seq);
    Ok(found)
}

/// Checks that the headers tell one story: every segment is there, once, in one piece.
fn check_sequence<F>(segments: &[Segment<F>]) -> Result<(), OpenError> {
    let mut expected_seq = 1;
    let mut expected_base: Option<Lsn> = Some(Lsn::ZERO);
    for (at, segment) in segments.iter().enumerate() {
        let header = &segment.header;
        if header.seq != expected_seq {
            let why = Damage::SegmentSequence { expected: expected_seq, found: header.seq };
            return Err(segment.corrupt(0, None, why));
        }
        // Where this one ends, as the next one says; the newest ends wherever its frames do.
        let end = segments.get(at + 1).map(|next| next.header.prev_end);
        let fits = end.is_none_or(|end| {
            end >= header.base.plus(BLOCK_BYTES) && end <= header.base.plus(header.bytes)
        });
        let sound = Some(header.base) == expected_base
            && header.prev_end == header.base
            && header.bytes >= BLOCK_BYTES
            && header.base.get().checked_add(header.bytes).is_some()
            && fits;
        if !sound {
            return Err(segment.corrupt(0, None, Damage::SegmentChain));
        }
        expected_seq += 1;
        expected_base = end;
    }
    Ok(())
}

enum ScanFault {
    Io(io::Error),
    Open(OpenError),
}

struct Scanned {
    /// Behind the last valid frame, in the file.
    end: u64,
    chain: u32,
    promised: Lsn,
    content_end: Lsn,
}

/// Reads the frames of one segment into `state`.
fn scan<F: DiskFile>(
    segment: &Segment<F>,
    chain: u32,
    sealed_at: Option<Lsn>,
    state: &mut State,
) -> Result<Scanned, ScanFault> {
    let header = &segment.header;
    let limit = sealed_at.map_or(header.bytes, |end| end.get() - header.base.get());
    let mut window = Window::new(&segment.file, limit);
    let mut scanned = Scanned {
        end: BLOCK_BYTES,
        chain,
        promised: header.prev_end,
        content_end: header.prev_end,
    };
    while scanned.end < limit {
        let frame = next_frame(segment, &mut window, scanned.end, scanned.chain, limit)
            .map_err(ScanFault::Io)?;
        let (frame, crc) = match frame {
            Ok(valid) => valid,
            Err(fault) => {
                let promised = match sealed_at {
                    Some(end) => Some(end),
                    None => later_promise(segment, &mut window, scanned.end, limit, state.life)
                        .map_err(ScanFault::Io)?,
                };
                if let Some(promised) = promised {
                    let why = Damage::FrameLost { fault, promised };
                    let groups = damaged_groups(segment, &mut window, scanned.end, limit);
                    return Err(ScanFault::Open(segment.corrupt(scanned.end, groups, why)));
                }
                let lsn = header.base.plus(scanned.end);
                let blank = window.is_blank(scanned.end, limit).map_err(ScanFault::Io)?;
                if !blank {
                    state.report.torn_tail = Some(TornTail { lsn, blocks: 0, fault });
                }
                return Ok(scanned);
            }
        };
        if frame.version != FRAME_VERSION {
            let (what, value) = (Unsupported::FrameVersion, u64::from(frame.version));
            return Err(ScanFault::Open(segment.unsupported(scanned.end, what, value)));
        }
        if frame.flags != 0 {
            let (what, value) = (Unsupported::FrameFlags, u64::from(frame.flags));
            return Err(ScanFault::Open(segment.unsupported(scanned.end, what, value)));
        }
        if frame.incarnation > state.life.incarnation.get() {
            let ahead = segment.ahead(scanned.end, frame.incarnation, state.life);
            return Err(ScanFault::Open(ahead));
        }
        let bytes = window.get(scanned.end, frame.bytes()).map_err(ScanFault::Io)?;
        let body = &bytes[FRAME_HEADER_BYTES..][..frame.body_bytes as usize];
        let content = state
            .apply_frame(segment.slot, scanned.end, &frame, body)
            .map_err(|(offset, groups, fault)| {
                ScanFault::Open(match fault {
                    ApplyFault::Record(fault) => {
                        segment.corrupt(offset, groups, Damage::Record { fault })
                    }
                    ApplyFault::Unsupported(what, value) => {
                        segment.unsupported(offset, what, value)
                    }
                })
            })?;
        state.report.frames += 1;
        state.report.bytes += frame.bytes();
        scanned.end += frame.bytes();
        scanned.chain = crc;
        scanned.promised = scanned.promised.max(frame.synced);
        if content {
            scanned.content_end = header.base.plus(scanned.end);
        }
    }
    Ok(scanned)
}

/// The frame at `offset`, or why there is none.
fn next_frame<F: DiskFile>(
    segment: &Segment<F>,
    window: &mut Window<'_, F>,
    offset: u64,
    chain: u32,
    limit: u64,
) -> io::Result<Result<(FrameHeader, u32), FrameFault>> {
    let header = &segment.header;
    let (frame, crc) = match frame_header(header, window.get(offset, BLOCK_BYTES)?, offset) {
        Ok(valid) => valid,
        Err(fault) => return Ok(Err(fault)),
    };
    if frame.prev_crc != chain {
        return Ok(Err(FrameFault::Chain));
    }
    if frame.bytes() > limit - offset {
        return Ok(Err(FrameFault::Length));
    }
    let bytes = window.get(offset, frame.bytes())?;
    Ok(frame.check_body(&bytes[FRAME_HEADER_BYTES..]).map(|()| (frame, crc)))
}

/// A header that is valid in itself and lies where it says.
fn frame_header(
    segment: &SegmentHeader,
    block: &[u8],
    offset: u64,
) -> Result<(FrameHeader, u32), FrameFault> {
    let (frame, crc) = FrameHeader::decode(block, segment.frame_seed())?;
    if frame.lsn != segment.base.plus(offset) || frame.seg_seq != segment.seq as u32 {
        return Err(FrameFault::Position);
    }
    Ok((frame, crc))
}

/// The highest promise beyond `offset` made by a later frame or noted at the last open.
fn later_promise<F: DiskFile>(
    segment: &Segment<F>,
    window: &mut Window<'_, F>,
    offset: u64,
    limit: u64,
    life: Life,
) -> io::Result<Option<Lsn>> {
    let mut promised = life.durable;
    let mut at = offset + BLOCK_BYTES;
    while at < limit {
        if let Ok((frame, _)) = frame_header(&segment.header, window.get(at, BLOCK_BYTES)?, at) {
            promised = promised.max(frame.synced);
        }
        at += BLOCK_BYTES;
    }
    Ok((promised > segment.header.base.plus(offset)).then_some(promised))
}

/// The groups whose records a damaged frame has lost, if its other records prove which.
fn damaged_groups<F: DiskFile>(
    segment: &Segment<F>,
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
        let run = record.code == RecordType::EntryRun as u8;
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
    (rest.is_empty() && !groups.is_empty()).then_some(groups)
}

/// Whether `[from, to)` of a file was never written.
fn is_blank<F: DiskFile>(file: &F, from: u64, to: u64) -> io::Result<bool> {
    Window::new(file, to).is_blank(from, to)
}

/// Overwrites what is not blank behind `from`, durably; returns how many blocks that were.
fn zero_tail<F: DiskFile>(segment: &Segment<F>, from: u64) -> io::Result<u64> {
    let limit = segment.header.bytes;
    let mut window = Window::new(&segment.file, limit);
    let mut blocks = 0;
    let mut at = from;
    while at < limit {
        let end = (at + BLOCK_BYTES).min(limit);
        if !is_zero(window.get(at, end - at)?) {
            fill_with_zeros(&segment.file, at, end)?;
            blocks += 1;
        }
        at = end;
    }
    segment.file.sync_data()?;
    Ok(blocks)
}

/// Everything read so far.
#[derive(Default)]
struct State {
    index: Index,
    /// In the slots of the index.
    groups: Vec<GroupState>,
    locations: Vec<Location>,
    report: RecoveryReport,
    life: Life,
}

/// What the index does not keep of a group.
struct GroupState {
    id: GroupId,
    spec: Bytes,
    hard_state: HardState,
    /// The clock in the last entry; `None` after a truncation, until it is read again.
    last_time: Option<LogTime>,
}

enum ApplyFault {
    Record(RecordFault),
    Unsupported(Unsupported, u64),
}

/// Where a record fails, whom it concerns, and why.
type Failed = (u64, Option<Vec<GroupId>>, ApplyFault);

impl State {
    /// Applies a frame whose checksums hold; returns whether it had content.
    fn apply_frame(
        &mut self,
        slot: u32,
        offset: u64,
        frame: &FrameHeader,
        body: &[u8],
    ) -> Result<bool, Failed> {
        let mut rest = body;
        let mut content = false;
        let place = |rest: &[u8]| offset + (FRAME_HEADER_BYTES + body.len() - rest.len()) as u64;
        for _ in 0..frame.records {
            let at = place(rest);
            let fail = |fault| (at, None, ApplyFault::Record(fault));
            let (record, payload, after) = split_record(rest).map_err(fail)?;
            let Some(kind) = RecordType::from_code(record.code) else {
                let fault = ApplyFault::Unsupported(Unsupported::RecordType, record.code.into());
                return Err((at, None, fault));
            };
            let covered = if kind == RecordType::EntryRun { &[] } else { payload };
            if !RecordHeader::matches(&rest[..RECORD_HEADER_BYTES], frame.lsn, covered) {
                return Err(fail(RecordFault::Checksum));
            }
            content |= kind != RecordType::SyncMarker;
            let payload_at = (slot, at + RECORD_HEADER_BYTES as u64);
            self.apply(kind, &record, payload, payload_at)
                .map_err(|fault| (at, Some(vec![record.group]), fault))?;
            rest = after;
        }
        if !rest.is_empty() {
            return Err((place(rest), None, ApplyFault::Record(RecordFault::Count)));
        }
        if content {
            self.report.clean = false;
        }
        Ok(content)
    }

    fn apply(
        &mut self,
        kind: RecordType,
        record: &RecordHeader,
        payload: &[u8],
        payload_at: (u32, u64),
    ) -> Result<(), ApplyFault> {
        match kind {
            RecordType::SyncMarker => {
                self.report.clean = record.flags & FLAG_CLEAN != 0;
                return Ok(());
            }
            RecordType::GroupCreate => return self.create(record, payload),
            RecordType::EntryRun | RecordType::HardState | RecordType::TruncateSuffix => {}
        }
        let slot = match self.index.slots.get(&record.group) {
            Some(slot) => *slot as usize,
            None => return Err(ApplyFault::Record(RecordFault::Group)),
        };
        if self.index.groups[slot].incarnation != record.incarnation {
            return Err(ApplyFault::Record(RecordFault::Group));
        }
        if kind == RecordType::EntryRun {
            return self.run(slot, record, payload, payload_at);
        }
        let state = &mut self.groups[slot];
        if kind == RecordType::HardState {
            let vote = (record.flags & FLAG_VOTE != 0).then(|| ReplicaId::new(record.index));
            state.hard_state = HardState { term: Term::new(record.term), vote };
        } else {
            let from = LogIndex::new(record.index);
            if from < self.index.groups[slot].first {
                return Err(ApplyFault::Record(RecordFault::Index));
            }
            self.index.groups[slot].truncate(from);
            state.last_time = None;
        }
        Ok(())
    }

    fn create(&mut self, record: &RecordHeader, spec: &[u8]) -> Result<(), ApplyFault> {
        if self.index.group(record.group).is_some_and(|g| g.incarnation >= record.incarnation) {
            return Err(ApplyFault::Record(RecordFault::Group));
        }
        let slot = self.index.create(record.group, record.incarnation) as usize;
        let fresh = GroupState {
            id: record.group,
            spec: Bytes::copy_from_slice(spec),
            hard_state: HardState::default(),
            last_time: None,
        };
        match self.groups.get_mut(slot) {
            Some(state) => *state = fresh,
            None => self.groups.push(fresh),
        }
        Ok(())
    }

    fn run(
        &mut self,
        slot: usize,
        record: &RecordHeader,
        payload: &[u8],
        (file, payload_at): (u32, u64),
    ) -> Result<(), ApplyFault> {
        let group = &mut self.index.groups[slot];
        let state = &mut self.groups[slot];
        if LogIndex::new(record.index) != group.last().next() {
            return Err(ApplyFault::Record(RecordFault::Index));
        }
        self.locations.clear();
        let mut count = 0;
        for item in Items::new(record, payload) {
            let item = item.map_err(ApplyFault::Record)?;
            // The body checksum of the frame covers the payload; the entry's own is for reads.
            let _: EntryKind = entry_kind(item.header.kind).ok_or(ApplyFault::Unsupported(
                Unsupported::EntryKind,
                item.header.kind.into(),
            ))?;
            let offset = payload_at + item.at;
            if offset >= SEGMENT_BYTES_MAX {
                return Err(ApplyFault::Record(RecordFault::Length));
            }
            let bytes = u64::from(item.header.payload_bytes);
            self.locations.push(Location::new(file, offset, bytes));
            state.last_time = Some(item.header.time);
            count += 1;
        }
        if count != usize::from(record.count) {
            return Err(ApplyFault::Record(RecordFault::Count));
        }
        group.append(Term::new(record.term), &self.locations);
        Ok(())
    }

    fn finish<F: DiskFile>(
        &mut self,
        files: &BTreeMap<u32, SegmentFile<F>>,
    ) -> io::Result<BTreeMap<GroupId, RecoveredGroup>> {
        let groups = self.groups.drain(..).zip(&self.index.groups).map(|(state, index)| {
            let last_time = match (state.last_time, index.location(index.last())) {
                (Some(time), Some(_)) => time,
                (None, Some(location)) => read_time(files, location)?,
                (_, None) => LogTime::new(0),
            };
            let group = RecoveredGroup {
                spec: state.spec,
                incarnation: index.incarnation,
                hard_state: state.hard_state,
                first_index: index.first,
                last_index: index.last(),
                term_runs: index.runs.clone(),
                last_time,
            };
            Ok((state.id, group))
        });
        groups.collect()
    }
}

/// The clock in the entry at `location`, which recovery has checked already.
fn read_time<F: DiskFile>(
    files: &BTreeMap<u32, SegmentFile<F>>,
    location: Location,
) -> io::Result<LogTime> {
    let segment = files.get(&location.slot()).ok_or(io::ErrorKind::NotFound)?;
    let mut block = [0; ITEM_HEADER_BYTES];
    segment.file.read_exact_at(&mut block, location.offset())?;
    Ok(ItemHeader::decode(&block).time)
}

/// The record at the beginning of `bytes`: header, payload, and what follows.
fn split_record(bytes: &[u8]) -> Result<(RecordHeader, &[u8], &[u8]), RecordFault> {
    let block = bytes.get(..RECORD_HEADER_BYTES).ok_or(RecordFault::Length)?;
    let record = RecordHeader::decode(block);
    let length = record.bytes as usize;
    let payload_end = RECORD_HEADER_BYTES + record.payload_bytes as usize;
    if payload_end > length || length > bytes.len() || !length.is_multiple_of(8) {
        return Err(RecordFault::Length);
    }
    Ok((record, &bytes[RECORD_HEADER_BYTES..payload_end], &bytes[length..]))
}

/// The entries of a run.
struct Items<'a> {
    record: &'a RecordHeader,
    payload: &'a [u8],
    at: u64,
    index: LogIndex,
}

/// One entry of a run.
struct Item<'a> {
    header: ItemHeader,
    name: EntryName,
    payload: &'a [u8],
    /// Where its header lies in the payload of the record.
    at: u64,
}

impl Item<'_> {
    fn is_sound(&self) -> bool {
        let ItemHeader { kind, time, crc, .. } = self.header;
        self.name.entry_crc(kind, time, self.payload) == crc
    }
}

impl<'a> Items<'a> {
    fn new(record: &'a RecordHeader, payload: &'a [u8]) -> Self {
        Self { record, payload, at: 0, index: LogIndex::new(record.index) }
    }
}

impl<'a> Iterator for Items<'a> {
    type Item = Result<Item<'a>, RecordFault>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = &self.payload[self.at as usize..];
        if rest.is_empty() {
            return None;
        }
        let Some(block) = rest.get(..ITEM_HEADER_BYTES) else {
            self.at = self.payload.len() as u64;
            return Some(Err(RecordFault::Length));
        };
        let header = ItemHeader::decode(block);
        let bytes = item_bytes(u64::from(header.payload_bytes));
        if bytes > rest.len() as u64 {
            self.at = self.payload.len() as u64;
            return Some(Err(RecordFault::Length));
        }
        let payload = &rest[ITEM_HEADER_BYTES..][..header.payload_bytes as usize];
        let name = EntryName {
            group: self.record.group,
            incarnation: self.record.incarnation,
            index: self.index,
            term: Term::new(self.record.term),
        };
        let item = Item { header, name, payload, at: self.at };
        self.at += bytes;
        self.index = self.index.next();
        Some(Ok(item))
    }
}
