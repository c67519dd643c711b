//! What an answer to the leader may move (paper 5.3).

use std::sync::Arc;
use std::time::Duration;

use raft_core::{
    Append, AppendReply, AppendResult, Declined, Incarnation, Input, LogTime, Message, ReplicaId,
    Settings,
};

use crate::bench::*;
use crate::fleet::Fleet;

fn propose(bench: &mut Bench, of: u64) {
    bench.input(Input::Propose { token: token(of), bytes: 100, time: LogTime::default() });
}

fn reply(append: &Append, result: AppendResult) -> Message {
    Message::AppendReply(AppendReply { term: append.term, session: append.session, result })
}

fn rejected(append: &Append, hint: (u64, u64)) -> Message {
    let (hint_index, hint_term) = (index(hint.0), term(hint.1));
    reply(append, AppendResult::Rejected { prev_index: append.prev_index, hint_index, hint_term })
}

/// What a leader knows of a peer that answers can move.
fn marks(bench: &Bench) -> (u64, Option<u64>, Option<u64>) {
    let matched = bench.group.match_of_all().map(|at| at.get());
    (bench.commit(), matched, bench.group.next_index(TWO).map(|at| at.get()))
}

/// One of two voters leads in term 5, over four entries of term 1: whatever is counted for the
/// other one is seen at once.
fn leader_of_two() -> Bench {
    let mut start = start(ONE, &[1, 1, 1, 1]);
    start.base = base([ONE, TWO]);
    start.hard_state.term = term(4);
    Bench::leader_of(start)
}

#[test]
fn a_rejection_never_counts_as_an_acknowledgement() {
    for hint in [(4, 1), (3, 1), (0, 0), (9, 9), (u64::MAX, u64::MAX)] {
        let mut bench = leader_of_two();
        let probe = bench.append_for(TWO).expect("a probe");
        assert_eq!(probe.prev_index, index(4));
        bench.hear(TWO, rejected(&probe, hint));
        let (commit, matched, _) = marks(&bench);
        assert_eq!((commit, matched), (0, Some(0)), "hint {hint:?}");
        // The same again, and an answer that grows nothing.
        bench.hear(TWO, rejected(&probe, hint));
        let probe = bench.append_for(TWO).expect("a probe further down");
        assert!(probe.prev_index < index(4));
        bench.hear(TWO, accepted(&probe, 0));
        let (commit, matched, _) = marks(&bench);
        assert_eq!((commit, matched), (0, Some(0)), "hint {hint:?}");
    }
}

#[test]
fn a_rejection_of_another_probe_than_the_one_under_way_changes_nothing() {
    let mut bench = leader_of_two();
    let first = bench.append_for(TWO).expect("a probe");
    bench.hear(TWO, rejected(&first, (2, 1)));
    let second = bench.append_for(TWO).expect("a probe further down");
    assert_eq!(second.prev_index, index(2));
    let before = marks(&bench);
    bench.hear(TWO, rejected(&first, (0, 0)));
    assert_eq!(marks(&bench), before);
    assert!(bench.append_for(TWO).is_none(), "the second probe is still under way");
}

