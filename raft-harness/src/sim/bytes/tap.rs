//! What nodes say on the wire, heard where the bytes leave the process.
//!
//! The oracle must not trust the code that sends, so it listens to the bytes: prefix, handshake
//! and frames are decoded once more, beside the peer who will read them. Only what promises
//! something is passed on.

use bytes::BytesMut;
use raft_core::{
    AppendResult, GroupId, LogIndex, Message, NodeId, Promise, ReplicaId, Term, Verdict,
};
use raft_mux::PREFIX_LEN;
use raft_transport::{Decoder, Ends, Frame, Handshake, decode_handshake};

/// A promise that has left its node.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Said {
    pub(super) node: NodeId,
    pub(super) to: NodeId,
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
    /// "My disk holds the log of this term's leader up to here."
    Held { term: Term, index: LogIndex },
}

/// Listens to one direction of a connection.
pub(super) struct Tap {
    speaker: NodeId,
    listener: NodeId,
    greeting: Greeting,
    phase: Phase,
}

enum Phase {
    /// So many bytes of the prefix are still to come.
    Prefix(usize),
    Handshake(BytesMut),
    Frames(Box<Decoder>),
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
    pub(super) fn dialer(speaker: NodeId, listener: NodeId, greeting: Greeting) -> Self {
        Self { speaker, listener, greeting, phase: Phase::Prefix(PREFIX_LEN) }
    }

    pub(super) fn acceptor(speaker: NodeId, listener: NodeId, greeting: Greeting) -> Self {
        Self { speaker, listener, greeting, phase: Phase::Handshake(BytesMut::new()) }
    }

    /// Bytes were taken by the kernel: nobody can take them back. Returns how many of the frames
    /// they complete carry heartbeats of several groups.
    pub(super) fn hear(&mut self, mut bytes: &[u8], said: &mut Vec<Said>) -> u64 {
        if let Phase::Prefix(left) = &mut self.phase {
            let taken = bytes.len().min(*left);
            *left -= taken;
            bytes = &bytes[taken..];
            if *left > 0 {
                return 0;
            }
            self.phase = Phase::Handshake(BytesMut::new());
        }
        if let Phase::Handshake(buffer) = &mut self.phase {
            buffer.extend_from_slice(bytes);
            self.phase = match decode_handshake(buffer) {
                Ok(None) => return 0,
                Ok(Some(message @ (Handshake::Hello(_) | Handshake::Welcome(_)))) => {
                    if matches!(message, Handshake::Welcome(_)) {
                        self.greeting.note(self.speaker, self.listener, said);
                    }
                    let mut decoder = Decoder::new(u64::MAX);
                    let rest = std::mem::take(buffer);
                    push(&mut decoder, &rest);
                    Phase::Frames(Box::new(decoder))
                }
                Ok(Some(Handshake::Refusal(_))) | Err(_) => Phase::Deaf,
            };
        } else if let Phase::Frames(decoder) = &mut self.phase {
            push(decoder, bytes);
        }
        self.take_frames(said)
    }

    fn take_frames(&mut self, said: &mut Vec<Said>) -> u64 {
        let mut batches = 0;
        let Phase::Frames(decoder) = &mut self.phase else { return batches };
        let ends = Ends { local: self.listener, remote: self.speaker };
        loop {
            match decoder.next_frame(ends) {
                Ok(Some((frame, _))) => {
                    self.greeting.note(self.speaker, self.listener, said);
                    note(self.speaker, self.listener, &frame, said);
                    batches += u64::from(is_batch_of_many(&frame));
                }
                Ok(None) => return batches,
                Err(_) => {
                    self.phase = Phase::Deaf;
                    return batches;
                }
            }
        }
    }
}

fn push(decoder: &mut Decoder, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        decoder.push(&mut bytes);
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

fn is_batch_of_many(frame: &Frame) -> bool {
    matches!(frame, Frame::Heartbeats(items)
        if items.windows(2).any(|pair| pair[0].group != pair[1].group))
}

fn note(node: NodeId, to: NodeId, frame: &Frame, said: &mut Vec<Said>) {
    match frame {
        Frame::Message(envelope) => {
            let (group, replica) = (envelope.group, envelope.from);
            let mut claim = |claim| said.push(Said { node, to, group, replica, claim });
            match &envelope.message {
                // A pre-vote asks about a term that nobody has entered, and so does its grant.
                Message::PreVote(_) => {}
                Message::PreVoteReply(reply) => match reply.verdict {
                    Verdict::Granted => {}
                    Verdict::Refused | Verdict::Removed => claim(Claim::Term(reply.term)),
                },
                Message::Vote(request) => {
                    claim(Claim::Vote { term: request.term, candidate: replica });
                }
                Message::VoteReply(reply) => match reply.verdict {
                    Verdict::Granted => {
                        claim(Claim::Vote { term: reply.term, candidate: envelope.to });
                    }
                    Verdict::Refused | Verdict::Removed => claim(Claim::Term(reply.term)),
                },
                Message::AppendReply(reply) => match reply.result {
                    AppendResult::Accepted { durable, promise: Promise::Kept, .. } => {
                        claim(Claim::Held { term: reply.term, index: durable });
                    }
                    AppendResult::Accepted {
                        promise: Promise::Lost | Promise::Damaged, ..
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
            said.extend(items.iter().map(|item| Said {
                node,
                to,
                group: item.group,
                replica: item.from,
                claim: Claim::Term(item.heartbeat.term),
            }));
        }
        Frame::HeartbeatReplies(items) => {
            said.extend(items.iter().map(|item| Said {
                node,
                to,
                group: item.group,
                replica: item.from,
                claim: Claim::Term(item.reply.term),
            }));
        }
        Frame::Credit { .. } | Frame::Ping { .. } | Frame::Pong { .. } => {}
    }
}
