//! The thread that owns the log: one write and one fdatasync for whatever all shards handed in
//! since the last one ended.
//!
//! Invariant: nothing is acknowledged to a shard before the fdatasync that covers it returned.
//! After a failure nothing is acknowledged at all, ever again (see `raft-storage`).

use std::sync::Arc;
use std::time::Duration;

use crossbeam::channel::{Receiver, RecvTimeoutError};
use raft_core::GroupId;
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
                    warn!(%failure, "the log cannot write its idle marker");
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
        if let Err(failure) = make_durable(&mut *store, &writes, counters) {
            error!(%failure, "the log failed: this node acknowledges nothing any more");
            let failure = failure.to_string();
            for shard in shards {
                let _ = shard.push(ShardInput::LogFailed(failure.clone()));
            }
            return;
        }
        writes.clear();
        for (shard, tickets) in done.drain(..) {
            let input = ShardInput::Engine(EngineInput::Persisted(tickets));
            // A shard that has stopped needs no acknowledgement.
            let _ = shards[shard].push(input);
        }
    }
    if let Err(failure) = store.idle() {
        warn!(%failure, "the log was not closed cleanly");
    }
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
