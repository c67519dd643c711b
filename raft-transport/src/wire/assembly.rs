//! Frames put together again from their chunks.
//!
//! Each stream has a decoder of its own, so what has come is decoded while the rest is under way,
//! and copied once. Whoever cuts frames must not be able to claim memory by it.
//!
//! Invariants:
//! - Memory is bounded by what has arrived: twice that, about 64 bytes for each entry of an append
//!   however short, and about 100 KiB per open stream.
//! - A frame is whole at its last chunk, and not a byte earlier or later.

use std::collections::BTreeMap;

use crate::wire::chunk::{CHUNK_DATA_MAX, Chunk, ChunkEnd};
use crate::wire::decode::Decoder;
use crate::wire::frame::{BODY_BYTES_MAX, ChunkFault, Ends, Frame, FrameError, FrameKind};

/// The frames of one direction of a connection that have come in part.
#[derive(Debug)]
pub struct Assemblies {
    frame_bytes_max: u64,
    user_body_max: u32,
    open: BTreeMap<u8, Assembly>,
}

#[derive(Debug)]
struct Assembly {
    total: u64,
    arrived: u64,
    /// With the chunks' own headers.
    wire_bytes: u64,
    decoder: Decoder,
    whole: Option<Frame>,
}

/// What a chunk has led to.
#[derive(Debug)]
pub enum Assembled {
    /// More has to come.
    Pending,
    /// The frame is complete.
    Whole {
        /// It.
        frame: Frame,
        /// All its chunks, with their headers.
        bytes: u64,
        /// Without.
        total: u64,
    },
    /// The sender gave it up, and it is forgotten.
    Abandoned {
        /// All its chunks that took credit, with their headers.
        bytes: u64,
        /// What its first chunk said.
        total: u64,
    },
}

impl Assemblies {
    /// Refuses frames of more bytes than this.
    pub fn new(frame_bytes_max: u64) -> Self {
        Self { frame_bytes_max, user_body_max: BODY_BYTES_MAX, open: BTreeMap::new() }
    }

    /// One that refuses users' frames with longer bodies.
    pub(crate) fn with_user_body_max(mut self, bytes: u32) -> Self {
        self.user_body_max = bytes;
        self
    }

    /// Frames that have begun and are not whole.
    pub fn len(&self) -> usize {
        self.open.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Bytes that have come of them.
    pub fn bytes(&self) -> u64 {
        self.open.values().map(|assembly| assembly.arrived).sum()
    }

    /// Bytes of memory they hold.
    pub fn memory(&self) -> usize {
        self.open.values().map(|assembly| assembly.decoder.memory()).sum()
    }

    /// Takes a chunk of `wire_bytes` with its header.
    ///
    /// # Errors
    /// Any [`FrameError`] about reading. Drop the connection then.
    pub fn take(
        &mut self,
        chunk: Chunk,
        wire_bytes: u64,
        ends: Ends,
    ) -> Result<Assembled, FrameError> {
        let stream = chunk.stream;
        let faulty = |fault| FrameError::Chunk { stream, fault };
        if let Some(total) = chunk.total {
            if total > self.frame_bytes_max {
                let (kind, max) = (FrameKind::Chunk, self.frame_bytes_max);
                return Err(FrameError::TooLarge { kind, bytes: total, max });
            }
            let decoder = Decoder::of_chunks(self.frame_bytes_max, CHUNK_DATA_MAX)
                .with_user_body_max(self.user_body_max);
            let fresh = Assembly { total, arrived: 0, wire_bytes: 0, decoder, whole: None };
            if self.open.insert(stream, fresh).is_some() {
                return Err(faulty(ChunkFault::AlreadyOpen));
            }
        }
        let assembly = self.open.get_mut(&stream).ok_or_else(|| faulty(ChunkFault::NotOpen))?;
        let is_last = match chunk.end {
            ChunkEnd::Abandoned => {
                let (bytes, total) = (assembly.wire_bytes, assembly.total);
                self.open.remove(&stream);
                return Ok(Assembled::Abandoned { bytes, total });
            }
            ChunkEnd::More => false,
            ChunkEnd::Last => true,
        };
        if chunk.offset != assembly.arrived {
            return Err(faulty(ChunkFault::Gap));
        }
        if chunk.data.len() as u64 > assembly.total - assembly.arrived {
            return Err(faulty(ChunkFault::Length));
        }
        assembly.wire_bytes += wire_bytes;
        assembly.feed(&chunk.data, ends, stream)?;
        if !is_last {
            return Ok(Assembled::Pending);
        }
        let (bytes, total) = (assembly.wire_bytes, assembly.total);
        let whole = assembly.whole.take();
        self.open.remove(&stream);
        let frame = whole.ok_or_else(|| faulty(ChunkFault::Length))?;
        Ok(Assembled::Whole { frame, bytes, total })
    }
}

impl Assembly {
    fn feed(&mut self, mut data: &[u8], ends: Ends, stream: u8) -> Result<(), FrameError> {
        let faulty = |fault| FrameError::Chunk { stream, fault };
        self.arrived += data.len() as u64;
        while !data.is_empty() {
            if self.whole.is_some() {
                return Err(faulty(ChunkFault::Length));
            }
            self.decoder.push(&mut data);
            let Some((frame, bytes)) = self.decoder.next_frame(ends)? else {
                continue;
            };
            // Whoever waits for a length waits for that of the frame beneath.
            if bytes != self.total {
                return Err(faulty(ChunkFault::Length));
            }
            if frame.is_of_the_lane() {
                return Err(faulty(ChunkFault::Nested));
            }
            self.whole = Some(frame);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
