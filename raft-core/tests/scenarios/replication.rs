//! Logs become equal, and only what is safe is committed (paper 5.3, 5.4.2).

use std::sync::Arc;
use std::time::Duration;

use raft_core::{
    AppendReply, AppendResult, Disbelief, Fault, Incarnation, Input, Lease, LogChange, LogTime,
    Message, Outcome, Refusal, ReplicaId, Session, Settings, Start,
};

use crate::bench::*;

fn propose(bench: &mut Bench, of: u64) {
    bench.input(Input::Propose { token: token(of), bytes: 100, time: LogTime::default() });
}

fn narrow(terms: &[u64]) -> Start {
    let mut start = start(ONE, terms);
    start.settings = Arc::new(Settings {
        append_bytes_max: 100,
        inflight_appends_max: 2,
        uncommitted_bytes_max: 1_000,
        ..Settings::default()
    });
    start
}

fn last_reply(bench: &Bench) -> AppendReply {
    match bench.sent.last().map(|outgoing| &outgoing.message) {
        Some(Message::AppendReply(reply)) => *reply,
        other => panic!("{other:?}"),
    }
}

#[test]
fn figure_8_entries_of_old_terms_do_not_commit_by_count() {
    // Entry 2 of term 2 is on this leader and, soon, on a majority; its term is 5 by now.
    let mut old = start(ONE, &[1, 2]);
    old.hard_state.term = term(4);
    let mut bench = Bench::leader_of(old);
    let probe = bench.append_for(TWO).expect("a probe");
    bench.hear(TWO, accepted(&probe, 2));
    assert_eq!(bench.commit(), 0, "two of three disks hold entry 2");
    let noop = bench.append_for(TWO).expect("the no-op");
    bench.hear(TWO, accepted(&noop, 3));
    assert_eq!(bench.commit(), 3);
}

#[test]
fn duplicate_append_never_truncates_matching_entries() {
    let mut bench = Bench::follower(&[1]);
    let long = append(2, (1, 1), &[2, 2, 2], 0);
    bench.hear(TWO, Message::Append(long.clone()));
    bench.sync();
    bench.take_log_changes();
    for late in [long, append(2, (1, 1), &[2], 4), append(2, (0, 0), &[1, 2], 4)] {
        bench.hear(TWO, Message::Append(late));
        assert!(bench.take_log_changes().is_empty());
        assert!(bench.effects.persist.is_none());
    }
    assert_eq!(bench.terms(), [1, 2, 2, 2]);
}

#[test]
fn conflict_cuts_exactly_the_differing_tail() {
    let mut bench = Bench::follower(&[1, 1, 2, 2]);
    bench.hear(TWO, Message::Append(append(4, (1, 1), &[1, 3, 3, 4], 0)));
    assert_eq!(bench.terms(), [1, 1, 3, 3, 4]);
    let changes = [
        LogChange::Truncated { from: index(3) },
        LogChange::Received { first: index(3), last: index(5) },
    ];
    assert_eq!(bench.take_log_changes(), changes);
}

#[test]
fn a_tail_the_leader_does_not_mention_is_neither_cut_nor_committed() {
    let mut bench = Bench::follower(&[1, 1, 1, 1]);
    bench.hear(TWO, Message::Append(append(2, (1, 1), &[1], 4)));
    assert_eq!(bench.terms(), [1, 1, 1, 1]);
    assert_eq!(bench.commit(), 2, "verified up to 2 only");
    bench.hear(TWO, heartbeat(2, 4));
    assert_eq!(bench.commit(), 2);
}

#[test]
fn heartbeat_before_its_append_commits_nothing_unverified() {
    let mut bench = Bench::follower(&[1, 1]);
    bench.hear(TWO, heartbeat(2, 2));
    assert_eq!(bench.commit(), 0);
    bench.hear(TWO, Message::Append(append(2, (2, 1), &[], 0)));
    bench.hear(TWO, heartbeat(2, 2));
    assert_eq!(bench.commit(), 2);
    // The next leader has to prove its own.
    let mut bench = Bench::follower(&[1, 1]);
    bench.hear(TWO, Message::Append(append(2, (2, 1), &[], 0)));
    bench.hear(THREE, heartbeat(3, 2));
    assert_eq!(bench.commit(), 0);
}

