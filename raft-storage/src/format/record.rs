//! Records: what a frame is made of.
//!
//! A record is a 40-byte header, a payload and zeros up to a multiple of 8. Entries of one group
//! and one term travel together in an *entry run*: one header, then per entry 16 bytes and its
//! payload. The 16 bytes lie right before the payload, so that the place of an entry is all the
//! index has to know: one read brings length, checksum, time, kind and payload.

use raft_core::{EntryKind, GroupId, GroupIncarnation, LogIndex, LogTime, Term};

use crate::format::checksum::{crc32c, crc32c_append};
use crate::format::field::{put, u16_at, u32_at, u64_at};
use crate::format::lsn::Lsn;
use crate::format::pieces::IN_PIECES;

/// What a record says. Numbers are for ever; those never written yet are reserved.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub(crate) enum RecordType {
    /// Entries of one group and term, with consecutive indexes.
    EntryRun = 2,
    /// Term and vote of a group.
    HardState = 3,
    /// All entries from an index on are gone.
    TruncateSuffix = 4,
    /// The log begins after an index: everything up to there is forgotten.
    Compact = 5,
    /// The whole log is forgotten and goes on after an installed snapshot.
    Install = 6,
    /// A group begins; its payload is its description.
    GroupCreate = 8,
    /// A group is gone; its payload says which replica it was, as it may never come back.
    Destroy = 9,
    /// Entries that the log holds already, copied here: this is their place from now on.
    Rewrite = 10,
    /// Nothing: its frame carries the promise that what came before is durable.
    SyncMarker = 12,
    /// What is known of lost promises.
    Promise = 13,
    /// A piece of the payload of a large entry, which comes later.
    Piece = 14,
    /// Entries of a snapshot that is on its way here. They are not part of the log.
    Fetched = 15,
    /// Those entries are not wanted any more.
    DropFetched = 16,
}

impl RecordType {
    /// Reserved and not written so far: 1 Entry, 7 InlineSnapshot, 11 Checkpoint.
    pub(crate) const fn from_code(code: u8) -> Option<Self> {
        match code {
            2 => Some(Self::EntryRun),
            3 => Some(Self::HardState),
            4 => Some(Self::TruncateSuffix),
            5 => Some(Self::Compact),
            6 => Some(Self::Install),
            8 => Some(Self::GroupCreate),
            9 => Some(Self::Destroy),
            10 => Some(Self::Rewrite),
            12 => Some(Self::SyncMarker),
            13 => Some(Self::Promise),
            14 => Some(Self::Piece),
            15 => Some(Self::Fetched),
            16 => Some(Self::DropFetched),
            _ => None,
        }
    }

    /// Whether it changes what a replica stands by: that it is there, its term, its vote, its promises.
    pub(crate) const fn is_stance(self) -> bool {
        match self {
            Self::HardState | Self::GroupCreate | Self::Destroy | Self::Promise => true,
            Self::EntryRun
            | Self::TruncateSuffix
            | Self::Compact
            | Self::Install
            | Self::Rewrite
            | Self::SyncMarker
            | Self::Piece
            | Self::Fetched
            | Self::DropFetched => false,
        }
    }

    /// As `docs/FORMATS.md` calls it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::EntryRun => "EntryRun",
            Self::HardState => "HardState",
            Self::TruncateSuffix => "TruncateSuffix",
            Self::Compact => "Compact",
            Self::Install => "Install",
            Self::GroupCreate => "GroupCreate",
            Self::Destroy => "Destroy",
            Self::Rewrite => "Rewrite",
            Self::SyncMarker => "SyncMarker",
            Self::Promise => "Promise",
            Self::Piece => "Piece",
            Self::Fetched => "Fetched",
            Self::DropFetched => "DropFetched",
        }
    }

    /// Whether the payload is entries, which have checksums of their own.
    pub(crate) const fn holds_entries(self) -> bool {
        matches!(self, Self::EntryRun | Self::Rewrite | Self::Fetched)
    }
}

