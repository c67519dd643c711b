//! The history of memberships along a log.
//!
//! A membership is in force from where it stands in the log, committed or not (thesis 4.1). So it
//! must also go when its entry goes: the history is kept back to the log's base, and truncation
//! may take several steps back at once.
//!
//! Invariant: indexes ascend, and none lies beyond the log's end.

use alloc::sync::Arc;

use crate::id::LogIndex;
use crate::membership::Membership;
use crate::sparse::Sparse;

#[derive(Clone, Debug)]
pub(crate) struct Configs {
    /// In force at the log's base, and where it was decided.
    base: (LogIndex, Arc<Membership>),
    later: Sparse<(LogIndex, Arc<Membership>)>,
}

impl Configs {
    pub(crate) fn new(index: LogIndex, membership: Arc<Membership>) -> Self {
        Self { base: (index, membership), later: Sparse::new() }
    }

    /// The membership in force, and where it stands.
    pub(crate) fn active(&self) -> (LogIndex, &Arc<Membership>) {
        let (index, membership) = self.later.last().unwrap_or(&self.base);
        (*index, membership)
    }

    /// The membership in force at `index`, and where it stands; of the base for anything earlier.
    pub(crate) fn at(&self, index: LogIndex) -> (LogIndex, &Arc<Membership>) {
        let after = self.later.partition_point(|(at, _)| *at <= index);
        let (at, membership) = match after.checked_sub(1) {
            Some(last) => &self.later[last],
            None => &self.base,
        };
        (*at, membership)
    }

    /// The memberships that stand within `first..=last`.
    pub(crate) fn within(&self, first: LogIndex, last: LogIndex) -> &[(LogIndex, Arc<Membership>)] {
        if self.later.is_empty() {
            return &[];
        }
        let from = self.later.partition_point(|(at, _)| *at < first);
        let to = self.later.partition_point(|(at, _)| *at <= last);
        self.later.get(from..to).unwrap_or_default()
    }

    /// Adds one at the end. `false`: it does not come after the last.
    pub(crate) fn push(&mut self, index: LogIndex, membership: Arc<Membership>) -> bool {
        let ascends = index > self.active().0;
        if ascends {
            self.later.push((index, membership));
        }
        ascends
    }

    /// Removes those at `from` and after it. `true`: the one in force changed.
    pub(crate) fn truncate(&mut self, from: LogIndex) -> bool {
        let kept = self.later.partition_point(|(at, _)| *at < from);
        let changed = kept < self.later.len();
        if changed {
            self.later.vec().truncate(kept);
        }
        changed
    }

    /// Forgets what was in force before `base`.
    pub(crate) fn compact(&mut self, base: LogIndex) {
        let passed = self.later.partition_point(|(at, _)| *at <= base);
        if passed == 0 {
            return;
        }
        if let Some(last) = self.later.vec().drain(..passed).next_back() {
            self.base = last;
        }
        self.later.release_spare();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::ReplicaId;

    fn of(voters: u64) -> Arc<Membership> {
        Arc::new(Membership::of_voters((1..=voters).map(ReplicaId::new)).unwrap())
    }

    fn index(i: u64) -> LogIndex {
        LogIndex::new(i)
    }

    #[test]
    fn several_memberships_can_be_taken_back_at_once() {
        let mut configs = Configs::new(index(0), of(1));
        assert!(configs.push(index(3), of(2)) && configs.push(index(4), of(3)));
        assert!(!configs.push(index(4), of(5)));
        assert!(!configs.truncate(index(5)));
        assert!(configs.truncate(index(3)));
        assert_eq!(configs.active(), (index(0), &of(1)));
    }

    #[test]
    fn each_index_has_the_membership_last_decided_before_it() {
        let mut configs = Configs::new(index(0), of(1));
        assert!(configs.push(index(3), of(2)) && configs.push(index(7), of(3)));
        for (at, want) in [(0, (0, 1)), (2, (0, 1)), (3, (3, 2)), (6, (3, 2)), (9, (7, 3))] {
            assert_eq!(configs.at(index(at)), (index(want.0), &of(want.1)));
        }
        assert_eq!(configs.within(index(4), index(7)), [(index(7), of(3))]);
        configs.compact(index(5));
        assert_eq!(configs.at(index(5)), (index(3), &of(2)));
        assert_eq!(configs.active(), (index(7), &of(3)));
        configs.compact(index(8));
        assert_eq!(configs.active(), (index(7), &of(3)));
        assert_eq!(configs.within(index(0), index(99)), []);
    }
}
