//! A few seeds in every test run; the sweeps are a command of their own.

use super::{Options, run};

fn seeds() -> std::ops::Range<u64> {
    let times = std::env::var("SIM_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(40);
    let first = std::env::var("SIM_FIRST").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(0);
    first..first + times
}

#[test]
fn seeds_hold_what_the_protocol_promises() {
    for seed in seeds() {
        let report = run(seed, &Options::default());
        if let Some(violation) = report.violation {
            if let Ok(count) = std::env::var("SIM_TRACE") {
                let trace_events = count.parse().unwrap_or(200);
                let again = run(seed, &Options { trace_events, ..Options::default() });
                for event in again.trace.last() {
                    println!("{event}");
                }
                for fault in again.faults {
                    println!("{fault}");
                }
            }
            panic!("seed {seed}: {violation}");
        }
    }
}

#[test]
fn a_seed_run_twice_gives_one_history() {
    for seed in [1, 7, 19] {
        let hashes = [run(seed, &Options::default()).hash, run(seed, &Options::default()).hash];
        assert_eq!(hashes[0], hashes[1], "seed {seed}");
    }
}
