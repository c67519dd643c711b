//! One life of a node: the real shards, control plane, bulk lane, log, reader and apply workers,
//! put together as a start puts them together, with virtual time in the place of threads.
//!
//! Nothing is decided here. What a thread would do when it is woken is done when the world says
//! so; what it would wait for, the world lets pass.

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::task::{Context, Waker};

use crossbeam::channel::{Receiver, unbounded};
use parking_lot::Mutex;
use raft_core::{GroupId, GroupIncarnation, Incarnation, NodeId, Tombstone};
use raft_storage::{
    Expected, Flight, Landing, Log, LogReader, LogStore, Lsn, OpenError, RecoveredGroup,
    RecoveryReport,
};
use raft_transport::{
    Credit, Direction, GrantPool, Identity, Lane, LaneCounters, LaneLayout, Lanes, Network,
};

use super::clock::{Looks, NodeClock, Still};
use super::disk::SimDisk;
use super::incarnations::life_in;
use super::judge::Judge;
use super::machine::{How, Identity as MachineIdentity, Record, Slip};
use super::memory::Memory;
use super::network::{Listener, Net, Place};
use super::sightings::Sightings;
use super::snapshots::{DeskThread, SimStore};
use super::stream::SimNetwork;
use super::swarm::Swarm;
use super::tasks::{NodeTask, Note, TaskId, Wakes};
use super::words::Words;
use crate::bodies::NewMachine;
use crate::counters::Counters;
use crate::engine::{
    ApplyJob, CreateGroup, CreateRefusal, Created, Durability, EngineInput, EngineOptions, Fetch,
    LogLoad, MakeMachine, Replica, ShardEngine, Via,
};
use crate::group_spec::GroupSpec;
use crate::node::Heartbeats;
use crate::node::sim::{
    Bulk, BulkInput, Carrier, Carriers, Control, ControlInput, Directory, Inbox, KnownStores,
    Links, LogBatch, LogEnd, LogWatch, LogWatcher, LogWork, Machines, Noted, Round, Shard,
    ShardInput, Speech, Vouching, begin_behind, begin_life, behind, note_forgetful, registry,
    shard_of,
};
use crate::persistence::Persistence;
use crate::request::Request;
use crate::sim::marks::Mark;
use crate::sim::rng::mix;
use crate::sim::violation::{Check, Violation};
use crate::snapshot::Restored;
use crate::snapshot::fitting::{is_stateless, newest_beyond, newest_fit};
use crate::snapshot::shelf::Shelf;

/// The name all clusters here have.
pub(super) const CLUSTER: &str = "simulated";

/// How often a task goes round before others get their turn.
const ROUNDS_MAX: usize = 8;

/// One life of a node.
pub(super) struct Process {
    making: Making,
    incarnation: Incarnation,
    /// Which lanes it dials.
    layout: LaneLayout,
    clock: NodeClock,
    shards: Vec<Shard>,
    control: Control,
    bulk: Bulk,
    /// One per task, by number: who wakes it, and when it runs next.
    tasks: Vec<Scheduled>,
    inboxes: Arc<[Arc<Inbox<ShardInput>>]>,
    directory: Arc<Directory>,
    counters: Arc<Counters>,
    lane_counters: Arc<LaneCounters>,
    /// How often a shard went to sleep with a lane that had room for nothing.
    lanes_full: u64,
    failure: Arc<Mutex<Option<String>>>,
    requests_max: usize,
    pub(super) load: Arc<LogLoad>,
    pub(super) log: LogThread,
    pub(super) reads: ReadThread,
    pub(super) applier: ApplyThread,
    pub(super) desk: DeskThread,
    created: CreationsSeen,
    /// Groups that took in a replica which was gone.
    created_again: Arc<Mutex<Vec<GroupId>>>,
    /// The newest life of each group that was begun here.
    lives: Mutex<BTreeMap<GroupId, GroupId>>,
}

/// What state machines are made of.
struct Making {
    node: NodeId,
    how: How,
    slip: Slip,
    record: Record,
    judge: Judge,
    log: LogReader,
}

