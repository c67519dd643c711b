//! One run and all that decides it: a seed, the numbers of its swarm, its schedule.
//!
//! A case is a text. A seed alone means something else after the next change of the code; the
//! numbers and the faults written out go on meaning what they say (what is still drawn from the
//! seed are the latencies, the jitter and what clients do). A failure is shrunk as a case, and
//! kept as one.

use std::fmt::{self, Write};

use super::profile::Profile;
use super::rng::Streams;
use super::schedule::{Fault, ParseError, Schedule};
use super::shrink::{Candidate, Knob, Shrunk, shrink};
use super::swarm::{Swarm, generate};

/// A run to be.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Case {
    /// What runs it.
    pub profile: Profile,
    /// Where its randomness comes from.
    pub seed: u64,
    /// Its numbers. The troubles and the directed sequence are spent: see the schedule.
    pub swarm: Swarm,
    /// What is done to it.
    pub schedule: Schedule,
}

impl Case {
    /// The case that this seed draws for the protocol profile.
    pub fn draw(seed: u64) -> Self {
        let streams = Streams::new(seed);
        let mut swarm = Swarm::draw(streams);
        let schedule = generate(streams, &swarm);
        swarm.troubles.clear();
        swarm.directed = None;
        Self { profile: Profile::Protocol, seed, swarm, schedule }
    }

    /// Reads what [`Display`](fmt::Display) has written. Numbers that are not named are those of
    /// the seed.
    ///
    /// # Errors
    /// The first line that cannot be read.
    pub fn parse(text: &str) -> Result<Self, CaseError> {
        let mut case: Option<Self> = None;
        let mut profile = Profile::Protocol;
        let mut faults = String::new();
        for (at, line) in text.lines().enumerate() {
            let line_number = at as u64 + 1;
            let words: Vec<&str> = line.split_whitespace().collect();
            let number = |word: &str| {
                word.parse()
                    .map_err(|_| CaseError::BadNumber { line: line_number, value: word.to_owned() })
            };
            // Lines of the schedule keep their numbers, for its errors.
            let mut schedule_line = "";
            match (words.as_slice(), &mut case) {
                (["profile", name], None) => {
                    profile = name.parse().map_err(|_| CaseError::UnknownProfile {
                        line: line_number,
                        name: (*name).to_owned(),
                    })?;
                }
                (["seed", value], None) => {
                    let drawn = profile.draw(number(value)?);
                    case = Some(Self { schedule: Schedule::default(), ..drawn });
                }
                (["set", name, value], Some(case)) => {
                    let value = number(value)?;
                    if !case.set(name, value) {
                        let name = (*name).to_owned();
                        return Err(CaseError::UnknownNumber { line: line_number, name });
                    }
                }
                ([], _) => {}
                ([first, ..], _) if first.starts_with('#') => {}
                (_, None) => return Err(CaseError::NoSeed { line: line_number }),
                (_, Some(_)) => schedule_line = line,
            }
            faults.push_str(schedule_line);
            faults.push('\n');
        }
        let mut case =
            case.ok_or_else(|| CaseError::NoSeed { line: text.lines().count() as u64 })?;
        case.schedule = Schedule::parse(&faults)?;
        Ok(case)
    }

    /// Changes a number of the swarm; `false` if there is none of this name.
    pub fn set(&mut self, name: &str, value: u64) -> bool {
        if !self.profile.has_number(name) {
            return false;
        }
        let mut found = false;
        self.swarm.numbers(|known, old| {
            if known == name {
                found = true;
                value
            } else {
                old
            }
        });
        found
    }

    /// Makes a failing case smaller. `fails` runs a case and says whether it fails by the same
    /// check; it is called at most `attempts_max` times.
    pub fn shrink(
        &self,
        attempts_max: u32,
        mut fails: impl FnMut(&Self) -> bool,
    ) -> (Self, Shrunk<Fault>) {
        let least = self.profile.least();
        let mut knobs = Vec::new();
        self.swarm.clone().numbers(|name, value| {
            if let Some((_, least)) = least.iter().find(|(known, _)| *known == name) {
                knobs.push(Knob { name, value, least: (*least).min(value) });
            }
            value
        });
        let start = Candidate { items: self.schedule.faults().to_vec(), knobs };
        let shrunk = shrink(start, attempts_max, |candidate| fails(&self.with(candidate)));
        (self.with(&shrunk.candidate), shrunk)
    }

