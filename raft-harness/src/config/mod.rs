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
mod explanation;
mod file;
mod filter;
mod lanes;
mod nearest;
mod node_config;
mod presets;
mod problem;
mod tls;

use std::path::Path;

pub use environment::Environment;
pub use explanation::{Explained, Source};
pub use node_config::{ListenConfig, NodeConfig, PeerConfig};
pub use problem::{Level, Place, Problem, Problems, Rule};

pub(crate) use check::CLUSTER_BYTES_MAX;
pub(crate) use filter::parse as parse_filter;

use check::check;
use document::Document;
use file::FileConfig;

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
    parse(&path.display().to_string(), &text_of(path)?, environment)
}

/// As [`load`], from text; `name` is what the text is called in messages.
///
/// # Errors
/// As [`load`].
pub fn parse(name: &str, text: &str, environment: &Environment) -> Result<Loaded, Problems> {
    understand(name, text, environment, |_, _, _| ()).map(|(loaded, ())| loaded)
}

/// As [`load`], and says of each key what the node gets, and from where.
///
/// # Errors
/// As [`load`].
pub fn explain(
    path: &Path,
    environment: &Environment,
) -> Result<(Loaded, Vec<Explained>), Problems> {
    let name = path.display().to_string();
    understand(&name, &text_of(path)?, environment, explanation::explain)
}

fn text_of(path: &Path) -> Result<String, Problems> {
    std::fs::read_to_string(path).map_err(|error| {
        Problems::from(vec![Problem {
            rule: Rule::Unreadable,
            place: Place::File { name: path.display().to_string() },
            message: format!("cannot be read: {error}"),
            help: Some("`raftd config example` prints a complete file to start from".to_owned()),
        }])
    })
}

fn understand<T>(
    name: &str,
    text: &str,
    environment: &Environment,
    then: impl FnOnce(&FileConfig, &Document<'_>, &NodeConfig) -> T,
) -> Result<(Loaded, T), Problems> {
    let mut problems = Vec::new();
    let mut document = Document::parse(name, text, &mut problems);
    if !problems.is_empty() {
        // What can be understood of a broken file would only bring forth false complaints.
        return Err(Problems::from(problems));
    }
    environment.apply(&mut document, &mut problems);
    document.remove_unknown_keys(&mut problems);
    let idle = presets::apply(&mut document);
    let file = document.read(&mut problems);
    for preset in idle {
        problems.push(Problem {
            rule: Rule::Preset,
            place: document.place_of(&preset.named_by()),
            message: format!("`{}` changes nothing: all that it sets is set here", preset.name),
            help: Some("leave out of the file what the preset is to set".to_owned()),
        });
    }
    let config = check(&file, &document, &mut problems);
    let problems = Problems::from(problems);
    match config {
        Some(config) if !problems.has_errors() => {
            let told = then(&file, &document, &config);
            Ok((Loaded { config, warnings: problems }, told))
        }
        Some(_) | None => Err(problems),
    }
}

#[cfg(test)]
mod tests;
