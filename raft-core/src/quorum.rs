//! Majority and joint arithmetic (paper, section 5.2; thesis 4.3).
//!
//! A configuration is one set of voters or, while it changes, two: the incoming and the outgoing
//! half, and nothing is decided without a majority of each. All that a group decides by counting
//! is decided here: votes, commits, confirmed reads, who still reaches whom.
//!
//! What must stay true: a voter counts once in each half it belongs to, however often the caller
//! names it; a voter the caller knows nothing of has reached nothing, so that a gap in what is
//! known can only delay a decision; nothing is allocated.

use crate::id::{LogIndex, ReplicaId};
use crate::message::Verdict;

/// The most voters a half may have. Whoever makes configurations refuses larger ones; here a
/// larger half simply never decides.
pub const MEMBERS_MAX: usize = 64;

/// Halves up to this size, all but exotic ones, keep their scratch space within a cache line.
const MEMBERS_USUAL: usize = 8;

/// How many of `voters` make a majority. Two majorities always share a member.
pub const fn majority(voters: usize) -> usize {
    voters / 2 + 1
}

/// The outcome of a vote.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum VoteResult {
    /// A majority granted.
    Won,
    /// A majority can no longer grant.
    Lost,
    /// Both are still possible.
    Pending,
}

/// Judges a vote among `voters`, of whom some granted and some refused.
///
/// Nobody wins a vote among no voters. That an empty half of a joint configuration objects to
/// nothing is the business of [`Half`].
pub const fn vote_result(voters: usize, granted: usize, refused: usize) -> VoteResult {
    if granted >= majority(voters) {
        VoteResult::Won
    } else if voters.saturating_sub(refused) < majority(voters) {
        VoteResult::Lost
    } else {
        VoteResult::Pending
    }
}

/// The largest value that a majority has reached. `reached` may be reordered.
///
/// With no voters nothing is reached: zero.
///
/// Groups are small, and a leader asks this at every acknowledgement: up to five values are
/// compared in place, more are partitioned in linear time.
#[inline]
pub fn majority_reached<T: Copy + Ord + Default>(reached: &mut [T]) -> T {
    match *reached {
        [] => T::default(),
        [a] => a,
        [a, b] => a.min(b),
        [a, b, c] => median(a, b, c),
        [a, b, c, d] => {
            let (second, third) = middle(a, b, c, d);
            second.min(third)
        }
        [a, b, c, d, e] => {
            let (second, third) = middle(a, b, c, d);
            median(second, third, e)
        }
        [..] => {
            let at = reached.len() - majority(reached.len());
            *reached.select_nth_unstable(at).1
        }
    }
}

/// The index a majority holds durably.
pub fn committed(held: &mut [LogIndex]) -> LogIndex {
    majority_reached(held)
}

/// The vote of a joint configuration: won with both halves, lost with either.
pub const fn joint_vote_result(incoming: VoteResult, outgoing: VoteResult) -> VoteResult {
    match (incoming, outgoing) {
        (VoteResult::Lost, _) | (_, VoteResult::Lost) => VoteResult::Lost,
        (VoteResult::Pending, _) | (_, VoteResult::Pending) => VoteResult::Pending,
        (VoteResult::Won, VoteResult::Won) => VoteResult::Won,
    }
}

/// What a joint configuration has reached: as much as the slower half.
///
/// `None` is the word of an empty half (see [`Half::reached`]), which holds nothing back.
pub fn joint_reached<T: Ord>(incoming: Option<T>, outgoing: Option<T>) -> Option<T> {
    match (incoming, outgoing) {
        (Some(incoming), Some(outgoing)) => Some(incoming.min(outgoing)),
        (one, None) | (None, one) => one,
    }
}

/// The index that majorities of both halves hold durably.
pub fn joint_committed(incoming: Option<LogIndex>, outgoing: Option<LogIndex>) -> Option<LogIndex> {
    joint_reached(incoming, outgoing)
}

/// One half of a configuration: voters of whom a majority must agree.
///
/// An empty half agrees to everything: a configuration that is not changing is one whose outgoing
/// half is empty.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Half<'a> {
    voters: &'a [ReplicaId],
}

