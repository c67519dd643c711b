//! A node: the threads around the engine, and the API an embedder uses.
//!
//! ```text
//!   clients ──▶ shard threads ──▶ log thread      one write, one fdatasync for all shards
//!                 │  ▲  │  └────▶ apply workers   state machines that are not inline
//!                 │  │  └───────▶ log reader      replay, peers far behind
//!     data lanes ◀┘  │
//!                    └─── control thread (control lanes, heartbeats), bulk thread (bulk lanes)
//! ```
//!
//! Every thread owns its state; they talk through inboxes. Stopping goes in order: groups, then
//! lanes and port, then the log; a start that fails half-way is taken back in the same order.

mod alarm;
mod apply_worker;
mod bulk_thread;
mod carrier;
mod checked_text;
mod clock;
mod contacts;
mod control_thread;
mod creating;
mod directory;
mod error;
mod flush;
mod inbox;
mod known_stores;
mod lane_maker;
mod lives;
mod log_end;
mod log_flights;
mod log_large;
mod log_pace;
mod log_reader;
mod log_scrub;
mod log_thread;
mod log_watch;
mod options;
mod presets;
mod shard_thread;
mod snapshot_scrub;
mod snapshot_thread;
mod starting;
mod threads;
#[cfg(feature = "tls")]
pub(crate) mod tls_files;
mod unmade;
mod vouching;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam::channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;
use raft_core::{GroupId, Incarnation, LogIndex, MemberChange, NodeId, ReadPath};
use raft_storage::{LogReader, RecoveredGroup};
use raft_transport::{LaneCounters, PeerRegistry, RESERVED_FIRST};

use self::bulk_thread::BulkInput;
use self::clock::Clock;
use self::contacts::Contacts;
use self::control_thread::ControlInput;
use self::directory::Directory;
use self::inbox::{Inbox, PushError};
use self::log_watch::LogWatch;
use self::shard_thread::{ShardInput, shard_of};
use self::starting::Starting;
use self::threads::Threads;
use self::unmade::unmade;
use crate::bodies::NewMachine;
use crate::counters::{Counters, CountersSnapshot};
use crate::engine::panics::at_work_for;
use crate::engine::{CreateGroup, Created, EngineInput, HandingOver, LogLoad, MakeMachine};
use crate::event::Events;
use crate::group_spec::GroupSpec;
use crate::node_status::{GroupStatus, LaneStatus, NodeStatus, NodeSummary, PeerStatus, TlsStatus};
use crate::request::{Proposed, Removal, Request, RequestError, RequestKind, Ticket};
use crate::snapshot::Restored;
use crate::state_machine::StateMachineFactory;
use tokio::sync::oneshot;

/// The threads' work without the threads, for the simulator.
#[cfg(feature = "sim")]
pub(crate) mod sim {
    pub(crate) use super::apply_worker::Machines;
    pub(crate) use super::bulk_thread::{Bulk, BulkInput};
    pub(crate) use super::carrier::{Carrier, CarrierInput, Carriers};
    pub(crate) use super::control_thread::{Control, ControlInput, Speech};
    pub(crate) use super::directory::Directory;
    pub(crate) use super::inbox::Inbox;
    pub(crate) use super::known_stores::KnownStores;
    pub(crate) use super::lives::begin_life;
    pub(crate) use super::log_end::{LogEnd, Noted, note_forgetful};
    pub(crate) use super::log_reader::{Refusal, read as read_log};
    pub(crate) use super::log_thread::{IDLE_AFTER, LogBatch, LogWork, Staged, give_up};
    pub(crate) use super::log_watch::{LogWatch, LogWatcher};
    pub(crate) use super::shard_thread::{Links, Round, Shard, ShardInput, shard_of};
    pub(crate) use super::starting::{begin_behind, behind, registry};
    pub(crate) use super::vouching::{Voucher, Vouching};
}

/// How often a node that drains looks whether it is done.
const DRAIN_POLL: Duration = Duration::from_millis(5);

