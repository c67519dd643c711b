//! What each node's log holds, in a second and simple account.
//!
//! Operations enter it when they are written, and count as durable when a sync of the simulated
//! disk has left nothing pending: the log's own word is not asked. What a node recovers must be
//! what the account says; and what a replica promises on the wire is compared with it by the
//! [`Checker`](crate::sim::invariants::Checker).
//!
//! What is written ahead of its sync is known to be in the page cache: a process that is killed loses
//! nothing of it, and groups that count what is written may count it. What goes with a flight is known
//! to be there when the flight has ended.

use std::collections::{BTreeMap, BTreeSet};

use raft_core::{
    GroupId, GroupIncarnation, HardState, LogIndex, NodeId, Promise, PromiseRecord, ReplicaId,
    Term, Tombstone,
};
use raft_storage::{GroupWrite, RecoveredGroup};

use super::incarnations::{group_of, life_in, life_of};
use super::network::Place;
use crate::group_spec::GroupSpec;
use crate::persistence::{FlushPolicy, Strategy};
use crate::sim::observe::Disks;

/// One node's account.
pub(super) struct Account {
    node: NodeId,
    durable: BTreeMap<GroupId, Memory>,
    /// What replicas held that were let go of. An operator may destroy a member, and whom it has
    /// acknowledged something may rightly count on it for as long as nobody tells.
    let_go: BTreeMap<(GroupId, ReplicaId), Held>,
    /// What those held that counted what was written and whose end is written, and not yet durable.
    leaving: BTreeMap<(GroupId, ReplicaId), Held>,
    /// Operations written and not yet durable.
    written: Vec<Operation>,
    /// So many of them are in the page cache for certain.
    cached: usize,
    /// So many the sync under way covers.
    departed: usize,
    /// When the sync of what is written ahead has to begin.
    flush_due: Option<u64>,
    /// How long entries of each group may wait for theirs.
    policies: BTreeMap<GroupId, Option<FlushPolicy>>,
    /// What is written, of groups that count that, where it is more than what is durable.
    ahead: BTreeMap<GroupId, Memory>,
    /// What such replicas held when their machine lost power: whoever was told of it may count it, and
    /// they do not.
    lost: BTreeMap<(GroupId, ReplicaId), Vec<Held>>,
    /// What starts have written, or were about to when they ended.
    anew: Vec<(GroupId, Memory)>,
}

/// What of a disk is looked at.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum View {
    /// What is durable.
    Disk,
    /// What is written, in groups that count that.
    Written,
}

/// What a log remembers of a group.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct Memory {
    /// The replica that is here.
    here: Option<Held>,
    /// The newest that was here and is gone, and of which life of the group it was.
    gone: Option<(GroupId, Tombstone)>,
}

/// What the log holds of a replica.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct Held {
    life: GroupId,
    replica: Option<ReplicaId>,
    strategy: Strategy,
    promise: PromiseRecord,
    hard_state: HardState,
    /// Up to here a snapshot stands for the entries.
    base: (LogIndex, Term),
    /// The terms of the entries after the base.
    terms: Vec<Term>,
}

/// A group's operation, without payloads.
#[derive(Clone, Debug)]
struct Operation {
    group: GroupId,
    creates: Option<(GroupId, Option<ReplicaId>, Strategy)>,
    promise: Option<PromiseRecord>,
    hard_state: Option<HardState>,
    install: Option<(LogIndex, Term)>,
    truncate_from: Option<LogIndex>,
    terms: Vec<Term>,
    compact: Option<(LogIndex, Term)>,
    destroy: Option<Tombstone>,
}

/// A replica whose end is durable, and of which life of its group.
pub(super) type Buried = (GroupId, ReplicaId);

/// How a node came to recover.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum After {
    /// Only the process died: what was written is there.
    Process,
    /// So it did, with a flight that was not written to its end: anything may be missing from some
    /// point on, but for what was written ahead of it.
    Flight,
    /// The power went: of what was not synced, anything may be missing from some point on.
    Power,
    /// The same, and what was durable was damaged and opened without what is lost.
    Damage,
}

