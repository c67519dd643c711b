//! Frames cut from bytes, however they arrive.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::testing::{FRAME_MAX, RECEIVER, any_frame, append, encoded};

/// All frames in the bytes, fed in pieces of these sizes, again and again.
fn decode_pieces(bytes: &[u8], pieces: &[usize]) -> Result<Vec<(Frame, u64)>, FrameError> {
    let mut decoder = Decoder::new(FRAME_MAX);
    let mut frames = Vec::new();
    let mut rest = bytes;
    for &piece in pieces.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (mut now, later) = rest.split_at(piece.clamp(1, rest.len()));
        rest = later;
        while !now.is_empty() {
            decoder.push(&mut now);
            while let Some(frame) = decoder.next_frame(RECEIVER)? {
                frames.push(frame);
            }
            let bound = 4 * bytes.len() + 3 * CHUNK + bytes.len() * 48;
            assert!(decoder.memory() <= bound, "{} for {}", decoder.memory(), bytes.len());
        }
    }
    Ok(frames)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn frames_arrive_as_they_were_sent_however_the_bytes_are_cut(
        frames in vec(any_frame(), 1..6),
        pieces in vec(1..100_000_usize, 1..8),
    ) {
        let each: Vec<_> = frames.iter().map(encoded).collect();
        let bytes = each.concat();
        let expected: Vec<_> =
            frames.into_iter().zip(each.iter().map(|bytes| bytes.len() as u64)).collect();
        prop_assert_eq!(&decode_pieces(&bytes, &[bytes.len()]).unwrap(), &expected);
        prop_assert_eq!(&decode_pieces(&bytes, &pieces).unwrap(), &expected);
        prop_assert_eq!(&decode_pieces(&bytes, &[1000, 1]).unwrap(), &expected);
        if bytes.len() < 100_000 {
            prop_assert_eq!(&decode_pieces(&bytes, &[1]).unwrap(), &expected);
        }
    }

    #[test]
    fn arbitrary_bytes_are_errors_and_never_panic(bytes in vec(any::<u8>(), 0..2000)) {
        if bytes.first() != Some(&FRAME_VERSION) && bytes.len() >= HEADER_LEN {
            prop_assert!(decode_pieces(&bytes, &[7]).is_err());
        }
        let _ = decode_pieces(&bytes, &[7]);
    }

    #[test]
    fn arbitrary_bodies_behind_a_true_checksum_never_panic(
        kind in prop::sample::select(FrameKind::ALL.to_vec()),
        flags in 0..4_u16,
        body in vec(prop_oneof![0..4_u8, any::<u8>()], 0..200),
        payload in vec(any::<u8>(), 0..100),
    ) {
        let payload_len = if kind == FrameKind::Append { payload.len() } else { 0 };
        let mut bytes = vec![FRAME_VERSION, kind.code()];
        bytes.extend(if kind.names_replicas() { flags } else { 0 }.to_le_bytes());
        bytes.extend([0; 4]);
        bytes.extend((body.len() as u32).to_le_bytes());
        bytes.extend((payload_len as u32).to_le_bytes());
        let crc = crc32c::crc32c(&bytes);
        bytes.extend(crc.to_le_bytes());
        bytes.extend(crc32c::crc32c_append(crc, &body).to_le_bytes());
        bytes.extend(&body);
        bytes.extend(&payload[..payload_len]);
        let _ = decode_pieces(&bytes, &[13]);
    }

    #[test]
    fn one_flipped_bit_is_always_found(
        frame in any_frame(),
        position in any::<prop::sample::Index>(),
        bit in 0..8_u32,
    ) {
        let mut bytes = encoded(&frame);
        let position = position.index(bytes.len());
        bytes[position] ^= 1 << bit;
        // A flipped length may only make the decoder wait for more.
        let decoded = decode_pieces(&bytes, &[bytes.len()]);
        prop_assert!(decoded.is_err() || decoded == Ok(vec![]), "{position} {bit}: {decoded:?}");
    }
}

fn header(kind: u8, flags: u16, group: u32, body_len: u32, payload_len: u32) -> Vec<u8> {
    let mut bytes = vec![FRAME_VERSION, kind];
    bytes.extend(flags.to_le_bytes());
    bytes.extend(group.to_le_bytes());
    bytes.extend(body_len.to_le_bytes());
    bytes.extend(payload_len.to_le_bytes());
    bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
    bytes.extend([0; 4]);
    bytes
}

