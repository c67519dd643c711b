//! Room for messages that no window holds: one pool for all lanes of a node.
//!
//! A message above a quarter of its lane's window is not sent on the lane's credit, or halves of
//! several could fill the window and none would ever be whole. Its sender announces it, and goes
//! on when the receiver's node has room for all of it.
//!
//! Invariant: whoever asked first is given first, so no long message waits for ever behind shorter
//! ones. One that is longer than the whole pool has it for itself.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::network::peer_registry::Watcher;

/// What half-received long messages of a node may take. Clones share it.
#[derive(Clone, Debug)]
pub struct GrantPool(Arc<Shared>);

struct Shared {
    bytes_max: u64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    next: u64,
    /// Given and not given back.
    used: u64,
    /// Who asked, in order, and for how much.
    asked: VecDeque<(u64, u64)>,
    /// One per set of lanes.
    watchers: Vec<Weak<Watcher>>,
}

/// A message that is to be received, or is being. Dropping it gives the room back.
#[derive(Debug)]
pub(crate) struct Claim {
    pool: GrantPool,
    number: u64,
    bytes: u64,
    is_granted: bool,
}

impl GrantPool {
    /// The default bound, in bytes: two of the longest frames.
    pub const BYTES_MAX: u64 = 128 << 20;

    /// A pool of so many bytes. Should it be smaller than a message, the message has it alone.
    pub fn new(bytes_max: u64) -> Self {
        Self(Arc::new(Shared { bytes_max, state: Mutex::default() }))
    }

    /// Bytes that are granted now.
    pub fn used(&self) -> u64 {
        self.0.state.lock().used
    }

    /// Bytes that are asked for and not granted yet.
    pub fn asked(&self) -> u64 {
        self.0.state.lock().asked.iter().map(|(_, bytes)| bytes).sum()
    }

    /// Wakes a set of lanes when there may be room for what it has asked for.
    pub(crate) fn watch(&self, watcher: &Arc<Watcher>) {
        let mut state = self.0.state.lock();
        state.watchers.retain(|watcher| watcher.strong_count() > 0);
        state.watchers.push(Arc::downgrade(watcher));
    }

    pub(crate) fn ask(&self, bytes: u64) -> Claim {
        let mut state = self.0.state.lock();
        let number = state.next;
        state.next += 1;
        state.asked.push_back((number, bytes));
        Claim { pool: self.clone(), number, bytes, is_granted: false }
    }

    fn changed(&self) {
        let watchers: Vec<_> = {
            let state = self.0.state.lock();
            if state.asked.is_empty() {
                return;
            }
            state.watchers.iter().filter_map(Weak::upgrade).collect()
        };
        for watcher in watchers {
            watcher.wake();
        }
    }
}

impl Default for GrantPool {
    fn default() -> Self {
        Self::new(Self::BYTES_MAX)
    }
}

impl Claim {
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes the room if it is there and nobody asked before; `true` once.
    pub(crate) fn is_due(&mut self) -> bool {
        if self.is_granted {
            return false;
        }
        {
            let mut state = self.pool.0.state.lock();
            let is_first = state.asked.front().is_some_and(|(number, _)| *number == self.number);
            let fits = state.used == 0 || state.used + self.bytes <= self.pool.0.bytes_max;
            if !is_first || !fits {
                return false;
            }
            state.asked.pop_front();
            state.used += self.bytes;
        }
        self.is_granted = true;
        self.pool.changed();
        true
    }

    pub(crate) fn is_granted(&self) -> bool {
        self.is_granted
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        {
            let mut state = self.pool.0.state.lock();
            if self.is_granted {
                state.used -= self.bytes;
            } else {
                state.asked.retain(|(number, _)| *number != self.number);
            }
        }
        self.pool.changed();
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = self.state.lock();
        write!(f, "{} of {} bytes, {} asked", state.used, self.bytes_max, state.asked.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asked_first_is_given_first_and_what_is_given_back_goes_on() {
        let pool = GrantPool::new(100);
        let mut claims = [60, 60, 30].map(|bytes| pool.ask(bytes));
        let due = |claims: &mut [Claim]| claims.iter_mut().map(Claim::is_due).collect::<Vec<_>>();
        assert_eq!(due(&mut claims), [true, false, false], "the third waits behind the second");
        let [first, second, third] = claims;
        drop(first);
        let mut claims = [second, third];
        assert_eq!(due(&mut claims), [true, true]);
        assert_eq!((pool.used(), pool.asked()), (90, 0));
        drop(claims);
        assert_eq!(pool.used(), 0);
    }

    #[test]
    fn one_that_is_longer_than_the_pool_has_it_alone() {
        let pool = GrantPool::new(100);
        let mut small = pool.ask(1);
        assert!(small.is_due());
        let mut long = pool.ask(1000);
        assert!(!long.is_due());
        drop(small);
        assert!(long.is_due() && long.is_granted());
        let mut next = pool.ask(1);
        assert!(!next.is_due());
        drop(long);
        assert!(next.is_due());
    }

    #[test]
    fn who_gives_up_waiting_holds_nobody_up() {
        let pool = GrantPool::new(100);
        let mut first = pool.ask(100);
        assert!(first.is_due());
        let (second, mut third) = (pool.ask(80), pool.ask(80));
        drop(second);
        drop(first);
        assert!(third.is_due());
    }
}
