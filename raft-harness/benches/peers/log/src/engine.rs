//! raft-engine at its best: files recycled and prefilled, no compression.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use peerbench::Pool;
use raft::eraftpb::Entry;
use raft_engine::{Config, Engine as RaftEngine, LogBatch, MessageExt, ReadableSize};

use crate::{Case, Slice, measured};

/// `purge_bytes`: no more than this is kept, in files that are prefilled and used again; `None`: all of it
/// is.
pub(crate) fn open(dir: &Path, segment_bytes: u64, purge_bytes: Option<u64>) -> RaftEngine {
    let config = Config {
        dir: dir.to_string_lossy().into_owned(),
        batch_compression_threshold: ReadableSize(0),
        target_file_size: ReadableSize(segment_bytes),
        purge_threshold: ReadableSize(purge_bytes.unwrap_or(1 << 40)),
        enable_log_recycle: purge_bytes.is_some(),
        prefill_for_recycle: purge_bytes.is_some(),
        ..Config::default()
    };
    RaftEngine::open(config).expect("a sound log")
}

/// Writes a log: so many entries over so many groups, in batches of 1024.
pub(crate) fn fill(dir: &Path, groups: u64, entries: u64, payload: usize) {
    let _ = std::fs::remove_dir_all(dir);
    std::fs::create_dir_all(dir).expect("a new directory");
    let engine = open(dir, 128 << 20, None);
    let mut pool = Pool::new(payload);
    let mut batch = LogBatch::default();
    for at in 0..entries {
        let mut entry = Entry { index: at / groups + 1, term: 1, ..Entry::default() };
        entry.data = pool.next();
        batch.add_entries::<EntryExt>(1 + at % groups, &[entry]).expect("room");
        if (at + 1).is_multiple_of(1024) || at + 1 == entries {
            engine.write(&mut batch, true).expect("a sound disk");
        }
    }
}

struct EntryExt;

impl MessageExt for EntryExt {
    type Entry = Entry;
    fn index(entry: &Entry) -> u64 {
        entry.index
    }
}

pub(crate) struct Engine {
    engine: Arc<RaftEngine>,
    loads: Vec<Load>,
}

struct Load {
    first: u64,
    pool: Pool,
    live_bytes: u64,
    /// Next index and base of each group.
    groups: Vec<(u64, u64)>,
    at: usize,
    since_purge: u64,
}

impl Engine {
    pub(crate) fn open(dir: &Path, segment_bytes: u64, payload: usize, live_bytes: u64) -> Self {
        let _ = std::fs::remove_dir_all(dir);
        std::fs::create_dir_all(dir).expect("a new directory");
        let engine = Arc::new(open(dir, segment_bytes, Some(2 * live_bytes)));
        let pool = Pool::new(payload);
        let load = |at: usize| Load {
            first: at as u64 * 10_000 + 1,
            pool: pool.starting_at(at + 9),
            live_bytes,
            groups: Vec::new(),
            at: 0,
            since_purge: 0,
        };
        Self { engine, loads: (0..4).map(load).collect() }
    }

    pub(crate) fn turn_over(&mut self, case: Case, bytes: u64) {
        let mut written = 0;
        while written < bytes {
            written += self.slice(case, Duration::from_millis(100)).entries * 300;
        }
    }

    pub(crate) fn slice(&mut self, case: Case, span: Duration) -> Slice {
        let Self { engine, loads } = self;
        measured(|| {
            let mut slice = Slice::default();
            std::thread::scope(|scope| {
                let threads: Vec<_> = loads[..case.writers]
                    .iter_mut()
                    .map(|load| {
                        let engine: &RaftEngine = engine;
                        scope.spawn(move || load.write(engine, case, span))
                    })
                    .collect();
                for thread in threads {
                    let latencies = thread.join().expect("no writer panics");
                    slice.entries += (latencies.len() * case.batch) as u64;
                    slice.syncs += latencies.len() as u64;
                    slice.latencies.extend(latencies);
                }
            });
            slice
        })
    }
}

impl Load {
    fn write(&mut self, engine: &RaftEngine, case: Case, span: Duration) -> Vec<u64> {
        let mine = (case.groups / case.writers).max(1);
        self.groups.resize(self.groups.len().max(mine), (1, 0));
        let keep = (self.live_bytes / 300 / 4 / self.groups.len() as u64).max(16);
        let mut latencies = Vec::new();
        let mut batch = LogBatch::default();
        let start = Instant::now();
        while start.elapsed() < span {
            let groups = mine.min(case.batch);
            for at in 0..groups {
                let group = self.at % mine;
                self.at += 1;
                let (next, base) = &mut self.groups[group];
                let count = case.batch / groups + usize::from(at < case.batch % groups);
                let id = self.first + group as u64;
                let entries: Vec<Entry> = (0..count)
                    .map(|_| {
                        let mut entry = Entry::default();
                        entry.index = *next;
                        entry.term = 1;
                        entry.data = self.pool.next();
                        *next += 1;
                        entry
                    })
                    .collect();
                batch.add_entries::<EntryExt>(id, &entries).expect("entries in order");
                if *next - *base > 2 * keep {
                    *base = *next - 1 - keep;
                    batch.add_command(id, raft_engine::Command::Compact { index: *base });
                }
            }
            let one = Instant::now();
            engine.write(&mut batch, true).expect("a sound disk");
            latencies.push(one.elapsed().as_nanos() as u64);
            self.since_purge += case.batch as u64 * 300;
            if self.since_purge > 16 << 20 {
                self.since_purge = 0;
                engine.purge_expired_files().expect("a sound disk");
            }
        }
        latencies
    }
}
