//! A group against its history: leaders, logs, commits, states.

use super::*;

#[test]
fn an_honest_history_passes() -> Seen {
    let mut world = World::led(&[1, 2, 3]);
    world.commit(2, 1)?;
    world.append(1, plain(1, 11))?;
    world.replicate(1, 2)?;
    world.commit(1, 2)?;
    world.commit(2, 2)?;
    // An uncommitted tail that the next leader replaces.
    world.append(1, plain(1, 12))?;
    world.append(1, plain(1, 13))?;
    world.elect(2, 2)?;
    world.replicate(2, 3)?;
    world.commit(2, 3)?;
    world.replicate(2, 1)?;
    world.commit(1, 3)?;
    for index in 1..=3 {
        let entry = world.peers[0].log.entry(LogIndex::new(index)).expect("there");
        for id in 1..=2 {
            let index = LogIndex::new(index);
            world.checker.applied(GROUP, ReplicaId::new(id), index, entry.term, entry.hash)?;
            world.checker.digest(GROUP, ReplicaId::new(id), index, index.get() * 31)?;
        }
    }
    world.checker.acknowledged(GROUP, LogIndex::new(2), Term::new(1))?;
    world.step(1, |p| p.snapshot(2))?;
    world.step(1, |p| p.snapshot(3))?;
    world.restart(1, |_| {})?;
    world.commit(3, 3)?;
    world.checker.sweep(world.peers.iter().map(Peer::view))?;
    world.checker.settled(world.peers.iter().map(Peer::view))?;
    assert!(world.checker.steps() > 20);
    assert_eq!(world.checker.committed(GROUP), LogIndex::new(3));
    Ok(())
}

#[test]
fn two_leaders_of_one_term_are_refused_even_apart_in_time() {
    let mut world = World::led(&[1, 2, 3]);
    world
        .step(1, |p| (p.role, p.term, p.vote, p.leader) = (RoleKind::Follower, 2, None, None))
        .expect("sound");
    world.step(3, |p| p.role = RoleKind::Candidate).expect("sound");
    refused(world.step(3, |p| p.role = RoleKind::Leader), Check::ElectionSafety);
    let mut world = World::led(&[1, 2, 3]);
    refused(world.step(3, |p| p.leader = Some(2)), Check::ElectionSafety);
}

#[test]
fn logs_that_do_not_match_are_refused() {
    // The same place and term, another payload.
    let mut world = World::led(&[1, 2, 3]);
    world.append(1, plain(1, 11)).expect("sound");
    refused(world.append(2, plain(1, 12)), Check::LogMatching);
    // The same entry after another predecessor.
    let mut world = World::new(&[1, 2, 3]);
    world.elect(1, 1).expect("sound");
    world.elect(2, 2).expect("sound");
    world.append(2, plain(2, 21)).expect("sound");
    world
        .step(1, |p| (p.role, p.term, p.vote, p.leader) = (RoleKind::Follower, 2, None, None))
        .expect("sound");
    refused(world.append(1, plain(2, 21)), Check::LogMatching);
    // An entry its term's leader never had.
    let mut world = World::led(&[1, 2, 3]);
    refused(world.append(2, plain(1, 12)), Check::LogMatching);
}

#[test]
fn a_log_rewritten_in_place_is_found_by_the_sweep() {
    let mut world = World::led(&[1, 2, 3]);
    world.append(1, plain(1, 11)).expect("sound");
    world.replicate(1, 2).expect("sound");
    world.peer(2).log.entries[0].hash += 1;
    world.see(2).expect("the end looks the same");
    refused(world.checker.sweep(world.peers.iter().map(Peer::view)), Check::LogMatching);
}

#[test]
fn a_leader_without_a_committed_entry_is_refused() {
    let mut world = World::led(&[1, 2, 3]);
    world.append(1, plain(1, 11)).expect("sound");
    world.replicate(1, 2).expect("sound");
    world.commit(1, 2).expect("sound");
    refused(world.elect(3, 2), Check::LeaderCompleteness);
}

#[test]
fn a_late_winner_of_an_old_term_owes_only_what_was_committed_before_it() {
    let mut world = World::led(&[1, 2, 3]);
    world
        .step(3, |p| (p.term, p.vote, p.role, p.leader) = (2, Some(3), RoleKind::Candidate, None))
        .expect("sound");
    world.elect(2, 3).expect("sound");
    world.replicate(2, 1).expect("sound");
    world.commit(2, 2).expect("sound");
    world.voted_on_paper(3, 2);
    world.step(3, |p| (p.role, p.leader) = (RoleKind::Leader, Some(3))).expect("late but sound");
}

