//! The bulk lane, on a thread of its own: copying many megabytes delays neither a heartbeat nor
//! a shard.
//!
//! Shards hand in appends too large for the data lane, never more than their allowance per peer;
//! the allowance comes back when the lane has taken the bytes. So what waits here is bounded by
//! shards times peers times the allowance.
//!
//! [`Bulk`] takes its time as an argument, so that a simulator turns the same code; [`BulkTask`]
//! adds the clock.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use crossbeam::channel::Sender;
use raft_core::{Micros, NodeId};
use raft_transport::{ConnectionId, Direction, Envelope, Frame, LaneEvent, Lanes};

use super::clock::Clock;
use super::inbox::Inbox;
use super::shard_thread::{Round, ShardInput, shard_of};
use crate::engine::{EngineInput, Route, SendLane, Source};
use crate::snapshot::desk::DeskInput;

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
    /// A frame of the snapshot desk.
    Ask(NodeId, Frame),
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

pub(crate) struct Bulk {
    inbox: Arc<Inbox<BulkInput>>,
    shards: Arc<[Arc<Inbox<ShardInput>>]>,
    desk: Sender<DeskInput>,
    lanes: Lanes,
    waiting: Vec<(NodeId, VecDeque<Waiting>)>,
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
            waiting: Vec::new(),
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
                    match self.waiting.iter_mut().find(|(p, _)| *p == peer) {
                        Some((_, queue)) => queue.push_back(waiting),
                        None => self.waiting.push((peer, [waiting].into())),
                    }
                }
                BulkInput::Ask(peer, frame) => {
                    // Without a lane it is asked again when there is one.
                    if self.lanes.send(peer, frame).is_err() {
                        let _ = self.desk.send(DeskInput::LaneDown(peer));
                    }
                }
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

    /// Appends that wait for a lane.
    #[cfg(feature = "sim")]
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.iter().map(|(_, queue)| queue.len()).sum()
    }

    /// A peer for whose lane some wait.
    #[cfg(feature = "sim")]
    pub(crate) fn waits_for(&self) -> Option<NodeId> {
        let waited = self.waiting.iter().find(|(_, queue)| !queue.is_empty());
        waited.map(|(peer, _)| *peer)
    }

    fn send_waiting(&mut self) -> bool {
        let mut worked = false;
        for (peer, queue) in &mut self.waiting {
            if !queue.is_empty() && !self.lanes.is_up(*peer) {
                // Whoever waits for a lane that is not there must probe again.
                queue.clear();
                for shard in self.shards.iter() {
                    let input = EngineInput::LaneDown(*peer, SendLane::Bulk);
                    let _ = shard.push(ShardInput::Engine(input));
                }
                continue;
            }
            while !queue.is_empty() && self.lanes.budget(*peer) > 0 {
                let Some(Waiting { shard, envelope, bytes }) = queue.pop_front() else {
                    break;
                };
                worked = true;
                let _ = self.lanes.send(*peer, Frame::Message(envelope));
                let input = EngineInput::BulkSent(*peer, bytes);
                let _ = self.shards[shard].push(ShardInput::Engine(input));
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
                    if let Some((_, queue)) = self.waiting.iter_mut().find(|(p, _)| *p == peer) {
                        queue.clear();
                    }
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
                    | Frame::Credit { .. }
                    | Frame::Ping { .. }
                    | Frame::Pong { .. } => {}
                }
                self.lanes.consumed(connection, bytes);
            }
        }
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
