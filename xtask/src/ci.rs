//! `cargo xtask ci`: every check, in one order, with one verdict.
//!
//! A failed step does not stop the others, so that one run tells everything there is to repair.
//! Steps that compile come in an order in which each finds most of its work already built.
//!
//! Invariant: the last line is `N passed, N failed`, and the exit code is 1 if any step failed.

use std::fmt;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::cargo::Workspace;
use crate::job::Finished;
use crate::table;

mod clippy;
mod demo;
mod docs;
mod evidence;
mod examples;
mod field;
mod fmt_check;
mod history;
mod hygiene;
mod layering;
mod loom;
mod requirements;
mod simulate;
mod tests_run;

mod source;

pub(crate) use history::History;

/// One check.
struct Step {
    name: &'static str,
    about: &'static str,
    run: fn(&Workspace) -> Result<Report>,
}

const STEPS: [Step; 14] = [
    Step { name: "fmt", about: "rustfmt would change nothing", run: fmt_check::run },
    Step {
        name: "clippy",
        about: "no warning, with each crate alone and with no, each and all of its features",
        run: clippy::run,
    },
    Step {
        name: "layering",
        about: "crates use only what their layer may; raft-core is no_std",
        run: layering::run,
    },
    Step {
        name: "hygiene",
        about: "no stubs, ignored tests, unexplained allows or machine paths",
        run: hygiene::run,
    },
    Step {
        name: "requirements",
        about: "docs/REQUIREMENTS.md is complete, and every test and command it names is there",
        run: requirements::run,
    },
    Step {
        name: "history",
        about: "docs/HISTORY_OF_BUGS.md has every bug once, with tests that are there",
        run: history::run,
    },
    Step { name: "docs", about: "the documentation builds without a warning", run: docs::run },
    Step { name: "test", about: "unit and integration tests", run: tests_run::tests },
    Step { name: "doctest", about: "the examples in the documentation", run: tests_run::doctests },
    Step { name: "examples", about: "every example builds, runs and exits 0", run: examples::run },
    Step { name: "loom", about: "every interleaving of raft-mux's models", run: loom::run },
    Step {
        name: "sim",
        about: "simulated clusters keep their promises, and a seed is one history",
        run: simulate::run,
    },
    Step { name: "demo", about: "raftd demo loses no write", run: demo::run },
    Step {
        name: "field",
        about: "what was found broken from outside is mended on real nodes",
        run: field::run,
    },
];

/// What a step found out.
#[derive(Debug)]
struct Report {
    verdict: Verdict,
    /// A few words for the table.
    note: String,
    /// The evidence of a failure, in full.
    evidence: String,
    /// Parts that could not be checked here, each with how to make it possible.
    skipped_parts: Vec<String>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Verdict {
    Passed,
    Failed,
    Skipped,
}

impl Report {
    fn passed(note: impl Into<String>) -> Self {
        Self::new(Verdict::Passed, note)
    }

    fn failed(note: impl Into<String>, evidence: impl Into<String>) -> Self {
        Self { evidence: evidence.into(), ..Self::new(Verdict::Failed, note) }
    }

    /// The tool this step needs is missing; `install` is the command that brings it.
    fn skipped(install: &str) -> Self {
        Self::new(Verdict::Skipped, format!("install with {install}"))
    }

    fn new(verdict: Verdict, note: impl Into<String>) -> Self {
        let note = note.into();
        Self { verdict, note, evidence: String::new(), skipped_parts: Vec::new() }
    }

    /// Passed if nothing was found, and otherwise failed with the findings as evidence.
    fn from_findings(findings: &[String], note: impl Into<String>) -> Self {
        if findings.is_empty() {
            Self::passed(note)
        } else {
            Self::failed(format!("{} findings", findings.len()), findings.join("\n"))
        }
    }

    /// Passed if the program succeeded, and otherwise failed with its output.
    fn from_finished(finished: &Finished, note: impl Into<String>) -> Self {
        if finished.success() {
            Self::passed(note)
        } else {
            Self::failed("see its output above", finished.evidence())
        }
    }

    /// Under `--strict` nothing may be left out: what could not be checked has failed.
    fn strictly(mut self) -> Self {
        let incomplete = match self.verdict {
            Verdict::Passed => !self.skipped_parts.is_empty(),
            Verdict::Skipped => true,
            Verdict::Failed => false,
        };
        if incomplete {
            self.evidence = format!("not all was checked, as --strict asks: {}", self.full_note());
            self.verdict = Verdict::Failed;
        }
        self
    }

    fn full_note(&self) -> String {
        let mut note = self.note.clone();
        for part in &self.skipped_parts {
            if !note.is_empty() {
                note.push_str("; ");
            }
            note.push_str("part SKIPPED: ");
            note.push_str(part);
        }
        note
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
#[derive(Debug, Default, Eq, PartialEq)]
struct Options {
    strict: bool,
    list: bool,
    /// Names of the only steps to run; empty means all.
    only: Vec<String>,
    skip: Vec<String>,
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Self> {
        let mut options = Self::default();
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            let (name, attached) = match argument.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (argument.as_str(), None),
            };
            let mut names = || {
                let value = attached.or_else(|| rest.next().map(String::as_str));
                step_names(value.with_context(|| format!("`{name}` needs step names"))?)
            };
            match name {
                "--only" => options.only.extend(names()?),
                "--skip" => options.skip.extend(names()?),
                "--strict" if attached.is_none() => options.strict = true,
                "--list" if attached.is_none() => options.list = true,
                _ => bail!("unknown option `{argument}`; try `cargo xtask help`"),
            }
        }
        Ok(options)
    }

