//! All connections of one lane, as the thread that owns the lane polls them.
//!
//! No task per connection and no channel per frame: the thread that steps the groups also reads
//! and writes their sockets, because handing bytes to another thread costs more than the bytes.
//!
//! Invariants:
//! - Each connection lives alone: its dial, back-off, handshake, keepalive and end touch no other.
//! - One call of [`poll`](Lanes::poll) does bounded work per connection, then comes back.
//! - Every [`Up`](LaneEvent::Up) is followed by exactly one [`Down`](LaneEvent::Down), and an old
//!   connection's `Down` comes before the `Up` of the one that takes its place.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::io::IoSlice;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use raft_core::{Micros, NodeId};
use tokio::io::{AsyncReadExt, AsyncWrite};
use tokio::time::{Instant, Sleep};
use tracing::{debug, error, info, warn};

use crate::backoff::Backoff;
use crate::config::LaneConfig;
use crate::connection::{
    Connection, ConnectionId, ConnectionSetup, Credit, Direction, LaneError, LaneEvent,
};
use crate::counters::LaneCounters;
use crate::frame::Frame;
use crate::hello::HelloRefusal;
use crate::lane::Lane;
use crate::log_limit::LogLimit;
use crate::network::{BoxFuture, BoxStream, Network, NetworkError};
use crate::peer_registry::{PeerRegistry, PeerView, Watcher};
use crate::watch::{LaneWatch, Watched};

/// Most bytes read from one connection per poll; who has more waits for the next round.
const READ_BYTES_PER_POLL: usize = 256 << 10;

/// Most connections accepted per poll.
const ACCEPTS_PER_POLL: usize = 16;

/// Most accepted connections in their handshake; one more ends the oldest.
const HANDSHAKES_MAX: usize = 64;

/// Slices per vectored write; Linux takes up to 1024, and 64 reach beyond a socket buffer.
const SLICES_PER_WRITE: usize = 64;

/// A dial or an accept under way.
type Opening = BoxFuture<'static, Result<BoxStream, NetworkError>>;

/// The connections of one lane: one dialed to each peer, and those dialed by peers.
///
/// Used on one thread, within a tokio runtime with I/O and time. The runtime's clock and the
/// `now` arguments must run at the same pace. A driver with a clock of its own takes the timer
/// over with [`without_timer`](Self::without_timer); then no runtime is needed.
pub struct Lanes {
    network: Arc<dyn Network>,
    registry: PeerRegistry,
    lane: Lane,
    config: LaneConfig,
    counters: Arc<LaneCounters>,
    watch: Watched,
    outgoing: BTreeMap<NodeId, Outgoing>,
    connections: BTreeMap<ConnectionId, Live>,
    accepting: Option<Opening>,
    /// No accepts before this moment: the last one failed.
    accept_after: Option<Micros>,
    next_connection: u64,
    /// The registry's epoch last looked at.
    epoch: u64,
    watcher: Arc<Watcher>,
    waker: Option<Waker>,
    /// Wakes the lanes at or before the earliest deadline.
    timer: Timer,
    /// Downs found outside of `poll`.
    pending: VecDeque<LaneEvent>,
    /// Reused by `poll`: what a handshake brought, and what has ended.
    fresh: VecDeque<LaneEvent>,
    ended: Vec<(ConnectionId, LaneError)>,
    logs: LogLimits,
    /// Grows with every change of a refusal.
    refusals: u64,
    closed: bool,
}

/// Why a peer that answers is not reached.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PeerRefusal {
    /// Who refuses.
    pub by: Refuser,
    /// Why. "This" in its words is who refuses.
    pub reason: HelloRefusal,
}

impl PeerRefusal {
    fn of(end: &LaneError) -> Option<Self> {
        if let LaneError::Refused(reason) = end {
            Some(Self { by: Refuser::Us, reason: reason.clone() })
        } else if let LaneError::RefusedByPeer(reason) = end {
            Some(Self { by: Refuser::Peer, reason: reason.clone() })
        } else {
            None
        }
    }
}

