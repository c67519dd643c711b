//! All groups of one shard, driven as the core is: inputs in, a turn's output out.
//!
//! No thread, socket, file or clock is here; threads drive it on a node, and a simulator can
//! drive it the same way. A turn takes every input that is there, then hands on one persist
//! batch, one set of frames and one apply batch for all groups together: batching comes from
//! draining what is there, never from waiting.
//!
//! Invariants: what waits for the log leaves only against its proof; a group's payloads always
//! match its core's metadata; an append never overtakes another of its group.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;
use raft_core::{
    Durable, Effects, Entry, EntryKind, Fault, Group, GroupId, Incarnation, Input, LogChange,
    LogIndex, LogTime, Message, Micros, NodeId, Outcome, Outgoing, Refusal, ReplicaId, RoleKind,
    Settings, Start, StartError, Token,
};
use raft_storage::{GroupCreate, GroupWrite};
use raft_transport::{Envelope, Frame, HeartbeatItem, HeartbeatReplyItem, LaneClass, LanePolicy};
use tracing::{error, info, warn};

use super::io::{
    ApplyJob, ApplyTask, CreateGroup, Created, EngineInput, Fetch, PersistTicket, Route, SendLane,
    Source, TurnOutput,
};
use super::machine::MachineHost;
use super::payloads::Payloads;
use super::replies::Replies;
use super::slot::{Peer, Slot};
use super::timers::{Armed, Timers};
use super::work::WorkQueue;
use crate::counters::Counters;
use crate::group_spec::GroupSpec;
use crate::node_status::GroupStatus;
use crate::request::{Answer, Proposed, Reply, Request, RequestError, RequestKind};
use crate::state_machine::ApplyMode;

/// How a shard's engine behaves.
#[derive(Clone, Debug)]
pub(crate) struct EngineOptions {
    pub(crate) node: NodeId,
    pub(crate) incarnation: Incarnation,
    pub(crate) settings: Arc<Settings>,
    pub(crate) lane_policy: LanePolicy,
    pub(crate) seed: u64,
    pub(crate) durability: Durability,
    /// Commands larger than this are refused.
    pub(crate) command_bytes_max: u64,
    /// Applied entries of a group kept at hand for peers, in bytes.
    pub(crate) window_bytes: u64,
    /// Requests under way in this shard at once.
    pub(crate) requests_max: usize,
    /// Bytes handed to the bulk lane and not yet taken by it, per peer.
    pub(crate) bulk_bytes_max: u64,
}

/// Who makes a shard's entries durable.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Durability {
    /// The log; it reports back.
    Log,
    /// Nobody: memory counts as durable (class C). For benches and tests.
    Memory,
}

/// Reads and transfers have tokens of their own kinds, beside the reply table's places.
const READ_TOKEN: u64 = 1 << 63;
const TRANSFER_TOKEN: u64 = 1 << 62;

/// The most entries given to a state machine in one piece.
const APPLY_ENTRIES_MAX: u64 = 4096;

pub(crate) struct ShardEngine {
    options: EngineOptions,
    counters: Arc<Counters>,
    now: Micros,
    wall: LogTime,
    slots: Vec<Slot>,
    by_group: HashMap<GroupId, u32>,
    touched: Vec<u32>,
    touched_spare: Vec<u32>,
    timers: Timers,
    replies: Replies,
    read_tokens: u64,
    transfers: u64,
    transfer_replies: Vec<(Token, Reply)>,
    /// The other nodes; `work` and the `bulk_` fields are parallel to it.
    peers: Vec<NodeId>,
    work: Vec<WorkQueue>,
    bulk_bytes: Vec<u64>,
    bulk_up: Vec<bool>,
    bulk_parked: Vec<Vec<u32>>,
    /// Groups that lost leadership, with the time at which what they owe becomes unknown.
    abandons: VecDeque<(Micros, u32)>,
    effects: Effects,
    /// The command being proposed, until the core says where it goes.
    proposing: Bytes,
    /// The entries of the append being stepped.
    incoming: Vec<Entry>,
    /// How answers to the input being handled travel.
    route: Route,
    apply_scratch: Vec<Entry>,
}

impl ShardEngine {
    pub(crate) fn new(
        options: EngineOptions,
        counters: Arc<Counters>,
        peers: impl IntoIterator<Item = NodeId>,
    ) -> Self {
        let peers: Vec<NodeId> = peers.into_iter().collect();
        Self {
            work: peers.iter().map(|_| WorkQueue::default()).collect(),
            bulk_bytes: vec![0; peers.len()],
            bulk_up: vec![false; peers.len()],
            bulk_parked: vec![Vec::new(); peers.len()],
            peers,
            options,
            counters,
            now: Micros::ZERO,
            wall: LogTime::default(),
            slots: Vec::new(),
            by_group: HashMap::new(),
            touched: Vec::new(),
            touched_spare: Vec::new(),
            timers: Timers::default(),
            replies: Replies::default(),
            read_tokens: 0,
            transfers: 0,
            transfer_replies: Vec::new(),
            abandons: VecDeque::new(),
            effects: Effects::default(),
            proposing: Bytes::new(),
            incoming: Vec::new(),
            route: Route::Control,
            apply_scratch: Vec::new(),
        }
    }

