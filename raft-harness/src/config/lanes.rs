//! One `[network.*]` section: only what is set, so that a section filled in part keeps the
//! lane's own defaults.

use std::ops::RangeInclusive;
use std::time::Duration;

use raft_transport::{LONG_MESSAGES_MAX, LaneConfig, LaneLayout, LanePolicy, SocketOptions};
use serde::{Deserialize, Serialize};

use super::check::Check;
use super::file::{NetworkSection, RaftSection, milliseconds};
use super::problem::Rule;
use crate::node::LaneConfigs;

/// One read of a socket: less could not hold a message.
const SIZE_MIN: u64 = 64 << 10;
/// What a frame needs beside the payload of its entries.
const FRAME_OVERHEAD: u64 = 64 << 10;
/// More could not be meant.
const SIZE_MAX: u64 = 1 << 30;
const LONG_RANGE: RangeInclusive<u64> = 1..=LONG_MESSAGES_MAX as u64;
const BUFFER_RANGE: RangeInclusive<u64> = 4 << 10..=SIZE_MAX;
const TIME_RANGE_MS: RangeInclusive<u64> = 1000..=3_600_000;

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct LaneSection {
    pub(super) connect_timeout_ms: Option<u64>,
    pub(super) handshake_timeout_ms: Option<u64>,
    pub(super) window_bytes: Option<u64>,
    pub(super) frame_bytes_max: Option<u64>,
    pub(super) backoff_min_ms: Option<u64>,
    pub(super) backoff_max_ms: Option<u64>,
    pub(super) keepalive_interval_ms: Option<u64>,
    pub(super) keepalive_timeout_ms: Option<u64>,
    pub(super) stall_timeout_ms: Option<u64>,
    pub(super) write_buffer_max: Option<u64>,
    pub(super) chunk_bytes: Option<u64>,
    pub(super) long_messages_max: Option<u64>,
    pub(super) nodelay: Option<bool>,
    pub(super) unsent_bytes_max: Option<u64>,
    pub(super) send_buffer_bytes: Option<u64>,
    pub(super) receive_buffer_bytes: Option<u64>,
    pub(super) user_timeout_ms: Option<u64>,
    pub(super) tcp_keepalive_ms: Option<u64>,
}

impl From<&LaneConfig> for LaneSection {
    /// Every key, as a file would say it.
    fn from(lane: &LaneConfig) -> Self {
        let LaneConfig {
            connect_timeout,
            handshake_timeout,
            window_bytes,
            frame_bytes_max,
            backoff_min,
            backoff_max,
            keepalive_interval,
            keepalive_timeout,
            stall_timeout,
            write_buffer_max,
            chunk_bytes,
            long_messages_max,
            // Of protocols that are not ours.
            user_body_max: _,
            ref socket,
        } = *lane;
        let SocketOptions {
            nodelay,
            unsent_bytes_max,
            send_buffer_bytes,
            receive_buffer_bytes,
            user_timeout,
            keepalive,
        } = *socket;
        let or_zero = |time: Option<Duration>| time.map_or(0, milliseconds);
        Self {
            connect_timeout_ms: Some(milliseconds(connect_timeout)),
            handshake_timeout_ms: Some(milliseconds(handshake_timeout)),
            window_bytes: Some(window_bytes),
            frame_bytes_max: Some(frame_bytes_max),
            backoff_min_ms: Some(milliseconds(backoff_min)),
            backoff_max_ms: Some(milliseconds(backoff_max)),
            keepalive_interval_ms: Some(milliseconds(keepalive_interval)),
            keepalive_timeout_ms: Some(milliseconds(keepalive_timeout)),
            stall_timeout_ms: Some(milliseconds(stall_timeout)),
            write_buffer_max: Some(write_buffer_max),
            chunk_bytes: Some(chunk_bytes),
            long_messages_max: Some(long_messages_max as u64),
            nodelay: Some(nodelay),
            unsent_bytes_max: Some(unsent_bytes_max.map_or(0, u64::from)),
            send_buffer_bytes: Some(send_buffer_bytes.unwrap_or(0) as u64),
            receive_buffer_bytes: Some(receive_buffer_bytes.unwrap_or(0) as u64),
            user_timeout_ms: Some(or_zero(user_timeout)),
            tcp_keepalive_ms: Some(or_zero(keepalive)),
        }
    }
}

