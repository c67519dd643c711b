//! What all clients of a node may take together: connections, and memory.
//!
//! The limits of one client say little when there are ten thousand. Ports that share a budget
//! share its numbers: file descriptors and memory are the process's, not a port's.
//!
//! Two numbers are kept: what clients *hold* (their buffers' memory, requests, answers that wait)
//! and what is *promised* to answers that are still to come. Held beyond the limit, a request
//! that is large and unfinished is refused; both together beyond it, nobody who has more than a
//! little takes up another request.
//!
//! Invariant: what a connection took is given back when it ends, however it ends.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A share of connections and bytes for all clients of some ports. Clones are the same budget.
#[derive(Clone, Debug)]
pub struct ClientBudget {
    connections: Arc<Semaphore>,
    connections_max: usize,
    held: Arc<AtomicU64>,
    promised: Arc<AtomicU64>,
    bytes_max: u64,
}

impl ClientBudget {
    /// Room for so many clients at once, and so many bytes of memory for them.
    pub fn new(connections_max: usize, bytes_max: u64) -> Self {
        let connections_max = connections_max.min(Semaphore::MAX_PERMITS);
        Self {
            connections: Arc::new(Semaphore::new(connections_max)),
            connections_max,
            held: Arc::default(),
            promised: Arc::default(),
            bytes_max,
        }
    }

    pub(super) fn connections_max(&self) -> usize {
        self.connections_max
    }

    /// A place for one more client, if there is one; free again when it is dropped.
    pub(super) fn connection(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.connections).try_acquire_owned().ok()
    }

    /// Nothing yet; what is charged to it is given back when it is dropped.
    pub(super) fn charge(&self) -> Charge {
        Charge { budget: self.clone(), held: 0, promised: 0 }
    }

    /// What clients hold.
    pub(super) fn bytes(&self) -> u64 {
        self.held.load(Relaxed)
    }

    /// Whether clients hold more than they may.
    pub(super) fn is_exceeded(&self) -> bool {
        self.bytes() > self.bytes_max
    }

    /// Whether nothing is left to be promised.
    pub(super) fn is_taken(&self) -> bool {
        self.bytes_left() == 0
    }

    /// How much is neither held nor promised.
    pub(super) fn bytes_left(&self) -> u64 {
        let taken = self.bytes().saturating_add(self.promised.load(Relaxed));
        self.bytes_max.saturating_sub(taken)
    }

    /// Promises so many bytes, until the result is dropped; `None` if they are not left.
    pub(super) fn promise(&self, bytes: u64) -> Option<Charge> {
        let mut charge = self.charge();
        charge.set(0, bytes);
        let taken = self.bytes().saturating_add(self.promised.load(Relaxed));
        (taken <= self.bytes_max).then_some(charge)
    }
}

/// What one connection has taken of the bytes.
#[derive(Debug)]
pub(super) struct Charge {
    budget: ClientBudget,
    held: u64,
    promised: u64,
}

impl Charge {
    /// From now on the connection holds so many bytes, and as many are promised to it. They are
    /// counted in any case, because they are there.
    pub(super) fn set(&mut self, held: u64, promised: u64) {
        adjust(&self.budget.held, &mut self.held, held);
        adjust(&self.budget.promised, &mut self.promised, promised);
    }

    /// How much the connection has been charged.
    pub(super) fn bytes(&self) -> u64 {
        self.held + self.promised
    }
}

/// Moves a part of a sum, and leaves the shared number alone if the part has not changed.
fn adjust(sum: &AtomicU64, part: &mut u64, to: u64) {
    let from = std::mem::replace(part, to);
    if to > from {
        sum.fetch_add(to - from, Relaxed);
    } else if to < from {
        sum.fetch_sub(from - to, Relaxed);
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.set(0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_taken_is_given_back() {
        let budget = ClientBudget::new(1, 100);
        let place = budget.connection().expect("the first");
        assert!(budget.clone().connection().is_none());
        drop(place);
        assert!(budget.connection().is_some());
        let (mut one, mut two) = (budget.charge(), budget.charge());
        one.set(60, 0);
        two.set(40, 0);
        assert!(budget.is_taken() && !budget.is_exceeded());
        two.set(41, 0);
        assert!(budget.is_exceeded(), "over by one byte");
        two.set(10, 20);
        assert_eq!((budget.bytes(), budget.bytes_left(), two.bytes()), (70, 10, 30));
        assert!(budget.promise(11).is_none());
        let promise = budget.promise(10).expect("just as much is left");
        assert!(budget.is_taken() && !budget.is_exceeded());
        drop((one, promise));
        assert_eq!((budget.bytes(), budget.bytes_left()), (10, 70));
        drop(two);
        assert_eq!((budget.bytes(), budget.bytes_left()), (0, 100));
    }
}
