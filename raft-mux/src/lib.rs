//! Many groups behind one TCP port.
//!
//! A node with a hundred Raft groups would need a hundred ports, each to be configured, opened in
//! firewalls and known to every peer. Here it needs one: the first four bytes of a connection name
//! its group, and everything after them belongs to that group's own protocol, untouched.
//!
//! ```text
//!   dialer                                one port                     groups
//!             +----+----+----+----+---------------------
//!  dial(99) ──| 00 | 00 | 00 | 63 | the group's bytes ...  ──┬──▶ 98  GroupListener
//!             +----+----+----+----+---------------------     ├──▶ 99  GroupListener::accept()
//!              group id, unsigned,   never looked at         └──▶ ..
//!              big-endian
//! ```
//!
//! The smallest program:
//!
//! ```
//! use std::time::Duration;
//!
//! use raft_core::GroupId;
//! use raft_mux::{MuxAcceptor, MuxConfig, dial};
//! use tokio::io::{AsyncReadExt, AsyncWriteExt};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let acceptor = MuxAcceptor::bind("127.0.0.1:0".parse()?, MuxConfig::default()).await?;
//! let group = GroupId::new(99);
//! let listener = acceptor.register(group)?;
//!
//! let mut client = dial(acceptor.advertised_addr()?, group, Duration::from_secs(1)).await?;
//! client.write_all(b"hello").await?;
//!
//! let (mut stream, _peer) = listener.accept().await?;
//! let mut bytes = [0; 5];
//! stream.read_exact(&mut bytes).await?;
//! assert_eq!(&bytes, b"hello");
//!
//! acceptor.close();
//! acceptor.closed().await;
//! # Ok(())
//! # }
//! ```
//!
//! # Without the mux
//!
//! [`PortLayout::PortPerGroup`] in [`MuxConfig::layout`] gives each group a port of its own behind
//! the same seam: registering opens `base + id`, there is no prefix, and everything else, from the
//! deadline of the handshake to closing, is the same. The dialer says so too ([`PortLayout::dial`]).
//!
//! # What it promises
//!
//! - Exactly four bytes are consumed, however they arrive. There is no reply.
//! - A slow, silent or malformed dialer delays nobody: half-open connections have a deadline and a
//!   cap, queues a bound, and each limit says which connection is closed (see [`MuxConfig`]).
//! - Every connection is either handed to its group or closed and counted (see [`MuxStats`]);
//!   closing and unregistering leave none behind.
//! - What peers do wrong is logged at most once per ten seconds and kind.
//!
//! # What it does not do
//!
//! - It does not combine connections: each dial is a socket of its own. `raft-transport` builds a
//!   fixed number of lanes per peer on top.
//! - It reserves no group id, knows no protocol version, and authenticates nobody. TLS fits in
//!   front of the prefix with [`MuxAcceptor::bind_with`] and [`dial_with`].
//! - It does not track connections after the hand-off; closing the acceptor leaves them open.

mod prefix;

mod config;
mod error;
mod stats;

mod acceptor;
mod backoff;
mod dial;
mod greeting;
mod half_open;
mod handoff;
mod layout;
mod listener;
mod log_limit;
mod port_table;
mod sync;

pub use crate::acceptor::MuxAcceptor;
pub use crate::config::MuxConfig;
pub use crate::dial::{DialTimeouts, dial, dial_with};
pub use crate::error::MuxError;
pub use crate::layout::{PORT_GROUP_MAX, PortLayout};
pub use crate::listener::GroupListener;
pub use crate::prefix::{
    PREFIX_LEN, PrefixDecoder, decode_prefix, encode_prefix, read_prefix, write_prefix,
};
pub use crate::stats::MuxStats;