#[test]
fn persist_acknowledgement_does_not_vouch_for_replaced_entries() {
    let mut bench = Bench::follower(&[]);
    bench.hear(TWO, Message::Append(append(1, (0, 0), &[1, 1, 1], 0)));
    let first = bench.take();
    bench.hear(THREE, Message::Append(append(2, (1, 1), &[2, 2], 0)));
    let second = bench.take();
    bench.persisted(first.seq);
    assert_eq!(bench.group.status().durable_index, index(1));
    bench.persisted(second.seq);
    assert_eq!(bench.group.status().durable_index, index(3));
    // Late and repeated acknowledgements are harmless.
    bench.persisted(first.seq);
    assert_eq!(bench.group.status().durable_index, index(3));
}

#[test]
fn acks_of_an_earlier_session_move_nothing() {
    let mut bench = Bench::leader(&[]);
    let probe = bench.append_for(TWO).expect("a probe");
    bench.input(Input::PeerUnreachable(TWO));
    bench.hear(TWO, accepted(&probe, 1));
    assert_eq!(bench.commit(), 0);
    let probe = bench.append_for(TWO).expect("a new probe");
    bench.hear(TWO, accepted(&probe, 0));
    let noop = bench.append_for(TWO).expect("the no-op");
    // A new life of the peer is a new session as well; the word of the old one is void.
    bench.hear_from_life(TWO, Incarnation::new(2), heartbeat_reply(1, 0));
    bench.hear_from_life(TWO, Incarnation::new(2), accepted(&noop, 1));
    bench.hear(TWO, accepted(&noop, 1));
    assert_eq!(bench.commit(), 0);
}

#[test]
fn a_peer_that_lost_its_unacknowledged_tail_is_filled_again() {
    let mut bench = Bench::leader(&[]);
    bench.catch_up(TWO);
    propose(&mut bench, 1);
    bench.sync();
    let append = bench.append_for(TWO).expect("entry 2");
    bench.hear(TWO, accepted(&append, 1));
    let second_life = Incarnation::new(2);
    bench.hear_from_life(TWO, second_life, heartbeat_reply(1, 0));
    let probe = bench.append_for(TWO).expect("a probe");
    assert_eq!(probe.prev_index, index(2));
    let rejected = Message::AppendReply(AppendReply {
        term: term(1),
        session: probe.session,
        result: AppendResult::Rejected {
            prev_index: probe.prev_index,
            hint_index: index(1),
            hint_term: term(1),
        },
    });
    bench.hear_from_life(TWO, second_life, rejected);
    let probe = bench.append_for(TWO).expect("a probe further down");
    assert_eq!(probe.prev_index, index(1));
    bench.hear_from_life(TWO, second_life, accepted(&probe, 1));
    let append = bench.append_for(TWO).expect("entry 2 again");
    bench.hear_from_life(TWO, second_life, accepted(&append, 2));
    assert_eq!(bench.commit(), 2);
}

#[test]
fn full_window_stops_and_continues() {
    let mut bench = Bench::leader_of(narrow(&[]));
    bench.catch_up(TWO);
    for of in 1..=5 {
        propose(&mut bench, of);
    }
    let first = bench.append_for(TWO).expect("room for two");
    let second = bench.append_for(TWO).expect("room for two");
    assert_eq!((first.count(), second.count()), (1, 1));
    assert!(!bench.group.wants_append(TWO));
    assert_eq!(bench.append_for(TWO), None);
    bench.hear(TWO, accepted(&first, first.last_index().get()));
    let third = bench.append_for(TWO).expect("one answered, one more");
    assert_eq!(third.prev_index, second.last_index());
    assert_eq!(bench.append_for(TWO), None);
    // One acknowledgement for both frees both.
    bench.hear(TWO, accepted(&third, third.last_index().get()));
    assert!(bench.append_for(TWO).is_some());
    assert!(bench.append_for(TWO).is_some());
}

