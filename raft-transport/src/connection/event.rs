//! What a connection is called, what it tells, and how it ends.

use std::fmt;
use std::io;

use raft_core::{Incarnation, NodeId};

use crate::wire::frame::{Frame, FrameError};
use crate::wire::hello::{HandshakeError, HelloRefusal};

/// Who opened a connection.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Direction {
    /// We dialed.
    Outgoing,
    /// The peer dialed.
    Incoming,
}

/// Names a connection among those of one [`Lanes`](crate::Lanes); never used twice.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ConnectionId(u64);

impl ConnectionId {
    /// The `number`-th connection of its direction.
    pub const fn new(number: u64, direction: Direction) -> Self {
        match direction {
            Direction::Outgoing => Self(number << 1),
            Direction::Incoming => Self(number << 1 | 1),
        }
    }

    /// Who opened it.
    pub const fn direction(self) -> Direction {
        if self.0 & 1 == 0 { Direction::Outgoing } else { Direction::Incoming }
    }
}

impl fmt::Debug for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}#{}", self.direction(), self.0 >> 1)
    }
}

/// What a lane tells its user.
#[derive(Debug)]
pub enum LaneEvent {
    /// A connection is ready: the handshake is done.
    Up {
        /// The peer.
        peer: NodeId,
        /// Which life of the peer.
        incarnation: Incarnation,
        /// The connection; its [`direction`](ConnectionId::direction) tells whether frames can be
        /// sent to the peer now, or will come from it.
        connection: ConnectionId,
    },
    /// A frame has come. Never a credit, ping or pong.
    Frame {
        /// Where answers go.
        connection: ConnectionId,
        /// The peer.
        from: NodeId,
        /// Which life of the peer.
        from_incarnation: Incarnation,
        /// What to give back by [`consumed`](crate::Lanes::consumed).
        bytes: u64,
        /// The frame.
        frame: Frame,
    },
    /// A connection that was up is gone; what was under way on it may or may not have arrived.
    Down {
        /// The peer.
        peer: NodeId,
        /// The connection.
        connection: ConnectionId,
        /// Why.
        reason: LaneError,
    },
}

/// Why a connection ended. Each ends only that connection.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum LaneError {
    /// The peer closed it.
    #[error("closed by the peer")]
    Closed,
    /// The stream failed.
    #[error("the stream failed: {kind}")]
    Io {
        /// What the system said.
        kind: io::ErrorKind,
    },
    /// The peer sent bytes that are no frame.
    #[error("bad frame")]
    Frame(#[from] FrameError),
    /// The peer sent bytes that are no handshake.
    #[error("bad handshake")]
    Handshake(#[from] HandshakeError),
    /// The peer does not talk to us, and says why.
    #[error("refused by the peer: {0}")]
    RefusedByPeer(HelloRefusal),
    /// We do not talk to the peer.
    #[error("refused: {0}")]
    Refused(HelloRefusal),
    /// The handshake took too long.
    #[error("no handshake in time")]
    HandshakeTimeout,
    /// A ping brought nothing back.
    #[error("the peer is silent")]
    KeepaliveTimeout,
    /// Bytes are queued and none can be written.
    #[error("stalled with {queued} bytes queued")]
    Stalled {
        /// How many bytes wait.
        queued: u64,
    },
    /// The peer sends more than its credit allows.
    #[error("the peer exceeds its window of {window} bytes")]
    WindowExceeded {
        /// The window.
        window: u64,
    },
    /// The peer has begun more than its window has room for, or two long messages at once.
    #[error("the peer has begun more than its window of {window} bytes takes")]
    TooMuchBegun {
        /// The window.
        window: u64,
    },
    /// The peer grants a message that was not announced.
    #[error("the peer grants {bytes} bytes that nobody asked for")]
    ExcessGrant {
        /// What it grants.
        bytes: u64,
    },
    /// The peer gives back more credit than was used.
    #[error("the peer returns {bytes} bytes of credit, {used} are used")]
    ExcessCredit {
        /// What it gives.
        bytes: u64,
        /// What is used.
        used: u64,
    },
    /// A newer connection of the same lane, or a newer life of the peer, has taken its place.
    #[error("replaced by a newer connection")]
    Fenced,
    /// Too many connections were in their handshake; this one was the oldest.
    #[error("too many handshakes at a time")]
    Crowded,
    /// The peer was removed from the registry.
    #[error("the peer was removed")]
    PeerRemoved,
    /// We are closing.
    #[error("shut down")]
    ShutDown,
}

impl From<io::Error> for LaneError {
    fn from(error: io::Error) -> Self {
        Self::Io { kind: error.kind() }
    }
}
