//! Disks that hang or are full: the group goes on without whoever has one.

use std::time::Duration;

use raft_core::{
    DiskSpace, Input, MemberChange, Message, Outcome, ReadPath, Refusal, ReplicaId, Verdict,
};

use crate::bench::*;
use crate::fleet::Fleet;

/// Its heartbeats would keep everybody loyal to a leader that can promise nothing.
#[test]
fn a_leader_whose_disk_hangs_gives_way() {
    for size in [3, 5] {
        let mut fleet = Fleet::of(size);
        fleet.elect(ONE);
        fleet.works();
        fleet.hold_disk(ONE);
        // With the others' disks it still commits, which is no reason to stay.
        let write = fleet.propose(ONE);
        fleet.settle();
        assert!(fleet.is_committed(write));
        fleet.live(Duration::from_secs(3));
        assert_eq!(fleet.leader(), Some(ONE), "a hiccup is no hang");
        fleet.live(Duration::from_secs(4));
        let next = fleet.leader().expect("another one leads");
        assert_ne!(next, ONE);
        fleet.works();
        fleet.live(Duration::from_secs(20));
        assert_eq!(fleet.leader(), Some(next), "it does not come back to office as it is");
        fleet.release_disk(ONE);
        fleet.live(Duration::from_secs(1));
        fleet.works();
        fleet.live(Duration::from_millis(100));
        fleet.agree();
    }
}

/// A write that nobody can make durable but one hung disk: clients of the leader are not kept
/// waiting for ever.
#[test]
fn requests_at_a_leader_whose_disk_hangs_end() {
    let mut fleet = Fleet::of(3);
    fleet.elect(ONE);
    fleet.works();
    fleet.hold_disk(ONE);
    fleet.isolate(THREE);
    fleet.hold(|packet| packet.to == TWO && matches!(packet.message, Message::Append(_)));
    let write = fleet.propose(ONE);
    fleet.settle();
    fleet.held.clear();
    fleet.live(Duration::from_secs(7));
    fleet.join();
    fleet.let_pass();
    fleet.live(Duration::from_secs(3));
    fleet.works();
    fleet.release_disk(ONE);
    fleet.live(Duration::from_secs(1));
    fleet.works();
    fleet.live(Duration::from_millis(100));
    assert!(fleet.outcome(write).is_some());
    fleet.agree();
}

#[test]
fn a_follower_whose_disk_hangs_stops_nobody() {
    let mut fleet = Fleet::of(3);
    fleet.elect(ONE);
    fleet.hold_disk(THREE);
    for _ in 0..20 {
        fleet.works();
        fleet.live(Duration::from_millis(500));
    }
    assert_eq!(fleet.leader(), Some(ONE));
    assert_eq!(fleet.group(ONE).term(), term(1));
    assert!(fleet.on_disk(THREE).2 < 3, "it acknowledged nothing");
    fleet.release_disk(THREE);
    fleet.live(Duration::from_secs(1));
    fleet.agree();
}

#[test]
fn a_leader_without_room_takes_nothing_and_hands_over() {
    let mut fleet = Fleet::of(3);
    fleet.elect(ONE);
    fleet.works();
    // The hand-over is held back, so that what the leader does meanwhile can be seen.
    fleet.hold(|packet| matches!(packet.message, Message::TimeoutNow(_)));
    fleet.input(ONE, Input::Disk(DiskSpace::Full));
    let last = fleet.last(ONE);
    let write = fleet.propose(ONE);
    assert!(matches!(fleet.outcome(write), Some(Outcome::Refused(_))));
    let read = fleet.read(ONE, ReadPath::Quorum);
    fleet.settle();
    assert!(fleet.is_ready(read), "a read needs no room");
    assert_eq!(fleet.last(ONE), last);
    fleet.release();
    fleet.settle();
    let next = fleet.leader().expect("another one leads");
    assert_ne!(next, ONE);
    fleet.works();
    assert_eq!(fleet.last(ONE), last, "it takes no entries as a follower either");
    fleet.live(Duration::from_secs(5));
    assert_eq!(fleet.leader(), Some(next));
    fleet.input(ONE, Input::Disk(DiskSpace::Ample));
    fleet.live(Duration::from_secs(2));
    fleet.works();
    fleet.live(Duration::from_millis(100));
    fleet.agree();
}

