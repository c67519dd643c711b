//! The configuration of one node: a TOML file, overridden by the environment, checked as a whole.
//!
//! A wrong configuration must cost one round of editing, not one per mistake, so everything that
//! can be found is found before anything is reported. What comes out is a [`NodeConfig`], which
//! cannot contradict itself.
//!
//! Invariant: the known keys are those of [`EXAMPLE`], which documents each; a test holds it
//! against the types that are read, so a key without documentation or without effect fails.

mod check;
mod document;
mod environment;
mod file;
mod filter;
mod lanes;
mod nearest;
mod node_config;
mod problem;

use std::path::Path;

pub use environment::Environment;
pub use node_config::{ListenConfig, NodeConfig, PeerConfig};
pub use problem::{Level, Place, Problem, Problems, Rule};

pub(crate) use check::CLUSTER_BYTES_MAX;
pub(crate) use filter::parse as parse_filter;

use check::check;
use document::Document;

/// A complete, documented configuration file, as `raftd config example` prints it.
pub const EXAMPLE: &str = include_str!("example.toml");

/// A configuration that may be used, and what is worth a second look all the same.
#[derive(Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: NodeConfig,
    /// Warnings only.
    pub warnings: Problems,
}

/// Reads a file, applies the environment and checks the whole.
///
/// # Errors
/// Every problem that was found, warnings included, in the order of the file; at least one of
/// them is an error.
pub fn load(path: &Path, environment: &Environment) -> Result<Loaded, Problems> {
    match std::fs::read_to_string(path) {
        Ok(text) => parse(&path.display().to_string(), &text, environment),
        Err(error) => Err(Problems::from(vec![Problem {
            rule: Rule::Unreadable,
            place: Place::File { name: path.display().to_string() },
            message: format!("cannot be read: {error}"),
            help: Some("`raftd config example` prints a complete file to start from".to_owned()),
        }])),
    }
}

/// As [`load`], from text; `name` is what the text is called in messages.
///
/// # Errors
/// As [`load`].
pub fn parse(name: &str, text: &str, environment: &Environment) -> Result<Loaded, Problems> {
    let mut problems = Vec::new();
    let mut document = Document::parse(name, text, &mut problems);
    if !problems.is_empty() {
        // What can be understood of a broken file would only bring forth false complaints.
        return Err(Problems::from(problems));
    }
    environment.apply(&mut document, &mut problems);
    document.remove_unknown_keys(&mut problems);
    let file = document.read(&mut problems);
    let config = check(&file, &document, &mut problems);
    let problems = Problems::from(problems);
    match config {
        Some(config) if !problems.has_errors() => Ok(Loaded { config, warnings: problems }),
        Some(_) | None => Err(problems),
    }
}

#[cfg(test)]
mod tests;
