//! Joint memberships: two majorities decide, somebody can always be elected, and it ends
//! (thesis 4.3).

use std::sync::Arc;
use std::time::Duration;

use raft_core::{Base, MemberChange, ReplicaId, Standing};

use super::{FIVE, FOUR, Set, change, changes, leader_of_five, propose, set, voters_of_five};
use crate::bench::*;
use crate::fleet::Fleet;

fn held_by_majority(voters: Set, held: &[u64; 5]) -> u64 {
    let mut marks: Vec<u64> = set(voters).map(|id| held[id.get() as usize - 1]).collect();
    marks.sort_unstable_by(|a, b| b.cmp(a));
    marks[marks.len() / 2]
}

/// From every voter set with the leader in it to every other: the entry that says so stands in
/// the middle of a batch, and acknowledgements come in several orders. What is committed is what
/// majorities of both sets hold, from that entry on and for what stands before it.
#[test]
fn commit_needs_both_halves_from_the_membership_entry_on() {
    let orders = [[2, 3, 4, 5], [5, 4, 3, 2], [3, 5, 2, 4], [4, 2, 5, 3]];
    for before in (1..0b11111u32).filter(|before| before & 1 == 1) {
        for after in (1..0b11111u32).filter(|after| *after != before) {
            for order in orders {
                let mut bench = leader_of_five(before);
                propose(&mut bench, 1);
                assert_eq!(change(&mut bench, 2, &changes(before, after)), None);
                let joint = (before ^ after).count_ones() > 1;
                assert_eq!(bench.group.membership().is_joint(), joint);
                propose(&mut bench, 3);
                // Entries 2 to 4, of which 3 is the membership.
                let batch = bench.take();
                let mut held = [1u64; 5];
                let mut want = 1;
                let sent: Vec<_> =
                    order.map(|to| bench.append_for(ReplicaId::new(to)).expect("the batch")).into();
                for step in 0..5 {
                    if step == 2 {
                        bench.persisted(batch.seq);
                        held[0] = 4;
                    } else {
                        let at = if step > 2 { step - 1 } else { step };
                        bench.hear(ReplicaId::new(order[at]), accepted(&sent[at], 4));
                        held[order[at] as usize - 1] = 4;
                    }
                    let both = if joint && want < 3 {
                        held_by_majority(before, &held).min(held_by_majority(after, &held))
                    } else {
                        held_by_majority(after, &held)
                    };
                    want = want.max(both);
                    if want >= 3 {
                        // The joint membership is behind: the new voters decide alone.
                        want = want.max(held_by_majority(after, &held));
                    }
                    let shown = format!("{before:b} to {after:b}, {order:?}, held {held:?}");
                    assert_eq!(bench.commit(), want, "{shown}");
                    if !bench.group.is_leader() {
                        // It was voted out by a single step, and has handed over.
                        assert!(after & 1 == 0 && want >= 3, "{shown}");
                        break;
                    }
                }
            }
        }
    }
}

/// A replica that holds a joint membership and hears it is committed adds no second leave; one
/// that leads does. The leader is lost at every moment of the change, and everybody leads next.
#[test]
fn the_joint_membership_is_left_exactly_once() {
    for next in [TWO, THREE, FOUR, FIVE] {
        for messages in 0..40 {
            let mut fleet = Fleet::of(3);
            fleet.elect(ONE);
            fleet.add_learner(FOUR);
            fleet.add_learner(FIVE);
            fleet.live(Duration::from_millis(100));
            let swap = [
                MemberChange::Promote(FOUR),
                MemberChange::Promote(FIVE),
                MemberChange::Demote(TWO),
                MemberChange::Demote(THREE),
            ];
            fleet.change(ONE, &swap);
            assert!(fleet.group(ONE).membership().is_joint());
            let done = fleet.settle_for(messages);
            fleet.crash(ONE);
            fleet.stand_first(next);
            fleet.live(Duration::from_secs(3));
            fleet.works();
            fleet.restart(ONE);
            fleet.live(Duration::from_secs(2));
            fleet.works();
            let shape: Vec<bool> =
                fleet.memberships().iter().map(|membership| membership.is_joint()).collect();
            // Two learners came; then nothing happened, or one change and its end.
            let went_well = shape == [false; 2] || shape == [false, false, true, false];
            assert!(went_well, "{next} after {messages}: {shape:?}");
            if done {
                assert_eq!(shape.len(), 4);
                break;
            }
            assert!(messages < 39, "the change never ends");
        }
    }
}

/// In each joint membership of up to four voters a half, every voter of either half that has the
/// longest log is elected if all can speak.
#[test]
fn every_joint_membership_has_an_electable_voter() {
    for before in 1..0b11111u32 {
        for after in 1..0b11111u32 {
            if (before ^ after).count_ones() < 2 {
                continue;
            }
            let joint = voters_of_five(before).change(&changes(before, after)).unwrap();
            for candidate in set(before | after) {
                let mut start = start(candidate, &[1]);
                start.base = Base::first(voters_of_five(before));
                start.configs = vec![(index(1), Arc::new(joint.clone()))];
                let mut bench = Bench::new(start);
                let others: Vec<ReplicaId> =
                    set(before | after).filter(|other| *other != candidate).collect();
                bench.stand(&others);
            }
        }
    }
}

#[test]
fn a_demoted_leader_leads_to_the_end_of_the_change_and_not_beyond() {
    for swap in [
        vec![MemberChange::Demote(ONE)],
        vec![MemberChange::Demote(ONE), MemberChange::Promote(FOUR)],
    ] {
        let mut fleet = Fleet::of(3);
        fleet.elect(ONE);
        fleet.add_learner(FOUR);
        let change = fleet.change(ONE, &swap);
        assert!(fleet.group(ONE).is_leader(), "nobody else could finish it now");
        fleet.settle();
        assert!(fleet.is_committed(change));
        let next = fleet.leader().expect("it handed over at once");
        assert_ne!(next, ONE);
        fleet.works();
        fleet.live(Duration::from_secs(3));
        // A learner keeps its leader, does not stand, and follows on.
        assert_eq!(fleet.leader(), Some(next));
        fleet.agree();
        assert_eq!(fleet.group(ONE).status().standing, Some(Standing::Learner));
        let term = fleet.group(ONE).term();
        fleet.isolate(ONE);
        fleet.live(Duration::from_secs(3));
        assert_eq!(fleet.group(ONE).term(), term, "a learner only asks");
    }
}