/// The header of a record. See `docs/FORMATS.md` for the layout.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct RecordHeader {
    /// Header, payload and padding: where the next record begins.
    pub(crate) bytes: u32,
    /// A [`RecordType`], as a number since a newer version may have written another one.
    pub(crate) code: u8,
    /// [`FLAG_VOTE`], [`FLAG_CLEAN`], [`FLAG_LOST`], [`FLAG_DAMAGED`] or [`FLAG_FETCHED`].
    pub(crate) flags: u8,
    /// How many entries a run has; zero for other types.
    pub(crate) count: u16,
    pub(crate) group: GroupId,
    pub(crate) incarnation: GroupIncarnation,
    /// First index of a run or of a truncation; the vote of a hard state or of a
    /// group that is gone; the base of a log; the
    /// loss epoch of a promise.
    pub(crate) index: u64,
    /// Of a run or hard state, or at the base of a log.
    pub(crate) term: u64,
    /// Bytes after the header without the last padding.
    pub(crate) payload_bytes: u32,
}

impl RecordHeader {
    /// The header as bytes. `payload` is covered by the checksum; a run passes nothing here,
    /// since each of its entries has a checksum of its own.
    pub(crate) fn encode(&self, frame: Lsn, payload: &[u8]) -> [u8; RECORD_HEADER_BYTES] {
        let mut block = [0; RECORD_HEADER_BYTES];
        put(&mut block, 0, &self.bytes.to_le_bytes());
        put(&mut block, 4, &[self.code, self.flags]);
        put(&mut block, 6, &self.count.to_le_bytes());
        put(&mut block, 8, &self.group.get().to_le_bytes());
        put(&mut block, 12, &self.incarnation.get().to_le_bytes());
        put(&mut block, 16, &self.index.to_le_bytes());
        put(&mut block, 24, &self.term.to_le_bytes());
        put(&mut block, 32, &self.payload_bytes.to_le_bytes());
        let sum = record_crc(frame, &block, payload);
        put(&mut block, RECORD_CRC_AT, &sum.to_le_bytes());
        block
    }

    /// Reads the header; the checksum is checked by [`Self::matches`] once the payload is known.
    pub(crate) fn decode(block: &[u8]) -> Self {
        Self {
            bytes: u32_at(block, 0),
            code: block[4],
            flags: block[5],
            count: u16_at(block, 6),
            group: GroupId::new(u32_at(block, 8)),
            incarnation: GroupIncarnation::new(u32_at(block, 12)),
            index: u64_at(block, 16),
            term: u64_at(block, 24),
            payload_bytes: u32_at(block, 32),
        }
    }

    /// Whether the bytes of this header and `payload` meet their checksum.
    pub(crate) fn matches(block: &[u8], frame: Lsn, payload: &[u8]) -> bool {
        u32_at(block, RECORD_CRC_AT) == record_crc(frame, block, payload)
    }
}

/// The 16 bytes before the payload of an entry.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct ItemHeader {
    pub(crate) payload_bytes: u32,
    pub(crate) crc: u32,
    /// An [`EntryKind`], as a number since a newer version may have written another one.
    pub(crate) kind: u8,
    pub(crate) time: LogTime,
}

impl ItemHeader {
    pub(crate) fn encode(&self) -> [u8; ITEM_HEADER_BYTES] {
        let mut block = [0; ITEM_HEADER_BYTES];
        put(&mut block, 0, &self.payload_bytes.to_le_bytes());
        put(&mut block, 4, &self.crc.to_le_bytes());
        put(&mut block, 8, &pack_time(self.kind, self.time).to_le_bytes());
        block
    }

    pub(crate) fn decode(block: &[u8]) -> Self {
        let packed = u64_at(block, 8);
        Self {
            payload_bytes: u32_at(block, 0),
            crc: u32_at(block, 4),
            kind: (packed >> TIME_BITS) as u8,
            time: LogTime::new(packed & TIME_MAX),
        }
    }
}

/// What an entry is, beside its payload; the checksum of an entry covers it, so that a wrong
/// place never yields the right bytes of another entry.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EntryName {
    pub(crate) group: GroupId,
    pub(crate) incarnation: GroupIncarnation,
    pub(crate) index: LogIndex,
    pub(crate) term: Term,
}

impl EntryName {
    /// The checksum of an entry: its payload first, so that a sum taken of the payload alone,
    /// elsewhere, could be carried on without reading it again.
    pub(crate) fn entry_crc(&self, kind: u8, time: LogTime, payload: &[u8]) -> u32 {
        let mut name = [0; 32];
        put(&mut name, 0, &self.group.get().to_le_bytes());
        put(&mut name, 4, &self.incarnation.get().to_le_bytes());
        put(&mut name, 8, &self.index.get().to_le_bytes());
        put(&mut name, 16, &self.term.get().to_le_bytes());
        put(&mut name, 24, &pack_time(kind, time).to_le_bytes());
        crc32c_append(crc32c(payload), &name)
    }
}

