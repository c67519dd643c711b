//! Messages on their way out of a group, and the proof without which some of them stay.
//!
//! Invariants: a message that rests on an operation leaves only against proof that it is durable; what
//! a driver keeps of those by [`Outbox::hold_gated`] is bounded however long its disk takes.

use alloc::vec::Vec;
use core::mem::discriminant;

use crate::id::{PersistSeq, ReplicaId};
use crate::message::{AppendResult, Message};

/// So many questions for an index wait for one leader at most, and so many answers for one follower.
const READS_HELD_MAX: u64 = 1024;

/// Messages of a group on their way out.
///
/// A message that promises something durable is kept apart, as [`Gated`], and comes out only
/// against a [`Durable`] proof: "sent before fsync" does not compile (thesis 3.8).
#[derive(Debug, Default)]
pub struct Outbox {
    ready: Vec<Outgoing>,
    gated: Vec<Gated>,
}

/// A message and its addressee.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Outgoing {
    /// To whom.
    pub to: ReplicaId,
    /// What.
    pub message: Message,
}

/// A message that may not leave before an operation is durable.
///
/// There is no way to it but [`open`](Self::open), which asks for the proof:
///
/// ```compile_fail
/// fn leaves_early(gate: raft_core::Gated) -> raft_core::Outgoing {
///     gate.message
/// }
/// ```
#[derive(Debug)]
pub struct Gated {
    until: PersistSeq,
    message: Outgoing,
}

impl Gated {
    /// The operation it waits for.
    pub const fn until(&self) -> PersistSeq {
        self.until
    }

    /// Opens the gate, or hands the message back still closed.
    ///
    /// # Errors
    /// The message itself, if the proof does not reach far enough.
    pub fn open(self, durable: Durable) -> Result<Outgoing, Self> {
        if durable.seq >= self.until { Ok(self.message) } else { Err(self) }
    }

    /// Whom it is for.
    pub const fn to(&self) -> ReplicaId {
        self.message.to
    }

    /// Whether an older message that waits as well may be forgotten: this one is of its kind and for the
    /// same replica. Forgotten, it is like one that was lost on its way, which whoever needs it bears.
    pub fn supersedes(&self, older: &Self) -> bool {
        self.message.to == older.message.to
            && takes_place_of(&self.message.message, &older.message.message)
    }
}

fn takes_place_of(newer: &Message, older: &Message) -> bool {
    match newer {
        // One campaign at a time; a leader that asks again repeats what it asked before; one fence,
        // one transfer, one newest state of things.
        Message::PreVote(_)
        | Message::Vote(_)
        | Message::Append(_)
        | Message::Heartbeat(_)
        | Message::HeartbeatReply(_)
        | Message::ReadConfirm(_)
        | Message::TimeoutNow(_)
        | Message::TransferRefused(_)
        | Message::Snapshot(_)
        | Message::Recover(_)
        | Message::Fence(_) => discriminant(newer) == discriminant(older),
        // A refusal takes no vote back.
        Message::PreVoteReply(newer) => {
            matches!(older, Message::PreVoteReply(older) if older.verdict == newer.verdict)
        }
        Message::VoteReply(newer) => {
            matches!(older, Message::VoteReply(older) if older.verdict == newer.verdict)
        }
        Message::AppendReply(newer) => {
            let same = |older: &AppendResult| discriminant(older) == discriminant(&newer.result);
            matches!(older, Message::AppendReply(older) if same(&older.result))
        }
        // Each is a question of its own, until there are too many of them: who asked has given up then.
        Message::ReadIndex(newer) => {
            matches!(older, Message::ReadIndex(older) if is_far_from(newer.id, older.id))
        }
        Message::ReadIndexReply(newer) => {
            matches!(older, Message::ReadIndexReply(older) if is_far_from(newer.id, older.id))
        }
    }
}

fn is_far_from(newer: u64, older: u64) -> bool {
    newer == older || newer.abs_diff(older) >= READS_HELD_MAX
}

/// Proof that the operations of one group up to a number are on disk.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Durable {
    seq: PersistSeq,
}

impl Durable {
    /// To be called by whoever saw the fsync succeed, and by nobody else.
    pub const fn attest(seq: PersistSeq) -> Self {
        Self { seq }
    }
}

impl Outbox {
    /// Takes the messages that depend on no disk.
    pub fn drain_ready(&mut self) -> impl Iterator<Item = Outgoing> + '_ {
        self.ready.drain(..)
    }

    /// Takes the messages that wait for a disk, still closed, to be kept until their operation
    /// is durable: by a driver whose disk may take long, with [`hold_gated`](Self::hold_gated).
    pub fn drain_gated(&mut self) -> impl Iterator<Item = Gated> + '_ {
        self.gated.drain(..)
    }

    /// Moves the messages that wait for a disk behind those that wait already, and drops of these what
    /// a newer one [supersedes](Gated::supersedes). Of one replica's, one of each kind is left so, and
    /// 1,024 questions for an index and answers to them. A leader whose heartbeats find a disk that
    /// hangs would otherwise be answered, when it goes on, as often as it asked.
    ///
    /// Cost: a look at each that waits for each that comes.
    pub fn hold_gated(&mut self, waiting: &mut Vec<Gated>) {
        for gated in self.gated.drain(..) {
            if !crate::planted!(AnswersPileUp) {
                waiting.retain(|older| !gated.supersedes(older));
            }
            waiting.push(gated);
        }
    }

    /// Whether no message is waiting.
    pub fn is_empty(&self) -> bool {
        self.ready.is_empty() && self.gated.is_empty()
    }

    pub(crate) fn clear(&mut self) {
        self.ready.clear();
        self.gated.clear();
    }

    pub(crate) fn send(&mut self, to: ReplicaId, message: Message, gate: Option<PersistSeq>) {
        let message = Outgoing { to, message };
        match gate {
            None => self.ready.push(message),
            Some(until) => self.gated.push(Gated { until, message }),
        }
    }
}
