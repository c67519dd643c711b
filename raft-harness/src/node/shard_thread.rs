//! The thread of one shard: it owns its groups, its inbox, its timers and its data lanes, and
//! turns the engine.
//!
//! One future on a single-threaded runtime. A round takes everything that is there (inbox,
//! sockets, due timers), lets the engine finish the turn, hands the persist batch to the log
//! before anything else, then fills the lanes and flushes each with one write. It sleeps only
//! when a whole round found nothing. In a layout without data lanes it only accepts them, and what
//! it sends goes by the carrier of the layout.
//!
//! [`Shard`] takes its time as an argument, so that a simulator turns the same code;
//! [`ShardTask`] adds the clock and the runtime's timer.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use crossbeam::channel::Sender;
use parking_lot::Mutex;
use raft_core::{GroupId, LogTime, Micros, NodeId};
use raft_transport::{ConnectionId, Direction, Frame, LaneEvent, Lanes, Room};
use tokio::time::Sleep;
use tracing::debug;

use super::carrier::{CarrierInput, Carriers};
use super::clock::Clock;
use super::control_thread::ControlInput;
use super::directory::Directory;
use super::inbox::Inbox;
use super::log_thread::LogBatch;
use crate::counters::Counters;
use crate::engine::{
    ApplyJob, EngineInput, Fetch, HandingOver, Route, SendLane, ShardEngine, Source, TurnOutput,
};
use crate::node_status::GroupStatus;
use crate::request::{Request, RequestError};
use crate::snapshot::desk::DeskInput;

/// What other threads send a shard.
pub(crate) enum ShardInput {
    /// For the engine.
    Engine(EngineInput),
    /// Requests of one client, in order.
    Requests(Vec<Request>),
    /// An answer to a frame this shard passed on: it goes back on this shard's connection.
    Reply(ConnectionId, Frame),
    /// Report all groups.
    Status(Sender<Vec<GroupStatus>>),
    /// Say how far handing over is.
    HandingOver(Sender<HandingOver>),
    /// The log failed; nothing may be acknowledged any more.
    LogFailed(String),
    /// End.
    Stop,
}

/// The other threads of the node, as a shard sees them.
pub(crate) struct Links {
    pub(crate) shards: Arc<[Arc<Inbox<ShardInput>>]>,
    pub(crate) control: Arc<Inbox<ControlInput>>,
    pub(crate) carriers: Carriers,
    pub(crate) log: Option<Sender<LogBatch>>,
    pub(crate) reader: Option<Sender<(usize, Fetch)>>,
    pub(crate) desk: Sender<DeskInput>,
    pub(crate) appliers: Vec<Sender<ApplyJob>>,
    pub(crate) directory: Arc<Directory>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) failure: Arc<Mutex<Option<String>>>,
}

pub(crate) struct Shard {
    index: usize,
    inbox: Arc<Inbox<ShardInput>>,
    engine: ShardEngine,
    lanes: Lanes,
    /// Whether this shard sends on its lanes, or only peers do.
    has_data_lanes: bool,
    links: Links,
    out: TurnOutput,
    items: Vec<ShardInput>,
    events: VecDeque<LaneEvent>,
    failed: bool,
}

/// Rounds taken before the runtime looks after its timers and sockets again.
const ROUNDS_MAX: usize = 8;

impl Shard {
    pub(crate) fn new(index: usize, engine: ShardEngine, lanes: Lanes, links: Links) -> Self {
        Self {
            index,
            inbox: Arc::clone(&links.shards[index]),
            engine,
            lanes,
            has_data_lanes: links.carriers.layout.has_data_lanes(),
            links,
            out: TurnOutput::default(),
            items: Vec::new(),
            events: VecDeque::new(),
            failed: false,
        }
    }

