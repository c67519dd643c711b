//! Frames as bytes: golden bytes of each kind.

use bytes::Bytes;
use raft_core::{
    AppendReply, AppendResult, Campaign, EntryKind, Heartbeat, HeartbeatReply, LogTime, ReplicaId,
    Session, Term, TermRun, TimeoutNow, Verdict, VoteReply, VoteRequest,
};

use super::*;
use crate::HeartbeatReplyItem;
use crate::testing::{FRAME_MAX, SENDER, append, bytes_of, encoded, envelope, heartbeat_item, hex};

fn golden_frames() -> Vec<(Frame, &'static str)> {
    let term = Term::new(300);
    let index = LogIndex::new(1000);
    let request = VoteRequest {
        term,
        last_index: index,
        last_term: Term::new(2),
        attempt: 4,
        cause: Campaign::Transfer,
    };
    let reply = VoteReply { term, attempt: 4, verdict: Verdict::Refused };
    let heartbeat = Heartbeat { term, commit: index, read_seq: 6 };
    let heartbeat_reply = HeartbeatReply { term, read_seq: 6 };
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
    let items = vec![heartbeat_item(7, 300, 1000), heartbeat_item(8, 300, 5), other];
    let replies = items
        .iter()
        .map(|item| HeartbeatReplyItem {
            group: item.group,
            group_incarnation: item.group_incarnation,
            from: item.from,
            to: item.to,
            reply: HeartbeatReply { term: item.heartbeat.term, read_seq: item.heartbeat.read_seq },
        })
        .collect();
    let now = TimeoutNow { term, transfer: 3, last_index: index };
    let message = |message| Frame::Message(envelope(message));
    vec![
        (
            message(Message::PreVote(request)),
            "f10100000700000008000000000000006fd247a403ac02e807020401",
        ),
        (
            message(Message::PreVoteReply(reply)),
            "f102000007000000050000000000000068f2b9d603ac020401",
        ),
        (
            message(Message::Vote(request)),
            "f10300000700000008000000000000001f32e04f03ac02e807020401",
        ),
        (message(Message::VoteReply(reply)), "f1040000070000000500000000000000e6c3316503ac020401"),
        (
            Frame::Message(entries),
            concat!(
                "f1050000070000001900000005000000f3167aa2",
                "0305040a05090105020201e60f054cbb719a0002000000000068656c6c6f"
            ),
        ),
        (
            answer(AppendResult::Accepted {
                durable: LogIndex::new(1),
                written: LogIndex::new(2),
                verified: LogIndex::new(3),
            }),
            "f1060000070000000800000000000000ce9233f403ac020400010203",
        ),
        (
            answer(AppendResult::Rejected {
                prev_index: LogIndex::new(1),
                hint_index: LogIndex::new(2),
                hint_term: Term::new(3),
            }),
            "f10600000700000008000000000000007638762903ac020401010203",
        ),
        (answer(AppendResult::StaleTerm), "f106000007000000050000000000000068dfe61803ac020402"),
        (
            message(Message::Heartbeat(heartbeat)),
            "f10700000700000006000000000000001674793803ac02e80706",
        ),
        (Frame::Message(stranger), "f10703000700000009000000000000004cb0addb0309c801ac02e80706"),
        (
            message(Message::HeartbeatReply(heartbeat_reply)),
            "f108000007000000040000000000000052f6a45203ac0206",
        ),
        (
            message(Message::ReadConfirm(heartbeat)),
            "f10900000700000006000000000000001097177e03ac02e80706",
        ),
        (message(Message::TimeoutNow(now)), "f10a00000700000006000000000000001eb53d7803ac0203e807"),
        (
            Frame::Heartbeats(items.clone()),
            "f1100000000000000f00000000000000108a5f57070701ac02e807000538050606e807",
        ),
        (
            Frame::ReadConfirms(items),
            "f1110000000000000f0000000000000019cbe442070701ac02e807000538050606e807",
        ),
        (
            Frame::HeartbeatReplies(replies),
            "f1120000000000000a00000000000000f7145f34070701ac020038050606",
        ),
        (Frame::Credit { bytes: 1 << 20 }, "f1200000000000000300000000000000706358fe808040"),
        (Frame::Ping { nonce: 300 }, "f12100000000000002000000000000005dabe506ac02"),
        (Frame::Pong { nonce: 300 }, "f1220000000000000200000000000000bccfc8e6ac02"),
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
        let result = encode(&mut Frame::Message(envelope), SENDER, FRAME_MAX, &mut transmit);
        assert_eq!(result, Err(FrameError::EntriesDiffer { group }));
        assert!(transmit.is_empty());
    };
    fn runs(envelope: &mut Envelope) -> &mut Vec<TermRun> {
        match &mut envelope.message {
            Message::Append(append) => &mut append.runs,
            other => panic!("{other:?}"),
        }
    }
    bad(|envelope| drop(envelope.entries.pop()));
    bad(|envelope| envelope.entries[0].index = LogIndex::new(12));
    bad(|envelope| envelope.entries[1].term = Term::new(6));
    bad(|envelope| runs(envelope)[0].count = 3);
    bad(|envelope| runs(envelope).push(TermRun { term: Term::new(5), count: 0 }));
    bad(|envelope| {
        let heartbeat = Heartbeat { term: Term::new(1), commit: LogIndex::ZERO, read_seq: 0 };
        envelope.message = Message::Heartbeat(heartbeat);
    });
}

#[test]
fn too_many_entries_and_too_many_bytes_are_refused_and_leave_nothing() {
    let mut transmit = Transmit::new();
    let count = APPEND_ENTRIES_MAX + 1;
    let many = append((0..count).map(|_| Bytes::new()));
    let result = encode(&mut Frame::Message(many), SENDER, FRAME_MAX, &mut transmit);
    assert_eq!(result, Err(FrameError::TooManyEntries { count }));
    let large = append([Bytes::from(vec![0; 1000])]);
    let result = encode(&mut Frame::Message(large), SENDER, 1000, &mut transmit);
    assert!(matches!(result, Err(FrameError::TooLarge { max: 1000, .. })), "{result:?}");
    assert!(transmit.is_empty());
}

#[test]
fn the_most_and_longest_entries_fit_the_body() {
    let mut frame = append((0..APPEND_ENTRIES_MAX).map(|_| Bytes::from_static(b"x")));
    for (entry, time) in frame.entries.iter_mut().zip([0, u64::MAX].into_iter().cycle()) {
        entry.time = LogTime::new(time);
    }
    let encoded = encode(&mut Frame::Message(frame), SENDER, FRAME_MAX, &mut Transmit::new());
    encoded.unwrap();
}

#[test]
fn large_payloads_are_queued_by_reference_and_small_ones_gathered() {
    let large = Bytes::from(vec![1; 5000]);
    let small = Bytes::from_static(b"small");
    let mut frame = Frame::Message(append([small.clone(), large.clone(), small.clone(), small]));
    let mut transmit = Transmit::new();
    encode(&mut frame, SENDER, FRAME_MAX, &mut transmit).unwrap();
    let mut slices = [std::io::IoSlice::new(&[]); 8];
    let filled = transmit.io_slices(&mut slices);
    assert_eq!(filled, 3, "what precedes, the payload itself, what follows");
    assert_eq!(slices[1].as_ptr(), large.as_ptr());
    assert_eq!(bytes_of(&mut transmit).len() as u64, encoded(&frame).len() as u64);
}
