//! Whole nodes over loopback TCP: what an embedder relies on.

mod common;

use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use bytes::Bytes;
use common::{Cluster, command};
use raft_core::{GroupId, Member, MemberChange, NodeId, Promise, ReplicaId, Standing};
use raft_harness::{
    CreateError, Created, Drained, GroupSpec, NodeHost, Removal, RequestError, StartError, Strategy,
};

fn group(id: u32) -> GroupId {
    GroupId::new(id)
}

#[test]
fn everything_acknowledged_is_there_after_all_nodes_restart() -> anyhow::Result<()> {
    let mut cluster = Cluster::durable(3)?;
    cluster.create_groups(1..=4)?;
    for number in 0..100 {
        cluster.propose(group(1 + number % 4), command(u64::from(number)))?;
    }
    cluster.restart_all()?;
    for id in 1..=4 {
        assert_eq!(cluster.read_count(group(id))?, 25);
        cluster.agree(group(id))?;
    }
    Ok(())
}

#[test]
fn a_node_tells_which_peers_it_reaches_and_what_it_leads() -> anyhow::Result<()> {
    const GROUPS: u32 = 6;
    let mut cluster = Cluster::durable(3)?;
    cluster.create_groups(1..=GROUPS)?;
    for id in 1..=GROUPS {
        cluster.propose(group(id), command(1))?;
    }
    let reached = |cluster: &Cluster| {
        let status = cluster.host(1).status();
        status.peers.iter().map(|peer| peer.connected).collect::<Vec<_>>()
    };
    common::until(|| reached(&cluster) == [true, true]);
    assert!(cluster.host(1).status().peers.iter().all(|peer| peer.silent_ms.is_some()));
    common::until(|| {
        let summaries = [1, 2, 3].map(|node| cluster.host(node).summary());
        summaries.iter().map(|summary| summary.groups_led).sum::<u64>() == u64::from(GROUPS)
            && summaries.iter().all(|summary| {
                summary.groups == u64::from(GROUPS) && summary.applied_commands >= u64::from(GROUPS)
            })
    });
    for node in [1, 2, 3] {
        let host = cluster.host(node);
        common::until(|| host.status().led() as u64 == host.summary().groups_led);
        let summary = host.summary();
        common::until(|| host.status().applied_commands_total == summary.applied_commands);
    }
    cluster.stop(NodeId::new(3));
    common::until(|| reached(&cluster) == [true, false]);
    assert!(cluster.host(1).is_connected(NodeId::new(2)));
    assert!(!cluster.host(1).is_connected(NodeId::new(3)));
    cluster.start(NodeId::new(3))?;
    common::until(|| reached(&cluster) == [true, true]);
    Ok(())
}

/// Requirement M11, with the numbers of the change it comes from.
#[test]
fn three_nodes_four_groups_three_listeners_survive_a_node() -> anyhow::Result<()> {
    let mut cluster = Cluster::durable(3)?;
    cluster.create_groups(1..=4)?;
    for number in 0..40 {
        cluster.propose(group(1 + number % 4), command(u64::from(number)))?;
    }
    cluster.stop(NodeId::new(1));
    for number in 40..60 {
        cluster.propose(group(1 + number % 4), command(u64::from(number)))?;
    }
    for id in 1..=4 {
        assert_eq!(cluster.read_count(group(id))?, 15);
        cluster.agree(group(id))?;
    }
    Ok(())
}

#[test]
fn creating_a_group_twice_is_harmless_and_another_spec_is_an_error() -> anyhow::Result<()> {
    let mut cluster = Cluster::durable(1)?;
    let spec = GroupSpec::on_nodes(group(7), [NodeId::new(1)]).with_label("first");
    assert_eq!(cluster.host(1).create_group(spec.clone())?, Created::New);
    assert_eq!(cluster.host(1).create_group(spec.clone())?, Created::Existed);
    cluster.restart_all()?;
    assert_eq!(cluster.host(1).create_group(spec.clone())?, Created::Existed);
    let other = spec.clone().with_label("second");
    // What was left open is what the node decided when the group began.
    let recorded = GroupSpec { strategy: Some(Strategy::DiskFirst), ..spec };
    match cluster.host(1).create_group(other) {
        Err(CreateError::SpecDiffers { existing, .. }) => assert_eq!(*existing, recorded),
        other => panic!("expected SpecDiffers, got {other:?}"),
    }
    Ok(())
}

