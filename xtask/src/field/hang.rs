//! Check `hang`: a thread of the node stands still, by a tracer that holds its system calls: the
//! log's in a hung disk, a shard's for no reason at all. What the node says of itself stays true.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::front::resident_bytes;
use super::scene::{data, outcome, serving, until, wait_writes};
use crate::checks::{Outcome, Setting};
use crate::job::{Job, available};
use crate::nodes::admin;
use crate::nodes::cluster::{Cluster, Layout};
use crate::nodes::load::{Load, read_back};
use crate::nodes::resp::Client;

const GROUPS: u32 = 16;
const SERVE_LIMIT: Duration = Duration::from_secs(60);
const COMMAND_LIMIT: Duration = Duration::from_secs(30);
/// Within this the node must have told.
const TOLD_LIMIT: Duration = Duration::from_secs(15);
/// How long a follower's disk hangs under load.
const HUNG_FOR: Duration = Duration::from_secs(15);
const VALUE_BYTES: usize = 64 << 10;
/// What a node may hold in memory for a disk that does not answer, all groups together.
const HELD_MIB: u64 = 256;

pub(super) fn run(setting: &Setting) -> Result<Vec<Outcome>> {
    if !available("strace", &["--version"]) {
        return Ok(vec![Outcome::skipped("threads that stand still", "apt-get install strace")]);
    }
    let data = data(setting, 3);
    let layout = Layout::new(&setting.raftd, &setting.directory, &data, GROUPS);
    let mut cluster = serving(&layout)?;
    Ok(vec![
        outcome("a frozen shard is told", || frozen_shard(setting, &mut cluster)),
        outcome("a hung disk is told", || hung_disk(setting, &mut cluster)),
        outcome("a follower with a hung disk stays small", || memory(&mut cluster)),
        outcome("a node alone is not ready", || alone(setting, &mut cluster)),
    ])
}

/// What a disk that hangs holds.
pub(super) const DISK_CALLS: &str = "pwrite64,pwritev,pwritev2,fsync,fdatasync";

/// The threads that call the disk for the log.
pub(super) const LOG_THREADS: &[&str] = &["raft-log", "raft-log-disk"];

/// A tracer that holds calls of some threads.
pub(super) struct Held(Child);

impl Held {
    fn thread(cluster: &Cluster, index: usize, name: &str, calls: &str) -> Result<Self> {
        Self::threads(cluster, index, &[name], calls)
    }

    pub(super) fn threads(
        cluster: &Cluster,
        index: usize,
        names: &[&str],
        calls: &str,
    ) -> Result<Self> {
        let pid = cluster.pid(index)?;
        let mut threads = Vec::new();
        for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
            let path = entry?.path();
            if names.contains(&fs::read_to_string(path.join("comm"))?.trim()) {
                threads.extend(path.file_name().map(|id| id.to_string_lossy().into_owned()));
            }
        }
        ensure!(threads.len() == names.len(), "node {} lacks one of {names:?}", index + 1);
        let mut strace = Command::new("strace");
        // Longer than any check waits; it ends with the tracer.
        let inject = format!("inject={calls}:delay_enter=120s");
        strace.args(["-qq", "-e", &format!("trace={calls}"), "-e", &inject]);
        strace.args(threads.iter().flat_map(|thread| ["-p", thread]));
        strace.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Self(strace.spawn().context("strace")?))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // A tracer that is killed lets its thread go on.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What `raftd status` says of a node, and its exit code.
fn status(setting: &Setting, cluster: &Cluster, index: usize) -> Result<(String, i32)> {
    let mut status = Command::new(&setting.raftd);
    status.args(["status", "--admin", &cluster.ports(index).admin.to_string()]);
    let finished = Job::new(status).limit(COMMAND_LIMIT).merged()?;
    let code = finished.status.and_then(|status| status.code()).context("status did not end")?;
    Ok((finished.stdout, code))
}

fn healthy(cluster: &Cluster, index: usize) -> Result<bool> {
    Ok(admin::get(cluster.ports(index).admin, "/healthz")?.0 == 200)
}

/// Neither health nor status may call a node well whose only shard does not turn.
fn frozen_shard(setting: &Setting, cluster: &mut Cluster) -> Result<String> {
    ensure!(healthy(cluster, 0)?, "it is not healthy to begin with");
    let held = Held::thread(cluster, 0, "raft-shard-0", "all")?;
    until("/healthz calls a node with a frozen shard well", TOLD_LIMIT, || {
        Ok((!healthy(cluster, 0)?).then_some(()))
    })?;
    let (text, code) = status(setting, cluster, 0)?;
    ensure!(code != 0, "`raftd status` exits with 0:\n{text}");
    ensure!(text.to_lowercase().contains("shard"), "no word of the shard:\n{text}");
    let ready = admin::get(cluster.ports(0).admin, "/readyz")?.0;
    ensure!(ready != 200, "/readyz says ready");
    drop(held);
    recovered(cluster, 0)?;
    Ok("healthz, readyz and status tell".to_owned())
}

