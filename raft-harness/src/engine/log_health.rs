//! Whether the log is well: a disk that hangs fails nothing, and whoever waits for it cannot say so.
//!
//! The threads of the log note when a call of theirs begins and ends, and others judge by that. One
//! that is under way for longer than the bound is a stall; after it the log is *convalescent* until a
//! few syncs in a row were quick again, since a disk that has just hung is likely to hang once more.
//! A log that is not called is not judged.
//!
//! Peers are told earlier, at half the bound: several nodes may hang for one reason, and each must
//! know of the others before it acts.

use std::time::Duration;

use raft_core::Micros;
use raft_transport::Condition;

/// Syncs in a row that end a convalescence.
const WANTED: u32 = 3;

/// They are to take no longer than this part of the bound, and so is every other call meanwhile.
const QUICK_PART: u32 = 10;

/// Peers are told once a call takes this part of the bound.
const TOLD_PART: u32 = 2;

/// Who makes calls of the log.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Caller {
    /// The thread that prepares what is written.
    Desk,
    /// The one that writes it while more is prepared.
    Disk,
}

/// What a call of the log does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Call {
    /// It makes something durable, so that its end shows that the disk answers.
    Sync,
    /// It may touch the disk or not.
    Other,
}

/// How the log is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum LogCondition {
    Well,
    /// A call has been under way since then.
    Stalled {
        since: Micros,
    },
    /// One was; so many syncs still have to be quick.
    Convalescent {
        wanted: u32,
    },
}

impl LogCondition {
    pub(crate) fn is_well(self) -> bool {
        self == Self::Well
    }

    /// Whether the node may lead.
    pub(crate) fn for_office(self) -> Condition {
        let forgives = raft_core::planted!(ConvalescentTakesOffice)
            && matches!(self, Self::Convalescent { .. });
        if self.is_well() || forgives { Condition::Well } else { Condition::Ailing }
    }
}

/// The calls of the log, as far as they tell how it is.
#[derive(Clone, Debug)]
pub(crate) struct LogHealth {
    bound: Duration,
    /// When the one under way began, by caller.
    began: [Option<Micros>; 2],
    /// Syncs that still have to be quick; zero if none has stalled since.
    wanted: u32,
}

impl LogHealth {
    /// A call that takes longer than `bound` is a stall.
    pub(crate) fn new(bound: Duration) -> Self {
        Self { bound, began: [None; 2], wanted: 0 }
    }

    pub(crate) fn bound(&self) -> Duration {
        self.bound
    }

    pub(crate) fn begin(&mut self, caller: Caller, now: Micros) {
        self.began[caller as usize] = Some(now);
    }

    pub(crate) fn end(&mut self, caller: Caller, call: Call, now: Micros) {
        let Some(began) = self.began[caller as usize].take() else { return };
        let took = now.since(began);
        if took >= self.bound || self.wanted > 0 && took > self.bound / QUICK_PART {
            // Whether anybody looked meanwhile or not.
            self.wanted = WANTED;
        } else if call == Call::Sync {
            self.wanted = self.wanted.saturating_sub(1);
        }
    }

    pub(crate) fn condition(&self, now: Micros) -> LogCondition {
        match self.began() {
            Some(since) if now.since(since) >= self.bound => LogCondition::Stalled { since },
            _ if self.wanted > 0 => LogCondition::Convalescent { wanted: self.wanted },
            _ => LogCondition::Well,
        }
    }

    /// Whether peers are to think of something else.
    pub(crate) fn is_told(&self, now: Micros) -> bool {
        let lasts = self.began().map(|began| now.since(began));
        self.wanted > 0 || lasts.is_some_and(|lasts| lasts >= self.bound / TOLD_PART)
    }

    /// When what is said here may be another, if no call begins or ends.
    pub(crate) fn next_look(&self, now: Micros) -> Option<Micros> {
        let began = self.began()?;
        let turns = [began.after(self.bound / TOLD_PART), began.after(self.bound)];
        turns.into_iter().find(|turn| *turn > now)
    }