/// A driver with several lanes to a peer may change lanes only then.
#[test]
fn something_is_in_flight_from_every_append_to_its_answer() {
    let mut bench = Bench::leader_of(narrow(&[]));
    let flies = |bench: &Bench| (bench.group.has_in_flight(TWO), bench.group.streams_to(TWO));
    assert_eq!(flies(&bench), (false, false));
    let probe = bench.append_for(TWO).expect("a probe");
    assert_eq!(flies(&bench), (true, false));
    bench.hear(TWO, accepted(&probe, 0));
    assert_eq!(flies(&bench), (false, true));
    propose(&mut bench, 1);
    let first = bench.append_for(TWO).expect("room for two");
    let second = bench.append_for(TWO).expect("room for two");
    bench.hear(TWO, accepted(&first, 1));
    assert_eq!(flies(&bench), (true, true));
    bench.hear(TWO, accepted(&second, 2));
    assert_eq!(flies(&bench), (false, true));
    // What was lost with a connection is in flight no more, nor is what goes to a stranger.
    propose(&mut bench, 2);
    assert!(bench.append_for(TWO).is_some());
    bench.input(Input::PeerUnreachable(TWO));
    assert_eq!(flies(&bench), (false, false));
    let stranger = ReplicaId::new(9);
    assert!(!bench.group.has_in_flight(stranger) && !bench.group.streams_to(stranger));
}

#[test]
fn who_does_not_lead_has_nothing_to_send_and_no_lease() {
    let mut start = start(ONE, &[]);
    let lease = Lease::Within { drift_ppm: 0 };
    start.settings = Arc::new(Settings { lease, ..Settings::default() });
    let mut bench = Bench::leader_of(start);
    bench.catch_up(TWO);
    bench.hear(TWO, heartbeat_reply(1, 0));
    assert!(bench.group.lease_until().is_some());
    assert!(bench.group.wants_append(THREE));
    assert_eq!(bench.group.replicated_to(), [TWO, THREE]);
    assert_eq!(bench.group.match_of_all(), Some(index(0)), "nothing is heard of the third");
    bench.hear(THREE, heartbeat(2, 0));
    for peer in [TWO, THREE] {
        assert!(!bench.group.wants_append(peer) && !bench.group.has_in_flight(peer));
        assert!(!bench.group.streams_to(peer));
        assert_eq!((bench.group.next_index(peer), bench.append_for(peer)), (None, None));
    }
    assert_eq!(bench.group.replicated_to(), []);
    assert_eq!((bench.group.match_of_all(), bench.group.snapshot_offered()), (None, None));
    assert_eq!(bench.group.lease_until(), None);
}

#[test]
fn lost_appends_are_asked_about_and_sent_again() {
    let mut bench = Bench::leader_of(narrow(&[]));
    bench.catch_up(TWO);
    propose(&mut bench, 1);
    let lost = bench.append_for(TWO).expect("entry 2");
    for _ in 0..8 {
        bench.live(Duration::from_millis(100));
        bench.hear(TWO, heartbeat_reply(1, 0));
    }
    let question = bench.append_for(TWO).expect("a question");
    assert_eq!((question.session, question.count()), (lost.session, 0));
    assert_eq!(question.prev_index, index(2), "it asks about what was sent");
    assert_eq!(bench.append_for(TWO), None, "once in a while");
    let result = AppendResult::Rejected {
        prev_index: question.prev_index,
        hint_index: index(1),
        hint_term: term(1),
    };
    let reply = AppendReply { term: question.term, session: question.session, result };
    bench.hear(TWO, Message::AppendReply(reply));
    let probe = bench.append_for(TWO).expect("a probe");
    bench.hear(TWO, accepted(&probe, 1));
    assert_eq!(bench.append_for(TWO).map(|append| append.last_index()), Some(index(2)));
}