    /// Sets the clocks for the inputs that follow: the monotonic one, and the wall clock that
    /// leaders stamp into entries.
    pub(crate) fn set_time(&mut self, now: Micros, wall: LogTime) {
        self.now = self.now.max(now);
        self.wall = self.wall.max(wall);
    }

    /// Takes one input. What follows from it comes with [`finish_turn`](Self::finish_turn).
    pub(crate) fn handle(&mut self, input: EngineInput, out: &mut TurnOutput) {
        self.route = Route::Control;
        match input {
            EngineInput::Create(create) => self.on_create(*create, out),
            EngineInput::Request(request) => self.on_request(request, out),
            EngineInput::Message(source, envelope) => self.on_message(source, envelope, out),
            EngineInput::Heartbeats(source, items) => {
                for item in items {
                    self.on_heartbeat(source, item, out);
                }
            }
            EngineInput::HeartbeatReplies(source, items) => {
                for item in items {
                    self.on_heartbeat_reply(source, item, out);
                }
            }
            EngineInput::Persisted(tickets) => {
                for (group, ticket) in tickets {
                    self.on_persisted(group, ticket, out);
                }
            }
            EngineInput::Applied(group, applied) => {
                if let Some(at) = self.slot_of(group) {
                    self.slots[at as usize].applied = applied;
                }
            }
            EngineInput::Fetched(group, entries) => self.on_fetched(group, entries),
            EngineInput::LaneUp(peer, lane) => self.on_lane_up(peer, lane),
            EngineInput::LaneDown(peer, lane) => self.on_lane_down(peer, lane, out),
            EngineInput::BulkSent(peer, bytes) => self.on_bulk_sent(peer, bytes),
            EngineInput::HandOver => {
                for at in 0..self.slots.len() as u32 {
                    if self.slots[at as usize].core.is_leader() {
                        let token = Token::new(TRANSFER_TOKEN);
                        self.step(at, Input::Transfer { token, to: None }, out);
                    }
                }
            }
            EngineInput::Transfer(group, to, reply) => self.on_transfer(group, to, reply, out),
            EngineInput::Digest(group, reply) => self.on_digest(group, reply, out),
        }
    }

    /// Wakes the groups whose time has come.
    pub(crate) fn fire_timers(&mut self, out: &mut TurnOutput) {
        self.route = Route::Control;
        while let Some((at, armed_for)) = self.timers.pop(self.now) {
            let slot = &mut self.slots[at as usize];
            if !Timers::fired(&mut slot.armed, armed_for) {
                continue;
            }
            if slot
                .core
                .next_deadline()
                .is_some_and(|deadline| deadline <= self.now)
            {
                self.step(at, Input::Deadline, out);
            } else {
                self.touch(at);
            }
        }
        while let Some((due, at)) = self.abandons.front().copied()
            && due <= self.now
        {
            self.abandons.pop_front();
            let slot = &self.slots[at as usize];
            if !slot.core.is_leader() {
                self.replies.abandon(slot.spec.group);
            }
        }
    }

    /// When [`fire_timers`](Self::fire_timers) has something to do.
    pub(crate) fn next_deadline(&self) -> Option<Micros> {
        let abandon = self.abandons.front().map(|(due, _)| *due);
        [self.timers.next(), abandon].into_iter().flatten().min()
    }

    /// Ends the turn: gathers what all touched groups want persisted, applied and sent.
    pub(crate) fn finish_turn(&mut self, out: &mut TurnOutput) {
        self.route = Route::Control;
        // Reads and, in memory, completions can touch groups again; both settle quickly.
        while !self.touched.is_empty() {
            let mut touched =
                std::mem::replace(&mut self.touched, std::mem::take(&mut self.touched_spare));
            for at in touched.drain(..) {
                self.finish_slot(at, out);
            }
            self.touched_spare = touched;
        }
    }

    fn finish_slot(&mut self, at: u32, out: &mut TurnOutput) {
        self.slots[at as usize].touched = false;
        if !self.slots[at as usize].reads_new.is_empty() {
            self.read_tokens += 1;
            let token = Token::new(READ_TOKEN | self.read_tokens);
            let slot = &mut self.slots[at as usize];
            let reads = std::mem::take(&mut slot.reads_new);
            slot.reads_asked.push_back((token, reads));
            self.step(at, Input::Read { token }, out);
        }
        let slot = &mut self.slots[at as usize];
        if let Some(persist) = slot.persist.take() {
            let group = slot.spec.group;
            match self.options.durability {
                Durability::Log => {
                    let mut write = GroupWrite::new(group);
                    write.hard_state = persist.hard_state;
                    write.truncate_from = persist.truncate_from;
                    if let Some((first, last)) = persist.append {
                        let entries = slot.payloads.range(first, last);
                        write.entries = entries
                            .expect("entries not yet written are in the window")
                            .cloned()
                            .collect();
                    }
                    out.persist.push(write);
                    out.persist_tickets
                        .push((group, PersistTicket::Op(persist.seq)));
                }
                Durability::Memory => {
                    self.on_persisted(group, PersistTicket::Op(persist.seq), out);
                }
            }
        }
        self.dispatch_applies(at, out);
        let slot = &mut self.slots[at as usize];
        self.timers
            .arm(at, &mut slot.armed, slot.core.next_deadline());
        if slot.core.is_leader() {
            for peer in &slot.peers {
                if slot.core.wants_append(peer.replica) {
                    self.work[peer.at].mark(at);
                }
            }
        }
    }

