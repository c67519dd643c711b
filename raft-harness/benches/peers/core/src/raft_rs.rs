//! raft-rs on the same work: three `RawNode`s on one thread, messages handed over directly.
//!
//! Its side of the bench is to be as fast as the library allows: a store without locks, commands
//! proposed as one batch of a message, entries moved rather than copied where the library gives
//! them away, and each choice of [`Tuning`] as measured to be best.

use std::collections::VecDeque;

use bytes::Bytes;
use raft::eraftpb::{ConfState, Entry, EntryType, HardState, Message, MessageType, Snapshot};
use raft::storage::{GetEntriesContext, Storage};
use raft::util::limit_size;
use raft::{Config, RaftState, RawNode, StateRole, StorageError};

pub(crate) const VERSION: &str = "0.7.0";
const VOTERS: [u64; 3] = [1, 2, 3];

/// Settings with a choice; the default is the fastest.
#[derive(Clone, Copy)]
pub(crate) struct Tuning {
    /// Followers hear of a commit with the next append instead of by a message of its own.
    /// It is how our core behaves.
    pub(crate) skip_bcast_commit: bool,
    /// All that was proposed since the last round enters as one message.
    pub(crate) propose_at_once: bool,
}

/// The log of one replica in memory, without `MemStorage`'s lock.
#[derive(Default)]
pub(crate) struct Store {
    hard_state: HardState,
    /// Index and term of the last entry that was dropped.
    compacted: (u64, u64),
    entries: VecDeque<Entry>,
}

impl Store {
    fn append(&mut self, entries: Vec<Entry>) {
        if let Some(first) = entries.first() {
            self.entries.truncate((first.index - self.compacted.0 - 1) as usize);
            self.entries.extend(entries);
        }
    }

    fn compact(&mut self, upto: u64) {
        let count = (upto - self.compacted.0) as usize;
        self.compacted = (upto, self.entries[count - 1].term);
        self.entries.drain(..count);
    }
}

impl Storage for Store {
    fn initial_state(&self) -> raft::Result<RaftState> {
        let conf_state = ConfState { voters: VOTERS.to_vec(), ..Default::default() };
        Ok(RaftState::new(self.hard_state.clone(), conf_state))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        let from = low.checked_sub(self.compacted.0 + 1).ok_or(StorageError::Compacted)? as usize;
        let to = (high - self.compacted.0 - 1) as usize;
        let mut entries: Vec<Entry> = self.entries.range(from..to).cloned().collect();
        limit_size(&mut entries, max_size.into());
        Ok(entries)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index == self.compacted.0 {
            return Ok(self.compacted.1);
        }
        let at = index.checked_sub(self.compacted.0 + 1).ok_or(StorageError::Compacted)?;
        let entry = self.entries.get(at as usize).ok_or(StorageError::Unavailable)?;
        Ok(entry.term)
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.compacted.0 + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.compacted.0 + self.entries.len() as u64)
    }

    fn snapshot(&self, _request_index: u64, _to: u64) -> raft::Result<Snapshot> {
        Err(StorageError::SnapshotTemporarilyUnavailable.into())
    }
}

/// Three replicas; the first one leads.
pub(crate) struct Trio {
    nodes: Vec<RawNode<Store>>,
    wire: Vec<Message>,
    spare: Vec<Message>,
    proposed: Vec<Entry>,
    commands: u64,
    bytes: u64,
    tuning: Tuning,
}

impl Trio {
    pub(crate) fn new(tuning: Tuning) -> Self {
        let mut trio = Self {
            nodes: VOTERS.iter().map(|id| new_node(*id, tuning)).collect(),
            wire: Vec::new(),
            spare: Vec::new(),
            proposed: Vec::new(),
            commands: 0,
            bytes: 0,
            tuning,
        };
        trio.nodes[0].campaign().expect("campaign");
        trio.round();
        assert_eq!(trio.nodes[0].raft.state, StateRole::Leader, "the only candidate wins");
        trio
    }

    pub(crate) fn committed(&self) -> u64 {
        self.commands
    }

    pub(crate) fn applied_bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn propose(&mut self, payload: Bytes) {
        let entry = Entry { data: payload, ..Default::default() };
        self.proposed.push(entry);
        if !self.tuning.propose_at_once {
            self.submit();
        }
    }

