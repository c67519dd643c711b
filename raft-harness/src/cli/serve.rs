//! `raftd serve`: one node, from its configuration file to an orderly end.
//!
//! Starts the engine, creates the groups (harmless if they exist), opens the client ports and
//! the admin port, and says `serving` with their addresses. It says `ready` when every group has
//! a leader and what the log held is applied, which a node alone cannot bring about; as long as
//! it takes, it says what is missing. Stops in order: hands leaderships over, then groups, port
//! and log. A second signal ends the process at once, which is safe: it is what the log is for.
//! SIGHUP is ignored, and said to be.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{self, IsTerminal};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use crossbeam::channel::{RecvTimeoutError, bounded};
use raft_core::{GroupId, LogIndex};
use raft_mux::MuxError;
use tokio::net::TcpListener;
use tokio::time::sleep;
use tracing::{error, info, warn};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use super::descriptors;
use super::error::{CliError, Exit};
use super::signals::StopSignals;
use super::stdin;
use crate::config::{Environment, NodeConfig, load, parse_filter};
use crate::group_spec::GroupSpec;
use crate::kv::KvFactory;
use crate::kv::slots::SlotMap;
use crate::node::{CreateError, NodeHost, StartError};
use crate::output::{self, LogLines};
use crate::persistence::Strategy;
use crate::resp::{
    ClientBudget, FrontNode, Limits, Mode, NodeHostBackend, RespServer, Topology, listen,
};
use crate::status::{AdminServer, BoxFuture, StatusSource, StatusView};

/// How long a port may be held by a process that is just ending, such as our own predecessor.
const BIND_PATIENCE: Duration = Duration::from_secs(3);
/// Between two tries to bind.
const BIND_PAUSE: Duration = Duration::from_millis(50);
/// How often it is looked whether the node failed. Nothing is acknowledged after a failure in any case.
const HEALTH_PERIOD: Duration = Duration::from_millis(100);
/// How long the threads of the node may take to end.
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// How often it is looked whether the node is ready: between these, a quarter of its age.
const READY_PERIOD_MIN: Duration = Duration::from_millis(20);
const READY_PERIOD_MAX: Duration = Duration::from_secs(1);
/// When it is told for the first time what is missing, and how often at most.
const UNREADY_AFTER: Duration = Duration::from_secs(2);
const UNREADY_PERIOD: Duration = Duration::from_secs(10);
/// So long clients wait until all groups have said when what they acknowledge is on disk; after that
/// they are told the worse of it until it is known.
const STRATEGIES_PATIENCE: Duration = Duration::from_secs(2);
/// How long clients may take to read their last answers.
const CLIENT_GRACE: Duration = Duration::from_millis(500);
/// Groups that are created at a time, so that they share the log's flushes.
const CREATORS: usize = 16;

#[derive(Args, Debug)]
pub(super) struct ServeArguments {
    /// The node's configuration file.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Also stop when standard input closes: for a parent that must not leave nodes behind.
    #[arg(long)]
    exit_with_stdin: bool,
}

pub(super) fn run(arguments: &ServeArguments) -> Result<Exit, CliError> {
    let loaded = load(&arguments.config, &Environment::of_process())?;
    trace(&loaded.config);
    for problem in loaded.warnings.iter() {
        warn!(rule = problem.rule.id(), "{problem}");
    }
    let config = loaded.config;
    // Before anything is opened.
    let limits = limits(&config);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .thread_name("raftd-front")
        .enable_all()
        .build()
        .map_err(|source| CliError::System { what: "cannot start a runtime", source })?;
    // Before anything else, so that no signal finds the process half-way.
    let signals = {
        let _runtime = runtime.enter();
        StopSignals::ignore_hang_ups()
            .and_then(|()| StopSignals::new())
            .map_err(|source| CliError::System { what: "cannot watch for signals", source })?
    };
    let slots = SlotMap::new(config.groups).map_err(|error| CliError::Front(error.to_string()))?;
    let specs = specs(&config, slots);
    let host = start(&config)?;
    let exit_with_stdin = arguments.exit_with_stdin;
    let served =
        runtime.block_on(serve(&config, limits, &host, slots, &specs, signals, exit_with_stdin));
    stop(&host);
    // Tasks of clients that are gone hold nothing that matters.
    runtime.shutdown_timeout(CLIENT_GRACE);
    if served.is_ok() {
        info!("stopped");
    }
    served
}

