//! Spare segments: zeroed and durable before they are needed, or used before and free again.
//!
//! Making one takes 50 ms of the disk, which an append must not wait for. So one is always kept
//! ready: taking it asks a helper thread for the next, which makes it in small pieces
//! ([`preparation`](super::preparation)). If it is needed before it is done, it is taken as it is.
//! Without the thread (a simulator, a test) a spare is made when it is asked for.
//!
//! A disk without room is asked again whenever a spare is wanted; what was begun is removed, and
//! its number given back, so trying for ever costs neither space nor numbers.
//!
//! Bound: one spare being made, plus those found by recovery or given back, which are used first.
//! Those are closed files: only what was just made is held open.
//!
//! Segments become free in bursts, many at once after a snapshot of a large group. Of those as many are
//! kept as it takes to make none anew: one more whenever one was removed that would have been used,
//! and fewer again when some were left over for a while ([`Pool`]). The others are removed.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};

use crate::append::preparation::{Demand, Order, PAUSE, prepare};
use crate::disk::{Disk, DiskFile};
use crate::format::segment::{file_name, make_spare, reserve_spare};
use crate::read::location::SLOTS_MAX;

/// A segment ready for its header.
pub(crate) struct Spare<F> {
    pub(crate) slot: u32,
    pub(crate) file: F,
    pub(crate) bytes: u64,
    /// So much from its beginning was written before; beyond, it was only reserved.
    pub(crate) prepared: u64,
    /// It was a segment before and is full of its old content.
    pub(crate) recycled: bool,
}

/// A spare whose file is closed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ready {
    pub(crate) slot: u32,
    pub(crate) recycled: bool,
}

/// Who makes spare segments.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Preparation {
    /// A helper thread, ahead of need. The default.
    #[default]
    Background,
    /// The append that needs one; it waits. Deterministic, for simulators and tests.
    OnDemand,
}

/// The supply of spare segments of one log.
pub(crate) struct Spares<D: Disk> {
    disk: D,
    segment_bytes: u64,
    next_slot: u32,
    /// Spares of `segment_bytes`.
    ready: VecDeque<Ready>,
    pool: Pool,
    /// Numbers below `next_slot` that no file has.
    unused: Vec<u32>,
    helper: Option<Helper<D::File>>,
    /// What the helper sees of the appends.
    pub(crate) demand: Arc<Demand>,
}

struct Helper<F> {
    /// `None` only while dropping, which is how the thread learns that it is no longer needed.
    orders: Option<Sender<Order>>,
    done: Receiver<io::Result<Spare<F>>>,
    /// The order under way.
    ordered: Option<u32>,
    thread: Option<JoinHandle<()>>,
}

impl<D: Disk> Spares<D> {
    /// A supply that numbers new files from `next_slot`. In the newest segment there is `room` for
    /// so many bytes more; zero if there is none yet.
    pub(crate) fn new(
        disk: D,
        segment_bytes: u64,
        next_slot: u32,
        ready: VecDeque<Ready>,
        preparation: Preparation,
        (room, kept_min): (u64, usize),
    ) -> io::Result<Self> {
        let pool = Pool::new(kept_min, segment_bytes);
        let demand = Arc::new(Demand::default());
        let helper = match preparation {
            Preparation::Background => {
                Some(Helper::start(disk.clone(), segment_bytes, Arc::clone(&demand))?)
            }
            Preparation::OnDemand => None,
        };
        let unused = Vec::new();
        let mut spares =
            Self { disk, segment_bytes, next_slot, ready, pool, unused, helper, demand };
        spares.order(room);
        Ok(spares)
    }

    /// A spare of at least so many bytes.
    ///
    /// # Errors
    /// The disk's own; nothing has changed then, and it may be tried again.
    pub(crate) fn take(&mut self, segment_bytes_min: u64) -> io::Result<Spare<D::File>> {
        if segment_bytes_min > self.segment_bytes {
            // Made for one large entry, exactly as long as it needs to be.
            return self.make(segment_bytes_min);
        }
        let spare = match self.ready.pop_front() {
            Some(ready) => self.open(ready)?,
            None => match self.prepared() {
                Some(spare) => spare,
                None => self.make(self.segment_bytes)?,
            },
        };
        self.pool.took(self.ready.len());
        self.order(spare.bytes);
        Ok(spare)
    }

    /// Waits until the spare that is being made is done: a log that begins does not begin slowly.
    pub(crate) fn finish(&mut self) {
        match self.helper.as_mut().and_then(Helper::wait) {
            Some((_, Ok(spare))) => self.give_back([spare].into_iter()),
            Some((slot, Err(_))) => self.give_back_number(slot),
            None => {}
        }
    }

