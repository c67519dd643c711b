//! Which life of a group is which.
//!
//! A group may be destroyed and made anew under its old id. Nothing that holds for one life binds
//! the next, so whoever judges a run knows each as a group of its own, by a number made of both;
//! clients, operators and the nodes themselves know the id alone.

use raft_core::{GroupId, GroupIncarnation};

use crate::group_spec::GroupSpec;

/// A run's groups have smaller ids than this.
const IDS: u32 = 10_000;

/// The group that judges take a life of a group for; of a first life its own id.
pub(super) fn life_of(group: GroupId, incarnation: GroupIncarnation) -> GroupId {
    GroupId::new(group.get() + incarnation.get().saturating_sub(1) * IDS)
}

/// The life that a spec begins or goes on with.
pub(super) fn life_in(spec: &GroupSpec) -> GroupId {
    life_of(spec.group, spec.incarnation)
}

/// The group that a life is one of.
pub(super) fn group_of(life: GroupId) -> GroupId {
    GroupId::new(life.get() % IDS)
}

/// Which of its group's lives it is.
pub(super) fn incarnation_of(life: GroupId) -> GroupIncarnation {
    GroupIncarnation::new(life.get() / IDS + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_life_names_its_group_and_comes_after_those_before_it() {
        let group = GroupId::new(7);
        let lives = [1, 2, 3].map(|life| life_of(group, GroupIncarnation::new(life)));
        assert_eq!(lives[0], group);
        assert!(lives.is_sorted());
        for (life, number) in lives.into_iter().zip(1..) {
            assert_eq!((group_of(life), incarnation_of(life).get()), (group, number));
        }
    }
}
