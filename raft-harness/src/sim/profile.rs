//! What can be simulated, behind one door.
//!
//! A profile decides how deep the simulated cluster is cut. Sweeps, reports, shrinking and planted
//! bugs do not care: they hand in a [`Case`] and get a [`RunReport`].

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use super::bytes;
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
    /// The whole engine, down to bytes on wires and sectors on disks.
    Bytes,
}

impl Profile {
    /// All of them.
    pub const ALL: &[Self] = &[Self::Protocol, Self::Bytes];

    /// What it is called.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Protocol => "protocol",
            Self::Bytes => "bytes",
        }
    }

    /// Whether the profile is deep enough for this mark to be reached.
    pub fn concerns(self, mark: Mark) -> bool {
        match self {
            Self::Protocol => {
                protocol::concerns(mark) && !mark.is_of_wires() && !mark.is_of_stamps()
            }
            Self::Bytes => bytes::concerns(mark),
        }
    }

    /// The case that a seed stands for.
    pub fn draw(self, seed: u64) -> Case {
        match self {
            Self::Protocol => Case::draw(seed),
            Self::Bytes => bytes::draw(seed),
        }
    }

    /// The numbers of a case that may shrink, each with the least that makes sense.
    pub(super) const fn least(self) -> &'static [(&'static str, u64)] {
        match self {
            Self::Protocol => &[
                ("faults_us", 100_000),
                ("healing_us", 0),
                ("groups", 1),
                ("clients", 1),
                ("operator_us", 0),
                ("straggle_permille", 0),
                ("duplicate_permille", 0),
                ("drop_permille", 0),
                ("jitter_us", 0),
                ("quiesce_ms", 0),
                ("nodes", 1),
                ("voters", 1),
            ],
            // Its sizes are drawn from the seed, and it heals for as long as it must.
            Self::Bytes => &[],
        }
    }

    /// Whether a case of this profile depends on a number.
    pub(super) fn has_number(self, name: &str) -> bool {
        match self {
            Self::Protocol => true,
            Self::Bytes => matches!(name, "faults_us" | "healing_us"),
        }
    }

    /// Runs a case of this profile and keeps the last `kept_max` events of each node in words.
    ///
    /// The report is a function of the case alone, whatever machine, build or thread this is. A
    /// panic of the code under test is a violation of it.
    pub fn run(self, case: &Case, kept_max: usize) -> RunReport {
        match self {
            Self::Protocol => protocol::run(case, kept_max),
            Self::Bytes => bytes::run_case(case, kept_max),
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
    /// Marks that only this profile has, by name.
    pub own_marks: BTreeMap<&'static str, u64>,
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
            own_marks: BTreeMap::new(),
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
    fn every_mark_is_told_by_some_profile() {
        for mark in Mark::ALL {
            let told = Profile::ALL.iter().any(|profile| profile.concerns(*mark));
            assert!(told, "nobody tells whether {}", mark.text());
        }
    }

    #[test]
    fn profiles_are_found_by_their_names() {
        for profile in Profile::ALL {
            assert_eq!(profile.name().parse(), Ok(*profile));
        }
        assert!("prose".parse::<Profile>().is_err_and(|error| error.contains("protocol")));
    }
}
