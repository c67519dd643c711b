//! Whole nodes with what the engine's simulation cannot have: real threads, several shards,
//! apply workers that break.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use bytes::Bytes;
use raft_core::{Entry, EntryKind, GroupId, NodeId};
use raft_harness::{
    ApplyMode, CreateError, Created, Event, GroupSpec, LogKind, NetworkOptions, NodeHost,
    NodeOptions, PeerOptions, RequestError, StartError, StateMachine,
};
use raft_transport::{Accepted, BoxFuture, BoxStream, Lane, Network, NetworkError};

const PATIENCE: Duration = Duration::from_secs(20);

/// Counts commands; the output is the count. `boom` breaks it, `mute` has no output, and `freeze`
/// lasts until somebody says [`thaw`].
struct Counter {
    mode: ApplyMode,
    count: u64,
    hash: u64,
}

impl StateMachine for Counter {
    fn apply(&mut self, entries: &[Entry], outputs: &mut Vec<Bytes>) {
        for entry in entries {
            if entry.kind == EntryKind::Command {
                assert_ne!(&entry.payload[..], b"boom", "as asked");
                if &entry.payload[..] == b"freeze" {
                    freeze();
                }
                self.count += 1;
                for byte in &entry.payload {
                    self.hash = (self.hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
                }
            }
            if entry.kind != EntryKind::Command || &entry.payload[..] != b"mute" {
                outputs.push(Bytes::copy_from_slice(&self.count.to_le_bytes()));
            }
        }
    }

    fn read(&self, query: &[u8]) -> Bytes {
        assert_ne!(query, b"boom", "as asked");
        Bytes::copy_from_slice(&self.count.to_le_bytes())
    }

    fn digest(&self) -> u64 {
        self.hash ^ self.count
    }

    fn mode(&self) -> ApplyMode {
        self.mode
    }
}

static FROZEN: (Mutex<bool>, Condvar) = (Mutex::new(false), Condvar::new());

/// Stands still until [`thaw`].
fn freeze() {
    let (frozen, changed) = &FROZEN;
    let mut frozen = frozen.lock().expect("nobody panics with it");
    *frozen = true;
    changed.notify_all();
    drop(changed.wait_while(frozen, |frozen| *frozen));
}

/// Waits until somebody stands still.
fn wait_for_frost() {
    let (frozen, changed) = &FROZEN;
    let frozen = frozen.lock().expect("nobody panics with it");
    drop(changed.wait_while(frozen, |frozen| !*frozen));
}

fn thaw() {
    let (frozen, changed) = &FROZEN;
    *frozen.lock().expect("nobody panics with it") = false;
    changed.notify_all();
}

/// Groups with an even id apply inline, the others on a worker.
fn mode(group: GroupId) -> ApplyMode {
    if group.get().is_multiple_of(2) { ApplyMode::Inline } else { ApplyMode::Worker }
}

fn group(id: u32) -> GroupId {
    GroupId::new(id)
}

fn nodes(count: u64) -> impl Iterator<Item = NodeId> + Clone {
    (1..=count).map(NodeId::new)
}

fn number(bytes: &Bytes) -> anyhow::Result<u64> {
    Ok(u64::from_le_bytes(bytes[..].try_into()?))
}

fn directory(root: &Path, node: NodeId) -> LogKind {
    LogKind::Directory {
        path: root.join(node.to_string()),
        options: raft_storage::LogOptions {
            segment_bytes: 1 << 20,
            ..raft_storage::LogOptions::default()
        },
    }
}

fn options(node: NodeId, peers: impl Iterator<Item = NodeId>) -> NodeOptions {
    let peers = peers.filter(|peer| *peer != node);
    let peers = peers.map(|node| PeerOptions { node, address: String::new() });
    NodeOptions { node, peers: peers.collect(), apply_workers: 2, ..NodeOptions::default() }
}

fn start(options: NodeOptions) -> Result<NodeHost, StartError> {
    let factory = |group: GroupId, _: &GroupSpec| -> Box<dyn StateMachine> {
        Box::new(Counter { mode: mode(group), count: 0, hash: 7 })
    };
    NodeHost::start(options, Arc::new(factory))
}

struct Cluster(BTreeMap<NodeId, NodeHost>);

impl Cluster {
    /// One node for each number, with so many shards; in memory without a `root`.
    fn start(shards: &[usize], root: Option<&Path>) -> anyhow::Result<Self> {
        let ids = nodes(shards.len() as u64);
        let mut hosts = BTreeMap::new();
        for (node, shards) in ids.clone().zip(shards) {
            let mut options = options(node, ids.clone());
            options.shards = *shards;
            if let Some(root) = root {
                options.log = directory(root, node);
            }
            hosts.insert(node, start(options)?);
        }
        for host in hosts.values() {
            for other in hosts.values() {
                let address = other.listen_addr().context("it listens on TCP")?;
                host.set_peer_address(other.node(), &address.to_string());
            }
        }
        Ok(Self(hosts))
    }

