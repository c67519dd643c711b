//! What travels on a lane, and the header every frame begins with.
//!
//! ```text
//!   0        1       2       4        8          12            16       20       24
//!   +--------+-------+-------+--------+----------+-------------+--------+--------+------+----------+
//!   | version| kind  | flags | group  | body_len | payload_len | crc32c | crc32c | body | payloads |
//!   +--------+-------+-------+--------+----------+-------------+--------+--------+------+----------+
//! ```
//!
//! All numbers are little-endian. The first checksum covers bytes 0 to 16: a length is believed
//! before what it announces has come, and a damaged one would swallow all that follows. The second
//! covers bytes 0 to 16 and the body; each payload has its own in the body. `docs/FORMATS.md` has
//! the bodies byte by byte.

use bytes::Bytes;
use raft_core::{
    Entry, GroupId, GroupIncarnation, Heartbeat, HeartbeatReply, LogIndex, LogTime, NodeId,
    ReplicaId, Term,
};

use crate::wire::chunk::{CHUNK_BODY_MAX, Chunk, FLAG_ABANDONED, FLAG_FIRST, FLAG_LAST};
use crate::wire::envelope::Envelope;
use crate::wire::user::{FLAG_BULK, FLAG_DATA, FLAG_REPLACES, UserFrame, UserItem, UserKind};

/// The first byte of every frame.
pub const FRAME_VERSION: u8 = 0xF1;

/// Bytes before a frame's body.
pub const HEADER_LEN: usize = 24;

/// Largest body of any frame, in bytes.
pub const BODY_BYTES_MAX: u32 = 4 << 20;

/// Largest body of a batch, in bytes: larger batches travel as several frames. A full one holds
/// some 40,000 idle groups.
pub const BATCH_BODY_MAX: u32 = 256 << 10;

/// Most bytes of a snapshot in one frame: what a slow lane sends in an instant, so that whatever
/// shares it need not wait.
pub const SNAPSHOT_DATA_MAX: usize = 192 << 10;

/// Most entries in one append. With the smallest entries this is 4 MiB of
/// [`cost`](raft_core::Entry::cost), so an append capped at 1 MiB never comes near.
pub const APPEND_ENTRIES_MAX: u64 = 1 << 17;

/// What a frame takes beside what its length depends on, or less.
pub(crate) const BESIDE: u64 = 256;

/// What travels on a lane.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Frame {
    /// One message of one group.
    Message(Envelope),
    /// The scheduled heartbeats of many groups. Arrives sorted by group, and as several frames if
    /// it is very long.
    Heartbeats(Vec<HeartbeatItem>),
    /// Read confirmations of many groups, sent at once. Sorted and split as heartbeats are.
    ReadConfirms(Vec<HeartbeatItem>),
    /// The answers to both. Sorted and split as heartbeats are.
    HeartbeatReplies(Vec<HeartbeatReplyItem>),
    /// Send me a snapshot's bytes, from an offset on.
    SnapshotPull(SnapshotPull),
    /// The answer: some of its bytes, or that there are none.
    SnapshotChunk(SnapshotChunk),
    /// A message of the user's own protocol.
    User(UserFrame),
    /// What the user's own protocol says of many groups. Sorted and split as heartbeats are.
    UserItems(Vec<UserItem>),
    /// What the sender's wall clock shows. It comes before what it vouches for: answers to
    /// heartbeats and votes.
    Clock {
        /// Milliseconds since the Unix epoch; whatever a peer says, however absurd.
        wall: LogTime,
    },
    /// How the sender's log is. Said again and again while it ails, and once when it does no more:
    /// what is not repeated need not be so any longer.
    Condition(Condition),
    /// A piece of a long frame. Handled within the lane.
    Chunk(Chunk),
    /// The frame above a quarter of the window that was begun may go on, beside the window.
    /// Handled within the lane.
    Grant {
        /// How long it is, as its first chunk said.
        bytes: u64,
    },
    /// So many more bytes may be sent. Handled within the lane.
    Credit {
        /// How many.
        bytes: u64,
    },
    /// Are you there? Handled within the lane.
    Ping {
        /// Echoed by the answer.
        nonce: u64,
    },
    /// Yes. Handled within the lane.
    Pong {
        /// From the ping.
        nonce: u64,
    },
}

