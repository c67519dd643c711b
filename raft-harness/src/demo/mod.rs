//! The demo: a real cluster on this machine, killed under load, and judged.
//!
//! It shows by doing what the rest of the project claims: many groups, one port per node, and
//! that "acknowledged" survives the death of one node and of all nodes. It can fail, and then
//! says what broke; nothing in `raftd` knows that it is being judged.
//!
//! Reading order: [`run`] (the course of events), `cluster` (processes), `workload`, `router` and
//! `resp_client` (writes and honest outcomes), `load`, `outage`, `verify`, `report`.

mod cluster;
mod counters;
mod error;
mod events;
mod folder;
mod load;
mod options;
mod outage;
mod ports;
mod progress;
mod report;
mod resp_client;
mod router;
mod verify;
mod workload;

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use tokio::time::{sleep, sleep_until};

pub(crate) use error::DemoError;
pub(crate) use options::DemoOptions;
pub(crate) use report::Report;

use cluster::Cluster;
use counters::{Lives, connections_per_pair, heartbeat_frames_per_second};
use events::Event;
use folder::Folder;
use load::{Load, LoadResult};
use outage::{Outage, Probes};
use progress::Progress;
use report::{Kill, Latency};
use router::Router;
use verify::Findings;
use workload::{Outcome, Workload, tags};

use crate::kv::slots::SlotMap;
use crate::node_status::Role;
use crate::output;
use crate::status::StatusView;

/// From the start of the processes to a leader for every group.
const START_LIMIT: Duration = Duration::from_secs(60);
/// From a kill to an acknowledged write of every group.
const RECOVERY_LIMIT: Duration = Duration::from_secs(30);
/// How long a killed node stays away.
const AWAY: Duration = Duration::from_secs(1);
/// How long all nodes stay away.
const ALL_AWAY: Duration = Duration::from_millis(300);
/// Load after the last recovery.
const AFTERMATH: Duration = Duration::from_secs(1);
/// Between the end of the load and the idle measurement.
const SETTLE: Duration = Duration::from_millis(500);
/// The idle measurement.
const QUIET: Duration = Duration::from_secs(2);
/// How long a group may have no leader before its writes count as lost.
const READ_LIMIT: Duration = Duration::from_secs(15);
/// From the end of the load to equal digests.
const DIGEST_LIMIT: Duration = Duration::from_secs(20);
/// How long the nodes may take to stop.
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// How often dead nodes are looked for.
const WATCH: Duration = Duration::from_millis(100);

/// The whole demo, unless it is to be [held](hold).
///
/// # Errors
/// [`DemoError`] if there is no result; a broken claim is a result.
pub(crate) async fn run(options: &DemoOptions) -> Result<Report, DemoError> {
    let folder = Folder::make(options)?;
    let outcome = Demo::start(options, &folder).await;
    let outcome = match outcome {
        Ok(demo) => demo.perform().await,
        Err(error) => Err(error),
    };
    match outcome {
        Ok(mut report) => {
            let folder = if report.ok { folder } else { folder.keep() };
            report.data_dir = folder.kept().map(|path| path.display().to_string());
            Ok(report)
        }
        Err(error) => {
            if let Some(path) = folder.keep().kept() {
                output::remark(format_args!("files kept in {}", path.display()));
            }
            Err(error)
        }
    }
}

/// Starts a cluster, prints one JSON line with its addresses on standard output, and holds it
/// until standard input closes or `interrupted` is done.
///
/// # Errors
/// [`DemoError`] if the cluster does not start.
pub(crate) async fn hold(
    options: &DemoOptions,
    interrupted: impl Future<Output = ()>,
) -> Result<Vec<String>, DemoError> {
    let folder = Folder::make(options)?;
    let (cluster, _) = start_cluster(options, &folder, &Progress::start()).await?;
    let line = Event::ready(&cluster).line();
    // Nobody may be listening; the cluster is held all the same.
    output::announce(line);
    tokio::select! {
        () = crate::cli::stdin::closed() => {}
        () = interrupted => {}
    }
    Ok(cluster.stop(STOP_LIMIT).await)
}

async fn start_cluster(
    options: &DemoOptions,
    folder: &Folder,
    progress: &Progress,
) -> Result<(Cluster, Vec<StatusView>), DemoError> {
    let seed = seed();
    let mut cluster = Cluster::prepare(folder.path(), options.nodes, options.groups, seed)?;
    progress.say(format!(
        "starting {} nodes with {} groups in {}",
        options.nodes,
        options.groups,
        folder.path().display()
    ));
    cluster.start_all()?;
    let statuses = cluster.wait_until_led(options.groups, START_LIMIT).await?;
    let led: Vec<String> =
        statuses.iter().map(|status| format!("n{} {}", status.node, status.groups_led)).collect();
    progress.say(format!("every group has a leader; groups led: {}", led.join(", ")));
    for node in cluster.nodes() {
        progress.say(format!(
            "node {}: redis-cli -p {} (any key) or redis-cli -c -p {}; http://{}/",
            node.id,
            node.proxy.port(),
            node.resp.port(),
            node.admin_address
        ));
    }
    Ok((cluster, statuses))
}

