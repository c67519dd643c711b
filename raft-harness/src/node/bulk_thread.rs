//! The bulk lane, on a thread of its own: copying many megabytes delays neither a heartbeat nor
//! a shard.
//!
//! Shards hand in appends too large for the data lane, never more than their allowance per peer;
//! the allowance comes back when the lane has taken the bytes. So what waits here is bounded by
//! shards times peers times the allowance. The snapshot desk's questions wait for room as well:
//! ahead of the appends, as they are small, and [`QUESTIONS_MAX`] of them per peer.
//!
//! [`Bulk`] takes its time as an argument, so that a simulator turns the same code; [`BulkTask`]
//! adds the clock.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use crossbeam::channel::Sender;
use raft_core::{GroupId, Micros, NodeId};
use raft_transport::{ConnectionId, Direction, Envelope, Frame, LaneEvent, Lanes, SnapshotPull};

use super::clock::Clock;
use super::inbox::Inbox;
use super::shard_thread::{Round, ShardInput, shard_of};
use crate::engine::{EngineInput, Route, SendLane, Source};
use crate::snapshot::desk::DeskInput;

/// Questions that wait for a lane of one peer. A desk has fewer of them open; more are of fetches
/// that it gave up meanwhile.
const QUESTIONS_MAX: usize = 1024;

/// What shards send the bulk lane.
pub(crate) enum BulkInput {
    /// An append of so many bytes.
    Send {
        /// Who asks.
        shard: usize,
        /// To whom it goes.
        peer: NodeId,
        /// What.
        envelope: Envelope,
        /// What it counts for against the shard's allowance.
        bytes: u64,
    },
    /// A question of the snapshot desk.
    Ask(NodeId, SnapshotPull),
    /// What is left of a group's appends is not needed any more.
    GiveUp(GroupId),
    /// An answer on the connection the question came by.
    Reply(ConnectionId, Frame),
    /// Say that this thread turns.
    Ping(Sender<()>),
    /// End.
    Stop,
}

struct Waiting {
    shard: usize,
    envelope: Envelope,
    bytes: u64,
}

/// What waits for the lane of one peer to have room.
#[derive(Default)]
struct Queue {
    questions: VecDeque<SnapshotPull>,
    appends: VecDeque<Waiting>,
}

pub(crate) struct Bulk {
    inbox: Arc<Inbox<BulkInput>>,
    shards: Arc<[Arc<Inbox<ShardInput>>]>,
    desk: Sender<DeskInput>,
    lanes: Lanes,
    waiting: BTreeMap<NodeId, Queue>,
    /// Whether a question found a lane full.
    #[cfg(feature = "sim")]
    question_held: bool,
    items: Vec<BulkInput>,
    events: VecDeque<LaneEvent>,
}

impl Bulk {
    pub(crate) fn new(
        inbox: Arc<Inbox<BulkInput>>,
        shards: Arc<[Arc<Inbox<ShardInput>>]>,
        desk: Sender<DeskInput>,
        lanes: Lanes,
    ) -> Self {
        Self {
            inbox,
            shards,
            desk,
            lanes,
            waiting: BTreeMap::new(),
            #[cfg(feature = "sim")]
            question_held: false,
            items: Vec::new(),
            events: VecDeque::new(),
        }
    }

