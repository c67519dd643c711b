//! What has happened on the port, in numbers.
//!
//! Invariant: each accepted connection ends in exactly one counter, so at rest
//! `accepted` is the sum of [`MuxStats::accounted`].

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A snapshot of the counters and gauges of one acceptor. Counters only grow.
///
/// The numbers are read one after the other, so they may disagree by connections on the move.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct MuxStats {
    /// Groups registered now.
    pub groups: u64,
    /// Connections in their handshake or prefix now. Never more than `half_open_max`.
    pub half_open: u64,
    /// Connections waiting now for their group to accept them.
    pub queued: u64,
    /// Connections taken from the kernel.
    pub accepted: u64,
    /// Connections given to their group. The mux knows nothing of them afterwards.
    pub handed_off: u64,
    /// Closed because the prefix did not come in time.
    pub prefix_timeouts: u64,
    /// Closed because the peer hung up, or the stream failed, within the prefix.
    pub prefix_failures: u64,
    /// Closed because the handshake failed or took too long.
    pub handshake_failures: u64,
    /// Closed because too many handshakes were under way, of all or of one address.
    pub handshakes_evicted: u64,
    /// Closed because too many were half-open: the oldest of the address that had the most.
    pub half_open_evicted: u64,
    /// Closed because no one has registered the group.
    pub unknown_group: u64,
    /// Closed because the queue of the group was full.
    pub queue_full_dropped: u64,
    /// Closed, half-open or queued, because the group was unregistered or the acceptor closed.
    pub discarded: u64,
    /// Times the listener failed to accept.
    pub accept_errors: u64,
}

impl MuxStats {
    /// Connections whose whereabouts or end the snapshot knows: `accepted`, when nothing moves.
    #[must_use]
    pub const fn accounted(&self) -> u64 {
        self.half_open
            + self.queued
            + self.handed_off
            + self.prefix_timeouts
            + self.prefix_failures
            + self.handshake_failures
            + self.handshakes_evicted
            + self.half_open_evicted
            + self.unknown_group
            + self.queue_full_dropped
            + self.discarded
    }
}

/// The counters behind [`MuxStats`]; the gauges are asked where they live.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) accepted: Counter,
    pub(crate) handed_off: Counter,
    pub(crate) prefix_timeouts: Counter,
    pub(crate) prefix_failures: Counter,
    pub(crate) handshake_failures: Counter,
    pub(crate) handshakes_evicted: Counter,
    pub(crate) half_open_evicted: Counter,
    pub(crate) unknown_group: Counter,
    pub(crate) queue_full_dropped: Counter,
    pub(crate) discarded: Counter,
    pub(crate) accept_errors: Counter,
}

impl Counters {
    pub(crate) fn snapshot(&self, groups: usize, half_open: usize, queued: usize) -> MuxStats {
        MuxStats {
            groups: groups as u64,
            half_open: half_open as u64,
            queued: queued as u64,
            accepted: self.accepted.value(),
            handed_off: self.handed_off.value(),
            prefix_timeouts: self.prefix_timeouts.value(),
            prefix_failures: self.prefix_failures.value(),
            handshake_failures: self.handshake_failures.value(),
            handshakes_evicted: self.handshakes_evicted.value(),
            half_open_evicted: self.half_open_evicted.value(),
            unknown_group: self.unknown_group.value(),
            queue_full_dropped: self.queue_full_dropped.value(),
            discarded: self.discarded.value(),
            accept_errors: self.accept_errors.value(),
        }
    }
}

/// A number that only grows and orders nothing else.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn bump(&self) {
        self.add(1);
    }

    pub(crate) fn add(&self, count: usize) {
        self.0.fetch_add(count as u64, Relaxed);
    }

    fn value(&self) -> u64 {
        self.0.load(Relaxed)
    }
}
