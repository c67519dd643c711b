//! The payloads of entries, for a state machine that leaves them in the log.
//!
//! A queue keeps indexes and reads a message when somebody asks for it; its snapshot is as small as
//! its indexes are, and each message is on the disk once, as the entry that brought it.
//!
//! Invariants: an index means the entry the machine applied there, whatever else the log holds at
//! that index; a payload that cannot be read is damage of this replica and never an answer: the host
//! of the machine looks whether one was missed after every call, and if so throws away what was
//! answered and the machine with it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use raft_core::{Entry, EntryKind, GroupId, LogIndex, Term};
use raft_storage::{LiveEntries, LogReader, ReadError};
use tracing::warn;

use crate::group_spec::GroupSpec;
use crate::node::{REFUSES_MAX, chain};
use crate::state_machine::StateMachine;

/// Reads the payloads of commands that a state machine has applied and names in
/// [`live_entries`](StateMachine::live_entries). Cheap to clone.
#[derive(Clone)]
pub struct Bodies(Arc<Inner>);

/// A payload cannot be read. Whatever the machine does about it is thrown away: this replica takes no
/// part in its group any more, and its status says why.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the payload of entry {index} is not at hand: {why}")]
pub struct BodyLost {
    /// Which.
    pub index: LogIndex,
    why: String,
}

struct Inner {
    group: GroupId,
    /// `None`: this node keeps no log to read from.
    log: Option<LogReader>,
    released: AtomicU64,
    known: Mutex<Known>,
}

/// What is known of the entries that may be read.
#[derive(Default)]
struct Known {
    /// Up to here only what is named may be read.
    at: LogIndex,
    named: Arc<LiveEntries>,
    /// Where each term began behind that, as it was applied.
    terms: Vec<(LogIndex, Term)>,
    /// No-ops and memberships behind that.
    others: Vec<LogIndex>,
    last: LogIndex,
    lost: Option<Lost>,
}

/// What was asked for in vain.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Lost {
    /// The machine asked for what it has let go of, or never applied: it breaks its contract.
    NotKept(BodyLost),
    /// It is not what was written, or not there.
    Unreadable(BodyLost),
    /// The whole group is not there any more, and nobody asks for the answer.
    GroupGone(BodyLost),
}

impl Bodies {
    /// The payload of the command at `index`. From [`apply`](StateMachine::apply),
    /// [`read`](StateMachine::read), [`digest`](StateMachine::digest) and
    /// [`restore`](StateMachine::restore); not from the pieces of a snapshot, which are taken when the
    /// machine may have let go of it.
    ///
    /// Cost: a read of the log, from the page cache or the disk. One that the disk refuses is asked for
    /// again for up to 30 s, a minute if the process is out of file descriptors, and the machine's thread
    /// waits for that.
    ///
    /// # Errors
    /// [`BodyLost`]: pass it on or answer anything, it is noted already.
    pub fn get(&self, index: LogIndex) -> Result<Bytes, BodyLost> {
        let mut known = self.0.known.lock();
        let lost = match known.term(index) {
            None => {
                let why = "it was let go of, or never a command that was applied".to_owned();
                Lost::NotKept(BodyLost { index, why })
            }
            Some(term) => match self.read(index, term) {
                Ok(entry) => return Ok(entry.payload),
                Err(error) => {
                    let lost = BodyLost { index, why: error.to_string() };
                    match error {
                        ReadError::UnknownGroup { .. } => Lost::GroupGone(lost),
                        _ => Lost::Unreadable(lost),
                    }
                }
            },
        };
        let (Lost::NotKept(told) | Lost::Unreadable(told) | Lost::GroupGone(told)) = &lost;
        let told = told.clone();
        known.lost.get_or_insert(lost);
        Err(told)
    }

    /// So many bytes of payloads were let go of. They come back with a snapshot, so they count toward
    /// taking one as bytes do that are applied.
    pub fn release(&self, bytes: u64) {
        self.0.released.fetch_add(bytes, Relaxed);
    }

