//! What a leader knows of one peer's log, and what it has in flight to it.
//!
//! Invariants: `match_index < next_index`; `match_index` grows only by a success reply of the
//! live session; windows belong to the state they limit, so a state change cannot leak them.

use alloc::collections::VecDeque;

use crate::id::{LogIndex, Micros, ReplicaId};
use crate::message::Session;
use crate::settings::Settings;

#[derive(Clone, Debug)]
pub(crate) struct Progress {
    pub(crate) replica: ReplicaId,
    pub(crate) session: Session,
    /// Durable at the peer, by its own word.
    pub(crate) match_index: LogIndex,
    /// The next entry to send.
    pub(crate) next_index: LogIndex,
    pub(crate) state: State,
    /// When the peer last answered anything in this term.
    pub(crate) contact: Micros,
    /// The newest read confirmation it answered.
    pub(crate) read_acked: u64,
}

#[derive(Clone, Debug)]
pub(crate) enum State {
    /// Looking for where the logs agree: one append at a time.
    Probe {
        /// When the outstanding probe left, if one is outstanding.
        sent: Option<Micros>,
    },
    /// Streaming.
    Replicate(Window),
}

/// Appends in flight, oldest first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Window {
    appends: VecDeque<(LogIndex, u64)>,
    bytes: u64,
    /// When an answer last moved the window, or something left into a settled one.
    moved: Micros,
}

impl Window {
    pub(crate) fn is_full(&self, settings: &Settings) -> bool {
        self.appends.len() >= settings.inflight_appends_max
            || self.bytes >= settings.inflight_bytes_max
    }

    fn opened(now: Micros) -> Self {
        Self { moved: now, ..Self::default() }
    }

    fn sent(&mut self, last: LogIndex, bytes: u64) {
        self.appends.push_back((last, bytes));
        self.bytes += bytes;
    }

    fn acked(&mut self, upto: LogIndex) {
        while let Some((_, bytes)) = self.appends.front().filter(|(last, _)| *last <= upto) {
            self.bytes -= bytes;
            self.appends.pop_front();
        }
    }
}

impl Progress {
    pub(crate) fn new(replica: ReplicaId, session: Session, next: LogIndex, now: Micros) -> Self {
        Self {
            replica,
            session,
            match_index: LogIndex::ZERO,
            next_index: next,
            state: State::Probe { sent: None },
            contact: now,
            read_acked: 0,
        }
    }

    /// Starts over with a peer that began a new life.
    pub(crate) fn restart(&mut self, session: Session, next: LogIndex) {
        self.session = session;
        self.match_index = LogIndex::ZERO;
        self.next_index = next;
        self.state = State::Probe { sent: None };
    }

    /// Something in flight may be lost: ask again where the logs agree.
    pub(crate) fn probe_again(&mut self, session: Session) {
        self.session = session;
        self.next_index = self.match_index.next();
        self.state = State::Probe { sent: None };
    }

    pub(crate) fn may_send(&self, last: LogIndex, settings: &Settings) -> bool {
        match &self.state {
            State::Probe { sent } => sent.is_none(),
            State::Replicate(window) => self.next_index <= last && !window.is_full(settings),
        }
    }

    /// Whether an answer to something sent is still to come.
    pub(crate) fn in_flight(&self) -> bool {
        match &self.state {
            State::Probe { sent } => sent.is_some(),
            State::Replicate(window) => !window.appends.is_empty(),
        }
    }

    /// An append `next_index..=last` leaves.
    pub(crate) fn sent(&mut self, now: Micros, last: LogIndex, bytes: u64) {
        match &mut self.state {
            State::Probe { sent } => *sent = Some(now),
            State::Replicate(window) => {
                if self.next_index == self.match_index.next() {
                    window.moved = now;
                }
                window.sent(last, bytes);
                self.next_index = last.next();
            }
        }
    }

    /// A success reply of the live session. True if `match_index` grew.
    pub(crate) fn accepted(&mut self, now: Micros, durable: LogIndex, verified: LogIndex) -> bool {
        let grew = durable > self.match_index;
        self.match_index = self.match_index.max(durable);
        match &mut self.state {
            State::Probe { .. } => {
                self.next_index = verified.next().max(self.match_index.next());
                self.state = State::Replicate(Window::opened(now));
            }
            State::Replicate(window) => {
                if grew {
                    window.moved = now;
                }
                window.acked(self.match_index);
                self.next_index = self.next_index.max(self.match_index.next());
            }
        }
        grew
    }

    /// What was sent and found no answer for so long is taken for lost. An empty window is no
    /// proof of the contrary: a probe can find entries that the peer holds in memory, and the
    /// acknowledgement that they are durable can be lost just as well.
    pub(crate) fn is_stuck(&self, now: Micros, settings: &Settings) -> bool {
        let patience = settings.election_timeout_min;
        match &self.state {
            State::Probe { sent } => sent.is_some_and(|sent| now.since(sent) >= patience),
            State::Replicate(window) => {
                self.next_index > self.match_index.next() && now.since(window.moved) >= patience
            }
        }
    }

    #[cfg(debug_assertions)]
    pub(crate) fn check(&self) {
        debug_assert!(self.match_index < self.next_index, "{self:?}");
        if let State::Replicate(window) = &self.state {
            let sum: u64 = window.appends.iter().map(|(_, bytes)| bytes).sum();
            debug_assert_eq!(sum, window.bytes);
            debug_assert!(window.appends.iter().all(|(last, _)| *last > self.match_index));
        }
    }
}
