//! What lies ahead: events by time, and among equals by the order they were made.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// A queue of events in virtual time.
#[derive(Debug)]
pub(crate) struct EventQueue<E> {
    heap: BinaryHeap<Reverse<(u64, u64, usize)>>,
    slots: Vec<Option<E>>,
    free: Vec<usize>,
    made: u64,
}

impl<E> Default for EventQueue<E> {
    fn default() -> Self {
        Self { heap: BinaryHeap::new(), slots: Vec::new(), free: Vec::new(), made: 0 }
    }
}

impl<E> EventQueue<E> {
    pub(crate) fn push(&mut self, at: u64, event: E) {
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot] = Some(event);
                slot
            }
            None => {
                self.slots.push(Some(event));
                self.slots.len() - 1
            }
        };
        self.made += 1;
        self.heap.push(Reverse((at, self.made, slot)));
    }

    /// The next event up to `end`, with its time.
    pub(crate) fn pop(&mut self, end: u64) -> Option<(u64, E)> {
        let Reverse((at, _, _)) = self.heap.peek()?;
        if *at > end {
            return None;
        }
        let Reverse((at, _, slot)) = self.heap.pop()?;
        self.free.push(slot);
        self.slots[slot].take().map(|event| (at, event))
    }

    /// How many events were made.
    pub(crate) const fn made(&self) -> u64 {
        self.made
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_by_time_and_then_in_the_order_they_were_made() {
        let mut queue = EventQueue::default();
        for (at, name) in [(5, "e"), (1, "a"), (5, "f"), (1, "b"), (3, "c")] {
            queue.push(at, name);
        }
        let mut order = Vec::new();
        while let Some((_, name)) = queue.pop(4) {
            order.push(name);
        }
        queue.push(4, "d");
        while let Some((_, name)) = queue.pop(9) {
            order.push(name);
        }
        assert_eq!(order, ["a", "b", "c", "d", "e", "f"]);
    }
}
