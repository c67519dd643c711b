//! Frames and peers for the tests of this crate.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use raft_core::{
    Acknowledge, Append, AppendReply, AppendResult, Campaign, Declined, Entry, EntryKind, Fence,
    GroupId, GroupIncarnation, Heartbeat, HeartbeatReply, Incarnation, LogIndex, LogTime,
    MEMBERS_MAX, Member, Membership, Message, Micros, NodeId, Promise, ReadIndex, ReadIndexReply,
    Recover, ReplicaId, Rest, Session, SnapshotMeta, SnapshotOffer, Standing, Term, TermRun,
    TermRuns, TimeoutNow, TransferRefused, Unwilling, Verdict, VoteReply, VoteRequest,
};

use crate::{
    CHUNK_DATA_MAX, Chunk, ChunkEnd, ConnectionId, ConnectionSetup, Direction, Ends, Envelope,
    Frame, HeartbeatItem, HeartbeatReplyItem, Identity, Lane, LaneClass, LaneConfig, LaneEvent,
    PeerRegistry, SNAPSHOT_DATA_MAX, STREAMS_MAX, SnapshotChunk, SnapshotPull, Transmit,
    USER_ITEM_MAX, UserFrame, UserItem, UserKind, encode,
};

pub(crate) const SENDER: Ends = Ends { local: NodeId::new(1), remote: NodeId::new(2) };
pub(crate) const RECEIVER: Ends = Ends { local: NodeId::new(2), remote: NodeId::new(1) };
pub(crate) const FRAME_MAX: u64 = (64 << 20) + (64 << 10);

pub(crate) fn envelope(message: Message) -> Envelope {
    Envelope {
        group: GroupId::new(7),
        group_incarnation: GroupIncarnation::new(3),
        from: ReplicaId::new(1),
        to: ReplicaId::new(2),
        message,
        entries: Vec::new(),
    }
}

/// An append after index 10 with a payload per entry, all of term 5.
pub(crate) fn append(payloads: impl IntoIterator<Item = Bytes>) -> Envelope {
    let term = Term::new(5);
    let entries: Vec<_> = payloads
        .into_iter()
        .zip(11..)
        .map(|(payload, index)| Entry {
            index: LogIndex::new(index),
            term,
            kind: EntryKind::Command,
            time: LogTime::new(1000 + index),
            payload,
        })
        .collect();
    let count = entries.len() as u64;
    let runs = (count > 0).then_some(TermRun { term, count }).into_iter().collect();
    let message = Message::Append(Append {
        term,
        session: Session::new(4),
        prev_index: LogIndex::new(10),
        prev_term: term,
        runs,
        configs: raft_core::Sparse::new(),
        commit: LogIndex::new(9),
        quorum_durable: LogIndex::new(9),
        acknowledge: Acknowledge::Durable,
        time: LogTime::default(),
    });
    Envelope { entries, ..envelope(message) }
}

pub(crate) fn heartbeat_item(group: u32, term: u64, commit: u64) -> HeartbeatItem {
    HeartbeatItem {
        group: GroupId::new(group),
        group_incarnation: GroupIncarnation::new(1),
        from: ReplicaId::new(1),
        to: ReplicaId::new(2),
        heartbeat: Heartbeat {
            term: Term::new(term),
            commit: LogIndex::new(commit),
            quorum_durable: LogIndex::new(commit),
            read_seq: 0,
            sent: Micros::ZERO,
            rest: Rest::Awake,
        },
    }
}

pub(crate) fn bytes_of(transmit: &mut Transmit) -> Vec<u8> {
    let mut bytes = Vec::new();
    while !transmit.is_empty() {
        let mut slices = [std::io::IoSlice::new(&[]); 8];
        let filled = transmit.io_slices(&mut slices);
        let count: usize = slices[..filled].iter().map(|slice| slice.len()).sum();
        slices[..filled].iter().for_each(|slice| bytes.extend_from_slice(slice));
        transmit.advance(count);
    }
    bytes
}

