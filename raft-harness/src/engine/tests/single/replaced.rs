//! A replica that may have forgotten its vote, and was replaced.

use raft_core::PromiseRecord;

use super::*;

/// Of replica 1 of three, which had heard of a term when it hears that it was removed by term 7.
fn removed(heard: u64) -> Solo {
    let mut solo = Solo::new(3);
    let promise = PromiseRecord { promise: Promise::Unproven, loss_epoch: 0 };
    let spec = GroupSpec::on_nodes(GROUP, (1..=3).map(NodeId::new));
    let recovered = RecoveredGroup {
        spec: spec.encode(),
        incarnation: GroupIncarnation::new(1),
        hard_state: HardState { term: Term::new(heard), vote: None },
        promise,
        first_index: LogIndex::new(1),
        ..RecoveredGroup::default()
    };
    solo.create(3, Some(recovered));
    solo.sync();
    // It asks for a leader, and hears that it belongs to the group no more.
    while solo.node.out.control.is_empty() {
        solo.now = solo.engine().next_deadline().expect("it looks for a leader");
        let wall = solo.wall();
        let engine = solo.node.engine.as_mut().expect("it runs");
        engine.set_time(solo.now, wall);
        engine.fire_timers(&mut solo.node.out);
        engine.finish_turn(&mut solo.node.out);
    }
    let (node, envelope) = solo.node.out.control.remove(0);
    let Message::PreVote(asked) = &envelope.message else { panic!("{envelope:?}") };
    let (term, verdict) = (Term::new(7), Verdict::Removed);
    let reply = VoteReply { term, attempt: asked.attempt, verdict };
    solo.answer_to(node, envelope, Message::PreVoteReply(reply));
    solo.sync();
    assert!(solo.engine().slots[0].core.is_removed());
    solo
}

/// A leader speaks to the replica that is to come to this node; whether a place is made for it.
fn makes_room(solo: &mut Solo, successor: u64, term: u64) -> bool {
    let source = Source {
        node: NodeId::new(2),
        incarnation: Incarnation::new(1),
        route: route(1),
        clock: None,
    };
    let append = Append {
        term: Term::new(term),
        session: Session::new(1),
        prev_index: LogIndex::new(9),
        prev_term: Term::new(3),
        runs: std::iter::empty().collect(),
        configs: raft_core::Sparse::new(),
        time: LogTime::default(),
        commit: LogIndex::ZERO,
        quorum_durable: LogIndex::ZERO,
        acknowledge: Acknowledge::Durable,
    };
    let envelope = Envelope {
        group: GROUP,
        group_incarnation: GroupIncarnation::new(1),
        from: ReplicaId::new(2),
        to: ReplicaId::new(successor),
        message: Message::Append(append),
        entries: Vec::new(),
    };
    solo.take(EngineInput::Message(source, envelope));
    solo.node.out.persist.iter().any(|write| write.create.is_some())
        || !solo.engine().leaving.is_empty()
}

#[test]
fn a_late_append_of_a_change_that_was_lost_brings_no_successor_to_life() {
    let mut solo = removed(5);
    assert!(!makes_room(&mut solo, 4, 6), "its term is over, and the change of it may be lost");
    assert!(makes_room(&mut solo, 5, 7));
}

/// Somebody campaigned in term 9 and reached this replica alone: the group knows nothing of it.
#[test]
fn a_term_that_only_the_old_replica_has_heard_of_keeps_no_successor_waiting() {
    let mut solo = removed(9);
    assert!(!makes_room(&mut solo, 4, 6), "its term is over, and the change of it may be lost");
    assert!(makes_room(&mut solo, 5, 7));
}
