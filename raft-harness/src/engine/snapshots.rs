//! Snapshots in an engine: when one is taken, what one that came replaces, and how much of the
//! log stays.
//!
//! Invariants: one is taken at the index the machine has applied, at most one at a time per
//! group; the log is compacted only after that one is durable, and not what a peer that is heard
//! of needs, up to a bound; a machine made from a snapshot takes its place in the very step in
//! which the core lets go of the log; what a compaction or an installed snapshot leaves of the log is what
//! the newest durable snapshot names, and those that peers fetch.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use raft_core::{
    Base, Entry, GroupId, GroupIncarnation, Input, LogIndex, PersistSeq, SnapshotEffect,
    SnapshotMeta, Term,
};
use raft_storage::{Compaction, GroupWrite, LIVE_BYTES_MAX, LiveEntries};
use tracing::{error, warn};

use super::io::{ApplyJob, ApplyTask, PersistTicket, TurnOutput};
use super::log_sizes::LogSizes;
use super::machine::{MachineHost, MachineState};
use super::payloads::Payloads;
use super::removal::Ended;
use super::shard_engine::{Durability, ShardEngine};
use super::slot::Slot;
use crate::bodies::NewMachine;
use crate::counters::Counters;
use crate::event::Event;
use crate::request::{Proposed, Reply, RequestError};
use crate::snapshot::desk::{DeskInput, Wanted};
use crate::snapshot::format::Left;
use crate::snapshot::workshop::Taking;
use crate::snapshot::{Restored, SnapshotName};

/// The snapshots of one group.
#[derive(Default)]
pub(super) struct Snapshots {
    /// The one being taken.
    pub(super) taking: Option<LogIndex>,
    /// The job by which an apply worker was asked for its state.
    asked: u64,
    /// Its state, which may not become durable before the entries it covers are on a quorum's disks.
    held: Option<Box<(SnapshotMeta, MachineState)>>,
    /// Who waits for it.
    waiting: Vec<Reply>,
    /// The machine gives none.
    unsupported: bool,
    /// The last one that was not taken: a disk that had no room for it will hardly have some now.
    failed: LogIndex,
    /// The newest one is of no use to anybody: another is to take its place, at the same index or later.
    is_useless: bool,
    /// The newest one that the log was not compacted for yet.
    owed: Option<LogIndex>,
    /// The bytes of the log.
    pub(super) sizes: LogSizes,
    /// Bytes that had been applied when the last one was taken, or came.
    counted: u64,
    /// Bytes of payloads that the machine had let go of by then.
    released: u64,
    /// How long the newest one is.
    pub(super) bytes: u64,
    /// What the one being taken names.
    naming: Arc<LiveEntries>,
    /// The log holds entries that were fetched for one that has not come.
    pub(super) has_fetched: bool,
    /// How often the log was told to drop them that has not been done.
    pub(super) dropping: u32,
    /// The newest operation that cuts the log and is not on disk yet.
    cutting: Option<PersistSeq>,
    /// The last entry that the log could not read when a peer fetched it.
    unreadable: Option<(LogIndex, Term)>,
    /// What those name that are durable, up to the newest: the older ones as long as peers fetch them.
    named: Vec<(LogIndex, Arc<LiveEntries>)>,
}

/// What stays of the log before a snapshot is at most this part of what makes one due.
const TAIL_PART: u64 = 4;

impl Snapshots {
    /// The machine is what a snapshot says, and the log begins there.
    pub(super) fn stands_at(&mut self, restored: &Restored) {
        (self.owed, self.is_useless) = (None, false);
        self.sizes.reset();
        self.counted = self.sizes.total();
        self.released = 0;
        self.bytes = restored.bytes;
        self.named = vec![(restored.meta.index, Arc::clone(&restored.left.live))];
    }

    /// A new one is durable, and peers fetch none that is older than `offered`.
    fn has_taken(&mut self, index: LogIndex, offered: LogIndex) {
        let naming = std::mem::take(&mut self.naming);
        // One that was installed meanwhile has taken its place.
        if self.named.last().is_some_and(|(newest, _)| *newest >= index) {
            return;
        }
        self.named.push((index, naming));
        self.named.retain(|(other, _)| *other >= index.min(offered));
    }