    /// Builds the next append for a peer's data lane, of at most `budget` bytes unless a single
    /// entry is larger. Appends that belong on the bulk lane go to `out` on the way.
    pub(crate) fn pull(
        &mut self,
        peer: NodeId,
        budget: u64,
        out: &mut TurnOutput,
    ) -> Option<Frame> {
        let at_peer = self.peers.iter().position(|node| *node == peer)?;
        while let Some(at) = self.work[at_peer].pop() {
            let slot = &mut self.slots[at as usize];
            let Some(Peer { replica, lane, .. }) = slot.peer_on(at_peer).copied() else {
                continue;
            };
            if !slot.core.wants_append(replica) {
                continue;
            }
            let lane = match self.lane_now(at, at_peer, replica, lane, out) {
                LaneNow::Send(lane) => lane,
                LaneNow::Wait => continue,
            };
            let budget = match lane {
                SendLane::Data => budget,
                SendLane::Bulk => u64::MAX,
            };
            let now = self.now;
            let slot = &mut self.slots[at as usize];
            // The closure needs the payloads while the core is borrowed; they are other fields.
            let (core, payloads, cold) = (&mut slot.core, &slot.payloads, &slot.cold);
            let append = core.make_append(now, replica, budget, |index| {
                payloads
                    .get(index)
                    .or_else(|| cold_entry(cold, index))
                    .map(Entry::cost)
            });
            let Some(append) = append else { continue };
            let mut entries = Vec::with_capacity(append.count() as usize);
            let mut cost = 0;
            let mut index = append.prev_index.next();
            while index <= append.last_index() {
                let entry = slot
                    .entry(index)
                    .expect("the core sent only what is at hand");
                cost += entry.cost();
                entries.push(entry.clone());
                index = index.next();
            }
            let envelope = Envelope {
                group: slot.spec.group,
                group_incarnation: slot.incarnation,
                from: slot.core.replica(),
                to: replica,
                message: Message::Append(append),
                entries,
            };
            if slot.core.wants_append(replica) {
                self.work[at_peer].mark(at);
            }
            match lane {
                SendLane::Data => return Some(Frame::Message(envelope)),
                SendLane::Bulk => {
                    self.bulk_bytes[at_peer] += cost;
                    out.bulk.push((peer, envelope, cost));
                }
            }
        }
        None
    }

    /// Whether a peer has work waiting, for lanes that have no room at the moment.
    pub(crate) fn has_work(&self, peer: NodeId) -> bool {
        let at = self.peers.iter().position(|node| *node == peer);
        at.is_some_and(|at| !self.work[at].is_empty())
    }

    /// Chooses the lane of the next append. Going from one lane to the other waits until nothing
    /// is in flight; what is marked now is marked again when the answers come.
    fn lane_now(
        &mut self,
        at: u32,
        at_peer: usize,
        replica: ReplicaId,
        lane: SendLane,
        out: &mut TurnOutput,
    ) -> LaneNow {
        let slot = &mut self.slots[at as usize];
        let next = slot.core.next_index(replica).unwrap_or_default();
        let streams = slot.core.streams_to(replica);
        let mut wanted = SendLane::Data;
        if streams && next <= slot.core.last_index() {
            let Some(entry) = slot.entry(next) else {
                fetch(slot, next, out);
                return LaneNow::Wait;
            };
            let class = self
                .options
                .lane_policy
                .append_class(entry.payload.len() as u64);
            // Without a bulk lane the data lane takes what there is.
            if class == LaneClass::Bulk && self.bulk_up[at_peer] {
                wanted = SendLane::Bulk;
            }
        }
        let mut lane = lane;
        if wanted != lane && !slot.core.has_in_flight(replica) {
            lane = wanted;
            if let Some(peer) = slot.peer_on_mut(at_peer) {
                peer.lane = wanted;
            }
        } else if wanted == SendLane::Bulk && lane == SendLane::Data {
            return LaneNow::Wait;
        }
        if lane == SendLane::Bulk && self.bulk_bytes[at_peer] >= self.options.bulk_bytes_max {
            self.bulk_parked[at_peer].push(at);
            return LaneNow::Wait;
        }
        LaneNow::Send(lane)
    }

    fn on_create(&mut self, create: CreateGroup, out: &mut TurnOutput) {
        let CreateGroup {
            spec,
            machine,
            recovered,
            done,
        } = create;
        if let Some(at) = self.slot_of(spec.group) {
            let known = &self.slots[at as usize].spec;
            if **known == spec {
                done(Ok(Created::Existed));
            } else {
                done(Err(GroupSpec::clone(known)));
            }
            return;
        }
        let is_new = recovered.is_none();
        match self.add_slot(spec.clone(), machine, recovered, out) {
            Ok(at) => {
                self.by_group.insert(spec.group, at);
                self.touch(at);
                if !is_new {
                    done(Ok(Created::Existed));
                    return;
                }
                match self.options.durability {
                    Durability::Memory => done(Ok(Created::New)),
                    Durability::Log => {
                        let mut write = GroupWrite::new(spec.group);
                        write.create = Some(GroupCreate {
                            incarnation: spec.incarnation,
                            spec: spec.encode(),
                        });
                        out.persist.push(write);
                        out.persist_tickets
                            .push((spec.group, PersistTicket::Create));
                        self.slots[at as usize].created = Some(done);
                    }
                }
            }
            Err(error) => {
                // The spec was checked before it came here; this is a recovered log that
                // contradicts itself, and the group stays down while the others go on.
                error!(group = %spec.group, %error, "cannot start the group");
                done(Err(spec));
            }
        }
    }

