//! What a lane carries for all shards: appends, questions of the snapshot desk and their answers.
//!
//! The bulk thread has one, and so has the control thread, since a peer of one lane sends all it
//! has on the control lane. Each takes what comes on its lane; what this node sends goes to the
//! one that its layout names ([`Carriers::give`]).
//!
//! Shards hand in appends, never more than their allowance per peer; the allowance comes back
//! when the lane has taken the bytes. So what waits here is bounded by shards times peers times
//! the allowance. Short appends pass long ones of other groups while the lane takes nothing long,
//! and take turns with them while it does. The desk's questions go ahead of both, as they are
//! small, and [`QUESTIONS_MAX`] of them per peer.
//!
//! Invariant: appends of a group leave in the order in which they came.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crossbeam::channel::Sender;
use raft_core::{GroupId, Incarnation, Message, NodeId};
use raft_transport::{ConnectionId, Envelope, Frame, LaneLayout, Lanes, Room, SnapshotPull};

use super::bulk_thread::BulkInput;
use super::control_thread::ControlInput;
use super::inbox::Inbox;
use super::shard_thread::{ShardInput, shard_of};
use crate::engine::{CarrierConnection, EngineInput, Route, SendLane, Source, Via};
use crate::snapshot::desk::DeskInput;

/// Questions that wait for a lane of one peer. A desk has fewer of them open; more are of fetches
/// that it gave up meanwhile.
const QUESTIONS_MAX: usize = 1024;

/// What shards and the desk send a carrier.
pub(crate) enum CarrierInput {
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
}

/// The ways to a node's carriers.
#[derive(Clone, Default)]
pub(crate) struct Carriers {
    pub(crate) control: Arc<Inbox<ControlInput>>,
    pub(crate) bulk: Arc<Inbox<BulkInput>>,
    pub(crate) layout: LaneLayout,
}

impl Carriers {
    /// What this node sends. A carrier that has stopped needs nothing any more.
    pub(crate) fn give(&self, input: CarrierInput) {
        self.push(Via::of(self.layout), input);
    }

    /// An answer, by the way its question came.
    pub(crate) fn reply(&self, to: CarrierConnection, frame: Frame) {
        self.push(to.via, CarrierInput::Reply(to.connection, frame));
    }

    fn push(&self, via: Via, input: CarrierInput) {
        match via {
            Via::Control => drop(self.control.push(ControlInput::Carry(input))),
            Via::Bulk => drop(self.bulk.push(BulkInput::Carry(input))),
        }
    }
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
    short: VecDeque<Waiting>,
    /// The others, and short ones that follow one of these in their group.
    long: VecDeque<Waiting>,
    /// How many of a group are among the long ones, and among the short ones.
    held: BTreeMap<GroupId, usize>,
    short_of: BTreeMap<GroupId, usize>,
    /// Whether a short one went last.
    was_short: bool,
}

/// The work of one lane for all shards.
pub(crate) struct Carrier {
    via: Via,
    shards: Arc<[Arc<Inbox<ShardInput>>]>,
    desk: Sender<DeskInput>,
    waiting: BTreeMap<NodeId, Queue>,
    /// Whether a question found a lane full.
    #[cfg(feature = "sim")]
    question_held: bool,
}

impl Carrier {
    pub(crate) fn new(
        via: Via,
        shards: Arc<[Arc<Inbox<ShardInput>>]>,
        desk: Sender<DeskInput>,
    ) -> Self {
        Self {
            via,
            shards,
            desk,
            waiting: BTreeMap::new(),
            #[cfg(feature = "sim")]
            question_held: false,
        }
    }

    /// Takes what a shard or the desk hands in.
    pub(crate) fn take(&mut self, input: CarrierInput, lanes: &mut Lanes) {
        match input {
            CarrierInput::Send { shard, peer, envelope, bytes } => {
                let short_max = lanes.room(peer).short_max;
                let waiting = Waiting { shard, envelope, bytes };
                self.waiting.entry(peer).or_default().add_append(waiting, short_max);
            }
            CarrierInput::Ask(peer, pull) => {
                self.waiting.entry(peer).or_default().add_question(pull);
            }
            CarrierInput::GiveUp(group) => self.give_up(group, lanes),
            CarrierInput::Reply(connection, frame) => lanes.reply(connection, frame),
        }
    }

    /// Appends and questions that wait for a lane.
    #[cfg(feature = "sim")]
    pub(crate) fn waiting(&self) -> usize {
        let queues = self.waiting.values();
        queues.map(|queue| queue.appends() + queue.questions.len()).sum()
    }

    /// Whether a question of the desk has ever waited for room on a lane that is up.
    #[cfg(feature = "sim")]
    pub(crate) fn has_held_a_question(&self) -> bool {
        self.question_held
    }

    /// A peer for whose lane appends wait.
    #[cfg(feature = "sim")]
    pub(crate) fn waits_for(&self) -> Option<NodeId> {
        let waited = self.waiting.iter().find(|(_, queue)| queue.appends() > 0);
        waited.map(|(peer, _)| *peer)
    }

    fn give_up(&mut self, group: GroupId, lanes: &mut Lanes) {
        for (peer, queue) in &mut self.waiting {
            lanes.abandon(*peer, group);
            for given_up in queue.give_up(group) {
                let input = EngineInput::BulkSent(*peer, given_up.bytes);
                let _ = self.shards[given_up.shard].push(ShardInput::Engine(input));
            }
        }
    }

