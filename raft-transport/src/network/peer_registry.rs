//! What a node knows of its peers, shared by all its lanes.
//!
//! Here it is decided who may speak: the right cluster, the node meant, the data directory seen
//! before, the newest life, the newest connection. And here lanes learn from one another: a peer
//! that greets us on any lane is alive, so all lanes to it dial at once.
//!
//! Invariants:
//! - Of the lives that have answered our dials, per peer, the store id never changes, the
//!   incarnation never falls, and no incarnation has two lives.
//! - Anybody can send a Hello. A life that only has is a claim: none of its frames is heard before
//!   it has answered at the peer's address, and whoever answers there instead refutes it. So nobody
//!   who cannot be found there is heard, nor silences the node that is for longer than a reconnect
//!   per Hello, nor says how many shards it has; and every life that was heard was met, so that no
//!   directory put back to before it is heard again.
//! - Per peer and lane, within an incarnation, the generation accepted always rises.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Waker;

use parking_lot::Mutex;
use raft_core::{Incarnation, NodeId};
use tracing::warn;

use crate::lane::Lane;
use crate::wire::hello::{
    Hello, HelloRefusal, PAST_LIVES_MAX, PROTOCOL_LEN_MAX, Protocol, Welcome, cluster_name_fits,
};

/// Who this node is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Identity {
    /// The cluster, at most 255 bytes.
    pub cluster: String,
    /// This node.
    pub node: NodeId,
    /// The id of its data directory.
    pub store: u128,
    /// Its life.
    pub incarnation: Incarnation,
    /// Random bits drawn for this life.
    pub life: u128,
    /// The first bits of earlier lives, the newest first; at most the newest 32 are told.
    pub past: Vec<u32>,
    /// How many shards it has.
    pub shards: u8,
    /// A bit per optional ability.
    pub features: u64,
}

/// The newest life a peer has shown: what is to be remembered of it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PeerLife {
    /// The id of its data directory.
    pub store: u128,
    /// Which life of it.
    pub incarnation: Incarnation,
    /// The bits drawn for that life.
    pub life: u128,
}

/// The first bits of a life, as later lives tell them.
pub const fn first_bits(life: u128) -> u32 {
    life as u32
}

/// No directory is opened so often between two meetings: a number further ahead is a mistake, or
/// is meant to lock the true node out.
const INCARNATION_JUMP_MAX: u64 = 1 << 20;

/// Nodes without a disk count milliseconds instead of starts, and their numbers are above this.
const COUNTED_MAX: u64 = 1 << 32;

/// The peers of a node. Cheap to clone; clones are the same registry.
#[derive(Clone)]
pub struct PeerRegistry {
    shared: Arc<Shared>,
}

struct Shared {
    identity: Identity,
    protocol: Protocol,
    on_met: Box<dyn Fn(NodeId, PeerLife) + Send + Sync>,
    peers: Mutex<BTreeMap<NodeId, Peer>>,
    /// Grows with every change that lanes must look at.
    epoch: AtomicU64,
    shutting_down: AtomicBool,
    /// One per set of lanes; bounded by their number.
    watchers: Mutex<Vec<std::sync::Weak<Watcher>>>,
}

/// Kept when the peer is removed: should it come back, its store must still be the same, and our
/// generations must not start over.
#[derive(Default)]
struct Peer {
    /// Whether it is a peer now.
    known: bool,
    addr: String,
    /// The newest life: the one that answered, or one that claims to have followed it.
    newest: Option<PeerLife>,
    /// The newest life that answered our dial.
    answered: Option<PeerLife>,
    /// How often another life than the one that claimed to be the newest answered there.
    refuted: u64,
    shards: Option<u8>,
    /// Accepted from it, in its newest incarnation.
    generations_in: BTreeMap<Lane, u64>,
    /// Dialed to it, in ours.
    generations_out: BTreeMap<Lane, u64>,
    /// How often it has greeted us.
    hellos: u64,
}

/// Lets the registry wake one set of lanes.
#[derive(Default)]
pub(crate) struct Watcher {
    waker: Mutex<Option<Waker>>,
}

impl Watcher {
    pub(crate) fn register(&self, waker: &Waker) {
        *self.waker.lock() = Some(waker.clone());
    }

