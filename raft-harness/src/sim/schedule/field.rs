//! The values faults are made of, and how they are written in a schedule.

use std::collections::BTreeMap;

use raft_core::{GroupId, NodeId};

use super::{Problem, Shape};

/// Some of the nodes 1 to 32.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct NodeSet(u32);

impl NodeSet {
    /// The most nodes a simulated cluster has.
    pub const NODES_MAX: u64 = 32;

    /// Nodes 1 to `count`.
    pub fn first(count: u64) -> Self {
        (1..=count).map(NodeId::new).collect()
    }

    /// One node.
    pub fn one(node: NodeId) -> Self {
        std::iter::once(node).collect()
    }

    /// Whether the node is one of them.
    pub const fn contains(self, node: NodeId) -> bool {
        let number = node.get();
        number >= 1 && number <= Self::NODES_MAX && self.0 & (1 << (number - 1)) != 0
    }

    /// All but one.
    #[must_use]
    pub fn without(self, node: NodeId) -> Self {
        Self(self.0 & !Self::one(node).0)
    }

    /// In ascending order.
    pub fn iter(self) -> impl Iterator<Item = NodeId> {
        (1..=Self::NODES_MAX).map(NodeId::new).filter(move |node| self.contains(*node))
    }

    /// How many.
    pub const fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Whether there are none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl FromIterator<NodeId> for NodeSet {
    /// Nodes beyond [`NodeSet::NODES_MAX`] are left out.
    fn from_iter<I: IntoIterator<Item = NodeId>>(nodes: I) -> Self {
        let known = nodes.into_iter().filter(|n| (1..=Self::NODES_MAX).contains(&n.get()));
        Self(known.fold(0, |set, node| set | 1 << (node.get() - 1)))
    }
}

/// A node by its number or by what it does when the fault begins.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Target {
    /// This one.
    Node(NodeId),
    /// The one that leads this group, in the highest term; without any, the fault does nothing.
    Leader(GroupId),
}

/// How a node stops.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Stop {
    /// Its process dies; what it wrote is in the page cache.
    Process,
    /// Its power goes; what was not synced is at the mercy of the disk.
    Power,
}

/// A kind of message between replicas, with its answer apart where that matters.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum MessageKind {
    /// Requests for votes and pre-votes.
    Vote,
    /// Their answers.
    VoteReply,
    /// Entries and probes.
    Append,
    /// Their answers.
    AppendReply,
    /// Heartbeats and read confirmations.
    Heartbeat,
    /// Their answers.
    HeartbeatReply,
    /// Requests to campaign at once.
    TimeoutNow,
    /// Snapshots and all that belongs to them.
    Snapshot,
}

impl MessageKind {
    /// How many kinds there are; each is below this as a number.
    pub const COUNT: usize = Self::Snapshot as usize + 1;
}

/// A value with a form in text.
pub(super) trait Field: Sized {
    fn print(&self) -> String;
    fn parse(text: &str) -> Option<Self>;
}

macro_rules! numbers {
    ($($type:ty),*) => {$(
        impl Field for $type {
            fn print(&self) -> String {
                self.to_string()
            }

            fn parse(text: &str) -> Option<Self> {
                text.parse().ok()
            }
        }
    )*};
}

numbers!(u32, u64, i32, i64);

macro_rules! words {
    ($type:ident { $($name:ident = $word:literal,)* }) => {
        impl Field for $type {
            fn print(&self) -> String {
                match self {
                    $(Self::$name => $word.to_owned(),)*
                }
            }

            fn parse(text: &str) -> Option<Self> {
                match text {
                    $($word => Some(Self::$name),)*
                    _ => None,
                }
            }
        }
    };
}

words!(Stop { Process = "process", Power = "power", });
words!(MessageKind {
    Vote = "vote",
    VoteReply = "vote-reply",
    Append = "append",
    AppendReply = "append-reply",
    Heartbeat = "heartbeat",
    HeartbeatReply = "heartbeat-reply",
    TimeoutNow = "timeout-now",
    Snapshot = "snapshot",
});
words!(Shape {
    Split = "split",
    Bridge = "bridge",
    Chain = "chain",
    Ring = "ring",
    Star = "star",
});

impl Field for NodeId {
    fn print(&self) -> String {
        self.to_string()
    }

    fn parse(text: &str) -> Option<Self> {
        let number = text.parse().ok()?;
        (1..=NodeSet::NODES_MAX).contains(&number).then(|| Self::new(number))
    }
}

impl Field for GroupId {
    fn print(&self) -> String {
        self.to_string()
    }

    fn parse(text: &str) -> Option<Self> {
        text.parse().ok().map(Self::new)
    }
}

impl Field for Target {
    fn print(&self) -> String {
        match self {
            Self::Node(node) => node.print(),
            Self::Leader(group) => format!("leader:{group}"),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        match text.strip_prefix("leader:") {
            Some(group) => GroupId::parse(group).map(Self::Leader),
            None => NodeId::parse(text).map(Self::Node),
        }
    }
}

impl Field for Vec<NodeId> {
    fn print(&self) -> String {
        self.iter().map(Field::print).collect::<Vec<_>>().join(",")
    }

    fn parse(text: &str) -> Option<Self> {
        text.split(',').map(NodeId::parse).collect()
    }
}

impl Field for NodeSet {
    fn print(&self) -> String {
        if self.is_empty() { "none".to_owned() } else { self.iter().collect::<Vec<_>>().print() }
    }

    fn parse(text: &str) -> Option<Self> {
        if text == "none" {
            return Some(Self::default());
        }
        Some(Vec::parse(text)?.into_iter().collect())
    }
}

/// The `field=value` words of a line.
pub(super) struct Fields<'a> {
    values: BTreeMap<&'a str, &'a str>,
}

impl<'a> Fields<'a> {
    pub(super) fn parse(words: impl Iterator<Item = &'a str>) -> Result<Self, Problem> {
        let mut values = BTreeMap::new();
        for word in words {
            let (field, value) =
                word.split_once('=').ok_or_else(|| Problem::NotAField(word.to_owned()))?;
            if values.insert(field, value).is_some() {
                return Err(Problem::UnknownField(field.to_owned()));
            }
        }
        Ok(Self { values })
    }

    pub(super) fn take<T: Field>(&mut self, field: &'static str) -> Result<T, Problem> {
        let value = self.values.remove(field).ok_or(Problem::Missing(field))?;
        T::parse(value).ok_or_else(|| Problem::bad(field, value))
    }

    /// All fields must have been taken.
    pub(super) fn finish(self) -> Result<(), Problem> {
        match self.values.keys().next() {
            None => Ok(()),
            Some(field) => Err(Problem::UnknownField((*field).to_owned())),
        }
    }
}
