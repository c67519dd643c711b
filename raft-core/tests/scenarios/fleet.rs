//! A fleet: several replicas with their disks, clocks and links, each in the hands of the test.
//!
//! Left alone, the network is perfect and disks are prompt: [`Fleet::settle`] delivers and syncs
//! until nothing moves. A test cuts links, holds messages and disks back, crashes, wipes and
//! pauses replicas, and lets them go again. After every step of a replica the [`Checker`] looks
//! at it, so a scenario also fails for what it was not written for.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use raft_core::{
    Effects, Gated, Group, GroupId, Incarnation, LogIndex, MemberChange, Membership, Message,
    Micros, NodeId, Outcome, ReplicaId, Settings, SnapshotMeta, Token,
};

use crate::bench::*;
use checker::Checker;
use disk::{Disk, Log, Record};

mod checker;
mod disk;
mod faults;
mod requests;
mod steps;

/// More steps than any scenario needs before it comes to rest.
const STEPS_MAX: usize = 5_000;

/// A message under way.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    pub(crate) from: ReplicaId,
    pub(crate) from_life: Incarnation,
    pub(crate) to: ReplicaId,
    pub(crate) to_life: Incarnation,
    pub(crate) message: Message,
    /// The entries of an append.
    records: Vec<Record>,
}

pub(crate) struct Node {
    id: ReplicaId,
    life: Incarnation,
    settings: Arc<Settings>,
    /// What it starts from when it has nothing on disk.
    first: raft_core::Base,
    up: Option<Up>,
    disk: Disk,
    /// Its clock: so far ahead, and so many microseconds in a million.
    offset: u64,
    rate: u64,
    /// While it is paused, what arrives waits here.
    paused: Option<Vec<Packet>>,
}

impl Node {
    fn clock(&self, true_now: u64) -> Micros {
        Micros::new(self.offset + true_now * self.rate / 1_000_000)
    }
}

/// A replica that runs.
struct Up {
    group: Group,
    effects: Effects,
    log: Log,
    gated: Vec<Gated>,
    /// What the checker saw last.
    commit_seen: LogIndex,
    applied_seen: LogIndex,
    led: bool,
    in_force: Option<Arc<Membership>>,
    fetch: Option<(ReplicaId, SnapshotMeta)>,
}

type Hold = Box<dyn Fn(&Packet) -> bool>;

pub(crate) struct Fleet {
    nodes: Vec<Node>,
    now: u64,
    cut: BTreeSet<(ReplicaId, ReplicaId)>,
    hold: Option<Hold>,
    pub(crate) held: Vec<Packet>,
    wire: VecDeque<Packet>,
    /// Snapshots stay under way.
    pub(crate) hold_snapshots: bool,
    /// Packets for a former life are given to the present one.
    pub(crate) careless: bool,
    /// Replicas that may meet the impossible.
    may_fault: BTreeSet<ReplicaId>,
    checker: Checker,
    created: u64,
    tokens: u64,
}

impl Fleet {
    /// Replicas 1 to `size`, all voters, with empty logs.
    pub(crate) fn of(size: u64) -> Self {
        Self::with(size, Settings::default())
    }

    pub(crate) fn with(size: u64, settings: Settings) -> Self {
        Self::with_logs(&vec![&[][..]; size as usize], settings)
    }

    /// Replicas whose logs have entries of these terms already; equal prefixes are equal entries.
    pub(crate) fn with_logs(logs: &[&[u64]], settings: Settings) -> Self {
        crate::planted::plant();
        let first = base((1..=logs.len() as u64).map(ReplicaId::new));
        let mut fleet = Self {
            nodes: Vec::new(),
            now: 0,
            cut: BTreeSet::new(),
            hold: None,
            held: Vec::new(),
            wire: VecDeque::new(),
            hold_snapshots: false,
            careless: false,
            may_fault: BTreeSet::new(),
            checker: Checker::default(),
            created: 0,
            tokens: 0,
        };
        let settings = Arc::new(settings);
        for (id, log) in (1..).map(ReplicaId::new).zip(logs) {
            let mut disk = Disk { log: Log::of(first.clone()), ..Disk::default() };
            for (at, of) in (1..).zip(*log) {
                let identity = (at << 32) + (1 << 16) + of;
                let record = Record { term: term(*of), identity, membership: None };
                disk.log.push(index(at), record);
                disk.hard_state.term = term(*of);
            }
            fleet.add(id, first.clone(), Arc::clone(&settings), disk);
        }
        fleet
    }