    fn init(root: &Path, count: u64) -> anyhow::Result<()> {
        for node in nodes(count) {
            let path = root.join(node.to_string());
            raft_storage::init(&path, "cluster", node, &raft_storage::InitOptions::default())?;
        }
        Ok(())
    }

    fn create(&self, ids: impl Iterator<Item = u32> + Clone) -> anyhow::Result<()> {
        for host in self.0.values() {
            for id in ids.clone() {
                host.create_group(GroupSpec::on_nodes(group(id), self.0.keys().copied()))?;
            }
        }
        Ok(())
    }

    fn ask<T>(
        &self,
        group: GroupId,
        ask: impl Fn(&NodeHost) -> Result<T, RequestError>,
    ) -> anyhow::Result<T> {
        let end = Instant::now() + PATIENCE;
        loop {
            let leader = self.0.values().find(|host| host.leader_of(group) == Some(host.node()));
            match leader.map(&ask) {
                Some(Ok(answer)) => return Ok(answer),
                Some(Err(error)) if !error.is_safe_to_retry() => bail!("group {group}: {error}"),
                Some(Err(_)) | None if Instant::now() < end => {
                    std::thread::park_timeout(Duration::from_millis(5));
                }
                Some(Err(error)) => bail!("group {group}: {error}"),
                None => bail!("group {group} has no leader"),
            }
        }
    }

    fn propose(&self, group: GroupId, command: Bytes) -> anyhow::Result<u64> {
        number(&self.ask(group, |host| host.propose(group, command.clone()).wait())?.output)
    }

    fn count(&self, group: GroupId) -> anyhow::Result<u64> {
        number(&self.ask(group, |host| host.read(group, Bytes::new()).wait())?)
    }

    /// Waits until all replicas are equal, in what they say of themselves as well.
    fn agree(&self, group: GroupId) -> anyhow::Result<()> {
        let end = Instant::now() + PATIENCE;
        loop {
            let mut views = Vec::new();
            for host in self.0.values() {
                let (index, digest) = host.digest(group).wait()?;
                let status = host.group_status(group).context("the group is here")?;
                views.push((index, digest, status.applied_index, status.applied_commands));
            }
            let settled = views.iter().all(|view| *view == views[0]) && views[0].0 == views[0].2;
            if settled {
                return Ok(());
            }
            if Instant::now() > end {
                bail!("group {group}: {views:?}");
            }
            std::thread::park_timeout(Duration::from_millis(10));
        }
    }

