//! Snapshots in memory: for tests, simulators, and groups whose state may be lost.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::store::{SnapshotName, SnapshotPart, SnapshotStore};

/// Keeps snapshots for as long as it lives. Cheap to clone; clones share them.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore {
    whole: Arc<Mutex<BTreeMap<SnapshotName, Bytes>>>,
}

struct Part {
    name: SnapshotName,
    bytes: Vec<u8>,
    store: MemoryStore,
}

impl SnapshotStore for MemoryStore {
    fn names(&self) -> io::Result<Vec<SnapshotName>> {
        Ok(self.whole.lock().keys().copied().collect())
    }

    fn begin(&self, name: SnapshotName) -> io::Result<Box<dyn SnapshotPart>> {
        Ok(Box::new(Part { name, bytes: Vec::new(), store: self.clone() }))
    }

    fn bytes(&self, name: SnapshotName) -> io::Result<Option<u64>> {
        Ok(self.whole.lock().get(&name).map(|bytes| bytes.len() as u64))
    }

    fn read(&self, name: SnapshotName, offset: u64, bytes: usize) -> io::Result<Bytes> {
        let whole = self.whole.lock().get(&name).cloned().ok_or(io::ErrorKind::NotFound)?;
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(whole.len());
        Ok(whole.slice(from..from.saturating_add(bytes).min(whole.len())))
    }

    fn remove(&self, name: SnapshotName) -> io::Result<()> {
        self.whole.lock().remove(&name);
        Ok(())
    }
}

impl SnapshotPart for Part {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn finish(self: Box<Self>) -> io::Result<()> {
        self.store.whole.lock().insert(self.name, self.bytes.into());
        Ok(())
    }
}
