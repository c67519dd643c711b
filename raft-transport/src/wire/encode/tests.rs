//! Frames as bytes: golden bytes of each kind.

use bytes::Bytes;
use raft_core::{
    AppendReply, AppendResult, Campaign, Declined, EntryKind, Fence, GroupIncarnation, Heartbeat,
    HeartbeatReply, Incarnation, LogTime, MEMBERS_MAX, Membership, Micros, Promise, ReadIndex,
    ReadIndexReply, Recover, ReplicaId, Rest, Session, SnapshotMeta, SnapshotOffer, Term, TermRun,
    TermRuns, TimeoutNow, TransferRefused, Unwilling, Verdict, VoteReply, VoteRequest,
};

use super::*;
use crate::testing::{FRAME_MAX, SENDER, append, bytes_of, encoded, envelope, heartbeat_item, hex};
use crate::{
    Chunk, ChunkEnd, Condition, HeartbeatReplyItem, LaneClass, UserFrame, UserItem, UserKind,
};

fn golden_frames() -> Vec<(Frame, &'static str)> {
    let term = Term::new(300);
    let index = LogIndex::new(1000);
    let request = VoteRequest {
        term,
        last_index: index,
        last_term: Term::new(2),
        attempt: 4,
        cause: Campaign::Transfer,
        acknowledge: raft_core::Acknowledge::Durable,
    };
    let reply = VoteReply { term, attempt: 4, verdict: Verdict::Refused };
    let sent = Micros::new(5000);
    let heartbeat = Heartbeat {
        term,
        commit: index,
        quorum_durable: index,
        read_seq: 6,
        sent,
        rest: Rest::Quiesce,
    };
    let heartbeat_reply = HeartbeatReply { term, read_seq: 6, sent };
    let mut entries = append([Bytes::from_static(b"hello"), Bytes::new()]);
    entries.entries[1].kind = EntryKind::Noop;
    let mut stranger = envelope(Message::Heartbeat(heartbeat));
    stranger.from = ReplicaId::new(9);
    stranger.to = ReplicaId::new(200);
    let answer = |result| {
        let session = Session::new(4);
        Frame::Message(envelope(Message::AppendReply(AppendReply { term, session, result })))
    };
    let mut other = heartbeat_item(9, 300, 1000);
    other.from = ReplicaId::new(5);
    other.to = ReplicaId::new(6);
    other.heartbeat.read_seq = 6;
    other.heartbeat.rest = Rest::Quiesce;
    let mut items = vec![heartbeat_item(7, 300, 1000), heartbeat_item(8, 300, 5), other];
    items.iter_mut().for_each(|item| item.heartbeat.sent = sent);
    items[1].heartbeat.quorum_durable = LogIndex::new(3);
    let replies = items
        .iter()
        .map(|item| HeartbeatReplyItem {
            group: item.group,
            group_incarnation: item.group_incarnation,
            from: item.from,
            to: item.to,
            reply: HeartbeatReply { term, read_seq: item.heartbeat.read_seq, sent },
        })
        .collect();
    let now = TimeoutNow { term, transfer: 3, last_index: index, commit: index, priority: 8 };
    let incarnation = Incarnation::new(3);
    let members = Membership::of_voters([ReplicaId::new(1), ReplicaId::new(2)]).unwrap();
    let offer = SnapshotOffer {
        term,
        session: Session::new(4),
        meta: SnapshotMeta {
            index,
            term: Term::new(2),
            time: LogTime::new(7),
            config_index: LogIndex::new(5),
            membership: std::sync::Arc::new(members),
        },
    };
    let place = SnapshotPull {
        group: GroupId::new(7),
        group_incarnation: GroupIncarnation::new(3),
        index,
        term: Term::new(2),
        offset: 300,
    };
    let message = |message| Frame::Message(envelope(message));
    vec![
        (
            message(Message::PreVote(request)),
            "f1010000070000000900000000000000bda163999a67e83203ac02e80702040100",
        ),
        (
            message(Message::PreVoteReply(reply)),
            "f10200000700000005000000000000000920d65268f2b9d603ac020401",
        ),
        (
            message(Message::Vote(request)),
            "f1030000070000000900000000000000bf5b7e5677949b4303ac02e80702040100",
        ),
        (
            message(Message::VoteReply(reply)),
            "f1040000070000000500000000000000fe581c06e6c3316503ac020401",
        ),
        (
            Frame::Message(entries),
            concat!(
                "f1050000070000001b00000005000000f94bddb23be44ac5",
                "0305040a050909000105020201e60f054cbb719a0002000000000068656c6c6f"
            ),
        ),
        (
            answer(AppendResult::Accepted {
                durable: LogIndex::new(1),
                written: LogIndex::new(2),
                verified: LogIndex::new(3),
                promise: Promise::Lost,
            }),
            "f10600000700000009000000000000004b2427aa7ca6f39003ac02040001020301",
        ),
        (
            answer(AppendResult::Rejected {
                prev_index: LogIndex::new(1),
                hint_index: LogIndex::new(2),
                hint_term: Term::new(3),
            }),
            "f10600000700000008000000000000006c591be37638762903ac020401010203",
        ),
        (
            answer(AppendResult::StaleTerm),
            "f1060000070000000500000000000000fca201c968dfe61803ac020402",
        ),
        (
            answer(AppendResult::Receiving { index }),
            "f1060000070000000700000000000000b258795bd544f43903ac020403e807",
        ),
        (
            answer(AppendResult::Declined(Declined::SnapshotFailed)),
            "f106000007000000060000000000000095254512d853d7de03ac02040401",
        ),
        (
            answer(AppendResult::Declined(Declined::OtherStrategy)),
            "f1060000070000000600000000000000952545122ca087cd03ac02040402",
        ),
        (
            message(Message::Heartbeat(heartbeat)),
            "f1070000070000000b000000000000000423d15f1017fd9903ac02e807e80706882701",
        ),
        (
            Frame::Message(stranger),
            "f1070300070000000e000000000000008423f9cb8a9165e70309c801ac02e807e80706882701",
        ),
        (
            message(Message::HeartbeatReply(heartbeat_reply)),
            "f1080000070000000600000000000000792ecc7478d397f903ac02068827",
        ),
        (
            message(Message::ReadConfirm(heartbeat)),
            "f1090000070000000b00000000000000e8285839bb59821c03ac02e807e80706882701",
        ),
        (
            message(Message::TimeoutNow(now)),
            "f10a0000070000000900000000000000a5d5b3035ecd079b03ac0203e807e80708",
        ),
        (
            message(Message::TransferRefused(TransferRefused {
                term,
                transfer: 3,
                why: Unwilling::Withheld,
            })),
            "f10b000007000000050000000000000013ae1b077df4343703ac020302",
        ),
        (
            message(Message::ReadIndex(ReadIndex { term, id: 6 })),
            "f10c0000070000000400000000000000c256637d2c2891bd03ac0206",
        ),
        (
            message(Message::ReadIndexReply(ReadIndexReply { term, id: 6, index: Some(index) })),
            "f10d0000070000000700000000000000aa2ca9c1c79eb5c603ac020601e807",
        ),
        (
            message(Message::ReadIndexReply(ReadIndexReply { term, id: 6, index: None })),
            "f10d0000070000000500000000000000e4d6d153af4caf3803ac020600",
        ),
        (
            message(Message::Snapshot(offer)),
            "f10e0000070000003600000000000000a33a70a98ebbd41b03ac0204e8070207052c0102000000000000000201000000000000000100000000000000000200000000000000020000000000000000",
        ),
        (
            message(Message::Recover(Recover { term, incarnation })),
            "f10f0000070000000400000000000000c151f0d5e89fc14603ac0203",
        ),
        (
            message(Message::Fence(Fence { term, incarnation, index })),
            "f110000007000000060000000000000054bb09227c7fddda03ac0203e807",
        ),
        (
            Frame::SnapshotPull(place),
            "f1110000070000000600000000000000554687457e6c898703e80702ac02",
        ),
        (
            Frame::SnapshotChunk(SnapshotChunk {
                place,
                total: 500,
                sum: 0x0102_0304,
                data: Bytes::from_static(b"hello"),
            }),
            "f1120000070000001100000000000000e64d3b936318a67103e80702ac02f4030403020168656c6c6f",
        ),
        (
            Frame::Heartbeats(items.clone()),
            "f118000000000000140000000000000025171190fee98105470701ac028827e80780020502b801050606e807",
        ),
        (
            Frame::ReadConfirms(items),
            "f119000000000000140000000000000024ea9ff7dd7f4724470701ac028827e80780020502b801050606e807",
        ),
        (
            Frame::HeartbeatReplies(replies),
            "f11a0000000000000c0000000000000049e041995a8905d9470701ac0288270038050606",
        ),
        (
            Frame::Clock { wall: LogTime::new(1_790_000_000_000) },
            "f11b0000000000000600000000000000dce38c2e339b065b80d8c1a28c34",
        ),
        (Frame::Condition(Condition::Well), "f11c00000000000001000000000000002e6391e7cbf35fde00"),
        (Frame::Condition(Condition::Ailing), "f11c00000000000001000000000000002e6391e7c870342c01"),
        (
            Frame::Credit { bytes: 1 << 20 },
            "f1200000000000000300000000000000d442f671706358fe808040",
        ),
        (Frame::Ping { nonce: 300 }, "f1210000000000000200000000000000f2c2445f5dabe506ac02"),
        (
            Frame::Chunk(Chunk {
                stream: 3,
                offset: 0,
                total: Some(70_000),
                end: ChunkEnd::More,
                data: Bytes::from_static(b"hello"),
            }),
            "f1230100000000000a000000000000006c696586b31d77a70300f0a20468656c6c6f",
        ),
        (
            Frame::Chunk(Chunk {
                stream: 3,
                offset: 69_995,
                total: None,
                end: ChunkEnd::Last,
                data: Bytes::from_static(b"world"),
            }),
            "f1230200000000000900000000000000cf1128a1f70b630603eba204776f726c64",
        ),
        (
            Frame::Chunk(Chunk {
                stream: 3,
                offset: 5,
                total: None,
                end: ChunkEnd::Abandoned,
                data: Bytes::new(),
            }),
            "f1230400000000000200000000000000191ba8c5e5c8d3c80305",
        ),
        (Frame::Grant { bytes: 70_000 }, "f124000000000000030000000000000021c021ead434504bf0a204"),
        (
            Frame::User(UserFrame {
                kind: UserKind::new(31).unwrap(),
                group: GroupId::new(7),
                class: LaneClass::Bulk,
                newer_replaces: true,
                body: Bytes::from_static(b"body"),
                payloads: vec![Bytes::from_static(b"one"), Bytes::from_static(b"three")],
            }),
            "f15f0600070000000f00000008000000ee3045b46f9fbd580203e9b2942a05bc51441c626f64796f6e657468726565",
        ),
        (
            Frame::UserItems(
                [(7, &b"a"[..]), (7, b""), (300, b"bc")]
                    .map(|(group, bytes)| UserItem {
                        group: GroupId::new(group),
                        bytes: Bytes::from_static(bytes),
                    })
                    .into(),
            ),
            "f1600000000000000a0000000000000000d506ed4b92c4100701610000a502026263",
        ),
        (Frame::Pong { nonce: 300 }, "f1220000000000000200000000000000f1c5d7f7bccfc8e6ac02"),
    ]
}

