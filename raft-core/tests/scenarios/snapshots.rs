//! Snapshots take the place of logs, and nothing of what they replace survives (paper,
//! section 7).

use std::sync::Arc;
use std::time::Duration;

use raft_core::{
    AppendResult, Base, Disbelief, Fault, Input, LogChange, LogTime, MemberChange, Membership,
    Message, Outcome, PersistSeq, ReplicaId, Session, SnapshotEffect, SnapshotMeta, SnapshotOffer,
};

use crate::bench::*;
use crate::fleet::Fleet;

const FOUR: ReplicaId = ReplicaId::new(4);

fn meta(at: u64, of: u64) -> SnapshotMeta {
    SnapshotMeta {
        index: index(at),
        term: term(of),
        time: LogTime::default(),
        config_index: index(0),
        membership: Arc::new(Membership::of_voters([ONE, TWO, THREE]).expect("distinct voters")),
    }
}

fn offer(of: u64, meta: SnapshotMeta) -> Message {
    Message::Snapshot(SnapshotOffer { term: term(of), session: Session::new(1), meta })
}

fn received(at: u64, of: u64) -> Input {
    Input::SnapshotReceived { index: index(at), term: term(of) }
}

fn replies(bench: &Bench) -> Vec<AppendResult> {
    let replies = bench.sent.iter().filter_map(|outgoing| match &outgoing.message {
        Message::AppendReply(reply) => Some(reply.result),
        _ => None,
    });
    replies.collect()
}

#[test]
fn nothing_beyond_a_snapshot_that_is_not_installed_may_be_applied() {
    let mut bench = Bench::follower(&[1, 1]);
    bench.hear(TWO, Message::Append(append(2, (2, 1), &[], 2)));
    assert_eq!(bench.effects.appliable.take(), Some(index(2)));
    bench.hear(TWO, offer(2, meta(10, 2)));
    assert!(matches!(bench.effects.snapshot.take(), Some(SnapshotEffect::Fetch { .. })));
    // While it is on its way: appends that follow on it, a commit above it, an fsync.
    bench.hear(TWO, Message::Append(append(2, (10, 2), &[2, 2], 12)));
    bench.hear(TWO, heartbeat(2, 12));
    bench.sync();
    assert_eq!((bench.commit(), bench.effects.appliable), (2, None));
    // It is here: committed, but not appliable before its installation is on disk.
    bench.input(received(10, 2));
    assert_eq!(bench.commit(), 10);
    bench.hear(TWO, Message::Append(append(2, (10, 2), &[2, 2], 12)));
    assert_eq!((bench.commit(), bench.effects.appliable), (12, None));
    bench.sync();
    assert_eq!(bench.effects.appliable, Some(index(12)));
}

/// The same with the power failing at every moment on the way.
#[test]
fn a_crash_at_any_moment_of_an_installation_leaves_the_old_log_or_the_snapshot() {
    for operations in 0..4 {
        let mut fleet = Fleet::of(3);
        fleet.elect(ONE);
        fleet.works();
        fleet.live(Duration::from_millis(100));
        fleet.isolate(THREE);
        for _ in 0..5 {
            fleet.works();
        }
        fleet.compact(ONE);
        fleet.join();
        fleet.hold_snapshots = true;
        fleet.live(Duration::from_secs(1));
        fleet.hold_disk(THREE);
        assert!(fleet.arrive_snapshot(THREE), "it is under way");
        fleet.settle();
        fleet.works();
        fleet.live(Duration::from_millis(100));
        fleet.crash_after(THREE, operations);
        fleet.hold_snapshots = false;
        fleet.release_disk(THREE);
        fleet.restart(THREE);
        fleet.live(Duration::from_secs(2));
        fleet.works();
        fleet.live(Duration::from_millis(100));
        fleet.agree();
    }
}

#[test]
fn a_newer_offer_of_the_same_leader_does_not_begin_a_fetch_anew() {
    let mut bench = Bench::follower(&[1, 1]);
    bench.hear(TWO, offer(2, meta(10, 2)));
    assert!(matches!(bench.effects.snapshot.take(), Some(SnapshotEffect::Fetch { .. })));
    bench.hear(TWO, offer(2, meta(20, 2)));
    assert_eq!(bench.effects.snapshot.take(), None, "what is on its way is finished first");
    bench.sync();
    let receiving = AppendResult::Receiving { index: index(10) };
    assert_eq!(replies(&bench).last(), Some(&receiving));
}

