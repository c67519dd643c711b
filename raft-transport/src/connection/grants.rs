//! Room for messages that no window holds: one pool for all lanes of a node.
//!
//! A message above a quarter of its lane's window is not sent on the lane's credit, or halves of
//! several could fill the window and none would ever be whole. Its sender announces it, and goes
//! on when the receiver's node has room for all of it.
//!
//! Invariants:
//! - Whoever asked first is given first, so no long message waits for ever behind shorter ones.
//!   One that is longer than the whole pool has it for itself.
//! - A peer that has some is given no more than half of the pool, so one that is slow, or does not
//!   send what it announced, leaves room to others.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use raft_core::NodeId;

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
    /// The same, by whom it was given to.
    held: BTreeMap<NodeId, u64>,
    /// Who asked, in order, and for how much.
    asked: VecDeque<Asked>,
    /// One per set of lanes.
    watchers: Vec<Weak<Watcher>>,
}

#[derive(Debug)]
struct Asked {
    number: u64,
    peer: NodeId,
    bytes: u64,
}

/// A message that is to be received, or is being. Dropping it gives the room back.
#[derive(Debug)]
pub(crate) struct Claim {
    pool: GrantPool,
    number: u64,
    peer: NodeId,
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
        self.0.state.lock().asked.iter().map(|asked| asked.bytes).sum()
    }

    /// Wakes a set of lanes when there may be room for what it has asked for.
    pub(crate) fn watch(&self, watcher: &Arc<Watcher>) {
        let mut state = self.0.state.lock();
        state.watchers.retain(|watcher| watcher.strong_count() > 0);
        state.watchers.push(Arc::downgrade(watcher));
    }

    pub(crate) fn ask(&self, peer: NodeId, bytes: u64) -> Claim {
        let mut state = self.0.state.lock();
        let number = state.next;
        state.next += 1;
        state.asked.push_back(Asked { number, peer, bytes });
        Claim { pool: self.clone(), number, peer, bytes, is_granted: false }
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

impl State {
    /// Whether who asks has nothing yet, or would have half of the room at most.
    fn is_modest(&self, asked: &Asked, bytes_max: u64) -> bool {
        let held = self.held.get(&asked.peer);
        held.is_none_or(|held| held.saturating_add(asked.bytes) <= bytes_max / 2)
    }

    fn gives_back(&mut self, peer: NodeId, bytes: u64) {
        if let Some(held) = self.held.get_mut(&peer) {
            *held -= bytes;
            if *held == 0 {
                self.held.remove(&peer);
            }
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
            let max = self.pool.0.bytes_max;
            let first = state.asked.iter().position(|asked| state.is_modest(asked, max));
            let Some(at) = first.filter(|at| state.asked[*at].number == self.number) else {
                return false;
            };
            if state.used > 0 && state.used.saturating_add(self.bytes) > max {
                return false;
            }
            state.asked.remove(at);
            state.used = state.used.saturating_add(self.bytes);
            *state.held.entry(self.peer).or_default() += self.bytes;
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
                state.gives_back(self.peer, self.bytes);
            } else {
                state.asked.retain(|asked| asked.number != self.number);
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

    fn ask(pool: &GrantPool, peer: u64, bytes: u64) -> Claim {
        pool.ask(NodeId::new(peer), bytes)
    }

    #[test]
    fn nobody_has_all_of_it_while_others_ask() {
        let pool = GrantPool::new(100);
        let mut greedy = [50, 50, 1].map(|bytes| ask(&pool, 1, bytes));
        assert_eq!(greedy.each_mut().map(Claim::is_due), [true, false, false]);
        let mut modest = ask(&pool, 2, 40);
        assert!(modest.is_due(), "it passes those that have had their part");
        let [first, mut second, mut third] = greedy;
        drop(first);
        assert!(!third.is_due() && second.is_due());
        drop((modest, second));
        assert!(third.is_due());
        drop(third);
        assert_eq!((pool.used(), pool.asked()), (0, 0));
        assert!(pool.0.state.lock().held.is_empty());
    }

    #[test]
    fn who_asked_first_is_given_first_and_what_is_given_back_goes_on() {
        let pool = GrantPool::new(100);
        let mut claims = [(1, 60), (2, 60), (3, 30)].map(|(peer, bytes)| ask(&pool, peer, bytes));
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
        let mut small = ask(&pool, 1, 1);
        assert!(small.is_due());
        let mut long = ask(&pool, 2, 1000);
        assert!(!long.is_due());
        drop(small);
        assert!(long.is_due() && long.is_granted());
        let mut next = ask(&pool, 1, 1);
        assert!(!next.is_due());
        drop(long);
        assert!(next.is_due());
    }

    #[test]
    fn who_gives_up_waiting_holds_nobody_up() {
        let pool = GrantPool::new(100);
        let mut first = ask(&pool, 1, 100);
        assert!(first.is_due());
        let (second, mut third) = (ask(&pool, 2, 80), ask(&pool, 3, 80));
        drop(second);
        drop(first);
        assert!(third.is_due());
    }
}
