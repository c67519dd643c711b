//! A cluster of real nodes, laid out as a check wants it: one `raftd serve` per node.
//!
//! Invariant: every node is our own child and is killed and reaped when this is dropped.

use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

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
/// Between two looks at a process that should end.
const POLL: Duration = Duration::from_millis(10);
const INIT_LIMIT: Duration = Duration::from_secs(30);
/// The tail of a node's log that is shown when it ended by itself.
const LOG_LINES: usize = 5;

/// What a cluster is to be like.
pub(crate) struct Layout<'a> {
    pub(crate) raftd: &'a Path,
    /// Where configurations and logs go.
    pub(crate) directory: &'a Path,
    /// The data directory of each node; one node per place.
    pub(crate) data: &'a [PathBuf],
    pub(crate) groups: u32,
    pub(crate) segment_bytes: u64,
    /// A checkpoint after so many bytes of log, if not the default.
    pub(crate) checkpoint_bytes: Option<u64>,
    /// Further lines for the configuration of every node, beginning with a section.
    pub(crate) extra: &'a str,
}

impl<'a> Layout<'a> {
    /// Small segments, so that logs go from one to the next within seconds; nothing special.
    pub(crate) fn new(
        raftd: &'a Path,
        directory: &'a Path,
        data: &'a [PathBuf],
        groups: u32,
    ) -> Self {
        let (segment_bytes, checkpoint_bytes) = (SEGMENT_BYTES, None);
        Self { raftd, directory, data, groups, segment_bytes, checkpoint_bytes, extra: "" }
    }
}

pub(crate) struct Cluster {
    raftd: PathBuf,
    nodes: Vec<Node>,
    /// The nodes' port numbers as UDP ports, which nobody uses: so a node that is down finds its own free
    /// again, and no other check has taken them.
    _reserved: Vec<UdpSocket>,
}

/// Where a node listens.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Ports {
    pub(crate) raft: SocketAddr,
    /// For clients that know Redis Cluster.
    pub(crate) resp: SocketAddr,
    /// For clients that do not.
    pub(crate) proxy: SocketAddr,
    pub(crate) admin: SocketAddr,
}

struct Node {
    id: usize,
    ports: Ports,
    config: PathBuf,
    log: PathBuf,
    child: Option<Child>,
}

impl Cluster {
    /// Writes the configurations and initialises one node per place in `layout.data`.
    pub(crate) fn prepare(layout: &Layout<'_>) -> Result<Self> {
        Self::prepare_with(layout, |_, _, address| address)
    }

    /// The same; `reached(from, to, address)` says under which address node `from` finds the Raft
    /// port of node `to`, both by position.
    pub(crate) fn prepare_with(
        layout: &Layout<'_>,
        mut reached: impl FnMut(usize, usize, SocketAddr) -> SocketAddr,
    ) -> Result<Self> {
        let (held, reserved) = free_ports(layout.data.len() * PORTS)?;
        let addresses: Vec<SocketAddr> =
            held.iter().map(TcpListener::local_addr).collect::<Result<_, _>>()?;
        let ports: Vec<Ports> = addresses
            .chunks_exact(PORTS)
            .map(|ports| Ports { raft: ports[0], resp: ports[1], proxy: ports[2], admin: ports[3] })
            .collect();
        let mut nodes = Vec::new();
        for (index, data) in layout.data.iter().enumerate() {
            let peers: Vec<Peer> = ports
                .iter()
                .enumerate()
                .map(|(to, peer)| Peer {
                    id: to + 1,
                    raft: if to == index { peer.raft } else { reached(index, to, peer.raft) },
                    resp: peer.resp,
                })
                .collect();
            let id = index + 1;
            let config = layout.directory.join(format!("node-{id}.toml"));
            fs::write(&config, configuration(layout, id, &ports[index], &peers, data))?;
            init(layout.raftd, &config)?;
            let log = layout.directory.join(format!("node-{id}.log"));
            nodes.push(Node { id, ports: ports[index], config, log, child: None });
        }
        Ok(Self { raftd: layout.raftd.to_owned(), nodes, _reserved: reserved })
    }

