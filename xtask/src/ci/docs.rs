//! Step `docs`: the documentation builds, and every link in it leads somewhere.

use anyhow::Result;

use super::Report;
use crate::cargo::Workspace;
use crate::job::Job;

pub(super) fn run(workspace: &Workspace) -> Result<Report> {
    let mut command = workspace.cargo(["doc", "--workspace", "--no-deps", "--all-features"]);
    command.env("RUSTDOCFLAGS", "-D warnings");
    Ok(Report::from_finished(&Job::new(command).merged()?, ""))
}
