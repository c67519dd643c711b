//! All groups of one shard, driven as the core is: inputs in, a turn's output out.
//!
//! No thread, socket, file or clock is here; threads drive it on a node, and a simulator can
//! drive it the same way. A turn takes every input that is there, then hands on one persist
//! batch, one set of frames and one apply batch for all groups together: batching comes from
//! draining what is there, never from waiting.
//!
//! Invariants: what waits for the log leaves only against its proof; a group's payloads always
//! match its core's metadata; an append never overtakes another of its group.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;
use raft_core::{
    Disbelief, DiskSpace, Durable, Effects, Entry, EntryKind, Fault, GroupId, GroupIncarnation,
    Incarnation, Input, LogChange, LogTime, Message, Micros, NodeId, RoleKind, Settings, Token,
    Tombstone,
};
use raft_storage::{Compaction, GroupWrite};
use raft_transport::{LaneLayout, LanePolicy};
use tracing::{error, info, warn};

use super::ailing::Ailing;
use super::handing_over::HandOvers;
use super::io::{EngineInput, PersistTicket, Route, TurnOutput};
use super::log_load::LogLoad;
use super::log_time::{Stamp, Vouched, WallClocks};
use super::removal::{Ended, Leaving};
use super::replacing::Replacing;
use super::replication::look_at_doubted;
use super::replies::Replies;
use super::slot::Slot;
use super::snapshots::unreadable;
use super::spreading::Spreading;
use super::timers::Timers;
use super::unusable::Unusable;
use super::work::WorkQueue;
use crate::counters::Counters;
use crate::event::Event;
use crate::node_status::GroupStatus;
use crate::persistence::{Persistence, Strategy};
use crate::request::{Reply, RequestError};
use crate::snapshot::Restored;
use crate::snapshot::desk::DeskInput;

/// How a shard's engine behaves.
#[derive(Clone, Debug)]
pub(crate) struct EngineOptions {
    pub(crate) node: NodeId,
    pub(crate) incarnation: Incarnation,
    /// The log may have forgotten groups: none may be founded here, it may have been here before.
    pub(crate) creations_lost: bool,
    pub(crate) settings: Arc<Settings>,
    /// What groups get that do not ask for another.
    pub(crate) persistence: Persistence,
    pub(crate) lane_policy: LanePolicy,
    /// Where there are no data lanes, all appends go the way that large ones go elsewhere.
    pub(crate) layout: LaneLayout,
    pub(crate) seed: u64,
    pub(crate) durability: Durability,
    /// Commands larger than this are refused.
    pub(crate) command_bytes_max: u64,
    /// Applied entries kept at hand for peers, in bytes over all groups; `None` keeps all.
    pub(crate) window_bytes: Option<u64>,
    /// Requests under way in this shard at once.
    pub(crate) requests_max: usize,
    /// A group's snapshot is taken when so many entries were applied since the last; `None`: only
    /// when asked for.
    pub(crate) snapshot_every: Option<u64>,
    /// Or when so many bytes were applied, and no fewer than the last one is long.
    pub(crate) snapshot_bytes: Option<u64>,
    /// Entries before a snapshot that stay in the log, for peers a little behind.
    pub(crate) snapshot_tail: u64,
    /// Bytes of the log that are kept for peers that are fetching a snapshot or lag behind.
    pub(crate) snapshot_hold_bytes: u64,
    /// Bytes handed to the bulk lane and not yet taken by it, per peer.
    pub(crate) bulk_bytes_max: u64,
    /// What the log has been given, by all shards.
    pub(crate) log_load: Arc<LogLoad>,
}

/// Who makes a shard's entries durable.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Durability {
    /// The log; it reports back.
    Log,
    /// Nobody: memory counts as durable (class C). For benches and tests.
    Memory,
}