    fn stop(self) {
        self.0.values().for_each(NodeHost::stop);
    }
}

#[test]
fn nodes_with_two_shards_each_serve_all_groups() -> anyhow::Result<()> {
    let cluster = Cluster::start(&[2, 2, 2], None)?;
    cluster.create(1..=8)?;
    for round in 1..=10 {
        for id in 1..=8 {
            assert_eq!(cluster.propose(group(id), Bytes::from_static(b"x"))?, round);
        }
    }
    for id in 1..=8 {
        assert_eq!(cluster.count(group(id))?, 10);
        cluster.agree(group(id))?;
    }
    cluster.stop();
    Ok(())
}

/// Messages arrive on lanes of other shards than the ones that own the groups, and answers find
/// their way back; on both apply modes, with appends large and small, and across a restart that
/// deals the groups out anew.
#[test]
fn nodes_with_different_shard_counts_pass_messages_on() -> anyhow::Result<()> {
    let root = tempfile::tempdir()?;
    Cluster::init(root.path(), 3)?;
    let cluster = Cluster::start(&[1, 2, 3], Some(root.path()))?;
    cluster.create(1..=6)?;
    for node in nodes(3) {
        for id in 1..=6 {
            let end = Instant::now() + PATIENCE;
            while cluster.0[&node].leader_of(group(id)) != Some(node) {
                // Refused while it is caught up with or another transfer runs: asked again.
                cluster.ask(group(id), |host| {
                    let _ = host.transfer_leadership(group(id), Some(node)).wait();
                    Ok(())
                })?;
                anyhow::ensure!(Instant::now() < end, "group {id} cannot be led by {node}");
            }
            cluster.propose(group(id), Bytes::from_static(b"small"))?;
            cluster.propose(group(id), Bytes::from(vec![3; 300 << 10]))?;
        }
    }
    for id in 1..=6 {
        assert_eq!(cluster.count(group(id))?, 6);
        cluster.agree(group(id))?;
    }
    cluster.stop();
    let cluster = Cluster::start(&[3, 1, 2], Some(root.path()))?;
    for id in 1..=6 {
        assert_eq!(cluster.propose(group(id), Bytes::from_static(b"more"))?, 7);
        assert_eq!(cluster.count(group(id))?, 7);
        cluster.agree(group(id))?;
    }
    cluster.stop();
    Ok(())
}

/// Replay fills the window of what an apply worker takes many times over.
#[test]
fn a_machine_on_a_worker_is_replayed_after_a_restart() -> anyhow::Result<()> {
    let root = tempfile::tempdir()?;
    Cluster::init(root.path(), 1)?;
    let cluster = Cluster::start(&[1], Some(root.path()))?;
    cluster.create(1..=1)?;
    cluster.propose(group(1), Bytes::from_static(b"first"))?;
    let host = &cluster.0[&NodeId::new(1)];
    let tickets: Vec<_> =
        (0..6000).map(|_| host.propose(group(1), Bytes::from(vec![1; 200]))).collect();
    for (at, ticket) in tickets.into_iter().enumerate() {
        assert_eq!(number(&ticket.wait()?.output)?, at as u64 + 2);
    }
    cluster.agree(group(1))?;
    let before = cluster.ask(group(1), |host| host.digest(group(1)).wait())?;
    cluster.stop();

    let cluster = Cluster::start(&[1], Some(root.path()))?;
    assert_eq!(cluster.count(group(1))?, 6001);
    let after = cluster.ask(group(1), |host| host.digest(group(1)).wait())?;
    assert_eq!(after.1, before.1);
    cluster.agree(group(1))?;
    cluster.stop();
    Ok(())
}

/// The poisoned command is in the log: after a restart its group is faulted again, and still nothing else.
#[test]
fn a_machine_that_panics_faults_its_group_and_nothing_else() -> anyhow::Result<()> {
    // On a worker and inline.
    for id in [1, 2] {
        let root = tempfile::tempdir()?;
        Cluster::init(root.path(), 1)?;
        let options = || {
            let mut options = options(NodeId::new(1), nodes(1));
            options.shards = 2;
            options.log = directory(root.path(), NodeId::new(1));
            options
        };
        let host = start(options())?;
        for id in 1..=4 {
            host.create_group(GroupSpec::on_nodes(group(id), nodes(1)))?;
            until("a leader", || {
                host.propose(group(id), Bytes::from_static(b"fine")).wait().is_ok()
            })?;
        }
        let boom = host.propose(group(id), Bytes::from_static(b"boom"));
        let after: Vec<_> =
            (0..100).map(|_| host.propose(group(id), Bytes::from_static(b"late"))).collect();
        let reads: Vec<_> = (0..100).map(|_| host.read(group(id), Bytes::new())).collect();
        assert_eq!(boom.wait().unwrap_err(), RequestError::Unknown);
        for ticket in after {
            assert!(ticket.wait().is_err());
        }
        for ticket in reads {
            let _ = ticket.wait();
        }
        let others_go_on = |host: &NodeHost| -> anyhow::Result<()> {
            until("a fault", || host.group_status(group(id)).is_some_and(|g| g.fault.is_some()))?;
            let fault = host.group_status(group(id)).and_then(|g| g.fault).unwrap_or_default();
            let at_work = format!("panicked at work for group {id}: ");
            anyhow::ensure!(fault.contains(&at_work) && fault.contains("as asked"), "{fault}");
            let refused = host.propose(group(id), Bytes::from_static(b"x")).wait().unwrap_err();
            assert_eq!(refused, RequestError::Faulted(group(id)));
            for other in (1..=4).filter(|other| *other != id) {
                until("the others", || {
                    host.propose(group(other), Bytes::from_static(b"fine")).wait().is_ok()
                })?;
            }
            assert_eq!(host.failure(), None);
            Ok(())
        };
        others_go_on(&host)?;
        host.stop();
        let host = start(options())?;
        others_go_on(&host)?;
        host.stop();
    }
    Ok(())
}

/// A query that a machine cannot stand costs whoever asked it an answer.
#[test]
fn a_read_that_panics_has_no_answer_and_harms_nobody_else() -> anyhow::Result<()> {
    let host = alone(1, 1..=2)?;
    for id in [1, 2] {
        let boom = host.read(group(id), Bytes::from_static(b"boom"));
        assert_eq!(boom.wait().unwrap_err(), RequestError::Faulted(group(id)));
        assert_eq!(number(&host.read(group(id), Bytes::new()).wait()?)?, 1);
        assert_eq!(number(&host.propose(group(id), Bytes::from_static(b"x")).wait()?.output)?, 2);
    }
    assert_eq!(host.status().unready(), Vec::<String>::new());
    host.stop();
    Ok(())
}

/// A factory that panics for one group, at its creation and at each start.
#[test]
fn a_group_whose_machine_cannot_be_made_is_faulted_and_the_node_starts() -> anyhow::Result<()> {
    let root = tempfile::tempdir()?;
    Cluster::init(root.path(), 1)?;
    let factory = |group: GroupId, _: &GroupSpec| -> Box<dyn StateMachine> {
        assert_ne!(group.get(), 2, "no machine for it");
        Box::new(Counter { mode: mode(group), count: 0, hash: 7 })
    };
    for _ in 0..2 {
        let mut options = options(NodeId::new(1), nodes(1));
        options.log = directory(root.path(), NodeId::new(1));
        let host = NodeHost::start(options, Arc::new(factory))?;
        for id in 1..=2 {
            host.create_group(GroupSpec::on_nodes(group(id), nodes(1)))?;
        }
        until("a leader", || host.propose(group(1), Bytes::from_static(b"fine")).wait().is_ok())?;
        until("a fault", || host.group_status(group(2)).is_some_and(|g| g.fault.is_some()))?;
        let fault = host.group_status(group(2)).and_then(|g| g.fault).unwrap_or_default();
        assert!(
            fault.contains("its factory panicked") && fault.contains("no machine for it"),
            "{fault}"
        );
        assert_eq!(host.failure(), None);
        host.stop();
    }
    Ok(())
}

/// One node with so many shards, on which these groups have leaders.
fn alone(shards: usize, groups: std::ops::RangeInclusive<u32>) -> anyhow::Result<NodeHost> {
    let mut options = options(NodeId::new(1), nodes(1));
    options.shards = shards;
    let host = start(options)?;
    for id in groups.clone() {
        host.create_group(GroupSpec::on_nodes(group(id), nodes(1)))?;
    }
    let end = Instant::now() + PATIENCE;
    for id in groups {
        while host.propose(group(id), Bytes::from_static(b"fine")).wait().is_err() {
            anyhow::ensure!(Instant::now() < end, "no leader");
        }
    }
    Ok(host)
}

/// Waits until it is so.
fn until(what: &str, mut is_so: impl FnMut() -> bool) -> anyhow::Result<()> {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        anyhow::ensure!(Instant::now() < end, "not within {PATIENCE:?}: {what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
    Ok(())
}

/// A network that reaches nobody. Whoever accepts on the data lane of the first shard panics when told.
struct Trap {
    sprung: tokio::sync::Notify,
}

impl Network for Trap {
    fn dial(
        &self,
        peer: NodeId,
        _lane: Lane,
        _timeout: Duration,
    ) -> BoxFuture<'_, Result<BoxStream, NetworkError>> {
        Box::pin(std::future::ready(Err(NetworkError::UnknownPeer { peer })))
    }

    fn accept(&self, lane: Lane) -> BoxFuture<'_, Result<Accepted, NetworkError>> {
        Box::pin(async move {
            if lane != (Lane::Data { shard: 0 }) {
                std::future::pending::<()>().await;
            }
            self.sprung.notified().await;
            panic!("as asked")
        })
    }

