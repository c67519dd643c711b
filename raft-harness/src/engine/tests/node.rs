//! One node: an engine with the drivers' part played by plain data.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use raft_core::{GroupId, Incarnation, Lease, LogTime, Micros, NodeId, Settings};
use raft_transport::{Envelope, LaneLayout, LanePolicy};

use super::disk::Disk;
use super::journal::Journal;
use crate::counters::Counters;
use crate::engine::{
    ApplyJob, ApplyTask, Durability, EngineInput, EngineOptions, LogLoad, MachineHost, ShardEngine,
    TurnOutput,
};
use crate::persistence::Persistence;
use crate::snapshot::desk::{Desk, DeskInput, DeskOptions};
use crate::snapshot::shelf::Shelf;
use crate::snapshot::workshop::Workshop;
use crate::snapshot::{Compression, MemoryStore};

/// Entries with a payload of this size take the bulk lane.
pub(super) const BULK_BYTES: usize = 4 << 10;

pub(super) struct Node {
    pub(super) id: NodeId,
    /// Counts restarts; events of an earlier life are dropped.
    pub(super) life: u64,
    pub(super) engine: Option<ShardEngine>,
    pub(super) inbox: Vec<EngineInput>,
    pub(super) out: TurnOutput,
    /// The next turn that is planned.
    pub(super) turn_at: Option<Micros>,
    pub(super) disk: Disk,
    pub(super) journals: BTreeMap<GroupId, Journal>,
    pub(super) worker: Worker,
    /// Snapshots that are whole outlive crashes; the desk's work does not.
    pub(super) snapshots: MemoryStore,
    pub(super) shelf: Arc<Shelf>,
    pub(super) desk: Desk,
    pub(super) workshop: Workshop,
    pub(super) desk_inputs: VecDeque<DeskInput>,
    /// After how many entries and bytes a snapshot is taken.
    pub(super) snapshot_every: (Option<u64>, Option<u64>),
    pub(super) persistence: Persistence,
    /// Entries before a snapshot that stay.
    pub(super) snapshot_tail: u64,
    /// How much of the log is kept for peers.
    pub(super) hold_bytes: u64,
    /// The next time the desk is to be looked at.
    pub(super) desk_at: Option<Micros>,
    /// Appends the bulk lane has not taken yet.
    pub(super) bulk: BTreeMap<NodeId, VecDeque<(Envelope, u64)>>,
    /// The term in which each group is led here.
    pub(super) leads: BTreeMap<GroupId, u64>,
    /// How often each group's leadership was lost here, and how often the node crashed.
    pub(super) losses: BTreeMap<GroupId, u64>,
    pub(super) crashes: u64,
    /// It was asked to stop when it was looked at last.
    was_stopping: bool,
    pub(super) turns: u64,
    pub(super) counters: Arc<Counters>,
}

/// The apply worker: one thread's worth of work, in order.
#[derive(Default)]
pub(super) struct Worker {
    machines: BTreeMap<GroupId, MachineHost>,
    pub(super) jobs: VecDeque<ApplyJob>,
    /// What the shard is told beside the result of a job.
    pub(super) reports: VecDeque<EngineInput>,
    pub(super) busy: bool,
}

impl Worker {
    /// Does the oldest job; returns what the shard is told.
    pub(super) fn work(&mut self) -> Option<EngineInput> {
        let ApplyJob { group, task } = self.jobs.pop_front()?;
        match task {
            ApplyTask::Start(machine) => {
                self.machines.insert(group, *machine);
            }
            ApplyTask::Snapshot(meta) => {
                let machine = self.machines.get_mut(&group).expect("started first");
                let state = machine.snapshot(meta.index).unwrap_or_else(|broken| {
                    self.reports.push_back(EngineInput::MachineBroken(group, broken));
                    None
                });
                machine.job_done();
                self.reports.push_back(EngineInput::Applied(group, machine.applied()));
                return Some(EngineInput::MachineState(group, meta, state));
            }
            ApplyTask::Replace(restored) => {
                let machine = self.machines.get_mut(&group).expect("started first");
                machine.replace(*restored);
                machine.job_done();
                return Some(EngineInput::Applied(group, machine.applied()));
            }
            ApplyTask::Entries(entries, waiters) => {
                let machine = self.machines.get_mut(&group).expect("started first");
                if let Err(broken) = machine.apply(&entries, waiters) {
                    self.reports.push_back(EngineInput::MachineBroken(group, broken));
                }
                machine.job_done();
                return Some(EngineInput::Applied(group, machine.applied()));
            }
            ApplyTask::Reads(time, reads) => {
                let machine = self.machines.get_mut(&group).expect("started first");
                for (ask, reply) in reads {
                    if let Err(broken) = machine.answer_to(ask, time, reply) {
                        self.reports.push_back(EngineInput::MachineBroken(group, broken));
                    }
                }
                machine.job_done();
                return Some(EngineInput::Applied(group, machine.applied()));
            }
            ApplyTask::Stop => {
                let mut machine = self.machines.remove(&group).expect("started first");
                machine.job_done();
                return Some(EngineInput::Applied(group, machine.applied()));
            }
            ApplyTask::Digest(reply) => {
                let machine = self.machines.get_mut(&group).expect("started first");
                if let Err(broken) = machine.digest(reply) {
                    self.reports.push_back(EngineInput::MachineBroken(group, broken));
                }
            }
        }
        None
    }
}