#[test]
fn a_spec_that_cannot_work_is_refused_with_its_reason() -> anyhow::Result<()> {
    let cluster = Cluster::memory(1)?;
    let on =
        |id, nodes: &[u64]| GroupSpec::on_nodes(group(id), nodes.iter().copied().map(NodeId::new));
    for spec in [
        on(0xFFFF_FF00, &[1]),
        on(1, &[2]),
        on(1, &[1, 9]),
        on(1, &[1, 1]),
        on(1, &[1]).with_label(vec![0; GroupSpec::LABEL_BYTES_MAX + 1]),
    ] {
        let refused = cluster.host(1).create_group(spec);
        assert!(matches!(refused, Err(CreateError::BadSpec { .. })), "{refused:?}");
    }
    Ok(())
}

#[test]
fn a_command_of_many_megabytes_travels_and_one_above_the_limit_is_refused() -> anyhow::Result<()> {
    let mut cluster = Cluster::durable(3)?;
    cluster.create_groups(1..=1)?;
    cluster.propose(group(1), command(1))?;
    cluster.propose(group(1), Bytes::from(vec![7; 20 << 20]))?;
    cluster.propose(group(1), command(2))?;
    assert_eq!(cluster.read_count(group(1))?, 3);
    cluster.agree(group(1))?;
    let huge = Bytes::from(vec![7; (64 << 20) + 1]);
    let leader = cluster.leader(group(1))?;
    let refused = leader.propose(group(1), huge).wait();
    assert!(matches!(refused, Err(RequestError::TooLarge { .. })), "{refused:?}");
    cluster.restart_all()?;
    assert_eq!(cluster.read_count(group(1))?, 3);
    Ok(())
}

#[test]
fn a_wiped_node_under_its_old_name_is_refused() -> anyhow::Result<()> {
    let mut cluster = Cluster::durable(3)?;
    cluster.create_groups(1..=2)?;
    cluster.propose(group(1), command(1))?;
    cluster.propose(group(2), command(1))?;
    // It is refused by those that have met who it was.
    for peer in [1, 2] {
        common::until(|| cluster.host(peer).is_connected(NodeId::new(3)));
    }
    cluster.stop(NodeId::new(3));
    cluster.wipe(NodeId::new(3))?;
    cluster.start(NodeId::new(3))?;
    cluster.host(3).create_group(cluster.spec(group(1)))?;
    // The others work on, and nobody talks to the impostor: it never hears of a leader.
    for number in 2..20 {
        cluster.propose_on(&[1, 2], group(1), command(number))?;
    }
    assert_eq!(cluster.host(3).leader_of(group(1)), None);
    let refused: u64 = [1, 2].map(|n| cluster.host(n).status().lane_total("refused")).iter().sum();
    assert!(refused > 0, "the impostor was told so");
    Ok(())
}

/// A directory put back by a single life starts under the number its peers saw last, and each
/// further start makes it the newest; what it acknowledged in between is lost all the same.
#[test]
fn a_node_put_back_to_an_earlier_state_is_refused_however_often_it_starts() -> anyhow::Result<()> {
    let mut cluster = Cluster::durable(3)?;
    let three = NodeId::new(3);
    cluster.create_groups(1..=1)?;
    cluster.propose(group(1), command(1))?;
    cluster.stop(three);
    cluster.copy_dir(three, "copy")?;
    cluster.start(three)?;
    cluster.propose(group(1), command(2))?;
    cluster.agree(group(1))?;
    // Both have met the life that is to be forgotten, and remember it over their own restarts.
    for peer in [1, 2].map(NodeId::new) {
        common::until(|| cluster.host(peer.get()).is_connected(three));
        cluster.stop(peer);
        cluster.start(peer)?;
        common::until(|| cluster.host(peer.get()).is_connected(three));
    }
    cluster.stop(three);
    cluster.put_back(three, "copy")?;
    for number in 3..6 {
        cluster.start(three)?;
        cluster.propose_on(&[1, 2], group(1), command(number))?;
        common::until(|| {
            let told = cluster.host(3).status().lane_total("refused_by_peer");
            let refused = [1, 2].map(|n| cluster.host(n).status().lane_total("refused"));
            told > 0 && refused.iter().all(|refused| *refused > 0)
        });
        assert_eq!(cluster.host(3).leader_of(group(1)), None, "nobody talks to it");
        cluster.stop(three);
    }
    Ok(())
}

