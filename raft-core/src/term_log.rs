//! What the core knows of a log: which term each index has, and where it ends.
//!
//! Terms never fall along a log, so a handful of runs (first index, term) answers every question
//! the protocol asks, and no term lookup ever touches storage.
//!
//! Below its base the log is gone: a snapshot covers it, and only the base's own term is still
//! known. A lookup below that answers `None`, never a term that could match something.
//!
//! Invariants: runs ascend in index and in term; the first run starts right after the base. A log
//! without entries ends in a run of none, of the base's term: so the newest run always answers
//! for the end of the log.

use alloc::vec::Vec;

use crate::id::{LogIndex, Term};
use crate::sparse::Sparse;
use crate::term_runs::{TermRun, TermRuns};

#[derive(Clone, Debug)]
pub(crate) struct TermLog {
    base: LogIndex,
    base_term: Term,
    /// Where the newest run starts, and its term. It answers almost every question, and most logs
    /// have no other.
    newest: (LogIndex, Term),
    older: Sparse<(LogIndex, Term)>,
    last: LogIndex,
}

impl Default for TermLog {
    fn default() -> Self {
        Self::after(LogIndex::ZERO, Term::ZERO)
    }
}

impl TermLog {
    /// A log without entries.
    fn after(base: LogIndex, base_term: Term) -> Self {
        let newest = (base.next(), base_term);
        Self { base, base_term, newest, older: Sparse::new(), last: base }
    }

    /// Takes a recovered log; `None` if the runs are not one contiguous log up to `last`.
    pub(crate) fn recover(
        base: (LogIndex, Term),
        mut runs: Vec<(LogIndex, Term)>,
        last: LogIndex,
    ) -> Option<Self> {
        let (base, base_term) = base;
        let begins = (base == LogIndex::ZERO) == (base_term == Term::ZERO)
            && runs.first().is_none_or(|(first, term)| {
                *first == base.next() && *term >= base_term && *term > Term::ZERO
            });
        let ascends = runs.windows(2).all(|w| w[0].0 < w[1].0 && w[0].1 < w[1].1);
        let ends = match runs.last() {
            None => last == base,
            Some((first, _)) => *first <= last,
        } && last <= LogIndex::LIMIT;
        let newest = runs.pop().unwrap_or_else(|| (base.next(), base_term));
        (begins && ascends && ends).then(|| Self {
            base,
            base_term,
            newest,
            older: runs.as_slice().into(),
            last,
        })
    }

    pub(crate) fn last_index(&self) -> LogIndex {
        self.last
    }

    pub(crate) fn last_term(&self) -> Term {
        self.newest.1
    }

    /// The position before the first entry that is still here.
    pub(crate) fn base(&self) -> LogIndex {
        self.base
    }

    /// The term at `index`, the base included; `None` below the base and beyond the end.
    #[inline]
    pub(crate) fn term(&self, index: LogIndex) -> Option<Term> {
        if index > self.last {
            None
        } else if index >= self.newest.0 {
            Some(self.newest.1)
        } else {
            self.older_term(index)
        }
    }

    fn older_term(&self, index: LogIndex) -> Option<Term> {
        if index == self.base {
            return Some(self.base_term);
        }
        if index < self.base {
            return crate::planted!(CompactedTermIsZero).then_some(Term::ZERO);
        }
        let after = self.older.partition_point(|(first, _)| *first <= index);
        after.checked_sub(1).map(|run| self.older[run].1)
    }

    /// Forgets everything up to `base`, which must be within the log.
    pub(crate) fn compact(&mut self, base: LogIndex) {
        let Some(term) = self.term(base).filter(|_| base > self.base) else { return };
        if base >= self.newest.0 {
            self.older.clear();
            self.newest.0 = base.next();
        } else {
            let passed = self.older.partition_point(|(first, _)| *first <= base);
            // The run that reaches past the base now starts after it.
            let ends_at_base = self.older_end(passed) == base.next();
            let gone = if ends_at_base { passed } else { passed - 1 };
            let older = self.older.vec();
            older.drain(..gone);
            if !ends_at_base && let Some(first) = older.first_mut() {
                first.0 = base.next();
            }
            self.older.release_spare();
        }
        self.base = base;
        self.base_term = term;
    }

    /// Forgets everything: the log goes on after a snapshot.
    pub(crate) fn reset(&mut self, base: LogIndex, term: Term) {
        *self = Self::after(base, term);
    }

    pub(crate) fn append(&mut self, term: Term, count: u64) {
        debug_assert!(count > 0, "no entry needs no run");
        debug_assert!(term >= self.last_term(), "terms fall along the log");
        if term > self.newest.1 {
            if self.newest.0 <= self.last {
                self.older.push(self.newest);
            }
            self.newest = (self.last.next(), term);
        }
        self.last = self.last.plus(count);
    }

    /// Removes `from` and everything after it.
    pub(crate) fn truncate(&mut self, from: LogIndex) {
        if from > self.last {
            return;
        }
        while self.newest.0 >= from && self.newest.0 > self.base.next() {
            let none = (self.base.next(), self.base_term);
            self.newest = self.older.vec().pop().unwrap_or(none);
        }
        self.last = from.prev();
        if self.last == self.base {
            self.newest = (self.base.next(), self.base_term);
        }
        self.older.release_spare();
    }

