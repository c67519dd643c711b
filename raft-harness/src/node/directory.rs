//! Who leads which group, as this node last heard, and what else is new: shared by all threads, cheap to ask.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, RwLock};
use raft_core::{GroupId, NodeId};
use tokio::sync::Notify;

use crate::event::{Event, EventHub};

/// No node has this number: it marks "no leader known" inside the atomic.
const NOBODY: u64 = u64::MAX;

#[derive(Debug)]
pub(crate) struct Directory {
    /// This node.
    node: NodeId,
    leaders: RwLock<HashMap<GroupId, AtomicU64>>,
    /// How many groups this node leads; kept, so that asking costs no walk over the groups.
    led: AtomicU64,
    /// Grows with every change of a leader.
    version: AtomicU64,
    /// Whoever waits for such a change, in async code and on threads.
    changed: Notify,
    changing: (Mutex<()>, Condvar),
    hub: Arc<EventHub>,
}

impl Directory {
    pub(crate) fn new(node: NodeId, hub: Arc<EventHub>) -> Self {
        let (led, version) = (AtomicU64::new(0), AtomicU64::new(0));
        let (changed, changing) = (Notify::new(), Default::default());
        Self { node, leaders: RwLock::default(), led, version, changed, changing, hub }
    }

    /// Where what happens is told.
    pub(crate) fn hub(&self) -> &EventHub {
        &self.hub
    }

    /// Waits until `found` finds something, which is looked for at every change of a leader.
    pub(crate) async fn wait_for<T>(&self, mut found: impl FnMut(&Self) -> Option<T>) -> T {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Before looking: a change in between is not missed.
            changed.as_mut().enable();
            if let Some(found) = found(self) {
                return found;
            }
            changed.await;
        }
    }

    /// As [`wait_for`](Self::wait_for) on a thread, for so long.
    pub(crate) fn wait_within<T>(
        &self,
        within: Duration,
        mut found: impl FnMut(&Self) -> Option<T>,
    ) -> Option<T> {
        let began = Instant::now();
        let (lock, changed) = &self.changing;
        let mut held = lock.lock();
        loop {
            let left = within.saturating_sub(began.elapsed());
            let found = found(self);
            if found.is_some() || left.is_zero() {
                return found;
            }
            // A longer time than a clock can tell is waited for in pieces.
            let _ = changed.wait_for(&mut held, left.min(Duration::from_secs(3600)));
        }
    }

    fn note_change(&self) {
        self.version.fetch_add(1, Release);
        self.changed.notify_waiters();
        let (lock, changed) = &self.changing;
        // Whoever has looked and does not wait yet holds it.
        drop(lock.lock());
        changed.notify_all();
    }

    /// The group exists here.
    pub(crate) fn add(&self, group: GroupId) {
        self.leaders.write().entry(group).or_insert_with(|| AtomicU64::new(NOBODY));
        self.note_change();
    }

    /// Only the shard that owns the group calls this for it, so its changes come in order.
    pub(crate) fn set_leader(&self, group: GroupId, leader: Option<NodeId>) {
        let number = leader.map_or(NOBODY, NodeId::get);
        let Some(before) = self.leaders.read().get(&group).map(|known| known.swap(number, Relaxed))
        else {
            return;
        };
        if before == number {
            return;
        }
        if before == self.node.get() {
            self.led.fetch_sub(1, Relaxed);
        }
        if number == self.node.get() {
            self.led.fetch_add(1, Relaxed);
        }
        self.note_change();
        self.hub.tell(Event::Leader { group, leader });
    }

    pub(crate) fn leader(&self, group: GroupId) -> Option<NodeId> {
        let number = self.leaders.read().get(&group)?.load(Relaxed);
        (number != NOBODY).then(|| NodeId::new(number))
    }

    /// How many groups were begun here.
    pub(crate) fn groups(&self) -> usize {
        self.leaders.read().len()
    }

    /// How many of them are of this kind.
    pub(crate) fn count(&self, is_of_kind: impl Fn(GroupId) -> bool) -> usize {
        self.leaders.read().keys().filter(|group| is_of_kind(**group)).count()
    }

    /// How many of them this node leads, as far as it has heard.
    pub(crate) fn led(&self) -> u64 {
        self.led.load(Relaxed)
    }

    /// Another number than before means that some leader may be another one.
    pub(crate) fn version(&self) -> u64 {
        // Who has seen the number sees what changed before it.
        self.version.load(Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_waits_is_woken_by_a_change_and_asks_for_any_time() {
        let directory = Directory::new(NodeId::new(1), Arc::default());
        let group = GroupId::new(1);
        directory.add(group);
        let leader = |directory: &Directory| directory.leader(group);
        assert_eq!(directory.wait_within(Duration::ZERO, leader), None);
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| directory.wait_within(Duration::MAX, leader));
            directory.set_leader(group, Some(NodeId::new(2)));
            assert_eq!(waits.join().expect("no panic"), Some(NodeId::new(2)));
        });
    }

    #[test]
    fn groups_led_are_counted_as_leaders_come_and_go() {
        let (one, two) = (NodeId::new(1), NodeId::new(2));
        let directory = Directory::new(one, Arc::default());
        let groups = [1, 2, 3].map(GroupId::new);
        for group in groups {
            directory.add(group);
            directory.set_leader(group, Some(one));
        }
        directory.set_leader(groups[0], Some(one));
        assert_eq!((directory.groups(), directory.led()), (3, 3));
        let version = directory.version();
        directory.set_leader(groups[0], Some(one));
        assert_eq!(directory.version(), version, "nothing has changed");
        directory.set_leader(groups[0], Some(two));
        directory.set_leader(groups[1], None);
        directory.set_leader(groups[2], None);
        directory.set_leader(groups[2], Some(one));
        assert_eq!(directory.led(), 1);
        assert_ne!(directory.version(), version);
        directory.set_leader(GroupId::new(9), Some(one));
        assert_eq!(directory.led(), 1, "a group that is not here");
        let led = groups.iter().filter(|&&group| directory.leader(group) == Some(one)).count();
        assert_eq!(led as u64, directory.led());
    }
}
