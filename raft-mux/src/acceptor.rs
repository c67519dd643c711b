//! The one listener of a node, and the tasks behind it.
//!
//! One task accepts. Each connection then has a task of its own until its group is known, so a
//! slow or silent dialer holds up nobody; how many of these there may be is bounded, and so is
//! how long each may live. After the hand-off the connection belongs to the group and the mux
//! forgets it.
//!
//! Invariants:
//! - Once closed, nothing opens again: the listener, the half-open connections and all queues are
//!   gone, even if closing raced with any of them.
//! - If the runtime that runs the tasks ends first, that closes the acceptor too.
//!
//! Where each group has a port of its own ([`PortLayout::PortPerGroup`]), each has an accept task
//! of its own as well, from its registration to its end; a first one, of the acceptor, accepts
//! nothing and ends with the runtime.

use std::fmt;
use std::future::{Future, pending, poll_fn, ready};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};

use parking_lot::Mutex;
use raft_core::GroupId;
use tokio::io::AsyncRead;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::time::{Instant, sleep};
use tracing::warn;

use crate::backoff::{Backoff, concerns_one_connection};
use crate::config::{MuxConfig, is_wildcard};
use crate::error::MuxError;
use crate::greeting::{HalfOpenGuard, Port, greet};
use crate::half_open::HalfOpen;
use crate::handoff::{Handoff, RegisterRefusal, Registration};
use crate::layout::{PortLayout, check_base};
use crate::listener::GroupListener;
use crate::log_limit::LogLimit;
use crate::port_table::{PortRefusal, PortTable};
use crate::stats::{Counters, MuxStats};

/// The one TCP port of a node: hands each connection to the group named by its first four bytes.
///
/// Cheap to clone and usable from any thread; clones are the same acceptor. It closes when
/// [`close`](Self::close) is called, when its runtime ends, or when the last clone and the last
/// [`GroupListener`] are dropped.
///
/// `S` is what groups receive: a plain [`TcpStream`], or whatever the handshake given to
/// [`bind_with`](MuxAcceptor::bind_with) makes of it.
pub struct MuxAcceptor<S = TcpStream> {
    owner: Arc<Owner<S>>,
}

/// Closes the acceptor when no clone and no listener is left.
struct Owner<S> {
    shared: Arc<Shared<S>>,
}

/// What the tasks and the handles see.
pub(crate) struct Shared<S> {
    pub(crate) config: MuxConfig,
    local_addr: SocketAddr,
    pub(crate) handoff: Handoff<(S, SocketAddr)>,
    pub(crate) half_open: HalfOpen,
    /// Those of them that are in their handshake.
    pub(crate) handshakes: HalfOpen,
    /// A permit per half-open connection.
    pub(crate) permits: Arc<Semaphore>,
    pub(crate) counters: Counters,
    pub(crate) limits: LogLimits,
    /// True once closed. Every task holds a receiver, so "no receiver left" means "all ended".
    closing: watch::Sender<bool>,
    /// Only where each group has its own.
    ports: Option<GroupPorts<S>>,
}

/// The ports of the groups, and how another is opened.
struct GroupPorts<S> {
    table: PortTable<OpenPort>,
    /// Gone once closed: it holds on to the runtime, whose own descriptors would stay with it.
    opener: Mutex<Option<Arc<Opener<S>>>>,
}

/// Opens the port of a group. The task that serves it starts when the closure given back is called,
/// which is once the group can be given connections.
type Opener<S> =
    dyn Fn(&Arc<Shared<S>>, GroupId, SocketAddr) -> io::Result<(OpenPort, Serve)> + Send + Sync;
type Serve = Box<dyn FnOnce() + Send>;

/// One limit per kind, so that a flood of one kind does not hide another.
#[derive(Default)]
pub(crate) struct LogLimits {
    pub(crate) accept_error: LogLimit,
    pub(crate) half_open_full: LogLimit,
    pub(crate) handshakes_full: LogLimit,
    pub(crate) prefix_missing: LogLimit,
    pub(crate) unknown_group: LogLimit,
    pub(crate) queue_full: LogLimit,
}