    /// The log was told to cut something off.
    pub(super) fn cuts(&mut self, seq: PersistSeq) {
        self.cutting = Some(seq);
    }

    /// An operation is on disk, and all before it.
    pub(super) fn persisted(&mut self, seq: PersistSeq) {
        self.cutting.take_if(|cutting| *cutting <= seq);
    }

    /// What was fetched for a snapshot is not wanted any more.
    pub(super) fn drop_fetched(&mut self, group: GroupId, out: &mut TurnOutput) {
        if std::mem::take(&mut self.has_fetched) {
            self.dropping += 1;
            let mut write = GroupWrite::new(group);
            write.drop_fetched = true;
            out.persist.push(write);
            out.persist_tickets.push((group, PersistTicket::DropFetched));
        }
    }

    /// Whether a snapshot that is kept names an entry.
    fn names(&self, (index, term): (LogIndex, Term)) -> bool {
        self.named.iter().any(|(_, live)| live.term(index) == Some(term))
    }

    /// Whether a snapshot that is kept names an entry of this index.
    pub(super) fn names_one_at(&self, index: LogIndex) -> bool {
        self.named.iter().any(|(_, live)| live.term(index).is_some())
    }

    /// An entry that cannot be read any more, while a snapshot that is kept names it: who lacks it
    /// cannot be served from here.
    pub(super) fn unreadable_named(&self) -> Option<LogIndex> {
        self.unreadable.filter(|entry| self.names(*entry)).map(|(index, _)| index)
    }

    /// Which entries stay when the log before them goes; `None`: none does.
    pub(super) fn left_in_log(&self) -> Option<Arc<LiveEntries>> {
        let (_, newest) = self.named.last()?;
        let mut all = Arc::clone(newest);
        for (_, live) in self.named.iter().rev().skip(1) {
            let union = all.union(live);
            debug_assert!(union.is_some(), "snapshots of one log agree about its terms");
            // What peers fetch would make too long a list: they are offered a newer one.
            let union = union.filter(|union| union.encode().len() as u64 <= LIVE_BYTES_MAX);
            all = union.map_or(all, Arc::new);
        }
        (!all.is_empty()).then_some(all)
    }

    /// Whoever waits learns that nobody knows; what is under way ends by itself.
    pub(super) fn forget(&mut self) {
        if self.held.take().is_some() {
            self.taking = None;
        }
        self.waiting.clear();
    }
}

impl ShardEngine {
    pub(super) fn on_snapshot_request(
        &mut self,
        group: GroupId,
        reply: Reply,
        out: &mut TurnOutput,
    ) {
        let Some(at) = self.slot_of(group) else {
            reply.send(Err(self.not_here(group)));
            return;
        };
        let slot = &mut self.slots[at as usize];
        if slot.broken.is_some() {
            reply.send(Err(RequestError::Faulted(group)));
            return;
        }
        if slot.snapshots.unsupported {
            reply.send(Err(RequestError::NoSnapshot(group)));
            return;
        }
        if slot.snapshots.taking.is_none() && !slot.has_news() {
            let index = slot.core.snapshot_index();
            reply.send(Ok(Proposed { index, ..Proposed::nothing() }));
            return;
        }
        slot.snapshots.waiting.push(reply);
        self.take_snapshot(at, out);
    }

    /// Takes one if enough was applied since the last.
    pub(super) fn take_snapshot_if_due(&mut self, at: u32, out: &mut TurnOutput) {
        let slot = &self.slots[at as usize];
        let snapshots = &slot.snapshots;
        let last = slot.core.snapshot_index().max(snapshots.failed);
        let released = slot.applied.released.saturating_sub(snapshots.released);
        let (entries, bytes) =
            (slot.dispatched.since(last), snapshots.sizes.total() - snapshots.counted + released);
        let by_count = self.options.snapshot_every.is_some_and(|every| entries >= every);
        let by_bytes =
            self.options.snapshot_bytes.is_some_and(|every| bytes >= every.max(snapshots.bytes));
        if !snapshots.unsupported && (by_count || by_bytes && entries > 0) {
            self.take_snapshot(at, out);
        }
    }