/// Which end of a connection refused the other.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Refuser {
    /// This node.
    Us,
    /// The peer.
    Peer,
}

/// Who wakes the lanes when a deadline comes.
enum Timer {
    /// The runtime, once something is due: at or before the earliest deadline.
    Runtime(Option<(Micros, Pin<Box<Sleep>>)>),
    /// Whoever polls the lanes; it asks for the deadline.
    Caller,
}

/// One limit per kind of warning.
#[derive(Default)]
struct LogLimits {
    refused: LogLimit,
    refused_by_peer: LogLimit,
    misbehaving: LogLimit,
    accept: LogLimit,
    /// Connections that never said who they are.
    strangers: LogLimit,
    /// Connections of peers that fell silent or came anew.
    lost: LogLimit,
}

/// The outgoing connection to one peer, through all its lives.
struct Outgoing {
    state: OutgoingState,
    backoff: Backoff,
    hellos: u64,
    was_up: bool,
    /// What the last refusal said, until the peer is reached or nobody answers there.
    refused: Option<PeerRefusal>,
    /// When a greeting last made us dial at once.
    reset_at: Option<Micros>,
}

enum OutgoingState {
    Waiting { until: Micros },
    Dialing(Opening),
    Connected(ConnectionId),
}

struct Live {
    stream: BoxStream,
    connection: Connection,
    /// Whether the stream itself holds nothing back.
    flushed: bool,
}

impl Lanes {
    /// Lanes to all peers of the registry, present and future. Nothing happens before the first
    /// [`poll`](Self::poll), which starts all dials.
    pub fn new(
        network: Arc<dyn Network>,
        registry: PeerRegistry,
        lane: Lane,
        config: LaneConfig,
        counters: Arc<LaneCounters>,
    ) -> Self {
        Self {
            watcher: registry.watch(),
            network,
            registry,
            lane,
            config,
            counters,
            watch: Watched::default(),
            outgoing: BTreeMap::new(),
            connections: BTreeMap::new(),
            accepting: None,
            accept_after: Some(Micros::ZERO),
            next_connection: 0,
            epoch: 0,
            waker: None,
            timer: Timer::Runtime(None),
            pending: VecDeque::new(),
            fresh: VecDeque::new(),
            ended: Vec::new(),
            logs: LogLimits::default(),
            refusals: 0,
            closed: false,
        }
    }

    /// Leaves the timer to the caller, who polls again when
    /// [`next_deadline`](Self::next_deadline) has come: for drivers with a clock of their own.
    #[must_use]
    pub fn without_timer(mut self) -> Self {
        self.timer = Timer::Caller;
        self
    }

    /// Lets somebody look on, for simulators.
    #[must_use]
    pub fn watched(mut self, watch: Arc<dyn LaneWatch>) -> Self {
        self.watch = Watched(Some(watch));
        self
    }

    /// The lane.
    pub fn lane(&self) -> Lane {
        self.lane
    }

