//! Disks that hang, as their nodes notice it and say so: others lead, if a majority of them can.

use std::collections::BTreeMap;

use raft_core::{GroupId, Micros, NodeId};
use raft_transport::Condition;

use super::stops::SHARED;
use super::{Cluster, Event, MS};
use crate::engine::EngineInput;

/// A call of the log that takes longer is a stall; half of it, and peers are told.
const BOUND_MS: u64 = 2000;

/// The time between two words to the peers.
const REPEAT_MS: u64 = 100;

/// All of three nodes and the two that have a group of their own.
const THREE: [u64; 3] = [1, 2, 3];

impl Cluster {
    /// The disks of some nodes hang for so long, and each finds out and tells the others.
    fn hang(&mut self, nodes: &[NodeId], ms: u64) {
        self.hung.extend(nodes);
        for lasted in (REPEAT_MS..=ms).step_by(REPEAT_MS as usize) {
            self.run_for(REPEAT_MS);
            if lasted >= BOUND_MS / 2 {
                nodes.iter().for_each(|node| self.say(*node, Condition::Ailing));
            }
            if lasted == BOUND_MS {
                self.find(nodes, Condition::Ailing);
            }
        }
        self.hung.clear();
        self.run_for(REPEAT_MS);
        self.find(nodes, Condition::Well);
        nodes.iter().for_each(|node| self.say(*node, Condition::Well));
    }

    fn find(&mut self, nodes: &[NodeId], condition: Condition) {
        for node in nodes {
            if self.node(*node).engine.is_some() {
                self.tell(*node, EngineInput::OwnCondition(condition));
            }
        }
    }

    /// A node tells the others how its log is.
    fn say(&mut self, node: NodeId, condition: Condition) {
        for other in self.ids.clone() {
            if other != node && self.node(node).engine.is_some() && !self.is_cut(node, other) {
                let heard = self.now;
                self.tell(other, EngineInput::PeerCondition(node, condition, heard));
            }
        }
    }

    /// Who leads the groups that three have.
    fn leaders(&self) -> [Option<NodeId>; 4] {
        SHARED.map(|group| self.leader_of(group))
    }

    /// How many leaderships of each group have ended so far.
    fn losses(&self) -> BTreeMap<GroupId, u64> {
        let mut losses = BTreeMap::new();
        for (group, count) in self.nodes.values().flat_map(|node| node.losses.iter()) {
            *losses.entry(*group).or_default() += count;
        }
        losses
    }

    fn busy(&mut self) {
        self.no_orders = true;
        self.clients_until = Micros::new(1_000_000 * MS);
        self.plan(10 * MS, Event::Client);
    }

    /// Nothing is asked of any group: what hangs is found by others, and all are moved.
    pub(in super::super) fn idle_groups_leave_a_hung_disk(&mut self) {
        self.calm = true;
        self.run_for(3000);
        let before = self.leaders();
        let hung = before[0].expect("somebody leads");
        let alone = GroupId::new(5);
        let of_two = self.leader_of(GroupId::new(6));
        self.hang(&[hung], BOUND_MS + 700);
        let during = self.leaders();
        for (group, leader) in SHARED.into_iter().zip(during) {
            assert!(leader.is_some_and(|leader| leader != hung), "{group}: {leader:?}");
        }
        // Others than those that had to move did not.
        for (was, is) in before.into_iter().zip(during) {
            assert!(was == Some(hung) || was == is, "{before:?} {during:?}");
        }
        assert_eq!(self.leader_of(alone), Some(NodeId::new(1)), "nobody else can lead it");
        assert_eq!(self.leader_of(GroupId::new(6)), of_two, "the other alone is no majority");
        // It is well, and is not trusted at once.
        self.run_for(30_000);
        assert_eq!(self.leaders(), during);
        self.run_for(40_000);
        assert_eq!(self.leaders(), before, "in the end each is where it belongs");
    }

