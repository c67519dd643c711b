//! Frames of whoever uses the lanes for a protocol of their own: opaque to them.
//!
//! Two shapes. A frame of one group has a body and payloads, both as the user likes; long ones go in
//! chunks, and those of a group keep their order. A batch has a few bytes of each of many groups:
//! what a protocol says of all of them in every interval, in one frame per peer.

use bytes::{BufMut, Bytes, BytesMut};
use raft_core::GroupId;

use crate::lane::LaneClass;
use crate::wire::encode::OpenFrame;
use crate::wire::frame::{BATCH_BODY_MAX, BESIDE, FrameError, FrameKind, HEADER_LEN};
use crate::wire::transmit::Transmit;
use crate::wire::varint::{put_varint, take_varint, varint_len};

/// Most payloads of one frame.
pub const USER_PAYLOADS_MAX: usize = 1 << 16;

/// Most bytes of one group's item in a batch: what leaves room for others.
pub const USER_ITEM_MAX: usize = 4096;

/// Class `Data`; without this and the next one, `Control`.
pub(crate) const FLAG_DATA: u16 = 1;
/// Class `Bulk`.
pub(crate) const FLAG_BULK: u16 = 2;
/// A newer frame of the kind and group takes the place of this one.
pub(crate) const FLAG_REPLACES: u16 = 4;

/// Behind the length of a payload.
const CHECKSUM_LEN: u64 = 4;
/// The fewest bytes that describe a payload: its length and its checksum.
const DESCRIPTION_MIN: usize = 5;

/// Which of the user's kinds of frames; 64 to 95 on the wire.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct UserKind(u8);

impl UserKind {
    const FIRST: u8 = 64;

    /// How many there are.
    pub const COUNT: u8 = 32;

    /// The kind with this number, from 0 on; `None` from [`COUNT`](Self::COUNT) on.
    pub const fn new(number: u8) -> Option<Self> {
        if number < Self::COUNT { Some(Self(number)) } else { None }
    }

    /// Its number, from 0 on.
    pub const fn number(self) -> u8 {
        self.0
    }

    pub(crate) const fn code(self) -> u8 {
        Self::FIRST + self.0
    }

    pub(crate) const fn from_code(code: u8) -> Option<Self> {
        if code < Self::FIRST { None } else { Self::new(code - Self::FIRST) }
    }
}

/// A message of the user's protocol.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct UserFrame {
    /// Which of the user's kinds.
    pub kind: UserKind,
    /// Whom it is about. Frames of a group keep their order, but for those that are replaced.
    pub group: GroupId,
    /// What it needs of its lane: who sends it asks the [layout](crate::LaneLayout::lane) which lane
    /// that is, and who receives it is told.
    pub class: LaneClass,
    /// Whether a newer one of the kind and group makes this one superfluous. Such a frame never
    /// finds a lane full: it waits, until it leaves or is replaced. At most
    /// [`REPLACEABLE_MAX`](crate::REPLACEABLE_MAX) wait on a connection. It has no order.
    pub newer_replaces: bool,
    /// At most [`LaneConfig::user_body_max`](crate::LaneConfig::user_body_max) bytes, here and at its
    /// receiver, with one to three bytes for their number and five to nine for each payload. What
    /// of a long frame is looked at.
    pub body: Bytes,
    /// What is only passed on. Large ones are not copied on their way out; what comes in shares one
    /// buffer with the body.
    pub payloads: Vec<Bytes>,
}

/// What a batch has of one group.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct UserItem {
    /// The group; a batch arrives sorted by it, and may have several items of one.
    pub group: GroupId,
    /// At most [`USER_ITEM_MAX`].
    pub bytes: Bytes,
}

impl UserFrame {
    /// About how many bytes it takes.
    pub(crate) fn bytes_about(&self) -> u64 {
        let payloads: u64 = self.payloads.iter().map(|payload| payload.len() as u64).sum();
        self.body.len() as u64 + payloads + BESIDE
    }

    /// How long its body is on the wire: the user's own, and what describes the payloads.
    pub(crate) fn body_len(&self) -> u64 {
        let described = |payload: &Bytes| varint_len(payload.len() as u64) + CHECKSUM_LEN;
        let payloads: u64 = self.payloads.iter().map(described).sum();
        varint_len(self.payloads.len() as u64) + payloads + self.body.len() as u64
    }

    pub(crate) fn flags(&self) -> u16 {
        let class = match self.class {
            LaneClass::Control => 0,
            LaneClass::Data => FLAG_DATA,
            LaneClass::Bulk => FLAG_BULK,
        };
        class | if self.newer_replaces { FLAG_REPLACES } else { 0 }
    }
}

