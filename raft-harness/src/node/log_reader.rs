//! The thread that reads the log back: for replay after a restart and for peers far behind.
//! Reads can wait for a disk, so no shard does them itself.

use std::sync::Arc;
use std::time::Instant;

use crossbeam::channel::{Receiver, RecvTimeoutError};
use raft_storage::{LogReader, ReadError};
use tracing::{error, warn};

use super::inbox::Inbox;
use super::log_scrub::LogScrub;
use super::log_thread::chain;
use super::shard_thread::{ShardInput, shard_of};
use crate::counters::Counters;
use crate::engine::{EngineInput, Fetch};

/// Bytes read for a group at a time, unless a single entry is larger.
const READ_BYTES: u64 = 1 << 20;

/// After a read for which there was no file descriptor.
const PAUSE: std::time::Duration = std::time::Duration::from_millis(50);

pub(crate) fn run(
    reader: &LogReader,
    fetches: &Receiver<(usize, Fetch)>,
    shards: &[Arc<Inbox<ShardInput>>],
    (mut scrub, counters): (LogScrub, &Counters),
) {
    loop {
        let asked = match scrub.due() {
            Some(due) => fetches.recv_deadline(due),
            None => fetches.recv().map_err(RecvTimeoutError::from),
        };
        let (shard, fetch) = match asked {
            Ok(asked) => asked,
            Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => {
                let step = scrub.step(reader, Instant::now());
                Counters::add(&counters.log_scrubbed_bytes, step.bytes);
                Counters::add(&counters.log_scrubs, u64::from(step.is_through));
                if let Some(ReadError::Corrupt { group, index, segment, offset }) = step.damage {
                    error!(%group, %index, segment, offset, "the log is damaged");
                    Counters::add(&counters.log_damage_found, 1);
                    let found = EngineInput::LogDamaged(group, index);
                    let _ = shards[shard_of(group, shards.len())].push(ShardInput::Engine(found));
                }
                continue;
            }
        };
        let answer = read(reader, fetch);
        if matches!(&answer, EngineInput::Fetched(_, entries) if entries.is_empty()) {
            // It will be asked again at once, and what was missing is still missing.
            std::thread::sleep(PAUSE);
        }
        let _ = shards[shard].push(ShardInput::Engine(answer));
    }
}

/// Reads what is asked for; what the shard is told of it.
pub(crate) fn read(reader: &LogReader, fetch: Fetch) -> EngineInput {
    match reader.entries(fetch.group, fetch.first, fetch.last, READ_BYTES) {
        Ok(entries) => EngineInput::Fetched(fetch.group, entries),
        // Nothing is wrong with the log. Whoever still needs the entries asks again.
        Err(error) if error.is_passing() => {
            warn!(group = %fetch.group, error = chain(&error), "the log cannot be read now");
            EngineInput::Fetched(fetch.group, Vec::new())
        }
        Err(error) => {
            error!(group = %fetch.group, first = %fetch.first, %error, "the log cannot be read");
            let index = match error {
                ReadError::Corrupt { index, .. } => index,
                _ => fetch.first,
            };
            EngineInput::FetchFailed(fetch.group, index)
        }
    }
}
