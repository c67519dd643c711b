//! The thread that reads the log back: for replay after a restart and for peers far behind.
//! Reads can wait for a disk, so no shard does them itself.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, RecvTimeoutError};
use raft_core::{GroupId, LogIndex};
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

/// After a read for which there was no file descriptor, or which the disk refused.
const PAUSE: Duration = Duration::from_millis(50);

/// For so long a disk may refuse to read a place before that is damage. A path to a disk that is lost
/// comes back, and what is called damaged is forgotten for good.
const REFUSES_MAX: Duration = Duration::from_secs(30);

/// What the disk refuses to read: of each group one place, and since when.
#[derive(Debug, Default)]
struct Refusals(HashMap<GroupId, (LogIndex, Instant)>);

impl Refusals {
    /// Whether a place has been refused for so long that it will not be read any more.
    fn is_lasting(&mut self, group: GroupId, index: LogIndex, now: Instant) -> bool {
        let since = self.0.entry(group).or_insert((index, now));
        if since.0 != index {
            *since = (index, now);
        }
        now.duration_since(since.1) >= REFUSES_MAX
    }

    /// The group was read.
    fn forget(&mut self, group: GroupId) {
        self.0.remove(&group);
    }
}

pub(crate) fn run(
    reader: &LogReader,
    fetches: &Receiver<(usize, Fetch)>,
    shards: &[Arc<Inbox<ShardInput>>],
    (mut scrub, counters): (LogScrub, &Counters),
) {
    let mut refusals = Refusals::default();
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
        let group = fetch.group;
        let lasts = |index| refusals.is_lasting(group, index, Instant::now());
        let answer = read(reader, fetch, lasts);
        match &answer {
            // It will be asked again at once, and what was missing is still missing.
            EngineInput::Fetched(_, entries) if entries.is_empty() => std::thread::sleep(PAUSE),
            _ => refusals.forget(group),
        }
        let _ = shards[shard].push(ShardInput::Engine(answer));
    }
}

/// Reads what is asked for; what the shard is told of it. `is_lasting`: whether a place that the disk
/// refuses to read is to be given up.
pub(crate) fn read(
    reader: &LogReader,
    fetch: Fetch,
    is_lasting: impl FnOnce(LogIndex) -> bool,
) -> EngineInput {
    match reader.entries(fetch.group, fetch.first, fetch.last, READ_BYTES) {
        Ok(entries) => EngineInput::Fetched(fetch.group, entries),
        // Nothing is wrong with the log. Whoever still needs the entries asks again.
        Err(error) if error.is_passing() => {
            warn!(group = %fetch.group, error = chain(&error), "the log cannot be read now");
            EngineInput::Fetched(fetch.group, Vec::new())
        }
        Err(error @ ReadError::Io { index, .. }) if !is_lasting(index) => {
            warn!(group = %fetch.group, error = chain(&error), "the disk does not give what is in the log");
            EngineInput::Fetched(fetch.group, Vec::new())
        }
        Err(error) => {
            error!(group = %fetch.group, first = %fetch.first, %error, "the log cannot be read");
            let index = match error {
                ReadError::Corrupt { index, .. } | ReadError::Io { index, .. } => index,
                _ => fetch.first,
            };
            EngineInput::FetchFailed(fetch.group, index)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_that_is_refused_for_long_enough_is_given_up_and_a_read_forgives() {
        let (group, place) = (GroupId::new(1), LogIndex::new(7));
        let mut refusals = Refusals::default();
        let began = Instant::now();
        assert!(!refusals.is_lasting(group, place, began));
        assert!(!refusals.is_lasting(group, place, began + REFUSES_MAX / 2));
        assert!(!refusals.is_lasting(group, place.next(), began + REFUSES_MAX), "another place");
        assert!(refusals.is_lasting(group, place.next(), began + 2 * REFUSES_MAX));
        refusals.forget(group);
        assert!(!refusals.is_lasting(group, place.next(), began + 2 * REFUSES_MAX));
    }
}