pub(crate) struct ShardEngine {
    pub(super) options: EngineOptions,
    /// The settings of groups that count entries as soon as they are written.
    pub(super) written_settings: Arc<Settings>,
    pub(super) counters: Arc<Counters>,
    pub(super) now: Micros,
    /// The wall clocks of all nodes, for the stamps of leaders.
    pub(super) clocks: WallClocks,
    /// Places are used again: there are no more of them than replicas were here at a time.
    pub(super) slots: Vec<Slot>,
    /// The places of replicas that left, in whose name nothing is under way any more.
    pub(super) free: Vec<u32>,
    pub(super) by_group: HashMap<GroupId, u32>,
    /// Groups in the log that could not be started from it.
    pub(super) unusable: BTreeMap<GroupId, Unusable>,
    /// Replicas on their way out, and what is remembered of those that left.
    pub(super) leaving: HashMap<GroupId, Leaving>,
    pub(super) tombstones: HashMap<GroupId, (GroupIncarnation, Tombstone)>,
    pub(super) touched: Vec<u32>,
    pub(super) touched_spare: Vec<u32>,
    pub(super) timers: Timers,
    pub(super) replies: Replies,
    pub(super) read_tokens: u64,
    /// The read that is being asked by its lease.
    pub(super) leasing: Option<Token>,
    /// Groups with reads that their lease vouched for.
    pub(super) leased: Vec<u32>,
    /// Reads taken and not yet answered or handed to a state machine.
    pub(super) reads_open: usize,
    /// Reads that have come since those that nobody waits for were looked for.
    pub(super) reads_since_sweep: usize,
    /// Commands that are committed and not yet handed to a state machine.
    pub(super) waiting: usize,
    pub(super) transfers: u64,
    pub(super) transfer_replies: Vec<(Token, GroupId, Reply)>,
    /// The other nodes; `work`, `data_up` and the `bulk_` fields are parallel to it.
    pub(super) peers: Vec<NodeId>,
    pub(super) work: Vec<WorkQueue>,
    pub(super) bulk_bytes: Vec<u64>,
    pub(super) bulk_up: Vec<bool>,
    /// Since when the data lane to each works without a break.
    pub(super) data_up: Vec<Option<Micros>>,
    /// Groups that wait until the bulk lane has taken something.
    pub(super) bulk_parked: Vec<WorkQueue>,
    /// Groups that wait until the data lane takes long appends again.
    pub(super) long_parked: Vec<WorkQueue>,
    /// Groups that lost leadership, with the time at which what they owe becomes unknown.
    pub(super) abandons: VecDeque<(Micros, u32)>,
    pub(super) effects: Effects,
    /// The command being proposed, until the core says where it goes.
    pub(super) proposing: Bytes,
    /// The entries of the append being stepped.
    pub(super) incoming: Vec<Entry>,
    /// The machine that takes the place of another if the core installs its snapshot.
    pub(super) restored: Option<Restored>,
    /// How answers to the input being handled travel.
    pub(super) route: Route,
    pub(super) apply_scratch: Vec<Entry>,
    /// Groups with entries at hand.
    pub(super) windows: u64,
    /// What new groups are told of the disk.
    pub(super) disk: DiskSpace,
    /// The node is going to stop.
    pub(super) stopping: bool,
    pub(super) ailing: Ailing,
    pub(super) hand_overs: HandOvers,
    pub(super) spreading: Spreading,
    pub(super) replacing: Replacing,
    /// Bytes taken in this turn, which the log was not given yet.
    pub(super) taken: u64,
    /// Groups that decline entries because the log has too much to do.
    pub(super) declining: Vec<u32>,
    /// The log failed.
    pub(super) is_deaf: bool,
    #[cfg(feature = "sim")]
    pub(super) watching: Option<super::watch::Watching>,
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
            data_up: vec![None; peers.len()],
            long_parked: peers.iter().map(|_| WorkQueue::default()).collect(),
            bulk_parked: peers.iter().map(|_| WorkQueue::default()).collect(),
            peers,
            clocks: WallClocks::new(options.settings.election_timeout_max),
            ailing: Ailing::new(options.settings.election_timeout_max),
            written_settings: Arc::new(Settings {
                acknowledge: Strategy::MemFirst.acknowledge(),
                ..Settings::clone(&options.settings)
            }),
            options,
            counters,
            now: Micros::ZERO,
            slots: Vec::new(),
            free: Vec::new(),
            by_group: HashMap::new(),
            unusable: BTreeMap::new(),
            leaving: HashMap::new(),
            tombstones: HashMap::new(),
            touched: Vec::new(),
            touched_spare: Vec::new(),
            timers: Timers::default(),
            replies: Replies::default(),
            read_tokens: 0,
            leasing: None,
            leased: Vec::new(),
            reads_open: 0,
            reads_since_sweep: 0,
            waiting: 0,
            transfers: 0,
            transfer_replies: Vec::new(),
            abandons: VecDeque::new(),
            effects: Effects::default(),
            proposing: Bytes::new(),
            incoming: Vec::new(),
            restored: None,
            route: Route::Control,
            apply_scratch: Vec::new(),
            windows: 0,
            disk: DiskSpace::Ample,
            stopping: false,
            hand_overs: HandOvers::default(),
            spreading: Spreading::default(),
            replacing: Replacing::default(),
            taken: 0,
            declining: Vec::new(),
            is_deaf: false,
            #[cfg(feature = "sim")]
            watching: None,
        }
    }

    /// Sets the clocks for the inputs that follow: the monotonic one, and the wall clock, which
    /// may have been set back.
    pub(crate) fn set_time(&mut self, now: Micros, wall: LogTime) {
        self.now = self.now.max(now);
        self.clocks.set(self.now, wall);
    }

    /// What the voters of a group say about the time.
    pub(super) fn vouched(&self, at: u32) -> Vouched {
        let slot = &self.slots[at as usize];
        let place = |replica| slot.peers.get(replica).map(|peer| peer.at);
        self.clocks.vouched(slot.core.membership(), slot.core.replica(), place)
    }

    /// What an entry of a group would be stamped with now, if it is led here.
    pub(super) fn stamp(&self, at: u32) -> Stamp {
        self.slots[at as usize].log_clock.stamp(self.now, self.vouched(at))
    }

    /// Takes one input. What follows from it comes with [`finish_turn`](Self::finish_turn).
    pub(crate) fn handle(&mut self, input: EngineInput, out: &mut TurnOutput) {
        self.route = Route::Control;
        if self.is_deaf {
            self.handle_deaf(input, out);
            return;
        }
        match input {
            EngineInput::Create(create) => self.on_create(*create, out),
            EngineInput::Request(request) => self.on_request(request, out),
            EngineInput::Message(source, envelope) => self.on_message(source, envelope, out),
            EngineInput::Heartbeats(source, items) => {
                // The core does not tell a scheduled heartbeat from a read confirmation.
                self.on_batch(source, &items, |item| Message::Heartbeat(item.heartbeat), out);
            }
            EngineInput::HeartbeatReplies(source, items) => {
                self.on_batch(source, &items, |item| Message::HeartbeatReply(item.reply), out);
            }
            EngineInput::Persisted(tickets) => {
                for (group, ticket) in tickets {
                    self.on_persisted(group, ticket, out);
                }
            }
            EngineInput::Written(tickets) => {
                for (group, ticket) in tickets {
                    self.on_written(group, ticket, out);
                }
            }
            EngineInput::Applied(group, applied) => match self.slot_of(group) {
                Some(at) => {
                    self.slots[at as usize].set_applied(applied, &self.counters);
                    self.touch(at);
                }
                None => self.on_left(group, Ended::Applied(applied), out),
            },
            // One that left needs no machine.
            EngineInput::MachineBroken(group, broken) => {
                if let Some(at) = self.slot_of(group) {
                    self.on_machine_broken(at, broken, out);
                }
            }
            EngineInput::FetchFailed(group, index) => self.on_fetch_failed(group, index, out),
            EngineInput::LogDamaged(group, index) => self.on_log_damaged(group, index, out),
            EngineInput::Fetched(group, entries) => self.on_fetched(group, entries, out),
            EngineInput::LaneUp(peer, lane) => self.on_lane_up(peer, lane),
            EngineInput::LaneDown(peer, lane) => self.on_lane_down(peer, lane, out),
            EngineInput::BulkSent(peer, bytes) => self.on_bulk_sent(peer, bytes),
            EngineInput::Disk(space) => {
                for at in 0..self.slots.len() as u32 {
                    // What it is told now it knows; if the log is behind, it will be told again.
                    self.slots[at as usize].declines = false;
                    if !self.slots[at as usize].is_gone {
                        self.step(at, Input::Disk(space), out);
                    }
                }
                self.disk = space;
            }
            EngineInput::HandOver => self.on_stopping(out),
            EngineInput::OwnCondition(condition) => self.on_own_condition(condition, out),
            EngineInput::PeerCondition(node, condition, heard) => {
                self.on_peer_condition(node, condition, heard, out);
            }
            EngineInput::Transfer(group, to, reply) => self.on_transfer(group, to, reply, out),
            EngineInput::ChangeMembers(group, changes, reply) => {
                self.on_change_members(group, changes, reply, out);
            }
            EngineInput::Remove(group, removal, reply) => {
                self.on_remove(group, removal, reply, out);
            }
            EngineInput::Remember(incarnation, tombstone) => {
                self.remember(incarnation, tombstone);
            }
            EngineInput::Digest(group, reply) => self.on_digest(group, reply, out),
            EngineInput::Snapshot(group, reply) => self.on_snapshot_request(group, reply, out),
            EngineInput::MachineState(group, meta, state) => match self.slot_of(group) {
                Some(at) => self.on_machine_state(at, meta, state, out),
                None => self.on_left(group, Ended::SnapshotTaken, out),
            },
            EngineInput::SnapshotDone(name, bytes) => self.on_snapshot_done(name, bytes, out),
            EngineInput::SnapshotFetched(name, restored) => {
                self.on_snapshot_fetched(name, *restored, out);
            }
            EngineInput::SnapshotEntries(name, entries) => {
                self.on_snapshot_entries(name, entries, out);
            }
            EngineInput::SnapshotFetchFailed(name) => self.on_snapshot_fetch_failed(name, out),
            EngineInput::KeptUnreadable(life, index, term) => {
                self.on_kept_unreadable(life, (index, term), out);
            }
            EngineInput::SnapshotUseless(group, incarnation, index) => {
                self.on_snapshot_useless((group, incarnation), index, out);
            }
            EngineInput::SnapshotsForgotten(group) => {
                self.on_left(group, Ended::SnapshotsForgotten, out);
            }
        }
    }

    /// Wakes the groups whose time has come.
    pub(crate) fn fire_timers(&mut self, out: &mut TurnOutput) {
        self.route = Route::Control;
        while let Some((at, armed_for)) = self.timers.pop(self.now) {
            let slot = &mut self.slots[at as usize];
            if !Timers::fired(&mut slot.armed, armed_for) || slot.is_gone {
                continue;
            }
            if slot.core.next_deadline().is_some_and(|deadline| deadline <= self.now) {
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
            // Of a replica that left nothing is owed, and its place may be another's.
            if !slot.core.is_leader() && !slot.is_gone {
                self.replies.abandon(slot.spec.group);
            }
        }
        self.spread(out);
        self.replace(out);
    }

    /// When [`fire_timers`](Self::fire_timers) has something to do.
    pub(crate) fn next_deadline(&self) -> Option<Micros> {
        let abandon = self.abandons.front().map(|(due, _)| *due);
        let (hand_overs, ailing) = (self.hand_overs.next_deadline(), self.ailing.next_deadline());
        let (spreading, replacing) =
            (self.spreading.next_deadline(), self.replacing.next_deadline());
        let places = [self.timers.next(), abandon, hand_overs, ailing, spreading, replacing];
        places.into_iter().flatten().min()
    }

    /// Whether some group waits for the end of the turn.
    pub(crate) fn has_touched(&self) -> bool {
        !self.touched.is_empty()
    }

    /// Ends the turn: gathers what all touched groups want persisted, applied and sent.
    pub(crate) fn finish_turn(&mut self, out: &mut TurnOutput) {
        self.route = Route::Control;
        self.tend_ailing(out);
        self.tend_hand_overs(out);
        self.end_declining(out);
        // Reads and, in memory, completions can touch groups again; both settle quickly.
        while !self.touched.is_empty() {
            let mut touched =
                std::mem::replace(&mut self.touched, std::mem::take(&mut self.touched_spare));
            for at in touched.drain(..) {
                self.finish_slot(at, out);
            }
            self.touched_spare = touched;
        }
        out.taken += std::mem::take(&mut self.taken);
    }

    /// Takes account of entries before they are taken; `false` if the log has too much to do.
    pub(super) fn take_load(&mut self, bytes: u64) -> bool {
        if self.options.durability == Durability::Memory {
            return true;
        }
        if self.options.log_load.is_heavy() {
            return false;
        }
        self.options.log_load.add(bytes);
        self.taken += bytes;
        true
    }

    /// Lets a group decline entries, as it does while the disk is full.
    pub(super) fn decline(&mut self, at: u32, out: &mut TurnOutput) {
        let slot = &mut self.slots[at as usize];
        // A leader is not meant: what comes for it is late.
        if !slot.declines && !slot.core.is_leader() {
            slot.declines = true;
            self.declining.push(at);
            Counters::add(&self.counters.log_overloaded, 1);
            self.step(at, Input::Disk(DiskSpace::Full), out);
        }
    }

    /// Once the log has caught up, entries are taken again.
    pub(super) fn end_declining(&mut self, out: &mut TurnOutput) {
        if self.declining.is_empty() || !self.options.log_load.is_light() {
            return;
        }
        for at in std::mem::take(&mut self.declining) {
            let slot = &mut self.slots[at as usize];
            if std::mem::take(&mut slot.declines) && !slot.is_gone {
                self.step(at, Input::Disk(self.disk), out);
            }
        }
    }

    pub(super) fn finish_slot(&mut self, at: u32, out: &mut TurnOutput) {
        self.slots[at as usize].touched = false;
        if self.slots[at as usize].is_gone {
            return;
        }
        self.ask_for_reads(at, out);
        let slot = &mut self.slots[at as usize];
        if let Some(persist) = slot.persist.take() {
            let group = slot.spec.group;
            slot.persisting = persist.seq;
            match self.options.durability {
                Durability::Log => {
                    let mut write = GroupWrite::new(group);
                    write.promise = persist.promise;
                    write.hard_state =
                        persist.hard_state.filter(|_| !raft_core::planted!(TermAndVoteNotLogged));
                    write.install = persist.install.map(|meta| *meta);
                    write.truncate_from = persist.truncate_from;
                    if write.truncate_from.is_some() {
                        slot.snapshots.cuts(persist.seq);
                    }
                    if let Some((first, last)) = persist.append {
                        let entries = slot.payloads.range(first, last);
                        write.entries = entries
                            .expect("entries not yet written are in the window")
                            .cloned()
                            .collect();
                    }
                    let time = slot.core.log_time();
                    write.compact = persist.compact.map(|base| Compaction { base: *base, time });
                    if write.install.is_some() || write.compact.is_some() {
                        let forgets =
                            write.install.is_some() && raft_core::planted!(InstallForgetsLive);
                        write.live = slot.snapshots.left_in_log().filter(|_| !forgets);
                        // An install drops them by itself.
                        slot.snapshots.has_fetched &= write.install.is_none();
                        if !slot.core.is_receiving() {
                            slot.snapshots.drop_fetched(group, out);
                        }
                    }
                    out.persist_tickets.push((group, slot.ticket(persist.seq, &write)));
                    out.persist.push(write);
                }
                Durability::Memory => {
                    self.on_persisted(group, PersistTicket::Op(persist.seq), out);
                }
            }
        }
        look_at_doubted(&mut self.slots[at as usize], out);
        self.dispatch_applies(at, out);
        self.release_snapshot(at, out);
        self.take_snapshot_if_due(at, out);
        self.compact_if_owed(at, out);
        let slot = &mut self.slots[at as usize];
        slot.forget_cold();
        self.timers.arm(at, &mut slot.armed, slot.core.next_deadline());
        if slot.core.is_leader() {
            for peer in slot.peers.iter() {
                if slot.core.wants_append(peer.replica) {
                    self.work[peer.at].mark(at);
                }
            }
            self.note_replacements(at);
        }
    }

    pub(super) fn on_persisted(
        &mut self,
        group: GroupId,
        ticket: PersistTicket,
        out: &mut TurnOutput,
    ) {
        let Some(at) = self.slot_of(group) else {
            self.on_left(group, Ended::Persisted(ticket), out);
            return;
        };
        let seq = match ticket {
            PersistTicket::Create => {
                let slot = &mut self.slots[at as usize];
                slot.is_on_disk = true;
                for (done, created) in slot.created.drain(..) {
                    done(Ok(created));
                }
                return;
            }
            // Whoever left is not in the table any more.
            PersistTicket::Destroy => return,
            PersistTicket::DropFetched => {
                self.slots[at as usize].snapshots.dropping -= 1;
                return;
            }
            PersistTicket::Fetched(name, bytes) => {
                out.snapshots.push(DeskInput::Stored(name, bytes));
                return;
            }
            PersistTicket::Op(seq) | PersistTicket::Early(seq, _) => seq,
        };
        self.slots[at as usize].snapshots.persisted(seq);
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

    /// The page cache has an operation: enough for a group that counts such entries. Whatever rests
    /// on term and vote goes on waiting for the disk.
    fn on_written(&mut self, group: GroupId, ticket: PersistTicket, out: &mut TurnOutput) {
        if let PersistTicket::Early(seq, _) = ticket
            && let Some(at) = self.slot_of(group)
        {
            self.step(at, Input::Written(seq), out);
        }
    }

    /// Steps a group's core and carries out what cannot wait for the end of the turn.
    pub(super) fn step(&mut self, at: u32, input: Input, out: &mut TurnOutput) {
        let slot = &mut self.slots[at as usize];
        // An operation the log was not given yet is continued.
        self.effects.persist = slot.persist.take();
        slot.core.step(self.now, input, &mut self.effects);
        slot.persist = self.effects.persist.take();
        slot.log_clock.follow(slot.core.log_time(), self.now);
        if !slot.touched {
            slot.touched = true;
            self.touched.push(at);
        }
        if self.effects.is_empty() {
            #[cfg(feature = "sim")]
            self.show(at);
            return;
        }
        self.follow_log(at, out);
        if std::mem::take(&mut self.effects.membership_changed) {
            self.follow_membership(at, out);
        }
        #[cfg(feature = "sim")]
        self.show(at);
        self.settle_outcomes(at);
        let mut effects = std::mem::take(&mut self.effects);
        for outgoing in effects.messages.drain_ready() {
            self.send(at, outgoing, out);
        }
        let slot = &mut self.slots[at as usize];
        effects.messages.hold_gated(&mut slot.gated);
        if let Some(appliable) = effects.appliable.take() {
            slot.appliable = appliable;
        }
        if std::mem::take(&mut effects.role_changed) {
            self.note_role(at, out);
        }
        if let Some(fault) = effects.fault.take() {
            self.note_fault(at, &fault, out);
        }
        if let Some(disbelief) = effects.disbelieved.take() {
            self.note_disbelief(at, disbelief);
        }
        let snapshot = effects.snapshot.take();
        self.effects = effects;
        if let Some(effect) = snapshot {
            self.on_snapshot_effect(at, effect, out);
        }
    }

    /// Speaks to the members there are now.
    fn follow_membership(&mut self, at: u32, out: &mut TurnOutput) {
        let mut peers = std::mem::take(&mut self.slots[at as usize].peers);
        let membership = Arc::clone(self.slots[at as usize].core.membership());
        let me = self.slots[at as usize].core.replica();
        peers.follow(me, &membership, |node| self.place_of(node));
        let slot = &mut self.slots[at as usize];
        slot.peers = peers;
        slot.drop_words_to_strangers();
        out.events.push(Event::Members { group: slot.spec.group, membership });
        self.note_place(at);
        self.note_office(at);
    }

    /// The nodes that groups here speak to, or ever did.
    pub(crate) fn nodes(&self) -> &[NodeId] {
        &self.peers
    }

    /// The place of a node in the table of nodes, made if there is none yet.
    pub(super) fn place_of(&mut self, node: NodeId) -> usize {
        if let Some(at) = self.peers.iter().position(|peer| *peer == node) {
            return at;
        }
        self.peers.push(node);
        self.work.push(WorkQueue::default());
        self.bulk_bytes.push(0);
        self.bulk_up.push(false);
        self.data_up.push(None);
        self.bulk_parked.push(WorkQueue::default());
        self.long_parked.push(WorkQueue::default());
        self.peers.len() - 1
    }

    /// Keeps the payloads in step with the core's log.
    pub(super) fn follow_log(&mut self, at: u32, out: &mut TurnOutput) {
        let mut changes = std::mem::take(&mut self.effects.log_changes);
        for change in changes.drain(..) {
            let slot = &mut self.slots[at as usize];
            match change {
                LogChange::Truncated { from } => {
                    slot.replay_until = slot.replay_until.min(from.prev());
                    // Not where entries were found damaged: what is there again may be applied again.
                    slot.appliable = slot.appliable.min(from.prev());
                    slot.payloads.truncate(from);
                    slot.cold.retain(|entry| entry.index < from);
                    if let Some(fetching) = &mut slot.fetching {
                        fetching.cut |= from <= fetching.last;
                    }
                }
                LogChange::Appended { index, term, kind, time } => {
                    let payload = match kind {
                        EntryKind::Noop => Bytes::new(),
                        EntryKind::Command => std::mem::take(&mut self.proposing),
                        EntryKind::Config => slot.core.membership_at(index).encode().into(),
                    };
                    slot.payloads.push(Entry { index, term, kind, time, payload });
                }
                LogChange::Received { first, last } => {
                    let taken =
                        self.incoming.drain(..).filter(|e| (first..=last).contains(&e.index));
                    taken.for_each(|entry| slot.payloads.push(entry));
                }
                LogChange::Reset { meta } => self.replace_machine(at, meta.index, out),
                // Applied or not, what is compacted is in a snapshot.
                LogChange::Compacted { upto } => {
                    slot.payloads.evict(upto, 0);
                    slot.cold.retain(|entry| entry.index > upto);
                    if let Some(fetching) = &mut slot.fetching {
                        fetching.cut = true;
                    }
                }
            }
        }
        self.effects.log_changes = changes;
    }

    pub(super) fn note_role(&mut self, at: u32, out: &mut TurnOutput) {
        let slot = &mut self.slots[at as usize];
        let leads = slot.core.is_leader();
        let me = self.options.node;
        let leader = slot.core.leader().and_then(|replica| slot.node_of(me, replica));
        if matches!(slot.core.status().role, RoleKind::Candidate) {
            self.counters.elections.fetch_add(1, Relaxed);
        }
        if leads && !slot.was_leader {
            let vouched = self.vouched(at);
            let slot = &mut self.slots[at as usize];
            slot.log_clock.take_office(self.now, vouched);
            self.counters.leaders_elected.fetch_add(1, Relaxed);
            info!(group = %slot.spec.group, term = %slot.core.term(), "leading");
        }
        let slot = &mut self.slots[at as usize];
        if slot.was_leader && !leads {
            slot.log_clock.leave_office();
            info!(group = %slot.spec.group, term = %slot.core.term(), "no longer leading");
            let due = self.now.after(self.options.settings.election_timeout_max);
            self.abandons.push_back((due, at));
            out.given_up.push(slot.spec.group);
        }
        let changed = std::mem::replace(&mut slot.was_leader, leads) != leads;
        if changed {
            self.note_place(at);
            self.note_office(at);
        }
        let slot = &mut self.slots[at as usize];
        if leader != slot.known_leader {
            slot.known_leader = leader;
            out.leaders.push((slot.spec.group, leader));
        }
    }

    pub(super) fn note_fault(&mut self, at: u32, fault: &Fault, out: &mut TurnOutput) {
        let slot = &self.slots[at as usize];
        if !self.is_deaf {
            // One line is enough for a log that fails all groups at once.
            error!(group = %slot.spec.group, %fault, "the group is mute: something impossible came");
        }
        self.counters.groups_faulted.fetch_add(1, Relaxed);
        let group = slot.spec.group;
        let why = slot.broken.clone().unwrap_or_else(|| fault.to_string());
        out.events.push(Event::Faulted { group, why });
        // What it committed and cannot apply any more is owed as well.
        let error = RequestError::Faulted(group);
        self.abandon_slot(at, &error);
    }

    /// Told when their number has doubled, so that a peer that goes on so fills no log.
    fn note_disbelief(&self, at: u32, disbelief: Disbelief) {
        let group = self.slots[at as usize].spec.group;
        let count = self.counters.words_disbelieved.fetch_add(1, Relaxed) + 1;
        if count.is_power_of_two() {
            warn!(%group, %disbelief, count, "a peer says what no correct one says: passed over");
        }
    }

    pub(super) fn slot_of(&self, group: GroupId) -> Option<u32> {
        self.by_group.get(&group).copied()
    }

    pub(super) fn touch(&mut self, at: u32) {
        let slot = &mut self.slots[at as usize];
        if !slot.touched {
            slot.touched = true;
            self.touched.push(at);
        }
    }

    /// All groups as they are now.
    pub(crate) fn statuses(&self) -> Vec<GroupStatus> {
        let statuses = self.slots.iter().filter(|slot| !slot.is_gone).map(|slot| {
            let core = slot.core.status();
            GroupStatus {
                group: core.group,
                role: core.role.into(),
                leader: slot.known_leader,
                term: core.term,
                last_index: core.last_index,
                durable_index: core.durable_index,
                flush_lag_bytes: match core.last_index.since(core.durable_index) {
                    0 => 0,
                    _ => slot.snapshots.sizes.behind(core.durable_index),
                },
                flush_lag_ms: slot
                    .core
                    .waits_for_disk_since()
                    .map_or(0, |since| self.now.since(since).as_millis() as u64),
                commit_index: core.commit_index,
                applied_index: slot.applied.index,
                log_time: slot.applied.log_time,
                applied_commands: slot.applied.commands,
                strategy: slot.strategy(),
                loss_epoch: core.promise.loss_epoch,
                quorum_durable_index: core.quorum_durable_index,
                label: slot.spec.label.clone(),
                snapshot_index: core.snapshot_index,
                base_index: core.base_index,
                members: slot.core.membership().members().to_vec(),
                removed: core.removed,
                is_replaying: slot.is_replaying(),
                promise: core.promise.promise,
                fault: slot
                    .broken
                    .clone()
                    .or_else(|| core.fault.map(|fault| fault.to_string()))
                    .or_else(|| slot.snapshots.unreadable_named().map(unreadable)),
            }
        });
        statuses.chain(self.unusable.values().map(Unusable::status)).collect()
    }

    /// What the log has been given.
    pub(crate) fn log_load(&self) -> &LogLoad {
        &self.options.log_load
    }
}
