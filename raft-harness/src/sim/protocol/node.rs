//! A simulated node: a clock, a disk, and replicas while it is up.

use std::collections::BTreeMap;

use raft_core::{GroupId, Incarnation, Micros, NodeId, ReplicaId, Token};

use super::disk::{Disk, Stop};
use super::replica::Replica;

/// A clock that runs fast or slow, and is what its node calls time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    /// What it showed when the common clock was at zero.
    pub(crate) offset_us: u64,
    /// How much faster than the common clock it runs, in parts per million.
    pub(crate) drift_ppm: i64,
    /// What the wall clock adds, which may jump.
    pub(crate) wall_offset_ms: u64,
}

impl Clock {
    /// Runs at another rate from a moment on, without a leap.
    pub(crate) fn run_at(&mut self, common: u64, drift_ppm: i64) {
        let shown = self.local(common).get();
        self.drift_ppm = drift_ppm;
        let drift = (i128::from(common) * i128::from(drift_ppm)) / 1_000_000;
        let unshifted = (i128::from(common) + drift).max(0) as u64;
        self.offset_us = shown.saturating_sub(unshifted);
    }

    /// What the node's monotonic clock shows.
    pub(crate) fn local(&self, common: u64) -> Micros {
        let drift = (i128::from(common) * i128::from(self.drift_ppm)) / 1_000_000;
        Micros::new(self.offset_us + (i128::from(common) + drift).max(0) as u64)
    }

    /// The first common moment at which the node's clock shows `local` or later.
    pub(crate) fn common(&self, local: Micros) -> u64 {
        let shown = i128::from(local.get().saturating_sub(self.offset_us));
        let mut common = (shown * 1_000_000 / i128::from(1_000_000 + self.drift_ppm)) as u64;
        // Rounding is off by one at most.
        while self.local(common) < local {
            common += 1;
        }
        common
    }
}

/// Whether a node's processes run.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Running {
    Up,
    /// It exists and does nothing; what arrives waits.
    Paused,
    Down,
}

/// How its disk behaves at the moment.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct DiskWeather {
    /// Nothing completes.
    pub(crate) stalled: bool,
    /// Every flush takes so much longer.
    pub(crate) slow_us: u64,
    pub(crate) full: bool,
    /// The next flush fails, once.
    pub(crate) fails_next: bool,
}

/// One node.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) incarnation: Incarnation,
    pub(crate) clock: Clock,
    pub(crate) running: Running,
    pub(crate) disk: Disk,
    pub(crate) disk_weather: DiskWeather,
    /// A disk event is on its way.
    pub(crate) disk_busy: bool,
    /// Boxed, since each is taken out for every step.
    pub(crate) replicas: BTreeMap<GroupId, Box<Replica>>,
    /// Replicas with something to do at the end of the turn.
    pub(crate) touched: Vec<GroupId>,
    pub(crate) turn_due: bool,
    /// It was asked to stop.
    pub(crate) stopping: bool,
    /// It led something when it was asked.
    pub(crate) hands_over: bool,
    /// By which request each group was handed over last, in this life.
    pub(crate) transfers: BTreeMap<GroupId, Token>,
    /// It crashes in the middle of a turn, after so many more effects.
    pub(crate) crash_after: Option<(u64, Stop)>,
    /// When it last heard anybody else, or began to listen.
    pub(crate) heard_at: u64,
    /// Its data directory is new: what lived here under old names is somebody else's.
    pub(crate) wiped: bool,
    /// The replicas that went with it.
    pub(crate) lost_replicas: BTreeMap<GroupId, ReplicaId>,
}

impl Node {
    pub(crate) fn local(&self, common: u64) -> Micros {
        self.clock.local(common)
    }

    pub(crate) fn is_up(&self) -> bool {
        self.running == Running::Up
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_changes_its_rate_neither_leaps_nor_stops() {
        let mut clock = Clock { offset_us: 10_000_000, drift_ppm: 30_000, wall_offset_ms: 0 };
        for (at, drift_ppm) in [(1_000_000, -30_000), (20_000_000, 0), (60_000_000, 29_999)] {
            let shown = clock.local(at);
            clock.run_at(at, drift_ppm);
            assert_eq!(clock.local(at), shown);
            assert!(clock.local(at + 1000) > shown);
        }
    }

    #[test]
    fn a_deadline_is_met_at_the_first_moment_that_shows_it() {
        for drift_ppm in [-100_000, -37, 0, 37, 100_000] {
            let clock = Clock { offset_us: 1000, drift_ppm, wall_offset_ms: 0 };
            for local in [1000, 1001, 5_000_000, 60_000_123] {
                let common = clock.common(Micros::new(local));
                assert!(clock.local(common) >= Micros::new(local));
                assert!(common == 0 || clock.local(common - 1) < Micros::new(local));
            }
        }
    }
}
