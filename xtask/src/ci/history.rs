//! Step `history`: `docs/HISTORY_OF_BUGS.md` has every historical bug once, the tests it names are
//! there, and every bug planted in the protocol has tests that fail with it.
//!
//! That they do fail is shown by `cargo xtask planted`, which reads the same document.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use super::Report;
use super::evidence::{Evidence, missing};
use super::source::{code_of, identifiers};
use crate::cargo::Workspace;

const DOCUMENT: &str = "docs/HISTORY_OF_BUGS.md";
/// Letter and count of each kind of bug, in the order of the document.
const KINDS_OF_BUGS: [(char, usize); 4] = [('S', 27), ('R', 8), ('L', 17), ('A', 5)];
/// What a test can be.
const KINDS_OF_TESTS: [&str; 5] = ["unit", "property", "one replica", "fleet", "witness"];
/// So many bugs may be answered by a witness that the design excludes them.
const WITNESSED_MAX: usize = 15;
/// A file without a folder is one of these.
const SCENARIOS: &str = "raft-core/tests/scenarios";
const CORE: &str = "raft-core/src";
const PLANTED: &str = "raft-core/src/planted.rs";

pub(super) fn run(workspace: &Workspace) -> Result<Report> {
    let document = History::read(&workspace.root)?;
    let mut findings = document.check();
    for (place, name) in document.names() {
        findings.extend(problem(name, &workspace.root).map(|what| format!("{place}: {what}")));
    }
    let asked = asked_in_core(&workspace.root)?;
    findings.extend(document.check_planted(&asked));
    let tests: BTreeSet<&str> = document.names().map(|(_, name)| name).collect();
    let note = format!(
        "{} bugs, {} tests, {} planted",
        document.bugs.len(),
        tests.len(),
        document.planted.len()
    );
    Ok(Report::from_findings(&findings, note))
}

/// The document.
#[derive(Debug, Default, Eq, PartialEq)]
pub(crate) struct History {
    bugs: Vec<Bug>,
    /// Each planted bug, with the tests that fail with it.
    planted: Vec<(usize, String, Vec<String>)>,
}

/// One historical bug.
#[derive(Debug, Eq, PartialEq)]
struct Bug {
    line: usize,
    id: String,
    sources: Vec<String>,
    claim: String,
    tests: Vec<String>,
    kinds: Vec<String>,
    planted: Vec<String>,
}

impl History {
    pub(crate) fn read(root: &Path) -> Result<Self> {
        let text = fs::read_to_string(root.join(DOCUMENT))
            .with_context(|| format!("cannot read {DOCUMENT}"))?;
        Ok(Self::parse(&text))
    }

    /// Rows of six cells whose first looks like an id, and of two whose first is in backticks.
    fn parse(text: &str) -> Self {
        let mut history = Self::default();
        for (line, text) in (1..).zip(text.lines()) {
            let inner = text.trim().strip_prefix('|').and_then(|row| row.strip_suffix('|'));
            let cells: Vec<&str> =
                inner.map(|row| row.split('|').map(str::trim).collect()).unwrap_or_default();
            match cells[..] {
                [id, sources, claim, tests, kinds, planted] if is_id(id) => {
                    history.bugs.push(Bug {
                        line,
                        id: id.to_owned(),
                        sources: quoted(sources),
                        claim: claim.to_owned(),
                        tests: quoted(tests),
                        kinds: kinds.split(',').map(|kind| kind.trim().to_owned()).collect(),
                        planted: quoted(planted),
                    });
                }
                [name, tests] if name.starts_with('`') => {
                    history
                        .planted
                        .extend(quoted(name).into_iter().map(|name| (line, name, quoted(tests))));
                }
                _ => {}
            }
        }
        history
    }

    /// Every test that is named, and where.
    fn names(&self) -> impl Iterator<Item = (String, &str)> {
        let bugs = self.bugs.iter().map(|bug| (bug.line, &bug.tests));
        let planted = self.planted.iter().map(|(line, _, tests)| (*line, tests));
        bugs.chain(planted).flat_map(|(line, tests)| {
            tests.iter().map(move |name| (format!("{DOCUMENT}:{line}"), name.as_str()))
        })
    }

