//! A partition that never heals: a group must serve all the same if a replica reaches a majority.
//!
//! Only where the whole cluster begins in that partition and suffers nothing else. In one that
//! comes later the only node that reaches a majority may lack an entry that its voters have, and
//! then no protocol helps.

use raft_core::{GroupId, LogIndex};

use super::world::World;
use crate::sim::schedule::{Fault, FaultKind};
use crate::sim::swarm::STANDING_US;
use crate::sim::violation::{Check, Violation};

/// What groups had committed before they were written to.
pub(super) struct Standing {
    commits: Vec<(GroupId, LogIndex)>,
}

impl World {
    /// When to look at what is committed; `None` if there is no such partition in this run, or
    /// nobody writes at its end.
    pub(super) fn standing_from(&self) -> Option<u64> {
        let faults_us = self.setup.faults_us;
        let from = faults_us.checked_sub(STANDING_US)?;
        let stands = |fault: &&Fault| fault.at_us == 0 && fault.ends_us() >= faults_us;
        let (shapes, others): (Vec<&Fault>, Vec<&Fault>) =
            self.faults.iter().partition(|fault| matches!(fault.kind, FaultKind::Partition { .. }));
        let [partition] = shapes[..] else { return None };
        let FaultKind::Partition { shape, order } = &partition.kind else { return None };
        let written = |group: &GroupId| {
            let late = |fault: &&&Fault| fault.at_us >= from;
            others.iter().filter(late).any(|fault| writes_to(fault, *group))
        };
        let all_vote = order.len() == self.nodes.len()
            && self.setup.swarm.voters == self.setup.swarm.nodes
            && self.setup.operator_us == 0;
        let alone = others.iter().all(|fault| matches!(fault.kind, FaultKind::Burst { .. }));
        (stands(&partition)
            && shape.allows_progress(order.len())
            && all_vote
            && alone
            && self.groups.iter().all(written))
        .then_some(from)
    }

    pub(super) fn standing(&self) -> Standing {
        let commits = self.groups.iter().map(|group| (*group, self.newest_commit(*group)));
        Standing { commits: commits.collect() }
    }

    /// Every group has committed something since.
    pub(super) fn has_served(&self, since: &Standing) -> Result<(), Violation> {
        for (group, before) in &since.commits {
            if self.newest_commit(*group) <= *before {
                let evidence = format!("no more than {before:?}: {}", self.describe(*group));
                let check = Check::Profile("L4-standing-partition");
                return Err(Violation::of_group(check, *group, evidence));
            }
        }
        Ok(())
    }

    fn newest_commit(&self, group: GroupId) -> LogIndex {
        let replicas = self.nodes.iter().filter_map(|node| node.replicas.get(&group));
        replicas.map(|replica| replica.core.commit_index()).max().unwrap_or_default()
    }
}

fn writes_to(fault: &Fault, to: GroupId) -> bool {
    matches!(fault.kind, FaultKind::Burst { group, .. } if group == to)
}

#[cfg(test)]
mod tests {
    use super::super::setup::Setup;
    use super::*;
    use crate::sim::rng::Streams;
    use crate::sim::swarm::{Directed, Swarm, generate};

    #[test]
    fn a_group_that_commits_nothing_is_found_and_any_other_schedule_is_left_alone() {
        let mut judged = 0;
        for seed in 0..300 {
            let streams = Streams::new(seed);
            let swarm = Swarm::draw(streams);
            let mut world = World::new(seed, Setup::of(&swarm, 0));
            world.faults = generate(streams, &swarm).faults().to_vec();
            let stands = swarm.directed == Some(Directed::StandingPartition);
            assert_eq!(world.standing_from().is_some(), stands, "seed {seed}");
            if stands {
                judged += 1;
                let idle = world.standing();
                assert!(world.has_served(&idle).is_err(), "nothing has happened yet");
                world.setup.operator_us = 1;
                assert_eq!(world.standing_from(), None);
            }
        }
        assert!(judged > 0);
    }
}
