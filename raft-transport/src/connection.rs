//! One connection of a lane as a state machine over bytes: no socket, no clock, no task.
//!
//! Whoever drives it moves bytes between it and a stream and tells it the time. So the same code
//! runs over TCP, over memory and in a simulator.
//!
//! # Credit
//!
//! The acceptor grants the dialer a window of bytes. Every frame delivered counts in full against
//! it until the acceptor's user says it is consumed; a quarter of a window at a time is given
//! back. The dialer sends while any credit is left, so one frame may exceed it. Answers need no
//! credit, or the two directions could wait for each other: they are bounded by the questions
//! that credit lets in.
//!
//! Invariants:
//! - Nothing but a Hello leaves a dialer, and nothing is delivered by an acceptor, before the
//!   handshake is done, and the life that dialed has answered a dial of ours: until then it is not
//!   read from.
//! - Bytes delivered and not yet given back never exceed the window by more than one frame.
//! - Whether the peer lives is judged by progress: bytes heard, bytes written. Bytes written say
//!   little, since a kernel takes megabytes that a slow link delivers much later; so who hears
//!   bytes and has nothing to say gives a sign of life, also in the middle of a frame.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::Arc;

use bytes::BytesMut;
use bytes::buf::Limit;
use raft_core::{Incarnation, Micros, NodeId};

use crate::config::LaneConfig;
use crate::counters::LaneCounters;
use crate::decode::Decoder;
use crate::encode::encode;
use crate::frame::{Ends, Frame, FrameError};
use crate::hello::{
    HANDSHAKE_VERSION, Handshake, HandshakeError, Hello, HelloRefusal, Welcome, decode_handshake,
    encode_handshake,
};
use crate::lane::Lane;
use crate::peer_registry::PeerRegistry;
use crate::transmit::Transmit;
use crate::watch::{ConnectionKey, Watched};

/// Who opened a connection.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Direction {
    /// We dialed.
    Outgoing,
    /// The peer dialed.
    Incoming,
}

/// Names a connection among those of one [`Lanes`](crate::Lanes); never used twice.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ConnectionId(u64);

impl ConnectionId {
    /// The `number`-th connection of its direction.
    pub const fn new(number: u64, direction: Direction) -> Self {
        match direction {
            Direction::Outgoing => Self(number << 1),
            Direction::Incoming => Self(number << 1 | 1),
        }
    }

    /// Who opened it.
    pub const fn direction(self) -> Direction {
        if self.0 & 1 == 0 { Direction::Outgoing } else { Direction::Incoming }
    }
}

impl fmt::Debug for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}#{}", self.direction(), self.0 >> 1)
    }
}

/// What a lane tells its user.
#[derive(Debug)]
pub enum LaneEvent {
    /// A connection is ready: the handshake is done.
    Up {
        /// The peer.
        peer: NodeId,
        /// Which life of the peer.
        incarnation: Incarnation,
        /// The connection; its [`direction`](ConnectionId::direction) tells whether frames can be
        /// sent to the peer now, or will come from it.
        connection: ConnectionId,
    },
    /// A frame has come. Never a credit, ping or pong.
    Frame {
        /// Where answers go.
        connection: ConnectionId,
        /// The peer.
        from: NodeId,
        /// Which life of the peer.
        from_incarnation: Incarnation,
        /// What to give back by [`consumed`](crate::Lanes::consumed).
        bytes: u64,
        /// The frame.
        frame: Frame,
    },
    /// A connection that was up is gone; what was under way on it may or may not have arrived.
    Down {
        /// The peer.
        peer: NodeId,
        /// The connection.
        connection: ConnectionId,
        /// Why.
        reason: LaneError,
    },
}

