//! What clients did and saw: every operation with its beginning, its end and its result.
//!
//! Keys hold registers or append-only lists. The order in which operations begin and end is
//! recorded as well as the time: two events of one virtual instant still have an order, and a
//! checker that took them for concurrent would believe too much.

use std::collections::BTreeSet;

use raft_core::{GroupId, LogIndex, Micros};

use super::rng::mix;

/// Names a client, which does what it does in one session.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ClientId(pub u32);

/// Names a key; the profile maps it to bytes.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct KeyId(pub u64);

/// Names an operation: its position in the history. Writes carry it in their payload, so that
/// the profile can tell where each one was applied.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct OpId(pub u64);

/// What a client asks for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Op {
    /// The value, now.
    Read,
    /// The value, no older than this client has seen it; not linearizable.
    StaleRead,
    /// The value becomes this.
    Set(u64),
    /// The list gets this at its end. A key that holds no list starts one.
    Append(u64),
    /// If the value is `expected` (`None`: absent), it becomes `new`.
    CompareAndSet {
        /// What it must be.
        expected: Option<u64>,
        /// What it becomes.
        new: u64,
    },
    /// The key becomes absent.
    Delete,
}

impl Op {
    /// Whether it leaves everything as it is.
    pub const fn is_read(self) -> bool {
        match self {
            Self::Read | Self::StaleRead => true,
            Self::Set(_) | Self::Append(_) | Self::CompareAndSet { .. } | Self::Delete => false,
        }
    }
}

/// What a client was told.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Reply {
    /// To a read.
    Value(Value),
    /// It is done.
    Done,
    /// To a compare-and-set: it was as expected and has changed.
    Swapped,
    /// To a compare-and-set: it was something else and stays so.
    NotSwapped,
}

/// What a key holds. An absent key is not an empty list, and not a zero.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Value {
    /// Nothing.
    Absent,
    /// A register.
    Register(u64),
    /// A list.
    List(Vec<u64>),
}

/// A [`Value`] in two words: lists by length and hash.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum State {
    /// Nothing.
    Absent,
    /// A register.
    Register(u64),
    /// A list of this length and hash.
    List {
        /// How many items.
        length: u64,
        /// Of all items in order.
        hash: u64,
    },
}

impl Value {
    /// In two words.
    pub fn state(&self) -> State {
        match self {
            Self::Absent => State::Absent,
            Self::Register(value) => State::Register(*value),
            Self::List(items) => items.iter().fold(State::EMPTY_LIST, |list, i| list.appended(*i)),
        }
    }
}

/// What the model answers: like [`Reply`], with values in two words.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Answer {
    /// To a read.
    Value(State),
    /// It is done.
    Done,
    /// A compare-and-set changed the value.
    Swapped,
    /// A compare-and-set left it alone.
    NotSwapped,
}

impl Reply {
    /// With values in two words.
    pub fn answer(&self) -> Answer {
        match self {
            Self::Value(value) => Answer::Value(value.state()),
            Self::Done => Answer::Done,
            Self::Swapped => Answer::Swapped,
            Self::NotSwapped => Answer::NotSwapped,
        }
    }
}

impl State {
    const EMPTY_LIST: Self = Self::List { length: 0, hash: 0 };

    fn appended(self, item: u64) -> Self {
        match self {
            Self::List { length, hash } => {
                Self::List { length: length + 1, hash: mix(hash ^ mix(item.wrapping_add(length))) }
            }
            Self::Absent | Self::Register(_) => Self::EMPTY_LIST.appended(item),
        }
    }

    /// The reference: what `op` makes of this state, and what it answers.
    #[must_use]
    pub fn apply(self, op: Op) -> (Self, Answer) {
        match op {
            Op::Read | Op::StaleRead => (self, Answer::Value(self)),
            Op::Set(value) => (Self::Register(value), Answer::Done),
            Op::Append(item) => (self.appended(item), Answer::Done),
            Op::Delete => (Self::Absent, Answer::Done),
            Op::CompareAndSet { expected, new } => {
                if self == expected.map_or(Self::Absent, Self::Register) {
                    (Self::Register(new), Answer::Swapped)
                } else {
                    (self, Answer::NotSwapped)
                }
            }
        }
    }

    /// Two words for a hash.
    pub(crate) const fn words(self) -> (u64, u64) {
        match self {
            Self::Absent => (0, 0),
            Self::Register(value) => (1, value),
            Self::List { length, hash } => (2 + length, hash),
        }
    }
}

/// How an operation ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum End {
    /// Not yet, or never: it may take effect at any time, or not at all.
    Unknown,
    /// With this answer.
    Returned(Reply),
    /// It was refused: it had no effect and will have none.
    Failed,
}

