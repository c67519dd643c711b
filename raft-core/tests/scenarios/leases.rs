//! Reads answered from a lease are as good as those a quorum confirmed (thesis 6.4.1).

use std::sync::Arc;
use std::time::Duration;

use raft_core::{
    Heartbeat, HeartbeatReply, Input, Lease, Message, Micros, Outcome, ReadPath, ReplicaId,
    Settings, Token,
};

use crate::bench::*;
use crate::fleet::Fleet;

const FOUR: ReplicaId = ReplicaId::new(4);
const FIVE: ReplicaId = ReplicaId::new(5);
const MS: Duration = Duration::from_millis(1);

fn leases(drift_ppm: u32) -> Settings {
    Settings { lease: Lease::Within { drift_ppm }, ..Settings::default() }
}

/// A lease read; whether it was answered at once.
fn reads_at_once(fleet: &mut Fleet, at: ReplicaId) -> (bool, Token) {
    let read = fleet.read(at, ReadPath::Lease);
    (fleet.is_ready(read), read)
}

/// Replica 1 leads, with a lease.
fn leader_with_lease(fleet: &mut Fleet) {
    fleet.live(Duration::from_secs(1));
    if fleet.leader() != Some(ONE) {
        let leader = fleet.leader().expect("somebody leads");
        fleet.transfer(leader, ONE);
        fleet.settle();
    }
    fleet.works();
    fleet.live(Duration::from_millis(300));
    let (at_once, _) = reads_at_once(fleet, ONE);
    assert!(at_once, "replica 1 has no lease");
}

#[test]
fn a_lease_counts_from_when_the_heartbeat_left() {
    let mut start = start(ONE, &[]);
    start.settings = Arc::new(leases(100_000));
    let mut bench = Bench::leader_of(start);
    bench.catch_up(TWO);
    bench.sent.clear();
    bench.live(Duration::from_millis(100));
    let mut beats = bench.sent.iter().rev().filter_map(|outgoing| match &outgoing.message {
        Message::Heartbeat(Heartbeat { sent, .. }) if outgoing.to == TWO => Some(*sent),
        _ => None,
    });
    let left = beats.next().expect("a heartbeat");
    assert_eq!(bench.group.lease_until(), None, "nobody has answered");
    // The answer comes late. Of half a second, two tenths are for the clocks.
    bench.live(Duration::from_millis(250));
    let reply = HeartbeatReply { term: term(1), read_seq: 0, sent: left };
    bench.hear(TWO, Message::HeartbeatReply(reply));
    let until = left.after(Duration::from_millis(400));
    assert_eq!(bench.group.lease_until(), Some(until));
    // An answer to an earlier heartbeat, or to one of a time to come, lengthens nothing.
    let reply = HeartbeatReply { sent: Micros::ZERO, ..reply };
    bench.hear(TWO, Message::HeartbeatReply(reply));
    assert_eq!(bench.group.lease_until(), Some(until));
    bench.wait(until.since(bench.now));
    assert_eq!(bench.group.lease_until(), Some(until), "as of the last step");
    bench.input(Input::Read { token: token(1), path: ReadPath::Lease });
    assert_eq!(bench.group.lease_until(), None);
    assert!(bench.take_outcomes().is_empty(), "a quorum is asked");
}

#[test]
fn no_lease_read_between_a_transfers_start_and_a_fresh_noops_commit() {
    let mut fleet = Fleet::with(3, leases(100));
    leader_with_lease(&mut fleet);
    // The target never hears of it, while everything else works.
    fleet.hold(|packet| match &packet.message {
        Message::TimeoutNow(_) => true,
        Message::AppendReply(_) => packet.to == ONE,
        _ => false,
    });
    let transfer = fleet.transfer(ONE, TWO);
    let mut waiting = Vec::new();
    for _ in 0..55 {
        let (at_once, read) = reads_at_once(&mut fleet, ONE);
        assert!(!at_once, "the hand-over is under way");
        assert_eq!(fleet.group(ONE).lease_until(), None);
        waiting.push(read);
        fleet.live(10 * MS);
    }
    assert!(matches!(fleet.outcome(transfer), Some(Outcome::Refused(_))), "it has failed");
    assert_eq!(fleet.leader(), Some(ONE));
    // The fresh no-op is nowhere committed yet: the request may still be obeyed.
    for _ in 0..5 {
        assert_eq!(fleet.group(ONE).lease_until(), None);
        assert!(!reads_at_once(&mut fleet, ONE).0);
        fleet.live(10 * MS);
    }
    assert!(waiting.iter().all(|read| fleet.is_ready(*read)), "a quorum answered instead");
    fleet.held.retain(|packet| matches!(packet.message, Message::AppendReply(_)));
    fleet.release();
    fleet.live(Duration::from_millis(100));
    assert!(reads_at_once(&mut fleet, ONE).0, "the no-op is committed");
}

/// The request of a first hand-over is still under way when a second one ends that asked nobody.
#[test]
fn a_second_transfer_that_asked_nobody_does_not_bring_back_what_the_first_one_ended() {
    let mut fleet = Fleet::with(3, leases(100));
    leader_with_lease(&mut fleet);
    fleet.hold(|packet| match &packet.message {
        Message::TimeoutNow(_) => true,
        Message::Append(_) => packet.from == ONE,
        _ => false,
    });
    for _ in 0..2 {
        let transfer = fleet.transfer(ONE, TWO);
        fleet.live(Duration::from_millis(550));
        assert!(matches!(fleet.outcome(transfer), Some(Outcome::Refused(_))), "it has failed");
        assert_eq!(fleet.leader(), Some(ONE));
        assert_eq!(fleet.group(ONE).lease_until(), None, "the first no-op is not committed");
    }
    fleet.held.retain(|packet| matches!(packet.message, Message::Append(_)));
    fleet.release();
    fleet.live(Duration::from_millis(100));
    assert!(reads_at_once(&mut fleet, ONE).0, "it is");
}

