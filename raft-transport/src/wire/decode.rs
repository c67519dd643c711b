//! From bytes to frames, with as few copies as the kernel's one.
//!
//! Bytes are read into a chunk that frames are cut from. Payloads become slices of that chunk;
//! a large one that does not lie in it whole is gathered in a buffer of its own, into which the
//! rest is read directly.
//!
//! Invariants:
//! - Memory grows with the bytes that have arrived, never with a length someone claims.
//! - A payload pins at most one chunk of 256 KiB, or about twice its own size.
//! - After an error nothing more is decoded: the bytes are out of step.

use bytes::buf::Limit;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use raft_core::{
    Append, Entry, EntryKind, GroupId, GroupIncarnation, LogIndex, LogTime, Message, ReplicaId,
    Term, TermRun,
};

use crate::wire::bodies::{
    AppendReplyWire, AppendWire, EntryWire, FenceWire, HeartbeatReplyWire, HeartbeatWire,
    NumberWire, ReadIndexReplyWire, ReadIndexWire, RecoverWire, SnapshotChunkWire,
    SnapshotOfferWire, SnapshotPullWire, TermRunWire, TimeoutNowWire, TransferRefusedWire,
    VoteReplyWire, VoteRequestWire, take,
};
use crate::wire::chunk::Chunk;
use crate::wire::envelope::Envelope;
use crate::wire::frame::{
    APPEND_ENTRIES_MAX, BODY_BYTES_MAX, Condition, Ends, FLAG_FROM, FLAG_TO, FRAME_VERSION, Frame,
    FrameError, FrameKind, HEADER_LEN, SnapshotChunk,
};
use crate::wire::heartbeat_batch;
use crate::wire::read_buffers::{CHUNK, Chunks};
use crate::wire::user::{self, UserKind};
use crate::wire::varint::take_varint;

/// Less room than this is not worth a read.
const READ_MIN: usize = 16 << 10;

/// Larger payloads get a buffer of their own unless they have arrived already.
const SLICE_MAX: usize = 32 << 10;

/// Turns the bytes of one connection into frames.
#[derive(Debug)]
pub struct Decoder {
    frame_bytes_max: u64,
    /// The largest body of a user's frame.
    user_body_max: u32,
    buffer: BytesMut,
    chunks: Chunks,
    /// The buffer must hold so many bytes before decoding can go on.
    needed: usize,
    append: Option<OpenAppend>,
    /// Bytes of a read buffer; what needs more gets room as it arrives.
    room: usize,
}

/// An append whose payloads are still arriving.
#[derive(Debug)]
struct OpenAppend {
    envelope: Envelope,
    frame_bytes: u64,
    /// The part of the body that describes the entries yet to come.
    entries_left: Bytes,
    count_left: u64,
    payload_left: u64,
    time: u64,
    /// Position in the runs: which one, and how many of its entries have come.
    run: usize,
    run_taken: u64,
    /// The payload being gathered, if it has a buffer of its own.
    gathering: Option<Gathering>,
}

#[derive(Debug)]
struct Gathering {
    entry: EntryHead,
    payload: BytesMut,
    /// The checksum of the payload so far, kept up while the bytes are warm.
    crc: u32,
    summed: usize,
}

#[derive(Clone, Copy, Debug)]
struct EntryHead {
    index: LogIndex,
    term: Term,
    kind: EntryKind,
    time: LogTime,
    payload_len: usize,
    payload_crc: u32,
}

impl Decoder {
    /// A decoder that refuses frames of more bytes than this.
    pub fn new(frame_bytes_max: u64) -> Self {
        Self {
            frame_bytes_max,
            user_body_max: BODY_BYTES_MAX,
            buffer: BytesMut::new(),
            chunks: Chunks::default(),
            needed: HEADER_LEN,
            append: None,
            room: CHUNK,
        }
    }

    /// One whose bytes come at most `room` at a time, so that it needs no larger buffers.
    pub(crate) fn of_chunks(frame_bytes_max: u64, room: usize) -> Self {
        Self { chunks: Chunks::of(room), room, ..Self::new(frame_bytes_max) }
    }

