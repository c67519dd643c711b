//! Which snapshots go with a log, when a node starts or is looked at.
//!
//! A log that begins behind a snapshot is nothing without one that reaches so far: its replica has no
//! state then, follows as one that may have forgotten a vote, and waits to be filled or replaced.

use std::io;

use raft_core::LogIndex;
use raft_storage::{RecoveredGroup, is_out_of_descriptors};
use tracing::warn;

use super::format::{Restored, restore};
use super::shelf::Shelf;
use super::store::SnapshotName;
use crate::engine::MakeMachine;
use crate::group_spec::GroupSpec;
use crate::state_machine::RestoreError;

/// The newest snapshot that fits a recovered log, as a machine; a damaged one gives way to an
/// older one.
///
/// # Errors
/// The process is out of descriptors, which says nothing of any snapshot.
pub(crate) fn newest_fit(
    shelf: &Shelf,
    recovered: &RecoveredGroup,
    spec: &GroupSpec,
    maker: &MakeMachine,
) -> io::Result<Option<Restored>> {
    let make = |name| restore(shelf.store(), name, maker(spec)).map(Some);
    newest_of(shelf, spec, |name| fits(recovered, name), make)
}

/// The newest snapshot that reaches beyond the end of a log, which has lost it.
///
/// # Errors
/// As [`newest_fit`].
pub(crate) fn newest_beyond(
    shelf: &Shelf,
    recovered: &RecoveredGroup,
    spec: &GroupSpec,
    maker: &MakeMachine,
) -> io::Result<Option<Restored>> {
    let make = |name| restore(shelf.store(), name, maker(spec)).map(Some);
    newest_of(shelf, spec, |name| name.index > recovered.last_index, make)
}

/// Whether the state that a log begins with is nowhere: it begins behind a snapshot, and none was found
/// that fits.
pub(crate) fn is_stateless(recovered: &RecoveredGroup, restored: Option<&Restored>) -> bool {
    restored.is_none() && recovered.base.index > LogIndex::ZERO
}

/// Whether a start would find a state for a log, without making a machine: as it begins with its group,
/// or in a snapshot that fits, can be read, and finds in the log what it leaves there. Costs a read of
/// all snapshots from the newest to the first that is sound.
///
/// # Errors
/// As [`newest_fit`].
#[cfg(any(feature = "raftd", feature = "sim", test))]
pub(crate) fn has_state(
    shelf: &Shelf,
    reader: &raft_storage::LogReader,
    recovered: &RecoveredGroup,
    spec: &GroupSpec,
) -> io::Result<bool> {
    if !is_stateless(recovered, None) {
        return Ok(true);
    }
    let holds = |name: SnapshotName| {
        let left = super::format::verify(shelf.store(), name)?;
        let is_whole =
            || reader.holding(name.group, &left.live).is_ok_and(|h| h.missing.is_empty());
        Ok((left.live.is_empty() || is_whole()).then_some(()))
    };
    let found = newest_of(shelf, spec, |name| fits(recovered, name), holds)?;
    Ok(found.is_some())
}

/// Whether a snapshot stands for an index of a log, or for its beginning, in the term that is there.
fn fits(recovered: &RecoveredGroup, name: &SnapshotName) -> bool {
    let term_at = |index: LogIndex| {
        if index == recovered.base.index {
            return Some(recovered.base.term);
        }
        let after = recovered.term_runs.partition_point(|(first, _)| *first <= index);
        Some(recovered.term_runs.get(after.checked_sub(1)?)?.1)
    };
    (recovered.base.index..=recovered.last_index).contains(&name.index)
        && term_at(name.index) == Some(name.term)
}

