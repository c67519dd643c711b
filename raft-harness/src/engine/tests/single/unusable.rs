//! Replicas that cannot go on from what their disk holds.

use raft_core::{Base, Member, Membership, Standing, Tombstone};

use super::*;

/// The log of replica 1 of three, which begins behind entry 10.
fn behind_a_snapshot() -> RecoveredGroup {
    let replica = |id| Member {
        replica: ReplicaId::new(id),
        node: NodeId::new(id),
        standing: Standing::Voter,
    };
    let membership = Membership::new([1, 2, 3].map(replica)).expect("it is sound");
    RecoveredGroup {
        incarnation: GroupIncarnation::new(1),
        hard_state: HardState { term: Term::new(3), vote: Some(ReplicaId::new(2)) },
        base: Base { index: LogIndex::new(10), term: Term::new(2), ..Base::first(membership) },
        first_index: LogIndex::new(11),
        last_index: LogIndex::new(12),
        term_runs: vec![(LogIndex::new(11), Term::new(3))],
        log_time: LogTime::new(9),
        ..RecoveredGroup::default()
    }
}

/// A log that contradicts itself: it is in a term that nobody has recorded.
fn contradictory() -> RecoveredGroup {
    let mut recovered = behind_a_snapshot();
    recovered.hard_state.term = Term::new(1);
    recovered
}

fn tombstone(solo: &Solo) -> Option<Tombstone> {
    solo.node.out.persist.iter().find_map(|write| write.destroy)
}

/// It leaves, what it promised is remembered, and a fresh replica may come.
fn leaves(solo: &mut Solo, hard_state: HardState) {
    let removed = solo.remove(Removal::OfFormerMember);
    assert_eq!(removed.wait(), Err(RequestError::StillMember(GROUP)));
    let removed = solo.remove(Removal::OfAnyone);
    let buried = tombstone(solo).expect("its name and vote stay");
    assert_eq!((buried.replica, buried.hard_state), (ReplicaId::new(1), hard_state));
    assert_eq!(solo.engine().statuses(), []);
    solo.create(3, None);
    assert_eq!(solo.created().pop(), Some(Err(CreateRefusal::Leaving)));
    solo.sync();
    solo.take(EngineInput::SnapshotsForgotten(GROUP));
    assert_eq!(removed.wait(), Ok(()));
    solo.create(3, None);
    let used = CreateRefusal::ReplicaUsed(ReplicaId::new(1));
    assert_eq!(solo.created().pop(), Some(Err(used)));
    solo.vote(2, 9);
    let (_, answer) = solo.node.out.control.pop().expect("a candidate is answered");
    let verdict = Verdict::Refused;
    let refused = VoteReply { term: hard_state.term, attempt: 1, verdict };
    assert_eq!(answer.message, Message::VoteReply(refused));
    solo.join(4);
    solo.sync();
    assert_eq!(solo.created().pop(), Some(Ok(Created::New)));
    assert_eq!(solo.engine().statuses()[0].fault, None);
}

#[test]
fn a_replica_without_its_state_follows_and_counts_for_nothing() {
    let mut solo = Solo::new(3);
    let recovered = behind_a_snapshot();
    solo.create(3, Some(recovered));
    solo.create(3, None);
    assert_eq!(solo.created(), vec![Ok(Created::Existed); 2]);
    let status = solo.engine().statuses().remove(0);
    assert!(status.fault.is_some_and(|why| why.contains("no snapshot")));
    assert_eq!((status.promise, status.applied_index), (Promise::Unproven, LogIndex::ZERO));
    assert_eq!(solo.node.counters.groups_faulted.load(Relaxed), 1);
    assert!(solo.node.out.persist.is_empty(), "its log says nothing of it");

    // It votes for nobody and stands for nothing, however long it waits.
    solo.now = Micros::new(60_000_000);
    solo.vote(2, 9);
    solo.sync();
    let (_, answer) = solo.node.out.control.pop().expect("a candidate is answered");
    let granted = |message: &Message| {
        matches!(message, Message::VoteReply(VoteReply { verdict: Verdict::Granted, .. }))
    };
    assert!(!granted(&answer.message), "{answer:?}");
    let asked = solo.read_of(ReadPath::Follower);
    assert!(asked.wait().is_err());
    let snapshot = solo.snapshot();
    assert_eq!(snapshot.wait(), Err(RequestError::Faulted(GROUP)));
    let digest = solo.digest();
    assert_eq!(digest.wait(), Err(RequestError::Faulted(GROUP)));

    let hard_state = HardState { term: Term::new(9), vote: None };
    leaves(&mut solo, hard_state);
}

#[test]
fn a_group_the_log_cannot_start_is_told_not_made_anew_and_can_be_removed() {
    let mut solo = Solo::new(3);
    let recovered = contradictory();
    let hard_state = recovered.hard_state;
    solo.create(3, Some(recovered));
    solo.create(3, None);
    assert_eq!(solo.created(), vec![Err(CreateRefusal::Unusable); 2]);
    assert!(solo.node.out.persist.is_empty(), "what the group had promised stays in the log");
    let status = solo.engine().statuses().remove(0);
    assert!(status.fault.is_some_and(|why| why.contains("cannot be started")));
    assert_eq!((status.last_index, status.members.len()), (LogIndex::new(12), 3));
    assert_eq!(solo.propose().wait(), Err(RequestError::Faulted(GROUP)));
    assert_eq!(solo.node.counters.groups_faulted.load(Relaxed), 1);
    leaves(&mut solo, hard_state);
}
