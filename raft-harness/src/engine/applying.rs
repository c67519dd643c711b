//! Committed entries on their way to the state machine, and reads that wait for them.
//!
//! Invariant: entries are handed over in order, without a gap, once they are durable here.

use raft_core::{Input, LogTime};
use tracing::{debug, error};

use super::io::{ApplyJob, ApplyTask, TurnOutput};
use super::machine::{Breach, BrokenMachine};
use super::replication::fetch;
use super::shard_engine::{Durability, ShardEngine};
use crate::request::RequestError;

/// The most entries given to a state machine in one piece.
const APPLY_ENTRIES_MAX: u64 = 4096;

/// A group's share of the window is never smaller, however many groups there are.
const WINDOW_BYTES_MIN: u64 = 64 << 10;

impl ShardEngine {
    /// A state machine broke its contract: its group is mute on this node, for its other replicas
    /// to go on, and nobody gets an answer from it any more.
    pub(super) fn on_machine_broken(
        &mut self,
        at: u32,
        broken: BrokenMachine,
        out: &mut TurnOutput,
    ) {
        let BrokenMachine { index, jobs, breach, why } = broken;
        let slot = &mut self.slots[at as usize];
        if jobs < slot.replaced {
            // A snapshot was installed while its worker was behind: what it was to read is gone from the
            // log, and another machine has taken its place.
            debug!(group = %slot.spec.group, %index, why, "a machine that was replaced is out of use");
            return;
        }
        error!(group = %slot.spec.group, %index, why, "the state machine is out of use");
        slot.broken.get_or_insert(why);
        let input = match breach {
            Breach::Contract => Input::ApplyFailed(index),
            Breach::Log => Input::LogUnreadable(index),
        };
        self.step(at, input, out);
    }

    /// Hands entries that may be applied to the state machine, and reads that may be answered.
    pub(super) fn dispatch_applies(&mut self, at: u32, out: &mut TurnOutput) {
        let window = self.options.window_bytes;
        let slot = &mut self.slots[at as usize];
        while slot.dispatched < slot.appliable && slot.takes_work() {
            let first = slot.dispatched.next();
            let last = slot.appliable.min(slot.dispatched.plus(APPLY_ENTRIES_MAX));
            self.apply_scratch.clear();
            if let Some(entries) = slot.payloads.range(first, last) {
                self.apply_scratch.extend(entries.cloned());
            } else {
                // Replay: what is not in the window comes from the log, piece by piece.
                let mut index = first;
                while index <= last
                    && let Some(entry) = slot.entry(index)
                {
                    self.apply_scratch.push(entry.clone());
                    index = index.next();
                }
                if self.apply_scratch.is_empty() {
                    fetch(slot, first, out);
                    break;
                }
            }
            let Some(last) = self.apply_scratch.last().map(|entry| entry.index) else {
                break;
            };
            slot.dispatched = last;
            for entry in &self.apply_scratch {
                slot.snapshots.sizes.note(entry.index, entry.cost());
            }
            debug_assert!(slot.waiters.iter().is_sorted_by_key(|(index, _)| *index));
            let due = slot.waiters.partition_point(|(index, _)| *index <= last);
            self.waiting -= due;
            let waiters = slot.waiters.drain(..due);
            match &mut slot.inline {
                Some(machine) => {
                    let result = machine.apply(&self.apply_scratch, waiters);
                    let applied = machine.applied();
                    slot.set_applied(applied, &self.counters);
                    if let Err(broken) = result {
                        self.apply_scratch.clear();
                        self.on_machine_broken(at, broken, out);
                        return;
                    }
                }
                None => {
                    let entries = self.apply_scratch.clone();
                    let task = ApplyTask::Entries(entries, waiters.collect());
                    out.apply.push(ApplyJob { group: slot.spec.group, task });
                    slot.jobs += 1;
                }
            }
        }
        self.apply_scratch.clear();
        let leads = slot.leads() && slot.reads_confirmed.front().is_some();
        let time = if leads { self.stamp(at).time() } else { LogTime::default() };
        let slot = &mut self.slots[at as usize];
        while slot.takes_work()
            && let Some((index, _)) = slot.reads_confirmed.front()
            && *index <= slot.dispatched
            && let Some((_, reads)) = slot.reads_confirmed.pop_front()
        {
            self.reads_open -= reads.len();
            match &mut slot.inline {
                Some(machine) => {
                    let mut result = Ok(());
                    for (ask, reply) in reads {
                        let answered = machine.answer_to(ask, time, reply);
                        if result.is_ok() {
                            result = answered;
                        }
                    }
                    if let Err(broken) = result {
                        self.on_machine_broken(at, broken, out);
                        return;
                    }
                }
                None => {
                    let task = ApplyTask::Reads(time, reads);
                    out.apply.push(ApplyJob { group: slot.spec.group, task });
                    slot.jobs += 1;
                }
            }
        }
        if slot.reads_confirmed.front().is_some() && slot.core.is_removed() {
            // The leader they were confirmed by sends nothing of what they wait for any more.
            let commit = slot.core.commit_index();
            for reads in slot.reads_beyond(commit) {
                self.reads_open -= reads.len();
                for (_, reply) in reads {
                    reply.send(Err(RequestError::LeadershipLost));
                }
            }
        }
        if let Some(window) = window {
            // The shard's window, shared out evenly among the groups that use it.
            let share = (window / self.windows.max(1)).max(WINDOW_BYTES_MIN);
            // What waits for a slow machine is in the log already, and can be read back.
            let kept_from = match self.options.durability {
                Durability::Log => slot.appliable,
                Durability::Memory => slot.dispatched,
            };
            slot.payloads.evict(kept_from, share);
            let uses = !slot.payloads.is_empty();
            if uses != std::mem::replace(&mut slot.uses_window, uses) {
                self.windows = if uses { self.windows + 1 } else { self.windows - 1 };
            }
        }
    }
}
