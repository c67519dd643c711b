//! Why a command failed, which exit code that is, and what to do about it.

use std::error::Error;
use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use raft_mux::MuxError;
use raft_storage::{InitError, OpenError, is_out_of_descriptors, is_out_of_room};

use crate::config::Problems;
use crate::demo::DemoError;
use crate::node::{CreateError, StartError};
use crate::status::AdminError;

/// The documented exit codes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Exit {
    /// All is well.
    Ok,
    /// A claim did not hold, or there is a warning.
    Warning,
    /// Wrong usage or configuration, or a port is taken.
    Usage,
    /// The data directory: not initialised, locked, foreign, or damaged.
    Data,
    /// The node cannot be reached.
    Unreachable,
    /// The log or a thread of the node failed while it ran.
    Failed,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        match exit {
            Exit::Ok => 0,
            Exit::Warning => 1,
            Exit::Usage => 2,
            Exit::Data => 3,
            Exit::Unreachable => 4,
            Exit::Failed => 5,
        }
        .into()
    }
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum CliError {
    /// The configuration is wrong; each problem says what to do.
    #[error("{0}")]
    Config(Problems),
    /// Options that go together only in part.
    #[error("{0}")]
    Usage(&'static str),
    /// A data directory was not made.
    #[error(transparent)]
    Init(InitError),
    /// A log cannot be looked at.
    #[error(transparent)]
    Log(OpenError),
    /// A node did not start.
    #[error(transparent)]
    Start(StartError),
    /// The groups on disk are not those of the configuration.
    #[error(transparent)]
    Create(CreateError),
    /// A client or admin port cannot be opened.
    #[error("cannot listen on {address} for {purpose}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What it is for.
        purpose: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The front cannot describe the cluster.
    #[error("the client ports cannot start: {0}")]
    Front(String),
    /// The log or a thread of the node failed while it ran.
    #[error("this node failed and acknowledges nothing any more: {0}")]
    Failed(String),
    /// A name leads nowhere.
    #[error("cannot find {name}")]
    Lookup {
        /// The name.
        name: String,
        /// What the resolver said.
        source: io::Error,
    },
    /// A node did not answer.
    #[error(transparent)]
    Admin(AdminError),
    /// The demo could not be carried out.
    #[error(transparent)]
    Demo(DemoError),
    /// What was asked for was found, and could not be written.
    #[error("the result cannot be written")]
    Output(#[source] io::Error),
    /// A file could not be written.
    #[error("{}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Something is there already that would be made.
    #[error("{} exists already", path.display())]
    Exists {
        /// What.
        path: PathBuf,
    },
    /// The operating system refused something that should always work.
    #[error("{what}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What it said.
        source: io::Error,
    },
}

impl CliError {
    /// The exit code.
    pub(super) fn exit(&self) -> Exit {
        match self {
            Self::Config(_) | Self::Usage(_) | Self::Listen { .. } | Self::Front(_) => Exit::Usage,
            Self::File { .. } | Self::Exists { .. } => Exit::Data,
            // Nothing is wrong with what is there.
            Self::Init(InitError::Io { source, .. })
            | Self::Log(OpenError::Io { source, .. })
            | Self::Start(StartError::Directory(source))
            | Self::Start(StartError::Log(OpenError::Io { source, .. }))
                if is_out_of_room(source) || is_out_of_descriptors(source) =>
            {
                Exit::Warning
            }
            Self::Log(_) => Exit::Data,
            Self::Init(error) => match error {
                InitError::ClusterName { .. } => Exit::Usage,
                _ => Exit::Data,
            },
            // So is a process that was given too few of them, whatever it wanted one for.
            Self::Start(_) if self.system_error().is_some_and(is_out_of_descriptors) => {
                Exit::Warning
            }
            Self::Start(error) => match error {
                StartError::Settings(_)
                | StartError::Options(_)
                | StartError::SleepNotBuilt
                | StartError::Mux(_)
                | StartError::Tls(_)
                | StartError::Network(_) => Exit::Usage,
                StartError::Log(OpenError::SegmentBytes { .. }) => Exit::Usage,
                StartError::Log(_)
                | StartError::Directory(_)
                | StartError::UnreadableSpec { .. } => Exit::Data,
                StartError::Thread(_) => Exit::Warning,
            },
            Self::Create(error) => match error {
                CreateError::SpecDiffers { .. }
                | CreateError::ReplicaUsed { .. }
                | CreateError::MayBeForgotten { .. } => Exit::Data,
                CreateError::FlushPolicy { .. } | CreateError::BadSpec { .. } => Exit::Usage,
                CreateError::Stopping => Exit::Failed,
            },
            Self::Failed(_) => Exit::Failed,
            Self::Admin(_) | Self::Lookup { .. } => Exit::Unreachable,
            Self::Demo(error) => match error {
                DemoError::NotEmpty { .. } => Exit::Data,
                DemoError::Files { .. }
                | DemoError::Ports { .. }
                | DemoError::Init { .. }
                | DemoError::Spawn { .. }
                | DemoError::Ended { .. }
                | DemoError::NotReady { .. } => Exit::Warning,
            },
            Self::Output(_) | Self::System { .. } => Exit::Warning,
        }
    }

    /// What to do about it, where that is known.
    fn help(&self) -> Option<&'static str> {
        if self.system_error().is_some_and(is_out_of_descriptors) {
            return Some(DESCRIPTORS);
        }
        let help = match self {
            Self::Init(InitError::AlreadyInitialised { .. }) => {
                "nothing to do if it is this node's; otherwise name another directory"
            }
            Self::Exists { .. } => "nothing was written; name another directory",
            Self::Init(InitError::NotEmpty { .. }) => "name an empty or missing directory",
            Self::Init(InitError::Locked { .. })
            | Self::Start(StartError::Log(OpenError::Locked { .. })) => {
                "is the node running already? Each node needs a directory of its own"
            }
            Self::Log(OpenError::Locked { .. }) => {
                "stop the node first, or look at a copy of the directory"
            }
            Self::Log(OpenError::NotInitialised { .. }) => "name the data directory of a node",
            Self::Init(InitError::Io { source, .. })
            | Self::Start(StartError::Directory(source))
            | Self::Start(StartError::Log(OpenError::Io { source, .. }))
                if is_out_of_room(source) =>
            {
                "the disk is full, or a quota is: nothing is lost. Make room, then repeat this"
            }
            Self::Start(StartError::Directory(source))
                if source.kind() == io::ErrorKind::InvalidData =>
            {
                "check the disk, and keep a copy of the file. `peer-stores` remembers which data \
                 directories the peers had: without it this node takes every peer as it comes, so \
                 move it away only if none of them was wiped or put back. `lives` cannot be made \
                 again: start this node empty, under a new id"
            }
            Self::Start(StartError::Log(error)) => match error {
                OpenError::NotInitialised { .. } => {
                    "run `raftd init --config <file>` once. If this node had data before, do not: \
                     its peers will refuse it, because what it promised is gone"
                }
                OpenError::ForeignCluster { .. } | OpenError::ForeignNode { .. } => {
                    "correct `node.data_dir`, `node.cluster` or `node.id`"
                }
                OpenError::Corrupt { .. } | OpenError::IdentityDamaged { .. } => {
                    "do not delete anything: the other replicas are intact. Check the disk, keep a copy \
                     of the directory, and see what `raftd log verify` says of it. What a node can \
                     repair by itself it does: this says that it cannot know what is lost. Let \
                     this node come back empty, under a new id"
                }
                OpenError::DiskUnreadable { .. } => {
                    "nothing is known to be lost: it is the disk, or the way to it. See what the \
                     system says of it (`dmesg`), mend that, then repeat this"
                }
                OpenError::Unsupported { .. } => {
                    "use the version of raftd that wrote it, or a newer one"
                }
                _ => return None,
            },
            Self::Start(StartError::Mux(MuxError::Bind { .. })) | Self::Listen { .. } => {
                "is another process listening there? `ss -ltnp` tells which"
            }
            Self::Create(CreateError::SpecDiffers { .. }) => {
                "`groups.count` and the set of peers are fixed when a cluster is first started; \
                 restore what they were"
            }
            Self::Create(CreateError::MayBeForgotten { .. }) => {
                "let this node come back empty, under a new id; the other replicas are intact"
            }
            Self::Failed(failure) if failure.contains(" panicked") => {
                "this is a bug, of raftd or of the state machine that is named: keep what this node \
                 logged. Started again, it recovers what it had acknowledged"
            }
            Self::Failed(failure) if is_descriptors(failure) => DESCRIPTORS,
            Self::Failed(_) => {
                "check the disk (full? failing? `dmesg`), then start the node again: it recovers \
                 what it had acknowledged"
            }
            Self::Admin(AdminError::Unreachable { .. } | AdminError::Timeout { .. }) => {
                "is the node running, and is this the address in its `listen.admin`?"
            }
            Self::Demo(DemoError::NotReady { .. } | DemoError::Ended { .. }) => {
                "the nodes' own logs are in the folder, one file per node"
            }
            _ => return None,
        };
        Some(help)
    }

    /// What the operating system said, wherever it is among the causes.
    fn system_error(&self) -> Option<&io::Error> {
        let mut source = self.source();
        while let Some(error) = source {
            if let Some(system) = error.downcast_ref::<io::Error>() {
                return Some(system);
            }
            source = error.source();
        }
        None
    }

    /// The whole story for standard error: what happened, because of what, and what to do.
    pub(super) fn tell(&self) -> String {
        if let Self::Config(problems) = self {
            return problems.to_string();
        }
        let mut text = format!("error: {self}");
        let mut source = self.source();
        while let Some(error) = source {
            // Writing to a string cannot fail.
            let _ = write!(text, "\n  because: {error}");
            source = error.source();
        }
        if let Some(help) = self.help() {
            let _ = write!(text, "\n  help: {help}");
        }
        text
    }
}