pub use self::creating::{Creating, CreatingAll};
pub use self::error::{CreateError, StartError, TlsProblem};
#[cfg(all(unix, feature = "raftd"))]
pub(crate) use self::log_end::LogEnd;
pub use self::log_pace::LogPace;
pub(crate) use self::log_reader::{ASKED_WITHIN, REFUSES_MAX};
pub(crate) use self::log_thread::chain;
#[cfg(feature = "raftd")]
pub(crate) use self::options::CERTIFICATE_DIR;
pub use self::options::{
    Heartbeats, LaneConfigs, LogKind, NetworkOptions, NodeOptions, PeerOptions, TlsOptions,
};
pub use self::presets::{Deployment, NetworkProfile};
#[cfg(feature = "raftd")]
pub(crate) use self::starting::open_snapshots;

/// How long a thread may take to say how it is.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);
/// What may wait for the control plane or the bulk lane when they are asked.
const THREAD_WAITING_MAX: usize = 1 << 20;

/// A running node. Cheap to clone; clones are the same node.
///
/// The last clone dropped does not stop it: call [`stop`](Self::stop).
#[derive(Clone)]
pub struct NodeHost {
    inner: Arc<Inner>,
}

struct Inner {
    node: NodeId,
    cluster: String,
    incarnation: Incarnation,
    listen: Option<SocketAddr>,
    durable: bool,
    disk_stall_max: Duration,
    peers: Vec<PeerOptions>,
    requests_max: usize,
    log_load: Arc<LogLoad>,
    shards: Arc<[Arc<Inbox<ShardInput>>]>,
    control: Arc<Inbox<ControlInput>>,
    bulk: Arc<Inbox<BulkInput>>,
    directory: Arc<Directory>,
    contacts: Arc<Contacts>,
    clock: Clock,
    counters: Arc<Counters>,
    lane_counters: Vec<(&'static str, Arc<LaneCounters>)>,
    factory: Arc<dyn StateMachineFactory>,
    /// State machines read by it what they leave in the log; `None` without one.
    log_reader: Option<LogReader>,
    registry: PeerRegistry,
    #[cfg(feature = "tls")]
    tls: Option<raft_transport::Tls>,
    failure: Arc<Mutex<Option<String>>>,
    log_watch: Arc<LogWatch>,
    stopping: AtomicBool,
    threads: Mutex<Threads>,
}

impl NodeHost {
    /// Starts a node and every group its log holds.
    ///
    /// Blocks until the log is recovered and the port is open; call it outside async code.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left running then.
    pub fn start(
        options: NodeOptions,
        factory: Arc<dyn StateMachineFactory>,
    ) -> Result<Self, StartError> {
        Starting::default().run(options, factory)
    }

    /// Creates a group on this node and waits until that is on disk; blocks, for a sync. Harmless if the
    /// group is here already with the same spec. Every node of the group has to be told. Many are made
    /// faster by [`create_groups`](Self::create_groups).
    ///
    /// # Errors
    /// [`CreateError`]; nothing was created then.
    pub fn create_group(&self, spec: GroupSpec) -> Result<Created, CreateError> {
        let spec = spec.in_order();
        self.check_spec(&spec)?;
        let (done, result) = bounded(1);
        let done = Box::new(move |ended| {
            let _ = done.send(ended);
        });
        self.create(spec.clone(), None, None, done)?;
        creating::outcome(&spec, result.recv().ok())
    }

    /// Creates many groups on this node: they share their syncs, so that a thousand take about as long as a
    /// few. What came of each is in the order of the specs; one that is refused keeps no other from being made.
    /// Does not block: the ticket is a future, or can be [waited for](Creating::wait).
    pub fn create_groups(&self, specs: impl IntoIterator<Item = GroupSpec>) -> CreatingAll {
        CreatingAll(specs.into_iter().map(|spec| self.begin_group(spec)).collect())
    }

