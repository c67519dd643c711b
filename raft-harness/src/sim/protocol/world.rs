//! The whole of a run: nodes, links, clients, and the judge, in virtual time.
//!
//! What happens is decided by events alone. Each step of a replica is shown to the checks before
//! any of its effects is carried out, and effects are carried out one by one, so that a crash can
//! fall between any two.

use std::collections::BTreeMap;
use std::sync::Arc;

use raft_core::{
    Acknowledge, Base, GroupId, Incarnation, LogIndex, Member, Membership, NodeId, ReplicaId,
    Settings, Standing, Token,
};

use super::clients::Clients;
use super::disk::{Disk, Image};
use super::events::EventQueue;
use super::faults::Undo;
use super::network::{Network, NodeAt};
use super::node::{Clock, DiskWeather, Node, Running};
use super::notes::RunMemory;
use super::setup::Setup;
use super::stamps::Stamps;
use super::timeline::Event;
use crate::sim::invariants::Checker;
use crate::sim::marks::{Mark, Marks};
use crate::sim::rng::{Rng, Streams};
use crate::sim::schedule::Fault;
use crate::sim::swarm::Choice;
use crate::sim::trace::Trace;
use crate::sim::violation::Violation;

/// Counters of a run.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) messages: u64,
    pub(crate) steps: u64,
    pub(crate) crashes: u64,
}

#[derive(Debug)]
pub(crate) struct World {
    pub(crate) setup: Setup,
    pub(crate) settings: Arc<Settings>,
    pub(super) priorities: Choice,
    pub(crate) now: u64,
    pub(crate) queue: EventQueue<Event>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) groups: Vec<GroupId>,
    pub(crate) network: Network,
    pub(crate) clients: Clients,
    pub(crate) checker: Checker,
    pub(super) stamps: Stamps,
    pub(crate) marks: Marks,
    pub(crate) notes: RunMemory,
    pub(crate) trace: Trace,
    pub(crate) counts: Counts,
    pub(crate) violation: Option<Violation>,
    /// The schedule, and the stops that its storms consist of.
    pub(crate) faults: Vec<Fault>,
    /// What is to be undone when a fault ends, by its place among the faults.
    pub(crate) undo: BTreeMap<usize, Undo>,
    /// How often each kind of fault took effect.
    pub(crate) injected: BTreeMap<&'static str, u64>,
    /// How often one did not.
    pub(crate) skipped: BTreeMap<&'static str, u64>,
    /// The newest membership of each group that is known to be committed, and its place.
    pub(crate) memberships: BTreeMap<GroupId, (LogIndex, Arc<Membership>)>,
    /// The largest replica id that operators have used in each group.
    pub(crate) last_replica: BTreeMap<GroupId, ReplicaId>,
    /// Faults are over.
    pub(crate) healed: bool,
    /// Operators are at work.
    pub(crate) operating: bool,
    pub(super) rng_turn: Rng,
    pub(super) rng_disk: Rng,
    pub(crate) rng_crash: Rng,
    pub(crate) seeds: Streams,
    pub(super) packets: u64,
    pub(crate) tokens: u64,
}

impl World {
    pub(crate) fn new(seed: u64, setup: Setup) -> Self {
        let seeds = Streams::new(seed);
        let settings = Arc::new(setup.settings.clone());
        let mut clocks = seeds.stream("clock", &[]);
        let nodes: Vec<Node> = (0..setup.nodes)
            .map(|at| Node {
                id: NodeId::new(at as u64 + 1),
                incarnation: Incarnation::new(0),
                clock: Clock {
                    // Far enough from zero for a clock that runs slow.
                    offset_us: 10_000_000 + clocks.below(5_000_000),
                    drift_ppm: clocks.below(2 * setup.drift_ppm + 1) as i64
                        - setup.drift_ppm as i64,
                    wall_offset_ms: clocks.below(10_000),
                },
                running: Running::Down,
                disk: Disk::default(),
                disk_weather: DiskWeather::default(),
                disk_busy: false,
                replicas: BTreeMap::new(),
                touched: Vec::new(),
                turn_due: false,
                stopping: false,
                hands_over: false,
                transfers: BTreeMap::new(),
                crash_after: None,
                heard_at: 0,
                wiped: false,
                lost_replicas: BTreeMap::new(),
            })
            .collect();
        let groups: Vec<GroupId> = (1..=setup.groups as u32).map(GroupId::new).collect();
        let network = Network::new(seeds, nodes.len(), setup.weather);
        let mut world = Self {
            clients: Clients::new(seeds, &setup, &groups),
            trace: if setup.trace_events > 0 {
                Trace::keeping(setup.trace_events)
            } else {
                Trace::hash_only()
            },
            settings,
            priorities: setup.priorities,
            now: 0,
            queue: EventQueue::default(),
            nodes,
            groups,
            network,
            checker: Checker::new(),
            stamps: Stamps::default(),
            marks: Marks::default(),
            notes: RunMemory::default(),
            counts: Counts::default(),
            violation: None,
            faults: Vec::new(),
            undo: BTreeMap::new(),
            injected: BTreeMap::new(),
            skipped: BTreeMap::new(),
            memberships: BTreeMap::new(),
            last_replica: BTreeMap::new(),
            healed: false,
            operating: true,
            rng_turn: seeds.stream("turn", &[]),
            rng_disk: seeds.stream("disk", &[]),
            rng_crash: seeds.stream("crash", &[]),
            seeds,
            packets: 0,
            tokens: 0,
            setup,
        };
        world.found();
        world
    }

    /// The groups come into being: voters on some of the nodes, each with its data on disk.
    fn found(&mut self) {
        for group in self.groups.clone() {
            let places = self.setup.swarm.placement(self.seeds, group);
            let membership = Membership::new(places.iter().enumerate().map(|(at, node)| Member {
                replica: ReplicaId::new(at as u64 + 1),
                node: *node,
                standing: Standing::Voter,
            }));
            let Ok(membership) = membership else { continue };
            for member in membership.members() {
                let base = Base::first(membership.clone());
                let at = self.node_at(member.node);
                self.nodes[at].disk.images.insert(group, Image::new(member.replica, base));
            }
        }
        for at in 0..self.nodes.len() {
            self.start(at);
        }
    }

    pub(crate) fn node_at(&self, node: NodeId) -> NodeAt {
        node.get() as usize - 1
    }

    pub(crate) fn fail(&mut self, violation: Violation) {
        self.violation.get_or_insert(violation);
    }

    pub(crate) fn check(&mut self, result: Result<(), Violation>) {
        if let Err(violation) = result {
            self.fail(violation);
        }
    }

    pub(crate) fn mark(&mut self, mark: Mark) {
        self.marks.hit(mark);
    }

    /// Whether a replica is the one of its group here, and not a successor of it.
    pub(super) fn is_here(&self, at: NodeAt, group: GroupId, replica: ReplicaId) -> bool {
        self.nodes[at].replicas.get(&group).is_some_and(|here| here.id() == replica)
    }

    pub(super) fn counts_written(&self) -> bool {
        self.settings.acknowledge == Acknowledge::Written
    }

    pub(crate) fn token(&mut self) -> Token {
        self.tokens += 1;
        Token::new(self.tokens)
    }
}
