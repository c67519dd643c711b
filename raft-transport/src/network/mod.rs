//! The seam below the lanes: whoever can carry bytes both ways between two nodes can carry lanes.

pub(crate) mod memory;
pub(crate) mod peer_registry;
pub(crate) mod refusal;
pub(crate) mod socket_options;
pub(crate) mod tcp;
#[cfg(feature = "tls")]
pub(crate) mod tls;

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::time::Duration;

use raft_core::NodeId;
use raft_mux::MuxError;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::lane::Lane;
use crate::network::refusal::TlsRefusal;

/// Bytes in order, both ways.
pub trait LaneStream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> LaneStream for T {}

/// Some stream.
pub type BoxStream = Box<dyn LaneStream>;

/// Some future.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Opens and accepts the streams of lanes. The suite `conformance` (behind the
/// feature of that name) says what that includes.
///
/// Both futures run where the lane's user polls them, so a stream belongs to the runtime of the
/// thread that will read it.
pub trait Network: Send + Sync + 'static {
    /// Opens a stream to a peer's lane. `timeout` covers connecting and whatever tells the peer
    /// the lane; a handshake that proves who the peer is has a time of its own.
    ///
    /// # Errors
    /// [`NetworkError`]; no socket is left behind, as when the future is dropped.
    fn dial(
        &self,
        peer: NodeId,
        lane: Lane,
        timeout: Duration,
    ) -> BoxFuture<'_, Result<BoxStream, NetworkError>>;

    /// The next stream a peer has opened to this lane. Dropping the future loses no stream.
    ///
    /// # Errors
    /// [`NetworkError::Closed`] and [`NetworkError::NotServed`] are final for this lane.
    fn accept(&self, lane: Lane) -> BoxFuture<'_, Result<Accepted, NetworkError>>;

    /// Says where a peer is. It has no effect on streams that are open.
    fn set_peer(&self, peer: NodeId, addr: String);

    /// Ends every pending and later accept. Streams handed out go on.
    fn close(&self);
}

/// A stream that a peer has opened.
#[derive(Debug)]
pub struct Accepted {
    /// The stream.
    pub stream: BoxStream,
    /// Which node it comes from, where the network has proof of that: whoever greets on it as another
    /// is refused. `None`: whoever greets is believed to be whom it says.
    pub certified: Option<NodeId>,
}

impl From<BoxStream> for Accepted {
    /// One of which nothing is proven.
    fn from(stream: BoxStream) -> Self {
        Self { stream, certified: None }
    }
}

/// Why there is no stream.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetworkError {
    /// Nobody has said where the peer is.
    #[error("no address of node {peer}")]
    UnknownPeer {
        /// The peer.
        peer: NodeId,
    },
    /// The address does not resolve.
    #[error("cannot resolve {addr:?}")]
    Resolve {
        /// The address.
        addr: String,
        /// What the system said.
        source: io::Error,
    },
    /// The peer cannot be reached, for now.
    #[error("cannot reach node {peer}")]
    Unreachable {
        /// The peer.
        peer: NodeId,
        /// What the system said.
        source: io::Error,
    },
    /// The mux failed to open or hand over a stream.
    #[error(transparent)]
    Mux(#[from] MuxError),
    /// The peer, or who answers at its address, does not come to terms with us over TLS.
    #[error("node {peer}: {refusal}")]
    Tls {
        /// The peer.
        peer: NodeId,
        /// Why not.
        refusal: TlsRefusal,
    },
    /// The dial took too long.
    #[error("no connection to node {peer} within {timeout:?}")]
    Timeout {
        /// The peer.
        peer: NodeId,
        /// The time allowed.
        timeout: Duration,
    },
    /// This node does not accept that lane.
    #[error("lane {lane} is not accepted here")]
    NotServed {
        /// The lane.
        lane: Lane,
    },
    /// An accepted stream could not be moved to the caller's runtime; later ones may be fine.
    #[error("cannot take over an accepted stream")]
    Handover {
        /// What the system said.
        source: io::Error,
    },
    /// The network is closed.
    #[error("the network is closed")]
    Closed,
}

impl NetworkError {
    /// Whether no later accept can succeed either.
    pub(crate) fn ends_accepting(&self) -> bool {
        match self {
            Self::Closed
            | Self::NotServed { .. }
            | Self::Mux(MuxError::Closed | MuxError::Unregistered { .. }) => true,
            Self::UnknownPeer { .. }
            | Self::Resolve { .. }
            | Self::Unreachable { .. }
            | Self::Mux(_)
            | Self::Tls { .. }
            | Self::Timeout { .. }
            | Self::Handover { .. } => false,
        }
    }
}

impl fmt::Debug for dyn LaneStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LaneStream")
    }
}
