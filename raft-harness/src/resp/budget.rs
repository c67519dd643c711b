//! What all clients of a node may take together: connections, and bytes that wait in buffers.
//!
//! The limits of one client say little when there are ten thousand. Ports that share a budget
//! share its numbers: file descriptors and memory are the process's, not a port's.
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
    bytes: Arc<AtomicU64>,
    bytes_max: u64,
}

impl ClientBudget {
    /// Room for so many clients at once, and so many bytes in their buffers.
    pub fn new(connections_max: usize, bytes_max: u64) -> Self {
        let connections_max = connections_max.min(Semaphore::MAX_PERMITS);
        Self {
            connections: Arc::new(Semaphore::new(connections_max)),
            connections_max,
            bytes: Arc::default(),
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
        Charge { budget: self.clone(), bytes: 0 }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    /// How much is not taken; at least one byte, for a query's zero would mean "any number".
    pub(super) fn bytes_left(&self) -> u64 {
        self.bytes_max.saturating_sub(self.bytes()).max(1)
    }
}

/// What one connection has taken of the bytes.
#[derive(Debug)]
pub(super) struct Charge {
    budget: ClientBudget,
    bytes: u64,
}

impl Charge {
    /// From now on the connection holds so many bytes. Whether all clients together still keep
    /// to the budget; the bytes are counted in any case, because they are there.
    pub(super) fn set(&mut self, bytes: u64) -> bool {
        let old = std::mem::replace(&mut self.bytes, bytes);
        if bytes <= old {
            if bytes < old {
                self.budget.bytes.fetch_sub(old - bytes, Relaxed);
            }
            return true;
        }
        let grown = bytes - old;
        self.budget.bytes.fetch_add(grown, Relaxed).saturating_add(grown) <= self.budget.bytes_max
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.set(0);
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
        assert!(one.set(60) && two.set(40));
        assert!(!two.set(41), "over by one byte");
        assert!(two.set(10), "less is always allowed");
        assert_eq!((budget.bytes(), budget.bytes_left()), (70, 30));
        drop(one);
        assert_eq!(budget.bytes(), 10);
        assert!(two.set(100));
        assert_eq!(budget.bytes_left(), 1);
    }
}
