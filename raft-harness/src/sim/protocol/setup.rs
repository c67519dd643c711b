//! What a swarm means for this profile: the settings of the cores, the network, the disks.

use std::time::Duration;

use raft_core::{Acknowledge, Lease, PRIORITY_MAX, Settings};

use super::network::Weather;
use crate::sim::swarm::{Choice, Knobs, Mix, Swarm};

/// The parameters of one run.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) swarm: Swarm,
    pub(crate) nodes: usize,
    pub(crate) groups: usize,
    pub(crate) clients: usize,
    pub(crate) think_us: u64,
    pub(crate) mix: Mix,
    pub(crate) settings: Settings,
    /// Whether replicas are unlike eager to lead.
    pub(crate) priorities: Choice,
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
    pub(crate) fn of(swarm: &Swarm, trace_events: usize) -> Self {
        let knobs = &swarm.knobs;
        Self {
            nodes: swarm.nodes.max(1) as usize,
            groups: swarm.groups.max(1) as usize,
            clients: swarm.workload.clients as usize,
            think_us: swarm.workload.think_us,
            mix: swarm.workload.mix,
            settings: settings(knobs),
            priorities: knobs.priorities,
            drift_ppm: knobs.drift_ppm,
            weather: weather(knobs),
            sync_us: knobs.sync_us,
            apply_max: knobs.apply_max as usize,
            operator_us: knobs.operator_us,
            operations: Operations {
                members: knobs.changes == Choice::On,
                transfers: knobs.transfers == Choice::On,
                snapshots: knobs.snapshots == Choice::On,
                campaigns: knobs.campaigns == Choice::On,
            },
            faults_us: swarm.faults_us,
            healing_us: swarm.healing_us,
            trace_events,
            swarm: swarm.clone(),
        }
    }
}

fn settings(knobs: &Knobs) -> Settings {
    let quiesce = Duration::from_millis(knobs.quiesce_ms);
    Settings {
        heartbeat_interval: Duration::from_millis(knobs.heartbeat_ms),
        election_timeout_min: Duration::from_millis(knobs.election_min_ms),
        election_timeout_max: Duration::from_millis(knobs.election_max_ms),
        append_bytes_max: knobs.append_bytes_max,
        inflight_appends_max: knobs.inflight_appends_max as usize,
        inflight_bytes_max: knobs.inflight_bytes_max,
        uncommitted_bytes_max: knobs.uncommitted_bytes_max,
        reads_pending_max: knobs.reads_pending_max as usize,
        lease: match knobs.leases {
            Choice::On => Lease::Within { drift_ppm: knobs.lease_drift_ppm as u32 },
            Choice::Off => Lease::Never,
        },
        acknowledge: match knobs.count_written {
            Choice::On => Acknowledge::Written,
            Choice::Off => Acknowledge::Durable,
        },
        promotion_lag_max: knobs.promotion_lag_max,
        disk_stall_max: Duration::from_millis(knobs.disk_stall_ms),
        quiesce_after: (!quiesce.is_zero()).then_some(quiesce),
        priority: PRIORITY_MAX,
    }
}

const fn weather(knobs: &Knobs) -> Weather {
    Weather {
        delay_us: knobs.latency_us,
        jitter_us: knobs.jitter_us,
        drop_permille: knobs.drop_permille as u32,
        duplicate_permille: knobs.duplicate_permille as u32,
        straggle_permille: knobs.straggle_permille as u32,
        straggle_us: knobs.straggle_us,
    }
}