    /// Takes what is there and hands on what follows. `clocks` reads the node's monotonic clock
    /// and its wall clock.
    pub(crate) fn round(
        &mut self,
        cx: &mut Context<'_>,
        clocks: impl Fn() -> (Micros, LogTime),
    ) -> Round {
        let (before, wall_before) = clocks();
        let mut worked = false;

        let mut items = std::mem::take(&mut self.items);
        self.inbox.drain(&mut items);
        worked |= !items.is_empty();
        self.lanes.poll(cx, before, &mut self.events);
        worked |= !self.events.is_empty();
        // A replica owes a leader patience from when it got its word, and the leader counts from
        // when that left. The thread may have stood still since it looked, so it looks again, now
        // that all is here it will hear in this turn.
        let (now, wall) =
            if raft_core::planted!(ClockBeforeInput) { (before, wall_before) } else { clocks() };
        self.engine.set_time(now, wall);

        let mut taken = items.drain(..);
        while let Some(item) = taken.next() {
            if let ShardInput::Stop = item {
                refuse_requests(taken);
                return Round::Stop;
            }
            self.take(item);
        }
        drop(taken);
        self.items = items;
        while let Some(event) = self.events.pop_front() {
            self.take_lane_event(event);
        }

        if self.engine.next_deadline().is_some_and(|deadline| deadline <= now) {
            self.engine.fire_timers(&mut self.out);
            worked = true;
        }
        // A lane tells nobody that it has room again, and what filling the lanes found out about
        // one of them is still to be acted upon.
        if !worked && !self.engine.has_touched() && !self.can_fill_lanes() {
            return Round::Idle;
        }
        self.engine.finish_turn(&mut self.out);
        if self.engine.has_leased() {
            // By now the thread may have stood still for longer than a lease lasts.
            let (now, wall) = clocks();
            self.engine.set_time(now, wall);
            self.engine.confirm_leased();
            self.engine.finish_turn(&mut self.out);
        }
        Counters::add(&self.links.counters.turns, 1);
        self.hand_out();
        self.fill_lanes();
        self.lanes.flush(cx, now);
        Round::Worked
    }

    fn take(&mut self, item: ShardInput) {
        match item {
            ShardInput::Engine(input) => self.engine.handle(input, &mut self.out),
            ShardInput::Requests(requests) => {
                Counters::add(&self.links.counters.requests, requests.len() as u64);
                for request in requests {
                    self.engine.handle(EngineInput::Request(request), &mut self.out);
                }
            }
            ShardInput::Reply(connection, frame) => self.lanes.reply(connection, frame),
            ShardInput::Status(reply) => {
                let _ = reply.send(self.engine.statuses());
            }
            ShardInput::HandingOver(reply) => {
                let _ = reply.send(self.engine.handing_over());
            }
            ShardInput::LogFailed(why) => {
                self.links.directory.hub().tell_failure(&why);
                self.links.failure.lock().get_or_insert(why);
                self.failed = true;
                self.engine.fail(&mut self.out);
            }
            ShardInput::Stop => {}
        }
    }

    fn take_lane_event(&mut self, event: LaneEvent) {
        match event {
            LaneEvent::Up { peer, connection, .. } => {
                if connection.direction() == Direction::Outgoing {
                    let input = EngineInput::LaneUp(peer, SendLane::Data);
                    self.engine.handle(input, &mut self.out);
                }
            }
            LaneEvent::Down { peer, connection, reason } => {
                let outgoing = connection.direction() == Direction::Outgoing;
                debug!(%peer, outgoing, %reason, "data lane down");
                if outgoing {
                    let input = EngineInput::LaneDown(peer, SendLane::Data);
                    self.engine.handle(input, &mut self.out);
                }
            }
            LaneEvent::Frame { connection, from, from_incarnation, bytes, frame } => {
                let route = Route::Data { shard: self.index, connection };
                let source =
                    Source { node: from, incarnation: from_incarnation, route, clock: None };
                self.take_frame(source, frame);
                self.lanes.consumed(connection, bytes);
            }
        }
    }

