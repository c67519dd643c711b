//! What confirms a read, and what does not: late words, too few words, former lives
//! (thesis 6.4).

use std::time::Duration;

use raft_core::{
    Heartbeat, HeartbeatReply, Incarnation, Input, LogTime, Message, Micros, Outcome, ReadIndex,
    ReadIndexReply, ReadPath, Refusal, ReplicaId, Rest, Settings,
};

use crate::bench::*;
use crate::fleet::Fleet;

fn read(bench: &mut Bench, of: u64) {
    bench.input(Input::Read { token: token(of), path: ReadPath::Quorum });
}

fn read_index(of: u64, id: u64) -> Message {
    Message::ReadIndex(ReadIndex { term: term(of), id })
}

/// A leader of so many voters, its no-op committed.
fn leader_of_voters(count: u64) -> Bench {
    let mut start = start(ONE, &[]);
    start.base = base((1..=count).map(ReplicaId::new));
    let mut bench = Bench::new(start);
    let others: Vec<ReplicaId> = (2..=count).map(ReplicaId::new).collect();
    bench.stand(&others);
    bench.sync();
    for other in others {
        bench.catch_up(other);
    }
    assert_eq!(bench.commit(), 1);
    bench
}

/// Three reads of a leader of five, and all that its peers may have been asked up to some moment.
/// Whatever the order in which the answers come, a read is answered exactly when two peers have
/// answered something that was asked after it.
#[test]
fn a_read_is_confirmed_by_a_majority_asked_after_it_in_every_order_of_answers() {
    // Three of the peers say any of three numbers: all sequences of four answers.
    let answers: Vec<(u64, u64)> =
        (2..=4).flat_map(|peer| (1..=3).map(move |seq| (peer, seq))).collect();
    let count = answers.len();
    for code in 0..count.pow(4) {
        let sequence = (0..4).map(|at| answers[code / count.pow(at) % count]);
        let mut bench = leader_of_voters(5);
        for of in 1..=3 {
            read(&mut bench, of);
        }
        let mut acked = [0u64; 6];
        let mut answered = 0;
        for (peer, seq) in sequence {
            bench.hear(ReplicaId::new(peer), heartbeat_reply(1, seq));
            acked[peer as usize] = acked[peer as usize].max(seq);
            let mut sorted = acked[2..].to_vec();
            sorted.sort_unstable();
            let confirmed = sorted[2];
            let news: Vec<u64> =
                bench.take_outcomes().iter().map(|(token, _)| token.get()).collect();
            let want: Vec<u64> = (answered + 1..=confirmed).collect();
            assert_eq!(news, want, "{acked:?}");
            answered = answered.max(confirmed);
        }
    }
}

#[test]
fn a_read_needs_a_true_majority_whatever_the_number_of_voters() {
    for voters in 2..=7u64 {
        let mut bench = leader_of_voters(voters);
        read(&mut bench, 1);
        let needed = voters / 2;
        for peer in 2..2 + needed {
            assert!(bench.take_outcomes().is_empty(), "{voters} voters, {} answered", peer - 2);
            bench.hear(ReplicaId::new(peer), heartbeat_reply(1, 1));
        }
        assert_eq!(bench.take_outcomes().len(), 1, "{voters} voters");
    }
}

/// A leader that was deposed and leads again does not remember what it was told in between.
#[test]
fn confirmations_of_an_earlier_term_confirm_nothing() {
    let mut bench = leader_of_voters(3);
    read(&mut bench, 1);
    read(&mut bench, 2);
    let early = heartbeat_reply(1, 2);
    bench.hear(TWO, heartbeat_reply(2, 0));
    bench.take_outcomes();
    bench.stand(&[THREE]);
    bench.sync();
    bench.catch_up(THREE);
    assert_eq!(bench.group.term(), term(3));
    read(&mut bench, 3);
    bench.hear(TWO, early.clone());
    bench.hear(THREE, early);
    assert!(bench.take_outcomes().is_empty());
    bench.hear(THREE, heartbeat_reply(3, 1));
    assert_eq!(bench.take_outcomes().len(), 1);
}

/// Its sender may lead this term as well by now, and number its questions from one again.
#[test]
fn a_question_of_an_earlier_term_is_not_confirmed_in_a_later_one() {
    let mut bench = Bench::follower(&[1]);
    bench.hear(TWO, heartbeat(3, 0));
    bench.sync();
    for late in [Message::Heartbeat, Message::ReadConfirm] {
        bench.sent.clear();
        let asked = Heartbeat {
            term: term(2),
            commit: index(0),
            quorum_durable: index(0),
            read_seq: 5,
            sent: Micros::new(7),
            rest: Rest::Awake,
        };
        bench.hear(TWO, late(asked));
        let told = HeartbeatReply { term: term(3), read_seq: 0, sent: Micros::ZERO };
        assert_eq!(bench.messages_to(TWO), [&Message::HeartbeatReply(told)]);
    }
}