impl Account {
    pub(super) fn new(node: NodeId, policies: BTreeMap<GroupId, Option<FlushPolicy>>) -> Self {
        Self {
            node,
            durable: BTreeMap::new(),
            let_go: BTreeMap::new(),
            leaving: BTreeMap::new(),
            written: Vec::new(),
            cached: 0,
            departed: 0,
            flush_due: None,
            policies,
            ahead: BTreeMap::new(),
            lost: BTreeMap::new(),
            anew: Vec::new(),
        }
    }

    /// The log has written these, ahead of their sync.
    pub(super) fn wrote_ahead(&mut self, now: u64, writes: &[GroupWrite]) {
        let from = self.written.len();
        self.wrote(writes);
        self.cached = self.written.len();
        self.go_ahead(from);
        for operation in &self.written[from..] {
            let waits = self.policies.get(&operation.group).copied().flatten();
            let due = match waits {
                Some(FlushPolicy::Batch { interval, .. }) => now + interval.as_micros() as u64,
                Some(FlushPolicy::Immediate) | None => now,
            };
            self.flush_due = Some(self.flush_due.map_or(due, |earlier| earlier.min(due)));
        }
    }

    /// The log has failed while it wrote these: anything of it may be there.
    pub(super) fn may_have_written(&mut self, writes: &[GroupWrite]) {
        self.wrote(writes);
    }

    /// When the sync of what is written has to begin.
    pub(super) const fn flush_due(&self) -> Option<u64> {
        self.flush_due
    }

