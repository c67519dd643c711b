//! The terms of consecutive entries, as runs: small enough to travel without an allocation.

use alloc::vec::Vec;
use core::fmt;
use core::ops::{Deref, DerefMut};

use crate::id::Term;

/// So many consecutive entries of one term.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct TermRun {
    /// Their term.
    pub term: Term,
    /// How many; at least one.
    pub count: u64,
}

/// A short list of runs. Almost every append holds entries of one term, so one run needs no
/// allocation.
#[derive(Clone)]
pub struct TermRuns(Runs);

/// As large as the vector alone: its capacity leaves room to tell the others from it.
#[derive(Clone)]
enum Runs {
    None,
    One(TermRun),
    Many(Vec<TermRun>),
}

impl TermRuns {
    /// No entries.
    pub const fn new() -> Self {
        Self(Runs::None)
    }

    /// A single run.
    pub const fn one(run: TermRun) -> Self {
        Self(Runs::One(run))
    }

    /// Adds a run at the end.
    pub fn push(&mut self, run: TermRun) {
        match &mut self.0 {
            Runs::None => self.0 = Runs::One(run),
            Runs::One(first) => {
                let mut many = Vec::with_capacity(4);
                many.extend([*first, run]);
                self.0 = Runs::Many(many);
            }
            Runs::Many(many) => many.push(run),
        }
    }
}

impl Default for TermRuns {
    fn default() -> Self {
        Self::new()
    }
}

impl Deref for TermRuns {
    type Target = [TermRun];

    fn deref(&self) -> &[TermRun] {
        match &self.0 {
            Runs::None => &[],
            Runs::One(run) => core::slice::from_ref(run),
            Runs::Many(many) => many,
        }
    }
}

impl DerefMut for TermRuns {
    fn deref_mut(&mut self) -> &mut [TermRun] {
        match &mut self.0 {
            Runs::None => &mut [],
            Runs::One(run) => core::slice::from_mut(run),
            Runs::Many(many) => many,
        }
    }
}

impl fmt::Debug for TermRuns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl PartialEq for TermRuns {
    fn eq(&self, other: &Self) -> bool {
        self[..] == other[..]
    }
}

impl Eq for TermRuns {}

impl FromIterator<TermRun> for TermRuns {
    fn from_iter<I: IntoIterator<Item = TermRun>>(runs: I) -> Self {
        let mut all = Self::new();
        for run in runs {
            all.push(run);
        }
        all
    }
}

impl From<Vec<TermRun>> for TermRuns {
    fn from(runs: Vec<TermRun>) -> Self {
        if runs.len() <= 1 { runs.into_iter().collect() } else { Self(Runs::Many(runs)) }
    }
}

impl<'a> IntoIterator for &'a TermRuns {
    type Item = &'a TermRun;
    type IntoIter = core::slice::Iter<'a, TermRun>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_keep_their_order_however_many_there_are() {
        for count in 0..10u64 {
            let want: Vec<TermRun> =
                (0..count).map(|term| TermRun { term: Term::new(term), count: term + 1 }).collect();
            let pushed: TermRuns = want.iter().copied().collect();
            assert_eq!(pushed[..], want[..]);
            let mut runs = TermRuns::from(want.clone());
            assert_eq!(runs, pushed);
            runs.iter_mut().for_each(|run| run.count += 1);
            let longer = want.iter().map(|run| TermRun { count: run.count + 1, ..*run });
            assert_eq!(runs, longer.collect());
        }
    }
}
