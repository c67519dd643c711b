//! How the last life of a log ended, and what that means for the groups in it.
//!
//! A group that counts what is written may have acknowledged what lost power took. That its promises
//! may be lost is in the log before this life leaves anything from which a later start could take the
//! end for a certain one: before its own word in memory, and before any orderly end.

use std::collections::BTreeMap;

use raft_core::{GroupId, Incarnation, Promise};
#[cfg(unix)]
use raft_storage::{BootCertificate, FileDisk, Opened};
use raft_storage::{GroupWrite, LogError, LogStore, Lsn, RecoveredGroup, RecoveryReport};

use crate::group_spec::GroupSpec;

/// What is certain of a log's end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum LogEnd {
    /// Everything that was ever written is there.
    Whole,
    /// What was written and not synced may be gone.
    Unclear,
}

impl LogEnd {
    /// Whether everything that was ever told of as written is in a log, by its own last word or by
    /// that of whoever vouched for it. `is_covered`: whether one speaks for the log of these lives up
    /// to there.
    pub(crate) fn of(
        report: &RecoveryReport,
        incarnation: Incarnation,
        is_covered: impl FnOnce((Incarnation, Incarnation), Lsn) -> bool,
    ) -> Self {
        // The life before this one; there is none before the first.
        let last = Incarnation::new(incarnation.get().saturating_sub(1));
        let lives = (report.newest_incarnation, last);
        match report.clean || is_covered(lives, report.end_lsn) {
            true => Self::Whole,
            false => Self::Unclear,
        }
    }

    /// The same, of a log on files, by the certificate in a directory.
    #[cfg(unix)]
    pub(crate) fn of_files(
        certificates: Option<&std::path::Path>,
        opened: &Opened<FileDisk>,
    ) -> Self {
        let store = opened.identity.store;
        let is_covered = |dir, lives, end| BootCertificate::covers(dir, store, lives, end);
        let covers = |lives, end| certificates.is_some_and(|dir| is_covered(dir, lives, end));
        Self::of(&opened.report, opened.incarnation, covers)
    }

    /// Whether it is certain that nothing is missing.
    #[cfg(any(feature = "raftd", feature = "sim"))]
    pub(crate) fn is_whole(self) -> bool {
        self == Self::Whole
    }

    /// The groups that may have lost what they had acknowledged, as they are to be taken from now on.
    ///
    /// What decides is the strategy in a group's own records, not what a configuration says by now, and
    /// of groups whose records share a frame each by its own.
    pub(crate) fn forgetful(
        self,
        groups: &BTreeMap<GroupId, RecoveredGroup>,
    ) -> BTreeMap<GroupId, RecoveredGroup> {
        if self == Self::Whole || raft_core::planted!(UncleanEndTrusted) {
            return BTreeMap::new();
        }
        let doubted = groups.iter().filter(|(_, recovered)| {
            recovered.promise.promise == Promise::Kept && counts_written(&recovered.spec)
        });
        let forgetful = doubted.map(|(group, recovered)| {
            let mut recovered = recovered.clone();
            recovered.promise.promise = Promise::Lost;
            (*group, recovered)
        });
        forgetful.collect()
    }
}

/// Whether it is in the log who may have forgotten.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Noted {
    /// It is, durably.
    OnDisk,
    /// There was no room. Then this life must leave nothing by which a later start would trust the log:
    /// nobody vouches for it, and it does not end in order.
    NoRoom,
}

/// Notes durably that groups may have forgotten.
///
/// # Errors
/// As of [`LogStore::commit`], but for a lack of room; then the log must not be gone on with.
pub(crate) fn note_forgetful(
    store: &mut dyn LogStore,
    forgetful: &BTreeMap<GroupId, RecoveredGroup>,
) -> Result<Noted, LogError> {
    let note = |(group, recovered): (&GroupId, &RecoveredGroup)| {
        let mut note = GroupWrite::new(*group);
        note.promise = Some(recovered.promise);
        note
    };
    let notes: Vec<GroupWrite> = forgetful.iter().map(note).collect();
    if notes.is_empty() || raft_core::planted!(LossNotNoted) {
        return Ok(Noted::OnDisk);
    }
    match store.commit(&notes) {
        Ok(_) => Ok(Noted::OnDisk),
        Err(LogError::NoSegment { .. }) => Ok(Noted::NoRoom),
        Err(failure) => Err(failure),
    }
}