    fn begin_group(&self, spec: GroupSpec) -> Creating {
        let spec = spec.in_order();
        let (done, result) = oneshot::channel();
        let begun = self.check_spec(&spec).and_then(|()| {
            let done = Box::new(move |ended| {
                let _ = done.send(ended);
            });
            self.create(spec.clone(), None, None, done)
        });
        Creating::new(spec, begun.map(|()| result))
    }

    fn create(
        &self,
        spec: GroupSpec,
        recovered: Option<RecoveredGroup>,
        restored: Option<Restored>,
        done: crate::engine::CreateDone,
    ) -> Result<(), CreateError> {
        let group = spec.group;
        self.inner.directory.add(group);
        let maker = maker(&self.inner.factory, group, self.inner.log_reader.clone());
        let create = CreateGroup { spec, maker, recovered, restored, done };
        self.shard(group)
            .push(ShardInput::Engine(EngineInput::Create(Box::new(create))))
            .map_err(|_| CreateError::Stopping)
    }

    fn check_spec(&self, spec: &GroupSpec) -> Result<(), CreateError> {
        let group = spec.group;
        let bad = |why| Err(CreateError::BadSpec { group, why });
        if group >= RESERVED_FIRST {
            return bad("ids from 0xFFFFFF00 on are reserved for lanes");
        }
        if spec.label.len() > GroupSpec::LABEL_BYTES_MAX {
            return bad("the label is longer than 64 KiB");
        }
        if spec.replica_on(self.inner.node).is_none() {
            return bad("no replica is on this node");
        }
        for (at, (replica, node)) in spec.replicas.iter().enumerate() {
            if spec.replicas[..at].iter().any(|(r, n)| r == replica || n == node) {
                return bad("a replica or a node is named twice");
            }
            if !self.knows(*node) {
                return bad("a replica is on a node that is not a peer of this one");
            }
        }
        if let Some(flush) = spec.flush {
            let checked = flush.check(self.inner.disk_stall_max);
            checked.map_err(|why| CreateError::FlushPolicy { group, why })?;
        }
        Ok(())
    }

    /// Replicates a command and applies it. It is on its way when this returns, in call order.
    pub fn propose(&self, group: GroupId, command: Bytes) -> Ticket<Proposed> {
        self.request(group, RequestKind::Propose(command))
    }

    /// Reads from the leader's applied state, linearizably.
    pub fn read(&self, group: GroupId, query: Bytes) -> Ticket<Bytes> {
        self.request(group, RequestKind::Read(ReadPath::Quorum, query))
    }

    /// Reads linearizably by a path of choice: from the leader's lease, where the settings allow
    /// leases, without a round of messages; or from this node's own replica, after a question to
    /// the leader.
    pub fn read_by(&self, path: ReadPath, group: GroupId, query: Bytes) -> Ticket<Bytes> {
        self.request(group, RequestKind::Read(path, query))
    }

    /// Reads what this node's replica has applied, whoever leads and however far that is: no message, and
    /// no promise but that it holds everything up to `at_least`, for which the read waits. Zero: at once.
    /// With the index of a [`Proposed`] of one's own one reads one's own write.
    ///
    /// A leader that is cut off, a learner and a replica that lags answer from the past; there is no bound on
    /// how old that is. An index that never comes is waited for until the replica leaves or the node stops.
    pub fn read_local(&self, group: GroupId, at_least: LogIndex, query: Bytes) -> Ticket<Bytes> {
        self.request(group, RequestKind::ReadLocal(at_least, query))
    }

    /// Waits until this node's replica has applied an entry, and says how far it is then. An index that never
    /// comes is waited for until the replica leaves or the node stops; a ticket that is dropped waits no more.
    pub fn wait_applied(&self, group: GroupId, index: LogIndex) -> Ticket<LogIndex> {
        self.request(group, RequestKind::WaitApplied(index))
    }

    fn request<T>(&self, group: GroupId, kind: RequestKind) -> Ticket<T> {
        let (request, ticket) = Request::new(group, kind);
        self.push(shard_of(group, self.inner.shards.len()), vec![request]);
        ticket
    }

