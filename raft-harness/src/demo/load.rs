//! Clients that write as fast as they are answered, and remember how each write ended.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::resp_client::Reply;
use super::router::{Attempt, Router};
use super::workload::{Outcome, Stream, Workload};

/// First pause of a client that was refused; it doubles.
const PAUSE_MIN: Duration = Duration::from_millis(10);
/// Longest pause: outages are measured by probes, clients need not hammer.
const PAUSE_MAX: Duration = Duration::from_millis(80);
/// Unexpected answers that are kept to be shown.
const ERRORS_MAX: usize = 10;
/// Latencies are kept up to this; what takes longer counts as this.
const LATENCY_MAX_US: u64 = 120_000_000;

/// Writes so far, for those who watch.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) acked: AtomicU64,
    pub(super) unknown: AtomicU64,
    pub(super) refused: AtomicU64,
}

/// A load under way.
#[derive(Debug)]
pub(super) struct Load {
    clients: JoinSet<Client>,
    stop: Arc<AtomicBool>,
    pub(super) tally: Arc<Tally>,
    errors: Arc<parking_lot::Mutex<Vec<String>>>,
}

/// What a load did.
#[derive(Debug)]
pub(super) struct LoadResult {
    pub(super) streams: Vec<Stream>,
    pub(super) latencies: Histogram<u64>,
    /// Attempts that were refused and made again.
    pub(super) refused: u64,
    /// Some of the answers that should not have come.
    pub(super) errors: Vec<String>,
}

#[derive(Debug)]
struct Client {
    stream: Stream,
    latencies: Histogram<u64>,
}

/// What all clients share.
#[derive(Clone, Debug)]
struct Shared {
    router: Arc<Router>,
    workload: Workload,
    stop: Arc<AtomicBool>,
    tally: Arc<Tally>,
    errors: Arc<parking_lot::Mutex<Vec<String>>>,
}

impl Shared {
    fn note(&self, error: String) {
        let mut errors = self.errors.lock();
        if errors.len() < ERRORS_MAX {
            errors.push(error);
        }
    }
}

impl Load {
    pub(super) fn start(router: &Arc<Router>, workload: &Workload, clients: u32) -> Self {
        let shared = Shared {
            router: Arc::clone(router),
            workload: workload.clone(),
            stop: Arc::default(),
            tally: Arc::default(),
            errors: Arc::default(),
        };
        let mut tasks = JoinSet::new();
        for index in 0..clients {
            tasks.spawn(run(shared.clone(), index as usize));
        }
        Self { clients: tasks, stop: shared.stop, tally: shared.tally, errors: shared.errors }
    }

    /// Lets every write under way come to its end, and collects.
    pub(super) async fn stop(mut self) -> LoadResult {
        self.stop.store(true, Relaxed);
        let mut streams = Vec::new();
        let mut latencies = histogram();
        while let Some(client) = self.clients.join_next().await {
            let client = client.expect("clients do not panic and are not aborted");
            streams.push(client.stream);
            latencies.add(&client.latencies).expect("all histograms have the same bounds");
        }
        let refused = self.tally.refused.load(Relaxed);
        let errors = std::mem::take(&mut *self.errors.lock());
        LoadResult { streams, latencies, refused, errors }
    }
}

async fn run(shared: Shared, index: usize) -> Client {
    let mut client = Client {
        stream: Stream { name: format!("c{index}"), outcomes: Vec::new() },
        latencies: histogram(),
    };
    while !shared.stop.load(Relaxed) {
        let key = shared.workload.key(&client.stream.name, client.stream.outcomes.len());
        let started = Instant::now();
        let outcome = write(&shared, &key, index).await;
        match outcome {
            Outcome::Acked => {
                let micros = started.elapsed().as_micros() as u64;
                client.latencies.saturating_record(micros.max(1));
                shared.tally.acked.fetch_add(1, Relaxed);
            }
            Outcome::Unknown => {
                shared.tally.unknown.fetch_add(1, Relaxed);
            }
            Outcome::Failed => {}
        }
        client.stream.outcomes.push(outcome);
    }
    client
}

/// One write: tried again as long as it certainly did not happen and the load goes on.
async fn write(shared: &Shared, key: &str, lane: usize) -> Outcome {
    let command = shared.workload.set(key);
    let mut pause = PAUSE_MIN;
    loop {
        match shared.router.attempt(key, lane, &command).await {
            Attempt::Done(Reply::Simple(_)) => return Outcome::Acked,
            Attempt::Done(other) => {
                shared.note(format!("{key}: unexpected answer {other:?}"));
                return Outcome::Unknown;
            }
            Attempt::Rejected(error) => {
                shared.note(format!("{key}: {error}"));
                return Outcome::Failed;
            }
            Attempt::Unknown => return Outcome::Unknown,
            Attempt::Refused => {
                shared.tally.refused.fetch_add(1, Relaxed);
                if shared.stop.load(Relaxed) {
                    return Outcome::Failed;
                }
                sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
    }
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_MAX_US, 2).expect("these bounds are legal")
}
