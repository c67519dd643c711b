//! How a fleet moves: one replica takes one input, and what follows from it is carried out.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use raft_core::{
    EntryKind, Input, LogChange, LogIndex, Message, Outgoing, ReplicaId, SnapshotEffect,
};

use super::disk::{Operation, Record};
use super::{Fleet, Node, Packet, STEPS_MAX};
use crate::bench::*;

impl Fleet {
    /// One message arrives, perhaps again.
    pub(crate) fn deliver(&mut self, packet: Packet) {
        let (careless, true_now) = (self.careless, self.now);
        let from_life = self.node(packet.from).life;
        let node = self.node_mut(packet.to);
        if let Some(waiting) = &mut node.paused {
            waiting.push(packet);
            return;
        }
        let now = node.clock(true_now);
        let Some(up) = &mut node.up else { return };
        let Packet { from, message, records, .. } = packet;
        let (from_incarnation, to_incarnation) =
            if careless { (from_life, node.life) } else { (packet.from_life, packet.to_life) };
        let input = Input::Message { from, from_incarnation, to_incarnation, message };
        let first = match &input {
            Input::Message { message: Message::Append(append), .. } => append.prev_index.next(),
            _ => LogIndex::ZERO,
        };
        up.group.step(now, input, &mut up.effects);
        let received: BTreeMap<LogIndex, Record> =
            (first.get()..).map(index).zip(records).collect();
        self.absorb(packet.to, &received);
    }

    /// A replica takes one input.
    pub(crate) fn input(&mut self, id: ReplicaId, input: Input) {
        let true_now = self.now;
        let node = self.node_mut(id);
        let now = node.clock(true_now);
        let Some(up) = &mut node.up else { return };
        up.group.step(now, input, &mut up.effects);
        self.absorb(id, &BTreeMap::new());
    }

    /// Carries out what followed from a step, but delivers nothing.
    fn absorb(&mut self, id: ReplicaId, received: &BTreeMap<LogIndex, Record>) {
        let at = self.at(id);
        let node = &mut self.nodes[at];
        let Some(up) = &mut node.up else { return };
        for change in std::mem::take(&mut up.effects.log_changes) {
            match change {
                LogChange::Truncated { from } => up.log.truncate(from),
                LogChange::Appended { index, term, kind, .. } => {
                    self.created += 1;
                    let membership = (kind == EntryKind::Config)
                        .then(|| Arc::clone(up.group.membership_at(index)));
                    up.log.push(index, Record { term, identity: self.created, membership });
                }
                LogChange::Received { first, last } => {
                    for at in (first.get()..=last.get()).map(index) {
                        up.log.push(at, received.get(&at).expect("it came along").clone());
                    }
                }
                LogChange::Reset { meta } => up.log.reset(&meta),
                LogChange::Compacted { upto } => up.log.compact(upto),
            }
        }
        if let Some(persist) = up.effects.persist.take() {
            let range = |(first, last)| up.log.range(first, last);
            let records = persist.append.map(range).unwrap_or_default();
            node.disk.submit(Operation { persist, records });
        }
        match up.effects.snapshot.take() {
            Some(SnapshotEffect::Fetch { from, meta }) => up.fetch = Some((from, meta)),
            Some(SnapshotEffect::Abort { .. }) => up.fetch = None,
            Some(SnapshotEffect::Doubted { .. }) | None => {}
        }
        let fault = up.effects.fault.take();
        up.effects.appliable = None;
        let outgoing: Vec<Outgoing> = up.effects.messages.drain_ready().collect();
        up.effects.messages.hold_gated(&mut up.gated);
        let outcomes = std::mem::take(&mut up.effects.outcomes);
        if let Some(fault) = fault {
            up.gated.clear();
            assert!(self.may_fault.contains(&id), "{id} went mute: {fault}");
        }
        self.checker.look(&self.nodes[at], &self.nodes);
        if let Some(up) = &mut self.nodes[at].up {
            up.commit_seen = up.group.commit_index();
            up.applied_seen = up.group.status().appliable_index;
            up.led = up.group.is_leader();
            up.in_force = Some(Arc::clone(up.group.membership()));
        }
        for outgoing in outgoing {
            self.post(id, outgoing);
        }
        for (token, outcome) in outcomes {
            self.checker.ends(token, outcome);
        }
    }

