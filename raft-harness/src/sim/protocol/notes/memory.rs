//! What notes remember: of each replica as long as it lives, and of the run.
//!
//! The core keeps some of this as well and shows it to nobody; notes rather look for themselves.

use std::collections::{BTreeMap, BTreeSet};

use raft_core::{
    GroupId, Incarnation, Lease, LogIndex, Micros, ReadPath, ReplicaId, Session, Settings, Term,
    Token,
};

use super::super::network::NodeAt;

/// What is remembered of a replica's life.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    /// Before this it gives no vote, since leases may run that an earlier life supported.
    pub(super) votes_from: Option<Micros>,
    /// The newest life of each peer that spoke.
    lives: Vec<(ReplicaId, Incarnation)>,
    /// Which leader was last heard, and when.
    pub(super) leader_heard: Option<(ReplicaId, Micros)>,
    /// The newest question of the newest leader that asked.
    pub(crate) asked: Option<(Term, u64)>,
    /// Fences that answer a question of this life, with the term of the leader that gave them.
    pub(crate) fences: Vec<(Term, LogIndex)>,
    /// The newest append and the newest heartbeat that arrived.
    pub(super) newest_append: Option<Arrived>,
    pub(super) newest_heartbeat: Option<Arrived>,
    /// The session of the last append to each peer.
    pub(super) sessions: Vec<(ReplicaId, Session)>,
    /// Reads that have not ended, and by which means they were asked.
    pub(super) reads: Vec<(Token, ReadPath)>,
    /// Since its disk was full it has refused entries.
    pub(super) refused_while_full: bool,
}

/// A message that arrived. Numbers ascend in the order messages left.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Arrived {
    pub(super) from: ReplicaId,
    pub(super) life: Incarnation,
    pub(super) term: Term,
    pub(super) id: u64,
}

impl Memory {
    /// Of a replica that starts, in a term that an earlier life may have been in.
    pub(crate) fn of(now: Micros, term: Term, settings: &Settings) -> Self {
        let leases = settings.lease != Lease::Never && term > Term::ZERO;
        let votes_from = leases.then(|| now.after(settings.election_timeout_min));
        Self { votes_from, ..Self::default() }
    }

    /// A leader asks whether it still leads; its questions are numbered within its term.
    pub(crate) fn is_asked(&mut self, term: Term, number: u64) {
        self.asked = self.asked.max(Some((term, number)));
    }

    /// Whether a leader of this term has asked this. Of earlier terms nothing is known any more.
    pub(crate) fn was_asked(&self, term: Term, number: u64) -> bool {
        number == 0
            || self.asked.is_some_and(|(of, newest)| of > term || (of == term && newest >= number))
    }

    /// Until when it votes for nobody but the leader it heard; `None` if it heard no other.
    pub(crate) fn patient_until(
        &self,
        candidate: ReplicaId,
        settings: &Settings,
    ) -> Option<Micros> {
        let heard = self.leader_heard.filter(|(leader, _)| *leader != candidate);
        let patience = heard.map(|(_, heard)| heard.after(settings.election_timeout_min));
        patience.max(self.votes_from)
    }

    /// Notes the life a peer speaks from. `false`: an earlier one than already met.
    pub(super) fn meets(&mut self, peer: ReplicaId, life: Incarnation) -> bool {
        match self.lives.iter_mut().find(|(known, _)| *known == peer) {
            Some((_, known)) => {
                let is_news = life >= *known;
                *known = life.max(*known);
                is_news
            }
            None => {
                self.lives.push((peer, life));
                true
            }
        }
    }

    /// Whether a later life of a peer has spoken.
    pub(crate) fn has_met_later(&self, peer: ReplicaId, life: Incarnation) -> bool {
        self.lives.iter().any(|(known, met)| *known == peer && *met > life)
    }

    pub(super) fn session(&self, peer: ReplicaId) -> Option<Session> {
        self.sessions.iter().find(|(known, _)| *known == peer).map(|(_, session)| *session)
    }

    pub(super) fn set_session(&mut self, peer: ReplicaId, session: Session) {
        match self.sessions.iter_mut().find(|(known, _)| *known == peer) {
            Some((_, known)) => *known = session,
            None => self.sessions.push((peer, session)),
        }
    }
}

/// What is remembered of a run.
#[derive(Debug, Default)]
pub(crate) struct RunMemory {
    /// Grows by a few words for each term in which somebody stood for election.
    pub(super) elections: BTreeMap<(GroupId, Term), Election>,
    /// Replicas whose truncation was lost in a crash.
    pub(super) lost_truncations: BTreeSet<(NodeAt, GroupId)>,
    /// When each node last came back from a stop, on the common clock.
    pub(super) restarted: BTreeMap<NodeAt, u64>,
}

/// The election of a term.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Election {
    pub(super) candidates: u32,
    /// A vote for one was refused, because another had it.
    pub(super) is_divided: bool,
    pub(super) winner: Option<ReplicaId>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_earlier_life_is_not_met_again() {
        let mut memory = Memory::default();
        let lives = [(1, 3, true), (1, 3, true), (1, 4, true), (1, 3, false), (2, 1, true)];
        for (peer, life, met) in lives {
            let (peer, life) = (ReplicaId::new(peer), Incarnation::new(life));
            assert_eq!(memory.has_met_later(peer, life), !met);
            assert_eq!(memory.meets(peer, life), met);
        }
    }
}
