//! "Sometimes" marks: places a sweep of runs must have been to.
//!
//! A simulator that never elects a leader finds no bug in elections, and says so by finding
//! nothing. Each mark names a rare state; a profile hits it when it sees the state. The report
//! over a sweep shows the rarest, and what was never reached: a hole in the faults or the
//! workload, to be closed like a bug.

use std::fmt;

macro_rules! marks {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// The places by name. A profile adds a line for each of its own.
        #[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
        pub enum Mark {
            $(#[doc = $text] $(#[$doc])* $name,)*
        }

        impl Mark {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// What a report calls it.
            pub const fn text(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

marks! {
    // Elections.
    LeaderElected = "a leader was elected",
    ElectionLost = "a candidate lost",
    VoteSplit = "a vote was split and nobody won the term",
    PreVoteRefusedByStickiness = "a pre-vote was refused because of a live leader",
    VoteRefusedByLog = "a vote was refused because of the candidate's log",
    VoteRefusedByVote = "a vote was refused because it was given already",
    CandidateSawHigherTerm = "a candidate saw a higher term and followed",
    LeaderDeposedByTerm = "a leader was deposed by a higher term",
    LeaderWithoutQuorum = "a leader lost touch with its quorum and stepped down",
    LateVoteIgnored = "a vote of an earlier attempt came late",
    VoteOutlivedRestart = "a vote arrived after its receiver had restarted",
    LateWinner = "a term was won after a later term had begun",

    StandingPartition = "all groups served in a partition that never healed",

    // Replication.
    ConflictTruncated = "a conflicting tail was truncated",
    ConflictDeep = "a conflict spanned several terms",
    AppendRejected = "an append was rejected and probed further back",
    AppendDuplicate = "an append arrived twice",
    AppendReordered = "an append overtook an earlier one",
    AppendStale = "an append of an earlier term arrived",
    ReplyOfOldSession = "a reply of an earlier session was dropped",
    WindowFull = "an inflight window was full",
    WindowFullProbe = "a full window was probed without entries",
    UncommittedLimit = "a proposal was refused because too much was uncommitted",
    FigureEight = "a leader held an earlier term's entry on a majority, uncommitted",
    CommitSkipped = "the commit index rose by more than a window at once",
    TailSuperseded = "a client's entry was superseded by another leader's",
    HeartbeatOvertookAppend = "a heartbeat overtook an append of its term",
    BatchOfManyGroups = "one frame carried heartbeats of many groups",

    // Membership.
    LearnerAdded = "a learner was added",
    LearnerPromoted = "a learner was promoted",
    PromotionTooEarly = "a promotion was refused because the learner lagged",
    JointEntered = "a joint configuration began to act",
    JointLeftByOther = "a joint configuration was left by another leader than began it",
    JointDecidedByOutgoing = "the outgoing half of a joint configuration was the one to wait for",
    ConfigTruncated = "an uncommitted configuration was truncated",
    ConfigRefusedPending = "a change was refused because another was under way",
    ConfigRefusedTerm = "a change was refused before the leader's own term had a commit",
    LeaderRemoved = "a leader was removed and handed over",
    UncommittedRemovalStood = "a replica stood for election while others held its uncommitted removal",
    RemovedCampaigned = "a removed replica that had not heard of it campaigned",
    ReplicaReplaced = "a replica was replaced under a new id",
    ElectionUnderJoint = "a leader was elected under a joint configuration",

    ReplicaDeleted = "a removed replica's data was deleted",
    GroupReborn = "a group began anew under the id of one that was destroyed",
    EarlierLifeSpoke = "a replica of an earlier life of its group spoke when a later had begun",
    GoneReplicaAskedFor = "a replica that had left its node was to be created there once more",
    TombstoneSpoke = "a deleted replica was asked for a vote and refused",

    // Snapshots and compaction.
    SnapshotSent = "a snapshot was sent because the log was compacted",
    SnapshotInstalled = "a snapshot was installed",
    SnapshotInterrupted = "a snapshot was interrupted and resumed or begun again",
    SnapshotRefused = "a snapshot was refused because the log had overtaken it",
    SnapshotConflict = "a snapshot contradicted the log, which was discarded",
    SnapshotWithConfig = "a snapshot carried a configuration the log never showed",
    AppendAtBase = "an append began exactly at a snapshot's last entry",
    CrashDuringInstall = "a node crashed while it installed a snapshot",
    SnapshotConflictCrash = "a node crashed while it fetched a snapshot that contradicted its log",
    SnapshotOutpaced = "a snapshot was installed when its leader had taken newer ones",
    SnapshotOfLaggard = "a snapshot was taken of a machine far behind its log",
    SnapshotResumed = "a life went on with what its predecessor had got of a snapshot",
    DeclinedUnderCompaction = "a leader compacted past a peer without room",
    ConfigTailLost = "a restart lost a tail with a membership in it",
    EntryKept = "entries stayed when the log before them went",
    EntryFetched = "entries that a snapshot leaves in the log were fetched",
    LogHeld = "log was kept for a peer that fetched or lagged",
    LogHeldTooLong = "log that a peer needed was compacted because it was too much",

    // Reads and leases.
    ReadConfirmed = "a read was confirmed by a quorum",
    ReadBeforeNoop = "a read waited for the first commit of its term",
    ReadFailedOver = "a read failed because leadership was lost",
    ReadAtFollower = "a follower answered a read",
    ReadOvertookRead = "a read was answered before one that was asked earlier of the same replica",
    LeaseRead = "a read was answered from a lease",
    LeaseExpired = "a lease ran out while the leader still led",
    LeaseExpiredInPause = "a lease ran out during a pause",
    LeaseEndedByTransfer = "a transfer ended a lease",
    VoteWithheldForLease = "a vote was withheld after a restart until leases were over",

    // Transfer.
    TransferDone = "leadership was handed over",
    TransferTimedOut = "a transfer timed out and the leader went on",
    TransferRefused = "a transfer's target refused",
    TimeoutNowLate = "a late request to campaign was ignored",
    HeirBehind = "an heir whose state machine lagged behind was asked and refused",
    StopDeclined = "a node that was asked to stop was asked to take over and refused",
    StopHandedOver = "a node that was asked to stop handed over all that it led",
    NoHeir = "nobody was left to hand over to",
    ProposalDuringTransfer = "a proposal was refused during a transfer",

    // Disks.
    TornTail = "a torn tail was cut",
    UnsyncedLost = "unsynced writes were lost in a crash",
    PersistReordered = "a later write was on disk and an earlier one was not",
    FsyncFailed = "a failed sync stopped a node",
    AnswerLeftOut = "a machine left out an answer and its group went mute",
    KeptEntryUnreadable = "a machine could not read what its snapshot left in the log",
    DiskFullSeen = "a full disk refused entries and still took a vote",
    LogOverlapped = "a batch of the log was prepared while the disk was busy with another",
    PieceWritten = "pieces of a large entry were written, to be durable with a later sync",
    WrittenBeside = "something was written beside a sync and counted before that had landed",
    LogLandedLate = "a batch of the log was on its way before the one before it was acknowledged",
    BatchSplitByFullDisk = "a full disk took the first part of a batch and not the rest",
    StartOnFullDisk = "a node started on a full disk",
    Checkpoint = "a checkpoint of the log was made",
    StartFromCheckpoint = "a log was read from a checkpoint on",
    CheckpointUnreadable = "a start found a checkpoint that was torn or damaged",
    SegmentReused = "a segment of the log was written again",
    EntryMoved = "entries were moved out of a segment that was nearly empty",
    DescriptorsGone = "a node had no file descriptor left",
    LedByNoHungDisk = "leaderships were handed over because a disk hung",
    MostDisksHung = "the disks of most nodes hung at once",
    DiskHungAgain = "a disk that had hung hung again",
    ElectedBesideAiling = "somebody was elected while the log of a voter was not well",
    LogOverloaded = "a log had too much to do and entries were declined",
    SealedBatchDamaged = "damage hit the last batch of a log that had fallen idle",
    LogReadOvertook = "the log was read for a group before another that had asked earlier",
    DiskStallSeen = "a leader with a stalled disk gave up or was deposed",
    DamageRepaired = "a damaged log was opened without what it had lost",
    BlockUnreadable = "a block of a log could not be read any more",
    SnapshotRetaken = "a snapshot that had rotted was taken anew",
    StateLost = "a start found that the snapshot its log begins behind had rotted",
    DamageReported = "damage below a promise was reported",
    TruncationLostInCrash = "a truncation was lost in a crash and done again",

    SyncOfBoth = "one sync made entries of groups of both strategies durable",
    KillVouchedFor = "a process was killed with entries that were counted and not on disk, and its word stood",
    LossAccepted = "somebody accepted that a group had lost what a quorum had forgotten",
    CommittedLost = "entries were lost that had been committed, by accepting it",
    PowerTookCounted = "a machine lost power with entries that were counted and not on disk",

    // Crashes.
    LeaderCrashed = "a leader crashed",
    CrashBeforePersist = "a node crashed with a persist operation in flight",
    CrashBetweenEffects = "a node crashed between two effects of one step",
    CrashAtCheckpoint = "a machine died just when its log had made a checkpoint",
    CrashInReused = "a machine died just when its log wrote a segment again",
    CrashInRecovery = "a node crashed while it recovered",
    AllDown = "all nodes of a group were down at once",
    QuorumRestarted = "a quorum restarted within one election timeout",
    PausedLeaderReturned = "a paused leader came back to a later term",

    PutBack = "a node's disk was put back to an earlier life, and all peers knew a later one",
    StoodAfterLook = "a thread stood still between a look at its clock and what came meanwhile",
    StoodBetweenLooks = "a thread stood still between two looks at its clock",

    // Lanes.
    LaneStalled = "a lane stalled while another went on",
    LaneKilled = "a lane died and was dialled again",
    LaneChanged = "a group's appends changed lanes",
    LaneDownToTwo = "a lane went down that carried appends to two replicas of a group",
    CreditsExhausted = "a lane ran out of credits",
    QuestionHeld = "a question about a snapshot waited for room on a lane",
    FrameInChunks = "a frame went in chunks",
    FrameCut = "a connection broke inside of a frame",
    BatchSplit = "a batch was split over several frames",
    LargeOnSlowLane = "an append took longer on a slow lane than a lane waits for a word",
    OldGenerationFenced = "an older connection was fenced by a newer one",

    // Log time.
    WallJumpOnLeader = "the wall clock of a leader was set",
    WallJumpOnFollower = "the wall clock of a follower was set",
    WallMajorityWrong = "a leader heard a majority of wrong clocks",
    StampAtHalfPace = "log time was ahead and went on at half pace",
    StampHealed = "log time that was ahead came back to the clocks",

    // Lost promises, sleep, faults.
    PromiseLostBegan = "a replica came back without its promises",
    PromiseUnprovenBegan = "a replica came back whose newest vote may be forgotten",
    PromiseUnprovenFollowed = "such a replica went on behind its leader, and did not count",
    UnprovenReplaced = "a leader replaced such a replica by a fresh one",
    SuccessorPromoted = "its successor had caught up, and became a voter",
    DamagedWhileRunning = "the log of a running replica was found damaged",
    LossWithoutRoom = "a start found promises lost and no room to note it",
    PromiseLostFenced = "such a replica passed its fence",
    PromiseLostAbstained = "such a replica withheld a vote",
    Quiesced = "a group went to sleep",
    QuiescedWoken = "a sleeping group was woken by a proposal",
    QuietEnd = "a run with groups that sleep came right without a client",
    QuiescedAskedFor = "a sleeping leader was asked for by a member that may not stand",
    QuiescedLeaderLost = "a sleeping group lost its leader",

    // Partitions.
    MajorityCutOff = "a leader was cut off from its majority",
    BridgeLed = "the bridge between two halves led",
    OneWayCut = "a node heard others that did not hear it",
    StaleLeaderServed = "two leaders of different terms were up at once",
}

impl Mark {
    /// Whether it is about what only whole nodes have: bytes on a wire, files, desks, answers.
    pub(super) const fn is_of_wires(self) -> bool {
        matches!(
            self,
            Self::AnswerLeftOut
                | Self::KeptEntryUnreadable
                | Self::LogReadOvertook
                | Self::LaneChanged
                | Self::LaneDownToTwo
                | Self::CreditsExhausted
                | Self::QuestionHeld
                | Self::FrameInChunks
                | Self::FrameCut
                | Self::BatchSplit
                | Self::PutBack
                | Self::LargeOnSlowLane
                | Self::SnapshotConflictCrash
                | Self::SnapshotOutpaced
                | Self::SnapshotOfLaggard
                | Self::SnapshotResumed
                | Self::DeclinedUnderCompaction
                | Self::ConfigTailLost
                | Self::EntryKept
                | Self::EntryFetched
                | Self::LogHeld
                | Self::LogHeldTooLong
                | Self::SyncOfBoth
                | Self::WrittenBeside
                | Self::KillVouchedFor
                | Self::PowerTookCounted
                | Self::LossAccepted
                | Self::LossWithoutRoom
                | Self::CommittedLost
                | Self::LedByNoHungDisk
                | Self::MostDisksHung
                | Self::DiskHungAgain
                | Self::ElectedBesideAiling
                | Self::DamageRepaired
                | Self::BlockUnreadable
                | Self::SnapshotRetaken
                | Self::StateLost
                | Self::CrashAtCheckpoint
                | Self::CrashInReused
        )
    }

    /// Whether it is about the stamps of engines, which cores do not choose.
    pub(super) const fn is_of_stamps(self) -> bool {
        matches!(
            self,
            Self::WallJumpOnLeader
                | Self::WallJumpOnFollower
                | Self::WallMajorityWrong
                | Self::StampAtHalfPace
                | Self::StampHealed
        )
    }
}

/// How often each mark was hit: in one run, or over many.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Marks {
    hits: Vec<u64>,
    /// In how many runs it was hit at all.
    runs: Vec<u64>,
    /// How many runs are merged into this.
    total: u64,
}

impl Default for Marks {
    fn default() -> Self {
        Self::new()
    }
}

impl Marks {
    /// Of one run that has just begun.
    pub fn new() -> Self {
        Self { hits: vec![0; Mark::ALL.len()], runs: vec![0; Mark::ALL.len()], total: 1 }
    }

    /// Of no run yet: what [`merge`](Self::merge) starts from.
    pub fn none() -> Self {
        Self { total: 0, ..Self::new() }
    }

    /// The run has been there.
    pub fn hit(&mut self, mark: Mark) {
        self.hits[mark as usize] += 1;
        self.runs[mark as usize] = 1;
    }

    /// How often it was hit.
    pub fn hits(&self, mark: Mark) -> u64 {
        self.hits[mark as usize]
    }

    /// Adds the marks of other runs.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.hits.iter_mut().zip(&other.hits) {
            *mine += theirs;
        }
        for (mine, theirs) in self.runs.iter_mut().zip(&other.runs) {
            *mine += theirs;
        }
        self.total += other.total;
    }

    /// What was reached by the fewest runs, and what by none. `concerned` names the marks that the
    /// profile can reach.
    pub fn report(&self, concerned: impl Fn(Mark) -> bool) -> MarksReport {
        let mut by_rarity: Vec<(u64, u64, Mark)> = Mark::ALL
            .iter()
            .filter(|mark| concerned(**mark))
            .map(|mark| (self.runs[*mark as usize], self.hits(*mark), *mark))
            .collect();
        by_rarity.sort_unstable();
        let reached = by_rarity.partition_point(|(runs, ..)| *runs == 0);
        MarksReport {
            never: by_rarity[..reached].iter().map(|(.., mark)| *mark).collect(),
            rarest: by_rarity[reached..].iter().take(10).copied().collect(),
            reached: by_rarity.len() - reached,
            runs: self.total,
        }
    }
}

/// What a sweep reached and what it did not.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct MarksReport {
    /// Reached by no run.
    pub never: Vec<Mark>,
    /// The ten reached by the fewest runs: in how many runs, how often, and what.
    pub rarest: Vec<(u64, u64, Mark)>,
    /// How many marks were reached.
    pub reached: usize,
    /// How many runs there were.
    pub runs: u64,
}

