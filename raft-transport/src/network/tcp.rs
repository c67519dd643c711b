//! Lanes over TCP: each lane is a group of the mux, so a node still has one port.

use std::collections::BTreeMap;
use std::future::{Future, poll_fn, ready};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use raft_core::NodeId;
use raft_mux::{DialTimeouts, GroupListener, MuxAcceptor, MuxError};
use tokio::io::AsyncRead;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tracing::debug;

use crate::lane::Lane;
use crate::network::peer_registry::PeerRegistry;
use crate::network::socket_options::SocketOptions;
use crate::network::{Accepted, BoxFuture, BoxStream, LaneStream, Network, NetworkError};

/// The TCP network of one node. Addresses of peers are those of its [`PeerRegistry`], either
/// `ip:port` or `name:port`; names are resolved with each dial.
///
/// `C` is what is done to a connection before a lane has it: nothing, or TLS.
pub struct TcpNetwork<C: Cover = Plain> {
    listeners: BTreeMap<Lane, GroupListener<C::Stream>>,
    acceptor: MuxAcceptor<C::Stream>,
    cover: C,
    registry: PeerRegistry,
    sockets: BTreeMap<Lane, SocketOptions>,
}

/// What is done to a TCP connection before a lane has it. The acceptor's part is done by the
/// [`MuxAcceptor`], which was bound with it.
pub trait Cover: Send + Sync + 'static {
    /// What a connection becomes.
    type Stream: LaneStream + AsyncRead + 'static;

    /// The dialer's part, towards a peer. An error ends the dial.
    fn connect(
        &self,
        tcp: TcpStream,
        peer: NodeId,
    ) -> impl Future<Output = io::Result<Self::Stream>> + Send;

    /// How long that may take at most, beside the time for connecting.
    fn connect_timeout(&self) -> Duration;

    /// The error of a dial; `error` may come from [`connect`](Self::connect).
    fn explain(peer: NodeId, error: MuxError) -> NetworkError;

    /// The socket under a stream, for its options.
    ///
    /// # Errors
    /// There is none any more.
    fn socket(stream: &Self::Stream) -> io::Result<&TcpStream>;

    /// Moves a stream to the runtime that this is called on.
    ///
    /// # Errors
    /// What the system said; the stream is gone.
    fn rehome(stream: Self::Stream) -> io::Result<Self::Stream>;

    /// Who is at the other end, if that is proven.
    fn certified(stream: &Self::Stream) -> Option<NodeId>;
}

/// Nothing is done: whoever reaches the port may say anything.
#[derive(Clone, Copy, Debug, Default)]
pub struct Plain;

impl Cover for Plain {
    type Stream = TcpStream;

    fn connect(
        &self,
        tcp: TcpStream,
        _peer: NodeId,
    ) -> impl Future<Output = io::Result<TcpStream>> + Send {
        ready(Ok(tcp))
    }

    fn connect_timeout(&self) -> Duration {
        Duration::ZERO
    }

    fn explain(_peer: NodeId, error: MuxError) -> NetworkError {
        error.into()
    }

    fn socket(stream: &TcpStream) -> io::Result<&TcpStream> {
        Ok(stream)
    }

    fn rehome(stream: TcpStream) -> io::Result<TcpStream> {
        TcpStream::from_std(stream.into_std()?)
    }

    fn certified(_stream: &TcpStream) -> Option<NodeId> {
        None
    }
}

impl TcpNetwork {
    /// Registers the lanes at the acceptor. Dropping the network frees their ids.
    ///
    /// # Errors
    /// [`NetworkError::Mux`] if one of them is registered already, or the acceptor is closed.
    pub fn new(
        acceptor: MuxAcceptor,
        lanes: &[Lane],
        registry: PeerRegistry,
    ) -> Result<Self, NetworkError> {
        Self::covered(acceptor, Plain, lanes, registry)
    }
}

impl<C: Cover> TcpNetwork<C> {
    /// As [`new`](TcpNetwork::new), with something done to each connection first; `acceptor` was bound
    /// with the same.
    ///
    /// # Errors
    /// As for [`new`](TcpNetwork::new).
    pub fn covered(
        acceptor: MuxAcceptor<C::Stream>,
        cover: C,
        lanes: &[Lane],
        registry: PeerRegistry,
    ) -> Result<Self, NetworkError> {
        let listeners = lanes
            .iter()
            .map(|&lane| Ok((lane, acceptor.register(lane.group_id())?)))
            .collect::<Result<_, NetworkError>>()?;
        Ok(Self { listeners, acceptor, cover, registry, sockets: BTreeMap::new() })
    }