    /// Moves everything on: dials, accepts, handshakes, writes, reads, deadlines. Appends what
    /// happened to `events` and arranges to be woken when more can be done.
    pub fn poll(&mut self, cx: &mut Context<'_>, now: Micros, events: &mut VecDeque<LaneEvent>) {
        events.append(&mut self.pending);
        if self.closed {
            return;
        }
        if !self.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            self.watcher.register(cx.waker());
            self.waker = Some(cx.waker().clone());
        }
        self.follow_registry(now, events);
        self.poll_accepts(cx, now);
        self.poll_dials(cx, now);
        // Newcomers first: whom they replace must not deliver anything after them.
        self.poll_connections(cx, now, events, Round::Greeting);
        self.follow_registry(now, events);
        events.append(&mut self.fresh);
        self.poll_connections(cx, now, events, Round::Open);
        self.arm_timer(cx, now);
    }

    /// Bytes that may be sent to `peer` now; 0 while there is no connection. A frame may be sent
    /// whole while this is above zero.
    pub fn budget(&self, peer: NodeId) -> u64 {
        self.outgoing_live(peer).map_or(0, |live| live.connection.budget())
    }

    /// Queues a frame on the outgoing connection to `peer`; it leaves with the next
    /// [`flush`](Self::flush) or [`poll`](Self::poll). A batch may leave as several frames.
    ///
    /// # Errors
    /// Gives the frame back: there is no connection, or no [`budget`](Self::budget); of a batch what
    /// there was no budget for. Also if the
    /// frame cannot be encoded, which is a mistake of the caller, logged and counted.
    #[allow(clippy::result_large_err, reason = "the frame goes back to whoever may still need it")]
    pub fn send(&mut self, peer: NodeId, mut frame: Frame) -> Result<(), Frame> {
        let Some(OutgoingState::Connected(id)) = self.outgoing.get(&peer).map(|out| &out.state)
        else {
            return Err(frame);
        };
        let Some(live) = self.connections.get_mut(id) else {
            return Err(frame);
        };
        if live.connection.budget() == 0 {
            if live.connection.is_open() {
                self.counters.credit_stalls.bump();
            }
            return Err(frame);
        }
        match live.connection.queue(&mut frame) {
            Ok(true) => Ok(()),
            Ok(false) => {
                self.counters.credit_stalls.bump();
                Err(frame)
            }
            Err(error) => {
                self.counters.unsendable.bump();
                error!(lane = %self.lane, %peer, %error, "frame cannot be sent");
                Err(frame)
            }
        }
    }

    /// Queues an answer on the connection its question came on. Dropped if that is gone: the
    /// question will come again, if it still matters.
    pub fn reply(&mut self, connection: ConnectionId, mut frame: Frame) {
        let Some(live) = self.connections.get_mut(&connection) else {
            return;
        };
        if let Err(error) = live.connection.queue(&mut frame) {
            self.counters.unsendable.bump();
            error!(lane = %self.lane, ?connection, %error, "answer cannot be sent");
        }
    }

    /// Gives credit back: the user is done with so many [`bytes`](LaneEvent::Frame) of frames from
    /// this connection. No effect if it is gone.
    pub fn consumed(&mut self, connection: ConnectionId, bytes: u64) {
        if let Some(live) = self.connections.get_mut(&connection) {
            live.connection.consumed(bytes);
        }
    }

    /// Writes what is queued, with one vectored write per connection as long as that suffices.
    pub fn flush(&mut self, cx: &mut Context<'_>, now: Micros) {
        let mut ended = std::mem::take(&mut self.ended);
        for (&id, live) in &mut self.connections {
            if live.connection.transmit().is_empty() {
                continue;
            }
            if let Err(error) = live.write(cx, now, &self.counters) {
                ended.push((id, error));
            }
        }
        let mut pending = std::mem::take(&mut self.pending);
        for (id, error) in ended.drain(..) {
            self.end(id, error, now, &mut pending);
            cx.waker().wake_by_ref();
        }
        self.pending = pending;
        self.ended = ended;
    }

    /// Whether the outgoing connection to `peer` is past its handshake.
    pub fn is_up(&self, peer: NodeId) -> bool {
        self.outgoing_live(peer).is_some_and(|live| live.connection.is_open())
    }

    /// How the credit of each connection that is up stands, by peer and by who opened it.
    pub fn credits(&self) -> impl Iterator<Item = (NodeId, Direction, Credit)> + '_ {
        self.connections.iter().filter_map(|(id, live)| {
            Some((live.connection.peer()?, id.direction(), live.connection.credit()?))
        })
    }

    /// Closes every connection, for good. The `Down`s come with the next [`poll`](Self::poll).
    pub fn close(&mut self) {
        self.closed = true;
        self.accepting = None;
        if let Timer::Runtime(timer) = &mut self.timer {
            *timer = None;
        }
        let mut pending = std::mem::take(&mut self.pending);
        for id in self.connections.keys().copied().collect::<Vec<_>>() {
            self.end(id, LaneError::ShutDown, Micros::ZERO, &mut pending);
        }
        self.pending = pending;
        self.outgoing.clear();
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn outgoing_live(&self, peer: NodeId) -> Option<&Live> {
        match &self.outgoing.get(&peer)?.state {
            OutgoingState::Connected(id) => self.connections.get(id),
            OutgoingState::Waiting { .. } | OutgoingState::Dialing(_) => None,
        }
    }

    /// Looks at what other lanes learned: new and removed peers, newer lives, signs of life.
    fn follow_registry(&mut self, now: Micros, events: &mut VecDeque<LaneEvent>) {
        let epoch = self.registry.epoch();
        if epoch == self.epoch {
            return;
        }
        self.epoch = epoch;
        let peers = self.registry.view();
        self.outgoing.retain(|peer, _| peers.contains_key(peer));
        for (&peer, view) in &peers {
            self.outgoing
                .entry(peer)
                .or_insert_with(|| {
                    Outgoing::new(&self.config, &self.registry, peer, self.lane, now)
                })
                .notice(view, now);
        }
        let mut ended = std::mem::take(&mut self.ended);
        for (&id, live) in &self.connections {
            let Some(peer) = live.connection.peer() else {
                continue;
            };
            let newest = match live.connection.hello() {
                Some(hello) => self.registry.is_newest(hello),
                None => peers
                    .get(&peer)
                    .is_some_and(|view| view.incarnation == live.connection.peer_incarnation()),
            };
            if !peers.contains_key(&peer) {
                ended.push((id, LaneError::PeerRemoved));
            } else if !newest {
                ended.push((id, LaneError::Fenced));
            }
        }
        for (id, error) in ended.drain(..) {
            let came_up = self.fresh.iter().any(|event| match event {
                LaneEvent::Up { connection, .. } => *connection == id,
                LaneEvent::Frame { .. } | LaneEvent::Down { .. } => false,
            });
            if came_up {
                // Two newcomers at once: this one's Down must follow its Up.
                let mut fresh = std::mem::take(&mut self.fresh);
                self.end(id, error, now, &mut fresh);
                self.fresh = fresh;
            } else {
                self.end(id, error, now, events);
            }
        }
        self.ended = ended;
    }

    fn poll_accepts(&mut self, cx: &mut Context<'_>, now: Micros) {
        if self.accept_after.is_none_or(|after| now < after) {
            return;
        }
        for _ in 0..ACCEPTS_PER_POLL {
            let accepting = self.accepting.get_or_insert_with(|| {
                let (network, lane) = (self.network.clone(), self.lane);
                Box::pin(async move { network.accept(lane).await })
            });
            let Poll::Ready(accepted) = accepting.as_mut().poll(cx) else {
                return;
            };
            self.accepting = None;
            match accepted {
                Ok(stream) => self.take_in(stream, now),
                Err(error) if error.ends_accepting() => {
                    debug!(lane = %self.lane, %error, "accepts no more");
                    self.accept_after = None;
                    return;
                }
                Err(error) => {
                    if let Some(suppressed) = self.logs.accept.permit(now) {
                        warn!(lane = %self.lane, %error, suppressed, "accept failed");
                    }
                    self.accept_after = Some(now.after(self.config.backoff_min));
                    return;
                }
            }
        }
        cx.waker().wake_by_ref();
    }

    fn take_in(&mut self, stream: BoxStream, now: Micros) {
        self.counters.accepted.bump();
        let greeting = |(id, live): (&ConnectionId, &Live)| {
            let incoming = id.direction() == Direction::Incoming;
            (incoming && live.connection.is_greeting()).then_some(*id)
        };
        if self.connections.iter().filter_map(greeting).count() >= HANDSHAKES_MAX
            && let Some(oldest) = self.connections.iter().find_map(greeting)
        {
            // It knows no peer yet, so nobody is told.
            let nobody = &mut VecDeque::new();
            self.end(oldest, LaneError::Crowded, now, nobody);
        }
        let setup = self.setup(Direction::Incoming);
        let (id, connection) = (setup.id, Connection::accept(setup, now));
        self.connections.insert(id, Live { stream, connection, flushed: true });
    }

    fn poll_dials(&mut self, cx: &mut Context<'_>, now: Micros) {
        let mut connected = Vec::new();
        let refusals = &mut self.refusals;
        for (&peer, outgoing) in &mut self.outgoing {
            if let OutgoingState::Waiting { until } = outgoing.state
                && until <= now
            {
                self.counters.dials.bump();
                let network = self.network.clone();
                let (lane, timeout) = (self.lane, self.config.connect_timeout);
                outgoing.state = OutgoingState::Dialing(Box::pin(async move {
                    network.dial(peer, lane, timeout).await
                }));
            }
            let OutgoingState::Dialing(dialing) = &mut outgoing.state else {
                continue;
            };
            match dialing.as_mut().poll(cx) {
                Poll::Pending => {}
                Poll::Ready(Ok(stream)) => connected.push((peer, stream)),
                Poll::Ready(Err(error)) => {
                    debug!(lane = %self.lane, %peer, %error, "dial failed");
                    self.counters.dial_failures.bump();
                    *refusals += u64::from(outgoing.refused.take().is_some());
                    outgoing.wait(now);
                }
            }
        }
        for (peer, stream) in connected {
            let setup = self.setup(Direction::Outgoing);
            let (id, connection) = (setup.id, Connection::dial(setup, peer, now));
            self.connections.insert(id, Live { stream, connection, flushed: true });
            if let Some(outgoing) = self.outgoing.get_mut(&peer) {
                outgoing.state = OutgoingState::Connected(id);
            }
        }
    }

    fn poll_connections(
        &mut self,
        cx: &mut Context<'_>,
        now: Micros,
        events: &mut VecDeque<LaneEvent>,
        round: Round,
    ) {
        let mut ended = std::mem::take(&mut self.ended);
        for (&id, live) in &mut self.connections {
            let greeting = live.connection.is_greeting();
            let (due, heard) = match round {
                Round::Greeting => (greeting, &mut self.fresh),
                Round::Open => (!greeting, &mut *events),
            };
            if !due {
                continue;
            }
            let result = live.drive(cx, now, heard, &self.counters);
            if greeting && let Some(peer) = live.connection.peer() {
                came_up(&self.counters, &mut self.outgoing, &mut self.refusals, id, peer);
            }
            if let Err(error) = result {
                ended.push((id, error));
            }
        }
        for (id, error) in ended.drain(..) {
            match round {
                Round::Greeting => {
                    // It may have come up and died in one go; its Down must follow its Up.
                    let mut fresh = std::mem::take(&mut self.fresh);
                    self.end(id, error, now, &mut fresh);
                    self.fresh = fresh;
                }
                Round::Open => self.end(id, error, now, events),
            }
        }
        self.ended = ended;
    }

    fn setup(&mut self, direction: Direction) -> ConnectionSetup {
        self.next_connection += 1;
        ConnectionSetup {
            id: ConnectionId::new(self.next_connection, direction),
            lane: self.lane,
            config: self.config.clone(),
            registry: self.registry.clone(),
            counters: self.counters.clone(),
            watch: self.watch.clone(),
        }
    }
}

