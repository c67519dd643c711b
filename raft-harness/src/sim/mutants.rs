//! The bugs that are planted to show that the simulator finds bugs.
//!
//! Each is one of [`Planted`], with the profile that must find it, how rare the schedules are that
//! show it, and the checks that are to catch it. A mutant that survives its budget is a hole in the
//! simulator: to be closed, not to be dropped from this table.

use raft_core::planted::Planted;

use super::profile::Profile;

/// How rare the schedules are that show a bug.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Class {
    /// Almost any run with faults.
    Easy,
    /// It takes a certain kind of fault at a certain moment.
    Medium,
    /// It takes several.
    Hard,
}

impl Class {
    /// What a report calls it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Easy => "easy",
            Self::Medium => "medium",
            Self::Hard => "hard",
        }
    }

    /// Within how many seeds it must be found.
    pub const fn seeds_max(self) -> u64 {
        match self {
            Self::Easy => 50,
            Self::Medium => 500,
            Self::Hard => 5_000,
        }
    }
}

impl Mutant {
    /// Whether a failure of this check is the bug's doing.
    pub fn is_caught_by(&self, check: &str) -> bool {
        self.checks.is_empty() || self.checks.contains(&check)
    }
}

/// A planted bug and what is expected of the simulator.
#[derive(Debug)]
pub struct Mutant {
    /// The bug.
    pub bug: Planted,
    /// Its name.
    pub name: &'static str,
    /// How hard it is to find.
    pub class: Class,
    /// Which profile finds it.
    pub profile: Profile,
    /// The checks that may catch it: those whose promise it breaks. What other checks say of such a
    /// run is something else that is wrong. Empty for any check.
    pub checks: &'static [&'static str],
    /// What it does, in one sentence.
    pub about: &'static str,
}

macro_rules! mutants {
    ($($bug:ident $class:ident $profile:ident [$($check:literal)*] $about:literal,)*) => {
        /// All mutants, in the order of their definition.
        pub const MUTANTS: &[Mutant] = &[$(Mutant {
            bug: Planted::$bug,
            name: stringify!($bug),
            class: Class::$class,
            profile: Profile::$profile,
            checks: &[$($check),*],
            about: $about,
        },)*];
    };
}

