//! What nodes say on the wire, heard where the bytes leave the process.
//!
//! The oracle must not trust the code that sends, so it listens to the bytes: prefix, handshake
//! and frames are decoded once more, beside the peer who will read them. Only what promises
//! something is passed on.

use std::collections::{BTreeMap, VecDeque};

use bytes::BytesMut;
use raft_core::{
    AppendResult, Campaign, GroupId, LogIndex, LogTime, Message, Micros, NodeId, Promise,
    ReplicaId, Term, Verdict,
};
use raft_mux::PREFIX_LEN;
use raft_transport::{
    Assembled, Assemblies, Decoder, Ends, Frame, Handshake, Lane, SnapshotPull, decode_handshake,
};

use super::incarnations::life_of;
use super::sightings::Sightings;
use crate::sim::marks::Mark;
use crate::snapshot::entries::Part;

/// A promise that has left its node.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Said {
    pub(super) node: NodeId,
    pub(super) to: NodeId,
    /// A life of a group.
    pub(super) group: GroupId,
    pub(super) replica: ReplicaId,
    pub(super) claim: Claim,
}

/// What is promised.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Claim {
    /// "I have reached this term."
    Term(Term),
    /// "My vote of this term is given."
    Vote { term: Term, candidate: ReplicaId },
    /// Nothing for any group: the listener is taken for the peer it says it is.
    Greets,
    /// "My wall clock shows this." No promise, and nothing for any group.
    Clock(LogTime),
    /// "I lead this term, at this moment of my clock."
    Asks { term: Term, of: ReplicaId, sent: Micros },
    /// "You do, and I heard it."
    Answers { term: Term, to: ReplicaId, sent: Micros },
    /// "I stand in this term because its leader wants it."
    HandsOver(Term),
    /// "My disk holds the log of this term's leader up to here."
    Held { term: Term, index: LogIndex },
    /// "It is written here up to there", which counts where that is what counts.
    Written { term: Term, index: LogIndex },
}

/// What was heard on all wires of a run.
pub(super) struct Heard {
    /// Promises, for the oracle to take.
    pub(super) said: Vec<Said>,
    sightings: Sightings,
    /// The lane of the newest append of each group, by speaker and listener.
    appends: BTreeMap<(NodeId, NodeId, GroupId), Lane>,
    /// The bytes of a snapshot that each asked for last, by speaker and listener.
    pulls: BTreeMap<(NodeId, NodeId, GroupId), SnapshotPull>,
}

impl Heard {
    pub(super) fn new(sightings: Sightings) -> Self {
        Self { said: Vec::new(), sightings, appends: BTreeMap::new(), pulls: BTreeMap::new() }
    }
}

/// Listens to one direction of a connection.
pub(super) struct Tap {
    speaker: NodeId,
    listener: NodeId,
    lane: Lane,
    /// Bytes heard so far.
    heard: u64,
    frames: Frames,
    greeting: Greeting,
    phase: Phase,
}

/// Where frames end, counted in bytes from the beginning of the connection.
#[derive(Default)]
struct Frames {
    /// Of those that the listener has not read to their ends.
    ends: VecDeque<u64>,
    /// The end of the newest frame spoken.
    spoken: u64,
    /// The end of the newest frame read.
    read: u64,
}

/// What understands the frames of one direction.
struct Reading {
    decoder: Decoder,
    assemblies: Assemblies,
}

enum Phase {
    /// So many bytes of the prefix are still to come.
    Prefix(usize),
    Handshake(BytesMut),
    Frames(Box<Reading>),
    /// Nothing more is understood, or worth it.
    Deaf,
}

/// Whether it is news that the speaker takes the listener for its peer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Greeting {
    /// It may, or has been reported.
    Expected,
    /// It must not.
    Watched,
}

impl Tap {
    pub(super) fn dialer(speaker: NodeId, listener: NodeId, lane: Lane, news: Greeting) -> Self {
        Self::new(speaker, listener, lane, news, Phase::Prefix(PREFIX_LEN))
    }

    pub(super) fn acceptor(speaker: NodeId, listener: NodeId, lane: Lane, news: Greeting) -> Self {
        Self::new(speaker, listener, lane, news, Phase::Handshake(BytesMut::new()))
    }

    fn new(speaker: NodeId, listener: NodeId, lane: Lane, news: Greeting, phase: Phase) -> Self {
        let frames = Frames::default();
        Self { speaker, listener, lane, heard: 0, frames, greeting: news, phase }
    }

    /// The listener has read so many bytes in all.
    pub(super) fn read_upto(&mut self, bytes: u64) {
        while self.frames.ends.front().is_some_and(|end| *end <= bytes) {
            self.frames.read = self.frames.ends.pop_front().unwrap_or(self.frames.read);
        }
    }

    /// Whether the listener has read the frame with this byte to its end.
    pub(super) fn has_read_frame_at(&self, byte: u64) -> bool {
        self.frames.read > byte
    }

    /// Whether somebody who has read so many bytes is in the middle of a frame.
    pub(super) fn cuts_frame(&self, bytes: u64) -> bool {
        matches!(self.phase, Phase::Frames(_)) && self.frames.read != 0 && bytes > self.frames.read
    }