impl Node {
    pub(super) fn new(id: NodeId) -> Self {
        let snapshots = MemoryStore::default();
        let shelf = Arc::new(Shelf::open(Arc::new(snapshots.clone())).expect("memory"));
        Self {
            desk: Desk::new(Arc::clone(&shelf), None, DeskOptions::default()),
            workshop: Workshop::new(Arc::clone(&shelf), Compression::default()),
            shelf,
            snapshots,
            desk_inputs: VecDeque::new(),
            snapshot_every: (Some(40), None),
            persistence: Persistence::default(),
            snapshot_tail: 3,
            hold_bytes: 1 << 10,
            desk_at: None,
            id,
            life: 0,
            engine: None,
            inbox: Vec::new(),
            out: TurnOutput::default(),
            turn_at: None,
            disk: Disk::default(),
            journals: BTreeMap::new(),
            worker: Worker::default(),
            bulk: BTreeMap::new(),
            leads: BTreeMap::new(),
            losses: BTreeMap::new(),
            crashes: 0,
            was_stopping: false,
            turns: 0,
            counters: Arc::default(),
        }
    }

    pub(super) fn incarnation(&self) -> Incarnation {
        Incarnation::new(self.life)
    }

    pub(super) fn start(&mut self, seed: u64, durability: Durability, peers: &[NodeId]) {
        self.life += 1;
        let options = EngineOptions {
            persistence: self.persistence,
            node: self.id,
            incarnation: self.incarnation(),
            creations_lost: false,
            settings: Arc::new(Settings {
                append_bytes_max: 16 << 10,
                inflight_appends_max: 4,
                inflight_bytes_max: 32 << 10,
                uncommitted_bytes_max: 96 << 10,
                reads_pending_max: 8,
                lease: Lease::Within { drift_ppm: 1000 },
                ..Settings::default()
            }),
            lane_policy: LanePolicy { bulk_append_min: Some(BULK_BYTES as u64) },
            layout: LaneLayout::default(),
            seed,
            durability,
            command_bytes_max: 32 << 10,
            window_bytes: match durability {
                // As small as it gets: entries are read back all the time.
                Durability::Log => Some(0),
                Durability::Memory => None,
            },
            requests_max: 64,
            // Often, and with hardly a tail: peers a little behind need one.
            snapshot_every: self.snapshot_every.0,
            snapshot_bytes: self.snapshot_every.1,
            snapshot_tail: self.snapshot_tail,
            snapshot_hold_bytes: self.hold_bytes,
            bulk_bytes_max: 16 << 10,
            log_load: Arc::new(LogLoad::new(u64::MAX)),
        };
        let others = peers.iter().copied().filter(|peer| *peer != self.id);
        self.counters = Arc::new(Counters::default());
        self.engine = Some(ShardEngine::new(options, Arc::clone(&self.counters), others));
    }

    /// The process dies: what is not on disk is gone, and every promise to a client with it.
    pub(super) fn crash(&mut self) {
        self.engine = None;
        self.inbox.clear();
        self.out = TurnOutput::default();
        self.turn_at = None;
        self.journals.clear();
        self.worker = Worker::default();
        self.bulk.clear();
        let shelf = Shelf::open(Arc::new(self.snapshots.clone())).expect("memory");
        self.shelf = Arc::new(shelf);
        self.desk = Desk::new(Arc::clone(&self.shelf), None, DeskOptions::default());
        self.workshop = Workshop::new(Arc::clone(&self.shelf), Compression::default());
        self.desk_inputs.clear();
        self.desk_at = None;
        self.leads.clear();
        self.was_stopping = false;
        self.crashes += 1;
    }

    /// The wall clocks of the nodes differ by seconds.
    pub(super) fn wall(&self, now: Micros) -> LogTime {
        LogTime::new(1_000_000 + now.get() / 1000 + self.id.get() * 1500)
    }

    /// Notes who leads, to judge later which answers may be unknown.
    pub(super) fn note_roles(&mut self) {
        let Some(engine) = &self.engine else { return };
        for status in engine.statuses() {
            let leads = matches!(status.role, crate::node_status::Role::Leader);
            let term = status.term.get();
            match self.leads.get(&status.group).copied() {
                Some(led) if !leads || led != term => {
                    *self.losses.entry(status.group).or_default() += 1;
                    self.leads.remove(&status.group);
                }
                Some(_) | None => {}
            }
            if leads {
                let news = self.leads.insert(status.group, term).is_none();
                assert!(!news || !self.was_stopping, "node {} stops and takes office", self.id);
            }
            assert_eq!(status.fault, None, "node {} group {}", self.id, status.group);
        }
        self.was_stopping = engine.stopping;
    }
}