/// Which connections one pass is about.
#[derive(Clone, Copy)]
enum Round {
    Greeting,
    Open,
}

impl Lanes {
    /// Removes a connection and tells whoever knew it.
    fn end(
        &mut self,
        id: ConnectionId,
        reason: LaneError,
        now: Micros,
        events: &mut VecDeque<LaneEvent>,
    ) {
        let Some(live) = self.connections.remove(&id) else {
            return;
        };
        if let Some(watch) = &self.watch.0 {
            watch.ends(&reason);
        }
        let met = live.connection.peer();
        let outgoing = self.outgoing.iter_mut().find(
            |(_, outgoing)| matches!(outgoing.state, OutgoingState::Connected(held) if held == id),
        );
        let peer = met.or_else(|| outgoing.as_ref().map(|(peer, _)| **peer));
        if let Some((_, outgoing)) = outgoing {
            outgoing.wait(now);
            // Who only broke off said nothing; what was said before holds until it is reached.
            let refused = PeerRefusal::of(&reason);
            if refused.is_some() && outgoing.refused != refused {
                self.refusals += 1;
                outgoing.refused = refused;
            }
        }
        self.count_end(id, met, &reason);
        // Whoever was refused has said at least who it is.
        let claims = live.connection.hello().map(|hello| hello.node);
        self.log_end(id, peer.or(claims), &reason, now);
        if let Some(peer) = met {
            events.push_back(LaneEvent::Down { peer, connection: id, reason });
        }
    }