    fn set_peer(&self, _peer: NodeId, _addr: String) {}

    fn close(&self) {}
}

#[test]
fn a_panic_of_the_only_shard_is_the_nodes_failure() -> anyhow::Result<()> {
    let trap = Arc::new(Trap { sprung: tokio::sync::Notify::new() });
    let mut options = options(NodeId::new(1), nodes(2));
    options.shards = 1;
    options.network = NetworkOptions::Custom(Arc::clone(&trap) as Arc<dyn Network>);
    let host = start(options)?;
    host.create_group(GroupSpec::on_nodes(group(2), nodes(1)))?;
    until("a leader", || host.propose(group(2), Bytes::from_static(b"fine")).wait().is_ok())?;
    trap.sprung.notify_one();
    until("a failure", || host.failure().is_some())?;
    let failure = host.failure().unwrap_or_default();
    assert_eq!(failure, "raft-shard-0 panicked");
    let refused = host.propose(group(2), Bytes::from_static(b"x")).wait().unwrap_err();
    assert!(matches!(refused, RequestError::LogFailed | RequestError::Stopping), "{refused}");
    let status = host.status();
    assert_eq!(status.missing, ["raft-shard-0"]);
    assert_eq!(status.groups_missing, 1);
    assert_eq!(status.failure, Some(failure));
    let late = host.create_group(GroupSpec::on_nodes(group(9), nodes(1)));
    assert!(matches!(late, Err(CreateError::Stopping)), "{late:?}");
    host.stop();
    Ok(())
}

