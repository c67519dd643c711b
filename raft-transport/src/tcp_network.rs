//! Lanes over TCP: each lane is a group of the mux, so a node still has one port.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use raft_core::NodeId;
use raft_mux::{GroupListener, MuxAcceptor};
use tokio::net::TcpStream;

use crate::lane::Lane;
use crate::network::{BoxFuture, BoxStream, Network, NetworkError};
use crate::peer_registry::PeerRegistry;

/// The TCP network of one node. Addresses of peers are those of its [`PeerRegistry`], either
/// `ip:port` or `name:port`; names are resolved with each dial.
pub struct TcpNetwork {
    listeners: BTreeMap<Lane, GroupListener>,
    acceptor: MuxAcceptor,
    registry: PeerRegistry,
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
        Ok(Self { listeners, acceptor, registry })
    }

    /// Our shards may outnumber the peer's. Until it has told us how many it has, on any lane, we
    /// try ours; if nobody accepts that one, the dial fails and is repeated.
    fn lane_at(&self, peer: NodeId, lane: Lane) -> Lane {
        self.registry.peer_shards(peer).map_or(lane, |shards| lane.at_receiver(shards))
    }

    async fn dial_any(
        &self,
        peer: NodeId,
        lane: Lane,
        timeout: Duration,
    ) -> Result<BoxStream, NetworkError> {
        let addr = self.registry.addr(peer).ok_or(NetworkError::UnknownPeer { peer })?;
        let group = self.lane_at(peer, lane).group_id();
        let mut last = NetworkError::UnknownPeer { peer };
        for addr in resolve(addr).await? {
            match raft_mux::dial(addr, group, timeout).await {
                Ok(stream) => return Ok(Box::new(stream)),
                Err(error) => last = error.into(),
            }
        }
        Err(last)
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
            tokio::time::timeout(timeout, self.dial_any(peer, lane, timeout))
                .await
                .unwrap_or(Err(NetworkError::Timeout { peer, timeout }))
        })
    }

    fn accept(&self, lane: Lane) -> BoxFuture<'_, Result<BoxStream, NetworkError>> {
        Box::pin(async move {
            let listener = self.listeners.get(&lane).ok_or(NetworkError::NotServed { lane })?;
            let (stream, _peer) = listener.accept().await?;
            // The mux accepted on its own runtime. Registered there, every read would wake that
            // thread first; so the socket moves to the runtime that polls us.
            let moved = stream.into_std().and_then(TcpStream::from_std);
            let stream = moved.map_err(|source| NetworkError::Handover { source })?;
            Ok(Box::new(stream) as BoxStream)
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

/// At most four addresses: a name with more is no single node's.
async fn resolve(addr: String) -> Result<Vec<SocketAddr>, NetworkError> {
    if let Ok(addr) = addr.parse() {
        return Ok(vec![addr]);
    }
    let found = tokio::net::lookup_host(&addr).await.map(|found| found.take(4).collect());
    found.map_err(|source| NetworkError::Resolve { addr, source })
}
