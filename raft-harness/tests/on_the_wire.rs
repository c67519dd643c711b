//! What goes over the wire, counted there: connections and scheduled heartbeat frames do not grow
//! with the number of groups (requirements L1 and H2).

mod common;

use std::time::Duration;

use common::relay::{Relay, Seen};
use common::{Cluster, command};
use raft_core::{GroupId, NodeId};
use raft_harness::NodeOptions;

/// Node 1 leads all groups; everything it sends to its peers passes a relay. Their answers come in
/// frames of their own, which it counts where it reads them.
fn quiet_interval(groups: u32, peers: u64) -> anyhow::Result<(Vec<(Seen, Seen)>, u64)> {
    let cluster = Cluster::memory(1 + peers)?;
    let first = NodeId::new(1);
    let relays: Vec<Relay> = (2..2 + peers)
        .map(|peer| {
            let target = cluster.host(peer).listen_addr().expect("a TCP node listens");
            Relay::start(first, NodeId::new(peer), target).expect("a free port")
        })
        .collect();
    // Node 1 starts again, and now dials the relays.
    let via: Vec<(u64, String)> = (2..).zip(relays.iter().map(Relay::addr)).collect();
    let cluster = cluster.restarted_via(first, &via)?;
    cluster.create_groups(1..=groups)?;
    for id in 1..=groups {
        cluster.make_leader(GroupId::new(id), first)?;
    }
    cluster.propose(GroupId::new(1), command(1))?;
    cluster.wait(Duration::from_millis(300));
    let answers = || -> u64 {
        let lanes = cluster.host(1).status().lanes;
        lanes.iter().map(|lane| lane.counters["heartbeat_reply_frames_in"]).sum()
    };
    let (before, answered): (Vec<Seen>, _) = (relays.iter().map(Relay::seen).collect(), answers());
    cluster.wait(Duration::from_secs(2));
    let answered = answers() - answered;
    Ok((before.into_iter().zip(relays.iter().map(Relay::seen)).collect(), answered))
}

#[test]
fn connections_and_heartbeat_frames_are_the_same_for_16_100_and_1000_groups() -> anyhow::Result<()>
{
    for groups in [16, 100, 1000] {
        for (before, after) in quiet_interval(groups, 2)?.0 {
            let open: Vec<(String, i64)> = after.open.into_iter().collect();
            let lanes = ["bulk", "control", "data-0"].map(|lane| (lane.to_owned(), 1));
            assert_eq!(open, lanes, "{groups} groups: one connection per lane and direction");
            let frames = after.heartbeat_frames - before.heartbeat_frames;
            let items = after.heartbeat_items - before.heartbeat_items;
            let bytes = after.heartbeat_bytes - before.heartbeat_bytes;
            println!("{groups} groups: {frames} frames in 2 s, {items} heartbeats, {bytes} bytes");
            // Ten a second, never more; a starved machine may send fewer.
            assert!((10..=21).contains(&frames), "{groups} groups: {frames} frames in 2 s");
            assert_eq!(items, frames * u64::from(groups), "each frame speaks for every group");
            assert!(bytes <= 8 * items + 32 * frames, "{groups} groups: {bytes} bytes");
        }
    }
    Ok(())
}

/// Four peers of a leader of 100 groups: forty frames a second, and as many answers from each of a
/// node's shards (H2, H3).
#[test]
fn a_leader_of_100_groups_sends_its_4_peers_40_frames_a_second() -> anyhow::Result<()> {
    let shards = NodeOptions::default().shards as u64;
    let (peers, replies) = quiet_interval(100, 4)?;
    let sent = |(before, after): &(Seen, Seen)| after.heartbeat_frames - before.heartbeat_frames;
    let frames: u64 = peers.iter().map(sent).sum();
    println!("{frames} frames and {replies} answers in 2 s, over 4 peers");
    // Never more; a starved machine may send fewer.
    assert!((40..=84).contains(&frames), "{frames} frames in 2 s");
    let expected = frames / 2..=(frames + 8) * shards;
    assert!(expected.contains(&replies), "{replies} frames of answers to {frames}");
    Ok(())
}
