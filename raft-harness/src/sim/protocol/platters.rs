//! The disks as the checks may ask them.

use raft_core::{GroupId, HardState, LogIndex, ReplicaId, Term};

use super::node::Node;
use crate::sim::observe::Disks;

/// The disks of all nodes, up or down.
pub(super) struct Platters<'a> {
    pub(super) nodes: &'a [Node],
    pub(super) counts_written: bool,
}

impl Disks for Platters<'_> {
    fn holds(&self, group: GroupId, replica: ReplicaId, index: LogIndex, term: Term) -> bool {
        self.nodes.iter().any(|node| {
            if self.counts_written {
                node.disk.holds_written(group, replica, index, term)
            } else {
                node.disk.holds(group, replica, index, term)
            }
        })
    }

    fn hard_state(&self, group: GroupId, replica: ReplicaId) -> Option<HardState> {
        let mut images = self.nodes.iter().filter_map(|node| node.disk.images.get(&group));
        images.find(|image| image.replica == replica).map(|image| image.hard_state)
    }
}
