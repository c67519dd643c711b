//! Frames in pieces, however they are cut, and pieces of nothing.

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::testing::{FRAME_MAX, RECEIVER, any_frame, encoded};
use crate::wire::chunk::STREAMS_MAX;

/// The chunks of a frame, cut into these sizes, again and again.
fn chunks(stream: u8, bytes: &[u8], pieces: &[usize]) -> Vec<Chunk> {
    let mut chunks = Vec::new();
    let mut offset = 0;
    for &piece in pieces.iter().cycle() {
        let end = (offset + piece.max(1)).min(bytes.len());
        let is_last = end == bytes.len();
        chunks.push(Chunk {
            stream,
            offset: offset as u64,
            total: (offset == 0).then_some(bytes.len() as u64),
            end: if is_last { ChunkEnd::Last } else { ChunkEnd::More },
            data: Bytes::copy_from_slice(&bytes[offset..end]),
        });
        if is_last {
            return chunks;
        }
        offset = end;
    }
    chunks
}

/// Takes chunks and says what became whole; memory is looked at all the while.
fn take_all(chunks: impl IntoIterator<Item = Chunk>) -> Result<Vec<Frame>, FrameError> {
    let mut assemblies = Assemblies::new(FRAME_MAX);
    let mut whole = Vec::new();
    for chunk in chunks {
        let taken = assemblies.take(chunk, 0, RECEIVER)?;
        let came = assemblies.bytes() as usize;
        // Entries that are counted but not there yet take a few bytes of description each.
        let bound = 2 * came + came * 48 + assemblies.len() * 4 * CHUNK_DATA_MAX;
        assert!(assemblies.memory() <= bound, "{} for {came}", assemblies.memory());
        if let Assembled::Whole { frame, .. } = taken {
            whole.push(frame);
        }
    }
    Ok(whole)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn frames_arrive_as_they_were_sent_however_they_are_cut_and_mixed(
        frames in vec((any_frame(), vec(1..CHUNK_DATA_MAX, 1..4)), 1..6),
        turns in vec(0..6_usize, 0..200),
    ) {
        let frames: Vec<_> =
            frames.into_iter().filter(|(frame, _)| !frame.is_of_the_lane()).collect();
        let mut streams: Vec<_> = (0..)
            .zip(&frames)
            .map(|(stream, (frame, pieces))| {
                chunks(stream, &encoded(frame), pieces).into_iter()
            })
            .collect();
        let mut mixed = Vec::new();
        for turn in turns {
            mixed.extend(streams.get_mut(turn).and_then(Iterator::next));
        }
        for stream in streams {
            mixed.extend(stream);
        }
        let mut order: Vec<u8> =
            mixed.iter().filter(|c| c.end == ChunkEnd::Last).map(|c| c.stream).collect();
        let whole = take_all(mixed).unwrap();
        for (stream, frame) in order.drain(..).zip(whole) {
            prop_assert_eq!(&frame, &frames[usize::from(stream)].0);
        }
    }

    #[test]
    fn arbitrary_chunks_are_errors_and_never_panic(
        chunks in vec(
            (0..3_u8, 0..40_u64, prop::option::of(prop_oneof![0..100_u64, any::<u64>()]), 0..3_u8,
             vec(prop_oneof![0..4_u8, Just(0xF1), any::<u8>()], 0..60)),
            0..30,
        ),
    ) {
        let chunks = chunks.into_iter().map(|(stream, offset, total, end, data)| Chunk {
            stream,
            offset,
            total,
            end: [ChunkEnd::More, ChunkEnd::Last, ChunkEnd::Abandoned][usize::from(end)],
            data: data.into(),
        });
        let _ = take_all(chunks);
    }

    #[test]
    fn one_flipped_bit_beneath_is_always_found(
        frame in any_frame(),
        position in any::<prop::sample::Index>(),
        bit in 0..8_u32,
    ) {
        let mut bytes = encoded(&frame);
        let position = position.index(bytes.len());
        bytes[position] ^= 1 << bit;
        prop_assert!(take_all(chunks(0, &bytes, &[1000])).is_err());
    }
}

#[test]
fn what_does_not_follow_is_refused_by_name() {
    let frame = Frame::Ping { nonce: 1 };
    let clock = Frame::Clock { wall: raft_core::LogTime::new(5) };
    let bytes = encoded(&clock);
    let whole = chunks(1, &bytes, &[10]);
    let fault = |chunks: Vec<Chunk>| take_all(chunks).map(|_| ());
    let expect = |stream, fault| Err(FrameError::Chunk { stream, fault });
    assert_eq!(fault(whole[1..].to_vec()), expect(1, ChunkFault::NotOpen));
    assert_eq!(fault(vec![whole[0].clone(), whole[0].clone()]), expect(1, ChunkFault::AlreadyOpen));
    assert_eq!(fault(vec![whole[0].clone(), whole[2].clone()]), expect(1, ChunkFault::Gap));
    let mut early = whole.clone();
    early[1].end = ChunkEnd::Last;
    assert_eq!(fault(early), expect(1, ChunkFault::Length));
    let mut longer = whole.clone();
    longer[0].total = Some(bytes.len() as u64 + 1);
    assert_eq!(fault(longer), expect(1, ChunkFault::Length));
    assert_eq!(fault(chunks(1, &encoded(&frame), &[10])), expect(1, ChunkFault::Nested));
    let mut two = chunks(1, &[bytes.clone(), bytes.clone()].concat(), &[usize::MAX / 2]);
    two[0].total = Some(bytes.len() as u64);
    assert_eq!(fault(two), expect(1, ChunkFault::Length));
    let huge = Chunk { total: Some(FRAME_MAX + 1), ..whole[0].clone() };
    let (kind, bytes, max) = (FrameKind::Chunk, FRAME_MAX + 1, FRAME_MAX);
    assert_eq!(fault(vec![huge]), Err(FrameError::TooLarge { kind, bytes, max }));
}

#[test]
fn a_length_that_is_only_claimed_costs_next_to_nothing() {
    let chunks = (0..STREAMS_MAX).map(|stream| Chunk {
        stream,
        offset: 0,
        total: Some(FRAME_MAX),
        end: ChunkEnd::More,
        data: Bytes::from_static(&[0xF1]),
    });
    let mut assemblies = Assemblies::new(FRAME_MAX);
    for chunk in chunks {
        assemblies.take(chunk, 0, RECEIVER).unwrap();
    }
    assert!(assemblies.memory() <= usize::from(STREAMS_MAX) * 2 * CHUNK_DATA_MAX);
}

#[test]
fn what_is_abandoned_is_forgotten_and_its_stream_is_free() {
    let bytes = encoded(&Frame::Clock { wall: raft_core::LogTime::new(5) });
    let whole = chunks(1, &bytes, &[10]);
    let mut assemblies = Assemblies::new(FRAME_MAX);
    assemblies.take(whole[0].clone(), 34, RECEIVER).unwrap();
    let end = ChunkEnd::Abandoned;
    let given_up = Chunk { stream: 1, offset: 10, total: None, end, data: Bytes::new() };
    let taken = assemblies.take(given_up, 26, RECEIVER).unwrap();
    assert!(matches!(taken, Assembled::Abandoned { bytes: 34, .. }), "{taken:?}");
    assert!(assemblies.is_empty() && assemblies.memory() == 0);
    for chunk in whole {
        assemblies.take(chunk, 34, RECEIVER).unwrap();
    }
    assert!(assemblies.is_empty());
}
