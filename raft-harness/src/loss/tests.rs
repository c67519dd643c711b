//! One loss at a time.

use raft_core::ReplicaId;

use super::*;

pub(super) fn voters(incoming: &[u64], outgoing: &[u64]) -> Voters {
    Voters { incoming: incoming.to_vec(), outgoing: outgoing.to_vec() }
}

/// Whom a group begins with.
pub(super) fn first(of: &[u64]) -> Named {
    Named { index: 0, term: None, term_before: 0, voters: voters(of, &[]) }
}

/// A membership at an index of a term, whose entry follows one of that term.
pub(super) fn at(index: u64, term: u64, incoming: &[u64], outgoing: &[u64]) -> Named {
    Named { index, term: Some(term), term_before: term, voters: voters(incoming, outgoing) }
}

fn held(replica: u64, last_term: u64, last_index: u64) -> Held {
    Held {
        group: 7,
        life: 1,
        replica,
        memberships: vec![first(&[1, 2, 3])],
        snapshot_index: 0,
        may_have_forgotten: true,
        is_damaged: false,
        last_term,
        last_index,
        loss_epoch: 0,
    }
}

/// The same, with memberships of its own.
fn knowing(memberships: &[Named], replica: u64, last_term: u64, last_index: u64) -> Held {
    Held { memberships: memberships.to_vec(), ..held(replica, last_term, last_index) }
}

fn of(groups: &[Held]) -> Vec<Report> {
    groups.iter().map(|held| Report { node: held.replica, groups: vec![held.clone()] }).collect()
}

/// Where each goes on from, or nothing for one that catches up.
fn ends(all: &[Held]) -> Vec<Option<(u64, u64)>> {
    let reports = of(all);
    let ends = all.iter().map(|own| match judge(own, &reports) {
        Verdict::Accepts { end, .. } => Some((end.term, end.index)),
        Verdict::CatchesUp => None,
        Verdict::Refused(why) => panic!("{why}"),
    });
    ends.collect()
}