/// Copies of all directories, taken while nothing ran: each goes on from the life its peers
/// remember.
#[test]
fn a_whole_cluster_put_back_to_copies_taken_at_rest_goes_on() -> anyhow::Result<()> {
    let mut cluster = Cluster::durable(3)?;
    cluster.create_groups(1..=1)?;
    cluster.propose(group(1), command(1))?;
    cluster.restart_all()?;
    cluster.propose(group(1), command(2))?;
    cluster.agree(group(1))?;
    let nodes = [1, 2, 3].map(NodeId::new);
    for node in nodes {
        cluster.stop(node);
    }
    for node in nodes {
        cluster.copy_dir(node, "copy")?;
    }
    for node in nodes {
        cluster.start(node)?;
    }
    cluster.propose(group(1), command(3))?;
    for node in nodes {
        cluster.stop(node);
    }
    for node in nodes {
        cluster.put_back(node, "copy")?;
        cluster.start(node)?;
    }
    assert_eq!(cluster.read_count(group(1))?, 2);
    cluster.propose(group(1), command(4))?;
    cluster.agree(group(1))?;
    Ok(())
}

#[test]
fn a_missing_locked_or_foreign_data_directory_is_a_typed_error() -> anyhow::Result<()> {
    let mut cluster = Cluster::durable(1)?;
    let again = cluster.try_start(NodeId::new(1));
    assert!(matches!(again, Err(StartError::Log(raft_storage::OpenError::Locked { .. }))));
    cluster.stop(NodeId::new(1));
    cluster.remove_dir(NodeId::new(1))?;
    let missing = cluster.try_start(NodeId::new(1));
    assert!(matches!(
        missing,
        Err(StartError::Log(raft_storage::OpenError::NotInitialised { .. }))
    ));
    raft_storage::init(
        &cluster.dir(NodeId::new(1)),
        "another",
        NodeId::new(1),
        &raft_storage::InitOptions::default(),
    )?;
    let foreign = cluster.try_start(NodeId::new(1)).map(|_| ()).unwrap_err();
    assert!(foreign.to_string().contains("another"), "{foreign}");
    Ok(())
}

/// Found by an attack: a node that had stopped in order started with an empty log, silently, and
/// what it had acknowledged was gone.
#[test]
fn a_node_whose_log_vanished_after_an_orderly_stop_does_not_start() -> anyhow::Result<()> {
    let mut cluster = Cluster::durable(3)?;
    cluster.create_groups(1..=1)?;
    for number in 0..20 {
        cluster.propose(group(1), command(number))?;
    }
    let node = NodeId::new(2);
    cluster.stop(node);
    for entry in std::fs::read_dir(cluster.dir(node))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "seg") {
            std::fs::remove_file(path)?;
        }
    }
    let refused = cluster.try_start(node).map(|_| ());
    assert!(
        matches!(refused, Err(StartError::Log(raft_storage::OpenError::Corrupt { .. }))),
        "{refused:?}"
    );
    Ok(())
}

#[test]
fn a_drained_node_leads_nothing_and_its_groups_go_on() -> anyhow::Result<()> {
    let cluster = Cluster::durable(3)?;
    cluster.create_groups(1..=8)?;
    for id in 1..=8 {
        cluster.propose(group(id), command(0))?;
    }
    let drained = cluster.leader(group(1))?;
    assert_eq!(drained.drain(Duration::from_secs(5)), Drained::default());
    for id in 1..=8 {
        cluster.propose(group(id), command(1))?;
        assert_eq!(cluster.read_count(group(id))?, 2);
    }
    Ok(())
}

