//! The cluster under test: `raftd demo --hold`, from its ready line to its exit.
//!
//! `--hold` starts the nodes in one process without a load of its own, prints one line
//! `{"event":"ready","nodes":[{"id":1,"resp":"<addr>","proxy":"<addr>","admin":"<addr>"},...]}`
//! and holds until its standard input closes.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::job::wait;
use crate::nodes::admin;

/// Longest the cluster may take to elect leaders for all its groups.
const START_LIMIT: Duration = Duration::from_secs(60);
/// Longest it may take to hand over, flush and exit.
const STOP_LIMIT: Duration = Duration::from_secs(20);

pub(super) struct Server {
    child: Child,
    pub(super) nodes: Vec<Node>,
}

/// Where one node listens.
#[derive(Debug)]
pub(super) struct Node {
    /// For clients that know Redis Cluster.
    pub(super) resp: SocketAddr,
    /// For clients that do not.
    pub(super) proxy: SocketAddr,
    /// The status page, over HTTP.
    admin: SocketAddr,
}

impl Server {
    /// Starts it and waits until it is ready. What it writes goes to `log`.
    pub(super) fn start(raftd: &Path, log: &Path) -> Result<Self> {
        if let Some(directory) = log.parent() {
            fs::create_dir_all(directory)?;
        }
        let errors =
            File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        let mut copy = errors.try_clone()?;
        let mut child = Command::new(raftd)
            .args(["demo", "--nodes", "3", "--groups", "16", "--hold"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors)
            .spawn()
            .with_context(|| format!("cannot start {}", raftd.display()))?;
        let stdout = child.stdout.take().context("standard output is not piped")?;
        let (sender, ready) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                // The log is a convenience, and the receiver leaves after the first ready line.
                let _ = writeln!(copy, "{line}");
                if let Some(nodes) = ready_line(&line) {
                    let _ = sender.send(nodes);
                }
            }
        });
        match ready.recv_timeout(START_LIMIT) {
            Ok(nodes) => Ok(Self { child, nodes: nodes? }),
            Err(_) => {
                let _ = child.kill();
                let status = child.wait()?;
                let log = fs::read_to_string(log).unwrap_or_default();
                bail!("`raftd demo --hold` never said it was ready ({status}):\n{log}");
            }
        }
    }

    /// The proxy a plain client is sent to.
    pub(super) fn proxy(&self) -> SocketAddr {
        self.nodes[0].proxy
    }

    /// How many client commands the state machines have applied, each group counted once.
    ///
    /// Every node tells its own count for a group; the furthest one, which is the leader's, counts.
    pub(super) fn applied(&self) -> Result<u64> {
        let pages: Vec<Value> =
            self.nodes.iter().map(|node| status(node.admin)).collect::<Result<_>>()?;
        applied(&pages)
    }

    /// Closes its input and waits for its end.
    pub(super) fn stop(mut self) -> Result<String> {
        drop(self.child.stdin.take());
        match wait(&mut self.child, Some(STOP_LIMIT))? {
            Some(status) if status.success() => Ok(String::new()),
            Some(status) => bail!("{status}"),
            None => bail!("still running after {} s", STOP_LIMIT.as_secs()),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Without effect after `stop`; otherwise nobody else will end it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The nodes of a ready line; `None` for any other line.
fn ready_line(line: &str) -> Option<Result<Vec<Node>>> {
    let value: Value = serde_json::from_str(line).ok()?;
    (value["event"] == "ready").then(|| {
        let nodes = value["nodes"].as_array().context("the ready line has no `nodes`")?;
        ensure!(!nodes.is_empty(), "the ready line has no node");
        nodes.iter().map(node).collect()
    })
}

fn node(value: &Value) -> Result<Node> {
    let address = |name: &str| -> Result<SocketAddr> {
        let text = value[name].as_str().with_context(|| format!("a node has no `{name}`"))?;
        text.parse().with_context(|| format!("`{name}` is no address: {text}"))
    };
    Ok(Node { resp: address("resp")?, proxy: address("proxy")?, admin: address("admin")? })
}

fn status(admin: SocketAddr) -> Result<Value> {
    admin::status(admin).with_context(|| format!("http://{admin}/status.json"))
}

/// Sums `groups[].applied_commands_total` over all groups, the largest of each over the nodes.
fn applied(pages: &[Value]) -> Result<u64> {
    let mut furthest: BTreeMap<u64, u64> = BTreeMap::new();
    for page in pages {
        for group in page["groups"].as_array().context("the status has no `groups`")? {
            let number = |name: &str| {
                group[name].as_u64().with_context(|| format!("a group's status has no `{name}`"))
            };
            let count = number("applied_commands_total")?;
            let known = furthest.entry(number("id")?).or_default();
            *known = count.max(*known);
        }
    }
    Ok(furthest.values().sum())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{applied, ready_line};

    #[test]
    fn a_ready_line_is_told_from_others_and_must_be_complete() {
        let node = r#"{"id":1,"resp":"127.0.0.1:1","proxy":"127.0.0.1:2","admin":"127.0.0.1:3"}"#;
        let ready = format!(r#"{{"event":"ready","nodes":[{node}]}}"#);
        let nodes = ready_line(&ready).unwrap().unwrap();
        assert_eq!(nodes[0].proxy, "127.0.0.1:2".parse().unwrap());
        assert!(ready_line("starting").is_none());
        assert!(ready_line(r#"{"event":"started"}"#).is_none());
        assert!(ready_line(r#"{"event":"ready","nodes":[]}"#).unwrap().is_err());
        assert!(ready_line(r#"{"event":"ready","nodes":[{"resp":"x"}]}"#).unwrap().is_err());
    }

    #[test]
    fn each_group_counts_once_by_its_furthest_node() {
        let page = |a: u64, b: u64| {
            json!({"groups": [
                {"id": 1, "applied_commands_total": a},
                {"id": 2, "applied_commands_total": b},
            ]})
        };
        assert_eq!(applied(&[page(5, 3), page(4, 7), page(0, 0)]).unwrap(), 12);
        assert!(applied(&[json!({})]).is_err());
        assert!(applied(&[json!({"groups": [{"id": 1}]})]).is_err());
    }
}
