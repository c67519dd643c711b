//! Three engines in one thread, in virtual time: lanes that delay, break and come back, disks
//! that are late, nodes that crash, clients that ask; and the checks.
//!
//! What is checked all along: the log is given no gap; machines see each entry once, in order;
//! appends of a session arrive in the order they were made; no read misses what was acknowledged
//! before it was asked. At the end: each request was answered; what was acknowledged is on every
//! replica, in the place the answer named; what was said never to have happened is nowhere; an
//! unknown outcome had a cause; every group takes commands again; an idle cluster is idle.

mod hangs;
mod members;
mod stops;

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use raft_core::{GroupId, Message, Micros, NodeId, ReadPath, ReplicaId, Session, Term};
use raft_transport::{ConnectionId, Frame, HeartbeatItem, Room};

use super::journal::{Applied, Journal, command, number};
use super::network::{LinkId, Network, Wire};
use super::node::{BULK_BYTES, Node};
use super::rng::Rng;
use crate::bodies::NewMachine;
use crate::engine::{
    CarrierConnection, CreateGroup, Created, Durability, EngineInput, Fetch, MakeMachine, Route,
    SendLane, Source, Told, Via,
};
use crate::group_spec::GroupSpec;
use crate::request::{Proposed, Request, RequestError, RequestKind, Ticket};
use crate::snapshot::Restored;
use crate::snapshot::desk::{DeskInput, DeskOutput};
use crate::snapshot::fitting::newest_fit;
use crate::state_machine::ApplyMode;

const MS: u64 = 1000;

/// Bytes of a data or bulk connection that may be under way.
const LINK_BYTES: u64 = 24 << 10;

/// How bad the weather is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Weather {
    pub(super) durability: Durability,
    pub(super) crashes: bool,
    /// Lanes break and nodes are cut off.
    pub(super) breaks: bool,
    /// Frames are lost and overtake each other even while a lane is up, as no TCP would do.
    pub(super) hostile: bool,
    /// How long the bad weather lasts, in milliseconds.
    pub(super) bad_ms: u64,
}

enum Event {
    Turn {
        node: NodeId,
        life: u64,
    },
    /// A frame of the control lane.
    Control {
        from: NodeId,
        life: u64,
        to: NodeId,
        frame: Frame,
    },
    /// A frame on a connection, from the one who dialed or back to it.
    Frame {
        wire: Wire,
        back: bool,
        life: u64,
        bytes: u64,
        frame: Frame,
    },
    /// The receiver is done with so many bytes.
    Credit {
        wire: Wire,
        bytes: u64,
    },
    /// The bulk lane looks at what waits for it.
    TakeBulk {
        wire: Wire,
        life: u64,
    },
    Synced {
        node: NodeId,
        life: u64,
    },
    Read {
        node: NodeId,
        life: u64,
        fetch: Fetch,
    },
    Work {
        node: NodeId,
        life: u64,
    },
    /// The snapshot desk has something to do.
    Desk {
        node: NodeId,
        life: u64,
    },
    LinkUp(LinkId),
    Client,
    Chaos,
    Mend {
        cut: u64,
    },
    Restart(NodeId),
    /// A node that was asked to stop looks whether it is done.
    Stops {
        node: NodeId,
        life: u64,
        until: Micros,
    },
}

enum Asked {
    Propose { command: u64, ticket: Ticket<Proposed> },
    Read { at_least: u64, path: usize, ticket: Ticket<Bytes> },
    Other { ticket: Ticket<()> },
}

struct Pending {
    node: NodeId,
    group: GroupId,
    losses: u64,
    crashes: u64,
    asked_at: Micros,
    asked: Asked,
}

/// A creation that was answered: on which node, in which of its lives, of which group.
type Creation = (NodeId, u64, GroupId, Created);

/// One session's appends as they arrived: where the newest ended.
type Stream = (NodeId, u64, GroupId, ReplicaId, Term, Session);

pub(super) struct Cluster {
    weather: Weather,
    seed: u64,
    rng: Rng,
    now: Micros,
    events: BTreeMap<(Micros, u64), Event>,
    event_count: u64,
    ids: Vec<NodeId>,
    nodes: BTreeMap<NodeId, Node>,
    network: Network,
    cuts: BTreeMap<u64, (NodeId, NodeId)>,
    cut_count: u64,
    groups: Vec<GroupSpec>,
    created: Arc<Mutex<Vec<Creation>>>,
    creations: usize,
    calm: bool,
    /// Clients ask for no hand-overs.
    no_orders: bool,
    /// Their disks do not answer.
    hung: BTreeSet<NodeId>,
    clients_until: Micros,
    pending: Vec<Pending>,
    commands: u64,
    /// Answered with success: the group, and how many commands it then had.
    acknowledged: BTreeMap<u64, (GroupId, u64)>,
    acknowledged_most: BTreeMap<GroupId, u64>,
    /// Answered as never to happen.
    denied: BTreeSet<u64>,
    streams: BTreeMap<Stream, u64>,
    /// Snapshots that were offered, by their last index.
    offered: BTreeSet<(NodeId, GroupId, u64)>,
    pub(super) unknown: usize,
    pub(super) succeeded: usize,
    pub(super) over_bulk: usize,
    /// Large entries that took the data lane behind small ones.
    pub(super) rode_along: usize,
    pub(super) reads_back: usize,
    /// Reads answered: by a quorum, a lease, a follower.
    pub(super) reads: [usize; 3],
    /// Snapshots that came from other nodes, and those found at a restart.
    pub(super) fetched: usize,
    pub(super) restored: usize,
}

