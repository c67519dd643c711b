//! What a node has promised, what its disk held then, and what it remembers after a crash.
//!
//! A second, simple account of each node's log is kept beside the real one: operations enter it
//! when they are written, and count as durable when a sync of the simulated disk has left nothing
//! pending. A promise is compared with it at the moment its bytes leave the node; what a node
//! recovers is compared with it and, apart from it, with the promises themselves.

use std::collections::BTreeMap;

use raft_core::{GroupId, HardState, LogIndex, NodeId, Term};
use raft_storage::{GroupWrite, RecoveredGroup};

use super::tap::{Claim, Said};

/// One node's account.
#[derive(Default)]
pub(super) struct Account {
    durable: BTreeMap<GroupId, Held>,
    /// Operations written and not yet durable.
    written: Vec<Operation>,
    promised: BTreeMap<GroupId, Promised>,
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

#[derive(Clone, Copy, Debug, Default)]
struct Promised {
    term: Term,
    vote: Option<(Term, raft_core::ReplicaId)>,
    /// The highest entry acknowledged and not given up since: its index, its term, and the term
    /// of the leader it was acknowledged to.
    held: Option<(LogIndex, Term, Term)>,
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
    pub(super) fn synced(&mut self, broken: &mut Vec<String>) {
        for operation in std::mem::take(&mut self.written) {
            if let Some(from) = operation.truncate_from
                && let Some(promised) = self.promised.get_mut(&operation.group)
                && let Some((index, _, leader)) = promised.held
                && from <= index
            {
                let term = operation.hard_state.map_or_else(
                    || self.durable.get(&operation.group).map(|held| held.hard_state.term),
                    |hard_state| Some(hard_state.term),
                );
                if term.is_none_or(|term| term <= leader) {
                    broken.push(format!(
                        "group {}: entry {index} was acknowledged in term {leader} and cut from \
                         {from} on in term {term:?}",
                        operation.group
                    ));
                }
                promised.held = None;
            }
            let held = self.durable.entry(operation.group).or_default();
            operation.carry_out(held, |_| {});
        }
    }

    /// A promise leaves.
    pub(super) fn said(&mut self, said: &Said) -> Result<(), String> {
        let fresh = Held::default();
        let held = self.durable.get(&said.group).unwrap_or(&fresh);
        let durable = held.hard_state;
        let promised = self.promised.entry(said.group).or_default();
        let fail = |what: String| {
            Err(format!("node {} group {}: {what}; durable {durable:?}", said.node, said.group))
        };
        match said.claim {
            Claim::Term(term) => {
                promised.term = promised.term.max(term);
                if durable.term < term {
                    return fail(format!("spoke in term {term} before it was durable"));
                }
            }
            Claim::Vote { term, candidate } => {
                promised.term = promised.term.max(term);
                if let Some((before, other)) = promised.vote
                    && before == term
                    && other != candidate
                {
                    return fail(format!("votes twice in term {term}: {other} and {candidate}"));
                }
                promised.vote = Some((term, candidate));
                let is_durable =
                    durable.term > term || (durable.term, durable.vote) == (term, Some(candidate));
                if !is_durable {
                    return fail(format!("voted for {candidate} in {term} before it was durable"));
                }
            }
            Claim::Held { term, index } => {
                promised.term = promised.term.max(term);
                if durable.term > term || index == LogIndex::ZERO {
                    // A newer leader may have cut it since; it is no promise to that one.
                    return Ok(());
                }
                if durable.term < term {
                    return fail(format!("acknowledged {index} in {term} before that was durable"));
                }
                let Some(of) = held.term(index) else {
                    let last = held.terms.len();
                    return fail(format!(
                        "acknowledged {index} in term {term}, the disk ends at {last}"
                    ));
                };
                if promised.held.is_none_or(|(before, ..)| before <= index) {
                    promised.held = Some((index, of, term));
                }
            }
        }
        Ok(())
    }

    /// The node has recovered this. What it holds from now on is that.
    pub(super) fn recovered(
        &mut self,
        node: NodeId,
        groups: &BTreeMap<GroupId, RecoveredGroup>,
        after: After,
        broken: &mut Vec<String>,
    ) {
        let mut found: BTreeMap<GroupId, Held> = BTreeMap::new();
        for (group, recovered) in groups {
            found.insert(*group, Held::of(recovered));
        }
        let written = std::mem::take(&mut self.written);
        let known: std::collections::BTreeSet<GroupId> = self
            .durable
            .keys()
            .chain(written.iter().map(|operation| &operation.group))
            .chain(found.keys())
            .copied()
            .collect();
        for group in known {
            let mut possible = vec![self.durable.get(&group).cloned()];
            for operation in written.iter().filter(|operation| operation.group == group) {
                let base = possible.last().cloned().flatten().unwrap_or_default();
                possible.extend(operation.steps(base).into_iter().map(Some));
            }
            let last = possible.len() - 1;
            let possible = match after {
                After::Process => &possible[last..],
                After::Power => &possible[..],
            };
            let found = found.get(&group);
            if !possible.iter().any(|state| state.as_ref() == found) {
                broken.push(format!(
                    "node {node} group {group}: recovered {}, its log held {}",
                    describe(found),
                    possible.iter().map(|s| describe(s.as_ref())).collect::<Vec<_>>().join(" or "),
                ));
            }
        }
        for (group, promised) in &self.promised {
            let fresh = Held::default();
            let held = found.get(group).unwrap_or(&fresh);
            let HardState { term, vote } = held.hard_state;
            let forgot_vote = promised
                .vote
                .is_some_and(|(of, candidate)| of == term && vote != Some(candidate));
            let forgot_entry =
                promised.held.is_some_and(|(index, of, _)| held.term(index) != Some(of));
            if term < promised.term || forgot_vote || forgot_entry {
                broken.push(format!(
                    "node {node} group {group}: promised {promised:?}, recovered {}",
                    describe(Some(held))
                ));
            }
        }
        self.durable = found;
    }

    /// Whether the disk holds this entry.
    pub(super) fn holds(&self, group: GroupId, index: LogIndex, term: Term) -> bool {
        self.durable.get(&group).is_some_and(|held| held.term(index) == Some(term))
    }

    /// The node lost everything, and comes back as somebody else.
    pub(super) fn wiped(&mut self) {
        *self = Self::default();
    }
}

impl Held {
    fn of(recovered: &RecoveredGroup) -> Self {
        let mut terms = Vec::with_capacity(recovered.last_index.get() as usize);
        for (at, (first, term)) in recovered.term_runs.iter().enumerate() {
            let next = recovered.term_runs.get(at + 1);
            let end = next.map_or(recovered.last_index.next(), |(next, _)| *next);
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
