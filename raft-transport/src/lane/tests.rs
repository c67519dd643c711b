//! Which message goes on which lane.

use raft_core::{
    Append, AppendReply, AppendResult, Campaign, Fence, Heartbeat, HeartbeatReply, Incarnation,
    LogIndex, LogTime, Micros, Recover, Rest, Session, Term, TermRuns, TimeoutNow, TransferRefused,
    Unwilling, Verdict, VoteReply, VoteRequest,
};

use super::*;

const TERM: Term = Term::new(1);
const INDEX: LogIndex = LogIndex::new(1);

fn append() -> Message {
    Message::Append(Append {
        term: TERM,
        session: Session::new(1),
        prev_index: INDEX,
        prev_term: TERM,
        runs: TermRuns::new(),
        configs: raft_core::Sparse::new(),
        commit: INDEX,
        quorum_durable: INDEX,
        acknowledge: raft_core::Acknowledge::Durable,
        time: LogTime::default(),
    })
}

fn append_reply() -> Message {
    let result = AppendResult::StaleTerm;
    Message::AppendReply(AppendReply { term: TERM, session: Session::new(1), result })
}

fn liveness() -> Vec<Message> {
    let request = VoteRequest {
        term: TERM,
        last_index: INDEX,
        last_term: TERM,
        attempt: 1,
        cause: Campaign::Timeout,
        acknowledge: raft_core::Acknowledge::Durable,
    };
    let reply = VoteReply { term: TERM, attempt: 1, verdict: Verdict::Granted };
    let (sent, rest) = (Micros::ZERO, Rest::Awake);
    let heartbeat =
        Heartbeat { term: TERM, commit: INDEX, quorum_durable: INDEX, read_seq: 1, sent, rest };
    let incarnation = Incarnation::new(1);
    vec![
        Message::PreVote(request),
        Message::PreVoteReply(reply),
        Message::Vote(request),
        Message::VoteReply(reply),
        Message::Heartbeat(heartbeat),
        Message::HeartbeatReply(HeartbeatReply { term: TERM, read_seq: 1, sent }),
        Message::ReadConfirm(heartbeat),
        Message::TimeoutNow(TimeoutNow {
            term: TERM,
            transfer: 1,
            last_index: INDEX,
            commit: INDEX,
            priority: 8,
        }),
        Message::TransferRefused(TransferRefused {
            term: TERM,
            transfer: 1,
            why: Unwilling::NotNow,
        }),
        Message::Recover(Recover { term: TERM, incarnation }),
        Message::Fence(Fence { term: TERM, incarnation, index: INDEX }),
    ]
}

#[test]
fn votes_and_heartbeats_take_control_in_every_policy_and_layout() {
    for bulk_append_min in [None, Some(0), Some(1), Some(u64::MAX)] {
        let policy = LanePolicy { bulk_append_min };
        for message in liveness() {
            let class = policy.class_for(&message, u64::MAX);
            assert_eq!(class, LaneClass::Control, "{message:?}");
            for layout in [LaneLayout::Single, LaneLayout::ControlBulk, LaneLayout::ControlDataBulk]
            {
                assert_eq!(layout.lane(class, 3), Lane::Control, "{layout:?}");
            }
        }
    }
}

#[test]
fn appends_go_to_bulk_from_the_threshold_on() {
    let default = LanePolicy::default();
    for (policy, bytes, class) in [
        (default, 0, LaneClass::Data),
        (default, 256 * 1024 - 1, LaneClass::Data),
        (default, 256 * 1024, LaneClass::Bulk),
        (LanePolicy { bulk_append_min: Some(0) }, 0, LaneClass::Bulk),
        (LanePolicy { bulk_append_min: None }, u64::MAX, LaneClass::Data),
    ] {
        assert_eq!(policy.class_for(&append(), bytes), class, "{policy:?} {bytes}");
    }
    assert_eq!(default.class_for(&append_reply(), 0), LaneClass::Data);
}

#[test]
fn each_layout_has_the_lanes_its_classes_map_to() {
    let data = Lane::Data { shard: 1 };
    for (layout, expected) in [
        (LaneLayout::Single, [Lane::Control; 3]),
        (LaneLayout::ControlBulk, [Lane::Control, Lane::Bulk, Lane::Bulk]),
        (LaneLayout::ControlDataBulk, [Lane::Control, data, Lane::Bulk]),
    ] {
        let classes = [LaneClass::Control, LaneClass::Data, LaneClass::Bulk];
        assert_eq!(classes.map(|class| layout.lane(class, 1)), expected);
        let lanes = layout.lanes(2);
        assert!(expected.iter().all(|lane| lanes.contains(lane)), "{layout:?}");
    }
    assert_eq!(LaneLayout::ControlDataBulk.lanes(4).len(), 6);
}

#[test]
fn mux_ids_are_reserved_ones_and_name_their_lane() {
    for (lane, id) in [
        (Lane::Control, 0xFFFF_FFF0),
        (Lane::Data { shard: 0 }, 0xFFFF_FF00),
        (Lane::Data { shard: 0xDF }, 0xFFFF_FFDF),
        (Lane::Bulk, 0xFFFF_FFFE),
    ] {
        assert_eq!(lane.group_id(), GroupId::new(id));
        assert_eq!(Lane::from_group_id(GroupId::new(id)), Some(lane));
        assert!(lane.group_id() >= RESERVED_FIRST);
    }
    for id in [0, 99, 0xFFFF_FEFF, 0xFFFF_FFE0, 0xFFFF_FFF1, 0xFFFF_FFFF] {
        assert_eq!(Lane::from_group_id(GroupId::new(id)), None, "{id:#x}");
    }
}

#[test]
fn sender_with_more_shards_shares_the_receivers_lanes() {
    let at = |shard, shards| Lane::Data { shard }.at_receiver(shards);
    assert_eq!(at(3, 4), Lane::Data { shard: 3 });
    assert_eq!(at(3, 2), Lane::Data { shard: 1 });
    assert_eq!(at(3, 0), Lane::Data { shard: 0 });
    assert_eq!(Lane::Control.at_receiver(2), Lane::Control);
}
