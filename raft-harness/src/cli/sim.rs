//! `raftd sim`: sweeps of the simulator, single runs, and reports of what failed.

use std::fs;
use std::io::Write as _;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use clap::Args;

use super::error::{CliError, Exit};
use crate::sim::case::Case;
use crate::sim::failure::{self, Effort, FailureReport};
use crate::sim::profile::{Profile, RunReport};
use crate::sim::sweep::{Failure, SweepOptions, SweepReport, sweep};

#[derive(Args, Debug)]
pub(super) struct SimArguments {
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
    planted: super::planted::PlantedArguments,
}

fn parse_number(text: &str) -> Result<(String, u64), String> {
    let (name, value) = text.split_once('=').ok_or("it is not NAME=VALUE")?;
    let value = value.parse().map_err(|_| format!("{value:?} is no number"))?;
    Ok((name.to_owned(), value))
}

pub(super) fn run(arguments: &SimArguments) -> Result<Exit, CliError> {
    #[cfg(planted)]
    if let Some(exit) = super::planted::run(&arguments.planted)? {
        return Ok(exit);
    }
    match single(arguments)? {
        Some(case) => run_one(arguments, case),
        None => run_many(arguments),
    }
}

/// The one case that is asked for, if it is one.
fn single(arguments: &SimArguments) -> Result<Option<Case>, CliError> {
    let mut case = match (&arguments.replay, arguments.seed) {
        (Some(path), _) => {
            let text = fs::read_to_string(path)
                .map_err(|source| CliError::File { path: path.clone(), source })?;
            Case::parse(&text).map_err(|source| CliError::Case { path: path.clone(), source })?
        }
        (None, Some(seed)) => arguments.profile.draw(seed),
        (None, None) if arguments.set.is_empty() => return Ok(None),
        (None, None) => return Err(CliError::Usage("--set needs --seed or --replay")),
    };
    for (name, value) in &arguments.set {
        if !case.set(name, *value) {
            return Err(CliError::Usage("--set: a case lists its names: --replay one to see them"));
        }
    }
    Ok(Some(case))
}

fn run_one(arguments: &SimArguments, case: Case) -> Result<Exit, CliError> {
    let report = case.profile.run(&case, arguments.events);
    if let Some(violation) = report.violation.clone() {
        let failed = investigate(arguments, case, violation)?;
        if arguments.json {
            print(&one_json(&report));
        } else {
            print(&failed);
        }
        return Ok(Exit::Warning);
    }
    if let Some(path) = &arguments.svg {
        write(path, &crate::sim::diagram::svg(&report.trace.last()))?;
    }
    if arguments.json {
        print(&one_json(&report));
    } else {
        print(&format_args!("{case}\n{}\n{}", failure::events(&report), one_line(&report)));
    }
    Ok(Exit::Ok)
}

fn run_many(arguments: &SimArguments) -> Result<Exit, CliError> {
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
        sweep(&options, |seed| profile.run(&profile.draw(seed), 0), |line| eprintln!("{line}"));
    for Failure { seed, violation, .. } in &report.failures {
        eprintln!("seed {seed} failed: {violation}\nshrinking it");
        let failed = investigate(arguments, profile.draw(*seed), violation.clone())?;
        // The summary has standard output to itself when a program reads it.
        if arguments.json {
            eprintln!("{failed}");
        } else {
            print(&failed);
        }
    }
    if arguments.json {
        print(&many_json(profile, &report));
    } else {
        print(&report.text(|mark| profile.concerns(mark)));
    }
    Ok(if report.is_clean() { Exit::Ok } else { Exit::Warning })
}

/// Shrinks a failure, saves its case and, if asked, its diagram.
fn investigate(
    arguments: &SimArguments,
    case: Case,
    violation: crate::sim::violation::Violation,
) -> Result<FailureReport, CliError> {
    let effort = Effort { attempts_max: arguments.shrink, kept_max: arguments.events };
    let failed = FailureReport::of(case, violation, effort);
    let name = format!("{}-{}.case", failed.found.profile, failed.found.seed);
    fs::create_dir_all(&arguments.save)
        .map_err(|source| CliError::File { path: arguments.save.clone(), source })?;
    let path = arguments.save.join(name);
    write(&path, &failed.case_text())?;
    eprintln!("replay: raftd sim --replay {}", path.display());
    if let Some(path) = &arguments.svg {
        write(path, &failed.svg())?;
    }
    Ok(failed)
}

fn write(path: &Path, text: &str) -> Result<(), CliError> {
    fs::write(path, text).map_err(|source| CliError::File { path: path.to_owned(), source })
}

fn print(text: &impl std::fmt::Display) {
    // A reader that has seen enough, such as `head`, is no error.
    let _ = writeln!(std::io::stdout().lock(), "{text}");
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
