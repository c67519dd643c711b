//! The log for someone who has no Raft: streams of records, appended in batches, read and trimmed.
//!
//! All streams share one log as groups do, so a batch for a thousand streams costs one write and one
//! sync, and an idle stream costs a few hundred bytes of memory. A record is named by its stream and its
//! [`Position`]; there are no terms, votes or indexes to invent.
//!
//! ```
//! # use raft_storage::journal::{Batch, Journal, Position, StreamId};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! # let (orders, dir) = (StreamId::new(7), dir.path());
//! Journal::create(dir, "shop")?;
//! let mut journal = Journal::open(dir, "shop", &Default::default())?;
//! let mut batch = Batch::new();
//! batch.create(orders, "orders of today").append(orders, "first").append(orders, "second");
//! // Durable on return, all of it with one sync.
//! assert_eq!(journal.commit(batch)?, [Position::FIRST, Position::new(2)]);
//! let records = journal.reader().read(orders, Position::FIRST, 1 << 20)?;
//! assert_eq!(records[1].payload, "second");
//! journal.close()?;
//! # Ok(())
//! # }
//! ```

mod batch;
mod error;
mod reader;
mod writer;

pub use batch::Batch;
pub use error::{JournalError, JournalOpenError, JournalReadError};
pub use reader::{JournalReader, Record};
pub use writer::{Journal, StreamInfo};

use raft_core::LogIndex;

/// A stream of a journal: any number the caller likes.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct StreamId(u32);

impl StreamId {
    /// Wraps the plain number.
    pub const fn new(id: u32) -> Self {
        Self(id)
    }

    /// The plain number.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl std::fmt::Display for StreamId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Where a record stands in its stream: 1 for the first, and one more for each that follows.
/// A position is never used twice in the life of a stream, trimmed or not.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Position(u64);

impl Position {
    /// Of the first record of a stream.
    pub const FIRST: Self = Self(1);

    /// Wraps the plain number.
    pub const fn new(position: u64) -> Self {
        Self(position)
    }

    /// The plain number.
    pub const fn get(self) -> u64 {
        self.0
    }

    const fn of(index: LogIndex) -> Self {
        Self(index.get())
    }

    const fn index(self) -> LogIndex {
        LogIndex::new(self.0)
    }

    /// The one after it. Saturates: nobody writes so many records.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl std::fmt::Display for Position {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)
    }
}
