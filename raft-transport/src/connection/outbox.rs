//! What leaves on a connection, and in which order.
//!
//! Short frames go at once; long ones go in chunks, one of each in turn, and only as fast as the
//! stream takes them: so a short frame waits for two chunks, never for a long message. Short ones
//! take at most half of the bytes while long ones wait.
//!
//! Invariants:
//! - Frames that have an order keep it: a log's appends, a snapshot's bytes.
//! - Of messages above a quarter of the window one is begun, and goes on once it is granted; the
//!   others that are begun take half of the window together. See [`Share`].

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use raft_core::GroupId;

use super::config::{LONG_MESSAGES_MAX, LaneConfig};
use super::credit::{Granted, Share, shared_max};
use super::urgent::UrgentQueue;
use crate::wire::chunk::{Chunk, ChunkEnd, STREAMS_MAX, put_chunk};
use crate::wire::frame::Frame;
use crate::wire::order::Order;
use crate::wire::transmit::Transmit;

/// Chunks that wait for the stream ahead of whatever comes next.
const AHEAD: u64 = 2;

/// A frame that leaves later, or in pieces.
#[derive(Debug)]
struct Long {
    order: Option<Order>,
    /// What is left of its bytes.
    rest: Transmit,
    total: u64,
    sent: u64,
    stream: u8,
    phase: LongPhase,
    /// To be given up as soon as that can be told.
    is_abandoned: bool,
    /// For who looks on.
    told: Option<Box<Frame>>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum LongPhase {
    /// In chunks, on the window's credit.
    Shares,
    /// Announced.
    Asked,
    /// In chunks, with a grant of its own.
    Alone,
}

#[derive(Debug, Default)]
pub(super) struct Outbox {
    pub(super) transmit: Transmit,
    /// Bytes that ever came into `transmit`.
    pub(super) queued_total: u64,
    /// The largest chunk's data; zero: nothing goes in chunks.
    chunk_bytes: u64,
    /// How many that share the window may be begun.
    sharing_max: usize,
    /// Begun; whose turn it is comes first.
    open: VecDeque<Long>,
    /// Not begun, oldest first.
    waiting: VecDeque<Long>,
    /// How many of both have an order.
    held: BTreeMap<Order, usize>,
    /// Bytes of both that are not in `transmit` yet.
    bytes: u64,
    /// Of these, of short frames that wait only because of their order.
    behind: u64,
    /// Whether one of those that wait might begin, so that nobody looks in vain.
    may_begin: bool,
    /// Bytes of short frames that went while long ones waited, less those of chunks.
    owed: u64,
    urgent: UrgentQueue,
    /// Chunks that were made.
    pub(super) chunks: u64,
    /// Frames whose last byte is in `transmit`, for who looks on.
    pub(super) told: Vec<Frame>,
}

impl Outbox {
    /// Of frames whose chunks carry so many bytes; zero: none goes in chunks. At most
    /// `sharing_max` that share the window are under way at once.
    pub(super) fn new(chunk_bytes: u64, sharing_max: usize) -> Self {
        let chunk_bytes = match chunk_bytes {
            0 => 0,
            some => some.clamp(*LaneConfig::CHUNK_BYTES.start(), *LaneConfig::CHUNK_BYTES.end()),
        };
        // None at all would never end.
        let sharing_max = sharing_max.clamp(1, LONG_MESSAGES_MAX);
        Self { chunk_bytes, sharing_max, ..Self::default() }
    }

    /// Bytes of long frames that have not begun or are not through.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn chunk_bytes(&self) -> u64 {
        self.chunk_bytes
    }

    /// Of these, what others must make room for: all but the one message that has a grant of its
    /// own, or waits for it.
    pub(super) fn crowding(&self) -> u64 {
        let alone = self.open.iter().filter(|long| long.phase != LongPhase::Shares);
        self.bytes - alone.map(|long| long.rest.len()).sum::<u64>()
    }

    /// Of these, bytes of short frames that wait for a long one of their order.
    pub(super) fn behind(&self) -> u64 {
        self.behind
    }

    /// Whether a frame of so many bytes, or a few less, leaves at once.
    pub(super) fn goes_at_once(&self, bytes: u64, order: Option<Order>) -> bool {
        self.is_short(bytes) && order.is_none_or(|order| !self.held.contains_key(&order))
    }

    fn is_short(&self, bytes: u64) -> bool {
        self.chunk_bytes == 0 || bytes <= self.chunk_bytes
    }

    /// Bytes came into `transmit` as a frame of its own.
    pub(super) fn went(&mut self, bytes: u64) {
        self.queued_total += bytes;
        if self.bytes > 0 {
            self.owed += bytes;
        }
    }

