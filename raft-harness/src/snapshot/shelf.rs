//! Which snapshots a node has, known without asking their store again.
//!
//! A directory is listed once, when a node starts. From then on whatever comes and goes does so
//! through here, so that what is done for one group never costs more because there are others.
//!
//! Invariant: a name on the shelf was whole in the store when it was put there.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;
use raft_core::{GroupId, GroupIncarnation, LogIndex, Term};

use super::store::{SnapshotName, SnapshotPart, SnapshotStore};

pub(crate) struct Shelf {
    store: Arc<dyn SnapshotStore>,
    /// In the order of their groups, then of their indexes.
    names: Mutex<BTreeSet<SnapshotName>>,
}

impl Shelf {
    /// Looks once at what there is.
    pub(crate) fn open(store: Arc<dyn SnapshotStore>) -> io::Result<Self> {
        let names = store.names()?.into_iter().collect();
        Ok(Self { store, names: Mutex::new(names) })
    }

    /// For reading, and for beginning something new.
    pub(crate) fn store(&self) -> &dyn SnapshotStore {
        &*self.store
    }

    pub(crate) fn has(&self, name: SnapshotName) -> bool {
        self.names.lock().contains(&name)
    }

    /// The snapshots of one life of a group, oldest first.
    pub(crate) fn of(&self, group: GroupId, incarnation: GroupIncarnation) -> Vec<SnapshotName> {
        let first = SnapshotName { group, incarnation, index: LogIndex::ZERO, term: Term::ZERO };
        let names = self.names.lock();
        let of_group = names.range(first..);
        of_group
            .take_while(|name| (name.group, name.incarnation) == (group, incarnation))
            .copied()
            .collect()
    }

    /// A snapshot is made whole and has its place from now on.
    pub(crate) fn put(&self, name: SnapshotName, part: Box<dyn SnapshotPart>) -> io::Result<()> {
        part.finish()?;
        self.names.lock().insert(name);
        Ok(())
    }

    /// Forgets one. It keeps its place if it cannot be removed, so that it is tried again.
    pub(crate) fn remove(&self, name: SnapshotName) -> io::Result<()> {
        self.store.remove(name)?;
        self.names.lock().remove(&name);
        Ok(())
    }

    /// Forgets the snapshots of groups, and of lives of groups, that are not here: a crash may leave
    /// some behind when a replica leaves.
    pub(crate) fn forget_strangers(
        &self,
        is_here: impl Fn((GroupId, GroupIncarnation)) -> bool,
    ) -> io::Result<()> {
        let names: Vec<SnapshotName> = self.names.lock().iter().copied().collect();
        let mut strangers =
            names.into_iter().filter(|name| !is_here((name.group, name.incarnation)));
        strangers.try_for_each(|name| self.remove(name))
    }
}
