//! Clients' requests on their way through an engine, and how each ends.
//!
//! Invariant: a token given to the core finds its reply exactly once.

use bytes::Bytes;
use raft_core::{
    Entry, GroupId, Input, Member, MemberChange, NodeId, Outcome, Refusal, ReplicaId, Token,
};
use tracing::{debug, info};

use super::handing_over::HAND_OVER_TOKEN;
use super::io::{ApplyJob, ApplyTask, EngineInput, TurnOutput};
use super::reads::Ask;
use super::replacing::REPLACING_TOKEN;
use super::shard_engine::ShardEngine;
use super::slot::Slot;
use super::spreading::SPREADING_TOKEN;
use crate::counters::Counters;
use crate::request::{Answer, Proposed, Reply, Request, RequestError, RequestKind};

/// Reads and transfers have tokens of their own kinds, beside the reply table's places.
pub(super) const READ_TOKEN: u64 = 1 << 63;
pub(super) const TRANSFER_TOKEN: u64 = 1 << 62;

impl ShardEngine {
    pub(super) fn on_request(&mut self, request: Request, out: &mut TurnOutput) {
        let Request { group, kind, reply } = request;
        let Some(at) = self.slot_of(group) else {
            reply.send(Err(self.not_here(group)));
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
                if self.replies.len() + self.waiting >= self.options.requests_max {
                    reply.send(Err(RequestError::Overloaded { pending_bytes: 0 }));
                    return;
                }
                let bytes = bytes + Entry::OVERHEAD;
                if !self.take_load(bytes) {
                    Counters::add(&self.counters.log_overloaded, 1);
                    let pending_bytes = self.options.log_load.bytes();
                    reply.send(Err(RequestError::Overloaded { pending_bytes }));
                    return;
                }
                let token = self.replies.insert(group, reply);
                self.proposing = command;
                let stamp = self.stamp(at);
                let before = self.slots[at as usize].core.last_index();
                self.step(at, Input::Propose { token, bytes, time: stamp.time() }, out);
                self.proposing = Bytes::new();
                let slot = &mut self.slots[at as usize];
                if slot.core.last_index() > before {
                    slot.log_clock.stamped(stamp);
                }
            }
            RequestKind::Read(path, query) => self.on_read(at, path, query, reply),
            RequestKind::ReadLocal(index, query) => {
                self.on_read_local(at, index, Ask::Query(query), reply);
            }
            RequestKind::WaitApplied(index) => self.on_read_local(at, index, Ask::Place, reply),
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
            reply.send(Err(self.not_here(group)));
            return;
        };
        // A node without a replica is no target; the core refuses the replica id that is nobody's.
        let membership = self.slots[at as usize].core.membership();
        let on = |node| membership.members().iter().find(move |member| member.node == node);
        let to = to.map(|node| on(node).map_or(ReplicaId::new(u64::MAX), |member| member.replica));
        self.transfers += 1;
        let token = Token::new(TRANSFER_TOKEN | self.transfers);
        self.transfer_replies.push((token, group, reply));
        self.step(at, Input::Transfer { token, to }, out);
    }

    /// Asks the core for a change; it is answered as a command is, once applied here.
    pub(super) fn on_change_members(
        &mut self,
        group: GroupId,
        changes: Vec<MemberChange>,
        reply: Reply,
        out: &mut TurnOutput,
    ) {
        let Some(at) = self.slot_of(group) else {
            reply.send(Err(self.not_here(group)));
            return;
        };
        // A node has room for one replica of a group.
        let membership = self.slots[at as usize].core.membership();
        let taken = changes.iter().find_map(|change| match change {
            MemberChange::AddLearner { node, .. } => {
                membership.members().iter().find(|member| member.node == *node)
            }
            MemberChange::Promote(_)
            | MemberChange::Demote(_)
            | MemberChange::Remove(_)
            | MemberChange::Replace { .. } => None,
        });
        if let Some(&Member { node, replica, .. }) = taken {
            reply.send(Err(RequestError::NodeTaken { node, replica }));
            return;
        }
        if self.replies.len() + self.waiting >= self.options.requests_max {
            reply.send(Err(RequestError::Overloaded { pending_bytes: 0 }));
            return;
        }
        let token = self.replies.insert(group, reply);
        self.step(at, Input::ChangeMembership { token, changes }, out);
    }

    pub(super) fn on_digest(&mut self, group: GroupId, reply: Reply, out: &mut TurnOutput) {
        let Some(at) = self.slot_of(group) else {
            reply.send(Err(self.not_here(group)));
            return;
        };
        match &mut self.slots[at as usize].inline {
            Some(machine) => {
                if let Err(broken) = machine.digest(reply) {
                    self.on_machine_broken(at, broken, out);
                }
            }
            None => out.apply.push(ApplyJob { group, task: ApplyTask::Digest(reply) }),
        }
    }

    pub(super) fn settle_outcomes(&mut self, at: u32) {
        let me = self.options.node;
        let mut outcomes = std::mem::take(&mut self.effects.outcomes);
        for (token, outcome) in outcomes.drain(..) {
            let slot = &mut self.slots[at as usize];
            let is_read = token.get() & READ_TOKEN != 0;
            if !is_read && token.get() & TRANSFER_TOKEN != 0 {
                if token == SPREADING_TOKEN {
                    debug!(group = %slot.spec.group, ?outcome, "yielding leadership ended");
                    self.spreading.ended(at);
                    continue;
                }
                if token == REPLACING_TOKEN {
                    self.note_replacing(at, outcome);
                    continue;
                }
                info!(group = %slot.spec.group, ?outcome, "leadership hand-over ended");
                if token == HAND_OVER_TOKEN {
                    self.note_handed_over(at, outcome);
                    continue;
                }
                let asked = self.transfer_replies.iter().position(|(asked, ..)| *asked == token);
                if let Some(asked) = asked {
                    let (_, _, reply) = self.transfer_replies.swap_remove(asked);
                    reply.send(transfer_answer(outcome, slot));
                }
                continue;
            }
            match outcome {
                Outcome::Committed { index, .. } => {
                    if let Some(reply) = self.replies.take(token) {
                        // In order but for proposals that were cut from the log and came back.
                        let at = slot.waiters.partition_point(|(other, _)| *other < index);
                        slot.waiters.insert(at, (index, reply));
                        self.waiting += 1;
                    }
                }
                Outcome::Unknown => self.replies.answer(token, Err(RequestError::Unknown)),
                Outcome::Superseded => self.replies.answer(token, Err(RequestError::Superseded)),
                Outcome::ReadReady { index } => {
                    self.on_reads_ready(at, token, index);
                }
                Outcome::Transferred => {}
                Outcome::Refused(refusal) => {
                    let leader = |replica: Option<ReplicaId>| {
                        replica.and_then(|replica| slot.node_of(me, replica))
                    };
                    let error = match refusal {
                        Refusal::NotLeader { leader: replica } => {
                            RequestError::NotLeader { leader: leader(replica) }
                        }
                        Refusal::Transferring | Refusal::TransferFailed | Refusal::NoHeir => {
                            RequestError::Transferring
                        }
                        Refusal::Overloaded { uncommitted_bytes } => {
                            RequestError::Overloaded { pending_bytes: uncommitted_bytes }
                        }
                        Refusal::TooManyReads => RequestError::Overloaded { pending_bytes: 0 },
                        Refusal::LeadershipLost => RequestError::LeadershipLost,
                        Refusal::Faulted => RequestError::Faulted(slot.spec.group),
                        Refusal::DiskFull => RequestError::DiskFull,
                        Refusal::ChangePending | Refusal::TermTooYoung => {
                            RequestError::ChangePending
                        }
                        Refusal::NotCaughtUp { replica } => RequestError::NotCaughtUp { replica },
                        Refusal::QuorumAtRisk => RequestError::QuorumAtRisk,
                        Refusal::InvalidChange(why) => RequestError::InvalidChange(why),
                    };
                    if is_read {
                        for (_, reply) in slot.take_reads(token).into_iter().flatten() {
                            self.reads_open -= 1;
                            reply.send(Err(error.clone()));
                        }
                    } else {
                        self.replies.answer(token, Err(error));
                    }
                }
            }
        }
        self.effects.outcomes = outcomes;
    }

    /// Answers everything that is owed: the node stops, or its log failed. What may have reached
    /// the log may still happen.
    pub(crate) fn abandon_all(&mut self, error: &RequestError) {
        for at in 0..self.slots.len() as u32 {
            self.abandon_slot(at, error);
            // Whoever waits for a creation learns by this that the node stops.
            self.slots[at as usize].created.clear();
            self.slots[at as usize].snapshots.forget();
        }
        for (_, _, reply) in self.transfer_replies.drain(..) {
            reply.send(Err(error.clone()));
        }
        // Dropped replies say "unknown", which is what a burial under way is.
        self.leaving.clear();
    }

    /// Answers what a group owes: reads with `error`, as they have no effect; commands as unknown.
    pub(super) fn abandon_slot(&mut self, at: u32, error: &RequestError) {
        let slot = &mut self.slots[at as usize];
        self.replies.abandon(slot.spec.group);
        for (_, reply) in slot.drain_reads() {
            self.reads_open -= 1;
            reply.send(Err(error.clone()));
        }
        // Dropped replies say "unknown".
        self.waiting -= slot.waiters.len();
        slot.waiters.clear();
    }

    /// The log failed: from now on the engine takes nothing in, so that it promises nothing, and
    /// its groups are mute.
    pub(crate) fn fail(&mut self, out: &mut TurnOutput) {
        self.is_deaf = true;
        self.abandon_all(&RequestError::LogFailed);
        for at in 0..self.slots.len() as u32 {
            let slot = &self.slots[at as usize];
            if !slot.is_gone {
                let seq = slot.persisting;
                self.step(at, Input::PersistFailed(seq), out);
            }
        }
    }

    /// What becomes of an input after the log failed.
    pub(super) fn handle_deaf(&mut self, input: EngineInput, out: &mut TurnOutput) {
        match input {
            EngineInput::Request(Request { reply, .. })
            | EngineInput::ChangeMembers(_, _, reply)
            | EngineInput::Remove(_, _, reply)
            | EngineInput::Snapshot(_, reply)
            | EngineInput::Transfer(_, _, reply) => {
                reply.send(Err(RequestError::LogFailed));
            }
            EngineInput::Digest(group, reply) => self.on_digest(group, reply, out),
            // Its drop tells whoever waits.
            EngineInput::Create(_)
            | EngineInput::Message(..)
            | EngineInput::Heartbeats(..)
            | EngineInput::HeartbeatReplies(..)
            | EngineInput::Persisted(_)
            | EngineInput::Written(_)
            | EngineInput::Applied(..)
            | EngineInput::MachineBroken(..)
            | EngineInput::FetchFailed(..)
            | EngineInput::LogDamaged(..)
            | EngineInput::Fetched(..)
            | EngineInput::LaneUp(..)
            | EngineInput::LaneDown(..)
            | EngineInput::BulkSent(..)
            | EngineInput::Remember(..)
            | EngineInput::Disk(_)
            | EngineInput::MachineState(..)
            | EngineInput::SnapshotEntries(..)
            | EngineInput::SnapshotDone(..)
            | EngineInput::SnapshotFetched(..)
            | EngineInput::SnapshotFetchFailed(_)
            | EngineInput::SnapshotUseless(..)
            | EngineInput::KeptUnreadable(..)
            | EngineInput::SnapshotsForgotten(_)
            | EngineInput::OwnCondition(_)
            | EngineInput::PeerCondition(..)
            | EngineInput::HandOver => {}
        }
    }
}

fn transfer_answer(outcome: Outcome, slot: &Slot) -> Answer {
    match outcome {
        Outcome::Transferred => {
            Ok(Proposed { index: slot.core.commit_index(), ..Proposed::nothing() })
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
