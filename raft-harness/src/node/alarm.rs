//! What happens when a thread of the node panics: the node stops promising.
//!
//! A shard without its log, or a group without its state machine, would take requests and never
//! answer them. So whatever breaks one of these threads ends the node as a failed log does: all
//! that is owed is answered, and [`NodeHost::failure`](super::NodeHost::failure) says which.

use std::sync::Arc;

use super::inbox::Inbox;
use super::shard_thread::ShardInput;

/// To be held by a thread for as long as it runs.
pub(super) struct Alarm {
    thread: String,
    shards: Arc<[Arc<Inbox<ShardInput>>]>,
}

impl Alarm {
    pub(super) fn new(thread: &str, shards: &Arc<[Arc<Inbox<ShardInput>>]>) -> Self {
        Self { thread: thread.to_owned(), shards: Arc::clone(shards) }
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for shard in self.shards.iter() {
                let _ = shard.push(ShardInput::LogFailed(format!("{} panicked", self.thread)));
            }
        }
    }
}
