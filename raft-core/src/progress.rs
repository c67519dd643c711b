//! What a leader knows of one peer's log, and what it has in flight to it.
//!
//! Invariants: `match_index < next_index`; `match_index` grows only by a success reply of the
//! live session; windows belong to the state they limit, so a state change cannot leak them.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use core::time::Duration;

use crate::id::{LogIndex, Micros, ReplicaId};
use crate::membership::Standing;
use crate::message::{Promise, Session};
use crate::settings::Settings;

#[derive(Clone, Debug)]
pub(crate) struct Progress {
    pub(crate) replica: ReplicaId,
    /// What it may do; `None` for one that was removed and is only told so.
    pub(crate) standing: Option<Standing>,
    pub(crate) session: Session,
    /// Durable at the peer, by its own word.
    pub(crate) match_index: LogIndex,
    /// In its page cache, by its own word.
    pub(crate) written_index: LogIndex,
    /// The next entry to send.
    pub(crate) next_index: LogIndex,
    pub(crate) state: State,
    /// Whether what it says it holds may be counted.
    pub(crate) promise: Promise,
    /// When the peer last answered anything in this term.
    pub(crate) contact: Micros,
    /// The newest read confirmation it answered.
    pub(crate) read_acked: u64,
    /// When the newest heartbeat it answered had left.
    pub(crate) sent_acked: Option<Micros>,
    /// Until when a removed peer is still told of its removal.
    pub(crate) leaves: Option<Micros>,
    /// It takes nothing before this: it said that it cannot.
    pub(crate) declines_until: Micros,
    /// It answered since its connection was last lost.
    pub(crate) is_reached: bool,
    /// What it said of taking over.
    pub(crate) readiness: Readiness,
    /// Its node says that it takes no office.
    pub(crate) is_barred: bool,
}

/// Whether a peer takes over, as far as it was asked. The better ones are asked first.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Readiness {
    /// Nothing is known against it.
    Ready,
    /// It is less eager to lead than we are.
    LessEager,
    /// It cannot at the moment, or did not answer.
    NotNow,
    /// It takes no office any more.
    Withheld,
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
    /// The peer needs entries that are not here any more.
    Snapshot {
        /// The oldest snapshot that the peer may be fetching, and when one was last offered.
        offered: Option<Box<(LogIndex, Micros)>>,
    },
}

/// What is in flight to a peer that streams. While nothing was for some time, there is nothing
/// to be remembered of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Window(Option<Box<Flight>>);

/// Appends in flight, oldest first: those of which nobody knows that they arrived. What the peer has in
/// its page cache did. If only its disk took an append out of here, a peer whose syncs wait (where what
/// is written counts) would be sent one window for each of them and nothing more.
#[derive(Clone, Debug, Default)]
struct Flight {
    appends: VecDeque<(LogIndex, u64)>,
    bytes: u64,
    /// When an answer last moved the window, or something left into a settled one.
    moved: Micros,
    /// When an empty append last asked whether the peer got what fills the window.
    probed: Micros,
}

impl Window {
    fn opened(now: Micros) -> Self {
        let mut window = Self::default();
        window.flight(now);
        window
    }

    pub(crate) fn is_full(&self, settings: &Settings) -> bool {
        self.0.as_ref().is_some_and(|flight| flight.is_full(settings))
    }

    fn is_empty(&self) -> bool {
        self.0.as_ref().is_none_or(|flight| flight.appends.is_empty())
    }

    /// Whether nothing has been in flight for a while.
    #[cfg(test)]
    pub(crate) fn is_forgotten(&self) -> bool {
        self.0.is_none()
    }

    fn flight(&mut self, now: Micros) -> &mut Flight {
        let opened = || Box::new(Flight { moved: now, probed: now, ..Flight::default() });
        self.0.get_or_insert_with(opened)
    }
}

impl Flight {
    fn is_full(&self, settings: &Settings) -> bool {
        self.appends.len() >= settings.inflight_appends_max
            || self.bytes >= settings.inflight_bytes_max
    }

    fn sent(&mut self, last: LogIndex, bytes: u64) {
        // What an entry costs is the driver's word: the sum must stay one that can be taken back.
        let bytes = bytes.min(u64::MAX - self.bytes);
        self.appends.push_back((last, bytes));
        self.bytes += bytes;
    }

    fn acked(&mut self, upto: LogIndex) {
        while let Some((_, bytes)) = self.appends.front().filter(|(last, _)| *last <= upto) {
            if !crate::planted!(WindowLeaks) {
                self.bytes -= bytes;
            }
            self.appends.pop_front();
        }
    }