    pub(crate) fn wake(&self) {
        let waker = self.waker.lock().clone();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// What a set of lanes asks about a peer when the epoch has changed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct PeerView {
    pub(crate) incarnation: Option<Incarnation>,
    pub(crate) hellos: u64,
}

impl PeerRegistry {
    /// A registry without peers. `on_met` is called when a peer answers our dial with a life not
    /// seen before. It is to be made durable soon, or a peer that is wiped or put back to an
    /// earlier state could come back as it is after our own restart; but not before returning: the
    /// call is made by the lane, which must not wait for a disk. It must not call the registry.
    ///
    /// # Panics
    /// If the name of the cluster has more than 255 bytes; check the configuration before.
    pub fn new(
        identity: Identity,
        on_met: impl Fn(NodeId, PeerLife) + Send + Sync + 'static,
    ) -> Self {
        Self::speaking(Protocol::raft(), identity, on_met)
    }

    /// As [`new`](Self::new), of a node whose frames mean something else: nodes of another protocol,
    /// or of another version of it, are refused.
    ///
    /// # Panics
    /// If the name of the cluster has more than 255 bytes, or that of the protocol more than 32.
    pub fn speaking(
        protocol: Protocol,
        identity: Identity,
        on_met: impl Fn(NodeId, PeerLife) + Send + Sync + 'static,
    ) -> Self {
        assert!(
            protocol.name.len() <= PROTOCOL_LEN_MAX,
            "the name of a protocol has at most {PROTOCOL_LEN_MAX} bytes"
        );
        assert!(
            cluster_name_fits(&identity.cluster),
            "the name of a cluster has at most 255 bytes"
        );
        let shared = Shared {
            identity,
            protocol,
            on_met: Box::new(on_met),
            peers: Mutex::default(),
            epoch: AtomicU64::new(1),
            shutting_down: AtomicBool::new(false),
            watchers: Mutex::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Who this node is.
    pub fn identity(&self) -> &Identity {
        &self.shared.identity
    }

    /// Makes a peer known, or changes its address, for the next dial. Lanes dial new peers at
    /// once. Ignored for this node itself.
    pub fn set_peer(&self, peer: NodeId, addr: impl Into<String>) {
        if peer == self.shared.identity.node {
            return;
        }
        {
            let mut peers = self.shared.peers.lock();
            let entry = peers.entry(peer).or_default();
            entry.known = true;
            entry.addr = addr.into();
        }
        self.changed();
    }

    /// The newest life a node showed in an earlier life of this one. Does not make it a peer.
    pub fn set_known_life(&self, peer: NodeId, life: PeerLife) {
        {
            let mut peers = self.shared.peers.lock();
            let peer = peers.entry(peer).or_default();
            peer.newest = Some(life);
            peer.answered = Some(life);
        }
        self.changed();
    }

    /// Makes a node no peer: its connections are closed, it is refused and no longer dialed. Its
    /// store id stays bound to its name.
    pub fn remove_peer(&self, peer: NodeId) {
        if let Some(peer) = self.shared.peers.lock().get_mut(&peer) {
            peer.known = false;
        }
        self.changed();
    }

    /// The known peers.
    pub fn peers(&self) -> Vec<NodeId> {
        let peers = self.shared.peers.lock();
        known(&peers).map(|(node, _)| node).collect()
    }

    /// Where to dial a peer.
    pub fn addr(&self, peer: NodeId) -> Option<String> {
        let peers = self.shared.peers.lock();
        peers
            .get(&peer)
            .filter(|peer| peer.known)
            .map(|peer| peer.addr.clone())
            .filter(|addr| !addr.is_empty())
    }

    /// How many shards a peer has, once it has said so in answer to a dial.
    pub fn peer_shards(&self, peer: NodeId) -> Option<u8> {
        self.shared.peers.lock().get(&peer)?.shards
    }

    /// The newest incarnation of a peer, once it has shown one.
    pub fn peer_incarnation(&self, peer: NodeId) -> Option<Incarnation> {
        let peers = self.shared.peers.lock();
        peers.get(&peer)?.newest.map(|life| life.incarnation)
    }

    /// Refuses every Hello from now on.
    pub fn shut_down(&self) {
        self.shared.shutting_down.store(true, Ordering::Release);
    }

    /// The Hello for a new connection to `peer`: each has a larger generation than the last.
    pub fn hello(&self, peer: NodeId, lane: Lane, frame_bytes_max: u64) -> Hello {
        let identity = &self.shared.identity;
        let mut peers = self.shared.peers.lock();
        let generation = peers.entry(peer).or_default().generations_out.entry(lane).or_default();
        *generation += 1;
        Hello {
            cluster: identity.cluster.clone(),
            node: identity.node,
            to: peer,
            store: identity.store,
            incarnation: identity.incarnation,
            life: identity.life,
            past: identity.past_told(),
            lane,
            generation: *generation,
            shards: identity.shards,
            features: identity.features,
            frame_bytes_max,
            protocol: self.shared.protocol.clone(),
        }
    }

    /// Takes or refuses a dialer. A Hello taken is remembered, so older connections are fenced
    /// and the same Hello would be refused. The caller fills in what it grants
    /// (`window_bytes`, `frame_bytes_max`).
    ///
    /// # Errors
    /// The reason, to be sent to the dialer.
    pub fn check(&self, hello: &Hello) -> Result<Welcome, HelloRefusal> {
        let identity = &self.shared.identity;
        if self.shared.shutting_down.load(Ordering::Acquire) {
            return Err(HelloRefusal::ShuttingDown);
        }
        if hello.protocol != self.shared.protocol {
            let (ours, theirs) = (self.shared.protocol.clone(), hello.protocol.clone());
            return Err(HelloRefusal::WrongProtocol { ours, theirs });
        }
        if hello.cluster != identity.cluster {
            let (ours, theirs) = (identity.cluster.clone(), hello.cluster.clone());
            return Err(HelloRefusal::WrongCluster { ours, theirs });
        }
        if hello.to != identity.node {
            return Err(HelloRefusal::WrongNode { ours: identity.node, theirs: hello.to });
        }
        {
            let life = hello.peer_life();
            let mut peers = self.shared.peers.lock();
            let peer = peers
                .get_mut(&hello.node)
                .filter(|peer| peer.known)
                .ok_or(HelloRefusal::UnknownNode { node: hello.node })?;
            check_life(peer.newest, &life, &hello.past)?;
            let same_life = peer.newest == Some(life);
            let newest = peer.generations_in.get(&hello.lane).copied();
            if let Some(newest) = newest.filter(|&newest| same_life && hello.generation <= newest) {
                return Err(HelloRefusal::ReplayedGeneration { newest, theirs: hello.generation });
            }
            peer.meet(life);
            peer.generations_in.insert(hello.lane, hello.generation);
            peer.hellos += 1;
        }
        self.changed();
        Ok(Welcome {
            node: identity.node,
            store: identity.store,
            incarnation: identity.incarnation,
            life: identity.life,
            past: identity.past_told(),
            shards: identity.shards,
            features: identity.features,
            window_bytes: 0,
            frame_bytes_max: 0,
        })
    }

    /// Takes or refuses an acceptor that was dialed as `peer`.
    ///
    /// # Errors
    /// The reason; the connection is closed.
    pub fn check_welcome(&self, peer: NodeId, welcome: &Welcome) -> Result<(), HelloRefusal> {
        if welcome.node != peer {
            return Err(HelloRefusal::WrongNode { ours: welcome.node, theirs: peer });
        }
        let life = welcome.peer_life();
        {
            let mut peers = self.shared.peers.lock();
            let known = peers
                .get_mut(&peer)
                .filter(|peer| peer.known)
                .ok_or(HelloRefusal::UnknownNode { node: peer })?;
            // Claims do not count: who can be dialed is the peer, and shows them to be false.
            check_life(known.answered, &life, &welcome.past)?;
            if let Some(claim) =
                known.newest.filter(|newest| *newest != life && known.answered != Some(*newest))
            {
                known.refute(peer, claim, life);
            }
            known.meet(life);
            known.shards = Some(welcome.shards);
            if known.answered.replace(life) != Some(life) {
                // Under the lock: of two lives that answer one after the other, the later is told last.
                (self.shared.on_met)(peer, life);
            }
        }
        self.changed();
        Ok(())
    }

    /// Grows with every change; see [`view`](Self::view).
    pub(crate) fn epoch(&self) -> u64 {
        self.shared.epoch.load(Ordering::Acquire)
    }

    pub(crate) fn view(&self) -> BTreeMap<NodeId, PeerView> {
        let peers = self.shared.peers.lock();
        let view = |peer: &Peer| PeerView {
            incarnation: peer.newest.map(|life| life.incarnation),
            hellos: peer.hellos,
        };
        known(&peers).map(|(node, peer)| (node, view(peer))).collect()
    }

    /// Whether no newer connection of this lane, and no newer life of the peer, has been taken.
    pub(crate) fn is_newest(&self, hello: &Hello) -> bool {
        self.shared.peers.lock().get(&hello.node).is_some_and(|peer| {
            peer.newest == Some(hello.peer_life())
                && peer.generations_in.get(&hello.lane) == Some(&hello.generation)
        })
    }

    /// Whether the life that says this has answered our dial, so that its frames may be heard.
    pub(crate) fn has_answered(&self, hello: &Hello) -> bool {
        let peers = self.shared.peers.lock();
        peers.get(&hello.node).is_some_and(|peer| peer.answered == Some(hello.peer_life()))
    }

    /// How often somebody claimed to be a newer life of a peer while another answered at its
    /// address, since the start.
    pub fn claims_refuted(&self) -> u64 {
        self.shared.peers.lock().values().map(|peer| peer.refuted).sum()
    }

    pub(crate) fn watch(&self) -> Arc<Watcher> {
        let watcher = Arc::new(Watcher::default());
        let mut watchers = self.shared.watchers.lock();
        watchers.retain(|watcher| watcher.strong_count() > 0);
        watchers.push(Arc::downgrade(&watcher));
        watcher
    }

    fn changed(&self) {
        self.shared.epoch.fetch_add(1, Ordering::AcqRel);
        let watchers: Vec<_> = {
            let watchers = self.shared.watchers.lock();
            watchers.iter().filter_map(std::sync::Weak::upgrade).collect()
        };
        for watcher in watchers {
            watcher.wake();
        }
    }
}

fn known(peers: &BTreeMap<NodeId, Peer>) -> impl Iterator<Item = (NodeId, &Peer)> {
    peers.iter().filter(|(_, peer)| peer.known).map(|(&node, peer)| (node, peer))
}

impl Identity {
    fn past_told(&self) -> Vec<u32> {
        self.past.iter().take(PAST_LIVES_MAX).copied().collect()
    }
}

impl Hello {
    fn peer_life(&self) -> PeerLife {
        PeerLife { store: self.store, incarnation: self.incarnation, life: self.life }
    }
}

impl Welcome {
    fn peer_life(&self) -> PeerLife {
        PeerLife { store: self.store, incarnation: self.incarnation, life: self.life }
    }
}

/// Whether a life goes on from the one seen here, or is that one.
fn check_life(seen: Option<PeerLife>, life: &PeerLife, past: &[u32]) -> Result<(), HelloRefusal> {
    let Some(seen) = seen else { return Ok(()) };
    if seen.store != life.store {
        return Err(HelloRefusal::StoreChanged { theirs: life.store });
    }
    let (newest, theirs) = (seen.incarnation, life.incarnation);
    if theirs < newest {
        return Err(HelloRefusal::OldIncarnation { newest, theirs });
    }
    let ahead = theirs.get() - newest.get();
    let is_other = match ahead.checked_sub(1) {
        None => seen.life != life.life,
        // Further back than it tells, nothing can be said.
        Some(at) => usize::try_from(at)
            .ok()
            .and_then(|at| past.get(at))
            .is_some_and(|bits| *bits != first_bits(seen.life)),
    };
    if is_other && !raft_core::planted!(SameLifeTaken) {
        return Err(HelloRefusal::SameLife { incarnation: newest });
    }
    if ahead > INCARNATION_JUMP_MAX && newest.get() < COUNTED_MAX {
        return Err(HelloRefusal::FarIncarnation { newest, theirs });
    }
    Ok(())
}

impl Peer {
    /// Another life than the one that greeted us answers at the peer's address.
    fn refute(&mut self, peer: NodeId, claim: PeerLife, answers: PeerLife) {
        self.refuted += 1;
        self.generations_in.clear();
        // Strangers choose no number of log lines: one whenever it has doubled.
        if !self.refuted.is_power_of_two() {
            return;
        }
        warn!(
            %peer,
            claimed = %claim.incarnation,
            answers = %answers.incarnation,
            times = self.refuted,
            "somebody greets as a newer start of this node, and another answers at its address: a \
             copy of its data directory that runs elsewhere, a node that was restarted just now, or \
             a stranger; only who answers there is heard"
        );
    }

    /// Remembers what has passed the check.
    fn meet(&mut self, life: PeerLife) {
        if self.newest.is_some_and(|seen| life.incarnation > seen.incarnation) {
            self.generations_in.clear();
        }
        self.newest = Some(life);
    }
}

impl fmt::Debug for PeerRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerRegistry")
            .field("identity", &self.shared.identity)
            .field("peers", &self.peers())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
