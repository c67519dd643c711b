//! A frame in memory: records and small payloads in one reused buffer, which a device takes from
//! where it lies, large payloads by reference between its parts; ready for one vectored write.
//!
//! A frame may grow by several batches while the disk is busy with the one before. It is *begun* for
//! its place, batches are *added*, and it is *finished* when it is handed over: its header says what is
//! durable then.
//!
//! Pure: bytes depend on the batches, the plans and the cursor only.

use std::io::IoSlice;
use std::ops::Range;

use bytes::Bytes;
use raft_core::{Entry, GroupId, GroupIncarnation, HardState, LogIndex, LogTime, Promise, Term};

use crate::append::block_buffer::BlockBuffer;
use crate::append::cursor::{Cursor, Holds};
use crate::append::plan::{self, Part};
use crate::append::tails::Admitted;
use crate::append::write::GroupWrite;
use crate::format::checksum::crc32c_append;
use crate::format::field::put;
use crate::format::frame::{
    FRAME_HEADER_BYTES, FRAME_VERSION, FrameHeader, frame_bytes, stance_back,
};
use crate::format::lsn::Lsn;
use crate::format::pieces::{IN_PIECES, Piece};
use crate::format::record::{
    ALIGNMENT, EntryName, FLAG_DAMAGED, FLAG_FETCHED, FLAG_LOST, FLAG_UNPROVEN, FLAG_VOTE,
    ITEM_HEADER_BYTES, ItemHeader, RECORD_HEADER_BYTES, RecordHeader, RecordType, item_bytes,
};
use crate::format::segment::BLOCK_BYTES;
use crate::read::location::Location;

/// The frame being built. Its buffers are used again and again.
#[derive(Default)]
pub(crate) struct FrameBuffer {
    buffer: BlockBuffer,
    /// Where a referenced payload comes between the bytes of `buffer`.
    references: Vec<Reference>,
    /// Bytes of the frame so far.
    bytes: u64,
    /// Those of the body, once the frame is finished.
    content_bytes: u64,
    records: u32,
    /// Entries that were copied and have no sum yet.
    unsummed: Vec<Unsummed>,
    /// The sum of the body so far, and how far that is: in `buffer`, and in `references`.
    body_crc: u32,
    summed: (usize, usize),
    pub(crate) crc: u32,
    pub(crate) holds: Holds,
}

/// Entries of one group and term, with consecutive indexes, to be written again.
pub(crate) struct Copies {
    pub(crate) group: GroupId,
    pub(crate) incarnation: GroupIncarnation,
    pub(crate) entries: Vec<Entry>,
    /// What they hold is where their payloads are.
    pub(crate) in_pieces: bool,
    /// They are some that were fetched.
    pub(crate) fetched: bool,
}

/// An entry in the buffer, and what its header will say.
struct Unsummed {
    /// Where its header lies.
    at: usize,
    name: EntryName,
    kind: u8,
    time: LogTime,
    payload_bytes: u32,
}

struct Reference {
    /// The payload follows this many bytes of the buffer.
    at: usize,
    payload: Bytes,
}

