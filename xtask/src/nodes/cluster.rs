//! A cluster whose data directories lie where the check wants them: one `raftd serve` per node.
//!
//! Invariant: every node is our own child and is killed and reaped when this is dropped.

use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::job::Job;

/// Raft, cluster clients, plain clients, operators.
const PORTS: usize = 4;
/// From here on, below the range source ports of outgoing connections are taken from: otherwise
/// a killed node may find its port taken by a client of its own peers.
const PORTS_FIRST: u16 = 20_000;
const PORTS_END: u16 = 32_000;
/// Small, so that logs go from segment to segment within seconds.
const SEGMENT_BYTES: u64 = 4 << 20;
const INIT_LIMIT: Duration = Duration::from_secs(30);
/// The tail of a node's log that is shown when it ended by itself.
const LOG_LINES: usize = 5;

pub(crate) struct Cluster {
    raftd: PathBuf,
    nodes: Vec<Node>,
}

struct Node {
    id: usize,
    /// For clients that do not know Redis Cluster.
    proxy: SocketAddr,
    config: PathBuf,
    log: PathBuf,
    child: Option<Child>,
}

impl Cluster {
    /// Writes the configurations into `directory` and initialises one node per place in `data`.
    pub(crate) fn prepare(
        raftd: &Path,
        directory: &Path,
        data: &[PathBuf],
        groups: u32,
    ) -> Result<Self> {
        let held = free_ports(data.len() * PORTS)?;
        let addresses: Vec<SocketAddr> =
            held.iter().map(TcpListener::local_addr).collect::<Result<_, _>>()?;
        let peers: Vec<&[SocketAddr]> = addresses.chunks_exact(PORTS).collect();
        let mut nodes = Vec::new();
        for (id, (ports, data)) in (1..).zip(peers.iter().zip(data)) {
            let config = directory.join(format!("node-{id}.toml"));
            fs::write(&config, configuration(id, ports, &peers, data, groups))?;
            let mut init = Command::new(raftd);
            init.args(["init", "--config"]).arg(&config);
            let finished = Job::new(init).limit(INIT_LIMIT).merged()?;
            ensure!(finished.success(), "raftd init failed:\n{}", finished.evidence());
            let log = directory.join(format!("node-{id}.log"));
            nodes.push(Node { id, proxy: ports[2], config, log, child: None });
        }
        Ok(Self { raftd: raftd.to_owned(), nodes })
    }

    pub(crate) fn proxies(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(|node| node.proxy).collect()
    }

    /// Starts every node that does not run.
    pub(crate) fn start_all(&mut self) -> Result<()> {
        (0..self.nodes.len()).try_for_each(|index| self.start(index))
    }

    pub(crate) fn start(&mut self, index: usize) -> Result<()> {
        let node = &mut self.nodes[index];
        if node.child.is_none() {
            let output = OpenOptions::new().create(true).append(true).open(&node.log)?;
            let mut command = Command::new(&self.raftd);
            command.args(["serve", "--exit-with-stdin", "--config"]).arg(&node.config);
            command.stdin(Stdio::piped()).stdout(output.try_clone()?).stderr(output);
            let child = command.spawn();
            node.child =
                Some(child.with_context(|| format!("cannot start {}", self.raftd.display()))?);
        }
        Ok(())
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self, index: usize) {
        if let Some(mut child) = self.nodes[index].child.take() {
            // Without effect if it has ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// SIGKILL to all before any is waited for.
    pub(crate) fn kill_all(&mut self) {
        for child in self.nodes.iter_mut().filter_map(|node| node.child.as_mut()) {
            let _ = child.kill();
        }
        (0..self.nodes.len()).for_each(|index| self.kill(index));
    }

    /// Nodes that should run and do not, by position, with their last words.
    pub(crate) fn ended(&mut self) -> Vec<(usize, String)> {
        let mut ended = Vec::new();
        for (index, node) in self.nodes.iter_mut().enumerate() {
            let status = node.child.as_mut().and_then(|child| child.try_wait().ok().flatten());
            if let Some(status) = status {
                node.child = None;
                let text = fs::read_to_string(&node.log).unwrap_or_default();
                let lines: Vec<&str> = text.lines().collect();
                let tail = lines[lines.len().saturating_sub(LOG_LINES)..].join("\n    ");
                let last_words = format!("node {} ended with {status}:\n    {tail}", node.id);
                ended.push((index, last_words));
            }
        }
        ended
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.kill_all();
    }
}

/// Ports that are free now; they stay so until this is dropped.
fn free_ports(count: usize) -> Result<Vec<TcpListener>> {
    // Two checks at a time rarely begin at the same place.
    let start = PORTS_FIRST + (std::process::id() % u32::from(PORTS_END - PORTS_FIRST)) as u16;
    let ports: Vec<TcpListener> = (start..PORTS_END)
        .chain(PORTS_FIRST..start)
        .filter_map(|port| TcpListener::bind(("127.0.0.1", port)).ok())
        .take(count)
        .collect();
    ensure!(ports.len() == count, "fewer than {count} free ports");
    Ok(ports)
}

fn configuration(
    id: usize,
    ports: &[SocketAddr],
    peers: &[&[SocketAddr]],
    data: &Path,
    groups: u32,
) -> String {
    // A debug string of text without control characters is a string of TOML as well.
    let mut text = format!(
        "[node]\nid = {id}\ncluster = \"durability\"\ndata_dir = {:?}\n\n\
         [listen]\nraft = \"{}\"\nresp = \"{}\"\nresp_proxy = \"{}\"\nadmin = \"{}\"\n\n\
         [groups]\ncount = {groups}\n\n[log]\nsegment_bytes = {SEGMENT_BYTES}\n",
        data.display().to_string(),
        ports[0],
        ports[1],
        ports[2],
        ports[3],
    );
    for (id, peer) in (1..).zip(peers) {
        let id: usize = id;
        write!(text, "\n[[peers]]\nid = {id}\nraft = \"{}\"\nresp = \"{}\"\n", peer[0], peer[1])
            .expect("writing to a string cannot fail");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::free_ports;

    #[test]
    fn free_ports_are_distinct() {
        let held = free_ports(12).unwrap();
        let mut ports: Vec<u16> =
            held.iter().map(|port| port.local_addr().unwrap().port()).collect();
        ports.dedup();
        assert_eq!(ports.len(), 12);
    }
}