impl Frame {
    /// Whether the lane keeps it to itself.
    pub const fn is_of_the_lane(&self) -> bool {
        match self {
            Self::Chunk(_)
            | Self::Grant { .. }
            | Self::Credit { .. }
            | Self::Ping { .. }
            | Self::Pong { .. } => true,
            Self::Message(_)
            | Self::Heartbeats(_)
            | Self::ReadConfirms(_)
            | Self::HeartbeatReplies(_)
            | Self::SnapshotPull(_)
            | Self::SnapshotChunk(_)
            | Self::User(_)
            | Self::UserItems(_)
            | Self::Clock { .. }
            | Self::Condition(_) => false,
        }
    }

    /// At least how many bytes it takes, if it is one that goes in chunks; else zero.
    pub(crate) fn bytes_about(&self) -> u64 {
        match self {
            Self::Message(envelope) => {
                let entries: u64 = envelope.entries.iter().map(Entry::cost).sum();
                entries + BESIDE
            }
            Self::SnapshotChunk(chunk) => chunk.data.len() as u64 + BESIDE,
            Self::User(user) => user.bytes_about(),
            Self::UserItems(_)
            | Self::Heartbeats(_)
            | Self::ReadConfirms(_)
            | Self::HeartbeatReplies(_)
            | Self::SnapshotPull(_)
            | Self::Clock { .. }
            | Self::Condition(_)
            | Self::Chunk(_)
            | Self::Grant { .. }
            | Self::Credit { .. }
            | Self::Ping { .. }
            | Self::Pong { .. } => 0,
        }
    }

    /// Splits the last items off a batch; `None` if there are to be none.
    pub(crate) fn split_off_last(&mut self, count: usize) -> Option<Self> {
        fn last<T>(items: &mut Vec<T>, count: usize) -> Vec<T> {
            items.split_off(items.len().saturating_sub(count))
        }
        match self {
            _ if count == 0 => None,
            Self::Heartbeats(items) => Some(Self::Heartbeats(last(items, count))),
            Self::ReadConfirms(items) => Some(Self::ReadConfirms(last(items, count))),
            Self::HeartbeatReplies(items) => Some(Self::HeartbeatReplies(last(items, count))),
            Self::UserItems(items) => Some(Self::UserItems(last(items, count))),
            Self::Message(_)
            | Self::User(_)
            | Self::SnapshotPull(_)
            | Self::SnapshotChunk(_)
            | Self::Clock { .. }
            | Self::Condition(_)
            | Self::Chunk(_)
            | Self::Grant { .. }
            | Self::Credit { .. }
            | Self::Ping { .. }
            | Self::Pong { .. } => None,
        }
    }
}

/// How a node is, as far as others must know before they let it lead.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Condition {
    /// Nothing is known against it.
    #[default]
    Well,
    /// Its log hangs, may be about to, or did a moment ago: it is to lead nothing.
    Ailing,
}

impl Condition {
    /// The number on the wire.
    pub(crate) const fn code(self) -> u64 {
        match self {
            Self::Well => 0,
            Self::Ailing => 1,
        }
    }

    pub(crate) const fn from_code(code: u64) -> Option<Self> {
        match code {
            0 => Some(Self::Well),
            1 => Some(Self::Ailing),
            _ => None,
        }
    }
}

/// One group's part of a heartbeat or read confirmation batch.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct HeartbeatItem {
    /// The group.
    pub group: GroupId,
    /// Which life of the group.
    pub group_incarnation: GroupIncarnation,
    /// The leader's replica.
    pub from: ReplicaId,
    /// The follower's replica.
    pub to: ReplicaId,
    /// What a message of its own would have said.
    pub heartbeat: Heartbeat,
}

