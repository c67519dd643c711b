//! A cluster whose groups count what is written, and its end by SIGKILL, again and again.
//!
//! A killed process leaves the page cache behind, so nothing that was acknowledged may be gone, however
//! much of it no disk had: entries wait for their sync as long as they may here, and far longer than a
//! round takes.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::admin;
use super::cluster::{Cluster, Layout};
use super::load::{Findings, Load, Writes, read_back};
use super::resp::{Client, Reply};
use crate::checks::Setting;

const NODES: usize = 3;
const GROUPS: u32 = 4;
const CLIENTS: usize = 4;
/// How long clients write before the nodes are killed, counted from their first acknowledgement.
const ROUND: Duration = Duration::from_millis(250);
/// Longest a cluster may take until it serves after a kill of all nodes.
const SERVE_LIMIT: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(5);
/// So long entries may wait for their sync: longer than a round.
const FLUSH_MS: u64 = 400;

/// A directory in memory that goes with this value.
pub(crate) struct InMemory(PathBuf);

impl InMemory {
    /// `None`: this machine has none.
    pub(crate) fn new() -> Option<Self> {
        let path = PathBuf::from(format!("/dev/shm/raft-xtask-{}", std::process::id()));
        fs::create_dir_all(&path).ok()?;
        Some(Self(path))
    }

    /// Takes back whatever is in it: what lost power does to the memory of a machine.
    pub(crate) fn forget(&self) -> Result<()> {
        for entry in fs::read_dir(&self.0)? {
            fs::remove_file(entry?.path())?;
        }
        Ok(())
    }
}

impl Drop for InMemory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Three nodes whose words lie there.
pub(crate) struct MemFirst {
    pub(crate) cluster: Cluster,
    rounds: u32,
}

impl MemFirst {
    pub(crate) fn prepare(setting: &Setting, words: &InMemory) -> Result<Self> {
        let data: Vec<PathBuf> =
            (1..=NODES).map(|id| setting.directory.join(format!("data-{id}"))).collect();
        let extra = configuration(&words.0);
        let mut layout = Layout::new(&setting.raftd, &setting.directory, &data, GROUPS);
        layout.extra = &extra;
        Ok(Self { cluster: Cluster::prepare(&layout)?, rounds: 0 })
    }

    /// All nodes come up, take writes and are killed at once. Says what was written, and how many
    /// bytes of it no disk had just before.
    pub(crate) fn round(&mut self) -> Result<(Vec<Writes>, u64)> {
        self.rounds += 1;
        self.cluster.start_all()?;
        let load = Load::start(&self.cluster.proxies(), CLIENTS, &format!("r{}", self.rounds));
        self.wait("no write is acknowledged", |_| load.acked() > 0)?;
        thread::sleep(ROUND);
        let lag = (0..NODES).map(|index| self.lag(index)).max().unwrap_or(0);
        self.cluster.kill_all();
        Ok((load.stop(), lag))
    }

    /// Bytes that are written and on no disk, of all groups of a node.
    fn lag(&self, index: usize) -> u64 {
        let status = admin::status(self.cluster.ports(index).admin);
        let groups = status.ok().and_then(|status| status["groups"].as_array().cloned());
        let lags = groups.into_iter().flatten().filter_map(|g| g["flush_lag_bytes"].as_u64());
        lags.sum()
    }

    /// Waits until it is so.
    pub(crate) fn wait(&mut self, what: &str, is_so: impl Fn(&Cluster) -> bool) -> Result<()> {
        let deadline = std::time::Instant::now() + SERVE_LIMIT;
        while !is_so(&self.cluster) {
            if let Some((_, last_words)) = self.cluster.ended().into_iter().next() {
                anyhow::bail!("{last_words}");
            }
            ensure!(std::time::Instant::now() < deadline, "{what} in {SERVE_LIMIT:?}");
            thread::sleep(POLL);
        }
        Ok(())
    }
}

/// Kills all nodes so often, and reads everything back after each time; the last time once more.
pub(crate) fn kill_all_nodes(setting: &Setting, rounds: u32, words: &InMemory) -> Result<String> {
    let mut nodes = MemFirst::prepare(setting, words)?;
    let (mut found, mut before) = (Findings::default(), Vec::new());
    let (mut lags, mut behind) = (0, 0);
    for round in 1..=rounds {
        let (writes, lag) = nodes.round()?;
        (lags, behind) = (lags + lag, behind + u32::from(lag > 0));
        nodes.cluster.start_all()?;
        let proxies = nodes.cluster.proxies();
        let now = read_back(&proxies, &writes).with_context(|| format!("after kill {round}"))?;
        ensure!(now.lost == 0, "kill {round} lost {}: {}", now.lost, now.named.join(", "));
        found.add(now);
        before.extend(writes);
        if round % 50 == 0 {
            println!("{round} kills of all nodes: {} acknowledged, lost 0", found.acked);
        }
    }
    let all = read_back(&nodes.cluster.proxies(), &before)?;
    ensure!(all.lost == 0, "in the end {} are lost: {}", all.lost, all.named.join(", "));
    ensure!(behind > 0, "all was on disk before each kill, so none of them shows anything");
    Ok(format!(
        "{rounds} kills of all {NODES} nodes: {} acknowledged, lost 0; with entries on no disk in {behind}, \
         {} KiB each on average",
        all.acked,
        lags / u64::from(rounds) / 1024
    ))
}

/// Whether a write is acknowledged.
pub(crate) fn takes_writes(cluster: &Cluster, index: usize) -> bool {
    let ask = || -> std::io::Result<Reply> {
        let mut client = Client::connect(cluster.ports(index).proxy)?;
        client.push(&[b"SET", b"scene", b"1"]);
        client.flush()?;
        client.reply()
    };
    ask().is_ok_and(|reply| reply == Reply::Ok)
}

fn configuration(words: &Path) -> String {
    let words = words.display().to_string();
    format!(
        "[raft]\nheartbeat_interval_ms = 50\nelection_timeout_min_ms = 420\n\
         election_timeout_max_ms = 700\n\n\
         [raft.persistence]\nstrategy = \"MemFirst\"\n\
         power_loss_may_lose_acknowledged_writes = true\n\
         flush_policy = {{ Batch = {{ threshold = 100000, interval_ms = {FLUSH_MS} }} }}\n\
         certificate_dir = {words:?}\n"
    )
}
