//! A replica that may have forgotten what it promised neither votes nor counts until it has
//! caught up with everything it can have promised.

use std::sync::Arc;
use std::time::Duration;

use raft_core::{
    Acknowledge, Append, AppendReply, AppendResult, Declined, Fence, HardState, Incarnation, Input,
    LogTime, MemberChange, Message, Outcome, Promise, PromiseRecord, ReadPath, Recover, Refusal,
    ReplicaId, Settings, Standing,
};

use crate::bench::*;
use crate::fleet::Fleet;

const SECOND_LIFE: Incarnation = Incarnation::new(2);

/// A replica in its second life, which does not know what it acknowledged in its first.
fn lost() -> Bench {
    let mut start = start(ONE, &[1]);
    start.incarnation = SECOND_LIFE;
    start.promise = PromiseRecord { promise: Promise::Lost, loss_epoch: 0 };
    Bench::new(start)
}

fn hear(bench: &mut Bench, message: Message) {
    bench.input(Input::Message {
        from: TWO,
        from_incarnation: FIRST_LIFE,
        to_incarnation: SECOND_LIFE,
        message,
    });
}

fn fence(life: Incarnation, at: u64) -> Message {
    Message::Fence(Fence { term: term(2), incarnation: life, index: index(at) })
}

fn promise(bench: &Bench) -> Promise {
    bench.group.status().promise.promise
}

#[test]
fn promises_are_kept_again_only_behind_a_fence_for_this_life_and_on_disk() {
    let mut bench = lost();
    hear(&mut bench, heartbeat(2, 0));
    bench.sync();
    assert_eq!(promise(&bench), Promise::Lost, "hearing a leader is not enough");
    let asked = bench.messages_to(TWO).iter().any(|message| {
        matches!(message, Message::Recover(request) if request.incarnation == SECOND_LIFE)
    });
    assert!(asked);
    hear(&mut bench, Message::Append(append(2, (1, 1), &[2], 0)));
    bench.sync();
    // A fence that was meant for the former life lies where that one asked.
    hear(&mut bench, fence(FIRST_LIFE, 2));
    assert_eq!(promise(&bench), Promise::Lost);
    hear(&mut bench, fence(SECOND_LIFE, 4));
    assert_eq!(promise(&bench), Promise::Lost);
    hear(&mut bench, Message::Append(append(2, (2, 2), &[2, 2], 0)));
    assert_eq!(promise(&bench), Promise::Lost, "all of it is in memory, and may be lost again");
    let entries = bench.take();
    bench.persisted(entries.seq);
    assert_eq!(promise(&bench), Promise::Kept);
    assert_eq!(bench.take().promise.map(|record| record.promise), Some(Promise::Kept));
}

/// There is nobody to learn from, and whoever uses the group is told.
#[test]
fn a_sole_voter_that_leads_without_its_promises_says_that_entries_may_be_lost() {
    for asked in [true, false] {
        let mut start = start(ONE, &[1]);
        start.base = base([ONE]);
        start.promise = PromiseRecord { promise: Promise::Lost, loss_epoch: 4 };
        let mut bench = Bench::new(start);
        if asked {
            bench.input(Input::Campaign);
        } else {
            bench.live(Duration::from_secs(3));
        }
        let first = bench.take();
        let kept = PromiseRecord { promise: Promise::Kept, loss_epoch: 5 };
        assert_eq!(first.promise, Some(kept), "on disk with its first vote");
        bench.persisted(first.seq);
        assert!(bench.group.is_leader());
        assert_eq!(bench.group.status().promise, kept);
    }
}

fn acknowledgements(bench: &Bench) -> Vec<(u64, Promise)> {
    let replies = bench.messages_to(TWO).into_iter().filter_map(|message| match message {
        Message::AppendReply(AppendReply {
            result: AppendResult::Accepted { durable, promise, .. },
            ..
        }) => Some((durable.get(), *promise)),
        _ => None,
    });
    replies.collect()
}

/// The leader was asked for a fence a second time, late, and takes the replica for lost again.
#[test]
fn a_replica_that_trusts_itself_says_so_to_a_leader_that_gives_it_a_fence() {
    let mut bench = lost();
    hear(&mut bench, Message::Append(append(2, (1, 1), &[2], 0)));
    bench.sync();
    hear(&mut bench, fence(SECOND_LIFE, 2));
    bench.sync();
    assert_eq!(promise(&bench), Promise::Kept);
    bench.sent.clear();
    hear(&mut bench, fence(SECOND_LIFE, 2));
    bench.sync();
    assert_eq!(acknowledgements(&bench), [(2, Promise::Kept)]);
}

