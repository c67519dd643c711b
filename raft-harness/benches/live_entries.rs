//! What does it cost to keep bodies in the log: a queue's snapshot, its bytes on the disk, and a new
//! replica of it?
//!
//! Three nodes in this process, over loopback and on one disk. The queue takes bodies on two of them, a
//! snapshot is taken, and the third comes with nothing and is sent all of it. Beside the transfer stand
//! the bare disk (1 MiB writes and a sync every 8 MiB, zeros overwritten) and the bare wire (a loopback
//! socket), each alone in the same minute; the transfer reads and writes the same disk at once.
//!
//! Run: `cargo bench -p raft-harness --bench live_entries [-- MIB [DIRECTORY]]`, 256 MiB by default.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use bytes::Bytes;
use raft_core::{Entry, EntryKind, GroupId, LogIndex, NodeId};
use raft_harness::{
    Bodies, GroupSpec, LogKind, NodeHost, NodeOptions, PeerOptions, RestoreError, SnapshotPieces,
    StateMachine,
};

const GROUP: GroupId = GroupId::new(1);
const BODY_BYTES: usize = 16 << 10;
/// Proposals under way.
const OPEN: usize = 64;

/// Keeps the indexes of its messages.
#[derive(Default)]
struct Queue {
    bodies: Option<Bodies>,
    messages: VecDeque<LogIndex>,
}

impl StateMachine for Queue {
    fn apply(&mut self, entries: &[Entry], outputs: &mut Vec<Bytes>) {
        for entry in entries {
            if entry.kind == EntryKind::Command {
                self.messages.push_back(entry.index);
            }
            outputs.push(Bytes::new());
        }
    }

    fn read(&self, query: &[u8]) -> Bytes {
        let at = query.try_into().map(u64::from_le_bytes).unwrap_or_default() as usize;
        let index = self.messages.get(at);
        let body = index.and_then(|index| self.bodies.as_ref()?.get(*index).ok());
        body.unwrap_or_default()
    }

    fn digest(&self) -> u64 {
        self.messages.len() as u64
    }

    fn snapshot(&self) -> Option<SnapshotPieces> {
        let indexes: Vec<u8> =
            self.messages.iter().flat_map(|index| index.get().to_le_bytes()).collect();
        Some(Box::new(std::iter::once(indexes.into())))
    }

    fn restore(&mut self, pieces: &mut dyn Iterator<Item = Bytes>) -> Result<(), RestoreError> {
        let indexes: Vec<u8> = pieces.flatten().collect();
        let indexes = indexes.as_chunks::<8>().0.iter();
        self.messages = indexes.map(|index| LogIndex::new(u64::from_le_bytes(*index))).collect();
        Ok(())
    }

    fn keeps_entries(&self) -> bool {
        true
    }

    fn attach(&mut self, bodies: Bodies) {
        self.bodies = Some(bodies);
    }

    fn live_entries(&self) -> Box<dyn Iterator<Item = LogIndex> + '_> {
        Box::new(self.messages.iter().copied())
    }
}

