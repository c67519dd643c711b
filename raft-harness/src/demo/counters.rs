//! Counters of all nodes over all their lives: a process that is killed takes its counters along,
//! so the last ones seen of each life are kept.

use std::collections::BTreeMap;

use crate::status::StatusView;

/// The last counters seen of each life of each node.
#[derive(Clone, Debug, Default)]
pub(super) struct Lives(BTreeMap<(u64, u64), StatusView>);

impl Lives {
    pub(super) fn note(&mut self, statuses: &[StatusView]) {
        for status in statuses {
            // Groups are many and not needed here.
            let mut status = status.clone();
            status.groups.clear();
            self.0.insert((status.node, status.incarnation), status);
        }
    }

    /// The sum of a counter over all lives.
    pub(super) fn total(&self, name: &str) -> u64 {
        self.0.values().map(|status| status.counter(name)).sum()
    }
}

/// Connections between two nodes, counted once: each is dialed by one of them.
pub(super) fn connections_per_pair(statuses: &[StatusView]) -> Option<f64> {
    let nodes = statuses.len() as f64;
    let open: u64 = statuses.iter().map(|status| status.lane_total("connections_out_open")).sum();
    (nodes > 1.0).then(|| open as f64 / (nodes * (nodes - 1.0) / 2.0))
}

/// Heartbeat frames that the busiest node sent to each peer per second, between two looks.
pub(super) fn heartbeat_frames_per_second(
    before: &[StatusView],
    after: &[StatusView],
    seconds: f64,
) -> Option<f64> {
    let peers = after.len().checked_sub(1).filter(|peers| *peers > 0)? as f64;
    let rates = after.iter().filter_map(|after| {
        let before = before
            .iter()
            .find(|before| (before.node, before.incarnation) == (after.node, after.incarnation))?;
        let name = "heartbeat_frames_out";
        let frames = after.lane_total(name).saturating_sub(before.lane_total(name));
        Some(frames as f64 / peers / seconds)
    });
    rates.max_by(f64::total_cmp)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::LaneView;

    fn status(node: u64, incarnation: u64, fsyncs: u64, lane: (&str, u64)) -> StatusView {
        StatusView {
            node,
            incarnation,
            counters: [("fsyncs".to_owned(), fsyncs)].into(),
            lanes: vec![LaneView {
                lane: "control".to_owned(),
                counters: [(lane.0.to_owned(), lane.1)].into(),
            }],
            ..StatusView::default()
        }
    }

    #[test]
    fn a_killed_process_keeps_its_counters() {
        let mut lives = Lives::default();
        let none = ("", 0);
        lives.note(&[status(1, 1, 5, none), status(2, 1, 7, none)]);
        lives.note(&[status(1, 1, 6, none)]);
        lives.note(&[status(1, 2, 1, none)]);
        assert_eq!(lives.total("fsyncs"), 6 + 7 + 1);
    }

    #[test]
    fn rates_are_per_peer_and_per_second() {
        let frames =
            |count| [1, 2, 3].map(|node| status(node, 1, 0, ("heartbeat_frames_out", count)));
        assert_eq!(heartbeat_frames_per_second(&frames(100), &frames(140), 2.0), Some(10.0));
        assert_eq!(heartbeat_frames_per_second(&frames(1)[..1], &frames(1)[..1], 2.0), None);
        let open = [1, 2, 3].map(|node| status(node, 1, 0, ("connections_out_open", 6)));
        assert_eq!(connections_per_pair(&open), Some(6.0));
    }
}
