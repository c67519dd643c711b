//! Partitions by shape. In all of them but the plain split somebody reaches everybody or
//! everybody reaches somebody, and that is what makes them hard: not all agree on who is there.

use raft_core::NodeId;

use super::NodeSet;

/// Who reaches whom.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Shape {
    /// The first half and the second half do not reach one another; the second has the majority.
    Split,
    /// As a split, but the node in the middle reaches all.
    Bridge,
    /// Each reaches the one before and the one after.
    Chain,
    /// A chain whose ends meet.
    Ring,
    /// All reach the first and only the first.
    Star,
}

impl Shape {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Split, Self::Bridge, Self::Chain, Self::Ring, Self::Star];

    /// Whether the nodes at these places of `count` reach one another.
    fn connects(self, a: usize, b: usize, count: usize) -> bool {
        let middle = count / 2;
        match self {
            Self::Split => (a < middle) == (b < middle),
            Self::Bridge => a == middle || b == middle || (a < middle) == (b < middle),
            Self::Chain => a.abs_diff(b) <= 1,
            Self::Ring => a.abs_diff(b) <= 1 || a.abs_diff(b) == count - 1,
            Self::Star => a == 0 || b == 0,
        }
    }

    /// The shape as one-way cuts (from, to), one for each sender that is not heard by all.
    pub fn cuts(self, order: &[NodeId]) -> Vec<(NodeSet, NodeSet)> {
        let cut_from = |a: usize| -> NodeSet {
            (0..order.len())
                .filter(|b| *b != a && !self.connects(a, *b, order.len()))
                .map(|b| order[b])
                .collect()
        };
        (0..order.len())
            .map(|a| (NodeSet::one(order[a]), cut_from(a)))
            .filter(|(_, to)| !to.is_empty())
            .collect()
    }

    /// Whether some node reaches a majority, itself included. It can lead, so a group whose voters
    /// are these nodes must make progress although the partition never heals.
    pub fn allows_progress(self, count: usize) -> bool {
        (0..count).any(|a| {
            let reached = (0..count).filter(|b| a == *b || self.connects(a, *b, count)).count();
            reached > count / 2
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut_pairs(shape: Shape, count: u64) -> Vec<(u64, u64)> {
        let order: Vec<NodeId> = (1..=count).map(NodeId::new).collect();
        let mut pairs = Vec::new();
        for (from, to) in shape.cuts(&order) {
            for (a, b) in from.iter().flat_map(|a| to.iter().map(move |b| (a.get(), b.get()))) {
                pairs.push((a, b));
            }
        }
        pairs
    }

    #[test]
    fn shapes_cut_what_they_should() {
        assert_eq!(cut_pairs(Shape::Split, 3), [(1, 2), (1, 3), (2, 1), (3, 1)]);
        assert_eq!(cut_pairs(Shape::Chain, 3), [(1, 3), (3, 1)]);
        assert_eq!(cut_pairs(Shape::Star, 3), [(2, 3), (3, 2)]);
        assert_eq!(cut_pairs(Shape::Ring, 4), [(1, 3), (2, 4), (3, 1), (4, 2)]);
        let bridge = cut_pairs(Shape::Bridge, 5);
        assert_eq!(bridge.len(), 8);
        assert!(bridge.iter().all(|(a, b)| *a != 3 && *b != 3));
    }

    #[test]
    fn every_shape_cuts_both_ways() {
        for shape in Shape::ALL {
            for count in 1..=7 {
                let pairs = cut_pairs(shape, count);
                assert!(pairs.iter().all(|(a, b)| pairs.contains(&(*b, *a))), "{shape:?} {count}");
            }
        }
    }

    #[test]
    fn progress_needs_somebody_who_reaches_a_majority() {
        for count in 1..=7 {
            assert!(Shape::Star.allows_progress(count));
            assert!(Shape::Bridge.allows_progress(count));
            // An even split leaves no majority; one node is no split at all.
            assert_eq!(Shape::Split.allows_progress(count), count % 2 == 1, "{count}");
        }
        // The middle of five reaches three; of seven, it still reaches three.
        assert!(Shape::Chain.allows_progress(5) && Shape::Ring.allows_progress(5));
        assert!(!Shape::Chain.allows_progress(7) && !Shape::Ring.allows_progress(7));
    }
}
