//! What is seen of three nodes and their load at a moment, from outside.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// One node at a moment.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct NodeReading {
    /// All files of the log and its checkpoints.
    pub(super) log_bytes: u64,
    /// Those of snapshots.
    pub(super) snapshot_bytes: u64,
    /// Resident memory.
    pub(super) memory_bytes: u64,
    /// Open descriptors.
    pub(super) descriptors: u64,
}

/// All of it at a moment.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    pub(super) at: Duration,
    pub(super) nodes: Vec<NodeReading>,
    /// Of the writes that ended since the sample before.
    pub(super) p50: Duration,
    pub(super) p99: Duration,
    /// Acknowledged since the sample before, per second.
    pub(super) per_second: f64,
    /// What one small synced write beside the nodes takes: how the disk is.
    pub(super) raw_sync: Duration,
}

impl NodeReading {
    /// Reads what the system tells of a process and of its data directory.
    pub(super) fn take(pid: u32, data: &Path) -> Result<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let resident = resident.context("no VmRSS")?.trim().trim_end_matches("kB").trim();
        Ok(Self {
            log_bytes: bytes_of(data, |name| {
                name.ends_with(".seg") || name.starts_with("checkpoint-")
            })?,
            snapshot_bytes: bytes_of(&data.join("snapshots"), |_| true).unwrap_or(0),
            memory_bytes: resident.parse::<u64>()? << 10,
            descriptors: fs::read_dir(format!("/proc/{pid}/fd"))?.count() as u64,
        })
    }
}

fn bytes_of(directory: &Path, wanted: impl Fn(&str) -> bool) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(&wanted) {
            // It may just have been removed.
            bytes += entry.metadata().map_or(0, |metadata| metadata.len());
        }
    }
    Ok(bytes)
}

/// The value below which so many hundredths of all lie; zero of none.
pub(super) fn percentile(values: &mut [Duration], hundredths: usize) -> Duration {
    values.sort_unstable();
    let at = (values.len() * hundredths / 100).min(values.len().saturating_sub(1));
    values.get(at).copied().unwrap_or_default()
}

/// The median of a few small writes, each followed by `fdatasync`.
pub(super) fn raw_sync(file: &Path) -> Result<Duration> {
    const WRITES: usize = 9;
    let mut file = fs::File::create(file)?;
    let mut times = Vec::new();
    for _ in 0..WRITES {
        let begun = Instant::now();
        file.write_all(&[7; 4096])?;
        file.sync_data()?;
        times.push(begun.elapsed());
    }
    Ok(percentile(&mut times, 50))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::percentile;

    #[test]
    fn percentiles_are_values_that_were_there() {
        let mut values: Vec<Duration> = (1..=100).rev().map(Duration::from_millis).collect();
        assert_eq!(percentile(&mut values, 50), Duration::from_millis(51));
        assert_eq!(percentile(&mut values, 99), Duration::from_millis(100));
        assert_eq!(percentile(&mut values[..1], 99), Duration::from_millis(1));
        assert_eq!(percentile(&mut [], 50), Duration::ZERO);
    }
}