    fn add_slot(
        &mut self,
        spec: GroupSpec,
        machine: Box<dyn crate::state_machine::StateMachine>,
        recovered: Option<raft_storage::RecoveredGroup>,
        out: &mut TurnOutput,
    ) -> Result<u32, StartError> {
        let node = self.options.node;
        let replica = spec.replica_on(node).ok_or(StartError::Voters)?;
        let (hard_state, term_runs, last_index, last_time) = match recovered {
            None => Default::default(),
            Some(r) => (r.hard_state, r.term_runs, r.last_index, r.last_time),
        };
        let core = Group::new(
            self.now,
            Start {
                group: spec.group,
                replica,
                incarnation: self.options.incarnation,
                voters: spec.replicas.iter().map(|(replica, _)| *replica).collect(),
                seed: self.options.seed ^ (u64::from(spec.group.get()) << 20) ^ node.get(),
                hard_state,
                term_runs,
                last_index,
                applied: LogIndex::ZERO,
                settings: Arc::clone(&self.options.settings),
            },
        )?;
        let peers = spec
            .replicas
            .iter()
            .filter(|(other, _)| *other != replica)
            .map(|(replica, node)| {
                let at = self.peers.iter().position(|peer| peer == node);
                at.map(|at| Peer {
                    replica: *replica,
                    node: *node,
                    at,
                    lane: SendLane::Data,
                })
            })
            .collect::<Option<Vec<Peer>>>()
            .ok_or(StartError::Voters)?;
        let inline = match machine.mode() {
            ApplyMode::Inline => Some(MachineHost::new(machine)),
            ApplyMode::Worker => {
                let task = ApplyTask::Start(machine);
                out.apply.push(ApplyJob {
                    group: spec.group,
                    task,
                });
                None
            }
        };
        let at = self.slots.len() as u32;
        self.slots.push(Slot {
            incarnation: spec.incarnation,
            spec: Arc::new(spec),
            core,
            peers,
            payloads: Payloads::after(last_index, last_time),
            cold: Vec::new(),
            fetching: false,
            persist: None,
            gated: Vec::new(),
            ack_route: None,
            appliable: LogIndex::ZERO,
            dispatched: LogIndex::ZERO,
            waiters: VecDeque::new(),
            reads_new: Vec::new(),
            reads_asked: VecDeque::new(),
            reads_confirmed: VecDeque::new(),
            inline,
            applied: Default::default(),
            armed: Armed::default(),
            touched: false,
            was_leader: false,
            known_leader: None,
            created: None,
        });
        Ok(at)
    }

    fn on_request(&mut self, request: Request, out: &mut TurnOutput) {
        let Request { group, kind, reply } = request;
        let Some(at) = self.slot_of(group) else {
            reply.send(Err(RequestError::UnknownGroup(group)));
            return;
        };
        match kind {
            RequestKind::Propose(command) => {
                let bytes = command.len() as u64;
                let max = self.options.command_bytes_max;
                if bytes > max {
                    reply.send(Err(RequestError::TooLarge { bytes, max }));
                    return;
                }
                if self.replies.len() >= self.options.requests_max {
                    reply.send(Err(RequestError::Overloaded { pending_bytes: 0 }));
                    return;
                }
                let token = self.replies.insert(group, reply);
                self.proposing = command;
                let bytes = bytes + Entry::OVERHEAD;
                self.step(at, Input::Propose { token, bytes }, out);
                self.proposing = Bytes::new();
            }
            RequestKind::Read(query) => {
                let slot = &mut self.slots[at as usize];
                if !slot.core.is_leader() {
                    let leader = slot.known_leader;
                    reply.send(Err(RequestError::NotLeader { leader }));
                    return;
                }
                slot.reads_new.push((query, reply));
                self.touch(at);
            }
        }
    }

    fn on_message(&mut self, source: Source, envelope: Envelope, out: &mut TurnOutput) {
        let Some(at) = self.addressee(
            source,
            envelope.group,
            envelope.group_incarnation,
            envelope.from,
            envelope.to,
        ) else {
            return;
        };
        self.route = source.route;
        if let Message::Append(append) = &envelope.message {
            // The entries must be the ones the core is told about.
            let mut index = append.prev_index;
            let mut runs = append.runs.iter().flat_map(|run| {
                std::iter::repeat_n(run.term, usize::try_from(run.count).unwrap_or(usize::MAX))
            });
            let sound = envelope.entries.len() as u64 == append.count()
                && envelope.entries.iter().all(|entry| {
                    index = index.next();
                    entry.index == index && runs.next() == Some(entry.term)
                });
            if !sound {
                warn!(group = %envelope.group, peer = %source.node, "append without its entries");
                self.counters.messages_dropped.fetch_add(1, Relaxed);
                return;
            }
            self.slots[at as usize].ack_route = Some(source.route);
            self.incoming = envelope.entries;
        }
        let input = Input::Message {
            from: envelope.from,
            from_incarnation: source.incarnation,
            to_incarnation: self.options.incarnation,
            message: envelope.message,
        };
        self.step(at, input, out);
        self.incoming = Vec::new();
    }

