//! Why the demo could not be carried out. (That a claim failed is not an error: it is a result.)

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DemoError {
    /// The folder is not ours to use.
    #[error("{} is not empty; name an empty or missing folder", .directory.display())]
    NotEmpty {
        /// The folder.
        directory: PathBuf,
    },
    /// The folder cannot be used.
    #[error("cannot write in {}", .directory.display())]
    Files {
        /// The folder.
        directory: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There are no free ports.
    #[error("cannot find free loopback ports")]
    Ports {
        /// What the system said.
        source: io::Error,
    },
    /// A data directory was not made.
    #[error("cannot initialise node {node}: {reason}")]
    Init {
        /// The node.
        node: u64,
        /// Why.
        reason: String,
    },
    /// A process was not started.
    #[error("cannot start node {node}")]
    Spawn {
        /// The node.
        node: u64,
        /// What the system said.
        source: io::Error,
    },
    /// A node ended by itself.
    #[error("{last_words}")]
    Ended {
        /// Which, how, and the end of its log.
        last_words: String,
    },
    /// The cluster did not come up.
    #[error("not ready after {limit:?}: {missing}")]
    NotReady {
        /// How long it was waited for.
        limit: Duration,
        /// What is missing.
        missing: String,
    },
}
