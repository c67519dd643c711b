//! Who takes over from a leader that stops, and who does not.

use std::time::Duration;

use raft_core::{
    Candidacy, Input, LogIndex, Message, Outcome, PRIORITY_MAX, Refusal, ReplicaId, RoleKind,
    Settings, TimeoutNow, TransferRefused, Unwilling,
};

use crate::bench::*;
use crate::fleet::Fleet;

const WITHHELD: Input = Input::Candidacy(Candidacy::Withheld);
const BEHIND: Input = Input::Candidacy(Candidacy::Behind);

fn to_whom_it_likes(of: u64) -> Input {
    Input::Transfer { token: token(of), to: None }
}

/// The requests to take over that left, with how eager one has to be.
fn asked(bench: &Bench) -> Vec<(ReplicaId, u8)> {
    let requests = bench.sent.iter().filter_map(|outgoing| match &outgoing.message {
        Message::TimeoutNow(request) => Some((outgoing.to, request.priority)),
        _ => None,
    });
    requests.collect()
}

fn refused(transfer: u64, why: Unwilling) -> Message {
    Message::TransferRefused(TransferRefused { term: term(1), transfer, why })
}

/// A leader whose peers hold everything, and their order by rank.
fn leader_of_three() -> (Bench, [ReplicaId; 2]) {
    let mut bench = Bench::leader(&[]);
    bench.catch_up(TWO);
    bench.catch_up(THREE);
    bench.input(to_whom_it_likes(99));
    let first = asked(&bench)[0].0;
    let second = if first == TWO { THREE } else { TWO };
    bench.hear(first, refused(1, Unwilling::Withheld));
    hold_all(&mut bench);
    bench.hear(second, refused(2, Unwilling::Withheld));
    hold_all(&mut bench);
    assert_eq!(bench.take_outcomes(), [(token(99), Outcome::Refused(Refusal::NoHeir))]);
    bench.sent.clear();
    (bench, [first, second])
}

fn hold_all(bench: &mut Bench) {
    bench.sync();
    bench.catch_up(TWO);
    bench.catch_up(THREE);
}

#[test]
fn who_takes_no_office_does_not_stand_and_votes_all_the_same() {
    let mut fleet = Fleet::of(3);
    fleet.elect(ONE);
    fleet.works();
    fleet.input(TWO, WITHHELD);
    fleet.crash(ONE);
    let term = fleet.group(TWO).term();
    fleet.input(TWO, Input::Campaign);
    fleet.live(Duration::from_secs(3));
    // The other one needs this vote.
    assert_eq!(fleet.leader(), Some(THREE));
    assert_eq!(fleet.group(THREE).term(), term.next());
    fleet.works();
    // And alone it waits, for however long.
    fleet.crash(THREE);
    fleet.live(Duration::from_secs(10));
    assert_eq!((fleet.leader(), fleet.group(TWO).term()), (None, term.next()));
    fleet.input(TWO, Input::Candidacy(Candidacy::Ready));
    fleet.restart(ONE);
    fleet.crash(THREE);
    fleet.live(Duration::from_secs(3));
    assert!(fleet.leader().is_some(), "it takes office again once it is told so");
}

#[test]
fn one_that_is_asked_to_stop_while_it_stands_is_not_elected() {
    for in_pre_vote in [true, false] {
        let mut bench = Bench::follower(&[1]);
        bench.input(Input::Campaign);
        if !in_pre_vote {
            bench.hear(TWO, vote_reply(true, term(2), 1, raft_core::Verdict::Granted));
            bench.sync();
        }
        bench.input(WITHHELD);
        assert_eq!(bench.role(), RoleKind::Follower);
        let attempt = bench.attempt();
        bench.hear(TWO, vote_reply(in_pre_vote, term(2), attempt, raft_core::Verdict::Granted));
        bench.sync();
        assert_eq!(bench.role(), RoleKind::Follower, "the vote came late");
    }
}

#[test]
fn a_leader_that_takes_no_office_goes_on_until_it_hands_over() {
    let mut fleet = Fleet::of(3);
    fleet.elect(ONE);
    fleet.input(ONE, WITHHELD);
    fleet.works();
    fleet.live(Duration::from_secs(5));
    assert_eq!(fleet.leader(), Some(ONE));
    fleet.works();
}

