//! Many seeds on many threads, and one report that does not depend on who was faster.
//!
//! A run belongs to one thread from its beginning to its end; threads only share the next seed.
//! Results are put together by seed, so a sweep over the same seeds tells the same, but for the
//! time it took.

#![allow(clippy::disallowed_methods, reason = "progress lines show the real rate; no run sees it")]

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::marks::{Mark, Marks};
use super::profile::RunReport;
use super::violation::Violation;

/// What to sweep.
#[derive(Clone, Debug)]
pub struct SweepOptions {
    /// Which seeds.
    pub seeds: Range<u64>,
    /// On how many threads; at least one.
    pub threads: usize,
    /// Stop once so many runs have failed. Seeds below the last failure kept are still finished,
    /// so that the first failures are the first.
    pub failures_max: usize,
    /// Begin no other seed after so long; what has begun is finished. `None` for all seeds.
    pub time_max: Option<Duration>,
    /// How often a line of progress is due. `None` for never.
    pub progress: Option<Duration>,
}

/// A run that failed.
#[derive(Clone, Debug)]
pub struct Failure {
    /// By which seed.
    pub seed: u64,
    /// For what.
    pub violation: Violation,
    /// The hash of its history, for the replay to be held against.
    pub hash: u128,
}

/// What a sweep tells.
#[derive(Clone, Debug)]
pub struct SweepReport {
    /// Runs that are counted here: all seeds, or all up to the last failure kept.
    pub runs: u64,
    /// Virtual time of all runs, in microseconds.
    pub virtual_us: u64,
    /// Steps that were checked.
    pub steps: u64,
    /// Client operations that were checked.
    pub operations: u64,
    /// Faults by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// Faults that were skipped, by kind.
    pub faults_skipped: BTreeMap<&'static str, u64>,
    /// Where the runs have been.
    pub marks: Marks,
    /// Marks that only the profile has, by name.
    pub own_marks: BTreeMap<&'static str, u64>,
    /// The first failures, by seed.
    pub failures: Vec<Failure>,
    /// All hashes in one, in the order of the seeds.
    pub hash: u128,
    /// How long it took.
    pub took: Duration,
}

impl SweepReport {
    /// Whether nothing failed.
    pub fn is_clean(&self) -> bool {
        self.failures.is_empty()
    }

    /// The report as text; `concerned` names the marks that the profile can reach.
    pub fn text(&self, concerned: impl Fn(Mark) -> bool) -> String {
        let mut text = format!("{self}{}", self.marks.report(concerned));
        for (mark, hits) in &self.own_marks {
            // Writing into a string does not fail.
            let _ = writeln!(text, "  {hits:>24} times  {mark}");
        }
        text
    }
}

impl fmt::Display for SweepReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} runs in {:.1} s ({}/min), {} failed; {} of virtual time, {} steps and {} \
             operations checked; hash {:032x}",
            self.runs,
            self.took.as_secs_f64(),
            per_minute(self.runs, self.took),
            self.failures.len(),
            hours(self.virtual_us),
            self.steps,
            self.operations,
            self.hash
        )?;
        f.write_str("faults:")?;
        for (kind, count) in &self.faults {
            write!(f, " {kind} {count}")?;
        }
        writeln!(f)?;
        if !self.faults_skipped.is_empty() {
            f.write_str("skipped:")?;
            for (kind, count) in &self.faults_skipped {
                write!(f, " {kind} {count}")?;
            }
            writeln!(f)?;
        }
        self.failures.iter().try_for_each(|failure| {
            writeln!(f, "FAILED seed {}: {}", failure.seed, failure.violation)
        })
    }
}

/// Runs every seed. `run` must be a function of the seed alone; `progress` gets a line now and
/// then.
pub fn sweep(
    options: &SweepOptions,
    run: impl Fn(u64) -> RunReport + Sync,
    progress: impl Fn(&str) + Sync,
) -> SweepReport {
    let shared = Shared::new(options);
    thread::scope(|scope| {
        for _ in 0..options.threads.max(1) {
            scope.spawn(|| shared.work(options, &run, &progress));
        }
    });
    shared.report(options)
}

struct Shared {
    next_seed: AtomicU64,
    /// Set by a thread whose run panicked, for the others to stop.
    abandoned: AtomicBool,
    begun: Instant,
    done: Mutex<Done>,
}

