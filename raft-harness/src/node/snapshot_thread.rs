//! The threads of snapshots: files are written, read and restored here, so that no shard and no
//! lane ever waits for them. One answers and asks for bytes, and never does anything long; the
//! other does what takes long.
//!
//! What waits in their inboxes is bounded by what may be under way: one taking and one fetch per
//! group, and per peer the questions that its desk has open.

use std::sync::Arc;
use std::time::Instant;

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, at, never, select};
use raft_core::GroupId;
use raft_transport::Frame;

use super::carrier::{CarrierInput, Carriers};
use super::clock::Clock;
use super::inbox::Inbox;
use super::shard_thread::ShardInput;
use super::snapshot_scrub::SnapshotScrub;
use crate::counters::Counters;
use crate::snapshot::desk::{Desk, DeskInput, DeskOutput};
use crate::snapshot::shelf::Shelf;
use crate::snapshot::workshop::{Job, Made, Workshop};

/// The desk, until nobody can ask it any more.
pub(crate) fn run(
    mut desk: Desk,
    inputs: &Receiver<DeskInput>,
    workshop: (&Sender<Job>, &Receiver<Made>),
    shards: &[Arc<Inbox<ShardInput>>],
    carriers: &Carriers,
    clock: Clock,
    shard_of: impl Fn(GroupId) -> usize,
) {
    let (jobs, made) = workshop;
    let mut out = Vec::new();
    loop {
        let alarm = match desk.next_deadline() {
            Some(deadline) => at(clock.instant(deadline).into_std()),
            None => never(),
        };
        select! {
            recv(inputs) -> input => match input {
                Ok(input) => desk.handle(clock.now(), input, &mut out),
                Err(_) => return,
            },
            recv(made) -> made => match made {
                Ok(made) => desk.on_made(clock.now(), made, &mut out),
                Err(_) => return,
            },
            recv(alarm) -> _ => desk.on_time(clock.now(), &mut out),
        }
        for output in out.drain(..) {
            match output {
                DeskOutput::Pull(node, pull) => {
                    carriers.give(CarrierInput::Ask(node, pull));
                }
                DeskOutput::Chunk(connection, chunk) => {
                    carriers.reply(connection, Frame::SnapshotChunk(chunk));
                }
                DeskOutput::Engine(group, input) => {
                    let _ = shards[shard_of(group)].push(ShardInput::Engine(input));
                }
                DeskOutput::Work(job) => {
                    let _ = jobs.send(job);
                }
            }
        }
    }
}

/// The workshop, until its desk is gone: what waits then is done by nobody. When it has nothing to do it
/// reads what there is, to see whether it still can be.
pub(crate) fn run_workshop(
    mut workshop: Workshop,
    jobs: &Receiver<Job>,
    made: &Sender<Made>,
    (shelf, mut scrub, counters): (&Shelf, SnapshotScrub, &Counters),
) {
    let mut out = Vec::new();
    loop {
        if workshop.is_idle() {
            let asked = match scrub.due() {
                Some(due) => jobs.recv_deadline(due),
                None => jobs.recv().map_err(RecvTimeoutError::from),
            };
            match asked {
                Ok(job) => workshop.add(job),
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {
                    let step = scrub.step(shelf, Instant::now());
                    Counters::add(&counters.snapshots_scrubbed_bytes, step.bytes);
                    Counters::add(&counters.snapshot_scrubs, u64::from(step.is_through));
                    step.doubted.into_iter().for_each(|name| workshop.add(Job::Verify(name)));
                    continue;
                }
            }
        }
        loop {
            match jobs.try_recv() {
                Ok(job) => workshop.add(job),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => return,
            }
        }
        workshop.work(&mut out);
        for what in out.drain(..) {
            let _ = made.send(what);
        }
    }
}
