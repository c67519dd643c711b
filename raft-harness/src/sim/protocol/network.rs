//! Links between nodes: messages that are late, lost, repeated, out of order, or cut off.
//!
//! The model is harsher than TCP: any message may take any time, and one that is on its way
//! survives the restart of its sender and of its receiver.

use std::collections::BTreeSet;

use crate::sim::rng::{Rng, Streams};

/// Where a node stands in the world's table.
pub(crate) type NodeAt = usize;

/// How links behave.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weather {
    /// The least time on the way, in microseconds.
    pub(crate) delay_us: u64,
    /// Up to so much more.
    pub(crate) jitter_us: u64,
    pub(crate) drop_permille: u32,
    pub(crate) duplicate_permille: u32,
    /// So many are held back for long.
    pub(crate) straggle_permille: u32,
    pub(crate) straggle_us: u64,
}

impl Weather {
    /// A quiet local network.
    pub(crate) const CALM: Self = Self {
        delay_us: 500,
        jitter_us: 500,
        drop_permille: 0,
        duplicate_permille: 0,
        straggle_permille: 0,
        straggle_us: 0,
    };
}

/// All links.
#[derive(Debug)]
pub(crate) struct Network {
    rng: Vec<Rng>,
    nodes: usize,
    /// Directed links that carry nothing, counted by how many faults cut them.
    cuts: Vec<u32>,
    slow: BTreeSet<(NodeAt, NodeAt)>,
    pub(crate) weather: Weather,
}

impl Network {
    pub(crate) fn new(streams: Streams, nodes: usize, weather: Weather) -> Self {
        let rng = (0..nodes * nodes).map(|link| streams.stream("link", &[link as u64])).collect();
        Self { rng, nodes, cuts: vec![0; nodes * nodes], slow: BTreeSet::new(), weather }
    }

    pub(crate) fn cut(&mut self, from: NodeAt, to: NodeAt) {
        self.cuts[from * self.nodes + to] += 1;
    }

    pub(crate) fn mend(&mut self, from: NodeAt, to: NodeAt) {
        let cut = &mut self.cuts[from * self.nodes + to];
        *cut = cut.saturating_sub(1);
    }

    pub(crate) fn mend_all(&mut self) {
        self.cuts.fill(0);
        self.slow.clear();
    }

    pub(crate) fn slow(&mut self, from: NodeAt, to: NodeAt, slow: bool) {
        if slow {
            self.slow.insert((from, to));
        } else {
            self.slow.remove(&(from, to));
        }
    }

    pub(crate) fn is_cut(&self, from: NodeAt, to: NodeAt) -> bool {
        self.cuts[from * self.nodes + to] > 0
    }

    /// How long a message takes; `None`: it is lost. A second delay: it arrives twice.
    pub(crate) fn send(&mut self, from: NodeAt, to: NodeAt) -> (Option<u64>, Option<u64>) {
        let weather = self.weather;
        let rng = &mut self.rng[from * self.nodes + to];
        // Every message draws the same number of times, so that a cut shifts nothing after it.
        let lost = rng.permille(weather.drop_permille);
        let twice = rng.permille(weather.duplicate_permille);
        let straggles = rng.permille(weather.straggle_permille);
        let jitter = rng.below(weather.jitter_us + 1);
        let late = rng.below(weather.straggle_us + 1);
        if lost || self.cuts[from * self.nodes + to] > 0 {
            return (None, None);
        }
        let mut delay = weather.delay_us + jitter;
        if straggles {
            delay += late;
        }
        if self.slow.contains(&(from, to)) {
            delay *= 40;
        }
        (Some(delay), twice.then_some(delay + late + jitter))
    }
}
