//! What a message promises its receiver once it has left, for the checks to hold it to.

use raft_core::{AppendResult, LogIndex, Message, Promise as Kept, ReplicaId, Term, Verdict};

use super::replica::Replica;
use crate::sim::observe::Promise;

/// What a message promises once it has left.
pub(super) fn promises_of(
    message: &Message,
    me: ReplicaId,
    to: ReplicaId,
    replica: &Replica,
) -> [Option<Promise>; 2] {
    let term = Some(Promise::Term(message.term()));
    match message {
        Message::PreVote(_) => [None, None],
        Message::PreVoteReply(reply) => match reply.verdict {
            Verdict::Granted => [None, None],
            Verdict::Refused | Verdict::Removed => [term, None],
        },
        Message::Vote(request) => [term, Some(Promise::Vote { term: request.term, candidate: me })],
        Message::VoteReply(reply) => match reply.verdict {
            Verdict::Granted => [term, Some(Promise::Vote { term: reply.term, candidate: to })],
            Verdict::Refused | Verdict::Removed => [term, None],
        },
        Message::AppendReply(reply) => {
            let held = match reply.result {
                AppendResult::Accepted { durable, promise: Kept::Kept, .. } => {
                    // An acknowledgement that waited while its term passed speaks of a log that may
                    // be gone; it was true when it was made.
                    let current = replica.core.term() == reply.term;
                    let term = replica.core.entry_term(durable).filter(|_| current);
                    term.map(|term| Promise::Held { index: durable, term })
                }
                AppendResult::Accepted { .. }
                | AppendResult::Rejected { .. }
                | AppendResult::StaleTerm
                | AppendResult::Receiving { .. }
                | AppendResult::Declined(_) => None,
            };
            [
                term,
                held.filter(|held| {
                    *held != Promise::Held { index: LogIndex::ZERO, term: Term::ZERO }
                }),
            ]
        }
        Message::Append(_)
        | Message::Heartbeat(_)
        | Message::HeartbeatReply(_)
        | Message::ReadConfirm(_)
        | Message::TimeoutNow(_)
        | Message::TransferRefused(_)
        | Message::ReadIndex(_)
        | Message::ReadIndexReply(_)
        | Message::Snapshot(_)
        | Message::Recover(_)
        | Message::Fence(_) => [term, None],
    }
}