impl FrameBuffer {
    /// Adds the records of `pieces` to a frame that was begun at the place of `cursor`, and where
    /// their entries lie to `locations`.
    pub(crate) fn add(
        &mut self,
        cursor: &Cursor,
        pieces: &[plan::Piece],
        (writes, admitted): (&[GroupWrite], &[Admitted]),
        locations: &mut Vec<Location>,
    ) {
        self.grow(pieces.iter().map(|piece| piece.bytes).sum());
        let lsn = cursor.end();
        let mut copied = self.buffer.len();
        for piece in pieces {
            if self.buffer.len() - copied >= HOT_BYTES {
                self.sum();
                copied = self.buffer.len();
            }
            let write = &writes[piece.write];
            let header = RecordHeader {
                bytes: piece.bytes as u32,
                code: 0,
                flags: 0,
                count: 0,
                group: write.group,
                incarnation: admitted[piece.write].incarnation,
                index: 0,
                term: 0,
                payload_bytes: 0,
            };
            match &piece.part {
                Part::Create => {
                    let spec = write.create.as_ref().map_or(&[][..], |create| &create.spec);
                    let code = RecordType::GroupCreate as u8;
                    let payload_bytes = spec.len() as u32;
                    self.record(lsn, &RecordHeader { code, payload_bytes, ..header }, spec);
                }
                Part::Promise => {
                    let promise = write.promise.unwrap_or_default();
                    let header = RecordHeader {
                        code: RecordType::Promise as u8,
                        flags: match promise.promise {
                            Promise::Kept => 0,
                            Promise::Lost => FLAG_LOST,
                            Promise::Damaged => FLAG_DAMAGED,
                            Promise::Unproven => FLAG_UNPROVEN,
                        },
                        index: u64::from(promise.loss_epoch),
                        ..header
                    };
                    self.record(lsn, &header, &[]);
                }
                Part::HardState => {
                    let state = write.hard_state.unwrap_or_default();
                    let header = RecordHeader {
                        code: RecordType::HardState as u8,
                        flags: if state.vote.is_some() { FLAG_VOTE } else { 0 },
                        index: state.vote.map_or(0, |vote| vote.get()),
                        term: state.term.get(),
                        ..header
                    };
                    self.record(lsn, &header, &[]);
                }
                Part::DropFetched => {
                    let code = RecordType::DropFetched as u8;
                    self.record(lsn, &RecordHeader { code, ..header }, &[]);
                }
                Part::Fetched(range) => {
                    let entries = &write.fetched[range.clone()];
                    let kind = RecordType::Fetched;
                    self.run(cursor, kind, header, (entries, &|_| false), locations);
                }
                Part::Install(payload) => {
                    let meta = write.install.as_ref();
                    let (index, term) = meta.map(|m| (m.index, m.term)).unwrap_or_default();
                    self.base(lsn, RecordType::Install, header, (index, term), payload);
                }
                Part::Destroy => {
                    let Some(tombstone) = &write.destroy else { continue };
                    let HardState { term, vote } = tombstone.hard_state;
                    let replica = tombstone.replica.get().to_le_bytes();
                    let header = RecordHeader {
                        code: RecordType::Destroy as u8,
                        flags: if vote.is_some() { FLAG_VOTE } else { 0 },
                        index: vote.map_or(0, |vote| vote.get()),
                        term: term.get(),
                        payload_bytes: replica.len() as u32,
                        ..header
                    };
                    self.record(lsn, &header, &replica);
                }
                Part::Truncate => {
                    let code = RecordType::TruncateSuffix as u8;
                    let index = write.truncate_from.unwrap_or_default().get();
                    self.record(lsn, &RecordHeader { code, index, ..header }, &[]);
                }
                Part::Run(range) => {
                    let is_in_pieces = |index| write.is_in_pieces(index);
                    let entries = &write.entries[range.clone()];
                    let kind = RecordType::EntryRun;
                    self.run(cursor, kind, header, (entries, &is_in_pieces), locations);
                }
                Part::Compact(payload) => {
                    let base = write.compact.as_ref().map(|compaction| &compaction.base);
                    let (index, term) = base.map(|b| (b.index, b.term)).unwrap_or_default();
                    self.base(lsn, RecordType::Compact, header, (index, term), payload);
                }
            }
        }
        self.sum();
    }

    /// Builds a frame of entries that the log holds elsewhere; returns where they lie now.
    pub(crate) fn encode_copies(&mut self, cursor: &Cursor, copies: &[Copies]) -> Vec<Location> {
        let record_bytes = |copies: &Copies| {
            let entries = copies.entries.iter();
            let items = entries.map(|entry| item_bytes(entry.payload.len() as u64));
            RECORD_HEADER_BYTES as u64 + items.sum::<u64>()
        };
        self.begin(copies.iter().map(record_bytes).sum());
        let mut locations = Vec::new();
        for copies in copies {
            let header = RecordHeader {
                bytes: record_bytes(copies) as u32,
                code: 0,
                flags: if copies.fetched { FLAG_FETCHED } else { 0 },
                count: 0,
                group: copies.group,
                incarnation: copies.incarnation,
                index: 0,
                term: 0,
                payload_bytes: 0,
            };
            let is_in_pieces = |_| copies.in_pieces;
            let entries = (copies.entries.as_slice(), &is_in_pieces as &dyn Fn(LogIndex) -> bool);
            self.run(cursor, RecordType::Rewrite, header, entries, &mut locations);
        }
        self.finish(cursor);
        locations
    }

