//! What goes into a group and what comes out of it: plain data in both directions.
//!
//! Invariant: every token that goes in comes out exactly once, in an [`Outcome`].

use alloc::vec::Vec;

use crate::entry::{EntryKind, HardState};
use crate::id::{Incarnation, LogIndex, PersistSeq, ReplicaId, Term, Token};
use crate::message::Message;

/// Something happened.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Input {
    /// A peer spoke.
    Message {
        /// Who.
        from: ReplicaId,
        /// In which life of its node.
        from_incarnation: Incarnation,
        /// To which life of ours. Words to an earlier life are dropped: they answer promises
        /// this life does not remember making.
        to_incarnation: Incarnation,
        /// What it said.
        message: Message,
    },
    /// The deadline the group asked for has come. Harmless when it has not.
    Deadline,
    /// Replicate a command.
    Propose {
        /// Comes back with the outcome.
        token: Token,
        /// Its cost, as [`Entry::cost`](crate::Entry::cost) has it.
        bytes: u64,
    },
    /// Find an index at which a read is linearizable (thesis 6.4).
    Read {
        /// Comes back with the outcome.
        token: Token,
    },
    /// Hand leadership over (thesis 3.10).
    Transfer {
        /// Comes back with the outcome.
        token: Token,
        /// To whom; `None` picks the replica with the longest log.
        to: Option<ReplicaId>,
    },
    /// Every persist operation up to this one is in the page cache.
    Written(PersistSeq),
    /// Every persist operation up to this one is on disk.
    Persisted(PersistSeq),
    /// Messages to this peer may have been lost: its connection broke or it is not there.
    PeerUnreachable(ReplicaId),
    /// The log cannot be read back at this index: what this replica promised to hold is not at
    /// hand. The group goes mute with [`Fault::LogUnreadable`], and another replica can lead it.
    LogUnreadable(LogIndex),
    /// Stand for election now, without waiting for the timeout. Ignored by a leader.
    Campaign,
}

/// What the driver has to do. Reused from step to step; the driver drains it.
#[derive(Debug, Default)]
pub struct Effects {
    /// Write this, then report [`Input::Written`] and [`Input::Persisted`]. If the driver leaves
    /// it here over several steps they merge into one operation.
    pub persist: Option<Persist>,
    /// Messages, those that may leave and those that wait for a disk.
    pub messages: Outbox,
    /// How the log changed, in order; the driver keeps its payloads in step.
    pub log_changes: Vec<LogChange>,
    /// Requests that ended.
    pub outcomes: Vec<(Token, Outcome)>,
    /// Entries up to here may be applied: committed, and durable here.
    pub appliable: Option<LogIndex>,
    /// The role or the known leader changed.
    pub role_changed: bool,
    /// The group met something impossible; it is mute from now on.
    pub fault: Option<Fault>,
}

impl Effects {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.persist.is_none()
            && self.messages.is_empty()
            && self.log_changes.is_empty()
            && self.outcomes.is_empty()
            && self.appliable.is_none()
            && !self.role_changed
            && self.fault.is_none()
    }
}

/// One operation on stable storage. Its parts take effect together and in this order: term and
/// vote, truncation, appended entries.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Persist {
    /// Names the operation; operations of a group complete in this order.
    pub seq: PersistSeq,
    /// Term and vote, if they changed.
    pub hard_state: Option<HardState>,
    /// Remove this index and all after it.
    pub truncate_from: Option<LogIndex>,
    /// Then append entries `first..=last`, whose payloads the driver holds.
    pub append: Option<(LogIndex, LogIndex)>,
}

/// How the log changed in a step.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum LogChange {
    /// This index and all after it are gone: they conflicted with the leader.
    Truncated {
        /// The first index that is gone.
        from: LogIndex,
    },
    /// This leader appended an entry of its own.
    Appended {
        /// Its position.
        index: LogIndex,
        /// Its term.
        term: Term,
        /// What it is for; a command is the one of this step's proposal.
        kind: EntryKind,
    },
    /// Entries `first..=last` of the append in this step are now part of the log.
    Received {
        /// The first entry taken.
        first: LogIndex,
        /// The last entry taken.
        last: LogIndex,
    },
}

/// The end of a request. There is exactly one for each token.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// The proposal is committed at this index and will be applied.
    Committed {
        /// Where.
        index: LogIndex,
        /// In which term.
        term: Term,
    },
    /// Another leader's entry is committed in the proposal's place: it never happened and never
    /// will.
    Superseded,
    /// The group went mute before the proposal was decided: the other replicas may still commit
    /// it, or replace it.
    Unknown,
    /// The read is linearizable once the state machine has applied this index.
    ReadReady {
        /// Apply at least so far first.
        index: LogIndex,
    },
    /// Leadership went to another replica.
    Transferred,
    /// Nothing happened; try again as the reason says.
    Refused(Refusal),
}