    /// A cluster that `raftd init --cluster N --first-port P` has made.
    pub(crate) fn of_first_ports(raftd: &Path, directory: &Path, nodes: u16, first: u16) -> Self {
        let node = |at: u16| {
            let port = |offset| SocketAddr::from(([127, 0, 0, 1], first + at * 4 + offset));
            let id = usize::from(at) + 1;
            Node {
                id,
                ports: Ports { raft: port(0), resp: port(1), proxy: port(2), admin: port(3) },
                config: directory.join(format!("node-{id}.toml")),
                log: directory.join(format!("node-{id}.log")),
                child: None,
            }
        };
        let nodes = (0..nodes).map(node).collect();
        Self { raftd: raftd.to_owned(), nodes, _reserved: Vec::new() }
    }

    pub(crate) fn proxies(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(|node| node.ports.proxy).collect()
    }

    /// Where the node at this position listens.
    pub(crate) fn ports(&self, index: usize) -> Ports {
        self.nodes[index].ports
    }

    /// The configuration file of the node at this position.
    pub(crate) fn config(&self, index: usize) -> &Path {
        &self.nodes[index].config
    }

    /// Everything the node has written since it was first started.
    pub(crate) fn log(&self, index: usize) -> String {
        fs::read(&self.nodes[index].log)
            .map_or_else(|_| String::new(), |bytes| String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The last lines of it.
    pub(crate) fn log_tail(&self, index: usize) -> String {
        self.nodes[index].log_tail()
    }

    /// The process of a node that runs.
    pub(crate) fn pid(&self, index: usize) -> Result<u32> {
        let child = self.nodes[index].child.as_ref();
        Ok(child.with_context(|| format!("node {} does not run", index + 1))?.id())
    }

    /// Starts every node that does not run.
    pub(crate) fn start_all(&mut self) -> Result<()> {
        (0..self.nodes.len()).try_for_each(|index| self.start(index))
    }

    pub(crate) fn start(&mut self, index: usize) -> Result<()> {
        self.start_as(index, &[], |_| Ok(()))
    }

    /// Starts it behind the words of `prefix`, such as `prlimit --nofile=64`, and changed by
    /// `change`. A prefix must end by becoming the node, not by waiting for it.
    pub(crate) fn start_as(
        &mut self,
        index: usize,
        prefix: &[&str],
        change: impl FnOnce(&mut Command) -> Result<()>,
    ) -> Result<()> {
        let node = &mut self.nodes[index];
        if node.child.is_some() {
            return Ok(());
        }
        let output = OpenOptions::new().create(true).append(true).open(&node.log)?;
        let mut command = match prefix {
            [] => Command::new(&self.raftd),
            [program, arguments @ ..] => {
                let mut command = Command::new(program);
                command.args(arguments).arg(&self.raftd);
                command
            }
        };
        command.args(["serve", "--exit-with-stdin", "--config"]).arg(&node.config);
        command.stdin(Stdio::piped()).stdout(output.try_clone()?).stderr(output);
        change(&mut command)?;
        let child = command.spawn();
        node.child = Some(child.with_context(|| format!("cannot start {}", self.raftd.display()))?);
        Ok(())
    }

    /// Sends a signal by name, such as `STOP`, to a node that runs.
    pub(crate) fn signal(&self, index: usize, name: &str) -> Result<()> {
        let pid = self.pid(index)?.to_string();
        let sent = Command::new("kill").args(["-s", name, &pid]).status().context("kill")?;
        ensure!(sent.success(), "signal {name} could not be sent to node {}", index + 1);
        Ok(())
    }

    /// Waits for the end of a node; `None` if it goes on after `limit`.
    pub(crate) fn end(&mut self, index: usize, limit: Duration) -> Result<Option<ExitStatus>> {
        let node = &mut self.nodes[index];
        let child = node.child.as_mut().context("the node does not run")?;
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = child.try_wait()? {
                node.child = None;
                return Ok(Some(status));
            }
            if Instant::now() > deadline {
                return Ok(None);
            }
            thread::sleep(POLL);
        }
    }

    /// SIGTERM, and the end within `limit`.
    pub(crate) fn stop(&mut self, index: usize, limit: Duration) -> Result<ExitStatus> {
        self.signal(index, "TERM")?;
        let ended = self.end(index, limit)?;
        ended.with_context(|| format!("node {} runs on {limit:?} after SIGTERM", index + 1))
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
                let tail = node.log_tail();
                let last_words = format!("node {} ended with {status}:\n    {tail}", node.id);
                ended.push((index, last_words));
            }
        }
        ended
    }
}

