//! Replicas leave a node: their entries and their state go, their name and vote are remembered.
//!
//! A replica that forgot its vote could vote twice, so the tombstone is durable before anything
//! is said to be done, and it answers candidates that still ask. A replica id is never used
//! again; another replica of the group may come.
//!
//! A replica that gives way to a successor leaves in the same manner: the log forgets the one and
//! begins the other in one frame, so that a crash leaves either the one or the other.
//!
//! Invariant: a group's place is free again only when nothing is under way that was asked for in
//! the name of the one that left: not in the log, not at the log's reader, not at a worker, and not
//! where snapshots are fetched and kept. The next replica of the same life of the group may ask for
//! the very snapshot that goes with the one before it.

use raft_core::{GroupId, GroupIncarnation, Tombstone};
use raft_storage::GroupWrite;
use raft_transport::Envelope;
use tracing::info;

use super::io::{ApplyJob, ApplyTask, MakeMachine, PersistTicket, Source, TurnOutput};
use super::payloads::Payloads;
use super::peers::Peers;
use super::shard_engine::{Durability, ShardEngine};
use super::slot::Slot;
use crate::event::Event;
use crate::group_spec::GroupSpec;
use crate::request::{Proposed, Removal, Reply, RequestError};
use crate::snapshot::desk::DeskInput;

/// A replica on its way out.
pub(super) struct Leaving {
    /// Its place; one that could not be started has none.
    at: Option<u32>,
    incarnation: GroupIncarnation,
    tombstone: Tombstone,
    /// The log has the tombstone.
    is_buried: bool,
    snapshots: Left,
    reply: Option<Reply>,
    /// Who begins in its place.
    pub(super) successor: Option<Box<Successor>>,
}

/// A replica that begins in the place of one that leaves.
pub(super) struct Successor {
    pub(super) spec: GroupSpec,
    pub(super) maker: MakeMachine,
    /// The log has its beginning.
    pub(super) is_on_disk: bool,
}

/// What is left of a replica's snapshots.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Left {
    /// All. A crash could bring back the log that needs them.
    All,
    /// The desk has been told to forget them.
    Going,
    None,
}

impl ShardEngine {
    pub(super) fn on_remove(
        &mut self,
        group: GroupId,
        removal: Removal,
        reply: Reply,
        out: &mut TurnOutput,
    ) {
        let Some(at) = self.slot_of(group) else {
            self.on_remove_unusable(group, removal, reply, out);
            return;
        };
        let status = self.slots[at as usize].core.status();
        if removal == Removal::OfFormerMember && !status.removed {
            reply.send(Err(RequestError::StillMember(group)));
            return;
        }
        self.let_leave(at, Some(reply), None, out);
    }

    /// One that could not be started leaves like any other. That its group removed it, it cannot know.
    fn on_remove_unusable(
        &mut self,
        group: GroupId,
        removal: Removal,
        reply: Reply,
        out: &mut TurnOutput,
    ) {
        if removal == Removal::OfFormerMember && self.unusable.contains_key(&group) {
            reply.send(Err(RequestError::StillMember(group)));
            return;
        }
        let Some(unusable) = self.unusable.remove(&group) else {
            reply.send(Err(RequestError::UnknownGroup(group)));
            return;
        };
        let (incarnation, tombstone) = (unusable.incarnation(), unusable.tombstone());
        info!(%group, replica = %tombstone.replica, "a replica leaves that could not be started");
        self.bury((None, incarnation, tombstone), Some(reply), None, out);
    }

    /// A replica leaves, and may give its place to another.
    pub(super) fn let_leave(
        &mut self,
        at: u32,
        reply: Option<Reply>,
        successor: Option<Box<Successor>>,
        out: &mut TurnOutput,
    ) {
        let group = self.slots[at as usize].spec.group;
        self.abandon_slot(at, &RequestError::UnknownGroup(group));
        if self.slots[at as usize].was_leader {
            out.given_up.push(group);
        }
        self.replies.forget(group);
        for (_, _, reply) in self.transfer_replies.extract_if(.., |(_, of, _)| *of == group) {
            reply.send(Err(RequestError::UnknownGroup(group)));
        }
        let slot = &mut self.slots[at as usize];
        let tombstone = slot.core.tombstone();
        info!(%group, replica = %tombstone.replica, term = %slot.core.term(), "the replica leaves");
        slot.leave(out);
        self.spreading.forget(at);
        self.replacing.forget(at);
        self.hand_overs.forget(at);
        let slot = &mut self.slots[at as usize];
        if std::mem::take(&mut slot.uses_window) {
            self.windows -= 1;
        }
        let incarnation = slot.incarnation;
        self.by_group.remove(&group);
        out.leaders.push((group, None));
        out.events.push(Event::Removed { group });
        self.bury((Some(at), incarnation, tombstone), reply, successor, out);
    }

    /// Has the log forget a replica, whose place this is if it has one, and begin its successor, if it
    /// has one.
    fn bury(
        &mut self,
        (at, incarnation, tombstone): (Option<u32>, GroupIncarnation, Tombstone),
        reply: Option<Reply>,
        successor: Option<Box<Successor>>,
        out: &mut TurnOutput,
    ) {
        let group = tombstone.group;
        let is_buried = self.options.durability == Durability::Memory;
        if !is_buried {
            let mut write = GroupWrite::new(group);
            write.destroy = Some(tombstone);
            out.persist.push(write);
            out.persist_tickets.push((group, PersistTicket::Destroy));
            if let Some(successor) = &successor {
                out.persist.push(successor.creation(incarnation));
                out.persist_tickets.push((group, PersistTicket::Create));
            }
        }
        let snapshots = Left::All;
        let leaving =
            Leaving { at, incarnation, tombstone, is_buried, snapshots, reply, successor };
        self.leaving.insert(group, leaving);
        self.settle_leaving(group, out);
    }

