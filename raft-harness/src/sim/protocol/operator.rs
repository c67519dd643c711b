//! Operators: they change memberships, hand leaderships over, take snapshots, compact, and replace
//! what a wipe has taken, while everything else goes on.

use raft_core::{
    GroupId, Input, LogIndex, MemberChange, Membership, NodeId, ReplicaId, Standing, Tombstone,
};

use super::network::NodeAt;
use super::timeline::Event;
use super::world::World;
use crate::sim::marks::Mark;

impl World {
    /// Whether this replica is known to somebody as a member that lives here.
    pub(crate) fn operator_expects(&self, group: GroupId, replica: ReplicaId, at: NodeAt) -> bool {
        let node = self.nodes[at].id;
        self.nodes.iter().filter_map(|other| other.replicas.get(&group)).any(|known| {
            known.core.membership().member(replica).is_some_and(|member| member.node == node)
        })
    }

    /// Where a group is led, as far as can be seen from outside.
    pub(crate) fn leader_of(&self, group: GroupId) -> Option<NodeAt> {
        let leads = |at: &NodeAt| {
            self.nodes[*at].is_up()
                && self.nodes[*at].replicas.get(&group).is_some_and(|r| r.core.is_leader())
        };
        (0..self.nodes.len())
            .filter(leads)
            .max_by_key(|at| self.nodes[*at].replicas[&group].core.term())
    }

    /// One of the things operators do.
    pub(crate) fn operator_acts(&mut self, group: GroupId) {
        let mut rng = self.seeds.stream("operator", &[u64::from(group.get()), self.now]);
        if self.setup.operator_us > 0 && self.operating {
            let next = self.now + self.setup.operator_us / 2 + rng.below(self.setup.operator_us);
            self.queue.push(next, Event::Operator { group });
        }
        let operations = self.setup.operations;
        let choice = rng.below(10);
        if operations.snapshots && choice < 4 {
            let at = rng.below(self.nodes.len() as u64) as usize;
            self.take_snapshot(at, group);
            let at = rng.below(self.nodes.len() as u64) as usize;
            self.compact(at, group, rng.below(20));
            return;
        }
        if operations.campaigns && choice == 4 {
            let at = rng.below(self.nodes.len() as u64) as usize;
            self.step(at, group, Input::Campaign, &[]);
            return;
        }
        let Some(at) = self.leader_of(group) else { return };
        if operations.transfers && choice < 7 {
            let membership = self.nodes[at].replicas[&group].core.membership();
            let members = membership.members();
            let to = members[rng.below(members.len() as u64) as usize].replica;
            let to = rng.chance(3, 4).then_some(to);
            let token = self.token();
            self.step(at, group, Input::Transfer { token, to }, &[]);
        } else if operations.members {
            let membership = self.nodes[at].replicas[&group].core.membership().clone();
            let changes = self.draw_change(group, &membership, &mut rng);
            self.change(at, group, changes);
        }
    }

    pub(crate) fn change(&mut self, at: NodeAt, group: GroupId, changes: Vec<MemberChange>) {
        if !changes.is_empty() {
            let token = self.token();
            self.step(at, group, Input::ChangeMembership { token, changes }, &[]);
        }
    }

    fn draw_change(
        &mut self,
        group: GroupId,
        membership: &Membership,
        rng: &mut crate::sim::rng::Rng,
    ) -> Vec<MemberChange> {
        let members = membership.members();
        let of = |standing: Standing| -> Vec<ReplicaId> {
            members.iter().filter(|m| m.standing == standing).map(|m| m.replica).collect()
        };
        let (voters, learners) = (of(Standing::Voter), of(Standing::Learner));
        let free: Vec<NodeId> = self
            .nodes
            .iter()
            .map(|node| node.id)
            .filter(|node| !members.iter().any(|member| member.node == *node))
            .collect();
        let any = |list: &[ReplicaId], rng: &mut crate::sim::rng::Rng| {
            list.get(rng.below(list.len().max(1) as u64) as usize).copied()
        };
        let mut changes = Vec::new();
        match rng.below(6) {
            0 | 1 if !free.is_empty() => {
                let node = free[rng.below(free.len() as u64) as usize];
                let replica = self.new_replica(group, membership);
                changes.push(MemberChange::AddLearner { replica, node });
            }
            0..=2 if !learners.is_empty() => {
                changes.extend(any(&learners, rng).map(MemberChange::Promote));
                if rng.chance(1, 2) && voters.len() > 1 {
                    changes.extend(any(&voters, rng).map(MemberChange::Remove));
                }
            }
            3 if !learners.is_empty() => {
                changes.extend(any(&learners, rng).map(MemberChange::Remove));
            }
            4 if self.may_shrink(voters.len()) => {
                changes.extend(any(&voters, rng).map(MemberChange::Remove));
            }
            _ if self.may_shrink(voters.len()) => {
                changes.extend(any(&voters, rng).map(MemberChange::Demote));
            }
            _ => {}
        }
        changes
    }

