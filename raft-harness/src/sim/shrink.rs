//! Makes a failing run smaller: fewer faults, fewer nodes, a shorter time, the same failure.
//!
//! Lists are shrunk by delta debugging (Zeller's ddmin): leave out large pieces first, then
//! smaller ones. Numbers are shrunk towards their least value, by leaps first. Each attempt is a
//! whole run, so their number is bounded; what has been reached by then is still a failing run.

/// A run in pieces that can be left out and numbers that can be smaller.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Candidate<T> {
    /// Faults, operations: anything a run can do without.
    pub items: Vec<T>,
    /// Length, nodes, groups, clients: each with the least it can be.
    pub knobs: Vec<Knob>,
}

/// A number that may shrink.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Knob {
    /// What it is called.
    pub name: &'static str,
    /// What it is.
    pub value: u64,
    /// The least it can be.
    pub least: u64,
}

impl<T> Candidate<T> {
    /// The value of the knob of this name.
    pub fn knob(&self, name: &str) -> Option<u64> {
        self.knobs.iter().find(|knob| knob.name == name).map(|knob| knob.value)
    }
}

/// What shrinking came to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Shrunk<T> {
    /// The smallest failing run that was found.
    pub candidate: Candidate<T>,
    /// How many runs were tried.
    pub attempts: u32,
    /// Whether nothing was left to try.
    pub end: ShrinkEnd,
}

/// Why shrinking stopped.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ShrinkEnd {
    /// No single item can be left out and no number be one less.
    Minimal,
    /// The attempts were used up.
    OutOfAttempts,
}