/// A hung disk shows although nobody asks for a write of this node's own.
fn hung_disk(setting: &Setting, cluster: &mut Cluster) -> Result<String> {
    let load = Load::start(&cluster.proxies()[1..], 2, "hung");
    let held = Held::threads(cluster, 0, LOG_THREADS, DISK_CALLS)?;
    until("/healthz calls a node with a hung disk well", TOLD_LIMIT, || {
        Ok((!healthy(cluster, 0)?).then_some(()))
    })?;
    let (text, code) = status(setting, cluster, 0)?;
    ensure!(code != 0, "`raftd status` exits with 0:\n{text}");
    let words = text.to_lowercase();
    ensure!(words.contains("stall") || words.contains("hang"), "no word of the disk:\n{text}");
    drop(held);
    recovered(cluster, 0)?;
    let writes = load.stop();
    let findings = read_back(&cluster.proxies(), &writes)?;
    ensure!(findings.lost == 0, "lost {}: {}", findings.lost, findings.named.join(", "));
    Ok(format!("told; {} acknowledged, lost 0", findings.acked))
}

fn recovered(cluster: &mut Cluster, index: usize) -> Result<()> {
    until("it does not become well again", SERVE_LIMIT, || {
        if let Some((_, last_words)) = cluster.ended().into_iter().next() {
            anyhow::bail!("{last_words}");
        }
        Ok(healthy(cluster, index)?.then_some(()))
    })?;
    wait_writes(cluster, index, SERVE_LIMIT)
}

/// Large values go on at the others; the one whose disk hangs takes what it may hold, no more.
fn memory(cluster: &mut Cluster) -> Result<String> {
    let pid = cluster.pid(2)?;
    let before = resident_bytes(pid)?;
    let held = Held::threads(cluster, 2, LOG_THREADS, DISK_CALLS)?;
    let begun = Instant::now();
    let value = vec![b'v'; VALUE_BYTES];
    let (mut written, mut most, mut n) = (0_u64, 0, 0_u64);
    while begun.elapsed() < HUNG_FOR {
        let mut client = Client::connect(cluster.ports((n % 2) as usize).proxy)?;
        for _ in 0..32 {
            let key = format!("hung:{}", n % 4096);
            client.push(&[b"SET", key.as_bytes(), &value]);
            n += 1;
        }
        client.flush()?;
        for _ in 0..32 {
            // Groups that were led over there have no leader for a moment.
            if client.reply()? == crate::nodes::resp::Reply::Ok {
                written += VALUE_BYTES as u64;
            }
        }
        most = most.max(resident_bytes(pid)?.saturating_sub(before));
    }
    drop(held);
    recovered(cluster, 2)?;
    ensure!(
        most >> 20 <= HELD_MIB,
        "it grew by {} MiB, {} were written",
        most >> 20,
        written >> 20
    );
    ensure!(written > 0, "the others did not go on");
    Ok(format!("{} MiB written, it grew by {} MiB", written >> 20, most >> 20))
}

/// Alive and not ready, and its first words do not say otherwise.
fn alone(setting: &Setting, cluster: &mut Cluster) -> Result<String> {
    cluster.kill_all();
    let told = cluster.log(0).len();
    cluster.start(0)?;
    until("it does not answer", SERVE_LIMIT, || {
        Ok(admin::get(cluster.ports(0).admin, "/healthz").is_ok().then_some(()))
    })?;
    std::thread::sleep(Duration::from_secs(3));
    ensure!(healthy(cluster, 0)?, "a node that only waits for its peers is not sick");
    let (ready, why) = admin::get(cluster.ports(0).admin, "/readyz")?;
    ensure!(ready != 200, "/readyz: {why}");
    let (text, code) = status(setting, cluster, 0)?;
    ensure!(code != 0, "`raftd status` exits with 0:\n{text}");
    let log = cluster.log(0);
    ensure!(!log[told..].lines().any(|line| line.starts_with("ready node=")), "{}", &log[told..]);
    cluster.start_all()?;
    for index in 0..3 {
        wait_writes(cluster, index, SERVE_LIMIT)?;
    }
    until("it does not become ready", SERVE_LIMIT, || {
        Ok((admin::get(cluster.ports(0).admin, "/readyz")?.0 == 200).then_some(()))
    })?;
    Ok(format!("/readyz: {}", why.lines().next().unwrap_or_default()))
}
