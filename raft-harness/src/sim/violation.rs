//! What a run is failed for: a check by name, where, and what was seen.
//!
//! The name is stable. Shrinking keeps a smaller run only if it fails by the same name, and a
//! planted bug is counted as found by the check that caught it.

use std::fmt;

use raft_core::GroupId;

/// A promise that was broken.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Violation {
    /// Which check says so.
    pub check: Check,
    /// In which group; `None` if the matter is not of one group.
    pub group: Option<GroupId>,
    /// The values that contradict one another.
    pub evidence: String,
}

impl Violation {
    /// Of one group.
    pub fn of_group(check: Check, group: GroupId, evidence: impl Into<String>) -> Self {
        Self { check, group: Some(group), evidence: evidence.into() }
    }

    /// Of the whole run.
    pub fn of_run(check: Check, evidence: impl Into<String>) -> Self {
        Self { check, group: None, evidence: evidence.into() }
    }

    /// The stable name of the check.
    pub const fn id(&self) -> &'static str {
        self.check.id()
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.id())?;
        if let Some(group) = self.group {
            write!(f, " {group:?}")?;
        }
        write!(f, ": {}", self.evidence)
    }
}

impl std::error::Error for Violation {}

macro_rules! checks {
    ($($(#[$doc:meta])* $name:ident = $id:literal,)*) => {
        /// The checks by name. `I` looks at one replica, `G` at a group, `E` at an
        /// engine of many groups, `W` at a wire, `T` at log time, `H` at what clients saw.
        #[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
        pub enum Check {
            $($(#[$doc])* $name,)*
            /// A check of one profile.
            Profile(&'static str),
        }

        impl Check {
            /// All of them but the profiles' own.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The stable name.
            pub const fn id(self) -> &'static str {
                match self {
                    $(Self::$name => $id,)*
                    Self::Profile(id) => id,
                }
            }
        }
    };
}

checks! {
    /// snapshot <= appliable <= commit <= last, durable <= written <= last, applied <= appliable.
    MarksOrdered = "I1-marks-ordered",
    /// Term, commit, appliable, snapshot never fall; durable only at a truncation.
    MarksMonotone = "I2-marks-monotone",
    /// One vote per term, in memory and on the wire, over all lives of a replica.
    VoteOnce = "I2-vote-once",
    /// A vote goes to who stands in its term with a log at least as current (paper, section 5.4.1).
    VoteCurrent = "I2-vote-current",
    /// Terms along a log never fall and never exceed the replica's term.
    EntryTerms = "I3-entry-terms",
    /// A leader only appends; a follower truncates at a genuine, uncommitted conflict.
    Truncation = "I4-truncation",
    /// What a leader knows of its peers is what a recount finds.
    Progress = "I5-progress",
    /// A quorum is what counting votes and acknowledgements one by one finds.
    Quorum = "I6-quorum",
    /// A leader commits by counting only an entry of its own term.
    CommitOwnTerm = "I7-commit-own-term",
    /// The active configuration is the last in the log; one change at a time, and none before the
    /// leader has committed in its own term.
    ActiveConfig = "I8-active-config",
    /// A follower commits only what it has verified against this leader.
    CommitVerified = "I9-commit-verified",
    /// What a replica takes for durable is on its disk.
    DurableTrue = "I10-durable-true",
    /// What may be applied is on this replica's own disk.
    AppliedDurable = "I22-applied-durable",
    /// Only a voter stands for election.
    CandidatePromotable = "I11-candidate-promotable",
    /// A voter that is awake has a deadline; one that sleeps waits for nothing.
    Deadline = "I12-deadline",
    /// A pre-vote changes nothing and is answered truly.
    PreVote = "I14-pre-vote",
    /// What is late changes nothing.
    Late = "I15-late",
    /// A voter does not turn from a leader it has just heard, nor forgets that it may have.
    Patience = "I16-patience",
    /// A replica campaigns for its leader only.
    Obedience = "I17-obedience",
    /// Whoever leads in a term that is over is told so.
    Told = "I18-told",
    /// A confirmation answers what the leader of its term has asked.
    Confirmation = "I19-confirmation",
    /// A replica whose node is going to stop comes to lead nothing, and does not try to.
    NoOffice = "I20-no-office",
    /// Who believes that it was removed, was: a committed membership from after its time says so.
    Left = "I21-left",
    /// One leader per term, over all history.
    ElectionSafety = "G1-election-safety",
    /// Two logs with the same index and term are equal up to there.
    LogMatching = "G2-log-matching",
    /// A leader has every entry committed in earlier terms.
    LeaderCompleteness = "G3-leader-completeness",
    /// Replicas apply the same entries in the same order and arrive at the same states.
    StateMachineSafety = "G4-state-machine-safety",
    /// What is reported committed lies on the disks of a quorum.
    DurableQuorum = "G5-durable-quorum",
    /// Memberships and the first entry of a term are on the disks of a quorum before they are reported
    /// committed, however their group counts.
    OnDisk = "C3-on-disk",
    /// What was committed stays what it was.
    CommittedForever = "G6-committed-forever",
    /// Quorums of configurations that can be in use together intersect.
    QuorumsIntersect = "G7-quorums-intersect",
    /// While somebody would serve a read from a lease, nobody commits in a later term.
    LeaseSafety = "G8-lease-safety",
    /// What a node recovers is what it promised on the wire, and it promises what is on disk.
    Externalisation = "G10-externalisation",
    /// A replica that may have forgotten neither votes nor stands, and says so.
    PromiseLost = "G10-promise-lost",
    /// A write that was acknowledged is there.
    AcknowledgedLost = "G11-acknowledged-lost",
    /// One chain of configurations; removed replicas do not come back or win.
    ConfigChain = "G12-config-chain",
    /// A replica met something impossible although nothing impossible was done to it, or did not
    /// believe a word although nobody lies.
    UnexpectedFault = "fault-unexpected",
    /// A result that no order of the operations explains.
    Linearizability = "H1-linearizability",
    /// The search for such an order ran out of its budget.
    Inconclusive = "H2-inconclusive",
    /// A client saw its own session run backwards.
    Session = "H3-session",
    /// An item of a batch reaches the replica it is for, whatever the other items are.
    BatchWhole = "E1-batch-whole",
    /// Whoever believes something on its way over a lane is told when that lane goes down.
    LaneDown = "E2-lane-down",
    /// Stamps never fall along a log, and an entry has one.
    StampsRise = "T1-stamps-rise",
    /// No stamp lies further ahead than a majority of voters' clocks, or what an earlier stamp has
    /// grown to, and none behind all of their clocks.
    StampsVouched = "T2-stamps-vouched",
    /// A node tells what its wall clock shows.
    ClockTold = "T4-clock-told",
    /// Log time goes on while there is a leader, so what has a time to live ends.
    LogTimeGoesOn = "T3-log-time-goes-on",
    /// Room that is taken for what is on its way is given back, whatever becomes of it.
    Room = "E3-room",
    /// What is heard on a connection is what was said there, word by word.
    Words = "W1-words",
    /// A connection on which bytes move is not closed for silence.
    Silence = "W2-silence",
    /// Of two honest ends none accuses the other of breaking the lane's rules.
    Blame = "W3-blame",
    /// What a peer needs of a log stays there, up to the bound.
    LogKept = "E4-log-kept",
    /// A snapshot on its way is finished before another of the same leader is begun.
    FetchFinished = "E5-fetch-finished",
    /// A request ended twice, or never, or without having begun.
    Outcomes = "H4-outcomes",
    /// The code under test panicked.
    Panic = "panic",
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique() {
        let names: BTreeSet<_> = Check::ALL.iter().map(|check| check.id()).collect();
        assert_eq!(names.len(), Check::ALL.len());
    }

    #[test]
    fn a_violation_reads_as_one_line() {
        let violation =
            Violation::of_group(Check::ElectionSafety, GroupId::new(7), "r1 and r2 lead t3");
        assert_eq!(violation.to_string(), "G1-election-safety g7: r1 and r2 lead t3");
        let violation = Violation::of_run(Check::Profile("lane-law"), "late");
        assert_eq!(violation.to_string(), "lane-law: late");
    }
}
