//! Many Raft groups on one node, with one port, one log and a constant few connections per peer.
//!
//! [`NodeHost`] is the engine to embed: give it a [`StateMachine`] and [`NodeOptions`], create
//! groups, propose and read. `raftd`, the binary, is the same engine with a key-value machine and
//! a Redis-protocol front.
//!
//! ```no_run
//! use std::sync::Arc;
//! use bytes::Bytes;
//! use raft_core::{Entry, GroupId, NodeId};
//! use raft_harness::{GroupSpec, NodeHost, NodeOptions, StateMachine};
//!
//! struct Counter(u64);
//!
//! impl StateMachine for Counter {
//!     fn apply(&mut self, entries: &[Entry], outputs: &mut Vec<Bytes>) {
//!         for _ in entries {
//!             self.0 += 1;
//!             outputs.push(Bytes::copy_from_slice(&self.0.to_le_bytes()));
//!         }
//!     }
//!     fn read(&self, _query: &[u8]) -> Bytes {
//!         Bytes::copy_from_slice(&self.0.to_le_bytes())
//!     }
//!     fn digest(&self) -> u64 {
//!         self.0
//!     }
//! }
//!
//! let factory = |_group: GroupId, _spec: &GroupSpec| -> Box<dyn StateMachine> {
//!     Box::new(Counter(0))
//! };
//! let host = NodeHost::start(NodeOptions::default(), Arc::new(factory))?;
//! host.create_group(GroupSpec::on_nodes(GroupId::new(1), [NodeId::new(1)]))?;
//! let proposed = host.propose(GroupId::new(1), Bytes::from_static(b"tick")).wait()?;
//! println!("applied at {}", proposed.index);
//! host.stop();
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Features
//!
//! - `resp`: the key-value machine and the Redis-protocol server.
//! - `status`: `NodeStatus` as JSON, and the admin HTTP port.
//! - `tls`: nodes prove who they are to one another (`NodeOptions::tls`), and nobody else reads along.
//! - `certificates`: `raftd tls init`.
//! - `sim`: the deterministic simulator's faults, checks and reports.
//! - `raft-sim`: the simulator's binary.
//! - `raftd` (default): `resp` and `status`, and the binary. Embedders say `default-features = false`.

// They panic where they cannot write; tests may. What the program says goes through `output`.
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

mod bodies;
#[cfg(any(feature = "resp", feature = "status"))]
mod complaint;
mod counters;
mod engine;
mod event;
mod group_spec;
#[cfg(any(feature = "raftd", feature = "sim"))]
mod loss;
mod node;
mod node_status;
mod persistence;
pub mod prelude;
mod request;
mod snapshot;
mod state_machine;

#[cfg(feature = "resp")]
pub mod kv;
#[cfg(feature = "resp")]
pub mod resp;

#[cfg(feature = "status")]
pub mod status;

#[cfg(feature = "sim")]
pub mod sim;

#[cfg(feature = "raftd")]
pub mod cli;
#[cfg(feature = "raftd")]
pub mod config;
#[cfg(feature = "raftd")]
mod demo;
#[cfg(any(feature = "raftd", feature = "raft-sim"))]
mod output;

pub use bodies::{Bodies, BodyLost};
pub use counters::CountersSnapshot;
pub use engine::Created;
pub use event::{Event, Events};
pub use group_spec::{GroupSpec, Origin};
pub use node::{
    CreateError, Creating, CreatingAll, Deployment, Drained, Heartbeats, LaneConfigs, LogKind,
    LogPace, NetworkOptions, NetworkProfile, NodeHost, NodeOptions, PeerOptions, StartError,
    TlsOptions, TlsProblem,
};
pub use node_status::{
    GroupStatus, LaneStatus, NodeStatus, NodeSummary, PeerStatus, Role, TlsStatus,
};
pub use persistence::{FlushPolicy, Persistence, Strategy};
pub use request::{Answer, Proposed, Removal, Reply, Request, RequestError, RequestKind, Ticket};
#[cfg(unix)]
pub use snapshot::FileStore;
pub use snapshot::{
    Compression, MemoryStore, SnapshotBytes, SnapshotName, SnapshotPart, SnapshotStore,
};
pub use state_machine::{
    ApplyMode, RestoreError, SnapshotPieces, StateMachine, StateMachineFactory,
};