pub(crate) fn encoded(frame: &Frame) -> Vec<u8> {
    let mut transmit = Transmit::new();
    encode(&mut frame.clone(), SENDER, FRAME_MAX, u64::MAX, &mut transmit).unwrap();
    bytes_of(&mut transmit)
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn identity(node: u64) -> Identity {
    Identity {
        cluster: "c".to_owned(),
        node: NodeId::new(node),
        store: 0xA0 + u128::from(node),
        incarnation: Incarnation::new(1),
        life: 1,
        past: Vec::new(),
        shards: 1,
        features: 0,
    }
}

/// The registry of a node that knows nodes 1, 2 and 3.
pub(crate) fn registry(identity: Identity) -> PeerRegistry {
    let registry = PeerRegistry::new(identity, |_, _| {});
    for peer in 1..=3 {
        registry.set_peer(NodeId::new(peer), "");
    }
    registry
}

pub(crate) fn setup(
    registry: &PeerRegistry,
    config: &LaneConfig,
    direction: Direction,
) -> ConnectionSetup {
    ConnectionSetup {
        watch: crate::Watched::default(),
        grants: crate::GrantPool::default(),
        id: ConnectionId::new(1, direction),
        lane: Lane::Data { shard: 0 },
        config: config.clone(),
        registry: registry.clone(),
        counters: Arc::default(),
        certified: None,
    }
}

pub(crate) fn frames_of(events: &mut VecDeque<LaneEvent>) -> Vec<(Frame, u64)> {
    let frame = |event| match event {
        LaneEvent::Frame { frame, bytes, .. } => Some((frame, bytes)),
        LaneEvent::Up { .. } | LaneEvent::Down { .. } => None,
    };
    events.drain(..).filter_map(frame).collect()
}

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![0..300_u64, any::<u64>(), Just(u64::MAX)]
}

fn replica() -> impl Strategy<Value = ReplicaId> {
    prop_oneof![Just(1), Just(2), number()].prop_map(ReplicaId::new)
}

fn micros() -> impl Strategy<Value = Micros> {
    prop_oneof![Just(1000), number()].prop_map(Micros::new)
}

fn term() -> impl Strategy<Value = Term> {
    number().prop_map(Term::new)
}

fn index() -> impl Strategy<Value = LogIndex> {
    number().prop_map(LogIndex::new)
}

prop_compose! {
    fn heartbeat()(
        term in term(),
        commit in index(),
        lag in number(),
        read_seq in number(),
        sent in micros(),
        rest in prop::sample::select(vec![Rest::Awake, Rest::Quiesce]),
    ) -> Heartbeat {
        let quorum_durable = LogIndex::new(commit.get().saturating_sub(lag));
        Heartbeat { term, commit, quorum_durable, read_seq, sent, rest }
    }
}

prop_compose! {
    fn heartbeat_reply()(
        term in term(),
        read_seq in number(),
        sent in micros(),
    ) -> HeartbeatReply {
        HeartbeatReply { term, read_seq, sent }
    }
}

prop_compose! {
    fn vote_request()(
        term in term(),
        last_index in index(),
        last_term in term(),
        attempt in number(),
        cause in prop::sample::select(vec![
            Campaign::Timeout,
            Campaign::Transfer,
            Campaign::Barred,
        ]),
    ) -> VoteRequest {
        VoteRequest {
            term,
            last_index,
            last_term,
            attempt,
            cause,
            acknowledge: match attempt % 2 {
                0 => Acknowledge::Durable,
                _ => Acknowledge::Written,
            },
        }
    }
}

prop_compose! {
    fn vote_reply()(term in term(), attempt in number(), granted in any::<bool>()) -> VoteReply {
        let verdict = if granted { Verdict::Granted } else { Verdict::Refused };
        VoteReply { term, attempt, verdict }
    }
}

fn append_result() -> impl Strategy<Value = AppendResult> {
    prop_oneof![
        (index(), index(), index(), promise()).prop_map(|(durable, written, verified, promise)| {
            AppendResult::Accepted { durable, written, verified, promise }
        }),
        (index(), index(), term()).prop_map(|(prev_index, hint_index, hint_term)| {
            AppendResult::Rejected { prev_index, hint_index, hint_term }
        }),
        Just(AppendResult::StaleTerm),
        index().prop_map(|index| AppendResult::Receiving { index }),
        Just(AppendResult::Declined(Declined::DiskFull)),
        Just(AppendResult::Declined(Declined::SnapshotFailed)),
        Just(AppendResult::Declined(Declined::OtherStrategy)),
    ]
}

fn promise() -> impl Strategy<Value = Promise> {
    prop::sample::select(vec![Promise::Kept, Promise::Lost, Promise::Damaged, Promise::Unproven])
}

fn membership() -> impl Strategy<Value = Arc<Membership>> {
    vec((number(), any::<bool>()), 1..=MEMBERS_MAX).prop_map(|nodes| {
        let member = |(replica, (node, learner))| Member {
            replica: ReplicaId::new(replica),
            node: NodeId::new(node),
            standing: if learner && replica > 1 { Standing::Learner } else { Standing::Voter },
        };
        Arc::new(Membership::new((1..).zip(nodes).map(member)).unwrap())
    })
}

