//! What may never change in any script: who led a term, and what was committed where; and that no
//! read misses what was committed before it came.

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

    /// Up to where anybody has committed.
    pub(crate) fn committed_upto(&self, group: GroupId) -> LogIndex {
        let of_group =
            self.committed.range((group, LogIndex::ZERO)..).map(|((of, at), _)| (*of, *at));
        of_group.take_while(|(of, _)| *of == group).last().map_or(LogIndex::ZERO, |(_, at)| at)
    }

    /// A read may be served after this index. It came when `floor` was committed.
    pub(crate) fn reads(&self, index: LogIndex, floor: LogIndex) {
        let missed = index < floor && !self.broken_on_purpose;
        assert!(!missed, "a read at {index} misses what was committed up to {floor}");
    }

    pub(crate) fn commits(&mut self, group: GroupId, index: LogIndex, record: &Record) {
        let entry = (record.term, record.name.clone());
        let first = self.committed.entry((group, index)).or_insert_with(|| entry.clone());
        assert!(*first == entry || self.broken_on_purpose, "{index} was {first:?}, is {entry:?}");
    }
}
