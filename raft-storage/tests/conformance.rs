//! The logs of this crate meet the suite that others are held to.

mod common;

use std::cell::RefCell;

use common::*;
use raft_core::NodeId;
use raft_storage::{Expected, InitOptions, Log, MemoryLog, conformance, init};

#[test]
fn memory_log_conforms() {
    conformance::all(MemoryLog::new);
}

#[test]
fn log_on_a_disk_in_memory_conforms() {
    conformance::all(|| open(&new_disk()).writer);
    conformance::all(|| open_with(&new_disk(), &tiny()).unwrap().writer);
}

#[test]
fn log_on_real_files_conforms() {
    // The directories live until all stores are gone.
    let dirs = RefCell::new(Vec::new());
    conformance::all(|| {
        let dir = tempfile::tempdir().unwrap();
        init(dir.path(), "test", NodeId::new(1), &InitOptions::default()).unwrap();
        let opened = Log::open(dir.path(), &Expected::default(), &options()).unwrap();
        dirs.borrow_mut().push(dir);
        opened.writer
    });
}