/// A large entry on a slow link: it is asked about again and again, and sent once.
#[test]
fn an_append_that_takes_long_is_sent_once_and_its_answer_counts() {
    let mut bench = Bench::leader_of(narrow(&[]));
    bench.catch_up(TWO);
    propose(&mut bench, 1);
    bench.sync();
    let slow = bench.append_for(TWO).expect("entry 2");
    let mut questions = 0;
    for _ in 0..600 {
        bench.live(Duration::from_millis(100));
        bench.hear(TWO, heartbeat_reply(1, 0));
        while let Some(append) = bench.append_for(TWO) {
            assert_eq!((append.count(), append.session), (0, slow.session));
            questions += 1;
        }
    }
    assert!((60..=120).contains(&questions), "{questions} in a minute");
    bench.hear(TWO, accepted(&slow, 2));
    assert_eq!(bench.commit(), 2);
}

#[test]
fn lost_acknowledgement_of_what_a_probe_had_found_is_asked_for_again() {
    let mut bench = Bench::leader(&[]);
    let probe = bench.append_for(TWO).expect("a probe");
    let mut in_memory = probe.clone();
    in_memory.runs.push(raft_core::TermRun { term: term(1), count: 1 });
    // The peer holds the no-op in memory; that it became durable was said, but lost.
    bench.hear(TWO, accepted(&in_memory, 0));
    assert_eq!(bench.append_for(TWO), None);
    for _ in 0..8 {
        bench.live(Duration::from_millis(100));
        bench.hear(TWO, heartbeat_reply(1, 0));
    }
    let probe = bench.append_for(TWO).expect("the leader asks again");
    bench.hear(TWO, accepted(&probe, 1));
    assert_eq!(bench.commit(), 1);
}

#[test]
fn late_append_of_an_earlier_session_does_not_redirect_acknowledgements() {
    let mut bench = Bench::follower(&[]);
    let mut newer = append(1, (0, 0), &[1], 0);
    newer.session = Session::new(2);
    bench.hear(TWO, Message::Append(newer));
    bench.hear(TWO, Message::Append(append(1, (0, 0), &[1], 0)));
    bench.sync();
    assert_eq!(last_reply(&bench).session, Session::new(2));
    // The sessions of the next term's leader start anew.
    bench.input(Input::Campaign);
    bench.hear(THREE, Message::Append(append(2, (1, 1), &[2], 0)));
    bench.sync();
    assert_eq!(last_reply(&bench).session, Session::new(1));
}

#[test]
fn conflict_hints_skip_whole_terms() {
    // Figure 7 of the paper, (f): 2 and 3 fill what the leader filled with 4, 5 and 6.
    let leader_log = [1, 1, 1, 4, 4, 5, 5, 6, 6, 6];
    let stray_log = [1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3];
    let mut leader = start(ONE, &leader_log);
    leader.hard_state.term = term(7);
    let mut leader = Bench::leader_of(leader);
    let mut stray = Bench::new(start(TWO, &stray_log));
    let mut rounds = 0;
    while stray.terms() != leader.terms() {
        let append = leader.append_for(TWO).expect("something is due");
        stray.hear(ONE, Message::Append(append));
        stray.sync();
        for answer in std::mem::take(&mut stray.sent) {
            leader.hear(TWO, answer.message);
        }
        rounds += 1;
        assert!(rounds < 6, "a round per entry is too many");
    }
    assert_eq!(leader.commit(), 11);
}

#[test]
fn probing_ends_for_every_pair_of_logs() {
    // All ascending logs of up to four entries with terms 1 to 3.
    let mut logs: Vec<Vec<u64>> = vec![vec![]];
    for at in 0.. {
        let Some(log) = logs.get(at).cloned() else {
            break;
        };
        if log.len() < 4 {
            let lowest = log.last().copied().unwrap_or(1);
            logs.extend((lowest..=3).map(|next| [&log[..], &[next]].concat()));
        }
    }
    for leader_log in &logs {
        for other_log in &logs {
            // Pairs that log matching forbids cannot arise.
            let agree = leader_log.iter().zip(other_log).take_while(|(a, b)| a == b);
            let agree = agree.count();
            let mut beyond = leader_log.iter().zip(other_log).skip(agree);
            if beyond.any(|(a, b)| a == b) {
                continue;
            }
            // Entry by entry: a leader that sends one at a time must get there as well.
            let mut start_leader = narrow(leader_log);
            start_leader.hard_state.term = term(3);
            let mut leader = Bench::leader_of(start_leader);
            let mut other = Bench::new(start(TWO, other_log));
            for _ in 0..20 {
                let Some(append) = leader.append_for(TWO) else {
                    break;
                };
                other.hear(ONE, Message::Append(append));
                other.sync();
                for answer in std::mem::take(&mut other.sent) {
                    leader.hear(TWO, answer.message);
                }
            }
            assert_eq!(other.terms(), leader.terms(), "{leader_log:?} over {other_log:?}");
            assert_eq!(leader.commit() as usize, leader.terms().len());
        }
    }
}

