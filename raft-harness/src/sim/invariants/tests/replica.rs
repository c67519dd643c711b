//! One replica against its former self: marks, log, commit, rest.

use super::*;

#[test]
fn marks_out_of_order_are_refused() {
    let mut world = World::led(&[1, 2, 3]);
    refused(world.step(2, |p| p.durable = 9), Check::MarksOrdered);
    let mut world = World::led(&[1, 2, 3]);
    refused(world.step(2, |p| p.commit = 9), Check::MarksOrdered);
    let mut world = World::led(&[1, 2, 3]);
    let applied =
        world.checker.applied(GROUP, ReplicaId::new(3), LogIndex::new(1), Term::new(1), 1000);
    refused(applied, Check::MarksOrdered);
}

#[test]
fn marks_that_fall_are_refused() {
    for lie in [(|p| p.term = 0) as fn(&mut Peer), |p| p.commit = 0, |p| p.durable = 0] {
        let mut world = World::led(&[1, 2, 3]);
        world.commit(2, 1).expect("sound");
        let seen = world.step(2, |p| {
            p.leader = None;
            lie(p);
        });
        // A log of term 1 in term 0 is found first.
        let check = seen.expect_err("a mark fell").check;
        assert!([Check::MarksMonotone, Check::EntryTerms].contains(&check), "{check:?}");
    }
}

#[test]
fn terms_that_fall_along_a_log_are_refused() {
    let mut world = World::led(&[1, 2, 3]);
    world.elect(2, 2).expect("sound");
    refused(world.append(2, plain(1, 5)), Check::EntryTerms);
    let mut world = World::led(&[1, 2, 3]);
    refused(world.append(1, plain(2, 5)), Check::EntryTerms);
}

#[test]
fn a_leader_that_truncates_is_refused() {
    let mut world = World::led(&[1, 2, 3]);
    world.append(1, plain(1, 11)).expect("sound");
    refused(world.step(1, |p| p.truncate(1)), Check::Truncation);
}

#[test]
fn a_follower_that_truncates_without_a_conflict_is_refused() {
    let mut world = World::led(&[1, 2, 3]);
    world.append(1, plain(1, 11)).expect("sound");
    world.replicate(1, 2).expect("sound");
    let seen = world.step(2, |p| {
        p.truncate(1);
        (p.term, p.vote, p.leader) = (2, None, None);
    });
    refused(seen, Check::Truncation);
}

#[test]
fn a_truncation_of_what_the_group_has_committed_is_refused() {
    let mut world = World::led(&[1, 2, 3]);
    world.append(1, plain(1, 11)).expect("sound");
    world.replicate(1, 2).expect("sound");
    world.commit(1, 2).expect("sound");
    // r3 lacks entry 2, wins nevertheless, and r2 follows it. Only r2 is looked at.
    let stolen = plain(2, 2000);
    world.peer(3).log.entries.push(stolen);
    world
        .checker
        .groups
        .get_mut(&GROUP)
        .expect("known")
        .record
        .leaders
        .insert(Term::new(2), ReplicaId::new(2));
    let seen = world.step(2, |p| {
        p.truncate(1);
        p.log.entries.push(stolen);
        (p.term, p.vote, p.leader, p.durable) = (2, None, None, 2);
    });
    refused(seen, Check::Truncation);
}

#[test]
fn a_leader_that_commits_an_earlier_terms_entry_by_counting_is_refused() {
    let mut world = World::new(&[1, 2, 3]);
    world.elect(1, 1).expect("sound");
    world.replicate(1, 2).expect("sound");
    world.elect(2, 2).expect("sound");
    // The no-op of term 2 is not replicated; only entry 1 of term 1 is on a majority.
    refused(world.commit(2, 1), Check::CommitOwnTerm);
}

#[test]
fn a_follower_that_commits_beyond_what_it_verified_is_refused() {
    let mut world = World::led(&[1, 2, 3]);
    world.append(1, plain(1, 11)).expect("sound");
    world.replicate(1, 2).expect("sound");
    world.commit(1, 2).expect("sound");
    world.step(2, |p| p.verified = 1).expect("sound");
    refused(world.commit(2, 2), Check::CommitVerified);
}

#[test]
fn a_sleeper_that_waits_for_something_is_refused() {
    let asleep = |p: &mut Peer| (p.activity, p.next_deadline) = (Activity::Quiesced, None);
    let mut world = World::led(&[1, 2, 3]);
    world.step(1, asleep).expect("everything is committed");
    let mut world = World::led(&[1, 2, 3]);
    world.append(1, plain(1, 11)).expect("sound");
    refused(world.step(1, asleep), Check::Deadline);
    let mut world = World::led(&[1, 2, 3]);
    let seen = world.step(2, |p| {
        asleep(p);
        p.in_flight = 1;
    });
    refused(seen, Check::Deadline);
    let mut world = World::led(&[1, 2, 3]);
    refused(world.step(2, |p| p.activity = Activity::Quiesced), Check::Deadline);
}

#[test]
fn a_follower_that_commits_first_is_refused() {
    let mut world = World::led(&[1, 2, 3]);
    world.append(1, plain(1, 11)).expect("sound");
    world.replicate(1, 2).expect("sound");
    refused(world.commit(2, 2), Check::DurableQuorum);
}

#[test]
fn a_voter_awake_without_a_deadline_is_refused() {
    let mut world = World::led(&[1, 2, 3]);
    refused(world.step(2, |p| p.next_deadline = None), Check::Deadline);
}
