//! The way into a thread that runs a poll loop: many push, one drains.
//!
//! One lock guards items and waker together, so a push between "empty" and "asleep" cannot be
//! missed, and a push wakes only a sleeper. The drain takes everything at once.
//!
//! Bound: requests of clients are pushed with a limit and refused beyond it; what other threads
//! of the node push is bounded by windows of their own (credits, what the log may be given).

use std::task::{Context, Waker};

use parking_lot::Mutex;

#[derive(Debug)]
pub(crate) struct Inbox<T> {
    state: Mutex<State<T>>,
}

#[derive(Debug)]
struct State<T> {
    items: Vec<T>,
    sleeper: Option<Waker>,
    closed: bool,
}

impl<T> Default for Inbox<T> {
    fn default() -> Self {
        let state = State { items: Vec::new(), sleeper: None, closed: false };
        Self { state: Mutex::new(state) }
    }
}

impl<T> Inbox<T> {
    /// Adds an item; gives it back if the inbox is closed.
    pub(crate) fn push(&self, item: T) -> Result<(), T> {
        self.push_within(item, usize::MAX).map_err(|(item, _)| item)
    }

    /// Adds an item unless so many wait already.
    pub(crate) fn push_within(&self, item: T, max: usize) -> Result<(), (T, PushError)> {
        let mut state = self.state.lock();
        if state.closed {
            return Err((item, PushError::Closed));
        }
        if state.items.len() >= max {
            return Err((item, PushError::Full));
        }
        state.items.push(item);
        let sleeper = state.sleeper.take();
        drop(state);
        if let Some(sleeper) = sleeper {
            sleeper.wake();
        }
        Ok(())
    }

    /// Moves everything into `items`, which must be empty.
    pub(crate) fn drain(&self, items: &mut Vec<T>) {
        debug_assert!(items.is_empty());
        std::mem::swap(&mut self.state.lock().items, items);
    }

    /// Goes to sleep: the next push wakes `cx`. `false` if something is there already.
    pub(crate) fn sleep(&self, cx: &Context<'_>) -> bool {
        let mut state = self.state.lock();
        if !state.items.is_empty() {
            return false;
        }
        match &mut state.sleeper {
            Some(sleeper) if sleeper.will_wake(cx.waker()) => {}
            sleeper => *sleeper = Some(cx.waker().clone()),
        }
        true
    }

    /// Takes no more, and returns what was left.
    pub(crate) fn close(&self) -> Vec<T> {
        let mut state = self.state.lock();
        state.closed = true;
        std::mem::take(&mut state.items)
    }
}

/// Why an item was not taken.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum PushError {
    Closed,
    Full,
}