impl Making {
    fn maker(&self, spec: &GroupSpec) -> MakeMachine {
        let (node, group, how) = (self.node, life_in(spec), self.how);
        let (record, slip, judge) = (self.record.clone(), self.slip.clone(), self.judge.clone());
        let log = self.log.clone();
        Arc::new(move |spec: &GroupSpec| {
            let replica = spec.replica_on(node).unwrap_or_default();
            let of = MachineIdentity { node, group, replica };
            let machine = record.machine(of, how, &slip, &judge);
            NewMachine::new(Box::new(machine), spec, Some(&log))
        })
    }
}

struct Scheduled {
    note: Arc<Note>,
    waker: Waker,
    at: Option<u64>,
    /// It has looked at its clocks and then stood still.
    stands: Option<Stands>,
}

/// A thread that stands still after its first look at the clocks.
#[derive(Clone, Copy)]
struct Stands {
    looked: u64,
    /// Its clocks as they were then.
    clock: NodeClock,
    until: u64,
}

/// What came of a thread's turn.
pub(super) struct Turn {
    /// When it wants the next one, if nobody wakes it.
    pub(super) next: Option<u64>,
    /// Within the turn everything stood still until then.
    pub(super) stood_until: Option<u64>,
}

/// The log's thread.
pub(super) struct LogThread {
    pub(super) work: LogWork,
    pub(super) batches: Receiver<LogBatch>,
    pub(super) state: LogState,
    /// What the disk is busy with.
    pub(super) flight: Option<Flight>,
    /// That makes it durable.
    pub(super) syncs: bool,
    /// Where the log ended when it departed.
    pub(super) departed: Lsn,
    /// What has ended and nobody was told of.
    pub(super) landings: VecDeque<Landing>,
    /// Counts batches, so that silence can be told from work.
    pub(super) taken: u64,
    /// How many segments it has begun to write again, when that was last looked at.
    pub(super) reused: u64,
    /// Who notes when the disk is asked and answers, by the node's own clock.
    pub(super) watch: Arc<LogWatch>,
    /// An idle log has asked the disk for something, and that hangs.
    pub(super) desk_waits: bool,
    /// Nothing was written since the log fell idle and said so, durably.
    pub(super) sealed: bool,
}

/// What the log's thread is doing.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum LogState {
    Waits,
    Busy,
    Failed,
}

/// The thread that reads the log back.
pub(super) struct ReadThread {
    pub(super) reader: LogReader,
    pub(super) fetches: Receiver<(usize, Fetch)>,
    pub(super) under_way: VecDeque<(usize, Fetch)>,
}

/// The apply worker.
pub(super) struct ApplyThread {
    pub(super) machines: Machines,
    pub(super) jobs: Receiver<ApplyJob>,
    pub(super) busy: bool,
}

/// How creations ended that were asked for in this life.
type CreationsSeen = Arc<Mutex<Vec<(GroupId, Result<Created, CreateRefusal>)>>>;

/// What a life begins from.
pub(super) struct Birth<'a> {
    pub(super) place: Place,
    pub(super) disk: &'a SimDisk,
    pub(super) clock: NodeClock,
    pub(super) swarm: &'a Swarm,
    pub(super) net: &'a Net,
    pub(super) wakes: &'a Wakes,
    /// The groups that are to live here, whether the log has them or not.
    pub(super) homes: Vec<GroupSpec>,
    pub(super) snapshots: &'a SimDisk,
    pub(super) slip: &'a Slip,
    pub(super) record: &'a Record,
    pub(super) judge: &'a Judge,
    pub(super) words: &'a Words,
    /// What an earlier life has vouched for.
    pub(super) memory: &'a Memory,
    pub(super) seed: u64,
}

/// Why a life did not begin.
#[derive(Debug)]
pub(super) enum Stillborn {
    Log(OpenError),
    /// Something beside the log cannot be read.
    Directory(std::io::Error),
    /// The log holds a group whose spec nobody can read.
    Spec {
        _group: GroupId,
    },
}

/// A life, and what the log remembered of earlier ones.
pub(super) struct Born {
    pub(super) process: Process,
    pub(super) recovered: BTreeMap<GroupId, RecoveredGroup>,
    /// What began anew behind a snapshot, since then.
    pub(super) anew: Vec<(GroupId, RecoveredGroup)>,
    pub(super) tombstones: BTreeMap<GroupId, (GroupIncarnation, Tombstone)>,
    pub(super) report: RecoveryReport,
    /// Whether it is in the log who may have forgotten.
    pub(super) noted: Noted,
    /// Groups whose replica lacks the state that its log begins with.
    pub(super) stateless: Vec<GroupId>,
}