#[test]
fn a_log_that_differs_at_the_snapshots_last_entry_goes_with_it() {
    // Entries 2 to 6 are of a leader that lost; the snapshot covers another entry 4.
    let mut bench = Bench::follower(&[1, 2, 2, 2, 2, 2]);
    bench.hear(TWO, offer(4, meta(4, 3)));
    bench.effects.persist.take();
    bench.input(received(4, 3));
    // One operation holds both: a crash finds all of the old log, or none of it.
    let persist = bench.take();
    assert_eq!(persist.install, Some(Box::new(meta(4, 3))));
    assert_eq!((persist.truncate_from, persist.append), (None, None));
    assert_eq!(bench.take_log_changes(), [LogChange::Reset { meta: meta(4, 3) }]);
    assert_eq!((bench.group.last_index(), bench.commit()), (index(4), 4));
    let gone = bench.group.status();
    assert_eq!((gone.base_index, gone.last_term), (index(4), term(3)));
    bench.persisted(PersistSeq::new(persist.seq.get()));
    // No livelock: what comes next is taken at once.
    bench.hear(TWO, Message::Append(append(4, (4, 3), &[4], 5)));
    bench.sync();
    assert_eq!((bench.commit(), bench.group.last_index()), (5, index(5)));
    assert!(matches!(replies(&bench)[..], [.., AppendResult::Accepted { durable, .. }]
        if durable == index(5)));
}

/// A follower whose own long tail conflicts with what the others compacted.
#[test]
fn a_stray_tail_longer_than_the_snapshot_is_gone_in_a_fleet() {
    let mut fleet = Fleet::of(3);
    fleet.elect(THREE);
    fleet.works();
    fleet.live(Duration::from_millis(100));
    fleet.isolate(THREE);
    let lost: Vec<_> = (0..9).map(|_| fleet.propose(THREE)).collect();
    fleet.settle();
    fleet.stand_first(ONE);
    fleet.live(Duration::from_secs(2));
    for _ in 0..3 {
        fleet.works();
    }
    let leader = fleet.leader().expect("one of the two");
    fleet.compact(leader);
    assert!(fleet.last(THREE) > fleet.last(leader), "its tail is the longer one");
    fleet.join();
    fleet.live(Duration::from_secs(2));
    fleet.works();
    fleet.live(Duration::from_millis(100));
    fleet.agree();
    for write in lost {
        assert!(matches!(fleet.outcome(write), Some(Outcome::Superseded | Outcome::Unknown)));
    }
}

#[test]
fn a_snapshot_carries_the_last_membership_at_its_index_and_no_later_one() {
    let four = raft_core::ReplicaId::new(4);
    let mut fleet = Fleet::of(3);
    fleet.elect(ONE);
    fleet.add_learner(four);
    fleet.works();
    // One membership more, in the log but not committed when the snapshot is taken.
    fleet.isolate(ONE);
    fleet.change(ONE, &[MemberChange::Promote(four)]);
    fleet.settle();
    let at = fleet.take_snapshot(ONE);
    let meta = fleet.group(ONE).snapshot_meta(at).expect("it is in the log");
    assert_eq!((at, meta.config_index), (index(3), index(2)));
    assert_eq!(meta.membership.incoming(), [ONE, TWO, THREE]);
    assert!(fleet.group(ONE).membership().is_voter(four), "in force is the later one");
    fleet.input(ONE, Input::Compact(at));
    // And after compaction its log still ends in the later one, also after a restart.
    fleet.settle();
    fleet.crash(ONE);
    fleet.restart(ONE);
    assert!(fleet.group(ONE).membership().is_voter(four));
    fleet.join();
    fleet.live(Duration::from_secs(3));
    fleet.works();
    fleet.live(Duration::from_millis(100));
    fleet.agree();
}

