//! What a node gets for each key, where that comes from, and what it means.

use serde::Serialize;

use super::EXAMPLE;
use super::document::Document;
use super::file::{FileConfig, milliseconds};
use super::node_config::NodeConfig;
use super::problem::Place;

/// One key of a valid configuration.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Explained {
    /// Its path: `raft.heartbeat_interval_ms`, `peers.0.id`.
    pub key: String,
    /// What the node starts with.
    pub value: toml::Value,
    /// Where that comes from.
    pub source: Source,
    /// What it does, from the example.
    pub meaning: String,
}

/// Where a value comes from.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Source {
    /// Nobody said otherwise.
    Default,
    /// The preset of this name.
    Preset {
        /// As in `[preset]`.
        name: String,
    },
    /// The file.
    File {
        /// From 1.
        line: usize,
    },
    /// An environment variable.
    Environment {
        /// Its name.
        variable: String,
    },
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Preset { name } => write!(f, "preset {name}"),
            Self::File { line } => write!(f, "line {line}"),
            Self::Environment { variable } => f.write_str(variable),
        }
    }
}

/// Every key, in the order of the example.
pub(super) fn explain(
    file: &FileConfig,
    document: &Document<'_>,
    config: &NodeConfig,
) -> Vec<Explained> {
    let told = toml::Table::try_from(told(file, config)).expect("what can be read can be written");
    let mut explained = Vec::new();
    for Described { key, meaning } in described() {
        let mut add = |key: String, value: &toml::Value| {
            let (value, source) = (value.clone(), source(document, &key));
            explained.push(Explained { key, value, source, meaning: meaning.clone() });
        };
        let names: Vec<&str> = key.split('.').collect();
        match names.as_slice() {
            [list @ "peers", name] => {
                let peers = told.get(*list).and_then(toml::Value::as_array);
                for (index, peer) in peers.into_iter().flatten().enumerate() {
                    if let Some(value) = peer.get(name) {
                        add(format!("{list}.{index}.{name}"), value);
                    }
                }
            }
            names => {
                let value = names.iter().try_fold(None::<&toml::Value>, |at, name| {
                    let next = at.map_or_else(|| told.get(*name), |value| value.get(name));
                    next.map(Some)
                });
                if let Some(Some(value)) = value {
                    add(key, value);
                }
            }
        }
    }
    explained
}

/// The file with everything that it leaves to the node.
fn told(file: &FileConfig, config: &NodeConfig) -> FileConfig {
    let mut told = file.clone();
    told.tell(&config.node_options());
    told.raft.disk_stall_max_ms = Some(milliseconds(config.settings.disk_stall_max));
    // A warning is all that it earns under DiskFirst, but it was said.
    told.raft.persistence.power_loss_may_lose_acknowledged_writes =
        file.raft.persistence.power_loss_may_lose_acknowledged_writes;
    told
}

fn source(document: &Document<'_>, key: &str) -> Source {
    match document.place_of_value(key) {
        None | Some(Place::File { .. }) => Source::Default,
        Some(Place::Preset { name }) => Source::Preset { name },
        Some(Place::Line { line, .. }) => Source::File { line },
        Some(Place::Variable { name }) => Source::Environment { variable: name },
    }
}

/// A key as the example documents it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Described {
    /// Without the number of a peer.
    pub(super) key: String,
    pub(super) meaning: String,
}

/// Every key of the example in its order, with what its comment says. The keys of all lanes mean
/// the same, which is said once.
pub(super) fn described() -> Vec<Described> {
    let mut found: Vec<Described> = Vec::new();
    let mut section = String::new();
    // Whose comment goes on in the next line.
    let mut open = None;
    for line in EXAMPLE.lines() {
        let (code, comment) = line.split_once('#').unwrap_or((line, ""));
        let (code, comment) = (code.trim(), comment.trim());
        if code.is_empty() {
            match open.and_then(|at: usize| found.get_mut(at)) {
                Some(described) if line.starts_with(' ') => {
                    described.meaning += " ";
                    described.meaning += comment;
                }
                Some(_) | None => open = None,
            }
        } else if let Some(name) = code.strip_prefix('[') {
            name.trim_matches(['[', ']']).clone_into(&mut section);
            open = None;
        } else if let Some((name, _)) = code.split_once(" = ") {
            let key = format!("{section}.{name}");
            if !found.iter().any(|other| other.key == key) {
                open = Some(found.len());
                found.push(Described { key, meaning: comment.to_owned() });
            }
        }
    }
    for at in 0..found.len() {
        let lane = |name| found[at].key.strip_prefix(name);
        let key = lane("network.data.").or_else(|| lane("network.bulk."));
        let Some(key) = key.map(|key| format!("network.control.{key}")) else { continue };
        if found[at].meaning.is_empty()
            && let Some(of_all) = found.iter().find(|other| other.key == key)
        {
            found[at].meaning = of_all.meaning.clone();
        }
    }
    found
}