    fn on_heartbeat(&mut self, source: Source, item: HeartbeatItem, out: &mut TurnOutput) {
        let at = self.addressee(
            source,
            item.group,
            item.group_incarnation,
            item.from,
            item.to,
        );
        let Some(at) = at else { return };
        self.route = source.route;
        // The core does not tell a scheduled heartbeat from a read confirmation.
        let input = Input::Message {
            from: item.from,
            from_incarnation: source.incarnation,
            to_incarnation: self.options.incarnation,
            message: Message::Heartbeat(item.heartbeat),
        };
        self.step(at, input, out);
    }

    fn on_heartbeat_reply(
        &mut self,
        source: Source,
        item: HeartbeatReplyItem,
        out: &mut TurnOutput,
    ) {
        let at = self.addressee(
            source,
            item.group,
            item.group_incarnation,
            item.from,
            item.to,
        );
        let Some(at) = at else { return };
        let input = Input::Message {
            from: item.from,
            from_incarnation: source.incarnation,
            to_incarnation: self.options.incarnation,
            message: Message::HeartbeatReply(item.reply),
        };
        self.step(at, input, out);
    }

    /// Finds the group a peer speaks to, if it is here, in this life, and the peer may speak in
    /// that replica's name.
    fn addressee(
        &self,
        source: Source,
        group: GroupId,
        incarnation: raft_core::GroupIncarnation,
        from: ReplicaId,
        to: ReplicaId,
    ) -> Option<u32> {
        let at = self.slot_of(group)?;
        let slot = &self.slots[at as usize];
        let known = slot.incarnation == incarnation
            && slot.core.replica() == to
            && slot.node_of(from) == Some(source.node);
        if !known {
            self.counters.messages_dropped.fetch_add(1, Relaxed);
        }
        known.then_some(at)
    }

    fn on_persisted(&mut self, group: GroupId, ticket: PersistTicket, out: &mut TurnOutput) {
        let Some(at) = self.slot_of(group) else {
            return;
        };
        let seq = match ticket {
            PersistTicket::Create => {
                if let Some(done) = self.slots[at as usize].created.take() {
                    done(Ok(Created::New));
                }
                return;
            }
            PersistTicket::Op(seq) => seq,
        };
        self.step(at, Input::Persisted(seq), out);
        let slot = &mut self.slots[at as usize];
        if !slot.gated.is_empty() {
            let proof = Durable::attest(seq);
            for gated in std::mem::take(&mut slot.gated) {
                match gated.open(proof) {
                    Ok(outgoing) => self.send(at, outgoing, out),
                    Err(closed) => self.slots[at as usize].gated.push(closed),
                }
            }
        }
    }

    fn on_fetched(&mut self, group: GroupId, entries: Vec<Entry>) {
        let Some(at) = self.slot_of(group) else {
            return;
        };
        let slot = &mut self.slots[at as usize];
        slot.fetching = false;
        // The log may have been cut meanwhile: keep what is still so.
        let mut entries = entries;
        let sound = entries
            .iter()
            .take_while(|entry| slot.core.entry_term(entry.index) == Some(entry.term))
            .count();
        entries.truncate(sound);
        slot.cold = entries;
        self.touch(at);
    }

    fn on_lane_up(&mut self, peer: NodeId, lane: SendLane) {
        if let Some(at_peer) = self.peers.iter().position(|node| *node == peer)
            && lane == SendLane::Bulk
        {
            self.bulk_up[at_peer] = true;
        }
    }

    fn on_lane_down(&mut self, peer: NodeId, lane: SendLane, out: &mut TurnOutput) {
        let Some(at_peer) = self.peers.iter().position(|node| *node == peer) else {
            return;
        };
        if lane == SendLane::Bulk {
            self.bulk_up[at_peer] = false;
            self.bulk_bytes[at_peer] = 0;
            for at in std::mem::take(&mut self.bulk_parked[at_peer]) {
                self.touch(at);
            }
        }
        for at in 0..self.slots.len() as u32 {
            let slot = &self.slots[at as usize];
            // Only groups with something on that lane are concerned.
            let concerned = slot
                .peer_on(at_peer)
                .filter(|peer| peer.lane == lane && slot.core.has_in_flight(peer.replica));
            if let Some(peer) = concerned {
                self.step(at, Input::PeerUnreachable(peer.replica), out);
            }
        }
    }

    fn on_bulk_sent(&mut self, peer: NodeId, bytes: u64) {
        let Some(at_peer) = self.peers.iter().position(|node| *node == peer) else {
            return;
        };
        self.bulk_bytes[at_peer] = self.bulk_bytes[at_peer].saturating_sub(bytes);
        for at in std::mem::take(&mut self.bulk_parked[at_peer]) {
            self.touch(at);
        }
    }