/// A follower with another membership in its log than the snapshot brings.
#[test]
fn the_membership_of_an_installed_snapshot_takes_the_place_of_all_before_it() {
    let mut bench = Bench::follower(&[1]);
    let mut stray = append(2, (1, 1), &[2], 0);
    let alone = Arc::new(Membership::of_voters([ONE]).expect("one voter"));
    stray.configs = vec![(index(2), Arc::clone(&alone))].into();
    bench.hear(TWO, Message::Append(stray));
    assert_eq!(bench.group.membership(), &alone);
    let five: Vec<_> = (1..=5).map(raft_core::ReplicaId::new).collect();
    let five = Arc::new(Membership::of_voters(five).expect("distinct voters"));
    let snapshot = SnapshotMeta { config_index: index(3), membership: five, ..meta(8, 3) };
    bench.hear(THREE, offer(4, snapshot.clone()));
    bench.input(received(8, 3));
    bench.sync();
    assert_eq!(bench.group.membership(), &snapshot.membership);
    assert_eq!(bench.group.membership_index(), index(3));
}

#[test]
fn a_follower_below_the_compaction_gets_a_snapshot_and_no_append() {
    let mut start = start(ONE, &[1, 1, 1, 1, 1]);
    start.applied = index(5);
    let mut bench = Bench::leader_of(start);
    bench.catch_up(TWO);
    bench.sync();
    bench.input(Input::SnapshotTaken(index(5)));
    bench.input(Input::Compact(index(5)));
    bench.sync();
    for below in 0..5 {
        assert_eq!(bench.group.entry_term(index(below)), None, "no term is no term 0");
    }
    // A follower that is probed at the end and says how short its log is.
    let probe = bench.append_for(THREE).expect("a probe at the end");
    let hint = AppendResult::Rejected {
        prev_index: probe.prev_index,
        hint_index: index(0),
        hint_term: term(0),
    };
    bench.sent.clear();
    let reply = raft_core::AppendReply { term: probe.term, session: probe.session, result: hint };
    bench.hear(THREE, Message::AppendReply(reply));
    assert_eq!(bench.append_for(THREE), None, "there is nothing to be sent below the base");
    let [Message::Snapshot(offered)] = bench.messages_to(THREE)[..] else {
        panic!("{:?}", bench.sent);
    };
    assert_eq!((offered.meta.index, offered.meta.term), (index(5), term(1)));
}

#[test]
fn a_leader_says_from_where_on_its_log_is_needed() {
    let mut start = start(ONE, &[1, 1, 1, 1, 1]);
    start.applied = index(5);
    let mut bench = Bench::leader_of(start);
    assert_eq!(bench.group.log_needed_after(), Some(index(0)), "nobody has said what it holds");
    bench.catch_up(TWO);
    bench.sync();
    bench.input(Input::SnapshotTaken(index(5)));
    bench.input(Input::Compact(index(5)));
    let probe = bench.append_for(THREE).expect("a probe at the end");
    let answer = |result| {
        let (term, session) = (probe.term, probe.session);
        Message::AppendReply(raft_core::AppendReply { term, session, result })
    };
    let (hint_index, hint_term) = (index(0), term(0));
    let prev_index = probe.prev_index;
    bench.hear(THREE, answer(AppendResult::Rejected { prev_index, hint_index, hint_term }));
    assert_eq!(bench.group.log_needed_after(), Some(index(5)), "it was offered the snapshot");
    bench.input(Input::SnapshotTaken(index(6)));
    bench.hear(THREE, answer(AppendResult::Receiving { index: index(5) }));
    assert_eq!(bench.group.log_needed_after(), Some(index(5)), "and fetches it still");
    // It has not been heard of for an election timeout: nobody waits for it.
    bench.live_with(TWO, Duration::from_secs(2));
    assert_eq!(bench.group.log_needed_after(), Some(index(6)));
    let follower = Bench::follower(&[1]);
    assert_eq!(follower.group.log_needed_after(), None);
}

