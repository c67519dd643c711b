//! Messages on their way: sent, carried by the network, and handed to whom they are for.
//!
//! What a message promises must be on disk when it leaves. It may find that its receiver is gone,
//! or has a successor, or is only to be founded by it.

use raft_core::{Base, GroupId, Incarnation, Input, Message, NodeId, Outgoing, ReplicaId};

use super::disk::Image;
use super::network::NodeAt;
use super::node::Running;
use super::platters::Platters;
use super::promises::promises_of;
use super::record::Record;
use super::timeline::Event;
use super::world::World;
use crate::sim::marks::Mark;
use crate::sim::violation::{Check, Violation};

/// A message on its way, with the entries its driver attached.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    pub(crate) id: u64,
    pub(crate) from_node: NodeAt,
    pub(crate) from: ReplicaId,
    pub(crate) from_life: Incarnation,
    pub(crate) to_node: NodeAt,
    pub(crate) to: ReplicaId,
    pub(crate) to_life: Incarnation,
    pub(crate) group: GroupId,
    pub(crate) message: Message,
    pub(crate) records: Vec<Record>,
    /// It is the second of a message that arrives twice.
    pub(crate) is_copy: bool,
}

impl World {
    /// A message leaves its node. What it promises is noted, and must be on disk.
    pub(super) fn send(
        &mut self,
        at: NodeAt,
        group: GroupId,
        outgoing: Outgoing,
        records: Vec<Record>,
    ) {
        let Some(replica) = self.nodes[at].replicas.get(&group) else { return };
        let from = replica.id();
        let membership = replica.core.membership();
        let member = membership.member(outgoing.to).map(|member| member.node);
        let node = member.or_else(|| self.home_of(group, outgoing.to));
        let promises = promises_of(&outgoing.message, from, outgoing.to, replica);
        for promise in promises.into_iter().flatten() {
            let platters = Platters { nodes: &self.nodes, counts_written: self.counts_written() };
            let seen = self.checker.promised(group, from, promise, &platters);
            self.check(seen);
        }
        if let Message::PreVoteReply(reply) = &outgoing.message {
            let seen = self.checker.pre_vote_answered(group, from, outgoing.to, *reply);
            self.check(seen);
        }
        if let Message::HeartbeatReply(reply) = &outgoing.message {
            let replica = &self.nodes[at].replicas[&group];
            if !replica.memory.was_asked(reply.term, reply.read_seq) {
                let asked = replica.memory.asked;
                let evidence = format!("{from:?} was asked {asked:?} and answers {reply:?}");
                self.check(Err(Violation::of_group(Check::Confirmation, group, evidence)));
            }
        }
        let Some(node) = node else { return };
        let to_node = self.node_at(node);
        self.packets += 1;
        let packet = Packet {
            id: self.packets,
            from_node: at,
            from,
            from_life: self.nodes[at].incarnation,
            to_node,
            to: outgoing.to,
            to_life: self.nodes[to_node].incarnation,
            group,
            message: outgoing.message,
            records,
            is_copy: false,
        };
        self.counts.messages += 1;
        self.tell_sent(&packet);
        if to_node == at {
            return;
        }
        let (once, again) = self.network.send(at, to_node, &packet.message);
        if let Some(delay) = again {
            let copy = Packet { is_copy: true, ..packet.clone() };
            self.queue.push(self.now + delay, Event::Packet(Box::new(copy)));
        }
        if let Some(delay) = once {
            self.queue.push(self.now + delay, Event::Packet(Box::new(packet)));
        }
    }

    /// Where a replica lives that the sender does not know as a member, say a former one.
    pub(super) fn home_of(&self, group: GroupId, replica: ReplicaId) -> Option<NodeId> {
        let mut homes = self.nodes.iter().filter(|node| {
            node.disk.images.get(&group).is_some_and(|image| image.replica == replica)
        });
        homes.next().map(|node| node.id)
    }

    pub(super) fn deliver(&mut self, packet: Packet) {
        let at = packet.to_node;
        match self.nodes[at].running {
            Running::Up => {}
            Running::Paused => {
                // It waits in the socket.
                self.queue.push(self.now + 20_000, Event::Packet(Box::new(packet)));
                return;
            }
            Running::Down => return,
        }
        self.nodes[at].heard_at = self.now;
        let group = packet.group;
        let here = self.nodes[at].replicas.get(&group).map(|replica| replica.id());
        if here != Some(packet.to) {
            self.deliver_elsewhere(here, packet);
            return;
        }
        self.note_arrival(at, &packet);
        let Packet { from, from_life, to_life, message, records, id, .. } = packet;
        self.tell_received(at, group, id, from, &message);
        let input =
            Input::Message { from, from_incarnation: from_life, to_incarnation: to_life, message };
        self.step(at, group, input, &records);
    }

    /// A message for a replica that is not here: it was here once, or is to be, or neither.
    fn deliver_elsewhere(&mut self, here: Option<ReplicaId>, packet: Packet) {
        let at = packet.to_node;
        let group = packet.group;
        let tombstone = self.nodes[at].disk.tombstones.get(&group).copied();
        if let Some(tombstone) = tombstone.filter(|stone| stone.replica >= packet.to) {
            if let Some(answer) = tombstone.answer(&packet.message) {
                self.marks.hit(Mark::TombstoneSpoke);
                let (once, _) = self.network.send(at, packet.from_node, &answer);
                let reply = Packet {
                    from_node: at,
                    from: packet.to,
                    from_life: self.nodes[at].incarnation,
                    to_node: packet.from_node,
                    to: packet.from,
                    to_life: packet.from_life,
                    message: answer,
                    records: Vec::new(),
                    ..packet
                };
                if let Some(delay) = once {
                    self.queue.push(self.now + delay, Event::Packet(Box::new(reply)));
                }
            }
            return;
        }
        // A leader's word for a replica that is to be here makes it: it knows nothing yet, and
        // promises nothing before its first record is on disk.
        let founds = matches!(packet.message, Message::Append(_) | Message::Snapshot(_));
        let wiped = self.nodes[at].lost_replicas.get(&group);
        let is_new = here.max(wiped.copied()).is_none_or(|older| older < packet.to);
        if founds && is_new && self.operator_expects(group, packet.to, at) {
            if here.is_some() {
                // Its place was given to another: it was removed and has not heard.
                self.delete_replica(at, group);
            }
            let image = Image::new(packet.to, Base::default());
            self.nodes[at].disk.images.insert(group, image);
            self.start_replica(at, group);
            if self.is_here(at, group, packet.to) {
                self.deliver(packet);
            }
        }
    }
}
