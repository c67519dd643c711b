//! What happened, twice: as a hash over everything, and as the last events in words.
//!
//! The hash is what "bit-identical" means: two runs of a seed are the same if and only if it is.
//! It uses no hasher of the standard library, whose results may change.
//!
//! The words are for people. They cost time, so they are only made while somebody wants them: a
//! sweep runs without, and a failed seed is run again with them.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

use raft_core::{GroupId, Micros, NodeId};

use super::rng::mix;

/// A hash over a sequence of words, 128 bits wide.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TraceHash {
    a: u64,
    b: u64,
}

impl Default for TraceHash {
    fn default() -> Self {
        Self::new()
    }
}

impl TraceHash {
    /// Of nothing.
    pub const fn new() -> Self {
        Self { a: 0x243f_6a88_85a3_08d3, b: 0x1319_8a2e_0370_7344 }
    }

    /// Takes one word. The order of words matters.
    pub const fn word(&mut self, word: u64) {
        self.a = (self.a ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
        self.b = self
            .b
            .rotate_left(23)
            .wrapping_add(word ^ (self.a >> 32))
            .wrapping_mul(0xc2b2_ae3d_27d4_eb4f);
    }

    /// Takes bytes, and how many there are.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.word(bytes.len() as u64);
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.word(u64::from_le_bytes(word));
        }
    }

    /// The hash so far.
    pub const fn value(self) -> u128 {
        let a = mix(self.a ^ self.b.rotate_left(32));
        let b = mix(self.b ^ a);
        ((a as u128) << 64) | b as u128
    }
}

impl fmt::Display for TraceHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.value())
    }
}

/// Links the sending of a message with its arrival.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct MessageId(pub u64);

/// What kind of thing happened.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum EventKind {
    /// A message left.
    Send,
    /// A message arrived.
    Receive,
    /// A message was lost where it would have arrived.
    Drop,
    /// A deadline came.
    Deadline,
    /// Something reached the disk, or did not.
    Disk,
    /// A role, a term or a leader changed.
    Role,
    /// The commit index rose.
    Commit,
    /// A client asked or was answered.
    Client,
    /// A node stopped, started, paused, or its clock moved.
    Process,
    /// A fault began or ended.
    Fault,
    /// An operator acted.
    Operator,
    /// A check failed.
    Violation,
}

impl EventKind {
    const fn code(self) -> u64 {
        match self {
            Self::Send => 1,
            Self::Receive => 2,
            Self::Drop => 3,
            Self::Deadline => 4,
            Self::Disk => 5,
            Self::Role => 6,
            Self::Commit => 7,
            Self::Client => 8,
            Self::Process => 9,
            Self::Fault => 10,
            Self::Operator => 11,
            Self::Violation => 12,
        }
    }
}

/// One thing that happened, in numbers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Happened {
    /// When, on the common virtual clock.
    pub at: Micros,
    /// Where.
    pub node: NodeId,
    /// In which group, if in one.
    pub group: Option<GroupId>,
    /// What kind of thing.
    pub kind: EventKind,
    /// The message that was sent or arrived. Not part of the hash.
    pub link: Option<MessageId>,
    /// Stands for all of its content.
    pub digest: u64,
}

/// One thing that happened, in words.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Event {
    /// Its place among all events of the run.
    pub order: u64,
    /// When, on the common virtual clock.
    pub at: Micros,
    /// Where.
    pub node: NodeId,
    /// In which group, if in one.
    pub group: Option<GroupId>,
    /// What kind of thing.
    pub kind: EventKind,
    /// What, in a few words.
    pub text: String,
    /// The message that was sent or arrived.
    pub link: Option<MessageId>,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>12} {:?}", self.at.get(), self.node)?;
        if let Some(group) = self.group {
            write!(f, " {group:?}")?;
        }
        write!(f, " {:?}", self.kind)?;
        if let Some(link) = self.link {
            write!(f, " m{}", link.0)?;
        }
        write!(f, " {}", self.text)
    }
}

/// The trace of one run.
#[derive(Clone, Debug)]
pub struct Trace {
    hash: TraceHash,
    events: u64,
    /// The last events of each node. At most `kept_max` each: the oldest goes.
    rings: BTreeMap<NodeId, VecDeque<Event>>,
    kept_max: usize,
}

impl Trace {
    /// Only the hash: for sweeps.
    pub fn hash_only() -> Self {
        Self::keeping(0)
    }

