//! Handing leadership over (thesis 3.10).

use std::time::Duration;

use raft_core::{
    Campaign, DiskSpace, Input, LogIndex, LogTime, Message, Outcome, Refusal, RoleKind, TimeoutNow,
    TransferRefused, Unwilling,
};

use crate::bench::*;
use crate::fleet::Fleet;

fn timeout_now(of: u64, last: u64) -> Message {
    let last_index = index(last);
    let (commit, priority) = (LogIndex::ZERO, 0);
    Message::TimeoutNow(TimeoutNow { term: term(of), transfer: 1, last_index, commit, priority })
}

#[test]
fn transfer_hands_over_without_waiting_for_a_timeout() {
    let mut fleet = Fleet::of(3);
    fleet.elect(ONE);
    let transfer = fleet.transfer(ONE, THREE);
    fleet.settle();
    assert_eq!(fleet.leader(), Some(THREE));
    assert_eq!(fleet.outcome(transfer), Some(Outcome::Transferred));
}

#[test]
fn target_is_asked_only_when_it_holds_everything() {
    let mut bench = Bench::leader(&[]);
    bench.input(Input::Transfer { token: token(1), to: Some(TWO) });
    assert!(bench.sent.is_empty());
    bench.catch_up(TWO);
    assert!(matches!(
        bench.messages_to(TWO)[..],
        [Message::TimeoutNow(request)] if request.last_index == index(1)
    ));
}

#[test]
fn proposals_during_a_transfer_are_refused() {
    let mut bench = Bench::leader(&[]);
    let transfer = |of| Input::Transfer { token: token(of), to: None };
    bench.input(transfer(1));
    bench.input(Input::Propose { token: token(2), bytes: 100, time: LogTime::default() });
    bench.input(transfer(3));
    let refused = Outcome::Refused(Refusal::Transferring);
    assert_eq!(bench.take_outcomes(), [(token(2), refused), (token(3), refused)]);
}

#[test]
fn failed_transfer_ends_and_makes_its_request_worthless() {
    let mut bench = Bench::leader(&[]);
    bench.catch_up(TWO);
    bench.input(Input::Transfer { token: token(1), to: Some(TWO) });
    let last = bench.group.last_index();
    for _ in 0..6 {
        bench.live(Duration::from_millis(100));
        bench.hear(TWO, heartbeat_reply(1, 0));
    }
    let failed = Outcome::Refused(Refusal::TransferFailed);
    assert_eq!(bench.take_outcomes(), [(token(1), failed)]);
    assert_eq!(bench.group.last_index(), last.next(), "a new no-op");
    bench.input(Input::Propose { token: token(2), bytes: 100, time: LogTime::default() });
    assert!(bench.take_outcomes().is_empty(), "proposals are taken again");
}

#[test]
fn delayed_timeout_now_is_dead() {
    let mut bench = Bench::follower(&[1]);
    bench.hear(TWO, Message::Append(append(2, (1, 1), &[2, 2], 0)));
    bench.sync();
    // The log went on; the term went on; it comes from somebody else; it is a leader's.
    bench.hear(TWO, timeout_now(2, 2));
    bench.hear(TWO, timeout_now(1, 3));
    bench.hear(THREE, timeout_now(2, 3));
    assert_eq!(bench.role(), RoleKind::Follower);
    bench.hear(TWO, timeout_now(2, 3));
    assert_eq!(bench.role(), RoleKind::Candidate);
    bench.sync();
    assert!(matches!(
        bench.messages_to(THREE)[..],
        [Message::TransferRefused(_), Message::Vote(request)]
            if request.cause == Campaign::Transfer
    ));
    assert!(
        matches!(
            bench.messages_to(TWO)[..],
            [.., Message::TransferRefused(_), Message::TransferRefused(_), Message::Vote(_)]
        ),
        "a leader whose request is refused hears it at once"
    );
}

/// Whoever sent it may lead the later term as well, and number its transfers from one again.
#[test]
fn a_request_of_an_earlier_term_ends_no_transfer_of_a_later_one() {
    let mut bench = Bench::follower(&[1]);
    bench.hear(TWO, heartbeat(3, 0));
    bench.sync();
    bench.sent.clear();
    bench.hear(TWO, timeout_now(2, 1));
    let told = TransferRefused { term: term(3), transfer: 0, why: Unwilling::NotNow };
    assert_eq!(bench.messages_to(TWO), [&Message::TransferRefused(told)]);
}