/// What is first made of the snapshots of a replica that fit, from the newest on.
fn newest_of<T>(
    shelf: &Shelf,
    spec: &GroupSpec,
    fits: impl Fn(&SnapshotName) -> bool,
    make: impl Fn(SnapshotName) -> Result<Option<T>, RestoreError>,
) -> io::Result<Option<T>> {
    let names = shelf.of(spec.group, spec.incarnation);
    for name in names.into_iter().rev().filter(fits) {
        match make(name) {
            Ok(Some(made)) => return Ok(Some(made)),
            Ok(None) => {}
            Err(RestoreError::Io(error)) if is_out_of_descriptors(&error) => return Err(error),
            Err(error) => warn!(group = %name.group, index = %name.index, %error, "passed over"),
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use raft_core::{
        Entry, EntryKind, GroupId, GroupIncarnation, LogTime, Membership, NodeId, ReplicaId,
        SnapshotMeta, Term,
    };
    use raft_storage::{GroupCreate, GroupWrite, LiveEntries, LogStore, MemoryLog};

    use super::*;
    use crate::snapshot::format::{self, Left};
    use crate::snapshot::{Compression, MemoryStore, SnapshotStore};

    const GROUP: GroupId = GroupId::new(7);

    /// A snapshot at an index of term 1, which leaves these entries in the log.
    fn put(shelf: &Shelf, index: u64, live: &[u64]) -> SnapshotName {
        let mut names = LiveEntries::default();
        assert!(live.iter().all(|index| names.push(LogIndex::new(*index), Term::new(1))));
        let meta = SnapshotMeta {
            index: LogIndex::new(index),
            term: Term::new(1),
            time: LogTime::new(7),
            config_index: LogIndex::ZERO,
            membership: Arc::new(Membership::of_voters([ReplicaId::new(1)]).unwrap()),
        };
        let (index, term) = (meta.index, meta.term);
        let incarnation = GroupIncarnation::new(1);
        let name = SnapshotName { group: GROUP, incarnation, index, term };
        let left = Left { live: Arc::new(names), bytes: 10 * live.len() as u64 };
        let pieces = [Bytes::from_static(b"the state")].into_iter();
        format::write(shelf, name, (&meta, &left), pieces, Compression::None).unwrap();
        name
    }

    #[test]
    fn a_log_behind_a_snapshot_has_a_state_only_if_one_is_sound_and_finds_what_it_leaves() {
        let spec = GroupSpec::on_nodes(GROUP, [1, 2, 3].map(NodeId::new));
        let spec = GroupSpec { incarnation: GroupIncarnation::new(1), ..spec };
        let mut log = MemoryLog::new();
        let mut write = GroupWrite::new(GROUP);
        write.create = Some(GroupCreate { incarnation: spec.incarnation, spec: Bytes::new() });
        write.entries = (1..=9)
            .map(|index| Entry {
                index: LogIndex::new(index),
                term: Term::new(1),
                kind: EntryKind::Command,
                time: LogTime::default(),
                payload: Bytes::from_static(b"ten bytes."),
            })
            .collect();
        log.append(&[write]).unwrap();
        let reader = log.reader();
        let mut recovered = RecoveredGroup {
            last_index: LogIndex::new(9),
            term_runs: vec![(LogIndex::new(1), Term::new(1))],
            ..RecoveredGroup::default()
        };
        let store = MemoryStore::default();
        let shelf = Shelf::open(Arc::new(store.clone())).unwrap();
        let has =
            |recovered: &RecoveredGroup| has_state(&shelf, &reader, recovered, &spec).unwrap();
        assert!(has(&recovered), "it begins with its group");
        recovered.base.index = LogIndex::new(5);
        recovered.base.term = Term::new(1);
        recovered.term_runs = vec![(LogIndex::new(6), Term::new(1))];
        assert!(!has(&recovered));
        // Older than the log, beyond it, or of an entry that is not there.
        put(&shelf, 4, &[]);
        put(&shelf, 10, &[]);
        put(&shelf, 7, &[2, 20]);
        assert!(!has(&recovered));
        put(&shelf, 6, &[2, 3]);
        assert!(has(&recovered));
        // It rots.
        let rotten = put(&shelf, 6, &[]);
        let mut bytes = store.read(rotten, 0, usize::MAX).unwrap().to_vec();
        *bytes.last_mut().unwrap() ^= 1;
        let mut part = store.begin(rotten).unwrap();
        part.append(&bytes).unwrap();
        part.finish().unwrap();
        assert!(!has(&recovered));
        put(&shelf, 5, &[]);
        assert!(has(&recovered), "an older one, where the log begins");
    }
}
