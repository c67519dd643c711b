//! Which data directory each peer showed first, kept across restarts: a peer that comes back
//! under its old name with another directory has forgotten its promises and is refused.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use raft_core::NodeId;

const FILE: &str = "peer-stores";

/// The file of a data directory that remembers its peers' directories.
#[derive(Debug)]
pub(crate) struct KnownStores {
    dir: PathBuf,
    stores: BTreeMap<NodeId, u128>,
}

impl KnownStores {
    /// Reads the file; none means no peer was met yet.
    pub(crate) fn load(dir: &Path) -> io::Result<Self> {
        let text = match fs::read_to_string(dir.join(FILE)) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error),
        };
        let mut stores = BTreeMap::new();
        for line in text.lines() {
            let parsed = line.split_once(' ').and_then(|(node, store)| {
                Some((node.parse().ok()?, u128::from_str_radix(store, 16).ok()?))
            });
            let (node, store) = parsed.ok_or_else(|| {
                io::Error::new(io::ErrorKind::InvalidData, format!("{FILE}: cannot read {line:?}"))
            })?;
            stores.insert(NodeId::new(node), store);
        }
        Ok(Self { dir: dir.to_owned(), stores })
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (NodeId, u128)> + '_ {
        self.stores.iter().map(|(node, store)| (*node, *store))
    }

    /// Remembers a peer's directory, durably.
    pub(crate) fn insert(&mut self, node: NodeId, store: u128) -> io::Result<()> {
        self.stores.insert(node, store);
        let temporary = self.dir.join("peer-stores.tmp");
        let mut file = File::create(&temporary)?;
        for (node, store) in self.iter() {
            writeln!(file, "{node} {store:032x}")?;
        }
        file.sync_all()?;
        fs::rename(&temporary, self.dir.join(FILE))?;
        File::open(&self.dir)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_remembered_is_known_after_a_restart() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let mut known = KnownStores::load(dir.path())?;
        assert_eq!(known.iter().count(), 0);
        known.insert(NodeId::new(2), 7)?;
        known.insert(NodeId::new(3), u128::MAX)?;
        let again = KnownStores::load(dir.path())?;
        let want = vec![(NodeId::new(2), 7), (NodeId::new(3), u128::MAX)];
        assert_eq!(again.iter().collect::<Vec<_>>(), want);
        Ok(())
    }

    #[test]
    fn a_damaged_file_is_an_error_and_not_an_empty_memory() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        fs::write(dir.path().join(FILE), "2 zz\n")?;
        let error = KnownStores::load(dir.path()).map(|_| ()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        Ok(())
    }
}
