//! Frames of another protocol on a connection: their order, and being replaced.

use raft_core::GroupId;

use super::*;
use crate::connection::replaceable::REPLACEABLE_MAX;
use crate::lane::LaneClass;
use crate::wire::hello::Protocol;
use crate::wire::user::{UserFrame, UserKind};

fn user(group: u32, size: usize, mark: u8) -> UserFrame {
    UserFrame {
        kind: UserKind::new(1).unwrap(),
        group: GroupId::new(group),
        class: LaneClass::Data,
        newer_replaces: false,
        body: vec![mark; 4].into(),
        payloads: vec![vec![mark; size].into()],
    }
}

fn replaceable(group: u32, mark: u8) -> UserFrame {
    UserFrame { newer_replaces: true, ..user(group, 1, mark) }
}

/// Group and mark of what was heard.
fn marks(pair: &mut Pair) -> Vec<(u32, u8)> {
    let frames = frames_of(&mut pair.b_events);
    let mark = |frame: &Frame| {
        let Frame::User(user) = frame else { panic!("{frame:?}") };
        (user.group.get(), user.body[0])
    };
    frames.iter().map(|(frame, _)| mark(frame)).collect()
}

#[test]
fn frames_of_a_group_keep_their_order_and_short_ones_pass_those_of_others() {
    let mut pair = Pair::open(&LaneConfig::data());
    for (group, size, mark) in [(1, 900_000, 1), (1, 10, 2), (2, 10, 3), (1, 3_000_000, 4)] {
        pair.a.queue(&mut Frame::User(user(group, size, mark))).unwrap();
    }
    pair.exchange_ok(at(1));
    assert_eq!(marks(&mut pair), [(2, 3), (1, 1), (1, 2), (1, 4)]);
}

#[test]
fn what_waits_is_replaced_by_what_is_newer_and_leaves_when_there_is_room() {
    let config = LaneConfig { window_bytes: 64 << 10, chunk_bytes: 0, ..LaneConfig::data() };
    let mut pair = Pair::open(&config);
    // The window is full now.
    pair.a.queue(&mut Frame::User(user(9, 70_000, 9))).unwrap();
    for (group, mark) in [(1, 1), (2, 2), (1, 3), (1, 4)] {
        assert_eq!(pair.a.queue_replaceable(replaceable(group, mark)), Ok(()));
    }
    pair.exchange_ok(at(1));
    let frames = frames_of(&mut pair.b_events);
    assert_eq!(frames.len(), 1, "only what filled the window");
    assert_eq!(pair.a.setup.counters.snapshot().frames_replaced, 2);
    pair.b.consumed(frames[0].1);
    pair.exchange_ok(at(2));
    assert_eq!(marks(&mut pair), [(1, 4), (2, 2)], "the newest of each, in its turn");
}

#[test]
fn no_more_wait_than_the_bound_says() {
    let config = LaneConfig { window_bytes: 64 << 10, chunk_bytes: 0, ..LaneConfig::data() };
    let mut pair = Pair::open(&config);
    pair.a.queue(&mut Frame::User(user(9, 70_000, 9))).unwrap();
    for group in 0..REPLACEABLE_MAX as u32 {
        assert_eq!(pair.a.queue_replaceable(replaceable(group, 1)), Ok(()));
    }
    let one_more = replaceable(REPLACEABLE_MAX as u32, 1);
    let not_queued = NotQueued { user: one_more.clone(), error: None };
    assert_eq!(pair.a.queue_replaceable(one_more), Err(not_queued));
}

#[test]
fn a_body_that_its_receiver_would_not_take_is_refused_to_its_sender() {
    let config = LaneConfig { user_body_max: 1000, ..LaneConfig::data() };
    let mut pair = Pair::open(&config);
    // What describes the payloads counts: their number, and of each its length and its checksum.
    for (sizes, described) in [(&[][..], 1), (&[100], 1 + 1 + 4), (&[100, 200], 1 + 1 + 2 + 8)] {
        let of = |body: usize, newer_replaces| UserFrame {
            body: vec![1; body].into(),
            payloads: sizes.iter().map(|size| vec![1; *size].into()).collect(),
            newer_replaces,
            ..user(1, 0, 1)
        };
        let fits = 1000 - described;
        let refused = FrameError::TooLarge { kind: FrameKind::User, bytes: 1001, max: 1000 };
        let too_long = &mut Frame::User(of(fits + 1, false));
        assert_eq!(pair.a.queue(too_long), Err(refused.clone()));
        let not_queued = NotQueued { user: of(fits + 1, true), error: Some(refused) };
        assert_eq!(pair.a.queue_replaceable(of(fits + 1, true)), Err(not_queued));
        pair.exchange_ok(at(1));
        assert_eq!(marks(&mut pair), []);
        pair.a.queue(&mut Frame::User(of(fits, false))).unwrap();
        assert_eq!(pair.a.queue_replaceable(of(fits, true)), Ok(()));
        pair.exchange_ok(at(2));
        assert_eq!(marks(&mut pair), [(1, 1), (1, 1)]);
    }
}

#[test]
fn a_node_of_another_protocol_or_version_is_refused_with_both_names() {
    let config = LaneConfig::control();
    let of = |name: &str, version| Protocol { name: name.to_owned(), version };
    for theirs in [of("raft", 2), of("paxos", 1)] {
        let mut pair = Pair::new(&identity(1), &identity(2), &config, &config);
        let registry = PeerRegistry::speaking(theirs.clone(), identity(1), |_, _| {});
        registry.set_peer(PEER, "");
        pair.a = Connection::dial(setup(&registry, &config, Direction::Outgoing), PEER, at(0));
        let refusal = HelloRefusal::WrongProtocol { ours: Protocol::raft(), theirs };
        let [a, b] = pair.exchange(at(0));
        assert_eq!(a, Some(LaneError::RefusedByPeer(refusal.clone())));
        assert_eq!(b, Some(LaneError::Refused(refusal)));
    }
}
