//! What a group asks the log to make durable.

use std::sync::Arc;

use bytes::Bytes;
use raft_core::{
    Base, Entry, EntryKind, GroupId, GroupIncarnation, HardState, LogIndex, LogTime, PromiseRecord,
    SnapshotMeta, Tombstone,
};

use crate::format::live::LiveEntries;
use crate::format::pieces::{self, Piece};

/// One persist operation of one group. Its parts take effect in the order of the fields.
///
/// A batch may hold several operations of one group; they take effect in order.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct GroupWrite {
    /// Whose operation it is.
    pub group: GroupId,
    /// Makes the group known to the log, with an empty log and the default hard state.
    pub create: Option<GroupCreate>,
    /// What to remember of promises that may be lost.
    pub promise: Option<PromiseRecord>,
    /// The new term and vote, written as one record.
    pub hard_state: Option<HardState>,
    /// Forgets all entries that were [`fetched`](Self::fetched).
    pub drop_fetched: bool,
    /// Entries of a snapshot that is on its way here, in the order of their indexes, all of them
    /// commands. They are kept beside the log, for an [`install`](Self::install) that names them,
    /// which forgets the others.
    pub fetched: Vec<Entry>,
    /// Removes all entries: the log goes on right after this snapshot, which is durable elsewhere.
    pub install: Option<SnapshotMeta>,
    /// Removes all entries from this index on.
    pub truncate_from: Option<LogIndex>,
    /// Entries with consecutive indexes, the first one right after the last one in the log.
    pub entries: Vec<Entry>,
    /// Then forgets the beginning of the log, which a snapshot durable elsewhere covers.
    pub compact: Option<Compaction>,
    /// Which entries up to there [`install`](Self::install) and [`compact`](Self::compact) leave: they
    /// stay readable by index and term, and go when neither names them any more. Each must be held,
    /// in the log or as one that is kept or was fetched.
    pub live: Option<Arc<LiveEntries>>,
    /// Forgets the group with all its entries, and remembers this for good.
    pub destroy: Option<Tombstone>,
    /// Entries whose payload is in the log already: what they hold is a directory of it.
    pub(crate) in_pieces: Vec<LogIndex>,
}

impl GroupWrite {
    /// An operation that does nothing yet; set the fields it needs.
    pub const fn new(group: GroupId) -> Self {
        Self {
            group,
            create: None,
            promise: None,
            hard_state: None,
            drop_fetched: false,
            fetched: Vec::new(),
            install: None,
            truncate_from: None,
            entries: Vec::new(),
            compact: None,
            live: None,
            destroy: None,
            in_pieces: Vec::new(),
        }
    }

    /// Puts pieces that the log has written in place of the payload of an entry. The entry must be
    /// a command, and the pieces its payload, whole and in order.
    pub fn put_in_pieces(&mut self, index: LogIndex, payload: &[Piece]) {
        let entry = self.entries.iter_mut().find(|entry| entry.index == index);
        if let Some(entry) = entry.filter(|entry| entry.kind == EntryKind::Command) {
            entry.payload = pieces::encode(payload);
            self.in_pieces.push(index);
        }
    }

    /// Whether the payload of this entry is in pieces.
    pub fn is_in_pieces(&self, index: LogIndex) -> bool {
        self.in_pieces.contains(&index)
    }
}

impl GroupWrite {
    /// Whether something that the log holds of the group may be gone, or another, behind it.
    pub(crate) fn takes_away(&self) -> bool {
        self.create.is_some()
            || self.drop_fetched
            || !self.fetched.is_empty()
            || self.install.is_some()
            || self.truncate_from.is_some()
            || self.compact.is_some()
            || self.destroy.is_some()
    }

    /// Which entries up to an index stay.
    pub(crate) fn live_upto(&self, last: LogIndex) -> LiveEntries {
        self.live.as_ref().map(|live| live.upto(last)).unwrap_or_default()
    }

    /// About what it takes in memory and in the log, in bytes.
    pub fn cost(&self) -> u64 {
        let spec = self.create.as_ref().map_or(0, |create| create.spec.len() as u64);
        let entries = self.fetched.iter().chain(&self.entries);
        let names = self.live.as_ref().map_or(0, |live| live.cost());
        RECORDS_COST + spec + names + entries.map(Entry::cost).sum::<u64>()
    }

    /// Leaves the first so many entries, and what comes before them; returns the rest. Appended
    /// one after the other, the two do what the whole does, and a crash between them leaves a
    /// state the group could have asked for.
    #[must_use]
    pub fn split_off(&mut self, entries: usize) -> Self {
        Self {
            entries: self.entries.split_off(entries.min(self.entries.len())),
            // Whom it does not concern it does no harm.
            in_pieces: self.in_pieces.clone(),
            compact: self.compact.take(),
            live: self.live.clone(),
            destroy: self.destroy.take(),
            ..Self::new(self.group)
        }
    }
}

/// What the records beside the entries cost.
const RECORDS_COST: u64 = 128;

/// Where a log begins from now on.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Compaction {
    /// The last index that is forgotten, and what was in force there.
    pub base: Base,
    /// The time of the newest entry so far: none may remain to say it.
    pub time: LogTime,
}

/// How a group begins.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct GroupCreate {
    /// Which life of the group id this is. A larger number than that of an existing group
    /// replaces it and forgets its log; where the group was destroyed, the same number will do.
    pub incarnation: GroupIncarnation,
    /// What the group is, in the caller's own encoding; given back on recovery. At most
    /// [`SPEC_BYTES_MAX`].
    pub spec: Bytes,
}

/// The longest payload of one entry: 256 MiB. The engine's own cap lies below (64 MiB).
pub const ENTRY_BYTES_MAX: u64 = 256 << 20;

/// The longest description of a group: 1 MiB.
pub const SPEC_BYTES_MAX: u64 = 1 << 20;

/// Which entries are better written in pieces, and how long a piece may be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Large {
    /// The payload of a command of at least so many bytes.
    pub entry_bytes_min: u64,
    /// Bytes of a piece at most.
    pub piece_bytes_max: u64,
}

/// What an append has done.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct AppendInfo {
    /// Where the log ends now. Everything below is durable once `durable_lsn` reaches it.
    pub end_lsn: crate::Lsn,
    /// Bytes written, with headers and padding.
    pub bytes: u64,
    /// Frames written: one, unless the batch was larger than a frame may be.
    pub frames: u64,
    /// Of `bytes`, those in a segment that was needed before it was prepared: a sync of them waits
    /// for the file system as well.
    pub unprepared_bytes: u64,
}

/// What a sync has done.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct SyncInfo {
    /// Everything below is durable.
    pub durable_lsn: crate::Lsn,
}
