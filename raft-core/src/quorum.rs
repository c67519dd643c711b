//! Majority arithmetic (paper, section 5.2; thesis 4.3 for the words).

use crate::id::LogIndex;

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
pub const fn vote_result(voters: usize, granted: usize, refused: usize) -> VoteResult {
    if granted >= majority(voters) {
        VoteResult::Won
    } else if voters - refused < majority(voters) {
        VoteResult::Lost
    } else {
        VoteResult::Pending
    }
}

/// The largest value that a majority has reached. `reached` is reordered.
///
/// With no voters nothing is reached: zero.
pub fn majority_reached<T: Copy + Ord + Default>(reached: &mut [T]) -> T {
    if reached.is_empty() {
        return T::default();
    }
    reached.sort_unstable();
    reached[reached.len() - majority(reached.len())]
}

/// The index a majority holds durably.
pub fn committed(held: &mut [LogIndex]) -> LogIndex {
    majority_reached(held)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn majority_reached_agrees_with_counting() {
        // Every assignment of 0..4 to up to five voters, by brute force.
        for voters in 1..=5u32 {
            for mut code in 0..4u32.pow(voters) {
                let mut held = [0u32; 5];
                for slot in held.iter_mut().take(voters as usize) {
                    *slot = code % 4;
                    code /= 4;
                }
                let held = &mut held[..voters as usize];
                let naive = (0..4)
                    .filter(|v| held.iter().filter(|h| *h >= v).count() >= majority(held.len()))
                    .max()
                    .unwrap_or(0);
                assert_eq!(majority_reached(held), naive);
            }
        }
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
}
