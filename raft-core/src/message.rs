//! What replicas of a group say to one another.
//!
//! A message names its term; who sent it, in which life of its node, and to whom, is the
//! driver's envelope (see [`Input::Message`](crate::Input::Message)). Payloads are not here: an
//! [`Append`] names index range and terms, and the driver attaches the bytes.

use alloc::sync::Arc;

use crate::id::{Incarnation, LogIndex, LogTime, Micros, Term};
use crate::membership::Membership;
use crate::settings::Acknowledge;
use crate::sparse::Sparse;
use crate::term_runs::TermRuns;

/// One message between two replicas of a group.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Message {
    /// Would you vote for me in this term? Changes nothing at the receiver (thesis 9.6).
    PreVote(VoteRequest),
    /// The answer to [`Message::PreVote`].
    PreVoteReply(VoteReply),
    /// Vote for me in this term (paper, RequestVote). Leaves only once the candidate's own term
    /// and vote are durable.
    Vote(VoteRequest),
    /// The answer to [`Message::Vote`]. A grant leaves only once it is durable.
    VoteReply(VoteReply),
    /// Entries, or a probe for where the logs agree (paper, AppendEntries).
    Append(Append),
    /// The answer to [`Message::Append`].
    AppendReply(AppendReply),
    /// The leader is alive. Not an empty append: it names no previous entry, so one that
    /// overtakes data can never be refused or truncate anything.
    Heartbeat(Heartbeat),
    /// The answer to [`Message::Heartbeat`] and to [`Message::ReadConfirm`].
    HeartbeatReply(HeartbeatReply),
    /// Are you still mine? Sent at once when reads wait for it (thesis 6.4).
    ReadConfirm(Heartbeat),
    /// Campaign now: your log is as long as mine (thesis 3.10).
    TimeoutNow(TimeoutNow),
    /// I will not campaign, says the target of a transfer.
    TransferRefused(TransferRefused),
    /// At which index may I read? A follower asks the leader (thesis 6.4).
    ReadIndex(ReadIndex),
    /// The answer to [`Message::ReadIndex`].
    ReadIndexReply(ReadIndexReply),
    /// Your log ends before mine begins: take my snapshot (paper, section 7). Names it only; its
    /// bytes are the driver's to move. Answered like an append.
    Snapshot(SnapshotOffer),
    /// I may have forgotten what I promised: where must I have caught up with you?
    Recover(Recover),
    /// The answer to [`Message::Recover`].
    Fence(Fence),
}

impl Message {
    /// The term this message speaks in; for a pre-vote, the term it asks about.
    pub const fn term(&self) -> Term {
        match self {
            Self::PreVote(m) | Self::Vote(m) => m.term,
            Self::PreVoteReply(m) | Self::VoteReply(m) => m.term,
            Self::Append(m) => m.term,
            Self::AppendReply(m) => m.term,
            Self::Heartbeat(m) | Self::ReadConfirm(m) => m.term,
            Self::HeartbeatReply(m) => m.term,
            Self::TimeoutNow(m) => m.term,
            Self::TransferRefused(m) => m.term,
            Self::ReadIndex(m) => m.term,
            Self::ReadIndexReply(m) => m.term,
            Self::Snapshot(m) => m.term,
            Self::Recover(m) => m.term,
            Self::Fence(m) => m.term,
        }
    }