    /// The log writes these, and what is written will be durable with them.
    pub(super) fn departs<'a>(&mut self, writes: impl IntoIterator<Item = &'a GroupWrite>) {
        self.wrote(writes);
        self.departed = self.written.len();
        self.flush_due = None;
    }

    fn wrote<'a>(&mut self, writes: impl IntoIterator<Item = &'a GroupWrite>) {
        let operations = writes.into_iter().map(|write| Operation::of(write, self.node));
        self.written.extend(operations.filter(|operation| !operation.is_empty()));
    }

    /// Of what was written from there on, groups count what they count.
    fn go_ahead(&mut self, from: usize) {
        for operation in &self.written[from..] {
            let durable = self.durable.get(&operation.group);
            let here = durable.and_then(|memory| memory.here.as_ref());
            let counts = operation.creates.map(|(.., strategy)| strategy);
            let counts =
                counts.or_else(|| here.map(|held| held.strategy)) == Some(Strategy::MemFirst);
            if counts || self.ahead.contains_key(&operation.group) {
                let begin = || durable.cloned().unwrap_or_default();
                let memory = self.ahead.entry(operation.group).or_insert_with(begin);
                if operation.destroy.is_some() {
                    // What it has said is on its way, and counts.
                    self.leaving.extend(memory.here.clone().and_then(Held::named));
                }
                operation.carry_out(memory, |_| {});
            }
        }
    }

    /// Whether the sync under way covers something.
    pub(super) fn has_departed(&self) -> bool {
        self.departed > 0
    }

    /// Whether something is written of a group that counts that, and not durable.
    pub(super) fn is_ahead(&self) -> bool {
        !self.ahead.is_empty()
    }

    /// Whether the sync that departs covers operations of both strategies.
    pub(super) fn departs_mixed(&self) -> bool {
        let counts = |operation: &Operation| {
            let durable = self.durable.get(&operation.group);
            let here = durable.and_then(|memory| memory.here.as_ref());
            here.is_some_and(|held| held.strategy == Strategy::MemFirst)
        };
        let departed = &self.written[..self.departed];
        departed.iter().any(counts) && !departed.iter().all(counts)
    }

    /// What had departed is durable. Says who is gone by it.
    pub(super) fn synced(&mut self) -> Vec<Buried> {
        let mut buried = Vec::new();
        let departed = std::mem::take(&mut self.departed);
        self.cached = self.cached.saturating_sub(departed);
        let rest = self.written.split_off(departed);
        for operation in std::mem::replace(&mut self.written, rest) {
            let memory = self.durable.entry(operation.group).or_default();
            if operation.destroy.is_some() {
                self.let_go.extend(memory.here.clone().and_then(Held::named));
            }
            operation.carry_out(memory, |_| {});
            let gone = memory.gone.filter(|_| operation.destroy.is_some());
            buried.extend(gone.map(|(life, gone)| (life, gone.replica)));
        }
        self.ahead.clear();
        self.leaving.clear();
        self.go_ahead(0);
        buried
    }

    /// A start is about to begin a log anew, and may end with it.
    pub(super) fn may_begin(&mut self, group: GroupId, anew: &RecoveredGroup) {
        let gone = self.durable.get(&group).and_then(|memory| memory.gone);
        let here = Some(Held::of(anew, self.node));
        self.anew.push((group, Memory { here, gone }));
    }

    /// It has begun it anew.
    pub(super) fn begins_anew(&mut self, group: GroupId, anew: &RecoveredGroup) {
        self.durable.entry(group).or_default().here = Some(Held::of(anew, self.node));
    }

    /// The node has recovered this, and holds it from now on. Says where it is not what it can
    /// have held.
    pub(super) fn recovered(
        &mut self,
        groups: &BTreeMap<GroupId, RecoveredGroup>,
        tombstones: &BTreeMap<GroupId, (GroupIncarnation, Tombstone)>,
        after: After,
    ) -> Vec<(GroupId, String)> {
        let mut found: BTreeMap<GroupId, Memory> = BTreeMap::new();
        for (group, recovered) in groups {
            found.entry(*group).or_default().here = Some(Held::of(recovered, self.node));
        }
        for (group, (incarnation, tombstone)) in tombstones {
            let life = life_of(*group, *incarnation);
            found.entry(*group).or_default().gone = Some((life, *tombstone));
        }
        let written = std::mem::take(&mut self.written);
        let cached = std::mem::take(&mut self.cached);
        (self.departed, self.flush_due) = (0, None);
        let named = written.iter().map(|operation| &operation.group);
        let known: BTreeSet<GroupId> =
            self.durable.keys().chain(named).chain(found.keys()).copied().collect();
        let nothing = Memory::default();
        let mut broken = Vec::new();
        for group in known {
            let mut possible = vec![self.durable.get(&group).cloned().unwrap_or_default()];
            let mut certain = 0;
            for (at, operation) in written.iter().enumerate() {
                if operation.group == group {
                    let base = possible.last().cloned().unwrap_or_default();
                    possible.extend(operation.steps(base));
                }
                if at + 1 == cached {
                    certain = possible.len() - 1;
                }
            }
            let certain = match after {
                After::Process => possible.len() - 1,
                After::Flight => certain,
                After::Power | After::Damage => 0,
            };
            let mut possible = possible.split_off(certain);
            let anew = self.anew.iter().filter(|(of, _)| *of == group);
            possible.extend(anew.map(|(_, memory)| memory.clone()));
            let found = found.get(&group).unwrap_or(&nothing);
            let repaired = |before: &Memory| after == After::Damage && found.is_repaired_of(before);
            if !possible.contains(found) && !possible.iter().any(repaired) {
                let possible: Vec<_> = possible.iter().map(describe).collect();
                let evidence = format!(
                    "node {} recovered {} after {after:?}, its log held {}",
                    self.node,
                    describe(found),
                    possible.join(" or "),
                );
                broken.push((group, evidence));
            }
        }
        self.anew.clear();
        for (group, memory) in std::mem::take(&mut self.ahead) {
            let Some((name, held)) = memory.here.and_then(Held::named) else { continue };
            let found = found.get(&group).and_then(|memory| memory.here.as_ref());
            if found.is_none_or(|found| found.terms != held.terms || found.base != held.base) {
                self.lost.entry(name).or_default().push(held);
            }
        }
        for (group, memory) in std::mem::replace(&mut self.durable, found) {
            if after == After::Damage {
                // It was counted on, and whoever forgets it says so.
                self.let_go.extend(memory.here.clone().and_then(Held::named));
            }
            let last = self.durable.get(&group).and_then(|found| found.gone);
            let last = last.map(|(life, gone)| (life, gone.replica));
            let held = memory.here.and_then(Held::named);
            self.let_go.extend(held.filter(|(of, _)| last == Some(*of)));
        }
        for (name, held) in std::mem::take(&mut self.leaving) {
            if self.is_buried(name.0, name.1) {
                self.let_go.insert(name, held);
            }
        }
        broken
    }

    /// A replica forgets what it holds, and goes on. That was counted on.
    pub(super) fn forgets(&mut self, life: GroupId, replica: ReplicaId) {
        let held = self.here(life, replica, View::Disk).cloned().and_then(Held::named);
        self.let_go.extend(held);
    }

    /// Whether a replica that was let go of had this entry, or a snapshot of more.
    fn had(&self, life: GroupId, replica: ReplicaId, index: LogIndex, term: Term) -> bool {
        [&self.let_go, &self.leaving]
            .into_iter()
            .filter_map(|of| of.get(&(life, replica)))
            .any(|held| index < held.base.0 || held.term(index) == Some(term))
    }

    fn here(&self, life: GroupId, replica: ReplicaId, view: View) -> Option<&Held> {
        let group = group_of(life);
        let ahead = self.ahead.get(&group).filter(|_| view == View::Written);
        let here = ahead.or_else(|| self.durable.get(&group))?.here.as_ref()?;
        ((here.life, here.replica) == (life, Some(replica))).then_some(here)
    }

    /// Whether a replica counts what is written.
    pub(super) fn counts_written(&self, life: GroupId, replica: ReplicaId) -> bool {
        let here = self.here(life, replica, View::Written);
        here.is_some_and(|held| held.strategy == Strategy::MemFirst)
    }

    /// Nobody counts any more what replicas of a life have lost.
    pub(super) fn let_lost_be(&mut self, life: GroupId) {
        self.lost.retain(|(of, _), _| *of != life);
    }

    /// Whether it held this when its machine lost power.
    fn has_lost(&self, life: GroupId, replica: ReplicaId, index: LogIndex, term: Term) -> bool {
        let lost = self.lost.get(&(life, replica)).into_iter().flatten();
        lost.into_iter().any(|held| index < held.base.0 || held.term(index) == Some(term))
    }

    fn gone(&self, life: GroupId, replica: ReplicaId) -> Option<&Tombstone> {
        let (of, gone) = self.durable.get(&group_of(life))?.gone.as_ref()?;
        ((*of, gone.replica) == (life, replica)).then_some(gone)
    }

    /// Whether the log has the end of this replica.
    pub(super) fn is_buried(&self, group: GroupId, replica: ReplicaId) -> bool {
        self.gone(group, replica).is_some()
    }

    /// What the disk shows of a replica's log at an index.
    pub(super) fn shows(
        &self,
        group: GroupId,
        replica: ReplicaId,
        index: LogIndex,
        view: View,
    ) -> Shown {
        match self.here(group, replica, view) {
            None => Shown::NoReplica,
            Some(held) if index < held.base.0 => Shown::Compacted,
            Some(held) => held.term(index).map_or(Shown::NoEntry, Shown::Term),
        }
    }

    /// Term and vote on disk, of a replica that is here or was.
    pub(super) fn hard_state(&self, group: GroupId, replica: ReplicaId) -> Option<HardState> {
        let here = self.here(group, replica, View::Disk).map(|held| held.hard_state);
        let gone = || self.gone(group, replica).map(|gone| gone.hard_state);
        // The end of a later life has taken the place of its own.
        let let_go = || self.let_go.get(&(group, replica)).map(|held| held.hard_state);
        here.or_else(gone).or_else(let_go)
    }
}

