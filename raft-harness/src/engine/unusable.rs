//! Replicas that cannot go on from what their disk holds.
//!
//! One whose log is whole, but begins behind a state that no snapshot here has any more, follows
//! without a machine: it stands for nothing and counts for nothing, as one that may have forgotten a
//! vote, so whoever leads [replaces](super::replacing) it. If its leader's log begins later than its own
//! ends, it is sent a snapshot first: then it has a state again, is told as faulted no more, and is
//! replaced all the same. Its log says nothing of this, so a start that can read the snapshot after all
//! finds it as good as ever. Two things make an exception: damage found in its log while it follows is
//! noted there, and with it that its promises are unproven; and a process that ran out of descriptors
//! does not start, as that says nothing of the snapshot.
//!
//! One whose log contradicts itself has no core. It stays as it is, is told as faulted, and leads
//! nowhere but to its removal: what it voted and acknowledged nobody may forget by founding it anew.
//!
//! Invariant: neither is forgotten by anything but a removal, which buries its name and vote.

use bytes::Bytes;
use raft_core::{
    GroupId, GroupIncarnation, HardState, LogIndex, LogTime, Member, NodeId, PromiseRecord,
    ReplicaId, Tombstone,
};
use raft_storage::RecoveredGroup;
use tracing::error;

use super::creation::SlotError;
use super::shard_engine::ShardEngine;
use crate::counters::Counters;
use crate::group_spec::GroupSpec;
use crate::node_status::{GroupStatus, Role};
use crate::persistence::Strategy;
use crate::request::RequestError;

/// What is known of a replica that has no core.
#[derive(Clone, Debug)]
pub(super) struct Unusable {
    group: GroupId,
    incarnation: GroupIncarnation,
    replica: ReplicaId,
    hard_state: HardState,
    promise: PromiseRecord,
    base_index: LogIndex,
    last_index: LogIndex,
    members: Vec<Member>,
    strategy: Strategy,
    label: Bytes,
    why: String,
}

impl Unusable {
    /// What the log holds of a replica.
    pub(super) fn holding(spec: &GroupSpec, log: &RecoveredGroup, node: NodeId) -> Self {
        let newest = log.configs.last().map(|(_, membership)| membership);
        let membership = newest.or(log.base.membership.as_ref());
        let members = match membership {
            Some(membership) => membership.members().to_vec(),
            None => spec.founders().collect(),
        };
        Self {
            group: spec.group,
            incarnation: spec.incarnation,
            replica: spec.replica_on(node).unwrap_or_default(),
            hard_state: log.hard_state,
            promise: log.promise,
            base_index: log.base.index,
            last_index: log.last_index,
            members,
            strategy: spec.strategy.unwrap_or_default(),
            label: spec.label.clone(),
            why: String::new(),
        }
    }

    /// Of a replica that has just begun.
    pub(super) fn fresh(spec: &GroupSpec, node: NodeId) -> Self {
        Self::holding(spec, &RecoveredGroup::default(), node)
    }

    pub(super) fn incarnation(&self) -> GroupIncarnation {
        self.incarnation
    }

    /// What must be kept when it is removed.
    pub(super) fn tombstone(&self) -> Tombstone {
        let Self { group, replica, hard_state, .. } = *self;
        Tombstone { group, replica, hard_state }
    }

    pub(super) fn status(&self) -> GroupStatus {
        GroupStatus {
            group: self.group,
            role: Role::Follower,
            leader: None,
            term: self.hard_state.term,
            last_index: self.last_index,
            durable_index: self.last_index,
            flush_lag_bytes: 0,
            flush_lag_ms: 0,
            commit_index: self.base_index,
            applied_index: LogIndex::ZERO,
            log_time: LogTime::default(),
            applied_commands: 0,
            strategy: self.strategy,
            loss_epoch: self.promise.loss_epoch,
            quorum_durable_index: self.base_index,
            label: self.label.clone(),
            snapshot_index: LogIndex::ZERO,
            base_index: self.base_index,
            members: self.members.clone(),
            removed: false,
            is_replaying: false,
            promise: self.promise.promise,
            fault: Some(self.why.clone()),
        }
    }
}

/// Why a replica has no state, in words.
pub(super) fn stateless(base: LogIndex) -> String {
    format!(
        "its log begins behind entry {base}, and no snapshot here that reaches so far can be read: \
         it waits for a snapshot, or to be replaced"
    )
}

impl ShardEngine {
    /// A replica follows without a state.
    pub(super) fn note_stateless(&mut self, at: u32) {
        Counters::add(&self.counters.groups_faulted, 1);
        let slot = &self.slots[at as usize];
        let (group, why) = (slot.spec.group, slot.broken.as_deref().unwrap_or_default());
        error!(%group, replica = %slot.core.replica(), why, "a replica has no state");
    }

    /// A replica cannot be started at all.
    pub(super) fn note_unusable(&mut self, held: Unusable, error: &SlotError) {
        Counters::add(&self.counters.groups_faulted, 1);
        error!(group = %held.group, replica = %held.replica, %error, "cannot start the group");
        let why = format!("cannot be started from what the log holds: {error}");
        self.unusable.insert(held.group, Unusable { why, ..held });
    }

    /// Why a group that has no core here is of no use to whoever asks.
    pub(super) fn not_here(&self, group: GroupId) -> RequestError {
        match self.unusable.contains_key(&group) {
            true => RequestError::Faulted(group),
            false => RequestError::UnknownGroup(group),
        }
    }
}
