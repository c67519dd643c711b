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

mod apply_worker;
mod bulk_thread;
mod clock;
mod control_thread;
mod directory;
mod inbox;
mod known_stores;
mod log_reader;
mod log_thread;
mod options;
mod shard_thread;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam::channel::{Receiver, Sender, bounded, unbounded};
use parking_lot::Mutex;
use raft_core::{GroupId, Incarnation, LogIndex, NodeId, SettingsError};
use raft_mux::{MuxAcceptor, MuxConfig, MuxError};
use raft_storage::{LogStore, RecoveredGroup};
use raft_transport::{
    Identity, Lane, LaneConfig, LaneCounters, LaneLayout, Lanes, Network, NetworkError,
    PeerRegistry, RESERVED_FIRST, TcpNetwork,
};
use tracing::{error, warn};

use self::bulk_thread::{Bulk, BulkInput};
use self::clock::Clock;
use self::control_thread::{Control, ControlInput};
use self::directory::Directory;
use self::inbox::{Inbox, PushError};
use self::known_stores::KnownStores;
use self::log_thread::LogBatch;
use self::shard_thread::{Links, Shard, ShardInput, shard_of};
use crate::counters::Counters;
use crate::engine::{
    ApplyJob, CreateGroup, Created, Durability, EngineInput, EngineOptions, Fetch, ShardEngine,
};
use crate::group_spec::GroupSpec;
use crate::node_status::{GroupStatus, LaneStatus, NodeStatus, PeerStatus};
use crate::request::{Proposed, Request, RequestError, RequestKind, Ticket};
use crate::state_machine::StateMachineFactory;

pub use self::options::{LaneConfigs, LogKind, NetworkOptions, NodeOptions, PeerOptions};

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
    peers: Vec<PeerOptions>,
    requests_max: usize,
    shards: Arc<[Arc<Inbox<ShardInput>>]>,
    control: Arc<Inbox<ControlInput>>,
    bulk: Arc<Inbox<BulkInput>>,
    directory: Arc<Directory>,
    counters: Arc<Counters>,
    lane_counters: Vec<(&'static str, Arc<LaneCounters>)>,
    factory: Arc<dyn StateMachineFactory>,
    registry: PeerRegistry,
    failure: Arc<Mutex<Option<String>>>,
    stopping: AtomicBool,
    threads: Mutex<Threads>,
}

/// In the order in which they are stopped.
#[derive(Default)]
struct Threads {
    shards: Vec<JoinHandle<()>>,
    appliers: Vec<JoinHandle<()>>,
    lanes: Vec<JoinHandle<()>>,
    log: Vec<JoinHandle<()>>,
    acceptor: Option<MuxAcceptor>,
}

