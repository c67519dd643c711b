//! The node's clocks: a monotonic one for the protocol, the wall clock for log time.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use raft_core::{LogTime, Micros};

#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    start: Instant,
}

impl Clock {
    pub(crate) fn new() -> Self {
        Self { start: Instant::now() }
    }

    pub(crate) fn now(self) -> Micros {
        Micros::new(self.start.elapsed().as_micros() as u64)
    }

    /// When a moment of this clock comes, on the runtime's clock.
    pub(crate) fn instant(self, at: Micros) -> tokio::time::Instant {
        let start = tokio::time::Instant::from_std(self.start);
        start + std::time::Duration::from_micros(at.get())
    }

    /// Milliseconds since the Unix epoch; zero if the machine's clock is set before it.
    pub(crate) fn wall() -> LogTime {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        LogTime::new(since.as_millis() as u64)
    }
}
