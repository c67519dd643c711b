//! The thread that owns the log: one write and one fdatasync for whatever all shards handed in
//! since the last one ended.
//!
//! Invariant: nothing is acknowledged to a shard before the fdatasync that covers it returned.
//! After a failure nothing is acknowledged at all, ever again (see `raft-storage`).

use std::sync::Arc;
use std::time::Duration;

use crossbeam::channel::{Receiver, RecvTimeoutError};
use parking_lot::Mutex;
use raft_core::{DiskSpace, GroupId};
use raft_storage::{GroupWrite, LogError, LogStore};
use tracing::{error, warn};

use super::clock::Clock;
use super::inbox::Inbox;
use super::log_watch::LogWatch;
use super::shard_thread::ShardInput;
use crate::counters::Counters;
use crate::engine::{EngineInput, PersistTicket};

/// What one turn of one shard wants durable.
pub(crate) struct LogBatch {
    pub(crate) shard: usize,
    pub(crate) writes: Vec<GroupWrite>,
    pub(crate) tickets: Vec<(GroupId, PersistTicket)>,
}

/// After so long without work, the log says in a frame of its own that all is durable.
pub(crate) const IDLE_AFTER: Duration = Duration::from_millis(100);

/// How often a log that found no room for a new segment looks again.
pub(crate) const NO_SEGMENT_PAUSE: Duration = Duration::from_millis(50);

/// Operations taken into one write at most, so that the first does not wait for a flood.
const WRITES_MAX: usize = 16 << 10;

/// The log and what it is working on. The steps take no time of their own, so that a simulator
/// can let time pass, or a node die, between them.
pub(crate) struct LogWork {
    store: Box<dyn LogStore>,
    writes: Vec<GroupWrite>,
    done: Vec<(usize, Vec<(GroupId, PersistTicket)>)>,
    bytes: u64,
    /// The last append found no room, and the shards know.
    full: bool,
    idle: bool,
}

/// How an append ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Append {
    /// Everything is in the page cache.
    Written,
    /// There is no segment; to be tried again after [`NO_SEGMENT_PAUSE`], as descriptors or
    /// space may come free.
    NoSegment,
}

impl LogWork {
    pub(crate) fn new(store: Box<dyn LogStore>) -> Self {
        Self { store, writes: Vec::new(), done: Vec::new(), bytes: 0, full: false, idle: false }
    }

    /// Takes a batch, and what else is waiting.
    pub(crate) fn take(&mut self, first: LogBatch, batches: &Receiver<LogBatch>) {
        self.idle = false;
        let mut next = Some(first);
        while let Some(batch) = next {
            self.writes.extend(batch.writes);
            self.done.push((batch.shard, batch.tickets));
            let more = self.writes.len() < WRITES_MAX;
            next = if more { batches.try_recv().ok() } else { None };
        }
    }

    /// What was taken and is not acknowledged yet.
    #[cfg(feature = "sim")]
    pub(crate) fn writes(&self) -> &[GroupWrite] {
        &self.writes
    }

    /// Writes what was taken.
    pub(crate) fn append(&mut self, shards: &[Arc<Inbox<ShardInput>>]) -> Result<Append, LogError> {
        match self.store.append(&self.writes) {
            Ok(info) => {
                self.bytes = info.bytes;
                Ok(Append::Written)
            }
            // Nothing was written; descriptors or space may come free. Until then groups are to be
            // led elsewhere.
            Err(LogError::NoSegment { source }) => {
                if !std::mem::replace(&mut self.full, true) {
                    warn!(%source, "no room for the log: no entries are taken until there is");
                    tell(shards, DiskSpace::Full);
                }
                Ok(Append::NoSegment)
            }
            Err(failure) => Err(failure),
        }
    }

    /// Makes it durable.
    pub(crate) fn sync(&mut self, counters: &Counters) -> Result<(), LogError> {
        if !raft_core::planted!(CompletionBeforeSync) {
            self.store.sync()?;
        }
        let entries: usize = self.writes.iter().map(|write| write.entries.len()).sum();
        Counters::add(&counters.log_appends, 1);
        Counters::add(&counters.fsyncs, 1);
        Counters::add(&counters.group_writes, self.writes.len() as u64);
        Counters::add(&counters.log_entries, entries as u64);
        Counters::add(&counters.log_bytes, self.bytes);
        Ok(())
    }

    /// Tells the shards that it is durable.
    pub(crate) fn acknowledge(&mut self, shards: &[Arc<Inbox<ShardInput>>]) {
        if std::mem::take(&mut self.full) {
            tell(shards, DiskSpace::Ample);
        }
        self.writes.clear();
        for (shard, tickets) in self.done.drain(..) {
            let input = ShardInput::Engine(EngineInput::Persisted(tickets));
            // A shard that has stopped needs no acknowledgement.
            let _ = shards[shard].push(input);
        }
    }

