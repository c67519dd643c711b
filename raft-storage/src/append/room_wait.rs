//! Waiting for room that was there already.
//!
//! A segment has its room before it is used, and a write into it needs none. That is so where blocks are
//! overwritten in place. File systems that copy on write (btrfs, ZFS), and volumes that give out blocks when
//! they are written (thin ones, or with a snapshot beneath), may find none for a write into what was
//! reserved, or into a segment that is used again; and then in the middle of a frame.
//!
//! A full disk is no failure, at any moment. So such a write is made again, as a whole, until there is
//! room: what it left is overwritten, and nothing that counts lies behind it. Until then nothing is
//! acknowledged and nothing else is written, as whatever follows lies behind it. A sync that finds no
//! room is another matter: what it should have made durable may be gone from memory, and it is final like
//! any failed sync. Direct writes, which are the rule, hear of it when they are made.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether a log waits for room in the middle of a write, seen from other threads. Clones are of the
/// same log.
#[derive(Clone, Debug, Default)]
pub struct RoomWait {
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    waits: AtomicBool,
    is_over: AtomicBool,
}

impl RoomWait {
    /// Whether a write is under way that has found no room and is tried again.
    pub fn waits(&self) -> bool {
        self.state.waits.load(Ordering::Relaxed)
    }

    /// Nobody waits for room from now on: a write that finds none fails, and with it the log. For who
    /// stops a log that may wait for ever.
    pub fn give_up(&self) {
        self.state.is_over.store(true, Ordering::Relaxed);
    }

    /// Waits by `wait`, which says whether to try again.
    pub(crate) fn wait(&self, wait: impl FnOnce() -> bool) -> bool {
        self.state.waits.store(true, Ordering::Relaxed);
        // Asked after it as well: it may take its time.
        let is_over = || self.state.is_over.load(Ordering::Relaxed);
        !is_over() && wait() && !is_over()
    }

    /// Whatever was waited for has come, or will not.
    pub(crate) fn ended(&self) {
        self.state.waits.store(false, Ordering::Relaxed);
    }
}