    fn with(&self, candidate: &Candidate<Fault>) -> Self {
        let mut case = Self { schedule: Schedule::new(candidate.items.clone()), ..self.clone() };
        for knob in &candidate.knobs {
            case.set(knob.name, knob.value);
        }
        case
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "profile {}\nseed {}", self.profile, self.seed)?;
        let mut numbers = String::new();
        self.swarm.clone().numbers(|name, value| {
            if self.profile.has_number(name) {
                // Writing into a string does not fail.
                let _ = writeln!(numbers, "set {name} {value}");
            }
            value
        });
        f.write_str(&numbers)?;
        write!(f, "# begins lasts what, in microseconds\n{}", self.schedule)
    }
}

/// A text that is no case.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum CaseError {
    /// The first line must say `seed <number>`.
    #[error("line {line}: a case begins with its seed")]
    NoSeed {
        /// Which line.
        line: u64,
    },
    /// There is no such profile.
    #[error("line {line}: there is no profile {name:?}")]
    UnknownProfile {
        /// Which line.
        line: u64,
        /// What it says.
        name: String,
    },
    /// Not a number.
    #[error("line {line}: {value:?} is no number")]
    BadNumber {
        /// Which line.
        line: u64,
        /// What it says.
        value: String,
    },
    /// A swarm has no such number.
    #[error("line {line}: there is no number {name:?}")]
    UnknownNumber {
        /// Which line.
        line: u64,
        /// What it says.
        name: String,
    },
    /// A line of the schedule is wrong.
    #[error(transparent)]
    Schedule(#[from] ParseError),
}

#[cfg(test)]
mod tests {
    use super::super::schedule::FaultKind;
    use super::super::shrink::ShrinkEnd;
    use super::*;

    #[test]
    fn a_case_reads_back_as_it_was_written() {
        for seed in 0..50 {
            let mut case = Case::draw(seed);
            assert!(case.set("groups", 17));
            for case in [case, Profile::Bytes.draw(seed)] {
                let text = case.to_string();
                assert_eq!(Case::parse(&text).as_ref(), Ok(&case), "{text}");
            }
        }
    }

    #[test]
    fn a_short_case_takes_the_rest_from_its_seed() {
        let case = Case::parse("# found by hand\nseed 4\nset nodes 5\n\n10 20 wipe node=1\n");
        let case = case.expect("it is well-formed");
        let drawn = Case::draw(4);
        assert_eq!((case.swarm.nodes, case.swarm.groups), (5, drawn.swarm.groups));
        assert_eq!(case.schedule.to_string(), "10 20 wipe node=1\n");
    }

    #[test]
    fn what_is_wrong_with_a_case_is_told_with_its_line() {
        for (text, expected) in [
            ("", "line 0: a case begins with its seed"),
            ("profile x", "line 1: there is no profile \"x\""),
            ("set nodes 3", "line 1: a case begins with its seed"),
            ("seed x", "line 1: \"x\" is no number"),
            ("seed 1\nset nodes many", "line 2: \"many\" is no number"),
            ("seed 1\nset legs 4", "line 2: there is no number \"legs\""),
            ("seed 1\n\n5 5 wipe", "line 3: node is missing"),
            ("seed 1\nseed 2", "line 2: begins cannot be \"seed\""),
        ] {
            let error = Case::parse(text).expect_err(text);
            assert_eq!(error.to_string(), expected);
        }
    }

    #[test]
    fn a_case_shrinks_to_the_faults_and_sizes_that_matter() {
        let seed = (0..).find(|seed| {
            let case = Case::draw(*seed);
            let crashes = case.schedule.faults().iter().filter(|f| f.kind.word() == "crash");
            crashes.count() >= 3 && case.swarm.nodes >= 3 && case.swarm.groups > 5
        });
        let case = Case::draw(seed.expect("one of all seeds"));
        let fails = |case: &Case| {
            case.swarm.nodes >= 3
                && case.schedule.faults().iter().any(|f| matches!(f.kind, FaultKind::Crash { .. }))
        };
        let (small, shrunk) = case.shrink(1000, fails);
        assert_eq!(shrunk.end, ShrinkEnd::Minimal);
        assert_eq!(small.schedule.faults().len(), 1);
        assert_eq!((small.swarm.nodes, small.swarm.groups, small.swarm.healing_us), (3, 1, 0));
        assert_eq!(small.swarm.faults_us, 100_000);
        assert!(fails(&small));
    }
}