    fn on_transfer(
        &mut self,
        group: GroupId,
        to: Option<NodeId>,
        reply: Reply,
        out: &mut TurnOutput,
    ) {
        let Some(at) = self.slot_of(group) else {
            reply.send(Err(RequestError::UnknownGroup(group)));
            return;
        };
        // A node without a replica is no target; the core refuses the replica id that is nobody's.
        let spec = &self.slots[at as usize].spec;
        let to = to.map(|node| spec.replica_on(node).unwrap_or(ReplicaId::new(u64::MAX)));
        self.transfers += 1;
        let token = Token::new(TRANSFER_TOKEN | self.transfers);
        self.transfer_replies.push((token, reply));
        self.step(at, Input::Transfer { token, to }, out);
    }

    fn on_digest(&mut self, group: GroupId, reply: Reply, out: &mut TurnOutput) {
        let Some(at) = self.slot_of(group) else {
            reply.send(Err(RequestError::UnknownGroup(group)));
            return;
        };
        match &self.slots[at as usize].inline {
            Some(machine) => machine.digest(reply),
            None => out.apply.push(ApplyJob {
                group,
                task: ApplyTask::Digest(reply),
            }),
        }
    }

    /// Steps a group's core and carries out what cannot wait for the end of the turn.
    fn step(&mut self, at: u32, input: Input, out: &mut TurnOutput) {
        let slot = &mut self.slots[at as usize];
        // An operation the log was not given yet is continued.
        self.effects.persist = slot.persist.take();
        slot.core.step(self.now, input, &mut self.effects);
        slot.persist = self.effects.persist.take();
        if !slot.touched {
            slot.touched = true;
            self.touched.push(at);
        }
        if self.effects.is_empty() {
            return;
        }
        self.follow_log(at);
        self.settle_outcomes(at);
        let mut effects = std::mem::take(&mut self.effects);
        for outgoing in effects.messages.drain_ready() {
            self.send(at, outgoing, out);
        }
        let slot = &mut self.slots[at as usize];
        slot.gated.extend(effects.messages.drain_gated());
        if let Some(appliable) = effects.appliable.take() {
            slot.appliable = appliable;
        }
        if std::mem::take(&mut effects.role_changed) {
            self.note_role(at, out);
        }
        if let Some(fault) = effects.fault.take() {
            self.note_fault(at, &fault);
        }
        self.effects = effects;
    }

    /// Keeps the payloads in step with the core's log.
    fn follow_log(&mut self, at: u32) {
        let slot = &mut self.slots[at as usize];
        for change in self.effects.log_changes.drain(..) {
            match change {
                LogChange::Truncated { from } => {
                    slot.payloads.truncate(from);
                    slot.cold.retain(|entry| entry.index < from);
                }
                LogChange::Appended { index, term, kind } => {
                    let payload = match kind {
                        EntryKind::Noop => Bytes::new(),
                        EntryKind::Command => std::mem::take(&mut self.proposing),
                    };
                    // The leader's clock, never behind what the log already says.
                    let time = slot.payloads.last_time().max(self.wall);
                    slot.payloads.push(Entry {
                        index,
                        term,
                        kind,
                        time,
                        payload,
                    });
                }
                LogChange::Received { first, last } => {
                    let taken = self
                        .incoming
                        .drain(..)
                        .filter(|e| (first..=last).contains(&e.index));
                    taken.for_each(|entry| slot.payloads.push(entry));
                }
            }
        }
    }

    fn settle_outcomes(&mut self, at: u32) {
        let slot = &mut self.slots[at as usize];
        for (token, outcome) in self.effects.outcomes.drain(..) {
            let is_read = token.get() & READ_TOKEN != 0;
            if !is_read && token.get() & TRANSFER_TOKEN != 0 {
                info!(group = %slot.spec.group, ?outcome, "leadership hand-over ended");
                let asked = self
                    .transfer_replies
                    .iter()
                    .position(|(asked, _)| *asked == token);
                if let Some(asked) = asked {
                    let (_, reply) = self.transfer_replies.swap_remove(asked);
                    reply.send(transfer_answer(outcome, slot));
                }
                continue;
            }
            match outcome {
                Outcome::Committed { index, .. } => {
                    if let Some(reply) = self.replies.take(token) {
                        slot.waiters.push_back((index, reply));
                    }
                }
                Outcome::Unknown => self.replies.answer(token, Err(RequestError::Unknown)),
                Outcome::Superseded => self.replies.answer(token, Err(RequestError::Superseded)),
                Outcome::ReadReady { index } => {
                    if let Some(reads) = take_reads(slot, token) {
                        slot.reads_confirmed.push_back((index, reads));
                    }
                }
                Outcome::Transferred => {}
                Outcome::Refused(refusal) => {
                    let leader = |replica: Option<ReplicaId>| {
                        replica.and_then(|replica| slot.spec.node_of(replica))
                    };
                    let error = match refusal {
                        Refusal::NotLeader { leader: replica } => RequestError::NotLeader {
                            leader: leader(replica),
                        },
                        Refusal::Transferring | Refusal::TransferFailed => {
                            RequestError::Transferring
                        }
                        Refusal::Overloaded { uncommitted_bytes } => RequestError::Overloaded {
                            pending_bytes: uncommitted_bytes,
                        },
                        Refusal::TooManyReads => RequestError::Overloaded { pending_bytes: 0 },
                        Refusal::LeadershipLost => RequestError::LeadershipLost,
                        Refusal::Faulted => RequestError::Faulted(slot.spec.group),
                    };
                    if is_read {
                        for (_, reply) in take_reads(slot, token).into_iter().flatten() {
                            reply.send(Err(error.clone()));
                        }
                    } else {
                        self.replies.answer(token, Err(error));
                    }
                }
            }
        }
    }

