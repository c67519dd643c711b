//! What replicas of a group say to one another.
//!
//! A message names its term; who sent it, in which life of its node, and to whom, is the
//! driver's envelope (see [`Input::Message`](crate::Input::Message)). Payloads are not here: an
//! [`Append`] names index range and terms, and the driver attaches the bytes.

use alloc::vec::Vec;

use crate::id::{LogIndex, Term};

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
        }
    }
}

/// A candidate's request, in the pre-vote and in the vote.
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
}

/// Why a candidate stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Campaign {
    /// It heard no leader for an election timeout.
    Timeout,
    /// The leader asked it to; receivers must not hold on to that leader (thesis 3.10).
    Transfer,
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

/// So many consecutive entries of one term.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TermRun {
    /// Their term.
    pub term: Term,
    /// How many; at least one.
    pub count: u64,
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
    pub runs: Vec<TermRun>,
    /// Where the leader's commit index stands.
    pub commit: LogIndex,
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

    /// Whether a correct leader could have sent this.
    fn is_sound(&self) -> bool {
        let mut term = self.prev_term;
        self.runs.iter().all(|run| {
            let sound = run.count > 0 && run.term >= term && run.term <= self.term;
            term = run.term;
            sound
        }) && self.prev_term <= self.term
            && self.last_index() <= LogIndex::LIMIT
            && (self.prev_index == LogIndex::ZERO) == (self.prev_term == Term::ZERO)
            && self.runs.first().is_none_or(|run| run.term > Term::ZERO)
    }

    pub(crate) fn check(&self) -> Result<(), crate::Fault> {
        if self.is_sound() {
            Ok(())
        } else {
            Err(crate::Fault::UnsoundAppend { term: self.term, prev: self.prev_index })
        }
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

/// What became of an append at the follower.
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
    },
    /// The previous entry is not there, or is of another term.
    Rejected {
        /// From the append, so that only the newest probe is believed.
        prev_index: LogIndex,
        /// The follower's largest index not beyond `prev_index` whose term is not beyond
        /// `prev_term`: no entry above it can match.
        hint_index: LogIndex,
        /// The term of that entry.
        hint_term: Term,
    },
    /// The term is over; `AppendReply::term` names the newer one.
    StaleTerm,
}

/// The leader's sign of life.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Heartbeat {
    /// The leader's term.
    pub term: Term,
    /// min(match of this peer, commit): never more than the peer is known to hold.
    pub commit: LogIndex,
    /// The newest read waiting for confirmation; zero if none ever was in this term.
    pub read_seq: u64,
}

/// The answer to a heartbeat or a read confirmation.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct HeartbeatReply {
    /// The receiver's term. Newer than the leader's: it is deposed.
    pub term: Term,
    /// From the request.
    pub read_seq: u64,
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
}
