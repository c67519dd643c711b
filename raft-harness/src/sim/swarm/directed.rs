//! Scripts of faults that lead to races nobody would wait for.
//!
//! Each is repeated over the fault phase with other moments and nodes. They only prepare the
//! ground: whether the race happens is up to the cluster, and the marks tell whether it did.

use raft_core::{GroupId, NodeId};

mod scripts;

use super::{Choice, Family, Swarm};
use crate::sim::rng::{Rng, Streams};
use crate::sim::schedule::{Fault, FaultKind, NodeSet, Shape, Stop, Target};

/// How long before the end of a standing partition writes begin that must get through.
pub(in crate::sim) const STANDING_US: u64 = 6_000_000;

/// How far clocks run apart where a script is about that.
const DRIFT_PPM: i32 = 100_000;

/// Which race.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Directed {
    /// Leaders crash with entries on a minority and come back to lead again (paper, figure 8).
    FigureEight,
    /// Two operators change the membership while leadership is contested.
    TwoOperators,
    /// A leader stands still for longer than an election takes, returns, and is asked at once.
    PauseThenRead,
    /// The request to campaign arrives after its transfer was given up.
    LateTimeoutNow,
    /// A leader is cut off with entries only it has, and returns with them.
    UncommittedTail,
    /// A quorum restarts again and again, with votes and acknowledgements under way.
    RestartStorm,
    /// A candidate crashes between asking for votes and winning; grants outlive its restart.
    VotesOutliveRestart,
    /// A follower far behind gets a snapshot while the leader changes and the log is cut again.
    SnapshotRace,
    /// A leader is removed while its last entries are on their way.
    RemoveLeader,
    /// A damaged or wiped replica comes back while a leader is elected.
    LostPromises,
    /// A leader cut off goes on appending, and returns to a snapshot that knows better.
    ConflictingSnapshot,
    /// The only voter that keeps a leader's lease alive restarts and is asked for its vote.
    RestartedVoter,
    /// A leader is gone just after its group fell asleep.
    SleepThenCrash,
    /// A member loses its promises while its leader sleeps and stands still, and so hears nothing
    /// of it.
    LostAmongSleepers,
    /// A snapshot is on its way, and what was sent before it arrives.
    OvertakenSnapshot,
    /// A second hand-over ends while the request of the first one is under way.
    TwoTransfers,
    /// A partition that never heals, and nothing else: whoever reaches a majority must lead.
    StandingPartition,
    /// A leader whose clock runs slow is cut off from voters whose clocks run fast.
    DriftingLease,
    /// Some see the removal of a voter that never gets committed, and the voter stands for
    /// election meanwhile.
    RolledBackRemoval,
    /// Nodes are asked to stop, one or several at once, under load.
    StopsInOrder,
}

impl Directed {
    /// All of them.
    pub const ALL: [Self; 20] = [
        Self::FigureEight,
        Self::TwoOperators,
        Self::PauseThenRead,
        Self::LateTimeoutNow,
        Self::UncommittedTail,
        Self::RestartStorm,
        Self::VotesOutliveRestart,
        Self::SnapshotRace,
        Self::RemoveLeader,
        Self::LostPromises,
        Self::ConflictingSnapshot,
        Self::RestartedVoter,
        Self::SleepThenCrash,
        Self::LostAmongSleepers,
        Self::OvertakenSnapshot,
        Self::TwoTransfers,
        Self::StandingPartition,
        Self::DriftingLease,
        Self::RolledBackRemoval,
        Self::StopsInOrder,
    ];