#[test]
fn a_shard_that_stands_still_is_missing_and_comes_back() -> anyhow::Result<()> {
    let host = alone(2, 1..=8)?;
    let well = host.status();
    assert_eq!((well.groups.len(), well.ailments()), (8, Vec::new()));
    // An even number: applied by the shard itself.
    let frozen = host.propose(group(2), Bytes::from_static(b"freeze"));
    wait_for_frost();
    let status = host.status();
    assert_eq!(status.missing.len(), 1, "{:?}", status.missing);
    assert!(status.missing[0].starts_with("raft-shard-"), "{:?}", status.missing);
    assert!(status.groups_missing > 0 && status.groups.iter().all(|g| g.group != group(2)));
    assert_eq!(status.groups.len() + status.groups_missing, 8);
    let unready = status.unready().join("; ");
    assert!(unready.contains(" does not answer"), "{unready}");
    assert_eq!(host.failure(), None, "it may go on");
    thaw();
    frozen.wait()?;
    until("all is well again", || host.status().unready().is_empty())?;
    host.stop();
    Ok(())
}

#[test]
fn a_machine_that_owes_an_output_mutes_its_group_and_nobody_gets_anothers_answer()
-> anyhow::Result<()> {
    // Inline and on a worker.
    for id in [2, 1] {
        let host = alone(1, 1..=2)?;
        let tickets: Vec<_> = (2..400_u64)
            .map(|count| {
                let command: &[u8] = if count == 200 { b"mute" } else { b"fine" };
                (count, host.propose(group(id), Bytes::copy_from_slice(command)))
            })
            .collect();
        let mut unknown = 0;
        for (count, ticket) in tickets {
            match ticket.wait() {
                Ok(answer) => assert_eq!(number(&answer.output)?, count),
                Err(RequestError::Unknown | RequestError::Faulted(_)) => unknown += 1,
                Err(error) => bail!("{error}"),
            }
        }
        assert!(unknown >= 200, "{unknown} after the one without an output");
        until("a fault", || host.group_status(group(id)).is_some_and(|g| g.fault.is_some()))?;
        let status = host.group_status(group(id)).context("the group is here")?;
        let fault = status.fault.unwrap_or_default();
        assert!(fault.contains(" outputs for the "), "{fault}");
        // The first entry is the leader's own.
        assert!(status.applied_index.get() < 201, "{}", status.applied_index);
        let read = host.read(group(id), Bytes::new()).wait();
        assert_eq!(read.unwrap_err(), RequestError::Faulted(group(id)));
        let digest = host.digest(group(id)).wait();
        assert_eq!(digest.unwrap_err(), RequestError::Faulted(group(id)));
        // The node and its other groups go on.
        assert_eq!(host.failure(), None);
        let other = group(3 - id);
        assert_eq!(number(&host.propose(other, Bytes::from_static(b"fine")).wait()?.output)?, 2);
        assert!(host.status().unready().join("; ").contains("1 of 2 groups faulted"));
        host.stop();
    }
    Ok(())
}