#[test]
fn a_stopped_node_answers_everything() -> anyhow::Result<()> {
    let cluster = Cluster::memory(1)?;
    cluster.create_groups(1..=1)?;
    let host: NodeHost = cluster.leader(group(1))?;
    let tickets: Vec<_> = (0..100).map(|n| host.propose(group(1), command(n))).collect();
    host.stop();
    for ticket in tickets {
        // Applied, refused or unknown: but answered.
        let _ = ticket.wait();
    }
    assert_eq!(host.propose(group(1), command(0)).wait(), Err(RequestError::Stopping));
    Ok(())
}

/// A replica moves from one node to another under its group's eyes, and the place it left takes
/// another one later; all of it outlives restarts.
#[test]
fn a_replica_moves_to_another_node_and_everything_is_remembered() -> anyhow::Result<()> {
    let group = GroupId::new(7);
    let mut cluster = Cluster::durable(4)?;
    cluster.create_on(&[1, 2, 3], group)?;
    for number in 0..100 {
        cluster.propose_on(&[1, 2, 3], group, command(number))?;
    }
    let (four, node_four) = (ReplicaId::new(4), NodeId::new(4));
    cluster.host(4).create_group(GroupSpec::joining(group, four, node_four))?;
    let add = vec![MemberChange::AddLearner { replica: four, node: node_four }];
    cluster.at_leader(group, |host| host.change_members(group, add.clone()).wait())?;
    let swap = vec![MemberChange::Promote(four), MemberChange::Remove(ReplicaId::new(1))];
    cluster.at_leader(group, |host| host.change_members(group, swap.clone()).wait())?;
    let stays = cluster.host(2).remove_replica(group, Removal::OfFormerMember).wait();
    assert_eq!(stays, Err(RequestError::StillMember(group)));
    cluster.host(1).remove_replica(group, Removal::OfAnyone).wait()?;
    cluster.propose_on(&[2, 3, 4], group, command(100))?;

    cluster.restart_all()?;
    assert!(cluster.host(1).group_status(group).is_none());
    let again =
        cluster.host(1).create_group(GroupSpec::on_nodes(group, [1, 2, 3].map(NodeId::new)));
    assert!(matches!(again, Err(CreateError::ReplicaUsed { .. })), "{again:?}");
    cluster.propose_on(&[2, 3, 4], group, command(101))?;

    let five = ReplicaId::new(5);
    cluster.host(1).create_group(GroupSpec::joining(group, five, NodeId::new(1)))?;
    let add = vec![MemberChange::AddLearner { replica: five, node: NodeId::new(1) }];
    cluster.at_leader(group, |host| host.change_members(group, add.clone()).wait())?;
    cluster.restart_all()?;
    cluster.propose_on(&[1, 2, 3, 4], group, command(102))?;
    cluster.agree(group)?;
    assert_eq!(cluster.read_count(group)?, 103);
    let members = cluster.leader(group)?.group_status(group).expect("it leads").members;
    let nodes: Vec<(u64, u64)> =
        members.iter().map(|member| (member.replica.get(), member.node.get())).collect();
    assert_eq!(nodes, [(2, 2), (3, 3), (4, 4), (5, 1)]);
    Ok(())
}

