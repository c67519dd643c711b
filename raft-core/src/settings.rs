//! What a group is told at its creation: timing, limits, voters, and what survived a restart.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;

use crate::entry::HardState;
use crate::id::{GroupId, Incarnation, LogIndex, LogTime, ReplicaId, Term};
use crate::membership::Membership;
use crate::message::{Promise, SnapshotMeta};

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
    /// Appends in flight to one peer before the leader waits for an answer, that it has written
    /// them or has them on disk. Default 256.
    pub inflight_appends_max: usize,
    /// Bytes in flight to one peer before the leader waits for an answer; one append may pass
    /// the limit, so that an oversize entry is not stuck. Default 8 MiB.
    pub inflight_bytes_max: u64,
    /// Bytes a leader takes on before a quorum has them; then proposals are refused as
    /// [`Overloaded`](crate::Refusal::Overloaded). One proposal into an empty window is always
    /// taken. Default 64 MiB.
    pub uncommitted_bytes_max: u64,
    /// Reads a replica holds at once, waiting for confirmation. Default 65,536.
    pub reads_pending_max: usize,
    /// Whether a leader may answer reads from its lease, and how far clocks may drift apart.
    /// Must be the same on all replicas, as must `election_timeout_min` where leases are in use: a
    /// lease counts on the others' patience. Default [`Lease::Never`].
    pub lease: Lease,
    /// What counts toward commit. Default [`Acknowledge::Durable`].
    pub acknowledge: Acknowledge,
    /// Entries a learner may lack and still become a voter. Default 1024.
    pub promotion_lag_max: u64,
    /// A disk that does not answer for so long hangs. Whoever drives the groups then lets others
    /// lead them; a leader whose oldest write has waited twice as long steps down by itself, since
    /// its heartbeats would keep everyone loyal. Default 2 s, longer than a disk that is only busy
    /// takes.
    pub disk_stall_max: Duration,
    /// A leader with nothing to do for so long puts its group to sleep: no deadlines, no
    /// heartbeats, until something happens. The driver must then report dead nodes with
    /// [`Input::PeerUnreachable`](crate::Input::PeerUnreachable), or followers that sleep never notice
    /// that their leader is gone. `None`, the default: never.
    pub quiesce_after: Option<Duration>,
    /// How eager this replica is to lead, from 0, never by itself, to [`PRIORITY_MAX`]. Each step
    /// below the largest lets it wait half an election timeout longer. It weighs nothing in a
    /// vote. Default [`PRIORITY_MAX`].
    pub priority: u8,
}

/// The largest [`Settings::priority`].
pub const PRIORITY_MAX: u8 = 8;

/// Whether leases serve reads (thesis 6.4.1).
///
/// A lease lasts one shortest election timeout from when a quorum's heartbeats *left*, less twice
/// the drift. It rests on stickiness and check-quorum, which cannot be switched off. After a
/// restart a replica votes for nobody until the longest possible lease is over.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Lease {
    /// Reads always ask a quorum.
    #[default]
    Never,
    /// Reads may be answered from a lease.
    Within {
        /// How much faster or slower than true time a clock may run, in parts per million; below
        /// 500,000.
        drift_ppm: u32,
    },
}

/// What counts toward commit.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Acknowledge {
    /// What a quorum has on disk. Nothing acknowledged is ever lost.
    #[default]
    Durable,
    /// What a quorum has in its page caches. A power cut can lose what is acknowledged: a replica
    /// that comes back from one must be started with [`Promise::Lost`](crate::Promise::Lost).
    /// Term, vote, memberships and the first entry of a term count only when durable, here too.
    Written,
}

impl fmt::Display for Acknowledge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Durable => "durable",
            Self::Written => "written",
        })
    }
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
            lease: Lease::Never,
            acknowledge: Acknowledge::Durable,
            promotion_lag_max: 1024,
            disk_stall_max: Duration::from_secs(2),
            quiesce_after: None,
            priority: PRIORITY_MAX,
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
        if let Lease::Within { drift_ppm } = self.lease
            && drift_ppm >= 500_000
        {
            return Err(SettingsError::DriftTooLarge { drift_ppm });
        }
        if self.priority > PRIORITY_MAX {
            return Err(SettingsError::Priority { priority: self.priority });
        }
        let election_min = self.election_timeout_min;
        for (setting, period) in
            [("disk_stall_max", Some(self.disk_stall_max)), ("quiesce_after", self.quiesce_after)]
        {
            if let Some(period) = period
                && (period < election_min || period > Self::DURATION_MAX)
            {
                return Err(SettingsError::Patience { setting, period, election_min });
            }
        }
        Ok(())
    }

    /// How long a lease lasts from when its heartbeats left; `None` without leases.
    ///
    /// With clocks that run at most `d` fast or slow, a leader's `E (1 - 2d)` is over before
    /// anybody else's `E`.
    pub(crate) fn lease_duration(&self) -> Option<Duration> {
        match self.lease {
            Lease::Never => None,
            Lease::Within { .. } if crate::planted!(LeaseIgnoresDrift) => {
                Some(self.election_timeout_min)
            }
            Lease::Within { drift_ppm } => {
                // Election timeouts are at most a day, so nothing here overflows.
                let full = self.election_timeout_min.as_micros() as u64;
                let margin = (full * 2 * u64::from(drift_ppm)).div_ceil(1_000_000);
                Some(Duration::from_micros(full.saturating_sub(margin)))
            }
        }
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
    /// A clock that may stand still measures nothing.
    #[error("clocks that drift by {drift_ppm} ppm measure no lease")]
    DriftTooLarge {
        /// Parts per million.
        drift_ppm: u32,
    },
    /// Beyond the scale.
    #[error("a priority of {priority} is above {PRIORITY_MAX}")]
    Priority {
        /// What was asked for.
        priority: u8,
    },
    /// A group that gives up faster than it elects gets nowhere.
    #[error(
        "{setting} of {period:?} is shorter than the election timeout {election_min:?}, or longer \
         than a day"
    )]
    Patience {
        /// Which setting.
        setting: &'static str,
        /// The period.
        period: Duration,
        /// The minimum election timeout.
        election_min: Duration,
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
    /// Where the log begins: the position before its first entry, with what was in force there.
    pub base: Base,
    /// The configuration entries of the recovered log, ascending by index.
    pub configs: Vec<(LogIndex, Arc<Membership>)>,
    /// Makes election jitter differ between replicas; a group is a pure function of its seed and
    /// inputs.
    pub seed: u64,
    /// Term and vote as recovered.
    pub hard_state: HardState,
    /// The recovered log as runs of (first index, term), ascending; empty for a fresh group.
    pub term_runs: Vec<(LogIndex, Term)>,
    /// The last recovered index; the base's for a fresh group.
    pub last_index: LogIndex,
    /// The time of the newest entry ever held; zero for a fresh group.
    pub log_time: LogTime,
    /// Up to where the state machine has already applied, durably; zero if it starts empty.
    pub applied: LogIndex,
    /// Whether everything this replica ever promised was recovered, by the judgement of its log.
    pub promise: PromiseRecord,
    /// Timing and limits.
    pub settings: Arc<Settings>,
}