    /// The largest index that is at most `index` and whose term is at most `term`; the base if
    /// no entry is.
    ///
    /// Both sides of a conflict use it to skip whole terms at once (paper, section 5.3).
    pub(crate) fn last_at_most(&self, index: LogIndex, term: Term) -> LogIndex {
        let index = index.min(self.last);
        let mut end = self.last;
        for (first, run_term) in core::iter::once(&self.newest).chain(self.older.iter().rev()) {
            if *run_term <= term && *first <= index {
                return end.min(index);
            }
            end = first.prev();
        }
        self.base.min(index)
    }

    /// The last index of the run that `index` belongs to.
    pub(crate) fn run_end(&self, index: LogIndex) -> LogIndex {
        if index >= self.newest.0 {
            return self.last;
        }
        self.older_end(self.older.partition_point(|(first, _)| *first <= index)).prev()
    }

    /// Where the older runs before number `run` end: at the start of that one, or of the newest.
    fn older_end(&self, run: usize) -> LogIndex {
        self.older.get(run).unwrap_or(&self.newest).0
    }

    /// The terms of `first..=last` as runs, ready to travel in an append.
    #[inline]
    pub(crate) fn runs(&self, first: LogIndex, last: LogIndex) -> TermRuns {
        let last = last.min(self.last);
        if first >= self.newest.0 && first <= last {
            let count = last.since(first.prev());
            return TermRuns::one(TermRun { term: self.newest.1, count });
        }
        self.all_runs(first, last)
    }

    fn all_runs(&self, first: LogIndex, last: LogIndex) -> TermRuns {
        let mut out = TermRuns::new();
        let mut at = first;
        let mut run = self.older.partition_point(|(start, _)| *start <= first).saturating_sub(1);
        while at <= last && run < self.older.len() {
            let end = self.older_end(run + 1).prev().min(last);
            out.push(TermRun { term: self.older[run].1, count: end.since(at.prev()) });
            at = end.next();
            run += 1;
        }
        if at <= last {
            out.push(TermRun { term: self.newest.1, count: last.since(at.prev()) });
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn runs_of(log: &TermLog) -> vec::Vec<(LogIndex, Term)> {
        let newest = (log.newest.0 <= log.last).then_some(log.newest);
        log.older.iter().copied().chain(newest).collect()
    }

    fn log(terms: &[u64]) -> TermLog {
        let mut log = TermLog::default();
        for term in terms {
            log.append(Term::new(*term), 1);
        }
        log
    }

    #[test]
    fn every_index_has_the_term_it_was_appended_with() {
        let terms = [1, 1, 2, 2, 2, 5, 9, 9];
        let log = log(&terms);
        for (at, term) in terms.iter().enumerate() {
            assert_eq!(log.term(LogIndex::new(at as u64 + 1)), Some(Term::new(*term)));
        }
        assert_eq!(log.term(LogIndex::ZERO), Some(Term::ZERO));
        assert_eq!(log.term(LogIndex::new(9)), None);
    }

    #[test]
    fn truncation_then_append_equals_a_fresh_log() {
        let terms = [1, 1, 2, 3, 3];
        for cut in 1..=6u64 {
            let mut cut_log = log(&terms);
            cut_log.truncate(LogIndex::new(cut));
            cut_log.append(Term::new(7), 2);
            let mut want: vec::Vec<u64> = terms[..(cut as usize - 1).min(5)].to_vec();
            want.extend([7, 7]);
            let fresh = log(&want);
            assert_eq!(cut_log.last, fresh.last);
            assert_eq!(runs_of(&cut_log), runs_of(&fresh));
        }
    }

    #[test]
    fn last_at_most_agrees_with_a_scan() {
        let terms = [1, 1, 2, 4, 4, 7];
        let log = log(&terms);
        for index in 0..9u64 {
            for term in 0..9u64 {
                let scan = (1..=terms.len() as u64)
                    .filter(|i| *i <= index && terms[*i as usize - 1] <= term)
                    .max()
                    .unwrap_or(0);
                let got = log.last_at_most(LogIndex::new(index), Term::new(term));
                assert_eq!(got.get(), scan, "index {index} term {term}");
            }
        }
    }

    #[test]
    fn runs_of_a_range_spell_out_its_terms() {
        let terms = [1, 1, 2, 4, 4, 7];
        let log = log(&terms);
        for first in 1..=6u64 {
            for last in first..=6u64 {
                let runs = log.runs(LogIndex::new(first), LogIndex::new(last));
                let spelled: vec::Vec<u64> = runs
                    .iter()
                    .flat_map(|run| core::iter::repeat_n(run.term.get(), run.count as usize))
                    .collect();
                assert_eq!(spelled, terms[first as usize - 1..last as usize]);
            }
        }
    }

    #[test]
    fn compaction_forgets_exactly_what_lies_below_the_base() {
        let terms = [1, 1, 2, 2, 2, 5, 9, 9];
        for base in 0..=8u64 {
            let mut log = log(&terms);
            log.compact(LogIndex::new(base));
            for at in 0..=9u64 {
                let want = (at >= base && at <= 8)
                    .then(|| Term::new(if at == 0 { 0 } else { terms[at as usize - 1] }));
                assert_eq!(log.term(LogIndex::new(at)), want, "base {base} at {at}");
            }
            let again = TermLog::recover((log.base, log.base_term), runs_of(&log), log.last);
            assert!(again.is_some(), "base {base}: {log:?}");
            // It goes on, in the same term and in the next.
            for term in [9, 9, 10] {
                log.append(Term::new(term), 1);
                assert_eq!(log.term(log.last_index()), Some(Term::new(term)), "base {base}");
            }
            assert_eq!(log.last_index(), LogIndex::new(11));
        }
    }
}