/// A demo under way.
struct Demo<'a> {
    options: &'a DemoOptions,
    started: Instant,
    progress: Progress,
    cluster: Cluster,
    router: Arc<Router>,
    workload: Workload,
    tags: Vec<String>,
    lives: Lives,
    probe_streams: Vec<workload::Stream>,
    report: Report,
}

impl<'a> Demo<'a> {
    async fn start(options: &'a DemoOptions, folder: &Folder) -> Result<Self, DemoError> {
        let started = Instant::now();
        let progress = Progress::start();
        let (cluster, statuses) = start_cluster(options, folder, &progress).await?;
        let slots = SlotMap::new(options.groups)
            .expect("the command line takes only numbers of groups that divide the slots");
        let mut lives = Lives::default();
        lives.note(&statuses);
        Ok(Self {
            options,
            started,
            progress,
            router: Arc::new(Router::new(&cluster.resp_addresses(), slots)),
            cluster,
            workload: Workload::new(seed(), options.value_size as usize),
            tags: tags(slots),
            lives,
            probe_streams: Vec::new(),
            report: Report {
                nodes: options.nodes,
                groups: options.groups,
                clients: options.clients,
                value_size: options.value_size,
                ..Report::default()
            },
        })
    }

    async fn perform(mut self) -> Result<Report, DemoError> {
        let load = Load::start(&self.router, &self.workload, self.options.clients);
        self.progress.watch(Arc::clone(&load.tally));
        let began = Instant::now();
        let at =
            |part: f64| tokio::time::Instant::from(began + self.options.duration().mul_f64(part));
        let (first_kill, second_kill, end) = (at(0.3), at(0.65), at(1.0));

        sleep_until(first_kill).await;
        let acked = load.tally.acked.load(Relaxed);
        self.report.writes_per_second = acked as f64 / began.elapsed().as_secs_f64();
        self.kill_one().await?;
        sleep_until(second_kill).await;
        self.kill_all().await?;
        sleep(AFTERMATH).await;
        sleep_until(end).await;

        let load = load.stop().await;
        self.progress.unwatch();
        self.report.load_seconds = began.elapsed().as_secs_f64();
        self.count(&load);
        self.measure_idle().await;
        self.verify(load).await;
        Ok(self.finish().await)
    }

    /// Kills the node that leads most, and starts it again after a moment.
    async fn kill_one(&mut self) -> Result<(), DemoError> {
        let statuses = self.note().await;
        let Some(busiest) = statuses.iter().max_by_key(|status| status.groups_led) else {
            return Err(DemoError::NotReady {
                limit: Duration::ZERO,
                missing: "no node answers".to_owned(),
            });
        };
        let led: Vec<usize> = busiest
            .groups
            .iter()
            .filter(|group| group.role == Role::Leader)
            .map(|group| group.id as usize - 1)
            .collect();
        let index = busiest.node as usize - 1;
        self.progress.say(format!("SIGKILL node {}, which leads {} groups", index + 1, led.len()));
        let since = Instant::now();
        self.cluster.kill(index);
        let probes = self.probe("k", since);
        sleep(AWAY.min(self.options.duration() / 10)).await;
        self.progress.say(format!("starting node {} again", index + 1));
        self.cluster.start(index)?;
        let outage = self.outlast(probes).await;
        self.cluster.wait_until_up(index, RECOVERY_LIMIT).await?;
        self.conclude(vec![index as u64 + 1], "kill", outage, &led);
        Ok(())
    }

    /// Kills all nodes at once, and starts them again.
    async fn kill_all(&mut self) -> Result<(), DemoError> {
        self.note().await;
        self.progress.say("SIGKILL all nodes at once");
        self.cluster.kill_all();
        if self.options.attack_pause_ms > 0 {
            output::remark(Event::all_killed(&self.cluster).line());
            sleep(self.options.attack_pause()).await;
        } else {
            sleep(ALL_AWAY).await;
        }
        self.progress.say("starting all nodes again");
        let since = Instant::now();
        self.cluster.start_all()?;
        let probes = self.probe("a", since);
        let outage = self.outlast(probes).await;
        let nodes = (1..=self.options.nodes).collect();
        let all: Vec<usize> = (0..self.options.groups as usize).collect();
        self.conclude(nodes, "restart", outage, &all);
        Ok(())
    }

    fn probe(&self, name: &str, since: Instant) -> Probes {
        Probes::start(&self.router, &self.workload, &self.tags, name, since, RECOVERY_LIMIT)
    }

