//! Real nodes: `raftd serve` child processes with files and ports of their own.
//!
//! The demo may do to them what an operator or a power cut would, and nothing more: start them,
//! kill them, ask their admin ports.
//!
//! Invariant: no child outlives the demo. Each watches its standard input, which closes whenever
//! and however this process ends; and whatever still runs when a [`Cluster`] is dropped is killed.

use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use raft_core::NodeId;

use super::error::DemoError;
use super::ports::HeldPorts;
use crate::status::{AdminClient, StatusView};

/// Name of the cluster; it matters only if two demos ever meet on a port.
const CLUSTER: &str = "demo";
/// All nodes stop together, so there is nobody to hand leaderships to for long.
const DRAIN_MS: u64 = 200;
/// Ports per node.
const PORTS: usize = 4;
/// Between two looks at something that takes a moment.
const POLL: Duration = Duration::from_millis(20);
/// How long it is waited for that more than one node leads.
const SHARE_LIMIT: Duration = Duration::from_secs(30);
/// The tail of a node's log that is shown when it failed.
const LOG_LINES: usize = 5;

/// All nodes of the demo.
#[derive(Debug)]
pub(super) struct Cluster {
    directory: PathBuf,
    nodes: Vec<Node>,
    ports: Option<HeldPorts>,
}

/// One node, running or not.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) id: u64,
    pub(super) raft: SocketAddr,
    pub(super) resp: SocketAddr,
    pub(super) proxy: SocketAddr,
    pub(super) admin: AdminClient,
    pub(super) admin_address: SocketAddr,
    config: PathBuf,
    log: PathBuf,
    child: Option<Child>,
    /// Processor time of its earlier processes, in nanoseconds.
    cpu_before: u64,
}