/// Why a connection ended. Each ends only that connection.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum LaneError {
    /// The peer closed it.
    #[error("closed by the peer")]
    Closed,
    /// The stream failed.
    #[error("the stream failed: {kind}")]
    Io {
        /// What the system said.
        kind: io::ErrorKind,
    },
    /// The peer sent bytes that are no frame.
    #[error("bad frame")]
    Frame(#[from] FrameError),
    /// The peer sent bytes that are no handshake.
    #[error("bad handshake")]
    Handshake(#[from] HandshakeError),
    /// The peer does not talk to us, and says why.
    #[error("refused by the peer: {0}")]
    RefusedByPeer(HelloRefusal),
    /// We do not talk to the peer.
    #[error("refused: {0}")]
    Refused(HelloRefusal),
    /// The handshake took too long.
    #[error("no handshake in time")]
    HandshakeTimeout,
    /// A ping brought nothing back.
    #[error("the peer is silent")]
    KeepaliveTimeout,
    /// Bytes are queued and none can be written.
    #[error("stalled with {queued} bytes queued")]
    Stalled {
        /// How many bytes wait.
        queued: u64,
    },
    /// The peer sends more than its credit allows.
    #[error("the peer exceeds its window of {window} bytes")]
    WindowExceeded {
        /// The window.
        window: u64,
    },
    /// The peer gives back more credit than was used.
    #[error("the peer returns {bytes} bytes of credit, {used} are used")]
    ExcessCredit {
        /// What it gives.
        bytes: u64,
        /// What is used.
        used: u64,
    },
    /// A newer connection of the same lane, or a newer life of the peer, has taken its place.
    #[error("replaced by a newer connection")]
    Fenced,
    /// Too many connections were in their handshake; this one was the oldest.
    #[error("too many handshakes at a time")]
    Crowded,
    /// The peer was removed from the registry.
    #[error("the peer was removed")]
    PeerRemoved,
    /// We are closing.
    #[error("shut down")]
    ShutDown,
}

impl From<io::Error> for LaneError {
    fn from(error: io::Error) -> Self {
        Self::Io { kind: error.kind() }
    }
}

/// How the credit of a connection stands, as one of its ends counts it. When nothing is under way
/// both count the same.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Credit {
    /// Bytes sent, or delivered, for which no credit was given back yet.
    pub used: u64,
    /// Of these, bytes that the acceptor's user is done with; zero at a dialer.
    pub consumed: u64,
}

/// What every connection is given.
#[derive(Clone, Debug)]
pub struct ConnectionSetup {
    /// Its name in events.
    pub id: ConnectionId,
    /// The lane it is on.
    pub lane: Lane,
    /// The lane's settings.
    pub config: LaneConfig,
    /// Who may speak.
    pub registry: PeerRegistry,
    /// Where to count.
    pub counters: Arc<LaneCounters>,
    /// Who looks on.
    pub watch: Watched,
}

/// One connection, without its stream.
#[derive(Debug)]
pub struct Connection {
    setup: ConnectionSetup,
    phase: Phase,
    decoder: Decoder,
    transmit: Transmit,
    /// Bytes ever queued.
    queued_total: u64,
    /// Since when bytes have been waiting without any being written.
    stalled_since: Option<Micros>,
    last_heard: Micros,
    /// When the stream last took bytes of ours.
    last_spoke: Micros,
    /// A ping since which nothing was heard.
    ping: Option<Ping>,
    /// The newest ping and when it was written.
    pinged: Option<(u64, Micros)>,
    next_nonce: u64,
    /// What the connection is called at both ends, once that is known.
    key: Option<ConnectionKey>,
    /// Kept when the connection ends, so that its end can be told.
    met: Option<(NodeId, Incarnation)>,
}

#[derive(Debug)]
enum Phase {
    /// Dialed; the Hello is queued.
    Greeting {
        peer: NodeId,
        deadline: Micros,
    },
    /// Accepted; waiting for a Hello.
    Awaiting {
        deadline: Micros,
    },
    Open(Open),
    Ended(LaneError),
}

#[derive(Debug)]
struct Open {
    peer: NodeId,
    incarnation: Incarnation,
    ends: Ends,
    /// What the peer accepts.
    frame_bytes_max: u64,
    /// As the dialer.
    granted: Granted,
    /// As the acceptor.
    granting: Option<Granting>,
}

/// Credit to send, from the peer.
#[derive(Clone, Copy, Debug)]
enum Granted {
    Window {
        window: u64,
        used: u64,
    },
    /// Answers need none.
    Unlimited,
}

/// Credit given to the peer.
#[derive(Debug)]
struct Granting {
    hello: Hello,
    /// Whether the life it comes from has answered a dial of ours.
    is_proven: bool,
    /// Delivered and not yet given back, consumed or not.
    used: u64,
    /// Of these, consumed.
    consumed: u64,
}

