//! What goes over the wire, counted there: connections and scheduled heartbeat frames do not grow
//! with the number of groups (requirements L1 and H2).

mod common;

use std::time::Duration;

use common::relay::{Relay, Seen};
use common::{Cluster, command};
use raft_core::{GroupId, NodeId};

/// Node 1 leads all groups; everything it sends to its peers passes a relay.
fn quiet_interval(groups: u32) -> anyhow::Result<[(Seen, Seen); 2]> {
    let cluster = Cluster::memory(3)?;
    let first = NodeId::new(1);
    let relays = [2, 3].map(|peer| {
        let target = cluster.host(peer).listen_addr().expect("a TCP node listens");
        Relay::start(first, NodeId::new(peer), target).expect("a free port")
    });
    // Node 1 starts again, and now dials the relays.
    let cluster = cluster.restarted_via(first, &[(2, relays[0].addr()), (3, relays[1].addr())])?;
    cluster.create_groups(1..=groups)?;
    for id in 1..=groups {
        cluster.make_leader(GroupId::new(id), first)?;
    }
    cluster.propose(GroupId::new(1), command(1))?;
    cluster.wait(Duration::from_millis(300));
    let before = relays.clone().map(|relay| relay.seen());
    cluster.wait(Duration::from_secs(2));
    let after = relays.map(|relay| relay.seen());
    let [b2, b3] = before;
    let [a2, a3] = after;
    Ok([(b2, a2), (b3, a3)])
}

#[test]
fn connections_and_heartbeat_frames_are_the_same_for_16_100_and_1000_groups() -> anyhow::Result<()>
{
    for groups in [16, 100, 1000] {
        for (before, after) in quiet_interval(groups)? {
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
