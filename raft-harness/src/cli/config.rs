//! `raftd config`: a file to start from, and a check before a restart does it.

use std::path::PathBuf;

use clap::Subcommand;

use super::error::{CliError, Exit};
use crate::config::{EXAMPLE, Environment, load};
use crate::output;

#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Print a complete file with every key explained.
    Example,
    /// Check a file, together with the RAFT_* variables of this environment.
    Check {
        /// The file.
        file: PathBuf,
        /// Exit with 1 if there are warnings.
        #[arg(long)]
        strict: bool,
    },
}

pub(super) fn run(command: &ConfigCommand) -> Result<Exit, CliError> {
    match command {
        ConfigCommand::Example => {
            output::result(EXAMPLE.trim_end()).map_err(CliError::Output)?;
            Ok(Exit::Ok)
        }
        ConfigCommand::Check { file, strict } => {
            let loaded = load(file, &Environment::of_process())?;
            for warning in loaded.warnings.iter() {
                output::remark(warning);
            }
            let valid = format_args!("{} is valid", file.display());
            output::result(valid).map_err(CliError::Output)?;
            Ok(if *strict && !loaded.warnings.is_empty() { Exit::Warning } else { Exit::Ok })
        }
    }
}