#[derive(Clone, Copy, Debug)]
struct Ping {
    nonce: u64,
    /// Written once `queued_total - transmit.len()` reaches this.
    end: u64,
    written_at: Option<Micros>,
}

impl Connection {
    /// The dialer's end of a new connection to `peer`. Draws a new generation.
    pub fn dial(setup: ConnectionSetup, peer: NodeId, now: Micros) -> Self {
        let hello = setup.registry.hello(peer, setup.lane, setup.config.frame_bytes_max);
        let deadline = now.after(setup.config.handshake_timeout);
        let mut connection = Self::new(setup, Phase::Greeting { peer, deadline }, now);
        connection.key = Some(ConnectionKey::from(&hello));
        connection.queue_handshake(&Handshake::Hello(hello));
        connection
    }

    /// The acceptor's end of a new connection.
    pub fn accept(setup: ConnectionSetup, now: Micros) -> Self {
        let deadline = now.after(setup.config.handshake_timeout);
        Self::new(setup, Phase::Awaiting { deadline }, now)
    }

    fn new(setup: ConnectionSetup, phase: Phase, now: Micros) -> Self {
        Self {
            decoder: Decoder::new(setup.config.frame_bytes_max),
            setup,
            phase,
            transmit: Transmit::new(),
            queued_total: 0,
            stalled_since: None,
            last_heard: now,
            last_spoke: now,
            ping: None,
            pinged: None,
            next_nonce: 0,
            key: None,
            met: None,
        }
    }

    /// Its name.
    pub fn id(&self) -> ConnectionId {
        self.setup.id
    }

    /// The peer, from the end of the handshake on, also when the connection has ended.
    pub fn peer(&self) -> Option<NodeId> {
        self.met.map(|(peer, _)| peer)
    }

    /// Which life of the peer, likewise.
    pub fn peer_incarnation(&self) -> Option<Incarnation> {
        self.met.map(|(_, incarnation)| incarnation)
    }