    /// One that refuses users' frames with longer bodies.
    pub(crate) fn with_user_body_max(mut self, bytes: u32) -> Self {
        self.user_body_max = bytes.min(BODY_BYTES_MAX);
        self
    }

    /// Where the next bytes belong; never without room once [`next_frame`](Self::next_frame) has found
    /// nothing more.
    pub fn read_buffer(&mut self) -> Limit<&mut BytesMut> {
        if let Some(gathering) = self.append.as_mut().and_then(|open| open.gathering.as_mut()) {
            return gathering.room();
        }
        let missing = self.needed.saturating_sub(self.buffer.len());
        // Large bodies: room grows with what has arrived, and ends where the body does, so that
        // no payload shares the large buffer.
        let large = self.needed > self.room;
        let wanted = if large { missing.min(self.buffer.len().max(self.room)) } else { missing };
        let wanted = wanted.max(if large { 1 } else { READ_MIN });
        self.chunks.make_room(&mut self.buffer, wanted);
        let spare = self.buffer.capacity() - self.buffer.len();
        let limit = if large { spare.min(missing.max(1)) } else { spare.min(self.room) };
        (&mut self.buffer).limit(limit)
    }

    /// Appends bytes that were read elsewhere: tests and simulators.
    pub fn push(&mut self, bytes: &mut &[u8]) {
        let mut room = self.read_buffer();
        let count = room.remaining_mut().min(bytes.len());
        room.put_slice(&bytes[..count]);
        bytes.advance(count);
    }

