//! Check `memfirst`: groups that count what is written, killed, and without their words, which is what
//! lost power leaves.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::scene::outcome;
use crate::checks::{Outcome, Setting};
use crate::job::{Finished, Job};
use crate::nodes::admin;
use crate::nodes::cluster::Cluster;
use crate::nodes::load::read_back;
use crate::nodes::memfirst::{InMemory, MemFirst, kill_all_nodes, takes_writes};

/// A few are enough here; `cargo xtask durability --only memfirst` has hundreds.
const KILLS: u32 = 3;
const NODES: usize = 3;
const STOP_LIMIT: Duration = Duration::from_secs(30);
const COMMAND_LIMIT: Duration = Duration::from_secs(30);

pub(super) fn run(setting: &Setting) -> Result<Vec<Outcome>> {
    let Some(words) = InMemory::new() else {
        return Ok(vec![Outcome::skipped("MemFirst", "a tmpfs at /dev/shm")]);
    };
    let beside = |name: &str| Setting {
        raftd: setting.raftd.clone(),
        directory: setting.directory.join(name),
        rounds: setting.rounds,
    };
    let (killed, cut) = (beside("killed"), beside("cut"));
    std::fs::create_dir_all(&killed.directory)?;
    std::fs::create_dir_all(&cut.directory)?;
    Ok(vec![
        outcome("all nodes killed, again and again", || kill_all_nodes(&killed, KILLS, &words)),
        outcome("lost power: stands still, reports, accepts, serves", || lost_power(&cut, &words)),
    ])
}

fn lost_power(setting: &Setting, words: &InMemory) -> Result<String> {
    let mut nodes = MemFirst::prepare(setting, words)?;
    let (writes, _) = nodes.round()?;
    words.forget()?;
    nodes.cluster.start_all()?;
    nodes.wait("no node says that it may have forgotten", |cluster| {
        (0..NODES).all(|index| says_lost(cluster, index))
    })?;
    ensure!(!takes_writes(&nodes.cluster, 0), "a group goes on that may have forgotten");
    // An orderly stop is no reason to believe it again.
    stop_all(&mut nodes.cluster)?;
    nodes.cluster.start_all()?;
    nodes.wait("an orderly restart makes it forget that it forgot", |cluster| {
        (0..NODES).all(|index| says_lost(cluster, index))
    })?;
    stop_all(&mut nodes.cluster)?;

    let report = |index: usize| setting.directory.join(format!("report-{}.json", index + 1));
    let reports: Vec<PathBuf> = (0..NODES).map(report).collect();
    for (index, path) in reports.iter().enumerate() {
        let told = recover(setting, &nodes.cluster, index, |command| {
            command.arg("--report").arg(path);
        })?;
        ensure!(told.stdout.contains("may have forgotten entries"), "{}", told.evidence());
    }
    // Without the word of one voter, and without being told twice, nothing changes.
    let few = recover(setting, &nodes.cluster, 0, |command| {
        command.arg("--accept-loss").args(&reports[..2]).arg("--yes");
    })?;
    ensure!(few.stdout.contains("there is no report of replica"), "{}", few.evidence());
    let preview = recover(setting, &nodes.cluster, 0, |command| {
        command.arg("--accept-loss").args(&reports);
    })?;
    ensure!(
        preview.stdout.contains("nothing was changed; --yes does it"),
        "{}",
        preview.evidence()
    );
    let mut accepted = 0;
    for index in 0..NODES {
        let told = recover(setting, &nodes.cluster, index, |command| {
            command.arg("--accept-loss").args(&reports).arg("--yes");
        })?;
        accepted += told.stdout.matches("goes on from here").count();
        ensure!(!told.stdout.contains("stays as it is"), "{}", told.evidence());
    }
    nodes.cluster.start_all()?;
    nodes.wait("the cluster does not serve again", |cluster| {
        (0..NODES).all(|index| takes_writes(cluster, index) && !says_lost(cluster, index))
    })?;
    // Only the word was taken away: every entry is still there.
    let findings = read_back(&nodes.cluster.proxies(), &writes)?;
    ensure!(findings.lost == 0, "lost {}: {}", findings.lost, findings.named.join(", "));
    Ok(format!("{accepted} replicas go on, {} acknowledged, lost 0", findings.acked))
}

fn stop_all(cluster: &mut Cluster) -> Result<()> {
    for index in 0..NODES {
        cluster.signal(index, "TERM")?;
    }
    for index in 0..NODES {
        ensure!(cluster.end(index, STOP_LIMIT)?.is_some(), "node {} does not stop", index + 1);
    }
    Ok(())
}

fn says_lost(cluster: &Cluster, index: usize) -> bool {
    let ready = admin::get(cluster.ports(index).admin, "/readyz");
    ready.is_ok_and(|(code, body)| code == 503 && body.contains("may have forgotten"))
}

fn recover(
    setting: &Setting,
    cluster: &Cluster,
    index: usize,
    arguments: impl FnOnce(&mut Command),
) -> Result<Finished> {
    let mut command = Command::new(&setting.raftd);
    command.args(["recover", "--config"]).arg(cluster.config(index));
    arguments(&mut command);
    Job::new(command).limit(COMMAND_LIMIT).apart()
}