/// What clients may take: no more connections than there are file descriptors for. The log and
/// the peers come first, for a log that cannot open its next segment ends the node.
fn limits(config: &NodeConfig) -> Limits {
    let mut limits =
        Limits { proxy_deposed_max: config.settings.election_timeout_min, ..Limits::default() };
    let reserve = descriptors::reserve(config.peers.len(), config.half_open_max);
    if let Some(limit) = descriptors::raise() {
        let wanted = limits.connections_max;
        limits.connections_max = descriptors::clients_max(wanted, limit, reserve);
        if limits.connections_max < wanted {
            warn!(
                limit,
                reserve,
                clients = limits.connections_max,
                wanted,
                "the limit of open files (`ulimit -Hn`) allows fewer clients than wanted; the \
                 reserve is for the log and the peers"
            );
        }
    }
    limits
}

/// The groups of this cluster: one per range of hash slots, with a replica on every node.
fn specs(config: &NodeConfig, slots: SlotMap) -> Vec<GroupSpec> {
    slots
        .groups()
        .map(|group| {
            GroupSpec::on_nodes(group, config.peers.iter().map(|peer| peer.id))
                .with_label(slots.label_of(group).unwrap_or_default())
        })
        .collect()
}

fn start(config: &NodeConfig) -> Result<NodeHost, CliError> {
    let deadline = Instant::now() + BIND_PATIENCE;
    loop {
        match NodeHost::start(config.node_options(), Arc::new(KvFactory)) {
            Ok(host) => return Ok(host),
            Err(StartError::Mux(MuxError::Bind { source, .. }))
                if is_taken(&source) && Instant::now() < deadline =>
            {
                thread::sleep(BIND_PAUSE);
            }
            Err(error) => return Err(CliError::Start(error)),
        }
    }
}

/// Creates what is missing, several at a time.
fn create_groups(host: &NodeHost, specs: &[GroupSpec]) -> Result<(), CliError> {
    let create = |part: &[GroupSpec]| -> Result<(), CreateError> {
        part.iter().try_for_each(|spec| host.create_group(spec.clone()).map(drop))
    };
    let created = thread::scope(|scope| {
        let creators: Vec<_> = specs
            .chunks(specs.len().div_ceil(CREATORS).max(1))
            .map(|part| scope.spawn(move || create(part)))
            .collect();
        creators
            .into_iter()
            .map(|creator| creator.join().expect("creating a group does not panic"))
            .collect::<Result<Vec<()>, CreateError>>()
    });
    created.map(drop).map_err(CliError::Create)
}

async fn serve(
    config: &NodeConfig,
    limits: Limits,
    host: &NodeHost,
    slots: SlotMap,
    specs: &[GroupSpec],
    mut signals: StopSignals,
    exit_with_stdin: bool,
) -> Result<Exit, CliError> {
    let ports = &config.listen;
    let admin = admin(ports.admin, host).await?;
    let closed = stdin::closed();
    tokio::pin!(closed);
    // On a full disk this waits for room: whoever looks must see that, and can stop the node.
    let creating = {
        let (host, specs) = (host.clone(), specs.to_vec());
        tokio::task::spawn_blocking(move || create_groups(&host, &specs))
    };
    tokio::select! {
        created = creating => created.map_err(|error| CliError::Failed(error.to_string()))??,
        failure = failure_of(host) => return Err(CliError::Failed(failure)),
        () = signals.next() => {
            info!("asked to stop by a signal, before all groups were there");
            return Ok(Exit::Ok);
        }
        () = &mut closed, if exit_with_stdin => {
            info!("asked to stop before all groups were there: standard input closed");
            return Ok(Exit::Ok);
        }
    }
    let topology = topology(config, host, slots, specs)?;
    let learning = tokio::spawn(learn_strategies(host.clone(), topology.clone()));
    tokio::select! {
        _ = tokio::time::timeout(STRATEGIES_PATIENCE, learning) => {}
        failure = failure_of(host) => return Err(CliError::Failed(failure)),
        () = signals.next() => {
            info!("asked to stop by a signal, before clients were served");
            return Ok(Exit::Ok);
        }
        () = &mut closed, if exit_with_stdin => {
            info!("asked to stop before clients were served: standard input closed");
            return Ok(Exit::Ok);
        }
    }
    let budget = ClientBudget::new(limits.connections_max, limits.buffered_bytes_max);
    let front = |listener, mode| {
        let (backend, topology) = (NodeHostBackend::new(host.clone()), topology.clone());
        RespServer::start_within(listener, backend, topology, mode, limits, &budget)
            .map_err(|error| CliError::Front(error.to_string()))
    };
    let cluster = front(bind(ports.resp, "cluster clients").await?, Mode::Cluster)?;
    let proxy = front(bind(ports.resp_proxy, "plain clients").await?, Mode::Proxy)?;
    output::announce(format_args!("serving node={} groups={}", config.node, specs.len()));
    for (name, address) in [
        ("raft", host.listen_addr().unwrap_or(ports.raft)),
        ("resp", cluster.address()),
        ("resp_proxy", proxy.address()),
        ("admin", admin.address()),
    ] {
        output::announce(format_args!("serving {name}={address}"));
    }
    let telling = tokio::spawn(tell_when_ready(host.clone(), specs.len()));

    tokio::select! {
        failure = failure_of(host) => return Err(CliError::Failed(failure)),
        () = signals.next() => info!("asked to stop by a signal"),
        () = &mut closed, if exit_with_stdin => info!("asked to stop: standard input closed"),
    }
    telling.abort();
    tokio::spawn(async move {
        signals.next().await;
        warn!("asked again: stopping at once");
        output::settle();
        process::exit(128 + 15);
    });
    let (draining, drain) = (host.clone(), config.drain);
    let stopped = tokio::task::spawn_blocking(move || {
        let end = draining.drain(drain);
        if end.unfinished > 0 {
            info!(groups = end.unfinished, limit = ?drain, "could not hand over every leadership in time");
        }
        if end.without_heir > 0 {
            info!(
                groups = end.without_heir,
                "kept leaderships that nobody takes over: the other voters of these groups are \
                 stopping as well, or out of reach, or there are none"
            );
        }
        stop(&draining);
    });
    if stopped.await.is_err() {
        warn!("stopping the node did not end well; the log is safe all the same");
    }
    tokio::join!(cluster.shutdown(CLIENT_GRACE), proxy.shutdown(CLIENT_GRACE));
    Ok(Exit::Ok)
}