    pub(super) fn take_snapshot(&mut self, at: u32, out: &mut TurnOutput) {
        let slot = &mut self.slots[at as usize];
        if slot.snapshots.taking.is_some() || !slot.has_news() {
            return;
        }
        let Some(meta) = slot.core.snapshot_meta(slot.dispatched) else {
            // Nobody has said yet who belongs to the group.
            self.end_taking(at, false);
            return;
        };
        slot.snapshots.taking = Some(meta.index);
        slot.snapshots.counted = slot.snapshots.sizes.total();
        slot.snapshots.released = slot.applied.released;
        match &mut slot.inline {
            Some(machine) => match machine.snapshot(meta.index) {
                Ok(state) => self.on_machine_state(at, meta, state, out),
                Err(broken) => {
                    self.end_taking(at, false);
                    self.on_machine_broken(at, broken, out);
                }
            },
            None => {
                let task = ApplyTask::Snapshot(meta);
                out.apply.push(ApplyJob { group: slot.spec.group, task });
                slot.jobs += 1;
                slot.snapshots.asked = slot.jobs;
            }
        }
    }

    /// The machine gave its state, or has none to give.
    pub(super) fn on_machine_state(
        &mut self,
        at: u32,
        meta: SnapshotMeta,
        state: Option<MachineState>,
        out: &mut TurnOutput,
    ) {
        let slot = &mut self.slots[at as usize];
        if slot.snapshots.asked < slot.replaced {
            // It was given, or refused, by a machine that is not in use any more.
            self.end_taking(at, false);
            return;
        }
        let Some(state) = state else {
            slot.snapshots.unsupported = true;
            self.end_taking(at, false);
            return;
        };
        slot.snapshots.held = Some(Box::new((meta, state)));
        self.release_snapshot(at, out);
    }

    /// Writes a state down once nothing it covers can be forgotten by a quorum any more: a snapshot
    /// that outlived the entries would stand for a log that went another way.
    pub(super) fn release_snapshot(&mut self, at: u32, out: &mut TurnOutput) {
        let slot = &mut self.slots[at as usize];
        let safe = slot.core.quorum_durable_index();
        let may_go = |index| index <= safe || raft_core::planted!(SnapshotBeyondQuorum);
        let held = slot.snapshots.held.take_if(|held| may_go(held.0.index));
        let Some((meta, state)) = held.map(|held| *held) else { return };
        let MachineState { pieces, live, live_bytes } = state;
        let name = SnapshotName {
            group: slot.spec.group,
            incarnation: slot.incarnation,
            index: meta.index,
            term: meta.term,
        };
        let offered = slot.core.snapshot_offered().unwrap_or(meta.index);
        let keep_from = meta.index.min(offered).min(slot.core.snapshot_index());
        slot.snapshots.naming = Arc::clone(&live);
        if raft_core::planted!(LiveFreedAtRelease) {
            slot.list_anew(&live, out);
        }
        let left = Left { live, bytes: live_bytes };
        let taking = Taking { name, meta, left, pieces, keep_from };
        out.snapshots.push(DeskInput::Take(Box::new(taking)));
    }

