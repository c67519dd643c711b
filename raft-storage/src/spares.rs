//! Spare segments: zeroed and durable before they are needed.
//!
//! Making one takes about 50 ms, which an append must not wait for. So one is always kept ready:
//! taking it asks a helper thread for the next. Without the thread (a simulator, a test) a spare
//! is made when it is asked for.
//!
//! Bound: one spare being made, plus those found by recovery, which are used first.

use std::collections::VecDeque;
use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};

use crate::disk::Disk;
use crate::location::SLOTS_MAX;
use crate::segment::make_spare;

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
    ready: VecDeque<Spare<D::File>>,
    helper: Option<Helper<D::File>>,
}

struct Helper<F> {
    /// `None` only while dropping, which is how the thread learns that it is no longer needed.
    orders: Option<Sender<u32>>,
    done: Receiver<io::Result<Spare<F>>>,
    /// Whether an order is under way.
    ordered: bool,
    thread: Option<JoinHandle<()>>,
}

impl<D: Disk> Spares<D> {
    /// A supply that numbers new files from `next_slot`.
    pub(crate) fn new(
        disk: D,
        segment_bytes: u64,
        next_slot: u32,
        ready: VecDeque<Spare<D::File>>,
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

    /// A spare in which a frame of `frame_bytes` fits behind the header.
    pub(crate) fn take(&mut self, segment_bytes_min: u64) -> io::Result<Spare<D::File>> {
        if segment_bytes_min > self.segment_bytes {
            // Made for one large entry, exactly as long as it needs to be.
            let slot = self.number()?;
            return make(&self.disk, slot, segment_bytes_min);
        }
        let spare = match self.ready.pop_front() {
            Some(spare) => spare,
            None => match self.helper.as_mut().and_then(Helper::wait) {
                Some(made) => made?,
                None => {
                    let slot = self.number()?;
                    make(&self.disk, slot, self.segment_bytes)?
                }
            },
        };
        self.order();
        Ok(spare)
    }

    /// Asks for the next spare, unless there is one or it is being made.
    fn order(&mut self) {
        if !self.ready.is_empty() {
            return;
        }
        let idle = self.helper.as_ref().is_some_and(|helper| !helper.ordered);
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
        Ok(Self { orders: Some(orders), done, ordered: false, thread: Some(thread) })
    }

    fn order(&mut self, slot: u32) {
        // A thread that is gone has panicked; spares are then made on demand.
        self.ordered = self.orders.as_ref().is_some_and(|orders| orders.send(slot).is_ok());
    }

    /// The spare under way, or `None` if there is none.
    fn wait(&mut self) -> Option<io::Result<Spare<F>>> {
        if !self.ordered {
            return None;
        }
        self.ordered = false;
        self.done.recv().ok()
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
