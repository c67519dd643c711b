//! Bodies as they are on the wire: one struct per kind of frame.
//!
//! They repeat the core's types on purpose. The core's may change with the code; these may only
//! change together with [`FRAME_VERSION`](crate::FRAME_VERSION), and golden bytes watch them.

use bytes::BytesMut;
use raft_core::{
    Append, AppendReply, AppendResult, Campaign, Heartbeat, HeartbeatReply, LogIndex, Session,
    Term, TimeoutNow, Verdict, VoteReply, VoteRequest,
};
use serde::{Deserialize, Serialize};

/// Writes a struct of at most ten numbers.
pub(crate) fn put<T: Serialize>(out: &mut BytesMut, value: &T) {
    let mut scratch = [0; 128];
    let bytes = postcard::to_slice(value, &mut scratch)
        .expect("ten varints of at most ten bytes fit into 128");
    out.extend_from_slice(bytes);
}

/// Reads a struct off the front and cuts it off.
pub(crate) fn take<'de, T: Deserialize<'de>>(bytes: &mut &'de [u8]) -> Option<T> {
    let (value, rest) = postcard::take_from_bytes(bytes).ok()?;
    *bytes = rest;
    Some(value)
}

#[derive(Deserialize, Serialize)]
pub(crate) enum CampaignWire {
    Timeout,
    Transfer,
}

#[derive(Deserialize, Serialize)]
pub(crate) struct VoteRequestWire {
    term: u64,
    last_index: u64,
    last_term: u64,
    attempt: u64,
    cause: CampaignWire,
}

impl From<&VoteRequest> for VoteRequestWire {
    fn from(m: &VoteRequest) -> Self {
        Self {
            term: m.term.get(),
            last_index: m.last_index.get(),
            last_term: m.last_term.get(),
            attempt: m.attempt,
            cause: match m.cause {
                Campaign::Timeout => CampaignWire::Timeout,
                Campaign::Transfer => CampaignWire::Transfer,
            },
        }
    }
}

impl From<VoteRequestWire> for VoteRequest {
    fn from(m: VoteRequestWire) -> Self {
        Self {
            term: Term::new(m.term),
            last_index: LogIndex::new(m.last_index),
            last_term: Term::new(m.last_term),
            attempt: m.attempt,
            cause: match m.cause {
                CampaignWire::Timeout => Campaign::Timeout,
                CampaignWire::Transfer => Campaign::Transfer,
            },
        }
    }
}

#[derive(Deserialize, Serialize)]
pub(crate) enum VerdictWire {
    Granted,
    Refused,
}

#[derive(Deserialize, Serialize)]
pub(crate) struct VoteReplyWire {
    term: u64,
    attempt: u64,
    verdict: VerdictWire,
}

impl From<&VoteReply> for VoteReplyWire {
    fn from(m: &VoteReply) -> Self {
        Self {
            term: m.term.get(),
            attempt: m.attempt,
            verdict: match m.verdict {
                Verdict::Granted => VerdictWire::Granted,
                Verdict::Refused => VerdictWire::Refused,
            },
        }
    }
}

impl From<VoteReplyWire> for VoteReply {
    fn from(m: VoteReplyWire) -> Self {
        Self {
            term: Term::new(m.term),
            attempt: m.attempt,
            verdict: match m.verdict {
                VerdictWire::Granted => Verdict::Granted,
                VerdictWire::Refused => Verdict::Refused,
            },
        }
    }
}

/// What precedes the runs and the entries of an append.
#[derive(Deserialize, Serialize)]
pub(crate) struct AppendWire {
    term: u64,
    session: u64,
    prev_index: u64,
    prev_term: u64,
    commit: u64,
}

impl From<&Append> for AppendWire {
    fn from(m: &Append) -> Self {
        Self {
            term: m.term.get(),
            session: m.session.get(),
            prev_index: m.prev_index.get(),
            prev_term: m.prev_term.get(),
            commit: m.commit.get(),
        }
    }
}

impl From<AppendWire> for Append {
    fn from(m: AppendWire) -> Self {
        Self {
            term: Term::new(m.term),
            session: Session::new(m.session),
            prev_index: LogIndex::new(m.prev_index),
            prev_term: Term::new(m.prev_term),
            runs: Vec::new(),
            commit: LogIndex::new(m.commit),
        }
    }
}

/// One of an append's runs.
#[derive(Deserialize, Serialize)]
pub(crate) struct TermRunWire {
    pub(crate) term: u64,
    pub(crate) count: u64,
}

