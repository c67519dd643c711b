//! `cargo xtask bench <name>`: benches that need more than `cargo bench` gives them.

use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use crate::cargo::Workspace;

pub(crate) fn run(arguments: &[String]) -> Result<ExitCode> {
    let Some((name, rest)) = arguments.split_first() else {
        bail!("which bench? There is `hol`; try `cargo xtask help`");
    };
    if name != "hol" {
        bail!("unknown bench `{name}`; try `cargo xtask help`");
    }
    let workspace = Workspace::load()?;
    let mut command = workspace.cargo(["bench", "--quiet", "-p", "raft-harness", "--bench", "hol"]);
    // Logs lie where builds do: a temporary directory may be in memory.
    command.args(["--", "--directory"]).arg(&workspace.target_directory).args(rest);
    let status = command.status().context("cannot start cargo")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
