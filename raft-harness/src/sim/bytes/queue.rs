//! What will happen, by virtual time.
//!
//! Events of one moment come in an order that the seed decides, or a run would only ever see the
//! order in which they were planned.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use crate::sim::rng::Rng;

pub(super) struct Queue<E> {
    heap: BinaryHeap<Item<E>>,
    planned: u64,
    ties: Rng,
}

struct Item<E> {
    at: u64,
    tie: u64,
    event: E,
}

impl<E> Queue<E> {
    pub(super) fn new(ties: Rng) -> Self {
        Self { heap: BinaryHeap::new(), planned: 0, ties }
    }

    pub(super) fn plan(&mut self, at: u64, event: E) {
        self.planned += 1;
        // The count keeps the order total; the drawn bits above it decide.
        let tie = (self.ties.bits() << 40) | (self.planned & ((1 << 40) - 1));
        self.heap.push(Item { at, tie, event });
    }

    /// The next event that is due by `end`.
    pub(super) fn pop(&mut self, end: u64) -> Option<(u64, E)> {
        if self.heap.peek()?.at > end {
            return None;
        }
        self.heap.pop().map(|item| (item.at, item.event))
    }
}

impl<E> Item<E> {
    fn key(&self) -> (u64, u64) {
        (self.at, self.tie)
    }
}

impl<E> PartialEq for Item<E> {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl<E> Eq for Item<E> {}

impl<E> PartialOrd for Item<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Item<E> {
    /// The earliest is the greatest: the heap gives that one out first.
    fn cmp(&self, other: &Self) -> Ordering {
        other.key().cmp(&self.key())
    }
}
