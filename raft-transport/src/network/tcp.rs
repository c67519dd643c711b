//! Lanes over TCP: each lane is a group of the mux, so a node still has one port.

use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use raft_core::NodeId;
use raft_mux::{GroupListener, MuxAcceptor};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tracing::debug;

use crate::lane::Lane;
use crate::network::peer_registry::PeerRegistry;
use crate::network::socket_options::SocketOptions;
use crate::network::{BoxFuture, BoxStream, Network, NetworkError};

/// The TCP network of one node. Addresses of peers are those of its [`PeerRegistry`], either
/// `ip:port` or `name:port`; names are resolved with each dial.
pub struct TcpNetwork {
    listeners: BTreeMap<Lane, GroupListener>,
    acceptor: MuxAcceptor,
    registry: PeerRegistry,
    sockets: BTreeMap<Lane, SocketOptions>,
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
        let listeners = lanes
            .iter()
            .map(|&lane| Ok((lane, acceptor.register(lane.group_id())?)))
            .collect::<Result<_, NetworkError>>()?;
        Ok(Self { listeners, acceptor, registry, sockets: BTreeMap::new() })
    }

    /// How the sockets of a lane behave, dialed and accepted ones; not said, as is the default.
    #[must_use]
    pub fn with_socket(mut self, lane: Lane, options: SocketOptions) -> Self {
        self.sockets.insert(lane, options);
        self
    }

    /// Sets the options of a lane's socket. One that refuses is used all the same: the first read
    /// or write tells what is wrong with it.
    fn prepare(&self, stream: &TcpStream, lane: Lane) {
        let applied = match self.sockets.get(&lane) {
            Some(options) => options.apply(stream),
            None => SocketOptions::default().apply(stream),
        };
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
    ) -> Result<TcpStream, NetworkError> {
        let addr = self.registry.addr(peer).ok_or(NetworkError::UnknownPeer { peer })?;
        let group = self.lane_at(peer, lane).group_id();
        let addrs = resolve(addr).await?;
        let dial = |addr| raft_mux::dial(addr, group, timeout);
        match first_of(addrs, timeout, dial).await {
            Some(Ok(stream)) => {
                self.prepare(&stream, lane);
                Ok(stream)
            }
            Some(Err(error)) => Err(error.into()),
            None => Err(NetworkError::UnknownPeer { peer }),
        }
    }
}

impl TcpNetwork {
    async fn accept_tcp(&self, lane: Lane) -> Result<TcpStream, NetworkError> {
        let listener = self.listeners.get(&lane).ok_or(NetworkError::NotServed { lane })?;
        let (stream, _peer) = listener.accept().await?;
        // The mux accepted on its own runtime. Registered there, every read would wake that
        // thread first; so the socket moves to the runtime that polls us.
        let moved = stream.into_std().and_then(TcpStream::from_std);
        let stream = moved.map_err(|source| NetworkError::Handover { source })?;
        self.prepare(&stream, lane);
        Ok(stream)
    }
}

impl Network for TcpNetwork {
    fn dial(
        &self,
        peer: NodeId,
        lane: Lane,
        timeout: Duration,
    ) -> BoxFuture<'_, Result<BoxStream, NetworkError>> {
        Box::pin(async move {
            let dialed = tokio::time::timeout(timeout, self.dial_tcp(peer, lane, timeout)).await;
            let stream = dialed.unwrap_or(Err(NetworkError::Timeout { peer, timeout }))?;
            Ok(Box::new(stream) as BoxStream)
        })
    }

    fn accept(&self, lane: Lane) -> BoxFuture<'_, Result<BoxStream, NetworkError>> {
        Box::pin(async move { Ok(Box::new(self.accept_tcp(lane).await?) as BoxStream) })
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
