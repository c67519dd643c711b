//! `raft-sim --planted`: runs with a bug planted, in the special build that has them.
//!
//! Only `cargo xtask mutants` makes that build, and it checks that the ordinary one has none of
//! this.

use std::num::NonZeroUsize;
use std::ops::Range;
use std::thread;

use clap::Args;
use raft_core::planted::Planted;

use super::{CommandError, Exit};
use crate::output;
use crate::sim::mutants::{MUTANTS, Mutant};
use crate::sim::sweep::{Failure, SweepOptions, sweep};

/// Tells a planted build by its bytes.
static MARKER: &str = "this simulator has planted bugs";

/// Seed ranges that each mutant is looked for in.
const RANGES: u64 = 5;
/// How far their beginnings lie apart: more than any budget.
const RANGE_SEEDS: u64 = 1_000_000;

#[derive(Args, Debug)]
pub(super) struct PlantedArguments {
    /// List the mutants as JSON, one a line.
    #[arg(long, hide = true)]
    planted_list: bool,
    /// Run with this bug planted.
    #[arg(long, hide = true, value_name = "NAME", value_parser = parse_mutant)]
    planted: Option<&'static Mutant>,
    /// Look for it in five ranges of seeds and print what was found as JSON; without this, run
    /// whatever else is asked for, with the bug.
    #[arg(long, hide = true, requires = "planted")]
    expect_fail: bool,
    /// Seeds per range, instead of the budget of its class.
    #[arg(long, hide = true, requires = "expect_fail", value_name = "N")]
    budget: Option<u64>,
}

fn parse_mutant(name: &str) -> Result<&'static Mutant, String> {
    let known = MUTANTS.iter().find(|mutant| mutant.name == name);
    known.ok_or_else(|| format!("there is no mutant {name:?}; --planted-list lists them"))
}

/// Does what is asked for with a planted bug, if something is.
pub(super) fn run(arguments: &PlantedArguments) -> Result<Option<Exit>, CommandError> {
    output::remark(MARKER);
    if arguments.planted_list {
        for mutant in MUTANTS {
            super::print(&mutant_json(mutant))?;
        }
        return Ok(Some(Exit::Clean));
    }
    let Some(mutant) = arguments.planted else { return Ok(None) };
    raft_core::planted::select(mutant.bug);
    if !arguments.expect_fail {
        return Ok(None);
    }
    let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let budget = arguments.budget.unwrap_or_else(|| mutant.class.seeds_max());
    let mut found = Vec::new();
    let mut checks = Vec::new();
    let mut sound_failures = 0_u64;
    for range in 0..RANGES {
        let first = range * RANGE_SEEDS;
        let (failure, sound) = hunt(mutant, first..first + budget.min(RANGE_SEEDS), threads);
        sound_failures += sound;
        found.push(failure.as_ref().map(|failure| failure.seed - first + 1));
        checks.push(failure.as_ref().map(|failure| failure.violation.id()));
        if failure.is_none() {
            // It survives; the other ranges would only cost time.
            break;
        }
    }
    let mut told = mutant_json(mutant);
    told["budget"] = budget.into();
    told["sound_failures"] = sound_failures.into();
    told["found"] = serde_json::json!(found);
    told["checks"] = serde_json::json!(checks);
    super::print(&told)?;
    let killed = found.iter().all(Option::is_some);
    Ok(Some(if killed { Exit::Clean } else { Exit::Found }))
}

/// The first seed that fails with the bug, by a check that it concerns, and not without it; and how
/// many failed otherwise: what is wrong anyway does not count as found.
fn hunt(mutant: &Mutant, mut seeds: Range<u64>, threads: usize) -> (Option<Failure>, u64) {
    let profile = mutant.profile;
    let mut sound_failures = 0;
    loop {
        let options = SweepOptions {
            seeds: seeds.clone(),
            threads,
            failures_max: 1,
            time_max: None,
            progress: None,
        };
        raft_core::planted::select(mutant.bug);
        let report = sweep(&options, |seed| profile.run(&profile.draw(seed), 0), |_| {});
        let Some(failure) = report.failures.into_iter().next() else {
            return (None, sound_failures);
        };
        if mutant.is_caught_by(failure.violation.id()) {
            raft_core::planted::select(Planted::None);
            if profile.run(&profile.draw(failure.seed), 0).violation.is_none() {
                return (Some(failure), sound_failures);
            }
        }
        sound_failures += 1;
        seeds.start = failure.seed + 1;
    }
}

fn mutant_json(mutant: &Mutant) -> serde_json::Value {
    serde_json::json!({
        "mutant": mutant.name,
        "class": mutant.class.name(),
        "seeds_max": mutant.class.seeds_max(),
        "profile": mutant.profile.name(),
        "expected": mutant.checks,
        "about": mutant.about,
    })
}
