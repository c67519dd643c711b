//! Heartbeat batching: one frame for all groups a node leads, however many.
//!
//! The body is a list of items, sorted by group, each told by how it differs from the one before.
//! An item starts with a byte of flags that says which fields follow; what a flag leaves out is
//! what an idle group has anyway: the next group id, the same incarnation and term as the group
//! before, sent in the same moment as it, replicas named as their nodes, no read waiting.
//!
//! Invariant: each item keeps its own group's term; one stale group must not hide behind another.

use bytes::{BufMut, BytesMut};
use raft_core::{
    GroupId, GroupIncarnation, Heartbeat, HeartbeatReply, LogIndex, Micros, NodeId, ReplicaId,
    Rest, Term,
};

use crate::wire::encode::OpenFrame;
use crate::wire::frame::{
    BATCH_BODY_MAX, Ends, FrameError, FrameKind, HEADER_LEN, HeartbeatItem, HeartbeatReplyItem,
};
use crate::wire::transmit::Transmit;
use crate::wire::varint::{put_varint, take_varint};

/// The group id less the one before follows; it is not 1.
const GROUP: u8 = 1;
/// The incarnation follows; it is not that of the item before.
const INCARNATION: u8 = 1 << 1;
/// The term follows; it is not that of the item before.
const TERM: u8 = 1 << 2;
/// The sender's replica id follows; it is not its node's id.
const FROM: u8 = 1 << 3;
/// The receiver's replica id follows; it is not its node's id.
const TO: u8 = 1 << 4;
/// The read sequence follows; it is not zero.
const READ_SEQ: u8 = 1 << 5;
/// When it left follows; it is not when the item before left. Those of one turn share it.
const SENT: u8 = 1 << 6;
/// A second byte of flags follows; heartbeats only.
const MORE: u8 = 1 << 7;

/// In the second byte: the leader goes to sleep.
const REST: u8 = 1;
/// In the second byte: by how much what a quorum has on disk is behind the commit index follows it.
const LAG: u8 = 1 << 1;

/// The most bytes an item can take: flags, two numbers of five bytes, seven of ten.
const ITEM_BYTES_MAX: usize = 82;

/// What both kinds of items have in common.
pub(crate) trait Item: Sized {
    fn parts(&self) -> Parts;
    fn from_parts(parts: Parts) -> Self;
    /// Whether it has a commit index, and may say that its leader goes to sleep.
    const IS_BEAT: bool;
}

#[derive(Clone, Copy)]
pub(crate) struct Parts {
    group: GroupId,
    group_incarnation: GroupIncarnation,
    from: ReplicaId,
    to: ReplicaId,
    term: Term,
    commit: LogIndex,
    quorum_durable: LogIndex,
    read_seq: u64,
    sent: Micros,
    rest: Rest,
}

impl Item for HeartbeatItem {
    const IS_BEAT: bool = true;

    fn parts(&self) -> Parts {
        Parts {
            group: self.group,
            group_incarnation: self.group_incarnation,
            from: self.from,
            to: self.to,
            term: self.heartbeat.term,
            commit: self.heartbeat.commit,
            quorum_durable: self.heartbeat.quorum_durable,
            read_seq: self.heartbeat.read_seq,
            sent: self.heartbeat.sent,
            rest: self.heartbeat.rest,
        }
    }

    fn from_parts(p: Parts) -> Self {
        let heartbeat = Heartbeat {
            term: p.term,
            commit: p.commit,
            quorum_durable: p.quorum_durable,
            read_seq: p.read_seq,
            sent: p.sent,
            rest: p.rest,
        };
        Self {
            group: p.group,
            group_incarnation: p.group_incarnation,
            from: p.from,
            to: p.to,
            heartbeat,
        }
    }
}

impl Item for HeartbeatReplyItem {
    const IS_BEAT: bool = false;

    fn parts(&self) -> Parts {
        Parts {
            group: self.group,
            group_incarnation: self.group_incarnation,
            from: self.from,
            to: self.to,
            term: self.reply.term,
            commit: LogIndex::ZERO,
            quorum_durable: LogIndex::ZERO,
            read_seq: self.reply.read_seq,
            sent: self.reply.sent,
            rest: Rest::Awake,
        }
    }

    fn from_parts(p: Parts) -> Self {
        let reply = HeartbeatReply { term: p.term, read_seq: p.read_seq, sent: p.sent };
        Self {
            group: p.group,
            group_incarnation: p.group_incarnation,
            from: p.from,
            to: p.to,
            reply,
        }
    }
}

/// The item before, as the next one is told against it.
#[derive(Clone, Copy, Default)]
struct Previous {
    group: u32,
    incarnation: u32,
    term: u64,
    sent: u64,
}

