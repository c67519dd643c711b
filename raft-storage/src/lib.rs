//! One shared write-ahead log for all Raft groups of a node.
//!
//! A node with 100,000 groups cannot afford a file, a buffer or a sync per group. Here all groups
//! append to one segmented log: a batch of many groups is one frame, one vectored write and one
//! `fdatasync`. What a crash interrupts is cut; what a disk has damaged is reported, never cut.
//!
//! [`init`] makes a data directory, [`Log::open`] recovers it and hands out the one
//! [`LogWriter`] and any number of [`LogReader`]s. Everything runs over the [`Disk`] seam, on
//! [`FileDisk`] or, with crashes and faults, on [`MemDisk`]. [`MemoryLog`] is a log without disk.
//! Whoever has no Raft takes the [`journal`]: streams of records in the same log.
//!
//! The layout of every byte is drawn in `docs/FORMATS.md`.

mod disk;
mod format;

mod append;
mod read;
mod recover;

mod checkpoint;
mod reclaim;

#[cfg(unix)]
mod certificate;
mod inspect;

mod error;
mod log;
mod memory_log;
mod store;

pub mod journal;

#[cfg(feature = "conformance")]
pub mod conformance;

pub use append::flight::{Flight, Landing};
pub use append::room_wait::RoomWait;
pub use append::spares::Preparation;
pub use append::write::{
    AppendInfo, Compaction, ENTRY_BYTES_MAX, GroupCreate, GroupWrite, Large, SPEC_BYTES_MAX,
    SyncInfo,
};
pub use append::writer::LogWriter;
#[cfg(unix)]
pub use certificate::{BootCertificate, BootWord, CertificateError};
#[cfg(unix)]
pub use disk::file_disk::{FileDisk, LogFile, drop_cache};
pub use disk::mem_disk::{CrashPolicy, Fault, MemDisk, MemFile, MemLock};
pub use disk::readings::is_unreadable;
pub use disk::{
    Disk, DiskFile, TWIN_BYTES, is_out_of_descriptors, is_out_of_room, read_file, read_twins,
    replace_file, write_twins,
};
pub use error::{
    Damage, DiskOp, FrameFault, InitError, LogError, OpenError, ReadError, RecordFault, Unsupported,
};
pub use format::checksum::{TEST_VECTOR, crc32c, crc32c_append};
pub use format::identity::{Identity, StoreId};
pub use format::live::{LIVE_BYTES_MAX, LiveEntries};
pub use format::lsn::Lsn;
pub use format::pieces::Piece;
pub use inspect::Inspection;
pub use inspect::dump::{Dumped, RecordFilter, RecordView};
pub use inspect::verify::{FINDINGS_MAX, Finding, Flaw, Verified};
#[cfg(unix)]
pub use log::init;
pub use log::{Expected, InitOptions, Log, LogOptions, Opened, init_on};
pub use memory_log::MemoryLog;
pub use read::reader::{Holding, LogReader, Scrub, Scrubbed};
pub use recover::damage::Hole;
pub use recover::recovery::{OnDamage, RecoveredGroup, RecoveryReport, TornTail};
pub use store::{Ending, LogStats, LogStore, Tending};
