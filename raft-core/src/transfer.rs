//! Handing leadership over (thesis 3.10).
//!
//! Invariants: a transfer has a number of its own, and its request names the log's end, so a late
//! one is worthless once anything was appended; it ends in one outcome, by success, refusal or
//! timeout; from its start until a fresh entry commits there is no lease.
//!
//! An heir that was picked here and will not is followed by the next: by those that are as eager
//! to lead as we are, by rank, then by those that said they are less so, until nobody is left.

use alloc::boxed::Box;
use core::cmp::Reverse;

use crate::entry::EntryKind;
use crate::group::{Group, Role};
use crate::id::{LogIndex, LogTime, Micros, ReplicaId, Token};
use crate::io::{Candidacy, DiskSpace, Effects, Outcome, Refusal};
use crate::message::{Message, Promise, TimeoutNow, TransferRefused, Unwilling};
use crate::progress::{Progress, Readiness};

#[derive(Debug)]
pub(crate) struct Transfer {
    pub(crate) id: u64,
    /// Who asked; nobody if the leader does it by itself.
    pub(crate) token: Option<Token>,
    pub(crate) to: ReplicaId,
    /// It was picked here: if it will not, another is.
    picked: bool,
    /// How eager to lead it has to be.
    priority: u8,
    pub(crate) deadline: Micros,
    /// From which entry on there was a lease before; see [`Leader::lease_from`](crate::leader).
    pub(crate) lease_from: LogIndex,
    /// The target was told to campaign.
    pub(crate) asked: bool,
}

/// Who is to take over, and who chose it.
#[derive(Clone, Copy)]
enum Heir {
    /// Whoever asked for the transfer named it.
    Named(ReplicaId),
    /// The same, as a courtesy: it has to be as eager to lead as we are.
    Offered(ReplicaId),
    /// It was picked here.
    Picked(ReplicaId),
}

impl Group {
    pub(crate) fn on_transfer(
        &mut self,
        token: Token,
        to: Option<ReplicaId>,
        effects: &mut Effects,
    ) {
        let heir = match (self.may_hand_over(), to) {
            (Err(refusal), _) => Err(refusal),
            (Ok(()), None) => {
                // What was said to an earlier question may not be so any more.
                self.ask_again(Readiness::Withheld);
                self.heir().map(Heir::Picked).ok_or(Refusal::NoHeir)
            }
            (Ok(()), Some(to)) => {
                let fit = self.is_peer(to, |peer| {
                    peer.votes_incoming() && peer.promise == Promise::Kept && !peer.is_barred
                });
                if fit { Ok(Heir::Named(to)) } else { Err(Refusal::TransferFailed) }
            }
        };
        match heir {
            Ok(heir) => self.start_transfer(heir, Some(token), effects),
            Err(refusal) => effects.outcomes.push((token, Outcome::Refused(refusal))),
        }
    }

    pub(crate) fn on_yield(&mut self, token: Token, to: ReplicaId, effects: &mut Effects) {
        let heir = self.may_hand_over().and_then(|()| {
            let fit = self.is_peer(to, |peer| self.may_take_over(peer) && self.holds_all(peer));
            if fit { Ok(Heir::Offered(to)) } else { Err(Refusal::TransferFailed) }
        });
        match heir {
            Ok(heir) => self.start_transfer(heir, Some(token), effects),
            Err(refusal) => effects.outcomes.push((token, Outcome::Refused(refusal))),
        }
    }

    fn may_hand_over(&self) -> Result<(), Refusal> {
        match &self.role {
            Role::Leader(leader) if leader.transfer.is_some() => Err(Refusal::Transferring),
            Role::Leader(_) => Ok(()),
            Role::Follower | Role::PreCandidate(_) | Role::Candidate(_) => {
                Err(Refusal::NotLeader { leader: self.leader })
            }
        }
    }

    fn is_peer(&self, replica: ReplicaId, fits: impl Fn(&Progress) -> bool) -> bool {
        matches!(&self.role, Role::Leader(leader) if leader.peer(replica).is_some_and(fits))
    }

