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

pub(crate) fn run(
    jobs: &Receiver<ApplyJob>,
    shards: &[Arc<Inbox<ShardInput>>],
    shard_of: impl Fn(GroupId) -> usize,
) {
    let mut machines: HashMap<GroupId, MachineHost> = HashMap::new();
    let mut progressed: Vec<(GroupId, Applied)> = Vec::new();
    while let Ok(first) = jobs.recv() {
        let mut next = Some(first);
        while let Some(ApplyJob { group, task }) = next {
            match task {
                ApplyTask::Start(machine) => {
                    machines.insert(group, MachineHost::new(machine));
                }
                ApplyTask::Entries(entries, waiters) => {
                    if let Some(machine) = machines.get_mut(&group) {
                        machine.apply(&entries, waiters);
                        machine.job_done();
                        note(&mut progressed, group, machine.applied());
                    }
                }
                ApplyTask::Reads(reads) => {
                    if let Some(machine) = machines.get_mut(&group) {
                        for (query, reply) in reads {
                            machine.read(&query, reply);
                        }
                        machine.job_done();
                        note(&mut progressed, group, machine.applied());
                    }
                }
                ApplyTask::Stop => {
                    if let Some(mut machine) = machines.remove(&group) {
                        machine.job_done();
                        note(&mut progressed, group, machine.applied());
                    }
                }
                ApplyTask::Digest(reply) => {
                    if let Some(machine) = machines.get(&group) {
                        machine.digest(reply);
                    }
                }
            }
            next = if progressed.len() < GROUPS_PER_REPORT { jobs.try_recv().ok() } else { None };
        }
        for (group, applied) in progressed.drain(..) {
            let input = ShardInput::Engine(EngineInput::Applied(group, applied));
            let _ = shards[shard_of(group)].push(input);
        }
    }
}

/// Keeps the newest report of each group.
fn note(progressed: &mut Vec<(GroupId, Applied)>, group: GroupId, applied: Applied) {
    progressed.retain(|(other, _)| *other != group);
    progressed.push((group, applied));
}
