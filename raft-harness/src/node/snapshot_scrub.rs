//! All snapshots are read once in a while, so that one that rots is found out while its group has the state.
//!
//! Nobody reads its own snapshot again before a start or a peer needs it, and of those a start finds it too
//! late. So the thread that writes them reads them when it has nothing else to do, a quarter of a MiB and
//! the rest of a block at a time, as slowly as the time it was given allows. One in which something is
//! wrong is looked at once more as a whole, as when a peer doubts it: another may have taken its place
//! half-way.

use std::time::{Duration, Instant};

use raft_storage::is_out_of_descriptors;

use super::log_scrub::{PAUSE_MAX, PIECE_BYTES, pause};
use crate::snapshot::SnapshotName;
use crate::snapshot::format::Check;
use crate::snapshot::shelf::Shelf;
use crate::state_machine::RestoreError;

/// A walk through all snapshots of a node that begins again when it is through.
pub(crate) struct SnapshotScrub {
    /// `None`: it stands still.
    period: Option<Duration>,
    /// The one that is being read.
    at: Option<Check>,
    /// The one that was begun last.
    last: Option<SnapshotName>,
    /// How much the last walk read, and this one so far.
    before: u64,
    bytes: u64,
    next: Instant,
}

/// What came of a step.
#[derive(Debug, Default, Eq, PartialEq)]
pub(crate) struct Step {
    pub(crate) bytes: u64,
    /// All there are were read, and there are some.
    pub(crate) is_through: bool,
    /// One that is to be looked at as a whole.
    pub(crate) doubted: Option<SnapshotName>,
}

impl SnapshotScrub {
    pub(crate) fn new(period: Option<Duration>, now: Instant) -> Self {
        let next = now + PAUSE_MAX.min(period.unwrap_or(PAUSE_MAX));
        Self { period, at: None, last: None, before: 0, bytes: 0, next }
    }

    /// When the next step is due; `None`: never.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.period.map(|_| self.next)
    }

    pub(crate) fn step(&mut self, shelf: &Shelf, now: Instant) -> Step {
        let mut step = Step::default();
        match self.at.take() {
            Some(check) => self.go_on(check, shelf, &mut step),
            None => match shelf.after(self.last) {
                Some(name) => {
                    self.last = Some(name);
                    match Check::of(shelf.store(), name) {
                        Ok(check) => self.go_on(check, shelf, &mut step),
                        Err(error) => step.doubted = doubted(name, &error),
                    }
                }
                None => {
                    self.last = None;
                    self.before = std::mem::take(&mut self.bytes);
                    step.is_through = self.before > 0;
                }
            },
        }
        self.bytes += step.bytes;
        self.next = now + pause(self.period, self.before.max(self.bytes));
        step
    }

    fn go_on(&mut self, mut check: Check, shelf: &Shelf, step: &mut Step) {
        let before = check.bytes();
        match check.go_on(shelf.store(), PIECE_BYTES) {
            Ok(is_over) => {
                step.bytes = check.bytes() - before;
                self.at = (!is_over).then_some(check);
            }
            Err(error) => step.doubted = doubted(check.name(), &error),
        }
    }
}

/// What says nothing of a snapshot: it is gone, or there was no descriptor for it.
fn doubted(name: SnapshotName, error: &RestoreError) -> Option<SnapshotName> {
    let is_passing = match error {
        RestoreError::Io(io) => {
            is_out_of_descriptors(io) || io.kind() == std::io::ErrorKind::NotFound
        }
        _ => false,
    };
    (!is_passing).then_some(name)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use raft_core::{
        GroupId, GroupIncarnation, LogIndex, LogTime, Membership, ReplicaId, SnapshotMeta, Term,
    };

    use super::*;
    use crate::snapshot::format::{Left, write};
    use crate::snapshot::{Compression, MemoryStore, SnapshotStore};

    /// A snapshot of about so many bytes.
    fn put(shelf: &Shelf, group: u32, bytes: usize) -> SnapshotName {
        let meta = SnapshotMeta {
            index: LogIndex::new(9),
            term: Term::new(1),
            time: LogTime::default(),
            config_index: LogIndex::ZERO,
            membership: Arc::new(Membership::of_voters([ReplicaId::new(1)]).expect("sound")),
        };
        let (index, term) = (meta.index, meta.term);
        let (group, incarnation) = (GroupId::new(group), GroupIncarnation::new(1));
        let name = SnapshotName { group, incarnation, index, term };
        let pieces = std::iter::repeat_n(Bytes::from(vec![7; 10_000]), bytes / 10_000);
        let left = Left::default();
        write(shelf, name, (&meta, &left), pieces, Compression::None).expect("it is written");
        name
    }

    fn flip(store: &MemoryStore, name: SnapshotName, at: usize) {
        let mut bytes = store.read(name, 0, usize::MAX).expect("it is there").to_vec();
        bytes[at] ^= 1;
        let mut part = store.begin(name).expect("a place");
        part.append(&bytes).expect("room");
        part.finish().expect("room");
    }

    /// A whole walk: how many steps it took, what was read, and what is doubted.
    fn walk(scrub: &mut SnapshotScrub, shelf: &Shelf) -> (u32, u64, Vec<SnapshotName>) {
        let (mut steps, mut bytes, mut doubted) = (0, 0, Vec::new());
        loop {
            let step = scrub.step(shelf, Instant::now());
            steps += 1;
            bytes += step.bytes;
            doubted.extend(step.doubted);
            if step.is_through {
                return (steps, bytes, doubted);
            }
            assert!(steps < 1_000, "it does not end");
        }
    }

    #[test]
    fn all_snapshots_are_read_a_little_at_a_time_and_one_that_rotted_is_doubted() {
        let store = MemoryStore::default();
        let shelf = Shelf::open(Arc::new(store.clone())).expect("a shelf");
        let mut scrub = SnapshotScrub::new(Some(Duration::from_secs(60)), Instant::now());
        assert_eq!(scrub.step(&shelf, Instant::now()), Step::default(), "there is none");
        let names = [(1, 2_000_000), (2, 100_000), (3, 700_000)];
        let names = names.map(|(group, bytes)| put(&shelf, group, bytes));
        let length = |name: &SnapshotName| store.bytes(*name).expect("read").expect("there");
        let all: u64 = names.iter().map(length).sum();
        let (steps, bytes, doubted) = walk(&mut scrub, &shelf);
        assert_eq!((bytes, doubted), (all, vec![]));
        assert!((8..=16).contains(&steps), "{steps} steps of a block or two");
        flip(&store, names[0], 1_500_000);
        flip(&store, names[2], 40);
        let (_, bytes, doubted) = walk(&mut scrub, &shelf);
        assert_eq!(doubted, [names[0], names[2]]);
        assert!(bytes < all && bytes > length(&names[1]));
        // One that goes while it is read says nothing.
        scrub.step(&shelf, Instant::now());
        shelf.remove(names[0]).expect("it goes");
        shelf.remove(names[2]).expect("it goes");
        let (_, _, doubted) = walk(&mut scrub, &shelf);
        assert_eq!(doubted, []);
        assert_eq!(SnapshotScrub::new(None, Instant::now()).due(), None);
    }
}
