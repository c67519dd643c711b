//! One group as its shard holds it: the core, and what the driver adds to it.

use std::collections::VecDeque;
use std::sync::Arc;

use raft_core::{
    Entry, Gated, Group, GroupIncarnation, LogIndex, NodeId, Persist, PersistSeq, ReplicaId, Token,
};

use super::io::{CreateDone, Created, MakeMachine};
use super::log_time::LogClock;
use super::machine::{Applied, MachineHost};
use super::payloads::Payloads;
use super::peers::{Peer, Peers};
use super::reads::{Leased, NewReads, Reads};
use super::snapshots::Snapshots;
use super::timers::Armed;
use crate::counters::Counters;
use crate::group_spec::GroupSpec;
use crate::persistence::FlushPolicy;
use crate::request::Reply;

/// Jobs of one group under way at an apply worker: enough to keep it busy while it reports.
const APPLY_JOBS_MAX: u64 = 4;

pub(crate) struct Slot {
    pub(crate) spec: Arc<GroupSpec>,
    pub(crate) incarnation: GroupIncarnation,
    /// How long its entries may wait for their sync, if its strategy lets them.
    pub(super) flush: FlushPolicy,
    pub(crate) core: Group,
    /// Which stamp the next entry is given, if it is led here.
    pub(super) log_clock: LogClock,
    pub(crate) peers: Peers,
    pub(crate) payloads: Payloads,
    /// Counted among the groups that share the shard's window.
    pub(crate) uses_window: bool,
    /// Entries read back from the log, contiguous: for replay and for peers far behind.
    pub(crate) cold: Vec<Entry>,
    /// The read of the log that is under way.
    pub(crate) fetching: Option<Fetching>,
    /// The first entry that was found damaged when nobody had asked for it, and that is to be read.
    pub(crate) doubted: Option<LogIndex>,
    /// The core's operation that the log has not been given yet.
    pub(crate) persist: Option<Persist>,
    /// The newest operation the log was given.
    pub(crate) persisting: PersistSeq,
    /// Messages that wait for the log: as many as [`Outbox::hold_gated`](raft_core::Outbox::hold_gated)
    /// leaves of the members and guests there are, however long it takes. Others are dropped.
    pub(crate) gated: Vec<Gated>,
    pub(crate) appliable: LogIndex,
    /// Up to here entries were given to the state machine.
    pub(crate) dispatched: LogIndex,
    pub(crate) waiters: VecDeque<(LogIndex, Reply)>,
    /// Reads that came in this turn; they share one confirmation.
    pub(crate) reads_new: NewReads,
    /// Reads whose confirmation is under way.
    pub(crate) reads_asked: VecDeque<(Token, Reads)>,
    /// Reads that a lease vouched for, until the clock is looked at once more.
    pub(crate) reads_leased: Vec<Leased>,
    /// Confirmed reads that wait for their index to be applied.
    pub(crate) reads_confirmed: VecDeque<(LogIndex, Reads)>,
    /// Makes state machines of this group.
    pub(crate) maker: MakeMachine,
    pub(super) snapshots: Snapshots,
    /// The state machine, if it runs here; otherwise it is with an apply worker.
    pub(crate) inline: Option<MachineHost>,
    pub(crate) applied: Applied,
    /// Up to here the log went when this life began, or to where it was cut since.
    pub(crate) replay_until: LogIndex,
    /// Why the state machine is out of use, if it is.
    pub(crate) broken: Option<String>,
    /// Jobs given to the apply worker.
    pub(crate) jobs: u64,
    /// The last of them that replaced the machine: what was wrong with the one before it, and the
    /// state that one gave, are nothing to the one in use.
    pub(crate) replaced: u64,
    pub(crate) armed: Armed,
    pub(crate) touched: bool,
    pub(crate) was_leader: bool,
    pub(crate) known_leader: Option<NodeId>,
    /// It declines entries because the log has too much to do.
    pub(crate) declines: bool,
    /// The core was told last that it takes no office.
    pub(crate) is_withheld: bool,
    /// The replica left; the place is free once nothing is under way in its name.
    pub(crate) is_gone: bool,
    /// Whether the log holds the group.
    pub(crate) is_on_disk: bool,
    /// Who waits for that.
    pub(crate) created: Vec<(CreateDone, Created)>,
}

/// A read of the log under way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fetching {
    /// Up to here it was asked for.
    pub(crate) last: LogIndex,
    /// Whether the log was cut at or before `last` since then: the reader may find less than it
    /// was asked for, and that is no damage.
    pub(crate) cut: bool,
    /// Whether it is done only to see whether the log can be read.
    pub(crate) is_look: bool,
}

impl Slot {
    /// An entry at hand: in the window, or read back from the log.
    pub(crate) fn entry(&self, index: LogIndex) -> Option<&Entry> {
        self.payloads.get(index).or_else(|| self.cold_entry(index))
    }

    fn cold_entry(&self, index: LogIndex) -> Option<&Entry> {
        let first = self.cold.first()?.index;
        if index < first {
            return None;
        }
        self.cold.get(index.since(first) as usize)
    }

    /// Whoever left the table of peers is not found any more when it is to be answered.
    pub(super) fn drop_words_to_strangers(&mut self) {
        self.gated.retain(|gated| self.peers.get(gated.to()).is_some());
    }

    pub(crate) fn leads(&self) -> bool {
        self.core.is_leader() && !self.is_gone
    }

    /// The state machine is so far now; what it has done since is counted for the node.
    pub(super) fn set_applied(&mut self, applied: Applied, counters: &Counters) {
        let before = std::mem::replace(&mut self.applied, applied);
        let commands = applied.commands.saturating_sub(before.commands);
        Counters::add(&counters.commands_applied, commands);
    }

    /// Whether entries that the log held when this life began are still to be applied.
    pub(crate) fn is_replaying(&self) -> bool {
        self.applied.index < self.replay_until
    }

    /// Whether the state machine takes more: at once if it is here, else if the apply worker is
    /// not too far behind.
    pub(crate) fn takes_work(&self) -> bool {
        self.broken.is_none()
            && (self.inline.is_some() || self.jobs - self.applied.jobs < APPLY_JOBS_MAX)
    }

    /// Drops what was read back from the log once nobody here needs it.
    pub(crate) fn forget_cold(&mut self) {
        let Some(last) = self.cold.last().map(|entry| entry.index) else { return };
        let needed = |peer: &Peer| {
            self.core.streams_to(peer.replica)
                && self.core.next_index(peer.replica).is_some_and(|next| next <= last)
        };
        if last <= self.dispatched && !self.peers.iter().any(needed) {
            self.cold = Vec::new();
        }
    }

    /// The node of a replica, if the membership in force or a guest says where it lives.
    pub(crate) fn node_of(&self, me: NodeId, replica: ReplicaId) -> Option<NodeId> {
        if replica == self.core.replica() { Some(me) } else { self.peers.node_of(replica) }
    }
}
