//! Reading entries back, beside the writer and without waiting for it.
//!
//! A reader sees an entry as soon as it is written, durable or not; [`LogReader::durable_index`]
//! tells which are. Segments are pinned while they are read, so that none is written again under
//! a reader. Neighbours in a segment are fetched with one read, and the payloads of one
//! call share the buffers they were read into.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use raft_core::{Entry, GroupId, GroupIncarnation, LogIndex, Term};

use crate::append::write::ENTRY_BYTES_MAX;
use crate::disk::readings::{Readings, is_unreadable, read_alone};
use crate::disk::{Disk, DiskFile};
use crate::error::ReadError;
use crate::format::live::LiveEntries;
use crate::format::pieces::{self, Piece};
use crate::format::record::{EntryName, ITEM_HEADER_BYTES, ItemHeader, entry_kind, item_bytes};
use crate::format::segment::file_name;
use crate::read::index::{GroupIndex, Presence, Shared};
use crate::read::location::Location;
use crate::read::open_files::OpenFiles;
use crate::reclaim::segments::Pin;

/// Reads the entries of all groups. Cheap to clone; any number of threads may read.
///
/// It stays usable when the writer is poisoned or gone.
#[derive(Clone)]
pub struct LogReader {
    source: Arc<dyn EntrySource>,
}

impl LogReader {
    pub(crate) fn new(source: Arc<impl EntrySource>) -> Self {
        Self { source }
    }

    /// The entries from `first` to `last`, both included, or fewer if they cost more than
    /// `bytes_max` ([`Entry::cost`]); at least one. An empty range gives no entry.
    ///
    /// Every checksum is verified. Cost: a read of the disk per stretch of neighbours.
    ///
    /// # Errors
    /// [`ReadError::OutOfRange`] unless the log holds both ends; [`ReadError::Corrupt`] if the
    /// bytes on disk are not those that were written.
    pub fn entries(
        &self,
        group: GroupId,
        first: LogIndex,
        last: LogIndex,
        bytes_max: u64,
    ) -> Result<Vec<Entry>, ReadError> {
        self.source.entries(group, first, last, bytes_max)
    }

    /// An entry of which index and term are known, wherever it is held: in the log, kept from before
    /// it, or fetched for a snapshot that is on its way here.
    ///
    /// # Errors
    /// [`ReadError::NotHeld`] if it is nowhere; else as [`Self::entries`].
    pub fn entry(&self, group: GroupId, index: LogIndex, term: Term) -> Result<Entry, ReadError> {
        self.source.entry(group, index, term)
    }

    /// The term of an entry that the log holds, or that is kept from before it.
    pub fn held_term(&self, group: GroupId, index: LogIndex) -> Option<Term> {
        self.source.held_term(group, index)
    }

    /// The entries that are kept from before the log.
    pub fn live(&self, group: GroupId) -> LiveEntries {
        self.source.live(group)
    }

    /// The entries that were fetched for a snapshot that is on its way here.
    pub fn fetched(&self, group: GroupId) -> Vec<(LogIndex, Term)> {
        self.source.fetched(group)
    }

    /// How much of what is named is held, wherever that may be. Cost: a look at each entry that is
    /// named, a few thousand at a time beside the writer.
    ///
    /// # Errors
    /// [`ReadError::UnknownGroup`].
    pub fn holding(&self, group: GroupId, live: &LiveEntries) -> Result<Holding, ReadError> {
        self.source.holding(group, live).ok_or(ReadError::UnknownGroup { group })
    }

    /// The first index of the group's log; one above [`Self::last_index`] if it is empty.
    pub fn first_index(&self, group: GroupId) -> Option<LogIndex> {
        self.source.bounds(group).map(|bounds| bounds.first)
    }

    /// The last index written, or the one before the first; `None` for an unknown group.
    pub fn last_index(&self, group: GroupId) -> Option<LogIndex> {
        self.source.bounds(group).map(|bounds| bounds.last)
    }

    /// The last index that is durable together with all before it; `None` for an unknown group.
    pub fn durable_index(&self, group: GroupId) -> Option<LogIndex> {
        self.source.bounds(group).map(|bounds| bounds.durable)
    }

