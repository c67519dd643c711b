//! `cargo xtask sim`: the simulator in release, with everything on the command line passed on.

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

use crate::cargo::{Workspace, build};

pub(crate) fn run(arguments: &[String]) -> Result<ExitCode> {
    let workspace = Workspace::load()?;
    // With every assertion of the code under test: half as fast, and it sees more.
    let (profile, arguments) = match arguments.split_first() {
        Some((first, rest)) if first == "--checked" => ("checked", rest),
        _ => ("release", arguments),
    };
    let mut command =
        workspace.cargo(["build", "--profile", profile, "-p", "raft-harness", "--bin", "raftd"]);
    // A person waits: the compiler may talk.
    command.arg("--quiet");
    let raftd = executable(command)?;
    let status = Command::new(&raftd)
        .arg("sim")
        .args(arguments)
        .status()
        .with_context(|| format!("cannot start {}", raftd.display()))?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, Into::into))
}

/// Runs a build of `raftd` and says where it is.
pub(crate) fn executable(command: Command) -> Result<PathBuf> {
    match build(command)? {
        Ok(built) => {
            let raftd =
                built.into_iter().find(|built| built.kind == "bin" && built.name == "raftd");
            Ok(raftd.context("the build made no raftd")?.path)
        }
        Err(finished) => bail!("raftd does not build:\n{}", finished.evidence()),
    }
}
