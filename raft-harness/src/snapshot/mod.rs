//! Snapshots of state machines: how they are stored, checked, and moved between nodes.
//!
//! The core says which snapshot is wanted and when one may be taken; here are its bytes. One
//! [desk](desk::Desk) per node asks for them and hands them out, piece by piece; one
//! [workshop](workshop::Workshop) writes what machines give and makes machines of what came. Each
//! is on a thread of its own, or in a simulator.
//!
//! Invariants: a snapshot has its name only when it is whole and durable; whatever is read back
//! is checked, and a machine made from bytes that fail the check is thrown away.

mod blocks;
pub(crate) mod desk;
pub(crate) mod entries;
#[cfg(unix)]
mod file_store;
pub(crate) mod fitting;
pub(crate) mod format;
mod memory_store;
pub(crate) mod shelf;
mod store;
pub(crate) mod workshop;

pub use blocks::Compression;
#[cfg(unix)]
pub use file_store::FileStore;
pub(crate) use format::Restored;
pub use memory_store::MemoryStore;
pub use store::{SnapshotBytes, SnapshotName, SnapshotPart, SnapshotStore};
