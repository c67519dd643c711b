//! Check `newcomer`: `raftd init --cluster 3 DIR` and the commands that it prints.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::scene::{outcome, until, wait_serving};
use crate::checks::{Outcome, Setting};
use crate::job::Job;
use crate::nodes::cluster::{Cluster, free_first_port};

const NODES: u16 = 3;
const READY_LIMIT: Duration = Duration::from_secs(60);
const COMMAND_LIMIT: Duration = Duration::from_secs(30);

pub(super) fn run(setting: &Setting) -> Result<Vec<Outcome>> {
    Ok(vec![outcome("three commands make a cluster", || three_commands(setting))])
}

fn three_commands(setting: &Setting) -> Result<String> {
    let directory = setting.directory.join("cluster");
    let first = free_first_port(NODES)?;
    let init = || {
        let mut init = Command::new(&setting.raftd);
        init.args(["init", "--cluster", &NODES.to_string(), "--first-port", &first.to_string()]);
        init.arg(&directory);
        Job::new(init).limit(COMMAND_LIMIT).merged()
    };
    let made = init()?;
    ensure!(made.success(), "{}", made.evidence());
    let again = init()?;
    ensure!(!again.success() && again.stdout.contains("exists"), "{}", again.evidence());
    let mut cluster = Cluster::of_first_ports(&setting.raftd, &directory, NODES, first);
    for index in 0..usize::from(NODES) {
        let serve = format!("raftd serve --config {}", cluster.config(index).display());
        ensure!(made.stdout.contains(&serve), "it does not say `{serve}`:\n{}", made.stdout);
    }
    cluster.start_all()?;
    wait_serving(&mut cluster)?;
    let line = made.stdout.lines().find_map(|line| line.trim().strip_prefix("raftd status "));
    let arguments = line.context("it says nothing of status")?;
    // Ready is more than serving: every group has a leader that this node knows.
    until("`raftd status` does not call it ready", READY_LIMIT, || {
        let mut status = Command::new(&setting.raftd);
        status.arg("status").args(arguments.split_whitespace());
        Ok(Job::new(status).limit(COMMAND_LIMIT).merged()?.success().then_some(()))
    })?;
    Ok("made, served, told".to_owned())
}
