//! From a swarm to a schedule: for each family, faults at random moments of the fault phase.

use raft_core::NodeId;

use super::{Family, Swarm, Trouble};
use crate::sim::rng::{Rng, Streams};
use crate::sim::schedule::{Fault, FaultKind, MessageKind, NodeSet, Schedule, Shape, Stop, Target};

/// The faults of this swarm. A family's faults depend on the seed, the family and the size of the
/// cluster alone.
pub fn generate(streams: Streams, swarm: &Swarm) -> Schedule {
    let mut faults = Vec::new();
    let draw = Draw { swarm };
    for trouble in &swarm.troubles {
        let mut rng = streams.stream("faults", &[trouble.family as u64]);
        draw.family(*trouble, &mut rng, &mut faults);
    }
    if let Some(directed) = swarm.directed {
        let mut rng = streams.stream("directed-faults", &[directed as u64]);
        directed.append(streams, swarm, &mut rng, &mut faults);
    }
    for fault in &mut faults {
        fault.at_us = fault.at_us.min(swarm.faults_us);
        fault.lasts_us = fault.lasts_us.min(swarm.faults_us - fault.at_us);
    }
    Schedule::new(faults)
}

struct Draw<'a> {
    swarm: &'a Swarm,
}

impl Draw<'_> {
    fn family(&self, trouble: Trouble, rng: &mut Rng, faults: &mut Vec<Fault>) {
        let minutes_us = u64::from(trouble.per_minute) * self.swarm.faults_us;
        // The fraction of a fault that is left over happens with its probability.
        let count =
            minutes_us / MINUTE_US + u64::from(rng.chance(minutes_us % MINUTE_US, MINUTE_US));
        for _ in 0..count {
            let at_us = rng.below(self.swarm.faults_us.max(1));
            // Mostly a few elections long, or from a blink to half of the phase.
            let lasts_us = if rng.chance(1, 2) {
                50_000 + rng.below(4_000_000)
            } else {
                1000 + rng.skewed(self.swarm.faults_us / 2)
            };
            if let Some(kind) = self.kind(trouble.family, rng) {
                let lasts_us = if lasts(&kind) { lasts_us } else { 0 };
                faults.push(Fault { at_us, lasts_us, kind });
            }
        }
    }

    fn kind(&self, family: Family, rng: &mut Rng) -> Option<FaultKind> {
        let swarm = self.swarm;
        Some(match family {
            Family::Cuts => FaultKind::Cut { from: self.some(rng), to: self.some(rng) },
            Family::Isolation => FaultKind::Isolate { node: self.target(rng) },
            Family::Shapes => {
                let mut order: Vec<NodeId> = self.all().collect();
                rng.shuffle(&mut order);
                FaultKind::Partition { shape: *rng.pick(&Shape::ALL)?, order }
            }
            Family::Slow => FaultKind::LinkSlow {
                from: self.some(rng),
                to: self.some(rng),
                extra_us: 100 + rng.skewed(2_000_000),
            },
            Family::Lossy => FaultKind::LinkLossy {
                from: self.some(rng),
                to: self.some(rng),
                drop: rng.skewed(500) as u32,
                duplicate: rng.skewed(500) as u32,
                reorder: rng.skewed(500) as u32,
            },
            Family::Holds => FaultKind::Hold {
                message: *rng.pick(&MESSAGES)?,
                extra_us: 1000 + rng.skewed(5_000_000),
            },
            Family::Crashes => FaultKind::Crash {
                node: self.target(rng),
                after_effects: if rng.chance(1, 2) { 0 } else { 1 + rng.below(12) as u32 },
                stop: stop(rng),
            },
            Family::Storms => FaultKind::RestartStorm {
                nodes: if rng.chance(1, 2) { self.all().collect() } else { self.some(rng) },
                stop: stop(rng),
                rounds: 1 + rng.below(4) as u32,
            },
            Family::Wipes => FaultKind::Wipe { node: self.node(rng) },
            Family::Pauses => FaultKind::Pause { node: self.target(rng) },
            Family::Clocks => match rng.below(3) {
                0 => FaultKind::ClockJump {
                    node: self.target(rng),
                    by_us: 1000 + rng.skewed(5_000_000),
                },
                1 => FaultKind::WallJump {
                    node: self.target(rng),
                    by_ms: rng.skewed(3_600_000) as i64 * if rng.chance(1, 2) { 1 } else { -1 },
                },
                _ => FaultKind::ClockDrift {
                    node: self.node(rng),
                    // Within what leases allow for.
                    ppm: rng.range(0..=2 * swarm.knobs.drift_ppm) as i32
                        - swarm.knobs.drift_ppm as i32,
                },
            },
            Family::SlowDisks => {
                if rng.chance(1, 2) {
                    FaultKind::DiskStall { node: self.target(rng) }
                } else {
                    let extra_us = 1000 + rng.skewed(1_000_000);
                    FaultKind::DiskSlow { node: self.target(rng), extra_us }
                }
            }
            Family::FullDisks => FaultKind::DiskFull { node: self.target(rng) },
            Family::FailedSyncs => FaultKind::FsyncFail { node: self.target(rng) },
            Family::Damage => {
                FaultKind::Damage { node: self.target(rng), group: swarm.some_group(rng) }
            }
            Family::Membership => self.membership(rng),
            Family::Leadership => {
                let group = swarm.some_group(rng);
                if rng.chance(2, 3) {
                    FaultKind::Transfer { group, to: self.node(rng) }
                } else {
                    FaultKind::CampaignNow { group, node: Target::Node(self.node(rng)) }
                }
            }
            Family::Stops => {
                let patience_us = 10_000 + rng.skewed(3_000_000);
                FaultKind::StopNode { node: self.target(rng), patience_us }
            }
            Family::Snapshots => {
                let (group, node) = (swarm.some_group(rng), self.target(rng));
                match rng.below(3) {
                    0 => FaultKind::Snapshot { group, node },
                    1 => FaultKind::Compact { group, node },
                    _ => FaultKind::Burst { group, entries: 1 + rng.skewed(300) as u32 },
                }
            }
        })
    }

    fn membership(&self, rng: &mut Rng) -> FaultKind {
        let group = self.swarm.some_group(rng);
        let target =
            if rng.chance(1, 3) { Target::Leader(group) } else { Target::Node(self.node(rng)) };
        match rng.below(5) {
            0 | 1 => FaultKind::AddLearner { group, node: self.node(rng) },
            2 => FaultKind::Promote { group, node: self.node(rng) },
            3 => FaultKind::Remove { group, node: target },
            _ => FaultKind::Replace { group, old: target, new: self.node(rng) },
        }
    }

    fn all(&self) -> impl Iterator<Item = NodeId> {
        (1..=self.swarm.nodes).map(NodeId::new)
    }

    fn node(&self, rng: &mut Rng) -> NodeId {
        NodeId::new(1 + rng.below(self.swarm.nodes))
    }

    /// A leader half of the time: that is where it hurts.
    fn target(&self, rng: &mut Rng) -> Target {
        if rng.chance(1, 2) {
            Target::Leader(self.swarm.some_group(rng))
        } else {
            Target::Node(self.node(rng))
        }
    }

    /// At least one node.
    fn some(&self, rng: &mut Rng) -> NodeSet {
        let one = self.node(rng);
        self.all().filter(|node| *node == one || rng.chance(1, 3)).collect()
    }
}

