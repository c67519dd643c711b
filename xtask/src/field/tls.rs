//! Check `tls`: nodes that know each other by the certificates that `raftd tls init` makes, one that has those
//! of another cluster's CA, one without, and files that change under a node that runs.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::scene::{data, outcome, until, wait_serving, wait_writes};
use crate::checks::{Outcome, Setting};
use crate::job::Job;
use crate::nodes::cluster::{Cluster, Layout};

const NODES: usize = 3;
/// As `Layout` writes it.
const CLUSTER: &str = "xtask";
const LIMIT: Duration = Duration::from_secs(60);

pub(super) fn run(setting: &Setting) -> Result<Vec<Outcome>> {
    Ok(vec![outcome("certificates: good, foreign, none, changed", || scene(setting))])
}

fn scene(setting: &Setting) -> Result<String> {
    let made = setting.directory.join("made");
    let installed = setting.directory.join("installed");
    init(setting, &["--nodes", "1,2,3"], &made)?;
    fs::create_dir_all(&installed)?;
    for id in 1..=NODES {
        install(&made, &installed, id)?;
    }
    let data = data(setting, NODES);
    let layout = Layout::new(&setting.raftd, &setting.directory, &data, 4);
    let mut cluster = Cluster::prepare(&layout)?;
    let plain = fs::read_to_string(cluster.config(2))?;
    for index in 0..NODES {
        let config = cluster.config(index).to_owned();
        let mut file = OpenOptions::new().append(true).open(&config)?;
        file.write_all(section(&installed, index + 1).as_bytes())?;
        let mut check = Command::new(&setting.raftd);
        check.args(["config", "check", "--strict"]).arg(&config);
        let checked = Job::new(check).limit(LIMIT).merged()?;
        ensure!(checked.success(), "{}", checked.evidence());
    }
    cluster.start_all()?;
    wait_serving(&mut cluster)?;

    // Node 3 comes back as an operator put it who mixed up two clusters.
    cluster.stop(2, LIMIT)?;
    let foreign = setting.directory.join("foreign");
    init(setting, &["--nodes", "3"], &foreign)?;
    install(&foreign, &installed, 3)?;
    cluster.start(2)?;
    let why = "signed by no CA that is trusted here";
    for index in [0, 2] {
        until(&format!("node {} does not say why", index + 1), LIMIT, || {
            Ok(cluster.log(index).contains(why).then_some(()))
        })?;
        until("its status does not say why", LIMIT, || {
            Ok(table(setting, &cluster, index)?.contains(why).then_some(()))
        })?;
    }
    wait_writes(&mut cluster, 0, LIMIT)?;

    // Its right files are put in place while it runs.
    init(setting, &["--nodes", "3", "--ca", &made.display().to_string()], &made.join("again"))?;
    let told = cluster.log(2).len();
    install(&made.join("again"), &installed, 3)?;
    until("it does not take them up", LIMIT, || {
        let log = cluster.log(2);
        Ok(log[told.min(log.len())..].contains("took other certificates into use").then_some(()))
    })?;
    wait_writes(&mut cluster, 2, LIMIT)?;
    until("it is not among its peers", LIMIT, || {
        Ok((!table(setting, &cluster, 0)?.contains(why)).then_some(()))
    })?;

    // Without any it is no node to the others.
    cluster.stop(2, LIMIT)?;
    let config = cluster.config(2).to_owned();
    let certified = fs::read_to_string(&config)?;
    fs::write(&config, plain)?;
    cluster.start(2)?;
    until("nobody says that node 3 has no TLS", LIMIT, || {
        let told = [0, 1].iter().any(|index| cluster.log(*index).contains("does not speak TLS"));
        Ok(told.then_some(()))
    })?;
    wait_writes(&mut cluster, 0, LIMIT)?;
    cluster.stop(2, LIMIT)?;
    fs::write(&config, certified)?;
    cluster.start(2)?;
    wait_writes(&mut cluster, 2, LIMIT)?;
    Ok("told apart, served on".to_owned())
}

fn init(setting: &Setting, more: &[&str], directory: &Path) -> Result<()> {
    let mut init = Command::new(&setting.raftd);
    init.args(["tls", "init", "--name", CLUSTER]).args(more).arg(directory);
    let finished = Job::new(init).limit(LIMIT).merged()?;
    ensure!(finished.success(), "{}", finished.evidence());
    Ok(())
}

fn file(directory: &Path, name: &str) -> PathBuf {
    directory.join(name)
}

/// Puts what a node needs where its configuration looks for it, file by file as an operator does.
fn install(from: &Path, to: &Path, id: usize) -> Result<()> {
    for (name, place) in [
        ("ca.pem".to_owned(), format!("ca-{id}.pem")),
        (format!("node-{id}.pem"), format!("node-{id}.pem")),
        (format!("node-{id}.key"), format!("node-{id}.key")),
    ] {
        fs::copy(file(from, &name), file(to, &place))?;
    }
    Ok(())
}

fn section(installed: &Path, id: usize) -> String {
    let at = |name: String| file(installed, &name).display().to_string();
    format!(
        "\n[tls]\ncertificate = {:?}\nkey = {:?}\nca = {:?}\n",
        at(format!("node-{id}.pem")),
        at(format!("node-{id}.key")),
        at(format!("ca-{id}.pem")),
    )
}

/// What an operator is shown of a node.
fn table(setting: &Setting, cluster: &Cluster, index: usize) -> Result<String> {
    let mut status = Command::new(&setting.raftd);
    status.args(["status", "--admin", &cluster.ports(index).admin.to_string()]);
    Ok(Job::new(status).limit(LIMIT).merged()?.stdout)
}
