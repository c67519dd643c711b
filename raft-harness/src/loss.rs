//! Groups of which a quorum may have forgotten what it acknowledged, and what becomes of them.
//!
//! Such a group stands still: who may have forgotten neither votes nor counts, and the others are too few.
//! It goes on when somebody accepts that entries may be lost. That is sound if nobody is left who has
//! applied, and goes on from, what the others lack: so each voter's node is *stopped* and says what it
//! holds, whether it remembers all or not, and nothing is accepted without the word of all. What a node
//! has kept elsewhere is no danger: no snapshot goes beyond what a quorum has on disk.
//!
//! Whose word that is, the logs say ([`membership`]): the newest membership that is certain counts, and an
//! uncommitted change of voters behind it is taken back.
//!
//! Accepted is as little as possible: of each group the replicas that hold most, as many as make a
//! majority, trust themselves again. They can elect only the one with the newest entry, which leads;
//! the others catch up with it before they count, also those that have forgotten nothing.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::io;

use raft_core::{GroupId, LogIndex, NodeId, Promise, PromiseRecord};
use raft_storage::{GroupWrite, RecoveredGroup};
use serde::{Deserialize, Serialize};

use self::membership::{Named, Voters, certain, elects, undecided};
use crate::group_spec::{GroupSpec, Origin};

mod membership;
#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;

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
    /// The memberships in its log, oldest first, from the one it begins with. None of a replica that
    /// joined and has not learned of any.
    pub(crate) memberships: Vec<Named>,
    /// Up to here its log is committed beyond doubt: a snapshot covers it.
    pub(crate) snapshot_index: u64,
    pub(crate) may_have_forgotten: bool,
    /// Its log was damaged, or begins behind a state that is in no snapshot there. That is another
    /// illness, and not healed by accepting this loss.
    pub(crate) is_damaged: bool,
    pub(crate) last_term: u64,
    pub(crate) last_index: u64,
    pub(crate) loss_epoch: u32,
}

/// Where a log ends: which is newer is decided by the term first (paper, section 5.4.1).
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct End {
    pub(crate) term: u64,
    pub(crate) index: u64,
}

/// What becomes of a replica.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Verdict {
    /// It trusts itself again, or goes on trusting itself.
    Accepts {
        /// Where its log ends then.
        end: End,
        /// Without its log from here on: a change of voters that was not committed, and what follows it.
        cut: Option<LogIndex>,
    },
    /// Others hold as much or more: it will catch up with them.
    CatchesUp,
    /// Nothing can be accepted yet.
    Refused(String),
}

/// What a node holds of its groups that count what is written. `has_state`: whether a start would find
/// the state that a log begins with; a replica without one stands for nothing, whatever its log holds.
///
/// # Errors
/// Those of `has_state`.
pub(crate) fn held(
    node: NodeId,
    is_whole: bool,
    groups: &BTreeMap<GroupId, RecoveredGroup>,
    has_state: impl Fn(&GroupSpec, &RecoveredGroup) -> io::Result<bool>,
) -> io::Result<Vec<Held>> {
    let mut all = Vec::new();
    for (group, log) in groups {
        let Some(spec) = GroupSpec::decode(&log.spec).filter(GroupSpec::counts_written) else {
            continue;
        };
        let Some(replica) = spec.replica_on(node) else { continue };
        let may_have_forgotten = match log.promise.promise {
            Promise::Kept => !is_whole,
            Promise::Lost => true,
            Promise::Damaged | Promise::Unproven => false,
        };
        let is_damaged = matches!(log.promise.promise, Promise::Damaged | Promise::Unproven)
            || !has_state(&spec, log)?;
        all.push(Held {
            group: group.get(),
            life: log.incarnation.get(),
            replica: replica.get(),
            memberships: memberships(&spec, log),
            snapshot_index: log.base.index.max(log.base.snapshot).get(),
            may_have_forgotten,
            is_damaged,
            last_term: term_at(log, log.last_index),
            last_index: log.last_index.get(),
            loss_epoch: log.promise.loss_epoch,
        });
    }
    Ok(all)
}

/// The term of an entry, or of the one before the log.
fn term_at(log: &RecoveredGroup, index: LogIndex) -> u64 {
    let run = log.term_runs.iter().rev().find(|(first, _)| *first <= index);
    run.map_or(log.base.term, |(_, term)| *term).get()
}

