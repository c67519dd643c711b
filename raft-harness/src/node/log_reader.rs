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
pub(crate) const REFUSES_MAX: Duration = Duration::from_secs(30);

/// A place that nobody asks for again within so long, while the reader has nothing else to do, is refused
/// anew the next time: what was wrong then may have nothing to do with it.
pub(crate) const ASKED_WITHIN: Duration = Duration::from_secs(5);

/// What the disk refuses to read: of each group one place.
#[derive(Debug, Default)]
struct Refusals {
    refused: HashMap<GroupId, Refused>,
    /// For so long the reader has waited for something to do.
    idle: Duration,
}

#[derive(Debug)]
struct Refused {
    place: LogIndex,
    since: Instant,
    /// How long the reader had been idle when it was refused last.
    idle: Duration,
}

/// A place that the disk refuses to read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Refusal {
    /// It was read before, as far as is known.
    New,
    /// It has been refused for a while.
    Again,
    /// For so long that it is given up.
    Lasting,
}

impl Refusals {
    /// A place was refused.
    fn note(&mut self, group: GroupId, index: LogIndex, now: Instant) -> Refusal {
        let idle = self.idle;
        if let Some(refused) = self.refused.get_mut(&group)
            && refused.place == index
            && idle - refused.idle <= ASKED_WITHIN
        {
            refused.idle = idle;
            let lasts = now.duration_since(refused.since) >= REFUSES_MAX;
            return if lasts { Refusal::Lasting } else { Refusal::Again };
        }
        self.refused.insert(group, Refused { place: index, since: now, idle });
        Refusal::New
    }

    /// Nobody asked for anything for so long.
    fn waited(&mut self, lasted: Duration) {
        self.idle += lasted;
    }

    /// These entries of the group were read. That says nothing of a place that is not among them.
    fn were_read(&mut self, group: GroupId, (first, last): (LogIndex, LogIndex)) {
        let is_among = |refused: &Refused| (first..=last).contains(&refused.place);
        if self.refused.get(&group).is_some_and(is_among) {
            self.refused.remove(&group);
        }
    }

    /// The place is given up.
    fn forget(&mut self, group: GroupId) {
        self.refused.remove(&group);
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
        let idle_since = Instant::now();
        let asked = match scrub.due() {
            Some(due) => fetches.recv_deadline(due),
            None => fetches.recv().map_err(RecvTimeoutError::from),
        };
        refusals.waited(idle_since.elapsed());
        let (shard, fetch) = match asked {
            Ok(asked) => asked,
            Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => {
                let step = scrub.step(reader, Instant::now());
                Counters::add(&counters.log_scrubbed_bytes, step.bytes);
                Counters::add(&counters.log_scrubs, u64::from(step.is_through));
                if let Some(refused) = step.refused {
                    warn!(error = chain(&refused), "the log cannot be read now");
                }
                if let Some((group, index, why)) = step.damage {
                    error!(%group, %index, error = chain(&why), "the log is damaged");
                    if why.is_damage() {
                        reader.doubt();
                    }
                    Counters::add(&counters.log_damage_found, 1);
                    let found = EngineInput::LogDamaged(group, index);
                    let _ = shards[shard_of(group, shards.len())].push(ShardInput::Engine(found));
                }
                continue;
            }
        };
        let group = fetch.group;
        let answer = read(reader, fetch, |index| refusals.note(group, index, Instant::now()));
        match &answer {
            EngineInput::Fetched(_, entries) => match &entries[..] {
                [first, .., last] => refusals.were_read(group, (first.index, last.index)),
                [one] => refusals.were_read(group, (one.index, one.index)),
                // It will be asked again at once, and what was missing is still missing.
                [] => std::thread::sleep(PAUSE),
            },
            _ => refusals.forget(group),
        }
        let _ = shards[shard].push(ShardInput::Engine(answer));
    }
}