/// A leader that takes snapshots faster than they move: the one under way is kept until it has
/// arrived, however many are newer; and then the newest is offered at once, not only when an offer
/// is due to be repeated.
#[test]
fn a_snapshot_under_way_is_kept_while_newer_ones_are_taken() {
    let mut start = start(ONE, &[1, 1, 1, 1, 1]);
    start.applied = index(5);
    let mut bench = Bench::leader_of(start);
    bench.catch_up(TWO);
    bench.sync();
    bench.input(Input::SnapshotTaken(index(5)));
    bench.input(Input::Compact(index(5)));
    let probe = bench.append_for(THREE).expect("a probe at the end");
    let hint = AppendResult::Rejected {
        prev_index: probe.prev_index,
        hint_index: index(0),
        hint_term: term(0),
    };
    let answer = |result| {
        let (term, session) = (probe.term, probe.session);
        Message::AppendReply(raft_core::AppendReply { term, session, result })
    };
    let offered = |bench: &Bench| {
        let offers = bench.messages_to(THREE).into_iter().filter_map(|message| match message {
            Message::Snapshot(offer) => Some(offer.meta.index.get()),
            _ => None,
        });
        offers.collect::<Vec<_>>()
    };
    let compact = |bench: &mut Bench, of: u64| {
        if of > 6 {
            bench.input(Input::Propose { token: token(of), bytes: 9, time: LogTime::default() });
            bench.sync();
            bench.catch_up(TWO);
        }
        bench.input(Input::SnapshotTaken(index(of)));
        bench.input(Input::Compact(index(of)));
        bench.sync();
        assert_eq!(
            (bench.group.snapshot_index(), bench.group.base_index()),
            (index(of), index(of))
        );
    };
    let repeat = |bench: &mut Bench| {
        for _ in 0..5 {
            bench.live_with(TWO, Duration::from_millis(250));
            bench.hear(THREE, heartbeat_reply(2, 0));
        }
    };
    let fetching = || answer(AppendResult::Receiving { index: index(5) });
    bench.hear(THREE, answer(hint));
    assert_eq!(offered(&bench), [5]);
    bench.hear(THREE, fetching());
    for newer in 6..=9 {
        compact(&mut bench, newer);
        assert_eq!(bench.group.snapshot_offered(), Some(index(5)), "{newer} is newer");
        bench.sent.clear();
        repeat(&mut bench);
        let repeated = offered(&bench);
        assert!(!repeated.is_empty() && repeated.iter().all(|of| *of == newer), "{repeated:?}");
        assert_eq!(bench.group.snapshot_offered(), Some(index(5)), "nor before it answers");
        bench.hear(THREE, fetching());
        assert_eq!(bench.group.snapshot_offered(), Some(index(5)));
    }
    let installed = AppendResult::Accepted {
        durable: index(5),
        written: index(5),
        verified: index(5),
        promise: raft_core::Promise::Kept,
    };
    bench.sent.clear();
    bench.hear(THREE, answer(installed));
    assert_eq!(bench.append_for(THREE), None, "entry 6 is gone");
    bench.live_with(TWO, Duration::from_millis(150));
    assert_eq!(offered(&bench), [9]);
    assert_eq!(bench.group.snapshot_offered(), Some(index(9)));
    // It fails to fetch that one, and begins with the newest: what it says it fetches is kept.
    compact(&mut bench, 10);
    repeat(&mut bench);
    assert_eq!(bench.group.snapshot_offered(), Some(index(9)));
    bench.hear(THREE, answer(AppendResult::Receiving { index: index(10) }));
    assert_eq!(bench.group.snapshot_offered(), Some(index(10)));
    // For a peer that is silent nothing is kept.
    compact(&mut bench, 11);
    bench.live_with(TWO, Duration::from_secs(3));
    assert_eq!(bench.group.snapshot_offered(), Some(index(11)));
}

#[test]
fn an_append_before_a_followers_own_snapshot_is_taken_as_agreed_up_to_there() {
    let mut start = start(ONE, &[1, 1, 1, 2, 2]);
    start.applied = index(4);
    let mut bench = Bench::new(start);
    bench.input(Input::SnapshotTaken(index(4)));
    bench.input(Input::Compact(index(4)));
    bench.sync();
    // A leader that knows little of this follower begins far below its snapshot. It may not be
    // taken to match by a term of zero, nor be refused for ever.
    bench.hear(TWO, Message::Append(append(3, (2, 1), &[], 0)));
    assert!(matches!(replies(&bench)[..], []), "the new term is to be durable first");
    bench.sync();
    assert!(matches!(replies(&bench)[..], [AppendResult::Accepted { durable, verified, .. }]
        if (durable, verified) == (index(4), index(4))));
    bench.sent.clear();
    bench.hear(TWO, Message::Append(append(3, (2, 1), &[1, 2, 2, 3], 6)));
    bench.sync();
    assert_eq!((bench.commit(), bench.group.last_index()), (6, index(6)));
    // With an impossible previous term it is no leader's append.
    let mut zero = append(3, (2, 1), &[], 0);
    zero.prev_term = term(0);
    bench.hear(TWO, Message::Append(zero));
    assert!(matches!(bench.effects.disbelieved, Some(Disbelief::Unsound { .. })));
    assert_eq!(bench.fault(), None, "whatever is wrong, it is not here");
}

