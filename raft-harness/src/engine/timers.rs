//! Deadlines of many groups in one heap, re-armed lazily.
//!
//! A follower's deadline moves away with every heartbeat. Moving it in the heap each time would
//! cost more than the heartbeat; instead the armed time stays, and a group that wakes too early
//! is armed again for its real deadline. So each group has at most one entry that matters, and
//! one that is not yet due costs nothing.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use raft_core::Micros;

#[derive(Debug, Default)]
pub(crate) struct Timers {
    heap: BinaryHeap<Reverse<(Micros, u32)>>,
}

/// The time a slot is armed for, kept with the slot.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Armed(Option<Micros>);

impl Timers {
    /// Sees to it that the slot wakes no later than `deadline`.
    pub(crate) fn arm(&mut self, slot: u32, armed: &mut Armed, deadline: Option<Micros>) {
        let Some(deadline) = deadline else { return };
        if armed.0.is_none_or(|at| deadline < at) {
            armed.0 = Some(deadline);
            self.heap.push(Reverse((deadline, slot)));
        }
    }

    /// The next moment something is armed for. May be early, never late.
    pub(crate) fn next(&self) -> Option<Micros> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }

    /// The next slot whose armed time has come, with that time.
    pub(crate) fn pop(&mut self, now: Micros) -> Option<(u32, Micros)> {
        let Reverse((at, slot)) = *self.heap.peek()?;
        if at > now {
            return None;
        }
        self.heap.pop();
        Some((slot, at))
    }

    /// Whether a popped time is the one the slot was armed for; if so, it is armed no more.
    pub(crate) fn fired(armed: &mut Armed, at: Micros) -> bool {
        if armed.0 == Some(at) {
            armed.0 = None;
            true
        } else {
            false
        }
    }
}
