//! What goes into a group and what comes out of it: plain data in both directions.
//!
//! Invariant: every token that goes in comes out exactly once, in an [`Outcome`].

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::entry::{EntryKind, HardState};
use crate::id::{Incarnation, LogIndex, LogTime, PersistSeq, ReplicaId, Term, Token};
use crate::membership::{MemberChange, MembershipError};
use crate::message::{Message, SnapshotMeta};
use crate::outbox::Outbox;
use crate::settings::{Acknowledge, Base, PromiseRecord};

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
        /// What to stamp the entry with. Nothing is stamped earlier than the entry before it. A
        /// driver whose entries expire by it should not believe a single wall clock.
        time: LogTime,
    },
    /// Find an index at which a read is linearizable (thesis 6.4).
    Read {
        /// Comes back with the outcome.
        token: Token,
        /// By which means.
        path: ReadPath,
    },
    /// Hand leadership over (thesis 3.10).
    Transfer {
        /// Comes back with the outcome.
        token: Token,
        /// To whom. `None`: to the first by rank among the voters that are heard and hold all that
        /// is committed; if it will not, to the next, until nobody is left.
        to: Option<ReplicaId>,
    },
    /// Hand leadership over to this voter as a courtesy: it was heard lately, holds all that is
    /// committed, and obeys only if it is at least as eager to lead as this replica. Else nothing
    /// happens.
    Yield {
        /// Comes back with the outcome.
        token: Token,
        /// To whom: [`Group::first_by_rank`](crate::Group::first_by_rank), as a rule.
        to: ReplicaId,
    },
    /// Whether this replica takes office from now on.
    Candidacy(Candidacy),
    /// Whether a peer does, as its node says of itself. Told to a leader, which neither picks nor
    /// accepts one that takes none as the target of a transfer, until it is told otherwise; a
    /// later leadership, of this replica too, knows nothing of it. Others need not know.
    PeerCandidacy(ReplicaId, Candidacy),
    /// Change who belongs to the group (thesis, chapter 4). Refused unless the last change and an
    /// entry of the leader's own term are committed.
    ChangeMembership {
        /// Comes back with the outcome: committed once the change is certain. If it went through
        /// a joint step, whoever leads leaves that by itself.
        token: Token,
        /// What to change, all of it together.
        changes: Vec<MemberChange>,
    },
    /// Every persist operation up to this one is in the page cache.
    Written(PersistSeq),
    /// Every persist operation up to this one is on disk.
    Persisted(PersistSeq),
    /// This operation, or one before it, failed for good. The group goes mute: a disk that failed
    /// to flush once may lie the next time.
    PersistFailed(PersistSeq),
    /// Messages to this peer may have been lost: its connection broke or it is not there. Wakes a
    /// sleeping group that it led.
    PeerUnreachable(ReplicaId),
    /// The log cannot be read back at this index: what this replica promised to hold is not at
    /// hand. The group goes mute with [`Fault::LogUnreadable`], and another replica can lead it.
    LogUnreadable(LogIndex),
    /// The log is damaged at this index: an entry there cannot be read back, and whether those behind
    /// it can is not known. Where nobody else could have it (a sole voter), or it is not to be learned
    /// again (a snapshot covers it), the group goes mute as with
    /// [`LogUnreadable`](Self::LogUnreadable). Otherwise the replica forgets the log from there on, says so
    /// ([`Promise::Damaged`](crate::Promise::Damaged)), and is filled anew: it leads no more, and counts again
    /// behind a fence. Its commit index falls, and what it says may be applied with it; a driver that
    /// has applied more goes on from where it is.
    LogDamaged(LogIndex),
    /// The state machine broke its contract at the entries from this index on: what they did to it
    /// is not known. The group goes mute with [`Fault::ApplyFailed`].
    ApplyFailed(LogIndex),
    /// Whether the disk has room. Without it a leader takes no proposals and hands over, a
    /// follower takes no entries; term and vote must still find room.
    Disk(DiskSpace),
    /// Stand for election now, without waiting for the timeout. Ignored by a leader, by one who
    /// hears a leader, and by one who may not vote.
    Campaign,
    /// End the group's sleep, if it sleeps.
    Wake,
    /// The state machine's state up to this index is durable as a snapshot of its own.
    SnapshotTaken(LogIndex),
    /// Forget the log up to this index, as far as a durable snapshot covers it.
    Compact(LogIndex),
    /// The snapshot that [`Effects::snapshot`] wanted is durable here, verified and whole.
    SnapshotReceived {
        /// Its last index.
        index: LogIndex,
        /// The term there.
        term: Term,
    },
    /// It is not, and nobody goes on trying.
    SnapshotFailed {
        /// Its last index.
        index: LogIndex,
    },
    /// The operator's word that entries may be lost: a replica whose promises are lost goes on as
    /// if they were kept, and the loss epoch rises. To be said to as many replicas as make a
    /// quorum, those with the newest logs among all that can be reached, and only when no quorum
    /// remembers; the newest of those logs is then elected as ever.
    AcceptLoss,
}