fn topology(
    config: &NodeConfig,
    host: &NodeHost,
    slots: SlotMap,
    specs: &[GroupSpec],
) -> Result<Topology, CliError> {
    let nodes = config
        .peers
        .iter()
        .filter_map(|peer| {
            // The check has seen that it is `host:port`.
            let (name, port) = peer.resp.rsplit_once(':')?;
            let host = name.trim_start_matches('[').trim_end_matches(']').to_owned();
            Some(FrontNode { node: peer.id, host, port: port.parse().ok()? })
        })
        .collect();
    let topology = Topology::new(config.node, nodes, slots, specs, host.is_durable())
        .map_err(|error| CliError::Front(error.to_string()))?;
    // Until it is known.
    Ok(topology.syncing_later())
}

/// Has clients told when writes are on disk, as soon as that is known of all groups. By what is in the log:
/// a configuration says it of groups that are new only.
async fn learn_strategies(host: NodeHost, topology: Topology) {
    loop {
        let asked = host.clone();
        // A shard that does not answer is waited for, so not on this thread.
        let Ok(status) = tokio::task::spawn_blocking(move || asked.status()).await else { return };
        let strategies = status.groups.iter().map(|group| group.strategy);
        if let Some(some_do) = some_sync_later(strategies, status.groups_missing) {
            topology.set_syncing_later(some_do);
            return;
        }
        sleep(READY_PERIOD_MAX).await;
    }
}

/// Whether some groups acknowledge what is not on disk yet; `None` if those that are missing may.
fn some_sync_later(known: impl IntoIterator<Item = Strategy>, missing: usize) -> Option<bool> {
    let some_do = known.into_iter().any(|strategy| strategy == Strategy::MemFirst);
    (some_do || missing == 0).then_some(some_do)
}

async fn bind(address: SocketAddr, purpose: &'static str) -> Result<TcpListener, CliError> {
    let deadline = Instant::now() + BIND_PATIENCE;
    loop {
        match listen(address) {
            Ok(listener) => return Ok(listener),
            Err(error) if is_taken(&error) && Instant::now() < deadline => sleep(BIND_PAUSE).await,
            Err(source) => {
                return Err(CliError::Listen { address, purpose, source });
            }
        }
    }
}

async fn admin(address: SocketAddr, host: &NodeHost) -> Result<AdminServer, CliError> {
    let deadline = Instant::now() + BIND_PATIENCE;
    loop {
        match AdminServer::start(address, Arc::new(Served(host.clone()))).await {
            Ok(server) => return Ok(server),
            Err(error) if is_taken(&error) && Instant::now() < deadline => sleep(BIND_PAUSE).await,
            Err(source) => {
                return Err(CliError::Listen { address, purpose: "operators", source });
            }
        }
    }
}

