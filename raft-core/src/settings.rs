//! What a group is told at its creation: timing, limits, voters, and what survived a restart.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::time::Duration;

use crate::entry::HardState;
use crate::id::{GroupId, Incarnation, LogIndex, ReplicaId, Term};

/// Timing and limits, shared by all groups of a node.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Settings {
    /// A leader speaks to every peer at least this often. Default 100 ms (two ticks of 50 ms).
    /// Heartbeats of all groups fall on multiples of this on the node's clock, so that they can
    /// share frames.
    pub heartbeat_interval: Duration,
    /// A follower that hears no leader for this long may campaign; until then it refuses its
    /// vote (stickiness, thesis 4.2.3), and a leader that reaches no quorum for this long steps
    /// down (check-quorum, thesis 6.2). Default 500 ms (10 ticks).
    pub election_timeout_min: Duration,
    /// Campaigns start at a random moment between the minimum and this. Default 1 s (20 ticks).
    pub election_timeout_max: Duration,
    /// Payload cap of one append, in bytes. A single larger entry travels alone. Default 1 MiB.
    pub append_bytes_max: u64,
    /// Appends in flight to one peer before the leader waits for an answer. Default 256.
    pub inflight_appends_max: usize,
    /// Bytes in flight to one peer before the leader waits for an answer; one append may pass
    /// the limit, so that an oversize entry is not stuck. Default 8 MiB.
    pub inflight_bytes_max: u64,
    /// Bytes a leader takes on before a quorum has them; then proposals are refused as
    /// [`Overloaded`](crate::Refusal::Overloaded). One proposal into an empty window is always
    /// taken. Default 64 MiB.
    pub uncommitted_bytes_max: u64,
    /// Reads a leader holds at once, waiting for confirmation. Default 65,536.
    pub reads_pending_max: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            heartbeat_interval: Duration::from_millis(100),
            election_timeout_min: Duration::from_millis(500),
            election_timeout_max: Duration::from_millis(1000),
            append_bytes_max: 1 << 20,
            inflight_appends_max: 256,
            inflight_bytes_max: 8 << 20,
            uncommitted_bytes_max: 64 << 20,
            reads_pending_max: 1 << 16,
        }
    }
}

impl Settings {
    const DURATION_MIN: Duration = Duration::from_micros(1);
    const DURATION_MAX: Duration = Duration::from_secs(24 * 60 * 60);

    /// Refuses contradictions.
    ///
    /// # Errors
    /// The first rule that is broken, with the values that break it.
    pub fn validate(&self) -> Result<(), SettingsError> {
        if self.heartbeat_interval < Self::DURATION_MIN
            || self.election_timeout_min < Self::DURATION_MIN
        {
            return Err(SettingsError::DurationTooShort);
        }
        if self.election_timeout_max > Self::DURATION_MAX {
            return Err(SettingsError::DurationTooLong { election_max: self.election_timeout_max });
        }
        if self.election_timeout_min < self.heartbeat_interval.saturating_mul(3) {
            return Err(SettingsError::HeartbeatTooSlow {
                heartbeat: self.heartbeat_interval,
                election_min: self.election_timeout_min,
            });
        }
        if self.election_timeout_max <= self.election_timeout_min {
            return Err(SettingsError::NoJitter {
                election_min: self.election_timeout_min,
                election_max: self.election_timeout_max,
            });
        }
        if self.inflight_appends_max == 0
            || self.inflight_bytes_max == 0
            || self.reads_pending_max == 0
        {
            return Err(SettingsError::ZeroWindow);
        }
        Ok(())
    }
}

/// Why settings cannot be used.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SettingsError {
    /// A period of nothing would spin, and the clock counts microseconds.
    #[error("heartbeat interval and election timeout must be at least a microsecond")]
    DurationTooShort,
    /// Nobody waits so long for a leader, and sums of such periods overflow.
    #[error("an election timeout of {election_max:?} is longer than a day")]
    DurationTooLong {
        /// The maximum election timeout.
        election_max: Duration,
    },
    /// One lost heartbeat must not start an election.
    #[error(
        "three heartbeats of {heartbeat:?} must fit into the election timeout {election_min:?}"
    )]
    HeartbeatTooSlow {
        /// The heartbeat interval.
        heartbeat: Duration,
        /// The minimum election timeout.
        election_min: Duration,
    },
    /// Without spread, candidates collide forever.
    #[error("the election timeout must spread: {election_min:?} to {election_max:?}")]
    NoJitter {
        /// The minimum election timeout.
        election_min: Duration,
        /// The maximum election timeout.
        election_max: Duration,
    },
    /// A window of zero lets nothing through.
    #[error("windows must hold at least one item")]
    ZeroWindow,
}

/// Everything a group starts from; after a restart, exactly what the log recovered.
#[derive(Clone, Debug)]
pub struct Start {
    /// Which group.
    pub group: GroupId,
    /// Which of its replicas this one is.
    pub replica: ReplicaId,
    /// This life of the node; larger than in any earlier life.
    pub incarnation: Incarnation,
    /// The voters, in any order.
    pub voters: Vec<ReplicaId>,
    /// Makes election jitter differ between replicas; a group is a pure function of its seed and
    /// inputs.
    pub seed: u64,
    /// Term and vote as recovered.
    pub hard_state: HardState,
    /// The recovered log as runs of (first index, term), ascending; empty for a fresh group.
    pub term_runs: Vec<(LogIndex, Term)>,
    /// The last recovered index; zero for a fresh group.
    pub last_index: LogIndex,
    /// Up to where the state machine has already applied, durably; zero if it starts empty.
    pub applied: LogIndex,
    /// Timing and limits.
    pub settings: Arc<Settings>,
}

/// Why a group cannot start from what it was given.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The settings contradict themselves.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// A replica was named twice, or nobody was.
    #[error("the voters must be distinct and at least one")]
    Voters,
    /// The runs do not describe a log that ends at the last index.
    #[error("the recovered log is not contiguous up to {last}")]
    TermRuns {
        /// The last index that was claimed.
        last: LogIndex,
    },
    /// The state machine is ahead of the log: the log lost entries it had promised.
    #[error("the state machine applied {applied}, but the log ends at {last}")]
    AppliedBeyondLog {
        /// What the state machine says it applied.
        applied: LogIndex,
        /// Where the log ends.
        last: LogIndex,
    },
    /// The recorded term is beyond what any correct cluster reaches.
    #[error("the recorded term {term} is impossible")]
    TermOverflow {
        /// The recovered term.
        term: Term,
    },
    /// The log holds entries of a term that term-and-vote has not heard of.
    #[error("the log ends in term {log}, but the recorded term is {recorded}")]
    TermBehindLog {
        /// The term of the last entry.
        log: Term,
        /// The recovered term.
        recorded: Term,
    },
}