    /// Something came to its end that was under way for a replica that left.
    pub(super) fn on_left(&mut self, group: GroupId, what: Ended, out: &mut TurnOutput) {
        let Some(leaving) = self.leaving.get_mut(&group) else {
            return;
        };
        let mut slot = leaving.at.map(|at| &mut self.slots[at as usize]);
        match what {
            Ended::Persisted(PersistTicket::Destroy) => leaving.is_buried = true,
            Ended::Persisted(PersistTicket::Create) => {
                if let Some(successor) = &mut leaving.successor {
                    successor.is_on_disk = true;
                }
            }
            Ended::Persisted(
                PersistTicket::Op(_)
                | PersistTicket::Fetched(..)
                | PersistTicket::DropFetched
                | PersistTicket::Early(..),
            ) => {}
            Ended::Applied(applied) => {
                if let Some(slot) = &mut slot {
                    slot.set_applied(applied, &self.counters);
                }
            }
            Ended::Fetched => {
                if let Some(slot) = &mut slot {
                    slot.fetching = None;
                }
            }
            Ended::SnapshotTaken => {
                if let Some(slot) = &mut slot {
                    slot.snapshots.taking = None;
                }
            }
            Ended::SnapshotsForgotten => leaving.snapshots = Left::None,
        }
        self.settle_leaving(group, out);
    }

    fn settle_leaving(&mut self, group: GroupId, out: &mut TurnOutput) {
        let Some(leaving) = self.leaving.get_mut(&group) else {
            return;
        };
        let is_idle = |slot: &Slot| {
            slot.fetching.is_none()
                && slot.snapshots.taking.is_none()
                && slot.jobs == slot.applied.jobs
        };
        let quiet = leaving.is_buried
            && leaving.successor.as_ref().is_none_or(|successor| successor.is_on_disk)
            && leaving.at.is_none_or(|at| is_idle(&self.slots[at as usize]));
        match leaving.snapshots {
            Left::All if quiet => {
                leaving.snapshots = Left::Going;
                let (incarnation, tombstone) = (leaving.incarnation, leaving.tombstone);
                out.snapshots.push(DeskInput::Forget(group, incarnation));
                self.remember(incarnation, tombstone);
            }
            Left::All | Left::Going => {}
            Left::None => {
                if let Some(leaving) = self.leaving.remove(&group) {
                    if let Some(at) = leaving.at {
                        self.give_place_back(at);
                    }
                    if let Some(reply) = leaving.reply {
                        reply.send(Ok(Proposed::nothing()));
                    }
                    if let Some(successor) = leaving.successor {
                        self.begin_successor(*successor, out);
                    }
                }
            }
        }
    }

    /// A place for a replica that begins.
    pub(super) fn take_place(&mut self, slot: Slot) -> u32 {
        match self.free.pop() {
            Some(at) => {
                self.slots[at as usize] = slot;
                at
            }
            None => {
                self.slots.push(slot);
                self.slots.len() as u32 - 1
            }
        }
    }

    /// A replica is gone, and another may have its place. What is noted by place of this one must
    /// not be taken for the other's; marks for lanes and timers only make somebody look once more.
    fn give_place_back(&mut self, at: u32) {
        self.abandons.retain(|(_, other)| *other != at);
        self.declining.retain(|other| *other != at);
        self.leased.retain(|other| *other != at);
        self.free.push(at);
    }

    /// Remembers a replica that is gone.
    pub(super) fn remember(&mut self, incarnation: GroupIncarnation, tombstone: Tombstone) {
        if raft_core::planted!(GoneReplicaForgotten) {
            return;
        }
        self.tombstones.insert(tombstone.group, (incarnation, tombstone));
    }

    /// Speaks for a replica that is gone, if the message was for it.
    pub(super) fn answer_for_the_gone(
        &mut self,
        source: Source,
        envelope: &Envelope,
        out: &mut TurnOutput,
    ) {
        let Some((incarnation, tombstone)) = self.tombstones.get(&envelope.group) else {
            return;
        };
        if *incarnation == envelope.group_incarnation
            && tombstone.replica == envelope.to
            && let Some(message) = tombstone.answer(&envelope.message)
        {
            let answer = Envelope {
                from: envelope.to,
                to: envelope.from,
                message,
                entries: Vec::new(),
                ..*envelope
            };
            out.control.push((source.node, answer));
        }
    }
}

/// What came to its end.
pub(super) enum Ended {
    Persisted(PersistTicket),
    Applied(super::machine::Applied),
    Fetched,
    SnapshotTaken,
    SnapshotsForgotten,
}

impl Slot {
    /// Lets go of everything: nothing reaches the core any more.
    fn leave(&mut self, out: &mut TurnOutput) {
        self.is_gone = true;
        self.peers = Peers::default();
        self.payloads = Payloads::after(self.core.last_index());
        self.cold = Vec::new();
        self.persist = None;
        self.gated = Vec::new();
        self.created = Vec::new();
        self.was_leader = false;
        self.snapshots.forget();
        out.snapshots.push(DeskInput::Abort(self.spec.group));
        if self.inline.take().is_none() {
            out.apply.push(ApplyJob { group: self.spec.group, task: ApplyTask::Stop });
            self.jobs += 1;
        }
    }
}