/// Why a node did not start. What had been started was stopped again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The timing contradicts itself.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The options contradict themselves.
    #[error("{0}")]
    Options(String),
    /// The data directory cannot be used.
    #[error(transparent)]
    Log(#[from] raft_storage::OpenError),
    /// The port cannot be opened.
    #[error(transparent)]
    Mux(#[from] MuxError),
    /// The lanes cannot be opened on the port.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// The memory of peers' data directories cannot be read.
    #[error("cannot read the data directory")]
    Directory(#[source] io::Error),
    /// The operating system gave no thread.
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
    /// The log holds a group whose spec this version cannot read.
    #[error("the log holds group {group} with a spec this version cannot read")]
    UnreadableSpec {
        /// Which group.
        group: GroupId,
    },
}

/// Why a group was not created.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CreateError {
    /// The id belongs to a group with another spec.
    #[error("group {} exists with another spec: {existing:?}", existing.group)]
    SpecDiffers {
        /// What the group is.
        existing: Box<GroupSpec>,
    },
    /// The spec cannot be used; it says why.
    #[error("group {group}: {why}")]
    BadSpec {
        /// Which group.
        group: GroupId,
        /// What is wrong with the spec.
        why: &'static str,
    },
    /// The node is stopping, or its log failed.
    #[error("the node is stopping")]
    Stopping,
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

    /// Creates a group on this node and waits until that is on disk. Harmless if the group is
    /// here already with the same spec. Every node of the group has to be told.
    ///
    /// # Errors
    /// [`CreateError`]; nothing was created then.
    pub fn create_group(&self, spec: GroupSpec) -> Result<Created, CreateError> {
        self.check_spec(&spec)?;
        let (done, result) = bounded(1);
        self.create(
            spec,
            None,
            Box::new(move |ended| {
                let _ = done.send(ended);
            }),
        )?;
        match result.recv() {
            Ok(Ok(created)) => Ok(created),
            Ok(Err(existing)) => Err(CreateError::SpecDiffers {
                existing: Box::new(existing),
            }),
            Err(_) => Err(CreateError::Stopping),
        }
    }

    fn create(
        &self,
        spec: GroupSpec,
        recovered: Option<RecoveredGroup>,
        done: crate::engine::CreateDone,
    ) -> Result<(), CreateError> {
        let group = spec.group;
        self.inner.directory.add(group);
        let machine = self.inner.factory.create(group, &spec);
        let create = CreateGroup {
            spec,
            machine,
            recovered,
            done,
        };
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
            if spec.replicas[..at]
                .iter()
                .any(|(r, n)| r == replica || n == node)
            {
                return bad("a replica or a node is named twice");
            }
            let known =
                *node == self.inner.node || self.inner.peers.iter().any(|peer| peer.node == *node);
            if !known {
                return bad("a replica is on a node that is not a peer of this one");
            }
        }
        Ok(())
    }

    /// Replicates a command and applies it. It is on its way when this returns, in call order.
    pub fn propose(&self, group: GroupId, command: Bytes) -> Ticket<Proposed> {
        self.request(group, RequestKind::Propose(command))
    }

    /// Reads from the leader's applied state, linearizably.
    pub fn read(&self, group: GroupId, query: Bytes) -> Ticket<Bytes> {
        self.request(group, RequestKind::Read(query))
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
            let error = match why {
                PushError::Closed => RequestError::Stopping,
                PushError::Full => RequestError::Overloaded { pending_bytes: 0 },
            };
            for request in requests {
                request.reply.send(Err(error.clone()));
            }
        }
    }

    /// A digest of a group's state, with the applied index it belongs to.
    pub fn digest(&self, group: GroupId) -> Ticket<(LogIndex, u64)> {
        let (request, ticket) = Request::new(group, RequestKind::Read(Bytes::new()));
        let input = ShardInput::Engine(EngineInput::Digest(group, request.reply));
        if let Err(ShardInput::Engine(EngineInput::Digest(_, reply))) =
            self.shard(group).push(input)
        {
            reply.send(Err(RequestError::Stopping));
        }
        ticket
    }

    /// Hands a group's leadership to another node, or with `None` to the replica that is furthest.
    /// Only the leader can; it takes no proposals meanwhile. Refused as
    /// [`RequestError::Transferring`] if the target does not take over within an election timeout.
    pub fn transfer_leadership(&self, group: GroupId, to: Option<NodeId>) -> Ticket<()> {
        let (request, ticket) = Request::new(group, RequestKind::Read(Bytes::new()));
        let input = ShardInput::Engine(EngineInput::Transfer(group, to, request.reply));
        if let Err(ShardInput::Engine(EngineInput::Transfer(.., reply))) =
            self.shard(group).push(input)
        {
            reply.send(Err(RequestError::Stopping));
        }
        ticket
    }

    /// The node that leads a group, as last heard here. May be outdated; costs no message.
    pub fn leader_of(&self, group: GroupId) -> Option<NodeId> {
        self.inner.directory.leader(group)
    }

    /// This node's id.
    pub fn node(&self) -> NodeId {
        self.inner.node
    }

    /// The Raft port, if this node has one of its own.
    pub fn listen_addr(&self) -> Option<SocketAddr> {
        self.inner.listen
    }

    /// Whether acknowledged writes are on disk.
    pub fn is_durable(&self) -> bool {
        self.inner.durable
    }

    /// Why the log failed, if it did. Such a node acknowledges nothing any more and should be
    /// stopped.
    pub fn failure(&self) -> Option<String> {
        self.inner.failure.lock().clone()
    }

    /// Makes another node known, or changes where it is.
    pub fn set_peer_address(&self, node: NodeId, address: &str) {
        self.inner.registry.set_peer(node, address);
    }

    /// One group on this node, as it is now. `None` if it is not here, or the node is stopping.
    pub fn group_status(&self, group: GroupId) -> Option<GroupStatus> {
        let statuses = self.ask(shard_of(group, self.inner.shards.len()), ShardInput::Status)?;
        statuses.into_iter().find(|status| status.group == group)
    }

    /// The node and all its groups, as they are now. A shard that does not answer within a
    /// second is left out.
    pub fn status(&self) -> NodeStatus {
        let mut groups: Vec<GroupStatus> = (0..self.inner.shards.len())
            .filter_map(|shard| self.ask(shard, ShardInput::Status))
            .flatten()
            .collect();
        groups.sort_by_key(|status| status.group);
        NodeStatus {
            node: self.inner.node,
            cluster: self.inner.cluster.clone(),
            incarnation: self.inner.incarnation,
            listen: self.inner.listen,
            shards: self.inner.shards.len(),
            durable: self.inner.durable,
            applied_commands_total: groups.iter().map(|group| group.applied_commands).sum(),
            groups,
            peers: self
                .inner
                .peers
                .iter()
                .map(|peer| PeerStatus {
                    node: peer.node,
                    address: peer.address.clone(),
                })
                .collect(),
            counters: self.inner.counters.snapshot(),
            lanes: self
                .inner
                .lane_counters
                .iter()
                .map(|(lane, counters)| LaneStatus {
                    lane: (*lane).to_owned(),
                    counters: counters.snapshot().named().into_iter().collect(),
                })
                .collect(),
        }
    }

    fn ask<T>(&self, shard: usize, question: impl FnOnce(Sender<T>) -> ShardInput) -> Option<T> {
        let (answer, result) = bounded(1);
        self.inner.shards[shard].push(question(answer)).ok()?;
        result.recv_timeout(Duration::from_secs(1)).ok()
    }

    /// Hands every leadership to another replica, as far as possible within `timeout`. Returns
    /// how many groups are still led here. Groups of a single replica cannot be handed over.
    pub fn drain(&self, timeout: Duration) -> usize {
        let end = Instant::now() + timeout;
        for shard in self.inner.shards.iter() {
            let _ = shard.push(ShardInput::Engine(EngineInput::HandOver));
        }
        loop {
            let led = (0..self.inner.shards.len())
                .filter_map(|shard| self.ask(shard, ShardInput::Led))
                .sum();
            if led == 0 || Instant::now() >= end {
                return led;
            }
            std::thread::sleep(Duration::from_millis(5));
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
    }

    fn shard(&self, group: GroupId) -> &Inbox<ShardInput> {
        &self.inner.shards[shard_of(group, self.inner.shards.len())]
    }
}

