//! Threads that run state machines, so that a slow command of one group delays no other group's
//! consensus.
//!
//! Each group belongs to one worker, which takes its jobs in order; so entries, the reads that
//! wait for them and digests keep the order in which the shard sent them.

use std::collections::HashMap;
use std::sync::Arc;

use crossbeam::channel::Receiver;
use raft_core::GroupId;

use super::inbox::Inbox;
use super::shard_thread::ShardInput;
use crate::engine::{Applied, ApplyJob, ApplyTask, EngineInput, MachineHost};

/// After work for so many groups their shards are told, even if more is waiting.
const GROUPS_PER_REPORT: usize = 64;

/// The state machines of one worker.
#[derive(Default)]
pub(crate) struct Machines {
    hosts: HashMap<GroupId, MachineHost>,
    progressed: Vec<(GroupId, Applied)>,
    /// States that were asked for and machines that are out of use, to go to their shards.
    told: Vec<(GroupId, EngineInput)>,
}

impl Machines {
    /// Does one job.
    pub(crate) fn work(&mut self, ApplyJob { group, task }: ApplyJob) {
        match task {
            ApplyTask::Start(machine) => {
                self.hosts.insert(group, *machine);
            }
            ApplyTask::Snapshot(meta) => {
                if let Some(machine) = self.hosts.get_mut(&group) {
                    let state = machine.snapshot(meta.index).unwrap_or_else(|broken| {
                        self.told.push((group, EngineInput::MachineBroken(group, broken)));
                        None
                    });
                    machine.job_done();
                    note(&mut self.progressed, group, machine.applied());
                    self.told.push((group, EngineInput::MachineState(group, meta, state)));
                }
            }
            ApplyTask::Replace(restored) => {
                if let Some(machine) = self.hosts.get_mut(&group) {
                    machine.replace(*restored);
                    machine.job_done();
                    note(&mut self.progressed, group, machine.applied());
                }
            }
            ApplyTask::Entries(entries, waiters) => {
                if let Some(machine) = self.hosts.get_mut(&group) {
                    if let Err(broken) = machine.apply(&entries, waiters) {
                        self.told.push((group, EngineInput::MachineBroken(group, broken)));
                    }
                    machine.job_done();
                    note(&mut self.progressed, group, machine.applied());
                }
            }
            ApplyTask::Reads(time, reads) => {
                if let Some(machine) = self.hosts.get_mut(&group) {
                    for (ask, reply) in reads {
                        if let Err(broken) = machine.answer_to(ask, time, reply) {
                            self.told.push((group, EngineInput::MachineBroken(group, broken)));
                        }
                    }
                    machine.job_done();
                    note(&mut self.progressed, group, machine.applied());
                }
            }
            ApplyTask::Stop => {
                if let Some(mut machine) = self.hosts.remove(&group) {
                    machine.job_done();
                    note(&mut self.progressed, group, machine.applied());
                }
            }
            ApplyTask::Digest(reply) => {
                if let Some(machine) = self.hosts.get_mut(&group)
                    && let Err(broken) = machine.digest(reply)
                {
                    self.told.push((group, EngineInput::MachineBroken(group, broken)));
                }
            }
        }
    }

    /// Tells the shards how far their groups have got.
    pub(crate) fn report(
        &mut self,
        shards: &[Arc<Inbox<ShardInput>>],
        shard_of: impl Fn(GroupId) -> usize,
    ) {
        for (group, input) in self.told.drain(..) {
            let _ = shards[shard_of(group)].push(ShardInput::Engine(input));
        }
        for (group, applied) in self.progressed.drain(..) {
            let input = ShardInput::Engine(EngineInput::Applied(group, applied));
            let _ = shards[shard_of(group)].push(input);
        }
    }
}

pub(crate) fn run(
    jobs: &Receiver<ApplyJob>,
    shards: &[Arc<Inbox<ShardInput>>],
    shard_of: impl Fn(GroupId) -> usize,
) {
    let mut machines = Machines::default();
    while let Ok(first) = jobs.recv() {
        let mut next = Some(first);
        while let Some(job) = next {
            machines.work(job);
            let more = machines.progressed.len() < GROUPS_PER_REPORT;
            next = if more { jobs.try_recv().ok() } else { None };
        }
        machines.report(shards, &shard_of);
    }
}

/// Keeps the newest report of each group.
fn note(progressed: &mut Vec<(GroupId, Applied)>, group: GroupId, applied: Applied) {
    progressed.retain(|(other, _)| *other != group);
    progressed.push((group, applied));
}
