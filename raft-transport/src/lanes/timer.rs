//! When the lanes are to be polled next.

use std::pin::Pin;
use std::task::Context;
use std::time::Duration;

use raft_core::Micros;
use tokio::time::{Instant, Sleep};

use super::Lanes;
use super::outgoing::OutgoingState;

/// Who wakes the lanes when a deadline comes.
pub(super) enum Timer {
    /// The runtime, once something is due: at or before the earliest deadline.
    Runtime(Option<(Micros, Pin<Box<Sleep>>)>),
    /// Whoever polls the lanes; it asks for the deadline.
    Caller,
}

impl Lanes {
    /// When [`poll`](Self::poll) has something to do, if nothing else happens: the earliest
    /// keepalive, handshake, stall, dial or accept that is due. It may have passed already.
    pub fn next_deadline(&self) -> Option<Micros> {
        if self.closed {
            return None;
        }
        let connections = self.connections.values().filter_map(|live| live.connection.deadline());
        let dials = self.outgoing.values().filter_map(|outgoing| match outgoing.state {
            OutgoingState::Waiting { until } => Some(until),
            OutgoingState::Dialing(_) | OutgoingState::Connected(_) => None,
        });
        // While an accept is pending, the moment of the next one has come and tells nothing.
        let accept = self.accept_after.filter(|_| self.accepting.is_none());
        connections.chain(dials).chain(accept).min()
    }

    pub(super) fn arm_timer(&mut self, cx: &mut Context<'_>, now: Micros) {
        let earliest = match &self.timer {
            Timer::Caller => return,
            Timer::Runtime(_) => self.next_deadline(),
        };
        let Timer::Runtime(timer) = &mut self.timer else {
            return;
        };
        let Some(earliest) = earliest else {
            *timer = None;
            return;
        };
        if earliest <= now {
            cx.waker().wake_by_ref();
            return;
        }
        let target = Instant::now() + earliest.since(now);
        match timer {
            // Deadlines move with every byte heard. A timer that fires too early costs one wake
            // per interval; setting it each time would cost more.
            Some((at, _)) if *at <= earliest && *at > now => {}
            Some((at, sleep)) => {
                *at = earliest;
                sleep.as_mut().reset(target);
            }
            None => *timer = Some((earliest, Box::pin(tokio::time::sleep_until(target)))),
        }
        if let Some((at, sleep)) = timer
            && sleep.as_mut().poll(cx).is_ready()
        {
            // The runtime's clock is a little ahead of ours.
            *at = earliest;
            sleep.as_mut().reset(target.max(Instant::now() + Duration::from_millis(1)));
            let _ = sleep.as_mut().poll(cx);
        }
    }
}