    /// As [`went`](Self::went), of a frame that may not wait.
    pub(super) fn went_urgently(&mut self, bytes: u64) {
        self.went(bytes);
        let written = self.written();
        self.urgent.push(self.queued_total, bytes, written);
    }

    /// Bytes in `transmit` of frames that may not wait.
    pub(super) fn urgent_bytes(&self) -> u64 {
        self.urgent.bytes(self.written())
    }

    fn written(&self) -> u64 {
        self.queued_total.saturating_sub(self.transmit.len())
    }

    /// Takes a frame that goes in chunks, or has to wait for one that does.
    pub(super) fn take(&mut self, rest: Transmit, order: Option<Order>, told: Option<Box<Frame>>) {
        let (total, sent, stream) = (rest.len(), 0, 0);
        self.bytes += total;
        self.may_begin = true;
        if self.is_short(total) {
            self.behind += total;
        }
        if let Some(order) = order {
            *self.held.entry(order).or_default() += 1;
        }
        let (phase, is_abandoned) = (LongPhase::Shares, false);
        let long = Long { order, rest, total, sent, stream, phase, is_abandoned, told };
        self.waiting.push_back(long);
    }

    /// Moves as much of the long frames into `transmit` as is good there.
    pub(super) fn fill(&mut self, granted: &mut Granted) {
        if self.open.is_empty() && self.waiting.is_empty() {
            return;
        }
        loop {
            self.begin(granted);
            let ahead = AHEAD * self.chunk_bytes;
            let is_full = self.transmit.len() >= ahead && self.owed < self.chunk_bytes;
            if is_full {
                break;
            }
            if !self.put_next(granted) {
                // None may go now, so nothing is taken from any.
                self.owed = 0;
                break;
            }
        }
        if self.bytes == 0 {
            self.owed = 0;
        }
    }

    /// The long message that was announced may go on. `false` if none was, of that length.
    pub(super) fn grant(&mut self, bytes: u64) -> bool {
        let asked = |long: &&mut Long| long.phase == LongPhase::Asked && long.total == bytes;
        let long = self.open.iter_mut().find(asked);
        long.map(|long| long.phase = LongPhase::Alone).is_some()
    }

    /// Gives up the appends of a group that are not through. Returns how many those are.
    pub(super) fn abandon(&mut self, group: GroupId, granted: &mut Granted) -> usize {
        if !self.held.contains_key(&Order::Log(group)) {
            return 0;
        }
        let of_group = |long: &Long| long.order == Some(Order::Log(group)) && !long.is_abandoned;
        let (gone, kept): (VecDeque<_>, _) = self.waiting.drain(..).partition(of_group);
        self.waiting = kept;
        gone.iter().for_each(|long| self.leaves(long));
        let mut abandoned = gone.len();
        let mut at_rest = Vec::new();
        for long in self.open.iter_mut().filter(|long| of_group(long)) {
            long.is_abandoned = true;
            abandoned += 1;
            if long.phase == LongPhase::Asked {
                // Its grant may be on its way, so it stays; but nobody need wait for it.
                long.rest = Transmit::new();
                long.told = None;
                at_rest.extend(long.order.take());
            }
        }
        at_rest.into_iter().for_each(|order| self.lets_pass(order));
        self.bytes = self.open.iter().chain(&self.waiting).map(|long| long.rest.len()).sum();
        self.fill(granted);
        abandoned
    }

    /// Begins what may be begun, oldest first, but nothing before what it must not overtake.
    fn begin(&mut self, granted: &mut Granted) {
        if !self.may_begin {
            return;
        }
        self.may_begin = false;
        let mut at = 0;
        let (mut shared_full, mut alone_taken) = (false, false);
        let mut before: BTreeSet<Order> = self.open.iter().filter_map(|long| long.order).collect();
        while at < self.waiting.len() {
            let long = &self.waiting[at];
            let is_next = long.order.is_none_or(|order| !before.contains(&order));
            let may = is_next
                && match self.share(long.total, granted) {
                    None => true,
                    Some(Share::Window) => {
                        shared_full |= !self.has_room(long.total, granted);
                        !shared_full
                    }
                    Some(Share::Alone) => {
                        alone_taken |= self.has_alone();
                        !alone_taken
                    }
                };
            let begins = may && granted.left_to_share() > 0;
            self.may_begin |= may && !begins;
            if begins {
                let Some(long) = self.waiting.remove(at) else { return };
                let opened = self.open.len();
                let order = long.order;
                self.begin_one(long, granted);
                if self.open.len() > opened {
                    before.extend(order);
                }
            } else {
                before.extend(long.order);
                at += 1;
            }
        }
    }

