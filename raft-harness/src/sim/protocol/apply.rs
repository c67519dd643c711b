//! Committed entries reach the state machines, and what waited for them is answered.

use raft_core::{GroupId, Token};

use super::network::NodeAt;
use super::record::Payload;
use super::world::World;
use crate::sim::marks::Mark;
use crate::sim::violation::{Check, Violation};

impl World {
    pub(super) fn apply(&mut self, at: NodeAt, group: GroupId) {
        let Some(replica) = self.nodes[at].replicas.get_mut(&group) else { return };
        if let Some(appliable) = replica.effects.appliable.take() {
            replica.appliable = appliable;
        }
        if replica.restore.is_some() && !self.restore(at, group) {
            return;
        }
        for _ in 0..self.setup.apply_max {
            let Some(replica) = self.nodes[at].replicas.get_mut(&group) else { return };
            if replica.machine.applied >= replica.appliable {
                break;
            }
            if self.dies(at) {
                return;
            }
            let Some(replica) = self.nodes[at].replicas.get_mut(&group) else { return };
            let index = replica.machine.applied.next();
            let Some(record) = replica.record(index).cloned() else {
                let evidence =
                    format!("{:?} cannot apply {index:?}: it is not there", replica.id());
                self.fail(Violation::of_group(Check::StateMachineSafety, group, evidence));
                return;
            };
            let command = match &record.payload {
                Payload::Command(command) => Some(*command),
                Payload::Noop | Payload::Config(_) => None,
            };
            let answer = replica.machine.apply(command.as_ref(), record.hash);
            let (id, digest) = (replica.id(), replica.machine.digest());
            let waiter = replica.waiting.remove(&index);
            let stamped = self.stamps.applied(group, index, record.time);
            self.check(stamped);
            let seen = self.checker.applied(group, id, index, record.term, record.hash);
            self.check(seen);
            let seen = self.checker.digest(group, id, index, digest);
            self.check(seen);
            if let Some(command) = command {
                self.clients.applied(group, index, &command);
            }
            if let Some((_, token)) = waiter {
                self.clients.answered(token, answer, self.now);
            }
        }
        let Some(replica) = self.nodes[at].replicas.get_mut(&group) else { return };
        let applied = replica.machine.applied;
        let mut ready = Vec::new();
        replica.reads.retain(|read| {
            let waits = read.index > applied;
            if !waits {
                ready.push(*read);
            }
            waits
        });
        if !ready.is_empty() && !replica.core.is_leader() {
            self.marks.hit(Mark::ReadAtFollower);
        }
        for read in ready {
            self.clients.read(
                read.token,
                applied,
                &self.nodes[at].replicas[&group].machine,
                self.now,
            );
        }
        let Some(replica) = self.nodes[at].replicas.get(&group) else { return };
        if replica.machine.applied < replica.appliable {
            self.touch(at, group);
        }
        self.note_removal(at, group);
    }

    /// The machine starts over from the snapshot that replaced the log; `false` while the log is
    /// not told to have it.
    fn restore(&mut self, at: NodeAt, group: GroupId) -> bool {
        let Some(replica) = self.nodes[at].replicas.get(&group) else { return false };
        let Some(meta) = replica.restore.clone() else { return true };
        if replica.appliable < meta.index {
            return false;
        }
        let file = self.nodes[at].disk.file(group, &meta);
        let Some(snapshot) = file else {
            let evidence = format!("no file for the snapshot {:?}", meta.index);
            self.fail(Violation::of_group(Check::StateMachineSafety, group, evidence));
            return false;
        };
        let Some(replica) = self.nodes[at].replicas.get_mut(&group) else { return false };
        replica.machine = (*snapshot.state).clone();
        replica.restore = None;
        let id = replica.id();
        let waiting: Vec<Token> = {
            let later = replica.waiting.split_off(&meta.index.next());
            let covered = std::mem::replace(&mut replica.waiting, later);
            covered.into_values().map(|(_, token)| token).collect()
        };
        for token in waiting {
            // Committed, and its answer is lost with the entry.
            self.clients.committed(token, self.now);
        }
        let seen = self.checker.installed(group, id, meta.index, meta.term);
        self.check(seen);
        true
    }
}