impl Start {
    /// A replica that has never been before.
    pub fn fresh(
        group: GroupId,
        replica: ReplicaId,
        membership: Membership,
        settings: Arc<Settings>,
    ) -> Self {
        Self {
            group,
            replica,
            incarnation: Incarnation::new(1),
            base: Base::first(membership),
            configs: Vec::new(),
            seed: 0,
            hard_state: HardState::default(),
            term_runs: Vec::new(),
            last_index: LogIndex::ZERO,
            log_time: LogTime::default(),
            applied: LogIndex::ZERO,
            promise: PromiseRecord::default(),
            settings,
        }
    }

    /// A replica that joins a group which exists elsewhere: it learns who belongs to it from the
    /// leader, and until then stands for nothing.
    pub fn joining(group: GroupId, replica: ReplicaId, settings: Arc<Settings>) -> Self {
        Self {
            group,
            replica,
            incarnation: Incarnation::new(1),
            base: Base::default(),
            configs: Vec::new(),
            seed: 0,
            hard_state: HardState::default(),
            term_runs: Vec::new(),
            last_index: LogIndex::ZERO,
            log_time: LogTime::default(),
            applied: LogIndex::ZERO,
            promise: PromiseRecord::default(),
            settings,
        }
    }
}

/// The position before a log's first entry: nothing, or a snapshot.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Base {
    /// The last index that is not in the log any more; zero if the log is whole.
    pub index: LogIndex,
    /// The term there.
    pub term: Term,
    /// Where the membership was decided; zero for the first one.
    pub config_index: LogIndex,
    /// Who belongs to the group there; `None` for a replica that joins and does not know yet.
    pub membership: Option<Arc<Membership>>,
    /// Up to where a durable snapshot reaches; at least `index`. Later than it when compaction
    /// leaves a tail for slow peers.
    pub snapshot: LogIndex,
}

impl Base {
    /// Of a group that begins with this membership.
    pub fn first(membership: Membership) -> Self {
        Self { membership: Some(Arc::new(membership)), ..Self::default() }
    }

    /// Of a log that begins right behind a snapshot.
    pub fn of_snapshot(meta: &SnapshotMeta) -> Self {
        Self {
            index: meta.index,
            term: meta.term,
            config_index: meta.config_index,
            membership: Some(Arc::clone(&meta.membership)),
            snapshot: meta.index,
        }
    }
}

/// What the log remembers of promises that may be lost.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct PromiseRecord {
    /// Whether the replica is still recovering them.
    pub promise: Promise,
    /// How often this group was told to go on although entries may be lost. The application can
    /// see it.
    pub loss_epoch: u32,
}

/// Why a group cannot start from what it was given.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The settings contradict themselves.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The configuration entries do not ascend within the log.
    #[error("the configuration entry at {index} is not within the log")]
    Configs {
        /// The one out of place.
        index: LogIndex,
    },
    /// A snapshot says nothing of who belongs to the group.
    #[error("a log without a membership")]
    NoMembership,
    /// The runs do not describe a log that goes from the base to the last index.
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
    /// The state machine needs entries that are gone, and the snapshot that replaced them was not
    /// given to it.
    #[error("the state machine applied {applied}, but the log begins after {base}")]
    AppliedBeforeLog {
        /// What the state machine says it applied.
        applied: LogIndex,
        /// The log's base.
        base: LogIndex,
    },
    /// The log was compacted past its snapshot: entries are in neither.
    #[error("the log begins after {base}, but the snapshot ends at {snapshot}")]
    SnapshotBeforeLog {
        /// The log's base.
        base: LogIndex,
        /// The snapshot's last index.
        snapshot: LogIndex,
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
