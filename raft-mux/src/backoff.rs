//! How long to pause after the listener failed to accept.
//!
//! Without a pause a process that has run out of file descriptors spends a core asking again.

use std::io;
use std::time::Duration;

/// A pause that doubles from `min` to `max` and starts over after a success.
#[derive(Debug)]
pub(crate) struct Backoff {
    min: Duration,
    max: Duration,
    next: Duration,
}

impl Backoff {
    pub(crate) fn new(min: Duration, max: Duration) -> Self {
        Self { min, max, next: min }
    }

    pub(crate) fn succeeded(&mut self) {
        self.next = self.min;
    }

    pub(crate) fn failed(&mut self) -> Duration {
        let pause = self.next.min(self.max);
        self.next = pause.saturating_mul(2);
        pause
    }
}

/// Whether the error was about one connection that died before we accepted it. The next one may
/// be fine, so there is no reason to pause.
pub(crate) fn concerns_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
    )
}

#[cfg(all(test, not(loom_model)))]
mod tests {
    use super::*;

    #[test]
    fn pause_doubles_from_5_ms_to_1_s_and_starts_over_after_success() {
        let mut backoff = Backoff::new(Duration::from_millis(5), Duration::from_secs(1));
        for expected in [5, 10, 20, 40, 80, 160, 320, 640, 1000, 1000] {
            assert_eq!(backoff.failed(), Duration::from_millis(expected));
        }
        backoff.succeeded();
        assert_eq!(backoff.failed(), Duration::from_millis(5));
    }
}
