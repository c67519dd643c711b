//! The control plane: votes, heartbeats and their answers, on a thread of its own, so that a busy
//! data plane cannot make a node look dead.
//!
//! All groups' heartbeats fall on one grid; shards hand theirs in at the grid time, and shortly
//! after it one frame per peer leaves with whatever is there. So there is at most one scheduled
//! frame per peer and interval, however many groups and shards; a shard that is stuck hands in
//! nothing and so loses its own groups, and only those.
//!
//! Unless they are to travel [one by one](Heartbeats::PerGroup), as without the mux; that is what
//! the batches are measured against.
//!
//! A peer of one lane sends its appends here as well, and so does this node if it is one; they
//! wait in a [`Carrier`], and what this module is about goes before them.
//!
//! It also watches the log, which cannot say that its disk hangs, and makes that known to the
//! shards here and to the peers.
//!
//! [`Control`] takes its time as an argument, so that a simulator turns the same code;
//! [`ControlTask`] adds the clock and the runtime's timer.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use crossbeam::channel::Sender;
use raft_core::{GroupId, LogTime, Micros, NodeId};
use raft_transport::{
    Direction, Envelope, Frame, HeartbeatItem, HeartbeatReplyItem, LaneEvent, LaneLayout, Lanes,
};
use tokio::time::Sleep;
use tracing::{debug, info};

use super::carrier::{Carrier, CarrierInput, is_carried};
use super::clock::Clock;
use super::contacts::Contacts;
use super::inbox::Inbox;
use super::log_watch::{LogWatcher, Looked};
use super::options::Heartbeats;
use super::shard_thread::{Round, ShardInput, by_node, shard_of, split};
use crate::engine::{EngineInput, Route, Source, Told, Via};
use crate::snapshot::desk::DeskInput;

/// Inputs that wait for a shard when the control plane hands it no more: far more than come while
/// one turns, however busy it is.
const UNHEARD_MAX: usize = 1 << 18;

/// What shards send the control plane.
pub(crate) enum ControlInput {
    /// Votes and other messages that leave at once.
    Messages(Vec<(NodeId, Envelope)>),
    /// A shard's part of the next heartbeat frames.
    Heartbeats(Vec<(NodeId, HeartbeatItem)>),
    /// Answers to heartbeats.
    Replies(Vec<(NodeId, HeartbeatReplyItem)>),
    /// Read confirmations of a shard without lanes of its own.
    ReadConfirms(Vec<(NodeId, HeartbeatItem)>),
    /// What this lane carries for all shards, and answers to what came on it.
    Carry(CarrierInput),
    /// Say that this thread turns.
    Ping(Sender<()>),
    /// End.
    Stop,
}

/// How this node speaks on the control lane.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Speech {
    pub(crate) layout: LaneLayout,
    pub(crate) heartbeats: Heartbeats,
    pub(crate) heartbeat_interval: Duration,
}

pub(crate) struct Control {
    inbox: Arc<Inbox<ControlInput>>,
    shards: Arc<[Arc<Inbox<ShardInput>>]>,
    lanes: Lanes,
    carrier: Carrier,
    how: Speech,
    contacts: Arc<Contacts>,
    /// How long after the grid time heartbeat frames leave.
    gather: Duration,
    heartbeat_interval: Duration,
    heartbeats: Vec<(NodeId, HeartbeatItem)>,
    /// The first group whose heartbeat a peer's lane had no room for the last time.
    beat_from: HashMap<NodeId, GroupId>,
    /// How often shards handed in since the last departure.
    hand_ins: usize,
    heartbeats_due: Option<Micros>,
    items: Vec<ControlInput>,
    events: VecDeque<LaneEvent>,
    /// What the wall clocks of other nodes showed when they told; one for each that ever did.
    clocks: BTreeMap<NodeId, Told>,
    /// The peers whose lane is up.
    up: BTreeSet<NodeId>,
    watcher: LogWatcher,
    /// What this node's shows.
    wall: LogTime,
    /// Which refusals among the lanes are noted.
    refusals: u64,
    /// Who was told in this round.
    told: Vec<NodeId>,
}

