//! What a simulated log holds: entries with an identity that checks can compare.

use std::sync::Arc;

use raft_core::{EntryKind, LogTime, Membership, Term};

use super::machine::Command;

/// One entry of a simulated log.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) term: Term,
    pub(crate) time: LogTime,
    pub(crate) payload: Payload,
    /// Distinguishes any two entries that were ever proposed.
    pub(crate) hash: u64,
}

/// What an entry is for.
#[derive(Clone, Debug)]
pub(crate) enum Payload {
    Noop,
    Command(Command),
    Config(Arc<Membership>),
}

impl Record {
    pub(crate) fn kind(&self) -> EntryKind {
        match self.payload {
            Payload::Noop => EntryKind::Noop,
            Payload::Command(_) => EntryKind::Command,
            Payload::Config(_) => EntryKind::Config,
        }
    }

    /// What the entry counts for against size caps.
    pub(crate) fn cost(&self) -> u64 {
        match &self.payload {
            Payload::Noop | Payload::Config(_) => 32,
            Payload::Command(command) => command.cost(),
        }
    }
}
