//! Watches the log from outside: a disk that hangs or is full does not fail, and nobody who waits for
//! it can say so.
//!
//! The threads of the log note when a call of theirs begins and ends; others look at that without
//! asking it. The control plane, which waits for no disk, makes known how the log is: to whoever reads
//! what this node writes, to the shards, and to the peers, again and again while it ails.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use raft_core::Micros;
use raft_storage::RoomWait;
use raft_transport::Condition;
use tracing::{info, warn};

use super::clock::Clock;
use crate::counters::Counters;
use crate::engine::{Call, Caller, LogCondition, LogHealth};

/// A log that is not known to be in a call is looked at so many times within its bound.
const LOOKS: u32 = 4;

/// The calls of the log that are under way.
#[derive(Debug)]
pub(crate) struct LogWatch {
    health: Mutex<LogHealth>,
    /// When the disk was found full, in microseconds and one; zero if it is not.
    full: AtomicU64,
    /// Whether a call that is under way waits for room.
    room: OnceLock<RoomWait>,
}

impl LogWatch {
    pub(crate) fn new(bound: Duration) -> Self {
        let health = Mutex::new(LogHealth::new(bound));
        Self { health, full: AtomicU64::new(0), room: OnceLock::new() }
    }

    /// The log tells here whether it waits for room in the middle of a write.
    pub(crate) fn watch_room(&self, room: RoomWait) {
        // There is one log.
        let _ = self.room.set(room);
    }

    /// Makes a call of the log that may touch the disk.
    pub(crate) fn during<T>(&self, caller: Caller, clock: Clock, call: impl FnOnce() -> T) -> T {
        self.watched(caller, Call::Other, clock, call)
    }

    /// Makes one that makes something durable.
    pub(crate) fn syncing<T>(&self, caller: Caller, clock: Clock, call: impl FnOnce() -> T) -> T {
        self.watched(caller, Call::Sync, clock, call)
    }

    fn watched<T>(&self, caller: Caller, kind: Call, clock: Clock, call: impl FnOnce() -> T) -> T {
        self.begin(caller, clock.now());
        let result = call();
        self.end(caller, kind, clock.now());
        result
    }

    pub(crate) fn begin(&self, caller: Caller, now: Micros) {
        self.health.lock().begin(caller, now);
    }

    pub(crate) fn end(&self, caller: Caller, call: Call, now: Micros) {
        self.health.lock().end(caller, call, now);
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
        let since = self.full.load(Relaxed).checked_sub(1).map(Micros::new);
        // One that waits in the middle of a write is under way for as long.
        let waits = || self.room.get().is_some_and(RoomWait::waits);
        let within = || waits().then(|| self.stalled(now).unwrap_or_default());
        since.map(|since| now.since(since)).or_else(within)
    }

    pub(crate) fn condition(&self, now: Micros) -> LogCondition {
        self.health.lock().condition(now)
    }

    /// For how long the log has been stuck, if it is.
    pub(crate) fn stalled(&self, now: Micros) -> Option<Duration> {
        match self.condition(now) {
            LogCondition::Stalled { since } => Some(now.since(since)),
            LogCondition::Well | LogCondition::Convalescent { .. } => None,
        }
    }

    /// Since when the call that is under way for longest is.
    #[cfg(feature = "sim")]
    pub(crate) fn waits_since(&self) -> Option<Micros> {
        self.health.lock().began()
    }

    /// How many quick syncs it still lacks after it was, if any.
    pub(crate) fn convalescent(&self, now: Micros) -> Option<u32> {
        match self.condition(now) {
            LogCondition::Convalescent { wanted } => Some(wanted),
            LogCondition::Well | LogCondition::Stalled { .. } => None,
        }
    }
}

/// What is to be made known.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Looked {
    /// How the node is, if that is news to its shards.
    pub(crate) own: Option<Condition>,
    /// What the peers are told now.
    pub(crate) word: Option<Condition>,
}

/// Makes known how the log is.
pub(crate) struct LogWatcher {
    watch: Arc<LogWatch>,
    counters: Arc<Counters>,
    /// The time between two words to the peers.
    repeat: Duration,
    /// How it was at the last look.
    last: LogCondition,
    /// When the peers, who think that it ails, are told again.
    repeat_at: Option<Micros>,
    look_at: Micros,
}

impl LogWatcher {
    pub(crate) fn new(watch: Arc<LogWatch>, counters: Arc<Counters>, repeat: Duration) -> Self {
        let last = LogCondition::Well;
        Self { watch, counters, repeat, last, repeat_at: None, look_at: Micros::ZERO }
    }

    /// When to look next.
    pub(crate) fn look_at(&self) -> Micros {
        self.look_at
    }

