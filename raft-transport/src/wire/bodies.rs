//! Bodies as they are on the wire: one struct per kind of frame.
//!
//! They repeat the core's types on purpose. The core's may change with the code; these may only
//! change together with [`FRAME_VERSION`](crate::FRAME_VERSION), and golden bytes watch them.

use std::sync::Arc;

use bytes::BytesMut;
use raft_core::{
    Acknowledge, Append, AppendReply, AppendResult, Campaign, Declined, Fence, GroupId,
    GroupIncarnation, Heartbeat, HeartbeatReply, Incarnation, LogIndex, LogTime, MEMBERS_MAX,
    Membership, Micros, Promise, ReadIndex, ReadIndexReply, Recover, Rest, Session, SnapshotMeta,
    SnapshotOffer, Term, TermRuns, TimeoutNow, TransferRefused, Unwilling, Verdict, VoteReply,
    VoteRequest,
};
use serde::{Deserialize, Serialize};

use crate::wire::frame::SnapshotPull;

/// Writes a struct of at most ten numbers.
pub(crate) fn put<T: Serialize>(out: &mut BytesMut, value: &T) {
    let mut scratch = [0; 128];
    let bytes = postcard::to_slice(value, &mut scratch)
        .expect("ten varints of at most ten bytes fit into 128");
    out.extend_from_slice(bytes);
}

/// Writes a struct of at most ten numbers and a membership.
pub(crate) fn put_offer(out: &mut BytesMut, value: &SnapshotOffer) {
    const BYTES_MAX: usize = 128 + MEMBERS_MAX * 32;
    let membership = value.meta.membership.encode();
    let mut scratch = [0; BYTES_MAX];
    let bytes = postcard::to_slice(&SnapshotOfferWire::new(value, &membership), &mut scratch)
        .expect("a member takes less than 32 bytes");
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
    Barred,
}

#[derive(Deserialize, Serialize)]
pub(crate) struct VoteRequestWire {
    term: u64,
    last_index: u64,
    last_term: u64,
    attempt: u64,
    cause: CampaignWire,
    acknowledge: AcknowledgeWire,
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
                Campaign::Barred => CampaignWire::Barred,
            },
            acknowledge: m.acknowledge.into(),
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
                CampaignWire::Barred => Campaign::Barred,
            },
            acknowledge: m.acknowledge.into(),
        }
    }
}

#[derive(Deserialize, Serialize)]
pub(crate) enum VerdictWire {
    Granted,
    Refused,
    Removed,
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
                Verdict::Removed => VerdictWire::Removed,
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
                VerdictWire::Removed => Verdict::Removed,
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
    quorum_durable: u64,
    acknowledge: AcknowledgeWire,
}

#[derive(Deserialize, Serialize)]
pub(crate) enum AcknowledgeWire {
    Durable,
    Written,
}

impl From<Acknowledge> for AcknowledgeWire {
    fn from(acknowledge: Acknowledge) -> Self {
        match acknowledge {
            Acknowledge::Durable => Self::Durable,
            Acknowledge::Written => Self::Written,
        }
    }
}

impl From<AcknowledgeWire> for Acknowledge {
    fn from(acknowledge: AcknowledgeWire) -> Self {
        match acknowledge {
            AcknowledgeWire::Durable => Self::Durable,
            AcknowledgeWire::Written => Self::Written,
        }
    }
}

