//! The command line of `raft-sim`: sweeps, single runs, and reports of what failed.
//!
//! | exit code | meaning |
//! |---|---|
//! | 0 | nothing was found |
//! | 1 | something was |
//! | 2 | wrong usage, a file that cannot be used, or a result that cannot be written |

#[cfg(planted)]
mod planted;

use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use clap::Parser;

use crate::output;
use crate::sim::case::{Case, CaseError};
use crate::sim::diagram;
use crate::sim::failure::{self, Effort, FailureReport};
use crate::sim::profile::{Profile, RunReport};
use crate::sim::sweep::{Failure, SweepOptions, SweepReport, sweep};
use crate::sim::violation::Violation;

/// Simulates clusters under faults, many seeds or one, and checks everything they do.
#[derive(Debug, Parser)]
#[command(name = "raft-sim", version, about, after_help = EXIT_CODES)]
struct Arguments {
    /// How deep the cluster is cut.
    #[arg(long, default_value = "protocol")]
    profile: Profile,
    /// How many seeds to run.
    #[arg(long, default_value_t = 1000, value_name = "N")]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 0, value_name = "SEED")]
    first: u64,
    /// Begin no further seed after so long.
    #[arg(long, value_name = "T")]
    seconds: Option<u64>,
    /// On how many threads; without it, on as many as there are processors.
    #[arg(long, value_name = "N")]
    threads: Option<NonZeroUsize>,
    /// Stop after so many failures.
    #[arg(long, default_value_t = 1, value_name = "N")]
    failures: usize,
    /// Run this one seed and tell what happened.
    #[arg(long, conflicts_with_all = ["replay", "seeds", "seconds"])]
    seed: Option<u64>,
    /// Run a saved case and tell what happened.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["seeds", "seconds"])]
    replay: Option<PathBuf>,
    /// Change a number of the one case that is run: `--set nodes=3`.
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_number)]
    set: Vec<(String, u64)>,
    /// How many events of each node to keep for a report.
    #[arg(long, default_value_t = 200, value_name = "N")]
    events: usize,
    /// How many runs a failure may be shrunk with.
    #[arg(long, default_value_t = 400, value_name = "N")]
    shrink: u32,
    /// Draw the space-time diagram of the failure, or of the one run, into this file.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Where shrunk cases are saved.
    #[arg(long, default_value = "sim-failures", value_name = "DIRECTORY")]
    save: PathBuf,
    /// Print the summary as JSON.
    #[arg(long)]
    json: bool,
    #[cfg(planted)]
    #[command(flatten)]
    planted: planted::PlantedArguments,
}

const EXIT_CODES: &str = "\
Exit codes:
  0  nothing was found
  1  something was
  2  wrong usage, a file that cannot be used, or a result that cannot be written";

/// What came of a command that could be carried out.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Exit {
    Clean,
    Found,
}

/// Why a command could not be carried out: the exit code is 2.
#[derive(Debug, thiserror::Error)]
enum CommandError {
    /// Options that go together only in part.
    #[error("{0}")]
    Usage(&'static str),
    /// A file could not be read or written.
    #[error("{}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file that should hold a case holds something else.
    #[error("{} is no case", path.display())]
    Case {
        /// Which.
        path: PathBuf,
        /// The line that is wrong.
        source: CaseError,
    },
    /// What was found could not be told.
    #[error("the result cannot be written")]
    Output(#[source] io::Error),
}

/// Runs `raft-sim` with the arguments of this process.
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let told = output::forgive(error.print());
            return if error.use_stderr() || told.is_err() { 2.into() } else { ExitCode::SUCCESS };
        }
    };
    let exit = match run(&arguments) {
        Ok(Exit::Clean) => ExitCode::SUCCESS,
        Ok(Exit::Found) => 1.into(),
        Err(error) => {
            let mut text = format!("error: {error}");
            let mut source = error.source();
            while let Some(cause) = source {
                // Writing to a string cannot fail.
                let _ = write!(text, "\n  because: {cause}");
                source = cause.source();
            }
            output::remark(text);
            2.into()
        }
    };
    output::settle();
    exit
}

fn parse_number(text: &str) -> Result<(String, u64), String> {
    let (name, value) = text.split_once('=').ok_or("it is not NAME=VALUE")?;
    let value = value.parse().map_err(|_| format!("{value:?} is no number"))?;
    Ok((name.to_owned(), value))
}

fn run(arguments: &Arguments) -> Result<Exit, CommandError> {
    #[cfg(planted)]
    if let Some(exit) = planted::run(&arguments.planted)? {
        return Ok(exit);
    }
    match single(arguments)? {
        Some(case) => run_one(arguments, case),
        None => run_many(arguments),
    }
}

/// The one case that is asked for, if it is one.
fn single(arguments: &Arguments) -> Result<Option<Case>, CommandError> {
    let mut case = match (&arguments.replay, arguments.seed) {
        (Some(path), _) => {
            let text = fs::read_to_string(path)
                .map_err(|source| CommandError::File { path: path.clone(), source })?;
            Case::parse(&text)
                .map_err(|source| CommandError::Case { path: path.clone(), source })?
        }
        (None, Some(seed)) => arguments.profile.draw(seed),
        (None, None) if arguments.set.is_empty() => return Ok(None),
        (None, None) => return Err(CommandError::Usage("--set needs --seed or --replay")),
    };
    for (name, value) in &arguments.set {
        if !case.set(name, *value) {
            return Err(CommandError::Usage(
                "--set: a case lists its names: --replay one to see them",
            ));
        }
    }
    Ok(Some(case))
}

