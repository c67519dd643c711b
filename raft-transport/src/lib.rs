//! Lanes: how nodes that share many Raft groups talk.
//!
//! Between two nodes there is a fixed number of connections, the lanes, however many groups they
//! share: control for what must never wait, data for log entries, bulk for what is large. Each
//! node dials its own outgoing lanes; answers go back on the socket their question came on.
//!
//! ```text
//!   engine ── Lanes::send ──▶ Connection ── bytes ──▶ Network: TCP, memory, ..
//!                             frames, credit,               │
//!                             keepalive: no I/O             ▼
//!   engine ◀── Lanes::poll ── Connection ◀── bytes ── the peer's Network
//!              Up, Frame, Down
//! ```
//!
//! # What it promises
//!
//! - Frames sent on one connection arrive in order, unchanged, at most once, or the connection is
//!   reported [`Down`](LaneEvent::Down).
//! - Each lane lives alone: one that dies, stalls or is full touches no other.
//! - Memory is bounded by lanes and windows, never by groups: a sender without
//!   [`budget`](Lanes::budget) keeps what it has.
//! - Bytes from a peer never panic; whoever is not the peer it should be is refused and told why.
//!
//! # What it does not do
//!
//! It compares no terms, opens no payload, repeats nothing: Raft does all of that. It never drops
//! a frame to make room for another.

mod lane;

mod wire;

mod network;

mod connection;

mod lanes;

#[cfg(feature = "conformance")]
pub mod conformance;

#[cfg(test)]
mod testing;

pub use connection::config::{LONG_MESSAGES_MAX, LaneConfig};
pub use connection::counters::{LaneCounters, LaneSnapshot};
pub use connection::grants::GrantPool;
pub use connection::replaceable::REPLACEABLE_MAX;
pub use connection::watch::{ConnectionKey, LaneWatch, Watched};
pub use connection::{
    Connection, ConnectionId, ConnectionSetup, Credit, Direction, LaneError, LaneEvent, Room,
};
pub use lane::{Lane, LaneClass, LaneLayout, LanePolicy, RESERVED_FIRST};
pub use lanes::{Lanes, PeerRefusal, RefusalReason, Refuser};
pub use network::memory::{MemoryHub, MemoryNetwork};
pub use network::peer_registry::{Identity, PeerLife, PeerRegistry, first_bits};
pub use network::refusal::TlsRefusal;
pub use network::socket_options::SocketOptions;
pub use network::tcp::{Cover, Plain, TcpNetwork};
#[cfg(feature = "tls")]
pub use network::tls::{
    CertifiedName, Tls, TlsError, TlsMaterial, TlsPeer, TlsSnapshot, TlsStream,
};
pub use network::{Accepted, BoxFuture, BoxStream, LaneStream, Network, NetworkError};
pub use wire::assembly::{Assembled, Assemblies};
pub use wire::chunk::{CHUNK_DATA_MAX, Chunk, ChunkEnd, STREAMS_MAX};
pub use wire::decode::Decoder;
pub use wire::encode::{Encoded, encode};
pub use wire::envelope::Envelope;
pub use wire::frame::{
    APPEND_ENTRIES_MAX, BATCH_BODY_MAX, BODY_BYTES_MAX, ChunkFault, Condition, Ends, FRAME_VERSION,
    Frame, FrameError, FrameKind, HEADER_LEN, HeartbeatItem, HeartbeatReplyItem, SNAPSHOT_DATA_MAX,
    SnapshotChunk, SnapshotPull,
};
pub use wire::hello::{
    HANDSHAKE_BODY_MAX, HANDSHAKE_VERSION, Handshake, HandshakeError, Hello, HelloRefusal,
    PAST_LIVES_MAX, PROTOCOL_LEN_MAX, Protocol, Welcome, decode_handshake, encode_handshake,
};
pub use wire::transmit::Transmit;
pub use wire::user::{USER_ITEM_MAX, USER_PAYLOADS_MAX, UserFrame, UserItem, UserKind};
