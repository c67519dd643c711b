//! When the log is checkpointed, and which segments are given back.
//!
//! A segment is written again only when nothing alive is left in it, neither of the two kept
//! checkpoints needs it, and nobody reads from it. So three places of the log matter: what is older
//! than both checkpoints and not listed by either is free.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::append::cursor::Cursor;
use crate::append::spares::Preparation;
use crate::checkpoint::capture::{Capture, Made, Order};
use crate::checkpoint::chunks::Name;
use crate::checkpoint::files::{Kept, first_name};
use crate::checkpoint::outline::{Listed, Outline};
use crate::disk::Disk;
use crate::format::identity::StoreId;
use crate::format::lsn::Lsn;
use crate::read::index::Shared;
use crate::reclaim::moves::{Moves, choose};
use crate::reclaim::segments::Segments;
use crate::reclaim::warming::Warming;

/// The keeper of checkpoints and of what they let go.
pub(crate) struct Tender<D: Disk> {
    disk: D,
    shared: Arc<Shared<D>>,
    store: StoreId,
    segment_bytes: u64,
    /// A checkpoint is due after so many bytes of log.
    interval: u64,
    kept: Kept,
    name: Name,
    creations_lost: bool,
    /// How long the last checkpoint was.
    bytes: u64,
    maker: Maker<D>,
    pub(crate) moves: Moves,
    /// Something may have become free since it was looked at last.
    may_free: bool,
    /// The last attempt failed: the next one waits for the log to go on.
    failed_at: Option<Lsn>,
    /// How many attempts failed, and why the last one did, if so.
    pub(crate) failures: u64,
    pub(crate) failure: Option<io::ErrorKind>,
}

/// Who makes checkpoints.
enum Maker<D: Disk> {
    Thread(Worker),
    /// The writer itself, a step at a time.
    Here(Option<Capture<D>>),
}

/// What came of looking after a checkpoint.
pub(crate) enum Progress {
    /// None is under way.
    None,
    /// One is under way.
    UnderWay,
    /// One of so many bytes was made: segments may have become free.
    Made { bytes: u64 },
}

impl<D: Disk> Tender<D> {
    pub(crate) fn new(
        disk: D,
        shared: Arc<Shared<D>>,
        store: StoreId,
        (segment_bytes, interval): (u64, u64),
        (kept, incarnation, creations_lost): (Kept, u64, bool),
        preparation: Preparation,
    ) -> io::Result<Self> {
        let maker = match preparation {
            Preparation::Background => {
                Maker::Thread(Worker::start(disk.clone(), Arc::clone(&shared), store)?)
            }
            Preparation::OnDemand => Maker::Here(None),
        };
        Ok(Self {
            disk,
            shared,
            store,
            segment_bytes,
            interval: interval.max(segment_bytes),
            kept,
            name: first_name(incarnation),
            creations_lost,
            bytes: 0,
            maker,
            moves: Moves::new(segment_bytes),
            // What an open finds may be free already.
            may_free: true,
            failed_at: None,
            failures: 0,
            failure: None,
        })
    }

    /// Begins a checkpoint if one is due, or looks after the one under way. `cursor` is the end of
    /// the log, all of which the index holds.
    pub(crate) fn step(&mut self, cursor: &Cursor, idle: bool) -> Progress {
        if self.is_under_way() {
            let Some(ended) = self.look_after() else { return Progress::UnderWay };
            return self.ended(ended, cursor);
        }
        if cursor.seq == 0 || !self.is_due(cursor, idle) {
            return Progress::None;
        }
        let order = match self.order(cursor) {
            Ok(order) => order,
            Err(error) => return self.ended(Err(error), cursor),
        };
        match &mut self.maker {
            Maker::Thread(worker) => {
                if let Err(error) = worker.begin(order) {
                    return self.ended(Err(error), cursor);
                }
            }
            Maker::Here(capture) => match Capture::begin(&self.disk, self.store, order) {
                Ok(begun) => *capture = Some(begun),
                Err(error) => return self.ended(Err(error), cursor),
            },
        }
        Progress::UnderWay
    }

    /// Makes a checkpoint and waits for it. All of the log is durable.
    pub(crate) fn make_now(&mut self, cursor: &Cursor) -> io::Result<()> {
        let order = self.order(cursor)?;
        let mut capture = Capture::begin(&self.disk, self.store, order)?;
        while capture.step(&self.shared, ROWS_BYTES)? {}
        let made = capture.finish()?;
        self.ended(Ok(Some(made)), cursor);
        Ok(())
    }