impl Node {
    fn log_tail(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n    ")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.kill_all();
    }
}

/// Ports that are free now, and stay so until the first of the two is dropped; no other check that asks
/// here is given them until the second is.
fn free_ports(count: usize) -> Result<(Vec<TcpListener>, Vec<UdpSocket>)> {
    // Two checks at a time rarely begin at the same place.
    let start = PORTS_FIRST + (std::process::id() % u32::from(PORTS_END - PORTS_FIRST)) as u16;
    let (listeners, reserved): (Vec<_>, Vec<_>) = (start..PORTS_END)
        .chain(PORTS_FIRST..start)
        .filter_map(|port| {
            let reserved = UdpSocket::bind(("127.0.0.1", port)).ok()?;
            Some((TcpListener::bind(("127.0.0.1", port)).ok()?, reserved))
        })
        .take(count)
        .unzip();
    ensure!(listeners.len() == count, "fewer than {count} free ports");
    Ok((listeners, reserved))
}

/// The first of as many free ports in a row as so many nodes need.
pub(crate) fn free_first_port(nodes: u16) -> Result<u16> {
    let count = nodes * PORTS as u16;
    let start = PORTS_FIRST + (std::process::id() % 1000) as u16 * 8;
    let is_free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    let mut firsts = (start..PORTS_END - count).step_by(usize::from(count));
    let first = firsts.find(|first| (*first..first + count).all(is_free));
    first.with_context(|| format!("no {count} free ports in a row"))
}

/// Makes the data directory of a configuration.
pub(crate) fn init(raftd: &Path, config: &Path) -> Result<()> {
    let mut init = Command::new(raftd);
    init.args(["init", "--config"]).arg(config);
    let finished = Job::new(init).limit(INIT_LIMIT).merged()?;
    ensure!(finished.success(), "raftd init failed:\n{}", finished.evidence());
    Ok(())
}

/// How a node finds another.
struct Peer {
    id: usize,
    raft: SocketAddr,
    resp: SocketAddr,
}

fn configuration(
    layout: &Layout<'_>,
    id: usize,
    ports: &Ports,
    peers: &[Peer],
    data: &Path,
) -> String {
    let Ports { raft, resp, proxy, admin } = ports;
    let (groups, segment_bytes) = (layout.groups, layout.segment_bytes);
    // A debug string of text without control characters is a string of TOML as well.
    let data = data.display().to_string();
    let checkpoints = layout
        .checkpoint_bytes
        .map_or_else(String::new, |bytes| format!("checkpoint_bytes = {bytes}\n"));
    let mut text = format!(
        "[node]\nid = {id}\ncluster = \"xtask\"\ndata_dir = {data:?}\n\n\
         [listen]\nraft = \"{raft}\"\nresp = \"{resp}\"\nresp_proxy = \"{proxy}\"\n\
         admin = \"{admin}\"\n\n\
         [groups]\ncount = {groups}\n\n[log]\nsegment_bytes = {segment_bytes}\n{checkpoints}\n{}",
        layout.extra
    );
    for Peer { id, raft, resp } in peers {
        write!(text, "\n[[peers]]\nid = {id}\nraft = \"{raft}\"\nresp = \"{resp}\"\n")
            .expect("writing to a string cannot fail");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::free_ports;

    #[test]
    fn ports_are_given_away_once_even_while_nobody_listens() {
        let (first, reserved) = free_ports(12).unwrap();
        drop(first);
        let (second, _others) = free_ports(12).unwrap();
        let mut ports: Vec<u16> = reserved
            .iter()
            .map(|socket| socket.local_addr().unwrap().port())
            .chain(second.iter().map(|listener| listener.local_addr().unwrap().port()))
            .collect();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 24);
    }
}