    /// Whether operators take a voter away from so many. In runs where replicas forget promises
    /// they do not where it would lower the number of those that a group survives.
    pub(super) fn may_shrink(&self, voters: usize) -> bool {
        let losing = self.faults.iter().any(|fault| fault.kind.forgets());
        let written = self.settings.acknowledge == raft_core::Acknowledge::Written;
        if losing || written { voters > 3 && voters.is_multiple_of(2) } else { voters > 1 }
    }

    /// Forgets most of what a snapshot covers.
    pub(crate) fn compact(&mut self, at: NodeAt, group: GroupId, kept: u64) {
        let Some(replica) = self.nodes[at].replicas.get(&group) else { return };
        let upto = LogIndex::new(replica.core.snapshot_index().get().saturating_sub(kept));
        self.step(at, group, Input::Compact(upto), &[]);
    }

    /// A replica that was removed for certain is deleted; its vote is not.
    pub(crate) fn note_removal(&mut self, at: NodeAt, group: GroupId) {
        let Some(replica) = self.nodes[at].replicas.get(&group) else { return };
        let status = replica.core.status();
        let settled = replica.machine.applied >= replica.appliable && replica.open.is_empty();
        if !status.removed || !settled || status.commit_index > replica.machine.applied {
            return;
        }
        self.delete_replica(at, group);
    }

    /// Deletes a replica's data. Its vote stays.
    pub(crate) fn delete_replica(&mut self, at: NodeAt, group: GroupId) {
        let node = &mut self.nodes[at];
        let Some(replica) = node.replicas.remove(&group) else { return };
        self.marks.hit(Mark::ReplicaDeleted);
        let tombstone: Tombstone = replica.core.tombstone();
        node.disk.images.remove(&group);
        node.disk.clean(group);
        node.disk.tombstones.insert(group, tombstone);
        self.checker.destroyed(group, replica.id());
        self.abandon(*replica);
    }

    /// A leader replaces members that may have forgotten a vote, and promotes their successors.
    pub(super) fn tend_replacements(&mut self, at: NodeAt, group: GroupId) {
        let Some(replica) = self.nodes[at].replicas.get(&group) else { return };
        let membership = replica.core.membership().clone();
        let Some(due) = replica.core.replacement_due(ReplicaId::new(u64::MAX)) else { return };
        let change = match due {
            MemberChange::Replace { replica, .. } => {
                let by = self.new_replica(group, &membership);
                MemberChange::Replace { replica, by }
            }
            due => due,
        };
        self.change(at, group, vec![change]);
    }

    /// Replaces members whose disks are gone, one step at a time.
    pub(crate) fn repair(&mut self) {
        for group in self.groups.clone() {
            let Some(at) = self.leader_of(group) else { continue };
            let membership = self.nodes[at].replicas[&group].core.membership().clone();
            if membership.is_joint() {
                continue;
            }
            let gone = membership.members().iter().find(|member| {
                let home = self.node_at(member.node);
                let image = self.nodes[home].disk.images.get(&group);
                self.nodes[home].wiped
                    && image.is_none_or(|image| image.replica != member.replica)
                    && !self.operator_expects_new(group, member.replica, home)
            });
            let Some(gone) = gone.copied() else { continue };
            self.mark(Mark::ReplicaReplaced);
            if membership.incoming() == [gone.replica] {
                continue;
            }
            self.change(at, group, vec![MemberChange::Remove(gone.replica)]);
        }
    }

    /// Whether this replica was added after its node was wiped, and is only not here yet.
    fn operator_expects_new(&self, group: GroupId, replica: ReplicaId, at: NodeAt) -> bool {
        let known = self.nodes[at].lost_replicas.get(&group);
        known.is_none_or(|lost| *lost < replica)
    }
}