impl Cluster {
    pub(super) fn new(seed: u64, weather: Weather) -> Self {
        Self::with_nodes(seed, weather, 3)
    }

    /// The groups begin on the first three nodes.
    pub(super) fn with_nodes(seed: u64, weather: Weather, nodes: u64) -> Self {
        let ids: Vec<NodeId> = (1..=nodes).map(NodeId::new).collect();
        let mut groups: Vec<GroupSpec> =
            (1..=4).map(|id| GroupSpec::on_nodes(GroupId::new(id), ids[..3].to_vec())).collect();
        groups.push(GroupSpec::on_nodes(GroupId::new(5), [ids[0]]));
        groups.push(GroupSpec::on_nodes(GroupId::new(6), [ids[1], ids[2]]));
        let mut cluster = Self {
            weather,
            seed,
            rng: Rng::new(seed),
            now: Micros::ZERO,
            events: BTreeMap::new(),
            event_count: 0,
            nodes: ids.iter().map(|id| (*id, Node::new(*id))).collect(),
            network: Network::new(&ids),
            ids,
            cuts: BTreeMap::new(),
            cut_count: 0,
            groups,
            created: Arc::default(),
            creations: 0,
            calm: false,
            no_orders: false,
            hung: BTreeSet::new(),
            clients_until: Micros::ZERO,
            pending: Vec::new(),
            commands: 0,
            acknowledged: BTreeMap::new(),
            acknowledged_most: BTreeMap::new(),
            denied: BTreeSet::new(),
            streams: BTreeMap::new(),
            offered: BTreeSet::new(),
            unknown: 0,
            succeeded: 0,
            over_bulk: 0,
            rode_along: 0,
            reads_back: 0,
            reads: [0; 3],
            fetched: 0,
            restored: 0,
        };
        for id in cluster.ids.clone() {
            cluster.start(id);
        }
        cluster
    }

    /// Bad weather, then good; then everything is checked.
    pub(super) fn live(&mut self) {
        let bad = Micros::new(self.weather.bad_ms * MS);
        self.clients_until = bad;
        // Groups are led as soon as they are made, and lanes take a moment longer.
        self.plan(250 * MS, Event::Client);
        self.plan(300 * MS, Event::Chaos);
        self.run_until(bad);
        self.heal();
        self.run_for(4000);
        for group in self.groups.clone() {
            self.takes_a_command(&group);
        }
        self.run_for(1500);
        assert!(self.pending.is_empty(), "requests without an answer: {:?}", self.unanswered());
        self.check_replicas();
        self.check_idle();
        let created = self.created.lock().expect("no thread panics while it holds this").len();
        if self.nodes.values().all(|node| node.crashes == 0) {
            assert_eq!(created, self.creations, "each creation is answered once");
        }
    }

    fn plan(&mut self, delay: u64, event: Event) {
        let at = Micros::new(self.now.get() + delay);
        self.plan_at(at, event);
    }

    fn plan_at(&mut self, at: Micros, event: Event) {
        self.event_count += 1;
        self.events.insert((at, self.event_count), event);
    }

    fn run_for(&mut self, ms: u64) {
        self.run_until(Micros::new(self.now.get() + ms * MS));
    }