/// Merged as runs end; what depends on the order is kept by seed.
struct Done {
    /// Of the runs that are not merged yet, because an earlier seed still runs. Bounded by how
    /// far a thread can run ahead while another one is at its seed.
    waiting: BTreeMap<u64, RunReport>,
    next_merged: u64,
    total: SweepReport,
    finished: u64,
    failed: usize,
    told: Instant,
}

impl Shared {
    fn new(options: &SweepOptions) -> Self {
        let begun = Instant::now();
        Self {
            next_seed: AtomicU64::new(options.seeds.start),
            abandoned: AtomicBool::new(false),
            begun,
            done: Mutex::new(Done {
                waiting: BTreeMap::new(),
                next_merged: options.seeds.start,
                total: SweepReport {
                    runs: 0,
                    virtual_us: 0,
                    steps: 0,
                    operations: 0,
                    faults: BTreeMap::new(),
                    faults_skipped: BTreeMap::new(),
                    marks: Marks::none(),
                    own_marks: BTreeMap::new(),
                    failures: Vec::new(),
                    hash: 0,
                    took: Duration::ZERO,
                },
                finished: 0,
                failed: 0,
                told: begun,
            }),
        }
    }

    fn work(
        &self,
        options: &SweepOptions,
        run: &impl Fn(u64) -> RunReport,
        progress: &impl Fn(&str),
    ) {
        let abandon = Abandon(&self.abandoned);
        loop {
            // A seed that was taken is run whatever the time, or the later ones would wait for it.
            if options.time_max.is_some_and(|max| self.begun.elapsed() >= max) {
                break;
            }
            let seed = self.next_seed.fetch_add(1, Ordering::Relaxed);
            if seed >= options.seeds.end || self.abandoned.load(Ordering::Relaxed) {
                break;
            }
            let report = run(seed);
            let mut done = self.lock();
            done.finished += 1;
            done.failed += usize::from(report.violation.is_some());
            if done.failed >= options.failures_max {
                // Nobody begins another seed; those below are all begun and will end.
                self.next_seed.store(options.seeds.end, Ordering::Relaxed);
            }
            done.waiting.insert(seed, report);
            done.merge(options.failures_max);
            if let Some(line) = done.line(self.begun, options) {
                drop(done);
                progress(&line);
            }
        }
        abandon.disarm();
    }

    fn report(self, options: &SweepOptions) -> SweepReport {
        let took = self.begun.elapsed();
        let mut done = self.done.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
        done.merge(options.failures_max);
        SweepReport { took, ..done.total }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Done> {
        self.done.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Tells the other threads if this one unwinds.
struct Abandon<'a>(&'a AtomicBool);

impl Abandon<'_> {
    fn disarm(self) {
        std::mem::forget(self);
    }
}

impl Drop for Abandon<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Done {
    /// Merges the runs whose turn has come, up to the last failure to be kept: so that what is
    /// counted does not depend on how far other threads had come.
    fn merge(&mut self, failures_max: usize) {
        while self.total.failures.len() < failures_max.max(1) {
            let Some(report) = self.waiting.remove(&self.next_merged) else { break };
            let total = &mut self.total;
            total.runs += 1;
            total.virtual_us += report.virtual_us;
            total.steps += report.steps;
            total.operations += report.operations;
            for (kind, count) in report.faults {
                *total.faults.entry(kind).or_default() += count;
            }
            for (kind, count) in report.faults_skipped {
                *total.faults_skipped.entry(kind).or_default() += count;
            }
            total.marks.merge(&report.marks);
            for (mark, hits) in report.own_marks {
                *total.own_marks.entry(mark).or_default() += hits;
            }
            total.hash = total.hash.rotate_left(1) ^ report.hash;
            if let Some(violation) = report.violation {
                let seed = self.next_merged;
                total.failures.push(Failure { seed, violation, hash: report.hash });
            }
            self.next_merged += 1;
        }
    }

