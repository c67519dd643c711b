//! What must outlive a crash, what must not, and leases.

use super::*;

#[test]
fn a_second_vote_in_a_term_is_refused() {
    let mut world = World::led(&[1, 2, 3]);
    world.stand(3, 2).expect("sound");
    world.step(2, |p| (p.term, p.vote, p.leader) = (2, Some(3), None)).expect("sound");
    refused(world.step(2, |p| p.vote = Some(1)), Check::VoteOnce);
    let mut world = World::led(&[1, 2, 3]);
    world.stand(3, 2).expect("sound");
    world.step(2, |p| (p.term, p.vote, p.leader) = (2, Some(3), None)).expect("sound");
    refused(world.step(2, |p| p.vote = None), Check::VoteOnce);
}

#[test]
fn a_vote_for_a_lesser_log_or_for_who_does_not_stand_is_refused() {
    let mut world = World::led(&[1, 2, 3]);
    refused(world.step(2, |p| (p.term, p.vote, p.leader) = (2, Some(3), None)), Check::VoteCurrent);
    let mut world = World::led(&[1, 2, 3]);
    world.append(1, plain(1, 11)).expect("sound");
    world.replicate(1, 2).expect("sound");
    world.stand(3, 2).expect("sound");
    refused(world.step(2, |p| (p.term, p.vote, p.leader) = (2, Some(3), None)), Check::VoteCurrent);
    let mut world = World::led(&[1, 2, 3]);
    world.append(1, plain(1, 11)).expect("sound");
    world.stand(1, 2).expect("sound");
    world.step(2, |p| (p.term, p.vote, p.leader) = (2, Some(1), None)).expect("it has more");
}

#[test]
fn a_leader_without_the_votes_of_a_quorum_is_refused() {
    let leads = |p: &mut Peer| (p.role, p.leader) = (RoleKind::Leader, Some(3));
    let mut world = World::led(&[1, 2, 3]);
    world.stand(3, 2).expect("sound");
    refused(world.step(3, leads), Check::ElectionSafety);
    let mut world = World::led(&[1, 2, 3]);
    world.stand(3, 2).expect("sound");
    world.step(2, |p| (p.term, p.vote, p.leader) = (2, Some(3), None)).expect("sound");
    world.step(3, leads).expect("two of three");
}

#[test]
fn a_vote_given_twice_on_the_wire_is_refused_in_any_life() {
    let mut world = World::led(&[1, 2, 3]);
    let vote =
        |candidate| Promise::Vote { term: Term::new(2), candidate: ReplicaId::new(candidate) };
    world.stand(3, 2).expect("sound");
    world.step(2, |p| (p.term, p.vote, p.leader) = (2, Some(3), None)).expect("sound");
    world.says(2, vote(3)).expect("sound");
    world.says(2, vote(3)).expect("said again");
    refused(world.says(2, vote(1)), Check::VoteOnce);
}

#[test]
fn a_vote_of_a_term_that_is_over_is_refused() {
    let mut world = World::led(&[1, 2, 3]);
    let vote = |term| Promise::Vote { term: Term::new(term), candidate: ReplicaId::new(3) };
    world.stand(3, 2).expect("sound");
    world.step(2, |p| (p.term, p.vote, p.leader) = (2, Some(3), None)).expect("sound");
    world.step(2, |p| (p.term, p.vote, p.leader) = (4, None, None)).expect("sound");
    world.says(2, vote(2)).expect("it had given it, and the message is late");
    refused(world.says(2, vote(3)), Check::VoteOnce);
}

#[test]
fn a_commit_in_a_later_term_during_a_lease_is_refused() {
    let lead = |lease_until| {
        let mut world = World::led(&[1, 2, 3]);
        world.step(1, |p| p.lease_until = Some(lease_until)).expect("sound");
        world.elect(2, 2).expect("sound");
        world.replicate(2, 3).expect("sound");
        world.commit(2, 2)
    };
    lead(5).expect("the lease is over by then");
    refused(lead(1000), Check::LeaseSafety);
}