    /// Builds a frame of one piece of a large entry.
    pub(crate) fn encode_piece(
        &mut self,
        cursor: &Cursor,
        (group, incarnation): (GroupId, GroupIncarnation),
        payload: &Bytes,
    ) -> Piece {
        self.begin(RECORD_HEADER_BYTES as u64 + payload.len() as u64 + ALIGNMENT);
        self.note(RecordType::Piece as u8);
        let bytes = (RECORD_HEADER_BYTES as u64) + payload.len() as u64;
        let header = RecordHeader {
            bytes: bytes.next_multiple_of(ALIGNMENT) as u32,
            code: RecordType::Piece as u8,
            flags: 0,
            count: 0,
            group,
            incarnation,
            index: 0,
            term: 0,
            payload_bytes: payload.len() as u32,
        };
        self.push(&header.encode(cursor.end(), payload));
        let length = payload.len() as u64;
        let location = Location::new(cursor.slot, cursor.offset + self.bytes, length);
        self.push(payload);
        self.pad(ALIGNMENT);
        self.finish(cursor);
        Piece::new(location, payload)
    }

    /// Builds a frame that carries nothing but its promise.
    pub(crate) fn encode_marker(&mut self, cursor: &Cursor, flags: u8) {
        self.begin(RECORD_HEADER_BYTES as u64);
        let header = RecordHeader {
            bytes: RECORD_HEADER_BYTES as u32,
            code: RecordType::SyncMarker as u8,
            flags,
            count: 0,
            group: Default::default(),
            incarnation: Default::default(),
            index: 0,
            term: 0,
            payload_bytes: 0,
        };
        self.record(cursor.end(), &header, &[]);
        self.finish(cursor);
    }

    /// Bytes of the body of the finished frame.
    pub(crate) fn content_bytes(&self) -> u64 {
        self.content_bytes
    }