#[test]
fn a_replica_whose_loss_is_accepted_says_so_to_its_leader() {
    let mut bench = lost();
    hear(&mut bench, Message::Append(append(2, (1, 1), &[2], 0)));
    bench.sync();
    bench.sent.clear();
    bench.input(Input::AcceptLoss);
    bench.sync();
    assert_eq!(acknowledgements(&bench), [(2, Promise::Kept)]);
}

#[test]
fn what_a_replica_without_its_promises_holds_does_not_count() {
    let mut bench = Bench::leader(&[1]);
    let probe = bench.append_for(TWO).expect("a probe");
    let says = |promise| {
        let at = index(2);
        let result = AppendResult::Accepted { durable: at, written: at, verified: at, promise };
        Message::AppendReply(AppendReply { term: term(2), session: probe.session, result })
    };
    for promise in [Promise::Lost, Promise::Damaged] {
        bench.hear(TWO, says(promise));
        assert_eq!(bench.commit(), 0, "{promise:?}");
    }
    bench.hear(TWO, says(Promise::Kept));
    assert_eq!(bench.commit(), 2);
}

/// That it trusts itself again a replica says once, and the leader may not hear it.
#[test]
fn a_peer_that_holds_everything_is_asked_until_it_trusts_itself() {
    let mut bench = Bench::leader(&[1]);
    let says = |append: &Append, promise| {
        let at = append.last_index();
        let result = AppendResult::Accepted { durable: at, written: at, verified: at, promise };
        Message::AppendReply(AppendReply { term: term(2), session: append.session, result })
    };
    let probe = bench.append_for(TWO).expect("a probe");
    bench.hear(TWO, says(&probe, Promise::Lost));
    let entries = bench.append_for(TWO).expect("the no-op");
    let lost = says(&entries, Promise::Lost);
    bench.hear(TWO, lost.clone());
    assert!(bench.append_for(TWO).is_none(), "it holds everything");
    for _ in 0..3 {
        bench.live(Duration::from_millis(100));
        let question = bench.append_for(TWO).expect("a question");
        assert_eq!((question.count(), question.last_index()), (0, index(2)));
        bench.hear(TWO, says(&question, Promise::Lost));
        assert_eq!(bench.commit(), 0);
    }
    bench.live(Duration::from_millis(100));
    let question = bench.append_for(TWO).expect("a question");
    bench.hear(TWO, says(&question, Promise::Kept));
    assert_eq!(bench.commit(), 2);
    bench.hear(TWO, lost);
    bench.live(Duration::from_millis(100));
    assert!(bench.append_for(TWO).is_none(), "what was said before changes nothing");
}

/// A leader of three that commits what page caches hold; its no-op is on its own disk.
fn leads_by_page_cache() -> Bench {
    let mut start = start(ONE, &[]);
    start.settings =
        Arc::new(Settings { acknowledge: Acknowledge::Written, ..Settings::default() });
    Bench::leader_of(start)
}

fn propose(bench: &mut Bench, of: u64) {
    bench.input(Input::Propose { token: token(of), bytes: 100, time: LogTime::default() });
}

fn holds(append: &Append, durable: u64, written: u64) -> Message {
    let (durable, written) = (index(durable), index(written));
    let verified = append.last_index();
    let result = AppendResult::Accepted { durable, written, verified, promise: Promise::Kept };
    Message::AppendReply(AppendReply { term: append.term, session: append.session, result })
}

/// The first entry of a term counts on disks, whatever counts of the entries behind it.
#[test]
fn a_term_begins_on_the_disks_of_a_quorum_where_what_is_written_counts() {
    let mut bench = leads_by_page_cache();
    let probe = bench.append_for(TWO).expect("a probe");
    bench.hear(TWO, holds(&probe, 0, 0));
    let noop = bench.append_for(TWO).expect("the no-op");
    bench.hear(TWO, holds(&noop, 0, 1));
    assert_eq!(bench.commit(), 0, "two page caches have it, and one disk");
    bench.hear(TWO, holds(&noop, 1, 1));
    assert_eq!(bench.commit(), 1);
}