    /// Gives a message the way it travels.
    fn send(&mut self, at: u32, outgoing: Outgoing, out: &mut TurnOutput) {
        let slot = &self.slots[at as usize];
        let Some(node) = slot.node_of(outgoing.to) else {
            self.counters.messages_dropped.fetch_add(1, Relaxed);
            return;
        };
        let (group, group_incarnation) = (slot.spec.group, slot.incarnation);
        let (from, to) = (slot.core.replica(), outgoing.to);
        match outgoing.message {
            Message::Heartbeat(heartbeat) => {
                let item = HeartbeatItem {
                    group,
                    group_incarnation,
                    from,
                    to,
                    heartbeat,
                };
                out.heartbeats.push((node, item));
            }
            Message::ReadConfirm(heartbeat) => {
                let item = HeartbeatItem {
                    group,
                    group_incarnation,
                    from,
                    to,
                    heartbeat,
                };
                out.read_confirms.push((node, item));
            }
            Message::HeartbeatReply(reply) => {
                let item = HeartbeatReplyItem {
                    group,
                    group_incarnation,
                    from,
                    to,
                    reply,
                };
                match self.route {
                    Route::Control => out.heartbeat_replies.push((node, item)),
                    route @ (Route::Data { .. } | Route::Bulk { .. }) => {
                        push_reply_item(&mut out.replies, route, item);
                    }
                }
            }
            message @ Message::AppendReply(_) => {
                let envelope = Envelope {
                    group,
                    group_incarnation,
                    from,
                    to,
                    message,
                    entries: Vec::new(),
                };
                match slot.ack_route {
                    Some(route @ (Route::Data { .. } | Route::Bulk { .. })) => {
                        out.replies.push((route, Frame::Message(envelope)));
                    }
                    Some(Route::Control) | None => out.control.push((node, envelope)),
                }
            }
            message @ (Message::PreVote(_)
            | Message::PreVoteReply(_)
            | Message::Vote(_)
            | Message::VoteReply(_)
            | Message::Append(_)
            | Message::TimeoutNow(_)) => {
                let envelope = Envelope {
                    group,
                    group_incarnation,
                    from,
                    to,
                    message,
                    entries: Vec::new(),
                };
                out.control.push((node, envelope));
            }
        }
    }

    fn note_role(&mut self, at: u32, out: &mut TurnOutput) {
        let slot = &mut self.slots[at as usize];
        let leads = slot.core.is_leader();
        let leader = slot
            .core
            .leader()
            .and_then(|replica| slot.spec.node_of(replica));
        if matches!(slot.core.status().role, RoleKind::Candidate) {
            self.counters.elections.fetch_add(1, Relaxed);
        }
        if leads && !slot.was_leader {
            self.counters.leaders_elected.fetch_add(1, Relaxed);
            info!(group = %slot.spec.group, term = %slot.core.term(), "leading");
        }
        if slot.was_leader && !leads {
            info!(group = %slot.spec.group, term = %slot.core.term(), "no longer leading");
            let due = self.now.after(self.options.settings.election_timeout_max);
            self.abandons.push_back((due, at));
        }
        slot.was_leader = leads;
        if leader != slot.known_leader {
            slot.known_leader = leader;
            out.leaders.push((slot.spec.group, leader));
        }
    }

    fn note_fault(&mut self, at: u32, fault: &Fault) {
        let slot = &self.slots[at as usize];
        error!(group = %slot.spec.group, %fault, "the group is mute: something impossible came");
        self.counters.groups_faulted.fetch_add(1, Relaxed);
        self.replies.abandon(slot.spec.group);
    }

