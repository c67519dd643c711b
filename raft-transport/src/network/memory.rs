//! Lanes within one process: for tests, examples and simulators.
//!
//! Streams are in-memory pipes. A hub knows all nodes and can cut the wire between two of them.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use parking_lot::Mutex;
use raft_core::NodeId;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::sync::{Mutex as AsyncMutex, mpsc};

use crate::lane::Lane;
use crate::network::{Accepted, BoxFuture, BoxStream, Network, NetworkError};

/// Bytes each pipe holds before its writer must wait.
const PIPE_BYTES: usize = 256 << 10;

/// Streams that wait to be accepted, per lane; one more is refused.
const QUEUE_MAX: usize = 32;

/// Two nodes, the smaller first.
type Wire = (NodeId, NodeId);

/// A pipe's end; `None` once its wire was cut.
type End = Mutex<Option<DuplexStream>>;

/// Connects the nodes of one process. Cheap to clone; clones are the same hub.
#[derive(Clone, Default)]
pub struct MemoryHub {
    state: Arc<Mutex<HubState>>,
}

#[derive(Default)]
struct HubState {
    inboxes: BTreeMap<NodeId, BTreeMap<Lane, mpsc::Sender<DuplexEnd>>>,
    cut: BTreeSet<Wire>,
    streams: Vec<(Wire, Weak<End>)>,
}

impl MemoryHub {
    /// A hub without nodes.
    pub fn new() -> Self {
        Self::default()
    }

    /// A node that accepts these lanes. The same node again takes the place of the former.
    pub fn node(&self, node: NodeId, lanes: &[Lane]) -> MemoryNetwork {
        let mut senders = BTreeMap::new();
        let mut receivers = BTreeMap::new();
        for &lane in lanes {
            let (sender, receiver) = mpsc::channel(QUEUE_MAX);
            senders.insert(lane, sender);
            receivers.insert(lane, AsyncMutex::new(receiver));
        }
        self.state.lock().inboxes.insert(node, senders);
        MemoryNetwork { hub: self.clone(), node, receivers }
    }

    /// Cuts the wire between two nodes until [`heal`](Self::heal): streams break, dials are
    /// refused.
    pub fn cut(&self, a: NodeId, b: NodeId) {
        let broken: Vec<_> = {
            let mut state = self.state.lock();
            let wire = wire(a, b);
            state.cut.insert(wire);
            let streams = std::mem::take(&mut state.streams);
            let (broken, whole): (Vec<_>, Vec<_>) =
                streams.into_iter().partition(|(stream_wire, _)| *stream_wire == wire);
            state.streams = whole;
            broken.iter().filter_map(|(_, stream)| stream.upgrade()).collect()
        };
        for stream in broken {
            // Dropping one end wakes the other.
            let taken = stream.lock().take();
            drop(taken);
        }
    }

    /// Mends the wire between two nodes. What was lost stays lost.
    pub fn heal(&self, a: NodeId, b: NodeId) {
        self.state.lock().cut.remove(&wire(a, b));
    }

    fn connect(&self, from: NodeId, to: NodeId, lane: Lane) -> io::Result<DuplexEnd> {
        let mut state = self.state.lock();
        if state.cut.contains(&wire(from, to)) {
            return Err(io::ErrorKind::HostUnreachable.into());
        }
        let lanes = state.inboxes.get(&to).ok_or(io::ErrorKind::HostUnreachable)?;
        let shards = lanes.keys().filter(|lane| matches!(lane, Lane::Data { .. })).count();
        let lane = lane.at_receiver(u8::try_from(shards).unwrap_or(u8::MAX));
        let inbox = lanes.get(&lane).ok_or(io::ErrorKind::ConnectionRefused)?;
        let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
        let [ours, theirs] = [ours, theirs].map(|end| Arc::new(Mutex::new(Some(end))));
        let weak = [Arc::downgrade(&ours), Arc::downgrade(&theirs)];
        inbox.try_send(DuplexEnd(theirs)).map_err(|_| io::ErrorKind::ConnectionRefused)?;
        state.streams.retain(|(_, stream)| stream.strong_count() > 0);
        state.streams.extend(weak.map(|stream| (wire(from, to), stream)));
        Ok(DuplexEnd(ours))
    }
}

fn wire(a: NodeId, b: NodeId) -> Wire {
    (a.min(b), a.max(b))
}

/// One node of a [`MemoryHub`].
pub struct MemoryNetwork {
    hub: MemoryHub,
    node: NodeId,
    receivers: BTreeMap<Lane, AsyncMutex<mpsc::Receiver<DuplexEnd>>>,
}

impl Network for MemoryNetwork {
    fn dial(
        &self,
        peer: NodeId,
        lane: Lane,
        _timeout: Duration,
    ) -> BoxFuture<'_, Result<BoxStream, NetworkError>> {
        let connected = self.hub.connect(self.node, peer, lane);
        Box::pin(async move {
            match connected {
                Ok(stream) => Ok(Box::new(stream) as BoxStream),
                Err(source) => Err(NetworkError::Unreachable { peer, source }),
            }
        })
    }

    fn accept(&self, lane: Lane) -> BoxFuture<'_, Result<Accepted, NetworkError>> {
        Box::pin(async move {
            let receiver = self.receivers.get(&lane).ok_or(NetworkError::NotServed { lane })?;
            let stream = receiver.lock().await.recv().await.ok_or(NetworkError::Closed)?;
            Ok(Accepted::from(Box::new(stream) as BoxStream))
        })
    }

    /// The hub knows where everybody is.
    fn set_peer(&self, _peer: NodeId, _addr: String) {}

    fn close(&self) {
        // Without their senders the receivers end.
        self.hub.state.lock().inboxes.remove(&self.node);
    }
}

/// A pipe's end that the hub can take away.
struct DuplexEnd(Arc<End>);

impl DuplexEnd {
    fn with<T>(
        &self,
        work: impl FnOnce(Pin<&mut DuplexStream>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        match self.0.lock().as_mut() {
            Some(stream) => work(Pin::new(stream)),
            None => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
        }
    }
}

impl AsyncRead for DuplexEnd {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.with(|stream| stream.poll_read(cx, buffer))
    }
}

impl AsyncWrite for DuplexEnd {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.with(|stream| stream.poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.with(|stream| stream.poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|stream| stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|stream| stream.poll_shutdown(cx))
    }
}