    /// Sees to it that there is a spare for later.
    ///
    /// # Errors
    /// As [`Self::take`].
    pub(crate) fn ensure(&mut self) -> io::Result<()> {
        if self.ready.is_empty() {
            let spare = self.take(self.segment_bytes)?;
            self.give_back([spare].into_iter());
        }
        Ok(())
    }

    /// Takes back what was not used, in the order in which it was taken.
    pub(crate) fn give_back(&mut self, unused: impl DoubleEndedIterator<Item = Spare<D::File>>) {
        for Spare { slot, bytes, recycled, .. } in unused.rev() {
            if bytes == self.segment_bytes {
                self.ready.push_front(Ready { slot, recycled });
            } else {
                self.remove(slot);
            }
        }
    }

    /// Takes a segment that nobody needs any more; `false` if its file was removed instead.
    pub(crate) fn recycle(&mut self, slot: u32, bytes: u64) -> bool {
        let keep = bytes == self.segment_bytes && self.pool.keeps(self.ready.len());
        if keep {
            self.ready.push_back(Ready { slot, recycled: true });
        } else {
            self.remove(slot);
        }
        keep
    }

    fn remove(&mut self, slot: u32) {
        // A file that stays is found by the next open, which removes it. Its number is not used
        // again before.
        if self.disk.remove(&file_name(slot)).is_ok() {
            self.unused.push(slot);
        }
    }

    fn open(&mut self, ready: Ready) -> io::Result<Spare<D::File>> {
        let Ready { slot, recycled } = ready;
        match self.disk.open(&file_name(slot)) {
            Ok(file) => {
                let bytes = self.segment_bytes;
                let prepared = file.written(bytes);
                Ok(Spare { slot, file, bytes, prepared, recycled })
            }
            Err(error) => {
                self.ready.push_front(ready);
                Err(error)
            }
        }
    }

    /// What the helper has made or is making. Its failure may be an old one, so it counts for
    /// nothing: the spare is then made on the spot.
    fn prepared(&mut self) -> Option<Spare<D::File>> {
        self.demand.ask(true);
        let made = self.helper.as_mut()?.wait();
        self.demand.ask(false);
        match made? {
            (_, Ok(spare)) => Some(spare),
            (slot, Err(_)) => {
                self.give_back_number(slot);
                None
            }
        }
    }

    fn make(&mut self, bytes: u64) -> io::Result<Spare<D::File>> {
        let slot = self.number()?;
        let made = match self.helper {
            // Nobody waits for zeros but who has asked for it.
            Some(_) => reserve_spare(&self.disk, slot, bytes).map(|file| (file, 0)),
            None => make_spare(&self.disk, slot, bytes).map(|file| (file, bytes)),
        };
        let made =
            made.map(|(file, prepared)| Spare { slot, file, bytes, prepared, recycled: false });
        made.inspect_err(|error| {
            // A name that is taken stays so.
            if error.kind() != io::ErrorKind::AlreadyExists {
                self.give_back_number(slot);
            }
        })
    }

    /// The last number that was given out was not used.
    fn give_back_number(&mut self, slot: u32) {
        if slot + 1 == self.next_slot {
            self.next_slot = slot;
        } else {
            self.unused.push(slot);
        }
    }

    /// Asks for the next spare, unless there is one or it is being made; `room` bytes can be
    /// appended before it is needed, zero if it is needed at once.
    fn order(&mut self, room: u64) {
        if !self.ready.is_empty() {
            return;
        }
        self.pool.misses();
        let idle = self.helper.as_ref().is_some_and(|helper| helper.ordered.is_none());
        if idle
            && let Ok(slot) = self.number()
            && let Some(helper) = &mut self.helper
        {
            helper.order(Order { slot, appended: self.demand.appended(), room });
        }
    }

    fn number(&mut self) -> io::Result<u32> {
        if let Some(slot) = self.unused.pop() {
            return Ok(slot);
        }
        if self.next_slot >= SLOTS_MAX {
            return Err(io::Error::new(io::ErrorKind::StorageFull, "all segment slots are used"));
        }
        let slot = self.next_slot;
        self.next_slot += 1;
        Ok(slot)
    }
}

