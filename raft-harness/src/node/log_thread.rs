//! The thread that owns the log: one write and one fdatasync for whatever all shards handed in
//! since the last one ended.
//!
//! Invariant: nothing is acknowledged to a shard before the fdatasync that covers it returned.
//! After a failure nothing is acknowledged at all, ever again (see `raft-storage`).

use std::sync::Arc;
use std::time::Duration;

use crossbeam::channel::{Receiver, RecvTimeoutError};
use raft_core::{DiskSpace, GroupId};
use raft_storage::{GroupWrite, LogError, LogStore};
use tracing::{error, warn};

use super::inbox::Inbox;
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
const IDLE_AFTER: Duration = Duration::from_millis(100);

/// How often a log that found no room for a new segment looks again.
const NO_SEGMENT_PAUSE: Duration = Duration::from_millis(50);

/// Operations taken into one write at most, so that the first does not wait for a flood.
const WRITES_MAX: usize = 16 << 10;

pub(crate) fn run(
    mut store: Box<dyn LogStore>,
    batches: &Receiver<LogBatch>,
    shards: &[Arc<Inbox<ShardInput>>],
    counters: &Counters,
) {
    let mut writes: Vec<GroupWrite> = Vec::new();
    let mut done: Vec<(usize, Vec<(GroupId, PersistTicket)>)> = Vec::new();
    let mut idle = false;
    loop {
        let first = match batches.recv_timeout(IDLE_AFTER) {
            Ok(batch) => batch,
            Err(RecvTimeoutError::Timeout) => {
                if !idle && let Err(failure) = store.idle() {
                    give_up(&failure, shards);
                    return;
                }
                idle = true;
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => break,
        };
        idle = false;
        let mut next = Some(first);
        while let Some(batch) = next {
            writes.extend(batch.writes);
            done.push((batch.shard, batch.tickets));
            next = if writes.len() < WRITES_MAX { batches.try_recv().ok() } else { None };
        }
        let mut full = false;
        loop {
            match make_durable(&mut *store, &writes, counters) {
                Ok(()) => break,
                // Nothing was written; descriptors or space may come free. Until then groups are
                // to be led elsewhere.
                Err(LogError::NoSegment { source }) => {
                    if !std::mem::replace(&mut full, true) {
                        warn!(%source, "no room for the log: no entries are taken until there is");
                        tell(shards, DiskSpace::Full);
                    }
                    match batches.recv_timeout(NO_SEGMENT_PAUSE) {
                        Ok(batch) => {
                            writes.extend(batch.writes);
                            done.push((batch.shard, batch.tickets));
                        }
                        Err(RecvTimeoutError::Timeout) => {}
                        Err(RecvTimeoutError::Disconnected) => {
                            warn!("the log ends with operations it had no room for");
                            return;
                        }
                    }
                }
                Err(failure) => {
                    give_up(&failure, shards);
                    return;
                }
            }
        }
        if full {
            tell(shards, DiskSpace::Ample);
        }
        writes.clear();
        for (shard, tickets) in done.drain(..) {
            let input = ShardInput::Engine(EngineInput::Persisted(tickets));
            // A shard that has stopped needs no acknowledgement.
            let _ = shards[shard].push(input);
        }
    }
    if let Err(failure) = store.close() {
        warn!(failure = chain(&failure), "the log was not closed cleanly");
    }
}

fn tell(shards: &[Arc<Inbox<ShardInput>>], space: DiskSpace) {
    for shard in shards {
        let _ = shard.push(ShardInput::Engine(EngineInput::Disk(space)));
    }
}

fn give_up(failure: &LogError, shards: &[Arc<Inbox<ShardInput>>]) {
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

fn make_durable(
    store: &mut dyn LogStore,
    writes: &[GroupWrite],
    counters: &Counters,
) -> Result<(), LogError> {
    let info = store.append(writes)?;
    store.sync()?;
    let entries: usize = writes.iter().map(|write| write.entries.len()).sum();
    Counters::add(&counters.log_appends, 1);
    Counters::add(&counters.fsyncs, 1);
    Counters::add(&counters.group_writes, writes.len() as u64);
    Counters::add(&counters.log_entries, entries as u64);
    Counters::add(&counters.log_bytes, info.bytes);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossbeam::channel::unbounded;
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
        let shards: Vec<Arc<Inbox<ShardInput>>> = vec![Arc::default()];
        let (send, receive) = unbounded();
        let ticket = (GroupId::new(1), PersistTicket::Create);
        let _ = send.send(LogBatch { shard: 0, writes: Vec::new(), tickets: vec![ticket] });
        let store = Box::new(Cramped { log: MemoryLog::new(), refusals: 2 });
        std::thread::scope(|scope| {
            let shards = &shards;
            scope.spawn(move || run(store, &receive, shards, &Counters::default()));
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

    /// What the shards hear of so many batches, one sync each.
    fn heard(batches: usize, fails_at: usize) -> (usize, usize) {
        let shards: Vec<Arc<Inbox<ShardInput>>> = vec![Arc::default(), Arc::default()];
        let log = MemoryLog::new();
        let (send, receive) = unbounded();
        for _ in 0..batches {
            let ticket = (GroupId::new(1), PersistTicket::Create);
            let batch = LogBatch { shard: 0, writes: Vec::new(), tickets: vec![ticket] };
            let _ = send.send(batch);
        }
        // The sender lives on: an idle log is not an ending one.
        let store = Box::new(Failing { log, syncs: 0, fails_at });
        run(store, &receive, &shards, &Counters::default());
        let (mut persisted, mut failed) = (0, 0);
        for shard in &shards {
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
