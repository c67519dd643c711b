//! A file read in large steps, front to back, through one reused buffer.

use std::io;

use crate::disk::DiskFile;
use crate::format::field::is_zero;

/// Gives out stretches of the first `limit` bytes of a file. What is asked for may be longer
/// than the buffer, which then grows; no more than `limit` bytes are ever held.
pub(crate) struct Window<'a, F> {
    file: &'a F,
    limit: u64,
    buffer: Vec<u8>,
    begin: u64,
}

impl<'a, F: DiskFile> Window<'a, F> {
    pub(crate) fn new(file: &'a F, limit: u64) -> Self {
        Self { file, limit, buffer: Vec::new(), begin: 0 }
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
            if let Err(error) = self.file.read_exact_at(&mut self.buffer, offset) {
                self.buffer.clear();
                return Err(error);
            }
        }
        Ok(&self.buffer[(offset - self.begin) as usize..][..bytes as usize])
    }

    /// Whether these bytes are in memory.
    pub(crate) fn holds(&self, offset: u64, bytes: u64) -> bool {
        let end = offset.saturating_add(bytes);
        offset >= self.begin && end <= self.begin.saturating_add(self.buffer.len() as u64)
    }

    /// The bytes in memory and where they begin; those that are read next go into `buffer`.
    pub(crate) fn take(&mut self, buffer: Vec<u8>) -> (Vec<u8>, u64) {
        let begin = std::mem::replace(&mut self.begin, u64::MAX);
        (std::mem::replace(&mut self.buffer, buffer), begin)
    }

    /// Whether `[from, to)` holds nothing but zeros.
    pub(crate) fn is_blank(&mut self, from: u64, to: u64) -> io::Result<bool> {
        let mut at = from;
        while at < to {
            let bytes = (to - at).min(STEP_BYTES);
            if !is_zero(self.get(at, bytes)?) {
                return Ok(false);
            }
            at += bytes;
        }
        Ok(true)
    }
}

/// How much is read at once.
const STEP_BYTES: u64 = 1 << 20;