    /// Bytes were taken by the kernel: nobody can take them back.
    pub(super) fn hear(&mut self, mut bytes: &[u8], heard: &mut Heard) {
        self.heard += bytes.len() as u64;
        if let Phase::Prefix(left) = &mut self.phase {
            let taken = bytes.len().min(*left);
            *left -= taken;
            bytes = &bytes[taken..];
            if *left > 0 {
                return;
            }
            self.phase = Phase::Handshake(BytesMut::new());
        }
        if let Phase::Handshake(buffer) = &mut self.phase {
            buffer.extend_from_slice(bytes);
            self.phase = match decode_handshake(buffer) {
                Ok(None) => return,
                Ok(Some(message @ (Handshake::Hello(_) | Handshake::Welcome(_)))) => {
                    if matches!(message, Handshake::Welcome(_)) {
                        self.greeting.note(self.speaker, self.listener, &mut heard.said);
                    }
                    let reading = Reading {
                        decoder: Decoder::new(u64::MAX),
                        assemblies: Assemblies::new(u64::MAX),
                    };
                    let rest = std::mem::take(buffer);
                    self.frames.spoken = self.heard - rest.len() as u64;
                    self.frames.ends.push_back(self.frames.spoken);
                    self.phase = Phase::Frames(Box::new(reading));
                    return self.hear_frames(&rest, heard);
                }
                Ok(Some(Handshake::Refusal(_))) | Err(_) => Phase::Deaf,
            };
            return;
        }
        self.hear_frames(bytes, heard);
    }

    /// A decoder takes no more than belongs to one payload: what is complete goes first.
    fn hear_frames(&mut self, mut bytes: &[u8], heard: &mut Heard) {
        while !bytes.is_empty() {
            let Phase::Frames(reading) = &mut self.phase else { return };
            reading.decoder.push(&mut bytes);
            self.take_frames(heard);
        }
    }

    fn take_frames(&mut self, heard: &mut Heard) {
        let Phase::Frames(reading) = &mut self.phase else { return };
        let ends = Ends { local: self.listener, remote: self.speaker };
        loop {
            match reading.decoder.next_frame(ends) {
                Ok(Some((frame, bytes))) => {
                    self.frames.spoken += bytes;
                    self.frames.ends.push_back(self.frames.spoken);
                    self.greeting.note(self.speaker, self.listener, &mut heard.said);
                    let Frame::Chunk(chunk) = frame else {
                        note(self.speaker, self.listener, &frame, &mut heard.said);
                        heard.look(self.speaker, self.listener, self.lane, &frame);
                        continue;
                    };
                    let frame = match reading.assemblies.take(chunk, bytes, ends) {
                        Ok(Assembled::Whole { frame, .. }) => frame,
                        Ok(Assembled::Pending | Assembled::Abandoned { .. }) => continue,
                        Err(_) => {
                            self.phase = Phase::Deaf;
                            return;
                        }
                    };
                    heard.sightings.hit(Mark::FrameInChunks);
                    note(self.speaker, self.listener, &frame, &mut heard.said);
                    heard.look(self.speaker, self.listener, self.lane, &frame);
                }
                Ok(None) => return,
                Err(_) => {
                    self.phase = Phase::Deaf;
                    return;
                }
            }
        }
    }
}

impl Heard {
    /// Notes what is rare about a frame.
    fn look(&mut self, speaker: NodeId, listener: NodeId, lane: Lane, frame: &Frame) {
        match frame {
            Frame::Message(envelope) => match &envelope.message {
                Message::Append(_) => {
                    let key = (speaker, listener, envelope.group);
                    let before = self.appends.insert(key, lane);
                    let changed = before.is_some_and(|before| before != lane);
                    self.sightings.hit_if(changed, Mark::LaneChanged);
                }
                Message::AppendReply(reply) => match reply.result {
                    AppendResult::Rejected { .. } => self.sightings.hit(Mark::AppendRejected),
                    AppendResult::StaleTerm => self.sightings.hit(Mark::AppendStale),
                    AppendResult::Declined(_) => self.sightings.hit(Mark::SnapshotRefused),
                    AppendResult::Accepted { .. } | AppendResult::Receiving { .. } => {}
                },
                Message::TransferRefused(_) => self.sightings.hit(Mark::TransferRefused),
                Message::Snapshot(_) => self.sightings.hit(Mark::SnapshotSent),
                Message::PreVote(_)
                | Message::PreVoteReply(_)
                | Message::Vote(_)
                | Message::VoteReply(_)
                | Message::Heartbeat(_)
                | Message::HeartbeatReply(_)
                | Message::ReadConfirm(_)
                | Message::TimeoutNow(_)
                | Message::ReadIndex(_)
                | Message::ReadIndexReply(_)
                | Message::Recover(_)
                | Message::Fence(_) => {}
            },
            Frame::SnapshotPull(pull) => {
                let before = self.pulls.insert((speaker, listener, pull.group), *pull);
                self.sightings.hit_if(before == Some(*pull), Mark::SnapshotInterrupted);
                let of_entries = Part::unpack(pull.offset).is_some();
                self.sightings.hit_if(of_entries, Mark::EntryFetched);
            }
            Frame::Heartbeats(items) => {
                let mut groups = items.iter().map(|item| item.group);
                let first = groups.next();
                let many = groups.any(|group| Some(group) != first);
                self.sightings.hit_if(many, Mark::BatchOfManyGroups);
            }
            Frame::ReadConfirms(_)
            | Frame::HeartbeatReplies(_)
            | Frame::SnapshotChunk(_)
            | Frame::Clock { .. }
            | Frame::Condition(_)
            | Frame::User(_)
            | Frame::UserItems(_)
            | Frame::Chunk(_)
            | Frame::Grant { .. }
            | Frame::Credit { .. }
            | Frame::Ping { .. }
            | Frame::Pong { .. } => {}
        }
    }
}

