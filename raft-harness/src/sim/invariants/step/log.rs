//! The log after a step: entries that came, entries that went (I3, I4, G2).

use raft_core::{LogIndex, Term};

use super::super::entries::{Mismatch, Noted};
use super::super::membership::ConfigKey;
use super::super::record::Record;
use super::super::replica::{Replica, ShadowLog};
use super::{Checked, Step};
use crate::sim::observe::EntryClass;
use crate::sim::violation::{Check, Violation};

impl Step<'_> {
    /// I3, I4, G2. Brings the shadow up to date; returns the last index that stayed as it was,
    /// zero if a snapshot took the log's place.
    pub(super) fn follow_log(
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
}
