//! Accepts clients and hands each to a task of its own.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tracing::{info, warn};

use super::backend::Backend;
use super::budget::ClientBudget;
use super::cluster::{self, ClusterAnswer, Descriptions, Topology};
use super::connection::Connection;
use super::info::Counters;
use super::parser::{ParserLimits, Request};
use super::request::ArgumentError;
use super::session::Session;
use super::upstream::{Leaders, Upstream};
use crate::complaint::Complaint;
use crate::kv::machine::VALUE_BYTES_MAX;

/// What a port does with a key whose group is led elsewhere.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Mode {
    /// Names the leader (`MOVED`): for clients that follow.
    Cluster,
    /// Forwards to the leader: for clients that know one server only.
    Proxy,
}

/// Connections that wait in the kernel for us to accept them; the kernel's own limit
/// (`net.core.somaxconn`) may be lower. Many clients come at once after a node was down.
const BACKLOG: u32 = 1024;
/// After a failed accept, most likely for lack of file descriptors; doubled while it goes on.
const ACCEPT_PAUSE_MIN: Duration = Duration::from_millis(50);
const ACCEPT_PAUSE_MAX: Duration = Duration::from_secs(1);
/// A client that is silent for so long is asked by the kernel whether it is still there, as Redis
/// does; without an answer to [`KEEPALIVE_PROBES`] it is gone. No limit on unacknowledged bytes
/// (`TCP_USER_TIMEOUT`) beside it: it would also end clients that do not read for a while.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(300);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(100);
const KEEPALIVE_PROBES: u32 = 3;

/// How much clients may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most clients at once; one more is told so and closed. Default 10,000, as in Redis. Not
    /// used by [`RespServer::start_within`], whose budget says it.
    pub connections_max: usize,
    /// Most memory for all clients together: the buffers as they are allocated, requests that are
    /// not answered, and room promised to answers. Beyond it, an unfinished request that is large
    /// is refused and its connection closed, a large answer is refused, and a client takes up its
    /// next request only when the last has ended. The first 64 KiB of each client do not count.
    /// Default 1 GiB. Not used by [`RespServer::start_within`].
    pub buffered_bytes_max: u64,
    /// Longest answer to one read, all its values together; a longer one is refused with `-ERR`.
    /// Zero means any length. Default 64 MiB, the longest value, so every value can be read. One
    /// client has at most one such answer in memory, and what it is written from.
    pub reply_bytes_max: u64,
    /// How long a connection that is to close (its client broke the protocol, said goodbye or
    /// closed its half) may go without an answer or a byte that the client takes. Default 10 s,
    /// which is longer than `proxy_retry_max`.
    pub drain_stall_max: Duration,
    /// How long a client may take none of its replies while some wait for it; then its connection
    /// is closed, and the reason is logged. Such a client may itself wait for us to read what it
    /// writes. Default 60 s: for a client that was suspended for a moment.
    pub reply_stall_max: Duration,
    /// Most bytes of requests that are read from a client while it takes no replies. Without
    /// it, a client that writes a long pipeline before it reads would wait for ever. Counted in
    /// the budget, and none is read ahead once that is taken. Default 16 MiB: 300,000 short
    /// commands, with what the sockets hold.
    pub read_ahead_bytes_max: usize,
    /// Most requests of one client that are read and not yet answered; then we stop reading
    /// from it. Default 1,024.
    pub requests_in_flight_max: usize,
    /// Most bytes of one client's requests and expected replies in memory; then we stop reading
    /// from it. A single larger request is taken when nothing else is in flight. Replies that
    /// another node makes for a proxy port count as those made here: a read takes room for an
    /// answer twice as long as recent ones, and a longer answer is asked for again, alone, when its
    /// client has taken those before; a write that answers with a value is alone as well. Default
    /// 8 MiB.
    pub bytes_in_flight_max: usize,
    /// How long a proxy port goes on trying a command that was refused without effect. Longer
    /// than an election, shorter than a client's patience. Default 5 s.
    pub proxy_retry_max: Duration,
    /// How long a proxy port leaves a command to a node once another one leads its group; then a
    /// read is tried there, and a write is of unknown outcome. A leader that hands over answers
    /// within it, one that stands still does not answer at all. Default 500 ms: the shortest
    /// election timeout.
    pub proxy_deposed_max: Duration,
    /// How much one request may hold.
    pub parser: ParserLimits,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 10_000,
            buffered_bytes_max: 1 << 30,
            reply_bytes_max: VALUE_BYTES_MAX,
            drain_stall_max: Duration::from_secs(10),
            reply_stall_max: Duration::from_secs(60),
            read_ahead_bytes_max: 16 << 20,
            requests_in_flight_max: 1024,
            bytes_in_flight_max: 8 << 20,
            proxy_retry_max: Duration::from_secs(5),
            proxy_deposed_max: Duration::from_millis(500),
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
    budget: ClientBudget,
    shutdown: watch::Sender<bool>,
    accepting: JoinHandle<()>,
}