/// Whether a replica takes office. It votes, replicates and serves in any case.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum Candidacy {
    /// It stands for election when it hears no leader, and takes over when it is asked to.
    #[default]
    Ready,
    /// It stands for election, but takes nothing over: its state machine lags behind, and as a
    /// leader it would let everybody wait until that has caught up. A driver need not keep this up
    /// to date; it is enough to say it before a [`Message::TimeoutNow`] is handed in.
    Behind,
    /// It takes no office: its node is going to stop, or its disk hangs. It may be elected no more,
    /// not even if it was asking for votes. A leader stays one until it is told to hand over.
    Withheld,
}

/// How a read finds its index.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum ReadPath {
    /// The leader asks a quorum; refused elsewhere.
    #[default]
    Quorum,
    /// The leader trusts its lease while that lasts, and else asks a quorum; refused elsewhere,
    /// and where leases are [`Never`](crate::Lease::Never) it is always a quorum.
    Lease,
    /// Any replica: it asks the leader for the index, and serves the read itself.
    Follower,
}

/// Whether there is room on the disk.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum DiskSpace {
    /// There is.
    #[default]
    Ample,
    /// There is none but the reserve for term and vote.
    Full,
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
    /// What to do about snapshots.
    pub snapshot: Option<SnapshotEffect>,
    /// Entries up to here may be applied: committed, and durable here. After a
    /// [`LogChange::Reset`] the state machine starts from the snapshot first.
    pub appliable: Option<LogIndex>,
    /// The membership in force changed.
    pub membership_changed: bool,
    /// The role or the known leader changed.
    pub role_changed: bool,
    /// The group met something impossible; it is mute from now on.
    pub fault: Option<Fault>,
    /// A word came that no correct peer says, and nothing was done about it; the last one, if the
    /// driver leaves it here over several steps.
    pub disbelieved: Option<Disbelief>,
}

impl Effects {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        // By name, so that nobody adds one and forgets it here.
        let Self {
            persist,
            messages,
            log_changes,
            outcomes,
            snapshot,
            appliable,
            membership_changed,
            role_changed,
            fault,
            disbelieved,
        } = self;
        persist.is_none()
            && messages.is_empty()
            && log_changes.is_empty()
            && outcomes.is_empty()
            && snapshot.is_none()
            && appliable.is_none()
            && !membership_changed
            && !role_changed
            && fault.is_none()
            && disbelieved.is_none()
    }
}

