//! Step `layering`: what each crate does not know.
//!
//! Four questions: do the manifests keep to the arrows, does the source, does a library force a
//! heavy dependency on its user, and is `raft-core` free of the standard library. For the last
//! one, a crate that defines a panic handler is checked on top of `raft-core`: if anything below
//! it links `std`, the compiler finds two handlers. So the proof needs no other target installed;
//! where a bare-metal one is, `raft-core` is built for it as well.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::Report;
use super::source::{code_of, identifiers, line_of};
use crate::cargo::{DependencyKind, Package, Workspace};
use crate::job::Job;

/// Where a crate stands, and what it may use there.
struct Layer {
    name: &'static str,
    /// What it may depend on.
    uses: &'static [&'static str],
    /// What its tests, benches and examples may use besides.
    tests_use: &'static [&'static str],
}

const LAYERS: [Layer; 6] = [
    Layer { name: CORE, uses: &[], tests_use: &[] },
    Layer { name: "raft-mux", uses: &[CORE], tests_use: &[] },
    Layer { name: "raft-storage", uses: &[CORE], tests_use: &[] },
    Layer { name: "raft-transport", uses: &[CORE, "raft-mux"], tests_use: &["raft-storage"] },
    Layer {
        name: "raft-harness",
        uses: &[CORE, "raft-mux", "raft-storage", "raft-transport"],
        tests_use: &[],
    },
    Layer { name: "xtask", uses: &[], tests_use: &[] },
];

const CORE: &str = "raft-core";

/// Rooms of the transport that carry what they are given, ours or another protocol's ...
const CARRIERS: [&str; 3] =
    ["raft-transport/src/connection", "raft-transport/src/lanes", "raft-transport/src/network"];
/// ... and all they know of the core: who speaks, about whom, and when.
const CARRIERS_KNOW: [&str; 5] = ["GroupId", "Incarnation", "Micros", "NodeId", "planted"];

/// Crates that stand on their own, and so must not decide these matters for their users.
const LIBRARIES: [&str; 4] = [CORE, "raft-mux", "raft-storage", "raft-transport"];

/// TLS, metrics, command lines, HTTP and log output are the application's choice.
const FORCED: [&str; 16] = [
    "actix-web",
    "axum",
    "clap",
    "clap_builder",
    "h2",
    "hyper",
    "indicatif",
    "metrics",
    "native-tls",
    "openssl",
    "prometheus",
    "reqwest",
    "rustls",
    "tonic",
    "tower",
    "tracing-subscriber",
];

/// What may be linked into `raft-core`. All of these do without `std` once their default features
/// are off. Procedural macros run in the compiler and need not be listed.
const CORE_LINKS: [&str; 3] = [CORE, "bytes", "thiserror"];

/// Features by which these crates come to need `std`.
const STD_FEATURES: [&str; 2] = ["default", "std"];

/// Targets without `std` but with the atomics `bytes` needs, any of which will do.
const BARE_METAL: [&str; 6] = [
    "thumbv7em-none-eabihf",
    "thumbv7em-none-eabi",
    "thumbv7m-none-eabi",
    "aarch64-unknown-none",
    "x86_64-unknown-none",
    "riscv64gc-unknown-none-elf",
];

pub(super) fn run(workspace: &Workspace) -> Result<Report> {
    let mut findings = arrows(workspace);
    // What a feature brings is the choice of whoever names it.
    findings.extend(forced_dependencies(&Workspace::bare()?));
    findings.extend(source_arrows(workspace)?);
    findings.extend(carriers(workspace)?);
    let core = workspace.members.get(CORE).context("the workspace has no raft-core")?;
    let library = core.directory.join("src/lib.rs");
    let library = fs::read_to_string(&library).with_context(|| library.display().to_string())?;
    if !declares_no_std(&library) {
        findings.push("raft-core/src/lib.rs does not say `#![no_std]`".into());
    }
    findings.extend(core_links(&core_tree(workspace)?));
    findings.extend(std_proof(workspace, core)?);
    let mut report = Report::from_findings(&findings, "");
    match bare_metal_target()? {
        Some(target) => {
            let command = workspace.cargo(["build", "-p", CORE, "--target", target]);
            let built = Job::new(command).merged()?;
            if !built.success() {
                findings.push(format!("raft-core for {target}:\n{}", built.evidence()));
            }
            report = Report::from_findings(&findings, format!("raft-core built for {target}"));
        }
        None => report.skipped_parts.push(format!(
            "bare-metal build of raft-core (install with rustup target add {})",
            BARE_METAL[0]
        )),
    }
    Ok(report)
}

