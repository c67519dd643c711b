//! `raftd config`: a file to start from, a check before a restart does it, and who says what.

use std::fmt::Write;
use std::path::PathBuf;

use clap::Subcommand;

use super::error::{CliError, Exit};
use crate::config::{EXAMPLE, Environment, Explained, explain, load};
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
    /// Say what a node would get for each key, and where that comes from: the default, a preset, a
    /// line of the file, or a RAFT_* variable of this environment.
    Explain {
        /// The file.
        file: PathBuf,
        /// Only this key or section, and what it means: `network.control`.
        key: Option<String>,
        /// Print a JSON list of objects with key, value, source and meaning.
        #[arg(long)]
        json: bool,
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
        ConfigCommand::Explain { file, key, json } => {
            let (loaded, mut explained) = explain(file, &Environment::of_process())?;
            for warning in loaded.warnings.iter() {
                output::remark(warning);
            }
            if let Some(wanted) = key {
                explained.retain(|explained| is_of(&explained.key, wanted));
                if explained.is_empty() {
                    return Err(CliError::Usage(
                        "no such key: `raftd config example` shows them all",
                    ));
                }
            }
            let text = match json {
                true => serde_json::to_string_pretty(&explained)
                    .map_err(|error| CliError::Output(error.into()))?,
                false => table(&explained, key.is_some()),
            };
            output::result(text.trim_end()).map_err(CliError::Output)?;
            Ok(Exit::Ok)
        }
    }
}

/// Whether a key is the one that is wanted, or in the section that is.
fn is_of(key: &str, wanted: &str) -> bool {
    key.strip_prefix(wanted).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// A line per key, in columns, and its meaning in the next if that is asked for.
fn table(explained: &[Explained], with_meaning: bool) -> String {
    let lines: Vec<(String, &Explained)> = explained
        .iter()
        .map(|explained| (format!("{} = {}", explained.key, explained.value), explained))
        .collect();
    let width = lines.iter().map(|(setting, _)| setting.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for (setting, Explained { source, meaning, .. }) in lines {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{setting:width$}  {source}");
        if with_meaning {
            let _ = writeln!(text, "    {meaning}");
        }
    }
    text
}