/// To step down takes no room.
#[test]
fn a_removed_leader_steps_down_with_a_full_disk_too() {
    let mut bench = Bench::leader(&[]);
    bench.catch_up(TWO);
    let changes = vec![MemberChange::Remove(ONE)];
    bench.input(Input::ChangeMembership { token: token(1), changes });
    bench.sync();
    bench.input(Input::Disk(DiskSpace::Full));
    bench.catch_up(TWO);
    assert!(bench.group.is_leader(), "one of the two who stay");
    bench.catch_up(THREE);
    assert_eq!(bench.commit(), 2);
    assert!(!bench.group.is_leader(), "its removal is committed");
    assert!(bench.messages_to(TWO).iter().any(|told| matches!(told, Message::TimeoutNow(_))));
}

/// To leave a joint membership takes an entry, and so it waits for room.
#[test]
fn a_joint_membership_is_left_when_there_is_room() {
    let mut bench = Bench::leader(&[]);
    for peer in [TWO, THREE] {
        bench.catch_up(peer);
    }
    let changes = vec![MemberChange::Demote(TWO), MemberChange::Demote(THREE)];
    bench.input(Input::ChangeMembership { token: token(1), changes });
    bench.sync();
    // Nobody else may lead after the change, so there is nobody to hand over to.
    bench.input(Input::Disk(DiskSpace::Full));
    bench.catch_up(TWO);
    assert_eq!((bench.commit(), bench.group.last_index().get()), (2, 2));
    bench.live_with(TWO, Duration::from_millis(200));
    assert!(bench.group.is_leader() && bench.group.membership().is_joint());
    assert_eq!(bench.group.last_index().get(), 2);
    bench.input(Input::Disk(DiskSpace::Ample));
    bench.live_with(TWO, Duration::from_secs(1));
    bench.sync();
    bench.catch_up(TWO);
    assert!(bench.group.is_leader() && !bench.group.membership().is_joint());
    assert_eq!(bench.group.membership().incoming(), [ONE]);
}

#[test]
fn a_replica_without_room_still_votes() {
    let mut bench = Bench::follower(&[1]);
    bench.input(Input::Disk(DiskSpace::Full));
    bench.hear(TWO, Message::Vote(vote_request(2, 1, 1)));
    bench.sync();
    let granted = bench.messages_to(TWO).iter().any(
        |message| matches!(message, Message::VoteReply(reply) if reply.verdict == Verdict::Granted),
    );
    assert!(granted, "term and vote find room");
    // With one of three gone and one without room, its vote elects the third.
    let mut fleet = Fleet::of(3);
    fleet.elect(ONE);
    fleet.works();
    fleet.live(Duration::from_millis(100));
    fleet.input(THREE, Input::Disk(DiskSpace::Full));
    fleet.crash(ONE);
    fleet.live(Duration::from_secs(3));
    assert_eq!(fleet.leader(), Some(TWO));
    let write = fleet.propose(TWO);
    fleet.live(Duration::from_secs(1));
    assert_eq!(fleet.outcome(write), None, "two of three disks are needed");
    fleet.input(THREE, Input::Disk(DiskSpace::Ample));
    fleet.live(Duration::from_secs(2));
    assert!(fleet.is_committed(write));
}

/// A disk that failed once to make something durable may lie the next time.
#[test]
fn a_replica_whose_disk_failed_is_silent_and_the_others_go_on() {
    for failing in [ONE, TWO] {
        let mut fleet = Fleet::of(3);
        fleet.elect(ONE);
        fleet.works();
        fleet.hold_disk(failing);
        fleet.allow_fault(failing);
        let write = fleet.propose(ONE);
        fleet.settle();
        fleet.fail_disk(failing);
        fleet.hold(move |packet| packet.from == failing);
        fleet.live(Duration::from_secs(4));
        assert!(fleet.held.is_empty(), "{:?}", fleet.held);
        assert!(fleet.leader().is_some_and(|leader| leader != failing));
        fleet.let_pass();
        fleet.works();
        assert!(fleet.outcome(write).is_some());
        let refused = fleet.propose(failing);
        assert_eq!(fleet.outcome(refused), Some(Outcome::Refused(Refusal::Faulted)));
    }
}

/// Which replica it is makes no difference to how long the group is without a leader.
#[test]
fn a_hand_over_for_want_of_room_goes_to_whoever_has_it() {
    let mut fleet = Fleet::of(5);
    fleet.elect(ONE);
    fleet.works();
    for id in [TWO, THREE].into_iter().chain([4].map(ReplicaId::new)) {
        fleet.input(id, Input::Disk(DiskSpace::Full));
    }
    fleet.input(ONE, Input::Disk(DiskSpace::Full));
    fleet.live(Duration::from_secs(15));
    let next = fleet.leader().expect("the one with room can be elected");
    assert_eq!(next, ReplicaId::new(5));
}