    /// How the sockets of a lane behave, dialed and accepted ones; not said, as is the default.
    #[must_use]
    pub fn with_socket(mut self, lane: Lane, options: SocketOptions) -> Self {
        self.sockets.insert(lane, options);
        self
    }

    /// Sets the options of a lane's socket. One that refuses is used all the same: the first read
    /// or write tells what is wrong with it.
    fn prepare(&self, stream: &C::Stream, lane: Lane) {
        let applied = C::socket(stream).and_then(|socket| match self.sockets.get(&lane) {
            Some(options) => options.apply(socket),
            None => SocketOptions::default().apply(socket),
        });
        if let Err(error) = applied {
            debug!(%lane, %error, "socket options are refused");
        }
    }

    /// Our shards may outnumber the peer's. Until it has told us how many it has, on any lane, we
    /// try ours; if nobody accepts that one, the dial fails and is repeated.
    fn lane_at(&self, peer: NodeId, lane: Lane) -> Lane {
        self.registry.peer_shards(peer).map_or(lane, |shards| lane.at_receiver(shards))
    }

    async fn dial_tcp(
        &self,
        peer: NodeId,
        lane: Lane,
        timeout: Duration,
    ) -> Result<C::Stream, NetworkError> {
        let addr = self.registry.addr(peer).ok_or(NetworkError::UnknownPeer { peer })?;
        let group = self.lane_at(peer, lane).group_id();
        let addrs = resolve(addr).await?;
        let timeouts =
            DialTimeouts { connect: timeout, handshake: self.cover.connect_timeout().max(timeout) };
        let dial =
            |addr| raft_mux::dial_with(addr, group, timeouts, |tcp| self.cover.connect(tcp, peer));
        match first_of(addrs, timeout, dial).await {
            Some(Ok(stream)) => {
                self.prepare(&stream, lane);
                Ok(stream)
            }
            Some(Err(error)) => Err(C::explain(peer, error)),
            None => Err(NetworkError::UnknownPeer { peer }),
        }
    }

    async fn accept_tcp(&self, lane: Lane) -> Result<C::Stream, NetworkError> {
        let listener = self.listeners.get(&lane).ok_or(NetworkError::NotServed { lane })?;
        let (stream, _peer) = listener.accept().await?;
        // The mux accepted on its own runtime. Registered there, every read would wake that
        // thread first; so the socket moves to the runtime that polls us.
        let stream = C::rehome(stream).map_err(|source| NetworkError::Handover { source })?;
        self.prepare(&stream, lane);
        Ok(stream)
    }
}

impl<C: Cover> Network for TcpNetwork<C> {
    fn dial(
        &self,
        peer: NodeId,
        lane: Lane,
        timeout: Duration,
    ) -> BoxFuture<'_, Result<BoxStream, NetworkError>> {
        let all = timeout + self.cover.connect_timeout();
        Box::pin(async move {
            let dialed = tokio::time::timeout(all, self.dial_tcp(peer, lane, timeout)).await;
            let stream = dialed.unwrap_or(Err(NetworkError::Timeout { peer, timeout }))?;
            Ok(Box::new(stream) as BoxStream)
        })
    }

    fn accept(&self, lane: Lane) -> BoxFuture<'_, Result<Accepted, NetworkError>> {
        Box::pin(async move {
            let stream = self.accept_tcp(lane).await?;
            let certified = C::certified(&stream);
            Ok(Accepted { stream: Box::new(stream), certified })
        })
    }

    fn set_peer(&self, peer: NodeId, addr: String) {
        self.registry.set_peer(peer, addr);
    }

    fn close(&self) {
        for lane in self.listeners.keys() {
            self.acceptor.unregister(lane.group_id());
        }
    }
}