/// Reads what is asked for; what the shard is told of it. `refused`: what is known of a place that the
/// disk refuses to read.
pub(crate) fn read(
    reader: &LogReader,
    fetch: Fetch,
    refused: impl FnOnce(LogIndex) -> Refusal,
) -> EngineInput {
    match reader.entries(fetch.group, fetch.first, fetch.last, READ_BYTES) {
        Ok(entries) => EngineInput::Fetched(fetch.group, entries),
        Err(error) => {
            let (index, refusal) = match error {
                ReadError::Io { index, .. } => (index, refused(index)),
                ReadError::Corrupt { index, .. } => (index, Refusal::Lasting),
                _ => (fetch.first, Refusal::Lasting),
            };
            if refusal == Refusal::Lasting && !error.is_passing() {
                error!(group = %fetch.group, first = %fetch.first, %error, "the log cannot be read");
                if error.is_damage() {
                    reader.doubt();
                }
                return EngineInput::FetchFailed(fetch.group, index);
            }
            // Nothing may be wrong with the log. Whoever still needs the entries asks again.
            if refusal == Refusal::New {
                warn!(group = %fetch.group, error = chain(&error), "the log cannot be read now");
            }
            EngineInput::Fetched(fetch.group, Vec::new())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_that_is_refused_for_long_enough_is_given_up_and_a_read_of_it_forgives() {
        let (group, place) = (GroupId::new(1), LogIndex::new(7));
        let mut refusals = Refusals::default();
        let began = Instant::now();
        assert_eq!(refusals.note(group, place, began), Refusal::New);
        assert_eq!(refusals.note(group, place, began + REFUSES_MAX / 2), Refusal::Again);
        assert_eq!(refusals.note(group, place.next(), began + REFUSES_MAX), Refusal::New);
        let later = began + 2 * REFUSES_MAX;
        assert_eq!(refusals.note(group, place.next(), later), Refusal::Lasting);
        refusals.forget(group);
        assert_eq!(refusals.note(group, place.next(), later), Refusal::New);
    }

    /// One peer lags behind the place, another one is beyond it: what goes to them is read in turn.
    #[test]
    fn what_is_read_beside_a_refused_place_does_not_forgive_it() {
        let (group, at) = (GroupId::new(1), LogIndex::new);
        let mut refusals = Refusals::default();
        let began = Instant::now();
        assert_eq!(refusals.note(group, at(7), began), Refusal::New);
        for read in [(at(1), at(6)), (at(8), at(9))] {
            refusals.were_read(group, read);
            assert_eq!(refusals.note(group, at(7), began + REFUSES_MAX / 2), Refusal::Again);
        }
        refusals.were_read(GroupId::new(2), (at(1), at(9)));
        assert_eq!(refusals.note(group, at(7), began + REFUSES_MAX), Refusal::Lasting);
        refusals.were_read(group, (at(5), at(7)));
        assert_eq!(refusals.note(group, at(7), began + REFUSES_MAX), Refusal::New);
    }

    /// Two refusals with a long time between them, in which nobody asked, are no lasting one.
    #[test]
    fn a_place_that_is_refused_now_and_then_is_not_given_up() {
        let (group, place) = (GroupId::new(1), LogIndex::new(7));
        let mut refusals = Refusals::default();
        let mut now = Instant::now();
        for _ in 0..10 {
            assert_eq!(refusals.note(group, place, now), Refusal::New);
            refusals.waited(ASKED_WITHIN);
            now += REFUSES_MAX / 2;
            assert_eq!(refusals.note(group, place, now), Refusal::Again, "it is asked for again");
            refusals.waited(ASKED_WITHIN + Duration::from_millis(1));
            now += REFUSES_MAX;
        }
        // However long the disk takes to refuse, and whatever else it is asked for meanwhile.
        assert_eq!(refusals.note(group, place, now), Refusal::New);
        assert_eq!(refusals.note(group, place, now + 3 * REFUSES_MAX), Refusal::Lasting);
    }
}