    /// For each planted bug, the tests of the scenarios that fail with it, as their binary
    /// names them.
    ///
    /// # Errors
    /// A test that is not of the scenarios cannot be run with a bug planted.
    pub(crate) fn scenarios(&self) -> Result<BTreeMap<&str, Vec<String>>> {
        let mut scenarios = BTreeMap::new();
        for (line, bug, tests) in &self.planted {
            let mut names = Vec::new();
            for test in tests {
                match test.split_once(".rs::") {
                    Some((file, function)) if !file.starts_with("raft-") => {
                        names.push(format!("{}::{function}", file.replace('/', "::")));
                    }
                    _ => bail!("{DOCUMENT}:{line}: {test} is not of {SCENARIOS}"),
                }
            }
            scenarios.insert(bug.as_str(), names);
        }
        Ok(scenarios)
    }

    /// What is wrong within the document.
    fn check(&self) -> Vec<String> {
        let expected = KINDS_OF_BUGS
            .iter()
            .flat_map(|(letter, count)| (1..=*count).map(move |n| format!("{letter}{n}")));
        let mut findings = Vec::new();
        let mut rest = self.bugs.iter();
        for id in expected {
            match rest.next() {
                Some(bug) if bug.id == id => {}
                Some(bug) => {
                    let found = format!("{DOCUMENT}:{}: {} stands where", bug.line, bug.id);
                    findings.push(format!("{found} {id} belongs"));
                    break;
                }
                None => findings.push(format!("{DOCUMENT}: {id} is not there")),
            }
        }
        findings.extend(rest.map(|bug| format!("{DOCUMENT}:{}: {} too many", bug.line, bug.id)));
        for bug in &self.bugs {
            let mut find = |what: &str| {
                findings.push(format!("{DOCUMENT}:{}: {} {what}", bug.line, bug.id));
            };
            let is_test =
                |name: &&String| matches!(Evidence::parse(name), Some(Evidence::Test { .. }));
            if bug.tests.is_empty() || bug.tests.iter().filter(is_test).count() < bug.tests.len() {
                find("names something that is no test, or nothing");
            }
            if !bug.sources.iter().any(|source| source.contains('/')) {
                find("has no source");
            }
            if bug.claim.is_empty() {
                find("does not say what went wrong");
            }
            if !bug.kinds.iter().all(|kind| KINDS_OF_TESTS.contains(&kind.as_str())) {
                find("has tests of a kind that does not exist");
            }
        }
        let witnessed = |bug: &&Bug| bug.kinds.iter().any(|kind| kind == "witness");
        let witnessed = self.bugs.iter().filter(witnessed).count();
        if witnessed > WITNESSED_MAX {
            findings.push(format!("{DOCUMENT}: {witnessed} bugs rest on a witness"));
        }
        findings
    }

    /// Whether the bugs planted in the core and those in the document are the same, and a
    /// historical bug that is planted is caught by a test of its own.
    fn check_planted(&self, asked: &BTreeSet<String>) -> Vec<String> {
        let mut findings = Vec::new();
        let mut known: BTreeMap<&str, &Vec<String>> = BTreeMap::new();
        for (line, name, tests) in &self.planted {
            let place = format!("{DOCUMENT}:{line}");
            if !asked.contains(name) {
                findings.push(format!("{place}: nothing in {CORE} asks for {name}"));
            }
            if tests.is_empty() {
                findings.push(format!("{place}: no test fails with {name}"));
            }
            if known.insert(name, tests).is_some() {
                findings.push(format!("{place}: {name} twice"));
            }
        }
        for name in asked.iter().filter(|name| !known.contains_key(name.as_str())) {
            findings.push(format!("{DOCUMENT}: {name} is planted in {CORE} and not there"));
        }
        for bug in &self.bugs {
            for name in &bug.planted {
                let caught = known
                    .get(name.as_str())
                    .is_some_and(|tests| tests.iter().any(|test| bug.tests.contains(test)));
                if !caught {
                    let place = format!("{DOCUMENT}:{}", bug.line);
                    findings.push(format!("{place}: no test of {} fails with {name}", bug.id));
                }
            }
        }
        findings
    }
}

fn is_id(cell: &str) -> bool {
    let number = cell.strip_prefix(|c: char| c.is_ascii_uppercase());
    number.is_some_and(|n| !n.is_empty() && n.chars().all(|c| c.is_ascii_digit()))
}

/// What stands in backticks.
fn quoted(cell: &str) -> Vec<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Why this test is none, if so.
fn problem(name: &str, root: &Path) -> Option<String> {
    let long =
        if name.starts_with("raft-") { name.to_owned() } else { format!("{SCENARIOS}/{name}") };
    match Evidence::parse(&long) {
        Some(evidence @ Evidence::Test { .. }) => missing(&evidence, root),
        Some(Evidence::File { .. } | Evidence::Xtask { .. }) | None => {
            Some(format!("`{name}` is no test"))
        }
    }
}