/// What to do about a snapshot that was offered, or that this replica offers.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum SnapshotEffect {
    /// Fetch it, resuming what there is of it, and report
    /// [`SnapshotReceived`](Input::SnapshotReceived) or [`SnapshotFailed`](Input::SnapshotFailed).
    /// It replaces any wanted before.
    Fetch {
        /// Who has it.
        from: ReplicaId,
        /// Which it is.
        meta: SnapshotMeta,
    },
    /// It is not wanted any more.
    Abort {
        /// Its last index.
        index: LogIndex,
    },
    /// A peer that was offered this one says that it did not come, or was of no use. It may be the
    /// peer's own trouble; but if the bytes are not any more what was written, nobody else can say so.
    Doubted {
        /// Its last index.
        index: LogIndex,
    },
}

/// One operation on stable storage. Its parts take effect together and in this order: promise,
/// term and vote, installed snapshot, truncation, appended entries, compaction.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Persist {
    /// Names the operation; operations of a group complete in this order.
    pub seq: PersistSeq,
    /// Term and vote, if they changed.
    pub hard_state: Option<HardState>,
    /// Forget the whole log: it begins after this snapshot, which is durable already.
    pub install: Option<Box<SnapshotMeta>>,
    /// Remove this index and all after it.
    pub truncate_from: Option<LogIndex>,
    /// Then append entries `first..=last`, whose payloads the driver holds.
    pub append: Option<(LogIndex, LogIndex)>,
    /// Forget the log up to this base, which a durable snapshot covers.
    pub compact: Option<Box<Base>>,
    /// What to remember about lost promises.
    pub promise: Option<PromiseRecord>,
}

/// How the log changed in a step.
#[derive(Clone, Debug, Eq, PartialEq)]
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
        /// What it is for; a command is the one of this step's proposal, a membership is
        /// [`Group::membership_at`](crate::Group::membership_at) its index.
        kind: EntryKind,
        /// Its stamp.
        time: LogTime,
    },
    /// Entries `first..=last` of the append in this step are now part of the log.
    Received {
        /// The first entry taken.
        first: LogIndex,
        /// The last entry taken.
        last: LogIndex,
    },
    /// The whole log is gone; it goes on after this snapshot.
    Reset {
        /// The snapshot.
        meta: SnapshotMeta,
    },
    /// Entries up to here are gone: a snapshot covers them.
    Compacted {
        /// The last index that is gone.
        upto: LogIndex,
    },
}

/// The end of a request. There is exactly one for each token.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// The proposal, or the change of membership, is committed at this index.
    Committed {
        /// Where.
        index: LogIndex,
        /// In which term.
        term: Term,
    },
    /// Another leader's entry is committed in the proposal's place: it never happened and never
    /// will.
    Superseded,
    /// This replica cannot tell any more what became of the proposal: it went mute, or a snapshot
    /// covers the place where it would be.
    Unknown,
    /// The read is linearizable once the state machine has applied this index.
    ReadReady {
        /// Apply at least so far first.
        index: LogIndex,
    },
    /// The target was told to campaign, and a later term has begun. Who leads in it is seen as
    /// usual: as a rule the target, but another may have been elected, or nobody yet.
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
    /// There is nobody to hand over to: of the other voters none is heard, or those that are take
    /// no office any more.
    NoHeir,
    /// The group met something impossible and is mute.
    Faulted,
    /// The disk is full.
    DiskFull,
    /// A change of membership is under way, or not committed yet.
    ChangePending,
    /// The leader has not committed anything in its term yet, so it cannot know whether an
    /// earlier change is still open (the bug of 2015 in single-server changes).
    TermTooYoung,
    /// The learner lacks too much of the log to vote.
    NotCaughtUp {
        /// Which learner.
        replica: ReplicaId,
    },
    /// After the change no majority of the voters would be at hand, as far as the leader hears
    /// from them and may count them: it would stop the group.
    QuorumAtRisk,
    /// The change makes no sense.
    InvalidChange(MembershipError),
}

