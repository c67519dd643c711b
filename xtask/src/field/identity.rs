//! Check `identity`: a data directory that was rolled back or cloned is refused, and a memory of
//! peers that was damaged is told by name.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::scene::{data, outcome, serving, until, wait_writes};
use crate::checks::{Outcome, Setting};
use crate::job::Job;
use crate::nodes::cluster::{Cluster, Layout};

const NODES: usize = 3;
const STOP_LIMIT: Duration = Duration::from_secs(30);
const REFUSED_LIMIT: Duration = Duration::from_secs(30);
const SERVE_LIMIT: Duration = Duration::from_secs(60);
const COPY_LIMIT: Duration = Duration::from_secs(60);

pub(super) fn run(setting: &Setting) -> Result<Vec<Outcome>> {
    Ok(vec![
        outcome("rolled back by one life", || rolled_back(setting)),
        outcome("all restored from cold copies", || cold_copies(setting)),
        outcome("peer-stores with one digit flipped", || flipped(setting)),
    ])
}

fn cluster(setting: &Setting, name: &str) -> Result<(Cluster, Vec<std::path::PathBuf>)> {
    let directory = setting.directory.join(name);
    fs::create_dir_all(&directory)?;
    let data: Vec<_> = data(setting, NODES).iter().map(|data| data.join(name)).collect();
    Ok((serving(&Layout::new(&setting.raftd, &directory, &data, 4))?, data))
}

/// The copy of an earlier life comes back under its name: its peers know better, and say so.
fn rolled_back(setting: &Setting) -> Result<String> {
    let (mut cluster, data) = cluster(setting, "rolled-back")?;
    cluster.stop(2, STOP_LIMIT)?;
    let copy = data[2].with_extension("copy");
    copy_directory(&data[2], &copy)?;
    cluster.start(2)?;
    wait_writes(&mut cluster, 2, SERVE_LIMIT)?;
    cluster.stop(2, STOP_LIMIT)?;
    fs::remove_dir_all(&data[2])?;
    fs::rename(&copy, &data[2])?;
    let told = cluster.log(2).len();
    cluster.start(2)?;
    let said = until("nobody says that the directory was rolled back", REFUSED_LIMIT, || {
        let log = cluster.log(2);
        let said = log[told.min(log.len())..].lines().find(|line| {
            line.contains("refuses this one") && line.contains("put back to an earlier state")
        });
        Ok(said.map(str::to_owned))
    })?;
    // Its status says the same, and so does that of who refuses it.
    for (index, words) in [(2, "it refuses this node and says"), (0, "refused by this node")] {
        until("the status does not say why", REFUSED_LIMIT, || {
            let table = table(setting, &cluster, index)?;
            Ok((table.contains(words) && table.contains("put back to an earlier")).then_some(()))
        })?;
    }
    // The others go on without it.
    wait_writes(&mut cluster, 0, SERVE_LIMIT)?;
    let says = said.split_once("says=").map_or(&*said, |(_, says)| says);
    Ok(says.chars().take(90).collect())
}

/// Copies of all nodes, taken while all were stopped, are a cluster again.
fn cold_copies(setting: &Setting) -> Result<String> {
    let (mut cluster, data) = cluster(setting, "cold")?;
    for index in 0..NODES {
        cluster.stop(index, STOP_LIMIT)?;
    }
    for data in &data {
        copy_directory(data, &data.with_extension("copy"))?;
    }
    cluster.start_all()?;
    for index in 0..NODES {
        wait_writes(&mut cluster, index, SERVE_LIMIT)?;
    }
    for index in 0..NODES {
        cluster.stop(index, STOP_LIMIT)?;
    }
    for data in &data {
        fs::remove_dir_all(data)?;
        fs::rename(data.with_extension("copy"), data)?;
    }
    cluster.start_all()?;
    for index in 0..NODES {
        wait_writes(&mut cluster, index, SERVE_LIMIT)?;
    }
    Ok("serves".to_owned())
}

/// A wrong digit is damage with a name, or heals; it never makes two nodes refuse each other.
fn flipped(setting: &Setting) -> Result<String> {
    let (mut cluster, data) = cluster(setting, "flipped")?;
    cluster.stop(2, STOP_LIMIT)?;
    let path = data[2].join("peer-stores");
    let mut bytes = fs::read(&path).with_context(|| format!("no {}", path.display()))?;
    let digit = bytes.iter().rposition(u8::is_ascii_hexdigit).context("no digit")?;
    bytes[digit] = if bytes[digit] == b'0' { b'1' } else { b'0' };
    fs::write(&path, bytes)?;
    let told = cluster.log(2).len();
    cluster.start(2)?;
    if let Some(status) = cluster.end(2, Duration::from_secs(5))? {
        let log = cluster.log(2);
        ensure!(log[told..].contains("peer-stores"), "{status}, and no word of the file");
        return Ok("refused by name".to_owned());
    }
    wait_writes(&mut cluster, 2, SERVE_LIMIT)?;
    // It must be with its peers, not only answer through them.
    until("its peers refuse it", REFUSED_LIMIT, || {
        let mut status = Command::new(&setting.raftd);
        status.args(["status", "--admin", &cluster.ports(2).admin.to_string()]);
        let finished = Job::new(status).limit(COPY_LIMIT).merged()?;
        Ok(finished.success().then_some(()))
    })?;
    Ok("healed".to_owned())
}

/// What an operator is shown of a node.
fn table(setting: &Setting, cluster: &Cluster, index: usize) -> Result<String> {
    let mut status = Command::new(&setting.raftd);
    status.args(["status", "--admin", &cluster.ports(index).admin.to_string()]);
    Ok(Job::new(status).limit(COPY_LIMIT).merged()?.stdout)
}

fn copy_directory(from: &Path, to: &Path) -> Result<()> {
    let mut copy = Command::new("cp");
    copy.arg("-a").arg(from).arg(to);
    let finished = Job::new(copy).limit(COPY_LIMIT).merged()?;
    if !finished.success() {
        bail!("{}", finished.evidence());
    }
    Ok(())
}
