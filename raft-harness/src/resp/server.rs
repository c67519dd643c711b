//! Accepts clients and hands each to a task of its own.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tracing::{info, warn};

use super::backend::Backend;
use super::cluster::Topology;
use super::connection::Connection;
use super::info::Counters;
use super::parser::ParserLimits;
use super::session::Session;
use super::upstream::Upstream;

/// What a port does with a key whose group is led elsewhere.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Mode {
    /// Names the leader (`MOVED`): for clients that follow.
    Cluster,
    /// Forwards to the leader: for clients that know one server only.
    Proxy,
}

/// How much clients may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most clients at once; one more is told so and closed. Default 10,000, as in Redis.
    pub connections_max: usize,
    /// Most requests of one client that are read and not yet answered; then we stop reading
    /// from it. Default 1,024.
    pub requests_in_flight_max: usize,
    /// Most bytes of one client's requests and expected replies in memory; then we stop reading
    /// from it. A single larger request is taken when nothing else is in flight. Replies that
    /// another node makes for a proxy port are counted as large as recent ones were. Default 8 MiB.
    pub bytes_in_flight_max: usize,
    /// How long a proxy port goes on trying a command that was refused without effect. Longer
    /// than an election, shorter than a client's patience. Default 5 s.
    pub proxy_retry_max: Duration,
    /// How much one request may hold.
    pub parser: ParserLimits,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 10_000,
            requests_in_flight_max: 1024,
            bytes_in_flight_max: 8 << 20,
            proxy_retry_max: Duration::from_secs(5),
            parser: ParserLimits::default(),
        }
    }
}

/// The server could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// No address could be bound.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
}

/// A running server; dropping it stops it at once.
#[derive(Debug)]
pub struct RespServer {
    address: SocketAddr,
    shutdown: watch::Sender<bool>,
    accepting: JoinHandle<()>,
}

/// What all connections of one server share.
#[derive(Debug)]
pub(super) struct Shared<B> {
    backend: B,
    topology: Topology,
    mode: Mode,
    limits: Limits,
    counters: Counters,
    upstream: Option<Upstream>,
    started: Instant,
    clients: AtomicU64,
}

impl<B> Shared<B> {
    pub(super) fn backend(&self) -> &B {
        &self.backend
    }

    pub(super) fn topology(&self) -> &Topology {
        &self.topology
    }

    pub(super) fn mode(&self) -> Mode {
        self.mode
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    pub(super) fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The way to other nodes; a cluster port has none.
    pub(super) fn upstream(&self) -> Option<&Upstream> {
        self.upstream.as_ref()
    }

    pub(super) fn uptime(&self) -> Duration {
        self.started.elapsed()
    }
}

impl RespServer {
    /// Binds an address and serves it. Port 0 takes a free one.
    ///
    /// # Errors
    /// [`ServeError::Listen`] if the address cannot be bound.
    pub async fn bind<B: Backend>(
        address: SocketAddr,
        backend: B,
        topology: Topology,
        mode: Mode,
        limits: Limits,
    ) -> Result<Self, ServeError> {
        let failed = |source| ServeError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        Self::start(listener, backend, topology, mode, limits)
    }

    /// Serves a listener that is bound already. Must be called within a tokio runtime, which
    /// then carries all clients.
    ///
    /// # Errors
    /// [`ServeError::Listen`] if the listener has no address.
    pub fn start<B: Backend>(
        listener: TcpListener,
        backend: B,
        topology: Topology,
        mode: Mode,
        limits: Limits,
    ) -> Result<Self, ServeError> {
        let unspecified = SocketAddr::from(([0, 0, 0, 0], 0));
        let failed = |source| ServeError::Listen { address: unspecified, source };
        let address = listener.local_addr().map_err(failed)?;
        let upstream = match mode {
            Mode::Cluster => None,
            Mode::Proxy => Some(Upstream::new(topology.others())),
        };
        let shared = Arc::new(Shared {
            backend,
            topology,
            mode,
            limits,
            counters: Counters::default(),
            upstream,
            started: Instant::now(),
            clients: AtomicU64::new(0),
        });
        let (shutdown, stopping) = watch::channel(false);
        info!(%address, ?mode, "serving Redis protocol");
        let accepting = tokio::spawn(accept(listener, shared, stopping));
        Ok(Self { address, shutdown, accepting })
    }

    /// The address clients connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops accepting and reading, answers what was read for at most `grace`, then closes.
    pub async fn shutdown(mut self, grace: Duration) {
        let _ = self.shutdown.send(true);
        if tokio::time::timeout(grace, &mut self.accepting).await.is_err() {
            self.accepting.abort();
        }
    }
}

impl Drop for RespServer {
    fn drop(&mut self) {
        // The task owns all connections, so they end with it.
        self.accepting.abort();
    }
}

async fn accept<B: Backend>(
    listener: TcpListener,
    shared: Arc<Shared<B>>,
    stopping: watch::Receiver<bool>,
) {
    let mut connections = JoinSet::new();
    let mut stop = pin!(stop_signal(stopping.clone()));
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, address)) => {
                    shared.counters.accepted.fetch_add(1, Relaxed);
                    if connections.len() >= shared.limits.connections_max {
                        shared.counters.rejected.fetch_add(1, Relaxed);
                        // Best effort: a client that never reads must not hold us up.
                        let _ = stream.try_write(b"-ERR max number of clients reached\r\n");
                    } else {
                        connections.spawn(serve(stream, address, shared.clone(), stopping.clone()));
                    }
                }
                Err(error) => {
                    // Out of file descriptors, most likely; the others go on meanwhile.
                    warn!(%error, "cannot accept a client");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            },
            Some(_) = connections.join_next() => {}
            () = &mut stop => break,
        }
    }
    drop(listener);
    // The connections are told as well and finish by themselves; the caller sets the deadline.
    while connections.join_next().await.is_some() {}
}

async fn serve<B: Backend>(
    stream: TcpStream,
    address: SocketAddr,
    shared: Arc<Shared<B>>,
    stopping: watch::Receiver<bool>,
) {
    // A failure costs latency only.
    let _ = stream.set_nodelay(true);
    let id = shared.clients.fetch_add(1, Relaxed) + 1;
    shared.counters.connected.fetch_add(1, Relaxed);
    let _connected = Connected(shared.clone());
    let session = Session::new(id, address.to_string());
    Connection::new(id, shared, stream, session).run(stop_signal(stopping)).await;
}

/// Ends when the server is told to stop, or is gone.
async fn stop_signal(mut stopping: watch::Receiver<bool>) {
    let _ = stopping.wait_for(|stopping| *stopping).await;
}

/// Counts a client as long as it is connected, even if its task is aborted.
struct Connected<B>(Arc<Shared<B>>);

impl<B> Drop for Connected<B> {
    fn drop(&mut self) {
        self.0.counters.connected.fetch_sub(1, Relaxed);
    }
}