const DESCRIPTORS: &str = "the process ran out of file descriptors; the disk is not to blame. \
     Raise the limit (`ulimit -Hn`, or `LimitNOFILE=` of systemd), then start the node again: it \
     recovers what it had acknowledged";

/// Whether a failure, told with its causes, is for lack of file descriptors (`EMFILE`, `ENFILE`).
fn is_descriptors(failure: &str) -> bool {
    failure.to_ascii_lowercase().contains("too many open files")
}

impl From<Problems> for CliError {
    fn from(problems: Problems) -> Self {
        Self::Config(problems)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_disk_is_not_blamed_for_a_lack_of_file_descriptors() {
        for code in [24, 23] {
            let system = io::Error::from_raw_os_error(code);
            let told = CliError::Failed(format!("cannot prepare a segment: {system}")).tell();
            assert!(told.contains("LimitNOFILE") && !told.contains("dmesg"), "{told}");
            assert!(told.contains(&system.to_string()), "{told}");
        }
        let told = CliError::Failed("cannot flush: no space left on device".to_owned()).tell();
        assert!(told.contains("dmesg"), "{told}");
    }

    #[test]
    fn whoever_lacks_descriptors_is_told_so_wherever_it_shows() {
        let none = || io::Error::from_raw_os_error(24);
        for error in [
            CliError::System { what: "cannot start a runtime", source: none() },
            CliError::Start(StartError::Thread(none())),
            CliError::File { path: "/etc/node.toml".into(), source: none() },
        ] {
            assert!(error.tell().contains("LimitNOFILE"), "{}", error.tell());
        }
    }

    #[test]
    fn a_damaged_file_comes_with_advice() {
        let why = "/data/peer-stores: it fails its checksum";
        let source = io::Error::new(io::ErrorKind::InvalidData, why);
        let told = CliError::Start(StartError::Directory(source)).tell();
        assert!(told.contains(why) && told.contains("check the disk"), "{told}");
    }

    #[test]
    fn a_full_disk_is_not_called_damage() {
        let full = || io::Error::from(io::ErrorKind::StorageFull);
        let dir = "/data".to_owned();
        for error in [
            CliError::Init(InitError::Io { dir: dir.clone(), source: full() }),
            CliError::Start(StartError::Log(OpenError::Io { dir, source: full() })),
            CliError::Start(StartError::Directory(full())),
        ] {
            assert_eq!(error.exit(), Exit::Warning);
            assert!(error.tell().contains("Make room"), "{}", error.tell());
        }
        let source = io::Error::from_raw_os_error(24);
        let error = CliError::Start(StartError::Directory(source));
        assert_eq!(error.exit(), Exit::Warning);
        assert!(error.tell().contains("LimitNOFILE"), "{}", error.tell());
    }

    #[test]
    fn an_error_says_what_why_and_what_to_do() {
        let dir = "/data".to_owned();
        let error = CliError::Start(StartError::Log(OpenError::NotInitialised { dir }));
        assert_eq!(error.exit(), Exit::Data);
        assert!(error.tell().contains("raftd init"), "{}", error.tell());
        let address = SocketAddr::from(([127, 0, 0, 1], 6371));
        let source = io::Error::from(io::ErrorKind::AddrInUse);
        let error = CliError::Listen { address, purpose: "cluster clients", source };
        assert_eq!(error.exit(), Exit::Usage);
        let told = error.tell();
        assert!(told.contains("127.0.0.1:6371") && told.contains("because: "), "{told}");
        assert!(told.contains("help: "), "{told}");
    }
}
