//! What is committed, by whom, and who learns of it when (paper 5.3 and 5.4.2).

use std::sync::Arc;
use std::time::Duration;

use raft_core::{
    AppendResult, Input, LogTime, Message, Outcome, PersistSeq, Refusal, ReplicaId, Settings,
    TermRun,
};

use crate::bench::*;
use crate::fleet::Fleet;

fn beat(bench: &Bench, to: ReplicaId) -> u64 {
    let beats = bench.sent.iter().rev().filter(|outgoing| outgoing.to == to);
    let mut commits = beats.filter_map(|outgoing| match &outgoing.message {
        Message::Heartbeat(heartbeat) => Some(heartbeat.commit.get()),
        _ => None,
    });
    commits.next().expect("a heartbeat")
}

#[test]
fn a_probe_below_the_difference_commits_no_further_than_it_proves() {
    // Entries 3 and 4 are of a leader that lost; the new one has others there, all committed.
    let mut bench = Bench::follower(&[1, 1, 2, 2]);
    bench.hear(TWO, Message::Append(append(3, (2, 1), &[], 9)));
    assert_eq!(bench.commit(), 2);
    for commit in 3..=9 {
        bench.hear(TWO, heartbeat(3, commit));
        assert_eq!(bench.commit(), 2, "a heartbeat with commit {commit}");
    }
    bench.hear(TWO, Message::Append(append(3, (0, 0), &[1], 9)));
    assert_eq!(bench.commit(), 2, "an old part of the log, and a high commit");
    bench.hear(TWO, Message::Append(append(3, (2, 1), &[3], 9)));
    assert_eq!((bench.commit(), bench.terms()), (3, vec![1, 1, 3]));
}

/// Four followers of five acknowledge as far as they please, in every order.
#[test]
fn commit_is_what_a_majority_holds_whoever_holds_most() {
    const FOLLOWERS: [ReplicaId; 4] = [TWO, THREE, ReplicaId::new(4), ReplicaId::new(5)];
    for order in 0..4_usize.pow(4) {
        let held = [0, 1, 2, 3].map(|place| 1 + order / 4_usize.pow(place) % 4);
        let mut start = start(ONE, &[]);
        start.base = base([&[ONE][..], &FOLLOWERS[..]].concat());
        let mut bench = Bench::new(start);
        bench.stand(&[TWO, THREE]);
        for of in 1..=3 {
            bench.input(Input::Propose { token: token(of), bytes: 100, time: LogTime::default() });
        }
        let appends = FOLLOWERS.map(|peer| bench.append_for(peer).expect("a probe"));
        let mut acknowledged = vec![0; 5];
        for (at, append) in appends.iter().enumerate() {
            let mut all = append.clone();
            all.runs = [TermRun { term: term(1), count: 4 }].into_iter().collect();
            bench.hear(FOLLOWERS[at], accepted(&all, held[at] as u64));
            acknowledged[at] = held[at] as u64;
            let mut counted = acknowledged.clone();
            counted.sort_unstable();
            assert_eq!(bench.commit(), counted[2], "{held:?} with the leader's disk behind");
        }
        bench.sync();
        acknowledged[4] = 4;
        acknowledged.sort_unstable();
        assert_eq!(bench.commit(), acknowledged[2], "{held:?}");
    }
}

#[test]
fn a_follower_learns_the_commit_with_the_next_heartbeat() {
    let mut bench = Bench::leader(&[]);
    bench.catch_up(TWO);
    bench.input(Input::Propose { token: token(1), bytes: 100, time: LogTime::default() });
    bench.sync();
    bench.catch_up(TWO);
    assert_eq!(bench.commit(), 2);
    bench.sent.clear();
    bench.live(Duration::from_millis(100));
    assert_eq!(beat(&bench, TWO), 2, "not one round later");
    // All of a fleet know it within a heartbeat, with nothing else to be said.
    let mut fleet = Fleet::of(5);
    fleet.elect(ONE);
    fleet.works();
    fleet.live(Duration::from_millis(100));
    fleet.agree();
}