/// Of what a snapshot covers only the last term is known; a leader that has another one there has
/// lost what was committed.
#[test]
fn a_leader_with_another_entry_at_the_end_of_our_snapshot_mutes_the_group() {
    for (theirs, contradicts) in [(&[1, 2, 3][..], false), (&[2, 2, 3], false), (&[1, 1, 3], true)]
    {
        let mut start = start(ONE, &[1, 1, 1, 2]);
        start.applied = index(4);
        let mut bench = Bench::new(start);
        bench.input(Input::SnapshotTaken(index(4)));
        bench.input(Input::Compact(index(4)));
        bench.sync();
        bench.hear(TWO, Message::Append(append(3, (2, 1), theirs, 0)));
        let fault = contradicts.then_some(Fault::CommittedConflict {
            index: index(4),
            ours: term(2),
            theirs: term(1),
            leader_term: term(3),
        });
        assert_eq!(bench.fault(), fault, "{theirs:?}");
        let last = if contradicts { 4 } else { 5 };
        assert_eq!(bench.group.last_index(), index(last), "{theirs:?}");
    }
}

/// A leader whose log is compacted must not take a follower's missing entries for agreement.
#[test]
fn probing_below_the_base_finds_no_agreement_that_is_not_there() {
    let mut fleet = Fleet::with_logs(
        &[&[1, 1, 1, 1, 1, 1], &[1, 1, 1, 1, 1, 1], &[]],
        raft_core::Settings::default(),
    );
    fleet.isolate(THREE);
    fleet.elect(ONE);
    fleet.works();
    fleet.live(Duration::from_millis(100));
    for id in [ONE, TWO] {
        fleet.compact(id);
    }
    fleet.join();
    fleet.live(Duration::from_secs(2));
    fleet.works();
    fleet.live(Duration::from_millis(100));
    fleet.agree();
}

#[test]
fn a_snapshot_that_contradicts_a_committed_entry_mutes_the_group() {
    let mut bench = Bench::follower(&[1, 1, 1, 1]);
    bench.hear(TWO, Message::Append(append(2, (4, 1), &[], 3)));
    assert_eq!(bench.commit(), 3);
    bench.hear(TWO, offer(2, meta(3, 2)));
    let Some(Fault::SnapshotContradicts { index: at, ours, theirs }) = bench.fault() else {
        panic!("{:?}", bench.fault());
    };
    assert_eq!((at, ours, theirs), (index(3), term(1), term(2)));
    assert_eq!((bench.effects.snapshot.is_none(), bench.terms()), (true, vec![1, 1, 1, 1]));
    // Nor is it adopted when it arrives after the entry was committed here.
    let mut bench = Bench::follower(&[1]);
    bench.hear(TWO, offer(2, meta(3, 2)));
    bench.hear(TWO, Message::Append(append(2, (1, 1), &[2, 2, 2], 4)));
    bench.input(received(3, 2));
    assert_eq!(bench.terms(), [1, 2, 2, 2]);
    assert_eq!((bench.commit(), bench.group.status().base_index), (4, index(0)));
}