/// What a disk has at an index.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Shown {
    Term(Term),
    /// A snapshot covers more than that.
    Compacted,
    NoEntry,
    NoReplica,
}

/// All nodes' accounts, and whose replicas live where.
pub(super) struct Accounts {
    pub(super) nodes: Vec<Account>,
    pub(super) places: BTreeMap<(GroupId, ReplicaId), Place>,
}

impl Accounts {
    fn of(&self, group: GroupId, replica: ReplicaId) -> Option<&Account> {
        self.nodes.get(*self.places.get(&(group, replica))?)
    }

    fn shows(&self, view: View, of: (GroupId, ReplicaId), index: LogIndex, term: Term) -> bool {
        let (group, replica) = of;
        let Some(account) = self.of(group, replica) else { return false };
        match account.shows(group, replica, index, view) {
            Shown::Term(there) if there == term => true,
            Shown::Compacted => true,
            Shown::Term(_) | Shown::NoEntry | Shown::NoReplica => {
                account.had(group, replica, index, term)
            }
        }
    }
}

impl Disks for Accounts {
    fn holds(&self, group: GroupId, replica: ReplicaId, index: LogIndex, term: Term) -> bool {
        let account = self.of(group, replica);
        self.finds(group, replica, index, term)
            || account.is_some_and(|account| account.has_lost(group, replica, index, term))
    }