    pub(super) fn post(&mut self, from: ReplicaId, outgoing: Outgoing) {
        let Outgoing { to, message } = outgoing;
        let Some(receiver) = self.nodes.iter().find(|node| node.id == to) else { return };
        let to_life = receiver.life;
        let node = self.node(from);
        let records = match (&message, &node.up) {
            (Message::Append(append), Some(up)) => {
                up.log.range(append.prev_index.next(), append.last_index())
            }
            _ => Vec::new(),
        };
        let packet = Packet { from, from_life: node.life, to, to_life, message, records };
        let at = self.at(from);
        self.checker.leaves(&packet, &self.nodes[at].disk);
        if self.cut.contains(&(from, to)) {
            return;
        }
        if self.hold.as_ref().is_some_and(|which| which(&packet)) {
            self.held.push(packet);
        } else {
            self.wire.push_back(packet);
        }
    }

    /// Sends the appends a leader wants to send.
    fn pump(&mut self, id: ReplicaId) -> bool {
        let mut moved = false;
        for to in self.ids() {
            for sent in 0.. {
                assert!(sent < STEPS_MAX, "{id} sends to {to} for ever");
                let true_now = self.now;
                let node = self.node_mut(id);
                let now = node.clock(true_now);
                let Some(up) = &mut node.up else { return moved };
                let Some(append) = up.group.make_append(now, to, u64::MAX, |_| Some(100)) else {
                    break;
                };
                moved = true;
                self.post(id, Outgoing { to, message: Message::Append(append) });
            }
        }
        moved
    }

    /// Delivers and syncs until nothing moves.
    pub(crate) fn settle(&mut self) {
        assert!(self.settle_for(STEPS_MAX), "it does not come to rest: {:?}", self.wire);
    }

    /// The same, but at most so many messages arrive. `true`: nothing moves any more.
    pub(crate) fn settle_for(&mut self, messages: usize) -> bool {
        for _ in 0..=messages {
            let mut moved = false;
            for id in self.ids() {
                if self.node(id).paused.is_some() || self.node(id).up.is_none() {
                    continue;
                }
                while !self.node(id).disk.held && self.step_disk(id) {
                    moved = true;
                }
                moved |= self.pump(id);
                moved |= !self.hold_snapshots && self.arrive_snapshot(id);
            }
            if let Some(packet) = self.wire.pop_front() {
                self.deliver(packet);
                moved = true;
            }
            if !moved {
                return true;
            }
        }
        false
    }

    /// Lets time pass for all; whoever asked to be woken is.
    pub(crate) fn live(&mut self, duration: Duration) {
        let end = self.now + duration.as_micros() as u64;
        self.settle();
        for _ in 0..STEPS_MAX {
            let due = |node: &Node| {
                let up = node.up.as_ref().filter(|_| node.paused.is_none())?;
                let due = up.group.next_deadline()?.get().saturating_sub(node.offset);
                Some((u128::from(due) * 1_000_000).div_ceil(node.rate.into()) as u64)
            };
            let next = self.nodes.iter().filter_map(|node| Some((due(node)?, node.id))).min();
            match next.filter(|(due, _)| *due <= end) {
                Some((due, id)) => {
                    self.now = self.now.max(due);
                    self.input(id, Input::Deadline);
                    self.settle();
                }
                None => {
                    self.now = end;
                    return;
                }
            }
        }
        panic!("somebody is woken for ever");
    }

    /// All who run have one log, and know all of it to be committed.
    pub(crate) fn agree(&self) {
        let leader = self.leader().expect("somebody leads");
        let last = self.last(leader);
        for node in self.nodes.iter().filter(|node| node.up.is_some()) {
            let status = self.group(node.id).status();
            let ends = (status.last_index.get(), status.commit_index.get(), status.leader);
            assert_eq!(ends, (last, last, Some(leader)), "{} of term {}", node.id, status.term);
        }
    }
}
