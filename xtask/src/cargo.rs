//! What cargo knows: the packages of this workspace, who depends on whom, what was built.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::job::{Finished, Job};

/// The workspace, as `cargo metadata --all-features` tells it.
pub(crate) struct Workspace {
    pub(crate) root: PathBuf,
    pub(crate) target_directory: PathBuf,
    /// The members, by name.
    pub(crate) members: BTreeMap<String, Package>,
    /// Every package of the dependency graph, by package id.
    graph: BTreeMap<String, Node>,
}

/// One member of the workspace.
pub(crate) struct Package {
    id: String,
    pub(crate) directory: PathBuf,
    /// What each feature of its own enables.
    pub(crate) features: BTreeMap<String, Vec<String>>,
    /// What its manifest names, whether or not a feature enables it.
    pub(crate) dependencies: Vec<Dependency>,
    /// Names of its example targets.
    pub(crate) examples: Vec<String>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Dependency {
    pub(crate) name: String,
    pub(crate) kind: DependencyKind,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum DependencyKind {
    Normal,
    Build,
    Dev,
}

struct Node {
    name: String,
    /// Ids of what it links or runs at build time, for its users.
    uses: Vec<String>,
}

/// A file cargo built that can be run.
pub(crate) struct Executable {
    pub(crate) name: String,
    /// `bin`, `example` or `test`.
    pub(crate) kind: String,
    pub(crate) path: PathBuf,
}

impl Workspace {
    pub(crate) fn load() -> Result<Self> {
        Self::told("--all-features")
    }

    /// What users get who ask for no feature.
    pub(crate) fn bare() -> Result<Self> {
        Self::told("--no-default-features")
    }

    fn told(features: &str) -> Result<Self> {
        let mut command = Command::new(program());
        command.args(["metadata", "--format-version", "1", features]);
        let finished = Job::new(command).apart()?;
        if !finished.success() {
            bail!("cargo metadata failed:\n{}", finished.stderr);
        }
        let value = serde_json::from_str(&finished.stdout).context("cargo metadata")?;
        Self::from_json(&value)
    }

    pub(crate) fn from_json(value: &Value) -> Result<Self> {
        let ids: BTreeSet<&str> =
            array(value, "workspace_members")?.iter().filter_map(Value::as_str).collect();
        let mut names = BTreeMap::new();
        let mut members = BTreeMap::new();
        for package in array(value, "packages")? {
            let id = string(package, "id")?;
            let name = string(package, "name")?;
            names.insert(id, name);
            if ids.contains(id) {
                members.insert(name.to_owned(), Package::from_json(package)?);
            }
        }
        let mut graph = BTreeMap::new();
        for node in array(&value["resolve"], "nodes")? {
            let id = string(node, "id")?;
            let mut uses = Vec::new();
            for dependency in array(node, "deps")? {
                let kinds = array(dependency, "dep_kinds")?;
                if kinds.iter().any(ships) {
                    uses.push(string(dependency, "pkg")?.to_owned());
                }
            }
            let name = (*names.get(id).context("a resolved package is not listed")?).to_owned();
            graph.insert(id.to_owned(), Node { name, uses });
        }
        Ok(Self {
            root: string(value, "workspace_root")?.into(),
            target_directory: string(value, "target_directory")?.into(),
            members,
            graph,
        })
    }

    /// Names of all packages this member needs to be built and run, itself left out.
    pub(crate) fn closure(&self, member: &Package) -> BTreeSet<&str> {
        let mut reached = BTreeSet::from([member.id.as_str()]);
        let mut open = vec![member.id.as_str()];
        while let Some(id) = open.pop() {
            for next in self.graph.get(id).map_or(&[][..], |node| &node.uses) {
                if reached.insert(next) {
                    open.push(next);
                }
            }
        }
        reached.remove(member.id.as_str());
        reached.iter().filter_map(|id| self.graph.get(*id)).map(|node| &*node.name).collect()
    }

    /// A cargo command in the workspace's root.
    pub(crate) fn cargo<const N: usize>(&self, arguments: [&str; N]) -> Command {
        let mut command = Command::new(program());
        command.current_dir(&self.root).args(arguments);
        command
    }
}

impl Package {
    fn from_json(value: &Value) -> Result<Self> {
        let manifest = Path::new(string(value, "manifest_path")?);
        let mut features = BTreeMap::new();
        for (name, enabled) in value["features"].as_object().context("`features` is missing")? {
            let enabled = enabled.as_array().context("a feature is not a list")?;
            let enabled = enabled.iter().filter_map(Value::as_str).map(str::to_owned).collect();
            features.insert(name.clone(), enabled);
        }
        let mut dependencies = Vec::new();
        for dependency in array(value, "dependencies")? {
            let kind = match dependency["kind"].as_str() {
                None | Some("normal") => DependencyKind::Normal,
                Some("build") => DependencyKind::Build,
                Some("dev") => DependencyKind::Dev,
                Some(other) => bail!("unknown dependency kind `{other}`"),
            };
            let name = string(dependency, "name")?.to_owned();
            dependencies.push(Dependency { name, kind });
        }
        let mut examples = Vec::new();
        for target in array(value, "targets")? {
            let kinds = array(target, "kind")?;
            if kinds.iter().any(|kind| kind == "example") {
                examples.push(string(target, "name")?.to_owned());
            }
        }
        Ok(Self {
            id: string(value, "id")?.to_owned(),
            directory: manifest.parent().context("a manifest has no directory")?.into(),
            features,
            dependencies,
            examples,
        })
    }
}

/// Runs a building command and lists the executables it made or found fresh.
///
/// The outer error is a command that could not run; the inner one a build that failed.
pub(crate) fn build(mut command: Command) -> Result<Result<Vec<Executable>, Finished>> {
    command.arg("--message-format=json-render-diagnostics");
    let finished = Job::new(command).apart()?;
    if !finished.success() {
        // Standard output is machine-readable here; a person wants the rendered part.
        return Ok(Err(Finished { stdout: String::new(), ..finished }));
    }
    Ok(Ok(finished.stdout.lines().filter_map(executable).collect()))
}

fn executable(line: &str) -> Option<Executable> {
    let message: Value = serde_json::from_str(line).ok()?;
    let path = message["executable"].as_str()?.into();
    let target = &message["target"];
    let kind = match message["profile"]["test"].as_bool() {
        Some(true) => "test",
        Some(false) | None => target["kind"][0].as_str()?,
    };
    Some(Executable { name: target["name"].as_str()?.into(), kind: kind.into(), path })
}

/// Whether a user of the package gets this dependency. Model checkers are not for users, and
/// neither is what stands behind development.
fn ships(kind: &Value) -> bool {
    let target = kind["target"].as_str().unwrap_or_default();
    kind["kind"] != "dev" && !target.contains("loom_model")
}

/// The cargo that started us, so that toolchain overrides stay in force.
pub(crate) fn program() -> String {
    env::var("CARGO").unwrap_or_else(|_| "cargo".into())
}

fn array<'a>(value: &'a Value, key: &str) -> Result<&'a Vec<Value>> {
    value[key].as_array().with_context(|| format!("cargo told no list `{key}`"))
}

fn string<'a>(value: &'a Value, key: &str) -> Result<&'a str> {
    value[key].as_str().with_context(|| format!("cargo told no text `{key}`"))
}
