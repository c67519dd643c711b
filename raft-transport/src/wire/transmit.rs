//! Bytes on their way out: small ones gathered in one buffer, large payloads by reference.
//!
//! A 4 KiB copy costs about what an extra slice costs in a vectored write; so from there on
//! payloads are not copied but take their place in the queue as they are.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes, BytesMut};

/// Payloads of at least so many bytes are queued by reference.
const BY_REFERENCE_MIN: usize = 4096;

/// A queue of bytes to write, in order. Bounded by its user (see [`len`](Self::len)).
#[derive(Debug, Default)]
pub struct Transmit {
    segments: VecDeque<Bytes>,
    /// What comes after the segments.
    tail: BytesMut,
    len: u64,
}

impl Transmit {
    /// An empty queue; allocates nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Bytes queued.
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// Whether nothing is queued.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Fills `slices` from the front and says how many it filled: what to write next.
    pub fn io_slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let segments = self.segments.iter().map(|segment| &segment[..]);
        let tail = Some(&self.tail[..]).filter(|tail| !tail.is_empty());
        let mut filled = 0;
        for (slice, bytes) in slices.iter_mut().zip(segments.chain(tail)) {
            *slice = IoSlice::new(bytes);
            filled += 1;
        }
        filled
    }

    /// Forgets the first `count` bytes: they are written.
    ///
    /// # Panics
    /// If fewer are queued, which no correct stream reports.
    pub fn advance(&mut self, count: usize) {
        assert!(count as u64 <= self.len, "a stream wrote more than it was given");
        self.len -= count as u64;
        let mut left = count;
        while let Some(front) = self.segments.front_mut() {
            if left < front.len() {
                front.advance(left);
                return;
            }
            left -= front.len();
            self.segments.pop_front();
        }
        self.tail.advance(left);
    }

    /// Where small things are written. Tell [`grown`](Self::grown) afterwards.
    pub(crate) fn tail(&mut self) -> &mut BytesMut {
        &mut self.tail
    }

    /// Counts what was written to the tail since it was `before` bytes long.
    pub(crate) fn grown(&mut self, before: usize) {
        self.len += (self.tail.len() - before) as u64;
    }

    /// Moves all of another queue to the end.
    pub(crate) fn append(&mut self, mut other: Self) {
        let len = usize::try_from(other.len).expect("it is in memory");
        other.move_front(len, self);
    }

    /// Moves the first `count` bytes to the end of another queue.
    pub(crate) fn move_front(&mut self, count: usize, out: &mut Self) {
        let mut left = count;
        while let Some(front) = self.segments.front_mut().filter(|_| left > 0) {
            if left < front.len() {
                out.put_payload(&front.split_to(left));
                self.len -= left as u64;
                return;
            }
            left -= front.len();
            self.len -= front.len() as u64;
            if let Some(front) = self.segments.pop_front() {
                out.put_payload(&front);
            }
        }
        if left > 0 {
            self.len -= left as u64;
            out.put_payload(&self.tail.split_to(left).freeze());
        }
    }

    /// Goes on with a checksum over the first `count` bytes.
    pub(crate) fn sum_front(&self, count: usize, crc: u32) -> u32 {
        let pieces = self.segments.iter().map(|segment| &segment[..]).chain([&self.tail[..]]);
        let (mut left, mut crc) = (count, crc);
        for piece in pieces {
            let piece = &piece[..left.min(piece.len())];
            crc = crc32c::crc32c_append(crc, piece);
            left -= piece.len();
            if left == 0 {
                break;
            }
        }
        crc
    }

    pub(crate) fn put_slice(&mut self, bytes: &[u8]) {
        self.tail.extend_from_slice(bytes);
        self.len += bytes.len() as u64;
    }

    /// Queues a payload, by reference if it is large.
    pub(crate) fn put_payload(&mut self, payload: &Bytes) {
        if payload.len() < BY_REFERENCE_MIN {
            self.put_slice(payload);
            return;
        }
        if !self.tail.is_empty() {
            self.segments.push_back(self.tail.split().freeze());
        }
        self.segments.push_back(payload.clone());
        self.len += payload.len() as u64;
    }
}
