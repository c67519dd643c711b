//! Marks of messages as they arrive: twice, late, out of order, over links that are one-way.

use raft_core::{Message, Term, Verdict};

use super::super::network::NodeAt;
use super::super::packet::Packet;
use super::super::world::World;
use super::memory::Arrived;
use crate::sim::marks::Mark;

impl World {
    /// A message arrives at the replica it is for.
    pub(crate) fn note_arrival(&mut self, at: NodeAt, packet: &Packet) {
        let back = self.network.is_cut(at, packet.from_node);
        if back && !self.network.is_cut(packet.from_node, at) {
            self.marks.hit(Mark::OneWayCut);
        }
        let life = self.nodes[at].incarnation;
        let Some(replica) = self.nodes[at].replicas.get_mut(&packet.group) else { return };
        let memory = &mut replica.memory;
        let arrived =
            |term: Term| Arrived { from: packet.from, life: packet.from_life, term, id: packet.id };
        let is_overtaken = |newest: &Option<Arrived>| {
            newest.is_some_and(|newest| {
                let is_same_sender = (newest.from, newest.life) == (packet.from, packet.from_life);
                is_same_sender && newest.id > packet.id
            })
        };
        let is_ours = packet.to_life == life;
        if let Message::Append(append) = &packet.message
            && is_ours
        {
            let newest = &memory.newest_append;
            if packet.is_copy {
                if newest.is_some_and(|newest| newest.id >= packet.id) {
                    self.marks.hit(Mark::AppendDuplicate);
                }
                return;
            }
            if is_overtaken(newest) {
                self.marks.hit(Mark::AppendReordered);
            } else {
                memory.newest_append = Some(arrived(append.term));
            }
            let heartbeat = &memory.newest_heartbeat;
            let is_same_term = heartbeat.is_some_and(|beat| beat.term == append.term);
            if is_same_term && is_overtaken(heartbeat) {
                self.marks.hit(Mark::HeartbeatOvertookAppend);
            }
        } else if let Message::Heartbeat(heartbeat) | Message::ReadConfirm(heartbeat) =
            &packet.message
        {
            if is_ours && !is_overtaken(&memory.newest_heartbeat) {
                memory.newest_heartbeat = Some(arrived(heartbeat.term));
            }
        } else if let Message::VoteReply(reply) = &packet.message
            && reply.verdict == Verdict::Granted
            && packet.to_life < life
        {
            self.marks.hit(Mark::VoteOutlivedRestart);
        }
    }
}