    fn count_end(&self, id: ConnectionId, met: Option<NodeId>, reason: &LaneError) {
        let counters = &self.counters;
        match (id.direction(), met) {
            (Direction::Outgoing, Some(_)) => counters.connections_out_open.sub(1),
            (Direction::Incoming, Some(_)) => counters.connections_in_open.sub(1),
            (Direction::Outgoing, None) => counters.dial_failures.bump(),
            (Direction::Incoming, None) => {}
        }
        match (reason, id.direction()) {
            (LaneError::Refused(_), Direction::Incoming) => counters.refused.bump(),
            (LaneError::Refused(_), Direction::Outgoing) | (LaneError::RefusedByPeer(_), _) => {
                counters.refused_by_peer.bump();
            }
            (LaneError::Fenced, _) => counters.fenced.bump(),
            (LaneError::KeepaliveTimeout, _) => counters.keepalive_timeouts.bump(),
            (LaneError::Stalled { .. }, _) => counters.stalls.bump(),
            (LaneError::Crowded, _) => counters.handshakes_dropped.bump(),
            (
                LaneError::Closed
                | LaneError::Io { .. }
                | LaneError::Frame(_)
                | LaneError::Handshake(_)
                | LaneError::HandshakeTimeout
                | LaneError::WindowExceeded { .. }
                | LaneError::ExcessCredit { .. }
                | LaneError::PeerRemoved
                | LaneError::ShutDown,
                _,
            ) => {}
        }
    }