/// The same entry is written, cut and written again. Acknowledgements come in every order, some
/// twice; only the last writing makes entry 3 durable.
#[test]
fn the_acknowledgement_of_a_first_writing_does_not_vouch_for_the_second() {
    let orders = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
    for order in orders {
        let mut bench = Bench::follower(&[1, 1]);
        bench.hear(TWO, Message::Append(append(2, (2, 1), &[2], 0)));
        let first = bench.take();
        bench.hear(THREE, Message::Append(append(3, (2, 1), &[3], 0)));
        let second = bench.take();
        // The leader of term 4 had got entry 3 from the first one.
        bench.hear(TWO, Message::Append(append(4, (2, 1), &[2, 4], 0)));
        let third = bench.take();
        let operations = [first.seq, second.seq, third.seq];
        let mut newest = PersistSeq::default();
        for at in order {
            bench.persisted(operations[at]);
            newest = newest.max(operations[at]);
            let want = if newest == third.seq { 4 } else { 2 };
            assert_eq!(bench.group.status().durable_index, index(want), "{order:?}");
            let vouched = bench.sent.iter().filter_map(|outgoing| match &outgoing.message {
                Message::AppendReply(reply) => Some(reply.result),
                _ => None,
            });
            for result in vouched {
                let AppendResult::Accepted { durable, .. } = result else { panic!("{result:?}") };
                assert!(durable <= index(want), "{order:?}: {result:?}");
            }
        }
    }
}

#[test]
fn acknowledgements_from_the_disk_in_every_order_end_in_one_state() {
    let mut orders = vec![vec![]];
    for _ in 0..4 {
        let longer = |order: &Vec<usize>| {
            let rest = (0..4).filter(|at| !order.contains(at));
            rest.map(|at| [&order[..], &[at]].concat()).collect::<Vec<_>>()
        };
        orders = orders.iter().flat_map(longer).collect();
    }
    assert_eq!(orders.len(), 24);
    for order in orders {
        let mut bench = Bench::leader(&[1]);
        bench.catch_up(TWO);
        let mut operations = Vec::new();
        for of in 1..=4 {
            bench.input(Input::Propose { token: token(of), bytes: 100, time: LogTime::default() });
            operations.push(bench.take().seq);
        }
        bench.catch_up(TWO);
        let mut newest = 0;
        for at in &order {
            bench.persisted(operations[*at]);
            newest = newest.max(*at + 1);
            // One number acknowledges all before it, whatever is said later.
            assert_eq!(bench.commit(), 2 + newest as u64, "{order:?}");
        }
        assert_eq!(bench.take_outcomes().len(), 4, "{order:?}");
    }
}

/// Proposals, commits and losses of office in random order; the bytes that are said to be
/// uncommitted are always those a recount finds, and none when all is committed.
#[test]
fn uncommitted_bytes_are_always_what_a_recount_finds() {
    for seed in 1..200u64 {
        let mut state = seed;
        let mut draw = |bound: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) % bound
        };
        let mut start = start(ONE, &[1]);
        start.settings = Arc::new(Settings {
            append_bytes_max: 100,
            uncommitted_bytes_max: 700,
            ..Settings::default()
        });
        let mut bench = Bench::leader_of(start);
        bench.catch_up(TWO);
        // Costs of the proposals of this term that are not committed yet, with their indexes.
        let mut open: Vec<(u64, u64)> = Vec::new();
        for step in 0..60 {
            match draw(8) {
                0..5 => {
                    let bytes = 32 + draw(200);
                    let sum: u64 = open.iter().map(|(_, bytes)| bytes).sum();
                    bench.take_outcomes();
                    let token = token(step);
                    bench.input(Input::Propose { token, bytes, time: LogTime::default() });
                    let fits = sum == 0 || sum + bytes <= 700;
                    let refused = Outcome::Refused(Refusal::Overloaded { uncommitted_bytes: sum });
                    let want = if fits { vec![] } else { vec![(token, refused)] };
                    assert_eq!(bench.take_outcomes(), want, "seed {seed}, step {step}");
                    if fits {
                        open.push((bench.group.last_index().get(), bytes));
                    }
                }
                5..7 => {
                    bench.sync();
                    // The peer takes some of it.
                    for _ in 0..draw(3) {
                        if let Some(append) = bench.append_for(TWO) {
                            bench.hear(TWO, accepted(&append, append.last_index().get()));
                        }
                    }
                }
                _ => {
                    let term = bench.group.term().get();
                    bench.hear(TWO, heartbeat_reply(term + 1, 0));
                    bench.stand(&[TWO]);
                    // What earlier terms left costs nothing: its sizes are not known here.
                    open.clear();
                    bench.sync();
                    bench.catch_up(TWO);
                }
            }
            let commit = bench.commit();
            open.retain(|(at, _)| *at > commit);
        }
    }
}
