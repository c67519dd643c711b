//! Configurations of a group: majorities in both halves, and which pairs of configurations are
//! safe side by side (thesis 4.1, 4.3).

use std::collections::BTreeMap;

use raft_core::{LogIndex, ReplicaId, Term, majority};

use crate::sim::observe::MembershipView;

/// Names a configuration by its entry.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct ConfigKey {
    pub(super) index: LogIndex,
    pub(super) term: Term,
}

/// A configuration's content.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Membership {
    pub(super) voters: Vec<ReplicaId>,
    pub(super) outgoing: Vec<ReplicaId>,
    pub(super) learners: Vec<ReplicaId>,
}

impl Membership {
    pub(super) fn of(view: &MembershipView<'_>) -> Self {
        Self {
            voters: view.voters.to_vec(),
            outgoing: view.outgoing.to_vec(),
            learners: view.learners.to_vec(),
        }
    }

    pub(super) fn is(&self, view: &MembershipView<'_>) -> bool {
        self.voters == view.voters
            && self.outgoing == view.outgoing
            && self.learners == view.learners
    }

    pub(super) fn is_joint(&self) -> bool {
        !self.outgoing.is_empty()
    }

    pub(super) fn votes(&self, replica: ReplicaId) -> bool {
        self.voters.contains(&replica) || self.outgoing.contains(&replica)
    }

    pub(super) fn members(&self) -> impl Iterator<Item = ReplicaId> {
        self.voters.iter().chain(&self.outgoing).chain(&self.learners).copied()
    }

    /// Whether those who satisfy `agrees` decide: a majority of the voters and, if joint, of the
    /// outgoing voters too.
    pub(super) fn is_quorum(&self, mut agrees: impl FnMut(ReplicaId) -> bool) -> bool {
        let mut decides = |half: &[ReplicaId]| {
            half.iter().filter(|r| agrees(**r)).count() >= majority(half.len())
        };
        !self.voters.is_empty()
            && decides(&self.voters)
            && (self.outgoing.is_empty() || decides(&self.outgoing))
    }
}

/// Two disjoint quorums, if the first can be found within `first_within` and the second within
/// `second_within`.
///
/// Every subset is tried, so more members than [`TRIED_MAX`] are only judged by their halves.
pub(super) fn disjoint_quorums(
    (first, first_within): (&Membership, &dyn Fn(ReplicaId) -> bool),
    (second, second_within): (&Membership, &dyn Fn(ReplicaId) -> bool),
) -> Option<Vec<ReplicaId>> {
    // Most pairs share a half, or have halves that differ by one voter; then nothing needs trying.
    if halves(first).any(|a| halves(second).any(|b| majorities_intersect(a, b))) {
        return None;
    }
    let mut pool: Vec<ReplicaId> =
        halves(first).flatten().copied().filter(|r| first_within(*r)).collect();
    pool.sort_unstable();
    pool.dedup();
    if pool.len() > TRIED_MAX {
        return Some(pool);
    }
    (0u32..1 << pool.len()).find_map(|chosen| {
        let in_chosen =
            |r: ReplicaId| pool.binary_search(&r).is_ok_and(|at| chosen & (1 << at) != 0);
        (first.is_quorum(in_chosen) && second.is_quorum(|r| second_within(r) && !in_chosen(r)))
            .then(|| pool.iter().copied().filter(|r| in_chosen(*r)).collect())
    })
}

/// How many members' subsets are tried: 2^16 of them take less than a millisecond or two.
const TRIED_MAX: usize = 16;

fn halves(membership: &Membership) -> impl Iterator<Item = &[ReplicaId]> {
    [&membership.voters[..], &membership.outgoing[..]].into_iter().filter(|half| !half.is_empty())
}

/// Whether each majority of `a` shares a member with each majority of `b`.
fn majorities_intersect(a: &[ReplicaId], b: &[ReplicaId]) -> bool {
    let shared = a.iter().filter(|r| b.contains(r)).count();
    // A majority that avoids the other takes as few of the shared members as it can.
    let needed_by_a = majority(a.len()).saturating_sub(a.len() - shared);
    let needed_by_b = majority(b.len()).saturating_sub(b.len() - shared);
    needed_by_a + needed_by_b > shared
}

/// Every configuration of a group, which of them is committed last, and who is gone.
#[derive(Clone, Debug, Default)]
pub(super) struct Configs {
    known: BTreeMap<ConfigKey, Membership>,
    committed: Option<ConfigKey>,
    /// Who was removed, by the term in which that was committed.
    removed: BTreeMap<ReplicaId, Term>,
}

impl Configs {
    pub(super) fn find(&self, key: ConfigKey) -> Option<&Membership> {
        self.known.get(&key)
    }

    /// Notes a configuration; what was known under its name before if it was another.
    pub(super) fn note(
        &mut self,
        key: ConfigKey,
        view: &MembershipView<'_>,
    ) -> Result<(), Membership> {
        match self.known.get(&key) {
            Some(known) if known.is(view) => Ok(()),
            Some(known) => Err(known.clone()),
            None => {
                self.known.insert(key, Membership::of(view));
                Ok(())
            }
        }
    }