    /// To be called when nothing came for [`IDLE_AFTER`].
    pub(crate) fn idle(&mut self) -> Result<(), LogError> {
        if !self.idle {
            self.store.idle()?;
        }
        self.idle = true;
        Ok(())
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
    /// Why the node failed, if it did.
    pub(crate) failure: Arc<Mutex<Option<String>>>,
}

pub(crate) fn run(store: Box<dyn LogStore>, batches: &Receiver<LogBatch>, links: &LogLinks) {
    let LogLinks { shards, watch, clock, .. } = links;
    let mut work = LogWork::new(store);
    loop {
        let result = match batches.recv_timeout(IDLE_AFTER) {
            Ok(first) => {
                work.take(first, batches);
                make_durable(&mut work, batches, links)
            }
            Err(RecvTimeoutError::Timeout) => {
                watch.during(*clock, || work.idle()).map(|()| Ended::Durable)
            }
            Err(RecvTimeoutError::Disconnected) => break,
        };
        match result {
            Ok(Ended::Durable) => work.acknowledge(shards),
            Ok(Ended::WithoutRoom) => return,
            Err(failure) => {
                // Not by way of the shards: they may stand still as well.
                links.failure.lock().get_or_insert_with(|| chain(&failure));
                give_up(&failure, shards);
                return;
            }
        }
    }
    if let Err(failure) = watch.during(*clock, || work.close()) {
        warn!(failure = chain(&failure), "the log was not closed cleanly");
    }
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
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// Writes and syncs what was taken, and what comes while there is no room for it.
fn make_durable(
    work: &mut LogWork,
    batches: &Receiver<LogBatch>,
    links: &LogLinks,
) -> Result<Ended, LogError> {
    let LogLinks { shards, counters, watch, clock, .. } = links;
    while watch.during(*clock, || work.append(shards))? == Append::NoSegment {
        match batches.recv_timeout(NO_SEGMENT_PAUSE) {
            Ok(batch) => work.take(batch, batches),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                warn!("the log ends with operations it had no room for");
                return Ok(Ended::WithoutRoom);
            }
        }
    }
    watch.during(*clock, || work.sync(counters))?;
    Ok(Ended::Durable)
}

/// How an attempt to make something durable ended.
enum Ended {
    Durable,
    /// The node stops, and the disk is full.
    WithoutRoom,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossbeam::channel::{Sender, unbounded};
    use raft_core::LogTime;
    use raft_storage::{AppendInfo, LogReader, MemoryLog, SyncInfo};

    /// Fails at its `fails_at`-th sync, or when it is idle.
    struct Failing {
        log: MemoryLog,
        syncs: usize,
        fails_at: usize,
    }

    fn refused() -> LogError {
        let group = GroupId::new(1);
        LogError::TimeOutOfRange { group, index: Default::default(), time: LogTime::default() }
    }

    impl LogStore for Failing {
        fn append(&mut self, writes: &[GroupWrite]) -> Result<AppendInfo, LogError> {
            self.log.append(writes)
        }

        fn sync(&mut self) -> Result<SyncInfo, LogError> {
            self.syncs += 1;
            if self.syncs == self.fails_at { Err(refused()) } else { self.log.sync() }
        }

        fn idle(&mut self) -> Result<(), LogError> {
            Err(refused())
        }

        fn close(self: Box<Self>) -> Result<(), LogError> {
            Ok(())
        }

        fn is_poisoned(&self) -> bool {
            false
        }

        fn reader(&self) -> LogReader {
            self.log.reader()
        }
    }

    /// Has no room for the first so many appends.
    struct Cramped {
        log: MemoryLog,
        refusals: usize,
    }

    impl LogStore for Cramped {
        fn append(&mut self, writes: &[GroupWrite]) -> Result<AppendInfo, LogError> {
            if self.refusals > 0 {
                self.refusals -= 1;
                return Err(LogError::NoSegment { source: std::io::ErrorKind::StorageFull.into() });
            }
            self.log.append(writes)
        }

        fn sync(&mut self) -> Result<SyncInfo, LogError> {
            self.log.sync()
        }

        fn idle(&mut self) -> Result<(), LogError> {
            Ok(())
        }

        fn close(self: Box<Self>) -> Result<(), LogError> {
            Ok(())
        }

        fn is_poisoned(&self) -> bool {
            false
        }

        fn reader(&self) -> LogReader {
            self.log.reader()
        }
    }

