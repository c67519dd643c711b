//! Step `examples`: every example builds, and runs to its end without arguments.
//!
//! The binaries are started directly, not by `cargo run`, so that the time limit ends the example
//! itself and not a cargo in front of it.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::Report;
use crate::cargo::{Executable, Workspace, build};
use crate::job::{Finished, Job};

/// An example fits one reading; one that runs longer has hung.
const LIMIT: Duration = Duration::from_secs(120);

pub(super) fn run(workspace: &Workspace) -> Result<Report> {
    let built = match build_all(workspace)? {
        Ok(built) => built,
        Err(finished) => return Ok(Report::failed("does not build", finished.evidence())),
    };
    let mut findings = Vec::new();
    let mut ran = Vec::new();
    for example in built.iter().filter(|built| built.kind == "example") {
        let start = Instant::now();
        let mut command = Command::new(&example.path);
        command.current_dir(&workspace.root);
        let finished = Job::new(command).limit(LIMIT).merged()?;
        println!("example {} in {:.1} s", example.name, start.elapsed().as_secs_f64());
        if !finished.success() {
            findings.push(format!("example {}:\n{}", example.name, finished.evidence()));
        }
        ran.push(&example.name);
    }
    for (package, examples) in workspace.members.iter().map(|(name, p)| (name, &p.examples)) {
        for missed in examples.iter().filter(|example| !ran.contains(example)) {
            findings.push(format!("example {missed} of {package} was not built"));
        }
    }
    findings.extend(embedder(workspace)?);
    Ok(Report::from_findings(&findings, format!("{} examples", ran.len())))
}

/// The engine as an embedder takes it, without what `raftd` needs: its example runs, and none of
/// the binary's dependencies comes along.
fn embedder(workspace: &Workspace) -> Result<Vec<String>> {
    let mut findings = Vec::new();
    let bare = ["--package", "raft-harness", "--no-default-features"];
    let mut run = workspace.cargo(["run", "--quiet", "--example", "embedded"]);
    run.args(bare);
    // The time to build it counts too.
    let finished = Job::new(run).limit(LIMIT * 5).merged()?;
    if !finished.success() {
        findings.push(format!("embedded without default features:\n{}", finished.evidence()));
    }
    let mut tree = workspace.cargo(["tree", "--edges", "normal", "--prefix", "none"]);
    tree.args(bare);
    let finished = Job::new(tree).limit(LIMIT).merged()?;
    if !finished.success() {
        findings.push(format!("cargo tree:\n{}", finished.evidence()));
    }
    for binary_only in ["clap", "hyper", "toml", "indicatif", "tracing-subscriber", "serde_json"] {
        if finished.stdout.lines().any(|line| line.split(' ').next() == Some(binary_only)) {
            findings.push(format!("raft-harness without default features needs {binary_only}"));
        }
    }
    Ok(findings)
}

/// Builds the binaries and examples with the features the tests had, so that nothing but these
/// themselves is left to compile.
pub(super) fn build_all(workspace: &Workspace) -> Result<Result<Vec<Executable>, Finished>> {
    build(workspace.cargo(["build", "--workspace", "--all-features", "--bins", "--examples"]))
}
