//! Which life of which data directory each peer showed last, kept across restarts: a peer that
//! comes back under its old name with another directory, or with this one put back to an earlier
//! state, has forgotten its promises and is refused.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::io;
use std::sync::Arc;

use crossbeam::channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;
use raft_core::{Incarnation, NodeId};
use raft_storage::Disk;
use raft_transport::PeerLife;
use tracing::warn;

use super::checked_text::{self, invalid};

const FILE: &str = "peer-stores";

/// The file of a data directory that remembers its peers' directories.
#[derive(Debug)]
pub(crate) struct KnownStores<D> {
    disk: D,
    lives: BTreeMap<NodeId, PeerLife>,
}

impl<D: Disk> KnownStores<D> {
    /// Reads the file; none means no peer was met yet.
    pub(crate) fn load(disk: D) -> io::Result<Self> {
        let text = checked_text::read(&disk, FILE)?.unwrap_or_default();
        let mut lives = BTreeMap::new();
        for line in text.lines() {
            let (node, life) = parse(line).ok_or_else(|| {
                let path = checked_text::path(&disk, FILE);
                invalid(&path, &format!("cannot read {line:?}"))
            })?;
            lives.insert(node, life);
        }
        Ok(Self { disk, lives })
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (NodeId, PeerLife)> + '_ {
        self.lives.iter().map(|(node, life)| (*node, *life))
    }

    /// Remembers lives of peers, durably.
    pub(crate) fn insert(
        &mut self,
        news: impl IntoIterator<Item = (NodeId, PeerLife)>,
    ) -> io::Result<()> {
        self.lives.extend(news);
        let mut text = String::new();
        for (node, PeerLife { store, incarnation, life }) in self.iter() {
            let _ = writeln!(text, "{node} {store:032x} {incarnation} {life:032x}");
        }
        if raft_core::planted!(KnownStoreNotWritten) {
            return Ok(());
        }
        checked_text::write(&self.disk, FILE, text)
    }
}

fn parse(line: &str) -> Option<(NodeId, PeerLife)> {
    let mut words = line.split(' ');
    let node = NodeId::new(words.next()?.parse().ok()?);
    let store = u128::from_str_radix(words.next()?, 16).ok()?;
    let incarnation = Incarnation::new(words.next()?.parse().ok()?);
    let life = u128::from_str_radix(words.next()?, 16).ok()?;
    words.next().is_none().then_some((node, PeerLife { store, incarnation, life }))
}

/// Lives on their way to the file. Who meets a peer leaves its life here and goes on; a thread of
/// its own waits for the disk. Bounded: the newest life of each peer.
#[derive(Debug)]
pub(super) struct Memo {
    news: Mutex<BTreeMap<NodeId, PeerLife>>,
    wake: Mutex<Option<Sender<()>>>,
}

impl Memo {
    pub(super) fn new() -> (Arc<Self>, Receiver<()>) {
        let (wake, woken) = bounded(1);
        (Arc::new(Self { news: Mutex::default(), wake: Mutex::new(Some(wake)) }), woken)
    }

    pub(super) fn put(&self, peer: NodeId, life: PeerLife) {
        self.news.lock().insert(peer, life);
        if let Some(wake) = &*self.wake.lock() {
            // Full: it has been woken, and has not looked yet.
            let _ = wake.try_send(());
        }
    }

    /// Ends the thread once it has written what is there.
    pub(super) fn close(&self) {
        self.wake.lock().take();
    }

    /// Writes what comes until the end.
    pub(super) fn run<D: Disk>(&self, woken: &Receiver<()>, mut known: KnownStores<D>) {
        while woken.recv().is_ok() {
            let news = std::mem::take(&mut *self.news.lock());
            let peers: Vec<NodeId> = news.keys().copied().collect();
            if let Err(error) = known.insert(news) {
                // It is written with the next one; until then a restart forgets it.
                warn!(?peers, %error, "cannot remember the peers' data directories");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use raft_storage::{CrashPolicy, MemDisk};

    fn life(store: u128, incarnation: u64) -> PeerLife {
        PeerLife { store, incarnation: Incarnation::new(incarnation), life: u128::MAX - store }
    }

    #[test]
    fn what_was_remembered_is_known_after_a_restart() -> io::Result<()> {
        let disk = MemDisk::new();
        let mut known = KnownStores::load(disk.clone())?;
        assert_eq!(known.iter().count(), 0);
        let (two, three) = (NodeId::new(2), NodeId::new(3));
        known.insert([(two, life(7, 1)), (three, life(u128::MAX, u64::MAX))])?;
        known.insert([(two, life(7, 2))])?;
        let again = KnownStores::load(disk.crash(CrashPolicy::DropUnsynced))?;
        let want = vec![(two, life(7, 2)), (three, life(u128::MAX, u64::MAX))];
        assert_eq!(again.iter().collect::<Vec<_>>(), want);
        Ok(())
    }

    /// A digit that flipped would bind a peer's name to a directory that it does not have, and the
    /// two nodes would refuse each other for ever.
    #[test]
    fn one_flipped_bit_anywhere_is_an_error_that_names_the_file() -> io::Result<()> {
        let disk = MemDisk::new();
        KnownStores::load(disk.clone())?.insert([(NodeId::new(2), life(7, 1))])?;
        let bytes = raft_storage::read_file(&disk, FILE, 1 << 20)?.expect("it was written");
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            disk.overwrite(FILE, &flipped);
            let error = KnownStores::load(disk.clone()).map(|_| ()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "bit {bit}");
            let path = format!("{}/{FILE}: ", disk.describe());
            assert!(error.to_string().starts_with(&path), "{error}");
        }
        disk.overwrite(FILE, b"");
        assert!(KnownStores::load(disk).is_err(), "an empty file is not an empty memory");
        Ok(())
    }

    #[test]
    fn what_is_put_while_the_disk_is_busy_is_written_before_the_end() -> io::Result<()> {
        let disk = MemDisk::new();
        let (memo, woken) = Memo::new();
        memo.put(NodeId::new(2), life(7, 1));
        memo.put(NodeId::new(2), life(7, 2));
        memo.put(NodeId::new(3), life(8, 1));
        memo.close();
        memo.run(&woken, KnownStores::load(disk.clone())?);
        assert_eq!(KnownStores::load(disk)?.iter().count(), 2);
        Ok(())
    }
}
