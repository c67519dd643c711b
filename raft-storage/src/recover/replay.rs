//! Replay: from valid frames to the state of all groups.
//!
//! The checksums of a frame were checked before it comes here. What remains are records that hold
//! together and still make no sense: of another version, or of a bug. They are errors too.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use raft_core::{
    EntryKind, GroupId, HardState, LogIndex, LogTime, Membership, Promise, PromiseRecord,
    ReplicaId, Term, Tombstone,
};

use crate::checkpoint::row::Row;
use crate::disk::Disk;
use crate::disk::readings::Readings;
use crate::error::{Damage, RecordFault, Unsupported};
use crate::format::base;
use crate::format::frame::{FRAME_HEADER_BYTES, FrameHeader};
use crate::format::identity::Life;
use crate::format::lsn::Lsn;
use crate::format::pieces::{self, Piece};
use crate::format::record::{
    EntryName, FLAG_CLEAN, FLAG_DAMAGED, FLAG_FETCHED, FLAG_LOST, FLAG_UNPROVEN, FLAG_VOTE,
    ITEM_HEADER_BYTES, ItemHeader, RECORD_HEADER_BYTES, RecordHeader, RecordType, entry_kind,
    item_bytes,
};
use crate::format::segment::{BLOCK_BYTES, file_name};
use crate::read::index::{Index, Presence, Relocation, Run};
use crate::read::location::{Location, SEGMENT_BYTES_MAX};
use crate::read::open_files::OpenFiles;
use crate::read::reader::is_missing;
use crate::recover::damage::{Hole, Losses};
use crate::recover::recovery::{RecoveredGroup, RecoveredGroups, RecoveryReport};

/// Everything read so far.
#[derive(Default)]
pub(crate) struct Replay {
    pub(crate) index: Index,
    /// In the slots of the index: what is older is in the checkpoint's row of the group.
    since: Vec<Lsn>,
    locations: Vec<Location>,
    pub(crate) report: RecoveryReport,
    pub(crate) life: Life,
    pub(crate) losses: Losses,
    /// The newest frame that changes what a replica stands by, or a place behind it; `None`: not known.
    pub(crate) stance: Option<Lsn>,
    /// Of these groups the frame that is applied now has lost entries, and nothing else.
    damaged: Vec<GroupId>,
}

/// Why a record cannot be applied.
pub(crate) enum ApplyFault {
    Record(RecordFault),
    Unsupported(Unsupported, u64),
}

/// What the log keeps of entries beside their places.
struct Located {
    /// The memberships among them.
    configs: Vec<(LogIndex, Arc<Membership>)>,
    /// Where the payloads of those lie that are in pieces.
    pieces: Vec<(LogIndex, Vec<Piece>)>,
    /// The clock in the last one.
    last_time: LogTime,
}

/// Where a record fails, whom it concerns, and why.
pub(crate) type Failed = (u64, Option<Vec<GroupId>>, ApplyFault);

impl Replay {
    pub(crate) fn new(life: Life) -> Self {
        Self { life, stance: Some(Lsn::ZERO), ..Self::default() }
    }

    /// Nothing can be read here that was durable.
    pub(crate) fn hole(&mut self, hole: Hole) {
        self.losses.hole(hole, &self.index, &self.since);
    }

    /// Some entries are lost here, and nothing else.
    pub(crate) fn lose_entries(&mut self, hole: Hole) {
        self.losses.entries(hole, &self.index, &self.since);
    }

    /// The next frame that is applied has lost entries of these groups, and nothing else.
    pub(crate) fn begin_damaged(&mut self, groups: Vec<GroupId>) {
        self.damaged = groups;
    }

    /// A frame can be read.
    pub(crate) fn meet(&mut self, frame: &FrameHeader) {
        self.losses.frame_behind(frame, &self.index, &self.since);
        self.stance = frame.stance();
    }

    /// The log ends.
    pub(crate) fn end(&mut self) {
        self.losses.end(&self.index, &self.since);
    }

    /// Takes the row of a group from a checkpoint; records below `since` are in it.
    pub(crate) fn restore(&mut self, row: Row) {
        self.index.restore(row.group, row.pieces);
        self.since.push(row.since);
    }

