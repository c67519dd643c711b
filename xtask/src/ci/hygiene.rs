//! Step `hygiene`: nothing unfinished, unexplained or local to one machine enters the repository.
//!
//! Files count that git tracks or would add; what it ignores does not. The compiler's own lints
//! see only code that is compiled here, while this step also sees what a `cfg` leaves out.

use std::fs;
use std::io;
use std::path::Path;

use anyhow::{Context, Result, bail};

use super::Report;
use super::source::{code_of, identifiers, line_of};
use crate::cargo::Workspace;
use crate::job::{Job, available};

/// Macros that stand for code still to be written.
const STUBS: [&str; 2] = ["todo", "unimplemented"];
/// Roots of paths that exist on somebody's machine only.
const MACHINE_ROOTS: [&str; 4] = ["home", "root", "work", "Users"];

pub(super) fn run(workspace: &Workspace) -> Result<Report> {
    if !available("git", &["--version"]) {
        return Ok(Report::skipped("apt install git"));
    }
    let mut findings = Vec::new();
    if !files(&workspace.root, &["--cached"])?.iter().any(|path| path == "Cargo.lock") {
        findings.push("Cargo.lock is not tracked".to_owned());
    }
    let paths = files(&workspace.root, &["--cached", "--others", "--exclude-standard"])?;
    let mut read = 0;
    for path in &paths {
        let bytes = match fs::read(workspace.root.join(path)) {
            Ok(bytes) => bytes,
            // Deleted but not yet committed, or a link to a directory.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) if error.kind() == io::ErrorKind::IsADirectory => continue,
            Err(error) => return Err(error).with_context(|| format!("cannot read {path}")),
        };
        if let Ok(text) = String::from_utf8(bytes) {
            read += 1;
            findings.extend(scan(path, &text));
        }
    }
    Ok(Report::from_findings(&findings, format!("{read} files")))
}

fn files(root: &Path, which: &[&str]) -> Result<Vec<String>> {
    let mut command = std::process::Command::new("git");
    command.current_dir(root).args(["ls-files", "-z"]).args(which);
    let finished = Job::new(command).apart()?;
    if !finished.success() {
        bail!("git ls-files failed: {}", finished.stderr.trim());
    }
    let paths = finished.stdout.split('\0').filter(|path| !path.is_empty());
    Ok(paths.map(str::to_owned).collect())
}

/// What is wrong with one text file.
fn scan(path: &str, text: &str) -> Vec<String> {
    let mut findings = Vec::new();
    let mut find = |line: usize, what: String| findings.push(format!("{path}:{line}: {what}"));
    for (number, line) in (1..).zip(text.lines()) {
        if let Some(root) = machine_path(line) {
            find(number, format!("path of one machine: /{root}/"));
        }
    }
    if !path.ends_with(".rs") {
        return findings;
    }
    let in_source = path.split('/').any(|directory| directory == "src");
    if in_source && !text.starts_with("//!") {
        find(1, "does not open with a `//!` header".into());
    }
    let code = code_of(text);
    for stub in STUBS {
        for at in identifiers(&code, stub).filter(|at| code[at + stub.len()..].starts_with('!')) {
            find(line_of(&code, at), format!("`{stub}!`"));
        }
    }
    for (at, content) in attributes(&code) {
        let line = line_of(&code, at);
        if leading_word(content) == "ignore" {
            find(line, "ignored test".into());
        }
        if silences(content) && identifiers(content, "reason").next().is_none() {
            find(line, "`allow` or `expect` without `reason = ...`".into());
        }
    }
    findings
}

/// The root of an absolute path in `line` that only one machine has.
fn machine_path(line: &str) -> Option<&'static str> {
    MACHINE_ROOTS.into_iter().find(|root| {
        line.match_indices(&format!("/{root}/")).any(|(at, _)| {
            // After these, the slash continues a relative path, an address or a variable.
            let continues = |c: char| c.is_alphanumeric() || "._-~/*})]>\\".contains(c);
            !line[..at].chars().next_back().is_some_and(continues)
        })
    })
}

