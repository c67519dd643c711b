//! Steps `test` and `doctest`: the tests, with their closing lines let through.
//!
//! A run in which no test ran at all is a failure: it proves nothing.

use anyhow::Result;

use super::Report;
use crate::cargo::Workspace;
use crate::job::Job;

pub(super) fn tests(workspace: &Workspace) -> Result<Report> {
    run(workspace, &["--lib", "--bins", "--tests"], 1)
}

/// A workspace may do without doctests, but what it has must pass.
pub(super) fn doctests(workspace: &Workspace) -> Result<Report> {
    run(workspace, &["--doc"], 0)
}

fn run(workspace: &Workspace, targets: &[&str], least: u64) -> Result<Report> {
    let mut command = workspace.cargo(["test", "--workspace", "--all-features", "--no-fail-fast"]);
    command.args(targets);
    let finished = Job::new(command).show(closing).merged()?;
    let tally = Tally::of(&finished.stdout);
    let note = tally.to_note();
    if finished.success() && tally.passed < least {
        return Ok(Report::failed("no test ran", finished.evidence()));
    }
    let report = Report::from_finished(&finished, note.clone());
    Ok(Report { note, ..report })
}

/// The lines that say which binary ran, and how it ended.
fn closing(line: &str) -> bool {
    let line = line.trim_start();
    ["test result:", "Running ", "Doc-tests "].iter().any(|start| line.starts_with(start))
}

/// How many tests ended how, over all binaries.
#[derive(Debug, Default, Eq, PartialEq)]
pub(super) struct Tally {
    pub(super) passed: u64,
    failed: u64,
    ignored: u64,
}

impl Tally {
    /// Adds up the `test result:` lines.
    pub(super) fn of(output: &str) -> Self {
        let mut tally = Self::default();
        for line in output.lines().filter_map(|line| line.strip_prefix("test result:")) {
            let words: Vec<&str> = line.split([' ', ';', '.']).filter(|w| !w.is_empty()).collect();
            for pair in words.windows(2) {
                let Ok(count) = pair[0].parse::<u64>() else {
                    continue;
                };
                match pair[1] {
                    "passed" => tally.passed += count,
                    "failed" => tally.failed += count,
                    "ignored" => tally.ignored += count,
                    _ => {}
                }
            }
        }
        tally
    }

    fn to_note(&self) -> String {
        format!("{} passed, {} failed, {} ignored", self.passed, self.failed, self.ignored)
    }
}

#[cfg(test)]
mod tests {
    use super::{Tally, closing};

    #[test]
    fn result_lines_are_added_up() {
        let output = "test a ... ok\n\
            test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; 1.5s\n\
            test result: FAILED. 10 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out\n";
        assert_eq!(Tally::of(output), Tally { passed: 13, failed: 2, ignored: 1 });
        assert_eq!(Tally::of("no test"), Tally::default());
    }

    #[test]
    fn only_closing_lines_are_let_through() {
        assert!(closing("     Running unittests src/lib.rs (target/debug/deps/x)"));
        assert!(closing("test result: ok. 3 passed; 0 failed"));
        assert!(!closing("test lane::tests::full ... ok"));
        assert!(!closing("running 3 tests"));
    }
}
