//! Which data directory each peer showed first, kept across restarts: a peer that comes back
//! under its old name with another directory has forgotten its promises and is refused.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::io;

use raft_core::NodeId;
use raft_storage::{Disk, read_file, replace_file};

const FILE: &str = "peer-stores";

/// No cluster has so many nodes that their list is longer.
const FILE_BYTES_MAX: usize = 1 << 20;

/// The file of a data directory that remembers its peers' directories.
#[derive(Debug)]
pub(crate) struct KnownStores<D> {
    disk: D,
    stores: BTreeMap<NodeId, u128>,
}

impl<D: Disk> KnownStores<D> {
    /// Reads the file; none means no peer was met yet.
    pub(crate) fn load(disk: D) -> io::Result<Self> {
        let bytes = read_file(&disk, FILE, FILE_BYTES_MAX)?.unwrap_or_default();
        let invalid = |why| io::Error::new(io::ErrorKind::InvalidData, why);
        let text = String::from_utf8(bytes).map_err(|_| invalid(format!("{FILE}: not text")))?;
        let mut stores = BTreeMap::new();
        for line in text.lines() {
            let parsed = line.split_once(' ').and_then(|(node, store)| {
                Some((node.parse().ok()?, u128::from_str_radix(store, 16).ok()?))
            });
            let (node, store) =
                parsed.ok_or_else(|| invalid(format!("{FILE}: cannot read {line:?}")))?;
            stores.insert(NodeId::new(node), store);
        }
        Ok(Self { disk, stores })
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (NodeId, u128)> + '_ {
        self.stores.iter().map(|(node, store)| (*node, *store))
    }

    /// Remembers a peer's directory, durably.
    pub(crate) fn insert(&mut self, node: NodeId, store: u128) -> io::Result<()> {
        self.stores.insert(node, store);
        let mut text = String::new();
        for (node, store) in self.iter() {
            let _ = writeln!(text, "{node} {store:032x}");
        }
        replace_file(&self.disk, FILE, text.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use raft_storage::{CrashPolicy, MemDisk};

    #[test]
    fn what_was_remembered_is_known_after_a_restart() -> io::Result<()> {
        let disk = MemDisk::new();
        let mut known = KnownStores::load(disk.clone())?;
        assert_eq!(known.iter().count(), 0);
        known.insert(NodeId::new(2), 7)?;
        known.insert(NodeId::new(3), u128::MAX)?;
        let again = KnownStores::load(disk.crash(CrashPolicy::DropUnsynced))?;
        let want = vec![(NodeId::new(2), 7), (NodeId::new(3), u128::MAX)];
        assert_eq!(again.iter().collect::<Vec<_>>(), want);
        Ok(())
    }

    #[test]
    fn a_damaged_file_is_an_error_and_not_an_empty_memory() -> io::Result<()> {
        let disk = MemDisk::new();
        disk.overwrite(FILE, b"2 zz\n");
        let error = KnownStores::load(disk).map(|_| ()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        Ok(())
    }
}
