//! What can go wrong, and whose fault it is.
//!
//! Nothing a peer sends appears here: a connection with a bad prefix is closed and counted in
//! [`MuxStats`](crate::MuxStats), because no caller of ours is waiting for it.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use raft_core::GroupId;

/// Why a call on the mux failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MuxError {
    /// A limit in [`MuxConfig`](crate::MuxConfig) is zero, so that no connection could ever pass.
    #[error("{field} must be at least 1")]
    ZeroLimit {
        /// The name of the field.
        field: &'static str,
    },
    /// The listener could not be opened. With one port no group on this node can be reached; with
    /// a port per group this one cannot, and its id is free.
    #[error("cannot listen on {addr}")]
    Bind {
        /// The address asked for.
        addr: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The address is a wildcard such as `0.0.0.0`, which leads a peer to itself, not to us.
    /// Configure [`advertise`](crate::MuxConfig::advertise) with an address peers can dial.
    #[error("{addr} is a wildcard address, peers cannot dial it")]
    WildcardAddress {
        /// The address that must not be given to peers.
        addr: SocketAddr,
    },
    /// Without the mux each group has the port `base + id`, and this id has none: they go from 0
    /// to [`PORT_GROUP_MAX`](crate::PORT_GROUP_MAX).
    #[error("group {group} has no port of its own: without the mux ids go from 0 to 255")]
    GroupWithoutPort {
        /// The group asked for.
        group: GroupId,
    },
    /// Without the mux a node needs the 256 ports from its base on, and here some would be missing.
    #[error("{addr} leaves groups without a port: without the mux the base is from 1 to 65280")]
    PortBase {
        /// The base address.
        addr: SocketAddr,
    },
    /// The group has a listener already; that one goes on undisturbed.
    #[error("group {group} is already registered")]
    AlreadyRegistered {
        /// The group that was to be registered.
        group: GroupId,
    },
    /// The group's listener was unregistered. Register again for a new one.
    #[error("group {group} is no longer registered")]
    Unregistered {
        /// The group whose listener is gone.
        group: GroupId,
    },
    /// The acceptor is closed for good, or its runtime has ended.
    #[error("the acceptor is closed")]
    Closed,
    /// Connecting, its handshake or writing the prefix failed. The socket is closed.
    #[error("cannot reach group {group} at {addr}")]
    Dial {
        /// The address dialed.
        addr: SocketAddr,
        /// The group dialed.
        group: GroupId,
        /// What the system or the handshake said.
        source: io::Error,
    },
    /// Connecting, its handshake and writing the prefix together took too long. The socket is
    /// closed. Worth a retry: the peer may be slow, gone or unreachable.
    #[error("no connection to group {group} at {addr} within {timeout:?}")]
    DialTimeout {
        /// The address dialed.
        addr: SocketAddr,
        /// The group dialed.
        group: GroupId,
        /// The time allowed.
        timeout: Duration,
    },
}
