//! Which groups have something to send to a peer, in round-robin order.
//!
//! Groups mark work; lanes pull it when they have room. So nothing is queued that could be
//! dropped, and memory is bounded by groups times peers in marks, not in messages.

use std::collections::VecDeque;

#[derive(Debug, Default)]
pub(crate) struct WorkQueue {
    slots: VecDeque<u32>,
    marked: Vec<bool>,
}

impl WorkQueue {
    pub(crate) fn mark(&mut self, slot: u32) {
        let at = slot as usize;
        if at >= self.marked.len() {
            self.marked.resize(at + 1, false);
        }
        if !self.marked[at] {
            self.marked[at] = true;
            self.slots.push_back(slot);
        }
    }

    pub(crate) fn pop(&mut self) -> Option<u32> {
        let slot = self.slots.pop_front()?;
        self.marked[slot as usize] = false;
        Some(slot)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }
}
