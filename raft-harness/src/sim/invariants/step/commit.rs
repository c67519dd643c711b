//! What a step has reported committed (I7, I9, G5, G6, G8).

use raft_core::{LogIndex, ReplicaId, Term};

use super::super::membership::{ConfigKey, Membership};
use super::super::record::Record;
use super::super::replica::Replica;
use super::{Checked, Step};
use crate::sim::violation::Check;

impl Step<'_> {
    /// I7, I9, G5, G6, G8: the commit index rose.
    pub(super) fn commit(
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
        // Whoever is deposed in this very step commits as a follower of the new term.
        let led_before = self.led_before().filter(|term| *term == v.term);
        let led_in = if self.leads() { Some(v.term) } else { led_before };
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
        self.on_disk(record, replica, config_before, first_new)?;
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

    /// C3: the newest of those that count on disk only, which stands for all before it.
    fn on_disk(
        &self,
        record: &Record,
        replica: &Replica,
        config_before: Option<ConfigKey>,
        first_new: LogIndex,
    ) -> Checked {
        let v = self.view;
        let log = &replica.log;
        let begins = |index: &LogIndex| log.term(*index) != log.term(index.prev());
        let changes = |index: &LogIndex| log.configs.iter().any(|config| config.index == *index);
        let new = first_new.max(log.base.next()).get()..=v.commit.get();
        let mut rests =
            new.map(LogIndex::new).rev().filter(|index| begins(index) || changes(index));
        let Some(index) = rests.next() else { return Ok(()) };
        let term = log.term(index).unwrap_or(Term::ZERO);
        let decided = |membership: &Membership| {
            membership.is_quorum(|r| self.disks.is_on_disk(v.group, r, index, term))
        };
        let former = config_before.and_then(|before| record.configs.find(before));
        if decided(&Membership::of(&v.membership)) || former.is_some_and(decided) {
            return Ok(());
        }
        Err(record.fail(
            Check::OnDisk,
            format!(
                "{:?} of {:?} committed {index:?} of {term:?} before a quorum of {:?} had it on disk",
                v.replica, v.term, v.membership
            ),
        ))
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
}