    /// Takes what is there and hands on what follows.
    pub(crate) fn round(&mut self, cx: &mut Context<'_>, now: Micros) -> Round {
        let mut worked = false;
        let mut items = std::mem::take(&mut self.items);
        self.inbox.drain(&mut items);
        worked |= !items.is_empty();
        for item in items.drain(..) {
            match item {
                BulkInput::Send { shard, peer, envelope, bytes } => {
                    let waiting = Waiting { shard, envelope, bytes };
                    self.waiting.entry(peer).or_default().appends.push_back(waiting);
                }
                BulkInput::Ask(peer, pull) => {
                    self.waiting.entry(peer).or_default().add_question(pull);
                }
                BulkInput::GiveUp(group) => self.give_up(group),
                BulkInput::Reply(connection, frame) => self.lanes.reply(connection, frame),
                BulkInput::Ping(answer) => {
                    let _ = answer.send(());
                }
                BulkInput::Stop => {
                    self.inbox.close();
                    self.lanes.close();
                    return Round::Stop;
                }
            }
        }
        self.items = items;
        self.lanes.poll(cx, now, &mut self.events);
        worked |= !self.events.is_empty();
        while let Some(event) = self.events.pop_front() {
            self.take_lane_event(event);
        }
        worked |= self.send_waiting();
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

    /// The lanes, whose deadline the simulator keeps.
    #[cfg(feature = "sim")]
    pub(crate) fn lanes(&self) -> &Lanes {
        &self.lanes
    }

    /// Appends and questions that wait for a lane.
    #[cfg(feature = "sim")]
    pub(crate) fn waiting(&self) -> usize {
        let queues = self.waiting.values();
        queues.map(|queue| queue.appends.len() + queue.questions.len()).sum()
    }

    /// Whether a question of the desk has ever waited for room on a lane that is up.
    #[cfg(feature = "sim")]
    pub(crate) fn has_held_a_question(&self) -> bool {
        self.question_held
    }

    /// A peer for whose lane appends wait.
    #[cfg(feature = "sim")]
    pub(crate) fn waits_for(&self) -> Option<NodeId> {
        let waited = self.waiting.iter().find(|(_, queue)| !queue.appends.is_empty());
        waited.map(|(peer, _)| *peer)
    }

    fn give_up(&mut self, group: GroupId) {
        for (peer, queue) in &mut self.waiting {
            self.lanes.abandon(*peer, group);
            let appends = std::mem::take(&mut queue.appends).into_iter();
            let (given_up, kept): (VecDeque<_>, VecDeque<_>) =
                appends.partition(|append| append.envelope.group == group);
            queue.appends = kept;
            for given_up in given_up {
                let input = EngineInput::BulkSent(*peer, given_up.bytes);
                let _ = self.shards[given_up.shard].push(ShardInput::Engine(input));
            }
        }
    }

    fn send_waiting(&mut self) -> bool {
        let mut worked = false;
        for (peer, queue) in &mut self.waiting {
            if !self.lanes.is_up(*peer) {
                // What waits for a lane that is not there is asked again when there is one, and
                // whoever sent something must probe again.
                if !std::mem::take(&mut queue.questions).is_empty() {
                    let _ = self.desk.send(DeskInput::LaneDown(*peer));
                }
                if !std::mem::take(&mut queue.appends).is_empty() {
                    for shard in self.shards.iter() {
                        let input = EngineInput::LaneDown(*peer, SendLane::Bulk);
                        let _ = shard.push(ShardInput::Engine(input));
                    }
                }
                continue;
            }
            while self.lanes.room(*peer).bytes > 0 {
                if let Some(pull) = queue.questions.pop_front() {
                    worked = true;
                    let _ = self.lanes.send(*peer, Frame::SnapshotPull(pull));
                    continue;
                }
                if !self.lanes.room(*peer).takes_long {
                    break;
                }
                let Some(Waiting { shard, envelope, bytes }) = queue.appends.pop_front() else {
                    break;
                };
                worked = true;
                let _ = self.lanes.send(*peer, Frame::Message(envelope));
                let input = EngineInput::BulkSent(*peer, bytes);
                let _ = self.shards[shard].push(ShardInput::Engine(input));
            }
            #[cfg(feature = "sim")]
            {
                self.question_held |= !queue.questions.is_empty();
            }
        }
        worked
    }

    fn take_lane_event(&mut self, event: LaneEvent) {
        match event {
            LaneEvent::Up { peer, connection, .. } => {
                if connection.direction() == Direction::Outgoing {
                    let _ = self.desk.send(DeskInput::LaneUp(peer));
                    for shard in self.shards.iter() {
                        let input = EngineInput::LaneUp(peer, SendLane::Bulk);
                        let _ = shard.push(ShardInput::Engine(input));
                    }
                }
            }
            LaneEvent::Down { peer, connection, .. } => {
                if connection.direction() == Direction::Outgoing {
                    self.waiting.remove(&peer);
                    let _ = self.desk.send(DeskInput::LaneDown(peer));
                    for shard in self.shards.iter() {
                        let input = EngineInput::LaneDown(peer, SendLane::Bulk);
                        let _ = shard.push(ShardInput::Engine(input));
                    }
                }
            }
            LaneEvent::Frame { connection, from, from_incarnation, bytes, frame } => {
                match frame {
                    Frame::Message(envelope) => {
                        let route = Route::Bulk { connection };
                        let source = Source {
                            node: from,
                            incarnation: from_incarnation,
                            route,
                            clock: None,
                        };
                        let to = shard_of(envelope.group, self.shards.len());
                        let input = EngineInput::Message(source, envelope);
                        let _ = self.shards[to].push(ShardInput::Engine(input));
                    }
                    Frame::SnapshotPull(pull) => {
                        let _ = self.desk.send(DeskInput::Pull(connection, pull));
                    }
                    Frame::SnapshotChunk(chunk) => {
                        let _ = self.desk.send(DeskInput::Chunk(from, chunk));
                    }
                    // No node sends these here.
                    Frame::Heartbeats(_)
                    | Frame::ReadConfirms(_)
                    | Frame::HeartbeatReplies(_)
                    | Frame::Clock { .. }
                    | Frame::Condition(_)
                    | Frame::User(_)
                    | Frame::UserItems(_)
                    | Frame::Chunk(_)
                    | Frame::Grant { .. }
                    | Frame::Credit { .. }
                    | Frame::Ping { .. }
                    | Frame::Pong { .. } => {}
                }
                self.lanes.consumed(connection, bytes);
            }
        }
    }
}

impl Queue {
    /// One that waits already is not asked twice. Of too many the oldest goes: nobody waits for
    /// it any more, or it is asked again.
    fn add_question(&mut self, pull: SnapshotPull) {
        if self.questions.contains(&pull) {
            return;
        }
        if self.questions.len() >= QUESTIONS_MAX {
            self.questions.pop_front();
        }
        self.questions.push_back(pull);
    }
}

/// The bulk lane on its thread.
pub(crate) struct BulkTask {
    bulk: Bulk,
    clock: Clock,
}

impl BulkTask {
    pub(crate) fn new(bulk: Bulk, clock: Clock) -> Self {
        Self { bulk, clock }
    }
}

impl Future for BulkTask {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let task = &mut *self;
        loop {
            match task.bulk.round(cx, task.clock.now()) {
                Round::Stop => return Poll::Ready(()),
                Round::Worked => {}
                Round::Idle if task.bulk.sleep(cx) => return Poll::Pending,
                Round::Idle => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use crossbeam::channel::{Receiver, unbounded};
    use raft_core::{
        GroupId, GroupIncarnation, Incarnation, LogIndex, Message, ReadIndex, ReplicaId, Term,
    };
    use raft_transport::{Identity, Lane, LaneConfig, MemoryHub};

    use super::super::starting::registry;
    use super::*;

    const NODES: [NodeId; 2] = [NodeId::new(1), NodeId::new(2)];

    /// The bulk thread of node 1 and the bulk lanes of node 2, which takes one frame at a time.
    struct Pair {
        hub: MemoryHub,
        bulk: Bulk,
        desk: Receiver<DeskInput>,
        peer: Lanes,
        events: VecDeque<LaneEvent>,
        now: Micros,
    }

    impl Pair {
        fn new() -> Self {
            let hub = MemoryHub::new();
            let (to_desk, desk) = unbounded();
            let [ours, peer] = [0, 1].map(|at| lanes(&hub, at));
            let bulk = Bulk::new(Arc::default(), vec![Arc::default()].into(), to_desk, ours);
            let (events, now) = (VecDeque::new(), Micros::new(1));
            let mut pair = Self { hub, bulk, desk, peer, events, now };
            pair.turn();
            assert!(matches!(pair.desk.try_recv(), Ok(DeskInput::LaneUp(_))));
            pair
        }

        /// Both sides, until nothing more happens.
        fn turn(&mut self) {
            let cx = &mut Context::from_waker(Waker::noop());
            for _ in 0..20 {
                self.bulk.round(cx, self.now);
                self.peer.poll(cx, self.now, &mut self.events);
                self.peer.flush(cx, self.now);
            }
        }

        fn ask(&mut self, offset: u64) {
            let _ = self.bulk.inbox.push(BulkInput::Ask(NODES[1], pull(offset)));
            self.turn();
        }

        /// What node 2 was sent and is not done with: questions by their offsets, and appends.
        fn sent(&self) -> Vec<Option<u64>> {
            let frames = self.events.iter().filter_map(|event| match event {
                LaneEvent::Frame { frame: Frame::SnapshotPull(pull), .. } => {
                    Some(Some(pull.offset))
                }
                LaneEvent::Frame { .. } => Some(None),
                LaneEvent::Up { .. } | LaneEvent::Down { .. } => None,
            });
            frames.collect()
        }

        /// Node 2 is done with what came: there is room again.
        fn consume(&mut self) {
            for event in std::mem::take(&mut self.events) {
                if let LaneEvent::Frame { connection, bytes, .. } = event {
                    self.peer.consumed(connection, bytes);
                }
            }
            self.turn();
        }
    }

    fn lanes(hub: &MemoryHub, at: usize) -> Lanes {
        let identity = Identity {
            cluster: "test".to_owned(),
            node: NODES[at],
            store: at as u128 + 1,
            incarnation: Incarnation::new(1),
            life: at as u128 + 1,
            past: Vec::new(),
            shards: 1,
            features: 0,
        };
        let registry = registry(identity, &[(NODES[1 - at], "")], &[], |_, _| {});
        let config = LaneConfig { window_bytes: 1, ..LaneConfig::bulk() };
        let network = Arc::new(hub.node(NODES[at], &[Lane::Bulk]));
        Lanes::new(network, registry, Lane::Bulk, config, Arc::default()).without_timer()
    }

    fn pull(offset: u64) -> SnapshotPull {
        SnapshotPull {
            group: GroupId::new(7),
            group_incarnation: GroupIncarnation::new(1),
            index: LogIndex::new(11),
            term: Term::new(5),
            offset,
        }
    }

    fn append() -> BulkInput {
        let envelope = Envelope {
            group: GroupId::new(8),
            group_incarnation: GroupIncarnation::new(1),
            from: ReplicaId::new(1),
            to: ReplicaId::new(2),
            message: Message::ReadIndex(ReadIndex { term: Term::new(1), id: 1 }),
            entries: Vec::new(),
        };
        BulkInput::Send { shard: 0, peer: NODES[1], envelope, bytes: 1 }
    }

    /// To the desk a lane that is full looked like one that is down, and it waited for it to come
    /// up, which a lane that is up never does.
    #[test]
    fn a_question_waits_for_room_and_goes_before_appends() {
        let mut pair = Pair::new();
        let _ = pair.bulk.inbox.push(append());
        pair.turn();
        let _ = pair.bulk.inbox.push(append());
        pair.ask(0);
        pair.ask(0);
        assert!(pair.desk.try_recv().is_err(), "the lane is full, and not down");
        assert_eq!(pair.sent(), [None]);
        pair.consume();
        assert_eq!(pair.sent(), [Some(0)]);
        pair.consume();
        assert_eq!(pair.sent(), [None]);
        pair.consume();
        assert_eq!(pair.sent(), [], "no question goes a second time");
    }

    #[test]
    fn what_waits_when_a_lane_breaks_is_told_as_lost() {
        let mut pair = Pair::new();
        let _ = pair.bulk.inbox.push(append());
        pair.turn();
        pair.ask(0);
        pair.hub.cut(NODES[0], NODES[1]);
        pair.turn();
        assert!(matches!(pair.desk.try_recv(), Ok(DeskInput::LaneDown(_))));
        assert!(pair.bulk.waiting.is_empty());
        pair.ask(0);
        assert!(matches!(pair.desk.try_recv(), Ok(DeskInput::LaneDown(_))), "there is none");
        pair.hub.heal(NODES[0], NODES[1]);
        pair.now = Micros::new(10_000_000);
        pair.events.clear();
        pair.turn();
        assert!(matches!(pair.desk.try_recv(), Ok(DeskInput::LaneUp(_))));
        assert_eq!(pair.sent(), [], "the desk asks again");
        pair.ask(1);
        assert_eq!(pair.sent(), [Some(1)]);
    }

    #[test]
    fn questions_that_nobody_takes_are_bounded() {
        let mut queue = Queue::default();
        (0..5000).for_each(|offset| queue.add_question(pull(offset)));
        assert_eq!(queue.questions.len(), QUESTIONS_MAX);
        assert_eq!(queue.questions.back(), Some(&pull(4999)), "the newest is kept");
    }
}