/// Queues the items, sorted, in as many frames as they need, none of them begun behind `budget` bytes but
/// the first. Says how many frames that were, and how many items at the end of the list are left.
pub(crate) fn encode<T: Item>(
    kind: FrameKind,
    items: &mut [T],
    ends: Ends,
    (frame_bytes_max, budget): (u64, u64),
    out: &mut Transmit,
) -> (u64, usize) {
    if !items.is_sorted_by_key(|item| item.parts().group) {
        items.sort_by_key(|item| item.parts().group);
    }
    let body_max = usize::try_from(frame_bytes_max.saturating_sub(HEADER_LEN as u64))
        .unwrap_or(usize::MAX)
        .min(BATCH_BODY_MAX as usize);
    let tail = out.tail();
    let before = tail.len();
    let mut frames = 0;
    let mut items = items.iter().peekable();
    let mut previous = Previous::default();
    while items.peek().is_some() {
        let open = OpenFrame::new(kind, 0, GroupId::new(0), tail);
        if !raft_core::planted!(SplitKeepsPrevious) {
            previous = Previous::default();
        }
        // At least one item per frame, so that a tiny limit cannot keep us here for ever.
        for item in items.by_ref() {
            put_item::<T>(tail, &item.parts(), &mut previous, ends);
            if open.body_len(tail) + ITEM_BYTES_MAX > body_max {
                break;
            }
        }
        open.finish(0, tail);
        frames += 1;
        if (tail.len() - before) as u64 >= budget && !raft_core::planted!(BatchPassesWindow) {
            break;
        }
    }
    let left = items.len();
    out.grown(before);
    (frames, left)
}

/// Reads the items of a body whose checksum has been verified.
pub(crate) fn decode<T: Item>(
    kind: FrameKind,
    mut body: &[u8],
    ends: Ends,
) -> Result<Vec<T>, FrameError> {
    // The typical item takes four bytes and more; a body of smaller ones makes the list grow.
    let mut items = Vec::with_capacity(body.len() / 4 + 1);
    let mut previous = Previous::default();
    while !body.is_empty() {
        let parts = take_item::<T>(&mut body, &mut previous, ends);
        items.push(T::from_parts(parts.ok_or(FrameError::Malformed { kind })?));
    }
    Ok(items)
}

fn put_item<T: Item>(out: &mut BytesMut, item: &Parts, previous: &mut Previous, ends: Ends) {
    let group_delta = item.group.get() - previous.group;
    let flag = |set: bool, flag: u8| if set { flag } else { 0 };
    let flags = flag(group_delta != 1, GROUP)
        | flag(item.group_incarnation.get() != previous.incarnation, INCARNATION)
        | flag(item.term.get() != previous.term, TERM)
        | flag(!is_of(item.from, ends.local), FROM)
        | flag(!is_of(item.to, ends.remote), TO)
        | flag(item.read_seq != 0, READ_SEQ)
        | flag(item.sent.get() != previous.sent, SENT);
    // What is beyond the commit index says nothing.
    let lag = item.commit.get().saturating_sub(item.quorum_durable.get());
    let more = flag(item.rest == Rest::Quiesce, REST) | flag(lag > 0, LAG);
    out.put_u8(flags | flag(more != 0, MORE));
    if more != 0 {
        out.put_u8(more);
    }
    let fields = [
        (GROUP, u64::from(group_delta)),
        (INCARNATION, u64::from(item.group_incarnation.get())),
        (TERM, item.term.get()),
        (FROM, item.from.get()),
        (TO, item.to.get()),
        (READ_SEQ, item.read_seq),
        (SENT, item.sent.get()),
    ];
    for (flag, value) in fields {
        if flags & flag != 0 {
            put_varint(out, value);
        }
    }
    if T::IS_BEAT {
        put_varint(out, item.commit.get());
        if lag > 0 {
            put_varint(out, lag);
        }
    }
    *previous = Previous {
        group: item.group.get(),
        incarnation: item.group_incarnation.get(),
        term: item.term.get(),
        sent: item.sent.get(),
    };
}

fn take_item<T: Item>(body: &mut &[u8], previous: &mut Previous, ends: Ends) -> Option<Parts> {
    let (&flags, rest) = body.split_first()?;
    *body = rest;
    let mut more = 0;
    if flags & MORE != 0 {
        let (&second, rest) = body.split_first()?;
        // One way to say a thing: an empty second byte would be another.
        if !T::IS_BEAT || second == 0 || second & !(REST | LAG) != 0 {
            return None;
        }
        *body = rest;
        more = second;
    }
    let mut field = |flag: u8, otherwise: u64| {
        if flags & flag == 0 { Some(otherwise) } else { take_varint(body) }
    };
    let group_delta = u32::try_from(field(GROUP, 1)?).ok()?;
    let incarnation = u32::try_from(field(INCARNATION, u64::from(previous.incarnation))?).ok()?;
    let term = field(TERM, previous.term)?;
    // The sender's `from` is the remote end here.
    let from = field(FROM, ends.remote.get())?;
    let to = field(TO, ends.local.get())?;
    let read_seq = field(READ_SEQ, 0)?;
    let sent = field(SENT, previous.sent)?;
    let commit = if T::IS_BEAT { take_varint(body)? } else { 0 };
    let lag = if more & LAG == 0 { 0 } else { take_varint(body)? };
    let quorum_durable = commit.checked_sub(lag)?;
    let group = previous.group.checked_add(group_delta)?;
    *previous = Previous { group, incarnation, term, sent };
    Some(Parts {
        group: GroupId::new(group),
        group_incarnation: GroupIncarnation::new(incarnation),
        from: ReplicaId::new(from),
        to: ReplicaId::new(to),
        term: Term::new(term),
        commit: LogIndex::new(commit),
        quorum_durable: LogIndex::new(quorum_durable),
        read_seq,
        sent: Micros::new(sent),
        rest: if more & REST == 0 { Rest::Awake } else { Rest::Quiesce },
    })
}

fn is_of(replica: ReplicaId, node: NodeId) -> bool {
    replica.get() == node.get()
}

#[cfg(test)]
mod tests;