impl From<&Append> for AppendWire {
    fn from(m: &Append) -> Self {
        Self {
            term: m.term.get(),
            session: m.session.get(),
            prev_index: m.prev_index.get(),
            prev_term: m.prev_term.get(),
            commit: m.commit.get(),
            quorum_durable: m.quorum_durable.get(),
            acknowledge: m.acknowledge.into(),
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
            runs: TermRuns::new(),
            configs: raft_core::Sparse::new(),
            commit: LogIndex::new(m.commit),
            quorum_durable: LogIndex::new(m.quorum_durable),
            acknowledge: m.acknowledge.into(),
            time: LogTime::default(),
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
    Accepted { durable: u64, written: u64, verified: u64, promise: PromiseWire },
    Rejected { prev_index: u64, hint_index: u64, hint_term: u64 },
    StaleTerm,
    Receiving { index: u64 },
    Declined { why: DeclinedWire },
}

#[derive(Deserialize, Serialize)]
pub(crate) enum PromiseWire {
    Kept,
    Lost,
    Damaged,
    Unproven,
}

impl From<Promise> for PromiseWire {
    fn from(promise: Promise) -> Self {
        match promise {
            Promise::Kept => Self::Kept,
            Promise::Lost => Self::Lost,
            Promise::Damaged => Self::Damaged,
            Promise::Unproven => Self::Unproven,
        }
    }
}

impl From<PromiseWire> for Promise {
    fn from(promise: PromiseWire) -> Self {
        match promise {
            PromiseWire::Kept => Self::Kept,
            PromiseWire::Lost => Self::Lost,
            PromiseWire::Damaged => Self::Damaged,
            PromiseWire::Unproven => Self::Unproven,
        }
    }
}

#[derive(Deserialize, Serialize)]
pub(crate) enum DeclinedWire {
    DiskFull,
    SnapshotFailed,
    OtherStrategy,
}

impl From<Declined> for DeclinedWire {
    fn from(why: Declined) -> Self {
        match why {
            Declined::DiskFull => Self::DiskFull,
            Declined::SnapshotFailed => Self::SnapshotFailed,
            Declined::OtherStrategy => Self::OtherStrategy,
        }
    }
}

impl From<DeclinedWire> for Declined {
    fn from(why: DeclinedWire) -> Self {
        match why {
            DeclinedWire::DiskFull => Self::DiskFull,
            DeclinedWire::SnapshotFailed => Self::SnapshotFailed,
            DeclinedWire::OtherStrategy => Self::OtherStrategy,
        }
    }
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
                AppendResult::Accepted { durable, written, verified, promise } => {
                    AppendResultWire::Accepted {
                        durable: durable.get(),
                        written: written.get(),
                        verified: verified.get(),
                        promise: promise.into(),
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
                AppendResult::Receiving { index } => {
                    AppendResultWire::Receiving { index: index.get() }
                }
                AppendResult::Declined(why) => AppendResultWire::Declined { why: why.into() },
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
                AppendResultWire::Accepted { durable, written, verified, promise } => {
                    AppendResult::Accepted {
                        durable: LogIndex::new(durable),
                        written: LogIndex::new(written),
                        verified: LogIndex::new(verified),
                        promise: promise.into(),
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
                AppendResultWire::Receiving { index } => {
                    AppendResult::Receiving { index: LogIndex::new(index) }
                }
                AppendResultWire::Declined { why } => AppendResult::Declined(why.into()),
            },
        }
    }
}

#[derive(Deserialize, Serialize)]
pub(crate) enum RestWire {
    Awake,
    Quiesce,
}

#[derive(Deserialize, Serialize)]
pub(crate) struct HeartbeatWire {
    term: u64,
    commit: u64,
    quorum_durable: u64,
    read_seq: u64,
    sent: u64,
    rest: RestWire,
}

impl From<&Heartbeat> for HeartbeatWire {
    fn from(m: &Heartbeat) -> Self {
        Self {
            term: m.term.get(),
            commit: m.commit.get(),
            quorum_durable: m.quorum_durable.get(),
            read_seq: m.read_seq,
            sent: m.sent.get(),
            rest: match m.rest {
                Rest::Awake => RestWire::Awake,
                Rest::Quiesce => RestWire::Quiesce,
            },
        }
    }
}

impl From<HeartbeatWire> for Heartbeat {
    fn from(m: HeartbeatWire) -> Self {
        Self {
            term: Term::new(m.term),
            commit: LogIndex::new(m.commit),
            quorum_durable: LogIndex::new(m.quorum_durable),
            read_seq: m.read_seq,
            sent: Micros::new(m.sent),
            rest: match m.rest {
                RestWire::Awake => Rest::Awake,
                RestWire::Quiesce => Rest::Quiesce,
            },
        }
    }
}

#[derive(Deserialize, Serialize)]
pub(crate) struct HeartbeatReplyWire {
    term: u64,
    read_seq: u64,
    sent: u64,
}

impl From<&HeartbeatReply> for HeartbeatReplyWire {
    fn from(m: &HeartbeatReply) -> Self {
        Self { term: m.term.get(), read_seq: m.read_seq, sent: m.sent.get() }
    }
}

impl From<HeartbeatReplyWire> for HeartbeatReply {
    fn from(m: HeartbeatReplyWire) -> Self {
        Self { term: Term::new(m.term), read_seq: m.read_seq, sent: Micros::new(m.sent) }
    }
}

#[derive(Deserialize, Serialize)]
pub(crate) struct TimeoutNowWire {
    term: u64,
    transfer: u64,
    last_index: u64,
    commit: u64,
    priority: u8,
}

impl From<&TimeoutNow> for TimeoutNowWire {
    fn from(m: &TimeoutNow) -> Self {
        Self {
            term: m.term.get(),
            transfer: m.transfer,
            last_index: m.last_index.get(),
            commit: m.commit.get(),
            priority: m.priority,
        }
    }
}

impl From<TimeoutNowWire> for TimeoutNow {
    fn from(m: TimeoutNowWire) -> Self {
        Self {
            term: Term::new(m.term),
            transfer: m.transfer,
            last_index: LogIndex::new(m.last_index),
            commit: LogIndex::new(m.commit),
            priority: m.priority,
        }
    }
}

#[derive(Deserialize, Serialize)]
pub(crate) enum UnwillingWire {
    NotNow,
    LessEager,
    Withheld,
}

#[derive(Deserialize, Serialize)]
pub(crate) struct TransferRefusedWire {
    term: u64,
    transfer: u64,
    why: UnwillingWire,
}

impl From<&TransferRefused> for TransferRefusedWire {
    fn from(m: &TransferRefused) -> Self {
        Self {
            term: m.term.get(),
            transfer: m.transfer,
            why: match m.why {
                Unwilling::NotNow => UnwillingWire::NotNow,
                Unwilling::LessEager => UnwillingWire::LessEager,
                Unwilling::Withheld => UnwillingWire::Withheld,
            },
        }
    }
}

impl From<TransferRefusedWire> for TransferRefused {
    fn from(m: TransferRefusedWire) -> Self {
        Self {
            term: Term::new(m.term),
            transfer: m.transfer,
            why: match m.why {
                UnwillingWire::NotNow => Unwilling::NotNow,
                UnwillingWire::LessEager => Unwilling::LessEager,
                UnwillingWire::Withheld => Unwilling::Withheld,
            },
        }
    }
}

#[derive(Deserialize, Serialize)]
pub(crate) struct ReadIndexWire {
    term: u64,
    id: u64,
}

impl From<&ReadIndex> for ReadIndexWire {
    fn from(m: &ReadIndex) -> Self {
        Self { term: m.term.get(), id: m.id }
    }
}

impl From<ReadIndexWire> for ReadIndex {
    fn from(m: ReadIndexWire) -> Self {
        Self { term: Term::new(m.term), id: m.id }
    }
}

#[derive(Deserialize, Serialize)]
pub(crate) struct ReadIndexReplyWire {
    term: u64,
    id: u64,
    index: Option<u64>,
}

impl From<&ReadIndexReply> for ReadIndexReplyWire {
    fn from(m: &ReadIndexReply) -> Self {
        Self { term: m.term.get(), id: m.id, index: m.index.map(LogIndex::get) }
    }
}

impl From<ReadIndexReplyWire> for ReadIndexReply {
    fn from(m: ReadIndexReplyWire) -> Self {
        Self { term: Term::new(m.term), id: m.id, index: m.index.map(LogIndex::new) }
    }
}

/// A snapshot by name; the membership is in the bytes of [`Membership::encode`].
#[derive(Deserialize, Serialize)]
pub(crate) struct SnapshotOfferWire<'a> {
    term: u64,
    session: u64,
    index: u64,
    index_term: u64,
    time: u64,
    config_index: u64,
    membership: &'a [u8],
}

impl<'a> SnapshotOfferWire<'a> {
    fn new(m: &SnapshotOffer, membership: &'a [u8]) -> Self {
        Self {
            term: m.term.get(),
            session: m.session.get(),
            index: m.meta.index.get(),
            index_term: m.meta.term.get(),
            time: m.meta.time.get(),
            config_index: m.meta.config_index.get(),
            membership,
        }
    }

    /// The message; `None` if the membership is none.
    pub(crate) fn message(&self) -> Option<SnapshotOffer> {
        let membership = Arc::new(Membership::decode(self.membership).ok()?);
        let meta = SnapshotMeta {
            index: LogIndex::new(self.index),
            term: Term::new(self.index_term),
            time: LogTime::new(self.time),
            config_index: LogIndex::new(self.config_index),
            membership,
        };
        Some(SnapshotOffer {
            term: Term::new(self.term),
            session: Session::new(self.session),
            meta,
        })
    }
}

#[derive(Deserialize, Serialize)]
pub(crate) struct RecoverWire {
    term: u64,
    incarnation: u64,
}

impl From<&Recover> for RecoverWire {
    fn from(m: &Recover) -> Self {
        Self { term: m.term.get(), incarnation: m.incarnation.get() }
    }
}

impl From<RecoverWire> for Recover {
    fn from(m: RecoverWire) -> Self {
        Self { term: Term::new(m.term), incarnation: Incarnation::new(m.incarnation) }
    }
}

#[derive(Deserialize, Serialize)]
pub(crate) struct FenceWire {
    term: u64,
    incarnation: u64,
    index: u64,
}

impl From<&Fence> for FenceWire {
    fn from(m: &Fence) -> Self {
        Self { term: m.term.get(), incarnation: m.incarnation.get(), index: m.index.get() }
    }
}

impl From<FenceWire> for Fence {
    fn from(m: FenceWire) -> Self {
        Self {
            term: Term::new(m.term),
            incarnation: Incarnation::new(m.incarnation),
            index: LogIndex::new(m.index),
        }
    }
}

/// The body of a pull, and the beginning of that of a chunk.
#[derive(Deserialize, Serialize)]
pub(crate) struct SnapshotPullWire {
    incarnation: u32,
    index: u64,
    term: u64,
    offset: u64,
}

impl From<&SnapshotPull> for SnapshotPullWire {
    fn from(m: &SnapshotPull) -> Self {
        Self {
            incarnation: m.group_incarnation.get(),
            index: m.index.get(),
            term: m.term.get(),
            offset: m.offset,
        }
    }
}

impl SnapshotPullWire {
    pub(crate) fn of(&self, group: GroupId) -> SnapshotPull {
        SnapshotPull {
            group,
            group_incarnation: GroupIncarnation::new(self.incarnation),
            index: LogIndex::new(self.index),
            term: Term::new(self.term),
            offset: self.offset,
        }
    }
}

/// What a chunk says beside its place; its bytes are the rest of the body.
#[derive(Deserialize, Serialize)]
pub(crate) struct SnapshotChunkWire {
    pub(crate) total: u64,
    /// Little-endian.
    pub(crate) sum: [u8; 4],
}

/// The body of a credit, ping or pong frame.
#[derive(Deserialize, Serialize)]
pub(crate) struct NumberWire {
    pub(crate) number: u64,
}
