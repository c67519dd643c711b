//! The configuration a replica acts under after a step (I8, G7, G12).

use raft_core::LogIndex;

use super::super::membership::{ConfigKey, disjoint_quorums};
use super::super::record::Record;
use super::super::replica::{Replica, ShadowLog};
use super::{Checked, Step};
use crate::sim::violation::Check;

impl Step<'_> {
    /// I8, G7, G12: the configuration it acts under. `kept` is where the new entries begin.
    pub(super) fn active_config(
        &self,
        record: &mut Record,
        replica: &mut Replica,
        kept: LogIndex,
    ) -> Checked {
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
}