#[test]
fn bad_headers_are_refused_before_their_bodies_arrive() {
    let ping = FrameKind::Ping;
    let append = FrameKind::Append;
    let mut wrong_version = header(ping.code(), 0, 0, 1, 0);
    wrong_version[0] = 0xF2;
    let mut wrong_length = header(ping.code(), 0, 0, 1, 0);
    wrong_length[8] = 200;
    for (bytes, expected) in [
        (wrong_version, FrameError::UnknownVersion { found: 0xF2 }),
        (wrong_length, FrameError::HeaderChecksum),
        (header(200, 0, 0, 0, 0), FrameError::UnknownKind { kind: 200 }),
        (header(ping.code(), 1, 0, 1, 0), FrameError::UnknownFlags { kind: ping, flags: 1 }),
        (header(append.code(), 4, 0, 1, 0), FrameError::UnknownFlags { kind: append, flags: 4 }),
        (header(ping.code(), 0, 9, 1, 0), FrameError::Malformed { kind: ping }),
        (header(ping.code(), 0, 0, 1, 1), FrameError::Malformed { kind: ping }),
        (
            header(ping.code(), 0, 0, 257, 0),
            FrameError::TooLarge { kind: ping, bytes: 257, max: 256 },
        ),
        (
            header(append.code(), 0, 0, 10, FRAME_MAX as u32 - 33),
            FrameError::TooLarge { kind: append, bytes: FRAME_MAX + 1, max: FRAME_MAX },
        ),
        (header(ping.code(), 0, 0, 0, 0), FrameError::Checksum { kind: ping }),
    ] {
        assert_eq!(decode_pieces(&bytes, &[1]), Err(expected));
    }
}

#[test]
fn claimed_length_costs_no_memory_before_its_bytes_arrive() {
    let frame = Frame::Message(append([Bytes::from(vec![7; 60 << 20])]));
    let bytes = encoded(&frame);
    for arrived in [100, 1000, 100_000, 1_000_000, 10_000_000, bytes.len()] {
        let mut decoder = Decoder::new(FRAME_MAX);
        let mut rest = &bytes[..arrived];
        let mut decoded = None;
        while !rest.is_empty() {
            decoder.push(&mut rest);
            let memory = decoder.memory();
            let came = arrived - rest.len();
            assert!(memory <= 2 * came + 3 * CHUNK, "{memory} for {came}");
            decoded = decoder.next_frame(RECEIVER).unwrap();
        }
        let complete = arrived == bytes.len();
        assert_eq!(decoded, complete.then(|| (frame.clone(), bytes.len() as u64)));
    }
}

#[test]
fn payloads_that_have_arrived_are_slices_of_the_read_buffer() {
    let payloads = [100, 5000, 30_000].map(|size| Bytes::from(vec![1; size]));
    let bytes = encoded(&Frame::Message(append(payloads)));
    let mut decoder = Decoder::new(FRAME_MAX);
    let mut rest = &bytes[..];
    decoder.push(&mut rest);
    let chunk = decoder.buffer.as_ptr_range();
    let chunk = chunk.start..chunk.end;
    let Ok(Some((Frame::Message(envelope), _))) = decoder.next_frame(RECEIVER) else {
        panic!("the whole frame was pushed");
    };
    for entry in &envelope.entries {
        assert!(chunk.contains(&entry.payload.as_ptr()), "copied");
    }
}

#[test]
fn steady_small_frames_reuse_one_chunk() {
    let bytes = encoded(&Frame::Ping { nonce: 1 });
    let mut decoder = Decoder::new(FRAME_MAX);
    decoder.push(&mut &bytes[..]);
    decoder.next_frame(RECEIVER).unwrap().unwrap();
    let capacity = decoder.buffer.capacity();
    let first = decoder.buffer.as_ptr() as usize;
    for _ in 0..100_000 {
        decoder.push(&mut &bytes[..]);
        decoder.next_frame(RECEIVER).unwrap().unwrap();
        let now = decoder.buffer.as_ptr() as usize;
        assert!(now.abs_diff(first) <= capacity + 64, "the buffer moved");
    }
}
