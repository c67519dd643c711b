//! Clients' requests on their way through an engine, and how each ends.
//!
//! Invariant: a token given to the core finds its reply exactly once.

use bytes::Bytes;
use raft_core::{Entry, GroupId, Input, NodeId, Outcome, Refusal, ReplicaId, Token};
use tracing::info;

use super::io::{ApplyJob, ApplyTask, TurnOutput};
use super::shard_engine::ShardEngine;
use super::slot::Slot;
use crate::request::{Answer, Proposed, Reply, Request, RequestError, RequestKind};

/// Reads and transfers have tokens of their own kinds, beside the reply table's places.
pub(super) const READ_TOKEN: u64 = 1 << 63;
pub(super) const TRANSFER_TOKEN: u64 = 1 << 62;

impl ShardEngine {
    pub(super) fn on_request(&mut self, request: Request, out: &mut TurnOutput) {
        let Request { group, kind, reply } = request;
        let Some(at) = self.slot_of(group) else {
            reply.send(Err(RequestError::UnknownGroup(group)));
            return;
        };
        match kind {
            RequestKind::Propose(command) => {
                let bytes = command.len() as u64;
                let max = self.options.command_bytes_max;
                if bytes > max {
                    reply.send(Err(RequestError::TooLarge { bytes, max }));
                    return;
                }
                if self.replies.len() >= self.options.requests_max {
                    reply.send(Err(RequestError::Overloaded { pending_bytes: 0 }));
                    return;
                }
                let token = self.replies.insert(group, reply);
                self.proposing = command;
                let bytes = bytes + Entry::OVERHEAD;
                self.step(at, Input::Propose { token, bytes }, out);
                self.proposing = Bytes::new();
            }
            RequestKind::Read(query) => {
                let slot = &mut self.slots[at as usize];
                if !slot.core.is_leader() {
                    let leader = slot.known_leader;
                    reply.send(Err(RequestError::NotLeader { leader }));
                    return;
                }
                if self.reads_open >= self.options.requests_max {
                    reply.send(Err(RequestError::Overloaded { pending_bytes: 0 }));
                    return;
                }
                self.reads_open += 1;
                slot.reads_new.push((query, reply));
                self.touch(at);
            }
        }
    }

    pub(super) fn on_transfer(
        &mut self,
        group: GroupId,
        to: Option<NodeId>,
        reply: Reply,
        out: &mut TurnOutput,
    ) {
        let Some(at) = self.slot_of(group) else {
            reply.send(Err(RequestError::UnknownGroup(group)));
            return;
        };
        // A node without a replica is no target; the core refuses the replica id that is nobody's.
        let spec = &self.slots[at as usize].spec;
        let to = to.map(|node| spec.replica_on(node).unwrap_or(ReplicaId::new(u64::MAX)));
        self.transfers += 1;
        let token = Token::new(TRANSFER_TOKEN | self.transfers);
        self.transfer_replies.push((token, reply));
        self.step(at, Input::Transfer { token, to }, out);
    }

    pub(super) fn on_digest(&mut self, group: GroupId, reply: Reply, out: &mut TurnOutput) {
        let Some(at) = self.slot_of(group) else {
            reply.send(Err(RequestError::UnknownGroup(group)));
            return;
        };
        match &self.slots[at as usize].inline {
            Some(machine) => machine.digest(reply),
            None => out.apply.push(ApplyJob { group, task: ApplyTask::Digest(reply) }),
        }
    }

    pub(super) fn settle_outcomes(&mut self, at: u32) {
        let slot = &mut self.slots[at as usize];
        for (token, outcome) in self.effects.outcomes.drain(..) {
            let is_read = token.get() & READ_TOKEN != 0;
            if !is_read && token.get() & TRANSFER_TOKEN != 0 {
                info!(group = %slot.spec.group, ?outcome, "leadership hand-over ended");
                let asked = self.transfer_replies.iter().position(|(asked, _)| *asked == token);
                if let Some(asked) = asked {
                    let (_, reply) = self.transfer_replies.swap_remove(asked);
                    reply.send(transfer_answer(outcome, slot));
                }
                continue;
            }
            match outcome {
                Outcome::Committed { index, .. } => {
                    if let Some(reply) = self.replies.take(token) {
                        slot.waiters.push_back((index, reply));
                    }
                }
                Outcome::Unknown => self.replies.answer(token, Err(RequestError::Unknown)),
                Outcome::Superseded => self.replies.answer(token, Err(RequestError::Superseded)),
                Outcome::ReadReady { index } => {
                    if let Some(reads) = take_reads(slot, token) {
                        slot.reads_confirmed.push_back((index, reads));
                    }
                }
                Outcome::Transferred => {}
                Outcome::Refused(refusal) => {
                    let leader = |replica: Option<ReplicaId>| {
                        replica.and_then(|replica| slot.spec.node_of(replica))
                    };
                    let error = match refusal {
                        Refusal::NotLeader { leader: replica } => {
                            RequestError::NotLeader { leader: leader(replica) }
                        }
                        Refusal::Transferring | Refusal::TransferFailed => {
                            RequestError::Transferring
                        }
                        Refusal::Overloaded { uncommitted_bytes } => {
                            RequestError::Overloaded { pending_bytes: uncommitted_bytes }
                        }
                        Refusal::TooManyReads => RequestError::Overloaded { pending_bytes: 0 },
                        Refusal::LeadershipLost => RequestError::LeadershipLost,
                        Refusal::Faulted => RequestError::Faulted(slot.spec.group),
                    };
                    if is_read {
                        for (_, reply) in take_reads(slot, token).into_iter().flatten() {
                            self.reads_open -= 1;
                            reply.send(Err(error.clone()));
                        }
                    } else {
                        self.replies.answer(token, Err(error));
                    }
                }
            }
        }
    }

    /// Answers everything that is owed: the node stops, or its log failed. What may have reached
    /// the log may still happen.
    pub(crate) fn abandon_all(&mut self, error: &RequestError) {
        self.reads_open = 0;
        for slot in &mut self.slots {
            self.replies.abandon(slot.spec.group);
            let reads = slot.reads_new.drain(..);
            let asked = slot.reads_asked.drain(..).flat_map(|(_, reads)| reads);
            let confirmed = slot.reads_confirmed.drain(..).flat_map(|(_, reads)| reads);
            for (_, reply) in reads.chain(asked).chain(confirmed) {
                reply.send(Err(error.clone()));
            }
            // Dropped replies say "unknown".
            slot.waiters.clear();
        }
    }
}

fn take_reads(slot: &mut Slot, token: Token) -> Option<Vec<(Bytes, Reply)>> {
    // Confirmations come in order; refusals may take any.
    let at = slot.reads_asked.iter().position(|(asked, _)| *asked == token)?;
    slot.reads_asked.remove(at).map(|(_, reads)| reads)
}

fn transfer_answer(outcome: Outcome, slot: &Slot) -> Answer {
    match outcome {
        Outcome::Transferred => {
            Ok(Proposed { index: slot.core.commit_index(), output: Bytes::new() })
        }
        Outcome::Refused(Refusal::NotLeader { .. }) => {
            Err(RequestError::NotLeader { leader: slot.known_leader })
        }
        Outcome::Refused(_)
        | Outcome::Superseded
        | Outcome::Unknown
        | Outcome::Committed { .. }
        | Outcome::ReadReady { .. } => Err(RequestError::Transferring),
    }
}
