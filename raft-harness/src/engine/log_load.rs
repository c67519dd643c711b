//! How much the log has been given that is not durable yet, by all shards together.
//!
//! A disk that hangs or is slow must not fill the memory: what each group may have in flight is
//! bounded, and yet a thousand groups have a thousand times as much. So the node has a bound of
//! its own. Beyond it leaders refuse proposals as overloaded and followers decline entries, as
//! they do while the disk is full; votes, heartbeats and everything else go on.
//!
//! Bound: `max` and one append or command for each shard, as bytes are counted before they are
//! taken and each is taken whole.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Bytes between the shards and the log. Shared by all shards of a node and its log.
#[derive(Debug)]
pub(crate) struct LogLoad {
    bytes: AtomicU64,
    max: u64,
}

impl LogLoad {
    pub(crate) fn new(max: u64) -> Self {
        Self { bytes: AtomicU64::new(0), max }
    }

    /// A shard has taken so much.
    pub(crate) fn add(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Relaxed);
    }

    /// So much is durable, or was counted twice.
    pub(crate) fn remove(&self, bytes: u64) {
        self.bytes.fetch_sub(bytes, Relaxed);
    }

    /// What was taken and is not durable.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    /// What may be.
    pub(crate) fn max(&self) -> u64 {
        self.max
    }

    /// Whether nothing more may be taken.
    pub(crate) fn is_heavy(&self) -> bool {
        self.bytes() >= self.max && !raft_core::planted!(LogBoundForgotten)
    }

    /// Whether it is worth telling peers that entries are taken again.
    pub(crate) fn is_light(&self) -> bool {
        self.bytes() <= self.max / 2
    }
}