impl Process {
    /// What a start does: log, registry, lanes, shards, groups.
    pub(super) fn start(birth: &Birth<'_>) -> Result<Born, Stillborn> {
        let Birth { place, disk, clock, swarm, net, wakes, snapshots, record, judge, seed, .. } =
            *birth;
        let words = birth.words;
        let node = swarm.nodes[place];
        let expected = Expected { cluster: Some(CLUSTER.to_owned()), node: Some(node) };
        let mut opened =
            Log::open_on(disk.clone(), &expected, &swarm.log).map_err(Stillborn::Log)?;
        let known = KnownStores::load(disk.clone()).map_err(Stillborn::Directory)?;
        let life = u128::from(seed) << 64 | u128::from(mix(seed));
        let past = begin_life(disk, opened.incarnation, life).map_err(Stillborn::Directory)?;
        let store_id = opened.identity.store;
        let is_covered = |lives, end| birth.memory.covers(store_id, lives, end);
        let log_end = LogEnd::of(&opened.report, opened.incarnation, is_covered);
        let as_found = opened.groups.clone();
        let forgetful = log_end.forgetful(&opened.groups);
        for (group, log) in &forgetful {
            judge.lock().account(place).may_begin(*group, log);
        }
        let noted = note_forgetful(&mut opened.writer, &forgetful);
        let noted = noted.map_err(|_| Stillborn::Directory(std::io::ErrorKind::Other.into()))?;
        let on_disk = forgetful.iter().filter(|_| noted == Noted::OnDisk);
        let mut anew: Vec<_> = on_disk.map(|(group, log)| (*group, log.clone())).collect();
        opened.groups.extend(forgetful);
        let mut specs = Vec::new();
        for (group, recovered) in &opened.groups {
            let spec = GroupSpec::decode(&recovered.spec).filter(|spec| spec.group == *group);
            specs.push((spec.ok_or(Stillborn::Spec { _group: *group })?, Some(recovered.clone())));
        }
        // Whoever runs the cluster goes on asking until every node has its groups.
        for spec in &birth.homes {
            let last = opened.tombstones.get(&spec.group);
            let last = last.map(|(incarnation, gone)| (*incarnation, gone.replica));
            let here = spec.replica_on(node).map(|replica| (spec.incarnation, replica));
            let is_new = here.is_some_and(|here| last.is_none_or(|last| here > last));
            if is_new && !opened.groups.contains_key(&spec.group) {
                specs.push((spec.clone(), None));
            }
        }
        let mut vouching = match noted {
            Noted::OnDisk => birth.memory.vouching(store_id, opened.incarnation),
            Noted::NoRoom => Vouching::Refused,
        };
        if specs.iter().any(|(spec, _)| spec.counts_written()) {
            vouching.begin();
        }
        let store =
            SimStore::open(snapshots.clone()).and_then(|store| Shelf::open(Arc::new(store)));
        let shelf = Arc::new(store.map_err(Stillborn::Directory)?);
        let in_log = |life: (GroupId, GroupIncarnation)| {
            let recovered = specs.iter().filter(|(_, recovered)| recovered.is_some());
            recovered.map(|(spec, _)| (spec.group, spec.incarnation)).any(|there| there == life)
        };
        shelf.forget_strangers(in_log).map_err(Stillborn::Directory)?;
        let making = Making {
            node,
            how: How {
                mode: swarm.apply,
                padding: swarm.snapshot_padding,
                keeps: swarm.keeps_entries,
            },
            slip: birth.slip.clone(),
            record: record.clone(),
            judge: judge.clone(),
            log: opened.reader.clone(),
        };
        let mut begun = Vec::with_capacity(specs.len());
        let mut stateless = Vec::new();
        for (spec, mut recovered) in specs {
            let maker = making.maker(&spec);
            let mut restored = match &recovered {
                Some(log) => {
                    newest_fit(&shelf, log, &spec, &maker).map_err(Stillborn::Directory)?
                }
                None => None,
            };
            if let Some(log) =
                recovered.as_mut().filter(|log| log.promise.promise != raft_core::Promise::Kept)
                && let Some(newer) =
                    newest_beyond(&shelf, log, &spec, &maker).map_err(Stillborn::Directory)?
            {
                judge.lock().account(place).may_begin(spec.group, &behind(log, &newer.meta));
                let begun = begin_behind(&mut opened.writer, spec.group, log, &newer);
                if begun.map_err(|_| Stillborn::Directory(std::io::ErrorKind::Other.into()))? {
                    anew.push((spec.group, log.clone()));
                    restored = Some(newer);
                }
            }
            if recovered.as_ref().is_some_and(|log| is_stateless(log, restored.as_ref())) {
                stateless.push(spec.group);
            }
            begun.push((spec, recovered, restored));
        }

        let shard_count = swarm.shards[place];
        let identity = Identity {
            cluster: CLUSTER.to_owned(),
            node,
            store: opened.identity.store.get(),
            incarnation: opened.incarnation,
            life,
            past,
            shards: shard_count as u8,
            features: 0,
        };
        let peers: Vec<NodeId> = swarm.nodes.iter().copied().filter(|peer| *peer != node).collect();
        let addresses: Vec<(NodeId, &str)> = peers.iter().map(|peer| (*peer, "")).collect();
        let remembered: Vec<_> = known.iter().collect();
        let known = Mutex::new(known);
        let registry = registry(identity, &addresses, &remembered, move |peer, life| {
            // A disk that is full or dead is forgotten about; a restart may not know this life.
            let _ = known.lock().insert([(peer, life)]);
        });
        let network: Arc<dyn Network> =
            Arc::new(SimNetwork::new(net.clone(), place, swarm.nodes.clone(), registry.clone()));
        let lane_counters = Arc::new(LaneCounters::default());
        let grants = GrantPool::new(swarm.grant_bytes_max);
        let (layout, heartbeats) = (LaneLayout::default(), Heartbeats::default());
        let lanes = |lane| {
            let counters = Arc::clone(&lane_counters);
            let (network, registry) = (Arc::clone(&network), registry.clone());
            let config = swarm.lane_config(lane);
            let lanes = Lanes::new(network, registry, lane, config, counters);
            let lanes = lanes.without_timer().watched(words.watch()).with_grants(grants.clone());
            if layout.dials(lane) { lanes } else { lanes.accepting_only() }
        };

        let counters = Arc::new(Counters::default());
        let directory = Arc::new(Directory::new(node, Arc::default()));
        let failure = Arc::new(Mutex::new(None));
        let inboxes: Arc<[Arc<Inbox<ShardInput>>]> =
            (0..shard_count).map(|_| Arc::default()).collect();
        let control_inbox: Arc<Inbox<ControlInput>> = Arc::default();
        let bulk_inbox: Arc<Inbox<BulkInput>> = Arc::default();
        let (to_control, to_bulk) = (Arc::clone(&control_inbox), Arc::clone(&bulk_inbox));
        let carriers = Carriers { control: to_control, bulk: to_bulk, layout };
        let (batches_in, batches) = unbounded();
        let (fetches_in, fetches) = unbounded();
        let (jobs_in, jobs) = unbounded();
        let (desk_in, desk_inputs) = unbounded();
        let load = Arc::new(LogLoad::new(swarm.log_pending_bytes));
        let shards = (0..shard_count).map(|index| {
            let mut engine = ShardEngine::new(
                EngineOptions {
                    node,
                    incarnation: opened.incarnation,
                    creations_lost: opened.report.creations_lost,
                    settings: Arc::new(swarm.settings.clone()),
                    persistence: Persistence::default(),
                    lane_policy: swarm.policy,
                    layout,
                    seed,
                    durability: Durability::Log,
                    command_bytes_max: 1 << 20,
                    window_bytes: Some(swarm.window_bytes),
                    requests_max: swarm.requests_max,
                    bulk_bytes_max: swarm.bulk_bytes_max,
                    log_load: Arc::clone(&load),
                    snapshot_every: swarm.snapshot_every,
                    snapshot_bytes: swarm.snapshot_bytes,
                    snapshot_tail: swarm.snapshot_tail,
                    snapshot_hold_bytes: swarm.snapshot_hold_bytes,
                },
                Arc::clone(&counters),
                peers.iter().copied(),
            );
            engine.watch(judge.at_node(place, clock));
            let links = Links {
                shards: Arc::clone(&inboxes),
                control: Arc::clone(&control_inbox),
                carriers: carriers.clone(),
                log: Some(batches_in.clone()),
                reader: Some(fetches_in.clone()),
                appliers: vec![jobs_in.clone()],
                desk: desk_in.clone(),
                directory: Arc::clone(&directory),
                counters: Arc::clone(&counters),
                failure: Arc::clone(&failure),
            };
            let lane = lanes(Lane::Data { shard: index as u8 });
            Shard::new(index, engine, lane, links)
        });
        let shards: Vec<Shard> = shards.collect();
        let interval = swarm.settings.heartbeat_interval;
        let (control_lanes, contacts) = (lanes(Lane::Control), Arc::default());
        let log_watch = Arc::new(LogWatch::new(swarm.settings.disk_stall_max));
        let watcher = LogWatcher::new(Arc::clone(&log_watch), Arc::clone(&counters), interval);
        let of_control = Arc::clone(&inboxes);
        let how = Speech { layout, heartbeats, heartbeat_interval: interval };
        let to_desk = desk_in.clone();
        let control =
            Control::new(control_inbox, of_control, to_desk, control_lanes, contacts, how, watcher);
        let bulk = Bulk::new(bulk_inbox, Arc::clone(&inboxes), desk_in.clone(), lanes(Lane::Bulk));
        let inboxes_of_desk = Arc::clone(&inboxes);
        let desk = {
            let options = match layout {
                LaneLayout::Single => swarm.desk.on_one_lane(),
                LaneLayout::ControlBulk | LaneLayout::ControlDataBulk => swarm.desk,
            };
            let how = (opened.reader.clone(), options);
            DeskThread::new(shelf, how, desk_inputs, inboxes_of_desk, carriers)
        };
        let tasks = (0..2 + shard_count).map(|number| {
            let task = match number {
                0 => NodeTask::Control,
                1 => NodeTask::Bulk,
                shard => NodeTask::Shard(shard - 2),
            };
            let (note, waker) = wakes.waker(TaskId::of(place, task));
            Scheduled { note, waker, at: None, stands: None }
        });
        let listening =
            LaneLayout::ControlDataBulk.lanes(shard_count as u8).into_iter().map(|lane| {
                let task = TaskId::of(place, NodeTask::of(lane));
                (lane, Listener { task, waiting: VecDeque::new() })
            });
        net.lock().listen(place, listening.collect());

        let reader = opened.writer.reader();
        let log: Box<dyn LogStore> = Box::new(opened.writer);
        let process = Self {
            making,
            incarnation: opened.incarnation,
            layout,
            desk,
            clock,
            shards,
            control,
            bulk,
            tasks: tasks.collect(),
            inboxes,
            directory,
            counters,
            lane_counters,
            lanes_full: 0,
            failure,
            requests_max: swarm.requests_max,
            log: LogThread {
                work: LogWork::new(log, Arc::clone(&load), swarm.log_portion_bytes)
                    .vouched_by(vouching)
                    .accounted(),
                batches,
                state: LogState::Waits,
                flight: None,
                syncs: false,
                departed: Lsn::ZERO,
                landings: VecDeque::new(),
                taken: 0,
                reused: 0,
                watch: log_watch,
                desk_waits: false,
                // The open has noted how far it reaches.
                sealed: true,
            },
            load,
            reads: ReadThread { reader, fetches, under_way: VecDeque::new() },
            applier: ApplyThread { machines: Machines::default(), jobs, busy: false },
            created: Arc::default(),
            created_again: Arc::default(),
            lives: Mutex::default(),
        };
        for (group, (incarnation, tombstone)) in &opened.tombstones {
            process.tell(*group, EngineInput::Remember(*incarnation, *tombstone));
        }
        for (spec, recovered, restored) in begun {
            process.create(spec, recovered, restored);
        }
        let (recovered, tombstones) = (as_found, opened.tombstones);
        Ok(Born { process, recovered, anew, tombstones, report: opened.report, noted, stateless })
    }

