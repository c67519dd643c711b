//! A node's disk at work: operations are written, flushed, and told, and open the gates of what
//! waited for them.
//!
//! One flush serves all that was submitted before it. One that fails stops the whole node.

use std::collections::BTreeMap;

use raft_core::{DiskSpace, Durable, GroupId, Input, PersistSeq};

use super::disk::{Completion, Stop};
use super::network::NodeAt;
use super::node::Running;
use super::timeline::Event;
use super::world::World;
use crate::sim::marks::Mark;

impl World {
    pub(crate) fn kick_disk(&mut self, at: NodeAt) {
        let node = &mut self.nodes[at];
        if node.disk_busy || node.disk.pending() == 0 || node.disk_weather.stalled {
            return;
        }
        node.disk_busy = true;
        let life = node.incarnation;
        let slow_us = node.disk_weather.slow_us;
        let count = node.disk.pending();
        let write = 10 + self.rng_disk.below(60);
        let sync = self.setup.sync_us / 2 + self.rng_disk.below(self.setup.sync_us + 1) + slow_us;
        self.queue.push(self.now + write, Event::Written { node: at, life, count });
        self.queue.push(self.now + write + sync, Event::Synced { node: at, life, count });
    }

    pub(super) fn written(&mut self, at: NodeAt, count: usize) {
        let mut done = Vec::new();
        self.nodes[at].disk.write(count, &mut done);
        // Only a group that counts written entries wants to hear of each.
        for Completion { group, replica, seq } in done {
            if self.is_here(at, group, replica) {
                self.step(at, group, Input::Written(seq), &[]);
            }
        }
    }

    pub(super) fn synced(&mut self, at: NodeAt, count: usize) {
        if self.nodes[at].disk_weather.stalled {
            self.queue.push(
                self.now + 50_000,
                Event::Synced { node: at, life: self.nodes[at].incarnation, count },
            );
            return;
        }
        self.nodes[at].disk_busy = false;
        let fails = std::mem::take(&mut self.nodes[at].disk_weather.fails_next);
        if fails && !raft_core::planted!(SyncErrorIgnored) {
            self.marks.hit(Mark::FsyncFailed);
            // The whole node is poisoned: its groups hear it, and then it stops (rule F1).
            let groups: Vec<GroupId> = self.nodes[at].replicas.keys().copied().collect();
            for group in groups {
                let id = self.nodes[at].replicas[&group].id();
                self.checker.excuse_fault(group, id);
                let seq = PersistSeq::new(1);
                self.step(at, group, Input::PersistFailed(seq), &[]);
            }
            self.crash(at, Stop::Power);
            self.queue.push(self.now + 500_000, Event::Restart { node: at });
            return;
        }
        let mut done = Vec::new();
        if fails {
            // The planted bug: the flush failed, nothing reached the platter, and it is told as done.
            self.nodes[at].disk.forget(count, &mut done);
        } else {
            self.nodes[at].disk.sync(count, &mut done);
        }
        let mut last: BTreeMap<GroupId, PersistSeq> = BTreeMap::new();
        for Completion { group, replica, seq } in done {
            if self.is_here(at, group, replica) {
                last.insert(group, seq);
            }
        }
        for (group, seq) in last {
            self.open_gates(at, group, seq);
            if self.nodes[at].running != Running::Up {
                return;
            }
            self.step(at, group, Input::Persisted(seq), &[]);
        }
        self.kick_disk(at);
    }

    fn open_gates(&mut self, at: NodeAt, group: GroupId, seq: PersistSeq) {
        let Some(replica) = self.nodes[at].replicas.get_mut(&group) else { return };
        let proof = Durable::attest(seq);
        let mut opened = Vec::new();
        for gated in std::mem::take(&mut replica.gated) {
            match gated.open(proof) {
                Ok(outgoing) => opened.push(outgoing),
                Err(closed) => replica.gated.push(closed),
            }
        }
        for outgoing in opened {
            if self.dies(at) {
                return;
            }
            self.send(at, group, outgoing, Vec::new());
        }
    }

    pub(crate) fn disk_space(&mut self, at: NodeAt, space: DiskSpace) {
        self.nodes[at].disk_weather.full = space == DiskSpace::Full;
        let groups: Vec<GroupId> = self.nodes[at].replicas.keys().copied().collect();
        for group in groups {
            self.step(at, group, Input::Disk(space), &[]);
        }
    }
}