/// A node that was away comes back by a snapshot; a restart begins from one.
#[test]
fn snapshots_replace_the_log_for_restarts_and_for_peers_far_behind() -> anyhow::Result<()> {
    let group = GroupId::new(1);
    let mut cluster = Cluster::durable(3)?;
    cluster.create_groups(1..=1)?;
    cluster.stop(NodeId::new(3));
    for number in 0..200 {
        cluster.propose_on(&[1, 2], group, command(number))?;
    }
    cluster.agree(group)?;
    for node in [1, 2] {
        let taken = cluster.host(node).take_snapshot(group).wait()?;
        let status = cluster.host(node).group_status(group).expect("it is here");
        assert_eq!(status.snapshot_index, taken.index);
        // The log is kept for node 3 until it has been silent for a while.
        cluster.compacted(node, group, raft_core::LogIndex::new(101))?;
        assert_eq!(cluster.host(node).take_snapshot(group).wait()?.index, taken.index);
    }
    cluster.start(NodeId::new(3))?;
    cluster.propose(group, command(200))?;
    cluster.agree(group)?;
    let status = cluster.host(3).group_status(group).expect("it is here");
    assert!(status.snapshot_index > raft_core::LogIndex::new(100), "it came by a snapshot");

    cluster.restart_all()?;
    cluster.agree(group)?;
    assert_eq!(cluster.read_count(group)?, 201);

    Ok(())
}

/// Its removal is committed, another leads, and nobody tells it: it asks for a leader, and learns that it
/// is no member.
#[test]
fn a_replica_that_was_replaced_while_it_was_away_gives_its_place_up() -> anyhow::Result<()> {
    let mut cluster = Cluster::durable(3)?;
    cluster.create_groups(1..=1)?;
    for number in 0..20 {
        cluster.propose(group(1), rare(number))?;
    }
    let two = NodeId::new(2);
    cluster.stop(two);
    cut_behind(&cluster, two, &rare(15))?;
    let (replica, by) = (ReplicaId::new(2), ReplicaId::new(4));
    let replace = vec![MemberChange::Replace { replica, by }];
    cluster.at_leader(group(1), |host| host.change_members(group(1), replace.clone()).wait())?;
    let before = cluster.leader(group(1))?.node();
    let other = if before == NodeId::new(1) { NodeId::new(3) } else { NodeId::new(1) };
    cluster.at_leader(group(1), |host| host.transfer_leadership(group(1), Some(other)).wait())?;
    cluster.start(two)?;
    common::until(|| voter_on(&cluster, 2, group(1)) == Some(by));
    cluster.agree(group(1))
}

/// Whatever somebody replaces it for, there is one voter in its place.
#[test]
fn a_replica_that_is_well_can_be_replaced() -> anyhow::Result<()> {
    let cluster = Cluster::memory(3)?;
    cluster.create_groups(1..=1)?;
    cluster.propose(group(1), command(1))?;
    let leader = cluster.leader(group(1))?.node();
    let well = if leader == NodeId::new(2) { 3 } else { 2 };
    let (replica, by) = (ReplicaId::new(well), ReplicaId::new(4));
    let replace = vec![MemberChange::Replace { replica, by }];
    cluster.at_leader(group(1), |host| host.change_members(group(1), replace.clone()).wait())?;
    common::until(|| voter_on(&cluster, well, group(1)) == Some(by));
    cluster.propose(group(1), command(2))?;
    cluster.agree(group(1))
}

/// A command that no other bytes look like.
fn rare(number: u64) -> Bytes {
    command(0x5eed_cafe_0000_0000 + number)
}

/// Flips a bit where `payload` lies in the log of a node.
fn damage(cluster: &Cluster, node: NodeId, payload: &[u8]) -> anyhow::Result<()> {
    let file = cluster.dir(node).join("log-00000000.seg");
    let mut bytes = std::fs::read(&file)?;
    let found = bytes.windows(payload.len()).position(|window| window == payload);
    bytes[found.ok_or_else(|| anyhow::anyhow!("it is not there"))?] ^= 1;
    Ok(std::fs::write(&file, bytes)?)
}

fn promise_on(cluster: &Cluster, node: u64, id: GroupId) -> Option<Promise> {
    let status = cluster.host(node).status();
    status.groups.iter().find(|status| status.group == id).map(|status| status.promise)
}

