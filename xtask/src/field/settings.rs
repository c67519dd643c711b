//! Check `settings`: what `raftd config check` calls valid, `raftd serve` starts.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::scene::{data, outcome, serving, wait_writes};
use crate::checks::{Outcome, Setting};
use crate::job::Job;
use crate::nodes::cluster::{Cluster, Layout};

const COMMAND_LIMIT: Duration = Duration::from_secs(20);
/// The longest election timeout tried is twelve seconds, and a first election may take three.
const START_LIMIT: Duration = Duration::from_secs(60);
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// Settings at the edges of what is allowed, each for a node of a cluster of its own.
const EDGES: [(&str, &str); 6] = [
    (
        "elections of 6 to 12 s",
        "[raft]\nelection_timeout_min_ms = 6000\nelection_timeout_max_ms = 12000\n",
    ),
    (
        "elections of 60 s to 2 min",
        "[raft]\nheartbeat_interval_ms = 5000\nelection_timeout_min_ms = 60000\n\
         election_timeout_max_ms = 120000\n",
    ),
    ("data frames of 16 MiB", "[network.data]\nframe_bytes_max = 16777216\n"),
    ("bulk frames of 1 MiB", "[network.bulk]\nframe_bytes_max = 1048576\n"),
    ("control frames of 64 KiB", "[network.control]\nframe_bytes_max = 65536\n"),
    ("appends of 4 KiB", "[raft]\nappend_bytes_max = 4096\n"),
];

pub(super) fn run(setting: &Setting) -> Result<Vec<Outcome>> {
    let mut outcomes = Vec::new();
    for (number, (what, extra)) in EDGES.into_iter().enumerate() {
        outcomes.push(outcome(what, || edge(setting, number, extra)));
    }
    outcomes.push(outcome("peers in another order", || swapped(setting)));
    Ok(outcomes)
}

/// Either the check refuses it and names the key, or a cluster of one starts and serves with it.
fn edge(setting: &Setting, number: usize, extra: &str) -> Result<String> {
    let data = vec![setting.directory.join(format!("edge-{number}"))];
    let mut layout = Layout::new(&setting.raftd, &setting.directory, &data, 1);
    layout.extra = extra;
    let Ok(mut cluster) = Cluster::prepare(&layout) else {
        // `init` reads the same file; the check must say so too.
        let config = setting.directory.join("node-1.toml");
        let mut check = Command::new(&setting.raftd);
        check.args(["config", "check"]).arg(&config);
        let finished = Job::new(check).limit(COMMAND_LIMIT).merged()?;
        ensure!(!finished.success(), "the check calls valid what `init` refuses");
        let key = extra.lines().nth(1).and_then(|line| line.split(' ').next());
        ensure!(
            key.is_some_and(|key| finished.stdout.contains(key)),
            "the refusal names no key:\n{}",
            finished.evidence()
        );
        return Ok("refused by the check, which names the key".to_owned());
    };
    let mut check = Command::new(&setting.raftd);
    check.args(["config", "check"]).arg(cluster.config(0));
    let finished = Job::new(check).limit(COMMAND_LIMIT).merged()?;
    ensure!(
        finished.status.is_some_and(|status| status.code() != Some(2)),
        "{}",
        finished.evidence()
    );
    cluster.start(0)?;
    wait_writes(&mut cluster, 0, START_LIMIT * 3)?;
    cluster.stop(0, STOP_LIMIT)?;
    Ok("valid, and serves".to_owned())
}

/// A set of peers has no order.
fn swapped(setting: &Setting) -> Result<String> {
    let data = data(setting, 3);
    let mut cluster = serving(&Layout::new(&setting.raftd, &setting.directory, &data, 4))?;
    cluster.stop(0, STOP_LIMIT)?;
    let text = fs::read_to_string(cluster.config(0))?;
    let mut blocks = text.split("[[peers]]");
    let head = blocks.next().unwrap_or_default().to_owned();
    let mut peers: Vec<&str> = blocks.collect();
    peers.reverse();
    let turned: Vec<String> =
        peers.iter().map(|peer| format!("[[peers]]{}\n", peer.trim_end())).collect();
    fs::write(cluster.config(0), head + &turned.concat())?;
    cluster.start(0)?;
    wait_writes(&mut cluster, 0, START_LIMIT)?;
    Ok("the node is back".to_owned())
}