mutants! {
    VoteForOlderTerm Medium Protocol ["I2-vote-once" "I2-vote-current" "G1-election-safety" "G10-externalisation"] "A vote is given to a candidate of an earlier term.",
    VoteTwice Easy Protocol ["I2-vote-once" "G1-election-safety" "G10-externalisation"] "A replica votes for a second candidate of a term.",
    VoteIgnoresLog Easy Protocol ["I2-vote-current" "G3-leader-completeness" "G4-state-machine-safety" "G6-committed-forever" "G11-acknowledged-lost" "I4-truncation" "fault-unexpected"] "A vote is given without a look at the candidate's log.",
    VoteComparesIndexFirst Medium Protocol ["I2-vote-current" "I14-pre-vote" "G3-leader-completeness" "G4-state-machine-safety" "G6-committed-forever" "G11-acknowledged-lost" "I4-truncation" "fault-unexpected"] "Logs are compared by length before their last terms.",
    VoteBeforeDurable Easy Protocol ["I2-vote-once" "G1-election-safety" "G10-externalisation"] "A vote leaves before it is on disk.",
    VoteRequestBeforeDurable Easy Protocol ["I2-vote-once" "G1-election-safety" "G10-externalisation"] "A candidate asks for votes before its own is on disk.",
    VoteClearedInSameTerm Easy Protocol ["I2-vote-once" "G1-election-safety" "G10-externalisation"] "Stepping down within a term forgets whom it was voted for.",
    VoteReplyOfOlderTermCounts Medium Protocol ["I15-late" "I2-vote-once" "G1-election-safety" "G10-externalisation" "G3-leader-completeness"] "A vote of an earlier attempt is counted in this one.",
    RefusalTakenForVote Easy Protocol ["I2-vote-once" "G1-election-safety" "G10-externalisation" "L1-stuck"] "A refused vote counts as a granted one.",
    PreVoteIgnoresLog Easy Protocol ["I14-pre-vote" "L1-stuck"] "A pre-vote is granted without a look at the log.",
    PreVoteRefusalHidesTerm Easy Protocol ["I14-pre-vote" "L1-stuck"] "A refused pre-vote does not tell the term that refused it.",
    PreVoteGrantResetsTimer Easy Protocol ["I14-pre-vote" "L1-stuck"] "Granting a pre-vote counts as hearing from a leader.",
    StickinessForgotten Medium Protocol ["I16-patience" "G8-lease-safety" "H1-linearizability" "H3-session"] "A vote is given although the leader was heard a moment ago.",
    PatienceEndsWithTerm Hard Protocol ["I16-patience" "G8-lease-safety" "H1-linearizability" "H3-session"] "A new term ends the patience with the leader, lease or not.",
    PatienceEndsWithConnection Hard Protocol ["I16-patience" "G8-lease-safety" "H1-linearizability" "H3-session" "L1-stuck"] "A broken connection counts as a voter that no longer waits.",
    NoCheckQuorum Easy Protocol ["L3-leads-alone" "G8-lease-safety" "H1-linearizability" "H3-session" "L1-stuck"] "A leader without a quorum goes on leading.",
    StaleTermUnanswered Easy Protocol ["I18-told" "L1-stuck"] "A leader of an earlier term is not told that its term is over.",
    HonestTermDisbelieved Easy Protocol ["fault-unexpected"] "A word of a term that is a few ahead is not believed.",
    CommitToldWithAppends Easy Protocol ["L1-stuck"] "What is committed is told with the next entry only.",
    ProgressOutOfOrder Easy Protocol ["G5-durable-quorum" "G10-externalisation" "G3-leader-completeness" "G4-state-machine-safety" "G6-committed-forever" "G11-acknowledged-lost"] "What peers have acknowledged is taken for sorted, and is not.",
    CommitsOlderTerms Easy Protocol ["I7-commit-own-term" "G3-leader-completeness" "G4-state-machine-safety" "G6-committed-forever" "G11-acknowledged-lost" "I4-truncation" "fault-unexpected"] "An entry of an earlier term is committed by counting.",
    CommitsOwnUnsyncedAppend Easy Protocol ["G5-durable-quorum" "G10-externalisation"] "A leader counts its own entries before they are on disk.",
    AckBeforeDurable Easy Protocol ["G5-durable-quorum" "G10-externalisation"] "A follower acknowledges what is not on disk yet.",
    AckOwnLastIndex Easy Protocol ["G5-durable-quorum" "G10-externalisation" "G3-leader-completeness" "G4-state-machine-safety" "G6-committed-forever" "G11-acknowledged-lost" "I4-truncation" "fault-unexpected" "L1-stuck"] "A follower acknowledges its last entry instead of the last verified one.",
    AckOfOlderSessionCounts Easy Protocol ["I15-late" "G5-durable-quorum" "G10-externalisation" "G3-leader-completeness" "G4-state-machine-safety" "G6-committed-forever" "G11-acknowledged-lost" "I4-truncation" "fault-unexpected"] "An acknowledgement of an earlier session with a peer counts.",
    NackAdvancesMatch Easy Protocol ["G5-durable-quorum" "G10-externalisation" "G3-leader-completeness" "G4-state-machine-safety" "G6-committed-forever" "G11-acknowledged-lost" "I4-truncation" "fault-unexpected" "L1-stuck"] "A rejected append advances the peer's match index.",
    HintStoredAsMatch Medium Protocol ["G5-durable-quorum" "G10-externalisation" "G3-leader-completeness" "G4-state-machine-safety" "G6-committed-forever" "G11-acknowledged-lost" "I4-truncation" "fault-unexpected"] "The hint of a rejection is taken for a match.",
    TruncatesMatchingEntries Easy Protocol ["I1-marks-ordered" "I2-marks-monotone" "G3-leader-completeness" "G4-state-machine-safety" "G6-committed-forever" "G11-acknowledged-lost" "I4-truncation" "fault-unexpected"] "An append that overlaps truncates entries that match.",
    CommitBeyondVerified Easy Protocol ["I9-commit-verified" "G3-leader-completeness" "G4-state-machine-safety" "G6-committed-forever" "G11-acknowledged-lost" "I4-truncation" "fault-unexpected"] "A follower commits what it has not verified against this leader.",
    PersistAckWithoutClip Medium Protocol ["I10-durable-true" "G5-durable-quorum" "G10-externalisation" "I1-marks-ordered" "G3-leader-completeness" "G4-state-machine-safety" "G6-committed-forever" "G11-acknowledged-lost" "I4-truncation" "fault-unexpected"] "A completion from before a truncation covers what replaced it.",
    CompactedTermIsZero Hard Protocol ["L1-stuck" "panic" "G2-log-matching" "G3-leader-completeness" "G4-state-machine-safety" "G6-committed-forever" "G11-acknowledged-lost" "I4-truncation" "fault-unexpected"] "The term of a compacted entry is taken for zero.",
    WindowLeaks Easy Protocol ["L1-stuck"] "Acknowledged appends stay in the window.",
    ProbeNeverRetried Easy Protocol ["L1-stuck"] "A lost probe is never sent again.",
    UncommittedBytesDrift Medium Protocol ["L1-stuck"] "Committed bytes are never subtracted from the uncommitted ones.",
    ReadBeforeOwnTermCommit Easy Protocol ["H1-linearizability" "H3-session"] "A new leader answers reads before it has committed in its term.",
    ReadWithoutConfirmation Medium Protocol ["H1-linearizability" "H3-session"] "A read is answered without asking a quorum.",
    ReadAckOfOlderTermCounts Hard Protocol ["I15-late" "H1-linearizability" "H3-session"] "A confirmation of an earlier term counts for a read of this one.",
    ReadQuorumOffByOne Hard Protocol ["H1-linearizability" "H3-session"] "A read is confirmed by one replica less than a quorum.",
    StaleHeartbeatConfirms Easy Protocol ["I19-confirmation" "H1-linearizability" "H3-session"] "A question of an earlier term is confirmed in the term of today.",
    LeaseFromReplyTime Medium Protocol ["G8-lease-safety" "H1-linearizability" "H3-session"] "A lease runs from when the answer came, not from when it was asked for.",
    LeaseSurvivesTransfer Hard Protocol ["G8-lease-safety" "H1-linearizability" "H3-session"] "A hand-over leaves the lease in force.",
    LeaseReturnsWithTransfer Medium Protocol ["G8-lease-safety" "H1-linearizability" "H3-session"] "A second hand-over that asks nobody brings back the lease that the first one ended.",
    LeaseIgnoresDrift Hard Protocol ["G8-lease-safety" "H1-linearizability" "H3-session"] "A lease makes no allowance for clocks that drift.",
    VoteAfterRestartWithinLease Easy Protocol ["I16-patience" "G8-lease-safety" "H1-linearizability" "H3-session"] "A restarted voter votes before the leases it supported are over.",
    JointByUnion Medium Protocol ["I8-active-config" "G7-quorums-intersect" "G12-config-chain" "G2-log-matching" "G5-durable-quorum" "G10-externalisation" "G1-election-safety" "G3-leader-completeness" "G4-state-machine-safety" "G6-committed-forever" "G11-acknowledged-lost" "I4-truncation" "fault-unexpected"] "In a joint configuration a majority of all counts, not one of each half.",
    ChangeBeforeOwnTermCommit Medium Protocol ["I8-active-config" "G7-quorums-intersect" "G12-config-chain" "G2-log-matching" "G3-leader-completeness" "G4-state-machine-safety" "G6-committed-forever" "G11-acknowledged-lost" "I4-truncation" "fault-unexpected"] "A leader changes the membership before it has committed in its term.",
    ChangeWhileUncommitted Medium Protocol ["I8-active-config" "G7-quorums-intersect" "G12-config-chain" "G2-log-matching" "G3-leader-completeness" "G4-state-machine-safety" "G6-committed-forever" "G11-acknowledged-lost" "I4-truncation" "fault-unexpected"] "A membership is changed while the last change is uncommitted.",
    ConfigNotRolledBack Medium Protocol ["I8-active-config" "G7-quorums-intersect" "G12-config-chain" "G2-log-matching" "G3-leader-completeness" "G4-state-machine-safety" "G6-committed-forever" "G11-acknowledged-lost" "I4-truncation" "fault-unexpected"] "Truncating a membership does not restore the one before.",
    JointNeverLeft Easy Protocol ["L1-stuck"] "Nobody ends a joint configuration.",
    RemovedLeaderCountsItself Medium Protocol ["I8-active-config" "G7-quorums-intersect" "G12-config-chain" "G2-log-matching" "G5-durable-quorum" "G10-externalisation"] "A leader that is no member counts itself.",
    LearnerCounts Easy Protocol ["G5-durable-quorum" "G10-externalisation" "I8-active-config" "G7-quorums-intersect" "G12-config-chain" "G2-log-matching" "G3-leader-completeness" "G4-state-machine-safety" "G6-committed-forever" "G11-acknowledged-lost" "I4-truncation" "fault-unexpected"] "A learner's acknowledgement counts.",
    BelievesItLeftByUncommitted Medium Protocol ["I21-left"] "A replica takes its removal for done before it is committed.",
    ExpelledByUncommitted Hard Protocol ["I21-left"] "A voter tells a candidate that it was removed by a change that is not committed.",
    StaleTimeoutNowObeyed Easy Protocol ["I17-obedience" "G8-lease-safety" "H1-linearizability" "H3-session" "L1-stuck"] "A request to campaign is obeyed after its transfer was given up.",
    TransferToLaggard Easy Protocol ["I17-obedience" "L1-stuck" "G8-lease-safety" "H1-linearizability" "H3-session"] "Leadership is handed to a replica that lags.",
    HeirHasNotApplied Medium Protocol ["I17-obedience"] "Leadership is taken over by a replica whose state machine lags behind.",
    IdleGroupsStayWithHungDisk Medium Bytes ["hung-leader"] "A node whose disk hangs hands over only what waits for it.",
    HungMajorityMoves Medium Bytes ["hung-majority"] "A node whose disk hangs hands over although those of most others hang too.",
    ConvalescentTakesOffice Medium Bytes ["ailing-elected"] "A node takes office as soon as its disk has answered once.",
    StoppingNodeCampaigns Medium Protocol ["I20-no-office" "I17-obedience"] "A replica stands for election although its node is going to stop.",
    BarredNeverAsks Hard Protocol ["L1-stuck"] "A member that may not stand for election waits for ever for a leader that sleeps.",
    SleepsThroughLoss Hard Protocol ["L1-stuck"] "A sleeping group sleeps on whichever of its members goes, comes back or looks for a leader.",
    SnapshotKeepsConflictingSuffix Medium Protocol ["G5-durable-quorum" "G10-externalisation" "G2-log-matching" "I3-entry-terms" "G3-leader-completeness" "G4-state-machine-safety" "G6-committed-forever" "G11-acknowledged-lost" "I4-truncation" "fault-unexpected"] "A snapshot is installed before entries that contradict it.",
    SnapshotCutsWhatFollows Hard Protocol ["I4-truncation" "I2-marks-monotone" "G5-durable-quorum" "G10-externalisation" "G3-leader-completeness" "G4-state-machine-safety" "G6-committed-forever" "G11-acknowledged-lost" "L1-stuck"] "A snapshot that appends have overtaken is installed over them.",
    SnapshotKeepsOldMembership Hard Protocol ["I8-active-config" "G7-quorums-intersect" "G12-config-chain" "G2-log-matching" "L1-stuck"] "A snapshot is installed without its membership.",
    SnapshotAckBeforeDurable Easy Protocol ["G5-durable-quorum" "G10-externalisation"] "A snapshot is acknowledged before it is on disk.",
    SnapshotStuckAtLastIndex Hard Protocol ["L1-stuck"] "A peer that took a snapshot is offered it for ever.",
    CompactBeyondSnapshot Easy Protocol ["I1-marks-ordered" "G10-externalisation" "L1-stuck" "panic" "G3-leader-completeness" "G4-state-machine-safety" "G6-committed-forever" "G11-acknowledged-lost" "I4-truncation" "fault-unexpected"] "The log is compacted beyond its snapshot.",
    CompactsUnderTransfer Easy Bytes ["E4-log-kept"] "The log is compacted while a peer fetches the snapshot before what goes.",
    FetchBeginsAnew Medium Bytes ["E5-fetch-finished"] "A newer snapshot that is offered takes the place of the one on its way.",
    LiveFreedAtRelease Medium Bytes [] "An entry that was let go of goes before the snapshot that does not name it is durable.",
    InstallForgetsLive Easy Bytes [] "An installed snapshot leaves nothing of what it names in the log.",
    MovedLiveLost Medium Bytes [] "An entry that outlives its log is looked for where it was before it was moved.",
    LostReplicaVotes Medium Protocol ["G10-promise-lost" "I2-vote-once" "G1-election-safety" "G10-externalisation" "G3-leader-completeness" "G4-state-machine-safety" "G6-committed-forever" "G11-acknowledged-lost" "I4-truncation" "fault-unexpected"] "A replica that lost its promises votes.",
    LostReplicaCounts Medium Protocol ["G10-promise-lost" "G5-durable-quorum" "G10-externalisation" "G3-leader-completeness" "G4-state-machine-safety" "G6-committed-forever" "G11-acknowledged-lost" "I4-truncation" "fault-unexpected"] "A replica that lost its promises counts for commitment.",
    LostEndsOnFirstContact Medium Protocol ["G10-promise-lost" "I2-vote-once" "G1-election-safety" "G10-externalisation" "G3-leader-completeness" "G4-state-machine-safety" "G6-committed-forever" "G11-acknowledged-lost" "I4-truncation" "fault-unexpected"] "A replica trusts itself again as soon as it hears of a leader.",
    FenceOfOlderLifeCounts Hard Protocol ["G10-promise-lost" "I2-vote-once" "G1-election-safety" "G10-externalisation" "G3-leader-completeness" "G4-state-machine-safety" "G6-committed-forever" "G11-acknowledged-lost" "I4-truncation" "fault-unexpected"] "A fence that was asked for in an earlier life counts.",
    FenceOnlyInMemory Medium Protocol ["G10-promise-lost" "I2-vote-once" "G1-election-safety" "G10-externalisation" "G3-leader-completeness" "G4-state-machine-safety" "G6-committed-forever" "G11-acknowledged-lost" "I4-truncation" "fault-unexpected"] "That a fence is outstanding is not on disk.",
    FenceWithUnprovenVote Medium Protocol ["G10-promise-lost" "I2-vote-once" "G1-election-safety" "G10-externalisation" "G5-durable-quorum" "G3-leader-completeness" "G4-state-machine-safety" "G6-committed-forever" "G11-acknowledged-lost" "I4-truncation" "fault-unexpected"] "A replica passes a fence although it may have forgotten its newest vote.",
    MatchOutlivesDamage Medium Protocol ["G10-promise-lost" "I2-vote-once" "G1-election-safety" "G10-externalisation" "G5-durable-quorum" "G3-leader-completeness" "G4-state-machine-safety" "G6-committed-forever" "G11-acknowledged-lost" "I4-truncation" "fault-unexpected" "L1-stuck"] "A leader goes on counting what a peer acknowledged before its log was found damaged.",
    DamageKeepsPromise Medium Protocol ["G10-promise-lost" "I2-vote-once" "G1-election-safety" "G10-externalisation" "G5-durable-quorum" "G3-leader-completeness" "G4-state-machine-safety" "G6-committed-forever" "G11-acknowledged-lost" "I4-truncation" "fault-unexpected" "L1-stuck"] "A replica whose log is found damaged while it runs trusts itself.",
    SuccessorStaysLearner Medium Protocol ["L1-stuck"] "The successor of a replica that may have forgotten its vote is never promoted.",
    UnprovenStays Easy Protocol ["L1-stuck"] "A replica that may have forgotten its vote is never replaced.",
    BootNotCompared Medium Bytes [] "The word of an earlier boot of the machine is believed after a power cut.",
    UncleanEndTrusted Medium Bytes ["G10-externalisation"] "A group that counts what is written trusts a log whose end nobody vouches for.",
    LossNotNoted Medium Bytes ["G10-externalisation" "G10-promise-lost" "C3-on-disk" "G3-leader-completeness" "G11-acknowledged-lost"] "A start takes promises for lost and does not note that.",
    WrittenTakenForDurable Medium Bytes ["I10-durable-true" "C3-on-disk" "G10-externalisation"] "What is written ahead of its sync is told as durable.",
    FlushForgotten Medium Bytes ["flush-late" "E3-room" "liveness"] "Entries that may wait for their sync wait for ever.",
    FlushForgottenAtLanding Easy Bytes ["flush-late" "E3-room" "liveness"] "When a sync lands, the deadline of what was written beside it is forgotten.",
    SyncCoversLater Easy Bytes ["I10-durable-true" "C3-on-disk" "G10-externalisation"] "What was written beside a sync is told as durable when that has landed.",
    TermStartCountsWritten Medium Bytes ["C3-on-disk"] "The first entry of a term and memberships count once they are written.",
    FewestGoOn Medium Bytes [] "Where a loss is accepted the replicas that hold fewest go on.",
    SnapshotBeyondQuorum Medium Bytes [] "A snapshot is taken beyond what a quorum has on disk.",
    TruncationNotLogged Medium Protocol ["I10-durable-true" "G5-durable-quorum" "G10-externalisation" "G3-leader-completeness" "G4-state-machine-safety" "G6-committed-forever" "G11-acknowledged-lost" "I4-truncation" "fault-unexpected" "G2-log-matching"] "A truncation does not reach the disk.",
    SyncErrorIgnored Easy Protocol ["I10-durable-true" "G5-durable-quorum" "G10-externalisation" "G3-leader-completeness" "G4-state-machine-safety" "G6-committed-forever" "G11-acknowledged-lost" "I4-truncation" "fault-unexpected"] "A failed sync is taken for a good one.",
    OldIncarnationAccepted Easy Protocol ["I15-late" "I2-vote-once" "G1-election-safety" "G10-externalisation" "G5-durable-quorum" "G10-externalisation" "G3-leader-completeness" "G4-state-machine-safety" "G6-committed-forever" "G11-acknowledged-lost" "I4-truncation" "fault-unexpected" "L1-stuck"] "A message to or from an earlier life is taken.",
    TornTailAccepted Medium Bytes [] "A record that fails its checksum is taken at the end of a log.",
    DamageCutAsTornTail Hard Bytes [] "Damage below a later promise is cut as if it were a torn tail.",
    UnreadableCutAsTornTail Hard Bytes [] "What cannot be read, at the end of the log or below a later promise, is cut as if it were a torn tail.",
    TermAndVoteNotLogged Easy Bytes [] "Term and vote are not written.",
    CompletionBeforeSync Easy Bytes [] "A write is told as durable before its sync.",
    FrameChecksumIgnored Medium Bytes [] "A frame that fails its checksum is taken.",
    TornBatchAcknowledged Medium Bytes [] "What a full disk left of a batch is told as durable with the part it took.",
    StagedAcknowledged Medium Bytes [] "What was prepared while the disk was busy is told as durable with what it was busy with.",
    AnswersPileUp Medium Bytes ["gated"] "What waits for a disk to become durable is kept, however much newer words are worth.",
    LogBoundForgotten Medium Bytes ["log-load"] "Entries are taken however much the log has to do.",
    SealIgnored Medium Bytes [] "A log that fell idle is cut at damage to its last batch, whatever its seal says.",
    SealNotSynced Easy Bytes [] "The seal of a log that fell idle is written and not made durable.",
    SealNotWritten Medium Bytes [] "A log that fell idle is not sealed.",
    DurableWriteCoversAll Easy Bytes ["G10-externalisation"] "A write that is made durable at once is taken to cover what was written before it.",
    ReusedTooEarly Medium Bytes [] "A segment is written again before a checkpoint without it is durable.",
    LastPieceForgotten Easy Bytes [] "The last piece of a large entry is left out of it.",
    CheckpointNotAwaited Hard Bytes [] "A checkpoint is ended before what its rows hold is durable in the log.",
    CheckpointedTwice Easy Bytes [] "What the row of a group holds already is applied to it again.",
    StaleFrameAccepted Hard Bytes [] "A frame that another use of its segment has left is taken.",
    BatchStopsAtUnknownGroup Medium Bytes ["E1-batch-whole"] "An item for a group that is not here ends the batch it came in.",
    BatchPassesWindow Medium Bytes ["W3-blame"] "A batch of heartbeats goes on where the lane's credit has ended.",
    CreditsLeak Medium Bytes [] "A lane does not get back the room of what was read.",
    AppliesBeforeDurable Easy Protocol ["I22-applied-durable" "panic"] "An entry is applied once it is committed, whether this replica's disk has it or not.",
    EarlierLifeOfGroupHeard Medium Bytes ["I2-vote-once" "I2-vote-current" "I15-late" "G1-election-safety" "G10-externalisation" "G2-log-matching" "G3-leader-completeness" "G4-state-machine-safety" "G6-committed-forever" "G11-acknowledged-lost" "I4-truncation" "fault-unexpected"] "Words of an earlier life of a group are taken by the replica of a later one.",
    RottenSnapshotStays Hard Bytes ["liveness"] "A snapshot that a peer could make nothing of is not looked at.",
    SnapshotsLeftBehind Medium Bytes ["leftovers"] "The snapshots of a replica that has left its node stay on its disk.",
    GoneReplicaForgotten Medium Bytes ["used-replica"] "Nothing is remembered of a replica that has left its node.",
    CreditRoundedDown Medium Bytes ["E3-room" "liveness"] "A few bytes of each credit are never given back.",
    KnownStoreNotWritten Medium Bytes ["stranger"] "Which disk a peer had is forgotten with the process.",
    AppliesTwice Easy Bytes [] "The first entry of a batch is applied twice.",
    SameLifeTaken Hard Bytes ["stranger"] "A directory that was put back to an earlier life is taken for the one that went on.",
    SplitKeepsPrevious Hard Bytes ["W1-words" "W3-blame"] "The second frame of a split batch leaves away what the first one said.",
    EntryTimeNotAdded Easy Bytes ["W1-words"] "The times of entries are not added up when they are read.",
    RoomLostWithLane Hard Bytes ["E3-room"] "What waited for a lane that went down goes on taking room.",
    TwoLongBegun Medium Bytes ["W3-blame"] "A second message above a quarter of the window is begun beside the first.",
    CreditCountsPings Medium Bytes ["W3-blame"] "A ping gives back credit that nobody gave.",
    LaneDownTellsOne Medium Bytes ["E2-lane-down"] "Of two replicas behind a lane that goes down only one is told.",
    OutputsNotCounted Medium Bytes [] "A machine's outputs are paired with its entries by place, however many there are.",
    ClockBeforeInput Medium Bytes [] "A turn is dated by a look at the clock before its input came.",
    ReadTakenForFirst Medium Bytes [] "What was read of the log is taken for what the first group waits for, whatever group it is of.",
    StampMayFall Easy Protocol ["T1-stamps-rise"] "An entry is stamped with what the clock shows, whatever the last stamp was.",
    WallClockNeverFalls Medium Bytes ["T4-clock-told" "T2-stamps-vouched"] "A node goes on telling the latest time its wall clock ever showed.",
    OwnClockVouches Easy Bytes ["T2-stamps-vouched"] "A leader believes its own wall clock.",
    OneHalfVouches Medium Bytes ["T2-stamps-vouched"] "In a joint configuration only the new half is asked for the time.",
    StampForgottenAtRestart Easy Bytes ["T1-stamps-rise"] "A restarted replica does not know the last stamp of its log.",
    StampForgottenWithLog Medium Bytes ["T1-stamps-rise"] "A restarted replica whose log is compacted to its end does not know its last stamp.",
    LogTimeStandsStill Easy Bytes ["T3-log-time-goes-on"] "Log time that is ahead waits until the clocks have come after.",
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::sim::violation::Check;

    #[test]
    fn there_are_enough_mutants_each_told_once() {
        let names: BTreeSet<&str> = MUTANTS.iter().map(|mutant| mutant.name).collect();
        let stories: BTreeSet<&str> = MUTANTS.iter().map(|mutant| mutant.about).collect();
        assert!(names.len() >= 30);
        assert_eq!((names.len(), stories.len()), (MUTANTS.len(), MUTANTS.len()));
    }

    #[test]
    fn expected_checks_exist() {
        let known: BTreeSet<&str> = Check::ALL.iter().map(|check| check.id()).collect();
        for mutant in MUTANTS {
            for check in mutant.checks {
                let of_profile = check.starts_with('L') || mutant.profile == Profile::Bytes;
                assert!(known.contains(check) || of_profile, "{}: {check}", mutant.name);
            }
        }
    }
}
