//! Where a simulated node keeps its snapshots: files of a disk of their own, and the desk and the
//! workshop that work on them, an event at a time each.
//!
//! The disk dies and loses what was not synced like the one of the log. A snapshot is written,
//! synced, renamed and its name synced, as the real store does it; and what was fetched is kept for the
//! next life as far as it is certain, in smaller steps.

use std::io::{self, IoSlice};
use std::sync::Arc;

use bytes::Bytes;
use crossbeam::channel::Receiver;
use raft_core::Micros;
use raft_storage::{Disk, DiskFile, LogReader};
use raft_transport::Frame;

use super::disk::{SimDisk, SimFile};
use super::network::Place;
use super::world::{Event, Standing, World};
use crate::node::sim::{CarrierInput, Carriers, Inbox, ShardInput, shard_of};
use crate::sim::marks::Mark;
use crate::sim::violation::{Check, Violation};
use crate::snapshot::desk::{Desk, DeskInput, DeskOptions, DeskOutput};
use crate::snapshot::shelf::Shelf;
use crate::snapshot::workshop::Workshop;
use crate::snapshot::{Compression, SnapshotBytes, SnapshotName, SnapshotPart, SnapshotStore};

/// How the names of whole snapshots end.
pub(super) const WHOLE: &str = ".snap";
const TEMPORARY: &str = ".part";
const FETCHED: &str = ".fetch";

/// Fetched bytes are made durable in such steps, so that even small snapshots have several.
const STEP_BYTES: u64 = 512;

/// Snapshots on a simulated disk.
pub(super) struct SimStore {
    disk: SimDisk,
}

struct Part {
    disk: SimDisk,
    file: SimFile,
    name: SnapshotName,
    bytes: u64,
}

impl SimStore {
    /// What is on the disk, without what was never finished.
    pub(super) fn open(disk: SimDisk) -> io::Result<Self> {
        for name in disk.list()?.iter().filter(|name| name.ends_with(TEMPORARY)) {
            disk.remove(name)?;
        }
        // Names that a process left which was killed before it synced them.
        disk.sync_dir()?;
        Ok(Self { disk })
    }
}

/// The whole snapshots on a disk.
pub(super) fn stored(disk: &SimDisk) -> Vec<SnapshotName> {
    SimStore { disk: disk.clone() }.names().unwrap_or_default()
}

fn file_name(name: SnapshotName) -> String {
    format!("{name}{WHOLE}")
}

impl SnapshotStore for SimStore {
    fn names(&self) -> io::Result<Vec<SnapshotName>> {
        let files = self.disk.list()?;
        let whole = files.iter().filter_map(|file| file.strip_suffix(WHOLE));
        let mut names: Vec<SnapshotName> = whole.filter_map(SnapshotName::parse).collect();
        names.sort_unstable();
        Ok(names)
    }

    fn begin(&self, name: SnapshotName) -> io::Result<Box<dyn SnapshotPart>> {
        let temporary = format!("{name}{TEMPORARY}");
        match self.disk.remove(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let file = self.disk.create(&temporary)?;
        Ok(Box::new(Part { disk: self.disk.clone(), file, name, bytes: 0 }))
    }

    fn fetch(
        &self,
        name: SnapshotName,
        bytes: SnapshotBytes,
    ) -> io::Result<(Box<dyn SnapshotPart>, u64)> {
        let wanted = fetched_name(name, bytes);
        for other in self.fetched()? {
            if other.0 == name && other.1 != wanted {
                self.disk.remove(&other.1)?;
            }
        }
        let file = match self.disk.open(&wanted) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.disk.create(&wanted)?,
            there => there?,
        };
        // What is not certain is written over.
        let at = file.bytes()?.saturating_sub(1) / STEP_BYTES * STEP_BYTES;
        let disk = self.disk.clone();
        Ok((Box::new(FetchedPart { disk, file, file_name: wanted, name, at }), at))
    }

    fn unfinished(&self) -> io::Result<Vec<SnapshotName>> {
        Ok(self.fetched()?.into_iter().map(|(name, _)| name).collect())
    }

    fn discard(&self, name: SnapshotName) -> io::Result<()> {
        let of_name = self.fetched()?.into_iter().filter(|(other, _)| *other == name);
        of_name.map(|(_, file)| file).try_for_each(|file| self.disk.remove(&file))
    }