impl MuxAcceptor<TcpStream> {
    /// Listens on `addr` (port 0 lets the system choose) and starts accepting on the current
    /// tokio runtime, which needs I/O and time enabled and may be of any flavor. Where each group
    /// has a port of its own, `addr` is the base, and nothing is opened before a group registers.
    ///
    /// # Errors
    /// [`MuxError::ZeroLimit`], [`MuxError::WildcardAddress`] and [`MuxError::PortBase`] for a
    /// configuration that cannot work, [`MuxError::Bind`] if the system refuses.
    pub async fn bind(addr: SocketAddr, config: MuxConfig) -> Result<Self, MuxError> {
        Self::bind_with(addr, config, |tcp, _peer| ready(Ok(tcp))).await
    }
}

impl<S> MuxAcceptor<S>
where
    S: AsyncRead + Unpin + Send + 'static,
{
    /// As [`bind`](MuxAcceptor::bind), with a handshake before the prefix: this is where TLS goes.
    ///
    /// `handshake` turns each TCP connection into the stream that carries the prefix and then
    /// belongs to the group. While it runs, at most `handshake_timeout`, the connection counts as
    /// half-open. An error closes the connection.
    ///
    /// # Errors
    /// As for [`bind`](MuxAcceptor::bind).
    pub async fn bind_with<H, F>(
        addr: SocketAddr,
        config: MuxConfig,
        handshake: H,
    ) -> Result<Self, MuxError>
    where
        H: Fn(TcpStream, SocketAddr) -> F + Send + Sync + 'static,
        F: Future<Output = io::Result<S>> + Send + 'static,
    {
        config.check()?;
        let handshake = Arc::new(handshake);
        match config.layout {
            PortLayout::OnePort => {
                let (listener, local_addr) = listen(addr, config.listen_backlog)
                    .map_err(|source| MuxError::Bind { addr, source })?;
                Ok(Self::start(listener, local_addr, config, None, handshake))
            }
            PortLayout::PortPerGroup => {
                check_base(addr)?;
                let opener =
                    Mutex::new(Some(Arc::new(opener(Handle::current(), handshake.clone())) as _));
                let ports = GroupPorts { table: PortTable::new(), opener };
                Ok(Self::start(Nowhere, addr, config, Some(ports), handshake))
            }
        }
    }

    fn start<L, H, F>(
        listener: L,
        local_addr: SocketAddr,
        config: MuxConfig,
        ports: Option<GroupPorts<S>>,
        handshake: Arc<H>,
    ) -> Self
    where
        L: Listen,
        H: Fn(TcpStream, SocketAddr) -> F + Send + Sync + 'static,
        F: Future<Output = io::Result<S>> + Send + 'static,
    {
        let (closing, closed) = watch::channel(false);
        let shared = Arc::new(Shared {
            local_addr,
            handoff: Handoff::new(config.queue_max),
            half_open: HalfOpen::new(),
            handshakes: HalfOpen::new(),
            permits: Arc::new(Semaphore::new(config.half_open_max.min(Semaphore::MAX_PERMITS))),
            counters: Counters::default(),
            limits: LogLimits::default(),
            closing,
            ports,
            config,
        });
        let closes = CloseOnDrop(shared.clone());
        tokio::spawn(accept_until_closed(closed, closes, listener, handshake));
        Self { owner: Arc::new(Owner { shared }) }
    }
}

/// How ports of groups are opened, on the runtime that the acceptor was bound on.
fn opener<S, H, F>(
    runtime: Handle,
    handshake: Arc<H>,
) -> impl Fn(&Arc<Shared<S>>, GroupId, SocketAddr) -> io::Result<(OpenPort, Serve)>
where
    S: AsyncRead + Unpin + Send + 'static,
    H: Fn(TcpStream, SocketAddr) -> F + Send + Sync + 'static,
    F: Future<Output = io::Result<S>> + Send + 'static,
{
    move |shared, group, addr| {
        // Whoever registers may be on no runtime, or on another.
        let _entered = runtime.enter();
        let (listener, _) = listen(addr, shared.config.listen_backlog)?;
        let (port, listener, taken) = OpenPort::new(listener);
        let liveness = shared.closing.subscribe();
        let (runtime, shared, handshake) = (runtime.clone(), shared.clone(), handshake.clone());
        let serve = move || {
            let port = Port::OfGroup(group);
            runtime.spawn(serve_port(liveness, shared, listener, taken, port, handshake));
        };
        Ok((port, Box::new(serve)))
    }
}