    fn line(&mut self, begun: Instant, options: &SweepOptions) -> Option<String> {
        let now = Instant::now();
        if now.duration_since(self.told) < options.progress? {
            return None;
        }
        self.told = now;
        let total = options.seeds.end - options.seeds.start;
        Some(format!(
            "{} of {total} runs, {}/min, {} of virtual time, {} faults, {} operations, {} failed{}",
            self.finished,
            per_minute(self.finished, now.duration_since(begun)),
            hours(self.total.virtual_us),
            self.total.faults.values().sum::<u64>(),
            self.total.operations,
            self.failed,
            seeds(&self.total.failures)
        ))
    }
}

/// Those that failed, for whoever does not want to wait for the end.
fn seeds(failures: &[Failure]) -> String {
    let mut text = String::new();
    for (at, failure) in failures.iter().enumerate() {
        text += if at == 0 { ": " } else { " " };
        text += &failure.seed.to_string();
    }
    text
}

fn per_minute(runs: u64, took: Duration) -> u64 {
    (u128::from(runs) * 60_000_000 / took.as_micros().max(1)) as u64
}

fn hours(virtual_us: u64) -> String {
    let tenths = virtual_us / 360_000_000;
    format!("{}.{} h", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::super::profile::Profile;
    use super::super::violation::Check;
    use super::*;

    fn options(threads: usize, failures_max: usize) -> SweepOptions {
        let progress = Some(Duration::ZERO);
        SweepOptions { seeds: 10..110, threads, failures_max, time_max: None, progress }
    }

    /// Fails at every seed that ends in 7.
    fn run(seed: u64) -> RunReport {
        let mut marks = Marks::new();
        marks.hit(Mark::LeaderElected);
        RunReport {
            virtual_us: 36_000_000,
            steps: 10,
            operations: seed,
            faults: BTreeMap::from([
                ("crash", 1),
                (if seed.is_multiple_of(2) { "cut" } else { "wipe" }, 2),
            ]),
            marks,
            hash: u128::from(seed) << 64 | 1,
            violation: (seed % 10 == 7)
                .then(|| Violation::of_run(Check::Profile("seven"), seed.to_string())),
            ..RunReport::nothing(Profile::Protocol, seed)
        }
    }

    #[test]
    fn every_seed_is_run_once_and_counted() {
        let counts = Mutex::new(BTreeMap::new());
        let report = sweep(
            &options(3, 1000),
            |seed| {
                *counts.lock().expect("no run panics").entry(seed).or_insert(0) += 1;
                run(seed)
            },
            |_| {},
        );
        let counts = counts.into_inner().expect("no run panics");
        assert!(counts.len() == 100 && counts.values().all(|count| *count == 1));
        assert_eq!((report.runs, report.steps), (100, 1000));
        assert_eq!(report.operations, (10..110).sum::<u64>());
        assert_eq!(report.faults, BTreeMap::from([("crash", 100), ("cut", 100), ("wipe", 100)]));
        let seeds: Vec<u64> = report.failures.iter().map(|failure| failure.seed).collect();
        assert_eq!(seeds, (10..110).filter(|seed| seed % 10 == 7).collect::<Vec<_>>());
        let text = report.text(|mark| mark == Mark::LeaderElected);
        assert!(text.contains("1.0 h of virtual time"), "{text}");
        assert!(text.contains("FAILED seed 17: seven: 17"), "{text}");
        assert!(!report.is_clean());
    }

    #[test]
    fn the_report_does_not_depend_on_the_number_of_threads() {
        for failures_max in [1, 3, 1000] {
            let reports = [1, 2, 5].map(|threads| {
                let report = sweep(&options(threads, failures_max), run, |_| {});
                (report.runs, report.hash, report.marks, report.failures.len(), report.operations)
            });
            assert_eq!(reports[0], reports[1], "{failures_max}");
            assert_eq!(reports[0], reports[2], "{failures_max}");
            assert_eq!(reports[0].3, failures_max.min(10));
        }
    }

    #[test]
    fn progress_is_told_when_it_is_due() {
        let lines = Mutex::new(Vec::new());
        let tell = |line: &str| lines.lock().expect("no teller panics").push(line.to_owned());
        sweep(&options(2, 1000), run, tell);
        let lines = lines.into_inner().expect("no teller panics");
        assert_eq!(lines.len(), 100);
        assert!(lines.iter().any(|line| line.starts_with("100 of 100 runs")), "{lines:?}");
        let quiet = SweepOptions { progress: None, ..options(2, 1000) };
        sweep(&quiet, run, |line| panic!("{line}"));
    }

    #[test]
    fn no_seed_begins_after_the_time_is_up() {
        let options = SweepOptions { time_max: Some(Duration::ZERO), ..options(2, 1000) };
        assert_eq!(sweep(&options, run, |_| {}).runs, 0);
    }

    #[test]
    fn a_run_that_panics_ends_the_sweep() {
        let caught = std::panic::catch_unwind(|| {
            sweep(
                &options(2, 1000),
                |seed| if seed == 30 { panic!("at 30") } else { run(seed) },
                |_| {},
            )
        });
        assert!(caught.is_err());
    }
}
