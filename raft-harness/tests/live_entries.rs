//! State machines that leave the payloads of commands in the log: their snapshots are small, every
//! body is on the disk once and is read by its index, and its space comes back when a durable snapshot
//! does not name it any more.

mod common;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use common::Cluster;
use common::queue::{Queue, body, name_wrongly, pop, push};
use raft_core::{GroupId, LogIndex, NodeId};
use raft_harness::{
    CreateError, GroupSpec, LogKind, NodeHost, NodeOptions, RequestError, StateMachine,
};
use raft_storage::{Expected, Log, LogOptions};

const GROUP: GroupId = GroupId::new(1);

fn queue() -> Box<dyn StateMachine> {
    Box::new(Queue::default())
}

/// The body at a place of the queue, wherever it is led.
fn get(cluster: &Cluster, at: u64) -> anyhow::Result<Bytes> {
    let leader = cluster.leader(GROUP)?;
    Ok(leader.read(GROUP, Bytes::copy_from_slice(&at.to_le_bytes())).wait()?)
}

fn snapshot_bytes(cluster: &Cluster, node: u64) -> anyhow::Result<u64> {
    let mut newest = (0, 0);
    for file in std::fs::read_dir(cluster.dir(NodeId::new(node)).join("snapshots"))? {
        let file = file?;
        let name = file.file_name().into_string().unwrap_or_default();
        let index = name.split('-').nth(2).and_then(|index| index.parse().ok()).unwrap_or(0);
        newest = newest.max((index, file.metadata()?.len()));
    }
    Ok(newest.1)
}

#[test]
fn bodies_outlive_the_log_and_its_snapshot_and_come_back_after_a_restart() -> anyhow::Result<()> {
    let mut cluster = Cluster::durable_of(1, queue)?;
    cluster.create_groups([1])?;
    for number in 0..200 {
        cluster.propose(GROUP, push(&body(number, 20_000)))?;
    }
    cluster.host(1).take_snapshot(GROUP).wait()?;
    cluster.compacted(1, GROUP, LogIndex::new(180))?;
    assert!(snapshot_bytes(&cluster, 1)? < 8_000, "for 4 MB of bodies");
    for at in [0, 7, 199] {
        assert_eq!(get(&cluster, at)?, body(at, 20_000));
    }
    // Between two snapshots some go and others come; the first restart replays that.
    for number in 200..220 {
        cluster.propose(GROUP, pop())?;
        cluster.propose(GROUP, push(&body(number, 20_000)))?;
    }
    for _ in 0..3 {
        cluster.restart_all()?;
        cluster.leader(GROUP)?;
        for at in [0, 100, 199] {
            assert_eq!(get(&cluster, at)?, body(at + 20, 20_000));
        }
        cluster.leader(GROUP)?.take_snapshot(GROUP).wait()?;
    }
    // All go, and so does their space.
    for _ in 0..200 {
        cluster.propose(GROUP, pop())?;
    }
    assert!(in_log(&mut cluster)?.1 > 150, "the last durable snapshot names them still");
    cluster.start(NodeId::new(1))?;
    // A read waits until what came after the snapshot is applied again.
    cluster.read_count(GROUP)?;
    cluster.leader(GROUP)?.take_snapshot(GROUP).wait()?;
    let base = cluster.leader(GROUP)?.group_status(GROUP).context("it is here")?.snapshot_index;
    cluster.compacted(1, GROUP, LogIndex::new(base.get() - 10))?;
    assert_eq!(in_log(&mut cluster)?.1, 0);
    Ok(())
}

/// The first index of the log of node 1, and how many entries it keeps from before that. It is stopped.
fn in_log(cluster: &mut Cluster) -> anyhow::Result<(u64, u64)> {
    cluster.stop(NodeId::new(1));
    let dir = cluster.dir(NodeId::new(1));
    let opened = Log::open(&dir, &Expected::default(), &LogOptions::default())?;
    let first = opened.reader.first_index(GROUP).context("it is here")?;
    Ok((first.get(), opened.reader.live(GROUP).count()))
}

#[test]
fn naming_what_is_not_there_faults_the_group_and_nothing_else() -> anyhow::Result<()> {
    // A no-op, an entry that was let go of before the last snapshot, and one that is still to come.
    for (index, word) in [(1, "no command"), (2, "no command"), (1_000, "no command")] {
        let cluster = Cluster::durable_of(1, queue)?;
        cluster.create_groups([1, 2])?;
        for number in 0..3 {
            cluster.propose(GROUP, push(&body(number, 100)))?;
        }
        cluster.propose(GROUP, pop())?;
        cluster.propose(GROUP, pop())?;
        let host = cluster.leader(GROUP)?;
        host.take_snapshot(GROUP).wait()?;
        cluster.propose(GROUP, name_wrongly(index))?;
        assert!(host.take_snapshot(GROUP).wait().is_err());
        let status = host.group_status(GROUP).context("it is here")?;
        let why = status.fault.context("it is faulted")?;
        assert!(why.contains(word) && why.contains(&format!("entry {index}")), "{why}");
        let read = host.read(GROUP, Bytes::new()).wait();
        assert!(read.is_err(), "{read:?}");
        cluster.propose(GroupId::new(2), push(b"all is well here"))?;
    }
    Ok(())
}

