//! Warnings about peers, at a rate that peers cannot choose.

use std::time::Duration;

use raft_core::Micros;

/// Shortest time between two warnings of one kind.
const INTERVAL: Duration = Duration::from_secs(10);

/// Decides which warnings of one kind are written.
#[derive(Debug, Default)]
pub(crate) struct LogLimit {
    last: Option<Micros>,
    suppressed: u64,
}

impl LogLimit {
    /// `Some(suppressed)` if a warning may be written now; `suppressed` are those since the last.
    pub(crate) fn permit(&mut self, now: Micros) -> Option<u64> {
        if self.last.is_some_and(|last| now.since(last) < INTERVAL) {
            self.suppressed += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_warning_per_interval_tells_how_many_were_left_out() {
        let mut limit = LogLimit::default();
        assert_eq!(limit.permit(Micros::ZERO), Some(0));
        for seconds in [0, 1, 9] {
            assert_eq!(limit.permit(Micros::new(seconds * 1_000_000)), None);
        }
        assert_eq!(limit.permit(Micros::new(10_000_000)), Some(3));
    }
}
