//! Which lanes exist, under which mux ids, and which message takes which.
//!
//! A large append must never delay a heartbeat of another group, and on one TCP connection
//! nothing can overtake. So messages are split over connections by what waiting costs them.
//!
//! Invariant: votes and heartbeats travel on the control lane in every layout and policy.

use std::fmt;

use raft_core::{GroupId, Message};

/// The first mux id the transport reserves; ids from here up are not for groups.
pub const RESERVED_FIRST: GroupId = GroupId::new(0xFFFF_FF00);

const DATA_FIRST: u32 = 0xFFFF_FF00;
const CONTROL: u32 = 0xFFFF_FFF0;
const BULK: u32 = 0xFFFF_FFFE;

/// One of a node's outgoing connections to a peer.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Lane {
    /// Heartbeats, votes, read confirmations: small, and never behind anything large.
    Control,
    /// Log entries of the groups of one shard of the sender.
    Data {
        /// The sender's shard, at most [`Lane::SHARD_MAX`].
        shard: u8,
    },
    /// Large appends and snapshots.
    Bulk,
}

impl Lane {
    /// The largest shard number that has a lane id.
    pub const SHARD_MAX: u8 = 0xDF;

    /// The mux id this lane is dialed under. A shard beyond [`SHARD_MAX`](Self::SHARD_MAX) shares
    /// the lane of that one.
    pub const fn group_id(self) -> GroupId {
        match self {
            Self::Control => GroupId::new(CONTROL),
            Self::Data { shard } => {
                let shard = if shard > Self::SHARD_MAX { Self::SHARD_MAX } else { shard };
                GroupId::new(DATA_FIRST + shard as u32)
            }
            Self::Bulk => GroupId::new(BULK),
        }
    }

    /// The lane with this mux id, or `None` if it is no lane's.
    pub const fn from_group_id(group: GroupId) -> Option<Self> {
        match group.get() {
            CONTROL => Some(Self::Control),
            BULK => Some(Self::Bulk),
            id if id >= DATA_FIRST && id - DATA_FIRST <= Self::SHARD_MAX as u32 => {
                Some(Self::Data { shard: (id - DATA_FIRST) as u8 })
            }
            _ => None,
        }
    }

    /// Where a node with so many shards accepts this lane: a sender with more shards than we have
    /// shares our lanes.
    #[must_use]
    pub const fn at_receiver(self, shards: u8) -> Self {
        match self {
            Self::Control | Self::Bulk => self,
            Self::Data { shard } => {
                Self::Data { shard: if shards == 0 { 0 } else { shard % shards } }
            }
        }
    }
}

impl fmt::Display for LaneLayout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Control => f.write_str("control"),
            Self::Data { shard } => write!(f, "data-{shard}"),
            Self::Bulk => f.write_str("bulk"),
        }
    }
}

/// What a message needs from its lane.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum LaneClass {
    /// Must not wait.
    Control,
    /// The ordinary log traffic.
    Data,
    /// Large; may wait, must not make others wait.
    Bulk,
}

/// Which lanes a node dials to each peer. Its peers need not have the same layout: every node
/// accepts every lane.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum LaneLayout {
    /// Everything on one connection: the baseline, for comparison. Votes and heartbeats pass
    /// between the chunks of what is long, and have credit of their own.
    Single,
    /// Control, and one for everything else.
    ControlBulk,
    /// Control, one data lane per shard, and bulk. The default.
    #[default]
    ControlDataBulk,
}

impl LaneLayout {
    /// All of them, the plainest first.
    pub const ALL: [Self; 3] = [Self::Single, Self::ControlBulk, Self::ControlDataBulk];

    /// What settings and tables call it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Single => "single",
            Self::ControlBulk => "control-bulk",
            Self::ControlDataBulk => "control-data-bulk",
        }
    }

    /// Whether shards have lanes of their own. Without them another thread's lane, the
    /// [`bulk`](Self::bulk) one, carries all appends.
    pub const fn has_data_lanes(self) -> bool {
        match self {
            Self::ControlDataBulk => true,
            Self::Single | Self::ControlBulk => false,
        }
    }

    /// The lane that carries what is large.
    pub const fn bulk(self) -> Lane {
        self.lane(LaneClass::Bulk, 0)
    }

    /// Whether a node of this layout dials a lane. It accepts every lane all the same: which ones
    /// there are is the choice of each sender.
    pub const fn dials(self, lane: Lane) -> bool {
        match (self, lane) {
            (_, Lane::Control) => true,
            (Self::Single, Lane::Data { .. } | Lane::Bulk)
            | (Self::ControlBulk, Lane::Data { .. }) => false,
            (Self::ControlBulk, Lane::Bulk)
            | (Self::ControlDataBulk, Lane::Data { .. } | Lane::Bulk) => true,
        }
    }

    /// The lanes that a node with so many shards dials, control first.
    pub fn lanes(self, shards: u8) -> Vec<Lane> {
        match self {
            Self::Single => vec![Lane::Control],
            Self::ControlBulk => vec![Lane::Control, Lane::Bulk],
            Self::ControlDataBulk => {
                let data = (0..shards.clamp(1, Lane::SHARD_MAX)).map(|shard| Lane::Data { shard });
                [Lane::Control].into_iter().chain(data).chain([Lane::Bulk]).collect()
            }
        }
    }

    /// The lane that carries messages of this class from groups of this shard.
    pub const fn lane(self, class: LaneClass, shard: u8) -> Lane {
        match (self, class) {
            (Self::Single, _) | (_, LaneClass::Control) => Lane::Control,
            (Self::ControlBulk, LaneClass::Data | LaneClass::Bulk)
            | (Self::ControlDataBulk, LaneClass::Bulk) => Lane::Bulk,
            (Self::ControlDataBulk, LaneClass::Data) => Lane::Data { shard },
        }
    }
}

/// Which class a message belongs to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct LanePolicy {
    /// An append with at least so many payload bytes goes to bulk, `None`: never. Default
    /// 256 KiB: at 1 Gbit/s it holds a lane for 2 ms, about what small writes may wait.
    /// The caller moves a group between lanes only while nothing of it is in flight, so that no
    /// append overtakes another of its group.
    pub bulk_append_min: Option<u64>,
}

impl Default for LanePolicy {
    fn default() -> Self {
        Self { bulk_append_min: Some(256 * 1024) }
    }
}

impl LanePolicy {
    /// The class of an append whose entries carry `payload_bytes` of payload: asked before the
    /// append is built.
    pub const fn append_class(&self, payload_bytes: u64) -> LaneClass {
        match self.bulk_append_min {
            Some(min) if payload_bytes >= min => LaneClass::Bulk,
            Some(_) | None => LaneClass::Data,
        }
    }

    /// The class of `message`, whose entries carry `payload_bytes` of payload.
    pub const fn class_for(&self, message: &Message, payload_bytes: u64) -> LaneClass {
        match message {
            // Liveness must not queue behind log bytes.
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
            | Message::Fence(_) => LaneClass::Control,
            Message::Append(_) => self.append_class(payload_bytes),
            // In practice it answers on the socket its append came on, whatever lane that is.
            Message::AppendReply(_) => LaneClass::Data,
            // Small as it is, it leads the way for bytes that go by bulk.
            Message::Snapshot(_) => LaneClass::Data,
            // A client waits for these.
            Message::ReadIndex(_) | Message::ReadIndexReply(_) => LaneClass::Data,
        }
    }
}

#[cfg(test)]
mod tests;