const MINUTE_US: u64 = 60_000_000;

const MESSAGES: [MessageKind; 8] = [
    MessageKind::Vote,
    MessageKind::VoteReply,
    MessageKind::Append,
    MessageKind::AppendReply,
    MessageKind::Heartbeat,
    MessageKind::HeartbeatReply,
    MessageKind::TimeoutNow,
    MessageKind::Snapshot,
];

fn stop(rng: &mut Rng) -> Stop {
    if rng.chance(1, 2) { Stop::Power } else { Stop::Process }
}

/// Whether the fault has an end of its own.
const fn lasts(kind: &FaultKind) -> bool {
    match kind {
        FaultKind::Cut { .. }
        | FaultKind::Isolate { .. }
        | FaultKind::Partition { .. }
        | FaultKind::LinkSlow { .. }
        | FaultKind::LinkLossy { .. }
        | FaultKind::Hold { .. }
        | FaultKind::Crash { .. }
        | FaultKind::StopNode { .. }
        | FaultKind::RestartStorm { .. }
        | FaultKind::Wipe { .. }
        | FaultKind::Pause { .. }
        | FaultKind::ClockDrift { .. }
        | FaultKind::DiskStall { .. }
        | FaultKind::DiskSlow { .. }
        | FaultKind::DiskFull { .. }
        | FaultKind::FsyncFail { .. }
        | FaultKind::Damage { .. } => true,
        FaultKind::ClockJump { .. }
        | FaultKind::WallJump { .. }
        | FaultKind::AddLearner { .. }
        | FaultKind::Promote { .. }
        | FaultKind::Remove { .. }
        | FaultKind::Replace { .. }
        | FaultKind::Transfer { .. }
        | FaultKind::Snapshot { .. }
        | FaultKind::Compact { .. }
        | FaultKind::CampaignNow { .. }
        | FaultKind::Burst { .. }
        | FaultKind::Planned { .. }
        | FaultKind::ReadAt { .. } => false,
    }
}
