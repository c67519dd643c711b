//! Marks of snapshots: what became of those that were offered.

use super::super::world::World;
use super::Step;
use super::before::Cause;
use crate::sim::marks::Mark;

impl World {
    pub(super) fn note_snapshot(&mut self, step: &Step<'_>) {
        let (before, now) = (&step.before, &step.now);
        if step.log.installed {
            self.marks.hit(Mark::SnapshotInstalled);
            // A log that reaches so far and agrees needs no snapshot.
            if before.last >= now.base_index {
                self.marks.hit(Mark::SnapshotConflict);
            }
            if step.core.membership_index() > before.last {
                self.marks.hit(Mark::SnapshotWithConfig);
            }
            return;
        }
        let offered = matches!(before.cause, Cause::Snapshot(_, offer)
            if offer.term == now.term
                && (offer.index <= before.commit
                    || step.core.entry_term(offer.index) == Some(offer.index_term)));
        let received = matches!(before.cause, Cause::SnapshotReceived(index)
            if index <= before.commit);
        if offered || received {
            self.marks.hit(Mark::SnapshotRefused);
        }
    }
}