impl Control {
    pub(crate) fn new(
        inbox: Arc<Inbox<ControlInput>>,
        shards: Arc<[Arc<Inbox<ShardInput>>]>,
        desk: Sender<DeskInput>,
        lanes: Lanes,
        contacts: Arc<Contacts>,
        how: Speech,
        watcher: LogWatcher,
    ) -> Self {
        Self {
            inbox,
            carrier: Carrier::new(Via::Control, Arc::clone(&shards), desk),
            shards,
            lanes,
            how,
            contacts,
            gather: how.heartbeat_interval / 10,
            heartbeat_interval: how.heartbeat_interval,
            heartbeats: Vec::new(),
            beat_from: HashMap::new(),
            hand_ins: 0,
            heartbeats_due: None,
            items: Vec::new(),
            events: VecDeque::new(),
            clocks: BTreeMap::new(),
            up: BTreeSet::new(),
            watcher,
            wall: LogTime::default(),
            refusals: 0,
            told: Vec::new(),
        }
    }

    /// Takes what is there and hands on what follows. `clocks` reads the node's monotonic clock
    /// and its wall clock.
    pub(crate) fn round(
        &mut self,
        cx: &mut Context<'_>,
        clocks: impl Fn() -> (Micros, LogTime),
    ) -> Round {
        let (now, wall) = clocks();
        let mut worked = false;
        let before = self.wall;
        self.wall = if raft_core::planted!(WallClockNeverFalls) { wall.max(before) } else { wall };
        self.told.clear();
        let mut items = std::mem::take(&mut self.items);
        self.inbox.drain(&mut items);
        worked |= !items.is_empty();
        for item in items.drain(..) {
            match item {
                ControlInput::Messages(messages) => {
                    for (peer, envelope) in messages {
                        self.send(peer, Frame::Message(envelope));
                    }
                }
                ControlInput::Heartbeats(items) if self.how.heartbeats == Heartbeats::PerGroup => {
                    for (peer, item) in items {
                        self.send(peer, Frame::Heartbeats(vec![item]));
                    }
                }
                ControlInput::Heartbeats(items) => {
                    self.heartbeats.extend(items);
                    self.hand_ins += 1;
                    if self.heartbeats_due.is_none() {
                        self.heartbeats_due = Some(self.next_departure(now));
                    }
                }
                ControlInput::Replies(items) if self.how.heartbeats == Heartbeats::PerGroup => {
                    for (peer, item) in items {
                        self.send(peer, Frame::HeartbeatReplies(vec![item]));
                    }
                }
                ControlInput::Replies(items) => {
                    for (peer, items) in by_node(items.into_iter()) {
                        self.send(peer, Frame::HeartbeatReplies(items));
                    }
                }
                ControlInput::ReadConfirms(items) => {
                    for (peer, items) in by_node(items.into_iter()) {
                        self.send(peer, Frame::ReadConfirms(items));
                    }
                }
                ControlInput::Carry(input) => self.carrier.take(input, &mut self.lanes),
                ControlInput::Ping(answer) => {
                    let _ = answer.send(());
                }
                ControlInput::Stop => {
                    self.inbox.close();
                    self.lanes.close();
                    return Round::Stop;
                }
            }
        }
        self.items = items;
        if self.heartbeats_due.is_some_and(|due| due <= now) {
            self.heartbeats_due = None;
            worked = true;
            if std::mem::take(&mut self.hand_ins) > self.shards.len() {
                keep_newest(&mut self.heartbeats);
            }
            for (peer, items) in by_node(std::mem::take(&mut self.heartbeats).into_iter()) {
                self.beat(peer, items);
            }
        }
        worked |= self.look_at_log(now);
        self.lanes.poll(cx, now, &mut self.events);
        self.note_refusals();
        worked |= !self.events.is_empty();
        // What other clocks showed was told before it came, and this thread may have stood still
        // since it looked: dated by that look they would seem to be ahead by as long, and log time
        // would follow them.
        let heard = if self.events.is_empty() { now } else { clocks().0 };
        while let Some(event) = self.events.pop_front() {
            self.take_lane_event(event, heard);
        }
        worked |= self.carrier.send_waiting(&mut self.lanes);
        if worked {
            self.lanes.flush(cx, now);
            Round::Worked
        } else {
            Round::Idle
        }
    }