    fn submit(&mut self) {
        if self.proposed.is_empty() {
            return;
        }
        let mut message = Message { from: VOTERS[0], ..Default::default() };
        message.set_msg_type(MessageType::MsgPropose);
        message.entries = std::mem::take(&mut self.proposed).into();
        self.nodes[0].step(message).expect("the leader takes it");
    }

    pub(crate) fn round(&mut self) {
        self.submit();
        self.settle(0);
        while !self.wire.is_empty() {
            std::mem::swap(&mut self.wire, &mut self.spare);
            let mut spoken_to = [false; VOTERS.len()];
            for message in self.spare.drain(..) {
                let to = (message.to - 1) as usize;
                spoken_to[to] = true;
                self.nodes[to].step(message).expect("a sound message");
            }
            for (at, _) in spoken_to.iter().enumerate().filter(|(_, spoken_to)| **spoken_to) {
                self.settle(at);
            }
        }
    }

    /// Handles all that a replica has ready.
    fn settle(&mut self, at: usize) {
        let (mut commands, mut bytes) = (0, 0);
        let mut apply = |entries: Vec<Entry>| {
            for entry in &entries {
                if entry.entry_type == EntryType::EntryNormal && !entry.data.is_empty() {
                    commands += 1;
                    bytes += entry.data.len() as u64;
                }
            }
        };
        let node = &mut self.nodes[at];
        while node.has_ready() {
            let mut ready = node.ready();
            self.wire.append(&mut ready.take_messages());
            apply(ready.take_committed_entries());
            let entries = ready.take_entries();
            let store = node.mut_store();
            store.append(entries);
            if let Some(hard_state) = ready.hs() {
                store.hard_state = hard_state.clone();
            }
            self.wire.append(&mut ready.take_persisted_messages());
            let mut light = node.advance(ready);
            if let Some(commit) = light.commit_index() {
                node.mut_store().hard_state.commit = commit;
            }
            self.wire.append(&mut light.take_messages());
            apply(light.take_committed_entries());
            node.advance_apply();
        }
        if at == 0 {
            self.commands += commands;
            self.bytes += bytes;
        }
    }

    pub(crate) fn compact(&mut self, keep: u64) {
        let applied = self.nodes.iter().map(|node| node.raft.raft_log.applied).min();
        let upto = applied.unwrap_or(0).saturating_sub(keep);
        for node in &mut self.nodes {
            if upto > node.store().compacted.0 + keep {
                node.mut_store().compact(upto);
            }
        }
    }
}

fn new_node(id: u64, tuning: Tuning) -> RawNode<Store> {
    let config = Config {
        id,
        election_tick: 20,
        heartbeat_tick: 2,
        // As ours. Without a limit it is not faster.
        max_size_per_msg: 1 << 20,
        max_inflight_msgs: 256,
        check_quorum: true,
        pre_vote: true,
        batch_append: true,
        skip_bcast_commit: tuning.skip_bcast_commit,
        ..Default::default()
    };
    let logger = slog::Logger::root(slog::Discard, slog::o!());
    RawNode::new(&config, Store::default(), &logger).expect("node")
}

/// All groups elected, some commands committed, and nothing in flight: leaders, then followers.
pub(crate) fn idle_nodes(
    groups: u32,
    commands: u64,
    tuning: Tuning,
) -> (Vec<RawNode<Store>>, Vec<RawNode<Store>>) {
    let (mut leaders, mut followers) = (Vec::new(), Vec::new());
    for _ in 0..groups {
        let mut trio = Trio::new(tuning);
        for _ in 0..commands {
            trio.propose(Bytes::from_static(b"command"));
        }
        trio.round();
        // Its core alone is compared: the log's entries belong to the driver.
        for node in &mut trio.nodes {
            let last = node.store().last_index().expect("in memory");
            node.mut_store().compact(last);
            node.mut_store().entries = VecDeque::new();
        }
        let mut nodes = trio.nodes.into_iter();
        leaders.extend(nodes.next());
        followers.extend(nodes);
    }
    (leaders, followers)
}
