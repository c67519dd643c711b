//! Answers that wait for a disk that hangs.

use super::*;

/// Heartbeats of a leader on `node`, for a replica that it speaks of so.
fn heartbeats(node: u64, from: u64, term: u64) -> EngineInput {
    let item = HeartbeatItem {
        group: GROUP,
        group_incarnation: GroupIncarnation::new(1),
        from: ReplicaId::new(from),
        to: ReplicaId::new(1),
        heartbeat: Heartbeat {
            term: Term::new(term),
            commit: LogIndex::ZERO,
            quorum_durable: LogIndex::ZERO,
            read_seq: 0,
            sent: Micros::ZERO,
            rest: Rest::Awake,
        },
    };
    let (node, incarnation) = (NodeId::new(node), Incarnation::new(1));
    let source = Source { node, incarnation, route: Route::Control, clock: None };
    EngineInput::Heartbeats(source, vec![item])
}

#[test]
fn a_disk_that_hangs_is_not_waited_for_by_an_answer_to_every_heartbeat() {
    let mut solo = Solo::with_group(3);
    // A new term is on its way to the disk, and stays there.
    for _ in 0..10_000 {
        solo.take(heartbeats(2, 2, 3));
    }
    assert_eq!(solo.engine().slots[0].gated.len(), 1);
    // Strangers cost no more than the places there are for guests.
    for stranger in 100..1_000 {
        solo.take(heartbeats(3, stranger, 2));
    }
    assert!(solo.engine().slots[0].gated.len() <= 1 + 8, "as many as there are guests");
    solo.sync();
    let answered = solo.node.out.heartbeat_replies.drain(..).map(|(to, _)| to);
    let answered: Vec<NodeId> = answered.filter(|to| *to == NodeId::new(2)).collect();
    assert_eq!(answered, [NodeId::new(2)], "once, however often it was asked");
    assert!(solo.engine().slots[0].gated.is_empty());
}
