//! The engine's replicas, shown to whoever judges them: after each step of a core, before
//! anything that follows from it is carried out.

use raft_core::{Entry, Group, GroupId, LogIndex, LogTime};

use super::io::Source;
use super::messages::Address;
use super::peers::PeerKind;
use super::shard_engine::ShardEngine;
use super::slot::Slot;

/// Looks on.
pub(crate) trait Watch: Send {
    /// A replica has made a step.
    fn stepped(&mut self, replica: Replica<'_>);

    /// The items of a batch have been taken: so many of them were for replicas here, and that
    /// many steps were made.
    fn took_batch(&mut self, due: u64, steps: u64);

    /// A group was told of so many replicas that a lane to them is gone; with so many it still
    /// believes that something is on its way there.
    fn lane_down(&mut self, group: GroupId, told: u64, in_flight: u64);

    /// A log is about to be compacted. So many bytes of it some peer needs, none or more, and that
    /// many would be kept for it.
    fn compacts(&mut self, group: GroupId, needed: u64, kept_max: u64);
}

/// One who looks on, and the steps it was shown.
pub(super) struct Watching {
    watch: Box<dyn Watch>,
    steps: u64,
}

/// One replica as its shard holds it.
#[derive(Clone, Copy)]
pub(crate) struct Replica<'a> {
    slot: &'a Slot,
    stamp: Option<LogTime>,
}

impl<'a> Replica<'a> {
    pub(crate) fn core(self) -> &'a Group {
        &self.slot.core
    }

    /// What it would stamp its next entry with, if it has just made a step and leads.
    pub(crate) fn stamp(self) -> Option<LogTime> {
        self.stamp
    }

    /// An entry of its log, if it is at hand.
    pub(crate) fn entry(self, index: LogIndex) -> Option<&'a Entry> {
        self.slot.entry(index)
    }
}

/// A batch that is about to be taken.
pub(super) struct Batch {
    due: u64,
    steps_before: u64,
}

impl ShardEngine {
    /// Shows every step from now on.
    pub(crate) fn watch(&mut self, watch: impl Watch + 'static) {
        self.watching = Some(Watching { watch: Box::new(watch), steps: 0 });
    }

    /// All replicas as they are now; those that left are none any more.
    pub(crate) fn replicas(&self) -> impl Iterator<Item = Replica<'_>> {
        self.slots.iter().filter(|slot| !slot.is_gone).map(|slot| Replica { slot, stamp: None })
    }

    /// What is taken of the bulk lanes' room.
    pub(crate) fn bulk_bytes_taken(&self) -> u64 {
        self.bulk_bytes.iter().sum()
    }

    pub(super) fn show_compaction(&mut self, group: GroupId, needed: u64, kept_max: u64) {
        if let Some(watching) = &mut self.watching {
            watching.watch.compacts(group, needed, kept_max);
        }
    }

    pub(super) fn show(&mut self, at: u32) {
        let leads = self.watching.is_some() && self.slots[at as usize].core.is_leader();
        let stamp = leads.then(|| self.stamp(at).time());
        if let Some(watching) = &mut self.watching {
            watching.steps += 1;
            watching.watch.stepped(Replica { slot: &self.slots[at as usize], stamp });
        }
    }

    /// Counts the items of a batch that must be taken; `None` if nobody looks on.
    pub(super) fn batch<'a, T>(&self, source: Source, items: &'a [T]) -> Option<Batch>
    where
        Address: From<&'a T>,
    {
        let steps_before = self.watching.as_ref()?.steps;
        let due = items.iter().filter(|item| self.is_due(source, &Address::from(item))).count();
        Some(Batch { due: due as u64, steps_before })
    }

    /// All items of a batch have been taken.
    pub(super) fn show_batch(&mut self, batch: Option<Batch>) {
        if let (Some(watching), Some(batch)) = (&mut self.watching, batch) {
            watching.watch.took_batch(batch.due, watching.steps - batch.steps_before);
        }
    }

    /// A group has been told that a lane is gone.
    pub(super) fn show_lane_down(&mut self, at: u32, told: u64, in_flight: u64) {
        if let Some(watching) = &mut self.watching {
            watching.watch.lane_down(self.slots[at as usize].spec.group, told, in_flight);
        }
    }

    /// Whether the replica it is for lives here and has no reason to mistrust it.
    fn is_due(&self, source: Source, address: &Address) -> bool {
        let Some(at) = self.slot_of(address.group) else { return false };
        let slot = &self.slots[at as usize];
        let peer = slot.peers.get(address.from);
        (slot.incarnation, slot.core.replica()) == (address.incarnation, address.to)
            && address.from != address.to
            && peer.is_some_and(|p| p.kind == PeerKind::Member && p.node == source.node)
    }
}
