//! Step `requirements`: `docs/REQUIREMENTS.md` says of every requirement where it is shown, and
//! what it names exists.
//!
//! A table like that is worth nothing once it drifts. A test that is renamed or removed, a command
//! that is gone, a requirement that is left out: each is a finding here.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::Report;
use super::evidence::{Evidence, missing};
use crate::cargo::Workspace;

const DOCUMENT: &str = "docs/REQUIREMENTS.md";
/// Letter and count of each source of requirements, in the order of the document.
const SOURCES: [(char, usize); 5] = [('L', 9), ('H', 12), ('G', 11), ('M', 13), ('E', 25)];

pub(super) fn run(workspace: &Workspace) -> Result<Report> {
    let text = fs::read_to_string(workspace.root.join(DOCUMENT))
        .with_context(|| format!("cannot read {DOCUMENT}"))?;
    let rows = rows(&text);
    let mut findings = check_ids(&rows);
    for row in &rows {
        findings.extend(check_row(row, &workspace.root));
    }
    let count = |standing| rows.iter().filter(|row| row.standing() == standing).count();
    let note = format!(
        "{} requirements: {} shown, {} partly, {} not yet",
        rows.len(),
        count(Standing::Shown),
        count(Standing::Partly),
        count(Standing::NotYet)
    );
    Ok(Report::from_findings(&findings, note))
}

/// One requirement.
#[derive(Debug, Eq, PartialEq)]
struct Row<'a> {
    line: usize,
    id: &'a str,
    claim: &'a str,
    shown: &'a str,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Standing {
    Shown,
    Partly,
    NotYet,
}

impl<'a> Row<'a> {
    /// The words the last cell begins with say it.
    fn standing(&self) -> Standing {
        if self.shown.starts_with("Not yet") {
            Standing::NotYet
        } else if self.shown.starts_with("Partly") {
            Standing::Partly
        } else {
            Standing::Shown
        }
    }

    /// What stands in backticks in the last cell.
    fn names(&self) -> impl Iterator<Item = &'a str> {
        self.shown.split('`').skip(1).step_by(2)
    }

    /// Tests and commands.
    fn evidence(&self) -> impl Iterator<Item = Evidence<'a>> {
        self.names().filter_map(Evidence::parse)
    }
}

/// Rows of all tables whose first cell looks like an id.
fn rows(text: &str) -> Vec<Row<'_>> {
    (1..).zip(text.lines()).filter_map(|(line, text)| row(line, text)).collect()
}

fn row(line: usize, text: &str) -> Option<Row<'_>> {
    let inner = text.trim().strip_prefix('|')?.strip_suffix('|')?;
    let mut cells = inner.splitn(3, '|').map(str::trim);
    let (id, claim, shown) = (cells.next()?, cells.next()?, cells.next()?);
    let number = id.strip_prefix(|c: char| c.is_ascii_uppercase())?;
    (!number.is_empty() && number.chars().all(|c| c.is_ascii_digit())).then_some(Row {
        line,
        id,
        claim,
        shown,
    })
}