/// A leader, deposed and elected again in one life, is asked for a read while a write it has not
/// heard of is acknowledged elsewhere.
#[test]
fn a_read_is_not_confirmed_by_the_answer_to_a_question_of_an_earlier_leadership() {
    let mut fleet = Fleet::of(3);
    fleet.elect(ONE);
    fleet.works();
    let of_first = |message: &Message| match message {
        Message::Heartbeat(beat) | Message::ReadConfirm(beat) => {
            Some(beat.read_seq).filter(|n| *n > 0)
        }
        _ => None,
    };
    fleet.hold(move |packet| packet.to == TWO && of_first(&packet.message).is_some());
    let read = fleet.read(ONE, ReadPath::Quorum);
    fleet.settle();
    assert!(fleet.is_ready(read), "replica 3 has confirmed it");
    for to in [THREE, ONE] {
        let leader = fleet.leader().expect("somebody leads");
        fleet.transfer(leader, to);
        fleet.settle();
        fleet.live(Duration::from_millis(50));
        assert_eq!(fleet.leader(), Some(to));
    }
    fleet.works();
    // The question reaches replica 2 at last; its answer is slow.
    assert!(!fleet.held.is_empty(), "a question of the first leadership is under way");
    let late = std::mem::take(&mut fleet.held);
    fleet.hold(|packet| packet.to == ONE);
    for packet in late {
        fleet.deliver(packet);
    }
    fleet.settle();
    // Somebody else leads and acknowledges a write, and replica 1 does not hear of it.
    fleet.transfer(ONE, THREE);
    fleet.settle();
    fleet.live(Duration::from_millis(50));
    assert!(fleet.group(THREE).is_leader());
    let write = fleet.propose(THREE);
    fleet.settle();
    assert!(fleet.is_committed(write), "replicas 2 and 3 have it");
    assert!(fleet.group(ONE).is_leader(), "and replica 1 does not know");
    let read = fleet.read(ONE, ReadPath::Quorum);
    let now = fleet.group(ONE).term();
    let answers = |message: &Message| matches!(message, Message::HeartbeatReply(_));
    fleet.held.retain(|packet| answers(&packet.message) && packet.message.term() == now);
    fleet.release();
    fleet.hold(|packet| packet.to == ONE);
    fleet.settle();
    assert!(!fleet.is_ready(read), "nobody was asked after it");
}

/// A fresh leader may not know yet what is committed, whichever way it is asked.
#[test]
fn no_path_answers_a_read_before_the_leader_has_committed_in_its_term() {
    for path in [ReadPath::Quorum, ReadPath::Lease, ReadPath::Follower] {
        let settings =
            Settings { lease: raft_core::Lease::Within { drift_ppm: 100 }, ..Settings::default() };
        let mut fleet = Fleet::with(3, settings);
        fleet.live(Duration::from_secs(2));
        let first = fleet.leader().expect("somebody leads");
        let others: Vec<ReplicaId> = fleet.ids().into_iter().filter(|id| *id != first).collect();
        let (next, other) = (others[0], others[1]);
        // The next leader has all of it, but is not told what of it is committed.
        fleet.hold(|packet| matches!(packet.message, Message::Heartbeat(_)));
        fleet.works();
        fleet.crash(first);
        fleet.held.clear();
        fleet.hold(|packet| matches!(packet.message, Message::AppendReply(_)));
        fleet.stand_first(next);
        assert!(fleet.group(next).is_leader());
        let at = if path == ReadPath::Follower { other } else { next };
        let read = fleet.read(at, path);
        fleet.settle();
        fleet.live(Duration::from_millis(100));
        assert_eq!(fleet.outcome(read), None, "{path:?}");
        fleet.release();
        fleet.live(Duration::from_millis(100));
        assert!(fleet.is_ready(read), "{path:?}: {:?}", fleet.outcome(read));
    }
}

/// A follower asks, and is the leader itself by the time its request comes back to it; or asks
/// somebody who leads no more.
#[test]
fn a_forwarded_read_ends_once_whoever_leads_when_it_arrives() {
    let mut fleet = Fleet::of(3);
    fleet.elect(ONE);
    fleet.works();
    fleet.hold(|packet| matches!(packet.message, Message::ReadIndex(_)));
    let read = fleet.read(TWO, ReadPath::Follower);
    fleet.settle();
    assert_eq!((fleet.held.len(), fleet.outcome(read)), (1, None));
    // Leadership goes to the asker itself.
    fleet.transfer(ONE, TWO);
    fleet.settle();
    assert_eq!(fleet.leader(), Some(TWO));
    let lost = Outcome::Refused(Refusal::LeadershipLost);
    assert_eq!(fleet.outcome(read), Some(lost), "it asked a leader that is none any more");
    // The request arrives at the former leader, is refused, and changes nothing.
    fleet.release();
    fleet.live(Duration::from_secs(1));
    fleet.works();
    let again = fleet.read(TWO, ReadPath::Follower);
    fleet.settle();
    assert!(fleet.is_ready(again), "{:?}", fleet.outcome(again));
    // And one that arrives while the leader hands over is answered all the same.
    let read = fleet.read(ONE, ReadPath::Follower);
    fleet.transfer(TWO, THREE);
    fleet.settle();
    assert!(fleet.outcome(read).is_some());
}

