//! Step `sim`: the simulator finds nothing, and a seed is one history.
//!
//! Three parts. What was found once is replayed. A few seeds are run in two processes and in two
//! builds, debug and release, and must have equal hashes: everything else a sweep says rests on
//! that. Then the same fresh seeds every time, as far as they fit, so that a failure here is
//! everybody's.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use super::Report;
use super::examples::build_all;
use crate::cargo::{Workspace, build};
use crate::job::{Finished, Job};
use crate::mutants::{MARKER, contains};
use crate::sim::{SIMULATOR, simulator_build};

/// The profiles.
const PROFILES: [Profile; 2] = [
    Profile {
        name: "protocol",
        seconds: 100,
        first: 100_000,
        seeds: 1_200,
        seeds_twice: 40,
        seeds_debug: 4,
    },
    Profile {
        name: "bytes",
        seconds: 60,
        first: 500_000,
        seeds: 450,
        seeds_twice: 10,
        seeds_debug: 2,
    },
];

struct Profile {
    name: &'static str,
    /// How long its sweep may take.
    seconds: u64,
    /// The first seed of the sweep; those below belong to other uses.
    first: u64,
    /// How many of them there are; slower machines do fewer.
    seeds: u64,
    /// Seeds whose hashes are compared: so many in release, so many of them in debug.
    seeds_twice: u64,
    seeds_debug: u64,
}

const REGRESSIONS: &str = "raft-harness/sim";
/// A single run, and a sweep beyond its own limit, with time to shrink what it found.
const LIMIT: Duration = Duration::from_secs(150);

pub(super) fn run(workspace: &Workspace) -> Result<Report> {
    let release = match simulator(build(simulator_build(workspace, "release"))?)? {
        Ok(simulator) => simulator,
        Err(finished) => return Ok(Report::failed("does not build", finished.evidence())),
    };
    let debug = match simulator(build_all(workspace)?)? {
        Ok(simulator) => simulator,
        Err(finished) => return Ok(Report::failed("does not build", finished.evidence())),
    };
    let bytes = std::fs::read(&release).context("cannot read the binary")?;
    if contains(&bytes, MARKER) {
        return Ok(Report::failed("the release binary has planted bugs", MARKER));
    }
    let mut notes = Vec::new();
    match replay(workspace, &release)? {
        Ok(count) => notes.push(format!("{count} regressions")),
        Err(report) => return Ok(report),
    }
    for profile in &PROFILES {
        if let Some(report) = compare(workspace, profile, &release, &debug)? {
            return Ok(report);
        }
        match sweep(workspace, profile, &release)? {
            Ok(runs) => notes.push(format!("{} {runs} seeds", profile.name)),
            Err(report) => return Ok(report),
        }
    }
    Ok(Report::passed(notes.join(", ")))
}

type Built = Result<Vec<crate::cargo::Executable>, Finished>;

fn simulator(built: Built) -> Result<Result<PathBuf, Finished>> {
    let built = match built {
        Ok(built) => built,
        Err(finished) => return Ok(Err(finished)),
    };
    let mut built = built.into_iter();
    let simulator = built.find(|built| built.kind == "bin" && built.name == SIMULATOR);
    Ok(Ok(simulator.with_context(|| format!("the build made no {SIMULATOR}"))?.path))
}

fn simulate(
    workspace: &Workspace,
    simulator: &Path,
    profile: &str,
    arguments: &[&str],
) -> Result<Finished> {
    let mut command = Command::new(simulator);
    command.current_dir(&workspace.root);
    command.args(["--profile", profile]).args(arguments);
    command.arg("--save").arg(workspace.target_directory.join("sim-failures"));
    Job::new(command).limit(LIMIT).apart()
}

/// What was found once stays mended. The number of runs, or the failure.
fn replay(workspace: &Workspace, simulator: &Path) -> Result<Result<usize, Report>> {
    let directory = workspace.root.join(REGRESSIONS);
    let path = directory.join("regressions.txt");
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}", path.display()))?;
    let regressions = regressions(&text)?;
    for regression in &regressions {
        let case = directory.join("cases").join(regression.what);
        let arguments = match regression.kind {
            Kind::Seed => ["--seed", regression.what],
            Kind::Case => ["--replay", case.to_str().context("a path that is no text")?],
        };
        let finished = simulate(workspace, simulator, regression.profile, &arguments)?;
        if !finished.success() {
            let note = format!("{} is back", regression.what);
            return Ok(Err(Report::failed(note, finished.evidence())));
        }
    }
    Ok(Ok(regressions.len()))
}

