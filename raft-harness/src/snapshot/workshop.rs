//! The slow work on snapshots: writing down what machines give, making machines of what came,
//! removing what is not needed any more.
//!
//! It is apart from the [desk](super::desk), so that nobody who asks for bytes waits until
//! something else is written, synced or restored. One job after the other, as whoever drives it
//! says; what a leader offered goes before what is only taken here, because a replica waits for
//! it.
//!
//! Bounds: one taking and one restoring per group (the engine's rule and the desk's).

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use raft_core::{GroupId, GroupIncarnation, LogIndex, SnapshotMeta};
use raft_storage::{LiveEntries, is_out_of_descriptors};
use tracing::{error, info, warn};

use super::blocks::Compression;
use super::desk::Wanted;
use super::format::{self, Left, Restored, restore};
use super::shelf::Shelf;
use super::store::{SnapshotName, SnapshotPart};
use crate::engine::EngineInput;
use crate::engine::panics::at_work_for;
use crate::state_machine::{RestoreError, SnapshotPieces};

/// One thing to be done.
pub(crate) enum Job {
    /// Write a machine's state down.
    Take(Box<Taking>),
    /// Make a machine of bytes that came.
    Restore {
        wanted: Box<Wanted>,
        /// All bytes, and not whole yet; `None` if the shelf has them already.
        part: Option<Box<dyn SnapshotPart>>,
    },
    /// A replica is gone, and all its snapshots.
    Forget(GroupId, GroupIncarnation),
    /// See whether one of ours is still what was written.
    Verify(SnapshotName),
}

/// A snapshot that is to be written down.
pub(crate) struct Taking {
    pub(crate) name: SnapshotName,
    pub(crate) meta: SnapshotMeta,
    pub(crate) left: Left,
    pub(crate) pieces: SnapshotPieces,
    /// Older ones of the group from here on may still be asked for.
    pub(crate) keep_from: LogIndex,
}

/// What came of a job.
pub(crate) enum Made {
    /// Tell the group's engine.
    Engine(GroupId, EngineInput),
    /// Nothing is made of this name any more.
    Over(SnapshotName),
    /// Nor of this one: what the shelf had was of no use, and is gone.
    Useless(Box<Wanted>),
    /// Nor of this one yet: the log lacks these entries, of about so many bytes each.
    Lacking(Box<Wanted>, LiveEntries, u64),
    /// One of ours can serve nobody.
    Rotten(SnapshotName),
}

/// What came of making a machine.
enum Attempt {
    Restored(Restored),
    Lacking(LiveEntries, u64),
}

pub(crate) struct Workshop {
    shelf: Arc<Shelf>,
    /// How snapshots are written here.
    compression: Compression,
    /// What a replica waits for, and what ends one.
    pressing: VecDeque<Job>,
    takings: VecDeque<Box<Taking>>,
}

impl Workshop {
    pub(crate) fn new(shelf: Arc<Shelf>, compression: Compression) -> Self {
        Self { shelf, compression, pressing: VecDeque::new(), takings: VecDeque::new() }
    }

    pub(crate) fn add(&mut self, job: Job) {
        match job {
            Job::Take(taking) => self.takings.push_back(taking),
            // In their order: what is restored of a replica that leaves is forgotten with it.
            job @ (Job::Restore { .. } | Job::Forget(..) | Job::Verify(_)) => {
                self.pressing.push_back(job);
            }
        }
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.pressing.is_empty() && self.takings.is_empty()
    }

    /// Does one job, if there is any.
    pub(crate) fn work(&mut self, out: &mut Vec<Made>) {
        match self.pressing.pop_front() {
            Some(Job::Restore { wanted, part }) => self.restore(wanted, part, out),
            Some(Job::Forget(group, incarnation)) => {
                if !raft_core::planted!(SnapshotsLeftBehind) {
                    let names = self.shelf.of(group, incarnation);
                    self.remove(names.into_iter());
                }
                out.push(Made::Engine(group, EngineInput::SnapshotsForgotten(group)));
            }
            Some(Job::Verify(name)) => self.verify(name, out),
            Some(Job::Take(taking)) => self.take(*taking, out),
            None => {
                if let Some(taking) = self.takings.pop_front() {
                    self.take(*taking, out);
                }
            }
        }
    }

