//! The world of a run: nodes, network, clients, and the queue of what happens next.
//!
//! One event at a time. After each, whoever was woken is given a turn some microseconds later,
//! what was said on the wire is compared with the disks, and a node whose fuse has burnt down is
//! found dead. Everything that happens enters the hash of the run.

mod event;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use raft_core::{GroupId, RoleKind, Term};
use raft_storage::Lsn;

pub(super) use self::event::Event;
use super::accounts::After;
use super::clients::{Asked, Client};
use super::clock::NodeClock;
use super::disk::{Harm, SimDisk};
use super::faults::{self, Chore, PlannedFault, Power};
use super::floods::Snare;
use super::fuse::Fuse;
use super::hangs::Hang;
use super::incarnations::group_of;
use super::judge::Judge;
use super::machine::{Record, Slip};
use super::memory::Memory;
use super::network::{Host, Machine, Net, NetEvent, Place};
use super::operator::Operator;
use super::options::{Options, RunReport, Stats, TraceLine, Weather};
use super::process::Process;
use super::queue::Queue;
use super::sightings::Sightings;
use super::swarm::Swarm;
use super::tap::{Claim, Said};
use super::tasks::{NodeTask, Task, TaskId, Wakes};
use super::verdict::Terms;
use super::weather::{Stop, Trap};
use super::words::Words;
use crate::request::{Proposed, Ticket};
use crate::sim::marks::Mark;
use crate::sim::rng::{Rng, Streams, mix};
use crate::sim::violation::{Check, Violation};

/// A run that has found so much wrong needs no more evidence.
const VIOLATIONS_MAX: usize = 20;

/// The thread has looked at its clocks, and at nothing else.
pub(super) const FIRST_LOOK_TAKEN: u32 = 1;

/// Slow links are as fast as others so long after the faults: values that were sent when nothing
/// excused silence any more have crossed at the slow pace by then.
pub(super) const SLOW_END_US: u64 = 14_000_000;

/// How often all logs are read from end to end, in virtual microseconds.
const SWEEP_US: u64 = 10_000_000;

pub(super) struct World {
    pub(super) streams: Streams,
    pub(super) options: Options,
    pub(super) swarm: Swarm,
    pub(super) now: u64,
    queue: Queue<Event>,
    pub(super) net: Net,
    pub(super) nodes: Vec<NodeState>,
    pub(super) clients: Vec<Client>,
    pub(super) history: Asked,
    pub(super) operator: Operator,
    pub(super) trap: Option<Trap>,
    /// Who was cut off while somebody fetched of it, by the fault that did it.
    pub(super) sources_cut: BTreeMap<usize, Vec<(Place, Place)>>,
    /// Some lane is to go down while it is in use.
    pub(super) snare: Option<Snare>,
    /// Some machine is to die, until then, when its log has done that.
    pub(super) chore: Option<(Chore, u64)>,
    /// Groups that clients leave alone until then.
    pub(super) quiet: (Vec<GroupId>, u64),
    /// Some thread is to stand still within its turn.
    pub(super) stop: Option<Stop>,
    /// How each replica was asked for its state at the end.
    pub(super) digests: BTreeMap<(Place, GroupId), Ticket<Proposed>>,
    pub(super) record: Record,
    pub(super) judge: Judge,
    pub(super) words: Words,
    pub(super) faults: Vec<PlannedFault>,
    pub(super) wakes: Wakes,
    pub(super) phase: Phase,
    /// Delays of threads and of clients' connections.
    pub(super) delays: Rng,
    pub(super) marks: BTreeMap<&'static str, u64>,
    pub(super) sightings: Sightings,
    pub(super) stats: Stats,
    pub(super) violations: Vec<Violation>,
    pub(super) settled_terms: Terms,
    /// Groups whose leader was still to yield then to the first by rank.
    pub(super) astray: BTreeSet<GroupId>,
    /// Nodes that came back with an empty disk are not judged: nobody listens to them.
    pub(super) strangers: (Record, Judge),
    /// Roles as last noted in the trace.
    roles: Roles,
    hash: u64,
    trace: std::collections::VecDeque<TraceLine>,
    /// Reused.
    woken: Vec<TaskId>,
    timers: Vec<(u64, NetEvent)>,
    said: Vec<Said>,
}

