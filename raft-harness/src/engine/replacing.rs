//! Replicas that may have forgotten a vote give way to fresh ones, without an operator.
//!
//! Such a replica never counts again, and says so to its leader. The leader has it replaced by a
//! fresh id on the same node, and promotes that one once it has caught up; what is to be done next
//! is the core's word, from the membership and from what members answered, so that another leader
//! goes on where this one stops. The old replica keeps its place until it knows for certain that it
//! was removed and its successor is spoken to; then the log forgets the one and begins the other in
//! one frame, and what the log holds of the old one is remembered as of any that left.
//!
//! Two leaders may give one id to successors on different nodes, if the change of the first is lost.
//! No replica comes to life under the lost one: a place is given up only for a removal that is
//! committed, and that entry names the successor.
//!
//! Invariants: a replica gives its place to nobody while it does not know for certain that it was
//! removed; of what is led by one shard, at most [`UNDER_WAY_MAX`] successors per node catch up at a
//! time, but for those that do not get on.

use std::collections::BTreeMap;
use std::time::Duration;

use raft_core::{
    DiskSpace, GroupIncarnation, Input, Member, MemberChange, Message, Micros, NodeId, Outcome,
    Promise, Refusal, ReplicaId, Standing, Token,
};
use raft_storage::{GroupCreate, GroupWrite};
use raft_transport::Envelope;
use tracing::{info, warn};

use super::io::TurnOutput;
use super::removal::Successor;
use super::requests::TRANSFER_TOKEN;
use super::shard_engine::{Durability, ShardEngine};
use super::unusable::Unusable;
use crate::counters::Counters;
use crate::group_spec::{GroupSpec, Origin};

/// Between two looks at the groups concerned.
const PERIOD: Duration = Duration::from_millis(200);

/// Successors on one node, of groups that a shard leads, that catch up at a time.
const UNDER_WAY_MAX: usize = 8;

/// One that takes longer than this to catch up keeps no other waiting.
const PATIENCE: Duration = Duration::from_secs(60);

/// The first and the longest pause after a change that was refused.
const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// The token of changes that replace somebody.
pub(super) const REPLACING_TOKEN: Token = Token::new(TRANSFER_TOKEN | 1 << 60);

/// The groups led here that have somebody to replace or to promote. Empties by itself.
#[derive(Debug, Default)]
pub(super) struct Replacing {
    groups: BTreeMap<u32, Attempts>,
    due: Option<Micros>,
}

/// When a group is looked at next, how long it then rests if its change is refused, and since when
/// it waits for a successor.
#[derive(Clone, Copy, Debug)]
struct Attempts {
    next: Micros,
    pause: Duration,
    since: Option<Micros>,
    /// Somebody was told that nothing can be done.
    is_told: bool,
}

impl Replacing {
    pub(super) fn next_deadline(&self) -> Option<Micros> {
        self.due
    }

    /// The replica that led the group left.
    pub(super) fn forget(&mut self, at: u32) {
        self.groups.remove(&at);
    }
}

impl ShardEngine {
    /// A group that is led here may have somebody to replace.
    pub(super) fn note_replacements(&mut self, at: u32) {
        if self.slots[at as usize].core.has_replacements() && !self.stopping {
            let now = self.now;
            let fresh = Attempts { next: now, pause: PAUSE_MIN, since: None, is_told: false };
            self.replacing.groups.entry(at).or_insert(fresh);
            self.replacing.due.get_or_insert_with(|| now.after(PERIOD));
        }
    }

    /// Asks for the changes that are due, if it is time to look.
    pub(super) fn replace(&mut self, out: &mut TurnOutput) {
        if self.replacing.due.is_none_or(|due| self.now < due) {
            return;
        }
        let mut under_way = self.successors_under_way();
        let groups: Vec<u32> = self.replacing.groups.keys().copied().collect();
        for at in groups {
            self.replace_in(at, &mut under_way, out);
        }
        let more = !self.stopping && !self.replacing.groups.is_empty();
        self.replacing.due = more.then(|| self.now.after(PERIOD));
    }

    /// How many successors catch up on each node.
    fn successors_under_way(&mut self) -> BTreeMap<NodeId, usize> {
        let (now, mut counts) = (self.now, BTreeMap::new());
        for (at, attempts) in &mut self.replacing.groups {
            let members = self.slots[*at as usize].core.membership().members();
            let is_successor = |member: &&Member| member.standing == Standing::Successor;
            let mut successors = members.iter().filter(is_successor).peekable();
            if successors.peek().is_none() {
                attempts.since = None;
                continue;
            }
            if now.since(*attempts.since.get_or_insert(now)) < PATIENCE {
                successors.for_each(|member| *counts.entry(member.node).or_default() += 1);
            }
        }
        counts
    }