/// Every state in which a follower can meet a snapshot; afterwards the next entry arrives.
#[test]
fn replication_goes_on_after_a_snapshot() {
    // How many of eight entries the follower has of its own, and at which entry the leader's
    // snapshot ends.
    for has in 0..=8usize {
        for ends in 1..=8u64 {
            let log = [1u64; 8];
            let mut start = start(ONE, &log);
            start.applied = index(8);
            let mut leader = Bench::leader_of(start);
            let mut follower = Bench::new(crate::bench::start(THREE, &log[..has]));
            leader.catch_up(TWO);
            leader.input(Input::SnapshotTaken(index(ends)));
            leader.input(Input::Compact(index(ends)));
            leader.sync();
            for _ in 0..40 {
                leader.live(Duration::from_millis(100));
                leader.hear(TWO, heartbeat_reply(2, 0));
                while let Some(append) = leader.append_for(THREE) {
                    let message = Message::Append(append);
                    leader.sent.push(raft_core::Outgoing { to: THREE, message });
                }
                for outgoing in std::mem::take(&mut leader.sent) {
                    if outgoing.to == THREE {
                        follower.hear(ONE, outgoing.message);
                    }
                }
                if let Some(SnapshotEffect::Fetch { meta, .. }) = follower.effects.snapshot.take() {
                    follower.input(received(meta.index.get(), meta.term.get()));
                }
                follower.sync();
                for outgoing in std::mem::take(&mut follower.sent) {
                    leader.hear(THREE, outgoing.message);
                }
            }
            let shown = format!("it has {has}, the snapshot ends at {ends}");
            assert_eq!(follower.group.last_index(), leader.group.last_index(), "{shown}");
            assert_eq!(follower.commit(), leader.commit(), "{shown}");
            assert_eq!(leader.group.match_of_all(), Some(leader.group.last_index()), "{shown}");
        }
    }
}

/// A leader that has thrown its whole log away, again and again, while a snapshot of an earlier
/// end is still under way; and answers that come when it is long installed.
#[test]
fn a_snapshot_that_is_overtaken_while_under_way_still_ends_in_replication() {
    let mut fleet = Fleet::of(3);
    fleet.elect(ONE);
    fleet.works();
    fleet.isolate(THREE);
    fleet.works();
    fleet.compact(ONE);
    fleet.join();
    fleet.hold_snapshots = true;
    fleet.live(Duration::from_millis(200));
    for _ in 0..3 {
        fleet.works();
        fleet.compact(ONE);
        fleet.live(Duration::from_millis(300));
    }
    // What was asked for first is not there any more; the offer is repeated with what is.
    fleet.hold_snapshots = false;
    fleet.hold(|packet| packet.from == THREE && matches!(packet.message, Message::AppendReply(_)));
    fleet.live(Duration::from_secs(3));
    let late = std::mem::take(&mut fleet.held);
    fleet.let_pass();
    fleet.live(Duration::from_secs(3));
    for packet in late.into_iter().rev() {
        fleet.deliver(packet);
        fleet.settle();
    }
    fleet.works();
    fleet.live(Duration::from_millis(100));
    fleet.agree();
}

#[test]
fn a_proposal_covered_by_a_snapshot_ends_as_unknown_or_better() {
    // Proposals of term 2 at entries 2 to 6; the next leader's snapshot ends at 4.
    for (of, ends) in [
        // Its last entry is of our term: entries up to there may be ours, later ones may live.
        (2, [Some(Outcome::Unknown), None]),
        // Of a newer term: what lies beyond can never be committed any more.
        (3, [Some(Outcome::Unknown), Some(Outcome::Superseded)]),
        // Of an older term: an entry of ours cannot lie below it.
        (1, [Some(Outcome::Superseded), None]),
    ] {
        let mut bench = Bench::leader(&[1]);
        for of in 1..=5 {
            bench.input(Input::Propose { token: token(of), bytes: 100, time: LogTime::default() });
        }
        bench.sync();
        // It holds entries 3 to 7 now: the no-op came first.
        bench.hear(THREE, heartbeat(4, 0));
        bench.sync();
        bench.take_outcomes();
        bench.hear(THREE, offer(4, meta(5, of)));
        let ours = of == 2;
        if ours {
            // It is our own log up to there.
            let committed = bench.take_outcomes();
            assert_eq!(committed.len(), 3);
            assert!(committed.iter().all(|(_, end)| matches!(end, Outcome::Committed { .. })));
            continue;
        }
        bench.input(received(5, of));
        let ended = bench.take_outcomes();
        for of in 1..=5u64 {
            let end = ended.iter().find(|(token, _)| token.get() == of).map(|(_, end)| *end);
            let want = ends[usize::from(of > 3)];
            assert_eq!(end, want, "proposal {of} of {ended:?}");
        }
        let open = bench.group.status().open_requests;
        assert_eq!(open + ended.len(), 5, "ended or still to be seen");
    }
}

