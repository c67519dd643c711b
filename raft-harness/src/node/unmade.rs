//! What stands in for a state machine whose factory panicked: its group is faulted with the reason as soon as
//! there is something to apply, and nothing else is.

use std::panic::resume_unwind;

use bytes::Bytes;
use raft_core::Entry;

use crate::bodies::NewMachine;
use crate::state_machine::{RestoreError, StateMachine};

/// Says with whatever is asked of it why it is none.
struct Unmade(String);

/// A machine that is none.
pub(super) fn unmade(why: &str) -> NewMachine {
    NewMachine { machine: Box::new(Unmade(format!("its factory {why}"))), bodies: None }
}

impl StateMachine for Unmade {
    fn apply(&mut self, _entries: &[Entry], _outputs: &mut Vec<Bytes>) {
        // The panic was told of when it happened.
        resume_unwind(Box::new(self.0.clone()))
    }

    fn read(&self, _query: &[u8]) -> Bytes {
        resume_unwind(Box::new(self.0.clone()))
    }

    fn digest(&self) -> u64 {
        resume_unwind(Box::new(self.0.clone()))
    }

    fn restore(&mut self, _pieces: &mut dyn Iterator<Item = Bytes>) -> Result<(), RestoreError> {
        Err(RestoreError::Refused(self.0.clone()))
    }
}
