//! One group that is written to as fast as it goes, and a hundred that are quiet.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use bytes::Bytes;
use raft_core::GroupId;
use raft_harness::NodeHost;

use super::cluster::{Cluster, GREEDY, QUIET};
use super::delays::{Samples, Shared};
use super::plan::{Lanes, Row};

/// A write of each quiet group so often.
const PACE: Duration = Duration::from_millis(500);
/// A timer may be late by so much.
const LATE: Duration = Duration::from_millis(20);
/// After so long a write counts as failed.
const PATIENCE: Duration = Duration::from_secs(10);
const QUIET_BYTES: usize = 256;
/// Bytes of large messages under way, two at the least and so many at most.
const OPEN_BYTES: usize = 16 << 20;
const OPEN_MAX: usize = 256;

pub(crate) struct Load {
    runtime: tokio::runtime::Runtime,
    stops: Arc<AtomicBool>,
    writes: Shared,
    failed: Arc<AtomicU64>,
    bytes: Arc<AtomicU64>,
}

impl Load {
    pub(crate) fn start(cluster: &Cluster, row: &Row) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a thread and a timer");
        let load = Self {
            runtime,
            stops: Arc::default(),
            writes: Shared::default(),
            failed: Arc::default(),
            bytes: Arc::default(),
        };
        let hosts: Arc<[NodeHost]> = cluster.hosts.clone().into();
        let begun = Instant::now();
        for group in QUIET {
            let first = begun + PACE * (group - QUIET.start()) / 100;
            load.runtime.spawn(quiet(
                (Arc::clone(&hosts), GroupId::new(group)),
                first,
                Arc::clone(&load.stops),
                (load.writes.clone(), Arc::clone(&load.failed)),
            ));
        }
        if row.lanes != Lanes::Alone {
            let message = Bytes::from(vec![0x5a; row.size]);
            for _ in 0..(OPEN_BYTES / row.size).clamp(2, OPEN_MAX) {
                let (hosts, message) = (Arc::clone(&hosts), message.clone());
                let (stops, bytes) = (Arc::clone(&load.stops), Arc::clone(&load.bytes));
                load.runtime.spawn(async move {
                    while !stops.load(Relaxed) {
                        match leader(&hosts, GREEDY).propose(GREEDY, message.clone()).await {
                            Ok(_) => drop(bytes.fetch_add(message.len() as u64, Relaxed)),
                            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
                        }
                    }
                });
            }
        }
        load
    }

    pub(crate) fn reset(&self) {
        drop(self.take());
    }

    /// The writes that ended, how many failed, and the bytes of large messages.
    pub(crate) fn take(&self) -> (Samples, u64, u64) {
        (self.writes.take(), self.failed.swap(0, Relaxed), self.bytes.swap(0, Relaxed))
    }

    pub(crate) fn stop(self) {
        self.stops.store(true, Relaxed);
        self.runtime.shutdown_background();
    }
}

/// Who leads a group by its own word, or the first node.
fn leader(hosts: &[NodeHost], group: GroupId) -> &NodeHost {
    let led = hosts.iter().find(|host| host.leader_of(group) == Some(host.node()));
    led.unwrap_or(&hosts[0])
}

/// Writes at a pace; each write counts from when it was due, whatever the one before it took.
async fn quiet(
    (hosts, group): (Arc<[NodeHost]>, GroupId),
    first: Instant,
    stops: Arc<AtomicBool>,
    (writes, failed): (Shared, Arc<AtomicU64>),
) {
    let command = Bytes::from(vec![0xa5; QUIET_BYTES]);
    let mut due = first;
    while !stops.load(Relaxed) {
        tokio::time::sleep_until(due.into()).await;
        // A timer that is late is not the groups' doing; a write before this one is.
        let now = Instant::now();
        let begun = if now - due < LATE { now } else { due };
        let write = async {
            while leader(&hosts, group).propose(group, command.clone()).await.is_err() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        match tokio::time::timeout(PATIENCE, write).await {
            Ok(()) => writes.add(begun.elapsed()),
            Err(_) => drop(failed.fetch_add(1, Relaxed)),
        }
        due += PACE;
    }
}
