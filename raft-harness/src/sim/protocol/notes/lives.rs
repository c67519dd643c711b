//! Marks of nodes that stop, start, pause and come back.

use raft_core::{GroupId, Promise};

use super::super::disk::Lost;
use super::super::network::NodeAt;
use super::super::node::{Node, Running};
use super::super::replica::Replica;
use super::super::world::World;
use crate::sim::marks::Mark;

impl World {
    /// A node is about to stop.
    pub(crate) fn note_crash(&mut self, at: NodeAt) {
        let (marks, node) = (&mut self.marks, &self.nodes[at]);
        if node.disk.pending() > 0 {
            marks.hit(Mark::CrashBeforePersist);
        }
        for replica in node.replicas.values() {
            if replica.core.is_leader() {
                marks.hit(Mark::LeaderCrashed);
                if replica.core.is_asleep() && !replica.core.replicated_to().is_empty() {
                    marks.hit(Mark::QuiescedLeaderLost);
                }
            }
            if replica.restore.is_some() {
                marks.hit(Mark::CrashDuringInstall);
            }
        }
        for group in node.disk.images.keys() {
            let is_other =
                |other: &&Node| other.id != node.id && other.disk.images.contains_key(group);
            let mut others = self.nodes.iter().filter(is_other).peekable();
            if others.peek().is_some() && others.all(|other| other.running == Running::Down) {
                marks.hit(Mark::AllDown);
            }
        }
    }

    /// What the disk of a node that stopped has lost.
    pub(crate) fn note_lost(&mut self, at: NodeAt, lost: Lost) {
        if lost.is_written {
            self.marks.hit(Mark::UnsyncedLost);
        }
        self.notes.lost_truncations.extend(lost.truncations.into_iter().map(|group| (at, group)));
    }

    /// A node has started, not for the first time if it has been down.
    pub(crate) fn note_start(&mut self, at: NodeAt) {
        if self.nodes[at].incarnation.get() == 1 {
            return;
        }
        self.notes.restarted.insert(at, self.now);
        let timeout_us = self.settings.election_timeout_min.as_micros() as u64;
        let (now, restarted) = (self.now, &self.notes.restarted);
        let is_fresh =
            |home: NodeAt| restarted.get(&home).is_some_and(|since| now - since < timeout_us);
        for replica in self.nodes[at].replicas.values() {
            let membership = replica.core.membership();
            let voters = membership.incoming();
            let homes = voters.iter().filter_map(|voter| membership.member(*voter));
            let fresh = homes.filter(|member| is_fresh(self.node_at(member.node))).count();
            if voters.len() > 1 && fresh * 2 > voters.len() {
                self.marks.hit(Mark::QuorumRestarted);
            }
        }
    }

    /// A replica has started.
    pub(crate) fn note_birth(&mut self, replica: &Replica) {
        match replica.core.status().promise.promise {
            Promise::Kept => {}
            Promise::Lost | Promise::Damaged => self.marks.hit(Mark::PromiseLostBegan),
            Promise::Unproven => self.marks.hit(Mark::PromiseUnprovenBegan),
        }
    }

    /// A node that stood still goes on.
    pub(crate) fn note_resume(&mut self, at: NodeAt) {
        let local = self.nodes[at].local(self.now);
        let is_later = |group: GroupId, term| {
            let others = self.nodes.iter().filter_map(|node| node.replicas.get(&group));
            others.into_iter().any(|other| other.core.term() > term)
        };
        for replica in self.nodes[at].replicas.values().filter(|r| r.core.is_leader()) {
            if is_later(replica.group(), replica.core.term()) {
                self.marks.hit(Mark::PausedLeaderReturned);
            }
            // What the core says is as of its last step, before the pause.
            if replica.core.lease_until().is_some_and(|until| until <= local) {
                self.marks.hit(Mark::LeaseExpiredInPause);
            }
        }
    }
}