    fn take(&self, taking: Taking, out: &mut Vec<Made>) {
        let Taking { name, meta, left, pieces, keep_from } = taking;
        // The pieces are the machine's own work still.
        let write = || format::write(&self.shelf, name, (&meta, &left), pieces, self.compression);
        let written =
            at_work_for(name.group, write).unwrap_or_else(|why| Err(std::io::Error::other(why)));
        match &written {
            Ok(_) => {
                let names = self.shelf.of(name.group, name.incarnation);
                let older = |other: &SnapshotName| other.index < name.index.min(keep_from);
                self.remove(names.into_iter().filter(older));
            }
            Err(error) => {
                warn!(group = %name.group, index = %name.index, %error, "no snapshot was taken");
            }
        }
        out.push(Made::Engine(name.group, EngineInput::SnapshotDone(name, written.ok())));
    }

    /// One that is damaged is removed, so that nobody begins with it either.
    fn verify(&self, name: SnapshotName, out: &mut Vec<Made>) {
        let Err(error) = format::verify(self.shelf.store(), name) else { return };
        match &error {
            // Another build may read what this one cannot.
            RestoreError::Unsupported { .. } | RestoreError::UnknownCodec { .. } => return,
            RestoreError::Io(io) if is_out_of_descriptors(io) => return,
            // Perhaps it can be read again one day: it stays until another takes its place.
            RestoreError::Io(io) if io.kind() != io::ErrorKind::NotFound => {}
            RestoreError::Io(_)
            | RestoreError::Damaged(_)
            | RestoreError::Refused(_)
            | RestoreError::EntriesMissing { .. }
            | RestoreError::BodyLost(_) => self.remove([name].into_iter()),
        }
        error!(group = %name.group, index = %name.index, %error, "a snapshot of this node is damaged");
        out.push(Made::Rotten(name));
    }

    fn restore(
        &self,
        wanted: Box<Wanted>,
        part: Option<Box<dyn SnapshotPart>>,
        out: &mut Vec<Made>,
    ) {
        let name = wanted.name;
        let group = name.group;
        let fetched = part.is_some();
        match self.make_machine(&wanted, part) {
            Ok(Attempt::Lacking(missing, each)) => {
                let count = missing.count();
                info!(%group, index = %name.index, count, "a snapshot came, entries are to come");
                out.push(Made::Lacking(wanted, missing, each));
            }
            Ok(Attempt::Restored(restored)) => {
                info!(%group, index = %name.index, "a snapshot came");
                let input = EngineInput::SnapshotFetched(name, Box::new(restored));
                out.extend([Made::Over(name), Made::Engine(group, input)]);
            }
            Err(why) => {
                warn!(%group, index = %name.index, from = %wanted.node, why, "a snapshot is of no use");
                self.remove([name].into_iter());
                if fetched {
                    let input = EngineInput::SnapshotFetchFailed(name);
                    out.extend([Made::Over(name), Made::Engine(group, input)]);
                } else {
                    out.push(Made::Useless(wanted));
                }
            }
        }
    }

    /// All bytes are here: makes a machine of them.
    fn make_machine(
        &self,
        wanted: &Wanted,
        part: Option<Box<dyn SnapshotPart>>,
    ) -> Result<Attempt, String> {
        let Wanted { name, meta, maker, spec, .. } = wanted;
        if let Some(part) = part {
            self.shelf.put(*name, part).map_err(|error| error.to_string())?;
        }
        let new = maker(spec);
        let left = format::left(self.shelf.store(), *name).map_err(|error| error.to_string())?;
        let missing = new.bodies.as_ref().map(|bodies| bodies.missing(&left.live));
        if let Some(missing) = missing.filter(|missing| !missing.is_empty()) {
            return Ok(Attempt::Lacking(missing, left.bytes / left.live.count()));
        }
        let restored = restore(self.shelf.store(), *name, new);
        let restored = restored.map_err(|error| error.to_string())?;
        let of = |meta: &SnapshotMeta| (meta.config_index, Arc::clone(&meta.membership));
        if of(&restored.meta) == of(meta) {
            Ok(Attempt::Restored(restored))
        } else {
            Err("it stands for something else than was offered".to_owned())
        }
    }

    /// One that cannot be removed keeps no other.
    fn remove(&self, names: impl Iterator<Item = SnapshotName>) {
        for name in names {
            if let Err(error) = self.shelf.remove(name) {
                warn!(%name, %error, "a useless snapshot stays");
            }
        }
    }
}