/// Dials addresses one after another and takes the first that answers. One that fails makes way
/// for the next at once; one that says nothing, after its share of the time, and goes on being
/// waited for. `None` without an address.
async fn first_of<S, E, F: Future<Output = Result<S, E>>>(
    addrs: Vec<SocketAddr>,
    timeout: Duration,
    dial: impl Fn(SocketAddr) -> F,
) -> Option<Result<S, E>> {
    let share = timeout / (addrs.len() as u32 + 1);
    let mut addrs = addrs.into_iter();
    let mut dials: Vec<Pin<Box<F>>> = Vec::new();
    let mut next = std::pin::pin!(tokio::time::sleep(Duration::ZERO));
    let mut last = None;
    poll_fn(|cx| {
        loop {
            let mut failed = false;
            let mut at = 0;
            while let Some(dial) = dials.get_mut(at) {
                match dial.as_mut().poll(cx) {
                    Poll::Ready(Ok(stream)) => return Poll::Ready(Some(Ok(stream))),
                    Poll::Ready(Err(error)) => {
                        last = Some(Err(error));
                        failed = true;
                        drop(dials.remove(at));
                    }
                    Poll::Pending => at += 1,
                }
            }
            if !failed && !dials.is_empty() && next.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            match addrs.next() {
                Some(addr) => {
                    dials.push(Box::pin(dial(addr)));
                    next.as_mut().reset(Instant::now() + share);
                }
                None if dials.is_empty() => return Poll::Ready(last.take()),
                None => return Poll::Pending,
            }
        }
    })
    .await
}

/// At most four addresses: a name with more is no single node's.
async fn resolve(addr: String) -> Result<Vec<SocketAddr>, NetworkError> {
    if let Ok(addr) = addr.parse() {
        return Ok(vec![addr]);
    }
    let found = tokio::net::lookup_host(&addr).await.map(|found| found.take(4).collect());
    found.map_err(|source| NetworkError::Resolve { addr, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A name's addresses by their last number: 1 swallows packets, 2 refuses, 3 answers.
    async fn dial(addr: SocketAddr) -> Result<SocketAddr, SocketAddr> {
        match addr.port() {
            1 => std::future::pending().await,
            2 => Err(addr),
            _ => Ok(addr),
        }
    }

    fn addr(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    /// Both ends of a lane have the options of that lane, and another lane has its own.
    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn sockets_of_a_lane_have_its_options_at_both_ends() {
        use raft_mux::MuxConfig;
        use socket2::SockRef;

        let acceptor =
            MuxAcceptor::bind(SocketAddr::from(([127, 0, 0, 1], 0)), MuxConfig::default());
        let acceptor = acceptor.await.unwrap();
        let registry = crate::testing::registry(crate::testing::identity(1));
        registry.set_peer(NodeId::new(2), acceptor.local_addr().to_string());
        let lanes = [Lane::Control, Lane::Bulk];
        let slow = SocketOptions {
            nodelay: false,
            unsent_bytes_max: Some(50_000),
            ..SocketOptions::default()
        };
        let network = TcpNetwork::new(acceptor, &lanes, registry).unwrap();
        let network = network.with_socket(Lane::Bulk, slow);
        for (lane, nodelay, unsent) in
            [(Lane::Control, true, 128 << 10), (Lane::Bulk, false, 50_000)]
        {
            let dialed = network.dial_tcp(NodeId::new(2), lane, Duration::from_secs(5));
            let (dialed, accepted) = tokio::join!(dialed, network.accept_tcp(lane));
            for stream in [dialed.unwrap(), accepted.unwrap()] {
                assert_eq!(stream.nodelay().unwrap(), nodelay, "{lane}");
                assert_eq!(SockRef::from(&stream).tcp_notsent_lowat().unwrap(), unsent, "{lane}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_says_nothing_leaves_time_for_the_next() {
        let timeout = Duration::from_secs(1);
        for ports in [&[1, 3][..], &[1, 1, 1, 3], &[2, 1, 3], &[3, 1], &[1, 2, 3]] {
            let addrs = ports.iter().map(|port| addr(*port)).collect();
            let found = tokio::time::timeout(timeout, first_of(addrs, timeout, dial)).await;
            assert_eq!(found, Ok(Some(Ok(addr(3)))), "{ports:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn addresses_that_fail_cost_no_time_and_the_last_reason_is_told() {
        let started = Instant::now();
        let found = first_of(vec![addr(2), addr(2)], Duration::from_secs(1), dial).await;
        assert_eq!((found, Instant::now()), (Some(Err(addr(2))), started));
        assert_eq!(first_of(vec![], Duration::from_secs(1), dial).await, None);
    }
}
