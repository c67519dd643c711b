//! Who belongs to a group changes while it works.

use std::collections::BTreeMap;

use raft_core::{GroupId, Member, MemberChange, NodeId, ReadPath, ReplicaId, Standing};

use super::{Cluster, MS, poll};
use crate::engine::EngineInput;
use crate::group_spec::GroupSpec;
use crate::node_status::{GroupStatus, Role};
use crate::request::{Removal, Request, RequestError, RequestKind, Ticket};

/// The group whose members change.
const GROUP: GroupId = GroupId::new(1);

impl Cluster {
    /// Replaces every first replica by one on another node, one after the other, under load.
    pub(in super::super) fn replace_all_replicas(&mut self) {
        self.clients_until = raft_core::Micros::new(60_000 * MS);
        self.plan(10 * MS, super::Event::Client);
        self.run_for(3000);
        for (old, new) in [(1, 4), (2, 5), (3, 6)] {
            let (old, new) = (ReplicaId::new(old), ReplicaId::new(new));
            let node = NodeId::new(new.get());
            assert!(self.create_replica(node, GroupSpec::joining(GROUP, new, node)));
            self.change(&[MemberChange::AddLearner { replica: new, node }]);
            self.change(&[MemberChange::Promote(new), MemberChange::Remove(old)]);
            let old_node = NodeId::new(old.get());
            assert_eq!(self.remove(old_node, Removal::OfAnyone), Ok(()));
            assert!(self.status(old_node).is_none());
        }
        self.clients_until = self.now;
        self.run_for(2000);
        // What a machine restored it tells with the next command.
        self.group_takes_a_command();
        self.run_for(1000);
        let members = [4, 5, 6].map(NodeId::new);
        self.check_members(&members);
        // What was removed stays so, whoever asks, whatever crashes.
        for id in [1, 2, 3] {
            let (node, replica) = (NodeId::new(id), ReplicaId::new(id));
            assert_eq!(self.nodes[&node].disk.buried()[&GROUP].1.replica, replica);
        }
    }

    /// Adds, promotes, demotes and removes at random while the weather is bad; then checks that
    /// the members agree.
    pub(in super::super) fn churn(&mut self) -> usize {
        self.clients_until = raft_core::Micros::new(self.weather.bad_ms * MS);
        self.plan(10 * MS, super::Event::Client);
        self.plan(300 * MS, super::Event::Chaos);
        let mut next_replica = 4;
        let mut changed = 0;
        while self.now < self.clients_until {
            let pause = self.rng.below(200);
            self.run_for(pause);
            changed += usize::from(self.churn_once(&mut next_replica));
        }
        self.heal();
        self.run_for(6000);
        self.group_takes_a_command();
        self.run_for(3000);
        let leader = self.leading().expect("the group took a command");
        let members = leader.members;
        assert!(members.iter().all(|member| member.standing != Standing::Outgoing));
        let nodes: Vec<NodeId> = members.iter().map(|member| member.node).collect();
        self.check_members(&nodes);
        changed
    }

    /// One random step; whether it was a change that was carried out.
    fn churn_once(&mut self, next_replica: &mut u64) -> bool {
        let Some(leader) = self.leading() else { return false };
        let members = leader.members;
        let at = self.rng.below(self.ids.len() as u64) as usize;
        let node = self.ids[at];
        if self.nodes[&node].engine.is_none() {
            return false;
        }
        let is_member = |member: &&Member| member.node == node;
        let change = match members.iter().find(is_member) {
            None if self.status(node).is_some() => {
                // Its group removed it, or it was never added.
                let removal = match self.rng.below(2) {
                    0 => Removal::OfFormerMember,
                    _ => Removal::OfAnyone,
                };
                let _ = self.remove(node, removal);
                return false;
            }
            None => {
                let replica = ReplicaId::new(*next_replica);
                *next_replica += 1;
                if !self.create_replica(node, GroupSpec::joining(GROUP, replica, node)) {
                    return false;
                }
                MemberChange::AddLearner { replica, node }
            }
            Some(Member { replica, standing: Standing::Learner, .. }) => match self.rng.below(3) {
                0 => MemberChange::Remove(*replica),
                _ => MemberChange::Promote(*replica),
            },
            Some(Member { replica, .. }) => {
                let voters = members.iter().filter(|m| m.standing == Standing::Voter).count();
                if voters <= 2 {
                    return false;
                }
                match self.rng.below(2) {
                    0 => MemberChange::Remove(*replica),
                    _ => MemberChange::Demote(*replica),
                }
            }
        };
        self.try_change(&[change]) == Some(Ok(()))
    }

