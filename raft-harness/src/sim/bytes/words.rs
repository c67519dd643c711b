//! What is heard on a connection is what was said there, word by word and in order; and nobody ends
//! a connection for what its peer never did.
//!
//! Tap and decoder share their code with the nodes, so bytes that mean the wrong thing at both
//! look right to both. Here the two ends' own words are held against each other.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;
use raft_core::{LogTime, Message};
use raft_transport::{
    Condition, ConnectionKey, Direction, Envelope, Frame, HeartbeatItem, HeartbeatReplyItem,
    LaneError, LaneWatch, SnapshotChunk, SnapshotPull,
};

use super::judge::Judge;
use super::network::{Ending, Net};
use super::sightings::Sightings;
use crate::sim::marks::Mark;
use crate::sim::violation::{Check, Violation};

/// Listens at all ends of all connections of a run. Clones share it.
#[derive(Clone)]
pub(super) struct Words(Arc<Shared>);

struct Shared {
    net: Net,
    judge: Judge,
    sightings: Sightings,
    under_way: Mutex<BTreeMap<(ConnectionKey, Speaker), VecDeque<Said>>>,
}

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Speaker {
    Dialer,
    Acceptor,
}

struct Said {
    word: Word,
    /// It ends what was said in one go.
    is_last: bool,
}

#[derive(Clone, Debug, PartialEq)]
enum Word {
    Message(Box<Envelope>),
    Beat(HeartbeatItem),
    Confirm(HeartbeatItem),
    Reply(HeartbeatReplyItem),
    Pull(SnapshotPull),
    Chunk(SnapshotChunk),
    Clock(Box<Frame>),
    Condition(Condition),
}

impl Words {
    pub(super) fn new(net: Net, judge: Judge, sightings: Sightings) -> Self {
        let under_way = Mutex::default();
        Self(Arc::new(Shared { net, judge, sightings, under_way }))
    }

    pub(super) fn watch(&self) -> Arc<dyn LaneWatch> {
        Arc::<Shared>::clone(&self.0)
    }
}

impl LaneWatch for Shared {
    fn said(&self, connection: &ConnectionKey, speaker: Direction, frame: &Frame) {
        let speaker = match speaker {
            Direction::Outgoing => Speaker::Dialer,
            Direction::Incoming => Speaker::Acceptor,
        };
        let mut under_way = self.under_way.lock();
        let queue = under_way.entry((*connection, speaker)).or_default();
        queue.extend(words(frame).into_iter().map(|word| Said { word, is_last: false }));
        if let Some(last) = queue.back_mut() {
            last.is_last = true;
        }
    }

    fn heard(&self, connection: &ConnectionKey, listener: Direction, frame: &Frame) {
        let speaker = match listener {
            Direction::Outgoing => Speaker::Acceptor,
            Direction::Incoming => Speaker::Dialer,
        };
        let mut under_way = self.under_way.lock();
        let queue = under_way.entry((*connection, speaker)).or_default();
        let mut ends_whole = true;
        for heard in words(frame) {
            let said = queue.pop_front();
            ends_whole = said.as_ref().is_none_or(|said| said.is_last);
            let said = said.map(|said| said.word);
            if said.as_ref() != Some(&heard) {
                let evidence = format!("{connection:?}: {heard:?} was heard, {said:?} was said");
                let violation = Violation::of_run(Check::Words, evidence);
                self.judge.lock().found.push(violation);
            }
        }
        self.sightings.hit_if(!ends_whole, Mark::BatchSplit);
    }

    fn ends(&self, reason: &LaneError) {
        let ending = match reason {
            LaneError::Frame(_)
            | LaneError::Handshake(_)
            | LaneError::WindowExceeded { .. }
            | LaneError::TooMuchBegun { .. }
            | LaneError::ExcessGrant { .. }
            | LaneError::ExcessCredit { .. } => Ending::Accuses(reason.to_string()),
            LaneError::KeepaliveTimeout | LaneError::Stalled { .. } => {
                Ending::Silence(reason.to_string())
            }
            _ => Ending::Other,
        };
        self.net.lock().ending = Some(ending);
    }
}

fn words(frame: &Frame) -> Vec<Word> {
    match frame {
        Frame::Message(envelope) => {
            let mut envelope = envelope.clone();
            if let Message::Append(append) = &mut envelope.message {
                // Not sent: the entries say it.
                append.configs.clear();
                append.time = LogTime::default();
            }
            vec![Word::Message(Box::new(envelope))]
        }
        Frame::Heartbeats(items) => items.iter().copied().map(Word::Beat).collect(),
        Frame::ReadConfirms(items) => items.iter().copied().map(Word::Confirm).collect(),
        Frame::HeartbeatReplies(items) => items.iter().copied().map(Word::Reply).collect(),
        Frame::SnapshotPull(pull) => vec![Word::Pull(*pull)],
        Frame::SnapshotChunk(chunk) => vec![Word::Chunk(chunk.clone())],
        Frame::Clock { .. } => vec![Word::Clock(Box::new(frame.clone()))],
        Frame::Condition(condition) => vec![Word::Condition(*condition)],
        Frame::User(_)
        | Frame::UserItems(_)
        | Frame::Chunk(_)
        | Frame::Grant { .. }
        | Frame::Credit { .. }
        | Frame::Ping { .. }
        | Frame::Pong { .. } => Vec::new(),
    }
}
