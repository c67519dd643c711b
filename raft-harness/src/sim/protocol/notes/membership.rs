//! Marks of memberships: learners, joint configurations, and those who are no members any more.

use raft_core::{GroupId, LogIndex, Membership, ReplicaId, RoleKind, Standing, Term};

use super::super::platters::Platters;
use super::super::world::World;
use super::Step;
use crate::sim::marks::Mark;
use crate::sim::observe::Disks;

impl World {
    pub(super) fn note_membership(&mut self, step: &Step<'_>) {
        let (before, now) = (&step.before, &step.now);
        let (index, membership) = (step.core.membership_index(), step.core.membership());
        if index < before.membership_index && step.log.truncated_terms > 0 {
            self.marks.hit(Mark::ConfigTruncated);
        }
        if index > before.membership_index {
            if membership.is_joint() && !before.is_joint {
                self.marks.hit(Mark::JointEntered);
            }
            if step.was_leader() && step.is_leader() {
                self.note_change(step, membership);
            }
        }
        if membership.is_joint() && step.may_commit() {
            self.note_joint(step, membership);
        }
        let stands = matches!(now.role, RoleKind::PreCandidate | RoleKind::Candidate);
        if before.role == RoleKind::Follower && stands && self.was_removed(step) {
            self.marks.hit(Mark::RemovedCampaigned);
        }
        if before.role == RoleKind::Follower && stands && self.is_removal_open(step) {
            self.marks.hit(Mark::UncommittedRemovalStood);
        }
    }

    /// A leader has changed the membership.
    fn note_change(&mut self, step: &Step<'_>, membership: &Membership) {
        let old = step.core.membership_at(step.core.membership_index().prev());
        for member in membership.members() {
            match (old.standing(member.replica), member.standing) {
                (None, Standing::Learner) => self.marks.hit(Mark::LearnerAdded),
                (Some(Standing::Learner), Standing::Voter | Standing::Incoming) => {
                    self.marks.hit(Mark::LearnerPromoted);
                }
                (None, Standing::Successor) => self.marks.hit(Mark::UnprovenReplaced),
                (Some(Standing::Successor), Standing::Voter | Standing::Incoming) => {
                    self.marks.hit(Mark::SuccessorPromoted);
                }
                (Some(_), Standing::Learner)
                | (
                    Some(
                        Standing::Voter
                        | Standing::Incoming
                        | Standing::Outgoing
                        | Standing::Demoting,
                    )
                    | None,
                    Standing::Voter | Standing::Incoming,
                )
                | (Some(_), Standing::Successor)
                | (_, Standing::Outgoing | Standing::Demoting) => {}
            }
        }
        if old.is_joint() && !membership.is_joint() {
            let began = step.core.entry_term(step.before.membership_index).unwrap_or_default();
            let election = self.notes.elections.get(&(step.group, began));
            let leader = election.and_then(|election| election.winner);
            if leader.is_some_and(|leader| leader != step.now.replica) {
                self.marks.hit(Mark::JointLeftByOther);
            }
        }
    }

    /// Whether the new half of a joint membership would commit what the old half does not.
    fn note_joint(&mut self, step: &Step<'_>, membership: &Membership) {
        let index = step.now.commit_index.next();
        let term = step.core.entry_term(index).unwrap_or_default();
        if term == step.now.term
            && self.is_held_by_most(step.group, membership.incoming(), index, term)
            && !self.is_held_by_most(step.group, membership.outgoing(), index, term)
        {
            self.marks.hit(Mark::JointDecidedByOutgoing);
        }
    }

    /// Whether most of these have an entry on their disks.
    pub(super) fn is_held_by_most(
        &self,
        group: GroupId,
        voters: &[ReplicaId],
        index: LogIndex,
        term: Term,
    ) -> bool {
        let platters = Platters { nodes: &self.nodes, counts_written: false };
        let holds = |voter: &&ReplicaId| platters.holds(group, **voter, index, term);
        voters.iter().filter(holds).count() * 2 > voters.len()
    }

    /// Whether somebody holds a membership without this replica that is not committed.
    fn is_removal_open(&self, step: &Step<'_>) -> bool {
        let me = step.now.replica;
        self.nodes.iter().filter_map(|node| node.replicas.get(&step.group)).any(|other| {
            let core = &other.core;
            let membership = core.membership();
            core.membership_index() > core.commit_index()
                && membership.last_replica() >= me
                && membership.member(me).is_none()
        })
    }

    /// Whether somebody knows for certain that this replica is no member any more.
    fn was_removed(&self, step: &Step<'_>) -> bool {
        let me = step.now.replica;
        self.nodes.iter().filter_map(|node| node.replicas.get(&step.group)).any(|other| {
            let core = &other.core;
            let membership = core.membership();
            core.membership_index() <= core.commit_index()
                && membership.last_replica() >= me
                && membership.member(me).is_none()
                && !membership.members().is_empty()
        })
    }
}
