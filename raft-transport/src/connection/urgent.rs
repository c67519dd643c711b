//! What may not wait on the control lane, where a node of one lane sends everything else as well.
//!
//! Such frames ([`is_urgent`](crate::wire::order::is_urgent)) have credit of their own ([`reserved_of`](super::credit::reserved_of)), and a write
//! buffer of their own: they are queued behind what the stream has to take first, however much
//! that is, as long as not too much of their own kind waits there. Both are of no account on
//! lanes where everything is of one kind.

use std::collections::VecDeque;

/// Urgent frames among the bytes that the stream has not taken. One of them is one entry here, so
/// their number is bounded by the bytes they may have together.
#[derive(Debug, Default)]
pub(super) struct UrgentQueue(VecDeque<Queued>);

#[derive(Debug)]
struct Queued {
    /// How many bytes had ever been queued with it.
    end: u64,
    bytes: u64,
}

impl UrgentQueue {
    /// One was queued, the last so far; `written` bytes have left of all that ever were.
    pub(super) fn push(&mut self, end: u64, bytes: u64, written: u64) {
        while self.0.front().is_some_and(|first| first.end <= written) {
            self.0.pop_front();
        }
        self.0.push_back(Queued { end, bytes });
    }

    /// Bytes of those that have not left whole.
    pub(super) fn bytes(&self, written: u64) -> u64 {
        let waiting = self.0.iter().rev().take_while(|queued| queued.end > written);
        waiting.map(|queued| queued.bytes).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_left_is_counted_no_more() {
        let mut queue = UrgentQueue::default();
        queue.push(100, 10, 0);
        queue.push(1_000_100, 10, 50);
        assert_eq!(queue.bytes(99), 20);
        assert_eq!(queue.bytes(100), 10, "however much stands between them");
        queue.push(1_000_120, 20, 1_000_100);
        assert_eq!(queue.0.len(), 1);
        assert_eq!(queue.bytes(1_000_119), 20);
        assert_eq!(queue.bytes(1_000_120), 0);
    }
}
