//! Linearizable reads without the log (thesis 6.4).

use std::sync::Arc;

use raft_core::{Input, LogTime, Message, Outcome, ReadPath, Refusal, Settings, Verdict};

use crate::bench::*;

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
    bench.live(std::time::Duration::from_millis(100));
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
fn deposed_leader_cannot_confirm_a_read() {
    let mut trio = Trio::new([&[], &[], &[]]);
    trio.elect(ONE);
    trio.away = vec![ONE];
    trio.live(std::time::Duration::from_millis(400));
    trio.of(TWO).input(Input::Campaign);
    trio.settle();
    trio.live(std::time::Duration::from_millis(200));
    if trio.of(TWO).group.is_leader() {
        trio.of(TWO).input(Input::Propose {
            token: token(1),
            bytes: 100,
            time: LogTime::default(),
        });
        trio.settle();
    }
    trio.away.clear();
    let one = trio.of(ONE);
    one.take_outcomes();
    read(one, 2);
    trio.settle();
    trio.live(std::time::Duration::from_millis(1_000));
    let outcomes = trio.of(ONE).take_outcomes();
    assert!(matches!(outcomes[..], [(_, Outcome::Refused(_))]), "{outcomes:?}");
}

#[test]
fn a_refused_vote_says_nothing_about_reads() {
    let mut bench = Bench::leader(&[]);
    bench.catch_up(TWO);
    read(&mut bench, 1);
    bench.hear(TWO, vote_reply(false, term(1), 2, Verdict::Refused));
    assert!(bench.take_outcomes().is_empty());
}
