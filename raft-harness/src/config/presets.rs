//! Presets as keys of a file: what each sets, and setting what the file does not.

use std::sync::LazyLock;

use toml::de::{DeTable, DeValue};

use super::document::Document;
use super::file::{FileConfig, PersistenceSection};
use crate::node::{Deployment, NetworkProfile, NodeOptions};

/// The keys that belong to one choice: who makes it makes all of it.
const PERSISTENCE: [&str; 2] = ["raft", "persistence"];
const STRATEGY: &str = "raft.persistence.strategy";

/// A preset as a file would say it.
#[derive(Debug)]
pub(super) struct Preset {
    /// The key that names it.
    key: [&'static str; 2],
    pub(super) name: String,
    /// Only what differs from the defaults.
    text: String,
}

static PRESETS: LazyLock<Vec<Preset>> = LazyLock::new(|| {
    let deployments = Deployment::ALL.map(|deployment| {
        let text = text_of(|options| deployment.apply(options));
        Preset { key: ["preset", "deployment"], name: deployment.to_string(), text }
    });
    let networks = NetworkProfile::ALL.map(|network| {
        let text = text_of(|options| network.apply(options));
        Preset { key: ["preset", "network"], name: network.to_string(), text }
    });
    deployments.into_iter().chain(networks).collect()
});

/// All presets there are.
pub(super) fn presets() -> &'static [Preset] {
    &PRESETS
}

impl Preset {
    /// Its keys with their values.
    pub(super) fn keys(&'static self) -> Vec<(Vec<String>, DeValue<'static>)> {
        let table = DeTable::parse(&self.text).expect("a preset is TOML, written by the library");
        let mut keys = Vec::new();
        collect(table.into_inner(), &mut Vec::new(), &mut keys);
        keys
    }

    /// The key that names it.
    pub(super) fn named_by(&self) -> String {
        self.key.join(".")
    }
}

/// Sets the keys of the presets that the document names, where it does not set them itself.
/// Returns those of which nothing was left to set.
pub(super) fn apply(document: &mut Document<'_>) -> Vec<&'static Preset> {
    let named: Vec<&'static Preset> = presets()
        .iter()
        .filter(|preset| document.text_at(preset.key) == Some(preset.name.as_str()))
        .collect();
    // Who chooses how entries count chooses everything about it: nothing that can lose a write
    // is to be accepted by a preset for a strategy that is not its own.
    let is_chosen = document.place_of_value(STRATEGY).is_some();
    let mut idle = Vec::new();
    for preset in named {
        let mut has_set = false;
        for (path, value) in preset.keys() {
            if !(is_chosen && path.iter().take(2).eq(PERSISTENCE)) {
                has_set |= document.set_missing(&path, &preset.name, value);
            }
        }
        if !has_set {
            idle.push(preset);
        }
    }
    idle
}

/// What differs from a node's defaults once it was changed.
fn text_of(change: impl FnOnce(&mut NodeOptions)) -> String {
    let (plain, mut changed) = (NodeOptions::default(), NodeOptions::default());
    change(&mut changed);
    let [plain, changed] = [plain, changed].map(|options| table_of(&options));
    toml::to_string(&difference(&changed, &plain)).expect("a table of tables can be written")
}

fn table_of(options: &NodeOptions) -> toml::Table {
    let mut file = FileConfig::default();
    file.tell(options);
    // Without effect under DiskFirst, where the file had better not say it.
    let PersistenceSection { power_loss_may_lose_acknowledged_writes, flush_policy, .. } =
        &mut file.raft.persistence;
    if !*power_loss_may_lose_acknowledged_writes {
        *flush_policy = None;
    }
    toml::Table::try_from(&file).expect("what can be read can be written")
}

fn difference(changed: &toml::Table, plain: &toml::Table) -> toml::Table {
    let mut differing = toml::Table::new();
    for (key, value) in changed {
        match (value, plain.get(key)) {
            (toml::Value::Table(changed), Some(toml::Value::Table(plain))) => {
                let inner = difference(changed, plain);
                if !inner.is_empty() {
                    differing.insert(key.clone(), toml::Value::Table(inner));
                }
            }
            (value, Some(plain)) if value == plain => {}
            (value, Some(_) | None) => {
                differing.insert(key.clone(), value.clone());
            }
        }
    }
    differing
}

fn collect(
    table: DeTable<'static>,
    path: &mut Vec<String>,
    keys: &mut Vec<(Vec<String>, DeValue<'static>)>,
) {
    for (key, value) in table {
        path.push(key.into_inner().into_owned());
        match value.into_inner() {
            // A section; everything else that is a table is a value.
            DeValue::Table(inner) if path.last().is_some_and(|name| name != "flush_policy") => {
                collect(inner, path, keys);
            }
            value => keys.push((path.clone(), value)),
        }
        path.pop();
    }
}
