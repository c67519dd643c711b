//! The thread that owns the log: one write, durable when it returns, for whatever all shards handed
//! in since the last one ended.
//!
//! A disk without room is no failure. What was written before there was none is made durable and
//! acknowledged, the rest waits, votes pass it while the log has the room it keeps for them.
//!
//! Invariant: nothing is acknowledged to a shard before the sync that covers it returned.
//! After a failure nothing is acknowledged at all, ever again (see `raft-storage`).

use std::collections::{HashSet, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, RecvTimeoutError};
use parking_lot::Mutex;
use raft_core::{DiskSpace, Entry, GroupId};
#[cfg(feature = "sim")]
use raft_storage::LogStats;
use raft_storage::{GroupWrite, LogError, LogReader, LogStore, Tending};
use tracing::{error, warn};

use super::clock::Clock;
use super::inbox::Inbox;
use super::log_large::LargeEntries;
use super::log_pace::{LogPace, Pacer};
use super::log_watch::LogWatch;
use super::shard_thread::ShardInput;
use crate::counters::Counters;
use crate::engine::{EngineInput, LogLoad, PersistTicket};

/// What one turn of one shard wants durable.
pub(crate) struct LogBatch {
    pub(crate) shard: usize,
    pub(crate) writes: Vec<GroupWrite>,
    pub(crate) tickets: Vec<(GroupId, PersistTicket)>,
}

/// How often housekeeping that is under way is looked after.
const LOOK_AFTER: Duration = Duration::from_millis(5);

/// Steps of housekeeping in a row while there is no room for anything else.
const STEPS_MAX: usize = 64;

/// After so long without work, the log says in a frame of its own that all is durable.
pub(crate) const IDLE_AFTER: Duration = Duration::from_millis(100);

/// How long a log that found no room for a segment waits before it looks again: first, and at
/// most. Each look costs the disk a question and the shards nothing.
const PAUSE_FIRST: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// Operations taken into one write at most, so that the first does not wait for a flood.
const WRITES_MAX: usize = 16 << 10;

/// What is handed to the log at once, as far as operations can be divided: what goes into one
/// frame by default, so that a disk that fills up takes whole frames until it is full.
pub(crate) const PORTION_BYTES: u64 = 4 << 20;

/// So much of large entries is written at once, between the turns of the others; one piece at least.
const TURN_BYTES: u64 = 1 << 20;

/// No sync waits for more than this and a portion.
const SYNC_BYTES: u64 = 16 << 20;

/// The log and what it is working on. The steps take no time of their own, so that a simulator
/// can let time pass, or a node die, between them.
///
/// Bound: what waits is bounded by [`LogLoad`], as far as it has entries, and by one operation per
/// group beside that.
pub(crate) struct LogWork {
    store: Box<dyn LogStore>,
    load: Arc<LogLoad>,
    portion_bytes: u64,
    /// In the order in which they were handed in.
    waiting: VecDeque<Waiting>,
    /// Those that are large, and what is behind them.
    large: LargeEntries,
    /// The last turn was that of the others.
    large_is_next: bool,
    /// Written and not yet acknowledged.
    written: Vec<GroupWrite>,
    done: Vec<Done>,
    bytes: u64,
    unprepared_bytes: u64,
    /// Everything written is durable: the last portion came with its sync.
    synced: bool,
    /// The last append found no room, and the shards know.
    full: bool,
    pause: Duration,
    idle: bool,
    /// What housekeeping has said last.
    tending: Tending,
}

/// An operation, or a part of one, that is to be written.
pub(super) struct Waiting {
    pub(super) write: GroupWrite,
    /// About what it takes in the log.
    pub(super) cost: u64,
    /// Of the last part.
    pub(super) done: Option<Done>,
}

/// What was to be written, and why there is no segment for it.
type NoRoomFor = (Vec<Waiting>, io::Error);

/// An operation that can be acknowledged when what was written is durable.
pub(super) struct Done {
    shard: usize,
    ticket: (GroupId, PersistTicket),
    cost: u64,
}

/// How the last portion of what was taken is written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum LastPortion {
    /// As those before it: all of it waits for [`LogWork::sync`].
    Written,
    /// With its sync, in one call where the log has one.
    Synced,
}

