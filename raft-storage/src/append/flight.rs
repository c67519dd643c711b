//! What the disk is to do for a batch, as something that can be carried elsewhere.
//!
//! The log is written by two halves. The one prepares: it admits, plans and encodes, finds segments,
//! and leaves the calls of the disk behind as *steps*. The other makes those calls, in order, and
//! needs nothing of the first to do it: a [`Flight`] owns its frames and its files. So the next batch
//! is prepared while the disk is busy with the one before, by another thread where there is one; where
//! there is none (a simulator, a test) the same steps are made one after the other.
//!
//! Invariants:
//! - flights are made in the order in which they departed, and none before the one before it has
//!   ended well: so whatever a frame says of those before it is true when it is written;
//! - after a failed step no further one is made, in this flight or in a later one; one that found no
//!   room is made again first, for as long as the disk says, where that is allowed ([`RoomWait`]);
//! - the directory stays locked until the last flight is gone.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::append::encode::FrameBuffer;
use crate::append::preparation::Demand;
use crate::append::room_wait::RoomWait;
use crate::append::write::{AppendInfo, SyncInfo};
use crate::disk::{DiskFile, is_out_of_room};
use crate::error::{DiskOp, LogError};
use crate::format::identity::{Life, LifeFile};
use crate::format::lsn::Lsn;
use crate::format::segment::SegmentHeader;

/// What was staged, on its way to the disk. Made by [`LogStore::depart`](crate::LogStore::depart);
/// to be landed, and then given back to [`LogStore::land`](crate::LogStore::land).
///
/// One that is dropped instead is a failed write: what departs after it does not arrive.
pub struct Flight {
    info: AppendInfo,
    steps: Option<Box<dyn Steps>>,
    synced: SyncInfo,
    is_sync: bool,
}

/// What came of a [`Flight`].
pub struct Landing {
    pub(crate) number: u64,
    pub(crate) frames: Vec<FrameBuffer>,
    pub(crate) failure: Option<Failure>,
    synced: SyncInfo,
}

impl Flight {
    pub(crate) fn new(info: AppendInfo, steps: impl Steps) -> Self {
        Self { info, steps: Some(Box::new(steps)), synced: SyncInfo::default(), is_sync: false }
    }

    /// Of a sync and nothing else.
    pub(crate) fn beside(self) -> Self {
        Self { is_sync: true, ..self }
    }

    /// Of a store that has made everything durable already.
    pub(crate) fn over(info: AppendInfo, synced: SyncInfo) -> Self {
        Self { info, steps: None, synced, is_sync: false }
    }

    /// What it writes.
    pub fn info(&self) -> AppendInfo {
        self.info
    }

    /// Whether the store has done everything beforehand.
    pub fn is_over(&self) -> bool {
        self.steps.is_none()
    }

    /// Whether it is a sync and nothing else, beside which
    /// [`append_cached`](crate::LogStore::append_cached) may go on.
    pub fn is_sync(&self) -> bool {
        self.is_sync
    }

    /// How many steps are left, with one that has failed.
    pub fn steps(&self) -> usize {
        self.steps.as_ref().map_or(0, |steps| steps.left())
    }

    /// Makes the next step: a write, a sync, or what a new segment needs. `false`: there is none.
    pub fn step(&mut self) -> bool {
        self.steps.as_mut().is_some_and(|steps| steps.step())
    }

    /// Makes all steps that are left.
    pub fn land(mut self) -> Landing {
        while self.step() {}
        match self.steps {
            Some(steps) => steps.end(),
            None => Landing { number: 0, frames: Vec::new(), failure: None, synced: self.synced },
        }
    }
}

impl Landing {
    /// Whether all of it is durable.
    pub fn is_safe(&self) -> bool {
        self.failure.is_none()
    }

    /// What a store has said that did everything beforehand.
    pub(crate) fn synced(&self) -> SyncInfo {
        self.synced
    }
}

/// Why a step was not made: what was tried, and what the disk said.
pub(crate) type Failure = (DiskOp, io::Error);

/// The steps of a flight, whatever disk they are for.
pub(crate) trait Steps: Send + 'static {
    fn step(&mut self) -> bool;
    fn left(&self) -> usize;
    fn end(self: Box<Self>) -> Landing;
}

/// Something the disk is to do.
pub(crate) enum Step<F> {
    Frame {
        file: Arc<F>,
        frame: FrameBuffer,
        offset: u64,
        lsn: Lsn,
        until: Until,
    },
    Sync {
        file: Arc<F>,
    },
    /// The header of a new segment, durable before anything follows it.
    Segment {
        file: Arc<F>,
        header: SegmentHeader,
    },
    /// How far the log is durable, beside the log.
    Note(Life),
}

impl<F> Step<F> {
    /// Whether nothing is lost by it if it has failed for want of room: it writes bytes that nothing
    /// before them needs, all of them again, and makes none durable that another call wrote.
    fn may_be_repeated(&self) -> bool {
        match self {
            Self::Frame { .. } | Self::Segment { .. } => true,
            Self::Sync { .. } | Self::Note(_) => false,
        }
    }
}

/// How far a write of frames goes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Until {
    Written,
    /// Written, and not to the device yet.
    Cached,
    Durable,
}