/// Noise: nothing on the way makes it shorter.
fn body(number: u64) -> Bytes {
    let mut state = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(BODY_BYTES);
    while bytes.len() < BODY_BYTES {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.into()
}

fn main() -> anyhow::Result<()> {
    // Cargo passes `--bench`.
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let mib: u64 = arguments.next().map_or(Ok(256), |mib| mib.parse())?;
    let dir = arguments.next().map_or_else(tempfile::tempdir, tempfile::tempdir_in)?;
    let count = (mib << 20) / BODY_BYTES as u64;
    let megabytes = (count * BODY_BYTES as u64) as f64 / 1e6;

    let mut nodes = Nodes { dir: dir.path().to_owned(), hosts: Vec::new(), addresses: Vec::new() };
    for node in 1..=3 {
        let (name, options) = (NodeId::new(node), raft_storage::InitOptions::default());
        raft_storage::init(&nodes.path(node), "bench", name, &options)?;
        nodes.start(node)?;
    }
    let spec = GroupSpec::on_nodes(GROUP, (1..=3).map(NodeId::new));
    for host in nodes.hosts.iter().flatten() {
        host.create_group(spec.clone())?;
    }
    nodes.stop(3);

    let leader = nodes.leader()?;
    let begun = Instant::now();
    let mut open = VecDeque::new();
    for number in 0..count {
        if open.len() == OPEN
            && let Some(ticket) = open.pop_front()
        {
            raft_harness::Ticket::wait(ticket)?;
        }
        open.push_back(leader.propose(GROUP, body(number)));
    }
    for ticket in open {
        ticket.wait()?;
    }
    let loaded = begun.elapsed();
    let mut snapshot = 0;
    for node in [1, 2] {
        let taken = nodes.host(node)?.take_snapshot(GROUP).wait()?;
        wait_until(|| {
            let status = nodes.host(node).ok().and_then(|host| host.group_status(GROUP));
            status.is_some_and(|status| status.base_index.get() + 100 > taken.index.get())
        })?;
        snapshot = snapshot.max(newest_snapshot(&nodes.path(node))?);
    }
    println!("{count} bodies of {BODY_BYTES} B, {megabytes:.0} MB, on two nodes");
    println!("loaded at        {:8.1} MB/s", megabytes / loaded.as_secs_f64());
    println!("snapshot         {:8.1} kB", snapshot as f64 / 1e3);
    for node in [1, 2] {
        let counters = nodes.host(node)?.status().counters;
        let once = counters.log_bytes as f64 / (megabytes * 1e6);
        let moved = counters.log_bytes_moved as f64 / (megabytes * 1e6);
        println!("node {node}, log bytes per body byte {once:.3}, written again {moved:.3}");
    }

    let disk = bare_disk(&dir.path().join("probe"), mib)?;
    let wire = bare_wire(mib)?;
    let begun = Instant::now();
    nodes.start(3)?;
    let last = leader.group_status(GROUP).context("it leads")?.snapshot_index;
    wait_until(|| {
        let status = nodes.host(3).ok().and_then(|host| host.group_status(GROUP));
        status.is_some_and(|status| status.snapshot_index >= last)
    })?;
    let rate = megabytes / begun.elapsed().as_secs_f64();
    let counters = nodes.host(3)?.status().counters;
    let once = counters.log_bytes as f64 / (megabytes * 1e6);
    println!("transfer         {rate:8.1} MB/s, log bytes per body byte {once:.3}");
    println!("bare disk        {disk:8.1} MB/s, bare wire {wire:.1} MB/s");
    println!("of the slower    {:8.2}", rate / disk.min(wire));

    // It serves what it was sent.
    wait_until(|| {
        let led = nodes.leader().is_ok_and(|host| host.node() == NodeId::new(3));
        if !led && let Ok(host) = nodes.leader() {
            let _ = host.transfer_leadership(GROUP, Some(NodeId::new(3))).wait();
        }
        led
    })?;
    for at in [0, count / 2, count - 1] {
        let query = Bytes::copy_from_slice(&at.to_le_bytes());
        let found = nodes.host(3)?.read(GROUP, query).wait()?;
        ensure!(found == body(at), "body {at} is another one");
    }
    for node in 1..=3 {
        nodes.stop(node);
    }
    Ok(())
}

struct Nodes {
    dir: PathBuf,
    hosts: Vec<Option<NodeHost>>,
    addresses: Vec<String>,
}

impl Nodes {
    fn path(&self, node: u64) -> PathBuf {
        self.dir.join(format!("n{node}"))
    }

    fn host(&self, node: u64) -> anyhow::Result<&NodeHost> {
        self.hosts.get(node as usize - 1).and_then(Option::as_ref).context("it does not run")
    }

    fn start(&mut self, node: u64) -> anyhow::Result<()> {
        let peer = |other: u64| PeerOptions {
            node: NodeId::new(other),
            address: self.addresses.get(other as usize - 1).cloned().unwrap_or_default(),
        };
        let options = NodeOptions {
            node: NodeId::new(node),
            cluster: "bench".to_owned(),
            peers: (1..=3).filter(|other| *other != node).map(peer).collect(),
            log: LogKind::Directory {
                path: self.path(node),
                options: raft_storage::LogOptions::default(),
            },
            snapshot_tail: 0,
            ..NodeOptions::default()
        };
        let factory =
            |_: GroupId, _: &GroupSpec| -> Box<dyn StateMachine> { Box::new(Queue::default()) };
        let host = NodeHost::start(options, Arc::new(factory))?;
        let address = host.listen_addr().context("it listens")?.to_string();
        for other in self.hosts.iter().flatten() {
            other.set_peer_address(NodeId::new(node), &address);
        }
        let at = node as usize - 1;
        self.hosts.resize_with(self.hosts.len().max(at + 1), || None);
        self.addresses.resize_with(self.addresses.len().max(at + 1), String::new);
        self.hosts[at] = Some(host);
        self.addresses[at] = address;
        Ok(())
    }

    fn stop(&mut self, node: u64) {
        if let Some(host) = self.hosts.get_mut(node as usize - 1).and_then(Option::take) {
            host.stop();
        }
    }

    fn leader(&self) -> anyhow::Result<NodeHost> {
        let mut found = None;
        wait_until(|| {
            let led = |host: &&NodeHost| host.leader_of(GROUP) == Some(host.node());
            found = self.hosts.iter().flatten().find(led).cloned();
            found.is_some()
        })?;
        found.context("nobody leads")
    }
}

fn wait_until(mut is_so: impl FnMut() -> bool) -> anyhow::Result<()> {
    let end = Instant::now() + Duration::from_secs(600);
    while !is_so() {
        ensure!(Instant::now() < end, "it never came to be so");
        std::thread::park_timeout(Duration::from_millis(2));
    }
    Ok(())
}

fn newest_snapshot(node: &Path) -> anyhow::Result<u64> {
    let mut newest = (0, 0);
    for file in std::fs::read_dir(node.join("snapshots"))? {
        let file = file?;
        let name = file.file_name().into_string().unwrap_or_default();
        let index = name.split('-').nth(2).and_then(|index| index.parse::<u64>().ok());
        newest = newest.max((index.unwrap_or(0), file.metadata()?.len()));
    }
    Ok(newest.1)
}

/// MB/s of writing over what was written.
fn bare_disk(path: &Path, mib: u64) -> anyhow::Result<f64> {
    let mib = mib.min(256);
    let chunk: Vec<u8> = (0..64).flat_map(body).collect();
    let file: File = OpenOptions::new().create_new(true).write(true).open(path)?;
    let mut took = Duration::ZERO;
    for content in [vec![0; chunk.len()], chunk] {
        let begun = Instant::now();
        for at in 0..mib {
            file.write_all_at(&content, at << 20)?;
            if at % 8 == 7 {
                file.sync_data()?;
            }
        }
        file.sync_data()?;
        took = begun.elapsed();
    }
    std::fs::remove_file(path)?;
    Ok(((mib << 20) as f64) / 1e6 / took.as_secs_f64())
}

/// MB/s over a loopback socket.
fn bare_wire(mib: u64) -> anyhow::Result<f64> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut out = TcpStream::connect(listener.local_addr()?)?;
    let (mut incoming, _) = listener.accept()?;
    let begun = Instant::now();
    let writer = std::thread::spawn(move || -> std::io::Result<()> {
        let chunk = vec![7; 192 << 10];
        for _ in 0..(mib << 20) / chunk.len() as u64 {
            out.write_all(&chunk)?;
        }
        Ok(())
    });
    let mut buffer = vec![0; 256 << 10];
    let mut bytes = 0;
    loop {
        match incoming.read(&mut buffer)? {
            0 => break,
            more => bytes += more,
        }
    }
    writer.join().ok().context("the writer panicked")??;
    Ok(bytes as f64 / 1e6 / begun.elapsed().as_secs_f64())
}
