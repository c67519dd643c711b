//! Groups of both strategies on whole nodes, and nodes that come back with less than they had.

mod common;

use std::time::Duration;

use common::{Cluster, command, until};
use raft_core::{GroupId, NodeId, Promise};
use raft_harness::{CreateError, FlushPolicy, GroupSpec, GroupStatus, Persistence, Strategy};

const FAST: GroupId = GroupId::new(1);
const SAFE: GroupId = GroupId::new(2);

/// Group 1 counts what is written, group 2 what is on disk.
fn with_groups(cluster: Cluster) -> anyhow::Result<Cluster> {
    let flush = FlushPolicy::Batch { threshold: 10_000, interval: Duration::from_millis(5) };
    let fast = Persistence { strategy: Strategy::MemFirst, flush };
    for node in 1..=3 {
        cluster.host(node).create_group(cluster.spec(FAST).with_persistence(fast))?;
        cluster.host(node).create_group(cluster.spec(SAFE))?;
    }
    Ok(cluster)
}

fn status(cluster: &Cluster, node: u64, group: GroupId) -> GroupStatus {
    let status = cluster.host(node).status();
    let groups = status.groups.into_iter().find(|status| status.group == group);
    groups.expect("it is here")
}

#[test]
fn a_node_that_may_have_forgotten_is_not_trusted_until_it_holds_what_its_leader_holds()
-> anyhow::Result<()> {
    let mut cluster = with_groups(Cluster::durable(3)?)?;
    for number in 0..50 {
        cluster.propose(FAST, command(number))?;
        cluster.propose(SAFE, command(number))?;
    }
    let third = NodeId::new(3);
    cluster.kill(&[third])?;
    // The others go on, so it lacks something when it comes back.
    cluster.propose_on(&[1, 2], FAST, command(50))?;
    cluster.start(third)?;
    assert_eq!(status(&cluster, 3, SAFE).promise, Promise::Kept, "nothing of it was at risk");
    until(|| status(&cluster, 3, FAST).promise == Promise::Kept);
    let leader = cluster.leader(FAST)?.node().get();
    until(|| {
        let (ours, theirs) = (status(&cluster, 3, FAST), status(&cluster, leader, FAST));
        ours.quorum_durable_index == theirs.last_index && ours.durable_index == theirs.last_index
    });
    assert_eq!(cluster.read_count(FAST)?, 51);
    // An orderly end leaves nothing to doubt.
    cluster.stop(third);
    cluster.start(third)?;
    assert_eq!(status(&cluster, 3, FAST).promise, Promise::Kept);
    Ok(())
}

#[test]
fn a_group_of_which_a_quorum_may_have_forgotten_stands_still_and_others_go_on() -> anyhow::Result<()>
{
    let mut cluster = with_groups(Cluster::durable(3)?)?;
    cluster.propose(FAST, command(1))?;
    cluster.propose(SAFE, command(1))?;
    let nodes = [1, 2, 3].map(NodeId::new);
    cluster.kill(&nodes)?;
    for node in nodes {
        cluster.start(node)?;
    }
    cluster.propose(SAFE, command(2))?;
    for node in 1..=3 {
        let fast = status(&cluster, node, FAST);
        assert_eq!((fast.promise, fast.leader), (Promise::Lost, None));
        let unready = cluster.host(node).status().unready();
        assert!(unready.iter().any(|why| why.contains("may have forgotten")), "{unready:?}");
    }
    // That is not forgotten by an orderly restart either.
    cluster.restart_all()?;
    for node in 1..=3 {
        assert_eq!(status(&cluster, node, FAST).promise, Promise::Lost);
    }
    Ok(())
}

/// Of all processes at once, again and again; nothing was on disk but what had to be.
#[test]
fn a_kill_of_all_nodes_loses_nothing_and_lost_power_is_told_from_it() -> anyhow::Result<()> {
    let cluster = Cluster::vouched(3)?;
    let flush = FlushPolicy::Batch { threshold: 10_000, interval: Duration::from_secs(1) };
    let fast = Persistence { strategy: Strategy::MemFirst, flush };
    for node in 1..=3 {
        cluster.host(node).create_group(cluster.spec(FAST).with_persistence(fast))?;
    }
    let mut cluster = cluster;
    let nodes = [1, 2, 3].map(NodeId::new);
    for round in 0..3 {
        for number in 0..20 {
            cluster.propose(FAST, command(number))?;
        }
        cluster.kill(&nodes)?;
        if round == 2 {
            cluster.forget_certificates()?;
        }
        for node in nodes {
            cluster.start(node)?;
        }
        let promise = if round == 2 { Promise::Lost } else { Promise::Kept };
        for node in 1..=3 {
            assert_eq!(status(&cluster, node, FAST).promise, promise, "round {round}");
        }
        if round < 2 {
            assert_eq!(cluster.read_count(FAST)?, 20 * (round + 1));
        }
    }
    Ok(())
}

