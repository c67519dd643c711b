//! The stamps of entries as they are applied: they never fall along a log, and every replica finds
//! the same.

use std::collections::BTreeMap;

use raft_core::{GroupId, LogIndex, LogTime};

use crate::sim::violation::{Check, Violation};

/// What each group's entries were stamped with, by index, as whoever applied them first found it.
#[derive(Debug, Default)]
pub(super) struct Stamps(BTreeMap<(GroupId, LogIndex), LogTime>);

impl Stamps {
    /// An entry is applied.
    pub(super) fn applied(
        &mut self,
        group: GroupId,
        index: LogIndex,
        time: LogTime,
    ) -> Result<(), Violation> {
        let found = *self.0.entry((group, index)).or_insert(time);
        let before = self.0.get(&(group, index.prev())).copied().unwrap_or_default();
        if found == time && before <= time {
            return Ok(());
        }
        let evidence =
            format!("{index:?} is stamped {time} here, {found} elsewhere, and {before} before it");
        Err(Violation::of_group(Check::StampsRise, group, evidence))
    }
}
