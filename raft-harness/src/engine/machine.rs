//! A group's state machine and how far it has applied: the same whether it runs on a shard or
//! on an apply worker.
//!
//! Invariant: entries are applied in index order without a gap, each exactly once per life, after
//! the snapshot that took the place of earlier ones. An answer is the output of its own entry, or
//! *unknown*: once the contract with the machine is broken, nobody gets an answer from it.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use raft_core::{Entry, EntryKind, GroupId, LogIndex, LogTime, SnapshotMeta};
use raft_storage::LiveEntries;
use tracing::error;

use super::panics::at_work_for;
use super::reads::Ask;
use crate::bodies::{Bodies, Lost, NewMachine};
use crate::request::{Proposed, Reply, RequestError};
use crate::snapshot::Restored;
use crate::state_machine::{SnapshotPieces, StateMachine};

pub(crate) struct MachineHost {
    group: GroupId,
    machine: Box<dyn StateMachine>,
    /// What it reads payloads by, if it leaves them in the log.
    bodies: Option<Bodies>,
    applied: LogIndex,
    log_time: LogTime,
    commands: u64,
    jobs: u64,
    /// Proposals of this node that are committed, by index.
    waiters: VecDeque<(LogIndex, Reply)>,
    outputs: Vec<Bytes>,
    /// The machine or its driver broke the contract. Nothing is asked of it any more: what its
    /// state stands for is not known.
    is_broken: bool,
}

impl std::fmt::Debug for MachineHost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MachineHost").field("applied", &self.applied).finish_non_exhaustive()
    }
}

/// How far a machine is, for status pages.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Applied {
    pub(crate) index: LogIndex,
    pub(crate) log_time: LogTime,
    pub(crate) commands: u64,
    /// Jobs an apply worker has done for it.
    pub(crate) jobs: u64,
    /// Bytes of payloads that the machine let go of.
    pub(crate) released: u64,
}

/// A machine's state at a moment: what a snapshot is made of.
pub(crate) struct MachineState {
    pub(crate) pieces: SnapshotPieces,
    /// The entries whose payloads it leaves in the log.
    pub(crate) live: Arc<LiveEntries>,
    pub(crate) live_bytes: u64,
}

/// Why a machine is out of use.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct BrokenMachine {
    /// The first entry that it cannot be said to have applied.
    pub(crate) index: LogIndex,
    /// Jobs that an apply worker had done for it by then.
    pub(crate) jobs: u64,
    pub(crate) breach: Breach,
    pub(crate) why: String,
}

/// Who is to blame for that.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Breach {
    /// The machine, or its driver.
    Contract,
    /// The log, which does not give back what it holds.
    Log,
}

impl MachineHost {
    pub(crate) fn new(group: GroupId, new: NewMachine) -> Self {
        let NewMachine { machine, bodies } = new;
        Self {
            group,
            machine,
            bodies,
            applied: LogIndex::ZERO,
            log_time: LogTime::default(),
            commands: 0,
            jobs: 0,
            waiters: VecDeque::new(),
            outputs: Vec::new(),
            is_broken: false,
        }
    }

    /// A machine that lacks the state its log begins with: out of use until a snapshot replaces it.
    pub(crate) fn stateless(group: GroupId, new: NewMachine) -> Self {
        let mut host = Self::new(group, new);
        host.is_broken = true;
        host
    }