/// If this fails, the wire format has changed: older nodes could no longer read it. That takes a
/// new `FRAME_VERSION` and a word in the changelog.
#[test]
fn every_kind_has_its_golden_bytes() {
    let mut seen = Vec::new();
    for (frame, golden) in golden_frames() {
        let bytes = encoded(&frame);
        seen.push(FrameKind::from_code(bytes[1]).unwrap());
        assert_eq!(hex(&bytes), golden, "{frame:?}");
    }
    for kind in FrameKind::ALL {
        assert!(seen.contains(&kind), "no golden bytes for {kind:?}");
    }
}

#[test]
fn entries_must_be_those_the_runs_name() {
    let good = append([Bytes::from_static(b"a"), Bytes::from_static(b"b")]);
    let bad = |change: fn(&mut Envelope)| {
        let mut envelope = good.clone();
        change(&mut envelope);
        let mut transmit = Transmit::new();
        let group = envelope.group;
        let result =
            encode(&mut Frame::Message(envelope), SENDER, FRAME_MAX, u64::MAX, &mut transmit);
        assert_eq!(result, Err(FrameError::EntriesDiffer { group }));
        assert!(transmit.is_empty());
    };
    fn runs(envelope: &mut Envelope) -> &mut TermRuns {
        match &mut envelope.message {
            Message::Append(append) => &mut append.runs,
            other => panic!("{other:?}"),
        }
    }
    bad(|envelope| drop(envelope.entries.pop()));
    bad(|envelope| envelope.entries[0].index = LogIndex::new(12));
    bad(|envelope| envelope.entries[1].term = Term::new(6));
    bad(|envelope| {
        *runs(envelope) = [TermRun { term: Term::new(5), count: 3 }].into_iter().collect()
    });
    bad(|envelope| runs(envelope).push(TermRun { term: Term::new(5), count: 0 }));
    bad(|envelope| {
        envelope.message = Message::Heartbeat(heartbeat_item(7, 1, 0).heartbeat);
    });
}

