//! Step `clippy`: no warning, in every set of features a user can ask for.
//!
//! Cargo merges features across a build, so a crate that compiles in the workspace may lack a
//! feature when it stands alone. Hence two kinds of runs: the workspace with everything at once,
//! and each crate by itself, first without its development dependencies, which would lend it
//! their features, then with each feature of its own.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;

use super::Report;
use crate::cargo::{Workspace, program};
use crate::job::{Job, available};

pub(super) fn run(workspace: &Workspace) -> Result<Report> {
    if !available(&program(), &["clippy", "--version"]) {
        return Ok(Report::skipped("rustup component add clippy"));
    }
    let runs = runs(workspace);
    let mut evidence = String::new();
    let mut failed = 0;
    for arguments in &runs {
        let mut command = workspace.cargo(["clippy"]);
        command.args(arguments).args(["--", "-D", "warnings"]);
        println!("clippy {}", arguments.join(" "));
        let finished = Job::new(command).merged()?;
        if !finished.success() {
            failed += 1;
            let header = format!("cargo clippy {}\n", arguments.join(" "));
            evidence.push_str(&header);
            evidence.push_str(&finished.evidence());
            evidence.push('\n');
        }
    }
    if failed > 0 {
        return Ok(Report::failed(format!("{failed} of {} builds", runs.len()), evidence));
    }
    Ok(Report::passed(format!("{} builds", runs.len())))
}

/// The argument lists to run clippy with.
fn runs(workspace: &Workspace) -> Vec<Vec<String>> {
    let mut runs = vec![words("--workspace --all-targets --all-features")];
    for (name, package) in &workspace.members {
        // The bare library or binary, as a stranger builds it.
        runs.push(words(&format!("-p {name} --no-default-features")));
        let sets = feature_sets(&package.features);
        if !sets.is_empty() {
            runs.push(words(&format!("-p {name} --no-default-features --all-targets")));
        }
        for feature in sets {
            let arguments = format!("-p {name} --no-default-features --all-targets --features");
            let mut arguments = words(&arguments);
            arguments.push(feature);
            runs.push(arguments);
        }
    }
    runs
}

/// One feature for each set of features that naming a single one can bring about, other than all.
///
/// `default` counts as any other, since it is what users get who name nothing. The set of all
/// features is left out: the run over the whole workspace has it.
fn feature_sets(features: &BTreeMap<String, Vec<String>>) -> Vec<String> {
    let all: BTreeSet<&str> = closed(features, features.keys().map(String::as_str).collect());
    let mut seen = BTreeSet::from([BTreeSet::new(), all]);
    let mut chosen = Vec::new();
    for name in features.keys() {
        if seen.insert(closed(features, vec![name])) {
            chosen.push(name.clone());
        }
    }
    chosen
}

/// What `open` enables besides itself. `default` enables only what it lists.
fn closed<'a>(
    features: &'a BTreeMap<String, Vec<String>>,
    mut open: Vec<&'a str>,
) -> BTreeSet<&'a str> {
    let mut enabled = BTreeSet::new();
    while let Some(name) = open.pop() {
        if name != "default" && !enabled.insert(name) {
            continue;
        }
        let listed = features.get(name).into_iter().flatten();
        open.extend(listed.map(String::as_str).filter(|name| *name != "default"));
    }
    enabled
}

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::feature_sets;

    fn sets(features: &[(&str, &[&str])]) -> Vec<String> {
        let own = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect();
        let features: BTreeMap<String, Vec<String>> =
            features.iter().map(|(name, list)| ((*name).to_owned(), own(list))).collect();
        feature_sets(&features)
    }

    #[test]
    fn no_features_need_no_run_of_their_own() {
        assert!(sets(&[]).is_empty());
        assert!(sets(&[("default", &[])]).is_empty());
    }

    #[test]
    fn every_feature_gets_a_run() {
        assert_eq!(sets(&[("a", &[]), ("b", &["dep:x"])]), ["a", "b"]);
    }

    #[test]
    fn a_feature_that_enables_all_others_is_covered_by_the_run_with_all() {
        assert_eq!(sets(&[("all", &["a", "b"]), ("a", &[]), ("b", &[])]), ["a", "b"]);
        assert!(sets(&[("only", &[])]).is_empty());
    }

    #[test]
    fn default_is_run_when_it_is_a_set_of_its_own() {
        let features: [(&str, &[&str]); 4] =
            [("a", &[]), ("b", &[]), ("c", &[]), ("default", &["a", "b"])];
        assert_eq!(sets(&features), ["a", "b", "c", "default"]);
        assert_eq!(sets(&[("a", &[]), ("b", &[]), ("default", &["a"])]), ["a", "b"]);
    }
}