/// A node that comes up without one of a group's peers keeps the group in its log as it is: that
/// one has voted, and who belongs to it is for its own log to say.
#[test]
fn a_group_with_a_peer_nobody_knows_any_more_is_not_created_anew() -> anyhow::Result<()> {
    let root = tempfile::tempdir()?;
    Cluster::init(root.path(), 3)?;
    let cluster = Cluster::start(&[1, 1, 1], Some(root.path()))?;
    cluster.create(1..=1)?;
    cluster.propose(group(1), Bytes::from_static(b"kept"))?;
    cluster.agree(group(1))?;
    cluster.stop();

    let mut without = options(NodeId::new(1), nodes(2));
    without.log = directory(root.path(), NodeId::new(1));
    let host = start(without)?;
    let again = host.create_group(GroupSpec::on_nodes(group(1), nodes(2)));
    assert!(matches!(again, Err(CreateError::SpecDiffers { .. })), "{again:?}");
    host.stop();

    let cluster = Cluster::start(&[1, 1, 1], Some(root.path()))?;
    assert_eq!(cluster.count(group(1))?, 1);
    cluster.agree(group(1))?;
    cluster.stop();
    Ok(())
}

#[test]
fn the_factory_is_asked_once_for_each_group() -> anyhow::Result<()> {
    let made = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&made);
    let factory = move |group: GroupId, _: &GroupSpec| -> Box<dyn StateMachine> {
        count.fetch_add(1, Relaxed);
        Box::new(Counter { mode: mode(group), count: 0, hash: 7 })
    };
    let host = NodeHost::start(options(NodeId::new(1), nodes(1)), Arc::new(factory))?;
    let spec = GroupSpec::on_nodes(group(1), nodes(1));
    let created = std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..4).map(|_| scope.spawn(|| host.create_group(spec.clone()))).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect::<Vec<_>>()
    });
    let new = created.iter().filter(|created| matches!(created, Ok(Created::New))).count();
    let old = created.iter().filter(|created| matches!(created, Ok(Created::Existed))).count();
    assert_eq!((new, old, made.load(Relaxed)), (1, 3, 1));
    host.stop();
    Ok(())
}

#[test]
fn a_command_limit_beyond_frames_is_refused_at_the_start() {
    let mut options = options(NodeId::new(1), nodes(1));
    options.command_bytes_max = 65 << 20;
    let refused = start(options).map(|_| ()).unwrap_err();
    assert!(matches!(refused, StartError::Options(_)), "{refused}");
}

#[test]
fn frames_too_small_for_a_message_are_refused_at_the_start() {
    let narrow: [fn(&mut NodeOptions) -> &mut u64; 3] = [
        |options| &mut options.lanes.control.frame_bytes_max,
        |options| &mut options.lanes.data.frame_bytes_max,
        |options| &mut options.lanes.bulk.frame_bytes_max,
    ];
    for narrow in narrow {
        let mut options = options(NodeId::new(1), nodes(1));
        // An offer of a snapshot with five members takes more.
        (*narrow(&mut options), options.command_bytes_max) = (150, 0);
        let refused = start(options).map(|_| ()).unwrap_err();
        assert!(matches!(refused, StartError::Options(_)), "{refused}");
    }
}