impl<S> MuxAcceptor<S> {
    /// The address listened on, with the real port if 0 was asked for, or the base where each
    /// group has a port of its own. It may be a wildcard, so tell peers
    /// [`advertised_addr`](Self::advertised_addr) instead.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.shared().local_addr
    }

    /// The address to tell peers: the configured one, or else the bound one.
    ///
    /// # Errors
    /// [`MuxError::WildcardAddress`] if none is configured and a wildcard is bound.
    pub fn advertised_addr(&self) -> Result<SocketAddr, MuxError> {
        let bound = self.shared().local_addr;
        match self.shared().config.advertise {
            Some(addr) if addr.port() == 0 => Ok(SocketAddr::new(addr.ip(), bound.port())),
            Some(addr) => Ok(addr),
            None if is_wildcard(bound) => Err(MuxError::WildcardAddress { addr: bound }),
            None => Ok(bound),
        }
    }

    /// Claims the connections of `group` from now on; where each group has a port of its own, opens
    /// that port.
    ///
    /// # Errors
    /// [`MuxError::AlreadyRegistered`] leaves the first listener intact; [`MuxError::Closed`].
    /// Where each group has a port of its own also [`MuxError::GroupWithoutPort`], and
    /// [`MuxError::Bind`] if the system refuses the port.
    pub fn register(&self, group: GroupId) -> Result<GroupListener<S>, MuxError> {
        let shared = &self.owner.shared;
        let claimed = match &shared.ports {
            None => shared.handoff.register(group).map_err(PortRefusal::Register),
            Some(ports) => {
                let addr = shared.config.layout.group_addr(shared.local_addr, group)?;
                let opener = ports.opener.lock().clone().ok_or(MuxError::Closed)?;
                let open = || opener(shared, group, addr);
                let opened = ports.table.register(group, &shared.handoff, addr, open);
                opened.map(|(registration, serve)| {
                    serve();
                    registration
                })
            }
        };
        match claimed {
            Ok(registration) => Ok(GroupListener::new(self.clone(), group, registration)),
            Err(PortRefusal::Open { addr, source }) => Err(MuxError::Bind { addr, source }),
            Err(PortRefusal::Register(RegisterRefusal::AlreadyRegistered)) => {
                Err(MuxError::AlreadyRegistered { group })
            }
            Err(PortRefusal::Register(RegisterRefusal::Closed)) => Err(MuxError::Closed),
        }
    }

    /// Frees the id of `group`, closes its queued connections and ends its pending accepts with
    /// [`MuxError::Unregistered`]. Returns whether it was registered. Connections it has accepted
    /// already go on. Dropping the [`GroupListener`] does the same.
    pub fn unregister(&self, group: GroupId) -> bool {
        self.discard_queue(group, None)
    }

    /// Closes the listener, the half-open connections and all queued ones, and ends every pending
    /// accept with [`MuxError::Closed`]. Connections handed off before go on. Closing twice is
    /// fine. The tasks end the next time their runtime runs them; [`closed`](Self::closed) waits
    /// for that.
    pub fn close(&self) {
        self.shared().close();
    }

    /// Waits until the acceptor is closed, its port free and every socket it owned gone.
    pub async fn closed(&self) {
        self.shared().closing.closed().await;
    }

    /// What has happened so far.
    #[must_use]
    pub fn stats(&self) -> MuxStats {
        let shared = self.shared();
        let half_open_max = shared.config.half_open_max.min(Semaphore::MAX_PERMITS);
        let half_open = half_open_max - shared.permits.available_permits();
        let (groups, queued) = shared.handoff.counts();
        shared.counters.snapshot(groups, half_open, queued)
    }

    pub(crate) fn shared(&self) -> &Shared<S> {
        &self.owner.shared
    }

    pub(crate) fn discard_queue(&self, group: GroupId, only: Option<Registration>) -> bool {
        let shared = self.shared();
        let only = match &shared.ports {
            None => only,
            Some(ports) => match ports.table.take(group, only) {
                Some(registration) => Some(registration),
                None => return false,
            },
        };
        let Some(connections) = shared.handoff.unregister(group, only) else {
            return false;
        };
        shared.counters.discarded.add(connections.len());
        true
    }
}