    fn run_until(&mut self, end: Micros) {
        while let Some(entry) = self.events.first_entry()
            && entry.key().0 <= end
        {
            let ((at, _), event) = entry.remove_entry();
            self.now = self.now.max(at);
            self.happen(event);
        }
        self.now = end;
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Turn { node, life } => {
                let now = self.now;
                let node_now = self.node(node);
                if node_now.life == life && node_now.turn_at == Some(now) {
                    node_now.turn_at = None;
                    self.turn(node);
                }
            }
            Event::Control { from, life, to, frame } => {
                if self.is_cut(from, to) || self.node(to).engine.is_none() {
                    return;
                }
                self.deliver(from, life, to, Route::Control, frame);
            }
            Event::Frame { wire, back, life, bytes, frame } => {
                if !self.network.is_live(wire) {
                    return;
                }
                let LinkId { from, to, .. } = wire.link;
                if back {
                    // The dialer's own end: nobody answers an answer.
                    let end = self.network.connection(wire);
                    self.deliver(to, life, from, route(wire.link, end), frame);
                    return;
                }
                self.note_append(to, wire, &frame);
                let end = self.network.connection(wire);
                self.deliver(from, life, to, route(wire.link, end), frame);
                let delay = self.rng.below(2 * MS);
                self.plan(delay, Event::Credit { wire, bytes });
            }
            Event::Credit { wire, bytes } => {
                if self.network.is_live(wire) {
                    self.network.link(wire.link).in_flight -= bytes;
                    // As a lane with room wakes its thread.
                    let LinkId { from, bulk, .. } = wire.link;
                    if bulk {
                        let life = self.node(from).life;
                        self.plan(0, Event::TakeBulk { wire, life });
                    } else {
                        self.wake(from);
                    }
                }
            }
            Event::TakeBulk { wire, life } => self.take_bulk(wire, life),
            Event::Synced { node, life } => {
                if self.node(node).life != life || self.node(node).engine.is_none() {
                    return;
                }
                if self.hung.contains(&node) {
                    self.plan(5 * MS, Event::Synced { node, life });
                    return;
                }
                let batches = self.node(node).disk.finish();
                for tickets in batches {
                    self.tell(node, EngineInput::Persisted(tickets));
                }
                self.start_disk(node);
            }
            Event::Read { node, life, fetch } => {
                if self.node(node).life != life || self.node(node).engine.is_none() {
                    return;
                }
                self.reads_back += 1;
                let bytes_max = self.rng.between(1, 20 << 10);
                let input = match self.node(node).disk.read(fetch, bytes_max) {
                    Some(entries) => EngineInput::Fetched(fetch.group, entries),
                    None => EngineInput::FetchFailed(fetch.group, fetch.first),
                };
                self.tell(node, input);
            }
            Event::Work { node, life } => {
                if self.node(node).life != life || self.node(node).engine.is_none() {
                    return;
                }
                self.node(node).worker.busy = false;
                if let Some(input) = self.node(node).worker.work() {
                    self.tell(node, input);
                }
                while let Some(report) = self.node(node).worker.reports.pop_front() {
                    self.tell(node, report);
                }
                self.start_worker(node);
            }
            Event::Desk { node, life } => {
                let now = self.now;
                if self.node(node).life == life && self.node(node).desk_at == Some(now) {
                    self.node(node).desk_at = None;
                    self.work_at_desk(node);
                }
            }
            Event::LinkUp(link) => self.link_up(link),
            Event::Client => {
                if self.now < self.clients_until {
                    self.ask();
                    let pause = if self.rng.one_in(10) { 60 * MS } else { 12 * MS };
                    let pause = self.rng.below(pause);
                    self.plan(pause, Event::Client);
                }
            }
            Event::Chaos => {
                if !self.calm {
                    self.chaos();
                    let pause = self.rng.between(50 * MS, 500 * MS);
                    self.plan(pause, Event::Chaos);
                }
            }
            Event::Mend { cut } => {
                self.cuts.remove(&cut);
            }
            Event::Stops { node, life, until } => self.stops(node, life, until),
            Event::Restart(node) => {
                if self.node(node).engine.is_none() {
                    self.start(node);
                }
            }
        }
    }

    fn node(&mut self, id: NodeId) -> &mut Node {
        self.nodes.get_mut(&id).expect("nodes come and go, their places stay")
    }

    fn is_cut(&self, a: NodeId, b: NodeId) -> bool {
        self.cuts.values().any(|cut| *cut == (a, b) || *cut == (b, a))
    }

    /// Gives a node an input, and a turn soon: what comes meanwhile shares it.
    fn tell(&mut self, node: NodeId, input: EngineInput) {
        self.node(node).inbox.push(input);
        self.wake(node);
    }

    fn tell_desk(&mut self, node: NodeId, input: DeskInput) {
        if self.node(node).engine.is_some() {
            self.node(node).desk_inputs.push_back(input);
            let delay = self.rng.below(2 * MS);
            self.look_at_desk(node, Micros::new(self.now.get() + delay));
        }
    }

    /// The bulk lane's thread tells its desk.
    fn tell_desk_of_lane(&mut self, node: NodeId, input: DeskInput) {
        let now = self.now;
        if self.node(node).engine.is_some() {
            self.node(node).desk_inputs.push_back(input);
            self.look_at_desk(node, now);
        }
    }

    fn look_at_desk(&mut self, id: NodeId, at: Micros) {
        let node = self.node(id);
        if node.desk_at.is_none_or(|planned| at < planned) {
            node.desk_at = Some(at);
            let life = node.life;
            self.plan_at(at, Event::Desk { node: id, life });
        }
    }

    /// The desk does one thing, as its thread would.
    fn work_at_desk(&mut self, id: NodeId) {
        let now = self.now;
        let node = self.node(id);
        let mut out = Vec::new();
        match node.desk_inputs.pop_front() {
            Some(input) => node.desk.handle(now, input, &mut out),
            None => node.desk.on_time(now, &mut out),
        }
        let life = node.life;
        while let Some(output) = (!out.is_empty()).then(|| out.remove(0)) {
            match output {
                DeskOutput::Work(job) => {
                    let node = self.node(id);
                    let mut made = Vec::new();
                    node.workshop.add(job);
                    node.workshop.work(&mut made);
                    made.into_iter().for_each(|made| node.desk.on_made(now, made, &mut out));
                }
                DeskOutput::Pull(to, pull) => {
                    if let Some(wire) = self.network.wire(LinkId { from: id, to, bulk: true }) {
                        self.send_frame(wire, false, life, Frame::SnapshotPull(pull));
                    }
                }
                DeskOutput::Chunk(to, chunk) => {
                    let wire = self.network.wire_of(to.connection);
                    self.send_frame(wire, true, life, Frame::SnapshotChunk(chunk));
                }
                DeskOutput::Engine(_, input) => {
                    self.fetched += usize::from(matches!(input, EngineInput::SnapshotFetched(..)));
                    self.tell(id, input);
                }
            }
        }
        let next = match self.node(id).desk_inputs.is_empty() {
            false => Some(Micros::new(now.get() + 1)),
            true => self.node(id).desk.next_deadline(),
        };
        if let Some(next) = next {
            self.look_at_desk(id, next.max(Micros::new(now.get() + 1)));
        }
    }

    fn wake(&mut self, node: NodeId) {
        let delay = self.rng.below(300);
        let at = Micros::new(self.now.get() + delay);
        self.wake_at(node, at);
    }

    fn wake_at(&mut self, node: NodeId, at: Micros) {
        let node = self.node(node);
        if node.engine.is_some() && node.turn_at.is_none_or(|planned| at < planned) {
            node.turn_at = Some(at);
            let event = Event::Turn { node: node.id, life: node.life };
            self.plan_at(at, event);
        }
    }

    fn deliver(&mut self, from: NodeId, life: u64, to: NodeId, route: Route, frame: Frame) {
        let incarnation = raft_core::Incarnation::new(life);
        let now = self.now;
        let told = Told { wall: self.node(from).wall(now), heard: now };
        let clock = (route == Route::Control).then_some(told);
        let source = Source { node: from, incarnation, route, clock };
        let input = match frame {
            Frame::Message(envelope) => EngineInput::Message(source, envelope),
            Frame::Heartbeats(items) | Frame::ReadConfirms(items) => {
                EngineInput::Heartbeats(source, items)
            }
            Frame::HeartbeatReplies(items) => EngineInput::HeartbeatReplies(source, items),
            Frame::SnapshotPull(pull) => {
                if let Route::Carried(connection) = route {
                    self.tell_desk(to, DeskInput::Pull(connection, pull));
                }
                return;
            }
            Frame::SnapshotChunk(chunk) => {
                self.tell_desk(to, DeskInput::Chunk(from, chunk));
                return;
            }
            Frame::Clock { .. }
            | Frame::Condition(_)
            | Frame::User(_)
            | Frame::UserItems(_)
            | Frame::Chunk(_)
            | Frame::Grant { .. }
            | Frame::Credit { .. }
            | Frame::Ping { .. }
            | Frame::Pong { .. } => return,
        };
        if self.node(to).engine.is_some() {
            self.tell(to, input);
        }
    }

    /// Appends with entries of one session continue one another, whatever lanes they take.
    fn note_append(&mut self, to: NodeId, wire: Wire, frame: &Frame) {
        let Frame::Message(envelope) = frame else { return };
        let Message::Append(append) = &envelope.message else { return };
        if self.weather.hostile {
            return;
        }
        if wire.link.bulk {
            self.over_bulk += 1;
        } else {
            let large = envelope.entries.iter().skip(1).filter(|e| e.payload.len() >= BULK_BYTES);
            self.rode_along += large.count();
        }
        let life = self.node(to).life;
        let stream = (to, life, envelope.group, envelope.from, append.term, append.session);
        if append.runs.is_empty() {
            self.streams.remove(&stream);
            return;
        }
        let (prev, last) = (append.prev_index.get(), append.last_index().get());
        let Some(newest) = self.streams.insert(stream, last) else {
            return;
        };
        // After a snapshot it goes on where that ends, and what is sent once more may come late.
        let goes_on = prev == newest || self.offered.contains(&(to, envelope.group, prev));
        assert!(goes_on || last <= newest, "an append overtook another: {stream:?}");
        self.streams.insert(stream, last.max(newest));
    }

    fn start(&mut self, id: NodeId) {
        let (seed, durability) = (self.seed, self.weather.durability);
        let ids = self.ids.clone();
        self.node(id).start(seed, durability, &ids);
        for (incarnation, tombstone) in self.node(id).disk.buried().clone().into_values() {
            self.tell(id, EngineInput::Remember(incarnation, tombstone));
        }
        let recovered = self.node(id).disk.recovered();
        let known: Vec<GroupId> = recovered.iter().map(|(spec, _)| spec.group).collect();
        for (spec, recovered) in recovered {
            let journal = Journal::default();
            self.node(id).journals.insert(spec.group, journal.clone());
            let maker = maker(spec.group, journal);
            let restored = newest_fit(&self.node(id).shelf, &recovered, &spec, &maker);
            let restored = restored.expect("memory needs no descriptors");
            self.restored += usize::from(restored.is_some());
            self.create_from(id, spec, Some(recovered), restored);
        }
        let specs = self.groups.clone();
        for spec in specs.into_iter().filter(|spec| spec.replica_on(id).is_some()) {
            if self.node(id).disk.buried().contains_key(&spec.group) {
                continue;
            }
            if !known.contains(&spec.group) || self.rng.one_in(3) {
                self.create(id, spec.clone(), None);
            }
            if self.rng.one_in(3) {
                // Somebody else has the same idea.
                self.create(id, spec, None);
            }
        }
        for link in self.network.links() {
            if link.from == id || link.to == id {
                let delay = self.rng.below(80 * MS);
                self.plan(delay, Event::LinkUp(link));
            }
        }
        self.wake(id);
    }

    fn create(
        &mut self,
        id: NodeId,
        spec: GroupSpec,
        recovered: Option<raft_storage::RecoveredGroup>,
    ) {
        self.create_from(id, spec, recovered, None);
    }

    fn create_from(
        &mut self,
        id: NodeId,
        spec: GroupSpec,
        recovered: Option<raft_storage::RecoveredGroup>,
        restored: Option<Restored>,
    ) {
        let group = spec.group;
        let (created, life) = (Arc::clone(&self.created), self.node(id).life);
        let journal = self.node(id).journals.entry(group).or_default().clone();
        self.creations += 1;
        let create = CreateGroup {
            spec,
            maker: maker(group, journal),
            recovered,
            restored,
            done: Box::new(move |ended| {
                let ended = ended.expect("all agree on the spec");
                let mut created = created.lock().expect("no thread panics while it holds this");
                created.push((id, life, group, ended));
            }),
        };
        self.tell(id, EngineInput::Create(Box::new(create)));
    }

    fn link_up(&mut self, link: LinkId) {
        if self.network.link(link).up {
            return;
        }
        let cut = self.is_cut(link.from, link.to);
        let alive = self.node(link.from).engine.is_some() && self.node(link.to).engine.is_some();
        if cut || !alive {
            let delay = self.rng.between(20 * MS, 200 * MS);
            self.plan(delay, Event::LinkUp(link));
            return;
        }
        let now = self.now;
        let end = self.network.link(link);
        end.up = true;
        end.generation += 1;
        end.in_flight = 0;
        end.arrives = [now; 2];
        if link.bulk {
            self.tell_desk_of_lane(link.from, DeskInput::LaneUp(link.to));
        }
        self.tell(link.from, EngineInput::LaneUp(link.to, link.lane()));
    }

    fn link_down(&mut self, link: LinkId) {
        if !std::mem::take(&mut self.network.link(link).up) {
            return;
        }
        if self.node(link.from).engine.is_some() {
            if link.bulk {
                self.node(link.from).bulk.remove(&link.to);
                self.tell_desk_of_lane(link.from, DeskInput::LaneDown(link.to));
            }
            self.tell(link.from, EngineInput::LaneDown(link.to, link.lane()));
        }
        let delay = self.rng.between(5 * MS, 300 * MS);
        self.plan(delay, Event::LinkUp(link));
    }

    /// A round of the shard's thread.
    fn turn(&mut self, id: NodeId) {
        let now = self.now;
        let wall = self.node(id).wall(now);
        let node = self.node(id);
        let Some(engine) = &mut node.engine else { return };
        node.turns += 1;
        engine.set_time(now, wall);
        for input in node.inbox.drain(..) {
            engine.handle(input, &mut node.out);
        }
        if engine.next_deadline().is_some_and(|deadline| deadline <= now) {
            engine.fire_timers(&mut node.out);
        }
        engine.finish_turn(&mut node.out);
        engine.confirm_leased();
        engine.finish_turn(&mut node.out);
        self.hand_out(id);
        self.fill_lanes(id);
        self.check_created();
        self.node(id).note_roles();
        let deadline = self.node(id).engine.as_ref().and_then(|engine| engine.next_deadline());
        if let Some(deadline) = deadline {
            self.wake_at(id, deadline.max(Micros::new(now.get() + 1)));
        }
        self.collect_answers();
    }

    fn hand_out(&mut self, id: NodeId) {
        let mut out = std::mem::take(&mut self.node(id).out);
        let life = self.node(id).life;
        if !out.persist.is_empty() {
            let (writes, tickets) =
                (std::mem::take(&mut out.persist), std::mem::take(&mut out.persist_tickets));
            self.node(id).disk.submit(writes, tickets);
            self.start_disk(id);
        }
        for (route, frame) in out.replies.drain(..) {
            match route {
                Route::Data { connection, .. }
                | Route::Carried(CarrierConnection { connection, .. }) => {
                    let wire = self.network.wire_of(connection);
                    self.send_frame(wire, true, life, frame);
                }
                Route::Control => unreachable!("answers over the control lane have their own list"),
            }
        }
        for (to, items) in by_node(out.read_confirms.drain(..)) {
            let link = LinkId { from: id, to, bulk: false };
            if let Some(wire) = self.network.wire(link) {
                self.send_frame(wire, false, life, Frame::ReadConfirms(items));
            }
        }
        for (to, envelope) in out.data.drain(..) {
            let link = LinkId { from: id, to, bulk: false };
            match self.network.wire(link) {
                Some(wire) => self.send_frame(wire, false, life, Frame::Message(envelope)),
                None => out.control.push((to, envelope)),
            }
        }
        for (to, envelope) in out.control.drain(..) {
            if let Message::Snapshot(offer) = &envelope.message {
                self.offered.insert((to, envelope.group, offer.meta.index.get()));
            }
            self.send_control(id, to, Frame::Message(envelope));
        }
        for (to, items) in by_node(out.heartbeats.drain(..)) {
            let items: Vec<HeartbeatItem> = items;
            self.send_control(id, to, Frame::Heartbeats(items));
        }
        for (to, items) in by_node(out.heartbeat_replies.drain(..)) {
            self.send_control(id, to, Frame::HeartbeatReplies(items));
        }
        for (to, envelope, bytes) in out.bulk.drain(..) {
            self.node(id).bulk.entry(to).or_default().push_back((envelope, bytes));
            let link = LinkId { from: id, to, bulk: true };
            match self.network.wire(link) {
                Some(wire) => {
                    let delay = self.rng.below(3 * MS);
                    self.plan(delay, Event::TakeBulk { wire, life });
                }
                None => {
                    // As the bulk thread does for a lane that is not there.
                    self.node(id).bulk.remove(&to);
                    self.tell(id, EngineInput::LaneDown(to, SendLane::Bulk));
                }
            }
        }
        for input in out.snapshots.drain(..) {
            self.tell_desk(id, input);
        }
        self.node(id).worker.jobs.extend(out.apply.drain(..));
        self.start_worker(id);
        for fetch in out.fetches.drain(..) {
            assert_eq!(self.weather.durability, Durability::Log, "memory has no log to read");
            let delay = self.rng.below(if self.rng.clone().one_in(8) { 60 * MS } else { 3 * MS });
            self.plan(delay, Event::Read { node: id, life, fetch });
        }
        out.leaders.clear();
        self.node(id).out = out;
    }

    fn fill_lanes(&mut self, id: NodeId) {
        for to in self.ids.clone() {
            let link = LinkId { from: id, to, bulk: false };
            if to == id {
                continue;
            }
            while let Some(wire) = self.network.wire(link) {
                let budget = LINK_BYTES.saturating_sub(self.network.link(link).in_flight);
                if budget == 0 {
                    break;
                }
                let node = self.node(id);
                let Some(engine) = &mut node.engine else { return };
                let room = Room { bytes: budget, short_max: u64::MAX, takes_long: true };
                let Some(frame) = engine.pull(to, room, &mut node.out) else {
                    break;
                };
                let life = self.node(id).life;
                self.send_frame(wire, false, life, frame);
            }
        }
        self.hand_out(id);
    }

    fn send_frame(&mut self, wire: Wire, back: bool, life: u64, frame: Frame) {
        let bytes = match &frame {
            Frame::Message(envelope) => {
                64 + envelope.entries.iter().map(|entry| entry.cost()).sum::<u64>()
            }
            _ => 64,
        };
        if !self.network.is_live(wire) {
            return;
        }
        let hostile = self.weather.hostile && !self.calm;
        let delay = match self.rng.below(30) {
            0 => self.rng.between(5 * MS, 80 * MS),
            _ => self.rng.between(50, 2 * MS),
        };
        let mut at = Micros::new(self.now.get() + delay);
        let link = self.network.link(wire.link);
        if !back {
            link.in_flight += bytes;
        }
        if hostile {
            if self.rng.one_in(20) {
                // Lost, but its credit is not: the connection goes on.
                if !back {
                    self.plan(delay, Event::Credit { wire, bytes });
                }
                return;
            }
        } else {
            let newest = &mut link.arrives[usize::from(back)];
            at = at.max(Micros::new(newest.get() + 1));
            *newest = at;
        }
        self.plan_at(at, Event::Frame { wire, back, life, bytes, frame });
    }

    /// The control lane: late, out of order, and in bad weather lossy, which it never is.
    fn send_control(&mut self, from: NodeId, to: NodeId, frame: Frame) {
        if !self.calm && self.rng.one_in(40) {
            return;
        }
        let delay = self.rng.between(50, 8 * MS);
        let life = self.node(from).life;
        self.plan(delay, Event::Control { from, life, to, frame });
    }

    fn take_bulk(&mut self, wire: Wire, life: u64) {
        let LinkId { from, to, .. } = wire.link;
        if !self.network.is_live(wire) || self.node(from).life != life {
            return;
        }
        while self.network.link(wire.link).in_flight < LINK_BYTES {
            let waiting = self.node(from).bulk.entry(to).or_default().pop_front();
            let Some((envelope, bytes)) = waiting else { break };
            self.send_frame(wire, false, life, Frame::Message(envelope));
            self.tell(from, EngineInput::BulkSent(to, bytes));
        }
    }

    fn start_disk(&mut self, id: NodeId) {
        let life = self.node(id).life;
        if self.node(id).disk.start() {
            let delay = match self.rng.below(40) {
                0 if !self.calm => self.rng.between(50 * MS, 700 * MS),
                _ => self.rng.between(200, 6 * MS),
            };
            self.plan(delay, Event::Synced { node: id, life });
        }
    }

    fn start_worker(&mut self, id: NodeId) {
        let life = self.node(id).life;
        let worker = &mut self.node(id).worker;
        if !worker.busy && !worker.jobs.is_empty() {
            worker.busy = true;
            let delay = self.rng.below(if self.rng.clone().one_in(20) { 80 * MS } else { MS });
            self.plan(delay, Event::Work { node: id, life });
        }
    }

    fn chaos(&mut self) {
        let links = self.network.links();
        let link = links[self.rng.below(links.len() as u64) as usize];
        let node = self.ids[self.rng.below(self.ids.len() as u64) as usize];
        match self.rng.below(8) {
            0..=2 if self.weather.breaks => self.link_down(link),
            3 | 4 if self.weather.breaks => {
                self.cut_count += 1;
                let cut = self.cut_count;
                self.cuts.insert(cut, (link.from, link.to));
                for other in links {
                    let ends = (other.from, other.to);
                    if ends == (link.from, link.to) || ends == (link.to, link.from) {
                        self.link_down(other);
                    }
                }
                let delay = self.rng.between(100 * MS, 2500 * MS);
                self.plan(delay, Event::Mend { cut });
            }
            5 if self.weather.crashes => self.crash(node),
            // Whoever stops loses its memory, and for a moment its lanes.
            6 if self.weather.breaks && self.weather.durability == Durability::Log => {
                self.ask_to_stop(node);
            }
            _ => {}
        }
    }

    fn crash(&mut self, node: NodeId) {
        self.go_down(node);
        let delay = self.rng.between(50 * MS, 1500 * MS);
        self.plan(delay, Event::Restart(node));
    }

    fn go_down(&mut self, node: NodeId) {
        let mut rng = self.rng.clone();
        self.node(node).crash();
        self.node(node).disk.crash(&mut rng);
        self.collect_answers();
        for link in self.network.links() {
            if link.from == node || link.to == node {
                self.link_down(link);
            }
        }
    }

    fn heal(&mut self) {
        self.calm = true;
        self.cuts.clear();
        for id in self.ids.clone() {
            if self.node(id).engine.as_ref().is_some_and(|engine| engine.stopping) {
                self.crash(id);
            }
            if self.node(id).engine.is_none() {
                self.start(id);
            }
        }
    }

    fn ask(&mut self) {
        let at = self.rng.below(self.groups.len() as u64) as usize;
        let spec = self.groups[at].clone();
        let leader = spec
            .replicas
            .iter()
            .map(|(_, node)| *node)
            .find(|node| self.nodes[node].leads.contains_key(&spec.group));
        let (_, any) = spec.replicas[self.rng.below(spec.replicas.len() as u64) as usize];
        let node = leader.filter(|_| !self.rng.one_in(6)).unwrap_or(any);
        for _ in 0..1 + self.rng.below(4) {
            match self.rng.below(40) {
                0 if !self.no_orders => self.ask_other(node, spec.group),
                1..=9 => self.ask_read(node, spec.group),
                _ => self.ask_propose(node, spec.group),
            }
        }
    }

    fn ask_propose(&mut self, node: NodeId, group: GroupId) {
        self.commands += 1;
        let padding = match self.rng.below(12) {
            0 => self.rng.between(4 << 10, 12 << 10),
            1..=3 => self.rng.between(500, 4 << 10),
            _ => self.rng.below(64),
        };
        let bytes = command(self.commands, padding as usize);
        let (request, ticket) = Request::new(group, RequestKind::Propose(bytes));
        let asked = Asked::Propose { command: self.commands, ticket };
        self.pend(node, group, asked, EngineInput::Request(request));
    }

    fn ask_read(&mut self, node: NodeId, group: GroupId) {
        let path = [ReadPath::Quorum, ReadPath::Lease, ReadPath::Follower];
        let which = self.rng.below(3) as usize;
        let (request, ticket) = Request::new(group, RequestKind::Read(path[which], Bytes::new()));
        let at_least = self.acknowledged_most.get(&group).copied().unwrap_or(0);
        let asked = Asked::Read { at_least, path: which, ticket };
        self.pend(node, group, asked, EngineInput::Request(request));
    }

    fn ask_other(&mut self, node: NodeId, group: GroupId) {
        let (request, ticket) =
            Request::new(group, RequestKind::Read(ReadPath::Quorum, Bytes::new()));
        let to = match self.rng.below(4) {
            0 => Some(NodeId::new(1 + self.rng.below(4))),
            _ => None,
        };
        let input = match self.rng.below(2) {
            0 => EngineInput::Transfer(group, to, request.reply),
            _ => EngineInput::Digest(group, request.reply),
        };
        self.pend(node, group, Asked::Other { ticket }, input);
    }

    fn pend(&mut self, id: NodeId, group: GroupId, asked: Asked, input: EngineInput) {
        let asked_at = self.now;
        let node = self.node(id);
        if node.engine.is_none() {
            return;
        }
        let (losses, crashes) = (node.losses.get(&group).copied().unwrap_or(0), node.crashes);
        self.pending.push(Pending { node: id, group, losses, crashes, asked_at, asked });
        self.tell(id, input);
    }

    fn collect_answers(&mut self) {
        for mut pending in std::mem::take(&mut self.pending) {
            let answer = match &mut pending.asked {
                Asked::Propose { ticket, .. } => poll(ticket).map(|a| a.map(Answer::Proposed)),
                Asked::Read { ticket, .. } => poll(ticket).map(|a| a.map(Answer::Read)),
                Asked::Other { ticket } => poll(ticket).map(|a| a.map(|()| Answer::Other)),
            };
            match answer {
                None => self.pending.push(pending),
                Some(answer) => self.take_answer(&pending, answer),
            }
        }
    }

    fn take_answer(&mut self, pending: &Pending, answer: Result<Answer, RequestError>) {
        let node = &self.nodes[&pending.node];
        let disturbed = node.crashes > pending.crashes
            || node.losses.get(&pending.group).copied().unwrap_or(0) > pending.losses;
        match (&pending.asked, answer) {
            (_, Err(RequestError::Unknown)) => {
                assert!(
                    disturbed,
                    "an outcome is unknown without a cause, asked at {:?}",
                    pending.asked_at
                );
                self.unknown += 1;
            }
            (Asked::Propose { command, .. }, Ok(Answer::Proposed(proposed))) => {
                let place = number(&proposed.output);
                self.acknowledged.insert(*command, (pending.group, place));
                let most = self.acknowledged_most.entry(pending.group).or_default();
                *most = (*most).max(place);
                self.succeeded += 1;
            }
            (Asked::Propose { command, .. }, Err(error)) => {
                assert!(!error.may_have_been_applied());
                self.denied.insert(*command);
            }
            (Asked::Read { at_least, path, .. }, Ok(Answer::Read(count))) => {
                self.reads[*path] += 1;
                assert!(number(&count) >= *at_least, "a read missed what was acknowledged");
            }
            (Asked::Read { .. } | Asked::Other { .. }, _) => {}
            (Asked::Propose { .. }, Ok(_)) => unreachable!("each kind has its own answer"),
        }
    }

    /// A creation is answered when it is on disk.
    fn check_created(&mut self) {
        if self.weather.durability == Durability::Memory {
            return;
        }
        let created = self.created.lock().expect("no thread panics while it holds this").clone();
        for (node, life, group, _) in created {
            let node = &self.nodes[&node];
            let held = node.disk.holds(group) || node.disk.buried().contains_key(&group);
            assert!(node.life != life || held, "created before it was on disk");
        }
    }

    fn takes_a_command(&mut self, spec: &GroupSpec) {
        for _ in 0..200 {
            let leader = spec
                .replicas
                .iter()
                .map(|(_, node)| *node)
                .find(|node| self.nodes[node].leads.contains_key(&spec.group));
            let before = self.succeeded;
            if let Some(leader) = leader {
                self.ask_propose(leader, spec.group);
            }
            self.run_for(50);
            if self.succeeded > before {
                return;
            }
        }
        panic!("group {} is stuck: {:?}", spec.group, self.statuses(spec.group));
    }

    fn statuses(&self, group: GroupId) -> Vec<String> {
        let statuses = self.nodes.values().flat_map(|node| {
            let engine = node.engine.as_ref().expect("all nodes run at the end");
            let of_group = engine.statuses().into_iter().filter(move |s| s.group == group);
            of_group.map(move |status| format!("node {}: {status:?}", node.id))
        });
        statuses.collect()
    }

    fn unanswered(&self) -> Vec<String> {
        let pending = self.pending.iter().map(|pending| {
            let what = match &pending.asked {
                Asked::Propose { command, .. } => format!("command {command}"),
                Asked::Read { .. } => "read".to_owned(),
                Asked::Other { .. } => "transfer or digest".to_owned(),
            };
            format!(
                "{what} of {:?} at {} since {:?}",
                pending.group, pending.node, pending.asked_at
            )
        });
        pending.collect()
    }

    fn check_replicas(&self) {
        for spec in &self.groups {
            let applied: Vec<Applied> = spec
                .replicas
                .iter()
                .map(|(_, node)| self.nodes[node].journals[&spec.group].look())
                .collect();
            let commands = &applied[0].commands;
            for other in &applied[1..] {
                let statuses = || self.statuses(spec.group);
                assert_eq!(other.index, applied[0].index, "{:#?}", statuses());
                assert_eq!(&other.commands, commands, "group {}", spec.group);
            }
            let distinct: BTreeSet<u64> = commands.iter().copied().collect();
            assert_eq!(distinct.len(), commands.len(), "a command was applied twice");
            for (command, (_, place)) in
                self.acknowledged.iter().filter(|(_, (group, _))| *group == spec.group)
            {
                let there = commands.get(*place as usize - 1);
                assert_eq!(there, Some(command), "acknowledged at place {place}");
            }
            let denied = distinct.intersection(&self.denied).next();
            assert_eq!(denied, None, "said never to have happened");
        }
    }

    /// Heartbeats, their answers and nothing else: no turn wakes another.
    fn check_idle(&mut self) {
        let before: u64 = self.nodes.values().map(|node| node.turns).sum();
        self.run_for(1000);
        let turns = self.nodes.values().map(|node| node.turns).sum::<u64>() - before;
        // Ten intervals, three nodes, up to two peers each way, and timers that wake early.
        assert!(turns < 600, "{turns} turns in an idle second");
    }
}

fn maker(group: GroupId, journal: Journal) -> MakeMachine {
    let mode = if group.get().is_multiple_of(2) { ApplyMode::Inline } else { ApplyMode::Worker };
    Arc::new(move |spec| NewMachine::new(journal.machine(mode), spec, None))
}

enum Answer {
    Proposed(Proposed),
    Read(Bytes),
    Other,
}

fn poll<T: Future + Unpin>(ticket: &mut T) -> Option<T::Output> {
    match Pin::new(ticket).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(answer) => Some(answer),
        Poll::Pending => None,
    }
}

fn route(link: LinkId, connection: ConnectionId) -> Route {
    match link.bulk {
        true => Route::Carried(CarrierConnection { via: Via::Bulk, connection }),
        false => Route::Data { shard: 0, connection },
    }
}

fn by_node<T>(items: impl Iterator<Item = (NodeId, T)>) -> BTreeMap<NodeId, Vec<T>> {
    let mut nodes: BTreeMap<NodeId, Vec<T>> = BTreeMap::new();
    for (node, item) in items {
        nodes.entry(node).or_default().push(item);
    }
    nodes
}
