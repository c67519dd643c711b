//! A group's state machine and how far it has applied: the same whether it runs on a shard or
//! on an apply worker.
//!
//! Invariant: entries are applied in index order without a gap, each exactly once per life, after
//! the snapshot that took the place of earlier ones.

use std::collections::VecDeque;

use bytes::Bytes;
use raft_core::{Entry, EntryKind, LogIndex, LogTime, SnapshotMeta};

use crate::request::{Proposed, Reply, RequestError};
use crate::snapshot::Restored;
use crate::state_machine::{SnapshotPieces, StateMachine};

pub(crate) struct MachineHost {
    machine: Box<dyn StateMachine>,
    applied: LogIndex,
    log_time: LogTime,
    commands: u64,
    jobs: u64,
    /// Proposals of this node that are committed, by index.
    waiters: VecDeque<(LogIndex, Reply)>,
    outputs: Vec<Bytes>,
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
}

impl MachineHost {
    pub(crate) fn new(machine: Box<dyn StateMachine>) -> Self {
        Self {
            machine,
            applied: LogIndex::ZERO,
            log_time: LogTime::default(),
            commands: 0,
            jobs: 0,
            waiters: VecDeque::new(),
            outputs: Vec::new(),
        }
    }

    /// Applies `entries`, which follow what was applied, and answers those of `waiters`, which
    /// ascend by index, that they concern.
    pub(crate) fn apply(
        &mut self,
        entries: &[Entry],
        waiters: impl IntoIterator<Item = (LogIndex, Reply)>,
    ) {
        self.waiters.extend(waiters);
        let Some(last) = entries.last() else { return };
        debug_assert_eq!(entries[0].index, self.applied.next());
        self.outputs.clear();
        if raft_core::planted!(AppliesTwice) && entries.len() > 1 {
            self.machine.apply(&entries[..1], &mut self.outputs);
            self.outputs.clear();
        }
        self.machine.apply(entries, &mut self.outputs);
        debug_assert_eq!(self.outputs.len(), entries.len(), "one output per entry");
        self.applied = last.index;
        self.log_time = self.log_time.max(last.time);
        let commands = entries.iter().filter(|entry| entry.kind == EntryKind::Command);
        self.commands += commands.count() as u64;
        let first = entries[0].index;
        while let Some((index, _)) = self.waiters.front()
            && *index <= last.index
            && let Some((index, reply)) = self.waiters.pop_front()
        {
            let at = (index >= first).then(|| index.since(first) as usize);
            match at.and_then(|at| self.outputs.get_mut(at)).map(std::mem::take) {
                Some(output) => reply.send(Ok(Proposed { index, output })),
                // A machine that broke its contract: say what is true.
                None => reply.send(Err(RequestError::Unknown)),
            }
        }
    }

    /// The machine's state as it is now.
    pub(crate) fn snapshot(&self) -> Option<SnapshotPieces> {
        self.machine.snapshot()
    }

    /// Another machine, made from a snapshot, takes the place of this one.
    pub(crate) fn replace(&mut self, restored: Restored) {
        self.machine = restored.machine;
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

    pub(crate) fn read(&self, query: &[u8], reply: Reply) {
        let output = self.machine.read(query);
        reply.send(Ok(Proposed { index: self.applied, output }));
    }

    /// The digest travels as an answer whose output is the number, little-endian.
    pub(crate) fn digest(&self, reply: Reply) {
        let digest = self.machine.digest().to_le_bytes();
        reply.send(Ok(Proposed { index: self.applied, output: Bytes::copy_from_slice(&digest) }));
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
        }
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
