//! The time in the log: what a driver's clock says goes into entries, and never runs backwards
//! along a log, whichever replica leads.

use std::sync::Arc;

use raft_core::{
    Input, LogChange, LogTime, Membership, Message, Session, SnapshotMeta, SnapshotOffer,
};

use crate::bench::*;

fn propose(bench: &mut Bench, of: u64, at: u64) {
    bench.input(Input::Propose { token: token(of), bytes: 100, time: LogTime::new(at) });
}

/// The stamps of the entries that were appended since this was asked last.
fn stamps(bench: &mut Bench) -> Vec<u64> {
    let stamp = |change| match change {
        LogChange::Appended { time, .. } => Some(time.get()),
        _ => None,
    };
    bench.take_log_changes().into_iter().filter_map(stamp).collect()
}

#[test]
fn a_clock_that_was_set_back_stamps_no_entry_earlier_than_the_one_before() {
    let mut bench = Bench::leader(&[]);
    bench.take_log_changes();
    for (of, at) in [(1, 100), (2, 50), (3, 101), (4, 0)] {
        propose(&mut bench, of, at);
    }
    assert_eq!(stamps(&mut bench), [100, 100, 101, 101]);
    assert_eq!(bench.group.log_time(), LogTime::new(101));
}

#[test]
fn a_leader_goes_on_from_the_newest_stamp_it_ever_held() {
    // From an append, although its entry was cut again.
    let mut cut = Bench::follower(&[1]);
    let entry = |of, time| {
        let time = LogTime::new(time);
        Message::Append(raft_core::Append { time, ..append(of, (1, 1), &[of], 0) })
    };
    cut.hear(TWO, entry(2, 700));
    cut.hear(TWO, entry(3, 600));
    assert_eq!(cut.terms(), [1, 3]);
    assert_eq!(cut.group.log_time(), LogTime::new(700));

    // From a snapshot.
    let mut installed = Bench::follower(&[1]);
    let meta = SnapshotMeta {
        index: index(5),
        term: term(2),
        time: LogTime::new(700),
        config_index: index(0),
        membership: Arc::new(Membership::of_voters([ONE, TWO, THREE]).expect("distinct voters")),
    };
    let offer = SnapshotOffer { term: term(3), session: Session::new(1), meta };
    installed.hear(TWO, Message::Snapshot(offer));
    installed.input(Input::SnapshotReceived { index: index(5), term: term(2) });

    // From its own disk.
    let mut recovered = start(ONE, &[1, 3]);
    recovered.log_time = LogTime::new(700);

    for mut bench in [cut, installed, Bench::new(recovered)] {
        bench.sync();
        bench.sent.clear();
        bench.take_log_changes();
        bench.wait(std::time::Duration::from_secs(2));
        bench.stand(&[TWO]);
        propose(&mut bench, 1, 5);
        assert_eq!(stamps(&mut bench), [700, 700], "its no-op, and what its slow clock says");
    }
}

/// The stamp of a snapshot is not earlier than that of any entry it covers.
#[test]
fn a_snapshot_is_stamped_with_the_newest_time() {
    let mut bench = Bench::leader(&[]);
    propose(&mut bench, 1, 100);
    propose(&mut bench, 2, 90);
    bench.sync();
    bench.catch_up(TWO);
    let meta = bench.group.snapshot_meta(index(3)).expect("it is committed");
    assert_eq!(meta.time, LogTime::new(100));
}
