//! The checks of one replica after one step, against its former self and its group's history.

use raft_core::{LogIndex, Micros, ReplicaId, RoleKind, Term};

use super::entries::{Mismatch, Noted};
use super::membership::{ConfigKey, Membership, disjoint_quorums};
use super::record::{Lease, Record};
use super::replica::{Deadline, Marks, Replica, ShadowLog, Waits};
use crate::sim::observe::{Activity, Disks, EntryClass, Promises, ReplicaView};
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
        self.role(record, replica)?;
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

    /// I3, I4, G2. Brings the shadow up to date; returns the last index that stayed as it was,
    /// zero if a snapshot took the log's place.
    fn follow_log(
        &self,
        record: &mut Record,
        replica: &mut Replica,
    ) -> Result<LogIndex, Violation> {
        let v = self.view;
        let kept = if v.base > replica.log.last {
            replica.log.reset_to(v.base, v.base_term);
            LogIndex::ZERO
        } else if v.base > replica.log.base
            && replica.log.term(v.base).is_some_and(|term| term != v.base_term)
        {
            // The snapshot contradicts our log there, so all of it goes.
            self.truncation(record, replica, v.base.prev(), v.base_term)?;
            replica.log.reset_to(v.base, v.base_term);
            LogIndex::ZERO
        } else {
            if v.base > replica.log.base {
                replica.log.compact_to(v.base, v.base_term);
            }
            let kept = self.common_end(&replica.log);
            if kept < replica.log.last {
                let replacement = v.log.term(kept.next()).unwrap_or(Term::ZERO);
                self.truncation(record, replica, kept, replacement)?;
                replica.log.truncate_after(kept);
            }
            kept
        };
        while replica.log.last < v.last {
            self.new_entry(record, &mut replica.log)?;
        }
        Ok(kept)
    }

    /// The last index at which the shadow and the view agree.
    fn common_end(&self, shadow: &ShadowLog) -> LogIndex {
        let mut end = shadow.last.min(self.view.last);
        while end > shadow.base && shadow.term(end) != self.view.log.term(end) {
            end = end.prev();
        }
        end
    }

    /// I4: everything above `keep` is gone, and `replacement` is the term there now (zero if
    /// nothing is there).
    fn truncation(
        &self,
        record: &Record,
        replica: &mut Replica,
        keep: LogIndex,
        replacement: Term,
    ) -> Checked {
        let Some(prev) = &self.prev else { return Ok(()) };
        let first = keep.next();
        let gone = replica.log.last_term();
        let problem = if first <= prev.commit {
            Some(format!("had committed up to {:?}", prev.commit))
        } else if record.commits.term(first).is_some_and(|t| Some(t) == replica.log.term(first)) {
            Some(format!("the group has committed {first:?} as it was"))
        } else if replacement == Term::ZERO {
            Some("nothing conflicts there".to_owned())
        } else if self.leads() && self.led_before() == Some(self.view.term) {
            Some(format!("it leads {:?}", self.view.term))
        } else if gone >= self.view.term {
            Some(format!("the end was of {gone:?}, the term is {:?}", self.view.term))
        } else {
            None
        };
        if let Some(problem) = problem {
            return Err(record.fail(
                Check::Truncation,
                format!(
                    "{:?} truncated {first:?}..={:?}, but {problem}",
                    self.who(),
                    replica.log.last
                ),
            ));
        }
        let keep_term = replica.log.term(keep).unwrap_or(Term::ZERO);
        replica.promised.truncated_after(keep, keep_term);
        Ok(())
    }

    /// I3, G2: the entry after the shadow's last.
    fn new_entry(&self, record: &mut Record, log: &mut ShadowLog) -> Checked {
        let v = self.view;
        let index = log.last.next();
        let prev_term = log.last_term();
        let Some(identity) = v.log.entry(index) else {
            return Err(record.fail(
                Check::LogMatching,
                format!(
                    "{:?} has no entry at {index:?}, and its log ends at {:?}",
                    v.replica, v.last
                ),
            ));
        };
        if identity.term < prev_term || identity.term > v.term {
            return Err(record.fail(
                Check::EntryTerms,
                format!(
                    "{:?} in {:?} has {index:?} of {:?} after {prev_term:?}",
                    v.replica, v.term, identity.term
                ),
            ));
        }
        match record.entries.note(index, prev_term, identity) {
            Ok(Noted::Again) => {}
            Ok(Noted::First) => match record.leaders.get(&identity.term) {
                Some(leader) if *leader != v.replica => {
                    return Err(record.fail(
                        Check::LogMatching,
                        format!(
                            "{:?} has {index:?} of {:?}, which {leader:?} led and never appended",
                            v.replica, identity.term
                        ),
                    ));
                }
                Some(_) | None => {}
            },
            Err(Mismatch::Hole) => {
                return Err(record.fail(
                    Check::LogMatching,
                    format!("{:?} has {index:?}, and nobody ever had the one before", v.replica),
                ));
            }
            Err(Mismatch::Differs(known)) => {
                return Err(record.fail(
                    Check::LogMatching,
                    format!(
                        "{:?} has at {index:?} {identity:?} after {prev_term:?}, known is {known:?}",
                        v.replica
                    ),
                ));
            }
        }
        log.push(identity.term);
        match identity.class {
            EntryClass::Plain => {}
            EntryClass::Config => log.configs.push(ConfigKey { index, term: identity.term }),
        }
        Ok(())
    }

    /// I8, G7, G12: the configuration it acts under. `kept` is where the new entries begin.
    fn active_config(&self, record: &mut Record, replica: &mut Replica, kept: LogIndex) -> Checked {
        let v = self.view;
        let active = v.membership.index;
        let in_place = match replica.log.configs.last() {
            Some(last) => active == last.index,
            None => active <= v.base,
        };
        if !in_place {
            return Err(record.fail(
                Check::ActiveConfig,
                format!(
                    "{:?} acts under {active:?}, the log above {:?} has {:?}",
                    v.replica, v.base, replica.log.configs
                ),
            ));
        }
        if let Some(both) = v
            .membership
            .learners
            .iter()
            .find(|r| v.membership.voters.contains(r) || v.membership.outgoing.contains(r))
        {
            return Err(record.fail(
                Check::ActiveConfig,
                format!("{both:?} votes and learns under {:?}", v.membership),
            ));
        }
        self.one_change_at_a_time(record, &replica.log, kept)?;

        let before = replica.config;
        replica.config = self.config_key(record, &replica.log);
        // A replica that was told nothing yet has no configuration.
        let Some(key) = replica.config.filter(|_| !v.membership.voters.is_empty()) else {
            return Ok(());
        };
        let is_new = record.configs.find(key).is_none();
        if let Err(known) = record.configs.note(key, &v.membership) {
            return Err(record.fail(
                Check::ConfigChain,
                format!("{key:?} is {known:?}, {:?} has {:?}", v.replica, v.membership),
            ));
        }
        let predecessor = before.filter(|before| {
            before.index < key.index
                && replica.log.term(before.index).is_none_or(|term| term == before.term)
        });
        if let Some(before) = predecessor.filter(|_| is_new) {
            self.neighbours(record, before, key)?;
        }
        Ok(())
    }

    fn config_key(&self, record: &Record, log: &ShadowLog) -> Option<ConfigKey> {
        let index = self.view.membership.index;
        let term = log.term(index).or_else(|| record.commits.term(index))?;
        Some(ConfigKey { index, term })
    }

    /// G7: two configurations that follow one another.
    fn neighbours(&self, record: &Record, before: ConfigKey, after: ConfigKey) -> Checked {
        let (Some(a), Some(b)) = (record.configs.find(before), record.configs.find(after)) else {
            return Ok(());
        };
        if a.is_joint() && b.is_joint() {
            return Err(record.fail(
                Check::ConfigChain,
                format!("a joint configuration follows another: {a:?}, then {b:?}"),
            ));
        }
        match disjoint_quorums((a, &|_| true), (b, &|_| true)) {
            None => Ok(()),
            Some(quorum) => Err(record.fail(
                Check::QuorumsIntersect,
                format!("{b:?} follows {a:?}, of which {quorum:?} decide without it"),
            )),
        }
    }

    /// I8: a leader that appends a configuration has committed the one before, and in its term.
    fn one_change_at_a_time(&self, record: &Record, log: &ShadowLog, kept: LogIndex) -> Checked {
        let v = self.view;
        if !self.leads() || self.prev.is_none() {
            return Ok(());
        }
        let own = log.configs.iter().rposition(|c| c.index > kept && c.term == v.term);
        let Some(at) = own else { return Ok(()) };
        let added = log.configs[at];
        let before = at.checked_sub(1).map(|at| log.configs[at].index);
        let commit_term = log.term(v.commit);
        if before.is_some_and(|before| before > v.commit) || commit_term != Some(v.term) {
            return Err(record.fail(
                Check::ActiveConfig,
                format!(
                    "{:?} of {:?} appended {added:?} after {before:?} with {:?} of \
                     {commit_term:?} committed",
                    v.replica, v.term, v.commit
                ),
            ));
        }
        Ok(())
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
        if !Membership::of(&v.membership).votes(v.replica) {
            return Err(record.fail(
                Check::CandidatePromotable,
                format!("{:?} is {:?} under {:?}", v.replica, v.role, v.membership),
            ));
        }
        if !self.leads() {
            return Ok(());
        }
        record.lead(v.term, v.replica)?;
        if record.configs.removed_in(v.replica).is_some_and(|removed| removed < v.term) {
            return Err(record.fail(
                Check::ConfigChain,
                format!("{:?} was removed and leads {:?}", v.replica, v.term),
            ));
        }
        self.completeness(record, &replica.log)
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

    /// I7, I9, G5, G6, G8: the commit index rose.
    fn commit(
        &self,
        record: &mut Record,
        replica: &Replica,
        config_before: Option<ConfigKey>,
    ) -> Checked {
        let v = self.view;
        let before = self.prev.map_or(LogIndex::ZERO, |prev| prev.commit);
        if v.commit <= before {
            return Ok(());
        }
        let led_in = if self.leads() { Some(v.term) } else { self.led_before() };
        let commit_term = replica.log.term(v.commit).unwrap_or(Term::ZERO);
        match (led_in, self.prev) {
            (Some(term), _) if commit_term != term => {
                return Err(record.fail(
                    Check::CommitOwnTerm,
                    format!(
                        "{:?} of {term:?} committed {:?} of {commit_term:?}",
                        v.replica, v.commit
                    ),
                ));
            }
            (None, Some(_)) if v.commit > v.verified.max(v.base) => {
                return Err(record.fail(
                    Check::CommitVerified,
                    format!(
                        "{:?} committed {:?} in {:?}, verified is {:?}",
                        v.replica, v.commit, v.term, v.verified
                    ),
                ));
            }
            (Some(_) | None, _) => {}
        }
        let first_new = record.commits.last().next();
        let mut index = before.next().max(replica.log.base).max(LogIndex::new(1));
        while index <= v.commit {
            let term = replica.log.term(index).unwrap_or(Term::ZERO);
            if index < first_new {
                record.is_committed(Check::CommittedForever, v.replica, index, term)?;
            } else if index == record.commits.last().next() && index > replica.log.base {
                record.commits.push(term);
            } else {
                return Err(record.fail(
                    Check::CommittedForever,
                    format!("{:?} has a snapshot of {index:?}, which nobody committed", v.replica),
                ));
            }
            index = index.next();
        }
        if record.commits.last() < first_new {
            return Ok(());
        }
        let Some(reporter) = led_in else {
            return Err(record.fail(
                Check::DurableQuorum,
                format!("{:?} follows and is the first to commit {:?}", v.replica, v.commit),
            ));
        };
        self.durable_quorum(record, replica, config_before, first_new)?;
        if !record.commits.reached(reporter) {
            return Err(record.fail(
                Check::CommittedForever,
                format!("{reporter:?} commits {:?} after a later term has committed", v.commit),
            ));
        }
        for key in
            replica.log.configs.iter().filter(|c| first_new <= c.index && c.index <= v.commit)
        {
            if let Err(back) = record.configs.commit(*key, reporter) {
                return Err(record.fail(
                    Check::ConfigChain,
                    format!("{back:?} was removed and is back under {key:?}"),
                ));
            }
        }
        record.no_lease_before(self.now, reporter)
    }

    /// G5: `first_new ..= commit` are reported for the first time.
    ///
    /// A configuration appended in the same step took effect after the commit, or was what let
    /// the commit rise. What the former configuration covers (its own entry and all before) must
    /// have been decided by it; what follows, by either.
    fn durable_quorum(
        &self,
        record: &Record,
        replica: &Replica,
        config_before: Option<ConfigKey>,
        first_new: LogIndex,
    ) -> Checked {
        let v = self.view;
        let active = Membership::of(&v.membership);
        let former = config_before
            .filter(|before| Some(*before) != replica.config)
            .and_then(|before| Some((before.index, record.configs.find(before)?)));
        let decided = |membership: &Membership, index: LogIndex| {
            let term = replica.log.term(index).unwrap_or(Term::ZERO);
            membership.is_quorum(|r| self.disks.holds(v.group, r, index, term))
        };
        let lacking = match former {
            None => (!decided(&active, v.commit)).then_some((v.commit, &active)),
            Some((covers, former)) => {
                let owed = covers.min(v.commit);
                if owed >= first_new && !decided(former, owed) {
                    Some((owed, former))
                } else if v.commit > covers
                    && !decided(former, v.commit)
                    && !decided(&active, v.commit)
                {
                    Some((v.commit, former))
                } else {
                    None
                }
            }
        };
        let Some((index, membership)) = lacking else { return Ok(()) };
        let term = replica.log.term(index).unwrap_or(Term::ZERO);
        let holders: Vec<ReplicaId> =
            membership.members().filter(|r| self.disks.holds(v.group, *r, index, term)).collect();
        Err(record.fail(
            Check::DurableQuorum,
            format!(
                "{:?} of {:?} committed {index:?} of {term:?}; {holders:?} hold it, of {membership:?}",
                v.replica, v.term
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
            (Activity::Awake, Deadline::Set, _) => None,
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
