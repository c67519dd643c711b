//! Snapshots of state machines: how they are stored, checked, and moved between nodes.
//!
//! The core says which snapshot is wanted and when one may be taken; here are its bytes. One
//! [desk](desk::Desk) per node does the work, on a thread of its own or in a simulator: it writes
//! what a machine gives, fetches what a leader offers, piece by piece, and makes machines of it.
//!
//! Invariants: a snapshot has its name only when it is whole and durable; whatever is read back
//! is checked, and a machine made from bytes that fail the check is thrown away.

pub(crate) mod desk;
#[cfg(unix)]
mod file_store;
mod format;
mod memory_store;
mod store;

#[cfg(unix)]
pub use file_store::FileStore;
pub(crate) use format::Restored;
pub use memory_store::MemoryStore;
pub use store::{SnapshotName, SnapshotPart, SnapshotStore};