    /// Goes to sleep until the inbox has something; `false` if it has already.
    pub(crate) fn sleep(&self, cx: &Context<'_>) -> bool {
        self.inbox.sleep(cx)
    }

    /// When heartbeats leave, if any are gathered, or the log is looked at. The lanes have their
    /// own timer.
    pub(crate) fn next_deadline(&self) -> Micros {
        let look = self.watcher.look_at();
        self.heartbeats_due.map_or(look, |due| due.min(look))
    }

    /// Makes known what is new of the log here; whether anything was.
    fn look_at_log(&mut self, now: Micros) -> bool {
        let Looked { own, word } = self.watcher.look(now);
        if let Some(condition) = own {
            for shard in self.shards.iter() {
                // One that has stopped leads nothing any more.
                let _ = shard.push(ShardInput::Engine(EngineInput::OwnCondition(condition)));
            }
        }
        if let Some(condition) = word {
            for peer in self.up.iter().copied().collect::<Vec<_>>() {
                self.send(peer, Frame::Condition(condition));
            }
        }
        own.is_some() || word.is_some()
    }

    /// Whether all that this node sends goes this way.
    fn carries(&self) -> bool {
        Via::of(self.how.layout) == Via::Control
    }

    /// The lanes, whose deadline the simulator keeps.
    #[cfg(feature = "sim")]
    pub(crate) fn lanes(&self) -> &Lanes {
        &self.lanes
    }

    /// What waits for a lane.
    #[cfg(feature = "sim")]
    pub(crate) fn carrier(&self) -> &Carrier {
        &self.carrier
    }

    /// Frames leave at `gather` after a multiple of the interval, never more often.
    fn next_departure(&self, now: Micros) -> Micros {
        let interval = self.heartbeat_interval.as_micros() as u64;
        let gather = self.gather.as_micros() as u64;
        let since_departure = (now.get() + interval - gather) % interval;
        Micros::new(now.get() + interval - since_departure)
    }

    /// Whatever leaves in a round has the clock before it. So a candidate has the clocks of all
    /// who vote for it, and a leader those of all who answer its heartbeats.
    fn send(&mut self, peer: NodeId, frame: Frame) {
        self.tell_clock(peer);
        if self.lanes.send(peer, frame).is_err() {
            // A lost vote or answer is made good by the next one.
            debug!(%peer, "control lane is down, or full");
        }
    }

    fn tell_clock(&mut self, peer: NodeId) {
        if !self.told.contains(&peer) {
            self.told.push(peer);
            let _ = self.lanes.send(peer, Frame::Clock { wall: self.wall });
        }
    }

    /// Sends heartbeats. Those that the lane has no room for are lost like others, and first the next time.
    fn beat(&mut self, peer: NodeId, mut items: Vec<HeartbeatItem>) {
        let mut batches = Vec::with_capacity(2);
        if let Some(first) = self.beat_from.remove(&peer) {
            batches.push(items.extract_if(.., |item| item.group >= first).collect());
        }
        batches.push(items);
        self.tell_clock(peer);
        for batch in batches {
            match self.lanes.send(peer, Frame::Heartbeats(batch)) {
                Ok(()) => {}
                Err(Frame::Heartbeats(rest)) => {
                    // Sorted by group, if some of them went.
                    let first = rest.iter().map(|item| item.group).min();
                    self.beat_from.extend(first.map(|first| (peer, first)));
                    debug!(%peer, left = rest.len(), "control lane is down, or full");
                    return;
                }
                Err(_) => return,
            }
        }
    }

    fn note_refusals(&mut self) {
        let version = self.lanes.refusals_version();
        if std::mem::replace(&mut self.refusals, version) != version {
            for (peer, refusal) in self.lanes.refusals() {
                self.contacts.set_refusal(peer, refusal);
            }
        }
    }

