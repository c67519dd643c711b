//! Step `loom`: raft-mux's models, every interleaving of them.
//!
//! A model replaces the atomics and locks of the code under test, so it is a build of its own,
//! in a target directory of its own: the flag would otherwise rebuild everything back and forth.
//! Under the flag raft-mux compiles no tests but its models.

use anyhow::Result;

use super::Report;
use super::tests_run::Tally;
use crate::cargo::Workspace;
use crate::job::Job;

pub(super) fn run(workspace: &Workspace) -> Result<Report> {
    let mut command = workspace.cargo(["test", "-p", "raft-mux", "--release", "--lib"]);
    command.arg("--target-dir");
    command.arg(workspace.target_directory.join("loom"));
    command.env("RUSTFLAGS", "--cfg loom_model -D warnings");
    let finished = Job::new(command).show(|line| line.starts_with("test ")).merged()?;
    let models = Tally::of(&finished.stdout).passed;
    if finished.success() && models == 0 {
        return Ok(Report::failed("no model ran", finished.evidence()));
    }
    Ok(Report::from_finished(&finished, format!("{models} models")))
}