    fn read(&self, index: LogIndex, term: Term) -> Result<Entry, ReadError> {
        let group = self.0.group;
        let log = self.0.log.as_ref().ok_or(ReadError::UnknownGroup { group })?;
        let read = || log.entry(group, index, term);
        let read = patiently(read, Instant::now, || thread::sleep(PAUSE));
        if read.as_ref().is_err_and(ReadError::is_damage) {
            log.doubt();
        }
        read
    }

    pub(crate) fn has_log(&self) -> bool {
        self.0.log.is_some()
    }

    /// The machine is what a snapshot says that names these.
    pub(crate) fn stand_at(&self, index: LogIndex, named: Arc<LiveEntries>) {
        let mut known = self.0.known.lock();
        *known =
            Known { at: index, named, last: index, lost: known.lost.take(), ..Known::default() };
    }

    /// The machine is about to apply these.
    pub(crate) fn about_to_apply(&self, entries: &[Entry]) {
        let mut known = self.0.known.lock();
        for entry in entries {
            if known.terms.last().is_none_or(|(_, term)| *term != entry.term) {
                known.terms.push((entry.index, entry.term));
            }
            if entry.kind != EntryKind::Command {
                known.others.push(entry.index);
            }
            known.last = entry.index;
        }
    }

    /// What was asked for in vain since this was asked last.
    pub(crate) fn take_lost(&self) -> Option<Lost> {
        self.0.known.lock().lost.take()
    }

    pub(crate) fn released(&self) -> u64 {
        self.0.released.load(Relaxed)
    }

    /// What the log does not hold of these.
    pub(crate) fn missing(&self, live: &LiveEntries) -> LiveEntries {
        let holding = self.0.log.as_ref().and_then(|log| log.holding(self.0.group, live).ok());
        holding.map_or_else(|| live.clone(), |holding| holding.missing)
    }

    /// What the log holds of these: their payload bytes.
    ///
    /// # Errors
    /// The first that it does not hold, with the number of them.
    pub(crate) fn held(&self, live: &LiveEntries) -> Result<u64, (LogIndex, u64)> {
        let first = || live.runs().next().map_or(LogIndex::ZERO, |(first, _)| first);
        let holding = self.0.log.as_ref().and_then(|log| log.holding(self.0.group, live).ok());
        match holding {
            _ if live.is_empty() => Ok(0),
            Some(holding) => match holding.missing.runs().next() {
                None => Ok(holding.bytes),
                Some((index, _)) => Err((index, holding.missing.count())),
            },
            None => Err((first(), live.count())),
        }
    }

    /// Takes the machine's list at this moment, whose last applied entry is `index`: from now on only
    /// these are read up to there. Returns them with their terms, and their payload bytes.
    ///
    /// # Errors
    /// What is wrong with the list.
    pub(crate) fn name(
        &self,
        index: LogIndex,
        list: impl Iterator<Item = LogIndex>,
    ) -> Result<(Arc<LiveEntries>, u64), String> {
        let mut live = LiveEntries::default();
        {
            let known = self.0.known.lock();
            for named in list {
                let term = known.term(named).ok_or_else(|| {
                    format!("it names entry {named}, which is no command it applied and kept")
                })?;
                if !live.push(named, term) {
                    return Err(format!("it names entry {named} behind a later one"));
                }
            }
        }
        let bytes = self.held(&live).map_err(|(missing, count)| {
            format!("it names {count} entries that are not held, the first is {missing}")
        })?;
        let live = Arc::new(live);
        let mut known = self.0.known.lock();
        known.others.clear();
        let newest = known.terms.last().map(|(_, term)| *term);
        known.terms.clear();
        known.terms.extend(newest.map(|term| (index.next(), term)));
        (known.at, known.named) = (index, Arc::clone(&live));
        Ok((live, bytes))
    }
}

impl Known {
    /// The term of a command that may be read.
    fn term(&self, index: LogIndex) -> Option<Term> {
        if index <= self.at {
            return self.named.term(index);
        }
        if index > self.last || self.others.binary_search(&index).is_ok() {
            return None;
        }
        let after = self.terms.partition_point(|(first, _)| *first <= index);
        Some(self.terms.get(after.checked_sub(1)?)?.1)
    }
}