    /// What it leads to nothing without.
    pub(super) fn prepare(self, swarm: &mut Swarm) {
        let knobs = &mut swarm.knobs;
        match self {
            Self::PauseThenRead
            | Self::LateTimeoutNow
            | Self::RestartedVoter
            | Self::TwoTransfers => {
                knobs.leases = Choice::On;
                swarm.workload.mix.lease_read += 20;
            }
            Self::SleepThenCrash => {
                knobs.leases = Choice::On;
                knobs.priorities = Choice::Off;
                // Nobody wakes the group before its leader is gone.
                knobs.quiesce_ms = knobs.election_min_ms;
                knobs.operator_us = 0;
                swarm.groups = 1;
                swarm.workload.clients = 1;
                swarm.workload.think_us = 2_000_000;
            }
            Self::LostAmongSleepers => {
                Self::LostPromises.prepare(swarm);
                let knobs = &mut swarm.knobs;
                knobs.quiesce_ms = knobs.election_min_ms;
                knobs.operator_us = 0;
                swarm.groups = 1;
                swarm.nodes = swarm.nodes.max(3);
                swarm.voters = swarm.voters.clamp(3, swarm.nodes);
                swarm.workload.clients = 1;
                swarm.workload.think_us = 2_000_000;
            }
            // Promises are lost only where all act under one membership.
            Self::LostPromises => {
                knobs.changes = Choice::Off;
                swarm.troubles.retain(|trouble| trouble.family != Family::Membership);
            }
            Self::OvertakenSnapshot => {
                // Nobody else's entries tell what is committed.
                knobs.operator_us = 0;
                swarm.workload.clients = 1;
                swarm.workload.think_us = 2_000_000;
            }
            Self::StandingPartition => {
                swarm.troubles.clear();
                swarm.nodes = if swarm.nodes < 5 { 3 } else { 5 };
                swarm.voters = swarm.nodes;
                swarm.groups = swarm.groups.min(4);
                knobs.operator_us = 0;
            }
            Self::DriftingLease => {
                knobs.leases = Choice::On;
                knobs.drift_ppm = DRIFT_PPM as u64;
                knobs.lease_drift_ppm = DRIFT_PPM as u64;
            }
            Self::RolledBackRemoval => {
                // Of fewer voters two would be a quorum of what is left, and it would be committed.
                swarm.nodes = swarm.nodes.max(5);
                swarm.voters = 5;
                swarm.groups = swarm.groups.min(4);
            }
            Self::StopsInOrder => {
                // State machines that lag behind, and no lack of work.
                knobs.apply_max = knobs.apply_max.min(3);
                swarm.nodes = swarm.nodes.max(3);
                swarm.voters = swarm.voters.clamp(3, swarm.nodes);
            }
            Self::FigureEight
            | Self::TwoOperators
            | Self::UncommittedTail
            | Self::RestartStorm
            | Self::VotesOutliveRestart
            | Self::SnapshotRace
            | Self::RemoveLeader
            | Self::ConflictingSnapshot => {}
        }
    }

    /// Adds its faults, over the whole fault phase.
    pub(super) fn append(
        self,
        streams: Streams,
        swarm: &Swarm,
        rng: &mut Rng,
        faults: &mut Vec<Fault>,
    ) {
        if self == Self::StandingPartition {
            standing_partition(swarm, rng, faults);
            return;
        }
        let election_us = swarm.knobs.election_min_ms * 1000;
        // Time to elect a leader and to commit something between two attempts.
        let round_us = 12 * election_us;
        let mut start_us = 3 * election_us;
        while start_us + round_us <= swarm.faults_us {
            let group = swarm.some_group(rng);
            let mut nodes = swarm.placement(streams, group);
            let all = (1..=swarm.nodes).map(NodeId::new);
            let spare = all.filter(|node| !nodes.contains(node)).max();
            let spare = spare.unwrap_or_else(|| NodeId::new(swarm.nodes));
            rng.shuffle(&mut nodes);
            let mut script = Script { group, nodes, start_us, election_us, spare, rng, faults };
            script.play(self);
            start_us += round_us + rng.below(round_us);
        }
    }
}

