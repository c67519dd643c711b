//! Scripts of faults that lead to races nobody would wait for.
//!
//! Each is repeated over the fault phase with other moments and nodes. They only prepare the
//! ground: whether the race happens is up to the cluster, and the marks tell whether it did.

use raft_core::{GroupId, NodeId};

use super::{Choice, Swarm};
use crate::sim::rng::{Rng, Streams};
use crate::sim::schedule::{Fault, FaultKind, MessageKind, NodeSet, Stop, Target};

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
    /// A snapshot is on its way, and what was sent before it arrives.
    OvertakenSnapshot,
    /// A second hand-over ends while the request of the first one is under way.
    TwoTransfers,
    /// A leader whose clock runs slow is cut off from voters whose clocks run fast.
    DriftingLease,
}

impl Directed {
    /// All of them.
    pub const ALL: [Self; 16] = [
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
        Self::OvertakenSnapshot,
        Self::TwoTransfers,
        Self::DriftingLease,
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
            Self::OvertakenSnapshot => {
                // Nobody else's entries tell what is committed.
                knobs.operator_us = 0;
                swarm.workload.clients = 1;
                swarm.workload.think_us = 2_000_000;
            }
            Self::DriftingLease => {
                knobs.leases = Choice::On;
                knobs.drift_ppm = DRIFT_PPM as u64;
                knobs.lease_drift_ppm = DRIFT_PPM as u64;
            }
            Self::FigureEight
            | Self::TwoOperators
            | Self::UncommittedTail
            | Self::RestartStorm
            | Self::VotesOutliveRestart
            | Self::SnapshotRace
            | Self::RemoveLeader
            | Self::LostPromises
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
            Directed::OvertakenSnapshot => self.overtaken_snapshot(),
            Directed::TwoTransfers => self.two_transfers(),
            Directed::DriftingLease => self.drifting_lease(),
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

    fn figure_eight(&mut self) {
        let (first, second) = (self.node(0), self.node(1));
        self.campaign(0, first);
        // Its entries reach few, then it is gone.
        let to = self.nodes.iter().skip(2).copied().collect();
        self.at(80, 120, FaultKind::Cut { from: NodeSet::one(first), to });
        self.burst(90, 3);
        let crash = self.crash(Target::Node(first), 0);
        self.at(150, 300, crash);
        // Another leads meanwhile, with entries nobody else has, and is gone in turn.
        self.campaign(180, second);
        self.at(240, 200, FaultKind::Isolate { node: Target::Node(second) });
        self.burst(250, 2);
        let crash = self.crash(Target::Node(second), 1);
        self.at(320, 300, crash);
        // The first returns, replicates its old entries, and may be gone before its new one is.
        self.campaign(470, first);
        let acks =
            FaultKind::Hold { message: MessageKind::AppendReply, extra_us: self.election_us / 2 };
        self.at(480, 150, acks);
        let crash = self.crash(Target::Node(first), 0);
        self.at(600, 200, crash);
        self.campaign(640, second);
    }

    fn two_operators(&mut self) {
        let (group, spare) = (self.group, self.spare);
        let removed = Target::Node(self.node(0));
        self.at(0, 0, FaultKind::AddLearner { group, node: spare });
        let cut = self.rng.below(150);
        self.at(100, 150, FaultKind::Isolate { node: self.leader() });
        self.at(100 + cut, 0, FaultKind::Remove { group, node: removed });
        self.campaign(140, self.node(1));
        self.at(240, 0, FaultKind::Promote { group, node: spare });
        self.at(245, 0, FaultKind::Remove { group, node: Target::Node(self.node(2)) });
        let crash = self.crash(self.leader(), 2);
        self.at(250, 300, crash);
        let old = Target::Node(self.node(3));
        self.at(420, 0, FaultKind::Replace { group, old, new: self.node(0) });
        self.campaign(425, self.node(0));
        self.at(700, 0, FaultKind::AddLearner { group, node: self.node(0) });
        self.at(900, 0, FaultKind::Promote { group, node: self.node(0) });
    }

    fn pause_then_read(&mut self) {
        let (group, leader) = (self.group, self.leader());
        let node = self.node(0);
        self.at(0, 0, FaultKind::Transfer { group, to: node });
        let lasts = 250 + self.rng.below(250);
        if self.nodes.len() > 3 {
            // One follower goes with it, and will confirm whatever it is asked.
            let own: NodeSet = self.nodes.iter().take(2).copied().collect();
            let rest: NodeSet = self.nodes.iter().skip(2).copied().collect();
            self.at(150, lasts + 150, FaultKind::Cut { from: own, to: rest });
            self.at(150, lasts + 150, FaultKind::Cut { from: rest, to: own });
        }
        self.at(190, lasts, FaultKind::Pause { node: Target::Node(node) });
        // Somebody else commits meanwhile, and who was paused finds questions when it is back.
        for moment in [320, 350, 380] {
            self.campaign(moment, self.node(2));
        }
        self.burst(150 + lasts, 3);
        self.burst(160 + lasts, 3);
        for moment in [170, 174, 178, 200, 205] {
            let moment = moment + lasts;
            self.at(moment, 0, FaultKind::ReadAt { group, node: Target::Node(node) });
        }
        self.at(205 + lasts, 0, FaultKind::ReadAt { group, node: leader });
    }

    fn late_timeout_now(&mut self) {
        let group = self.group;
        let extra_us = self.election_us + self.rng.below(3 * self.election_us);
        self.at(0, 200, FaultKind::Hold { message: MessageKind::TimeoutNow, extra_us });
        self.at(20, 0, FaultKind::Transfer { group, to: self.node(0) });
        self.burst(30, 3);
        self.at(150, 0, FaultKind::ReadAt { group, node: self.leader() });
        self.burst(250, 3);
        for moment in (200..500).step_by(50) {
            self.at(moment, 0, FaultKind::ReadAt { group, node: self.leader() });
        }
    }

    fn uncommitted_tail(&mut self) {
        let node = self.node(0);
        self.at(0, 0, FaultKind::Transfer { group: self.group, to: node });
        let lasts = 200 + self.rng.below(400);
        let from = NodeSet::one(node);
        let to = self.all().without(node);
        // It still hears the others, or does not.
        self.at(150, lasts, FaultKind::Cut { from, to });
        if self.rng.chance(1, 2) {
            self.at(150, lasts, FaultKind::Cut { from: to, to: from });
        }
        self.burst(160, 5);
        self.burst(170, 5);
        self.burst(150 + lasts / 2, 4);
        match self.rng.below(5) {
            0 | 1 => {
                let crash = self.crash(Target::Node(node), 1);
                self.at(140 + lasts, 50, crash);
            }
            // It is back just as the others have lost their leader, and stands with its tail.
            3 => {
                let crash = self.crash(self.leader(), 0);
                self.at(150 + lasts, 150, crash);
                for moment in [170, 190, 260] {
                    self.campaign(moment + lasts, node);
                }
            }
            // Its tail is truncated the moment it is back, and the disk never hears of it.
            2 => {
                self.at(140 + lasts, 45, FaultKind::DiskStall { node: Target::Node(node) });
                let crash = FaultKind::Crash {
                    node: Target::Node(node),
                    after_effects: 0,
                    stop: Stop::Power,
                };
                self.at(165 + lasts, 50, crash);
            }
            _ => {}
        }
        self.at(160 + lasts, 0, FaultKind::ReadAt { group: self.group, node: Target::Node(node) });
    }

    fn restart_storm(&mut self) {
        let quorum: NodeSet = self.nodes.iter().take(self.nodes.len() / 2 + 1).copied().collect();
        let rounds = 2 + self.rng.below(4) as u32;
        self.burst(0, 5);
        self.at(10, 300, FaultKind::RestartStorm { nodes: quorum, stop: Stop::Power, rounds });
        let hold = FaultKind::Hold { message: MessageKind::VoteReply, extra_us: self.election_us };
        self.at(10, 300, hold);
        let (nodes, stop) = (self.all(), Stop::Process);
        self.at(350, 100, FaultKind::RestartStorm { nodes, stop, rounds: 1 });
        self.burst(600, 3);
    }

    fn votes_outlive_restart(&mut self) {
        let node = self.node(0);
        let extra_us = self.election_us / 4 + self.rng.below(self.election_us);
        self.at(0, 300, FaultKind::Hold { message: MessageKind::VoteReply, extra_us });
        self.at(0, 300, FaultKind::DiskSlow { node: Target::Node(node), extra_us: extra_us / 2 });
        self.campaign(10, node);
        let crash_at = 12 + self.rng.below(30);
        let after_effects = self.rng.below(3) as u32;
        let crash = self.crash(Target::Node(node), after_effects);
        self.at(crash_at, 5, crash);
        self.campaign(crash_at + 25, node);
        let crash = self.crash(Target::Node(self.node(1)), after_effects);
        self.at(crash_at + 40, 10, crash);
        self.campaign(crash_at + 60, self.node(1));
    }

    fn snapshot_race(&mut self) {
        let (group, behind) = (self.group, self.node(0));
        self.at(0, 250, FaultKind::Isolate { node: Target::Node(behind) });
        // A membership the follower will only hear of by the snapshot.
        self.at(5, 0, FaultKind::AddLearner { group, node: self.spare });
        self.at(60, 0, FaultKind::Promote { group, node: self.spare });
        self.burst(20, 40);
        self.at(150, 0, FaultKind::Snapshot { group, node: self.leader() });
        self.at(200, 0, FaultKind::Compact { group, node: self.leader() });
        let extra_us = self.rng.below(self.election_us);
        self.at(220, 300, FaultKind::Hold { message: MessageKind::Snapshot, extra_us });
        self.burst(280, 20);
        match self.rng.below(3) {
            0 => {
                let crash = self.crash(self.leader(), 0);
                self.at(300, 100, crash);
            }
            1 => {
                // It takes its time to install, and is gone meanwhile.
                let extra_us = self.election_us;
                self.at(250, 200, FaultKind::DiskSlow { node: Target::Node(behind), extra_us });
                let crash = self.crash(Target::Node(behind), 0);
                let moment = 300 + self.rng.below(100);
                self.at(moment, 20, crash);
            }
            _ => self.at(300, 0, FaultKind::Transfer { group, to: self.node(1) }),
        }
        self.at(320, 0, FaultKind::AddLearner { group, node: self.spare });
        self.at(400, 0, FaultKind::Snapshot { group, node: self.leader() });
        self.at(420, 0, FaultKind::Compact { group, node: self.leader() });
    }

    fn remove_leader(&mut self) {
        let group = self.group;
        self.burst(0, 5);
        let extra_us = self.rng.below(self.election_us);
        self.at(0, 200, FaultKind::Hold { message: MessageKind::AppendReply, extra_us });
        self.at(10, 0, FaultKind::Remove { group, node: self.leader() });
        self.burst(12, 5);
        if self.rng.chance(1, 2) {
            let crash = self.crash(self.leader(), 1);
            self.at(60, 100, crash);
        }
        self.at(300, 0, FaultKind::AddLearner { group, node: self.spare });
        self.at(600, 0, FaultKind::Promote { group, node: self.spare });
    }

    /// What a quorum has acknowledged is lost by one of it, which hears of its leader and of
    /// nothing else; then it is asked for its vote by somebody who never had it.
    fn lost_promises(&mut self) {
        let group = self.group;
        let (leader, loser, other) = (self.node(0), self.node(1), self.node(2));
        self.at(0, 0, FaultKind::Transfer { group, to: leader });
        self.at(120, 300, FaultKind::Isolate { node: Target::Node(other) });
        self.burst(140, 6);
        if self.rng.chance(1, 6) {
            self.at(180, 20, FaultKind::Wipe { node: loser });
        } else {
            self.at(180, 10, FaultKind::Damage { node: Target::Node(loser), group });
        }
        let extra_us = self.election_us * 2;
        self.at(185, 200, FaultKind::Hold { message: MessageKind::Append, extra_us });
        if self.rng.chance(1, 2) {
            // What it asked in one life is answered in the next.
            let extra_us = self.election_us / 2;
            self.at(185, 60, FaultKind::Hold { message: MessageKind::Snapshot, extra_us });
            let crash = self.crash(Target::Node(loser), 0);
            self.at(230, 5, crash);
        }
        let crash = self.crash(Target::Node(leader), 0);
        let crash_at = 240 + self.rng.below(60);
        self.at(crash_at, 500, crash);
        for moment in (400..700).step_by(60) {
            self.campaign(moment, other);
        }
    }

    fn conflicting_snapshot(&mut self) {
        let (group, old) = (self.group, self.node(0));
        self.at(0, 0, FaultKind::Transfer { group, to: old });
        self.at(120, 500, FaultKind::Isolate { node: Target::Node(old) });
        if self.rng.chance(2, 3) {
            // Its tail is still on its way to the disk when the snapshot comes.
            let extra_us = self.election_us * 8;
            self.at(132, 60, FaultKind::DiskSlow { node: Target::Node(old), extra_us });
        }
        // A tail that nobody else has, longer than what the others will have committed by then.
        let entries = 20 + self.rng.below(20) as u32;
        self.at(145, 0, FaultKind::Burst { group, entries });
        self.campaign(250, self.node(1));
        self.burst(380, 4);
        self.at(480, 0, FaultKind::Snapshot { group, node: self.leader() });
        self.at(520, 0, FaultKind::Compact { group, node: self.leader() });
        self.at(560, 0, FaultKind::Compact { group, node: self.leader() });
        self.burst(700, 4);
    }

    fn restarted_voter(&mut self) {
        let (group, leader) = (self.group, self.node(0));
        self.at(0, 0, FaultKind::Transfer { group, to: leader });
        // All but one lose sight of the leader and stand for election, again and again.
        let (one, others): (NodeSet, NodeSet) =
            (NodeSet::one(leader), self.nodes.iter().skip(2).copied().collect());
        self.at(120, 500, FaultKind::Cut { from: one, to: others });
        self.at(120, 500, FaultKind::Cut { from: others, to: one });
        for moment in (240..600).step_by(40) {
            let crash = self.crash(Target::Node(self.node(1)), 0);
            self.at(moment, 2, crash);
            self.campaign(moment + 3, self.node(2));
            self.campaign(moment + 8, self.node(2));
            self.at(moment + 10, 0, FaultKind::ReadAt { group, node: Target::Node(leader) });
        }
    }

    /// It sleeps an election timeout after it has done something; heard of it was a moment before.
    fn sleep_then_crash(&mut self) {
        let leader = self.node(0);
        self.at(0, 0, FaultKind::Transfer { group: self.group, to: leader });
        self.burst(150, 2);
        let moment = 255 + self.rng.below(40);
        let crash = FaultKind::Crash { node: self.leader(), after_effects: 0, stop: Stop::Process };
        self.at(moment, 300, crash);
    }

    /// The way to a follower is slow for a while, and so are the other disks, so that appends do
    /// not tell that what they bring is committed. An append that comes after overtakes them and
    /// shows the follower to be far behind; they arrive while it fetches the snapshot, and the
    /// leader does not hear of it.
    fn overtaken_snapshot(&mut self) {
        let (group, leader, follower) = (self.group, self.node(0), self.node(1));
        self.at(0, 0, FaultKind::Transfer { group, to: leader });
        let (from, to) = (NodeSet::one(leader), NodeSet::one(follower));
        let share = self.election_us / 100;
        let extra_us = share * (70 + self.rng.below(16));
        self.at(80, 48, FaultKind::LinkSlow { from, to, extra_us });
        for node in self.nodes.clone() {
            if node != follower {
                let node = Target::Node(node);
                self.at(80, 60, FaultKind::DiskSlow { node, extra_us: share * 14 });
            }
        }
        for moment in [95, 100, 105, 110] {
            self.burst(moment, 5);
        }
        self.at(118, 0, FaultKind::Snapshot { group, node: self.leader() });
        self.at(130, 0, FaultKind::Compact { group, node: self.leader() });
        self.at(136, 0, FaultKind::Compact { group, node: self.leader() });
        self.burst(148, 2);
        let message = MessageKind::Heartbeat;
        self.at(140, 110, FaultKind::Hold { message, extra_us: share * 80 });
        let message = MessageKind::Append;
        self.at(160, 80, FaultKind::Hold { message, extra_us: share * 60 });
        self.at(160, 60, FaultKind::Cut { from: to, to: from });
    }

    /// Nothing is committed from the end of the first one on, and the leader is cut off at the end
    /// of the second, just before the request of the first is obeyed.
    fn two_transfers(&mut self) {
        let (group, leader, to) = (self.group, self.node(0), self.node(1));
        let share = self.election_us / 100;
        self.at(0, 0, FaultKind::Transfer { group, to: leader });
        let (message, extra_us) = (MessageKind::TimeoutNow, share * (260 + self.rng.below(50)));
        self.at(98, 290, FaultKind::Hold { message, extra_us });
        self.at(110, 0, FaultKind::Transfer { group, to });
        let message = MessageKind::Append;
        self.at(190, 165, FaultKind::Hold { message, extra_us: share * 250 });
        self.at(235, 0, FaultKind::Transfer { group, to });
        self.at(340, 130, FaultKind::Isolate { node: Target::Node(leader) });
        for moment in (360..460).step_by(10) {
            self.at(moment, 0, FaultKind::ReadAt { group, node: Target::Node(leader) });
        }
    }

    fn drifting_lease(&mut self) {
        let (group, leader) = (self.group, self.node(0));
        for node in self.nodes.clone() {
            let ppm = if node == leader { -DRIFT_PPM } else { DRIFT_PPM };
            self.at(0, 300, FaultKind::ClockDrift { node, ppm });
        }
        self.at(0, 0, FaultKind::Transfer { group, to: leader });
        self.burst(120, 3);
        self.at(150, 200, FaultKind::Isolate { node: Target::Node(leader) });
        for moment in (200..280).step_by(4) {
            let candidate = self.rng.below(2) as usize + 1;
            self.campaign(moment, self.node(candidate));
        }
    }
}
