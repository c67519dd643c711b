//! Why a node does not start, or a group is not created.

use std::io;
use std::path::PathBuf;

use raft_core::{GroupId, ReplicaId, SettingsError};
use raft_mux::MuxError;
use raft_transport::NetworkError;

use crate::group_spec::GroupSpec;

/// Why a node did not start. What had been started was stopped again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The timing contradicts itself.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The options contradict themselves.
    #[error("{0}")]
    Options(String),
    /// Groups that sleep are asked for. A sleeping group does not notice by itself that its leader
    /// died, and nobody here tells it yet, so it would stay without one until it is asked for
    /// something.
    #[error(
        "groups that sleep do not notice yet that their leader died: leave `quiesce_after` out"
    )]
    SleepNotBuilt,
    /// The data directory cannot be used.
    #[error(transparent)]
    Log(#[from] raft_storage::OpenError),
    /// The port cannot be opened.
    #[error(transparent)]
    Mux(#[from] MuxError),
    /// The lanes cannot be opened on the port.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// The certificates cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsProblem),
    /// The memory of peers' data directories cannot be read.
    #[error("cannot read the data directory")]
    Directory(#[source] io::Error),
    /// The operating system gave no thread.
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
    /// The log holds a group whose spec this version cannot read.
    #[error("the log holds group {group} with a spec this version cannot read")]
    UnreadableSpec {
        /// Which group.
        group: GroupId,
    },
}

/// Why a node's certificates cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsProblem {
    /// This build has no TLS.
    #[error("this build has no TLS: the feature `tls` brings it")]
    NotBuilt,
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// No peer would take what is in the files.
    #[error("{}: {why}", path.display())]
    Unusable {
        /// The file that is to blame, as far as can be told.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

/// Why a group was not created.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CreateError {
    /// The id belongs to a group with another spec.
    #[error("group {} exists with another spec: it is {existing}; asked for was {wanted}", existing.group.get())]
    SpecDiffers {
        /// What the group is.
        existing: Box<GroupSpec>,
        /// What was asked for.
        wanted: Box<GroupSpec>,
    },
    /// The spec cannot be used; it says why.
    #[error("group {group}: {why}")]
    BadSpec {
        /// Which group.
        group: GroupId,
        /// What is wrong with the spec.
        why: &'static str,
    },
    /// The spec has a flush policy of its own that cannot work; it says why.
    #[error("group {group}: {why}")]
    FlushPolicy {
        /// Which group.
        group: GroupId,
        /// What contradicts what, with both values.
        why: String,
    },
    /// A replica of the group was on this node and was removed; its id, and any smaller one, may
    /// not be used again.
    #[error("group {group}: {last} was on this node, a new replica needs a larger id")]
    ReplicaUsed {
        /// Which group.
        group: GroupId,
        /// The replica that is gone.
        last: ReplicaId,
    },
    /// The log of this node was damaged where the group may have been: founded again it would not remember
    /// how it voted. It can join the group again, under a new replica id.
    #[error(
        "group {group} may have been on this node, whose log was damaged; it can only be joined"
    )]
    MayBeForgotten {
        /// Which group.
        group: GroupId,
    },
    /// The node is stopping, or its log failed.
    #[error("the node is stopping")]
    Stopping,
}
