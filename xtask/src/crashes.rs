//! `cargo xtask crashes`: random histories of the log with crashes between lives, more than a test
//! run has time for.
//!
//! The histories are those of `raft-storage/tests/crash.rs`: appends of all kinds, syncs, housekeeping
//! at any moment, faults of the disk, and a crash that leaves what it likes of what was not synced.
//! Each history is a few lives; what a life finds must be what was synced, or a later state.

use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::cargo::{Workspace, build};

/// Lives of one history, as the test has them.
const CYCLES_PER_HISTORY: u64 = 6;
const TEST: &str = "random_histories_of_crashes_keep_what_was_synced_and_lose_only_a_suffix";

#[derive(Debug, Eq, PartialEq)]
struct Options {
    cycles: u64,
    first: u64,
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Self> {
        let mut options = Self { cycles: 1_000_000, first: 0 };
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            let mut number = || -> Result<u64> {
                let text = rest.next().with_context(|| format!("`{argument}` needs a number"))?;
                text.parse().with_context(|| argument.clone())
            };
            match argument.as_str() {
                "--cycles" => options.cycles = number()?,
                "--first" => options.first = number()?,
                _ => bail!("unknown option `{argument}`; try `cargo xtask help`"),
            }
        }
        Ok(options)
    }
}

pub(crate) fn run(arguments: &[String]) -> Result<ExitCode> {
    let options = Options::parse(arguments)?;
    let workspace = Workspace::load()?;
    let mut command = workspace.cargo(["test", "--release", "-p", "raft-storage", "--no-run"]);
    command.args(["--features", "conformance", "--test", "crash"]);
    let built = match build(command)? {
        Ok(built) => built,
        Err(finished) => bail!("the histories do not build:\n{}", finished.evidence()),
    };
    let test = built.iter().find(|built| built.name == "crash").context("no test was built")?;
    let workers = std::thread::available_parallelism().map_or(1, |count| count.get() as u64);
    let histories = options.cycles.div_ceil(CYCLES_PER_HISTORY).div_ceil(workers);
    let begun = Instant::now();
    let start = |worker: u64| -> Result<Child> {
        Command::new(&test.path)
            .args([TEST, "--exact"])
            .env("RAFT_CRASH_FIRST", (options.first + worker * histories).to_string())
            .env("RAFT_CRASH_HISTORIES", histories.to_string())
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
    }
    let cycles = histories * workers * CYCLES_PER_HISTORY;
    println!(
        "{cycles} cycles of crash and recovery in {:.0} s, histories from seed {} on: {}",
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
            Options::parse(&arguments.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>())
        };
        assert_eq!(parse(&[]).unwrap(), Options { cycles: 1_000_000, first: 0 });
        let few = parse(&["--cycles", "60", "--first", "7"]).unwrap();
        assert_eq!(few, Options { cycles: 60, first: 7 });
        assert!(parse(&["--cycles"]).is_err() && parse(&["--cycles", "x"]).is_err());
        assert!(parse(&["--other"]).is_err());
    }
}
