//! Whole runs.

use super::{
    Fault, Options, PlannedFault, Power, RunReport, Size, Weather, concerns, draw, run, run_case,
};
use crate::sim::case::Case;
use crate::sim::marks::{Mark, Marks};
use crate::sim::schedule::Schedule;

fn clean(seed: u64, options: &Options) -> RunReport {
    let report = run(seed, options);
    let violations: Vec<String> = report.violations.iter().map(ToString::to_string).collect();
    assert!(violations.is_empty(), "seed {seed} with {options:?}: {violations:#?}");
    report
}

#[test]
fn a_calm_cluster_serves_and_repeats_itself() {
    let options =
        Options { weather: Weather::Calm, faults_s: 6, healing_s: 20, ..Options::default() };
    let report = clean(1, &options);
    assert!(report.stats.operations > 20, "{:?}", report.stats);
    assert_eq!(report.stats.unknown, 0);
    let again = run(1, &options);
    assert_eq!(report.trace_hash, again.trace_hash);
    assert_eq!(report.stats.events, again.stats.events);
    assert_ne!(report.trace_hash, run(2, &options).trace_hash);
}

#[test]
fn a_stormy_run_repeats_itself_and_its_schedule_says_it_all() {
    let options = Options { faults_s: 15, healing_s: 20, ..Options::default() };
    let report = clean(3, &options);
    assert!(report.stats.faults.values().sum::<u64>() > 3, "{:?}", report.stats);
    // Words for people change nothing, and neither does giving the faults instead of drawing them.
    let schedule = Some(report.schedule.clone());
    let again = run(3, &Options { trace: 100, schedule, ..options });
    assert_eq!(report.trace_hash, again.trace_hash);
    assert_eq!(again.trace.len(), 100);
}

#[test]
fn seeds_are_clean_and_reach_what_they_should() {
    let mut marks = std::collections::BTreeSet::new();
    for seed in 15..43 {
        let options = Options { faults_s: 15, healing_s: 20, ..Options::default() };
        marks.extend(clean(seed, &options).marks.into_keys());
    }
    for mark in ["segment-changed", "log-read-back", "connection-reset", "sector-lost"] {
        assert!(marks.contains(mark), "{mark} of {marks:?}");
    }
}

#[test]
fn members_and_snapshots_come_and_go_while_everything_else_fails() {
    let seen: Vec<Marks> = (40..48).map(|seed| clean(seed, &Options::default()).seen).collect();
    let sum = |mark: Mark| seen.iter().map(|marks| marks.hits(mark)).sum::<u64>();
    for mark in [
        Mark::LearnerAdded,
        Mark::LearnerPromoted,
        Mark::ReplicaDeleted,
        Mark::SnapshotSent,
        Mark::SnapshotInstalled,
        Mark::LaneKilled,
        Mark::FrameCut,
    ] {
        assert!(sum(mark) > 0, "{}", mark.text());
        assert!(concerns(mark));
    }
}

/// A bit that flips on the wire ends its connection and nothing else.
#[test]
fn flipped_bits_reach_nobody() {
    let garble = |at| PlannedFault { at, lasts: 1, draw: at ^ 0x5DEECE66D, fault: Fault::Garble };
    for seed in 60..63 {
        let schedule = Some((30..120).map(|tenth| garble(tenth * 100_000)).collect());
        let options = Options { schedule, faults_s: 13, healing_s: 20, ..Options::default() };
        let report = clean(seed, &options);
        let flipped = report.marks.get("bit-flipped-on-the-wire").copied().unwrap_or(0);
        assert!(flipped > 30, "{flipped}");
    }
}

/// What a failure saves is the run that failed.
#[test]
fn a_case_that_is_written_down_is_the_same_run() {
    for seed in [11, 41] {
        let case = draw(seed);
        let again = Case::parse(&case.to_string()).expect("it was written by a case");
        let (run, replay) = (run_case(&case, 0), run_case(&again, 50));
        assert_eq!(run.violation, None, "seed {seed}");
        assert_eq!(run.hash, replay.hash, "seed {seed}");
        let fewer = case.schedule.faults().iter().skip(3).cloned().collect();
        let fewer = Case { schedule: Schedule::new(fewer), ..case };
        let again = Case::parse(&fewer.to_string()).expect("it was written by a case");
        let (run, replay) = (run_case(&fewer, 0), run_case(&again, 0));
        assert_eq!((run.violation, run.hash), (None, replay.hash), "seed {seed}");
    }
}

#[test]
fn a_majority_that_stays_connected_serves() {
    for seed in 1..4 {
        let options = Options { weather: Weather::StaticPartition, ..Options::default() };
        clean(seed, &options);
    }
}

#[test]
fn many_groups_on_few_or_many_nodes() {
    let options = Options { size: Size::Wide, faults_s: 8, healing_s: 20, ..Options::default() };
    clean(2, &options);
}

#[test]
fn the_power_of_all_machines_fails_at_once_and_again() {
    let cut = |at| PlannedFault {
        at,
        lasts: 400_000,
        draw: at,
        fault: Fault::CrashAll { within_us: 0, power: Power::Fails },
    };
    for seed in 1..4 {
        let schedule = Some((4..12).map(|second| cut(second * 1_000_000)).collect());
        let options = Options { schedule, faults_s: 13, healing_s: 20, ..Options::default() };
        let report = clean(seed, &options);
        assert_eq!(report.stats.faults.get("storm"), Some(&8));
    }
}