#[test]
fn groups_that_sleep_are_refused_at_the_start() {
    let mut options = options(NodeId::new(1), nodes(1));
    options.settings.quiesce_after = Some(Duration::from_secs(5));
    let refused = start(options).map(|_| ()).unwrap_err();
    assert!(matches!(refused, StartError::SleepNotBuilt), "{refused}");
}

#[test]
fn a_port_per_group_is_refused_at_the_start() {
    let mux = raft_mux::MuxConfig {
        layout: raft_mux::PortLayout::PortPerGroup,
        ..raft_mux::MuxConfig::default()
    };
    let listen = "127.0.0.1:0".parse().expect("an address");
    let options = NodeOptions {
        network: NetworkOptions::Tcp { listen, mux },
        ..options(NodeId::new(1), nodes(1))
    };
    let refused = start(options).map(|_| ()).unwrap_err();
    assert!(refused.to_string().contains("a port per group"), "{refused}");
}

#[test]
fn a_node_that_stops_under_load_answers_every_client() -> anyhow::Result<()> {
    for durable in [false, true] {
        let root = tempfile::tempdir()?;
        Cluster::init(root.path(), 1)?;
        let cluster = Cluster::start(&[2], durable.then_some(root.path()))?;
        cluster.create(1..=4)?;
        for id in 1..=4 {
            cluster.propose(group(id), Bytes::from_static(b"x"))?;
        }
        let host = &cluster.0[&NodeId::new(1)];
        let acknowledged = std::thread::scope(|scope| {
            let clients: Vec<_> = (1..=4)
                .map(|id| {
                    scope.spawn(move || {
                        let mut acknowledged = 1;
                        loop {
                            let tickets: Vec<_> = (0..50)
                                .map(|_| host.propose(group(id), Bytes::from_static(b"x")))
                                .collect();
                            for ticket in tickets {
                                match ticket.wait() {
                                    Ok(_) => acknowledged += 1,
                                    Err(RequestError::Stopping) => return acknowledged,
                                    Err(_) => {}
                                }
                            }
                        }
                    })
                })
                .collect();
            std::thread::park_timeout(Duration::from_millis(100));
            host.stop();
            host.stop();
            clients.into_iter().map(|client| client.join().expect("no panic")).collect::<Vec<u64>>()
        });
        if durable {
            let cluster = Cluster::start(&[2], Some(root.path()))?;
            for (id, acknowledged) in (1..=4).zip(acknowledged) {
                assert!(cluster.count(group(id))? >= acknowledged, "group {id}");
            }
            cluster.stop();
        }
    }
    Ok(())
}

/// What a node tells of itself, in order, and to whom comes too late for it.
#[tokio::test(flavor = "multi_thread")]
async fn who_listens_hears_of_leaders_members_snapshots_faults_and_the_end() -> anyhow::Result<()> {
    let host = tokio::task::spawn_blocking(|| start(options(NodeId::new(1), nodes(1)))).await??;
    let mut events = host.events();
    let specs = (1..=2).map(|id| GroupSpec::on_nodes(group(id), nodes(1)));
    for created in host.create_groups(specs).all().await {
        assert_eq!(created?, Created::New);
    }
    for id in 1..=2 {
        assert_eq!(host.wait_leader(group(id), PATIENCE).await, Some(NodeId::new(1)));
    }
    let mut led = Vec::new();
    while led.len() < 2 {
        match events.next().await {
            Some(Event::Leader { group, leader: Some(leader) }) => led.push((group, leader)),
            Some(Event::Leader { leader: None, .. }) | Some(Event::Members { .. }) => {}
            other => bail!("{other:?}"),
        }
    }
    led.sort();
    assert_eq!(led, [(group(1), NodeId::new(1)), (group(2), NodeId::new(1))]);
    assert_eq!(
        host.propose(group(1), Bytes::from_static(b"boom")).await,
        Err(RequestError::Unknown)
    );
    loop {
        match events.next().await {
            Some(Event::Faulted { group: faulted, why }) => {
                assert_eq!(faulted, group(1));
                assert!(why.contains("as asked"), "{why}");
                break;
            }
            Some(_) => {}
            None => bail!("the end came before the fault"),
        }
    }
    let stopping = host.clone();
    tokio::task::spawn_blocking(move || stopping.stop()).await?;
    while events.next().await.is_some() {}
    assert_eq!(host.wait_leader(group(9), Duration::from_millis(1)).await, None);
    let late = host.create_groups([GroupSpec::on_nodes(group(9), nodes(1))]).all().await;
    assert!(matches!(late[..], [Err(CreateError::Stopping)]), "{late:?}");
    Ok(())
}