#[test]
fn uncommitted_bytes_are_capped_and_freed_exactly() {
    let mut bench = Bench::leader_of(narrow(&[1, 1]));
    for of in 1..=11 {
        propose(&mut bench, of);
    }
    let refused = Outcome::Refused(Refusal::Overloaded { uncommitted_bytes: 1_000 });
    assert_eq!(bench.take_outcomes(), [(token(11), refused)]);
    bench.sync();
    bench.catch_up(TWO);
    assert_eq!(bench.take_outcomes().len(), 10);
    // Into an empty window goes one proposal of any size, and then none.
    bench.input(Input::Propose { token: token(20), bytes: u64::MAX, time: LogTime::default() });
    propose(&mut bench, 21);
    let refused = Outcome::Refused(Refusal::Overloaded { uncommitted_bytes: u64::MAX });
    assert_eq!(bench.take_outcomes(), [(token(21), refused)]);
    bench.sync();
    bench.catch_up(TWO);
    propose(&mut bench, 22);
    bench.sync();
    bench.catch_up(TWO);
    assert_eq!(bench.take_outcomes().len(), 2);
}

#[test]
fn proposals_without_size_find_a_limit_too() {
    let mut bench = Bench::leader_of(narrow(&[]));
    for of in 1..=100 {
        bench.input(Input::Propose { token: token(of), bytes: 0, time: LogTime::default() });
    }
    assert!(bench.take_outcomes().len() > 60);
}

#[test]
fn a_replaced_proposal_can_return_and_be_committed() {
    let mut bench = Bench::leader(&[]);
    propose(&mut bench, 1);
    bench.sync();
    // The leader of term 2 replaces it, but dies before its own entry is on a majority.
    bench.hear(TWO, Message::Append(append(2, (1, 1), &[2], 1)));
    assert_eq!(bench.terms(), [1, 2]);
    assert!(bench.take_outcomes().is_empty(), "nothing is decided yet");
    // Replica 3 holds our entry still, and leads term 3.
    bench.hear(THREE, Message::Append(append(3, (1, 1), &[1, 3], 0)));
    assert!(bench.take_outcomes().is_empty());
    bench.hear(THREE, Message::Append(append(3, (3, 3), &[], 3)));
    let committed = Outcome::Committed { index: index(2), term: term(1) };
    assert_eq!(bench.take_outcomes(), [(token(1), committed)]);
}

#[test]
fn a_replaced_proposal_ends_even_if_the_log_never_grows_so_long_again() {
    let mut bench = Bench::leader(&[]);
    for of in 1..=9 {
        propose(&mut bench, of);
    }
    bench.sync();
    bench.hear(TWO, Message::Append(append(2, (1, 1), &[2], 2)));
    let outcomes = bench.take_outcomes();
    assert_eq!(outcomes.len(), 9);
    assert!(outcomes.iter().all(|(_, end)| *end == Outcome::Superseded));
}

#[test]
fn a_proposal_is_superseded_once_another_entry_is_committed_in_its_place() {
    let mut bench = Bench::leader(&[]);
    bench.catch_up(TWO);
    propose(&mut bench, 1);
    propose(&mut bench, 2);
    bench.sync();
    bench.hear(THREE, Message::Append(append(2, (1, 1), &[1, 2], 0)));
    assert!(bench.take_outcomes().is_empty());
    bench.hear(THREE, Message::Append(append(2, (3, 2), &[], 3)));
    let committed = Outcome::Committed { index: index(2), term: term(1) };
    // The first was committed by another leader.
    let ends = [(token(1), committed), (token(2), Outcome::Superseded)];
    assert_eq!(bench.take_outcomes(), ends);
}

