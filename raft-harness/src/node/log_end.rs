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
use crate::persistence::Strategy;

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
            recovered.promise.promise == Promise::Kept && counts_written(recovered)
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
    if notes.is_empty() {
        return Ok(Noted::OnDisk);
    }
    match store.commit(&notes) {
        Ok(_) => Ok(Noted::OnDisk),
        Err(LogError::NoSegment { .. }) => Ok(Noted::NoRoom),
        Err(failure) => Err(failure),
    }
}

/// Whether a group counts what is written, by its own records.
pub(crate) fn counts_written(recovered: &RecoveredGroup) -> bool {
    let spec = GroupSpec::decode(&recovered.spec);
    spec.is_some_and(|spec| spec.strategy == Some(Strategy::MemFirst))
}

#[cfg(test)]
mod tests {
    use raft_core::NodeId;

    use super::*;

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
}
