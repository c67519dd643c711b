//! Frames that another thread reads and checks, while those before them are applied.
//!
//! Half of what an open costs is to bring bytes into memory and to sum them up, the other half to apply
//! what they say; both need a processor of their own. Nothing is judged here: where no valid frame
//! follows, for whatever reason, the thread ends, and who applies looks for itself.
//!
//! Bound: [`STRETCHES`] stretches of a step of [`Window`], or of one frame if that is larger.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::Scope;

use crate::disk::Disk;
use crate::format::frame::FrameHeader;
use crate::format::segment::{BLOCK_BYTES, file_name};
use crate::recover::frames::{Segment, frame_at, frame_header};
use crate::recover::window::Window;

/// How many stretches are in memory: one is read, one applied, and one waits.
const STRETCHES: usize = 3;

/// A segment that is to be read, and how much of it.
pub(crate) type Part<'a> = (&'a Segment, u64);

/// Valid frames of one segment, one after the other.
struct Stretch {
    slot: u32,
    bytes: Vec<u8>,
    /// Where `bytes` begin in the file.
    begin: u64,
    /// Each frame with its checksum and its place in the file.
    frames: Vec<(FrameHeader, u32, u64)>,
}

/// The frames that come from the other thread.
pub(crate) struct Ahead {
    full: Receiver<Stretch>,
    used: SyncSender<Vec<u8>>,
    stretch: Option<Stretch>,
    /// The next frame of the stretch.
    next: usize,
}

impl Ahead {
    /// Begins to read these segments in order. The thread ends with the scope, or when this is dropped.
    ///
    /// `None`: there is no thread to be had.
    pub(crate) fn begin<'scope, D: Disk>(
        scope: &'scope Scope<'scope, '_>,
        disk: &'scope D,
        parts: Vec<Part<'scope>>,
    ) -> Option<Self> {
        let (filled, full) = sync_channel(STRETCHES - 2);
        let (used, empty) = sync_channel(STRETCHES);
        let thread = std::thread::Builder::new().name("raft-log-ahead".into());
        let read = move || {
            let hand = Hand { filled, empty };
            for part in parts {
                if !read(disk, part, &hand) {
                    return;
                }
            }
        };
        thread.spawn_scoped(scope, read).ok()?;
        Some(Self { full, used, stretch: None, next: 0 })
    }

    /// The frame at this place with its checksum, if it is the next one that was read and is valid.
    /// Its bytes are those of [`bytes`](Self::bytes) until the next call.
    pub(crate) fn next(&mut self, slot: u32, offset: u64) -> Option<(FrameHeader, u32)> {
        if self.stretch.as_ref().is_none_or(|stretch| self.next == stretch.frames.len()) {
            if let Some(stretch) = self.stretch.take() {
                // One whose reader is gone needs no memory.
                let _ = self.used.try_send(stretch.bytes);
            }
            self.next = 0;
            self.stretch = Some(self.full.recv().ok()?);
        }
        let stretch = self.stretch.as_ref().filter(|stretch| stretch.slot == slot)?;
        let (frame, crc, at) = *stretch.frames.get(self.next)?;
        (at == offset).then(|| {
            self.next += 1;
            (frame, crc)
        })
    }

    /// The frame that [`next`](Self::next) gave out last, header included.
    pub(crate) fn bytes(&self) -> &[u8] {
        let Some(stretch) = &self.stretch else { return &[] };
        let last = self.next.checked_sub(1).and_then(|at| stretch.frames.get(at));
        let Some((frame, _, at)) = last else { return &[] };
        &stretch.bytes[(at - stretch.begin) as usize..][..frame.bytes() as usize]
    }
}

/// To and from whoever applies.
struct Hand {
    filled: SyncSender<Stretch>,
    empty: Receiver<Vec<u8>>,
}

/// Reads the frames of a segment; `false` if the next one is not to be read.
fn read<D: Disk>(disk: &D, (segment, limit): Part<'_>, hand: &Hand) -> bool {
    let Ok(file) = disk.open(&file_name(segment.slot)) else { return false };
    let mut window = Window::new(&file, limit);
    let (mut offset, mut chain) = (BLOCK_BYTES, segment.header.prev_crc);
    let mut frames = Vec::new();
    let pass_on = |window: &mut Window<'_, D::File>, frames: &mut Vec<_>| {
        if frames.is_empty() {
            return true;
        }
        let (bytes, begin) = window.take(hand.empty.try_recv().unwrap_or_default());
        let frames = std::mem::take(frames);
        hand.filled.send(Stretch { slot: segment.slot, bytes, begin, frames }).is_ok()
    };
    while offset < limit {
        // What is in the window is passed on before it makes room.
        if !window.holds(offset, BLOCK_BYTES) && !pass_on(&mut window, &mut frames) {
            return false;
        }
        let block = window.get(offset, BLOCK_BYTES);
        let header = block.ok().and_then(|block| frame_header(&segment.header, block, offset).ok());
        let Some((header, _)) = header.filter(|(header, _)| header.bytes() <= limit - offset)
        else {
            break;
        };
        if !window.holds(offset, header.bytes()) && !pass_on(&mut window, &mut frames) {
            return false;
        }
        match frame_at(segment, &mut window, Some(chain), offset, limit) {
            Ok(Ok((frame, crc))) => {
                frames.push((frame, crc, offset));
                offset += frame.bytes();
                chain = crc;
            }
            Ok(Err(_)) | Err(_) => break,
        }
    }
    pass_on(&mut window, &mut frames) && offset >= limit
}