    /// The first and the last index, of one moment; see [`Self::first_index`] and
    /// [`Self::last_index`].
    pub fn bounds(&self, group: GroupId) -> Option<(LogIndex, LogIndex)> {
        self.source.bounds(group).map(|bounds| (bounds.first, bounds.last))
    }

    /// Reads on through all entries of the log, and those that are kept from before its beginning, from the
    /// disk and not from memory, whether or not anybody wants them; about `bytes` of them.
    pub fn scrub(&self, from: Scrub, bytes: u64) -> Scrubbed {
        self.source.scrub(from, bytes)
    }

    /// Notes beside the log that some entry cannot be read: the next open looks at all of them before it
    /// trusts any. Damage ([`ReadError::Corrupt`]) notes that by itself. A place that the disk refuses may be
    /// read a moment later, so whoever gives it up for good says so here.
    pub fn doubt(&self) {
        self.source.doubt();
    }

    /// The term of an entry, or `None` if the log does not hold it.
    pub fn term(&self, group: GroupId, index: LogIndex) -> Option<Term> {
        self.source.term(group, index)
    }
}

/// How far all of a log was read, to see whether it still can be.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Scrub {
    /// The group, in the order in which the log has met them.
    group: u32,
    /// The entry that comes next.
    index: LogIndex,
}

/// What a step of it found.
#[derive(Debug)]
pub struct Scrubbed {
    /// Where it goes on; `None`: all of the log was read.
    pub next: Option<Scrub>,
    /// How much was read.
    pub bytes: u64,
    /// What cannot be read: [`ReadError::Corrupt`], or [`ReadError::Io`] where the disk refuses, which
    /// may pass. The next step goes on behind it either way.
    pub damage: Option<ReadError>,
}

/// Where a [`LogReader`] reads from.
pub(crate) trait EntrySource: Send + Sync + 'static {
    fn entries(
        &self,
        group: GroupId,
        first: LogIndex,
        last: LogIndex,
        bytes_max: u64,
    ) -> Result<Vec<Entry>, ReadError>;
    fn bounds(&self, group: GroupId) -> Option<Bounds>;
    fn scrub(&self, from: Scrub, bytes: u64) -> Scrubbed;
    fn doubt(&self);
    fn term(&self, group: GroupId, index: LogIndex) -> Option<Term>;
    fn entry(&self, group: GroupId, index: LogIndex, term: Term) -> Result<Entry, ReadError>;
    fn held_term(&self, group: GroupId, index: LogIndex) -> Option<Term>;
    fn live(&self, group: GroupId) -> LiveEntries;
    fn fetched(&self, group: GroupId) -> Vec<(LogIndex, Term)>;
    fn holding(&self, group: GroupId, live: &LiveEntries) -> Option<Holding>;
}

/// How much of what is named the log of a node holds.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Holding {
    /// Payload bytes of what is held; of an entry of 1 MiB or more in whole blocks of 4 KiB.
    pub bytes: u64,
    /// What is not held.
    pub missing: LiveEntries,
}

impl Holding {
    /// Takes account of the next entry that is named, which has so many bytes if it is held.
    pub(crate) fn note(&mut self, (index, term): (LogIndex, Term), bytes: Option<u64>) {
        match bytes {
            Some(bytes) => self.bytes += bytes,
            None => {
                let is_named = self.missing.push(index, term);
                debug_assert!(is_named, "they come in order");
            }
        }
    }
}

/// The ends of a group's log.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Bounds {
    pub(crate) first: LogIndex,
    pub(crate) last: LogIndex,
    pub(crate) durable: LogIndex,
}

/// An entry to be read: all that the index knows of it.
#[derive(Clone, Copy)]
struct Wanted {
    index: LogIndex,
    term: Term,
    location: Location,
}

impl<D: Disk> EntrySource for Shared<D> {
    fn entries(
        &self,
        group: GroupId,
        first: LogIndex,
        last: LogIndex,
        bytes_max: u64,
    ) -> Result<Vec<Entry>, ReadError> {
        match self.entries_once(group, first, last, bytes_max) {
            Err(ReadError::Corrupt { segment, .. }) => {
                // Before that is called damage.
                self.drop_cache(segment);
                self.noting(self.entries_once(group, first, last, bytes_max))
            }
            read => self.noting(read),
        }
    }

