//! `cargo xtask interop`: stock Redis clients against a cluster of ours.
//!
//! A protocol is compatible when programs that never heard of us work unmodified. So nothing here
//! speaks RESP itself: every byte the server answers is judged by somebody else's client, and the
//! number of commands applied is read from the server's status page, a third party to both.
//!
//! Invariant: a client that is missing is SKIPPED and says how to install it, never passed.

use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::cargo::{Workspace, build};
use crate::job::available;
use crate::table;

mod libraries;
mod redis_benchmark;
mod redis_cli;
mod server;

use server::Server;

/// Nothing a client does here but the benchmark takes longer than this on a healthy server.
const LIMIT: Duration = Duration::from_secs(60);

/// One line of the result.
struct Check {
    client: &'static str,
    what: String,
    verdict: Verdict,
    /// A few words for the table.
    note: String,
    /// What went wrong, in full.
    evidence: Option<String>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Verdict {
    Passed,
    Failed,
    Skipped,
}

impl Check {
    /// `Ok` carries a note for the table, `Err` what went wrong.
    fn new(client: &'static str, what: impl Into<String>, result: Result<String>) -> Self {
        let (verdict, note, evidence) = match result {
            Ok(note) => (Verdict::Passed, note, None),
            Err(error) => {
                let evidence = format!("{error:#}");
                (Verdict::Failed, gist(&evidence).to_owned(), Some(evidence))
            }
        };
        let what = what.into();
        Self { client, what, verdict, note, evidence }
    }

    fn skipped(client: &'static str, what: impl Into<String>, install: &str) -> Self {
        let note = format!("install with {install}");
        Self { client, what: what.into(), verdict: Verdict::Skipped, note, evidence: None }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::Skipped => "SKIPPED",
        })
    }
}

pub(crate) fn run(arguments: &[String]) -> Result<ExitCode> {
    let workspace = Workspace::load()?;
    let raftd = match arguments {
        [] => build_raftd(&workspace)?,
        [option, path] if option == "--raftd" => path.into(),
        _ => bail!("usage: cargo xtask interop [--raftd <binary>]"),
    };
    let log = workspace.target_directory.join("xtask/interop.log");
    let server = Server::start(&raftd, &log)?;
    let checks = check_all(server);
    for check in &checks {
        // A single line stands in the table already.
        if let Some(evidence) = check.evidence.as_ref().filter(|text| **text != check.note) {
            println!("{}, {}:\n{evidence}\n", check.client, check.what);
        }
    }
    let rows: Vec<_> = checks
        .iter()
        .map(|check| {
            let (what, verdict) = (check.what.clone(), check.verdict.to_string());
            [check.client.to_owned(), what, verdict, check.note.clone()]
        })
        .collect();
    println!("{}", table::render(["client", "what", "result", "note"], &rows));
    let count = |verdict| checks.iter().filter(|check| check.verdict == verdict).count();
    let failed = count(Verdict::Failed);
    println!("\n{} passed, {failed} failed", count(Verdict::Passed));
    if failed == 0 {
        return Ok(ExitCode::SUCCESS);
    }
    println!("the server's log is {}", log.display());
    Ok(ExitCode::FAILURE)
}

/// The line of a failure that most likely names it. Programs that fail say why at the end; the
/// exit status stands after that in parentheses, and tells more only if we ended the program.
fn gist(evidence: &str) -> &str {
    let mut lines = evidence.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.rfind(|line| !line.starts_with("(exit")).unwrap_or(evidence)
}

fn build_raftd(workspace: &Workspace) -> Result<PathBuf> {
    println!("building raftd");
    let arguments = ["build", "--release", "-p", "raft-harness", "--all-features", "--bins"];
    let built = match build(workspace.cargo(arguments))? {
        Ok(built) => built,
        Err(finished) => bail!("raftd does not build:\n{}", finished.evidence()),
    };
    let raftd = built.into_iter().find(|built| built.name == "raftd");
    Ok(raftd.context("the workspace has no binary `raftd`")?.path)
}

fn check_all(server: Server) -> Vec<Check> {
    let mut checks = Vec::new();
    if available("redis-cli", &["--version"]) {
        checks.extend(redis_cli::plain(&server));
        checks.extend(redis_cli::cluster(&server));
        checks.push(redis_cli::cluster_check(&server));
    } else {
        checks.push(Check::skipped("redis-cli", "everything", "apt install redis-tools"));
    }
    if available("redis-benchmark", &["--version"]) {
        checks.push(redis_benchmark::every_set_is_applied_once(&server));
    } else {
        checks.push(Check::skipped("redis-benchmark", "everything", "apt install redis-tools"));
    }
    checks.extend(libraries::all(&server));
    checks.push(Check::new("-", "raftd stops when told, exit code 0", server.stop()));
    checks
}

#[cfg(test)]
mod tests {
    use super::gist;

    #[test]
    fn the_gist_of_a_failure_is_its_last_line_but_the_status() {
        assert_eq!(gist("trace\n  at x\nNoSuchKey: y\n\n(exit status: 1)"), "NoSuchKey: y");
        assert_eq!(gist("one line"), "one line");
        assert_eq!(gist("(exit status: 1)"), "(exit status: 1)");
    }
}
