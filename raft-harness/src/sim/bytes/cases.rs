//! Cases of this profile: which of its own faults a run keeps, and for how long it lasts.
//!
//! The faults of this profile speak of connections and sectors and are planned from the seed, so a
//! schedule names them by their places in that plan. Leaving lines out is all that can be done to
//! them.

use super::{Options, Size, Weather, faults, run, swarm::Swarm};
use crate::sim::case::Case;
use crate::sim::panics;
use crate::sim::profile::{Profile, RunReport};
use crate::sim::rng::{Streams, mix};
use crate::sim::schedule::{Fault, FaultKind, Schedule};
use crate::sim::trace::{EventKind, Happened, Trace};
use crate::sim::violation::Violation;
use raft_core::{Micros, NodeId};

/// A tenth of the seeds have many groups, a tenth live with one partition that never heals, and
/// one in twenty lives long and quietly, for what shows only by and by.
fn options(seed: u64) -> Options {
    let default = Options::default();
    Options {
        faults_s: if seed % 20 == 6 { LONG_S } else { default.faults_s },
        size: if seed % 10 == 8 { Size::Wide } else { Size::Small },
        weather: if seed % 10 == 9 { Weather::StaticPartition } else { Weather::Any },
        ..default
    }
}

/// How long the faults of a long run last, in virtual seconds.
const LONG_S: u64 = 200;

/// The case of a seed, with everything it plans.
pub(crate) fn draw(seed: u64) -> Case {
    let options = options(seed);
    let streams = Streams::new(seed);
    let plan = faults::draw(streams, &Swarm::draw(streams, &options), &options);
    let planned = plan.iter().enumerate().map(|(index, planned)| Fault {
        at_us: planned.at,
        lasts_us: planned.lasts,
        kind: FaultKind::Planned { index: index as u32 },
    });
    let mut case = Case { profile: Profile::Bytes, ..Case::draw(seed) };
    case.schedule = Schedule::new(planned.collect());
    case.swarm.faults_us = options.faults_s * 1_000_000;
    case.swarm.healing_us = options.healing_s * 1_000_000;
    case
}

/// Runs a case.
pub(crate) fn run_case(case: &Case, kept_max: usize) -> RunReport {
    let mut report = RunReport::nothing(Profile::Bytes, case.seed);
    let mut options = options(case.seed);
    let streams = Streams::new(case.seed);
    let plan = faults::draw(streams, &Swarm::draw(streams, &options), &options);
    let kept = case.schedule.faults().iter().filter_map(|fault| match fault.kind {
        FaultKind::Planned { index } => {
            let planned = plan.get(index as usize)?.clone();
            Some(super::PlannedFault { at: fault.at_us, lasts: fault.lasts_us, ..planned })
        }
        _ => None,
    });
    options.schedule = Some(kept.collect());
    options.faults_s = case.swarm.faults_us.div_ceil(1_000_000);
    options.healing_s = case.swarm.healing_us.div_ceil(1_000_000);
    options.trace = kept_max;
    let lived = match panics::caught(|| run(case.seed, &options)) {
        Ok(lived) => lived,
        Err(panic) => return RunReport { violation: Some(panic), ..report },
    };
    report.hash = u128::from(lived.trace_hash);
    report.violation = lived.violations.into_iter().next();
    report.marks = lived.seen;
    report.own_marks = lived.marks;
    report.faults = lived.stats.faults;
    report.operations = lived.stats.operations;
    report.steps = lived.stats.promises;
    report.events = lived.stats.events;
    report.virtual_us = lived.stats.virtual_us;
    report.trace = trace(&lived.trace, kept_max, report.violation.as_ref());
    report
}

/// The lines this profile keeps, as events; what is nobody's own is the world's, node 0.
fn trace(lines: &[super::TraceLine], kept_max: usize, violation: Option<&Violation>) -> Trace {
    let mut trace = Trace::keeping(kept_max);
    for line in lines {
        let node = NodeId::new(line.place.map_or(0, |place| place as u64 + 1));
        let happened = Happened {
            at: Micros::new(line.at),
            node,
            group: None,
            kind: EventKind::Process,
            link: None,
            digest: mix(line.at),
        };
        trace.event(happened, || line.what.clone());
    }
    if let (Some(violation), Some(last)) = (violation, lines.last()) {
        let happened = Happened {
            at: Micros::new(last.at),
            node: NodeId::new(0),
            group: violation.group,
            kind: EventKind::Violation,
            link: None,
            digest: 0,
        };
        trace.event(happened, || violation.to_string());
    }
    trace
}
