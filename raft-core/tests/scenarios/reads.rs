//! Linearizable reads without the log (thesis 6.4).

use std::sync::Arc;
use std::time::Duration;

use raft_core::{Input, Message, Outcome, ReadIndexReply, ReadPath, Refusal, Settings, Verdict};

use crate::bench::*;
use crate::fleet::Fleet;

fn read(bench: &mut Bench, of: u64) {
    bench.input(Input::Read { token: token(of), path: ReadPath::Quorum });
}

#[test]
fn read_before_own_term_commit_waits() {
    let mut bench = Bench::leader(&[1, 1]);
    read(&mut bench, 1);
    bench.hear(TWO, heartbeat_reply(2, 1));
    assert!(bench.take_outcomes().is_empty(), "commit may be behind");
    bench.catch_up(TWO);
    let ready = Outcome::ReadReady { index: index(3) };
    assert_eq!(bench.take_outcomes(), [(token(1), ready)]);
}

#[test]
fn single_voter_read_waits_for_noop() {
    let mut alone = start(ONE, &[1]);
    alone.base = base([ONE]);
    let mut bench = Bench::new(alone);
    bench.input(Input::Campaign);
    let own_vote = bench.take();
    bench.persisted(own_vote.seq);
    assert!(bench.group.is_leader());
    read(&mut bench, 1);
    assert!(bench.take_outcomes().is_empty());
    bench.sync();
    let ready = Outcome::ReadReady { index: index(2) };
    assert_eq!(bench.take_outcomes(), [(token(1), ready)]);
}

#[test]
fn read_is_answered_only_by_a_confirmation_asked_for_after_it() {
    let mut bench = Bench::leader(&[]);
    bench.catch_up(TWO);
    read(&mut bench, 1);
    read(&mut bench, 2);
    // An answer to a heartbeat from before the reads, and one between them.
    bench.hear(TWO, heartbeat_reply(1, 0));
    assert!(bench.take_outcomes().is_empty());
    bench.hear(TWO, heartbeat_reply(1, 1));
    bench.hear(TWO, heartbeat_reply(1, 1));
    let ready = Outcome::ReadReady { index: index(1) };
    assert_eq!(bench.take_outcomes(), [(token(1), ready)]);
    bench.hear(THREE, heartbeat_reply(1, 2));
    assert_eq!(bench.take_outcomes(), [(token(2), ready)]);
}

#[test]
fn confirmations_are_asked_for_at_once_and_again_with_every_heartbeat() {
    let mut bench = Bench::leader(&[]);
    bench.catch_up(TWO);
    bench.sent.clear();
    read(&mut bench, 1);
    assert!(
        matches!(bench.messages_to(TWO)[..], [Message::ReadConfirm(confirm)] if confirm.read_seq == 1)
    );
    bench.sent.clear();
    bench.live(Duration::from_millis(100));
    assert!(
        matches!(bench.messages_to(TWO)[..], [Message::Heartbeat(beat), ..] if beat.read_seq == 1)
    );
}

#[test]
fn answers_of_strangers_and_of_other_terms_confirm_nothing() {
    let mut bench = Bench::leader(&[1]);
    bench.catch_up(TWO);
    read(&mut bench, 1);
    bench.hear(raft_core::ReplicaId::new(9), heartbeat_reply(2, 1));
    bench.hear(TWO, heartbeat_reply(1, 1));
    assert!(bench.take_outcomes().is_empty());
}

#[test]
fn pending_reads_end_with_leadership() {
    let mut bench = Bench::leader(&[]);
    bench.catch_up(TWO);
    read(&mut bench, 1);
    bench.hear(THREE, heartbeat_reply(9, 0));
    let lost = Outcome::Refused(Refusal::LeadershipLost);
    assert_eq!(bench.take_outcomes(), [(token(1), lost)]);
    read(&mut bench, 2);
    let refused = Outcome::Refused(Refusal::NotLeader { leader: None });
    assert_eq!(bench.take_outcomes(), [(token(2), refused)]);
}

#[test]
fn reads_beyond_the_limit_are_refused_and_the_others_answered() {
    let mut limited = start(ONE, &[]);
    limited.settings = Arc::new(Settings { reads_pending_max: 1, ..Settings::default() });
    let mut bench = Bench::leader_of(limited);
    bench.catch_up(TWO);
    read(&mut bench, 1);
    read(&mut bench, 2);
    let refused = Outcome::Refused(Refusal::TooManyReads);
    assert_eq!(bench.take_outcomes(), [(token(2), refused)]);
    bench.hear(TWO, heartbeat_reply(1, 9));
    assert_eq!(bench.take_outcomes().len(), 1);
}

#[test]
fn forwarded_reads_beyond_the_limit_are_refused_and_the_others_answered() {
    let mut limited = start(ONE, &[1]);
    limited.settings = Arc::new(Settings { reads_pending_max: 2, ..Settings::default() });
    let mut bench = Bench::new(limited);
    bench.hear(TWO, heartbeat(1, 0));
    for of in 1..=3 {
        bench.input(Input::Read { token: token(of), path: ReadPath::Follower });
    }
    let refused = Outcome::Refused(Refusal::TooManyReads);
    assert_eq!(bench.take_outcomes(), [(token(3), refused)]);
    let asked = bench.messages_to(TWO).into_iter().filter_map(|message| match message {
        Message::ReadIndex(request) => Some(request.id),
        _ => None,
    });
    let asked: Vec<u64> = asked.collect();
    assert_eq!(asked.len(), 2);
    for id in asked {
        let reply = ReadIndexReply { term: term(1), id, index: Some(index(1)) };
        bench.hear(TWO, Message::ReadIndexReply(reply));
    }
    let ready = Outcome::ReadReady { index: index(1) };
    assert_eq!(bench.take_outcomes(), [(token(1), ready), (token(2), ready)]);
    bench.input(Input::Read { token: token(4), path: ReadPath::Follower });
    assert_eq!(bench.take_outcomes(), [], "there is room again");
}

#[test]
fn deposed_leader_cannot_confirm_a_read() {
    let mut fleet = Fleet::of(3);
    fleet.elect(ONE);
    fleet.works();
    // Nothing reaches it, and it does not know yet.
    fleet.hold(|packet| packet.to == ONE);
    fleet.pause(ONE);
    fleet.stand_first(TWO);
    fleet.works();
    fleet.join();
    let read = fleet.read(ONE, ReadPath::Quorum);
    assert_eq!(fleet.outcome(read), None);
    fleet.let_pass();
    fleet.live(Duration::from_secs(1));
    assert!(matches!(fleet.outcome(read), Some(Outcome::Refused(_))), "{:?}", fleet.outcome(read));
}

#[test]
fn a_refused_vote_says_nothing_about_reads() {
    let mut bench = Bench::leader(&[]);
    bench.catch_up(TWO);
    read(&mut bench, 1);
    bench.hear(TWO, vote_reply(false, term(1), 2, Verdict::Refused));
    assert!(bench.take_outcomes().is_empty());
}