    fn wants(&self, step: &Step) -> bool {
        let named = |names: &[String]| names.iter().any(|name| name == step.name);
        (self.only.is_empty() || named(&self.only)) && !named(&self.skip)
    }
}

fn step_names(list: &str) -> Result<Vec<String>> {
    let known = STEPS.map(|step| step.name);
    let names: Vec<String> = list.split(',').map(|name| name.trim().to_owned()).collect();
    if let Some(unknown) = names.iter().find(|name| !known.contains(&name.as_str())) {
        bail!("no step `{unknown}`; the steps are {}", known.join(", "));
    }
    Ok(names)
}

pub(crate) fn run(arguments: &[String]) -> Result<ExitCode> {
    let options = Options::parse(arguments)?;
    let steps: Vec<&Step> = STEPS.iter().filter(|step| options.wants(step)).collect();
    if options.list {
        let rows: Vec<_> =
            steps.iter().map(|step| [step.name.to_owned(), step.about.to_owned()]).collect();
        println!("{}", table::render(["step", "checks that"], &rows));
        return Ok(ExitCode::SUCCESS);
    }
    if steps.is_empty() {
        bail!("--only and --skip leave no step to run");
    }
    let workspace = Workspace::load()?;
    let start = Instant::now();
    let mut verdicts = Vec::new();
    let mut rows = Vec::new();
    for step in steps {
        println!("\n== {}: {}", step.name, step.about);
        let start = Instant::now();
        let mut report = (step.run)(&workspace)
            .unwrap_or_else(|error| Report::failed("could not run", format!("{error:#}")));
        if options.strict {
            report = report.strictly();
        }
        let seconds = format!("{:.1}", start.elapsed().as_secs_f64());
        let (verdict, note) = (report.verdict, report.full_note());
        if verdict == Verdict::Failed {
            println!("{}", report.evidence);
        }
        let remark = if note.is_empty() { String::new() } else { format!(" ({note})") };
        println!("-- {}: {verdict} in {seconds} s{remark}", step.name);
        rows.push([step.name.to_owned(), verdict.to_string(), seconds, note]);
        verdicts.push(verdict);
    }
    println!("\n{}", table::render(["step", "result", "seconds", "note"], &rows));
    println!("\n{:.0} s in all, {}", start.elapsed().as_secs_f64(), skipped(&verdicts));
    println!("{}", summary(&verdicts));
    Ok(if verdicts.contains(&Verdict::Failed) { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn count(verdicts: &[Verdict], wanted: Verdict) -> usize {
    verdicts.iter().filter(|verdict| **verdict == wanted).count()
}

fn skipped(verdicts: &[Verdict]) -> String {
    format!("{} skipped", count(verdicts, Verdict::Skipped))
}

/// The last line, which programs read.
fn summary(verdicts: &[Verdict]) -> String {
    let (passed, failed) = (count(verdicts, Verdict::Passed), count(verdicts, Verdict::Failed));
    format!("{passed} passed, {failed} failed")
}

#[cfg(test)]
mod tests {
    use super::{Options, Report, STEPS, Verdict, skipped, summary};

    fn parse(line: &str) -> anyhow::Result<Options> {
        Options::parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    fn wanted(line: &str) -> Vec<&'static str> {
        let options = parse(line).unwrap();
        STEPS.iter().filter(|step| options.wants(step)).map(|step| step.name).collect()
    }

    #[test]
    fn the_summary_counts_a_skipped_step_as_neither_passed_nor_failed() {
        let verdicts = [Verdict::Passed, Verdict::Failed, Verdict::Skipped, Verdict::Passed];
        assert_eq!(summary(&verdicts), "2 passed, 1 failed");
        assert_eq!(skipped(&verdicts), "1 skipped");
        assert_eq!(summary(&[]), "0 passed, 0 failed");
    }

    #[test]
    fn strictness_fails_whatever_was_not_checked() {
        assert_eq!(Report::passed("").strictly().verdict, Verdict::Passed);
        assert_eq!(Report::skipped("apt").strictly().verdict, Verdict::Failed);
        let mut partly = Report::passed("fine");
        partly.skipped_parts.push("bare metal (install with x)".into());
        assert_eq!(partly.full_note(), "fine; part SKIPPED: bare metal (install with x)");
        assert_eq!(partly.strictly().verdict, Verdict::Failed);
    }

    #[test]
    fn steps_are_chosen_by_name_and_keep_their_order() {
        assert_eq!(wanted("--only hygiene,fmt"), ["fmt", "hygiene"]);
        assert_eq!(wanted("--only=fmt,test --skip test"), ["fmt"]);
        assert_eq!(wanted("--skip fmt").len(), STEPS.len() - 1);
        assert_eq!(wanted("--strict").len(), STEPS.len());
    }

    #[test]
    fn a_misspelt_step_or_option_is_an_error_that_names_the_choices() {
        let error = parse("--only fmt,tset").unwrap_err().to_string();
        assert!(error.contains("no step `tset`") && error.contains("doctest"), "{error}");
        assert!(parse("--only").is_err());
        assert!(parse("--strict=yes").is_err());
        assert!(parse("fmt").is_err());
    }
}