/// Offset and content of every `#[...]` and `#![...]`.
fn attributes(code: &str) -> Vec<(usize, &str)> {
    let mut attributes = Vec::new();
    for (at, _) in code.match_indices('#') {
        let rest = &code[at + 1..];
        let rest = rest.strip_prefix('!').unwrap_or(rest);
        if rest.starts_with('[') {
            attributes.push((at, bracketed(rest)));
        }
    }
    attributes
}

/// The text between the bracket that opens `text` and its partner, or to the end without one.
fn bracketed(text: &str) -> &str {
    let mut depth = 0_u32;
    for (at, c) in text.char_indices() {
        match c {
            '[' => depth += 1,
            ']' if depth == 1 => return &text[1..at],
            ']' => depth -= 1,
            _ => {}
        }
    }
    &text[1..]
}

fn leading_word(content: &str) -> &str {
    let content = content.trim_start();
    let end = content.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(content.len());
    &content[..end]
}

/// Whether an attribute silences a lint, be it under a condition.
fn silences(content: &str) -> bool {
    matches!(leading_word(content), "allow" | "expect" | "cfg_attr")
        && ["allow", "expect"].into_iter().any(|word| {
            identifiers(content, word).any(|at| content[at + word.len()..].starts_with('('))
        })
}

#[cfg(test)]
mod tests {
    use super::scan;

    /// Findings in the body of a source file that has its header.
    fn found(body: &str) -> Vec<String> {
        scan("a/src/b.rs", &format!("//! Header.\n{body}"))
    }

    #[test]
    fn stubs_are_found_in_code_only() {
        assert_eq!(found("fn f() {\n    todo!()\n}"), ["a/src/b.rs:3: `todo!`"]);
        assert_eq!(found("unimplemented!(\"later\")").len(), 1);
        assert!(found("// todo!()\nlet todo = \"todo!()\"; not_todo!()").is_empty());
    }

    #[test]
    fn ignored_tests_are_found_with_and_without_an_excuse() {
        assert_eq!(found("#[test]\n#[ignore]\nfn f() {}"), ["a/src/b.rs:3: ignored test"]);
        assert_eq!(found("#[ignore = \"slow\"]").len(), 1);
        assert!(found("#[serde(ignore)]").is_empty());
    }

    #[test]
    fn an_allow_needs_a_reason() {
        for bad in [
            "#[allow(dead_code)]",
            "#![allow(dead_code)]",
            "#[expect(dead_code)]",
            "#[cfg_attr(test, allow(dead_code))]",
            "#[allow(\n    dead_code, // reason = none\n)]",
        ] {
            assert_eq!(found(bad).len(), 1, "{bad}");
        }
        for good in [
            "#[allow(dead_code, reason = \"read by the debugger\")]",
            "#[allow(\n    clippy::x,\n    reason = \"a [b] c\"\n)]",
            "x.expect(\"holds\"); policy.allow(peer)",
            "#[should_panic(expected = \"x\")]",
        ] {
            assert!(found(good).is_empty(), "{good}");
        }
    }

    #[test]
    fn machine_paths_are_found_in_any_text() {
        // Put together here, since this file is scanned as well.
        for root in ["home", "root", "work", "Users"] {
            let path = format!("/{root}/me/x");
            assert_eq!(scan("README.md", &format!("see {path}")).len(), 1, "{path}");
            assert_eq!(scan("a.toml", &format!("p = \"{path}\"")).len(), 1, "{path}");
            assert!(scan("a.md", &format!("https://example.org{path}")).is_empty());
            assert!(scan("a.sh", &format!("$(pwd){path} ~{path} ..{path}")).is_empty());
        }
    }

    #[test]
    fn only_source_files_need_a_header() {
        assert_eq!(
            scan("a/src/b.rs", "use x;\n"),
            ["a/src/b.rs:1: does not open with a `//!` header"]
        );
        assert!(scan("a/tests/b.rs", "use x;\n").is_empty());
        assert!(scan("a/src/b.txt", "x\n").is_empty());
    }
}
