//! The Raft protocol for one group.
#![no_std]
extern crate alloc;
mod entry;
mod id;
pub use entry::{Entry, EntryKind, HardState};
pub use id::{GroupId, GroupIncarnation, Incarnation, LogIndex, LogTime, Micros, NodeId, PersistSeq, ReplicaId, Term, Token};
