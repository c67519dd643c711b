//! A node's clocks: one that drifts, and one that jumps.

use raft_core::{LogTime, Micros};

/// One life's clocks against virtual time.
#[derive(Clone, Copy, Debug)]
pub(super) struct NodeClock {
    /// When the life began, in virtual microseconds.
    born: u64,
    /// How much faster or slower than virtual time it runs, in parts per million.
    drift_ppm: i64,
    /// How far the wall clock is off, in milliseconds.
    pub(super) wall_offset_ms: i64,
}

/// The wall clocks start here: some morning in 2026, in milliseconds.
const EPOCH_MS: i64 = 1_790_000_000_000;

impl NodeClock {
    pub(super) fn new(born: u64, drift_ppm: i64, wall_offset_ms: i64) -> Self {
        Self { born, drift_ppm, wall_offset_ms }
    }

    fn rate(self) -> i128 {
        1_000_000 + i128::from(self.drift_ppm)
    }

    /// The monotonic clock at a virtual moment.
    pub(super) fn local(self, at: u64) -> Micros {
        let since = i128::from(at.saturating_sub(self.born));
        Micros::new((since * self.rate() / 1_000_000) as u64)
    }

    /// The first virtual moment at which the monotonic clock shows this.
    pub(super) fn global(self, local: Micros) -> u64 {
        let scaled = i128::from(local.get()) * 1_000_000;
        let since = (scaled + self.rate() - 1) / self.rate();
        self.born.saturating_add(u64::try_from(since).unwrap_or(u64::MAX))
    }

    /// What a wall clock that is right shows at a virtual moment.
    pub(super) fn right(at: u64) -> LogTime {
        Self::new(0, 0, 0).wall(at)
    }

    /// The wall clock at a virtual moment.
    pub(super) fn wall(self, at: u64) -> LogTime {
        let shown = EPOCH_MS + (at / 1000) as i64 + self.wall_offset_ms;
        LogTime::new(shown.max(0) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_never_early_and_at_most_a_tick_late() {
        for drift in [-200_000, -50, 0, 50, 200_000] {
            let clock = NodeClock::new(1234, drift, 0);
            for local in [0, 1, 999, 1_000_000, 59_999_999] {
                let local = Micros::new(local);
                let at = clock.global(local);
                assert!(clock.local(at) >= local, "{drift} {local:?}");
                assert!(at == 1234 || clock.local(at - 1) < local, "{drift} {local:?}");
            }
        }
    }
}