    /// While most hang, the third is no better off alone.
    pub(in super::super) fn nobody_moves_where_most_disks_hang(&mut self) {
        self.calm = true;
        self.run_for(3000);
        let before = (self.leaders(), self.losses());
        for hung in [&[1, 2][..], &[1, 3], &[2, 3], &THREE] {
            let hung: Vec<NodeId> = hung.iter().copied().map(NodeId::new).collect();
            self.hang(&hung, 8000);
            assert_eq!((self.leaders(), self.losses()), before, "{hung:?} hung");
        }
    }

    /// Under load all disks hang for five seconds: whatever a leader does, there is nobody else.
    pub(in super::super) fn all_disks_hang_under_load(&mut self) {
        self.calm = true;
        self.run_for(3000);
        self.busy();
        self.run_for(2000);
        let before = self.losses();
        self.hang(&THREE.map(NodeId::new), 5000);
        self.run_for(5000);
        for (group, losses) in self.losses() {
            let changes = losses - before.get(&group).copied().unwrap_or_default();
            // It steps down. Of two that stand as the disks come back one may depose the other.
            assert!(changes <= 2, "the leader of {group} changed {changes} times");
        }
        self.finish();
    }

    /// One disk hangs again and again: nothing comes back to be moved once more.
    pub(in super::super) fn a_disk_hangs_again_and_again(&mut self) {
        self.calm = true;
        self.run_for(3000);
        self.busy();
        let hung = self.leaders()[0].expect("somebody leads");
        self.hang(&[hung], BOUND_MS + 1000);
        let before = (self.leaders(), self.losses());
        for _ in 0..8 {
            self.run_for(3000);
            self.hang(&[hung], BOUND_MS + 500);
        }
        let shared =
            |losses: BTreeMap<GroupId, u64>| SHARED.map(|group| losses.get(&group).copied());
        assert_eq!((self.leaders(), shared(self.losses())), (before.0, shared(before.1)));
        self.finish();
    }

    /// The leader dies while the disk of another hangs: the third is elected, whoever is first.
    pub(in super::super) fn who_ails_is_not_elected(&mut self) {
        self.calm = true;
        self.run_for(3000);
        let leader = self.leaders()[0].expect("somebody leads");
        let hung = self.ids.iter().copied().find(|id| *id != leader).expect("three");
        let third =
            self.ids.iter().copied().find(|id| *id != leader && *id != hung).expect("three");
        // It has not hung for long, so its vote comes in time.
        self.find(&[hung], Condition::Ailing);
        for step in 0..40 {
            self.say(hung, Condition::Ailing);
            if step == 2 {
                self.crash(leader);
            }
            self.run_for(REPEAT_MS);
            assert!(!self.leaders().contains(&Some(hung)), "{:?}", self.leaders());
        }
        assert_eq!(self.leaders(), [Some(third); 4]);
    }

    /// It said that its disk hangs, and is heard no more: that counts for a while only.
    pub(in super::super) fn a_word_of_the_dead_keeps_nobody_from_office(&mut self) {
        self.calm = true;
        self.run_for(3000);
        let [dead, ails, _] = THREE.map(NodeId::new);
        self.say(dead, Condition::Ailing);
        // Two of three ail, as far as is known.
        let before = self.leaders();
        self.find(&[ails], Condition::Ailing);
        self.run_for(500);
        assert_eq!(self.leaders(), before);
        // Its word is too old: with it there is a majority that is well.
        for _ in 0..15 {
            self.say(ails, Condition::Ailing);
            self.run_for(REPEAT_MS);
        }
        assert!(!self.leaders().contains(&Some(ails)), "{:?}", self.leaders());
    }

    fn finish(&mut self) {
        self.clients_until = self.now;
        self.run_for(5000);
        for group in self.groups.clone() {
            self.takes_a_command(&group);
        }
        self.run_for(1500);
        self.check_replicas();
        self.check_idle();
    }
}
