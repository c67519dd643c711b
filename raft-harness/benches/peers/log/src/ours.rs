//! `raft-storage`, with one writer that calls it, or with several that hand in and wait while one batch is
//! prepared and another written.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, bounded, select};
use peerbench::Pool;
use raft_core::{
    Base, Entry, EntryKind, GroupId, GroupIncarnation, LogIndex, LogTime, NodeId, Term,
};
use raft_storage::{
    Compaction, Ending, Expected, FileDisk, Flight, GroupCreate, GroupWrite, InitOptions, Landing,
    Log, LogOptions, LogWriter, init,
};

use crate::{Case, Slice, measured};

/// Groups of one writer lie so far from those of the next.
const STRIDE: usize = 10_000;

pub(crate) struct Ours {
    dir: PathBuf,
    writer: LogWriter<FileDisk>,
    loads: Vec<Load>,
}

impl Ours {
    pub(crate) fn open(dir: &Path, segment_bytes: u64, payload: usize, live_bytes: u64) -> Self {
        let _ = std::fs::remove_dir_all(dir);
        init(dir, "bench", NodeId::new(1), &InitOptions::default()).expect("an empty directory");
        // As often as by default: every other segment.
        let checkpoint_bytes = 2 * segment_bytes;
        let options = LogOptions { segment_bytes, checkpoint_bytes, ..LogOptions::default() };
        let opened = Log::open(dir, &Expected::default(), &options).expect("a new log");
        let pool = Pool::new(payload);
        let loads = (0..4).map(|at| Load::new(at, pool.starting_at(at), live_bytes));
        Self { dir: dir.to_owned(), writer: opened.writer, loads: loads.collect() }
    }

    pub(crate) fn on_disk(&self) -> u64 {
        let files = std::fs::read_dir(&self.dir).expect("our directory");
        files.flatten().filter_map(|file| file.metadata().ok()).map(|file| file.len()).sum()
    }

    /// Writes until so many bytes went to the disk.
    pub(crate) fn turn_over(&mut self, case: Case, bytes: u64) -> u64 {
        let mut written = 0;
        while written < bytes {
            written += self.slice(case, Duration::from_millis(100)).bytes;
        }
        written
    }

    pub(crate) fn slice(&mut self, case: Case, span: Duration) -> Slice {
        // Creating groups is no part of it.
        let creates: Vec<GroupWrite> =
            self.loads.iter_mut().flat_map(|load| load.creates(case)).collect();
        if !creates.is_empty() {
            self.writer.commit(&creates).expect("new groups");
        }
        if case.writers == 1 { self.alone(case, span) } else { self.together(case, span) }
    }

    fn alone(&mut self, case: Case, span: Duration) -> Slice {
        let (writer, load) = (&mut self.writer, &mut self.loads[0]);
        measured(|| {
            let mut slice = Slice::default();
            let start = Instant::now();
            while start.elapsed() < span {
                let mut writes = load.next_batch(case);
                let one = Instant::now();
                let (info, _) = writer.commit(&writes).expect("a sound disk");
                slice.latencies.push(one.elapsed().as_nanos() as u64);
                slice.entries += case.batch as u64;
                slice.syncs += 1;
                slice.bytes += info.bytes;
                load.give_back(&mut writes);
                writer.tend(false).expect("a sound disk");
            }
            slice
        })
    }

    fn together(&mut self, case: Case, span: Duration) -> Slice {
        let (writer, loads) = (&mut self.writer, &mut self.loads[..case.writers]);
        let (hand_in, handed_in) = bounded::<HandedIn>(16);
        measured(|| {
            std::thread::scope(|scope| {
                let threads: Vec<_> = loads
                    .iter_mut()
                    .map(|load| {
                        let hand_in = hand_in.clone();
                        scope.spawn(move || {
                            let (tell, told) = bounded(1);
                            let mut latencies = Vec::new();
                            let start = Instant::now();
                            while start.elapsed() < span {
                                let writes = load.next_batch(case);
                                let one = Instant::now();
                                hand_in.send((writes, tell.clone())).expect("the log takes it");
                                told.recv().expect("the log answers");
                                latencies.push(one.elapsed().as_nanos() as u64);
                            }
                            latencies
                        })
                    })
                    .collect();
                drop(hand_in);
                let mut slice = serve(writer, &handed_in, case.batch as u64);
                for thread in threads {
                    slice.latencies.extend(thread.join().expect("no writer panics"));
                }
                slice
            })
        })
    }
}

/// A batch, and whom to tell when it is durable.
type HandedIn = (Vec<GroupWrite>, Sender<()>);

/// What the two threads of the log work on, as those of a node do (`node/log_flights.rs`).
struct Desk<'a> {
    writer: &'a mut LogWriter<FileDisk>,
    staged: Vec<Sender<()>>,
    air: VecDeque<Vec<Sender<()>>>,
    landings: VecDeque<Landing>,
    is_flying: bool,
    slice: Slice,
}

/// A flight of so many bytes is worth a handover.
const HANDOVER_BYTES: u64 = 32 << 10;

