//! Snapshots: taken by replicas, and fetched in parts by those who fell behind.
//!
//! A transfer that stops goes on where it was, as long as its source keeps the file.

use std::sync::Arc;

use raft_core::{GroupId, Input, SnapshotEffect, SnapshotMeta};

use super::disk::Snapshot;
use super::network::NodeAt;
use super::timeline::Event;
use super::world::World;
use crate::sim::marks::Mark;

impl World {
    pub(super) fn handle_snapshot_effect(&mut self, at: NodeAt, group: GroupId) {
        let Some(replica) = self.nodes[at].replicas.get_mut(&group) else { return };
        match replica.effects.snapshot.take() {
            // No snapshot rots here.
            None | Some(SnapshotEffect::Doubted { .. }) => {}
            Some(SnapshotEffect::Abort { .. }) => self.marks.hit(Mark::SnapshotInterrupted),
            Some(SnapshotEffect::Fetch { from, meta }) => {
                self.marks.hit(Mark::SnapshotSent);
                let membership = replica.core.membership();
                let node = membership.member(from).map(|member| member.node);
                let node = node.or_else(|| self.home_of(group, from));
                let Some(node) = node else { return };
                let from = self.node_at(node);
                let life = self.nodes[at].incarnation;
                let part =
                    Event::SnapshotPart { node: at, life, group, from, meta, parts: 3, tries: 0 };
                self.queue.push(self.now + 2_000, part);
            }
        }
    }

    /// A piece of a snapshot arrives, if it can; what arrived before is not asked for again.
    #[allow(clippy::too_many_arguments, reason = "they are the fields of one event")]
    pub(super) fn snapshot_part(
        &mut self,
        at: NodeAt,
        group: GroupId,
        from: NodeAt,
        meta: SnapshotMeta,
        parts: u32,
        tries: u32,
    ) {
        let reachable = self.nodes[from].is_up()
            && !self.network.is_cut(from, at)
            && !self.network.is_cut(at, from);
        let file = self.nodes[from].disk.file(group, &meta);
        let life = self.nodes[at].incarnation;
        match (reachable, file) {
            (true, Some(_)) if parts > 0 => {
                let part = Event::SnapshotPart {
                    node: at,
                    life,
                    group,
                    from,
                    meta,
                    parts: parts - 1,
                    tries,
                };
                let takes_us = 1_000 + self.rng_turn.below(20_000);
                self.queue.push(self.now + takes_us, part);
            }
            (true, Some(snapshot)) => {
                let (index, term) = (meta.index, meta.term);
                self.nodes[at].disk.keep(group, snapshot);
                self.step(at, group, Input::SnapshotReceived { index, term }, &[]);
            }
            (false, _) if tries < 20 => {
                self.marks.hit(Mark::SnapshotInterrupted);
                let part = Event::SnapshotPart {
                    node: at,
                    life,
                    group,
                    from,
                    meta,
                    parts,
                    tries: tries + 1,
                };
                self.queue.push(self.now + 100_000, part);
            }
            (false, _) | (true, None) => {
                self.step(at, group, Input::SnapshotFailed { index: meta.index }, &[]);
            }
        }
    }

    /// A replica's state is written down.
    pub(crate) fn take_snapshot(&mut self, at: NodeAt, group: GroupId) {
        let Some(replica) = self.nodes[at].replicas.get(&group) else { return };
        let index = replica.machine.applied;
        let Some(meta) = replica.core.snapshot_meta(index) else { return };
        // What a quorum may still forget must not come back from a snapshot.
        let is_safe = index <= replica.core.quorum_durable_index();
        if index <= replica.core.snapshot_index() || !is_safe || replica.restore.is_some() {
            return;
        }
        let snapshot = Snapshot { meta, state: Arc::new(replica.machine.clone()) };
        let replica = replica.id();
        let life = self.nodes[at].incarnation;
        let taken = Event::SnapshotTaken { node: at, life, group, replica, snapshot };
        self.queue.push(self.now + 3_000, taken);
    }

    pub(super) fn snapshot_taken(&mut self, at: NodeAt, group: GroupId, snapshot: Snapshot) {
        let index = snapshot.meta.index;
        self.nodes[at].disk.keep(group, snapshot);
        self.step(at, group, Input::SnapshotTaken(index), &[]);
    }
}
