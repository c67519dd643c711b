//! What a program that embeds the engine names, from one place: `use raft_harness::prelude::*`.
//!
//! Ids, entries and settings are `raft-core`'s, the log's options `raft-storage`'s, the port's
//! `raft-mux`'s, networks and lanes `raft-transport`'s; depending on those crates is not needed.

pub use bytes::Bytes;
pub use raft_core::{
    Entry, EntryKind, GroupId, GroupIncarnation, Lease, LogIndex, LogTime, Member, MemberChange,
    Membership, NodeId, ReadPath, ReplicaId, Settings, Standing, Term,
};
pub use raft_mux::MuxConfig;
pub use raft_storage::{InitOptions, LogOptions, init};
pub use raft_transport::{LaneConfig, MemoryHub, Network, NetworkError, TcpNetwork};

pub use crate::{
    ApplyMode, Bodies, CreateError, Created, Event, Events, FlushPolicy, GroupSpec, GroupStatus,
    LogKind, LogPace, NetworkOptions, NodeHost, NodeOptions, NodeStatus, PeerOptions, Persistence,
    Proposed, Removal, RequestError, RestoreError, SnapshotPieces, StartError, StateMachine,
    StateMachineFactory, Strategy, Ticket,
};