    /// Asks for a replica that was here and is gone, which must be refused.
    pub(super) fn create_again(&self, spec: GroupSpec) {
        let (group, wrongly) = (spec.group, Arc::clone(&self.created_again));
        let maker = self.making.maker(&spec);
        let done = Box::new(move |ended: Result<Created, CreateRefusal>| {
            if ended.is_ok() {
                wrongly.lock().push(group);
            }
        });
        let create = CreateGroup { spec, maker, recovered: None, restored: None, done };
        let _ = self.inbox(group).push(ShardInput::Engine(EngineInput::Create(Box::new(create))));
    }

    /// Groups of which a replica came back under the name of one that is gone.
    pub(super) fn created_again(&self) -> Vec<GroupId> {
        std::mem::take(&mut *self.created_again.lock())
    }

    /// A group begins on this node, as [`NodeHost::create_group`](crate::NodeHost::create_group)
    /// begins it.
    pub(super) fn create(
        &self,
        spec: GroupSpec,
        recovered: Option<RecoveredGroup>,
        restored: Option<Restored>,
    ) {
        let group = spec.group;
        self.directory.add(group);
        self.lives.lock().insert(group, life_in(&spec));
        let created = Arc::clone(&self.created);
        let maker = self.making.maker(&spec);
        let done = Box::new(move |ended| created.lock().push((group, ended)));
        let create = CreateGroup { spec, maker, recovered, restored, done };
        let _ = self.inbox(group).push(ShardInput::Engine(EngineInput::Create(Box::new(create))));
    }