    /// The desk is done with it.
    pub(super) fn on_snapshot_done(
        &mut self,
        name: SnapshotName,
        bytes: Option<u64>,
        out: &mut TurnOutput,
    ) {
        let Some(at) = self.slot_of(name.group) else {
            self.on_left(name.group, Ended::SnapshotTaken, out);
            return;
        };
        if self.slots[at as usize].snapshots.taking != Some(name.index) {
            return;
        }
        match bytes {
            Some(bytes) => {
                self.step(at, Input::SnapshotTaken(name.index), out);
                let slot = &mut self.slots[at as usize];
                if slot.core.snapshot_index() < name.index {
                    // The log was found damaged meanwhile, below what it stands for: nothing may go
                    // for it, and what the one before it names must stay.
                    slot.snapshots.failed = name.index;
                    self.end_taking(at, false);
                    self.touch(at);
                    return;
                }
                (slot.snapshots.bytes, slot.snapshots.is_useless) = (bytes, false);
                out.events.push(Event::SnapshotTaken {
                    group: name.group,
                    index: name.index,
                    bytes,
                });
                let offered = slot.core.snapshot_offered().unwrap_or(name.index);
                slot.snapshots.has_taken(name.index, offered);
                slot.snapshots.owed = Some(name.index);
                self.compact_if_owed(at, out);
                let held = self.slots[at as usize].snapshots.owed.is_some();
                self.counters.compactions_held.fetch_add(u64::from(held), Relaxed);
            }
            None => self.slots[at as usize].snapshots.failed = name.index,
        }
        self.end_taking(at, bytes.is_some());
        self.touch(at);
    }

    /// Compacts the log as far as the newest snapshot allows, once no peer that is heard of needs
    /// what goes, or it has become too much to be kept.
    pub(super) fn compact_if_owed(&mut self, at: u32, out: &mut TurnOutput) {
        let slot = &self.slots[at as usize];
        let Some(index) = slot.snapshots.owed else { return };
        let upto = self.compactable(&slot.snapshots, index);
        let kept_max = match self.options.snapshot_hold_bytes {
            0 => 0,
            hold => hold.max(slot.snapshots.bytes),
        };
        let needed = slot.core.log_needed_after().filter(|needed| *needed < upto);
        let needed = needed.map_or(0, |needed| slot.snapshots.sizes.behind(needed));
        let keeps = (1..=kept_max).contains(&needed);
        if keeps && !raft_core::planted!(CompactsUnderTransfer) {
            return;
        }
        self.counters.compactions_forced.fetch_add(u64::from(needed > 0), Relaxed);
        #[cfg(feature = "sim")]
        self.show_compaction(self.slots[at as usize].spec.group, needed, kept_max);
        self.step(at, Input::Compact(upto), out);
        let snapshots = &mut self.slots[at as usize].snapshots;
        snapshots.owed = None;
        snapshots.sizes.forget(upto);
    }

    /// How much of the log a snapshot makes superfluous.
    fn compactable(&self, snapshots: &Snapshots, index: LogIndex) -> LogIndex {
        let tail = index.get().saturating_sub(self.options.snapshot_tail);
        let tail = LogIndex::new(tail);
        let every = self.options.snapshot_bytes;
        let first = every.and_then(|every| snapshots.sizes.first_within(every / TAIL_PART));
        first.map_or(tail, |first| tail.max(first.min(index)))
    }

    fn end_taking(&mut self, at: u32, taken: bool) {
        let slot = &mut self.slots[at as usize];
        slot.snapshots.taking = None;
        let index = slot.core.snapshot_index();
        for reply in slot.snapshots.waiting.drain(..) {
            reply.send(match taken {
                true => Ok(Proposed { index, ..Proposed::nothing() }),
                false => Err(RequestError::NoSnapshot(slot.spec.group)),
            });
        }
    }

    /// What the core wants of a snapshot that was offered.
    pub(super) fn on_snapshot_effect(
        &mut self,
        at: u32,
        effect: SnapshotEffect,
        out: &mut TurnOutput,
    ) {
        let slot = &self.slots[at as usize];
        let group = slot.spec.group;
        match effect {
            SnapshotEffect::Fetch { from, meta } => {
                let Some(node) = slot.peers.node_of(from) else {
                    self.step(at, Input::SnapshotFailed { index: meta.index }, out);
                    return;
                };
                let name = SnapshotName {
                    group,
                    incarnation: slot.incarnation,
                    index: meta.index,
                    term: meta.term,
                };
                let (maker, spec) = (slot.maker.clone(), slot.spec.clone());
                let wanted = Wanted {
                    name,
                    meta,
                    node,
                    #[cfg(feature = "sim")]
                    term: slot.core.term(),
                    maker,
                    spec,
                };
                out.snapshots.push(DeskInput::Fetch(Box::new(wanted)));
            }
            SnapshotEffect::Abort { .. } => {
                out.snapshots.push(DeskInput::Abort(group));
                self.slots[at as usize].snapshots.drop_fetched(group, out);
            }
            SnapshotEffect::Doubted { index } => {
                out.snapshots.push(DeskInput::Doubt(group, slot.incarnation, index));
            }
        }
    }