#[test]
fn an_heir_that_will_not_is_followed_by_the_next() {
    for unwilling in [WITHHELD, BEHIND] {
        for first in [TWO, THREE] {
            let mut fleet = Fleet::of(3);
            fleet.elect(ONE);
            fleet.works();
            fleet.input(first, unwilling.clone());
            let transfer = fleet.transfer_to_anybody(ONE);
            fleet.settle();
            let other = if first == TWO { THREE } else { TWO };
            assert_eq!(fleet.outcome(transfer), Some(Outcome::Transferred), "no time goes by");
            assert_eq!(fleet.leader(), Some(other));
        }
    }
}

#[test]
fn where_nobody_takes_office_a_transfer_ends_at_once() {
    let mut fleet = Fleet::of(5);
    fleet.elect(ONE);
    fleet.works();
    for id in fleet.ids() {
        fleet.input(id, WITHHELD);
    }
    let transfer = fleet.transfer_to_anybody(ONE);
    fleet.settle();
    assert_eq!(fleet.outcome(transfer), Some(Outcome::Refused(Refusal::NoHeir)));
    fleet.works();
    assert_eq!(fleet.leader(), Some(ONE));
    // One of them is up to it again.
    fleet.input(THREE, Input::Candidacy(Candidacy::Ready));
    let transfer = fleet.transfer_to_anybody(ONE);
    fleet.settle();
    assert_eq!(fleet.outcome(transfer), Some(Outcome::Transferred));
    assert_eq!(fleet.leader(), Some(THREE));
}

#[test]
fn where_all_lag_behind_it_is_worth_another_try() {
    let mut fleet = Fleet::of(3);
    fleet.elect(ONE);
    fleet.works();
    fleet.input(TWO, BEHIND);
    fleet.input(THREE, BEHIND);
    let transfer = fleet.transfer_to_anybody(ONE);
    fleet.settle();
    let failed = Outcome::Refused(Refusal::TransferFailed);
    assert_eq!(fleet.outcome(transfer), Some(failed), "without any time going by");
    // By name it is no other.
    let transfer = fleet.transfer(ONE, TWO);
    fleet.settle();
    assert_eq!(fleet.outcome(transfer), Some(failed));
    fleet.works();
}

#[test]
fn heirs_are_asked_by_rank_and_the_less_eager_last() {
    let (mut bench, [first, second]) = leader_of_three();
    let eager = Settings::default().priority;
    bench.input(to_whom_it_likes(1));
    let transfer = bench_transfer(&bench);
    bench.hear(first, refused(transfer, Unwilling::LessEager));
    hold_all(&mut bench);
    bench.hear(second, refused(transfer + 1, Unwilling::NotNow));
    hold_all(&mut bench);
    assert_eq!(asked(&bench), [(first, eager), (second, eager), (first, 0)]);
    assert!(bench.take_outcomes().is_empty());
    // Whatever it says now, it is not asked a third time.
    bench.hear(first, refused(transfer + 2, Unwilling::LessEager));
    hold_all(&mut bench);
    assert_eq!(asked(&bench).len(), 3);
    let failed = Outcome::Refused(Refusal::TransferFailed);
    assert_eq!(bench.take_outcomes(), [(token(1), failed)]);
}

/// The number of the newest request to take over.
fn bench_transfer(bench: &Bench) -> u64 {
    let requests = bench.sent.iter().rev().find_map(|outgoing| match &outgoing.message {
        Message::TimeoutNow(request) => Some(request.transfer),
        _ => None,
    });
    requests.expect("somebody was asked")
}

#[test]
fn whoever_is_less_eager_says_so() {
    let mut start = start(ONE, &[1]);
    start.settings = std::sync::Arc::new(Settings { priority: 3, ..Settings::default() });
    let mut bench = Bench::new(start);
    bench.hear(TWO, heartbeat(1, 0));
    bench.sync();
    bench.sent.clear();
    let request = |priority| {
        let (last_index, commit) = (index(1), LogIndex::ZERO);
        Message::TimeoutNow(TimeoutNow { term: term(1), transfer: 7, last_index, commit, priority })
    };
    bench.hear(TWO, request(4));
    let told = TransferRefused { term: term(1), transfer: 7, why: Unwilling::LessEager };
    assert_eq!(bench.messages_to(TWO), [&Message::TransferRefused(told)]);
    bench.hear(TWO, request(3));
    assert_eq!(bench.role(), RoleKind::Candidate);
}