/// A forwarded request names its term, so that it can be told from one of a time long gone; it
/// speaks for nobody's leadership.
#[test]
fn a_forwarded_read_of_any_term_confirms_no_other_read_and_deposes_nobody() {
    for of in [0, 1, 2, 9] {
        let mut bench = leader_of_voters(3);
        read(&mut bench, 1);
        bench.sent.clear();
        bench.hear(TWO, read_index(of, 5));
        bench.hear(THREE, read_index(of, 6));
        assert!(bench.group.is_leader(), "term {of}");
        assert!(bench.take_outcomes().is_empty(), "term {of}");
        let refused = bench.messages_to(TWO).iter().any(|message| {
            matches!(message, Message::ReadIndexReply(ReadIndexReply { id: 5, index: None, .. }))
        });
        assert_eq!(refused, of > 1, "term {of}: whoever is ahead of us must not read here");
    }
    // From its own name, or from a stranger, it is worth nothing.
    let mut bench = leader_of_voters(3);
    bench.hear(ONE, read_index(1, 5));
    assert!(bench.sent.is_empty());
    bench.hear(ReplicaId::new(9), read_index(1, 5));
    assert!(bench.sent.iter().all(|outgoing| matches!(
        outgoing.message,
        Message::ReadIndexReply(ReadIndexReply { index: None, .. })
    )));
}

/// An answer to a read of a former life names a number, and this life must not draw it again.
#[test]
fn an_answer_to_a_former_life_answers_no_read_of_this_one() {
    for careless in [false, true] {
        let mut fleet = Fleet::of(3);
        fleet.careless = careless;
        fleet.elect(ONE);
        fleet.hold(|packet| matches!(packet.message, Message::ReadIndexReply(_)));
        fleet.read(TWO, ReadPath::Follower);
        fleet.settle();
        assert_eq!(fleet.held.len(), 1);
        fleet.works();
        fleet.crash(TWO);
        fleet.restart(TWO);
        fleet.live(Duration::from_millis(100));
        let read = fleet.read(TWO, ReadPath::Follower);
        fleet.release();
        assert_eq!(fleet.outcome(read), None, "the old index is below what was told since");
        fleet.live(Duration::from_secs(2));
        assert!(fleet.outcome(read).is_some());
    }
}

/// After a restart a state machine is older than what its replica served before. A read finds an
/// index that covers all of that, on every path.
#[test]
fn a_read_after_a_restart_covers_everything_that_was_ever_served() {
    for path in [ReadPath::Quorum, ReadPath::Lease, ReadPath::Follower] {
        let settings =
            Settings { lease: raft_core::Lease::Within { drift_ppm: 100 }, ..Settings::default() };
        let mut fleet = Fleet::with(3, settings);
        fleet.live(Duration::from_secs(2));
        for _ in 0..5 {
            fleet.works();
        }
        for id in [ONE, TWO, THREE] {
            fleet.crash(id);
        }
        for id in [ONE, TWO, THREE] {
            fleet.restart(id);
            assert_eq!(fleet.commit(id), 0, "nothing says what was committed");
        }
        let mut reads = Vec::new();
        for _ in 0..40 {
            fleet.live(Duration::from_millis(100));
            for id in [ONE, TWO, THREE] {
                // The checker knows what was told before, and judges every index.
                reads.push(fleet.read(id, path));
            }
        }
        fleet.live(Duration::from_secs(2));
        assert!(reads.iter().any(|read| fleet.is_ready(*read)), "{path:?}");
        assert!(reads.iter().all(|read| fleet.outcome(*read).is_some()), "{path:?}");
    }
}

/// A leader that lives again, alone with its log, has no reads of its former life to answer.
#[test]
fn a_late_confirmation_of_a_former_life_answers_nothing() {
    let mut second_life = start(ONE, &[1]);
    second_life.incarnation = Incarnation::new(2);
    second_life.hard_state.term = term(1);
    let mut bench = Bench::new(second_life);
    let hear = |bench: &mut Bench, to: u64, message: Message| {
        bench.input(Input::Message {
            from: TWO,
            from_incarnation: FIRST_LIFE,
            to_incarnation: Incarnation::new(to),
            message,
        });
    };
    bench.input(Input::Campaign);
    hear(&mut bench, 2, vote_reply(true, term(2), 1, raft_core::Verdict::Granted));
    bench.sync();
    hear(&mut bench, 2, vote_reply(false, term(2), 2, raft_core::Verdict::Granted));
    bench.sync();
    let append = bench.append_for(TWO).expect("a probe");
    hear(&mut bench, 2, accepted(&append, 1));
    let noop = bench.append_for(TWO).expect("the no-op");
    hear(&mut bench, 2, accepted(&noop, 2));
    assert_eq!(bench.commit(), 2);
    read(&mut bench, 1);
    hear(&mut bench, 1, heartbeat_reply(2, 1));
    assert!(bench.take_outcomes().is_empty());
    bench.input(Input::Propose { token: token(2), bytes: 100, time: LogTime::default() });
    hear(&mut bench, 2, heartbeat_reply(2, 1));
    assert_eq!(bench.take_outcomes().len(), 1);
}