/// Nobody has written anything yet, so nothing can be lost.
#[test]
fn a_group_whose_nodes_are_killed_before_its_first_write_has_forgotten_nothing()
-> anyhow::Result<()> {
    let mut cluster = with_groups(Cluster::vouched(3)?)?;
    let nodes = [1, 2, 3].map(NodeId::new);
    cluster.kill(&nodes)?;
    for node in nodes {
        cluster.start(node)?;
    }
    for node in 1..=3 {
        assert_eq!(status(&cluster, node, FAST).promise, Promise::Kept);
    }
    cluster.propose(FAST, command(1))?;
    Ok(())
}

#[test]
fn a_flush_policy_of_a_groups_own_that_cannot_work_is_refused() -> anyhow::Result<()> {
    let cluster = Cluster::durable(1)?;
    let create = |threshold, interval| {
        let flush = FlushPolicy::Batch { threshold, interval };
        let fast = Persistence { strategy: Strategy::MemFirst, flush };
        cluster.host(1).create_group(cluster.spec(FAST).with_persistence(fast))
    };
    for (threshold, millis) in [(0, 20), (10, 0), (10, 1_001)] {
        let refused = create(threshold, Duration::from_millis(millis));
        assert!(
            matches!(refused, Err(CreateError::FlushPolicy { group: FAST, .. })),
            "{refused:?}"
        );
    }
    create(1, Duration::from_secs(1))?;
    Ok(())
}

/// A node without a place for its word does not say what nobody could vouch for.
#[test]
fn without_a_certificate_that_is_wanted_entries_wait_for_the_disk() -> anyhow::Result<()> {
    let root = tempfile::tempdir()?;
    let node = NodeId::new(1);
    raft_storage::init(root.path(), "test", node, &raft_storage::InitOptions::default())?;
    let options = raft_harness::NodeOptions {
        log: raft_harness::LogKind::Directory {
            path: root.path().to_owned(),
            options: raft_storage::LogOptions::default(),
        },
        cluster: "test".to_owned(),
        // It is on no tmpfs.
        certificate_dir: Some(root.path().to_owned()),
        ..raft_harness::NodeOptions::default()
    };
    let factory = |_: GroupId, _: &GroupSpec| -> Box<dyn raft_harness::StateMachine> {
        Box::new(common::Hasher::default())
    };
    let host = raft_harness::NodeHost::start(options, std::sync::Arc::new(factory))?;
    let flush = FlushPolicy::Batch { threshold: 10_000, interval: Duration::from_secs(1) };
    let fast = Persistence { strategy: Strategy::MemFirst, flush };
    host.create_group(GroupSpec::on_nodes(FAST, [node]).with_persistence(fast))?;
    until(|| host.leader_of(FAST) == Some(node));
    let proposed = host.propose(FAST, command(1)).wait()?;
    let status = host.status();
    assert!(status.groups[0].durable_index >= proposed.index, "it was on disk before the answer");
    host.stop();
    Ok(())
}

/// What waits for its sync is told, and in the end nothing does.
#[test]
fn the_lag_behind_what_is_written_is_told_and_returns_to_zero() -> anyhow::Result<()> {
    let cluster = Cluster::durable(1)?;
    let flush = FlushPolicy::Batch { threshold: 10_000, interval: Duration::from_millis(500) };
    let fast = Persistence { strategy: Strategy::MemFirst, flush };
    cluster.host(1).create_group(cluster.spec(FAST).with_persistence(fast))?;
    cluster.propose(FAST, command(0))?;
    // It was answered before the disk had it, unless half a second passed meanwhile.
    until(|| {
        let _ = cluster.propose(FAST, command(1));
        let status = status(&cluster, 1, FAST);
        status.durable_index < status.last_index
    });
    until(|| {
        let status = status(&cluster, 1, FAST);
        let lag = (status.flush_lag_bytes, status.flush_lag_ms);
        status.durable_index == status.last_index && lag == (0, 0)
    });
    Ok(())
}

/// A quorum agrees, and goes on without the one that counts otherwise.
#[test]
fn a_node_with_another_strategy_is_given_nothing() -> anyhow::Result<()> {
    let cluster = Cluster::durable(3)?;
    let spec = |strategy| GroupSpec { strategy: Some(strategy), ..cluster.spec(FAST) };
    for (node, strategy) in
        [(1, Strategy::MemFirst), (2, Strategy::MemFirst), (3, Strategy::DiskFirst)]
    {
        cluster.host(node).create_group(spec(strategy))?;
    }
    for number in 0..10 {
        cluster.propose_on(&[1, 2], FAST, command(number))?;
    }
    until(|| cluster.host(3).status().counters.words_disbelieved > 0);
    assert_eq!(status(&cluster, 3, FAST).last_index.get(), 0);
    Ok(())
}
