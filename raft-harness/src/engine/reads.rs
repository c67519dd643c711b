//! Reads on their way through an engine: those of one turn share a confirmation, and wait for
//! the index it names to be applied.
//!
//! A lease is judged by a clock, and a thread may stand still between looking at the clock and
//! looking at the log. So what a lease vouched for is held until the clock has been looked at
//! once more: only if the lease still lasted then, nobody else can have led when the index was
//! taken.
//!
//! Invariant: a read is answered once, from a state that holds the index its path named.

use std::collections::VecDeque;

use bytes::Bytes;
use raft_core::{Input, LogIndex, Micros, ReadPath, Token};

use super::io::TurnOutput;
use super::requests::READ_TOKEN;
use super::shard_engine::ShardEngine;
use super::slot::Slot;
use crate::request::{Reply, RequestError};

/// What is asked of a machine.
#[derive(Debug)]
pub(crate) enum Ask {
    Query(Bytes),
    /// How far it has applied.
    Place,
}

/// Questions that share a confirmation, and whom to answer.
pub(crate) type Reads = Vec<(Ask, Reply)>;

/// Reads that came in this turn, by path.
#[derive(Default)]
pub(crate) struct NewReads {
    quorum: Reads,
    lease: Reads,
    follower: Reads,
}

impl NewReads {
    fn of(&mut self, path: ReadPath) -> &mut Reads {
        match path {
            ReadPath::Quorum => &mut self.quorum,
            ReadPath::Lease => &mut self.lease,
            ReadPath::Follower => &mut self.follower,
        }
    }
}

/// Reads that a lease vouched for.
pub(crate) struct Leased {
    index: LogIndex,
    /// The lease's end.
    until: Micros,
    reads: Reads,
}

const PATHS: [ReadPath; 3] = [ReadPath::Quorum, ReadPath::Lease, ReadPath::Follower];

impl ShardEngine {
    pub(super) fn on_read(&mut self, at: u32, path: ReadPath, query: Bytes, reply: Reply) {
        let slot = &mut self.slots[at as usize];
        let elsewhere = match path {
            ReadPath::Quorum | ReadPath::Lease => !slot.core.is_leader(),
            ReadPath::Follower => slot.core.leader().is_none(),
        };
        if elsewhere || slot.broken.is_some() {
            let is_mute = slot.core.fault().is_some() || !elsewhere;
            let error = match is_mute {
                true => RequestError::Faulted(slot.spec.group),
                false => RequestError::NotLeader { leader: slot.known_leader },
            };
            reply.send(Err(error));
            return;
        }
        if !self.admits_read() {
            reply.send(Err(RequestError::Overloaded { pending_bytes: 0 }));
            return;
        }
        self.slots[at as usize].reads_new.of(path).push((Ask::Query(query), reply));
        self.touch(at);
    }

    /// Counts one more read, unless too many are open. Those that wait for an index which may never come,
    /// and that nobody waits for any more, make room: they are looked for once half as many have come since.
    fn admits_read(&mut self) -> bool {
        let max = self.options.requests_max;
        if self.reads_open >= max && self.reads_since_sweep >= max / 2 {
            let dropped: usize = self.slots.iter_mut().map(Slot::drop_unwanted_reads).sum();
            self.reads_open -= dropped;
            self.reads_since_sweep = 0;
        }
        let admits = self.reads_open < max;
        self.reads_open += usize::from(admits);
        self.reads_since_sweep += usize::from(admits);
        admits
    }

    /// A read of what this replica has applied, which needs no confirmation: only that it is so far.
    pub(super) fn on_read_local(&mut self, at: u32, index: LogIndex, ask: Ask, reply: Reply) {
        let slot = &mut self.slots[at as usize];
        if slot.broken.is_some() || slot.core.fault().is_some() {
            reply.send(Err(RequestError::Faulted(slot.spec.group)));
            return;
        }
        if !self.admits_read() {
            reply.send(Err(RequestError::Overloaded { pending_bytes: 0 }));
            return;
        }
        self.slots[at as usize].confirm_reads(index, [(ask, reply)]);
        self.touch(at);
    }