/// How an append ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Append {
    /// Something is in the page cache and can be made durable; what did not fit into one go
    /// waits, see [`LogWork::has_waiting`].
    Written,
    /// The same, and for the rest there is no segment: the next attempt will say so.
    Partly,
    /// Nothing was written, for there is no segment; to be tried again after
    /// [`pause`](LogWork::pause), as descriptors or space may come free.
    NoSegment,
}

impl LogWork {
    pub(crate) fn new(store: Box<dyn LogStore>, load: Arc<LogLoad>, portion_bytes: u64) -> Self {
        let large = LargeEntries::new(store.large());
        Self {
            store,
            load,
            portion_bytes,
            waiting: VecDeque::new(),
            large,
            large_is_next: false,
            written: Vec::new(),
            done: Vec::new(),
            bytes: 0,
            unprepared_bytes: 0,
            synced: false,
            full: false,
            pause: PAUSE_FIRST,
            idle: false,
            tending: Tending::Done,
        }
    }

    /// Takes a batch, and what else is waiting.
    pub(crate) fn take(&mut self, first: LogBatch, batches: &Receiver<LogBatch>) {
        self.idle = false;
        let mut next = Some(first);
        while let Some(LogBatch { shard, writes, tickets }) = next {
            debug_assert_eq!(writes.len(), tickets.len());
            for (write, ticket) in writes.into_iter().zip(tickets) {
                let cost = write.cost();
                let waiting = Waiting { write, cost, done: Some(Done { shard, ticket, cost }) };
                self.waiting.extend(self.large.take(waiting));
            }
            let more = self.waiting.len() < WRITES_MAX;
            next = if more { batches.try_recv().ok() } else { None };
        }
    }

    /// Whether there was no room for what waits.
    pub(crate) fn is_full(&self) -> bool {
        self.full
    }

    /// Whether something was taken that is not written.
    pub(crate) fn has_waiting(&self) -> bool {
        !self.waiting.is_empty() || !self.large.is_empty()
    }

    /// What was taken and is not written yet.
    #[cfg(feature = "sim")]
    pub(crate) fn waiting(&self) -> impl Iterator<Item = &GroupWrite> {
        self.waiting.iter().map(|waiting| &waiting.write)
    }

    /// What was written and is not acknowledged yet.
    #[cfg(feature = "sim")]
    pub(crate) fn written(&self) -> &[GroupWrite] {
        &self.written
    }

    /// Writes what was taken, portion by portion, and the last portion by `last`.
    pub(crate) fn append(
        &mut self,
        last: LastPortion,
        shards: &[Arc<Inbox<ShardInput>>],
    ) -> Result<Append, LogError> {
        let last = match raft_core::planted!(CompletionBeforeSync) {
            true => LastPortion::Written,
            false => last,
        };
        if let Some(appended) = self.append_piece(shards)? {
            return Ok(appended);
        }
        while !self.waiting.is_empty() && self.bytes < SYNC_BYTES {
            let count = self.portion();
            let how = if count == self.waiting.len() { last } else { LastPortion::Written };
            let portion: Vec<Waiting> = self.waiting.drain(..count).collect();
            if let Err((portion, why)) = self.write(portion, how)? {
                portion.into_iter().rev().for_each(|waiting| self.waiting.push_front(waiting));
                self.append_votes()?;
                return self.found_no_room(&why, shards);
            }
        }
        self.pause = PAUSE_FIRST;
        Ok(Append::Written)
    }

    /// Writes pieces of large entries, if it is their turn.
    fn append_piece(
        &mut self,
        shards: &[Arc<Inbox<ShardInput>>],
    ) -> Result<Option<Append>, LogError> {
        let is_next = std::mem::replace(&mut self.large_is_next, !self.large.is_empty());
        if self.large.is_empty() || !is_next && !self.waiting.is_empty() {
            return Ok(None);
        }
        // Whatever comes of it: where a piece finds no room, small ones may still.
        self.large_is_next = false;
        let mut bytes = 0;
        while bytes < TURN_BYTES {
            let waits = |group| self.waiting.iter().any(|waiting| waiting.write.group == group);
            let Some(next) = self.large.next(waits) else { break };
            if bytes > 0 && bytes + next.payload.len() as u64 > TURN_BYTES {
                break;
            }
            match self.store.append_piece(next.group, &next.payload) {
                Ok((info, piece)) => {
                    bytes += info.bytes;
                    self.unprepared_bytes += info.unprepared_bytes;
                    self.waiting.extend(self.large.wrote(&next, piece));
                }
                Err(LogError::NoSegment { .. }) if bytes > 0 => break,
                Err(LogError::NoSegment { source }) => {
                    self.append_votes()?;
                    return self.found_no_room(&source, shards).map(Some);
                }
                Err(failure) => return Err(failure),
            }
        }
        if bytes == 0 {
            return Ok(None);
        }
        self.synced = false;
        self.bytes += bytes;
        self.pause = PAUSE_FIRST;
        Ok(Some(Append::Written))
    }

