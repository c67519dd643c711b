//! What happens and when: the events of a run, and what each sets off.
//!
//! Nothing happens but by an event, and events come in one order, so that a run is a function of
//! its case. What was meant for an earlier life of a node is void, and what finds its node paused
//! waits.

use raft_core::{GroupId, Incarnation, Input, ReadPath, ReplicaId, SnapshotMeta, Token};

use super::disk::Snapshot;
use super::network::NodeAt;
use super::node::Running;
use super::packet::Packet;
use super::world::World;
use crate::sim::history::OpId;

/// Something that happens at a time.
#[derive(Debug)]
pub(crate) enum Event {
    Packet(Box<Packet>),
    Deadline {
        node: NodeAt,
        life: Incarnation,
        group: GroupId,
    },
    Turn {
        node: NodeAt,
        life: Incarnation,
    },
    Read {
        node: NodeAt,
        life: Incarnation,
        group: GroupId,
        token: Token,
        path: ReadPath,
    },
    Written {
        node: NodeAt,
        life: Incarnation,
        count: usize,
    },
    Synced {
        node: NodeAt,
        life: Incarnation,
        count: usize,
    },
    SnapshotPart {
        node: NodeAt,
        life: Incarnation,
        group: GroupId,
        from: NodeAt,
        meta: SnapshotMeta,
        parts: u32,
        tries: u32,
    },
    SnapshotTaken {
        node: NodeAt,
        life: Incarnation,
        group: GroupId,
        replica: ReplicaId,
        snapshot: Snapshot,
    },
    Client {
        client: usize,
    },
    ClientTimeout {
        client: usize,
        op: OpId,
    },
    Fault(usize),
    FaultEnds(usize),
    Restart {
        node: NodeAt,
    },
    /// A node that was asked to stop looks whether it is done.
    Stopping {
        node: NodeAt,
        life: Incarnation,
        until: u64,
    },
    Operator {
        group: GroupId,
    },
    Sweep,
}

impl World {
    /// Lets the world run up to a moment, or to a violation.
    pub(crate) fn run_until(&mut self, end: u64) {
        while self.violation.is_none() {
            let Some((at, event)) = self.queue.pop(end) else { break };
            self.now = at;
            self.happen(event);
            self.wake_clients();
        }
        self.now = self.now.max(end);
    }

    /// Whether an event made in an earlier life of its node is void.
    fn is_void(&self, at: NodeAt, life: Incarnation) -> bool {
        self.nodes[at].incarnation != life || self.nodes[at].running == Running::Down
    }

    /// Puts an event off while its node is paused; `true` if it was.
    fn put_off(&mut self, at: NodeAt, event: impl FnOnce() -> Event) -> bool {
        let paused = self.nodes[at].running == Running::Paused;
        if paused {
            self.queue.push(self.now + 10_000, event());
        }
        paused
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Packet(packet) => self.deliver(*packet),
            Event::Deadline { node, life, group } => {
                let again = || Event::Deadline { node, life, group };
                if !self.is_void(node, life) && !self.put_off(node, again) {
                    self.deadline(node, group);
                }
            }
            Event::Read { node, life, group, token, path } => {
                let again = || Event::Read { node, life, group, token, path };
                if !self.is_void(node, life) && !self.put_off(node, again) {
                    self.step(node, group, Input::Read { token, path }, &[]);
                }
            }
            Event::Turn { node, life } => {
                if !self.is_void(node, life) && !self.put_off(node, || Event::Turn { node, life }) {
                    self.turn(node);
                }
            }
            Event::Written { node, life, count } => {
                // The disk does not pause with the process; telling it does.
                let again = || Event::Written { node, life, count };
                if !self.is_void(node, life) && !self.put_off(node, again) {
                    self.written(node, count);
                }
            }
            Event::Synced { node, life, count } => {
                let again = || Event::Synced { node, life, count };
                if !self.is_void(node, life) && !self.put_off(node, again) {
                    self.synced(node, count);
                }
            }
            Event::SnapshotPart { node, life, group, from, meta, parts, tries } => {
                if !self.is_void(node, life) && self.nodes[node].is_up() {
                    self.snapshot_part(node, group, from, meta, parts, tries);
                }
            }
            Event::SnapshotTaken { node, life, group, replica, snapshot } => {
                // What a replica has begun is not its successor's.
                let is_here = self.is_here(node, group, replica);
                if !self.is_void(node, life) && self.nodes[node].is_up() && is_here {
                    self.snapshot_taken(node, group, snapshot);
                }
            }
            Event::Client { client } => self.client_acts(client),
            Event::ClientTimeout { client, op } => self.clients.gives_up(client, op, self.now),
            Event::Fault(fault) => self.fault_begins(fault),
            Event::FaultEnds(fault) => self.fault_ends(fault),
            Event::Restart { node } => self.start(node),
            Event::Stopping { node, life, until } => {
                let again = || Event::Stopping { node, life, until };
                if !self.is_void(node, life) && !self.put_off(node, again) {
                    self.stopping(node, life, until);
                }
            }
            Event::Operator { group } => self.operator_acts(group),
            Event::Sweep => self.sweep(),
        }
    }

    pub(super) fn arm(&mut self, at: NodeAt, group: GroupId) {
        let node = &mut self.nodes[at];
        let (clock, life) = (node.clock, node.incarnation);
        let Some(replica) = node.replicas.get_mut(&group) else { return };
        let Some(deadline) = replica.core.next_deadline() else { return };
        let due = clock.common(deadline).max(self.now);
        if replica.armed.is_none_or(|armed| due < armed) {
            replica.armed = Some(due);
            self.queue.push(due, Event::Deadline { node: at, life, group });
        }
    }

    fn deadline(&mut self, at: NodeAt, group: GroupId) {
        let local = self.nodes[at].local(self.now);
        let Some(replica) = self.nodes[at].replicas.get_mut(&group) else { return };
        // Superseded by an earlier one that has armed the next since.
        if replica.armed.is_none_or(|armed| armed > self.now) {
            return;
        }
        replica.armed = None;
        if replica.core.next_deadline().is_some_and(|deadline| deadline <= local) {
            self.step(at, group, Input::Deadline, &[]);
            self.tend_replacements(at, group);
        } else {
            self.arm(at, group);
        }
    }
}
