//! Handing leadership over (thesis 3.10).
//!
//! Invariants: a transfer has a number of its own, and its request names the log's end, so a late
//! one is worthless once anything was appended; it ends in one outcome, by success, refusal or
//! timeout; from its start until a fresh entry commits there is no lease.

use alloc::boxed::Box;

use crate::entry::EntryKind;
use crate::group::{Group, Role};
use crate::id::{LogIndex, LogTime, Micros, ReplicaId, Token};
use crate::io::{DiskSpace, Effects, Outcome, Refusal};
use crate::membership::Standing;
use crate::message::{Message, Promise, TimeoutNow, TransferRefused};

#[derive(Debug)]
pub(crate) struct Transfer {
    pub(crate) id: u64,
    /// Who asked; nobody if the leader does it by itself.
    pub(crate) token: Option<Token>,
    pub(crate) to: ReplicaId,
    pub(crate) deadline: Micros,
    /// From which entry on there was a lease before; see [`Leader::lease_from`](crate::leader).
    pub(crate) lease_from: LogIndex,
    /// The target was told to campaign.
    pub(crate) asked: bool,
}

impl Group {
    pub(crate) fn on_transfer(
        &mut self,
        token: Token,
        to: Option<ReplicaId>,
        effects: &mut Effects,
    ) {
        let refusal = match &self.role {
            Role::Leader(leader) if leader.transfer.is_some() => Refusal::Transferring,
            Role::Leader(leader) => {
                let to = to.or_else(|| self.heir(self.membership()));
                let votes =
                    |standing: Option<Standing>| standing.is_some_and(Standing::votes_incoming);
                let fit = to.filter(|to| {
                    leader
                        .peer(*to)
                        .is_some_and(|peer| votes(peer.standing) && peer.promise == Promise::Kept)
                });
                match fit {
                    Some(to) => {
                        self.start_transfer(to, Some(token), effects);
                        return;
                    }
                    None => Refusal::TransferFailed,
                }
            }
            Role::Follower | Role::PreCandidate(_) | Role::Candidate(_) => {
                Refusal::NotLeader { leader: self.leader }
            }
        };
        effects.outcomes.push((token, Outcome::Refused(refusal)));
    }

    fn start_transfer(&mut self, to: ReplicaId, token: Option<Token>, effects: &mut Effects) {
        let deadline = self.now.after(self.settings.election_timeout_min);
        if let Role::Leader(leader) = &mut self.role {
            leader.transfers += 1;
            let id = leader.transfers;
            let lease_from = leader.lease_from;
            let transfer = Transfer { id, token, to, deadline, lease_from, asked: false };
            leader.transfer = Some(Box::new(transfer));
            leader.busy = self.now;
        }
        self.end_lease();
        self.continue_transfer(effects);
    }

    /// Hands over to whoever is furthest, if nobody is being handed over to: this replica should
    /// not lead, but still can.
    pub(crate) fn hand_over(&mut self, effects: &mut Effects) {
        let idle = matches!(&self.role, Role::Leader(leader) if leader.transfer.is_none());
        if idle && let Some(to) = self.heir(self.membership()) {
            self.start_transfer(to, None, effects);
        }
    }

    /// Steps down for good, telling the best voter to take over at once (thesis 4.2.2).
    pub(crate) fn resign(&mut self, effects: &mut Effects) {
        let heir = self.heir(self.membership());
        self.end_lease();
        let last_index = self.log.last_index();
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        leader.transfers += 1;
        let term = leader.term;
        // Those who left learn here that they did, as far as they hold the entry that says so.
        let request = TimeoutNow { term, transfer: leader.transfers, last_index };
        if let Some(heir) = heir {
            effects.messages.send(heir, Message::TimeoutNow(request), None);
        }
        self.become_follower(term, None, effects);
    }

