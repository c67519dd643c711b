//! Whether the log is stuck in a call, or waits for room: a disk that hangs or is full does not fail,
//! and nobody who waits for it can say so.
//!
//! The threads of the log note when a call of theirs begins and ends; others look at that without asking it.
//! The control plane, which waits for no disk, tells when a stall begins and ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use raft_core::Micros;
use tracing::{info, warn};

use super::clock::Clock;
use crate::counters::Counters;

/// Between two looks at a stall, for its end.
const STALL_PERIOD: Duration = Duration::from_millis(250);

/// Who makes calls of the log.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Caller {
    /// The thread that prepares what is written.
    Desk,
    /// The one that writes it while more is prepared.
    Disk,
}

/// The calls of the log that are under way.
#[derive(Debug)]
pub(crate) struct LogWatch {
    /// A call that takes longer is a stall.
    bound: Duration,
    /// When it began, in microseconds and one, by caller; zero if there is none.
    began: [AtomicU64; 2],
    /// When the disk was found full, in the same way.
    full: AtomicU64,
}

impl LogWatch {
    pub(crate) fn new(bound: Duration) -> Self {
        Self { bound, began: Default::default(), full: AtomicU64::new(0) }
    }

    /// Makes a call of the log.
    pub(crate) fn during<T>(&self, caller: Caller, clock: Clock, call: impl FnOnce() -> T) -> T {
        self.begin(caller, clock.now());
        let result = call();
        self.end(caller);
        result
    }

    fn begin(&self, caller: Caller, now: Micros) {
        self.began[caller as usize].store(now.get() + 1, Relaxed);
    }

    fn end(&self, caller: Caller) {
        self.began[caller as usize].store(0, Relaxed);
    }

    /// When the longest of them began.
    fn began(&self) -> Option<Micros> {
        let began = self.began.iter().filter_map(|began| began.load(Relaxed).checked_sub(1));
        began.min().map(Micros::new)
    }

    /// Notes whether the log waits for room.
    pub(crate) fn note_room(&self, clock: Clock, is_full: bool) {
        match (is_full, self.full.load(Relaxed)) {
            (true, 0) => self.full.store(clock.now().get() + 1, Relaxed),
            (true, _) | (false, 0) => {}
            (false, _) => self.full.store(0, Relaxed),
        }
    }

    /// For how long the log has waited for room, if it does.
    pub(crate) fn without_room(&self, now: Micros) -> Option<Duration> {
        let since = self.full.load(Relaxed).checked_sub(1).map(Micros::new)?;
        Some(now.since(since))
    }

    /// For how long the log has been stuck, if it is.
    pub(crate) fn stalled(&self, now: Micros) -> Option<Duration> {
        let lasts = now.since(self.began()?);
        (lasts >= self.bound).then_some(lasts)
    }
}

/// Tells of stalls.
pub(crate) struct LogWatcher {
    watch: Arc<LogWatch>,
    counters: Arc<Counters>,
    /// How long the stall that was told of had lasted at the last look.
    told: Option<Duration>,
}

impl LogWatcher {
    pub(crate) fn new(watch: Arc<LogWatch>, counters: Arc<Counters>) -> Self {
        Self { watch, counters, told: None }
    }

    /// Looks, and says when to look again.
    pub(crate) fn look(&mut self, now: Micros) -> Micros {
        match (self.watch.stalled(now), self.told) {
            (Some(lasts), told) => {
                if told.is_none() {
                    Counters::add(&self.counters.log_stalls, 1);
                    warn!(
                        ?lasts,
                        "the log is stuck in one call: nothing is acknowledged until the disk \
                         answers"
                    );
                }
                self.told = Some(lasts);
                now.after(STALL_PERIOD)
            }
            (None, told) => {
                if let Some(lasted) = told {
                    info!(at_least = ?lasted, "the log goes on");
                }
                self.told = None;
                // One that begins just after this look is told of at most half the bound late.
                match self.watch.began() {
                    Some(began) => began.after(self.watch.bound),
                    None => now.after(self.watch.bound / 2),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Micros {
        Micros::new(ms * 1000)
    }

    #[test]
    fn a_wait_for_room_counts_from_where_it_began() {
        let watch = LogWatch::new(Duration::from_secs(2));
        let clock = Clock::new();
        assert_eq!(watch.without_room(clock.now()), None);
        watch.note_room(clock, true);
        let later = clock.now().after(Duration::from_secs(5));
        let first = watch.without_room(later);
        assert!(first.is_some_and(|lasts| lasts >= Duration::from_secs(5)), "{first:?}");
        watch.note_room(clock, true);
        assert_eq!(watch.without_room(later), first, "the same wait goes on");
        watch.note_room(clock, false);
        assert_eq!(watch.without_room(later), None);
    }

    #[test]
    fn a_call_that_takes_too_long_is_told_of_once_and_so_is_its_end() {
        let watch = Arc::new(LogWatch::new(Duration::from_secs(2)));
        let counters = Arc::new(Counters::default());
        let mut watcher = LogWatcher::new(Arc::clone(&watch), Arc::clone(&counters));
        let stalls = || counters.log_stalls.load(Relaxed);
        assert_eq!(watcher.look(at(0)), at(1000));
        watch.begin(Caller::Desk, at(500));
        assert_eq!(watcher.look(at(1000)), at(2500), "just when it is too long");
        assert_eq!((watch.stalled(at(2499)), stalls()), (None, 0));
        assert_eq!(watcher.look(at(2500)), at(2750));
        assert_eq!(watch.stalled(at(2600)), Some(Duration::from_millis(2100)));
        watcher.look(at(2750));
        assert_eq!(stalls(), 1);
        watch.end(Caller::Desk);
        assert_eq!(watch.stalled(at(2800)), None);
        watcher.look(at(3000));
        watch.begin(Caller::Desk, at(3001));
        watcher.look(at(6000));
        assert_eq!(stalls(), 2);
        watch.end(Caller::Desk);
        watcher.look(at(6100));
        // The other goes on, and that is no excuse.
        watch.begin(Caller::Disk, at(6100));
        watch.begin(Caller::Desk, at(8000));
        assert_eq!(watch.stalled(at(8100)), Some(Duration::from_millis(2000)));
        watch.end(Caller::Disk);
        assert_eq!(watch.stalled(at(8100)), None);
    }
}