impl<'a> Half<'a> {
    /// The half of these voters: distinct, in any order, at most [`MEMBERS_MAX`].
    pub const fn new(voters: &'a [ReplicaId]) -> Self {
        debug_assert!(voters.len() <= MEMBERS_MAX);
        Self { voters }
    }

    /// The largest value that a majority has reached; `None` if the half is empty and so holds
    /// nothing back.
    ///
    /// `known` may name replicas outside of this half, which do not count; of a voter named twice
    /// the last value counts; a voter it does not name has reached `T::default()`.
    ///
    /// Works for whatever only grows: durable indexes for the commit, confirmations for reads,
    /// moments of contact for check-quorum. Cheapest if `known` keeps the order of the voters; a
    /// value out of order costs one look through them.
    pub fn reached<T: Copy + Ord + Default>(
        self,
        known: impl IntoIterator<Item = (ReplicaId, T)>,
    ) -> Option<T> {
        match self.voters.len() {
            0 => None,
            1..=MEMBERS_USUAL => Some(self.select(&mut [T::default(); MEMBERS_USUAL], known)),
            _ => Some(self.select(&mut [T::default(); MEMBERS_MAX], known)),
        }
    }

    /// The vote of this half: won if it is empty.
    ///
    /// `answers` may name replicas outside of this half, which do not count; of a voter who
    /// answers twice the first answer stands.
    pub fn vote_result(
        self,
        answers: impl IntoIterator<Item = (ReplicaId, Verdict)>,
    ) -> VoteResult {
        if self.voters.is_empty() {
            return VoteResult::Won;
        }
        if self.voters.len() > MEMBERS_MAX {
            return VoteResult::Pending;
        }
        // One bit per voter.
        let (mut granted, mut refused) = (0u64, 0u64);
        for (replica, verdict) in answers {
            let Some(at) = self.position(replica, 0) else {
                continue;
            };
            let bit = 1 << at;
            if (granted | refused) & bit == 0 {
                match verdict {
                    Verdict::Granted => granted |= bit,
                    Verdict::Refused | Verdict::Removed => refused |= bit,
                }
            }
        }
        vote_result(self.voters.len(), granted.count_ones() as usize, refused.count_ones() as usize)
    }

    /// Every voter has a slot of its own, so that none can count twice.
    fn select<T: Copy + Ord + Default>(
        self,
        slots: &mut [T],
        known: impl IntoIterator<Item = (ReplicaId, T)>,
    ) -> T {
        let Some(slots) = slots.get_mut(..self.voters.len()) else {
            return T::default();
        };
        let mut guess = 0;
        for (replica, value) in known {
            if let Some(at) = self.position(replica, guess) {
                slots[at] = value;
                guess = at + 1;
            }
        }
        majority_reached(slots)
    }

    /// Where a voter stands. Who asks for all of them mostly does so in their order, so the
    /// neighbour of the last one is a good guess.
    fn position(self, replica: ReplicaId, guess: usize) -> Option<usize> {
        if self.voters.get(guess) == Some(&replica) {
            return Some(guess);
        }
        self.voters.iter().position(|voter| *voter == replica)
    }
}

/// A configuration as its two halves. One that is not changing has an empty outgoing half, and
/// both cost the same to ask.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Joint<'a> {
    /// The voters of the configuration to come, or of the only one.
    pub incoming: Half<'a>,
    /// The voters of the configuration to leave; empty outside of a change.
    pub outgoing: Half<'a>,
}

impl<'a> Joint<'a> {
    /// The configuration between `outgoing` and `incoming`.
    pub const fn new(incoming: &'a [ReplicaId], outgoing: &'a [ReplicaId]) -> Self {
        Self { incoming: Half::new(incoming), outgoing: Half::new(outgoing) }
    }

    /// The largest value that majorities of both halves have reached; `None` without any voter.
    /// See [`Half::reached`].
    pub fn reached<T: Copy + Ord + Default>(
        self,
        known: impl IntoIterator<Item = (ReplicaId, T)> + Clone,
    ) -> Option<T> {
        joint_reached(self.incoming.reached(known.clone()), self.outgoing.reached(known))
    }