    fn take_lane_event(&mut self, event: LaneEvent, now: Micros) {
        let (connection, from, from_incarnation, bytes, frame) = match event {
            LaneEvent::Frame { connection, from, from_incarnation, bytes, frame } => {
                (connection, from, from_incarnation, bytes, frame)
            }
            LaneEvent::Up { peer, connection, .. } => {
                // Whoever greets here is heard by what it says, once it has shown who it is.
                if connection.direction() == Direction::Outgoing {
                    info!(%peer, "the peer is reached");
                    self.up.insert(peer);
                    if self.carries() {
                        self.carrier.lane_up(peer);
                    }
                    self.contacts.set_connected(peer, true, now);
                }
                return;
            }
            LaneEvent::Down { peer, connection, reason } => {
                if connection.direction() == Direction::Outgoing {
                    info!(%peer, %reason, "the peer is not reached any more");
                    self.up.remove(&peer);
                    if self.carries() {
                        self.carrier.lane_down(peer);
                    }
                    self.contacts.set_connected(peer, false, now);
                }
                return;
            }
        };
        self.contacts.heard(from, now);
        let route = Route::Control;
        let clock = self.clocks.get(&from).copied();
        let source = Source { node: from, incarnation: from_incarnation, route, clock };
        let shards = self.shards.len();
        match frame {
            Frame::Message(envelope) if is_carried(&envelope.message) => {
                self.carrier.take_message(connection, (from, from_incarnation), envelope);
            }
            Frame::Message(envelope) => {
                let to = shard_of(envelope.group, shards);
                self.pass(to, EngineInput::Message(source, envelope));
            }
            Frame::Heartbeats(items) | Frame::ReadConfirms(items) => {
                for (to, items) in split(items, |item| shard_of(item.group, shards)) {
                    self.pass(to, EngineInput::Heartbeats(source, items));
                }
            }
            Frame::HeartbeatReplies(items) => {
                for (to, items) in split(items, |item| shard_of(item.group, shards)) {
                    self.pass(to, EngineInput::HeartbeatReplies(source, items));
                }
            }
            Frame::Clock { wall } => {
                self.clocks.insert(from, Told { wall, heard: now });
            }
            Frame::Condition(condition) => {
                for to in 0..shards {
                    self.pass(to, EngineInput::PeerCondition(from, condition, now));
                }
            }
            Frame::SnapshotPull(pull) => self.carrier.take_pull(connection, pull),
            Frame::SnapshotChunk(chunk) => self.carrier.take_chunk(from, chunk),
            // No protocol of ours has these.
            Frame::User(_) | Frame::UserItems(_) => {}
            Frame::Chunk(_)
            | Frame::Grant { .. }
            | Frame::Credit { .. }
            | Frame::Ping { .. }
            | Frame::Pong { .. } => {}
        }
        self.lanes.consumed(connection, bytes);
    }

    fn pass(&self, to: usize, input: EngineInput) {
        // What a shard that stands still does not hear, its peers say again.
        let _ = self.shards[to].push_within(ShardInput::Engine(input), UNHEARD_MAX);
    }
}

/// The control plane on its thread: the rounds, and the sleep between them.
pub(crate) struct ControlTask {
    control: Control,
    clock: Clock,
    sleep: Pin<Box<Sleep>>,
    sleep_until: Option<Micros>,
}

impl ControlTask {
    /// To be called on the control plane's own runtime: its timer lives there.
    pub(crate) fn new(control: Control, clock: Clock) -> Self {
        let sleep = Box::pin(tokio::time::sleep(Duration::ZERO));
        Self { control, clock, sleep, sleep_until: None }
    }
}