    fn scrub(&self, from: Scrub, bytes: u64) -> Scrubbed {
        let mut at = from;
        let (group, first, last, segment) = loop {
            let index = self.index.read();
            let Some(group) = index.groups.get(at.group as usize) else {
                return Scrubbed { next: None, bytes: 0, damage: None };
            };
            let kept = group.kept_from(at.index, bytes);
            if group.presence == Presence::Here && !kept.is_empty() {
                let id = group.id;
                drop(index);
                return self.scrub_kept(at.group, id, &kept);
            }
            let first = at.index.max(group.first);
            if group.presence == Presence::Here && first <= group.last() {
                let segment = group.location(first).map(|place| place.slot());
                break (group.id, first, group.last(), segment);
            }
            at = Scrub { group: at.group + 1, index: LogIndex::ZERO };
        };
        // What memory holds says nothing of the disk.
        segment.into_iter().for_each(|segment| self.drop_cache(segment));
        let (read, bytes, damage) = match self.entries(group, first, last, bytes) {
            Ok(entries) => {
                let bytes = entries.iter().map(Entry::cost).sum();
                (entries.last().map_or(last, |entry| entry.index), bytes, None)
            }
            Err(damage @ (ReadError::Corrupt { index, .. } | ReadError::Io { index, .. }))
                if damage.is_refusal() =>
            {
                (index, 0, Some(damage))
            }
            // It was compacted or is gone meanwhile, or descriptors ran out: it is looked up anew.
            Err(_) => return Scrubbed { next: Some(at), bytes: 0, damage: None },
        };
        let next = match read < last {
            true => Scrub { group: at.group, index: read.next() },
            false => Scrub { group: at.group + 1, index: LogIndex::ZERO },
        };
        Scrubbed { next: Some(next), bytes, damage }
    }

    fn doubt(&self) {
        self.note_doubt();
    }

    fn bounds(&self, group: GroupId) -> Option<Bounds> {
        let index = self.index.read();
        let known = index.group(group)?;
        Some(Bounds { first: known.first, last: known.last(), durable: known.durable })
    }

    fn term(&self, group: GroupId, index: LogIndex) -> Option<Term> {
        self.index.read().group(group)?.term(index)
    }

    fn entry(&self, group: GroupId, index: LogIndex, term: Term) -> Result<Entry, ReadError> {
        match self.entry_once(group, index, term) {
            Err(ReadError::Corrupt { segment, .. }) => {
                self.drop_cache(segment);
                self.noting(self.entry_once(group, index, term))
            }
            read => self.noting(read),
        }
    }

    fn held_term(&self, group: GroupId, index: LogIndex) -> Option<Term> {
        self.index.read().group(group)?.held_term(index)
    }

    fn live(&self, group: GroupId) -> LiveEntries {
        let index = self.index.read();
        let aside = index.group(group).and_then(|known| known.aside.as_ref());
        aside.map(|aside| aside.kept.names()).unwrap_or_default()
    }

    fn fetched(&self, group: GroupId) -> Vec<(LogIndex, Term)> {
        let index = self.index.read();
        let fetched = index.group(group).into_iter().flat_map(|known| known.fetched());
        fetched.map(|(at, term, _)| (at, term)).collect()
    }

    fn holding(&self, group: GroupId, live: &LiveEntries) -> Option<Holding> {
        let mut holding = Holding::default();
        let mut names = live.iter().peekable();
        loop {
            // The writer may go on between some of them and the next.
            let index = self.index.read();
            let slot = *index.slots.get(&group)?;
            let known = index.group(group)?;
            for (at, term) in names.by_ref().take(NAMES_PER_LOCK) {
                let place = known.named(at, term);
                let pieces = index.pieces.get(&(slot, at)).filter(|_| known.held(at) == place);
                let in_pieces =
                    pieces.map(|all| all.iter().map(|piece| u64::from(piece.bytes)).sum());
                let bytes =
                    place.map(|place| in_pieces.unwrap_or_else(|| place.payload_bytes_min()));
                holding.note((at, term), bytes);
            }
            if names.peek().is_none() {
                return Some(holding);
            }
        }
    }
}

