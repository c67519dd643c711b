//! The network as the lanes know it: streams, dials and accepts over the simulated wires.
//!
//! The dialer writes the mux prefix with the mux's own code; the acceptor's end reads it with the
//! mux's own decoder before a lane sees the stream. No waker is kept here: the network knows
//! which task holds which end, and the world wakes it.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use raft_core::NodeId;
use raft_transport::{Accepted, BoxFuture, BoxStream, Lane, Network, NetworkError, PeerRegistry};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::network::{ACCEPTOR, DIALER, Moved, Net, PipeId, Place, Side};
use super::tasks::{NodeTask, TaskId};

/// One life of a node on the network.
pub(super) struct SimNetwork {
    net: Net,
    place: Place,
    /// Places by node.
    places: Vec<NodeId>,
    registry: PeerRegistry,
}

impl SimNetwork {
    pub(super) fn new(net: Net, place: Place, places: Vec<NodeId>, registry: PeerRegistry) -> Self {
        Self { net, place, places, registry }
    }
}

impl Network for SimNetwork {
    fn dial(
        &self,
        peer: NodeId,
        lane: Lane,
        timeout: Duration,
    ) -> BoxFuture<'_, Result<BoxStream, NetworkError>> {
        Box::pin(async move {
            let unreachable = |source| NetworkError::Unreachable { peer, source };
            let to = self.places.iter().position(|node| *node == peer);
            let to = to.ok_or(NetworkError::UnknownPeer { peer })?;
            // As over TCP: our shards may outnumber the peer's.
            let shards = self.registry.peer_shards(peer);
            let there = shards.map_or(lane, |shards| lane.at_receiver(shards));
            let task = TaskId::of(self.place, NodeTask::of(lane));
            let timeout = u64::try_from(timeout.as_micros()).unwrap_or(u64::MAX);
            let pipe = self.net.lock().dial(self.place, task, to, there, timeout);
            let mut stream = SimStream { net: self.net.clone(), pipe, side: DIALER };
            Dialing(&mut stream).await.map_err(|kind| unreachable(kind.into()))?;
            raft_mux::write_prefix(&mut stream, there.group_id()).await.map_err(unreachable)?;
            Ok(Box::new(stream) as BoxStream)
        })
    }

    fn accept(&self, lane: Lane) -> BoxFuture<'_, Result<Accepted, NetworkError>> {
        Box::pin(async move {
            let pipe = Accepting { net: &self.net, place: self.place, lane }.await;
            let stream = SimStream { net: self.net.clone(), pipe, side: ACCEPTOR };
            Ok(Accepted::from(Box::new(stream) as BoxStream))
        })
    }

    /// The world knows where everybody is.
    fn set_peer(&self, _peer: NodeId, _addr: String) {}

    fn close(&self) {}
}

struct Dialing<'a>(&'a mut SimStream);

impl Future for Dialing<'_> {
    type Output = Result<(), io::ErrorKind>;

    fn poll(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.0.net.lock().dialed(self.0.pipe) {
            Some(result) => Poll::Ready(result),
            None => Poll::Pending,
        }
    }
}

struct Accepting<'a> {
    net: &'a Net,
    place: Place,
    lane: Lane,
}

impl Future for Accepting<'_> {
    type Output = PipeId;

    fn poll(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<PipeId> {
        self.net.lock().accept(self.place, self.lane).map_or(Poll::Pending, Poll::Ready)
    }
}

/// One end of a connection.
struct SimStream {
    net: Net,
    pipe: PipeId,
    side: Side,
}

impl SimStream {
    fn outcome(moved: Moved) -> Poll<io::Result<usize>> {
        match moved {
            Moved::Bytes(count) => Poll::Ready(Ok(count)),
            Moved::Blocked => Poll::Pending,
            Moved::Failed(kind) => Poll::Ready(Err(kind.into())),
        }
    }
}

impl AsyncRead for SimStream {
    fn poll_read(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut net = self.net.lock();
        // Nothing there is the common answer, and clearing a buffer for it would cost more.
        if let Some(moved) = net.nothing_to_read(self.pipe, self.side) {
            return Self::outcome(moved).map_ok(|_| ());
        }
        let max = buffer.remaining().min(READ_MAX);
        let moved = net.read(self.pipe, self.side, buffer.initialize_unfilled_to(max));
        Self::outcome(moved).map_ok(|count| buffer.advance(count))
    }
}

impl AsyncWrite for SimStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Self::outcome(self.net.lock().write(self.pipe, self.side, slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Drop for SimStream {
    fn drop(&mut self) {
        self.net.lock().close(self.pipe, self.side);
    }
}

/// Most bytes of one read.
const READ_MAX: usize = 64 << 10;
