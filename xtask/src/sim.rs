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
    let mut command = simulator_build(&workspace, profile);
    // A person waits: the compiler may talk.
    command.arg("--quiet");
    let simulator = executable(command, SIMULATOR)?;
    let status = Command::new(&simulator)
        .args(arguments)
        .status()
        .with_context(|| format!("cannot start {}", simulator.display()))?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, Into::into))
}

/// The binary and its feature.
pub(crate) const SIMULATOR: &str = "raft-sim";

/// The command that builds the simulator and nothing that `raftd` alone needs.
pub(crate) fn simulator_build(workspace: &Workspace, profile: &str) -> Command {
    let mut command = workspace.cargo(["build", "-p", "raft-harness", "--no-default-features"]);
    command.args(["--features", SIMULATOR, "--bin", SIMULATOR, "--profile", profile]);
    command
}

/// Runs a build and says where the binary of this name is.
pub(crate) fn executable(command: Command, name: &str) -> Result<PathBuf> {
    match build(command)? {
        Ok(built) => {
            let mut built = built.into_iter();
            let built = built.find(|built| built.kind == "bin" && built.name == name);
            Ok(built.with_context(|| format!("the build made no {name}"))?.path)
        }
        Err(finished) => bail!("{name} does not build:\n{}", finished.evidence()),
    }
}