#[test]
fn applying_something_else_is_refused() {
    let apply = |index, term, hash| {
        let mut world = World::led(&[1, 2, 3]);
        world.append(1, plain(1, 11)).expect("sound");
        world.replicate(1, 2).expect("sound");
        world.commit(1, 2).expect("sound");
        world.checker.applied(GROUP, ReplicaId::new(1), LogIndex::new(1), Term::new(1), 1000)?;
        world.checker.applied(GROUP, ReplicaId::new(1), LogIndex::new(index), Term::new(term), hash)
    };
    apply(2, 1, 11).expect("sound");
    refused(apply(2, 1, 12), Check::StateMachineSafety);
    refused(apply(2, 2, 11), Check::StateMachineSafety);
    // Twice.
    refused(apply(1, 1, 1000), Check::StateMachineSafety);
}

#[test]
fn skipping_an_entry_and_installing_an_uncommitted_snapshot_are_refused() {
    let mut world = World::led(&[1, 2, 3]);
    for hash in 11..=12 {
        world.append(1, plain(1, hash)).expect("sound");
    }
    world.replicate(1, 2).expect("sound");
    world.commit(1, 3).expect("sound");
    let r1 = ReplicaId::new(1);
    world.checker.installed(GROUP, r1, LogIndex::new(1), Term::new(1)).expect("sound");
    let skipped = world.checker.applied(GROUP, r1, LogIndex::new(3), Term::new(1), 12);
    refused(skipped, Check::StateMachineSafety);
    let early = world.checker.installed(GROUP, r1, LogIndex::new(4), Term::new(1));
    refused(early, Check::StateMachineSafety);
}

#[test]
fn states_that_differ_after_the_same_entry_are_refused() {
    let mut world = World::led(&[1, 2, 3]);
    let at = LogIndex::new(1);
    world.checker.digest(GROUP, ReplicaId::new(1), at, 5).expect("sound");
    world.checker.digest(GROUP, ReplicaId::new(2), at, 5).expect("sound");
    let other = world.checker.digest(GROUP, ReplicaId::new(3), at, 6);
    refused(other, Check::StateMachineSafety);
}

#[test]
fn a_commit_on_less_than_a_durable_quorum_is_refused() {
    let mut world = World::led(&[1, 2, 3]);
    world.append(1, plain(1, 11)).expect("sound");
    refused(world.commit(1, 2), Check::DurableQuorum);
    // In memory everywhere, on disk nowhere else.
    let mut world = World::led(&[1, 2, 3]);
    world.append(1, plain(1, 11)).expect("sound");
    for id in 2..=3 {
        world.replicate(1, id).expect("sound");
        world.peer(id).durable = 1;
    }
    refused(world.commit(1, 2), Check::DurableQuorum);
}

#[test]
fn a_joint_commit_without_the_outgoing_half_is_refused() {
    let mut world = World::led(&[1, 2, 3]);
    for id in 4..=5 {
        world.peers.push(Peer::new(id, &[1, 2, 3]));
        world.see(id).expect("sound");
    }
    world.reconfigure(1, &[1, 4, 5], &[1, 2, 3]).expect("sound");
    for id in [4, 5] {
        world.replicate(1, id).expect("sound");
    }
    // Three of the five have it, one of the outgoing three. In the step that leaves, too.
    world.peer(1).commit = 2;
    refused(world.reconfigure(1, &[1, 4, 5], &[]), Check::DurableQuorum);
}

#[test]
fn a_snapshot_of_what_nobody_committed_is_refused() {
    let mut world = World::led(&[1, 2, 3]);
    let seen = world.step(3, |p| {
        p.log = Log { base: 5, base_term: 1, entries: vec![] };
        (p.commit, p.durable, p.verified) = (5, 5, 5);
    });
    refused(seen, Check::CommittedForever);
}

#[test]
fn a_replica_that_ends_without_a_committed_entry_is_refused() {
    let world = World::led(&[1, 2, 3]);
    // r2 and r3 have not heard of the commit.
    let settled = world.checker.settled(world.peers.iter().map(Peer::view));
    refused(settled, Check::AcknowledgedLost);
}

#[test]
fn a_committed_entry_that_changes_is_refused() {
    let mut world = World::led(&[1, 2, 3]);
    world.append(1, plain(1, 11)).expect("sound");
    world.replicate(1, 2).expect("sound");
    world.commit(1, 2).expect("sound");
    // r3 never had entry 2, so nothing is truncated when it takes another one and commits it.
    world
        .checker
        .groups
        .get_mut(&GROUP)
        .expect("known")
        .record
        .leaders
        .insert(Term::new(2), ReplicaId::new(3));
    world
        .step(3, |p| {
            p.log.entries.push(plain(2, 2000));
            (p.term, p.vote, p.leader, p.durable, p.verified) = (2, None, None, 2, 2);
        })
        .expect("not committed yet");
    refused(world.commit(3, 2), Check::CommittedForever);
}
