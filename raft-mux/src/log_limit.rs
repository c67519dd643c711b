//! Warnings about peers, at a rate that peers cannot choose.
//!
//! Anyone who reaches the port can cause an "unknown group" thousands of times a second. One line
//! per interval, with the number left out since the last, tells the operator as much.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Shortest time between two warnings of one kind.
const INTERVAL: Duration = Duration::from_secs(10);

/// Decides which warnings of one kind are written.
#[derive(Debug, Default)]
pub(crate) struct LogLimit {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    last: Option<Instant>,
    suppressed: u64,
}

impl LogLimit {
    /// `Some(suppressed)` if a warning may be written now; `suppressed` are those since the last.
    pub(crate) fn permit(&self, now: Instant) -> Option<u64> {
        let mut state = self.state.lock();
        if state.last.is_some_and(|last| now.saturating_duration_since(last) < INTERVAL) {
            state.suppressed += 1;
            return None;
        }
        state.last = Some(now);
        Some(std::mem::take(&mut state.suppressed))
    }
}

#[cfg(all(test, not(loom_model)))]
mod tests {
    use super::*;

    #[test]
    fn one_warning_per_interval_tells_how_many_were_left_out() {
        let limit = LogLimit::default();
        let start = Instant::now();
        assert_eq!(limit.permit(start), Some(0));
        for millis in [0, 1, 9_999] {
            assert_eq!(limit.permit(start + Duration::from_millis(millis)), None);
        }
        assert_eq!(limit.permit(start + INTERVAL), Some(3));
        assert_eq!(limit.permit(start + INTERVAL * 2), Some(0));
    }
}