impl Greeting {
    fn note(&mut self, node: NodeId, to: NodeId, said: &mut Vec<Said>) {
        if std::mem::replace(self, Self::Expected) == Self::Watched {
            let (group, replica) = (GroupId::new(0), ReplicaId::new(0));
            said.push(Said { node, to, group, replica, claim: Claim::Greets });
        }
    }
}

fn note(node: NodeId, to: NodeId, frame: &Frame, said: &mut Vec<Said>) {
    match frame {
        Frame::Message(envelope) => {
            let group = life_of(envelope.group, envelope.group_incarnation);
            let replica = envelope.from;
            let mut claim = |claim| said.push(Said { node, to, group, replica, claim });
            match &envelope.message {
                // A pre-vote asks about a term that nobody has entered, and so does its grant.
                Message::PreVote(_) => {}
                Message::PreVoteReply(reply) => match reply.verdict {
                    Verdict::Granted => {}
                    Verdict::Refused | Verdict::Removed => claim(Claim::Term(reply.term)),
                },
                Message::Vote(request) => {
                    if request.cause == Campaign::Transfer {
                        claim(Claim::HandsOver(request.term));
                    }
                    claim(Claim::Vote { term: request.term, candidate: replica });
                }
                Message::VoteReply(reply) => match reply.verdict {
                    Verdict::Granted => {
                        claim(Claim::Vote { term: reply.term, candidate: envelope.to });
                    }
                    Verdict::Refused | Verdict::Removed => claim(Claim::Term(reply.term)),
                },
                Message::AppendReply(reply) => match reply.result {
                    AppendResult::Accepted { durable, written, promise: Promise::Kept, .. } => {
                        claim(Claim::Held { term: reply.term, index: durable });
                        claim(Claim::Written { term: reply.term, index: written });
                    }
                    AppendResult::Accepted {
                        promise: Promise::Lost | Promise::Damaged | Promise::Unproven,
                        ..
                    }
                    | AppendResult::Rejected { .. }
                    | AppendResult::StaleTerm
                    | AppendResult::Receiving { .. }
                    | AppendResult::Declined(_) => claim(Claim::Term(reply.term)),
                },
                message @ (Message::Append(_)
                | Message::Heartbeat(_)
                | Message::HeartbeatReply(_)
                | Message::ReadConfirm(_)
                | Message::TimeoutNow(_)
                | Message::TransferRefused(_)
                | Message::ReadIndex(_)
                | Message::ReadIndexReply(_)
                | Message::Snapshot(_)
                | Message::Recover(_)
                | Message::Fence(_)) => claim(Claim::Term(message.term())),
            }
        }
        // Bytes of a file promise nothing.
        Frame::SnapshotPull(_) | Frame::SnapshotChunk(_) => {}
        Frame::Heartbeats(items) | Frame::ReadConfirms(items) => {
            for item in items {
                let (of, term, sent) = (item.to, item.heartbeat.term, item.heartbeat.sent);
                let (group, replica) = (life_of(item.group, item.group_incarnation), item.from);
                let said_of = |claim| Said { node, to, group, replica, claim };
                said.extend([Claim::Term(term), Claim::Asks { term, of, sent }].map(said_of));
            }
        }
        Frame::HeartbeatReplies(items) => {
            for item in items {
                let (leader, term, sent) = (item.to, item.reply.term, item.reply.sent);
                let (group, replica) = (life_of(item.group, item.group_incarnation), item.from);
                let said_of = |claim| Said { node, to, group, replica, claim };
                let answers = Claim::Answers { term, to: leader, sent };
                said.extend([Claim::Term(term), answers].map(said_of));
            }
        }
        Frame::Clock { wall } => {
            let (group, replica) = (GroupId::new(0), ReplicaId::new(0));
            said.push(Said { node, to, group, replica, claim: Claim::Clock(*wall) });
        }
        Frame::Condition(_)
        | Frame::User(_)
        | Frame::UserItems(_)
        | Frame::Chunk(_)
        | Frame::Grant { .. }
        | Frame::Credit { .. }
        | Frame::Ping { .. }
        | Frame::Pong { .. } => {}
    }
}
