//! What happens on a node, told to whoever wants to know.
//!
//! One bounded channel for all listeners. Nobody is waited for: who falls behind by more than
//! [`EVENTS_MAX`] loses the oldest and is told how many. Until somebody listens there is no channel.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use parking_lot::RwLock;
use raft_core::{GroupId, LogIndex, Membership, NodeId};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};

/// So many events wait for a listener that is slow.
pub(crate) const EVENTS_MAX: usize = 8192;

/// Something that happened, as this node saw it. Events of one group come in order.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// Another node leads a group, or nobody known does.
    Leader {
        /// Which group.
        group: GroupId,
        /// Who leads.
        leader: Option<NodeId>,
    },
    /// Who belongs to a group has changed. A membership acts from where it stands in the log, so this may
    /// be told of one that is replaced before it is committed.
    Members {
        /// Which group.
        group: GroupId,
        /// All members, as what they are.
        membership: Arc<Membership>,
    },
    /// A snapshot of a group is durable here.
    SnapshotTaken {
        /// Which group.
        group: GroupId,
        /// The last entry it stands for.
        index: LogIndex,
        /// Its length.
        bytes: u64,
    },
    /// A group takes no part on this node any more; its other replicas may go on.
    Faulted {
        /// Which group.
        group: GroupId,
        /// Why, in words.
        why: String,
    },
    /// The replica of a group left this node.
    Removed {
        /// Which group.
        group: GroupId,
    },
    /// This node acknowledges nothing any more and should be stopped. Told once.
    NodeFailed {
        /// Why, in words.
        why: String,
    },
    /// The listener was too slow: so many events before the next are lost. Whoever keeps a picture of the
    /// node looks at its [status](crate::NodeHost::status) anew.
    Lagged {
        /// How many.
        missed: u64,
    },
}

/// Events from the moment of [`NodeHost::events`](crate::NodeHost::events) on. At most 8,192 wait; beyond
/// that the oldest are lost, and [`Event::Lagged`] says so.
pub struct Events(broadcast::Receiver<Event>);

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").field("waiting", &self.0.len()).finish()
    }
}

impl Events {
    /// The next event; `None` once the node has stopped and all were told. Dropping the future loses
    /// nothing.
    pub async fn next(&mut self) -> Option<Event> {
        match self.0.recv().await {
            Ok(event) => Some(event),
            Err(RecvError::Lagged(missed)) => Some(Event::Lagged { missed }),
            Err(RecvError::Closed) => None,
        }
    }

    /// Waits for the next event on a thread that runs no async code.
    ///
    /// # Panics
    /// If called from within an async runtime.
    pub fn next_blocking(&mut self) -> Option<Event> {
        match self.0.blocking_recv() {
            Ok(event) => Some(event),
            Err(RecvError::Lagged(missed)) => Some(Event::Lagged { missed }),
            Err(RecvError::Closed) => None,
        }
    }

    /// An event that has happened already, if one waits.
    pub fn try_next(&mut self) -> Option<Event> {
        match self.0.try_recv() {
            Ok(event) => Some(event),
            Err(TryRecvError::Lagged(missed)) => Some(Event::Lagged { missed }),
            Err(TryRecvError::Empty | TryRecvError::Closed) => None,
        }
    }
}

/// Tells whoever listens.
#[derive(Debug, Default)]
pub(crate) struct EventHub {
    channel: RwLock<Channel>,
    has_failed: AtomicBool,
}

#[derive(Debug, Default)]
enum Channel {
    /// Nobody has listened yet. Its room for events is taken when somebody does.
    #[default]
    Unheard,
    Open(broadcast::Sender<Event>),
    /// The node has stopped.
    Ended,
}

impl EventHub {
    pub(crate) fn listen(&self) -> Events {
        let mut channel = self.channel.write();
        if let Channel::Unheard = &*channel {
            *channel = Channel::Open(broadcast::Sender::new(EVENTS_MAX));
        }
        Events(match &*channel {
            Channel::Open(sender) => sender.subscribe(),
            // There is nothing to come, which a receiver without a sender says.
            Channel::Unheard | Channel::Ended => broadcast::channel(1).1,
        })
    }

    pub(crate) fn tell(&self, event: Event) {
        if let Channel::Open(sender) = &*self.channel.read() {
            // An error says that nobody listens any more.
            let _ = sender.send(event);
        }
    }

    /// Several threads may find that the node failed; it is told once.
    pub(crate) fn tell_failure(&self, why: &str) {
        if !self.has_failed.swap(true, Relaxed) {
            self.tell(Event::NodeFailed { why: why.to_owned() });
        }
    }

    /// The node has stopped.
    pub(crate) fn end(&self) {
        *self.channel.write() = Channel::Ended;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(group: u32) -> Event {
        Event::Removed { group: GroupId::new(group) }
    }

    #[test]
    fn who_is_slow_loses_the_oldest_and_is_told_how_many() {
        let hub = EventHub::default();
        hub.tell(event(1));
        let (mut slow, mut quick) = (hub.listen(), hub.listen());
        assert_eq!(quick.try_next(), None, "what was before is not told");
        let count = EVENTS_MAX as u32 + 5;
        for group in 0..count {
            hub.tell(event(group));
            assert_eq!(quick.try_next(), Some(event(group)));
        }
        assert_eq!(slow.try_next(), Some(Event::Lagged { missed: 5 }));
        for group in 5..count {
            assert_eq!(slow.try_next(), Some(event(group)));
        }
        assert_eq!(slow.try_next(), None);
    }

    #[test]
    fn a_failure_is_told_once_and_the_end_comes_after_everything() {
        let hub = EventHub::default();
        let mut events = hub.listen();
        hub.tell_failure("the log");
        hub.tell_failure("and a thread");
        hub.end();
        hub.tell(event(1));
        assert_eq!(events.next_blocking(), Some(Event::NodeFailed { why: "the log".to_owned() }));
        assert_eq!(events.next_blocking(), None);
        assert_eq!(hub.listen().next_blocking(), None);
    }
}