impl Threads {
    fn stop(
        self,
        shards: &[Arc<Inbox<ShardInput>>],
        control: &Inbox<ControlInput>,
        bulk: &Inbox<BulkInput>,
    ) {
        for shard in shards {
            let _ = shard.push(ShardInput::Stop);
        }
        // With the shards go the senders that the apply workers, the log and its reader wait on.
        join(self.shards);
        join(self.appliers);
        let _ = control.push(ControlInput::Stop);
        let _ = bulk.push(BulkInput::Stop);
        if let Some(acceptor) = &self.acceptor {
            acceptor.close();
        }
        join(self.lanes);
        join(self.log);
    }
}

fn join(threads: Vec<JoinHandle<()>>) {
    for thread in threads {
        let name = thread.thread().name().unwrap_or("?").to_owned();
        if thread.join().is_err() {
            error!(thread = name, "a thread of this node panicked");
        }
    }
}

/// A start under way, so that a failure can take back what is already running.
#[derive(Default)]
struct Starting {
    threads: Threads,
    shards: Vec<Arc<Inbox<ShardInput>>>,
    control: Arc<Inbox<ControlInput>>,
    bulk: Arc<Inbox<BulkInput>>,
}

/// The log of a node, opened.
struct OpenLog {
    store: Option<Box<dyn LogStore>>,
    incarnation: Incarnation,
    store_id: u128,
    groups: BTreeMap<GroupId, RecoveredGroup>,
    known: Option<KnownStores>,
}

impl Starting {
    fn run(
        mut self,
        options: NodeOptions,
        factory: Arc<dyn StateMachineFactory>,
    ) -> Result<NodeHost, StartError> {
        match self.try_run(options, factory) {
            Ok(host) => Ok(host),
            Err(error) => {
                let threads = std::mem::take(&mut self.threads);
                threads.stop(&self.shards, &self.control, &self.bulk);
                Err(error)
            }
        }
    }

