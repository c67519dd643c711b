//! What does it cost to declare a group: one after the other, and many at once?
//!
//! Three durable nodes in this process, over loopback and on one disk. A group is declared when it is made
//! on all three and somebody leads it; the first write is measured apart. Beside it stands one 4 KiB write
//! and sync of the bare disk, in the same minute.
//!
//! Run: `cargo bench -p raft-harness --bench declare [-- DIRECTORY]`.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use raft_harness::prelude::*;

const NODES: [u64; 3] = [1, 2, 3];
const ONE_BY_ONE: u32 = 300;
const AT_ONCE: u32 = 1000;
const PATIENCE: Duration = Duration::from_secs(30);

struct Nothing;

impl StateMachine for Nothing {
    fn apply(&mut self, entries: &[Entry], outputs: &mut Vec<Bytes>) {
        outputs.extend(entries.iter().map(|_| Bytes::new()));
    }

    fn read(&self, _query: &[u8]) -> Bytes {
        Bytes::new()
    }

    fn digest(&self) -> u64 {
        0
    }
}

fn main() -> Result<()> {
    // Cargo passes flags of its own.
    let given = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let parent = given.map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = tempfile::tempdir_in(parent)?;
    raw(dir.path())?;
    let hosts = start(dir.path())?;
    let spec = |group| GroupSpec::on_nodes(GroupId::new(group), NODES.map(NodeId::new));

    let (mut declared, mut written) = (Vec::new(), Vec::new());
    for group in 1..=ONE_BY_ONE {
        let begun = Instant::now();
        let making: Vec<_> = hosts.iter().map(|host| host.create_groups([spec(group)])).collect();
        for made in making.into_iter().flat_map(|making| making.wait()) {
            made?;
        }
        let leader = led(&hosts, GroupId::new(group))?;
        declared.push(begun.elapsed());
        let begun = Instant::now();
        leader.propose(GroupId::new(group), Bytes::from_static(b"first")).wait()?;
        written.push(begun.elapsed());
    }
    tell("declare one", declared);
    tell("the first write", written);

    let many = ONE_BY_ONE + 1..=ONE_BY_ONE + AT_ONCE;
    let begun = Instant::now();
    let making: Vec<_> =
        hosts.iter().map(|host| host.create_groups(many.clone().map(spec))).collect();
    for made in making.into_iter().flat_map(|making| making.wait()) {
        made?;
    }
    let made = begun.elapsed();
    for group in many {
        led(&hosts, GroupId::new(group))?;
    }
    println!(
        "{AT_ONCE} at once: on three disks after {made:.1?}, all led after {:.1?}",
        begun.elapsed()
    );
    hosts.iter().for_each(NodeHost::stop);
    Ok(())
}

/// Whoever leads, as it knows itself.
fn led(hosts: &[NodeHost], group: GroupId) -> Result<&NodeHost> {
    let leader = hosts[0].wait_leader_blocking(group, PATIENCE).context("no leader")?;
    let host = hosts.iter().find(|host| host.node() == leader).context("a node of ours")?;
    host.wait_leader_blocking(group, PATIENCE).context("no leader")?;
    Ok(host)
}

fn start(dir: &Path) -> Result<Vec<NodeHost>> {
    let mut hosts = Vec::new();
    for node in NODES {
        let path = dir.join(format!("n{node}"));
        init(&path, "declare", NodeId::new(node), &InitOptions::default())?;
        let peers = NODES.iter().filter(|peer| **peer != node);
        let peers =
            peers.map(|peer| PeerOptions { node: NodeId::new(*peer), address: String::new() });
        let options = NodeOptions {
            node: NodeId::new(node),
            cluster: "declare".to_owned(),
            peers: peers.collect(),
            log: LogKind::Directory { path, options: LogOptions::default() },
            ..NodeOptions::default()
        };
        let factory = |_: GroupId, _: &GroupSpec| -> Box<dyn StateMachine> { Box::new(Nothing) };
        hosts.push(NodeHost::start(options, Arc::new(factory))?);
    }
    for host in &hosts {
        for peer in &hosts {
            let address = peer.listen_addr().context("a TCP node listens")?;
            host.set_peer_address(peer.node(), &address.to_string());
        }
    }
    Ok(hosts)
}

/// One block and a sync, again and again.
fn raw(dir: &Path) -> Result<()> {
    let file = OpenOptions::new().create_new(true).write(true).open(dir.join("raw"))?;
    file.write_all_at(&vec![0; 1 << 20], 0)?;
    file.sync_all()?;
    let mut took = Vec::new();
    for turn in 0..200_u64 {
        let begun = Instant::now();
        file.write_all_at(&[1; 4096], turn * 4096)?;
        file.sync_data()?;
        took.push(begun.elapsed());
    }
    tell("raw 4 KiB and a sync", took);
    Ok(())
}

fn tell(what: &str, mut took: Vec<Duration>) {
    took.sort();
    let at = |part: usize| took[(took.len() * part / 100).min(took.len() - 1)];
    println!("{what}: p50 {:.2?}, p99 {:.2?}, max {:.2?}", at(50), at(99), at(100));
}
