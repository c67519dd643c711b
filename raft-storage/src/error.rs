//! What can go wrong with a log, and whose fault it is.

#![allow(missing_docs, reason = "the message of a variant says what its fields are")]

use std::io;

use raft_core::{GroupId, GroupIncarnation, LogIndex, LogTime, MembershipError, NodeId, Term};

use crate::disk::is_out_of_descriptors;
use crate::disk::readings::is_unreadable;
use crate::format::identity::{Identity, StoreId};
use crate::format::lsn::Lsn;

/// Why an append or a sync was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// The caller's fault; the log is unchanged.
    #[error("group {group} was never created in this log")]
    UnknownGroup { group: GroupId },
    /// The caller's fault; the log is unchanged.
    #[error("group {group} exists with incarnation {incarnation}, asked for {asked}")]
    GroupExists { group: GroupId, incarnation: GroupIncarnation, asked: GroupIncarnation },
    /// The caller's fault; the log is unchanged.
    #[error("group {group}: the next entry is {expected}, got {got}")]
    Gap { group: GroupId, expected: LogIndex, got: LogIndex },
    /// The caller's fault; the log is unchanged.
    #[error("group {group}: cannot truncate from {from}, the log begins at {first}")]
    TruncateBelowFirst { group: GroupId, from: LogIndex, first: LogIndex },
    /// The caller's fault; the log is unchanged.
    #[error("group {group}: the log begins at {first}, it cannot begin after {base}")]
    BeginsEarlier { group: GroupId, base: LogIndex, first: LogIndex },
    /// The caller's fault; the log is unchanged.
    #[error("group {group}: cannot compact up to {base}, the log ends at {last}")]
    CompactBeyondLast { group: GroupId, base: LogIndex, last: LogIndex },
    /// The caller's fault; the log is unchanged.
    #[error("group {group}: entry {index} has {bytes} bytes, the limit is {bytes_max}")]
    EntryTooLarge { group: GroupId, index: LogIndex, bytes: u64, bytes_max: u64 },
    /// The caller's fault; the log is unchanged: it could not be opened again.
    #[error("group {group}: entry {index} is to be a membership, and is none")]
    NotAMembership { group: GroupId, index: LogIndex, source: MembershipError },
    /// The caller's fault; the log is unchanged.
    #[error("group {group}: its description has {bytes} bytes, the limit is {bytes_max}")]
    SpecTooLarge { group: GroupId, bytes: u64, bytes_max: u64 },
    /// The caller's fault; the log is unchanged. Times have 56 bits on disk.
    #[error("group {group}: entry {index} has the impossible time {time} ms")]
    TimeOutOfRange { group: GroupId, index: LogIndex, time: LogTime },
    /// The caller's fault; the log is unchanged: what is named as staying is not there to stay.
    #[error("group {group}: entry {index} of term {term} is to stay, and is not held")]
    LiveMissing { group: GroupId, index: LogIndex, term: Term },
    /// The caller's fault; the log is unchanged.
    #[error(
        "group {group}: the names of the entries that are to stay take {bytes} bytes, the limit is {bytes_max}"
    )]
    LiveTooMany { group: GroupId, bytes: u64, bytes_max: u64 },
    /// The caller's fault; the log is unchanged: only commands are fetched.
    #[error("group {group}: entry {index} cannot be kept beside the log")]
    NotFetchable { group: GroupId, index: LogIndex },
    /// This store writes entries whole; the log is unchanged.
    #[error("this log writes entries whole")]
    NoPieces,
    /// The caller's fault; nothing of this call is in the log. One that writes by itself waits until all
    /// flights have landed.
    #[error("{flights} flights have departed and not landed")]
    UnderWay { flights: usize },
    /// No new segment could be made, most likely because the disk is full. The log is
    /// unchanged, however many frames the append would have taken, and the same append may be
    /// tried again.
    #[error("cannot prepare another segment")]
    NoSegment { source: io::Error },
    /// A write or sync failed. Nothing since the last sync may be acknowledged, and the writer
    /// accepts nothing more: reopen, in a new process.
    #[error("{op} failed")]
    Io { op: DiskOp, source: io::Error },
    /// An earlier write or sync failed. Reopen, in a new process.
    #[error("the log is poisoned: an earlier {op} failed ({kind})")]
    Poisoned { op: DiskOp, kind: io::ErrorKind },
}

/// Which operation failed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum DiskOp {
    /// Writing a frame or a segment header.
    Write,
    /// Making written bytes durable.
    Sync,
    /// Both by one call: what is on the disk is as unknown as after a failed sync.
    Commit,
}

impl std::fmt::Display for DiskOp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Write => "write",
            Self::Sync => "sync",
            Self::Commit => "synced write",
        })
    }
}

