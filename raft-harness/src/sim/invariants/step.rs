//! The checks of one replica after one step, against its former self and its group's history.

mod commit;
mod config;
mod log;

use raft_core::{LogIndex, Micros, ReplicaId, RoleKind, Term};

use super::membership::Membership;
use super::record::{Lease, Record};
use super::replica::{Deadline, Marks, Replica, ShadowLog, Waits};
use crate::sim::observe::{Activity, Disks, Promises, ReplicaView};
use crate::sim::violation::{Check, Violation};

type Checked = Result<(), Violation>;

/// One observed step.
pub(super) struct Step<'a> {
    pub(super) now: Micros,
    pub(super) view: &'a ReplicaView<'a>,
    pub(super) marks: Marks,
    /// The marks before; `None` in the first view of a life.
    pub(super) prev: Option<Marks>,
    pub(super) disks: &'a dyn Disks,
}

impl Step<'_> {
    /// Everything. Leaves the replica as the view says.
    pub(super) fn check(&self, record: &mut Record, replica: &mut Replica) -> Checked {
        self.marks_ordered(record)?;
        let config_before = replica.config;
        let kept = self.follow_log(record, replica)?;
        if let Some(prev) = &self.prev {
            self.marks_monotone(record, prev, kept)?;
            self.one_vote(record, prev)?;
        }
        self.active_config(record, replica, kept)?;
        self.durable_is_true(record, replica)?;
        self.applied_is_durable(record, replica)?;
        self.role(record, replica)?;
        if let Some(prev) = &self.prev {
            self.vote_current(record, prev)?;
        }
        self.commit(record, replica, config_before)?;
        self.lease(record)?;
        self.rest(record)
    }

    fn who(&self) -> ReplicaId {
        self.view.replica
    }

    fn leads(&self) -> bool {
        self.view.role == RoleKind::Leader
    }

    /// The term in which it led before this step, if it did.
    fn led_before(&self) -> Option<Term> {
        self.prev.filter(|prev| prev.role == RoleKind::Leader).map(|prev| prev.term)
    }

    /// I1.
    fn marks_ordered(&self, record: &Record) -> Checked {
        let v = self.view;
        // A snapshot that is being installed covers more than the disk does.
        let base_applies = v.base <= v.appliable || v.durable < v.base;
        let ordered = v.base <= v.commit
            && v.appliable <= v.commit
            && v.commit <= v.last
            && v.durable <= v.written
            && v.written <= v.last
            && base_applies;
        if ordered {
            return Ok(());
        }
        Err(record.fail(
            Check::MarksOrdered,
            format!(
                "{:?}: snapshot {:?}, appliable {:?}, commit {:?}, durable {:?}, written {:?}, \
                 last {:?}",
                v.replica, v.base, v.appliable, v.commit, v.durable, v.written, v.last
            ),
        ))
    }

    /// I2. `kept` is how much of the log this step has left alone.
    fn marks_monotone(&self, record: &Record, prev: &Marks, kept: LogIndex) -> Checked {
        let now = &self.marks;
        let monotone = now.term >= prev.term
            && now.commit >= prev.commit
            && now.appliable >= prev.appliable
            && now.base >= prev.base
            && now.durable >= prev.durable.min(kept)
            && now.written >= prev.written.min(kept);
        if monotone {
            return Ok(());
        }
        Err(record.fail(
            Check::MarksMonotone,
            format!("{:?} went from {prev:?} to {now:?}, log kept to {kept:?}", self.who()),
        ))
    }

    /// I10: what counts as durable is on the disk, and is what the log has there.
    fn durable_is_true(&self, record: &Record, replica: &Replica) -> Checked {
        let v = self.view;
        let rises = self.prev.is_some_and(|prev| v.durable > prev.durable);
        let Some(term) = replica.log.term(v.durable).filter(|_| rises && v.durable > v.base) else {
            return Ok(());
        };
        if self.disks.is_on_disk(v.group, v.replica, v.durable, term) {
            return Ok(());
        }
        Err(record.fail(
            Check::DurableTrue,
            format!(
                "{:?} takes {:?} of {term:?} for durable, its disk lacks it",
                v.replica, v.durable
            ),
        ))
    }

    /// I22: a state machine never gets ahead of its own log: a crash would take back what it has
    /// shown.
    fn applied_is_durable(&self, record: &Record, replica: &Replica) -> Checked {
        let v = self.view;
        let rises = self.prev.is_some_and(|prev| v.appliable > prev.appliable);
        let Some(term) = replica.log.term(v.appliable).filter(|_| rises && v.appliable > v.base)
        else {
            return Ok(());
        };
        if self.disks.finds(v.group, v.replica, v.appliable, term) {
            return Ok(());
        }
        Err(record.fail(
            Check::AppliedDurable,
            format!(
                "{:?} may apply {:?} of {term:?}, its disk ends at {:?}",
                v.replica, v.appliable, v.durable
            ),
        ))
    }

    /// I2: a vote, once given, stands for the term.
    fn one_vote(&self, record: &Record, prev: &Marks) -> Checked {
        let v = self.view;
        if v.term == prev.term && prev.vote.is_some() && v.vote != prev.vote {
            return Err(record.fail(
                Check::VoteOnce,
                format!("{:?} in {:?}: {:?}, then {:?}", v.replica, v.term, prev.vote, v.vote),
            ));
        }
        Ok(())
    }

    /// I2: nobody is voted for without standing, or over a log that ends later.
    fn vote_current(&self, record: &mut Record, prev: &Marks) -> Checked {
        let v = self.view;
        let Some(candidate) = v.vote else { return Ok(()) };
        if (prev.term, prev.vote) == (v.term, v.vote) {
            return Ok(());
        }
        let own = (self.marks.last_term, v.last);
        if candidate == v.replica {
            record.stood.insert((v.term, candidate), own);
            return Ok(());
        }
        let stood = record.stood.get(&(v.term, candidate)).copied();
        if stood.is_some_and(|log| log >= own) {
            return Ok(());
        }
        Err(record.fail(
            Check::VoteCurrent,
            format!(
                "{:?} with {own:?} votes in {:?} for {candidate:?}, which stood with {stood:?}",
                v.replica, v.term
            ),
        ))
    }

    /// G1, G3, I11, G12, and what a replica that may have forgotten must not be.
    fn role(&self, record: &mut Record, replica: &Replica) -> Checked {
        let v = self.view;
        if let Some(leader) = v.leader {
            match record.leaders.get(&v.term) {
                Some(known) if *known != leader => {
                    return Err(record.fail(
                        Check::ElectionSafety,
                        format!("{known:?} leads {:?}, {:?} follows {leader:?}", v.term, v.replica),
                    ));
                }
                Some(_) | None => {}
            }
        }
        self.abstains(record)?;
        match v.role {
            RoleKind::Follower => return Ok(()),
            RoleKind::PreCandidate | RoleKind::Candidate | RoleKind::Leader => {}
        }
        if self.led_before() == Some(v.term) {
            return Ok(());
        }
        // One whose removal is not committed may still be needed to get it committed (thesis 4.2.2).
        let settled = v.membership.index <= v.commit;
        if settled && !Membership::of(&v.membership).votes(v.replica) {
            return Err(record.fail(
                Check::CandidatePromotable,
                format!("{:?} is {:?} under {:?}", v.replica, v.role, v.membership),
            ));
        }
        if !self.leads() {
            return Ok(());
        }
        record.lead(v.term, v.replica)?;
        // One that holds its removal and does not know that it is committed may lead to see it
        // done, and counts itself for nothing meanwhile.
        let sees_it_done =
            v.membership.index > v.commit && !Membership::of(&v.membership).votes(v.replica);
        let removed = record.configs.removed_in(v.replica).is_some_and(|removed| removed < v.term);
        if removed && !sees_it_done {
            return Err(record.fail(
                Check::ConfigChain,
                format!("{:?} was removed and leads {:?}", v.replica, v.term),
            ));
        }
        self.completeness(record, &replica.log)?;
        self.elected(record)
    }

    /// G1: whoever leads has the votes of a quorum, by the voters' own account.
    fn elected(&self, record: &Record) -> Checked {
        let v = self.view;
        let membership = Membership::of(&v.membership);
        let voted = |voter| record.votes.get(&(v.term, voter)) == Some(&v.replica);
        if membership.is_quorum(voted) {
            return Ok(());
        }
        let voters: Vec<_> = membership.members().filter(|voter| voted(*voter)).collect();
        Err(record.fail(
            Check::ElectionSafety,
            format!(
                "{:?} leads {:?} with the votes of {voters:?}, of {:?}",
                v.replica, v.term, v.membership
            ),
        ))
    }

    /// A replica that may have forgotten neither stands nor votes.
    fn abstains(&self, record: &Record) -> Checked {
        let v = self.view;
        let voted = v.vote.is_some()
            && self.prev.is_some_and(|prev| (prev.term, prev.vote) != (v.term, v.vote));
        if v.promises == Promises::Kept || (v.role == RoleKind::Follower && !voted) {
            return Ok(());
        }
        Err(record.fail(
            Check::PromiseLost,
            format!(
                "{:?} may have forgotten, is {:?} in {:?} and votes for {:?}",
                v.replica, v.role, v.term, v.vote
            ),
        ))
    }

    /// G3. By log matching, the last entry that must be there stands for all before it.
    fn completeness(&self, record: &Record, log: &ShadowLog) -> Checked {
        let v = self.view;
        let owed = record.commits.before(v.term);
        if owed <= log.base || log.term(owed) == record.commits.term(owed) {
            return Ok(());
        }
        Err(record.fail(
            Check::LeaderCompleteness,
            format!(
                "{:?} leads {:?} with {:?} at {owed:?}, where {:?} is committed; its log ends at {:?}",
                v.replica,
                v.term,
                log.term(owed),
                record.commits.term(owed),
                v.last
            ),
        ))
    }

    /// G8.
    fn lease(&self, record: &mut Record) -> Checked {
        let v = self.view;
        let lease = v.lease_until.filter(|_| self.leads()).map(|until| Lease {
            replica: v.replica,
            term: v.term,
            until,
        });
        if lease.is_none() && self.prev.is_none_or(|prev| prev.lease_until.is_none()) {
            return Ok(());
        }
        record.lease(self.now, v.replica, lease)
    }

    /// I12.
    fn rest(&self, record: &Record) -> Checked {
        let v = self.view;
        let problem = match (v.activity, self.marks.deadline, self.marks.waits) {
            (Activity::Quiesced, _, Waits::ForSomething) => {
                Some(format!("sleeps and waits for {} things", v.in_flight))
            }
            (Activity::Quiesced, Deadline::None, Waits::ForNothing) => (self.leads()
                && v.commit < v.last)
                .then(|| format!("sleeps with {:?} of {:?} committed", v.commit, v.last)),
            (Activity::Quiesced, Deadline::Set, _) => Some("sleeps and set an alarm".to_owned()),
            (Activity::Awake, Deadline::None, _) => {
                let membership = Membership::of(&v.membership);
                let alone = membership.voters.len() == 1 && !membership.is_joint();
                (membership.votes(v.replica) && !alone && v.promises == Promises::Kept)
                    .then(|| "is awake and has no deadline".to_owned())
            }
            (Activity::Awake, Deadline::Set, _) | (Activity::Withheld, ..) => None,
        };
        match problem {
            None => Ok(()),
            Some(problem) => {
                Err(record
                    .fail(Check::Deadline, format!("{:?}, {:?}, {problem}", v.replica, v.role)))
            }
        }
    }
}
