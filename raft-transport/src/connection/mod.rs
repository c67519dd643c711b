//! One connection of a lane as a state machine over bytes: no socket, no clock, no task.
//!
//! Whoever drives it moves bytes between it and a stream and tells it the time. So the same code
//! runs over TCP, over memory and in a simulator.
//!
//! # Credit
//!
//! The acceptor grants the dialer a window of bytes. Every frame delivered, and every chunk of one
//! that is not whole yet, counts in full against it until the acceptor's user says it is consumed;
//! a quarter of a window at a time is given back. The dialer sends while any credit is left, so one
//! frame or chunk may exceed it. A message above a quarter of the window waits for a grant, which
//! adds its length to the window until it is through ([`GrantPool`]). Answers need no
//! credit, or the two directions could wait for each other: they are bounded by the questions
//! that credit lets in. On the control lane, where a node of one lane sends its appends as well, a
//! sixteenth of the window is left to votes and heartbeats.
//!
//! Invariants:
//! - Nothing but a Hello leaves a dialer, and nothing is delivered by an acceptor, before the
//!   handshake is done, and the life that dialed has answered a dial of ours: until then it is not
//!   read from.
//! - Bytes delivered and not yet given back never exceed the window, and what is granted beside it,
//!   by more than one frame or chunk.
//! - Whether the peer lives is judged by progress: bytes heard, bytes written. Bytes written say
//!   little, since a kernel takes megabytes that a slow link delivers much later; so who hears
//!   bytes and has nothing to say gives a sign of life, also in the middle of a frame.

pub(crate) mod config;
pub(crate) mod counters;
mod credit;
pub(crate) mod event;
pub(crate) mod grants;
mod handshake;
mod keepalive;
mod outbox;
pub(crate) mod replaceable;
mod urgent;
pub(crate) mod watch;

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::BytesMut;
use bytes::buf::Limit;
use raft_core::{GroupId, Incarnation, Micros, NodeId};
use tracing::error;

use self::config::LaneConfig;
use self::counters::LaneCounters;
pub use self::credit::Credit;
use self::credit::{Granted, Granting};
pub use self::event::{ConnectionId, Direction, LaneError, LaneEvent};
use self::grants::GrantPool;
use self::keepalive::Ping;
use self::outbox::Outbox;
use self::replaceable::Replaceable;
use self::watch::{ConnectionKey, Watched};
use crate::lane::{Lane, LaneClass};
use crate::network::peer_registry::PeerRegistry;
use crate::wire::assembly::{Assembled, Assemblies};
use crate::wire::chunk::{Chunk, ChunkEnd};
use crate::wire::decode::Decoder;
use crate::wire::encode::encode;
use crate::wire::frame::{Ends, Frame, FrameError, FrameKind};
use crate::wire::hello::{Handshake, Hello};
use crate::wire::order::{Order, is_urgent};
use crate::wire::transmit::Transmit;
use crate::wire::user::UserFrame;

/// Short frames that wait behind long ones of their order may take so many write buffers before
/// the connection takes nothing more. The windows of their groups end them earlier.
const BEHIND_MAX: u64 = 8;

/// What may be sent now.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Room {
    /// Bytes that a message may have to go without delay; zero: nothing may be sent.
    pub bytes: u64,
    /// Longer ones go in chunks.
    pub short_max: u64,
    /// Whether one that is longer may be sent as well. If not, so many wait already that it would
    /// only take memory.
    pub takes_long: bool,
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
    /// Room for what no window holds.
    pub grants: GrantPool,
    /// Of an accepted connection: which node it comes from, where that is proven.
    pub certified: Option<NodeId>,
}