    /// Bytes that have arrived and belong to no frame yet; for the handshake before the first.
    pub(crate) fn buffered(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// Bytes of memory held for frames not yet complete.
    pub fn memory(&self) -> usize {
        let gathered = self.append.as_ref().map_or(0, |open| {
            open.envelope.entries.capacity() * size_of::<Entry>()
                + open.envelope.entries.iter().map(|entry| entry.payload.len()).sum::<usize>()
                + open.entries_left.len()
                + open.gathering.as_ref().map_or(0, |gathering| gathering.payload.capacity())
        });
        self.buffer.capacity() + gathered
    }

    /// The next complete frame and its size in bytes, or `None` until more has arrived.
    ///
    /// # Errors
    /// Any [`FrameError`] about reading. Drop the connection then.
    pub fn next_frame(&mut self, ends: Ends) -> Result<Option<(Frame, u64)>, FrameError> {
        if self.append.is_none() {
            let Some(header) = self.complete_header()? else {
                return Ok(None);
            };
            if let Some(frame) = self.decode_body(header, ends)? {
                return Ok(Some((frame, header.bytes())));
            }
        }
        let Some(open) = &mut self.append else {
            return Ok(None);
        };
        if !open.take_payloads(&mut self.buffer, &mut self.needed, self.room)? {
            return Ok(None);
        }
        let Some(open) = self.append.take() else {
            return Ok(None);
        };
        self.needed = HEADER_LEN;
        Ok(Some((Frame::Message(open.envelope), open.frame_bytes)))
    }

    /// The header at the front, once it and its body have arrived whole and undamaged.
    fn complete_header(&mut self) -> Result<Option<Header>, FrameError> {
        let Some((header, rest)) = self.buffer.split_first_chunk::<HEADER_LEN>() else {
            self.needed = HEADER_LEN;
            return Ok(None);
        };
        let parsed = Header::parse(header, self.frame_bytes_max, self.user_body_max)?;
        let Some(body) = rest.get(..parsed.body_len) else {
            self.needed = HEADER_LEN + parsed.body_len;
            return Ok(None);
        };
        let crc = crc32c::crc32c_append(parsed.header_crc, body);
        if crc != parsed.crc && !raft_core::planted!(FrameChecksumIgnored) {
            return Err(FrameError::Checksum { kind: parsed.kind });
        }
        Ok(Some(parsed))
    }

    /// Decodes and cuts off header and body; `None` if the frame is an append, which is then open.
    fn decode_body(&mut self, header: Header, ends: Ends) -> Result<Option<Frame>, FrameError> {
        let kind = header.kind;
        let malformed = FrameError::Malformed { kind };
        let frame_head = HEADER_LEN + header.body_len;
        let mut body = &self.buffer[HEADER_LEN..frame_head];
        let frame = match kind {
            FrameKind::Heartbeats => Frame::Heartbeats(heartbeat_batch::decode(kind, body, ends)?),
            FrameKind::ReadConfirms => {
                Frame::ReadConfirms(heartbeat_batch::decode(kind, body, ends)?)
            }
            FrameKind::HeartbeatReplies => {
                Frame::HeartbeatReplies(heartbeat_batch::decode(kind, body, ends)?)
            }
            FrameKind::SnapshotPull => {
                let pull: SnapshotPullWire = take(&mut body).ok_or_else(|| malformed.clone())?;
                if !body.is_empty() {
                    return Err(malformed);
                }
                Frame::SnapshotPull(pull.of(header.group))
            }
            FrameKind::SnapshotChunk => {
                let chunk = take_chunk(&mut body, header.group).ok_or(malformed)?;
                Frame::SnapshotChunk(chunk)
            }
            FrameKind::User => {
                let whole = frame_head + header.payload_len as usize;
                if self.buffer.len() < whole {
                    self.needed = whole;
                    return Ok(None);
                }
                self.needed = HEADER_LEN;
                let mut body = self.buffer.split_to(whole).freeze().split_off(HEADER_LEN);
                let payloads = body.split_off(header.body_len);
                let kind = UserKind::from_code(header.code).ok_or(malformed)?;
                let head = (kind, header.group, header.flags);
                return user::decode(head, body, payloads).map(|user| Some(Frame::User(user)));
            }
            FrameKind::UserItems => Frame::UserItems(user::decode_items(body).ok_or(malformed)?),
            FrameKind::Clock => {
                Frame::Clock { wall: LogTime::new(take_number(body).ok_or(malformed)?) }
            }
            FrameKind::Condition => {
                let condition = take_number(body).and_then(Condition::from_code);
                Frame::Condition(condition.ok_or(malformed)?)
            }
            FrameKind::Chunk => {
                let head = Chunk::take_head(header.flags, &mut body).ok_or(malformed)?;
                let count = body.len();
                self.buffer.advance(frame_head - count);
                let data = self.buffer.split_to(count).freeze();
                return Ok(Some(Frame::Chunk(Chunk { data, ..head })));
            }
            FrameKind::Grant => Frame::Grant { bytes: take_number(body).ok_or(malformed)? },
            FrameKind::Credit => Frame::Credit { bytes: take_number(body).ok_or(malformed)? },
            FrameKind::Ping => Frame::Ping { nonce: take_number(body).ok_or(malformed)? },
            FrameKind::Pong => Frame::Pong { nonce: take_number(body).ok_or(malformed)? },
            FrameKind::PreVote
            | FrameKind::PreVoteReply
            | FrameKind::Vote
            | FrameKind::VoteReply
            | FrameKind::Append
            | FrameKind::AppendReply
            | FrameKind::Heartbeat
            | FrameKind::HeartbeatReply
            | FrameKind::ReadConfirm
            | FrameKind::TimeoutNow
            | FrameKind::TransferRefused
            | FrameKind::ReadIndex
            | FrameKind::ReadIndexReply
            | FrameKind::Snapshot
            | FrameKind::Recover
            | FrameKind::Fence => {
                let envelope =
                    take_envelope(&header, &mut body, ends).ok_or_else(|| malformed.clone())?;
                let Message::Append(append) = &envelope.message else {
                    if !body.is_empty() {
                        return Err(malformed);
                    }
                    self.buffer.advance(frame_head);
                    return Ok(Some(Frame::Message(envelope)));
                };
                let count_left = take_count(append, &mut body).ok_or(malformed)?;
                let described = body.len();
                self.open_append(header, envelope, count_left, described)?;
                return Ok(None);
            }
        };
        self.buffer.advance(frame_head);
        Ok(Some(frame))
    }

    fn open_append(
        &mut self,
        header: Header,
        mut envelope: Envelope,
        count_left: u64,
        described: usize,
    ) -> Result<(), FrameError> {
        if count_left > APPEND_ENTRIES_MAX {
            return Err(FrameError::TooManyEntries { count: count_left });
        }
        if described / EntryWire::BYTES_MIN < count_left as usize {
            return Err(FrameError::Malformed { kind: header.kind });
        }
        envelope.entries = Vec::with_capacity(count_left as usize);
        let frame_head = HEADER_LEN + header.body_len;
        self.buffer.advance(frame_head - described);
        let entries_left = self.buffer.split_to(described).freeze();
        if frame_head > self.room {
            // Payloads must not pin the large buffer the body needed. Little follows in it.
            self.buffer = BytesMut::from(&self.buffer[..]);
        }
        self.append = Some(OpenAppend {
            envelope,
            frame_bytes: header.bytes(),
            entries_left,
            count_left,
            payload_left: u64::from(header.payload_len),
            time: 0,
            run: 0,
            run_taken: 0,
            gathering: None,
        });
        Ok(())
    }
}

impl OpenAppend {
    /// Takes what payloads have arrived; true when that was the last.
    fn take_payloads(
        &mut self,
        buffer: &mut BytesMut,
        needed: &mut usize,
        room: usize,
    ) -> Result<bool, FrameError> {
        loop {
            if let Some(gathering) = &mut self.gathering {
                if !gathering.sum_up() {
                    return Ok(false);
                }
                let Some(Gathering { entry, payload, crc, .. }) = self.gathering.take() else {
                    return Ok(false);
                };
                self.accept(entry, payload.freeze(), crc)?;
                continue;
            }
            if self.count_left == 0 {
                if self.payload_left > 0 || !self.entries_left.is_empty() {
                    return Err(FrameError::Malformed { kind: FrameKind::Append });
                }
                return Ok(true);
            }
            let mut description = &self.entries_left[..];
            let entry = self
                .take_entry(&mut description)
                .ok_or(FrameError::Malformed { kind: FrameKind::Append })?;
            let arrived = buffer.len() >= entry.payload_len;
            if !arrived && entry.payload_len <= SLICE_MAX {
                *needed = entry.payload_len;
                return Ok(false);
            }
            let described = self.entries_left.len() - description.len();
            self.entries_left.advance(described);
            self.count_left -= 1;
            self.payload_left -= entry.payload_len as u64;
            self.time = entry.time.get();
            if arrived {
                let payload = buffer.split_to(entry.payload_len).freeze();
                let crc = crc32c::crc32c(&payload);
                self.accept(entry, payload, crc)?;
            } else {
                self.gathering = Some(Gathering::start(entry, buffer, room));
            }
        }
    }