/// What a quorum may still forget is in no snapshot: the leader says how far its disks are, with
/// appends and with heartbeats, and takes no snapshot beyond itself.
#[test]
fn how_far_a_quorum_has_it_on_disk_is_told_with_the_commit_index() {
    let mut bench = leads_by_page_cache();
    let probe = bench.append_for(TWO).expect("a probe");
    bench.hear(TWO, holds(&probe, 0, 0));
    let noop = bench.append_for(TWO).expect("the no-op");
    bench.hear(TWO, holds(&noop, 1, 1));
    assert_eq!(bench.commit(), 1);
    propose(&mut bench, 1);
    let first = bench.take();
    let append = bench.append_for(TWO).expect("the entry");
    assert_eq!((append.commit, append.quorum_durable), (index(1), index(1)));
    assert_eq!(append.acknowledge, Acknowledge::Written);
    bench.hear(TWO, holds(&append, 1, 2));
    bench.input(Input::Written(first.seq));
    assert_eq!(bench.commit(), 2, "two page caches have it");
    assert_eq!(bench.group.quorum_durable_index(), index(1));
    propose(&mut bench, 2);
    let append = bench.append_for(TWO).expect("another");
    assert_eq!((append.commit, append.quorum_durable), (index(2), index(1)));
    bench.persisted(first.seq);
    bench.hear(TWO, holds(&append, 2, 3));
    assert_eq!(bench.group.quorum_durable_index(), index(2));
    bench.input(Input::SnapshotTaken(index(2)));
    assert_eq!(bench.fault(), None);
    let second = bench.take();
    bench.input(Input::Written(second.seq));
    assert_eq!(bench.commit(), 3);
    bench.input(Input::SnapshotTaken(index(3)));
    assert!(matches!(bench.fault(), Some(raft_core::Fault::Driver(_))));
}

/// A sync that waits, as it may where what is written counts, holds up no appends: a window is what
/// may be lost on the way, and what a page cache has is there.
#[test]
fn what_is_written_has_left_the_window() {
    let mut start = start(ONE, &[]);
    start.settings = Arc::new(Settings {
        acknowledge: Acknowledge::Written,
        inflight_appends_max: 2,
        ..Settings::default()
    });
    let mut bench = Bench::leader_of(start);
    let probe = bench.append_for(TWO).expect("a probe");
    bench.hear(TWO, holds(&probe, 0, 0));
    let noop = bench.append_for(TWO).expect("the no-op");
    bench.hear(TWO, holds(&noop, 1, 1));
    for of in 1..=20 {
        propose(&mut bench, of);
        let append = bench.append_for(TWO).unwrap_or_else(|| panic!("{of}: the window is full"));
        bench.hear(TWO, holds(&append, 1, 1 + of));
    }
    assert!(!bench.group.has_in_flight(TWO));
    assert_eq!(bench.group.match_index(TWO), Some(index(1)), "one disk has no more");
    // Of what nobody has answered there are two, as ever.
    for of in 21..=22 {
        propose(&mut bench, of);
        bench.append_for(TWO).expect("room for two");
    }
    propose(&mut bench, 23);
    assert!(bench.append_for(TWO).is_none());
}

/// A snapshot is taken by what the leader says, and may be on its way when a peer whose log is found
/// damaged counts no more.
#[test]
fn a_leader_stands_by_what_it_said_of_the_disks() {
    let mut bench = leads_by_page_cache();
    let probe = bench.append_for(TWO).expect("a probe");
    bench.hear(TWO, holds(&probe, 0, 0));
    let noop = bench.append_for(TWO).expect("the no-op");
    bench.hear(TWO, holds(&noop, 1, 1));
    propose(&mut bench, 1);
    let first = bench.take();
    bench.persisted(first.seq);
    let append = bench.append_for(TWO).expect("the entry");
    // It is committed, and on the disks of a quorum, in one step.
    bench.hear(TWO, holds(&append, 2, 2));
    assert_eq!((bench.commit(), bench.group.quorum_durable_index()), (2, index(2)));
    let request = Recover { term: append.term, incarnation: FIRST_LIFE };
    bench.hear(TWO, Message::Recover(request));
    assert_eq!(bench.group.quorum_durable_index(), index(2));
    bench.input(Input::SnapshotTaken(index(2)));
    assert_eq!(bench.fault(), None);
}

