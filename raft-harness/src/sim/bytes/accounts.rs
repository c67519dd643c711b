//! What each node's log holds, in a second and simple account.
//!
//! Operations enter it when they are written, and count as durable when a sync of the simulated
//! disk has left nothing pending: the log's own word is not asked. What a node recovers must be
//! what the account says; and what a replica promises on the wire is compared with it by the
//! [`Checker`](crate::sim::invariants::Checker).

use std::collections::{BTreeMap, BTreeSet};

use raft_core::{GroupId, HardState, LogIndex, NodeId, ReplicaId, Term};
use raft_storage::{GroupWrite, RecoveredGroup};

use super::network::Place;
use crate::sim::observe::Disks;

/// One node's account.
#[derive(Default)]
pub(super) struct Account {
    durable: BTreeMap<GroupId, Held>,
    /// Operations written and not yet durable.
    written: Vec<Operation>,
}

/// What the log holds of a group: the terms of its entries, from index 1.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct Held {
    hard_state: HardState,
    terms: Vec<Term>,
}

/// A group's operation, without payloads.
#[derive(Clone, Debug)]
struct Operation {
    group: GroupId,
    creates: bool,
    hard_state: Option<HardState>,
    truncate_from: Option<LogIndex>,
    terms: Vec<Term>,
}

/// How a node came to recover.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum After {
    /// Only the process died: what was written is there.
    Process,
    /// The power went: of what was not synced, anything may be missing from some point on.
    Power,
}

impl Account {
    /// The log writes these.
    pub(super) fn wrote(&mut self, writes: &[GroupWrite]) {
        let operations = writes.iter().map(|write| Operation {
            group: write.group,
            creates: write.create.is_some(),
            hard_state: write.hard_state,
            truncate_from: write.truncate_from,
            terms: write.entries.iter().map(|entry| entry.term).collect(),
        });
        self.written.extend(operations.filter(|operation| !operation.is_empty()));
    }

    /// Whether something written waits for a sync.
    pub(super) fn has_written(&self) -> bool {
        !self.written.is_empty()
    }

    /// Nothing of what was to be written was.
    pub(super) fn wrote_nothing(&mut self) {
        self.written.clear();
    }

    /// What was written is durable.
    pub(super) fn synced(&mut self) {
        for operation in std::mem::take(&mut self.written) {
            let held = self.durable.entry(operation.group).or_default();
            operation.carry_out(held, |_| {});
        }
    }

    /// The node has recovered this, and holds it from now on. Says where it is not what it can
    /// have held.
    pub(super) fn recovered(
        &mut self,
        node: NodeId,
        groups: &BTreeMap<GroupId, RecoveredGroup>,
        after: After,
    ) -> Vec<(GroupId, String)> {
        let found: BTreeMap<GroupId, Held> =
            groups.iter().map(|(group, recovered)| (*group, Held::of(recovered))).collect();
        let written = std::mem::take(&mut self.written);
        let named = written.iter().map(|operation| &operation.group);
        let known: BTreeSet<GroupId> =
            self.durable.keys().chain(named).chain(found.keys()).copied().collect();
        let mut broken = Vec::new();
        for group in known {
            let mut possible = vec![self.durable.get(&group).cloned()];
            for operation in written.iter().filter(|operation| operation.group == group) {
                let base = possible.last().cloned().flatten().unwrap_or_default();
                possible.extend(operation.steps(base).into_iter().map(Some));
            }
            let possible = match after {
                After::Process => &possible[possible.len() - 1..],
                After::Power => &possible[..],
            };
            let found = found.get(&group);
            if !possible.iter().any(|state| state.as_ref() == found) {
                let possible: Vec<_> = possible.iter().map(|s| describe(s.as_ref())).collect();
                let evidence = format!(
                    "node {node} recovered {} after {after:?}, its log held {}",
                    describe(found),
                    possible.join(" or "),
                );
                broken.push((group, evidence));
            }
        }
        self.durable = found;
        broken
    }

    /// The term of an entry on disk.
    pub(super) fn term(&self, group: GroupId, index: LogIndex) -> Option<Term> {
        self.durable.get(&group)?.term(index)
    }

    /// Term and vote on disk.
    pub(super) fn hard_state(&self, group: GroupId) -> HardState {
        self.durable.get(&group).map(|held| held.hard_state).unwrap_or_default()
    }
}

/// All nodes' accounts, and whose replicas live where.
#[derive(Default)]
pub(super) struct Accounts {
    pub(super) nodes: Vec<Account>,
    pub(super) places: BTreeMap<(GroupId, ReplicaId), Place>,
}

impl Accounts {
    fn of(&self, group: GroupId, replica: ReplicaId) -> Option<&Account> {
        self.nodes.get(*self.places.get(&(group, replica))?)
    }
}

impl Disks for Accounts {
    fn holds(&self, group: GroupId, replica: ReplicaId, index: LogIndex, term: Term) -> bool {
        self.of(group, replica).and_then(|account| account.term(group, index)) == Some(term)
    }

    fn hard_state(&self, group: GroupId, replica: ReplicaId) -> Option<HardState> {
        self.of(group, replica).map(|account| account.hard_state(group))
    }
}

impl Held {
    fn of(recovered: &RecoveredGroup) -> Self {
        let mut terms = Vec::with_capacity(recovered.last_index.get() as usize);
        for (at, (first, term)) in recovered.term_runs.iter().enumerate() {
            let next = recovered.term_runs.get(at + 1);
            let end = next.map_or_else(|| recovered.last_index.next(), |(next, _)| *next);
            terms.extend(std::iter::repeat_n(*term, end.since(*first) as usize));
        }
        Self { hard_state: recovered.hard_state, terms }
    }

    fn term(&self, index: LogIndex) -> Option<Term> {
        self.terms.get((index.get() as usize).checked_sub(1)?).copied()
    }
}

impl Operation {
    fn is_empty(&self) -> bool {
        !self.creates
            && self.hard_state.is_none()
            && self.truncate_from.is_none()
            && self.terms.is_empty()
    }

    /// The states a group goes through when the operation reaches the disk piece by piece.
    fn steps(&self, mut held: Held) -> Vec<Held> {
        let mut states = Vec::new();
        self.carry_out(&mut held, |held| states.push(held.clone()));
        states
    }

    fn carry_out(&self, held: &mut Held, mut after_each: impl FnMut(&Held)) {
        if self.creates {
            *held = Held::default();
            after_each(held);
        }
        if let Some(hard_state) = self.hard_state {
            held.hard_state = hard_state;
            after_each(held);
        }
        if let Some(from) = self.truncate_from {
            held.terms.truncate(from.prev().get() as usize);
            after_each(held);
        }
        for term in &self.terms {
            held.terms.push(*term);
            after_each(held);
        }
    }
}

fn describe(held: Option<&Held>) -> String {
    match held {
        None => "nothing".to_owned(),
        Some(held) => format!(
            "term {} vote {:?} last {} of {:?}",
            held.hard_state.term,
            held.hard_state.vote,
            held.terms.len(),
            held.terms.last()
        ),
    }
}
