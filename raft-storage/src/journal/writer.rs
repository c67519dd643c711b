//! The one who writes a journal.

use std::collections::{BTreeMap, HashMap};
#[cfg(unix)]
use std::path::Path;

use bytes::Bytes;
use raft_core::{
    Base, Entry, EntryKind, GroupIncarnation, HardState, LogTime, NodeId, ReplicaId, Term,
    Tombstone,
};

use super::batch::{Batch, Step};
use super::error::{JournalError, JournalOpenError};
use super::reader::{JournalReader, group};
use super::{Position, StreamId};
use crate::append::write::{Compaction, ENTRY_BYTES_MAX, GroupCreate, GroupWrite, SPEC_BYTES_MAX};
use crate::disk::Disk;
#[cfg(unix)]
use crate::disk::file_disk::FileDisk;
use crate::error::{InitError, OpenError};
use crate::log::{Expected, InitOptions, Log, LogOptions, init_on};
use crate::store::{LogStats, LogStore, Tending};

/// A journal, open for writing. There is only one per directory at a time; readers are as many as
/// wanted ([`Journal::reader`]).
///
/// Space comes back by itself, a piece of the work after each commit; call [`Journal::rest`] when
/// nothing is to be written for a while. Many threads that write hand their records to one owner,
/// which commits what came together: that is what makes a sync cheap.
pub struct Journal {
    store: Box<dyn LogStore>,
    streams: BTreeMap<StreamId, Stream>,
    /// The last life of streams that are gone.
    gone: HashMap<StreamId, GroupIncarnation>,
}

/// A stream as an open finds it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct StreamInfo {
    /// What was given when it was made.
    pub description: Bytes,
    /// The first record that is there.
    pub first: Position,
    /// The next record to come.
    pub next: Position,
}

#[derive(Clone, Debug)]
struct Stream {
    incarnation: GroupIncarnation,
    info: StreamInfo,
}

impl Journal {
    /// Makes a journal in `dir`, which must be empty or missing. Everything is durable on return.
    ///
    /// # Errors
    /// [`InitError::AlreadyInitialised`] and [`InitError::NotEmpty`] leave the directory as it was.
    #[cfg(unix)]
    pub fn create(dir: &Path, name: &str) -> Result<(), JournalOpenError> {
        let io = |source| InitError::Io { dir: dir.display().to_string(), source };
        cluster(name)?;
        Self::create_on(&FileDisk::create(dir).map_err(io)?, name, &InitOptions::default())
    }

    /// [`Journal::create`] on any disk.
    ///
    /// # Errors
    /// As [`Journal::create`].
    pub fn create_on<D: Disk>(
        disk: &D,
        name: &str,
        options: &InitOptions,
    ) -> Result<(), JournalOpenError> {
        init_on(disk, &cluster(name)?, NODE, options)?;
        Ok(())
    }

    /// Opens the journal of this name in `dir`. What a crash interrupted is cut; what a disk has
    /// damaged is refused, never cut.
    ///
    /// # Errors
    /// [`OpenError::NotInitialised`], [`JournalOpenError::ForeignJournal`] and
    /// [`JournalOpenError::NotAJournal`] are for the operator; [`OpenError::Corrupt`] means that
    /// durable bytes were lost, and nothing was changed.
    #[cfg(unix)]
    pub fn open(dir: &Path, name: &str, options: &LogOptions) -> Result<Self, JournalOpenError> {
        let expected = expected(name)?;
        Self::from_open(Log::open(dir, &expected, options), name)
    }

    /// [`Journal::open`] on any disk.
    ///
    /// # Errors
    /// As [`Journal::open`].
    pub fn open_on<D: Disk>(
        disk: D,
        name: &str,
        options: &LogOptions,
    ) -> Result<Self, JournalOpenError> {
        let expected = expected(name)?;
        Self::from_open(Log::open_on(disk, &expected, options), name)
    }

    fn from_open<D: Disk>(
        opened: Result<crate::log::Opened<D>, OpenError>,
        name: &str,
    ) -> Result<Self, JournalOpenError> {
        let opened = opened.map_err(|error| match error {
            OpenError::ForeignCluster { dir, found, .. } => match found.strip_prefix(PREFIX) {
                Some(found) => JournalOpenError::ForeignJournal {
                    dir,
                    expected: name.to_owned(),
                    found: found.to_owned(),
                },
                None => JournalOpenError::NotAJournal { dir, cluster: found },
            },
            error => error.into(),
        })?;
        let streams = opened.groups.into_iter().map(|(id, found)| {
            let info = StreamInfo {
                description: found.spec,
                first: Position::of(found.first_index),
                next: Position::of(found.last_index).next(),
            };
            (StreamId::new(id.get()), Stream { incarnation: found.incarnation, info })
        });
        let gone = opened.tombstones.into_iter();
        Ok(Self {
            store: Box::new(opened.writer),
            streams: streams.collect(),
            gone: gone.map(|(id, (life, _))| (StreamId::new(id.get()), life)).collect(),
        })
    }