impl<D: Disk> Shared<D> {
    /// Reads entries that are kept from before the beginning of the log.
    fn scrub_kept(&self, at: u32, group: GroupId, kept: &[(LogIndex, Term, u32)]) -> Scrubbed {
        let (mut next, mut bytes, mut dropped) = (Scrub { group: at, ..Scrub::default() }, 0, None);
        for (index, term, segment) in kept {
            if dropped.replace(*segment) != Some(*segment) {
                self.drop_cache(*segment);
            }
            next.index = index.next();
            match EntrySource::entry(self, group, *index, *term) {
                Ok(entry) => bytes += entry.cost(),
                Err(damage) if damage.is_refusal() => {
                    return Scrubbed { next: Some(next), bytes, damage: Some(damage) };
                }
                // Descriptors ran out: it is looked up anew.
                Err(ReadError::Io { .. }) => {
                    next.index = *index;
                    break;
                }
                // It was let go of meanwhile.
                Err(_) => {}
            }
        }
        Scrubbed { next: Some(next), bytes, damage: None }
    }

    /// Notes beside the log that it is damaged.
    fn noting<T>(&self, read: Result<T, ReadError>) -> Result<T, ReadError> {
        if matches!(read, Err(ReadError::Corrupt { .. })) {
            self.note_doubt();
        }
        read
    }

    /// Memory may hold what was there before a direct write, and the disk what was written.
    fn drop_cache(&self, segment: u32) {
        // One that is removed meanwhile must not be opened: its slot may be another segment's next.
        let Some(_pin) = self.index.read().segments.pin(segment) else { return };
        if let Ok(file) = self.files.get(segment) {
            let _ = file.drop_cache();
        }
    }

    fn entry_once(&self, group: GroupId, index: LogIndex, term: Term) -> Result<Entry, ReadError> {
        let mut pins: Vec<Pin> = Vec::new();
        let (incarnation, location) = {
            let known = self.index.read();
            let of = known.group(group).ok_or(ReadError::UnknownGroup { group })?;
            let missing = ReadError::NotHeld { group, index, term };
            let location = of.named(index, term).ok_or(missing)?;
            let slot = known.slots.get(&group).copied().unwrap_or_default();
            let pieces = known.pieces.get(&(slot, index)).into_iter().flatten();
            let slots = pieces.map(|piece| piece.location.slot()).chain([location.slot()]);
            pins.extend(slots.filter_map(|slot| known.segments.pin(slot)));
            (of.incarnation, location)
        };
        self.read_one(group, incarnation, Wanted { index, term, location })
    }

    /// Entries of which everything is known but what they hold. The caller sees to it that their
    /// segments stay what they are.
    pub(crate) fn entries_at(
        &self,
        (group, incarnation): (GroupId, GroupIncarnation),
        places: &[(LogIndex, Term, Location)],
    ) -> Result<Vec<Entry>, ReadError> {
        let wanted = |(index, term, location): &(LogIndex, Term, Location)| Wanted {
            index: *index,
            term: *term,
            location: *location,
        };
        let wanted: Vec<Wanted> = places.iter().map(wanted).collect();
        let read = || {
            let mut entries = Vec::with_capacity(wanted.len());
            let mut rest = wanted.as_slice();
            while !rest.is_empty() {
                let (stretch, after) = rest.split_at(stretch(rest));
                entries.extend(self.read_stretch(group, incarnation, stretch)?);
                rest = after;
            }
            Ok(entries)
        };
        match read() {
            Err(ReadError::Corrupt { segment, .. }) => {
                self.drop_cache(segment);
                read()
            }
            entries => entries,
        }
    }