    /// Asks for the confirmation of what came in this turn.
    pub(super) fn ask_for_reads(&mut self, at: u32, out: &mut TurnOutput) {
        for path in PATHS {
            let slot = &mut self.slots[at as usize];
            let reads = std::mem::take(slot.reads_new.of(path));
            if reads.is_empty() {
                continue;
            }
            self.read_tokens += 1;
            let token = Token::new(READ_TOKEN | self.read_tokens);
            slot.reads_asked.push_back((token, reads));
            self.leasing = (path == ReadPath::Lease).then_some(token);
            self.step(at, Input::Read { token, path }, out);
            self.leasing = None;
        }
    }

    /// Notes what the core says of reads it was asked about.
    pub(super) fn on_reads_ready(&mut self, at: u32, token: Token, index: LogIndex) {
        let slot = &mut self.slots[at as usize];
        let Some(reads) = slot.take_reads(token) else {
            return;
        };
        if self.leasing == Some(token) {
            // At once, so by the lease; none lasts any more if it ended in the same step.
            let until = slot.core.lease_until().unwrap_or(Micros::ZERO);
            slot.reads_leased.push(Leased { index, until, reads });
            self.leased.push(at);
        } else {
            slot.confirm_reads(index, reads);
        }
    }

    /// Whether leases vouched for something in this turn: the driver looks at its clock, sets it,
    /// and [confirms](Self::confirm_leased) them.
    pub(crate) fn has_leased(&self) -> bool {
        !self.leased.is_empty()
    }

    /// Lets go of the reads whose lease lasted until the time set last; the others ask a quorum.
    pub(crate) fn confirm_leased(&mut self) {
        for at in std::mem::take(&mut self.leased) {
            let slot = &mut self.slots[at as usize];
            for Leased { index, until, reads } in std::mem::take(&mut slot.reads_leased) {
                if self.now < until {
                    slot.confirm_reads(index, reads);
                } else {
                    slot.reads_new.quorum.extend(reads);
                }
            }
            self.touch(at);
        }
    }
}

impl Slot {
    /// Reads that may be answered from a state that holds `index`; they wait in that order, those for
    /// one index together.
    fn confirm_reads(&mut self, index: LogIndex, reads: impl IntoIterator<Item = (Ask, Reply)>) {
        let at = self.reads_confirmed.partition_point(|(other, _)| *other <= index);
        let before = at.checked_sub(1).and_then(|at| self.reads_confirmed.get_mut(at));
        match before.filter(|(other, _)| *other == index) {
            Some((_, together)) => together.extend(reads),
            None => self.reads_confirmed.insert(at, (index, reads.into_iter().collect())),
        }
    }

    /// Forgets reads that wait and that nobody waits for; how many they were.
    fn drop_unwanted_reads(&mut self) -> usize {
        let mut dropped = 0;
        self.reads_confirmed.retain_mut(|(_, reads)| {
            let before = reads.len();
            reads.retain(|(_, reply)| !reply.is_unwanted());
            dropped += before - reads.len();
            !reads.is_empty()
        });
        dropped
    }

    /// The reads a token stands for.
    pub(super) fn take_reads(&mut self, token: Token) -> Option<Reads> {
        // Confirmations come in order; refusals may take any.
        let at = self.reads_asked.iter().position(|(asked, _)| *asked == token)?;
        self.reads_asked.remove(at).map(|(_, reads)| reads)
    }

    /// Takes the confirmed reads that wait for more than this index.
    pub(super) fn reads_beyond(&mut self, index: LogIndex) -> Vec<Reads> {
        let (waiting, rest): (VecDeque<_>, VecDeque<_>) =
            self.reads_confirmed.drain(..).partition(|(needed, _)| *needed > index);
        self.reads_confirmed = rest;
        waiting.into_iter().map(|(_, reads)| reads).collect()
    }

    /// All reads that are owed an answer.
    pub(super) fn drain_reads(&mut self) -> Reads {
        let mut all = Reads::new();
        for path in PATHS {
            all.append(self.reads_new.of(path));
        }
        all.extend(self.reads_asked.drain(..).flat_map(|(_, reads)| reads));
        all.extend(self.reads_leased.drain(..).flat_map(|leased| leased.reads));
        all.extend(self.reads_confirmed.drain(..).flat_map(|(_, reads)| reads));
        all
    }
}
