//! Replay: from valid frames to the state of all groups.
//!
//! The checksums of a frame were checked before it comes here. What remains are records that hold
//! together and still make no sense: of another version, or of a bug. They are errors too.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use raft_core::{
    Base, EntryKind, GroupId, GroupIncarnation, HardState, LogIndex, LogTime, Membership, Promise,
    PromiseRecord, ReplicaId, Term, Tombstone,
};

use crate::disk::{Disk, DiskFile};
use crate::error::{RecordFault, Unsupported};
use crate::format::base;
use crate::format::frame::{FRAME_HEADER_BYTES, FrameHeader};
use crate::format::identity::Life;
use crate::format::record::{
    EntryName, FLAG_CLEAN, FLAG_DAMAGED, FLAG_LOST, FLAG_VOTE, ITEM_HEADER_BYTES, ItemHeader,
    RECORD_HEADER_BYTES, RecordHeader, RecordType, entry_kind, item_bytes,
};
use crate::read::index::{Index, Presence};
use crate::read::location::{Location, SEGMENT_BYTES_MAX};
use crate::read::open_files::OpenFiles;
use crate::recover::recovery::{RecoveredGroup, RecoveredGroups, RecoveryReport};

/// Everything read so far.
#[derive(Default)]
pub(crate) struct Replay {
    pub(crate) index: Index,
    /// In the slots of the index.
    groups: Vec<GroupState>,
    locations: Vec<Location>,
    pub(crate) report: RecoveryReport,
    pub(crate) life: Life,
}

/// What the index does not keep of a group.
struct GroupState {
    id: GroupId,
    spec: Bytes,
    hard_state: HardState,
    promise: PromiseRecord,
    base: Base,
    configs: Vec<(LogIndex, Arc<Membership>)>,
    /// The clock in the last entry; `None` after a truncation, until it is read again.
    last_time: Option<LogTime>,
    /// The newest clock when the log began at its base.
    base_time: LogTime,
    /// Of a replica that was destroyed here, whether or not another one came.
    tombstone: Option<(GroupIncarnation, Tombstone)>,
}

impl GroupState {
    fn new(id: GroupId, spec: Bytes) -> Self {
        Self {
            id,
            spec,
            hard_state: HardState::default(),
            promise: PromiseRecord::default(),
            base: Base::default(),
            configs: Vec::new(),
            last_time: None,
            base_time: LogTime::new(0),
            tombstone: None,
        }
    }
}

/// Why a record cannot be applied.
pub(crate) enum ApplyFault {
    Record(RecordFault),
    Unsupported(Unsupported, u64),
}

/// Where a record fails, whom it concerns, and why.
pub(crate) type Failed = (u64, Option<Vec<GroupId>>, ApplyFault);

impl Replay {
    pub(crate) fn new(life: Life) -> Self {
        Self { life, ..Self::default() }
    }

