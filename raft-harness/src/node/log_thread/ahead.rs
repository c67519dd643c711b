//! What is written before its sync departs, and told of at once.
//!
//! Within a group the order stays, and nobody is told before somebody vouches for it.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use raft_storage::{GroupWrite, LogError};

use super::{LogWork, NoRoomFor, Waiting};
use crate::engine::{EngineInput, PersistTicket};
use crate::node::inbox::Inbox;
use crate::node::shard_thread::ShardInput;

impl LogWork {
    /// Remembers what it writes ahead of its sync, until that is asked for.
    #[cfg(feature = "sim")]
    pub(crate) fn accounted(mut self) -> Self {
        self.ahead = Some(Vec::new());
        self
    }

    /// What was written ahead of its sync since this was last asked.
    #[cfg(feature = "sim")]
    pub(crate) fn take_ahead(&mut self) -> Vec<GroupWrite> {
        self.ahead.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Whether it counts once it is written. One that is to be divided goes with a flight.
    fn is_early(&self, waiting: &Waiting) -> bool {
        let ticket = waiting.done.as_ref().map(|done| done.ticket.1);
        matches!(ticket, Some(PersistTicket::Early(..)))
            && waiting.cost <= self.portion_bytes
            && !self.vouching.is_refused()
    }

    /// Whether all that waits is better written when what is in the air has landed, or what is written
    /// has its sync: with a flight it would wait for a sync of its own, and so would what comes then.
    pub(super) fn may_wait(&self) -> bool {
        let is_busy = !self.air.is_empty() || self.is_due();
        is_busy && self.staged.is_empty() && self.waiting.iter().all(|next| self.is_early(next))
    }

    /// Writes what counts once it is written, if nothing is staged or in the air, and until a sync is due;
    /// without room for a portion, gives it back. Within a group the order stays.
    pub(super) fn write_early(&mut self) -> Result<Result<(), NoRoomFor>, LogError> {
        while self.air.is_empty() && self.staged.is_empty() && !self.is_due() {
            if !self.waiting.iter().any(|waiting| self.is_early(waiting)) {
                break;
            }
            let mut behind = HashSet::new();
            let (mut early, mut later, mut cost) = (Vec::new(), VecDeque::new(), 0);
            for waiting in std::mem::take(&mut self.waiting) {
                let is_early = self.is_early(&waiting)
                    && cost + waiting.cost <= self.portion_bytes
                    && !behind.contains(&waiting.write.group);
                if is_early {
                    cost += waiting.cost;
                    early.push(waiting);
                } else {
                    behind.insert(waiting.write.group);
                    later.push_back(waiting);
                }
            }
            self.waiting = later;
            if early.is_empty() {
                break;
            }
            if let Err(no_room) = self.write_portion(early)? {
                return Ok(Err(no_room));
            }
        }
        Ok(Ok(()))
    }

    /// Writes a portion; without room for it, gives it back.
    fn write_portion(&mut self, portion: Vec<Waiting>) -> Result<Result<(), NoRoomFor>, LogError> {
        let (writes, rest): (Vec<_>, Vec<_>) =
            portion.into_iter().map(|Waiting { write, cost, done }| (write, (cost, done))).unzip();
        match self.store.append_cached(&writes) {
            Ok(info) => {
                self.flush.wrote(info.bytes);
                self.end = info.end_lsn;
                self.written.wrote(info);
                #[cfg(feature = "sim")]
                self.account_for(&writes);
                for (write, (cost, done)) in writes.iter().zip(rest) {
                    self.written.cost += cost;
                    let Some(done) = done else { continue };
                    let entries = write.entries.len() as u64;
                    self.written.entries += entries;
                    self.flush.note(self.now, done.shard, done.ticket, entries);
                    self.written.done.push(done);
                }
                Ok(Ok(()))
            }
            Err(LogError::NoSegment { source }) => {
                let parts = writes.into_iter().zip(rest);
                let parts = parts.map(|(write, (cost, done))| Waiting { write, cost, done });
                Ok(Err((parts.collect(), source)))
            }
            Err(failure) => {
                // Some of it may be there.
                #[cfg(feature = "sim")]
                self.account_for(&writes);
                Err(failure)
            }
        }
    }

    #[cfg(feature = "sim")]
    fn account_for(&mut self, writes: &[GroupWrite]) {
        if let Some(ahead) = &mut self.ahead {
            ahead.extend_from_slice(writes);
        }
    }

    /// Tells the shards what is written, of what counts then.
    pub(crate) fn acknowledge_written(&mut self, shards: &[Arc<Inbox<ShardInput>>]) {
        let early = self.flush.take_early();
        if early.is_empty() {
            return;
        }
        if !self.vouching.vouch(self.end) {
            // It is told of when it is on disk, which is to be soon.
            self.flush.demand(self.now);
            return;
        }
        let mut tickets: Vec<Vec<_>> = shards.iter().map(|_| Vec::new()).collect();
        for (shard, ticket) in early {
            tickets[shard].push(ticket);
        }
        for (shard, tickets) in shards.iter().zip(tickets) {
            if tickets.is_empty() {
                continue;
            }
            let told = match raft_core::planted!(WrittenTakenForDurable) {
                true => EngineInput::Persisted(tickets),
                false => EngineInput::Written(tickets),
            };
            let _ = shard.push(ShardInput::Engine(told));
        }
    }
}