fn run_one(arguments: &Arguments, case: Case) -> Result<Exit, CommandError> {
    let report = case.profile.run(&case, arguments.events);
    if let Some(violation) = report.violation.clone() {
        let failed = investigate(arguments, case, violation)?;
        if arguments.json {
            print(&one_json(&report))?;
        } else {
            print(&failed)?;
        }
        return Ok(Exit::Found);
    }
    if let Some(path) = &arguments.svg {
        write(path, &diagram::svg(&report.trace.last()))?;
    }
    if arguments.json {
        print(&one_json(&report))?;
    } else {
        print(&format_args!("{case}\n{}\n{}", failure::events(&report), one_line(&report)))?;
    }
    Ok(Exit::Clean)
}

fn run_many(arguments: &Arguments) -> Result<Exit, CommandError> {
    let profile = arguments.profile;
    let threads = arguments.threads.map_or_else(
        || thread::available_parallelism().map_or(1, NonZeroUsize::get),
        NonZeroUsize::get,
    );
    let options = SweepOptions {
        seeds: arguments.first..arguments.first.saturating_add(arguments.seeds),
        threads,
        failures_max: arguments.failures,
        time_max: arguments.seconds.map(Duration::from_secs),
        progress: Some(Duration::from_secs(10)),
    };
    let report =
        sweep(&options, |seed| profile.run(&profile.draw(seed), 0), |line| output::remark(line));
    for Failure { seed, violation, .. } in &report.failures {
        output::remark(format_args!("seed {seed} failed: {violation}\nshrinking it"));
        let failed = investigate(arguments, profile.draw(*seed), violation.clone())?;
        // The summary has standard output to itself when a program reads it.
        if arguments.json {
            output::remark(&failed);
        } else {
            print(&failed)?;
        }
    }
    if arguments.json {
        print(&many_json(profile, &report))?;
    } else {
        print(&report.text(|mark| profile.concerns(mark)))?;
    }
    Ok(if report.is_clean() { Exit::Clean } else { Exit::Found })
}

/// Shrinks a failure, saves its case and, if asked, its diagram.
fn investigate(
    arguments: &Arguments,
    case: Case,
    violation: Violation,
) -> Result<FailureReport, CommandError> {
    let effort = Effort { attempts_max: arguments.shrink, kept_max: arguments.events };
    let failed = FailureReport::of(case, violation, effort);
    let name = format!("{}-{}.case", failed.found.profile, failed.found.seed);
    fs::create_dir_all(&arguments.save)
        .map_err(|source| CommandError::File { path: arguments.save.clone(), source })?;
    let path = arguments.save.join(name);
    write(&path, &failed.case_text())?;
    output::remark(format_args!("replay: raft-sim --replay {}", path.display()));
    if let Some(path) = &arguments.svg {
        write(path, &failed.svg())?;
    }
    Ok(failed)
}

fn write(path: &Path, text: &str) -> Result<(), CommandError> {
    fs::write(path, text).map_err(|source| CommandError::File { path: path.to_owned(), source })
}

fn print(text: &impl std::fmt::Display) -> Result<(), CommandError> {
    output::result(text).map_err(CommandError::Output)
}

fn one_line(report: &RunReport) -> String {
    format!(
        "{} seed {}: clean; {} steps and {} operations checked, {} events, hash {:032x}",
        report.profile, report.seed, report.steps, report.operations, report.events, report.hash
    )
}

fn one_json(report: &RunReport) -> serde_json::Value {
    serde_json::json!({
        "profile": report.profile.name(),
        "seed": report.seed,
        "hash": format!("{:032x}", report.hash),
        "violation": report.violation.as_ref().map(ToString::to_string),
        "check": report.violation.as_ref().map(|violation| violation.id()),
        "faults": report.faults,
        "skipped": report.faults_skipped,
        "operations": report.operations,
        "steps": report.steps,
        "events": report.events,
        "virtual_us": report.virtual_us,
    })
}

fn many_json(profile: Profile, report: &SweepReport) -> serde_json::Value {
    let marks = report.marks.report(|mark| profile.concerns(mark));
    let failures = report.failures.iter().map(|failure| {
        serde_json::json!({
            "seed": failure.seed,
            "check": failure.violation.id(),
            "violation": failure.violation.to_string(),
        })
    });
    let rarest = marks.rarest.iter().map(
        |(runs, hits, mark)| serde_json::json!({ "mark": mark.text(), "runs": runs, "hits": hits }),
    );
    serde_json::json!({
        "profile": profile.name(),
        "runs": report.runs,
        "hash": format!("{:032x}", report.hash),
        "virtual_us": report.virtual_us,
        "steps": report.steps,
        "operations": report.operations,
        "faults": report.faults,
        "skipped": report.faults_skipped,
        "seconds": report.took.as_secs_f64(),
        "failures": failures.collect::<Vec<_>>(),
        "marks_reached": marks.reached,
        "marks_rarest": rarest.collect::<Vec<_>>(),
        "marks_never": marks.never.iter().map(|mark| mark.text()).collect::<Vec<_>>(),
    })
}
