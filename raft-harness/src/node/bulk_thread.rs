//! The bulk lane, on a thread of its own: copying many megabytes delays neither a heartbeat nor
//! a shard.
//!
//! [`Bulk`] takes its time as an argument, so that a simulator turns the same code; [`BulkTask`]
//! adds the clock.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use crossbeam::channel::Sender;
use raft_core::Micros;
use raft_transport::{Direction, Frame, LaneEvent, Lanes};

use super::carrier::{Carrier, CarrierInput};
use super::clock::Clock;
use super::inbox::Inbox;
use super::shard_thread::{Round, ShardInput};
use crate::engine::Via;
use crate::snapshot::desk::DeskInput;

/// What others send the bulk lane.
pub(crate) enum BulkInput {
    /// What it carries, or answers.
    Carry(CarrierInput),
    /// Say that this thread turns.
    Ping(Sender<()>),
    /// End.
    Stop,
}

pub(crate) struct Bulk {
    inbox: Arc<Inbox<BulkInput>>,
    lanes: Lanes,
    carrier: Carrier,
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
        let carrier = Carrier::new(Via::Bulk, shards, desk);
        Self { inbox, lanes, carrier, items: Vec::new(), events: VecDeque::new() }
    }

    /// Takes what is there and hands on what follows.
    pub(crate) fn round(&mut self, cx: &mut Context<'_>, now: Micros) -> Round {
        let mut worked = false;
        let mut items = std::mem::take(&mut self.items);
        self.inbox.drain(&mut items);
        worked |= !items.is_empty();
        for item in items.drain(..) {
            match item {
                BulkInput::Carry(input) => self.carrier.take(input, &mut self.lanes),
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

    fn take_lane_event(&mut self, event: LaneEvent) {
        match event {
            LaneEvent::Up { peer, connection, .. } => {
                if connection.direction() == Direction::Outgoing {
                    self.carrier.lane_up(peer);
                }
            }
            LaneEvent::Down { peer, connection, .. } => {
                if connection.direction() == Direction::Outgoing {
                    self.carrier.lane_down(peer);
                }
            }
            LaneEvent::Frame { connection, from, from_incarnation, bytes, frame } => {
                match frame {
                    Frame::Message(envelope) => {
                        self.carrier.take_message(connection, (from, from_incarnation), envelope);
                    }
                    Frame::SnapshotPull(pull) => self.carrier.take_pull(connection, pull),
                    Frame::SnapshotChunk(chunk) => self.carrier.take_chunk(from, chunk),
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
