//! Power fails between any two things a replica does (paper 5.4.2; thesis 3.8).

use std::time::Duration;

use raft_core::{Incarnation, Input, Message, Promise, PromiseRecord, ReplicaId, Settings, Verdict};

use crate::bench::*;
use crate::fleet::Fleet;

const FOUR: ReplicaId = ReplicaId::new(4);
const FIVE: ReplicaId = ReplicaId::new(5);

/// It stands until it is elected: it may have to learn of newer terms first.
fn wins(fleet: &mut Fleet, id: ReplicaId) {
    for _ in 0..3 {
        if !fleet.group(id).is_leader() {
            fleet.stand_first(id);
        }
    }
    assert!(fleet.group(id).is_leader(), "{id} is not elected");
}

/// The story of the paper's figure 8, up to (d): an entry of an old term is on three of five
/// disks, and is replaced all the same.
#[test]
fn figure_8_an_entry_on_a_majority_of_disks_is_replaced_and_nobody_had_called_it_committed() {
    let one_entry_each = Settings { append_bytes_max: 100, ..Settings::default() };
    let mut fleet = Fleet::with(5, one_entry_each);
    fleet.elect(ONE);
    // (a) Replica 1 leads; its next entry reaches only replica 2.
    for other in [THREE, FOUR, FIVE] {
        fleet.cut(ONE, other);
    }
    let old = fleet.propose(ONE);
    fleet.settle();
    assert_eq!([ONE, TWO, THREE].map(|id| fleet.last(id)), [2, 2, 1]);
    // (b) It dies. Replica 5 is elected by 3 and 4, and writes an entry of its own, alone.
    fleet.crash(ONE);
    fleet.cut(TWO, FIVE);
    fleet.hold(|packet| matches!(packet.message, Message::Append(_)));
    wins(&mut fleet, FIVE);
    assert_eq!((fleet.terms(FIVE), fleet.last(THREE)), (vec![1, 2], 1));
    // (c) It dies; 1 is elected by 2 and 3 and brings its old entry to 3, but nothing of its term.
    fleet.crash(FIVE);
    fleet.held.clear();
    fleet.join();
    fleet.isolate(FOUR);
    fleet.restart(ONE);
    fleet.hold(|packet| match &packet.message {
        Message::Append(append) => append.runs.iter().any(|run| run.term == append.term),
        _ => false,
    });
    wins(&mut fleet, ONE);
    assert_eq!([ONE, TWO, THREE].map(|id| fleet.on_disk(id).2), [3, 2, 2]);
    assert_eq!((fleet.commit(ONE), fleet.outcome(old)), (0, None), "on three of five disks");
    // (d) It dies again; 5 wins with its newer term and replaces the entry everywhere.
    fleet.crash(ONE);
    fleet.held.clear();
    fleet.let_pass();
    fleet.join();
    fleet.restart(FIVE);
    wins(&mut fleet, FIVE);
    fleet.works();
    fleet.restart(ONE);
    fleet.live(Duration::from_secs(1));
    fleet.works();
    fleet.live(Duration::from_millis(100));
    fleet.agree();
    assert_eq!(fleet.terms(ONE)[..2], [1, 2]);
}

/// A follower hears every append of a leader's life whole, cut short, late and twice, and crashes
/// after each of its disk's operations. What it acknowledged is still there.
#[test]
fn a_crash_after_any_operation_keeps_what_was_acknowledged() {
    let appends = [
        append(2, (1, 1), &[2], 1),
        append(2, (2, 2), &[2, 2], 1),
        append(2, (1, 1), &[2, 2], 2),
        append(2, (0, 0), &[1, 2], 3),
        append(2, (1, 1), &[2, 2, 2], 3),
        append(2, (4, 2), &[2], 4),
        append(2, (2, 2), &[2], 4),
        append(2, (2, 2), &[], 4),
    ];
    let told = |bench: &Bench| {
        let durable = bench.sent.iter().filter_map(|outgoing| match &outgoing.message {
            Message::AppendReply(reply) => match reply.result {
                raft_core::AppendResult::Accepted { durable, .. } => Some(durable.get()),
                _ => None,
            },
            _ => None,
        });
        durable.max().unwrap_or(0)
    };
    for first in 0..appends.len() {
        for second in 0..appends.len() {
            for third in 0..appends.len() {
                for operations in 0..=3 {
                    let mut bench = Bench::follower(&[1]);
                    let mut disk = vec![1u64];
                    let mut done = 0;
                    for at in [first, second, third] {
                        bench.hear(TWO, Message::Append(appends[at].clone()));
                        let Some(persist) = bench.effects.persist.take() else { continue };
                        if done == operations {
                            break;
                        }
                        done += 1;
                        if let Some(from) = persist.truncate_from {
                            disk.truncate(from.get() as usize - 1);
                        }
                        if let Some((from, last)) = persist.append {
                            assert_eq!(from.get() as usize, disk.len() + 1);
                            disk.resize(last.get() as usize, 2);
                        }
                        // The power may fail before or after this operation; it never takes back
                        // what an earlier one was acknowledged for.
                        assert!(told(&bench) <= disk.len() as u64, "{first} {second} {third}");
                        bench.persisted(persist.seq);
                        assert!(told(&bench) <= disk.len() as u64, "{first} {second} {third}");
                    }
                }
            }
        }
    }
}

