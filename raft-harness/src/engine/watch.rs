//! The engine's replicas, shown to whoever judges them: after each step of a core, before
//! anything that follows from it is carried out.

use raft_core::{Entry, Group, GroupId, GroupIncarnation, LogIndex, LogTime, Micros, NodeId};

use super::io::{SendLane, Source};
use super::messages::Address;
use super::peers::{Peer, PeerKind};
use super::shard_engine::ShardEngine;
use super::slot::Slot;

/// Looks on.
pub(crate) trait Watch: Send {
    /// A replica has made a step, which is dated so.
    fn stepped(&mut self, replica: Replica<'_>, dated: Micros);

    /// The items of a batch have been taken: so many of them were for replicas here, and that
    /// many steps were made.
    fn took_batch(&mut self, due: u64, steps: u64);

    /// A group was told of so many replicas that a lane to them is gone; with so many it still
    /// believes that something is on its way there.
    fn lane_down(&mut self, group: GroupId, told: u64, in_flight: u64);

    /// A group is about to be handed over because the log here ails.
    fn hands_over(&mut self, group: GroupId);

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

    /// Which life of its group it belongs to.
    pub(crate) fn incarnation(self) -> GroupIncarnation {
        self.slot.incarnation
    }

    /// Messages that wait for the log and need not: a newer one says the same to the same replica.
    pub(crate) fn stale_gated(self) -> usize {
        let gated = &self.slot.gated;
        let newer = |at: usize| gated[at + 1..].iter().any(|newer| newer.supersedes(&gated[at]));
        (0..gated.len()).filter(|at| newer(*at)).count()
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

    /// What a shard still holds for somebody, in words. Nothing, once all that was asked of it has
    /// ended: what stays then stays for ever, and one day there is no room.
    pub(crate) fn held(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut count = |what: &str, left: u64| {
            if left > 0 {
                found.push(format!("{left} {what}"));
            }
        };
        count("places for replies", self.replies.taken() as u64);
        count("commands that wait to be applied", self.waiting as u64);
        count("reads", self.reads_open as u64);
        count("hand-overs", self.transfer_replies.len() as u64);
        count("bytes handed to bulk lanes", self.bulk_bytes.iter().sum());
        let parked = self.bulk_parked.iter().filter(|queue| !queue.is_empty()).count();
        count("peers with groups that wait for a bulk lane", parked as u64);
        let parked = self.long_parked.iter().filter(|queue| !queue.is_empty()).count();
        count("peers with groups that wait for a data lane", parked as u64);
        count("replicas on their way out", self.leaving.len() as u64);
        let gone = self.slots.iter().filter(|slot| slot.is_gone).count() as u64;
        count("places of replicas that left", gone.abs_diff(self.free.len() as u64));
        let windows = self.slots.iter().filter(|slot| slot.uses_window).count() as u64;
        count("windows that are counted and not there", self.windows.abs_diff(windows));
        for slot in self.slots.iter().filter(|slot| !slot.is_gone) {
            let group = slot.core.id();
            let mut of_group = |what: &str, left: u64| count(&format!("{what} of {group:?}"), left);
            let asked = slot.reads_asked.len() + slot.reads_leased.len();
            of_group("batches of reads", (asked + slot.reads_confirmed.len()) as u64);
            of_group("waiters", slot.waiters.len() as u64);
            of_group("reads of the log", u64::from(slot.fetching.is_some()));
            of_group("snapshots being taken", u64::from(slot.snapshots.taking.is_some()));
            of_group("operations not given to the log", u64::from(slot.persist.is_some()));
            of_group("messages that wait for the log", slot.gated.len() as u64);
            of_group("jobs of a worker", slot.jobs.abs_diff(slot.applied.jobs));
            let flies = |peer: &&Peer| slot.core.has_in_flight(peer.replica);
            of_group(
                "peers with appends in flight",
                slot.peers.iter().filter(flies).count() as u64,
            );
        }
        found
    }

    /// A node to which a data lane carries appends to two replicas of a group.
    pub(crate) fn lane_to_two(&self) -> Option<NodeId> {
        let two = |at: u32, at_peer| self.on_lane(at, at_peer, SendLane::Data).count() > 1;
        let slots = 0..self.slots.len() as u32;
        let found = (0..self.peers.len()).find(|at_peer| slots.clone().any(|at| two(at, *at_peer)));
        found.map(|at_peer| self.peers[at_peer])
    }

    pub(super) fn show_hand_over(&mut self, at: u32) {
        if let Some(watching) = &mut self.watching {
            watching.watch.hands_over(self.slots[at as usize].spec.group);
        }
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
            let replica = Replica { slot: &self.slots[at as usize], stamp };
            watching.watch.stepped(replica, self.now);
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