/// Arrows in the manifests that lead where they must not.
fn arrows(workspace: &Workspace) -> Vec<String> {
    let mut findings = Vec::new();
    for (name, package) in &workspace.members {
        let Some(layer) = LAYERS.iter().find(|layer| layer.name == name) else {
            findings.push(format!("{name} has no place in the layers of xtask/src/ci/layering.rs"));
            continue;
        };
        for dependency in &package.dependencies {
            let to = dependency.name.as_str();
            // A crate may name itself to switch on a feature for its own tests.
            let permitted = to == name
                || match dependency.kind {
                    DependencyKind::Normal | DependencyKind::Build => layer.uses.contains(&to),
                    DependencyKind::Dev => {
                        layer.uses.contains(&to) || layer.tests_use.contains(&to)
                    }
                };
            if workspace.members.contains_key(to) && !permitted {
                findings.push(format!("{name} -> {to} ({:?} dependency)", dependency.kind));
            }
        }
    }
    findings
}

/// Libraries that bring along what is their user's choice, themselves or through others.
fn forced_dependencies(workspace: &Workspace) -> Vec<String> {
    let mut findings = Vec::new();
    for name in LIBRARIES {
        let Some(package) = workspace.members.get(name) else {
            continue;
        };
        let closure = workspace.closure(package);
        for forced in FORCED.into_iter().filter(|forced| closure.contains(forced)) {
            findings.push(format!("{name} forces {forced} on its users"));
        }
        let links = |kind| kind != DependencyKind::Dev;
        if package.dependencies.iter().any(|d| d.name == "anyhow" && links(d.kind)) {
            findings.push(format!("{name} uses anyhow; a library's errors are typed"));
        }
    }
    findings
}

/// Uses in the source of crates that the layer does not permit.
fn source_arrows(workspace: &Workspace) -> Result<Vec<String>> {
    let mut findings = Vec::new();
    for layer in &LAYERS {
        let Some(package) = workspace.members.get(layer.name) else {
            continue;
        };
        let strangers: Vec<String> = LAYERS
            .iter()
            .map(|other| other.name)
            .filter(|other| *other != layer.name)
            .filter(|other| !layer.uses.contains(other) && !layer.tests_use.contains(other))
            .map(|other| other.replace('-', "_"))
            .collect();
        for directory in ["src", "tests", "benches", "examples"] {
            for path in rust_files(&package.directory.join(directory))? {
                let text = fs::read_to_string(&path)
                    .with_context(|| format!("cannot read {}", path.display()))?;
                let shown = path.strip_prefix(&workspace.root).unwrap_or(&path).display();
                let found = uses(&text, &strangers);
                findings.extend(
                    found.into_iter().map(|(line, used)| format!("{shown}:{line}: {used}")),
                );
            }
        }
    }
    Ok(findings)
}

/// Lines of `text` that name one of the crates in a path, and which one.
fn uses(text: &str, strangers: &[String]) -> Vec<(usize, String)> {
    let code = code_of(text);
    let mut found = Vec::new();
    for stranger in strangers {
        for at in identifiers(&code, stranger) {
            let before = code[..at].trim_end_matches("::").trim_end();
            let after = code[at + stranger.len()..].trim_start();
            let imported = ["use", "crate"].iter().any(|word| before.ends_with(word));
            if imported || after.starts_with("::") {
                found.push((line_of(&code, at), format!("uses {stranger}")));
            }
        }
    }
    found
}

