//! Reading records back, beside the writer.

use bytes::Bytes;
use raft_core::{Entry, GroupId};

use super::{JournalReadError, Position, StreamId};
use crate::error::ReadError;
use crate::read::reader::LogReader;

/// A record as it was appended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Record {
    /// Where it stands in its stream.
    pub position: Position,
    /// What was appended.
    pub payload: Bytes,
}

/// Reads all streams of a journal, from any thread. Cheap to clone. It stays usable when the journal
/// has failed or is gone.
#[derive(Clone)]
pub struct JournalReader {
    log: LogReader,
}

impl JournalReader {
    pub(super) fn new(log: LogReader) -> Self {
        Self { log }
    }

    /// The records from this position to the end of the stream, or fewer if they cost more than
    /// `bytes_max` (their payloads and 32 bytes each); at least one, unless `from` is the position of the
    /// next one to come. Records are seen once they are written, durable or not.
    ///
    /// Every checksum is verified. Cost: a read of the disk per stretch of neighbours.
    ///
    /// # Errors
    /// [`JournalReadError::Trimmed`] also when it was trimmed meanwhile.
    pub fn read(
        &self,
        stream: StreamId,
        from: Position,
        bytes_max: u64,
    ) -> Result<Vec<Record>, JournalReadError> {
        let (first, next) = self.bounds(stream)?;
        if from < first {
            return Err(JournalReadError::Trimmed { stream, asked: from, first });
        }
        if from > next {
            return Err(JournalReadError::BeyondEnd { stream, asked: from, next });
        }
        let (group, first, last) = (group(stream), from.index(), next.index().prev());
        let entries = self.log.entries(group, first, last, bytes_max).map_err(|error| {
            match error {
                ReadError::UnknownGroup { .. } => JournalReadError::UnknownStream { stream },
                // The stream has only been trimmed meanwhile, or begun anew.
                ReadError::OutOfRange { first, .. } => {
                    JournalReadError::Trimmed { stream, asked: from, first: Position::of(first) }
                }
                // Said only of entries that are asked for by name, which the journal never does.
                ReadError::NotHeld { index, .. } => {
                    let first = Position::of(index.next());
                    JournalReadError::Trimmed { stream, asked: from, first }
                }
                ReadError::Corrupt { index, segment, offset, .. } => {
                    let position = Position::of(index);
                    JournalReadError::Damaged { stream, position, segment, offset }
                }
                ReadError::Io { index, source, .. } => {
                    JournalReadError::Io { stream, position: Position::of(index), source }
                }
            }
        })?;
        let record =
            |entry: Entry| Record { position: Position::of(entry.index), payload: entry.payload };
        Ok(entries.into_iter().map(record).collect())
    }

    /// The position of the first record that is there, and of the next one to come; both are the same
    /// where there is none.
    ///
    /// # Errors
    /// [`JournalReadError::UnknownStream`].
    pub fn bounds(&self, stream: StreamId) -> Result<(Position, Position), JournalReadError> {
        let unknown = JournalReadError::UnknownStream { stream };
        let (first, last) = self.log.bounds(group(stream)).ok_or(unknown)?;
        Ok((Position::of(first), Position::of(last).next()))
    }

    /// All records before this position are durable.
    ///
    /// # Errors
    /// [`JournalReadError::UnknownStream`].
    pub fn durable_before(&self, stream: StreamId) -> Result<Position, JournalReadError> {
        let durable = self.log.durable_index(group(stream));
        let durable = durable.ok_or(JournalReadError::UnknownStream { stream })?;
        Ok(Position::of(durable).next())
    }
}

/// The group that a stream is in the log.
pub(super) const fn group(stream: StreamId) -> GroupId {
    GroupId::new(stream.get())
}
