//! What is written and not yet on disk, and when its sync must begin.
//!
//! The log has one sync for all groups. Entries whose group counts them once they are written may
//! wait for it as long as their policy says; whatever else is written beside them may not, and takes
//! them along. So there is one deadline: the earliest of all that wait.
//!
//! What a sync covers is what was written before it departed. From there on everything is counted
//! anew, whether it has landed or not: the deadline of what is written beside it, entries and bytes.
//!
//! Bound: what waits is no more than [`WAIT_BYTES_MAX`] and one portion, so that a sync which
//! somebody waits for never has much more to carry than what that one wrote.

use raft_core::{GroupId, Micros};

use crate::engine::PersistTicket;
use crate::persistence::FlushPolicy;

/// So much may be written and wait for its sync.
pub(super) const WAIT_BYTES_MAX: u64 = 4 << 20;

/// What waits for the next sync, and what was not told of yet.
#[derive(Default)]
pub(super) struct Flush {
    /// When the sync must begin; `None`: nothing waits.
    due: Option<Micros>,
    /// Somebody waits for it, and not only a deadline.
    is_demanded: bool,
    entries: u64,
    /// The least of those that wait.
    threshold: Option<u64>,
    bytes: u64,
    /// By shard: written, and counted as soon as its group hears of it.
    early: Vec<(usize, (GroupId, PersistTicket))>,
}

impl Flush {
    /// Something was written, so many bytes of the log. What is in it says how long it may wait.
    pub(super) fn wrote(&mut self, bytes: u64) {
        self.bytes += bytes;
    }

    /// What was written at `now` may not wait.
    pub(super) fn demand(&mut self, now: Micros) {
        self.is_demanded = true;
        self.due = Some(self.due.map_or(now, |due| due.min(now)));
    }

    /// An operation was written at `now`, whole, with so many entries.
    pub(super) fn note(
        &mut self,
        now: Micros,
        shard: usize,
        ticket: (GroupId, PersistTicket),
        entries: u64,
    ) {
        self.entries += entries;
        let PersistTicket::Early(_, policy) = ticket.1 else {
            return self.demand(now);
        };
        self.early.push((shard, ticket));
        match policy {
            FlushPolicy::Immediate => self.demand(now),
            FlushPolicy::Batch { .. } if raft_core::planted!(FlushForgotten) => {}
            FlushPolicy::Batch { threshold, interval } => {
                let due = now.after(interval);
                self.due = Some(self.due.map_or(due, |earlier| earlier.min(due)));
                let least = self.threshold.map_or(threshold, |least| least.min(threshold));
                self.threshold = Some(least);
            }
        }
    }

    /// When the sync of what was written must begin; `None`: nothing waits for one.
    pub(super) fn due(&self, now: Micros) -> Option<Micros> {
        let due = self.due?;
        Some(if self.is_full() { now.min(due) } else { due })
    }

    /// Whether so much waits that it has to be synced.
    pub(super) fn is_full(&self) -> bool {
        self.is_at_bound() || self.threshold.is_some_and(|threshold| self.entries >= threshold)
    }

    /// Whether no more may wait, be a sync under way or not.
    pub(super) fn is_at_bound(&self) -> bool {
        self.bytes >= WAIT_BYTES_MAX
    }

    /// Whether somebody waits for the sync of what is written.
    pub(super) fn is_demanded(&self) -> bool {
        self.is_demanded
    }

    /// What is written since the last sync departed.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Operations that are written, and count for whoever asked to be told.
    pub(super) fn take_early(&mut self) -> Vec<(usize, (GroupId, PersistTicket))> {
        std::mem::take(&mut self.early)
    }

    /// A sync departs that covers everything so far.
    pub(super) fn departed(&mut self) {
        let early = std::mem::take(&mut self.early);
        *self = Self { early, ..Self::default() };
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use raft_core::PersistSeq;

    use super::*;

    const NOW: Micros = Micros::new(5_000);

    fn early(policy: FlushPolicy) -> (GroupId, PersistTicket) {
        (GroupId::new(1), PersistTicket::Early(PersistSeq::new(1), policy))
    }

    fn batch(threshold: u64, interval_ms: u64) -> FlushPolicy {
        FlushPolicy::Batch { threshold, interval: Duration::from_millis(interval_ms) }
    }

    #[test]
    fn the_earliest_deadline_and_the_least_threshold_hold_for_all() {
        let mut flush = Flush::default();
        assert_eq!(flush.due(NOW), None);
        flush.note(NOW, 0, early(batch(100, 50)), 3);
        assert_eq!(flush.due(NOW), Some(Micros::new(55_000)));
        flush.note(NOW, 0, early(batch(7, 80)), 3);
        assert_eq!(flush.due(NOW), Some(Micros::new(55_000)));
        flush.note(Micros::new(6_000), 0, early(batch(100, 50)), 1);
        assert_eq!(flush.due(Micros::new(6_000)), Some(Micros::new(6_000)), "7 entries wait");
        assert_eq!(flush.take_early().len(), 3);
        flush.departed();
        assert_eq!(flush.due(NOW), None);
    }

    #[test]
    fn what_is_counted_on_disk_takes_along_what_waits() {
        for ticket in [
            (GroupId::new(2), PersistTicket::Op(PersistSeq::new(4))),
            (GroupId::new(2), PersistTicket::Create),
            early(FlushPolicy::Immediate),
        ] {
            let mut flush = Flush::default();
            flush.note(NOW, 0, early(batch(100, 50)), 1);
            let later = Micros::new(7_000);
            flush.note(later, 1, ticket, 1);
            assert_eq!(flush.due(later), Some(later), "{ticket:?}");
        }
    }

    #[test]
    fn no_more_than_the_bound_waits() {
        let mut flush = Flush::default();
        flush.note(NOW, 0, early(batch(u64::MAX, 50)), 1);
        flush.wrote(WAIT_BYTES_MAX - 1);
        assert!(flush.due(NOW) > Some(NOW));
        flush.wrote(1);
        assert_eq!(flush.due(NOW), Some(NOW));
    }
}
