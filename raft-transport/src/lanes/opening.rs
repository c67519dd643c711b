//! New connections: accepted ones, dialed ones, and those that come up.

use std::collections::{BTreeMap, VecDeque};
use std::task::{Context, Poll};

use raft_core::{Micros, NodeId};
use tracing::{debug, warn};

use super::Lanes;
use super::ending::PeerRefusal;
use super::live::Live;
use super::outgoing::{Outgoing, OutgoingState};
use crate::connection::Connection;
use crate::connection::counters::LaneCounters;
use crate::connection::{ConnectionId, Direction, LaneError};
use crate::network::Accepted;

/// Most connections accepted per poll.
const ACCEPTS_PER_POLL: usize = 16;

/// Most accepted connections in their handshake; one more ends the oldest.
const HANDSHAKES_MAX: usize = 64;

impl Lanes {
    pub(super) fn poll_accepts(&mut self, cx: &mut Context<'_>, now: Micros) {
        if self.accept_after.is_none_or(|after| now < after) {
            return;
        }
        for _ in 0..ACCEPTS_PER_POLL {
            let accepting = self.accepting.get_or_insert_with(|| {
                let (network, lane) = (self.network.clone(), self.lane);
                Box::pin(async move { network.accept(lane).await })
            });
            let Poll::Ready(accepted) = accepting.as_mut().poll(cx) else {
                return;
            };
            self.accepting = None;
            match accepted {
                Ok(accepted) => self.take_in(accepted, now),
                Err(error) if error.ends_accepting() => {
                    debug!(lane = %self.lane, %error, "accepts no more");
                    self.accept_after = None;
                    return;
                }
                Err(error) => {
                    if let Some(suppressed) = self.logs.accept.permit(now) {
                        warn!(lane = %self.lane, %error, suppressed, "accept failed");
                    }
                    self.accept_after = Some(now.after(self.config.backoff_min));
                    return;
                }
            }
        }
        cx.waker().wake_by_ref();
    }

    fn take_in(&mut self, Accepted { stream, certified }: Accepted, now: Micros) {
        self.counters.accepted.bump();
        let greeting = |(id, live): (&ConnectionId, &Live)| {
            let incoming = id.direction() == Direction::Incoming;
            (incoming && live.connection.is_greeting()).then_some(*id)
        };
        if self.connections.iter().filter_map(greeting).count() >= HANDSHAKES_MAX
            && let Some(oldest) = self.connections.iter().find_map(greeting)
        {
            // It knows no peer yet, so nobody is told.
            let nobody = &mut VecDeque::new();
            self.end(oldest, LaneError::Crowded, now, nobody);
        }
        let setup = self.setup(Direction::Incoming, certified);
        let (id, connection) = (setup.id, Connection::accept(setup, now));
        self.connections.insert(id, Live { stream, connection, flushed: true });
    }

    pub(super) fn poll_dials(&mut self, cx: &mut Context<'_>, now: Micros) {
        let mut connected = Vec::new();
        let refusals = &mut self.refusals;
        for (&peer, outgoing) in &mut self.outgoing {
            if let OutgoingState::Waiting { until } = outgoing.state
                && until <= now
            {
                self.counters.dials.bump();
                let network = self.network.clone();
                let (lane, timeout) = (self.lane, self.config.connect_timeout);
                outgoing.state = OutgoingState::Dialing(Box::pin(async move {
                    network.dial(peer, lane, timeout).await
                }));
            }
            let OutgoingState::Dialing(dialing) = &mut outgoing.state else {
                continue;
            };
            match dialing.as_mut().poll(cx) {
                Poll::Pending => {}
                Poll::Ready(Ok(stream)) => connected.push((peer, stream)),
                Poll::Ready(Err(error)) => {
                    let refused = PeerRefusal::of_dial(&error);
                    match &refused {
                        Some(refusal) => {
                            self.logs.tell_refusal(self.lane, peer, &self.registry, refusal, now);
                        }
                        None => debug!(lane = %self.lane, %peer, %error, "dial failed"),
                    }
                    self.counters.dial_failures.bump();
                    if outgoing.refused != refused {
                        *refusals += 1;
                        outgoing.refused = refused;
                    }
                    outgoing.wait(now);
                }
            }
        }
        for (peer, stream) in connected {
            let setup = self.setup(Direction::Outgoing, None);
            let (id, connection) = (setup.id, Connection::dial(setup, peer, now));
            self.connections.insert(id, Live { stream, connection, flushed: true });
            if let Some(outgoing) = self.outgoing.get_mut(&peer) {
                outgoing.state = OutgoingState::Connected(id);
            }
        }
    }
}

pub(super) fn came_up(
    counters: &LaneCounters,
    outgoing: &mut BTreeMap<NodeId, Outgoing>,
    refusals: &mut u64,
    id: ConnectionId,
    peer: NodeId,
) {
    match id.direction() {
        Direction::Incoming => counters.connections_in_open.add(1),
        Direction::Outgoing => {
            counters.connections_out_open.add(1);
            if let Some(outgoing) = outgoing.get_mut(&peer) {
                outgoing.backoff.reset();
                *refusals += u64::from(outgoing.refused.take().is_some());
                if std::mem::replace(&mut outgoing.was_up, true) {
                    counters.reconnects.bump();
                }
            }
        }
    }
}