    fn try_run(
        &mut self,
        options: NodeOptions,
        factory: Arc<dyn StateMachineFactory>,
    ) -> Result<NodeHost, StartError> {
        options.settings.validate()?;
        if options.shards == 0 || options.shards > usize::from(Lane::SHARD_MAX) {
            return Err(StartError::Options(format!(
                "{} shards: 1 to 223 are possible",
                options.shards
            )));
        }
        if options.apply_workers == 0 {
            return Err(StartError::Options(
                "at least one apply worker is needed".to_owned(),
            ));
        }
        let OpenLog {
            store,
            incarnation,
            store_id,
            groups,
            known,
        } = open_log(&options)?;
        let durable = store.is_some();
        let specs = read_specs(groups)?;

        let clock = Clock::new();
        let counters = Arc::new(Counters::default());
        let directory = Arc::new(Directory::default());
        let failure = Arc::new(Mutex::new(None));
        let peers: Vec<NodeId> = options.peers.iter().map(|peer| peer.node).collect();
        self.shards = (0..options.shards).map(|_| Arc::default()).collect();
        let inboxes: Arc<[Arc<Inbox<ShardInput>>]> = self.shards.clone().into();

        let registry = make_registry(&options, incarnation, store_id, known);
        let lanes = LaneMaker {
            clock,
            counters: lane_counters(),
            registry: registry.clone(),
        };
        let (network, listen) = self.start_control(&options, &inboxes, &lanes)?;
        self.start_bulk(&options, &inboxes, &lanes, &network, &peers)?;
        let log = store
            .map(|store| self.start_log(store, &inboxes, &counters))
            .transpose()?;
        let appliers = self.start_appliers(options.apply_workers, &inboxes)?;

        for index in 0..options.shards {
            let engine = ShardEngine::new(
                EngineOptions {
                    node: options.node,
                    incarnation,
                    settings: Arc::new(options.settings.clone()),
                    lane_policy: options.lane_policy,
                    seed: (store_id as u64) ^ incarnation.get().rotate_left(32),
                    durability: if durable {
                        Durability::Log
                    } else {
                        Durability::Memory
                    },
                    command_bytes_max: options.command_bytes_max,
                    window_bytes: options.window_bytes,
                    requests_max: options.requests_max,
                    bulk_bytes_max: options.lanes.bulk.window_bytes,
                },
                Arc::clone(&counters),
                peers.iter().copied(),
            );
            let links = Links {
                shards: Arc::clone(&inboxes),
                control: Arc::clone(&self.control),
                bulk: Arc::clone(&self.bulk),
                log: log.as_ref().map(|(batches, _)| batches.clone()),
                reader: log.as_ref().map(|(_, fetches)| fetches.clone()),
                appliers: appliers.clone(),
                directory: Arc::clone(&directory),
                counters: Arc::clone(&counters),
                failure: Arc::clone(&failure),
            };
            let lane = Lane::Data { shard: index as u8 };
            let make = lanes.for_lane(&network, lane, &options.lanes.data);
            let peers = peers.clone();
            self.threads
                .shards
                .push(spawn_loop(format!("raft-shard-{index}"), move || {
                    Shard::new(index, peers, engine, make(), links, clock)
                })?);
        }
        drop((log, appliers));

        let host = NodeHost {
            inner: Arc::new(Inner {
                node: options.node,
                cluster: options.cluster,
                incarnation,
                listen,
                durable,
                peers: options.peers,
                requests_max: options.requests_max,
                shards: inboxes,
                control: Arc::clone(&self.control),
                bulk: Arc::clone(&self.bulk),
                directory,
                counters,
                lane_counters: lanes.counters,
                factory,
                registry,
                failure,
                stopping: AtomicBool::new(false),
                threads: Mutex::new(std::mem::take(&mut self.threads)),
            }),
        };
        for (spec, recovered) in specs {
            // A group that cannot start is reported by its shard; the others go on.
            let _ = host.create(spec, Some(recovered), Box::new(|_| {}));
        }
        Ok(host)
    }

