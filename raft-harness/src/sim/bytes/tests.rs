//! Whole runs.

use super::{Options, RunReport, Weather, run};

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