    #[test]
    fn a_log_without_room_says_so_and_goes_on_when_there_is_some() {
        let links = links(1);
        let (send, receive) = unbounded();
        let ticket = (GroupId::new(1), PersistTicket::Create);
        let _ = send.send(LogBatch { shard: 0, writes: Vec::new(), tickets: vec![ticket] });
        let store = Box::new(Cramped { log: MemoryLog::new(), refusals: 2 });
        std::thread::scope(|scope| {
            let (links, shards) = (&links, &links.shards);
            scope.spawn(move || run(store, &receive, links));
            let mut heard = Vec::new();
            while heard.len() < 3 {
                let mut items = Vec::new();
                shards[0].drain(&mut items);
                heard.extend(items.into_iter().map(|item| match item {
                    ShardInput::Engine(EngineInput::Disk(DiskSpace::Full)) => "full",
                    ShardInput::Engine(EngineInput::Disk(DiskSpace::Ample)) => "ample",
                    ShardInput::Engine(EngineInput::Persisted(_)) => "persisted",
                    _ => "something else",
                }));
                std::thread::yield_now();
            }
            drop(send);
            assert_eq!(heard, ["full", "ample", "persisted"]);
        });
    }

    fn links(shards: usize) -> LogLinks {
        LogLinks {
            shards: (0..shards).map(|_| Arc::default()).collect(),
            counters: Arc::default(),
            watch: Arc::new(LogWatch::new(Duration::ZERO)),
            clock: Clock::new(),
            failure: Arc::default(),
        }
    }

    /// Hangs in its sync until it is let go.
    struct Hanging {
        log: MemoryLog,
        hangs: Sender<()>,
        go: Receiver<()>,
    }

    impl LogStore for Hanging {
        fn append(&mut self, writes: &[GroupWrite]) -> Result<AppendInfo, LogError> {
            self.log.append(writes)
        }

        fn sync(&mut self) -> Result<SyncInfo, LogError> {
            let _ = self.hangs.send(());
            let _ = self.go.recv();
            self.log.sync()
        }

        fn idle(&mut self) -> Result<(), LogError> {
            Ok(())
        }

        fn close(self: Box<Self>) -> Result<(), LogError> {
            Ok(())
        }

        fn is_poisoned(&self) -> bool {
            false
        }

        fn reader(&self) -> LogReader {
            self.log.reader()
        }
    }

    #[test]
    fn a_disk_that_hangs_is_seen_by_others_and_so_is_that_it_goes_on() {
        let links = links(1);
        let (send, receive) = unbounded();
        let (hangs, hanging) = unbounded();
        let (go, goes) = unbounded();
        let ticket = (GroupId::new(1), PersistTicket::Create);
        let _ = send.send(LogBatch { shard: 0, writes: Vec::new(), tickets: vec![ticket] });
        let store = Box::new(Hanging { log: MemoryLog::new(), hangs, go: goes });
        std::thread::scope(|scope| {
            let links = &links;
            scope.spawn(move || run(store, &receive, links));
            hanging.recv().expect("the log syncs");
            let stalled = links.watch.stalled(links.clock.now());
            assert!(stalled.is_some(), "the bound of this test is zero");
            go.send(()).expect("it waits for this");
            let mut items = Vec::new();
            while items.is_empty() {
                links.shards[0].drain(&mut items);
                std::thread::yield_now();
            }
            assert_eq!(links.watch.stalled(links.clock.now()), None);
            drop(send);
        });
    }

    /// What the shards hear of so many batches, one sync each.
    fn heard(batches: usize, fails_at: usize) -> (usize, usize) {
        let links = links(2);
        let log = MemoryLog::new();
        let (send, receive) = unbounded();
        for _ in 0..batches {
            let ticket = (GroupId::new(1), PersistTicket::Create);
            let batch = LogBatch { shard: 0, writes: Vec::new(), tickets: vec![ticket] };
            let _ = send.send(batch);
        }
        // The sender lives on: an idle log is not an ending one.
        let store = Box::new(Failing { log, syncs: 0, fails_at });
        run(store, &receive, &links);
        let (mut persisted, mut failed) = (0, 0);
        assert!(links.failure.lock().is_some(), "whether shards hear of it or not");
        for shard in links.shards.iter() {
            let mut items = Vec::new();
            shard.drain(&mut items);
            for item in items {
                match item {
                    ShardInput::Engine(EngineInput::Persisted(_)) => persisted += 1,
                    ShardInput::LogFailed(_) => failed += 1,
                    _ => {}
                }
            }
        }
        drop(send);
        (persisted, failed)
    }

    #[test]
    fn a_failed_sync_acknowledges_nothing_and_every_shard_is_told() {
        assert_eq!(heard(3, 1), (0, 2));
    }

    #[test]
    fn a_log_that_fails_when_idle_has_failed() {
        assert_eq!(heard(3, usize::MAX), (3, 2));
    }
}