/// One of an append's entries; its payload follows the body. Index and term follow from the runs.
#[derive(Deserialize, Serialize)]
pub(crate) struct EntryWire {
    pub(crate) kind: u8,
    /// The time, less that of the entry before; the first one's as it is.
    pub(crate) time_delta: i64,
    pub(crate) payload_len: u32,
    /// Little-endian crc32c of the payload.
    pub(crate) payload_crc: [u8; 4],
}

impl EntryWire {
    /// The fewest bytes an entry can take in the body.
    pub(crate) const BYTES_MIN: usize = 7;
}

#[derive(Deserialize, Serialize)]
pub(crate) enum AppendResultWire {
    Accepted { durable: u64, written: u64, verified: u64 },
    Rejected { prev_index: u64, hint_index: u64, hint_term: u64 },
    StaleTerm,
}

#[derive(Deserialize, Serialize)]
pub(crate) struct AppendReplyWire {
    term: u64,
    session: u64,
    result: AppendResultWire,
}

impl From<&AppendReply> for AppendReplyWire {
    fn from(m: &AppendReply) -> Self {
        Self {
            term: m.term.get(),
            session: m.session.get(),
            result: match m.result {
                AppendResult::Accepted { durable, written, verified } => {
                    AppendResultWire::Accepted {
                        durable: durable.get(),
                        written: written.get(),
                        verified: verified.get(),
                    }
                }
                AppendResult::Rejected { prev_index, hint_index, hint_term } => {
                    AppendResultWire::Rejected {
                        prev_index: prev_index.get(),
                        hint_index: hint_index.get(),
                        hint_term: hint_term.get(),
                    }
                }
                AppendResult::StaleTerm => AppendResultWire::StaleTerm,
            },
        }
    }
}

impl From<AppendReplyWire> for AppendReply {
    fn from(m: AppendReplyWire) -> Self {
        Self {
            term: Term::new(m.term),
            session: Session::new(m.session),
            result: match m.result {
                AppendResultWire::Accepted { durable, written, verified } => {
                    AppendResult::Accepted {
                        durable: LogIndex::new(durable),
                        written: LogIndex::new(written),
                        verified: LogIndex::new(verified),
                    }
                }
                AppendResultWire::Rejected { prev_index, hint_index, hint_term } => {
                    AppendResult::Rejected {
                        prev_index: LogIndex::new(prev_index),
                        hint_index: LogIndex::new(hint_index),
                        hint_term: Term::new(hint_term),
                    }
                }
                AppendResultWire::StaleTerm => AppendResult::StaleTerm,
            },
        }
    }
}

#[derive(Deserialize, Serialize)]
pub(crate) struct HeartbeatWire {
    term: u64,
    commit: u64,
    read_seq: u64,
}

impl From<&Heartbeat> for HeartbeatWire {
    fn from(m: &Heartbeat) -> Self {
        Self { term: m.term.get(), commit: m.commit.get(), read_seq: m.read_seq }
    }
}

impl From<HeartbeatWire> for Heartbeat {
    fn from(m: HeartbeatWire) -> Self {
        Self { term: Term::new(m.term), commit: LogIndex::new(m.commit), read_seq: m.read_seq }
    }
}

#[derive(Deserialize, Serialize)]
pub(crate) struct HeartbeatReplyWire {
    term: u64,
    read_seq: u64,
}

impl From<&HeartbeatReply> for HeartbeatReplyWire {
    fn from(m: &HeartbeatReply) -> Self {
        Self { term: m.term.get(), read_seq: m.read_seq }
    }
}

impl From<HeartbeatReplyWire> for HeartbeatReply {
    fn from(m: HeartbeatReplyWire) -> Self {
        Self { term: Term::new(m.term), read_seq: m.read_seq }
    }
}

#[derive(Deserialize, Serialize)]
pub(crate) struct TimeoutNowWire {
    term: u64,
    transfer: u64,
    last_index: u64,
}

impl From<&TimeoutNow> for TimeoutNowWire {
    fn from(m: &TimeoutNow) -> Self {
        Self { term: m.term.get(), transfer: m.transfer, last_index: m.last_index.get() }
    }
}

impl From<TimeoutNowWire> for TimeoutNow {
    fn from(m: TimeoutNowWire) -> Self {
        Self {
            term: Term::new(m.term),
            transfer: m.transfer,
            last_index: LogIndex::new(m.last_index),
        }
    }
}

/// The body of a credit, ping or pong frame.
#[derive(Deserialize, Serialize)]
pub(crate) struct NumberWire {
    pub(crate) number: u64,
}