    fn is_under_way(&self) -> bool {
        match &self.maker {
            Maker::Thread(worker) => worker.is_busy,
            Maker::Here(capture) => capture.is_some(),
        }
    }

    /// What came of the checkpoint under way, if it has ended.
    fn look_after(&mut self) -> Option<Ended> {
        match &mut self.maker {
            Maker::Thread(worker) => worker.ended(),
            Maker::Here(capture) => {
                let mut under_way = capture.take()?;
                match under_way.step(&self.shared, ROWS_BYTES_HERE) {
                    Ok(true) => {}
                    Ok(false) => {
                        let is_durable = under_way.needed() <= self.shared.durable();
                        if is_durable || raft_core::planted!(CheckpointNotAwaited) {
                            return Some(under_way.finish().map(Some));
                        }
                    }
                    Err(error) => return Some(Err(error)),
                }
                *capture = Some(under_way);
                None
            }
        }
    }

    /// Segments that may be written again, by slot, with their length; they are in the table no more.
    ///
    /// None becomes free but by a checkpoint, or when the last reader leaves it.
    pub(crate) fn free(&mut self, cursor: &Cursor) -> Vec<(u32, u64)> {
        if !std::mem::take(&mut self.may_free) {
            return Vec::new();
        }
        let mut index = self.shared.index.write();
        let mut free = Vec::new();
        for (slot, segment) in index.segments.iter() {
            let is_needed = match raft_core::planted!(ReusedTooEarly) {
                true => false,
                false => self.kept.needs(slot, segment.seq),
            };
            if segment.seq >= cursor.seq || segment.live.entries > 0 || is_needed {
                continue;
            }
            if segment.is_read() {
                self.may_free = true;
            } else {
                free.push((slot, segment.bytes));
            }
        }
        for (slot, _) in &free {
            index.segments.remove(*slot);
        }
        free
    }

    fn is_due(&self, cursor: &Cursor, idle: bool) -> bool {
        if self.failed_at == Some(cursor.end()) {
            return false;
        }
        let since = self.kept.newest.as_ref().map_or(Lsn::ZERO, |kept| kept.outline.replay);
        let written = cursor.end().get() - since.get();
        if written >= self.interval.max(CHECKPOINT_SHARE * self.bytes) {
            return true;
        }
        if !idle || cursor.end() > self.shared.durable() || !self.moves.is_empty() {
            return false;
        }
        let index = self.shared.index.read();
        let waits = |(slot, segment): (u32, &crate::reclaim::segments::Segment)| {
            let dead = segment.live.entries == 0;
            segment.seq < cursor.seq && dead && self.kept.needs(slot, segment.seq)
        };
        index.segments.iter().any(waits) || !self.victims(&index.segments, cursor).is_empty()
    }

    fn victims(&self, segments: &Segments, cursor: &Cursor) -> BTreeSet<u32> {
        choose(segments, cursor.seq, self.segment_bytes, &self.moves.left_out())
    }

    fn order(&mut self, cursor: &Cursor) -> io::Result<Order> {
        let index = self.shared.index.read();
        if index.end != cursor.end() {
            // It would be a checkpoint that holds less than it says.
            debug_assert!(
                false,
                "the index ends at {:?}, the log at {:?}",
                index.end,
                cursor.end()
            );
            return Err(io::Error::other("the index does not hold the whole log"));
        }
        let needed = index
            .segments
            .iter()
            .filter(|(_, segment)| segment.live.entries > 0 || segment.seq >= cursor.seq);
        let segments = needed.map(|(slot, segment)| Listed {
            slot,
            seq: segment.seq,
            base: segment.base,
            bytes: segment.bytes,
        });
        let outline = Outline {
            name: self.name,
            replay: cursor.end(),
            replay_seq: cursor.seq,
            chain: cursor.chain,
            creations_lost: self.creations_lost,
            segments: segments.collect(),
        };
        // What is being moved is moved first.
        let victims = match self.moves.is_empty() {
            true => self.victims(&index.segments, cursor),
            false => BTreeSet::new(),
        };
        self.moves.refused.clear();
        self.name.number += 1;
        Ok(Order { outline, file: self.kept.next_file(), victims })
    }

