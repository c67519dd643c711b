//! Looking at a log without opening it: is all of it sound, and what does it say?
//!
//! Nothing is written, not even where an open would cut a torn tail. A log that a node has open is not
//! looked at, and none opens one that is looked at: both would see it change.

pub(crate) mod dump;
pub(crate) mod verify;
mod walk;

#[cfg(unix)]
use std::path::Path;

use crate::checkpoint::files::{self as checkpoint, Kept};
#[cfg(unix)]
use crate::disk::file_disk::FileDisk;
use crate::disk::readings::Readings;
use crate::disk::{Disk, DiskFile};
use crate::error::OpenError;
use crate::format::identity::{self, Identity, Life};
use crate::format::segment::{file_name, slot_of};
use crate::log::Log;
use crate::recover::frames::{Segment, read_header};

/// A log that is looked at. The directory cannot be opened by a node as long as this lives.
pub struct Inspection<D: Disk> {
    disk: D,
    identity: Identity,
    life: Life,
    _lock: D::Lock,
}

impl Log {
    /// Looks at the log in `dir`, which is only read.
    ///
    /// # Errors
    /// [`OpenError::Locked`] if a node has it open; [`OpenError::NotInitialised`] and
    /// [`OpenError::IdentityDamaged`] as an open says them.
    #[cfg(unix)]
    pub fn inspect(dir: &Path) -> Result<Inspection<FileDisk>, OpenError> {
        let name = dir.display().to_string();
        match FileDisk::open_to_read(dir) {
            Ok(disk) => Self::inspect_on(disk),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Err(OpenError::NotInitialised { dir: name })
            }
            Err(source) => Err(OpenError::Io { dir: name, source }),
        }
    }

    /// [`Log::inspect`] on any disk.
    ///
    /// # Errors
    /// As [`Log::inspect`].
    pub fn inspect_on<D: Disk>(disk: D) -> Result<Inspection<D>, OpenError> {
        let dir = || disk.describe();
        let io = |source| OpenError::Io { dir: disk.describe(), source };
        let missing = || OpenError::NotInitialised { dir: dir() };
        // Asked before the lock, which some disks leave a file behind for.
        identity::read(&disk)?.ok_or_else(missing)?;
        let lock = disk.try_lock().map_err(io)?.ok_or_else(|| OpenError::Locked { dir: dir() })?;
        let (identity, life) = identity::read(&disk)?.ok_or_else(missing)?;
        Ok(Inspection { disk, identity, life, _lock: lock })
    }
}

impl<D: Disk> Inspection<D> {
    /// Who the directory belongs to.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The last noted life of the node; zero if its log was never opened.
    pub fn incarnation(&self) -> raft_core::Incarnation {
        self.life.incarnation
    }

    /// The checkpoints that an open would go by, and every segment that one of them needs, in the order
    /// of the log.
    fn segments(&self, readings: &Readings) -> Result<(Kept, Vec<Segment>), OpenError> {
        let io = |source| OpenError::Io { dir: self.disk.describe(), source };
        let kept = checkpoint::load(&self.disk, self.identity.store, readings)?.kept;
        let mut segments = Vec::new();
        for slot in self.disk.list().map_err(io)?.iter().filter_map(|name| slot_of(name)) {
            let file = self.disk.open(&file_name(slot)).map_err(io)?;
            let bytes = file.bytes().map_err(io)?;
            let header = read_header((slot, &file), bytes, readings).map_err(io)?;
            let Ok(header) = header else { continue };
            if header.store == self.identity.store && kept.needs(slot, header.seq) {
                segments.push(Segment { slot, header });
            }
        }
        segments.sort_by_key(|segment| (segment.header.seq, segment.slot));
        Ok((kept, segments))
    }
}
