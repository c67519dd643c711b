//! Changing who belongs to the group (thesis, chapter 4).
//!
//! A membership is an entry and is in force as soon as it is in the log. One change at a time:
//! the next waits until the last is committed, and until an entry of the leader's own term is,
//! since only then does the leader know that no earlier change is open.
//!
//! A replica that may have forgotten its vote never counts again, and says so when it answers an
//! append. Whoever leads replaces it: [`replacement_due`](Group::replacement_due) says what is to be
//! done next, from the membership and from what was answered alone, so that the next leader goes on
//! where this one stops. It is taken out with the change that brings its successor, and that one
//! votes only once it has caught up: a majority without it has to agree before anybody counts in its
//! place, and one of them knows of a newer leader if the forgotten vote made one.
//!
//! Invariants: at most one uncommitted membership per log; a joint one is left by whoever leads
//! when it is committed; a leader that is no member leads only until its removal is committed,
//! counts itself for nothing, and hands over then.

use alloc::sync::Arc;

use crate::entry::EntryKind;
use crate::group::{Group, Proposal, Role};
use crate::id::{LogIndex, LogTime, ReplicaId, Term, Token};
use crate::io::{DiskSpace, Effects, Outcome, Refusal};
use crate::leader::Leader;
use crate::membership::{Member, MemberChange, Membership, Standing};
use crate::message::Promise;
use crate::progress::State;
use crate::quorum::majority;

impl Group {
    pub(crate) fn on_change_membership(
        &mut self,
        token: Token,
        changes: &[MemberChange],
        effects: &mut Effects,
    ) {
        match self.changed_membership(changes) {
            Ok(membership) => {
                let index = self.append_membership(membership, effects);
                if let Role::Leader(leader) = &self.role {
                    let (term, total) = (leader.term, leader.appended_total);
                    self.proposals.push_back(Proposal { index, term, token, total });
                }
                self.advance_commit(index, effects);
            }
            Err(refusal) => effects.outcomes.push((token, Outcome::Refused(refusal))),
        }
    }

    /// The membership after these changes, if they may be made now.
    fn changed_membership(&self, changes: &[MemberChange]) -> Result<Membership, Refusal> {
        let Role::Leader(leader) = &self.role else {
            return Err(Refusal::NotLeader { leader: self.leader });
        };
        if leader.transfer.is_some() {
            return Err(Refusal::Transferring);
        }
        if self.disk == DiskSpace::Full {
            return Err(Refusal::DiskFull);
        }
        let uncommitted = self.membership_index() > self.commit;
        if self.membership().is_joint() || (uncommitted && !crate::planted!(ChangeWhileUncommitted))
        {
            return Err(Refusal::ChangePending);
        }
        if self.commit < leader.term_start && !crate::planted!(ChangeBeforeOwnTermCommit) {
            return Err(Refusal::TermTooYoung);
        }
        let changed = self.membership().change(changes).map_err(Refusal::InvalidChange)?;
        for change in changes {
            let MemberChange::Promote(replica) = *change else { continue };
            if !self.has_caught_up(leader, replica) {
                return Err(Refusal::NotCaughtUp { replica });
            }
        }
        // The old half decides now, and would have stopped the group already.
        let at_hand = |replica: &ReplicaId| {
            *replica == self.me
                || leader.peer(*replica).is_some_and(|peer| {
                    peer.promise == Promise::Kept
                        && self.now.since(peer.contact) < self.settings.election_timeout_min
                })
        };
        let voters = changed.incoming();
        if voters.iter().filter(|voter| at_hand(voter)).count() < majority(voters.len()) {
            return Err(Refusal::QuorumAtRisk);
        }
        Ok(changed)
    }

    /// Whether a learner is close enough behind to become a voter.
    fn has_caught_up(&self, leader: &Leader, replica: ReplicaId) -> bool {
        leader.peer(replica).is_some_and(|peer| {
            matches!(peer.state, State::Replicate(_))
                && peer.match_index.plus(self.settings.promotion_lag_max) >= self.log.last_index()
                && self.now.since(peer.contact) < self.settings.election_timeout_min
        })
    }