    /// Whether this leader may pick a peer: it may be elected, and was heard lately.
    fn may_take_over(&self, peer: &Progress) -> bool {
        peer.votes_incoming()
            && peer.promise == Promise::Kept
            && !peer.is_barred
            && peer.is_reached
            && self.now.since(peer.contact) < self.settings.election_timeout_min
    }

    /// Whether a peer's log lacks nothing that is committed.
    fn holds_all(&self, peer: &Progress) -> bool {
        peer.match_index >= self.commit
    }

    /// Who is asked next to take over: the first by rank among those who hold all that is
    /// committed; if there is none, whoever lacks least.
    fn heir(&self) -> Option<ReplicaId> {
        let Role::Leader(leader) = &self.role else {
            return None;
        };
        let willing =
            |peer: &&Progress| self.may_take_over(peer) && peer.readiness <= Readiness::LessEager;
        let order = |peer: &&Progress| {
            let lacks = self.commit.since(peer.match_index.min(self.commit));
            (Reverse(peer.readiness), Reverse(lacks), Reverse(self.rank(peer.replica)))
        };
        leader.peers.iter().filter(willing).max_by_key(order).map(|peer| peer.replica)
    }

    /// Whether somebody who was asked may be able to take over in a moment.
    fn may_find_heir(&self) -> bool {
        let may =
            |peer: &Progress| self.may_take_over(peer) && peer.readiness < Readiness::Withheld;
        matches!(&self.role, Role::Leader(leader) if leader.peers.iter().any(may))
    }

    /// Forgets what peers said of taking over, as far as it is no worse than `upto`.
    fn ask_again(&mut self, upto: Readiness) {
        if let Role::Leader(leader) = &mut self.role {
            for peer in leader.peers.iter_mut().filter(|peer| peer.readiness <= upto) {
                peer.readiness = Readiness::Ready;
            }
        }
    }

    fn start_transfer(&mut self, heir: Heir, token: Option<Token>, effects: &mut Effects) {
        let deadline = self.now.after(self.settings.election_timeout_min);
        let own = self.settings.priority;
        let (to, picked, priority) = match heir {
            Heir::Named(to) => (to, false, 0),
            Heir::Offered(to) => (to, false, own),
            Heir::Picked(to) => {
                let eager = |peer: &Progress| peer.readiness < Readiness::LessEager;
                (to, true, if self.is_peer(to, eager) { own } else { 0 })
            }
        };
        if let Role::Leader(leader) = &mut self.role {
            leader.transfers += 1;
            let id = leader.transfers;
            let lease_from = leader.lease_from;
            let transfer =
                Transfer { id, token, to, picked, priority, deadline, lease_from, asked: false };
            leader.transfer = Some(Box::new(transfer));
            leader.busy = self.now;
        }
        self.end_lease();
        self.continue_transfer(effects);
    }

    /// Hands over, if nobody is being handed over to: this replica should not lead, but still can.
    pub(crate) fn hand_over(&mut self, effects: &mut Effects) {
        if self.may_hand_over().is_ok() {
            self.ask_again(Readiness::NotNow);
            if let Some(to) = self.heir() {
                self.start_transfer(Heir::Picked(to), None, effects);
            }
        }
    }

    /// Steps down for good, telling the best voter to take over at once (thesis 4.2.2).
    pub(crate) fn resign(&mut self, effects: &mut Effects) {
        self.ask_again(Readiness::Withheld);
        let heir = self.heir();
        self.end_lease();
        let (last_index, commit) = (self.log.last_index(), self.commit);
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        leader.transfers += 1;
        let term = leader.term;
        // Those who left learn here that they did, as far as they hold the entry that says so.
        let transfer = leader.transfers;
        let request = TimeoutNow { term, transfer, last_index, commit, priority: 0 };
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
        let Some(transfer) = leader.transfer.as_mut().filter(|transfer| !transfer.asked) else {
            return;
        };
        let caught_up = leader
            .peers
            .iter()
            .any(|peer| peer.replica == transfer.to && peer.match_index == last_index);
        if caught_up || crate::planted!(TransferToLaggard) {
            transfer.asked = true;
            self.repeat_timeout_now(effects);
        }
    }