    /// Whether a full window is due to be asked about: something in it may be lost.
    fn probe_due(&self, now: Micros, settings: &Settings) -> bool {
        let since = self.probed.max(self.moved);
        now.since(since) >= settings.heartbeat_interval
    }
}

impl Progress {
    pub(crate) fn new(
        replica: ReplicaId,
        standing: Standing,
        session: Session,
        next: LogIndex,
        now: Micros,
    ) -> Self {
        Self {
            replica,
            standing: Some(standing),
            session,
            match_index: LogIndex::ZERO,
            written_index: LogIndex::ZERO,
            next_index: next,
            state: State::Probe { sent: None },
            promise: Promise::Kept,
            contact: now,
            read_acked: 0,
            sent_acked: None,
            leaves: None,
            declines_until: Micros::ZERO,
            is_reached: true,
            readiness: Readiness::Ready,
            is_barred: false,
        }
    }

    /// It answered something in this term.
    pub(crate) fn heard(&mut self, now: Micros) {
        self.contact = now;
        self.is_reached = true;
    }

    pub(crate) fn votes_incoming(&self) -> bool {
        self.standing.is_some_and(Standing::votes_incoming)
    }

    pub(crate) fn votes_outgoing(&self) -> bool {
        self.standing.is_some_and(Standing::votes_outgoing)
    }

    /// Forgets a window in which nothing is in flight, and gives back its room.
    pub(crate) fn release_spare(&mut self) {
        let settled = self.next_index == self.match_index.next();
        if let State::Replicate(window) = &mut self.state
            && settled
        {
            // Bytes without an append are a leak, and a leak is not to be healed in passing.
            window.0.take_if(|flight| flight.bytes == 0);
        }
    }

    fn is_trusted(&self) -> bool {
        self.promise == Promise::Kept || crate::planted!(LostReplicaCounts)
    }

    /// What counts of its log as durable.
    pub(crate) fn counted_durable(&self) -> LogIndex {
        if self.is_trusted() { self.match_index } else { LogIndex::ZERO }
    }

    /// What counts of its log as written.
    pub(crate) fn counted_written(&self) -> LogIndex {
        if self.is_trusted() { self.written_index } else { LogIndex::ZERO }
    }

    /// Starts over with a peer that began a new life.
    pub(crate) fn restart(&mut self, session: Session, next: LogIndex) {
        self.session = session;
        self.match_index = LogIndex::ZERO;
        self.written_index = LogIndex::ZERO;
        self.next_index = next;
        self.state = State::Probe { sent: None };
        self.promise = Promise::Kept;
        self.declines_until = Micros::ZERO;
        self.readiness = Readiness::Ready;
    }

    /// Whether there is nothing to forget: it is not trusted, nothing is known of its log, and nothing
    /// more than a question is in flight.
    pub(crate) fn is_fresh(&self) -> bool {
        self.promise != Promise::Kept
            && self.match_index.max(self.written_index) == LogIndex::ZERO
            && matches!(self.state, State::Probe { .. })
    }

    /// Something in flight may be lost: ask again where the logs agree. Nothing below `base` can
    /// be asked about.
    pub(crate) fn probe_again(&mut self, session: Session, base: LogIndex) {
        self.session = session;
        self.next_index = self.match_index.max(base).next();
        self.state = State::Probe { sent: None };
    }

    /// It is offered the snapshot at `index`. One that it was offered before, it may still be
    /// fetching: it finishes that one first. But for a peer that has been silent for so long
    /// nothing is kept.
    pub(crate) fn offer(&mut self, now: Micros, index: LogIndex, patience: Duration) {
        let earlier = match &self.state {
            State::Snapshot { offered } if now.since(self.contact) < patience => offered.as_deref(),
            State::Snapshot { .. } | State::Probe { .. } | State::Replicate(_) => None,
        };
        let oldest = earlier.map_or(index, |(earlier, _)| index.min(*earlier));
        self.state = State::Snapshot { offered: Some(Box::new((oldest, now))) };
    }

    /// It says which snapshot it is fetching; `newest` is the newest it can have been offered.
    pub(crate) fn fetches(&mut self, index: LogIndex, newest: LogIndex) {
        if let State::Snapshot { offered: Some(offered) } = &mut self.state {
            offered.0 = index.min(newest);
        }
    }

