//! Replicas leave a node: their entries and their state go, their name and vote are remembered.
//!
//! A replica that forgot its vote could vote twice, so the tombstone is durable before anything
//! is said to be done, and it answers candidates that still ask. A replica id is never used
//! again; another replica of the group may come.
//!
//! Invariant: a group's place is free again only when nothing is under way that was asked for in
//! the name of the one that left: not in the log, not at the log's reader, not at a worker, and not
//! where snapshots are fetched and kept. The next replica of the same life of the group may ask for
//! the very snapshot that goes with the one before it.

use raft_core::{GroupId, GroupIncarnation, Tombstone};
use raft_storage::GroupWrite;
use raft_transport::Envelope;
use tracing::info;

use super::io::{ApplyJob, ApplyTask, PersistTicket, Source, TurnOutput};
use super::payloads::Payloads;
use super::peers::Peers;
use super::shard_engine::{Durability, ShardEngine};
use super::slot::Slot;
use crate::request::{Proposed, Removal, Reply, RequestError};
use crate::snapshot::desk::DeskInput;

/// A replica on its way out.
pub(super) struct Leaving {
    at: u32,
    incarnation: GroupIncarnation,
    tombstone: Tombstone,
    /// The log has the tombstone.
    is_buried: bool,
    snapshots: Left,
    reply: Reply,
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
            reply.send(Err(RequestError::UnknownGroup(group)));
            return;
        };
        let status = self.slots[at as usize].core.status();
        if removal == Removal::OfFormerMember && !status.removed {
            reply.send(Err(RequestError::StillMember(group)));
            return;
        }
        self.abandon_slot(at, &RequestError::UnknownGroup(group));
        self.replies.forget(group);
        for (_, _, reply) in self.transfer_replies.extract_if(.., |(_, of, _)| *of == group) {
            reply.send(Err(RequestError::UnknownGroup(group)));
        }
        let slot = &mut self.slots[at as usize];
        let tombstone = slot.core.tombstone();
        info!(%group, replica = %tombstone.replica, term = %status.term, "the replica leaves");
        slot.leave(out);
        if std::mem::take(&mut slot.uses_window) {
            self.windows -= 1;
        }
        let incarnation = slot.incarnation;
        self.by_group.remove(&group);
        out.leaders.push((group, None));
        let snapshots = Left::All;
        let mut leaving =
            Leaving { at, incarnation, tombstone, is_buried: false, snapshots, reply };
        match self.options.durability {
            Durability::Memory => leaving.is_buried = true,
            Durability::Log => {
                let mut write = GroupWrite::new(group);
                write.destroy = Some(tombstone);
                out.persist.push(write);
                out.persist_tickets.push((group, PersistTicket::Destroy));
            }
        }
        self.leaving.insert(group, leaving);
        self.settle_leaving(group, out);
    }

    /// Something came to its end that was under way for a replica that left.
    pub(super) fn on_left(&mut self, group: GroupId, what: Ended, out: &mut TurnOutput) {
        let Some(leaving) = self.leaving.get_mut(&group) else {
            return;
        };
        let slot = &mut self.slots[leaving.at as usize];
        match what {
            Ended::Persisted(PersistTicket::Destroy) => leaving.is_buried = true,
            Ended::Persisted(
                PersistTicket::Create
                | PersistTicket::Op(_)
                | PersistTicket::Fetched(..)
                | PersistTicket::DropFetched
                | PersistTicket::Early(..)
                | PersistTicket::Noted,
            ) => {}
            Ended::Applied(applied) => slot.set_applied(applied, &self.counters),
            Ended::Fetched => slot.fetching = None,
            Ended::SnapshotTaken => slot.snapshots.taking = None,
            Ended::SnapshotsForgotten => leaving.snapshots = Left::None,
        }
        self.settle_leaving(group, out);
    }

    fn settle_leaving(&mut self, group: GroupId, out: &mut TurnOutput) {
        let Some(leaving) = self.leaving.get_mut(&group) else {
            return;
        };
        let slot = &self.slots[leaving.at as usize];
        let quiet = leaving.is_buried
            && slot.fetching.is_none()
            && slot.snapshots.taking.is_none()
            && slot.jobs == slot.applied.jobs;
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
                    leaving.reply.send(Ok(Proposed::nothing()));
                }
            }
        }
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