    /// Starts the control plane. The port is opened on its runtime, which accepts for all.
    fn start_control(
        &mut self,
        options: &NodeOptions,
        shards: &Arc<[Arc<Inbox<ShardInput>>]>,
        lanes: &LaneMaker,
    ) -> Result<(Arc<dyn Network>, Option<SocketAddr>), StartError> {
        let (ready, opened) = bounded(1);
        let network = match &options.network {
            NetworkOptions::Custom(network) => Ok(Arc::clone(network)),
            NetworkOptions::Tcp { listen, mux } => Err((*listen, mux.clone())),
        };
        let registry = lanes.registry.clone();
        let shard_count = options.shards as u8;
        let make = lanes.maker(Lane::Control, &options.lanes.control);
        let (inbox, shards, clock) = (Arc::clone(&self.control), Arc::clone(shards), lanes.clock);
        let interval = options.settings.heartbeat_interval;
        let run = move || {
            let runtime = match runtime() {
                Ok(runtime) => runtime,
                Err(error) => {
                    let _ = ready.send(Err(StartError::Thread(error)));
                    return;
                }
            };
            runtime.block_on(async move {
                let network: Arc<dyn Network> = match network {
                    Ok(network) => {
                        let _ = ready.send(Ok((Arc::clone(&network), None)));
                        network
                    }
                    Err((listen, mux)) => {
                        match open_port(listen, mux, shard_count, registry).await {
                            Ok((acceptor, addr, network)) => {
                                let opened = (Arc::clone(&network), Some((acceptor, addr)));
                                let _ = ready.send(Ok(opened));
                                network
                            }
                            Err(error) => {
                                let _ = ready.send(Err(error));
                                return;
                            }
                        }
                    }
                };
                let lanes = make(network);
                Control::new(inbox, shards, lanes, clock, interval).await;
            });
        };
        self.threads
            .lanes
            .push(spawn("raft-control".to_owned(), run)?);
        let (network, port) = opened
            .recv()
            .map_err(|_| StartError::Options("the control plane ended at once".to_owned()))??;
        let addr = port.as_ref().map(|(_, addr)| *addr);
        self.threads.acceptor = port.map(|(acceptor, _)| acceptor);
        Ok((network, addr))
    }

    fn start_bulk(
        &mut self,
        options: &NodeOptions,
        shards: &Arc<[Arc<Inbox<ShardInput>>]>,
        lanes: &LaneMaker,
        network: &Arc<dyn Network>,
        peers: &[NodeId],
    ) -> Result<(), StartError> {
        let make = lanes.for_lane(network, Lane::Bulk, &options.lanes.bulk);
        let (inbox, shards, clock) = (Arc::clone(&self.bulk), Arc::clone(shards), lanes.clock);
        let peers = peers.to_vec();
        let thread = spawn_loop("raft-bulk".to_owned(), move || {
            Bulk::new(inbox, shards, make(), clock, &peers)
        })?;
        self.threads.lanes.push(thread);
        Ok(())
    }

    fn start_log(
        &mut self,
        store: Box<dyn LogStore>,
        shards: &Arc<[Arc<Inbox<ShardInput>>]>,
        counters: &Arc<Counters>,
    ) -> Result<(Sender<LogBatch>, Sender<(usize, Fetch)>), StartError> {
        // Bounded by the groups' replication windows, see `Inbox`.
        let (batches, batches_out): (_, Receiver<LogBatch>) = unbounded();
        let (fetches, fetches_out) = unbounded();
        let reader = store.reader();
        let (inboxes, counters) = (Arc::clone(shards), Arc::clone(counters));
        self.threads.log.push(spawn("raft-log".to_owned(), move || {
            log_thread::run(store, &batches_out, &inboxes, &counters);
        })?);
        let inboxes = Arc::clone(shards);
        self.threads
            .log
            .push(spawn("raft-log-reader".to_owned(), move || {
                log_reader::run(&reader, &fetches_out, &inboxes);
            })?);
        Ok((batches, fetches))
    }

    fn start_appliers(
        &mut self,
        workers: usize,
        shards: &Arc<[Arc<Inbox<ShardInput>>]>,
    ) -> Result<Vec<Sender<ApplyJob>>, StartError> {
        let mut appliers = Vec::with_capacity(workers);
        for worker in 0..workers {
            let (jobs, jobs_out) = unbounded();
            let inboxes = Arc::clone(shards);
            let count = inboxes.len();
            self.threads
                .appliers
                .push(spawn(format!("raft-apply-{worker}"), move || {
                    apply_worker::run(&jobs_out, &inboxes, |group| shard_of(group, count));
                })?);
            appliers.push(jobs);
        }
        Ok(appliers)
    }
}

async fn open_port(
    listen: SocketAddr,
    mux: MuxConfig,
    shards: u8,
    registry: PeerRegistry,
) -> Result<(MuxAcceptor, SocketAddr, Arc<dyn Network>), StartError> {
    let acceptor = MuxAcceptor::bind(listen, mux).await?;
    let addr = acceptor.local_addr();
    let lanes = LaneLayout::default().lanes(shards);
    let network = TcpNetwork::new(acceptor.clone(), &lanes, registry)?;
    Ok((acceptor, addr, Arc::new(network)))
}