#[test]
fn a_muted_group_leaves_no_proposal_without_an_end() {
    let mut bench = Bench::leader(&[]);
    propose(&mut bench, 1);
    bench.hear(TWO, heartbeat(1, 0));
    assert!(bench.fault().is_some());
    assert_eq!(bench.take_outcomes(), [(token(1), Outcome::Unknown)]);
}

#[test]
fn a_leader_that_contradicts_a_committed_entry_mutes_the_group_and_changes_nothing() {
    let mut bench = Bench::follower(&[1, 1, 1]);
    bench.hear(TWO, Message::Append(append(1, (3, 1), &[], 2)));
    bench.hear(THREE, Message::Append(append(3, (1, 1), &[2, 2], 0)));
    assert!(matches!(
        bench.fault(),
        Some(Fault::CommittedConflict { index: at, .. }) if at == index(2)
    ));
    assert_eq!(bench.terms(), [1, 1, 1]);
    // To name another one before the entries is the same contradiction, and no rejection.
    let mut bench = Bench::follower(&[1, 1, 1]);
    bench.hear(TWO, Message::Append(append(1, (3, 1), &[], 2)));
    bench.hear(THREE, Message::Append(append(3, (2, 2), &[3], 0)));
    assert!(matches!(
        bench.fault(),
        Some(Fault::CommittedConflict { index: at, .. }) if at == index(2)
    ));
    assert_eq!(bench.terms(), [1, 1, 1]);
    // Where nothing is committed it is one of the usual differences.
    let mut bench = Bench::follower(&[1, 1, 1]);
    bench.hear(TWO, Message::Append(append(1, (3, 1), &[], 2)));
    bench.hear(THREE, Message::Append(append(3, (3, 2), &[3], 0)));
    bench.sync();
    assert_eq!(bench.fault(), None);
    assert!(matches!(last_reply(&bench).result, AppendResult::Rejected { .. }));
}

#[test]
fn a_leader_that_rewrites_its_own_log_mutes_the_group() {
    let mut bench = Bench::follower(&[1, 2, 2]);
    bench.hear(TWO, Message::Append(append(3, (3, 2), &[], 0)));
    bench.hear(TWO, Message::Append(append(3, (0, 0), &[1, 1], 0)));
    assert!(matches!(bench.fault(), Some(Fault::LeaderRewrote { .. })));
    assert_eq!(bench.terms(), [1, 2, 2]);
}

#[test]
fn claims_at_the_end_of_the_number_range_are_passed_over_and_cost_no_memory() {
    let mut bench = Bench::follower(&[]);
    let mut endless = append(1, (0, 0), &[1], 0);
    endless.runs[0].count = u64::MAX;
    bench.hear(TWO, Message::Append(endless));
    assert!(matches!(bench.effects.disbelieved, Some(Disbelief::FarIndex { .. })));
    assert_eq!((bench.fault(), bench.group.last_index()), (None, index(0)));
    // A huge but possible log: leading from it takes no memory per entry.
    let mut bench = Bench::follower(&[]);
    let mut huge = append(1, (0, 0), &[1], 0);
    huge.runs[0].count = 1 << 60;
    bench.hear(TWO, Message::Append(huge));
    bench.sync();
    bench.wait(Duration::from_secs(1));
    bench.input(Input::Campaign);
    bench.hear(THREE, vote_reply(true, term(2), 1, raft_core::Verdict::Granted));
    bench.sync();
    bench.hear(THREE, vote_reply(false, term(2), 2, raft_core::Verdict::Granted));
    bench.sync();
    bench.catch_up_from_the_end(THREE);
    assert_eq!(bench.commit(), (1 << 60) + 1);
}

#[test]
fn acknowledging_what_was_never_sent_mutes_the_group() {
    let mut bench = Bench::leader(&[]);
    let probe = bench.append_for(TWO).expect("a probe");
    bench.hear(TWO, accepted(&probe, 9));
    assert!(matches!(bench.fault(), Some(Fault::AckBeyondLog { .. })));
}
