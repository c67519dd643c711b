//! What must not grow: the last third of a run is held against the middle one.
//!
//! The first third is for filling up. Sizes go up and down with checkpoints and snapshots, so means of
//! thirds are compared, and a slack allows for one such swing.

use std::time::Duration;

use super::readings::{NodeReading, Sample};

/// A third with fewer samples says nothing.
pub(super) const SAMPLES_MIN: usize = 6;
/// By how much a mean may be above that of the third before.
const GROWTH: f64 = 1.10;
/// And so much, whatever the mean is.
const LOG_SLACK: f64 = (16 << 20) as f64;
const MEMORY_SLACK: f64 = (16 << 20) as f64;
const DESCRIPTORS_SLACK: f64 = 16.0;
/// By how much the median of a third's latencies may be above the one before. A disk that got slower
/// by itself, as a raw sync beside the nodes tells, allows for that factor more.
const P50_GROWTH: f64 = 2.0;
const P99_GROWTH: f64 = 3.0;
/// And so much, in milliseconds.
const P50_SLACK_MS: f64 = 1.0;
const P99_SLACK_MS: f64 = 10.0;

/// One quantity that is watched.
pub(super) struct Line {
    pub(super) what: String,
    /// Of the middle third and of the last one.
    pub(super) middle: f64,
    pub(super) last: f64,
    /// What the last may be.
    pub(super) bound: f64,
    /// How it is printed.
    pub(super) unit: Unit,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Unit {
    Mebibytes,
    Count,
    Milliseconds,
}

impl Line {
    pub(super) fn holds(&self) -> bool {
        self.last <= self.bound
    }

    pub(super) fn show(&self, value: f64) -> String {
        match self.unit {
            Unit::Mebibytes => format!("{:.1} MiB", value / f64::from(1 << 20)),
            Unit::Count => format!("{value:.0}"),
            Unit::Milliseconds => format!("{value:.2} ms"),
        }
    }
}

/// Everything that is watched; `None` if the run was too short.
pub(super) fn judge(samples: &[Sample]) -> Option<Vec<Line>> {
    let third = samples.len() / 3;
    if third < SAMPLES_MIN {
        return None;
    }
    let (middle, last) =
        (&samples[third..samples.len() - third], &samples[samples.len() - third..]);
    let mut lines = Vec::new();
    for node in 0..samples[0].nodes.len() {
        let mut line = |what: &str, value: fn(&NodeReading) -> u64, slack: f64, unit: Unit| {
            let mean = |part: &[Sample]| {
                let sum: f64 = part.iter().map(|sample| value(&sample.nodes[node]) as f64).sum();
                sum / part.len() as f64
            };
            let (middle, last) = (mean(middle), mean(last));
            let bound = middle * GROWTH + slack;
            lines.push(Line {
                what: format!("node {}: {what}", node + 1),
                middle,
                last,
                bound,
                unit,
            });
        };
        line("log on disk", |node| node.log_bytes, LOG_SLACK, Unit::Mebibytes);
        line("snapshots on disk", |node| node.snapshot_bytes, LOG_SLACK, Unit::Mebibytes);
        line("memory", |node| node.memory_bytes, MEMORY_SLACK, Unit::Mebibytes);
        line("descriptors", |node| node.descriptors, DESCRIPTORS_SLACK, Unit::Count);
    }
    let raw = |part: &[Sample]| median(part, |sample| sample.raw_sync);
    let disk = (raw(last) / raw(middle).max(f64::EPSILON)).max(1.0);
    let mut line = |what: &str, value: fn(&Sample) -> Duration, (factor, slack): (f64, f64)| {
        let (middle, last) = (median(middle, value), median(last, value));
        let bound = middle * factor * disk + slack;
        lines.push(Line { what: what.to_owned(), middle, last, bound, unit: Unit::Milliseconds });
    };
    line("writes, p50", |sample| sample.p50, (P50_GROWTH, P50_SLACK_MS));
    line("writes, p99", |sample| sample.p99, (P99_GROWTH, P99_SLACK_MS));
    line("a raw sync, for comparison", |sample| sample.raw_sync, (f64::INFINITY, 0.0));
    Some(lines)
}

/// In milliseconds.
fn median(part: &[Sample], value: fn(&Sample) -> Duration) -> f64 {
    let mut values: Vec<Duration> = part.iter().map(value).collect();
    values.sort_unstable();
    values[values.len() / 2].as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{NodeReading, Sample, judge};

    /// A run of 30 samples; `change` makes of the number of a sample what is wrong with it.
    fn run(change: impl Fn(u64, &mut Sample)) -> Vec<String> {
        let samples: Vec<Sample> = (0..30)
            .map(|n| {
                let node = NodeReading {
                    log_bytes: (100 << 20) + (n % 3) * (4 << 20),
                    snapshot_bytes: 10 << 20,
                    memory_bytes: 200 << 20,
                    descriptors: 90,
                };
                let mut sample = Sample {
                    at: Duration::from_secs(10 * n),
                    nodes: vec![node; 3],
                    p50: Duration::from_millis(2),
                    p99: Duration::from_millis(9),
                    per_second: 500.0,
                    raw_sync: Duration::from_micros(700),
                };
                change(n, &mut sample);
                sample
            })
            .collect();
        let lines = judge(&samples).unwrap();
        lines.iter().filter(|line| !line.holds()).map(|line| line.what.clone()).collect()
    }

    #[test]
    fn what_grows_is_named_and_what_swings_is_not() {
        assert!(run(|_, _| {}).is_empty());
        let found = run(|n, sample| sample.nodes[1].log_bytes += n * (4 << 20));
        assert_eq!(found, ["node 2: log on disk"]);
        let found = run(|n, sample| sample.nodes[0].memory_bytes += n * (5 << 20));
        assert_eq!(found, ["node 1: memory"]);
        let found = run(|n, sample| sample.nodes[2].descriptors += 4 * n);
        assert_eq!(found, ["node 3: descriptors"]);
        let filling = run(|n, sample| sample.nodes[0].log_bytes -= (10 - n.min(10)) * (9 << 20));
        assert!(filling.is_empty());
    }

    #[test]
    fn latency_that_steps_up_is_named_unless_the_disk_did() {
        let slow = |n: u64, sample: &mut Sample| {
            if n >= 20 {
                sample.p50 *= 4;
            }
        };
        assert_eq!(run(slow), ["writes, p50"]);
        let disk = |n: u64, sample: &mut Sample| {
            slow(n, sample);
            if n >= 20 {
                sample.raw_sync *= 3;
            }
        };
        assert!(run(disk).is_empty());
    }

    #[test]
    fn a_short_run_says_nothing() {
        assert!(judge(&[]).is_none());
    }
}
