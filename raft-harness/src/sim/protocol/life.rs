//! Nodes start, stop, and lose what they had not made durable.
//!
//! A crash takes everything but the disk, at any moment between two effects; what was owed to
//! clients is not answered any more.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use raft_core::{
    Candidacy, DiskSpace, Effects, Group, GroupId, Incarnation, Input, LogIndex, Micros,
    PRIORITY_MAX, Promise, ReplicaId, Settings, Start,
};

use super::disk::Stop;
use super::machine::Machine;
use super::network::NodeAt;
use super::node::Running;
use super::notes::Memory;
use super::platters::Platters;
use super::replica::{MembershipLists, Replica};
use super::world::World;
use crate::sim::swarm::Choice;
use crate::sim::trace::EventKind;
use crate::sim::violation::{Check, Violation};

impl World {
    /// A node's processes start, with what its disk holds.
    pub(crate) fn start(&mut self, at: NodeAt) {
        let node = &mut self.nodes[at];
        if node.running != Running::Down {
            return;
        }
        node.running = Running::Up;
        node.incarnation = Incarnation::new(node.incarnation.get() + 1);
        node.disk_busy = false;
        node.turn_due = false;
        node.stopping = false;
        node.transfers.clear();
        node.touched.clear();
        node.crash_after = None;
        node.heard_at = self.now;
        let groups: Vec<GroupId> = node.disk.images.keys().copied().collect();
        for group in groups {
            self.start_replica(at, group);
        }
        self.note_start(at);
    }

    /// The settings of a replica: some are less eager to lead, but none never is.
    fn settings_of(&self, at: NodeAt, group: GroupId) -> Arc<Settings> {
        match self.priorities {
            Choice::Off => Arc::clone(&self.settings),
            Choice::On => {
                let drawn = self.seeds.derive("priority", &[at as u64, u64::from(group.get())]);
                let priority = 1 + (drawn % u64::from(PRIORITY_MAX)) as u8;
                Arc::new(Settings { priority, ..(*self.settings).clone() })
            }
        }
    }

    /// A replica starts from its image.
    pub(super) fn start_replica(&mut self, at: NodeAt, group: GroupId) {
        let (now, common) = (self.nodes[at].local(self.now), self.now);
        let settings = self.settings_of(at, group);
        let node = &mut self.nodes[at];
        let incarnation = node.incarnation;
        let state = node.disk.recover(group);
        let Some(image) = node.disk.images.get_mut(&group) else { return };
        let start = Start {
            group,
            replica: image.replica,
            incarnation,
            base: image.base.clone(),
            configs: image.configs(),
            seed: self.seeds.derive("core", &[at as u64]),
            hard_state: image.hard_state,
            term_runs: image.term_runs(),
            last_index: image.last_index(),
            log_time: image.log_time,
            applied: state.as_ref().map_or(LogIndex::ZERO, |state| state.applied),
            promise: image.promise,
            settings,
        };
        let memory = Memory::of(now, start.hard_state.term, &self.settings);
        let base = image.base.index;
        let log = image.log.iter().cloned().collect();
        let core = match Group::new(now, start) {
            Ok(core) => core,
            Err(refused) => {
                let evidence = format!("node {at} {group:?} cannot start: {refused}");
                self.fail(Violation::of_group(Check::Externalisation, group, evidence));
                return;
            }
        };
        let machine = state.map_or_else(Machine::default, |state| (*state).clone());
        let appliable = core.status().appliable_index;
        let replica = Replica {
            core,
            effects: Effects::default(),
            base,
            log,
            machine,
            gated: Vec::new(),
            appliable,
            restore: None,
            waiting: BTreeMap::new(),
            reads: Vec::new(),
            open: BTreeSet::new(),
            armed: None,
            touched: false,
            candidacy: Candidacy::Ready,
            memory,
        };
        self.note_birth(&replica);
        let lists = MembershipLists::of(&replica.core);
        let view = replica.view(self.nodes[at].id, None, &lists);
        let platters = Platters { nodes: &self.nodes, counts_written: self.counts_written() };
        let seen = self.checker.restarted(Micros::new(common), &view, &platters);
        self.check(seen);
        let stopping = self.nodes[at].stopping;
        let applied = replica.machine.applied;
        if applied > LogIndex::ZERO {
            let term = replica.core.entry_term(applied).unwrap_or_default();
            let seen = self.checker.installed(group, replica.id(), applied, term);
            self.check(seen);
        }
        self.nodes[at].replicas.insert(group, Box::new(replica));
        if stopping {
            // It was made for a newcomer while the node is on its way down.
            self.step(at, group, Input::Candidacy(Candidacy::Withheld), &[]);
        }
        self.touch(at, group);
    }

