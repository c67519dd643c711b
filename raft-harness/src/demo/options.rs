//! What the demo may be told.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

/// The read-back makes every value again, so they need not be larger to prove anything.
const VALUE_MAX: i64 = 1 << 20;

/// Runs a real cluster on this machine, kills nodes under load, and checks that nothing
/// acknowledged was lost.
#[derive(Args, Clone, Debug)]
pub(crate) struct DemoOptions {
    /// Nodes, each a `raftd serve` process of its own.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=9))]
    pub(crate) nodes: u64,
    /// Raft groups; the hash slots are divided over them.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=16_384))]
    pub(crate) groups: u32,
    /// How long the load runs; longer if a recovery takes longer.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(crate) seconds: u64,
    /// Clients, each with one write under way at a time.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) clients: u32,
    /// Bytes per value.
    #[arg(long, default_value_t = 256)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=VALUE_MAX))]
    pub(crate) value_size: u32,
    /// Keep the folder with the nodes' configuration, logs and data.
    #[arg(long)]
    pub(crate) keep: bool,
    /// Print one JSON object on standard output at the end; everything else goes to standard error.
    #[arg(long)]
    pub(crate) json: bool,
    /// Only start the cluster, print one JSON line with its addresses, and hold it until standard
    /// input closes.
    #[arg(long)]
    pub(crate) hold: bool,
    /// Wait so many milliseconds between killing all nodes and starting them again, so that
    /// somebody else can damage their files.
    #[arg(long, default_value_t = 0, value_name = "MS")]
    pub(crate) attack_pause_ms: u64,
    /// Use this folder, which must be empty or missing, and keep it.
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
}

impl DemoOptions {
    pub(super) fn duration(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }

    pub(super) fn attack_pause(&self) -> Duration {
        Duration::from_millis(self.attack_pause_ms)
    }

    /// How many nodes a quorum has.
    pub(super) fn quorum(&self) -> usize {
        self.nodes as usize / 2 + 1
    }
}
