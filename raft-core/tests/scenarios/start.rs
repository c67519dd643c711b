//! What a group refuses to start from.

use std::sync::Arc;
use std::time::Duration;

use raft_core::{
    AppendReply, AppendResult, Base, Campaign, Declined, Disbelief, Fence, Group, GroupId,
    Heartbeat, HeartbeatReply, Incarnation, Input, LogTime, Membership, Message, Micros,
    PRIORITY_MAX, Promise, ReadIndex, ReadIndexReply, Recover, ReplicaId, Rest, RoleKind, Session,
    Settings, SettingsError, SnapshotMeta, SnapshotOffer, Standing, Start, StartError, TimeoutNow,
    TransferRefused, Unwilling, Verdict, VoteReply, VoteRequest,
};

use crate::bench::*;

fn refusal(start: Start) -> Option<StartError> {
    Group::new(Micros::ZERO, start).err()
}

#[test]
fn contradicting_parts_are_refused() {
    let mut nobody = start(ONE, &[]);
    nobody.base = Base { index: index(1), term: term(1), snapshot: index(1), ..Base::default() };
    nobody.last_index = index(1);
    nobody.applied = index(1);
    nobody.hard_state.term = term(1);
    assert_eq!(refusal(nobody), Some(StartError::NoMembership));

    let mut stray = start(ONE, &[1]);
    stray.configs = vec![(index(2), Arc::new(Membership::of_voters([ONE]).expect("one voter")))];
    assert_eq!(refusal(stray), Some(StartError::Configs { index: index(2) }));

    let mut gap = start(ONE, &[1, 1]);
    gap.base.snapshot = index(3);
    assert!(matches!(refusal(gap), Some(StartError::SnapshotBeforeLog { .. })));

    let mut hole = start(ONE, &[1, 1]);
    hole.term_runs[0].0 = index(2);
    assert!(matches!(refusal(hole), Some(StartError::TermRuns { .. })));

    let mut endless = start(ONE, &[1]);
    endless.last_index = index(u64::MAX);
    assert!(matches!(refusal(endless), Some(StartError::TermRuns { .. })));

    let mut applied = start(ONE, &[1]);
    applied.applied = index(2);
    assert!(matches!(refusal(applied), Some(StartError::AppliedBeyondLog { .. })));

    let mut gone = start(ONE, &[]);
    gone.base =
        Base { index: index(5), term: term(1), snapshot: index(5), ..base([ONE, TWO, THREE]) };
    gone.last_index = index(5);
    gone.hard_state.term = term(1);
    gone.applied = index(4);
    let missing = StartError::AppliedBeforeLog { applied: index(4), base: index(5) };
    assert_eq!(refusal(gone.clone()), Some(missing), "entry 5 is in no log");
    gone.applied = index(5);
    assert_eq!(refusal(gone), None);

    let mut behind = start(ONE, &[1, 3]);
    behind.hard_state.term = term(2);
    assert!(matches!(refusal(behind), Some(StartError::TermBehindLog { .. })));

    let mut overflow = start(ONE, &[]);
    overflow.hard_state.term = term(u64::MAX);
    assert!(matches!(refusal(overflow), Some(StartError::TermOverflow { .. })));
}

#[test]
fn what_was_applied_is_committed() {
    let mut recovered = start(ONE, &[1, 1, 2]);
    recovered.applied = index(2);
    let bench = Bench::new(recovered);
    assert_eq!(bench.commit(), 2);
    assert_eq!(bench.group.status().durable_index, index(3));
}

#[test]
fn settings_that_would_spin_stall_or_overflow_are_refused() {
    let default = Settings::default();
    let sub_microsecond =
        Settings { heartbeat_interval: Duration::from_nanos(10), ..default.clone() };
    assert_eq!(sub_microsecond.validate(), Err(SettingsError::DurationTooShort));
    let endless = Settings {
        election_timeout_min: Duration::MAX / 2,
        election_timeout_max: Duration::MAX,
        ..default.clone()
    };
    assert!(matches!(endless.validate(), Err(SettingsError::DurationTooLong { .. })));
    let beat = default.heartbeat_interval;
    let hasty = |election_timeout_min| Settings { election_timeout_min, ..default.clone() };
    assert_eq!(hasty(beat * 3).validate(), Ok(()));
    let election_min = beat * 3 - Duration::from_micros(1);
    let slow = SettingsError::HeartbeatTooSlow { heartbeat: beat, election_min };
    assert_eq!(hasty(election_min).validate(), Err(slow));
    let (election_min, election_max) = (default.election_timeout_min, default.election_timeout_min);
    let lockstep = Settings { election_timeout_max: election_max, ..default.clone() };
    let no_jitter = SettingsError::NoJitter { election_min, election_max };
    assert_eq!(lockstep.validate(), Err(no_jitter));
    let eager = Settings { priority: PRIORITY_MAX + 1, ..default.clone() };
    let priority = PRIORITY_MAX + 1;
    assert_eq!(eager.validate(), Err(SettingsError::Priority { priority }));
    let day = Duration::from_secs(24 * 60 * 60);
    let moment = Duration::from_micros(1);
    for (period, refused) in
        [(election_min, false), (election_min - moment, true), (day, false), (day + moment, true)]
    {
        let want = |setting| match refused {
            true => Err(SettingsError::Patience { setting, period, election_min }),
            false => Ok(()),
        };
        let impatient = Settings { disk_stall_max: period, ..default.clone() };
        assert_eq!(impatient.validate(), want("disk_stall_max"), "a disk may hang for {period:?}");
        let sleepy = Settings { quiesce_after: Some(period), ..default.clone() };
        assert_eq!(sleepy.validate(), want("quiesce_after"), "asleep after {period:?}");
    }
    let closed = Settings { inflight_bytes_max: 0, ..default.clone() };
    assert_eq!(closed.validate(), Err(SettingsError::ZeroWindow));
    let mut start = start(ONE, &[]);
    start.settings = Arc::new(closed);
    assert!(matches!(refusal(start), Some(StartError::Settings(_))));
    assert_eq!(default.validate(), Ok(()));
}