/// What all connections of one server share.
#[derive(Debug)]
pub(super) struct Shared<B> {
    backend: Arc<B>,
    topology: Topology,
    descriptions: Descriptions,
    mode: Mode,
    limits: Limits,
    budget: ClientBudget,
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

    pub(super) fn answer_cluster(
        &self,
        request: &Request<'_>,
    ) -> Result<ClusterAnswer, ArgumentError>
    where
        B: Backend,
    {
        cluster::answer(&self.topology, &self.descriptions, self.backend(), request)
    }

    pub(super) fn mode(&self) -> Mode {
        self.mode
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    pub(super) fn budget(&self) -> &ClientBudget {
        &self.budget
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
        let listener = listen(address).map_err(failed)?;
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
        let budget = ClientBudget::new(limits.connections_max, limits.buffered_bytes_max);
        Self::start_within(listener, backend, topology, mode, limits, &budget)
    }

    /// Like [`start`](Self::start), with a budget that may be shared with other ports.
    ///
    /// # Errors
    /// As for [`start`](Self::start).
    pub fn start_within<B: Backend>(
        listener: TcpListener,
        backend: B,
        topology: Topology,
        mode: Mode,
        limits: Limits,
        budget: &ClientBudget,
    ) -> Result<Self, ServeError> {
        let unspecified = SocketAddr::from(([0, 0, 0, 0], 0));
        let failed = |source| ServeError::Listen { address: unspecified, source };
        let address = listener.local_addr().map_err(failed)?;
        let backend = Arc::new(backend);
        let upstream = match mode {
            Mode::Cluster => None,
            Mode::Proxy => {
                let backend = Arc::clone(&backend);
                let leader_of = Box::new(move |group| backend.leader_of(group));
                let leaders = Leaders { leader_of, deposed_max: limits.proxy_deposed_max };
                Some(Upstream::new(topology.others(), leaders))
            }
        };
        let shared = Arc::new(Shared {
            backend,
            topology,
            descriptions: Descriptions::default(),
            mode,
            limits,
            budget: budget.clone(),
            counters: Counters::default(),
            upstream,
            started: Instant::now(),
            clients: AtomicU64::new(0),
        });
        let (shutdown, stopping) = watch::channel(false);
        info!(%address, ?mode, "serving Redis protocol");
        let accepting = tokio::spawn(accept(listener, shared, stopping));
        Ok(Self { address, budget: budget.clone(), shutdown, accepting })
    }

    /// The address clients connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How much of the budget's bytes clients hold now, by all ports that share it.
    pub fn buffered_bytes(&self) -> u64 {
        self.budget.bytes()
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

/// Binds an address for clients. Port 0 takes a free one. Must be called within a tokio runtime.
///
/// # Errors
/// What the system says, if the address cannot be bound.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // Connections of our predecessor that are still dying do not keep us out.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

async fn accept<B: Backend>(
    listener: TcpListener,
    shared: Arc<Shared<B>>,
    stopping: watch::Receiver<bool>,
) {
    let mut connections = JoinSet::new();
    let mut stop = pin!(stop_signal(stopping.clone()));
    let mut trouble = AcceptTrouble::default();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, address)) => {
                    trouble.over();
                    shared.counters.accepted.fetch_add(1, Relaxed);
                    if let Some(place) = shared.budget.connection() {
                        let served = serve(stream, address, shared.clone(), stopping.clone());
                        connections.spawn(async move {
                            served.await;
                            drop(place);
                        });
                    } else {
                        shared.counters.rejected.fetch_add(1, Relaxed);
                        // Best effort: a client that never reads must not hold us up.
                        let _ = stream.try_write(b"-ERR max number of clients reached\r\n");
                    }
                }
                Err(error) => {
                    // Out of file descriptors, most likely; the others go on meanwhile.
                    if let Some(suppressed) = trouble.complaint.permit(Instant::now()) {
                        warn!(%error, suppressed, "cannot accept a client");
                    }
                    tokio::select! {
                        () = tokio::time::sleep(trouble.pause()) => {}
                        () = &mut stop => break,
                    }
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

/// Failed accepts: how long to wait after one, and whether to say so.
#[derive(Debug, Default)]
struct AcceptTrouble {
    failures: u32,
    complaint: Complaint,
}

impl AcceptTrouble {
    /// Twice as long after each failure in a row.
    fn pause(&mut self) -> Duration {
        let factor = 1 << self.failures.min(16);
        self.failures += 1;
        (ACCEPT_PAUSE_MIN * factor).min(ACCEPT_PAUSE_MAX)
    }

    fn over(&mut self) {
        self.failures = 0;
    }
}

async fn serve<B: Backend>(
    stream: TcpStream,
    address: SocketAddr,
    shared: Arc<Shared<B>>,
    stopping: watch::Receiver<bool>,
) {
    tune(&stream);
    let id = shared.clients.fetch_add(1, Relaxed) + 1;
    shared.counters.connected.fetch_add(1, Relaxed);
    let _connected = Connected(shared.clone());
    let session = Session::new(id, address.to_string());
    Connection::new(id, shared, stream, session).run(stop_signal(stopping)).await;
}

/// Failures cost latency, and a place that is held longer than it should be.
fn tune(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_PROBES);
    let _ = SockRef::from(stream).set_tcp_keepalive(&keepalive);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::complaint::COMPLAINT_PERIOD;

    #[tokio::test]
    async fn clients_that_vanish_are_noticed_by_the_kernel() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let address = listener.local_addr().expect("bound");
        let (_client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let (stream, _) = accepted.expect("a client");
        tune(&stream);
        let socket = SockRef::from(&stream);
        assert!(socket.keepalive().expect("a TCP socket"));
        assert_eq!(socket.tcp_keepalive_time().expect("set"), KEEPALIVE_IDLE);
    }

    #[test]
    fn failed_accepts_are_told_of_once_in_a_while_and_slow_us_down() {
        let start = Instant::now();
        let mut trouble = AcceptTrouble::default();
        let mut complaint = |at| trouble.complaint.permit(at);
        assert_eq!(complaint(start), Some(0));
        for second in 1..10 {
            assert_eq!(complaint(start + Duration::from_secs(second)), None);
        }
        assert_eq!(complaint(start + COMPLAINT_PERIOD), Some(9));
        assert_eq!(complaint(start + COMPLAINT_PERIOD * 2), Some(0));
        assert_eq!(trouble.pause(), ACCEPT_PAUSE_MIN);
        assert_eq!(trouble.pause(), ACCEPT_PAUSE_MIN * 2);
        for _ in 0..100 {
            assert!(trouble.pause() <= ACCEPT_PAUSE_MAX);
        }
        trouble.over();
        assert_eq!(trouble.pause(), ACCEPT_PAUSE_MIN);
    }
}
