//! What is written before its sync departs, through the page cache, and told of at once if it counts
//! then.
//!
//! A flight that is a sync and nothing else covers what was written when it departed; beside it the log
//! goes on. So while entries come that count once they are written, all others are written the same way
//! and only their syncs fly: whoever waits for the disk waits for a sync as before, and the others never
//! wait for one. Some milliseconds after the last of them what comes is staged again: one direct write
//! that is durable by itself costs the disk less.
//!
//! Invariants:
//! - within a group the order stays;
//! - nobody is told before somebody vouches for it;
//! - what a sync covers was written before it departed, and nothing else is told of when it lands.
//!
//! Bound: [`WAIT_BYTES_MAX`](crate::node::flush) and a portion since the last sync has departed, and as much
//! again that this one covers.

use std::collections::{HashSet, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::Duration;

#[cfg(feature = "sim")]
use raft_storage::GroupWrite;
use raft_storage::LogError;

use super::{LogWork, Waiting};
use crate::engine::{EngineInput, PersistTicket};
use crate::node::inbox::Inbox;
use crate::node::shard_thread::ShardInput;

/// For so long after the last entry that counts once it is written everything is written ahead of its
/// sync. It is the time in which a client that goes on asks again; and a direct write of a segment waits
/// for what the page cache still holds of its neighbourhood.
pub(super) const FOLLOWS: Duration = Duration::from_millis(10);

/// How long the word of who vouches for what is written may go unrenewed, if nothing is written. An idle
/// log comes by ten times a second.
const RENEWED_AFTER: Duration = Duration::from_secs(1);

/// What came of writing something ahead.
pub(super) enum Ahead {
    /// What may be written is, and the rest can wait.
    Goes,
    /// A segment has to begin, which it does not beside a sync: what waits goes with a flight.
    SegmentEnds,
    /// There is no segment.
    NoRoom(io::Error),
}

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

    /// Whether whatever comes is written ahead of its sync: what was staged would have to be written by a
    /// flight, and beside that nobody could be told of anything.
    fn follows(&self) -> bool {
        self.now < self.follows_until
    }

    /// Whether something may be written now: beside syncs up to the bound, and with nothing in the air
    /// until the sync of what is written has to depart.
    fn may_write(&self) -> bool {
        let is_full = match self.air.is_empty() {
            true => self.flush.is_full(),
            false => self.flush.is_at_bound(),
        };
        !is_full && self.staged.is_empty() && self.air.iter().all(|flight| flight.is_sync)
    }

    /// Whether all that waits is better written when what is in the air has landed, or what is written
    /// has its sync: with a flight it would wait for a sync of its own, and so would what comes then.
    pub(super) fn may_wait(&self) -> bool {
        let is_busy = !self.air.is_empty() || self.is_due();
        let is_alike = self.follows() || self.waiting.iter().all(|next| self.is_early(next));
        is_busy && self.staged.is_empty() && is_alike
    }

    /// Writes what counts once it is written, and then, while some of that comes, everything else. Within
    /// a group the order stays.
    pub(super) fn write_ahead(&mut self) -> Result<Ahead, LogError> {
        if self.waiting.iter().any(|waiting| self.is_early(waiting)) {
            self.follows_until = self.now.after(FOLLOWS);
        }
        while self.may_write() {
            let portion = self.take_early();
            if portion.is_empty() {
                break;
            }
            match self.write_portion(portion)? {
                Ahead::Goes => {}
                ends => return Ok(ends),
            }
        }
        while self.follows() && self.may_write() && !self.waiting.is_empty() {
            let portion = self.take_portion();
            match self.write_portion(portion)? {
                Ahead::Goes => {}
                ends => return Ok(ends),
            }
        }
        Ok(Ahead::Goes)
    }

    /// A portion of what counts once it is written, of those that wait behind nothing else of their
    /// group; nothing if there is none.
    fn take_early(&mut self) -> Vec<Waiting> {
        let mut early = Vec::new();
        if !self.waiting.iter().any(|waiting| self.is_early(waiting)) {
            return early;
        }
        let mut behind = HashSet::new();
        let (mut later, mut cost) = (VecDeque::new(), 0);
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
        early
    }

    /// Writes a portion; if that cannot be, it waits again.
    fn write_portion(&mut self, portion: Vec<Waiting>) -> Result<Ahead, LogError> {
        let (writes, rest): (Vec<_>, Vec<_>) =
            portion.into_iter().map(|Waiting { write, cost, done }| (write, (cost, done))).unzip();
        let unwritten = match self.store.append_cached(&writes) {
            Ok(info) => {
                self.flush.wrote(info.bytes);
                self.end = info.end_lsn;
                self.written.wrote(info);
                #[cfg(feature = "sim")]
                self.account_for(&writes);
                for (write, (cost, done)) in writes.iter().zip(rest) {
                    self.written.cost += cost;
                    let entries = write.entries.len() as u64;
                    self.written.entries += entries;
                    let Some(done) = done else {
                        // Of a part of an operation nobody is told, and it counts toward the bound.
                        self.flush.demand(self.now);
                        continue;
                    };
                    self.flush.note(self.now, done.shard, done.ticket, entries);
                    self.written.done.push(done);
                }
                return Ok(Ahead::Goes);
            }
            Err(LogError::NoSegment { source }) => Ahead::NoRoom(source),
            Err(LogError::UnderWay { .. }) => Ahead::SegmentEnds,
            Err(failure) => {
                // Some of it may be there.
                #[cfg(feature = "sim")]
                self.account_for(&writes);
                return Err(failure);
            }
        };
        let parts = writes.into_iter().zip(rest);
        self.put_back(parts.map(|(write, (cost, done))| Waiting { write, cost, done }).collect());
        Ok(unwritten)
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
            if self.renew_at <= self.now {
                self.vouching.renew();
                self.renew_at = self.now.after(RENEWED_AFTER);
            }
            return;
        }
        self.renew_at = self.now.after(RENEWED_AFTER);
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
