//! Snapshots and compaction, as data: the core says which snapshot is offered, wanted, installed
//! or given up; moving its bytes is the driver's matter (paper, section 7).
//!
//! Invariants: the log is compacted only as far as a durable snapshot reaches; an installed
//! snapshot replaces the whole log in one persist operation, so nothing that conflicts with it
//! survives a crash; one that contradicts a committed entry is a fault; a follower that turns out
//! to hold the snapshot's last entry needs no snapshot.

use alloc::boxed::Box;
use alloc::sync::Arc;

use crate::group::{Group, Role};
use crate::id::{LogIndex, ReplicaId, Term};
use crate::io::{Disbelief, DiskSpace, Effects, Fault, SnapshotEffect, StepResult};
use crate::message::{AppendResult, Declined, Message, Session, SnapshotMeta, SnapshotOffer};
use crate::progress::State;

/// A snapshot on its way here.
#[derive(Clone, Debug)]
pub(crate) struct Receiving {
    from: ReplicaId,
    session: Session,
    meta: SnapshotMeta,
}

impl Group {
    /// Up to where this replica has a durable snapshot.
    pub const fn snapshot_index(&self) -> LogIndex {
        self.snapshot
    }

    /// Whether a snapshot is on its way here.
    pub const fn is_receiving(&self) -> bool {
        self.receiving.is_some()
    }

    /// What a snapshot at `index` stands for, for its driver to store with it; `None` for an index
    /// that is not in the log any more, or not committed. Its time is that of the newest entry
    /// here, which is not earlier than any the snapshot covers.
    pub fn snapshot_meta(&self, index: LogIndex) -> Option<SnapshotMeta> {
        let term =
            self.log.term(index).filter(|_| index <= self.commit && index > LogIndex::ZERO)?;
        let (config_index, membership) = self.configs.at(index);
        let membership = Arc::clone(membership);
        (!membership.is_unknown()).then_some(SnapshotMeta {
            index,
            term,
            time: self.log_time,
            config_index,
            membership,
        })
    }

    /// The oldest snapshot that some peer was offered and may be fetching, as far as it is heard
    /// of: a driver keeps its bytes.
    pub fn snapshot_offered(&self) -> Option<LogIndex> {
        let Role::Leader(leader) = &self.role else {
            return None;
        };
        let offered = leader.peers.iter().filter_map(|peer| match &peer.state {
            State::Snapshot { offered } => offered.as_deref().map(|(index, _)| *index),
            State::Probe { .. } | State::Replicate(_) => None,
        });
        offered.min()
    }

    /// Behind this index lies what peers need of this leader's log: those that fetch a snapshot
    /// will go on from there, and those that lag from what they hold. Who has not been heard of for
    /// an election timeout is not waited for; a learner counts as well as a voter. A driver that
    /// compacts no further spares them another snapshot; it has to have a bound of its own, since a
    /// peer may be heard of and never catch up.
    pub fn log_needed_after(&self) -> Option<LogIndex> {
        let Role::Leader(leader) = &self.role else {
            return None;
        };
        let patience = self.settings.election_timeout_max;
        let heard = leader
            .peers
            .iter()
            .filter(|peer| peer.standing.is_some() && self.now.since(peer.contact) < patience);
        let needed = heard.map(|peer| match &peer.state {
            State::Snapshot { offered: Some(offered) } => offered.0,
            State::Snapshot { offered: None } => self.snapshot,
            State::Probe { .. } | State::Replicate(_) => peer.match_index,
        });
        needed.min()
    }

    pub(crate) fn on_snapshot_taken(&mut self, index: LogIndex) -> StepResult {
        if index > self.appliable {
            // It was taken before the log was found damaged, of entries that are learned again: nothing
            // rests on it until they are.
            return Ok(());
        }
        if index > self.quorum_durable_index() {
            return Err(Box::new(Fault::Driver(
                "took a snapshot of entries that a quorum may still forget",
            )));
        }
        self.snapshot = self.snapshot.max(index);
        Ok(())
    }

    pub(crate) fn on_compact(&mut self, upto: LogIndex, effects: &mut Effects) {
        let mut upto = upto.min(self.snapshot);
        if crate::planted!(CompactBeyondSnapshot) {
            upto = self.appliable;
            self.snapshot = self.snapshot.max(upto);
        }
        // A newcomer meets the membership somewhere in its log. Nobody could start from a log that
        // begins before that: its base would not say who belongs to the group.
        let says_nobody = self.configs.at(upto).1.is_unknown();
        if upto <= self.log.base() || says_nobody {
            return;
        }
        self.compact(upto, effects);
        if let Role::Leader(leader) = &mut self.role {
            for peer in &mut leader.peers {
                // Whoever is sent a snapshot already finishes that one first.
                if peer.next_index.prev() < upto && !matches!(peer.state, State::Snapshot { .. }) {
                    peer.state = State::Snapshot { offered: None };
                }
            }
        }
        self.offer_snapshots(effects);
    }

