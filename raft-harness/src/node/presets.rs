//! Settings that go together, under a name: what a cluster is for, and what lies between its nodes.
//!
//! Both are where to start, not what to end with: change what differs afterwards. They touch
//! different settings, so it does not matter which of the two is applied first.

use std::fmt;
use std::time::Duration;

use raft_transport::LONG_MESSAGES_MAX;

use super::options::NodeOptions;
use crate::persistence::{FlushPolicy, Persistence, Strategy};

/// What a cluster is for: windows, limits and what an acknowledged write has behind it.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Deployment {
    /// One node, to develop against. **Acknowledged writes can be lost when it loses power**
    /// (MemFirst, 500 entries or 50 ms); little memory for lanes.
    DevSingle,
    /// Three nodes on ordinary machines. Nothing acknowledged is lost.
    Cloud3,
    /// Five nodes for what must never be lost, on machines with memory for wide windows.
    Durable5,
}

/// What lies between the nodes: how long an answer may take, and what that means for elections.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum NetworkProfile {
    /// One building: round trips below a millisecond.
    Lan,
    /// Several sites with good lines: round trips up to 150 ms.
    WanStable,
    /// Short ways that lose packets: a repeated one takes a few hundred milliseconds.
    CloudLossy,
    /// Long ways that lose packets: round trips up to 500 ms.
    WanUnstable,
}

impl Deployment {
    /// All there are.
    pub const ALL: [Self; 3] = [Self::DevSingle, Self::Cloud3, Self::Durable5];

    /// How many voters it is meant for.
    pub const fn voters(self) -> usize {
        match self {
            Self::DevSingle => 1,
            Self::Cloud3 => 3,
            Self::Durable5 => 5,
        }
    }

    /// Sets what it has an opinion on: windows, long messages and appends under way, when a bulk
    /// lane counts as stuck, and the persistence of new groups.
    pub fn apply(self, options: &mut NodeOptions) {
        const MIB: u64 = 1 << 20;
        let seconds = Duration::from_secs;
        // Of control, data and bulk.
        let (long, windows, appends, stall) = match self {
            Self::DevSingle => ([10, 20, 2], [MIB, 2 * MIB, 8 * MIB], 128, seconds(10)),
            Self::Cloud3 => ([20, 30, 4], [2 * MIB, 4 * MIB, 32 * MIB], 256, seconds(30)),
            Self::Durable5 => ([50, 80, 8], [4 * MIB, 8 * MIB, 64 * MIB], 512, seconds(60)),
        };
        let lanes = &mut options.lanes;
        let each = [&mut lanes.control, &mut lanes.data, &mut lanes.bulk];
        for ((lane, long), window) in each.into_iter().zip(long).zip(windows) {
            lane.long_messages_max = LONG_MESSAGES_MAX.min(long);
            lane.window_bytes = window;
        }
        lanes.bulk.stall_timeout = stall;
        options.settings.inflight_appends_max = appends;
        options.persistence = match self {
            Self::DevSingle => Persistence {
                strategy: Strategy::MemFirst,
                flush: FlushPolicy::Batch { threshold: 500, interval: Duration::from_millis(50) },
            },
            Self::Cloud3 | Self::Durable5 => {
                Persistence { strategy: Strategy::DiskFirst, ..options.persistence }
            }
        };
    }
}

impl NetworkProfile {
    /// All there are.
    pub const ALL: [Self; 4] = [Self::Lan, Self::WanStable, Self::CloudLossy, Self::WanUnstable];