    /// Whether this leader has members to replace, or successors to promote.
    pub fn has_replacements(&self) -> bool {
        let Role::Leader(leader) = &self.role else {
            return false;
        };
        !crate::planted!(UnprovenStays)
            && leader.peers.iter().any(|peer| {
                let is_member = peer.standing.is_some();
                (is_member && peer.promise == Promise::Unproven)
                    || peer.standing == Some(Standing::Successor)
            })
    }

    /// The next change toward a group in which every member counts that should, if there is one that
    /// can be asked for now: a successor that has caught up is promoted, and a member that may have
    /// forgotten its vote gives way to `fresh`, an id larger than any before.
    pub fn replacement_due(&self, fresh: ReplicaId) -> Option<MemberChange> {
        let Role::Leader(leader) = &self.role else {
            return None;
        };
        if !self.has_replacements() || self.membership_index() > self.commit {
            return None;
        }
        let is_ready = |member: &&Member| {
            member.standing == Standing::Successor
                && !crate::planted!(SuccessorStaysLearner)
                && self.has_caught_up(leader, member.replica)
        };
        let members = self.membership().members();
        if let Some(successor) = members.iter().find(is_ready) {
            return Some(MemberChange::Promote(successor.replica));
        }
        let forgets = |member: &&Member| {
            leader.peer(member.replica).is_some_and(|peer| peer.promise == Promise::Unproven)
        };
        let replaced = members.iter().find(forgets)?;
        Some(MemberChange::Replace { replica: replaced.replica, by: fresh })
    }

    fn append_membership(&mut self, membership: Membership, effects: &mut Effects) -> LogIndex {
        // The entry's bytes are small; it takes part in the accounting like a no-op.
        let index = self.append_own(EntryKind::Config, LogTime::default(), effects);
        self.configs.push(index, Arc::new(membership));
        effects.membership_changed = true;
        self.follow_membership();
        index
    }

    /// Whether this replica was removed, for certain: a committed membership from after its time
    /// does not name it, or a voter that knows one said so.
    pub fn is_removed(&self) -> bool {
        let membership = if crate::planted!(BelievesItLeftByUncommitted) {
            self.membership()
        } else {
            self.membership_at(self.commit)
        };
        // A newcomer that catches up meets memberships from before it was added.
        self.is_expelled()
            || (membership.last_replica() >= self.me
                && membership.member(self.me).is_none()
                && !membership.is_unknown())
    }

    /// The first term of which this replica knows that it was removed by then; `None` while it
    /// does not know that it was. Whoever leads in that term or a later one has the removal
    /// committed or will have it (paper, section 5.4.3); a word from an earlier one may be of a
    /// change that was lost.
    ///
    /// It may have heard of a later term before or since, which no leader of the group is in.
    pub const fn removed_in(&self) -> Option<Term> {
        self.removed_in
    }

    /// If it knows that it was removed, that was by this term.
    pub(crate) fn note_removal(&mut self, term: Term) {
        if self.removed_in.is_none_or(|before| term < before) && self.is_removed() {
            self.removed_in = Some(term);
        }
    }

    /// Nobody tells a removed replica what became of its last proposals.
    pub(crate) fn settle_after_removal(&mut self, effects: &mut Effects) {
        let open = !self.proposals.is_empty() || !self.orphans.is_empty();
        if open && !self.is_leader() && self.is_removed() {
            self.give_up_proposals(effects);
        }
    }

    /// What follows from a committed membership: a joint one is left, and a leader that is not in
    /// it hands over.
    pub(crate) fn tend_membership(&mut self, effects: &mut Effects) {
        let index = self.membership_index();
        let Role::Leader(leader) = &self.role else {
            return;
        };
        if index > self.commit || self.commit < leader.term_start {
            return;
        }
        if leader.is_joint && leader.transfer.is_none() && !crate::planted!(JointNeverLeft) {
            if self.disk == DiskSpace::Full {
                return;
            }
            // A joint membership always leaves voters behind; anything else cannot be left.
            if let Ok(left) = self.membership().leave() {
                let index = self.append_membership(left, effects);
                self.advance_commit(index, effects);
            }
            return;
        }
        let may_lead = leader.standing.is_some_and(Standing::votes_incoming) || leader.is_joint;
        if !may_lead && !crate::planted!(RemovedLeaderCountsItself) {
            self.resign(effects);
        }
    }
}