impl Cluster {
    /// Chooses ports, writes configurations and makes the data directories. Starts nothing.
    pub(super) fn prepare(
        directory: &Path,
        nodes: u64,
        groups: u32,
        seed: u64,
    ) -> Result<Self, DemoError> {
        let io = |source| DemoError::Files { directory: directory.to_owned(), source };
        let ports = HeldPorts::hold(nodes as usize * PORTS, seed)
            .map_err(|source| DemoError::Ports { source })?;
        let addresses = ports.addresses().map_err(|source| DemoError::Ports { source })?;
        let nodes: Vec<Node> = (1..=nodes)
            .zip(addresses.chunks_exact(PORTS))
            .map(|(id, ports)| Node {
                id,
                raft: ports[0],
                resp: ports[1],
                proxy: ports[2],
                admin: AdminClient::new(ports[3]),
                admin_address: ports[3],
                config: directory.join(format!("node-{id}.toml")),
                log: directory.join(format!("node-{id}.log")),
                child: None,
                cpu_before: 0,
            })
            .collect();
        for node in &nodes {
            let data = directory.join(format!("node-{}", node.id));
            fs::write(&node.config, configuration(node, &nodes, groups, &data)).map_err(io)?;
            crate::cli::init::init(&data, CLUSTER, NodeId::new(node.id))
                .map_err(|error| DemoError::Init { node: node.id, reason: error.to_string() })?;
        }
        Ok(Self { directory: directory.to_owned(), nodes, ports: Some(ports) })
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(super) fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    pub(super) fn resp_addresses(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(|node| node.resp).collect()
    }

    /// Starts every node that does not run.
    pub(super) fn start_all(&mut self) -> Result<(), DemoError> {
        drop(self.ports.take());
        (0..self.nodes.len()).try_for_each(|index| self.start(index))
    }

    /// Starts a node, unless it runs.
    pub(super) fn start(&mut self, index: usize) -> Result<(), DemoError> {
        let node = &mut self.nodes[index];
        if node.child.is_none() {
            let spawned = spawn(&node.config, &node.log);
            node.child =
                Some(spawned.map_err(|source| DemoError::Spawn { node: node.id, source })?);
        }
        Ok(())
    }

    /// SIGKILL: the node gets no chance to write, answer or say good-bye.
    pub(super) fn kill(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        node.cpu_before += node.cpu_now();
        if let Some(mut child) = node.child.take() {
            // Without effect if it is gone already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// SIGKILL to all, before any of them can notice that another is gone.
    pub(super) fn kill_all(&mut self) {
        for node in &mut self.nodes {
            node.cpu_before += node.cpu_now();
        }
        for child in self.nodes.iter_mut().filter_map(|node| node.child.as_mut()) {
            let _ = child.kill();
        }
        for mut child in self.nodes.iter_mut().filter_map(|node| node.child.take()) {
            let _ = child.wait();
        }
    }

    /// Closes the nodes' standard inputs, on which they stop in order, and waits. Returns what
    /// did not go well; whoever does not stop in time is killed.
    pub(super) async fn stop(mut self, limit: Duration) -> Vec<String> {
        let deadline = Instant::now() + limit;
        let mut complaints = Vec::new();
        for node in &mut self.nodes {
            drop(node.child.as_mut().and_then(|child| child.stdin.take()));
        }
        for node in &mut self.nodes {
            let Some(mut child) = node.child.take() else {
                continue;
            };
            loop {
                match child.try_wait() {
                    Ok(Some(status)) if status.success() => break,
                    Ok(Some(status)) => {
                        let id = node.id;
                        complaints.push(format!("node {id} did not stop cleanly: {status}"));
                        break;
                    }
                    Ok(None) if Instant::now() < deadline => tokio::time::sleep(POLL).await,
                    Ok(None) | Err(_) => {
                        complaints.push(format!("node {} did not stop in {limit:?}", node.id));
                        let _ = child.kill();
                        let _ = child.wait();
                        break;
                    }
                }
            }
        }
        complaints
    }

    /// Nodes that should run and ended by themselves, with their last words.
    pub(super) fn ended(&mut self) -> Vec<String> {
        let mut ended = Vec::new();
        for node in &mut self.nodes {
            let status = node.child.as_mut().and_then(|child| child.try_wait().ok().flatten());
            if let Some(status) = status {
                node.child = None;
                ended.push(format!("node {} ended with {status}:\n{}", node.id, node.last_words()));
            }
        }
        ended
    }

    /// How many nodes run.
    pub(super) fn running(&self) -> usize {
        self.nodes.iter().filter(|node| node.child.is_some()).count()
    }

    /// The status of every node that answers.
    pub(super) async fn statuses(&self) -> Vec<StatusView> {
        let mut statuses = Vec::new();
        for node in self.nodes.iter().filter(|node| node.child.is_some()) {
            if let Ok(status) = node.admin.status().await {
                statuses.push(status);
            }
        }
        statuses
    }

    /// Waits until all nodes answer and agree on a leader for every group, and for a while until
    /// they share the work: with one node leading everything, the others' part is not shown. But
    /// that is no reason to show nothing; on a machine that is busy with other things it can be so.
    pub(super) async fn wait_until_led(
        &mut self,
        groups: u32,
        limit: Duration,
    ) -> Result<Vec<StatusView>, DemoError> {
        let started = Instant::now();
        loop {
            if let Some(last_words) = self.ended().into_iter().next() {
                return Err(DemoError::Ended { last_words });
            }
            let statuses = self.statuses().await;
            match unready(&statuses, self.nodes.len(), groups) {
                None if shares(&statuses, groups) || started.elapsed() > SHARE_LIMIT => {
                    return Ok(statuses);
                }
                Some(missing) if started.elapsed() > limit => {
                    return Err(DemoError::NotReady { limit, missing });
                }
                None | Some(_) => tokio::time::sleep(POLL).await,
            }
        }
    }

    /// Waits until a node answers.
    pub(super) async fn wait_until_up(
        &mut self,
        index: usize,
        limit: Duration,
    ) -> Result<(), DemoError> {
        let started = Instant::now();
        while self.nodes[index].admin.status().await.is_err() {
            if let Some(last_words) = self.ended().into_iter().next() {
                return Err(DemoError::Ended { last_words });
            }
            if started.elapsed() > limit {
                let missing = format!("node {} does not answer", self.nodes[index].id);
                return Err(DemoError::NotReady { limit, missing });
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.kill_all();
    }
}

impl Node {
    pub(super) fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Processor time of all its processes, where the system tells it.
    pub(super) fn cpu(&self) -> Duration {
        Duration::from_nanos(self.cpu_before + self.cpu_now())
    }

    /// Of the process that runs, in nanoseconds, summed over its threads.
    fn cpu_now(&self) -> u64 {
        let Some(pid) = self.pid() else { return 0 };
        let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else {
            return 0;
        };
        tasks
            .flatten()
            .filter_map(|task| fs::read_to_string(task.path().join("schedstat")).ok())
            .filter_map(|text| text.split(' ').next()?.parse::<u64>().ok())
            .sum()
    }

    fn last_words(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let from = lines.len().saturating_sub(LOG_LINES);
        lines[from..].iter().map(|line| format!("    {line}\n")).collect()
    }
}

fn spawn(config: &Path, log: &Path) -> io::Result<Child> {
    let output = OpenOptions::new().create(true).append(true).open(log)?;
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args(["serve", "--exit-with-stdin", "--config"])
        .arg(config)
        .stdin(Stdio::piped())
        .stdout(output.try_clone()?)
        .stderr(output);
    // The nodes' own settings are in their files; an override meant for one must not reach all.
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("RAFT_")) {
            command.env_remove(name);
        }
    }
    // Ctrl-C is for the demo, which then stops its nodes.
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    command.spawn()
}

fn configuration(node: &Node, nodes: &[Node], groups: u32, data: &Path) -> String {
    let mut text = format!(
        "[node]\nid = {}\ncluster = \"{CLUSTER}\"\ndata_dir = {}\n\n\
         [listen]\nraft = \"{}\"\nresp = \"{}\"\nresp_proxy = \"{}\"\nadmin = \"{}\"\n\n\
         [groups]\ncount = {groups}\n\n\
         [shutdown]\ndrain_ms = {DRAIN_MS}\n",
        node.id,
        toml::Value::from(data.display().to_string()),
        node.raft,
        node.resp,
        node.proxy,
        node.admin_address,
    );
    for peer in nodes {
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "\n[[peers]]\nid = {}\nraft = \"{}\"\nresp = \"{}\"\n",
            peer.id, peer.raft, peer.resp
        );
    }
    text
}

/// What is still missing before the cluster is ready, if anything.
fn unready(statuses: &[StatusView], nodes: usize, groups: u32) -> Option<String> {
    if statuses.len() < nodes {
        return Some(format!("{} of {nodes} nodes answer", statuses.len()));
    }
    for status in statuses {
        if status.groups.len() < groups as usize {
            return Some(format!("node {} has {} groups", status.node, status.groups.len()));
        }
        if let Some(group) = status.leaderless.first() {
            return Some(format!("node {} knows no leader of group {group}", status.node));
        }
    }
    let led: u64 = statuses.iter().map(|status| status.groups_led).sum();
    if led != u64::from(groups) {
        return Some(format!("{led} of {groups} groups are led"));
    }
    None
}

/// Whether several nodes lead, as far as they can.
fn shares(statuses: &[StatusView], groups: u32) -> bool {
    let alone = statuses.iter().any(|status| status.groups_led == u64::from(groups));
    !alone || statuses.len() == 1 || groups == 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Environment, parse};

    fn status(node: u64, led: u64, groups: u32) -> StatusView {
        let group = serde_json::json!({
            "id": 1, "role": "follower", "leader": 1, "term": 1, "last_index": 0,
            "durable_index": 0, "commit_index": 0, "applied_index": 0, "flush_lag": 0,
            "apply_lag": 0, "applied_commands_total": 0, "label": "", "fault": null,
        });
        let group = serde_json::from_value(group).expect("complete");
        StatusView {
            node,
            groups_led: led,
            groups: vec![group; groups as usize],
            ..StatusView::default()
        }
    }

    #[test]
    fn a_cluster_is_ready_when_every_group_is_led_and_waits_for_more_than_one_to_lead() {
        let ready = [status(1, 2, 4), status(2, 1, 4), status(3, 1, 4)];
        assert_eq!(unready(&ready, 3, 4), None);
        assert!(shares(&ready, 4));
        let alone = [status(1, 4, 4), status(2, 0, 4), status(3, 0, 4)];
        assert_eq!(unready(&alone, 3, 4), None);
        assert!(!shares(&alone, 4));
        assert!(unready(&ready[..2], 3, 4).is_some());
        let unled = [status(1, 2, 4), status(2, 1, 4), status(3, 0, 4)];
        assert!(unready(&unled, 3, 4).is_some());
        assert_eq!(unready(&[status(1, 1, 1)], 1, 1), None);
        assert!(shares(&[status(1, 1, 1)], 1));
    }

    #[test]
    fn the_nodes_configurations_pass_our_own_check() {
        let address = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        let nodes: Vec<Node> = (1..=3_u16)
            .map(|id| Node {
                id: u64::from(id),
                raft: address(id * 10),
                resp: address(id * 10 + 1),
                proxy: address(id * 10 + 2),
                admin: AdminClient::new(address(id * 10 + 3)),
                admin_address: address(id * 10 + 3),
                config: PathBuf::new(),
                log: PathBuf::new(),
                child: None,
                cpu_before: 0,
            })
            .collect();
        let text = configuration(&nodes[1], &nodes, 5, Path::new("/a \"b\"/c"));
        let loaded = parse("node-2.toml", &text, &Environment::default()).expect("valid");
        assert!(loaded.warnings.is_empty(), "{}", loaded.warnings);
        assert_eq!(loaded.config.groups, 5);
        assert_eq!(loaded.config.data_dir, Path::new("/a \"b\"/c"));
    }
}