#[test]
fn offer_to_a_group_of_the_largest_size_fits_its_frame() {
    let members = (1..=MEMBERS_MAX as u64).map(|member| ReplicaId::new(u64::MAX - member));
    let membership = std::sync::Arc::new(Membership::of_voters(members).unwrap());
    let (index, term, time) =
        (LogIndex::new(u64::MAX), Term::new(u64::MAX), LogTime::new(u64::MAX));
    let meta = SnapshotMeta { index, term, time, config_index: index, membership };
    let offer = SnapshotOffer { term, session: Session::new(u64::MAX), meta };
    let frame = Frame::Message(envelope(Message::Snapshot(offer)));
    assert!(encoded(&frame).len() < 1300);
}

#[test]
fn too_many_entries_and_too_many_bytes_are_refused_and_leave_nothing() {
    let mut transmit = Transmit::new();
    let count = APPEND_ENTRIES_MAX + 1;
    let many = append((0..count).map(|_| Bytes::new()));
    let result = encode(&mut Frame::Message(many), SENDER, FRAME_MAX, u64::MAX, &mut transmit);
    assert_eq!(result, Err(FrameError::TooManyEntries { count }));
    let large = append([Bytes::from(vec![0; 1000])]);
    let result = encode(&mut Frame::Message(large), SENDER, 1000, u64::MAX, &mut transmit);
    assert!(matches!(result, Err(FrameError::TooLarge { max: 1000, .. })), "{result:?}");
    assert!(transmit.is_empty());
}