    /// Takes a frame for groups of this shard; what belongs to another shard is passed on.
    fn take_frame(&mut self, source: Source, frame: Frame) {
        if self.failed {
            return;
        }
        let owner = |group: GroupId| shard_of(group, self.links.shards.len());
        match frame {
            Frame::Message(envelope) => {
                let to = owner(envelope.group);
                if to == self.index {
                    self.engine.handle(EngineInput::Message(source, envelope), &mut self.out);
                } else {
                    let input = ShardInput::Engine(EngineInput::Message(source, envelope));
                    let _ = self.links.shards[to].push(input);
                }
            }
            Frame::Heartbeats(items) | Frame::ReadConfirms(items) => {
                for (to, items) in split(items, |item| owner(item.group)) {
                    let input = EngineInput::Heartbeats(source, items);
                    self.pass(to, input);
                }
            }
            Frame::HeartbeatReplies(items) => {
                for (to, items) in split(items, |item| owner(item.group)) {
                    let input = EngineInput::HeartbeatReplies(source, items);
                    self.pass(to, input);
                }
            }
            // These have the bulk lane, and words about the sender the control lane.
            Frame::SnapshotPull(_)
            | Frame::SnapshotChunk(_)
            | Frame::Clock { .. }
            | Frame::Condition(_) => {}
            // No protocol of ours has these.
            Frame::User(_) | Frame::UserItems(_) => {}
            // The lane keeps these to itself.
            Frame::Chunk(_)
            | Frame::Grant { .. }
            | Frame::Credit { .. }
            | Frame::Ping { .. }
            | Frame::Pong { .. } => {}
        }
    }

    fn pass(&mut self, to: usize, input: EngineInput) {
        if to == self.index {
            self.engine.handle(input, &mut self.out);
        } else {
            let _ = self.links.shards[to].push(ShardInput::Engine(input));
        }
    }

    /// Gives the turn's output to whoever carries it out; the log comes first, so that the disk
    /// works while the network does.
    fn hand_out(&mut self) {
        let out = &mut self.out;
        let log = self.links.log.as_ref().filter(|_| !self.failed);
        if log.is_none() {
            // Nobody would report it done.
            out.persist.clear();
        }
        out.count_load(self.engine.log_load());
        if !out.persist.is_empty()
            && let Some(log) = log
        {
            let _ = log.send(LogBatch {
                shard: self.index,
                writes: std::mem::take(&mut out.persist),
                tickets: std::mem::take(&mut out.persist_tickets),
            });
        }
        out.persist_tickets.clear();
        for (route, frame) in out.replies.drain(..) {
            match route {
                Route::Data { shard, connection } if shard == self.index => {
                    self.lanes.reply(connection, frame);
                }
                Route::Data { shard, connection } => {
                    let _ = self.links.shards[shard].push(ShardInput::Reply(connection, frame));
                }
                Route::Carried(connection) => self.links.carriers.reply(connection, frame),
                // The engine sends these as messages, not as replies.
                Route::Control => {}
            }
        }
        for group in out.given_up.drain(..) {
            for peer in self.engine.nodes() {
                self.lanes.abandon(*peer, group);
            }
            self.links.carriers.give(CarrierInput::GiveUp(group));
        }
        if !self.has_data_lanes && !out.read_confirms.is_empty() {
            let confirms = std::mem::take(&mut out.read_confirms);
            let _ = self.links.control.push(ControlInput::ReadConfirms(confirms));
        }
        for (peer, items) in by_node(out.read_confirms.drain(..)) {
            if self.lanes.send(peer, Frame::ReadConfirms(items)).is_err() {
                // No lane: the next heartbeat carries the same question.
                debug!(%peer, "read confirmation without a lane");
            }
        }
        for (peer, envelope) in out.data.drain(..) {
            if let Err(Frame::Message(envelope)) = self.lanes.send(peer, Frame::Message(envelope)) {
                out.control.push((peer, envelope));
            }
        }
        let control = &self.links.control;
        if !out.control.is_empty() {
            let _ = control.push(ControlInput::Messages(std::mem::take(&mut out.control)));
        }
        if !out.heartbeats.is_empty() {
            let _ = control.push(ControlInput::Heartbeats(std::mem::take(&mut out.heartbeats)));
        }
        if !out.heartbeat_replies.is_empty() {
            let replies = std::mem::take(&mut out.heartbeat_replies);
            let _ = control.push(ControlInput::Replies(replies));
        }
        for (peer, envelope, bytes) in out.bulk.drain(..) {
            let shard = self.index;
            self.links.carriers.give(CarrierInput::Send { shard, peer, envelope, bytes });
        }
        for job in out.apply.drain(..) {
            let worker = job.group.get() as usize % self.links.appliers.len();
            let _ = self.links.appliers[worker].send(job);
        }
        for input in out.snapshots.drain(..) {
            let _ = self.links.desk.send(input);
        }
        if let Some(reader) = &self.links.reader {
            for fetch in out.fetches.drain(..) {
                let _ = reader.send((self.index, fetch));
            }
        }
        for (group, leader) in out.leaders.drain(..) {
            self.links.directory.set_leader(group, leader);
        }
        for event in out.events.drain(..) {
            self.links.directory.hub().tell(event);
        }
    }