    /// The largest index it names, counting the entries it carries.
    pub(crate) fn index_max(&self) -> LogIndex {
        match self {
            Self::PreVote(m) | Self::Vote(m) => m.last_index,
            Self::Append(m) => m.last_index().max(m.commit),
            Self::AppendReply(m) => match m.result {
                AppendResult::Accepted { durable, written, verified, .. } => {
                    durable.max(written).max(verified)
                }
                // The hint is one: it is believed no further than the log goes.
                AppendResult::Rejected { prev_index, .. } => prev_index,
                AppendResult::Receiving { index } => index,
                AppendResult::StaleTerm | AppendResult::Declined(_) => LogIndex::ZERO,
            },
            Self::Heartbeat(m) | Self::ReadConfirm(m) => m.commit,
            Self::TimeoutNow(m) => m.last_index.max(m.commit),
            Self::ReadIndexReply(m) => m.index.unwrap_or_default(),
            Self::Snapshot(m) => m.meta.index.max(m.meta.config_index),
            Self::Fence(m) => m.index,
            Self::PreVoteReply(_)
            | Self::VoteReply(_)
            | Self::HeartbeatReply(_)
            | Self::TransferRefused(_)
            | Self::ReadIndex(_)
            | Self::Recover(_) => LogIndex::ZERO,
        }
    }
}

/// A candidate's request, in the pre-vote and in the vote; or a question for the leader.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct VoteRequest {
    /// The term to be elected in.
    pub term: Term,
    /// Where the candidate's log ends.
    pub last_index: LogIndex,
    /// The term of its last entry.
    pub last_term: Term,
    /// Echoed by the reply, so that an answer to an earlier attempt counts for nothing.
    pub attempt: u64,
    /// Why the candidate stands.
    pub cause: Campaign,
    /// What the candidate would count as leader. Who counts otherwise gives it no vote.
    pub acknowledge: Acknowledge,
}

/// Why a candidate stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Campaign {
    /// It heard no leader for an election timeout.
    Timeout,
    /// The leader asked it to; receivers must not hold on to that leader (thesis 3.10).
    Transfer,
    /// It may not stand, and does not: it heard no leader for an election timeout and asks for one,
    /// which may sleep. Only in a pre-vote, which is refused.
    Barred,
}

/// The answer to a vote request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct VoteReply {
    /// The term granted in; with a refusal, the voter's own term, for the candidate to adopt.
    pub term: Term,
    /// From the request.
    pub attempt: u64,
    /// Yes or no.
    pub verdict: Verdict,
}

/// Yes or no to a candidate.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// The vote is given.
    Granted,
    /// The vote is refused.
    Refused,
    /// The vote is refused for ever: the voter knows a committed membership from after the
    /// candidate's time, without it. A removed replica that was out of reach learns it so.
    Removed,
}

/// Names one replication session: a leader's continuous dealing with one life of one peer.
///
/// The leader draws a new number whenever it starts over with a peer, replies echo it, and
/// replies of another session are dropped; so a late reply can never move `match`.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Session(u64);

impl Session {
    /// Wraps the plain number.
    pub const fn new(value: u64) -> Self {
        Self(value)
    }

    /// The plain number.
    pub const fn get(self) -> u64 {
        self.0
    }

    pub(crate) fn bump(&mut self) -> Self {
        self.0 += 1;
        *self
    }
}

/// Entries `prev_index + 1 ..`, or none at all: a probe.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Append {
    /// The leader's term.
    pub term: Term,
    /// The leader's session with this peer.
    pub session: Session,
    /// The entry just before the new ones.
    pub prev_index: LogIndex,
    /// Its term.
    pub prev_term: Term,
    /// The terms of the new entries, in runs. Terms ascend and none exceeds `term`.
    pub runs: TermRuns,
    /// The configuration entries among them, ascending by index. On the wire they travel as
    /// entries, and the driver reads them back with
    /// [`Membership::decode`](crate::Membership::decode).
    pub configs: Sparse<(LogIndex, Arc<Membership>)>,
    /// Where the leader's commit index stands.
    pub commit: LogIndex,
    /// Of that, what a quorum has on disk: as far as nothing can be lost any more, and so as far as
    /// a snapshot may become durable. The commit index, unless commits count before the disks.
    pub quorum_durable: LogIndex,
    /// By which strategy the leader counts. A replica with another one declines.
    pub acknowledge: Acknowledge,
    /// The time in the last of these entries; the driver takes it from there. Zero without any.
    pub time: LogTime,
}

