//! From frames to bytes.

use bytes::{BufMut, BytesMut};
use raft_core::{Append, Entry, GroupId, LogIndex, Message};

use crate::wire::bodies::{
    AppendReplyWire, AppendWire, EntryWire, FenceWire, HeartbeatReplyWire, HeartbeatWire,
    NumberWire, ReadIndexReplyWire, ReadIndexWire, RecoverWire, SnapshotChunkWire,
    SnapshotPullWire, TermRunWire, TimeoutNowWire, TransferRefusedWire, VoteReplyWire,
    VoteRequestWire, put, put_offer,
};
use crate::wire::chunk::put_chunk;
use crate::wire::envelope::Envelope;
use crate::wire::frame::{
    APPEND_ENTRIES_MAX, Ends, FLAG_FROM, FLAG_TO, FRAME_VERSION, Frame, FrameError, FrameKind,
    HEADER_LEN, SnapshotChunk, SnapshotPull,
};
use crate::wire::heartbeat_batch;
use crate::wire::transmit::Transmit;
use crate::wire::user::{self, UserKind};
use crate::wire::varint::put_varint;

/// What became of a frame.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Encoded {
    /// Bytes queued.
    pub bytes: u64,
    /// Frames on the wire; more than one for a long batch, none for an empty one.
    pub frames: u64,
    /// Items at the end of a batch that are not queued: there was no budget for another frame.
    pub left: usize,
}

/// Queues a frame. Batches are sorted by group and split where they outgrow a frame; of several frames
/// none is begun behind `budget` bytes but the first.
///
/// Costs one pass over the frame; payloads are read once for their checksums and copied only if
/// they are small.
///
/// # Errors
/// [`FrameError::TooLarge`], [`FrameError::TooManyEntries`] or [`FrameError::EntriesDiffer`];
/// nothing is queued then.
pub fn encode(
    frame: &mut Frame,
    ends: Ends,
    frame_bytes_max: u64,
    budget: u64,
    out: &mut Transmit,
) -> Result<Encoded, FrameError> {
    let before = out.len();
    let limits = (frame_bytes_max, budget);
    let whole = |frames| (frames, 0);
    let (frames, left) = match frame {
        Frame::Message(envelope) => whole(encode_envelope(envelope, ends, frame_bytes_max, out)?),
        Frame::Heartbeats(items) => {
            let kind = FrameKind::Heartbeats;
            heartbeat_batch::encode(kind, items, ends, limits, out)
        }
        Frame::ReadConfirms(items) => {
            let kind = FrameKind::ReadConfirms;
            heartbeat_batch::encode(kind, items, ends, limits, out)
        }
        Frame::HeartbeatReplies(items) => {
            let kind = FrameKind::HeartbeatReplies;
            heartbeat_batch::encode(kind, items, ends, limits, out)
        }
        Frame::SnapshotPull(pull) => whole(encode_snapshot(pull, None, frame_bytes_max, out)?),
        Frame::SnapshotChunk(chunk) => {
            fit(chunk, frame_bytes_max);
            whole(encode_snapshot(&chunk.place, Some(chunk), frame_bytes_max, out)?)
        }
        Frame::User(user) => whole(user::encode(user, frame_bytes_max, out)?),
        Frame::UserItems(items) => user::encode_items(items, limits, out)?,
        Frame::Clock { wall } => whole(encode_number(FrameKind::Clock, wall.get(), out)),
        Frame::Condition(condition) => {
            whole(encode_number(FrameKind::Condition, condition.code(), out))
        }
        Frame::Chunk(chunk) => {
            let mut data = Transmit::new();
            data.put_payload(&chunk.data);
            put_chunk(chunk, &mut data, chunk.data.len(), out);
            whole(1)
        }
        Frame::Grant { bytes } => whole(encode_number(FrameKind::Grant, *bytes, out)),
        Frame::Credit { bytes } => whole(encode_number(FrameKind::Credit, *bytes, out)),
        Frame::Ping { nonce } => whole(encode_number(FrameKind::Ping, *nonce, out)),
        Frame::Pong { nonce } => whole(encode_number(FrameKind::Pong, *nonce, out)),
    };
    Ok(Encoded { bytes: out.len() - before, frames, left })
}

/// A frame whose header waits for its body.
pub(crate) struct OpenFrame {
    start: usize,
    /// The second byte.
    code: u8,
    flags: u16,
    group: GroupId,
}

impl OpenFrame {
    pub(crate) fn new(kind: FrameKind, flags: u16, group: GroupId, out: &mut BytesMut) -> Self {
        Self::begin(kind.code(), flags, group, out)
    }

