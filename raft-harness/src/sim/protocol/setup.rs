//! What a seed draws before anything happens: how many of everything, how slow, how small.
//!
//! Swarm testing: a seed leaves most kinds of trouble out, so that what remains is not drowned,
//! and draws its limits small enough to be reached.

use std::time::Duration;

use raft_core::{Acknowledge, Lease, PRIORITY_MAX, Settings};

use super::network::Weather;
use crate::sim::rng::Streams;

/// The parameters of one run.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) nodes: usize,
    pub(crate) groups: usize,
    /// Voters each group starts with.
    pub(crate) voters: usize,
    pub(crate) clients: usize,
    pub(crate) think_us: u64,
    pub(crate) settings: Settings,
    /// How far each clock's rate may be off, in parts per million.
    pub(crate) drift_ppm: u64,
    pub(crate) weather: Weather,
    /// How long a flush takes, about.
    pub(crate) sync_us: u64,
    /// Entries applied per turn.
    pub(crate) apply_max: usize,
    /// How often somebody changes memberships, takes snapshots, hands over; zero for never.
    pub(crate) operator_us: u64,
    /// Which of those they do.
    pub(crate) operations: Operations,
    /// How long there are faults.
    pub(crate) faults_us: u64,
    /// How long there are none after that.
    pub(crate) healing_us: u64,
    /// Events kept for a report.
    pub(crate) trace_events: usize,
}

/// What operators do in a run.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Operations {
    pub(crate) members: bool,
    pub(crate) transfers: bool,
    pub(crate) snapshots: bool,
    pub(crate) campaigns: bool,
}

impl Setup {
    pub(crate) fn draw(seeds: Streams) -> Self {
        let mut rng = seeds.stream("setup", &[]);
        let nodes = match rng.below(20) {
            0 => 1,
            1 => 2,
            2..=10 => 3,
            11..=13 => 4,
            14..=17 => 5,
            18 => 6,
            _ => 7,
        };
        let groups = match rng.below(12) {
            0..=7 => 1 + rng.below(2) as usize,
            8..=10 => 2 + rng.below(6) as usize,
            _ => 10 + rng.below(41) as usize,
        };
        let voters = match nodes {
            1 | 2 => nodes,
            3 | 4 => 3 - usize::from(rng.chance(1, 10)),
            _ => [3, 5, 5][rng.below(3) as usize],
        };
        let heartbeat = 20 + rng.below(100);
        let min = heartbeat * (3 + rng.below(4));
        let max = min + min / 2 + rng.below(min);
        let drift_ppm = if rng.chance(1, 2) { rng.below(30_000) } else { rng.below(200) };
        let lease = if rng.chance(1, 2) {
            Lease::Within { drift_ppm: drift_ppm as u32 + rng.below(5_000) as u32 }
        } else {
            Lease::Never
        };
        let tiny = rng.chance(1, 3);
        let settings = Settings {
            heartbeat_interval: Duration::from_millis(heartbeat),
            election_timeout_min: Duration::from_millis(min),
            election_timeout_max: Duration::from_millis(max),
            append_bytes_max: if tiny { 1 + rng.below(400) } else { 1 << 20 },
            inflight_appends_max: if tiny { 1 + rng.below(4) as usize } else { 64 },
            inflight_bytes_max: if tiny { 1 + rng.below(2000) } else { 1 << 20 },
            uncommitted_bytes_max: if tiny { 500 + rng.below(8000) } else { 1 << 20 },
            reads_pending_max: if tiny { 1 + rng.below(8) as usize } else { 1 << 12 },
            lease,
            acknowledge: if rng.chance(1, 4) { Acknowledge::Written } else { Acknowledge::Durable },
            promotion_lag_max: rng.below(64),
            disk_stall_max: Duration::from_millis(max * (1 + rng.below(4))),
            quiesce_after: rng.chance(1, 4).then(|| Duration::from_millis(min + rng.below(500))),
            priority: PRIORITY_MAX,
        };
        let lossy = rng.chance(1, 2);
        let weather = Weather {
            delay_us: 100 + rng.below(3_000),
            jitter_us: rng.below(5_000),
            drop_permille: if lossy { rng.below(60) as u32 } else { 0 },
            duplicate_permille: if rng.chance(1, 2) { rng.below(50) as u32 } else { 0 },
            straggle_permille: if rng.chance(1, 2) { rng.below(40) as u32 } else { 0 },
            straggle_us: rng.below(3_000_000),
        };
        let operations = Operations {
            members: rng.chance(1, 2),
            transfers: rng.chance(1, 2),
            snapshots: rng.chance(1, 2),
            campaigns: rng.chance(1, 4),
        };
        Self {
            nodes,
            groups,
            voters,
            clients: 3 + rng.below(4) as usize + groups,
            think_us: 100_000 + rng.below(400_000) + groups as u64 * 20_000,
            settings,
            drift_ppm,
            weather,
            sync_us: 200 + rng.below(4_000),
            apply_max: if rng.chance(1, 6) { 1 + rng.below(3) as usize } else { 64 },
            operator_us: 300_000 + rng.below(1_500_000),
            operations,
            faults_us: 30_000_000,
            healing_us: 30_000_000,
            trace_events: 0,
        }
    }
}