/// Why a request was refused. A refused request had no effect and may be retried.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Refusal {
    /// Another replica leads, or nobody does.
    NotLeader {
        /// Who leads, if known.
        leader: Option<ReplicaId>,
    },
    /// The leader is handing over; ask again in a moment.
    Transferring,
    /// Too much is uncommitted; ask again when some of it is committed.
    Overloaded {
        /// Bytes appended and not yet committed.
        uncommitted_bytes: u64,
    },
    /// Too many reads wait already.
    TooManyReads,
    /// Leadership was lost before the read was confirmed or the transfer was done.
    LeadershipLost,
    /// No such transfer target, or it did not take over in time.
    TransferFailed,
    /// The group met something impossible and is mute.
    Faulted,
}

/// Something that no correct peer, disk or driver can cause. The group stops taking part; other
/// groups go on. The values are the evidence.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// A leader's entry contradicts one that is already committed here.
    #[error(
        "committed entry {index} is of term {ours}, the leader of term {leader_term} sent {theirs}"
    )]
    CommittedConflict {
        /// Where.
        index: LogIndex,
        /// The term of the committed entry.
        ours: Term,
        /// The term the leader's entry has there.
        theirs: Term,
        /// The leader's term.
        leader_term: Term,
    },
    /// A leader contradicts what it sent before in the same term; a leader only appends.
    #[error(
        "the leader of term {leader_term} sent {index} as of term {ours}, and now as of {theirs}"
    )]
    LeaderRewrote {
        /// Where.
        index: LogIndex,
        /// The term of our entry, which the leader had confirmed.
        ours: Term,
        /// The term it gives the entry now.
        theirs: Term,
        /// The leader's term.
        leader_term: Term,
    },
    /// Two replicas claim to lead in one term.
    #[error("{first} and {second} both lead in term {term}")]
    TwoLeaders {
        /// The term.
        term: Term,
        /// The leader known so far.
        first: ReplicaId,
        /// The other one.
        second: ReplicaId,
    },
    /// An append whose terms fall or exceed its own, or whose indexes no log can reach.
    #[error("an append of term {term} after index {prev} has impossible terms or indexes")]
    UnsoundAppend {
        /// The append's term.
        term: Term,
        /// Its previous index.
        prev: LogIndex,
    },
    /// A peer acknowledged entries that were never sent.
    #[error("{peer} acknowledged {acknowledged}, our log ends at {last}")]
    AckBeyondLog {
        /// Who.
        peer: ReplicaId,
        /// What it claims to hold.
        acknowledged: LogIndex,
        /// Where our log ends.
        last: LogIndex,
    },
    /// The log cannot be read back.
    #[error("the log cannot be read back at {index}")]
    LogUnreadable {
        /// Where.
        index: LogIndex,
    },
    /// The driver acknowledged an operation that it was never given or has not taken yet.
    #[error("{seq} was acknowledged, but the last operation is {last}")]
    UnknownPersist {
        /// What was acknowledged.
        seq: PersistSeq,
        /// The newest operation.
        last: PersistSeq,
    },
    /// A term at the end of the number range: no correct cluster counts so far.
    #[error("{from} speaks in term {term}")]
    TermOverflow {
        /// Who.
        from: ReplicaId,
        /// Its term.
        term: Term,
    },
}

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

    /// Everything up to this operation is on disk.
    pub const fn seq(self) -> PersistSeq {
        self.seq
    }
}

impl Outbox {
    /// Takes the messages that depend on no disk.
    pub fn drain_ready(&mut self) -> impl Iterator<Item = Outgoing> + '_ {
        self.ready.drain(..)
    }

    /// Takes the messages that wait for a disk, still closed, to be kept until their operation
    /// is durable.
    pub fn drain_gated(&mut self) -> impl Iterator<Item = Gated> + '_ {
        self.gated.drain(..)
    }

    /// Whether no message is waiting.
    pub fn is_empty(&self) -> bool {
        self.ready.is_empty() && self.gated.is_empty()
    }

    pub(crate) fn send(&mut self, to: ReplicaId, message: Message, gate: Option<PersistSeq>) {
        let message = Outgoing { to, message };
        match gate {
            None => self.ready.push(message),
            Some(until) => self.gated.push(Gated { until, message }),
        }
    }
}