    /// Whether frames can flow.
    pub fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open(_))
    }

    /// Whether the handshake is still going on.
    pub fn is_greeting(&self) -> bool {
        matches!(self.phase, Phase::Greeting { .. } | Phase::Awaiting { .. })
    }

    /// The Hello an accepted connection came with.
    pub(crate) fn hello(&self) -> Option<&Hello> {
        match &self.phase {
            Phase::Open(Open { granting: Some(granting), .. }) => Some(&granting.hello),
            Phase::Open(_) | Phase::Greeting { .. } | Phase::Awaiting { .. } | Phase::Ended(_) => {
                None
            }
        }
    }

    /// Whether reading may go on. An acceptor whose peer does not take its answers stops hearing
    /// its questions; a dialer always reads, so the two cannot wait for each other.
    pub fn wants_read(&self) -> bool {
        match &self.phase {
            Phase::Open(Open { granting: Some(granting), .. }) => {
                granting.is_proven && self.transmit.len() <= self.setup.config.write_buffer_max
            }
            Phase::Open(_) | Phase::Greeting { .. } | Phase::Awaiting { .. } => true,
            Phase::Ended(_) => false,
        }
    }

    /// Where the next bytes from the stream belong. Call [`on_bytes`](Self::on_bytes) after.
    pub fn read_buffer(&mut self) -> Limit<&mut BytesMut> {
        self.decoder.read_buffer()
    }

    /// As reading `bytes` from a stream and [`on_bytes`](Self::on_bytes), for tests and
    /// simulators.
    ///
    /// # Errors
    /// As for [`on_bytes`](Self::on_bytes).
    pub fn push_bytes(
        &mut self,
        now: Micros,
        mut bytes: &[u8],
        events: &mut VecDeque<LaneEvent>,
    ) -> Result<(), LaneError> {
        while !bytes.is_empty() {
            self.decoder.push(&mut bytes);
            self.on_bytes(now, events)?;
        }
        Ok(())
    }

    /// Bytes have come into the read buffer: appends what they mean to `events`.
    ///
    /// # Errors
    /// The connection is over; write what is queued (it may be a refusal) and close the stream.
    /// Every later call returns the same error.
    pub fn on_bytes(
        &mut self,
        now: Micros,
        events: &mut VecDeque<LaneEvent>,
    ) -> Result<(), LaneError> {
        self.last_heard = now;
        let heard = self.hear(now, events);
        heard.map_err(|error| self.end(error))
    }

    fn hear(&mut self, now: Micros, events: &mut VecDeque<LaneEvent>) -> Result<(), LaneError> {
        match &self.phase {
            Phase::Ended(error) => return Err(error.clone()),
            Phase::Greeting { .. } | Phase::Awaiting { .. } => {
                if !self.hear_handshake(events)? {
                    return Ok(());
                }
            }
            Phase::Open(_) => {}
        }
        // Any byte shows that the peer lives. The pong itself only tells the round trip.
        self.ping = None;
        if let Some(nonce) = self.hear_frames(events)?
            && let Some((pinged, at)) = self.pinged
            && nonce == pinged
        {
            let micros = u64::try_from(now.since(at).as_micros()).unwrap_or(u64::MAX);
            self.setup.counters.round_trip_us.set(micros);
        }
        Ok(())
    }

    /// Returns whether the handshake is done.
    fn hear_handshake(&mut self, events: &mut VecDeque<LaneEvent>) -> Result<bool, LaneError> {
        let decoded = match decode_handshake(self.decoder.buffered()) {
            Ok(Some(message)) => message,
            Ok(None) => return Ok(false),
            Err(HandshakeError::Version { theirs }) => {
                let refusal = HelloRefusal::WrongVersion { ours: HANDSHAKE_VERSION, theirs };
                return Err(self.refuse(refusal));
            }
            Err(error) => return Err(error.into()),
        };
        let open = match (&self.phase, decoded) {
            (Phase::Awaiting { .. }, Handshake::Hello(hello)) => self.hear_hello(hello)?,
            (Phase::Greeting { peer, .. }, Handshake::Welcome(welcome)) => {
                let peer = *peer;
                self.hear_welcome(peer, &welcome)?
            }
            (Phase::Greeting { .. }, Handshake::Refusal(refusal)) => {
                return Err(LaneError::RefusedByPeer(refusal));
            }
            (_, Handshake::Hello(_) | Handshake::Welcome(_) | Handshake::Refusal(_)) => {
                return Err(HandshakeError::OutOfTurn.into());
            }
        };
        events.push_back(LaneEvent::Up {
            peer: open.peer,
            incarnation: open.incarnation,
            connection: self.setup.id,
        });
        self.met = Some((open.peer, open.incarnation));
        self.phase = Phase::Open(open);
        Ok(true)
    }

    fn hear_hello(&mut self, hello: Hello) -> Result<Open, LaneError> {
        let identity = self.setup.registry.identity();
        let (local, shards) = (identity.node, identity.shards);
        if hello.lane.at_receiver(shards) != self.setup.lane {
            let (ours, theirs) = (self.setup.lane, hello.lane);
            return Err(self.refuse(HelloRefusal::WrongLane { ours, theirs }));
        }
        let mut welcome = match self.setup.registry.check(&hello) {
            Ok(welcome) => welcome,
            Err(refusal) => return Err(self.refuse(refusal)),
        };
        welcome.window_bytes = self.setup.config.window_bytes;
        welcome.frame_bytes_max = self.setup.config.frame_bytes_max;
        self.queue_handshake(&Handshake::Welcome(welcome));
        self.key = Some(ConnectionKey::from(&hello));
        let is_proven = self.setup.registry.has_answered(&hello);
        Ok(Open {
            peer: hello.node,
            incarnation: hello.incarnation,
            ends: Ends { local, remote: hello.node },
            frame_bytes_max: hello.frame_bytes_max,
            granted: Granted::Unlimited,
            granting: Some(Granting { hello, is_proven, used: 0, consumed: 0 }),
        })
    }

    fn hear_welcome(&self, peer: NodeId, welcome: &Welcome) -> Result<Open, LaneError> {
        self.setup.registry.check_welcome(peer, welcome).map_err(LaneError::Refused)?;
        Ok(Open {
            peer,
            incarnation: welcome.incarnation,
            ends: Ends { local: self.setup.registry.identity().node, remote: peer },
            frame_bytes_max: welcome.frame_bytes_max,
            granted: Granted::Window { window: welcome.window_bytes, used: 0 },
            granting: None,
        })
    }

    /// Hears what came with the Hello, if the life that said it has answered a dial of ours since.
    ///
    /// # Errors
    /// As for [`on_bytes`](Self::on_bytes).
    pub fn look_for_proof(&mut self, events: &mut VecDeque<LaneEvent>) -> Result<(), LaneError> {
        let registry = &self.setup.registry;
        let Phase::Open(Open { granting: Some(granting), .. }) = &mut self.phase else {
            return Ok(());
        };
        if granting.is_proven || !registry.has_answered(&granting.hello) {
            return Ok(());
        }
        granting.is_proven = true;
        let heard = self.hear_frames(events);
        heard.map(|_| ()).map_err(|error| self.end(error))
    }

    /// Returns the nonce of a pong, if one was among the frames.
    fn hear_frames(&mut self, events: &mut VecDeque<LaneEvent>) -> Result<Option<u64>, LaneError> {
        let mut pong = None;
        loop {
            let Phase::Open(open) = &mut self.phase else {
                return Ok(pong);
            };
            if open.granting.as_ref().is_some_and(|granting| !granting.is_proven) {
                return Ok(pong);
            }
            let Some((frame, bytes)) = self.decoder.next_frame(open.ends)? else {
                return Ok(pong);
            };
            match frame {
                Frame::Credit { bytes } => open.granted.give(bytes)?,
                Frame::Ping { nonce } => self.queue_own(Frame::Pong { nonce }),
                Frame::Pong { nonce } => pong = Some(nonce),
                Frame::Message(_)
                | Frame::Heartbeats(_)
                | Frame::ReadConfirms(_)
                | Frame::SnapshotPull(_)
                | Frame::SnapshotChunk(_)
                | Frame::HeartbeatReplies(_)
                | Frame::Clock { .. }
                | Frame::Condition(_) => {
                    if let Some(granting) = &mut open.granting {
                        granting.take(bytes, self.setup.config.window_bytes)?;
                    }
                    count_in(&self.setup.counters, &frame);
                    if let (Some(watch), Some(key)) = (&self.setup.watch.0, &self.key) {
                        watch.heard(key, self.setup.id.direction(), &frame);
                    }
                    events.push_back(LaneEvent::Frame {
                        connection: self.setup.id,
                        from: open.peer,
                        from_incarnation: open.incarnation,
                        bytes,
                        frame,
                    });
                }
            }
        }
    }

    /// How its credit stands; `None` before the handshake is done.
    pub fn credit(&self) -> Option<Credit> {
        let Phase::Open(open) = &self.phase else {
            return None;
        };
        let used = match (&open.granting, open.granted) {
            (Some(granting), _) => granting.used,
            (None, Granted::Window { used, .. }) => used,
            (None, Granted::Unlimited) => 0,
        };
        let consumed = open.granting.as_ref().map_or(0, |granting| granting.consumed);
        Some(Credit { used, consumed })
    }

    /// Bytes that may be queued now: what credit and write buffer leave. A frame may be queued
    /// whole while this is above zero.
    pub fn budget(&self) -> u64 {
        let Phase::Open(open) = &self.phase else {
            return 0;
        };
        let room = self.setup.config.write_buffer_max.saturating_sub(self.transmit.len());
        match open.granted {
            Granted::Window { window, used } => room.min(window.saturating_sub(used)),
            Granted::Unlimited => room,
        }
    }

    /// Queues a frame, whatever the [`budget`](Self::budget); callers look at that first, except
    /// for answers. A batch may go as several frames, and of those none is begun without credit: what
    /// is left is then in `frame`, and `false` is returned.
    ///
    /// # Errors
    /// The frame cannot be encoded, and nothing is queued. Without a handshake done nothing is
    /// queued either, and that is no error: the connection is about to be reported down.
    pub fn queue(&mut self, frame: &mut Frame) -> Result<bool, FrameError> {
        let Phase::Open(open) = &mut self.phase else {
            return Ok(true);
        };
        let max = open.frame_bytes_max;
        let credit = match open.granted {
            Granted::Window { window, used } => window.saturating_sub(used),
            Granted::Unlimited => u64::MAX,
        };
        let encoded = encode(frame, open.ends, max, credit, &mut self.transmit)?;
        self.queued_total += encoded.bytes;
        if let Granted::Window { used, .. } = &mut open.granted {
            *used += encoded.bytes;
        }
        let rest = frame.split_off_last(encoded.left);
        count_out(&self.setup.counters, frame, encoded.frames);
        if let (Some(watch), Some(key)) = (&self.setup.watch.0, &self.key) {
            watch.said(key, self.setup.id.direction(), frame);
        }
        match rest {
            Some(rest) => {
                *frame = rest;
                Ok(false)
            }
            None => Ok(true),
        }
    }

    /// The user is done with so many bytes of delivered frames. No effect on a dialed connection.
    pub fn consumed(&mut self, bytes: u64) {
        let window = self.setup.config.window_bytes;
        let Phase::Open(Open { granting: Some(granting), .. }) = &mut self.phase else {
            return;
        };
        granting.consumed = granting.consumed.saturating_add(bytes).min(granting.used);
        if granting.consumed == 0 || granting.consumed < window / 4 {
            return;
        }
        let bytes = granting.consumed;
        granting.used -= bytes;
        granting.consumed = 0;
        if raft_core::planted!(CreditsLeak) {
            return;
        }
        self.setup.counters.credits_out.bump();
        let lost = if raft_core::planted!(CreditRoundedDown) { bytes % 64 } else { 0 };
        self.queue_own(Frame::Credit { bytes: bytes - lost });
    }

    /// What to write next.
    pub fn transmit(&self) -> &Transmit {
        &self.transmit
    }

    /// The stream took `count` of the bytes to write; zero if it could take none now. Tell it
    /// after every attempt: this is how a stall is noticed.
    pub fn transmitted(&mut self, now: Micros, count: usize) {
        self.transmit.advance(count);
        if count > 0 {
            self.last_spoke = now;
        }
        if self.transmit.is_empty() {
            self.stalled_since = None;
        } else if count > 0 || self.stalled_since.is_none() {
            self.stalled_since = Some(now);
        }
        let written = self.queued_total - self.transmit.len();
        if let Some(ping) = self.ping.as_mut().filter(|ping| ping.end <= written) {
            ping.written_at.get_or_insert(now);
            self.pinged.get_or_insert((ping.nonce, now));
        }
    }

    /// When [`on_deadline`](Self::on_deadline) wants to be called, if nothing else happens.
    pub fn deadline(&self) -> Option<Micros> {
        match &self.phase {
            Phase::Greeting { deadline, .. } | Phase::Awaiting { deadline } => Some(*deadline),
            Phase::Ended(_) => None,
            Phase::Open(_) => {
                let stall = self.stall_deadline();
                let keepalive = match self.ping {
                    None => Some(self.ping_due()),
                    // While the ping itself waits to be written, the stall timeout watches.
                    Some(ping) => ping.written_at.map(|at| self.keepalive_deadline(at)),
                };
                stall.into_iter().chain(keepalive).min()
            }
        }
    }

    /// Looks at the clock: sends a ping, or finds that the connection is over.
    ///
    /// # Errors
    /// As for [`on_bytes`](Self::on_bytes).
    pub fn on_deadline(&mut self, now: Micros) -> Result<(), LaneError> {
        match &self.phase {
            Phase::Ended(error) => Err(error.clone()),
            Phase::Greeting { deadline, .. } | Phase::Awaiting { deadline } => {
                if now >= *deadline {
                    Err(self.end(LaneError::HandshakeTimeout))
                } else {
                    Ok(())
                }
            }
            Phase::Open(_) => {
                if self.stall_deadline().is_some_and(|deadline| now >= deadline) {
                    let queued = self.transmit.len();
                    return Err(self.end(LaneError::Stalled { queued }));
                }
                match self.ping {
                    None => {
                        if now >= self.ping_due() {
                            self.queue_ping();
                        }
                    }
                    Some(Ping { written_at: Some(at), .. }) => {
                        if now >= self.keepalive_deadline(at) {
                            return Err(self.end(LaneError::KeepaliveTimeout));
                        }
                    }
                    Some(Ping { written_at: None, .. }) => {}
                }
                Ok(())
            }
        }
    }

    /// A peer that takes none of our bytes and sends its own lives: it stops reading while its
    /// answers wait, and those come. If it reads no more it hears no pong, and closes.
    fn stall_deadline(&self) -> Option<Micros> {
        let since = self.stalled_since?.max(self.last_heard);
        Some(since.after(self.setup.config.stall_timeout))
    }

    /// A ping asks whether a silent peer lives. It also tells a peer that we do: one whose large
    /// frame is on its way to us for longer than the timeouts hears nothing else.
    fn ping_due(&self) -> Micros {
        let owes_sign = self.last_heard > self.last_spoke && self.transmit.is_empty();
        let since = if owes_sign { self.last_spoke } else { self.last_heard };
        since.after(self.setup.config.keepalive_interval)
    }

    fn keepalive_deadline(&self, written_at: Micros) -> Micros {
        written_at.after(self.setup.config.keepalive_timeout)
    }

    fn queue_ping(&mut self) {
        let nonce = self.next_nonce;
        self.next_nonce += 1;
        self.queue_own(Frame::Ping { nonce });
        self.setup.counters.pings_out.bump();
        self.pinged = None;
        self.ping = Some(Ping { nonce, end: self.queued_total, written_at: None });
    }

    /// Queues a frame of the lane's own, which needs no credit.
    fn queue_own(&mut self, mut frame: Frame) {
        let Phase::Open(open) = &mut self.phase else {
            return;
        };
        let encoded = encode(&mut frame, open.ends, u64::MAX, u64::MAX, &mut self.transmit);
        if raft_core::planted!(CreditCountsPings)
            && let (Frame::Ping { .. }, Granted::Window { used, .. }) = (&frame, &mut open.granted)
        {
            *used = used.saturating_sub(21);
        }
        self.queued_total += encoded.map_or(0, |encoded| encoded.bytes);
    }

    fn queue_handshake(&mut self, message: &Handshake) {
        let bytes = encode_handshake(message);
        self.queued_total += bytes.len() as u64;
        self.transmit.put_slice(&bytes);
    }

    /// Tells a dialer why it is not taken.
    fn refuse(&mut self, refusal: HelloRefusal) -> LaneError {
        if matches!(self.phase, Phase::Awaiting { .. }) {
            self.queue_handshake(&Handshake::Refusal(refusal.clone()));
        }
        LaneError::Refused(refusal)
    }

    fn end(&mut self, error: LaneError) -> LaneError {
        self.phase = Phase::Ended(error.clone());
        error
    }
}