    fn replace_in(
        &mut self,
        at: u32,
        under_way: &mut BTreeMap<NodeId, usize>,
        out: &mut TurnOutput,
    ) {
        let slot = &self.slots[at as usize];
        if !slot.leads() || !slot.core.has_replacements() {
            self.replacing.groups.remove(&at);
            return;
        }
        let Some(attempts) = self.replacing.groups.get_mut(&at) else { return };
        if self.now < attempts.next || self.disk != DiskSpace::Ample {
            return;
        }
        let fresh = ReplicaId::new(slot.core.membership().last_replica().get().saturating_add(1));
        let Some(change) = slot.core.replacement_due(fresh) else { return };
        if let MemberChange::Replace { replica, .. } = change {
            let Some(node) = slot.core.membership().member(replica).map(|member| member.node)
            else {
                return;
            };
            let count = under_way.entry(node).or_default();
            if *count >= UNDER_WAY_MAX {
                return;
            }
            *count += 1;
        }
        attempts.next = self.now.after(attempts.pause);
        attempts.pause = (attempts.pause * 2).min(PAUSE_MAX);
        let before = slot.core.membership_index();
        self.step(
            at,
            Input::ChangeMembership { token: REPLACING_TOKEN, changes: vec![change] },
            out,
        );
        if self.slots[at as usize].core.membership_index() > before {
            self.note_asked(at, change);
        }
    }

    /// A change is in the log of its leader.
    fn note_asked(&mut self, at: u32, change: MemberChange) {
        let group = self.slots[at as usize].spec.group;
        if let Some(attempts) = self.replacing.groups.get_mut(&at) {
            attempts.pause = PAUSE_MIN;
            attempts.is_told = false;
        }
        match change {
            MemberChange::Promote(replica) => {
                info!(%group, %replica, "the successor has caught up, and becomes a voter");
            }
            MemberChange::Replace { replica, by } => {
                Counters::add(&self.counters.replicas_replaced, 1);
                warn!(%group, %replica, %by, "replaces a replica that may have forgotten a vote");
            }
            MemberChange::AddLearner { .. } | MemberChange::Demote(_) | MemberChange::Remove(_) => {
            }
        }
    }

    /// How a change ended that replaces somebody. What it means for the group is in the membership.
    pub(super) fn note_replacing(&mut self, at: u32, outcome: Outcome) {
        let Some(attempts) = self.replacing.groups.get_mut(&at) else { return };
        if outcome == Outcome::Refused(Refusal::QuorumAtRisk) && !attempts.is_told {
            attempts.is_told = true;
            let group = self.slots[at as usize].spec.group;
            warn!(%group, "nobody is replaced: no majority of those that count is at hand");
        }
    }

    /// Somebody leads a group with a successor on this node. If the replica here is the one it comes
    /// after, and knows for certain that it was removed, it gives its place up.
    pub(super) fn make_room(&mut self, envelope: &Envelope, out: &mut TurnOutput) {
        let group = envelope.group;
        let Some(at) = self.slot_of(group) else { return };
        let slot = &self.slots[at as usize];
        // What comes late may be of a change that was lost, after which another was given another id.
        let speaks_now = match &envelope.message {
            Message::Append(append) => {
                slot.core.removed_in().is_some_and(|removed_in| append.term >= removed_in)
            }
            _ => false,
        };
        let is_for_successor = speaks_now
            && slot.incarnation == envelope.group_incarnation
            && slot.core.replica() < envelope.to;
        // Whatever it was replaced for. By its log it may know only that it cannot be trusted.
        let is_replaced = slot.core.status().promise.promise == Promise::Unproven
            || slot.core.membership().standing(envelope.to) == Some(Standing::Successor);
        if !is_for_successor || !is_replaced {
            return;
        }
        let spec = slot.spec.succeeded_by(envelope.to, self.options.node);
        info!(%group, replica = %slot.core.replica(), by = %envelope.to, "gives its place to its successor");
        let maker = slot.maker.clone();
        let is_on_disk = self.options.durability == Durability::Memory;
        self.let_leave(at, None, Some(Box::new(Successor { spec, maker, is_on_disk })), out);
    }

    /// The place is free.
    pub(super) fn begin_successor(&mut self, successor: Successor, out: &mut TurnOutput) {
        let group = successor.spec.group;
        let held = Unusable::fresh(&successor.spec, self.options.node);
        match self.add_slot(successor.spec, successor.maker, None, None, out) {
            Ok(at) => {
                self.by_group.insert(group, at);
                self.slots[at as usize].is_on_disk = true;
                #[cfg(feature = "sim")]
                self.show(at);
                self.touch(at);
            }
            Err(error) => self.note_unusable(held, &error),
        }
    }
}

impl Successor {
    /// Its beginning, for the log.
    pub(super) fn creation(&self, incarnation: GroupIncarnation) -> GroupWrite {
        let mut write = GroupWrite::new(self.spec.group);
        let spec = self.spec.encode();
        write.create = Some(GroupCreate { incarnation, spec });
        write
    }
}

impl GroupSpec {
    /// The same group, joined by the replica that comes after the one on this node.
    fn succeeded_by(&self, replica: ReplicaId, node: NodeId) -> Self {
        Self { origin: Origin::Joining, replicas: vec![(replica, node)], ..self.clone() }
    }
}