#[test]
fn a_body_that_cannot_be_read_is_damage_of_this_replica_and_no_answer() -> anyhow::Result<()> {
    let mut cluster = Cluster::durable_of(1, queue)?;
    cluster.create_groups([1])?;
    for number in 0..100 {
        cluster.propose(GROUP, push(&body(number, 20_000)))?;
    }
    cluster.host(1).take_snapshot(GROUP).wait()?;
    cluster.compacted(1, GROUP, LogIndex::new(80))?;
    let dir = cluster.dir(NodeId::new(1));
    // A bit of one body, in a segment that no start reads any more.
    let wanted = &body(30, 20_000)[8..200];
    let mut flipped = false;
    for file in std::fs::read_dir(&dir)? {
        let path = file?.path();
        if path.extension().is_some_and(|extension| extension == "seg") {
            let mut bytes = std::fs::read(&path)?;
            let found = bytes.windows(wanted.len()).position(|window| window == wanted);
            if let Some(at) = found {
                bytes[at + 100] ^= 4;
                use std::os::unix::fs::FileExt;
                let file = std::fs::OpenOptions::new().write(true).open(&path)?;
                file.write_all_at(&bytes[at + 100..at + 101], (at + 100) as u64)?;
                flipped = true;
            }
        }
    }
    assert!(flipped);
    let host = cluster.leader(GROUP)?;
    assert_eq!(get(&cluster, 29)?, body(29, 20_000));
    let answer = host.read(GROUP, Bytes::copy_from_slice(&30_u64.to_le_bytes())).wait();
    assert!(matches!(answer, Err(RequestError::Faulted(GROUP))), "{answer:?}");
    common::until(|| host.group_status(GROUP).is_some_and(|status| status.fault.is_some()));
    let why = host.group_status(GROUP).and_then(|status| status.fault).unwrap_or_default();
    assert!(why.contains("damaged"), "{why}");
    cluster.stop(NodeId::new(1));
    Ok(())
}

#[test]
fn a_node_without_a_log_takes_no_machine_that_leaves_bodies_in_it() -> anyhow::Result<()> {
    let options =
        NodeOptions { log: LogKind::Memory { keep_bytes: None }, ..NodeOptions::default() };
    let host = NodeHost::start(options, Arc::new(|_: GroupId, _: &GroupSpec| queue()))?;
    match host.create_group(GroupSpec::on_nodes(GROUP, [host.node()])) {
        Err(CreateError::BadSpec { why, .. }) => assert!(why.contains("keeps no log"), "{why}"),
        other => panic!("{other:?}"),
    }
    host.stop();
    Ok(())
}

#[test]
fn a_replica_far_behind_gets_the_snapshot_and_then_the_bodies_it_lacks() -> anyhow::Result<()> {
    let mut cluster = Cluster::durable_of(3, queue)?;
    cluster.create_groups([1])?;
    // These it has.
    for number in 0..30 {
        cluster.propose(GROUP, push(&body(number, 5_000)))?;
    }
    cluster.agree(GROUP)?;
    let away = NodeId::new(3);
    cluster.stop(away);
    for number in 30..330 {
        // Some are longer than what one answer holds.
        let bytes = if number % 50 == 0 { 700_000 } else { 3_000 };
        cluster.propose_on(&[1, 2], GROUP, push(&body(number, bytes)))?;
    }
    for _ in 0..10 {
        cluster.propose_on(&[1, 2], GROUP, pop())?;
    }
    for node in [1, 2] {
        cluster.host(node).take_snapshot(GROUP).wait()?;
        cluster.compacted(node, GROUP, LogIndex::new(300))?;
    }
    cluster.start(away)?;
    // A digest is made of all bodies.
    cluster.agree(GROUP)?;
    let status = cluster.host(3).group_status(GROUP).context("it is here")?;
    assert!(status.snapshot_index > LogIndex::new(300), "it came by a snapshot");
    assert!(snapshot_bytes(&cluster, 3)? < 20_000);
    // From there it goes on like the others, also after a restart, and serves them in its turn.
    cluster.propose(GROUP, pop())?;
    cluster.restart_all()?;
    cluster.agree(GROUP)?;
    cluster.make_leader(GROUP, away)?;
    assert_eq!(get(&cluster, 0)?, body(11, 5_000));
    assert_eq!(get(&cluster, 89)?, body(100, 700_000));
    cluster.stop(NodeId::new(1));
    for number in 330..340 {
        cluster.propose_on(&[2, 3], GROUP, push(&body(number, 3_000)))?;
    }
    for node in [2, 3] {
        cluster.host(node).take_snapshot(GROUP).wait()?;
    }
    cluster.wipe(NodeId::new(1))?;
    Ok(())
}

#[test]
fn bytes_that_are_let_go_of_make_a_snapshot_due() -> anyhow::Result<()> {
    let cluster = Cluster::durable_of(1, queue)?;
    cluster.create_groups([1])?;
    // 8 MB came, and with them a snapshot or two; what lets go of them is nothing in bytes.
    for number in 0..400 {
        cluster.propose(GROUP, push(&body(number, 20_000)))?;
    }
    let host = cluster.leader(GROUP)?;
    host.take_snapshot(GROUP).wait()?;
    let before = host.group_status(GROUP).context("it is here")?.snapshot_index;
    for _ in 0..400 {
        cluster.propose(GROUP, pop())?;
    }
    common::until(|| host.group_status(GROUP).is_some_and(|status| status.snapshot_index > before));
    cluster.wait(Duration::from_millis(1));
    Ok(())
}