prop_compose! {
    fn snapshot_offer()(
        (term, meta_term, session) in (term(), term(), number()),
        (index, config_index) in (index(), index()),
        time in number(),
        membership in membership(),
    ) -> SnapshotOffer {
        let (session, time) = (Session::new(session), LogTime::new(time));
        let meta = SnapshotMeta { index, term: meta_term, time, config_index, membership };
        SnapshotOffer { term, session, meta }
    }
}

fn message() -> impl Strategy<Value = Message> {
    prop_oneof![
        vote_request().prop_map(Message::PreVote),
        vote_reply().prop_map(Message::PreVoteReply),
        vote_request().prop_map(Message::Vote),
        vote_reply().prop_map(Message::VoteReply),
        (term(), number(), append_result()).prop_map(|(term, session, result)| {
            Message::AppendReply(AppendReply { term, session: Session::new(session), result })
        }),
        heartbeat().prop_map(Message::Heartbeat),
        heartbeat_reply().prop_map(Message::HeartbeatReply),
        heartbeat().prop_map(Message::ReadConfirm),
        (term(), number(), index(), index(), any::<u8>()).prop_map(
            |(term, transfer, last_index, commit, priority)| {
                Message::TimeoutNow(TimeoutNow { term, transfer, last_index, commit, priority })
            },
        ),
        (term(), number(), 0..3_usize).prop_map(|(term, transfer, why)| {
            let why = [Unwilling::NotNow, Unwilling::LessEager, Unwilling::Withheld][why];
            Message::TransferRefused(TransferRefused { term, transfer, why })
        }),
        (term(), number()).prop_map(|(term, id)| Message::ReadIndex(ReadIndex { term, id })),
        (term(), number(), prop::option::of(index())).prop_map(|(term, id, index)| {
            Message::ReadIndexReply(ReadIndexReply { term, id, index })
        }),
        snapshot_offer().prop_map(Message::Snapshot),
        (term(), number()).prop_map(|(term, incarnation)| {
            Message::Recover(Recover { term, incarnation: Incarnation::new(incarnation) })
        }),
        (term(), number(), index()).prop_map(|(term, incarnation, index)| {
            Message::Fence(Fence { term, incarnation: Incarnation::new(incarnation), index })
        }),
    ]
}

fn payload() -> impl Strategy<Value = Bytes> {
    let size = prop_oneof![
        8 => 0..64_usize,
        4 => 4000..4200_usize,
        2 => 30_000..70_000_usize,
        1 => 200_000..600_000_usize,
    ];
    (size, any::<u8>()).prop_map(|(size, byte)| {
        (0..size).map(|i| (i as u8).wrapping_mul(31) ^ byte).collect::<Vec<_>>().into()
    })
}

prop_compose! {
    fn any_append()(
        prev_index in 0..u64::MAX / 2,
        numbers in (term(), number(), term(), index()),
        runs in vec((number(), vec((0..3_u8, number(), payload()), 1..6)), 0..5),
    ) -> (Message, Vec<Entry>) {
        let (term, session, prev_term, commit) = numbers;
        let mut entries = Vec::new();
        let mut term_runs = TermRuns::new();
        for (run_term, run) in runs {
            let term = Term::new(run_term);
            term_runs.push(TermRun { term, count: run.len() as u64 });
            for (kind, time, payload) in run {
                let index = LogIndex::new(prev_index + 1 + entries.len() as u64);
                let kind = EntryKind::from_code(kind).unwrap();
                entries.push(Entry { index, term, kind, time: LogTime::new(time), payload });
            }
        }
        let message = Message::Append(Append {
            term,
            session: Session::new(session),
            prev_index: LogIndex::new(prev_index),
            prev_term,
            runs: term_runs,
            configs: raft_core::Sparse::new(),
            commit,
            quorum_durable: LogIndex::new(commit.get() / 2),
            acknowledge: match session % 2 {
                0 => Acknowledge::Durable,
                _ => Acknowledge::Written,
            },
            time: LogTime::default(),
        });
        (message, entries)
    }
}

prop_compose! {
    fn any_envelope()(
        group in any::<u32>(),
        group_incarnation in any::<u32>(),
        from in replica(),
        to in replica(),
        (message, entries) in prop_oneof![
            message().prop_map(|message| (message, Vec::new())).boxed(),
            any_append().boxed(),
        ],
    ) -> Envelope {
        Envelope {
            group: GroupId::new(group),
            group_incarnation: GroupIncarnation::new(group_incarnation),
            from,
            to,
            message,
            entries,
        }
    }
}

