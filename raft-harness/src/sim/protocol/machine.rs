//! The state machine of a simulated group: registers and lists, told apart by key.
//!
//! Every write carries a serial of its own, so that a state names the writes it came from.

use std::collections::BTreeMap;

use raft_core::LogIndex;

use crate::sim::history::Value;
use crate::sim::rng::mix;

/// A command for the machine.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Command {
    /// Unique over the whole run; the value written.
    pub(crate) serial: u64,
    pub(crate) key: u8,
    pub(crate) action: Action,
    /// What its payload would weigh.
    pub(crate) bytes: u32,
    /// The client's operation it stands for.
    pub(crate) op: u64,
}

/// What a command does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Action {
    /// Sets the register to the serial.
    Write,
    /// Appends the serial to the list.
    Append,
    /// Sets the register to the serial if it holds this.
    CompareAndSet { expected: Option<u64> },
}

impl Command {
    pub(crate) fn cost(&self) -> u64 {
        u64::from(self.bytes) + 32
    }
}

/// What a command answers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Answer {
    Done,
    /// Whether the compare-and-set took effect.
    Swapped(bool),
}

/// Keys below this are registers, the others lists.
pub(crate) const REGISTERS: u8 = 3;
/// All keys.
pub(crate) const KEYS: u8 = 5;

/// A group's state.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Machine {
    pub(crate) applied: LogIndex,
    registers: BTreeMap<u8, u64>,
    lists: BTreeMap<u8, Vec<u64>>,
    digest: u64,
}

impl Machine {
    /// Applies the entry after the last; `None` for one that is no command.
    pub(crate) fn apply(&mut self, command: Option<&Command>, hash: u64) -> Answer {
        self.applied = self.applied.next();
        self.digest = mix(self.digest ^ hash);
        let Some(command) = command else {
            return Answer::Done;
        };
        match command.action {
            Action::Write => {
                self.registers.insert(command.key, command.serial);
                Answer::Done
            }
            Action::Append => {
                self.lists.entry(command.key).or_default().push(command.serial);
                Answer::Done
            }
            Action::CompareAndSet { expected } => {
                let fits = self.registers.get(&command.key).copied() == expected;
                if fits {
                    self.registers.insert(command.key, command.serial);
                }
                Answer::Swapped(fits)
            }
        }
    }

    pub(crate) fn read(&self, key: u8) -> Value {
        if key < REGISTERS {
            self.registers.get(&key).map_or(Value::Absent, |serial| Value::Register(*serial))
        } else {
            self.lists.get(&key).map_or(Value::Absent, |list| Value::List(list.clone()))
        }
    }

    /// Names the whole history that led here.
    pub(crate) const fn digest(&self) -> u64 {
        self.digest
    }
}
