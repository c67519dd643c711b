//! Who leads which group, as this node last heard: shared by all threads, cheap to ask.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::RwLock;
use raft_core::{GroupId, NodeId};

/// No node has this number: it marks "no leader known" inside the atomic.
const NOBODY: u64 = u64::MAX;

#[derive(Debug, Default)]
pub(crate) struct Directory {
    leaders: RwLock<HashMap<GroupId, AtomicU64>>,
}

impl Directory {
    /// The group exists here.
    pub(crate) fn add(&self, group: GroupId) {
        self.leaders.write().entry(group).or_insert_with(|| AtomicU64::new(NOBODY));
    }

    pub(crate) fn set_leader(&self, group: GroupId, leader: Option<NodeId>) {
        let number = leader.map_or(NOBODY, NodeId::get);
        if let Some(known) = self.leaders.read().get(&group) {
            known.store(number, Relaxed);
        }
    }

    pub(crate) fn leader(&self, group: GroupId) -> Option<NodeId> {
        let number = self.leaders.read().get(&group)?.load(Relaxed);
        (number != NOBODY).then(|| NodeId::new(number))
    }
}