#[test]
fn a_lease_taken_after_a_later_terms_commit_is_refused() {
    let mut world = World::led(&[1, 2, 3]);
    world.elect(2, 2).expect("sound");
    world.replicate(2, 3).expect("sound");
    world.commit(2, 2).expect("sound");
    world.step(1, |p| p.lease_until = Some(1)).expect("it is over already");
    refused(world.step(1, |p| p.lease_until = Some(1000)), Check::LeaseSafety);
}

#[test]
fn a_crash_ends_a_lease() {
    let mut world = World::led(&[1, 2, 3]);
    world.step(1, |p| p.lease_until = Some(1000)).expect("sound");
    world.checker.crashed(NodeId::new(1));
    world.elect(2, 2).expect("sound");
    world.replicate(2, 3).expect("sound");
    world.commit(2, 2).expect("nobody serves from the lease");
}

#[test]
fn a_promise_forgotten_over_a_restart_is_refused() {
    let promising = || {
        let mut world = World::led(&[1, 2, 3]);
        world.stand(3, 2).expect("sound");
        world.step(2, |p| (p.term, p.vote, p.leader) = (2, Some(3), None)).expect("sound");
        let vote = Promise::Vote { term: Term::new(2), candidate: ReplicaId::new(3) };
        world.says(2, vote).expect("sound");
        let held = Promise::Held { index: LogIndex::new(1), term: Term::new(1) };
        world.says(2, held).expect("sound");
        world
    };
    promising().restart(2, |_| {}).expect("it remembers");
    refused(promising().restart(2, |p| (p.term, p.vote) = (1, None)), Check::Externalisation);
    refused(promising().restart(2, |p| p.vote = None), Check::Externalisation);
    refused(promising().restart(2, |p| p.truncate(0)), Check::Externalisation);
    refused(promising().restart(2, |p| p.role = RoleKind::Leader), Check::Externalisation);
}

#[test]
fn an_acknowledged_entry_may_be_missing_if_a_later_leader_replaced_it() {
    let mut world = World::led(&[1, 2, 3]);
    world.append(1, plain(1, 11)).expect("sound");
    world.replicate(1, 2).expect("sound");
    let held = Promise::Held { index: LogIndex::new(2), term: Term::new(1) };
    world.says(2, held).expect("sound");
    world.elect(3, 2).expect("sound");
    world.replicate(3, 2).expect("sound");
    world.restart(2, |_| {}).expect("sound");
}

#[test]
fn a_wiped_replica_must_say_so_and_abstain() {
    let wiped = |promises| {
        let mut world = World::led(&[1, 2, 3]);
        let held = Promise::Held { index: LogIndex::new(1), term: Term::new(1) };
        world.says(2, held).expect("sound");
        world.checker.wiped(NodeId::new(2));
        let seen = world.restart(2, |p| {
            *p = Peer { life: p.life, promises, ..Peer::new(2, &[1, 2, 3]) };
        });
        (world, seen)
    };
    refused(wiped(Promises::Kept).1, Check::PromiseLost);
    let (mut world, seen) = wiped(Promises::Lost);
    seen.expect("it says so");
    refused(world.step(2, |p| p.role = RoleKind::PreCandidate), Check::PromiseLost);
    let (mut world, _) = wiped(Promises::Lost);
    refused(world.step(2, |p| (p.term, p.vote) = (1, Some(3))), Check::PromiseLost);
    let (mut world, _) = wiped(Promises::Lost);
    let vote = Promise::Vote { term: Term::new(2), candidate: ReplicaId::new(3) };
    refused(world.says(2, vote), Check::PromiseLost);
}