    /// When the longest of them began.
    pub(crate) fn began(&self) -> Option<Micros> {
        self.began.iter().flatten().min().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUND: Duration = Duration::from_secs(2);

    fn at(ms: u64) -> Micros {
        Micros::new(ms * 1000)
    }

    fn call(health: &mut LogHealth, call: Call, from_ms: u64, to_ms: u64) {
        health.begin(Caller::Disk, at(from_ms));
        health.end(Caller::Disk, call, at(to_ms));
    }

    /// One that has hung for three seconds.
    fn after_a_stall() -> LogHealth {
        let mut health = LogHealth::new(BOUND);
        call(&mut health, Call::Sync, 0, 3000);
        health
    }

    #[test]
    fn a_log_that_is_not_called_is_not_judged() {
        let health = LogHealth::new(BOUND);
        assert_eq!(health.condition(at(1_000_000)), LogCondition::Well);
        assert_eq!(health.next_look(at(0)), None);
        assert!(!health.is_told(at(1_000_000)));
    }

    #[test]
    fn any_call_that_is_under_way_for_too_long_is_a_stall_and_peers_hear_of_it_before() {
        let mut health = LogHealth::new(BOUND);
        health.begin(Caller::Desk, at(500));
        assert_eq!(health.next_look(at(500)), Some(at(1500)));
        assert!(!health.is_told(at(1499)));
        assert!(health.is_told(at(1500)));
        assert_eq!(health.condition(at(2499)), LogCondition::Well);
        assert_eq!(health.next_look(at(1500)), Some(at(2500)));
        // The other thread goes on, and that is no excuse.
        health.begin(Caller::Disk, at(2400));
        health.end(Caller::Disk, Call::Sync, at(2401));
        assert_eq!(health.condition(at(2500)), LogCondition::Stalled { since: at(500) });
        assert_eq!(health.next_look(at(2500)), None);
    }

    #[test]
    fn a_call_that_ends_before_the_bound_leaves_nothing() {
        let mut health = LogHealth::new(BOUND);
        call(&mut health, Call::Sync, 0, 1999);
        assert_eq!(health.condition(at(1999)), LogCondition::Well);
        assert!(!health.is_told(at(1999)));
    }

    #[test]
    fn a_stall_that_nobody_looked_at_counts() {
        let health = after_a_stall();
        assert_eq!(health.condition(at(3000)), LogCondition::Convalescent { wanted: 3 });
        assert!(health.is_told(at(3000)));
    }

    #[test]
    fn three_quick_syncs_in_a_row_end_it() {
        let mut health = after_a_stall();
        call(&mut health, Call::Sync, 3000, 3200);
        call(&mut health, Call::Sync, 3200, 3201);
        assert_eq!(health.condition(at(3300)), LogCondition::Convalescent { wanted: 1 });
        // One that is slow begins the row anew.
        call(&mut health, Call::Sync, 3300, 3501);
        assert_eq!(health.condition(at(3600)), LogCondition::Convalescent { wanted: 3 });
        for ms in [4000, 4010, 4020] {
            assert!(!health.condition(at(ms)).is_well());
            call(&mut health, Call::Sync, ms, ms + 1);
        }
        assert_eq!(health.condition(at(4021)), LogCondition::Well);
        assert!(!health.is_told(at(4021)));
    }

    #[test]
    fn what_may_not_have_touched_the_disk_shows_nothing_unless_it_is_slow() {
        let mut health = after_a_stall();
        for ms in 0..10 {
            call(&mut health, Call::Other, 3000 + ms, 3000 + ms);
        }
        assert_eq!(health.condition(at(3100)), LogCondition::Convalescent { wanted: 3 });
        call(&mut health, Call::Sync, 3100, 3101);
        call(&mut health, Call::Sync, 3101, 3102);
        call(&mut health, Call::Other, 3102, 3400);
        assert_eq!(health.condition(at(3400)), LogCondition::Convalescent { wanted: 3 });
    }

    #[test]
    fn a_stall_in_convalescence_is_a_stall() {
        let mut health = after_a_stall();
        health.begin(Caller::Desk, at(4000));
        assert_eq!(health.condition(at(5999)), LogCondition::Convalescent { wanted: 3 });
        assert_eq!(health.condition(at(6000)), LogCondition::Stalled { since: at(4000) });
    }
}