/// Found by a stranger: one flipped bit in the log kept a node with all its groups down until somebody came.
#[test]
fn a_node_whose_log_is_damaged_comes_up_and_learns_again_what_it_forgot() -> anyhow::Result<()> {
    let mut cluster = Cluster::durable(3)?;
    cluster.create_groups(1..=3)?;
    for number in 0..20 {
        for id in 1..=3 {
            cluster.propose(group(id), rare(number * 10 + u64::from(id)))?;
        }
    }
    let node = NodeId::new(2);
    cluster.stop(node);
    damage(&cluster, node, &rare(72))?;
    cluster.start(node)?;
    common::until(|| (1..=3).all(|id| promise_on(&cluster, 2, group(id)) == Some(Promise::Kept)));
    for id in 1..=3 {
        cluster.agree(group(id))?;
    }
    // It counts: the group goes on with it and one other.
    cluster.stop(NodeId::new(3));
    for id in 1..=3 {
        cluster.propose_on(&[1, 2], group(id), command(1_000))?;
    }
    Ok(())
}

/// Flips a bit where `payload` lies in the log of a node that runs.
fn rot(cluster: &Cluster, node: NodeId, payload: &[u8]) -> anyhow::Result<()> {
    for file in std::fs::read_dir(cluster.dir(node))? {
        let path = file?.path();
        if path.extension().is_none_or(|extension| extension != "seg") {
            continue;
        }
        let bytes = std::fs::read(&path)?;
        if let Some(at) = bytes.windows(payload.len()).position(|window| window == payload) {
            let file = std::fs::OpenOptions::new().write(true).open(&path)?;
            file.write_all_at(&[bytes[at] ^ 1], at as u64)?;
            file.sync_all()?;
            return Ok(());
        }
    }
    anyhow::bail!("it is not there")
}

/// A leader reads its log for a peer that was away, and it is damaged there. It was mute from then on,
/// until somebody started its node again.
#[test]
fn a_log_that_is_found_damaged_while_its_node_runs_is_filled_anew() -> anyhow::Result<()> {
    let mut cluster = Cluster::durable(3)?;
    cluster.create_groups(1..=2)?;
    cluster.propose(group(1), command(0))?;
    cluster.propose(group(2), command(0))?;
    let leader = cluster.leader(group(1))?.node();
    let away = [1, 2, 3].map(NodeId::new).into_iter().find(|node| *node != leader);
    let away = away.expect("there are three");
    cluster.stop(away);
    // More than is kept at hand.
    let large = |number: u64| {
        let rare = rare(number);
        Bytes::from([&rare[..], &vec![number as u8; 200 << 10]].concat())
    };
    for number in 0..80 {
        cluster.propose(group(1), large(number))?;
    }
    let leader = cluster.leader(group(1))?.node();
    rot(&cluster, leader, &rare(3))?;
    cluster.start(away)?;
    let refilled = || cluster.host(leader.get()).status().counters.logs_refilled;
    common::until(|| refilled() == 1);
    for node in 1..=3 {
        common::until(|| promise_on(&cluster, node, group(1)) == Some(Promise::Kept));
    }
    cluster.agree(group(1))?;
    cluster.agree(group(2))?;
    assert_eq!(cluster.read_count(group(1))?, 81);
    for node in 1..=3 {
        let status = cluster.host(node).status();
        assert!(status.groups.iter().all(|group| group.fault.is_none()));
    }
    // It counts: the group goes on with it and one other.
    cluster.stop(away);
    cluster.propose(group(1), command(1))?;
    Ok(())
}

/// The log of a node, with all that follows the place of `payload` gone.
fn cut_behind(cluster: &Cluster, node: NodeId, payload: &[u8]) -> anyhow::Result<()> {
    let file = cluster.dir(node).join("log-00000000.seg");
    let mut bytes = std::fs::read(&file)?;
    let found = bytes.windows(payload.len()).position(|window| window == payload);
    let from = found.ok_or_else(|| anyhow::anyhow!("it is not there"))? / 4096 * 4096;
    bytes[from..].fill(0);
    Ok(std::fs::write(&file, bytes)?)
}

/// What a node knows of a group as a member of it: its replica, if that one votes and counts.
fn voter_on(cluster: &Cluster, node: u64, id: GroupId) -> Option<ReplicaId> {
    let status = cluster.host(node).status();
    let group = status.groups.iter().find(|status| status.group == id)?;
    let votes =
        |member: &&Member| member.node == NodeId::new(node) && member.standing == Standing::Voter;
    let member = group.members.iter().find(votes)?;
    (group.promise == Promise::Kept && !group.removed).then_some(member.replica)
}

