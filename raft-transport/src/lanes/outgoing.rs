//! Dialing: one outgoing connection to each peer, through all its lives.

use raft_core::{Micros, NodeId};

use super::Opening;
use super::backoff::Backoff;
use super::ending::PeerRefusal;
use crate::connection::config::LaneConfig;
use crate::connection::event::ConnectionId;
use crate::lane::Lane;
use crate::network::peer_registry::{PeerRegistry, PeerView};

/// The outgoing connection to one peer, through all its lives.
pub(super) struct Outgoing {
    pub(super) state: OutgoingState,
    pub(super) backoff: Backoff,
    hellos: u64,
    pub(super) was_up: bool,
    /// What the last refusal said, until the peer is reached or nobody answers there.
    pub(super) refused: Option<PeerRefusal>,
    /// When a greeting last made us dial at once.
    reset_at: Option<Micros>,
}

pub(super) enum OutgoingState {
    Waiting { until: Micros },
    Dialing(Opening),
    Connected(ConnectionId),
}

impl Outgoing {
    pub(super) fn new(
        config: &LaneConfig,
        registry: &PeerRegistry,
        peer: NodeId,
        lane: Lane,
        now: Micros,
    ) -> Self {
        let identity = registry.identity();
        let seed = [identity.node.get(), peer.get(), u64::from(lane.group_id().get())]
            .into_iter()
            .fold(identity.incarnation.get(), |seed, part| {
                // Fibonacci hashing spreads small numbers over all bits.
                (seed ^ part).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(31)
            });
        Self {
            state: OutgoingState::Waiting { until: now },
            backoff: Backoff::new(config.backoff_min, config.backoff_max, seed),
            hellos: 0,
            was_up: false,
            refused: None,
            reset_at: None,
        }
    }

    /// A peer that has greeted us since is alive: dial at once.
    pub(super) fn notice(&mut self, view: &PeerView, now: Micros) {
        if self.hellos == view.hellos {
            return;
        }
        self.hellos = view.hellos;
        // Only once in a while: two nodes that greet and then refuse each other would otherwise
        // keep one another dialing without a pause.
        let rested = self.reset_at.is_none_or(|at| now.since(at) >= self.backoff.max());
        if let OutgoingState::Waiting { until } = &mut self.state
            && rested
        {
            self.reset_at = Some(now);
            self.backoff.reset();
            *until = now;
        }
    }

    pub(super) fn wait(&mut self, now: Micros) {
        self.state = OutgoingState::Waiting { until: now.after(self.backoff.failed()) };
    }
}