    /// The configuration `key` is committed in `term`. Names a replica that is back although it
    /// had been removed.
    pub(super) fn commit(&mut self, key: ConfigKey, term: Term) -> Result<(), ReplicaId> {
        let Some(next) = self.known.get(&key) else {
            // An entry whose content nobody was seen to act under: it came and was followed by
            // another within one step.
            return Ok(());
        };
        if let Some(back) = next.members().find(|r| self.removed.contains_key(r)) {
            return Err(back);
        }
        let before = self.committed.or_else(|| self.known.keys().next().copied());
        if let Some(before) = before.and_then(|key| self.known.get(&key)) {
            for gone in before.members().filter(|r| !next.members().any(|other| other == *r)) {
                self.removed.entry(gone).or_insert(term);
            }
        }
        self.committed = Some(key);
        Ok(())
    }

    /// Whether nobody else votes in the last committed configuration.
    pub(super) fn is_alone(&self, replica: ReplicaId) -> bool {
        let last = self.committed.or_else(|| self.known.keys().next().copied());
        let last = last.and_then(|key| self.known.get(&key));
        last.is_some_and(|last| !last.is_joint() && last.voters == [replica])
    }

    /// In which term the removal of this replica was committed, if it was.
    pub(super) fn removed_in(&self, replica: ReplicaId) -> Option<Term> {
        self.removed.get(&replica).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(numbers: &[u64]) -> Vec<ReplicaId> {
        numbers.iter().copied().map(ReplicaId::new).collect()
    }

    fn config(voters: &[u64], outgoing: &[u64]) -> Membership {
        Membership { voters: ids(voters), outgoing: ids(outgoing), learners: vec![] }
    }

    fn disjoint(a: &Membership, b: &Membership) -> bool {
        disjoint_quorums((a, &|_| true), (b, &|_| true)).is_some()
    }

    #[test]
    fn neighbours_intersect_and_leaps_do_not() {
        let three = config(&[1, 2, 3], &[]);
        assert!(!disjoint(&three, &config(&[1, 2, 3, 4], &[])));
        assert!(!disjoint(&three, &config(&[1, 2], &[])));
        assert!(disjoint(&three, &config(&[3, 4, 5], &[])));
        // They share r3, which neither needs.
        assert!(disjoint(&three, &config(&[4, 5, 6], &[3, 6, 7])));
        // Two changes by one voter from a common ancestor.
        assert!(disjoint(&config(&[1, 2, 3, 4], &[]), &config(&[1, 2, 3, 5, 6], &[])));
    }

    #[test]
    fn a_joint_configuration_intersects_with_both_of_its_halves() {
        let joint = config(&[4, 5, 6], &[1, 2, 3]);
        assert!(!disjoint(&joint, &config(&[1, 2, 3], &[])));
        assert!(!disjoint(&joint, &config(&[4, 5, 6], &[])));
        assert!(disjoint(&joint, &config(&[7, 8, 9], &[])));
        assert!(disjoint(&config(&[1, 2, 3], &[]), &config(&[4, 5, 6], &[])));
    }

    #[test]
    fn the_shortcut_agrees_with_trying_every_subset() {
        let mut pairs = 0;
        for a in 1u32..32 {
            for b in 1u32..32 {
                let pick = |mask: u32| {
                    ids(&(1..=5).filter(|n| mask & (1 << (n - 1)) != 0).collect::<Vec<_>>())
                };
                let (a, b) = (pick(a), pick(b));
                let found = (0u32..32).any(|q| {
                    let chosen = pick(q);
                    a.iter().filter(|r| chosen.contains(r)).count() >= majority(a.len())
                        && b.iter().filter(|r| !chosen.contains(r)).count() >= majority(b.len())
                });
                assert_eq!(majorities_intersect(&a, &b), !found, "{a:?} {b:?}");
                pairs += 1;
            }
        }
        assert_eq!(pairs, 31 * 31);
    }

    #[test]
    fn a_joint_quorum_needs_both_halves() {
        let joint = config(&[1, 2, 3], &[3, 4, 5]);
        assert!(joint.is_quorum(|r| [1, 3, 4].contains(&r.get())));
        // A majority of all five, but only one of the outgoing.
        assert!(!joint.is_quorum(|r| [1, 2, 3].contains(&r.get())));
        assert!(!config(&[], &[]).is_quorum(|_| true));
    }

    #[test]
    fn who_cannot_vote_now_is_left_out_of_the_search() {
        let a = config(&[1, 2, 3], &[]);
        let b = config(&[3, 4, 5], &[]);
        assert!(disjoint_quorums((&a, &|r| r.get() != 1), (&b, &|_| true)).is_some());
        assert!(disjoint_quorums((&a, &|r| r.get() != 1), (&b, &|r| r.get() != 5)).is_none());
    }
}
