//! Step `field`: what was once found broken from outside is mended on real nodes.

use anyhow::Result;

use super::Report;
use super::demo::raftd;
use crate::cargo::Workspace;
use crate::checks::Verdict;
use crate::field;

pub(super) fn run(workspace: &Workspace) -> Result<Report> {
    let raftd = match raftd(workspace)? {
        Ok(raftd) => raftd,
        Err(finished) => return Ok(Report::failed("does not build", finished.evidence())),
    };
    let tally = field::run_untimed(workspace, &raftd)?;
    let (passed, skipped) = (tally.count(Verdict::Passed), tally.count(Verdict::Skipped));
    if tally.count(Verdict::Failed) > 0 {
        let note = format!("{} failed", tally.count(Verdict::Failed));
        return Ok(Report::failed(note, tally.evidence.join("\n\n")));
    }
    let mut report = Report::passed(format!("{passed} scenes"));
    if skipped > 0 {
        report.skipped_parts.push(format!("{skipped} scenes; `cargo xtask field` tells which"));
    }
    Ok(report)
}
