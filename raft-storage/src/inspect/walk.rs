//! A walk over the frames of a segment that goes on behind what is damaged.

use std::io;
use std::ops::ControlFlow;

use crate::disk::DiskFile;
use crate::disk::readings::Readings;
use crate::error::FrameFault;
use crate::format::frame::{FRAME_HEADER_BYTES, FrameHeader};
use crate::format::segment::{BLOCK_BYTES, file_name};
use crate::recover::frames::{Segment, find_frame, frame_at};
use crate::recover::window::Window;

/// What a walk meets.
pub(super) enum Met<'a> {
    /// A frame whose checksums hold.
    Frame { offset: u64, header: FrameHeader, body: &'a [u8] },
    /// No frame from here up to `to`, where the next one begins, or the segment ends.
    Hole { offset: u64, to: u64, fault: FrameFault },
}

/// How a walk ended.
pub(super) struct Ended {
    /// Behind the last frame, or hole.
    pub(super) offset: u64,
    /// The header checksum of the last frame, if that is known.
    pub(super) chain: Option<u32>,
    /// The highest position below which a frame says that everything was durable.
    pub(super) promised: u64,
}

/// Visits the frames of `segment`, which ends at `sealed` if another one follows.
pub(super) fn walk<F: DiskFile>(
    segment: &Segment,
    (file, readings): (&F, &Readings),
    sealed: Option<u64>,
    visit: &mut dyn FnMut(Met<'_>) -> ControlFlow<()>,
) -> io::Result<Ended> {
    let header = &segment.header;
    let bytes = file.bytes()?;
    let limit = sealed.unwrap_or(header.bytes).min(bytes) / BLOCK_BYTES * BLOCK_BYTES;
    let mut window = Window::over_holes(file, file_name(segment.slot), limit, readings);
    let mut at = Ended { offset: BLOCK_BYTES, chain: Some(header.prev_crc), promised: 0 };
    while at.offset < limit {
        let offset = at.offset;
        let fault = match frame_at(segment, &mut window, at.chain, offset, limit)? {
            Ok((frame, crc)) => {
                let bytes = window.get(offset, frame.bytes())?;
                let body = &bytes[FRAME_HEADER_BYTES..][..frame.body_bytes as usize];
                at.offset += frame.bytes();
                at.chain = Some(crc);
                at.promised = at.promised.max(frame.synced.get());
                if visit(Met::Frame { offset, header: frame, body }).is_break() {
                    break;
                }
                continue;
            }
            Err(fault) => fault,
        };
        let next = find_frame(segment, &mut window, offset + BLOCK_BYTES, limit)?;
        let Some(to) = next.or_else(|| sealed.map(|_| limit)) else { break };
        (at.offset, at.chain) = (to, None);
        if visit(Met::Hole { offset, to, fault }).is_break() {
            break;
        }
    }
    Ok(at)
}