#[test]
fn a_joining_replica_may_stop_before_its_log_names_any_member() {
    let mut joining = start(ONE, &[1, 1]);
    joining.base.membership = None;
    let bench = Bench::new(joining);
    assert_eq!(bench.group.status().standing, None);
    assert_eq!(bench.group.next_deadline(), None, "it stands for nothing");
}

#[test]
fn a_joining_replica_stands_for_nothing_until_its_log_says_who_belongs_to_the_group() {
    let four = ReplicaId::new(4);
    let settings = Arc::new(Settings::default());
    let mut bench = Bench::new(Start::joining(GroupId::new(7), four, settings));
    bench.input(Input::Campaign);
    bench.live(Duration::from_secs(60));
    assert_eq!((bench.role(), bench.sent.len()), (RoleKind::Follower, 0));
    assert_eq!(bench.group.status().standing, None);
    assert!(!bench.group.status().removed, "it was never in");
    let mut first = append(1, (0, 0), &[1, 1], 0);
    let members = [ONE, TWO, four];
    first.configs =
        vec![(index(2), Arc::new(Membership::of_voters(members).expect("distinct voters")))].into();
    bench.hear(ONE, Message::Append(first));
    bench.sync();
    assert_eq!(bench.group.status().standing, Some(Standing::Voter));
    bench.live(Duration::from_secs(2));
    assert_ne!(bench.role(), RoleKind::Follower, "a voter that hears nobody stands");
}

/// What a peer claims of terms and indexes moves nothing beyond what a cluster can have counted to,
/// and mutes nobody: it is passed over, and the group goes on.
#[test]
fn words_from_the_end_of_the_number_range_change_nothing_in_any_role() {
    let far = [TERM_JUMP + 4, u64::MAX / 2, u64::MAX / 2 + 1, u64::MAX];
    for (kind, word) in words(1, 1) {
        let follower = || Bench::follower(&[1, 1, 3]);
        let leader = || Bench::leader(&[1, 1, 2]);
        let alike = || {
            let mut candidate = Bench::follower(&[1, 1, 3]);
            candidate.wait(Duration::from_secs(5));
            candidate.input(Input::Campaign);
            candidate
        };
        let benches: [&dyn Fn() -> Bench; 3] = [&follower, &leader, &alike];
        for make in benches {
            for of in far {
                let mut bench = make();
                let before = bench.group.status();
                assert_eq!(before.term, term(3));
                bench.sent.clear();
                bench.hear(TWO, words(of, 1)[kind].1.clone());
                let far = Disbelief::FarTerm { from: TWO, term: term(of), ours: term(3) };
                assert_eq!(bench.effects.disbelieved.take(), Some(far), "{word:?}");
                assert_eq!(bench.group.status(), before, "{word:?}");
                assert!(bench.sent.is_empty(), "{word:?}");
            }
            for at in [u64::MAX / 2 + 1, u64::MAX] {
                let Some((_, far)) = words(3, at).into_iter().nth(kind) else { continue };
                if words(3, 1)[kind].1 == far {
                    // It names no index.
                    continue;
                }
                let mut bench = make();
                let before = bench.group.status();
                bench.hear(TWO, far.clone());
                let disbelief = Disbelief::FarIndex { from: TWO, index: index(at) };
                assert_eq!(bench.effects.disbelieved.take(), Some(disbelief), "{far:?}");
                assert_eq!(bench.group.status(), before, "{far:?}");
            }
        }
    }
}