    /// Asks the target to campaign once it holds everything we have.
    pub(crate) fn continue_transfer(&mut self, effects: &mut Effects) {
        let last_index = self.log.last_index();
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        let term = leader.term;
        let Some(transfer) = leader.transfer.as_mut().filter(|transfer| !transfer.asked) else {
            return;
        };
        let caught_up = leader
            .peers
            .iter()
            .any(|peer| peer.replica == transfer.to && peer.match_index == last_index);
        if caught_up || crate::planted!(TransferToLaggard) {
            transfer.asked = true;
            let request = TimeoutNow { term, transfer: transfer.id, last_index };
            effects.messages.send(transfer.to, Message::TimeoutNow(request), None);
        }
    }

    /// The request may have been lost; the target obeys it once.
    pub(crate) fn repeat_timeout_now(&self, effects: &mut Effects) {
        let Role::Leader(leader) = &self.role else {
            return;
        };
        let term = leader.term;
        if let Some(transfer) = leader.transfer.as_ref().filter(|transfer| transfer.asked) {
            let last_index = self.log.last_index();
            let request = TimeoutNow { term, transfer: transfer.id, last_index };
            effects.messages.send(transfer.to, Message::TimeoutNow(request), None);
        }
    }

    /// The leader hands over to us.
    pub(crate) fn on_timeout_now(
        &mut self,
        from: ReplicaId,
        request: TimeoutNow,
        effects: &mut Effects,
    ) {
        let stale = crate::planted!(StaleTimeoutNowObeyed);
        // A log that ends elsewhere means the request is late, or we are not caught up.
        let in_term = request.term == self.hard_state.term && self.leader == Some(from);
        let same_log =
            request.last_index == self.log.last_index() || crate::planted!(TransferToLaggard);
        let able = self.may_vote()
            && self.disk == DiskSpace::Ample
            && self.promise.promise == Promise::Kept
            && matches!(self.role, Role::Follower)
            && self.now >= self.votes_from;
        if able && ((in_term && same_log) || stale) {
            self.campaign_now(effects);
        } else {
            // Whoever asked in an earlier term may lead this one and have numbered another transfer
            // so; numbers begin with 1.
            let ours = request.term == self.hard_state.term;
            let transfer = if ours { request.transfer } else { 0 };
            let refused = TransferRefused { term: self.hard_state.term, transfer };
            self.send_promise(from, Message::TransferRefused(refused), effects);
        }
    }

    pub(crate) fn on_transfer_refused(
        &mut self,
        from: ReplicaId,
        refused: TransferRefused,
        effects: &mut Effects,
    ) {
        if refused.term > self.hard_state.term {
            self.become_follower(refused.term, None, effects);
            return;
        }
        let Role::Leader(leader) = &self.role else {
            return;
        };
        let ours = leader.term == refused.term
            && leader
                .transfer
                .as_ref()
                .is_some_and(|t| t.asked && t.to == from && t.id == refused.transfer);
        if ours {
            self.end_transfer(effects);
        }
    }

    /// Ends a transfer whose time is over.
    pub(crate) fn expire_transfer(&mut self, effects: &mut Effects) {
        let now = self.now;
        let over = matches!(&self.role, Role::Leader(leader)
            if leader.transfer.as_ref().is_some_and(|transfer| now >= transfer.deadline));
        if over {
            self.end_transfer(effects);
        }
    }

    fn end_transfer(&mut self, effects: &mut Effects) {
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        let Some(transfer) = leader.transfer.take() else {
            return;
        };
        if let Some(token) = transfer.token {
            effects.outcomes.push((token, Outcome::Refused(Refusal::TransferFailed)));
        }
        if !transfer.asked {
            // Nobody was told anything this time; the request of an earlier one may be under way.
            let from = if crate::planted!(LeaseReturnsWithTransfer) {
                leader.term_start
            } else {
                transfer.lease_from
            };
            self.renew_lease_from(from);
        } else if self.disk == DiskSpace::Full {
            self.renew_lease_from(self.log.last_index().next());
        } else {
            // The target may still act on our request; a new entry makes it worthless.
            let index = self.append_own(EntryKind::Noop, LogTime::default(), effects);
            self.renew_lease_from(index);
            self.advance_commit(index, effects);
        }
        self.tend_membership(effects);
    }
}
