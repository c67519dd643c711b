//! Check `space`: few descriptors, and a disk that is full while a node writes, starts and waits.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::scene::{data, outcome, serving, set, until, wait_writes};
use crate::checks::{Outcome, Setting};
use crate::job::{Job, available};
use crate::nodes::cluster::{Cluster, Layout};
use crate::nodes::load::{Load, read_back};
use crate::nodes::resp::Reply;

const DESCRIPTORS: u64 = 1024;
const SEGMENT_BYTES: u64 = 16 << 10;
/// Hundreds of segments of that size.
const WRITTEN_BYTES: usize = 24 << 20;
const VALUE_BYTES: usize = 8 << 10;
const SERVE_LIMIT: Duration = Duration::from_secs(60);
const STOP_LIMIT: Duration = Duration::from_secs(30);
/// The size of the disk that is filled.
const DISK_MIB: u64 = 48;
const FULL_FOR: Duration = Duration::from_secs(8);
/// What a node whose disk is full may write meanwhile: not zeros, again and again.
const WRITTEN_WHILE_FULL: u64 = 64 << 20;

pub(super) fn run(setting: &Setting) -> Result<Vec<Outcome>> {
    let mut outcomes = vec![if available("prlimit", &["--version"]) {
        outcome("thousands of segments, 1,024 descriptors", || descriptors(setting))
    } else {
        Outcome::skipped("thousands of segments", "apt-get install util-linux")
    }];
    let disk = setting.directory.join("disk");
    fs::create_dir_all(&disk)?;
    outcomes.push(match mount(&disk) {
        Ok(()) => {
            let found =
                outcome("a full disk, full at the start, and room again", || full(setting, &disk));
            unmount(&disk);
            found
        }
        Err(_) => Outcome::skipped("a full disk", "a small file system wants root"),
    });
    Ok(outcomes)
}

/// What is left of an earlier run.
pub(super) fn unmount(disk: &Path) {
    let mut umount = Command::new("umount");
    umount.arg(disk);
    // Without effect if nothing is mounted there.
    let _ = Job::new(umount).limit(STOP_LIMIT).merged();
}

fn mount(disk: &Path) -> Result<()> {
    let mut mount = Command::new("mount");
    mount.args(["-t", "tmpfs", "-o", &format!("size={DISK_MIB}m"), "tmpfs"]).arg(disk);
    let finished = Job::new(mount).limit(STOP_LIMIT).merged()?;
    ensure!(finished.success(), "{}", finished.evidence());
    Ok(())
}

fn descriptors(setting: &Setting) -> Result<String> {
    let data = vec![setting.directory.join("descriptors")];
    let mut layout = Layout::new(&setting.raftd, &setting.directory, &data, 1);
    layout.segment_bytes = SEGMENT_BYTES;
    let mut cluster = Cluster::prepare(&layout)?;
    let prefix = format!("--nofile={DESCRIPTORS}:{DESCRIPTORS}");
    let start = |cluster: &mut Cluster| {
        cluster.start_as(0, &["prlimit", &prefix], |_| Ok(()))?;
        wait_writes(cluster, 0, SERVE_LIMIT)
    };
    start(&mut cluster)?;
    let value = vec![b'v'; VALUE_BYTES];
    for n in 0..WRITTEN_BYTES / VALUE_BYTES {
        let reply = set(cluster.ports(0).proxy, format!("k{n}").as_bytes(), &value)?;
        ensure!(reply == Reply::Ok, "write {n}: {reply:?}");
    }
    let open = |cluster: &Cluster| -> Result<usize> {
        Ok(fs::read_dir(format!("/proc/{}/fd", cluster.pid(0)?))?.count())
    };
    let running = open(&cluster)?;
    let segments = fs::read_dir(&data[0])?.count();
    cluster.stop(0, STOP_LIMIT)?;
    start(&mut cluster)?;
    let restarted = open(&cluster)?;
    ensure!(running < 512 && restarted < 512, "{running} open, {restarted} after a restart");
    Ok(format!("{segments} files, {running} open, {restarted} after a restart"))
}

