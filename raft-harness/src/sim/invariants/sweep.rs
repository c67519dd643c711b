//! Checks over whole logs and whole groups: for now and then, and for the end of a run.

use raft_core::{LogIndex, ReplicaId, Term};

use super::membership::{Membership, disjoint_quorums};
use super::replica::{Life, Replica, Standing};
use super::{Checker, Group};
use crate::sim::observe::{Promises, ReplicaView};
use crate::sim::violation::{Check, Violation};

impl Checker {
    /// Reads every log from end to end and compares it with history (a step only looks at what
    /// it seems to have changed), and asks of every group whether two replicas could be elected
    /// by disjoint quorums.
    ///
    /// Each view must be of a replica as last observed.
    ///
    /// # Errors
    /// The first check that fails.
    pub fn sweep<'a>(
        &self,
        views: impl IntoIterator<Item = ReplicaView<'a>>,
    ) -> Result<(), Violation> {
        for view in views {
            if let Some(group) = self.groups.get(&view.group) {
                group.whole_log(&view)?;
            }
        }
        self.groups.values().try_for_each(Group::electable_by_disjoint_quorums)
    }

    /// After the faults are healed and the groups had time: every replica in `views` has
    /// everything that anybody has committed (G11). Leave out who is not a member any more.
    ///
    /// # Errors
    /// [`Check::AcknowledgedLost`] with the replica that lacks something.
    pub fn settled<'a>(
        &self,
        views: impl IntoIterator<Item = ReplicaView<'a>>,
    ) -> Result<(), Violation> {
        for view in views {
            let Some(group) = self.groups.get(&view.group) else { continue };
            let commits = &group.record.commits;
            let last = commits.last();
            let there = if last > view.base { view.log.term(last) } else { commits.term(last) };
            if view.commit < last || there != commits.term(last) {
                return Err(group.record.fail(
                    Check::AcknowledgedLost,
                    format!(
                        "{:?} ends with {:?} committed; committed was {last:?}, acknowledged {:?}",
                        view.replica, view.commit, group.record.acknowledged
                    ),
                ));
            }
        }
        Ok(())
    }
}

impl Group {
    /// G2, G6.
    fn whole_log(&self, view: &ReplicaView<'_>) -> Result<(), Violation> {
        let record = &self.record;
        let mut prev_term = view.base_term;
        let mut index = view.base.next();
        while index <= view.last {
            let found = view.log.entry(index);
            let known = found.and_then(|entry| record.entries.find(index, entry.term));
            let same = known
                .is_some_and(|known| Some(known.identity) == found && known.prev_term == prev_term);
            if !same {
                return Err(record.fail(
                    Check::LogMatching,
                    format!(
                        "{:?} has at {index:?} {found:?} after {prev_term:?}, known is {known:?}",
                        view.replica
                    ),
                ));
            }
            prev_term = found.map_or(Term::ZERO, |entry| entry.term);
            if index <= view.commit {
                record.is_committed(Check::CommittedForever, view.replica, index, prev_term)?;
            }
            index = index.next();
        }
        let config = self
            .replicas
            .iter()
            .find(|(id, _)| *id == view.replica)
            .and_then(|(_, replica)| record.configs.find(replica.config?));
        // A newcomer does not know yet who belongs to the group, and acts under nothing.
        let knows = !view.membership.voters.is_empty();
        match config.filter(|known| knows && !known.is(&view.membership)) {
            Some(known) => Err(record.fail(
                Check::ConfigChain,
                format!("{:?} acted under {known:?}, now {:?}", view.replica, view.membership),
            )),
            None => Ok(()),
        }
    }

    /// G7: who would win under its own configuration, asked of those whose logs are no newer.
    ///
    /// If two such elections need not share a voter, two leaders could decide without one
    /// another. Voters that are down count with all they may come back with.
    fn electable_by_disjoint_quorums(&self) -> Result<(), Violation> {
        let standing: Vec<(ReplicaId, &Replica, &Membership)> = self
            .replicas
            .iter()
            .filter(|(_, r)| r.life == Life::Up && takes_part(r))
            .filter_map(|(id, r)| Some((*id, r, self.record.configs.find(r.config?)?)))
            .filter(|(id, _, membership)| membership.votes(*id))
            .collect();
        for (at, (a, a_state, a_config)) in standing.iter().enumerate() {
            for (b, b_state, b_config) in &standing[at + 1..] {
                if a_state.config == b_state.config {
                    continue;
                }
                let for_a = |voter| self.would_grant(voter, freshness(a_state));
                let for_b = |voter| self.would_grant(voter, freshness(b_state));
                if let Some(quorum) = disjoint_quorums((a_config, &for_a), (b_config, &for_b)) {
                    return Err(self.record.fail(
                        Check::QuorumsIntersect,
                        format!(
                            "{quorum:?} could elect {a:?} under {a_config:?} while others elect \
                             {b:?} under {b_config:?}"
                        ),
                    ));
                }
            }
        }
        Ok(())
    }

    fn would_grant(&self, voter: ReplicaId, candidate: (Term, LogIndex)) -> bool {
        self.replicas.iter().any(|(id, replica)| {
            *id == voter
                && replica.life != Life::Gone
                && takes_part(replica)
                && freshness(replica) <= candidate
        })
    }
}

fn takes_part(replica: &Replica) -> bool {
    replica.marks.promises == Promises::Kept && replica.marks.standing == Standing::TakesPart
}

/// What voters compare (paper 5.4.1).
fn freshness(replica: &Replica) -> (Term, LogIndex) {
    (replica.marks.last_term, replica.marks.last)
}
