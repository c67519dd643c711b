//! A growing buffer whose content begins where a block of memory begins.
//!
//! A device takes a direct write only from such a place; from anywhere else the whole frame would
//! be copied once more on its way out.

use crate::format::segment::BLOCK_BYTES;

/// Bytes at a block's beginning, as long as no more are pushed than there was made room for
/// ([`restart`](BlockBuffer::restart), [`grow`](BlockBuffer::grow)); beyond that they are the same bytes
/// at any place.
#[derive(Default)]
pub(crate) struct BlockBuffer {
    /// The content, behind as many bytes as lie before the first boundary.
    bytes: Vec<u8>,
    begin: usize,
}

impl BlockBuffer {
    /// Empties the buffer and makes room for so many bytes.
    pub(crate) fn restart(&mut self, room: usize) {
        self.bytes.clear();
        if self.bytes.capacity() < room + BLOCK {
            // A little more each time would be a new allocation each time.
            self.bytes = Vec::with_capacity((room + BLOCK).next_power_of_two());
        }
        // An address whose distance is not known is as good as any other.
        self.begin = self.bytes.as_ptr().align_offset(BLOCK).min(BLOCK);
        self.bytes.resize(self.begin, 0);
    }

    /// Makes room for so many bytes behind those that are there.
    pub(crate) fn grow(&mut self, more: usize) {
        if self.bytes.capacity() - self.bytes.len() >= more {
            return;
        }
        let mut larger = Self::default();
        larger.restart(2 * (self.len() + more));
        larger.push(self.content());
        *self = larger;
    }

    /// Gives memory back if it is more than so many bytes.
    pub(crate) fn shrink(&mut self, bytes_max: usize) {
        if self.bytes.capacity() > bytes_max {
            *self = Self::default();
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len() - self.begin
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    pub(crate) fn push_zeros(&mut self, count: usize) {
        self.bytes.resize(self.bytes.len() + count, 0);
    }

    pub(crate) fn content(&self) -> &[u8] {
        &self.bytes[self.begin..]
    }

    pub(crate) fn content_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.begin..]
    }
}

const BLOCK: usize = BLOCK_BYTES as usize;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_begins_at_a_block_and_is_whole_however_it_grows() {
        let mut buffer = BlockBuffer::default();
        for room in [1, 5_000, 100, 70_000] {
            buffer.restart(room);
            for at in 0..room {
                buffer.push(&[at as u8]);
            }
            assert!(buffer.content().as_ptr().addr().is_multiple_of(BLOCK), "{room} bytes");
            buffer.push_zeros(3);
            // More than was asked for.
            buffer.push(&[7; 200_000]);
            assert_eq!(buffer.len(), room + 200_003);
            assert!(buffer.content()[..room].iter().zip(0..).all(|(byte, at)| *byte == at as u8));
            assert_eq!(buffer.content()[room..room + 4], [0, 0, 0, 7]);
        }
        buffer.shrink(1 << 10);
        assert_eq!(buffer.len(), 0);
    }

    #[test]
    fn a_buffer_that_grows_keeps_its_content_and_its_place() {
        let mut buffer = BlockBuffer::default();
        buffer.restart(100);
        for round in 0..40_usize {
            let more = 10_000;
            buffer.grow(more);
            buffer.push(&vec![round as u8; more]);
            assert!(buffer.content().as_ptr().addr().is_multiple_of(BLOCK), "round {round}");
        }
        let rounds = buffer.content().chunks(10_000).zip(0..);
        assert!(rounds.clone().all(|(chunk, round)| chunk.iter().all(|byte| *byte == round)));
        assert_eq!(rounds.count(), 40);
    }
}
