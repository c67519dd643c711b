//! A state machine that remembers every command, in order, and lets the test look at it.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use raft_core::{Entry, EntryKind, LogIndex, LogTime};

use crate::state_machine::{ApplyMode, RestoreError, SnapshotPieces, StateMachine};

/// What one life of a replica has applied, as the machine in use last told.
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
        Box::new(Machine { journal: self.clone(), applied: Applied::default(), mode })
    }
}

struct Machine {
    journal: Journal,
    applied: Applied,
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
        let applied = &mut self.applied;
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
        *self.journal.0.lock() = applied.clone();
    }

    /// How many commands were applied.
    fn read(&self, _query: &[u8]) -> Bytes {
        Bytes::copy_from_slice(&(self.applied.commands.len() as u64).to_le_bytes())
    }

    fn digest(&self) -> u64 {
        self.applied.commands.iter().fold(7, |hash, command| (hash ^ command).wrapping_mul(31))
    }

    /// Position, time and commands; in pieces of a few, so that there are many.
    fn snapshot(&self) -> Option<SnapshotPieces> {
        let applied = &self.applied;
        let head = [applied.index.get(), applied.time.get()];
        let numbers: Vec<u64> = head.into_iter().chain(applied.commands.iter().copied()).collect();
        let pieces: Vec<Bytes> = numbers
            .chunks(700)
            .map(|numbers| numbers.iter().flat_map(|number| number.to_le_bytes()).collect())
            .collect();
        Some(Box::new(pieces.into_iter()))
    }

    fn restore(&mut self, pieces: &mut dyn Iterator<Item = Bytes>) -> Result<(), RestoreError> {
        let bytes: Vec<u8> = pieces.flatten().collect();
        let mut numbers = bytes.chunks_exact(8).map(number);
        let mut next = || numbers.next().ok_or(RestoreError::Damaged("it is cut short"));
        let (index, time) = (LogIndex::new(next()?), LogTime::new(next()?));
        self.applied = Applied { index, time, commands: numbers.collect() };
        Ok(())
    }

    fn mode(&self) -> ApplyMode {
        self.mode
    }
}
