//! Step `fmt`: rustfmt would change nothing.

use anyhow::Result;

use super::Report;
use crate::cargo::{Workspace, program};
use crate::job::{Job, available};

pub(super) fn run(workspace: &Workspace) -> Result<Report> {
    if !available(&program(), &["fmt", "--version"]) {
        return Ok(Report::skipped("rustup component add rustfmt"));
    }
    let finished = Job::new(workspace.cargo(["fmt", "--all", "--check"])).merged()?;
    Ok(Report::from_finished(&finished, ""))
}