impl Append {
    /// How many entries it carries.
    pub fn count(&self) -> u64 {
        self.runs.iter().fold(0, |sum, run| run.count.saturating_add(sum))
    }

    /// The index of its last entry; the previous entry's if it carries none.
    pub fn last_index(&self) -> LogIndex {
        self.prev_index.plus(self.count())
    }

    /// The index of its last entry, if a correct leader could have sent this.
    pub(crate) fn sound_end(&self) -> Option<LogIndex> {
        // The first entry's term is no less than its predecessor's, and not zero.
        let mut term = self.prev_term.max(Term::new(1));
        let mut end = self.prev_index;
        for run in &self.runs {
            if run.count == 0 || run.term < term {
                return None;
            }
            term = run.term;
            end = end.plus(run.count);
        }
        let newest = if self.runs.is_empty() { self.prev_term } else { term };
        let sound = newest <= self.term
            && (self.prev_index == LogIndex::ZERO) == (self.prev_term == Term::ZERO)
            && (self.configs.is_empty() || self.configs_lie_within(end));
        sound.then_some(end)
    }

    fn configs_lie_within(&self, end: LogIndex) -> bool {
        self.configs.windows(2).all(|pair| pair[0].0 < pair[1].0)
            && self.configs.first().is_none_or(|(index, _)| *index > self.prev_index)
            && self.configs.last().is_none_or(|(index, _)| *index <= end)
    }
}

/// The answer to an [`Append`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct AppendReply {
    /// The follower's term.
    pub term: Term,
    /// From the append.
    pub session: Session,
    /// What became of it.
    pub result: AppendResult,
}

/// What became of an append, or of a snapshot, at the follower.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum AppendResult {
    /// The logs agree. Three marks, each within the next.
    Accepted {
        /// On the follower's disk: what counts toward commit.
        durable: LogIndex,
        /// In its page cache: a process crash cannot take it back.
        written: LogIndex,
        /// In its memory: the next append continues here.
        verified: LogIndex,
        /// Whether these marks may be counted.
        promise: Promise,
    },
    /// The follower has another entry at `prev_index`, or none.
    Rejected {
        /// From the append.
        prev_index: LogIndex,
        /// The follower's last index whose term is at most the append's `prev_term`.
        hint_index: LogIndex,
        /// The term there.
        hint_term: Term,
    },
    /// The append came from a leader whose term is over.
    StaleTerm,
    /// The snapshot's bytes are on their way.
    Receiving {
        /// Up to where the snapshot reaches.
        index: LogIndex,
    },
    /// The follower cannot take it at the moment; the leader tries again later.
    Declined(Declined),
}

/// Why a follower takes nothing at the moment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Declined {
    /// Its disk is full.
    DiskFull,
    /// The bytes of the snapshot did not arrive whole, or not at all.
    SnapshotFailed,
    /// It counts by another strategy than the leader: what it would acknowledge is not what the
    /// leader takes it for. Specs of the group disagree between nodes.
    OtherStrategy,
}

/// Whether a replica remembers everything it promised.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum Promise {
    /// It does.
    #[default]
    Kept,
    /// It may have forgotten entries that it acknowledged and that were not on its disk. It neither
    /// votes nor counts until it has passed a fence. Memberships it remembers: they count only
    /// when durable. So the only voter of a group recovers alone.
    Lost,
    /// Its log was found damaged below what it had promised: any entry may be gone, memberships
    /// included. As [`Lost`](Self::Lost), but what it knows of the membership proves nothing
    /// either, so nobody recovers alone. Its newest term and vote are proven.
    Damaged,
    /// Its log was found damaged where its newest term or vote may have been. A fence proves nothing
    /// to it: the leader that gives one may have been deposed by a vote that is forgotten. It never
    /// votes or counts again, nor confirms that its leader leads; it is to be replaced by a replica
    /// with another id.
    Unproven,
}