/// One group's part of a batch of answers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct HeartbeatReplyItem {
    /// The group.
    pub group: GroupId,
    /// Which life of the group.
    pub group_incarnation: GroupIncarnation,
    /// The follower's replica.
    pub from: ReplicaId,
    /// The leader's replica.
    pub to: ReplicaId,
    /// What a message of its own would have said.
    pub reply: HeartbeatReply,
}

/// A place in the bytes of a group's snapshot.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SnapshotPull {
    /// The group.
    pub group: GroupId,
    /// Which life of the group.
    pub group_incarnation: GroupIncarnation,
    /// The last index the snapshot covers.
    pub index: LogIndex,
    /// The term there.
    pub term: Term,
    /// How many of its bytes come before.
    pub offset: u64,
}

/// Bytes of a group's snapshot.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SnapshotChunk {
    /// From the question.
    pub place: SnapshotPull,
    /// The length of the whole snapshot; zero if there is none here.
    pub total: u64,
    /// A sum over all of its bytes: another one means other bytes.
    pub sum: u32,
    /// The bytes from the offset on, at most [`SNAPSHOT_DATA_MAX`]; fewer only at the end.
    pub data: Bytes,
}

/// The two nodes of a connection, as the one encoding or decoding sees them. A replica whose id
/// equals its node's costs no byte.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Ends {
    /// This node.
    pub local: NodeId,
    /// The other one.
    pub remote: NodeId,
}

/// The second byte of a frame.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[repr(u8)]
pub enum FrameKind {
    /// [`Message::PreVote`](raft_core::Message::PreVote).
    PreVote = 1,
    /// [`Message::PreVoteReply`](raft_core::Message::PreVoteReply).
    PreVoteReply = 2,
    /// [`Message::Vote`](raft_core::Message::Vote).
    Vote = 3,
    /// [`Message::VoteReply`](raft_core::Message::VoteReply).
    VoteReply = 4,
    /// [`Message::Append`](raft_core::Message::Append), the only kind with payloads.
    Append = 5,
    /// [`Message::AppendReply`](raft_core::Message::AppendReply).
    AppendReply = 6,
    /// [`Message::Heartbeat`](raft_core::Message::Heartbeat) on its own.
    Heartbeat = 7,
    /// [`Message::HeartbeatReply`](raft_core::Message::HeartbeatReply) on its own.
    HeartbeatReply = 8,
    /// [`Message::ReadConfirm`](raft_core::Message::ReadConfirm) on its own.
    ReadConfirm = 9,
    /// [`Message::TimeoutNow`](raft_core::Message::TimeoutNow).
    TimeoutNow = 10,
    /// [`Message::TransferRefused`](raft_core::Message::TransferRefused).
    TransferRefused = 11,
    /// [`Message::ReadIndex`](raft_core::Message::ReadIndex).
    ReadIndex = 12,
    /// [`Message::ReadIndexReply`](raft_core::Message::ReadIndexReply).
    ReadIndexReply = 13,
    /// [`Message::Snapshot`](raft_core::Message::Snapshot).
    Snapshot = 14,
    /// [`Message::Recover`](raft_core::Message::Recover).
    Recover = 15,
    /// [`Message::Fence`](raft_core::Message::Fence).
    Fence = 16,
    /// [`Frame::SnapshotPull`].
    SnapshotPull = 17,
    /// [`Frame::SnapshotChunk`].
    SnapshotChunk = 18,
    /// [`Frame::Heartbeats`].
    Heartbeats = 24,
    /// [`Frame::ReadConfirms`].
    ReadConfirms = 25,
    /// [`Frame::HeartbeatReplies`].
    HeartbeatReplies = 26,
    /// [`Frame::Clock`].
    Clock = 27,
    /// [`Frame::Condition`].
    Condition = 28,
    /// [`Frame::Credit`].
    Credit = 32,
    /// [`Frame::Ping`].
    Ping = 33,
    /// [`Frame::Pong`].
    Pong = 34,
    /// [`Frame::Chunk`].
    Chunk = 35,
    /// [`Frame::Grant`].
    Grant = 36,
    /// [`Frame::User`]: the first of the numbers from 64 to 95, which are the user's kinds.
    User = 64,
    /// [`Frame::UserItems`].
    UserItems = 96,
}