    pub(crate) fn may_send(&self, now: Micros, last: LogIndex, settings: &Settings) -> bool {
        if now < self.declines_until {
            return false;
        }
        match &self.state {
            State::Probe { sent: Some(_) } if crate::planted!(ProbeNeverRetried) => false,
            State::Probe { sent } => {
                let patience = settings.election_timeout_min;
                sent.is_none_or(|sent| now.since(sent) >= patience)
            }
            State::Replicate(window) if window.is_full(settings) => {
                window.0.as_ref().is_some_and(|flight| flight.probe_due(now, settings))
            }
            State::Replicate(_) => self.next_index <= last || self.question_due(now, settings),
            State::Snapshot { .. } => false,
        }
    }

    /// Whether the next append may carry entries.
    pub(crate) fn streams(&self, now: Micros, settings: &Settings) -> bool {
        matches!(&self.state, State::Replicate(window) if !window.is_full(settings))
            && !self.question_due(now, settings)
    }

    /// Whether something that was sent has found no answer for so long that it is to be asked
    /// about. The question follows it on the same way and in the same session: on a way that keeps
    /// the order it cannot arrive before what it asks about, however slow the way is, so only what
    /// was lost is ever sent again. That everything was sent is no proof of the contrary: a probe
    /// can find entries that the peer holds in memory, and the acknowledgement that they are
    /// durable can be lost just as well.
    fn question_due(&self, now: Micros, settings: &Settings) -> bool {
        let State::Replicate(Window(Some(flight))) = &self.state else { return false };
        let waits = now.since(flight.probed.max(flight.moved)) >= settings.election_timeout_min;
        waits && self.next_index > self.match_index.next()
    }

    /// Whether an answer to something sent is still to come.
    pub(crate) fn in_flight(&self) -> bool {
        match &self.state {
            State::Probe { sent } => sent.is_some(),
            State::Replicate(window) => !window.is_empty(),
            State::Snapshot { .. } => false,
        }
    }

    /// An append `next_index..=last` leaves; an empty one if `last` is before that.
    pub(crate) fn sent(&mut self, now: Micros, last: LogIndex, bytes: u64) {
        match &mut self.state {
            State::Probe { sent } => *sent = Some(now),
            State::Replicate(window) => {
                let flight = window.flight(now);
                if last < self.next_index {
                    flight.probed = now;
                    return;
                }
                if self.next_index == self.match_index.next() {
                    flight.moved = now;
                }
                flight.sent(last, bytes);
                self.next_index = last.next();
            }
            State::Snapshot { .. } => {}
        }
    }

    /// A success reply of the live session; the log begins after `base`. True if a mark grew.
    pub(crate) fn accepted(
        &mut self,
        now: Micros,
        durable: LogIndex,
        written: LogIndex,
        verified: LogIndex,
        base: LogIndex,
    ) -> bool {
        let grew = durable > self.match_index || written > self.written_index;
        self.match_index = self.match_index.max(durable);
        self.written_index = self.written_index.max(written);
        match &mut self.state {
            State::Probe { .. } => {
                self.next_index = verified.max(self.match_index).max(base).next();
                self.state = State::Replicate(Window::opened(now));
            }
            State::Replicate(window) => {
                if let Some(flight) = &mut window.0 {
                    if grew {
                        flight.moved = now;
                    }
                    flight.acked(self.match_index.max(self.written_index));
                }
                self.next_index = self.next_index.max(self.match_index.next());
            }
            State::Snapshot { offered } => {
                self.next_index = self.next_index.max(self.match_index.next());
                if verified >= base {
                    // Whatever it is that reconnects the logs will do.
                    self.next_index = verified.max(self.match_index).next();
                    self.state = State::Replicate(Window::opened(now));
                } else if offered.as_deref().is_some_and(|(index, _)| verified >= *index) {
                    // It took what was offered, and we have compacted on since.
                    *offered = None;
                }
            }
        }
        grew
    }

    /// It holds everything and does not count: that it trusts itself again it says only once, and
    /// that may have been lost, or overtaken. So it is asked in a session of its own.
    pub(crate) fn is_mistrusted(&self) -> bool {
        matches!(self.state, State::Replicate(_))
            && !self.is_trusted()
            && self.next_index == self.match_index.next()
    }

    /// Whether its parts agree with one another.
    pub(crate) fn is_sound(&self) -> bool {
        if self.match_index >= self.next_index {
            return false;
        }
        let State::Replicate(window) = &self.state else { return true };
        let Some(flight) = &window.0 else { return self.next_index == self.match_index.next() };
        let sum: u64 = flight.appends.iter().map(|(_, bytes)| bytes).sum();
        sum == flight.bytes && flight.appends.iter().all(|(last, _)| *last > self.match_index)
    }
}
