//! Bugs planted on purpose, so that the simulator can show that it would find them.
//!
//! Code asks `planted!(Name)` where the bug would sit. In an ordinary build the question is a
//! constant `false` and the branch is gone; a build with `--cfg planted` selects one bug at run
//! time. A compiler flag and not a feature, because features of strangers are merged.

/// Every planted bug. Names are stable: reports and budgets refer to them.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
#[repr(u8)]
#[non_exhaustive]
#[allow(missing_docs, reason = "each is described once, in the simulator's table")]
pub enum Planted {
    None = 0,
    // Elections.
    VoteForOlderTerm,
    VoteTwice,
    VoteIgnoresLog,
    VoteComparesIndexFirst,
    VoteBeforeDurable,
    VoteRequestBeforeDurable,
    VoteClearedInSameTerm,
    VoteReplyOfOlderTermCounts,
    RefusalTakenForVote,
    PreVoteIgnoresLog,
    PreVoteRefusalHidesTerm,
    PreVoteGrantResetsTimer,
    StickinessForgotten,
    PatienceEndsWithTerm,
    PatienceEndsWithConnection,
    NoCheckQuorum,
    StaleTermUnanswered,
    HonestTermDisbelieved,
    // Replication and commit.
    CommitsOlderTerms,
    CommitToldWithAppends,
    ProgressOutOfOrder,
    CommitsOwnUnsyncedAppend,
    AckBeforeDurable,
    AckOwnLastIndex,
    AckOfOlderSessionCounts,
    NackAdvancesMatch,
    HintStoredAsMatch,
    TruncatesMatchingEntries,
    CommitBeyondVerified,
    PersistAckWithoutClip,
    CompactedTermIsZero,
    WindowLeaks,
    ProbeNeverRetried,
    UncommittedBytesDrift,
    // Reads and leases.
    ReadBeforeOwnTermCommit,
    ReadWithoutConfirmation,
    ReadAckOfOlderTermCounts,
    ReadQuorumOffByOne,
    StaleHeartbeatConfirms,
    LeaseFromReplyTime,
    LeaseSurvivesTransfer,
    LeaseReturnsWithTransfer,
    LeaseIgnoresDrift,
    VoteAfterRestartWithinLease,
    // Membership.
    JointByUnion,
    ChangeBeforeOwnTermCommit,
    ChangeWhileUncommitted,
    ConfigNotRolledBack,
    JointNeverLeft,
    RemovedLeaderCountsItself,
    LearnerCounts,
    BelievesItLeftByUncommitted,
    ExpelledByUncommitted,
    SuccessorStaysLearner,
    UnprovenStays,
    // Transfer.
    StaleTimeoutNowObeyed,
    TransferToLaggard,
    HeirHasNotApplied,
    StoppingNodeCampaigns,
    IdleGroupsStayWithHungDisk,
    HungMajorityMoves,
    ConvalescentTakesOffice,
    // Sleep.
    SleepsThroughLoss,
    BarredNeverAsks,
    // Snapshots and compaction.
    SnapshotKeepsConflictingSuffix,
    SnapshotCutsWhatFollows,
    SnapshotKeepsOldMembership,
    SnapshotAckBeforeDurable,
    SnapshotStuckAtLastIndex,
    CompactBeyondSnapshot,
    CompactsUnderTransfer,
    FetchBeginsAnew,
    LiveFreedAtRelease,
    InstallForgetsLive,
    MovedLiveLost,
    // Promises lost.
    LostReplicaVotes,
    LostReplicaCounts,
    LostEndsOnFirstContact,
    FenceOfOlderLifeCounts,
    FenceOnlyInMemory,
    FenceWithUnprovenVote,
    MatchOutlivesDamage,
    DamageKeepsPromise,
    BootNotCompared,
    UncleanEndTrusted,
    WrittenTakenForDurable,
    FlushForgotten,
    FlushForgottenAtLanding,
    SyncCoversLater,
    TermStartCountsWritten,
    FewestGoOn,
    SnapshotBeyondQuorum,
    // Log.
    TruncationNotLogged,
    TornTailAccepted,
    DamageCutAsTornTail,
    UnreadableCutAsTornTail,
    SyncErrorIgnored,
    TermAndVoteNotLogged,
    CompletionBeforeSync,
    TornBatchAcknowledged,
    StagedAcknowledged,
    LogBoundForgotten,
    SealIgnored,
    SealNotSynced,
    SealNotWritten,
    DurableWriteCoversAll,
    AppliesBeforeDurable,
    ReusedTooEarly,
    LastPieceForgotten,
    CheckpointNotAwaited,
    CheckpointedTwice,
    StaleFrameAccepted,
    // Engine and transport.
    EarlierLifeOfGroupHeard,
    GoneReplicaForgotten,
    SnapshotsLeftBehind,
    CreditRoundedDown,
    KnownStoreNotWritten,
    BatchStopsAtUnknownGroup,
    OldIncarnationAccepted,
    FrameChecksumIgnored,
    BatchPassesWindow,
    CreditsLeak,
    AppliesTwice,
    LaneDownTellsOne,
    SameLifeTaken,
    OutputsNotCounted,
    ClockBeforeInput,
    ReadTakenForFirst,
    // Log time.
    StampMayFall,
    WallClockNeverFalls,
    OwnClockVouches,
    OneHalfVouches,
    StampForgottenAtRestart,
    StampForgottenWithLog,
    LogTimeStandsStill,
    SplitKeepsPrevious,
    EntryTimeNotAdded,
    RoomLostWithLane,
    CreditCountsPings,
    TwoLongBegun,
    LossNotNoted,
    AnswersPileUp,
    RottenSnapshotStays,
}

#[cfg(planted)]
mod selected {
    use core::sync::atomic::{AtomicU8, Ordering};

    static SELECTED: AtomicU8 = AtomicU8::new(0);

    /// Selects the one bug of this process.
    pub fn select(bug: super::Planted) {
        SELECTED.store(bug as u8, Ordering::Relaxed);
    }

    pub(super) fn is(bug: super::Planted) -> bool {
        SELECTED.load(Ordering::Relaxed) == bug as u8
    }
}

#[cfg(planted)]
pub use selected::select;

/// Whether this bug is the one at work.
#[cfg(planted)]
#[inline]
pub fn is(bug: Planted) -> bool {
    selected::is(bug)
}

/// Whether this bug is the one at work: never, in this build.
#[cfg(not(planted))]
#[inline(always)]
pub const fn is(_bug: Planted) -> bool {
    false
}

/// Asks whether a planted bug is at work here: a constant `false` in ordinary builds.
#[macro_export]
macro_rules! planted {
    ($name:ident) => {
        $crate::planted::is($crate::planted::Planted::$name)
    };
}