    pub(crate) fn of_user(kind: UserKind, flags: u16, group: GroupId, out: &mut BytesMut) -> Self {
        Self::begin(kind.code(), flags, group, out)
    }

    fn begin(code: u8, flags: u16, group: GroupId, out: &mut BytesMut) -> Self {
        let start = out.len();
        out.put_bytes(0, HEADER_LEN);
        Self { start, code, flags, group }
    }

    /// Bytes of the body so far.
    pub(crate) fn body_len(&self, out: &BytesMut) -> usize {
        out.len() - self.start - HEADER_LEN
    }

    /// Completes the header. The caller has checked that the lengths are allowed.
    pub(crate) fn finish(&self, payload_len: u32, out: &mut BytesMut) {
        let frame = &mut out[self.start..];
        let (header, body) = frame.split_at_mut(HEADER_LEN);
        header[0] = FRAME_VERSION;
        header[1] = self.code;
        header[2..4].copy_from_slice(&self.flags.to_le_bytes());
        header[4..8].copy_from_slice(&self.group.get().to_le_bytes());
        header[8..12].copy_from_slice(&(body.len() as u32).to_le_bytes());
        header[12..16].copy_from_slice(&payload_len.to_le_bytes());
        let crc = crc32c::crc32c(&header[..16]);
        header[16..20].copy_from_slice(&crc.to_le_bytes());
        header[20..24].copy_from_slice(&crc32c::crc32c_append(crc, body).to_le_bytes());
    }
}

fn encode_number(kind: FrameKind, number: u64, out: &mut Transmit) -> u64 {
    let tail = out.tail();
    let before = tail.len();
    let open = OpenFrame::new(kind, 0, GroupId::new(0), tail);
    put(tail, &NumberWire { number });
    open.finish(0, tail);
    out.grown(before);
    1
}

/// Leaves away the end of a chunk that is too long for its receiver, who then asks for it.
fn fit(chunk: &mut SnapshotChunk, frame_bytes_max: u64) {
    /// The kind's largest body, and the bytes in it, differ by this.
    const BESIDE: u64 = 256;
    let max = frame_bytes_max.saturating_sub(HEADER_LEN as u64 + BESIDE);
    chunk.data.truncate(usize::try_from(max).unwrap_or(usize::MAX).max(1));
}

fn encode_snapshot(
    place: &SnapshotPull,
    chunk: Option<&SnapshotChunk>,
    frame_bytes_max: u64,
    out: &mut Transmit,
) -> Result<u64, FrameError> {
    let kind = if chunk.is_some() { FrameKind::SnapshotChunk } else { FrameKind::SnapshotPull };
    let tail = out.tail();
    let before = tail.len();
    let open = OpenFrame::new(kind, 0, place.group, tail);
    put(tail, &SnapshotPullWire::from(place));
    if let Some(chunk) = chunk {
        put(tail, &SnapshotChunkWire { total: chunk.total, sum: chunk.sum.to_le_bytes() });
        tail.extend_from_slice(&chunk.data);
    }
    let body = open.body_len(tail) as u64;
    let max = u64::from(kind.body_max()).min(frame_bytes_max.saturating_sub(HEADER_LEN as u64));
    if body > max {
        tail.truncate(before);
        return Err(FrameError::TooLarge { kind, bytes: body, max });
    }
    open.finish(0, tail);
    out.grown(before);
    Ok(1)
}

