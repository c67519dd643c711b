//! All of the log is read once in a while, so that damage is found while others still have what it took.
//!
//! An open reads what follows the newest checkpoint, and an entry is read when somebody needs it. What
//! lies between may rot for years, on one replica after the other. So the thread that reads the log for
//! peers reads on through all of it when nobody asks it for anything, a quarter of a MiB at a time, so
//! slowly that it is through once in the time it was given.

use std::time::{Duration, Instant};

use raft_storage::{LogReader, ReadError, Scrub};

/// Read at once. A disk does that in a millisecond, so whoever waits for it waits no longer.
const PIECE_BYTES: u64 = 256 << 10;
/// Between two pieces at least, however much there is to be read.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// A walk through the log that begins again when it is through.
pub(crate) struct LogScrub {
    /// `None`: it stands still.
    period: Option<Duration>,
    at: Scrub,
    /// How much the last walk read, and this one so far.
    before: u64,
    bytes: u64,
    next: Instant,
}

/// What came of a step.
pub(crate) struct Step {
    pub(crate) bytes: u64,
    pub(crate) is_through: bool,
    pub(crate) damage: Option<ReadError>,
}

impl LogScrub {
    pub(crate) fn new(period: Option<Duration>, now: Instant) -> Self {
        let next = now + PAUSE_MAX.min(period.unwrap_or(PAUSE_MAX));
        Self { period, at: Scrub::default(), before: 0, bytes: 0, next }
    }

    /// When the next step is due; `None`: never.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.period.map(|_| self.next)
    }

    pub(crate) fn step(&mut self, reader: &LogReader, now: Instant) -> Step {
        let scrubbed = reader.scrub(self.at, PIECE_BYTES);
        self.bytes += scrubbed.bytes;
        let is_through = scrubbed.next.is_none();
        self.at = scrubbed.next.unwrap_or_default();
        if is_through {
            self.before = std::mem::take(&mut self.bytes);
        }
        self.next = now + self.pause();
        Step { bytes: scrubbed.bytes, is_through, damage: scrubbed.damage }
    }

    /// So long between two pieces that all of them take the whole period, by what there was last time.
    fn pause(&self) -> Duration {
        let pieces = self.before.max(self.bytes).div_ceil(PIECE_BYTES).max(1);
        let period = self.period.unwrap_or(PAUSE_MAX);
        let pause = period / u32::try_from(pieces).unwrap_or(u32::MAX);
        pause.clamp(PAUSE_MIN, PAUSE_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_takes_its_time_and_no_step_is_rushed() {
        let now = Instant::now();
        let day = Duration::from_secs(86_400);
        let mut scrub = LogScrub::new(Some(day), now);
        assert_eq!(scrub.pause(), PAUSE_MAX);
        // 27 GiB a day: a piece each 0.8 s.
        scrub.before = 27 << 30;
        assert_eq!(scrub.pause().as_millis(), 781);
        scrub.before = 1 << 60;
        assert_eq!(scrub.pause(), PAUSE_MIN);
        assert_eq!(LogScrub::new(None, now).due(), None);
    }
}
