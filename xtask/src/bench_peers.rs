//! `cargo xtask bench-peers`: the comparison with other Raft libraries.
//!
//! The peers live in a workspace of their own, so that their dependencies never enter ours; its
//! script is the one place that knows how to run them.

use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

use crate::cargo::Workspace;

pub(crate) fn run(arguments: &[String]) -> Result<ExitCode> {
    let script = Workspace::load()?.root.join("raft-harness/benches/peers/run.sh");
    let status = Command::new(&script)
        .args(arguments)
        .status()
        .with_context(|| format!("cannot start {}", script.display()))?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
