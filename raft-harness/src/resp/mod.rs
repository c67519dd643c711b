//! The Redis-protocol front: stock clients talk to Raft groups as if to a Redis cluster.
//!
//! Groups are ranges of hash slots. On the **cluster port** a node answers for the groups it
//! leads and says `MOVED` for the others; on the **proxy port** it takes any key and forwards to
//! the leader, for clients that know nothing of clusters.
//!
//! What a reply means: `MOVED`, `CLUSTERDOWN`, `TRYAGAIN`, `BUSY` and `ERR` promise that the
//! command had no effect. When nobody can tell whether a write happened, the cluster port closes
//! the connection and the proxy port answers `-UNKNOWN`; neither ever tries such a write again.
//! Reads are linearizable, and keys expire by log time (see [`crate::kv::machine`]).
//!
//! Reading order: [`parser`] and [`reply`] (bytes), [`commands`] (the table), [`backend`] (what
//! we ask of the engine), `request` (arguments to commands), `connection` (one client),
//! [`cluster`] (who leads what), `proxy` and `upstream` (forwarding), [`budget`] (what all clients
//! may take together), [`server`].

pub mod backend;
pub mod budget;
pub mod cluster;
pub mod commands;
pub mod node_host;
pub mod parser;
pub mod reply;
pub mod server;

mod buffer;
mod connection;
mod http;
mod info;
mod order;
mod proxy;
mod reply_parser;
mod request;
mod session;
mod upstream;

pub use backend::{Answered, Backend, BackendStats, Operation, OperationKind, Refusal};
pub use budget::ClientBudget;
pub use cluster::{FrontNode, Topology, TopologyError};
pub use node_host::NodeHostBackend;
pub use server::{Limits, Mode, RespServer, ServeError, listen};