    /// Room for appends to a peer.
    fn room(&self, peer: NodeId) -> Room {
        match self.has_data_lanes {
            true => self.lanes.room(peer),
            false => self.engine.carried_room(peer),
        }
    }

    fn can_fill_lanes(&self) -> bool {
        let can = |peer: &NodeId| self.engine.has_work(*peer, self.room(*peer));
        self.engine.nodes().iter().any(can)
    }

    /// Lets each lane pull as much as it has room for.
    fn fill_lanes(&mut self) {
        let mut at = 0;
        while let Some(&peer) = self.engine.nodes().get(at) {
            at += 1;
            loop {
                let room = self.room(peer);
                if !self.engine.has_work(peer, room) {
                    break;
                }
                let Some(frame) = self.engine.pull(peer, room, &mut self.out) else {
                    break;
                };
                if self.lanes.send(peer, frame).is_err() {
                    let input = EngineInput::LaneDown(peer, SendLane::Data);
                    self.engine.handle(input, &mut self.out);
                    break;
                }
            }
        }
        // Pulling may have found work for the bulk lane or entries to read back.
        if !self.out.bulk.is_empty() || !self.out.fetches.is_empty() {
            self.hand_out();
        }
    }

    /// Goes to sleep until the inbox has something; `false` if it has already.
    pub(crate) fn sleep(&self, cx: &Context<'_>) -> bool {
        self.inbox.sleep(cx)
    }

    /// When the engine wants a round, if nothing else happens. The lanes have their own timer.
    pub(crate) fn next_deadline(&self) -> Option<Micros> {
        self.engine.next_deadline()
    }

    /// The lanes, whose deadline the simulator keeps.
    #[cfg(feature = "sim")]
    pub(crate) fn lanes(&self) -> &Lanes {
        &self.lanes
    }

    /// The engine, to be looked at.
    #[cfg(feature = "sim")]
    pub(crate) fn engine(&self) -> &ShardEngine {
        &self.engine
    }

    fn stop(&mut self) {
        refuse_requests(self.inbox.close().into_iter());
        self.engine.abandon_all(&RequestError::Stopping);
        self.lanes.close();
    }
}

impl Drop for Shard {
    /// Whatever ended this shard, nobody shall wait for an answer from it.
    fn drop(&mut self) {
        refuse_requests(self.inbox.close().into_iter());
    }
}

/// Answers requests that the engine never saw.
fn refuse_requests(items: impl Iterator<Item = ShardInput>) {
    for item in items {
        if let ShardInput::Requests(requests) = item {
            for request in requests {
                request.reply.send(Err(RequestError::Stopping));
            }
        }
    }
}

/// What a round found.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Round {
    Worked,
    Idle,
    Stop,
}

/// A shard on its thread: the rounds, and the sleep between them.
pub(crate) struct ShardTask {
    shard: Shard,
    clock: Clock,
    sleep: Pin<Box<Sleep>>,
    sleep_until: Option<Micros>,
}