    /// A node's processes die at once.
    pub(crate) fn crash(&mut self, at: NodeAt, stop: Stop) {
        if self.nodes[at].running == Running::Down {
            return;
        }
        self.counts.crashes += 1;
        self.note_crash(at);
        let counts_written = self.counts_written();
        // Where written entries count, a power cut of a quorum may lose what was acknowledged, as
        // its documentation says. What is judged here is that anything less loses nothing.
        let groups: Vec<GroupId> = self.nodes[at].disk.images.keys().copied().collect();
        let survivable = groups.into_iter().all(|group| self.may_lose(at, group));
        let stop = if counts_written && !survivable { Stop::Process } else { stop };
        let node = &mut self.nodes[at];
        node.running = Running::Down;
        node.stopping = false;
        if counts_written && stop == Stop::Power {
            node.disk.remember_written();
        }
        let lost = node.disk.crash(stop, &mut self.rng_crash);
        if counts_written && stop == Stop::Power {
            // Nobody can tell what was acknowledged from the page cache (rule R2).
            for image in node.disk.images.values_mut() {
                if image.promise.promise == Promise::Kept && !raft_core::planted!(LostReplicaVotes)
                {
                    image.promise.promise = Promise::Lost;
                }
            }
        }
        let replicas = std::mem::take(&mut node.replicas);
        let id = node.id;
        self.note_lost(at, lost);
        self.checker.crashed(id);
        for replica in replicas.into_values() {
            self.abandon(*replica);
        }
        self.tell(at, None, EventKind::Process, stop as u64, || format!("crash: {stop:?}"));
        // Those who can tell hear that their connections broke.
        for other in 0..self.nodes.len() {
            if other != at && self.nodes[other].is_up() {
                self.unreachable(other, at);
            }
        }
    }

    /// What a replica owed is not answered any more.
    pub(crate) fn abandon(&mut self, replica: Replica) {
        for token in replica.open {
            self.clients.lost(token, self.now);
        }
        for (_, token) in replica.waiting.into_values() {
            self.clients.lost(token, self.now);
        }
        for read in replica.reads {
            self.clients.lost(read.token, self.now);
        }
    }

    /// A node learns that another cannot be reached.
    pub(crate) fn unreachable(&mut self, at: NodeAt, gone: NodeAt) {
        let node = self.nodes[gone].id;
        let groups: Vec<GroupId> = self.nodes[at].replicas.keys().copied().collect();
        for group in groups {
            let peers: Vec<ReplicaId> = self.nodes[at].replicas[&group]
                .core
                .membership()
                .members()
                .iter()
                .filter(|member| member.node == node)
                .map(|member| member.replica)
                .collect();
            for peer in peers {
                self.step(at, group, Input::PeerUnreachable(peer), &[]);
            }
        }
    }

    /// A node loses its disk and comes back as a stranger.
    pub(crate) fn wipe(&mut self, at: NodeAt) {
        self.crash(at, Stop::Power);
        let node = &mut self.nodes[at];
        let id = node.id;
        for (group, replica) in node.disk.wipe() {
            let lost = node.lost_replicas.entry(group).or_insert(replica);
            *lost = replica.max(*lost);
        }
        node.wiped = true;
        self.checker.wiped(id);
        self.tell(at, None, EventKind::Process, 9, || "the disk is empty".to_owned());
    }

    pub(crate) fn resume(&mut self, at: NodeAt) {
        let node = &mut self.nodes[at];
        if node.running == Running::Paused {
            node.running = Running::Up;
            node.heard_at = self.now;
            self.note_resume(at);
            // What became of its disk meanwhile it hears now.
            let full = self.nodes[at].disk_weather.full;
            self.disk_space(at, if full { DiskSpace::Full } else { DiskSpace::Ample });
        }
    }
}
