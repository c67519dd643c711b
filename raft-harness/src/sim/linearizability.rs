//! Is what the clients saw explained by one order of their operations?
//!
//! Two judges that share nothing but the history. [`witness`] knows where each write was applied
//! and checks that very order, in n log n; every run can afford it. [`search`] knows nothing and
//! looks for any order (Wing and Gong, with Lowe's cache); it keeps the first one honest.
//! [`session`] asks for less, of reads that promise less: that no client sees time run backwards.

pub mod search;
pub mod session;
#[cfg(test)]
mod tests;
pub mod witness;

use std::collections::BTreeMap;

use raft_core::{GroupId, LogIndex};

use super::history::OpId;

/// What each group's state machine has applied: writes in the order of the log.
///
/// Told once for each index, by whichever replica applies it first; that all replicas apply the
/// same is the matter of the [invariants](super::invariants).
#[derive(Clone, Debug, Default)]
pub struct AppliedLog {
    groups: BTreeMap<GroupId, BTreeMap<LogIndex, OpId>>,
}

impl AppliedLog {
    /// Nothing is applied.
    pub fn new() -> Self {
        Self::default()
    }

    /// This operation took effect at this index. What was known of an index stays.
    pub fn applied(&mut self, group: GroupId, index: LogIndex, op: OpId) {
        self.groups.entry(group).or_default().entry(index).or_insert(op);
    }

    fn writes(&self) -> impl Iterator<Item = (GroupId, LogIndex, OpId)> {
        self.groups.iter().flat_map(|(group, log)| log.iter().map(|(i, op)| (*group, *i, *op)))
    }
}
