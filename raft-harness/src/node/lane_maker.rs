//! Makes the lanes of a thread, on that thread.

use std::sync::Arc;

use raft_transport::{
    GrantPool, Lane, LaneConfig, LaneCounters, LaneLayout, LaneWatch, Lanes, Network, PeerRegistry,
    SocketOptions,
};

use super::clock::Clock;
use super::options::LaneConfigs;

/// What all lanes of a node share.
pub(super) struct LaneMaker {
    pub(super) clock: Clock,
    pub(super) counters: Vec<(&'static str, Arc<LaneCounters>)>,
    pub(super) registry: PeerRegistry,
    pub(super) grants: GrantPool,
    pub(super) layout: LaneLayout,
    pub(super) configs: LaneConfigs,
    pub(super) watch: Option<Arc<dyn LaneWatch>>,
}

pub(super) fn lane_counters() -> Vec<(&'static str, Arc<LaneCounters>)> {
    ["control", "data", "bulk"].map(|lane| (lane, Arc::default())).into()
}

impl LaneMaker {
    /// The settings of a lane in this node's layout.
    pub(super) fn config(&self, lane: Lane) -> LaneConfig {
        self.configs.in_layout(lane, self.layout)
    }

    /// How the sockets of each lane behave.
    pub(super) fn opener(&self) -> impl Fn(Lane) -> SocketOptions + Send + use<> {
        let configs = self.configs.clone();
        move |lane| configs.of(lane).socket.clone()
    }

    /// What makes a lane. One that the layout does without only takes what peers send.
    pub(super) fn maker(
        &self,
        lane: Lane,
    ) -> impl FnOnce(Arc<dyn Network>) -> Lanes + Send + use<> {
        let (registry, grants) = (self.registry.clone(), self.grants.clone());
        let (config, dials) = (self.config(lane), self.layout.dials(lane));
        let counters = match lane {
            Lane::Control => &self.counters[0].1,
            Lane::Data { .. } => &self.counters[1].1,
            Lane::Bulk => &self.counters[2].1,
        };
        let (counters, watch) = (Arc::clone(counters), self.watch.clone());
        move |network| {
            let lanes = Lanes::new(network, registry, lane, config, counters).with_grants(grants);
            let lanes = match watch {
                Some(watch) => lanes.watched(watch),
                None => lanes,
            };
            if dials { lanes } else { lanes.accepting_only() }
        }
    }

    /// As [`maker`](Self::maker), where the network is there already.
    pub(super) fn for_lane(
        &self,
        network: &Arc<dyn Network>,
        lane: Lane,
    ) -> impl FnOnce() -> Lanes + Send + use<> {
        let (make, network) = (self.maker(lane), Arc::clone(network));
        move || make(network)
    }
}