    fn log_end(&mut self, id: ConnectionId, peer: Option<NodeId>, reason: &LaneError, now: Micros) {
        let (lane, logs) = (self.lane, &mut self.logs);
        let address = peer.and_then(|peer| self.registry.addr(peer));
        let peer = peer.map(tracing::field::display);
        let (limit, text) = match reason {
            LaneError::Refused(refusal) => {
                if let Some(suppressed) = logs.refused.permit(now) {
                    warn!(%lane, peer, why = %refusal, suppressed, "refused a node that dialed this one");
                }
                return;
            }
            LaneError::RefusedByPeer(refusal) => {
                // "This" and "not" in what it says are as it sees them.
                if let Some(suppressed) = logs.refused_by_peer.permit(now) {
                    warn!(
                        %lane, peer, address, says = %refusal, suppressed,
                        "the node at that address refuses this one"
                    );
                }
                return;
            }
            LaneError::Frame(_)
            | LaneError::Handshake(_)
            | LaneError::WindowExceeded { .. }
            | LaneError::ExcessCredit { .. } => (&mut logs.misbehaving, "peer misbehaves"),
            // A port scanner causes these as often as it likes, and so may whoever poses as a node.
            LaneError::HandshakeTimeout | LaneError::Crowded => {
                if let Some(suppressed) = logs.strangers.permit(now) {
                    info!(%lane, peer, address, connection = ?id, %reason, suppressed, "lane closed");
                }
                return;
            }
            LaneError::KeepaliveTimeout | LaneError::Stalled { .. } | LaneError::Fenced => {
                if let Some(suppressed) = logs.lost.permit(now) {
                    info!(%lane, peer, address, connection = ?id, %reason, suppressed, "lane closed");
                }
                return;
            }
            // All lanes of a node that stops go together: whoever drives them says it once.
            LaneError::Closed
            | LaneError::Io { .. }
            | LaneError::PeerRemoved
            | LaneError::ShutDown => {
                debug!(%lane, peer, address, connection = ?id, %reason, "lane closed");
                return;
            }
        };
        if let Some(suppressed) = limit.permit(now) {
            warn!(%lane, peer, address, connection = ?id, %reason, suppressed, "{text}");
        }
    }

