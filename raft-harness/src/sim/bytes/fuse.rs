//! A node that dies between two effects: of its disk and its sockets, counted together.
//!
//! Everything a process does to the world goes through here. Once the fuse has burnt down the
//! effects that follow do not happen, and the world finds the node dead when its turn is over.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// Counts a node's effects down to its death.
#[derive(Debug)]
pub(super) struct Fuse {
    left: AtomicU64,
    dead: AtomicBool,
}

impl Default for Fuse {
    fn default() -> Self {
        Self { left: AtomicU64::new(u64::MAX), dead: AtomicBool::new(false) }
    }
}

impl Fuse {
    /// So many effects still happen, then none.
    pub(super) fn light(&self, effects: u64) {
        self.left.store(effects, Relaxed);
    }

    /// An effect is about to happen; `false` if the node is dead and it must not.
    pub(super) fn burn(&self) -> bool {
        if self.dead.load(Relaxed) {
            return false;
        }
        match self.left.load(Relaxed) {
            u64::MAX => true,
            0 => {
                self.dead.store(true, Relaxed);
                false
            }
            left => {
                self.left.store(left - 1, Relaxed);
                true
            }
        }
    }

    /// Whether the node died of it.
    pub(super) fn is_dead(&self) -> bool {
        self.dead.load(Relaxed)
    }

    /// A new life.
    pub(super) fn replace(&self) {
        self.left.store(u64::MAX, Relaxed);
        self.dead.store(false, Relaxed);
    }

    /// The process is gone for another reason: whatever it still holds does nothing more.
    pub(super) fn put_out(&self) {
        self.dead.store(true, Relaxed);
    }
}
