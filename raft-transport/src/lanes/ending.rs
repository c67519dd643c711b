//! How connections end: who is told, what is counted, what is said about it.

use std::collections::VecDeque;

use raft_core::{Micros, NodeId};
use tracing::{debug, info, warn};

use super::Lanes;
use super::log_limit::LogLimit;
use super::outgoing::OutgoingState;
use crate::connection::{ConnectionId, Direction, LaneError, LaneEvent};
use crate::lane::Lane;
use crate::network::NetworkError;
use crate::network::peer_registry::PeerRegistry;
use crate::network::refusal::TlsRefusal;
use crate::wire::hello::HelloRefusal;

/// Why a peer that answers is not reached.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PeerRefusal {
    /// Who refuses.
    pub by: Refuser,
    /// Why.
    pub reason: RefusalReason,
}

/// Why one end of a connection does not take the other.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum RefusalReason {
    /// By what it said. "This" in the words is who refuses.
    #[error(transparent)]
    Hello(HelloRefusal),
    /// By its certificate, or for want of one.
    #[error(transparent)]
    Tls(TlsRefusal),
}

impl PeerRefusal {
    fn of(end: &LaneError) -> Option<Self> {
        if let LaneError::Refused(reason) = end {
            Some(Self { by: Refuser::Us, reason: RefusalReason::Hello(reason.clone()) })
        } else if let LaneError::RefusedByPeer(reason) = end {
            Some(Self { by: Refuser::Peer, reason: RefusalReason::Hello(reason.clone()) })
        } else {
            None
        }
    }

    /// Of a dial that somebody answered.
    pub(super) fn of_dial(error: &NetworkError) -> Option<Self> {
        let NetworkError::Tls { refusal, .. } = error else {
            return None;
        };
        let by = if refusal.is_by_peer() { Refuser::Peer } else { Refuser::Us };
        Some(Self { by, reason: RefusalReason::Tls(refusal.clone()) })
    }
}

/// Which end of a connection refused the other.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Refuser {
    /// This node.
    Us,
    /// The peer.
    Peer,
}

/// One limit per kind of warning.
#[derive(Default)]
pub(super) struct LogLimits {
    refused: LogLimit,
    refused_by_peer: LogLimit,
    misbehaving: LogLimit,
    pub(super) accept: LogLimit,
    /// Connections that never said who they are.
    strangers: LogLimit,
    /// Connections of peers that fell silent or came anew.
    lost: LogLimit,
}

impl LogLimits {
    /// Says why a dial led to nobody who is taken, or takes us.
    pub(super) fn tell_refusal(
        &mut self,
        lane: Lane,
        peer: NodeId,
        registry: &PeerRegistry,
        refusal: &PeerRefusal,
        now: Micros,
    ) {
        let PeerRefusal { by, reason } = refusal;
        let address = registry.addr(peer);
        match by {
            Refuser::Us => {
                if let Some(suppressed) = self.refused.permit(now) {
                    warn!(%lane, %peer, address, why = %reason, suppressed, "refused the node at that address");
                }
            }
            Refuser::Peer => {
                if let Some(suppressed) = self.refused_by_peer.permit(now) {
                    warn!(
                        %lane, %peer, address, says = %reason, suppressed,
                        "the node at that address refuses this one"
                    );
                }
            }
        }
    }
}

impl Lanes {
    /// Removes a connection and tells whoever knew it.
    pub(super) fn end(
        &mut self,
        id: ConnectionId,
        reason: LaneError,
        now: Micros,
        events: &mut VecDeque<LaneEvent>,
    ) {
        let Some(live) = self.connections.remove(&id) else {
            return;
        };
        if let Some(watch) = &self.watch.0 {
            watch.ends(&reason);
        }
        let met = live.connection.peer();
        let outgoing = self.outgoing.iter_mut().find(
            |(_, outgoing)| matches!(outgoing.state, OutgoingState::Connected(held) if held == id),
        );
        let peer = met.or_else(|| outgoing.as_ref().map(|(peer, _)| **peer));
        if let Some((_, outgoing)) = outgoing {
            outgoing.wait(now);
            // Who only broke off said nothing; what was said before holds until it is reached.
            let refused = PeerRefusal::of(&reason);
            if refused.is_some() && outgoing.refused != refused {
                self.refusals += 1;
                outgoing.refused = refused;
            }
        }
        self.count_end(id, met, &reason);
        // Whoever was refused has said at least who it is.
        let claims = live.connection.hello().map(|hello| hello.node);
        self.log_end(id, peer.or(claims), &reason, now);
        if let Some(peer) = met {
            events.push_back(LaneEvent::Down { peer, connection: id, reason });
        }
    }