/// By place and group: in which life, which role and term.
type Roles = BTreeMap<(Place, GroupId), (u32, (RoleKind, Term))>;

/// Where the run is.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Phase {
    Faults,
    Healing,
}

/// A node through all its lives.
pub(super) struct NodeState {
    pub(super) disk: SimDisk,
    /// Beside it, for snapshots alone.
    pub(super) snapshots: SimDisk,
    pub(super) fuse: Arc<Fuse>,
    /// What outlives its processes.
    pub(super) memory: Memory,
    pub(super) process: Option<Box<Process>>,
    /// Counts lives; what was planned for an earlier one does not happen.
    pub(super) life: u32,
    /// Counts restarts that were planned; only the newest counts.
    pub(super) boots: u32,
    /// How the life that is next will find its disk.
    pub(super) after: After,
    pub(super) paused_until: Option<u64>,
    /// When it has gone on last.
    pub(super) resumed: u64,
    pub(super) drift_ppm: i64,
    pub(super) wall_offset_ms: i64,
    /// Added to each sync.
    pub(super) slow_disk_us: u64,
    /// It answers nothing at times.
    pub(super) hang: Option<Hang>,
    /// Since when its log has not been well.
    pub(super) ails_since: Option<u64>,
    /// When it was seen so last.
    pub(super) ailed: Option<u64>,
    /// Whether its machines break their contract.
    pub(super) slip: Slip,
    /// Added to each job of the apply worker.
    pub(super) slow_apply_us: u64,
    /// Once its log has fallen idle, it crashes with such damage, and is down for so long.
    pub(super) harmed_when_idle: Option<(Harm, u64)>,
    /// One of its snapshots has rotted: a start may find that the state is gone.
    pub(super) snapshot_rots: bool,
    /// What the fuse was lit for.
    pub(super) crash: Option<(Power, u64)>,
    pub(super) standing: Standing,
    /// A start that ended before it was up may have opened the damaged log without what it had lost.
    pub(super) reopened: bool,
    /// The disks as they once were, to be put back.
    pub(super) copy: Option<[SimDisk; 2]>,
    /// Which disk, counting those that were replaced by an empty one.
    pub(super) store: u64,
    /// When the life that runs, or the last one, began.
    pub(super) started: Option<u64>,
    /// How far the life that ended last had written its log; not if it ended within a write.
    pub(super) log_end: Option<Lsn>,
}

/// Whether a node still belongs to the cluster.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Standing {
    /// It does.
    Member,
    /// Its files were damaged: it may refuse to start, and then stays away.
    Damaged,
    /// It has refused to start.
    Out,
    /// It came back with an empty disk: nobody may listen to it.
    Stranger,
}

