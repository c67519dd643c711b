//! A node's turn: what the replicas that were stepped want is carried out, effect by effect.
//!
//! A crash can fall between any two effects. Turns come a little after the steps that call for
//! them, so that one turn serves several.

use raft_core::{GroupId, Message, Outgoing};

use super::disk::Op;
use super::network::NodeAt;
use super::node::Running;
use super::record::Record;
use super::world::World;
use crate::sim::marks::Mark;

impl World {
    /// One effect is about to be carried out; true if the node dies before.
    pub(super) fn dies(&mut self, at: NodeAt) -> bool {
        let node = &mut self.nodes[at];
        if let Some((left, stop)) = &mut node.crash_after {
            if *left == 0 {
                let stop = *stop;
                self.marks.hit(Mark::CrashBetweenEffects);
                self.crash(at, stop);
                return true;
            }
            *left -= 1;
        }
        node.running == Running::Down
    }

    /// The end of a turn: everything that touched replicas want is carried out.
    pub(super) fn turn(&mut self, at: NodeAt) {
        self.nodes[at].turn_due = false;
        let touched = std::mem::take(&mut self.nodes[at].touched);
        for group in touched {
            if let Some(replica) = self.nodes[at].replicas.get_mut(&group) {
                replica.touched = false;
            }
            self.carry_out(at, group);
            if self.nodes[at].running == Running::Down || self.violation.is_some() {
                return;
            }
        }
        self.kick_disk(at);
    }

    fn carry_out(&mut self, at: NodeAt, group: GroupId) {
        self.settle_outcomes(at, group);
        // Disk and network start in either order; neither may rely on it.
        let disk_first = self.rng_turn.chance(1, 2);
        if disk_first {
            self.submit(at, group);
        }
        self.send_ready(at, group);
        if !disk_first {
            self.submit(at, group);
        }
        self.pull_appends(at, group);
        self.handle_snapshot_effect(at, group);
        self.apply(at, group);
        self.arm(at, group);
    }

    fn submit(&mut self, at: NodeAt, group: GroupId) {
        let has = self.nodes[at].replicas.get(&group).is_some_and(|r| r.effects.persist.is_some());
        if !has || self.dies(at) {
            return;
        }
        let node = &mut self.nodes[at];
        let Some(replica) = node.replicas.get_mut(&group) else { return };
        let Some(persist) = replica.effects.persist.take() else { return };
        let records = match persist.append {
            Some((first, last)) => replica.records(first, last),
            None => Vec::new(),
        };
        let id = replica.id();
        node.disk.submit(Op { group, replica: id, persist, records });
    }

    fn send_ready(&mut self, at: NodeAt, group: GroupId) {
        let Some(replica) = self.nodes[at].replicas.get_mut(&group) else { return };
        let ready: Vec<Outgoing> = replica.effects.messages.drain_ready().collect();
        replica.effects.messages.hold_gated(&mut replica.gated);
        for outgoing in ready {
            if self.dies(at) {
                return;
            }
            self.send(at, group, outgoing, Vec::new());
        }
    }

    /// Appends leave in small numbers per turn, as lanes with little room would take them.
    fn pull_appends(&mut self, at: NodeAt, group: GroupId) {
        let local = self.nodes[at].local(self.now);
        let Some(replica) = self.nodes[at].replicas.get(&group) else { return };
        if !replica.core.is_leader() {
            return;
        }
        let me = replica.id();
        let mut peers = replica.core.replicated_to();
        peers.retain(|peer| *peer != me);
        for peer in peers {
            for _ in 0..4 {
                let budget = if self.rng_turn.chance(1, 4) { 100 } else { u64::MAX };
                let Some(replica) = self.nodes[at].replicas.get_mut(&group) else { return };
                let (log, base) = (&replica.log, replica.base);
                let append = replica.core.make_append(local, peer, budget, |index| {
                    let at = index.since(base).checked_sub(1)?;
                    log.get(at as usize).map(Record::cost)
                });
                let Some(mut append) = append else { break };
                let (first, last) = (append.prev_index.next(), append.last_index());
                let records = if last >= first { replica.records(first, last) } else { Vec::new() };
                append.time = records.last().map(|record| record.time).unwrap_or_default();
                if self.dies(at) {
                    return;
                }
                self.note_append(at, group, peer, &append);
                let outgoing = Outgoing { to: peer, message: Message::Append(append) };
                self.send(at, group, outgoing, records);
            }
            let more =
                self.nodes[at].replicas.get(&group).is_some_and(|r| r.core.wants_append(peer));
            if more {
                self.touch(at, group);
            } else {
                self.note_appends_end(at, group, peer);
            }
        }
    }
}
