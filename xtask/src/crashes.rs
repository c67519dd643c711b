//! `cargo xtask crashes` and `cargo xtask flips`: random histories of the log, more than a test run has
//! time for.
//!
//! The histories are those of `raft-storage/tests/crash.rs`: appends of all kinds, syncs, housekeeping
//! at any moment, faults of the disk, and a crash that leaves what it likes of what was not synced.
//! Each history is a few lives; what a life finds must be what was synced, or a later state.
//!
//! Those of `raft-storage/tests/flips.rs` end with a bit that flips at rest, another one of the same log
//! each time: it is seen, or nothing differs.

use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::cargo::{Workspace, build};

/// A test of the log that runs as many histories as it is told to.
pub(crate) struct Campaign {
    file: &'static str,
    test: &'static str,
    /// How often each history tries what it is for, as the test has it.
    per_history: u64,
    /// How the command line names that, with how many by default.
    option: &'static str,
    default: u64,
    /// What the test reads from its environment: the first seed, and how many.
    variables: [&'static str; 2],
    what: &'static str,
}

pub(crate) const CRASHES: Campaign = Campaign {
    file: "crash",
    test: "random_histories_of_crashes_keep_what_was_synced_and_lose_only_a_suffix",
    per_history: 6,
    option: "--cycles",
    default: 1_000_000,
    variables: ["RAFT_CRASH_FIRST", "RAFT_CRASH_HISTORIES"],
    what: "cycles of crash and recovery",
};

pub(crate) const FLIPS: Campaign = Campaign {
    file: "flips",
    test: "a_flipped_bit_is_seen_or_changes_nothing",
    per_history: 40,
    option: "--samples",
    default: 100_000,
    variables: ["RAFT_FLIPS_FIRST", "RAFT_FLIPS_HISTORIES"],
    what: "flipped bits",
};

#[derive(Debug, Eq, PartialEq)]
struct Options {
    cycles: u64,
    first: u64,
}

impl Options {
    fn parse(campaign: &Campaign, arguments: &[String]) -> Result<Self> {
        let mut options = Self { cycles: campaign.default, first: 0 };
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            let mut number = || -> Result<u64> {
                let text = rest.next().with_context(|| format!("`{argument}` needs a number"))?;
                text.parse().with_context(|| argument.clone())
            };
            match argument.as_str() {
                option if option == campaign.option => options.cycles = number()?,
                "--first" => options.first = number()?,
                _ => bail!("unknown option `{argument}`; try `cargo xtask help`"),
            }
        }
        Ok(options)
    }
}

pub(crate) fn run(campaign: &Campaign, arguments: &[String]) -> Result<ExitCode> {
    let options = Options::parse(campaign, arguments)?;
    let workspace = Workspace::load()?;
    let mut command = workspace.cargo(["test", "--release", "-p", "raft-storage", "--no-run"]);
    command.args(["--features", "conformance", "--test", campaign.file]);
    let built = match build(command)? {
        Ok(built) => built,
        Err(finished) => bail!("the histories do not build:\n{}", finished.evidence()),
    };
    let test =
        built.iter().find(|built| built.name == campaign.file).context("no test was built")?;
    let workers = std::thread::available_parallelism().map_or(1, |count| count.get() as u64);
    let histories = options.cycles.div_ceil(campaign.per_history).div_ceil(workers);
    let begun = Instant::now();
    let start = |worker: u64| -> Result<Child> {
        Command::new(&test.path)
            .args([campaign.test, "--exact", "--show-output"])
            .env(campaign.variables[0], (options.first + worker * histories).to_string())
            .env(campaign.variables[1], histories.to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", test.path.display()))
    };
    let running: Vec<Child> = (0..workers).map(start).collect::<Result<_>>()?;
    let mut failed = 0;
    for child in running {
        let ended = child.wait_with_output()?;
        if !ended.status.success() || !String::from_utf8_lossy(&ended.stdout).contains("1 passed") {
            failed += 1;
            println!("{}", String::from_utf8_lossy(&ended.stdout));
        }
        // What a test has counted.
        let said = String::from_utf8_lossy(&ended.stdout).into_owned();
        said.lines().filter(|line| line.contains(" bits: ")).for_each(|line| println!("{line}"));
    }
    let cycles = histories * workers * campaign.per_history;
    println!(
        "{cycles} {} in {:.0} s, histories from seed {} on: {}",
        campaign.what,
        begun.elapsed().as_secs_f64(),
        options.first,
        if failed == 0 { "0 violations" } else { "FAILED" },
    );
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_numbers_and_nothing_else() {
        let parse = |arguments: &[&str]| {
            Options::parse(
                &CRASHES,
                &arguments.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>(),
            )
        };
        assert_eq!(parse(&[]).unwrap(), Options { cycles: 1_000_000, first: 0 });
        let few = parse(&["--cycles", "60", "--first", "7"]).unwrap();
        assert_eq!(few, Options { cycles: 60, first: 7 });
        assert!(parse(&["--cycles"]).is_err() && parse(&["--cycles", "x"]).is_err());
        assert!(parse(&["--other"]).is_err());
    }
}