    /// Whether the row of this group holds what a frame at `lsn` says.
    fn is_known(&self, group: GroupId, lsn: Lsn) -> bool {
        if raft_core::planted!(CheckpointedTwice) {
            return false;
        }
        let slot = self.index.slots.get(&group);
        let since = slot.and_then(|slot| self.since.get(*slot as usize));
        since.is_some_and(|since| lsn < *since)
    }

    /// Applies a frame whose checksums hold, but for those of entries that were named as damaged; returns
    /// whether it had content.
    pub(crate) fn apply_frame(
        &mut self,
        slot: u32,
        offset: u64,
        frame: &FrameHeader,
        body: &[u8],
    ) -> Result<bool, Failed> {
        let applied = self.apply_records(slot, offset, frame, body);
        self.damaged.clear();
        applied
    }

    fn apply_records(
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
            let covered = if kind.holds_entries() { &[] } else { payload };
            if !RecordHeader::matches(&rest[..RECORD_HEADER_BYTES], frame.lsn, covered) {
                return Err(fail(RecordFault::Checksum));
            }
            content |= kind != RecordType::SyncMarker;
            if kind.is_stance() {
                self.stance = Some(frame.lsn);
            }
            if kind == RecordType::Piece {
                // The entry that it belongs to says where it is, if it came.
                rest = after;
                continue;
            }
            if kind != RecordType::SyncMarker && self.is_known(record.group, frame.lsn) {
                rest = after;
                continue;
            }
            let payload_at = (slot, at + RECORD_HEADER_BYTES as u64);
            self.apply(kind, &record, payload, payload_at)
                .map_err(|fault| (at, Some(vec![record.group]), fault))?;
            rest = after;
        }
        if !rest.is_empty() {
            return Err((place(rest), None, ApplyFault::Record(RecordFault::Count)));
        }
        // The last word of an earlier life says nothing of the last one, which may have written what
        // never reached the disk.
        let of_last_life = frame.incarnation == self.life.incarnation.get();
        if content || !of_last_life {
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
            RecordType::Piece => return Ok(()),
            RecordType::GroupCreate => return self.create(record, payload),
            RecordType::EntryRun
            | RecordType::Rewrite
            | RecordType::HardState
            | RecordType::TruncateSuffix
            | RecordType::Compact
            | RecordType::Install
            | RecordType::Promise
            | RecordType::Fetched
            | RecordType::DropFetched
            | RecordType::Destroy => {}
        }
        let slot = match self.index.slots.get(&record.group) {
            Some(slot) => *slot,
            None if self.losses.is_behind() => {
                self.losses.strangers.insert(record.group);
                return Ok(());
            }
            None => return Err(ApplyFault::Record(RecordFault::Group)),
        };
        let group = &self.index.groups[slot as usize];
        if group.incarnation != record.incarnation || group.presence == Presence::Destroyed {
            if self.losses.is_behind() && record.incarnation >= group.incarnation {
                self.losses.strangers.insert(record.group);
                return Ok(());
            }
            return Err(ApplyFault::Record(RecordFault::Group));
        }
        if self.losses.hides_log(slot) {
            match kind {
                // What they follow is gone.
                RecordType::EntryRun
                | RecordType::Rewrite
                | RecordType::Fetched
                | RecordType::TruncateSuffix => return Ok(()),
                RecordType::Compact if LogIndex::new(record.index) <= group.last() => return Ok(()),
                RecordType::SyncMarker
                | RecordType::Piece
                | RecordType::GroupCreate
                | RecordType::Compact
                | RecordType::Install
                | RecordType::HardState
                | RecordType::Promise
                | RecordType::DropFetched
                | RecordType::Destroy => {}
            }
        }
        match kind {
            RecordType::SyncMarker | RecordType::Piece | RecordType::GroupCreate => {}
            RecordType::EntryRun => return self.run(slot, record, payload, payload_at),
            RecordType::Rewrite => return self.rewrite(slot, record, payload, payload_at),
            RecordType::Fetched => return self.fetched(slot, record, payload, payload_at),
            RecordType::DropFetched => self.index.drop_fetched(slot),
            RecordType::Promise => {
                let promise = match record.flags {
                    0 => Promise::Kept,
                    FLAG_LOST => Promise::Lost,
                    FLAG_DAMAGED => Promise::Damaged,
                    FLAG_UNPROVEN => Promise::Unproven,
                    flags => {
                        let what = Unsupported::RecordFlags;
                        return Err(ApplyFault::Unsupported(what, flags.into()));
                    }
                };
                let loss_epoch = u32::try_from(record.index)
                    .map_err(|_| ApplyFault::Record(RecordFault::Length))?;
                self.index.set_promise(slot, PromiseRecord { promise, loss_epoch });
            }
            RecordType::HardState => {
                let vote = (record.flags & FLAG_VOTE != 0).then(|| ReplicaId::new(record.index));
                self.index.set_hard_state(slot, HardState { term: Term::new(record.term), vote });
                self.losses.proves(slot);
            }
            RecordType::Destroy => {
                let replica = payload.first_chunk().filter(|_| payload.len() == 8);
                let replica = replica.ok_or(ApplyFault::Record(RecordFault::Length))?;
                let vote = (record.flags & FLAG_VOTE != 0).then(|| ReplicaId::new(record.index));
                let tombstone = Tombstone {
                    group: record.group,
                    replica: ReplicaId::new(u64::from_le_bytes(*replica)),
                    hard_state: HardState { term: Term::new(record.term), vote },
                };
                self.index.destroy(slot, tombstone);
                self.losses.forget(slot);
            }
            RecordType::TruncateSuffix => {
                let from = LogIndex::new(record.index);
                if from < group.first {
                    return Err(ApplyFault::Record(RecordFault::Index));
                }
                self.index.truncate(slot, from);
            }
            RecordType::Install | RecordType::Compact => {
                let (found, live) = base::decode(record, payload)
                    .ok_or(ApplyFault::Record(RecordFault::Membership))?;
                let base = found.base.index;
                // The log that is known ends before: it begins anew, and what follows it is not known.
                let hidden = kind == RecordType::Compact && self.losses.hides_log(slot);
                let beyond = kind == RecordType::Compact && !hidden && base > group.last();
                let lacks = |(index, term)| group.named(index, term).is_none();
                let lacks_some = live.iter().any(lacks);
                if lacks_some && self.losses.hides_log(slot) {
                    // The snapshot is not whole without what was in the hole, or was left out behind it.
                    return Ok(());
                }
                if base < group.first.prev() || beyond || lacks_some {
                    return Err(ApplyFault::Record(RecordFault::Index));
                }
                if kind == RecordType::Install || hidden {
                    self.index.install(slot, found, &live);
                    // What is lost of this frame may lie behind it.
                    if !hidden && !self.damaged.contains(&record.group) {
                        self.losses.begins(slot);
                    }
                } else {
                    self.index.compact(slot, found, &live);
                }
            }
        }
        Ok(())
    }

    fn create(&mut self, record: &RecordHeader, spec: &[u8]) -> Result<(), ApplyFault> {
        let before = self.index.slots.get(&record.group).map(|slot| *slot as usize);
        let allowed = before.map(|slot| &self.index.groups[slot]).is_none_or(|before| match before
            .presence
        {
            Presence::Here if self.losses.is_behind() => record.incarnation >= before.incarnation,
            Presence::Here => record.incarnation > before.incarnation,
            Presence::Destroyed => record.incarnation >= before.incarnation,
        });
        if !allowed {
            return Err(ApplyFault::Record(RecordFault::Group));
        }
        let slot =
            self.index.create(record.group, record.incarnation, Bytes::copy_from_slice(spec));
        self.losses.forget(slot);
        if self.damaged.contains(&record.group) {
            self.losses.lose_log(slot);
        }
        Ok(())
    }

    fn run(
        &mut self,
        slot: u32,
        record: &RecordHeader,
        payload: &[u8],
        payload_at: (u32, u64),
    ) -> Result<(), ApplyFault> {
        if LogIndex::new(record.index) != self.index.groups[slot as usize].last().next() {
            return Err(ApplyFault::Record(RecordFault::Index));
        }
        let Located { configs, pieces, last_time } = self.locate(record, payload, payload_at)?;
        let run = Run {
            term: Term::new(record.term),
            locations: &self.locations,
            configs,
            pieces,
            last_time,
        };
        self.index.append(slot, run);
        Ok(())
    }

    /// Entries of a snapshot that is on its way here.
    fn fetched(
        &mut self,
        slot: u32,
        record: &RecordHeader,
        payload: &[u8],
        payload_at: (u32, u64),
    ) -> Result<(), ApplyFault> {
        let located = self.locate(record, payload, payload_at)?;
        if !located.configs.is_empty() || !located.pieces.is_empty() {
            return Err(ApplyFault::Record(RecordFault::Index));
        }
        let (first, term) = (LogIndex::new(record.index), Term::new(record.term));
        self.index.fetch(slot, first, term, &self.locations);
        Ok(())
    }

    /// Entries were copied: they are where the copies are.
    fn rewrite(
        &mut self,
        slot: u32,
        record: &RecordHeader,
        payload: &[u8],
        payload_at: (u32, u64),
    ) -> Result<(), ApplyFault> {
        let located = self.locate(record, payload, payload_at)?;
        let (first, term) = (LogIndex::new(record.index), Term::new(record.term));
        for (index, to) in (first.get()..).map(LogIndex::new).zip(&self.locations) {
            let group = &self.index.groups[slot as usize];
            let from = match record.flags & FLAG_FETCHED != 0 {
                true => group.fetched_at(index, term),
                false => group.held(index).filter(|_| group.held_term(index) == Some(term)),
            };
            let from = from.ok_or(ApplyFault::Record(RecordFault::Index))?;
            self.index.relocate(&Relocation { slot, index, from, to: *to, pieces: None });
        }
        for (index, pieces) in located.pieces {
            self.index.put_pieces(slot, index, pieces);
        }
        Ok(())
    }

    /// Where the entries of a record lie, into `locations`; and what is to be known of them.
    fn locate(
        &mut self,
        record: &RecordHeader,
        payload: &[u8],
        (file, payload_at): (u32, u64),
    ) -> Result<Located, ApplyFault> {
        self.locations.clear();
        let mut located =
            Located { configs: Vec::new(), pieces: Vec::new(), last_time: LogTime::new(0) };
        for item in Items::new(record, payload) {
            let item = item.map_err(ApplyFault::Record)?;
            // The body checksum of the frame covers the payload; the entry's own is for reads.
            let Some((_, is_in_pieces)) = entry_kind(item.header.kind) else {
                let value = item.header.kind.into();
                return Err(ApplyFault::Unsupported(Unsupported::EntryKind, value));
            };
            if is_in_pieces {
                let pieces = pieces::decode(item.payload);
                let pieces = pieces.ok_or(ApplyFault::Record(RecordFault::Length))?;
                located.pieces.push((item.name.index, pieces));
            }
            let offset = payload_at + item.at;
            if offset >= SEGMENT_BYTES_MAX {
                return Err(ApplyFault::Record(RecordFault::Length));
            }
            if item.header.kind == EntryKind::Config.code() {
                let membership = Membership::decode(item.payload)
                    .map_err(|_| ApplyFault::Record(RecordFault::Membership))?;
                located.configs.push((item.name.index, Arc::new(membership)));
            }
            let bytes = u64::from(item.header.payload_bytes);
            self.locations.push(Location::new(file, offset, bytes));
            located.last_time = item.header.time;
        }
        if self.locations.len() != usize::from(record.count) {
            return Err(ApplyFault::Record(RecordFault::Count));
        }
        Ok(located)
    }

    /// Looks for the clock in the last entry of each group of which only the entry knows it. Returns what
    /// of that the disk cannot read.
    pub(crate) fn unreadable_clocks<D: Disk>(
        &self,
        from: (&OpenFiles<D>, &Readings),
    ) -> io::Result<Vec<Hole>> {
        let mut holes = Vec::new();
        let Index { groups, segments, .. } = &self.index;
        for group in groups {
            let is_asked = group.presence == Presence::Here && group.facts.last_time.is_none();
            let Some(place) = group.location(group.last()).filter(|_| is_asked) else { continue };
            match read_time(from, place) {
                // Whether it is what was written shows when what is lost is left out.
                Ok(Some(_)) => {}
                Ok(None) => {
                    let (segment, index) = (place.slot(), group.last());
                    let offset = place.offset() - place.offset() % BLOCK_BYTES;
                    let listed = segments.iter().find(|(slot, _)| *slot == segment);
                    let base = listed.map_or(Lsn::ZERO, |(_, segment)| segment.base);
                    let (from, to) = (base.plus(offset), base.plus(offset + BLOCK_BYTES));
                    let (groups, why) = (Some(vec![group.id]), Damage::Entry { index });
                    holes.push(Hole { segment, offset, from, to, groups, why });
                }
                // It is known that the segment is gone.
                Err(error) if is_missing(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(holes)
    }

    /// All groups; the replay is over.
    pub(crate) fn finish<D: Disk>(
        &mut self,
        from: (&OpenFiles<D>, &Readings),
    ) -> io::Result<RecoveredGroups> {
        if self.losses.any() || self.losses.doubts {
            self.losses.settle(&mut self.index, from)?;
        }
        let mut groups = RecoveredGroups::default();
        for group in &mut self.index.groups {
            let last = group.location(group.last());
            let has_fetched = group.fetched().next().is_some();
            let facts = &mut group.facts;
            if let Some(tombstone) = facts.tombstone {
                groups.tombstones.insert(group.id, tombstone);
            }
            if group.presence == Presence::Destroyed {
                continue;
            }
            let log_time = match (facts.last_time, last) {
                (Some(time), Some(_)) => time,
                // What cannot be read is found when it is read.
                (None, Some(location)) => read_time(from, location)?.unwrap_or(LogTime::new(0)),
                (_, None) => LogTime::new(0),
            };
            facts.last_time = last.map(|_| log_time);
            let recovered = RecoveredGroup {
                spec: facts.spec.clone(),
                incarnation: group.incarnation,
                hard_state: facts.hard_state,
                promise: facts.promise,
                base: facts.base.clone(),
                configs: facts.configs.clone(),
                log_time: log_time.max(facts.base_time),
                first_index: group.first,
                last_index: group.last(),
                term_runs: group.runs.clone(),
                has_fetched,
            };
            groups.here.insert(group.id, recovered);
        }
        self.index.all_durable();
        Ok(groups)
    }
}

/// The clock in the entry at `location`; `None` if the disk cannot read it.
fn read_time<D: Disk>(
    (files, readings): (&OpenFiles<D>, &Readings),
    location: Location,
) -> io::Result<Option<LogTime>> {
    let mut block = [0; ITEM_HEADER_BYTES];
    let file = files.get(location.slot())?;
    let name = file_name(location.slot());
    let lost = readings.read((&name, &*file), &mut block, location.offset())?;
    Ok(lost.is_empty().then(|| ItemHeader::decode(&block).time))
}

/// The record at the beginning of `bytes`: header, payload, and what follows.
pub(crate) fn split_record(bytes: &[u8]) -> Result<(RecordHeader, &[u8], &[u8]), RecordFault> {
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
pub(crate) struct Items<'a> {
    record: &'a RecordHeader,
    payload: &'a [u8],
    at: u64,
    index: LogIndex,
}

/// One entry of a run.
pub(crate) struct Item<'a> {
    header: ItemHeader,
    name: EntryName,
    payload: &'a [u8],
    /// Where its header lies in the payload of the record.
    at: u64,
}

impl Item<'_> {
    pub(crate) fn is_sound(&self) -> bool {
        let ItemHeader { kind, time, crc, .. } = self.header;
        self.name.entry_crc(kind, time, self.payload) == crc
    }
}

impl<'a> Items<'a> {
    pub(crate) fn new(record: &'a RecordHeader, payload: &'a [u8]) -> Self {
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