    /// Applies `entries`, which follow what was applied, and answers those of `waiters`, which
    /// ascend by index, that they concern.
    ///
    /// # Errors
    /// Once, if the contract is broken: all waiters are answered as unknown then, and from now on.
    pub(crate) fn apply(
        &mut self,
        entries: &[Entry],
        waiters: impl IntoIterator<Item = (LogIndex, Reply)>,
    ) -> Result<(), BrokenMachine> {
        self.waiters.extend(waiters);
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else {
            return Ok(());
        };
        if self.is_broken {
            // Dropped replies say "unknown".
            self.waiters.clear();
            return Ok(());
        }
        if first.index != self.applied.next() {
            let why = format!("it was given entry {} after {}", first.index, self.applied);
            return Err(self.break_off(why));
        }
        self.outputs.clear();
        if raft_core::planted!(AppliesTwice) && entries.len() > 1 {
            self.machine.apply(&entries[..1], &mut self.outputs);
            self.outputs.clear();
        }
        if let Some(bodies) = &self.bodies {
            bodies.about_to_apply(entries);
        }
        let applied = at_work_for(self.group, || self.machine.apply(entries, &mut self.outputs));
        applied.map_err(|why| self.break_off(why))?;
        self.check_bodies()?;
        if self.is_broken {
            return Ok(());
        }
        // Which entry lacks its output, nobody can tell: so nobody gets what may be another's.
        if self.outputs.len() != entries.len() && !raft_core::planted!(OutputsNotCounted) {
            let why = format!(
                "the state machine gave {} outputs for the {} entries from {} on",
                self.outputs.len(),
                entries.len(),
                first.index
            );
            return Err(self.break_off(why));
        }
        self.applied = last.index;
        self.log_time = self.log_time.max(last.time);
        let commands = entries.iter().filter(|entry| entry.kind == EntryKind::Command);
        self.commands += commands.count() as u64;
        while let Some((index, _)) = self.waiters.front()
            && *index <= last.index
            && let Some((index, reply)) = self.waiters.pop_front()
        {
            let at = (index >= first.index).then(|| index.since(first.index) as usize);
            match at.and_then(|at| self.outputs.get_mut(at)).map(std::mem::take) {
                Some(output) => {
                    let time =
                        at.and_then(|at| entries.get(at)).map_or(last.time, |entry| entry.time);
                    reply.send(Ok(Proposed { index, output, time }));
                }
                // It was applied before anybody said who waits for it.
                None => reply.send(Err(RequestError::Unknown)),
            }
        }
        Ok(())
    }

    fn break_off(&mut self, why: String) -> BrokenMachine {
        self.break_off_for(Breach::Contract, self.applied.next(), why)
    }

    fn break_off_for(&mut self, breach: Breach, index: LogIndex, why: String) -> BrokenMachine {
        self.is_broken = true;
        self.outputs.clear();
        // Dropped replies say "unknown".
        self.waiters.clear();
        BrokenMachine { index, jobs: self.jobs, breach, why }
    }

    /// Looks whether the machine missed a payload in what it did last: then nothing of it counts.
    fn check_bodies(&mut self) -> Result<(), BrokenMachine> {
        let Some(lost) = self.bodies.as_ref().and_then(Bodies::take_lost) else { return Ok(()) };
        Err(match lost {
            Lost::NotKept(lost) => {
                self.break_off(format!("the state machine asked for what it cannot: {lost}"))
            }
            Lost::Unreadable(lost) => self.break_off_for(Breach::Log, lost.index, lost.to_string()),
            Lost::GroupGone(_) => {
                // The group left meanwhile; there is nobody to tell, and one that follows it is
                // not concerned.
                self.break_off(String::new());
                return Ok(());
            }
        })
    }

    /// The machine's state as it is now, which is that after `index`.
    ///
    /// # Errors
    /// Once, if it stands elsewhere: a snapshot under a false name would be taken for true.
    pub(crate) fn snapshot(
        &mut self,
        index: LogIndex,
    ) -> Result<Option<MachineState>, BrokenMachine> {
        if self.is_broken {
            return Ok(None);
        }
        if self.applied != index {
            let why = format!("its snapshot was to show {index}, it stands at {}", self.applied);
            return Err(self.break_off(why));
        }
        let pieces = at_work_for(self.group, || self.machine.snapshot());
        let pieces = pieces.unwrap_or_else(|why| {
            // It was only looked at.
            error!(group = %self.group, %index, why, "no snapshot was taken");
            None
        });
        self.check_bodies()?;
        let Some(pieces) = pieces.filter(|_| !self.is_broken) else { return Ok(None) };
        let (live, live_bytes) = match &self.bodies {
            None => (Arc::default(), 0),
            Some(bodies) => {
                let named =
                    at_work_for(self.group, || bodies.name(index, self.machine.live_entries()));
                named
                    .flatten()
                    .map_err(|why| self.break_off(format!("the state machine's list: {why}")))?
            }
        };
        Ok(Some(MachineState { pieces, live, live_bytes }))
    }

    /// Another machine, made from a snapshot, takes the place of this one, which may have missed what
    /// the log let go of for it.
    pub(crate) fn replace(&mut self, restored: Restored) {
        let NewMachine { machine, bodies } = restored.new;
        let before = std::mem::replace(&mut self.machine, machine);
        self.bodies = bodies;
        if let Err(why) = at_work_for(self.group, || drop(before)) {
            error!(group = %self.group, why, "a state machine went noisily");
        }
        self.is_broken = false;
        self.stand_at(&restored.meta);
        // What it covers was applied elsewhere; a dropped reply says that nobody knows more.
        while self.waiters.front().is_some_and(|(index, _)| *index <= self.applied) {
            self.waiters.pop_front();
        }
    }

