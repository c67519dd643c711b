//! Nodes that stop in order, and leaders that go back to where they belong.

use raft_core::{GroupId, Micros, NodeId};

use super::{Cluster, Event, MS};
use crate::engine::EngineInput;

/// Three of the nodes have a replica of each of these.
pub(super) const SHARED: [GroupId; 4] =
    [GroupId::new(1), GroupId::new(2), GroupId::new(3), GroupId::new(4)];

/// How often a node that stops looks whether it is done.
const LOOK: u64 = 5 * MS;

impl Cluster {
    /// The node hands over and goes down as soon as it is done, as `raftd` does.
    pub(super) fn ask_to_stop(&mut self, node: NodeId) {
        if self.node(node).engine.is_some() {
            self.tell(node, EngineInput::HandOver);
            let life = self.node(node).life;
            let until = Micros::new(self.now.get() + 3000 * MS);
            self.plan(LOOK, Event::Stops { node, life, until });
        }
    }

    pub(super) fn stops(&mut self, id: NodeId, life: u64, until: Micros) {
        let now = self.now;
        let node = self.node(id);
        let Some(engine) = node.engine.as_ref().filter(|_| node.life == life) else { return };
        let told = engine.stopping;
        if now >= until || told && engine.handing_over().open == 0 {
            self.crash(id);
        } else {
            self.plan(LOOK, Event::Stops { node: id, life, until });
        }
    }

    /// One node after the other is stopped, under load, and nothing that was asked is left without
    /// a certain answer.
    pub(in super::super) fn stop_each_in_turn(&mut self) {
        self.calm = true;
        self.run_for(2000);
        self.clients_until = Micros::new(60_000 * MS);
        self.plan(10 * MS, Event::Client);
        for node in self.ids.clone() {
            self.run_for(2000);
            let led = self.led_by(node);
            let unknown = self.unknown;
            self.tell(node, EngineInput::HandOver);
            self.run_until_done(node, 1000);
            assert_eq!(self.led_by(node), [], "node {node} led {led:?}");
            for group in led {
                assert!(self.leader_of(group).is_some(), "{group} has no leader yet");
            }
            assert_eq!(self.unknown, unknown, "while node {node} handed over");
            // Those that lead on do not notice it.
            self.crash(node);
            self.run_for(3000);
        }
        self.clients_until = self.now;
        self.run_for(15_000);
        let expected = SHARED.map(|group| (group, self.first_by_rank(group)));
        assert_eq!(SHARED.map(|group| (group, self.leader_of(group))), expected);
    }

    /// All are asked at once: nobody has anybody to wait for. Returns how long it took, in
    /// milliseconds.
    pub(in super::super) fn stop_all_at_once(&mut self) -> u64 {
        self.calm = true;
        self.run_for(2000);
        let began = self.now;
        for node in self.ids.clone() {
            self.tell(node, EngineInput::HandOver);
        }
        for node in self.ids.clone() {
            self.run_until_done(node, 2000);
        }
        (self.now.get() - began.get()) / MS
    }

    /// The last node is away when the groups begin.
    pub(in super::super) fn come_late(&mut self) {
        self.calm = true;
        let late = NodeId::new(3);
        self.run_for(1);
        self.cuts.insert(u64::MAX, (late, NodeId::new(1)));
        self.cuts.insert(u64::MAX - 1, (late, NodeId::new(2)));
        for link in self.network.links() {
            if link.from == late || link.to == late {
                self.link_down(link);
            }
        }
        self.run_for(5000);
        for group in SHARED {
            assert!(self.leader_of(group).is_some_and(|leader| leader != late));
        }
        self.cuts.clear();
        self.run_for(5000);
        let expected = SHARED.map(|group| (group, self.first_by_rank(group)));
        assert_eq!(SHARED.map(|group| (group, self.leader_of(group))), expected);
    }

    /// A node is up for five seconds and down for five, for a minute: once it was away, nothing is
    /// moved to it.
    pub(in super::super) fn come_and_go(&mut self) {
        self.calm = true;
        self.run_for(2000);
        let busiest = SHARED.map(|group| self.first_by_rank(group).expect("three voters"))[0];
        for _ in 0..6 {
            self.go_down(busiest);
            self.run_for(5000);
            self.start(busiest);
            self.run_for(5000);
            assert_eq!(self.led_by(busiest), []);
        }
        // And once it stays, it leads what is its share.
        self.run_for(15_000);
        let expected = SHARED.map(|group| (group, self.first_by_rank(group)));
        assert_eq!(SHARED.map(|group| (group, self.leader_of(group))), expected);
    }

    fn run_until_done(&mut self, id: NodeId, limit_ms: u64) {
        for _ in 0..limit_ms {
            self.run_for(1);
            let engine = self.node(id).engine.as_ref().expect("it was not stopped yet");
            if engine.stopping && engine.handing_over().open == 0 {
                return;
            }
        }
        let engine = self.nodes[&id].engine.as_ref();
        let open = engine.map(|engine| &engine.hand_overs);
        panic!("node {id} is not done: {open:?}, {:?}", self.statuses(GroupId::new(6)));
    }

    fn led_by(&self, node: NodeId) -> Vec<GroupId> {
        let leads = |group: &GroupId| self.nodes[&node].leads.contains_key(group);
        SHARED.into_iter().filter(leads).collect()
    }

    pub(super) fn leader_of(&self, group: GroupId) -> Option<NodeId> {
        let leads = |id: &&NodeId| self.nodes[id].leads.contains_key(&group);
        self.ids.iter().find(leads).copied()
    }

    fn first_by_rank(&self, group: GroupId) -> Option<NodeId> {
        let engine = self.nodes[&self.ids[0]].engine.as_ref()?;
        let at = *engine.by_group.get(&group)? as usize;
        let core = &engine.slots[at].core;
        core.membership().member(core.first_by_rank()?).map(|member| member.node)
    }
}
