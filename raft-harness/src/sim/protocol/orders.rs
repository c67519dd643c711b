//! What a schedule has operators and clients do, at a moment of its own choice.
//!
//! Who believes to lead is asked, all of them: of two leaders, one will find out that it was none.

use raft_core::{
    GroupId, Input, Lease, Member, MemberChange, Membership, NodeId, ReadPath, ReplicaId, Standing,
};

use super::machine::{Action, Command, KEYS};
use super::network::NodeAt;
use super::node::Running;
use super::timeline::Event;
use super::world::World;
use crate::sim::rng::Rng;
use crate::sim::schedule::Target;

impl World {
    /// Everybody who leads this group, as far as it knows.
    fn leaders(&self, group: GroupId) -> Vec<NodeAt> {
        let leads = |at: &NodeAt| {
            self.nodes[*at].is_up()
                && self.nodes[*at].replicas.get(&group).is_some_and(|r| r.core.is_leader())
        };
        (0..self.nodes.len()).filter(leads).collect()
    }

    /// Asks every leader for the changes that are to be made of its membership; `false` if nobody
    /// was asked for any.
    fn order_change(
        &mut self,
        group: GroupId,
        mut changes: impl FnMut(&mut Self, &Membership) -> Vec<MemberChange>,
    ) -> bool {
        let mut asked = false;
        for at in self.leaders(group) {
            let Some(replica) = self.nodes[at].replicas.get(&group) else { continue };
            let membership = replica.core.membership().clone();
            let changes = changes(self, &membership);
            asked |= !changes.is_empty();
            self.change(at, group, changes);
        }
        asked
    }

    pub(super) fn add_learner(&mut self, group: GroupId, node: NodeId) -> bool {
        if node.get() > self.nodes.len() as u64 {
            return false;
        }
        self.order_change(group, |world, membership| match on(membership, node) {
            Some(_) => Vec::new(),
            None => {
                let replica = world.new_replica(group, membership);
                vec![MemberChange::AddLearner { replica, node }]
            }
        })
    }

    pub(super) fn promote(&mut self, group: GroupId, node: NodeId) -> bool {
        self.order_change(group, |_, membership| {
            let learner = on(membership, node).filter(|m| m.standing == Standing::Learner);
            learner.map(|member| MemberChange::Promote(member.replica)).into_iter().collect()
        })
    }

    pub(super) fn remove_member(&mut self, group: GroupId, node: Target) -> bool {
        let Some(node) = self.resolve(node).map(|at| self.nodes[at].id) else { return false };
        self.order_change(group, |world, membership| {
            let member = on(membership, node).filter(|member| world.may_leave(membership, member));
            member.map(|member| MemberChange::Remove(member.replica)).into_iter().collect()
        })
    }

    /// One voter for another in one change, once the new one is there as a learner; until then it
    /// is added as one.
    pub(super) fn replace(&mut self, group: GroupId, old: Target, new: NodeId) -> bool {
        let Some(old) = self.resolve(old).map(|at| self.nodes[at].id) else { return false };
        let learns = |membership: &Membership| {
            on(membership, new).filter(|member| member.standing == Standing::Learner)
        };
        let is_ready = self.leaders(group).into_iter().any(|at| {
            let replica = self.nodes[at].replicas.get(&group);
            replica.is_some_and(|replica| learns(replica.core.membership()).is_some())
        });
        if !is_ready {
            return self.add_learner(group, new);
        }
        self.order_change(group, |_, membership| match (learns(membership), on(membership, old)) {
            (Some(new), Some(old)) if new.replica != old.replica => {
                vec![MemberChange::Promote(new.replica), MemberChange::Remove(old.replica)]
            }
            (Some(_) | None, Some(_) | None) => Vec::new(),
        })
    }

    /// Whether an operator would take this member away: a voter too few is one crash from the end.
    fn may_leave(&self, membership: &Membership, member: &Member) -> bool {
        let votes = member.standing.votes_incoming() || member.standing.votes_outgoing();
        let voters = membership.incoming().len();
        !votes || voters > 2 && self.may_shrink(voters)
    }

    pub(super) fn hand_over(&mut self, group: GroupId, to: NodeId) -> bool {
        let mut asked = false;
        for at in self.leaders(group) {
            let Some(replica) = self.nodes[at].replicas.get(&group) else { continue };
            let Some(member) = on(replica.core.membership(), to) else { continue };
            let token = self.token();
            let to = Some(member.replica);
            self.step(at, group, Input::Transfer { token, to }, &[]);
            asked = true;
        }
        asked
    }

    /// A client that does not wait for answers writes to every leader. What it writes is out of
    /// everybody else's sight: a key of its own.
    pub(super) fn burst(&mut self, group: GroupId, entries: u32, rng: &mut Rng) -> bool {
        let leaders = self.leaders(group);
        for at in &leaders {
            for _ in 0..entries {
                let token = self.token();
                let command = Command {
                    serial: self.clients.serial(),
                    key: KEYS,
                    action: Action::Write,
                    bytes: rng.skewed(3000) as u32,
                    op: None,
                };
                self.propose(*at, group, token, command);
            }
        }
        !leaders.is_empty()
    }

    /// A client that comes by reads at this node, and is gone if it is not answered.
    pub(super) fn read_aside(&mut self, at: NodeAt, group: GroupId, rng: &mut Rng) -> bool {
        let node = &self.nodes[at];
        if node.running == Running::Down || !node.replicas.contains_key(&group) {
            return false;
        }
        let life = node.incarnation;
        let has_leases = self.settings.lease != Lease::Never;
        let path = match rng.below(4) {
            0 => ReadPath::Follower,
            1 | 2 if has_leases => ReadPath::Lease,
            _ => ReadPath::Quorum,
        };
        let token = self.token();
        self.clients.reads_aside(token, group, rng.below(u64::from(KEYS)) as u8, self.now);
        // Whoever is paused finds it in its socket when it goes on, before or after it sees how
        // late it is.
        self.queue.push(self.now, Event::Read { node: at, life, group, token, path });
        true
    }

    /// An id for a replica that is to be added. An attempt that fails has used its id up all the
    /// same.
    pub(super) fn new_replica(&mut self, group: GroupId, membership: &Membership) -> ReplicaId {
        let known = membership.last_replica();
        let last = self.last_replica.entry(group).or_insert(known);
        *last = ReplicaId::new(known.get().max(last.get()) + 1);
        *last
    }
}

/// The member on a node, the newest if its predecessor is still to be removed.
fn on(membership: &Membership, node: NodeId) -> Option<Member> {
    membership.members().iter().rev().find(|member| member.node == node).copied()
}
