//! Which frames must not overtake each other. It is all that lanes know of what they carry.

use raft_core::{GroupId, Message};

use crate::wire::frame::Frame;

/// Frames with the same one leave in the order in which they were queued.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Order {
    /// The appends of a group: its log is one order.
    Log(GroupId),
    /// The bytes of a group's snapshot.
    Snapshot(GroupId),
    /// What a user's protocol says of a group.
    User(GroupId),
}

impl Order {
    /// What a frame must not overtake. Everything else may: each says all it needs.
    pub(crate) fn of(frame: &Frame) -> Option<Self> {
        match frame {
            Frame::Message(envelope) => {
                let is_append = matches!(envelope.message, Message::Append(_));
                is_append.then_some(Self::Log(envelope.group))
            }
            Frame::SnapshotChunk(chunk) => Some(Self::Snapshot(chunk.place.group)),
            Frame::User(user) => (!user.newer_replaces).then_some(Self::User(user.group)),
            Frame::Heartbeats(_)
            | Frame::ReadConfirms(_)
            | Frame::HeartbeatReplies(_)
            | Frame::SnapshotPull(_)
            | Frame::UserItems(_)
            | Frame::Clock { .. }
            | Frame::Condition(_)
            | Frame::Chunk(_)
            | Frame::Grant { .. }
            | Frame::Credit { .. }
            | Frame::Ping { .. }
            | Frame::Pong { .. } => None,
        }
    }
}
