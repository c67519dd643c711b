//! The folder the nodes live in: removed when all went well, kept when somebody may want to look.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::error::DemoError;
use super::options::DemoOptions;

#[derive(Debug)]
pub(super) enum Folder {
    /// Ours to remove.
    Temporary(TempDir),
    /// Somebody named it, or wants to keep it.
    Kept(PathBuf),
}

impl Folder {
    pub(super) fn make(options: &DemoOptions) -> Result<Self, DemoError> {
        if let Some(directory) = &options.data_dir {
            let files = |source| DemoError::Files { directory: directory.clone(), source };
            fs::create_dir_all(directory).map_err(files)?;
            if fs::read_dir(directory).map_err(files)?.next().is_some() {
                return Err(DemoError::NotEmpty { directory: directory.clone() });
            }
            // The nodes' configurations name it, and they run elsewhere in principle.
            return Ok(Self::Kept(directory.canonicalize().map_err(files)?));
        }
        let directory = std::env::temp_dir();
        let made = tempfile::Builder::new()
            .prefix("raftd-demo-")
            .tempdir_in(&directory)
            .map_err(|source| DemoError::Files { directory, source })?;
        Ok(if options.keep { Self::Kept(made.keep()) } else { Self::Temporary(made) })
    }

    pub(super) fn path(&self) -> &Path {
        match self {
            Self::Temporary(directory) => directory.path(),
            Self::Kept(directory) => directory,
        }
    }

    /// Keeps it from now on.
    pub(super) fn keep(self) -> Self {
        match self {
            Self::Temporary(directory) => Self::Kept(directory.keep()),
            Self::Kept(directory) => Self::Kept(directory),
        }
    }

    /// Its path, if it stays.
    pub(super) fn kept(&self) -> Option<&Path> {
        match self {
            Self::Temporary(_) => None,
            Self::Kept(directory) => Some(directory),
        }
    }
}
