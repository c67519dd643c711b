//! The sequences themselves, in percent of an election timeout after the start of a round.

use super::{DRIFT_PPM, Script};
use crate::sim::schedule::{FaultKind, MessageKind, NodeSet, Stop, Target};

impl Script<'_> {
    pub(super) fn figure_eight(&mut self) {
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

    pub(super) fn two_operators(&mut self) {
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

    pub(super) fn pause_then_read(&mut self) {
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

    pub(super) fn late_timeout_now(&mut self) {
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

    pub(super) fn uncommitted_tail(&mut self) {
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

    pub(super) fn restart_storm(&mut self) {
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

    pub(super) fn votes_outlive_restart(&mut self) {
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

    pub(super) fn snapshot_race(&mut self) {
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

    pub(super) fn remove_leader(&mut self) {
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

    /// A leader with one follower is cut off and removes a voter among the others, which stands
    /// for election: first before those others, then, as the leader is gone and the follower back,
    /// before that one as well, whose log is longer and whose newest membership is without it.
    pub(super) fn rolled_back_removal(&mut self) {
        let group = self.group;
        let (leader, witness, gone) = (self.node(0), self.node(1), self.node(2));
        self.at(0, 0, FaultKind::Transfer { group, to: leader });
        let lasts = 80 + self.rng.below(150);
        let few: NodeSet = [leader, witness].into_iter().collect();
        let rest = self.all().without(leader).without(witness);
        self.at(150, lasts, FaultKind::Cut { from: few, to: rest });
        self.at(150, lasts, FaultKind::Cut { from: rest, to: few });
        self.at(162, 0, FaultKind::Remove { group, node: Target::Node(gone) });
        self.at(150 + lasts - 12, 400, FaultKind::Isolate { node: Target::Node(leader) });
        for moment in [100, 130, 160, 200, 240, 290] {
            self.campaign(150 + lasts + moment, gone);
        }
        self.burst(150 + lasts + 320, 3);
    }

    /// Under load nodes are asked to stop: one, or two that are to be each other's heirs, or all.
    pub(super) fn stops_in_order(&mut self) {
        let many = 1 + self.rng.below(self.nodes.len() as u64) as usize;
        for moment in [60, 75, 90] {
            self.burst(moment, 40);
        }
        for at in 0..many {
            let node = if at == 0 { self.leader() } else { Target::Node(self.node(at)) };
            let patience_us = self.election_us * (1 + self.rng.below(6)) / 2;
            let moment = 100 + self.rng.below(12);
            self.at(moment, 500, FaultKind::StopNode { node, patience_us });
        }
        self.burst(110, 20);
        self.campaign(130, self.node(0));
        self.campaign(260, self.node(1));
    }

    /// What a quorum has acknowledged is lost by one of it, which hears of its leader and of
    /// nothing else; then it is asked for its vote by somebody who never had it.
    pub(super) fn lost_promises(&mut self) {
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
        if self.rng.chance(3, 4) {
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

    pub(super) fn conflicting_snapshot(&mut self) {
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

    pub(super) fn restarted_voter(&mut self) {
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
    pub(super) fn sleep_then_crash(&mut self) {
        let leader = self.node(0);
        self.at(0, 0, FaultKind::Transfer { group: self.group, to: leader });
        self.burst(150, 2);
        let moment = 255 + self.rng.below(40);
        let crash = FaultKind::Crash { node: self.leader(), after_effects: 0, stop: Stop::Process };
        self.at(moment, 300, crash);
    }

    pub(super) fn lost_among_sleepers(&mut self) {
        let (group, leader) = (self.group, self.node(0));
        self.at(0, 0, FaultKind::Transfer { group, to: leader });
        self.burst(150, 2);
        self.at(330, 180, FaultKind::Pause { node: self.leader() });
        let node = Target::Node(self.node(1));
        self.at(370, 70, FaultKind::Damage { node, group });
    }

    /// The way to a follower is slow for a while, and so are the other disks, so that appends do
    /// not tell that what they bring is committed. An append that comes after overtakes them and
    /// shows the follower to be far behind; they arrive while it fetches the snapshot, and the
    /// leader does not hear of it.
    pub(super) fn overtaken_snapshot(&mut self) {
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
    pub(super) fn two_transfers(&mut self) {
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

    pub(super) fn drifting_lease(&mut self) {
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