    /// There is no room for what comes next. Descriptors or space may come free; until then
    /// groups are to be led elsewhere.
    fn found_no_room(
        &mut self,
        why: &io::Error,
        shards: &[Arc<Inbox<ShardInput>>],
    ) -> Result<Append, LogError> {
        if !std::mem::replace(&mut self.full, true) {
            warn!(%why, "no room for the log: no entries are taken until there is");
            tell(shards, DiskSpace::Full);
        }
        if self.written.is_empty() {
            // Nothing will follow for a while, unless housekeeping finds some room.
            self.store.idle()?;
            for _ in 0..STEPS_MAX {
                self.tending = self.store.tend(true)?;
                if self.tending != Tending::Now {
                    break;
                }
            }
            return Ok(Append::NoSegment);
        }
        if raft_core::planted!(TornBatchAcknowledged) {
            self.done.extend(self.waiting.iter_mut().filter_map(|waiting| waiting.done.take()));
        }
        Ok(Append::Partly)
    }

    /// How many of those that wait make the next portion. One that is too large is divided.
    fn portion(&mut self) -> usize {
        let mut bytes = 0;
        for at in 0..self.waiting.len() {
            bytes += self.waiting[at].cost;
            if bytes <= self.portion_bytes {
                continue;
            }
            if at > 0 {
                return at;
            }
            let write = &mut self.waiting[at].write;
            // As many of its entries as fit, one at least.
            let mut left = self.portion_bytes;
            let fits = |entry: &&Entry| {
                left = left.saturating_sub(entry.cost());
                left > 0
            };
            let fitting = write.entries.iter().take_while(fits).count().max(1);
            if fitting < write.entries.len() {
                let rest = write.split_off(fitting);
                self.waiting[at].cost = write.cost();
                let (cost, done) = (rest.cost(), self.waiting[at].done.take());
                self.waiting.insert(at + 1, Waiting { write: rest, cost, done });
            }
            return 1;
        }
        self.waiting.len()
    }

    /// Writes a portion; without room for it, gives it back.
    fn write(
        &mut self,
        portion: Vec<Waiting>,
        how: LastPortion,
    ) -> Result<Result<(), NoRoomFor>, LogError> {
        let (writes, rest): (Vec<_>, Vec<_>) =
            portion.into_iter().map(|Waiting { write, cost, done }| (write, (cost, done))).unzip();
        let written = match how {
            LastPortion::Written => self.store.append(&writes),
            LastPortion::Synced => self.store.commit(&writes).map(|(info, _)| info),
        };
        match written {
            Ok(info) => {
                self.synced = how == LastPortion::Synced;
                self.bytes += info.bytes;
                self.unprepared_bytes += info.unprepared_bytes;
                self.written.extend(writes);
                self.done.extend(rest.into_iter().filter_map(|(_, done)| done));
                Ok(Ok(()))
            }
            Err(LogError::NoSegment { source }) => {
                let parts = writes.into_iter().zip(rest);
                let parts = parts.map(|(write, (cost, done))| Waiting { write, cost, done });
                Ok(Err((parts.collect(), source)))
            }
            Err(failure) => Err(failure),
        }
    }

    /// Writes, while there is no segment, votes and whatever else has no entries: the log keeps
    /// some room for them, so they need not wait with the entries. Within a group the order stays.
    pub(crate) fn append_votes(&mut self) -> Result<Append, LogError> {
        let mut behind = HashSet::new();
        let (mut first, mut later) = (Vec::new(), Vec::new());
        for waiting in self.waiting.drain(..) {
            let group = waiting.write.group;
            if waiting.write.entries.is_empty() && !behind.contains(&group) {
                first.push(waiting);
            } else {
                behind.insert(group);
                later.push(waiting);
            }
        }
        let unwritten = match first.is_empty() {
            true => None,
            false => self.write(first, LastPortion::Written)?.err(),
        };
        let unwritten = unwritten.into_iter().flat_map(|(unwritten, _)| unwritten);
        self.waiting.extend(unwritten.chain(later));
        Ok(if self.written.is_empty() { Append::NoSegment } else { Append::Partly })
    }

