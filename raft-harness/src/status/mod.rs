//! What operators see: a small HTTP port with JSON, metrics, health and one page.
//!
//! Reading order: `view` (the JSON, as written and as read back by `raftd status` and the demo),
//! `server` (routes and limits), `metrics` and `page` (two renderings), `client` (reads
//! such a port).
//!
//! Invariant: the port is for reading. It listens on loopback only, holds a bounded number of
//! connections, and no request changes anything.

mod client;
mod metrics;
mod page;
mod server;
mod view;

pub use client::{AdminClient, AdminError};
pub use server::{AdminServer, BoxFuture, StatusSource};
pub use view::{DigestView, GroupView, LaneView, PeerView, StatusView};