    /// Hands in many requests at once, in order: one hand-over for each shard concerned.
    pub fn submit(&self, requests: Vec<Request>) {
        let shards = self.inner.shards.len();
        for (shard, requests) in
            shard_thread::split(requests, |request| shard_of(request.group, shards))
        {
            self.push(shard, requests);
        }
    }

    fn push(&self, shard: usize, requests: Vec<Request>) {
        let inbox = &self.inner.shards[shard];
        let result = inbox.push_within(ShardInput::Requests(requests), self.inner.requests_max);
        if let Err((ShardInput::Requests(requests), why)) = result {
            let error = refusal(why);
            for request in requests {
                request.reply.send(Err(error.clone()));
            }
        }
    }

    /// A digest of a group's state, with the applied index it belongs to.
    pub fn digest(&self, group: GroupId) -> Ticket<(LogIndex, u64)> {
        let (request, ticket) =
            Request::new(group, RequestKind::Read(ReadPath::Quorum, Bytes::new()));
        let input = ShardInput::Engine(EngineInput::Digest(group, request.reply));
        if let Err((ShardInput::Engine(EngineInput::Digest(_, reply)), why)) =
            self.shard(group).push_within(input, self.inner.requests_max)
        {
            reply.send(Err(refusal(why)));
        }
        ticket
    }

    /// Takes a snapshot of this node's replica of a group, and forgets what it makes superfluous
    /// in the log. Answered when it is durable, with the index it covers; at once if nothing was
    /// applied since the last one.
    pub fn take_snapshot(&self, group: GroupId) -> Ticket<Proposed> {
        let (request, ticket) =
            Request::new(group, RequestKind::Read(ReadPath::Quorum, Bytes::new()));
        let input = ShardInput::Engine(EngineInput::Snapshot(group, request.reply));
        if let Err((ShardInput::Engine(EngineInput::Snapshot(_, reply)), why)) =
            self.shard(group).push_within(input, self.inner.requests_max)
        {
            reply.send(Err(refusal(why)));
        }
        ticket
    }

    /// Hands a group's leadership to another node, or with `None` to the replica that is furthest.
    /// Only the leader can; it takes no proposals meanwhile. Refused as
    /// [`RequestError::Transferring`] if the target does not take over within an election timeout.
    pub fn transfer_leadership(&self, group: GroupId, to: Option<NodeId>) -> Ticket<()> {
        let (request, ticket) =
            Request::new(group, RequestKind::Read(ReadPath::Quorum, Bytes::new()));
        let input = ShardInput::Engine(EngineInput::Transfer(group, to, request.reply));
        if let Err((ShardInput::Engine(EngineInput::Transfer(.., reply)), why)) =
            self.shard(group).push_within(input, self.inner.requests_max)
        {
            reply.send(Err(refusal(why)));
        }
        ticket
    }

    /// Changes who belongs to a group; only the leader can. Answered when the change is committed
    /// and applied here; if it takes a joint step, that is left without further asking.
    ///
    /// A new replica needs a [`GroupSpec::joining`] created on its node, before or after. It
    /// becomes a voter by [`MemberChange::Promote`], which is refused as
    /// [`RequestError::NotCaughtUp`] while it lacks too much of the log.
    pub fn change_members(&self, group: GroupId, changes: Vec<MemberChange>) -> Ticket<()> {
        let (request, ticket) =
            Request::new(group, RequestKind::Read(ReadPath::Quorum, Bytes::new()));
        let stranger = changes.iter().find_map(|change| match change {
            MemberChange::AddLearner { node, .. } if !self.knows(*node) => Some(*node),
            MemberChange::AddLearner { .. }
            | MemberChange::Promote(_)
            | MemberChange::Demote(_)
            | MemberChange::Remove(_)
            | MemberChange::Replace { .. } => None,
        });
        if let Some(node) = stranger {
            request.reply.send(Err(RequestError::UnknownNode(node)));
            return ticket;
        }
        let input = ShardInput::Engine(EngineInput::ChangeMembers(group, changes, request.reply));
        if let Err((ShardInput::Engine(EngineInput::ChangeMembers(.., reply)), why)) =
            self.shard(group).push_within(input, self.inner.requests_max)
        {
            reply.send(Err(refusal(why)));
        }
        ticket
    }