/// A leader and its followers work; the power fails everywhere before the n-th operation of one
/// disk. Nothing a client was told is lost, whatever n, and whosever disk it is.
#[test]
fn a_crash_before_any_sync_breaks_no_promise() {
    for slow in [ONE, TWO] {
        for operations in 0..8 {
            let mut fleet = Fleet::of(3);
            fleet.hold_disk(slow);
            fleet.input(ONE, Input::Campaign);
            let mut writes = Vec::new();
            for at in 0..8 {
                fleet.settle();
                if fleet.group(ONE).is_leader() {
                    writes.push(fleet.propose(ONE));
                    // Only the slow one can make the majority.
                    fleet.isolate(THREE);
                }
                fleet.settle();
                if at < operations {
                    fleet.step_disk(slow);
                }
            }
            let told: Vec<_> = writes.iter().filter(|write| fleet.is_committed(**write)).collect();
            assert!(!told.is_empty() || operations < 3, "{slow} after {operations}");
            for id in [ONE, TWO, THREE] {
                fleet.crash(id);
            }
            fleet.release_disk(slow);
            fleet.join();
            for id in [TWO, THREE, ONE] {
                fleet.restart(id);
            }
            fleet.live(Duration::from_secs(3));
            fleet.works();
            fleet.live(Duration::from_millis(100));
            fleet.agree();
        }
    }
}

/// A candidate whose disk is slow loses power after it asked for votes, and stands in the same
/// term again. Nobody can have been asked, so no old answer can be true of both attempts.
#[test]
fn a_candidate_that_forgot_its_campaign_had_asked_nobody() {
    for careless in [false, true] {
        let mut fleet = Fleet::with_logs(&[&[1, 1], &[1], &[1]], Settings::default());
        fleet.careless = careless;
        fleet.hold_disk(ONE);
        fleet.input(ONE, Input::Campaign);
        fleet.settle();
        assert_eq!(fleet.group(ONE).term(), term(2));
        assert_eq!(fleet.on_disk(ONE).0, 1, "term and vote are on their way");
        // Whatever left waits, to be delivered when it can do most harm.
        fleet.hold(|packet| matches!(packet.message, Message::VoteReply(_)));
        fleet.settle();
        assert!(fleet.held.is_empty(), "nobody was asked for a vote");
        fleet.crash(ONE);
        fleet.release_disk(ONE);
        fleet.restart(ONE);
        fleet.live(Duration::from_secs(1));
        let late = fleet.held.clone();
        fleet.let_pass();
        fleet.live(Duration::from_secs(2));
        for packet in late {
            fleet.deliver(packet);
            fleet.settle();
        }
        fleet.live(Duration::from_secs(2));
        fleet.works();
    }
}

/// A replica is started again without its disk. What the leader says it may commit lies beyond
/// the empty log: it neither panics nor commits, whether the leader still knows the old life.
#[test]
fn a_wiped_replica_told_of_a_far_commit_neither_panics_nor_commits() {
    for careless in [false, true] {
        for promise in [Promise::Kept, Promise::Lost, Promise::Damaged] {
            let mut fleet = Fleet::of(3);
            fleet.careless = careless;
            fleet.elect(ONE);
            for _ in 0..20 {
                fleet.works();
            }
            fleet.hold(|packet| packet.to == TWO && matches!(packet.message, Message::Append(_)));
            fleet.wipe(TWO);
            let mut start = fleet.recovered(TWO);
            start.promise = PromiseRecord { promise, loss_epoch: 0 };
            fleet.crash(TWO);
            fleet.start_from(TWO, start);
            // Heartbeats only.
            fleet.live(Duration::from_secs(1));
            assert_eq!((fleet.commit(TWO), fleet.last(TWO)), (0, 0));
            assert_eq!(fleet.group(TWO).fault(), None);
            fleet.held.clear();
            fleet.let_pass();
            fleet.live(Duration::from_secs(3));
            fleet.works();
            fleet.live(Duration::from_millis(100));
            fleet.agree();
            assert_eq!(fleet.group(TWO).status().promise.promise, Promise::Kept);
        }
    }
}

/// The same replica as a voter: what it promised in its former life is gone, and so is its word.
#[test]
fn a_replica_whose_promises_are_lost_elects_nobody() {
    let mut lost = start(ONE, &[1]);
    lost.incarnation = Incarnation::new(2);
    lost.promise = PromiseRecord { promise: Promise::Lost, loss_epoch: 0 };
    let mut bench = Bench::new(lost);
    bench.input(Input::Message {
        from: TWO,
        from_incarnation: FIRST_LIFE,
        to_incarnation: Incarnation::new(2),
        message: Message::Vote(vote_request(5, 9, 4)),
    });
    bench.sync();
    assert_eq!(bench.group.status().vote, None);
    let granted = bench.sent.iter().any(|outgoing| {
        matches!(outgoing.message, Message::VoteReply(reply) if reply.verdict == Verdict::Granted)
    });
    assert!(!granted);
}