impl<F: Send + 'static> Helper<F> {
    fn start<D: Disk<File = F>>(
        disk: D,
        segment_bytes: u64,
        demand: Arc<Demand>,
    ) -> io::Result<Self> {
        let (orders, inbox) = channel::<Order>();
        let (outbox, done) = channel();
        let thread = thread::Builder::new().name("raft-log-spares".into()).spawn(move || {
            for order in inbox {
                let pause = || thread::sleep(PAUSE);
                let made = prepare(&disk, order, segment_bytes, &demand, pause);
                if outbox.send(made).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { orders: Some(orders), done, ordered: None, thread: Some(thread) })
    }

    fn order(&mut self, order: Order) {
        // A thread that is gone has panicked; spares are then made on demand.
        let sent = self.orders.as_ref().is_some_and(|orders| orders.send(order).is_ok());
        self.ordered = sent.then_some(order.slot);
    }

    /// The spare under way with its number, or `None` if there is none.
    fn wait(&mut self) -> Option<(u32, io::Result<Spare<F>>)> {
        let slot = self.ordered.take()?;
        Some((slot, self.done.recv().ok()?))
    }
}

/// How many segments that became free are kept.
#[derive(Debug)]
struct Pool {
    min: usize,
    max: usize,
    keeps: usize,
    /// So many were removed that nobody has missed yet.
    removed: usize,
    /// So many were taken since it was looked at last how many are left over.
    taken: usize,
    /// The fewest that were there meanwhile.
    left_over: usize,
}

impl Pool {
    fn new(min: usize, segment_bytes: u64) -> Self {
        let max = min.max((KEPT_BYTES_MAX / segment_bytes.max(1)).min(KEPT_MAX) as usize);
        Self { min, max, keeps: min, removed: 0, taken: 0, left_over: usize::MAX }
    }

    /// Whether one more is kept beside so many.
    fn keeps(&mut self, ready: usize) -> bool {
        let keeps = ready < self.keeps;
        self.removed += usize::from(!keeps);
        keeps
    }

    /// One has to be made.
    fn misses(&mut self) {
        if self.removed > 0 {
            self.removed -= 1;
            self.keeps = (self.keeps + 1).min(self.max);
        }
    }

    /// One was taken, and so many are left. If some always were, fewer are kept from now on: of those
    /// that become free more are removed.
    fn took(&mut self, ready: usize) {
        self.left_over = self.left_over.min(ready);
        self.taken += 1;
        if self.taken == WINDOW {
            let keeps = self.keeps.saturating_sub(self.left_over).max(self.min);
            *self = Self { keeps, removed: 0, taken: 0, left_over: usize::MAX, ..*self };
        }
    }
}

/// Kept at most, in bytes and in segments.
const KEPT_BYTES_MAX: u64 = 1 << 30;
const KEPT_MAX: u64 = 64;
/// Segments that are taken between two looks at how many are left over.
const WINDOW: usize = 64;

impl<D: Disk> Drop for Spares<D> {
    fn drop(&mut self) {
        // Nobody waits for the zeros of a log that ends. What is half prepared would be taken for
        // prepared by the next one.
        self.demand.ask(true);
        if let Some(mut helper) = self.helper.take()
            && let Some((slot, Ok(spare))) = helper.wait()
            && spare.prepared < spare.bytes
        {
            let _ = self.disk.remove(&file_name(slot));
        }
    }
}

impl<F> Drop for Helper<F> {
    fn drop(&mut self) {
        // The lock of the directory must outlive every write into it, so the thread ends first.
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A log that takes `cycle` segments and then gets them back at once, so often; how many are made
    /// anew in each cycle.
    fn made(pool: &mut Pool, ready: &mut usize, cycle: usize, times: usize) -> Vec<usize> {
        let one = |pool: &mut Pool, ready: &mut usize| {
            let mut made = 0;
            for _ in 0..cycle {
                if *ready > 0 {
                    *ready -= 1;
                } else {
                    made += 1;
                }
                pool.took(*ready);
                if *ready == 0 {
                    pool.misses();
                }
            }
            for _ in 0..cycle {
                *ready += usize::from(pool.keeps(*ready));
            }
            made
        };
        (0..times).map(|_| one(pool, ready)).collect()
    }

    #[test]
    fn as_many_are_kept_as_it_takes_to_make_none_anew() {
        let mut pool = Pool::new(4, 64 << 20);
        let mut ready = 0;
        assert_eq!(made(&mut pool, &mut ready, 10, 4), [10, 6, 0, 0]);
        // In a log that gets fewer back, what is left over goes.
        assert_eq!(made(&mut pool, &mut ready, 2, 70).iter().sum::<usize>(), 0);
        assert!(pool.keeps <= 5, "{pool:?}");
        assert!(ready <= 5, "{ready}");
        // And there is an end to it: 1 GiB.
        made(&mut pool, &mut ready, 100, 10);
        assert_eq!((pool.keeps, ready), (16, 16));
    }
}
