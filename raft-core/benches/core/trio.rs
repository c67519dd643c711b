//! Three replicas of one group on one thread, and the least a driver has to do for them.
//!
//! Each replica keeps its entries in memory, payloads by reference, and applies by counting.
//! What the core wants persisted is acknowledged at once. Messages travel through a queue. The
//! benchmark beside other libraries includes this file, so both measure the same driver.
//!
//! Invariant: nothing is skipped that a real driver must do. Entries travel from log to log with
//! their messages, gated messages wait for their operation, every outcome is looked at.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use raft_core::{
    Durable, Effects, Entry, EntryKind, Group, GroupId, Incarnation, Input, LogChange, LogIndex,
    LogTime, Membership, Message, Micros, Outcome, Outgoing, ReplicaId, Settings, Start, Token,
};

pub(crate) const LIFE: Incarnation = Incarnation::new(1);
pub(crate) const REPLICAS: usize = 3;
/// The one that is elected.
const LEADER: usize = 0;

/// A message on its way. The entries of an append travel beside it, in the same order.
struct Packet {
    from: ReplicaId,
    outgoing: Outgoing,
}

/// The entries of one replica that are still kept.
#[derive(Default)]
struct Log {
    first: u64,
    entries: VecDeque<Entry>,
}

impl Log {
    fn at(&self, index: LogIndex) -> Option<&Entry> {
        self.entries.get(index.get().checked_sub(self.first)? as usize)
    }

    fn range(&self, first: LogIndex, last: LogIndex) -> impl Iterator<Item = &Entry> {
        let from = (first.get() - self.first) as usize;
        self.entries.range(from..=(last.get() - self.first) as usize)
    }

    fn compact(&mut self, upto: u64) {
        self.entries.drain(..(upto - self.first) as usize);
        self.first = upto;
    }
}

struct Replica {
    group: Group,
    effects: Effects,
    log: Log,
    applied: LogIndex,
    commands: u64,
    bytes: u64,
}

/// Three replicas; the first one leads.
pub(crate) struct Trio {
    now: Micros,
    replicas: Vec<Replica>,
    wire: VecDeque<Packet>,
    /// The entries of the appends on the wire that carry any.
    carried: VecDeque<Vec<Entry>>,
    /// Emptied vectors of delivered packets, to be filled again.
    spare: Vec<Vec<Entry>>,
    /// Payloads proposed and not yet appended, in order.
    proposed: VecDeque<Bytes>,
    tokens: u64,
    ended: u64,
}

impl Trio {
    /// Builds the group and has its first replica elected.
    pub(crate) fn new() -> Self {
        let replicas = (0..REPLICAS)
            .map(|at| Replica {
                group: new_group(7, at, &Arc::new(Settings::default())),
                effects: Effects::default(),
                log: Log { first: 1, ..Log::default() },
                applied: LogIndex::ZERO,
                commands: 0,
                bytes: 0,
            })
            .collect();
        let mut trio = Self {
            now: Micros::ZERO,
            replicas,
            wire: VecDeque::new(),
            carried: VecDeque::new(),
            spare: Vec::new(),
            proposed: VecDeque::new(),
            tokens: 0,
            ended: 0,
        };
        let first = &mut trio.replicas[LEADER];
        first.group.step(trio.now, Input::Campaign, &mut first.effects);
        trio.round();
        assert!(trio.replicas[LEADER].group.is_leader(), "the only candidate wins");
        trio
    }

    /// Commands that were proposed and are committed and applied at the leader.
    pub(crate) fn committed(&self) -> u64 {
        self.replicas[LEADER].commands.min(self.ended)
    }

    /// Payload bytes applied at the leader.
    pub(crate) fn applied_bytes(&self) -> u64 {
        self.replicas[LEADER].bytes
    }

    /// Hands one command to the leader; [`round`](Self::round) sends it on its way.
    pub(crate) fn propose(&mut self, payload: Bytes) {
        let bytes = payload.len() as u64 + Entry::OVERHEAD;
        self.tokens += 1;
        let token = Token::new(self.tokens);
        self.proposed.push_back(payload);
        let leader = &mut self.replicas[LEADER];
        let time = LogTime::new(self.now.get());
        leader.group.step(self.now, Input::Propose { token, bytes, time }, &mut leader.effects);
    }

    /// The leader acts on what was proposed, and all messages are delivered until none is left.
    pub(crate) fn round(&mut self) {
        // Time passes, but not enough for a deadline: this measures commits, not heartbeats.
        self.now = self.now.after(std::time::Duration::from_micros(1));
        self.settle(LEADER, &mut Vec::new());
        self.deliver();
    }

    /// Drops what everyone has, but for the newest `keep` entries.
    pub(crate) fn compact(&mut self, keep: u64) {
        let everyone = self.replicas.iter().map(|replica| replica.applied.get()).min().unwrap_or(0);
        for replica in &mut self.replicas {
            let upto = everyone.saturating_sub(keep);
            if upto >= replica.log.first + keep {
                replica.log.compact(upto);
            }
        }
    }