    pub(super) fn stand_at(&mut self, meta: &SnapshotMeta) {
        self.applied = meta.index;
        self.log_time = self.log_time.max(meta.time);
    }

    /// Answers what is asked.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub(crate) fn answer_to(
        &mut self,
        ask: Ask,
        time: LogTime,
        reply: Reply,
    ) -> Result<(), BrokenMachine> {
        match ask {
            Ask::Query(query) => self.read(&query, time, reply),
            Ask::Place => self.answer(reply, self.log_time, |_| Bytes::new()),
        }
    }

    /// Answers a query. `time` is what the leader would stamp now, if this is one.
    ///
    /// # Errors
    /// Once, if a payload that the answer needs cannot be read.
    pub(crate) fn read(
        &mut self,
        query: &[u8],
        time: LogTime,
        reply: Reply,
    ) -> Result<(), BrokenMachine> {
        let time = time.max(self.log_time);
        self.answer(reply, time, |machine| machine.read(query))
    }

    /// The digest travels as an answer whose output is the number, little-endian.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub(crate) fn digest(&mut self, reply: Reply) -> Result<(), BrokenMachine> {
        let digest =
            |machine: &dyn StateMachine| Bytes::copy_from_slice(&machine.digest().to_le_bytes());
        self.answer(reply, self.log_time, digest)
    }

    fn answer(
        &mut self,
        reply: Reply,
        time: LogTime,
        ask: impl FnOnce(&dyn StateMachine) -> Bytes,
    ) -> Result<(), BrokenMachine> {
        if self.is_broken {
            reply.send(Err(RequestError::Faulted(self.group)));
            return Ok(());
        }
        let answer = at_work_for(self.group, || ask(&*self.machine));
        let result = self.check_bodies();
        reply.send(match answer {
            Ok(output) if !self.is_broken => Ok(Proposed { index: self.applied, output, time }),
            Ok(_) => Err(RequestError::Faulted(self.group)),
            Err(why) => {
                // It was only looked at: what others ask it can still answer.
                error!(group = %self.group, why, "a read has no answer");
                Err(RequestError::Faulted(self.group))
            }
        });
        result
    }

    /// Notes that a job of the shard is done: it may hand over another one.
    pub(crate) fn job_done(&mut self) {
        self.jobs += 1;
    }

    pub(crate) fn applied(&self) -> Applied {
        Applied {
            index: self.applied,
            log_time: self.log_time,
            commands: self.commands,
            jobs: self.jobs,
            released: self.bodies.as_ref().map_or(0, Bodies::released),
        }
    }
}

impl Drop for MachineHost {
    /// What the machine does as it goes is its own affair as well.
    fn drop(&mut self) {
        let machine = std::mem::replace(&mut self.machine, Box::new(Gone));
        if let Err(why) = at_work_for(self.group, || drop(machine)) {
            error!(group = %self.group, why, "a state machine went noisily");
        }
    }
}

/// In the place of a machine that went.
struct Gone;

impl StateMachine for Gone {
    fn apply(&mut self, _entries: &[Entry], _outputs: &mut Vec<Bytes>) {}

    fn read(&self, _query: &[u8]) -> Bytes {
        Bytes::new()
    }

    fn digest(&self) -> u64 {
        0
    }
}