impl FrameKind {
    /// Every kind, for tables and tests.
    pub const ALL: [Self; 30] = [
        Self::PreVote,
        Self::PreVoteReply,
        Self::Vote,
        Self::VoteReply,
        Self::Append,
        Self::AppendReply,
        Self::Heartbeat,
        Self::HeartbeatReply,
        Self::ReadConfirm,
        Self::TimeoutNow,
        Self::TransferRefused,
        Self::ReadIndex,
        Self::ReadIndexReply,
        Self::Snapshot,
        Self::Recover,
        Self::Fence,
        Self::SnapshotPull,
        Self::SnapshotChunk,
        Self::Heartbeats,
        Self::ReadConfirms,
        Self::HeartbeatReplies,
        Self::Clock,
        Self::Condition,
        Self::Credit,
        Self::Ping,
        Self::Pong,
        Self::Chunk,
        Self::Grant,
        Self::User,
        Self::UserItems,
    ];

    /// The number on the wire.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The kind with this number, or `None` for one this version does not know.
    pub fn from_code(code: u8) -> Option<Self> {
        if UserKind::from_code(code).is_some() {
            return Some(Self::User);
        }
        Self::ALL.into_iter().find(|kind| kind.code() == code)
    }

    /// Whether the frame speaks for the one group its header names.
    pub(crate) const fn names_group(self) -> bool {
        match self {
            Self::PreVote
            | Self::PreVoteReply
            | Self::Vote
            | Self::VoteReply
            | Self::Append
            | Self::AppendReply
            | Self::Heartbeat
            | Self::HeartbeatReply
            | Self::ReadConfirm
            | Self::TimeoutNow
            | Self::TransferRefused
            | Self::ReadIndex
            | Self::ReadIndexReply
            | Self::Snapshot
            | Self::Recover
            | Self::Fence
            | Self::SnapshotPull
            | Self::SnapshotChunk
            | Self::User => true,
            Self::Heartbeats
            | Self::ReadConfirms
            | Self::HeartbeatReplies
            | Self::Clock
            | Self::Condition
            | Self::Credit
            | Self::Ping
            | Self::Pong
            | Self::Chunk
            | Self::Grant
            | Self::UserItems => false,
        }
    }

    /// Whether the frame speaks from one replica to another.
    pub(crate) const fn names_replicas(self) -> bool {
        match self {
            Self::SnapshotPull | Self::SnapshotChunk | Self::User => false,
            Self::PreVote
            | Self::PreVoteReply
            | Self::Vote
            | Self::VoteReply
            | Self::Append
            | Self::AppendReply
            | Self::Heartbeat
            | Self::HeartbeatReply
            | Self::ReadConfirm
            | Self::TimeoutNow
            | Self::TransferRefused
            | Self::ReadIndex
            | Self::ReadIndexReply
            | Self::Snapshot
            | Self::Recover
            | Self::Fence
            | Self::Heartbeats
            | Self::ReadConfirms
            | Self::HeartbeatReplies
            | Self::Clock
            | Self::Condition
            | Self::Credit
            | Self::Ping
            | Self::Pong
            | Self::Chunk
            | Self::Grant
            | Self::UserItems => self.names_group(),
        }
    }

    /// The flags a header of this kind may have.
    pub(crate) const fn flags(self) -> u16 {
        match self {
            Self::Chunk => FLAG_FIRST | FLAG_LAST | FLAG_ABANDONED,
            Self::User => FLAG_DATA | FLAG_BULK | FLAG_REPLACES,
            other if other.names_replicas() => FLAG_FROM | FLAG_TO,
            _ => 0,
        }
    }

