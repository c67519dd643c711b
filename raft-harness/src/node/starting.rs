//! A node comes up: log, port, lanes, shards, groups; what fails half-way is taken back.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread::JoinHandle;
use std::time::Instant;

use crossbeam::channel::{Receiver, Sender, bounded, unbounded};
use parking_lot::Mutex;
use raft_core::{
    Base, GroupId, GroupIncarnation, HardState, Incarnation, NodeId, Promise, SnapshotMeta,
    Tombstone,
};
use raft_mux::{MuxAcceptor, MuxConfig};
use raft_storage::{
    BootCertificate, FileDisk, GroupWrite, Hole, LogError, LogOptions, LogReader, LogStore,
    OnDamage, Opened, RecoveredGroup,
};
use raft_transport::{
    Cover, GrantPool, Identity, Lane, LaneLayout, Network, PeerLife, PeerRegistry, Plain,
    SocketOptions, TcpNetwork,
};
#[cfg(feature = "tls")]
use raft_transport::{Tls, TlsStream};
use tracing::{error, warn};

use super::alarm::Alarm;
use super::bulk_thread::{Bulk, BulkInput, BulkTask};
use super::carrier::Carriers;
use super::clock::Clock;
use super::contacts::Contacts;
use super::control_thread::{Control, ControlInput, ControlTask, Speech};
use super::directory::Directory;
use super::error::StartError;
use super::inbox::Inbox;
use super::known_stores::{KnownStores, Memo};
use super::lane_maker::{LaneMaker, lane_counters};
use super::lives::begin_life;
use super::log_end::{LogEnd, Noted, counts_written, note_forgetful};
use super::log_scrub::LogScrub;
use super::log_thread::{LogBatch, LogLinks, LogWork, PORTION_BYTES};
use super::log_watch::{LogWatch, LogWatcher};
use super::options::{LogKind, NetworkOptions, NodeOptions};
use super::shard_thread::{Links, Shard, ShardInput, ShardTask, shard_of};
use super::snapshot_scrub::SnapshotScrub;
use super::threads::Threads;
use super::vouching::{Voucher, Vouching};
use super::{Inner, NodeHost, apply_worker, log_reader, log_thread, maker, snapshot_thread};
use crate::counters::Counters;
use crate::engine::{
    ApplyJob, Durability, EngineInput, EngineOptions, Fetch, LogLoad, ShardEngine,
};
use crate::event::EventHub;
use crate::group_spec::GroupSpec;
use crate::snapshot::desk::{Desk, DeskInput, DeskOptions};
use crate::snapshot::fitting::{newest_beyond, newest_fit};
use crate::snapshot::shelf::Shelf;
use crate::snapshot::workshop::Workshop;
use crate::snapshot::{Compression, MemoryStore, Restored, SnapshotStore};
use crate::state_machine::StateMachineFactory;

/// The ways to the log: batches to write, ranges to read back.
type LogSenders = (Sender<LogBatch>, Sender<(usize, Fetch)>);

/// A start under way, so that a failure can take back what is already running.
#[derive(Default)]
pub(super) struct Starting {
    threads: Threads,
    shards: Vec<Arc<Inbox<ShardInput>>>,
    control: Arc<Inbox<ControlInput>>,
    bulk: Arc<Inbox<BulkInput>>,
    failure: Arc<Mutex<Option<String>>>,
    hub: Arc<EventHub>,
    #[cfg(feature = "tls")]
    tls: Option<Tls>,
}

/// The log of a node, opened.
struct OpenLog {
    store: Option<Box<dyn LogStore>>,
    incarnation: Incarnation,
    store_id: u128,
    /// The bits of this life, and of those before.
    life: u128,
    past: Vec<u32>,
    groups: BTreeMap<GroupId, RecoveredGroup>,
    tombstones: BTreeMap<GroupId, (GroupIncarnation, Tombstone)>,
    known: Option<KnownStores<FileDisk>>,
    creations_lost: bool,
    /// The log is to be left without a last word.
    ends_unclear: bool,
    vouching: Vouching,
}