    fn count_end(&self, id: ConnectionId, met: Option<NodeId>, reason: &LaneError) {
        let counters = &self.counters;
        match (id.direction(), met) {
            (Direction::Outgoing, Some(_)) => counters.connections_out_open.sub(1),
            (Direction::Incoming, Some(_)) => counters.connections_in_open.sub(1),
            (Direction::Outgoing, None) => counters.dial_failures.bump(),
            (Direction::Incoming, None) => {}
        }
        match (reason, id.direction()) {
            (LaneError::Refused(refusal), Direction::Incoming) => {
                counters.refused.bump();
                if matches!(refusal, HelloRefusal::OtherCertificate { .. }) {
                    counters.refused_other_certificate.bump();
                }
            }
            (LaneError::Refused(_), Direction::Outgoing) | (LaneError::RefusedByPeer(_), _) => {
                counters.refused_by_peer.bump();
            }
            (LaneError::Fenced, _) => counters.fenced.bump(),
            (LaneError::KeepaliveTimeout, _) => counters.keepalive_timeouts.bump(),
            (LaneError::Stalled { .. }, _) => counters.stalls.bump(),
            (LaneError::Crowded, _) => counters.handshakes_dropped.bump(),
            (
                LaneError::Closed
                | LaneError::Io { .. }
                | LaneError::Frame(_)
                | LaneError::Handshake(_)
                | LaneError::HandshakeTimeout
                | LaneError::WindowExceeded { .. }
                | LaneError::TooMuchBegun { .. }
                | LaneError::ExcessGrant { .. }
                | LaneError::ExcessCredit { .. }
                | LaneError::PeerRemoved
                | LaneError::ShutDown,
                _,
            ) => {}
        }
    }

    fn log_end(&mut self, id: ConnectionId, peer: Option<NodeId>, reason: &LaneError, now: Micros) {
        let (lane, logs) = (self.lane, &mut self.logs);
        let address = peer.and_then(|peer| self.registry.addr(peer));
        let peer = peer.map(tracing::field::display);
        let (limit, text) = match reason {
            LaneError::Refused(refusal) => {
                if let Some(suppressed) = logs.refused.permit(now) {
                    warn!(%lane, peer, why = %refusal, suppressed, "refused a node that dialed this one");
                }
                return;
            }
            LaneError::RefusedByPeer(refusal) => {
                // "This" and "not" in what it says are as it sees them.
                if let Some(suppressed) = logs.refused_by_peer.permit(now) {
                    warn!(
                        %lane, peer, address, says = %refusal, suppressed,
                        "the node at that address refuses this one"
                    );
                }
                return;
            }
            LaneError::Frame(_)
            | LaneError::Handshake(_)
            | LaneError::WindowExceeded { .. }
            | LaneError::TooMuchBegun { .. }
            | LaneError::ExcessGrant { .. }
            | LaneError::ExcessCredit { .. } => (&mut logs.misbehaving, "peer misbehaves"),
            // A port scanner causes these as often as it likes, and so may whoever poses as a node.
            LaneError::HandshakeTimeout | LaneError::Crowded => {
                if let Some(suppressed) = logs.strangers.permit(now) {
                    info!(%lane, peer, address, connection = ?id, %reason, suppressed, "lane closed");
                }
                return;
            }
            LaneError::KeepaliveTimeout | LaneError::Stalled { .. } | LaneError::Fenced => {
                if let Some(suppressed) = logs.lost.permit(now) {
                    info!(%lane, peer, address, connection = ?id, %reason, suppressed, "lane closed");
                }
                return;
            }
            // All lanes of a node that stops go together: whoever drives them says it once.
            LaneError::Closed
            | LaneError::Io { .. }
            | LaneError::PeerRemoved
            | LaneError::ShutDown => {
                debug!(%lane, peer, address, connection = ?id, %reason, "lane closed");
                return;
            }
        };
        if let Some(suppressed) = limit.permit(now) {
            warn!(%lane, peer, address, connection = ?id, %reason, suppressed, "{text}");
        }
    }

    /// Of each peer why it is not reached though somebody answers there; `None` while it is reached,
    /// or if nobody does.
    pub fn refusals(&self) -> impl Iterator<Item = (NodeId, Option<&PeerRefusal>)> {
        self.outgoing.iter().map(|(&peer, outgoing)| (peer, outgoing.refused.as_ref()))
    }

    /// Grows whenever one of the [`refusals`](Self::refusals) is another than before.
    pub fn refusals_version(&self) -> u64 {
        self.refusals
    }
}