    fn entries_once(
        &self,
        group: GroupId,
        first: LogIndex,
        last: LogIndex,
        bytes_max: u64,
    ) -> Result<Vec<Entry>, ReadError> {
        // Held until everything is read: the segments stay what they are.
        let mut pins: Vec<Pin> = Vec::new();
        let (incarnation, wanted) = {
            let index = self.index.read();
            let known = index.group(group).ok_or(ReadError::UnknownGroup { group })?;
            if first > last {
                return Ok(Vec::new());
            }
            if first < known.first || last > known.last() {
                return Err(ReadError::OutOfRange {
                    group,
                    asked_first: first,
                    asked_last: last,
                    first: known.first,
                    last: known.last(),
                });
            }
            let group_slot = index.slots.get(&group).copied().unwrap_or_default();
            let in_pieces = || index.pieces.range((group_slot, first)..=(group_slot, last));
            let long: BTreeMap<LogIndex, u64> = in_pieces()
                .map(|((_, index), pieces)| {
                    (*index, pieces.iter().map(|piece| u64::from(piece.bytes)).sum())
                })
                .collect();
            let wanted = wanted(known, (first, last), bytes_max, &long);
            let slots = wanted.iter().map(|wanted| wanted.location.slot());
            let last = wanted.last().map_or(first, |wanted| wanted.index);
            let in_pieces = in_pieces().filter(|((_, index), _)| *index <= last);
            let in_pieces = in_pieces.flat_map(|(_, pieces)| pieces);
            let mut pinned = None;
            for slot in slots.chain(in_pieces.map(|piece| piece.location.slot())) {
                if pinned != Some(slot) {
                    pins.extend(index.segments.pin(slot));
                    pinned = Some(slot);
                }
            }
            (known.incarnation, wanted)
        };
        let mut entries = Vec::with_capacity(wanted.len());
        let mut cost = 0;
        let mut rest = wanted.as_slice();
        while !rest.is_empty() {
            let (stretch, after) = rest.split_at(stretch(rest));
            for entry in self.read_stretch(group, incarnation, stretch)? {
                cost += entry.cost();
                // Only an entry too long for the index can be longer than expected.
                if cost > bytes_max && !entries.is_empty() {
                    return Ok(entries);
                }
                entries.push(entry);
            }
            rest = after;
        }
        Ok(entries)
    }

    fn read_stretch(
        &self,
        group: GroupId,
        incarnation: GroupIncarnation,
        stretch: &[Wanted],
    ) -> Result<Vec<Entry>, ReadError> {
        let [first, .., last] = stretch else {
            return match stretch {
                [one] => self.read_one(group, incarnation, *one).map(|entry| vec![entry]),
                _ => Ok(Vec::new()),
            };
        };
        let begin = first.location.offset();
        let bytes = last.location.offset() + item_bytes(last.location.payload_bytes_min()) - begin;
        let buffer = match self.read(group, *first, begin, bytes) {
            // A sector that cannot be read holds some of them, and which is to be told.
            Err(ReadError::Io { source, .. }) if is_unreadable(&source) => {
                let alone = |wanted: &Wanted| self.read_one(group, incarnation, *wanted);
                return stretch.iter().map(alone).collect();
            }
            read => read?,
        };
        let decode = |wanted: &Wanted| {
            let at = (wanted.location.offset() - begin) as usize;
            self.entry(group, incarnation, *wanted, &buffer.slice(at..))
        };
        stretch.iter().map(decode).collect()
    }

    fn read_one(
        &self,
        group: GroupId,
        incarnation: GroupIncarnation,
        wanted: Wanted,
    ) -> Result<Entry, ReadError> {
        let begin = wanted.location.offset();
        let payload_bytes = match wanted.location.payload_bytes() {
            Some(bytes) => bytes,
            None => {
                let header = self.read(group, wanted, begin, ITEM_HEADER_BYTES as u64)?;
                u64::from(ItemHeader::decode(&header).payload_bytes)
            }
        };
        // A damaged length must not decide how much memory is taken.
        if payload_bytes > ENTRY_BYTES_MAX {
            return Err(corrupt(group, wanted));
        }
        let buffer = self.read(group, wanted, begin, ITEM_HEADER_BYTES as u64 + payload_bytes)?;
        self.entry(group, incarnation, wanted, &buffer)
    }