/// A base of a restarted replica: what is below is unknown, and said to be.
#[test]
fn a_restart_from_a_compacted_log_knows_no_term_below_its_base() {
    let mut start = start(ONE, &[]);
    start.base =
        Base { index: index(5), term: term(3), snapshot: index(6), ..base([ONE, TWO, THREE]) };
    start.term_runs = vec![(index(6), term(3))];
    start.last_index = index(7);
    start.applied = index(6);
    start.hard_state.term = term(3);
    let bench = Bench::new(start);
    let terms = (0..=8).map(|at| bench.group.entry_term(index(at)).map(|of| of.get()));
    let known = [None, None, None, None, None, Some(3), Some(3), Some(3), None];
    assert!(terms.eq(known));
}

/// The leader compacts what a follower has long got, but could never acknowledge: it is offered a
/// snapshot that tells it nothing new.
#[test]
fn a_follower_that_holds_the_snapshots_last_entry_goes_on_without_it() {
    let mut fleet = Fleet::of(3);
    fleet.elect(ONE);
    fleet.works();
    fleet.hold(|packet| packet.from == THREE && matches!(packet.message, Message::AppendReply(_)));
    for _ in 0..3 {
        fleet.works();
    }
    fleet.input(ONE, Input::PeerUnreachable(THREE));
    fleet.settle();
    assert_eq!(fleet.last(THREE), fleet.last(ONE), "it has everything");
    fleet.compact(ONE);
    fleet.settle();
    assert_eq!(fleet.group(ONE).snapshot_offered(), Some(index(5)));
    fleet.held.clear();
    fleet.let_pass();
    fleet.live(Duration::from_secs(3));
    fleet.works();
    fleet.live(Duration::from_millis(100));
    fleet.agree();
    assert_eq!(fleet.group(THREE).base_index(), index(0), "it needed no snapshot");
    assert_eq!(fleet.group(ONE).snapshot_offered(), None);
}

/// Appends that left before the offer may arrive after it, and reach further than the snapshot.
#[test]
fn a_snapshot_overtaken_by_appends_takes_nothing_of_what_was_acknowledged() {
    for synced in [true, false] {
        let mut bench = Bench::follower(&[1, 1]);
        bench.hear(TWO, Message::Append(append(2, (2, 1), &[], 2)));
        bench.hear(TWO, offer(2, meta(5, 2)));
        bench.hear(TWO, Message::Append(append(2, (2, 1), &[2; 6], 2)));
        if synced {
            bench.sync();
        }
        bench.sent.clear();
        bench.take_log_changes();
        bench.input(received(5, 2));
        assert_eq!(bench.take_log_changes(), [], "nothing conflicts");
        assert_eq!((bench.group.last_index(), bench.commit()), (index(8), 5));
        bench.sync();
        let durable: Vec<u64> = replies(&bench)
            .iter()
            .filter_map(|result| match result {
                AppendResult::Accepted { durable, .. } => Some(durable.get()),
                _ => None,
            })
            .collect();
        assert_eq!(durable.last(), Some(&8), "and the leader can go on from there");
    }
}

/// A newcomer's log names the members from some entry on. With the beginning of the log goes what
/// came before, so nothing less than that entry may be compacted: nobody could start from the rest.
#[test]
fn a_newcomer_keeps_its_log_until_what_remains_says_who_belongs() {
    let mut fleet = Fleet::of(3);
    fleet.elect(ONE);
    for _ in 0..4 {
        fleet.works();
    }
    fleet.add_learner(FOUR);
    fleet.works();
    fleet.live(Duration::from_millis(200));
    let named = fleet.group(FOUR).membership_index();
    let taken = fleet.take_snapshot(FOUR);
    assert!(named > index(2) && named < taken, "{named:?} {taken:?}");
    for upto in [index(1), named.prev()] {
        fleet.input(FOUR, Input::Compact(upto));
        assert_eq!(fleet.group(FOUR).base_index(), index(0), "{upto:?}");
    }
    fleet.input(FOUR, Input::Compact(named));
    assert_eq!(fleet.group(FOUR).base_index(), named);
    fleet.settle();
    fleet.crash(FOUR);
    fleet.restart(FOUR);
    assert_eq!(fleet.group(FOUR).membership_index(), named);
    fleet.works();
    fleet.live(Duration::from_millis(200));
    fleet.agree();
}