    /// Of each peer why it is not reached though somebody answers there; `None` while it is reached,
    /// or if nobody does.
    pub fn refusals(&self) -> impl Iterator<Item = (NodeId, Option<&PeerRefusal>)> {
        self.outgoing.iter().map(|(&peer, outgoing)| (peer, outgoing.refused.as_ref()))
    }

    /// Grows whenever one of the [`refusals`](Self::refusals) is another than before.
    pub fn refusals_version(&self) -> u64 {
        self.refusals
    }

    /// When [`poll`](Self::poll) has something to do, if nothing else happens: the earliest
    /// keepalive, handshake, stall, dial or accept that is due. It may have passed already.
    pub fn next_deadline(&self) -> Option<Micros> {
        if self.closed {
            return None;
        }
        let connections = self.connections.values().filter_map(|live| live.connection.deadline());
        let dials = self.outgoing.values().filter_map(|outgoing| match outgoing.state {
            OutgoingState::Waiting { until } => Some(until),
            OutgoingState::Dialing(_) | OutgoingState::Connected(_) => None,
        });
        // While an accept is pending, the moment of the next one has come and tells nothing.
        let accept = self.accept_after.filter(|_| self.accepting.is_none());
        connections.chain(dials).chain(accept).min()
    }

    fn arm_timer(&mut self, cx: &mut Context<'_>, now: Micros) {
        let earliest = match &self.timer {
            Timer::Caller => return,
            Timer::Runtime(_) => self.next_deadline(),
        };
        let Timer::Runtime(timer) = &mut self.timer else {
            return;
        };
        let Some(earliest) = earliest else {
            *timer = None;
            return;
        };
        if earliest <= now {
            cx.waker().wake_by_ref();
            return;
        }
        let target = Instant::now() + earliest.since(now);
        match timer {
            // Deadlines move with every byte heard. A timer that fires too early costs one wake
            // per interval; setting it each time would cost more.
            Some((at, _)) if *at <= earliest && *at > now => {}
            Some((at, sleep)) => {
                *at = earliest;
                sleep.as_mut().reset(target);
            }
            None => *timer = Some((earliest, Box::pin(tokio::time::sleep_until(target)))),
        }
        if let Some((at, sleep)) = timer
            && sleep.as_mut().poll(cx).is_ready()
        {
            // The runtime's clock is a little ahead of ours.
            *at = earliest;
            sleep.as_mut().reset(target.max(Instant::now() + Duration::from_millis(1)));
            let _ = sleep.as_mut().poll(cx);
        }
    }
}

fn came_up(
    counters: &LaneCounters,
    outgoing: &mut BTreeMap<NodeId, Outgoing>,
    refusals: &mut u64,
    id: ConnectionId,
    peer: NodeId,
) {
    match id.direction() {
        Direction::Incoming => counters.connections_in_open.add(1),
        Direction::Outgoing => {
            counters.connections_out_open.add(1);
            if let Some(outgoing) = outgoing.get_mut(&peer) {
                outgoing.backoff.reset();
                *refusals += u64::from(outgoing.refused.take().is_some());
                if std::mem::replace(&mut outgoing.was_up, true) {
                    counters.reconnects.bump();
                }
            }
        }
    }
}

impl Outgoing {
    fn new(
        config: &LaneConfig,
        registry: &PeerRegistry,
        peer: NodeId,
        lane: Lane,
        now: Micros,
    ) -> Self {
        let identity = registry.identity();
        let seed = [identity.node.get(), peer.get(), u64::from(lane.group_id().get())]
            .into_iter()
            .fold(identity.incarnation.get(), |seed, part| {
                // Fibonacci hashing spreads small numbers over all bits.
                (seed ^ part).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(31)
            });
        Self {
            state: OutgoingState::Waiting { until: now },
            backoff: Backoff::new(config.backoff_min, config.backoff_max, seed),
            hellos: 0,
            was_up: false,
            refused: None,
            reset_at: None,
        }
    }