    /// Reads what is written here.
    pub(crate) fn reader(&self) -> LogReader {
        self.store.reader()
    }

    /// How long to wait after there was no segment: longer each time.
    pub(crate) fn pause(&mut self) -> Duration {
        let pause = self.pause;
        self.pause = (pause * 2).min(PAUSE_MAX);
        pause
    }

    /// Makes it durable, unless it is; returns how many entries that were.
    pub(crate) fn sync(&mut self, counters: &Counters) -> Result<u64, LogError> {
        let synced = std::mem::take(&mut self.synced);
        if !synced && !raft_core::planted!(CompletionBeforeSync) {
            self.store.sync()?;
        }
        let entries = self.written.iter().map(|write| write.entries.len() as u64).sum();
        Counters::add(&counters.log_appends, 1);
        Counters::add(&counters.fsyncs, 1);
        Counters::add(&counters.group_writes, self.done.len() as u64);
        Counters::add(&counters.log_entries, entries);
        Counters::add(&counters.log_bytes, self.bytes);
        let unprepared = std::mem::take(&mut self.unprepared_bytes);
        Counters::add(&counters.log_unprepared_bytes, unprepared);
        Ok(entries)
    }

    /// Tells the shards what is durable.
    pub(crate) fn acknowledge(&mut self, shards: &[Arc<Inbox<ShardInput>>]) {
        if !self.has_waiting() && std::mem::take(&mut self.full) {
            tell(shards, DiskSpace::Ample);
        }
        self.bytes = 0;
        self.written.clear();
        let mut tickets: Vec<Vec<_>> = shards.iter().map(|_| Vec::new()).collect();
        for Done { shard, ticket, cost } in self.done.drain(..) {
            self.load.remove(cost);
            tickets[shard].push(ticket);
        }
        for (shard, tickets) in shards.iter().zip(tickets) {
            if !tickets.is_empty() {
                // A shard that has stopped needs no acknowledgement.
                let _ = shard.push(ShardInput::Engine(EngineInput::Persisted(tickets)));
            }
        }
    }

    /// Housekeeping after a sync, once it is acknowledged.
    pub(crate) fn tend(&mut self, counters: &Counters) -> Result<(), LogError> {
        self.tend_store(false, counters)
    }

    fn tend_store(&mut self, idle: bool, counters: &Counters) -> Result<(), LogError> {
        let before = self.tending;
        self.tending = self.store.tend(idle)?;
        if before != Tending::Done || self.tending != Tending::Done || self.full {
            let stats = self.store.stats();
            Counters::set(&counters.log_checkpoints, stats.checkpoints);
            Counters::set(&counters.log_segments_reused, stats.segments_reused);
            Counters::set(&counters.log_bytes_moved, stats.bytes_moved);
        }
        Ok(())
    }

    /// What housekeeping has done so far.
    #[cfg(feature = "sim")]
    pub(crate) fn stats(&self) -> LogStats {
        self.store.stats()
    }

    /// How long to wait for work before [`Self::rest`] is to be called.
    pub(crate) fn wait(&self) -> Duration {
        match self.tending {
            Tending::Done => IDLE_AFTER,
            Tending::Soon => LOOK_AFTER,
            Tending::Now => Duration::ZERO,
        }
    }

    /// To be called when nothing came for [`Self::wait`]. `false`: there is nothing left to do until
    /// something comes.
    pub(crate) fn rest(&mut self, counters: &Counters) -> Result<bool, LogError> {
        let was_done = self.tending == Tending::Done;
        if self.idle && was_done {
            return Ok(false);
        }
        if was_done {
            self.seal()?;
            self.idle = true;
        }
        self.tend_store(self.idle, counters)?;
        if self.idle && self.tending == Tending::Done {
            // What housekeeping has written is said to be durable as well.
            self.seal()?;
            return Ok(false);
        }
        Ok(true)
    }

