//! The settings of one lane.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::network::socket_options::SocketOptions;
use crate::wire::chunk::{CHUNK_DATA_MAX, STREAMS_MAX};

/// Streams of a connection less one, which is for a message that the window does not hold.
pub const LONG_MESSAGES_MAX: usize = STREAMS_MAX as usize - 1;

/// How one lane behaves. Every timeout measures progress, never the size of a message.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LaneConfig {
    /// Longest time for connecting and writing the mux prefix. Default 1 s.
    pub connect_timeout: Duration,
    /// Longest time from an open stream to the end of the handshake, on both sides. Default 1 s.
    pub handshake_timeout: Duration,
    /// Bytes a peer may send us on this lane before we have [`consumed`](crate::Lanes::consumed)
    /// any; told to it in the handshake. One frame may exceed it: the whole of a short one, a chunk
    /// of a long one. A message above a quarter of it is taken beside it, once the node has room
    /// for all of it ([`GrantPool`](crate::GrantPool)). It bounds the memory a lane can hold, and needs bandwidth
    /// times delay to keep a link busy. Default 4 MiB, control 1 MiB.
    pub window_bytes: u64,
    /// Largest frame we accept, in bytes; told to the peer, and its answer binds what we send.
    /// Default 64 MiB + 64 KiB: one entry of 64 MiB and what describes it.
    pub frame_bytes_max: u64,
    /// First pause after a failed dial; it doubles. Default 20 ms.
    pub backoff_min: Duration,
    /// Longest pause between dials. Default 400 ms: below the election timeout, or a peer that is
    /// back would be elected around.
    pub backoff_max: Duration,
    /// Send a ping after hearing nothing for so long, or hearing something and saying nothing.
    /// The latter is what a peer knows us by while a large frame of it arrives slowly, so this is
    /// to be below the sum of the peer's `keepalive_interval` and `keepalive_timeout`. Default 1 s.
    pub keepalive_interval: Duration,
    /// Close the lane if a ping that has left us brings no byte for so long. A frame may take
    /// longer to arrive, however slow the link, as long as bytes come. Default 3 s.
    pub keepalive_timeout: Duration,
    /// Close the lane if bytes are queued and for so long none could be written and none came.
    /// Default 5 s.
    pub stall_timeout: Duration,
    /// No [`budget`](crate::Lanes::budget) while so many bytes wait to be written; and, where we
    /// accepted the connection, nothing is read while so many answers wait. One frame may exceed
    /// it. Default 1 MiB.
    pub write_buffer_max: u64,
    /// Longer frames go in chunks of so many bytes, and shorter ones pass between them; within
    /// [`CHUNK_BYTES`](Self::CHUNK_BYTES), or the nearest there; zero: nothing goes in chunks, for
    /// comparison. It says what we send; what a peer sends is taken in any case.
    /// Default 32 KiB: a quarter of a millisecond at 1 Gbit/s.
    pub chunk_bytes: u64,
    /// Messages that go in chunks and share the window may be under way at once up to this number,
    /// the oldest first; the others wait here, whole. Few let the first ones end sooner; many share
    /// the lane fairly. 1 to [`LONG_MESSAGES_MAX`]; what a peer sends is taken in any case.
    /// Default 63.
    pub long_messages_max: usize,
    /// Largest body of a frame of the user's own protocol, in bytes, without what it is not asked
    /// to look at: its payloads. More is refused to its sender here; more from a peer ends the
    /// connection, so it is to be the same on all nodes. At most 4 MiB. Default 64 KiB.
    pub user_body_max: u32,
    /// What the kernel is told, if the lane is a TCP socket.
    pub socket: SocketOptions,
}

impl Default for LaneConfig {
    /// As [`LaneConfig::data`].
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(1),
            handshake_timeout: Duration::from_secs(1),
            window_bytes: 4 << 20,
            frame_bytes_max: (64 << 20) + (64 << 10),
            backoff_min: Duration::from_millis(20),
            backoff_max: Duration::from_millis(400),
            keepalive_interval: Duration::from_secs(1),
            keepalive_timeout: Duration::from_secs(3),
            stall_timeout: Duration::from_secs(5),
            write_buffer_max: 1 << 20,
            chunk_bytes: CHUNK_DATA_MAX as u64,
            long_messages_max: LONG_MESSAGES_MAX,
            user_body_max: 64 << 10,
            socket: SocketOptions::default(),
        }
    }
}

impl LaneConfig {
    /// The bytes that a chunk may carry: at least 512, so that its header, 56 bytes at most, stays
    /// within the eighth that a grant adds to its message; at most 32 KiB
    /// ([`CHUNK_DATA_MAX`](crate::CHUNK_DATA_MAX)).
    pub const CHUNK_BYTES: RangeInclusive<u64> = 512..=CHUNK_DATA_MAX as u64;

    /// The longest message that shares a window of so many bytes with others, less what its frame
    /// and chunks take beside it. A longer one waits for room of its own.
    pub const fn shared_message_max(window_bytes: u64) -> u64 {
        window_bytes / 4 - window_bytes / 64
    }

    /// The defaults of the control lane: a smaller window, as nothing on it is large.
    pub fn control() -> Self {
        Self { window_bytes: 1 << 20, ..Self::default() }
    }

    /// The defaults of a data lane.
    pub fn data() -> Self {
        Self::default()
    }

    /// The defaults of the bulk lane.
    pub fn bulk() -> Self {
        Self::default()
    }
}
