//! Entries that snapshots leave in the log.

use raft_storage::LiveEntries;

use super::*;
use crate::snapshot::Restored;
use crate::snapshot::format::Left;

const LOST: (LogIndex, Term) = (LogIndex::new(1), Term::new(1));

/// Replica 1 of three leads.
fn leader() -> Solo {
    let mut solo = Solo::with_group(3);
    solo.now = solo.engine().next_deadline().expect("a voter has a deadline");
    let wall = solo.wall();
    let engine = solo.node.engine.as_mut().expect("it runs");
    engine.set_time(solo.now, wall);
    engine.fire_timers(&mut solo.node.out);
    engine.finish_turn(&mut solo.node.out);
    for _ in 0..2 {
        solo.sync();
        for (voter, envelope) in std::mem::take(&mut solo.node.out.control) {
            let message = match &envelope.message {
                Message::PreVote(asked) => Message::PreVoteReply(granted(asked)),
                Message::Vote(asked) => Message::VoteReply(granted(asked)),
                _ => continue,
            };
            solo.answer_to(voter, envelope, message);
        }
    }
    solo.sync();
    assert_eq!(solo.engine().handing_over().led, 1);
    solo
}

/// From now on these stay in the log.
fn names(solo: &mut Solo, entries: &[(LogIndex, Term)]) {
    let mut live = LiveEntries::default();
    assert!(entries.iter().all(|(index, term)| live.push(*index, *term)));
    let slot = &mut solo.engine().slots[0];
    let meta = slot.core.snapshot_meta(LogIndex::new(1)).expect("its first entry is there");
    let new = (slot.maker)(&slot.spec);
    let left = Left { live: Arc::new(live), bytes: 0 };
    slot.snapshots.stands_at(&Restored { new, meta, left, bytes: 100 });
}

fn lost() -> EngineInput {
    EngineInput::KeptUnreadable((GROUP, GroupIncarnation::new(1)), LOST.0, LOST.1)
}

/// Whether the second replica, which holds all, was asked to take over.
fn hands_over(solo: &mut Solo) -> bool {
    let out = std::mem::take(&mut solo.node.out.control);
    let asks = |(node, envelope): &(NodeId, Envelope)| {
        *node == NodeId::new(2) && matches!(envelope.message, Message::TimeoutNow(_))
    };
    out.iter().any(asks)
}

#[test]
fn who_cannot_read_what_its_snapshot_names_is_told_of_and_leads_no_more() {
    let mut solo = leader();
    let probe = solo.pull().expect("a new leader asks what its peers have");
    let (durable, promise) = (LogIndex::new(1), Promise::Kept);
    let all = AppendResult::Accepted { durable, written: durable, verified: durable, promise };
    solo.answer(probe.session, all);
    names(&mut solo, &[LOST]);
    assert_eq!(solo.engine().statuses()[0].fault, None);
    // Of another life of the group, or let go of since.
    solo.take(EngineInput::KeptUnreadable((GROUP, GroupIncarnation::new(2)), LOST.0, LOST.1));
    solo.take(EngineInput::KeptUnreadable((GROUP, GroupIncarnation::new(1)), LOST.0, Term::new(2)));
    assert_eq!(solo.engine().statuses()[0].fault, None);
    assert!(!hands_over(&mut solo));
    solo.take(lost());
    solo.take(lost());
    assert_eq!(solo.node.counters.kept_entries_lost.load(Relaxed), 1, "it is told once");
    let fault = solo.engine().statuses()[0].fault.clone();
    assert!(fault.is_some_and(|why| why.starts_with("entry 1, ")));
    assert!(hands_over(&mut solo));
    // Until a snapshot does not name it any more.
    names(&mut solo, &[]);
    assert_eq!(solo.engine().statuses()[0].fault, None);
}
