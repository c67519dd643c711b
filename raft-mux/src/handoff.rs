//! From the task that read a prefix to the group that waits for connections.
//!
//! The hard part is what happens at the same moment: a connection arrives while its group is
//! unregistered or everything closes, and must then be either delivered or closed, never kept in
//! a queue nobody will look at again. So one lock guards all queues, and every decision is made
//! under it. Connections are rare next to the bytes they carry: the lock is taken twice per
//! connection and held for a map lookup.
//!
//! Invariants:
//! - Every item pushed is given back exactly once: to an accept, to the caller of `unregister` or
//!   `close`, or to the pusher who was refused. This module never drops one.
//! - Nothing foreign runs under the lock: items are given back and wakers woken or dropped after
//!   it is released. Dropping a waker can drop a task, whose listener then unregisters.
//! - A pending accept is woken by every push to its group, by `unregister` and by `close`.
//!
//! `handoff/models.rs` checks them with loom, over all interleavings.

#[cfg(all(test, loom_model))]
mod models;

use std::collections::{BTreeMap, VecDeque};
use std::task::{Context, Poll, Waker};

use raft_core::GroupId;

use crate::sync::Mutex;

/// The queues of all registered groups.
#[derive(Debug)]
pub(crate) struct Handoff<T> {
    queue_max: usize,
    state: Mutex<State<T>>,
}

#[derive(Debug)]
struct State<T> {
    closed: bool,
    /// The next registration or accept gets this number; none is ever used twice.
    next_number: u64,
    groups: BTreeMap<GroupId, Queue<T>>,
    /// Items in all queues together.
    queued: usize,
}

#[derive(Debug)]
struct Queue<T> {
    registration: Registration,
    items: VecDeque<T>,
    /// One per pending accept, under the number of its [`Turn`].
    accepts: BTreeMap<u64, Waker>,
}

/// One registration of a group: a listener that outlives its own must not touch the next one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Registration(u64);

/// Where a pending accept left its waker, if it did. Give it to [`Handoff::forget`] in the end.
#[derive(Debug, Default)]
pub(crate) struct Turn(Option<u64>);

/// Why a group could not be registered.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum RegisterRefusal {
    AlreadyRegistered,
    Closed,
}

/// Why an item could not be queued; the item itself comes back beside it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum PushRefusal {
    UnknownGroup,
    QueueFull,
    Closed,
}

/// Why an accept will never see another item.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Gone {
    Unregistered,
    Closed,
}

impl<T> Handoff<T> {
    pub(crate) fn new(queue_max: usize) -> Self {
        let state = State { closed: false, next_number: 0, groups: BTreeMap::new(), queued: 0 };
        Self { queue_max, state: Mutex::new(state) }
    }

    pub(crate) fn register(&self, group: GroupId) -> Result<Registration, RegisterRefusal> {
        let mut state = self.state.lock();
        if state.closed {
            return Err(RegisterRefusal::Closed);
        }
        if state.groups.contains_key(&group) {
            return Err(RegisterRefusal::AlreadyRegistered);
        }
        let registration = Registration(state.take_number());
        let queue = Queue { registration, items: VecDeque::new(), accepts: BTreeMap::new() };
        state.groups.insert(group, queue);
        Ok(registration)
    }

    /// Queues `item` for its group, or gives it back with the reason.
    pub(crate) fn push(&self, group: GroupId, item: T) -> Result<(), (PushRefusal, T)> {
        let woken = {
            let mut state = self.state.lock();
            if state.closed {
                return Err((PushRefusal::Closed, item));
            }
            let Some(queue) = state.groups.get_mut(&group) else {
                return Err((PushRefusal::UnknownGroup, item));
            };
            if queue.items.len() >= self.queue_max {
                return Err((PushRefusal::QueueFull, item));
            }
            queue.items.push_back(item);
            // All of them: waking one would lose the item's wake-up if that accept is cancelled
            // before it runs. More than one pending accept per group is unusual.
            let woken = std::mem::take(&mut queue.accepts);
            state.queued += 1;
            woken
        };
        wake_all(woken);
        Ok(())
    }

    /// Takes the oldest item of the group, or leaves a waker for the next one.
    pub(crate) fn poll_accept(
        &self,
        group: GroupId,
        registration: Registration,
        turn: &mut Turn,
        context: &Context<'_>,
    ) -> Poll<Result<T, Gone>> {
        let waker = context.waker().clone();
        let (result, _stale) = {
            let mut state = self.state.lock();
            let fresh_number = state.take_number();
            let closed = state.closed;
            match state.queue_mut(group, registration) {
                None if closed => (Poll::Ready(Err(Gone::Closed)), None),
                None => (Poll::Ready(Err(Gone::Unregistered)), None),
                Some(queue) => match queue.items.pop_front() {
                    Some(item) => {
                        let stale = turn.0.take().and_then(|number| queue.accepts.remove(&number));
                        state.queued -= 1;
                        (Poll::Ready(Ok(item)), stale)
                    }
                    None => {
                        let number = *turn.0.get_or_insert(fresh_number);
                        (Poll::Pending, queue.accepts.insert(number, waker))
                    }
                },
            }
        };
        result
    }

    /// Takes back the waker of an accept that is given up.
    pub(crate) fn forget(&self, group: GroupId, registration: Registration, turn: &mut Turn) {
        let Some(number) = turn.0.take() else { return };
        let _stale = {
            let mut state = self.state.lock();
            state.queue_mut(group, registration).and_then(|queue| queue.accepts.remove(&number))
        };
    }

    /// Frees the group's id and gives back what was queued; pending accepts end with an error.
    ///
    /// With a registration, only that one: `None` means it had gone already.
    pub(crate) fn unregister(
        &self,
        group: GroupId,
        only: Option<Registration>,
    ) -> Option<VecDeque<T>> {
        let queue = {
            let mut state = self.state.lock();
            let found = state.groups.get(&group)?.registration;
            if only.is_some_and(|registration| registration != found) {
                return None;
            }
            let queue = state.groups.remove(&group)?;
            state.queued -= queue.items.len();
            queue
        };
        wake_all(queue.accepts);
        Some(queue.items)
    }

    /// Closes for good and gives back what was queued; pending accepts end with an error. Calling
    /// it again gives back nothing.
    pub(crate) fn close(&self) -> Vec<T> {
        let groups = {
            let mut state = self.state.lock();
            state.closed = true;
            state.queued = 0;
            std::mem::take(&mut state.groups)
        };
        let mut items = Vec::new();
        for queue in groups.into_values() {
            items.extend(queue.items);
            wake_all(queue.accepts);
        }
        items
    }

    /// Groups registered and items queued now.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let state = self.state.lock();
        (state.groups.len(), state.queued)
    }
}

impl<T> State<T> {
    fn take_number(&mut self) -> u64 {
        let number = self.next_number;
        self.next_number += 1;
        number
    }

    fn queue_mut(&mut self, group: GroupId, registration: Registration) -> Option<&mut Queue<T>> {
        self.groups.get_mut(&group).filter(|queue| queue.registration == registration)
    }
}

fn wake_all(accepts: BTreeMap<u64, Waker>) {
    for waker in accepts.into_values() {
        waker.wake();
    }
}
