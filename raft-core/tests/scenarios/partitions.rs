//! Links fail one by one, and whoever can still work does (thesis 6.2 and 9.6).

use std::time::Duration;

use raft_core::ReplicaId;

use crate::bench::*;
use crate::fleet::Fleet;

const FOUR: ReplicaId = ReplicaId::new(4);
const FIVE: ReplicaId = ReplicaId::new(5);

/// Five replicas, led by `leader`, keep only these links. Whoever leads afterwards commits, and
/// is left alone to do so.
fn keeps_working(leader: ReplicaId, links: &[(ReplicaId, ReplicaId)]) {
    let mut fleet = Fleet::of(5);
    fleet.elect(leader);
    fleet.works();
    fleet.join_only(links);
    fleet.live(Duration::from_secs(6));
    fleet.works();
    let term = fleet.group(fleet.leader().expect("it just worked")).term();
    fleet.live(Duration::from_secs(20));
    fleet.works();
    let now = fleet.group(fleet.leader().expect("it just worked")).term();
    assert_eq!(now, term, "led by {leader} at first, then there is no peace");
    fleet.join();
    fleet.live(Duration::from_secs(3));
    fleet.agree();
}

#[test]
fn a_bridge_between_two_pairs_keeps_or_gets_a_leader_that_commits() {
    let bridge =
        [(ONE, TWO), (FOUR, FIVE), (THREE, ONE), (THREE, TWO), (THREE, FOUR), (THREE, FIVE)];
    for leader in [ONE, TWO, THREE, FOUR, FIVE] {
        keeps_working(leader, &bridge);
    }
}

#[test]
fn a_chain_keeps_or_gets_a_leader_that_commits() {
    let chain = [(ONE, TWO), (TWO, THREE), (THREE, FOUR), (FOUR, FIVE)];
    for leader in [ONE, TWO, THREE, FOUR, FIVE] {
        keeps_working(leader, &chain);
    }
}

#[test]
fn a_star_keeps_or_gets_its_hub_as_a_leader_that_commits() {
    let star = [(THREE, ONE), (THREE, TWO), (THREE, FOUR), (THREE, FIVE)];
    for leader in [ONE, TWO, THREE, FOUR, FIVE] {
        keeps_working(leader, &star);
    }
}

/// The leader of four reaches only one, who reaches everybody else: a majority is whole without
/// the leader, but its heartbeats could keep the one from voting.
#[test]
fn a_leader_with_one_link_left_gives_way() {
    let links = [(ONE, TWO), (TWO, THREE), (TWO, FOUR), (THREE, FOUR), (FOUR, FIVE), (TWO, FIVE)];
    keeps_working(ONE, &links);
}
