//! What ends the sleep of a group, and what does not.

use std::sync::Arc;
use std::time::Duration;

use raft_core::{Heartbeat, Input, Message, Micros, ReplicaId, Rest, Settings};

use crate::bench::*;

const PATIENCE: Duration = Duration::from_secs(1);

/// The leader's last word: everybody holds and has committed up to here.
fn good_night(of: u64, at: u64) -> Message {
    Message::Heartbeat(Heartbeat {
        term: term(of),
        commit: index(at),
        read_seq: 0,
        sent: Micros::ZERO,
        rest: Rest::Quiesce,
    })
}

/// A leader in term 1 that fell asleep; and what its peers acknowledged last.
fn sleeping_leader() -> (Bench, Message) {
    let mut start = start(ONE, &[]);
    start.settings = Arc::new(Settings { quiesce_after: Some(PATIENCE), ..Settings::default() });
    let mut bench = Bench::leader_of(start);
    let probe = bench.append_for(TWO).expect("a probe");
    bench.hear(TWO, accepted(&probe, 0));
    let entry = bench.append_for(TWO).expect("the no-op");
    let acknowledgement = accepted(&entry, 1);
    bench.hear(TWO, acknowledgement.clone());
    bench.catch_up(THREE);
    for _ in 0..40 {
        if bench.group.is_asleep() {
            break;
        }
        bench.live(Duration::from_millis(50));
        for peer in [TWO, THREE] {
            bench.hear(peer, heartbeat_reply(1, 0));
        }
    }
    assert!(bench.group.is_asleep());
    bench.sent.clear();
    (bench, acknowledgement)
}

fn sleeping_follower() -> Bench {
    let mut bench = Bench::follower(&[1]);
    bench.hear(TWO, Message::Append(append(1, (1, 1), &[], 1)));
    bench.hear(TWO, good_night(1, 1));
    assert!(bench.group.is_asleep());
    bench.sent.clear();
    bench
}

/// Answers to the last heartbeat, and a late acknowledgement, would else wake every group that
/// has just gone to sleep.
#[test]
fn a_sleeping_leader_is_not_woken_by_what_only_answers_it() {
    let (mut bench, acknowledgement) = sleeping_leader();
    for peer in [TWO, THREE] {
        bench.hear(peer, heartbeat_reply(1, 0));
    }
    bench.hear(TWO, acknowledgement);
    assert!(bench.group.is_asleep());
    assert_eq!((bench.group.next_deadline(), bench.sent.len()), (None, 0));
    // One that knows of a newer term is news.
    bench.hear(TWO, heartbeat_reply(2, 0));
    assert!(!bench.group.is_asleep() && !bench.group.is_leader());
    assert!(bench.group.next_deadline().is_some());
}

#[test]
fn a_sleeping_follower_answers_a_repeated_good_night_and_sleeps_on() {
    let mut bench = sleeping_follower();
    bench.hear(TWO, good_night(1, 1));
    assert!(bench.group.is_asleep());
    assert_eq!(bench.group.next_deadline(), None);
    assert!(matches!(bench.messages_to(TWO)[..], [Message::HeartbeatReply(_)]));
}

#[test]
fn a_sleeping_follower_wakes_when_more_than_the_last_word_comes() {
    let words = [
        heartbeat(1, 1),
        good_night(1, 2),
        good_night(2, 1),
        Message::Append(append(1, (1, 1), &[1], 1)),
        Message::PreVote(vote_request(2, 1, 1)),
    ];
    for word in words {
        let mut bench = sleeping_follower();
        bench.hear(TWO, word.clone());
        assert!(!bench.group.is_asleep(), "{word:?}");
        assert!(bench.group.next_deadline().is_some(), "{word:?}");
    }
}

/// A follower cannot be told by another follower that the leader sleeps on.
#[test]
fn a_sleeping_follower_wakes_at_an_answer_that_is_for_a_leader() {
    let mut bench = sleeping_follower();
    let reply = accepted(&append(1, (1, 1), &[], 1), 1);
    bench.hear(TWO, reply);
    assert!(!bench.group.is_asleep());
}

/// It may come back without its promises, and then it cannot wake anybody.
#[test]
fn a_sleeping_leader_wakes_when_a_member_is_gone() {
    let (mut bench, _) = sleeping_leader();
    bench.input(Input::PeerUnreachable(ReplicaId::new(9)));
    assert!(bench.group.is_asleep(), "a stranger is none of its business");
    bench.input(Input::PeerUnreachable(THREE));
    assert!(!bench.group.is_asleep() && bench.group.next_deadline().is_some());
}
