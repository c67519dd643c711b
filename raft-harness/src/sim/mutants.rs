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
    /// The checks that catch it.
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
    VoteForOlderTerm Easy Protocol [] "A vote is given to a candidate of an earlier term.",
    VoteTwice Easy Protocol [] "A replica votes for a second candidate of a term.",
    VoteIgnoresLog Easy Protocol [] "A vote is given without a look at the candidate's log.",
    VoteComparesIndexFirst Medium Protocol [] "Logs are compared by length before their last terms.",
    VoteBeforeDurable Medium Protocol [] "A vote leaves before it is on disk.",
    VoteRequestBeforeDurable Medium Protocol [] "A candidate asks for votes before its own is on disk.",
    VoteClearedInSameTerm Medium Protocol [] "Stepping down within a term forgets whom it was voted for.",
    VoteReplyOfOlderTermCounts Hard Protocol [] "A vote of an earlier attempt is counted in this one.",
    RefusalTakenForVote Easy Protocol [] "A refused vote counts as a granted one.",
    PreVoteIgnoresLog Medium Protocol [] "A pre-vote is granted without a look at the log.",
    PreVoteRefusalHidesTerm Medium Protocol [] "A refused pre-vote does not tell the term that refused it.",
    PreVoteGrantResetsTimer Medium Protocol [] "Granting a pre-vote counts as hearing from a leader.",
    StickinessForgotten Medium Protocol [] "A vote is given although the leader was heard a moment ago.",
    PatienceEndsWithTerm Medium Protocol [] "A new term ends the patience with the leader, lease or not.",
    PatienceEndsWithConnection Medium Protocol [] "A broken connection counts as a voter that no longer waits.",
    NoCheckQuorum Easy Protocol [] "A leader without a quorum goes on leading.",
    CommitsOlderTerms Hard Protocol [] "An entry of an earlier term is committed by counting.",
    CommitsOwnUnsyncedAppend Easy Protocol [] "A leader counts its own entries before they are on disk.",
    AckBeforeDurable Easy Protocol [] "A follower acknowledges what is not on disk yet.",
    AckOwnLastIndex Easy Protocol [] "A follower acknowledges its last entry instead of the last verified one.",
    AckOfOlderSessionCounts Hard Protocol [] "An acknowledgement of an earlier session with a peer counts.",
    NackAdvancesMatch Easy Protocol [] "A rejected append advances the peer's match index.",
    HintStoredAsMatch Easy Protocol [] "The hint of a rejection is taken for a match.",
    TruncatesMatchingEntries Easy Protocol [] "An append that overlaps truncates entries that match.",
    CommitBeyondVerified Easy Protocol [] "A follower commits what it has not verified against this leader.",
    PersistAckWithoutClip Medium Protocol [] "A completion from before a truncation covers what replaced it.",
    CompactedTermIsZero Medium Protocol [] "The term of a compacted entry is taken for zero.",
    WindowLeaks Easy Protocol [] "Acknowledged appends stay in the window.",
    ProbeNeverRetried Easy Protocol [] "A lost probe is never sent again.",
    UncommittedBytesDrift Easy Protocol [] "Committed bytes are never subtracted from the uncommitted ones.",
    ReadBeforeOwnTermCommit Medium Protocol [] "A new leader answers reads before it has committed in its term.",
    ReadWithoutConfirmation Easy Protocol [] "A read is answered without asking a quorum.",
    ReadAckOfOlderTermCounts Hard Protocol [] "A confirmation of an earlier term counts for a read of this one.",
    ReadQuorumOffByOne Medium Protocol [] "A read is confirmed by one replica less than a quorum.",
    LeaseFromReplyTime Hard Protocol [] "A lease runs from when the answer came, not from when it was asked for.",
    LeaseSurvivesTransfer Hard Protocol [] "A hand-over leaves the lease in force.",
    LeaseIgnoresDrift Hard Protocol [] "A lease makes no allowance for clocks that drift.",
    VoteAfterRestartWithinLease Hard Protocol [] "A restarted voter votes before the leases it supported are over.",
    JointByUnion Medium Protocol [] "In a joint configuration a majority of all counts, not one of each half.",
    ChangeBeforeOwnTermCommit Hard Protocol [] "A leader changes the membership before it has committed in its term.",
    ChangeWhileUncommitted Medium Protocol [] "A membership is changed while the last change is uncommitted.",
    ConfigNotRolledBack Medium Protocol [] "Truncating a membership does not restore the one before.",
    JointNeverLeft Easy Protocol [] "Nobody ends a joint configuration.",
    RemovedLeaderCountsItself Medium Protocol [] "A leader that is no member counts itself.",
    LearnerCounts Easy Protocol [] "A learner's acknowledgement counts.",
    StaleTimeoutNowObeyed Hard Protocol [] "A request to campaign is obeyed after its transfer was given up.",
    TransferToLaggard Medium Protocol [] "Leadership is handed to a replica that lags.",
    SnapshotKeepsConflictingSuffix Hard Protocol [] "A snapshot is installed before entries that contradict it.",
    SnapshotKeepsOldMembership Medium Protocol [] "A snapshot is installed without its membership.",
    SnapshotAckBeforeDurable Medium Protocol [] "A snapshot is acknowledged before it is on disk.",
    SnapshotStuckAtLastIndex Medium Protocol [] "A peer that took a snapshot is offered it for ever.",
    CompactBeyondSnapshot Easy Protocol [] "The log is compacted beyond its snapshot.",
    LostReplicaVotes Medium Protocol [] "A replica that lost its promises votes.",
    LostReplicaCounts Medium Protocol [] "A replica that lost its promises counts for commitment.",
    LostEndsOnFirstContact Hard Protocol [] "A replica trusts itself again as soon as it hears of a leader.",
    FenceOfOlderLifeCounts Hard Protocol [] "A fence that was asked for in an earlier life counts.",
    FenceOnlyInMemory Hard Protocol [] "That a fence is outstanding is not on disk.",
    TruncationNotLogged Medium Protocol [] "A truncation does not reach the disk.",
    SyncErrorIgnored Easy Protocol [] "A failed sync is taken for a good one.",
    OldIncarnationAccepted Hard Protocol [] "A message to or from an earlier life is taken.",
    TornTailAccepted Medium Bytes [] "A record that fails its checksum is taken at the end of a log.",
    DamageCutAsTornTail Hard Bytes [] "Damage below a later promise is cut as if it were a torn tail.",
    TermAndVoteNotLogged Easy Bytes [] "Term and vote are not written.",
    CompletionBeforeSync Easy Bytes [] "A write is told as durable before its sync.",
    CreditsLeak Medium Bytes [] "A lane does not get back the room of what was read.",
    AppliesTwice Easy Bytes [] "The first entry of a batch is applied twice.",
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
                let of_profile = check.starts_with("L1-") || mutant.profile == Profile::Bytes;
                assert!(known.contains(check) || of_profile, "{}: {check}", mutant.name);
            }
        }
    }
}