/// The bytes of an entry in a run: header, payload, padding.
pub(crate) const fn item_bytes(payload_bytes: u64) -> u64 {
    ITEM_HEADER_BYTES as u64 + payload_bytes.next_multiple_of(ALIGNMENT)
}

/// Reads a kind of entry that some version has written, and whether its payload is in pieces. Only
/// that of a command may be.
pub(crate) fn entry_kind(code: u8) -> Option<(EntryKind, bool)> {
    let is_in_pieces = code & IN_PIECES != 0;
    let kind = EntryKind::from_code(code & !IN_PIECES)?;
    (!is_in_pieces || kind == EntryKind::Command).then_some((kind, is_in_pieces))
}

fn record_crc(frame: Lsn, block: &[u8], payload: &[u8]) -> u32 {
    crc32c_append(crc32c_append(frame.get() as u32, &block[..RECORD_CRC_AT]), payload)
}

fn pack_time(kind: u8, time: LogTime) -> u64 {
    debug_assert!(time.get() <= TIME_MAX, "the writer refuses such times");
    (u64::from(kind) << TIME_BITS) | (time.get() & TIME_MAX)
}

pub(crate) const RECORD_HEADER_BYTES: usize = 40;
pub(crate) const ITEM_HEADER_BYTES: usize = 16;
/// Records and entries begin at multiples of this.
pub(crate) const ALIGNMENT: u64 = 8;
/// Of a hard state: there is a vote.
pub(crate) const FLAG_VOTE: u8 = 1;
/// Of a sync marker: the log was closed in order.
pub(crate) const FLAG_CLEAN: u8 = 1;
/// Of a promise record: promises may be lost.
pub(crate) const FLAG_LOST: u8 = 1;
/// Of a promise record: promises may be lost, memberships included.
pub(crate) const FLAG_DAMAGED: u8 = 2;
/// Of a promise record: term and vote may be lost as well.
pub(crate) const FLAG_UNPROVEN: u8 = 4;
/// Of entries written again: they are some that were fetched.
pub(crate) const FLAG_FETCHED: u8 = 1;
/// The latest time an entry can carry: 56 bits of milliseconds, two million years.
pub(crate) const TIME_MAX: u64 = (1 << TIME_BITS) - 1;
const TIME_BITS: u32 = 56;
const RECORD_CRC_AT: usize = 36;

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn record_header_has_its_golden_bytes() {
        let header = RecordHeader {
            bytes: 64,
            code: RecordType::EntryRun as u8,
            flags: 0,
            count: 1,
            group: GroupId::new(7),
            incarnation: GroupIncarnation::new(2),
            index: 11,
            term: 5,
            payload_bytes: 19,
        };
        let block = header.encode(Lsn::new(0x3000), &[]);
        assert_eq!(
            hex(&block),
            concat!(
                "400000000200010007000000020000000b000000000000000500000000000000",
                "130000002f6316ef",
            )
        );
        assert_eq!(RecordHeader::decode(&block), header);
        assert!(RecordHeader::matches(&block, Lsn::new(0x3000), &[]));
        assert!(!RecordHeader::matches(&block, Lsn::new(0x4000), &[]));
    }

    #[test]
    fn entry_item_has_its_golden_bytes() {
        let name = EntryName {
            group: GroupId::new(7),
            incarnation: GroupIncarnation::new(2),
            index: LogIndex::new(11),
            term: Term::new(5),
        };
        let (kind, time) = (EntryKind::Command.code(), LogTime::new(0x0102_0304_0506));
        let item =
            ItemHeader { payload_bytes: 3, crc: name.entry_crc(kind, time, b"abc"), kind, time };
        assert_eq!(hex(&item.encode()), "03000000b5c6f5420605040302010001");
        assert_eq!(ItemHeader::decode(&item.encode()), item);
    }

    #[test]
    fn types_read_back_as_written_and_reserved_ones_are_unknown() {
        let known: Vec<u8> =
            (0..=u8::MAX).filter(|c| RecordType::from_code(*c).is_some()).collect();
        assert_eq!(known, [2, 3, 4, 5, 6, 8, 9, 10, 12, 13, 14, 15, 16]);
        for code in known {
            assert_eq!(RecordType::from_code(code).map(|kind| kind as u8), Some(code));
        }
    }
}