#[test]
fn the_most_and_longest_entries_fit_the_body() {
    let mut frame = append((0..APPEND_ENTRIES_MAX).map(|_| Bytes::from_static(b"x")));
    for (entry, time) in frame.entries.iter_mut().zip([0, u64::MAX].into_iter().cycle()) {
        entry.time = LogTime::new(time);
    }
    let encoded =
        encode(&mut Frame::Message(frame), SENDER, FRAME_MAX, u64::MAX, &mut Transmit::new());
    encoded.unwrap();
}

#[test]
fn large_payloads_are_queued_by_reference_and_small_ones_gathered() {
    let large = Bytes::from(vec![1; 5000]);
    let small = Bytes::from_static(b"small");
    let mut frame = Frame::Message(append([small.clone(), large.clone(), small.clone(), small]));
    let mut transmit = Transmit::new();
    encode(&mut frame, SENDER, FRAME_MAX, u64::MAX, &mut transmit).unwrap();
    let mut slices = [std::io::IoSlice::new(&[]); 8];
    let filled = transmit.io_slices(&mut slices);
    assert_eq!(filled, 3, "what precedes, the payload itself, what follows");
    assert_eq!(slices[1].as_ptr(), large.as_ptr());
    assert_eq!(bytes_of(&mut transmit).len() as u64, encoded(&frame).len() as u64);
}

/// A chunk is as long as its sender likes; a receiver that takes less gets less, and asks again.
#[test]
fn a_chunk_that_is_too_long_for_its_receiver_is_cut() {
    let place = SnapshotPull {
        group: GroupId::new(7),
        group_incarnation: GroupIncarnation::new(3),
        index: LogIndex::new(u64::MAX),
        term: Term::new(u64::MAX),
        offset: u64::MAX,
    };
    for max in [66_000, 10_000, 1_000, 300] {
        let data = Bytes::from(vec![7; crate::SNAPSHOT_DATA_MAX]);
        let mut frame =
            Frame::SnapshotChunk(SnapshotChunk { place, total: u64::MAX, sum: 1, data });
        let mut transmit = Transmit::new();
        let encoded = encode(&mut frame, SENDER, max, u64::MAX, &mut transmit).unwrap();
        assert!(encoded.bytes <= max && encoded.bytes > max - 256, "{} of {max}", encoded.bytes);
        let Frame::SnapshotChunk(chunk) = frame else { panic!("it is one still") };
        assert!(!chunk.data.is_empty());
    }
}