    /// The vote of both halves; won without any voter. See [`Half::vote_result`].
    pub fn vote_result(
        self,
        answers: impl IntoIterator<Item = (ReplicaId, Verdict)> + Clone,
    ) -> VoteResult {
        joint_vote_result(
            self.incoming.vote_result(answers.clone()),
            self.outgoing.vote_result(answers),
        )
    }
}

/// The middle one of three.
fn median<T: Copy + Ord>(a: T, b: T, c: T) -> T {
    a.min(b).max(a.max(b).min(c))
}

/// The two middle ones of four, in no order: neither the least of all nor the greatest.
fn middle<T: Copy + Ord>(a: T, b: T, c: T, d: T) -> (T, T) {
    (a.min(b).max(c.min(d)), a.max(b).min(c.max(d)))
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;
    use crate::rng::Rng;

    /// The definition: the largest of the values that a majority has reached.
    fn naive_reached(held: &[u64]) -> Option<u64> {
        let reached = |value: u64| held.iter().filter(|held| **held >= value).count();
        (!held.is_empty())
            .then(|| *held.iter().filter(|v| reached(**v) > held.len() / 2).max().expect("one is"))
    }

    /// Every assignment of `values` values to `slots` slots.
    fn assignments(slots: usize, values: u64) -> impl Iterator<Item = Vec<u64>> {
        (0..values.pow(slots as u32)).map(move |code| {
            (0..slots).map(|slot| code / values.pow(slot as u32) % values).collect()
        })
    }

    /// Every set of voters out of `replicas`, the empty one too.
    fn voter_sets(replicas: u64) -> Vec<Vec<ReplicaId>> {
        let members = |set: u64| (0..replicas).filter(move |replica| set >> replica & 1 == 1);
        (0..1 << replicas).map(|set| members(set).map(ReplicaId::new).collect()).collect()
    }

    fn slot(replica: ReplicaId) -> usize {
        replica.get() as usize
    }

    fn numbered<T: Copy>(values: &[T]) -> impl Iterator<Item = (ReplicaId, T)> + Clone {
        (0..).map(ReplicaId::new).zip(values.iter().copied())
    }

    #[test]
    fn majority_reached_agrees_with_counting() {
        for (voters, values) in [(1, 5), (2, 5), (3, 5), (4, 5), (5, 5), (6, 4), (7, 3), (8, 3)] {
            for mut held in assignments(voters, values) {
                let naive = naive_reached(&held);
                assert_eq!(Some(majority_reached(&mut held)), naive, "{held:?}");
            }
        }
    }

    #[test]
    fn nobody_and_too_many_decide_nothing() {
        assert_eq!(committed(&mut []), LogIndex::ZERO);
        let voters: Vec<ReplicaId> = (0..=MEMBERS_MAX as u64).map(ReplicaId::new).collect();
        // Past `new`, which a debug build does not let a half of this size through.
        let too_many = Half { voters: &voters };
        let all = || voters.iter().copied();
        assert_eq!(too_many.reached(all().map(|voter| (voter, 7))), Some(0));
        let granted = all().map(|voter| (voter, Verdict::Granted));
        assert_eq!(too_many.vote_result(granted.clone()), VoteResult::Pending);
        let largest = Half::new(&voters[1..]);
        assert_eq!(largest.reached(all().map(|voter| (voter, 7))), Some(7));
        assert_eq!(largest.vote_result(granted), VoteResult::Won);
    }

    #[test]
    fn a_vote_is_lost_exactly_when_it_cannot_be_won_any_more() {
        for voters in 1..=7 {
            for granted in 0..=voters {
                for refused in 0..=(voters - granted) {
                    let result = vote_result(voters, granted, refused);
                    let best = voters - refused;
                    match result {
                        VoteResult::Won => assert!(granted > voters / 2),
                        VoteResult::Lost => assert!(best <= voters / 2),
                        VoteResult::Pending => {
                            assert!(granted <= voters / 2 && best > voters / 2);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn joint_reached_agrees_with_counting_in_each_half() {
        let sets = voter_sets(5);
        for held in assignments(5, 3) {
            let of = |set: &[ReplicaId]| {
                naive_reached(&set.iter().map(|voter| held[slot(*voter)]).collect::<Vec<_>>())
            };
            for incoming in &sets {
                for outgoing in &sets {
                    // The slower half decides; without voters there is nothing to decide.
                    let naive = [of(incoming), of(outgoing)].into_iter().flatten().min();
                    let reached = Joint::new(incoming, outgoing).reached(numbered(&held));
                    assert_eq!(reached, naive, "{incoming:?} {outgoing:?} {held:?}");
                }
            }
        }
    }

    #[test]
    fn a_joint_vote_agrees_with_counting_in_each_half() {
        let sets = voter_sets(5);
        for answers in assignments(5, 3) {
            // 0 refused, 1 granted, 2 is silent so far.
            let wins = |set: &[ReplicaId], hopeful: bool| {
                let grants = |answer: u64| answer == 1 || (hopeful && answer == 2);
                let granted = set.iter().filter(|voter| grants(answers[slot(**voter)])).count();
                set.is_empty() || granted > set.len() / 2
            };
            let given = numbered(&answers).filter_map(|(replica, answer)| match answer {
                0 => Some((replica, Verdict::Refused)),
                1 => Some((replica, Verdict::Granted)),
                _ => None,
            });
            for incoming in &sets {
                for outgoing in &sets {
                    let naive = if wins(incoming, false) && wins(outgoing, false) {
                        VoteResult::Won
                    } else if wins(incoming, true) && wins(outgoing, true) {
                        VoteResult::Pending
                    } else {
                        VoteResult::Lost
                    };
                    let result = Joint::new(incoming, outgoing).vote_result(given.clone());
                    assert_eq!(result, naive, "{incoming:?} {outgoing:?} {answers:?}");
                }
            }
        }
    }

    #[test]
    fn halves_of_every_size_up_to_the_largest_agree_with_counting() {
        let mut rng = Rng::new(1);
        for size in 1..=MEMBERS_MAX {
            for _ in 0..50 {
                let held: Vec<u64> = (0..size).map(|_| rng.below(20)).collect();
                let voters: Vec<_> = numbered(&held).map(|(replica, _)| replica).collect();
                let half = Half::new(&voters);
                assert_eq!(half.reached(numbered(&held)), naive_reached(&held), "{held:?}");

                let granted = held.iter().filter(|value| **value < 10).count();
                let answers = numbered(&held).map(|(replica, value)| {
                    (replica, if value < 10 { Verdict::Granted } else { Verdict::Refused })
                });
                assert_eq!(half.vote_result(answers) == VoteResult::Won, granted > size / 2);
            }
        }
    }

    #[test]
    fn an_empty_half_decides_nothing_and_objects_to_nothing() {
        let empty = Half::new(&[]);
        assert_eq!(empty.reached([(ReplicaId::new(1), 7)]), None);
        assert_eq!(empty.vote_result([]), VoteResult::Won);
        assert_eq!(empty.vote_result([(ReplicaId::new(1), Verdict::Refused)]), VoteResult::Won);
    }

    #[test]
    fn a_voter_counts_once_however_often_it_is_named() {
        let voters = [1, 2, 3].map(ReplicaId::new);
        let half = Half::new(&voters);
        let [one, two, _] = voters;
        assert_eq!(half.reached([(one, 9), (one, 9), (one, 9)]), Some(0));
        assert_eq!(half.reached([(one, 9), (two, 8), (one, 7)]), Some(7));
        let granted = |replica| (replica, Verdict::Granted);
        assert_eq!(half.vote_result([one, one].map(granted)), VoteResult::Pending);
        // The first answer stands, whichever it was.
        let refused = (one, Verdict::Refused);
        let result = half.vote_result([granted(one), refused, granted(two)]);
        assert_eq!(result, VoteResult::Won);
        let result = half.vote_result([refused, granted(one), granted(two)]);
        assert_eq!(result, VoteResult::Pending);
    }

    #[test]
    fn strangers_do_not_count() {
        let voters = [1, 2, 3].map(ReplicaId::new);
        let half = Half::new(&voters);
        let [one, stranger, other] = [1, 7, 8].map(ReplicaId::new);
        assert_eq!(half.reached([(one, 9), (stranger, 9), (other, 9)]), Some(0));
        let granted = [one, stranger, other].map(|replica| (replica, Verdict::Granted));
        assert_eq!(half.vote_result(granted), VoteResult::Pending);
    }
}
