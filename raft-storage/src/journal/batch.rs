//! What is asked of a journal at once.

use bytes::Bytes;

use super::{Position, StreamId};

/// Any number of steps over any number of streams; they take effect in order.
///
/// A batch that is refused changes nothing. A crash while it is written leaves the beginning of it, or
/// nothing; what fits into one frame ([`LogOptions::frame_bytes_max`](crate::LogOptions::frame_bytes_max),
/// 4 MiB) is there as a whole or not at all.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    pub(super) steps: Vec<(StreamId, Step)>,
}

#[derive(Clone, Debug)]
pub(super) enum Step {
    Create(Bytes),
    Append(Bytes),
    TrimBefore(Position),
    Remove,
}

impl Batch {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes a stream, empty, with a description of at most
    /// [`SPEC_BYTES_MAX`](crate::SPEC_BYTES_MAX) that an open gives back.
    pub fn create(&mut self, stream: StreamId, description: impl Into<Bytes>) -> &mut Self {
        self.push(stream, Step::Create(description.into()))
    }

    /// Appends a record of at most [`ENTRY_BYTES_MAX`](crate::ENTRY_BYTES_MAX); it may be empty.
    /// The payload is not copied before it is written.
    pub fn append(&mut self, stream: StreamId, payload: impl Into<Bytes>) -> &mut Self {
        self.push(stream, Step::Append(payload.into()))
    }

    /// Forgets all records before this position, which may be the one after the last record and no
    /// later. What is forgotten already stays so. The space comes back by and by.
    pub fn trim_before(&mut self, stream: StreamId, position: Position) -> &mut Self {
        self.push(stream, Step::TrimBefore(position))
    }

    /// Forgets a stream with all its records. It may be made again, and then begins at 1.
    pub fn remove(&mut self, stream: StreamId) -> &mut Self {
        self.push(stream, Step::Remove)
    }

    /// Whether nothing is asked.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    fn push(&mut self, stream: StreamId, step: Step) -> &mut Self {
        self.steps.push((stream, step));
        self
    }
}