impl Future for ControlTask {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let task = &mut *self;
        loop {
            match task.control.round(cx, || (task.clock.now(), Clock::wall())) {
                Round::Stop => return Poll::Ready(()),
                Round::Worked => {}
                Round::Idle if task.control.sleep(cx) => break,
                Round::Idle => {}
            }
        }
        let deadline = task.control.next_deadline();
        if task.sleep_until != Some(deadline) {
            task.sleep.as_mut().reset(task.clock.instant(deadline));
        }
        task.sleep_until = Some(deadline);
        if task.sleep.as_mut().poll(cx).is_ready() {
            task.sleep_until = None;
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

/// A shard that was late has handed in twice before one departure: what it said last counts. Said
/// from replica to replica, in one life of a group: a node can hold two of a group's replicas in
/// turn, and both are to be told.
fn keep_newest(heartbeats: &mut Vec<(NodeId, HeartbeatItem)>) {
    let mut seen = HashSet::with_capacity(heartbeats.len());
    heartbeats.reverse();
    heartbeats.retain(|(peer, item)| {
        seen.insert((*peer, item.group, item.group_incarnation, item.from, item.to))
    });
    heartbeats.reverse();
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::task::Waker;

    use raft_core::{
        GroupIncarnation, Heartbeat, HeartbeatReply, Incarnation, LogIndex, ReplicaId, Rest, Term,
    };
    use raft_transport::{Identity, Lane, LaneConfig, LaneCounters, MemoryHub};

    use super::*;
    use crate::node::log_watch::LogWatch;
    use crate::node::starting::registry;

    /// What the control lanes of one of two nodes are made of.
    fn lanes(hub: &MemoryHub, [node, peer]: [NodeId; 2]) -> Lanes {
        let identity = Identity {
            cluster: "test".to_owned(),
            node,
            store: u128::from(node.get()),
            incarnation: Incarnation::new(1),
            life: u128::from(node.get()),
            past: Vec::new(),
            shards: 1,
            features: 0,
        };
        let registry = registry(identity, &[(peer, "")], &[], |_, _| {});
        let (network, counters) = (Arc::new(hub.node(node, &[Lane::Control])), Arc::default());
        let counters: Arc<LaneCounters> = counters;
        Lanes::new(network, registry, Lane::Control, LaneConfig::default(), counters)
            .without_timer()
    }

    /// A thread may look at its clock and then stand still while peers go on telling theirs. If
    /// what they told later were dated by that look, their clocks would seem to be ahead.
    #[test]
    fn a_clock_that_is_told_while_the_thread_stands_still_is_dated_by_a_look_after_that() {
        let [here, there] = [1, 2].map(NodeId::new);
        let hub = MemoryHub::new();
        let (ours, mut theirs) = (lanes(&hub, [here, there]), lanes(&hub, [there, here]));
        let shards: Arc<[Arc<Inbox<ShardInput>>]> = vec![Arc::default()].into();
        let interval = Duration::from_millis(100);
        let watch = Arc::new(LogWatch::new(Duration::from_secs(2)));
        let watcher = LogWatcher::new(watch, Arc::default(), interval);
        let how = Speech {
            layout: LaneLayout::default(),
            heartbeats: Heartbeats::Batched,
            heartbeat_interval: interval,
        };
        let (desk, contacts) = (crossbeam::channel::unbounded().0, Arc::default());
        let mut control = Control::new(Arc::default(), shards, desk, ours, contacts, how, watcher);
        let cx = &mut Context::from_waker(Waker::noop());
        let (looked, late) = (Micros::new(10), Micros::new(800_000));
        let mut events = VecDeque::new();
        for _ in 0..10 {
            theirs.poll(cx, Micros::new(1), &mut events);
            control.round(cx, || (Micros::new(1), LogTime::default()));
        }
        assert!(theirs.is_up(here));
        let (wall, looks) = (LogTime::new(7_000), Cell::new(0));
        let theirs = RefCell::new(theirs);
        control.round(cx, || {
            looks.set(looks.get() + 1);
            if looks.get() > 1 {
                return (late, LogTime::default());
            }
            // It comes while the thread stands still after its first look.
            let mut theirs = theirs.borrow_mut();
            assert!(theirs.send(here, Frame::Clock { wall }).is_ok());
            theirs.flush(&mut Context::from_waker(Waker::noop()), looked);
            (looked, LogTime::default())
        });
        assert_eq!(control.clocks.get(&there), Some(&Told { wall, heard: late }));
    }

    /// What a peer's lanes bring when this node hands in beats and answers, frame by frame.
    fn said(heartbeats: Heartbeats) -> Vec<Frame> {
        let [here, there] = [1, 2].map(NodeId::new);
        let hub = MemoryHub::new();
        let (ours, mut theirs) = (lanes(&hub, [here, there]), lanes(&hub, [there, here]));
        let interval = Duration::from_millis(100);
        let watch = Arc::new(LogWatch::new(Duration::from_secs(2)));
        let watcher = LogWatcher::new(watch, Arc::default(), interval);
        let how =
            Speech { layout: LaneLayout::default(), heartbeats, heartbeat_interval: interval };
        let inbox: Arc<Inbox<ControlInput>> = Arc::default();
        let (shards, desk) = (vec![Arc::default()].into(), crossbeam::channel::unbounded().0);
        let (to_control, contacts) = (Arc::clone(&inbox), Arc::default());
        let mut control = Control::new(to_control, shards, desk, ours, contacts, how, watcher);
        let cx = &mut Context::from_waker(Waker::noop());
        let mut events = VecDeque::new();
        let mut turn = |now: u64, events: &mut VecDeque<LaneEvent>| {
            control.round(cx, || (Micros::new(now), LogTime::default()));
            theirs.poll(cx, Micros::new(now), events);
            theirs.flush(cx, Micros::new(now));
        };
        (0..10).for_each(|_| turn(1, &mut events));
        // Of groups that are well, stale and not known there: nobody looks at that here.
        let beats = (1..=40).map(|group| beat(2, group, u64::from(group % 3))).collect();
        let _ = inbox.push(ControlInput::Heartbeats(beats));
        let answer = |group: u32| {
            let (_, item) = beat(2, group, 0);
            let reply = HeartbeatReply { term: Term::new(1), read_seq: 0, sent: Micros::ZERO };
            let HeartbeatItem { group, group_incarnation, from, to, .. } = item;
            (there, HeartbeatReplyItem { group, group_incarnation, from, to, reply })
        };
        let _ = inbox.push(ControlInput::Replies((1..=40).map(answer).collect()));
        (0..10).for_each(|turn_of| turn(200_000 + turn_of, &mut events));
        (0..10).for_each(|turn_of| turn(400_000 + turn_of, &mut events));
        let frame = |event| match event {
            LaneEvent::Frame { frame, .. } => Some(frame),
            LaneEvent::Up { .. } | LaneEvent::Down { .. } => None,
        };
        events.into_iter().filter_map(frame).collect()
    }

    /// One schedule, both ways: the same words come for each group, and cores see nothing else.
    #[test]
    fn beats_one_by_one_say_what_batches_say() {
        let items = |frames: &[Frame]| {
            let beats = frames.iter().flat_map(|frame| match frame {
                Frame::Heartbeats(items) => items.clone(),
                _ => Vec::new(),
            });
            let answers = frames.iter().flat_map(|frame| match frame {
                Frame::HeartbeatReplies(items) => items.clone(),
                _ => Vec::new(),
            });
            (beats.collect::<Vec<_>>(), answers.collect::<Vec<_>>())
        };
        let (batched, alone) = (said(Heartbeats::Batched), said(Heartbeats::PerGroup));
        assert_eq!(items(&batched), items(&alone));
        assert_eq!(items(&alone).0.len(), 40);
        let count = |frames: &[Frame]| {
            let beats = |frame: &&Frame| matches!(frame, Frame::Heartbeats(_));
            frames.iter().filter(beats).count()
        };
        assert_eq!((count(&batched), count(&alone)), (1, 40));
    }

    fn beat(peer: u64, group: u32, read_seq: u64) -> (NodeId, HeartbeatItem) {
        let item = HeartbeatItem {
            group: GroupId::new(group),
            group_incarnation: GroupIncarnation::new(1),
            from: ReplicaId::new(1),
            to: ReplicaId::new(10 + peer),
            heartbeat: Heartbeat {
                term: Term::new(1),
                commit: LogIndex::ZERO,
                quorum_durable: LogIndex::ZERO,
                read_seq,
                sent: Micros::ZERO,
                rest: Rest::Awake,
            },
        };
        (NodeId::new(peer), item)
    }

    #[test]
    fn of_two_beats_to_a_replica_the_newer_one_leaves() {
        let mut beats = vec![beat(2, 7, 1), beat(3, 7, 1), beat(2, 8, 1), beat(2, 7, 2)];
        keep_newest(&mut beats);
        assert_eq!(beats, vec![beat(3, 7, 1), beat(2, 8, 1), beat(2, 7, 2)]);

        // Node 2 holds two replicas of the group, one in the other's place; and the group was
        // made anew. None of these speaks for another.
        let (mut replaced, mut anew) = (beat(2, 7, 3), beat(2, 7, 4));
        replaced.1.to = ReplicaId::new(22);
        anew.1.group_incarnation = GroupIncarnation::new(2);
        let mut beats = vec![beat(2, 7, 1), replaced, beat(2, 7, 2), anew];
        keep_newest(&mut beats);
        assert_eq!(beats, vec![replaced, beat(2, 7, 2), anew]);
    }
}