impl<S> Clone for MuxAcceptor<S> {
    fn clone(&self) -> Self {
        Self { owner: self.owner.clone() }
    }
}

impl<S> fmt::Debug for MuxAcceptor<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MuxAcceptor")
            .field("local_addr", &self.local_addr())
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

impl<S> Drop for Owner<S> {
    fn drop(&mut self) {
        self.shared.close();
    }
}

impl<S> Shared<S> {
    fn close(&self) {
        // The queues go first: a connection cut below could otherwise still be queued.
        let connections = self.handoff.close();
        self.counters.discarded.add(connections.len());
        if let Some(ports) = &self.ports {
            ports.table.close();
            drop(ports.opener.lock().take());
        }
        self.half_open.close();
        self.handshakes.close();
        self.closing.send_replace(true);
    }
}

/// Where connections come from; a seam for listeners that fail on purpose.
trait Listen: Send + 'static {
    fn accept(&mut self) -> impl Future<Output = io::Result<(TcpStream, SocketAddr)>> + Send;
}

impl Listen for TcpListener {
    async fn accept(&mut self) -> io::Result<(TcpStream, SocketAddr)> {
        Self::accept(self).await
    }
}

/// Where nothing ever comes from.
struct Nowhere;

impl Listen for Nowhere {
    async fn accept(&mut self) -> io::Result<(TcpStream, SocketAddr)> {
        pending().await
    }
}

/// The open port of one group. Dropping it closes the port at once, wherever its task is, so that
/// the next registration can open it again.
#[derive(Debug)]
struct OpenPort {
    listener: Arc<Mutex<Option<TcpListener>>>,
    /// Dropped with the port, which ends its task.
    _taken: oneshot::Sender<()>,
}

impl OpenPort {
    fn new(listener: TcpListener) -> (Self, PortListener, oneshot::Receiver<()>) {
        let listener = Arc::new(Mutex::new(Some(listener)));
        let (sender, taken) = oneshot::channel();
        (Self { listener: listener.clone(), _taken: sender }, PortListener(listener), taken)
    }
}

impl Drop for OpenPort {
    fn drop(&mut self) {
        drop(self.listener.lock().take());
    }
}

/// The accepting end of an [`OpenPort`].
struct PortListener(Arc<Mutex<Option<TcpListener>>>);

impl PortListener {
    fn poll(&self, context: &mut Context<'_>) -> Poll<io::Result<(TcpStream, SocketAddr)>> {
        match &*self.0.lock() {
            Some(listener) => listener.poll_accept(context),
            // Its task ends by the other signal.
            None => Poll::Pending,
        }
    }
}

impl Listen for PortListener {
    async fn accept(&mut self) -> io::Result<(TcpStream, SocketAddr)> {
        poll_fn(|context| self.poll(context)).await
    }
}

impl Drop for PortListener {
    fn drop(&mut self) {
        drop(self.0.lock().take());
    }
}