impl World {
    pub(super) fn new(seed: u64, options: &Options) -> Self {
        let streams = Streams::new(seed);
        let swarm = Swarm::draw(streams, options);
        let faults =
            options.schedule.clone().unwrap_or_else(|| faults::draw(streams, &swarm, options));
        let mut rng = streams.stream("world", &[]);
        let count = swarm.nodes.len();
        let fuses: Vec<Arc<Fuse>> = (0..count).map(|_| Arc::default()).collect();
        let hosts = (0..count).map(|place| Host {
            id: swarm.nodes[place],
            fuse: Arc::clone(&fuses[place]),
            machine: Machine::Empty,
            is_stranger: false,
            lanes: BTreeMap::new(),
            refuses: false,
            slow_us: 0,
            window: swarm.socket_bytes,
        });
        let links = (0..count * count).map(|_| swarm.link(&mut rng)).collect();
        let sightings = Sightings::default();
        let chance = streams.stream("network", &[]);
        let net = Net::new(hosts.collect(), links, chance, swarm.chop, sightings.clone());
        {
            let mut net = net.lock();
            net.pace = swarm.pace;
            // Clocks drift; a little less than the shortest patience is never silence.
            let patience = swarm.lane.keepalive_timeout.min(swarm.lane.stall_timeout);
            net.patience_us = patience.as_micros() as u64 * 8 / 10;
        }
        let judge = Judge::new(&swarm, sightings.clone());
        let nodes = (0..count).map(|place| NodeState {
            disk: SimDisk::new(
                u64::MAX,
                Arc::clone(&fuses[place]),
                streams.stream("disk", &[place as u64, 0]),
            ),
            snapshots: SimDisk::new(
                u64::MAX,
                Arc::clone(&fuses[place]),
                streams.stream("snapshots", &[place as u64, 0]),
            ),
            fuse: Arc::clone(&fuses[place]),
            memory: Memory::default(),
            process: None,
            life: 0,
            boots: 0,
            after: After::Process,
            paused_until: None,
            resumed: 0,
            drift_ppm: rng.range(0..=2 * swarm.drift_ppm) as i64 - swarm.drift_ppm as i64,
            wall_offset_ms: rng.skewed(5_000) as i64 - 2_500,
            slow_disk_us: 0,
            hang: None,
            ails_since: None,
            ailed: None,
            slip: Slip::default(),
            slow_apply_us: 0,
            harmed_when_idle: None,
            snapshot_rots: false,
            crash: None,
            standing: Standing::Member,
            reopened: false,
            copy: None,
            store: 0,
            started: None,
            log_end: None,
        });
        Self {
            nodes: nodes.collect(),
            clients: Vec::new(),
            history: Asked::default(),
            operator: Operator::new(streams, &swarm),
            trap: None,
            sources_cut: BTreeMap::new(),
            snare: None,
            chore: None,
            quiet: (Vec::new(), 0),
            stop: None,
            digests: BTreeMap::new(),
            record: Record::default(),
            words: Words::new(net.clone(), judge.clone(), sightings.clone()),
            judge,
            wakes: Wakes::default(),
            phase: Phase::Faults,
            delays: streams.stream("delays", &[]),
            marks: BTreeMap::new(),
            stats: Stats::default(),
            violations: Vec::new(),
            settled_terms: Terms::new(),
            astray: BTreeSet::new(),
            strangers: (Record::default(), Judge::new(&swarm, Sightings::default())),
            sightings,
            roles: Roles::new(),
            hash: mix(seed),
            trace: std::collections::VecDeque::new(),
            woken: Vec::new(),
            timers: Vec::new(),
            said: Vec::new(),
            queue: Queue::new(streams.stream("ties", &[])),
            now: 0,
            options: options.clone(),
            streams,
            swarm,
            faults,
            net,
        }
    }

    /// Lives through all of it.
    pub(super) fn live(mut self) -> RunReport {
        let faults_end = self.options.faults_s * 1_000_000;
        let end = faults_end + self.options.healing_s.max(20) * 1_000_000;
        for place in 0..self.nodes.len() {
            self.judge.lock().timekeeper.set(place, 0, self.nodes[place].wall_offset_ms);
            let at = self.delays.below(200_000);
            self.plan_restart(place, at);
        }
        self.start_clients();
        self.start_operator();
        self.start_accepting();
        for at in 0..self.faults.len() {
            self.queue.plan(self.faults[at].at, Event::Fault(at));
        }
        self.queue.plan(faults_end, Event::Heal);
        self.queue.plan(faults_end + 10_000_000, Event::Probe);
        if self.swarm.pace.is_some() {
            // What a minute has piled up crosses before the end.
            self.queue.plan(faults_end + SLOW_END_US, Event::FullPace);
        }
        if self.options.weather == Weather::StaticPartition {
            self.queue.plan(faults_end - 12_000_000, Event::Probe);
        }
        self.queue.plan(end - 4_000_000, Event::Settle);
        self.queue.plan(end - 500_000, Event::Digest);
        self.queue.plan(SWEEP_US, Event::Sweep);
        while self.violations.len() < VIOLATIONS_MAX
            && let Some((at, event)) = self.queue.pop(end)
        {
            self.now = at;
            self.net.lock().now = at;
            self.judge.lock().now = at;
            self.stats.events += 1;
            self.absorb_event(&event);
            let place = self.happen(event);
            self.settle(place);
        }
        self.now = self.now.max(end);
        if self.violations.is_empty() {
            self.conclude();
        }
        self.report()
    }