pub(crate) fn encode(
    frame: &UserFrame,
    frame_bytes_max: u64,
    out: &mut Transmit,
) -> Result<u64, FrameError> {
    let kind = FrameKind::User;
    let payload_len: u64 = frame.payloads.iter().map(|payload| payload.len() as u64).sum();
    let tail = out.tail();
    let before = tail.len();
    let open = OpenFrame::of_user(frame.kind, frame.flags(), frame.group, tail);
    put_varint(tail, frame.payloads.len() as u64);
    for payload in &frame.payloads {
        put_varint(tail, payload.len() as u64);
        tail.put_slice(&crc32c::crc32c(payload).to_le_bytes());
    }
    tail.put_slice(&frame.body);
    let body_len = open.body_len(tail) as u64;
    debug_assert_eq!(body_len, frame.body_len());
    let bytes = HEADER_LEN as u64 + body_len + payload_len;
    let too_large = if body_len > u64::from(kind.body_max()) {
        Some((body_len, u64::from(kind.body_max())))
    } else if bytes > frame_bytes_max || payload_len > u64::from(u32::MAX) {
        Some((bytes, frame_bytes_max.min(u64::from(u32::MAX))))
    } else if frame.payloads.len() > USER_PAYLOADS_MAX {
        Some((frame.payloads.len() as u64, USER_PAYLOADS_MAX as u64))
    } else {
        None
    };
    if let Some((bytes, max)) = too_large {
        tail.truncate(before);
        return Err(FrameError::TooLarge { kind, bytes, max });
    }
    open.finish(payload_len as u32, tail);
    out.grown(before);
    for payload in &frame.payloads {
        out.put_payload(payload);
    }
    Ok(1)
}

/// Reads a frame that has come whole; the checksum of its body was verified.
pub(crate) fn decode(
    (kind, group, flags): (UserKind, GroupId, u16),
    mut body: Bytes,
    mut payloads: Bytes,
) -> Result<UserFrame, FrameError> {
    let malformed = FrameError::Malformed { kind: FrameKind::User };
    let class = match flags & (FLAG_DATA | FLAG_BULK) {
        0 => LaneClass::Control,
        FLAG_DATA => LaneClass::Data,
        FLAG_BULK => LaneClass::Bulk,
        _ => return Err(malformed),
    };
    let mut description = &body[..];
    let described = take_varint(&mut description)
        .and_then(|count| usize::try_from(count).ok())
        .filter(|count| *count <= USER_PAYLOADS_MAX.min(description.len() / DESCRIPTION_MIN));
    let count = described.ok_or_else(|| malformed.clone())?;
    let mut taken = Vec::with_capacity(count);
    for _ in 0..count {
        let length = take_varint(&mut description).and_then(|length| usize::try_from(length).ok());
        let length = length.filter(|length| *length <= payloads.len());
        let (Some(length), Some((crc, rest))) = (length, description.split_first_chunk::<4>())
        else {
            return Err(malformed);
        };
        description = rest;
        let payload = payloads.split_to(length);
        if crc32c::crc32c(&payload) != u32::from_le_bytes(*crc) {
            return Err(FrameError::Checksum { kind: FrameKind::User });
        }
        taken.push(payload);
    }
    if !payloads.is_empty() {
        return Err(malformed);
    }
    let body = body.split_off(body.len() - description.len());
    let newer_replaces = flags & FLAG_REPLACES != 0;
    Ok(UserFrame { kind, group, class, newer_replaces, body, payloads: taken })
}

/// Queues the items, sorted, in as many frames as they need, none of them begun behind `budget` bytes
/// but the first. Says how many frames that were, and how many items at the end are left.
pub(crate) fn encode_items(
    items: &mut [UserItem],
    (frame_bytes_max, budget): (u64, u64),
    out: &mut Transmit,
) -> Result<(u64, usize), FrameError> {
    let kind = FrameKind::UserItems;
    if let Some(item) = items.iter().find(|item| item.bytes.len() > USER_ITEM_MAX) {
        let (bytes, max) = (item.bytes.len() as u64, USER_ITEM_MAX as u64);
        return Err(FrameError::TooLarge { kind, bytes, max });
    }
    if !items.is_sorted_by_key(|item| item.group) {
        items.sort_by_key(|item| item.group);
    }
    let body_max = usize::try_from(frame_bytes_max.saturating_sub(HEADER_LEN as u64))
        .unwrap_or(usize::MAX)
        .min(BATCH_BODY_MAX as usize);
    let tail = out.tail();
    let before = tail.len();
    let (mut frames, mut at) = (0, 0);
    while at < items.len() {
        let open = OpenFrame::new(kind, 0, GroupId::new(0), tail);
        let mut previous = 0;
        // At least one item per frame, so that a tiny limit cannot keep us here for ever.
        loop {
            let item = &items[at];
            put_varint(tail, u64::from(item.group.get() - previous));
            put_varint(tail, item.bytes.len() as u64);
            tail.put_slice(&item.bytes);
            previous = item.group.get();
            at += 1;
            let next = items.get(at).map(|next| next.bytes.len() + 8);
            if next.is_none_or(|next| open.body_len(tail) + next > body_max) {
                break;
            }
        }
        open.finish(0, tail);
        frames += 1;
        if (tail.len() - before) as u64 >= budget {
            break;
        }
    }
    out.grown(before);
    Ok((frames, items.len() - at))
}

/// Reads the items of a body whose checksum has been verified. They are copied, so that none pins
/// the buffer of the connection.
pub(crate) fn decode_items(body: &[u8]) -> Option<Vec<UserItem>> {
    let mut copied = BytesMut::from(body).freeze();
    let mut items = Vec::new();
    let mut previous = 0_u32;
    while !copied.is_empty() {
        let mut rest = &copied[..];
        let delta = u32::try_from(take_varint(&mut rest)?).ok()?;
        let length = usize::try_from(take_varint(&mut rest)?).ok()?;
        if length > USER_ITEM_MAX || length > rest.len() {
            return None;
        }
        let head = copied.len() - rest.len();
        let bytes = copied.split_to(head + length).slice(head..);
        previous = previous.checked_add(delta)?;
        items.push(UserItem { group: GroupId::new(previous), bytes });
    }
    Some(items)
}

#[cfg(test)]
mod tests;
