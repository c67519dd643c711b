//! Who looks on at lanes: a simulator holds what one end of a connection heard against what the
//! other end said.

use std::fmt;
use std::sync::Arc;

use raft_core::NodeId;

use crate::connection::{Direction, LaneError};
use crate::lane::Lane;
use crate::wire::frame::Frame;
use crate::wire::hello::Hello;

/// Names a connection at both of its ends, and no other of any life of either.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ConnectionKey {
    /// Who dialed.
    pub dialer: NodeId,
    /// Who was dialed.
    pub acceptor: NodeId,
    /// The bits of the dialer's life.
    pub life: u128,
    /// The dialer's lane.
    pub lane: Lane,
    /// How often it had dialed that lane.
    pub generation: u64,
}

impl From<&Hello> for ConnectionKey {
    fn from(hello: &Hello) -> Self {
        Self {
            dialer: hello.node,
            acceptor: hello.to,
            life: hello.life,
            lane: hello.lane,
            generation: hello.generation,
        }
    }
}

/// Looks on at the connections of [`Lanes`](crate::Lanes).
pub trait LaneWatch: Send + Sync {
    /// An end has queued a frame; a batch may leave as several.
    fn said(&self, connection: &ConnectionKey, speaker: Direction, frame: &Frame);

    /// An end hands on a frame that came.
    fn heard(&self, connection: &ConnectionKey, listener: Direction, frame: &Frame);

    /// An end is about to close its stream, and why. It may never have got so far as to have a
    /// name.
    fn ends(&self, reason: &LaneError);
}

/// Somebody who looks on, or nobody.
#[derive(Clone, Default)]
pub struct Watched(pub Option<Arc<dyn LaneWatch>>);

impl fmt::Debug for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Watched" } else { "Unwatched" })
    }
}