    fn report(self) -> RunReport {
        let mut stats = self.stats;
        stats.virtual_us = self.now;
        let mut marks = self.marks;
        {
            let net = self.net.lock();
            stats.bytes = net.counts.bytes;
            for (mark, count) in [
                ("connection-reset", net.counts.resets),
                ("late-bytes-refused", net.counts.late_arrivals),
                ("retransmission", net.counts.retransmissions),
                ("window-full", net.counts.windows_full),
                ("prefix-timeout", net.counts.prefixes_timed_out),
                ("bit-flipped-on-the-wire", net.counts.garbled),
            ] {
                marks.insert(mark, count);
            }
        }
        stats.applied = self.record.look(|recorded| recorded.applied_total);
        marks.retain(|_, count| *count > 0);
        RunReport {
            seed: self.streams.seed(),
            trace_hash: self.hash,
            violations: self.violations,
            marks,
            seen: self.sightings.marks(),
            stats,
            schedule: self.faults,
            trace: self.trace.into(),
        }
    }

    pub(super) fn plan(&mut self, at: u64, event: Event) {
        self.queue.plan(at, event);
    }

    pub(super) fn plan_in(&mut self, delay: u64, event: Event) {
        self.queue.plan(self.now + delay, event);
    }

    pub(super) fn mark(&mut self, mark: &'static str) {
        *self.marks.entry(mark).or_default() += 1;
    }

    pub(super) fn fail(&mut self, violation: Violation) {
        self.note(None, || format!("VIOLATION {violation}"));
        if self.violations.len() < VIOLATIONS_MAX {
            self.violations.push(violation);
        }
    }

    /// Keeps a line for a person, if one wants to read it.
    pub(super) fn note(&mut self, place: Option<Place>, what: impl FnOnce() -> String) {
        if self.options.trace == 0 {
            return;
        }
        if self.trace.len() == self.options.trace {
            self.trace.pop_front();
        }
        self.trace.push_back(TraceLine { at: self.now, place, what: what() });
    }

    pub(super) fn absorb(&mut self, value: u64) {
        self.hash = mix(self.hash.rotate_left(7) ^ value);
    }

    fn absorb_event(&mut self, event: &Event) {
        self.absorb(self.now);
        self.absorb(event.number());
        match event {
            Event::Run { .. } | Event::Net(_) => {}
            event => self.note(None, || format!("{event:?}")),
        }
    }

    /// Lets an event happen; returns the node whose process has worked.
    fn happen(&mut self, event: Event) -> Option<Place> {
        match event {
            Event::Run { place, life, task } => self.run_task(place, life, task),
            Event::Net(event) => {
                self.net.lock().happen(event);
                None
            }
            Event::Synced { place, life } => self.on_process_event(event, place, life),
            Event::LogRetry { place, life } => self.on_process_event(event, place, life),
            Event::LogIdle { place, life, .. } => self.on_process_event(event, place, life),
            Event::Read { place, life } => self.on_process_event(event, place, life),
            Event::Apply { place, life } => self.on_process_event(event, place, life),
            Event::Desk { place, life } => self.on_process_event(event, place, life),
            Event::DeskAlarm { place, life } => self.on_process_event(event, place, life),
            Event::Workshop { place, life } => self.on_process_event(event, place, life),
            Event::Operator => {
                self.operate();
                None
            }
            Event::Losses => {
                self.accept_losses();
                None
            }
            Event::Digest => {
                self.ask_for_digests();
                None
            }
            Event::Ask { client } => {
                self.ask(client);
                None
            }
            Event::Request { client, attempt } => self.deliver(client, attempt),
            Event::Answer { client, attempt } => {
                self.hear(client, attempt);
                None
            }
            Event::GiveUp { client, attempt } => {
                self.give_up(client, attempt);
                None
            }
            Event::Fault(at) => self.begin_fault(at),
            Event::FaultEnd(at) => {
                self.end_fault(at);
                None
            }
            Event::Exit { place, life } => {
                if self.nodes[place].life == life && self.nodes[place].process.is_some() {
                    let down = self.delays.range(50_000..=1_000_000);
                    self.crash(place, Power::Stays, down);
                }
                None
            }
            Event::Restart { place, boot } => {
                if self.nodes[place].boots == boot && self.nodes[place].process.is_none() {
                    self.start(place);
                }
                Some(place)
            }
            Event::Resume { place } => {
                self.resume(place);
                Some(place)
            }
            Event::PowerCut { place, power, down_us } => {
                self.crash(place, power, down_us);
                None
            }
            Event::Heal => {
                self.judge_partition();
                self.heal();
                None
            }
            Event::FullPace => {
                self.net.lock().full_pace();
                None
            }
            Event::Probe => {
                self.start_probes();
                None
            }
            Event::Settle => {
                self.begin_to_settle();
                None
            }
            Event::HangLook => {
                self.look_at_hangs();
                None
            }
            Event::HungLed { at } => {
                self.crash_who_took_over(at);
                None
            }
            Event::Sweep => {
                self.sweep();
                self.plan_in(SWEEP_US, Event::Sweep);
                None
            }
        }
    }

