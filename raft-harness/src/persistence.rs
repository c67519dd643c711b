//! What an acknowledged write has behind it: disks, or for a while only memory.
//!
//! The *strategy* is part of what a group is. It is written into the log with the group's spec, so
//! after a crash a group is judged by what was in force when it acknowledged, whatever a
//! configuration says by then; and it does not change while the group lives, so leaders and
//! followers count alike. The *flush policy* only says how long entries of a
//! [`MemFirst`](Strategy::MemFirst) group may wait for their sync, which each node may decide anew.

use std::fmt;
use std::time::Duration;

use raft_core::Acknowledge;
use serde::{Deserialize, Serialize};

/// When an entry counts toward commit.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub enum Strategy {
    /// Once it is on disk. Whatever crashes, nothing acknowledged is lost.
    #[default]
    DiskFirst,
    /// Once it is in the page cache of a quorum, which is a matter of microseconds.
    ///
    /// **Acknowledged writes can be lost**: those of the last moments, when the machines of a quorum
    /// lose power or their kernels crash together, or one after the other before the first has
    /// caught up again. A replica that may have forgotten something neither votes nor counts until
    /// it holds all that its leader holds; if a quorum may have, the group stands still. When a
    /// node's *process* dies, nothing is lost. Term, vote, memberships and the first entry of each
    /// term are on disk before they count, under this strategy as well.
    MemFirst,
}

impl Strategy {
    /// The number that stands for it in the log.
    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::DiskFirst => 0,
            Self::MemFirst => 1,
        }
    }

    pub(crate) const fn from_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::DiskFirst),
            1 => Some(Self::MemFirst),
            _ => None,
        }
    }

    /// What it lets the core count.
    pub(crate) const fn acknowledge(self) -> Acknowledge {
        match self {
            Self::DiskFirst => Acknowledge::Durable,
            Self::MemFirst => Acknowledge::Written,
        }
    }
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::DiskFirst => "DiskFirst",
            Self::MemFirst => "MemFirst",
        })
    }
}

/// How long written entries of a [`MemFirst`](Strategy::MemFirst) group may wait for their sync, and
/// so how much a power cut can take. Without effect under [`DiskFirst`](Strategy::DiskFirst), where
/// a sync begins as soon as the one before has ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum FlushPolicy {
    /// Not at all: the sync that covers them begins at once. Least is lost, and the disk is as busy
    /// as under `DiskFirst`.
    Immediate,
    /// Until so many wait, or the first of them for so long.
    ///
    /// All groups share one log and so one sync: the earliest deadline and the smallest threshold
    /// among those with something to wait for hold, and entries of all of them are counted
    /// together. Nothing waits beside a `DiskFirst` entry, a term, a vote or a membership, and
    /// never more than 4 MiB, with as much again while a sync is under way. All are counted from where
    /// the last sync departed.
    Batch {
        /// Entries that may wait, at least 1. Default 1000.
        threshold: u64,
        /// From 1 ms to half of [`Settings::disk_stall_max`](raft_core::Settings::disk_stall_max): a
        /// leader whose entries wait for that long believes its disk hangs. Default 100 ms.
        interval: Duration,
    },
}

impl FlushPolicy {
    /// The shortest interval: a clock tells no less.
    pub const INTERVAL_MIN: Duration = Duration::from_millis(1);

    /// Refuses what cannot work, in words.
    ///
    /// # Errors
    /// What contradicts what, with both values.
    pub fn check(self, disk_stall_max: Duration) -> Result<(), String> {
        let Self::Batch { threshold, interval } = self else { return Ok(()) };
        if threshold == 0 {
            return Err("a batch of no entries".to_owned());
        }
        let longest = disk_stall_max / 2;
        if interval < Self::INTERVAL_MIN || interval > longest {
            return Err(format!(
                "entries that wait {interval:?} for their sync: {:?} to {longest:?} are possible, \
                 half of what a leader takes for a disk that hangs",
                Self::INTERVAL_MIN
            ));
        }
        Ok(())
    }
}

impl Default for FlushPolicy {
    fn default() -> Self {
        Self::Batch { threshold: 1000, interval: Duration::from_millis(100) }
    }
}

/// A strategy with its flush policy: what groups get that do not ask for another.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Persistence {
    /// When an entry counts. Default [`DiskFirst`](Strategy::DiskFirst).
    pub strategy: Strategy,
    /// How long entries wait for their sync, where they may.
    pub flush: FlushPolicy,
}

impl Default for Persistence {
    fn default() -> Self {
        Self { strategy: Strategy::DiskFirst, flush: FlushPolicy::Immediate }
    }
}

impl Persistence {
    /// The flush policy of a group with a strategy and perhaps a policy of its own, where this is the
    /// node's default.
    pub(crate) fn flush_of(self, strategy: Strategy, own: Option<FlushPolicy>) -> FlushPolicy {
        let default = if strategy == self.strategy { self.flush } else { FlushPolicy::default() };
        own.unwrap_or(default)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flush_that_a_leader_would_take_for_a_hang_is_refused() {
        let stall = Duration::from_secs(5);
        let batch = |threshold, interval| FlushPolicy::Batch { threshold, interval };
        for (policy, works) in [
            (FlushPolicy::Immediate, true),
            (FlushPolicy::default(), true),
            (batch(1, Duration::from_millis(1)), true),
            (batch(1, Duration::from_millis(2_500)), true),
            (batch(1, Duration::from_millis(2_501)), false),
            (batch(1, Duration::ZERO), false),
            (batch(0, Duration::from_millis(1)), false),
        ] {
            assert_eq!(policy.check(stall).is_ok(), works, "{policy:?}");
        }
    }

    #[test]
    fn a_strategy_keeps_its_number() {
        assert_eq!([Strategy::DiskFirst, Strategy::MemFirst].map(Strategy::code), [0, 1]);
        assert_eq!(Strategy::from_code(1), Some(Strategy::MemFirst));
        assert_eq!(Strategy::from_code(2), None);
    }
}
