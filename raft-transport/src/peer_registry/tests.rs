//! Who may speak.

use super::*;
use crate::testing::{identity, registry};

const PEER: NodeId = NodeId::new(1);

/// A Hello from node 1 to node 2.
fn hello(incarnation: u64, generation: u64) -> Hello {
    let mut hello = registry(identity(1)).hello(NodeId::new(2), Lane::Control, 1 << 20);
    hello.incarnation = Incarnation::new(incarnation);
    hello.generation = generation;
    hello
}

#[test]
fn generations_must_rise_within_an_incarnation_and_start_over_with_a_new_one() {
    let registry = registry(identity(2));
    registry.check(&hello(1, 5)).unwrap();
    for generation in [5, 4] {
        let refusal = HelloRefusal::ReplayedGeneration { newest: 5, theirs: generation };
        assert_eq!(registry.check(&hello(1, generation)), Err(refusal));
    }
    registry.check(&hello(1, 6)).unwrap();
    registry.check(&hello(2, 1)).unwrap();
    let (newest, theirs) = (Incarnation::new(2), Incarnation::new(1));
    let refusal = HelloRefusal::OldIncarnation { newest, theirs };
    assert_eq!(registry.check(&hello(1, 7)), Err(refusal));
}

#[test]
fn lanes_count_their_generations_apart() {
    let registry = registry(identity(2));
    registry.check(&hello(1, 5)).unwrap();
    registry.check(&Hello { lane: Lane::Bulk, ..hello(1, 1) }).unwrap();
    assert!(registry.is_newest(&hello(1, 5)));
}

#[test]
fn newer_generation_or_incarnation_fences_the_older() {
    let registry = registry(identity(2));
    registry.check(&hello(1, 1)).unwrap();
    let bulk = Hello { lane: Lane::Bulk, ..hello(1, 1) };
    registry.check(&bulk).unwrap();
    registry.check(&hello(1, 2)).unwrap();
    assert!(!registry.is_newest(&hello(1, 1)) && registry.is_newest(&bulk));
    registry.check(&hello(2, 1)).unwrap();
    assert!(!registry.is_newest(&hello(1, 2)) && !registry.is_newest(&bulk), "all its lanes");
}

#[test]
fn wiped_node_under_its_old_name_is_refused_and_the_first_store_is_told_once() {
    let told = Arc::new(Mutex::new(Vec::new()));
    let teller = told.clone();
    let registry = PeerRegistry::new(identity(2), move |peer, store| {
        teller.lock().push((peer, store));
    });
    registry.set_peer(PEER, "");
    registry.check(&hello(1, 1)).unwrap();
    registry.check(&hello(1, 2)).unwrap();
    assert_eq!(*told.lock(), [(PEER, 0xA1)]);
    let wiped = Hello { store: 0xBAD, ..hello(2, 1) };
    let refusal = HelloRefusal::StoreChanged { theirs: 0xBAD };
    assert_eq!(registry.check(&wiped), Err(refusal));
    assert_eq!(registry.peer_incarnation(PEER), Some(Incarnation::new(1)), "and changes nothing");
}

#[test]
fn store_known_from_before_a_restart_binds() {
    let registry = registry(identity(2));
    registry.set_known_store(PEER, 0xBAD);
    let refusal = HelloRefusal::StoreChanged { theirs: 0xA1 };
    assert_eq!(registry.check(&hello(1, 1)), Err(refusal));
}

#[test]
fn node_that_shuts_down_refuses_everybody() {
    let registry = registry(identity(2));
    registry.shut_down();
    assert_eq!(registry.check(&hello(1, 1)), Err(HelloRefusal::ShuttingDown));
}

#[test]
fn removed_peer_is_unknown_again() {
    let registry = registry(identity(2));
    registry.remove_peer(PEER);
    let refusal = HelloRefusal::UnknownNode { node: PEER };
    assert_eq!(registry.check(&hello(1, 1)), Err(refusal));
}

#[test]
fn node_is_no_peer_of_itself() {
    let registry = registry(identity(2));
    assert_eq!(registry.peers(), [NodeId::new(1), NodeId::new(3)]);
}

#[test]
fn peer_that_comes_back_keeps_its_store_and_our_generations() {
    let registry = registry(identity(2));
    registry.check(&hello(1, 1)).unwrap();
    let before = registry.hello(PEER, Lane::Control, 1).generation;
    registry.remove_peer(PEER);
    assert_eq!(registry.peers(), [NodeId::new(3)]);
    registry.set_peer(PEER, "");
    assert!(registry.hello(PEER, Lane::Control, 1).generation > before);
    let refusal = HelloRefusal::StoreChanged { theirs: 0xBAD };
    let wiped = Hello { store: 0xBAD, ..hello(2, 1) };
    assert_eq!(registry.check(&wiped), Err(refusal));
}

#[test]
fn remembered_store_makes_nobody_a_peer() {
    let registry = PeerRegistry::new(identity(2), |_, _| {});
    registry.set_known_store(PEER, 0xA1);
    assert_eq!(registry.peers(), []);
    let refusal = HelloRefusal::UnknownNode { node: PEER };
    assert_eq!(registry.check(&hello(1, 1)), Err(refusal));
}