    /// Which life of a group a request would reach, if any was begun here.
    pub(super) fn life_of(&self, group: GroupId) -> Option<GroupId> {
        self.lives.lock().get(&group).copied()
    }

    fn inbox(&self, group: GroupId) -> &Inbox<ShardInput> {
        &self.inboxes[shard_of(group, self.inboxes.len())]
    }

    /// A client's request arrives, as [`NodeHost::submit`](crate::NodeHost::submit) takes it.
    pub(super) fn submit(&self, request: Request) {
        let inbox = self.inbox(request.group);
        let refused = inbox.push_within(ShardInput::Requests(vec![request]), self.requests_max);
        if let Err((ShardInput::Requests(requests), _)) = refused {
            for request in requests {
                let error = crate::RequestError::Overloaded { pending_bytes: 0 };
                request.reply.send(Err(error));
            }
        }
    }

    /// Something for the engine of a group's shard.
    pub(super) fn tell(&self, group: GroupId, input: EngineInput) {
        let _ = self.inbox(group).push(ShardInput::Engine(input));
    }

    /// Something for the shard of this number.
    pub(super) fn tell_shard(&self, shard: usize, input: ShardInput) {
        let _ = self.inboxes[shard].push(input);
    }

    /// A thread looks at its clocks and then stands still: the turn it has begun goes on later.
    pub(super) fn stand_still(&mut self, task: NodeTask, looked: u64, until: u64) {
        let scheduled = &mut self.tasks[task.number()];
        scheduled.stands = Some(Stands { looked, clock: self.clock, until });
        scheduled.at = Some(until);
    }

