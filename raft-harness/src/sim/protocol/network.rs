//! Links between nodes: messages that are late, lost, repeated, out of order, or cut off.
//!
//! The model is harsher than TCP: any message may take any time, and one that is on its way
//! survives the restart of its sender and of its receiver.

use raft_core::Message;

use crate::sim::rng::{Rng, Streams};
use crate::sim::schedule::MessageKind;

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

/// What a fault does to a link.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Link {
    /// Every message takes so much longer, in microseconds.
    pub(crate) slow_us: u64,
    /// Lost, arrived twice, held back behind later ones: each out of a thousand.
    pub(crate) drop: u32,
    pub(crate) duplicate: u32,
    pub(crate) reorder: u32,
}

/// How far a message is held back that later ones are to overtake.
const REORDER_US: u64 = 200_000;

/// All links.
#[derive(Debug)]
pub(crate) struct Network {
    rng: Vec<Rng>,
    nodes: usize,
    /// Directed links that carry nothing, counted by how many faults cut them.
    cuts: Vec<u32>,
    /// What faults add to each link.
    bent: Vec<Link>,
    /// How much longer messages of each kind take, by the kind's number.
    held_us: [u64; MessageKind::COUNT],
    pub(crate) weather: Weather,
}

impl Network {
    pub(crate) fn new(streams: Streams, nodes: usize, weather: Weather) -> Self {
        let rng = (0..nodes * nodes).map(|link| streams.stream("link", &[link as u64])).collect();
        Self {
            rng,
            nodes,
            cuts: vec![0; nodes * nodes],
            bent: vec![Link::default(); nodes * nodes],
            held_us: [0; MessageKind::COUNT],
            weather,
        }
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
        self.bent.fill(Link::default());
        self.held_us.fill(0);
    }

    /// Faults on one link add up.
    pub(crate) fn bend(&mut self, from: NodeAt, to: NodeAt, by: Link) {
        let link = &mut self.bent[from * self.nodes + to];
        link.slow_us += by.slow_us;
        link.drop += by.drop;
        link.duplicate += by.duplicate;
        link.reorder += by.reorder;
    }

    pub(crate) fn straighten(&mut self, from: NodeAt, to: NodeAt, by: Link) {
        let link = &mut self.bent[from * self.nodes + to];
        link.slow_us = link.slow_us.saturating_sub(by.slow_us);
        link.drop = link.drop.saturating_sub(by.drop);
        link.duplicate = link.duplicate.saturating_sub(by.duplicate);
        link.reorder = link.reorder.saturating_sub(by.reorder);
    }

    pub(crate) fn hold(&mut self, kind: MessageKind, extra_us: u64) {
        self.held_us[kind as usize] += extra_us;
    }

    pub(crate) fn release(&mut self, kind: MessageKind, extra_us: u64) {
        let held = &mut self.held_us[kind as usize];
        *held = held.saturating_sub(extra_us);
    }

    pub(crate) fn is_cut(&self, from: NodeAt, to: NodeAt) -> bool {
        self.cuts[from * self.nodes + to] > 0
    }

    /// How long a message takes; `None`: it is lost. A second delay: it arrives twice.
    pub(crate) fn send(
        &mut self,
        from: NodeAt,
        to: NodeAt,
        message: &Message,
    ) -> (Option<u64>, Option<u64>) {
        let weather = self.weather;
        let bent = self.bent[from * self.nodes + to];
        let rng = &mut self.rng[from * self.nodes + to];
        // Every message draws the same number of times, so that a cut shifts nothing after it.
        let lost = rng.permille(weather.drop_permille + bent.drop);
        let twice = rng.permille(weather.duplicate_permille + bent.duplicate);
        let straggles = rng.permille(weather.straggle_permille);
        let jitter = rng.below(weather.jitter_us + 1);
        let late = rng.below(weather.straggle_us + 1);
        let (overtaken, by) = (rng.permille(bent.reorder), rng.below(REORDER_US));
        if lost || self.cuts[from * self.nodes + to] > 0 {
            return (None, None);
        }
        let mut delay = weather.delay_us + jitter;
        if straggles {
            delay += late;
        }
        if overtaken {
            delay += by;
        }
        delay += bent.slow_us + self.held_us[kind_of(message) as usize];
        (Some(delay), twice.then_some(delay + late + jitter))
    }
}

/// What a schedule calls a message.
const fn kind_of(message: &Message) -> MessageKind {
    match message {
        Message::PreVote(_) | Message::Vote(_) => MessageKind::Vote,
        Message::PreVoteReply(_) | Message::VoteReply(_) => MessageKind::VoteReply,
        Message::Append(_) => MessageKind::Append,
        Message::AppendReply(_) => MessageKind::AppendReply,
        Message::Heartbeat(_) | Message::ReadConfirm(_) | Message::ReadIndex(_) => {
            MessageKind::Heartbeat
        }
        Message::HeartbeatReply(_) | Message::ReadIndexReply(_) => MessageKind::HeartbeatReply,
        Message::TimeoutNow(_) | Message::TransferRefused(_) => MessageKind::TimeoutNow,
        Message::Snapshot(_) | Message::Recover(_) | Message::Fence(_) => MessageKind::Snapshot,
    }
}