/// Every kind of answer, from before each way to start over with a peer.
#[test]
fn no_answer_from_an_earlier_session_moves_anything() {
    type Way = (&'static str, u64, fn(&mut Bench));
    let ways: [Way; 2] = [
        ("its connection broke", 1, |bench| bench.input(Input::PeerUnreachable(TWO))),
        ("it restarted", 2, |bench| {
            bench.hear_from_life(TWO, Incarnation::new(2), heartbeat_reply(5, 0));
        }),
    ];
    let answers: [fn(&Append) -> Message; 5] = [
        |append| accepted(append, append.last_index().get()),
        |append| accepted(append, 2),
        |append| rejected(append, (1, 1)),
        |append| reply(append, AppendResult::Declined(Declined::DiskFull)),
        |append| reply(append, AppendResult::Receiving { index: index(3) }),
    ];
    for (name, life, way) in ways {
        for answer in answers {
            let mut bench = leader_of_two();
            bench.catch_up(TWO);
            propose(&mut bench, 1);
            bench.sync();
            let late = bench.append_for(TWO).expect("entry 6");
            way(&mut bench);
            let probe = bench.append_for(TWO).expect("a new session's probe");
            assert_ne!(probe.session, late.session, "{name}");
            let before = marks(&bench);
            // Even with the envelope of the new life.
            bench.hear_from_life(TWO, Incarnation::new(life), answer(&late));
            assert_eq!(marks(&bench), before, "{name}: {:?}", answer(&late));
            assert!(bench.append_for(TWO).is_none(), "{name}: the probe is still under way");
        }
    }
}

/// A peer acknowledged an entry, lost everything, and is being filled again. With a driver that
/// confuses lives, only the session tells its former word from the present one.
#[test]
fn an_acknowledgement_from_before_a_loss_commits_nothing() {
    let mut fleet = Fleet::of(5);
    fleet.careless = true;
    fleet.elect(ONE);
    fleet.isolate(ReplicaId::new(4));
    fleet.isolate(ReplicaId::new(5));
    fleet.hold(|packet| matches!(packet.message, Message::AppendReply(_)));
    let write = fleet.propose(ONE);
    fleet.settle();
    assert_eq!(fleet.held.len(), 2, "two acknowledgements are on their way");
    // One that acknowledged forgets it; the leader notices.
    fleet.wipe(TWO);
    fleet.let_pass();
    fleet.hold(|packet| packet.to == TWO && matches!(packet.message, Message::Append(_)));
    fleet.live(Duration::from_millis(100));
    let held = std::mem::take(&mut fleet.held);
    for packet in held {
        fleet.deliver(packet);
    }
    fleet.settle();
    assert!(!fleet.is_committed(write), "two of five have it, and one had");
    fleet.held.clear();
    fleet.let_pass();
    fleet.live(Duration::from_secs(1));
    assert!(fleet.is_committed(write), "now it was sent again");
}

#[test]
fn acknowledgements_of_two_terms_make_no_majority() {
    let mut five = start(ONE, &[]);
    five.base = base((1..=5).map(ReplicaId::new));
    let mut bench = Bench::new(five);
    bench.stand(&[TWO, THREE]);
    bench.sync();
    let probe = bench.append_for(TWO).expect("a probe");
    bench.hear(TWO, accepted(&probe, 0));
    let noop = bench.append_for(TWO).expect("the no-op");
    assert_eq!(noop.last_index(), index(1));
    let early = accepted(&noop, 1);
    // Office is lost and won again; the log only grew.
    bench.hear(THREE, heartbeat_reply(2, 0));
    bench.stand(&[TWO, THREE]);
    bench.sync();
    assert_eq!((bench.group.term(), bench.group.last_index()), (term(3), index(2)));
    bench.catch_up(THREE);
    assert_eq!(bench.commit(), 0, "two of five");
    bench.hear(TWO, early);
    assert_eq!(bench.commit(), 0, "what was acknowledged in term 1 may be gone");
    bench.catch_up(TWO);
    assert_eq!(bench.commit(), 2);
}

/// Two appends fill the window; whatever then happens to the peer, there is room for two again
/// once the logs are known to agree.
#[test]
fn a_window_is_empty_after_every_change_of_state() {
    /// What happens in the peer's next life, or in its first.
    type Way = (&'static str, fn(&mut Bench, &Append, u64) -> u64);
    let ways: [Way; 5] = [
        ("unreachable", |bench, _, _| {
            bench.input(Input::PeerUnreachable(TWO));
            1
        }),
        ("restarted", |bench, _, next_life| {
            bench.hear_from_life(TWO, Incarnation::new(next_life), heartbeat_reply(5, 0));
            next_life
        }),
        ("rejected", |bench, append, _| {
            bench.hear(TWO, rejected(append, (4, 1)));
            1
        }),
        ("stuck", |bench, _, _| {
            bench.live_with(TWO, Duration::from_millis(800));
            1
        }),
        ("declined", |bench, append, _| {
            bench.hear(TWO, reply(append, AppendResult::Declined(Declined::DiskFull)));
            bench.live_with(TWO, Duration::from_millis(800));
            1
        }),
    ];
    for (name, way) in ways {
        let mut narrow = start(ONE, &[1, 1, 1, 1]);
        narrow.base = base([ONE, TWO]);
        narrow.hard_state.term = term(4);
        narrow.settings = Arc::new(Settings {
            append_bytes_max: 100,
            inflight_bytes_max: 200,
            ..Settings::default()
        });
        let mut bench = Bench::leader_of(narrow);
        bench.catch_up(TWO);
        for of in 1..=6 {
            propose(&mut bench, of);
        }
        bench.sync();
        for round in 0..5 {
            let first = bench.append_for(TWO).expect("room for two");
            let second = bench.append_for(TWO).expect("room for two");
            assert_eq!((first.count(), second.count()), (1, 1), "{name}, round {round}");
            assert!(!bench.group.wants_append(TWO), "{name}, round {round}");
            let life = way(&mut bench, &second, round + 2);
            let mut probe = bench.append_for(TWO).expect("a probe");
            if probe.prev_index > index(5) {
                // Nothing is known of a new life, so the end of the log is asked about first.
                let shorter = rejected(&probe, (5, 5));
                bench.hear_from_life(TWO, Incarnation::new(life), shorter);
                probe = bench.append_for(TWO).expect("a probe further down");
            }
            assert_eq!(probe.count(), 0, "{name}, round {round}");
            let agreed = accepted(&probe, probe.prev_index.get());
            bench.hear_from_life(TWO, Incarnation::new(life), agreed);
        }
    }
}

#[test]
fn every_acknowledged_byte_leaves_the_window() {
    let mut narrow = start(ONE, &[]);
    narrow.settings = Arc::new(Settings { inflight_bytes_max: 300, ..Settings::default() });
    let mut bench = Bench::leader_of(narrow);
    bench.catch_up(TWO);
    for of in 1..=20 {
        propose(&mut bench, of);
        bench.sync();
        let append = bench.append_for(TWO).expect("an entry is due");
        assert_eq!(append.count(), 1, "entry {of}");
        bench.hear(TWO, accepted(&append, append.last_index().get()));
    }
    assert_eq!(bench.commit(), 21);
}

#[test]
fn a_probe_that_finds_no_answer_is_sent_again() {
    let mut bench = leader_of_two();
    let lost = bench.append_for(TWO).expect("a probe");
    bench.live_with(TWO, Duration::from_millis(400));
    assert_eq!(bench.append_for(TWO), None, "the answer may still come");
    bench.live_with(TWO, Duration::from_millis(200));
    let again = bench.append_for(TWO).expect("another probe");
    assert_eq!(again, lost);
    // On a slow way both arrive, late: whichever is answered, the answer is the one waited for.
    bench.hear(TWO, accepted(&lost, lost.prev_index.get()));
    bench.catch_up(TWO);
    assert_eq!(bench.commit(), 5);
}