#[test]
fn a_follower_learns_it_and_believes_it_as_far_as_it_has_committed() {
    let mut start = start(ONE, &[1]);
    start.settings =
        Arc::new(Settings { acknowledge: Acknowledge::Written, ..Settings::default() });
    let mut bench = Bench::new(start);
    let (commit, quorum_durable) = (index(3), index(2));
    let acknowledge = Acknowledge::Written;
    let entries = append(1, (1, 1), &[1, 1], 3);
    let entries = Append { commit, quorum_durable, acknowledge, ..entries };
    bench.hear(TWO, Message::Append(entries));
    bench.sync();
    assert_eq!((bench.commit(), bench.group.quorum_durable_index()), (3, index(2)));
    bench.hear(TWO, heartbeat(1, 3));
    assert_eq!(bench.group.quorum_durable_index(), index(3));
    bench.hear(TWO, heartbeat(1, 9));
    assert_eq!(bench.group.quorum_durable_index(), index(3));
}

/// Specs that disagree: what one counts, the other does not have where it believes it.
#[test]
fn a_leader_that_counts_otherwise_is_given_nothing_to_count() {
    let mut bench = Bench::follower(&[1]);
    let theirs = Append { acknowledge: Acknowledge::Written, ..append(1, (1, 1), &[1], 1) };
    bench.hear(TWO, Message::Append(theirs.clone()));
    let result = AppendResult::Declined(Declined::OtherStrategy);
    let reply = AppendReply { term: term(1), session: theirs.session, result };
    assert_eq!(bench.messages_to(TWO), [&Message::AppendReply(reply)]);
    assert_eq!(bench.terms(), [1], "nothing was taken");
    bench.sent.clear();
    let candidate =
        raft_core::VoteRequest { acknowledge: Acknowledge::Written, ..vote_request(3, 9, 2) };
    bench.wait(Duration::from_secs(60));
    for (ask, pre) in [(Message::PreVote(candidate), true), (Message::Vote(candidate), false)] {
        bench.hear(THREE, ask);
        bench.sync();
        let refused = bench.messages_to(THREE).into_iter().any(|message| match message {
            Message::PreVoteReply(reply) if pre => reply.verdict == raft_core::Verdict::Refused,
            Message::VoteReply(reply) if !pre => reply.verdict == raft_core::Verdict::Refused,
            _ => false,
        });
        assert!(refused, "nor does it help to make another such leader");
    }
}

/// With commits that a page cache vouches for, the power fails at two of three; what was committed
/// on both is on the third, which must lead.
#[test]
fn a_power_cut_that_takes_a_quorums_promises_loses_no_entry_the_rest_still_has() {
    let settings = Settings { acknowledge: Acknowledge::Written, ..Settings::default() };
    let mut fleet = Fleet::with(3, settings);
    fleet.elect(ONE);
    fleet.works();
    fleet.live(Duration::from_millis(100));
    for id in [TWO, THREE] {
        fleet.hold_disk(id);
    }
    let write = fleet.propose(ONE);
    fleet.settle();
    for id in [TWO, THREE] {
        fleet.report_written(id);
    }
    fleet.settle();
    assert!(fleet.is_committed(write), "two page caches and a disk have it");
    for id in [TWO, THREE] {
        fleet.crash(id);
        fleet.release_disk(id);
        let mut start = fleet.recovered(id);
        start.promise = PromiseRecord { promise: Promise::Lost, loss_epoch: 0 };
        fleet.start_from(id, start);
        assert_eq!(fleet.last(id), 2, "the write is gone here");
    }
    fleet.live(Duration::from_secs(5));
    fleet.works();
    fleet.live(Duration::from_millis(100));
    fleet.agree();
    for id in [ONE, TWO, THREE] {
        assert_eq!(fleet.group(id).status().promise.promise, Promise::Kept);
    }
}

