//! Words between replicas: whom they reach here, and which way the answers leave.
//!
//! Invariant: nothing reaches a core that does not come from the node its replica lives on, and
//! is meant for this life of this group.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use raft_core::{
    Append, Entry, EntryKind, GroupId, GroupIncarnation, Input, Membership, Message, Outgoing,
    ReplicaId,
};
use raft_transport::{Envelope, Frame, HeartbeatItem, HeartbeatReplyItem};
use tracing::warn;

use super::io::{Route, Source, TurnOutput};
use super::log_time::LOG_TIME_MAX;
use super::shard_engine::ShardEngine;

/// Whom something is for, and in whose name it speaks.
pub(super) struct Address {
    pub(super) group: GroupId,
    pub(super) incarnation: GroupIncarnation,
    pub(super) from: ReplicaId,
    pub(super) to: ReplicaId,
}

impl From<&Envelope> for Address {
    fn from(envelope: &Envelope) -> Self {
        let (group, incarnation) = (envelope.group, envelope.group_incarnation);
        Self { group, incarnation, from: envelope.from, to: envelope.to }
    }
}

impl From<&HeartbeatItem> for Address {
    fn from(item: &HeartbeatItem) -> Self {
        let (group, incarnation) = (item.group, item.group_incarnation);
        Self { group, incarnation, from: item.from, to: item.to }
    }
}

impl From<&HeartbeatReplyItem> for Address {
    fn from(item: &HeartbeatReplyItem) -> Self {
        let (group, incarnation) = (item.group, item.group_incarnation);
        Self { group, incarnation, from: item.from, to: item.to }
    }
}

impl ShardEngine {
    pub(super) fn on_message(
        &mut self,
        source: Source,
        mut envelope: Envelope,
        out: &mut TurnOutput,
    ) {
        self.hear_clock(source);
        let Some(at) = self.addressee(source, &Address::from(&envelope)) else {
            self.make_room(&envelope, out);
            self.answer_for_the_gone(source, &envelope, out);
            return;
        };
        self.route = source.route;
        if let Message::Append(append) = &mut envelope.message {
            // The entries must be the ones the core is told about.
            let mut index = append.prev_index;
            let mut runs = append.runs.iter().flat_map(|run| {
                std::iter::repeat_n(run.term, usize::try_from(run.count).unwrap_or(usize::MAX))
            });
            let sound = envelope.entries.len() as u64 == append.count()
                && envelope.entries.iter().all(|entry| {
                    index = index.next();
                    entry.index == index
                        && runs.next() == Some(entry.term)
                        // The log refuses these, and a node whose log refuses is lost.
                        && entry.time <= LOG_TIME_MAX
                        && entry.payload.len() as u64 <= raft_storage::ENTRY_BYTES_MAX
                });
            if !sound || !describe(append, &envelope.entries) {
                warn!(group = %envelope.group, peer = %source.node, "append without its entries");
                self.counters.messages_dropped.fetch_add(1, Relaxed);
                return;
            }
            self.end_declining(out);
            let bytes = envelope.entries.iter().map(Entry::cost).sum();
            if bytes > 0 && !self.take_load(bytes) {
                self.decline(at, out);
            }
            self.incoming = envelope.entries;
        }
        if let Message::TimeoutNow(request) = &envelope.message {
            let commit = request.commit;
            self.judge_candidacy(at, commit, out);
        }
        // What is answered like an append goes back the way it came: an earlier way may be gone.
        if matches!(envelope.message, Message::Append(_) | Message::Snapshot(_))
            && let Some(peer) = self.slots[at as usize].peers.get_mut(envelope.from)
        {
            peer.ack_route = Some(source.route);
        }
        let input = Input::Message {
            from: envelope.from,
            from_incarnation: source.incarnation,
            to_incarnation: self.options.incarnation,
            message: envelope.message,
        };
        self.step(at, input, out);
        self.incoming = Vec::new();
    }

    /// Takes a batch of heartbeats, or of their answers. What is for nobody here costs the others
    /// nothing.
    pub(super) fn on_batch<T>(
        &mut self,
        source: Source,
        items: &[T],
        message: impl Fn(&T) -> Message,
        out: &mut TurnOutput,
    ) where
        for<'a> Address: From<&'a T>,
    {
        self.hear_clock(source);
        #[cfg(feature = "sim")]
        let batch = self.batch(source, items);
        for item in items {
            let address = Address::from(item);
            let Some(at) = self.addressee(source, &address) else {
                let unknown = self.slot_of(address.group).is_none();
                if raft_core::planted!(BatchStopsAtUnknownGroup) && unknown {
                    break;
                }
                continue;
            };
            self.route = source.route;
            let input = Input::Message {
                from: address.from,
                from_incarnation: source.incarnation,
                to_incarnation: self.options.incarnation,
                message: message(item),
            };
            self.step(at, input, out);
        }
        #[cfg(feature = "sim")]
        self.show_batch(batch);
    }