fn refused(own: &Held, words: &[Held], why: &str) {
    match judge(own, &of(words)) {
        Verdict::Refused(told) => assert!(told.contains(why), "{told}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn those_that_hold_most_go_on_and_are_a_majority() {
    let all = [held(1, 3, 8), held(2, 4, 5), held(3, 3, 9)];
    assert_eq!(ends(&all), [None, Some((4, 5)), Some((3, 9))]);
}

#[test]
fn without_the_word_of_all_nothing_is_accepted() {
    let all = [held(1, 3, 8), held(2, 4, 5), held(3, 3, 9)];
    refused(&all[1], &all[..2], "no report of replica 3");
    refused(&all[1], &[], "no report of replica 2");
    let mut know = all.clone();
    know[1].may_have_forgotten = false;
    know[2].may_have_forgotten = false;
    refused(&know[0], &know, "a majority remembers everything");
    let mut moved = all.clone();
    moved[1].last_index = 6;
    refused(&moved[1], &all, "has changed");
    let mut reborn = all.clone();
    reborn[2].life = 2;
    refused(&all[1], &reborn, "no report of replica 3");
    // Replica 4 may hold what is not certain by the others' word.
    let mut grown = all.clone();
    let promoted = at(5, 4, &[1, 2, 3, 4], &[]);
    grown[1].memberships.push(promoted.clone());
    grown[2] = knowing(&[first(&[1, 2, 3]), promoted], 3, 4, 5);
    refused(&all[0], &grown, "no report of replica 4");
    // An older report of a node, beside the one it made since.
    let mut twice = all.to_vec();
    twice.push(held(3, 3, 7));
    refused(&all[1], &twice, "two reports of replica 3 differ");
    twice[3] = twice[2].clone();
    assert!(matches!(judge(&all[1], &of(&twice)), Verdict::Accepts { cut: None, .. }));
}

/// Its own word alone would be that of all whom it knows of.
#[test]
fn a_replica_that_joined_and_knows_no_voters_accepts_nothing() {
    let node = NodeId::new(9);
    let spec = GroupSpec {
        strategy: Some(crate::persistence::Strategy::MemFirst),
        ..GroupSpec::joining(GroupId::new(7), ReplicaId::new(4), node)
    };
    let log = RecoveredGroup { spec: spec.encode(), ..RecoveredGroup::default() };
    let logs = BTreeMap::from([(spec.group, log)]);
    let groups = super::held(node, false, &logs, |_, _| Ok(true)).unwrap();
    assert!(groups[0].may_have_forgotten && groups[0].memberships.is_empty(), "{groups:?}");
    let own = groups[0].clone();
    let verdict = judge(&own, &[Report { node: node.get(), groups }]);
    assert!(matches!(verdict, Verdict::Refused(_)), "{verdict:?}");
}

/// Its log is whole, and begins behind a snapshot that nobody can read: a start would make it one that
/// never votes, so a group that counted on it would stand still for good.
#[test]
fn a_replica_without_a_state_goes_on_with_nobody() {
    let node = NodeId::new(1);
    let spec = GroupSpec {
        strategy: Some(crate::persistence::Strategy::MemFirst),
        ..GroupSpec::on_nodes(GroupId::new(7), [1, 2, 3].map(NodeId::new))
    };
    let mut log = RecoveredGroup {
        spec: spec.encode(),
        last_index: LogIndex::new(9),
        term_runs: vec![(LogIndex::new(6), raft_core::Term::new(3))],
        ..RecoveredGroup::default()
    };
    log.base.index = LogIndex::new(5);
    let logs = BTreeMap::from([(spec.group, log)]);
    let of = |has_state: bool| {
        let held = super::held(node, false, &logs, |_, _| Ok(has_state)).unwrap();
        Held { memberships: vec![first(&[1, 2, 3])], life: 1, ..held[0].clone() }
    };
    let others = [held(2, 3, 8), held(3, 3, 7)];
    let [whole, stateless] = [true, false].map(|has_state| {
        let own = of(has_state);
        let all = [own.clone(), others[0].clone(), others[1].clone()];
        (own.is_damaged, ends(&all))
    });
    assert_eq!(whole, (false, vec![Some((3, 9)), Some((3, 8)), None]));
    assert_eq!(stateless, (true, vec![None, Some((3, 8)), Some((3, 7))]));
    let read = super::held(node, false, &logs, |_, _| Err(io::ErrorKind::Other.into()));
    assert!(read.is_err(), "what cannot be looked at is not judged");
}

/// The others are too few to lead it, and it is too few to lead them.
#[test]
fn one_that_remembers_goes_on_with_the_others_or_catches_up_with_them() {
    let mut all = [held(1, 3, 8), held(2, 3, 5), held(3, 3, 9)];
    all[0].may_have_forgotten = false;
    assert_eq!(ends(&all), [Some((3, 8)), None, Some((3, 9))]);
    all[0].last_index = 4;
    assert_eq!(ends(&all), [None, Some((3, 5)), Some((3, 9))]);
    let promises = [0, 1].map(|at| {
        let write = remembered(&all[at], &judge(&all[at], &of(&all)), true);
        write.and_then(|write| write.promise).map(|record| record.promise)
    });
    assert_eq!(promises, [Some(Promise::Lost), Some(Promise::Kept)]);
    assert_eq!(remembered(&all[0], &Verdict::CatchesUp, false), None, "nothing was changed");
}

/// The leader has the removal of replica 3 on disk, and nobody else has.
#[test]
fn a_removal_that_was_not_committed_is_taken_back() {
    let removal = [first(&[1, 2, 3]), at(8, 3, &[1, 2], &[])];
    let mut all = [knowing(&removal, 1, 3, 9), held(2, 3, 6), held(3, 3, 7)];
    assert_eq!(ends(&all), [Some((3, 7)), None, Some((3, 7))]);
    let Some(write) = remembered(&all[0], &judge(&all[0], &of(&all)), true) else { panic!() };
    assert_eq!(write.truncate_from, Some(LogIndex::new(8)));
    assert_eq!(write.promise.map(|record| record.promise), Some(Promise::Kept));
    let Some(write) = remembered(&all[1], &judge(&all[1], &of(&all)), true) else { panic!() };
    assert_eq!(
        (write.truncate_from, write.promise.map(|it| it.promise)),
        (None, Some(Promise::Lost))
    );
    // Two remember everything, and elect nobody: the one needs replica 2, and the other has less.
    all[0].may_have_forgotten = false;
    all[2].may_have_forgotten = false;
    assert_eq!(ends(&all), [Some((3, 7)), None, Some((3, 7))]);
}

/// Replica 5 was replaced by the learner 6 while 4 was away.
#[test]
fn who_is_named_by_older_words_alone_is_not_asked() {
    let (five, four) = (first(&[1, 2, 3, 4, 5]), at(8, 3, &[1, 2, 3, 4], &[]));
    let new = [five.clone(), four];
    let mut all = vec![
        knowing(&new, 1, 3, 9),
        knowing(&new, 2, 3, 10),
        knowing(&new, 3, 3, 8),
        knowing(&[five], 4, 3, 7),
    ];
    assert_eq!(ends(&all), [Some((3, 9)), Some((3, 10)), Some((3, 8)), None]);
    // The learner has not learned of anything yet.
    all.push(knowing(&[], 6, 0, 0));
    assert_eq!(ends(&all), [Some((3, 9)), Some((3, 10)), Some((3, 8)), None, None]);
    refused(&all[0], &all[..3], "no report of replica 4");
    // Without the removal on a majority of those that are left it is not certain.
    all[1] = knowing(&[first(&[1, 2, 3, 4, 5])], 2, 3, 7);
    refused(&all[0], &all, "no report of replica 5");
    all.push(knowing(&[first(&[1, 2, 3, 4, 5])], 5, 3, 6));
    assert_eq!(ends(&all), [None, Some((3, 7)), Some((3, 7)), Some((3, 7)), None, None]);
}

/// A deposed leader would promote replica 4; what counts is what the newest log says.
#[test]
fn a_larger_membership_in_an_older_log_lets_nobody_go_on_without_the_newest_entry() {
    let promotion = [first(&[1, 2, 3]), at(9, 1, &[1, 2, 3, 4], &[])];
    let all = [knowing(&promotion, 1, 1, 10), held(2, 2, 12), held(3, 2, 11)];
    assert_eq!(ends(&all), [None, Some((2, 12)), Some((2, 11))]);
}

/// With the learner's vote counted three would go on, and two of them would do without the leader.
#[test]
fn a_promotion_that_was_not_committed_lets_nobody_go_on_without_what_was_before_it() {
    let promotion = [first(&[1, 2, 3]), at(9, 3, &[1, 2, 3, 4], &[])];
    let all = [knowing(&promotion, 1, 3, 9), held(2, 3, 6), held(3, 3, 7)];
    assert_eq!(ends(&all), [Some((3, 8)), None, Some((3, 7))]);
}

#[test]
fn a_successor_with_an_empty_log_keeps_nobody_from_going_on() {
    let all = [held(1, 3, 8), held(2, 4, 5), held(3, 3, 9), knowing(&[], 4, 0, 0)];
    assert_eq!(ends(&all), [None, Some((4, 5)), Some((3, 9)), None]);
}

#[test]
fn a_joint_membership_goes_on_with_a_majority_of_both_halves_or_is_taken_back() {
    let joint = [first(&[1, 2, 3]), at(8, 3, &[2, 3, 4], &[1, 2, 3])];
    let both = [2, 3, 4].map(|replica| knowing(&joint, replica, 3, 8 + replica));
    let mut all = vec![knowing(&joint, 1, 3, 20)];
    all.extend(both);
    // Both 2 and 3 would be a majority of either half, without the one that holds most.
    assert_eq!(ends(&all), [Some((3, 20)), None, Some((3, 11)), Some((3, 12))]);
    // On its way to a majority of the new half it was not committed.
    all[2] = held(3, 3, 7);
    all[3] = knowing(&[], 4, 0, 0);
    assert_eq!(ends(&all), [None, Some((3, 7)), Some((3, 7)), None]);
}

/// Logs that begin behind a snapshot do not know the terms before it.
#[test]
fn a_membership_that_a_snapshot_covers_is_held() {
    let moved = voters(&[1, 2, 4], &[]);
    let base = Named { index: 5, term: None, term_before: 0, voters: moved };
    let behind = Held { snapshot_index: 9, ..knowing(&[base], 4, 3, 12) };
    let whole = knowing(&[first(&[1, 2, 3]), at(5, 2, &[1, 2, 4], &[])], 1, 3, 11);
    let far = knowing(&[first(&[1, 2, 3])], 2, 2, 4);
    let all = [behind, whole, far, held(3, 2, 4)];
    assert_eq!(ends(&all), [Some((3, 12)), Some((3, 11)), None, None]);
}

/// A learner that was about to come decides nothing, committed or not.
#[test]
fn a_learner_that_comes_changes_nothing_for_those_who_vote() {
    let learner = [first(&[1, 2, 3]), at(9, 3, &[1, 2, 3], &[])];
    let mut all = [knowing(&learner, 1, 3, 10), held(2, 3, 6), held(3, 3, 7)];
    assert_eq!(ends(&all), [Some((3, 10)), None, Some((3, 7))]);
    all[1].is_damaged = true;
    assert_eq!(ends(&all), [Some((3, 10)), None, Some((3, 7))]);
}

#[test]
fn what_a_damaged_log_held_is_not_guessed() {
    let promotion = [first(&[1, 2, 3]), at(9, 3, &[1, 2, 3, 4], &[])];
    let mut all =
        vec![knowing(&promotion, 1, 3, 9), held(2, 3, 6), held(3, 3, 7), knowing(&[], 4, 3, 7)];
    all[1].is_damaged = true;
    assert_eq!(ends(&all), [Some((3, 8)), None, Some((3, 7)), None]);
    all[3].is_damaged = true;
    refused(&all[0], &all, "entry 9");
    let mut all = [held(1, 3, 8), held(2, 4, 5), held(3, 3, 9)];
    all[0].is_damaged = true;
    all[1].is_damaged = true;
    refused(&all[2], &all, "too many replicas are damaged");
}
