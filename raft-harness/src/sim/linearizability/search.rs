//! A search for any order that explains a key's history: the judge that knows nothing.
//!
//! Wing and Gong's algorithm: pick an operation that nobody's end precedes, do it, go on; step
//! back when stuck. Lowe's addition: remember which sets of operations led to which state, and
//! never go there twice. A history is linearizable if each of its keys is, so keys are searched
//! one by one; the cost grows with the number of operations in flight on one key, so workloads
//! keep that below ten or so.
//!
//! Three things keep it small without changing its verdict:
//!
//! - A value that nobody ever saw or compared with is as good as any other such value, so all
//!   states that hold one are one state.
//! - Where an item of a list was seen, what stood before it is known; an order that appends it
//!   elsewhere leads nowhere.
//! - Operations nobody knows the end of stay in flight for ever. Those that nobody saw anything of
//!   are left out at first, and taken in only if there is no order without them. They are never
//!   done to no effect, and of two that ask for the same the older goes first.
//!
//! Workloads help by writing each value once: a register of four values with many unknown ends is
//! as hard as it ever was.
//!
//! A search that runs out of its budget proves nothing, and counts as failed.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::hash::{BuildHasherDefault, Hasher};

use raft_core::GroupId;

use crate::sim::history::{Answer, End, History, KeyId, Op, OpId, Reply, State, Value};
use crate::sim::rng::Rng;
use crate::sim::violation::{Check, Violation};

/// What a search did.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Searched {
    /// Operations that were put in order.
    pub operations: u64,
    /// Steps it took, back and forth.
    pub steps: u64,
}

