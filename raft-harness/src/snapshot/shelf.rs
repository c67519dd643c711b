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

use super::store::{SnapshotBytes, SnapshotName, SnapshotPart, SnapshotStore};

pub(crate) struct Shelf {
    store: Arc<dyn SnapshotStore>,
    /// In the order of their groups, then of their indexes.
    names: Mutex<BTreeSet<SnapshotName>>,
    /// What came of snapshots that are not whole, one of a group at most.
    unfinished: Mutex<BTreeSet<SnapshotName>>,
}

impl Shelf {
    /// Looks once at what there is.
    pub(crate) fn open(store: Arc<dyn SnapshotStore>) -> io::Result<Self> {
        let names = store.names()?.into_iter().collect();
        let unfinished = store.unfinished()?.into_iter().collect();
        Ok(Self { store, names: Mutex::new(names), unfinished: Mutex::new(unfinished) })
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

    /// The one that comes next to another in the order of all, or the first.
    pub(crate) fn after(&self, name: Option<SnapshotName>) -> Option<SnapshotName> {
        use std::ops::Bound::{Excluded, Unbounded};
        let begin = name.map_or(Unbounded, Excluded);
        self.names.lock().range((begin, Unbounded)).next().copied()
    }

    /// Begins to fetch a snapshot, or goes on where an earlier life was; says how many bytes are there.
    /// What there was of another one of the group is forgotten.
    pub(crate) fn fetch(
        &self,
        name: SnapshotName,
        bytes: SnapshotBytes,
    ) -> io::Result<(Box<dyn SnapshotPart>, u64)> {
        self.discard_if(|other| other.group == name.group && other != name)?;
        let begun = self.store.fetch(name, bytes)?;
        self.unfinished.lock().insert(name);
        Ok(begun)
    }

    /// Forgets what was fetched of these and is not whole.
    pub(crate) fn discard_if(&self, goes: impl Fn(SnapshotName) -> bool) -> io::Result<()> {
        let mut unfinished = self.unfinished.lock();
        let gone: Vec<SnapshotName> = unfinished.iter().copied().filter(|it| goes(*it)).collect();
        for name in gone {
            self.store.discard(name)?;
            unfinished.remove(&name);
        }
        Ok(())
    }

    /// A snapshot is made whole and has its place from now on.
    pub(crate) fn put(&self, name: SnapshotName, part: Box<dyn SnapshotPart>) -> io::Result<()> {
        part.finish()?;
        self.unfinished.lock().remove(&name);
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
        // What is whole here has overtaken it.
        let overtaken = |it: &SnapshotName| {
            self.of(it.group, it.incarnation).last().is_some_and(|last| last.index >= it.index)
        };
        self.discard_if(|it| !is_here((it.group, it.incarnation)) || overtaken(&it))?;
        let mut strangers =
            names.into_iter().filter(|name| !is_here((name.group, name.incarnation)));
        strangers.try_for_each(|name| self.remove(name))
    }
}
