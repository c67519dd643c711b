//! Groups of which a quorum may have forgotten what it acknowledged, and what becomes of them.
//!
//! Such a group stands still: who may have forgotten neither votes nor counts, and the others are too few.
//! It goes on when somebody accepts that entries may be lost. That is sound if nobody is left who has
//! applied, and goes on from, what the others lack: so each voter's node is *stopped* and says what it
//! holds, whether it remembers all or not, and nothing is accepted without the word of all. What a node
//! has kept elsewhere is no danger: no snapshot goes beyond what a quorum has on disk.
//!
//! Accepted is as little as possible: of each group the replicas that hold most, as many as make a
//! majority, trust themselves again. They can elect only the one with the newest entry, which leads;
//! the others catch up with it before they count, also those that have forgotten nothing.

use std::collections::{BTreeMap, BTreeSet};

use raft_core::{GroupId, NodeId, Promise, PromiseRecord, ReplicaId};
use raft_storage::{GroupWrite, RecoveredGroup};
use serde::{Deserialize, Serialize};

use crate::group_spec::{GroupSpec, Origin};

/// What a node holds of its groups that count what is written.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Report {
    pub(crate) node: u64,
    pub(crate) groups: Vec<Held>,
}

/// What a replica holds.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Held {
    pub(crate) group: u32,
    /// Which life of the group's id.
    pub(crate) life: u32,
    pub(crate) replica: u64,
    /// Who votes, as this replica has it; none while a membership is joint, and of a replica that joined
    /// and does not know yet.
    pub(crate) voters: Vec<u64>,
    pub(crate) may_have_forgotten: bool,
    /// Its log was damaged. That is another illness, and not healed by accepting this loss.
    pub(crate) is_damaged: bool,
    pub(crate) last_term: u64,
    pub(crate) last_index: u64,
    pub(crate) loss_epoch: u32,
}

/// What becomes of a replica.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Verdict {
    /// It trusts itself again, or goes on trusting itself.
    Accepts,
    /// Others hold as much or more: it will catch up with them.
    CatchesUp,
    /// Nothing can be accepted yet.
    Refused(String),
}

/// What a node holds of its groups that count what is written.
pub(crate) fn held(
    node: NodeId,
    is_whole: bool,
    groups: &BTreeMap<GroupId, RecoveredGroup>,
) -> Vec<Held> {
    let held = groups.iter().filter_map(|(group, log)| {
        let spec = GroupSpec::decode(&log.spec)?;
        let replica = spec.replica_on(node)?;
        let counts_written = spec.counts_written();
        let may_have_forgotten = match log.promise.promise {
            Promise::Kept => !is_whole,
            Promise::Lost => true,
            Promise::Damaged | Promise::Unproven => false,
        };
        let is_damaged = matches!(log.promise.promise, Promise::Damaged | Promise::Unproven);
        let last_term = log.term_runs.last().map_or(log.base.term, |(_, term)| *term);
        counts_written.then(|| Held {
            group: group.get(),
            life: log.incarnation.get(),
            replica: replica.get(),
            voters: voters(&spec, log),
            may_have_forgotten,
            is_damaged,
            last_term: last_term.get(),
            last_index: log.last_index.get(),
            loss_epoch: log.promise.loss_epoch,
        })
    });
    held.collect()
}

fn voters(spec: &GroupSpec, log: &RecoveredGroup) -> Vec<u64> {
    let newest = log.configs.last().map(|(_, membership)| membership);
    match newest.or(log.base.membership.as_ref()) {
        Some(membership) if membership.is_joint() => Vec::new(),
        Some(membership) => membership.voters().map(ReplicaId::get).collect(),
        // Who belongs to the group is for its leader to say.
        None if spec.origin == Origin::Joining => Vec::new(),
        None => spec.replicas.iter().map(|(replica, _)| replica.get()).collect(),
    }
}

/// What becomes of a replica by the word of all.
pub(crate) fn judge(own: &Held, reports: &[Report]) -> Verdict {
    let words = reports.iter().flat_map(|report| &report.groups);
    let words = words.filter(|held| (held.group, held.life) == (own.group, own.life));
    let mut words_of: BTreeMap<u64, &Held> = BTreeMap::new();
    for word in words {
        if words_of.insert(word.replica, word).is_some_and(|other| other != word) {
            return Verdict::Refused(format!("two reports of replica {} differ", word.replica));
        }
    }
    let words = words_of;
    // Replicas may differ in whom they take for voters: everybody whom anybody names is asked.
    let named: Vec<&Vec<u64>> =
        words.values().map(|held| &held.voters).chain([&own.voters]).collect();
    if named.iter().any(|voters| voters.is_empty()) {
        let why = "a change of membership is under way, or a replica has not learned of one";
        return Verdict::Refused(why.to_owned());
    }
    let asked: BTreeSet<u64> = named.into_iter().flatten().copied().collect();
    if let Some(silent) = asked.iter().find(|voter| !words.contains_key(voter)) {
        return Verdict::Refused(format!("there is no report of replica {silent}"));
    }
    let majority = asked.len() / 2 + 1;
    let remembers = |word: &Held| !word.may_have_forgotten && !word.is_damaged;
    if asked.iter().filter(|voter| remembers(words[voter])).count() >= majority {
        return Verdict::Refused(
            "a majority remembers everything, and leads the others".to_owned(),
        );
    }
    if words.get(&own.replica).is_none_or(|word| **word != *own) {
        return Verdict::Refused("this node has changed since its report".to_owned());
    }
    let voters = asked.iter().map(|voter| words[voter]);
    let mut voters: Vec<&Held> = voters.filter(|held| !held.is_damaged).collect();
    if voters.len() < majority {
        return Verdict::Refused(
            "too many replicas are damaged: they are to be replaced".to_owned(),
        );
    }
    voters.sort_by_key(|held| std::cmp::Reverse((held.last_term, held.last_index, held.replica)));
    if raft_core::planted!(FewestGoOn) {
        voters.reverse();
    }
    let is_among = voters[..majority].iter().any(|held| held.replica == own.replica);
    if is_among { Verdict::Accepts } else { Verdict::CatchesUp }
}