    /// Reads the next entry's description, without taking it yet.
    fn take_entry(&self, description: &mut &[u8]) -> Option<EntryHead> {
        let wire: EntryWire = take(description)?;
        if u64::from(wire.payload_len) > self.payload_left {
            return None;
        }
        let Message::Append(append) = &self.envelope.message else {
            return None;
        };
        let taken = self.envelope.entries.len() as u64;
        Some(EntryHead {
            index: append.prev_index.plus(taken + 1),
            term: append.runs.get(self.run)?.term,
            kind: EntryKind::from_code(wire.kind)?,
            time: if raft_core::planted!(EntryTimeNotAdded) {
                LogTime::new(wire.time_delta as u64)
            } else {
                LogTime::new(self.time.wrapping_add(wire.time_delta as u64))
            },
            payload_len: wire.payload_len as usize,
            payload_crc: u32::from_le_bytes(wire.payload_crc),
        })
    }

    fn accept(&mut self, entry: EntryHead, payload: Bytes, crc: u32) -> Result<(), FrameError> {
        let EntryHead { index, term, kind, time, payload_crc, .. } = entry;
        if crc != payload_crc && !raft_core::planted!(FrameChecksumIgnored) {
            return Err(FrameError::PayloadChecksum { group: self.envelope.group, index });
        }
        self.envelope.entries.push(Entry { index, term, kind, time, payload });
        self.run_taken += 1;
        if let Message::Append(append) = &self.envelope.message
            && append.runs.get(self.run).is_some_and(|run| run.count == self.run_taken)
        {
            self.run += 1;
            self.run_taken = 0;
        }
        Ok(())
    }
}

impl Gathering {
    /// Begins with what has arrived: the one copy a large payload may see.
    fn start(entry: EntryHead, buffer: &mut BytesMut, room: usize) -> Self {
        // The buffer grows by doubling and shall end at the payload's size, so it starts at that
        // size halved until it is small.
        let mut first = entry.payload_len;
        while first > room {
            first = first.div_ceil(2);
        }
        let mut payload = BytesMut::with_capacity(first.max(buffer.len()));
        payload.extend_from_slice(buffer);
        buffer.clear();
        Self { entry, payload, crc: 0, summed: 0 }
    }

