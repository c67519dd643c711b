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

pub(crate) mod backoff;
mod ending;
mod live;
pub(crate) mod log_limit;
mod opening;
mod outgoing;
mod timer;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::task::{Context, Waker};

use raft_core::{GroupId, Micros, NodeId};
use tracing::error;

use self::ending::LogLimits;
pub use self::ending::{PeerRefusal, RefusalReason, Refuser};
use self::live::Live;
use self::opening::came_up;
use self::outgoing::{Outgoing, OutgoingState};
use self::timer::Timer;
use crate::connection::config::LaneConfig;
use crate::connection::counters::LaneCounters;
use crate::connection::grants::GrantPool;
use crate::connection::watch::{LaneWatch, Watched};
use crate::connection::{
    ConnectionId, ConnectionSetup, Credit, Direction, LaneError, LaneEvent, Room,
};
use crate::lane::Lane;
use crate::network::peer_registry::{PeerRegistry, Watcher};
use crate::network::{Accepted, BoxFuture, BoxStream, Network, NetworkError};
use crate::wire::frame::Frame;

/// A dial under way.
type Opening = BoxFuture<'static, Result<BoxStream, NetworkError>>;

/// An accept under way.
type Accepting = BoxFuture<'static, Result<Accepted, NetworkError>>;

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
    accepting: Option<Accepting>,
    /// No accepts before this moment: the last one failed.
    accept_after: Option<Micros>,
    next_connection: u64,
    /// The registry's epoch last looked at.
    epoch: u64,
    watcher: Arc<Watcher>,
    grants: GrantPool,
    dials: bool,
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
        let (watcher, grants) = (registry.watch(), GrantPool::default());
        grants.watch(&watcher);
        Self {
            watcher,
            grants,
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
            dials: true,
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

    /// Shares the room for long messages with the other lanes of the node. Without it these lanes
    /// have one of their own.
    #[must_use]
    pub fn with_grants(mut self, grants: GrantPool) -> Self {
        grants.watch(&self.watcher);
        self.grants = grants;
        self
    }

    /// Dials nobody: a lane that only peers send on, since this node's layout does without it.
    #[must_use]
    pub fn accepting_only(mut self) -> Self {
        self.dials = false;
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

    /// Bytes that may be sent to `peer` now; 0 while there is no connection. A frame of any length
    /// may be sent whole while this is above zero, see [`room`](Self::room).
    pub fn budget(&self, peer: NodeId) -> u64 {
        self.outgoing_live(peer).map_or(0, |live| live.connection.budget())
    }

    /// What may be sent to `peer` now.
    pub fn room(&self, peer: NodeId) -> Room {
        self.outgoing_live(peer).map_or_else(Room::default, |live| live.connection.room())
    }

    /// Gives up the appends of a group to `peer` that have not left whole.
    pub fn abandon(&mut self, peer: NodeId, group: GroupId) {
        if let Some(OutgoingState::Connected(id)) = self.outgoing.get(&peer).map(|out| &out.state)
            && let Some(live) = self.connections.get_mut(id)
        {
            live.connection.abandon(group);
        }
    }

    /// Bytes that have come of messages which are not whole, from all peers.
    pub fn half_received(&self) -> u64 {
        self.connections.values().map(|live| live.connection.half_received()).sum()
    }

    /// Queues a frame on the outgoing connection to `peer`; it leaves with the next
    /// [`flush`](Self::flush) or [`poll`](Self::poll). A batch may leave as several frames.
    ///
    /// # Errors
    /// Gives the frame back: there is no connection, or no [`room`](Self::room) for it; of a batch what
    /// there was no room for. Also if the frame cannot be encoded, which is a mistake of the caller, logged and counted.
    #[allow(clippy::result_large_err, reason = "the frame goes back to whoever may still need it")]
    pub fn send(&mut self, peer: NodeId, frame: Frame) -> Result<(), Frame> {
        let Some(OutgoingState::Connected(id)) = self.outgoing.get(&peer).map(|out| &out.state)
        else {
            return Err(frame);
        };
        let Some(live) = self.connections.get_mut(id) else {
            return Err(frame);
        };
        let mut frame = match frame {
            Frame::User(user) if user.newer_replaces => {
                return live.connection.queue_replaceable(user).map_err(|refused| {
                    if let Some(error) = refused.error {
                        self.counters.unsendable.bump();
                        error!(lane = %self.lane, %peer, %error, "frame cannot be sent");
                    }
                    Frame::User(refused.user)
                });
            }
            other => other,
        };
        if !live.connection.admits(&frame) {
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
        for (&peer, view) in peers.iter().filter(|_| self.dials) {
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

    fn setup(&mut self, direction: Direction, certified: Option<NodeId>) -> ConnectionSetup {
        self.next_connection += 1;
        ConnectionSetup {
            id: ConnectionId::new(self.next_connection, direction),
            lane: self.lane,
            config: self.config.clone(),
            registry: self.registry.clone(),
            counters: self.counters.clone(),
            watch: self.watch.clone(),
            grants: self.grants.clone(),
            certified,
        }
    }
}

/// Which connections one pass is about.
#[derive(Clone, Copy)]
enum Round {
    Greeting,
    Open,
}