impl Starting {
    pub(super) fn run(
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
        options.validate()?;
        let opened = open_log(&options)?;
        let OpenLog {
            mut store,
            incarnation,
            store_id,
            life,
            past,
            groups,
            tombstones,
            known,
            creations_lost,
            ends_unclear,
            vouching,
        } = opened;
        let durable = store.is_some();
        let log_reader = store.as_ref().map(|store| store.reader());
        let specs = read_specs(groups)?;
        let snapshots = open_snapshots(&options).and_then(Shelf::open);
        let snapshots = Arc::new(snapshots.map_err(StartError::Directory)?);
        let here: HashSet<(GroupId, GroupIncarnation)> =
            specs.iter().map(|(spec, _)| (spec.group, spec.incarnation)).collect();
        let forgotten = snapshots.forget_strangers(|life| here.contains(&life));
        forgotten.map_err(StartError::Directory)?;
        let mut restored = Vec::with_capacity(specs.len());
        for (spec, mut recovered) in specs {
            let maker = maker(&factory, spec.group, log_reader.clone());
            let machine = newest_fit(&snapshots, &recovered, &spec, &maker);
            let mut machine = machine.map_err(StartError::Directory)?;
            if let Some(store) = &mut store
                && recovered.promise.promise != Promise::Kept
                && let Some(newer) = newest_beyond(&snapshots, &recovered, &spec, &maker)
                    .map_err(StartError::Directory)?
                && begin_behind(store.as_mut(), spec.group, &mut recovered, &newer)?
            {
                machine = Some(newer);
            }
            restored.push((spec, recovered, machine));
        }

        let clock = Clock::new();
        let counters = Arc::new(Counters::default());
        let directory = Arc::new(Directory::new(options.node, Arc::clone(&self.hub)));
        let contacts = Arc::new(Contacts::default());
        let failure = Arc::new(Mutex::new(None));
        let peers: Vec<NodeId> = options.peers.iter().map(|peer| peer.node).collect();
        self.shards = (0..options.shards).map(|_| Arc::default()).collect();
        let inboxes: Arc<[Arc<Inbox<ShardInput>>]> = self.shards.clone().into();

        let remembered: Vec<_> = known.iter().flat_map(KnownStores::iter).collect();
        let memo = known.map(|known| self.start_memo(known)).transpose()?;
        let on_met = move |peer, life| {
            if let Some(memo) = &memo {
                memo.put(peer, life);
            }
        };
        let (who, lives) = ((store_id, incarnation), (life, past));
        let registry = make_registry(&options, who, lives, &remembered, on_met);
        let lanes = LaneMaker {
            clock,
            counters: lane_counters(),
            registry: registry.clone(),
            grants: GrantPool::new(options.grant_bytes_max),
            layout: options.layout,
            configs: options.lanes.clone(),
            watch: options.lane_watch.clone(),
        };
        self.failure = Arc::clone(&failure);
        let watch = Arc::new(LogWatch::new(options.settings.disk_stall_max));
        let repeat = options.settings.heartbeat_interval;
        let watcher = LogWatcher::new(Arc::clone(&watch), Arc::clone(&counters), repeat);
        let desk = self.start_desk(
            (snapshots, options.snapshot_compression, log_reader.clone()),
            (SnapshotScrub::new(options.log_scrub, Instant::now()), Arc::clone(&counters)),
            &inboxes,
            options.layout,
            clock,
        )?;
        let (network, listen) =
            self.start_control(&options, &inboxes, &lanes, (&contacts, &desk), watcher)?;
        #[cfg(feature = "tls")]
        let tls = self.tls.take();
        self.start_bulk(&inboxes, &lanes, &network, desk.clone())?;
        let log_links = LogLinks {
            shards: Arc::clone(&inboxes),
            counters: Arc::clone(&counters),
            watch: Arc::clone(&watch),
            clock,
            pace: options.log_pace,
            failure: Arc::clone(&failure),
        };
        let load = Arc::new(LogLoad::new(options.log_pending_bytes_max));
        let log = store.map(|store| {
            let work = LogWork::new(store, Arc::clone(&load), PORTION_BYTES)
                .vouched_by(vouching)
                .ending_unclear(ends_unclear);
            self.start_log(work, log_links, LogScrub::new(options.log_scrub, Instant::now()))
        });
        let log = log.transpose()?;
        let appliers = self.start_appliers(options.apply_workers, &inboxes)?;

        for index in 0..options.shards {
            let engine = ShardEngine::new(
                EngineOptions {
                    node: options.node,
                    incarnation,
                    creations_lost,
                    settings: Arc::new(options.settings.clone()),
                    persistence: options.persistence,
                    lane_policy: options.lane_policy,
                    layout: options.layout,
                    seed: (store_id as u64) ^ incarnation.get().rotate_left(32),
                    durability: if durable { Durability::Log } else { Durability::Memory },
                    command_bytes_max: options.command_bytes_max,
                    window_bytes: match options.log {
                        LogKind::Directory { .. } => Some(options.window_bytes),
                        LogKind::Memory { keep_bytes } => keep_bytes,
                    },
                    requests_max: options.requests_max,
                    snapshot_every: options.snapshot_every,
                    snapshot_bytes: options.snapshot_bytes,
                    snapshot_tail: options.snapshot_tail,
                    snapshot_hold_bytes: options.snapshot_hold_bytes,
                    bulk_bytes_max: lanes.config(options.layout.bulk()).window_bytes,
                    log_load: Arc::clone(&load),
                },
                Arc::clone(&counters),
                peers.iter().copied(),
            );
            let links = Links {
                shards: Arc::clone(&inboxes),
                control: Arc::clone(&self.control),
                carriers: self.carriers(options.layout),
                log: log.as_ref().map(|(batches, _)| batches.clone()),
                reader: log.as_ref().map(|(_, fetches)| fetches.clone()),
                desk: desk.clone(),
                appliers: appliers.clone(),
                directory: Arc::clone(&directory),
                counters: Arc::clone(&counters),
                failure: Arc::clone(&failure),
            };
            let lane = Lane::Data { shard: index as u8 };
            let make = lanes.for_lane(&network, lane);
            let name = format!("raft-shard-{index}");
            let alarm = Alarm::new(&name, &inboxes, &failure, &self.hub);
            self.threads.shards.push(spawn_loop(name, move || async move {
                let _alarm = alarm;
                let shard = Shard::new(index, engine, make(), links);
                ShardTask::new(shard, clock).await;
            })?);
        }
        drop((log, appliers, desk));

        let host = NodeHost {
            inner: Arc::new(Inner {
                node: options.node,
                cluster: options.cluster,
                incarnation,
                listen,
                durable,
                disk_stall_max: options.settings.disk_stall_max,
                peers: options.peers,
                requests_max: options.requests_max,
                log_load: load,
                shards: inboxes,
                control: Arc::clone(&self.control),
                bulk: Arc::clone(&self.bulk),
                directory,
                contacts,
                clock,
                counters,
                lane_counters: lanes.counters,
                factory,
                log_reader,
                registry,
                #[cfg(feature = "tls")]
                tls,
                failure,
                log_watch: watch,
                stopping: AtomicBool::new(false),
                threads: Mutex::new(std::mem::take(&mut self.threads)),
            }),
        };
        for (group, (incarnation, tombstone)) in tombstones {
            let input = EngineInput::Remember(incarnation, tombstone);
            let _ = host.shard(group).push(ShardInput::Engine(input));
        }
        for (spec, recovered, restored) in restored {
            // A group that cannot start is reported by its shard; the others go on.
            let _ = host.create(spec, Some(recovered), restored, Box::new(|_| {}));
        }
        Ok(host)
    }

