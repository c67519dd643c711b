//! What a group's strategy asks of the log: which operations may be told of before they are on
//! disk, and how long their sync may wait.

use raft_core::{EntryKind, PersistSeq};
use raft_storage::GroupWrite;

use super::io::PersistTicket;
use super::slot::Slot;
use crate::persistence::{FlushPolicy, Strategy};

impl Slot {
    /// When its entries count.
    pub(crate) fn strategy(&self) -> Strategy {
        self.spec.strategy.unwrap_or_default()
    }

    /// How an operation of its core is to be acknowledged.
    ///
    /// Term, vote, promises and an installed snapshot are only told of when they are on disk. The
    /// first entry of a term and memberships are told of early, as what follows them rests on the
    /// log's order alone, but count only on disk: so their sync does not wait.
    pub(super) fn ticket(&self, seq: PersistSeq, write: &GroupWrite) -> PersistTicket {
        let rests_on_disk = write.hard_state.is_some()
            || write.promise.is_some()
            || write.install.is_some()
            || write.drop_fetched
            || !write.fetched.is_empty();
        if self.strategy() == Strategy::DiskFirst || rests_on_disk {
            return PersistTicket::Op(seq);
        }
        let is_urgent = write.entries.iter().any(|entry| match entry.kind {
            EntryKind::Noop | EntryKind::Config => true,
            EntryKind::Command => false,
        });
        let flush = if is_urgent { FlushPolicy::Immediate } else { self.flush };
        PersistTicket::Early(seq, flush)
    }
}