    /// A thread takes its turn.
    pub(super) fn run(
        &mut self,
        task: NodeTask,
        at: u64,
        still: Option<Still>,
        stood: &dyn Fn(u64),
    ) -> Turn {
        let scheduled = &mut self.tasks[task.number()];
        scheduled.note.clear();
        let mut looked = scheduled.stands.take().map(|stands| (stands.looked, stands.clock));
        let waker = scheduled.waker.clone();
        let cx = &mut Context::from_waker(&waker);
        let moment = Cell::new(at);
        for _ in 0..ROUNDS_MAX {
            let looks = Looks::new(self.clock, &moment, looked.take(), still, stood);
            let asleep = match task {
                NodeTask::Control => match self.control.round(cx, || looks.look()) {
                    Round::Idle => self.control.sleep(cx),
                    Round::Worked | Round::Stop => false,
                },
                NodeTask::Bulk => match self.bulk.round(cx, looks.look().0) {
                    Round::Idle => self.bulk.sleep(cx),
                    Round::Worked | Round::Stop => false,
                },
                NodeTask::Shard(shard) => {
                    let shard = &mut self.shards[shard];
                    match shard.round(cx, || looks.look()) {
                        Round::Idle => shard.sleep(cx),
                        Round::Worked | Round::Stop => false,
                    }
                }
            };
            if moment.get() > at {
                let until = moment.get();
                return Turn { next: Some(until), stood_until: Some(until) };
            }
            if asleep {
                self.note_credits(task);
                let deadline = match task {
                    NodeTask::Control => {
                        earliest(Some(self.control.next_deadline()), self.control.lanes())
                    }
                    NodeTask::Bulk => earliest(None, self.bulk.lanes()),
                    NodeTask::Shard(shard) => {
                        let shard = &self.shards[shard];
                        earliest(shard.next_deadline(), shard.lanes())
                    }
                };
                let next = deadline.map(|deadline| self.clock.global(deadline).max(at + 1));
                return Turn { next, stood_until: None };
            }
        }
        Turn { next: Some(at + 1), stood_until: None }
    }

