//! What is kept of a replica that was removed: its name and its vote.
//!
//! A replica that forgot its vote could vote twice in one term. So when a removed replica's log
//! and state machine are deleted, this record stays, and a replica id is never used again.

use crate::entry::HardState;
use crate::group::Group;
use crate::id::{GroupId, ReplicaId};
use crate::message::{Message, Verdict, VoteReply};
use crate::settings::Start;

/// The memory of a removed replica. The driver stores it for good.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Tombstone {
    /// The group it belonged to.
    pub group: GroupId,
    /// Which replica it was.
    pub replica: ReplicaId,
    /// The last term and vote.
    pub hard_state: HardState,
}

impl Tombstone {
    /// Answers what still arrives for the removed replica: candidates are refused, with the term
    /// it knew; everything else gets no answer.
    pub fn answer(&self, message: &Message) -> Option<Message> {
        let refusal =
            |attempt| VoteReply { term: self.hard_state.term, attempt, verdict: Verdict::Refused };
        match message {
            Message::PreVote(request) => Some(Message::PreVoteReply(refusal(request.attempt))),
            Message::Vote(request) => Some(Message::VoteReply(refusal(request.attempt))),
            Message::PreVoteReply(_)
            | Message::VoteReply(_)
            | Message::Append(_)
            | Message::AppendReply(_)
            | Message::Heartbeat(_)
            | Message::HeartbeatReply(_)
            | Message::ReadConfirm(_)
            | Message::TimeoutNow(_)
            | Message::TransferRefused(_)
            | Message::ReadIndex(_)
            | Message::ReadIndexReply(_)
            | Message::Snapshot(_)
            | Message::Recover(_)
            | Message::Fence(_) => None,
        }
    }

    /// Whether a replica may be started beside this memory: another group's, or one with an id
    /// that comes after.
    pub fn admits(&self, start: &Start) -> bool {
        start.group != self.group || start.replica > self.replica
    }
}

impl Group {
    /// What must be kept when this replica's data is deleted.
    pub fn tombstone(&self) -> Tombstone {
        Tombstone { group: self.id, replica: self.me, hard_state: self.hard_state }
    }
}

#[cfg(test)]
mod tests {
    use alloc::sync::Arc;

    use super::*;
    use crate::id::{LogIndex, Term};
    use crate::membership::Membership;
    use crate::message::{Campaign, VoteRequest};
    use crate::settings::Settings;

    #[test]
    fn a_removed_replica_neither_votes_nor_comes_back() {
        let group = GroupId::new(7);
        let hard_state = HardState { term: Term::new(5), vote: Some(ReplicaId::new(2)) };
        let tombstone = Tombstone { group, replica: ReplicaId::new(3), hard_state };
        let request = VoteRequest {
            term: Term::new(9),
            last_index: LogIndex::new(100),
            last_term: Term::new(8),
            attempt: 4,
            cause: Campaign::Timeout,
            acknowledge: crate::Acknowledge::Durable,
        };
        let refusal = VoteReply { term: Term::new(5), attempt: 4, verdict: Verdict::Refused };
        assert_eq!(tombstone.answer(&Message::Vote(request)), Some(Message::VoteReply(refusal)));
        let pre_vote = tombstone.answer(&Message::PreVote(request));
        assert_eq!(pre_vote, Some(Message::PreVoteReply(refusal)));
        // An answer to an answer could go on for ever.
        for answer in [Message::VoteReply(refusal), Message::PreVoteReply(refusal)] {
            assert_eq!(tombstone.answer(&answer), None);
        }

        let members = Membership::of_voters([ReplicaId::new(3)]).unwrap();
        let start = |group, replica| {
            Start::fresh(
                group,
                ReplicaId::new(replica),
                members.clone(),
                Arc::new(Settings::default()),
            )
        };
        assert!(!tombstone.admits(&start(group, 3)));
        assert!(!tombstone.admits(&start(group, 1)));
        assert!(tombstone.admits(&start(group, 4)));
        assert!(tombstone.admits(&start(GroupId::new(8), 3)));

        let mut last = start(group, 3);
        last.hard_state = hard_state;
        let removed = Group::new(crate::Micros::ZERO, last).unwrap();
        assert_eq!(removed.tombstone(), tombstone, "what it voted is kept of it");
    }
}