    /// Deletes this node's replica of a group: its log and its state are gone, its name and vote
    /// are remembered for good. Answered when that is on disk and its snapshots are gone. Another
    /// replica of the group, with a larger id, may be created here afterwards.
    pub fn remove_replica(&self, group: GroupId, removal: Removal) -> Ticket<()> {
        let (request, ticket) =
            Request::new(group, RequestKind::Read(ReadPath::Quorum, Bytes::new()));
        let input = ShardInput::Engine(EngineInput::Remove(group, removal, request.reply));
        if let Err((ShardInput::Engine(EngineInput::Remove(.., reply)), why)) =
            self.shard(group).push_within(input, self.inner.requests_max)
        {
            reply.send(Err(refusal(why)));
        }
        ticket
    }

    fn knows(&self, node: NodeId) -> bool {
        node == self.inner.node || self.inner.registry.peers().contains(&node)
    }

    /// The node that leads a group, as last heard here. May be outdated; costs no message.
    pub fn leader_of(&self, group: GroupId) -> Option<NodeId> {
        self.inner.directory.leader(group)
    }

    /// Waits until somebody leads a group, as far as is heard here: at once if somebody does. `None` if
    /// nobody was within the time. Async: needs a runtime with timers.
    pub async fn wait_leader(&self, group: GroupId, within: Duration) -> Option<NodeId> {
        let led = self.inner.directory.wait_for(|directory| directory.leader(group));
        tokio::time::timeout(within, led).await.ok()
    }

    /// As [`wait_leader`](Self::wait_leader), on a thread: blocks.
    pub fn wait_leader_blocking(&self, group: GroupId, within: Duration) -> Option<NodeId> {
        self.inner.directory.wait_within(within, |directory| directory.leader(group))
    }

    /// What happens on this node from now on: leaders, members, snapshots, faults.
    pub fn events(&self) -> Events {
        self.inner.directory.hub().listen()
    }

    /// Grows whenever a leader changes: until then, all [`leader_of`](Self::leader_of) has said
    /// still stands. Costs no message.
    pub fn leaders_version(&self) -> u64 {
        self.inner.directory.version()
    }

    /// What the node has and has done, in three numbers that are kept at hand: unlike
    /// [`status`](Self::status) it waits for no shard, and costs the same for any number of groups.
    pub fn summary(&self) -> NodeSummary {
        let Inner { directory, counters, .. } = &*self.inner;
        NodeSummary {
            groups: directory.groups() as u64,
            groups_led: directory.led(),
            applied_commands: counters.commands_applied.load(Ordering::Relaxed),
        }
    }

    /// Whether a node is reached now: this one always is, another while our control lane to it is
    /// open. Costs no message.
    pub fn is_connected(&self, node: NodeId) -> bool {
        node == self.inner.node || self.inner.contacts.is_connected(node)
    }

    /// This node's id.
    pub fn node(&self) -> NodeId {
        self.inner.node
    }

    /// The Raft port, if this node has one of its own.
    pub fn listen_addr(&self) -> Option<SocketAddr> {
        self.inner.listen
    }

    /// Whether this node keeps its log on disk. Acknowledged writes are there, but for the last ones of
    /// groups under [`MemFirst`](crate::Strategy::MemFirst): each group's strategy is in its
    /// [status](Self::status).
    pub fn is_durable(&self) -> bool {
        self.inner.durable
    }

    /// Why this node acknowledges nothing any more, if so: its log failed, or one of its threads
    /// panicked, whichever it was. Such a node should be stopped.
    pub fn failure(&self) -> Option<String> {
        self.inner.failure.lock().clone()
    }

