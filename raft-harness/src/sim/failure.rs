//! A failed run as a person wants it: made small, with the words to repeat it and what happened
//! last.
//!
//! A run counts as failed in the same way if the same check fails it. The case is shrunk first and
//! then run once more with its events kept in words; only that run pays for them.

use std::fmt::{self, Write};

use raft_core::NodeId;

use super::case::Case;
use super::diagram;
use super::profile::RunReport;
use super::shrink::{ShrinkEnd, Shrunk};
use super::trace::Event;
use super::violation::Violation;
use crate::sim::schedule::Fault;

/// Rows of the diagram in text; the whole of what was kept is in the SVG.
const DIAGRAM_ROWS_MAX: usize = 60;
/// Events listed of each node.
const LISTED_MAX: usize = 12;

/// How much a report may cost.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Effort {
    /// Runs to shrink the case with.
    pub attempts_max: u32,
    /// Events to keep of each node.
    pub kept_max: usize,
}

/// Everything there is to say about a failed run.
#[derive(Debug)]
pub struct FailureReport {
    /// As it was found.
    pub found: Case,
    /// What it failed for when it was found.
    pub violation: Violation,
    /// The smallest case that fails by the same check.
    pub small: Case,
    /// What shrinking came to.
    pub shrunk: Shrunk<Fault>,
    /// The last run of the small case, with its events.
    pub run: RunReport,
}

impl FailureReport {
    /// Shrinks a failed case and looks at it once more.
    pub fn of(found: Case, violation: Violation, effort: Effort) -> Self {
        let profile = found.profile;
        let fails = |case: &Case| {
            let failed = profile.run(case, 0).violation;
            failed.is_some_and(|failed| failed.check == violation.check)
        };
        let (small, shrunk) = found.shrink(effort.attempts_max, fails);
        let run = profile.run(&small, effort.kept_max);
        Self { found, violation, small, shrunk, run }
    }

    /// The small case as a text to save, with its profile and what it fails for.
    pub fn case_text(&self) -> String {
        let reason = self.run.violation.as_ref().map_or("nothing any more", Violation::id);
        format!("# It fails for {reason}.\n{}", self.small)
    }

    /// The diagram of all events that were kept.
    pub fn svg(&self) -> String {
        diagram::svg(&self.run.trace.last())
    }

    fn shrinking(&self) -> String {
        let (left, all) = (self.small.schedule.faults().len(), self.found.schedule.faults().len());
        let end = match self.shrunk.end {
            ShrinkEnd::Minimal => "nothing more can be left out",
            ShrinkEnd::OutOfAttempts => "there may be less",
        };
        format!("{left} of {all} faults are left after {} runs; {end}", self.shrunk.attempts)
    }
}

impl fmt::Display for FailureReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "FAILED {} seed {}: {}", self.found.profile, self.found.seed, self.violation)?;
        writeln!(
            f,
            "repeat: raft-sim --profile {} --seed {}",
            self.found.profile, self.found.seed
        )?;
        match &self.run.violation {
            Some(violation) => writeln!(f, "\nshrunk: {}\n{violation}", self.shrinking())?,
            None => writeln!(
                f,
                "\nIt did not fail again: the run is not a function of its seed, which is a bug \
                 of the simulator."
            )?,
        }
        writeln!(f, "\n{}", self.small)?;
        f.write_str(&events(&self.run))
    }
}

/// The last events of each node, and all of them as a diagram.
pub fn events(run: &RunReport) -> String {
    let mut text = String::new();
    let all = run.trace.last();
    let mut nodes: Vec<NodeId> = all.iter().map(|event| event.node).collect();
    nodes.sort_unstable();
    nodes.dedup();
    for node in nodes {
        let events: Vec<&Event> = run.trace.last_of(node).collect();
        // Writing into a string does not fail.
        let _ = writeln!(text, "last of {node:?}:");
        for event in &events[events.len().saturating_sub(LISTED_MAX)..] {
            let _ = writeln!(text, "  {event}");
        }
    }
    let rows = &all[all.len().saturating_sub(DIAGRAM_ROWS_MAX)..];
    let _ = writeln!(text, "\n{}", diagram::text(rows));
    text
}