    fn room(&mut self) -> Limit<&mut BytesMut> {
        let missing = self.entry.payload_len - self.payload.len();
        if self.payload.capacity() == self.payload.len() {
            self.payload.reserve(missing.min(self.payload.len().max(1)));
        }
        let spare = self.payload.capacity() - self.payload.len();
        (&mut self.payload).limit(missing.min(spare))
    }

    /// Brings the checksum up to date; true once the payload is complete.
    fn sum_up(&mut self) -> bool {
        self.crc = crc32c::crc32c_append(self.crc, &self.payload[self.summed..]);
        self.summed = self.payload.len();
        self.summed == self.entry.payload_len
    }
}

#[derive(Clone, Copy)]
struct Header {
    kind: FrameKind,
    /// The second byte.
    code: u8,
    flags: u16,
    group: GroupId,
    body_len: usize,
    payload_len: u32,
    header_crc: u32,
    crc: u32,
}

impl Header {
    /// Checks everything a header can tell before its body has arrived.
    fn parse(
        bytes: &[u8; HEADER_LEN],
        frame_bytes_max: u64,
        user_body_max: u32,
    ) -> Result<Self, FrameError> {
        let number = |at: usize| {
            let [a, b, c, d] = [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
            u32::from_le_bytes([a, b, c, d])
        };
        let [version, code, f0, f1, ..] = *bytes;
        if version != FRAME_VERSION {
            return Err(FrameError::UnknownVersion { found: version });
        }
        let [group, body_len, payload_len, header_crc, crc] = [4, 8, 12, 16, 20].map(number);
        let ignored = raft_core::planted!(FrameChecksumIgnored);
        if crc32c::crc32c(&bytes[..16]) != header_crc && !ignored {
            return Err(FrameError::HeaderChecksum);
        }
        let kind = FrameKind::from_code(code).ok_or(FrameError::UnknownKind { kind: code })?;
        let flags = u16::from_le_bytes([f0, f1]);
        if flags & !kind.flags() != 0 {
            return Err(FrameError::UnknownFlags { kind, flags });
        }
        let body_max = match kind {
            FrameKind::User => user_body_max,
            other => other.body_max(),
        };
        if body_len > body_max {
            let (bytes, max) = (u64::from(body_len), u64::from(body_max));
            return Err(FrameError::TooLarge { kind, bytes, max });
        }
        let has_payloads = matches!(kind, FrameKind::Append | FrameKind::User);
        if (payload_len > 0 && !has_payloads) || (group != 0 && !kind.names_group()) {
            return Err(FrameError::Malformed { kind });
        }
        let header = Self {
            kind,
            code,
            flags,
            group: GroupId::new(group),
            body_len: body_len as usize,
            payload_len,
            header_crc,
            crc,
        };
        // A chunk is bounded by itself, and the frame beneath is looked at like any other.
        if header.bytes() > frame_bytes_max && kind != FrameKind::Chunk {
            return Err(FrameError::TooLarge { kind, bytes: header.bytes(), max: frame_bytes_max });
        }
        Ok(header)
    }

    /// Of the whole frame.
    fn bytes(&self) -> u64 {
        (HEADER_LEN + self.body_len) as u64 + u64::from(self.payload_len)
    }
}

fn take_envelope(header: &Header, body: &mut &[u8], ends: Ends) -> Option<Envelope> {
    let incarnation = u32::try_from(take_varint(body)?).ok()?;
    let from = if header.flags & FLAG_FROM == 0 { ends.remote.get() } else { take_varint(body)? };
    let to = if header.flags & FLAG_TO == 0 { ends.local.get() } else { take_varint(body)? };
    let message = match header.kind {
        FrameKind::PreVote => Message::PreVote(take::<VoteRequestWire>(body)?.into()),
        FrameKind::PreVoteReply => Message::PreVoteReply(take::<VoteReplyWire>(body)?.into()),
        FrameKind::Vote => Message::Vote(take::<VoteRequestWire>(body)?.into()),
        FrameKind::VoteReply => Message::VoteReply(take::<VoteReplyWire>(body)?.into()),
        FrameKind::Append => Message::Append(take_append(body)?),
        FrameKind::AppendReply => Message::AppendReply(take::<AppendReplyWire>(body)?.into()),
        FrameKind::Heartbeat => Message::Heartbeat(take::<HeartbeatWire>(body)?.into()),
        FrameKind::HeartbeatReply => {
            Message::HeartbeatReply(take::<HeartbeatReplyWire>(body)?.into())
        }
        FrameKind::ReadConfirm => Message::ReadConfirm(take::<HeartbeatWire>(body)?.into()),
        FrameKind::TimeoutNow => Message::TimeoutNow(take::<TimeoutNowWire>(body)?.into()),
        FrameKind::TransferRefused => {
            Message::TransferRefused(take::<TransferRefusedWire>(body)?.into())
        }
        FrameKind::ReadIndex => Message::ReadIndex(take::<ReadIndexWire>(body)?.into()),
        FrameKind::ReadIndexReply => {
            Message::ReadIndexReply(take::<ReadIndexReplyWire>(body)?.into())
        }
        FrameKind::Snapshot => Message::Snapshot(take::<SnapshotOfferWire<'_>>(body)?.message()?),
        FrameKind::Recover => Message::Recover(take::<RecoverWire>(body)?.into()),
        FrameKind::Fence => Message::Fence(take::<FenceWire>(body)?.into()),
        FrameKind::SnapshotPull
        | FrameKind::SnapshotChunk
        | FrameKind::Heartbeats
        | FrameKind::ReadConfirms
        | FrameKind::HeartbeatReplies
        | FrameKind::Clock
        | FrameKind::Condition
        | FrameKind::Credit
        | FrameKind::Ping
        | FrameKind::Pong
        | FrameKind::Chunk
        | FrameKind::Grant
        | FrameKind::User
        | FrameKind::UserItems => return None,
    };
    Some(Envelope {
        group: header.group,
        group_incarnation: GroupIncarnation::new(incarnation),
        from: ReplicaId::new(from),
        to: ReplicaId::new(to),
        message,
        entries: Vec::new(),
    })
}

/// The append up to its runs.
fn take_append(body: &mut &[u8]) -> Option<Append> {
    let mut append = Append::from(take::<AppendWire>(body)?);
    let runs = take_varint(body)?;
    // Each run takes two bytes and more.
    if runs > APPEND_ENTRIES_MAX.min(body.len() as u64 / 2) {
        return None;
    }
    for _ in 0..runs {
        let run: TermRunWire = take(body)?;
        if run.count == 0 {
            return None;
        }
        append.runs.push(TermRun { term: Term::new(run.term), count: run.count });
    }
    Some(append)
}

/// How many entries are described; they must be those the runs name.
fn take_count(append: &Append, body: &mut &[u8]) -> Option<u64> {
    let count = take_varint(body)?;
    let last_index = append.prev_index.get().checked_add(count);
    Some(count).filter(|&count| append.count() == count && last_index.is_some())
}

/// A chunk, whose bytes are copied: they must not pin the buffer of the connection.
fn take_chunk(body: &mut &[u8], group: GroupId) -> Option<SnapshotChunk> {
    let place: SnapshotPullWire = take(body)?;
    let SnapshotChunkWire { total, sum } = take(body)?;
    let data = Bytes::copy_from_slice(body);
    Some(SnapshotChunk { place: place.of(group), total, sum: u32::from_le_bytes(sum), data })
}

fn take_number(mut body: &[u8]) -> Option<u64> {
    let NumberWire { number } = take(&mut body)?;
    body.is_empty().then_some(number)
}

#[cfg(test)]
mod tests;
