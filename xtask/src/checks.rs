//! Suites of checks that watch real processes from outside: options, one table, one verdict.
//!
//! Invariant: the last line is `N passed, N failed`, and the exit code is 1 if any check failed.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::cargo::{Workspace, build};
use crate::table;

/// Checks that are run together.
pub(crate) struct Suite {
    /// The command's name, and that of the folder their files lie in.
    pub(crate) name: &'static str,
    pub(crate) checks: &'static [Check],
    /// Rounds of a check that has some, unless told otherwise.
    pub(crate) rounds: u32,
    /// Takes back what an earlier run may have left in a check's directory.
    pub(crate) before: fn(&Path),
}

/// One check.
pub(crate) struct Check {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    pub(crate) run: fn(&Setting) -> Result<Vec<Outcome>>,
}

/// What all checks are given.
pub(crate) struct Setting {
    pub(crate) raftd: PathBuf,
    /// A directory of this check's own; empty when it starts.
    pub(crate) directory: PathBuf,
    pub(crate) rounds: u32,
}

/// One line of the result.
pub(crate) struct Outcome {
    what: String,
    pub(crate) verdict: Verdict,
    /// A few words for the table.
    note: String,
    /// What went wrong, in full.
    evidence: String,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Verdict {
    Passed,
    Failed,
    Skipped,
}

impl Outcome {
    pub(crate) fn passed(what: impl Into<String>, note: impl Into<String>) -> Self {
        Self::new(Verdict::Passed, what, note)
    }

    pub(crate) fn failed(
        what: impl Into<String>,
        note: impl Into<String>,
        evidence: impl Into<String>,
    ) -> Self {
        Self { evidence: evidence.into(), ..Self::new(Verdict::Failed, what, note) }
    }

    /// `how` is how to make this check possible here.
    pub(crate) fn skipped(what: impl Into<String>, how: impl Into<String>) -> Self {
        Self::new(Verdict::Skipped, what, how)
    }

    fn new(verdict: Verdict, what: impl Into<String>, note: impl Into<String>) -> Self {
        Self { what: what.into(), verdict, note: note.into(), evidence: String::new() }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::Skipped => "SKIPPED",
        })
    }
}

/// What the command line asks for.
#[derive(Debug, Eq, PartialEq)]
struct Options {
    /// Names of the only checks to run; empty means all.
    only: Vec<String>,
    rounds: u32,
    /// Use this binary instead of building one.
    raftd: Option<PathBuf>,
}

impl Options {
    fn parse(suite: &Suite, arguments: &[String]) -> Result<Self> {
        let mut options = Self { only: Vec::new(), rounds: suite.rounds, raftd: None };
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            let (name, attached) = match argument.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (argument.as_str(), None),
            };
            let mut value = || {
                let value = attached.or_else(|| rest.next().map(String::as_str));
                value.with_context(|| format!("`{name}` needs a value"))
            };
            match name {
                "--only" => options.only.extend(check_names(suite, value()?)?),
                "--rounds" => {
                    options.rounds = value()?
                        .parse()
                        .ok()
                        .filter(|rounds| (1..=1000).contains(rounds))
                        .context("`--rounds` is a number from 1 to 1000")?;
                }
                "--raftd" => options.raftd = Some(value()?.into()),
                _ => bail!("unknown option `{argument}`; try `cargo xtask help`"),
            }
        }
        Ok(options)
    }

    fn wants(&self, check: &Check) -> bool {
        self.only.is_empty() || self.only.iter().any(|name| name == check.name)
    }
}

fn check_names(suite: &Suite, list: &str) -> Result<Vec<String>> {
    let known: Vec<&str> = suite.checks.iter().map(|check| check.name).collect();
    let names: Vec<String> = list.split(',').map(|name| name.trim().to_owned()).collect();
    if let Some(unknown) = names.iter().find(|name| !known.contains(&name.as_str())) {
        bail!("no check `{unknown}`; the checks are {}", known.join(", "));
    }
    Ok(names)
}

