//! Overrides from environment variables.
//!
//! A key's variable is its path without a leading `raft.`, joined by `_`, in upper case, after
//! `RAFT_`. The known keys are enumerated, never the names taken apart, so a key may contain `_`.

use std::collections::BTreeMap;

use toml::de::{DeTable, DeValue};

use super::document::{Document, known_keys};
use super::nearest::nearest;
use super::problem::{Place, Problem, Rule};

/// All our variables begin with this.
const PREFIX: &str = "RAFT_";

/// The variables that may concern us, as a value, so that tests have their own.
#[derive(Clone, Debug, Default)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// Those of this process. Text that is not UTF-8 cannot be one of our values.
    pub fn of_process() -> Self {
        std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect()
    }

    /// Overrides the keys that have a variable; warns of variables that have no key, since an
    /// override that does nothing is worse than one that is refused.
    pub(super) fn apply<'a>(&'a self, document: &mut Document<'a>, problems: &mut Vec<Problem>) {
        let known = known_keys();
        let variables = variables(known.get_ref());
        for (name, value) in &self.0 {
            match variables.get(name) {
                Some((path, like)) => {
                    document.set(path, name, value, like);
                }
                None => problems.push(Problem {
                    rule: Rule::UnknownVariable,
                    place: Place::Variable { name: name.clone() },
                    message: "matches no setting".to_owned(),
                    help: nearest(name, variables.keys().map(String::as_str))
                        .map(|near| format!("nearest is {near}")),
                }),
            }
        }
    }
}

impl FromIterator<(String, String)> for Environment {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(variables: I) -> Self {
        let ours = variables.into_iter().filter(|(name, _)| name.starts_with(PREFIX));
        Self(ours.collect())
    }
}

/// Every variable there is, with the path of its key and a value of its type.
fn variables<'a>(known: &'a DeTable<'_>) -> BTreeMap<String, (Vec<String>, &'a DeValue<'a>)> {
    let mut variables = BTreeMap::new();
    let mut path = Vec::new();
    collect(known, &mut path, &mut variables);
    variables
}

fn collect<'a>(
    table: &'a DeTable<'_>,
    path: &mut Vec<String>,
    variables: &mut BTreeMap<String, (Vec<String>, &'a DeValue<'a>)>,
) {
    for (key, value) in table {
        path.push(key.get_ref().to_string());
        match value.get_ref() {
            DeValue::Table(inner) => collect(inner, path, variables),
            // A list of peers does not fit into a variable.
            DeValue::Array(_) => {}
            leaf @ (DeValue::String(_)
            | DeValue::Integer(_)
            | DeValue::Float(_)
            | DeValue::Boolean(_)
            | DeValue::Datetime(_)) => {
                variables.insert(variable(path), (path.clone(), leaf));
            }
        }
        path.pop();
    }
}

fn variable(path: &[String]) -> String {
    let parts = match path {
        [first, rest @ ..] if first == "raft" && !rest.is_empty() => rest,
        all => all,
    };
    format!("{PREFIX}{}", parts.join("_").to_uppercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_has_a_variable_of_its_own() {
        fn leaves(table: &DeTable<'_>) -> usize {
            table
                .values()
                .map(|value| match value.get_ref() {
                    DeValue::Table(inner) => leaves(inner),
                    DeValue::Array(_) => 0,
                    DeValue::String(_)
                    | DeValue::Integer(_)
                    | DeValue::Float(_)
                    | DeValue::Boolean(_)
                    | DeValue::Datetime(_) => 1,
                })
                .sum()
        }
        let known = known_keys();
        let variables = variables(known.get_ref());
        assert_eq!(variables.len(), leaves(known.get_ref()), "two keys share a variable");
        assert!(variables.contains_key("RAFT_PERSISTENCE_STRATEGY"));
        assert!(variables.contains_key("RAFT_NETWORK_CONTROL_CONNECT_TIMEOUT_MS"));
        assert!(variables.contains_key("RAFT_NODE_ID"));
    }
}
