//! What can go wrong with a journal.

#![allow(missing_docs, reason = "the message of a variant says what its fields are")]

use std::io;

use super::{Position, StreamId};
use crate::error::{InitError, LogError, OpenError};

/// Why a journal was not made or opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JournalOpenError {
    /// The name of a journal has 1 to 247 bytes.
    #[error("the name of the journal has {bytes} bytes, allowed are 1 to {bytes_max}")]
    Name { bytes: usize, bytes_max: usize },
    /// The directory holds the log of a Raft node. Nothing was changed.
    #[error("{dir} holds the log of a node of cluster {cluster:?}, not a journal")]
    NotAJournal { dir: String, cluster: String },
    /// The directory holds another journal. Nothing was changed.
    #[error("{dir} holds journal {found:?}, expected {expected:?}")]
    ForeignJournal { dir: String, expected: String, found: String },
    /// It could not be made.
    #[error(transparent)]
    Init(#[from] InitError),
    /// It could not be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
}

/// Why a batch was refused, or failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JournalError {
    /// Nothing was changed.
    #[error("stream {stream} does not exist")]
    UnknownStream { stream: StreamId },
    /// Nothing was changed.
    #[error("stream {stream} exists")]
    StreamExists { stream: StreamId },
    /// Nothing was changed.
    #[error("stream {stream}: cannot trim before {asked}, the next record will be {next}")]
    TrimBeyondEnd { stream: StreamId, asked: Position, next: Position },
    /// Nothing was changed.
    #[error("stream {stream}: a record of {bytes} bytes, the limit is {bytes_max}")]
    RecordTooLarge { stream: StreamId, bytes: u64, bytes_max: u64 },
    /// Nothing was changed.
    #[error("stream {stream}: a description of {bytes} bytes, the limit is {bytes_max}")]
    DescriptionTooLarge { stream: StreamId, bytes: u64, bytes_max: u64 },
    /// A stream was made 2^32 times. Nothing was changed.
    #[error("stream {stream} was made too often, use another number")]
    StreamWornOut { stream: StreamId },
    /// There is no room for another segment. Nothing was changed, and the same batch may be tried
    /// again. Batches that only trim and remove pass, as far as a reserve reaches: an eighth of a
    /// segment, 256 KiB at most.
    #[error("no room for the journal")]
    Full { source: io::Error },
    /// A write or a sync failed. Nothing since the last sync is certain, and nothing more is taken:
    /// open the journal again, in a new process.
    #[error(transparent)]
    Failed(LogError),
}

impl From<LogError> for JournalError {
    fn from(error: LogError) -> Self {
        match error {
            LogError::NoSegment { source } => Self::Full { source },
            error => Self::Failed(error),
        }
    }
}

/// Why records cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JournalReadError {
    #[error("stream {stream} does not exist")]
    UnknownStream { stream: StreamId },
    /// Trimmed before or while it was read.
    #[error("stream {stream} begins at {first} now, asked for {asked}")]
    Trimmed { stream: StreamId, asked: Position, first: Position },
    #[error("stream {stream}: asked for {asked}, the next record will be {next}")]
    BeyondEnd { stream: StreamId, asked: Position, next: Position },
    /// What is on disk is not what was written.
    #[error("stream {stream}: record {position} in segment {segment} at {offset} is damaged")]
    Damaged { stream: StreamId, position: Position, segment: u32, offset: u64 },
    /// The file system refused.
    #[error("stream {stream}: cannot read record {position}")]
    Io { stream: StreamId, position: Position, source: io::Error },
}
