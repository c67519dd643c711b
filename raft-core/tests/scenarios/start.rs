//! What a group refuses to start from.

use std::sync::Arc;
use std::time::Duration;

use raft_core::{
    Base, Group, GroupId, Input, Membership, Message, Micros, PRIORITY_MAX, ReplicaId, RoleKind,
    Settings, SettingsError, Standing, Start, StartError,
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
