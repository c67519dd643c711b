//! Which membership counts when all that is known are the logs of a group that stands still.
//!
//! Memberships count on disk only, however their group counts: one that is committed is still there, on a
//! majority of its own voters (of both halves of a joint one), whatever was forgotten behind it. So the
//! newest in the log with the largest end that such a majority holds is certain, and no newer one can have
//! been committed; nor can anything behind that, as entries are committed in their order. Taking such a
//! change back therefore loses nothing that was acknowledged, and leaves those who voted before it.

use std::collections::BTreeMap;

use raft_core::{Membership, ReplicaId};
use serde::{Deserialize, Serialize};

use super::{End, Ending, Held};
use crate::group_spec::GroupSpec;

/// A membership in a log.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Named {
    /// Where it was decided; zero for the group's first one.
    pub(crate) index: u64,
    /// The term there; not known of the one that the log begins with.
    pub(crate) term: Option<u64>,
    /// The term of the entry before it.
    pub(crate) term_before: u64,
    pub(crate) voters: Voters,
}

/// Who votes.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Voters {
    /// The voters, of the new half if a change is under way.
    pub(crate) incoming: Vec<u64>,
    /// Those of the old half; none unless a change is under way.
    pub(crate) outgoing: Vec<u64>,
}

impl Voters {
    pub(super) fn of(membership: &Membership) -> Self {
        let plain = |half: &[ReplicaId]| half.iter().map(|replica| replica.get()).collect();
        Self { incoming: plain(membership.incoming()), outgoing: plain(membership.outgoing()) }
    }

    pub(super) fn founding(spec: &GroupSpec) -> Self {
        let incoming = spec.founders().map(|member| member.replica.get()).collect();
        Self { incoming, outgoing: Vec::new() }
    }

    /// The voters of either half, ascending.
    pub(super) fn all(&self) -> impl Iterator<Item = u64> + use<> {
        let both = self.incoming.iter().chain(&self.outgoing);
        both.copied().collect::<std::collections::BTreeSet<_>>().into_iter()
    }

    fn halves(&self) -> impl Iterator<Item = &Vec<u64>> {
        std::iter::once(&self.incoming).chain(Some(&self.outgoing).filter(|half| !half.is_empty()))
    }

    /// Whether these are a majority, of both halves.
    pub(super) fn is_quorum(&self, is_among: impl Fn(u64) -> bool) -> bool {
        self.halves()
            .all(|half| half.iter().filter(|voter| is_among(**voter)).count() > half.len() / 2)
    }

    pub(super) fn share_a_half(&self, one: u64, other: u64) -> bool {
        self.halves().any(|half| half.contains(&one) && half.contains(&other))
    }
}

impl Named {
    /// Whether both are one entry. Of one below a snapshot the term is not known, and not needed.
    fn is(&self, other: &Self) -> bool {
        let differ = self.term.zip(other.term).is_some_and(|(one, other)| one != other);
        self.index == other.index && self.voters == other.voters && !differ
    }
}

/// Whether its log holds this membership, or what was committed after it.
fn holds(held: &Held, named: &Named) -> bool {
    named.index <= held.snapshot_index || held.memberships.iter().any(|other| other.is(named))
}

/// Whether these elect one of them, each by the membership it believes in.
pub(super) fn elects(trusted: &[Ending<'_>]) -> bool {
    trusted.iter().any(|candidate| {
        let votes = |voter: u64| {
            trusted.iter().any(|one| one.held.replica == voter && one.end <= candidate.end)
        };
        candidate.voters().is_some_and(|voters| {
            voters.all().any(|voter| voter == candidate.held.replica) && voters.is_quorum(votes)
        })
    })
}

/// The memberships of the newest log, up to the newest that is certain.
///
/// # Errors
/// Whose word is missing to tell.
pub(super) fn certain<'a>(words: &BTreeMap<u64, &'a Held>) -> Result<Vec<&'a Named>, String> {
    let end = |held: &Held| End { term: held.last_term, index: held.last_index };
    let known = words.values().filter(|held| !held.memberships.is_empty());
    let Some(newest) = known.max_by_key(|held| end(held)) else { return Ok(Vec::new()) };
    let mut memberships: Vec<&Named> = newest.memberships.iter().collect();
    // Who joined and has all of the log was never told with whom the group began.
    if memberships[0].term.is_some() {
        let mut all = words.values().flat_map(|held| &held.memberships);
        memberships.splice(0..0, all.find(|named| named.index == 0));
    }
    for at in (0..memberships.len()).rev() {
        let named = memberships[at];
        let before = at.checked_sub(1).map(|before| memberships[before]);
        if before.is_some_and(|before| before.voters == named.voters) {
            // Whether a learner came or went decides nothing here.
            continue;
        }
        let told = |voter: u64| words.get(&voter).is_some_and(|held| holds(held, named));
        if named.voters.is_quorum(told) {
            // With what came behind it and moved no voter.
            let same = |later: &&&Named| later.voters == named.voters;
            memberships.truncate(at + memberships[at..].iter().take_while(same).count());
            return Ok(memberships);
        }
        // Of a damaged log nobody knows what it held.
        let may_hold = |voter: u64| words.get(&voter).is_none_or(|held| held.is_damaged);
        if named.voters.is_quorum(|voter| told(voter) || may_hold(voter)) {
            let silent = named.voters.all().find(|voter| !words.contains_key(voter));
            return Err(match silent {
                Some(silent) => format!("there is no report of replica {silent}"),
                None => format!(
                    "whether the change of members at entry {} is certain was lost with damaged logs",
                    named.index
                ),
            });
        }
    }
    Err("no membership is held by a majority of its voters".to_owned())
}

/// The first change of voters in a log that is none of those decided.
pub(super) fn undecided<'a>(held: &'a Held, decided: &[&Named]) -> Option<&'a Named> {
    let mut before = None;
    held.memberships.iter().find(|named| {
        let moves_none = before.replace(&named.voters) == Some(&named.voters);
        let is_decided = decided.iter().any(|other| other.is(named));
        named.index > held.snapshot_index && !moves_none && !is_decided
    })
}