impl From<Proposed> for (LogIndex, u64) {
    fn from(answer: Proposed) -> Self {
        let mut digest = [0; 8];
        if answer.output.len() == digest.len() {
            digest.copy_from_slice(&answer.output);
        }
        (answer.index, u64::from_le_bytes(digest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::{Request, RequestKind, Ticket};
    use raft_core::{ReadPath, Term};

    const GROUP: GroupId = GroupId::new(7);

    /// Answers each command with itself; as often as a command's first byte says.
    struct Echo;

    impl StateMachine for Echo {
        fn apply(&mut self, entries: &[Entry], outputs: &mut Vec<Bytes>) {
            for entry in entries {
                let times = usize::from(entry.payload[0]);
                outputs.extend(std::iter::repeat_n(entry.payload.clone(), times));
            }
        }

        fn read(&self, query: &[u8]) -> Bytes {
            Bytes::copy_from_slice(query)
        }

        fn digest(&self) -> u64 {
            1
        }

        fn snapshot(&self) -> Option<SnapshotPieces> {
            Some(Box::new(std::iter::empty()))
        }
    }

    fn echo() -> NewMachine {
        NewMachine { machine: Box::new(Echo), bodies: None }
    }

    fn reply<T>() -> (Reply, Ticket<T>) {
        let (request, ticket) =
            Request::new(GROUP, RequestKind::Read(ReadPath::Quorum, Bytes::new()));
        (request.reply, ticket)
    }

    fn entries(first: u64, payloads: &[[u8; 2]]) -> Vec<Entry> {
        let entry = |(index, payload): (u64, &[u8; 2])| Entry {
            index: LogIndex::new(index),
            term: Term::new(1),
            kind: EntryKind::Command,
            time: LogTime::default(),
            payload: Bytes::copy_from_slice(payload),
        };
        (first..).zip(payloads).map(entry).collect()
    }

    /// Applies these, each with a client that waits; what they hear.
    fn apply(
        host: &mut MachineHost,
        first: u64,
        payloads: &[[u8; 2]],
    ) -> (Result<(), BrokenMachine>, Vec<Result<Bytes, RequestError>>) {
        let (waiters, tickets): (Vec<_>, Vec<Ticket<Bytes>>) = (first..)
            .zip(payloads)
            .map(|(index, _)| {
                let (reply, ticket) = reply();
                ((LogIndex::new(index), reply), ticket)
            })
            .unzip();
        let result = host.apply(&entries(first, payloads), waiters);
        (result, tickets.into_iter().map(Ticket::wait).collect())
    }

    #[test]
    fn of_a_batch_with_outputs_missing_or_too_many_nobody_gets_an_answer() {
        for odd in [0, 2] {
            let mut host = MachineHost::new(GROUP, echo());
            let (result, heard) = apply(&mut host, 1, &[[1, 10], [1, 11]]);
            assert_eq!(result, Ok(()));
            assert_eq!(heard[1].as_deref(), Ok(&[1, 11][..]));

            let (result, heard) = apply(&mut host, 3, &[[1, 12], [odd, 13], [1, 14], [1, 15]]);
            let broken = result.expect_err("an output is missing or too many");
            assert_eq!(broken.index, LogIndex::new(3));
            let count = 3 + usize::from(odd);
            assert!(broken.why.contains(&format!("{count} outputs for the 4 entries from 3 on")));
            assert!(heard.iter().all(|heard| *heard == Err(RequestError::Unknown)), "{heard:?}");
            assert_eq!(host.applied().index, LogIndex::new(2));

            // From here on it answers nobody, and is not complained of again.
            let (result, heard) = apply(&mut host, 7, &[[1, 16]]);
            assert_eq!((result, heard), (Ok(()), vec![Err(RequestError::Unknown)]));
            let (read, ticket) = reply::<Bytes>();
            assert_eq!(host.read(b"x", LogTime::default(), read), Ok(()));
            assert_eq!(ticket.wait(), Err(RequestError::Faulted(GROUP)));
            let (digest, ticket) = reply::<(LogIndex, u64)>();
            assert_eq!(host.digest(digest), Ok(()));
            assert_eq!(ticket.wait(), Err(RequestError::Faulted(GROUP)));
            assert!(matches!(host.snapshot(LogIndex::new(2)), Ok(None)));
            assert_eq!(host.applied().index, LogIndex::new(2));
        }
    }

    #[test]
    fn entries_that_do_not_follow_are_not_applied() {
        let mut host = MachineHost::new(GROUP, echo());
        let (result, heard) = apply(&mut host, 2, &[[1, 10]]);
        assert!(result.is_err());
        assert_eq!(heard, vec![Err(RequestError::Unknown)]);
        assert_eq!(host.applied().index, LogIndex::ZERO);
    }

    #[test]
    fn a_snapshot_is_of_the_index_it_is_named_after_or_there_is_none() {
        let mut host = MachineHost::new(GROUP, echo());
        assert_eq!(apply(&mut host, 1, &[[1, 10], [1, 11]]).0, Ok(()));
        assert!(matches!(host.snapshot(LogIndex::new(2)), Ok(Some(_))));
        assert!(host.snapshot(LogIndex::new(1)).is_err());
        assert!(matches!(host.snapshot(LogIndex::new(2)), Ok(None)));
    }
}
