//! Configurations and who may act under them.

use super::*;
use crate::sim::invariants::membership::ConfigKey;

#[test]
fn an_honest_change_of_membership_passes() -> Seen {
    let mut world = World::led(&[1, 2, 3]);
    for id in 4..=5 {
        world.peers.push(Peer::new(id, &[1, 2, 3]));
        world.see(id)?;
    }
    world.reconfigure(1, &[1, 4, 5], &[1, 2, 3])?;
    for id in [2, 4, 5] {
        world.replicate(1, id)?;
    }
    // Leaving is appended in the step that commits the joint configuration.
    world.peer(1).commit = 2;
    world.reconfigure(1, &[1, 4, 5], &[])?;
    world.replicate(1, 4)?;
    world.commit(1, 3)?;
    world.checker.sweep(world.peers.iter().map(Peer::view))
}

#[test]
fn acting_under_another_than_the_last_configuration_is_refused() {
    let mut world = World::led(&[1, 2, 3]);
    let seen = world.step(1, |p| {
        p.log.entries.push(EntryIdentity { class: EntryClass::Config, ..plain(1, 5) });
    });
    refused(seen, Check::ActiveConfig);
    let mut world = World::led(&[1, 2, 3]);
    world.reconfigure(1, &[1, 2, 3, 4], &[]).expect("sound");
    world.replicate(1, 2).expect("sound");
    world.elect(3, 2).expect("sound");
    // The entry is gone, its configuration is kept.
    let seen = world.step(2, |p| {
        let kept = p.configs.clone();
        p.truncate(1);
        p.log.entries.push(plain(2, 2000));
        p.configs = kept;
        (p.term, p.vote, p.leader, p.durable) = (2, None, Some(3), 2);
    });
    refused(seen, Check::ActiveConfig);
}

#[test]
fn a_second_change_before_the_first_is_committed_is_refused() {
    let mut world = World::led(&[1, 2, 3]);
    world.reconfigure(1, &[1, 2, 3, 4], &[]).expect("sound");
    refused(world.reconfigure(1, &[1, 2, 3, 4, 5], &[]), Check::ActiveConfig);
}

#[test]
fn a_change_before_the_leader_has_committed_in_its_term_is_refused() {
    let mut world = World::led(&[1, 2, 3]);
    world.elect(2, 2).expect("sound");
    refused(world.reconfigure(2, &[1, 2, 3, 4], &[]), Check::ActiveConfig);
}

#[test]
fn a_replica_that_votes_and_learns_is_refused() {
    let mut world = World::led(&[1, 2, 3]);
    world.peer(1).commit = 1;
    let seen = world.step(1, |p| {
        p.log.entries.push(EntryIdentity { class: EntryClass::Config, ..plain(1, 5) });
        let mut both = config(2, &[1, 2, 3], &[]);
        both.learners.push(ReplicaId::new(3));
        p.configs.push(both);
    });
    refused(seen, Check::ActiveConfig);
}

#[test]
fn candidates_outside_of_the_configuration_are_refused() {
    let mut world = World::led(&[1, 2, 3]);
    world.peers.push(Peer::new(4, &[1, 2, 3]));
    world.see(4).expect("sound");
    refused(world.step(4, |p| p.role = RoleKind::PreCandidate), Check::CandidatePromotable);
}

#[test]
fn a_leap_between_configurations_is_refused() {
    let mut world = World::led(&[1, 2, 3]);
    refused(world.reconfigure(1, &[3, 4, 5], &[]), Check::QuorumsIntersect);
}

#[test]
fn disjoint_electable_quorums_are_found_by_the_sweep() {
    let world = disjointly_reconfigured();
    let sweep = world.checker.sweep(world.peers.iter().map(Peer::view));
    refused(sweep, Check::QuorumsIntersect);
}

/// The single-server bug: two leaders each change one voter, the second before it has committed
/// anything in its term. {1, 4, 5} decide under the one configuration, {2, 3} under the other.
fn disjointly_reconfigured() -> World {
    let mut world = World::led(&[1, 2, 3, 4]);
    world.peers.push(Peer::new(5, &[1, 2, 3, 4]));
    world.see(5).expect("sound");
    world.reconfigure(1, &[1, 2, 3, 4, 5], &[]).expect("sound");
    for id in [4, 5] {
        world.replicate(1, id).expect("sound");
    }
    world.elect(2, 2).expect("sound");
    let Err(_) = world.reconfigure(2, &[2, 3, 4], &[]) else { panic!("no own-term commit") };
    // Carry on as if that check did not exist: only the sweep is asked.
    let peer = world.peers[1].view();
    let marks = Marks::of(&peer);
    let key = ConfigKey { index: LogIndex::new(3), term: Term::new(2) };
    let view = MembershipView { ..peer.membership };
    let group = world.checker.groups.get_mut(&GROUP).expect("known");
    group.record.configs.note(key, &view).expect("new");
    let state = group.replica(ReplicaId::new(2)).expect("known");
    state.config = Some(key);
    state.marks = marks;
    world
}

#[test]
fn one_configuration_entry_with_two_contents_is_refused() {
    let mut world = World::led(&[1, 2, 3]);
    world.reconfigure(1, &[1, 2, 3, 4], &[]).expect("sound");
    let source = world.peer(1).log.clone();
    let seen = world.step(2, |p| {
        p.log = source;
        p.configs.push(config(2, &[1, 2, 3, 5], &[]));
    });
    refused(seen, Check::ConfigChain);
}

#[test]
fn a_removed_replica_that_wins_is_refused() {
    let mut world = World::led(&[1, 2, 3]);
    world.reconfigure(1, &[1, 2], &[]).expect("sound");
    world.replicate(1, 2).expect("sound");
    world.commit(1, 2).expect("sound");
    // It never heard of its removal.
    let seen = world.elect(3, 2);
    let check = seen.expect_err("it was removed").check;
    assert_eq!(check, Check::ConfigChain);
}

#[test]
fn a_replica_id_that_comes_back_is_refused() {
    let mut world = World::led(&[1, 2, 3]);
    world.reconfigure(1, &[1, 2], &[]).expect("sound");
    world.replicate(1, 2).expect("sound");
    world.commit(1, 2).expect("sound");
    world.reconfigure(1, &[1, 2, 3], &[]).expect("not committed yet");
    world.replicate(1, 2).expect("sound");
    refused(world.commit(1, 3), Check::ConfigChain);
}
