//! Which frames must not overtake each other, and which must not wait for others. It is all that lanes know of what they carry.

use raft_core::{GroupId, Message};

use crate::lane::LaneClass;
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

/// Whether a frame goes before appends and snapshots on a lane that has both.
pub(crate) fn is_urgent(frame: &Frame) -> bool {
    match frame {
        Frame::Message(envelope) => match envelope.message {
            Message::Append(_) | Message::AppendReply(_) => false,
            Message::Heartbeat(_)
            | Message::HeartbeatReply(_)
            | Message::ReadConfirm(_)
            | Message::PreVote(_)
            | Message::PreVoteReply(_)
            | Message::Vote(_)
            | Message::VoteReply(_)
            | Message::TimeoutNow(_)
            | Message::TransferRefused(_)
            | Message::Recover(_)
            | Message::Fence(_)
            | Message::Snapshot(_)
            | Message::ReadIndex(_)
            | Message::ReadIndexReply(_) => true,
        },
        Frame::SnapshotPull(_) | Frame::SnapshotChunk(_) => false,
        Frame::User(user) => user.class == LaneClass::Control,
        Frame::UserItems(_)
        | Frame::Heartbeats(_)
        | Frame::ReadConfirms(_)
        | Frame::HeartbeatReplies(_)
        | Frame::Clock { .. }
        | Frame::Condition(_)
        | Frame::Chunk(_)
        | Frame::Grant { .. }
        | Frame::Credit { .. }
        | Frame::Ping { .. }
        | Frame::Pong { .. } => true,
    }
}