/// A word of a peer that no correct one says. It is passed over as if it had been lost: whatever is
/// wrong, it is not here. To be counted and told, since a peer that goes on saying such things is
/// out of the group until it is replaced.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Disbelief {
    /// Its term is more than 2^32 ahead of ours, or at the end of the number range. To adopt it
    /// would let one word use up all the terms that are left.
    #[error("{from} speaks in term {term}, far ahead of ours, {ours}")]
    FarTerm {
        /// Who.
        from: ReplicaId,
        /// Its term.
        term: Term,
        /// Ours.
        ours: Term,
    },
    /// It names an index that no log reaches.
    #[error("{from} names index {index}, which no log reaches")]
    FarIndex {
        /// Who.
        from: ReplicaId,
        /// The index.
        index: LogIndex,
    },
    /// The terms of an append or of a snapshot fall, or exceed the leader's own.
    #[error(
        "what {from} sends in term {term} from index {index} on has impossible terms or indexes"
    )]
    Unsound {
        /// Who.
        from: ReplicaId,
        /// Its term.
        term: Term,
        /// What comes before the entries, or where the snapshot ends.
        index: LogIndex,
    },
    /// The leader counts by another strategy than we do: specs of the group disagree.
    #[error("{from} counts what is {theirs}, we count what is {ours}")]
    OtherStrategy {
        /// Who.
        from: ReplicaId,
        /// What it counts.
        theirs: Acknowledge,
        /// What we do.
        ours: Acknowledge,
    },
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
    /// The state machine broke its contract.
    #[error("the state machine broke its contract at {index}")]
    ApplyFailed {
        /// The first entry that it cannot be said to have applied.
        index: LogIndex,
    },
    /// The disk failed to make an operation durable.
    #[error("{seq} could not be made durable")]
    PersistFailed {
        /// The operation.
        seq: PersistSeq,
    },
    /// A snapshot contradicts what is committed here.
    #[error("committed entry {index} is of term {ours}, the snapshot has {theirs} there")]
    SnapshotContradicts {
        /// Where the snapshot ends.
        index: LogIndex,
        /// The term of the committed entry.
        ours: Term,
        /// The snapshot's term.
        theirs: Term,
    },
    /// A driver broke its side of the contract.
    #[error("the driver: {0}")]
    Driver(&'static str),
    /// The driver acknowledged an operation that it was never given or has not taken yet.
    #[error("{seq} was acknowledged, but the last operation is {last}")]
    UnknownPersist {
        /// What was acknowledged.
        seq: PersistSeq,
        /// The newest operation.
        last: PersistSeq,
    },
}

/// How every input ends. The fault is boxed, because hardly any does end in one.
pub(crate) type StepResult = Result<(), Box<Fault>>;

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    #[test]
    fn whatever_there_is_to_do_is_not_nothing() {
        let nothing = Effects::default;
        assert!(nothing().is_empty());
        let index = LogIndex::new(1);
        let mut messages = Outbox::default();
        let message = Message::Fence(crate::Fence {
            term: Term::new(1),
            incarnation: Incarnation::new(1),
            index,
        });
        messages.send(ReplicaId::new(2), message.clone(), None);
        let mut gated = Outbox::default();
        gated.send(ReplicaId::new(2), message, Some(PersistSeq::new(1)));
        let change = LogChange::Truncated { from: index };
        for something in [
            Effects { persist: Some(Persist::default()), ..nothing() },
            Effects { messages, ..nothing() },
            Effects { messages: gated, ..nothing() },
            Effects { log_changes: vec![change], ..nothing() },
            Effects { outcomes: vec![(Token::new(1), Outcome::Unknown)], ..nothing() },
            Effects { snapshot: Some(SnapshotEffect::Abort { index }), ..nothing() },
            Effects { appliable: Some(index), ..nothing() },
            Effects { membership_changed: true, ..nothing() },
            Effects { role_changed: true, ..nothing() },
            Effects { fault: Some(Fault::LogUnreadable { index }), ..nothing() },
        ] {
            assert!(!something.is_empty(), "{something:?}");
        }
    }
}
