//! What has been reported committed in a group, and in which term (write once).

use raft_core::{LogIndex, Term};

/// The committed prefix. Grows with the run.
#[derive(Clone, Debug, Default)]
pub(super) struct Commits {
    /// The term of the entry at each index from 1.
    terms: Vec<Term>,
    /// Up to where the leaders of each term had committed, in ascending terms.
    reach: Vec<(Term, LogIndex)>,
}

impl Commits {
    /// The last index anybody has reported committed.
    pub(super) fn last(&self) -> LogIndex {
        LogIndex::new(self.terms.len() as u64)
    }

    /// The term of the committed entry at `index`; zero at zero; `None` beyond the last.
    pub(super) fn term(&self, index: LogIndex) -> Option<Term> {
        match index.get().checked_sub(1) {
            None => Some(Term::ZERO),
            Some(at) => self.terms.get(at as usize).copied(),
        }
    }

    /// The entry after the last is of this term.
    pub(super) fn push(&mut self, term: Term) {
        self.terms.push(term);
    }

    /// Everything so far was committed by the leader of `reporter`, or before.
    ///
    /// `false` if a later leader has committed already: then an earlier one can commit no new
    /// entry.
    pub(super) fn reached(&mut self, reporter: Term) -> bool {
        let last = self.last();
        match self.reach.last_mut() {
            Some((term, _)) if *term > reporter => return false,
            Some((term, upto)) if *term == reporter => *upto = last,
            Some(_) | None => self.reach.push((reporter, last)),
        }
        true
    }

    /// Nothing was committed behind `kept`.
    pub(super) fn give_up(&mut self, kept: LogIndex) {
        self.terms.truncate(kept.get() as usize);
        for (_, upto) in &mut self.reach {
            *upto = (*upto).min(kept);
        }
    }

    /// The last index committed by leaders of terms before `term`.
    pub(super) fn before(&self, term: Term) -> LogIndex {
        let later = self.reach.partition_point(|(reporter, _)| *reporter < term);
        later.checked_sub(1).map_or(LogIndex::ZERO, |at| self.reach[at].1)
    }

    /// The last committed index whose entry is of `term` or an earlier one.
    pub(super) fn up_to(&self, term: Term) -> LogIndex {
        LogIndex::new(self.terms.partition_point(|entry| *entry <= term) as u64)
    }

    /// The latest term in which a leader has committed.
    pub(super) fn latest_reporter(&self) -> Term {
        self.reach.last().map_or(Term::ZERO, |(term, _)| *term)
    }
}
