//! Runs many seeds of the simulator's bytes profile and says what they found.
//!
//! `cargo run --release --example sim_bytes --features sim -- [first seed] [count] [what]`, where
//! what is `any` (the default), `calm`, `static`, `wide` or `trace` (one seed, its last events).

use std::collections::BTreeMap;
use std::time::Instant;

use raft_harness::sim::bytes::{Options, Size, Weather, run};

fn main() {
    let mut args = std::env::args().skip(1);
    let first: u64 = args.next().and_then(|arg| arg.parse().ok()).unwrap_or(1);
    let count: u64 = args.next().and_then(|arg| arg.parse().ok()).unwrap_or(100);
    let what = args.next().unwrap_or_else(|| "any".to_owned());
    let options = match what.as_str() {
        "calm" => Options { weather: Weather::Calm, ..Options::default() },
        "static" => Options { weather: Weather::StaticPartition, ..Options::default() },
        "static-trace" => {
            Options { weather: Weather::StaticPartition, trace: 100_000, ..Options::default() }
        }
        "wide" => Options { size: Size::Wide, ..Options::default() },
        "trace" => Options { trace: 2000, ..Options::default() },
        _ => Options::default(),
    };
    let began = Instant::now();
    let mut failed = 0;
    let (mut operations, mut unknown, mut events, mut virtual_us, mut promises) = (0, 0, 0, 0, 0);
    let mut faults: BTreeMap<&str, u64> = BTreeMap::new();
    let mut marks: BTreeMap<&str, u64> = BTreeMap::new();
    for seed in first..first + count {
        let report = run(seed, &options);
        operations += report.stats.operations;
        unknown += report.stats.unknown;
        events += report.stats.events;
        virtual_us += report.stats.virtual_us;
        promises += report.stats.promises;
        for (fault, times) in &report.stats.faults {
            *faults.entry(fault).or_default() += times;
        }
        for (mark, times) in &report.marks {
            *marks.entry(mark).or_default() += times;
        }
        if what.ends_with("trace") {
            println!("{:#?}", report.schedule);
            for line in &report.trace {
                let place = line.place.map_or_else(|| "-".to_owned(), |place| place.to_string());
                println!("{:>12} {place} {}", line.at, line.what);
            }
            println!("{:?}", report.stats);
        }
        if !report.violations.is_empty() {
            failed += 1;
            println!("seed {seed}: {} violations", report.violations.len());
            for violation in report.violations.iter().take(3) {
                println!("    {violation}");
            }
        }
        if what == "trace" {
            println!("seed {seed} hash {:016x}", report.trace_hash);
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    println!("{failed} of {count} seeds failed");
    println!(
        "{:.0} seeds per minute, {:.0} events and {:.0} virtual seconds per second",
        count as f64 * 60.0 / seconds,
        events as f64 / seconds,
        virtual_us as f64 / 1e6 / seconds,
    );
    println!("{operations} operations, {unknown} unknown, {promises} promises, {events} events");
    println!("faults: {faults:?}");
    println!("marks: {marks:?}");
}
