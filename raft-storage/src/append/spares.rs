//! Spare segments: zeroed and durable before they are needed.
//!
//! Making one takes about 50 ms, which an append must not wait for. So one is always kept ready:
//! taking it asks a helper thread for the next. Without the thread (a simulator, a test) a spare
//! is made when it is asked for.
//!
//! A disk without room is asked again whenever a spare is wanted; what was begun is removed, and
//! its number given back, so trying for ever costs neither space nor numbers.
//!
//! Bound: one spare being made, plus those found by recovery or given back, which are used first.
//! Those are closed files: only what was just made is held open.

use std::collections::VecDeque;
use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};

use crate::disk::Disk;
use crate::format::segment::{file_name, make_spare};
use crate::read::location::SLOTS_MAX;

/// A segment ready for its header.
pub(crate) struct Spare<F> {
    pub(crate) slot: u32,
    pub(crate) file: F,
    pub(crate) bytes: u64,
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
    /// Slots of spares of `segment_bytes`.
    ready: VecDeque<u32>,
    helper: Option<Helper<D::File>>,
}

struct Helper<F> {
    /// `None` only while dropping, which is how the thread learns that it is no longer needed.
    orders: Option<Sender<u32>>,
    done: Receiver<io::Result<Spare<F>>>,
    /// The order under way.
    ordered: Option<u32>,
    thread: Option<JoinHandle<()>>,
}

impl<D: Disk> Spares<D> {
    /// A supply that numbers new files from `next_slot`.
    pub(crate) fn new(
        disk: D,
        segment_bytes: u64,
        next_slot: u32,
        ready: VecDeque<u32>,
        preparation: Preparation,
    ) -> io::Result<Self> {
        let helper = match preparation {
            Preparation::Background => Some(Helper::start(disk.clone(), segment_bytes)?),
            Preparation::OnDemand => None,
        };
        let mut spares = Self { disk, segment_bytes, next_slot, ready, helper };
        spares.order();
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
            Some(slot) => self.open(slot)?,
            None => match self.prepared() {
                Some(spare) => spare,
                None => self.make(self.segment_bytes)?,
            },
        };
        self.order();
        Ok(spare)
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
        for Spare { slot, bytes, .. } in unused.rev() {
            if bytes == self.segment_bytes {
                self.ready.push_front(slot);
            } else {
                // If it stays, the next open finds a blank file of a strange length and removes it.
                let _ = self.disk.remove(&file_name(slot));
            }
        }
    }

    fn open(&mut self, slot: u32) -> io::Result<Spare<D::File>> {
        match self.disk.open(&file_name(slot)) {
            Ok(file) => Ok(Spare { slot, file, bytes: self.segment_bytes }),
            Err(error) => {
                self.ready.push_front(slot);
                Err(error)
            }
        }
    }

    /// What the helper has made or is making. Its failure may be an old one, so it counts for
    /// nothing: the spare is then made on the spot.
    fn prepared(&mut self) -> Option<Spare<D::File>> {
        match self.helper.as_mut()?.wait()? {
            (_, Ok(spare)) => Some(spare),
            (slot, Err(_)) => {
                self.give_back_number(slot);
                None
            }
        }
    }

    fn make(&mut self, bytes: u64) -> io::Result<Spare<D::File>> {
        let slot = self.number()?;
        make(&self.disk, slot, bytes).inspect_err(|error| {
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
        }
    }

    /// Asks for the next spare, unless there is one or it is being made.
    fn order(&mut self) {
        if !self.ready.is_empty() {
            return;
        }
        let idle = self.helper.as_ref().is_some_and(|helper| helper.ordered.is_none());
        if idle
            && let Ok(slot) = self.number()
            && let Some(helper) = &mut self.helper
        {
            helper.order(slot);
        }
    }

    fn number(&mut self) -> io::Result<u32> {
        if self.next_slot >= SLOTS_MAX {
            return Err(io::Error::new(io::ErrorKind::StorageFull, "all segment slots are used"));
        }
        let slot = self.next_slot;
        self.next_slot += 1;
        Ok(slot)
    }
}

impl<F: Send + 'static> Helper<F> {
    fn start<D: Disk<File = F>>(disk: D, segment_bytes: u64) -> io::Result<Self> {
        let (orders, inbox) = channel::<u32>();
        let (outbox, done) = channel();
        let thread = thread::Builder::new().name("raft-log-spares".into()).spawn(move || {
            for slot in inbox {
                if outbox.send(make(&disk, slot, segment_bytes)).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { orders: Some(orders), done, ordered: None, thread: Some(thread) })
    }

    fn order(&mut self, slot: u32) {
        // A thread that is gone has panicked; spares are then made on demand.
        let sent = self.orders.as_ref().is_some_and(|orders| orders.send(slot).is_ok());
        self.ordered = sent.then_some(slot);
    }

    /// The spare under way with its number, or `None` if there is none.
    fn wait(&mut self) -> Option<(u32, io::Result<Spare<F>>)> {
        let slot = self.ordered.take()?;
        Some((slot, self.done.recv().ok()?))
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

fn make<D: Disk>(disk: &D, slot: u32, bytes: u64) -> io::Result<Spare<D::File>> {
    Ok(Spare { slot, file: make_spare(disk, slot, bytes)?, bytes })
}