    /// Hands the lanes as much as they have room for. Returns whether anything was.
    pub(crate) fn send_waiting(&mut self, lanes: &mut Lanes) -> bool {
        let mut worked = false;
        for (peer, queue) in &mut self.waiting {
            if !lanes.is_up(*peer) {
                // What waits for a lane that is not there is asked again when there is one, and
                // whoever sent something must probe again.
                if !std::mem::take(&mut queue.questions).is_empty() {
                    let _ = self.desk.send(DeskInput::LaneDown(*peer));
                }
                if queue.drop_appends() {
                    tell_shards(&self.shards, || EngineInput::LaneDown(*peer, SendLane::Bulk));
                }
                continue;
            }
            loop {
                let room = lanes.room(*peer);
                if room.bytes == 0 {
                    break;
                }
                if let Some(pull) = queue.questions.pop_front() {
                    worked = true;
                    let _ = lanes.send(*peer, Frame::SnapshotPull(pull));
                    continue;
                }
                let Some(Waiting { shard, envelope, bytes }) = queue.next(room) else {
                    break;
                };
                worked = true;
                let _ = lanes.send(*peer, Frame::Message(envelope));
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

    /// The lane to a peer, which this node dials, works (again).
    pub(crate) fn lane_up(&mut self, peer: NodeId) {
        let _ = self.desk.send(DeskInput::LaneUp(peer));
        tell_shards(&self.shards, || EngineInput::LaneUp(peer, SendLane::Bulk));
    }

    /// It works no more.
    pub(crate) fn lane_down(&mut self, peer: NodeId) {
        self.waiting.remove(&peer);
        let _ = self.desk.send(DeskInput::LaneDown(peer));
        tell_shards(&self.shards, || EngineInput::LaneDown(peer, SendLane::Bulk));
    }

    /// Hands on what came from a peer.
    pub(crate) fn take_message(
        &self,
        connection: ConnectionId,
        (node, incarnation): (NodeId, Incarnation),
        envelope: Envelope,
    ) {
        let route = Route::Carried(self.connection(connection));
        let source = Source { node, incarnation, route, clock: None };
        let to = shard_of(envelope.group, self.shards.len());
        let input = EngineInput::Message(source, envelope);
        let _ = self.shards[to].push(ShardInput::Engine(input));
    }

    /// A peer asks for bytes of a snapshot.
    pub(crate) fn take_pull(&self, connection: ConnectionId, pull: SnapshotPull) {
        let _ = self.desk.send(DeskInput::Pull(self.connection(connection), pull));
    }

    /// A peer sends some.
    pub(crate) fn take_chunk(&self, from: NodeId, chunk: raft_transport::SnapshotChunk) {
        let _ = self.desk.send(DeskInput::Chunk(from, chunk));
    }

    fn connection(&self, connection: ConnectionId) -> CarrierConnection {
        CarrierConnection { via: self.via, connection }
    }
}

/// Whether a message is of those that a carrier's lane has.
pub(super) fn is_carried(message: &Message) -> bool {
    matches!(message, Message::Append(_))
}

fn tell_shards(shards: &[Arc<Inbox<ShardInput>>], input: impl Fn() -> EngineInput) {
    for shard in shards {
        let _ = shard.push(ShardInput::Engine(input()));
    }
}

impl Queue {
    fn appends(&self) -> usize {
        self.short.len() + self.long.len()
    }

    fn add_append(&mut self, waiting: Waiting, short_max: u64) {
        let group = waiting.envelope.group;
        let is_short = waiting.bytes <= short_max;
        if is_short && !self.held.contains_key(&group) {
            *self.short_of.entry(group).or_default() += 1;
            self.short.push_back(waiting);
        } else {
            *self.held.entry(group).or_default() += 1;
            self.long.push_back(waiting);
        }
    }

    /// What goes next into that room.
    fn next(&mut self, room: Room) -> Option<Waiting> {
        // A long one also waits for the short ones before it in its group.
        let ready = |long: &Waiting| !self.short_of.contains_key(&long.envelope.group);
        let takes_long = room.takes_long && self.long.front().is_some_and(ready);
        let is_short = !self.short.is_empty() && (!takes_long || !self.was_short);
        if !is_short && !takes_long {
            return None;
        }
        self.was_short = is_short;
        let (queue, counts) = match is_short {
            true => (&mut self.short, &mut self.short_of),
            false => (&mut self.long, &mut self.held),
        };
        let next = queue.pop_front()?;
        if let Some(count) = counts.get_mut(&next.envelope.group) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&next.envelope.group);
            }
        }
        Some(next)
    }

    fn give_up(&mut self, group: GroupId) -> Vec<Waiting> {
        let mut given_up = Vec::new();
        for (queue, counts) in
            [(&mut self.short, &mut self.short_of), (&mut self.long, &mut self.held)]
        {
            if counts.remove(&group).is_some() {
                let (gone, kept): (VecDeque<_>, VecDeque<_>) = std::mem::take(queue)
                    .into_iter()
                    .partition(|append| append.envelope.group == group);
                *queue = kept;
                given_up.extend(gone);
            }
        }
        given_up
    }

    /// Forgets all appends; whether there were any.
    fn drop_appends(&mut self) -> bool {
        let had_any = self.appends() > 0;
        self.short.clear();
        self.long.clear();
        self.held.clear();
        self.short_of.clear();
        had_any
    }

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

#[cfg(test)]
mod tests;
