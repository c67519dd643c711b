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
//! room for what *other calls* have written is another matter: what it should have made durable may be
//! gone from memory, and it is final like any failed sync. One that belongs to the write that is made
//! again, of a frame or of a segment's header, is made again with it. Direct writes, which are the rule,
//! hear of it when they are made.
//!
//! A log that waits can only be ended by somebody who is there to do it. So nobody waits, and finding no room
//! fails the log, before [`RoomWait::allow`]: not an open, nor a tool or a journal that has one thread.

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
    may_wait: AtomicBool,
}

impl RoomWait {
    /// Whether a write is under way that has found no room and is tried again.
    pub fn waits(&self) -> bool {
        self.state.waits.load(Ordering::Relaxed)
    }

    /// From now on a write that finds no room waits for it, for ever: for who can [give it
    /// up](Self::give_up), from another thread. Until then it fails, and with it the log.
    pub fn allow(&self) {
        self.state.may_wait.store(true, Ordering::Relaxed);
    }

    /// Nobody waits for room from now on: a write that finds none fails, and with it the log. For who
    /// stops a log that may wait for ever.
    pub fn give_up(&self) {
        self.state.may_wait.store(false, Ordering::Relaxed);
    }

    /// Waits by `wait`, which says whether to try again.
    pub(crate) fn wait(&self, wait: impl FnOnce() -> bool) -> bool {
        let may_wait = || self.state.may_wait.load(Ordering::Relaxed);
        if !may_wait() {
            return false;
        }
        self.state.waits.store(true, Ordering::Relaxed);
        // Asked after it as well: it may take its time.
        wait() && may_wait()
    }

    /// Whatever was waited for has come, or will not.
    pub(crate) fn ended(&self) {
        self.state.waits.store(false, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_waits_before_it_is_allowed_and_after_it_was_given_up() {
        let room = RoomWait::default();
        assert!(!room.wait(|| true) && !room.waits());
        room.allow();
        assert!(room.wait(|| true) && room.waits());
        assert!(!room.wait(|| false));
        room.ended();
        assert!(!room.waits());
        let other = room.clone();
        assert!(!room.wait(|| {
            other.give_up();
            true
        }));
        room.ended();
        assert!(!room.wait(|| true) && !room.waits());
    }
}