    /// Looks, if it is time to.
    pub(crate) fn look(&mut self, now: Micros) -> Looked {
        if now < self.look_at {
            return Looked::default();
        }
        let (condition, is_told, turn, bound) = {
            let health = self.watch.health.lock();
            (health.condition(now), health.is_told(now), health.next_look(now), health.bound())
        };
        let before = std::mem::replace(&mut self.last, condition);
        self.tell_of(before, condition, now);
        let [was, is] = [before, condition].map(LogCondition::for_office);
        let own = (was != is).then_some(is);
        let word = if !is_told {
            self.repeat_at.take().map(|_| Condition::Well)
        } else if self.repeat_at.is_none_or(|at| at <= now) {
            self.repeat_at = Some(now.after(self.repeat));
            Some(Condition::Ailing)
        } else {
            None
        };
        // One that begins just after this look is told of a little late.
        let look = turn.unwrap_or_else(|| now.after(bound / LOOKS));
        self.look_at = self.repeat_at.map_or(look, |at| at.min(look));
        Looked { own, word }
    }

    fn tell_of(&self, before: LogCondition, condition: LogCondition, now: Micros) {
        let was_stalled = matches!(before, LogCondition::Stalled { .. });
        match condition {
            LogCondition::Stalled { since } if !was_stalled => {
                Counters::add(&self.counters.log_stalls, 1);
                let lasts = now.since(since);
                warn!(
                    ?lasts,
                    "the log is stuck in one call: others are to lead until the disk answers"
                );
            }
            LogCondition::Convalescent { .. } if before.is_well() => {
                Counters::add(&self.counters.log_stalls, 1);
                warn!("the log was stuck in one call: others are to lead for a while");
            }
            LogCondition::Convalescent { .. } if was_stalled => {
                info!("the disk answers: the log is well once some syncs in a row were quick");
            }
            LogCondition::Well if !before.is_well() => info!("the log is well again"),
            LogCondition::Stalled { .. }
            | LogCondition::Convalescent { .. }
            | LogCondition::Well => {}
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

    /// A watch, and who looks at it and tells each 100 ms.
    fn watched() -> (Arc<LogWatch>, LogWatcher, Arc<Counters>) {
        let watch = Arc::new(LogWatch::new(Duration::from_secs(2)));
        let counters = Arc::new(Counters::default());
        let (of, count) = (Arc::clone(&watch), Arc::clone(&counters));
        let watcher = LogWatcher::new(of, count, Duration::from_millis(100));
        (watch, watcher, counters)
    }

    const AILS: Option<Condition> = Some(Condition::Ailing);
    const WELL: Option<Condition> = Some(Condition::Well);

    #[test]
    fn peers_hear_of_a_call_that_takes_long_and_shards_of_one_that_takes_too_long() {
        let (watch, mut watcher, counters) = watched();
        let stalls = || counters.log_stalls.load(Relaxed);
        assert_eq!(watcher.look(at(0)), Looked::default());
        assert_eq!(watcher.look_at(), at(500));
        watch.begin(Caller::Desk, at(400));
        assert_eq!(watcher.look(at(500)), Looked::default());
        assert_eq!(watcher.look_at(), at(1400));
        assert_eq!(watcher.look(at(1400)), Looked { own: None, word: AILS });
        assert_eq!(watcher.look_at(), at(1500));
        assert_eq!(watcher.look(at(1500)), Looked { own: None, word: AILS }, "once more");
        assert_eq!(watcher.look(at(1550)), Looked::default(), "not before it is time");
        assert_eq!((watch.stalled(at(2399)), stalls()), (None, 0));
        let looked = watcher.look(at(2400));
        assert_eq!((looked.own, stalls()), (AILS, 1));
        assert_eq!(watch.stalled(at(2600)), Some(Duration::from_millis(2200)));
        watcher.look(at(2600));
        assert_eq!(stalls(), 1, "it is the same one");
        watch.end(Caller::Desk, Call::Other, at(2700));
        assert_eq!(watch.stalled(at(2700)), None);
        assert_eq!(watch.convalescent(at(2700)), Some(3));
        assert_eq!(watcher.look(at(2800)), Looked { own: None, word: AILS });
        for ms in 2801..2804 {
            watch.begin(Caller::Disk, at(ms));
            watch.end(Caller::Disk, Call::Sync, at(ms + 1));
        }
        assert_eq!(watcher.look(at(2900)), Looked { own: WELL, word: WELL });
        assert_eq!(watcher.look(watcher.look_at()), Looked::default(), "that is said once");
    }

    #[test]
    fn a_call_that_takes_long_and_not_too_long_is_between_the_nodes() {
        let (watch, mut watcher, counters) = watched();
        watch.begin(Caller::Disk, at(0));
        assert_eq!(watcher.look(at(1000)), Looked { own: None, word: AILS });
        watch.end(Caller::Disk, Call::Sync, at(1050));
        assert_eq!(watcher.look(at(1100)), Looked { own: None, word: WELL });
        assert_eq!(counters.log_stalls.load(Relaxed), 0);
    }

    #[test]
    fn a_stall_between_two_looks_is_one() {
        let (watch, mut watcher, counters) = watched();
        watcher.look(at(0));
        watch.begin(Caller::Disk, at(1));
        watch.end(Caller::Disk, Call::Sync, at(3000));
        assert_eq!(watcher.look(at(3000)), Looked { own: AILS, word: AILS });
        assert_eq!(counters.log_stalls.load(Relaxed), 1);
    }
}