/// Of many groups each is made or refused by itself.
#[test]
fn many_groups_are_created_at_once_and_led_without_delay() -> anyhow::Result<()> {
    let root = tempfile::tempdir()?;
    Cluster::init(root.path(), 3)?;
    let cluster = Cluster::start(&[1, 1, 1], Some(root.path()))?;
    let specs = || (1..=300).map(|id| GroupSpec::on_nodes(group(id), nodes(3)));
    for host in cluster.0.values() {
        let bad = GroupSpec::on_nodes(group(301), [NodeId::new(9)]);
        let ended = host.create_groups(specs().chain([bad])).wait();
        assert_eq!(ended.len(), 301);
        assert!(ended[..300].iter().all(|made| matches!(made, Ok(Created::New))), "{ended:?}");
        assert!(matches!(ended[300], Err(CreateError::BadSpec { .. })), "{:?}", ended[300]);
    }
    for host in cluster.0.values() {
        for id in 1..=300 {
            assert!(host.wait_leader_blocking(group(id), PATIENCE).is_some(), "group {id}");
        }
        let again = host.create_groups(specs()).wait();
        assert!(again.iter().all(|made| matches!(made, Ok(Created::Existed))));
    }
    cluster.stop();
    Ok(())
}

/// A replica answers from what it has applied, once that is as far as is asked for.
#[test]
fn a_local_read_waits_for_its_index_and_for_nothing_else() -> anyhow::Result<()> {
    let cluster = Cluster::start(&[1, 2, 1], None)?;
    // Inline and on a worker.
    cluster.create(1..=2)?;
    for id in 1..=2 {
        for count in 1..=20 {
            assert_eq!(cluster.propose(group(id), Bytes::from_static(b"x"))?, count);
        }
        let leader = cluster.0[&NodeId::new(1)]
            .wait_leader_blocking(group(id), PATIENCE)
            .context("a leader")?;
        let last = cluster.0[&leader].propose(group(id), Bytes::from_static(b"x")).wait()?.index;
        for host in cluster.0.values() {
            let read = host.read_local(group(id), last, Bytes::new()).wait()?;
            assert_eq!(number(&read)?, 21, "node {}", host.node());
            assert!(host.wait_applied(group(id), last).wait()? >= last);
            let at_once = host.read_local(group(id), raft_core::LogIndex::ZERO, Bytes::new());
            assert!(number(&at_once.wait()?)? >= 21);
        }
        // What nobody waits for any more takes no room: far more are dropped than may be open.
        let host = &cluster.0[&leader];
        let far = raft_core::LogIndex::new(1 << 40);
        for _ in 0..NodeOptions::default().requests_max * 2 {
            drop(host.wait_applied(group(id), far));
        }
        // The inbox may still be full of them.
        until("a read", || {
            let read = host.read(group(id), Bytes::new()).wait();
            read.is_ok_and(|read| number(&read).is_ok_and(|count| count == 21))
        })?;
        until("a wait", || host.wait_applied(group(id), last).wait().is_ok())?;
    }
    let host = &cluster.0[&NodeId::new(1)];
    let nowhere = host.read_local(group(9), raft_core::LogIndex::ZERO, Bytes::new()).wait();
    assert_eq!(nowhere.unwrap_err(), RequestError::UnknownGroup(group(9)));
    cluster.stop();
    Ok(())
}
