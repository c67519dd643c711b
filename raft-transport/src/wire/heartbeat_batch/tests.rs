//! Batches of heartbeats: size, order, splitting.

use super::*;
use crate::Decoder;
use crate::testing::{FRAME_MAX, RECEIVER, SENDER, bytes_of, encoded, heartbeat_item};
use crate::wire::frame::Frame;

/// A cheap generator for test data; the seed is in the test.
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *state >> 33
}

fn decode_all(bytes: &[u8]) -> Vec<(Frame, u64)> {
    let mut decoder = Decoder::new(FRAME_MAX);
    let mut rest = bytes;
    let mut frames = Vec::new();
    while !rest.is_empty() {
        decoder.push(&mut rest);
        while let Some(frame) = decoder.next_frame(RECEIVER).unwrap() {
            frames.push(frame);
        }
    }
    frames
}

fn beats_of(frames: Vec<(Frame, u64)>) -> Vec<HeartbeatItem> {
    let beats = |(frame, _)| match frame {
        Frame::Heartbeats(items) => items,
        other => panic!("{other:?}"),
    };
    frames.into_iter().flat_map(beats).collect()
}

#[test]
fn ten_thousand_idle_groups_cost_at_most_eight_bytes_each() {
    // Sparse ids, terms that differ, commits as after 268 million entries.
    let mut seed = 42;
    let mut group = 0;
    let items: Vec<_> = (0..10_000)
        .map(|_| {
            group += 1 + random(&mut seed) as u32 % 50;
            heartbeat_item(group, 1 + random(&mut seed) % 100, random(&mut seed) % (1 << 28))
        })
        .collect();
    let bytes = encoded(&Frame::Heartbeats(items.clone()));
    println!("seed 42: {} bytes, {} per group", bytes.len(), bytes.len() as f64 / 10_000.0);
    assert!(bytes.len() <= 80_000);
    assert_eq!(beats_of(decode_all(&bytes)), items);

    // Neighbouring ids in one term, as after a start.
    let items: Vec<_> = (1..=10_000).map(|group| heartbeat_item(group, 1, 1000)).collect();
    let bytes = encoded(&Frame::Heartbeats(items));
    assert!(bytes.len() <= 30_100, "{}", bytes.len());
}

#[test]
fn replicas_named_as_their_nodes_cost_nothing() {
    let mut item = heartbeat_item(1, 1, 1);
    let same = encoded(&Frame::Heartbeats(vec![item])).len();
    item.from = ReplicaId::new(3);
    assert_eq!(encoded(&Frame::Heartbeats(vec![item])).len(), same + 1);
    item.to = ReplicaId::new(1000);
    assert_eq!(encoded(&Frame::Heartbeats(vec![item])).len(), same + 3);
}

#[test]
fn moment_of_leaving_is_told_once_per_frame_and_sleep_costs_a_byte() {
    let mut items: Vec<_> = (1..=1000).map(|group| heartbeat_item(group, 1, 1)).collect();
    let plain = encoded(&Frame::Heartbeats(items.clone())).len();
    for item in &mut items {
        item.heartbeat.sent = Micros::new(1 << 40);
        item.heartbeat.rest = Rest::Quiesce;
    }
    let bytes = encoded(&Frame::Heartbeats(items.clone()));
    assert_eq!(bytes.len(), plain + 6 + 1000, "one number of six bytes, and a byte each");
    assert_eq!(beats_of(decode_all(&bytes)), items);
}

/// Of groups that count page caches, the disks are behind.
#[test]
fn disks_that_are_behind_cost_a_byte_and_their_number() {
    let mut items = vec![heartbeat_item(1, 1, 1000), heartbeat_item(2, 1, 1000)];
    let plain = encoded(&Frame::Heartbeats(items.clone())).len();
    items[1].heartbeat.quorum_durable = LogIndex::new(700);
    let bytes = encoded(&Frame::Heartbeats(items.clone()));
    assert_eq!(bytes.len(), plain + 3);
    assert_eq!(beats_of(decode_all(&bytes)), items);
}

#[test]
fn long_batches_split_at_the_frame_limit_and_lose_nothing() {
    let items: Vec<_> = (0..100_000_u32).map(|i| heartbeat_item(i * 3, 7, 1 << 27)).collect();
    for (limit, at_least) in [(FRAME_MAX, 2), (4096, 100), (1, 100_000)] {
        let mut transmit = Transmit::new();
        let frames = encode(
            FrameKind::Heartbeats,
            &mut items.clone(),
            SENDER,
            (limit, u64::MAX),
            &mut transmit,
        )
        .0;
        let decoded = decode_all(&bytes_of(&mut transmit));
        assert_eq!(decoded.len() as u64, frames);
        assert!(frames >= at_least, "{frames} frames at limit {limit}");
        let largest = decoded.iter().map(|(_, bytes)| *bytes).max().unwrap();
        let allowed = limit.clamp(
            ITEM_BYTES_MAX as u64 + HEADER_LEN as u64,
            u64::from(BATCH_BODY_MAX) + HEADER_LEN as u64,
        );
        assert!(largest <= allowed, "{largest}");
        assert_eq!(beats_of(decoded), items);
    }
}

#[test]
fn batch_arrives_sorted_and_keeps_each_groups_own_term() {
    let items = [(9, 1), (3, 8), (9, 2), (0, 8), (u32::MAX, 0)];
    let items = items.map(|(group, term)| heartbeat_item(group, term, 5));
    let bytes = encoded(&Frame::Heartbeats(items.to_vec()));
    let arrived = beats_of(decode_all(&bytes));
    let terms: Vec<_> =
        arrived.iter().map(|item| (item.group.get(), item.heartbeat.term.get())).collect();
    assert_eq!(terms, [(0, 8), (3, 8), (9, 1), (9, 2), (u32::MAX, 0)]);
}

#[test]
fn cut_items_and_groups_beyond_the_last_and_answers_that_rest_are_malformed() {
    let kind = FrameKind::Heartbeats;
    let malformed = FrameError::Malformed { kind };
    for body in [
        &[SENT, 0][..],
        &[GROUP, 0xFF, 0xFF, 0xFF, 0xFF, 0x0F, 5, 0, 5],
        &[0],
        // A second byte that says nothing, or what nobody knows; disks behind the beginning.
        &[MORE, 0, 5],
        &[MORE, 4, 5],
        &[MORE, LAG, 5, 6],
    ] {
        assert_eq!(decode::<HeartbeatItem>(kind, body, RECEIVER), Err(malformed.clone()));
    }
    let kind = FrameKind::HeartbeatReplies;
    let answer = decode::<HeartbeatReplyItem>(kind, &[MORE, REST], RECEIVER);
    assert_eq!(answer, Err(FrameError::Malformed { kind }), "a follower puts nobody to sleep");
}

#[test]
fn empty_batch_sends_nothing() {
    assert_eq!(encoded(&Frame::Heartbeats(Vec::new())), []);
}