    /// Hands entries that may be applied to the state machine, and reads that may be answered.
    fn dispatch_applies(&mut self, at: u32, out: &mut TurnOutput) {
        let window = self.options.window_bytes;
        let slot = &mut self.slots[at as usize];
        while slot.dispatched < slot.appliable {
            let first = slot.dispatched.next();
            let last = slot.appliable.min(slot.dispatched.plus(APPLY_ENTRIES_MAX));
            self.apply_scratch.clear();
            if let Some(entries) = slot.payloads.range(first, last) {
                self.apply_scratch.extend(entries.cloned());
            } else {
                // Replay: what is not in the window comes from the log, piece by piece.
                let mut index = first;
                while index <= last
                    && let Some(entry) = slot.entry(index)
                {
                    self.apply_scratch.push(entry.clone());
                    index = index.next();
                }
                if self.apply_scratch.is_empty() {
                    fetch(slot, first, out);
                    break;
                }
            }
            let Some(last) = self.apply_scratch.last().map(|entry| entry.index) else {
                break;
            };
            slot.dispatched = last;
            let due = slot.waiters.partition_point(|(index, _)| *index <= last);
            let waiters = slot.waiters.drain(..due);
            match &mut slot.inline {
                Some(machine) => {
                    machine.apply(&self.apply_scratch, waiters);
                    slot.applied = machine.applied();
                }
                None => {
                    let entries = self.apply_scratch.clone();
                    let task = ApplyTask::Entries(entries, waiters.collect());
                    out.apply.push(ApplyJob {
                        group: slot.spec.group,
                        task,
                    });
                }
            }
        }
        self.apply_scratch.clear();
        while let Some((index, _)) = slot.reads_confirmed.front()
            && *index <= slot.dispatched
            && let Some((_, reads)) = slot.reads_confirmed.pop_front()
        {
            match &slot.inline {
                Some(machine) => {
                    for (query, reply) in reads {
                        machine.read(&query, reply);
                    }
                }
                None => {
                    let task = ApplyTask::Reads(reads);
                    out.apply.push(ApplyJob {
                        group: slot.spec.group,
                        task,
                    });
                }
            }
        }
        if self.options.durability == Durability::Log {
            slot.payloads.evict(slot.dispatched, window);
        }
    }

    fn slot_of(&self, group: GroupId) -> Option<u32> {
        self.by_group.get(&group).copied()
    }

    fn touch(&mut self, at: u32) {
        let slot = &mut self.slots[at as usize];
        if !slot.touched {
            slot.touched = true;
            self.touched.push(at);
        }
    }

    /// All groups as they are now.
    pub(crate) fn statuses(&self) -> Vec<GroupStatus> {
        let statuses = self.slots.iter().map(|slot| {
            let core = slot.core.status();
            GroupStatus {
                group: core.group,
                role: core.role.into(),
                leader: slot.known_leader,
                term: core.term,
                last_index: core.last_index,
                durable_index: core.durable_index,
                commit_index: core.commit_index,
                applied_index: slot.applied.index,
                log_time: slot.applied.log_time,
                applied_commands: slot.applied.commands,
                label: slot.spec.label.clone(),
                fault: core.fault.map(|fault| fault.to_string()),
            }
        });
        statuses.collect()
    }

    /// How many groups are led here.
    pub(crate) fn led(&self) -> usize {
        self.slots
            .iter()
            .filter(|slot| slot.core.is_leader())
            .count()
    }

    /// Answers everything that is owed: the node stops, or its log failed. What may have reached
    /// the log may still happen.
    pub(crate) fn abandon_all(&mut self, error: &RequestError) {
        for slot in &mut self.slots {
            self.replies.abandon(slot.spec.group);
            let reads = slot.reads_new.drain(..);
            let asked = slot.reads_asked.drain(..).flat_map(|(_, reads)| reads);
            let confirmed = slot.reads_confirmed.drain(..).flat_map(|(_, reads)| reads);
            for (_, reply) in reads.chain(asked).chain(confirmed) {
                reply.send(Err(error.clone()));
            }
            // Dropped replies say "unknown".
            slot.waiters.clear();
        }
    }
}

enum LaneNow {
    Send(SendLane),
    Wait,
}

fn cold_entry(cold: &[Entry], index: LogIndex) -> Option<&Entry> {
    let first = cold.first()?.index;
    if index < first {
        None
    } else {
        cold.get(index.since(first) as usize)
    }
}

/// Asks for entries from `first` on, unless the log is being read for this group already.
fn fetch(slot: &mut Slot, first: LogIndex, out: &mut TurnOutput) {
    if !slot.fetching {
        slot.fetching = true;
        // What is newer is still in the window.
        let last = slot.core.written_index();
        out.fetches.push(Fetch {
            group: slot.spec.group,
            first,
            last,
        });
    }
}

fn take_reads(slot: &mut Slot, token: Token) -> Option<Vec<(Bytes, Reply)>> {
    // Confirmations come in order; refusals may take any.
    let at = slot
        .reads_asked
        .iter()
        .position(|(asked, _)| *asked == token)?;
    slot.reads_asked.remove(at).map(|(_, reads)| reads)
}

fn transfer_answer(outcome: Outcome, slot: &Slot) -> Answer {
    match outcome {
        Outcome::Transferred => Ok(Proposed {
            index: slot.core.commit_index(),
            output: Bytes::new(),
        }),
        Outcome::Refused(Refusal::NotLeader { .. }) => Err(RequestError::NotLeader {
            leader: slot.known_leader,
        }),
        Outcome::Refused(_)
        | Outcome::Superseded
        | Outcome::Unknown
        | Outcome::Committed { .. }
        | Outcome::ReadReady { .. } => Err(RequestError::Transferring),
    }
}

/// Adds an answer to the frame that already goes that way, if the last one does.
fn push_reply_item(replies: &mut Vec<(Route, Frame)>, route: Route, item: HeartbeatReplyItem) {
    if let Some((last, Frame::HeartbeatReplies(items))) = replies.last_mut()
        && *last == route
    {
        items.push(item);
        return;
    }
    replies.push((route, Frame::HeartbeatReplies(vec![item])));
}