/// What it voted before its log was found damaged may leave late, of every term; nothing may that it
/// votes after that.
#[test]
fn votes_that_were_cast_before_the_damage_may_leave_after_it() {
    let vote = |term, candidate| Promise::Vote {
        term: Term::new(term),
        candidate: ReplicaId::new(candidate),
    };
    let damaged = || {
        let mut world = World::led(&[1, 2, 3]);
        world.stand(3, 2).expect("sound");
        world.step(2, |p| (p.term, p.vote, p.leader) = (2, Some(3), None)).expect("sound");
        world.stand(1, 3).expect("sound");
        world.step(2, |p| (p.term, p.vote, p.leader) = (3, Some(1), None)).expect("sound");
        world.checker.forgets(GROUP, ReplicaId::new(2));
        world.step(2, |p| p.promises = Promises::Lost).expect("it says so");
        world
    };
    let mut world = damaged();
    world.says(2, vote(2, 3)).expect("it was held up");
    world.says(2, vote(3, 1)).expect("and so was this");
    refused(damaged().says(2, vote(3, 3)), Check::PromiseLost);
    refused(damaged().says(2, vote(4, 1)), Check::PromiseLost);
}

#[test]
fn taking_part_again_below_a_forgotten_term_is_refused() {
    let lost = |term| {
        let mut world = World::led(&[1, 2, 3]);
        world.stand(3, 3).expect("sound");
        world.step(2, |p| (p.term, p.vote, p.leader) = (3, Some(3), None)).expect("sound");
        world.says(2, Promise::Term(Term::new(3))).expect("sound");
        world
            .restart(2, |p| (p.term, p.vote, p.promises) = (1, None, Promises::Lost))
            .expect("it says so");
        world.step(2, |p| (p.term, p.promises) = (term, Promises::Kept))
    };
    refused(lost(2), Check::PromiseLost);
    lost(3).expect("the fence covers it");
}

#[test]
fn an_acknowledged_write_that_is_not_committed_is_refused() {
    let mut world = World::led(&[1, 2, 3]);
    world.checker.acknowledged(GROUP, LogIndex::new(1), Term::new(1)).expect("sound");
    let never = world.checker.acknowledged(GROUP, LogIndex::new(2), Term::new(1));
    refused(never, Check::AcknowledgedLost);
    let other = world.checker.acknowledged(GROUP, LogIndex::new(1), Term::new(2));
    refused(other, Check::AcknowledgedLost);
}

#[test]
fn a_fault_is_a_finding_unless_it_is_excused() {
    let fault = || Some(Fault::LogUnreadable { index: LogIndex::new(1) });
    let mut world = World::led(&[1, 2, 3]);
    refused(world.step(2, |p| p.fault = fault()), Check::UnexpectedFault);
    let mut world = World::led(&[1, 2, 3]);
    world.checker.excuse_fault(GROUP, ReplicaId::new(2));
    world.step(2, |p| p.fault = fault()).expect("excused");
}

#[test]
fn a_resurrected_entry_is_noticed_on_the_next_commit() {
    // The truncation of r1's tail never reached its disk, so the old tail is back.
    let mut world = World::led(&[1, 2, 3]);
    world.append(1, plain(1, 11)).expect("sound");
    let old = world.peer(1).log.clone();
    world.elect(2, 2).expect("sound");
    world.replicate(2, 3).expect("sound");
    world.commit(2, 2).expect("sound");
    world.replicate(2, 1).expect("sound");
    let held = Promise::Held { index: LogIndex::new(2), term: Term::new(2) };
    world.says(1, held).expect("sound");
    refused(world.restart(1, |p| p.log = old), Check::Externalisation);
}

#[test]
fn promising_what_is_not_on_disk_is_refused() {
    let mut world = World::led(&[1, 2, 3]);
    world.append(1, plain(1, 11)).expect("sound");
    world.replicate(1, 2).expect("sound");
    world.peer(2).durable = 1;
    let held = Promise::Held { index: LogIndex::new(2), term: Term::new(1) };
    refused(world.says(2, held), Check::Externalisation);
    let mut world = World::led(&[1, 2, 3]);
    refused(world.says(2, Promise::Term(Term::new(2))), Check::Externalisation);
}