    /// Bytes of the finished frame.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The finished frame, for one vectored write.
    pub(crate) fn parts(&self) -> Vec<IoSlice<'_>> {
        let mut parts = Vec::with_capacity(2 * self.references.len() + 1);
        self.for_each_part((0, 0), |part| parts.push(IoSlice::new(part)));
        parts
    }

    /// Drops what the frame holds of the caller's payloads.
    pub(crate) fn release(&mut self) {
        self.references.clear();
        // One huge batch must not keep its memory for the life of the log.
        self.buffer.shrink(BUFFER_KEPT_MAX);
    }

    /// Begins a frame with a body of about so many bytes.
    pub(crate) fn begin(&mut self, body_bytes: u64) {
        // A block more, so that the first addition need not grow it.
        let room = frame_bytes(body_bytes).min(BUFFER_ROOM_MAX) + BLOCK_BYTES;
        self.buffer.restart(room as usize);
        self.references.clear();
        self.unsummed.clear();
        self.buffer.push_zeros(FRAME_HEADER_BYTES);
        self.bytes = FRAME_HEADER_BYTES as u64;
        self.records = 0;
        self.holds = Holds::Nothing;
        self.body_crc = 0;
        self.summed = (FRAME_HEADER_BYTES, 0);
    }

    /// Bytes of the body so far.
    pub(crate) fn body_bytes(&self) -> u64 {
        self.bytes - FRAME_HEADER_BYTES as u64
    }

    fn grow(&mut self, body_bytes: u64) {
        // With what fills the last block.
        self.buffer.grow((body_bytes.min(BUFFER_ROOM_MAX) + BLOCK_BYTES) as usize);
    }

    fn note(&mut self, code: u8) {
        self.holds = match RecordType::from_code(code) {
            Some(RecordType::SyncMarker) => self.holds,
            Some(kind) if kind.is_stance() => Holds::Stance,
            _ if self.holds == Holds::Stance => Holds::Stance,
            _ => Holds::Content,
        };
        self.records += 1;
    }

    fn base(
        &mut self,
        lsn: Lsn,
        kind: RecordType,
        header: RecordHeader,
        (index, term): (LogIndex, Term),
        payload: &[u8],
    ) {
        let header = RecordHeader {
            code: kind as u8,
            index: index.get(),
            term: term.get(),
            payload_bytes: payload.len() as u32,
            ..header
        };
        self.record(lsn, &header, payload);
    }

    fn record(&mut self, lsn: Lsn, header: &RecordHeader, payload: &[u8]) {
        self.note(header.code);
        self.push(&header.encode(lsn, payload));
        self.push(payload);
        self.pad(ALIGNMENT);
    }

    fn run(
        &mut self,
        cursor: &Cursor,
        kind: RecordType,
        header: RecordHeader,
        (entries, is_in_pieces): (&[Entry], &dyn Fn(LogIndex) -> bool),
        locations: &mut Vec<Location>,
    ) {
        let Some(first) = entries.first() else { return };
        self.note(kind as u8);
        let header = RecordHeader {
            code: kind as u8,
            count: entries.len() as u16,
            index: first.index.get(),
            term: first.term.get(),
            payload_bytes: header.bytes - RECORD_HEADER_BYTES as u32,
            ..header
        };
        self.push(&header.encode(cursor.end(), &[]));
        for entry in entries {
            let length = entry.payload.len() as u64;
            locations.push(Location::new(cursor.slot, cursor.offset + self.bytes, length));
            let name = EntryName {
                group: header.group,
                incarnation: header.incarnation,
                index: entry.index,
                term: entry.term,
            };
            let in_pieces = if is_in_pieces(entry.index) { IN_PIECES } else { 0 };
            let kind = entry.kind.code() | in_pieces;
            let payload_bytes = length as u32;
            if entry.payload.len() >= REFERENCE_BYTES_MIN {
                let crc = name.entry_crc(kind, entry.time, &entry.payload);
                self.push(&ItemHeader { payload_bytes, crc, kind, time: entry.time }.encode());
                let at = self.buffer.len();
                self.references.push(Reference { at, payload: entry.payload.clone() });
                self.bytes += length;
            } else {
                let (at, time) = (self.buffer.len(), entry.time);
                self.unsummed.push(Unsummed { at, name, kind, time, payload_bytes });
                self.push(&[0; ITEM_HEADER_BYTES]);
                self.push(&entry.payload);
            }
            self.pad(ALIGNMENT);
        }
    }

    /// Gives entries their sums, and takes what was added into that of the body.
    fn sum(&mut self) {
        let content = self.buffer.content_mut();
        for Unsummed { at, name, kind, time, payload_bytes } in self.unsummed.drain(..) {
            let begin = at + ITEM_HEADER_BYTES;
            let crc = name.entry_crc(kind, time, &content[begin..begin + payload_bytes as usize]);
            put(content, at, &ItemHeader { payload_bytes, crc, kind, time }.encode());
        }
        let mut crc = self.body_crc;
        self.for_each_part(self.summed, |part| crc = crc32c_append(crc, part));
        self.body_crc = crc;
        self.summed = (self.buffer.len(), self.references.len());
    }

    /// Gives the frame its header, and fills its last block.
    pub(crate) fn finish(&mut self, cursor: &Cursor) {
        let body_bytes = self.body_bytes();
        self.content_bytes = body_bytes;
        self.sum();
        let header = FrameHeader {
            version: FRAME_VERSION,
            flags: 0,
            lsn: cursor.end(),
            synced: cursor.synced,
            seg_seq: cursor.seq as u32,
            records: self.records,
            body_bytes: body_bytes as u32,
            prev_crc: cursor.chain,
            body_crc: self.body_crc,
            incarnation: cursor.incarnation,
            stance_back: stance_back(cursor.end(), cursor.stance),
        };
        let (block, crc) = header.encode(cursor.seed);
        put(self.buffer.content_mut(), 0, &block);
        self.crc = crc;
        self.pad_to(frame_bytes(body_bytes));
    }

    /// Visits what lies behind so much of the buffer, and behind so many references.
    fn for_each_part<'a>(
        &'a self,
        (from, references): (usize, usize),
        mut visit: impl FnMut(&'a [u8]),
    ) {
        let mut done = from;
        let content = self.buffer.content();
        for reference in &self.references[references..] {
            let range: Range<usize> = done..reference.at;
            visit(&content[range]);
            visit(&reference.payload);
            done = reference.at;
        }
        visit(&content[done..]);
    }

    fn push(&mut self, bytes: &[u8]) {
        self.buffer.push(bytes);
        self.bytes += bytes.len() as u64;
    }

    fn pad(&mut self, alignment: u64) {
        self.pad_to(self.bytes.next_multiple_of(alignment));
    }

    fn pad_to(&mut self, bytes: u64) {
        if bytes > self.bytes {
            self.buffer.push_zeros((bytes - self.bytes) as usize);
            self.bytes = bytes;
        }
    }
}

/// A payload of at least this many bytes is written from where it lies. A direct write takes
/// whole blocks in memory: with such a part among others all of the frame is copied into some,
/// so a reference is worth its while only where it is most of the frame.
const REFERENCE_BYTES_MIN: usize = 64 << 10;
/// Payloads come from memory that the processor does not hold. Copies of several are fetched at once,
/// sums one after the other; so so many bytes are copied first, and then summed where they are at hand.
const HOT_BYTES: usize = 16 << 10;
/// Room that is made before anything is known of payloads that are not copied.
const BUFFER_ROOM_MAX: u64 = 8 << 20;
const BUFFER_KEPT_MAX: usize = 16 << 20;