impl fmt::Debug for Bodies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bodies").field("group", &self.0.group).finish_non_exhaustive()
    }
}

/// A state machine that was just made, with what it reads payloads by if it keeps entries.
pub(crate) struct NewMachine {
    pub(crate) machine: Box<dyn StateMachine>,
    pub(crate) bodies: Option<Bodies>,
}

impl NewMachine {
    /// `log`: what this node reads its log with, if it keeps one.
    pub(crate) fn new(
        mut machine: Box<dyn StateMachine>,
        spec: &GroupSpec,
        log: Option<&LogReader>,
    ) -> Self {
        let bodies = machine.keeps_entries().then(|| {
            let (released, known) = (AtomicU64::new(0), Mutex::default());
            let log = log.cloned();
            let bodies = Bodies(Arc::new(Inner { group: spec.group, log, released, known }));
            machine.attach(bodies.clone());
            bodies
        });
        Self { machine, bodies }
    }
}

/// Reads until it is certain that it cannot be read; its thread does nothing else meanwhile.
fn patiently<T>(
    read: impl Fn() -> Result<T, ReadError>,
    clock: impl Fn() -> Instant,
    rest: impl Fn(),
) -> Result<T, ReadError> {
    let mut began = None;
    loop {
        let error = match read() {
            Ok(found) => return Ok(found),
            Err(error) => error,
        };
        let longest = match &error {
            // The process is out of file descriptors: nothing is wrong with the log.
            error if error.is_passing() => DESCRIPTORS_MAX,
            // As for any other reader of the log: a path to a disk that is lost comes back.
            ReadError::Io { .. } => REFUSES_MAX,
            _ => return Err(error),
        };
        let now = clock();
        let since = *began.get_or_insert_with(|| {
            warn!(error = chain(&error), "the log cannot be read now");
            now
        });
        if now.duration_since(since) >= longest {
            return Err(error);
        }
        rest();
    }
}

/// Descriptors are waited for so long.
const DESCRIPTORS_MAX: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::io;

    use super::*;

    /// How a read ends that is answered so, one answer after the other, and how long it took.
    fn read(answers: &[Result<u8, &'static str>]) -> (Result<u8, String>, Duration) {
        let began = Instant::now();
        let (now, at) = (Cell::new(began), Cell::new(0));
        let (group, index) = (GroupId::new(1), LogIndex::new(7));
        let error = |why| match why {
            "corrupt" => ReadError::Corrupt { group, index, segment: 0, offset: 0 },
            "descriptors" => {
                ReadError::Io { group, index, source: io::Error::from_raw_os_error(24) }
            }
            why => ReadError::Io { group, index, source: io::Error::other(why) },
        };
        let answer = || answers[at.replace(at.get() + 1)].map_err(error);
        let ended = patiently(answer, || now.get(), || now.set(now.get() + PAUSE));
        (ended.map_err(|error| error.to_string()), now.get() - began)
    }

    #[test]
    fn a_disk_that_refuses_a_payload_for_a_moment_has_not_lost_it() {
        assert_eq!(read(&[Err("EIO"), Err("EIO"), Ok(7)]), (Ok(7), 2 * PAUSE));
        let long = [&[Err("EIO"); 600][..], &[Ok(7)]].concat();
        assert_eq!(read(&long), (Ok(7), REFUSES_MAX));
        let (ended, waited) = read(&[Err("EIO"); 601]);
        assert!(ended.is_err(), "{ended:?}");
        assert_eq!(waited, REFUSES_MAX);
        let (ended, waited) = read(&[Err("descriptors"); 1201]);
        assert!(ended.is_err(), "{ended:?}");
        assert_eq!(waited, DESCRIPTORS_MAX);
        let (ended, waited) = read(&[Err("corrupt")]);
        assert!(ended.is_err(), "{ended:?}");
        assert_eq!(waited, Duration::ZERO, "what fails its sum is not what was written");
    }
}