/// Every `planted!(Name)` in the core's code.
fn asked_in_core(root: &Path) -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for file in fs::read_dir(root.join(CORE)).with_context(|| format!("cannot read {CORE}"))? {
        let path = file?.path();
        if path.extension().is_none_or(|extension| extension != "rs") || path.ends_with(PLANTED) {
            continue;
        }
        let text = fs::read_to_string(&path)?;
        names.extend(asked(&code_of(&text)));
    }
    Ok(names)
}

fn asked(code: &str) -> Vec<String> {
    let names = identifiers(code, "planted").filter_map(|at| {
        let name = code[at..].strip_prefix("planted!(")?.split(')').next()?;
        (name.chars().all(|c| c.is_ascii_alphanumeric())).then(|| name.to_owned())
    });
    names.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(bugs: &[&str], planted: &str) -> History {
        let row = |id: &&str| {
            let planted = if *id == "S1" { "`Early`" } else { "" };
            format!(
                "| {id} | `a/b#1` | it broke | `x.rs::y`, `raft-z/z.rs::y` | unit | {planted} |\n"
            )
        };
        let rows: String = bugs.iter().map(row).collect();
        History::parse(&format!("# S1\n| id | s | w | t | k | p |\n{rows}\n{planted}"))
    }

    fn all() -> Vec<String> {
        let ids = KINDS_OF_BUGS.iter();
        ids.flat_map(|(letter, count)| (1..=*count).map(move |n| format!("{letter}{n}"))).collect()
    }

    #[test]
    fn every_bug_must_be_there_once_and_in_order() {
        let all = all();
        let ids: Vec<&str> = all.iter().map(String::as_str).collect();
        assert_eq!(ids.len(), 57);
        assert_eq!(document(&ids, "").check(), Vec::<String>::new());
        assert_eq!(document(&ids[..56], "").check(), ["docs/HISTORY_OF_BUGS.md: A5 is not there"]);
        let twice: Vec<&str> = ids.iter().chain(&["A5"]).copied().collect();
        assert!(document(&twice, "").check()[0].contains("A5 too many"));
        let mut swapped = ids;
        swapped.swap(3, 4);
        assert!(document(&swapped, "").check()[0].contains("S5 stands where S4 belongs"));
    }

    #[test]
    fn a_row_has_a_source_a_sentence_tests_and_known_kinds() {
        for (row, count) in [
            ("| S1 | `a/b#1` | c | `x.rs::y` | unit, fleet | |", 0),
            ("| S1 | a | c | `x.rs::y` | unit | |", 1),
            ("| S1 | `a/b#1` | | `x.rs::y` | unit | |", 1),
            ("| S1 | `a/b#1` | c | x | unit | |", 1),
            ("| S1 | `a/b#1` | c | `x.rs::y` and `x.rs` | unit | |", 1),
            ("| S1 | `a/b#1` | c | `x.rs::y` | hope | |", 1),
        ] {
            let of_row = |finding: &String| finding.contains(":1: S1");
            let findings = History::parse(row).check();
            assert_eq!(findings.iter().filter(|f| of_row(f)).count(), count, "{row}: {findings:?}");
        }
    }

    #[test]
    fn planted_bugs_are_those_of_the_core_and_are_caught_by_the_row_that_names_them() {
        let asked = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let findings =
            |table: &str, names: &[&str]| document(&["S1"], table).check_planted(&asked(names));
        assert!(findings("| `Early` | `x.rs::y` |", &["Early"]).is_empty());
        assert!(findings("| `Early` | `x.rs::z` |", &["Early"])[0].contains("no test of S1"));
        assert!(findings("| `Early` | |", &["Early"])[0].contains("no test fails"));
        assert!(findings("| `Early` | `x.rs::y` |", &[])[0].contains("nothing in"));
        let late = findings("| `Early` | `x.rs::y` |", &["Early", "Late"]);
        assert!(late[0].contains("Late is planted"), "{late:?}");
    }

    #[test]
    fn scenarios_are_named_as_their_binary_names_them() {
        let history = document(&["S1"], "| `Early` | `x.rs::y`, `a/b.rs::c` |");
        assert_eq!(history.scenarios().unwrap()["Early"], ["x::y", "a::b::c"]);
        assert!(document(&[], "| `Early` | `raft-core/src/x.rs::y` |").scenarios().is_err());
    }

    #[test]
    fn what_the_core_asks_for_is_found_in_code_only() {
        let code = code_of("a(crate::planted!(Early)); // planted!(Never)\nplanted!(Late)");
        assert_eq!(asked(&code), ["Early", "Late"]);
    }
}
