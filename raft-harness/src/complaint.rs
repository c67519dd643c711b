//! Telling of something that may happen thousands of times a second, once in a while.

use std::time::{Duration, Instant};

/// Between two complaints about the same.
pub(crate) const COMPLAINT_PERIOD: Duration = Duration::from_secs(10);

/// One kind of trouble: when it was told of, and how often it was not.
#[derive(Debug, Default)]
pub(crate) struct Complaint {
    told: Option<Instant>,
    suppressed: u64,
}

impl Complaint {
    /// Whether to complain now, and about how many cases nobody has heard of.
    pub(crate) fn permit(&mut self, now: Instant) -> Option<u64> {
        if self.told.is_some_and(|at| now.duration_since(at) < COMPLAINT_PERIOD) {
            self.suppressed += 1;
            return None;
        }
        self.told = Some(now);
        Some(std::mem::take(&mut self.suppressed))
    }
}