/// Whether a group counts what is written, by its own records: the spec it was created with.
pub(crate) fn counts_written(spec: &[u8]) -> bool {
    GroupSpec::decode(spec).is_some_and(|spec| spec.counts_written())
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use raft_core::{GroupIncarnation, HardState, NodeId, Term};
    use raft_storage::{Expected, GroupCreate, InitOptions, Log, LogOptions, MemDisk, init_on};

    use super::super::log_thread::LogWork;
    use super::*;
    use crate::engine::LogLoad;
    use crate::persistence::Strategy;

    /// The disk takes no more than what is there, and votes of a group take that: what is kept for them
    /// as well.
    pub(in crate::node) fn fill_with_votes(
        disk: &MemDisk,
        store: &mut dyn LogStore,
        group: GroupId,
    ) {
        disk.limit_bytes(Some(disk.bytes()));
        for term in 1.. {
            let mut vote = GroupWrite::new(group);
            vote.hard_state = Some(HardState { term: Term::new(term), vote: None });
            match store.commit(&[vote]) {
                Ok(_) => {}
                Err(LogError::NoSegment { .. }) => break,
                Err(failure) => panic!("{failure}"),
            }
        }
    }

    fn recovered(group: GroupId, strategy: Strategy, promise: Promise) -> RecoveredGroup {
        let spec = GroupSpec::on_nodes(group, [1, 2, 3].map(NodeId::new));
        let spec = GroupSpec { strategy: Some(strategy), ..spec };
        let mut recovered = RecoveredGroup { spec: spec.encode(), ..RecoveredGroup::default() };
        recovered.promise.promise = promise;
        recovered
    }

    /// All had records in the same frames.
    #[test]
    fn after_an_unclear_end_exactly_the_groups_recorded_as_mem_first_may_have_forgotten() {
        let (fast, safe, damaged) = (GroupId::new(1), GroupId::new(2), GroupId::new(3));
        let groups = BTreeMap::from([
            (fast, recovered(fast, Strategy::MemFirst, Promise::Kept)),
            (safe, recovered(safe, Strategy::DiskFirst, Promise::Kept)),
            (damaged, recovered(damaged, Strategy::MemFirst, Promise::Damaged)),
        ]);
        assert!(LogEnd::Whole.forgetful(&groups).is_empty());
        let forgetful = LogEnd::Unclear.forgetful(&groups);
        let promises: Vec<_> =
            forgetful.iter().map(|(group, log)| (*group, log.promise.promise)).collect();
        assert_eq!(promises, [(fast, Promise::Lost)]);
    }

    /// Without room to note it, an orderly end would hide what was found; so the log does not end in order.
    #[test]
    fn what_finds_no_room_to_be_noted_is_found_again_by_the_next_start() {
        let disk = MemDisk::new();
        let expected = Expected { cluster: None, node: None };
        let options = LogOptions { segment_bytes: 16 << 10, ..LogOptions::default() };
        init_on(&disk, "test", NodeId::new(1), &InitOptions::default()).unwrap();
        let fast = GroupId::new(1);
        let recovered = recovered(fast, Strategy::MemFirst, Promise::Kept);
        let mut write = GroupWrite::new(fast);
        let incarnation = GroupIncarnation::new(1);
        write.create = Some(GroupCreate { incarnation, spec: recovered.spec });
        let mut opened = Log::open_on(disk.clone(), &expected, &options).unwrap();
        opened.writer.commit(&[write]).unwrap();
        fill_with_votes(&disk, &mut opened.writer, fast);
        drop(opened);
        for _ in 0..2 {
            let mut opened = Log::open_on(disk.clone(), &expected, &options).unwrap();
            let end = LogEnd::of(&opened.report, opened.incarnation, |_, _| false);
            assert_eq!(end, LogEnd::Unclear);
            let forgetful = end.forgetful(&opened.groups);
            let noted = note_forgetful(&mut opened.writer, &forgetful).unwrap();
            assert_eq!((forgetful.len(), noted), (1, Noted::NoRoom));
            let work = LogWork::new(Box::new(opened.writer), Arc::new(LogLoad::new(1 << 20)), 4096);
            work.ending_unclear(true).close().unwrap();
        }
        disk.limit_bytes(None);
        let mut opened = Log::open_on(disk.clone(), &expected, &options).unwrap();
        let end = LogEnd::of(&opened.report, opened.incarnation, |_, _| false);
        let forgetful = end.forgetful(&opened.groups);
        assert_eq!(note_forgetful(&mut opened.writer, &forgetful).unwrap(), Noted::OnDisk);
        opened.writer.close().unwrap();
        let opened = Log::open_on(disk, &expected, &options).unwrap();
        assert_eq!(opened.groups[&fast].promise.promise, Promise::Lost);
    }
}