impl Granted {
    fn give(&mut self, bytes: u64) -> Result<(), LaneError> {
        let used = match self {
            Self::Window { used, .. } => used,
            Self::Unlimited => return Err(LaneError::ExcessCredit { bytes, used: 0 }),
        };
        if bytes > *used {
            return Err(LaneError::ExcessCredit { bytes, used: *used });
        }
        *used -= bytes;
        Ok(())
    }
}

impl Granting {
    /// Credit in flight to the peer makes it see no more than we count, so a correct peer is
    /// never found guilty.
    fn take(&mut self, bytes: u64, window: u64) -> Result<(), LaneError> {
        if self.used >= window {
            return Err(LaneError::WindowExceeded { window });
        }
        self.used += bytes;
        Ok(())
    }
}

fn count_in(counters: &LaneCounters, frame: &Frame) {
    counters.frames_in.bump();
    match frame {
        Frame::Heartbeats(_) => counters.heartbeat_frames_in.bump(),
        Frame::ReadConfirms(_) => counters.read_confirm_frames_in.bump(),
        Frame::HeartbeatReplies(_) => counters.heartbeat_reply_frames_in.bump(),
        Frame::Message(_)
        | Frame::SnapshotPull(_)
        | Frame::SnapshotChunk(_)
        | Frame::Clock { .. }
        | Frame::Condition(_)
        | Frame::Credit { .. }
        | Frame::Ping { .. }
        | Frame::Pong { .. } => {}
    }
}

fn count_out(counters: &LaneCounters, frame: &Frame, frames: u64) {
    counters.frames_out.add(frames);
    match frame {
        Frame::Heartbeats(_) => counters.heartbeat_frames_out.add(frames),
        Frame::ReadConfirms(_) => counters.read_confirm_frames_out.add(frames),
        Frame::HeartbeatReplies(_) => counters.heartbeat_reply_frames_out.add(frames),
        Frame::Message(_)
        | Frame::SnapshotPull(_)
        | Frame::SnapshotChunk(_)
        | Frame::Clock { .. }
        | Frame::Condition(_)
        | Frame::Credit { .. }
        | Frame::Ping { .. }
        | Frame::Pong { .. } => {}
    }
}

#[cfg(test)]
mod tests;