    fn bytes(&self, name: SnapshotName) -> io::Result<Option<u64>> {
        match self.disk.open(&file_name(name)) {
            Ok(file) => file.bytes().map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn read(&self, name: SnapshotName, offset: u64, bytes: usize) -> io::Result<Bytes> {
        let file = self.disk.open(&file_name(name))?;
        let left = file.bytes()?.saturating_sub(offset);
        let mut buffer = vec![0; bytes.min(usize::try_from(left).unwrap_or(usize::MAX))];
        file.read_exact_at(&mut buffer, offset)?;
        Ok(buffer.into())
    }

    fn remove(&self, name: SnapshotName) -> io::Result<()> {
        match self.disk.remove(&file_name(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

impl SnapshotPart for Part {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_vectored_at(&mut [IoSlice::new(bytes)], self.bytes)?;
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    fn finish(self: Box<Self>) -> io::Result<()> {
        self.file.sync_all()?;
        self.disk.rename(&format!("{}{TEMPORARY}", self.name), &file_name(self.name))?;
        self.disk.sync_dir()
    }
}

impl SimStore {
    /// What was begun to fetch, and the names of the files.
    fn fetched(&self) -> io::Result<Vec<(SnapshotName, String)>> {
        let files = self.disk.list()?.into_iter().filter(|file| file.ends_with(FETCHED));
        let named = files.filter_map(|file| {
            let (name, _) = file.split_once('.')?;
            Some((SnapshotName::parse(name)?, file))
        });
        Ok(named.collect())
    }
}

fn fetched_name(name: SnapshotName, bytes: SnapshotBytes) -> String {
    format!("{name}.{}-{}{FETCHED}", bytes.total, bytes.sum)
}

/// Of another node's snapshot, what came so far.
struct FetchedPart {
    disk: SimDisk,
    file: SimFile,
    file_name: String,
    name: SnapshotName,
    at: u64,
}

impl SnapshotPart for FetchedPart {
    fn append(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let step = self.at % STEP_BYTES;
            if step == 0 && self.at > 0 {
                self.file.sync_data()?;
                if self.at == STEP_BYTES {
                    self.disk.sync_dir()?;
                }
            }
            let (now, later) = bytes.split_at(bytes.len().min((STEP_BYTES - step) as usize));
            self.file.write_vectored_at(&mut [IoSlice::new(now)], self.at)?;
            self.at += now.len() as u64;
            bytes = later;
        }
        Ok(())
    }

    fn finish(self: Box<Self>) -> io::Result<()> {
        self.file.sync_all()?;
        self.disk.rename(&self.file_name, &file_name(self.name))?;
        self.disk.sync_dir()
    }
}

/// The desk and the workshop of one life, which a node runs on threads of their own.
pub(super) struct DeskThread {
    desk: Desk,
    workshop: Workshop,
    inputs: Receiver<DeskInput>,
    shards: Arc<[Arc<Inbox<ShardInput>>]>,
    carriers: Carriers,
    /// Something is planned for what waits.
    busy: bool,
    /// The workshop is at something.
    works: bool,
    /// When the desk is to be asked for what is late.
    alarm: Option<Micros>,
}

impl DeskThread {
    pub(super) fn new(
        shelf: Arc<Shelf>,
        (log, options): (LogReader, DeskOptions),
        inputs: Receiver<DeskInput>,
        shards: Arc<[Arc<Inbox<ShardInput>>]>,
        carriers: Carriers,
    ) -> Self {
        let desk = Desk::new(Arc::clone(&shelf), Some(log), options);
        let workshop = Workshop::new(shelf, Compression::default());
        Self { desk, workshop, inputs, shards, carriers, busy: false, works: false, alarm: None }
    }

    /// Whether bytes of a snapshot are on their way here.
    pub(super) fn is_fetching(&self) -> bool {
        self.desk.is_fetching()
    }

    /// How many fetches went on with what an earlier life had got.
    pub(super) fn resumed(&self) -> u64 {
        self.desk.resumed()
    }

    /// Whether the workshop is to do something, and nobody has planned that yet.
    pub(super) fn wants_work(&mut self) -> bool {
        let wants = !self.works && !self.workshop.is_idle();
        self.works |= wants;
        wants
    }

    /// What bytes are on their way here of, or a machine is made of.
    pub(super) fn wanted(&self) -> impl Iterator<Item = SnapshotName> {
        self.desk.wanted()
    }

    /// The workshop does its next job.
    pub(super) fn do_job(&mut self, now: Micros) {
        self.works = false;
        let mut made = Vec::new();
        self.workshop.work(&mut made);
        let mut out = Vec::new();
        made.into_iter().for_each(|made| self.desk.on_made(now, made, &mut out));
        self.deliver(out);
    }

    /// Whether it is to be woken for something that waits, and nobody has planned that yet.
    pub(super) fn wants_turn(&mut self) -> bool {
        let wants = !self.busy && !self.inputs.is_empty();
        self.busy |= wants;
        wants
    }

    /// When it is to be woken for what is late, if nobody has planned that yet.
    pub(super) fn wants_alarm(&mut self) -> Option<Micros> {
        let deadline = self.desk.next_deadline();
        let news = deadline.filter(|at| self.alarm != Some(*at));
        self.alarm = deadline;
        news
    }

    /// Does the next thing that waits.
    /// Says which snapshot is dropped by it for another of the same leader.
    pub(super) fn work(&mut self, now: Micros) -> Option<SnapshotName> {
        self.busy = false;
        let mut out = Vec::new();
        let mut dropped = None;
        if let Ok(input) = self.inputs.try_recv() {
            if let DeskInput::Fetch(wanted) = &input {
                dropped = self.desk.drops_for(wanted);
            }
            self.desk.handle(now, input, &mut out);
        }
        self.deliver(out);
        dropped
    }

    pub(super) fn on_time(&mut self, now: Micros) {
        let mut out = Vec::new();
        self.desk.on_time(now, &mut out);
        self.deliver(out);
    }

    fn deliver(&mut self, out: Vec<DeskOutput>) {
        for output in out {
            match output {
                DeskOutput::Pull(node, pull) => {
                    self.carriers.give(CarrierInput::Ask(node, pull));
                }
                DeskOutput::Chunk(connection, chunk) => {
                    self.carriers.reply(connection, Frame::SnapshotChunk(chunk));
                }
                DeskOutput::Engine(group, input) => {
                    let shard = shard_of(group, self.shards.len());
                    let _ = self.shards[shard].push(ShardInput::Engine(input));
                }
                DeskOutput::Work(job) => self.workshop.add(job),
            }
        }
    }
}

impl World {
    /// Plans what the desk of a node waits for.
    pub(super) fn start_desk(&mut self, place: Place) {
        let node = &mut self.nodes[place];
        let life = node.life;
        let Some(process) = &mut node.process else { return };
        let (turn, job) = (process.desk.wants_turn(), process.desk.wants_work());
        let alarm = process.desk.wants_alarm().map(|at| process.clock().global(at));
        if turn {
            let delay = 50 + self.delays.skewed(self.swarm.desk_us);
            self.plan_in(delay, Event::Desk { place, life });
        }
        if job {
            let delay = 50 + self.delays.skewed(self.swarm.workshop_us);
            self.plan_in(delay, Event::Workshop { place, life });
        }
        if let Some(alarm) = alarm {
            self.plan(alarm.max(self.now), Event::DeskAlarm { place, life });
        }
    }

    pub(super) fn on_desk(&mut self, place: Place) {
        let now = self.now;
        let Some(process) = &self.nodes[place].process else { return };
        if process.desk.is_fetching() {
            self.spring_trap(place);
        }
        if let Some(process) = &mut self.nodes[place].process {
            let now = process.clock().local(now);
            let before = process.desk.resumed();
            let dropped = process.desk.work(now);
            let resumed = process.desk.resumed() > before;
            self.sightings.hit_if(resumed, Mark::SnapshotResumed);
            let strange = self.nodes[place].standing == Standing::Stranger;
            if let Some(dropped) = dropped.filter(|_| !strange) {
                let evidence = format!("node {place} drops {dropped} half-way");
                self.fail(Violation::of_group(Check::FetchFinished, dropped.group, evidence));
            }
        }
    }

    pub(super) fn on_workshop(&mut self, place: Place) {
        let now = self.now;
        let Some(process) = &self.nodes[place].process else { return };
        if process.desk.is_fetching() {
            self.spring_trap(place);
        }
        if let Some(process) = &mut self.nodes[place].process {
            let now = process.clock().local(now);
            process.desk.do_job(now);
        }
    }

    pub(super) fn on_desk_alarm(&mut self, place: Place) {
        let now = self.now;
        if let Some(process) = &mut self.nodes[place].process {
            let now = process.clock().local(now);
            process.desk.on_time(now);
        }
    }
}