#[test]
fn the_furthest_term_that_is_believed_is_adopted_and_one_more_is_not() {
    let vote = |of: u64| Message::Vote(vote_request(of, 3, 3));
    let mut bench = Bench::follower(&[1, 1, 3]);
    bench.wait(Duration::from_secs(5));
    bench.hear(TWO, vote(3 + TERM_JUMP + 1));
    assert!(bench.effects.disbelieved.take().is_some());
    bench.hear(TWO, vote(3 + TERM_JUMP));
    assert_eq!(bench.effects.disbelieved, None);
    assert_eq!(bench.group.term(), term(3 + TERM_JUMP));
    // Who has heard of no term at all joins a group that has come as far as it may.
    let mut joining = Bench::follower(&[]);
    assert_eq!(joining.group.term(), term(0));
    joining.hear(TWO, heartbeat(9 * TERM_JUMP, 0));
    assert_eq!(joining.effects.disbelieved, None);
    assert_eq!(joining.group.term(), term(9 * TERM_JUMP));
}

/// A campaign beyond the last term would be believed by nobody, and refused at the next start.
#[test]
fn nobody_stands_for_election_beyond_the_last_term() {
    let mut last = start(ONE, &[1]);
    last.hard_state.term = term(u64::MAX / 2);
    assert_eq!(refusal(last.clone()), None, "it starts, and serves what it can");
    let mut bench = Bench::new(last.clone());
    bench.wait(Duration::from_secs(9));
    bench.input(Input::Deadline);
    bench.input(Input::Campaign);
    assert!(bench.sent.is_empty() && bench.effects.persist.is_none());
    assert_eq!(bench.group.next_deadline(), None);
    bench.hear(TWO, heartbeat(u64::MAX / 2, 0));
    assert_eq!(bench.group.leader(), Some(TWO), "a leader of that term is followed");
    let request = TimeoutNow {
        term: term(u64::MAX / 2),
        transfer: 1,
        last_index: index(1),
        commit: index(0),
        priority: 0,
    };
    bench.hear(TWO, Message::TimeoutNow(request));
    bench.sync();
    assert_eq!(bench.group.term(), term(u64::MAX / 2));
    assert_eq!(bench.role(), RoleKind::Follower);
}

/// As much as one word may move the term by.
const TERM_JUMP: u64 = 1 << 32;

/// A word of each kind, with this term and, if it names indexes, this one.
fn words(of: u64, at: u64) -> Vec<(usize, Message)> {
    let (term, at) = (term(of), index(at));
    let request = VoteRequest {
        term,
        last_index: at,
        last_term: term,
        attempt: 1,
        cause: Campaign::Transfer,
        acknowledge: raft_core::Acknowledge::Durable,
    };
    let refusal = |verdict| VoteReply { term, attempt: 1, verdict };
    let reply =
        |result| Message::AppendReply(AppendReply { term, session: Session::new(1), result });
    let mut probe = append(of, (at.get(), of), &[], 0);
    probe.commit = index(0);
    let beat = Heartbeat {
        term,
        commit: at,
        quorum_durable: at,
        read_seq: 1,
        sent: Micros::ZERO,
        rest: Rest::Awake,
    };
    let meta = SnapshotMeta {
        index: at,
        term,
        time: LogTime::default(),
        config_index: index(0),
        membership: Arc::new(Membership::of_voters([ONE, TWO, THREE]).expect("distinct voters")),
    };
    let life = Incarnation::new(1);
    let why = Unwilling::Withheld;
    let kept = Promise::Kept;
    let all = [
        Message::PreVote(request),
        Message::Vote(request),
        Message::PreVoteReply(refusal(Verdict::Refused)),
        Message::PreVoteReply(refusal(Verdict::Granted)),
        Message::PreVoteReply(refusal(Verdict::Removed)),
        Message::VoteReply(refusal(Verdict::Refused)),
        Message::VoteReply(refusal(Verdict::Removed)),
        Message::Append(probe),
        reply(AppendResult::Accepted { durable: at, written: at, verified: at, promise: kept }),
        reply(AppendResult::Rejected { prev_index: at, hint_index: at, hint_term: term }),
        reply(AppendResult::StaleTerm),
        reply(AppendResult::Receiving { index: at }),
        reply(AppendResult::Declined(Declined::DiskFull)),
        Message::Heartbeat(beat),
        Message::ReadConfirm(beat),
        Message::HeartbeatReply(HeartbeatReply { term, read_seq: 1, sent: Micros::ZERO }),
        Message::TimeoutNow(TimeoutNow {
            term,
            transfer: 1,
            last_index: at,
            commit: index(0),
            priority: 0,
        }),
        Message::TransferRefused(TransferRefused { term, transfer: 1, why }),
        Message::ReadIndex(ReadIndex { term, id: 1 }),
        Message::ReadIndexReply(ReadIndexReply { term, id: 1, index: Some(at) }),
        Message::Snapshot(SnapshotOffer { term, session: Session::new(1), meta }),
        Message::Recover(Recover { term, incarnation: life }),
        Message::Fence(Fence { term, incarnation: life, index: at }),
    ];
    all.into_iter().enumerate().collect()
}