    /// Waits for the probes; gives up early if too few nodes are left to answer.
    async fn outlast(&mut self, probes: Probes) -> Outage {
        let given_up = probes.given_up();
        let finish = probes.finish();
        tokio::pin!(finish);
        loop {
            tokio::select! {
                outage = &mut finish => return outage,
                () = sleep(WATCH) => {
                    for last_words in self.cluster.ended() {
                        self.problem(last_words);
                    }
                    if self.cluster.running() < self.options.quorum() {
                        given_up.store(true, Relaxed);
                    }
                }
            }
        }
    }

    fn conclude(&mut self, nodes: Vec<u64>, since: &'static str, outage: Outage, groups: &[usize]) {
        let kill = Kill::new(nodes, since, &outage.silence, groups);
        self.progress.say(kill.to_string());
        if !kill.mute_groups.is_empty() {
            self.problem(format!(
                "{} groups never acknowledged a write again, the first is group {}",
                kill.mute_groups.len(),
                kill.mute_groups[0]
            ));
        }
        self.report.kills.push(kill);
        self.probe_streams.extend(outage.streams);
    }

    fn count(&mut self, load: &LoadResult) {
        let streams = || load.streams.iter().chain(&self.probe_streams);
        let count = |outcome| streams().map(|stream| stream.count(outcome)).sum::<u64>();
        let ms = |micros: u64| micros as f64 / 1e3;
        self.report.acked = count(Outcome::Acked);
        self.report.failed = count(Outcome::Failed);
        self.report.unknown = count(Outcome::Unknown);
        self.report.refused = load.refused;
        self.report.latency_ms = Latency {
            p50: ms(load.latencies.value_at_quantile(0.5)),
            p99: ms(load.latencies.value_at_quantile(0.99)),
            max: ms(load.latencies.max()),
        };
        for error in &load.errors {
            self.problem(format!("an answer that should not have come: {error}"));
        }
        if self.report.acked == 0 {
            self.problem("not one write was acknowledged".to_owned());
        }
    }

    /// Counts what the nodes say to each other while nobody asks anything of them.
    async fn measure_idle(&mut self) {
        sleep(SETTLE).await;
        let (before, began) = (self.note().await, Instant::now());
        self.progress.say(format!("idle for {QUIET:?}, counting heartbeats"));
        sleep(QUIET).await;
        let seconds = began.elapsed().as_secs_f64();
        let after = self.note().await;
        self.report.connections_per_peer_pair = connections_per_pair(&after);
        self.report.heartbeat_frames_per_peer_per_second =
            heartbeat_frames_per_second(&before, &after, seconds);
    }

    async fn verify(&mut self, load: LoadResult) {
        let mut streams = load.streams;
        streams.append(&mut self.probe_streams);
        self.progress.say(format!("reading back {} acknowledged writes", self.report.acked));
        let findings = verify::read_back(&self.router, &self.workload, streams, READ_LIMIT).await;
        let Findings { verified, lost, lost_keys, phantoms, phantom_keys, unknown_present } =
            findings;
        if lost > 0 {
            self.problem(format!("{lost} acknowledged writes are lost"));
        }
        if phantoms > 0 {
            self.problem(format!(
                "{phantoms} writes were refused as not executed and are there all the same: {}",
                phantom_keys.join(", ")
            ));
        }
        self.report.verified = verified;
        self.report.lost = lost;
        self.report.lost_keys = lost_keys;
        self.report.phantoms = phantoms;
        self.report.unknown_present = unknown_present;
        self.progress.say("comparing digests");
        let differences =
            verify::compare_digests(&self.cluster, self.options.groups, DIGEST_LIMIT).await;
        self.report.digests_equal = differences.is_empty();
        for difference in differences.into_iter().take(10) {
            self.problem(difference);
        }
    }

    async fn finish(mut self) -> Report {
        for last_words in self.cluster.ended() {
            self.problem(last_words);
        }
        self.note().await;
        let fsyncs = self.lives.total("fsyncs");
        let writes = self.lives.total("group_writes");
        self.report.elections = self.lives.total("elections");
        self.report.fsyncs = fsyncs;
        self.report.groups_per_fsync = (fsyncs > 0).then(|| writes as f64 / fsyncs as f64);
        self.report.cpu_seconds =
            self.cluster.nodes().iter().map(|node| node.cpu().as_secs_f64()).collect();
        self.report.total_seconds = self.started.elapsed().as_secs_f64();
        self.progress.say("stopping");
        for complaint in self.cluster.stop(STOP_LIMIT).await {
            self.report.problems.push(complaint);
        }
        self.report.ok = self.report.problems.is_empty();
        self.report
    }

    /// Asks all nodes for their status and keeps the counters.
    async fn note(&mut self) -> Vec<StatusView> {
        let statuses = self.cluster.statuses().await;
        self.lives.note(&statuses);
        statuses
    }

    fn problem(&mut self, problem: String) {
        self.progress.say(&problem);
        self.report.problems.push(problem);
    }
}

/// Different in every run: no key of an earlier run may be mistaken for one of this.
fn seed() -> u64 {
    let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let nanos = clock.map_or(0, |time| time.as_nanos() as u64);
    nanos.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(std::process::id())
}
