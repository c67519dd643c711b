//! The thread that reads the log back: for replay after a restart and for peers far behind.
//! Reads can wait for a disk, so no shard does them itself.

use std::sync::Arc;

use crossbeam::channel::Receiver;
use raft_storage::{LogReader, ReadError};
use tracing::{error, warn};

use super::inbox::Inbox;
use super::log_thread::chain;
use super::shard_thread::ShardInput;
use crate::engine::{EngineInput, Fetch};

/// Bytes read for a group at a time, unless a single entry is larger.
const READ_BYTES: u64 = 1 << 20;

/// After a read for which there was no file descriptor.
const PAUSE: std::time::Duration = std::time::Duration::from_millis(50);

pub(crate) fn run(
    reader: &LogReader,
    fetches: &Receiver<(usize, Fetch)>,
    shards: &[Arc<Inbox<ShardInput>>],
) {
    while let Ok((shard, fetch)) = fetches.recv() {
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
