//! What may never change in any script: who led a term, and what was committed where.

use std::collections::BTreeMap;

use raft_core::{GroupId, LogIndex, ReplicaId, Term};

use crate::disk::Record;

#[derive(Debug, Default)]
pub(crate) struct History {
    leaders: BTreeMap<(GroupId, Term), ReplicaId>,
    committed: BTreeMap<(GroupId, LogIndex), (Term, String)>,
    /// A script took a promise back on purpose: a wiped disk, an accepted loss.
    pub(crate) broken_on_purpose: bool,
}

impl History {
    pub(crate) fn leads(&mut self, group: GroupId, term: Term, replica: ReplicaId) {
        let first = *self.leaders.entry((group, term)).or_insert(replica);
        assert!(first == replica || self.broken_on_purpose, "{first} and {replica} lead {term}");
    }

    pub(crate) fn commits(&mut self, group: GroupId, index: LogIndex, record: &Record) {
        let entry = (record.term, record.name.clone());
        let first = self.committed.entry((group, index)).or_insert_with(|| entry.clone());
        assert!(*first == entry || self.broken_on_purpose, "{index} was {first:?}, is {entry:?}");
    }
}