    /// Notes a lane that is up and has room for nothing.
    fn note_credits(&mut self, task: NodeTask) {
        let NodeTask::Shard(shard) = task else { return };
        let (lanes, engine) = (self.shards[shard].lanes(), self.shards[shard].engine());
        let full = |peer: &NodeId| lanes.is_up(*peer) && lanes.room(*peer).bytes == 0;
        self.lanes_full += u64::from(engine.nodes().iter().any(full));
    }

    /// Plans a turn of a task, unless one comes as early anyway.
    pub(super) fn schedule(&mut self, task: NodeTask, at: u64) -> bool {
        let Some(scheduled) = self.tasks.get_mut(task.number()) else { return false };
        // What wakes a thread that stands still is found when it goes on.
        if scheduled.stands.is_some_and(|stands| at < stands.until) {
            return false;
        }
        let sooner = scheduled.at.is_none_or(|planned| at < planned);
        if sooner {
            scheduled.at = Some(at);
        }
        sooner
    }

    /// Whether the turn that has come is the one that was planned last.
    pub(super) fn is_due(&mut self, task: NodeTask, at: u64) -> bool {
        let Some(scheduled) = self.tasks.get_mut(task.number()) else { return false };
        let due = scheduled.at == Some(at);
        if due {
            scheduled.at = None;
        }
        due
    }

    pub(super) fn tasks(&self) -> impl Iterator<Item = NodeTask> + use<> {
        let shards = (0..self.shards.len()).map(NodeTask::Shard);
        [NodeTask::Control, NodeTask::Bulk].into_iter().chain(shards)
    }