fn open_log(options: &NodeOptions) -> Result<OpenLog, StartError> {
    match &options.log {
        LogKind::Memory => {
            // Nothing is remembered, so nothing may be mistaken for an earlier life.
            let now = Clock::wall().get().max(1);
            Ok(OpenLog {
                store: None,
                incarnation: Incarnation::new(now),
                store_id: u128::from(options.node.get()),
                groups: BTreeMap::new(),
                known: None,
            })
        }
        LogKind::Directory { path, options: log } => {
            let expected = raft_storage::Expected {
                cluster: Some(options.cluster.clone()),
                node: Some(options.node),
            };
            let opened = raft_storage::Log::open(path, &expected, log)?;
            let known = KnownStores::load(path).map_err(StartError::Directory)?;
            Ok(OpenLog {
                incarnation: opened.incarnation,
                store_id: opened.identity.store.get(),
                groups: opened.groups,
                store: Some(Box::new(opened.writer)),
                known: Some(known),
            })
        }
    }
}

fn read_specs(
    groups: BTreeMap<GroupId, RecoveredGroup>,
) -> Result<Vec<(GroupSpec, RecoveredGroup)>, StartError> {
    let specs = groups.into_iter().map(|(group, recovered)| {
        GroupSpec::decode(&recovered.spec)
            .filter(|spec| spec.group == group)
            .map(|spec| (spec, recovered))
            .ok_or(StartError::UnreadableSpec { group })
    });
    specs.collect()
}

fn make_registry(
    options: &NodeOptions,
    incarnation: Incarnation,
    store: u128,
    known: Option<KnownStores>,
) -> PeerRegistry {
    let identity = Identity {
        cluster: options.cluster.clone(),
        node: options.node,
        store,
        incarnation,
        shards: options.shards as u8,
        features: 0,
    };
    let remembered: Vec<(NodeId, u128)> = known
        .iter()
        .flat_map(|known| known.iter().collect::<Vec<_>>())
        .collect();
    let known = Mutex::new(known);
    let registry = PeerRegistry::new(identity, move |node, store| {
        if let Some(known) = known.lock().as_mut()
            && let Err(error) = known.insert(node, store)
        {
            warn!(peer = %node, %error, "cannot remember the peer's data directory");
        }
    });
    for peer in &options.peers {
        registry.set_peer(peer.node, peer.address.clone());
    }
    for (node, store) in remembered {
        if options.peers.iter().any(|peer| peer.node == node) {
            registry.set_known_store(node, store);
        }
    }
    registry
}

fn lane_counters() -> Vec<(&'static str, Arc<LaneCounters>)> {
    ["control", "data", "bulk"]
        .map(|lane| (lane, Arc::default()))
        .into()
}

/// Makes the lanes of a thread, on that thread.
struct LaneMaker {
    clock: Clock,
    counters: Vec<(&'static str, Arc<LaneCounters>)>,
    registry: PeerRegistry,
}

impl LaneMaker {
    fn maker(
        &self,
        lane: Lane,
        config: &LaneConfig,
    ) -> impl FnOnce(Arc<dyn Network>) -> Lanes + Send + use<> {
        let (registry, config) = (self.registry.clone(), config.clone());
        let counters = match lane {
            Lane::Control => &self.counters[0].1,
            Lane::Data { .. } => &self.counters[1].1,
            Lane::Bulk => &self.counters[2].1,
        };
        let counters = Arc::clone(counters);
        move |network| Lanes::new(network, registry, lane, config, counters)
    }

    fn for_lane(
        &self,
        network: &Arc<dyn Network>,
        lane: Lane,
        config: &LaneConfig,
    ) -> impl FnOnce() -> Lanes + Send + use<> {
        let (make, network) = (self.maker(lane, config), Arc::clone(network));
        move || make(network)
    }
}

fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
}

/// Runs a poll loop on a thread and a runtime of its own.
fn spawn_loop<F>(
    name: String,
    make: impl FnOnce() -> F + Send + 'static,
) -> Result<JoinHandle<()>, StartError>
where
    F: Future<Output = ()>,
{
    let runtime = runtime().map_err(StartError::Thread)?;
    spawn(name, move || runtime.block_on(async move { make().await }))
}

fn spawn(name: String, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, StartError> {
    std::thread::Builder::new()
        .name(name)
        .spawn(run)
        .map_err(StartError::Thread)
}
