//! Plants the bug that `RAFT_PLANTED` names, in a build that can plant bugs.
//!
//! `cargo xtask planted` uses it to show that every directed test fails with its bug.

#[cfg(planted)]
use raft_core::planted::{Planted, select};

/// Does nothing in an ordinary build.
#[cfg(not(planted))]
pub(crate) const fn plant() {}

#[cfg(planted)]
pub(crate) fn plant() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        if let Some(name) = std::env::var_os("RAFT_PLANTED") {
            let found = NAMES.iter().find(|bug| *name == *format!("{bug:?}"));
            select(*found.unwrap_or_else(|| panic!("no bug {name:?} in this test's table")));
        }
    });
}

/// The bugs of the protocol: those of log, engine and transport are not at work here.
#[cfg(planted)]
const NAMES: &[Planted] = &[
    // Elections.
    Planted::VoteForOlderTerm,
    Planted::VoteTwice,
    Planted::VoteIgnoresLog,
    Planted::VoteComparesIndexFirst,
    Planted::VoteBeforeDurable,
    Planted::VoteRequestBeforeDurable,
    Planted::VoteClearedInSameTerm,
    Planted::VoteReplyOfOlderTermCounts,
    Planted::RefusalTakenForVote,
    Planted::PreVoteIgnoresLog,
    Planted::PreVoteRefusalHidesTerm,
    Planted::PreVoteGrantResetsTimer,
    Planted::StickinessForgotten,
    Planted::PatienceEndsWithTerm,
    Planted::PatienceEndsWithConnection,
    Planted::NoCheckQuorum,
    Planted::StaleTermUnanswered,
    Planted::HonestTermDisbelieved,
    Planted::StoppingNodeCampaigns,
    Planted::SleepsThroughLoss,
    Planted::BarredNeverAsks,
    Planted::HeirHasNotApplied,
    Planted::BelievesItLeftByUncommitted,
    Planted::ExpelledByUncommitted,
    // Replication and commit.
    Planted::StampMayFall,
    Planted::FetchBeginsAnew,
    Planted::AppliesBeforeDurable,
    Planted::CommitsOlderTerms,
    Planted::CommitToldWithAppends,
    Planted::ProgressOutOfOrder,
    Planted::CommitsOwnUnsyncedAppend,
    Planted::AckBeforeDurable,
    Planted::AckOwnLastIndex,
    Planted::AckOfOlderSessionCounts,
    Planted::NackAdvancesMatch,
    Planted::HintStoredAsMatch,
    Planted::TruncatesMatchingEntries,
    Planted::CommitBeyondVerified,
    Planted::PersistAckWithoutClip,
    Planted::CompactedTermIsZero,
    Planted::WindowLeaks,
    Planted::ProbeNeverRetried,
    Planted::UncommittedBytesDrift,
    // Reads and leases.
    Planted::ReadBeforeOwnTermCommit,
    Planted::ReadWithoutConfirmation,
    Planted::ReadAckOfOlderTermCounts,
    Planted::ReadQuorumOffByOne,
    Planted::StaleHeartbeatConfirms,
    Planted::LeaseFromReplyTime,
    Planted::LeaseSurvivesTransfer,
    Planted::LeaseReturnsWithTransfer,
    Planted::LeaseIgnoresDrift,
    Planted::VoteAfterRestartWithinLease,
    // Membership.
    Planted::JointByUnion,
    Planted::ChangeBeforeOwnTermCommit,
    Planted::ChangeWhileUncommitted,
    Planted::ConfigNotRolledBack,
    Planted::JointNeverLeft,
    Planted::RemovedLeaderCountsItself,
    Planted::LearnerCounts,
    Planted::SuccessorStaysLearner,
    Planted::UnprovenStays,
    // Transfer.
    Planted::StaleTimeoutNowObeyed,
    Planted::TransferToLaggard,
    // Snapshots and compaction.
    Planted::SnapshotKeepsConflictingSuffix,
    Planted::SnapshotCutsWhatFollows,
    Planted::SnapshotKeepsOldMembership,
    Planted::SnapshotAckBeforeDurable,
    Planted::SnapshotStuckAtLastIndex,
    Planted::CompactBeyondSnapshot,
    // Promises lost.
    Planted::LostReplicaVotes,
    Planted::LostReplicaCounts,
    Planted::LostEndsOnFirstContact,
    Planted::FenceOfOlderLifeCounts,
    Planted::FenceOnlyInMemory,
    Planted::FenceWithUnprovenVote,
    Planted::MatchOutlivesDamage,
    Planted::DamageKeepsPromise,
    Planted::TruncationNotLogged,
    Planted::OldIncarnationAccepted,
];