fn memberships(spec: &GroupSpec, log: &RecoveredGroup) -> Vec<Named> {
    let first = match &log.base.membership {
        Some(membership) => Some((log.base.config_index, Voters::of(membership))),
        // Who belongs to the group is for its leader to say.
        None if spec.origin == Origin::Joining => None,
        None => Some((LogIndex::ZERO, Voters::founding(spec))),
    };
    let first = first.map(|(index, voters)| Named {
        index: index.get(),
        term: None,
        term_before: 0,
        voters,
    });
    let later = log.configs.iter().map(|(index, membership)| Named {
        index: index.get(),
        term: Some(term_at(log, *index)),
        term_before: term_at(log, index.prev()),
        voters: Voters::of(membership),
    });
    first.into_iter().chain(later).collect()
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
    match words_of.get(&own.replica) {
        None => return Verdict::Refused(format!("there is no report of replica {}", own.replica)),
        Some(word) if **word != *own => {
            return Verdict::Refused("this node has changed since its report".to_owned());
        }
        Some(_) => {}
    }
    match accepted(&words_of) {
        Ok(accepted) => match accepted.iter().find(|ending| ending.held.replica == own.replica) {
            Some(Ending { end, cut, .. }) => {
                Verdict::Accepts { end: *end, cut: cut.map(LogIndex::new) }
            }
            None => Verdict::CatchesUp,
        },
        Err(why) => Verdict::Refused(why),
    }
}

/// A replica, and where its log ends if it goes on.
#[derive(Clone, Copy)]
struct Ending<'a> {
    held: &'a Held,
    /// The first index that is taken back, if any is.
    cut: Option<u64>,
    end: End,
}

impl<'a> Ending<'a> {
    /// As it is.
    fn whole(held: &'a Held) -> Self {
        Self { held, cut: None, end: End { term: held.last_term, index: held.last_index } }
    }

    /// Without what is not decided.
    fn decided(held: &'a Held, decided: &[&Named]) -> Self {
        match undecided(held, decided) {
            None => Self::whole(held),
            Some(named) => Self {
                held,
                cut: Some(named.index),
                end: End { term: named.term_before, index: named.index - 1 },
            },
        }
    }

    /// By whom it believes to be elected.
    fn voters(&self) -> Option<&'a Voters> {
        let stays = |named: &&Named| self.cut.is_none_or(|cut| named.index < cut);
        self.held.memberships.iter().rev().find(stays).map(|named| &named.voters)
    }
}

/// The replicas that go on.
fn accepted<'a>(words: &BTreeMap<u64, &'a Held>) -> Result<Vec<Ending<'a>>, String> {
    let remembers = words.values().filter(|held| !held.may_have_forgotten && !held.is_damaged);
    let remembering: Vec<Ending<'_>> = remembers.map(|held| Ending::whole(held)).collect();
    if elects(&remembering) {
        return Err("a majority remembers everything, and leads the others".to_owned());
    }
    let decided = certain(words)?;
    let Some(Named { voters, .. }) = decided.last() else {
        return Err("nobody here knows who belongs to the group".to_owned());
    };
    if let Some(silent) = voters.all().find(|voter| !words.contains_key(voter)) {
        return Err(format!("there is no report of replica {silent}"));
    }
    let able = voters.all().map(|voter| words[&voter]).filter(|held| !held.is_damaged);
    let mut able: Vec<Ending<'a>> = able.map(|held| Ending::decided(held, &decided)).collect();
    able.sort_by_key(|ending| Reverse((ending.end, ending.held.replica)));
    if raft_core::planted!(FewestGoOn) {
        able.reverse();
    }
    if !is_quorum(voters, &able) {
        return Err("too many replicas are damaged: they are to be replaced".to_owned());
    }
    let able = fewest(able, voters);
    if !elects(&able) {
        return Err("those that hold most would elect nobody".to_owned());
    }
    Ok(able)
}

/// As few of these as make a quorum, from the one that holds most on.
fn fewest<'a>(able: Vec<Ending<'a>>, voters: &Voters) -> Vec<Ending<'a>> {
    let best = able[0].held.replica;
    let mut order: Vec<u64> = able.iter().rev().map(|ending| ending.held.replica).collect();
    // It is certain to be needed if those in its half of a joint membership are as few as can be.
    order.sort_by_key(|replica| (*replica == best, !voters.share_a_half(best, *replica)));
    order.into_iter().fold(able, |able, replica| {
        let others = able.iter().filter(|ending| ending.held.replica != replica);
        let without: Vec<Ending<'a>> = others.copied().collect();
        if is_quorum(voters, &without) { without } else { able }
    })
}

fn is_quorum(voters: &Voters, of: &[Ending<'_>]) -> bool {
    voters.is_quorum(|voter| of.iter().any(|ending| ending.held.replica == voter))
}

/// What a replica is to remember of it, if anything is new. `does_it`: not only said.
pub(crate) fn remembered(own: &Held, verdict: &Verdict, does_it: bool) -> Option<GroupWrite> {
    let lost = PromiseRecord { promise: Promise::Lost, loss_epoch: own.loss_epoch };
    let promise = match verdict {
        Verdict::Accepts { .. } if does_it => {
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
    if let Verdict::Accepts { cut, .. } = verdict
        && does_it
    {
        write.truncate_from = *cut;
    }
    Some(write)
}
