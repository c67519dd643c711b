//! Check `strace`: no acknowledgement leaves before the sync that covers it.
//!
//! One strace watches every process of a cluster while one client writes unique markers, one at
//! a time and in pipelines; [`super::trace`] judges. The same trace without its syncs must be
//! found guilty, or the judge would be blind.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::resp::{Client, Reply};
use super::running::Running;
use super::trace::{CALLS, Judge, without_syncs};
use super::{Outcome, Setting};
use crate::job::available;

/// A traced cluster is several times slower than usual.
const START_LIMIT: Duration = Duration::from_secs(120);
const STOP_LIMIT: Duration = Duration::from_secs(60);
/// Markers written one at a time.
const SINGLE: usize = 200;
/// Markers written in pipelines.
const PIPELINED: usize = 1600;
/// Requests in one pipeline. Their frame must fit what strace shows of a buffer.
const DEPTH: usize = 16;
/// Bytes of each buffer in the trace; a frame of a pipeline has less than half of it.
const SHOWN_BYTES: usize = 4096;

/// Violations that are printed.
const SHOWN_MAX: usize = 20;

pub(super) fn run(setting: &Setting) -> Result<Vec<Outcome>> {
    let clusters = [("one node, one group", 1, 1, 1), ("three nodes, four groups", 3, 4, 2)];
    if !available("strace", &["-V"]) {
        return Ok(vec![Outcome::skipped("everything", "install with apt install strace")]);
    }
    if !available("strace", &["-f", "-o", "/dev/null", "true"]) {
        let how = "this user may not trace: see /proc/sys/kernel/yama/ptrace_scope, or in a \
                   container add the capability SYS_PTRACE";
        return Ok(vec![Outcome::skipped("everything", how)]);
    }
    clusters
        .into_iter()
        .map(|(what, nodes, groups, quorum)| check(setting, what, nodes, groups, quorum))
        .collect()
}

fn check(
    setting: &Setting,
    what: &str,
    nodes: usize,
    groups: usize,
    quorum: usize,
) -> Result<Outcome> {
    let directory = setting.directory.join(format!("nodes-{nodes}"));
    let file = setting.directory.join(format!("nodes-{nodes}.trace"));
    let mut demo = start(&setting.raftd, &directory, &file, nodes, groups)?;
    let proxy = demo.wait_for("line that says it is ready", START_LIMIT, proxy_of)??;
    println!("{what}: traced, ready at {proxy}");
    let mut client = Client::connect(proxy).context("cannot connect")?;
    let local = client.local_address()?;
    let markers: Vec<String> = (0..SINGLE + PIPELINED).map(|n| format!("m-{n:06};")).collect();
    write(&mut client, &markers[..SINGLE], 1)?;
    write(&mut client, &markers[SINGLE..], DEPTH)?;
    let stopped = demo.finish(STOP_LIMIT)?;
    ensure!(stopped.is_some_and(|status| status.success()), "it did not stop:\n{}", demo.text());

    let trace = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let trace = String::from_utf8_lossy(&trace);
    let judge = Judge { markers: &markers, client: &format!("->{local}]"), quorum };
    let judgement = judge.judge(&trace);
    let blind = judge.judge(&without_syncs(&trace));
    println!(
        "{what}: {} acknowledgements ({} in batches) against {} syncs of log files in {} lines of \
         trace: {} too early; without the syncs {} would be",
        judgement.acks,
        judgement.batched,
        judgement.syncs,
        trace.lines().count(),
        judgement.violations.len(),
        blind.violations.len()
    );
    if blind.violations.len() != markers.len() {
        let note = "the judge is blind: it does not miss the syncs when they are taken out";
        return Ok(Outcome::failed(what, note, some(&blind.violations)));
    }
    if !judgement.violations.is_empty() {
        let note = format!("{} violations", judgement.violations.len());
        return Ok(Outcome::failed(what, note, some(&judgement.violations)));
    }
    let note = format!(
        "{} acknowledgements, {} in batches, none before a quorum of {quorum} had synced it ({} \
         syncs)",
        judgement.acks, judgement.batched, judgement.syncs
    );
    Ok(Outcome::passed(what, note))
}

fn some(violations: &[String]) -> String {
    violations[..violations.len().min(SHOWN_MAX)].join("\n")
}

fn start(
    raftd: &Path,
    directory: &Path,
    trace: &Path,
    nodes: usize,
    groups: usize,
) -> Result<Running> {
    let mut command = Command::new("strace");
    // Descriptors with their paths and connections, structures in full.
    command.args(["-f", "-ttt", "-yy", "-v", "-s", &SHOWN_BYTES.to_string()]);
    command.args(["-e", &format!("trace={CALLS}"), "-e", "signal=none", "-o"]).arg(trace);
    command.arg(raftd).args(["demo", "--hold", "--nodes", &nodes.to_string()]);
    command.args(["--groups", &groups.to_string(), "--data-dir"]).arg(directory);
    Running::start(command)
}

/// The first node's port for plain clients, from the line that says the cluster is ready.
fn proxy_of(line: &str) -> Option<Result<SocketAddr>> {
    let value: Value = serde_json::from_str(line).ok()?;
    (value["event"] == "ready").then(|| {
        let proxy = value["nodes"][0]["proxy"].as_str().context("a node has no `proxy`")?;
        proxy.parse().with_context(|| format!("`proxy` is no address: {proxy}"))
    })
}

fn write(client: &mut Client, markers: &[String], depth: usize) -> Result<()> {
    for batch in markers.chunks(depth) {
        for marker in batch {
            client.push(&[b"SET", marker.as_bytes(), b"v"]);
        }
        client.flush()?;
        for marker in batch {
            let reply = client.reply().with_context(|| format!("no reply to {marker}"))?;
            ensure!(reply == Reply::Ok, "{marker} was answered {reply:?}");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::proxy_of;

    #[test]
    fn the_ready_line_tells_the_proxy() {
        let line = r#"{"event":"ready","nodes":[{"id":1,"proxy":"127.0.0.1:2"}]}"#;
        assert_eq!(proxy_of(line).unwrap().unwrap(), "127.0.0.1:2".parse().unwrap());
        assert!(proxy_of("starting").is_none());
        assert!(proxy_of(r#"{"event":"ready","nodes":[]}"#).unwrap().is_err());
    }
}
