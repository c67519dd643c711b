//! The whole of a run: nodes, links, clients, and the judge, in virtual time.
//!
//! What happens is decided by events alone. Each step of a replica is shown to the checks before
//! any of its effects is carried out, and effects are carried out one by one, so that a crash can
//! fall between any two.

use std::collections::BTreeMap;
use std::sync::Arc;

use raft_core::{
    AppendResult, DiskSpace, Durable, EntryKind, Group, GroupId, Incarnation, Input, LogIndex,
    LogTime, Membership, Message, Micros, NodeId, Outcome, Outgoing, Promise as Kept, ReplicaId,
    Settings, SnapshotEffect, SnapshotMeta, Start, Term, Token, Verdict,
};

use super::clients::{Clients, PATIENCE_US, TaskKind, hinted};
use super::disk::{Completion, Disk, Image, Op, Snapshot, Stop};
use super::events::EventQueue;
use super::faults::Undo;
use super::machine::{Command, Machine};
use super::network::{Network, NodeAt};
use super::node::{Clock, DiskWeather, Node, Running};
use super::notes::Before;
use super::record::{Payload, Record};
use super::replica::{MembershipLists, Replica, WaitingRead};
use super::setup::Setup;
use crate::sim::history::OpId;
use crate::sim::invariants::Checker;
use crate::sim::marks::{Mark, Marks};
use crate::sim::observe::{Disks, Promise};
use crate::sim::rng::{Rng, Streams};
use crate::sim::schedule::Fault;
use crate::sim::trace::{EventKind, Trace};
use crate::sim::violation::{Check, Violation};

/// A message on its way, with the entries its driver attached.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    pub(crate) id: u64,
    pub(crate) from_node: NodeAt,
    pub(crate) from: ReplicaId,
    pub(crate) from_life: Incarnation,
    pub(crate) to_node: NodeAt,
    pub(crate) to: ReplicaId,
    pub(crate) to_life: Incarnation,
    pub(crate) group: GroupId,
    pub(crate) message: Message,
    pub(crate) records: Vec<Record>,
}

/// Something that happens at a time.
#[derive(Debug)]
pub(crate) enum Event {
    Packet(Box<Packet>),
    Deadline {
        node: NodeAt,
        life: Incarnation,
        group: GroupId,
    },
    Turn {
        node: NodeAt,
        life: Incarnation,
    },
    Written {
        node: NodeAt,
        life: Incarnation,
        count: usize,
    },
    Synced {
        node: NodeAt,
        life: Incarnation,
        count: usize,
    },
    SnapshotPart {
        node: NodeAt,
        life: Incarnation,
        group: GroupId,
        from: NodeAt,
        meta: SnapshotMeta,
        parts: u32,
        tries: u32,
    },
    SnapshotTaken {
        node: NodeAt,
        life: Incarnation,
        group: GroupId,
        replica: ReplicaId,
        snapshot: Snapshot,
    },
    Client {
        client: usize,
    },
    ClientTimeout {
        client: usize,
        op: OpId,
    },
    Fault(usize),
    FaultEnds(usize),
    Restart {
        node: NodeAt,
    },
    Operator {
        group: GroupId,
    },
    Sweep,
}

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
    pub(crate) now: u64,
    pub(crate) queue: EventQueue<Event>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) groups: Vec<GroupId>,
    pub(crate) network: Network,
    pub(crate) clients: Clients,
    pub(crate) checker: Checker,
    pub(crate) marks: Marks,
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
    /// The largest replica id that operators have used in each group.
    pub(crate) last_replica: BTreeMap<GroupId, ReplicaId>,
    /// Faults are over.
    pub(crate) healed: bool,
    /// Operators are at work.
    pub(crate) operating: bool,
    rng_turn: Rng,
    rng_disk: Rng,
    pub(crate) rng_crash: Rng,
    pub(crate) seeds: Streams,
    packets: u64,
    pub(crate) tokens: u64,
}

/// The disks as the checks may ask them.
struct Platters<'a> {
    nodes: &'a [Node],
    counts_written: bool,
}

