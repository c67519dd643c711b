//! Why a change of voters is safe: whoever decides in one configuration shares a voter with
//! whoever decides in the next (thesis 4.1 for single steps, 4.3 for joint consensus). Shown for
//! every pair of voter sets of up to five out of six replicas, with the library's own arithmetic
//! as the judge of what a quorum is.

use raft_core::{Joint, ReplicaId, Verdict, VoteResult};

const REPLICAS: u64 = 6;
const VOTERS_MAX: u32 = 5;

/// A set of replicas, one bit for each.
type Set = u64;

/// All sets of replicas that win a vote, one bit for each set.
type Quorums = u64;

fn members(set: Set) -> Vec<ReplicaId> {
    (0..REPLICAS).filter(|replica| set >> replica & 1 == 1).map(ReplicaId::new).collect()
}

fn all_voter_sets() -> impl Iterator<Item = Set> + Clone {
    (1..1 << REPLICAS).filter(|set: &Set| set.count_ones() <= VOTERS_MAX)
}

/// The sets that win when they grant and nobody else answers.
fn quorums(incoming: Set, outgoing: Set) -> Quorums {
    let (incoming, outgoing) = (members(incoming), members(outgoing));
    let configuration = Joint::new(&incoming, &outgoing);
    let wins = |set: Set| {
        let grants = (0..REPLICAS)
            .filter(move |replica| set >> replica & 1 == 1)
            .map(|replica| (ReplicaId::new(replica), Verdict::Granted));
        configuration.vote_result(grants) == VoteResult::Won
    };
    (0..1 << REPLICAS).filter(|set| wins(*set)).map(|set| 1 << set).sum()
}

fn simple(voters: Set) -> Quorums {
    quorums(voters, 0)
}

fn each(quorums: Quorums) -> impl Iterator<Item = Set> {
    (0..1 << REPLICAS).filter(move |set| quorums >> set & 1 == 1)
}

/// Two quorums that could decide without each other, if there are any.
fn disjoint(one: Quorums, other: Quorums) -> Option<(Set, Set)> {
    each(one).find_map(|a| each(other).find(|b| a & b == 0).map(|b| (a, b)))
}

#[test]
fn every_configuration_has_a_quorum_and_all_voters_are_one() {
    for outgoing in all_voter_sets() {
        assert_ne!(simple(outgoing), 0);
        for incoming in all_voter_sets() {
            let everybody = incoming | outgoing;
            assert!(each(quorums(incoming, outgoing)).any(|quorum| quorum == everybody));
        }
    }
}

#[test]
fn a_joint_quorum_meets_every_quorum_before_during_and_after_the_change() {
    let mut pairs = 0;
    for outgoing in all_voter_sets() {
        for incoming in all_voter_sets() {
            let joint = quorums(incoming, outgoing);
            assert_eq!(disjoint(simple(outgoing), joint), None, "{outgoing:b} -> {incoming:b}");
            assert_eq!(disjoint(joint, joint), None, "{outgoing:b} -> {incoming:b}");
            assert_eq!(disjoint(joint, simple(incoming)), None, "{outgoing:b} -> {incoming:b}");
            pairs += 1;
        }
    }
    assert_eq!(pairs, 62 * 62);
}

#[test]
fn quorums_of_voter_sets_that_differ_by_at_most_one_meet() {
    for before in all_voter_sets() {
        for after in all_voter_sets() {
            if (before ^ after).count_ones() <= 1 {
                assert_eq!(disjoint(simple(before), simple(after)), None, "{before:b} {after:b}");
            }
        }
    }
}

/// The reason for joint consensus: without it, both of these could have a leader in one term.
#[test]
fn quorums_of_voter_sets_two_steps_apart_need_not_meet() {
    let three = 0b000_111;
    let five = 0b011_111;
    assert_eq!(disjoint(simple(three), simple(five)), Some((0b000_011, 0b011_100)));
    // Exchanging one voter for another is two steps as well.
    let exchanged = 0b001_110;
    assert_eq!(disjoint(simple(three), simple(exchanged)), Some((0b000_011, 0b001_100)));
}

/// The reason for counting in each half: a majority of all voters together is too little.
#[test]
fn a_majority_of_both_halves_together_need_not_meet_the_outgoing_quorums() {
    let outgoing = 0b000_111;
    let incoming = 0b011_100;
    let together = simple(outgoing | incoming);
    assert_eq!(disjoint(simple(outgoing), together), Some((0b000_011, 0b011_100)));
    assert_eq!(disjoint(simple(outgoing), quorums(incoming, outgoing)), None);
}