    /// Starts the control plane. The port is opened on its runtime, which accepts for all.
    fn start_control(
        &mut self,
        options: &NodeOptions,
        shards: &Arc<[Arc<Inbox<ShardInput>>]>,
        lanes: &LaneMaker,
        (contacts, desk): (&Arc<Contacts>, &Sender<DeskInput>),
        watcher: LogWatcher,
    ) -> Result<(Arc<dyn Network>, Option<SocketAddr>), StartError> {
        let (ready, opened) = bounded(1);
        let (network, mut listen_addr) = match &options.network {
            NetworkOptions::Custom(network) => (Ok(Arc::clone(network)), None),
            #[cfg(feature = "tls")]
            NetworkOptions::Tcp { listen, mux } if options.tls.is_some() => {
                let (network, addr) =
                    self.start_tls_port((*listen, mux), options, shards, lanes)?;
                (Ok(network), Some(addr))
            }
            NetworkOptions::Tcp { listen, mux } => (Err((*listen, mux.clone())), None),
        };
        let registry = lanes.registry.clone();
        let lanes_here = (options.shards as u8, lanes.opener());
        let make = lanes.maker(Lane::Control);
        let (inbox, shards, clock) = (Arc::clone(&self.control), Arc::clone(shards), lanes.clock);
        let (desk, contacts) = (desk.clone(), Arc::clone(contacts));
        let how = Speech {
            layout: options.layout,
            heartbeats: options.heartbeats,
            heartbeat_interval: options.settings.heartbeat_interval,
        };
        let alarm = Alarm::new("raft-control", &shards, &self.failure, &self.hub);
        let run = move || {
            let _alarm = alarm;
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
                        match open_port(listen, mux, lanes_here, registry).await {
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
                let control = Control::new(inbox, shards, desk, lanes, contacts, how, watcher);
                ControlTask::new(control, clock).await;
            });
        };
        self.threads.lanes.push(spawn("raft-control".to_owned(), run)?);
        let (network, port) = opened
            .recv()
            .map_err(|_| StartError::Options("the control plane ended at once".to_owned()))??;
        if let Some((acceptor, addr)) = port {
            listen_addr = Some(addr);
            self.threads.port = Some(Box::new(move || acceptor.close()));
        }
        Ok((network, listen_addr))
    }

    /// Opens a port on which nodes prove who they are first, on a thread of its own: a stranger's handshakes
    /// cost processor time, which is not to be that of votes and heartbeats.
    #[cfg(feature = "tls")]
    fn start_tls_port(
        &mut self,
        (listen, mux): (SocketAddr, &MuxConfig),
        options: &NodeOptions,
        shards: &Arc<[Arc<Inbox<ShardInput>>]>,
        lanes: &LaneMaker,
    ) -> Result<(Arc<dyn Network>, SocketAddr), StartError> {
        let Some(files) = options.tls.clone() else {
            return Err(StartError::Options("no certificates".to_owned()));
        };
        let tls = super::tls_files::load(&options.cluster, options.node, &files)?;
        let (ready, opened) = bounded(1);
        let lanes_here = (options.shards as u8, lanes.opener());
        let (mux, cover, registry) = (mux.clone(), tls.clone(), lanes.registry.clone());
        let alarm = Alarm::new("raft-port", shards, &self.failure, &self.hub);
        let run = move || {
            let _alarm = alarm;
            let runtime = match runtime() {
                Ok(runtime) => runtime,
                Err(error) => {
                    let _ = ready.send(Err(StartError::Thread(error)));
                    return;
                }
            };
            runtime.block_on(async move {
                match open_tls_port(listen, mux, cover, lanes_here, registry).await {
                    Ok((acceptor, network)) => {
                        let _ = ready.send(Ok((acceptor.clone(), network)));
                        acceptor.closed().await;
                    }
                    Err(error) => {
                        let _ = ready.send(Err(error));
                    }
                }
            });
        };
        self.threads.lanes.push(spawn("raft-port".to_owned(), run)?);
        let (acceptor, network) = opened
            .recv()
            .map_err(|_| StartError::Options("the port ended at once".to_owned()))??;
        let addr = acceptor.local_addr();
        self.threads.port = Some(Box::new(move || acceptor.close()));
        let (asking, asked) = bounded(0);
        let watch = super::tls_files::Watch::new(tls.clone(), files);
        let thread = spawn("raft-tls-files".to_owned(), move || watch.run(&asked))?;
        self.threads.certificates = Some((asking, thread));
        self.tls = Some(tls);
        Ok((network, addr))
    }

    fn start_bulk(
        &mut self,
        shards: &Arc<[Arc<Inbox<ShardInput>>]>,
        lanes: &LaneMaker,
        network: &Arc<dyn Network>,
        desk: Sender<DeskInput>,
    ) -> Result<(), StartError> {
        let make = lanes.for_lane(network, Lane::Bulk);
        let (inbox, shards, clock) = (Arc::clone(&self.bulk), Arc::clone(shards), lanes.clock);
        let alarm = Alarm::new("raft-bulk", &shards, &self.failure, &self.hub);
        let thread = spawn_loop("raft-bulk".to_owned(), move || async move {
            let _alarm = alarm;
            BulkTask::new(Bulk::new(inbox, shards, desk, make()), clock).await;
        })?;
        self.threads.lanes.push(thread);
        Ok(())
    }

    fn carriers(&self, layout: LaneLayout) -> Carriers {
        Carriers { control: Arc::clone(&self.control), bulk: Arc::clone(&self.bulk), layout }
    }

    fn start_memo(&mut self, known: KnownStores<FileDisk>) -> Result<Arc<Memo>, StartError> {
        let (memo, woken) = Memo::new();
        let writer = Arc::clone(&memo);
        let run = move || writer.run(&woken, known);
        let thread = spawn("raft-peers".to_owned(), run)?;
        self.threads.memo = Some((Arc::clone(&memo), thread));
        Ok(memo)
    }

    fn start_desk(
        &mut self,
        (shelf, compression, log): (Arc<Shelf>, Compression, Option<LogReader>),
        (scrub, counters): (SnapshotScrub, Arc<Counters>),
        shards: &Arc<[Arc<Inbox<ShardInput>>]>,
        layout: LaneLayout,
        clock: Clock,
    ) -> Result<Sender<DeskInput>, StartError> {
        let how = match layout {
            LaneLayout::Single => DeskOptions::default().on_one_lane(),
            LaneLayout::ControlBulk | LaneLayout::ControlDataBulk => DeskOptions::default(),
        };
        let desk = Desk::new(Arc::clone(&shelf), log, how);
        // Bounded by what may be under way, see `snapshot_thread`.
        let (inputs, inputs_out) = unbounded();
        let (jobs, jobs_out) = unbounded();
        let (made, made_out) = unbounded();
        let (inboxes, carriers) = (Arc::clone(shards), self.carriers(layout));
        let count = inboxes.len();
        let alarm = Alarm::new("raft-snapshots", shards, &self.failure, &self.hub);
        self.threads.snapshots.push(spawn("raft-snapshots".to_owned(), move || {
            let _alarm = alarm;
            let owner = |group| shard_of(group, count);
            let workshop = (&jobs, &made_out);
            snapshot_thread::run(desk, &inputs_out, workshop, &inboxes, &carriers, clock, owner);
        })?);
        let workshop = Workshop::new(Arc::clone(&shelf), compression);
        let alarm = Alarm::new("raft-snapshot-work", shards, &self.failure, &self.hub);
        self.threads.snapshots.push(spawn("raft-snapshot-work".to_owned(), move || {
            let _alarm = alarm;
            let scrub = (&*shelf, scrub, &*counters);
            snapshot_thread::run_workshop(workshop, &jobs_out, &made, scrub);
        })?);
        Ok(inputs)
    }

    fn start_log(
        &mut self,
        work: LogWork,
        links: LogLinks,
        scrub: LogScrub,
    ) -> Result<LogSenders, StartError> {
        // Bounded by `LogLoad`; beside entries, by one operation per group.
        let (batches, batches_out): (_, Receiver<LogBatch>) = unbounded();
        let (fetches, fetches_out) = unbounded();
        let reader = work.reader();
        self.threads.room = work.room_wait();
        // Whoever stops the threads ends it.
        self.threads.room.allow();
        links.watch.watch_room(work.room_wait());
        let inboxes = Arc::clone(&links.shards);
        let counters = Arc::clone(&links.counters);
        let alarm = Alarm::new("raft-log", &inboxes, &self.failure, &self.hub);
        self.threads.log.push(spawn("raft-log".to_owned(), move || {
            let _alarm = alarm;
            log_thread::run(work, &batches_out, &links);
        })?);
        let alarm = Alarm::new("raft-log-reader", &inboxes, &self.failure, &self.hub);
        self.threads.log.push(spawn("raft-log-reader".to_owned(), move || {
            let _alarm = alarm;
            log_reader::run(&reader, &fetches_out, &inboxes, (scrub, &counters));
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
            let name = format!("raft-apply-{worker}");
            let alarm = Alarm::new(&name, shards, &self.failure, &self.hub);
            self.threads.appliers.push(spawn(name, move || {
                let _alarm = alarm;
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
    lanes: (u8, impl Fn(Lane) -> SocketOptions),
    registry: PeerRegistry,
) -> Result<(MuxAcceptor, SocketAddr, Arc<dyn Network>), StartError> {
    let acceptor = MuxAcceptor::bind(listen, mux).await?;
    let network = lanes_behind(&acceptor, Plain, lanes, registry)?;
    let addr = acceptor.local_addr();
    Ok((acceptor, addr, network))
}

#[cfg(feature = "tls")]
async fn open_tls_port(
    listen: SocketAddr,
    mux: MuxConfig,
    tls: Tls,
    lanes: (u8, impl Fn(Lane) -> SocketOptions),
    registry: PeerRegistry,
) -> Result<(MuxAcceptor<TlsStream>, Arc<dyn Network>), StartError> {
    // It times itself; the mux sees to it that it does.
    let mux = MuxConfig { handshake_timeout: Cover::connect_timeout(&tls), ..mux };
    let cover = tls.clone();
    let handshake = move |tcp, from| {
        let tls = tls.clone();
        async move { tls.accept(tcp, from).await }
    };
    let acceptor = MuxAcceptor::bind_with(listen, mux, handshake).await?;
    let network = lanes_behind(&acceptor, cover, lanes, registry)?;
    Ok((acceptor, network))
}

/// All lanes of a node with so many shards, behind a port that was opened with `cover`.
fn lanes_behind<C: Cover>(
    acceptor: &MuxAcceptor<C::Stream>,
    cover: C,
    (shards, sockets): (u8, impl Fn(Lane) -> SocketOptions),
    registry: PeerRegistry,
) -> Result<Arc<dyn Network>, StartError> {
    // Whatever this node dials, others may dial any of them.
    let lanes = LaneLayout::ControlDataBulk.lanes(shards);
    let mut network = TcpNetwork::covered(acceptor.clone(), cover, &lanes, registry)?;
    for lane in lanes {
        network = network.with_socket(lane, sockets(lane));
    }
    Ok(Arc::new(network))
}

fn open_log(options: &NodeOptions) -> Result<OpenLog, StartError> {
    match &options.log {
        LogKind::Memory { .. } => {
            // Nothing is remembered, so nothing may be mistaken for an earlier life.
            let now = Clock::wall().get().max(1);
            Ok(OpenLog {
                store: None,
                incarnation: Incarnation::new(now),
                store_id: u128::from(options.node.get()),
                life: draw_life()?,
                past: Vec::new(),
                groups: BTreeMap::new(),
                tombstones: BTreeMap::new(),
                known: None,
                creations_lost: false,
                ends_unclear: false,
                vouching: Vouching::Nobody,
            })
        }
        LogKind::Directory { path, options: log } => {
            let expected = raft_storage::Expected {
                cluster: Some(options.cluster.clone()),
                node: Some(options.node),
            };
            // What it forgets the other replicas remember.
            let log = LogOptions { on_damage: OnDamage::Repair, ..log.clone() };
            let mut opened = raft_storage::Log::open(path, &expected, &log)?;
            tell_damage(&opened.report.damage, &opened.groups);
            let life = draw_life()?;
            let disk = FileDisk::open(path).map_err(StartError::Directory)?;
            let past = begin_life(&disk, opened.incarnation, life);
            let past = past.map_err(StartError::Directory)?;
            let known = KnownStores::load(disk).map_err(StartError::Directory)?;
            let log_end = LogEnd::of_files(options.certificate_dir.as_deref(), &opened);
            let forgetful = log_end.forgetful(&opened.groups);
            let noted = note_forgetful(&mut opened.writer, &forgetful);
            let noted = noted.map_err(|error| StartError::Directory(io::Error::other(error)))?;
            opened.groups.extend(forgetful);
            let vouching = match noted {
                Noted::OnDisk => vouching(options, &opened),
                Noted::NoRoom => {
                    warn!(
                        "no room to note who may have forgotten: MemFirst groups wait for the disk"
                    );
                    Vouching::Refused
                }
            };
            Ok(OpenLog {
                life,
                past,
                incarnation: opened.incarnation,
                store_id: opened.identity.store.get(),
                groups: opened.groups,
                tombstones: opened.tombstones,
                store: Some(Box::new(opened.writer)),
                known: Some(known),
                creations_lost: opened.report.creations_lost,
                ends_unclear: noted == Noted::NoRoom,
                vouching,
            })
        }
    }
}

/// So many places of damage are told one by one; the log itself can be asked for all.
const HOLES_TOLD: usize = 100;

/// Says what the log has lost, and what becomes of it.
fn tell_damage(damage: &[Hole], groups: &BTreeMap<GroupId, RecoveredGroup>) {
    for Hole { segment, offset, groups, why, .. } in damage.iter().take(HOLES_TOLD) {
        error!(segment, offset, ?groups, %why, "the log is damaged");
    }
    if damage.is_empty() {
        return;
    }
    for (group, recovered) in groups {
        match recovered.promise.promise {
            Promise::Kept => {}
            Promise::Lost | Promise::Damaged => {
                warn!(%group, "may have forgotten entries: does not count until it has learned them");
            }
            Promise::Unproven => {
                error!(%group, "may have forgotten a vote: never counts again, and is to be replaced");
            }
        }
    }
}

/// A log that lost its end begins anew behind a snapshot that reaches further, durably. Whether it does: on
/// a full disk it stays as it is, and what is missing comes from the leader.
pub(crate) fn begin_behind(
    store: &mut dyn LogStore,
    group: GroupId,
    recovered: &mut RecoveredGroup,
    newer: &Restored,
) -> Result<bool, StartError> {
    let begun = behind(recovered, &newer.meta);
    let mut write = GroupWrite::new(group);
    // What it leaves in the log is there, or it would not have been restored.
    write.live = Some(Arc::clone(&newer.left.live));
    write.install = Some(newer.meta.clone());
    write.hard_state = (begun.hard_state != recovered.hard_state).then_some(begun.hard_state);
    match store.commit(&[write]) {
        Ok(_) => {}
        Err(LogError::NoSegment { .. }) => {
            warn!(%group, "no room to begin the log behind a newer snapshot");
            return Ok(false);
        }
        Err(error) => return Err(StartError::Directory(io::Error::other(error))),
    }
    *recovered = begun;
    Ok(true)
}

/// What a log holds that begins anew behind a snapshot.
pub(crate) fn behind(recovered: &RecoveredGroup, meta: &SnapshotMeta) -> RecoveredGroup {
    let mut begun = RecoveredGroup {
        base: Base::of_snapshot(meta),
        first_index: meta.index.next(),
        last_index: meta.index,
        term_runs: Vec::new(),
        configs: Vec::new(),
        log_time: recovered.log_time.max(meta.time),
        ..recovered.clone()
    };
    if begun.hard_state.term < meta.term {
        // It had reached that term at least.
        begun.hard_state = HardState { term: meta.term, vote: None };
    }
    begun
}

/// Who answers for what this life writes. To be asked once it is in the log who may have forgotten: from
/// then on a word in memory speaks for this life.
#[cfg(unix)]
fn vouching(options: &NodeOptions, opened: &Opened<FileDisk>) -> Vouching {
    let Some(dir) = options.certificate_dir.clone() else {
        return Vouching::Nobody;
    };
    let (store, incarnation) = (opened.identity.store, opened.incarnation);
    let make = move || match BootCertificate::begin(&dir, store, incarnation) {
        Ok(certificate) => Ok(Box::new(certificate) as Box<dyn Voucher>),
        Err(error) => Err(log_thread::chain(&error)),
    };
    let mut vouching = Vouching::Later(Box::new(make));
    if opened.groups.values().any(|group| counts_written(&group.spec)) {
        vouching.begin();
    }
    vouching
}

/// Bits that no other life has.
fn draw_life() -> Result<u128, StartError> {
    let drawn = raft_storage::StoreId::random();
    Ok(drawn.map_err(|error| StartError::Directory(io::Error::other(error)))?.get())
}

/// Where a node keeps its snapshots.
pub(crate) fn open_snapshots(options: &NodeOptions) -> io::Result<Arc<dyn SnapshotStore>> {
    if let Some(store) = &options.snapshots {
        return Ok(Arc::clone(store));
    }
    match &options.log {
        LogKind::Memory { .. } => Ok(Arc::new(MemoryStore::default())),
        #[cfg(unix)]
        LogKind::Directory { path, .. } => {
            Ok(Arc::new(crate::snapshot::FileStore::open(&path.join("snapshots"))?))
        }
        #[cfg(not(unix))]
        LogKind::Directory { .. } => Err(io::ErrorKind::Unsupported.into()),
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
    (store, incarnation): (u128, Incarnation),
    (life, past): (u128, Vec<u32>),
    remembered: &[(NodeId, PeerLife)],
    on_met: impl Fn(NodeId, PeerLife) + Send + Sync + 'static,
) -> PeerRegistry {
    let identity = Identity {
        cluster: options.cluster.clone(),
        node: options.node,
        store,
        incarnation,
        life,
        past,
        shards: options.shards as u8,
        features: 0,
    };
    let peers: Vec<(NodeId, &str)> =
        options.peers.iter().map(|peer| (peer.node, peer.address.as_str())).collect();
    registry(identity, &peers, remembered, on_met)
}

/// The registry of a node that remembers the lives its peers have shown.
pub(crate) fn registry(
    identity: Identity,
    peers: &[(NodeId, &str)],
    remembered: &[(NodeId, PeerLife)],
    on_met: impl Fn(NodeId, PeerLife) + Send + Sync + 'static,
) -> PeerRegistry {
    let registry = PeerRegistry::new(identity, on_met);
    for (node, address) in peers {
        registry.set_peer(*node, *address);
    }
    for (node, life) in remembered {
        if peers.iter().any(|(peer, _)| peer == node) {
            registry.set_known_life(*node, *life);
        }
    }
    registry
}

fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
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
    std::thread::Builder::new().name(name).spawn(run).map_err(StartError::Thread)
}

#[cfg(all(test, unix))]
mod tests;