    /// A process stands still until then, with all that it has just done still to leave it.
    pub(super) fn pause(&mut self, place: Place, until: u64) {
        self.nodes[place].paused_until = Some(until);
        self.net.lock().pause(place);
        self.plan(until, Event::Resume { place });
    }

    /// Nobody comes back under the name of a replica that is gone.
    fn judge_creations(&mut self, place: Place) {
        let Some(process) = &self.nodes[place].process else { return };
        for group in process.created_again() {
            let evidence = format!("place {place} takes in a replica that was there and is gone");
            self.fail(Violation::of_group(Check::Profile("used-replica"), group, evidence));
        }
    }

    fn run_task(&mut self, place: Place, life: u32, task: NodeTask) -> Option<Place> {
        let now = self.now;
        let node = &mut self.nodes[place];
        let process = node.process.as_mut().filter(|_| node.life == life)?;
        if !process.is_due(task, now) {
            return None;
        }
        if let Some(until) = node.paused_until {
            process.schedule(task, until);
            self.plan(until, Event::Run { place, life, task });
            return None;
        }
        let still = match self.stop.filter(|stop| stop.concerns(place, now)) {
            Some(stop) if stop.before_look == FIRST_LOOK_TAKEN => {
                let until = stop.end(now);
                process.stand_still(task, now, until);
                self.plan(until, Event::Run { place, life, task });
                self.stop = None;
                self.sightings.hit(Mark::StoodAfterLook);
                return None;
            }
            stop => stop.map(|stop| stop.still(now)),
        };
        let (net, judge) = (&self.net, &self.judge);
        let stood = |until| {
            // What the thread does and says from now on happens that much later.
            net.lock().now = until;
            judge.lock().now = until;
        };
        let turn = process.run(task, now, still, &stood);
        if let Some(at) = turn.next {
            self.schedule(place, task, at);
        }
        if let Some(until) = turn.stood_until {
            self.stop = None;
            self.sightings.hit(Mark::StoodBetweenLooks);
            self.pause(place, until);
        }
        if self.options.trace > 0 {
            self.note_roles(place);
        }
        self.judge_creations(place);
        Some(place)
    }

    /// What has become of a node's replicas, for a person.
    fn note_roles(&mut self, place: Place) {
        let Some(process) = &self.nodes[place].process else { return };
        let mut changed = Vec::new();
        for replica in process.replicas() {
            let status = replica.core().status();
            let now = (status.role, status.term);
            let life = self.nodes[place].life;
            if self.roles.insert((place, status.group), (life, now)) != Some((life, now)) {
                changed.push(status);
            }
        }
        for status in changed {
            self.note(Some(place), || {
                format!(
                    "group {} {:?} of term {}, leader {:?}, log ends at {} of {}, commit {}",
                    status.group,
                    status.role,
                    status.term,
                    status.leader,
                    status.last_index,
                    status.last_term,
                    status.commit_index,
                )
            });
        }
    }

    /// Does something with a life of a node, later if it sleeps at the moment.
    fn on_process_event(&mut self, event: Event, place: Place, life: u32) -> Option<Place> {
        let node = &self.nodes[place];
        if node.life != life || node.process.is_none() {
            return None;
        }
        if let Some(until) = node.paused_until {
            self.plan(until, event);
            return None;
        }
        if matches!(event, Event::Synced { .. } | Event::LogIdle { .. })
            && let Some(until) = self.hangs_until(place)
        {
            if let Event::LogIdle { .. } = event {
                self.hold_desk(place);
            }
            self.plan(until, event);
            return None;
        }
        match event {
            Event::Synced { .. } => self.on_synced(place),
            Event::LogRetry { .. } => self.stage(place),
            Event::LogIdle { taken, .. } => self.on_log_idle(place, taken),
            Event::Read { .. } => self.on_read(place),
            Event::Apply { .. } => self.on_apply(place),
            Event::Desk { .. } => self.on_desk(place),
            Event::DeskAlarm { .. } => self.on_desk_alarm(place),
            Event::Workshop { .. } => self.on_workshop(place),
            _ => {}
        }
        Some(place)
    }