    /// The entry that begins here, its payload fetched if that is in pieces.
    fn entry(
        &self,
        group: GroupId,
        incarnation: GroupIncarnation,
        wanted: Wanted,
        buffer: &Bytes,
    ) -> Result<Entry, ReadError> {
        let (mut entry, is_in_pieces) = decode_entry(group, incarnation, wanted, buffer)?;
        if is_in_pieces {
            let pieces = pieces::decode(&entry.payload).ok_or_else(|| corrupt(group, wanted))?;
            let mut payload = Vec::new();
            for piece in &pieces {
                payload.extend_from_slice(&self.piece(group, entry.index, piece)?);
            }
            entry.payload = payload.into();
        }
        Ok(entry)
    }

    /// A piece of the payload of an entry.
    pub(crate) fn piece(
        &self,
        group: GroupId,
        index: LogIndex,
        piece: &Piece,
    ) -> Result<Bytes, ReadError> {
        let wanted = Wanted { index, term: Term::default(), location: piece.location };
        let bytes = self.read(group, wanted, piece.location.offset(), piece.bytes.into())?;
        if piece.is_sound(&bytes) { Ok(bytes) } else { Err(corrupt(group, wanted)) }
    }

    /// An entry as it lies in the log: a payload that is in pieces is left where it is.
    pub(crate) fn entry_as_stored(
        &self,
        (group, incarnation): (GroupId, GroupIncarnation),
        (index, term): (LogIndex, Term),
        location: Location,
    ) -> Result<Entry, ReadError> {
        let wanted = Wanted { index, term, location };
        let bytes = ITEM_HEADER_BYTES as u64 + location.payload_bytes_min();
        let buffer = self.read(group, wanted, location.offset(), bytes)?;
        decode_entry(group, incarnation, wanted, &buffer).map(|(entry, _)| entry)
    }

    fn read(
        &self,
        group: GroupId,
        wanted: Wanted,
        offset: u64,
        bytes: u64,
    ) -> Result<Bytes, ReadError> {
        let slot = wanted.location.slot();
        let mut buffer = vec![0; bytes as usize];
        let read = self.files.get(slot).and_then(|file| {
            match file.read_exact_at(&mut buffer, offset) {
                // A neighbour may be what cannot be read.
                Err(error) if is_unreadable(&error) => read_alone(&*file, &mut buffer, offset),
                read => read,
            }
        });
        read.map_err(|source| match source.kind() {
            io::ErrorKind::UnexpectedEof => corrupt(group, wanted),
            _ => ReadError::Io { group, index: wanted.index, source },
        })?;
        Ok(buffer.into())
    }
}

/// The entries of a range that can be paid for, judged by what the index knows.
/// `long` says how long those are whose payload is in pieces.
fn wanted(
    group: &GroupIndex,
    (first, last): (LogIndex, LogIndex),
    bytes_max: u64,
    long: &BTreeMap<LogIndex, u64>,
) -> Vec<Wanted> {
    let mut wanted: Vec<Wanted> = Vec::new();
    let mut cost = 0_u64;
    let mut run = group.runs.partition_point(|(start, _)| *start <= first);
    let mut index = first;
    while index <= last {
        let Some(location) = group.location(index) else {
            break;
        };
        let bytes = long.get(&index).copied().unwrap_or_else(|| location.payload_bytes_min());
        cost = cost.saturating_add(bytes + Entry::OVERHEAD);
        if cost > bytes_max && !wanted.is_empty() {
            break;
        }
        while group.runs.get(run).is_some_and(|(start, _)| *start <= index) {
            run += 1;
        }
        let Some((_, term)) = run.checked_sub(1).and_then(|run| group.runs.get(run)) else {
            break;
        };
        wanted.push(Wanted { index, term: *term, location });
        if index == index.next() {
            break;
        }
        index = index.next();
    }
    wanted
}

