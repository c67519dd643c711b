//! Lanes between nodes, as the engine's drivers see them: each is a connection with two ordered
//! directions, a window, and an end at which everything in flight is lost.

use std::collections::BTreeMap;

use raft_core::{Micros, NodeId};
use raft_transport::{ConnectionId, Direction};

use crate::engine::SendLane;

/// A lane that `from` dials.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct LinkId {
    pub(super) from: NodeId,
    pub(super) to: NodeId,
    pub(super) bulk: bool,
}

impl LinkId {
    pub(super) fn lane(self) -> SendLane {
        if self.bulk { SendLane::Bulk } else { SendLane::Data }
    }
}

/// One life of a link.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Wire {
    pub(super) link: LinkId,
    pub(super) generation: u64,
}

#[derive(Debug, Default)]
pub(super) struct Link {
    pub(super) up: bool,
    pub(super) generation: u64,
    /// Bytes sent for which credit has not come back.
    pub(super) in_flight: u64,
    /// When the newest frame of each direction arrives: the next one comes later.
    pub(super) arrives: [Micros; 2],
}

#[derive(Debug, Default)]
pub(super) struct Network {
    links: BTreeMap<LinkId, Link>,
    connections: BTreeMap<ConnectionId, Wire>,
    ids: u64,
}

impl Network {
    pub(super) fn new(nodes: &[NodeId]) -> Self {
        let mut network = Self::default();
        for &from in nodes {
            for &to in nodes.iter().filter(|to| **to != from) {
                for bulk in [false, true] {
                    network.links.insert(LinkId { from, to, bulk }, Link::default());
                }
            }
        }
        network
    }

    pub(super) fn link(&mut self, id: LinkId) -> &mut Link {
        self.links.get_mut(&id).expect("there is a link between any two nodes")
    }

    pub(super) fn links(&self) -> Vec<LinkId> {
        self.links.keys().copied().collect()
    }

    pub(super) fn is_live(&self, wire: Wire) -> bool {
        let link = &self.links[&wire.link];
        link.up && link.generation == wire.generation
    }

    /// The wire to send on now, if there is one.
    pub(super) fn wire(&self, link: LinkId) -> Option<Wire> {
        let Link { up, generation, .. } = self.links[&link];
        up.then_some(Wire { link, generation })
    }

    /// Names the receiving end of a wire, for the route of an answer.
    pub(super) fn connection(&mut self, wire: Wire) -> ConnectionId {
        let known = self.connections.iter().find(|(_, known)| **known == wire);
        if let Some((id, _)) = known {
            return *id;
        }
        self.ids += 1;
        let id = ConnectionId::new(self.ids, Direction::Incoming);
        self.connections.insert(id, wire);
        id
    }

    pub(super) fn wire_of(&self, connection: ConnectionId) -> Wire {
        self.connections[&connection]
    }
}