    pub(super) fn schedule(&mut self, place: Place, task: NodeTask, at: u64) {
        let node = &mut self.nodes[place];
        if let Some(process) = &mut node.process
            && process.schedule(task, at)
        {
            let life = node.life;
            self.plan(at, Event::Run { place, life, task });
        }
    }

    /// What follows from an event at once.
    fn settle(&mut self, worked: Option<Place>) {
        if let Some(place) = worked {
            self.start_threads(place);
            self.judge_flush(place);
            self.snare = self.snare.filter(|snare| self.now < snare.until);
            self.spring_snare(place);
        }
        let mut timers = std::mem::take(&mut self.timers);
        let mut woken = std::mem::take(&mut self.woken);
        let mut said = std::mem::take(&mut self.said);
        let unjust;
        {
            let mut net = self.net.lock();
            unjust = std::mem::take(&mut net.unjust);
            timers.append(&mut net.timers);
            woken.append(&mut net.woken);
            said.append(&mut net.heard.said);
        }
        self.wakes.take(&mut woken);
        for (at, event) in timers.drain(..) {
            self.plan(at.max(self.now), Event::Net(event));
        }
        for task in woken.drain(..) {
            match task.task() {
                Task::Node(place, task) => {
                    let delay = self.delays.below(self.swarm.wake_us);
                    self.schedule(place, task, self.now + delay);
                }
                Task::Client(client) => self.poll_client(client),
            }
        }
        let (elected, handed, alone, mute);
        let found = {
            let mut judge = self.judge.lock();
            for said in said.drain(..) {
                self.stats.promises += 1;
                let standing = |node| {
                    let place = self.swarm.nodes.iter().position(|other| *other == node);
                    place.map(|place| self.nodes[place].standing)
                };
                if standing(said.node) == Some(Standing::Stranger) {
                    continue;
                }
                if said.claim == Claim::Greets {
                    let evidence = format!("node {} takes a stranger for {}", said.node, said.to);
                    judge.found.push(Violation::of_run(Check::Profile("stranger"), evidence));
                    continue;
                }
                let speaker = self.swarm.place_of(said.node).map(|place| &self.nodes[place]);
                let Some(speaker) = speaker else { continue };
                let Some(process) = &speaker.process else { continue };
                let is_over = said.group < self.operator.life_of(group_of(said.group));
                self.sightings.hit_if(is_over, Mark::EarlierLifeSpoke);
                // A process that stood still in this turn has said it after that.
                let left = speaker.paused_until.unwrap_or(self.now).max(self.now);
                judge.said(&said, left, process.clock());
            }
            elected = std::mem::take(&mut judge.onlooker.elected);
            handed = std::mem::take(&mut judge.handed);
            alone = std::mem::take(&mut judge.alone);
            mute = std::mem::take(&mut judge.mute);
            std::mem::take(&mut judge.found)
        };
        for (group, place) in elected {
            self.note_bridge(place);
            self.judge_elected(group, place);
        }
        for (place, group) in handed {
            self.judge_hand_over(place, group);
        }
        for (life, kept, lost) in alone {
            self.forget_lost(life, kept, lost);
        }
        self.restart_mute(mute);
        for violation in found.into_iter().chain(unjust) {
            self.fail(violation);
        }
        (self.timers, self.woken, self.said) = (timers, woken, said);
        if let Some(place) = worked
            && self.nodes[place].process.is_some()
            && self.nodes[place].fuse.is_dead()
        {
            self.sightings.hit(Mark::CrashBetweenEffects);
            let plan = self.nodes[place].crash.take();
            let (power, down) = plan.unwrap_or((Power::Fails, 100_000));
            self.crash(place, power, down);
        }
    }

    /// Who keeps the account of a node's disk.
    pub(super) fn judge_of(&self, place: Place) -> Judge {
        match self.nodes[place].standing {
            Standing::Stranger => self.strangers.1.clone(),
            Standing::Member | Standing::Damaged | Standing::Out => self.judge.clone(),
        }
    }

    pub(super) fn clock(&self, place: Place) -> NodeClock {
        let node = &self.nodes[place];
        NodeClock::new(self.now, node.drift_ppm, node.wall_offset_ms)
    }
}