    fn seal(&mut self) -> Result<(), LogError> {
        if raft_core::planted!(SealNotWritten) { Ok(()) } else { self.store.idle() }
    }

    pub(crate) fn close(self) -> Result<(), LogError> {
        self.store.close()
    }
}

/// What the log thread shares with the rest of the node.
pub(crate) struct LogLinks {
    pub(crate) shards: Arc<[Arc<Inbox<ShardInput>>]>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) watch: Arc<LogWatch>,
    pub(crate) clock: Clock,
    pub(crate) pace: LogPace,
    /// Why the node failed, if it did.
    pub(crate) failure: Arc<Mutex<Option<String>>>,
}

pub(crate) fn run(mut work: LogWork, batches: &Receiver<LogBatch>, links: &LogLinks) {
    let LogLinks { shards, watch, clock, .. } = links;
    let mut pacer = Pacer::new(links.pace);
    loop {
        match turn(&mut work, &mut pacer, batches, links) {
            Ok(Turn::Goes) => {}
            Ok(Turn::Ends) => break,
            Err(failure) => {
                // Not by way of the shards: they may stand still as well.
                links.failure.lock().get_or_insert_with(|| chain(&failure));
                give_up(&failure, shards);
                return;
            }
        }
    }
    if work.has_waiting() {
        warn!("the log ends with operations it had no room for");
    }
    if let Err(failure) = watch.during(*clock, || work.close()) {
        warn!(failure = chain(&failure), "the log was not closed cleanly");
    }
}

/// Whether the log goes on.
enum Turn {
    Goes,
    Ends,
}

/// Takes what there is and makes it durable, or waits: for work, or for room.
fn turn(
    work: &mut LogWork,
    pacer: &mut Pacer,
    batches: &Receiver<LogBatch>,
    links: &LogLinks,
) -> Result<Turn, LogError> {
    let LogLinks { shards, counters, watch, clock, .. } = links;
    let first = match work.has_waiting() {
        true => None,
        false => match batches.recv_timeout(work.wait()) {
            Ok(first) => Some(first),
            Err(RecvTimeoutError::Timeout) => {
                return watch.during(*clock, || work.rest(counters)).map(|_| Turn::Goes);
            }
            Err(RecvTimeoutError::Disconnected) => return Ok(Turn::Ends),
        },
    };
    let wait = pacer.wait(clock.now().get());
    if !wait.is_zero() {
        // What comes meanwhile makes the batch larger.
        std::thread::sleep(wait);
        Counters::add(&counters.log_paced, 1);
    }
    // What is small goes between the pieces of what is large.
    if let Some(batch) = first.or_else(|| batches.try_recv().ok()) {
        work.take(batch, batches);
    }
    let began = clock.now().get();
    let appended = watch.during(*clock, || work.append(LastPortion::Synced, shards))?;
    watch.note_room(*clock, work.is_full());
    match appended {
        Append::Written | Append::Partly => {
            let entries = watch.during(*clock, || work.sync(counters))?;
            pacer.synced(began, clock.now().get(), entries);
            work.acknowledge(shards);
            watch.note_room(*clock, work.is_full());
            watch.during(*clock, || work.tend(counters))?;
        }
        Append::NoSegment => {
            let until = Instant::now() + work.pause();
            loop {
                match batches.recv_deadline(until) {
                    Ok(batch) => {
                        work.take(batch, batches);
                        if watch.during(*clock, || work.append_votes())? == Append::Partly {
                            watch.during(*clock, || work.sync(counters))?;
                            work.acknowledge(shards);
                        }
                    }
                    Err(RecvTimeoutError::Timeout) => break,
                    Err(RecvTimeoutError::Disconnected) => return Ok(Turn::Ends),
                }
            }
        }
    }
    Ok(Turn::Goes)
}

fn tell(shards: &[Arc<Inbox<ShardInput>>], space: DiskSpace) {
    for shard in shards {
        let _ = shard.push(ShardInput::Engine(EngineInput::Disk(space)));
    }
}

pub(crate) fn give_up(failure: &LogError, shards: &[Arc<Inbox<ShardInput>>]) {
    let failure = chain(failure);
    error!(failure, "the log failed: this node acknowledges nothing any more");
    for shard in shards {
        let _ = shard.push(ShardInput::LogFailed(failure.clone()));
    }
}

/// An error and what caused it, in one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests;
