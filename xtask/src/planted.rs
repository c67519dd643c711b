//! `cargo xtask planted`: every bug planted in the protocol makes the tests fail that
//! `docs/HISTORY_OF_BUGS.md` names for it.
//!
//! A test that passes whatever the code does shows nothing. So the scenarios are built once more
//! with `--cfg planted`, in a target directory of their own, and run with one bug at a time.
//!
//! Invariant: without a bug all the tests named pass in that very build; with one, every test
//! named for it fails.

use std::collections::BTreeSet;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::cargo::{Workspace, build};
use crate::ci::History;
use crate::job::{Finished, Job};
use crate::table;

/// A bug may well make a test go round for ever; that is a failure, too.
const LIMIT: Duration = Duration::from_secs(60);

pub(crate) fn run(arguments: &[String]) -> Result<ExitCode> {
    let workspace = Workspace::load()?;
    let history = History::read(&workspace.root)?;
    let planted = history.scenarios()?;
    if let Some(unknown) = arguments.iter().find(|name| !planted.contains_key(name.as_str())) {
        bail!("no planted bug `{unknown}` in the document");
    }
    let scenarios = build_scenarios(&workspace)?;
    let all: BTreeSet<&String> = planted.values().flatten().collect();
    let sound = tests(&scenarios, None, all.iter().map(|name| name.as_str()))?;
    if !sound.success() {
        bail!("without any bug:\n{}", sound.evidence());
    }
    let wanted = |name: &str| arguments.is_empty() || arguments.iter().any(|wanted| wanted == name);
    let mut rows = Vec::new();
    let mut passing = 0;
    for (bug, names) in planted.iter().filter(|(bug, _)| wanted(bug)) {
        for name in names {
            // One by one: a test that never ends must not hide the others.
            let finished = tests(&scenarios, Some(bug), [name.as_str()])?;
            let verdict = verdict(name, &finished);
            passing += usize::from(verdict != Verdict::Fails);
            rows.push([(*bug).to_owned(), name.clone(), verdict.text().to_owned()]);
        }
    }
    println!("{}", table::render(["planted", "test", "result"], &rows));
    println!("{} caught, {passing} not", rows.len() - passing);
    Ok(if passing == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Verdict {
    /// As it should.
    Fails,
    Passes,
    /// The binary has no such test.
    NotThere,
}

impl Verdict {
    const fn text(self) -> &'static str {
        match self {
            Self::Fails => "fails",
            Self::Passes => "PASSES",
            Self::NotThere => "NOT THERE",
        }
    }
}

fn verdict(name: &str, finished: &Finished) -> Verdict {
    if finished.success() {
        let ran = finished.stdout.contains(&format!("test {name} ... ok"));
        if ran { Verdict::Passes } else { Verdict::NotThere }
    } else {
        Verdict::Fails
    }
}

fn build_scenarios(workspace: &Workspace) -> Result<Command> {
    let mut command =
        workspace.cargo(["test", "--no-run", "-p", "raft-core", "--test", "scenarios"]);
    command.arg("--target-dir").arg(workspace.target_directory.join("planted"));
    command.env("RUSTFLAGS", "--cfg planted");
    let executables = build(command)?.map_err(|failed| anyhow::anyhow!(failed.evidence()))?;
    let found = executables.into_iter().find(|built| built.name == "scenarios");
    let mut scenarios = Command::new(found.context("cargo built no scenarios")?.path);
    scenarios.current_dir(&workspace.root);
    Ok(scenarios)
}

/// Runs these tests with a bug planted, or none.
fn tests<'a>(
    scenarios: &Command,
    bug: Option<&str>,
    names: impl IntoIterator<Item = &'a str>,
) -> Result<Finished> {
    let mut command = Command::new(scenarios.get_program());
    command.arg("--exact").args(names).env("RUST_BACKTRACE", "0");
    if let Some(directory) = scenarios.get_current_dir() {
        command.current_dir(directory);
    }
    match bug {
        Some(bug) => command.env("RAFT_PLANTED", bug),
        None => command.env_remove("RAFT_PLANTED"),
    };
    Job::new(command).limit(LIMIT).apart()
}

#[cfg(test)]
mod tests {
    use super::{Finished, Verdict, verdict};

    #[cfg(unix)]
    #[test]
    fn a_test_that_passes_or_is_not_there_catches_nothing() {
        use std::os::unix::process::ExitStatusExt;
        use std::process::ExitStatus;

        let finished = |code: Option<i32>, stdout: &str| Finished {
            status: code.map(|code| ExitStatus::from_raw(code << 8)),
            stdout: stdout.to_owned(),
            stderr: String::new(),
        };
        let of = |code, stdout| verdict("a::b", &finished(code, stdout));
        assert_eq!(of(Some(101), "test a::b ... FAILED"), Verdict::Fails);
        assert_eq!(of(None, "running 1 test"), Verdict::Fails);
        assert_eq!(of(Some(0), "test a::b ... ok"), Verdict::Passes);
        assert_eq!(of(Some(0), "running 0 tests"), Verdict::NotThere);
    }
}
