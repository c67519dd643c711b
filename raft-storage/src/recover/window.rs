//! A file read in large steps, front to back, through one reused buffer.
//!
//! What the disk cannot read is zeros, if the caller says so ([`Window::over_holes`]).

use std::io;

use crate::disk::DiskFile;
use crate::disk::readings::Readings;
use crate::format::field::is_zero;
use crate::format::segment::BLOCK_BYTES;

/// Gives out stretches of the first `limit` bytes of a file. What is asked for may be longer
/// than the buffer, which then grows; no more than `limit` bytes are ever held.
pub(crate) struct Window<'a, F> {
    file: &'a F,
    /// Where it is told what cannot be read, and of which file; `None`: that is an error.
    readings: Option<(&'a Readings, String)>,
    limit: u64,
    buffer: Vec<u8>,
    begin: u64,
    /// Where the blocks begin that are held and cannot be read.
    holes: Vec<u64>,
}

impl<'a, F: DiskFile> Window<'a, F> {
    /// A window in which nothing can be unreadable.
    pub(crate) fn new(file: &'a F, limit: u64) -> Self {
        Self { file, readings: None, limit, buffer: Vec::new(), begin: 0, holes: Vec::new() }
    }

    /// The same over a file of this name, of which blocks may be unreadable.
    pub(crate) fn over_holes(
        file: &'a F,
        name: String,
        limit: u64,
        readings: &'a Readings,
    ) -> Self {
        Self { readings: Some((readings, name)), ..Self::new(file, limit) }
    }

    /// The bytes `[offset, offset + bytes)`; `UnexpectedEof` beyond the limit.
    pub(crate) fn get(&mut self, offset: u64, bytes: u64) -> io::Result<&[u8]> {
        if offset.checked_add(bytes).is_none_or(|end| end > self.limit) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if !self.holds(offset, bytes) {
            let filled = bytes.max(STEP_BYTES).min(self.limit - offset);
            self.buffer.resize(filled as usize, 0);
            // A failed read must not leave bytes of another place behind.
            self.begin = offset;
            let read = match &self.readings {
                Some((readings, name)) => {
                    readings.read((name.as_str(), self.file), &mut self.buffer, offset)
                }
                None => self.file.read_exact_at(&mut self.buffer, offset).map(|()| Vec::new()),
            };
            match read {
                Ok(holes) => self.holes = holes,
                Err(error) => {
                    self.buffer.clear();
                    return Err(error);
                }
            }
        }
        Ok(&self.buffer[(offset - self.begin) as usize..][..bytes as usize])
    }

    /// Whether these bytes are in memory.
    pub(crate) fn holds(&self, offset: u64, bytes: u64) -> bool {
        let end = offset.saturating_add(bytes);
        offset >= self.begin && end <= self.begin.saturating_add(self.buffer.len() as u64)
    }

    /// Whether something of these bytes, which are in memory, could not be read.
    pub(crate) fn has_hole(&self, offset: u64, bytes: u64) -> bool {
        let begin = offset - offset % BLOCK_BYTES;
        self.holes.iter().any(|hole| (begin..offset.saturating_add(bytes)).contains(hole))
    }

    /// The bytes in memory and where they begin; those that are read next go into `buffer`.
    pub(crate) fn take(&mut self, buffer: Vec<u8>) -> (Vec<u8>, u64) {
        let begin = std::mem::replace(&mut self.begin, u64::MAX);
        (std::mem::replace(&mut self.buffer, buffer), begin)
    }

    /// What `[from, to)` holds, beside what cannot be read.
    pub(crate) fn content(&mut self, from: u64, to: u64) -> io::Result<Content> {
        let mut content = Content::Blank;
        let mut at = from;
        while at < to {
            let bytes = (to - at).min(STEP_BYTES);
            if !is_zero(self.get(at, bytes)?) {
                return Ok(Content::Some);
            }
            if self.has_hole(at, bytes) {
                content = Content::Unreadable;
            }
            at += bytes;
        }
        Ok(content)
    }
}

/// What a stretch of a file holds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Content {
    /// Zeros, all of it.
    Blank,
    /// Zeros where it can be read.
    Unreadable,
    /// Something else.
    Some,
}

/// How much is read at once.
const STEP_BYTES: u64 = 1 << 20;
