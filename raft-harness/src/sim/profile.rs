//! What can be simulated, behind one door.
//!
//! A profile decides how deep the simulated cluster is cut. Sweeps, reports, shrinking and planted
//! bugs do not care: they hand in a [`Case`] and get a [`RunReport`].

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use super::case::Case;
use super::marks::{Mark, Marks};
use super::protocol;
use super::trace::Trace;
use super::violation::Violation;

/// How deep the simulated cluster is cut.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Profile {
    /// The real cores of many groups, with messages for a network and a model of the log for a
    /// disk.
    Protocol,
}

impl Profile {
    /// All of them.
    pub const ALL: &[Self] = &[Self::Protocol];

    /// What it is called.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Protocol => "protocol",
        }
    }

    /// Whether the profile is deep enough for this mark to be reached.
    pub fn concerns(self, mark: Mark) -> bool {
        match self {
            Self::Protocol => protocol::concerns(mark),
        }
    }

    /// The case that a seed stands for.
    pub fn draw(self, seed: u64) -> Case {
        Case::draw(seed)
    }

    /// Runs a case and keeps the last `kept_max` events of each node in words.
    ///
    /// The report is a function of the case alone, whatever machine, build or thread this is. A
    /// panic of the code under test is a violation of it.
    pub fn run(self, case: &Case, kept_max: usize) -> RunReport {
        match self {
            Self::Protocol => protocol::run(case, kept_max),
        }
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Profile {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::ALL.iter().find(|profile| profile.name() == text);
        known.copied().ok_or_else(|| {
            let names: Vec<&str> = Self::ALL.iter().map(|profile| profile.name()).collect();
            format!("the profiles are {}", names.join(", "))
        })
    }
}

/// What came of a run.
#[derive(Clone, Debug)]
pub struct RunReport {
    /// The seed of its case.
    pub seed: u64,
    /// Which profile it was.
    pub profile: Profile,
    /// Over everything that happened: equal if and only if two runs were equal.
    pub hash: u128,
    /// What it failed for.
    pub violation: Option<Violation>,
    /// Where it has been.
    pub marks: Marks,
    /// Faults that took effect, by the word of their kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// Faults that the profile cannot do, or that would have gone beyond what promises survive,
    /// by the word of their kind.
    pub faults_skipped: BTreeMap<&'static str, u64>,
    /// Client operations the history was checked with.
    pub operations: u64,
    /// Steps that were checked.
    pub steps: u64,
    /// Events of the simulation.
    pub events: u64,
    /// How much virtual time passed, in microseconds.
    pub virtual_us: u64,
    /// The last events, if they were asked for.
    pub trace: Trace,
}

impl RunReport {
    /// Of a run that came to nothing yet.
    pub fn nothing(profile: Profile, seed: u64) -> Self {
        Self {
            seed,
            profile,
            hash: 0,
            violation: None,
            marks: Marks::new(),
            faults: BTreeMap::new(),
            faults_skipped: BTreeMap::new(),
            operations: 0,
            steps: 0,
            events: 0,
            virtual_us: 0,
            trace: Trace::hash_only(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profiles_are_found_by_their_names() {
        for profile in Profile::ALL {
            assert_eq!(profile.name().parse(), Ok(*profile));
        }
        assert!("prose".parse::<Profile>().is_err_and(|error| error.contains("protocol")));
    }
}
