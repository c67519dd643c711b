//! The log and what it is working on: whatever all shards handed in since the last write of the disk
//! began is prepared while that is under way, and is the next one.
//!
//! A disk without room is no failure. What was written before there was none is made durable and
//! acknowledged, the rest waits, votes pass it while the log has the room it keeps for them.
//!
//! Entries of groups that count them once they are written are told of twice: when their write has
//! returned, and when they are on disk. They are written at once and in order, beside a sync that is
//! under way as well, and their sync waits as [`Flush`] says. While some come, everybody else's are
//! written the same way, and what is in the air are syncs and nothing else (`ahead.rs`).
//!
//! Invariant: nothing is acknowledged as durable before the sync that covers it returned, nor as
//! written before its write did and somebody vouches for it.
//! After a failure nothing is acknowledged at all, ever again (see `raft-storage`).

mod ahead;

use std::collections::{HashSet, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use crossbeam::channel::Receiver;
use parking_lot::Mutex;
use raft_core::{DiskSpace, Entry, GroupId, Micros};
#[cfg(feature = "sim")]
use raft_storage::LogStats;
use raft_storage::{
    AppendInfo, Ending, Flight, GroupWrite, Landing, LogError, LogReader, LogStore, Lsn, RoomWait,
    Tending,
};
use tracing::{error, info, warn};

use self::ahead::Ahead;
use super::clock::Clock;
use super::flush::Flush;
use super::inbox::Inbox;
use super::log_end::counts_written;
use super::log_flights;
use super::log_large::LargeEntries;
use super::log_pace::LogPace;
use super::log_watch::LogWatch;
use super::shard_thread::ShardInput;
use super::vouching::Vouching;
use crate::counters::Counters;
use crate::engine::{Caller, EngineInput, LogLoad, PersistTicket};

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

/// So much of large entries is written at once, between the turns of the others: what a disk that three
/// nodes share writes in less than a millisecond, while others write as well; more where none have come
/// for long; one piece at least.
const TURN_BYTES: std::ops::RangeInclusive<u64> = 128 << 10..=1 << 20;

/// A turn is this part of what was written of large entries since something small came.
const TURN_SHARE: u64 = 8;

/// So much of large entries may be written and wait for a sync of others. It goes along with one that
/// somebody waits for.
const UNSYNCED_BYTES_MAX: u64 = 1 << 20;

/// No flight takes more than this and a portion.
const FLIGHT_BYTES: u64 = 8 << 20;

/// The log and what it is working on. The steps take no time of their own, so that a simulator
/// can let time pass, or a node die, between them: what was taken is *staged*, it *departs* when the
/// disk is free, *lands* when that has made it durable, and is acknowledged. More may be taken and staged
/// at any moment; it departs with the next flight, as late as can be, so that it takes along whatever
/// came meanwhile.
///
/// Bound: what waits, is staged or in the air is bounded by [`LogLoad`], as far as it has entries, and
/// by one operation per group beside that.
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
    /// What was staged of large entries since something small came.
    calm_bytes: u64,
    /// What was let depart of them, to be written only, since the last sync.
    unsynced_bytes: u64,
    /// What is written, and goes with the next flight only to be durable. While something is in the air,
    /// that is what was written beside it.
    written: Cargo,
    /// When that has to depart.
    flush: Flush,
    /// Until then whatever comes is written ahead of its sync.
    follows_until: Micros,
    vouching: Vouching,
    /// When its word is renewed though nothing was written.
    renew_at: Micros,
    /// The log must not end in order: that would say more than is known of it.
    ends_unclear: bool,
    /// Where what was written ends.
    end: Lsn,
    now: Micros,
    /// What the next flight takes.
    staged: Cargo,
    /// What has departed and not landed, the oldest first.
    air: VecDeque<Cargo>,
    /// What has landed and is not acknowledged.
    landed: Vec<Done>,
    /// The last attempt to stage something found no room, and the shards know.
    full: bool,
    pause: Duration,
    idle: bool,
    /// What housekeeping has said last.
    tending: Tending,
    /// Why the last checkpoint could not be made, if so.
    checkpoint_failure: Option<std::io::ErrorKind>,
    /// What was written ahead of its sync, for whoever keeps an account of it.
    #[cfg(feature = "sim")]
    ahead: Option<Vec<GroupWrite>>,
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

/// What goes with one flight.
#[derive(Default)]
struct Cargo {
    writes: Vec<Arc<Vec<GroupWrite>>>,
    done: Vec<Done>,
    /// About what it takes.
    cost: u64,
    /// Of large entries, in pieces; small ones go with another.
    piece_bytes: u64,
    /// It is durable when it has landed, with all before it.
    syncs: bool,
    /// It is a sync and nothing else, beside which more may be written.
    is_sync: bool,
    info: AppendInfo,
    /// Entries of operations that are written already.
    entries: u64,
}

impl Cargo {
    /// So much was written.
    fn wrote(&mut self, info: AppendInfo) {
        self.info.bytes += info.bytes;
        self.info.unprepared_bytes += info.unprepared_bytes;
    }

    fn is_empty(&self) -> bool {
        self.writes.is_empty() && self.piece_bytes == 0
    }

    fn operations(&self) -> impl Iterator<Item = &GroupWrite> {
        self.writes.iter().flat_map(|writes| writes.iter())
    }

    fn entries(&self) -> u64 {
        let staged: u64 = self.operations().map(|write| write.entries.len() as u64).sum();
        self.entries + staged
    }
}

/// A flight, and what it carries.
pub(crate) struct Departure {
    pub(crate) flight: Flight,
    /// All of it is durable when it has landed, and not only written.
    pub(crate) syncs: bool,
    pub(crate) entries: u64,
    pub(crate) bytes: u64,
}

/// What came of staging what was taken.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Staged {
    /// Whatever was taken is ready to depart; what does not fit into one flight waits, see
    /// [`LogWork::has_waiting`].
    Ready,
    /// Something is, and for the rest there is no segment: the next attempt will say so.
    Partly,
    /// Nothing is, for there is no segment; to be tried again after what is in the air has landed, or
    /// after [`pause`](LogWork::pause), as descriptors or space may come free.
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
            calm_bytes: 0,
            unsynced_bytes: 0,
            written: Cargo::default(),
            follows_until: Micros::ZERO,
            flush: Flush::default(),
            vouching: Vouching::Nobody,
            renew_at: Micros::ZERO,
            ends_unclear: false,
            end: Lsn::ZERO,
            now: Micros::ZERO,
            staged: Cargo::default(),
            air: VecDeque::new(),
            landed: Vec::new(),
            full: false,
            pause: PAUSE_FIRST,
            idle: false,
            tending: Tending::Done,
            checkpoint_failure: None,
            #[cfg(feature = "sim")]
            ahead: None,
        }
    }

    /// Whether the log is to be left without a last word, however it ends.
    pub(crate) fn ending_unclear(mut self, ends_unclear: bool) -> Self {
        self.ends_unclear = ends_unclear;
        self
    }

    /// Who answers for what is told of before it is on disk. Nobody, unless this says otherwise.
    pub(crate) fn vouched_by(mut self, vouching: Vouching) -> Self {
        self.vouching = vouching;
        self
    }

    /// Nothing is vouched for any more: what was written may not be what the next life will read.
    pub(super) fn withdraw(&mut self) {
        self.vouching.withdraw();
    }

    /// The time for what is written from now on.
    pub(crate) fn set_time(&mut self, now: Micros) {
        self.now = self.now.max(now);
    }

    /// When what is written must depart for its sync; `None`: nothing waits for one.
    pub(crate) fn sync_due(&self) -> Option<Micros> {
        let due = self.flush.due(self.now)?;
        // Shards that may hand in nothing more wait for it as well.
        Some(if self.load.is_heavy() { due.min(self.now) } else { due })
    }

    /// Whether what is written has waited for its sync for as long as it may.
    pub(crate) fn is_due(&self) -> bool {
        self.sync_due().is_some_and(|due| due <= self.now)
    }

    /// Takes a batch, and what else is waiting.
    pub(crate) fn take(&mut self, first: LogBatch, batches: &Receiver<LogBatch>) {
        self.idle = false;
        let mut next = Some(first);
        while let Some(LogBatch { shard, writes, tickets }) = next {
            debug_assert_eq!(writes.len(), tickets.len());
            for (write, ticket) in writes.into_iter().zip(tickets) {
                if write.create.as_ref().is_some_and(|create| counts_written(&create.spec)) {
                    // Killed before it counts anything, it has lost nothing: somebody is to say so.
                    self.vouching.begin();
                }
                let cost = write.cost();
                let waiting = Waiting { write, cost, done: Some(Done { shard, ticket, cost }) };
                if let Some(small) = self.large.take(waiting) {
                    self.calm_bytes = 0;
                    self.waiting.push_back(small);
                }
            }
            let more = self.waiting.len() < WRITES_MAX;
            next = if more { batches.try_recv().ok() } else { None };
        }
    }

    /// Whether there was no room for what waits.
    pub(crate) fn is_full(&self) -> bool {
        self.full
    }

    /// Whether something was taken that is not staged.
    pub(crate) fn has_waiting(&self) -> bool {
        !self.waiting.is_empty() || !self.large.is_empty()
    }

    /// Whether something is prepared that the disk has not heard of.
    pub(crate) fn has_staged(&self) -> bool {
        !self.staged.is_empty()
    }

    /// Whether something is to depart: what is staged, or the sync of what is written.
    pub(crate) fn has_departing(&self) -> bool {
        self.has_staged() || self.is_due()
    }

    /// What was taken and has not departed yet.
    #[cfg(feature = "sim")]
    pub(crate) fn waiting(&self) -> impl Iterator<Item = &GroupWrite> {
        self.staged.operations().chain(self.waiting.iter().map(|waiting| &waiting.write))
    }

    /// What has departed last and has not landed.
    #[cfg(feature = "sim")]
    pub(crate) fn written(&self) -> impl Iterator<Item = &GroupWrite> {
        self.air.back().into_iter().flat_map(Cargo::operations)
    }

    /// Stages what was taken, portion by portion.
    pub(crate) fn stage(&mut self, shards: &[Arc<Inbox<ShardInput>>]) -> Result<Staged, LogError> {
        if let Some(staged) = self.stage_pieces(shards)? {
            return Ok(staged);
        }
        let is_held_up = match self.write_ahead()? {
            Ahead::Goes => false,
            Ahead::SegmentEnds => true,
            Ahead::NoRoom(why) => {
                self.stage_votes()?;
                return self.found_no_room(&why, shards);
            }
        };
        let may_wait = !is_held_up && self.may_wait();
        while !self.waiting.is_empty() && self.staged.cost < FLIGHT_BYTES && !may_wait {
            let portion = self.take_portion();
            if let Err((portion, why)) = self.stage_portion(portion)? {
                self.put_back(portion);
                self.stage_votes()?;
                return self.found_no_room(&why, shards);
            }
        }
        self.pause = PAUSE_FIRST;
        Ok(Staged::Ready)
    }

    /// Stages pieces of large entries, if it is their turn.
    fn stage_pieces(
        &mut self,
        shards: &[Arc<Inbox<ShardInput>>],
    ) -> Result<Option<Staged>, LogError> {
        if self.staged.piece_bytes > 0 {
            return Ok(Some(Staged::Ready));
        }
        if !self.staged.is_empty() {
            return Ok(None);
        }
        let is_next = std::mem::replace(&mut self.large_is_next, !self.large.is_empty());
        if self.large.is_empty() || !is_next && !self.waiting.is_empty() {
            return Ok(None);
        }
        // Whatever comes of it: where a piece finds no room, small ones may still.
        self.large_is_next = false;
        let turn_bytes =
            (self.calm_bytes / TURN_SHARE).clamp(*TURN_BYTES.start(), *TURN_BYTES.end());
        let mut bytes = 0;
        while bytes < turn_bytes {
            let waits = |group| self.waiting.iter().any(|waiting| waiting.write.group == group);
            let Some(next) = self.large.next(turn_bytes, waits) else { break };
            let payload_bytes = next.payload.len() as u64;
            if bytes > 0 && bytes + payload_bytes > turn_bytes {
                break;
            }
            match self.store.stage_piece(next.group, &next.payload) {
                Ok(piece) => {
                    bytes += payload_bytes;
                    self.staged.piece_bytes += payload_bytes;
                    self.waiting.extend(self.large.wrote(&next, piece));
                }
                Err(LogError::NoSegment { .. }) if bytes > 0 => break,
                Err(LogError::NoSegment { source }) => {
                    self.stage_votes()?;
                    return self.found_no_room(&source, shards).map(Some);
                }
                Err(failure) => return Err(failure),
            }
        }
        if bytes == 0 {
            return Ok(None);
        }
        self.calm_bytes += bytes;
        self.pause = PAUSE_FIRST;
        Ok(Some(Staged::Ready))
    }

    /// There is no room for what comes next. Descriptors or space may come free; until then
    /// groups are to be led elsewhere.
    fn found_no_room(
        &mut self,
        why: &io::Error,
        shards: &[Arc<Inbox<ShardInput>>],
    ) -> Result<Staged, LogError> {
        if !std::mem::replace(&mut self.full, true) {
            warn!(%why, "no room for the log: no entries are taken until there is");
            tell(shards, DiskSpace::Full);
        }
        if self.staged.is_empty() {
            if self.written.cost > 0 {
                // It need not wait as well.
                self.flush.demand(self.now);
                return Ok(Staged::Partly);
            }
            if self.air.is_empty() {
                // Nothing will follow for a while, unless housekeeping finds some room.
                self.store.idle()?;
                for _ in 0..STEPS_MAX {
                    self.tending = self.store.tend(true)?;
                    if self.tending != Tending::Now {
                        break;
                    }
                }
            }
            return Ok(Staged::NoSegment);
        }
        if raft_core::planted!(TornBatchAcknowledged) {
            let rest = self.waiting.iter_mut().filter_map(|waiting| waiting.done.take());
            self.staged.done.extend(rest);
        }
        Ok(Staged::Partly)
    }

    /// Those that wait and make the next portion.
    fn take_portion(&mut self) -> Vec<Waiting> {
        let count = self.portion();
        self.waiting.drain(..count).collect()
    }

    /// They wait again, before all others.
    fn put_back(&mut self, portion: Vec<Waiting>) {
        portion.into_iter().rev().for_each(|waiting| self.waiting.push_front(waiting));
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
                return self.ends_before(at);
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
            return self.ends_before(1);
        }
        self.waiting.len()
    }

    /// Where a portion of about so many ends: not between the end of a replica and the beginning of its
    /// successor, which the log writes into one frame only if it is given both.
    fn ends_before(&self, at: usize) -> usize {
        let ends = |at: usize| self.waiting[at - 1].write.destroy.is_some();
        let goes_on = |at: usize| {
            let groups = [at - 1, at].map(|at| self.waiting[at].write.group);
            groups[0] == groups[1] && self.waiting[at].write.create.is_some()
        };
        match at {
            _ if at >= self.waiting.len() || !ends(at) || !goes_on(at) => at,
            1 => 2,
            _ => at - 1,
        }
    }

    /// Stages a portion; without room for it, gives it back.
    fn stage_portion(&mut self, portion: Vec<Waiting>) -> Result<Result<(), NoRoomFor>, LogError> {
        let cost: u64 = portion.iter().map(|waiting| waiting.cost).sum();
        let (writes, rest): (Vec<_>, Vec<_>) =
            portion.into_iter().map(|Waiting { write, cost, done }| (write, (cost, done))).unzip();
        let writes = Arc::new(writes);
        match self.store.stage(&writes) {
            Ok(()) => {
                self.staged.cost += cost;
                self.staged.writes.push(writes);
                self.staged.done.extend(rest.into_iter().filter_map(|(_, done)| done));
                Ok(Ok(()))
            }
            Err(LogError::NoSegment { source }) => {
                let parts = Arc::unwrap_or_clone(writes).into_iter().zip(rest);
                let parts = parts.map(|(write, (cost, done))| Waiting { write, cost, done });
                Ok(Err((parts.collect(), source)))
            }
            Err(failure) => Err(failure),
        }
    }

    /// Stages, while there is no segment, votes and whatever else has no entries: the log keeps
    /// some room for them, so they need not wait with the entries. Within a group the order stays.
    pub(crate) fn stage_votes(&mut self) -> Result<Staged, LogError> {
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
            false => self.stage_portion(first)?.err(),
        };
        let unwritten = unwritten.into_iter().flat_map(|(unwritten, _)| unwritten);
        self.waiting.extend(unwritten.chain(later));
        Ok(if self.staged.is_empty() { Staged::NoSegment } else { Staged::Partly })
    }

    /// Whether what departs next is to be durable when it has landed. Pieces of a large entry count
    /// only with the entry, whose sync makes them durable as well: on their own they are only written.
    /// That halves what the disk is asked for, and who waits for a sync need not wait for theirs first.
    pub(crate) fn departs_to_sync(&self) -> bool {
        let unsynced = self.unsynced_bytes + self.staged.piece_bytes;
        !self.staged.writes.is_empty()
            || self.staged.piece_bytes == 0
            || unsynced > UNSYNCED_BYTES_MAX
            || self.is_due()
    }

    /// Whether who departs a little later takes more along, for others who wait for a sync as well. What
    /// only has a deadline makes no sync larger, and may be written beside one.
    pub(crate) fn is_paced(&self) -> bool {
        match self.has_staged() {
            true => self.departs_to_sync(),
            false => self.flush.is_demanded(),
        }
    }

    /// Lets what is staged depart, or the sync of what is written if that is due. Whatever is written
    /// by now is durable with either, unless what departs is itself only to be written.
    pub(crate) fn depart(&mut self, ending: Ending) -> Result<Option<Departure>, LogError> {
        if !self.has_departing() {
            return Ok(None);
        }
        let syncs = self.departs_to_sync();
        let flight = match (syncs, self.has_staged()) {
            (true, false) => self.store.depart_sync()?,
            (true, true) => self.store.depart(ending)?,
            (false, _) => self.store.depart(Ending::Written)?,
        };
        let staged = std::mem::take(&mut self.staged);
        let mut cargo = Cargo::default();
        if syncs {
            cargo = std::mem::take(&mut self.written);
            self.flush.departed();
            self.unsynced_bytes = 0;
        } else {
            self.unsynced_bytes += staged.piece_bytes;
        }
        cargo.syncs = syncs;
        cargo.is_sync = flight.is_sync();
        cargo.wrote(flight.info());
        cargo.writes = staged.writes;
        cargo.done.extend(staged.done);
        let (entries, bytes) = (cargo.entries(), cargo.info.bytes);
        self.air.push_back(cargo);
        Ok(Some(Departure { flight, syncs, entries, bytes }))
    }

    /// The oldest flight has landed.
    pub(crate) fn land(&mut self, landing: Landing, counters: &Counters) -> Result<(), LogError> {
        self.store.land(landing)?;
        let cargo = self.air.pop_front().unwrap_or_default();
        Counters::add(&counters.log_appends, 1);
        Counters::add(&counters.fsyncs, u64::from(cargo.syncs));
        Counters::add(&counters.group_writes, cargo.done.len() as u64);
        Counters::add(&counters.log_entries, cargo.entries());
        Counters::add(&counters.log_bytes, cargo.info.bytes);
        Counters::add(&counters.log_unprepared_bytes, cargo.info.unprepared_bytes);
        self.landed.extend(cargo.done);
        if raft_core::planted!(StagedAcknowledged) {
            self.landed.append(&mut self.staged.done);
        }
        if raft_core::planted!(SyncCoversLater) && cargo.syncs {
            self.landed.append(&mut self.written.done);
        }
        if raft_core::planted!(FlushForgottenAtLanding) && cargo.syncs {
            self.flush.departed();
        }
        Ok(())
    }

    /// Reads what is written here.
    pub(crate) fn reader(&self) -> LogReader {
        self.store.reader()
    }

    /// Whether the log waits for room in the middle of a write.
    pub(crate) fn room_wait(&self) -> RoomWait {
        self.store.room_wait()
    }

    /// How long to wait after there was no segment: longer each time.
    pub(crate) fn pause(&mut self) -> Duration {
        let pause = self.pause;
        self.pause = (pause * 2).min(PAUSE_MAX);
        pause
    }

    /// Tells the shards what is durable.
    pub(crate) fn acknowledge(&mut self, shards: &[Arc<Inbox<ShardInput>>]) {
        if !self.has_waiting() && std::mem::take(&mut self.full) {
            tell(shards, DiskSpace::Ample);
        }
        let mut tickets: Vec<Vec<_>> = shards.iter().map(|_| Vec::new()).collect();
        for Done { shard, ticket, cost } in self.landed.drain(..) {
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
            Counters::set(&counters.log_checkpoints_failed, stats.checkpoints_failed);
            self.tell_of_checkpoints(stats.checkpoint_failure);
        }
        Ok(())
    }

    /// Says once that no checkpoint can be made, and once that one was.
    fn tell_of_checkpoints(&mut self, failure: Option<std::io::ErrorKind>) {
        match (self.checkpoint_failure, failure) {
            (None, Some(why)) => warn!(
                %why,
                "no checkpoint of the log can be made: until one can, no space comes back and a start \
                 takes longer"
            ),
            (Some(_), None) => info!("checkpoints of the log are made again"),
            (None, None) | (Some(_), Some(_)) => {}
        }
        self.checkpoint_failure = failure;
    }

    /// What housekeeping has done so far.
    #[cfg(feature = "sim")]
    pub(crate) fn stats(&self) -> LogStats {
        self.store.stats()
    }

    /// How long to wait for work before [`Self::rest`] is to be called, or a sync is due.
    pub(crate) fn wait(&self) -> Duration {
        if let Some(due) = self.sync_due() {
            return due.since(self.now);
        }
        match self.tending {
            Tending::Done => IDLE_AFTER,
            Tending::Soon => LOOK_AFTER,
            Tending::Now => Duration::ZERO,
        }
    }

    /// To be called when nothing came for [`Self::wait`], and nothing is staged, in the air or waits for
    /// a sync. `false`: there is nothing left to do until something comes.
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

    /// Asks the disk for an answer although there is nothing to do. To be called as [`Self::rest`] is.
    pub(crate) fn probe(&mut self) -> Result<(), LogError> {
        self.store.probe()
    }

    fn seal(&mut self) -> Result<(), LogError> {
        if raft_core::planted!(SealNotWritten) { Ok(()) } else { self.store.idle() }
    }

    pub(crate) fn close(mut self) -> Result<(), LogError> {
        if self.ends_unclear {
            return self.store.sync().map(drop);
        }
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

pub(crate) fn run(work: LogWork, batches: &Receiver<LogBatch>, links: &LogLinks) {
    let LogLinks { shards, watch, clock, .. } = links;
    let ended = log_flights::run(work, batches, links, |failure| {
        // Not by way of the shards: they may stand still as well.
        links.failure.lock().get_or_insert_with(|| chain(failure));
        give_up(failure, shards);
    });
    let Some(mut work) = ended else { return };
    let mut vouching = std::mem::replace(&mut work.vouching, Vouching::Refused);
    if work.has_waiting() {
        warn!("the log ends with operations it had no room for");
    }
    if let Err(failure) = watch.during(Caller::Desk, *clock, || work.close()) {
        warn!(failure = chain(&failure), "the log was not closed cleanly");
    }
    // The log's own last word says more, or the log has failed.
    vouching.withdraw();
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
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
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