    /// Sets what it has an opinion on, for all lanes: how long connecting and the handshake may
    /// take, keepalives of the lane and of the kernel, and the largest frame; and the times of
    /// heartbeats and elections, which have to follow: an election timeout is at least ten round
    /// trips.
    pub fn apply(self, options: &mut NodeOptions) {
        let ms = Duration::from_millis;
        let seconds = Duration::from_secs;
        let (connect, request) = match self {
            Self::Lan => (ms(100), ms(300)),
            Self::WanStable => (ms(500), ms(1000)),
            Self::CloudLossy => (ms(1000), ms(5000)),
            Self::WanUnstable => (ms(3000), ms(10_000)),
        };
        let (interval, timeout, kernel) = match self {
            Self::Lan => (seconds(10), seconds(5), seconds(60)),
            Self::WanStable => (seconds(15), seconds(8), seconds(60)),
            Self::CloudLossy => (seconds(20), seconds(10), seconds(60)),
            Self::WanUnstable => (seconds(30), seconds(15), seconds(120)),
        };
        let frame_bytes_max = match self {
            Self::Lan | Self::WanStable => 16 << 20,
            Self::CloudLossy | Self::WanUnstable => 32 << 20,
        };
        let lanes = &mut options.lanes;
        for lane in [&mut lanes.control, &mut lanes.data, &mut lanes.bulk] {
            lane.connect_timeout = connect;
            lane.handshake_timeout = request;
            lane.keepalive_interval = interval;
            lane.keepalive_timeout = timeout;
            lane.frame_bytes_max = frame_bytes_max;
            lane.socket.keepalive = Some(kernel);
        }
        let (heartbeat, election) = match self {
            Self::Lan => (ms(100), ms(500)),
            Self::WanStable => (ms(300), ms(1500)),
            Self::CloudLossy => (ms(400), ms(2000)),
            Self::WanUnstable => (ms(1000), ms(5000)),
        };
        let settings = &mut options.settings;
        settings.heartbeat_interval = heartbeat;
        settings.election_timeout_min = election;
        settings.election_timeout_max = election * 2;
        settings.disk_stall_max = settings.disk_stall_max.max(settings.election_timeout_max);
        options.command_bytes_max =
            options.command_bytes_max.min(options.lanes.command_bytes_max());
    }
}

impl fmt::Display for Deployment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::DevSingle => "dev-single",
            Self::Cloud3 => "cloud-3",
            Self::Durable5 => "durable-5",
        })
    }
}

impl fmt::Display for NetworkProfile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Lan => "lan",
            Self::WanStable => "wan-stable",
            Self::CloudLossy => "cloud-lossy",
            Self::WanUnstable => "wan-unstable",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(options: &NodeOptions) -> String {
        let NodeOptions { settings, lanes, persistence, command_bytes_max, .. } = options;
        format!("{settings:?} {lanes:?} {persistence:?} {command_bytes_max}")
    }

    #[test]
    fn deployments_and_networks_combine_in_either_order_and_a_node_accepts_them() {
        for deployment in Deployment::ALL {
            for network in NetworkProfile::ALL {
                let (mut one, mut other) = (NodeOptions::default(), NodeOptions::default());
                deployment.apply(&mut one);
                network.apply(&mut one);
                network.apply(&mut other);
                deployment.apply(&mut other);
                assert_eq!(settings(&one), settings(&other), "{deployment} over {network}");
                one.validate().unwrap_or_else(|why| panic!("{deployment} over {network}: {why}"));
            }
        }
    }

    #[test]
    fn only_the_deployment_for_development_can_lose_what_it_acknowledged() {
        for deployment in Deployment::ALL {
            let mut options = NodeOptions::default();
            deployment.apply(&mut options);
            let may_lose = options.persistence.strategy == Strategy::MemFirst;
            assert_eq!(may_lose, deployment == Deployment::DevSingle, "{deployment}");
        }
    }

    #[test]
    fn an_election_takes_longer_than_ten_round_trips_of_its_network() {
        let round_trips = [1, 150, 200, 500].map(Duration::from_millis);
        for (network, round_trip) in NetworkProfile::ALL.into_iter().zip(round_trips) {
            let mut options = NodeOptions::default();
            network.apply(&mut options);
            assert!(options.settings.election_timeout_min >= round_trip * 10, "{network}");
        }
    }
}