/// Five replicas. A hand-over to 2 times out; what makes its request worthless is on 1, 4 and 5,
/// but not on the target, which obeys when the request arrives at last. Its campaign fails, but
/// everybody hears of a new term, and 4 could be elected in the next one while 1 still answers
/// reads from its lease.
#[test]
fn a_delayed_timeout_now_cannot_depose_a_leader_that_answers_lease_reads() {
    let mut fleet = Fleet::with(5, leases(100));
    leader_with_lease(&mut fleet);
    fleet.hold(|packet| match &packet.message {
        Message::TimeoutNow(_) => true,
        Message::Append(_) => packet.to == TWO || packet.to == THREE,
        _ => false,
    });
    fleet.transfer(ONE, TWO);
    fleet.live(Duration::from_millis(550));
    fleet.live(Duration::from_millis(100));
    assert!(reads_at_once(&mut fleet, ONE).0, "the lease is back");
    let requests = fleet.held.iter();
    let mut late = requests.filter(|packet| matches!(packet.message, Message::TimeoutNow(_)));
    let late = late.next().cloned().expect("the hand-over's request");
    fleet.held.clear();
    fleet.cut(ONE, FOUR);
    fleet.cut(ONE, FIVE);
    fleet.live(Duration::from_millis(510));
    assert!(reads_at_once(&mut fleet, ONE).0, "2 and 3 carry the lease");
    // Nothing reaches the leader any more, but it does not know.
    fleet.hold(|packet| packet.to == ONE);
    fleet.deliver(late);
    fleet.settle();
    assert!(fleet.group(FOUR).term() > fleet.group(ONE).term(), "the new term is known");
    for _ in 0..4 {
        for candidate in [FOUR, FIVE] {
            fleet.input(candidate, Input::Campaign);
            fleet.settle();
            if fleet.group(candidate).is_leader() {
                let write = fleet.propose(candidate);
                fleet.settle();
                assert!(fleet.is_committed(write));
            }
        }
        // The checker knows what was told, and judges what this one says.
        assert!(reads_at_once(&mut fleet, ONE).0, "its lease still runs");
        fleet.live(20 * MS);
    }
    fleet.join();
    fleet.release();
    fleet.live(Duration::from_secs(4));
    fleet.works();
}

#[test]
fn a_paused_leader_answers_no_lease_read_when_it_wakes() {
    let mut fleet = Fleet::with(3, leases(100));
    leader_with_lease(&mut fleet);
    for pause in [400, 480, 700, 3_000] {
        fleet.pause(ONE);
        fleet.live(Duration::from_millis(pause));
        if let Some(leader) = fleet.leader().filter(|leader| *leader != ONE) {
            let write = fleet.propose(leader);
            fleet.settle();
            assert!(fleet.is_committed(write));
        }
        fleet.resume(ONE);
        // Before it hears anything of what happened.
        let (at_once, _) = reads_at_once(&mut fleet, ONE);
        assert!(!at_once || pause < 500, "{pause} ms");
        fleet.live(Duration::from_secs(2));
        let leader = fleet.leader().expect("somebody leads");
        if leader != ONE {
            fleet.transfer(leader, ONE);
        }
        fleet.live(Duration::from_secs(1));
        assert_eq!(fleet.leader(), Some(ONE));
    }
}

/// The leader's clock is as slow as clocks may be and the others' as fast; the leader is cut off,
/// and the others elect as soon as they may.
#[test]
fn a_lease_is_over_before_the_fastest_clock_lets_anybody_elect() {
    for slow in [0, 20_000, 50_000] {
        let mut fleet = Fleet::with(3, leases(50_000));
        fleet.drift(ONE, -slow);
        fleet.drift(TWO, 50_000);
        fleet.drift(THREE, 50_000);
        leader_with_lease(&mut fleet);
        let (mut served, mut elected) = (0, None);
        fleet.isolate(ONE);
        for at in 0..700 {
            for candidate in [TWO, THREE] {
                if elected.is_none() {
                    fleet.input(candidate, Input::Campaign);
                    fleet.settle();
                    elected = fleet.group(candidate).is_leader().then_some((at, candidate));
                }
            }
            if let Some((_, leader)) = elected {
                fleet.propose(leader);
                fleet.settle();
            }
            served += u32::from(reads_at_once(&mut fleet, ONE).0);
            fleet.live(MS);
        }
        let (at, _) = elected.expect("two of three elect");
        assert!(at < 500 && served > 300, "elected after {at} ms, {served} lease reads");
    }
}

/// Whoever restarts has forgotten which leader it was patient with.
#[test]
fn a_restarted_replica_votes_for_nobody_while_a_lease_may_run() {
    let mut fleet = Fleet::with(3, leases(100));
    leader_with_lease(&mut fleet);
    fleet.isolate(ONE);
    let term = fleet.group(ONE).term();
    for at in 0..45 {
        for id in [TWO, THREE] {
            fleet.crash(id);
            fleet.restart(id);
        }
        for id in [TWO, THREE] {
            fleet.input(id, Input::Campaign);
            fleet.settle();
            assert!(!fleet.group(id).is_leader(), "after {} ms", 10 * at);
            assert_eq!(fleet.group(id).term(), term);
        }
        fleet.live(10 * MS);
    }
    fleet.live(Duration::from_secs(3));
    assert!(fleet.leader().is_some_and(|leader| leader != ONE));
    fleet.works();
}
