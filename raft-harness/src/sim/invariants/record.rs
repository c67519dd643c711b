//! What is known of a group beyond any single replica: its history, written once.

use std::collections::BTreeMap;

use raft_core::{GroupId, LogIndex, Micros, ReplicaId, Term};

use super::commits::Commits;
use super::entries::Entries;
use super::membership::Configs;
use crate::sim::violation::{Check, Violation};

/// A leader's right to answer reads by itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lease {
    pub(super) replica: ReplicaId,
    pub(super) term: Term,
    pub(super) until: Micros,
}

/// A group's history.
#[derive(Clone, Debug)]
pub(super) struct Record {
    pub(super) group: GroupId,
    pub(super) entries: Entries,
    pub(super) commits: Commits,
    pub(super) configs: Configs,
    /// Who was seen to lead each term.
    pub(super) leaders: BTreeMap<Term, ReplicaId>,
    /// Whom each replica voted for in each term, by its own account.
    pub(super) votes: BTreeMap<(Term, ReplicaId), ReplicaId>,
    /// Who stood in each term, and the last term and index of its log when it did.
    pub(super) stood: BTreeMap<(Term, ReplicaId), (Term, LogIndex)>,
    /// At most one for each replica.
    leases: Vec<Lease>,
    /// The state after each index at which somebody told it.
    digests: BTreeMap<LogIndex, (u64, ReplicaId)>,
    /// The last index a client was told of.
    pub(super) acknowledged: LogIndex,
}

impl Record {
    pub(super) fn new(group: GroupId) -> Self {
        Self {
            group,
            entries: Entries::default(),
            commits: Commits::default(),
            configs: Configs::default(),
            leaders: BTreeMap::new(),
            votes: BTreeMap::new(),
            stood: BTreeMap::new(),
            leases: Vec::new(),
            digests: BTreeMap::new(),
            acknowledged: LogIndex::ZERO,
        }
    }

    pub(super) fn fail(&self, check: Check, evidence: impl Into<String>) -> Violation {
        Violation::of_group(check, self.group, evidence)
    }

    /// The last committed entry of which somebody says to hold it.
    pub(super) fn kept_by(&self, holds: impl Fn(LogIndex, Term) -> bool) -> LogIndex {
        let mut kept = self.commits.last();
        while kept > LogIndex::ZERO
            && !self.commits.term(kept).is_some_and(|term| holds(kept, term))
        {
            kept = kept.prev();
        }
        kept
    }

    /// What lies behind is lost, and somebody has accepted that.
    pub(super) fn give_up(&mut self, kept: LogIndex) {
        self.commits.give_up(kept);
        self.digests.retain(|index, _| *index <= kept);
        self.acknowledged = self.acknowledged.min(kept);
        self.leases.clear();
    }

    /// G1: `replica` leads, or is said to lead, in `term`.
    pub(super) fn lead(&mut self, term: Term, replica: ReplicaId) -> Result<(), Violation> {
        let first = *self.leaders.entry(term).or_insert(replica);
        if first == replica {
            return Ok(());
        }
        Err(self.fail(Check::ElectionSafety, format!("{first:?} and {replica:?} lead {term:?}")))
    }

    /// G8, seen from the lease: it is given, prolonged or ended.
    pub(super) fn lease(
        &mut self,
        now: Micros,
        replica: ReplicaId,
        lease: Option<Lease>,
    ) -> Result<(), Violation> {
        self.leases.retain(|other| other.replica != replica);
        let Some(lease) = lease.filter(|lease| lease.until > now) else {
            return Ok(());
        };
        let latest = self.commits.latest_reporter();
        if latest > lease.term {
            return Err(self.fail(
                Check::LeaseSafety,
                format!(
                    "{replica:?} of {:?} has a lease until {:?}, and {latest:?} has committed",
                    lease.term, lease.until
                ),
            ));
        }
        self.leases.push(lease);
        Ok(())
    }

    /// Who crashed serves nobody.
    pub(super) fn drop_lease(&mut self, replica: ReplicaId) {
        self.leases.retain(|lease| lease.replica != replica);
    }

    /// G8, seen from the commit: the leader of `term` has committed at `now`.
    pub(super) fn no_lease_before(&self, now: Micros, term: Term) -> Result<(), Violation> {
        match self.leases.iter().find(|lease| lease.until > now && lease.term < term) {
            None => Ok(()),
            Some(lease) => Err(self.fail(
                Check::LeaseSafety,
                format!(
                    "{term:?} commits at {now:?} while {:?} of {:?} has a lease until {:?}",
                    lease.replica, lease.term, lease.until
                ),
            )),
        }
    }

    /// G4: the state of `replica` after `index`.
    pub(super) fn digest(
        &mut self,
        replica: ReplicaId,
        index: LogIndex,
        digest: u64,
    ) -> Result<(), Violation> {
        let (known, by) = *self.digests.entry(index).or_insert((digest, replica));
        if known == digest {
            return Ok(());
        }
        Err(self.fail(
            Check::StateMachineSafety,
            format!("after {index:?} {by:?} has {known:#x} and {replica:?} has {digest:#x}"),
        ))
    }

    /// G4 and G6: whether the committed entry at `index` is this one.
    pub(super) fn is_committed(
        &self,
        check: Check,
        who: ReplicaId,
        index: LogIndex,
        term: Term,
    ) -> Result<(), Violation> {
        match self.commits.term(index) {
            Some(known) if known == term => Ok(()),
            Some(known) => Err(self.fail(
                check,
                format!("{who:?} has {index:?} of {term:?}, committed is the one of {known:?}"),
            )),
            None => Err(self.fail(
                check,
                format!("{who:?} has {index:?}, committed is up to {:?}", self.commits.last()),
            )),
        }
    }
}