/// One operation of one client.
#[derive(Clone, Debug)]
pub struct Operation {
    /// Whose.
    pub client: ClientId,
    /// In which group.
    pub group: GroupId,
    /// On which key.
    pub key: KeyId,
    /// What.
    pub op: Op,
    /// When it began.
    pub invoked_at: Micros,
    /// When it ended, if it did.
    pub ended_at: Option<Micros>,
    /// How.
    pub end: End,
    /// For a read: the index whose state it was answered from, if the profile knows.
    pub read_point: Option<LogIndex>,
    /// Its place in the order of all beginnings and ends.
    pub(crate) begun: u64,
    /// The place of its end; after everything if it has none.
    pub(crate) ended: u64,
}

/// All operations of a run, in the order in which they began. Grows with the run.
#[derive(Clone, Debug, Default)]
pub struct History {
    operations: Vec<Operation>,
    events: u64,
    /// Groups of which nothing is judged.
    silenced: BTreeSet<GroupId>,
}

impl History {
    /// Nothing happened yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A client asks.
    pub fn invoke(
        &mut self,
        at: Micros,
        client: ClientId,
        group: GroupId,
        key: KeyId,
        op: Op,
    ) -> OpId {
        let id = OpId(self.operations.len() as u64);
        let begun = self.event();
        self.operations.push(Operation {
            client,
            group,
            key,
            op,
            invoked_at: at,
            ended_at: None,
            end: End::Unknown,
            read_point: None,
            begun,
            ended: u64::MAX,
        });
        id
    }

    /// A client hears the answer. Later ends of the same operation are ignored: whether there is
    /// exactly one is the matter of [`Outcomes`](super::outcomes::Outcomes).
    pub fn returned(&mut self, at: Micros, id: OpId, reply: Reply) {
        self.end(at, id, End::Returned(reply));
    }

    /// A client hears the answer to a read, made from the state after `point`.
    pub fn read(&mut self, at: Micros, id: OpId, value: Value, point: LogIndex) {
        if let Some(operation) = self.operations.get_mut(id.0 as usize) {
            operation.read_point = Some(point);
        }
        self.end(at, id, End::Returned(Reply::Value(value)));
    }

    /// A client hears that nothing happened and nothing will.
    pub fn failed(&mut self, at: Micros, id: OpId) {
        self.end(at, id, End::Failed);
    }

    fn end(&mut self, at: Micros, id: OpId, end: End) {
        let event = self.event();
        let Some(operation) = self.operations.get_mut(id.0 as usize) else { return };
        if operation.ended_at.is_none() {
            operation.end = end;
            operation.ended_at = Some(at);
            operation.ended = event;
        }
    }

    fn event(&mut self) -> u64 {
        self.events += 1;
        self.events
    }

    /// Nothing of this group is judged: some of what was answered is lost, and somebody has accepted that.
    pub fn silence(&mut self, group: GroupId) {
        self.silenced.insert(group);
    }

    /// Whether nothing of a group is judged.
    pub fn is_silenced(&self, group: GroupId) -> bool {
        self.silenced.contains(&group)
    }

    /// The operation of this name.
    pub fn find(&self, id: OpId) -> Option<&Operation> {
        self.operations.get(id.0 as usize)
    }

    /// All operations that are judged, with their names, in the order in which they began.
    pub fn iter(&self) -> impl Iterator<Item = (OpId, &Operation)> {
        let all = self.operations.iter().enumerate();
        let judged = all.filter(|(_, operation)| !self.is_silenced(operation.group));
        judged.map(|(at, operation)| (OpId(at as u64), operation))
    }

    /// How many operations there are.
    pub fn len(&self) -> usize {
        self.operations.len()
    }

    /// Whether nobody has asked for anything.
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_empty_and_zero_are_three_things() {
        let states = [Value::Absent, Value::List(vec![]), Value::Register(0)].map(|v| v.state());
        assert!(states[0] != states[1] && states[1] != states[2] && states[0] != states[2]);
        let (state, answer) = State::Absent.apply(Op::CompareAndSet { expected: Some(0), new: 1 });
        assert_eq!((state, answer), (State::Absent, Answer::NotSwapped));
        let (_, answer) = State::Register(0).apply(Op::CompareAndSet { expected: None, new: 1 });
        assert_eq!(answer, Answer::NotSwapped);
    }

    #[test]
    fn lists_differ_by_content_order_and_length() {
        let list = |items: &[u64]| Value::List(items.to_vec()).state();
        assert_eq!(list(&[1, 2]), State::Absent.apply(Op::Append(1)).0.apply(Op::Append(2)).0);
        assert_ne!(list(&[1, 2]), list(&[2, 1]));
        assert_ne!(list(&[0]), list(&[0, 0]));
        assert_ne!(list(&[1, 2]), list(&[1, 3]));
    }

    #[test]
    fn the_first_end_counts() {
        let mut history = History::new();
        let id = history.invoke(Micros::ZERO, ClientId(1), GroupId::new(1), KeyId(1), Op::Set(1));
        history.returned(Micros::new(5), id, Reply::Done);
        history.failed(Micros::new(6), id);
        let operation = history.find(id).expect("it was invoked");
        assert_eq!(operation.end, End::Returned(Reply::Done));
        assert!(operation.begun < operation.ended);
    }
}