impl fmt::Display for MarksReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let concerned = self.reached + self.never.len();
        writeln!(
            f,
            "marks: {} of {concerned} reached in {} runs; rarest:",
            self.reached, self.runs
        )?;
        for (runs, hits, mark) in &self.rarest {
            writeln!(f, "  {runs:>8} runs {hits:>10} times  {}", mark.text())?;
        }
        for mark in &self.never {
            writeln!(f, "     NEVER  {}", mark.text())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn there_are_enough_marks_and_no_two_read_the_same() {
        let texts: BTreeSet<_> = Mark::ALL.iter().map(|mark| mark.text()).collect();
        assert_eq!(texts.len(), Mark::ALL.len());
        assert!(texts.len() >= 60);
    }

    #[test]
    fn the_report_ranks_by_runs_and_names_what_was_missed() {
        let mut sweep = Marks::none();
        for run in 0..20 {
            let mut marks = Marks::new();
            marks.hit(Mark::LeaderElected);
            if run == 3 {
                // Often, but in one run only.
                (0..100).for_each(|_| marks.hit(Mark::VoteSplit));
            }
            sweep.merge(&marks);
        }
        let concerned = [Mark::LeaderElected, Mark::VoteSplit, Mark::ElectionLost];
        let report = sweep.report(|mark| concerned.contains(&mark));
        assert_eq!(report.never, [Mark::ElectionLost]);
        assert_eq!(report.rarest, [(1, 100, Mark::VoteSplit), (20, 20, Mark::LeaderElected)]);
        assert_eq!((report.reached, report.runs), (2, 20));
        let text = report.to_string();
        assert!(text.contains("2 of 3 reached in 20 runs"), "{text}");
        assert!(text.contains("NEVER  a candidate lost"), "{text}");
    }
}