impl Disks for Platters<'_> {
    fn holds(&self, group: GroupId, replica: ReplicaId, index: LogIndex, term: Term) -> bool {
        self.nodes.iter().any(|node| {
            if self.counts_written {
                node.disk.holds_written(group, replica, index, term)
            } else {
                node.disk.holds(group, replica, index, term)
            }
        })
    }

    fn hard_state(&self, group: GroupId, replica: ReplicaId) -> Option<raft_core::HardState> {
        let mut images = self.nodes.iter().filter_map(|node| node.disk.images.get(&group));
        images.find(|image| image.replica == replica).map(|image| image.hard_state)
    }
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
            now: 0,
            queue: EventQueue::default(),
            nodes,
            groups,
            network,
            checker: Checker::new(),
            marks: Marks::default(),
            counts: Counts::default(),
            violation: None,
            faults: Vec::new(),
            undo: BTreeMap::new(),
            injected: BTreeMap::new(),
            skipped: BTreeMap::new(),
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
            let membership =
                Membership::new(places.iter().enumerate().map(|(at, node)| raft_core::Member {
                    replica: ReplicaId::new(at as u64 + 1),
                    node: *node,
                    standing: raft_core::Standing::Voter,
                }));
            let Ok(membership) = membership else { continue };
            for member in membership.members() {
                let base = raft_core::Base::first(membership.clone());
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

    fn wall(&self, at: NodeAt) -> LogTime {
        let node = &self.nodes[at];
        LogTime::new(node.clock.wall_offset_ms + node.local(self.now).get() / 1000)
    }

    // Life and death.

    /// A node's processes start, with what its disk holds.
    pub(crate) fn start(&mut self, at: NodeAt) {
        let node = &mut self.nodes[at];
        if node.running != Running::Down {
            return;
        }
        node.running = Running::Up;
        node.incarnation = Incarnation::new(node.incarnation.get() + 1);
        node.disk_busy = false;
        node.turn_due = false;
        node.touched.clear();
        node.crash_after = None;
        node.heard_at = self.now;
        let groups: Vec<GroupId> = node.disk.images.keys().copied().collect();
        for group in groups {
            self.start_replica(at, group);
        }
    }

    /// A replica starts from its image.
    fn start_replica(&mut self, at: NodeAt, group: GroupId) {
        let (now, common) = (self.nodes[at].local(self.now), self.now);
        let node = &mut self.nodes[at];
        let incarnation = node.incarnation;
        let state = node.disk.recover(group);
        let Some(image) = node.disk.images.get_mut(&group) else { return };
        let start = Start {
            group,
            replica: image.replica,
            incarnation,
            base: image.base.clone(),
            configs: image.configs(),
            seed: self.seeds.derive("core", &[at as u64]),
            hard_state: image.hard_state,
            term_runs: image.term_runs(),
            last_index: image.last_index(),
            log_time: image.log_time,
            applied: state.as_ref().map_or(LogIndex::ZERO, |state| state.applied),
            promise: image.promise,
            settings: Arc::clone(&self.settings),
        };
        let base = image.base.index;
        let log = image.log.iter().cloned().collect();
        let core = match Group::new(now, start) {
            Ok(core) => core,
            Err(refused) => {
                let evidence = format!("node {at} {group:?} cannot start: {refused}");
                self.fail(Violation::of_group(Check::Externalisation, group, evidence));
                return;
            }
        };
        let machine = state.map_or_else(Machine::default, |state| (*state).clone());
        let appliable = core.status().appliable_index;
        let replica = Replica {
            core,
            effects: raft_core::Effects::default(),
            base,
            log,
            machine,
            gated: Vec::new(),
            appliable,
            restore: None,
            waiting: BTreeMap::new(),
            reads: Vec::new(),
            open: std::collections::BTreeSet::new(),
            armed: None,
            touched: false,
        };
        let lists = MembershipLists::of(&replica.core);
        let view = replica.view(self.nodes[at].id, None, &lists);
        let platters = Platters { nodes: &self.nodes, counts_written: self.counts_written() };
        let seen = self.checker.restarted(Micros::new(common), &view, &platters);
        self.check(seen);
        let applied = replica.machine.applied;
        if applied > LogIndex::ZERO {
            let term = replica.core.entry_term(applied).unwrap_or_default();
            let seen = self.checker.installed(group, replica.id(), applied, term);
            self.check(seen);
        }
        self.nodes[at].replicas.insert(group, replica);
        self.touch(at, group);
    }

    fn counts_written(&self) -> bool {
        self.settings.acknowledge == raft_core::Acknowledge::Written
    }

    /// A node's processes die at once.
    pub(crate) fn crash(&mut self, at: NodeAt, stop: Stop) {
        if self.nodes[at].running == Running::Down {
            return;
        }
        self.counts.crashes += 1;
        let counts_written = self.counts_written();
        // Where written entries count, a power cut of a quorum may lose what was acknowledged, as
        // its documentation says. What is judged here is that anything less loses nothing.
        let groups: Vec<GroupId> = self.nodes[at].disk.images.keys().copied().collect();
        let survivable = groups.into_iter().all(|group| self.may_lose(at, group));
        let stop = if counts_written && !survivable { Stop::Process } else { stop };
        let node = &mut self.nodes[at];
        node.running = Running::Down;
        if counts_written && stop == Stop::Power {
            node.disk.remember_written();
        }
        let lost = node.disk.crash(stop, &mut self.rng_crash);
        if !lost.is_empty() {
            self.marks.hit(Mark::UnsyncedLost);
        }
        if counts_written && stop == Stop::Power {
            // Nobody can tell what was acknowledged from the page cache (rule R2).
            for image in node.disk.images.values_mut() {
                if image.promise.promise == Kept::Kept && !raft_core::planted!(LostReplicaVotes) {
                    image.promise.promise = Kept::Lost;
                }
            }
        }
        let replicas = std::mem::take(&mut node.replicas);
        let id = node.id;
        self.checker.crashed(id);
        for replica in replicas.into_values() {
            self.abandon(replica);
        }
        self.tell(at, None, EventKind::Process, stop as u64, || format!("crash: {stop:?}"));
        // Those who can tell hear that their connections broke.
        for other in 0..self.nodes.len() {
            if other != at && self.nodes[other].is_up() {
                self.unreachable(other, at);
            }
        }
    }

    /// What a replica owed is not answered any more.
    pub(crate) fn abandon(&mut self, replica: Replica) {
        for token in replica.open {
            self.clients.lost(token, self.now);
        }
        for (_, token) in replica.waiting.into_values() {
            self.clients.lost(token, self.now);
        }
        for read in replica.reads {
            self.clients.lost(read.token, self.now);
        }
    }

    /// A node learns that another cannot be reached.
    pub(crate) fn unreachable(&mut self, at: NodeAt, gone: NodeAt) {
        let node = self.nodes[gone].id;
        let groups: Vec<GroupId> = self.nodes[at].replicas.keys().copied().collect();
        for group in groups {
            let peers: Vec<ReplicaId> = self.nodes[at].replicas[&group]
                .core
                .membership()
                .members()
                .iter()
                .filter(|member| member.node == node)
                .map(|member| member.replica)
                .collect();
            for peer in peers {
                self.step(at, group, Input::PeerUnreachable(peer), &[]);
            }
        }
    }

    /// A node loses its disk and comes back as a stranger.
    pub(crate) fn wipe(&mut self, at: NodeAt) {
        self.crash(at, Stop::Power);
        let node = &mut self.nodes[at];
        let id = node.id;
        for (group, replica) in node.disk.wipe() {
            let lost = node.lost_replicas.entry(group).or_insert(replica);
            *lost = replica.max(*lost);
        }
        node.wiped = true;
        self.checker.wiped(id);
        self.tell(at, None, EventKind::Process, 9, || "the disk is empty".to_owned());
    }

    // Steps.

    pub(crate) fn touch(&mut self, at: NodeAt, group: GroupId) {
        let node = &mut self.nodes[at];
        let Some(replica) = node.replicas.get_mut(&group) else { return };
        if !replica.touched {
            replica.touched = true;
            node.touched.push(group);
        }
        if !node.turn_due && node.running == Running::Up {
            node.turn_due = true;
            let life = node.incarnation;
            let after = 5 + self.rng_turn.below(60);
            self.queue.push(self.now + after, Event::Turn { node: at, life });
        }
    }

    /// One input for one replica: the core steps, the checks look, the driver follows.
    pub(crate) fn step(&mut self, at: NodeAt, group: GroupId, input: Input, records: &[Record]) {
        self.step_with(at, group, input, records, None);
    }

    pub(crate) fn step_with(
        &mut self,
        at: NodeAt,
        group: GroupId,
        input: Input,
        records: &[Record],
        proposed: Option<Command>,
    ) {
        if self.violation.is_some() || self.nodes[at].running != Running::Up {
            return;
        }
        let local = self.nodes[at].local(self.now);
        let Some(mut replica) = self.nodes[at].replicas.remove(&group) else { return };
        self.counts.steps += 1;
        let prev = match &input {
            Input::Message { message: Message::Append(append), .. } => append.prev_index,
            _ => LogIndex::ZERO,
        };
        match &input {
            Input::Propose { token, .. }
            | Input::Read { token, .. }
            | Input::Transfer { token, .. }
            | Input::ChangeMembership { token, .. } => {
                replica.open.insert(*token);
            }
            _ => {}
        }
        let before = Before::of(&replica.core, &input);
        replica.core.step(local, input, &mut replica.effects);
        let log = replica.follow_log(proposed, prev, records);
        self.note_step(at, &replica, before, log);
        // A lease ends by the leader's own clock; the checks know only the common one.
        let lease =
            replica.core.lease_until().map(|until| Micros::new(self.nodes[at].clock.common(until)));
        let lists = MembershipLists::of(&replica.core);
        let view = replica.view(self.nodes[at].id, lease, &lists);
        let platters = Platters { nodes: &self.nodes, counts_written: self.counts_written() };
        let seen = self.checker.observe(Micros::new(self.now), &view, &platters);
        self.check(seen);
        self.nodes[at].replicas.insert(group, replica);
        self.touch(at, group);
    }

    /// One effect is about to be carried out; true if the node dies before.
    fn dies(&mut self, at: NodeAt) -> bool {
        let node = &mut self.nodes[at];
        if let Some((left, stop)) = &mut node.crash_after {
            if *left == 0 {
                let stop = *stop;
                self.marks.hit(Mark::CrashBetweenEffects);
                self.crash(at, stop);
                return true;
            }
            *left -= 1;
        }
        node.running == Running::Down
    }

    /// The end of a turn: everything that touched replicas want is carried out.
    fn turn(&mut self, at: NodeAt) {
        self.nodes[at].turn_due = false;
        let touched = std::mem::take(&mut self.nodes[at].touched);
        for group in touched {
            if let Some(replica) = self.nodes[at].replicas.get_mut(&group) {
                replica.touched = false;
            }
            self.carry_out(at, group);
            if self.nodes[at].running == Running::Down || self.violation.is_some() {
                return;
            }
        }
        self.kick_disk(at);
    }

    fn carry_out(&mut self, at: NodeAt, group: GroupId) {
        self.settle_outcomes(at, group);
        // Disk and network start in either order; neither may rely on it.
        let disk_first = self.rng_turn.chance(1, 2);
        if disk_first {
            self.submit(at, group);
        }
        self.send_ready(at, group);
        if !disk_first {
            self.submit(at, group);
        }
        self.pull_appends(at, group);
        self.handle_snapshot_effect(at, group);
        self.apply(at, group);
        self.arm(at, group);
    }

    fn submit(&mut self, at: NodeAt, group: GroupId) {
        let has = self.nodes[at].replicas.get(&group).is_some_and(|r| r.effects.persist.is_some());
        if !has || self.dies(at) {
            return;
        }
        let node = &mut self.nodes[at];
        let Some(replica) = node.replicas.get_mut(&group) else { return };
        let Some(persist) = replica.effects.persist.take() else { return };
        let records = match persist.append {
            Some((first, last)) => replica.records(first, last),
            None => Vec::new(),
        };
        let id = replica.id();
        node.disk.submit(Op { group, replica: id, persist, records });
    }

    fn send_ready(&mut self, at: NodeAt, group: GroupId) {
        let Some(replica) = self.nodes[at].replicas.get_mut(&group) else { return };
        let ready: Vec<Outgoing> = replica.effects.messages.drain_ready().collect();
        replica.gated.extend(replica.effects.messages.drain_gated());
        for outgoing in ready {
            if self.dies(at) {
                return;
            }
            self.send(at, group, outgoing, Vec::new());
        }
    }

    /// Appends leave in small numbers per turn, as lanes with little room would take them.
    fn pull_appends(&mut self, at: NodeAt, group: GroupId) {
        let local = self.nodes[at].local(self.now);
        let Some(replica) = self.nodes[at].replicas.get(&group) else { return };
        if !replica.core.is_leader() {
            return;
        }
        let me = replica.id();
        let mut peers = replica.core.replicated_to();
        peers.retain(|peer| *peer != me);
        for peer in peers {
            for _ in 0..4 {
                let budget = if self.rng_turn.chance(1, 4) { 100 } else { u64::MAX };
                let Some(replica) = self.nodes[at].replicas.get_mut(&group) else { return };
                let (log, base) = (&replica.log, replica.base);
                let append = replica.core.make_append(local, peer, budget, |index| {
                    let at = index.since(base).checked_sub(1)?;
                    log.get(at as usize).map(Record::cost)
                });
                let Some(mut append) = append else { break };
                let (first, last) = (append.prev_index.next(), append.last_index());
                let records = if last >= first { replica.records(first, last) } else { Vec::new() };
                append.time = records.last().map(|record| record.time).unwrap_or_default();
                if self.dies(at) {
                    return;
                }
                let outgoing = Outgoing { to: peer, message: Message::Append(append) };
                self.send(at, group, outgoing, records);
            }
            let more =
                self.nodes[at].replicas.get(&group).is_some_and(|r| r.core.wants_append(peer));
            if more {
                self.touch(at, group);
            }
        }
    }

    /// A message leaves its node. What it promises is noted, and must be on disk.
    fn send(&mut self, at: NodeAt, group: GroupId, outgoing: Outgoing, records: Vec<Record>) {
        let Some(replica) = self.nodes[at].replicas.get(&group) else { return };
        let from = replica.id();
        let membership = replica.core.membership();
        let member = membership.member(outgoing.to).map(|member| member.node);
        let node = member.or_else(|| self.home_of(group, outgoing.to));
        let promises = promises_of(&outgoing.message, from, outgoing.to, replica);
        for promise in promises.into_iter().flatten() {
            let platters = Platters { nodes: &self.nodes, counts_written: self.counts_written() };
            let seen = self.checker.promised(group, from, promise, &platters);
            self.check(seen);
        }
        let Some(node) = node else { return };
        let to_node = self.node_at(node);
        self.packets += 1;
        let packet = Packet {
            id: self.packets,
            from_node: at,
            from,
            from_life: self.nodes[at].incarnation,
            to_node,
            to: outgoing.to,
            to_life: self.nodes[to_node].incarnation,
            group,
            message: outgoing.message,
            records,
        };
        self.counts.messages += 1;
        self.tell_sent(&packet);
        if to_node == at {
            return;
        }
        let (once, again) = self.network.send(at, to_node, &packet.message);
        if let Some(delay) = again {
            self.queue.push(self.now + delay, Event::Packet(Box::new(packet.clone())));
        }
        if let Some(delay) = once {
            self.queue.push(self.now + delay, Event::Packet(Box::new(packet)));
        }
    }

    /// Where a replica lives that the sender does not know as a member, say a former one.
    fn home_of(&self, group: GroupId, replica: ReplicaId) -> Option<NodeId> {
        let mut homes = self.nodes.iter().filter(|node| {
            node.disk.images.get(&group).is_some_and(|image| image.replica == replica)
        });
        homes.next().map(|node| node.id)
    }

    fn deliver(&mut self, packet: Packet) {
        let at = packet.to_node;
        match self.nodes[at].running {
            Running::Up => {}
            Running::Paused => {
                // It waits in the socket.
                self.queue.push(self.now + 20_000, Event::Packet(Box::new(packet)));
                return;
            }
            Running::Down => return,
        }
        self.nodes[at].heard_at = self.now;
        let group = packet.group;
        let here = self.nodes[at].replicas.get(&group).map(Replica::id);
        if here != Some(packet.to) {
            self.deliver_elsewhere(here, packet);
            return;
        }
        let Packet { from, from_life, to_life, message, records, id, .. } = packet;
        self.tell_received(at, group, id, from, &message);
        let input =
            Input::Message { from, from_incarnation: from_life, to_incarnation: to_life, message };
        self.step(at, group, input, &records);
    }

    /// A message for a replica that is not here: it was here once, or is to be, or neither.
    fn deliver_elsewhere(&mut self, here: Option<ReplicaId>, packet: Packet) {
        let at = packet.to_node;
        let group = packet.group;
        let tombstone = self.nodes[at].disk.tombstones.get(&group).copied();
        if let Some(tombstone) = tombstone.filter(|stone| stone.replica >= packet.to) {
            self.marks.hit(Mark::TombstoneSpoke);
            if let Some(answer) = tombstone.answer(&packet.message) {
                let (once, _) = self.network.send(at, packet.from_node, &answer);
                let reply = Packet {
                    from_node: at,
                    from: packet.to,
                    from_life: self.nodes[at].incarnation,
                    to_node: packet.from_node,
                    to: packet.from,
                    to_life: packet.from_life,
                    message: answer,
                    records: Vec::new(),
                    ..packet
                };
                if let Some(delay) = once {
                    self.queue.push(self.now + delay, Event::Packet(Box::new(reply)));
                }
            }
            return;
        }
        // A leader's word for a replica that is to be here makes it: it knows nothing yet, and
        // promises nothing before its first record is on disk.
        let founds = matches!(packet.message, Message::Append(_) | Message::Snapshot(_));
        let wiped = self.nodes[at].lost_replicas.get(&group);
        let is_new = here.max(wiped.copied()).is_none_or(|older| older < packet.to);
        if founds && is_new && self.operator_expects(group, packet.to, at) {
            if here.is_some() {
                // Its place was given to another: it was removed and has not heard.
                self.delete_replica(at, group);
            }
            let image = Image::new(packet.to, raft_core::Base::default());
            self.nodes[at].disk.images.insert(group, image);
            self.start_replica(at, group);
            if self.is_here(at, group, packet.to) {
                self.deliver(packet);
            }
        }
    }

    // Disks.

    pub(crate) fn kick_disk(&mut self, at: NodeAt) {
        let node = &mut self.nodes[at];
        if node.disk_busy || node.disk.pending() == 0 || node.disk_weather.stalled {
            return;
        }
        node.disk_busy = true;
        let life = node.incarnation;
        let slow_us = node.disk_weather.slow_us;
        let count = node.disk.pending();
        let write = 10 + self.rng_disk.below(60);
        let sync = self.setup.sync_us / 2 + self.rng_disk.below(self.setup.sync_us + 1) + slow_us;
        self.queue.push(self.now + write, Event::Written { node: at, life, count });
        self.queue.push(self.now + write + sync, Event::Synced { node: at, life, count });
    }

    fn written(&mut self, at: NodeAt, count: usize) {
        let mut done = Vec::new();
        self.nodes[at].disk.write(count, &mut done);
        // Only a group that counts written entries wants to hear of each.
        for Completion { group, replica, seq } in done {
            if self.is_here(at, group, replica) {
                self.step(at, group, Input::Written(seq), &[]);
            }
        }
    }

    fn synced(&mut self, at: NodeAt, count: usize) {
        if self.nodes[at].disk_weather.stalled {
            self.queue.push(
                self.now + 50_000,
                Event::Synced { node: at, life: self.nodes[at].incarnation, count },
            );
            return;
        }
        self.nodes[at].disk_busy = false;
        let fails = std::mem::take(&mut self.nodes[at].disk_weather.fails_next);
        if fails && !raft_core::planted!(SyncErrorIgnored) {
            self.marks.hit(Mark::FsyncFailed);
            // The whole node is poisoned: its groups hear it, and then it stops (rule F1).
            let groups: Vec<GroupId> = self.nodes[at].replicas.keys().copied().collect();
            for group in groups {
                let id = self.nodes[at].replicas[&group].id();
                self.checker.excuse_fault(group, id);
                let seq = raft_core::PersistSeq::new(1);
                self.step(at, group, Input::PersistFailed(seq), &[]);
            }
            self.crash(at, Stop::Power);
            self.queue.push(self.now + 500_000, Event::Restart { node: at });
            return;
        }
        let mut done = Vec::new();
        if fails {
            // The planted bug: the flush failed, nothing reached the platter, and it is told as done.
            self.nodes[at].disk.forget(count, &mut done);
        } else {
            self.nodes[at].disk.sync(count, &mut done);
        }
        let mut last: BTreeMap<GroupId, raft_core::PersistSeq> = BTreeMap::new();
        for Completion { group, replica, seq } in done {
            if self.is_here(at, group, replica) {
                last.insert(group, seq);
            }
        }
        for (group, seq) in last {
            self.open_gates(at, group, seq);
            if self.nodes[at].running != Running::Up {
                return;
            }
            self.step(at, group, Input::Persisted(seq), &[]);
        }
        self.kick_disk(at);
    }

    /// Whether a replica is the one of its group here, and not a successor of it.
    fn is_here(&self, at: NodeAt, group: GroupId, replica: ReplicaId) -> bool {
        self.nodes[at].replicas.get(&group).is_some_and(|here| here.id() == replica)
    }

    fn open_gates(&mut self, at: NodeAt, group: GroupId, seq: raft_core::PersistSeq) {
        let Some(replica) = self.nodes[at].replicas.get_mut(&group) else { return };
        let proof = Durable::attest(seq);
        let mut opened = Vec::new();
        for gated in std::mem::take(&mut replica.gated) {
            match gated.open(proof) {
                Ok(outgoing) => opened.push(outgoing),
                Err(closed) => replica.gated.push(closed),
            }
        }
        for outgoing in opened {
            if self.dies(at) {
                return;
            }
            self.send(at, group, outgoing, Vec::new());
        }
    }

    // Machines and clients.

    fn settle_outcomes(&mut self, at: NodeAt, group: GroupId) {
        let Some(replica) = self.nodes[at].replicas.get_mut(&group) else { return };
        let outcomes = std::mem::take(&mut replica.effects.outcomes);
        for (token, outcome) in outcomes {
            let Some(replica) = self.nodes[at].replicas.get_mut(&group) else { return };
            if !replica.open.remove(&token) {
                let evidence = format!("{token:?} ended twice or was never asked: {outcome:?}");
                self.fail(Violation::of_group(Check::Outcomes, group, evidence));
                return;
            }
            let applied = replica.machine.applied;
            match outcome {
                Outcome::Committed { index, term } => {
                    let record = replica.record(index);
                    let is_command = record.is_some_and(|r| r.kind() == EntryKind::Command);
                    if is_command && index > applied {
                        replica.waiting.insert(index, (term, token));
                    } else {
                        // A membership, or a command whose place a snapshot has passed.
                        self.clients.committed(token, self.now);
                    }
                    let seen = self.checker.acknowledged(group, index, term);
                    self.check(seen);
                }
                Outcome::ReadReady { index } => {
                    replica.reads.push(WaitingRead { index, token });
                }
                Outcome::Superseded => self.clients.superseded(token),
                Outcome::Unknown => self.clients.lost(token, self.now),
                Outcome::Transferred => {
                    self.marks.hit(Mark::TransferDone);
                    self.clients.committed(token, self.now);
                }
                Outcome::Refused(refusal) => {
                    self.note_refusal(refusal);
                    let leads = self.hinted_node(group, at, refusal);
                    self.clients.refused(token, leads, refusal);
                }
            }
        }
    }

    fn apply(&mut self, at: NodeAt, group: GroupId) {
        let Some(replica) = self.nodes[at].replicas.get_mut(&group) else { return };
        if let Some(appliable) = replica.effects.appliable.take() {
            replica.appliable = appliable;
        }
        if replica.restore.is_some() && !self.restore(at, group) {
            return;
        }
        for _ in 0..self.setup.apply_max {
            let Some(replica) = self.nodes[at].replicas.get_mut(&group) else { return };
            if replica.machine.applied >= replica.appliable {
                break;
            }
            if self.dies(at) {
                return;
            }
            let Some(replica) = self.nodes[at].replicas.get_mut(&group) else { return };
            let index = replica.machine.applied.next();
            let Some(record) = replica.record(index).cloned() else {
                let evidence =
                    format!("{:?} cannot apply {index:?}: it is not there", replica.id());
                self.fail(Violation::of_group(Check::StateMachineSafety, group, evidence));
                return;
            };
            let command = match &record.payload {
                Payload::Command(command) => Some(*command),
                Payload::Noop | Payload::Config(_) => None,
            };
            let answer = replica.machine.apply(command.as_ref(), record.hash);
            let (id, digest) = (replica.id(), replica.machine.digest());
            let waiter = replica.waiting.remove(&index);
            let seen = self.checker.applied(group, id, index, record.term, record.hash);
            self.check(seen);
            let seen = self.checker.digest(group, id, index, digest);
            self.check(seen);
            if let Some(command) = command {
                self.clients.applied(group, index, &command);
            }
            if let Some((_, token)) = waiter {
                self.clients.answered(token, answer, self.now);
            }
        }
        let Some(replica) = self.nodes[at].replicas.get_mut(&group) else { return };
        let applied = replica.machine.applied;
        let mut ready = Vec::new();
        replica.reads.retain(|read| {
            let waits = read.index > applied;
            if !waits {
                ready.push(*read);
            }
            waits
        });
        for read in ready {
            self.clients.read(
                read.token,
                applied,
                &self.nodes[at].replicas[&group].machine,
                self.now,
            );
        }
        let Some(replica) = self.nodes[at].replicas.get(&group) else { return };
        if replica.machine.applied < replica.appliable {
            self.touch(at, group);
        }
        self.note_removal(at, group);
    }

    /// The machine starts over from the snapshot that replaced the log; `false` while the log is
    /// not told to have it.
    fn restore(&mut self, at: NodeAt, group: GroupId) -> bool {
        let Some(replica) = self.nodes[at].replicas.get(&group) else { return false };
        let Some(meta) = replica.restore.clone() else { return true };
        if replica.appliable < meta.index {
            return false;
        }
        let file = self.nodes[at].disk.file(group, &meta);
        let Some(snapshot) = file else {
            let evidence = format!("no file for the snapshot {:?}", meta.index);
            self.fail(Violation::of_group(Check::StateMachineSafety, group, evidence));
            return false;
        };
        let Some(replica) = self.nodes[at].replicas.get_mut(&group) else { return false };
        replica.machine = (*snapshot.state).clone();
        replica.restore = None;
        let id = replica.id();
        let waiting: Vec<Token> = {
            let later = replica.waiting.split_off(&meta.index.next());
            let covered = std::mem::replace(&mut replica.waiting, later);
            covered.into_values().map(|(_, token)| token).collect()
        };
        for token in waiting {
            // Committed, and its answer is lost with the entry.
            self.clients.committed(token, self.now);
        }
        let seen = self.checker.installed(group, id, meta.index, meta.term);
        self.check(seen);
        true
    }

    // Snapshots.

    fn handle_snapshot_effect(&mut self, at: NodeAt, group: GroupId) {
        let Some(replica) = self.nodes[at].replicas.get_mut(&group) else { return };
        match replica.effects.snapshot.take() {
            None => {}
            Some(SnapshotEffect::Abort { .. }) => self.marks.hit(Mark::SnapshotInterrupted),
            Some(SnapshotEffect::Fetch { from, meta }) => {
                self.marks.hit(Mark::SnapshotSent);
                let membership = replica.core.membership();
                let node = membership.member(from).map(|member| member.node);
                let node = node.or_else(|| self.home_of(group, from));
                let Some(node) = node else { return };
                let from = self.node_at(node);
                let life = self.nodes[at].incarnation;
                let part =
                    Event::SnapshotPart { node: at, life, group, from, meta, parts: 3, tries: 0 };
                self.queue.push(self.now + 2_000, part);
            }
        }
    }

    /// A piece of a snapshot arrives, if it can; what arrived before is not asked for again.
    #[allow(clippy::too_many_arguments, reason = "they are the fields of one event")]
    fn snapshot_part(
        &mut self,
        at: NodeAt,
        group: GroupId,
        from: NodeAt,
        meta: SnapshotMeta,
        parts: u32,
        tries: u32,
    ) {
        let reachable = self.nodes[from].is_up()
            && !self.network.is_cut(from, at)
            && !self.network.is_cut(at, from);
        let file = self.nodes[from].disk.file(group, &meta);
        let life = self.nodes[at].incarnation;
        match (reachable, file) {
            (true, Some(_)) if parts > 0 => {
                let part = Event::SnapshotPart {
                    node: at,
                    life,
                    group,
                    from,
                    meta,
                    parts: parts - 1,
                    tries,
                };
                self.queue.push(self.now + 5_000, part);
            }
            (true, Some(snapshot)) => {
                let (index, term) = (meta.index, meta.term);
                self.nodes[at].disk.keep(group, snapshot);
                self.step(at, group, Input::SnapshotReceived { index, term }, &[]);
            }
            (false, _) if tries < 20 => {
                self.marks.hit(Mark::SnapshotInterrupted);
                let part = Event::SnapshotPart {
                    node: at,
                    life,
                    group,
                    from,
                    meta,
                    parts,
                    tries: tries + 1,
                };
                self.queue.push(self.now + 100_000, part);
            }
            (false, _) | (true, None) => {
                self.marks.hit(Mark::SnapshotRefused);
                self.step(at, group, Input::SnapshotFailed { index: meta.index }, &[]);
            }
        }
    }

    /// A replica's state is written down.
    pub(crate) fn take_snapshot(&mut self, at: NodeAt, group: GroupId) {
        let Some(replica) = self.nodes[at].replicas.get(&group) else { return };
        let index = replica.machine.applied;
        let Some(meta) = replica.core.snapshot_meta(index) else { return };
        if index <= replica.core.snapshot_index() || replica.restore.is_some() {
            return;
        }
        let snapshot = Snapshot { meta, state: Arc::new(replica.machine.clone()) };
        let replica = replica.id();
        let life = self.nodes[at].incarnation;
        let taken = Event::SnapshotTaken { node: at, life, group, replica, snapshot };
        self.queue.push(self.now + 3_000, taken);
    }

    fn snapshot_taken(&mut self, at: NodeAt, group: GroupId, snapshot: Snapshot) {
        let index = snapshot.meta.index;
        self.nodes[at].disk.keep(group, snapshot);
        self.step(at, group, Input::SnapshotTaken(index), &[]);
    }

    // Time.

    fn arm(&mut self, at: NodeAt, group: GroupId) {
        let node = &mut self.nodes[at];
        let (clock, life) = (node.clock, node.incarnation);
        let Some(replica) = node.replicas.get_mut(&group) else { return };
        let Some(deadline) = replica.core.next_deadline() else { return };
        let due = clock.common(deadline).max(self.now);
        if replica.armed.is_none_or(|armed| due < armed) {
            replica.armed = Some(due);
            self.queue.push(due, Event::Deadline { node: at, life, group });
        }
    }

    fn deadline(&mut self, at: NodeAt, group: GroupId) {
        let local = self.nodes[at].local(self.now);
        let Some(replica) = self.nodes[at].replicas.get_mut(&group) else { return };
        // Superseded by an earlier one that has armed the next since.
        if replica.armed.is_none_or(|armed| armed > self.now) {
            return;
        }
        replica.armed = None;
        if replica.core.next_deadline().is_some_and(|deadline| deadline <= local) {
            self.step(at, group, Input::Deadline, &[]);
        } else {
            self.arm(at, group);
        }
    }

    // Clients.

    pub(crate) fn client_acts(&mut self, client: usize) {
        if !self.clients.active && self.clients.clients[client].task.is_none() {
            return;
        }
        let task = match self.clients.clients[client].task {
            Some(task) if task.token.is_some() => return,
            Some(task) => task,
            None => {
                let task = self.clients.begin(client, self.now);
                let gives_up = Event::ClientTimeout { client, op: task.op };
                self.queue.push(self.now + PATIENCE_US, gives_up);
                task
            }
        };
        let at = self.clients.clients[client].node;
        if !self.nodes[at].is_up() || !self.nodes[at].replicas.contains_key(&task.group) {
            self.clients.looks_elsewhere(client);
            self.queue.push(self.now + 20_000, Event::Client { client });
            return;
        }
        let token = self.token();
        self.clients.tries(client, token);
        match task.kind {
            TaskKind::Write(command) => self.propose(at, task.group, token, command),
            TaskKind::Read { path, .. } => {
                self.step(at, task.group, Input::Read { token, path }, &[]);
            }
        }
    }

    /// Those whose attempt ended go on, at once or after some thought.
    fn wake_clients(&mut self) {
        while let Some(client) = self.clients.woken.pop() {
            let wait = match self.clients.clients[client].task {
                Some(_) => 10_000,
                None => self.clients.thinks(client),
            };
            self.queue.push(self.now + 1 + wait, Event::Client { client });
        }
    }

    /// Where the replica lives that a refusal names as leader.
    fn hinted_node(
        &self,
        group: GroupId,
        at: NodeAt,
        refusal: raft_core::Refusal,
    ) -> Option<NodeAt> {
        let leader = hinted(refusal)?;
        let membership = self.nodes[at].replicas.get(&group)?.core.membership();
        membership.member(leader).map(|member| self.node_at(member.node))
    }

    /// Lets the world run up to a moment, or to a violation.
    pub(crate) fn run_until(&mut self, end: u64) {
        while self.violation.is_none() {
            let Some((at, event)) = self.queue.pop(end) else { break };
            self.now = at;
            self.happen(event);
            self.wake_clients();
        }
        self.now = self.now.max(end);
    }

    /// Whether an event made in an earlier life of its node is void.
    fn is_void(&self, at: NodeAt, life: Incarnation) -> bool {
        self.nodes[at].incarnation != life || self.nodes[at].running == Running::Down
    }

    /// Puts an event off while its node is paused; `true` if it was.
    fn put_off(&mut self, at: NodeAt, event: impl FnOnce() -> Event) -> bool {
        let paused = self.nodes[at].running == Running::Paused;
        if paused {
            self.queue.push(self.now + 10_000, event());
        }
        paused
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Packet(packet) => self.deliver(*packet),
            Event::Deadline { node, life, group } => {
                let again = || Event::Deadline { node, life, group };
                if !self.is_void(node, life) && !self.put_off(node, again) {
                    self.deadline(node, group);
                }
            }
            Event::Turn { node, life } => {
                if !self.is_void(node, life) && !self.put_off(node, || Event::Turn { node, life }) {
                    self.turn(node);
                }
            }
            Event::Written { node, life, count } => {
                // The disk does not pause with the process; telling it does.
                let again = || Event::Written { node, life, count };
                if !self.is_void(node, life) && !self.put_off(node, again) {
                    self.written(node, count);
                }
            }
            Event::Synced { node, life, count } => {
                let again = || Event::Synced { node, life, count };
                if !self.is_void(node, life) && !self.put_off(node, again) {
                    self.synced(node, count);
                }
            }
            Event::SnapshotPart { node, life, group, from, meta, parts, tries } => {
                if !self.is_void(node, life) && self.nodes[node].is_up() {
                    self.snapshot_part(node, group, from, meta, parts, tries);
                }
            }
            Event::SnapshotTaken { node, life, group, replica, snapshot } => {
                // What a replica has begun is not its successor's.
                let is_here = self.is_here(node, group, replica);
                if !self.is_void(node, life) && self.nodes[node].is_up() && is_here {
                    self.snapshot_taken(node, group, snapshot);
                }
            }
            Event::Client { client } => self.client_acts(client),
            Event::ClientTimeout { client, op } => self.clients.gives_up(client, op, self.now),
            Event::Fault(fault) => self.fault_begins(fault),
            Event::FaultEnds(fault) => self.fault_ends(fault),
            Event::Restart { node } => self.start(node),
            Event::Operator { group } => self.operator_acts(group),
            Event::Sweep => self.sweep(),
        }
    }

    pub(crate) fn resume(&mut self, at: NodeAt) {
        let node = &mut self.nodes[at];
        if node.running == Running::Paused {
            node.running = Running::Up;
            node.heard_at = self.now;
            // What became of its disk meanwhile it hears now.
            let full = node.disk_weather.full;
            self.disk_space(at, if full { DiskSpace::Full } else { DiskSpace::Ample });
        }
    }

    fn sweep(&mut self) {
        self.queue.push(self.now + 1_000_000, Event::Sweep);
        self.sweep_now();
    }

    /// Compares whole logs, now and then.
    pub(crate) fn sweep_now(&mut self) {
        let lists: Vec<(NodeId, &Replica, MembershipLists)> = self
            .nodes
            .iter()
            .flat_map(|node| node.replicas.values().map(move |replica| (node.id, replica)))
            .map(|(node, replica)| (node, replica, MembershipLists::of(&replica.core)))
            .collect();
        let views = lists.iter().map(|(node, replica, lists)| replica.view(*node, None, lists));
        let seen = self.checker.sweep(views);
        self.check(seen);
    }

    pub(crate) fn disk_space(&mut self, at: NodeAt, space: DiskSpace) {
        self.nodes[at].disk_weather.full = space == DiskSpace::Full;
        let groups: Vec<GroupId> = self.nodes[at].replicas.keys().copied().collect();
        for group in groups {
            self.step(at, group, Input::Disk(space), &[]);
        }
    }

    pub(crate) fn token(&mut self) -> Token {
        self.tokens += 1;
        Token::new(self.tokens)
    }

    pub(crate) fn propose(&mut self, at: NodeAt, group: GroupId, token: Token, command: Command) {
        let time = self.wall(at);
        let bytes = command.cost();
        self.step_with(at, group, Input::Propose { token, bytes, time }, &[], Some(command));
    }
}

