//! What happens when a thread of the node panics: the node stops promising.
//!
//! A shard without its log would take requests and never answer them. So whatever breaks one of these
//! threads ends the node as a failed log does: all that is owed is answered, and
//! [`NodeHost::failure`](super::NodeHost::failure) says which thread it was. A state machine breaks
//! none: what it does is [caught](crate::engine::panics), and its group's affair.

use std::sync::Arc;

use parking_lot::Mutex;

use super::inbox::Inbox;
use super::shard_thread::ShardInput;
use crate::event::EventHub;

/// To be held by a thread for as long as it runs.
pub(super) struct Alarm {
    thread: String,
    shards: Arc<[Arc<Inbox<ShardInput>>]>,
    failure: Arc<Mutex<Option<String>>>,
    hub: Arc<EventHub>,
}

impl Alarm {
    pub(super) fn new(
        thread: &str,
        shards: &Arc<[Arc<Inbox<ShardInput>>]>,
        failure: &Arc<Mutex<Option<String>>>,
        hub: &Arc<EventHub>,
    ) -> Self {
        let (shards, failure) = (Arc::clone(shards), Arc::clone(failure));
        Self { thread: thread.to_owned(), shards, failure, hub: Arc::clone(hub) }
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let why = format!("{} panicked", self.thread);
            // First of all, and not by way of the shards: this may have been the only one.
            self.failure.lock().get_or_insert_with(|| why.clone());
            self.hub.tell_failure(&why);
            for shard in self.shards.iter() {
                let _ = shard.push(ShardInput::LogFailed(why.clone()));
            }
        }
    }
}
