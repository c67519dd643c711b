//! What the checks see of a replica: plain values, filled in by the profile after each step.
//!
//! The checks must not depend on how a replica is run, so that the profile with messages and the
//! profile with bytes share them; and they must not trust the core's own bookkeeping more than
//! they have to, so the log is asked entry by entry.

use raft_core::{
    Fault, GroupId, HardState, Incarnation, LogIndex, Micros, NodeId, ReplicaId, RoleKind, Term,
};

/// One replica after a step.
#[derive(Clone, Copy)]
pub struct ReplicaView<'a> {
    /// The node it lives on.
    pub node: NodeId,
    /// Its group.
    pub group: GroupId,
    /// Its name within the group.
    pub replica: ReplicaId,
    /// The life of its node.
    pub incarnation: Incarnation,
    /// Its term.
    pub term: Term,
    /// Whom it voted for in this term.
    pub vote: Option<ReplicaId>,
    /// What it is.
    pub role: RoleKind,
    /// Who leads this term, as far as it knows.
    pub leader: Option<ReplicaId>,
    /// Committed up to here.
    pub commit: LogIndex,
    /// May be applied up to here.
    pub appliable: LogIndex,
    /// In the page cache up to here.
    pub written: LogIndex,
    /// On disk up to here.
    pub durable: LogIndex,
    /// The end of its log.
    pub last: LogIndex,
    /// The last index its snapshot covers; the log holds what follows.
    pub base: LogIndex,
    /// The term at `base`.
    pub base_term: Term,
    /// The prefix known to be equal to the log of this term's leader. A leader's own log is.
    pub verified: LogIndex,
    /// The configuration it acts under.
    pub membership: MembershipView<'a>,
    /// When it would stop serving reads from its lease, on the common virtual clock; `None`
    /// without a lease.
    pub lease_until: Option<Micros>,
    /// Whether it sleeps until somebody speaks.
    pub activity: Activity,
    /// When it wants to be stepped next if nothing happens, on any clock.
    pub next_deadline: Option<Micros>,
    /// Requests, appends and persist operations it waits for.
    pub in_flight: u64,
    /// Whether it may have forgotten promises.
    pub promises: Promises,
    /// Why it is mute, if it is.
    pub fault: Option<&'a Fault>,
    /// Its log, from `base` to `last`.
    pub log: &'a dyn LogView,
}

/// A configuration as one replica has it. The lists are sorted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct MembershipView<'a> {
    /// Where its entry lies; zero for the one the group was created with. It counts as committed
    /// when the replica's commit index has reached it.
    pub index: LogIndex,
    /// Who votes.
    pub voters: &'a [ReplicaId],
    /// The voters of the configuration being left; empty unless joint.
    pub outgoing: &'a [ReplicaId],
    /// Who receives entries and does not vote.
    pub learners: &'a [ReplicaId],
}

/// Whether a replica sleeps.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Activity {
    /// It beats or listens for beats.
    Awake,
    /// It has nothing to do and asked for no deadline.
    Quiesced,
    /// It takes no office, and so needs no deadline while it does not lead.
    Withheld,
}

/// Whether a replica remembers what it promised.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Promises {
    /// It does.
    Kept,
    /// It may not: until it has passed a fence it neither votes nor counts.
    Lost,
}

/// A replica's log, entry by entry.
pub trait LogView {
    /// The entry at `index`, or `None` outside of `base + 1 ..= last`.
    fn entry(&self, index: LogIndex) -> Option<EntryIdentity>;

    /// Its term. Worth an own implementation where terms are kept as runs.
    fn term(&self, index: LogIndex) -> Option<Term> {
        self.entry(index).map(|entry| entry.term)
    }
}

/// What makes two entries the same entry.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct EntryIdentity {
    /// The term it was made in.
    pub term: Term,
    /// A hash of its kind and payload.
    pub hash: u64,
    /// Whether it changes the membership.
    pub class: EntryClass,
}

/// Whether an entry changes the membership.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum EntryClass {
    /// A command, a no-op: anything that leaves the membership alone.
    Plain,
    /// A configuration, active from the moment it is appended.
    Config,
}

/// What lies on the disks, which the profile knows for crashed nodes as well.
pub trait Disks {
    /// Whether this replica would find the entry of this index and term after a crash at this
    /// moment, in its log or under its snapshot.
    ///
    /// Under a mode that commits on written entries: whether it holds the entry in the sense that
    /// mode counts.
    fn holds(&self, group: GroupId, replica: ReplicaId, index: LogIndex, term: Term) -> bool;

    /// The same, without what it held once and has lost with its machine's memory. That may still be
    /// counted by whoever was told of it.
    fn finds(&self, group: GroupId, replica: ReplicaId, index: LogIndex, term: Term) -> bool {
        self.holds(group, replica, index, term)
    }

    /// Whether it would find the entry after its machine has lost power, however its group counts.
    fn is_on_disk(&self, group: GroupId, replica: ReplicaId, index: LogIndex, term: Term) -> bool {
        self.holds(group, replica, index, term)
    }

    /// The term and vote this replica would find after a crash at this moment; `None` if the
    /// profile cannot tell, and then only a real restart will.
    fn hard_state(&self, group: GroupId, replica: ReplicaId) -> Option<HardState>;
}

/// What a message has promised its receiver once it has left the node.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Promise {
    /// "I have reached this term": any message but a pre-vote's.
    Term(Term),
    /// "My vote of this term is given": a grant, and a candidate's own request for its own.
    Vote {
        /// The term.
        term: Term,
        /// Who has it.
        candidate: ReplicaId,
    },
    /// "My disk holds the leader's log up to this entry": an acknowledged append or snapshot.
    Held {
        /// The last such entry.
        index: LogIndex,
        /// Its term, not the sender's.
        term: Term,
    },
}