/// B won term 3 with C's vote; C's disk loses the record of it, and C hears A first, which leads in
/// term 2. Behind A's fence C would count: A and C would commit what the leader B does not have.
#[test]
fn a_replica_that_may_have_forgotten_its_vote_never_counts_again() {
    let mut fleet = Fleet::of(3);
    fleet.elect(ONE);
    fleet.works();
    // B asks, and C votes; A hears nothing of it.
    fleet.join_only(&[(TWO, THREE)]);
    fleet.hold(|packet| matches!(packet.message, Message::Append(_)));
    fleet.stand_first(TWO);
    assert!(fleet.group(TWO).is_leader() && fleet.group(ONE).is_leader());
    assert_eq!(fleet.on_disk(THREE).1, Some(TWO));
    let mut start = fleet.recovered(THREE);
    start.hard_state = HardState { term: term(1), vote: Some(ONE) };
    start.promise = PromiseRecord { promise: Promise::Unproven, loss_epoch: 0 };
    fleet.crash(THREE);
    fleet.start_from(THREE, start);
    fleet.held.clear();
    fleet.let_pass();
    fleet.join_only(&[(ONE, THREE)]);
    let proposed = fleet.propose(ONE);
    let read = fleet.read(ONE, ReadPath::Quorum);
    fleet.live(Duration::from_millis(300));
    assert_eq!(fleet.last(THREE), fleet.last(ONE), "it follows, and holds all that A has");
    assert!(!fleet.is_committed(proposed), "and does not count");
    assert!(!fleet.is_ready(read), "nor say that nobody else leads");
    // With those who remember the group goes on, without C.
    fleet.join();
    fleet.live(Duration::from_secs(3));
    fleet.works();
    fleet.live(Duration::from_millis(200));
    fleet.agree();
    fleet.crash(THREE);
    fleet.restart(THREE);
    fleet.live(Duration::from_secs(3));
    assert_eq!(fleet.group(THREE).status().promise.promise, Promise::Unproven);
    // Nobody's word makes up for a vote.
    fleet.input(THREE, Input::AcceptLoss);
    assert_eq!(fleet.group(THREE).status().promise.promise, Promise::Unproven);
}

/// What the leader is to do next toward full strength, done.
fn tend(fleet: &mut Fleet, leader: ReplicaId, fresh: ReplicaId) -> Option<MemberChange> {
    let change = fleet.group(leader).replacement_due(fresh)?;
    let token = fleet.change(leader, &[change]);
    fleet.live(Duration::from_millis(300));
    assert!(fleet.is_committed(token), "{:?}", fleet.outcome(token));
    Some(change)
}

/// Starts a replica again as one whose newest term and vote are not proven.
fn forget_vote(fleet: &mut Fleet, id: ReplicaId) {
    let mut start = fleet.recovered(id);
    start.promise = PromiseRecord { promise: Promise::Unproven, loss_epoch: 0 };
    fleet.crash(id);
    fleet.start_from(id, start);
}

#[test]
fn a_replica_that_may_have_forgotten_its_vote_is_replaced_by_whoever_leads() {
    const FOUR: ReplicaId = ReplicaId::new(4);
    let mut fleet = Fleet::of(3);
    fleet.elect(ONE);
    fleet.works();
    assert_eq!(fleet.group(ONE).replacement_due(FOUR), None);
    forget_vote(&mut fleet, THREE);
    fleet.live(Duration::from_millis(300));
    let replace = MemberChange::Replace { replica: THREE, by: FOUR };
    assert_eq!(tend(&mut fleet, ONE, FOUR), Some(replace));
    let membership = Arc::clone(fleet.group(ONE).membership());
    assert_eq!(membership.incoming(), [ONE, TWO], "nobody counts in its place yet");
    assert_eq!(membership.standing(FOUR), Some(Standing::Successor));
    assert!(fleet.group(THREE).is_removed());
    assert_eq!(tend(&mut fleet, ONE, FOUR), None, "its successor is not there yet");
    // Another leader goes on, of whatever was done.
    fleet.add_joining(FOUR);
    fleet.transfer(ONE, TWO);
    fleet.live(Duration::from_millis(300));
    assert!(fleet.group(TWO).is_leader());
    assert_eq!(tend(&mut fleet, TWO, FOUR), Some(MemberChange::Promote(FOUR)));
    assert_eq!(fleet.group(TWO).membership().incoming(), [ONE, TWO, FOUR]);
    assert!(!fleet.group(TWO).has_replacements());
    fleet.crash(ONE);
    fleet.live(Duration::from_secs(1));
    let proposed = fleet.propose(TWO);
    fleet.live(Duration::from_millis(300));
    assert!(fleet.is_committed(proposed), "it counts");
}

