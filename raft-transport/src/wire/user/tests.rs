//! Frames of other protocols: what is refused, and what they cost.

use super::*;
use crate::testing::{FRAME_MAX, RECEIVER, SENDER, bytes_of, encoded};
use crate::wire::decode::Decoder;
use crate::wire::encode;
use crate::wire::frame::Frame;

fn frame(body: usize, payloads: &[usize]) -> UserFrame {
    UserFrame {
        kind: UserKind::new(3).unwrap(),
        group: GroupId::new(9),
        class: LaneClass::Data,
        newer_replaces: false,
        body: vec![1; body].into(),
        payloads: payloads.iter().map(|size| vec![2; *size].into()).collect(),
    }
}

fn heard(decoder: &mut Decoder, mut bytes: &[u8]) -> Result<Option<Frame>, FrameError> {
    while !bytes.is_empty() {
        decoder.push(&mut bytes);
        if let Some((frame, _)) = decoder.next_frame(RECEIVER)? {
            return Ok(Some(frame));
        }
    }
    Ok(None)
}

#[test]
fn a_longer_body_than_is_accepted_is_refused_by_its_header() {
    let decoder = || Decoder::new(FRAME_MAX).with_user_body_max(1000);
    let fits = encoded(&Frame::User(frame(1000 - 8, &[70_000])));
    assert!(heard(&mut decoder(), &fits).unwrap().is_some(), "a payload is no body");
    let longer = encoded(&Frame::User(frame(1001, &[])));
    let refused = heard(&mut decoder(), &longer[..HEADER_LEN]);
    let kind = FrameKind::User;
    assert_eq!(refused, Err(FrameError::TooLarge { kind, bytes: 1002, max: 1000 }));
}

#[test]
fn a_claimed_payload_costs_no_memory_before_it_arrives() {
    let bytes = encoded(&Frame::User(frame(10, &[50_000_000])));
    let mut decoder = Decoder::new(FRAME_MAX);
    assert_eq!(heard(&mut decoder, &bytes[..100]), Ok(None));
    assert!(decoder.memory() <= 600_000, "{} bytes for 100", decoder.memory());
    assert_eq!(heard(&mut decoder, &bytes[100..2_000_000]), Ok(None));
    assert!(decoder.memory() <= 5_000_000, "{} bytes for 2 million", decoder.memory());
}

#[test]
fn what_describes_other_payloads_than_come_is_refused() {
    let head = (UserKind::new(0).unwrap(), GroupId::new(1), 0);
    let refused = |body: &[u8], payloads: &[u8]| {
        let (body, payloads) = (Bytes::copy_from_slice(body), Bytes::copy_from_slice(payloads));
        decode(head, body, payloads).unwrap_err()
    };
    let malformed = FrameError::Malformed { kind: FrameKind::User };
    assert_eq!(refused(b"", b""), malformed, "no count");
    assert_eq!(refused(&[0xFF, 0xFF, 0xFF, 0x0F], b""), malformed, "more than can be described");
    assert_eq!(refused(&[1, 3, 0, 0, 0], b"abc"), malformed, "half a description");
    assert_eq!(refused(&[0], b"abc"), malformed, "nobody's bytes");
    assert_eq!(refused(&[1, 4, 0, 0, 0, 0], b"abc"), malformed, "fewer bytes than are described");
    let checksum = FrameError::Checksum { kind: FrameKind::User };
    assert_eq!(refused(&[1, 3, 0, 0, 0, 0], b"abc"), checksum);
    let both = (UserKind::new(0).unwrap(), GroupId::new(1), FLAG_DATA | FLAG_BULK);
    assert_eq!(decode(both, Bytes::from_static(&[0]), Bytes::new()), Err(malformed));
}

#[test]
fn long_batches_split_at_the_frame_limit_and_lose_nothing() {
    let mut items: Vec<UserItem> = (0..3000_u32)
        .map(|group| UserItem { group: GroupId::new(group), bytes: vec![0; 300].into() })
        .collect();
    let before = items.clone();
    items.reverse();
    let mut transmit = Transmit::new();
    let mut batch = Frame::UserItems(items);
    let encoded = encode::encode(&mut batch, SENDER, FRAME_MAX, u64::MAX, &mut transmit).unwrap();
    assert_eq!((encoded.frames, encoded.left), (4, 0));
    let bytes = bytes_of(&mut transmit);
    let (mut decoder, mut rest, mut arrived) = (Decoder::new(FRAME_MAX), &bytes[..], Vec::new());
    while !rest.is_empty() {
        decoder.push(&mut rest);
        while let Some((Frame::UserItems(items), bytes)) = decoder.next_frame(RECEIVER).unwrap() {
            assert!(bytes <= u64::from(BATCH_BODY_MAX) + HEADER_LEN as u64);
            arrived.extend(items);
        }
    }
    assert_eq!(arrived, before);
}

#[test]
fn an_item_too_long_for_a_batch_is_the_callers_mistake() {
    let bytes = vec![0; USER_ITEM_MAX + 1].into();
    let mut batch = Frame::UserItems(vec![UserItem { group: GroupId::new(1), bytes }]);
    let mut transmit = Transmit::new();
    let refused = encode::encode(&mut batch, SENDER, FRAME_MAX, u64::MAX, &mut transmit);
    assert!(matches!(refused, Err(FrameError::TooLarge { .. })));
    assert!(transmit.is_empty());
}
