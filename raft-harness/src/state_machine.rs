//! What is replicated: the application's side of the engine.

use bytes::Bytes;
use raft_core::{Entry, GroupId, LogIndex};

use crate::bodies::Bodies;
use crate::group_spec::GroupSpec;

/// Where a state machine's work is done.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ApplyMode {
    /// On an apply worker: a slow command of one group delays no other group's consensus.
    Worker,
    /// On the shard's own thread, saving two hand-overs per command. Only for machines whose
    /// every command takes microseconds.
    Inline,
}

/// A deterministic state machine, one per group.
///
/// Every replica applies the same entries in the same order, so the outcome may depend on the
/// entries alone: not on the clock, not on randomness, not on the node. [`Entry::time`] is the
/// one clock all replicas agree on.
///
/// A command that cannot be carried out is an output that says so. A panic in
/// [`apply`](Self::apply) faults the group on this node and nothing else: clients of the entries are answered as
/// unknown, the machine is not asked again, and the status says what it panicked with. The entry is in the
/// log, so a restart comes to the same place, and all replicas that apply it do; a program that can apply it
/// goes on from there. A panic in [`read`](Self::read), [`digest`](Self::digest) or [`snapshot`](Self::snapshot) costs
/// that answer or that snapshot, one in [`restore`](Self::restore) is a refusal.
pub trait StateMachine: Send + 'static {
    /// Applies committed entries in order and pushes exactly one output per entry; the output
    /// goes to whoever proposed the command. No-ops and memberships come
    /// too: they carry log time, and their payloads are the engine's own business.
    ///
    /// With more outputs or fewer nobody can tell whose they are. All clients of the entries are
    /// answered as unknown then, and the group is faulted on this node: it takes no part any more,
    /// and its status says why.
    fn apply(&mut self, entries: &[Entry], outputs: &mut Vec<Bytes>);

    /// Answers a query from the applied state, changing nothing.
    fn read(&self, query: &[u8]) -> Bytes;

    /// A digest of the whole state: equal on all replicas that applied the same index.
    fn digest(&self) -> u64;

    /// The whole state as it is now, in pieces of at most 256 MiB, for
    /// [`restore`](Self::restore). They are taken one after the other on another thread, while
    /// commands go on; they must show the state of this moment all the same. `None`, the default:
    /// this machine has no snapshots, and its group's log grows for ever.
    fn snapshot(&self) -> Option<SnapshotPieces> {
        None
    }

    /// Takes on the state that [`snapshot`](Self::snapshot) gave, here or on another node. Called
    /// on a fresh machine, on any thread, before anything is applied.
    ///
    /// # Errors
    /// The machine is thrown away then. [`RestoreError::Refused`] for pieces it cannot take.
    fn restore(&mut self, pieces: &mut dyn Iterator<Item = Bytes>) -> Result<(), RestoreError> {
        let _ = pieces;
        Err(RestoreError::Refused("this machine has no snapshots".to_owned()))
    }

    /// Whether it leaves the payloads of commands in the log and keeps their indexes. Asked once, at
    /// creation; the machine is then given [`Bodies`] to read them by, and asked for
    /// [`live_entries`](Self::live_entries) with every snapshot. The default: no.
    fn keeps_entries(&self) -> bool {
        false
    }

    /// Gives it what it reads payloads by; once, before anything else.
    fn attach(&mut self, bodies: Bodies) {
        let _ = bodies;
    }

    /// Which commands it must still be able to read, by index, ascending: part of the state that
    /// [`snapshot`](Self::snapshot) shows, and asked for right behind that. Their payloads stay in the
    /// log and are no part of the snapshot's pieces. A payload goes when the snapshot that does not
    /// name it any more is durable, not when the machine lets go of it; so it is there after a restart
    /// from an older one. What a snapshot did not name cannot be named again.
    ///
    /// Naming anything else (an entry that was let go of, a no-op, a membership) breaks the contract,
    /// as a wrong number of outputs does.
    fn live_entries(&self) -> Box<dyn Iterator<Item = LogIndex> + '_> {
        Box::new(std::iter::empty())
    }

    /// Where to run. Asked once, at creation.
    fn mode(&self) -> ApplyMode {
        ApplyMode::Worker
    }
}

/// A machine's state in pieces.
pub type SnapshotPieces = Box<dyn Iterator<Item = Bytes> + Send>;

/// Why no machine was made of a snapshot.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// The machine cannot take it; in its words.
    #[error("the state machine refused it: {0}")]
    Refused(String),
    /// It leaves payloads in the log that the log of this node does not hold.
    #[error("{count} entries that it names are not in the log, the first is {first}")]
    EntriesMissing {
        /// The first of them.
        first: LogIndex,
        /// How many there are.
        count: u64,
    },
    /// A payload it leaves in the log cannot be read.
    #[error(transparent)]
    BodyLost(#[from] crate::bodies::BodyLost),
    /// Its bytes are not those that were written.
    #[error("the snapshot is damaged: {0}")]
    Damaged(&'static str),
    /// Written by a version that is newer than this.
    #[error("a snapshot of format {format} is not known here")]
    Unsupported {
        /// The format found.
        format: u16,
    },
    /// Compressed in a way that this build cannot read: by a newer version, or with the feature `zstd`.
    #[error("a block is compressed with codec {codec}, which this build does not have (2: zstd)")]
    UnknownCodec {
        /// The number found.
        codec: u8,
    },
    /// It could not be read.
    #[error("the snapshot cannot be read")]
    Io(#[from] std::io::Error),
}

/// Makes the state machine of a group, empty: a snapshot is restored into it, or the log replayed.
pub trait StateMachineFactory: Send + Sync + 'static {
    /// Called once for each group, at creation and at every restart, and once for each snapshot
    /// that is taken over; it should not take long.
    fn create(&self, group: GroupId, spec: &GroupSpec) -> Box<dyn StateMachine>;
}

impl<F> StateMachineFactory for F
where
    F: Fn(GroupId, &GroupSpec) -> Box<dyn StateMachine> + Send + Sync + 'static,
{
    fn create(&self, group: GroupId, spec: &GroupSpec) -> Box<dyn StateMachine> {
        self(group, spec)
    }
}