/// The leader is alive, and up to here this follower may commit.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Heartbeat {
    /// The leader's term.
    pub term: Term,
    /// The smaller of the leader's commit index and what this follower is known to hold.
    pub commit: LogIndex,
    /// Of that, what a quorum has on disk, as in [`Append`].
    pub quorum_durable: LogIndex,
    /// The newest read waiting for confirmation; zero if none ever was in this term.
    pub read_seq: u64,
    /// When it left, on the leader's clock: a lease runs from here (thesis 6.4.1).
    pub sent: Micros,
    /// Whether the leader goes to sleep after this one.
    pub rest: Rest,
}

/// Whether heartbeats go on.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum Rest {
    /// They do.
    #[default]
    Awake,
    /// Nothing happens in this group and everybody holds everything: whoever has committed as far
    /// as this says needs no deadline until something happens.
    Quiesce,
}

/// The answer to a heartbeat or a read confirmation.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct HeartbeatReply {
    /// The receiver's term. Newer than the leader's: it is deposed.
    pub term: Term,
    /// From the request.
    pub read_seq: u64,
    /// From the request.
    pub sent: Micros,
}

/// The leader hands over.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TimeoutNow {
    /// The leader's term.
    pub term: Term,
    /// Which transfer this is.
    pub transfer: u64,
    /// Where the leader's log ended; a target whose log ends elsewhere ignores the request, so a
    /// delayed one is dead as soon as anything was appended.
    pub last_index: LogIndex,
    /// The leader's commit index. Heartbeats told the target less: by this it knows how far its
    /// state machine is behind.
    pub commit: LogIndex,
    /// Whoever is less eager to lead (see [`Settings::priority`](crate::Settings::priority)) is not
    /// meant.
    pub priority: u8,
}

/// The target of a transfer will not take over.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TransferRefused {
    /// The target's term.
    pub term: Term,
    /// From the request.
    pub transfer: u64,
    /// Why.
    pub why: Unwilling,
}

/// Why the target of a transfer will not take over.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Unwilling {
    /// It cannot at the moment: its state machine or its log lags behind, its disk is full, it may
    /// have forgotten what it promised; or the request is late.
    NotNow,
    /// It is less eager to lead than was asked for.
    LessEager,
    /// It takes no office any more.
    Withheld,
}

/// A follower wants to serve a read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ReadIndex {
    /// The follower's term.
    pub term: Term,
    /// The follower's own number for it, never used twice in one life.
    pub id: u64,
}

/// Where a follower may read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ReadIndexReply {
    /// The leader's term.
    pub term: Term,
    /// From the request.
    pub id: u64,
    /// Apply so far, then read; `None`: this replica could not tell.
    pub index: Option<LogIndex>,
}

/// What a snapshot stands for: everything up to an index, and who belongs to the group there.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SnapshotMeta {
    /// The last index it covers.
    pub index: LogIndex,
    /// The term there.
    pub term: Term,
    /// The time of the newest entry it covers.
    pub time: LogTime,
    /// Where the membership in force was decided; zero for the first one.
    pub config_index: LogIndex,
    /// The membership in force at `index`.
    pub membership: Arc<Membership>,
}

/// A leader's snapshot, by name.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SnapshotOffer {
    /// The leader's term.
    pub term: Term,
    /// The leader's session with this peer.
    pub session: Session,
    /// What it stands for.
    pub meta: SnapshotMeta,
}

/// A replica that may have forgotten promises asks for its fence.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Recover {
    /// Its term, which is the leader's.
    pub term: Term,
    /// The life that asks; a fence for another life is worth nothing.
    pub incarnation: Incarnation,
}

/// Where a replica must have caught up before it is trusted again.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Fence {
    /// The leader's term.
    pub term: Term,
    /// From the request.
    pub incarnation: Incarnation,
    /// Where the leader's log ended when it was asked: everything the replica can have
    /// acknowledged in this term lies below.
    pub index: LogIndex,
}