#[test]
fn nobody_is_replaced_where_no_majority_is_left_that_counts() {
    const FOUR: ReplicaId = ReplicaId::new(4);
    let mut fleet = Fleet::of(3);
    fleet.elect(ONE);
    fleet.works();
    forget_vote(&mut fleet, TWO);
    forget_vote(&mut fleet, THREE);
    fleet.live(Duration::from_millis(300));
    let change = fleet.group(ONE).replacement_due(FOUR).expect("there is somebody to replace");
    let refused = fleet.change(ONE, &[change]);
    let outcome = Outcome::Refused(Refusal::QuorumAtRisk);
    assert_eq!(fleet.outcome(refused), Some(outcome));
}

/// A follower that trusts itself, in term 2 of TWO, holds this much of its log, and has committed it.
fn trusted(entries: u64) -> Bench {
    let mut bench = lost();
    let terms = vec![2; entries as usize - 1];
    hear(&mut bench, Message::Append(append(2, (1, 1), &terms, entries)));
    bench.sync();
    hear(&mut bench, fence(SECOND_LIFE, entries));
    bench.sync();
    assert_eq!((promise(&bench), bench.commit()), (Promise::Kept, entries));
    bench.sent.clear();
    bench
}

#[test]
fn a_log_found_damaged_while_it_runs_is_forgotten_from_there_on_and_counts_behind_a_fence() {
    let mut bench = trusted(6);
    bench.input(Input::LogDamaged(index(4)));
    assert_eq!(bench.fault(), None);
    let first = bench.take();
    let damaged = Some(PromiseRecord { promise: Promise::Damaged, loss_epoch: 0 });
    assert_eq!((first.promise, first.truncate_from), (damaged, Some(index(4))));
    bench.persisted(first.seq);
    assert_eq!((bench.group.last_index(), bench.commit()), (index(3), 3));
    // The leader hears of it with its next heartbeat.
    hear(&mut bench, heartbeat(2, 6));
    bench.sync();
    let asks = |bench: &Bench| {
        bench.messages_to(TWO).iter().any(|message| matches!(message, Message::Recover(_)))
    };
    assert!(asks(&bench));
    // One that it had asked for before, and that comes late, covers less than it acknowledged since.
    hear(&mut bench, fence(SECOND_LIFE, 3));
    bench.sync();
    assert_eq!(promise(&bench), Promise::Damaged);
    hear(&mut bench, fence(SECOND_LIFE, 7));
    hear(&mut bench, Message::Append(append(2, (3, 2), &[2, 2, 2], 6)));
    bench.sync();
    assert_eq!((promise(&bench), bench.commit()), (Promise::Damaged, 6));
    hear(&mut bench, Message::Append(append(2, (6, 2), &[2], 7)));
    bench.sync();
    assert_eq!((promise(&bench), bench.commit()), (Promise::Kept, 7));
}

/// A fence that was on its way when the log was damaged again is no answer: the leader has not heard of
/// that, and would go on from what is gone.
#[test]
fn a_fence_counts_only_if_it_was_asked_for_since_the_damage() {
    let mut bench = trusted(6);
    bench.input(Input::LogDamaged(index(4)));
    bench.sync();
    hear(&mut bench, Message::Append(append(2, (3, 2), &[2, 2, 2], 6)));
    hear(&mut bench, fence(SECOND_LIFE, 6));
    bench.sync();
    assert_eq!(promise(&bench), Promise::Damaged);
    hear(&mut bench, heartbeat(2, 6));
    hear(&mut bench, fence(SECOND_LIFE, 6));
    bench.sync();
    assert_eq!(promise(&bench), Promise::Kept);
}