    fn ended(&mut self, made: io::Result<Option<Made>>, cursor: &Cursor) -> Progress {
        match made {
            Ok(Some(made)) => {
                self.bytes = made.bytes;
                self.kept.push(made.outline, made.file);
                if !made.victims.is_empty() {
                    self.moves.begin(made.victims, made.found);
                }
                self.failed_at = None;
                self.failure = None;
                self.may_free = true;
                Progress::Made { bytes: made.bytes }
            }
            // A log without a further checkpoint only grows; it is tried again later.
            Ok(None) => {
                self.failed_at = Some(cursor.end());
                Progress::None
            }
            Err(error) => {
                self.failed_at = Some(cursor.end());
                self.failures += 1;
                self.failure = Some(error.kind());
                Progress::None
            }
        }
    }
}

/// A thread that makes checkpoints, and reads what they find in victims before it is moved.
struct Worker {
    /// `None` only while dropping, which is how the thread learns that it is no longer needed.
    orders: Option<Sender<Order>>,
    done: Receiver<Ended>,
    is_busy: bool,
    stops: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

type Ended = io::Result<Option<Made>>;

impl Worker {
    fn start<D: Disk>(disk: D, shared: Arc<Shared<D>>, store: StoreId) -> io::Result<Self> {
        let (orders, inbox) = channel::<Order>();
        let (outbox, done) = channel();
        let stops = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stops);
        let thread = thread::Builder::new().name("raft-log-tender".into()).spawn(move || {
            let mut warming = Warming::default();
            loop {
                let order = match inbox.try_recv() {
                    Ok(order) => order,
                    Err(TryRecvError::Disconnected) => return,
                    // Between checkpoints there is time to read.
                    Err(TryRecvError::Empty) if warming.step(&shared) => continue,
                    Err(TryRecvError::Empty) => match inbox.recv() {
                        Ok(order) => order,
                        Err(_) => return,
                    },
                };
                let made = make(&disk, store, &shared, order, &stopped);
                if let Ok(Some(made)) = &made
                    && !made.victims.is_empty()
                {
                    warming.begin(&shared, &made.victims, &made.found);
                }
                if outbox.send(made).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { orders: Some(orders), done, is_busy: false, stops, thread: Some(thread) })
    }

    fn begin(&mut self, order: Order) -> io::Result<()> {
        self.is_busy = self.orders.as_ref().is_some_and(|orders| orders.send(order).is_ok());
        if self.is_busy { Ok(()) } else { Err(is_gone()) }
    }

    /// What came of the order under way, if it has ended.
    fn ended(&mut self) -> Option<Ended> {
        let ended = match self.done.try_recv() {
            Ok(ended) => ended,
            Err(TryRecvError::Empty) => return None,
            Err(TryRecvError::Disconnected) => Err(is_gone()),
        };
        self.is_busy = false;
        Some(ended)
    }
}

/// The thread has panicked; the log then only grows.
fn is_gone() -> io::Error {
    io::Error::other("the thread that makes checkpoints is gone")
}

impl Drop for Worker {
    fn drop(&mut self) {
        // The lock of the directory must outlive every write into it, so the thread ends first.
        self.stops.store(true, Ordering::Release);
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Makes a checkpoint, unless the log ends before all it holds is durable.
fn make<D: Disk>(
    disk: &D,
    store: StoreId,
    shared: &Shared<D>,
    order: Order,
    stopped: &AtomicBool,
) -> Ended {
    let mut capture = Capture::begin(disk, store, order)?;
    while capture.step(shared, ROWS_BYTES)? {
        if stopped.load(Ordering::Acquire) {
            return Ok(None);
        }
    }
    while shared.durable() < capture.needed() {
        if stopped.load(Ordering::Acquire) {
            return Ok(None);
        }
        thread::sleep(LOOK_EVERY);
    }
    capture.finish().map(Some)
}

/// A checkpoint costs no more than this part of what is written between two of them.
const CHECKPOINT_SHARE: u64 = 8;
/// About so many bytes of rows are copied under one lock, by the thread, and by the writer itself.
const ROWS_BYTES: usize = 64 << 10;
const ROWS_BYTES_HERE: usize = 512;
/// How often the thread looks whether the log is durable up to where it must be.
const LOOK_EVERY: Duration = Duration::from_millis(1);