    /// Makes another node known, or changes where it is.
    pub fn set_peer_address(&self, node: NodeId, address: &str) {
        self.inner.registry.set_peer(node, address);
    }

    /// One group on this node, as it is now. `None` if it is not here, its shard does not answer
    /// within a second, or the node is stopping.
    pub fn group_status(&self, group: GroupId) -> Option<GroupStatus> {
        let shard = shard_of(group, self.inner.shards.len());
        let statuses = self.ask(shard, ShardInput::Status)?.recv_timeout(ANSWER_LIMIT).ok()?;
        statuses.into_iter().find(|status| status.group == group)
    }

    /// The node and all its groups, as they are now. Takes a second at most: a thread that does
    /// not answer by then is [missing](NodeStatus::missing).
    pub fn status(&self) -> NodeStatus {
        let until = Instant::now() + ANSWER_LIMIT;
        let (control, bulk) = (&self.inner.control, &self.inner.bulk);
        let others = [
            ("raft-control", ask(control, THREAD_WAITING_MAX, ControlInput::Ping)),
            ("raft-bulk", ask(bulk, THREAD_WAITING_MAX, BulkInput::Ping)),
        ];
        let mut missing = Vec::new();
        let mut groups: Vec<GroupStatus> = Vec::new();
        let mut groups_missing = 0;
        for (shard, answer) in self.ask_all(ShardInput::Status, until).into_iter().enumerate() {
            match answer {
                Some(statuses) => groups.extend(statuses),
                None => {
                    missing.push(format!("raft-shard-{shard}"));
                    let count = self.inner.shards.len();
                    let on_it = |group| shard_of(group, count) == shard;
                    groups_missing += self.inner.directory.count(on_it);
                }
            }
        }
        for (thread, answer) in others {
            if answer.and_then(|answer| answer.recv_deadline(until).ok()).is_none() {
                missing.push(thread.to_owned());
            }
        }
        groups.sort_by_key(|status| status.group);
        let now = self.inner.clock.now();
        NodeStatus {
            node: self.inner.node,
            cluster: self.inner.cluster.clone(),
            incarnation: self.inner.incarnation,
            listen: self.inner.listen,
            shards: self.inner.shards.len(),
            durable: self.inner.durable,
            missing,
            groups_missing,
            failure: self.failure(),
            log_stalled: self.inner.log_watch.stalled(now),
            log_convalescent: self.inner.log_watch.convalescent(now),
            log_without_room: self.inner.log_watch.without_room(now),
            log_pending_bytes: self.inner.log_load.bytes(),
            log_pending_bytes_max: self.inner.log_load.max(),
            applied_commands_total: groups.iter().map(|group| group.applied_commands).sum(),
            groups,
            peers: self
                .inner
                .peers
                .iter()
                .map(|peer| {
                    let contact = self.inner.contacts.of(peer.node);
                    let silent = contact.heard.map(|at| now.since(at).as_millis() as u64);
                    PeerStatus {
                        node: peer.node,
                        address: peer.address.clone(),
                        connected: contact.connected,
                        refusal: contact.refusal,
                        silent_ms: silent,
                    }
                })
                .collect(),
            counters: CountersSnapshot {
                claims_refuted: self.inner.registry.claims_refuted(),
                ..self.inner.counters.snapshot()
            },
            lanes: self
                .inner
                .lane_counters
                .iter()
                .map(|(lane, counters)| LaneStatus {
                    lane: (*lane).to_owned(),
                    counters: counters.snapshot().named().into_iter().collect(),
                })
                .collect(),
            tls: self.tls_status(),
        }
    }

    #[cfg(feature = "tls")]
    fn tls_status(&self) -> Option<TlsStatus> {
        let tls = self.inner.tls.as_ref()?;
        Some(TlsStatus {
            expires_seconds: tls_files::time_left(tls).as_secs(),
            counters: tls.snapshot().named().into_iter().collect(),
        })
    }

    #[cfg(not(feature = "tls"))]
    fn tls_status(&self) -> Option<TlsStatus> {
        None
    }