/// What a message promises once it has left.
fn promises_of(
    message: &Message,
    me: ReplicaId,
    to: ReplicaId,
    replica: &Replica,
) -> [Option<Promise>; 2] {
    let term = Some(Promise::Term(message.term()));
    match message {
        Message::PreVote(_) => [None, None],
        Message::PreVoteReply(reply) => match reply.verdict {
            Verdict::Granted => [None, None],
            Verdict::Refused | Verdict::Removed => [term, None],
        },
        Message::Vote(request) => [term, Some(Promise::Vote { term: request.term, candidate: me })],
        Message::VoteReply(reply) => match reply.verdict {
            Verdict::Granted => [term, Some(Promise::Vote { term: reply.term, candidate: to })],
            Verdict::Refused | Verdict::Removed => [term, None],
        },
        Message::AppendReply(reply) => {
            let held = match reply.result {
                AppendResult::Accepted { durable, promise: Kept::Kept, .. } => {
                    // An acknowledgement that waited while its term passed speaks of a log that may
                    // be gone; it was true when it was made.
                    let current = replica.core.term() == reply.term;
                    let term = replica.core.entry_term(durable).filter(|_| current);
                    term.map(|term| Promise::Held { index: durable, term })
                }
                AppendResult::Accepted { .. }
                | AppendResult::Rejected { .. }
                | AppendResult::StaleTerm
                | AppendResult::Receiving { .. }
                | AppendResult::Declined(_) => None,
            };
            [
                term,
                held.filter(|held| {
                    *held != Promise::Held { index: LogIndex::ZERO, term: Term::ZERO }
                }),
            ]
        }
        Message::Append(_)
        | Message::Heartbeat(_)
        | Message::HeartbeatReply(_)
        | Message::ReadConfirm(_)
        | Message::TimeoutNow(_)
        | Message::TransferRefused(_)
        | Message::ReadIndex(_)
        | Message::ReadIndexReply(_)
        | Message::Snapshot(_)
        | Message::Recover(_)
        | Message::Fence(_) => [term, None],
    }
}