    /// All streams, in the order of their numbers.
    pub fn streams(&self) -> impl Iterator<Item = (StreamId, &StreamInfo)> {
        self.streams.iter().map(|(id, stream)| (*id, &stream.info))
    }

    /// A stream; `None` if there is none of this number.
    pub fn stream(&self, stream: StreamId) -> Option<&StreamInfo> {
        self.streams.get(&stream).map(|stream| &stream.info)
    }

    /// Writes a batch and makes it durable, with one sync. Returns the positions of the appended
    /// records, in the order of the batch.
    ///
    /// # Errors
    /// [`JournalError::Failed`] is final, and leaves open whether the batch is in the journal; any
    /// other error leaves everything as it was.
    pub fn commit(&mut self, batch: Batch) -> Result<Vec<Position>, JournalError> {
        let plan = self.plan(batch)?;
        self.store.commit(&plan.writes)?;
        let positions = self.follow(plan);
        self.store.tend(false)?;
        Ok(positions)
    }

    /// Writes a batch and does not wait for the disk: it survives the end of the process, and an end
    /// of the machine only after [`Journal::sync`].
    ///
    /// # Errors
    /// As [`Journal::commit`].
    pub fn write(&mut self, batch: Batch) -> Result<Vec<Position>, JournalError> {
        let plan = self.plan(batch)?;
        self.store.append(&plan.writes)?;
        Ok(self.follow(plan))
    }

    /// Makes everything written so far durable.
    ///
    /// # Errors
    /// [`JournalError::Failed`], which is final.
    pub fn sync(&mut self) -> Result<(), JournalError> {
        self.store.sync()?;
        self.store.tend(false)?;
        Ok(())
    }

    /// Uses the time while nothing is to be written: makes what was written durable, notes that it is,
    /// and tidies up, a bounded piece at a time. `true`: there is more to do, so call it again in a
    /// few milliseconds. Meant to be called about 100 ms after the last write.
    ///
    /// # Errors
    /// [`JournalError::Failed`], which is final.
    pub fn rest(&mut self) -> Result<bool, JournalError> {
        self.store.sync()?;
        self.store.idle()?;
        Ok(self.store.tend(true)? != Tending::Done)
    }

    /// Reads what was written, from any thread.
    pub fn reader(&self) -> JournalReader {
        JournalReader::new(self.store.reader())
    }

    /// What the journal takes and what housekeeping has done.
    pub fn stats(&self) -> LogStats {
        self.store.stats()
    }

    /// Ends in order: everything is durable on return.
    ///
    /// # Errors
    /// [`JournalError::Failed`].
    pub fn close(self) -> Result<(), JournalError> {
        Ok(self.store.close()?)
    }

    /// Says what a batch means, and refuses it if it may not be.
    fn plan(&self, batch: Batch) -> Result<Plan, JournalError> {
        let mut plan = Plan::default();
        for (stream, step) in batch.steps {
            let known = match plan.streams.get(&stream) {
                Some(changed) => changed.as_ref(),
                None => self.streams.get(&stream),
            };
            let Some(known) = known else {
                let Step::Create(description) = step else {
                    return Err(JournalError::UnknownStream { stream });
                };
                let last = plan.gone.get(&stream).or_else(|| self.gone.get(&stream));
                plan.create(stream, last.copied(), description)?;
                continue;
            };
            let mut known = known.clone();
            match step {
                Step::Create(_) => return Err(JournalError::StreamExists { stream }),
                Step::Append(payload) => plan.append(stream, &mut known, payload)?,
                Step::TrimBefore(asked) => {
                    let next = known.info.next;
                    if asked > next {
                        return Err(JournalError::TrimBeyondEnd { stream, asked, next });
                    }
                    plan.trim(stream, &mut known, asked);
                }
                Step::Remove => {
                    plan.remove(stream, &known);
                    continue;
                }
            }
            plan.streams.insert(stream, Some(known));
        }
        Ok(plan)
    }

