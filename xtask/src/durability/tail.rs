//! Damage to a log, done from outside: knows as much of the format as `docs/FORMATS.md` tells.
//!
//! A segment begins with a header block; frames follow from block to block, each beginning with a
//! magic number and telling the length of its body.

use std::fs::{self, File};
use std::io::{self, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};

const BLOCK: usize = 4096;
const SEGMENT_MAGIC: &[u8] = b"RAFTSEGM";
const SEGMENT_SEQ_AT: usize = 32;
const FRAME_MAGIC: &[u8] = b"RFRM";
const FRAME_HEADER: usize = 64;
const BODY_BYTES_AT: usize = 32;

/// Which damage.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Damage {
    /// The newest frames are gone, as if they had never been written: nothing that is left
    /// promises them.
    TornTail,
    /// Frames are gone that a later one says were durable.
    Hole,
}

/// The number of a segment in its log; `None` if these bytes are none, or a spare.
fn sequence(segment: &[u8]) -> Option<u64> {
    let bytes = segment.get(SEGMENT_SEQ_AT..SEGMENT_SEQ_AT + 8)?;
    let bytes = bytes.try_into().ok()?;
    segment.starts_with(SEGMENT_MAGIC).then(|| u64::from_le_bytes(bytes))
}

/// The newest segment of a node; `None` if it has none.
pub(super) fn newest_segment(directory: &Path) -> io::Result<Option<PathBuf>> {
    let mut segments = Vec::new();
    for file in fs::read_dir(directory)? {
        let path = file?.path();
        if path.extension().is_some_and(|suffix| suffix == "seg") {
            let mut head = Vec::new();
            File::open(&path)?.take(BLOCK as u64).read_to_end(&mut head)?;
            segments.extend(sequence(&head).map(|sequence| (sequence, path)));
        }
    }
    Ok(segments.into_iter().max().map(|(_, path)| path))
}

/// What to overwrite with zeros: the last `count` frames, or as many before the last quarter.
/// Empty if there are too few.
pub(super) fn victims(segment: &[u8], damage: Damage, count: usize) -> Range<usize> {
    let frames = frames(segment);
    let last = match damage {
        Damage::TornTail => frames.len(),
        Damage::Hole => frames.len() - frames.len() / 4,
    };
    // The first frame stays, so that a log is left.
    let first = last.saturating_sub(count).max(1);
    match (frames.get(first), frames[..last].last()) {
        (Some(from), Some(to)) if first < last => from.start..to.end,
        _ => 0..0,
    }
}

/// Where the frames lie, from the first to the last that follows it without a gap.
fn frames(segment: &[u8]) -> Vec<Range<usize>> {
    let mut frames = Vec::new();
    let mut at = BLOCK;
    while let Some(header) = segment.get(at..at + FRAME_HEADER) {
        let Some(body) = header[BODY_BYTES_AT..].first_chunk() else { break };
        let bytes = FRAME_HEADER + u32::from_le_bytes(*body) as usize;
        let end = at + bytes.next_multiple_of(BLOCK);
        if !header.starts_with(FRAME_MAGIC) || end > segment.len() {
            break;
        }
        frames.push(at..end);
        at = end;
    }
    frames
}

#[cfg(test)]
mod tests {
    use super::{BLOCK, Damage, frames, sequence, victims};

    /// A segment of frames with bodies of these lengths, and blank blocks behind them.
    fn segment(bodies: &[u32]) -> Vec<u8> {
        let mut segment = vec![0; BLOCK];
        segment[..8].copy_from_slice(b"RAFTSEGM");
        segment[32] = 3;
        for body in bodies {
            let at = segment.len();
            segment.resize(at + (64 + *body as usize).next_multiple_of(BLOCK), 0);
            segment[at..at + 4].copy_from_slice(b"RFRM");
            segment[at + 32..at + 36].copy_from_slice(&body.to_le_bytes());
        }
        segment.resize(segment.len() + 2 * BLOCK, 0);
        segment
    }

    #[test]
    fn frames_are_found_by_their_lengths() {
        let bytes = segment(&[10, 5000, 4032]);
        let blocks: Vec<_> =
            frames(&bytes).iter().map(|f| (f.start / BLOCK, f.end / BLOCK)).collect();
        assert_eq!(blocks, [(1, 2), (2, 4), (4, 5)]);
        assert_eq!(sequence(&bytes), Some(3));
        assert_eq!(sequence(&[0; 4096]), None);
        assert!(frames(&[]).is_empty());
        // A length that leads out of the file ends the walk.
        let mut lying = segment(&[10]);
        lying[BLOCK + 35] = 0xff;
        assert!(frames(&lying).is_empty());
    }

    #[test]
    fn a_tail_is_cut_to_the_end_and_a_hole_leaves_frames_behind_it() {
        let bytes = segment(&[10; 12]);
        assert_eq!(victims(&bytes, Damage::TornTail, 3), 10 * BLOCK..13 * BLOCK);
        assert_eq!(victims(&bytes, Damage::Hole, 3), 7 * BLOCK..10 * BLOCK);
        assert_eq!(victims(&bytes, Damage::TornTail, 99), 2 * BLOCK..13 * BLOCK);
        assert!(victims(&segment(&[10]), Damage::TornTail, 3).is_empty());
        assert!(victims(&segment(&[]), Damage::Hole, 3).is_empty());
    }
}