    fn deliver(&mut self) {
        while let Some(Packet { from, outgoing: Outgoing { to, message } }) = self.wire.pop_front()
        {
            let to = place(to);
            let carries = matches!(&message, Message::Append(append) if !append.runs.is_empty());
            let input =
                Input::Message { from, from_incarnation: LIFE, to_incarnation: LIFE, message };
            let replica = &mut self.replicas[to];
            replica.group.step(self.now, input, &mut replica.effects);
            // Answers that arrive together are acted on together; the entries of an append must
            // be taken before the next one comes.
            if carries {
                let mut entries = self.carried.pop_front().expect("one for each such append");
                self.settle(to, &mut entries);
                entries.clear();
                self.spare.push(entries);
            } else if self.wire.front().is_none_or(|next| place(next.outgoing.to) != to) {
                self.settle(to, &mut Vec::new());
            }
        }
    }

    /// Carries out everything a replica asked for. `entries` came with the append, if any did.
    fn settle(&mut self, at: usize, entries: &mut Vec<Entry>) {
        let from = replica_id(at);
        let replica = &mut self.replicas[at];
        let Replica { group, effects, log, .. } = replica;
        for change in &effects.log_changes {
            keep_in_step(log, change, &mut self.proposed, entries);
        }
        effects.log_changes.clear();
        if let Some(persist) = effects.persist.take() {
            // The log is the disk here, and already written.
            let durable = Durable::attest(persist.seq);
            group.step(self.now, Input::Persisted(persist.seq), effects);
            for gated in effects.messages.drain_gated() {
                let outgoing = gated.open(durable).expect("it just became durable");
                self.wire.push_back(Packet { from, outgoing });
            }
        }
        for outgoing in effects.messages.drain_ready() {
            self.wire.push_back(Packet { from, outgoing });
        }
        for (_, outcome) in &effects.outcomes {
            match outcome {
                Outcome::Committed { .. } => self.ended += 1,
                Outcome::Superseded
                | Outcome::Unknown
                | Outcome::ReadReady { .. }
                | Outcome::Transferred
                | Outcome::Refused(_) => panic!("nothing here can fail: {outcome:?}"),
            }
        }
        effects.outcomes.clear();
        if let Some(upto) = effects.appliable.take() {
            for entry in log.range(replica.applied.next(), upto) {
                if entry.kind == EntryKind::Command {
                    replica.commands += 1;
                    replica.bytes += entry.payload.len() as u64;
                }
            }
            replica.applied = upto;
        }
        if at == LEADER {
            self.pull_appends();
        }
    }

    /// Lets the leader send what it has for the others.
    fn pull_appends(&mut self) {
        let Replica { group, log, .. } = &mut self.replicas[LEADER];
        for to in (0..REPLICAS).filter(|to| *to != LEADER).map(replica_id) {
            let cost_of = |index: LogIndex| log.at(index).map(Entry::cost);
            while let Some(append) = group.make_append(self.now, to, u64::MAX, cost_of) {
                if !append.runs.is_empty() {
                    let mut entries = self.spare.pop().unwrap_or_default();
                    let range = log.range(append.prev_index.next(), append.last_index());
                    entries.extend(range.cloned());
                    self.carried.push_back(entries);
                }
                let outgoing = Outgoing { to, message: Message::Append(append) };
                self.wire.push_back(Packet { from: replica_id(LEADER), outgoing });
            }
        }
    }
}

/// Repeats a change of the core's log on the log that holds the payloads.
fn keep_in_step(
    log: &mut Log,
    change: &LogChange,
    proposed: &mut VecDeque<Bytes>,
    entries: &mut Vec<Entry>,
) {
    match *change {
        LogChange::Truncated { from } => log.entries.truncate((from.get() - log.first) as usize),
        LogChange::Appended { index, term, kind, time } => {
            let payload = match kind {
                EntryKind::Command => proposed.pop_front().expect("one payload per proposal"),
                EntryKind::Noop => Bytes::new(),
                EntryKind::Config => panic!("nobody asked for a change of membership"),
            };
            log.entries.push_back(Entry { index, term, kind, time, payload });
        }
        LogChange::Received { first, last } => {
            let held = |entry: &Entry| entry.index < first || entry.index > last;
            if entries.first().is_some_and(held) || entries.last().is_some_and(held) {
                entries.retain(|entry| !held(entry));
            }
            log.entries.extend(entries.drain(..));
        }
        LogChange::Reset { .. } | LogChange::Compacted { .. } => {
            panic!("nobody took a snapshot: {change:?}")
        }
    }
}

pub(crate) const fn replica_id(at: usize) -> ReplicaId {
    ReplicaId::new(at as u64 + 1)
}

pub(crate) const fn place(replica: ReplicaId) -> usize {
    replica.get() as usize - 1
}

/// A fresh replica of a group of three. Its membership is its own, as on a node of its own.
pub(crate) fn new_group(group: u32, at: usize, settings: &Arc<Settings>) -> Group {
    let all = Membership::of_voters((0..REPLICAS).map(replica_id)).expect("distinct voters");
    let settings = Arc::clone(settings);
    let start = Start::fresh(GroupId::new(group), replica_id(at), all, settings);
    Group::new(Micros::ZERO, Start { seed: 42, ..start }).expect("a sound start")
}