/// Messages of the core that rooms know which should only carry them.
fn carriers(workspace: &Workspace) -> Result<Vec<String>> {
    let mut findings = Vec::new();
    for room in CARRIERS {
        for path in rust_files(&workspace.root.join(room))? {
            let shown = path.strip_prefix(&workspace.root).unwrap_or(&path);
            let is_test = |part: &std::ffi::OsStr| part == "tests" || part == "tests.rs";
            if shown.iter().any(is_test) {
                continue;
            }
            let text = fs::read_to_string(&path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            let known = named_of_core(&text).into_iter();
            findings.extend(
                known
                    .filter(|(_, name)| !CARRIERS_KNOW.contains(&name.as_str()))
                    .map(|(line, name)| format!("{}:{line}: knows {name}", shown.display())),
            );
        }
    }
    Ok(findings)
}

/// What a file takes from `raft_core` before its tests, and in which lines.
fn named_of_core(text: &str) -> Vec<(usize, String)> {
    let code = code_of(text);
    let code = code.split("#[cfg(test)]").next().unwrap_or_default();
    let crate_name = "raft_core";
    let mut named = Vec::new();
    for at in identifiers(code, crate_name) {
        let Some(path) = code[at + crate_name.len()..].strip_prefix("::") else { continue };
        let list = match path.strip_prefix('{') {
            Some(list) => list.split('}').next().unwrap_or_default(),
            None => {
                path.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default()
            }
        };
        let names = list.split(',').map(|name| name.trim().split("::").next().unwrap_or_default());
        let line = line_of(code, at);
        named.extend(names.filter(|name| !name.is_empty()).map(|name| (line, name.to_owned())));
    }
    named
}

fn rust_files(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut open = vec![directory.to_owned()];
    while let Some(directory) = open.pop().filter(|directory| directory.is_dir()) {
        // A folder with a manifest is a package of its own, with its own layers.
        if directory.join("Cargo.toml").exists() || directory.join("CACHEDIR.TAG").exists() {
            continue;
        }
        for entry in fs::read_dir(&directory)? {
            let path = entry?.path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

fn declares_no_std(library: &str) -> bool {
    code_of(library).lines().any(|line| line.trim() == "#![no_std]")
}

/// What is linked into `raft-core`, one line `name version ...|feature,feature` each.
fn core_tree(workspace: &Workspace) -> Result<String> {
    let mut command = workspace.cargo(["tree", "-p", CORE, "--prefix", "none"]);
    command.args(["--edges", "normal,no-proc-macro", "--format", "{p}|{f}"]);
    let finished = Job::new(command).apart()?;
    if !finished.success() {
        bail!("cargo tree failed:\n{}", finished.stderr);
    }
    Ok(finished.stdout)
}

fn core_links(tree: &str) -> Vec<String> {
    let mut findings = Vec::new();
    for line in tree.lines() {
        let (package, features) = line.split_once('|').unwrap_or((line, ""));
        let name = package.split(' ').next().unwrap_or(package);
        if !CORE_LINKS.contains(&name) {
            findings.push(format!("raft-core links {name}, which is not on the list for no_std"));
        }
        let features = features.trim_end_matches(" (*)").split(',');
        // The core's own default features are its business, as long as `std` is none of them.
        let suspect =
            |feature: &&str| STD_FEATURES.contains(feature) && (name != CORE || *feature == "std");
        for feature in features.filter(suspect) {
            findings.push(format!("raft-core links {name} with its feature `{feature}`"));
        }
    }
    findings
}

/// Checks a crate with a panic handler of its own on top of `raft-core`.
fn std_proof(workspace: &Workspace, core: &Package) -> Result<Option<String>> {
    const LIBRARY: &str = "\
//! A panic handler of its own: does not compile if anything below it links `std`.
#![no_std]
extern crate raft_core;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
";
    let directory = workspace.target_directory.join("xtask/no-std-proof");
    let manifest = format!(
        "[package]\nname = \"no-std-proof\"\nedition = \"2024\"\n\n[workspace]\n\n\
        [dependencies]\nraft-core = {{ path = {:?} }}\n",
        core.directory
    );
    fs::create_dir_all(directory.join("src"))?;
    fs::write(directory.join("Cargo.toml"), manifest)?;
    fs::write(directory.join("src/lib.rs"), LIBRARY)?;
    // With our lock file it resolves to the same versions, and without a network.
    fs::copy(workspace.root.join("Cargo.lock"), directory.join("Cargo.lock"))?;
    let mut command = workspace.cargo(["check", "--offline", "--manifest-path"]);
    command.arg(directory.join("Cargo.toml"));
    command.arg("--target-dir").arg(&workspace.target_directory);
    let finished = Job::new(command).merged()?;
    let failed =
        || format!("the proof that raft-core does without std failed:\n{}", finished.evidence());
    Ok((!finished.success()).then(failed))
}

/// A target from [`BARE_METAL`] that is installed.
fn bare_metal_target() -> Result<Option<&'static str>> {
    let rustc = env::var("RUSTC").unwrap_or_else(|_| "rustc".into());
    let mut command = Command::new(rustc);
    command.args(["--print", "sysroot"]);
    let finished = Job::new(command).apart()?;
    let libraries = Path::new(finished.stdout.trim()).join("lib/rustlib");
    Ok(BARE_METAL.into_iter().find(|target| libraries.join(target).join("lib").is_dir()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{arrows, core_links, declares_no_std, forced_dependencies, named_of_core, uses};
    use crate::cargo::Workspace;

    #[test]
    fn what_a_carrier_takes_from_the_core_is_seen_in_every_spelling() {
        let text = "use raft_core::{GroupId, Message,\n    Append};\nfn f() -> raft_core::Heartbeat {}\n\
                    #[cfg(test)]\nmod tests { use raft_core::Entry; }\n";
        let named = named_of_core(text);
        let names: Vec<&str> = named.iter().map(|(_, name)| name.as_str()).collect();
        assert_eq!(names, ["GroupId", "Message", "Append", "Heartbeat"]);
        assert_eq!(named[3].0, 3);
    }

    /// A workspace of these members, plus the outside packages `mid` -> `hyper`.
    ///
    /// Each arrow is from, to and kind, as cargo writes them; `loom` is a normal dependency under
    /// the condition of the models.
    fn workspace(members: &[&str], arrows: &[(&str, &str, Option<&str>)]) -> Workspace {
        let outside = ["mid", "hyper", "anyhow"];
        let all: Vec<&str> = members.iter().copied().chain(outside).collect();
        let mut arrows = arrows.to_vec();
        arrows.push(("mid", "hyper", None));
        let from = |name: &str| {
            let name = name.to_owned();
            arrows.iter().filter(move |arrow| arrow.0 == name)
        };
        let packages = all.iter().map(|name| {
            let named = from(name).map(|(_, to, kind)| {
                let (kind, target) = kind_and_target(*kind);
                json!({"name": to, "kind": kind, "target": target})
            });
            json!({
                "id": name, "name": name, "manifest_path": format!("/w/{name}/Cargo.toml"),
                "features": {}, "dependencies": named.collect::<Vec<_>>(), "targets": [],
            })
        });
        let nodes = all.iter().map(|name| {
            let resolved = from(name).map(|(_, to, kind)| {
                let (kind, target) = kind_and_target(*kind);
                json!({"pkg": to, "dep_kinds": [{"kind": kind, "target": target}]})
            });
            json!({"id": name, "deps": resolved.collect::<Vec<_>>()})
        });
        let (packages, nodes): (Vec<_>, Vec<_>) = (packages.collect(), nodes.collect());
        let metadata = json!({
            "workspace_members": members, "packages": packages, "resolve": {"nodes": nodes},
            "workspace_root": "/w", "target_directory": "/w/target",
        });
        Workspace::from_json(&metadata).unwrap()
    }

    fn kind_and_target(kind: Option<&str>) -> (Option<&str>, Option<&str>) {
        match kind {
            Some("loom") => (None, Some("cfg(loom_model)")),
            other => (other, None),
        }
    }

    const ALL: [&str; 6] =
        ["raft-core", "raft-mux", "raft-transport", "raft-storage", "raft-harness", "xtask"];

    #[test]
    fn each_arrow_of_the_drawing_is_permitted() {
        let permitted = [
            ("raft-mux", "raft-core", None),
            ("raft-storage", "raft-core", None),
            ("raft-transport", "raft-core", None),
            ("raft-transport", "raft-mux", None),
            ("raft-transport", "raft-storage", Some("dev")),
            ("raft-harness", "raft-core", None),
            ("raft-harness", "raft-mux", None),
            ("raft-harness", "raft-storage", None),
            ("raft-harness", "raft-transport", Some("build")),
            ("raft-storage", "raft-storage", Some("dev")),
            ("xtask", "anyhow", None),
        ];
        assert_eq!(arrows(&workspace(&ALL, &permitted)), [""; 0]);
    }

    #[test]
    fn every_other_arrow_is_found_whatever_its_kind() {
        for (from, to, kind) in [
            ("raft-core", "raft-mux", None),
            ("raft-core", "raft-harness", Some("dev")),
            ("raft-mux", "raft-transport", None),
            ("raft-mux", "raft-storage", Some("dev")),
            ("raft-storage", "raft-mux", Some("build")),
            ("raft-transport", "raft-storage", None),
            ("raft-harness", "xtask", None),
            ("xtask", "raft-core", Some("dev")),
        ] {
            let found = arrows(&workspace(&ALL, &[(from, to, kind)]));
            assert_eq!(found.len(), 1, "{from} -> {to}");
            assert!(found[0].starts_with(&format!("{from} -> {to}")), "{found:?}");
        }
    }

    #[test]
    fn a_new_member_must_be_given_a_layer() {
        let found = arrows(&workspace(&["raft-core", "raft-extra"], &[]));
        assert_eq!(found.len(), 1);
        assert!(found[0].starts_with("raft-extra has no place"), "{found:?}");
    }

    #[test]
    fn a_forced_dependency_is_found_through_others_but_not_among_tests() {
        let through = [("raft-mux", "mid", None), ("raft-transport", "raft-mux", None)];
        assert_eq!(
            forced_dependencies(&workspace(&ALL, &through)),
            ["raft-mux forces hyper on its users", "raft-transport forces hyper on its users"]
        );
        let tests = [("raft-mux", "hyper", Some("dev")), ("raft-harness", "hyper", None)];
        assert_eq!(forced_dependencies(&workspace(&ALL, &tests)), [""; 0]);
        let models = [("raft-mux", "hyper", Some("loom"))];
        assert_eq!(forced_dependencies(&workspace(&ALL, &models)), [""; 0]);
        let untyped = [("raft-core", "anyhow", None), ("raft-mux", "anyhow", Some("dev"))];
        assert_eq!(forced_dependencies(&workspace(&ALL, &untyped)).len(), 1);
    }

    #[test]
    fn a_use_in_the_source_is_found_but_not_in_comments_or_strings() {
        let strangers = ["raft_harness".to_owned()];
        let found = |text: &str| uses(text, &strangers).len();
        assert_eq!(found("use raft_harness::Node;"), 1);
        assert_eq!(found("pub use ::raft_harness as h;"), 1);
        assert_eq!(found("extern crate raft_harness;"), 1);
        assert_eq!(found("let x = raft_harness :: f();"), 1);
        assert_eq!(found("// use raft_harness::Node;\nlet s = \"raft_harness::x\";"), 0);
        assert_eq!(found("let raft_harness = 1; raft_harness_x::f()"), 0);
    }

    #[test]
    fn core_may_link_listed_crates_without_std_only() {
        let good =
            "raft-core v0.1.0 (/w)|\nbytes v1.12.1|\nthiserror v2.0.1|\nbytes v1.12.1| (*)\n";
        assert_eq!(core_links(good), [""; 0]);
        assert_eq!(core_links("bytes v1.12.1|default,std").len(), 2);
        assert_eq!(core_links("bytes v1.12.1|std (*)").len(), 1);
        assert_eq!(core_links("rand v0.9.0|").len(), 1);
    }

    #[test]
    fn no_std_must_be_said_without_condition() {
        assert!(declares_no_std("//! Core.\n\n#![no_std]\nextern crate alloc;"));
        assert!(!declares_no_std("//! #![no_std]\n#![cfg_attr(not(test), no_std)]"));
    }
}