    /// The replicas on this node.
    pub(super) fn replicas(&self) -> impl Iterator<Item = Replica<'_>> {
        self.shards.iter().flat_map(|shard| shard.engine().replicas())
    }

    /// Why the node acknowledges nothing any more, if so.
    pub(super) fn failure(&self) -> Option<String> {
        self.failure.lock().clone()
    }

    /// Groups that were refused in this life, which should not happen.
    pub(super) fn refused_groups(&self) -> Vec<(GroupId, CreateRefusal)> {
        let created = self.created.lock();
        let refused = created.iter().filter_map(|(group, ended)| match ended {
            Ok(Created::New | Created::Existed) => None,
            Err(refusal) => Some((*group, refusal.clone())),
        });
        refused.collect()
    }

    pub(super) fn inboxes(&self) -> &Arc<[Arc<Inbox<ShardInput>>]> {
        &self.inboxes
    }

    pub(super) fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// What it still holds for somebody, in words; nothing if it is at rest.
    pub(super) fn held(&self) -> Vec<String> {
        let mut found: Vec<String> =
            self.shards.iter().flat_map(|shard| shard.engine().held()).collect();
        for (what, left) in [
            ("writes of the log", self.log.work.waiting().count()),
            ("writes that wait for a sync", self.log.work.written().count()),
            ("entries that wait for their sync", usize::from(self.log.work.sync_due().is_some())),
            ("batches for the log", self.log.batches.len()),
            ("bytes on their way to the log", self.load.bytes() as usize),
            ("reads of the log", self.reads.under_way.len() + self.reads.fetches.len()),
            ("jobs of the apply worker", self.applier.jobs.len()),
            ("appends and questions that wait for a lane", self.waiting_for_lanes()),
            ("fetches of snapshots", usize::from(self.desk.is_fetching())),
        ] {
            if left > 0 {
                found.push(format!("{left} {what}"));
            }
        }
        found
    }

    /// How many of its lanes end at this one of a peer with so many shards.
    pub(super) fn lanes_to(&self, there: Lane, shards: usize) -> usize {
        self.dialed().filter(|lane| lane.at_receiver(shards as u8) == there).count()
    }

    /// The lanes that it dials.
    pub(super) fn dialed(&self) -> impl Iterator<Item = Lane> + use<> {
        let layout = self.layout;
        let data = (0..self.shards.len() as u8).map(|shard| Lane::Data { shard });
        let all = data.chain([Lane::Control, Lane::Bulk]);
        all.filter(move |lane| layout.dials(*lane))
    }

    fn waiting_for_lanes(&self) -> usize {
        self.bulk.carrier().waiting() + self.control.carrier().waiting()
    }

    fn carrier(&self) -> &Carrier {
        match Via::of(self.layout) {
            Via::Control => self.control.carrier(),
            Via::Bulk => self.bulk.carrier(),
        }
    }

    /// How the credit of each of its connections stands: of the lane it was dialed for, with whom,
    /// and who dialed.
    pub(super) fn credits(&self) -> Vec<(Lane, NodeId, Direction, Credit)> {
        let data = self.shards.iter().map(|shard| shard.lanes());
        let all = data.chain([self.control.lanes(), self.bulk.lanes()]);
        all.flat_map(|lanes| {
            lanes.credits().map(|(peer, direction, credit)| (lanes.lane(), peer, direction, credit))
        })
        .collect()
    }

    /// Whether a peer said to it what no correct one says: nobody here does.
    pub(super) fn disbelieves(&self) -> Option<Violation> {
        let count = self.counters.snapshot().words_disbelieved;
        let evidence = || format!("{count} words of peers were not believed");
        (count > 0).then(|| Violation::of_run(Check::UnexpectedFault, evidence()))
    }

    /// A lane that appends wait for, and its peer.
    pub(super) fn busy_bulk(&self) -> Option<(Lane, NodeId)> {
        self.carrier().waits_for().map(|peer| (self.layout.bulk(), peer))
    }

    /// A shard and a peer to which its data lane carries appends to two replicas of a group.
    pub(super) fn lane_to_two(&self) -> Option<(usize, NodeId)> {
        let mut shards = self.shards.iter().enumerate();
        shards.find_map(|(number, shard)| Some((number, shard.engine().lane_to_two()?)))
    }

    /// What its lanes have been through.
    pub(super) fn note_lanes(&self, sightings: &Sightings) {
        let lanes = self.lane_counters.snapshot();
        sightings.hit_if(lanes.reconnects > 0, Mark::LaneKilled);
        sightings.hit_if(lanes.fenced > 0, Mark::OldGenerationFenced);
        sightings.hit_if(self.lanes_full > 0, Mark::CreditsExhausted);
        sightings.hit_if(self.carrier().has_held_a_question(), Mark::QuestionHeld);
        let counters = self.counters.snapshot();
        sightings.hit_if(counters.compactions_held > 0, Mark::LogHeld);
        sightings.hit_if(counters.compactions_forced > 0, Mark::LogHeldTooLong);
        sightings.hit_if(counters.snapshots_retaken > 0, Mark::SnapshotRetaken);
    }

    /// Acknowledges what the log has made durable.
    pub(super) fn acknowledge(&mut self) {
        self.log.work.acknowledge(&self.inboxes);
    }

    /// Lets the apply worker do its next job.
    pub(super) fn apply_next(&mut self) {
        if let Ok(job) = self.applier.jobs.try_recv() {
            self.applier.machines.work(job);
            let count = self.inboxes.len();
            self.applier.machines.report(&self.inboxes, |group| shard_of(group, count));
        }
    }

    pub(super) fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    pub(super) fn clock(&self) -> NodeClock {
        self.clock
    }

    /// Changes by how much the wall clock is off.
    pub(super) fn jump(&mut self, wall_offset_ms: i64) {
        self.clock.wall_offset_ms = wall_offset_ms;
    }
}

fn earliest(own: Option<raft_core::Micros>, lanes: &Lanes) -> Option<raft_core::Micros> {
    own.into_iter().chain(lanes.next_deadline()).min()
}
