//! What the log knows of a group beside where its entries lie.
//!
//! It is kept up to date by the writer, because a checkpoint holds it, and by recovery, which
//! makes a [`RecoveredGroup`](crate::RecoveredGroup) of it. About 200 bytes per group, its
//! description not counted.

use std::sync::Arc;

use bytes::Bytes;
use raft_core::{
    Base, GroupIncarnation, HardState, LogIndex, LogTime, Membership, PromiseRecord, Tombstone,
};

/// What is in force in a group.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Facts {
    /// Its description, in the caller's encoding.
    pub(crate) spec: Bytes,
    pub(crate) hard_state: HardState,
    pub(crate) promise: PromiseRecord,
    pub(crate) base: Base,
    /// The memberships among the entries, in order.
    pub(crate) configs: Vec<(LogIndex, Arc<Membership>)>,
    /// The clock in the last entry; `None` after a truncation, until it is read again.
    pub(crate) last_time: Option<LogTime>,
    /// The newest clock when the log began at its base.
    pub(crate) base_time: LogTime,
    /// Of a replica that was destroyed here, whether or not another one came.
    pub(crate) tombstone: Option<(GroupIncarnation, Tombstone)>,
}