fn encode_envelope(
    envelope: &Envelope,
    ends: Ends,
    frame_bytes_max: u64,
    out: &mut Transmit,
) -> Result<u64, FrameError> {
    check_entries(envelope)?;
    let payload_len: u64 = envelope.entries.iter().map(|entry| entry.payload.len() as u64).sum();
    let kind = kind_of(&envelope.message);
    let flag_from = if envelope.from.get() == ends.local.get() { 0 } else { FLAG_FROM };
    let flag_to = if envelope.to.get() == ends.remote.get() { 0 } else { FLAG_TO };

    let tail = out.tail();
    let before = tail.len();
    let open = OpenFrame::new(kind, flag_from | flag_to, envelope.group, tail);
    put_varint(tail, u64::from(envelope.group_incarnation.get()));
    if flag_from != 0 {
        put_varint(tail, envelope.from.get());
    }
    if flag_to != 0 {
        put_varint(tail, envelope.to.get());
    }
    match &envelope.message {
        Message::PreVote(m) | Message::Vote(m) => put(tail, &VoteRequestWire::from(m)),
        Message::PreVoteReply(m) | Message::VoteReply(m) => put(tail, &VoteReplyWire::from(m)),
        Message::Append(m) => put_append(tail, m, &envelope.entries),
        Message::AppendReply(m) => put(tail, &AppendReplyWire::from(m)),
        Message::Heartbeat(m) | Message::ReadConfirm(m) => put(tail, &HeartbeatWire::from(m)),
        Message::HeartbeatReply(m) => put(tail, &HeartbeatReplyWire::from(m)),
        Message::TimeoutNow(m) => put(tail, &TimeoutNowWire::from(m)),
        Message::TransferRefused(m) => put(tail, &TransferRefusedWire::from(m)),
        Message::ReadIndex(m) => put(tail, &ReadIndexWire::from(m)),
        Message::ReadIndexReply(m) => put(tail, &ReadIndexReplyWire::from(m)),
        Message::Snapshot(m) => put_offer(tail, m),
        Message::Recover(m) => put(tail, &RecoverWire::from(m)),
        Message::Fence(m) => put(tail, &FenceWire::from(m)),
    }

    let body_len = open.body_len(tail) as u64;
    let bytes = HEADER_LEN as u64 + body_len + payload_len;
    let too_large = if body_len > u64::from(kind.body_max()) {
        Some((body_len, u64::from(kind.body_max())))
    } else if bytes > frame_bytes_max || payload_len > u64::from(u32::MAX) {
        Some((bytes, frame_bytes_max.min(u64::from(u32::MAX))))
    } else {
        None
    };
    if let Some((bytes, max)) = too_large {
        tail.truncate(before);
        return Err(FrameError::TooLarge { kind, bytes, max });
    }
    open.finish(payload_len as u32, tail);
    out.grown(before);
    for entry in &envelope.entries {
        out.put_payload(&entry.payload);
    }
    Ok(1)
}

/// Runs and entries must tell the same, or the receiver would see another log than we have.
fn check_entries(envelope: &Envelope) -> Result<(), FrameError> {
    let differ = FrameError::EntriesDiffer { group: envelope.group };
    let Message::Append(append) = &envelope.message else {
        return if envelope.entries.is_empty() { Ok(()) } else { Err(differ) };
    };
    let count = envelope.entries.len() as u64;
    if count > APPEND_ENTRIES_MAX {
        return Err(FrameError::TooManyEntries { count });
    }
    if append.count() != count || append.prev_index.get().checked_add(count).is_none() {
        return Err(differ);
    }
    let mut entries = envelope.entries.iter();
    let mut index: LogIndex = append.prev_index;
    for run in &append.runs {
        if run.count == 0 {
            return Err(differ);
        }
        for entry in entries.by_ref().take(run.count as usize) {
            index = index.next();
            if entry.index != index || entry.term != run.term {
                return Err(differ);
            }
        }
    }
    Ok(())
}

fn put_append(tail: &mut BytesMut, append: &Append, entries: &[Entry]) {
    put(tail, &AppendWire::from(append));
    put_varint(tail, append.runs.len() as u64);
    for run in &append.runs {
        put(tail, &TermRunWire { term: run.term.get(), count: run.count });
    }
    put_varint(tail, entries.len() as u64);
    let mut time = 0;
    for entry in entries {
        let wire = EntryWire {
            kind: entry.kind.code(),
            time_delta: entry.time.get().wrapping_sub(time) as i64,
            payload_len: u32::try_from(entry.payload.len()).unwrap_or(u32::MAX),
            payload_crc: crc32c::crc32c(&entry.payload).to_le_bytes(),
        };
        time = entry.time.get();
        put(tail, &wire);
    }
}

fn kind_of(message: &Message) -> FrameKind {
    match message {
        Message::PreVote(_) => FrameKind::PreVote,
        Message::PreVoteReply(_) => FrameKind::PreVoteReply,
        Message::Vote(_) => FrameKind::Vote,
        Message::VoteReply(_) => FrameKind::VoteReply,
        Message::Append(_) => FrameKind::Append,
        Message::AppendReply(_) => FrameKind::AppendReply,
        Message::Heartbeat(_) => FrameKind::Heartbeat,
        Message::HeartbeatReply(_) => FrameKind::HeartbeatReply,
        Message::ReadConfirm(_) => FrameKind::ReadConfirm,
        Message::TimeoutNow(_) => FrameKind::TimeoutNow,
        Message::TransferRefused(_) => FrameKind::TransferRefused,
        Message::ReadIndex(_) => FrameKind::ReadIndex,
        Message::ReadIndexReply(_) => FrameKind::ReadIndexReply,
        Message::Snapshot(_) => FrameKind::Snapshot,
        Message::Recover(_) => FrameKind::Recover,
        Message::Fence(_) => FrameKind::Fence,
    }
}

#[cfg(test)]
mod tests;
