//! Changing who belongs to the group (thesis, chapter 4).
//!
//! A membership is an entry and is in force as soon as it is in the log. One change at a time:
//! the next waits until the last is committed, and until an entry of the leader's own term is,
//! since only then does the leader know that no earlier change is open.
//!
//! Invariants: at most one uncommitted membership per log; a joint one is left by whoever leads
//! when it is committed; a leader that is no member leads only until its removal is committed,
//! counts itself for nothing, and hands over then.

use alloc::sync::Arc;

use crate::entry::EntryKind;
use crate::group::{Group, Proposal, Role};
use crate::id::{LogIndex, LogTime, ReplicaId, Token};
use crate::io::{DiskSpace, Effects, Outcome, Refusal};
use crate::membership::{MemberChange, Membership, Standing};
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
        let last = self.log.last_index();
        for change in changes {
            let MemberChange::Promote(replica) = *change else { continue };
            let caught_up = leader.peer(replica).is_some_and(|peer| {
                matches!(peer.state, State::Replicate(_))
                    && peer.match_index.plus(self.settings.promotion_lag_max) >= last
                    && self.now.since(peer.contact) < self.settings.election_timeout_min
            });
            if !caught_up {
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