/// Damaged again before it counts: its leader remembers what it acknowledged in between, and it does
/// not. Nor does it matter whether the word of the second damage arrives.
#[test]
fn a_log_that_is_damaged_twice_is_filled_twice() {
    for told in [true, false] {
        let mut fleet = Fleet::of(3);
        fleet.elect(ONE);
        for _ in 0..5 {
            fleet.works();
        }
        fleet.input(THREE, Input::LogDamaged(index(3)));
        // It has its fence, and acknowledges without counting: the last of what it needs is held back.
        fleet.hold(|packet| packet.to == THREE && matches!(&packet.message, Message::Fence(_)));
        fleet.live(Duration::from_millis(300));
        let status = fleet.group(THREE).status();
        assert_eq!(status.promise.promise, Promise::Damaged);
        assert_eq!(fleet.last(THREE), fleet.last(ONE), "it holds all again");
        fleet.input(THREE, Input::LogDamaged(index(4)));
        assert_eq!(fleet.last(THREE), 3);
        if !told {
            // The first word was lost and an earlier fence comes: the leader hears nothing.
            fleet.held.clear();
            fleet.hold(|packet| matches!(&packet.message, Message::Recover(_)));
            fleet.live(Duration::from_millis(300));
            assert_eq!(fleet.last(THREE), fleet.last(ONE), "it is filled all the same");
        }
        fleet.held.clear();
        fleet.let_pass();
        fleet.live(Duration::from_millis(500));
        assert_eq!(fleet.last(THREE), fleet.last(ONE));
        assert_eq!(fleet.group(THREE).status().promise.promise, Promise::Kept);
        fleet.works();
        fleet.live(Duration::from_millis(200));
        fleet.agree();
    }
}

#[test]
fn what_is_damaged_in_a_log_with_one_holder_or_below_a_snapshot_mutes() {
    let mut start = start(ONE, &[1, 1]);
    start.base = base([ONE]);
    let mut bench = Bench::new(start);
    bench.input(Input::LogDamaged(index(3)));
    assert_eq!(bench.fault(), None, "it was cut meanwhile");
    bench.input(Input::LogDamaged(index(1)));
    assert_eq!(bench.fault(), Some(raft_core::Fault::LogUnreadable { index: index(1) }));

    let mut bench = trusted(6);
    bench.input(Input::SnapshotTaken(index(5)));
    bench.input(Input::LogDamaged(index(5)));
    assert_eq!(bench.fault(), Some(raft_core::Fault::LogUnreadable { index: index(5) }));

    let mut bench = trusted(6);
    bench.input(Input::LogDamaged(index(3)));
    bench.input(Input::SnapshotTaken(index(5)));
    assert_eq!(bench.fault(), None, "it was under way");
}

/// It may be done when the replica counts again and has not been told yet how far it may apply.
#[test]
fn a_snapshot_from_before_the_damage_that_is_done_after_the_fence_is_no_fault() {
    let mut bench = trusted(6);
    bench.input(Input::LogDamaged(index(4)));
    bench.sync();
    hear(&mut bench, heartbeat(2, 3));
    hear(&mut bench, fence(SECOND_LIFE, 6));
    hear(&mut bench, Message::Append(append(2, (3, 2), &[2, 2, 2], 4)));
    bench.sync();
    assert_eq!((promise(&bench), bench.commit()), (Promise::Kept, 4));
    bench.input(Input::SnapshotTaken(index(5)));
    assert_eq!((bench.fault(), bench.group.status().snapshot_index), (None, index(0)));
    hear(&mut bench, heartbeat(2, 6));
    bench.input(Input::SnapshotTaken(index(6)));
    assert_eq!((bench.fault(), bench.group.status().snapshot_index), (None, index(6)));
}

/// The leader's log is damaged: another leads, and it learns from that one what it had committed.
#[test]
fn whoever_finds_its_log_damaged_leads_no_more_and_is_filled_anew() {
    for damaged in [ONE, THREE] {
        let mut fleet = Fleet::of(3);
        fleet.elect(ONE);
        for _ in 0..5 {
            fleet.works();
        }
        let last = fleet.last(ONE);
        fleet.input(damaged, Input::LogDamaged(index(3)));
        assert_eq!((fleet.last(damaged), fleet.commit(damaged)), (2, 2));
        assert!(!fleet.group(damaged).is_leader());
        fleet.live(Duration::from_secs(3));
        assert!(fleet.last(damaged) >= last);
        assert_eq!(fleet.group(damaged).status().promise.promise, Promise::Kept);
        fleet.works();
        fleet.live(Duration::from_millis(200));
        fleet.agree();
        // It counts: with one other the group goes on.
        let leader = fleet.leader().expect("somebody leads");
        let third = [ONE, TWO, THREE].into_iter().find(|id| ![leader, damaged].contains(id));
        fleet.crash(third.unwrap_or(leader));
        fleet.live(Duration::from_secs(2));
        let leader = fleet.leader().expect("somebody leads");
        let proposed = fleet.propose(leader);
        fleet.live(Duration::from_millis(300));
        assert!(fleet.is_committed(proposed));
    }
}
