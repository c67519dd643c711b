//! How long to wait before dialing again.

use std::time::Duration;

/// A pause that doubles from `min` to `max`, cut at random by up to half so that the lanes of a
/// restarted node do not all come at once.
#[derive(Debug)]
pub(crate) struct Backoff {
    min: Duration,
    max: Duration,
    next: Duration,
    random: u64,
}

impl Backoff {
    pub(crate) fn new(min: Duration, max: Duration, seed: u64) -> Self {
        // The generator stands still at zero.
        Self { min, max, next: min, random: seed | 1 }
    }

    pub(crate) fn max(&self) -> Duration {
        self.max
    }

    pub(crate) fn reset(&mut self) {
        self.next = self.min;
    }

    /// The pause after one more failure.
    pub(crate) fn failed(&mut self) -> Duration {
        let pause = self.next.min(self.max);
        self.next = pause.saturating_mul(2).min(self.max);
        // xorshift64 (Marsaglia 2003); good enough to tell two dialers apart.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let half = pause / 2;
        let range = u64::try_from(half.as_micros()).unwrap_or(u64::MAX).saturating_add(1);
        pause - Duration::from_micros(self.random % range)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pause_doubles_to_its_cap_within_jitter_and_starts_over_after_reset() {
        for seed in 0..100 {
            let mut backoff =
                Backoff::new(Duration::from_millis(20), Duration::from_millis(400), seed);
            for full in [20, 40, 80, 160, 320, 400, 400, 400] {
                let (pause, full) = (backoff.failed(), Duration::from_millis(full));
                assert!(pause <= full && pause >= full / 2, "seed {seed}: {pause:?} of {full:?}");
            }
            backoff.reset();
            assert!(backoff.failed() <= Duration::from_millis(20), "seed {seed}");
        }
    }

    #[test]
    fn two_dialers_wait_differently() {
        let pauses = |seed| {
            let mut backoff =
                Backoff::new(Duration::from_millis(20), Duration::from_millis(400), seed);
            (0..4).map(|_| backoff.failed()).collect::<Vec<_>>()
        };
        assert_ne!(pauses(2), pauses(4));
    }
}