/// One connection, without its stream.
#[derive(Debug)]
pub struct Connection {
    setup: ConnectionSetup,
    phase: Phase,
    decoder: Decoder,
    outbox: Outbox,
    assemblies: Assemblies,
    replaceable: Replaceable,
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

/// A frame that was not queued.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct NotQueued {
    pub(crate) user: UserFrame,
    /// What is wrong with it; `None`: too many others wait.
    pub(crate) error: Option<FrameError>,
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
    granting: Option<Box<Granting>>,
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
            decoder: Decoder::new(setup.config.frame_bytes_max)
                .with_user_body_max(setup.config.user_body_max),
            outbox: Outbox::new(setup.config.chunk_bytes, setup.config.long_messages_max),
            assemblies: Assemblies::new(setup.config.frame_bytes_max)
                .with_user_body_max(setup.config.user_body_max),
            replaceable: Replaceable::default(),
            setup,
            phase,
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
                granting.is_proven && !self.answers_wait()
            }
            Phase::Open(_) | Phase::Greeting { .. } | Phase::Awaiting { .. } => true,
            Phase::Ended(_) => false,
        }
    }

    /// Of an acceptor: whether so much of what it answers waits that it hears no more questions.
    fn answers_wait(&self) -> bool {
        matches!(self.phase, Phase::Open(Open { granting: Some(_), .. }))
            && self.queued() > self.setup.config.write_buffer_max
    }

    /// Bytes that the stream has not taken yet.
    fn queued(&self) -> u64 {
        self.outbox.transmit.len() + self.outbox.bytes()
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
                Frame::Credit { bytes } => {
                    open.granted.give(bytes)?;
                    self.fill();
                }
                Frame::Grant { bytes } => {
                    if !self.outbox.grant(bytes) {
                        return Err(LaneError::ExcessGrant { bytes });
                    }
                    open.granted.set_long(Some(bytes));
                    self.fill();
                }
                Frame::Ping { nonce } => {
                    // Where the stream has much to take, each byte of it is a sign of life, and
                    // who only pings must not fill our memory.
                    if self.outbox.transmit.len() <= self.setup.config.write_buffer_max {
                        self.queue_own(Frame::Pong { nonce });
                    }
                }
                Frame::Pong { nonce } => pong = Some(nonce),
                Frame::Chunk(chunk) => self.hear_chunk(chunk, bytes, events)?,
                Frame::Message(_)
                | Frame::Heartbeats(_)
                | Frame::ReadConfirms(_)
                | Frame::SnapshotPull(_)
                | Frame::SnapshotChunk(_)
                | Frame::User(_)
                | Frame::UserItems(_)
                | Frame::HeartbeatReplies(_)
                | Frame::Clock { .. }
                | Frame::Condition(_) => {
                    if let Some(granting) = &mut open.granting {
                        granting.take(bytes, self.setup.config.window_bytes)?;
                    }
                    self.deliver(frame, bytes, events);
                }
            }
        }
    }

    fn hear_chunk(
        &mut self,
        chunk: Chunk,
        bytes: u64,
        events: &mut VecDeque<LaneEvent>,
    ) -> Result<(), LaneError> {
        let Phase::Open(open) = &mut self.phase else {
            return Ok(());
        };
        let window = self.setup.config.window_bytes;
        self.setup.counters.chunks_in.bump();
        let begins = chunk.total;
        if let Some(granting) = &mut open.granting {
            if chunk.end != ChunkEnd::Abandoned {
                granting.take(bytes, window)?;
            }
            if let Some(total) = begins {
                granting.begin(total, window, &self.setup.grants)?;
            }
        } else if begins.is_some() && !self.assemblies.is_empty() {
            // Answers need no credit, so they come one after the other.
            return Err(LaneError::TooMuchBegun { window });
        }
        match self.assemblies.take(chunk, bytes, open.ends)? {
            Assembled::Pending => self.look_for_grant(),
            Assembled::Whole { frame, bytes, total } => {
                if let Some(granting) = &mut open.granting {
                    granting.end(total, window);
                }
                self.deliver(frame, bytes, events);
            }
            Assembled::Abandoned { bytes, total } => {
                if let Some(granting) = &mut open.granting {
                    granting.end(total, window);
                }
                self.consumed(bytes);
            }
        }
        Ok(())
    }

    /// Lets the long message that the peer has announced go on, if there is room for it.
    pub fn look_for_grant(&mut self) {
        let Phase::Open(Open { granting: Some(granting), .. }) = &mut self.phase else {
            return;
        };
        if let Some(bytes) = granting.grant_due() {
            self.setup.counters.grants_out.bump();
            self.queue_own(Frame::Grant { bytes });
        }
    }

    fn deliver(&self, frame: Frame, bytes: u64, events: &mut VecDeque<LaneEvent>) {
        let Phase::Open(open) = &self.phase else {
            return;
        };
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

    /// Bytes that may be queued now. A frame of any length may be queued whole while this is above
    /// zero; where it is zero only because long ones wait, [`room`](Self::room) has some for short
    /// ones.
    pub fn budget(&self) -> u64 {
        let room = self.room();
        if room.takes_long { room.bytes } else { 0 }
    }

    /// What may be queued now: what credit and write buffer leave.
    pub fn room(&self) -> Room {
        let Phase::Open(open) = &self.phase else {
            return Room::default();
        };
        let max = self.setup.config.write_buffer_max;
        let left = open.granted.left_to_share();
        let is_crowded = self.outbox.behind() > max.saturating_mul(BEHIND_MAX);
        let max_now = if is_crowded { 0 } else { max };
        let bytes = max_now.saturating_sub(self.outbox.transmit.len()).min(left);
        let chunk = self.outbox.chunk_bytes();
        if chunk == 0 || bytes == 0 {
            let short_max = if chunk == 0 { u64::MAX } else { chunk };
            return Room { bytes, short_max, takes_long: bytes > 0 };
        }
        let takes_long = self.outbox.crowding() < max;
        let most = if takes_long { open.granted.shared_message_max().max(chunk) } else { chunk };
        Room { bytes: bytes.min(most), short_max: chunk, takes_long }
    }

    /// Whether a frame may be queued now.
    pub fn admits(&self, frame: &Frame) -> bool {
        self.admits_about(frame.bytes_about(), is_urgent(frame))
    }

    fn admits_user(&self, user: &UserFrame) -> bool {
        self.admits_about(user.bytes_about(), user.class == LaneClass::Control)
    }

    /// `is_urgent`: it goes before others, on the control lane, where there may be others.
    fn admits_about(&self, bytes: u64, is_urgent: bool) -> bool {
        let room = self.room();
        let is_short = bytes <= room.short_max.saturating_mul(2);
        let left = match is_urgent && self.setup.lane == Lane::Control {
            true => self.urgent_room(),
            false => room.bytes,
        };
        left > 0 && (room.takes_long || is_short)
    }

    /// Bytes that may be queued now of frames that may not wait.
    fn urgent_room(&self) -> u64 {
        let Phase::Open(open) = &self.phase else {
            return 0;
        };
        let max = self.setup.config.write_buffer_max;
        max.saturating_sub(self.outbox.urgent_bytes()).min(open.granted.left())
    }

    /// Queues a frame, whether it is [admitted](Self::admits) or not; callers look at that first,
    /// except for answers. A batch may go as several frames, and of those none is begun without credit: what
    /// is left is then in `frame`, and `false` is returned.
    ///
    /// # Errors
    /// The frame cannot be encoded, and nothing is queued. Without a handshake done nothing is
    /// queued either, and that is no error: the connection is about to be reported down.
    pub fn queue(&mut self, frame: &mut Frame) -> Result<bool, FrameError> {
        let queued = self.queue_now(frame)?;
        self.fill();
        Ok(queued)
    }

    fn queue_now(&mut self, frame: &mut Frame) -> Result<bool, FrameError> {
        let Phase::Open(open) = &mut self.phase else {
            return Ok(true);
        };
        if let Frame::User(user) = frame {
            check_body(user, &self.setup.config)?;
        }
        let max = open.frame_bytes_max;
        let order = Order::of(frame);
        if !self.outbox.goes_at_once(frame.bytes_about(), order) {
            let mut bytes = Transmit::new();
            let encoded = encode(frame, open.ends, max, u64::MAX, &mut bytes)?;
            count_out(&self.setup.counters, frame, encoded.frames);
            let told = self.setup.watch.0.is_some().then(|| Box::new(frame.clone()));
            self.outbox.take(bytes, order, told);
            return Ok(true);
        }
        let credit = open.granted.left();
        let urgent = self.setup.lane == Lane::Control && is_urgent(frame);
        let encoded = encode(frame, open.ends, max, credit, &mut self.outbox.transmit)?;
        match urgent {
            true => self.outbox.went_urgently(encoded.bytes),
            false => self.outbox.went(encoded.bytes),
        }
        open.granted.spend(encoded.bytes);
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

    /// Queues a frame that a newer one makes superfluous, or keeps it, in the place of an older one,
    /// until there is room.
    ///
    /// # Errors
    /// Gives the frame back: too many others wait, or it cannot be encoded. Of one that has to wait
    /// only the length of its body is known to be right.
    pub(crate) fn queue_replaceable(&mut self, user: UserFrame) -> Result<(), NotQueued> {
        if let Err(error) = check_body(&user, &self.setup.config) {
            return Err(NotQueued { user, error: Some(error) });
        }
        if !self.replaceable.is_empty() || !self.admits_user(&user) {
            return self.keep(user).map_err(|user| NotQueued { user, error: None });
        }
        let mut frame = Frame::User(user);
        let Err(error) = self.queue(&mut frame) else { return Ok(()) };
        let Frame::User(user) = frame else { return Ok(()) };
        Err(NotQueued { user, error: Some(error) })
    }

    fn keep(&mut self, user: UserFrame) -> Result<(), UserFrame> {
        let older = self.replaceable.keep(user)?;
        self.setup.counters.frames_replaced.add(u64::from(older.is_some()));
        self.fill();
        Ok(())
    }

    /// Sends what waits to be replaced, as far as there is room, the oldest first.
    fn send_replaceable(&mut self) {
        while self.replaceable.first().is_some_and(|user| self.admits_user(user))
            && let Some(user) = self.replaceable.pop()
        {
            if let Err(error) = self.queue_now(&mut Frame::User(user)) {
                self.setup.counters.unsendable.bump();
                error!(lane = %self.setup.lane, %error, "frame cannot be sent");
            }
        }
    }

    /// Gives up the appends of a group that have not left whole: nobody needs them any more. What
    /// the peer holds of them it forgets.
    pub fn abandon(&mut self, group: GroupId) {
        let Phase::Open(open) = &mut self.phase else {
            return;
        };
        let abandoned = self.outbox.abandon(group, &mut open.granted);
        self.setup.counters.frames_abandoned.add(abandoned as u64);
        self.fill();
    }

    /// Moves long frames on, and what waits to be replaced, as far as the stream and the credit
    /// take them.
    fn fill(&mut self) {
        let Phase::Open(open) = &mut self.phase else {
            return;
        };
        self.outbox.fill(&mut open.granted);
        if !self.replaceable.is_empty() {
            self.send_replaceable();
            let Phase::Open(open) = &mut self.phase else {
                return;
            };
            self.outbox.fill(&mut open.granted);
        }
        self.setup.counters.chunks_out.add(std::mem::take(&mut self.outbox.chunks));
        for frame in self.outbox.told.drain(..) {
            if let (Some(watch), Some(key)) = (&self.setup.watch.0, &self.key) {
                watch.said(key, self.setup.id.direction(), &frame);
            }
        }
    }

    /// Bytes that have come of messages which are not whole.
    pub fn half_received(&self) -> u64 {
        self.assemblies.bytes()
    }

    /// The user is done with so many bytes of delivered frames. No effect on a dialed connection.
    pub fn consumed(&mut self, bytes: u64) {
        let window = self.setup.config.window_bytes;
        let Phase::Open(Open { granting: Some(granting), .. }) = &mut self.phase else {
            return;
        };
        let bytes = granting.consume(bytes, window);
        if bytes == 0 || raft_core::planted!(CreditsLeak) {
            return;
        }
        self.setup.counters.credits_out.bump();
        let lost = if raft_core::planted!(CreditRoundedDown) { bytes % 64 } else { 0 };
        self.queue_own(Frame::Credit { bytes: bytes - lost });
    }

    /// Queues a frame of the lane's own, which needs no credit.
    fn queue_own(&mut self, mut frame: Frame) {
        let Phase::Open(open) = &mut self.phase else {
            return;
        };
        let out = &mut self.outbox.transmit;
        let encoded = encode(&mut frame, open.ends, u64::MAX, u64::MAX, out);
        if raft_core::planted!(CreditCountsPings)
            && let (Frame::Ping { .. }, Granted::Window { used, .. }) = (&frame, &mut open.granted)
        {
            *used = used.saturating_sub(21);
        }
        self.outbox.went(encoded.map_or(0, |encoded| encoded.bytes));
    }

    fn end(&mut self, error: LaneError) -> LaneError {
        self.phase = Phase::Ended(error.clone());
        error
    }
}

/// A peer with our settings would end the connection over a longer one.
fn check_body(user: &UserFrame, config: &LaneConfig) -> Result<(), FrameError> {
    let (bytes, max) = (user.body_len(), u64::from(config.user_body_max));
    if bytes > max {
        return Err(FrameError::TooLarge { kind: FrameKind::User, bytes, max });
    }
    Ok(())
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
        | Frame::User(_)
        | Frame::UserItems(_)
        | Frame::Clock { .. }
        | Frame::Condition(_)
        | Frame::Chunk(_)
        | Frame::Grant { .. }
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
        | Frame::User(_)
        | Frame::UserItems(_)
        | Frame::Clock { .. }
        | Frame::Condition(_)
        | Frame::Chunk(_)
        | Frame::Grant { .. }
        | Frame::Credit { .. }
        | Frame::Ping { .. }
        | Frame::Pong { .. } => {}
    }
}

#[cfg(test)]
mod tests;
