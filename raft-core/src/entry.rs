//! Log entries and the state that must survive a crash.
//!
//! The core itself never holds an [`Entry`]: it knows which term each index has, and how long
//! the log is. The type lives here because the log, the transport and the driver share it.

use bytes::Bytes;

use crate::id::{LogIndex, LogTime, ReplicaId, Term};

/// What an entry is for.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[repr(u8)]
pub enum EntryKind {
    /// The empty entry a leader appends when its term begins (thesis, section 6.4).
    Noop = 0,
    /// A command for the state machine.
    Command = 1,
    /// A membership, in the bytes of [`Membership::encode`](crate::Membership::encode).
    Config = 2,
}

impl EntryKind {
    /// The number used on the wire and on disk.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The kind with this number, or `None` for a number this version does not know.
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::Noop),
            1 => Some(Self::Command),
            2 => Some(Self::Config),
            _ => None,
        }
    }
}

/// One entry of a group's log, with its payload.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Entry {
    /// Its position.
    pub index: LogIndex,
    /// The term of the leader that created it.
    pub term: Term,
    /// What it is for.
    pub kind: EntryKind,
    /// The time its leader gave it when it was appended; never smaller than its predecessor's.
    pub time: LogTime,
    /// The command or the membership; empty for a no-op.
    pub payload: Bytes,
}

impl Entry {
    /// What this entry counts for against size caps: its payload and a fixed overhead.
    pub fn cost(&self) -> u64 {
        self.payload.len() as u64 + Self::OVERHEAD
    }

    /// Bytes an entry needs beside its payload, on the wire and on disk alike (an upper bound).
    pub const OVERHEAD: u64 = 32;
}

/// Term and vote: one record, always written atomically (paper, figure 2).
///
/// Invariant: for one term the vote is set at most once.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct HardState {
    /// The latest term this replica has seen.
    pub term: Term,
    /// Whom it voted for in that term.
    pub vote: Option<ReplicaId>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_keeps_its_number_and_no_other_number_is_a_kind() {
        let kinds = [(0, EntryKind::Noop), (1, EntryKind::Command), (2, EntryKind::Config)];
        for (code, kind) in kinds {
            assert_eq!((kind.code(), EntryKind::from_code(code)), (code, Some(kind)));
        }
        assert!((3..=u8::MAX).all(|code| EntryKind::from_code(code).is_none()));
    }

    #[test]
    fn an_entry_without_payload_is_not_free() {
        let entry = |payload| Entry {
            index: LogIndex::new(1),
            term: Term::new(1),
            kind: EntryKind::Command,
            time: LogTime::default(),
            payload,
        };
        assert_eq!(entry(Bytes::new()).cost(), Entry::OVERHEAD);
        assert_eq!(entry(Bytes::from_static(&[7; 100])).cost(), Entry::OVERHEAD + 100);
    }
}