/// Node 3 lives on a small disk, which a stranger fills.
fn full(setting: &Setting, disk: &Path) -> Result<String> {
    let mut data = data(setting, 3);
    data[2] = disk.join("data");
    let mut layout = Layout::new(&setting.raftd, &setting.directory, &data, 4);
    layout.segment_bytes = 1 << 20;
    let mut cluster = serving(&layout)?;
    let load = Load::start(&cluster.proxies()[..2], 4, "full");
    let ballast = disk.join("ballast");
    fill(&ballast)?;
    let before = written_bytes(cluster.pid(2)?)?;
    std::thread::sleep(FULL_FOR);
    ensure_alive(&mut cluster)?;
    let wrote = written_bytes(cluster.pid(2)?)?.saturating_sub(before);
    let told = told_of(setting, &cluster)?;
    ensure!(wrote <= WRITTEN_WHILE_FULL, "it wrote {} MiB while it was full", wrote >> 20);
    // The restart of an operator who has read that this helps.
    cluster.stop(2, STOP_LIMIT)?;
    cluster.start(2)?;
    std::thread::sleep(FULL_FOR);
    ensure_alive(&mut cluster)?;
    told_of(setting, &cluster)?;
    let acked = load.acked();
    ensure!(acked > 0, "the others did not go on");
    fs::remove_file(&ballast)?;
    until("it does not come back by itself", SERVE_LIMIT, || {
        ensure_alive(&mut cluster)?;
        let status = crate::nodes::admin::status(cluster.ports(2).admin);
        let Ok(status) = status else { return Ok(None) };
        let groups = status["groups"].as_array().cloned().unwrap_or_default();
        let led = groups.iter().filter(|group| !group["leader"].is_null()).count();
        Ok((led == 4).then_some(()))
    })?;
    until("with room again it does not say that it is well", SERVE_LIMIT, || {
        let (code, _) = crate::nodes::admin::get(cluster.ports(2).admin, "/healthz")?;
        Ok((code == 200).then_some(()))
    })?;
    let writes = load.stop();
    wait_writes(&mut cluster, 2, SERVE_LIMIT)?;
    let findings = read_back(&cluster.proxies(), &writes)?;
    ensure!(findings.lost == 0, "lost {}: {}", findings.lost, findings.named.join(", "));
    let wrote = wrote >> 20;
    Ok(format!("{} acknowledged, lost 0, {wrote} MiB written while full; {told}", findings.acked))
}

/// What node 3 says of its full disk, which must be the same everywhere.
fn told_of(setting: &Setting, cluster: &Cluster) -> Result<String> {
    const WORDS: &str = "log waits for room";
    let admin = cluster.ports(2).admin;
    let mut line = String::new();
    for path in ["/healthz", "/readyz"] {
        let (code, body) = crate::nodes::admin::get(admin, path)?;
        ensure!(code == 503 && body.contains(WORDS), "{path} says {code}: {body}");
        line = body.lines().find(|line| line.contains(WORDS)).unwrap_or_default().to_owned();
    }
    let mut status = Command::new(&setting.raftd);
    status.args(["status", "--admin", &admin.to_string()]);
    let finished = Job::new(status).limit(STOP_LIMIT).merged()?;
    ensure!(!finished.success(), "`raftd status` finds nothing wrong: {}", finished.evidence());
    ensure!(finished.stdout.contains(WORDS), "{}", finished.evidence());
    Ok(line)
}

fn ensure_alive(cluster: &mut Cluster) -> Result<()> {
    match cluster.ended().into_iter().next() {
        Some((_, last_words)) => anyhow::bail!("{last_words}"),
        None => Ok(()),
    }
}

/// Writes until nothing more fits.
fn fill(path: &Path) -> Result<()> {
    use std::io::Write as _;
    let mut file = fs::File::create(path)?;
    let piece = vec![0xAA; 64 << 10];
    for size in [64 << 10, 4 << 10] {
        while file.write_all(&piece[..size]).is_ok() {}
    }
    Ok(())
}

/// Bytes that the process has handed to the system.
fn written_bytes(pid: u32) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/io"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("wchar: ")).context("no wchar")?;
    Ok(line.trim().parse()?)
}