impl ShardTask {
    /// To be called on the shard's own runtime: its timer lives there.
    pub(crate) fn new(shard: Shard, clock: Clock) -> Self {
        let sleep = Box::pin(tokio::time::sleep(std::time::Duration::ZERO));
        Self { shard, clock, sleep, sleep_until: None }
    }
}

impl Future for ShardTask {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let task = &mut *self;
        let mut rounds = 0;
        loop {
            match task.shard.round(cx, || (task.clock.now(), Clock::wall())) {
                Round::Stop => {
                    task.shard.stop();
                    return Poll::Ready(());
                }
                Round::Worked => rounds += 1,
                Round::Idle => {
                    if task.shard.sleep(cx) {
                        break;
                    }
                }
            }
            if rounds >= ROUNDS_MAX {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
        let deadline = task.shard.next_deadline();
        if deadline != task.sleep_until
            && let Some(at) = deadline
        {
            task.sleep.as_mut().reset(task.clock.instant(at));
        }
        task.sleep_until = deadline;
        if deadline.is_some() && task.sleep.as_mut().poll(cx).is_ready() {
            task.sleep_until = None;
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

/// The shard that owns a group, the same on every start with as many shards.
pub(crate) fn shard_of(group: GroupId, shards: usize) -> usize {
    let spread = u64::from(group.get()).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    (spread % shards.max(1) as u64) as usize
}

/// Splits items by the shard that owns them; in the common case of one owner nothing is copied.
pub(super) fn split<T>(items: Vec<T>, owner: impl Fn(&T) -> usize) -> Vec<(usize, Vec<T>)> {
    let Some(first) = items.first().map(&owner) else {
        return Vec::new();
    };
    if items.iter().all(|item| owner(item) == first) {
        return vec![(first, items)];
    }
    let mut parts: Vec<(usize, Vec<T>)> = Vec::new();
    for item in items {
        let to = owner(&item);
        match parts.iter_mut().find(|(part, _)| *part == to) {
            Some((_, part)) => part.push(item),
            None => parts.push((to, vec![item])),
        }
    }
    parts
}

/// Gathers items by node, keeping their order.
pub(super) fn by_node<T>(items: impl Iterator<Item = (NodeId, T)>) -> Vec<(NodeId, Vec<T>)> {
    let mut nodes: Vec<(NodeId, Vec<T>)> = Vec::new();
    for (node, item) in items {
        match nodes.iter_mut().find(|(known, _)| *known == node) {
            Some((_, of_node)) => of_node.push(item),
            None => nodes.push((node, vec![item])),
        }
    }
    nodes
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::task::Waker;

    use bytes::Bytes;
    use crossbeam::channel::unbounded;
    use raft_core::{
        Entry, GroupIncarnation, Heartbeat, Incarnation, LogIndex, ReplicaId, Rest, Settings, Term,
    };
    use raft_transport::{
        HeartbeatItem, Identity, Lane, LaneConfig, LaneCounters, LaneLayout, LanePolicy, MemoryHub,
    };

    use super::super::starting::registry;
    use super::*;
    use crate::bodies::NewMachine;
    use crate::engine::{CreateGroup, Durability, EngineOptions, LogLoad};
    use crate::group_spec::GroupSpec;
    use crate::persistence::Persistence;
    use crate::state_machine::StateMachine;

    const GROUP: GroupId = GroupId::new(1);

    struct Nothing;

    impl StateMachine for Nothing {
        fn apply(&mut self, entries: &[Entry], outputs: &mut Vec<Bytes>) {
            outputs.resize(entries.len(), Bytes::new());
        }

        fn read(&self, _: &[u8]) -> Bytes {
            Bytes::new()
        }

        fn digest(&self) -> u64 {
            0
        }
    }

    /// A shard of node 1 with one replica of a group of three.
    fn shard(settings: &Settings) -> Shard {
        let node = NodeId::new(1);
        let nodes = [1, 2, 3].map(NodeId::new);
        let options = EngineOptions {
            persistence: Persistence::default(),
            node,
            incarnation: Incarnation::new(1),
            creations_lost: false,
            settings: Arc::new(settings.clone()),
            lane_policy: LanePolicy { bulk_append_min: None },
            layout: LaneLayout::default(),
            seed: 1,
            durability: Durability::Memory,
            command_bytes_max: 1 << 20,
            window_bytes: None,
            requests_max: 8,
            log_load: Arc::new(LogLoad::new(u64::MAX)),
            snapshot_every: None,
            snapshot_bytes: None,
            snapshot_tail: 0,
            snapshot_hold_bytes: 0,
            bulk_bytes_max: 1 << 20,
        };
        let engine = ShardEngine::new(options, Arc::default(), nodes.into_iter().skip(1));
        let lane = Lane::Data { shard: 0 };
        let network = Arc::new(MemoryHub::new().node(node, &[lane]));
        let identity = Identity {
            cluster: "test".to_owned(),
            node,
            store: 1,
            incarnation: Incarnation::new(1),
            life: 1,
            past: Vec::new(),
            shards: 1,
            features: 0,
        };
        let registry = registry(identity, &[], &[], |_, _| {});
        let counters = Arc::new(LaneCounters::default());
        let lanes = Lanes::new(network, registry, lane, LaneConfig::default(), counters);
        let links = Links {
            shards: vec![Arc::default()].into(),
            control: Arc::default(),
            carriers: Carriers::default(),
            log: None,
            reader: None,
            desk: unbounded().0,
            appliers: vec![unbounded().0],
            directory: Arc::new(Directory::new(NodeId::new(1), Arc::default())),
            counters: Arc::default(),
            failure: Arc::default(),
        };
        let create = CreateGroup {
            spec: GroupSpec::on_nodes(GROUP, nodes),
            maker: Arc::new(|spec| NewMachine::new(Box::new(Nothing), spec, None)),
            recovered: None,
            restored: None,
            done: Box::new(|_| {}),
        };
        let _ = links.shards[0].push(ShardInput::Engine(EngineInput::Create(Box::new(create))));
        Shard::new(0, engine, lanes.without_timer(), links)
    }

    /// A leader counts its lease from when its word left. Whoever looked at the clock before that
    /// word came, and then stood still, must not count its patience from the look.
    #[test]
    fn a_leader_that_is_heard_late_in_a_turn_is_owed_patience_from_then_on() {
        let settings = Settings::default();
        let mut shard = shard(&settings);
        let cx = &mut Context::from_waker(Waker::noop());
        shard.round(cx, || (Micros::new(1), LogTime::default()));
        let inbox = Arc::clone(&shard.inbox);
        let item = HeartbeatItem {
            group: GROUP,
            group_incarnation: GroupIncarnation::new(1),
            from: ReplicaId::new(2),
            to: ReplicaId::new(1),
            heartbeat: Heartbeat {
                term: Term::new(1),
                commit: LogIndex::ZERO,
                quorum_durable: LogIndex::ZERO,
                read_seq: 0,
                sent: Micros::ZERO,
                rest: Rest::Awake,
            },
        };
        let (looked, late) = (Micros::new(10), Micros::new(3_600_000_000));
        let looks = Cell::new(0);
        shard.round(cx, || {
            looks.set(looks.get() + 1);
            if looks.get() > 1 {
                return (late, LogTime::default());
            }
            // It comes while the thread stands still after its first look.
            let (node, incarnation) = (NodeId::new(2), Incarnation::new(1));
            let source = Source { node, incarnation, route: Route::Control, clock: None };
            let heartbeats = EngineInput::Heartbeats(source, vec![item]);
            let _ = inbox.push(ShardInput::Engine(heartbeats));
            (looked, LogTime::default())
        });
        let patient = late.after(settings.election_timeout_min);
        assert!(shard.next_deadline().is_some_and(|deadline| deadline >= patient));
    }
}