/// Whose turn it is: the number of the flight that may be made.
pub(crate) type Turn = Arc<AtomicU64>;

/// What steps need beside their own.
pub(crate) struct Means<F> {
    pub(crate) life: Arc<LifeFile<F>>,
    pub(crate) demand: Arc<Demand>,
    pub(crate) room: RoomWait,
    /// [`Disk::wait_for_room`](crate::Disk::wait_for_room).
    pub(crate) wait: Arc<dyn Fn(u32) -> bool + Send + Sync>,
}

impl<F> Clone for Means<F> {
    fn clone(&self) -> Self {
        Self {
            life: Arc::clone(&self.life),
            demand: Arc::clone(&self.demand),
            room: self.room.clone(),
            wait: Arc::clone(&self.wait),
        }
    }
}

impl<F: DiskFile> Means<F> {
    /// Makes a step, again as long as there is no room for it; gives its frame back, if it had one.
    pub(crate) fn make(&self, mut step: Step<F>) -> Result<Option<FrameBuffer>, Failure> {
        let mut tries = 0_u32;
        let made = loop {
            match self.attempt(&mut step) {
                Err((_, error))
                    if is_out_of_room(&error)
                        && step.may_be_repeated()
                        && self.room.wait(|| (self.wait)(tries)) =>
                {
                    tries = tries.saturating_add(1);
                }
                made => break made,
            }
        };
        if tries > 0 || made.is_err() {
            self.room.ended();
        }
        match step {
            Step::Frame { mut frame, .. } => {
                frame.release();
                made.map(|()| Some(frame))
            }
            Step::Sync { .. } | Step::Segment { .. } | Step::Note(_) => made.map(|()| None),
        }
    }

    fn attempt(&self, step: &mut Step<F>) -> Result<(), Failure> {
        match step {
            Step::Frame { file, frame, offset, until, .. } => {
                let (offset, until) = (*offset, *until);
                self.demand.begin(frame.bytes());
                let written = {
                    let mut parts = frame.parts();
                    match until {
                        Until::Written => file.write_vectored_at(&mut parts, offset),
                        Until::Cached => file.write_cached_at(&mut parts, offset),
                        Until::Durable => file.write_durable_at(&mut parts, offset),
                    }
                };
                self.demand.end();
                let (op, written) = match until {
                    Until::Written | Until::Cached => (DiskOp::Write, written),
                    Until::Durable if raft_core::planted!(SyncErrorIgnored) => {
                        (DiskOp::Commit, Ok(()))
                    }
                    Until::Durable => (DiskOp::Commit, written),
                };
                written.map_err(|error| (op, error))
            }
            Step::Sync { file } => {
                let synced = file.sync_data();
                let synced = if raft_core::planted!(SyncErrorIgnored) { Ok(()) } else { synced };
                synced.map_err(|error| (DiskOp::Sync, error))
            }
            Step::Segment { file, header } => {
                let header = header.encode();
                file.write_vectored_at(&mut [io::IoSlice::new(&header)], 0)
                    .map_err(|error| (DiskOp::Write, error))?;
                file.sync_data().map_err(|error| (DiskOp::Sync, error))
            }
            Step::Note(life) => match self.life.store(*life) {
                // Some file systems need room even to overwrite. The note is evidence against
                // damage and nothing that was promised, and one of its copies is whole.
                Err(error) if !is_out_of_room(&error) => Err((DiskOp::Write, error)),
                _ => Ok(()),
            },
        }
    }
}

/// The steps of a flight to files.
pub(crate) struct Flying<F, L> {
    pub(crate) number: u64,
    pub(crate) turn: Turn,
    pub(crate) steps: VecDeque<Step<F>>,
    pub(crate) means: Means<F>,
    pub(crate) frames: Vec<FrameBuffer>,
    pub(crate) failure: Option<Failure>,
    /// All steps were made.
    pub(crate) is_over: bool,
    /// Held until the last write into the directory is over.
    pub(crate) _lock: Arc<Mutex<L>>,
}

impl<F: DiskFile, L: Send + 'static> Steps for Flying<F, L> {
    fn step(&mut self) -> bool {
        if self.is_over || self.failure.is_some() {
            return false;
        }
        if self.turn.load(Ordering::Acquire) != self.number {
            let early = io::Error::other("what departed before it has not arrived");
            self.failure = Some((DiskOp::Write, early));
            return false;
        }
        if let Some(step) = self.steps.pop_front() {
            match self.means.make(step) {
                Ok(frame) => self.frames.extend(frame),
                Err(failure) => self.failure = Some(failure),
            }
        }
        if self.failure.is_none() && self.steps.is_empty() {
            self.is_over = true;
            self.turn.store(self.number + 1, Ordering::Release);
        }
        !self.is_over && self.failure.is_none()
    }

    fn left(&self) -> usize {
        self.steps.len() + usize::from(self.failure.is_some())
    }

    fn end(self: Box<Self>) -> Landing {
        let Self { number, frames, failure, .. } = *self;
        Landing { number, frames, failure, synced: SyncInfo::default() }
    }
}

/// As the error of the call that has to tell of it.
pub(crate) fn error_of((op, source): Failure) -> LogError {
    LogError::Io { op, source }
}
