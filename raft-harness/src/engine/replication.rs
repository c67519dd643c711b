//! Appends, pulled by lanes that have room.
//!
//! Invariant: an append never overtakes another of its group, so a group changes lanes only while
//! nothing of it is in flight.

use raft_core::{Entry, GroupId, Input, LogIndex, Message, NodeId, ReplicaId};
use raft_transport::{Envelope, Frame, LaneClass, LaneConfig, Room};
use tracing::warn;

use super::io::{Fetch, SendLane, TurnOutput};
use super::peers::Peer;
use super::removal::Ended;
use super::shard_engine::ShardEngine;
use super::slot::{Fetching, Slot};
use crate::counters::Counters;

/// What an append counts for against a shard's allowance of the bulk lane, in bytes, at least.
const BULK_COST_MIN: u64 = 256;

impl ShardEngine {
    /// Builds the next append for a peer's data lane, as large as its room unless a single entry
    /// is larger. Groups with more than a short append wait where the lane takes none that is
    /// longer. Appends that belong on the bulk lane go to `out` on the way.
    pub(crate) fn pull(&mut self, peer: NodeId, room: Room, out: &mut TurnOutput) -> Option<Frame> {
        let at_peer = self.peers.iter().position(|node| *node == peer)?;
        while let Some(at) = self.next_group(at_peer, room) {
            let mut asked = 0;
            // Mostly one; while a replica replaces another on its node, two, and one that must
            // wait does not hold up the other.
            while let Some((replica, lane)) = self.wanting(at, at_peer, asked) {
                asked += 1;
                let lane = match self.lane_now(at, at_peer, replica, lane, out) {
                    LaneNow::Send(lane) => lane,
                    LaneNow::Wait => continue,
                };
                if lane == SendLane::Data
                    && !room.takes_long
                    && self.has_long(at, replica, room.short_max)
                {
                    self.long_parked[at_peer].mark(at);
                    continue;
                }
                let Some((envelope, cost)) =
                    self.append_for(at, at_peer, replica, lane, room.bytes)
                else {
                    continue;
                };
                if self.wanting(at, at_peer, 0).is_some() {
                    self.work[at_peer].mark(at);
                }
                match lane {
                    SendLane::Data => return Some(Frame::Message(envelope)),
                    SendLane::Bulk => {
                        // One without entries, which only asks, takes memory as well.
                        let cost = cost.max(BULK_COST_MIN);
                        self.bulk_bytes[at_peer] += cost;
                        out.bulk.push((peer, envelope, cost));
                        break;
                    }
                }
            }
        }
        None
    }

    /// Whose turn it is. Those that waited for room for a long append come first, one at a time.
    fn next_group(&mut self, at_peer: usize, room: Room) -> Option<u32> {
        let parked = &mut self.long_parked[at_peer];
        room.takes_long.then(|| parked.pop()).flatten().or_else(|| self.work[at_peer].pop())
    }

    /// The `nth` replica on a node that wants an append, and its lane.
    fn wanting(&self, at: u32, at_peer: usize, nth: usize) -> Option<(ReplicaId, SendLane)> {
        let slot = &self.slots[at as usize];
        let wants = |peer: &&Peer| slot.core.wants_append(peer.replica);
        let peer = slot.peers.on(at_peer).filter(wants).nth(nth)?;
        Some((peer.replica, peer.lane))
    }

