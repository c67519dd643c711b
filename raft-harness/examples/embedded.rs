//! The engine inside a program of one's own: three nodes in this process, four groups, real
//! sockets and real files, a restart of everything, and equal digests at the end.
//!
//! Run it with `cargo run --example embedded`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use raft_harness::prelude::*;

/// The application: it adds up what it is told.
#[derive(Default)]
struct Sum {
    total: u64,
    count: u64,
}

impl StateMachine for Sum {
    fn apply(&mut self, entries: &[Entry], outputs: &mut Vec<Bytes>) {
        for entry in entries {
            if entry.kind == EntryKind::Command
                && let Ok(number) = <[u8; 8]>::try_from(&entry.payload[..])
            {
                self.total = self.total.wrapping_add(u64::from_le_bytes(number));
                self.count += 1;
            }
            outputs.push(Bytes::copy_from_slice(&self.total.to_le_bytes()));
        }
    }

    fn read(&self, _query: &[u8]) -> Bytes {
        Bytes::copy_from_slice(&self.total.to_le_bytes())
    }

    fn digest(&self) -> u64 {
        self.total ^ (self.count << 40)
    }
}

const NODES: [u64; 3] = [1, 2, 3];
const GROUPS: u32 = 4;
const WRITES: u64 = 200;

fn main() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    // A data directory is made once, by `init`; starting a node never makes one.
    for node in NODES {
        let path = dir.path().join(format!("n{node}"));
        init(&path, "example", NodeId::new(node), &InitOptions::default())?;
    }

    let hosts = start_all(dir.path())?;
    let specs = || {
        (1..=GROUPS).map(|group| GroupSpec::on_nodes(GroupId::new(group), NODES.map(NodeId::new)))
    };
    for host in &hosts {
        // Every node of a group is told; telling it twice is harmless.
        for created in host.create_groups(specs()).wait() {
            created?;
        }
    }
    for group in (1..=GROUPS).map(GroupId::new) {
        let leader = hosts[0].wait_leader_blocking(group, Duration::from_secs(10));
        println!("group {group} is led by node {}", leader.context("no leader")?);
    }
    for number in 1..=WRITES {
        let group = GroupId::new(1 + (number % u64::from(GROUPS)) as u32);
        propose(&hosts, group, number)?;
    }
    println!("{WRITES} writes acknowledged, each on the disks of two nodes");

    for host in &hosts {
        host.stop();
    }
    println!("all nodes stopped; starting them again from their logs");
    let hosts = start_all(dir.path())?;

    let mut sum = 0;
    for group in (1..=GROUPS).map(GroupId::new) {
        let total = read(&hosts, group)?;
        let digest = agree(&hosts, group)?;
        println!("group {group}: total {total}, digest {digest:016x} on all three nodes");
        sum += total;
    }
    for host in &hosts {
        host.stop();
    }
    if sum != WRITES * (WRITES + 1) / 2 {
        bail!("the groups add up to {sum}");
    }
    println!("everything acknowledged before the restart is there after it");
    Ok(())
}

fn start_all(dir: &std::path::Path) -> anyhow::Result<Vec<NodeHost>> {
    let factory = Arc::new(|_group: GroupId, _spec: &GroupSpec| -> Box<dyn StateMachine> {
        Box::new(Sum::default())
    });
    let mut hosts = Vec::new();
    for node in NODES {
        let peers = NODES.iter().filter(|peer| **peer != node);
        hosts.push(NodeHost::start(
            NodeOptions {
                node: NodeId::new(node),
                cluster: "example".to_owned(),
                // The ports are free ones, told to the peers below.
                peers: peers
                    .map(|peer| PeerOptions { node: NodeId::new(*peer), address: String::new() })
                    .collect(),
                log: LogKind::Directory {
                    path: dir.join(format!("n{node}")),
                    options: LogOptions { segment_bytes: 4 << 20, ..LogOptions::default() },
                },
                ..NodeOptions::default()
            },
            factory.clone(),
        )?);
    }
    for host in &hosts {
        for peer in &hosts {
            let address = peer.listen_addr().context("a TCP node listens")?;
            host.set_peer_address(peer.node(), &address.to_string());
        }
    }
    Ok(hosts)
}

/// Proposes at the leader; whoever refused without effect is asked again, or its leader is.
fn propose(hosts: &[NodeHost], group: GroupId, number: u64) -> anyhow::Result<()> {
    let command = Bytes::copy_from_slice(&number.to_le_bytes());
    at_leader(hosts, group, |host| host.propose(group, command.clone()).wait().map(|_| ()))
}

fn read(hosts: &[NodeHost], group: GroupId) -> anyhow::Result<u64> {
    let answer = at_leader(hosts, group, |host| host.read(group, Bytes::new()).wait())?;
    Ok(u64::from_le_bytes(answer[..].try_into()?))
}

fn at_leader<T>(
    hosts: &[NodeHost],
    group: GroupId,
    ask: impl Fn(&NodeHost) -> Result<T, RequestError>,
) -> anyhow::Result<T> {
    let end = Instant::now() + Duration::from_secs(10);
    let mut at = 0;
    loop {
        match ask(&hosts[at]) {
            Ok(answer) => return Ok(answer),
            Err(error) if error.is_safe_to_retry() && Instant::now() < end => {
                let leader = hosts[at].leader_of(group);
                match leader.and_then(|node| hosts.iter().position(|h| h.node() == node)) {
                    Some(leader) if leader != at => at = leader,
                    _ => std::thread::sleep(Duration::from_millis(20)),
                }
            }
            Err(error) => bail!("group {group}: {error}"),
        }
    }
}

/// Waits until all replicas have applied the same index, and compares their digests there.
fn agree(hosts: &[NodeHost], group: GroupId) -> anyhow::Result<u64> {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        let digests: Vec<(LogIndex, u64)> =
            hosts.iter().map(|host| host.digest(group).wait()).collect::<Result<_, _>>()?;
        if digests.iter().all(|(index, _)| *index == digests[0].0) {
            if digests.iter().all(|digest| *digest == digests[0]) {
                return Ok(digests[0].1);
            }
            bail!("group {group}: digests differ: {digests:?}");
        }
        if Instant::now() >= end {
            bail!("group {group}: replicas did not catch up: {digests:?}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
