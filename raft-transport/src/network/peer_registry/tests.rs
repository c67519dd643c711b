//! Who may speak.

use super::*;
use crate::testing::{identity, registry};

const PEER: NodeId = NodeId::new(1);

/// A Hello from node 1 to node 2.
fn hello(incarnation: u64, generation: u64) -> Hello {
    let mut hello = registry(identity(1)).hello(NodeId::new(2), Lane::Control, 1 << 20);
    hello.incarnation = Incarnation::new(incarnation);
    hello.generation = generation;
    hello.life = u128::from(incarnation) << 64 | u128::from(incarnation);
    hello.past = (1..incarnation).rev().map(|life| life as u32).collect();
    hello
}

/// What node 1 answers when it is dialed.
fn welcome(hello: &Hello) -> Welcome {
    let registry = registry(identity(1));
    let mut dialed = registry.hello(NodeId::new(1), Lane::Control, 1);
    (dialed.node, dialed.store) = (NodeId::new(2), 0xA2);
    (dialed.life, dialed.past) = (0, vec![]);
    let welcome = registry.check(&dialed).unwrap();
    let Hello { store, incarnation, life, ref past, .. } = *hello;
    Welcome { store, incarnation, life, past: past.clone(), ..welcome }
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
fn wiped_node_under_its_old_name_is_refused_and_each_life_that_answers_is_told_once() {
    let told = Arc::new(Mutex::new(Vec::new()));
    let teller = told.clone();
    let registry = PeerRegistry::new(identity(2), move |peer, life: PeerLife| {
        teller.lock().push((peer, life.store, life.incarnation.get()));
    });
    registry.set_peer(PEER, "");
    registry.check(&hello(1, 1)).unwrap();
    assert_eq!(*told.lock(), [], "anybody can say Hello");
    registry.check_welcome(PEER, &welcome(&hello(1, 1))).unwrap();
    registry.check_welcome(PEER, &welcome(&hello(1, 1))).unwrap();
    assert_eq!(*told.lock(), [(PEER, 0xA1, 1)]);
    let wiped = Hello { store: 0xBAD, ..hello(2, 1) };
    let refusal = HelloRefusal::StoreChanged { theirs: 0xBAD };
    assert_eq!(registry.check(&wiped), Err(refusal));
    assert_eq!(registry.peer_incarnation(PEER), Some(Incarnation::new(1)), "and changes nothing");
}

#[test]
fn store_known_from_before_a_restart_binds() {
    let registry = registry(identity(2));
    let (incarnation, life) = (Incarnation::new(1), 1);
    registry.set_known_life(PEER, PeerLife { store: 0xBAD, incarnation, life });
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
    let (incarnation, life) = (Incarnation::new(1), 1);
    registry.set_known_life(PEER, PeerLife { store: 0xA1, incarnation, life });
    assert_eq!(registry.peers(), []);
    let refusal = HelloRefusal::UnknownNode { node: PEER };
    assert_eq!(registry.check(&hello(1, 1)), Err(refusal));
}

/// A copy of a directory, or one put back by a life: the number is one we have seen, the bits are
/// not. Starting it again and again makes its number the newest, and helps nothing.
#[test]
fn a_second_life_of_one_number_is_refused_however_often_it_starts() {
    let registry = registry(identity(2));
    registry.check(&hello(5, 1)).unwrap();
    registry.check_welcome(PEER, &welcome(&hello(5, 1))).unwrap();
    let refusal = HelloRefusal::SameLife { incarnation: Incarnation::new(5) };
    let second = |incarnation: u64| {
        let mut second = hello(incarnation, 9);
        second.life ^= 1;
        // Its lives up to 4 are the true ones.
        let (own, shared) = (incarnation.saturating_sub(5) as usize, 4);
        assert_eq!(second.past.len(), own + shared);
        second.past[..own].iter_mut().for_each(|bits| *bits ^= 1);
        second
    };
    for incarnation in 5..=5 + PAST_LIVES_MAX as u64 {
        assert_eq!(registry.check(&second(incarnation)), Err(refusal.clone()), "{incarnation}");
        let answer = welcome(&second(incarnation));
        assert_eq!(registry.check_welcome(PEER, &answer), Err(refusal.clone()), "{incarnation}");
    }
    assert!(registry.is_newest(&hello(5, 1)), "the one that is connected stays");
    let rolled_back =
        HelloRefusal::OldIncarnation { newest: Incarnation::new(5), theirs: Incarnation::new(4) };
    assert_eq!(registry.check(&hello(4, 9)), Err(rolled_back));
    registry.check(&hello(6, 1)).unwrap();
    registry.check(&hello(9, 1)).unwrap();
}

#[test]
fn a_life_that_is_known_from_before_a_restart_is_told_from_its_copy() {
    let registry = registry(identity(2));
    let true_one = hello(5, 1);
    registry.set_known_life(PEER, true_one.peer_life());
    let refusal = HelloRefusal::SameLife { incarnation: Incarnation::new(5) };
    assert_eq!(registry.check(&Hello { life: 7, ..hello(5, 1) }), Err(refusal));
    registry.check(&true_one).unwrap();
}

/// Nobody restarts a million times between two meetings; but who does not say how many lives it
/// had, and has no disk, counts milliseconds.
#[test]
fn a_number_far_ahead_is_refused_and_locks_nobody_out() {
    let registry = registry(identity(2));
    registry.check(&hello(5, 1)).unwrap();
    let theirs = Incarnation::new(u64::MAX);
    let far = Hello { incarnation: theirs, life: 1, past: vec![], ..hello(6, 1) };
    let refusal = HelloRefusal::FarIncarnation { newest: Incarnation::new(5), theirs };
    assert_eq!(registry.check(&far), Err(refusal));
    registry.check(&hello(6, 1)).unwrap();
    let no_disk = |millis: u64| Hello {
        node: NodeId::new(3),
        store: 3,
        incarnation: Incarnation::new((1 << 40) + millis),
        past: vec![],
        ..hello(1, 1)
    };
    registry.check(&no_disk(0)).unwrap();
    registry.check(&no_disk(1 << 30)).unwrap();
}

/// One Hello with the next number once shut the true node out until this one was restarted.
#[test]
fn whoever_only_greets_silences_nobody_who_answers_at_the_peers_address() {
    let registry = registry(identity(2));
    let true_one = hello(5, 1);
    registry.check_welcome(PEER, &welcome(&true_one)).unwrap();
    registry.check(&true_one).unwrap();
    assert!(registry.is_newest(&true_one) && registry.has_answered(&true_one));

    // A copy that runs elsewhere, a stranger: it knows the directory and all the lives before.
    for (round, claims) in [6, 7, 1 << 19].into_iter().enumerate() {
        let claim = hello(claims, 1);
        registry.check(&claim).unwrap();
        assert!(!registry.has_answered(&claim), "it is not heard");
        // Lanes dial anew because of it, and find the true one.
        registry.check_welcome(PEER, &welcome(&true_one)).unwrap();
        assert_eq!(registry.claims_refuted(), round as u64 + 1);
        assert!(!registry.is_newest(&claim), "its connections go");
        registry.check(&hello(5, 2)).unwrap();
        assert!(registry.is_newest(&hello(5, 2)) && registry.has_answered(&true_one));
    }

    // It is restarted in truth, and found there.
    registry.check(&hello(6, 1)).unwrap();
    registry.check_welcome(PEER, &welcome(&hello(6, 1))).unwrap();
    assert!(registry.is_newest(&hello(6, 1)) && registry.has_answered(&hello(6, 1)));
    assert_eq!(registry.claims_refuted(), 3);
}

/// Whatever greets in between: of the lives that were heard, none comes back.
#[test]
fn a_directory_put_back_to_before_a_life_that_answered_is_refused_whoever_greets() {
    let registry = registry(identity(2));
    registry.check_welcome(PEER, &welcome(&hello(5, 1))).unwrap();
    let mut put_back = hello(5, 1);
    put_back.life ^= 1;
    let same = HelloRefusal::SameLife { incarnation: Incarnation::new(5) };
    for claims in [5, 6, 9] {
        let _ = registry.check(&hello(claims, 1));
        assert!(registry.check(&put_back).is_err());
        let older = registry.check_welcome(PEER, &welcome(&hello(4, 1)));
        assert!(matches!(older, Err(HelloRefusal::OldIncarnation { .. })), "{older:?}");
        assert_eq!(registry.check_welcome(PEER, &welcome(&put_back)), Err(same.clone()));
        assert!(!registry.has_answered(&put_back));
    }
}

/// Two lanes hear two lives of a peer, one after the other: whoever remembers them must not be told the
/// earlier one last, or after a restart it would be taken back.
#[test]
fn of_two_lives_that_answer_the_later_is_told_last() {
    use std::sync::mpsc::channel;
    use std::time::Duration;

    let told = Arc::new(Mutex::new(Vec::new()));
    let (entered, has_entered) = channel();
    let (later, later_is_told) = channel();
    let later_is_told = Mutex::new(later_is_told);
    let teller = Arc::clone(&told);
    let on_met = move |_, life: PeerLife| {
        if life.incarnation == Incarnation::new(7) {
            entered.send(()).unwrap();
            // In the time that the other needs, if nothing keeps it from overtaking.
            let _ = later_is_told.lock().recv_timeout(Duration::from_millis(200));
        }
        teller.lock().push(life.incarnation.get());
        let _ = later.send(());
    };
    let registry = PeerRegistry::new(identity(2), on_met);
    registry.set_peer(PEER, "");
    std::thread::scope(|scope| {
        scope.spawn(|| registry.check_welcome(PEER, &welcome(&hello(7, 1))).unwrap());
        has_entered.recv().unwrap();
        registry.check_welcome(PEER, &welcome(&hello(8, 1))).unwrap();
    });
    assert_eq!(*told.lock(), [7, 8]);
}