    /// One of our snapshots is damaged or gone. If it was the newest, another is taken, however
    /// little was applied since: whoever lacks what it covers can be served by nothing else.
    pub(super) fn on_snapshot_useless(
        &mut self,
        (group, incarnation): (GroupId, GroupIncarnation),
        index: LogIndex,
        out: &mut TurnOutput,
    ) {
        let Some(at) = self.slot_of(group) else { return };
        let slot = &mut self.slots[at as usize];
        // An older one gives way to the newest with the next offer.
        if slot.incarnation != incarnation || index != slot.core.snapshot_index() {
            return;
        }
        let is_known = std::mem::replace(&mut slot.snapshots.is_useless, true);
        if !is_known && slot.snapshots.taking.is_none() {
            warn!(%group, %index, "a snapshot of no use to anybody is taken anew");
            Counters::add(&self.counters.snapshots_retaken, 1);
        }
        self.take_snapshot(at, out);
    }

    /// The log cannot read an entry that a peer fetches. If a snapshot of ours names it, that is damage of
    /// this replica: another is to lead, which has it and serves whoever lacks it.
    pub(super) fn on_kept_unreadable(
        &mut self,
        (group, incarnation): (GroupId, GroupIncarnation),
        entry: (LogIndex, Term),
        out: &mut TurnOutput,
    ) {
        let Some(at) = self.slot_of(group) else { return };
        let slot = &mut self.slots[at as usize];
        if slot.incarnation != incarnation || !slot.snapshots.names(entry) {
            return;
        }
        if slot.snapshots.unreadable.replace(entry) != Some(entry) {
            Counters::add(&self.counters.kept_entries_lost, 1);
            error!(%group, replica = %slot.core.replica(), "{}", unreadable(entry.0));
        }
        if slot.leads() {
            self.hand_overs.add(at);
        }
        // Another may not name it any more.
        self.take_snapshot(at, out);
    }

    pub(super) fn on_snapshot_fetched(
        &mut self,
        name: SnapshotName,
        restored: Restored,
        out: &mut TurnOutput,
    ) {
        let Some(at) = self.slot_of_life(name) else {
            return;
        };
        // What was fetched for it may be dropped already, if it was given up meanwhile and is wanted
        // anew: it is made of what is there then. And what is on its way to be cut off, because it was
        // found damaged, is in the log only for the moment.
        let slot = &self.slots[at as usize];
        let cuts = slot.persist.as_ref().is_some_and(|persist| persist.truncate_from.is_some());
        let goes = slot.snapshots.dropping > 0 || slot.snapshots.cutting.is_some() || cuts;
        let is_whole = restored.new.bodies.as_ref().is_none_or(|bodies| {
            let live = &restored.left.live;
            live.is_empty() || !goes && bodies.held(live).is_ok()
        });
        if !is_whole {
            self.step(at, Input::SnapshotFailed { index: name.index }, out);
            return;
        }
        self.restored = Some(restored);
        self.step(at, Input::SnapshotReceived { index: name.index, term: name.term }, out);
        // Appends may have been faster; then nobody needs it.
        self.restored = None;
    }

    /// Entries came that a snapshot leaves in the log, and that ours lacks: they are made durable
    /// beside it.
    pub(super) fn on_snapshot_entries(
        &mut self,
        name: SnapshotName,
        entries: Vec<Entry>,
        out: &mut TurnOutput,
    ) {
        let Some(at) = self.slot_of_life(name) else { return };
        if self.options.durability == Durability::Memory {
            return;
        }
        self.slots[at as usize].snapshots.has_fetched = true;
        let bytes = entries.iter().map(Entry::cost).sum();
        let mut write = GroupWrite::new(name.group);
        write.fetched = entries;
        out.persist.push(write);
        out.persist_tickets.push((name.group, PersistTicket::Fetched(name, bytes)));
    }

