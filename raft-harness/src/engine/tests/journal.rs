//! A state machine that remembers every command, in order, and lets the test look at it.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use raft_core::{Entry, EntryKind, LogIndex, LogTime};

use crate::state_machine::{ApplyMode, StateMachine};

/// What one life of a replica has applied.
#[derive(Clone, Debug, Default)]
pub(super) struct Journal(Arc<Mutex<Applied>>);

#[derive(Clone, Debug, Default)]
pub(super) struct Applied {
    pub(super) index: LogIndex,
    pub(super) time: LogTime,
    pub(super) commands: Vec<u64>,
}

impl Journal {
    pub(super) fn look(&self) -> Applied {
        self.0.lock().clone()
    }

    pub(super) fn machine(&self, mode: ApplyMode) -> Box<dyn StateMachine> {
        Box::new(Machine { journal: self.clone(), mode })
    }
}

struct Machine {
    journal: Journal,
    mode: ApplyMode,
}

/// A command is its number and padding.
pub(super) fn command(number: u64, padding: usize) -> Bytes {
    let mut bytes = number.to_le_bytes().to_vec();
    bytes.resize(8 + padding, 0);
    bytes.into()
}

pub(super) fn number(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"))
}

impl StateMachine for Machine {
    fn apply(&mut self, entries: &[Entry], outputs: &mut Vec<Bytes>) {
        let mut applied = self.journal.0.lock();
        for entry in entries {
            assert_eq!(entry.index, applied.index.next(), "entries come in order, each once");
            assert!(entry.time >= applied.time, "log time does not run backwards");
            applied.index = entry.index;
            applied.time = entry.time;
            if entry.kind == EntryKind::Command {
                applied.commands.push(number(&entry.payload));
            }
            outputs.push(Bytes::copy_from_slice(&(applied.commands.len() as u64).to_le_bytes()));
        }
    }

    /// How many commands were applied.
    fn read(&self, _query: &[u8]) -> Bytes {
        Bytes::copy_from_slice(&(self.journal.0.lock().commands.len() as u64).to_le_bytes())
    }

    fn digest(&self) -> u64 {
        let applied = self.journal.0.lock();
        applied.commands.iter().fold(7, |hash, command| (hash ^ command).wrapping_mul(31))
    }

    fn mode(&self) -> ApplyMode {
        self.mode
    }
}