#[test]
fn transfer_to_nobody_to_oneself_or_to_a_stranger_fails_at_once() {
    let mut alone = start(ONE, &[]);
    alone.base = base([ONE]);
    let mut bench = Bench::new(alone);
    bench.input(Input::Campaign);
    bench.sync();
    for (of, to) in [(1, None), (2, Some(ONE)), (3, Some(TWO))] {
        let token = token(of);
        bench.input(Input::Transfer { token, to });
    }
    let failed = Outcome::Refused(Refusal::TransferFailed);
    let ended: Vec<Outcome> = bench.take_outcomes().iter().map(|(_, end)| *end).collect();
    assert_eq!(ended, [Outcome::Refused(Refusal::NoHeir), failed, failed]);
}

#[test]
fn transfer_overrules_stickiness() {
    let mut fleet = Fleet::of(3);
    fleet.elect(ONE);
    fleet.hold(|packet| packet.to == THREE && packet.from == ONE);
    fleet.transfer(ONE, THREE);
    fleet.settle();
    // Replica 2 has heard the leader this very moment, and votes for 3 all the same.
    fleet.isolate(ONE);
    fleet.release();
    fleet.settle();
    assert!(fleet.group(THREE).is_leader());
}

/// The target hears heartbeats, but nothing of the log reaches it.
#[test]
fn a_target_that_cannot_catch_up_costs_one_timeout_and_no_leader() {
    let mut fleet = Fleet::of(3);
    fleet.elect(ONE);
    fleet.works();
    fleet.live(Duration::from_millis(100));
    fleet.hold(|packet| packet.to == THREE && matches!(packet.message, Message::Append(_)));
    fleet.works();
    let before = fleet.group(ONE).term();
    let transfer = fleet.transfer(ONE, THREE);
    fleet.live(Duration::from_millis(400));
    assert_eq!(fleet.outcome(transfer), None, "it may still catch up");
    fleet.live(Duration::from_millis(200));
    let failed = Outcome::Refused(Refusal::TransferFailed);
    assert_eq!(fleet.outcome(transfer), Some(failed));
    fleet.works();
    fleet.live(Duration::from_secs(3));
    assert_eq!((fleet.leader(), fleet.group(ONE).term()), (Some(ONE), before));
    // A target that is down, or gone while it was to be told.
    fleet.held.clear();
    fleet.let_pass();
    fleet.live(Duration::from_secs(1));
    fleet.crash(THREE);
    let transfer = fleet.transfer(ONE, THREE);
    fleet.live(Duration::from_millis(600));
    assert_eq!(fleet.outcome(transfer), Some(failed));
    fleet.works();
    assert_eq!((fleet.leader(), fleet.group(ONE).term()), (Some(ONE), before));
}

#[test]
fn a_target_that_will_not_says_so_at_once() {
    let mut fleet = Fleet::of(3);
    fleet.elect(ONE);
    fleet.works();
    fleet.input(THREE, Input::Disk(DiskSpace::Full));
    let transfer = fleet.transfer(ONE, THREE);
    fleet.settle();
    let failed = Outcome::Refused(Refusal::TransferFailed);
    assert_eq!(fleet.outcome(transfer), Some(failed), "without any time going by");
    fleet.works();
    assert_eq!(fleet.leader(), Some(ONE));
}

/// The request is lost; it is repeated while the transfer lasts.
#[test]
fn a_lost_request_to_take_over_costs_a_heartbeat() {
    let mut fleet = Fleet::of(3);
    fleet.elect(ONE);
    fleet.works();
    fleet.hold(|packet| matches!(packet.message, Message::TimeoutNow(_)));
    let transfer = fleet.transfer(ONE, THREE);
    fleet.settle();
    fleet.held.clear();
    fleet.let_pass();
    fleet.live(Duration::from_millis(150));
    assert_eq!(fleet.outcome(transfer), Some(Outcome::Transferred));
    assert_eq!(fleet.leader(), Some(THREE));
}