prop_compose! {
    fn item()(
        group in prop_oneof![0..50_u32, any::<u32>()],
        incarnation in prop_oneof![0..3_u32, any::<u32>()],
        from in replica(),
        to in replica(),
        heartbeat in heartbeat(),
    ) -> HeartbeatItem {
        HeartbeatItem {
            group: GroupId::new(group),
            group_incarnation: GroupIncarnation::new(incarnation),
            from,
            to,
            heartbeat,
        }
    }
}

prop_compose! {
    fn snapshot_place()(
        group in any::<u32>(),
        incarnation in any::<u32>(),
        index in index(),
        term in term(),
        offset in number(),
    ) -> SnapshotPull {
        SnapshotPull {
            group: GroupId::new(group),
            group_incarnation: GroupIncarnation::new(incarnation),
            index,
            term,
            offset,
        }
    }
}

fn reply_of(item: HeartbeatItem) -> HeartbeatReplyItem {
    let HeartbeatItem { group, group_incarnation, from, to, heartbeat } = item;
    let Heartbeat { term, read_seq, sent, .. } = heartbeat;
    let reply = HeartbeatReply { term, read_seq, sent };
    HeartbeatReplyItem { group, group_incarnation, from, to, reply }
}

fn any_chunk() -> impl Strategy<Value = Chunk> {
    let numbers = (0..STREAMS_MAX, number(), prop::option::of(number()), 0..3_u8);
    (numbers, payload()).prop_map(|((stream, offset, total, end), data)| {
        let end = match (end, total) {
            (0, _) => ChunkEnd::Last,
            (1, None) => ChunkEnd::Abandoned,
            _ => ChunkEnd::More,
        };
        let len = if end == ChunkEnd::Abandoned { 0 } else { data.len().min(CHUNK_DATA_MAX) };
        let offset = if total.is_some() { 0 } else { offset };
        Chunk { stream, offset, total, end, data: data.slice(..len) }
    })
}

fn any_user() -> impl Strategy<Value = UserFrame> {
    let head = (0..UserKind::COUNT, any::<u32>(), 0..3_u8, any::<bool>());
    (head, payload(), vec(payload(), 0..4)).prop_map(
        |((kind, group, class, newer_replaces), body, payloads)| UserFrame {
            kind: UserKind::new(kind).unwrap(),
            group: GroupId::new(group),
            class: match class {
                0 => LaneClass::Control,
                1 => LaneClass::Data,
                _ => LaneClass::Bulk,
            },
            newer_replaces,
            body,
            payloads,
        },
    )
}

fn user_items() -> impl Strategy<Value = Vec<UserItem>> {
    vec((prop_oneof![0..50_u32, any::<u32>()], payload()), 1..40).prop_map(|items| {
        let mut items: Vec<UserItem> = items
            .into_iter()
            .map(|(group, bytes)| UserItem {
                group: GroupId::new(group),
                bytes: bytes.slice(..bytes.len().min(USER_ITEM_MAX)),
            })
            .collect();
        items.sort_by_key(|item| item.group);
        items
    })
}

/// Any frame as it arrives: batches are sorted and not empty.
pub(crate) fn any_frame() -> impl Strategy<Value = Frame> {
    let items = vec(item(), 1..40)
        .prop_map(|mut items| {
            items.sort_by_key(|item| item.group);
            items
        })
        .boxed();
    prop_oneof![
        6 => any_envelope().prop_map(Frame::Message).boxed(),
        1 => items.clone().prop_map(Frame::Heartbeats),
        1 => items.clone().prop_map(Frame::ReadConfirms),
        1 => items.prop_map(|items| {
            Frame::HeartbeatReplies(items.into_iter().map(reply_of).collect())
        }),
        1 => snapshot_place().prop_map(Frame::SnapshotPull),
        1 => (snapshot_place(), number(), any::<u32>(), payload()).prop_map(
            |(place, total, sum, data)| {
                let data = data.slice(..data.len().min(SNAPSHOT_DATA_MAX));
                Frame::SnapshotChunk(SnapshotChunk { place, total, sum, data })
            }
        ),
        1 => number().prop_map(|wall| Frame::Clock { wall: LogTime::new(wall) }),
        1 => any::<bool>().prop_map(|ails| {
            Frame::Condition(if ails { crate::Condition::Ailing } else { crate::Condition::Well })
        }),
        2 => any_user().prop_map(Frame::User),
        1 => user_items().prop_map(Frame::UserItems),
        1 => any_chunk().prop_map(Frame::Chunk),
        1 => number().prop_map(|bytes| Frame::Grant { bytes }),
        1 => number().prop_map(|bytes| Frame::Credit { bytes }),
        1 => number().prop_map(|nonce| Frame::Ping { nonce }),
        1 => number().prop_map(|nonce| Frame::Pong { nonce }),
    ]
}
