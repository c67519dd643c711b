//! The thread that reads the log back: for replay after a restart and for peers far behind.
//! Reads can wait for a disk, so no shard does them itself.

use std::sync::Arc;

use crossbeam::channel::Receiver;
use raft_storage::LogReader;
use tracing::error;

use super::inbox::Inbox;
use super::shard_thread::ShardInput;
use crate::engine::{EngineInput, Fetch};

/// Bytes read for a group at a time, unless a single entry is larger.
const READ_BYTES: u64 = 1 << 20;

pub(crate) fn run(
    reader: &LogReader,
    fetches: &Receiver<(usize, Fetch)>,
    shards: &[Arc<Inbox<ShardInput>>],
) {
    while let Ok((shard, fetch)) = fetches.recv() {
        let _ = shards[shard].push(ShardInput::Engine(read(reader, fetch)));
    }
}

/// Reads what is asked for; what the shard is told of it.
pub(crate) fn read(reader: &LogReader, fetch: Fetch) -> EngineInput {
    match reader.entries(fetch.group, fetch.first, fetch.last, READ_BYTES) {
        Ok(entries) => EngineInput::Fetched(fetch.group, entries),
        Err(error) => {
            error!(group = %fetch.group, first = %fetch.first, %error, "the log cannot be read");
            EngineInput::FetchFailed(fetch.group, fetch.first)
        }
    }
}
