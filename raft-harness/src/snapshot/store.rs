//! Where snapshots are kept: named runs of bytes, written once.

use std::fmt;
use std::io;

use bytes::Bytes;
use raft_core::{GroupId, GroupIncarnation, LogIndex, Term};

/// Names one snapshot: the group, and where in its log it stands.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct SnapshotName {
    /// Which group.
    pub group: GroupId,
    /// Which life of it.
    pub incarnation: GroupIncarnation,
    /// The last index it covers.
    pub index: LogIndex,
    /// The term there.
    pub term: Term,
}

impl fmt::Display for SnapshotName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (group, incarnation) = (self.group.get(), self.incarnation.get());
        write!(f, "{group}-{incarnation}-{}-{}", self.index.get(), self.term.get())
    }
}

impl SnapshotName {
    /// Reads what [`Display`](fmt::Display) wrote.
    pub fn parse(text: &str) -> Option<Self> {
        let mut fields = text.split('-');
        let mut field = || fields.next()?.parse::<u64>().ok();
        let name = Self {
            group: GroupId::new(u32::try_from(field()?).ok()?),
            incarnation: GroupIncarnation::new(u32::try_from(field()?).ok()?),
            index: LogIndex::new(field()?),
            term: Term::new(field()?),
        };
        // One spelling each, so that no two files have one name.
        (name.to_string() == text).then_some(name)
    }
}

/// Which bytes a snapshot is made of: two nodes may well write the same state differently.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct SnapshotBytes {
    /// How many there are.
    pub total: u64,
    /// The sum that they end with.
    pub sum: u32,
}

/// A place for the snapshots of all groups of a node.
pub trait SnapshotStore: Send + Sync + 'static {
    /// All snapshots that are whole.
    ///
    /// # Errors
    /// Whatever the place says.
    fn names(&self) -> io::Result<Vec<SnapshotName>>;

    /// Begins a snapshot. It takes the place of an older one with the same name when it is
    /// finished; dropped before, it leaves nothing.
    ///
    /// # Errors
    /// Whatever the place says.
    fn begin(&self, name: SnapshotName) -> io::Result<Box<dyn SnapshotPart>>;

    /// Begins a snapshot that another node has, or goes on with what an earlier life of this one got of
    /// exactly these bytes; says how many of them are there, which is less than all. Unlike what
    /// [`begin`](Self::begin) began, it stays when it is dropped, for the next life, until it is
    /// finished, begun with other bytes, or [discarded](Self::discard).
    ///
    /// The default keeps nothing from one life to the next.
    ///
    /// # Errors
    /// Whatever the place says.
    fn fetch(
        &self,
        name: SnapshotName,
        bytes: SnapshotBytes,
    ) -> io::Result<(Box<dyn SnapshotPart>, u64)> {
        let _ = bytes;
        Ok((self.begin(name)?, 0))
    }

    /// What [`fetch`](Self::fetch) began and nothing ended.
    ///
    /// # Errors
    /// Whatever the place says.
    fn unfinished(&self) -> io::Result<Vec<SnapshotName>> {
        Ok(Vec::new())
    }

    /// Forgets what was fetched of a snapshot that is not whole; harmless if there is nothing.
    ///
    /// # Errors
    /// Whatever the place says.
    fn discard(&self, name: SnapshotName) -> io::Result<()> {
        let _ = name;
        Ok(())
    }

    /// Bytes of a whole snapshot; `None` if there is none of that name.
    ///
    /// # Errors
    /// Whatever the place says.
    fn bytes(&self, name: SnapshotName) -> io::Result<Option<u64>>;

    /// What is read of it next comes from where it is kept, and not from memory, which says nothing of a
    /// disk. The default does nothing.
    ///
    /// # Errors
    /// Whatever the place says.
    fn drop_cache(&self, name: SnapshotName) -> io::Result<()> {
        let _ = name;
        Ok(())
    }

    /// At most `bytes` bytes from `offset` on; fewer only at the end.
    ///
    /// # Errors
    /// [`NotFound`](io::ErrorKind::NotFound) without such a snapshot.
    fn read(&self, name: SnapshotName, offset: u64, bytes: usize) -> io::Result<Bytes>;

    /// Forgets a snapshot; harmless if there is none.
    ///
    /// # Errors
    /// Whatever the place says.
    fn remove(&self, name: SnapshotName) -> io::Result<()>;
}

/// A snapshot being written.
pub trait SnapshotPart: Send {
    /// Adds bytes at the end.
    ///
    /// # Errors
    /// The part is of no use any more.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Makes it durable, then gives it its name, durably.
    ///
    /// # Errors
    /// It is not there, or not certain to stay.
    fn finish(self: Box<Self>) -> io::Result<()>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back_in_one_spelling_only() {
        let name = SnapshotName {
            group: GroupId::new(7),
            incarnation: GroupIncarnation::new(1),
            index: LogIndex::new(1000),
            term: Term::new(3),
        };
        assert_eq!(name.to_string(), "7-1-1000-3");
        assert_eq!(SnapshotName::parse("7-1-1000-3"), Some(name));
        for bad in ["", "7-1-1000", "07-1-1000-3", "7-1-1000-3-4", "+7-1-1000-3", "7-1-x-3"] {
            assert_eq!(SnapshotName::parse(bad), None, "{bad}");
        }
    }
}
