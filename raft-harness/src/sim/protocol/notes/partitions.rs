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

#[cfg(test)]
mod tests {
    use raft_core::NodeId;

    use super::*;
    use crate::sim::protocol::setup::Setup;
    use crate::sim::rng::Streams;
    use crate::sim::schedule::Shape;
    use crate::sim::swarm::Swarm;

    /// Who is a bridge among five nodes that are cut like this.
    fn bridges(shape: Shape) -> Vec<NodeAt> {
        let swarm = Swarm { nodes: 5, voters: 5, ..Swarm::draw(Streams::new(1)) };
        let mut world = World::new(1, Setup::of(&swarm, 0));
        let order: Vec<NodeId> = (1..=5).map(NodeId::new).collect();
        for (from, to) in shape.cuts(&order) {
            for (from, to) in from.iter().flat_map(|a| to.iter().map(move |b| (a, b))) {
                let (from, to) = (world.node_at(from), world.node_at(to));
                world.network.cut(from, to);
            }
        }
        (0..5).filter(|at| world.is_bridge(*at)).collect()
    }

    #[test]
    fn a_bridge_is_who_holds_the_rest_together() {
        assert_eq!(bridges(Shape::Bridge), [2]);
        assert_eq!(bridges(Shape::Chain), [1, 2, 3]);
        assert_eq!(bridges(Shape::Star), [0]);
        assert!(bridges(Shape::Ring).is_empty());
        assert!(bridges(Shape::Split).is_empty());
    }
}
