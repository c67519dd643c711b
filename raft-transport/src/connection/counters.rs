//! What happened on the lanes, for metrics and for tests that count writes.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// Counters of one or more lanes. Any thread may read them at any time.
        #[derive(Debug, Default)]
        pub struct LaneCounters {
            $(pub(crate) $name: Counter,)*
        }

        /// The counters at one moment; all but the two `_open` ones only grow.
        #[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
        pub struct LaneSnapshot {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl LaneCounters {
            /// The values now. Each is exact; together they may be of slightly different moments.
            pub fn snapshot(&self) -> LaneSnapshot {
                LaneSnapshot { $($name: self.$name.get(),)* }
            }
        }

        impl LaneSnapshot {
            /// Every counter with its name, for exporters.
            pub fn named(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name),)*]
            }
        }
    };
}

counters! {
    /// Outgoing connections past their handshake, now.
    connections_out_open,
    /// Accepted connections past their handshake, now.
    connections_in_open,
    /// Dials begun.
    dials,
    /// Dials and outgoing handshakes that failed, refusals included.
    dial_failures,
    /// Outgoing handshakes that succeeded for a peer that had one before.
    reconnects,
    /// Hellos we refused.
    refused,
    /// Of them, those by somebody whose certificate is another node's.
    refused_other_certificate,
    /// Our Hellos that were refused, and acceptors we did not take.
    refused_by_peer,
    /// Connections accepted, before their handshake.
    accepted,
    /// Connections given up because too many were in their handshake.
    handshakes_dropped,
    /// Connections closed because a newer one, or a newer life of the peer, took their place.
    fenced,
    /// Connections closed by a keepalive timeout.
    keepalive_timeouts,
    /// Connections closed because nothing could be written.
    stalls,
    /// Bytes read.
    bytes_in,
    /// Bytes written.
    bytes_out,
    /// Frames delivered; credits, pings and pongs are not among them.
    frames_in,
    /// Frames queued; credits, pings and pongs are not among them.
    frames_out,
    /// Heartbeat batches delivered.
    heartbeat_frames_in,
    /// Heartbeat batches queued.
    heartbeat_frames_out,
    /// Read confirmation batches delivered.
    read_confirm_frames_in,
    /// Read confirmation batches queued.
    read_confirm_frames_out,
    /// Batches of answers delivered.
    heartbeat_reply_frames_in,
    /// Batches of answers queued.
    heartbeat_reply_frames_out,
    /// Pieces of long frames received.
    chunks_in,
    /// Pieces of long frames queued.
    chunks_out,
    /// Long frames given up before they were through.
    frames_abandoned,
    /// Messages above a quarter of the window that were given room.
    grants_out,
    /// Credit frames sent.
    credits_out,
    /// Frames not taken because the peer's window or the write buffer was full.
    credit_stalls,
    /// Frames that waited and were replaced by a newer one.
    frames_replaced,
    /// Frames not taken because they could not be encoded: our own mistake.
    unsendable,
    /// System calls that wrote something.
    writes,
    /// System calls that read something.
    reads,
    /// Pings sent.
    pings_out,
    /// The newest round trip of a ping, in microseconds.
    round_trip_us,
}

#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn bump(&self) {
        self.add(1);
    }

    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn sub(&self, count: u64) {
        self.0.fetch_sub(count, Ordering::Relaxed);
    }

    pub(crate) fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