    /// Whether it is on disk: only then may the group be told of it.
    fn create_replica(&mut self, node: NodeId, spec: GroupSpec) -> bool {
        self.node(node).journals.insert(GROUP, super::super::journal::Journal::default());
        self.create(node, spec, None);
        let life = self.nodes[&node].life;
        for _ in 0..200 {
            self.run_for(10);
            if self.nodes[&node].disk.holds(GROUP) || self.nodes[&node].life != life {
                break;
            }
        }
        self.nodes[&node].disk.holds(GROUP)
    }

    fn status(&self, node: NodeId) -> Option<GroupStatus> {
        let engine = self.nodes[&node].engine.as_ref()?;
        engine.statuses().into_iter().find(|status| status.group == GROUP)
    }

    /// The leader of the newest term.
    fn leading(&self) -> Option<GroupStatus> {
        let statuses = self.ids.iter().filter_map(|id| self.status(*id));
        statuses.filter(|s| s.role == Role::Leader).max_by_key(|status| status.term)
    }

    fn leading_node(&self) -> Option<NodeId> {
        let term = self.leading()?.term;
        let leads = |status: GroupStatus| status.role == Role::Leader && status.term == term;
        self.ids.iter().copied().find(|id| self.status(*id).is_some_and(leads))
    }

    /// Asks whoever leads until the change is made.
    fn change(&mut self, changes: &[MemberChange]) {
        for _ in 0..100 {
            match self.try_change(changes) {
                Some(Ok(())) => return,
                // It may have been made all the same.
                Some(Err(RequestError::InvalidChange(_) | RequestError::NodeTaken { .. })) => {
                    panic!("{changes:?} makes no sense now: {:?}", self.leading());
                }
                Some(Err(_)) | None => self.run_for(50),
            }
        }
        panic!("{changes:?} was never made: {:?}", self.statuses(GROUP));
    }

    fn try_change(&mut self, changes: &[MemberChange]) -> Option<Result<(), RequestError>> {
        let leader = self.leading_node()?;
        let (request, ticket) =
            Request::new(GROUP, RequestKind::Read(ReadPath::Quorum, bytes::Bytes::new()));
        let input = EngineInput::ChangeMembers(GROUP, changes.to_vec(), request.reply);
        self.answer_to(leader, input, ticket)
    }

    fn remove(&mut self, node: NodeId, removal: Removal) -> Result<(), RequestError> {
        let (request, ticket) =
            Request::new(GROUP, RequestKind::Read(ReadPath::Quorum, bytes::Bytes::new()));
        let input = EngineInput::Remove(GROUP, removal, request.reply);
        // What a replica owes when it leaves is unknown, as if it lost leadership.
        *self.node(node).losses.entry(GROUP).or_default() += 1;
        self.answer_to(node, input, ticket).unwrap_or(Err(RequestError::Unknown))
    }

    /// Lets the cluster live until the answer is there, for three seconds at most.
    fn answer_to(
        &mut self,
        node: NodeId,
        input: EngineInput,
        mut ticket: Ticket<()>,
    ) -> Option<Result<(), RequestError>> {
        self.nodes[&node].engine.as_ref()?;
        self.tell(node, input);
        for _ in 0..300 {
            self.run_for(10);
            if let Some(answer) = poll(&mut ticket) {
                return Some(answer);
            }
        }
        None
    }

    fn group_takes_a_command(&mut self) {
        for _ in 0..200 {
            let before = self.succeeded;
            if let Some(leader) = self.leading_node() {
                self.ask_propose(leader, GROUP);
            }
            self.run_for(50);
            if self.succeeded > before {
                return;
            }
        }
        panic!("the group is stuck: {:?}", self.statuses(GROUP));
    }

    /// All members hold the same, and all that was acknowledged.
    fn check_members(&mut self, nodes: &[NodeId]) {
        assert!(self.pending.iter().all(|pending| pending.group != GROUP));
        let applied: BTreeMap<NodeId, _> =
            nodes.iter().map(|node| (*node, self.nodes[node].journals[&GROUP].look())).collect();
        let commands = &applied[&nodes[0]].commands;
        for (node, other) in &applied {
            assert_eq!(&other.commands, commands, "node {node}: {:?}", self.statuses(GROUP));
        }
        for (command, (_, place)) in self.acknowledged.iter().filter(|(_, (of, _))| *of == GROUP) {
            let there = commands.get(*place as usize - 1);
            assert_eq!(there, Some(command), "acknowledged at place {place}");
        }
        let denied = commands.iter().find(|command| self.denied.contains(command));
        assert_eq!(denied, None, "said never to have happened");
    }
}
