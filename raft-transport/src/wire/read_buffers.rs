//! Read buffers, used again once nothing points into them.
//!
//! Payloads are slices of the chunk they were read into, and live until they are applied and a
//! little longer. At speed a chunk comes free while as many others are in use; fresh memory from
//! the system for each would cost more than all the rest of reading (measured: a third of a
//! follower's time went into clearing pages).

use std::collections::VecDeque;

use bytes::BytesMut;

/// Bytes of a read buffer.
pub(crate) const CHUNK: usize = 256 << 10;

/// Used chunks kept for reuse, free or not: 10 MiB.
const RETIRED_MAX: usize = 40;

#[derive(Debug)]
pub(crate) struct Chunks {
    /// Bytes of one.
    size: usize,
    /// Chunks that payloads may still point into, oldest first.
    retired: VecDeque<BytesMut>,
    /// Whether the buffer in use is a chunk of the ordinary size.
    in_chunk: bool,
}

impl Default for Chunks {
    fn default() -> Self {
        Self::of(CHUNK)
    }
}

impl Chunks {
    /// Buffers of so many bytes.
    pub(crate) fn of(size: usize) -> Self {
        Self { size, retired: VecDeque::new(), in_chunk: false }
    }

    /// Makes room for `wanted` more bytes: in place if nobody holds a slice, else in another
    /// chunk, which is one that came free if there is one.
    pub(crate) fn make_room(&mut self, buffer: &mut BytesMut, wanted: usize) {
        if buffer.capacity() - buffer.len() >= wanted || buffer.try_reclaim(wanted) {
            return;
        }
        let size = (buffer.len() + wanted).max(self.size);
        let free = self.retired.front_mut().is_some_and(|chunk| chunk.try_reclaim(size));
        let reused = if free { self.retired.pop_front() } else { None };
        let mut fresh = reused.unwrap_or_else(|| BytesMut::with_capacity(size));
        fresh.extend_from_slice(buffer);
        let mut used = std::mem::replace(buffer, fresh);
        used.clear();
        // Larger buffers were made for one large body and are not kept.
        if std::mem::replace(&mut self.in_chunk, size == self.size) {
            if self.retired.len() == RETIRED_MAX {
                self.retired.pop_front();
            }
            self.retired.push_back(used);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fills the buffer and takes what it holds, as a decoder does with a payload.
    fn fill(buffer: &mut BytesMut, byte: u8) -> bytes::Bytes {
        let room = buffer.capacity() - buffer.len();
        buffer.extend_from_slice(&vec![byte; room]);
        buffer.split().freeze()
    }

    #[test]
    fn a_chunk_is_used_again_only_when_nothing_points_into_it() {
        let (mut chunks, mut buffer) = (Chunks::default(), BytesMut::new());
        chunks.make_room(&mut buffer, 1);
        let first = fill(&mut buffer, 1);
        let place = first.as_ptr();
        chunks.make_room(&mut buffer, 1);
        let second = fill(&mut buffer, 2);
        assert_ne!(second.as_ptr(), place);
        drop(first);
        chunks.make_room(&mut buffer, 1);
        let third = fill(&mut buffer, 3);
        assert_eq!(third.as_ptr(), place, "the first chunk was free");
        assert!(second.iter().all(|byte| *byte == 2) && third.iter().all(|byte| *byte == 3));
    }

    #[test]
    fn what_is_kept_is_bounded_when_nothing_comes_free() {
        let (mut chunks, mut buffer) = (Chunks::default(), BytesMut::new());
        let mut held = Vec::new();
        for byte in 0..3 * RETIRED_MAX {
            chunks.make_room(&mut buffer, 1);
            held.push(fill(&mut buffer, byte as u8));
        }
        assert_eq!(chunks.retired.len(), RETIRED_MAX);
        for (byte, slice) in held.iter().enumerate() {
            assert!(slice.iter().all(|b| *b == byte as u8));
        }
    }
}
