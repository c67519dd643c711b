//! Marks of partitions: whom a leader still reaches.

use super::super::network::NodeAt;
use super::super::world::World;
use crate::sim::marks::Mark;

impl World {
    /// Links were cut.
    pub(crate) fn note_cut(&mut self) {
        for at in 0..self.nodes.len() {
            let (mut leads, mut is_alone) = (false, false);
            let node = &self.nodes[at];
            if !node.is_up() {
                continue;
            }
            for replica in node.replicas.values().filter(|r| r.core.is_leader()) {
                let membership = replica.core.membership();
                let voters = membership.incoming();
                let homes = voters.iter().filter_map(|voter| membership.member(*voter));
                let near = homes.filter(|member| self.meets(at, self.node_at(member.node)));
                leads = true;
                is_alone |= near.count() * 2 <= voters.len();
            }
            if is_alone {
                self.marks.hit(Mark::MajorityCutOff);
            }
            if leads && self.is_bridge(at) {
                self.marks.hit(Mark::BridgeLed);
            }
        }
    }

    /// Whether two nodes hear one another.
    fn meets(&self, a: NodeAt, b: NodeAt) -> bool {
        a == b || !self.network.is_cut(a, b) && !self.network.is_cut(b, a)
    }

    /// Whether this node hears and is heard by nodes that without it would be in two halves.
    pub(super) fn is_bridge(&self, at: NodeAt) -> bool {
        let near: Vec<NodeAt> =
            (0..self.nodes.len()).filter(|other| *other != at && self.meets(at, *other)).collect();
        let Some(first) = near.first() else { return false };
        // Everybody who is found from the first without passing here.
        let mut found = vec![*first];
        let mut next = 0;
        while let Some(from) = found.get(next).copied() {
            next += 1;
            let more = (0..self.nodes.len())
                .filter(|other| *other != at && !found.contains(other) && self.meets(from, *other));
            let more: Vec<NodeAt> = more.collect();
            found.extend(more);
        }
        near.iter().any(|other| !found.contains(other))
    }
}