/// Every id is there, once, in order.
fn check_ids(rows: &[Row<'_>]) -> Vec<String> {
    let expected: Vec<String> = SOURCES
        .iter()
        .flat_map(|(letter, count)| (1..=*count).map(move |number| format!("{letter}{number}")))
        .collect();
    let mut findings = Vec::new();
    for id in &expected {
        let count = rows.iter().filter(|row| row.id == id).count();
        if count != 1 {
            findings.push(format!("{DOCUMENT}: {id} is there {count} times"));
        }
    }
    for row in rows.iter().filter(|row| !expected.iter().any(|id| id == row.id)) {
        findings.push(format!("{DOCUMENT}:{}: there is no requirement {}", row.line, row.id));
    }
    if findings.is_empty() {
        let misplaced = rows.iter().zip(&expected).find(|(row, id)| row.id != *id);
        findings.extend(misplaced.map(|(row, id)| {
            format!("{DOCUMENT}:{}: {} stands where {id} belongs", row.line, row.id)
        }));
    }
    findings
}

/// What is wrong with one row.
fn check_row(row: &Row<'_>, root: &Path) -> Vec<String> {
    let mut findings = Vec::new();
    let mut find = |what: String| findings.push(format!("{DOCUMENT}:{}: {what}", row.line));
    if row.claim.is_empty() {
        find(format!("{} claims nothing", row.id));
    }
    if row.shown.matches('`').count() % 2 == 1 {
        find(format!("{} has a backtick without a partner", row.id));
    }
    match row.standing() {
        Standing::Shown if row.evidence().next().is_none() => {
            find(format!("{} names neither a test nor a command, nor is it `Not yet`", row.id));
        }
        Standing::Shown if row.shown.contains("Not yet") => {
            find(format!("{} leaves something open, so it begins with `Partly`", row.id));
        }
        Standing::NotYet if !row.shown.starts_with("Not yet: ") => {
            find(format!("{} does not say what is missing", row.id));
        }
        Standing::Shown | Standing::Partly | Standing::NotYet => {}
    }
    for evidence in row.evidence() {
        if let Some(problem) = missing(&evidence, root) {
            find(format!("{}: {problem}", row.id));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::{Row, Standing, check_ids, check_row, rows};

    fn row(shown: &str) -> Row<'_> {
        Row { line: 7, id: "L1", claim: "c", shown }
    }

    /// Findings with the crate's own directory as root.
    fn found(shown: &str) -> Vec<String> {
        check_row(&row(shown), std::path::Path::new(env!("CARGO_MANIFEST_DIR")))
    }

    #[test]
    fn rows_are_told_from_headings_and_text() {
        let text = "# L1\n| id | claim | where |\n|---|---|---|\n| L1 | a | `b` or c|d |\ntext";
        let expected = Row { line: 4, id: "L1", claim: "a", shown: "`b` or c|d" };
        assert_eq!(rows(text), [expected]);
        assert!(rows("| L1 | a |\n| L | a | b |\n| Lx | a | b |").is_empty());
    }

    #[test]
    fn every_id_must_be_there_once_and_in_order() {
        let ids: Vec<String> = [("L", 9), ("H", 12), ("G", 11), ("M", 13), ("E", 25)]
            .iter()
            .flat_map(|(letter, count)| (1..=*count).map(move |n| format!("{letter}{n}")))
            .collect();
        let table =
            |ids: &[String]| ids.iter().map(|id| format!("| {id} | a | b |\n")).collect::<String>();
        let findings = |ids: &[String]| check_ids(&rows(&table(ids)));
        assert!(findings(&ids).is_empty());
        assert_eq!(findings(&ids[1..]), ["docs/REQUIREMENTS.md: L1 is there 0 times"]);
        let mut twice = ids.clone();
        twice.push("E25".into());
        assert_eq!(findings(&twice), ["docs/REQUIREMENTS.md: E25 is there 2 times"]);
        let mut unknown = ids.clone();
        unknown.push("E26".into());
        assert!(findings(&unknown)[0].contains("no requirement E26"));
        let mut swapped = ids;
        swapped.swap(0, 1);
        assert_eq!(findings(&swapped), ["docs/REQUIREMENTS.md:1: L2 stands where L1 belongs"]);
    }

    #[test]
    fn names_are_what_stands_in_backticks() {
        assert_eq!(row("`x` then `y.rs`").names().collect::<Vec<_>>(), ["x", "y.rs"]);
    }

    #[test]
    fn named_evidence_must_exist() {
        let this = "names_are_what_stands_in_backticks";
        assert!(found(&format!("`src/ci/requirements.rs::{this}`")).is_empty());
        assert_eq!(found("`src/ci/requirements.rs::gone`").len(), 1);
        assert_eq!(found("`src/ci/gone.rs::x`").len(), 1);
        assert_eq!(found("Partly: `src/gone.rs`").len(), 1);
        assert!(found("`cargo xtask durability`").is_empty());
        assert_eq!(found("`cargo xtask durable`").len(), 1);
        assert_eq!(found("`cargo xtask`").len(), 1);
    }

    #[test]
    fn a_row_says_either_where_or_what_is_missing() {
        assert_eq!(row("Partly: x").standing(), Standing::Partly);
        assert!(found("Not yet: no bench").is_empty());
        assert_eq!(found("Not yet").len(), 1);
        assert_eq!(found("somewhere").len(), 1);
        assert_eq!(found("`raftd demo`").len(), 1);
        assert_eq!(found("`cargo xtask ci`. Not yet: the rest").len(), 1);
        assert_eq!(found("Partly: `cargo xtask ci").len(), 1);
    }
}