    fn finds(&self, group: GroupId, replica: ReplicaId, index: LogIndex, term: Term) -> bool {
        self.shows(View::Written, (group, replica), index, term)
    }

    fn is_on_disk(&self, group: GroupId, replica: ReplicaId, index: LogIndex, term: Term) -> bool {
        self.shows(View::Disk, (group, replica), index, term)
    }

    fn hard_state(&self, group: GroupId, replica: ReplicaId) -> Option<HardState> {
        let state = self.of(group, replica)?.hard_state(group, replica);
        // A replica that was created and not yet written promises nothing either.
        Some(state.unwrap_or_default())
    }
}

impl Memory {
    /// Whether this may be left of a log that was damaged. Of entries that are lost the replica says
    /// so; what it says to remember of term and vote is what it held.
    fn is_repaired_of(&self, before: &Self) -> bool {
        let (Some(here), Some(there)) = (&self.here, &before.here) else { return false };
        let same = self.gone == before.gone
            && (here.life, here.replica, here.hard_state)
                == (there.life, there.replica, there.hard_state);
        let last = |held: &Held| held.base.0.plus(held.terms.len() as u64);
        let whole = || {
            // What a snapshot covers may be forgotten beside it.
            here.base.0 >= there.base.0
                && last(here) == last(there)
                && (here.base.0.get()..=last(here).get())
                    .map(LogIndex::new)
                    .all(|index| here.term(index) == there.term(index))
        };
        same && match here.promise.promise {
            Promise::Kept | Promise::Lost => here.promise == there.promise && whole(),
            Promise::Damaged => true,
            Promise::Unproven => false,
        }
    }
}

impl Held {
    fn of(recovered: &RecoveredGroup, node: NodeId) -> Self {
        let base = (recovered.base.index, recovered.base.term);
        let mut terms = Vec::with_capacity(recovered.last_index.since(base.0) as usize);
        for (at, (first, term)) in recovered.term_runs.iter().enumerate() {
            let next = recovered.term_runs.get(at + 1);
            let end = next.map_or_else(|| recovered.last_index.next(), |(next, _)| *next);
            let first = (*first).max(base.0.next());
            terms.extend(std::iter::repeat_n(*term, end.since(first) as usize));
        }
        let spec = GroupSpec::decode(&recovered.spec);
        Self {
            life: spec.as_ref().map(life_in).unwrap_or_default(),
            strategy: spec.as_ref().and_then(|spec| spec.strategy).unwrap_or_default(),
            replica: spec.and_then(|spec| spec.replica_on(node)),
            promise: recovered.promise,
            hard_state: recovered.hard_state,
            base,
            terms,
        }
    }