/// All that follows some place is gone, and with it whatever it voted there. Alone with one other
/// it follows, and does not count; once a majority is there that does, it is replaced, and its node
/// counts again.
#[test]
fn a_replica_that_may_have_forgotten_a_vote_is_replaced_without_an_operator() -> anyhow::Result<()>
{
    let mut cluster = Cluster::durable(3)?;
    cluster.create_groups(1..=3)?;
    for number in 0..20 {
        for id in 1..=3 {
            cluster.propose(group(id), rare(number))?;
        }
    }
    let (one, two) = (NodeId::new(1), NodeId::new(2));
    cluster.stop(one);
    cluster.stop(two);
    cut_behind(&cluster, two, &rare(15))?;
    for _ in 0..2 {
        cluster.start(two)?;
        common::until(|| promise_on(&cluster, 2, group(1)).is_some());
        assert_eq!(promise_on(&cluster, 2, group(1)), Some(Promise::Unproven));
        // A group that nobody can tell from one that was here is not founded anew.
        let refused = cluster.host(2).create_group(cluster.spec(group(9)));
        assert!(matches!(refused, Err(CreateError::MayBeForgotten { .. })), "{refused:?}");
        cluster.stop(two);
    }
    cluster.start(one)?;
    for id in 1..=3 {
        cluster.propose_on(&[1, 3], group(id), command(100))?;
    }
    cluster.start(two)?;
    for id in 1..=3 {
        common::until(|| voter_on(&cluster, 2, group(id)).is_some_and(|id| id > ReplicaId::new(3)));
        cluster.agree(group(id))?;
        // Whoever wants the group that was founded here finds it.
        let found = cluster.host(2).create_group(cluster.spec(group(id)))?;
        assert_eq!(found, Created::Existed);
    }
    // It counts, and goes on doing so.
    cluster.stop(two);
    cluster.start(two)?;
    for id in 1..=3 {
        common::until(|| voter_on(&cluster, 2, group(id)).is_some_and(|id| id > ReplicaId::new(3)));
    }
    cluster.stop(NodeId::new(3));
    for id in 1..=3 {
        cluster.propose_on(&[1, 2], group(id), command(1_000))?;
    }
    Ok(())
}

/// Two replicas of five find at their start that the snapshot their log begins behind has rotted. They have
/// no state and count for nothing until fresh ones have taken their places.
#[test]
fn replicas_of_five_without_a_state_are_replaced_without_an_operator() -> anyhow::Result<()> {
    let mut cluster = Cluster::durable(5)?;
    cluster.create_groups(1..=1)?;
    for number in 0..200 {
        cluster.propose(group(1), command(number))?;
    }
    cluster.agree(group(1))?;
    for node in 1..=5 {
        cluster.host(node).take_snapshot(group(1)).wait()?;
        cluster.compacted(node, group(1), raft_core::LogIndex::new(101))?;
    }
    let rotten = [2, 4];
    for node in rotten.map(NodeId::new) {
        cluster.stop(node);
        for file in std::fs::read_dir(cluster.dir(node).join("snapshots"))? {
            let path = file?.path();
            let mut bytes = std::fs::read(&path)?;
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            std::fs::write(&path, bytes)?;
        }
    }
    for node in rotten.map(NodeId::new) {
        cluster.start(node)?;
    }
    for node in rotten {
        let fresh = |replica: ReplicaId| replica > ReplicaId::new(5);
        common::until(|| voter_on(&cluster, node, group(1)).is_some_and(fresh));
        let status = cluster.host(node).group_status(group(1)).expect("it is here");
        assert_eq!(status.fault, None);
    }
    cluster.agree(group(1))?;
    assert_eq!(cluster.read_count(group(1))?, 200);
    // They count.
    for node in [1, 3].map(NodeId::new) {
        cluster.stop(node);
    }
    cluster.propose_on(&[2, 4, 5], group(1), command(1_000))
}