impl Desk<'_> {
    fn stage(&mut self, (writes, tell): HandedIn) {
        self.writer.stage(&Arc::new(writes)).expect("room");
        self.staged.push(tell);
    }

    fn depart(&mut self, batch: u64) -> Option<Flight> {
        if self.staged.is_empty() {
            return None;
        }
        let flight = self.writer.depart(Ending::AtOnce).expect("a sound disk");
        self.slice.entries += self.staged.len() as u64 * batch;
        self.slice.syncs += 1;
        self.slice.bytes += flight.info().bytes;
        self.air.push_back(std::mem::take(&mut self.staged));
        Some(flight)
    }

    fn land(&mut self) {
        while let Some(landing) = self.landings.pop_front() {
            self.writer.land(landing).expect("a sound disk");
            for tell in self.air.pop_front().unwrap_or_default() {
                let _ = tell.send(());
            }
            self.writer.tend(false).expect("a sound disk");
        }
    }
}

/// Makes durable what is handed in, until nobody does any more.
fn serve(writer: &mut LogWriter<FileDisk>, handed_in: &Receiver<HandedIn>, batch: u64) -> Slice {
    let desk = Mutex::new(Desk {
        writer,
        staged: Vec::new(),
        air: VecDeque::new(),
        landings: VecDeque::new(),
        is_flying: false,
        slice: Slice::default(),
    });
    let lock = || desk.lock().expect("nobody panics");
    let (flights, departures) = bounded::<Flight>(1);
    let (tell, news) = bounded(1);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for first in departures {
                let mut next = Some(first);
                while let Some(flight) = next {
                    let landing = flight.land();
                    let mut desk = lock();
                    desk.landings.push_back(landing);
                    next = desk.depart(batch);
                    if next.is_none() {
                        desk.land();
                        desk.is_flying = false;
                    }
                    drop(desk);
                    let _ = tell.try_send(());
                }
            }
        });
        let mut ends = false;
        loop {
            let mut desk = lock();
            desk.land();
            if !desk.is_flying
                && let Some(flight) = desk.depart(batch)
            {
                if flight.info().bytes >= HANDOVER_BYTES {
                    desk.is_flying = true;
                    drop(desk);
                    flights.send(flight).expect("the other thread");
                } else {
                    drop(desk);
                    let landing = flight.land();
                    let mut desk = lock();
                    desk.landings.push_back(landing);
                    desk.land();
                }
                continue;
            }
            let is_flying = desk.is_flying;
            drop(desk);
            let first = match (is_flying, ends) {
                (false, true) => break,
                (true, true) => {
                    news.recv().expect("the other thread");
                    continue;
                }
                (true, false) => select! {
                    recv(handed_in) -> first => first,
                    recv(news) -> _ => continue,
                },
                (false, false) => handed_in.recv(),
            };
            let Ok(first) = first else {
                ends = true;
                continue;
            };
            let mut desk = lock();
            desk.stage(first);
            while let Ok(more) = handed_in.try_recv() {
                desk.stage(more);
            }
        }
        drop(flights);
    });
    desk.into_inner().expect("nobody panics").slice
}

/// What one writer writes: batches over its groups in turn, each group compacted as it grows.
struct Load {
    first: usize,
    pool: Pool,
    live_bytes: u64,
    groups: Vec<Group>,
    at: usize,
    /// The memory of batches that were written.
    spare: Vec<GroupWrite>,
}

#[derive(Clone, Copy)]
struct Group {
    next: u64,
    base: u64,
}

impl Load {
    fn new(number: usize, pool: Pool, live_bytes: u64) -> Self {
        Self {
            first: number * STRIDE + 1,
            pool,
            live_bytes,
            groups: Vec::new(),
            at: 0,
            spare: Vec::new(),
        }
    }

    fn mine(case: Case) -> usize {
        (case.groups / case.writers).max(1)
    }

    fn creates(&mut self, case: Case) -> Vec<GroupWrite> {
        let missing = self.groups.len()..Self::mine(case).max(self.groups.len());
        self.groups.resize(missing.end, Group { next: 1, base: 0 });
        let create = |at: usize| {
            let mut write = GroupWrite::new(GroupId::new((self.first + at) as u32));
            let incarnation = GroupIncarnation::new(1);
            write.create = Some(GroupCreate { incarnation, spec: Bytes::new() });
            write
        };
        missing.map(create).collect()
    }

    fn next_batch(&mut self, case: Case) -> Vec<GroupWrite> {
        let mine = Self::mine(case);
        // All writers and groups ever used share what may be live.
        let keep = (self.live_bytes / 300 / 4 / self.groups.len() as u64).max(16);
        let groups = mine.min(case.batch);
        let mut writes = std::mem::take(&mut self.spare);
        writes.resize(groups, GroupWrite::new(GroupId::new(0)));
        for (at, write) in writes.iter_mut().enumerate() {
            let group = self.at % mine;
            self.at += 1;
            write.group = GroupId::new((self.first + group) as u32);
            write.entries.clear();
            write.compact = None;
            let state = &mut self.groups[group];
            // The first operations take what does not divide evenly.
            let count = case.batch / groups + usize::from(at < case.batch % groups);
            for _ in 0..count {
                write.entries.push(Entry {
                    index: LogIndex::new(state.next),
                    term: Term::new(1),
                    kind: EntryKind::Command,
                    time: LogTime::new(state.next),
                    payload: self.pool.next(),
                });
                state.next += 1;
            }
            if state.next - state.base > 2 * keep {
                state.base = state.next - 1 - keep;
                let index = LogIndex::new(state.base);
                let base = Base { index, term: Term::new(1), snapshot: index, ..Base::default() };
                write.compact = Some(Compaction { base, time: LogTime::new(state.base) });
            }
        }
        writes
    }

    fn give_back(&mut self, writes: &mut Vec<GroupWrite>) {
        self.spare = std::mem::take(writes);
    }
}