/// What a replica is to remember of it, if anything is new. `does_it`: not only said.
pub(crate) fn remembered(own: &Held, verdict: &Verdict, does_it: bool) -> Option<GroupWrite> {
    let lost = PromiseRecord { promise: Promise::Lost, loss_epoch: own.loss_epoch };
    let promise = match verdict {
        Verdict::Accepts if does_it => {
            let loss_epoch = own.loss_epoch.saturating_add(1);
            PromiseRecord { promise: Promise::Kept, loss_epoch }
        }
        // It may hold what the others go on without, and would vote for less than they hold.
        Verdict::CatchesUp if does_it && !own.is_damaged => lost,
        // The log ends in order after this, which would otherwise leave nothing to doubt.
        _ if own.may_have_forgotten => lost,
        _ => return None,
    };
    let mut write = GroupWrite::new(GroupId::new(own.group));
    write.promise = Some(promise);
    Some(write)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(replica: u64, last_term: u64, last_index: u64) -> Held {
        Held {
            group: 7,
            life: 1,
            replica,
            voters: vec![1, 2, 3],
            may_have_forgotten: true,
            is_damaged: false,
            last_term,
            last_index,
            loss_epoch: 0,
        }
    }

    fn of(groups: &[Held]) -> Vec<Report> {
        groups
            .iter()
            .map(|held| Report { node: held.replica, groups: vec![held.clone()] })
            .collect()
    }

    #[test]
    fn those_that_hold_most_go_on_and_are_a_majority() {
        let all = [held(1, 3, 8), held(2, 4, 5), held(3, 3, 9)];
        let verdicts = all.each_ref().map(|own| judge(own, &of(&all)));
        assert_eq!(verdicts, [Verdict::CatchesUp, Verdict::Accepts, Verdict::Accepts]);
    }

    #[test]
    fn without_the_word_of_all_nothing_is_accepted() {
        let all = [held(1, 3, 8), held(2, 4, 5), held(3, 3, 9)];
        let refused = |own: &Held, words: &[Held], why: &str| match judge(own, &of(words)) {
            Verdict::Refused(told) => assert!(told.contains(why), "{told}"),
            other => panic!("{other:?}"),
        };
        refused(&all[1], &all[..2], "no report of replica 3");
        let mut know = all.clone();
        know[1].may_have_forgotten = false;
        know[2].may_have_forgotten = false;
        refused(&know[0], &know, "a majority remembers everything");
        let mut moved = all.clone();
        moved[1].last_index = 6;
        refused(&moved[1], &all, "has changed");
        let mut joint = all.clone();
        joint[0].voters = Vec::new();
        refused(&all[1], &joint, "change of membership");
        let mut reborn = all.clone();
        reborn[2].life = 2;
        refused(&all[1], &reborn, "no report of replica 3");
        let mut grown = all.clone();
        grown[0].voters = vec![1, 2, 3, 4];
        refused(&all[1], &grown, "no report of replica 4");
        // An older report of a node, beside the one it made since.
        let mut twice = all.to_vec();
        twice.push(held(3, 3, 7));
        refused(&all[1], &twice, "two reports of replica 3 differ");
        twice[3] = twice[2].clone();
        assert_eq!(judge(&all[1], &of(&twice)), Verdict::Accepts);
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
        let groups = super::held(node, false, &BTreeMap::from([(spec.group, log)]));
        assert!(groups[0].may_have_forgotten && groups[0].voters.is_empty(), "{groups:?}");
        let own = groups[0].clone();
        let verdict = judge(&own, &[Report { node: node.get(), groups }]);
        assert!(matches!(verdict, Verdict::Refused(_)), "{verdict:?}");
    }

    /// The others are too few to lead it, and it is too few to lead them.
    #[test]
    fn one_that_remembers_goes_on_with_the_others_or_catches_up_with_them() {
        let mut all = [held(1, 3, 8), held(2, 3, 5), held(3, 3, 9)];
        all[0].may_have_forgotten = false;
        let verdicts = all.each_ref().map(|own| judge(own, &of(&all)));
        assert_eq!(verdicts, [Verdict::Accepts, Verdict::CatchesUp, Verdict::Accepts]);
        all[0].last_index = 4;
        let verdicts = all.each_ref().map(|own| judge(own, &of(&all)));
        assert_eq!(verdicts, [Verdict::CatchesUp, Verdict::Accepts, Verdict::Accepts]);
        let promises = [0, 1].map(|at| {
            let write = remembered(&all[at], &verdicts[at], true);
            write.and_then(|write| write.promise).map(|record| record.promise)
        });
        assert_eq!(promises, [Some(Promise::Lost), Some(Promise::Kept)]);
        assert_eq!(remembered(&all[0], &verdicts[0], false), None, "nothing was changed");
    }
}