/// How many of the first entries lie so close together that one read should fetch them.
fn stretch(wanted: &[Wanted]) -> usize {
    let Some(first) = wanted.first() else {
        return 0;
    };
    if first.location.payload_bytes().is_none() {
        return 1;
    }
    let begin = first.location.offset();
    let mut count = 1;
    for pair in wanted.windows(2) {
        let [before, after] = pair else { break };
        let end = before.location.offset() + item_bytes(before.location.payload_bytes_min());
        let near = after.location.slot() == first.location.slot()
            && after.location.payload_bytes().is_some()
            && after.location.offset() >= end
            && after.location.offset() - end <= GAP_BYTES_MAX
            && after.location.offset() + item_bytes(after.location.payload_bytes_min()) - begin
                <= STRETCH_BYTES_MAX;
        if !near {
            break;
        }
        count += 1;
    }
    count
}

fn decode_entry(
    group: GroupId,
    incarnation: GroupIncarnation,
    wanted: Wanted,
    buffer: &Bytes,
) -> Result<(Entry, bool), ReadError> {
    let damaged = || corrupt(group, wanted);
    let item = ItemHeader::decode(buffer.get(..ITEM_HEADER_BYTES).ok_or_else(damaged)?);
    let end = ITEM_HEADER_BYTES + item.payload_bytes as usize;
    if buffer.len() < end {
        return Err(damaged());
    }
    let payload = buffer.slice(ITEM_HEADER_BYTES..end);
    let name = EntryName { group, incarnation, index: wanted.index, term: wanted.term };
    if name.entry_crc(item.kind, item.time, &payload) != item.crc {
        return Err(damaged());
    }
    let (kind, is_in_pieces) = entry_kind(item.kind).ok_or_else(damaged)?;
    let (index, term, time) = (wanted.index, wanted.term, item.time);
    Ok((Entry { index, term, kind, time, payload }, is_in_pieces))
}

/// Whether an entry can be read from where it should lie, with its pieces.
///
/// # Errors
/// Where descriptors ran out, or the disk fails as a whole; a place that it cannot read holds nothing.
pub(crate) fn is_readable<D: Disk>(
    (files, readings): (&OpenFiles<D>, &Readings),
    (group, incarnation): (GroupId, GroupIncarnation),
    (index, term): (LogIndex, Term),
    location: Location,
    pieces: Option<&Vec<Piece>>,
) -> io::Result<bool> {
    let read = |place: Location, bytes: u64| -> io::Result<Option<Bytes>> {
        let mut buffer = vec![0; bytes as usize];
        let name = file_name(place.slot());
        let file = files.get(place.slot());
        match file.and_then(|f| readings.read((&name, &*f), &mut buffer, place.offset())) {
            Ok(lost) => Ok(lost.is_empty().then(|| buffer.into())),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(error),
        }
    };
    let bytes = match location.payload_bytes() {
        Some(bytes) => bytes,
        None => match read(location, ITEM_HEADER_BYTES as u64)? {
            Some(header) => u64::from(ItemHeader::decode(&header).payload_bytes),
            None => return Ok(false),
        },
    };
    if bytes > ENTRY_BYTES_MAX {
        return Ok(false);
    }
    let wanted = Wanted { index, term, location };
    let Some(buffer) = read(location, ITEM_HEADER_BYTES as u64 + bytes)? else { return Ok(false) };
    if decode_entry(group, incarnation, wanted, &buffer).is_err() {
        return Ok(false);
    }
    for piece in pieces.into_iter().flatten() {
        match read(piece.location, piece.bytes.into())? {
            Some(bytes) if piece.is_sound(&bytes) => {}
            _ => return Ok(false),
        }
    }
    Ok(true)
}

/// The file, or its end, is gone.
pub(crate) fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof)
}

fn corrupt(group: GroupId, wanted: Wanted) -> ReadError {
    ReadError::Corrupt {
        group,
        index: wanted.index,
        segment: wanted.location.slot(),
        offset: wanted.location.offset(),
    }
}

/// Looked up beside the writer without letting it go on.
const NAMES_PER_LOCK: usize = 4096;
/// Reading this many unwanted bytes is cheaper than another system call.
const GAP_BYTES_MAX: u64 = 1 << 10;
/// The most that one read fetches; it also bounds what a kept payload keeps alive.
const STRETCH_BYTES_MAX: u64 = 256 << 10;