    /// Applies a frame whose checksums hold; returns whether it had content.
    pub(crate) fn apply_frame(
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
            RecordType::EntryRun
            | RecordType::HardState
            | RecordType::TruncateSuffix
            | RecordType::Compact
            | RecordType::Install
            | RecordType::Promise
            | RecordType::Destroy => {}
        }
        let slot = match self.index.slots.get(&record.group) {
            Some(slot) => *slot as usize,
            None => return Err(ApplyFault::Record(RecordFault::Group)),
        };
        let index = &self.index.groups[slot];
        if index.incarnation != record.incarnation || index.presence == Presence::Destroyed {
            return Err(ApplyFault::Record(RecordFault::Group));
        }
        let state = &mut self.groups[slot];
        let index = &mut self.index.groups[slot];
        match kind {
            RecordType::SyncMarker | RecordType::GroupCreate => {}
            RecordType::EntryRun => return self.run(slot, record, payload, payload_at),
            RecordType::Promise => {
                let promise = match record.flags {
                    0 => Promise::Kept,
                    FLAG_LOST => Promise::Lost,
                    FLAG_DAMAGED => Promise::Damaged,
                    flags => {
                        let what = Unsupported::RecordFlags;
                        return Err(ApplyFault::Unsupported(what, flags.into()));
                    }
                };
                let loss_epoch = u32::try_from(record.index)
                    .map_err(|_| ApplyFault::Record(RecordFault::Length))?;
                state.promise = PromiseRecord { promise, loss_epoch };
            }
            RecordType::HardState => {
                let vote = (record.flags & FLAG_VOTE != 0).then(|| ReplicaId::new(record.index));
                state.hard_state = HardState { term: Term::new(record.term), vote };
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
                index.destroy();
                *state = GroupState {
                    tombstone: Some((record.incarnation, tombstone)),
                    ..GroupState::new(record.group, Bytes::new())
                };
            }
            RecordType::TruncateSuffix => {
                let from = LogIndex::new(record.index);
                if from < index.first {
                    return Err(ApplyFault::Record(RecordFault::Index));
                }
                index.truncate(from);
                let kept = state.configs.partition_point(|(at, _)| *at < from);
                state.configs.truncate(kept);
                state.last_time = None;
            }
            RecordType::Install | RecordType::Compact => {
                let found = base::decode(record, payload)
                    .ok_or(ApplyFault::Record(RecordFault::Membership))?;
                let base = found.base.index;
                let beyond = kind == RecordType::Compact && base > index.last();
                if base < index.first.prev() || beyond {
                    return Err(ApplyFault::Record(RecordFault::Index));
                }
                if kind == RecordType::Install {
                    index.install(base);
                    state.configs.clear();
                } else {
                    index.compact(base);
                    state.configs.retain(|(at, _)| *at > base);
                }
                state.base = found.base;
                state.base_time = found.time;
            }
        }
        Ok(())
    }

    fn create(&mut self, record: &RecordHeader, spec: &[u8]) -> Result<(), ApplyFault> {
        let before = self.index.slots.get(&record.group).map(|slot| *slot as usize);
        let allowed = before.map(|slot| &self.index.groups[slot]).is_none_or(|before| match before
            .presence
        {
            Presence::Here => record.incarnation > before.incarnation,
            Presence::Destroyed => record.incarnation >= before.incarnation,
        });
        if !allowed {
            return Err(ApplyFault::Record(RecordFault::Group));
        }
        let slot = self.index.create(record.group, record.incarnation) as usize;
        let tombstone = self.groups.get(slot).and_then(|before| before.tombstone);
        let spec = Bytes::copy_from_slice(spec);
        let fresh = GroupState { tombstone, ..GroupState::new(record.group, spec) };
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
            if entry_kind(item.header.kind).is_none() {
                let value = item.header.kind.into();
                return Err(ApplyFault::Unsupported(Unsupported::EntryKind, value));
            }
            let offset = payload_at + item.at;
            if offset >= SEGMENT_BYTES_MAX {
                return Err(ApplyFault::Record(RecordFault::Length));
            }
            if item.header.kind == EntryKind::Config.code() {
                let membership = Membership::decode(item.payload)
                    .map_err(|_| ApplyFault::Record(RecordFault::Membership))?;
                state.configs.push((item.name.index, Arc::new(membership)));
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

    /// All groups; the replay is over.
    pub(crate) fn finish<D: Disk>(&mut self, files: &OpenFiles<D>) -> io::Result<RecoveredGroups> {
        let mut groups = RecoveredGroups::default();
        for (state, index) in self.groups.drain(..).zip(&self.index.groups) {
            if let Some(tombstone) = state.tombstone {
                groups.tombstones.insert(state.id, tombstone);
            }
            if index.presence == Presence::Destroyed {
                continue;
            }
            let log_time = match (state.last_time, index.location(index.last())) {
                (Some(time), Some(_)) => time,
                (None, Some(location)) => read_time(files, location)?,
                (_, None) => LogTime::new(0),
            };
            let group = RecoveredGroup {
                spec: state.spec,
                incarnation: index.incarnation,
                hard_state: state.hard_state,
                promise: state.promise,
                base: state.base,
                first_index: index.first,
                last_index: index.last(),
                term_runs: index.runs.clone(),
                configs: state.configs,
                log_time: log_time.max(state.base_time),
            };
            groups.here.insert(state.id, group);
        }
        Ok(groups)
    }
}

/// The clock in the entry at `location`, which recovery has checked already.
fn read_time<D: Disk>(files: &OpenFiles<D>, location: Location) -> io::Result<LogTime> {
    let mut block = [0; ITEM_HEADER_BYTES];
    files.get(location.slot())?.read_exact_at(&mut block, location.offset())?;
    Ok(ItemHeader::decode(&block).time)
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