/// Searches every key. `steps_max` bounds each key's search (a step is well below a
/// microsecond, and each leaves at most 32 bytes in the cache).
///
/// # Errors
/// [`Check::Linearizability`] if a key has no such order, [`Check::Inconclusive`] if one was not
/// found within the budget.
pub fn check(history: &History, steps_max: u64) -> Result<Searched, Violation> {
    let mut keys: BTreeMap<(GroupId, KeyId), Vec<OpId>> = BTreeMap::new();
    for (id, operation) in history.iter() {
        let matters = match (&operation.end, operation.op) {
            (End::Failed, _) | (_, Op::StaleRead) | (End::Unknown, Op::Read) => false,
            (End::Returned(_) | End::Unknown, _) => true,
        };
        if matters {
            keys.entry((operation.group, operation.key)).or_default().push(id);
        }
    }
    let mut total = Searched::default();
    for ((group, key), ids) in keys {
        total.operations += ids.len() as u64;
        let sights = Sights::of(history, &ids);
        let seen: Vec<OpId> =
            ids.iter().copied().filter(|id| sights.concern(history, *id)).collect();
        let mut search = Search::new(history, &seen, &sights, steps_max);
        let mut verdict = search.run();
        total.steps += search.steps;
        if verdict == Verdict::Impossible && seen.len() < ids.len() {
            search = Search::new(history, &ids, &sights, steps_max);
            verdict = search.run();
            total.steps += search.steps;
        }
        let check = match verdict {
            Verdict::Explained => continue,
            Verdict::Impossible => Check::Linearizability,
            Verdict::OutOfSteps => Check::Inconclusive,
        };
        return Err(Violation::of_group(check, group, search.evidence(history, key)));
    }
    Ok(total)
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Verdict {
    Explained,
    Impossible,
    OutOfSteps,
}

/// Everything that was seen of one key's values.
#[derive(Debug, Default)]
struct Sights {
    /// Values of the register that a read returned or a compare-and-set asked for.
    registers: BTreeSet<u64>,
    /// Items of lists, each with the list up to it; `None` if that differs between sights or if
    /// the item was appended more than once.
    items: BTreeMap<u64, Option<State>>,
}

impl Sights {
    fn of(history: &History, ids: &[OpId]) -> Self {
        let mut sights = Self::default();
        let mut appended = BTreeSet::new();
        let mut repeated = Vec::new();
        for operation in ids.iter().filter_map(|id| history.find(*id)) {
            match operation.op {
                Op::CompareAndSet { expected, .. } => sights.registers.extend(expected),
                Op::Append(item) if !appended.insert(item) => repeated.push(item),
                Op::Append(_) | Op::Set(_) | Op::Delete | Op::Read | Op::StaleRead => {}
            }
            match &operation.end {
                End::Returned(Reply::Value(Value::Register(value))) => {
                    sights.registers.insert(*value);
                }
                End::Returned(Reply::Value(Value::List(items))) => sights.list(items),
                End::Returned(_) | End::Unknown | End::Failed => {}
            }
        }
        for item in repeated {
            sights.items.entry(item).and_modify(|place| *place = None);
        }
        sights
    }

    fn list(&mut self, items: &[u64]) {
        let mut list = Value::List(Vec::new()).state();
        for item in items {
            list = list.apply(Op::Append(*item)).0;
            let place = self.items.entry(*item).or_insert(Some(list));
            if *place != Some(list) {
                *place = None;
            }
        }
    }

    /// Whether the search needs this operation from the start: its end is known, or its value
    /// was seen.
    fn concern(&self, history: &History, id: OpId) -> bool {
        history.find(id).is_some_and(|operation| {
            operation.end != End::Unknown
                || match operation.op {
                    Op::Set(value) | Op::CompareAndSet { new: value, .. } => {
                        self.registers.contains(&value)
                    }
                    Op::Append(item) => self.items.contains_key(&item),
                    Op::Delete | Op::Read | Op::StaleRead => false,
                }
        })
    }

    /// What the operation makes of the state and answers; `None` if what was seen rules it out.
    fn apply(&self, state: State, op: Op) -> Option<(State, Answer)> {
        if let Op::Append(item) = op {
            let Some(place) = self.items.get(&item) else { return Some((UNSEEN, Answer::Done)) };
            if state == UNSEEN {
                return place.is_none().then_some((UNSEEN, Answer::Done));
            }
            let (after, answer) = state.apply(op);
            return place.is_none_or(|place| place == after).then_some((after, answer));
        }
        let (after, answer) = state.apply(op);
        match after {
            State::Register(value) if !self.registers.contains(&value) => Some((UNSEEN, answer)),
            State::Absent | State::Register(_) | State::List { .. } => Some((after, answer)),
        }
    }
}

/// Any state with a value that nobody saw. No list is as long.
const UNSEEN: State = State::List { length: u64::MAX / 2, hash: 0 };

/// A beginning or an end, in a doubly linked list of those not yet put in order. Node 0 is the
/// head.
#[derive(Clone, Copy, Debug)]
struct Event {
    op: usize,
    kind: EventKind,
    prev: usize,
    next: usize,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum EventKind {
    Head,
    Begin { end: usize },
    End { time: u64 },
}

struct Operation {
    id: OpId,
    op: Op,
    /// `None` if nobody knows: then any answer will do, at any time or never.
    answer: Option<Answer>,
    /// Its part in the name of a set of operations.
    mark: u128,
}

/// Where the search tries next: an operation with a known end, or the n-th without.
#[derive(Clone, Copy, Debug)]
enum Cursor {
    Known(usize),
    Endless(usize),
}

struct Search<'a> {
    sights: &'a Sights,
    operations: Vec<Operation>,
    /// Beginnings and ends of operations with a known end, and of all appends: where an append
    /// without a known end goes is known from what was seen, or it is tried last like the rest.
    events: Vec<Event>,
    /// The other operations without a known end, in the order in which they began.
    endless: Vec<Endless>,
    /// How many operations with a known end are not in order yet.
    open: usize,
    steps: u64,
    steps_max: u64,
    /// Bounded by the steps.
    seen: HashSet<u128, BuildHasherDefault<Taken>>,
    /// The longest order found, and the state it ends in: the evidence.
    best: Vec<usize>,
    best_state: State,
}

/// An operation whose end nobody knows. It may be put anywhere after its beginning, or nowhere.
struct Endless {
    op: usize,
    begun: u64,
    placed: Placed,
    /// The one before it that asks for the same: of twins, the older goes first.
    twin: Option<usize>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Placed {
    Yes,
    No,
}

impl<'a> Search<'a> {
    fn new(history: &History, ids: &[OpId], sights: &'a Sights, steps_max: u64) -> Self {
        let mut marks = Rng::new(ids.len() as u64);
        let mut order: Vec<(u64, usize, bool)> = Vec::new();
        let mut operations = Vec::new();
        let mut endless: Vec<Endless> = Vec::new();
        for (id, operation) in ids.iter().filter_map(|id| Some((*id, history.find(*id)?))) {
            let at = operations.len();
            let answer = match &operation.end {
                End::Returned(reply) => Some(reply.answer()),
                End::Unknown | End::Failed => None,
            };
            if answer.is_some() || matches!(operation.op, Op::Append(_)) {
                order.push((operation.begun, at, false));
                order.push((operation.ended, at, true));
            } else {
                let same = |other: &Endless| {
                    let other: &Operation = &operations[other.op];
                    other.op == operation.op
                };
                let twin = endless.iter().rposition(same);
                endless.push(Endless { op: at, begun: operation.begun, placed: Placed::No, twin });
            }
            operations.push(Operation {
                id,
                op: operation.op,
                answer,
                mark: (u128::from(marks.bits()) << 64) | u128::from(marks.bits()),
            });
        }
        order.sort_unstable();
        let mut events = vec![Event { op: 0, kind: EventKind::Head, prev: 0, next: 1 }];
        let mut begin_of = vec![0; operations.len()];
        for (time, op, is_end) in order {
            let at = events.len();
            if is_end {
                let begin: &mut Event = &mut events[begin_of[op]];
                begin.kind = EventKind::Begin { end: at };
            } else {
                begin_of[op] = at;
            }
            let kind = if is_end { EventKind::End { time } } else { EventKind::Begin { end: 0 } };
            events.push(Event { op, kind, prev: at - 1, next: at + 1 });
        }
        // The list is a ring: after the last comes the head.
        let last = events.len() - 1;
        events[last].next = 0;
        events[0].prev = last;
        Self {
            sights,
            open: operations.iter().filter(|operation| operation.answer.is_some()).count(),
            operations,
            events,
            endless,
            steps: 0,
            steps_max,
            seen: HashSet::default(),
            best: Vec::new(),
            best_state: State::Absent,
        }
    }

    fn run(&mut self) -> Verdict {
        let mut state = State::Absent;
        let mut set = 0u128;
        // What was put in order, with the state before it.
        let mut done: Vec<(Cursor, State)> = Vec::new();
        let mut cursor = Cursor::Known(self.events[0].next);
        while self.open > 0 {
            self.steps += 1;
            if self.steps > self.steps_max {
                self.note_best(&done, state);
                return Verdict::OutOfSteps;
            }
            let Some(op) = self.candidate(&mut cursor) else {
                // Whoever has ended must come first, and did not fit: go back one.
                self.note_best(&done, state);
                let Some((last, before)) = done.pop() else { return Verdict::Impossible };
                state = before;
                self.put_back(last);
                set ^= self.operations[self.op_at(last)].mark;
                cursor = self.after(last);
                continue;
            };
            let operation = &self.operations[op];
            let next_set = set ^ operation.mark;
            let after = self
                .sights
                .apply(state, operation.op)
                .filter(|(after, answer)| match operation.answer {
                    Some(expected) => expected == *answer,
                    // It need not happen, so it does not happen to no effect.
                    None => *after != state,
                })
                .map(|(after, _)| after)
                .filter(|after| self.seen.insert(name(next_set, *after)));
            match after {
                Some(after) => {
                    done.push((cursor, state));
                    state = after;
                    set = next_set;
                    self.take_out(cursor);
                    cursor = Cursor::Known(self.events[0].next);
                }
                None => cursor = self.after(cursor),
            }
        }
        Verdict::Explained
    }

    /// The operation at the cursor, which moves on to where there is one. Operations with a known
    /// end are tried first: they must go somewhere, the others need not.
    fn candidate(&self, cursor: &mut Cursor) -> Option<usize> {
        if let Cursor::Known(at) = *cursor {
            match self.events[at].kind {
                EventKind::Begin { .. } => return Some(self.events[at].op),
                EventKind::End { .. } | EventKind::Head => *cursor = Cursor::Endless(0),
            }
        }
        let Cursor::Endless(from) = *cursor else { return None };
        // Not after the first end: that one would have to be before it.
        let limit = self.first_end();
        let fits = |endless: &Endless| {
            endless.placed == Placed::No
                && endless.twin.is_none_or(|twin| self.endless[twin].placed == Placed::Yes)
        };
        let found = (from..self.endless.len())
            .take_while(|at| self.endless[*at].begun < limit)
            .find(|at| fits(&self.endless[*at]))?;
        *cursor = Cursor::Endless(found);
        Some(self.endless[found].op)
    }

    /// When the first of those not in order yet ended.
    fn first_end(&self) -> u64 {
        let mut at = self.events[0].next;
        loop {
            match self.events[at].kind {
                EventKind::Begin { .. } => at = self.events[at].next,
                EventKind::End { time } => return time,
                EventKind::Head => return u64::MAX,
            }
        }
    }

    fn after(&self, cursor: Cursor) -> Cursor {
        match cursor {
            Cursor::Known(at) => Cursor::Known(self.events[at].next),
            Cursor::Endless(at) => Cursor::Endless(at + 1),
        }
    }

    fn op_at(&self, cursor: Cursor) -> usize {
        match cursor {
            Cursor::Known(at) => self.events[at].op,
            Cursor::Endless(at) => self.endless[at].op,
        }
    }

    fn take_out(&mut self, cursor: Cursor) {
        match cursor {
            Cursor::Endless(at) => self.endless[at].placed = Placed::Yes,
            Cursor::Known(begin) => {
                let EventKind::Begin { end } = self.events[begin].kind else { return };
                for at in [begin, end] {
                    let Event { prev, next, .. } = self.events[at];
                    self.events[prev].next = next;
                    self.events[next].prev = prev;
                }
                self.open -= self.counts(begin);
            }
        }
    }

    /// Undoes the last [`take_out`](Self::take_out): links still know their neighbours.
    fn put_back(&mut self, cursor: Cursor) {
        match cursor {
            Cursor::Endless(at) => self.endless[at].placed = Placed::No,
            Cursor::Known(begin) => {
                if let EventKind::Begin { end } = self.events[begin].kind {
                    for at in [end, begin] {
                        let Event { prev, next, .. } = self.events[at];
                        self.events[prev].next = at;
                        self.events[next].prev = at;
                    }
                    self.open += self.counts(begin);
                }
            }
        }
    }

    /// One for an operation that must be put in order.
    fn counts(&self, begin: usize) -> usize {
        usize::from(self.operations[self.events[begin].op].answer.is_some())
    }

    fn note_best(&mut self, done: &[(Cursor, State)], state: State) {
        if done.len() > self.best.len() {
            self.best = done.iter().map(|(cursor, _)| self.op_at(*cursor)).collect();
            self.best_state = state;
        }
    }

    /// The longest order that was found, and what does not fit behind it.
    fn evidence(&self, history: &History, key: KeyId) -> String {
        const SHOWN: usize = 6;
        let mut text = format!(
            "{key:?}: {} of {} operations can be put in order, to {:?}, in {} steps. The last:",
            self.best.len(),
            self.operations.len(),
            self.best_state,
            self.steps
        );
        let show = |text: &mut String, op: &Operation| {
            text.push_str(&format!("\n  {:?} {:?}", op.id, history.find(op.id)));
        };
        for op in &self.best[self.best.len().saturating_sub(SHOWN)..] {
            show(&mut text, &self.operations[*op]);
        }
        text.push_str("\n then none of:");
        let left = (0..self.operations.len()).filter(|op| !self.best.contains(op));
        for op in left.take(SHOWN) {
            show(&mut text, &self.operations[op]);
        }
        text
    }
}

/// Names a set of operations and the state they led to, by 128 bits.
fn name(set: u128, state: State) -> u128 {
    let (a, b) = state.words();
    let spread = (u128::from(a) << 64 | u128::from(b))
        .wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
    set ^ spread ^ (spread >> 61)
}

/// The names are random bits already; a hasher has nothing to add.
#[derive(Clone, Copy, Debug, Default)]
struct Taken(u64);

impl Hasher for Taken {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.0 ^= u64::from_le_bytes(word);
        }
    }

    fn write_u128(&mut self, name: u128) {
        self.0 = (name >> 64) as u64 ^ name as u64;
    }
}