    /// Notes what the wall clock of a node shows, before what it says is acted upon: a vote may
    /// make a leader, which goes by the clocks of its voters from its first stamp on.
    fn hear_clock(&mut self, source: Source) {
        if let Some(told) = source.clock {
            let place = self.place_of(source.node);
            self.clocks.hear(place, told);
        }
    }

    /// Finds the group a peer speaks to, if it is here, in this life, and the peer may speak in
    /// that replica's name.
    fn addressee(&mut self, source: Source, address: &Address) -> Option<u32> {
        let &Address { group, incarnation, from, to } = address;
        let at = self.slot_of(group)?;
        let slot = &self.slots[at as usize];
        let same_life =
            slot.incarnation == incarnation || raft_core::planted!(EarlierLifeOfGroupHeard);
        let for_us = same_life && slot.core.replica() == to && from != to;
        let mut known = for_us;
        if for_us && slot.peers.node_of(from) != Some(source.node) {
            let place = self.place_of(source.node);
            let slot = &mut self.slots[at as usize];
            known = slot.peers.admit(from, source.node, place);
            slot.drop_words_to_strangers();
        }
        if !known {
            self.counters.messages_dropped.fetch_add(1, Relaxed);
        }
        known.then_some(at)
    }

    /// Gives a message the way it travels.
    pub(super) fn send(&mut self, at: u32, outgoing: Outgoing, out: &mut TurnOutput) {
        let slot = &self.slots[at as usize];
        let Some(node) = slot.peers.node_of(outgoing.to) else {
            self.counters.messages_dropped.fetch_add(1, Relaxed);
            return;
        };
        let (group, group_incarnation) = (slot.spec.group, slot.incarnation);
        let (from, to) = (slot.core.replica(), outgoing.to);
        match outgoing.message {
            Message::Heartbeat(heartbeat) => {
                let item = HeartbeatItem { group, group_incarnation, from, to, heartbeat };
                out.heartbeats.push((node, item));
            }
            Message::ReadConfirm(heartbeat) => {
                let item = HeartbeatItem { group, group_incarnation, from, to, heartbeat };
                out.read_confirms.push((node, item));
            }
            Message::HeartbeatReply(reply) => {
                let item = HeartbeatReplyItem { group, group_incarnation, from, to, reply };
                match self.route {
                    Route::Control => out.heartbeat_replies.push((node, item)),
                    route @ (Route::Data { .. } | Route::Carried(_)) => {
                        push_reply_item(&mut out.replies, route, item);
                    }
                }
            }
            message @ Message::AppendReply(_) => {
                let envelope =
                    Envelope { group, group_incarnation, from, to, message, entries: Vec::new() };
                // Two leaders may speak in turn; each is answered its own way.
                match slot.peers.get(to).and_then(|peer| peer.ack_route) {
                    Some(route @ (Route::Data { .. } | Route::Carried(_))) => {
                        out.replies.push((route, Frame::Message(envelope)));
                    }
                    Some(Route::Control) | None => out.control.push((node, envelope)),
                }
            }
            // A client waits for these.
            message @ (Message::ReadIndex(_) | Message::ReadIndexReply(_)) => {
                let envelope =
                    Envelope { group, group_incarnation, from, to, message, entries: Vec::new() };
                out.data.push((node, envelope));
            }
            message @ (Message::PreVote(_)
            | Message::PreVoteReply(_)
            | Message::Vote(_)
            | Message::VoteReply(_)
            | Message::Append(_)
            | Message::TimeoutNow(_)
            | Message::TransferRefused(_)
            | Message::Snapshot(_)
            | Message::Recover(_)
            | Message::Fence(_)) => {
                let envelope =
                    Envelope { group, group_incarnation, from, to, message, entries: Vec::new() };
                out.control.push((node, envelope));
            }
        }
    }
}

/// Tells the core of an append what only its entries say: the memberships among them, and the
/// newest time. `false`: one of them is no membership.
fn describe(append: &mut Append, entries: &[Entry]) -> bool {
    append.time = entries.last().map(|entry| entry.time).unwrap_or_default();
    append.configs.clear();
    for entry in entries.iter().filter(|entry| entry.kind == EntryKind::Config) {
        let Ok(membership) = Membership::decode(&entry.payload) else {
            return false;
        };
        append.configs.push((entry.index, Arc::new(membership)));
    }
    true
}

/// Adds an answer to the frame that already goes that way, if the last one does.
fn push_reply_item(replies: &mut Vec<(Route, Frame)>, route: Route, item: HeartbeatReplyItem) {
    if let Some((last, Frame::HeartbeatReplies(items))) = replies.last_mut()
        && *last == route
    {
        items.push(item);
        return;
    }
    replies.push((route, Frame::HeartbeatReplies(vec![item])));
}