    /// The next append for a replica, with its entries, and what they cost.
    fn append_for(
        &mut self,
        at: u32,
        at_peer: usize,
        replica: ReplicaId,
        lane: SendLane,
        budget: u64,
    ) -> Option<(Envelope, u64)> {
        let budget = match lane {
            SendLane::Data => budget,
            // As many as share the lane with others, unless the peer's window is smaller than ours.
            SendLane::Bulk => LaneConfig::shared_message_max(self.options.bulk_bytes_max),
        };
        let now = self.now;
        let slot = &mut self.slots[at as usize];
        // The closure needs the payloads while the core is borrowed; they are other fields.
        let (core, payloads, cold) = (&mut slot.core, &slot.payloads, &slot.cold);
        let first = core.next_index(replica).unwrap_or_default();
        let (policy, bulk_up) = (self.options.lane_policy, self.bulk_up[at_peer]);
        let append = core.make_append(now, replica, budget, |index| {
            let entry = payloads.get(index).or_else(|| cold_entry(cold, index))?;
            // A large entry does not ride behind small ones: the next append is its own.
            let is_large = policy.append_class(entry.payload.len() as u64) == LaneClass::Bulk;
            let waits = is_large && bulk_up && lane == SendLane::Data && index > first;
            (!waits).then(|| entry.cost())
        })?;
        let mut entries = Vec::with_capacity(append.count() as usize);
        let mut cost = 0;
        let mut index = append.prev_index.next();
        while index <= append.last_index() {
            let entry = slot.entry(index).expect("the core sent only what is at hand");
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
        Some((envelope, cost))
    }

    /// Whether more than so many bytes of entries wait for a replica. Looks at no more of them.
    fn has_long(&self, at: u32, replica: ReplicaId, short_max: u64) -> bool {
        let slot = &self.slots[at as usize];
        if !slot.core.sends_entries_to(replica) {
            return false;
        }
        let mut index = slot.core.next_index(replica).unwrap_or_default();
        let mut bytes = 0;
        while index <= slot.core.last_index()
            && let Some(entry) = slot.entry(index)
        {
            bytes += entry.cost();
            if bytes > short_max {
                return true;
            }
            index = index.next();
        }
        false
    }

    /// Whether there is work for a peer that fits into the room its lane has.
    pub(crate) fn has_work(&self, peer: NodeId, room: Room) -> bool {
        let at = self.peers.iter().position(|node| *node == peer);
        at.is_some_and(|at| {
            let has_long = room.takes_long && !self.long_parked[at].is_empty();
            room.bytes > 0 && (has_long || !self.work[at].is_empty())
        })
    }

    /// Room for appends to a peer where shards have no lanes of their own: what the lane that
    /// carries for all of them may still be given. It knows what is long by itself.
    pub(crate) fn carried_room(&self, peer: NodeId) -> Room {
        let at = self.peers.iter().position(|node| *node == peer);
        match at.filter(|at| self.bulk_up[*at]) {
            Some(at) if self.bulk_bytes[at] < self.options.bulk_bytes_max => {
                Room { bytes: self.options.bulk_bytes_max, short_max: u64::MAX, takes_long: true }
            }
            Some(_) | None => Room::default(),
        }
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
        let has_data_lanes = self.options.layout.has_data_lanes();
        let mut wanted = if has_data_lanes { SendLane::Data } else { SendLane::Bulk };
        if !slot.core.sends_entries_to(replica) && slot.core.has_in_flight(replica) {
            // A question follows what it is about.
            wanted = lane;
        } else if slot.core.sends_entries_to(replica) && next <= slot.core.last_index() {
            let Some(entry) = slot.entry(next) else {
                fetch(slot, next, out);
                return LaneNow::Wait;
            };
            let class = self.options.lane_policy.append_class(entry.payload.len() as u64);
            // Without a bulk lane the data lane takes what there is.
            if class == LaneClass::Bulk && self.bulk_up[at_peer] {
                wanted = SendLane::Bulk;
            }
        }
        let mut lane = lane;
        if wanted != lane && !slot.core.has_in_flight(replica) {
            lane = wanted;
            if let Some(peer) = slot.peers.get_mut(replica) {
                peer.lane = wanted;
            }
        } else if wanted == SendLane::Bulk && lane == SendLane::Data {
            return LaneNow::Wait;
        }
        if lane == SendLane::Bulk && self.bulk_bytes[at_peer] >= self.options.bulk_bytes_max {
            self.bulk_parked[at_peer].mark(at);
            return LaneNow::Wait;
        }
        LaneNow::Send(lane)
    }

    pub(super) fn on_fetched(&mut self, group: GroupId, entries: Vec<Entry>, out: &mut TurnOutput) {
        let Some(mut at) = self.slot_of(group) else {
            self.on_left(group, Ended::Fetched, out);
            return;
        };
        if raft_core::planted!(ReadTakenForFirst)
            && let Some(first) = self.slots.iter().position(|slot| slot.fetching.is_some())
        {
            at = first as u32;
        }
        let slot = &mut self.slots[at as usize];
        slot.fetching = None;
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

    pub(super) fn on_fetch_failed(
        &mut self,
        group: GroupId,
        index: LogIndex,
        out: &mut TurnOutput,
    ) {
        let Some(at) = self.slot_of(group) else {
            self.on_left(group, Ended::Fetched, out);
            return;
        };
        let fetching = self.slots[at as usize].fetching.take();
        if fetching.is_some_and(|fetching| fetching.cut) {
            // The log got shorter while it was read. Whoever still needs entries asks again.
            self.touch(at);
            return;
        }
        let is_look = fetching.is_some_and(|fetching| fetching.is_look);
        if is_look && self.makes_superfluous(at, index, out) {
            self.touch(at);
            return;
        }
        if !self.passes_over(at, index, out) {
            self.forget_damaged(at, index, out);
        }
    }

    /// An entry was found damaged that nobody needs at the moment. The word may be late: of entries that
    /// were cut and written anew since, or of a replica that left. So nothing is forgotten before it was
    /// read once more in the name of this one.
    pub(super) fn on_log_damaged(&mut self, group: GroupId, index: LogIndex, out: &mut TurnOutput) {
        let Some(at) = self.slot_of(group) else { return };
        let slot = &self.slots[at as usize];
        if index <= slot.core.base_index() && slot.snapshots.names_one_at(index) {
            // It is kept from before the log, as long as snapshots name it. Others have it, and whether
            // anybody needs it of us is not known: another snapshot may let go of it.
            self.take_snapshot(at, out);
            return;
        }
        if self.makes_superfluous(at, index, out) {
            return;
        }
        let doubted = &mut self.slots[at as usize].doubted;
        *doubted = Some(doubted.map_or(index, |other| other.min(index)));
        self.touch(at);
    }

    /// Whether a damaged entry need not be read any more: a snapshot makes it superfluous where the state
    /// has it; a machine that gives none leaves it to whoever needs the entry.
    fn makes_superfluous(&mut self, at: u32, index: LogIndex, out: &mut TurnOutput) -> bool {
        if self.passes_over(at, index, out) {
            return true;
        }
        let is_applied = index <= self.slots[at as usize].dispatched;
        if is_applied {
            self.take_snapshot(at, out);
        }
        is_applied
    }

    /// The log of a replica is as a start would find it damaged: what follows is learned again.
    fn forget_damaged(&mut self, at: u32, index: LogIndex, out: &mut TurnOutput) {
        let slot = &self.slots[at as usize];
        let (group, last) = (slot.spec.group, slot.core.last_index());
        self.step(at, Input::LogDamaged(index), out);
        if self.slots[at as usize].core.last_index() < last {
            warn!(%group, %index, "forgets its log from a damaged entry on, and learns it again");
            Counters::add(&self.counters.logs_refilled, 1);
        }
    }

    /// What the snapshot covers need not be read: whoever lacks it is sent the snapshot.
    fn passes_over(&mut self, at: u32, index: LogIndex, out: &mut TurnOutput) -> bool {
        if index <= self.slots[at as usize].core.snapshot_index() {
            self.step(at, Input::Compact(index), out);
        }
        let slot = &mut self.slots[at as usize];
        let is_past = slot.core.status().base_index >= index;
        if is_past {
            slot.snapshots.sizes.forget(index);
            self.touch(at);
        }
        is_past
    }

    pub(super) fn on_lane_up(&mut self, peer: NodeId, lane: SendLane) {
        let at_peer = self.place_of(peer);
        match lane {
            SendLane::Bulk => self.bulk_up[at_peer] = true,
            SendLane::Data => {}
        }
        if lane == self.usual_lane() {
            self.data_up[at_peer].get_or_insert(self.now);
        }
    }

    pub(super) fn on_lane_down(&mut self, peer: NodeId, lane: SendLane, out: &mut TurnOutput) {
        let Some(at_peer) = self.peers.iter().position(|node| *node == peer) else {
            return;
        };
        if lane == SendLane::Bulk {
            self.bulk_up[at_peer] = false;
            if !raft_core::planted!(RoomLostWithLane) {
                self.bulk_bytes[at_peer] = 0;
            }
            while let Some(at) = self.bulk_parked[at_peer].pop() {
                self.touch(at);
            }
        }
        if lane == self.usual_lane() {
            self.data_up[at_peer] = None;
        }
        if lane == self.usual_lane() && self.stopping {
            self.count_out(at_peer, out);
        }
        for at in 0..self.slots.len() as u32 {
            let told = if raft_core::planted!(LaneDownTellsOne) { 1 } else { usize::MAX };
            let cut_off: Vec<ReplicaId> = self.on_lane(at, at_peer, lane).take(told).collect();
            #[cfg(feature = "sim")]
            let told = cut_off.len() as u64;
            for replica in cut_off {
                self.step(at, Input::PeerUnreachable(replica), out);
            }
            #[cfg(feature = "sim")]
            self.show_lane_down(at, told, self.on_lane(at, at_peer, lane).count() as u64);
        }
    }

    /// The lane that carries appends of any size where there is no reason for another.
    fn usual_lane(&self) -> SendLane {
        match self.options.layout.has_data_lanes() {
            true => SendLane::Data,
            false => SendLane::Bulk,
        }
    }

    /// The replicas on a node with something in flight on that lane: each of them must hear that
    /// it is gone.
    pub(super) fn on_lane(
        &self,
        at: u32,
        at_peer: usize,
        lane: SendLane,
    ) -> impl Iterator<Item = ReplicaId> + '_ {
        let slot = &self.slots[at as usize];
        let concerned =
            move |peer: &&Peer| peer.lane == lane && slot.core.has_in_flight(peer.replica);
        slot.peers.on(at_peer).filter(concerned).map(|peer| peer.replica)
    }

    pub(super) fn on_bulk_sent(&mut self, peer: NodeId, bytes: u64) {
        let Some(at_peer) = self.peers.iter().position(|node| *node == peer) else {
            return;
        };
        self.bulk_bytes[at_peer] = self.bulk_bytes[at_peer].saturating_sub(bytes);
        while let Some(at) = self.bulk_parked[at_peer].pop() {
            self.touch(at);
        }
    }
}

enum LaneNow {
    Send(SendLane),
    Wait,
}

fn cold_entry(cold: &[Entry], index: LogIndex) -> Option<&Entry> {
    let first = cold.first()?.index;
    if index < first { None } else { cold.get(index.since(first) as usize) }
}

/// Asks for entries from `first` on, unless the log is being read for this group already.
pub(super) fn fetch(slot: &mut Slot, first: LogIndex, out: &mut TurnOutput) {
    if slot.fetching.is_none() {
        // What is newer is still in the window.
        let last = slot.core.written_index();
        slot.fetching = Some(Fetching { last, cut: false, is_look: false });
        out.fetches.push(Fetch { group: slot.spec.group, first, last });
    }
}

/// Reads the entry that was found damaged, if the log still has one there, once nothing else is read.
pub(super) fn look_at_doubted(slot: &mut Slot, out: &mut TurnOutput) {
    if slot.fetching.is_none()
        && let Some(index) = slot.doubted.take()
        && index > slot.core.base_index()
        && index <= slot.core.written_index()
    {
        slot.fetching = Some(Fetching { last: index, cut: false, is_look: true });
        out.fetches.push(Fetch { group: slot.spec.group, first: index, last: index });
    }
}