    /// With whose it is.
    fn named(self) -> Option<((GroupId, ReplicaId), Self)> {
        self.replica.map(|replica| ((self.life, replica), self))
    }

    fn term(&self, index: LogIndex) -> Option<Term> {
        let (base, base_term) = self.base;
        match index.get().checked_sub(base.get())? {
            0 => Some(base_term),
            after => self.terms.get(after as usize - 1).copied(),
        }
    }
}

impl Operation {
    fn of(write: &GroupWrite, node: NodeId) -> Self {
        let creates = write.create.as_ref().map(|create| {
            let spec = GroupSpec::decode(&create.spec);
            let replica = spec.as_ref().and_then(|spec| spec.replica_on(node));
            let strategy = spec.and_then(|spec| spec.strategy).unwrap_or_default();
            (life_of(write.group, create.incarnation), replica, strategy)
        });
        Self {
            group: write.group,
            creates,
            promise: write.promise,
            hard_state: write.hard_state,
            install: write.install.as_ref().map(|meta| (meta.index, meta.term)),
            truncate_from: write.truncate_from,
            terms: write.entries.iter().map(|entry| entry.term).collect(),
            compact: write.compact.as_ref().map(|to| (to.base.index, to.base.term)),
            destroy: write.destroy,
        }
    }

    fn is_empty(&self) -> bool {
        self.creates.is_none()
            && self.promise.is_none()
            && self.hard_state.is_none()
            && self.install.is_none()
            && self.truncate_from.is_none()
            && self.terms.is_empty()
            && self.compact.is_none()
            && self.destroy.is_none()
    }

    /// The states a group goes through when the operation reaches the disk piece by piece.
    fn steps(&self, mut memory: Memory) -> Vec<Memory> {
        let mut states = Vec::new();
        self.carry_out(&mut memory, |memory| states.push(memory.clone()));
        states
    }

    fn carry_out(&self, memory: &mut Memory, mut after_each: impl FnMut(&Memory)) {
        if let Some((life, replica, strategy)) = self.creates {
            memory.here = Some(Held { life, replica, strategy, ..Held::default() });
            after_each(memory);
        }
        let mut change = |memory: &mut Memory, change: &dyn Fn(&mut Held)| {
            memory.here.iter_mut().for_each(change);
            after_each(memory);
        };
        if let Some(promise) = self.promise {
            change(memory, &|held| held.promise = promise);
        }
        if let Some(hard_state) = self.hard_state {
            change(memory, &|held| held.hard_state = hard_state);
        }
        if let Some(base) = self.install {
            change(memory, &|held| {
                held.base = base;
                held.terms.clear();
            });
        }
        if let Some(from) = self.truncate_from {
            change(memory, &|held| {
                held.terms.truncate(from.prev().since(held.base.0) as usize);
            });
        }
        for term in &self.terms {
            change(memory, &|held| held.terms.push(*term));
        }
        if let Some(base) = self.compact {
            change(memory, &|held| {
                let forgotten = base.0.since(held.base.0) as usize;
                held.terms.drain(..forgotten.min(held.terms.len()));
                held.base = base;
            });
        }
        if let Some(tombstone) = self.destroy {
            let life = memory.here.take().map(|held| held.life).unwrap_or_default();
            memory.gone = Some((life, tombstone));
            after_each(memory);
        }
    }
}

fn describe(memory: &Memory) -> String {
    let here = match &memory.here {
        None => "nothing".to_owned(),
        Some(held) => format!(
            "{:?} of {:?}, term {} vote {:?} {:?}, base {:?}, last {} of {:?}",
            held.replica,
            held.life,
            held.hard_state.term,
            held.hard_state.vote,
            held.promise,
            held.base,
            held.base.0.get() + held.terms.len() as u64,
            held.terms.last()
        ),
    };
    match &memory.gone {
        None => here,
        Some((life, gone)) => format!("{here}, and that {:?} of {life:?} is gone", gone.replica),
    }
}