    pub(super) fn on_snapshot_fetch_failed(&mut self, name: SnapshotName, out: &mut TurnOutput) {
        if let Some(at) = self.slot_of_life(name) {
            self.step(at, Input::SnapshotFailed { index: name.index }, out);
        }
    }

    /// The group a snapshot is of, if it is here in the same life. What the desk got for one that
    /// left is worth nothing to another.
    fn slot_of_life(&self, name: SnapshotName) -> Option<u32> {
        let at = self.slot_of(name.group)?;
        (self.slots[at as usize].incarnation == name.incarnation).then_some(at)
    }

    /// The core let go of its log: the machine that came takes the place of ours.
    pub(super) fn replace_machine(&mut self, at: u32, index: LogIndex, out: &mut TurnOutput) {
        let slot = &mut self.slots[at as usize];
        slot.payloads = Payloads::after(index);
        slot.cold = Vec::new();
        if let Some(fetching) = &mut slot.fetching {
            fetching.cut = true;
        }
        if slot.snapshots.held.take().is_some() {
            self.end_taking(at, false);
        }
        let slot = &mut self.slots[at as usize];
        slot.dispatched = index;
        slot.replay_until = slot.replay_until.min(index);
        slot.appliable = slot.appliable.max(index);
        // Committed, but applied elsewhere: what they did here is in the snapshot, and nobody
        // knows any more what they said. A dropped reply says so.
        let covered = slot.waiters.partition_point(|(waiter, _)| *waiter <= index);
        slot.waiters.drain(..covered);
        self.waiting -= covered;
        let Some(restored) = self.restored.take() else {
            debug_assert!(false, "the core installs only what it was given");
            return;
        };
        slot.snapshots.stands_at(&restored);
        slot.broken = None;
        match &mut slot.inline {
            Some(machine) => {
                machine.replace(restored);
                let applied = machine.applied();
                slot.set_applied(applied, &self.counters);
            }
            None => {
                let task = ApplyTask::Replace(Box::new(restored));
                out.apply.push(ApplyJob { group: slot.spec.group, task });
                slot.jobs += 1;
                slot.replaced = slot.jobs;
            }
        }
    }
}

/// What is wrong with a replica that cannot read an entry its snapshot names, in words.
pub(super) fn unreadable(index: LogIndex) -> String {
    format!(
        "entry {index}, which a snapshot here leaves in the log, cannot be read any more: this \
         replica leads only while no other can, and is to be replaced"
    )
}

impl Slot {
    /// Whether a snapshot would be one that there is not yet.
    fn has_news(&self) -> bool {
        self.dispatched > self.core.snapshot_index() || self.snapshots.is_useless
    }

    /// Leaves only these in the log, where it begins now.
    fn list_anew(&mut self, live: &Arc<LiveEntries>, out: &mut TurnOutput) {
        let Some(meta) = self.core.snapshot_meta(self.core.base_index()) else { return };
        let base = Base {
            index: meta.index,
            term: meta.term,
            config_index: meta.config_index,
            membership: Some(meta.membership),
            snapshot: self.core.snapshot_index(),
        };
        let mut write = GroupWrite::new(self.spec.group);
        write.compact = Some(Compaction { base, time: self.core.log_time() });
        write.live = Some(Arc::clone(live));
        self.snapshots.dropping += 1;
        out.persist.push(write);
        out.persist_tickets.push((self.spec.group, PersistTicket::DropFetched));
    }
}

impl MachineHost {
    /// A machine as it starts: fresh, or as its snapshot says.
    pub(super) fn starting(group: GroupId, new: NewMachine, meta: Option<SnapshotMeta>) -> Self {
        let mut host = Self::new(group, new);
        if let Some(meta) = meta {
            host.stand_at(&meta);
        }
        host
    }
}
