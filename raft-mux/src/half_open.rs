//! Connections that have not named their group yet, oldest first.
//!
//! Each is a task of its own that holds the other end of a cut signal, so that it can be ended
//! from outside: the oldest one when there are too many, all of them on close.
//!
//! Invariant: after `close` no signal is kept, so no task can hide from it.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// Told to a half-open connection that must end to make room. When the acceptor closes, the
/// signal is dropped instead.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Evicted;

/// The cut signals of all half-open connections.
#[derive(Debug)]
pub(crate) struct HalfOpen {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    closed: bool,
    /// Tickets grow with age, so the first entry is the oldest connection.
    next_ticket: u64,
    signals: BTreeMap<u64, oneshot::Sender<Evicted>>,
}

impl HalfOpen {
    pub(crate) fn new() -> Self {
        let state = State { closed: false, next_ticket: 0, signals: BTreeMap::new() };
        Self { state: Mutex::new(state) }
    }

    /// Lets a connection in: its ticket, and the signal it must obey. `None` after `close`.
    pub(crate) fn admit(&self) -> Option<(u64, oneshot::Receiver<Evicted>)> {
        let (signal, cut) = oneshot::channel();
        let mut state = self.state.lock();
        if state.closed {
            return None;
        }
        let ticket = state.next_ticket;
        state.next_ticket += 1;
        state.signals.insert(ticket, signal);
        Some((ticket, cut))
    }

    /// Forgets a connection that has ended or was handed off.
    pub(crate) fn leave(&self, ticket: u64) {
        let _signal = self.state.lock().signals.remove(&ticket);
    }

    /// Tells the oldest connection to end.
    pub(crate) fn evict_oldest(&self) {
        let oldest = self.state.lock().signals.pop_first();
        if let Some((_, signal)) = oldest {
            // A connection that has just ended by itself does not listen any more.
            let _ = signal.send(Evicted);
        }
    }

    /// Ends all of them and lets nobody in again.
    pub(crate) fn close(&self) {
        let _signals = {
            let mut state = self.state.lock();
            state.closed = true;
            std::mem::take(&mut state.signals)
        };
    }
}
