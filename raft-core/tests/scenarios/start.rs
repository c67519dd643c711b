//! What a group refuses to start from.

use std::sync::Arc;
use std::time::Duration;

use raft_core::{Base, Group, Membership, Micros, Settings, SettingsError, Start, StartError};

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