/// Runs the checks that the command line asks for.
pub(crate) fn run(suite: &Suite, arguments: &[String]) -> Result<ExitCode> {
    let options = Options::parse(suite, arguments)?;
    let workspace = Workspace::load()?;
    let raftd = match options.raftd.clone() {
        Some(raftd) => {
            fs::canonicalize(&raftd).with_context(|| format!("no binary {}", raftd.display()))?
        }
        None => build_raftd(&workspace)?,
    };
    let wants = |check: &Check| options.wants(check);
    let tally = carry_out(suite, &workspace, &raftd, options.rounds, wants)?;
    println!("\n{}", table::render(["check", "what", "result", "seconds", "note"], &tally.rows));
    println!("\n{} skipped", tally.count(Verdict::Skipped));
    println!("{} passed, {} failed", tally.count(Verdict::Passed), tally.count(Verdict::Failed));
    let is_sound = tally.count(Verdict::Failed) == 0;
    Ok(if is_sound { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What came of several checks.
#[derive(Default)]
pub(crate) struct Tally {
    /// Check, what was tried, result, seconds, note.
    rows: Vec<[String; 5]>,
    verdicts: Vec<Verdict>,
    /// What went wrong, in full.
    pub(crate) evidence: Vec<String>,
}

impl Tally {
    pub(crate) fn count(&self, wanted: Verdict) -> usize {
        self.verdicts.iter().filter(|verdict| **verdict == wanted).count()
    }
}

/// Runs the checks of a suite that are wanted, each in a directory of its own.
pub(crate) fn carry_out(
    suite: &Suite,
    workspace: &Workspace,
    raftd: &Path,
    rounds: u32,
    wants: impl Fn(&Check) -> bool,
) -> Result<Tally> {
    let mut tally = Tally::default();
    for check in suite.checks.iter().filter(|check| wants(check)) {
        println!("\n== {}: {}", check.name, check.about);
        let directory = workspace.target_directory.join("xtask").join(suite.name).join(check.name);
        (suite.before)(&directory);
        if directory.exists() {
            fs::remove_dir_all(&directory)
                .with_context(|| format!("cannot empty {}", directory.display()))?;
        }
        fs::create_dir_all(&directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
        let setting = Setting { raftd: raftd.to_owned(), directory, rounds };
        let start = Instant::now();
        let outcomes = (check.run)(&setting).unwrap_or_else(|error| {
            vec![Outcome::failed("-", "could not be carried out", format!("{error:#}"))]
        });
        let seconds = format!("{:.0}", start.elapsed().as_secs_f64());
        let failed = outcomes.iter().any(|outcome| outcome.verdict == Verdict::Failed);
        for outcome in outcomes {
            if !outcome.evidence.is_empty() {
                let found = format!("{}, {}:\n{}", check.name, outcome.what, outcome.evidence);
                println!("{found}");
                tally.evidence.push(found);
            }
            let (name, verdict) = (check.name.to_owned(), outcome.verdict.to_string());
            tally.rows.push([name, outcome.what, verdict, seconds.clone(), outcome.note]);
            tally.verdicts.push(outcome.verdict);
        }
        if failed {
            println!("its files are kept in {}", setting.directory.display());
        } else {
            // Only disk space is at stake.
            let _ = fs::remove_dir_all(&setting.directory);
        }
    }
    Ok(tally)
}

/// In release.
pub(crate) fn build_raftd(workspace: &Workspace) -> Result<PathBuf> {
    println!("building raftd");
    let arguments = ["build", "--release", "-p", "raft-harness", "--bin", "raftd"];
    let built = match build(workspace.cargo(arguments))? {
        Ok(built) => built,
        Err(finished) => bail!("raftd does not build:\n{}", finished.evidence()),
    };
    let raftd = built.into_iter().find(|built| built.name == "raftd");
    Ok(raftd.context("the workspace has no binary `raftd`")?.path)
}

#[cfg(test)]
mod tests {
    use super::{Check, Options, Suite};

    const SUITE: Suite = Suite {
        name: "test",
        checks: &[
            Check { name: "strace", about: "", run: |_| Ok(Vec::new()) },
            Check { name: "kill9", about: "", run: |_| Ok(Vec::new()) },
        ],
        rounds: 7,
        before: |_| {},
    };

    fn parse(line: &str) -> anyhow::Result<Options> {
        Options::parse(&SUITE, &line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn options_are_understood_and_misspelt_ones_are_errors() {
        let options = parse("--only strace,kill9 --rounds=3 --raftd x").unwrap();
        assert_eq!(options.only, ["strace", "kill9"]);
        assert_eq!(options.rounds, 3);
        assert_eq!(options.raftd, Some("x".into()));
        assert_eq!(parse("").unwrap().rounds, 7);
        for wrong in ["--only all", "--rounds 0", "--rounds x", "--rounds", "strace"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