fn listen(addr: SocketAddr, backlog: u32) -> io::Result<(TcpListener, SocketAddr)> {
    let socket = match addr {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // A restarted node must get its port back although old connections linger in TIME_WAIT. On
    // Windows the option means something else: it would let another process share the port.
    #[cfg(unix)]
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    let listener = socket.listen(backlog)?;
    let local_addr = listener.local_addr()?;
    Ok((listener, local_addr))
}

/// The task that accepts, until the acceptor is closed.
///
/// However it ends, be it with its runtime, it closes the acceptor: nobody may wait in vain. The
/// arguments are dropped last to first, so that `closed` returns after everything is closed.
async fn accept_until_closed<S, L, H, F>(
    liveness: watch::Receiver<bool>,
    closes: CloseOnDrop<S>,
    listener: L,
    handshake: Arc<H>,
) where
    S: AsyncRead + Unpin + Send + 'static,
    L: Listen,
    H: Fn(TcpStream, SocketAddr) -> F + Send + Sync + 'static,
    F: Future<Output = io::Result<S>> + Send + 'static,
{
    let mut closing = liveness.clone();
    let accepting = accept_all(&liveness, &closes.0, listener, Port::Shared, handshake);
    tokio::select! {
        biased;
        // It cannot fail: `closes` holds the sender.
        _ = closing.wait_for(|closed| *closed) => {}
        () = accepting => {}
    }
}

/// The task of one group's port, until that is closed. Arguments as above.
async fn serve_port<S, H, F>(
    liveness: watch::Receiver<bool>,
    shared: Arc<Shared<S>>,
    listener: PortListener,
    taken: oneshot::Receiver<()>,
    port: Port,
    handshake: Arc<H>,
) where
    S: AsyncRead + Unpin + Send + 'static,
    H: Fn(TcpStream, SocketAddr) -> F + Send + Sync + 'static,
    F: Future<Output = io::Result<S>> + Send + 'static,
{
    let accepting = accept_all(&liveness, &shared, listener, port, handshake);
    tokio::select! {
        biased;
        _ = taken => {}
        () = accepting => {}
    }
}

/// Accepts for ever.
async fn accept_all<S, L, H, F>(
    liveness: &watch::Receiver<bool>,
    shared: &Arc<Shared<S>>,
    // Owned in here, the socket is gone before `liveness` is, which `closed` waits for.
    mut listener: L,
    port: Port,
    handshake: Arc<H>,
) where
    S: AsyncRead + Unpin + Send + 'static,
    L: Listen,
    H: Fn(TcpStream, SocketAddr) -> F + Send + Sync + 'static,
    F: Future<Output = io::Result<S>> + Send + 'static,
{
    let mut backoff =
        Backoff::new(shared.config.accept_backoff_min, shared.config.accept_backoff_max);
    loop {
        match listener.accept().await {
            Ok((tcp, peer)) => {
                backoff.succeeded();
                let half_open = HalfOpenGuard::enter(shared, peer).await;
                shared.counters.accepted.bump();
                let Some((half_open, cut)) = half_open else {
                    shared.counters.discarded.bump();
                    continue;
                };
                let handshake = handshake.clone();
                let liveness = liveness.clone();
                tokio::spawn(async move {
                    let _liveness = liveness;
                    greet(half_open, tcp, peer, port, &*handshake, cut).await;
                });
            }
            Err(error) => {
                shared.counters.accept_errors.bump();
                if concerns_one_connection(&error) {
                    continue;
                }
                let pause = backoff.failed();
                if let Some(suppressed) = shared.limits.accept_error.permit(Instant::now()) {
                    let addr = shared.local_addr;
                    warn!(%addr, ?port, %error, ?pause, suppressed, "cannot accept connections");
                }
                sleep(pause).await;
            }
        }
    }
}

/// Closes the acceptor when its accept task is gone.
struct CloseOnDrop<S>(Arc<Shared<S>>);

impl<S> Drop for CloseOnDrop<S> {
    fn drop(&mut self) {
        self.0.close();
    }
}

#[cfg(all(test, not(loom_model)))]
mod tests {
    use std::time::Duration;

    use super::*;

    /// A listener in a process that has run out of file descriptors.
    struct Exhausted;

    impl Listen for Exhausted {
        async fn accept(&mut self) -> io::Result<(TcpStream, SocketAddr)> {
            // EMFILE has no `ErrorKind` of its own.
            Err(io::Error::other("too many open files"))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn listener_that_keeps_failing_is_asked_eleven_times_in_four_seconds() {
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 1));
        let handshake = |tcp, _peer| ready(Ok(tcp));
        let acceptor =
            MuxAcceptor::start(Exhausted, nowhere, MuxConfig::default(), None, Arc::new(handshake));
        // At 0, 5, 15, 35, 75, 155, 315, 635, 1275, 2275 and 3275 ms; the next would be at 4275.
        sleep(Duration::from_secs(4)).await;
        assert_eq!(acceptor.stats().accept_errors, 11);

        // Closing does not wait for the pause to end.
        let before = Instant::now();
        acceptor.close();
        acceptor.closed().await;
        assert_eq!(before.elapsed(), Duration::ZERO);
    }
}