    /// Names our newest snapshot to every peer that needs one and has not been told lately.
    pub(crate) fn offer_snapshots(&mut self, effects: &mut Effects) {
        let (now, patience) = (self.now, self.settings.election_timeout_max);
        let due = |state: &State| match state {
            State::Snapshot { offered } => {
                offered.as_deref().is_none_or(|(_, offered)| now.since(*offered) >= patience)
            }
            State::Probe { .. } | State::Replicate(_) => false,
        };
        let Role::Leader(leader) = &self.role else {
            return;
        };
        if !leader.peers.iter().any(|peer| due(&peer.state)) {
            return;
        }
        let Some(meta) = self.snapshot_meta(self.snapshot) else {
            return;
        };
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        let term = leader.term;
        for peer in leader.peers.iter_mut().filter(|peer| due(&peer.state)) {
            peer.offer(now, meta.index, patience);
            let offer = SnapshotOffer { term, session: peer.session, meta: meta.clone() };
            effects.messages.send(peer.replica, Message::Snapshot(offer), None);
        }
    }

    pub(crate) fn on_snapshot_offer(
        &mut self,
        from: ReplicaId,
        offer: &SnapshotOffer,
        effects: &mut Effects,
    ) -> StepResult {
        let (session, meta) = (offer.session, &offer.meta);
        if offer.term < self.hard_state.term {
            self.answer_append(from, session, AppendResult::StaleTerm, effects);
            return Ok(());
        }
        let sound = meta.term <= offer.term
            && meta.term > Term::ZERO
            && meta.index > LogIndex::ZERO
            && meta.config_index <= meta.index;
        if !sound {
            effects.disbelieved =
                Some(Disbelief::Unsound { from, term: offer.term, index: meta.index });
            return Ok(());
        }
        self.follow(from, offer.term, effects)?;
        self.leader_session = self.leader_session.max(session);

        let ours = self.log.term(meta.index);
        if meta.index <= self.commit
            && let Some(ours) = ours.filter(|ours| *ours != meta.term)
        {
            let (index, theirs) = (meta.index, meta.term);
            return Err(Box::new(Fault::SnapshotContradicts { index, ours, theirs }));
        }
        if meta.index <= self.commit || ours == Some(meta.term) {
            self.go_on_without(meta.index, effects);
            return Ok(());
        }
        if self.disk == DiskSpace::Full {
            let result = AppendResult::Declined(Declined::DiskFull);
            self.answer_append(from, session, result, effects);
            return Ok(());
        }
        if let Some(current) = self.receiving.as_mut()
            && current.from == from
            && !crate::planted!(FetchBeginsAnew)
        {
            // What is on its way is finished first, however new the leader's newest is by now:
            // where snapshots are taken faster than they move, nothing else would ever arrive.
            current.session = session;
            let receiving = AppendResult::Receiving { index: current.meta.index };
            self.answer_append(from, session, receiving, effects);
            return Ok(());
        }
        let receiving = AppendResult::Receiving { index: meta.index };
        self.answer_append(from, session, receiving, effects);
        effects.snapshot = Some(SnapshotEffect::Fetch { from, meta: meta.clone() });
        self.receiving = Some(Box::new(Receiving { from, session, meta: meta.clone() }));
        Ok(())
    }

    /// We hold what a snapshot of a committed log covers; the leader can go on from there.
    fn go_on_without(&mut self, index: LogIndex, effects: &mut Effects) {
        self.verified = self.verified.max(index).max(self.commit);
        self.commit_to(index, effects);
        if !crate::planted!(SnapshotStuckAtLastIndex) {
            self.ack_owed = self.durability.durable() < self.verified;
            self.send_ack(effects);
        }
    }

    /// The bytes are here and durable.
    pub(crate) fn on_snapshot_received(
        &mut self,
        index: LogIndex,
        term: Term,
        effects: &mut Effects,
    ) {
        let wanted = self
            .receiving
            .take_if(|receiving| (receiving.meta.index, receiving.meta.term) == (index, term));
        let Some(receiving) = wanted else { return };
        if !matches!(self.role, Role::Follower) || index <= self.commit {
            // Appends were faster, or nobody leads us any more.
            return;
        }
        if self.log.term(index) == Some(term) && !crate::planted!(SnapshotCutsWhatFollows) {
            // Appends were faster, though nobody has said that what they brought is committed.
            // What follows this entry may be acknowledged.
            self.go_on_without(index, effects);
            return;
        }
        self.install(receiving.meta, effects);
        self.verified = index;
        self.ack_owed = true;
        if crate::planted!(SnapshotAckBeforeDurable) {
            let result = AppendResult::Accepted {
                durable: index,
                written: index,
                verified: index,
                promise: self.promise.promise,
            };
            self.answer_append(receiving.from, receiving.session, result, effects);
        }
    }

    pub(crate) fn on_snapshot_failed(&mut self, index: LogIndex, effects: &mut Effects) {
        let failed = self.receiving.take_if(|receiving| receiving.meta.index == index);
        if let Some(receiving) = failed {
            let result = AppendResult::Declined(Declined::SnapshotFailed);
            self.answer_append(receiving.from, receiving.session, result, effects);
        }
    }

    /// What was on its way is not wanted any more.
    pub(crate) fn abort_receiving(&mut self, effects: &mut Effects) {
        if let Some(receiving) = self.receiving.take() {
            effects.snapshot = Some(SnapshotEffect::Abort { index: receiving.meta.index });
        }
    }
}