    /// What was planned is written.
    fn follow(&mut self, plan: Plan) -> Vec<Position> {
        self.gone.extend(plan.gone);
        for (stream, changed) in plan.streams {
            match changed {
                Some(changed) => {
                    self.gone.remove(&stream);
                    self.streams.insert(stream, changed);
                }
                None => {
                    self.streams.remove(&stream);
                }
            }
        }
        plan.positions
    }
}

/// What a batch becomes.
#[derive(Default)]
struct Plan {
    writes: Vec<GroupWrite>,
    /// The last of `writes` for a stream: what follows may join it.
    newest: HashMap<StreamId, usize>,
    /// Streams as they will be; `None`: gone.
    streams: HashMap<StreamId, Option<Stream>>,
    gone: HashMap<StreamId, GroupIncarnation>,
    positions: Vec<Position>,
}

impl Plan {
    /// The operation that `fits`, or a new one.
    fn write(&mut self, stream: StreamId, fits: fn(&GroupWrite) -> bool) -> &mut GroupWrite {
        let newest = self.newest.get(&stream).copied();
        let at = newest.filter(|at| fits(&self.writes[*at])).unwrap_or_else(|| {
            self.writes.push(GroupWrite::new(group(stream)));
            self.writes.len() - 1
        });
        self.newest.insert(stream, at);
        &mut self.writes[at]
    }

    fn create(
        &mut self,
        stream: StreamId,
        last: Option<GroupIncarnation>,
        description: Bytes,
    ) -> Result<(), JournalError> {
        let bytes = description.len() as u64;
        if bytes > SPEC_BYTES_MAX {
            let bytes_max = SPEC_BYTES_MAX;
            return Err(JournalError::DescriptionTooLarge { stream, bytes, bytes_max });
        }
        let life = last.map_or(Some(1), |last| last.get().checked_add(1));
        let incarnation = life.map(GroupIncarnation::new);
        let incarnation = incarnation.ok_or(JournalError::StreamWornOut { stream })?;
        let (first, next) = (Position::FIRST, Position::FIRST);
        let create = GroupCreate { incarnation, spec: description.clone() };
        self.write(stream, |_| false).create = Some(create);
        let info = StreamInfo { description, first, next };
        self.streams.insert(stream, Some(Stream { incarnation, info }));
        Ok(())
    }

    fn append(
        &mut self,
        stream: StreamId,
        known: &mut Stream,
        payload: Bytes,
    ) -> Result<(), JournalError> {
        let bytes = payload.len() as u64;
        if bytes > ENTRY_BYTES_MAX {
            return Err(JournalError::RecordTooLarge { stream, bytes, bytes_max: ENTRY_BYTES_MAX });
        }
        let position = known.info.next;
        self.write(stream, |write| write.compact.is_none()).entries.push(Entry {
            index: position.index(),
            term: TERM,
            kind: EntryKind::Command,
            time: LogTime::new(0),
            payload,
        });
        self.positions.push(position);
        known.info.next = position.next();
        Ok(())
    }

    fn trim(&mut self, stream: StreamId, known: &mut Stream, before: Position) {
        if before <= known.info.first {
            return;
        }
        known.info.first = before;
        let index = before.index().prev();
        let base = Base { index, term: TERM, snapshot: index, ..Base::default() };
        self.write(stream, |_| true).compact = Some(Compaction { base, time: LogTime::new(0) });
    }

    fn remove(&mut self, stream: StreamId, known: &Stream) {
        let nobody = ReplicaId::new(0);
        let hard_state = HardState::default();
        let tombstone = Tombstone { group: group(stream), replica: nobody, hard_state };
        self.write(stream, |_| true).destroy = Some(tombstone);
        // Nothing may join what ends the stream.
        self.newest.remove(&stream);
        self.gone.insert(stream, known.incarnation);
        self.streams.insert(stream, None);
    }
}

/// A journal's directory is one of a log like any other, under a name that no cluster has.
const PREFIX: &str = "journal ";
const NAME_BYTES_MAX: usize = 255 - PREFIX.len();

/// There is nobody else.
const NODE: NodeId = NodeId::new(0);

/// Every record is of the same one.
const TERM: Term = Term::new(1);

fn cluster(name: &str) -> Result<String, JournalOpenError> {
    let bytes = name.len();
    if !(1..=NAME_BYTES_MAX).contains(&bytes) {
        return Err(JournalOpenError::Name { bytes, bytes_max: NAME_BYTES_MAX });
    }
    Ok(format!("{PREFIX}{name}"))
}

fn expected(name: &str) -> Result<Expected, JournalOpenError> {
    Ok(Expected { cluster: Some(cluster(name)?), node: Some(NODE) })
}