/// Equal hashes twice, and in both builds; `None` if all is well.
fn compare(
    workspace: &Workspace,
    profile: &Profile,
    release: &Path,
    debug: &Path,
) -> Result<Option<Report>> {
    for (seeds, other) in [(profile.seeds_twice, release), (profile.seeds_debug, debug)] {
        let seeds = seeds.to_string();
        let mut hashes = Vec::new();
        for simulator in [release, other] {
            let finished =
                simulate(workspace, simulator, profile.name, &["--json", "--seeds", &seeds])?;
            match field(&finished.stdout, "hash") {
                Some(hash) if finished.success() => hashes.push(hash),
                Some(_) | None => {
                    let note = format!("{} fails among the first {seeds} seeds", profile.name);
                    return Ok(Some(Report::failed(note, finished.evidence())));
                }
            }
        }
        if hashes[0] != hashes[1] {
            let evidence = format!("{seeds} seeds, {}: {hashes:?}", other.display());
            return Ok(Some(Report::failed("one seed, two histories", evidence)));
        }
    }
    Ok(None)
}

/// Fresh seeds for as long as there is time. Their number, or the failure.
fn sweep(
    workspace: &Workspace,
    profile: &Profile,
    simulator: &Path,
) -> Result<Result<u64, Report>> {
    let (first, seeds, seconds) =
        (profile.first.to_string(), profile.seeds.to_string(), profile.seconds.to_string());
    let arguments =
        ["--json", "--first", &first, "--seeds", &seeds, "--seconds", &seconds, "--shrink", "40"];
    let finished = simulate(workspace, simulator, profile.name, &arguments)?;
    let summary = document(&finished.stdout).unwrap_or_default();
    Ok(match summary["runs"].as_u64() {
        Some(runs) if finished.success() && runs == profile.seeds && goes_nowhere(&summary) => {
            let note = format!("the {} profile does not get around any more", profile.name);
            Err(Report::failed(note, format!("never reached: {}", summary["marks_never"])))
        }
        Some(runs) if finished.success() && runs > 0 => Ok(runs),
        Some(_) | None => {
            let note = format!("the {} profile found something", profile.name);
            Err(Report::failed(note, finished.evidence()))
        }
    })
}

/// Whether a whole sweep misses more than one in twenty of the rare states it should have been to.
/// One or two may be missed by so few seeds.
fn goes_nowhere(summary: &Value) -> bool {
    let reached = summary["marks_reached"].as_u64().unwrap_or_default();
    let never = summary["marks_never"].as_array().map_or(0, Vec::len) as u64;
    never * 20 > reached + never || reached == 0
}

fn document(output: &str) -> Option<Value> {
    output.lines().rev().find_map(|line| serde_json::from_str(line).ok())
}

fn field(output: &str, name: &str) -> Option<String> {
    document(output)?[name].as_str().map(str::to_owned)
}

#[derive(Debug, Eq, PartialEq)]
struct Regression<'a> {
    kind: Kind,
    profile: &'a str,
    /// The seed, or the name of the file.
    what: &'a str,
}

#[derive(Debug, Eq, PartialEq)]
enum Kind {
    Seed,
    Case,
}

fn regressions(text: &str) -> Result<Vec<Regression<'_>>> {
    let lines =
        text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let mut words = line.split_whitespace();
            let kind = match words.next() {
                Some("seed") => Kind::Seed,
                Some("case") => Kind::Case,
                Some(_) | None => anyhow::bail!("neither a seed nor a case: {line}"),
            };
            let profile = words.next().with_context(|| format!("no profile: {line}"))?;
            let what = words.next().with_context(|| format!("nothing to run: {line}"))?;
            Ok(Regression { kind, profile, what })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Kind, Regression, field, goes_nowhere, regressions};

    #[test]
    fn regressions_are_seeds_and_cases_with_a_reason() {
        let text = "# a comment\n\nseed protocol 7  why\ncase protocol a.case it hung\n";
        let expected = [
            Regression { kind: Kind::Seed, profile: "protocol", what: "7" },
            Regression { kind: Kind::Case, profile: "protocol", what: "a.case" },
        ];
        assert_eq!(regressions(text).unwrap(), expected);
        assert!(regressions("sed protocol 7").is_err() && regressions("seed protocol").is_err());
    }

    #[test]
    fn a_sweep_that_misses_many_marks_goes_nowhere() {
        let summary = |reached: u64, never: &[&str]| json!({ "marks_reached": reached, "marks_never": never });
        assert!(!goes_nowhere(&summary(84, &["a", "b"])));
        assert!(goes_nowhere(&summary(30, &["a", "b"])));
        assert!(goes_nowhere(&summary(0, &[])) && goes_nowhere(&json!({})));
    }

    #[test]
    fn the_summary_is_the_last_document_of_the_output() {
        let output = "progress\n{\"hash\":\"a\"}\nmore\n{\"hash\":\"b\"}\n";
        assert_eq!(field(output, "hash"), Some("b".to_owned()));
        assert_eq!(field("nothing", "hash"), None);
    }
}
