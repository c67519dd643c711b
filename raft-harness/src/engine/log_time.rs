//! Log time: which stamp a leader gives its next entry.
//!
//! A leader that believed its own wall clock could not be bounded by anybody, and a log that has
//! jumped once would stay ahead for ever, since a stamp never lies before the last one. So nodes
//! tell one another what their wall clocks show, and a leader goes by the time that a majority of
//! voters *vouches* for: the largest that so many of their clocks have reached, its own among
//! them, in both halves of a joint membership. One wrong clock of three moves that neither way.
//!
//! Behind the vouched time a stamp jumps to it. Ahead of it, or where nobody vouches, log time
//! goes on by the leader's monotonic clock: at half its pace while every voter has spoken, so
//! that a log that is ahead falls back to the others' time while everything in it still ends; at
//! full pace while one is silent, which may be the right one.
//!
//! Invariants: stamps never fall along a log; no stamp lies past what the log can store, whatever
//! peers say; nobody refuses an entry for its stamp.

use std::time::Duration;

use raft_core::{LogTime, Membership, Micros, ReplicaId};

/// The latest time the log can store: 56 bits of milliseconds.
pub(super) const LOG_TIME_MAX: LogTime = LogTime::new((1 << 56) - 1);

/// No clock is believed beyond this, some time in the year 10889: even if a majority tells the
/// end of all time, log time has room to go on.
const WALL_MAX: LogTime = LogTime::new((1 << 48) - 1);

/// What a node's wall clock showed, and when that was heard, by the monotonic clock here.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Told {
    pub(crate) wall: LogTime,
    pub(crate) heard: Micros,
}

/// The wall clocks of this node and of the others, one number for each however many groups there
/// are.
#[derive(Debug)]
pub(super) struct WallClocks {
    now: Micros,
    own: LogTime,
    /// By the place of the node in the engine's table.
    told: Vec<Option<Told>>,
    /// A node not heard for longer is silent. As long as a voter waits for its leader: whoever
    /// still counts for a leader has been heard since.
    silent_after: Duration,
}

/// What the voters of a group say.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Vouched {
    /// The largest time that a majority has reached; zero if no majority speaks.
    pub(super) time: LogTime,
    /// Whether every voter has spoken lately.
    pub(super) by_all: bool,
}

impl WallClocks {
    pub(super) fn new(silent_after: Duration) -> Self {
        let (now, own) = (Micros::ZERO, LogTime::default());
        Self { now, own, told: Vec::new(), silent_after }
    }

    /// What the clocks of this node show.
    pub(super) fn set(&mut self, now: Micros, wall: LogTime) {
        self.now = self.now.max(now);
        let before = self.own;
        self.own = wall.min(WALL_MAX);
        if raft_core::planted!(WallClockNeverFalls) {
            self.own = self.own.max(before);
        }
    }

    /// A node has told its clock.
    pub(super) fn hear(&mut self, place: usize, told: Told) {
        if self.told.len() <= place {
            self.told.resize(place + 1, None);
        }
        let before = &mut self.told[place];
        if before.is_none_or(|before| before.heard <= told.heard) {
            *before = Some(told);
        }
    }

    /// What the clock of another node shows by now, if it has spoken lately. What it told was
    /// true when it was sent, so this is behind by the way of the message.
    fn shows(&self, place: usize) -> Option<LogTime> {
        let told = (*self.told.get(place)?)?;
        let since = self.now.since(told.heard);
        (since <= self.silent_after).then(|| later(told.wall, since, 1).min(WALL_MAX))
    }

    /// What the voters vouch for, of whom `me` is on this node and the others are where `place`
    /// says.
    pub(super) fn vouched(
        &self,
        membership: &Membership,
        me: ReplicaId,
        place: impl Fn(ReplicaId) -> Option<usize>,
    ) -> Vouched {
        let shows = |replica| {
            if replica == me {
                Some(self.own)
            } else {
                place(replica).and_then(|at| self.shows(at))
            }
        };
        let by_all = membership.voters().all(|voter| shows(voter).is_some());
        // Only voters count, whoever is named: a learner or a leader without a vote does not.
        let members = membership.members().iter();
        let known = members.map(|member| member.replica).map(|r| (r, shows(r).unwrap_or_default()));
        let joint = membership.joint();
        let time = if raft_core::planted!(OwnClockVouches) {
            Some(self.own)
        } else if raft_core::planted!(OneHalfVouches) {
            joint.incoming.reached(known)
        } else {
            joint.reached(known)
        };
        Vouched { time: time.unwrap_or_default(), by_all }
    }
}

/// A point of log time, from which it goes on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Point {
    time: LogTime,
    at: Micros,
}

/// Log time of one group, as its replica here would tell it as the leader.
///
/// Followed by all replicas: who takes over goes on from when it heard of the last stamp.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LogClock {
    /// The newest stamp of the log, and when it came or was given.
    last: Point,
    /// The time when this replica took office, as if its first entry had been stamped with it.
    office: Option<Point>,
}

/// A stamp that may be given.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Stamp(Point);

impl Stamp {
    pub(super) fn time(self) -> LogTime {
        self.0.time
    }
}

impl LogClock {
    /// The clock of a log with this newest stamp.
    pub(super) fn starting(last: LogTime, now: Micros) -> Self {
        Self { last: Point { time: last, at: now }, office: None }
    }

    /// The newest stamp of the log is this, as far as it is known.
    pub(super) fn follow(&mut self, last: LogTime, now: Micros) {
        if last > self.last.time {
            self.last = Point { time: last, at: now };
        }
    }

    /// What an entry would be stamped with now.
    pub(super) fn stamp(&self, now: Micros, vouched: Vouched) -> Stamp {
        let from = match self.office {
            Some(office) if office.time > self.last.time => office,
            Some(_) | None => self.last,
        };
        Stamp(from.moved(now, vouched))
    }

    /// An entry was stamped. What is left of the last millisecond is not lost: stamps may be
    /// given more often than that.
    pub(super) fn stamped(&mut self, stamp: Stamp) {
        if stamp.0.time >= self.last.time {
            self.last = stamp.0;
        }
    }

    /// This replica leads from now on. Whoever elected it vouches: what they say holds for the
    /// whole time in office, even if they fall silent before anything is stamped.
    pub(super) fn take_office(&mut self, now: Micros, vouched: Vouched) {
        self.office = Some(self.last.moved(now, vouched));
    }

    /// This replica does not lead any more.
    pub(super) fn leave_office(&mut self) {
        self.office = None;
    }
}

impl Point {
    fn moved(self, now: Micros, vouched: Vouched) -> Self {
        let pace = if vouched.by_all { 2 } else { 1 };
        let since = now.since(self.at);
        let own = later(self.time, since, pace).min(LOG_TIME_MAX);
        let own = if raft_core::planted!(LogTimeStandsStill) { self.time } else { own };
        if vouched.time > own {
            return Self { time: vouched.time, at: now };
        }
        // At its end log time stands still.
        let gone = Duration::from_millis(own.get().saturating_sub(self.time.get()));
        Self { time: own.max(self.time), at: self.at.after(gone.saturating_mul(pace)) }
    }
}

/// So much later by a clock that takes `pace` times as long.
fn later(time: LogTime, since: Duration, pace: u32) -> LogTime {
    let ms = u64::try_from((since / pace).as_millis()).unwrap_or(u64::MAX);
    LogTime::new(time.get().saturating_add(ms))
}

#[cfg(test)]
mod tests;