/// Why a data directory was not made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InitError {
    /// The directory belongs to a node already; nothing was changed. Whose it is, unless the file that
    /// says so is damaged.
    #[error("{dir} is initialised already{}", whose(owner.as_ref()))]
    AlreadyInitialised { dir: String, owner: Option<Identity> },
    /// The directory holds foreign files; nothing was changed.
    #[error("{dir} is not empty: it holds {found}")]
    NotEmpty { dir: String, found: String },
    /// The name of a cluster has 1 to 255 bytes.
    #[error("the name of the cluster has {bytes} bytes, allowed are 1 to 255")]
    ClusterName { bytes: usize },
    /// Another process is working in the directory.
    #[error("{dir} is in use by another process")]
    Locked { dir: String },
    /// The operating system gave no random number for the store id.
    #[error("no randomness from the operating system: {reason}")]
    Randomness { reason: String },
    /// The file system refused; the directory is not initialised.
    #[error("cannot initialise {dir}")]
    Io { dir: String, source: io::Error },
}

fn whose(owner: Option<&Identity>) -> String {
    owner.map_or_else(String::new, |Identity { node, cluster, .. }| {
        format!(": it belongs to node {node} of cluster {cluster:?}")
    })
}

/// Why a log was not opened. Nothing was changed, unless said otherwise.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// There is no data directory here; `init` makes one, opening never does.
    #[error("{dir} is not a data directory; run `init` to make one")]
    NotInitialised { dir: String },
    /// Another log has the directory open.
    #[error("{dir} is in use by another process")]
    Locked { dir: String },
    /// The directory belongs to another cluster.
    #[error("{dir} belongs to cluster {found:?}, expected {expected:?}")]
    ForeignCluster { dir: String, expected: String, found: String },
    /// The directory belongs to another node.
    #[error("{dir} belongs to node {found}, expected {expected}")]
    ForeignNode { dir: String, expected: NodeId, found: NodeId },
    /// A segment was made by another store and copied here.
    #[error("segment {segment} belongs to store {found}, expected {expected}")]
    ForeignSegment { segment: u32, expected: StoreId, found: StoreId },
    /// One of the two small files that say who the store is cannot be read as such.
    #[error("{dir}: file {name} is damaged")]
    IdentityDamaged { dir: String, name: &'static str },
    /// A newer version wrote this. Use that version.
    #[error("segment {segment}, offset {offset}: unsupported {what} {value}")]
    Unsupported { segment: u32, offset: u64, what: Unsupported, value: u64 },
    /// Another version wrote this checkpoint, `checkpoint-` and the number. Use that version.
    #[error("checkpoint-{file}: unsupported checkpoint format {format}")]
    UnsupportedCheckpoint { file: usize, format: u32 },
    /// Bytes that were durable have changed or are gone. The promises made on them may be lost:
    /// never cut silently, left to the operator.
    #[error("segment {segment} is damaged at offset {offset}: {why}")]
    Corrupt {
        /// The number in the name of the file.
        segment: u32,
        /// Where in the file.
        offset: u64,
        /// Where in the log, if that is known.
        lsn: Option<Lsn>,
        /// The groups that lost something; `None` if it could be any.
        groups: Option<Vec<GroupId>>,
        /// What is wrong.
        why: Damage,
    },
    /// A setting is out of its range.
    #[error(
        "segment_bytes is {segment_bytes}: allowed are multiples of 4096 from 16 KiB to 64 MiB"
    )]
    SegmentBytes { segment_bytes: u64 },
    /// The disk cannot read what a log is opened by: more than a MiB of it, or nothing at all. That is
    /// no damage to the log but the disk, or the way to it; nothing was judged.
    #[error("{dir}: the disk cannot be read ({blocks} blocks of 4 KiB were refused)")]
    DiskUnreadable { dir: String, blocks: u64, source: io::Error },
    /// The file system refused.
    #[error("cannot open {dir}")]
    Io { dir: String, source: io::Error },
}

/// A part of the format that this version does not know.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Unsupported {
    /// The format number of a segment.
    #[error("segment format")]
    SegmentFormat,
    /// The version number of a frame.
    #[error("frame version")]
    FrameVersion,
    /// A flag of a frame, for instance compression.
    #[error("frame flags")]
    FrameFlags,
    /// A flag of a record.
    #[error("record flags")]
    RecordFlags,
    /// A type of record, known by name or not.
    #[error("record type")]
    RecordType,
    /// A kind of entry.
    #[error("entry kind")]
    EntryKind,
}

