//! One `[network.*]` section: only what is set, so that a section filled in part keeps the
//! lane's own defaults.

use std::time::Duration;

use raft_transport::LaneConfig;
use serde::{Deserialize, Serialize};

use super::check::Check;
use super::file::{NetworkSection, RaftSection};
use super::problem::Rule;
use crate::node::LaneConfigs;

/// One read of a socket: less could not hold a message.
const SIZE_MIN: u64 = 64 << 10;
/// What a frame needs beside the payload of its entries.
const FRAME_OVERHEAD: u64 = 64 << 10;
/// More could not be meant.
const SIZE_MAX: u64 = 1 << 30;

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
}
