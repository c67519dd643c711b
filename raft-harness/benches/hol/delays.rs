//! How long things take, sample by sample; and heartbeats on their way.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use raft_core::NodeId;
use raft_transport::{ConnectionKey, Direction, Frame, LaneError, LaneWatch};

/// What was measured of one thing, in order of size.
#[derive(Clone, Debug, Default)]
pub(crate) struct Samples(Vec<Duration>);

impl Samples {
    pub(crate) fn new(mut samples: Vec<Duration>) -> Self {
        samples.sort_unstable();
        Self(samples)
    }

    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// The smallest that so many of a thousand do not exceed; zero without any.
    pub(crate) fn permille(&self, permille: usize) -> Duration {
        let rank = (self.0.len() * permille).div_ceil(1000);
        self.0.get(rank.saturating_sub(1)).copied().unwrap_or_default()
    }
}

/// Watches the heartbeats that the first node says.
#[derive(Default)]
pub(crate) struct Delays(Mutex<State>);

#[derive(Default)]
struct State {
    /// Said and not heard yet, by connection, oldest first.
    under_way: BTreeMap<ConnectionKey, VecDeque<Instant>>,
    heard: Vec<Duration>,
}

impl Delays {
    fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Begins anew; what is under way goes on.
    pub(crate) fn reset(&self) {
        self.with(|state| state.heard.clear());
    }

    /// What was heard. What is still under way on its connection took that long at the least.
    pub(crate) fn take(&self) -> Samples {
        let now = Instant::now();
        self.with(|state| {
            let mut heard = std::mem::take(&mut state.heard);
            let newest = |key: &ConnectionKey| (key.acceptor, key.generation);
            let live = state.under_way.keys().map(newest).fold(BTreeMap::new(), |mut live, key| {
                live.entry(key.0).and_modify(|of: &mut u64| *of = key.1.max(*of)).or_insert(key.1);
                live
            });
            for (key, waiting) in &state.under_way {
                if live.get(&key.acceptor) == Some(&key.generation) {
                    heard.extend(waiting.iter().map(|said| now - *said));
                }
            }
            Samples::new(heard)
        })
    }
}

/// Only batches of heartbeats; one leaves per peer and interval.
fn is_beat(connection: &ConnectionKey, frame: &Frame) -> bool {
    connection.dialer == NodeId::new(1)
        && matches!(frame, Frame::Heartbeats(items) if !items.is_empty())
}

impl LaneWatch for Delays {
    fn said(&self, connection: &ConnectionKey, _: Direction, frame: &Frame) {
        if is_beat(connection, frame) {
            let now = Instant::now();
            self.with(|state| state.under_way.entry(*connection).or_default().push_back(now));
        }
    }

    fn heard(&self, connection: &ConnectionKey, _: Direction, frame: &Frame) {
        if is_beat(connection, frame) {
            let now = Instant::now();
            self.with(|state| {
                let said = state.under_way.get_mut(connection).and_then(VecDeque::pop_front);
                state.heard.extend(said.map(|said| now - said));
            });
        }
    }

    fn ends(&self, _: &LaneError) {}
}

/// Samples that threads and tasks add to.
#[derive(Clone, Default)]
pub(crate) struct Shared(Arc<Mutex<Vec<Duration>>>);

impl Shared {
    pub(crate) fn add(&self, sample: Duration) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(sample);
    }

    pub(crate) fn take(&self) -> Samples {
        Samples::new(std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}