#[test]
fn an_heir_whose_connection_is_lost_is_followed_by_the_next() {
    let (mut bench, [first, second]) = leader_of_three();
    bench.input(to_whom_it_likes(1));
    bench.input(Input::PeerUnreachable(first));
    hold_all_of(&mut bench, second);
    let to: Vec<ReplicaId> = asked(&bench).into_iter().map(|(to, _)| to).collect();
    assert_eq!(to, [first, second]);
    // With both of them gone there is nobody to wait for.
    bench.input(Input::PeerUnreachable(second));
    assert_eq!(bench.take_outcomes(), [(token(1), Outcome::Refused(Refusal::NoHeir))]);
}

fn hold_all_of(bench: &mut Bench, peer: ReplicaId) {
    bench.sync();
    bench.catch_up(peer);
}

#[test]
fn leadership_is_yielded_only_where_it_costs_next_to_nothing() {
    let mut fleet = Fleet::of(3);
    fleet.elect(ONE);
    fleet.works();
    // It lacks what is committed.
    fleet.hold(|packet| packet.to == THREE && matches!(packet.message, Message::Append(_)));
    fleet.works();
    let too_early = fleet.yields(ONE, THREE);
    let failed = Outcome::Refused(Refusal::TransferFailed);
    assert_eq!(fleet.outcome(too_early), Some(failed));
    fleet.release();
    fleet.let_pass();
    fleet.live(Duration::from_millis(600));
    let yielded = fleet.yields(ONE, THREE);
    fleet.settle();
    assert_eq!(fleet.outcome(yielded), Some(Outcome::Transferred));
    assert_eq!(fleet.leader(), Some(THREE));
    // Whoever is not heard is not yielded to.
    fleet.crash(ONE);
    fleet.live(Duration::from_millis(600));
    let to_nobody = fleet.yields(THREE, ONE);
    assert_eq!(fleet.outcome(to_nobody), Some(failed), "without any time going by");
    fleet.works();
}

#[test]
fn all_replicas_agree_on_who_is_first_by_rank() {
    let fleet = Fleet::of(3);
    let firsts: Vec<_> = fleet.ids().iter().map(|id| fleet.group(*id).first_by_rank()).collect();
    assert!(firsts[0].is_some());
    assert!(firsts.iter().all(|first| *first == firsts[0]));
}

/// Nobody need ask a peer whose node has said that it takes no office.
#[test]
fn a_peer_that_is_known_to_take_no_office_is_not_asked() {
    let (mut bench, [first, second]) = leader_of_three();
    bench.input(Input::PeerCandidacy(first, Candidacy::Withheld));
    bench.input(to_whom_it_likes(1));
    assert_eq!(asked(&bench), [(second, PRIORITY_MAX)]);
    bench.hear(second, refused(3, Unwilling::Withheld));
    hold_all(&mut bench);
    assert_eq!(bench.take_outcomes(), [(token(1), Outcome::Refused(Refusal::NoHeir))]);
    // Not even by name, nor as a courtesy.
    bench.sent.clear();
    bench.input(Input::Transfer { token: token(2), to: Some(first) });
    bench.input(Input::Yield { token: token(3), to: first });
    let failed = Outcome::Refused(Refusal::TransferFailed);
    assert_eq!(bench.take_outcomes(), [(token(2), failed), (token(3), failed)]);
    assert_eq!(asked(&bench), []);
    // Once it does again, it is the first as before.
    bench.input(Input::PeerCandidacy(first, Candidacy::Ready));
    bench.input(to_whom_it_likes(4));
    assert_eq!(asked(&bench), [(first, PRIORITY_MAX)]);
}

/// It need not be waited for.
#[test]
fn an_heir_that_takes_no_office_any_more_is_followed_by_the_next() {
    let (mut bench, [first, second]) = leader_of_three();
    bench.input(to_whom_it_likes(1));
    assert_eq!(asked(&bench), [(first, PRIORITY_MAX)]);
    bench.sent.clear();
    bench.input(Input::PeerCandidacy(first, Candidacy::Withheld));
    hold_all(&mut bench);
    assert_eq!(asked(&bench), [(second, PRIORITY_MAX)]);
    assert_eq!(bench.take_outcomes(), []);
}