impl Check<'_> {
    /// The lanes' defaults with what the file says instead.
    pub(super) fn lanes(&mut self, network: &NetworkSection, raft: &RaftSection) -> LaneConfigs {
        LaneConfigs {
            control: self.lane("control", &network.control, LaneConfig::control(), raft),
            data: self.lane("data", &network.data, LaneConfig::data(), raft),
            bulk: self.lane("bulk", &network.bulk, LaneConfig::bulk(), raft),
        }
    }

    fn lane(
        &mut self,
        name: &str,
        section: &LaneSection,
        default: LaneConfig,
        raft: &RaftSection,
    ) -> LaneConfig {
        let RaftSection { election_timeout_min_ms, append_bytes_max, .. } = *raft;
        let path = |key: &str| format!("network.{name}.{key}");
        let mut lane = default;
        let times = [
            ("connect_timeout_ms", section.connect_timeout_ms, &mut lane.connect_timeout),
            ("handshake_timeout_ms", section.handshake_timeout_ms, &mut lane.handshake_timeout),
            ("backoff_min_ms", section.backoff_min_ms, &mut lane.backoff_min),
            ("backoff_max_ms", section.backoff_max_ms, &mut lane.backoff_max),
            ("keepalive_interval_ms", section.keepalive_interval_ms, &mut lane.keepalive_interval),
            ("keepalive_timeout_ms", section.keepalive_timeout_ms, &mut lane.keepalive_timeout),
            ("stall_timeout_ms", section.stall_timeout_ms, &mut lane.stall_timeout),
        ];
        for (key, value, time) in times {
            if let Some(value) = value {
                *time = self.time(&path(key), value);
            }
        }
        let sizes = [
            ("window_bytes", section.window_bytes, &mut lane.window_bytes),
            ("frame_bytes_max", section.frame_bytes_max, &mut lane.frame_bytes_max),
            ("write_buffer_max", section.write_buffer_max, &mut lane.write_buffer_max),
        ];
        for (key, value, size) in sizes {
            if let Some(value) = value {
                *size = self.number(&path(key), value, SIZE_MIN..=SIZE_MAX);
            }
        }
        if let Some(bytes) = section.chunk_bytes {
            let bytes = self.or_none(&path("chunk_bytes"), bytes, LaneConfig::CHUNK_BYTES);
            lane.chunk_bytes = bytes.unwrap_or(0);
        }
        if let Some(count) = section.long_messages_max {
            let count = self.number(&path("long_messages_max"), count, LONG_RANGE);
            lane.long_messages_max = usize::try_from(count).unwrap_or(LONG_MESSAGES_MAX);
        }
        self.socket(&path, section, &mut lane.socket);
        if lane.backoff_max < lane.backoff_min {
            let message = format!(
                "the longest pause, {:?}, is shorter than the first, {:?}",
                lane.backoff_max, lane.backoff_min
            );
            self.report(Rule::Timing, &path("backoff_max_ms"), message, None);
        } else if lane.backoff_max >= Duration::from_millis(election_timeout_min_ms) {
            let message = format!(
                "a peer that is back could wait {:?} for a connection, which is an election \
                 timeout ({election_timeout_min_ms} ms) or more",
                lane.backoff_max
            );
            let help = format!("below {election_timeout_min_ms} ms");
            self.report(Rule::Timing, &path("backoff_max_ms"), message, help);
        }
        if lane.frame_bytes_max < append_bytes_max.saturating_add(FRAME_OVERHEAD) {
            let message = format!(
                "frames of {} bytes cannot carry an append of {append_bytes_max}",
                lane.frame_bytes_max
            );
            let help = format!("at least `raft.append_bytes_max` and {FRAME_OVERHEAD} more");
            self.report(Rule::Sizes, &path("frame_bytes_max"), message, help);
        }
        lane
    }

    fn socket(
        &mut self,
        path: &impl Fn(&str) -> String,
        section: &LaneSection,
        socket: &mut SocketOptions,
    ) {
        if let Some(nodelay) = section.nodelay {
            socket.nodelay = nodelay;
        }
        if let Some(bytes) = section.unsent_bytes_max {
            let bytes = self.or_none(&path("unsent_bytes_max"), bytes, BUFFER_RANGE);
            socket.unsent_bytes_max = bytes.and_then(|bytes| u32::try_from(bytes).ok());
        }
        let buffers = [
            ("send_buffer_bytes", section.send_buffer_bytes, &mut socket.send_buffer_bytes),
            (
                "receive_buffer_bytes",
                section.receive_buffer_bytes,
                &mut socket.receive_buffer_bytes,
            ),
        ];
        for (key, value, buffer) in buffers {
            if let Some(bytes) = value {
                let bytes = self.or_none(&path(key), bytes, BUFFER_RANGE);
                *buffer = bytes.and_then(|bytes| usize::try_from(bytes).ok());
            }
        }
        let times = [
            ("user_timeout_ms", section.user_timeout_ms, &mut socket.user_timeout),
            ("tcp_keepalive_ms", section.tcp_keepalive_ms, &mut socket.keepalive),
        ];
        for (key, value, time) in times {
            if let Some(value) = value {
                let value = self.or_none(&path(key), value, TIME_RANGE_MS);
                *time = value.map(Duration::from_millis);
            }
        }
    }

    /// A number of which zero means that there is none.
    fn or_none(&mut self, path: &str, value: u64, allowed: RangeInclusive<u64>) -> Option<u64> {
        if value == 0 {
            return None;
        }
        if !allowed.contains(&value) {
            let message = format!("`{path}` is {value}");
            let help = format!("allowed: 0, or {} to {}", allowed.start(), allowed.end());
            self.report(Rule::OutOfRange, path, message, help);
        }
        Some(value)
    }

    /// Which lanes the node dials.
    pub(super) fn layout(&mut self, network: &NetworkSection) -> LaneLayout {
        let layout = LaneLayout::from(network.layout);
        if layout == LaneLayout::Single {
            let message = "one lane for everything: snapshots and large appends share the socket \
                           that votes and heartbeats need";
            let help = "for benches; \"control-data-bulk\" keeps them apart".to_owned();
            self.report(Rule::OneLane, "network.layout", message, help);
        }
        layout
    }

    /// From which size on appends travel on the bulk lane.
    pub(super) fn lane_policy(&mut self, network: &NetworkSection) -> LanePolicy {
        let path = "network.bulk_append_bytes";
        let min = self.or_none(path, network.bulk_append_bytes, 1..=SIZE_MAX);
        LanePolicy { bulk_append_min: min }
    }

    /// Room for messages that no window holds.
    pub(super) fn grants(&mut self, network: &NetworkSection) -> u64 {
        self.number("network.grant_bytes_max", network.grant_bytes_max, SIZE_MIN..=1 << 40)
    }
}
