//! What leases rest on, judged by what was said: whoever has answered a leader's heartbeat gives
//! its vote to nobody else before a shortest election timeout has passed since that left.
//!
//! The leader counts from when its word left, so it is that moment that is taken here, and not
//! the one at which the follower believes to have got it: its clock may have been looked at
//! before. A lease is a matter of luck, and a broken promise of this kind is not.

use std::collections::BTreeMap;

use raft_core::{GroupId, Lease, Micros, ReplicaId, Settings, Term};

/// A group's life, and two of its replicas.
type Pair = (GroupId, ReplicaId, ReplicaId);

/// The newest questions of a leader to a follower that are remembered.
const ASKED_MAX: usize = 64;

/// All promises of patience of a run.
pub(super) struct Patience {
    /// The shortest election timeout in microseconds; `None`: leases are off, and a restarted
    /// replica may forget.
    timeout_us: Option<u64>,
    /// When what a leader has asked a follower left, in virtual microseconds, by its term and by
    /// what the leader's own clock showed.
    asked: BTreeMap<Pair, BTreeMap<(Term, Micros), u64>>,
    /// Until when a follower waits for a leader of a term, in virtual microseconds.
    promised: BTreeMap<Pair, (Term, u64)>,
    /// The newest term that a leader has asked somebody to stand in: it ended its lease before.
    handed_over: BTreeMap<GroupId, Term>,
}

impl Patience {
    pub(super) fn new(settings: &Settings) -> Self {
        let timeout = settings.election_timeout_min.as_micros() as u64;
        Self {
            timeout_us: (settings.lease != Lease::Never).then_some(timeout),
            asked: BTreeMap::new(),
            promised: BTreeMap::new(),
            handed_over: BTreeMap::new(),
        }
    }

    /// A leader asks, with this on its clock at that moment.
    pub(super) fn asks(
        &mut self,
        group: GroupId,
        (leader, follower): (ReplicaId, ReplicaId),
        (term, sent): (Term, Micros),
        at: u64,
    ) {
        let asked = self.asked.entry((group, leader, follower)).or_default();
        asked.insert((term, sent), at);
        if asked.len() > ASKED_MAX {
            asked.pop_first();
        }
    }

    /// A follower, whose clock runs so much faster than the common one, answers what it was asked.
    pub(super) fn answers(
        &mut self,
        group: GroupId,
        (follower, leader): (ReplicaId, ReplicaId),
        what: (Term, Micros),
        drift_ppm: i64,
    ) {
        let Some(timeout_us) = self.timeout_us else { return };
        let asked = self.asked.get(&(group, leader, follower));
        // A newer term deposes the leader and promises it nothing.
        let Some(left) = asked.and_then(|asked| asked.get(&what)).copied() else { return };
        let until = left + (timeout_us as i64 * 1_000_000 / (1_000_000 + drift_ppm)) as u64;
        let promise = self.promised.entry((group, follower, leader)).or_default();
        *promise = (*promise).max((what.0, until));
    }

    /// Somebody stands in this term because its leader wants it to.
    pub(super) fn hands_over(&mut self, group: GroupId, term: Term) {
        let known = self.handed_over.entry(group).or_default();
        *known = term.max(*known);
    }

    /// A vote leaves. Whom the voter owes patience, and for how long, if it does.
    pub(super) fn votes(
        &self,
        group: GroupId,
        (voter, candidate): (ReplicaId, ReplicaId),
        term: Term,
        now: u64,
    ) -> Option<(ReplicaId, u64)> {
        let handed_over = self.handed_over.get(&group).copied().unwrap_or_default();
        let of = (group, voter, ReplicaId::new(0))..=(group, voter, ReplicaId::new(u64::MAX));
        self.promised.range(of).find_map(|((_, _, leader), (led, until))| {
            let owed = *leader != candidate && *led < term && *led >= handed_over;
            // A clock counts whole microseconds.
            (owed && now + 2 < *until).then_some((*leader, *until))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUP: GroupId = GroupId::new(1);

    fn r(id: u64) -> ReplicaId {
        ReplicaId::new(id)
    }

    fn answered(lease: Lease) -> Patience {
        let mut patience = Patience::new(&Settings { lease, ..Settings::default() });
        let sent = (Term::new(3), Micros::new(70));
        patience.asks(GROUP, (r(1), r(2)), sent, 1_000);
        patience.answers(GROUP, (r(2), r(1)), sent, 0);
        patience
    }

    #[test]
    fn patience_runs_from_when_the_question_left_and_ends_with_a_hand_over() {
        let timeout = Settings::default().election_timeout_min.as_micros() as u64;
        let mut patience = answered(Lease::Within { drift_ppm: 0 });
        let vote = |patience: &Patience, candidate: u64, now: u64| {
            patience.votes(GROUP, (r(2), r(candidate)), Term::new(4), now)
        };
        assert_eq!(vote(&patience, 3, 2_000), Some((r(1), 1_000 + timeout)));
        assert_eq!(vote(&patience, 1, 2_000), None, "its own leader may stand");
        assert_eq!(vote(&patience, 3, 1_000 + timeout), None);
        patience.hands_over(GROUP, Term::new(4));
        assert_eq!(vote(&patience, 3, 2_000), None);
        assert_eq!(vote(&answered(Lease::Never), 3, 2_000), None);
    }

    #[test]
    fn an_answer_to_what_nobody_asked_promises_nothing() {
        let mut patience = answered(Lease::Within { drift_ppm: 0 });
        patience.promised.clear();
        patience.answers(GROUP, (r(2), r(1)), (Term::new(4), Micros::new(70)), 0);
        assert_eq!(patience.votes(GROUP, (r(2), r(3)), Term::new(5), 2_000), None);
    }
}
