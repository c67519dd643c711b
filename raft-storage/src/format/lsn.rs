//! Positions in the shared log.
//!
//! Invariant: a position names a byte of the log for ever. Segment `n + 1` continues counting
//! where segment `n` ended, so positions never repeat and never run backwards.

use std::fmt;

/// A byte position in the log of a node, across all its segments. The first frame is at 4096.
#[derive(Clone, Copy, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Lsn(u64);

impl Lsn {
    /// The start of the log, before any frame.
    pub const ZERO: Self = Self(0);

    /// Wraps the plain number.
    pub const fn new(value: u64) -> Self {
        Self(value)
    }

    /// The plain number, for encoders and displays.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The position `bytes` further on. Saturates, since positions are also read from disk.
    #[must_use]
    pub const fn plus(self, bytes: u64) -> Self {
        Self(self.0.saturating_add(bytes))
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "lsn{}", self.0)
    }
}