    /// Asks a shard; `None` if it takes no question any more.
    fn ask<T>(
        &self,
        shard: usize,
        question: impl FnOnce(Sender<T>) -> ShardInput,
    ) -> Option<Receiver<T>> {
        // Beyond the clients' own bound, for what they have handed in is no sign of illness.
        ask(&self.inner.shards[shard], 2 * self.inner.requests_max, question)
    }

    /// Asks all shards at once. `None` stands for one that has not answered by then.
    fn ask_all<T>(
        &self,
        question: impl Fn(Sender<T>) -> ShardInput,
        until: Instant,
    ) -> Vec<Option<T>> {
        let shards = 0..self.inner.shards.len();
        let asked: Vec<_> = shards.map(|shard| self.ask(shard, &question)).collect();
        asked.into_iter().map(|answer| answer?.recv_deadline(until).ok()).collect()
    }

    /// Gets ready to stop: from now on this node takes no office, and hands every leadership to
    /// another replica, the first by rank among those that are reached, hold everything and have
    /// applied it. It goes on serving meanwhile. Ends once all that can be handed over is led
    /// elsewhere, and after `timeout` in any case. Returns what is still led here.
    pub fn drain(&self, timeout: Duration) -> Drained {
        let end = Instant::now() + timeout;
        for shard in self.inner.shards.iter() {
            let _ = shard.push(ShardInput::Engine(EngineInput::HandOver));
        }
        loop {
            let states: Vec<Option<HandingOver>> =
                self.ask_all(ShardInput::HandingOver, Instant::now() + ANSWER_LIMIT);
            // A shard that does not answer may still be at it.
            let done = states.iter().all(|state| state.is_some_and(|state| state.open == 0));
            if done || Instant::now() >= end {
                let mut drained = Drained::default();
                for state in states.into_iter().flatten() {
                    drained.unfinished += state.unfinished;
                    drained.without_heir += state.led.saturating_sub(state.unfinished);
                }
                return drained;
            }
            std::thread::sleep(DRAIN_POLL);
        }
    }

    /// Stops the node: groups, then lanes and port, then the log. Everything still under way is
    /// answered. Returns when all threads have ended; a second call does nothing.
    pub fn stop(&self) {
        if self.inner.stopping.swap(true, Ordering::AcqRel) {
            return;
        }
        let threads = std::mem::take(&mut *self.inner.threads.lock());
        self.inner.registry.shut_down();
        threads.stop(&self.inner.shards, &self.inner.control, &self.inner.bulk);
        self.inner.directory.hub().end();
    }

    fn shard(&self, group: GroupId) -> &Inbox<ShardInput> {
        &self.inner.shards[shard_of(group, self.inner.shards.len())]
    }
}

/// Groups that a node still leads after a [`NodeHost::drain`].
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Drained {
    /// They were being handed over when the time was up.
    pub unfinished: usize,
    /// Nobody takes them over: their other voters stop as well, are out of reach, or there are none.
    pub without_heir: usize,
}

/// Asks a thread of the node, unless so much waits for it that it would not get round to it.
fn ask<I, T>(
    inbox: &Inbox<I>,
    waiting_max: usize,
    question: impl FnOnce(Sender<T>) -> I,
) -> Option<Receiver<T>> {
    let (answer, result) = bounded(1);
    inbox.push_within(question(answer), waiting_max).ok().map(|()| result)
}

fn maker(
    factory: &Arc<dyn StateMachineFactory>,
    group: GroupId,
    log: Option<LogReader>,
) -> MakeMachine {
    let factory = Arc::clone(factory);
    Arc::new(move |spec: &GroupSpec| {
        let make = || NewMachine::new(factory.create(group, spec), spec, log.as_ref());
        at_work_for(group, make).unwrap_or_else(|why| unmade(&why))
    })
}

fn refusal(why: PushError) -> RequestError {
    match why {
        PushError::Closed => RequestError::Stopping,
        PushError::Full => RequestError::Overloaded { pending_bytes: 0 },
    }
}