    /// Largest body of this kind, in bytes.
    pub(crate) const fn body_max(self) -> u32 {
        match self {
            Self::Append | Self::User => BODY_BYTES_MAX,
            Self::Chunk => CHUNK_BODY_MAX,
            // A membership of the largest size takes about 1100 bytes.
            Self::Snapshot => 4096,
            Self::SnapshotChunk => SNAPSHOT_DATA_MAX as u32 + 256,
            Self::Heartbeats | Self::ReadConfirms | Self::HeartbeatReplies | Self::UserItems => {
                BATCH_BODY_MAX
            }
            Self::PreVote
            | Self::PreVoteReply
            | Self::Vote
            | Self::VoteReply
            | Self::AppendReply
            | Self::Heartbeat
            | Self::HeartbeatReply
            | Self::ReadConfirm
            | Self::TimeoutNow
            | Self::TransferRefused
            | Self::ReadIndex
            | Self::ReadIndexReply
            | Self::Recover
            | Self::Fence
            | Self::SnapshotPull
            | Self::Clock
            | Self::Condition
            | Self::Credit
            | Self::Ping
            | Self::Pong
            | Self::Grant => 256,
        }
    }
}

/// The body starts with the sender's replica id: it differs from its node's.
pub(crate) const FLAG_FROM: u16 = 1;
/// The receiver's replica id follows: it differs from its node's.
pub(crate) const FLAG_TO: u16 = 2;

/// What is wrong with a chunk.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ChunkFault {
    /// Another frame is under way there.
    #[error("another frame is open there")]
    AlreadyOpen,
    /// It goes on with a frame that never began.
    #[error("no frame is open there")]
    NotOpen,
    /// It does not begin where the one before has ended.
    #[error("it does not begin where the last one has ended")]
    Gap,
    /// The frame beneath is longer or shorter than was said.
    #[error("the frame beneath is of another length")]
    Length,
    /// What lies beneath is no frame that goes in chunks.
    #[error("a frame of the lane's own lies beneath")]
    Nested,
}

/// Why a frame could not be read, or could not be written. After the former the connection is
/// closed; the latter is our own mistake and leaves the connection as it was.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The first byte is not [`FRAME_VERSION`]: another version, or bytes out of step.
    #[error("frame version {found:#04x} instead of {FRAME_VERSION:#04x}")]
    UnknownVersion {
        /// The byte found.
        found: u8,
    },
    /// A kind this version does not know.
    #[error("unknown frame kind {kind}")]
    UnknownKind {
        /// The number found.
        kind: u8,
    },
    /// Flags this version does not know, or that the kind does not have.
    #[error("unknown flags {flags:#06x} on a {kind:?} frame")]
    UnknownFlags {
        /// The kind.
        kind: FrameKind,
        /// All flags found.
        flags: u16,
    },
    /// A length beyond what the kind or the configuration allows.
    #[error("{kind:?} frame of {bytes} bytes, at most {max} allowed")]
    TooLarge {
        /// The kind.
        kind: FrameKind,
        /// The size found.
        bytes: u64,
        /// The size allowed.
        max: u64,
    },
    /// A header was damaged on the way. Nothing in it is believed, its lengths least of all.
    #[error("the header of a frame fails its checksum")]
    HeaderChecksum,
    /// A body was damaged on the way.
    #[error("{kind:?} frame fails its checksum")]
    Checksum {
        /// The kind.
        kind: FrameKind,
    },
    /// A payload was damaged on the way.
    #[error("payload of entry {index} of group {group} fails its checksum")]
    PayloadChecksum {
        /// The group.
        group: GroupId,
        /// The entry.
        index: LogIndex,
    },
    /// The body is not what its kind says it should be.
    #[error("malformed body of a {kind:?} frame")]
    Malformed {
        /// The kind.
        kind: FrameKind,
    },
    /// The entries of an envelope are not those its message names.
    #[error("append of group {group} names other entries than it carries")]
    EntriesDiffer {
        /// The group.
        group: GroupId,
    },
    /// A chunk that does not follow the one before it on its stream.
    #[error("chunk of stream {stream}: {fault}")]
    Chunk {
        /// The stream.
        stream: u8,
        /// What is wrong.
        fault: ChunkFault,
    },
    /// More entries than [`APPEND_ENTRIES_MAX`].
    #[error("append of {count} entries, at most {APPEND_ENTRIES_MAX} allowed")]
    TooManyEntries {
        /// How many.
        count: u64,
    },
}
