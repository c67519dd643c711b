//! The engine's replicas, shown to whoever judges them: after each step of a core, before
//! anything that follows from it is carried out.

use raft_core::{Entry, Group, LogIndex};

use super::shard_engine::ShardEngine;
use super::slot::Slot;

/// Told of each step.
pub(crate) type Watch = Box<dyn FnMut(Replica<'_>) + Send>;

/// One replica as its shard holds it.
#[derive(Clone, Copy)]
pub(crate) struct Replica<'a> {
    slot: &'a Slot,
}

impl<'a> Replica<'a> {
    pub(crate) fn core(self) -> &'a Group {
        &self.slot.core
    }

    /// An entry of its log, if it is at hand.
    pub(crate) fn entry(self, index: LogIndex) -> Option<&'a Entry> {
        self.slot.entry(index)
    }
}

impl ShardEngine {
    /// Shows every step from now on.
    pub(crate) fn watch(&mut self, watch: Watch) {
        self.watch = Some(watch);
    }

    /// All replicas as they are now; those that left are none any more.
    pub(crate) fn replicas(&self) -> impl Iterator<Item = Replica<'_>> {
        self.slots.iter().filter(|slot| !slot.is_gone).map(|slot| Replica { slot })
    }

    pub(super) fn show(&mut self, at: u32) {
        if let Some(watch) = &mut self.watch {
            watch(Replica { slot: &self.slots[at as usize] });
        }
    }
}
