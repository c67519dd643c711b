//! The threads of a node and the order in which they end.

use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam::channel::Sender;
use raft_storage::RoomWait;
use tracing::error;

use super::bulk_thread::BulkInput;
use super::control_thread::ControlInput;
use super::inbox::Inbox;
use super::known_stores::Memo;
use super::shard_thread::ShardInput;

/// In the order in which they are stopped.
#[derive(Default)]
pub(super) struct Threads {
    pub(super) shards: Vec<JoinHandle<()>>,
    pub(super) appliers: Vec<JoinHandle<()>>,
    pub(super) lanes: Vec<JoinHandle<()>>,
    pub(super) snapshots: Vec<JoinHandle<()>>,
    pub(super) log: Vec<JoinHandle<()>>,
    /// Whether those of the log wait for room.
    pub(super) room: RoomWait,
    /// Who remembers peers, and what it is to write.
    pub(super) memo: Option<(Arc<Memo>, JoinHandle<()>)>,
    /// Closes the port.
    pub(super) port: Option<Box<dyn FnOnce() + Send>>,
    /// Who looks at the files of certificates; it ends with its sender.
    pub(super) certificates: Option<(Sender<()>, JoinHandle<()>)>,
}

impl Threads {
    pub(super) fn stop(
        self,
        shards: &[Arc<Inbox<ShardInput>>],
        control: &Inbox<ControlInput>,
        bulk: &Inbox<BulkInput>,
    ) {
        for shard in shards {
            let _ = shard.push(ShardInput::Stop);
        }
        // With the shards go the senders that the apply workers, the log and its reader wait on.
        join(self.shards);
        join(self.appliers);
        let _ = control.push(ControlInput::Stop);
        let _ = bulk.push(BulkInput::Stop);
        if let Some(close) = self.port {
            close();
        }
        join(self.lanes);
        if let Some((asking, thread)) = self.certificates {
            drop(asking);
            join(vec![thread]);
        }
        // With shards and lanes gone nobody can ask it any more.
        join(self.snapshots);
        // It may wait for ever for room, and nobody waits for it any more.
        self.room.give_up();
        join(self.log);
        if let Some((memo, thread)) = self.memo {
            memo.close();
            join(vec![thread]);
        }
    }
}

fn join(threads: Vec<JoinHandle<()>>) {
    for thread in threads {
        let name = thread.thread().name().unwrap_or("?").to_owned();
        if thread.join().is_err() {
            error!(thread = name, "a thread of this node panicked");
        }
    }
}