    /// The request may have been lost; the target obeys it once.
    pub(crate) fn repeat_timeout_now(&self, effects: &mut Effects) {
        let Role::Leader(leader) = &self.role else {
            return;
        };
        if let Some(transfer) = leader.transfer.as_ref().filter(|transfer| transfer.asked) {
            let request = TimeoutNow {
                term: leader.term,
                transfer: transfer.id,
                last_index: self.log.last_index(),
                commit: self.commit,
                priority: transfer.priority,
            };
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
        let eager = self.settings.priority >= request.priority;
        let behind =
            self.candidacy == Some(Candidacy::Behind) && !crate::planted!(HeirHasNotApplied);
        let able = self.may_vote()
            && self.takes_office()
            && eager
            && !behind
            && self.disk == DiskSpace::Ample
            && self.promise.promise == Promise::Kept
            && matches!(self.role, Role::Follower)
            && self.now >= self.votes_from;
        if able && ((in_term && same_log) || stale) {
            self.campaign_now(effects);
        } else {
            let why = if !self.takes_office() {
                Unwilling::Withheld
            } else if !eager {
                Unwilling::LessEager
            } else {
                Unwilling::NotNow
            };
            // Whoever asked in an earlier term may lead this one and have numbered another transfer
            // so; numbers begin with 1.
            let ours = request.term == self.hard_state.term;
            let transfer = if ours { request.transfer } else { 0 };
            let refused = TransferRefused { term: self.hard_state.term, transfer, why };
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
            let readiness = match refused.why {
                Unwilling::NotNow => Readiness::NotNow,
                Unwilling::LessEager => Readiness::LessEager,
                Unwilling::Withheld => Readiness::Withheld,
            };
            self.end_transfer(readiness, effects);
        }
    }

    /// Ends a transfer whose time is over.
    pub(crate) fn expire_transfer(&mut self, effects: &mut Effects) {
        let now = self.now;
        let over = matches!(&self.role, Role::Leader(leader)
            if leader.transfer.as_ref().is_some_and(|transfer| now >= transfer.deadline));
        if over {
            self.end_transfer(Readiness::NotNow, effects);
        }
    }

    /// The connection to a peer is gone: if it is the one that is to take over, another is found
    /// sooner than its time is over.
    pub(crate) fn give_up_heir(&mut self, peer: ReplicaId, effects: &mut Effects) {
        let waits = matches!(&self.role, Role::Leader(leader)
            if leader.transfer.as_ref().is_some_and(|transfer| transfer.picked && transfer.to == peer));
        if waits {
            self.end_transfer(Readiness::NotNow, effects);
        }
    }

    /// A peer's node says whether it takes office.
    pub(crate) fn on_peer_candidacy(
        &mut self,
        peer: ReplicaId,
        candidacy: Candidacy,
        effects: &mut Effects,
    ) {
        let Role::Leader(leader) = &mut self.role else { return };
        let Some(progress) = leader.peer_mut(peer) else { return };
        progress.is_barred = candidacy == Candidacy::Withheld;
        if progress.is_barred {
            self.give_up_heir(peer, effects);
        }
    }

    /// The target does not take over, as far as can be told.
    fn end_transfer(&mut self, readiness: Readiness, effects: &mut Effects) {
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        let Some(transfer) = leader.transfer.take() else {
            return;
        };
        if let Some(peer) = leader.peer_mut(transfer.to) {
            // Whoever was asked however eager it is will not do better another time.
            let least = if transfer.priority == 0 { Readiness::NotNow } else { Readiness::Ready };
            peer.readiness = peer.readiness.max(readiness).max(least);
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
        let next = if transfer.picked { self.heir() } else { None };
        match (next, transfer.token) {
            (Some(next), token) if self.is_leader() => {
                self.start_transfer(Heir::Picked(next), token, effects);
            }
            (_, Some(token)) => {
                let refusal = if transfer.picked && !self.may_find_heir() {
                    Refusal::NoHeir
                } else {
                    Refusal::TransferFailed
                };
                effects.outcomes.push((token, Outcome::Refused(refusal)));
            }
            (_, None) => {}
        }
        self.tend_membership(effects);
    }
}