    /// A learner that starts with nothing, and catches up.
    pub(crate) fn add_learner(&mut self, id: ReplicaId) {
        self.add_joining(id);
        let leader = self.leader().expect("somebody leads");
        let node = NodeId::new(id.get());
        let change = self.change(leader, &[MemberChange::AddLearner { replica: id, node }]);
        self.settle();
        assert!(self.is_committed(change), "{:?}", self.outcome(change));
        assert_eq!(self.last(id), self.last(leader));
    }

    /// The memberships among the committed entries, in order.
    pub(crate) fn memberships(&self) -> Vec<Arc<Membership>> {
        self.checker.committed.iter().filter_map(|record| record.membership.clone()).collect()
    }

    /// A replica that knows nothing of the group yet.
    pub(crate) fn add_joining(&mut self, id: ReplicaId) {
        let settings = Arc::clone(&self.nodes[0].settings);
        self.add(id, raft_core::Base::default(), settings, Disk::default());
    }

    fn add(&mut self, id: ReplicaId, first: raft_core::Base, settings: Arc<Settings>, disk: Disk) {
        // No two clocks show the same.
        let offset = id.get() * 1_234_567;
        self.nodes.push(Node {
            id,
            life: Incarnation::new(0),
            settings,
            first,
            up: None,
            disk,
            offset,
            rate: 1_000_000,
            paused: None,
        });
        self.restart(id);
    }

    fn at(&self, id: ReplicaId) -> usize {
        self.nodes.iter().position(|node| node.id == id).expect("a replica of the fleet")
    }

    fn node(&self, id: ReplicaId) -> &Node {
        &self.nodes[self.at(id)]
    }

    fn node_mut(&mut self, id: ReplicaId) -> &mut Node {
        let at = self.at(id);
        &mut self.nodes[at]
    }

    pub(crate) fn ids(&self) -> Vec<ReplicaId> {
        self.nodes.iter().map(|node| node.id).collect()
    }

    pub(crate) fn group(&self, id: ReplicaId) -> &Group {
        &self.node(id).up.as_ref().expect("the replica runs").group
    }

    pub(crate) fn commit(&self, id: ReplicaId) -> u64 {
        self.group(id).commit_index().get()
    }

    pub(crate) fn last(&self, id: ReplicaId) -> u64 {
        self.group(id).last_index().get()
    }

    pub(crate) fn terms(&self, id: ReplicaId) -> Vec<u64> {
        let log = &self.node(id).up.as_ref().expect("the replica runs").log;
        log.iter().map(|(_, record)| record.term.get()).collect()
    }

    /// What is durable of a replica: term, vote, and where its log ends.
    pub(crate) fn on_disk(&self, id: ReplicaId) -> (u64, Option<ReplicaId>, u64) {
        let disk = &self.node(id).disk;
        (disk.hard_state.term.get(), disk.hard_state.vote, disk.log.last().get())
    }

    /// Who leads in the newest term, of those who run.
    pub(crate) fn leader(&self) -> Option<ReplicaId> {
        let groups = self.nodes.iter().filter_map(|node| node.up.as_ref());
        let leading = groups.map(|up| &up.group).filter(|group| group.is_leader());
        leading.max_by_key(|group| group.term()).map(Group::replica)
    }

    pub(crate) fn outcome(&self, token: Token) -> Option<Outcome> {
        self.checker.outcomes.get(&token).copied()
    }

    pub(crate) fn is_committed(&self, token: Token) -> bool {
        matches!(self.outcome(token), Some(Outcome::Committed { .. }))
    }

    pub(crate) fn is_ready(&self, token: Token) -> bool {
        matches!(self.outcome(token), Some(Outcome::ReadReady { .. }))
    }
}

/// The group every scenario is about.
pub(crate) const GROUP: GroupId = GroupId::new(7);