/// From the first moment to the last, with writes to every group at the end.
fn standing_partition(swarm: &Swarm, rng: &mut Rng, faults: &mut Vec<Fault>) {
    let mut order: Vec<NodeId> = (1..=swarm.nodes).map(NodeId::new).collect();
    rng.shuffle(&mut order);
    let fit = |shape: &&Shape| shape.allows_progress(order.len());
    let shapes: Vec<Shape> = Shape::ALL.iter().filter(fit).copied().collect();
    let shape = rng.pick(&shapes).copied().unwrap_or(Shape::Star);
    let kind = FaultKind::Partition { shape, order };
    faults.push(Fault { at_us: 0, lasts_us: swarm.faults_us, kind });
    for group in 1..=swarm.groups as u32 {
        for seconds in 1..STANDING_US / 1_000_000 {
            let at_us = swarm.faults_us.saturating_sub(seconds * 1_000_000 - rng.below(500_000));
            let (group, entries) = (GroupId::new(group), 2);
            faults.push(Fault { at_us, lasts_us: 0, kind: FaultKind::Burst { group, entries } });
        }
    }
}

struct Script<'a> {
    group: GroupId,
    /// The nodes of its voters in random order; at least one.
    nodes: Vec<NodeId>,
    start_us: u64,
    election_us: u64,
    /// A node without a voter of the group, if there is any.
    spare: NodeId,
    rng: &'a mut Rng,
    faults: &'a mut Vec<Fault>,
}

impl Script<'_> {
    fn play(&mut self, directed: Directed) {
        match directed {
            Directed::FigureEight => self.figure_eight(),
            Directed::TwoOperators => self.two_operators(),
            Directed::PauseThenRead => self.pause_then_read(),
            Directed::LateTimeoutNow => self.late_timeout_now(),
            Directed::UncommittedTail => self.uncommitted_tail(),
            Directed::RestartStorm => self.restart_storm(),
            Directed::VotesOutliveRestart => self.votes_outlive_restart(),
            Directed::SnapshotRace => self.snapshot_race(),
            Directed::RemoveLeader => self.remove_leader(),
            Directed::LostPromises => self.lost_promises(),
            Directed::ConflictingSnapshot => self.conflicting_snapshot(),
            Directed::RestartedVoter => self.restarted_voter(),
            Directed::SleepThenCrash => self.sleep_then_crash(),
            Directed::LostAmongSleepers => self.lost_among_sleepers(),
            Directed::OvertakenSnapshot => self.overtaken_snapshot(),
            Directed::TwoTransfers => self.two_transfers(),
            Directed::StandingPartition => {}
            Directed::DriftingLease => self.drifting_lease(),
            Directed::RolledBackRemoval => self.rolled_back_removal(),
            Directed::StopsInOrder => self.stops_in_order(),
        }
    }

    /// So many percent of an election timeout after the start of the round.
    fn at(&mut self, percent: u64, lasts_percent: u64, kind: FaultKind) {
        // Never quite the same moment.
        let jitter = self.rng.below(self.election_us / 10 + 1);
        let at_us = self.start_us + self.election_us * percent / 100 + jitter;
        let lasts_us = self.election_us * lasts_percent / 100;
        self.faults.push(Fault { at_us, lasts_us, kind });
    }

    fn crash(&mut self, node: Target, after_effects: u32) -> FaultKind {
        let stop = if self.rng.chance(1, 2) { Stop::Power } else { Stop::Process };
        FaultKind::Crash { node, after_effects, stop }
    }

    fn leader(&self) -> Target {
        Target::Leader(self.group)
    }

    fn node(&self, at: usize) -> NodeId {
        self.nodes[at % self.nodes.len()]
    }

    fn all(&self) -> NodeSet {
        self.nodes.iter().copied().collect()
    }

    fn burst(&mut self, percent: u64, entries_max: u64) {
        let entries = 1 + self.rng.below(entries_max) as u32;
        self.at(percent, 0, FaultKind::Burst { group: self.group, entries });
    }

    fn campaign(&mut self, percent: u64, node: NodeId) {
        let kind = FaultKind::CampaignNow { group: self.group, node: Target::Node(node) };
        self.at(percent, 0, kind);
    }
}
