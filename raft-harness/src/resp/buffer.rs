//! Bytes on their way from or to a socket, in memory that is known and in proportion to them.
//!
//! What a peer announces moves nothing here: room grows with what has come, to at most twice as
//! much and one read. What was consumed is given back as soon as it outweighs what is left.

/// Room for one read from the socket, and as much as an empty buffer keeps.
pub(super) const READ_BYTES: usize = 16 << 10;

#[derive(Debug, Default)]
pub(super) struct Buffer {
    bytes: Vec<u8>,
    /// Where what was not consumed begins.
    start: usize,
}

impl Buffer {
    pub(super) fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    /// What it takes of memory, used or not.
    pub(super) fn allocated(&self) -> usize {
        self.bytes.capacity()
    }

    /// To be appended to, and to nothing else.
    pub(super) fn tail(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// The first `count` bytes are done with.
    pub(super) fn consume(&mut self, count: usize) {
        self.start += count;
        debug_assert!(self.start <= self.bytes.len());
        if self.is_empty() {
            self.bytes.clear();
            self.start = 0;
        }
        if self.start >= self.len() && self.bytes.capacity() > READ_BYTES {
            self.compact();
            self.bytes.shrink_to(READ_BYTES.max(2 * self.bytes.len()));
        }
    }

    /// Makes room for a read. `missing` is how much the peer says is still to come of something
    /// begun, or zero: taken as a hint, and only up to what has come already.
    pub(super) fn make_room(&mut self, missing: usize) {
        if self.start >= self.len() {
            self.compact();
        }
        let room = self.bytes.capacity() - self.bytes.len();
        if room >= READ_BYTES || (missing > 0 && room >= missing) {
            return;
        }
        if missing > READ_BYTES {
            self.bytes.reserve_exact(READ_BYTES.max(missing.min(self.len())));
        } else {
            self.bytes.reserve(READ_BYTES);
        }
    }

    /// Drops everything, memory included.
    pub(super) fn release(&mut self) {
        *self = Self::default();
    }

    fn compact(&mut self) {
        self.bytes.drain(..self.start);
        self.start = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_grows_with_what_came_and_not_with_what_was_announced() {
        const ANNOUNCED: usize = 64 << 20;
        for step in [1, 1000, 15 << 10, READ_BYTES, 1 << 20] {
            let mut buffer = Buffer::default();
            let mut came = 0;
            while came < 4 << 20 {
                buffer.make_room(ANNOUNCED - came);
                let room = buffer.tail().capacity() - buffer.tail().len();
                let read = step.min(room);
                buffer.tail().extend(std::iter::repeat_n(7, read));
                came += read;
                assert!(buffer.allocated() <= 2 * came + 2 * READ_BYTES, "{came} came in {step}s");
                if came > 256 << 10 && step == 1 {
                    break;
                }
            }
        }
    }

    #[test]
    fn a_whole_value_needs_no_more_room_than_its_length() {
        const VALUE: usize = 3 << 20;
        let mut buffer = Buffer::default();
        while buffer.len() < VALUE {
            buffer.make_room(VALUE - buffer.len());
            let room = buffer.tail().capacity() - buffer.tail().len();
            let read = room.min(VALUE - buffer.len());
            buffer.tail().extend(std::iter::repeat_n(7, read));
        }
        assert!(buffer.allocated() <= VALUE + READ_BYTES);
    }

    #[test]
    fn what_is_done_with_is_given_back_though_the_next_has_begun() {
        let mut buffer = Buffer::default();
        buffer.tail().extend(std::iter::repeat_n(1, 1 << 20));
        buffer.tail().extend(b"begun");
        buffer.consume(1 << 20);
        assert_eq!(buffer.as_slice(), b"begun");
        assert!(buffer.allocated() <= READ_BYTES, "{}", buffer.allocated());
        buffer.consume(5);
        assert!(buffer.is_empty());
    }

    #[test]
    fn bytes_come_out_as_they_went_in() {
        let mut buffer = Buffer::default();
        let (mut written, mut read) = (0u32, 0u32);
        let mut random = 0x9e37_79b9_7f4a_7c15u64;
        for _ in 0..20_000 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            buffer.make_room((random % 40_000) as usize);
            for _ in 0..random % 50 {
                buffer.tail().extend(written.to_le_bytes());
                written += 1;
            }
            let count = (random >> 8) as usize % (buffer.len() / 4 + 1);
            for number in buffer.as_slice().chunks_exact(4).take(count) {
                assert_eq!(number, read.to_le_bytes());
                read += 1;
            }
            buffer.consume(count * 4);
        }
    }
}