    /// A peer that has greeted us since is alive: dial at once.
    fn notice(&mut self, view: &PeerView, now: Micros) {
        if self.hellos == view.hellos {
            return;
        }
        self.hellos = view.hellos;
        // Only once in a while: two nodes that greet and then refuse each other would otherwise
        // keep one another dialing without a pause.
        let rested = self.reset_at.is_none_or(|at| now.since(at) >= self.backoff.max());
        if let OutgoingState::Waiting { until } = &mut self.state
            && rested
        {
            self.reset_at = Some(now);
            self.backoff.reset();
            *until = now;
        }
    }

    fn wait(&mut self, now: Micros) {
        self.state = OutgoingState::Waiting { until: now.after(self.backoff.failed()) };
    }
}

impl Live {
    fn drive(
        &mut self,
        cx: &mut Context<'_>,
        now: Micros,
        events: &mut VecDeque<LaneEvent>,
        counters: &LaneCounters,
    ) -> Result<(), LaneError> {
        let driven = self.move_bytes(cx, now, events, counters);
        if driven.is_err() {
            // What is queued may be the reason of a refusal. One attempt: it is small, and the
            // socket's buffer is empty that early.
            let _ = self.write(cx, now, counters);
            let _ = Pin::new(&mut self.stream).poll_shutdown(cx);
        }
        driven
    }

    fn move_bytes(
        &mut self,
        cx: &mut Context<'_>,
        now: Micros,
        events: &mut VecDeque<LaneEvent>,
        counters: &LaneCounters,
    ) -> Result<(), LaneError> {
        self.write(cx, now, counters)?;
        self.connection.look_for_proof(events)?;
        let more = self.read(cx, now, events, counters)?;
        // Only after trying to move bytes: if we were late, the peer is not to blame.
        if self.connection.deadline().is_some_and(|deadline| deadline <= now) {
            self.connection.on_deadline(now)?;
        }
        self.write(cx, now, counters)?;
        if more {
            cx.waker().wake_by_ref();
        }
        Ok(())
    }

    fn write(
        &mut self,
        cx: &mut Context<'_>,
        now: Micros,
        counters: &LaneCounters,
    ) -> Result<(), LaneError> {
        while !self.connection.transmit().is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES_PER_WRITE];
            let filled = self.connection.transmit().io_slices(&mut slices);
            match Pin::new(&mut self.stream).poll_write_vectored(cx, &slices[..filled]) {
                Poll::Ready(Ok(0)) => return Err(LaneError::Closed),
                Poll::Ready(Ok(count)) => {
                    counters.writes.bump();
                    counters.bytes_out.add(count as u64);
                    self.connection.transmitted(now, count);
                    self.flushed = false;
                }
                Poll::Ready(Err(error)) => return Err(error.into()),
                Poll::Pending => {
                    self.connection.transmitted(now, 0);
                    return Ok(());
                }
            }
        }
        if !self.flushed {
            // Nothing to do for TCP; a stream that encrypts may hold bytes back.
            match Pin::new(&mut self.stream).poll_flush(cx) {
                Poll::Ready(Ok(())) => self.flushed = true,
                Poll::Ready(Err(error)) => return Err(error.into()),
                Poll::Pending => {}
            }
        }
        Ok(())
    }

    /// Returns whether more may be there to read.
    fn read(
        &mut self,
        cx: &mut Context<'_>,
        now: Micros,
        events: &mut VecDeque<LaneEvent>,
        counters: &LaneCounters,
    ) -> Result<bool, LaneError> {
        let mut left = READ_BYTES_PER_POLL;
        while self.connection.wants_read() {
            let mut buffer = self.connection.read_buffer();
            // A future is the safe way to read into memory not yet written; dropping it while it
            // is pending loses nothing.
            let count = match pin!(self.stream.read_buf(&mut buffer)).poll(cx) {
                Poll::Ready(count) => count?,
                Poll::Pending => return Ok(false),
            };
            if count == 0 {
                return Err(LaneError::Closed);
            }
            counters.reads.bump();
            counters.bytes_in.add(count as u64);
            self.connection.on_bytes(now, events)?;
            left = left.saturating_sub(count);
            if left == 0 {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