/// What proves that a log is damaged.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Damage {
    /// The header of a segment with content does not match its checksum.
    #[error("the segment header does not match its checksum")]
    SegmentHeader,
    /// A segment is gone, or one is there twice.
    #[error("segment sequence {expected} is missing, found {found}")]
    SegmentSequence { expected: u64, found: u64 },
    /// A segment that the newest checkpoint needs is gone, or another one stands in its place.
    #[error("segment sequence {seq}, which the checkpoint lists, is not there")]
    SegmentMissing { seq: u64 },
    /// The frames before the place where a checkpoint ends are not those it was made after.
    #[error("the log up to the checkpoint is not the one it was made of")]
    CheckpointChain,
    /// A segment does not begin where the one before it ended.
    #[error("the segment does not continue the one before it")]
    SegmentChain,
    /// A file became shorter than its header says.
    #[error("the file has {bytes} bytes, its header says {expected}")]
    SegmentShort { bytes: u64, expected: u64 },
    /// No valid frame where `promised` says that everything below was durable.
    #[error("no valid frame ({fault}), although everything below {promised} was durable")]
    FrameLost { fault: FrameFault, promised: Lsn },
    /// The disk cannot read the frame at the end of the log: it may have been acknowledged, or be one that a
    /// crash has torn.
    #[error("the end of the log cannot be read, and may have been acknowledged")]
    EndUnreadable,
    /// The checksum of a frame holds, yet its content cannot be what this software writes.
    #[error("impossible record: {fault}")]
    Record { fault: RecordFault },
    /// The log ends before the position noted when it was opened last.
    #[error("the log ends at {end}, it once reached {promised}")]
    LogEndsEarly { end: Lsn, promised: Lsn },
    /// An entry is not what was written.
    #[error("entry {index} is not what was written")]
    Entry { index: LogIndex },
    /// Something was written by a later life of this node than the noted one.
    #[error("written in incarnation {found}, the last noted one is {stored}")]
    IncarnationAhead { found: u64, stored: u64 },
}

/// Why bytes are not the next frame of a log.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameFault {
    /// Nothing was written here.
    #[error("blank")]
    Blank,
    /// Not the beginning of a frame.
    #[error("magic number")]
    Magic,
    /// The header does not match its checksum.
    #[error("header checksum")]
    HeaderChecksum,
    /// A frame of another place or of an earlier use of the file.
    #[error("position")]
    Position,
    /// The frame before it is another one.
    #[error("chain")]
    Chain,
    /// It reaches beyond the end of the segment.
    #[error("length")]
    Length,
    /// The body does not match its checksum.
    #[error("body checksum")]
    BodyChecksum,
    /// The unused rest of its last block is not zero.
    #[error("padding")]
    Padding,
    /// The disk cannot read some of it.
    #[error("unreadable")]
    Unreadable,
}

/// Why the records of a frame make no sense.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordFault {
    /// A length does not fit.
    #[error("length")]
    Length,
    /// A record or entry does not match its own checksum.
    #[error("checksum")]
    Checksum,
    /// The frame has more or fewer records than its header says.
    #[error("record count")]
    Count,
    /// The group was never created, or is in another life.
    #[error("group")]
    Group,
    /// The entries do not follow the log of their group.
    #[error("entry index")]
    Index,
    /// The bytes of a membership are none.
    #[error("membership")]
    Membership,
}

/// Why entries cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The group was never created in this log.
    #[error("group {group} was never created in this log")]
    UnknownGroup { group: GroupId },
    /// The log holds `[first, last]` only; it may just have been truncated.
    #[error(
        "group {group}: asked for {asked_first} to {asked_last}, the log holds {first} to {last}"
    )]
    OutOfRange {
        group: GroupId,
        asked_first: LogIndex,
        asked_last: LogIndex,
        first: LogIndex,
        last: LogIndex,
    },
    /// The entry is neither in the log nor kept beside it.
    #[error("group {group}: entry {index} of term {term} is not held")]
    NotHeld { group: GroupId, index: LogIndex, term: Term },
    /// What is on disk is not what was written.
    #[error("group {group}: entry {index} in segment {segment} at {offset} is damaged")]
    Corrupt { group: GroupId, index: LogIndex, segment: u32, offset: u64 },
    /// The file system refused.
    #[error("group {group}: cannot read entry {index}")]
    Io { group: GroupId, index: LogIndex, source: io::Error },
}

impl ReadError {
    /// Whether something is wrong with the log, or with the disk beneath it: bytes that are not what was
    /// written, or that the disk cannot read ([`is_unreadable`]). The latter may pass.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Io { source, .. } => is_unreadable(source),
            Self::Corrupt { .. } => true,
            Self::UnknownGroup { .. } | Self::OutOfRange { .. } | Self::NotHeld { .. } => false,
        }
    }

    /// Whether a place was asked for and not given, for whatever reason that does not pass at once: to whoever
    /// reads the log that is damage once it has lasted.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Io { .. } | Self::Corrupt { .. }) && !self.is_passing()
    }

    /// Whether nothing is wrong with the log and the same read may be tried again: the process
    /// was out of file descriptors.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Io { source, .. } => is_out_of_descriptors(source),
            Self::UnknownGroup { .. }
            | Self::OutOfRange { .. }
            | Self::NotHeld { .. }
            | Self::Corrupt { .. } => false,
        }
    }
}