fn is_taken(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrInUse
}

/// Says `ready` once it is true. Until then it says what is missing, if that takes a while and
/// whenever it is something else, but not all the time.
async fn tell_when_ready(host: NodeHost, groups: usize) {
    let began = Instant::now();
    let mut told: Option<(Instant, String)> = None;
    loop {
        let asked = host.clone();
        // A shard that does not answer is waited for, so not on this thread.
        let status = tokio::task::spawn_blocking(move || asked.status()).await;
        let Ok(status) = status else { return };
        let unready = status.unready();
        if unready.is_empty() {
            output::announce(format_args!("ready node={} groups={groups}", status.node));
            return;
        }
        let missing = unready.join("; ");
        let due = match &told {
            None => began.elapsed() >= UNREADY_AFTER,
            Some((at, before)) => at.elapsed() >= UNREADY_PERIOD && *before != missing,
        };
        if due {
            output::announce(format_args!("serving; {missing}"));
            told = Some((Instant::now(), missing));
        }
        // Often at first, when it is about to be true.
        sleep((began.elapsed() / 4).clamp(READY_PERIOD_MIN, READY_PERIOD_MAX)).await;
    }
}

/// Stops the node. A thread that is stuck must not keep the process: what was acknowledged is in
/// the log.
fn stop(host: &NodeHost) {
    let (ended, end) = bounded(1);
    let stopping = host.clone();
    let stopper = thread::spawn(move || {
        stopping.stop();
        let _ = ended.send(());
    });
    match end.recv_timeout(STOP_LIMIT) {
        Ok(()) => {}
        Err(RecvTimeoutError::Timeout) => {
            warn!(limit = ?STOP_LIMIT, "threads of this node do not end: leaving without them");
        }
        Err(RecvTimeoutError::Disconnected) => {
            let _ = stopper.join();
            warn!("stopping the node did not end well; the log is safe all the same");
        }
    }
}

/// Done when the node failed, with the reason.
async fn failure_of(host: &NodeHost) -> String {
    loop {
        if let Some(failure) = host.failure() {
            return failure;
        }
        sleep(HEALTH_PERIOD).await;
    }
}

/// What the admin port shows of a running node.
struct Served(NodeHost);

impl StatusSource for Served {
    fn status(&self) -> StatusView {
        StatusView::from(&self.0.status())
    }

    fn digest(&self, group: GroupId) -> BoxFuture<Option<(LogIndex, u64)>> {
        let digest = self.0.digest(group);
        Box::pin(async move { digest.await.ok() })
    }
}

/// Events go to standard error. `RUST_LOG` goes before the configuration.
fn trace(config: &NodeConfig) {
    let asked = std::env::var("RUST_LOG").ok().map(|asked| parse_filter(&asked));
    // The check has accepted what the file says.
    let configured = || parse_filter(&config.trace_filter).unwrap_or_default();
    let (filter, wrong) = match asked {
        Some(Ok(filter)) => (filter, None),
        Some(Err(wrong)) => (configured(), Some(wrong)),
        None => (configured(), None),
    };
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(|| LogLines)
        // It would be said with a macro that panics where it cannot write.
        .log_internal_errors(false)
        .with_ansi(io::stderr().is_terminal());
    tracing_subscriber::registry().with(lines).with(filter).init();
    if let Some(wrong) = wrong {
        warn!(%wrong, "RUST_LOG cannot be understood; `trace.filter` is used");
    }
    // A thread that panics must not wait for whoever reads standard error.
    std::panic::set_hook(Box::new(|panic| {
        let backtrace = Backtrace::capture();
        let backtrace = (backtrace.status() == BacktraceStatus::Captured).then_some(backtrace);
        let backtrace = backtrace.map(tracing::field::display);
        error!(thread = thread::current().name().unwrap_or("?"), backtrace, "{panic}");
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// It was asked once, and a shard that was late then made it so for the life of the node.
    #[test]
    fn how_groups_count_is_asked_again_while_some_have_not_said() {
        use Strategy::{DiskFirst, MemFirst};
        assert_eq!(some_sync_later([DiskFirst, DiskFirst], 0), Some(false));
        assert_eq!(some_sync_later([DiskFirst], 1), None);
        assert_eq!(some_sync_later([DiskFirst, MemFirst], 1), Some(true));
        assert_eq!(some_sync_later([], 0), Some(false));
    }
}
