//! Requests: clients hand them to replicas, and cores end them, each once.

use raft_core::{EntryKind, GroupId, Input, LogTime, Outcome, Refusal, Token};

use super::clients::{PATIENCE_US, TaskKind, hinted};
use super::machine::Command;
use super::network::NodeAt;
use super::replica::WaitingRead;
use super::timeline::Event;
use super::world::World;
use crate::sim::violation::{Check, Violation};

impl World {
    pub(crate) fn client_acts(&mut self, client: usize) {
        if !self.clients.active && self.clients.clients[client].task.is_none() {
            return;
        }
        let task = match self.clients.clients[client].task {
            Some(task) if task.token.is_some() => return,
            Some(task) => task,
            None => {
                let task = self.clients.begin(client, self.now);
                let gives_up = Event::ClientTimeout { client, op: task.op };
                self.queue.push(self.now + PATIENCE_US, gives_up);
                task
            }
        };
        let at = self.clients.clients[client].node;
        if !self.nodes[at].is_up() || !self.nodes[at].replicas.contains_key(&task.group) {
            self.clients.looks_elsewhere(client);
            self.queue.push(self.now + 20_000, Event::Client { client });
            return;
        }
        let token = self.token();
        self.clients.tries(client, token);
        match task.kind {
            TaskKind::Write(command) => self.propose(at, task.group, token, command),
            TaskKind::Read { path, .. } => {
                self.step(at, task.group, Input::Read { token, path }, &[]);
            }
        }
    }

    /// Those whose attempt ended go on, at once or after some thought.
    pub(super) fn wake_clients(&mut self) {
        while let Some(client) = self.clients.woken.pop() {
            let wait = match self.clients.clients[client].task {
                Some(_) => 10_000,
                None => self.clients.thinks(client),
            };
            self.queue.push(self.now + 1 + wait, Event::Client { client });
        }
    }

    pub(crate) fn propose(&mut self, at: NodeAt, group: GroupId, token: Token, command: Command) {
        let time = self.wall(at);
        let bytes = command.cost();
        self.step_with(at, group, Input::Propose { token, bytes, time }, &[], Some(command));
    }

    fn wall(&self, at: NodeAt) -> LogTime {
        let node = &self.nodes[at];
        LogTime::new(node.clock.wall_offset_ms + node.local(self.now).get() / 1000)
    }

    pub(super) fn settle_outcomes(&mut self, at: NodeAt, group: GroupId) {
        let Some(replica) = self.nodes[at].replicas.get_mut(&group) else { return };
        let outcomes = std::mem::take(&mut replica.effects.outcomes);
        for (token, outcome) in outcomes {
            let Some(replica) = self.nodes[at].replicas.get_mut(&group) else { return };
            if !replica.open.remove(&token) {
                let evidence = format!("{token:?} ended twice or was never asked: {outcome:?}");
                self.fail(Violation::of_group(Check::Outcomes, group, evidence));
                return;
            }
            let applied = replica.machine.applied;
            match outcome {
                Outcome::Committed { index, term } => {
                    let record = replica.record(index);
                    let is_command = record.is_some_and(|r| r.kind() == EntryKind::Command);
                    if is_command && index > applied {
                        replica.waiting.insert(index, (term, token));
                    } else {
                        // A membership, or a command whose place a snapshot has passed.
                        self.clients.committed(token, self.now);
                    }
                    let seen = self.checker.acknowledged(group, index, term);
                    self.check(seen);
                }
                Outcome::ReadReady { index } => {
                    replica.reads.push(WaitingRead { index, token });
                }
                Outcome::Superseded => self.clients.superseded(token),
                Outcome::Unknown => self.clients.lost(token, self.now),
                Outcome::Transferred => self.clients.committed(token, self.now),
                Outcome::Refused(refusal) => {
                    let leads = self.hinted_node(group, at, refusal);
                    self.clients.refused(token, leads, refusal);
                }
            }
        }
    }

    /// Where the replica lives that a refusal names as leader.
    fn hinted_node(&self, group: GroupId, at: NodeAt, refusal: Refusal) -> Option<NodeAt> {
        let leader = hinted(refusal)?;
        let membership = self.nodes[at].replicas.get(&group)?.core.membership();
        membership.member(leader).map(|member| self.node_at(member.node))
    }
}