/// Shrinks `start`, which fails. `fails` runs a candidate and says whether it fails in the same
/// way; it is called at most `attempts_max` times.
pub fn shrink<T: Clone>(
    start: Candidate<T>,
    attempts_max: u32,
    fails: impl FnMut(&Candidate<T>) -> bool,
) -> Shrunk<T> {
    let mut search = Search { best: start, attempts: 0, attempts_max, fails };
    let mut end = ShrinkEnd::OutOfAttempts;
    // Numbers first: a shorter run makes every later attempt cheaper. Then again, because fewer
    // items may allow smaller numbers and the other way round.
    while search.has_attempts() {
        let numbers = search.shrink_knobs();
        let items = search.shrink_items();
        if numbers == Progress::None && items == Progress::None && search.has_attempts() {
            end = ShrinkEnd::Minimal;
            break;
        }
    }
    Shrunk { candidate: search.best, attempts: search.attempts, end }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Progress {
    Some,
    None,
}

struct Search<T, F> {
    best: Candidate<T>,
    attempts: u32,
    attempts_max: u32,
    fails: F,
}

impl<T: Clone, F: FnMut(&Candidate<T>) -> bool> Search<T, F> {
    const fn has_attempts(&self) -> bool {
        self.attempts < self.attempts_max
    }

    /// Takes the candidate if it still fails.
    fn attempt(&mut self, candidate: Candidate<T>) -> Progress {
        if !self.has_attempts() {
            return Progress::None;
        }
        self.attempts += 1;
        if (self.fails)(&candidate) {
            self.best = candidate;
            Progress::Some
        } else {
            Progress::None
        }
    }

    fn shrink_knobs(&mut self) -> Progress {
        let mut progress = Progress::None;
        for at in 0..self.best.knobs.len() {
            // How much of the way to the least: all, a half, a quarter, ... and at last by one.
            let mut divisor = 1;
            while self.has_attempts() {
                let Knob { value, least, .. } = self.best.knobs[at];
                let way = value.saturating_sub(least);
                if way == 0 {
                    break;
                }
                let step = (way / divisor).max(1);
                let mut candidate = self.best.clone();
                candidate.knobs[at].value = value - step;
                match self.attempt(candidate) {
                    Progress::Some => progress = Progress::Some,
                    Progress::None if step == 1 => break,
                    Progress::None => divisor *= 2,
                }
            }
        }
        progress
    }

    fn shrink_items(&mut self) -> Progress {
        let mut progress = Progress::None;
        let mut pieces = 1;
        while !self.best.items.is_empty() && self.has_attempts() {
            let size = self.best.items.len().div_ceil(pieces);
            if self.leave_out(size) == Progress::Some {
                progress = Progress::Some;
                // What is left may now be left out in large pieces again.
                pieces = pieces.saturating_sub(1).max(1);
            } else if size == 1 {
                break;
            } else {
                pieces = (pieces * 2).min(self.best.items.len());
            }
        }
        progress
    }

    /// Tries to leave out each run of `size` items, the last first: what happens late is most
    /// likely not needed.
    fn leave_out(&mut self, size: usize) -> Progress {
        let mut progress = Progress::None;
        let mut end = self.best.items.len();
        while end > 0 && self.has_attempts() {
            let begin = end.saturating_sub(size);
            let mut candidate = self.best.clone();
            candidate.items.drain(begin..end.min(candidate.items.len()));
            if self.attempt(candidate) == Progress::Some {
                progress = Progress::Some;
            }
            end = begin;
        }
        progress
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(items: u64, knobs: &[(&'static str, u64, u64)]) -> Candidate<u64> {
        Candidate {
            items: (0..items).collect(),
            knobs: knobs
                .iter()
                .map(|(name, value, least)| Knob { name, value: *value, least: *least })
                .collect(),
        }
    }

    #[test]
    fn the_items_that_matter_are_left_in_their_order() {
        for needed in [vec![0], vec![99], vec![7, 50, 51], vec![], (0..100).step_by(9).collect()] {
            let shrunk = shrink(start(100, &[]), 10_000, |c| {
                needed.iter().all(|item| c.items.contains(item))
            });
            assert_eq!(shrunk.candidate.items, needed);
            assert_eq!(shrunk.end, ShrinkEnd::Minimal);
        }
    }

    #[test]
    fn one_of_a_hundred_is_found_in_few_attempts() {
        let shrunk = shrink(start(100, &[]), 10_000, |c| c.items.contains(&42));
        assert!(shrunk.attempts < 60, "{}", shrunk.attempts);
    }

    #[test]
    fn numbers_shrink_to_the_least_that_fails() {
        let knobs = [("length_us", 60_000_000, 0), ("nodes", 7, 1), ("clients", 8, 0)];
        let shrunk = shrink(start(0, &knobs), 10_000, |c| {
            c.knob("length_us") >= Some(1_234_567) && c.knob("nodes") >= Some(3)
        });
        let values: Vec<u64> = shrunk.candidate.knobs.iter().map(|knob| knob.value).collect();
        assert_eq!(values, [1_234_567, 3, 0]);
        assert!(shrunk.attempts < 200, "{}", shrunk.attempts);
    }

    #[test]
    fn a_number_that_only_shrinks_once_items_are_gone_is_tried_again() {
        let shrunk = shrink(start(10, &[("nodes", 5, 1)]), 10_000, |c| {
            c.items.contains(&3) && (c.items.len() == 1 || c.knob("nodes") == Some(5))
        });
        assert_eq!(
            (shrunk.candidate.items.as_slice(), shrunk.candidate.knob("nodes")),
            (&[3][..], Some(1))
        );
    }

    #[test]
    fn attempts_are_bounded_and_the_result_still_fails() {
        let fails = |c: &Candidate<u64>| c.items.iter().filter(|item| *item % 2 == 0).count() >= 40;
        for attempts_max in [0, 1, 5, 30] {
            let mut calls = 0;
            let shrunk = shrink(start(100, &[]), attempts_max, |c| {
                calls += 1;
                fails(c)
            });
            assert!(calls <= attempts_max);
            assert_eq!(shrunk.attempts, calls);
            assert_eq!(shrunk.end, ShrinkEnd::OutOfAttempts);
            assert!(fails(&shrunk.candidate));
        }
    }
}
