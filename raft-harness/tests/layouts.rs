//! Which lanes a node dials is its own choice: nodes of any two layouts serve each other, and a
//! cluster changes its layout node by node.

mod common;

use anyhow::Context;
use bytes::Bytes;
use raft_core::{GroupId, LogIndex, NodeId};
use raft_harness::Heartbeats;
use raft_transport::LaneLayout;

use common::{Cluster, command, until};

const GROUP: GroupId = GroupId::new(1);

/// Open connections that a node has dialed: control, data, bulk.
fn dialed(cluster: &Cluster, node: u64) -> [u64; 3] {
    let lanes = cluster.host(node).status().lanes;
    let of = |name: &str| {
        let lane = lanes.iter().find(|lane| lane.lane == name);
        lane.and_then(|lane| lane.counters.get("connections_out_open").copied()).unwrap_or(0)
    };
    ["control", "data", "bulk"].map(of)
}

/// How many commands were acknowledged, and how many were tried: on a starved machine a leader may
/// be deposed under one, whose outcome is then unknown.
#[derive(Clone, Copy, Default)]
struct Written {
    acknowledged: u64,
    tried: u64,
}

impl Written {
    fn propose(&mut self, cluster: &Cluster, command: &Bytes) -> anyhow::Result<()> {
        let outcome = (0..10).find_map(|_| {
            self.tried += 1;
            cluster.propose(GROUP, command.clone()).ok()
        });
        self.acknowledged += 1;
        outcome.context("ten times its outcome was unknown, or nobody led")
    }

    /// Small commands, one of many chunks, and one that takes a grant of its own.
    fn write(&mut self, cluster: &Cluster, leader: u64) -> anyhow::Result<()> {
        cluster.make_leader(GROUP, NodeId::new(leader))?;
        for number in 0..20 {
            self.propose(cluster, &command(number))?;
        }
        self.propose(cluster, &Bytes::from(vec![1; 600 << 10]))?;
        self.propose(cluster, &Bytes::from(vec![2; 3 << 20]))
    }

    fn judge(self, cluster: &Cluster, what: impl std::fmt::Display) -> anyhow::Result<()> {
        let count = cluster.read_count(GROUP)?;
        let possible = self.acknowledged..=self.tried;
        assert!(possible.contains(&count), "{what}: {count} applied, possible are {possible:?}");
        cluster.agree(GROUP)
    }
}

#[test]
fn nodes_of_any_two_layouts_serve_each_other() -> anyhow::Result<()> {
    for (at, first) in LaneLayout::ALL.into_iter().enumerate() {
        for second in LaneLayout::ALL.into_iter().skip(at) {
            let mut cluster = Cluster::durable(2)?;
            cluster.restart_as(NodeId::new(1), first)?;
            cluster.restart_as(NodeId::new(2), second)?;
            cluster.create_groups([1])?;
            // Each of the two sends to the other.
            let mut written = Written::default();
            written.write(&cluster, 1)?;
            written.write(&cluster, 2)?;
            written.judge(&cluster, format_args!("{first} and {second}"))?;
            for (node, layout) in [(1, first), (2, second)] {
                let shards = layout.lanes(1).len() as u64;
                let [control, data, bulk] = dialed(&cluster, node);
                assert_eq!(control, 1, "{layout}");
                assert_eq!((data > 0, bulk > 0), (shards == 3, shards > 1), "{layout}");
            }
        }
    }
    Ok(())
}

/// The lanes of all kinds, or one; heartbeats in batches, or one by one.
#[test]
fn lanes_and_batches_each_work_without_the_other() -> anyhow::Result<()> {
    for layout in [LaneLayout::Single, LaneLayout::ControlDataBulk] {
        for heartbeats in [Heartbeats::Batched, Heartbeats::PerGroup] {
            let mut cluster = Cluster::durable(3)?;
            cluster.heartbeats = heartbeats;
            for node in 1..=3 {
                cluster.restart_as(NodeId::new(node), layout)?;
            }
            cluster.create_groups(1..=20)?;
            let mut written = Written::default();
            written.write(&cluster, 2)?;
            written.judge(&cluster, format_args!("{layout}, {heartbeats:?}"))?;
            for group in 2..=20 {
                cluster.propose(GroupId::new(group), command(1))?;
                cluster.agree(GroupId::new(group))?;
            }
        }
    }
    Ok(())
}

#[test]
fn a_cluster_changes_its_layout_node_by_node_and_a_snapshot_crosses_the_change()
-> anyhow::Result<()> {
    let mut cluster = Cluster::durable(3)?;
    cluster.create_groups([1])?;
    let mut written = Written::default();
    written.write(&cluster, 1)?;
    for layout in [LaneLayout::Single, LaneLayout::ControlBulk, LaneLayout::ControlDataBulk] {
        for node in 1..=3 {
            cluster.restart_as(NodeId::new(node), layout)?;
            written.propose(&cluster, &command(7))?;
            if node == 2 {
                // What it lacks when it comes back is in a snapshot only, offered by a node of this
                // layout or of the one before.
                cluster.stop(NodeId::new(3));
                written.write(&cluster, 1)?;
                let leader = cluster.leader(GROUP)?;
                leader.take_snapshot(GROUP).wait()?;
                cluster.compacted(
                    leader.node().get(),
                    GROUP,
                    LogIndex::new(written.acknowledged - 12),
                )?;
            }
        }
        written.judge(&cluster, layout)?;
        until(|| dialed(&cluster, 1)[0] == 2);
        let peers = [1, 2, 3].map(|node| dialed(&cluster, node)[1] > 0);
        assert_eq!(peers, [layout.has_data_lanes(); 3]);
    }
    Ok(())
}
