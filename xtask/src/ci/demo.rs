//! Step `demo`: what a newcomer runs first works, and loses no write.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use super::Report;
use super::examples::build_all;
use crate::cargo::{Workspace, build};
use crate::job::{Finished, Job};

/// Six seconds of load, and time to start, elect and stop on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

pub(super) fn run(workspace: &Workspace) -> Result<Report> {
    let raftd = match raftd(workspace)? {
        Ok(raftd) => raftd,
        Err(finished) => return Ok(Report::failed("does not build", finished.evidence())),
    };
    let mut command = Command::new(&raftd);
    command.current_dir(&workspace.root);
    command.args(["demo", "--groups", "16", "--seconds", "6", "--json"]);
    let finished = Job::new(command).limit(LIMIT).apart()?;
    if !finished.success() {
        return Ok(Report::failed("raftd demo failed", finished.evidence()));
    }
    Ok(match lost(&finished.stdout) {
        Some(0) => Report::passed("lost 0"),
        Some(lost) => Report::failed(format!("lost {lost} writes"), finished.evidence()),
        None => Report::failed("no field `lost` in its output", finished.evidence()),
    })
}

/// The release binary if someone built one before, and otherwise the one the tests built.
pub(super) fn raftd(workspace: &Workspace) -> Result<Result<PathBuf, Finished>> {
    let built = if workspace.target_directory.join("release/raftd").exists() {
        build(workspace.cargo(["build", "--release", "-p", "raft-harness", "--bin", "raftd"]))?
    } else {
        build_all(workspace)?
    };
    let built = match built {
        Ok(built) => built,
        Err(finished) => return Ok(Err(finished)),
    };
    let raftd = built.into_iter().find(|built| built.kind == "bin" && built.name == "raftd");
    Ok(Ok(raftd.context("the workspace has no binary `raftd`")?.path))
}

/// The field `lost` of the last JSON document in the output that has one: either the whole output
/// is one document, or each line is one.
fn lost(output: &str) -> Option<u64> {
    let field = |text: &str| serde_json::from_str::<Value>(text).ok()?["lost"].as_u64();
    field(output).or_else(|| output.lines().rev().find_map(field))
}

#[cfg(test)]
mod tests {
    use super::lost;

    #[test]
    fn lost_is_found_in_one_document_or_in_the_last_line_that_has_it() {
        assert_eq!(lost("{\n \"acked\": 5,\n \"lost\": 0\n}\n"), Some(0));
        assert_eq!(lost("{\"event\":\"up\"}\n{\"lost\":1}\n{\"lost\":2}\nbye\n"), Some(2));
        assert_eq!(lost("lost 0\n"), None);
        assert_eq!(lost(""), None);
    }
}
