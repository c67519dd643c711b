//! One connection: two ends, and what is under way between them.

use std::collections::VecDeque;
use std::io;

use raft_mux::PrefixDecoder;
use raft_transport::Lane;

use super::super::tap::Tap;
use super::super::tasks::TaskId;
use super::Place;

pub(super) struct Pipe {
    /// The lane asked for by the dialer: only for the choice of faults.
    pub(super) lane: Lane,
    pub(super) ends: [End; 2],
    /// What travels from each end to the other.
    pub(super) ways: [Way; 2],
    /// Until the dialer has said which lane it wants.
    pub(super) prefix: Option<PrefixDecoder>,
    pub(super) dial: Dial,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Dial {
    Connecting,
    Connected,
    Failed(io::ErrorKind),
}

pub(super) struct End {
    pub(super) place: Place,
    /// Which life of the node's process.
    pub(super) task: TaskId,
    pub(super) state: EndState,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum EndState {
    /// Not there yet.
    Unborn,
    Open,
    /// Broken: reads and writes fail.
    Broken(io::ErrorKind),
    /// Its process has closed it.
    Closed,
    /// Its machine lost power.
    Forgotten,
}

pub(super) struct Way {
    pub(super) flying: VecDeque<Packet>,
    /// Arrived and not read yet.
    pub(super) ready: VecDeque<u8>,
    /// Written and not known to have been read: what counts against the window.
    pub(super) in_use: usize,
    /// Bytes that the other end has read so far.
    pub(super) read: u64,
    /// When it last read some.
    pub(super) read_at: u64,
    /// Since when it has been in the middle of a frame.
    pub(super) within_since: Option<u64>,
    /// Until when what was written keeps a slow link busy.
    pub(super) busy_until: u64,
    /// Of what is in use, read, but the acknowledgement cannot come back.
    pub(super) unacknowledged: usize,
    /// No packet arrives before the one ahead of it.
    pub(super) last_at: u64,
    /// This lane alone is stuck until then.
    pub(super) stalled_until: u64,
    /// The connection was reset: what is written until its ends know of it arrives nowhere.
    pub(super) lost: bool,
    pub(super) ended: bool,
    pub(super) garble: Garble,
    /// The writer waits for room.
    pub(super) blocked: bool,
    pub(super) tap: Option<Box<Tap>>,
}

/// Whether a bit of what travels flips.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Garble {
    None,
    /// One of the next packet's; which one, this decides.
    Next(u64),
    /// It has, in the byte at this place.
    Done(u64),
}

pub(super) struct Packet {
    /// When it was sent. A thread that stands still in the middle of a turn sends later than what
    /// happens meanwhile, which is simulated after it.
    pub(super) left: u64,
    /// When it arrives.
    pub(super) at: u64,
    pub(super) content: Content,
}

pub(super) enum Content {
    Bytes(Vec<u8>),
    End,
}

impl Way {
    pub(super) fn new(tap: Tap) -> Self {
        Self {
            flying: VecDeque::new(),
            ready: VecDeque::new(),
            in_use: 0,
            read: 0,
            read_at: 0,
            within_since: None,
            busy_until: 0,
            unacknowledged: 0,
            last_at: 0,
            stalled_until: 0,
            lost: false,
            ended: false,
            garble: Garble::None,
            blocked: false,
            tap: Some(Box::new(tap)),
        }
    }
}