    /// A frame neither waits any more nor is under way: it went, or is given up.
    fn leaves(&mut self, long: &Long) {
        self.may_begin = true;
        if self.is_short(long.total) {
            self.behind -= long.total;
        }
        if let Some(order) = long.order {
            self.lets_pass(order);
        }
    }

    fn lets_pass(&mut self, order: Order) {
        self.may_begin = true;
        if let Some(count) = self.held.get_mut(&order) {
            *count -= 1;
            if *count == 0 {
                self.held.remove(&order);
            }
        }
    }

    /// `None` for a frame that is short enough to go in one.
    fn share(&self, total: u64, granted: &Granted) -> Option<Share> {
        if self.chunk_bytes == 0 || total <= self.chunk_bytes {
            return None;
        }
        match granted {
            Granted::Window { window, .. } => Some(Share::of(total, *window)),
            Granted::Unlimited => Some(Share::Window),
        }
    }

    /// Whether another message of so many bytes may be begun that shares the window. What needs
    /// no credit is bounded by its number: one.
    fn has_room(&self, total: u64, granted: &Granted) -> bool {
        match granted {
            Granted::Unlimited => self.open.is_empty(),
            Granted::Window { window, .. } => {
                let sharing = self.open.iter().filter(|long| long.phase == LongPhase::Shares);
                let (count, taken) =
                    sharing.fold((0, 0), |(count, taken), long| (count + 1, taken + long.total));
                taken + total <= shared_max(*window)
                    && count < self.sharing_max
                    && self.open.len() < LONG_MESSAGES_MAX
            }
        }
    }

    fn has_alone(&self) -> bool {
        !raft_core::planted!(TwoLongBegun)
            && self.open.iter().any(|long| long.phase != LongPhase::Shares)
    }

    fn begin_one(&mut self, mut long: Long, granted: &mut Granted) {
        let Some(share) = self.share(long.total, granted) else {
            self.leaves(&long);
            self.bytes -= long.total;
            granted.spend(long.total);
            self.queued_total += long.total;
            self.transmit.append(long.rest);
            self.told.extend(long.told.map(|told| *told));
            return;
        };
        let is_free = |stream: &u8| !self.open.iter().any(|long| long.stream == *stream);
        long.stream = (0..STREAMS_MAX).find(is_free).unwrap_or(0);
        if share == Share::Alone {
            long.phase = LongPhase::Asked;
            self.put(&mut long, 0, ChunkEnd::More, granted);
        }
        self.open.push_back(long);
    }

    /// Puts the next chunk into `transmit`; `false` if there is none that may go.
    fn put_next(&mut self, granted: &mut Granted) -> bool {
        for _ in 0..self.open.len() {
            let Some(mut long) = self.open.pop_front() else { return false };
            if long.phase == LongPhase::Asked {
                self.open.push_back(long);
                continue;
            }
            if long.is_abandoned {
                self.bytes -= long.rest.len();
                if long.sent > 0 || long.phase == LongPhase::Alone {
                    long.rest = Transmit::new();
                    self.put(&mut long, 0, ChunkEnd::Abandoned, granted);
                }
                self.ends(&long, granted);
                return true;
            }
            if granted.left_to_share() == 0 {
                self.open.push_front(long);
                return false;
            }
            let left = long.rest.len();
            let count = left.min(self.chunk_bytes);
            let end = if count == left { ChunkEnd::Last } else { ChunkEnd::More };
            self.put(&mut long, count, end, granted);
            self.bytes -= count;
            if end == ChunkEnd::Last {
                self.ends(&long, granted);
                self.told.extend(long.told.map(|told| *told));
            } else {
                self.open.push_back(long);
            }
            return true;
        }
        false
    }

    fn ends(&mut self, long: &Long, granted: &mut Granted) {
        self.leaves(long);
        if long.phase == LongPhase::Alone {
            granted.set_long(None);
        }
    }

    fn put(&mut self, long: &mut Long, count: u64, end: ChunkEnd, granted: &mut Granted) {
        let is_announced = matches!(long.phase, LongPhase::Alone);
        let is_first = long.sent == 0 && !is_announced && end != ChunkEnd::Abandoned;
        let head = Chunk {
            stream: long.stream,
            offset: long.sent,
            total: is_first.then_some(long.total),
            end,
            data: Bytes::new(),
        };
        let before = self.transmit.len();
        let count_in_memory = usize::try_from(count).unwrap_or(usize::MAX);
        put_chunk(&head, &mut long.rest, count_in_memory, &mut self.transmit);
        let bytes = self.transmit.len() - before;
        long.sent += count;
        self.queued_total += bytes;
        self.owed = self.owed.saturating_sub(bytes);
        self.chunks += 1;
        if end != ChunkEnd::Abandoned {
            granted.spend(bytes);
        }
    }
}
