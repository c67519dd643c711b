//! What a leader keeps up to date step by step, counted again from what it is made of.
//!
//! Debug builds do so after every step; a simulator can do so in any build.

use crate::group::{Group, Role};
use crate::id::{LogIndex, ReplicaId};

/// Something that is kept is not what a recount finds: a bug of this crate.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Discrepancy {
    /// What is known of a peer contradicts itself: what it holds, what is sent next, what is in
    /// flight, and how many bytes that is.
    Progress(ReplicaId),
    /// A replica's part in the membership in force is another.
    Standing(ReplicaId),
    /// So many bytes of the term's proposals are taken for appended.
    Uncommitted {
        /// What is kept.
        kept: u64,
        /// What the recount finds.
        counted: u64,
    },
    /// Up to where a quorum's disks hold the log.
    Quorum {
        /// What is kept.
        kept: LogIndex,
        /// What the recount finds.
        counted: LogIndex,
    },
    /// A quorum holds this entry, and it is not committed.
    Uncounted(LogIndex),
}

impl Group {
    /// Recounts what this replica keeps as a leader. Costs as much as its peers and what is in
    /// flight to them; nothing, if it does not lead.
    ///
    /// # Errors
    /// The first thing that is not what the recount finds.
    pub fn audit(&self) -> Result<(), Discrepancy> {
        match &self.role {
            Role::Leader(leader) => leader.audit(self),
            Role::Follower | Role::PreCandidate(_) | Role::Candidate(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::sync::Arc;

    use super::*;
    use crate::{
        Base, Effects, GroupId, HardState, Incarnation, Input, LogTime, Membership, Message,
        Micros, PromiseRecord, Settings, Start, Term, Verdict, VoteReply,
    };

    const ME: ReplicaId = ReplicaId::new(1);
    const PEER: ReplicaId = ReplicaId::new(2);

    /// Replica 1 of three leads in its first term; its disk has everything.
    fn leader() -> Group {
        let voters = [1, 2, 3].map(ReplicaId::new);
        let start = Start {
            group: GroupId::new(1),
            replica: ME,
            incarnation: Incarnation::new(1),
            base: Base::first(Membership::of_voters(voters).expect("distinct voters")),
            configs: alloc::vec![],
            log_time: LogTime::default(),
            promise: PromiseRecord::default(),
            seed: 1,
            hard_state: HardState::default(),
            term_runs: alloc::vec![],
            last_index: LogIndex::ZERO,
            applied: LogIndex::ZERO,
            settings: Arc::new(Settings::default()),
        };
        let mut group = Group::new(Micros::ZERO, start).expect("a sound start");
        let mut effects = Effects::default();
        let grant = |attempt| VoteReply { term: Term::new(1), attempt, verdict: Verdict::Granted };
        let says = |message| Input::Message {
            from: PEER,
            from_incarnation: Incarnation::new(1),
            to_incarnation: Incarnation::new(1),
            message,
        };
        let mut synced = |group: &mut Group, input| {
            group.step(Micros::ZERO, input, &mut effects);
            if let Some(persist) = effects.persist.take() {
                group.step(Micros::ZERO, Input::Persisted(persist.seq), &mut effects);
            }
        };
        synced(&mut group, Input::Campaign);
        synced(&mut group, says(Message::PreVoteReply(grant(1))));
        synced(&mut group, says(Message::VoteReply(grant(2))));
        assert!(group.is_leader());
        assert_eq!(group.audit(), Ok(()));
        group
    }

    fn found(spoil: impl FnOnce(&mut crate::leader::Leader)) -> Result<(), Discrepancy> {
        let mut group = leader();
        let Role::Leader(leader) = &mut group.role else { unreachable!("it leads") };
        spoil(leader);
        group.audit()
    }

    #[test]
    fn whatever_is_not_what_it_should_be_is_found() {
        let last = leader().last_index();
        let ahead = |leader: &mut crate::leader::Leader| {
            leader.peers[0].match_index = leader.peers[0].next_index;
        };
        assert_eq!(found(ahead), Err(Discrepancy::Progress(PEER)));
        let stranger = |leader: &mut crate::leader::Leader| leader.peers[0].standing = None;
        assert_eq!(found(stranger), Err(Discrepancy::Standing(PEER)));
        let joint = |leader: &mut crate::leader::Leader| leader.is_joint = true;
        assert_eq!(found(joint), Err(Discrepancy::Standing(ME)));
        let costly = |leader: &mut crate::leader::Leader| leader.appended_total += 1;
        let drift = Discrepancy::Uncommitted { kept: 1, counted: 0 };
        assert_eq!(found(costly), Err(drift));
        let held = |leader: &mut crate::leader::Leader| {
            leader.peers[0].next_index = last.next();
            leader.peers[0].match_index = last;
        };
        assert_eq!(found(held), Err(Discrepancy::Uncounted(last)));
    }
}
