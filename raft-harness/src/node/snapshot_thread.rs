//! The thread of the snapshot desk: files are written, read and restored here, so that no shard
//! and no lane ever waits for them.
//!
//! What waits in its inbox is bounded by what may be under way: one taking and one fetch per
//! group, and per peer the questions of its own fetches.

use std::sync::Arc;

use crossbeam::channel::{Receiver, RecvTimeoutError};
use raft_core::GroupId;
use raft_transport::Frame;

use super::bulk_thread::BulkInput;
use super::clock::Clock;
use super::inbox::Inbox;
use super::shard_thread::ShardInput;
use crate::snapshot::desk::{Desk, DeskInput, DeskOutput};

pub(crate) fn run(
    mut desk: Desk,
    inputs: &Receiver<DeskInput>,
    shards: &[Arc<Inbox<ShardInput>>],
    bulk: &Inbox<BulkInput>,
    clock: Clock,
    shard_of: impl Fn(GroupId) -> usize,
) {
    let mut out = Vec::new();
    loop {
        let received = match desk.next_deadline() {
            Some(deadline) => inputs.recv_deadline(clock.instant(deadline).into_std()),
            None => inputs.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match received {
            Ok(input) => desk.handle(clock.now(), input, &mut out),
            Err(RecvTimeoutError::Timeout) => desk.on_time(clock.now(), &mut out),
            Err(RecvTimeoutError::Disconnected) => return,
        }
        for output in out.drain(..) {
            match output {
                DeskOutput::Pull(node, pull) => {
                    let _ = bulk.push(BulkInput::Ask(node, Frame::SnapshotPull(pull)));
                }
                DeskOutput::Chunk(connection, chunk) => {
                    let frame = Frame::SnapshotChunk(chunk);
                    let _ = bulk.push(BulkInput::Reply(connection, frame));
                }
                DeskOutput::Engine(group, input) => {
                    let _ = shards[shard_of(group)].push(ShardInput::Engine(input));
                }
            }
        }
    }
}