    /// The hash, and the last `kept_max` events of each node in words.
    pub fn keeping(kept_max: usize) -> Self {
        Self { hash: TraceHash::new(), events: 0, rings: BTreeMap::new(), kept_max }
    }

    /// Something happened. `text` is only called if words are kept.
    pub fn event(&mut self, happened: Happened, text: impl FnOnce() -> String) {
        let Happened { at, node, group, kind, link, digest } = happened;
        self.events += 1;
        self.hash.word(at.get());
        self.hash.word(node.get() << 8 | kind.code());
        self.hash.word(group.map_or(u64::MAX, |group| u64::from(group.get())));
        self.hash.word(digest);
        if self.kept_max == 0 {
            return;
        }
        let ring = self.rings.entry(node).or_default();
        if ring.len() == self.kept_max {
            ring.pop_front();
        }
        ring.push_back(Event { order: self.events, at, node, group, kind, text: text(), link });
    }

    /// Takes a word into the hash that is no event of its own.
    pub const fn digest(&mut self, word: u64) {
        self.hash.word(word);
    }

    /// The hash so far.
    pub const fn hash(&self) -> TraceHash {
        self.hash
    }

    /// How many events there were.
    pub const fn count(&self) -> u64 {
        self.events
    }

    /// The last events of one node, oldest first.
    pub fn last_of(&self, node: NodeId) -> impl Iterator<Item = &Event> {
        self.rings.get(&node).into_iter().flatten()
    }

    /// The kept events of all nodes in the order in which they happened.
    pub fn last(&self) -> Vec<&Event> {
        let mut events: Vec<&Event> = self.rings.values().flatten().collect();
        events.sort_unstable_by_key(|event| event.order);
        events
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn traced(kept_max: usize, digests: &[u64]) -> Trace {
        let mut trace = Trace::keeping(kept_max);
        for (at, digest) in digests.iter().enumerate() {
            let node = NodeId::new(at as u64 % 2 + 1);
            let happened =
                Happened { at: Micros::new(at as u64), node, digest: *digest, ..NOTHING };
            trace.event(happened, || format!("write {digest}"));
        }
        trace
    }

    #[test]
    fn the_hash_is_pinned_and_does_not_depend_on_words() {
        let digests = [3, 1, 4, 1, 5];
        assert_eq!(traced(0, &digests).hash(), traced(9, &digests).hash());
        assert_eq!(traced(0, &digests).hash().to_string(), PINNED);
    }

    #[test]
    fn the_hash_tells_order_content_and_length_apart() {
        let hashes = [&[1, 2][..], &[2, 1], &[1, 2, 0], &[1], &[0, 1, 2], &[]]
            .map(|digests| traced(0, digests).hash().value());
        for (at, hash) in hashes.iter().enumerate() {
            assert!(!hashes[at + 1..].contains(hash));
        }
        let of_bytes = |bytes: &[u8]| {
            let mut hash = TraceHash::new();
            hash.bytes(bytes);
            hash.value()
        };
        assert_ne!(of_bytes(&[0]), of_bytes(&[0, 0]));
        assert_ne!(of_bytes(&[1; 9]), of_bytes(&[1; 10]));
    }

    #[test]
    fn each_node_keeps_its_own_last_events() {
        let trace = traced(2, &[10, 20, 30, 40, 50]);
        let of_first: Vec<_> = trace.last_of(NodeId::new(1)).map(|e| e.text.as_str()).collect();
        assert_eq!(of_first, ["write 30", "write 50"]);
        let all: Vec<_> = trace.last().iter().map(|e| e.text.as_str()).collect();
        assert_eq!(all, ["write 20", "write 30", "write 40", "write 50"]);
        assert_eq!(trace.count(), 5);
        assert_eq!(trace.last()[0].to_string(), "           1 n2 Disk write 20");
    }

    #[test]
    fn nothing_is_put_into_words_that_nobody_keeps() {
        let mut trace = Trace::hash_only();
        trace.event(NOTHING, || unreachable!("nobody keeps it"));
        assert!(trace.last().is_empty());
    }

    const NOTHING: Happened = Happened {
        at: Micros::ZERO,
        node: NodeId::new(1),
        group: None,
        kind: EventKind::Disk,
        link: None,
        digest: 0,
    };

    /// A change here makes every recorded hash another one.
    const PINNED: &str = "fc319af07405aa3bfcbb34fd0dd4dd19";
}
