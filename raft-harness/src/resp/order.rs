//! Keeps one connection's commands on one slot in the order the client sent them.
//!
//! Operations of one connection run side by side: a read may be answered from a state older
//! than a write sent just before it, or newer than one sent just after. So within one slot a
//! read waits for earlier writes, and a write for earlier reads. Reads pass reads, and writes
//! follow writes without waiting because a group's log keeps their order. Different slots never
//! wait: a client that wants an order between two keys waits for the first reply.
//!
//! Cost: one map entry per slot with something in flight; nothing is ever scanned.
//!
//! Invariant: once something is held, all that follows on that slot is held behind it.

use std::collections::{HashMap, VecDeque};

use super::backend::OperationKind;

/// The slots on which one connection has something in flight.
#[derive(Debug, Default)]
pub(super) struct SlotOrder {
    slots: HashMap<u16, Traffic>,
}

#[derive(Debug, Default)]
struct Traffic {
    reads: u32,
    writes: u32,
    /// A write is being tried again; nothing may overtake it.
    exclusive: bool,
    /// Sequence numbers of what waits.
    held: VecDeque<(u64, OperationKind)>,
}

impl Traffic {
    fn admits(&self, kind: OperationKind) -> bool {
        match kind {
            OperationKind::Read => self.writes == 0,
            OperationKind::Write => self.reads == 0 && !self.exclusive,
        }
    }

    fn count(&mut self, kind: OperationKind) -> &mut u32 {
        match kind {
            OperationKind::Read => &mut self.reads,
            OperationKind::Write => &mut self.writes,
        }
    }
}

impl SlotOrder {
    /// Whether the operation may start now; if not, [`finish`](Self::finish) will name it.
    pub(super) fn admit(&mut self, slot: u16, kind: OperationKind, sequence: u64) -> bool {
        let traffic = self.slots.entry(slot).or_default();
        if traffic.held.is_empty() && traffic.admits(kind) {
            *traffic.count(kind) += 1;
            true
        } else {
            traffic.held.push_back((sequence, kind));
            false
        }
    }

    /// An operation that had started is over; those that may start now are pushed to `released`.
    pub(super) fn finish(&mut self, slot: u16, kind: OperationKind, released: &mut Vec<u64>) {
        let Some(traffic) = self.slots.get_mut(&slot) else {
            return;
        };
        let count = traffic.count(kind);
        *count = count.saturating_sub(1);
        traffic.exclusive = false;
        while let Some(&(sequence, kind)) = traffic.held.front() {
            if !traffic.admits(kind) {
                break;
            }
            traffic.held.pop_front();
            *traffic.count(kind) += 1;
            released.push(sequence);
        }
        if traffic.reads == 0 && traffic.writes == 0 {
            // Nothing is held now, for with nothing in flight everything is admitted.
            self.slots.remove(&slot);
        }
    }

    /// The oldest write of the slot will be tried again: these later ones, refused as well, go
    /// back to the head of those who wait, and nothing overtakes it.
    pub(super) fn retry_alone(&mut self, slot: u16, later_writes: &[u64]) {
        let Some(traffic) = self.slots.get_mut(&slot) else {
            return;
        };
        traffic.exclusive = true;
        for &sequence in later_writes.iter().rev() {
            traffic.writes = traffic.writes.saturating_sub(1);
            traffic.held.push_front((sequence, OperationKind::Write));
        }
    }

    /// Whether nothing is in flight.
    #[cfg(test)]
    pub(super) fn is_idle(&self) -> bool {
        self.slots.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::OperationKind::{Read, Write};
    use super::*;

    fn finish(order: &mut SlotOrder, slot: u16, kind: OperationKind) -> Vec<u64> {
        let mut released = Vec::new();
        order.finish(slot, kind, &mut released);
        released
    }

    #[test]
    fn a_read_waits_for_all_earlier_writes_of_its_slot_only() {
        let mut order = SlotOrder::default();
        assert!(order.admit(7, Write, 1));
        assert!(order.admit(7, Write, 2));
        assert!(!order.admit(7, Read, 3));
        assert!(order.admit(8, Read, 4));
        assert!(finish(&mut order, 7, Write).is_empty());
        assert_eq!(finish(&mut order, 7, Write), [3]);
        assert!(finish(&mut order, 7, Read).is_empty());
        assert!(finish(&mut order, 8, Read).is_empty());
        assert!(order.is_idle());
    }

    #[test]
    fn a_write_waits_for_earlier_reads_and_nothing_overtakes_what_waits() {
        let mut order = SlotOrder::default();
        assert!(order.admit(7, Read, 1));
        assert!(!order.admit(7, Write, 2));
        assert!(!order.admit(7, Write, 3));
        assert!(!order.admit(7, Read, 4));
        assert!(!order.admit(7, Read, 5));
        assert!(!order.admit(7, Write, 6));
        assert_eq!(finish(&mut order, 7, Read), [2, 3]);
        assert!(finish(&mut order, 7, Write).is_empty());
        assert_eq!(finish(&mut order, 7, Write), [4, 5]);
        assert!(finish(&mut order, 7, Read).is_empty());
        assert_eq!(finish(&mut order, 7, Read), [6]);
        assert!(finish(&mut order, 7, Write).is_empty());
        assert!(order.is_idle());
    }

    #[test]
    fn a_write_tried_again_keeps_its_place_before_later_writes() {
        let mut order = SlotOrder::default();
        for sequence in 1..=3 {
            assert!(order.admit(7, Write, sequence));
        }
        order.retry_alone(7, &[2, 3]);
        assert!(!order.admit(7, Write, 4));
        assert_eq!(finish(&mut order, 7, Write), [2, 3, 4]);
        for _ in 0..3 {
            assert!(finish(&mut order, 7, Write).is_empty());
        }
        assert!(order.is_idle());
    }
}
